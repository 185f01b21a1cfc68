/* trainer.h - one fine-tuning run: from a dataset and a recipe to an adapter.
 *
 * loss of a step = Σ NLL / N, N = target tokens of the whole optimiser step (all micro-batches), sums in fp64; gradients are
 * scaled by 1/N before they are summed, clipped by their global norm, then AdamW (numerics.md §5, §6).  The run holds
 * the model's gate while it works and yields it between ops.  A run stopped and resumed from its last checkpoint ends with
 * the same bits as one never stopped. */
#ifndef QL_TRAIN_TRAINER_H
#define QL_TRAIN_TRAINER_H

#include "core/train/checkpoint.h"
#include "core/train/plan.h"
#include "core/train/recipe.h"

enum ql_train_stop { QL_TRAIN_GO, QL_TRAIN_PAUSE /* snapshot, then stop */, QL_TRAIN_CANCEL /* stop at once */ };

struct ql_train_metrics {
	uint64_t step, total_steps; /* 1-based step just done */
	double epoch, loss, accuracy, learning_rate, grad_norm;
	uint64_t tokens, targets; /* of this step */
	bool has_valid, has_full_valid;
	double valid_loss, valid_accuracy, full_valid_loss, full_valid_accuracy;
	double seconds, tokens_per_second, eta_seconds;
	bool log; /* due for an event by logging_steps */
};

struct ql_memory_plan;

struct ql_train_events { /* all called on the trainer's thread, outside the gate or inside; they must not call the device */
	void *ctx;
	void (*planned)(void *ctx, const struct ql_memory_plan *p); /* before the first step; may be NULL */
	void (*started)(void *ctx, uint64_t step, uint64_t total_steps, uint64_t tokens_per_epoch, const struct ql_recipe *r,
			uint64_t warmup, uint32_t logging_steps);
	void (*phase)(void *ctx, const char *phase);
	void (*step)(void *ctx, const struct ql_train_metrics *m);
	void (*checkpoint)(void *ctx, uint64_t step, const struct ql_manifest *m, bool user, const json_t *metrics);
	enum ql_train_stop (*stop)(void *ctx);
};

/* How a run may use device memory; all zero: whatever is free, as memory.c decides. */
struct ql_memory_wish {
	/* AUTO: as few layers as fit; ON: every layer.  Where that is too much still, inputs of layers go to the host, as many as it
	 * takes; OFFLOAD: all of them, the least device memory. */
	enum { QL_RECOMPUTE_AUTO, QL_RECOMPUTE_OFF, QL_RECOMPUTE_ON, QL_RECOMPUTE_OFFLOAD } recompute;
	enum { QL_DENSE_AS_FITS, QL_DENSE_NEVER } dense;			  /* dense copies of 4-bit weights */
	uint64_t limit;		 /* of all allocations on the device together, bytes; 0 = none */
	uint64_t also_available; /* in use now, but not to be counted: the run's own state, jobs that will have ended */
};

struct ql_train_job {
	struct ql_model *model;
	struct ql_recipe recipe;
	const struct ql_dataset *data, *valid; /* valid may be NULL */
	const json_t *identity;		       /* hashes that a resume must find equal */
	const char *base_name;		       /* for adapter_config.json */
	int dir;			       /* the job's directory, for checkpoints; -1: none are written (measurements) */
	const char *resume;		       /* "step-<n>" or NULL */
	const struct ql_adapter_file *init;    /* continued training: start from these weights, or NULL */
	double snapshot_seconds;
	struct ql_memory_wish memory;
	struct ql_train_events events;
};

struct ql_train_result {
	bool stopped;	   /* pause or cancel; else the run is complete */
	bool early;	   /* complete before its last step: the validation loss stopped improving */
	uint64_t step;
	uint64_t trained_tokens; /* target tokens seen over all steps */
	char final_dir[64];	 /* the last checkpoint, "step-<n>", when complete */
};

/* QL_ENONFINITE: loss or gradient norm, with the step in the message; nothing of that step was applied.  QL_ENODEVMEM: needed
 * and available bytes in the message.  QL_EMISMATCH: resume refused. */
int ql_train_run(const struct ql_train_job *job, struct ql_train_result *out, struct ql_err *e);

/* Memory the run would take beside the base, for the plan chosen now; QL_ENODEVMEM, with the bytes needed at the least, if none
 * fits.  wish may be NULL. */
struct ql_memory_plan {
	uint32_t max_tokens;
	struct ql_keep_mix keep;
	uint32_t dense_layers; /* layers with dense copies of their weights */
	uint64_t state_bytes, pass_bytes, dense_bytes; /* adapter and optimiser; activations; dense copies */
	uint64_t host_bytes;	       /* pinned memory of the host for inputs of layers; on the CPU a part of bytes, on a GPU beside them */
	uint64_t bytes, available; /* the sum; what it had to fit */
};
int ql_train_plan_memory(struct ql_model *m, const struct ql_recipe *r, uint32_t longest, uint32_t fixed_max_tokens,
			 const struct ql_memory_wish *wish, struct ql_memory_plan *out, struct ql_err *e);

#endif
