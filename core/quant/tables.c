/* tables.c - code books, their thresholds, and the dynamic 8-bit maps.
 *
 * NF4: levels of bitsandbytes (functional.py get_4bit_type), exact decimals; thresholds are the midpoints rounded to fp32
 *   (RNE; two of them are exact ties), in hexadecimal because shortened decimals round to the neighbour.
 * FP4: sign-magnitude; the 7 magnitude thresholds are the fp32 midpoints (as in bitsandbytes' CPU backend; its CUDA kernel
 *   has them as decimals, up to 5 ulp away), strict, so a tie takes the smaller magnitude.  Listed in ascending order of
 *   value: a negative threshold -t stands as the float below it, because v < -t is the negation of v > prev(-t); the one
 *   between -0 and +0 is minus the smallest subnormal, so exactly v < 0 sets the sign.
 * INT4: own: levels (c-8)/7, fp32 midpoints; code 0 lies below minus infinity, so it is never chosen.
 *
 * Dynamic map (create_dynamic_map), signed: for i = 0..6, K = 2^i + 1 points from a = 0.1f to b = 1 with
 * step = (b-a)/(K-1); p_k = fma(step, k, a) for k < K/2, else fma(-step, K-1-k, b); for each pair the value
 * (float)10^(i-6) * ((p_k + p_{k+1})/2) with both signs; plus 0 and 1; sorted.  Unsigned: K = 2^(i+1) + 1, positive only.
 * Computed once (pthread_once) with fmaf, which is exact on every machine. */
#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "core/quant/kernels.h"
#include "core/quant/q4.h"

static const float code_nf4[16] = {
	-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
	-0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
	0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
	0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f,
};

static const float code_fp4[16] = {
	0.0f, 0.0625f / 12.0f, 8.0f / 12.0f, 1.0f, 4.0f / 12.0f, 6.0f / 12.0f, 2.0f / 12.0f, 3.0f / 12.0f,
	0.0f, -0.0625f / 12.0f, -8.0f / 12.0f, -1.0f, -4.0f / 12.0f, -6.0f / 12.0f, -2.0f / 12.0f, -3.0f / 12.0f,
};

#define L7(c) ((float)((c) - 8) / 7.0f)
#define MID7(c) ((L7(c) + L7((c) + 1)) * 0.5f) /* between levels c and c+1 */

static const float code_int4[16] = {
	L7(0), L7(1), L7(2), L7(3), L7(4), L7(5), L7(6), L7(7), L7(8), L7(9), L7(10), L7(11), L7(12), L7(13), L7(14), L7(15),
};

static const struct ql_q4_book book_nf4 = {
	.thr = {-0x1.b239bp-1f, -0x1.38a4ep-1f, -0x1.d709p-2f, -0x1.5bd4ecp-2f, -0x1.e079d8p-3f,
		-0x1.1a7178p-3f, -0x1.74f0e2p-5f, 0x1.45f5fep-5f, 0x1.ec90c4p-4f, 0x1.a0cfcp-3f,
		0x1.2b05a8p-2f, 0x1.8ea7f2p-2f, 0x1.00da08p-1f, 0x1.491b5ep-1f, 0x1.b913b4p-1f},
	.map = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
	.zero = 7,
};

static const struct ql_q4_book book_fp4 = {
	.thr = {-0x1.aaaaaep-1f, -0x1.2aaaaep-1f, -0x1.aaaaaep-2f, -0x1.2aaaaep-2f, -0x1.aaaaaep-3f,
		-0x1.600002p-4f, -0x1.555558p-9f, -FLT_TRUE_MIN, 0x1.555556p-9f, 0x1.6p-4f,
		0x1.aaaaacp-3f, 0x1.2aaaacp-2f, 0x1.aaaaacp-2f, 0x1.2aaaacp-1f, 0x1.aaaaacp-1f},
	.map = {11, 10, 13, 12, 15, 14, 9, 8, 0, 1, 6, 7, 4, 5, 2, 3},
	.zero = 0,
};

static const struct ql_q4_book book_int4 = {
	.thr = {-INFINITY, MID7(1), MID7(2), MID7(3), MID7(4), MID7(5), MID7(6), MID7(7), MID7(8), MID7(9), MID7(10),
		MID7(11), MID7(12), MID7(13), MID7(14)},
	.map = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
	.zero = 8,
};

const float *ql_q4_code(enum ql_dtype kind)
{
	switch (kind) {
	case QL_NF4:
		return code_nf4;
	case QL_FP4:
		return code_fp4;
	case QL_INT4:
		return code_int4;
	default:
		return NULL;
	}
}

const struct ql_q4_book *ql_q4_book_of(enum ql_dtype kind)
{
	switch (kind) {
	case QL_NF4:
		return &book_nf4;
	case QL_FP4:
		return &book_fp4;
	case QL_INT4:
		return &book_int4;
	default:
		return NULL;
	}
}

/* ---- dynamic maps ---- */

static pthread_once_t maps_once = PTHREAD_ONCE_INIT;
static float maps[2][256]; /* [0] unsigned, [1] signed; written once, then read only */
static struct ql_dynamic finders[2];

static int by_value(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

static void map_make(bool is_signed, float map[256], float mid[256])
{
	static const float scale[7] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1e0f};
	const float a = 0.1f, b = 1.0f;
	int count = 0;

	for (int i = 0; i < 7; i++) {
		int last = is_signed ? 1 << i : 2 << i; /* K - 1 */
		float step = (b - a) / (float)last, p[129];

		for (int k = 0; k <= last; k++)
			p[k] = k < (last + 1) / 2 ? fmaf(step, (float)k, a) : fmaf(-step, (float)(last - k), b);
		for (int k = 0; k < last; k++) {
			float v = scale[i] * ((p[k] + p[k + 1]) / 2.0f);

			map[count++] = v;
			if (is_signed)
				map[count++] = -v;
		}
	}
	map[count++] = 0.0f;
	map[count++] = 1.0f;
	qsort(map, 256, sizeof *map, by_value);
	for (int k = 0; k < 255; k++)
		mid[k] = (map[k] + map[k + 1]) / 2.0f;
	mid[255] = INFINITY;
}

static float float_of(uint32_t u)
{
	float f;

	memcpy(&f, &u, 4);
	return f;
}

/* The cells: for each sign and cell the number of midpoints below its least value. */
static void cells_make(struct ql_dynamic *d)
{
	for (uint32_t sign = 0; sign < 2; sign++)
		for (uint32_t cell = 0; cell < QL_CELLS; cell++) {
			uint32_t low = cell == 0 ? 0 : (QL_CELL_FIRST + cell - 1) << 16;
			uint32_t high = cell == QL_CELLS - 1 ? QL_BITS_INF : ((QL_CELL_FIRST + cell) << 16) - 1;
			float least = sign ? -float_of(high) : float_of(low);
			int count = 0;

			while (least > d->mid[count])
				count++;
			d->code[sign][cell] = (uint8_t)count;
		}
}

static void maps_make(void)
{
	for (int k = 0; k < 2; k++) {
		map_make(k != 0, maps[k], finders[k].mid);
		cells_make(&finders[k]);
	}
}

const float *ql_dynamic_map_signed(void)
{
	(void)pthread_once(&maps_once, maps_make);
	return maps[1];
}

const float *ql_dynamic_map_unsigned(void)
{
	(void)pthread_once(&maps_once, maps_make);
	return maps[0];
}

const struct ql_dynamic *ql_dynamic_of(bool is_signed)
{
	(void)pthread_once(&maps_once, maps_make);
	return &finders[is_signed];
}
