/* write.c - files written through the public interface: the list of tensors, and the GGUF and QNAT writers. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/checked.h"
#include "core/formats/gguf.h"
#include "core/qnat/qnat.h"
#include "core/quant/blk.h"
#include "lib/write_priv.h"

int qlora_writer_new(qlora_writer **out, enum qlora_format format, struct qlora_error *err)
{
	struct ql_err e = {.offset = QL_NO_OFFSET};
	struct qlora_writer *w;
	int rc = QL_OK;

	*out = NULL;
	if ((unsigned)format > QLORA_QNAT_COMPAT)
		rc = ql_err_param(&e, QL_EINVAL, "format", "unknown format %d", (int)format);
	else if ((*out = w = calloc(1, sizeof *w)) == NULL)
		rc = ql_err_set(&e, QL_ENOMEM, "no memory for a writer");
	else
		w->format = format;
	return lib_done(rc, &e, err);
}

void qlora_writer_free(qlora_writer *w)
{
	if (w == NULL)
		return;
	for (size_t i = 0; i < w->n; i++)
		free(w->items[i].name);
	for (size_t i = 0; i < w->n_meta; i++) {
		free(w->meta[i].key);
		free(w->meta[i].value);
	}
	free(w->items);
	free(w->meta);
	free(w);
}

int qlora_writer_meta(qlora_writer *w, const char *key, const char *value, struct qlora_error *err)
{
	struct ql_err e = {.offset = QL_NO_OFFSET};
	bool qnat = w->format == QLORA_QNAT || w->format == QLORA_QNAT_COMPAT;
	struct lib_meta *m;

	if (w->format == QLORA_SAFETENSORS || (qnat && strcmp(key, "model_name") != 0 && strcmp(key, "model_type") != 0))
		return lib_done(ql_err_param(&e, QL_EUNSUPPORTED, key, "this format has no place for %.200s", key), &e, err);
	m = realloc(w->meta, (w->n_meta + 1) * sizeof *m);
	if (m == NULL)
		return lib_done(ql_err_set(&e, QL_ENOMEM, "no memory for metadata"), &e, err);
	w->meta = m;
	m += w->n_meta++;
	*m = (struct lib_meta){strdup(key), strdup(value)};
	return lib_done(m->key == NULL || m->value == NULL ? ql_err_set(&e, QL_ENOMEM, "no memory for metadata") : QL_OK, &e, err);
}

static int append(struct qlora_writer *w, const struct lib_item *item, const char *name, struct qlora_error *err)
{
	struct ql_err e = {.offset = QL_NO_OFFSET};
	struct lib_item *p = realloc(w->items, (w->n + 1) * sizeof *p);

	if (p == NULL)
		return lib_done(ql_err_set(&e, QL_ENOMEM, "no memory for a tensor"), &e, err);
	w->items = p;
	p[w->n] = *item;
	p[w->n].name = strdup(name);
	if (p[w->n].name == NULL)
		return lib_done(ql_err_set(&e, QL_ENOMEM, "no memory for a tensor"), &e, err);
	w->n++;
	return lib_done(QL_OK, &e, err);
}

static int check_add(const struct qlora_writer *w, struct lib_item *it, const char *name, struct ql_err *e)
{
	bool plain = it->type == QL_F32 || it->type == QL_F16 || it->type == QL_BF16;

	if (it->n_dims < 1 || it->n_dims > (w->format == QLORA_GGUF ? 4 : QL_ST_DIMS_MAX))
		return ql_err_param(e, QL_ESHAPE, name, "tensor %.200s: %d dimensions", name, it->n_dims);
	it->n = 1;
	for (int i = 0; i < it->n_dims; i++)
		if (it->shape[i] == 0 || !ql_mul_u64(it->n, it->shape[i], &it->n) || it->n > INT64_MAX / 8)
			return ql_err_param(e, QL_ESHAPE, name, "tensor %.200s: its shape is empty or too large", name);
	it->cols = it->shape[it->n_dims - 1];
	if (it->type == QL_DTYPE_COUNT || !ql_blk_known(it->type) || (w->format == QLORA_SAFETENSORS && !plain) ||
	    w->format > QLORA_GGUF)
		return ql_err_param(e, QL_EUNSUPPORTED, name, "tensor %.200s: this format does not hold such a type", name);
	if (it->cols % ql_dtypes[it->type].block != 0)
		return ql_err_param(e, QL_ESHAPE, name, "tensor %.200s: rows of %llu are no whole blocks of %s", name,
				    (unsigned long long)it->cols, ql_dtype_name(it->type));
	return QL_OK;
}

int qlora_writer_add(qlora_writer *w, const char *name, enum qlora_type type, int n_dims, const uint64_t *shape,
		     const float *data, struct qlora_error *err)
{
	struct lib_item it = {.type = lib_dtype(type), .n_dims = n_dims, .data = data};
	struct ql_err e = {.offset = QL_NO_OFFSET};
	int rc;

	if (name == NULL || shape == NULL || data == NULL)
		return lib_done(ql_err_param(&e, QL_EINVAL, name == NULL ? "name" : shape == NULL ? "shape" : "data", "an argument is NULL"),
				&e, err);
	for (int i = 0; i < n_dims && i < QL_ST_DIMS_MAX; i++)
		it.shape[i] = shape[i];
	rc = check_add(w, &it, name, &e);
	return rc == QL_OK ? append(w, &it, name, err) : lib_done(rc, &e, err);
}

int qlora_writer_add_q4(qlora_writer *w, const char *name, const qlora_q4 *q, struct qlora_error *err)
{
	struct ql_err e = {.offset = QL_NO_OFFSET};
	struct lib_item it;

	if (name == NULL || q == NULL)
		return lib_done(ql_err_param(&e, QL_EINVAL, name == NULL ? "name" : "q", "an argument is NULL"), &e, err);
	it = (struct lib_item){.type = q->q.kind, .n_dims = 2, .shape = {q->rows, q->cols}, .n = q->q.n, .cols = q->cols, .q4 = q};
	if (w->format == QLORA_GGUF)
		return lib_done(ql_err_param(&e, QL_EUNSUPPORTED, name, "GGUF has no 4-bit code-book type"), &e, err);
	return append(w, &it, name, err);
}

int lib_stream(const struct lib_item *it, int (*sink)(void *ctx, const void *data, size_t len, struct ql_err *e), void *ctx,
	       struct ql_err *e)
{
	uint64_t rows = it->cols < 65536 ? 65536 / it->cols : 1, all = it->n / it->cols;
	size_t each = ql_dtype_bytes(it->type, it->cols);
	uint8_t *out = malloc(rows * each);
	int rc = out == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for rows of a tensor") : QL_OK;

	for (uint64_t r = 0; rc == QL_OK && r < all; r += rows) {
		uint64_t k = all - r < rows ? all - r : rows;

		rc = ql_blk_quantize(it->type, it->data + r * it->cols, k, it->cols, NULL, out, NULL, e);
		if (rc == QL_OK)
			rc = sink(ctx, out, k * each, e);
	}
	free(out);
	return rc == QL_OK ? QL_OK : ((void)ql_err_prefix(e, "tensor %.200s", it->name), rc);
}

static int gguf_sink(void *ctx, const void *data, size_t len, struct ql_err *e)
{
	return ql_gguf_write_data(ctx, data, len, e);
}

static int save_gguf(const struct qlora_writer *w, int dirfd, const char *file, struct ql_err *e)
{
	struct ql_gguf_writer *g = NULL;
	int rc = ql_gguf_write_new(&g, e);

	for (size_t i = 0; rc == QL_OK && i < w->n_meta; i++)
		rc = ql_gguf_write_str(g, w->meta[i].key, w->meta[i].value, strlen(w->meta[i].value), e);
	for (size_t i = 0; rc == QL_OK && i < w->n; i++) {
		const struct lib_item *it = &w->items[i];
		uint64_t ne[4] = {1, 1, 1, 1};

		for (int d = 0; d < it->n_dims; d++)
			ne[d] = it->shape[it->n_dims - 1 - d];
		rc = ql_gguf_write_tensor(g, it->name, it->type, it->n_dims, ne, e);
	}
	if (rc == QL_OK)
		rc = ql_gguf_write_begin(g, dirfd, file, e);
	for (size_t i = 0; rc == QL_OK && i < w->n; i++)
		rc = lib_stream(&w->items[i], gguf_sink, g, e);
	if (rc == QL_OK)
		return ql_gguf_write_commit(g, e);
	ql_gguf_write_abort(g);
	return rc;
}

static int save_qnat(const struct qlora_writer *w, int dirfd, const char *file, struct ql_err *e)
{
	struct ql_qnat_spec *specs = calloc(w->n + 1, sizeof *specs);
	struct ql_qnat_model m = QL_QNAT_MODEL_DEFAULT;
	struct ql_qnat_writer *q = NULL;
	int rc = specs == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for a tensor list") : QL_OK;

	for (size_t i = 0; i < w->n_meta; i++)
		*(strcmp(w->meta[i].key, "model_name") == 0 ? &m.name : &m.type) = w->meta[i].value;
	for (size_t i = 0; rc == QL_OK && i < w->n; i++) {
		const struct lib_item *it = &w->items[i];

		specs[i] = (struct ql_qnat_spec){.name = it->name, .n_dims = 2, .dims = {it->shape[0], it->shape[1]},
						 .block_size = it->q4->q.blocksize, .nested = it->q4->q.nested};
	}
	if (rc == QL_OK)
		rc = ql_qnat_write_begin(&q, dirfd, file, &m, specs, w->n, w->format == QLORA_QNAT_COMPAT, e);
	for (size_t i = 0; rc == QL_OK && i < w->n; i++)
		rc = ql_qnat_write_q4(q, &w->items[i].q4->q, e);
	free(specs);
	if (rc == QL_OK)
		return ql_qnat_write_commit(q, e);
	ql_qnat_write_abort(q);
	return rc;
}

int qlora_writer_save(qlora_writer *w, const char *path, struct qlora_error *err)
{
	struct ql_err e = {.offset = QL_NO_OFFSET};
	const char *slash = strrchr(path, '/'), *file = slash == NULL ? path : slash + 1;
	char dir[4096];
	int fd, rc;

	if (strlen(path) >= sizeof dir)
		return lib_done(ql_err_set(&e, QL_EINVAL, "the path is too long"), &e, err);
	(void)snprintf(dir, sizeof dir, "%.*s", slash == NULL ? 1 : (int)(slash - path) + 1, slash == NULL ? "." : path);
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return lib_done(ql_err_errno(&e, "%.200s", dir), &e, err);
	rc = w->format == QLORA_SAFETENSORS ? lib_save_st(w, fd, file, &e)
	     : w->format == QLORA_GGUF	    ? save_gguf(w, fd, file, &e)
					    : save_qnat(w, fd, file, &e);
	(void)close(fd);
	return lib_done(rc, &e, err);
}
