/* philox.c - see philox.h. */
#include "core/base/philox.h"

/* One unbiased draw below `bound`: words of the stream are taken in order, those above the last whole multiple skipped. */
static uint32_t draw_below(uint64_t seed, uint32_t epoch, uint64_t *index, uint32_t bound)
{
	uint32_t limit = UINT32_MAX - (UINT32_MAX % bound + 1) % bound, w[4];

	for (;;) {
		ql_philox((uint32_t)*index, (uint32_t)(*index >> 32), epoch, (uint32_t)QL_RNG_DATA << 24, seed, w);
		*index += 1;
		if (w[0] <= limit)
			return w[0] % bound;
	}
}

void ql_permutation(uint64_t seed, uint32_t epoch, uint32_t *out, uint32_t n)
{
	uint64_t index = 0;

	for (uint32_t i = 0; i < n; i++)
		out[i] = i;
	for (uint32_t i = n; i > 1; i--) {
		uint32_t j = draw_below(seed, epoch, &index, i), t = out[i - 1];

		out[i - 1] = out[j];
		out[j] = t;
	}
}
