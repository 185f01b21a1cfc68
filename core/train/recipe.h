/* recipe.h - how a job trains, with every choice resolved; the names and meanings of the HTTP API's `qlora` object. */
#ifndef QL_TRAIN_RECIPE_H
#define QL_TRAIN_RECIPE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/train/optim.h"

enum ql_schedule { QL_SCHED_CONSTANT, QL_SCHED_CONSTANT_WARMUP, QL_SCHED_LINEAR, QL_SCHED_COSINE };

struct ql_recipe {
	uint32_t n_epochs, batch_size;		  /* batch_size: examples in one optimiser step */
	uint32_t micro_batch_size, grad_accum; /* 0 = chosen from memory */
	double learning_rate;
	uint64_t seed;
	uint32_t rank;
	double alpha, dropout;
	uint32_t modules; /* mask of enum ql_module */
	bool rslora, gaussian_init;
	const json_t *rank_pattern, *alpha_pattern; /* PEFT's: patterns of module names → values; NULL = none; borrowed */
	double neftune; /* NEFTune's alpha, 0 = off */
	double loraplus_ratio;
	enum ql_schedule schedule;
	double min_lr_ratio, warmup_ratio;
	int64_t warmup_steps; /* -1: from warmup_ratio */
	enum ql_optim_kind optimizer;
	bool paged; /* moments in host memory */
	double beta1, beta2, eps, weight_decay, max_grad_norm;
	uint32_t max_seq_length;
	int on_overlong; /* enum ql_overlong */
	int train_on;    /* enum ql_train_on */
	bool packing, completion_only_loss, alpaca_template;
	uint64_t max_steps, save_steps, eval_steps; /* 0 = off */
	uint32_t save_total_limit, logging_steps;   /* logging_steps 0 = max(1, total/1000) */
	uint32_t patience; /* evaluations without a better validation loss until the run ends; 0 = never */
	double min_delta;  /* what counts as better */
	const char *chat_template;		    /* NULL = the base's; borrowed from the JSON object */
};

/* Reads a recipe object; absent keys get the API's defaults.  n_epochs and batch_size may be the string "auto" only with
 * allow_auto (then 0).  QL_EINVAL with the key. */
int ql_recipe_parse(struct ql_recipe *r, const json_t *obj, bool allow_auto, struct ql_err *e);

/* Settles micro_batch_size where only its partners say it: batch_size / gradient_accumulation_steps, or 1 without packing (each
 * sequence in a pass of its own); 0 stays "as many tokens as fit". */
void ql_recipe_split(struct ql_recipe *r);

/* Rank and alpha of every site (index layer·QL_MODULES + module), patterns applied by PEFT's rule: the first key K for which
 * ^(.*\.)?(K)$ matches the module's name; rank 0 where the recipe adapts nothing.  QL_EINVAL with param rank_pattern or
 * alpha_pattern: a key that is no pattern, or that decides nothing. */
struct ql_arch;
int ql_recipe_sites(const struct ql_recipe *r, const struct ql_arch *a, uint32_t *rank, double *alpha, struct ql_err *e);

/* Learning-rate factor of the 0-based step k of T with W warm-up steps (transformers optimization.py; numerics.md §6.3). */
double ql_schedule_factor(enum ql_schedule s, uint64_t k, uint64_t T, uint64_t W, double min_ratio);
uint64_t ql_recipe_warmup(const struct ql_recipe *r, uint64_t total_steps);

#endif
