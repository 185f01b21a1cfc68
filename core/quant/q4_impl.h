/* q4_impl.h - shared by q4.c, q4_read.c and the strategies: sizes, memory and the parallel loops of 4-bit tensors. */
#ifndef QL_QUANT_Q4_IMPL_H
#define QL_QUANT_Q4_IMPL_H

#include "core/quant/kernels.h"
#include "core/quant/q4.h"

#define QL_Q4_CHUNK 65536u /* elements of one item of work, roughly; every allowed block size divides it */

/* Blocks of `blocksize` in n elements. */
static inline uint64_t ql_q4_ceil(uint64_t n, uint64_t blocksize) { return n / blocksize + (n % blocksize != 0); }

/* Kind, source type, n, block sizes; `channel` != 0 replaces the block size (then o->blocksize must be 0). */
int ql_q4_opts_check(const struct ql_q4_opts *o, enum ql_dtype src_dtype, uint64_t n, uint64_t channel,
		     struct ql_err *e);

/* One allocation of the given parts, each aligned to 64 bytes; *part[i] receives its address.  NULL on overflow or lack
 * of memory. */
struct ql_q4_part {
	void **at;
	uint64_t count, size;
};
void *ql_q4_alloc(const struct ql_q4_part *parts, int n_parts);

/* ql_q4_quantize with blocks of o->blocksize (channel 0) or of one slice of `channel` elements. */
int ql_q4_quantize_any(struct ql_q4 *out, const void *src, enum ql_dtype src_dtype, uint64_t n, uint64_t channel,
		       const struct ql_q4_opts *o, struct ql_pool *pool, struct ql_err *e);

/* Runs *all (n, blocksize, codes, scale, zero filled in) over the pool in pieces of whole blocks.  QL_ENONFINITE names
 * the first bad element. */
int ql_q4_quant_run(const struct ql_q4_job *all, struct ql_pool *pool, struct ql_err *e);

/* Decodes [begin, begin + count) in pieces.  fill(ctx, first, n, scale, zero) yields the scales of blocks [first, first + n)
 * (n <= QL_Q4_FILL_MAX); zero is NULL unless has_zero. */
#define QL_Q4_FILL_MAX 2050
struct ql_q4_source {
	const float *code;
	const uint8_t *codes;
	uint64_t blocksize;
	bool has_zero;
	void (*fill)(const void *ctx, uint64_t first, uint64_t n, float *scale, float *zero);
	const void *ctx;
};
void ql_q4_read_run(const struct ql_q4_source *s, uint64_t begin, uint64_t count, void *dst, enum ql_dtype dst_dtype,
		    struct ql_pool *pool);

/* Range and dtype of a read. */
int ql_q4_range_check(uint64_t n, uint64_t begin, uint64_t count, enum ql_dtype dst_dtype, struct ql_err *e);

/* Are all n numbers finite?  Returns the index of the first that is not, or n. */
uint64_t ql_q4_first_nonfinite(const float *x, uint64_t n);

#endif
