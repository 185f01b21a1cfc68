/* nested.c - double quantisation of the scales (QLoRA section 3; bitsandbytes functional.py quantize_4bit).
 *
 * offset = (float)(fp64 sum in index order / m); d = a - offset; per block A = max |d|; code = number of midpoints of the
 * signed dynamic map strictly below d * (1/max(A, 1e-38)).  A zero block gives code 127, the zero of the map, by itself. */
#include "core/quant/nested.h"

#include <float.h>
#include <math.h>

#include "core/quant/kernels.h"
#include "core/quant/q4.h"

bool ql_nested_encode(const float *a, uint64_t m, uint32_t blocksize, uint8_t *q, float *absmax, float *offset)
{
	const struct ql_dynamic *map = ql_dynamic_of(true);
	double sum = 0.0;
	float mean;

	for (uint64_t i = 0; i < m; i++)
		sum += (double)a[i];
	mean = (float)(sum / (double)m);
	*offset = mean;
	for (uint64_t at = 0, block = 0; at < m; at += blocksize, block++) {
		uint64_t end = m - at < blocksize ? m : at + blocksize;
		float top = 0.0f, r;

		for (uint64_t i = at; i < end; i++) {
			float d = fabsf(a[i] - mean);

			top = d > top ? d : top;
		}
		if (top > FLT_MAX)
			return false;
		absmax[block] = top;
		r = 1.0f / (top > QL_SCALE_FLOOR ? top : QL_SCALE_FLOOR);
		for (uint64_t i = at; i < end; i++)
			q[i] = ql_dynamic_code(map, (a[i] - mean) * r);
	}
	return true;
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
