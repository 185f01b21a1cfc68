/* checkpoint.h - a training state on disk.  Owner of the format; every part is an ordinary file others can read.
 *
 *   step-<n>/adapter_config.json, adapter_model.safetensors   a PEFT adapter, A and B in fp32
 *            optimizer.safetensors                            the parts of optim.h, in the order of lora.h
 *            trainer.json                                     {format, step, max_tokens, tokens, targets, best?, stale?, last:{…metrics},
 *                                                             identity:{…}}
 *            step_metrics.csv                                 one line for each step so far (api.md 7.2)
 *            MANIFEST.json                                    {"files":[{"name","bytes","sha256"},…]}, written last
 *
 * Written into step-<n>.tmp, each file synced, the directory synced, renamed, its parent synced.  A reader checks the
 * manifest's digest where it knows it, then every file's length and digest, then parses with the limits of foreign files.
 * No generator state is kept: every random number is a function of (seed, purpose, step, place).  `identity` holds the
 * hashes of all that must be equal for the resumed run to be the interrupted one; a difference is QL_EMISMATCH naming it. */
#ifndef QL_TRAIN_CHECKPOINT_H
#define QL_TRAIN_CHECKPOINT_H

#include <jansson.h>

#include "core/base/buf.h"
#include "core/train/optim.h"

#define QL_CHECKPOINT_FORMAT 1

struct ql_train_state {
	uint64_t step;	     /* optimiser steps done; also t of AdamW */
	uint64_t max_tokens; /* micro-batch bound the numbers were made with */
	uint64_t tokens, targets;
	bool has_best;	     /* early stopping: best validation loss, and evaluations since that were no better */
	double best;
	uint64_t stale;
	json_t *last;	     /* metrics of the last step or NULL */
	struct ql_buf csv;
};

struct ql_manifest {
	char sha256[65]; /* of MANIFEST.json */
	uint64_t bytes;	 /* of all files */
};

/* What a checkpoint holds of the device, on the host: taken inside the gate, written outside it. */
struct ql_snapshot {
	float *params;	 /* [n_params], the caller's memory */
	void *optimizer; /* [ql_optim_bytes], the caller's memory */
};
int ql_snapshot_take(const struct ql_lora_set *lora, const struct ql_optim *o, struct ql_snapshot *s, struct ql_err *e);
/* Writes dir/step-<n>; no device call. */
int ql_checkpoint_write(int dir, const struct ql_lora_set *lora, const struct ql_optim *o, const struct ql_snapshot *snap,
			const struct ql_train_state *st, const json_t *identity, const char *base_name, struct ql_manifest *out, struct ql_err *e);

/* Reads dir/name into a new trainable adapter and a new optimiser of that kind.  On failure nothing is left to free. */
int ql_checkpoint_read(int dir, const char *name, struct ql_model *m, const json_t *identity, enum ql_optim_kind kind, bool paged,
		       struct ql_lora_set **lora, struct ql_optim **optim, struct ql_train_state *st, struct ql_err *e);

/* Writes MANIFEST.json for the listed files of an open directory; and checks a directory against its manifest, which must name all of
 * `names` (QL_EFORMAT naming the file).  expect_sha256, the manifest's own digest, may be NULL.  Lists end with NULL. */
int ql_manifest_write(int dirfd, const char *const *names, struct ql_manifest *out, struct ql_err *e);
int ql_manifest_check(int dirfd, const char *expect_sha256, const char *const *names, struct ql_err *e);

void ql_train_state_free(struct ql_train_state *st);

#endif
