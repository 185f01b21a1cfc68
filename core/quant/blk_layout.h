/* blk_layout.h - byte layout of the GGUF blocks (ggml-common.h), little-endian, and the small helpers every rule uses.
 *
 *   q4_0  f16 d, qs[16]                 q4_1  f16 d, f16 m, qs[16]
 *   q5_0  f16 d, u32 qh, qs[16]         q5_1  f16 d, f16 m, u32 qh, qs[16]        q8_0  f16 d, i8 qs[32]
 *   q4_k  f16 d, f16 dmin, scales[12], qs[128]        q5_k  the same with qh[32] before qs
 *   q6_k  ql[128], qh[64], i8 scales[16], f16 d       iq4_nl  f16 d, qs[16]
 * In blocks of 32: low nibble of qs[j] = element j, high = element j + 16; bit j of qh = fifth bit of element j.
 * K scales: 8 six-bit scales s and mins m in 12 bytes: j < 4: b[j] = s_j | (s_{j+4}>>4)<<6,
 * b[j+4] = m_j | (m_{j+4}>>4)<<6, b[j+8] = (s_{j+4}&15) | (m_{j+4}&15)<<4. */
#ifndef QL_QUANT_BLK_LAYOUT_H
#define QL_QUANT_BLK_LAYOUT_H

#include <stdint.h>
#include <string.h>

#include "core/base/dtype.h"

struct blk_q4_0 { uint16_t d; uint8_t qs[16]; };
struct blk_q4_1 { uint16_t d, m; uint8_t qs[16]; };
struct blk_q5_0 { uint16_t d; uint8_t qh[4], qs[16]; };
struct blk_q5_1 { uint16_t d, m; uint8_t qh[4], qs[16]; };
struct blk_q8_0 { uint16_t d; int8_t qs[32]; };
struct blk_q4_k { uint16_t d, dmin; uint8_t scales[12], qs[128]; };
struct blk_q5_k { uint16_t d, dmin; uint8_t scales[12], qh[32], qs[128]; };
struct blk_q6_k { uint8_t ql[128], qh[64]; int8_t scales[16]; uint16_t d; };
struct blk_iq4_nl { uint16_t d; uint8_t qs[16]; };
_Static_assert(sizeof(struct blk_q4_0) == 18 && sizeof(struct blk_q4_1) == 20 && sizeof(struct blk_q5_0) == 22 &&
	       sizeof(struct blk_q5_1) == 24 && sizeof(struct blk_q8_0) == 34 && sizeof(struct blk_q4_k) == 144 &&
	       sizeof(struct blk_q5_k) == 176 && sizeof(struct blk_q6_k) == 210 && sizeof(struct blk_iq4_nl) == 18,
	       "GGUF block sizes");

/* Codes of IQ4_NL and the midpoints between them (halves, exact); a value on a midpoint takes the upper code. */
#define BLK_IQ4_VALUES {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}
#define BLK_IQ4_MIDS                                                                                                   \
	{-115.5f, -93.5f, -74.0f, -57.0f, -42.0f, -28.5f, -16.0f, -4.5f, 7.0f, 19.0f, 31.5f, 45.5f, 61.0f, 79.0f, 101.0f}

#define BLK_EPS 1e-15f /* a group whose largest magnitude is below this is stored as zero */

/* Clamp to [lo, hi] (NaN goes to lo), then round half to even; |lo|, |hi| < 2^22. */
static inline float blk_near(float v, float lo, float hi)
{
	v = v > lo ? v : lo;
	v = v < hi ? v : hi;
	return (v + 12582912.0f) - 12582912.0f;
}

static inline void blk_k_scale(const uint8_t b[12], int j, uint8_t *s, uint8_t *m)
{
	if (j < 4) {
		*s = b[j] & 63;
		*m = b[j + 4] & 63;
	} else {
		*s = (uint8_t)((b[j + 4] & 15) | (b[j - 4] >> 6) << 4);
		*m = (uint8_t)((b[j + 4] >> 4) | (b[j] >> 6) << 4);
	}
}

static inline void blk_k_pack(uint8_t b[12], const uint8_t s[8], const uint8_t m[8])
{
	for (int j = 0; j < 4; j++) {
		b[j] = (uint8_t)(s[j] | (s[j + 4] >> 4) << 6);
		b[j + 4] = (uint8_t)(m[j] | (m[j + 4] >> 4) << 6);
		b[j + 8] = (uint8_t)((s[j + 4] & 15) | (m[j + 4] & 15) << 4);
	}
}

#endif
