/* blas.cu - matrix products by cuBLASLt: D = alpha·op(A)·op(B) + beta·C [+ bias], bf16 in, fp32 sums, bf16 or fp32 out.
 *
 * The library is opened with dlopen when a device opens (libcublasLt.so.13, then .12; QL_CUBLASLT names another file), so a
 * binary built with CUDA starts on machines that have neither driver nor toolkit.
 * Determinism: the first algorithm of the heuristic for a shape, chosen once per shape without timing, a fixed workspace per
 * queue, split-K only with an ordered reduction.  The choice depends on the shape, the leading dimensions and the
 * alignment (16 bytes or less) alone; n (the number of tokens, in forward and input gradient) enters rounded up, so that a few
 * tokens more or less do not change how a row is summed. */
#include <cublasLt.h>
#include <dlfcn.h>

#include "gpu/gpu.h"

struct gemm_key {
	uint64_t m, n, k, lda, ldb, ldc, ldd;
	uint32_t flags, align; /* align: four bytes a, b, c, d */
};

struct gemm_plan {
	struct gemm_key key;
	bool used;
	cublasLtMatmulDesc_t desc;
	cublasLtMatrixLayout_t la, lb, lc, ld;
	cublasLtMatmulAlgo_t algo;
};

#define PLANS 8192 /* a power of two; a full table is emptied */

#define FNS(F)                                                                                               \
	F(cublasLtCreate)                                                                                    \
	F(cublasLtDestroy)                                                                                   \
	F(cublasLtMatmul)                                                                                    \
	F(cublasLtMatmulAlgoGetHeuristic)                                                                    \
	F(cublasLtMatmulDescCreate)                                                                          \
	F(cublasLtMatmulDescDestroy)                                                                         \
	F(cublasLtMatmulDescSetAttribute)                                                                    \
	F(cublasLtMatrixLayoutCreate)                                                                        \
	F(cublasLtMatrixLayoutDestroy)                                                                       \
	F(cublasLtMatrixLayoutSetAttribute)                                                                  \
	F(cublasLtMatmulPreferenceCreate)                                                                    \
	F(cublasLtMatmulPreferenceDestroy)                                                                   \
	F(cublasLtMatmulPreferenceSetAttribute)

struct cu_blas {
	void *lib;
#define MEMBER(f) decltype(&::f) f;
	FNS(MEMBER)
	cublasLtHandle_t h;
	struct gemm_plan *plans;
	uint32_t n_plans;
};

int cu_blas_open(struct ql_device *d, struct ql_err *e)
{
	const char *own = getenv("QL_CUBLASLT"), *const names[] = {own, "libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
	struct cu_blas *b = (struct cu_blas *)calloc(1, sizeof *b);
	const char *missing = NULL;

	if (!b)
		return ql_err_set(e, QL_ENOMEM, "out of memory");
	cu_of(d)->blas = b;
	b->plans = (struct gemm_plan *)calloc(PLANS, sizeof *b->plans);
	if (!b->plans)
		return ql_err_set(e, QL_ENOMEM, "out of memory");
	for (size_t i = 0; i < sizeof names / sizeof names[0] && !b->lib; i++)
		if (names[i] && names[i][0])
			b->lib = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
	if (!b->lib)
		return ql_err_set(e, QL_ENOTFOUND, "cuBLAS is missing: no libcublasLt.so.13 or .12 on the library path");
#define LOAD(f)                                                  \
	if (!(b->f = (decltype(&::f))dlsym(b->lib, #f)))         \
		missing = #f;
	FNS(LOAD)
	if (missing)
		return ql_err_set(e, QL_EUNSUPPORTED, "cuBLAS lacks %s", missing);
	cublasStatus_t r = b->cublasLtCreate(&b->h);
	if (r != CUBLAS_STATUS_SUCCESS)
		return ql_err_set(e, QL_EDEVICE, "cublasLtCreate: status %d", (int)r);
	return QL_OK;
}

static void drop_plan(struct cu_blas *b, struct gemm_plan *p)
{
	if (p->desc)
		(void)b->cublasLtMatmulDescDestroy(p->desc);
	cublasLtMatrixLayout_t l[4] = {p->la, p->lb, p->lc, p->ld};
	for (int i = 0; i < 4; i++)
		if (l[i])
			(void)b->cublasLtMatrixLayoutDestroy(l[i]);
	memset(p, 0, sizeof *p);
}

void cu_blas_close(struct cu_dev *c)
{
	struct cu_blas *b = c->blas;

	if (!b)
		return;
	for (uint32_t i = 0; b->plans && i < PLANS; i++)
		if (b->plans[i].used)
			drop_plan(b, &b->plans[i]);
	if (b->h)
		(void)b->cublasLtDestroy(b->h);
	free(b->plans);
	free(b); /* the library stays mapped: it registers exit handlers */
	c->blas = NULL;
}

static uint32_t align_of(const void *p, size_t ld, size_t elem)
{
	uintptr_t v = (uintptr_t)p | (uintptr_t)(ld * elem) | 16;

	return (uint32_t)(v & (~v + 1)); /* lowest bit: 16 at most */
}

static int blas_fail(struct ql_device *d, cublasStatus_t r, const char *what, struct ql_err *e)
{
	struct cu_dev *c = cu_of(d);

	(void)ql_err_set(&c->dead, QL_EDEVICE, "%s: %s: cuBLAS status %d", c->op, what, (int)r);
	if (e)
		*e = c->dead;
	return QL_EDEVICE;
}

#define LT(call, what)                                            \
	do {                                                      \
		cublasStatus_t lt_r_ = (call);                    \
		if (lt_r_ != CUBLAS_STATUS_SUCCESS)               \
			return blas_fail(d, lt_r_, what, e);      \
	} while (0)

static int make_plan(struct ql_device *d, struct gemm_plan *p, const struct cu_gemm *g, struct ql_err *e)
{
	struct cu_blas *b = cu_of(d)->blas;
	cudaDataType_t out = g->out == QL_F32 ? CUDA_R_32F : CUDA_R_16BF;
	cublasOperation_t ta = g->ta ? CUBLAS_OP_T : CUBLAS_OP_N, tb = g->tb ? CUBLAS_OP_T : CUBLAS_OP_N;
	cublasLtMatmulPreference_t pref;
	cublasLtMatmulHeuristicResult_t hr;
	size_t ws = CU_BLAS_WS_BYTES;
	uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
	int got = 0;

	LT(b->cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "description");
	LT(b->cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta), "description");
	LT(b->cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb), "description");
	if (g->bias) {
		cublasLtEpilogue_t ep = CUBLASLT_EPILOGUE_BIAS;

		LT(b->cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &ep, sizeof ep), "epilogue");
		LT(b->cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &out, sizeof out), "epilogue");
		LT(b->cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &g->bias, sizeof g->bias), "epilogue");
	}
	LT(b->cublasLtMatrixLayoutCreate(&p->la, CUDA_R_16BF, g->ta ? g->k : g->m, g->ta ? g->m : g->k, (int64_t)g->lda), "layout");
	LT(b->cublasLtMatrixLayoutCreate(&p->lb, CUDA_R_16BF, g->tb ? g->n : g->k, g->tb ? g->k : g->n, (int64_t)g->ldb), "layout");
	LT(b->cublasLtMatrixLayoutCreate(&p->lc, out, g->m, g->n, (int64_t)g->ldc), "layout");
	LT(b->cublasLtMatrixLayoutCreate(&p->ld, out, g->m, g->n, (int64_t)g->ldd), "layout");
	LT(b->cublasLtMatmulPreferenceCreate(&pref), "preference");
	static const cublasLtMatmulPreferenceAttributes_t at[4] = {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
		CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
		CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
	cublasStatus_t r = b->cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &ws, sizeof ws);
	if (r == CUBLAS_STATUS_SUCCESS)
		r = b->cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction, sizeof reduction);
	for (int i = 0; i < 4 && r == CUBLAS_STATUS_SUCCESS; i++) {
		uint32_t al = p->key.align >> (8 * i) & 255;

		r = b->cublasLtMatmulPreferenceSetAttribute(pref, at[i], &al, sizeof al);
	}
	if (r == CUBLAS_STATUS_SUCCESS)
		r = b->cublasLtMatmulAlgoGetHeuristic(b->h, p->desc, p->la, p->lb, p->lc, p->ld, pref, 1, &hr, &got);
	(void)b->cublasLtMatmulPreferenceDestroy(pref);
	if (r != CUBLAS_STATUS_SUCCESS || got < 1) {
		drop_plan(b, p);
		return ql_err_set(e, QL_EUNSUPPORTED, "%s: cuBLAS has no algorithm for m %llu n %llu k %llu (status %d)", cu_of(d)->op,
				  (unsigned long long)g->m, (unsigned long long)g->n, (unsigned long long)g->k, (int)r);
	}
	p->algo = hr.algo;
	p->used = true;
	return QL_OK;
}

static int find_plan(struct ql_device *d, const struct gemm_key *key, const struct cu_gemm *g, struct gemm_plan **out, struct ql_err *e)
{
	struct cu_blas *b = cu_of(d)->blas;
	const uint8_t *raw = (const uint8_t *)key;
	uint64_t h = 1469598103934665603ull;

	for (size_t i = 0; i < sizeof *key; i++)
		h = (h ^ raw[i]) * 1099511628211ull;
	uint32_t i = (uint32_t)(h >> 20) & (PLANS - 1);
	while (b->plans[i].used && memcmp(&b->plans[i].key, key, sizeof *key) != 0)
		i = (i + 1) & (PLANS - 1);
	if (!b->plans[i].used) {
		if (b->n_plans > PLANS / 2) {
			for (uint32_t j = 0; j < PLANS; j++)
				if (b->plans[j].used)
					drop_plan(b, &b->plans[j]);
			b->n_plans = 0;
			i = (uint32_t)(h >> 20) & (PLANS - 1);
		}
		b->plans[i].key = *key;
		QL_TRY(make_plan(d, &b->plans[i], g, e));
		b->n_plans++;
	}
	*out = &b->plans[i];
	return QL_OK;
}

static uint64_t bucket(uint64_t n)
{
	const uint64_t step = n <= 128 ? 16 : n <= 1024 ? 64 : 256;

	return (n + step - 1) / step * step;
}

static int gemm(struct ql_device *d, struct ql_queue *q, const struct cu_gemm *g, bool exact, struct ql_err *e)
{
	struct cu_blas *b = cu_of(d)->blas;
	size_t es = g->out == QL_F32 ? 4 : 2;
	struct gemm_key key;
	struct gemm_plan *p;
	struct cu_gemm f = *g, shape;

	if (g->m == 0 || g->n == 0)
		return QL_OK;
	if (!f.c) {
		f.c = f.d;
		f.ldc = f.ldd;
	}
	memset(&key, 0, sizeof key);
	shape = f;
	shape.n = f.tb || exact ? f.n : bucket(f.n);
	key.m = f.m, key.n = shape.n, key.k = f.k;
	key.lda = f.lda, key.ldb = f.ldb, key.ldc = f.ldc, key.ldd = f.ldd;
	key.flags = (uint32_t)f.ta | (uint32_t)f.tb << 1 | (uint32_t)(f.out == QL_F32) << 2 | (uint32_t)(f.bias != NULL) << 3 |
		    (uint32_t)(f.c == f.d) << 4 | (uint32_t)(f.beta != 0.f) << 5 | (uint32_t)exact << 6;
	key.align = align_of(f.a, f.lda, 2) | align_of(f.b, f.ldb, 2) << 8 | align_of(f.c, f.ldc, es) << 16 | align_of(f.d, f.ldd, es) << 24;
	QL_TRY(find_plan(d, &key, &shape, &p, e));
	if (!f.tb) {
		cublasLtMatrixLayout_t l[3] = {p->lb, p->lc, p->ld};

		for (int i = 0; i < 3; i++)
			LT(b->cublasLtMatrixLayoutSetAttribute(l[i], CUBLASLT_MATRIX_LAYOUT_COLS, &f.n, sizeof f.n), "layout");
	}
	if (f.bias)
		LT(b->cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &f.bias, sizeof f.bias), "bias");
	cublasStatus_t r = b->cublasLtMatmul(b->h, p->desc, &f.alpha, f.a, p->la, f.b, p->lb, &f.beta, f.c, p->lc, f.d, p->ld, &p->algo, q->blas_ws,
					     CU_BLAS_WS_BYTES, q->s);
	if ((r == CUBLAS_STATUS_NOT_SUPPORTED || r == CUBLAS_STATUS_INVALID_VALUE) && shape.n != f.n && !exact)
		return gemm(d, q, g, true, e); /* the algorithm for the rounded n cannot do this n */
	LT(r, "matmul");
	return QL_OK;
}

int cu_gemm(struct ql_device *d, struct ql_queue *q, const struct cu_gemm *g, struct ql_err *e)
{
	return gemm(d, q, g, false, e);
}

int cu_gemm_nt(struct ql_device *d, struct ql_queue *q, uint64_t M, uint64_t N, uint64_t K, float alpha, const void *x, size_t ldx,
	       const void *w, size_t ldw, float beta, const void *c, size_t ldc, void *out, size_t ldo, enum ql_dtype t,
	       const void *bias, struct ql_err *e)
{
	struct cu_gemm g = {true, false, N, M, K, alpha, beta, w, x, c, out, ldw, ldx, ldc, ldo, t, bias};

	return cu_gemm(d, q, &g, e);
}

int cu_gemm_nn(struct ql_device *d, struct ql_queue *q, uint64_t M, uint64_t N, uint64_t K, float alpha, const void *x, size_t ldx,
	       const void *w, size_t ldw, float beta, const void *c, size_t ldc, void *out, size_t ldo, enum ql_dtype t,
	       struct ql_err *e)
{
	struct cu_gemm g = {false, false, N, M, K, alpha, beta, w, x, c, out, ldw, ldx, ldc, ldo, t, NULL};

	return cu_gemm(d, q, &g, e);
}

int cu_gemm_tn(struct ql_device *d, struct ql_queue *q, uint64_t M, uint64_t N, uint64_t K, float alpha, const void *x, size_t ldx,
	       const void *w, size_t ldw, float beta, void *out, size_t ldo, enum ql_dtype t, struct ql_err *e)
{
	struct cu_gemm g = {false, true, N, M, K, alpha, beta, w, x, NULL, out, ldw, ldx, 0, ldo, t, NULL};

	return cu_gemm(d, q, &g, e);
}
