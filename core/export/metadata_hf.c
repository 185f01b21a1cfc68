/* metadata_hf.c - the KVs of a merged GGUF whose base is a Hugging Face directory: the model's numbers (keys of llama.cpp's
 * converter), the tokenizer (vocab_hf.c) and the chat template. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/io.h"
#include "core/base/limits.h"
#include "core/export/export_priv.h"
#include "core/export/vocab_hf.h"

/* Windows that llama.cpp applies by itself, from attention.sliding_window; in others it sees everything. */
static bool has_windows(const struct ql_arch *a) { return strncmp(a->family, "gemma", 5) == 0; }

int ql_export_check_gguf(const struct ql_arch *a, struct ql_err *e)
{
	bool gemma2 = strcmp(a->family, "gemma2") == 0, gemma3 = strcmp(a->family, "gemma3") == 0;
	uint32_t pattern = gemma2 ? 2 : 6;
	double scale = 1 / sqrt((double)a->head_dim);

	for (uint32_t l = 0; l < a->num_hidden_layers; l++) {
		bool nope = strcmp(a->family, "smollm3") == 0 && l % 4 == 3, window = (l + 1) % pattern != 0 && a->sliding_window != 0;

		if (((a->layer[l] & QL_LAYER_NOPE) != 0) != nope)
			return ql_err_param(e, QL_EUNSUPPORTED, "no_rope_layers", "GGUF has no place for no_rope_layers other than every "
					    "fourth layer");
		if (has_windows(a) && ((a->layer[l] & QL_LAYER_WINDOW) != 0) != window)
			return ql_err_param(e, QL_EUNSUPPORTED, "layer_types", "GGUF has no place for windows other than on all layers "
					    "but every %s", gemma2 ? "second" : "sixth");
	}
	if ((gemma2 && a->num_hidden_layers == 46) || (gemma3 && a->num_hidden_layers == 62))
		scale = sqrt((double)a->num_attention_heads / a->hidden_size); /* llama.cpp, the 27B sizes */
	if (fabs(a->attn_scale - scale) > 1e-6 * scale)
		return ql_err_param(e, QL_EUNSUPPORTED, "query_pre_attn_scalar", "GGUF has no place for query_pre_attn_scalar %g",
				    1 / (a->attn_scale * a->attn_scale));
	if (gemma3 && fabs(a->rope_theta_local - 10000) > 1e-3)
		return ql_err_param(e, QL_EUNSUPPORTED, "rope_local_base_freq", "GGUF has no place for a local rope base of %g",
				    a->rope_theta_local);
	return QL_OK;
}

static int write_sizes(struct ql_gguf_writer *w, const struct ql_arch *a, struct ql_err *e)
{
	/* phi3: as the converter writes it, although llama.cpp does not apply it there; others: what the file can be used for */
	bool phi3 = strcmp(a->family, "phi3") == 0, capped = a->sliding_window != 0 && !has_windows(a) && !phi3;
	uint32_t context = capped && a->sliding_window < a->max_position_embeddings ? a->sliding_window : a->max_position_embeddings;
	const struct { const char *key; uint32_t value; } u32s[] = {
		{"block_count", a->num_hidden_layers},
		{"context_length", context},
		{"embedding_length", a->hidden_size},
		{"feed_forward_length", a->intermediate_size},
		{"attention.head_count", a->num_attention_heads},
		{"attention.head_count_kv", a->num_key_value_heads},
		{"attention.key_length", a->head_dim},
		{"attention.value_length", a->head_dim},
		{"rope.dimension_count", a->head_dim},
		{"vocab_size", a->vocab_size},
		{has_windows(a) || phi3 ? "attention.sliding_window" : NULL, a->sliding_window},
		{phi3 ? "rope.scaling.original_context_length" : NULL, a->max_position_embeddings},
	};
	char key[96];
	int rc = QL_OK;

	for (size_t i = 0; rc == QL_OK && i < sizeof u32s / sizeof u32s[0]; i++) {
		if (u32s[i].key == NULL)
			continue;
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
	(void)snprintf(key, sizeof key, "%s.attn_logit_softcapping", a->family);
	if (rc == QL_OK && strcmp(a->family, "gemma2") == 0)
		rc = ql_gguf_write_f32(w, key, (float)a->attn_softcap, e);
	(void)snprintf(key, sizeof key, "%s.final_logit_softcapping", a->family);
	if (rc == QL_OK && strcmp(a->family, "gemma2") == 0)
		rc = ql_gguf_write_f32(w, key, (float)a->logit_softcap, e);
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
