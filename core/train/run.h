/* run.h - the state of one training run, shared by trainer.c (setting up, steps, checkpoints, the loop) and evaluate.c (validation, early
 * stopping, records); private to the room. */
#ifndef QL_TRAIN_RUN_H
#define QL_TRAIN_RUN_H

#include "core/train/trainer.h"

struct run {
	const struct ql_train_job *job;
	struct ql_model *m;
	struct ql_lora_set *lora;
	struct ql_optim *optim;
	struct ql_pass *pass;
	struct ql_plan plan, valid_plan;
	struct ql_step_batches batches;
	struct ql_train_state st;
	uint64_t total_steps, warmup;
	uint32_t logging_steps;
	float *nll;
	struct ql_snapshot snap;
	int32_t *argmax;
	double last_snapshot, seconds_sum;
	uint64_t steps_timed, last_checkpoint;
	uint32_t dense_layers; /* held */
};

/* What the caller asks for now. */
static inline enum ql_train_stop ql_run_asked_to_stop(const struct run *r) { return r->job->events.stop(r->job->events.ctx); }

/* Adds Σ NLL in fp64 and correct predictions of one micro-batch. */
void ql_run_tally(const struct run *r, const struct ql_batch *b, double *nll, uint64_t *correct);
/* After a step: what validation is due, into t; QL_ECANCELLED. */
int ql_run_validate(struct run *r, struct ql_train_metrics *t, struct ql_err *e);
/* Has early stopping's patience run out? */
bool ql_run_is_stale(const struct run *r);
/* The step's line of the CSV, and its metrics as the last ones. */
int ql_run_record(struct run *r, const struct ql_train_metrics *t, struct ql_err *e);

#endif
