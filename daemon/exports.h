/* exports.h - PEFT directories, LoRA GGUF and merged models, made by the engine under STATE/exports/<id>/.  api.md §12. */
#ifndef QL_DAEMON_EXPORTS_H
#define QL_DAEMON_EXPORTS_H

#include "daemon/control.h"

/* Body checks by table; 200 with status queued; 429 queue_full above QL_EXPORTS_WAITING_MAX; 503 no_space. */
int ql_export_create(struct ql_control *ctl, const struct ql_who *who, const json_t *body, const struct ql_idem *idem,
		     struct ql_reply *reply, struct ql_fault *f);
int ql_export_list(struct ql_control *ctl, const struct ql_who *who, const struct ql_page *page, json_t **out, struct ql_fault *f);
/* 404, param id, code null, `No such Export object: export-X`. */
int ql_export_get(struct ql_control *ctl, const struct ql_who *who, const char *id, json_t **out, struct ql_fault *f);
/* Cancels a waiting or running export, removes a finished one; {id, object:"export", deleted:true}. */
int ql_export_delete(struct ql_control *ctl, const struct ql_who *who, const char *id, json_t **out, struct ql_fault *f);
/* Opens a listed file of a succeeded export (file NULL: the only one, 400 if there are several).  name is the file's name for
 * Content-Disposition, sha256 the hex hash for ETag.  *fd is the caller's to close. */
int ql_export_file(struct ql_control *ctl, const struct ql_who *who, const char *id, const char *file, int *fd, uint64_t *size,
		   char sha256[65], char name[160], struct ql_fault *f);

#endif
