/* attn.h - what the attention ops share: block sizes, visible ranges, and the forward step over one block of keys. */
#ifndef QL_DEVICE_CPU_ATTN_H
#define QL_DEVICE_CPU_ATTN_H

#include "core/device/cpu/cpu.h"

#define QL_BQ 64  /* queries in a block */
#define QL_BKEYS 128 /* keys in a block; blocks begin at multiples of it, counted from the sequence's start */

/* Keys of block [k0, k0 + n) that query position i sees: *lo … *hi-1 relative to k0 (empty: *lo == *hi). */
static inline void ql_visible(size_t i, size_t k0, size_t n, uint32_t window, size_t *lo, size_t *hi)
{
	*hi = i < k0 ? 0 : ql_min(i - k0 + 1, n);
	*lo = window > 0 && i + 1 > (size_t)window + k0 ? ql_min(i + 1 - window - k0, *hi) : 0;
}

/* First key block that queries from position i on can see. */
static inline size_t ql_first_block(size_t i, uint32_t window)
{
	return window > 0 && i + 1 > window ? (i + 1 - window) / QL_BKEYS * QL_BKEYS : 0;
}

/* Running state of a block of queries for all heads of one group: m, l [group][BQ], acc [group][BQ][hd]. */
struct ql_attn_state {
	float *kt, *v, *s, *m, *l, *acc; /* kt: panels of keys [hd][16]; v: panels of columns [BKEYS][16]; s [BQ][BKEYS] */
	size_t hd, hd16, group;
};

size_t ql_attn_state_floats(size_t hd, size_t group);
void ql_attn_state_init(struct ql_attn_state *st, float *mem, size_t hd, size_t group);
/* Packs n keys (rows ld apart) as panels. */
void ql_attn_pack_keys(const struct ql_kern *k, const float *src, size_t ld, size_t n, size_t hd, float *dst);
void ql_attn_pack_cols(const struct ql_kern *k, const float *src, size_t ld, size_t n, size_t hd, size_t panel, float *dst);
/* One head of the group: rows at positions pos0 … pos0+nq-1 against the packed block [k0, k0 + nk). */
void ql_attn_step(const struct ql_kern *k, struct ql_attn_state *st, size_t head, const float *q, size_t ldq, size_t pos0,
		  size_t nq, size_t k0, size_t nk, float scale, float softcap, uint32_t window);
/* o = acc / l for nq rows; lse (or NULL) receives m + log l */
void ql_attn_finish(const struct ql_kern *k, struct ql_attn_state *st, size_t head, size_t nq, float *o, size_t ldo,
		    float *lse);
int ql_attn_check_heads(const char *op, uint32_t n_head, uint32_t n_kv, uint32_t head_dim, float scale, float softcap,
			struct ql_err *e);

/* Items of packed sequences: blocks of `rows` positions of each sequence, for each kv head. */
struct ql_attn_item {
	size_t begin, len, block; /* sequence's first row and length; block number */
	uint32_t kv;
};
size_t ql_attn_items(const struct ql_attn *a, size_t rows);
struct ql_attn_item ql_attn_item_at(const struct ql_attn *a, size_t rows, size_t i);
int ql_attn_check(const char *op, const struct ql_attn *a, struct ql_err *e);

#endif
