/* blk_dequant.inc.h - GGUF blocks to fp32.  Included once per instruction set with FN(name) defined; plain loops that the
 * compiler turns into vectors.  Formulas at the head of blk.h, each product and sum rounded by itself. */

/* Flips the bits `flip` of q[j] where bit j of qh is set: each bit is spread over a byte, a set one carries into the byte's
 * top bit.  Flipping 0x10 adds 16 to a code 0..15; flipping 0xf0 adds 16 to one of -16..-1. */
static inline void fifth_bits(const uint8_t qh[4], uint64_t flip, int8_t q[32])
{
	for (int k = 0; k < 4; k++) {
		uint64_t spread = (qh[k] * 0x0101010101010101ull) & 0x8040201008040201ull, codes;

		spread = (spread + 0x7f7f7f7f7f7f7f7full) >> 7 & 0x0101010101010101ull;
		memcpy(&codes, q + 8 * k, 8);
		codes ^= spread * flip;
		memcpy(q + 8 * k, &codes, 8);
	}
}

void FN(dq_q4_0)(const void *src, size_t n_blocks, float *restrict y)
{
	const struct blk_q4_0 *b = src;

	for (size_t i = 0; i < n_blocks; i++, b++, y += 32) {
		float d = ql_f32_of_f16(b->d);
		int8_t q[32];

		unpack32(b->qs, 8, q);
		expand32(q, d, y);
	}
}

void FN(dq_q4_1)(const void *src, size_t n_blocks, float *restrict y)
{
	const struct blk_q4_1 *b = src;

	for (size_t i = 0; i < n_blocks; i++, b++, y += 32) {
		float d = ql_f32_of_f16(b->d), m = ql_f32_of_f16(b->m);
		int8_t q[32];

		unpack32(b->qs, 0, q);
		expand32_add(q, d, m, y);
	}
}

void FN(dq_q5_0)(const void *src, size_t n_blocks, float *restrict y)
{
	const struct blk_q5_0 *b = src;

	for (size_t i = 0; i < n_blocks; i++, b++, y += 32) {
		float d = ql_f32_of_f16(b->d);
		int8_t q[32];

		unpack32(b->qs, 16, q);
		fifth_bits(b->qh, 0xf0, q);
		expand32(q, d, y);
	}
}

void FN(dq_q5_1)(const void *src, size_t n_blocks, float *restrict y)
{
	const struct blk_q5_1 *b = src;

	for (size_t i = 0; i < n_blocks; i++, b++, y += 32) {
		float d = ql_f32_of_f16(b->d), m = ql_f32_of_f16(b->m);
		int8_t q[32];

		unpack32(b->qs, 0, q);
		fifth_bits(b->qh, 0x10, q);
		expand32_add(q, d, m, y);
	}
}

void FN(dq_q8_0)(const void *src, size_t n_blocks, float *restrict y)
{
	const struct blk_q8_0 *b = src;

	for (size_t i = 0; i < n_blocks; i++, b++, y += 32) {
		float d = ql_f32_of_f16(b->d);

		expand32(b->qs, d, y);
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
			int8_t q[128];

			for (int k = 0; k < 8; k++)
				a[k] = d * (float)b->scales[8 * half + k];
			for (int l = 0; l < 32; l++) {
				q[l] = (int8_t)(((ql[l] & 15) | (qh[l] & 3) << 4) - 32);
				q[l + 32] = (int8_t)(((ql[l + 32] & 15) | (qh[l] >> 2 & 3) << 4) - 32);
				q[l + 64] = (int8_t)(((ql[l] >> 4) | (qh[l] >> 4 & 3) << 4) - 32);
				q[l + 96] = (int8_t)(((ql[l + 32] >> 4) | (qh[l] >> 6) << 4) - 32);
			}
			for (int k = 0; k < 8; k++)
				for (int l = 16 * k; l < 16 * k + 16; l++)
					y[l] = a[k] * (float)q[l];
		}
	}
}
