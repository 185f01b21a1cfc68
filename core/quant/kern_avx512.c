/* kern_avx512.c - the loops for AVX-512 F, BW, DQ and VL.  The same rules as kern_scalar.c, sixteen values at a time; a
 * table of 16 levels or thresholds fits one register, so each step of the search is one permute and one masked add. */
#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "core/quant/blk_impl.h"
#include "core/quant/kernels.h"
#include "core/quant/q4_fine.inc.h"

static inline __mmask16 first16(size_t n) { return (__mmask16)(n >= 16 ? 0xffffu : (1u << n) - 1); }

static void k_widen(const void *src, enum ql_dtype t, size_t n, float *dst)
{
	const uint16_t *h = src;

	if (t == QL_F32) {
		memcpy(dst, src, n * sizeof *dst);
		return;
	}
	for (size_t i = 0; i < n; i += 16) {
		__mmask16 m = first16(n - i);
		__m256i w = _mm256_maskz_loadu_epi16(m, h + i);
		__m512 v = t == QL_BF16 ? _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(w), 16)) :
					  _mm512_cvtph_ps(w);

		_mm512_mask_storeu_ps(dst + i, m, v);
	}
}

static void k_narrow(const float *x, size_t n, enum ql_dtype t, uint16_t *dst)
{
	const __m512i one = _mm512_set1_epi32(1), half = _mm512_set1_epi32(0x7fff);

	for (size_t i = 0; i < n; i += 16) {
		__mmask16 m = first16(n - i);
		__m512 v = _mm512_maskz_loadu_ps(m, x + i);
		__m512i u = _mm512_castps_si512(v), odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), one);
		__m256i h = _mm512_cvtps_ph(v, 0);

		if (t == QL_BF16)
			h = _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, half)), 16));
		_mm256_mask_storeu_epi16(dst + i, m, h);
	}
}

static uint32_t k_absmax_bits(const float *x, size_t n)
{
	const __m512i mask = _mm512_set1_epi32(0x7fffffff);
	__m512i a = _mm512_setzero_si512();

	for (size_t i = 0; i < n; i += 16)
		a = _mm512_max_epi32(a, _mm512_and_si512(_mm512_maskz_loadu_epi32(first16(n - i), x + i), mask));
	return (uint32_t)_mm512_reduce_max_epi32(a);
}

#define K_SCALES8 16 /* block sizes are a multiple of */
static inline __attribute__((always_inline)) bool scales_by(const float *x, size_t b, float scale[8], float recip[8])
{
	const __m512i mask = _mm512_set1_epi32(0x7fffffff);
	__m256i m[8];

	for (int k = 0; k < 8; k++, x += b) {
		__m512i a = _mm512_and_si512(_mm512_loadu_si512(x), mask);

		for (size_t i = 16; i < b; i += 16)
			a = _mm512_max_epi32(a, _mm512_and_si512(_mm512_loadu_si512(x + i), mask));
		m[k] = _mm256_max_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
	}
	return scales_of8(m, scale, recip);
}

static inline __attribute__((always_inline)) bool k_scales8(const float *x, size_t b, float scale[8], float recip[8])
{
	return b == 64 ? scales_by(x, 64, scale, recip) : scales_by(x, b, scale, recip);
}

static void k_minmax(const float *x, size_t n, float *mn, float *mx)
{
	__m512 lo = _mm512_set1_ps(*mn), hi = _mm512_set1_ps(*mx);

	for (size_t i = 0; i < n; i += 16) {
		__mmask16 m = first16(n - i);
		__m512 v = _mm512_maskz_loadu_ps(m, x + i);

		lo = _mm512_mask_min_ps(lo, m, lo, v);
		hi = _mm512_mask_max_ps(hi, m, hi, v);
	}
	*mn = _mm512_reduce_min_ps(lo);
	*mx = _mm512_reduce_max_ps(hi);
}

typedef struct {
	__m512 thr;
	__m512i base, t1, t2, high, low; /* q4_fine.inc.h */
	bool fine;
	__m256i map;
	char zero;
} k_book;

static inline __m512i quarters(const void *p) { return _mm512_broadcast_i32x4(_mm_loadu_si128(p)); }

static inline k_book k_book_of(const struct ql_q4_book *b)
{
	const struct fine_tables f = fine_tables_of(b);

	return (k_book){
		.base = quarters(f.base),
		.t1 = quarters(f.t1),
		.t2 = quarters(f.t2),
		.high = quarters(f.high),
		.low = quarters(f.low),
		.fine = f.ok,
		.thr = _mm512_maskz_loadu_ps(0x7fff, b->thr),
		.map = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)b->map)),
		.zero = (char)b->zero,
	};
}

/* Number of thresholds below v; thr[15] is never consulted. */
static inline __m512i search16(__m512 thr, __m512 v)
{
	const __m512i eight = _mm512_set1_epi32(8), four = _mm512_set1_epi32(4), three = _mm512_set1_epi32(3);
	const __m512i two = _mm512_set1_epi32(2), one = _mm512_set1_epi32(1);
	__m512 t = _mm512_permutexvar_ps(_mm512_set1_epi32(7), thr);
	__m512i k = _mm512_maskz_mov_epi32(_mm512_cmp_ps_mask(v, t, _CMP_GT_OQ), eight);

	t = _mm512_permutexvar_ps(_mm512_add_epi32(k, three), thr);
	k = _mm512_mask_add_epi32(k, _mm512_cmp_ps_mask(v, t, _CMP_GT_OQ), k, four);
	t = _mm512_permutexvar_ps(_mm512_add_epi32(k, one), thr);
	k = _mm512_mask_add_epi32(k, _mm512_cmp_ps_mask(v, t, _CMP_GT_OQ), k, two);
	t = _mm512_permutexvar_ps(k, thr);
	return _mm512_mask_add_epi32(k, _mm512_cmp_ps_mask(v, t, _CMP_GT_OQ), k, one);
}

/* n (<= 32) codes, one a byte in element order, to ceil(n/2) bytes, first element high. */
static inline void store_nibbles(__m256i codes, size_t n, uint8_t *out)
{
	__m128i v = _mm256_cvtepi16_epi8(_mm256_maddubs_epi16(codes, _mm256_set1_epi16(0x0110)));

	_mm_mask_storeu_epi8(out, first16((n + 1) / 2), v);
}

static inline __m256i join(__m512i a, __m512i b)
{
	return _mm256_set_m128i(_mm512_cvtepi32_epi8(b), _mm512_cvtepi32_epi8(a));
}

static inline __attribute__((always_inline)) __m512i fine16(const float *x, __m512 c, __m512 r15)
{
	return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x), c), r15));
}

/* The codes of 64 values (x - c) * r, given r * 2^15.  False: some value needs the fp32 search, nothing is written. */
static inline __attribute__((always_inline)) bool fine64(const k_book *b, const float *x, __m512 c, __m512 r15, uint8_t *out)
{
	const __m512i split = quarters((const int8_t[16]){0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15});
	/* each quarter of the packed order holds four numbers of each of the four vectors */
	const __m256i order = _mm256_setr_epi16(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
	const __m512i one = _mm512_set1_epi8(1);
	__m512i p = _mm512_shuffle_epi8(_mm512_packs_epi32(fine16(x, c, r15), fine16(x + 16, c, r15)), split);
	__m512i q = _mm512_shuffle_epi8(_mm512_packs_epi32(fine16(x + 32, c, r15), fine16(x + 48, c, r15)), split);
	__m512i l = _mm512_xor_si512(_mm512_unpacklo_epi64(p, q), _mm512_set1_epi8(-128)), h = _mm512_unpackhi_epi64(p, q);
	__m512i cell = _mm512_and_si512(_mm512_srli_epi16(h, 4), _mm512_set1_epi8(15)), n = _mm512_shuffle_epi8(b->base, cell), next;
	__mmask64 same;

	n = _mm512_mask_add_epi8(n, _mm512_cmpgt_epi8_mask(h, _mm512_shuffle_epi8(b->t1, cell)), n, one);
	n = _mm512_mask_add_epi8(n, _mm512_cmpgt_epi8_mask(h, _mm512_shuffle_epi8(b->t2, cell)), n, one);
	same = _mm512_cmpeq_epi8_mask(h, _mm512_shuffle_epi8(b->high, n));
	next = _mm512_shuffle_epi8(b->low, n);
	if (_mm512_mask_cmpeq_epi8_mask(same, l, next) != 0)
		return false;
	n = _mm512_mask_add_epi8(n, _mm512_mask_cmpgt_epi8_mask(same, l, next), n, one);
	n = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm256_castsi256_si128(b->map)), n);
	n = _mm512_maddubs_epi16(n, _mm512_set1_epi16(0x0110));
	_mm256_storeu_si256((__m256i *)out, _mm256_permutexvar_epi16(order, _mm512_cvtepi16_epi8(n)));
	return true;
}

static inline __attribute__((always_inline)) void k_encode(const k_book *b, const float *x, size_t n, float c, float r, uint8_t *out)
{
	const __m512 thr = b->thr, vc = _mm512_set1_ps(c), vr = _mm512_set1_ps(r), r15 = _mm512_set1_ps(r * 0x1p15f);
	const bool fine = b->fine && r < FINE_MAX;

	for (size_t i = 0; i < n;) {
		size_t left = n - i < 32 ? n - i : 32;
		__m512 v, w;
		__m512i p, q;
		__m256i codes;

		if (n - i >= 64 && fine && fine64(b, x + i, vc, r15, out + i / 2)) {
			i += 64;
			continue;
		}
		v = _mm512_maskz_loadu_ps(first16(left), x + i);
		w = _mm512_maskz_loadu_ps(left > 16 ? first16(left - 16) : 0, x + i + 16);
		p = search16(thr, _mm512_mul_ps(_mm512_sub_ps(v, vc), vr));
		q = search16(thr, _mm512_mul_ps(_mm512_sub_ps(w, vc), vr));
		codes = _mm256_shuffle_epi8(b->map, join(p, q));

		if (left < 32) /* the odd last nibble */
			codes = _mm256_mask_mov_epi8(_mm256_set1_epi8(b->zero), (__mmask32)((1u << left) - 1), codes);
		store_nibbles(codes, left, out + i / 2);
		i += 32;
	}
}

static void k_encode_range(const float *x, size_t n, float c, float r, uint8_t *out)
{
	const __m512 vc = _mm512_set1_ps(c), vr = _mm512_set1_ps(r), top = _mm512_set1_ps(15.0f);

	for (size_t i = 0; i < n; i += 32) {
		size_t left = n - i < 32 ? n - i : 32;
		__m512 v = _mm512_maskz_loadu_ps(first16(left), x + i);
		__m512 w = _mm512_maskz_loadu_ps(left > 16 ? first16(left - 16) : 0, x + i + 16);
		__m256i codes;

		v = _mm512_mul_ps(_mm512_sub_ps(v, vc), vr);
		w = _mm512_mul_ps(_mm512_sub_ps(w, vc), vr);
		v = _mm512_min_ps(_mm512_max_ps(v, _mm512_setzero_ps()), top);
		w = _mm512_min_ps(_mm512_max_ps(w, _mm512_setzero_ps()), top);
		codes = join(_mm512_cvtps_epi32(v), _mm512_cvtps_epi32(w));
		if (left < 32)
			codes = _mm256_maskz_mov_epi8((__mmask32)((1u << left) - 1), codes);
		store_nibbles(codes, left, out + i / 2);
	}
}

static inline void k_lut(const float code[16], float scale, const float *zero, float lut[16])
{
	__m512 v = _mm512_mul_ps(_mm512_loadu_ps(code), _mm512_set1_ps(scale));

	_mm512_store_ps(lut, zero == NULL ? v : _mm512_add_ps(v, _mm512_set1_ps(*zero)));
}

static inline __attribute__((always_inline)) void k_decode_f32(const float lut[16], const uint8_t *codes, size_t n, float *dst, bool stream)
{
	const __m512 table = _mm512_load_ps(lut);
	const __m128i nib = _mm_set1_epi8(15);
	size_t i = 0;

	stream = stream && (uintptr_t)dst % 64 == 0;
	for (; i + 16 <= n; i += 16) {
		__m128i c = _mm_loadl_epi64((const __m128i *)(codes + i / 2));
		__m128i k = _mm_unpacklo_epi8(_mm_and_si128(_mm_srli_epi16(c, 4), nib), _mm_and_si128(c, nib));
		__m512 v = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(k), table);

		if (stream)
			_mm512_stream_ps(dst + i, v);
		else
			_mm512_storeu_ps(dst + i, v);
	}
	for (; i < n; i++)
		dst[i] = lut[i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15];
}

static void k_decode_h16(const uint16_t lut[16], const uint8_t *codes, size_t n, uint16_t *dst, bool stream)
{
	const __m512i table = _mm512_castsi256_si512(_mm256_load_si256((const __m256i *)lut));
	const __m128i nib = _mm_set1_epi8(15);
	size_t i = 0;

	stream = stream && (uintptr_t)dst % 64 == 0;
	for (; i + 32 <= n; i += 32) {
		__m128i c = _mm_loadu_si128((const __m128i *)(codes + i / 2));
		__m128i even = _mm_and_si128(_mm_srli_epi16(c, 4), nib), odd = _mm_and_si128(c, nib);
		__m256i k = _mm256_set_m128i(_mm_unpackhi_epi8(even, odd), _mm_unpacklo_epi8(even, odd));
		__m512i v = _mm512_permutexvar_epi16(_mm512_cvtepu8_epi16(k), table);

		if (stream)
			_mm512_stream_si512((__m512i *)(dst + i), v);
		else
			_mm512_storeu_si512(dst + i, v);
	}
	for (; i < n; i++)
		dst[i] = lut[i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15];
}

static void k_narrow16(const float lut[16], enum ql_dtype t, uint16_t half[16])
{
	if (t == QL_F16) {
		_mm256_store_si256((__m256i *)half, _mm512_cvtps_ph(_mm512_load_ps(lut), 0));
		return;
	}
	for (int k = 0; k < 16; k++)
		half[k] = ql_bf16_of_f32(lut[k]);
}

static void k_fence(bool stream)
{
	if (stream)
		_mm_sfence();
}

static void k_int8_encode(const float *x, size_t n, float r, int8_t *q)
{
	const __m512 vr = _mm512_set1_ps(r), top = _mm512_set1_ps(127.0f), bottom = _mm512_set1_ps(-127.0f);

	for (size_t i = 0; i < n; i += 16) {
		__mmask16 m = first16(n - i);
		__m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, x + i), vr);

		v = _mm512_max_ps(_mm512_min_ps(v, top), bottom);
		_mm_mask_storeu_epi8(q + i, m, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
	}
}

#include "core/quant/q4_body.inc.h"

const struct ql_quant_ops ql_quant_ops_avx512 = {
	.name = "avx512",
	.q4_quant = k_q4_quant,
	.q4_dequant_f32 = k_q4_dequant_f32,
	.q4_dequant_h16 = k_q4_dequant_h16,
	.widen = k_widen,
	.narrow = k_narrow,
	.absmax_bits = k_absmax_bits,
	.int8_encode = k_int8_encode,
	QL_BLK_TABLE(avx512),
};
