/* blk_dequant.inc.h - GGUF blocks to fp32.  Included once per instruction set with FN(name) defined; plain loops that the
 * compiler turns into vectors.  Formulas at the head of blk.h, each product and sum rounded by itself. */

void FN(dq_q4_0)(const void *src, size_t n_blocks, float *restrict y)
{
	const struct blk_q4_0 *b = src;

	for (size_t i = 0; i < n_blocks; i++, b++, y += 32) {
		float d = ql_f32_of_f16(b->d);

		for (int j = 0; j < 16; j++) {
			y[j] = (float)((b->qs[j] & 15) - 8) * d;
			y[j + 16] = (float)((b->qs[j] >> 4) - 8) * d;
		}
	}
}

void FN(dq_q4_1)(const void *src, size_t n_blocks, float *restrict y)
{
	const struct blk_q4_1 *b = src;

	for (size_t i = 0; i < n_blocks; i++, b++, y += 32) {
		float d = ql_f32_of_f16(b->d), m = ql_f32_of_f16(b->m);

		for (int j = 0; j < 16; j++) {
			y[j] = (float)(b->qs[j] & 15) * d + m;
			y[j + 16] = (float)(b->qs[j] >> 4) * d + m;
		}
	}
}

/* The fifth bits of a block as bytes 0 or 16. */
static inline void fifth_bits(const uint8_t qh[4], uint8_t h[32])
{
	for (int j = 0; j < 32; j++)
		h[j] = (uint8_t)((qh[j / 8] >> j % 8 & 1) << 4);
}

void FN(dq_q5_0)(const void *src, size_t n_blocks, float *restrict y)
{
	const struct blk_q5_0 *b = src;

	for (size_t i = 0; i < n_blocks; i++, b++, y += 32) {
		float d = ql_f32_of_f16(b->d);
		uint8_t h[32];

		fifth_bits(b->qh, h);
		for (int j = 0; j < 16; j++) {
			y[j] = (float)(((b->qs[j] & 15) | h[j]) - 16) * d;
			y[j + 16] = (float)(((b->qs[j] >> 4) | h[j + 16]) - 16) * d;
		}
	}
}

void FN(dq_q5_1)(const void *src, size_t n_blocks, float *restrict y)
{
	const struct blk_q5_1 *b = src;

	for (size_t i = 0; i < n_blocks; i++, b++, y += 32) {
		float d = ql_f32_of_f16(b->d), m = ql_f32_of_f16(b->m);
		uint8_t h[32];

		fifth_bits(b->qh, h);
		for (int j = 0; j < 16; j++) {
			y[j] = (float)((b->qs[j] & 15) | h[j]) * d + m;
			y[j + 16] = (float)((b->qs[j] >> 4) | h[j + 16]) * d + m;
		}
	}
}

void FN(dq_q8_0)(const void *src, size_t n_blocks, float *restrict y)
{
	const struct blk_q8_0 *b = src;

	for (size_t i = 0; i < n_blocks; i++, b++, y += 32) {
		float d = ql_f32_of_f16(b->d);

		for (int j = 0; j < 32; j++)
			y[j] = (float)b->qs[j] * d;
	}
}

void FN(dq_iq4_nl)(const void *src, size_t n_blocks, float *restrict y)
{
	static const float kv[16] = BLK_IQ4_VALUES;
	const struct blk_iq4_nl *b = src;

	for (size_t i = 0; i < n_blocks; i++, b++, y += 32) {
		float d = ql_f32_of_f16(b->d), lut[16];

		for (int k = 0; k < 16; k++)
			lut[k] = d * kv[k];
		for (int j = 0; j < 16; j++) {
			y[j] = lut[b->qs[j] & 15];
			y[j + 16] = lut[b->qs[j] >> 4];
		}
	}
}

void FN(dq_q4_k)(const void *src, size_t n_blocks, float *restrict y)
{
	const struct blk_q4_k *b = src;

	for (size_t i = 0; i < n_blocks; i++, b++) {
		float d = ql_f32_of_f16(b->d), dmin = ql_f32_of_f16(b->dmin);

		for (int k = 0; k < 4; k++, y += 64) {
			const uint8_t *q = b->qs + 32 * k;
			uint8_t s1, m1, s2, m2;
			float a1, c1, a2, c2;

			blk_k_scale(b->scales, 2 * k, &s1, &m1);
			blk_k_scale(b->scales, 2 * k + 1, &s2, &m2);
			a1 = d * (float)s1;
			c1 = dmin * (float)m1;
			a2 = d * (float)s2;
			c2 = dmin * (float)m2;
			for (int l = 0; l < 32; l++)
				y[l] = a1 * (float)(q[l] & 15) - c1;
			for (int l = 0; l < 32; l++)
				y[l + 32] = a2 * (float)(q[l] >> 4) - c2;
		}
	}
}

void FN(dq_q5_k)(const void *src, size_t n_blocks, float *restrict y)
{
	const struct blk_q5_k *b = src;

	for (size_t i = 0; i < n_blocks; i++, b++) {
		float d = ql_f32_of_f16(b->d), dmin = ql_f32_of_f16(b->dmin);

		for (int k = 0; k < 4; k++, y += 64) {
			const uint8_t *q = b->qs + 32 * k;
			uint8_t s1, m1, s2, m2;
			float a1, c1, a2, c2;

			blk_k_scale(b->scales, 2 * k, &s1, &m1);
			blk_k_scale(b->scales, 2 * k + 1, &s2, &m2);
			a1 = d * (float)s1;
			c1 = dmin * (float)m1;
			a2 = d * (float)s2;
			c2 = dmin * (float)m2;
			for (int l = 0; l < 32; l++)
				y[l] = a1 * (float)((q[l] & 15) | (b->qh[l] >> 2 * k & 1) << 4) - c1;
			for (int l = 0; l < 32; l++)
				y[l + 32] = a2 * (float)((q[l] >> 4) | (b->qh[l] >> (2 * k + 1) & 1) << 4) - c2;
		}
	}
}

void FN(dq_q6_k)(const void *src, size_t n_blocks, float *restrict y)
{
	const struct blk_q6_k *b = src;

	for (size_t i = 0; i < n_blocks; i++, b++) {
		float d = ql_f32_of_f16(b->d);

		for (int half = 0; half < 2; half++, y += 128) {
			const uint8_t *ql = b->ql + 64 * half, *qh = b->qh + 32 * half;
			float a[8];

			for (int k = 0; k < 8; k++)
				a[k] = d * (float)b->scales[8 * half + k];
			for (int s = 0; s < 2; s++)
				for (int l = 16 * s; l < 16 * s + 16; l++) {
					y[l] = a[s] * (float)(((ql[l] & 15) | (qh[l] & 3) << 4) - 32);
					y[l + 32] = a[2 + s] * (float)(((ql[l + 32] & 15) | (qh[l] >> 2 & 3) << 4) - 32);
					y[l + 64] = a[4 + s] * (float)(((ql[l] >> 4) | (qh[l] >> 4 & 3) << 4) - 32);
					y[l + 96] = a[6 + s] * (float)(((ql[l + 32] >> 4) | (qh[l] >> 6) << 4) - 32);
				}
		}
	}
}
