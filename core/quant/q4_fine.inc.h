/* q4_fine.inc.h - what the x86 kernels share: tables for the code search on bytes (32 or 64 values at a time instead of 8 or 16),
 * and the scales of eight blocks at once.
 *
 * q = rint(v * 2^15), saturated to 16 bits, never decreases with v, so with T = rint(thr * 2^15) it holds that q > T gives
 * v > thr, and q < T gives v < thr; only q = T leaves the answer open.  The high byte H of q finds the number of thresholds
 * whose own high byte lies below: its upper four bits name one of 16 cells of width 1/8, a cell knows how many thresholds lie
 * before it and holds at most two itself.  Where H is the next threshold's high byte the low bytes decide, and where these are
 * equal too (about one value in 4,000) the caller searches these values on the fp32 thresholds.  The multiplication by
 * 2^15 is exact: it is part of the scale, which must stay below FINE_MAX. */
#define FINE_MAX 1e30f

struct fine_tables {
	_Alignas(16) int8_t base[16], t1[16], t2[16]; /* per cell: thresholds before it; high bytes of its own, 127: none */
	_Alignas(16) int8_t high[16], low[16];	       /* per count of thresholds below: the next one's bytes, low with the top bit flipped */
	bool ok;				       /* the book has this form */
};

static struct fine_tables fine_tables_of(const struct ql_q4_book *b)
{
	struct fine_tables f = {.ok = true};
	int last = -129;

	memset(f.t1, 127, 16);
	memset(f.t2, 127, 16);
	memset(f.high, -128, 16); /* after the last threshold: a high byte that is never met there */
	for (int k = 0; k < 15; k++) {
		int q, h, cell;

		if (b->thr[k] < -1.0f) { /* always below */
			for (int c = 0; c < 16; c++)
				f.base[c]++;
			continue;
		}
		q = (int)rintf(b->thr[k] * 0x1p15f);
		h = q >> 8; /* floor */
		cell = h >> 4;
		if (h <= last || h >= 127 || h == -128 || f.t2[cell & 15] != 127) {
			f.ok = false;
			break;
		}
		last = h;
		*(f.t1[cell & 15] == 127 ? &f.t1[cell & 15] : &f.t2[cell & 15]) = (int8_t)h;
		for (int c = cell + 1; c < 8; c++)
			f.base[c & 15]++;
		f.high[k] = (int8_t)h;
		f.low[k] = (int8_t)((q & 255) - 128);
	}
	return f;
}

/* Eight vectors of bits of absolute values, one of each block: the scales and their reciprocals.  False where one holds an
 * infinity or a NaN. */
static inline __attribute__((always_inline)) bool scales_of8(const __m256i m[8], float scale[8], float recip[8])
{
	__m256i t[4], u[2], bits;
	__m256 s;

	for (int k = 0; k < 4; k++)
		t[k] = _mm256_max_epi32(_mm256_unpacklo_epi32(m[2 * k], m[2 * k + 1]), _mm256_unpackhi_epi32(m[2 * k], m[2 * k + 1]));
	for (int k = 0; k < 2; k++)
		u[k] = _mm256_max_epi32(_mm256_unpacklo_epi64(t[2 * k], t[2 * k + 1]), _mm256_unpackhi_epi64(t[2 * k], t[2 * k + 1]));
	bits = _mm256_max_epi32(_mm256_permute2x128_si256(u[0], u[1], 0x20), _mm256_permute2x128_si256(u[0], u[1], 0x31));
	s = _mm256_castsi256_ps(bits);
	_mm256_storeu_ps(scale, s);
	_mm256_storeu_ps(recip, _mm256_div_ps(_mm256_set1_ps(1.0f), _mm256_max_ps(s, _mm256_set1_ps(QL_SCALE_FLOOR))));
	return _mm256_testz_si256(_mm256_cmpgt_epi32(bits, _mm256_set1_epi32((int)QL_BITS_INF - 1)), _mm256_set1_epi32(-1));
}
