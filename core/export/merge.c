/* merge.c - the stream of merged rows: W' = W + s·B·A in fp32 (product in fp64), chunk by chunk, encoded once.
 * Rows are computed one by one, each from its own inputs alone, so the bytes do not depend on threads or chunks. */
#include <math.h>
#include <sodium/crypto_generichash.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/export/export_priv.h"
#include "core/quant/blk.h"

#define CHUNK_ELEMENTS ((size_t)1 << 20)

const struct ql_adapter_pair *ql_export_pair(const struct ql_export *x, const struct ql_arch_tensor *t)
{
	const struct ql_adapter_pair *p;

	if (x->adapter == NULL || t->module < 0)
		return NULL;
	p = &x->adapter->pairs[(size_t)t->layer * QL_MODULES + (size_t)t->module];
	return p->a != NULL ? p : NULL;
}

int ql_export_check_input(const struct ql_export *x, struct ql_err *e)
{
	const struct ql_arch *a = ql_source_arch(x->source);

	if (x->adapter != NULL && x->adapter->n_layers != a->num_hidden_layers)
		return ql_err_set(e, QL_EMISMATCH, "the adapter has %u layers, the base model %u", x->adapter->n_layers,
				  a->num_hidden_layers);
	return QL_OK;
}

int ql_export_run_init(struct ql_export_run *r, const struct ql_export *x, struct ql_err *e)
{
	struct ql_arch_tensor t;
	uint64_t most = 0, cols = 0;
	size_t threads = x->pool != NULL ? (size_t)ql_pool_threads(x->pool) : 1;

	*r = (struct ql_export_run){.x = x, .arch = ql_source_arch(x->source)};
	for (size_t i = 0; i < ql_arch_tensor_count(r->arch); i++) {
		uint64_t unit;

		ql_arch_tensor_at(r->arch, i, &t);
		unit = ql_export_permuted(r->arch, &t) ? (uint64_t)t.cols * r->arch->head_dim : t.cols;
		most = unit > most ? unit : most;
		cols = t.cols > cols ? t.cols : cols;
		r->total += (uint64_t)t.rows * t.cols;
	}
	r->chunk = most > CHUNK_ELEMENTS ? (size_t)most : CHUNK_ELEMENTS;
	r->rows = malloc(r->chunk * sizeof(float));
	r->turned = malloc(r->chunk * sizeof(float));
	r->out = malloc(r->chunk * sizeof(float)); /* no type is wider than fp32 */
	r->acc = malloc(threads * (size_t)cols * sizeof(double));
	if (r->rows == NULL || r->turned == NULL || r->out == NULL || r->acc == NULL) {
		ql_export_run_free(r);
		return ql_err_set(e, QL_ENOMEM, "no memory for the export's buffers");
	}
	return QL_OK;
}

void ql_export_run_free(struct ql_export_run *r)
{
	free(r->rows);
	free(r->turned);
	free(r->out);
	free(r->acc);
	*r = (struct ql_export_run){0};
}

int ql_export_run_step(struct ql_export_run *r, uint64_t n, struct ql_err *e)
{
	r->done += n;
	if (r->x->progress != NULL && r->x->progress(r->x->progress_ctx, (double)r->done / (double)r->total) != 0)
		return ql_err_set(e, QL_ECANCELLED, "export cancelled");
	return QL_OK;
}

static int read_base(const struct ql_export *x, const struct ql_arch_tensor *t, uint64_t row, uint64_t n_rows, float *dst,
		     struct ql_err *e)
{
	struct ql_source_tensor s;
	int rc;

	if (x->read_f32 != NULL)
		return x->read_f32(x->ctx, t->hf, row, n_rows, dst, e);
	rc = ql_source_find(x->source, t->hf, &s, e);
	if (rc == QL_OK)
		rc = ql_source_read_f32(x->source, &s, row, n_rows, dst, e);
	if (rc == QL_OK)
		ql_source_drop(x->source, &s);
	return rc;
}

struct add {
	const struct ql_adapter_pair *p;
	double scale;
	uint64_t row, cols;
	float *dst;
	double *acc;
};

/* Row i of the chunk: dst += scale · B[row + i] · A. */
static void add_row(void *ctx, size_t i, int worker)
{
	const struct add *j = ctx;
	const float *b = j->p->b + (j->row + i) * j->p->rank;
	double *acc = j->acc + (size_t)worker * j->cols;
	float *dst = j->dst + i * j->cols;

	memset(acc, 0, j->cols * sizeof *acc);
	for (uint32_t k = 0; k < j->p->rank; k++) {
		const float *a = j->p->a + (uint64_t)k * j->cols;
		double f = (double)b[k];

		for (uint64_t c = 0; c < j->cols; c++)
			acc[c] += f * (double)a[c];
	}
	for (uint64_t c = 0; c < j->cols; c++)
		dst[c] = (float)((double)dst[c] + j->scale * acc[c]);
}

int ql_export_merge(struct ql_export_run *r, const struct ql_arch_tensor *t, uint64_t row, uint64_t n_rows, float *dst,
		    struct ql_err *e)
{
	const struct ql_adapter_pair *p = ql_export_pair(r->x, t);
	int rc = read_base(r->x, t, row, n_rows, dst, e);
	struct add job;

	for (uint64_t i = 0; rc == QL_OK && r->gguf && r->arch->norm_plus_one && t->norm && i < n_rows * t->cols; i++)
		dst[i] += 1;

	if (rc != QL_OK || p == NULL)
		return rc;
	job = (struct add){p, ql_adapter_pair_scale(r->x->adapter, p), row, t->cols, dst, r->acc};
	ql_pool_run(r->x->pool, (size_t)n_rows, add_row, &job);
	return QL_OK;
}

/* HF rows → GGUF rows; both hold whole heads. */
static void turn(const float *src, float *dst, uint64_t rows, uint64_t cols, uint32_t hd)
{
	for (uint64_t g = 0; g < rows; g++)
		memcpy(dst + g * cols, src + ql_arch_hf_row(hd, g) * cols, cols * sizeof *dst);
}

/* Encodes; names the tensor and the type on failure. */
static int encode(struct ql_export_run *r, const struct ql_arch_tensor *t, enum ql_dtype dtype, const float *src, uint64_t rows,
		  void *dst, struct ql_err *e)
{
	int rc = ql_blk_quantize(dtype, src, rows, t->cols, NULL, dst, r->x->pool, e);

	if (rc != QL_OK)
		(void)ql_err_prefix(e, "tensor %s as %s%s", t->hf, ql_dtype_name(dtype),
				    rc == QL_ENONFINITE && dtype == QL_F16 ? " (bf16 has the range)" : "");
	return rc;
}

/* Where a tensor's digest is kept; NULL if none is wanted. */
static uint8_t *digest_of(const struct ql_export_run *r, const struct ql_arch_tensor *t)
{
	return r->x->digests != NULL ? r->x->digests[ql_arch_tensor_index_hf(r->arch, t->hf)] : NULL;
}

int ql_export_stream(struct ql_export_run *r, const struct ql_arch_tensor *t, enum ql_dtype dtype, bool permute,
		     int (*sink)(void *ctx, const void *data, size_t len, struct ql_err *e), void *ctx, struct ql_err *e)
{
	uint32_t hd = permute ? r->arch->head_dim : 1;
	uint64_t step = r->chunk / t->cols / hd * hd;
	crypto_generichash_state hash;
	uint8_t *digest = digest_of(r, t);

	(void)crypto_generichash_init(&hash, NULL, 0, QL_EXPORT_DIGEST);
	for (uint64_t row = 0; row < t->rows; row += step) {
		uint64_t n = t->rows - row < step ? t->rows - row : step;
		const float *src = r->rows;
		int rc = ql_export_merge(r, t, row, n, r->rows, e);

		if (rc == QL_OK && permute) {
			turn(r->rows, r->turned, n, t->cols, hd);
			src = r->turned;
		}
		if (rc == QL_OK)
			rc = encode(r, t, dtype, src, n, r->out, e);
		if (rc == QL_OK && digest != NULL)
			(void)crypto_generichash_update(&hash, r->out, n * ql_dtype_bytes(dtype, t->cols));
		if (rc == QL_OK)
			rc = sink(ctx, r->out, (size_t)n * ql_dtype_bytes(dtype, t->cols), e);
		if (rc == QL_OK)
			rc = ql_export_run_step(r, n * t->cols, e);
		if (rc != QL_OK)
			return rc;
	}
	if (digest != NULL)
		(void)crypto_generichash_final(&hash, digest, QL_EXPORT_DIGEST);
	return QL_OK;
}

static int check_digest(const struct ql_export_run *r, const struct ql_arch_tensor *t, const uint8_t *data, size_t len, struct ql_err *e)
{
	static const uint8_t none[QL_EXPORT_DIGEST];
	const uint8_t *want = digest_of(r, t);
	uint8_t got[QL_EXPORT_DIGEST];

	if (want == NULL || memcmp(want, none, sizeof none) == 0)
		return QL_OK;
	(void)crypto_generichash(got, sizeof got, data, len, NULL, 0);
	return memcmp(got, want, sizeof got) == 0
		       ? QL_OK
		       : ql_err_param(e, QL_EMISMATCH, t->hf, "tensor %s: the file does not hold what was written", t->hf);
}

static int check_finite(struct ql_export_run *r, const struct ql_arch_tensor *t, enum ql_dtype dtype, const uint8_t *data,
			size_t row_bytes, struct ql_err *e)
{
	uint64_t step = r->chunk / t->cols;

	for (uint64_t row = 0; row < t->rows; row += step) {
		uint64_t n = t->rows - row < step ? t->rows - row : step;
		int rc = ql_blk_dequantize(dtype, data + row * row_bytes, n * t->cols, r->rows, e);

		if (rc != QL_OK)
			return rc;
		for (uint64_t i = 0; i < n * t->cols; i++)
			if (!isfinite(r->rows[i]))
				return ql_err_param(e, QL_ENONFINITE, t->hf, "tensor %s holds NaN or infinity in row %llu", t->hf,
						    (unsigned long long)(row + i / t->cols));
		rc = ql_export_run_step(r, n * t->cols, e);
		if (rc != QL_OK)
			return rc;
	}
	return QL_OK;
}

int ql_export_check_tensor(struct ql_export_run *r, const struct ql_arch_tensor *t, enum ql_dtype dtype, bool permute,
			   const void *data, struct ql_err *e)
{
	size_t row_bytes = ql_dtype_bytes(dtype, t->cols);
	uint64_t samples = t->rows < 8 ? t->rows : 8;
	int rc = check_finite(r, t, dtype, data, row_bytes, e);

	if (rc == QL_OK)
		rc = check_digest(r, t, data, (size_t)t->rows * row_bytes, e);
	for (uint64_t k = 0; rc == QL_OK && k < samples; k++) {
		uint64_t row = samples == 1 ? 0 : (t->rows - 1) * k / (samples - 1);
		uint64_t hf = permute ? ql_arch_hf_row(r->arch->head_dim, row) : row;

		rc = ql_export_merge(r, t, hf, 1, r->rows, e);
		if (rc == QL_OK)
			rc = encode(r, t, dtype, r->rows, 1, r->out, e);
		if (rc == QL_OK && memcmp(r->out, (const uint8_t *)data + row * row_bytes, row_bytes) != 0)
			rc = ql_err_param(e, QL_EMISMATCH, t->hf, "tensor %s, row %llu: the file differs from base and adapter",
					  t->hf, (unsigned long long)row);
	}
	return rc;
}
