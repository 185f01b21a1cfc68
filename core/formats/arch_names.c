/* arch_names.c - the tensor list of a model: HF names, GGUF names, shapes (formats: 2.2 and 7.2 of the converters). */
#include <stdio.h>
#include <string.h>

#include "core/formats/arch.h"

enum size { ONE, HIDDEN, INNER, VOCAB, Q_OUT, KV_OUT, HEAD };
enum when { ALWAYS, BIAS_QKV, QK_NORM, PLAIN_NORMS, POST_NORMS, UNTIED };

struct row {
	const char *hf, *gguf; /* inside layers: what follows "model.layers.N." and "blk.N." */
	enum size rows, cols;  /* rows ONE: 1-D */
	int module;
	enum ql_permute permute;
	bool norm;
	enum when when;
};

static const struct row head_rows[] = {
	{"model.embed_tokens.weight", "token_embd.weight", VOCAB, HIDDEN, -1, QL_PERMUTE_NONE, false, ALWAYS},
};

static const struct row layer_rows[] = {
	{"input_layernorm.weight", "attn_norm.weight", ONE, HIDDEN, -1, QL_PERMUTE_NONE, true, ALWAYS},
	{"self_attn.q_proj.weight", "attn_q.weight", Q_OUT, HIDDEN, QL_Q_PROJ, QL_PERMUTE_Q, false, ALWAYS},
	{"self_attn.q_proj.bias", "attn_q.bias", ONE, Q_OUT, -1, QL_PERMUTE_Q, false, BIAS_QKV},
	{"self_attn.k_proj.weight", "attn_k.weight", KV_OUT, HIDDEN, QL_K_PROJ, QL_PERMUTE_K, false, ALWAYS},
	{"self_attn.k_proj.bias", "attn_k.bias", ONE, KV_OUT, -1, QL_PERMUTE_K, false, BIAS_QKV},
	{"self_attn.v_proj.weight", "attn_v.weight", KV_OUT, HIDDEN, QL_V_PROJ, QL_PERMUTE_NONE, false, ALWAYS},
	{"self_attn.v_proj.bias", "attn_v.bias", ONE, KV_OUT, -1, QL_PERMUTE_NONE, false, BIAS_QKV},
	{"self_attn.o_proj.weight", "attn_output.weight", HIDDEN, Q_OUT, QL_O_PROJ, QL_PERMUTE_NONE, false, ALWAYS},
	{"self_attn.q_norm.weight", "attn_q_norm.weight", ONE, HEAD, -1, QL_PERMUTE_NONE, true, QK_NORM},
	{"self_attn.k_norm.weight", "attn_k_norm.weight", ONE, HEAD, -1, QL_PERMUTE_NONE, true, QK_NORM},
	{"post_attention_layernorm.weight", "ffn_norm.weight", ONE, HIDDEN, -1, QL_PERMUTE_NONE, true, PLAIN_NORMS},
	{"post_attention_layernorm.weight", "post_attention_norm.weight", ONE, HIDDEN, -1, QL_PERMUTE_NONE, true, POST_NORMS},
	{"pre_feedforward_layernorm.weight", "ffn_norm.weight", ONE, HIDDEN, -1, QL_PERMUTE_NONE, true, POST_NORMS},
	{"mlp.gate_proj.weight", "ffn_gate.weight", INNER, HIDDEN, QL_GATE_PROJ, QL_PERMUTE_NONE, false, ALWAYS},
	{"mlp.up_proj.weight", "ffn_up.weight", INNER, HIDDEN, QL_UP_PROJ, QL_PERMUTE_NONE, false, ALWAYS},
	{"mlp.down_proj.weight", "ffn_down.weight", HIDDEN, INNER, QL_DOWN_PROJ, QL_PERMUTE_NONE, false, ALWAYS},
	{"post_feedforward_layernorm.weight", "post_ffw_norm.weight", ONE, HIDDEN, -1, QL_PERMUTE_NONE, true, POST_NORMS},
};

static const struct row tail_rows[] = {
	{"model.norm.weight", "output_norm.weight", ONE, HIDDEN, -1, QL_PERMUTE_NONE, true, ALWAYS},
	{"lm_head.weight", "output.weight", VOCAB, HIDDEN, -1, QL_PERMUTE_NONE, false, UNTIED},
};

/* Modules that `fused` architectures keep in one tensor, in this order of rows. */
static const struct fused {
	int first, last;
	const char *module, *hf, *gguf;
} fused[] = {
	{QL_Q_PROJ, QL_V_PROJ, "qkv_proj", "self_attn.qkv_proj.weight", "attn_qkv.weight"},
	{QL_GATE_PROJ, QL_UP_PROJ, "gate_up_proj", "mlp.gate_up_proj.weight", "ffn_up.weight"},
};

#define COUNT(t) (sizeof(t) / sizeof(t)[0])

static bool present(const struct ql_arch *a, const struct row *r)
{
	switch (r->when) {
	case BIAS_QKV: return a->attention_bias_qkv;
	case QK_NORM: return a->qk_norm;
	case PLAIN_NORMS: return !a->post_norms;
	case POST_NORMS: return a->post_norms;
	case UNTIED: return !a->tie_word_embeddings;
	default: return true;
	}
}

static uint32_t size_of(const struct ql_arch *a, enum size s)
{
	switch (s) {
	case HIDDEN: return a->hidden_size;
	case INNER: return a->intermediate_size;
	case VOCAB: return a->vocab_size;
	case Q_OUT: return a->num_attention_heads * a->head_dim;
	case KV_OUT: return a->num_key_value_heads * a->head_dim;
	case HEAD: return a->head_dim;
	default: return 1;
	}
}

/* The i-th present row of a table, NULL past the end; *n counts the present ones when i is SIZE_MAX. */
static const struct row *pick(const struct ql_arch *a, const struct row *t, size_t len, size_t i, size_t *n)
{
	size_t seen = 0;

	for (size_t k = 0; k < len; k++) {
		if (!present(a, &t[k]))
			continue;
		if (seen++ == i)
			return &t[k];
	}
	*n = seen;
	return NULL;
}

static size_t count(const struct ql_arch *a, const struct row *t, size_t len)
{
	size_t n = 0;

	(void)pick(a, t, len, SIZE_MAX, &n);
	return n;
}

size_t ql_arch_tensor_count(const struct ql_arch *a)
{
	return count(a, head_rows, COUNT(head_rows)) +
	       a->num_hidden_layers * count(a, layer_rows, COUNT(layer_rows)) + count(a, tail_rows, COUNT(tail_rows));
}

static const struct fused *fused_of(const struct ql_arch *a, int module)
{
	for (size_t k = 0; a->fused && module >= 0 && k < COUNT(fused); k++)
		if (module >= fused[k].first && module <= fused[k].last)
			return &fused[k];
	return NULL;
}

const char *ql_arch_file_module(const struct ql_arch *a, int module)
{
	const struct fused *f = fused_of(a, module);

	return f != NULL ? f->module : ql_module_name(module);
}

/* The file's tensor that holds t. */
static void set_file(const struct ql_arch *a, struct ql_arch_tensor *t)
{
	const struct fused *f = fused_of(a, t->module);

	(void)snprintf(t->file_hf, sizeof t->file_hf, "%s", t->hf);
	(void)snprintf(t->file_gguf, sizeof t->file_gguf, "%s", t->gguf);
	t->file_parts = 1;
	t->file_rows = t->rows;
	if (f == NULL)
		return;
	(void)snprintf(t->file_hf, sizeof t->file_hf, "model.layers.%d.%s", t->layer, f->hf);
	(void)snprintf(t->file_gguf, sizeof t->file_gguf, "blk.%d.%s", t->layer, f->gguf);
	t->file_parts = (uint32_t)(f->last - f->first) + 1;
	t->file_part = (uint32_t)(t->module - f->first);
	t->file_rows = 0;
	for (int m = f->first; m <= f->last; m++) {
		uint32_t rows, cols;

		ql_arch_module_shape(a, m, &rows, &cols);
		t->file_row += m < t->module ? rows : 0;
		t->file_rows += rows;
	}
}

void ql_arch_tensor_at(const struct ql_arch *a, size_t i, struct ql_arch_tensor *t)
{
	size_t head = count(a, head_rows, COUNT(head_rows)), per = count(a, layer_rows, COUNT(layer_rows)), unused;
	const struct row *r;

	*t = (struct ql_arch_tensor){.layer = -1};
	if (i < head) {
		r = pick(a, head_rows, COUNT(head_rows), i, &unused);
	} else if (i - head < per * a->num_hidden_layers) {
		t->layer = (int)((i - head) / per);
		r = pick(a, layer_rows, COUNT(layer_rows), (i - head) % per, &unused);
	} else {
		r = pick(a, tail_rows, COUNT(tail_rows), i - head - per * a->num_hidden_layers, &unused);
	}
	if (r == NULL)
		return;
	if (t->layer >= 0) {
		(void)snprintf(t->hf, sizeof t->hf, "model.layers.%d.%s", t->layer, r->hf);
		(void)snprintf(t->gguf, sizeof t->gguf, "blk.%d.%s", t->layer, r->gguf);
	} else {
		(void)snprintf(t->hf, sizeof t->hf, "%s", r->hf);
		(void)snprintf(t->gguf, sizeof t->gguf, "%s", r->gguf);
	}
	t->module = r->module;
	t->n_dims = r->rows == ONE ? 1 : 2;
	t->rows = size_of(a, r->rows);
	t->cols = size_of(a, r->cols);
	t->permute = r->permute;
	t->norm = r->norm;
	set_file(a, t);
}

/* "<prefix>N.rest" → N and rest; NULL if name is not of that form (N without leading zeros, below `layers`). */
static const char *split_layer(const char *name, const char *prefix, uint32_t layers, uint32_t *layer)
{
	size_t len = strlen(prefix), digits;
	uint32_t n = 0;

	if (strncmp(name, prefix, len) != 0)
		return NULL;
	name += len;
	digits = strspn(name, "0123456789");
	if (digits == 0 || digits > 4 || name[digits] != '.' || (digits > 1 && name[0] == '0'))
		return NULL;
	for (size_t i = 0; i < digits; i++)
		n = n * 10 + (uint32_t)(name[i] - '0');
	*layer = n;
	return n < layers ? name + digits + 1 : NULL;
}

/* Place of `name` among the present rows of a table, SIZE_MAX if it is not there. */
static size_t place(const struct ql_arch *a, const struct row *t, size_t len, const char *name, bool gguf)
{
	size_t seen = 0;

	for (size_t k = 0; k < len; k++) {
		if (!present(a, &t[k]))
			continue;
		if (strcmp(gguf ? t[k].gguf : t[k].hf, name) == 0)
			return seen;
		seen++;
	}
	return SIZE_MAX;
}

static size_t index_of(const struct ql_arch *a, const char *name, bool gguf)
{
	size_t head = count(a, head_rows, COUNT(head_rows)), per = count(a, layer_rows, COUNT(layer_rows)), i;
	uint32_t layer = 0;
	const char *rest = split_layer(name, gguf ? "blk." : "model.layers.", a->num_hidden_layers, &layer);

	if (rest != NULL) {
		i = place(a, layer_rows, COUNT(layer_rows), rest, gguf);
		return i == SIZE_MAX ? i : head + layer * per + i;
	}
	i = place(a, head_rows, COUNT(head_rows), name, gguf);
	if (i != SIZE_MAX)
		return i;
	i = place(a, tail_rows, COUNT(tail_rows), name, gguf);
	return i == SIZE_MAX ? i : head + per * a->num_hidden_layers + i;
}

size_t ql_arch_tensor_index_hf(const struct ql_arch *a, const char *hf) { return index_of(a, hf, false); }
size_t ql_arch_tensor_index_gguf(const struct ql_arch *a, const char *gguf) { return index_of(a, gguf, true); }

/* Index of a file's tensor: of the first of its parts. */
static size_t file_index(const struct ql_arch *a, const char *name, bool gguf)
{
	uint32_t layer = 0;
	const char *rest = split_layer(name, gguf ? "blk." : "model.layers.", a->num_hidden_layers, &layer);
	struct ql_arch_tensor t;
	size_t i;

	for (size_t k = 0; a->fused && rest != NULL && k < COUNT(fused); k++)
		if (strcmp(rest, gguf ? fused[k].gguf : fused[k].hf) == 0) {
			size_t per = count(a, layer_rows, COUNT(layer_rows)), p = 0;

			while (p < COUNT(layer_rows) && layer_rows[p].module != fused[k].first)
				p++;
			return count(a, head_rows, COUNT(head_rows)) + layer * per +
			       place(a, layer_rows, COUNT(layer_rows), gguf ? layer_rows[p].gguf : layer_rows[p].hf, gguf);
		}
	i = index_of(a, name, gguf);
	if (i == SIZE_MAX)
		return i;
	ql_arch_tensor_at(a, i, &t);
	return t.file_parts == 1 ? i : SIZE_MAX;
}

size_t ql_arch_file_index_hf(const struct ql_arch *a, const char *hf) { return file_index(a, hf, false); }
size_t ql_arch_file_index_gguf(const struct ql_arch *a, const char *gguf) { return file_index(a, gguf, true); }
