/* metadata.c - the KVs of a merged GGUF.
 * From a Hugging Face base: metadata_hf.c.  From a GGUF base: everything it has (general.*, <architecture>.*, tokenizer.*) is
 * copied unchanged, except what describes the old file: alignment, file type, quantisation, splits, importance matrix, and
 * what the caller replaces. */
#include <string.h>

#include "core/export/export_priv.h"

static const char *const dropped[] = {"general.alignment", "general.file_type", "general.quantization_version", "general.name"};

static bool is_dropped(const struct ql_export *x, const char *key)
{
	for (size_t i = 0; i < sizeof dropped / sizeof dropped[0]; i++)
		if (strcmp(key, dropped[i]) == 0)
			return true;
	if (x->chat_template != NULL && strncmp(key, "tokenizer.chat_template", 23) == 0)
		return true;
	return strncmp(key, "split.", 6) == 0 || strncmp(key, "quantize.imatrix.", 17) == 0;
}

static int copy_kvs(struct ql_gguf_writer *w, const struct ql_export *x, const struct ql_gguf *g, struct ql_err *e)
{
	int rc = QL_OK;

	for (size_t i = 0; rc == QL_OK && i < ql_gguf_kv_count(g); i++) {
		const struct ql_gguf_kv *kv = ql_gguf_kv_at(g, i);

		if (!is_dropped(x, kv->key))
			rc = ql_gguf_write_kv(w, kv, e);
	}
	return rc;
}

int ql_export_write_metadata(struct ql_gguf_writer *w, const struct ql_export *x, enum ql_export_type type, struct ql_err *e)
{
	const struct ql_gguf *g = ql_source_gguf(x->source);
	const char *name = x->name != NULL ? x->name : ql_source_name(x->source);
	int rc;

	rc = g != NULL ? copy_kvs(w, x, g, e) : ql_export_write_metadata_hf(w, x, e);
	if (rc == QL_OK)
		rc = ql_gguf_write_str(w, "general.name", name, strlen(name), e);
	if (rc == QL_OK && x->chat_template != NULL)
		rc = ql_gguf_write_str(w, "tokenizer.chat_template", x->chat_template, strlen(x->chat_template), e);
	if (rc == QL_OK)
		rc = ql_gguf_write_u32(w, "general.file_type", ql_export_types[type].file_type, e);
	if (rc == QL_OK && ql_dtypes[ql_export_types[type].base].block > 1)
		rc = ql_gguf_write_u32(w, "general.quantization_version", 2, e);
	return rc;
}
