/* optim.h - the optimiser of one run: AdamW over the flat parameters of an adapter, with its state on the device.
 *
 * QL_OPTIM_ADAMW       m and v in fp32 (numerics.md §6.1), parts "exp_avg" and "exp_avg_sq", F32 [n].
 * QL_OPTIM_ADAMW_8BIT  blocks of 256 per tensor (bitsandbytes' AdamW8bit, numerics.md §6.4): codes U8 [n] under the same
 *                      names, "exp_avg_absmax" and "exp_avg_sq_absmax" F32 [blocks]; tensors of fewer than 4096 elements stay
 *                      fp32 in "exp_avg_small" and "exp_avg_sq_small".
 * Paged keeps m and v where alloc_paged puts them; the numbers are the same bits.
 * Parameters [0, n_first) and [n_first, n) have rates of their own (LoRA+: A and B).  All calls inside the model's gate. */
#ifndef QL_TRAIN_OPTIM_H
#define QL_TRAIN_OPTIM_H

#include <stdbool.h>

#include "core/model/lora.h"

enum ql_optim_kind { QL_OPTIM_ADAMW, QL_OPTIM_ADAMW_8BIT };

#define QL_OPTIM_PARTS 6
#define QL_OPTIM_8BIT_FROM 4096 /* elements of a tensor */

struct ql_optim_part { /* one array of the state; the order is the file's */
	const char *name;
	enum ql_dtype dtype; /* F32 or U8 */
	uint64_t count;
	void *data; /* device */
};

struct ql_optim {
	struct ql_device *dev;
	enum ql_optim_kind kind;
	bool paged;
	uint64_t n, n_first;
	uint32_t n_parts;
	struct ql_optim_part part[QL_OPTIM_PARTS];
	struct ql_adam8_block *blocks; /* device, 8-bit only */
	float *maps;		       /* device, 8-bit only */
	uint32_t n_blocks, n_blocks_first;
};

/* The tensors lie one after the other; the first n_tensors_first of them make up [0, n_first).  State is zeroed.  On failure
 * *out is NULL.  QL_ENODEVMEM, QL_ENOMEM. */
int ql_optim_new(struct ql_optim **out, struct ql_device *d, struct ql_queue *q, enum ql_optim_kind kind, bool paged,
		 const uint64_t *tensors, uint32_t n_tensors, uint32_t n_tensors_first, struct ql_err *e);
/* For an adapter: its A's, then its B's, in the order of lora.h. */
int ql_optim_for_lora(struct ql_optim **out, const struct ql_lora_set *lora, enum ql_optim_kind kind, bool paged, struct ql_err *e);
void ql_optim_free(struct ql_optim *o); /* accepts NULL */

struct ql_optim_rule {
	double lr_first, lr_rest, weight_decay, beta1, beta2, eps;
	uint64_t t;	  /* 1, 2, … */
	float grad_scale; /* of clipping */
};
int ql_optim_step(struct ql_optim *o, struct ql_queue *q, float *params, const float *grads, const struct ql_optim_rule *r,
		  struct ql_err *e);

/* The largest |m|/√v that t gradients can make of zeroed moments: by Cauchy and Schwarz |Σ (1-β1)·β1^i·g_i| ≤
 * bound·√(Σ (1-β2)·β2^i·g_i²) with bound² = (1-β1)²/(1-β2)·Σ (β1²/β2)^i, i < t; 7.27 for 0.9, 0.999 and many steps.  ∞ where β2
 * is 0. */
double ql_optim_bound(double beta1, double beta2, uint64_t t);

/* min(1, max_norm/(norm + 1e-6)), 1 when max_norm is 0 (torch clip_grad_norm_; numerics.md §6.2). */
double ql_clip_coef(double norm, double max_norm);

uint64_t ql_optim_part_bytes(const struct ql_optim_part *p);
/* Bytes of all parts: what a snapshot holds, the parts one after the other. */
uint64_t ql_optim_bytes(const struct ql_optim *o);
/* Bytes one tensor's moments take on the device (for planning; 0 for paged states on a GPU). */
uint64_t ql_optim_tensor_bytes(enum ql_optim_kind kind, uint64_t elements);
/* On the host after the next sync. */
int ql_optim_download(const struct ql_optim *o, struct ql_queue *q, void *host, struct ql_err *e);

#endif
