/* kern.h - the inner loops of the CPU device, in one table per instruction set, chosen once when the device is opened.
 *
 * All products use one data layout, the panel: 16 columns of the right-hand matrix B side by side,
 *	panel[k][16] = B[k, n0 … n0+15]
 * A frozen weight W [out, in] is stored as panels of its own rows (B = Wᵀ: k runs over `in`, a panel holds 16 outputs),
 * in its own precision; unpack_* turns a range of k into floats.  Missing columns of the last panel are zero.
 *
 * Every element that gemm yields is one chain of fused multiply-adds over ascending k, whatever the tile it fell into, and
 * gemv adds in an order fixed by k and the number of rows; so a row's bits depend neither on its neighbours, nor on the
 * partition, nor on the number of threads. */
#ifndef QL_DEVICE_CPU_KERN_H
#define QL_DEVICE_CPU_KERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QL_PW 16	  /* panel width: columns */
#define QL_GEMV_ROWS 4	  /* gemv_* take 1 … 4 rows of x */

struct ql_kern {
	const char *name; /* "generic", "avx2", "avx512" */

	/* C [m, n] (+)= A [m, k]·B.  A(i, p) = a[i·a_row + p·a_k] (element strides, so either layout).
	 * B: panel j at b + j·b_panel, its row p at p·b_k.  add: C += …, else C = … (also for k == 0). */
	void (*gemm)(size_t m, size_t n, size_t k, const float *a, size_t a_row, size_t a_k, const float *b,
		     size_t b_panel, size_t b_k, float *c, size_t ldc, bool add);

	/* dst[i][16] = src^T: src rows (16, ld_src apart) of n floats become n rows of 16.  Rows ≥ rows count as 0. */
	void (*pack_t)(const float *src, size_t ld_src, uint32_t rows, size_t n, float scale, float *dst);
	/* dst[p][16]: 16 columns (cols valid, the rest 0) of k rows that lie ld apart. */
	void (*pack)(const float *src, size_t ld, uint32_t cols, size_t k, float scale, float *dst);

	/* n rows of one panel as floats, dst[n][16].  q4: codes[n/2][16], low nibble = even k; one scale for each `group`
	 * k's, scale[k / group][16]; codes and scale point at the first k, a multiple of group, or the range lies in one group;
	 * n and group are multiples of 8.  Value = level·scale, one rounding.  q8: d·q, d[k/32][16], first k a multiple of 32. */
	void (*unpack_q4)(const uint8_t *codes, const float *scale, uint32_t group, const float level[16], size_t n,
			  float *dst);
	void (*unpack_q8)(const int8_t *q, const float *d, size_t n, float *dst);
	void (*unpack_f16)(const uint16_t *src, size_t n, float *dst);
	void (*unpack_bf16)(const uint16_t *src, size_t n, float *dst);

	/* y[t][16] = Σ_k x[t][k]·panel[k][16] for t < rows ≤ 4 */
	void (*gemv_q4)(uint32_t rows, const uint8_t *codes, const float *scale, uint32_t group, const float level[16],
			size_t k, const float *x, size_t ldx, float *y);
	void (*gemv_q8)(uint32_t rows, const int8_t *q, const float *d, size_t k, const float *x, size_t ldx, float *y);
	void (*gemv_f32)(uint32_t rows, const float *w, size_t k, const float *x, size_t ldx, float *y);
	void (*gemv_f16)(uint32_t rows, const uint16_t *w, size_t k, const float *x, size_t ldx, float *y);
	void (*gemv_bf16)(uint32_t rows, const uint16_t *w, size_t k, const float *x, size_t ldx, float *y);

	/* vectors */
	float (*dot)(const float *a, const float *b, size_t n);
	/* out[i] = q·k_i for n rows of k, ld apart */
	void (*dots)(const float *q, const float *k, size_t ld, size_t n, size_t dim, float *out);
	void (*axpy)(float s, const float *x, float *y, size_t n); /* y += s·x */
	void (*scale)(float s, float *y, size_t n);
	float (*max)(const float *x, size_t n); /* n ≥ 1; NaN in, anything out */
	/* x[i] = exp(s·x[i] - shift); returns the sum.  Relative error < 3e-7; below e^-87 it is 0. */
	float (*exp_sum)(float *x, size_t n, float s, float shift);
	/* Σ exp(x[i] - shift) in fp64, x unchanged */
	double (*exp_only_sum)(const float *x, size_t n, float shift);
	/* dst[i] = dp[i] <- p[i]·(dp[i] - d)·s */
	void (*dsoftmax)(const float *p, float *dp, float d, float s, size_t n);
	void (*swiglu)(const float *gate, const float *up, float *h, size_t n);
	void (*swiglu_grad)(const float *dh, const float *gate, const float *up, float *dgate, float *dup, size_t n);
	/* the same with GELU (tanh form) in place of SiLU */
	void (*geglu)(const float *gate, const float *up, float *h, size_t n);
	void (*geglu_grad)(const float *dh, const float *gate, const float *up, float *dgate, float *dup, size_t n);
	/* x[i] = c·tanh(s·x[i]/c), relative error < 1e-6; slope[i] = 1 - tanh², unless slope is NULL */
	void (*softcap)(float *x, size_t n, float s, float c, float *slope);

	/* dst[i] = keep(e0 + i) ? x[i]·inv : 0 for the dropout of device.h; e0 a multiple of 4 is not required */
	void (*dropout)(const float *x, float *dst, size_t n, uint64_t e0, uint64_t seed, uint32_t step, uint32_t site,
			uint32_t threshold, float inv);
};

extern const struct ql_kern ql_kern_generic;
#if defined(__x86_64__)
extern const struct ql_kern ql_kern_avx2, ql_kern_avx512;
#endif

/* The best table of this machine; QL_CPU_ISA=generic|avx2|avx512 in the environment picks a lower one (tests). */
const struct ql_kern *ql_kern_pick(void);

#endif
