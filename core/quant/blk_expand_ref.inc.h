/* blk_expand_ref.inc.h - 32 codes to fp32, plain C. */

/* y = q * d */
static inline void expand32(const int8_t q[32], float d, float *y)
{
	for (int i = 0; i < 32; i++)
		y[i] = (float)q[i] * d;
}

/* y = (q * d) + m, two roundings */
static inline void expand32_add(const int8_t q[32], float d, float m, float *y)
{
	for (int i = 0; i < 32; i++)
		y[i] = (float)q[i] * d + m;
}

/* 32 codes of a block's nibbles in element order, each less `offset`. */
static inline void unpack32(const uint8_t qs[16], int offset, int8_t q[32])
{
	for (int j = 0; j < 16; j++) {
		q[j] = (int8_t)((qs[j] & 15) - offset);
		q[j + 16] = (int8_t)((qs[j] >> 4) - offset);
	}
}
