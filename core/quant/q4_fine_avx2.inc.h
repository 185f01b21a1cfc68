/* q4_fine_avx2.inc.h - the code search of kern_avx2.c on bytes: 32 values at a time instead of eight.
 *
 * q = rint(v * 2^15), saturated to 16 bits, never decreases with v, so with T = rint(thr * 2^15) it holds that q > T gives
 * v > thr, and q < T gives v < thr; only q = T leaves the answer open.  The high byte H of q finds the number of thresholds
 * whose own high byte lies below: its upper four bits name one of 16 cells of width 1/8, a cell knows how many thresholds lie
 * before it and holds at most two itself.  Where H is the next threshold's high byte the low bytes decide, and where these are
 * equal too (about one value in 4,000) the caller searches the 32 values on the fp32 thresholds.  The multiplication by
 * 2^15 is exact: it is part of the scale, which must stay below FINE_MAX. */
#define FINE_MAX 1e30f

typedef struct {
	__m256i base, t1, t2;  /* per cell: thresholds before it; high bytes of its own, 127 where there is none */
	__m256i high, low;     /* per count of thresholds below: the next one's bytes, low with the top bit flipped */
	bool ok;	       /* the book has this form */
} k_fine;

static k_fine k_fine_of(const struct ql_q4_book *b)
{
	int8_t base[16] = {0}, t1[16], t2[16], high[16], low[16];
	k_fine f = {.ok = true};
	int last = -129;

	memset(t1, 127, 16);
	memset(t2, 127, 16);
	memset(high, -128, 16); /* after the last threshold: a high byte that is never met there */
	memset(low, 0, 16);
	for (int k = 0; k < 15; k++) {
		int q, h, cell;

		if (b->thr[k] < -1.0f) { /* always below */
			for (int c = 0; c < 16; c++)
				base[c]++;
			continue;
		}
		q = (int)rintf(b->thr[k] * 0x1p15f);
		h = q >> 8; /* floor */
		cell = h >> 4;
		if (h <= last || h >= 127 || h == -128 || t2[cell & 15] != 127) {
			f.ok = false;
			break;
		}
		last = h;
		*(t1[cell & 15] == 127 ? &t1[cell & 15] : &t2[cell & 15]) = (int8_t)h;
		for (int c = cell + 1; c < 8; c++)
			base[c & 15]++;
		high[k] = (int8_t)h;
		low[k] = (int8_t)((q & 255) - 128);
	}
	f.base = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)base));
	f.t1 = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)t1));
	f.t2 = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)t2));
	f.high = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)high));
	f.low = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)low));
	return f;
}

static inline __attribute__((always_inline)) __m256i fine8(const float *x, bool shifted, __m256 c, __m256 r15)
{
	__m256 v = _mm256_loadu_ps(x);

	return _mm256_cvtps_epi32(_mm256_mul_ps(shifted ? _mm256_sub_ps(v, c) : v, r15));
}

/* The thresholds below 32 values (x - c) * r, given r * 2^15, in pack32's order; c counts if shifted.  False: some value needs
 * the fp32 search. */
static inline __attribute__((always_inline)) bool fine32(const k_fine *f, const float *x, bool shifted, __m256 c, __m256 r15, __m256i *count)
{
	const __m256i flip = _mm256_set1_epi8(-128), nib = _mm256_set1_epi8(15);
	const __m256i split = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
	__m256i v0 = fine8(x, shifted, c, r15), v1 = fine8(x + 8, shifted, c, r15);
	__m256i v2 = fine8(x + 16, shifted, c, r15), v3 = fine8(x + 24, shifted, c, r15);
	__m256i p = _mm256_shuffle_epi8(_mm256_packs_epi32(v0, v1), split); /* in each half: low bytes, high bytes */
	__m256i q = _mm256_shuffle_epi8(_mm256_packs_epi32(v2, v3), split);
	__m256i l = _mm256_xor_si256(_mm256_unpacklo_epi64(p, q), flip), h = _mm256_unpackhi_epi64(p, q);
	__m256i cell = _mm256_and_si256(_mm256_srli_epi16(h, 4), nib), same, next;
	__m256i n = _mm256_sub_epi8(_mm256_shuffle_epi8(f->base, cell), _mm256_cmpgt_epi8(h, _mm256_shuffle_epi8(f->t1, cell)));

	n = _mm256_sub_epi8(n, _mm256_cmpgt_epi8(h, _mm256_shuffle_epi8(f->t2, cell)));
	same = _mm256_cmpeq_epi8(h, _mm256_shuffle_epi8(f->high, n));
	next = _mm256_shuffle_epi8(f->low, n);
	*count = _mm256_sub_epi8(n, _mm256_and_si256(same, _mm256_cmpgt_epi8(l, next)));
	return _mm256_testz_si256(same, _mm256_cmpeq_epi8(l, next));
}
