/* out_gguf.c - tensors as they are named into a GGUF file: from GGUF with all metadata, from anything else with
 * general.name only.  Whole models from Hugging Face directories go through core/export instead. */
#include <string.h>

#include "core/quant/blk.h"
#include "tools/priv.h"

static const struct {
	enum ql_dtype type;
	uint32_t file_type; /* general.file_type */
} file_types[] = {{QL_F32, 0}, {QL_F16, 1}, {QL_Q4_0, 2}, {QL_Q4_1, 3}, {QL_Q8_0, 7}, {QL_Q5_0, 8}, {QL_Q5_1, 9},
		  {QL_Q4_K, 14}, {QL_Q5_K, 16}, {QL_Q6_K, 18}, {QL_IQ4_NL, 25}, {QL_BF16, 32}};

/* The stored type: blocks that do not divide the row fall back as llama.cpp does. */
static enum ql_dtype type_of(const struct tool_job *j, const struct ql_tset_tensor *t)
{
	uint64_t cols = t->n_dims > 0 ? t->shape[t->n_dims - 1] : 1;
	enum ql_dtype to = j->type;

	if (to == QL_DTYPE_COUNT)
		return t->dtype < QL_DTYPE_COUNT && ql_gguf_type_id(t->dtype) != UINT32_MAX ? t->dtype : QL_F32;
	if (!tool_is_weight(j, t))
		return t->values ? QL_F32 : t->dtype;
	if (cols % ql_dtypes[to].block != 0)
		to = to == QL_Q4_K ? QL_Q5_0 : to == QL_Q5_K ? QL_Q5_1 : QL_Q8_0;
	return cols % ql_dtypes[to].block == 0 ? to : QL_F16;
}

static int put_metadata(struct ql_gguf_writer *w, const struct tool_job *j, struct ql_err *e)
{
	static const char *const dropped[] = {"general.alignment", "general.file_type", "general.quantization_version"};
	const struct ql_gguf *g = ql_tset_gguf(j->in);
	int rc = QL_OK;

	for (size_t i = 0; g != NULL && rc == QL_OK && i < ql_gguf_kv_count(g); i++) {
		const struct ql_gguf_kv *kv = ql_gguf_kv_at(g, i);
		bool drop = strcmp(kv->key, dropped[0]) == 0;

		for (int k = 1; k < 3 && j->type != QL_DTYPE_COUNT; k++)
			drop = drop || strcmp(kv->key, dropped[k]) == 0;
		if (!drop)
			rc = ql_gguf_write_kv(w, kv, e);
	}
	if (rc == QL_OK && g == NULL)
		rc = ql_gguf_write_str(w, "general.name", j->file, strlen(j->file), e);
	for (size_t i = 0; rc == QL_OK && i < sizeof file_types / sizeof file_types[0]; i++)
		if (file_types[i].type == j->type)
			rc = ql_gguf_write_u32(w, "general.file_type", file_types[i].file_type, e);
	if (rc == QL_OK && j->type < QL_DTYPE_COUNT && ql_dtypes[j->type].block > 1)
		rc = ql_gguf_write_u32(w, "general.quantization_version", 2, e);
	return rc;
}

static int sink(void *ctx, const void *data, size_t len, struct ql_err *e) { return ql_gguf_write_data(ctx, data, len, e); }

static int declare(struct ql_gguf_writer *w, const struct tool_job *j, struct ql_err *e)
{
	int rc = QL_OK;

	for (size_t i = 0; rc == QL_OK && i < ql_tset_count(j->in); i++) {
		const struct ql_tset_tensor *t = ql_tset_at(j->in, i);
		uint64_t ne[4] = {1, 1, 1, 1};

		if (t->n_dims > 4 || t->n == 0 || t->dtype == QL_DTYPE_COUNT || ql_gguf_type_id(type_of(j, t)) == UINT32_MAX)
			return ql_err_param(e, QL_EUNSUPPORTED, t->name, "tensor %.200s (%s) cannot be stored in GGUF", t->name,
					    t->type);
		for (int d = 0; d < t->n_dims; d++)
			ne[d] = t->shape[t->n_dims - 1 - d];
		rc = ql_gguf_write_tensor(w, t->name, type_of(j, t), t->n_dims > 0 ? t->n_dims : 1, ne, e);
	}
	return rc;
}

int tool_write_gguf(struct tool_job *j, struct ql_err *e)
{
	struct ql_gguf_writer *w = NULL;
	int rc;

	if (j->type < QL_DTYPE_COUNT && !ql_blk_known(j->type))
		return ql_err_set(e, QL_EUNSUPPORTED, "%s is no GGUF type; write .safetensors", ql_dtype_name(j->type));
	rc = ql_gguf_write_new(&w, e);
	if (rc == QL_OK)
		rc = put_metadata(w, j, e);
	if (rc == QL_OK)
		rc = declare(w, j, e);
	if (rc == QL_OK)
		rc = ql_gguf_write_begin(w, j->dirfd, j->file, e);
	for (size_t i = 0; rc == QL_OK && i < ql_tset_count(j->in); i++) {
		const struct ql_tset_tensor *t = ql_tset_at(j->in, i);

		if (t->values)
			rc = tool_stream(j, t, type_of(j, t), sink, w, e);
		else
			rc = ql_gguf_write_data(w, t->data, t->bytes, e);
	}
	if (rc == QL_OK)
		return ql_gguf_write_commit(w, e);
	ql_gguf_write_abort(w);
	return rc;
}
