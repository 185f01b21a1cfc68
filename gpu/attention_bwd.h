/* attention_bwd.h - arguments shared by the implementations of the attention gradient. */
#ifndef QL_GPU_ATTENTION_BWD_H
#define QL_GPU_ATTENTION_BWD_H

#include "gpu/attention.h"

struct bwd_args {
	const bf16 *q, *k, *v, *o, *d_o;
	bf16 *dq, *dk, *dv;
	const float *lse;
	float *D; /* [n_head, T] */
	size_t ldq, ldk, ldv, ldo, lddo, lddq, lddk, lddv;
	uint32_t T, n_head, n_kv, head_dim, n_seqs, window, tiles;
	float scale, softcap;
	const int32_t *cu;
};

/* attention_bwd90.cu: compute capability 9.0, head sizes 64 and 128, aligned rows; D is filled */
int cu_attention_bwd90(struct ql_device *d, struct ql_queue *q, const struct bwd_args *a, uint32_t tiles128, struct ql_err *e);
cudaError_t cu_attention_bwd90_setup(void);
/* attention_bwd_plain.cu: what the fast kernels do not take; D is filled */
int cu_attention_bwd_plain(struct ql_device *d, struct ql_queue *q, const struct bwd_args *a, struct ql_err *e);

#endif
