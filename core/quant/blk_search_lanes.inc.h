/* blk_search_lanes.inc.h - the searches of blk_search_ref.inc.h, eight sub-blocks in the lanes of one 256-bit vector.
 *
 * The data is transposed first: element i of all eight sub-blocks is one vector.  Each lane then does exactly the scalar
 * steps in the scalar order; branches become blends.  Multiplications and additions are never fused. */

#define SET1 _mm256_set1_ps

/* 8 rows of n floats (n a multiple of 8; row j at x + j*stride) to n vectors. */
static inline void transpose8(const float *x, size_t stride, size_t n, __m256 *out)
{
	for (size_t i = 0; i < n; i += 8) {
		__m256 r[8], t[8];

		for (int j = 0; j < 8; j++)
			r[j] = _mm256_loadu_ps(x + (size_t)j * stride + i);
		for (int j = 0; j < 8; j += 2) {
			t[j] = _mm256_unpacklo_ps(r[j], r[j + 1]);
			t[j + 1] = _mm256_unpackhi_ps(r[j], r[j + 1]);
		}
		for (int j = 0; j < 8; j += 4) {
			r[j] = _mm256_shuffle_ps(t[j], t[j + 2], 0x44);
			r[j + 1] = _mm256_shuffle_ps(t[j], t[j + 2], 0xee);
			r[j + 2] = _mm256_shuffle_ps(t[j + 1], t[j + 3], 0x44);
			r[j + 3] = _mm256_shuffle_ps(t[j + 1], t[j + 3], 0xee);
		}
		for (int j = 0; j < 4; j++) {
			out[i + (size_t)j] = _mm256_permute2f128_ps(r[j], r[j + 4], 0x20);
			out[i + (size_t)j + 4] = _mm256_permute2f128_ps(r[j], r[j + 4], 0x31);
		}
	}
}

/* Vectors of small non-negative whole numbers back to bytes, row j at out + j*n. */
static inline void untranspose_codes(const __m256 *l, size_t n, float add, uint8_t *out)
{
	for (size_t i = 0; i < n; i++) {
		float f[8];

		_mm256_storeu_ps(f, l[i]);
		for (size_t j = 0; j < 8; j++)
			out[j * n + i] = (uint8_t)(f[j] + add);
	}
}

/* Clamp (NaN to lo: the second operand of max is taken), then round half to even. */
static inline __m256 near8(__m256 v, __m256 lo, __m256 hi)
{
	v = _mm256_min_ps(_mm256_max_ps(v, lo), hi);
	return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline __m256 mul(__m256 a, __m256 b) { return _mm256_mul_ps(a, b); }
static inline __m256 add(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
static inline __m256 sub(__m256 a, __m256 b) { return _mm256_sub_ps(a, b); }
static inline __m256 quot(__m256 a, __m256 b) { return _mm256_div_ps(a, b); }
static inline __m256 pick(__m256 mask, __m256 yes, __m256 no) { return _mm256_blendv_ps(no, yes, mask); }
static inline __m256 gt(__m256 a, __m256 b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }

struct asym_sums {
	__m256 l, l2, xl;
};

static inline struct asym_sums asym_try(const __m256 *x, const __m256 *w, __m256 iscale, __m256 mn, __m256 top,
					__m256 *l)
{
	const __m256 zero = _mm256_setzero_ps();
	struct asym_sums s = {zero, zero, zero};

	for (int i = 0; i < 32; i++) {
		__m256 q = near8(mul(iscale, sub(x[i], mn)), zero, top), wq = mul(w[i], q);

		l[i] = q;
		s.l = add(s.l, wq);
		s.l2 = add(s.l2, mul(wq, q));
		s.xl = add(s.xl, mul(wq, x[i]));
	}
	return s;
}

static inline __m256 asym_error(const __m256 *x, const __m256 *w, const __m256 *l, __m256 scale, __m256 mn)
{
	__m256 error = _mm256_setzero_ps();

	for (int i = 0; i < 32; i++) {
		__m256 diff = sub(add(mul(scale, l[i]), mn), x[i]);

		error = add(error, mul(w[i], mul(diff, diff)));
	}
	return error;
}

static void search_asym(const float *xr, const float *wr, int nmax, float rmin, float rdelta, int nstep, uint8_t *codes,
			float scale_out[8], float min_out[8])
{
	const __m256 zero = _mm256_setzero_ps(), top = SET1((float)nmax);
	__m256 x[32], w[32], L[32], aux[32], mn, mx, sw, sx, scale, best, flat;

	transpose8(xr, 32, 32, x);
	transpose8(wr, 32, 32, w);
	mn = x[0];
	mx = x[0];
	sw = w[0];
	sx = mul(w[0], x[0]);
	for (int i = 1; i < 32; i++) {
		mn = _mm256_min_ps(x[i], mn);
		mx = _mm256_max_ps(x[i], mx);
		sw = add(sw, w[i]);
		sx = add(sx, mul(w[i], x[i]));
	}
	mn = pick(gt(mn, zero), zero, mn);
	flat = _mm256_cmp_ps(mx, mn, _CMP_EQ_OQ);
	scale = quot(top, sub(mx, mn));
	(void)asym_try(x, w, scale, mn, top, L);
	scale = quot(SET1(1.0f), scale);
	best = asym_error(x, w, L, scale, mn);
	const __m256 flat_min = mn;

	for (int is = 0; is <= nstep; is++) {
		__m256 iscale = quot(SET1(rmin + rdelta * (float)is + (float)nmax), sub(mx, mn));
		struct asym_sums t = asym_try(x, w, iscale, mn, top, aux);
		__m256 det = sub(mul(sw, t.l2), mul(t.l, t.l)), s, m, clip, keep;

		s = quot(sub(mul(sw, t.xl), mul(sx, t.l)), det);
		m = quot(sub(mul(t.l2, sx), mul(t.l, t.xl)), det);
		clip = gt(m, zero);
		m = pick(clip, zero, m);
		s = pick(clip, quot(t.xl, t.l2), s);
		t.l = asym_error(x, w, aux, s, m);
		keep = _mm256_and_ps(gt(det, zero), gt(best, t.l));
		if (_mm256_movemask_ps(keep) == 0)
			continue;
		best = pick(keep, t.l, best);
		scale = pick(keep, s, scale);
		mn = pick(keep, m, mn);
		for (int i = 0; i < 32; i++)
			L[i] = pick(keep, aux[i], L[i]);
	}
	for (int i = 0; i < 32; i++)
		L[i] = _mm256_andnot_ps(flat, L[i]);
	mn = pick(flat, flat_min, mn);
	_mm256_storeu_ps(scale_out, _mm256_andnot_ps(flat, scale));
	_mm256_storeu_ps(min_out, _mm256_xor_ps(mn, SET1(-0.0f)));
	untranspose_codes(L, 32, 0.0f, codes);
}

/* The first element of largest magnitude of each lane, and that magnitude. */
static inline void extreme8(const __m256 *x, int n, __m256 *v, __m256 *amax)
{
	const __m256 sign = SET1(-0.0f);

	*v = _mm256_setzero_ps();
	*amax = *v;
	for (int i = 0; i < n; i++) {
		__m256 a = _mm256_andnot_ps(sign, x[i]), more = gt(a, *amax);

		*amax = pick(more, a, *amax);
		*v = pick(more, x[i], *v);
	}
}

static inline void sym_sums(const __m256 *x, const __m256 *w, __m256 iscale, __m256 *lx, __m256 *l2)
{
	const __m256 lo = SET1(-32.0f), hi = SET1(31.0f);

	*lx = _mm256_setzero_ps();
	*l2 = *lx;
	for (int i = 0; i < 16; i++) {
		__m256 q = near8(mul(iscale, x[i]), lo, hi);

		*lx = add(*lx, mul(mul(w[i], x[i]), q));
		*l2 = add(*l2, mul(mul(w[i], q), q));
	}
}

static void sym8(const float *xr, const float *wr, uint8_t *codes, float *scale_out)
{
	const __m256 zero = _mm256_setzero_ps(), lo = SET1(-32.0f), hi = SET1(31.0f);
	__m256 x[16], w[16], v, amax, tiny, chosen, scale, best, lx, l2;

	transpose8(xr, 16, 16, x);
	transpose8(wr, 16, 16, w);
	extreme8(x, 16, &v, &amax);
	tiny = gt(SET1(BLK_EPS), amax);
	chosen = quot(SET1(-32.0f), v);
	sym_sums(x, w, chosen, &lx, &l2);
	scale = pick(_mm256_cmp_ps(l2, zero, _CMP_NEQ_UQ), quot(lx, l2), zero);
	best = mul(scale, lx);
	for (int is = -9; is <= 9; is++) {
		__m256 iscale, keep;

		if (is == 0)
			continue;
		iscale = quot(SET1(-(32.0f + 0.1f * (float)is)), v);
		sym_sums(x, w, iscale, &lx, &l2);
		keep = _mm256_and_ps(gt(l2, zero), gt(mul(lx, lx), mul(best, l2)));
		chosen = pick(keep, iscale, chosen);
		scale = pick(keep, quot(lx, l2), scale);
		best = pick(keep, mul(scale, lx), best);
	}
	for (int i = 0; i < 16; i++) {
		__m256 q = add(near8(mul(chosen, x[i]), lo, hi), SET1(32.0f));

		x[i] = _mm256_andnot_ps(tiny, q);
	}
	_mm256_storeu_ps(scale_out, _mm256_andnot_ps(tiny, scale));
	untranspose_codes(x, 16, 0.0f, codes);
}

static void search_sym(const float *x, const float *w, uint8_t *L, float scale[16])
{
	sym8(x, w, L, scale);
	sym8(x + 128, w + 128, L + 128, scale + 8);
}

static const float iq4_value[16] = BLK_IQ4_VALUES, iq4_mid[15] = BLK_IQ4_MIDS;

static int iq4_code(float v)
{
	int code = 0;

	for (int k = 0; k < 15; k++)
		code += v >= iq4_mid[k];
	return code;
}

/* Value of the level nearest to v: a binary search over the midpoints as in kern_avx2.c, then a look-up. */
static inline __m256 iq4_near(__m256 v)
{
	const float *t = iq4_mid, *q = iq4_value;
	const __m256 level3 = _mm256_setr_ps(t[1], t[13], t[9], t[5], t[1], t[13], t[9], t[5]);
	const __m256 level4 = _mm256_setr_ps(t[0], t[14], t[12], t[10], t[8], t[6], t[4], t[2]);
	const __m256 low = _mm256_loadu_ps(q), high = _mm256_loadu_ps(q + 8);
	__m256 m1 = _mm256_cmp_ps(v, SET1(t[7]), _CMP_GE_OQ);
	__m256 m = _mm256_cmp_ps(v, pick(m1, SET1(t[11]), SET1(t[3])), _CMP_GE_OQ);
	__m256i k = _mm256_castps_si256(m1);

	k = _mm256_add_epi32(_mm256_add_epi32(k, k), _mm256_castps_si256(m));
	m = _mm256_cmp_ps(v, _mm256_permutevar_ps(level3, k), _CMP_GE_OQ);
	k = _mm256_add_epi32(_mm256_add_epi32(k, k), _mm256_castps_si256(m));
	m = _mm256_cmp_ps(v, _mm256_permutevar8x32_ps(level4, k), _CMP_GE_OQ);
	k = _mm256_add_epi32(_mm256_add_epi32(k, k), _mm256_castps_si256(m));
	k = _mm256_sub_epi32(_mm256_setzero_si256(), k);
	return pick(m1, _mm256_permutevar8x32_ps(high, k), _mm256_permutevar8x32_ps(low, k));
}

static inline void iq4_sums(const __m256 *x, __m256 id, __m256 *qx, __m256 *q2)
{
	*qx = _mm256_setzero_ps();
	*q2 = *qx;
	for (int i = 0; i < 32; i++) {
		__m256 q = iq4_near(mul(id, x[i])), wq = mul(mul(x[i], x[i]), q);

		*qx = add(*qx, mul(wq, x[i]));
		*q2 = add(*q2, mul(wq, q));
	}
}

static void iq4_eight(const float *xr, float *scale)
{
	const __m256 first = SET1(iq4_value[0]);
	__m256 x[32], v, amax, d, best, qx, q2;

	transpose8(xr, 32, 32, x);
	extreme8(x, 32, &v, &amax);
	iq4_sums(x, quot(SET1(1.0f), quot(_mm256_xor_ps(v, SET1(-0.0f)), first)), &qx, &q2);
	d = quot(qx, q2);
	best = mul(d, qx);
	for (int k = -7; k <= 7; k++) {
		__m256 keep;

		iq4_sums(x, quot(SET1((float)k + iq4_value[0]), v), &qx, &q2);
		keep = _mm256_and_ps(gt(q2, _mm256_setzero_ps()), gt(mul(qx, qx), mul(best, q2)));
		d = pick(keep, quot(qx, q2), d);
		best = pick(keep, mul(d, qx), best);
	}
	_mm256_storeu_ps(scale, _mm256_andnot_ps(gt(SET1(BLK_EPS), amax), d));
}

static void search_iq4(const float *x, size_t n_blocks, float *scale)
{
	size_t b = 0;
	float rest[256] = {0}, s[8];

	for (; b + 8 <= n_blocks; b += 8)
		iq4_eight(x + 32 * b, scale + b);
	if (b == n_blocks)
		return;
	memcpy(rest, x + 32 * b, (n_blocks - b) * 32 * sizeof *x);
	iq4_eight(rest, s);
	memcpy(scale + b, s, (n_blocks - b) * sizeof *s);
}
