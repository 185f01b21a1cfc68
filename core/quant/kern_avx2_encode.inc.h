/* kern_avx2_encode.inc.h - how kern_avx2.c finds 4-bit codes.
 *
 * On bytes, 32 values at a time (q4_fine.inc.h), where the book allows; otherwise, and for values these leave open, by a
 * branch-free binary search over the 15 thresholds, eight values at a time; each level takes its threshold from a small table
 * by the bits found so far.  `order` is kept negated, because comparison masks are -1:
 *   m1 = v > thr[7];  m2 = v > (m1 ? thr[11] : thr[3]);  m3, m4 from tables of 4 and 8 with index -(bits so far)
 * which counts the thresholds strictly below v exactly. */
typedef struct {
	__m256i base, t1, t2, high, low;
	bool ok;
} k_fine;

static inline __m256i both_halves(const void *p) { return _mm256_broadcastsi128_si256(_mm_load_si128(p)); }

static k_fine k_fine_of(const struct ql_q4_book *b)
{
	const struct fine_tables t = fine_tables_of(b);

	return (k_fine){both_halves(t.base), both_halves(t.t1), both_halves(t.t2), both_halves(t.high), both_halves(t.low), t.ok};
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

/* A code book laid out for the search. */
typedef struct {
	__m256 t7, t3, t11, level3, level4;
	__m256i map;
	k_fine fine;
	const struct ql_q4_book *book;
} k_book;

static inline k_book k_book_of(const struct ql_q4_book *b)
{
	const float *t = b->thr;

	return (k_book){
		.t7 = _mm256_set1_ps(t[7]),
		.t3 = _mm256_set1_ps(t[3]),
		.t11 = _mm256_set1_ps(t[11]),
		/* entry (-k & 3) is thr[1 + 4k]; entry (-k & 7) is thr[2k] */
		.level3 = _mm256_setr_ps(t[1], t[13], t[9], t[5], t[1], t[13], t[9], t[5]),
		.level4 = _mm256_setr_ps(t[0], t[14], t[12], t[10], t[8], t[6], t[4], t[2]),
		.map = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)b->map)),
		.fine = k_fine_of(b),
		.book = b,
	};
}

/* Minus the number of thresholds below v. */
static inline __m256i search8(const k_book *s, __m256 v)
{
	__m256 m1 = _mm256_cmp_ps(v, s->t7, _CMP_GT_OQ);
	__m256 m2 = _mm256_cmp_ps(v, _mm256_blendv_ps(s->t3, s->t11, m1), _CMP_GT_OQ);
	__m256i i1 = _mm256_castps_si256(m1), k;
	__m256 m3, m4;

	k = _mm256_add_epi32(_mm256_add_epi32(i1, i1), _mm256_castps_si256(m2));
	m3 = _mm256_cmp_ps(v, _mm256_permutevar_ps(s->level3, k), _CMP_GT_OQ);
	k = _mm256_add_epi32(_mm256_add_epi32(k, k), _mm256_castps_si256(m3));
	m4 = _mm256_cmp_ps(v, _mm256_permutevar8x32_ps(s->level4, k), _CMP_GT_OQ);
	return _mm256_add_epi32(_mm256_add_epi32(k, k), _mm256_castps_si256(m4));
}

/* Four vectors of small ints to 32 bytes; the order is undone by store_nibbles. */
static inline __m256i pack32(__m256i a, __m256i b, __m256i c, __m256i d)
{
	return _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
}

/* 32 codes in pack32's order (4 of each vector per lane) to 16 bytes, first element high. */
static inline void store_nibbles(__m256i codes, uint8_t *out)
{
	__m256i pairs = _mm256_maddubs_epi16(codes, _mm256_set1_epi16(0x0110)); /* 16 * even + odd */
	__m128i low, high;

	pairs = _mm256_packus_epi16(pairs, pairs);
	low = _mm256_castsi256_si128(pairs);
	high = _mm256_extracti128_si256(pairs, 1);
	_mm_storeu_si128((__m128i *)out, _mm_unpacklo_epi16(low, high));
}

/* The thresholds below 32 values (x - c) * r. */
static __attribute__((noinline)) __m256i search32(const k_book *b, const float *x, float c, float r)
{
	const __m256 vc = _mm256_set1_ps(c), vr = _mm256_set1_ps(r);
	__m256i q[4];

	for (int k = 0; k < 4; k++)
		q[k] = search8(b, _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x + 8 * k), vc), vr));
	return _mm256_abs_epi8(pack32(q[0], q[1], q[2], q[3]));
}

static uint8_t code_of(const struct ql_q4_book *b, float v)
{
	int order = 0;

	for (int k = 0; k < 15; k++)
		order += v > b->thr[k];
	return b->map[order];
}

/* 64 codes in pack32's order to 32 bytes. */
static inline void store_nibbles2(__m256i first, __m256i second, uint8_t *out)
{
	const __m256i weigh = _mm256_set1_epi16(0x0110);
	__m256i pairs = _mm256_packus_epi16(_mm256_maddubs_epi16(first, weigh), _mm256_maddubs_epi16(second, weigh));
	__m128i low = _mm256_castsi256_si128(pairs), high = _mm256_extracti128_si256(pairs, 1);

	_mm_storeu_si128((__m128i *)out, _mm_unpacklo_epi16(low, high));
	_mm_storeu_si128((__m128i *)(out + 16), _mm_unpackhi_epi16(low, high));
}

static inline __attribute__((always_inline)) __m256i count32(const k_book *b, const float *x, bool shifted, float c, float r)
{
	__m256i p;

	if (!fine32(&b->fine, x, shifted, _mm256_set1_ps(c), _mm256_set1_ps(r * 0x1p15f), &p))
		p = search32(b, x, c, r);
	return _mm256_shuffle_epi8(b->map, p);
}

static inline __attribute__((always_inline)) void k_encode(const k_book *b, const float *x, size_t n, float c, float r, uint8_t *out)
{
	size_t i = 0;

	if (b->fine.ok && c == 0.0f && r < FINE_MAX)
		for (; i + 64 <= n; i += 64)
			store_nibbles2(count32(b, x + i, false, 0.0f, r), count32(b, x + i + 32, false, 0.0f, r), out + i / 2);
	else if (b->fine.ok && r < FINE_MAX)
		for (; i + 64 <= n; i += 64)
			store_nibbles2(count32(b, x + i, true, c, r), count32(b, x + i + 32, true, c, r), out + i / 2);
	for (; i + 32 <= n; i += 32)
		store_nibbles(_mm256_shuffle_epi8(b->map, search32(b, x + i, c, r)), out + i / 2);
	for (; i < n; i += 2) {
		uint8_t hi = code_of(b->book, (x[i] - c) * r);
		uint8_t lo = i + 1 < n ? code_of(b->book, (x[i + 1] - c) * r) : b->book->zero;

		out[i / 2] = (uint8_t)(hi << 4 | lo);
	}
}

static uint8_t range_code(float v)
{
	v = v > 0.0f ? v : 0.0f;
	v = v < 15.0f ? v : 15.0f;
	return (uint8_t)_mm_cvtss_si32(_mm_set_ss(v));
}

static void k_encode_range(const float *x, size_t n, float c, float r, uint8_t *out)
{
	const __m256 vc = _mm256_set1_ps(c), vr = _mm256_set1_ps(r), top = _mm256_set1_ps(15.0f);
	size_t i = 0;

	for (; i + 32 <= n; i += 32) {
		__m256i q[4];

		for (int k = 0; k < 4; k++) {
			__m256 v = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x + i + 8 * k), vc), vr);

			v = _mm256_min_ps(_mm256_max_ps(v, _mm256_setzero_ps()), top);
			q[k] = _mm256_cvtps_epi32(v);
		}
		store_nibbles(pack32(q[0], q[1], q[2], q[3]), out + i / 2);
	}
	for (; i < n; i += 2) {
		uint8_t hi = range_code((x[i] - c) * r);
		uint8_t lo = i + 1 < n ? range_code((x[i + 1] - c) * r) : 0;

		out[i / 2] = (uint8_t)(hi << 4 | lo);
	}
}
