/* adapter_import.h - adapters trained elsewhere: an uploaded file becomes a model of this daemon.  api.md §11.
 *
 * The engine checks the file and writes adapters/import-…; then the row is committed.  What no row names is swept at the next
 * start.  A model made this way has no job; `shape` in its row is what a job that goes on from it takes over. */
#ifndef QL_DAEMON_ADAPTER_IMPORT_H
#define QL_DAEMON_ADAPTER_IMPORT_H

#include "daemon/control.h"

struct ql_import;

/* f NULL: the adapter is there.  Called once, on the loop, unless ql_import_forget came first. */
typedef void ql_import_cb(void *user, const struct ql_fault *f);

/* A repeat (api.md §15.1) of an import that is there: *replayed is set, no callback comes.  name: [A-Za-z0-9][A-Za-z0-9._-]{0,127}, not a base's or another model's (replace: an imported one may be replaced); file: id of an
 * uploaded file of the project.  QL_OK: cb will be called; else *f is filled: 400 lora_name or lora_path, 404 (file), 429, 503. */
int ql_adapter_import(struct ql_control *ctl, const struct ql_who *who, const char *name, const char *file, bool replace,
		      const struct ql_idem *idem, bool *replayed, ql_import_cb *cb, void *user, struct ql_import **out, struct ql_fault *f);
void ql_import_forget(struct ql_import *x); /* the client went away: the import goes on */

/* Removes an imported adapter; 400 for fine-tuned models, 404 as for any unknown model. */
int ql_adapter_remove(struct ql_control *ctl, const struct ql_who *who, const char *name, struct ql_fault *f);

#endif
