/* metadata_hf.c - the KVs of a merged GGUF whose base is a Hugging Face directory: the model's numbers (keys of llama.cpp's
 * converter), the tokenizer (vocab_hf.c) and the chat template. */
#include <stdio.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/io.h"
#include "core/base/limits.h"
#include "core/export/export_priv.h"
#include "core/export/vocab_hf.h"

static int write_sizes(struct ql_gguf_writer *w, const struct ql_arch *a, struct ql_err *e)
{
	const struct { const char *key; uint32_t value; } u32s[] = {
		{"block_count", a->num_hidden_layers},
		{"context_length", a->max_position_embeddings},
		{"embedding_length", a->hidden_size},
		{"feed_forward_length", a->intermediate_size},
		{"attention.head_count", a->num_attention_heads},
		{"attention.head_count_kv", a->num_key_value_heads},
		{"attention.key_length", a->head_dim},
		{"attention.value_length", a->head_dim},
		{"rope.dimension_count", a->head_dim},
		{"vocab_size", a->vocab_size},
	};
	char key[96];
	int rc = QL_OK;

	for (size_t i = 0; rc == QL_OK && i < sizeof u32s / sizeof u32s[0]; i++) {
		(void)snprintf(key, sizeof key, "%s.%s", a->family, u32s[i].key);
		rc = ql_gguf_write_u32(w, key, u32s[i].value, e);
	}
	return rc;
}

static int write_floats(struct ql_gguf_writer *w, const struct ql_arch *a, struct ql_err *e)
{
	char key[96];
	int rc;

	(void)snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", a->family);
	rc = ql_gguf_write_f32(w, key, a->rms_norm_eps, e);
	(void)snprintf(key, sizeof key, "%s.rope.freq_base", a->family);
	if (rc == QL_OK)
		rc = ql_gguf_write_f32(w, key, (float)a->rope_theta, e);
	if (rc != QL_OK || a->rope.kind != QL_ROPE_LINEAR)
		return rc; /* llama3 scaling is the tensor rope_freqs.weight */
	(void)snprintf(key, sizeof key, "%s.rope.scaling.type", a->family);
	rc = ql_gguf_write_str(w, key, "linear", 6, e);
	(void)snprintf(key, sizeof key, "%s.rope.scaling.factor", a->family);
	return rc == QL_OK ? ql_gguf_write_f32(w, key, (float)a->rope.factor, e) : rc;
}

static int read_file(const struct ql_export *x, const char *name, struct ql_buf *out, struct ql_err *e)
{
	struct ql_buf path = {0};
	int rc = ql_buf_addf(&path, "%s/%s", ql_source_dir(x->source), name);

	rc = rc != QL_OK ? ql_err_set(e, rc, "no memory for a path") : ql_io_read_file(path.data, QL_TOKENIZER_JSON_MAX, out, e);
	ql_buf_free(&path);
	return rc;
}

static int write_vocab(struct ql_gguf_writer *w, const struct ql_export *x, struct ql_err *e)
{
	struct ql_buf tok = {0}, cfg = {0};
	int rc = read_file(x, "tokenizer.json", &tok, e);
	bool config = false;

	if (rc == QL_OK) {
		rc = read_file(x, "tokenizer_config.json", &cfg, e);
		config = rc == QL_OK;
		if (rc == QL_ENOTFOUND)
			rc = QL_OK; /* optional */
	}
	if (rc == QL_OK)
		rc = ql_vocab_hf_write(w, ql_source_arch(x->source), tok.data, tok.len, config ? cfg.data : NULL, cfg.len, e);
	ql_buf_free(&tok);
	ql_buf_free(&cfg);
	return rc;
}

int ql_export_write_metadata_hf(struct ql_gguf_writer *w, const struct ql_export *x, struct ql_err *e)
{
	const struct ql_arch *a = ql_source_arch(x->source);
	const char *tmpl;
	size_t len;
	int rc = ql_gguf_write_str(w, "general.architecture", a->family, strlen(a->family), e);

	if (rc == QL_OK)
		rc = ql_gguf_write_str(w, "general.type", "model", 5, e);
	if (rc == QL_OK)
		rc = write_sizes(w, a, e);
	if (rc == QL_OK)
		rc = write_floats(w, a, e);
	if (rc == QL_OK)
		rc = write_vocab(w, x, e);
	tmpl = ql_source_chat_template(x->source, &len);
	if (rc == QL_OK && tmpl != NULL && x->chat_template == NULL)
		rc = ql_gguf_write_str(w, "tokenizer.chat_template", tmpl, len, e);
	return rc;
}
