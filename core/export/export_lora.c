/* export_lora.c - the adapter as GGUF LoRA (llama.cpp, llama-adapter.cpp, convert_lora_to_gguf.py), and its verification.
 *
 * Tensors <base tensor>.lora_a ne {in, r} = A and <base tensor>.lora_b ne {r, out} = B, for `llama` with B's rows of q and k
 * in GGUF order (A is never permuted; fused tensors get one pair of blocks, peft_whole.h).  A loader's scale is alpha/r_tensor with one alpha for all, so alpha' = alpha, or
 * alpha·√r with rsLoRA, and B is multiplied where a pair's own rank or alpha asks for another scale. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/limits.h"
#include "core/export/export_priv.h"
#include "core/formats/peft_whole.h"
#include "core/quant/blk.h"

static double file_alpha(const struct ql_adapter_file *f)
{
	return f->rslora ? f->alpha * sqrt((double)f->rank) : f->alpha;
}

/* The two halves as the file has them: rows × cols and how to fill them. */
struct half {
	char name[80];
	uint64_t rows, cols;
	const float *src;
	double factor;
	bool permute;
};

/* Half h (0 = A, 1 = B) of a whole. */
static void get_half(const struct ql_export *x, const struct ql_arch *a, const struct ql_adapter_whole *w, int h, struct half *out)
{
	struct ql_adapter_pair p = {.rank = w->rank, .alpha = w->alpha};
	double factor = ql_adapter_pair_scale(x->adapter, &p) / (file_alpha(x->adapter) / (double)w->rank);

	(void)snprintf(out->name, sizeof out->name, "%s.lora_%c", w->tensor.file_gguf, h == 0 ? 'a' : 'b');
	out->rows = h == 0 ? w->rank : w->tensor.file_rows;
	out->cols = h == 0 ? w->tensor.cols : w->rank;
	out->src = h == 0 ? w->a : w->b;
	out->factor = h == 0 || fabs(factor - 1) < 1e-12 ? 1 : factor;
	out->permute = h == 1 && ql_export_permuted(a, &w->tensor);
}

/* File row g of a half as fp32. */
static void fill_row(const struct half *h, uint32_t head_dim, uint64_t g, float *dst)
{
	const float *src = h->src + (h->permute ? ql_arch_hf_row(head_dim, g) : g) * h->cols;

	for (uint64_t c = 0; c < h->cols; c++)
		dst[c] = h->factor >= 1 && h->factor <= 1 ? src[c] : (float)((double)src[c] * h->factor);
}

static int write_metadata(struct ql_gguf_writer *w, const struct ql_export *x, const struct ql_arch *a,
			  enum ql_export_type type, struct ql_err *e)
{
	const char *name = x->name != NULL ? x->name : ql_source_name(x->source);
	int rc = ql_gguf_write_str(w, "general.type", "adapter", 7, e);

	if (rc == QL_OK)
		rc = ql_gguf_write_str(w, "general.architecture", a->family, strlen(a->family), e);
	if (rc == QL_OK)
		rc = ql_gguf_write_str(w, "general.name", name, strlen(name), e);
	if (rc == QL_OK)
		rc = ql_gguf_write_u32(w, "general.file_type", ql_export_types[type].file_type, e);
	if (rc == QL_OK)
		rc = ql_gguf_write_str(w, "adapter.type", "lora", 4, e);
	if (rc == QL_OK)
		rc = ql_gguf_write_f32(w, "adapter.lora.alpha", (float)file_alpha(x->adapter), e);
	return rc;
}

/* Runs over all halves of the adapter in file order. */
typedef int (*half_fn)(void *ctx, const struct half *h, struct ql_err *e);

static int each_half(const struct ql_export *x, const struct ql_arch *a, const struct ql_adapter_wholes *w, half_fn fn, void *ctx,
		     struct ql_err *e)
{
	struct half h;
	int rc = QL_OK;

	for (size_t i = 0; rc == QL_OK && i < w->n; i++)
		for (int k = 0; rc == QL_OK && k < 2; k++) {
			get_half(x, a, &w->v[i], k, &h);
			rc = fn(ctx, &h, e);
		}
	return rc;
}

struct job {
	const struct ql_export *x;
	const struct ql_arch *arch;
	struct ql_adapter_wholes wholes;
	enum ql_dtype dtype;
	struct ql_gguf_writer *w; /* writing */
	struct ql_gguf *g;	  /* verifying */
	size_t n;		  /* tensors seen */
	float *row;
	uint8_t *out;
};

static int declare(void *ctx, const struct half *h, struct ql_err *e)
{
	struct job *j = ctx;
	uint64_t ne[2] = {h->cols, h->rows};

	j->n++;
	return ql_gguf_write_tensor(j->w, h->name, j->dtype, 2, ne, e);
}

static int encode_row(struct job *j, const struct half *h, uint64_t row, struct ql_err *e)
{
	int rc;

	fill_row(h, j->arch->head_dim, row, j->row);
	rc = ql_blk_quantize(j->dtype, j->row, 1, h->cols, NULL, j->out, NULL, e);
	if (rc != QL_OK)
		(void)ql_err_prefix(e, "tensor %s as %s", h->name, ql_dtype_name(j->dtype));
	return rc;
}

static int write_half(void *ctx, const struct half *h, struct ql_err *e)
{
	struct job *j = ctx;
	int rc = QL_OK;

	for (uint64_t row = 0; rc == QL_OK && row < h->rows; row++) {
		rc = encode_row(j, h, row, e);
		if (rc == QL_OK)
			rc = ql_gguf_write_data(j->w, j->out, (size_t)h->cols * ql_dtypes[j->dtype].bytes, e);
	}
	return rc;
}

static int verify_half(void *ctx, const struct half *h, struct ql_err *e)
{
	struct job *j = ctx;
	const struct ql_gguf_tensor *f = ql_gguf_tensor_find(j->g, h->name);
	size_t bytes = (size_t)h->cols * ql_dtypes[j->dtype].bytes;
	int rc = QL_OK;

	j->n++;
	if (f == NULL || f->dtype != j->dtype || f->n_dims != 2 || f->ne[0] != h->cols || f->ne[1] != h->rows)
		return ql_err_param(e, QL_EMISMATCH, h->name, "tensor %s is missing or has another shape", h->name);
	for (uint64_t row = 0; rc == QL_OK && row < h->rows; row++) { /* small: every row */
		rc = encode_row(j, h, row, e);
		if (rc == QL_OK && memcmp(j->out, (const uint8_t *)f->data + row * bytes, bytes) != 0)
			rc = ql_err_param(e, QL_EMISMATCH, h->name, "tensor %s, row %llu: the file differs from the adapter",
					  h->name, (unsigned long long)row);
	}
	return rc;
}

static int job_init(struct job *j, const struct ql_export *x, enum ql_export_type type, struct ql_err *e)
{
	const struct ql_arch *a = ql_source_arch(x->source);
	size_t cols = a->hidden_size;
	int rc;

	*j = (struct job){.x = x, .arch = a};
	if (type != QL_EXPORT_F32 && type != QL_EXPORT_F16)
		return ql_err_set(e, QL_EINVAL, "a GGUF adapter is written as f32 or f16");
	if (x->adapter == NULL)
		return ql_err_set(e, QL_EINVAL, "no adapter given");
	j->dtype = ql_export_types[type].base;
	cols = a->intermediate_size > cols ? a->intermediate_size : cols;
	cols = (size_t)a->num_attention_heads * a->head_dim > cols ? (size_t)a->num_attention_heads * a->head_dim : cols;
	cols = 3 * QL_LORA_RANK_MAX > cols ? 3 * QL_LORA_RANK_MAX : cols; /* of fused modules */
	j->row = malloc(cols * sizeof(float));
	j->out = malloc(cols * sizeof(float));
	if (j->row == NULL || j->out == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for the export's buffers");
	rc = ql_export_check_input(x, e);
	return rc == QL_OK ? ql_adapter_wholes_make(&j->wholes, x->adapter, a, e) : rc;
}

static void job_free(struct job *j)
{
	ql_adapter_wholes_free(&j->wholes);
	free(j->row);
	free(j->out);
	ql_gguf_close(j->g);
}

static int report(const struct ql_export *x, double done, struct ql_err *e)
{
	if (x->progress != NULL && x->progress(x->progress_ctx, done) != 0)
		return ql_err_set(e, QL_ECANCELLED, "export cancelled");
	return QL_OK;
}

int ql_export_gguf_lora(const struct ql_export *x, enum ql_export_type type, int dirfd, const char *file, struct ql_err *e)
{
	struct job j;
	int rc = job_init(&j, x, type, e);

	if (rc == QL_OK)
		rc = ql_gguf_write_new(&j.w, e);
	if (rc == QL_OK)
		rc = write_metadata(j.w, x, j.arch, type, e);
	if (rc == QL_OK)
		rc = each_half(x, j.arch, &j.wholes, declare, &j, e);
	if (rc == QL_OK)
		rc = ql_gguf_write_begin(j.w, dirfd, file, e);
	if (rc == QL_OK)
		rc = each_half(x, j.arch, &j.wholes, write_half, &j, e);
	if (rc == QL_OK)
		rc = report(x, 1, e);
	if (rc == QL_OK)
		rc = ql_gguf_write_commit(j.w, e);
	else
		ql_gguf_write_abort(j.w);
	job_free(&j);
	return rc;
}

static int verify_metadata(const struct job *j, struct ql_err *e)
{
	float alpha = 0, want = (float)file_alpha(j->x->adapter);
	struct ql_gguf_str type = {0}, arch = {0};
	int rc = ql_gguf_get_f32(j->g, "adapter.lora.alpha", true, &alpha, e);

	if (rc == QL_OK)
		rc = ql_gguf_get_str(j->g, "general.type", true, &type, e);
	if (rc == QL_OK)
		rc = ql_gguf_get_str(j->g, "general.architecture", true, &arch, e);
	if (rc != QL_OK)
		return rc;
	if (alpha < want || alpha > want || type.len != 7 || memcmp(type.s, "adapter", 7) != 0 ||
	    arch.len != strlen(j->arch->family) || memcmp(arch.s, j->arch->family, arch.len) != 0)
		return ql_err_set(e, QL_EMISMATCH, "the metadata differs from the adapter");
	return QL_OK;
}

int ql_export_verify_gguf_lora(const struct ql_export *x, enum ql_export_type type, int dirfd, const char *file,
			       struct ql_err *e)
{
	struct job j;
	int rc = job_init(&j, x, type, e);

	if (rc == QL_OK)
		rc = ql_gguf_open_at(&j.g, dirfd, file, e);
	if (rc == QL_OK)
		rc = verify_metadata(&j, e);
	if (rc == QL_OK)
		rc = each_half(x, j.arch, &j.wholes, verify_half, &j, e);
	if (rc == QL_OK && j.n != ql_gguf_tensor_count(j.g))
		rc = ql_err_set(e, QL_EMISMATCH, "the file holds %zu tensors, %zu were written", ql_gguf_tensor_count(j.g), j.n);
	job_free(&j);
	if (rc != QL_OK)
		(void)ql_err_prefix(e, "verify %.100s", file);
	return rc;
}
