/* plan.h - which examples make up which optimiser step, and how a step is cut into micro-batches.
 *
 * Epoch ep visits the examples in the order of ql_permutation(seed, ep); step k of the epoch takes the next batch_size of
 * them (the last step of an epoch may be shorter and is a step of its own).  A step's examples are packed end to end into
 * micro-batches of at most max_tokens tokens (or of micro_batch_size examples); no padding exists, sequences are isolated.
 * Everything follows from (seed, epoch, index): nothing needs to be stored for a resume. */
#ifndef QL_TRAIN_PLAN_H
#define QL_TRAIN_PLAN_H

#include "core/model/pass.h"
#include "core/text/data/dataset.h"

struct ql_plan {
	const struct ql_dataset *data;
	uint64_t seed;
	uint32_t batch_size, micro_batch_size; /* micro 0: by tokens alone */
	uint32_t max_tokens;
	uint64_t steps_per_epoch;
	uint32_t *order; /* permutation of the loaded epoch, [count] */
	uint32_t epoch;  /* loaded, UINT32_MAX = none */
};

int ql_plan_init(struct ql_plan *p, const struct ql_dataset *data, uint64_t seed, uint32_t batch_size,
		 uint32_t micro_batch_size, uint32_t max_tokens, struct ql_err *e);
void ql_plan_free(struct ql_plan *p);

/* One optimiser step as micro-batches.  Zero-initialise; reuse; free at the end. */
struct ql_step_batches {
	struct ql_batch *micro;
	uint64_t *token_base; /* tokens of the step before each micro-batch */
	uint32_t n_micro, cap;
	uint64_t n_tokens, n_targets;
	int32_t *ints; /* what the batches point into */
	size_t ints_cap;
};
/* 0-based global step → its batches.  QL_ELIMIT if one example (or micro_batch_size of them) exceeds max_tokens. */
int ql_plan_step(struct ql_plan *p, uint64_t step, struct ql_step_batches *out, struct ql_err *e);
/* The examples [begin, begin + n) in file order, for evaluation. */
int ql_plan_range(struct ql_plan *p, size_t begin, size_t n, struct ql_step_batches *out, struct ql_err *e);
void ql_step_batches_free(struct ql_step_batches *b);

#endif
