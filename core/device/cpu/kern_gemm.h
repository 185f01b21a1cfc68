/* kern_gemm.h - the matrix product of kern.h, for the vector type of the including file (see kern_vec.h).
 *
 * C [MR × NP panels] tiles in registers; the panel stays in the L1 cache (k ≤ 256: 16 KiB) while rows of A pass by, read in
 * place with any strides.  Rows are addressed in groups of three (base, base + s, base + 2s) so that the addresses
 * fit the registers. */
#ifndef QL_KERN_MR
#error "set QL_KERN_MR (a multiple of 3) and QL_KERN_NP (1 or 2)"
#endif

#define NVP (QL_PW / VL)	     /* vectors a panel */
#define NVT (NVP * QL_KERN_NP)	     /* vectors a tile row */

static inline __attribute__((always_inline)) float a_at(const float *const g[], unsigned i, size_t row)
{
	return g[i / 3][(i % 3) * row];
}

static inline __attribute__((always_inline)) void tile(const unsigned m, const unsigned np, size_t k, const float *a,
						       size_t a_row, size_t a_k, const float *b, size_t b_panel,
						       size_t b_k, float *c, size_t ldc, size_t c_panel, bool add)
{
	vf acc[QL_KERN_MR][NVT];
	const float *g[QL_KERN_MR / 3];

#pragma GCC unroll 16
	for (unsigned i = 0; i < QL_KERN_MR / 3; i++)
		g[i] = a + (size_t)(3 * i < m ? 3 * i : 0) * a_row;
#pragma GCC unroll 16
	for (unsigned i = 0; i < m; i++)
#pragma GCC unroll 8
		for (unsigned v = 0; v < np * NVP; v++)
			acc[i][v] = vf_zero;
	for (size_t p = 0; p < k; p++) {
		vf bv[NVT];

#pragma GCC unroll 8
		for (unsigned v = 0; v < np * NVP; v++)
			bv[v] = vf_load(b + (v / NVP) * b_panel + (v % NVP) * VL);
#pragma GCC unroll 16
		for (unsigned i = 0; i < m; i++) {
			vf x = vf_set(a_at(g, i, a_row));

#pragma GCC unroll 8
			for (unsigned v = 0; v < np * NVP; v++)
				acc[i][v] = vf_fma(x, bv[v], acc[i][v]);
		}
#pragma GCC unroll 16
		for (unsigned i = 0; i < QL_KERN_MR / 3; i++)
			g[i] += a_k;
		b += b_k;
	}
#pragma GCC unroll 16
	for (unsigned i = 0; i < m; i++)
#pragma GCC unroll 8
		for (unsigned v = 0; v < np * NVP; v++) {
			float *d = c + i * ldc + (v / NVP) * c_panel + (v % NVP) * VL;

			vf_store(d, add ? vf_load(d) + acc[i][v] : acc[i][v]);
		}
}

/* one panel group against all rows */
static inline __attribute__((always_inline)) void tiles(const unsigned np, size_t m, size_t k, const float *a,
							size_t a_row, size_t a_k, const float *b, size_t b_panel,
							size_t b_k, float *c, size_t ldc, bool add)
{
	size_t i = 0;

	for (; i + QL_KERN_MR <= m; i += QL_KERN_MR)
		tile(QL_KERN_MR, np, k, a + i * a_row, a_row, a_k, b, b_panel, b_k, c + i * ldc, ldc, QL_PW, add);
	a += i * a_row;
	c += i * ldc;
#define REST(r)                                                                                                        \
	case r:                                                                                                        \
		tile(r, np, k, a, a_row, a_k, b, b_panel, b_k, c, ldc, QL_PW, add);                                     \
		break;
	switch (m - i) {
		REST(1)
		REST(2)
#if QL_KERN_MR > 3
		REST(3)
		REST(4)
		REST(5)
#endif
#if QL_KERN_MR > 6
		REST(6)
		REST(7)
		REST(8)
		REST(9)
		REST(10)
		REST(11)
#endif
	}
#undef REST
}

static __attribute__((noinline)) void tiles_1(size_t m, size_t k, const float *a, size_t a_row, size_t a_k,
					      const float *b, size_t b_k, float *c, size_t ldc, bool add)
{
	tiles(1, m, k, a, a_row, a_k, b, 0, b_k, c, ldc, add);
}

#if QL_KERN_NP == 2
static __attribute__((noinline)) void tiles_2(size_t m, size_t k, const float *a, size_t a_row, size_t a_k,
					      const float *b, size_t b_panel, size_t b_k, float *c, size_t ldc, bool add)
{
	tiles(2, m, k, a, a_row, a_k, b, b_panel, b_k, c, ldc, add);
}
#endif

/* the last panel, n < 16 columns: through a tile on the stack, row by row group */
static __attribute__((noinline)) void tiles_edge(size_t m, size_t n, size_t k, const float *a, size_t a_row, size_t a_k,
						 const float *b, size_t b_k, float *c, size_t ldc, bool add)
{
	float t[QL_KERN_MR * QL_PW];

	for (size_t i = 0; i < m; i += QL_KERN_MR) {
		size_t rows = m - i < QL_KERN_MR ? m - i : QL_KERN_MR;

		tiles_1(rows, k, a + i * a_row, a_row, a_k, b, b_k, t, QL_PW, false);
		for (size_t r = 0; r < rows; r++)
			for (size_t j = 0; j < n; j++) {
				float *d = c + (i + r) * ldc + j;

				*d = add ? *d + t[r * QL_PW + j] : t[r * QL_PW + j];
			}
	}
}

static void gemm(size_t m, size_t n, size_t k, const float *a, size_t a_row, size_t a_k, const float *b, size_t b_panel,
		 size_t b_k, float *c, size_t ldc, bool add)
{
#if QL_KERN_NP == 2
	for (; n >= 2 * QL_PW; n -= 2 * QL_PW, b += 2 * b_panel, c += 2 * QL_PW)
		tiles_2(m, k, a, a_row, a_k, b, b_panel, b_k, c, ldc, add);
#endif
	for (; n >= QL_PW; n -= QL_PW, b += b_panel, c += QL_PW)
		tiles_1(m, k, a, a_row, a_k, b, b_k, c, ldc, add);
	if (n > 0)
		tiles_edge(m, n, k, a, a_row, a_k, b, b_k, c, ldc, add);
}
