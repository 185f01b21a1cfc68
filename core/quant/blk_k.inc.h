/* blk_k.inc.h - fp32 to Q4_K, Q5_K, Q6_K and IQ4_NL.  Included once per instruction set, after one of the searches.
 *
 * Q4_K, Q5_K, per sub-block of 32: weights w = sqrt(sum x^2 / 32) + |x|; (scale, min) by search_asym with nmax 15,
 *   rmin -1, rdelta 0.1, 20 steps (Q5_K: 31, -0.5, 0.1, 15).  Super-block: d = max scale/63, dmin = max min/63 (f16);
 *   s_j = min(63, near(scale_j * (63/max scale))), m_j alike; then with the f16-rounded d, dmin
 *   q = clamp(near((x + dmin*m_j) / (d*s_j)), 0, nmax), left as the search found it where d*s_j = 0.
 * Q6_K, per sub-block of 16: scale by search_sym with weights x^2; the scale of largest magnitude M gives i = -128/M,
 *   d = f16(1/i), s_j = min(127, near(i * scale_j)), q = clamp(near(x/(d*s_j)), -32, 31) + 32; if all |scale| < 1e-15,
 *   zero bytes.
 * IQ4_NL: scale s by search_iq4, d = f16(s), codes = nearest level of x * (1/s).
 * (ggml-quants.c quantize_row_q4_K_ref, _q5_K_ref, _q6_K_ref, quantize_iq4_nl.)
 *
 * With importance v_i (our own): w_i = v_i * sqrt(s2 + x_i^2), s2 the mean square of the super-block, in a finer search
 * (40 steps of 0.05 from -1); then, with d and dmin fixed, each sub-block tries the neighbouring scales and mins (+-1, three
 * times over; Q6_K: scales +-2, once) and keeps the pair of least weighted error; finally the plain result takes over if
 * its weighted error is smaller.  So importance never makes that error worse. */

#define K_MAX 256 /* elements of a super-block */

static void weights_plain(const float *x, float *w)
{
	float s[8] = {0};

	for (int i = 0; i < 32; i++)
		for (int j = 0; j < 8; j++)
			s[j] += x[32 * j + i] * x[32 * j + i];
	for (int j = 0; j < 8; j++) {
		float a = sqrtf(s[j] / 32.0f);

		for (int i = 0; i < 32; i++)
			w[32 * j + i] = a + fabsf(x[32 * j + i]);
	}
}

static void weights_given(const float *x, const float *v, float *w)
{
	float s2 = 0.0f;

	for (int i = 0; i < K_MAX; i++)
		s2 += x[i] * x[i];
	s2 /= (float)K_MAX;
	for (int i = 0; i < K_MAX; i++)
		w[i] = v[i] * sqrtf(s2 + x[i] * x[i]);
}

/* sum w (x - y)^2 in fp64 */
static double weighted_error(const float *x, const float *y, const float *w, int n)
{
	double e = 0.0;

	for (int i = 0; i < n; i++) {
		double d = (double)x[i] - (double)y[i];

		e += (double)w[i] * d * d;
	}
	return e;
}

/* A super-block of Q4_K or Q5_K before packing. */
struct k_asym {
	uint16_t d, dmin;
	uint8_t s[8], m[8], q[K_MAX];
};

struct k_search {
	int nmax, nstep;
	float rmin, rdelta;
};

static void asym_scales(struct k_asym *b, const float scale[8], const float mins[8])
{
	float top_s = 0.0f, top_m = 0.0f, is, im;

	for (int j = 0; j < 8; j++) {
		top_s = scale[j] > top_s ? scale[j] : top_s;
		top_m = mins[j] > top_m ? mins[j] : top_m;
	}
	is = top_s > 0.0f ? 63.0f / top_s : 0.0f;
	im = top_m > 0.0f ? 63.0f / top_m : 0.0f;
	for (int j = 0; j < 8; j++) {
		b->s[j] = (uint8_t)blk_near(is * scale[j], 0.0f, 63.0f);
		b->m[j] = (uint8_t)blk_near(im * mins[j], 0.0f, 63.0f);
	}
	b->d = ql_f16_of_f32(top_s / 63.0f);
	b->dmin = ql_f16_of_f32(top_m / 63.0f);
}

/* Codes of sub-block x[32] for scale a and min c; untouched if a is 0. */
static void asym_codes(const float *x, float a, float c, int nmax, uint8_t *q)
{
	if (a == 0.0f)
		return;
	for (int i = 0; i < 32; i++)
		q[i] = (uint8_t)blk_near((x[i] + c) / a, 0.0f, (float)nmax);
}

static double asym_block_error(const float *x, const float *w, const struct k_asym *b)
{
	float d = ql_f32_of_f16(b->d), dmin = ql_f32_of_f16(b->dmin), y[K_MAX];

	for (int i = 0; i < K_MAX; i++)
		y[i] = d * (float)b->s[i / 32] * (float)b->q[i] - dmin * (float)b->m[i / 32];
	return weighted_error(x, y, w, K_MAX);
}

static void asym_plain(const float *x, const struct k_search *k, const float *w, struct k_asym *b)
{
	float scale[8], mins[8], d, dmin;

	search_asym(x, w, k->nmax, k->rmin, k->rdelta, k->nstep, b->q, scale, mins);
	asym_scales(b, scale, mins);
	d = ql_f32_of_f16(b->d);
	dmin = ql_f32_of_f16(b->dmin);
	for (int j = 0; j < 8; j++)
		asym_codes(x + 32 * j, d * (float)b->s[j], dmin * (float)b->m[j], k->nmax, b->q + 32 * j);
}

/* The neighbouring six-bit scale and min of each sub-block, d and dmin fixed. */
static void asym_refine(const float *x, const float *w, int nmax, struct k_asym *b)
{
	float d = ql_f32_of_f16(b->d), dmin = ql_f32_of_f16(b->dmin);

	for (int j = 0; j < 8; j++) {
		int s0 = b->s[j], m0 = b->m[j];
		double best = INFINITY;
		uint8_t old[32];

		memcpy(old, b->q + 32 * j, 32);
		for (int t = 0; t < 9; t++) {
			static const int8_t ds[9] = {0, -1, 1, 0, 0, -1, -1, 1, 1}, dm[9] = {0, 0, 0, -1, 1, -1, 1, -1, 1};
			int s = s0 + ds[t], m = m0 + dm[t];
			uint8_t q[32];
			float y[32], a, c;
			double e;

			if (s < 0 || s > 63 || m < 0 || m > 63)
				continue;
			a = d * (float)s;
			c = dmin * (float)m;
			memcpy(q, old, 32);
			asym_codes(x + 32 * j, a, c, nmax, q);
			for (int i = 0; i < 32; i++)
				y[i] = a * (float)q[i] - c;
			e = weighted_error(x + 32 * j, y, w + 32 * j, 32);
			if (e < best) {
				best = e;
				b->s[j] = (uint8_t)s;
				b->m[j] = (uint8_t)m;
				memcpy(b->q + 32 * j, q, 32);
			}
		}
	}
}

static void asym_block(const float *x, const struct k_search *k, const float *importance, struct k_asym *b)
{
	float w[K_MAX];
	struct k_asym plain;

	weights_plain(x, w);
	asym_plain(x, k, w, b);
	if (importance == NULL)
		return;
	const struct k_search fine = {k->nmax, 40, -1.0f, 0.05f};

	plain = *b;
	weights_given(x, importance, w);
	asym_plain(x, &fine, w, b);
	for (int turn = 0; turn < 3; turn++)
		asym_refine(x, w, k->nmax, b);
	if (asym_block_error(x, w, &plain) < asym_block_error(x, w, b))
		*b = plain;
}

void FN(qz_q4_k)(const float *x, size_t n_blocks, const float *weight, void *dst)
{
	static const struct k_search search = {15, 20, -1.0f, 0.1f};
	struct blk_q4_k *o = dst;
	struct k_asym b;

	for (size_t i = 0; i < n_blocks; i++, x += K_MAX, o++) {
		asym_block(x, &search, weight == NULL ? NULL : weight + i * K_MAX, &b);
		o->d = b.d;
		o->dmin = b.dmin;
		blk_k_pack(o->scales, b.s, b.m);
		for (int k = 0; k < 4; k++)
			for (int l = 0; l < 32; l++)
				o->qs[32 * k + l] = (uint8_t)(b.q[64 * k + l] | b.q[64 * k + 32 + l] << 4);
	}
}

void FN(qz_q5_k)(const float *x, size_t n_blocks, const float *weight, void *dst)
{
	static const struct k_search search = {31, 15, -0.5f, 0.1f};
	struct blk_q5_k *o = dst;
	struct k_asym b;

	for (size_t i = 0; i < n_blocks; i++, x += K_MAX, o++) {
		asym_block(x, &search, weight == NULL ? NULL : weight + i * K_MAX, &b);
		o->d = b.d;
		o->dmin = b.dmin;
		blk_k_pack(o->scales, b.s, b.m);
		memset(o->qh, 0, sizeof o->qh);
		for (int k = 0; k < 4; k++)
			for (int l = 0; l < 32; l++) {
				uint8_t q1 = b.q[64 * k + l], q2 = b.q[64 * k + 32 + l];

				o->qs[32 * k + l] = (uint8_t)((q1 & 15) | (q2 & 15) << 4);
				o->qh[l] = (uint8_t)(o->qh[l] | (q1 >> 4) << 2 * k | (q2 >> 4) << (2 * k + 1));
			}
	}
}

/* ---- Q6_K ---- */

struct k_sym {
	uint16_t d;
	int8_t s[16];
	uint8_t q[K_MAX];
};

static void sym_codes(const float *x, float a, uint8_t *q)
{
	if (a == 0.0f)
		return;
	for (int i = 0; i < 16; i++)
		q[i] = (uint8_t)(blk_near(x[i] / a, -32.0f, 31.0f) + 32.0f);
}

static double sym_block_error(const float *x, const float *w, const struct k_sym *b)
{
	float d = ql_f32_of_f16(b->d), y[K_MAX];

	for (int i = 0; i < K_MAX; i++)
		y[i] = d * (float)b->s[i / 16] * (float)(b->q[i] - 32);
	return weighted_error(x, y, w, K_MAX);
}

static void sym_plain(const float *x, const float *w, struct k_sym *b)
{
	float scale[16], top = 0.0f, top_abs = 0.0f, is, d;

	search_sym(x, w, b->q, scale);
	for (int j = 0; j < 16; j++)
		if (fabsf(scale[j]) > top_abs) {
			top_abs = fabsf(scale[j]);
			top = scale[j];
		}
	if (top_abs < BLK_EPS) {
		memset(b, 0, sizeof *b);
		return;
	}
	is = -128.0f / top;
	b->d = ql_f16_of_f32(1.0f / is);
	d = ql_f32_of_f16(b->d);
	for (int j = 0; j < 16; j++) {
		b->s[j] = (int8_t)blk_near(is * scale[j], -128.0f, 127.0f);
		sym_codes(x + 16 * j, d * (float)b->s[j], b->q + 16 * j);
	}
}

static void sym_refine(const float *x, const float *w, struct k_sym *b)
{
	float d = ql_f32_of_f16(b->d);

	for (int j = 0; j < 16; j++) {
		int s0 = b->s[j];
		double best = INFINITY;
		uint8_t old[16];

		memcpy(old, b->q + 16 * j, 16);
		for (int t = 0; t < 5; t++) {
			static const int8_t ds[5] = {0, -1, 1, -2, 2};
			int s = s0 + ds[t];
			uint8_t q[16];
			float y[16];
			double e;

			if (s < -128 || s > 127)
				continue;
			memcpy(q, old, 16);
			sym_codes(x + 16 * j, d * (float)s, q);
			for (int i = 0; i < 16; i++)
				y[i] = d * (float)s * (float)(q[i] - 32);
			e = weighted_error(x + 16 * j, y, w + 16 * j, 16);
			if (e < best) {
				best = e;
				b->s[j] = (int8_t)s;
				memcpy(b->q + 16 * j, q, 16);
			}
		}
	}
}

static void sym_block(const float *x, const float *importance, struct k_sym *b)
{
	float w[K_MAX];
	struct k_sym plain;

	for (int i = 0; i < K_MAX; i++)
		w[i] = x[i] * x[i];
	sym_plain(x, w, b);
	if (importance == NULL)
		return;
	plain = *b;
	weights_given(x, importance, w);
	sym_plain(x, w, b);
	sym_refine(x, w, b);
	if (sym_block_error(x, w, &plain) < sym_block_error(x, w, b))
		*b = plain;
}

void FN(qz_q6_k)(const float *x, size_t n_blocks, const float *weight, void *dst)
{
	struct blk_q6_k *o = dst;
	struct k_sym b;

	for (size_t i = 0; i < n_blocks; i++, x += K_MAX, o++) {
		sym_block(x, weight == NULL ? NULL : weight + i * K_MAX, &b);
		o->d = b.d;
		memcpy(o->scales, b.s, 16);
		for (int half = 0; half < 2; half++) {
			const uint8_t *q = b.q + 128 * half;
			uint8_t *ql = o->ql + 64 * half, *qh = o->qh + 32 * half;

			for (int l = 0; l < 32; l++) {
				ql[l] = (uint8_t)((q[l] & 15) | (q[l + 64] & 15) << 4);
				ql[l + 32] = (uint8_t)((q[l + 32] & 15) | (q[l + 96] & 15) << 4);
				qh[l] = (uint8_t)(q[l] >> 4 | (q[l + 32] >> 4) << 2 | (q[l + 64] >> 4) << 4 |
						  (q[l + 96] >> 4) << 6);
			}
		}
	}
}

/* ---- IQ4_NL ---- */

#define IQ4_GROUP 64

void FN(qz_iq4_nl)(const float *x, size_t n_blocks, const float *weight, void *dst)
{
	struct blk_iq4_nl *o = dst;
	float scale[IQ4_GROUP];

	(void)weight;
	for (size_t at = 0; at < n_blocks; at += IQ4_GROUP) {
		size_t n = n_blocks - at < IQ4_GROUP ? n_blocks - at : IQ4_GROUP;

		search_iq4(x, n, scale);
		for (size_t b = 0; b < n; b++, x += 32, o++) {
			float id = scale[b] != 0.0f ? 1.0f / scale[b] : 0.0f;

			o->d = ql_f16_of_f32(scale[b]);
			for (int j = 0; j < 16; j++)
				o->qs[j] = (uint8_t)(iq4_code(id * x[j]) | iq4_code(id * x[j + 16]) << 4);
		}
	}
}
