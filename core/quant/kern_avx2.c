/* kern_avx2.c - the loops for AVX2 with F16C (compiled with -mavx2 -mfma -mf16c; no fused operation is written).
 *
 * The search for codes is in kern_avx2_encode.inc.h.  Decoding looks every byte of a value up in a 16-byte table with byte
 * shuffles, two tables for 16-bit types and four for fp32, and interleaves the bytes. */
#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "core/quant/blk_impl.h"
#include "core/quant/kernels.h"
#include "core/quant/q4_fine.inc.h"

static inline __m256 load_bf16(const uint16_t *h)
{
	__m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)h));

	return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
}

static void k_widen(const void *src, enum ql_dtype t, size_t n, float *dst)
{
	const uint16_t *h = src;
	size_t i = 0;

	if (t == QL_F32) {
		memcpy(dst, src, n * sizeof *dst);
		return;
	}
	if (t == QL_BF16) {
		for (; i + 8 <= n; i += 8)
			_mm256_storeu_ps(dst + i, load_bf16(h + i));
		for (; i < n; i++)
			dst[i] = ql_f32_of_bf16(h[i]);
	} else {
		for (; i + 8 <= n; i += 8)
			_mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(h + i))));
		for (; i < n; i++)
			dst[i] = ql_f32_of_f16(h[i]);
	}
}

/* bf16 bits of finite values, one in each 32-bit lane. */
static inline __m256i bf16_bits(__m256 v)
{
	__m256i u = _mm256_castps_si256(v), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));

	return _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
}

static void k_narrow(const float *x, size_t n, enum ql_dtype t, uint16_t *dst)
{
	size_t i = 0;

	for (; i + 16 <= n; i += 16) {
		__m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + 8);
		__m256i v;

		if (t == QL_BF16)
			v = _mm256_permute4x64_epi64(_mm256_packus_epi32(bf16_bits(a), bf16_bits(b)), 0xd8);
		else
			v = _mm256_set_m128i(_mm256_cvtps_ph(b, 0), _mm256_cvtps_ph(a, 0));
		_mm256_storeu_si256((__m256i *)(dst + i), v);
	}
	for (; i < n; i++)
		dst[i] = t == QL_BF16 ? ql_bf16_of_f32(x[i]) : ql_f16_of_f32(x[i]);
}

static uint32_t k_absmax_bits(const float *x, size_t n)
{
	const __m256i mask = _mm256_set1_epi32(0x7fffffff);
	__m256i a = _mm256_setzero_si256(), b = a;
	__m128i h;
	uint32_t top, u;
	size_t i = 0;

	for (; i + 16 <= n; i += 16) {
		a = _mm256_max_epi32(a, _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(x + i)), mask));
		b = _mm256_max_epi32(b, _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(x + i + 8)), mask));
	}
	a = _mm256_max_epi32(a, b);
	h = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
	h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0x4e));
	h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0xb1));
	top = (uint32_t)_mm_cvtsi128_si32(h);
	for (; i < n; i++) {
		memcpy(&u, &x[i], 4);
		u &= 0x7fffffffu;
		top = u > top ? u : top;
	}
	return top;
}

#define K_SCALES8 8 /* block sizes are a multiple of */
static inline __attribute__((always_inline)) bool scales_by(const float *x, size_t b, float scale[8], float recip[8])
{
	const __m256i mask = _mm256_set1_epi32(0x7fffffff);
	__m256i m[8];

	for (int k = 0; k < 8; k++, x += b) {
		m[k] = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)x), mask);
		for (size_t i = 8; i < b; i += 8)
			m[k] = _mm256_max_epi32(m[k], _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(x + i)), mask));
	}
	return scales_of8(m, scale, recip);
}

static inline __attribute__((always_inline)) bool k_scales8(const float *x, size_t b, float scale[8], float recip[8])
{
	return b == 64 ? scales_by(x, 64, scale, recip) : scales_by(x, b, scale, recip);
}

static void k_minmax(const float *x, size_t n, float *mn, float *mx)
{
	size_t i = 0;

	if (n >= 8) {
		__m256 lo = _mm256_loadu_ps(x), hi = lo;
		float l[8], h[8];

		for (i = 8; i + 8 <= n; i += 8) {
			__m256 v = _mm256_loadu_ps(x + i);

			lo = _mm256_min_ps(lo, v);
			hi = _mm256_max_ps(hi, v);
		}
		_mm256_storeu_ps(l, lo);
		_mm256_storeu_ps(h, hi);
		for (int k = 0; k < 8; k++) {
			*mn = l[k] < *mn ? l[k] : *mn;
			*mx = h[k] > *mx ? h[k] : *mx;
		}
	}
	for (; i < n; i++) {
		*mn = x[i] < *mn ? x[i] : *mn;
		*mx = x[i] > *mx ? x[i] : *mx;
	}
}

#include "core/quant/kern_avx2_encode.inc.h"

static inline void k_lut(const float code[16], float scale, const float *zero, float lut[16])
{
	const __m256 s = _mm256_set1_ps(scale);
	__m256 low = _mm256_mul_ps(_mm256_loadu_ps(code), s), high = _mm256_mul_ps(_mm256_loadu_ps(code + 8), s);

	if (zero != NULL) {
		low = _mm256_add_ps(low, _mm256_set1_ps(*zero));
		high = _mm256_add_ps(high, _mm256_set1_ps(*zero));
	}
	_mm256_store_ps(lut, low);
	_mm256_store_ps(lut + 8, high);
}

/* The four bytes of 16 floats as four tables for byte shuffles, in both halves of a register. */
static inline __attribute__((always_inline)) void planes_of(const float lut[16], __m256i plane[4])
{
	const __m256i by_byte = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
	__m256i a = _mm256_set_m128i(_mm_castps_si128(_mm_load_ps(lut + 8)), _mm_castps_si128(_mm_load_ps(lut)));
	__m256i b = _mm256_set_m128i(_mm_castps_si128(_mm_load_ps(lut + 12)), _mm_castps_si128(_mm_load_ps(lut + 4)));
	__m256i low, high;

	a = _mm256_shuffle_epi8(a, by_byte);
	b = _mm256_shuffle_epi8(b, by_byte);
	low = _mm256_unpacklo_epi32(a, b); /* in each half: 8 bytes of plane 0, 8 of plane 1 */
	high = _mm256_unpackhi_epi32(a, b);
	plane[0] = _mm256_permute4x64_epi64(low, 0x88);
	plane[1] = _mm256_permute4x64_epi64(low, 0xdd);
	plane[2] = _mm256_permute4x64_epi64(high, 0x88);
	plane[3] = _mm256_permute4x64_epi64(high, 0xdd);
}

static inline __attribute__((always_inline)) void put8(float *dst, __m256i v, bool stream)
{
	if (stream)
		_mm256_stream_si256((__m256i *)(void *)dst, v);
	else
		_mm256_storeu_si256((__m256i *)(void *)dst, v);
}

/* 32 values: every byte of them looked up in its plane; the codes lie such that the bytes interleave to elements in order. */
static inline __attribute__((always_inline)) void decode32(const __m256i plane[4], const uint8_t *codes, float *dst, bool stream)
{
	const __m256i twice = _mm256_setr_epi8(0, 0, 1, 1, 4, 4, 5, 5, 8, 8, 9, 9, 12, 12, 13, 13, 2, 2, 3, 3, 6, 6, 7, 7, 10, 10, 11, 11, 14, 14, 15, 15);
	__m256i c = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)codes)), twice);
	__m256i k = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(c, 4), _mm256_set1_epi16(0x000f)),
				    _mm256_and_si256(c, _mm256_set1_epi16(0x0f00)));
	__m256i b0 = _mm256_shuffle_epi8(plane[0], k), b1 = _mm256_shuffle_epi8(plane[1], k);
	__m256i b2 = _mm256_shuffle_epi8(plane[2], k), b3 = _mm256_shuffle_epi8(plane[3], k);
	__m256i l01 = _mm256_unpacklo_epi8(b0, b1), h01 = _mm256_unpackhi_epi8(b0, b1);
	__m256i l23 = _mm256_unpacklo_epi8(b2, b3), h23 = _mm256_unpackhi_epi8(b2, b3);

	put8(dst, _mm256_unpacklo_epi16(l01, l23), stream);
	put8(dst + 8, _mm256_unpackhi_epi16(l01, l23), stream);
	put8(dst + 16, _mm256_unpacklo_epi16(h01, h23), stream);
	put8(dst + 24, _mm256_unpackhi_epi16(h01, h23), stream);
}

static inline __attribute__((always_inline)) void k_decode_f32(const float lut[16], const uint8_t *codes, size_t n, float *dst, bool stream)
{
	__m256i plane[4];
	size_t i = 0;

	planes_of(lut, plane);
	if (stream && (uintptr_t)dst % 32 == 0)
		for (; i + 32 <= n; i += 32)
			decode32(plane, codes + i / 2, dst + i, true);
	for (; i + 32 <= n; i += 32)
		decode32(plane, codes + i / 2, dst + i, false);
	for (; i < n; i++)
		dst[i] = lut[i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15];
}

/* 16 codes in element order (bytes) to 16 values. */
static inline __m256i look16(__m128i low, __m128i high, __m128i k)
{
	__m128i l = _mm_shuffle_epi8(low, k), h = _mm_shuffle_epi8(high, k);

	return _mm256_set_m128i(_mm_unpackhi_epi8(l, h), _mm_unpacklo_epi8(l, h));
}

static void k_decode_h16(const uint16_t lut[16], const uint8_t *codes, size_t n, uint16_t *dst, bool stream)
{
	const __m128i nib = _mm_set1_epi8(15), bytes = _mm_set1_epi16(255);
	const __m128i a = _mm_load_si128((const __m128i *)lut), b = _mm_load_si128((const __m128i *)lut + 1);
	const __m128i low = _mm_packus_epi16(_mm_and_si128(a, bytes), _mm_and_si128(b, bytes));
	const __m128i high = _mm_packus_epi16(_mm_srli_epi16(a, 8), _mm_srli_epi16(b, 8));
	size_t i = 0;

	stream = stream && (uintptr_t)dst % 32 == 0;
	for (; i + 32 <= n; i += 32) {
		__m128i c = _mm_loadu_si128((const __m128i *)(codes + i / 2));
		__m128i even = _mm_and_si128(_mm_srli_epi16(c, 4), nib), odd = _mm_and_si128(c, nib);
		__m256i v = look16(low, high, _mm_unpacklo_epi8(even, odd));
		__m256i w = look16(low, high, _mm_unpackhi_epi8(even, odd));

		if (stream) {
			_mm256_stream_si256((__m256i *)(dst + i), v);
			_mm256_stream_si256((__m256i *)(dst + i + 16), w);
		} else {
			_mm256_storeu_si256((__m256i *)(dst + i), v);
			_mm256_storeu_si256((__m256i *)(dst + i + 16), w);
		}
	}
	for (; i < n; i++)
		dst[i] = lut[i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15];
}

/* The same for any value: a NaN is made quiet. */
static inline __m256i bf16_or_nan(__m256 v)
{
	__m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
	__m256i quiet = _mm256_or_si256(_mm256_srli_epi32(_mm256_castps_si256(v), 16), _mm256_set1_epi32(0x40));

	return _mm256_blendv_epi8(bf16_bits(v), quiet, nan);
}

static void k_narrow16(const float lut[16], enum ql_dtype t, uint16_t half[16])
{
	if (t == QL_F16) {
		for (int k = 0; k < 16; k += 8)
			_mm_store_si128((__m128i *)(half + k), _mm256_cvtps_ph(_mm256_load_ps(lut + k), 0));
		return;
	}
	__m256i a = bf16_or_nan(_mm256_load_ps(lut)), b = bf16_or_nan(_mm256_load_ps(lut + 8));

	_mm256_store_si256((__m256i *)half, _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xd8));
}

static void k_fence(bool stream)
{
	if (stream)
		_mm_sfence();
}

static void k_int8_encode(const float *x, size_t n, float r, int8_t *q)
{
	const __m256 vr = _mm256_set1_ps(r), top = _mm256_set1_ps(127.0f), bottom = _mm256_set1_ps(-127.0f);
	const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
	size_t i = 0;

	for (; i + 32 <= n; i += 32) {
		__m256i v[4];

		for (int k = 0; k < 4; k++) {
			__m256 y = _mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * k), vr);

			v[k] = _mm256_cvtps_epi32(_mm256_max_ps(_mm256_min_ps(y, top), bottom));
		}
		_mm256_storeu_si256((__m256i *)(q + i),
				    _mm256_permutevar8x32_epi32(pack32(v[0], v[1], v[2], v[3]), order));
	}
	for (; i < n; i++) {
		float v = x[i] * r;

		v = v < 127.0f ? v : 127.0f;
		v = v > -127.0f ? v : -127.0f;
		q[i] = (int8_t)_mm_cvtss_si32(_mm_set_ss(v));
	}
}

#include "core/quant/q4_body.inc.h"

const struct ql_quant_ops ql_quant_ops_avx2 = {
	.name = "avx2",
	.q4_quant = k_q4_quant,
	.q4_dequant_f32 = k_q4_dequant_f32,
	.q4_dequant_h16 = k_q4_dequant_h16,
	.widen = k_widen,
	.narrow = k_narrow,
	.absmax_bits = k_absmax_bits,
	.int8_encode = k_int8_encode,
	QL_BLK_TABLE(avx2),
};
