/* kern_panel.h - packing, unpacking and small products over panels (see kern.h) for the including file's vector type.
 * An instruction set with something better for 4-bit codes defines QL_KERN_OWN_Q4 and brings q4_rows8 (8 k's of a panel as
 * vectors of levels); one with conversions from narrow types defines QL_KERN_OWN_CVT and brings cvt_q8, cvt_f16 and cvt_bf16. */

#ifndef NVP
#define NVP (QL_PW / VL)
#endif

static inline __attribute__((always_inline)) vf cvt_f32(const float *p) { return vf_load(p); }
#ifndef QL_KERN_OWN_CVT
static inline vf cvt_q8(const int8_t *p)
{
	vf v;

	for (int i = 0; i < VL; i++)
		v[i] = (float)p[i];
	return v;
}
static inline vf cvt_bf16(const uint16_t *p)
{
	vi v;

	for (int i = 0; i < VL; i++)
		v[i] = (int32_t)((uint32_t)p[i] << 16);
	return (vf)v;
}
static inline vf cvt_f16(const uint16_t *p)
{
	vf v;

	for (int i = 0; i < VL; i++)
		v[i] = ql_f32_of_f16(p[i]);
	return v;
}
#endif

/* 8 k's of one panel as levels: out[k][v].  codes: 4 groups of 16 bytes, low nibble = even k. */
#ifndef QL_KERN_OWN_Q4
struct q4_tab {
	float level[16];
};
static inline struct q4_tab q4_tab_of(const float level[16])
{
	struct q4_tab t;

	memcpy(t.level, level, sizeof t.level);
	return t;
}
static inline void q4_rows8(const struct q4_tab *t, const uint8_t *codes, vf out[8][NVP])
{
	for (int p = 0; p < 4; p++)
		for (int r = 0; r < QL_PW; r++) {
			uint8_t c = codes[p * QL_PW + r];

			out[2 * p][r / VL][r % VL] = t->level[c & 15];
			out[2 * p + 1][r / VL][r % VL] = t->level[c >> 4];
		}
}
#endif

/* ---- packing ---- */

static void pack(const float *src, size_t ld, uint32_t cols, size_t k, float s, float *dst)
{
	if (cols == QL_PW) {
		for (size_t p = 0; p < k; p++)
#pragma GCC unroll 4
			for (unsigned v = 0; v < NVP; v++)
				vf_store(dst + p * QL_PW + v * VL, s * vf_load(src + p * ld + v * VL));
		return;
	}
	for (size_t p = 0; p < k; p++)
		for (uint32_t j = 0; j < QL_PW; j++)
			dst[p * QL_PW + j] = j < cols ? s * src[p * ld + j] : 0.0f;
}

/* 4x4 blocks in vectors of four, which every instruction set has */
typedef float v4 __attribute__((vector_size(16)));
typedef float v4_u __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t v4i __attribute__((vector_size(16)));

static inline __attribute__((always_inline)) void t4(const float *s, size_t ld, float k, float *d)
{
	v4 a = *(const v4_u *)s, b = *(const v4_u *)(s + ld), c = *(const v4_u *)(s + 2 * ld), e = *(const v4_u *)(s + 3 * ld);
	v4 ab0 = __builtin_shuffle(a, b, (v4i){0, 4, 1, 5}), ab1 = __builtin_shuffle(a, b, (v4i){2, 6, 3, 7});
	v4 ce0 = __builtin_shuffle(c, e, (v4i){0, 4, 1, 5}), ce1 = __builtin_shuffle(c, e, (v4i){2, 6, 3, 7});

	*(v4_u *)d = k * __builtin_shuffle(ab0, ce0, (v4i){0, 1, 4, 5});
	*(v4_u *)(d + QL_PW) = k * __builtin_shuffle(ab0, ce0, (v4i){2, 3, 6, 7});
	*(v4_u *)(d + 2 * QL_PW) = k * __builtin_shuffle(ab1, ce1, (v4i){0, 1, 4, 5});
	*(v4_u *)(d + 3 * QL_PW) = k * __builtin_shuffle(ab1, ce1, (v4i){2, 3, 6, 7});
}

static void pack_t(const float *src, size_t ld, uint32_t rows, size_t n, float s, float *dst)
{
	size_t i = 0;

	if (rows == QL_PW)
		for (; i + 4 <= n; i += 4)
#pragma GCC unroll 4
			for (unsigned r = 0; r < QL_PW; r += 4)
				t4(src + r * ld + i, ld, s, dst + i * QL_PW + r);
	for (; i < n; i++)
		for (uint32_t r = 0; r < QL_PW; r++)
			dst[i * QL_PW + r] = r < rows ? s * src[r * ld + i] : 0.0f;
}

/* ---- unpacking ---- */

static void unpack_q4(const uint8_t *codes, const float *sc, uint32_t group, const float level[16], size_t n, float *dst)
{
	struct q4_tab tab = q4_tab_of(level);

	for (size_t p = 0; p < n; p += 8) {
		const float *s = sc + p / group * QL_PW;
		vf w[8][NVP];

		q4_rows8(&tab, codes + p / 2 * QL_PW, w);
#pragma GCC unroll 8
		for (unsigned i = 0; i < 8; i++)
#pragma GCC unroll 4
			for (unsigned v = 0; v < NVP; v++)
				vf_store(dst + (p + i) * QL_PW + v * VL, w[i][v] * vf_load(s + v * VL));
	}
}

static void unpack_q8(const int8_t *q, const float *d, size_t n, float *dst)
{
	for (size_t p = 0; p < n; p++)
#pragma GCC unroll 4
		for (unsigned v = 0; v < NVP; v++)
			vf_store(dst + p * QL_PW + v * VL,
				 cvt_q8(q + p * QL_PW + v * VL) * vf_load(d + p / 32 * QL_PW + v * VL));
}

static void unpack_f16(const uint16_t *src, size_t n, float *dst)
{
	for (size_t i = 0; i < n * QL_PW; i += VL)
		vf_store(dst + i, cvt_f16(src + i));
}

static void unpack_bf16(const uint16_t *src, size_t n, float *dst)
{
	for (size_t i = 0; i < n * QL_PW; i += VL)
		vf_store(dst + i, cvt_bf16(src + i));
}

/* ---- products with 1 … 4 rows of x: U independent chains for each element, added in a fixed order at the end ---- */

#ifndef QL_KERN_CHAINS
#define QL_KERN_CHAINS 4u
#endif
#define CHAINS(T) ((T) == 1 ? QL_KERN_CHAINS : (T) == 2 ? 2u : 1u)
#define UNROLL _Pragma("GCC unroll 8")

#define ROWS_SWITCH(rows, call)                                                                                        \
	switch (rows) {                                                                                                \
	case 1: call(1); break;                                                                                        \
	case 2: call(2); break;                                                                                        \
	case 3: call(3); break;                                                                                        \
	default: call(4); break;                                                                                       \
	}

#define ACC_ZERO(T)                                                                                                    \
	UNROLL for (unsigned t = 0; t < T; t++)                                                                        \
	UNROLL for (unsigned u = 0; u < 4; u++) if (u < CHAINS(T))                                                                \
	UNROLL for (unsigned v = 0; v < NVP; v++)                                                                      \
		acc[t][u][v] = vf_zero;

static inline __attribute__((always_inline)) vf chains_sum(const unsigned T, vf acc[4][NVP], unsigned v)
{
	return CHAINS(T) == 4 ? (acc[0][v] + acc[1][v]) + (acc[2][v] + acc[3][v]) :
	       CHAINS(T) == 2 ? acc[0][v] + acc[1][v] :
				acc[0][v];
}

#define GEMV_PLAIN(name, type, cvt)                                                                                    \
	static inline __attribute__((always_inline)) void name##_t(const unsigned T, const type *w, size_t k,         \
								   const float *x, size_t ldx, float *y)               \
	{                                                                                                              \
		vf acc[4][4][NVP];                                                                                     \
		size_t p = 0;                                                                                          \
                                                                                                                       \
		ACC_ZERO(T)                                                                                            \
		for (; p + CHAINS(T) <= k; p += CHAINS(T))                                                             \
			UNROLL for (unsigned u = 0; u < 4; u++) if (u < CHAINS(T))                                                \
			UNROLL for (unsigned v = 0; v < NVP; v++) {                                                    \
				vf b = cvt(w + (p + u) * QL_PW + v * VL);                                              \
				UNROLL for (unsigned t = 0; t < T; t++)                                                \
					acc[t][u][v] = vf_fma(vf_set(x[t * ldx + p + u]), b, acc[t][u][v]);            \
			}                                                                                              \
		for (; p < k; p++)                                                                                     \
			UNROLL for (unsigned v = 0; v < NVP; v++) {                                                    \
				vf b = cvt(w + p * QL_PW + v * VL);                                                    \
				UNROLL for (unsigned t = 0; t < T; t++)                                                \
					acc[t][0][v] = vf_fma(vf_set(x[t * ldx + p]), b, acc[t][0][v]);                \
			}                                                                                              \
		UNROLL for (unsigned t = 0; t < T; t++)                                                                \
		UNROLL for (unsigned v = 0; v < NVP; v++)                                                              \
			vf_store(y + t * QL_PW + v * VL, chains_sum(T, acc[t], v));                                    \
	}                                                                                                              \
	static void name(uint32_t rows, const type *w, size_t k, const float *x, size_t ldx, float *y)                \
	{                                                                                                              \
		switch (rows) { /* one body for each count of rows */                                                  \
		case 1: name##_t(1, w, k, x, ldx, y); break;                                                           \
		case 2: name##_t(2, w, k, x, ldx, y); break;                                                           \
		case 3: name##_t(3, w, k, x, ldx, y); break;                                                           \
		default: name##_t(4, w, k, x, ldx, y); break;                                                          \
		}                                                                                                      \
	}

GEMV_PLAIN(gemv_f32, float, cvt_f32)
GEMV_PLAIN(gemv_f16, uint16_t, cvt_f16)
GEMV_PLAIN(gemv_bf16, uint16_t, cvt_bf16)

/* scaled types: the products of one group are summed first, then total += scale·sum */
#define TOTAL_ADD(T, s)                                                                                                \
	UNROLL for (unsigned t = 0; t < T; t++)                                                                        \
	UNROLL for (unsigned v = 0; v < NVP; v++)                                                                      \
		total[t][v] = vf_fma(vf_load((s) + v * VL), chains_sum(T, acc[t], v), total[t][v]);

#define TOTAL_STORE(T)                                                                                                 \
	UNROLL for (unsigned t = 0; t < T; t++)                                                                        \
	UNROLL for (unsigned v = 0; v < NVP; v++)                                                                      \
		vf_store(y + t * QL_PW + v * VL, total[t][v]);

static inline __attribute__((always_inline)) void gemv_q8_t(const unsigned T, const int8_t *q, const float *d, size_t k,
							    const float *x, size_t ldx, float *y)
{
	vf acc[4][4][NVP], total[4][NVP] = {0};

	for (size_t b = 0; b < k; b += 32) {
		ACC_ZERO(T)
		for (size_t p = b; p < b + 32; p += CHAINS(T))
			UNROLL for (unsigned u = 0; u < 4; u++) if (u < CHAINS(T))
			UNROLL for (unsigned v = 0; v < NVP; v++) {
				vf w = cvt_q8(q + (p + u) * QL_PW + v * VL);
				UNROLL for (unsigned t = 0; t < T; t++)
					acc[t][u][v] = vf_fma(vf_set(x[t * ldx + p + u]), w, acc[t][u][v]);
			}
		TOTAL_ADD(T, d + b / 32 * QL_PW)
	}
	TOTAL_STORE(T)
}

static void gemv_q8(uint32_t rows, const int8_t *q, const float *d, size_t k, const float *x, size_t ldx, float *y)
{
#define CALL(T) gemv_q8_t(T, q, d, k, x, ldx, y)
	ROWS_SWITCH(rows, CALL)
#undef CALL
}

static inline __attribute__((always_inline)) void gemv_q4_t(const unsigned T, const uint8_t *codes, const float *sc,
							    uint32_t group, const float level[16], size_t k,
							    const float *x, size_t ldx, float *y)
{
	struct q4_tab tab = q4_tab_of(level);
	vf acc[4][4][NVP], total[4][NVP] = {0};

	for (size_t b = 0; b < k; b += group) {
		ACC_ZERO(T)
		for (size_t p = b; p < b + group; p += 8) {
			vf w[8][NVP];

			q4_rows8(&tab, codes + p / 2 * QL_PW, w);
			UNROLL for (unsigned i = 0; i < 8; i++)
			UNROLL for (unsigned v = 0; v < NVP; v++)
			UNROLL for (unsigned t = 0; t < T; t++)
				acc[t][i % CHAINS(T)][v] =
					vf_fma(vf_set(x[t * ldx + p + i]), w[i][v], acc[t][i % CHAINS(T)][v]);
		}
		TOTAL_ADD(T, sc + b / group * QL_PW)
	}
	TOTAL_STORE(T)
}

static void gemv_q4(uint32_t rows, const uint8_t *codes, const float *sc, uint32_t group, const float level[16],
		    size_t k, const float *x, size_t ldx, float *y)
{
#define CALL(T) gemv_q4_t(T, codes, sc, group, level, k, x, ldx, y)
	ROWS_SWITCH(rows, CALL)
#undef CALL
}
