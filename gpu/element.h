/* element.h - one element of a weight of any type, for kernels that read few of them or have odd shapes. */
#ifndef QL_GPU_ELEMENT_H
#define QL_GPU_ELEMENT_H

#include "gpu/kernel.h"

struct cu_any {
	enum ql_dtype dtype;
	const void *dense;
	const __half *q8_d;
	struct cu_part part[QL_PARTS_MAX];
	uint32_t n_parts, vocab, in, blocksize;
	bool nested;
};

__device__ __forceinline__ float cu_element(const struct cu_any &a, uint32_t row, uint32_t i)
{
	uint64_t at = (uint64_t)row * a.in + i;

	switch (a.dtype) {
	case QL_F32:
		return ((const float *)a.dense)[at];
	case QL_F16:
		return __half2float(((const __half *)a.dense)[at]);
	case QL_BF16:
		return __bfloat162float(((const bf16 *)a.dense)[at]);
	case QL_Q8_0:
		return __fmul_rn(__half2float(a.q8_d[at / 32]), (float)((const int8_t *)a.dense)[at]);
	default:
		break;
	}
	uint32_t p = 0;
	while (p + 1 < a.n_parts && row >= a.part[p + 1].row0)
		p++;
	const struct cu_part &c = a.part[p];
	at -= (uint64_t)c.row0 * a.in;
	const uint32_t byte = c.codes[at >> 1], code = at & 1 ? byte & 15 : byte >> 4;
	const uint64_t b = at / a.blocksize;
	const float s = a.nested ? __fadd_rn(__fmul_rn(c.tab[16 + c.absmax_q[b]], c.nested[b / c.nested_bs]), *c.offset) : c.absmax[b];
	return __fmul_rn(c.tab[code], s);
}

static inline struct cu_any cu_any_of(const struct ql_weight *w)
{
	struct cu_any a = {w->dtype, w->dense, w->q8_d, {w->part[0], w->part[1], w->part[2]}, w->s.n_parts, w->out, w->in, w->blocksize, w->nested};

	return a;
}

#endif
