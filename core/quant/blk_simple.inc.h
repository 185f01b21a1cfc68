/* blk_simple.inc.h - fp32 to Q4_0, Q5_0, Q4_1, Q5_1, Q8_0.  Included once per instruction set with FN(name) defined.
 *
 *   Q4_0  d = v/-8, v = the signed element of largest magnitude (the first of equals); id = 1/d or 0
 *         q = min(15, trunc(x*id + 8.5))
 *   Q5_0  d = v/-16, q = min(31, trunc(x*id + 16.5))
 *   Q4_1  d = (max-min)/15, m = min, q = min(15, trunc((x-min)*id + 0.5))
 *   Q5_1  d = (max-min)/31, q = min(31, trunc((x-min)*id + 0.5))
 *   Q8_0  d = max|x|/127, q = x*id rounded half away from zero
 * fp32 throughout; codes use the fp32 d, the block stores its f16 rounding (ggml-quants.c quantize_row_*_ref).  Where d is
 * so small that 1/d overflows, id is taken as 0: the stored f16 scale is 0 in any case. */

static inline float recip(float d)
{
	float id = d != 0.0f ? 1.0f / d : 0.0f;

	return fabsf(id) <= FLT_MAX ? id : 0.0f;
}

/* The first element of largest magnitude among 32. */
static inline float extreme(const float *x)
{
	int32_t bits[32], top = 0;
	int i;

	memcpy(bits, x, sizeof bits);
	for (i = 0; i < 32; i++)
		bits[i] &= 0x7fffffff;
	for (i = 0; i < 32; i++)
		top = bits[i] > top ? bits[i] : top;
	for (i = 0; bits[i] != top; i++)
		;
	return x[i];
}

static inline void range(const float *x, float *mn, float *mx)
{
	float lo = x[0], hi = x[0];

	for (int i = 1; i < 32; i++) {
		lo = x[i] < lo ? x[i] : lo;
		hi = x[i] > hi ? x[i] : hi;
	}
	*mn = lo;
	*mx = hi;
}

/* q[i] = min(top, trunc((x[i] - c) * id + half)); the sum is never negative beyond rounding, so truncation is floor. */
static inline void codes32(const float *x, float c, float id, float half, int top, uint8_t q[32])
{
	for (int i = 0; i < 32; i++) {
		int v = (int)((x[i] - c) * id + half);

		q[i] = (uint8_t)(v < top ? v : top);
	}
}

static inline void nibbles(const uint8_t q[32], uint8_t qs[16])
{
	for (int j = 0; j < 16; j++)
		qs[j] = (uint8_t)((q[j] & 15) | (q[j + 16] & 15) << 4);
}

static inline void fifths(const uint8_t q[32], uint8_t qh[4])
{
	for (int k = 0; k < 4; k++) {
		unsigned bits = 0;

		for (int j = 0; j < 8; j++)
			bits |= (unsigned)(q[8 * k + j] >> 4) << j;
		qh[k] = (uint8_t)bits;
	}
}

void FN(qz_q4_0)(const float *x, size_t n_blocks, const float *weight, void *dst)
{
	struct blk_q4_0 *b = dst;
	uint8_t q[32];

	(void)weight;
	for (size_t i = 0; i < n_blocks; i++, b++, x += 32) {
		float d = extreme(x) / -8.0f;

		b->d = ql_f16_of_f32(d);
		codes32(x, 0.0f, recip(d), 8.5f, 15, q);
		nibbles(q, b->qs);
	}
}

void FN(qz_q5_0)(const float *x, size_t n_blocks, const float *weight, void *dst)
{
	struct blk_q5_0 *b = dst;
	uint8_t q[32];

	(void)weight;
	for (size_t i = 0; i < n_blocks; i++, b++, x += 32) {
		float d = extreme(x) / -16.0f;

		b->d = ql_f16_of_f32(d);
		codes32(x, 0.0f, recip(d), 16.5f, 31, q);
		nibbles(q, b->qs);
		fifths(q, b->qh);
	}
}

void FN(qz_q4_1)(const float *x, size_t n_blocks, const float *weight, void *dst)
{
	struct blk_q4_1 *b = dst;
	uint8_t q[32];

	(void)weight;
	for (size_t i = 0; i < n_blocks; i++, b++, x += 32) {
		float mn, mx, d;

		range(x, &mn, &mx);
		d = (mx - mn) / 15.0f;
		b->d = ql_f16_of_f32(d);
		b->m = ql_f16_of_f32(mn);
		codes32(x, mn, recip(d), 0.5f, 15, q);
		nibbles(q, b->qs);
	}
}

void FN(qz_q5_1)(const float *x, size_t n_blocks, const float *weight, void *dst)
{
	struct blk_q5_1 *b = dst;
	uint8_t q[32];

	(void)weight;
	for (size_t i = 0; i < n_blocks; i++, b++, x += 32) {
		float mn, mx, d;

		range(x, &mn, &mx);
		d = (mx - mn) / 31.0f;
		b->d = ql_f16_of_f32(d);
		b->m = ql_f16_of_f32(mn);
		codes32(x, mn, recip(d), 0.5f, 31, q);
		nibbles(q, b->qs);
		fifths(q, b->qh);
	}
}

void FN(qz_q8_0)(const float *x, size_t n_blocks, const float *weight, void *dst)
{
	struct blk_q8_0 *b = dst;

	(void)weight;
	for (size_t i = 0; i < n_blocks; i++, b++, x += 32) {
		float d = fabsf(extreme(x)) / 127.0f, id = recip(d);

		b->d = ql_f16_of_f32(d);
		for (int j = 0; j < 32; j++) {
			float v = x[j] * id;

			/* half away from zero: 0.49999997 is the float below 1/2, so nothing below a half is lifted over it */
			b->qs[j] = (int8_t)(v + copysignf(0x1.fffffep-2f, v));
		}
	}
}
