/* models.h - names: the base, its aliases, finished adapters and kept checkpoints.  api.md §7.3, §11. */
#ifndef QL_DAEMON_MODELS_H
#define QL_DAEMON_MODELS_H

#include "daemon/control.h"

struct ql_model_ref {
	bool base;                          /* no adapter */
	char name[QL_MODEL_NAME_SIZE];      /* canonical name (aliases resolved) */
	char dir[160];                      /* adapter: directory below the state directory */
	int64_t generation;                 /* adapter: for infer and export frames */
	char job[QL_ID_SIZE];               /* job that made it, "" for the base and for imported adapters */
	char project[QL_PROJECT_SIZE];      /* of a finished or imported model */
	int64_t step;                       /* checkpoint's step, -1 for a finished model */
};

/* 404 model_not_found, param model, for unknown and foreign names alike. */
int ql_model_resolve(struct ql_control *ctl, const struct ql_who *who, const char *name, struct ql_model_ref *out, struct ql_fault *f);
/* The `adapter` value of infer and export frames: null or {name, dir, generation}.  New reference. */
json_t *ql_model_adapter(const struct ql_model_ref *m);

int ql_model_list(struct ql_control *ctl, const struct ql_who *who, json_t **out, struct ql_fault *f);
int ql_model_get(struct ql_control *ctl, const struct ql_who *who, const char *name, json_t **out, struct ql_fault *f);
/* Base: 400; fine-tuned model or checkpoint: row gone and committed, then files.  400 invalid_state while a live job starts from it. */
int ql_model_delete(struct ql_control *ctl, const struct ql_who *who, const char *name, json_t **out, struct ql_fault *f);
/* GET /v1/adapters and GET /lora-adapters. */
int ql_adapter_list(struct ql_control *ctl, const struct ql_who *who, json_t **out, struct ql_fault *f);
int ql_adapter_list_llama(struct ql_control *ctl, const struct ql_who *who, json_t **out, struct ql_fault *f);
/* `lora` field: the id of /lora-adapters → model.  QL_ENOTFOUND 400 otherwise. */
int ql_adapter_by_id(struct ql_control *ctl, const struct ql_who *who, int64_t id, struct ql_model_ref *out, struct ql_fault *f);

#endif
