/* models_internal.h - names of fine-tuned models, for the job room. */
#ifndef QL_DAEMON_MODELS_INTERNAL_H
#define QL_DAEMON_MODELS_INTERNAL_H

#include "daemon/models.h"

/* ft:{base}:{organization}:{suffix}:{8 random of [0-9A-Za-z]}, and the same with :ckpt-step-{N}. */
void ql_model_make_name(const char *base, const char *suffix, char out[QL_MODEL_NAME_SIZE]);
void ql_model_make_checkpoint_name(const char *base, const char *suffix, int64_t step, char out[QL_MODEL_NAME_SIZE]);
/* Id of the base from its path: last component without .gguf, with characters outside the name's alphabet as '-'. */
void ql_model_base_name(const char *path, char out[QL_MODEL_NAME_SIZE]);
/* True if name is the base or one of its aliases. */
bool ql_model_is_base(const struct ql_control *ctl, const char *name);
/* 400 invalid_state while a live job or export needs the model. */
int ql_model_unused(struct ql_control *ctl, const struct ql_model_ref *m, struct ql_fault *f);
/* 429 queue_full when there are QL_ADAPTERS_MAX adapters. */
int ql_model_room(struct ql_control *ctl, struct ql_fault *f);
/* Tells the engine that the adapter is gone (adapter_drop). */
void ql_model_forget(struct ql_control *ctl, const char *name);
/* Inserts the row of a finished model, within the caller's transaction. */
struct ql_job;
int ql_model_insert(struct ql_control *ctl, const struct ql_job *j, const char *dir, const char *manifest_sha256, int64_t bytes,
		    const char *base_sha256, struct ql_err *e);

#endif
