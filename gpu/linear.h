/* linear.h - what the files of the linear op share: the expanded weight with its adapter columns and rows, and dropout masks.
 *
 * The weight is expanded to bf16 (scratch, or the resident copy) with room for R adapter columns and R adapter rows:
 *        in        R
 *  out [ W       | s·B ]
 *    R [ A       |  -  ]
 * s·B is block-structured: rows of part p meet only its own columns. */
#ifndef QL_GPU_LINEAR_H
#define QL_GPU_LINEAR_H

#include "gpu/kernel.h"

/* The expanded weight and what else an op keeps in scratch. */
struct cu_linear_plan {
	const bf16 *w;
	bf16 *ext; /* the same, writable, when adapters are packed into it */
	size_t ld;
	uint8_t *extra;
};

/* ext: total rank to make room for; need_w: the base matrix itself is wanted; extra: bytes beside it. */
int cu_linear_prepare(struct ql_device *d, struct ql_queue *q, const struct ql_weight *w, uint32_t ext, bool need_w, size_t extra,
		      struct cu_linear_plan *p, struct ql_err *e);
/* A segment's adapters into the plan's columns and rows; *R: their total rank.  scaled: s·B (forward), else B alone (gradient:
 * dS = s·(dy·B), one rounding less). */
int cu_linear_pack(struct ql_device *d, struct ql_queue *q, const struct ql_weight *w, const struct ql_lora_seg *s,
		   const struct cu_linear_plan *p, bool scaled, uint32_t *R, struct ql_err *e);
/* Segments in order, inside `rows`, their ranks within `room` columns; *r_max: the largest total rank. */
int cu_check_segs(const struct ql_lora_seg *segs, uint32_t n, uint32_t rows, const struct ql_weight *w, size_t room, uint32_t *r_max,
		  struct ql_err *e);

/* The dropout mask of one part of a segment (device.h: dropout): element el of the token-ordered inputs is word el % 4 of counter el / 4. */
struct cu_mask {
	uint64_t seed, base; /* token ordinal of the first row */
	uint32_t step, site, threshold;
	float keep_scale;
};
struct cu_mask cu_mask_for(const struct ql_lora_seg *s, uint32_t part);
/* out[rows, in] = M ⊙ x, bf16. */
int cu_dropout_rows(struct ql_device *d, struct ql_queue *q, const bf16 *x, size_t ldx, bf16 *out, uint32_t rows, uint32_t in,
		    struct cu_mask m, struct ql_err *e);

/* Blocks of 256 threads for an element-wise kernel. */
static inline unsigned cu_grid_for(struct ql_device *d, uint64_t threads)
{
	const uint64_t want = (threads + 255) / 256, most = (uint64_t)cu_of(d)->sms * 16;

	return (unsigned)(want < 1 ? 1 : want < most ? want : most);
}

/* Calls f(i, scale) for elements i of the rows this thread has: 0 for a dropped one, else 1 / (1 - p). */
template <typename F> __device__ __forceinline__ void cu_each_masked(const struct cu_mask &m, uint32_t rows, uint32_t in, F f)
{
	const uint64_t first = m.base * in, n = (uint64_t)rows * in, q0 = first / 4, q1 = (first + n + 3) / 4;

	for (uint64_t c = q0 + blockIdx.x * 256ull + threadIdx.x; c < q1; c += (uint64_t)gridDim.x * 256) {
		uint32_t w[4];

		philox4((uint32_t)c, (uint32_t)(c >> 32), m.step, m.site, m.seed, w);
#pragma unroll
		for (int j = 0; j < 4; j++) {
			const uint64_t el = c * 4 + j;

			if (el >= first && el < first + n)
				f(el - first, w[j] >= m.threshold ? m.keep_scale : 0.f);
		}
	}
}

#endif
