/* kern_avx512.c - kernels for AVX-512 F/BW/DQ/VL: 12x32 tiles; a 4-bit code is one lane of a 16-entry vpermps. */
#define VL 16
#define QL_KERN_MR 12
#define QL_KERN_NP 2
#define QL_KERN_OWN_Q4
#define QL_KERN_OWN_CVT
#include "core/device/cpu/kern_x86.h"

#include "core/device/cpu/kern_vec.h"

#define NVP (QL_PW / VL)

static inline __attribute__((always_inline)) vf cvt_f16(const uint16_t *p)
{
	return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

static inline __attribute__((always_inline)) vf cvt_bf16(const uint16_t *p)
{
	return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p)), 16);
}

static inline __attribute__((always_inline)) vf cvt_q8(const int8_t *p)
{
	return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}

struct q4_tab {
	__m512 level;
};

static inline __attribute__((always_inline)) struct q4_tab q4_tab_of(const float level[16])
{
	return (struct q4_tab){_mm512_loadu_ps(level)};
}

static inline __attribute__((always_inline)) void q4_rows8(const struct q4_tab *t, const uint8_t *codes, vf out[8][NVP])
{
#pragma GCC unroll 4
	for (int p = 0; p < 4; p++) {
		__m512i c = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(codes + p * QL_PW)));

		out[2 * p][0] = (vf)_mm512_permutexvar_ps(c, t->level); /* takes the low 4 bits of each lane */
		out[2 * p + 1][0] = (vf)_mm512_permutexvar_ps(_mm512_srli_epi32(c, 4), t->level);
	}
}

#include "core/device/cpu/kern_gemm.h"
#include "core/device/cpu/kern_panel.h"
#include "core/device/cpu/kern_table.h"

const struct ql_kern ql_kern_avx512 = QL_KERN_TABLE("avx512");
