/* source_hf.c - a base model as a Hugging Face directory: config.json + model.safetensors or an index and its shards.
 * Index: {"weight_map": {tensor: file}}; each shard must hold exactly the tensors the map gives it. */
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/formats/source_priv.h"

/* Reads dir/name; QL_ENOTFOUND without a message of its own when it is not there. */
static int read_text(const struct ql_source *s, const char *name, size_t max, struct ql_buf *out, struct ql_err *e)
{
	char *path = ql_source_join(s->dir, name);
	int rc = path == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for a path") : ql_io_read_file(path, max, out, e);

	free(path);
	return rc;
}

static int read_config(struct ql_source *s, struct ql_err *e)
{
	struct ql_buf text = {0};
	int rc = read_text(s, "config.json", QL_CONFIG_JSON_MAX, &text, e);

	if (rc == QL_OK) {
		ql_sha256_hex(text.data, text.len, s->config_hash);
		rc = ql_arch_from_config_json(&s->arch, text.data, text.len, e);
	}
	if (rc != QL_OK)
		goto cleanup;
	rc = read_text(s, "generation_config.json", QL_CONFIG_JSON_MAX, &text, e);
	if (rc == QL_OK)
		rc = ql_arch_add_generation_json(&s->arch, text.data, text.len, e);
	else if (rc == QL_ENOTFOUND)
		rc = QL_OK; /* optional */
cleanup:
	ql_buf_free(&text);
	return rc;
}

static int add_shard(struct ql_source *s, const char *name, struct ql_err *e)
{
	struct ql_source_shard *p;
	char *path;
	int rc;

	if (!ql_io_name_ok(name))
		return ql_err_param(e, QL_EFORMAT, "weight_map", "'%.100s' is not a plain file name", name);
	if (s->n_shards == QL_SOURCE_SHARDS_MAX)
		return ql_err_set(e, QL_ELIMIT, "more than %d weight files", QL_SOURCE_SHARDS_MAX);
	p = realloc(s->shards, (s->n_shards + 1) * sizeof *p);
	if (p == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for a weight file");
	s->shards = p;
	p += s->n_shards;
	*p = (struct ql_source_shard){strdup(name), NULL};
	path = ql_source_join(s->dir, name);
	rc = p->name == NULL || path == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for a path") : ql_st_open(&p->st, path, e);
	s->n_shards++; /* closed with s */
	free(path);
	return rc;
}

static struct ql_source_shard *find_shard(struct ql_source *s, const char *name)
{
	for (size_t i = 0; i < s->n_shards; i++)
		if (strcmp(s->shards[i].name, name) == 0)
			return &s->shards[i];
	return NULL;
}

static int by_shard_name(const void *a, const void *b)
{
	return strcmp(((const struct ql_source_shard *)a)->name, ((const struct ql_source_shard *)b)->name);
}

/* Opens the shards of a weight map and compares their contents with it. */
static int open_map(struct ql_source *s, const json_t *map, struct ql_err *e)
{
	const char *tensor;
	json_t *file;
	size_t total = 0;

	if (!json_is_object(map))
		return ql_err_param(e, QL_EFORMAT, "weight_map", "model.safetensors.index.json: weight_map is not an object");
	json_object_foreach((json_t *)(uintptr_t)map, tensor, file) {
		const char *name = json_string_value(file);
		int rc = name == NULL ? ql_err_param(e, QL_EFORMAT, tensor, "weight_map: %.200s is not a string", tensor)
				      : QL_OK;

		if (rc == QL_OK && find_shard(s, name) == NULL)
			rc = add_shard(s, name, e);
		if (rc != QL_OK)
			return rc;
		if (ql_st_find(find_shard(s, name)->st, tensor) == NULL)
			return ql_err_param(e, QL_ENOTFOUND, tensor, "tensor %.200s is not in %s", tensor, name);
	}
	for (size_t i = 0; i < s->n_shards; i++)
		total += ql_st_count(s->shards[i].st);
	if (total != json_object_size(map))
		return ql_err_param(e, QL_EMISMATCH, "weight_map", "the weight files hold %zu tensors, the index names %zu",
				    total, json_object_size(map));
	return QL_OK;
}

static int open_index(struct ql_source *s, struct ql_err *e)
{
	struct ql_buf text = {0};
	json_t *index = NULL;
	int rc = read_text(s, "model.safetensors.index.json", QL_SOURCE_INDEX_JSON_MAX, &text, e);

	if (rc == QL_ENOTFOUND)
		rc = ql_err_set(e, QL_ENOTFOUND, "neither model.safetensors nor model.safetensors.index.json is there");
	if (rc == QL_OK)
		rc = ql_json_parse(text.data, text.len, QL_SOURCE_INDEX_JSON_MAX, &index, e);
	if (rc == QL_OK)
		rc = open_map(s, json_object_get(index, "weight_map"), e);
	json_decref(index);
	ql_buf_free(&text);
	if (rc == QL_OK)
		qsort(s->shards, s->n_shards, sizeof *s->shards, by_shard_name);
	return rc;
}

static bool ignored(const struct ql_source *s, const char *name)
{
	static const char suffix[] = ".rotary_emb.inv_freq";
	size_t n = strlen(name);

	if (n > sizeof suffix - 1 && strcmp(name + n - (sizeof suffix - 1), suffix) == 0)
		return true;
	return s->arch.tie_word_embeddings && strcmp(name, "lm_head.weight") == 0;
}

static int bind(struct ql_source *s, const struct ql_st_tensor *f, struct ql_err *e)
{
	size_t i = ql_arch_file_index_hf(&s->arch, f->name);
	struct ql_arch_tensor a;

	if (i == SIZE_MAX)
		return ignored(s, f->name) || ql_source_is_bnb_part(s, f->name) ? QL_OK
					   : ql_err_param(e, QL_EUNSUPPORTED, f->name,
							  "tensor %.200s is not part of a %s model", f->name, s->arch.model_type);
	ql_arch_tensor_at(&s->arch, i, &a);
	if (s->arch.stored_4bit && a.module >= 0 && a.n_dims == 2) {
		int rc = ql_source_bind_bnb(s, i, f, e);

		return rc != QL_ENOTFOUND ? rc
					  : ql_err_param(e, QL_EUNSUPPORTED, f->name, "tensor %s is not in 4 bit, the other linears of "
							 "the checkpoint are", f->name);
	}
	if (f->n_dims != a.n_dims || f->shape[a.n_dims - 1] != a.cols || (a.n_dims == 2 && f->shape[0] != a.file_rows))
		return ql_err_param(e, QL_ESHAPE, f->name, "tensor %s: shape does not fit config.json, [%u, %u] expected", f->name,
				    a.file_rows, a.cols);
	if (f->dtype != QL_F32 && f->dtype != QL_F16 && f->dtype != QL_BF16)
		return ql_err_param(e, QL_EUNSUPPORTED, f->name, "tensor %s has the type %s, which is not supported", f->name,
				    f->dtype_name);
	ql_source_bind(s, i, f->dtype, f->data);
	return QL_OK;
}

int ql_source_open_hf(struct ql_source *s, struct ql_err *e)
{
	int rc = read_config(s, e);

	if (rc == QL_OK)
		rc = ql_source_make_table(s, e);
	if (rc != QL_OK)
		return rc;
	rc = add_shard(s, "model.safetensors", e);
	if (rc == QL_ENOTFOUND) {
		s->n_shards = 0;
		free(s->shards[0].name);
		rc = open_index(s, e);
	}
	for (size_t i = 0; rc == QL_OK && i < s->n_shards; i++)
		for (size_t k = 0; rc == QL_OK && k < ql_st_count(s->shards[i].st); k++)
			rc = bind(s, ql_st_at(s->shards[i].st, k), e);
	return rc;
}
