/* types.c - export types and which stored type each tensor of a recipe gets (llama.cpp, llama-quant.cpp).
 *
 *   more(i) = i < n/8 || i ≥ 7n/8 || (i - n/8) % 3 == 2
 *              base   output (or tied embedding)   attn_v, ffn_down
 *   q4_k_m     Q4_K   Q6_K                         Q6_K where more(i), else Q4_K
 *   q5_k_m     Q5_K   Q6_K                         Q6_K where more(i), else Q5_K
 *   q6_k       Q6_K   Q6_K                         Q6_K
 *   q4_0       Q4_0   Q6_K                         Q4_0
 *   q8_0       Q8_0   Q8_0                         Q8_0
 * A fused attn_qkv takes Q5_K in q4_k_m and Q6_K in q5_k_m, a fused gate and up the base type.
 * Norms and 1-D tensors stay F32.  Rows that are no whole blocks: Q4_K→Q5_0, Q5_K→Q5_1, Q6_K→Q8_0, and F16 where 32 does
 * not divide them either; the output tensor takes Q8_0 as soon as the base type does not fit. */
#include <string.h>

#include "core/export/export_priv.h"

const struct ql_export_type_info ql_export_types[QL_EXPORT_TYPES] = {
	[QL_EXPORT_F32] = {"f32", QL_F32, 0},	     [QL_EXPORT_F16] = {"f16", QL_F16, 1},
	[QL_EXPORT_BF16] = {"bf16", QL_BF16, 32},    [QL_EXPORT_Q8_0] = {"q8_0", QL_Q8_0, 7},
	[QL_EXPORT_Q4_0] = {"q4_0", QL_Q4_0, 2},     [QL_EXPORT_Q4_K_M] = {"q4_k_m", QL_Q4_K, 15},
	[QL_EXPORT_Q5_K_M] = {"q5_k_m", QL_Q5_K, 17}, [QL_EXPORT_Q6_K] = {"q6_k", QL_Q6_K, 18},
};

const char *ql_export_type_name(enum ql_export_type t) { return t < QL_EXPORT_TYPES ? ql_export_types[t].name : ""; }

enum ql_export_type ql_export_type_of(const char *name)
{
	int i = 0;

	while (i < QL_EXPORT_TYPES && strcmp(ql_export_types[i].name, name) != 0)
		i++;
	return (enum ql_export_type)i;
}

static bool more(uint32_t i, uint32_t n) { return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2; }

static enum ql_dtype wanted(enum ql_export_type type, const struct ql_arch *a, const struct ql_arch_tensor *t, bool output)
{
	enum ql_dtype base = ql_export_types[type].base;
	bool k_m = type == QL_EXPORT_Q4_K_M || type == QL_EXPORT_Q5_K_M;

	if (output && (type == QL_EXPORT_Q4_0 || k_m))
		return QL_Q6_K;
	if (k_m && t->file_parts == 3)
		return type == QL_EXPORT_Q4_K_M ? QL_Q5_K : QL_Q6_K;
	if (k_m && (t->module == QL_V_PROJ || t->module == QL_DOWN_PROJ) && more((uint32_t)t->layer, a->num_hidden_layers))
		return QL_Q6_K;
	if (type == QL_EXPORT_Q4_K_M && t->module == QL_V_PROJ && a->num_hidden_layers == 80 &&
	    a->num_attention_heads != a->num_key_value_heads)
		return QL_Q5_K; /* 70B: attn_v is small there */
	return base;
}

enum ql_dtype ql_export_tensor_type(enum ql_export_type type, const struct ql_arch *a, const struct ql_arch_tensor *t)
{
	bool output = strcmp(t->hf, "lm_head.weight") == 0 ||
		      (a->tie_word_embeddings && strcmp(t->hf, "model.embed_tokens.weight") == 0);
	enum ql_dtype base = ql_export_types[type].base, want;

	if (t->n_dims == 1 || t->norm)
		return QL_F32;
	want = wanted(type, a, t, output);
	if (output && t->cols % ql_dtypes[base].block != 0)
		want = QL_Q8_0;
	if (t->cols % ql_dtypes[want].block != 0)
		want = want == QL_Q4_K ? QL_Q5_0 : want == QL_Q5_K ? QL_Q5_1 : QL_Q8_0;
	return t->cols % ql_dtypes[want].block == 0 ? want : QL_F16;
}

bool ql_export_permuted(const struct ql_arch *a, const struct ql_arch_tensor *t)
{
	return t->permute != QL_PERMUTE_NONE && t->n_dims == 2 && a->permuted;
}
