/* kern_scalar.c - the reference loops: plain C, written to be read against the rules of q4.h, int8.h and blk.h. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "core/quant/blk_impl.h"
#include "core/quant/kernels.h"

static void k_widen(const void *src, enum ql_dtype t, size_t n, float *dst)
{
	const uint16_t *h = src;

	if (t == QL_F32)
		memcpy(dst, src, n * sizeof *dst);
	else
		for (size_t i = 0; i < n; i++)
			dst[i] = t == QL_BF16 ? ql_f32_of_bf16(h[i]) : ql_f32_of_f16(h[i]);
}

static void k_narrow(const float *x, size_t n, enum ql_dtype t, uint16_t *dst)
{
	for (size_t i = 0; i < n; i++)
		dst[i] = t == QL_BF16 ? ql_bf16_of_f32(x[i]) : ql_f16_of_f32(x[i]);
}

static uint32_t k_absmax_bits(const float *x, size_t n)
{
	uint32_t top = 0;

	for (size_t i = 0; i < n; i++) {
		uint32_t u;

		memcpy(&u, &x[i], 4);
		u &= 0x7fffffffu;
		top = u > top ? u : top;
	}
	return top;
}

static void k_minmax(const float *x, size_t n, float *mn, float *mx)
{
	for (size_t i = 0; i < n; i++) {
		*mn = x[i] < *mn ? x[i] : *mn;
		*mx = x[i] > *mx ? x[i] : *mx;
	}
}

typedef struct ql_q4_book k_book;

static k_book k_book_of(const struct ql_q4_book *b) { return *b; }

static uint8_t code_of(const struct ql_q4_book *b, float v)
{
	int order = 0;

	for (int k = 0; k < 15; k++)
		order += v > b->thr[k];
	return b->map[order];
}

static inline __attribute__((always_inline)) void k_encode(const k_book *b, const float *x, size_t n, float c, float r, uint8_t *out)
{
	for (size_t i = 0; i < n; i += 2) {
		uint8_t hi = code_of(b, (x[i] - c) * r);
		uint8_t lo = i + 1 < n ? code_of(b, (x[i + 1] - c) * r) : b->zero;

		out[i / 2] = (uint8_t)(hi << 4 | lo);
	}
}

static uint8_t range_code(float v)
{
	v = v > 0.0f ? v : 0.0f;
	v = v < 15.0f ? v : 15.0f;
	return (uint8_t)rintf(v);
}

static void k_encode_range(const float *x, size_t n, float c, float r, uint8_t *out)
{
	for (size_t i = 0; i < n; i += 2) {
		uint8_t hi = range_code((x[i] - c) * r);
		uint8_t lo = i + 1 < n ? range_code((x[i + 1] - c) * r) : 0;

		out[i / 2] = (uint8_t)(hi << 4 | lo);
	}
}

static void k_lut(const float code[16], float scale, const float *zero, float lut[16])
{
	for (int k = 0; k < 16; k++)
		lut[k] = code[k] * scale;
	for (int k = 0; zero != NULL && k < 16; k++)
		lut[k] = lut[k] + *zero;
}

static void k_decode_f32(const float lut[16], const uint8_t *codes, size_t n, float *dst, bool stream)
{
	(void)stream;
	for (size_t i = 0; i < n; i++)
		dst[i] = lut[i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15];
}

static void k_decode_h16(const uint16_t lut[16], const uint8_t *codes, size_t n, uint16_t *dst, bool stream)
{
	(void)stream;
	for (size_t i = 0; i < n; i++)
		dst[i] = lut[i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15];
}

static void k_narrow16(const float lut[16], enum ql_dtype t, uint16_t half[16])
{
	for (int k = 0; k < 16; k++)
		half[k] = t == QL_BF16 ? ql_bf16_of_f32(lut[k]) : ql_f16_of_f32(lut[k]);
}

static void k_fence(bool stream) { (void)stream; }

static void k_int8_encode(const float *x, size_t n, float r, int8_t *q)
{
	for (size_t i = 0; i < n; i++) {
		float v = x[i] * r;

		v = v < 127.0f ? v : 127.0f;
		v = v > -127.0f ? v : -127.0f;
		q[i] = (int8_t)rintf(v);
	}
}

#include "core/quant/q4_body.inc.h"

const struct ql_quant_ops ql_quant_ops_scalar = {
	.name = "scalar",
	.q4_quant = k_q4_quant,
	.q4_dequant_f32 = k_q4_dequant_f32,
	.q4_dequant_h16 = k_q4_dequant_h16,
	.widen = k_widen,
	.narrow = k_narrow,
	.absmax_bits = k_absmax_bits,
	.int8_encode = k_int8_encode,
	QL_BLK_TABLE(scalar),
};
