/* peft_whole.h - the pairs of an adapter as files hold them, for architectures whose files fuse modules (q|k|v, gate|up).
 *
 * We keep a pair (A_p, B_p) for each part.  On the fused weight the same thing is one pair of rank R = Σ r_p:
 *	A = [A_q; A_k; A_v],   B = block diagonal (B_q, B_k, B_v),
 * with zero rows where a part has no adapter; exactly equal, since each part's rows of B meet only its own rows of A.  Its scale
 * is that of the first part present; B_p is multiplied by the ratio where another's differs.
 * The other way: any pair (A, B) on the fused weight is the pair (A, rows of B) on each part, all of rank R; where the parts'
 * ranks are known (PEFT files of ours note them) and everything off the diagonal is zero, the parts get their own again. */
#ifndef QL_FORMATS_PEFT_WHOLE_H
#define QL_FORMATS_PEFT_WHOLE_H

#include "core/formats/peft.h"

#define QL_ADAPTER_PARTS_MAX 3

struct ql_adapter_whole {
	struct ql_arch_tensor tensor; /* of the first part: file_hf, file_gguf, file_rows, cols */
	const float *a, *b;	      /* [rank, cols], [file_rows, rank] */
	uint32_t rank;
	double alpha;
	uint32_t parts, ranks[QL_ADAPTER_PARTS_MAX]; /* 0 = no adapter on that part */
};

struct ql_adapter_wholes {
	struct ql_adapter_whole *v; /* in the order of ql_arch_tensor_at */
	size_t n;
	float *storage; /* of the fused ones; the others borrow from the adapter */
};

/* QL_EINVAL if the adapter has no pair.  Free it after use, also on failure. */
int ql_adapter_wholes_make(struct ql_adapter_wholes *w, const struct ql_adapter_file *f, const struct ql_arch *arch,
			   struct ql_err *e);
void ql_adapter_wholes_free(struct ql_adapter_wholes *w);

/* Path of a file's module in PEFT's names: "model.layers.0.self_attn.qkv_proj"; out holds QL_PEFT_MODULE_MAX bytes. */
void ql_adapter_file_path(const struct ql_arch *arch, uint32_t layer, int module, char *out);

/* Ranks of the parts from a note ("8,0,8"); false if it does not say parts ranks that sum up to rank. */
bool ql_adapter_ranks_of(const char *note, uint32_t parts, uint32_t rank, uint32_t out[QL_ADAPTER_PARTS_MAX]);
/* Are the values of B [rows, rank] outside the blocks zero?  rows_of: rows of each part. */
bool ql_adapter_is_blocks(const float *b, uint32_t rank, uint32_t parts, const uint32_t *rows_of, const uint32_t *ranks);

#endif
