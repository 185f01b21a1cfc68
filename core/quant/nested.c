/* nested.c - double quantisation of the scales (QLoRA section 3; bitsandbytes functional.py quantize_4bit).
 *
 * offset = (float)(fp64 sum in index order / m); d = a - offset; per block A = max |d|; code = number of midpoints of the
 * signed dynamic map strictly below d * (1/max(A, 1e-38)).  A zero block gives code 127, the zero of the map, by itself. */
#include "core/quant/nested.h"

#include <stdatomic.h>

#include "core/quant/kernels.h"
#include "core/quant/q4.h"

#define BLOCK_MAX 4096 /* the largest block size */
#define PER_ITEM 16384 /* numbers of one item of work; a multiple of every block size */

struct run {
	const struct ql_quant_ops *ops;
	const struct ql_dynamic *map;
	const float *a;
	uint64_t m;
	uint32_t blocksize;
	float mean;
	uint8_t *q;
	float *absmax;
	_Atomic bool overflow;
};

static void encode_item(void *ctx, size_t item, int worker)
{
	struct run *r = ctx;
	uint64_t end = ((uint64_t)item + 1) * PER_ITEM < r->m ? ((uint64_t)item + 1) * PER_ITEM : r->m;
	float d[BLOCK_MAX];

	(void)worker;
	for (uint64_t at = (uint64_t)item * PER_ITEM; at < end; at += r->blocksize) {
		size_t n = (size_t)(end - at < r->blocksize ? end - at : r->blocksize);
		uint32_t bits;
		float top, recip;

		for (size_t i = 0; i < n; i++)
			d[i] = r->a[at + i] - r->mean;
		bits = r->ops->absmax_bits(d, n);
		if (bits >= QL_BITS_INF) {
			r->overflow = true;
			return;
		}
		memcpy(&top, &bits, 4);
		r->absmax[at / r->blocksize] = top;
		recip = 1.0f / (top > QL_SCALE_FLOOR ? top : QL_SCALE_FLOOR);
		for (size_t i = 0; i < n; i++)
			r->q[at + i] = ql_dynamic_code(r->map, d[i] * recip);
	}
}

bool ql_nested_encode(const float *a, uint64_t m, uint32_t blocksize, uint8_t *q, float *absmax, float *offset,
		      struct ql_pool *pool)
{
	struct run r = {.ops = ql_quant_ops_best(), .map = ql_dynamic_of(true), .a = a, .m = m, .blocksize = blocksize, .q = q,
			.absmax = absmax};
	double sum = 0.0;

	for (uint64_t i = 0; i < m; i++)
		sum += (double)a[i];
	*offset = r.mean = (float)(sum / (double)m);
	ql_pool_run(pool, (size_t)(m / PER_ITEM + (m % PER_ITEM != 0)), encode_item, &r);
	return !r.overflow;
}

void ql_q4_expand_absmax(const float map[256], const uint8_t *q, const float *nested_absmax, uint32_t nested_blocksize,
			 float offset, uint64_t first, uint64_t count, float *out)
{
	for (uint64_t i = 0; i < count;) {
		uint64_t block = (first + i) / nested_blocksize, stop = (block + 1) * nested_blocksize - first;
		float scale = nested_absmax[block];

		stop = stop < count ? stop : count;
		for (; i < stop; i++) {
			float v = map[q[first + i]] * scale;

			out[i] = v + offset;
		}
	}
}
