/* strategy.h - where the scales of a 4-bit tensor come from, other than blocks with an absmax: one scale per output row
 * (per channel), and scale with zero point (asymmetric).  Also the error figures by which they are compared. */
#ifndef QL_QUANT_STRATEGY_H
#define QL_QUANT_STRATEGY_H

#include "core/quant/q4.h"

/* Per channel: one absmax per slice of dimension 0 of a [rows, cols] tensor (cols = product of the other dimensions),
 * otherwise exactly q4.h with B = cols; out->per_channel is set.  cols must be even and below 2^32; o->blocksize does
 * not apply and must be 0.  Nested scales allowed.  Bits per weight 4 + 32/cols.  Dequantise, absmax, check, free: as q4.h.
 * Errors as ql_q4_quantize; QL_ESHAPE for the shape. */
int ql_q4_quantize_channels(struct ql_q4 *out, const void *src, enum ql_dtype src_dtype, uint64_t rows, uint64_t cols,
			    const struct ql_q4_opts *o, struct ql_pool *pool, struct ql_err *e);

/* One fp32 vector of a quantised tensor, kept as it is or double-quantised by the rule of q4.h (own offset each). */
struct ql_q4_stat {
	float *f;	/* [M] plain */
	uint8_t *q;	/* [M] nested */
	float *absmax;	/* [N] nested */
	float offset;
};

/* Asymmetric: per block two numbers.
 *   NF4, FP4:  H = max/2 - min/2, C = max/2 + min/2; (h, c) = (H, C), or the pair with the least squared error among those
 *              least squares finds from (H or H/1.1, C or C +- 0.05 H), if no value then errs by more than (H, C) allows:
 *              half the widest gap of levels times H.  Code of clamp((x - c) * (1/max(h, 1e-38)), -1, 1) as in q4.h;
 *              value = level*h + c (two roundings).        stat[0] = h, stat[1] = c
 *              The search is worth 11 % of the error on normal data and takes it below half of symmetric's on [0, 5).
 *   INT4:      s = (max - min)/15, q = clamp(rint((x - min) * (1/max(s, 1e-38))), 0, 15); value = q*s + min.
 *              stat[0] = s, stat[1] = min; a block whose max - min overflows is refused (QL_ENONFINITE)
 * (halving first keeps the other two from overflowing).  h = 0: all codes are the code of 0, value = c.
 * Zero is in general not representable.  The codes are chosen with the exact h and c also when these are
 * double-quantised afterwards.  Bits at B = 64: 5.000 plain, 4.254 nested. */
struct ql_q4a {
	enum ql_dtype kind;
	uint64_t n;
	uint32_t blocksize, nested_blocksize;
	bool nested, per_channel;
	uint8_t *codes; /* [ceil(n/2)], first element in the high nibble */
	struct ql_q4_stat stat[2];
	void *owned;
};

int ql_q4a_quantize(struct ql_q4a *out, const void *src, enum ql_dtype src_dtype, uint64_t n,
		    const struct ql_q4_opts *o, struct ql_pool *pool, struct ql_err *e);
/* One (scale, zero) pair per row; rules of ql_q4_quantize_channels. */
int ql_q4a_quantize_channels(struct ql_q4a *out, const void *src, enum ql_dtype src_dtype, uint64_t rows, uint64_t cols,
			     const struct ql_q4_opts *o, struct ql_pool *pool, struct ql_err *e);
int ql_q4a_dequantize(const struct ql_q4a *q, uint64_t begin, uint64_t count, void *dst, enum ql_dtype dst_dtype,
		      struct ql_pool *pool, struct ql_err *e);
/* Both vectors of blocks [first, first + n_blocks): scale (h or s) and zero (c or min).  QL_EINVAL out of range. */
int ql_q4a_stats(const struct ql_q4a *q, uint64_t first, uint64_t n_blocks, float *scale, float *zero);
/* As ql_q4_check, for a struct filled from a file. */
int ql_q4a_check(const struct ql_q4a *q, struct ql_err *e);
uint64_t ql_q4a_bytes(const struct ql_q4a *q); /* codes and both vectors as held */
void ql_q4a_free(struct ql_q4a *q);

/* Error figures of b against a, summed in fp64 over any number of calls.  Start from a zeroed struct. */
struct ql_quant_sums {
	uint64_t n;
	double diff2, a2, b2, ab, max_abs;
};
struct ql_quant_error {
	double rmse;	 /* sqrt(mean (a-b)^2) */
	double rel_rmse; /* ||a-b|| / ||a||; 0 when both are 0, infinity when only a is */
	double max_abs;	 /* max |a-b| */
	double cosine;	 /* a.b / (||a|| ||b||); 1 when both are 0, 0 when one is */
};
void ql_quant_sums_add(struct ql_quant_sums *s, const float *a, const float *b, uint64_t n);
struct ql_quant_error ql_quant_error_of(const struct ql_quant_sums *s);

#endif
