/* tset_open.c - the tensor tables of GGUF, QNAT and safetensors files and of directories of these. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "core/qnat/tset_priv.h"
#include "core/quant/blk.h"

#define SHARDS_MAX 1024
#define INDEX_MAX QL_MIB(16)

static int room(struct ql_tset *s, size_t n, struct ql_err *e)
{
	struct ql_tset_tensor *t = realloc(s->t, (s->n + n + 1) * sizeof *t);

	if (t == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for a tensor table");
	memset(t + s->n, 0, (n + 1) * sizeof *t);
	s->t = t;
	return QL_OK;
}

static void plain(struct ql_tset_tensor *t, const char *name, enum ql_dtype dtype, uint64_t n, const void *data, size_t bytes)
{
	t->name = name;
	t->dtype = dtype;
	t->type = dtype < QL_DTYPE_COUNT ? ql_dtype_name(dtype) : "?";
	t->values = dtype < QL_DTYPE_COUNT && ql_blk_known(dtype);
	t->n = n;
	t->data = data;
	t->bytes = bytes;
	for (int d = 0; d < QL_ST_DIMS_MAX; d++)
		t->shape[d] = 1;
}

/* A GGUF model under HF names, in the order of ql_arch_tensor_at. */
static int open_model(struct ql_tset *s, struct ql_err *e)
{
	const struct ql_arch *a = ql_source_arch(s->source);
	int rc = room(s, ql_arch_tensor_count(a), e);

	for (size_t i = 0; rc == QL_OK && i < ql_arch_tensor_count(a); i++) {
		struct ql_tset_tensor *t = &s->t[i];
		struct ql_source_tensor src;
		struct ql_arch_tensor want;

		ql_arch_tensor_at(a, i, &want);
		rc = ql_source_find(s->source, want.hf, &src, e);
		if (rc != QL_OK)
			break;
		plain(t, src.name, src.dtype, src.n, src.permute_head_dim == 0 ? src.data : NULL, src.bytes);
		t->n_dims = src.n_dims;
		t->shape[0] = src.n_dims == 1 ? src.cols : src.rows;
		t->shape[1] = src.n_dims == 1 ? 1 : src.cols;
		t->permute = src.permute_head_dim;
		s->n++;
	}
	return rc;
}

int ql_tset_open_gguf(struct ql_tset *s, const char *path, bool model_names, struct ql_err *e)
{
	int rc;

	if (model_names && ql_source_open(&s->source, path, NULL) == QL_OK) {
		s->gguf = (struct ql_gguf *)(uintptr_t)ql_source_gguf(s->source);
		return open_model(s, e);
	}
	rc = ql_gguf_open(&s->gguf, path, e);
	if (rc == QL_OK)
		rc = room(s, ql_gguf_tensor_count(s->gguf), e);
	for (size_t i = 0; rc == QL_OK && i < ql_gguf_tensor_count(s->gguf); i++) {
		const struct ql_gguf_tensor *g = ql_gguf_tensor_at(s->gguf, i);
		struct ql_tset_tensor *t = &s->t[s->n++];

		plain(t, g->name, g->dtype, g->n, g->data, g->bytes);
		if (g->dtype == QL_DTYPE_COUNT)
			t->type = ql_gguf_type_name(g->type_id);
		t->n_dims = g->n_dims;
		for (int d = 0; d < g->n_dims; d++)
			t->shape[d] = g->ne[g->n_dims - 1 - d];
	}
	return rc;
}

int ql_tset_open_qnat(struct ql_tset *s, const char *path, struct ql_err *e)
{
	int rc = ql_qnat_open(&s->qnat, path, e);

	if (rc == QL_OK)
		rc = room(s, ql_qnat_count(s->qnat), e);
	for (size_t i = 0; rc == QL_OK && i < ql_qnat_count(s->qnat); i++) {
		const struct ql_qnat_tensor *q = ql_qnat_at(s->qnat, i);
		struct ql_tset_tensor *t = &s->t[s->n++];

		plain(t, q->name, QL_NF4, q->n, NULL, q->bytes);
		t->values = true;
		t->qnat = q;
		t->n_dims = q->n_dims;
		memcpy(t->shape, q->dims, sizeof q->dims);
	}
	return rc;
}

/* One safetensors file: 4-bit tensors folded, the rest as it is. */
static int add_file(struct ql_tset *s, const char *path, struct ql_err *e)
{
	struct ql_st **list = realloc(s->st, (s->n_st + 1) * sizeof(struct ql_st *)), *st = NULL;
	int rc = list == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for a weight file") : ql_st_open(&st, path, e);

	s->st = list != NULL ? list : s->st;
	if (rc == QL_OK) {
		s->st[s->n_st++] = st;
		rc = room(s, ql_st_count(st), e);
	}
	for (size_t i = 0; rc == QL_OK && i < ql_st_count(st); i++) {
		const struct ql_st_tensor *f = ql_st_at(st, i);
		struct ql_tset_tensor *t = &s->t[s->n];
		struct ql_q4 q;

		if (ql_tset_bnb_companion(st, f->name))
			continue;
		rc = ql_tset_bnb(st, f, &q, t, e);
		if (rc == QL_OK) {
			struct ql_q4 *keep = malloc(sizeof *keep);

			if (keep == NULL) {
				free(q.owned);
				return ql_err_set(e, QL_ENOMEM, "no memory for a 4-bit tensor");
			}
			*keep = q;
			t->q4 = keep;
		} else if (rc == QL_ENOTFOUND) {
			rc = QL_OK;
			plain(t, f->name, f->dtype, f->n, f->data, f->bytes);
			if (f->dtype == QL_DTYPE_COUNT)
				t->type = f->dtype_name;
			t->n_dims = f->n_dims;
			memcpy(t->shape, f->shape, sizeof f->shape);
		}
		s->n += rc == QL_OK ? 1 : 0;
	}
	return rc;
}

static int file_order(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* The distinct file names of weight_map, sorted; borrowed from the index. */
static int index_files(const json_t *index, const char **files, size_t *n, struct ql_err *e)
{
	const json_t *map = json_object_get(index, "weight_map");
	void *it;

	if (!json_is_object(map))
		return ql_err_param(e, QL_EFORMAT, "weight_map", "weight_map is no object");
	for (it = json_object_iter((json_t *)(uintptr_t)map); it != NULL; it = json_object_iter_next((json_t *)(uintptr_t)map, it)) {
		const char *name = json_string_value(json_object_iter_value(it));
		size_t i = 0;

		if (name == NULL || !ql_io_name_ok(name))
			return ql_err_param(e, QL_EFORMAT, "weight_map", "weight_map holds something that is no plain file name");
		while (i < *n && strcmp(files[i], name) != 0)
			i++;
		if (i < *n)
			continue;
		if (*n == SHARDS_MAX)
			return ql_err_param(e, QL_ELIMIT, "weight_map", "more than %d weight files", SHARDS_MAX);
		files[(*n)++] = name;
	}
	qsort(files, *n, sizeof *files, file_order);
	return QL_OK;
}

static int open_index(struct ql_tset *s, const char *dir, struct ql_err *e)
{
	const char *files[SHARDS_MAX];
	struct ql_buf text = {0};
	json_t *index = NULL;
	char path[4096];
	size_t n = 0;
	int rc;

	(void)snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir);
	rc = ql_io_read_file(path, INDEX_MAX, &text, e);
	if (rc == QL_ENOTFOUND)
		rc = ql_err_set(e, QL_ENOTFOUND, "%.200s holds neither model.safetensors, its index nor an adapter", dir);
	if (rc == QL_OK)
		rc = ql_json_parse(text.data, text.len, INDEX_MAX, &index, e);
	if (rc == QL_OK)
		rc = index_files(index, files, &n, e);
	for (size_t i = 0; rc == QL_OK && i < n; i++) {
		(void)snprintf(path, sizeof path, "%s/%s", dir, files[i]);
		rc = add_file(s, path, e);
	}
	json_decref(index);
	ql_buf_free(&text);
	return rc;
}

int ql_tset_open_st(struct ql_tset *s, const char *path, struct ql_err *e)
{
	char file[4096];
	int rc;

	if (s->kind == QL_TSET_SAFETENSORS)
		return add_file(s, path, e);
	if (strlen(path) > sizeof file - 200)
		return ql_err_set(e, QL_EINVAL, "the path is too long");
	(void)snprintf(file, sizeof file, "%s/%s", path,
		       s->kind == QL_TSET_PEFT ? "adapter_model.safetensors" : "model.safetensors");
	rc = add_file(s, file, e);
	return rc == QL_ENOTFOUND && s->kind == QL_TSET_HF ? open_index(s, path, e) : rc;
}
