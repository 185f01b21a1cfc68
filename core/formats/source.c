/* source.c - opening, look-up and reading of rows; see source.h. */
#include "core/formats/source.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/checked.h"
#include "core/base/io.h"
#include "core/formats/source_priv.h"
#include "core/quant/blk.h"
#include "core/quant/q4.h"

int ql_source_make_table(struct ql_source *s, struct ql_err *e)
{
	struct ql_arch_tensor a;
	size_t n = ql_arch_tensor_count(&s->arch);

	s->tensors = calloc(n, sizeof *s->tensors);
	if (s->tensors == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for %zu tensors", n);
	for (; s->n_tensors < n; s->n_tensors++) {
		struct ql_source_tensor *t = &s->tensors[s->n_tensors];

		ql_arch_tensor_at(&s->arch, s->n_tensors, &a);
		t->name = strdup(a.hf);
		if (t->name == NULL)
			return ql_err_set(e, QL_ENOMEM, "no memory for a tensor name");
		t->n_dims = a.n_dims;
		t->rows = a.rows;
		t->cols = a.cols;
		t->n = t->rows * t->cols;
	}
	return QL_OK;
}

void ql_source_bind(struct ql_source *s, size_t i, enum ql_dtype dtype, const void *data)
{
	struct ql_arch_tensor a;

	ql_arch_tensor_at(&s->arch, i, &a);
	for (uint32_t p = 0; p < a.file_parts; p++) {
		struct ql_source_tensor *t = &s->tensors[i + p];
		size_t row = ql_dtype_bytes(dtype, t->cols);

		t->dtype = dtype;
		t->data = data;
		t->bytes = (size_t)t->rows * row;
		data = (const char *)data + t->bytes;
	}
}

int ql_source_check_table(const struct ql_source *s, struct ql_err *e)
{
	for (size_t i = 0; i < s->n_tensors; i++)
		if (s->tensors[i].data == NULL)
			return ql_err_param(e, QL_ENOTFOUND, s->tensors[i].name, "tensor %s is missing", s->tensors[i].name);
	return QL_OK;
}

char *ql_source_join(const char *dir, const char *name)
{
	size_t a = strlen(dir), b = strlen(name);
	char *p = malloc(a + b + 2);

	if (p == NULL)
		return NULL;
	memcpy(p, dir, a);
	p[a] = '/';
	memcpy(p + a + 1, name, b + 1);
	return p;
}

int ql_source_open(struct ql_source **out, const char *path, struct ql_err *e)
{
	struct ql_source *s = NULL;
	struct stat st;
	int rc;

	*out = NULL;
	if (stat(path, &st) != 0)
		return ql_err_errno(e, "base model %.300s", path);
	s = calloc(1, sizeof *s);
	if (s != NULL)
		s->path = strdup(path);
	if (s == NULL || s->path == NULL) {
		free(s);
		return ql_err_set(e, QL_ENOMEM, "no memory for a base model");
	}
	if (S_ISDIR(st.st_mode))
		s->dir = s->path;
	rc = s->dir != NULL ? ql_source_open_hf(s, e) : ql_source_open_gguf(s, e);
	if (rc == QL_OK)
		rc = ql_source_check_table(s, e);
	if (rc == QL_OK)
		rc = ql_source_load_text(s, e);
	if (rc != QL_OK) {
		/* some messages name the file already */
		(void)(e != NULL && strstr(e->message, path) != NULL ? ql_err_prefix(e, "base model")
								     : ql_err_prefix(e, "base model %.200s", path));
		ql_source_close(s);
		return rc;
	}
	*out = s;
	return QL_OK;
}

void ql_source_close(struct ql_source *s)
{
	if (s == NULL)
		return;
	for (size_t i = 0; i < s->n_tensors; i++)
		free((void *)(uintptr_t)s->tensors[i].name);
	ql_source_free_bnb(s);
	for (size_t i = 0; i < s->n_shards; i++) {
		ql_st_close(s->shards[i].st);
		free(s->shards[i].name);
	}
	ql_gguf_close(s->g);
	free(s->shards);
	free(s->tensors);
	free(s->name);
	free(s->tmpl);
	free(s->tool_tmpl);
	free(s->path);
	free(s);
}

const struct ql_arch *ql_source_arch(const struct ql_source *s) { return &s->arch; }

int ql_source_find(const struct ql_source *s, const char *name, struct ql_source_tensor *t, struct ql_err *e)
{
	size_t i = ql_arch_tensor_index_hf(&s->arch, name);

	if (i == SIZE_MAX)
		return ql_err_param(e, QL_ENOTFOUND, name, "the model has no tensor %.200s", name);
	*t = s->tensors[i];
	return QL_OK;
}

static int check_finite(const struct ql_source_tensor *t, uint64_t row_begin, uint64_t n_rows, const float *v, struct ql_err *e)
{
	for (uint64_t r = 0; r < n_rows; r++) {
		const float *row = v + r * t->cols;
		uint32_t bad = 0;

		for (uint64_t c = 0; c < t->cols; c++) {
			uint32_t u;

			memcpy(&u, &row[c], 4);
			bad |= (u & 0x7f800000u) == 0x7f800000u;
		}
		if (bad != 0)
			return ql_err_param(e, QL_ENONFINITE, t->name, "tensor %s holds NaN or infinity in row %llu", t->name,
					    (unsigned long long)(row_begin + r));
	}
	return QL_OK;
}

int ql_source_read_f32(const struct ql_source *s, const struct ql_source_tensor *t, uint64_t row_begin, uint64_t n_rows,
		       float *dst, struct ql_err *e)
{
	size_t row_bytes = ql_dtype_bytes(t->dtype, t->cols);
	int rc = QL_OK;

	(void)s;
	if (row_begin > t->rows || n_rows > t->rows - row_begin)
		return ql_err_param(e, QL_EINVAL, t->name, "tensor %s has %llu rows, asked for %llu from %llu", t->name,
				    (unsigned long long)t->rows, (unsigned long long)n_rows, (unsigned long long)row_begin);
	if (t->q4 != NULL)
		rc = ql_q4_dequantize(t->q4, row_begin * t->cols, n_rows * t->cols, dst, QL_F32, NULL, e);
	else if (t->permute_head_dim == 0)
		rc = ql_blk_dequantize(t->dtype, (const char *)t->data + row_begin * row_bytes, n_rows * t->cols, dst, e);
	for (uint64_t r = 0; t->permute_head_dim != 0 && rc == QL_OK && r < n_rows; r++) {
		uint64_t from = ql_arch_gguf_row(t->permute_head_dim, row_begin + r);

		rc = ql_blk_dequantize(t->dtype, (const char *)t->data + from * row_bytes, t->cols, dst + r * t->cols, e);
	}
	return rc == QL_OK ? check_finite(t, row_begin, n_rows, dst, e) : rc;
}

void ql_source_drop(const struct ql_source *s, const struct ql_source_tensor *t)
{
	(void)s;
	ql_map_drop(t->data, t->bytes);
}

const void *ql_source_raw(const struct ql_source *s, const struct ql_source_tensor *t, size_t *bytes)
{
	(void)s;
	*bytes = t->bytes;
	return t->permute_head_dim == 0 && t->q4 == NULL ? t->data : NULL;
}

const struct ql_gguf *ql_source_gguf(const struct ql_source *s) { return s->g; }
const char *ql_source_dir(const struct ql_source *s) { return s->dir; }
const char *ql_source_path(const struct ql_source *s) { return s->path; }
const char *ql_source_name(const struct ql_source *s) { return s->name; }

const char *ql_source_chat_template(const struct ql_source *s, size_t *len)
{
	*len = s->tmpl_len;
	return s->tmpl;
}

const char *ql_source_tool_template(const struct ql_source *s, size_t *len)
{
	*len = s->tool_tmpl_len;
	return s->tool_tmpl;
}
