/* export_gguf.c - the merged model as one GGUF file, and its verification; see export.h. */
#include <string.h>

#include "core/export/export_priv.h"

static bool has_rope_freqs(const struct ql_arch *a)
{
	return a->rope.kind == QL_ROPE_LLAMA3 || a->rope.kind == QL_ROPE_FACTORS;
}

static int declare(struct ql_gguf_writer *w, const struct ql_arch *a, enum ql_export_type type, struct ql_err *e)
{
	struct ql_arch_tensor t;
	uint64_t ne[2] = {a->head_dim / 2, 1};
	int rc = has_rope_freqs(a) ? ql_gguf_write_tensor(w, "rope_freqs.weight", QL_F32, 1, ne, e) : QL_OK;

	for (size_t i = 0; rc == QL_OK && i < ql_arch_tensor_count(a); i++) {
		ql_arch_tensor_at(a, i, &t);
		ne[0] = t.cols;
		ne[1] = t.file_rows;
		if (t.file_part == 0)
			rc = ql_gguf_write_tensor(w, t.file_gguf, ql_export_tensor_type(type, a, &t), t.n_dims, ne, e);
	}
	return rc;
}

static int sink(void *ctx, const void *data, size_t len, struct ql_err *e) { return ql_gguf_write_data(ctx, data, len, e); }

static int write_tensors(struct ql_gguf_writer *w, struct ql_export_run *r, enum ql_export_type type, struct ql_err *e)
{
	const struct ql_arch *a = r->arch;
	float factors[QL_HEAD_DIM_MAX / 2];
	struct ql_arch_tensor t;
	int rc = QL_OK;

	if (has_rope_freqs(a)) {
		ql_arch_rope_factors(a, factors);
		rc = ql_gguf_write_data(w, factors, a->head_dim / 2 * sizeof(float), e);
	}
	for (size_t i = 0; rc == QL_OK && i < ql_arch_tensor_count(a); i++) { /* parts of one tensor follow each other */
		ql_arch_tensor_at(a, i, &t);
		rc = ql_export_stream(r, &t, ql_export_tensor_type(type, a, &t), ql_export_permuted(a, &t), sink, w, e);
	}
	return rc;
}

int ql_export_gguf(const struct ql_export *x, enum ql_export_type type, int dirfd, const char *file, struct ql_err *e)
{
	struct ql_gguf_writer *w = NULL;
	struct ql_export_run r = {0};
	int rc = type < QL_EXPORT_TYPES ? ql_export_check_input(x, e) : ql_err_set(e, QL_EINVAL, "unknown export type");

	if (rc == QL_OK)
		rc = ql_export_check_gguf(ql_source_arch(x->source), e);
	if (rc == QL_OK)
		rc = ql_export_run_init(&r, x, e);
	r.gguf = true;
	if (rc == QL_OK)
		rc = ql_gguf_write_new(&w, e);
	if (rc == QL_OK)
		rc = ql_export_write_metadata(w, x, type, e);
	if (rc == QL_OK)
		rc = declare(w, r.arch, type, e);
	if (rc == QL_OK)
		rc = ql_gguf_write_begin(w, dirfd, file, e);
	if (rc == QL_OK)
		rc = write_tensors(w, &r, type, e);
	if (rc == QL_OK)
		rc = ql_gguf_write_commit(w, e);
	else
		ql_gguf_write_abort(w);
	ql_export_run_free(&r);
	return rc;
}

/* One tensor of the file: present, shape, type, values. */
static int verify_tensor(struct ql_export_run *r, const struct ql_gguf *g, const struct ql_arch_tensor *t,
			 enum ql_export_type type, struct ql_err *e)
{
	const struct ql_gguf_tensor *f = ql_gguf_tensor_find(g, t->file_gguf);
	enum ql_dtype dtype = ql_export_tensor_type(type, r->arch, t);

	if (f == NULL)
		return ql_err_param(e, QL_EMISMATCH, t->file_gguf, "tensor %s is missing", t->file_gguf);
	if (f->dtype != dtype || f->n_dims != t->n_dims || f->ne[0] != t->cols || f->ne[1] != t->file_rows)
		return ql_err_param(e, QL_EMISMATCH, t->file_gguf, "tensor %s has another type or shape than written", t->file_gguf);
	return ql_export_check_tensor(r, t, dtype, ql_export_permuted(r->arch, t),
				      (const char *)f->data + t->file_row * ql_dtype_bytes(dtype, t->cols), e);
}

static int verify_rope(const struct ql_arch *a, const struct ql_gguf *g, struct ql_err *e)
{
	const struct ql_gguf_tensor *f = ql_gguf_tensor_find(g, "rope_freqs.weight");
	float want[QL_HEAD_DIM_MAX / 2];

	if (!has_rope_freqs(a))
		return f == NULL ? QL_OK : ql_err_set(e, QL_EMISMATCH, "rope_freqs.weight was not written by the export");
	ql_arch_rope_factors(a, want);
	if (f == NULL || f->dtype != QL_F32 || f->n != a->head_dim / 2 || memcmp(f->data, want, f->bytes) != 0)
		return ql_err_param(e, QL_EMISMATCH, "rope_freqs.weight", "rope_freqs.weight differs");
	return QL_OK;
}

int ql_export_verify_gguf(const struct ql_export *x, enum ql_export_type type, int dirfd, const char *file, struct ql_err *e)
{
	struct ql_export_run r = {0};
	struct ql_gguf *g = NULL;
	struct ql_arch_tensor t;
	struct ql_arch again;
	size_t n = 0, wholes = 0;
	int rc = type < QL_EXPORT_TYPES ? ql_export_check_input(x, e) : ql_err_set(e, QL_EINVAL, "unknown export type");

	if (rc == QL_OK)
		rc = ql_export_check_gguf(ql_source_arch(x->source), e);
	if (rc == QL_OK)
		rc = ql_export_run_init(&r, x, e);
	r.gguf = true;
	if (rc == QL_OK)
		rc = ql_gguf_open_at(&g, dirfd, file, e);
	if (rc == QL_OK)
		rc = ql_arch_from_gguf(&again, g, e);
	if (rc == QL_OK)
		rc = verify_rope(r.arch, g, e);
	if (rc == QL_OK)
		n = ql_arch_tensor_count(r.arch);
	for (size_t i = 0; rc == QL_OK && i < n; i++) {
		ql_arch_tensor_at(r.arch, i, &t);
		wholes += t.file_part == 0;
		rc = verify_tensor(&r, g, &t, type, e);
	}
	wholes += rc == QL_OK && has_rope_freqs(r.arch) ? 1 : 0;
	if (rc == QL_OK && ql_gguf_tensor_count(g) != wholes)
		rc = ql_err_set(e, QL_EMISMATCH, "the file holds %zu tensors, %zu were written", ql_gguf_tensor_count(g), wholes);
	ql_gguf_close(g);
	ql_export_run_free(&r);
	if (rc != QL_OK)
		(void)ql_err_prefix(e, "verify %.100s", file);
	return rc;
}
