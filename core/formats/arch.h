/* arch.h - what a base model is: sizes, flags and tensor list, from config.json or GGUF metadata.
 *
 * A family is a row of a table (arch.c): which GGUF architecture and which HF model_type it has, which flags it implies.
 * Everything that changes the maths and is not represented here is refused when read, never ignored.  Whoever builds a
 * graph from a ql_arch must refuse flags it does not implement.  Facts: HF configuration_*.py, llama.cpp's converter. */
#ifndef QL_FORMATS_ARCH_H
#define QL_FORMATS_ARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/dtype.h"
#include "core/base/err.h"
#include "core/base/limits.h"

struct ql_gguf;

/* The seven linears of a layer; this order everywhere (masks are 1u << module). */
enum ql_module { QL_Q_PROJ, QL_K_PROJ, QL_V_PROJ, QL_O_PROJ, QL_GATE_PROJ, QL_UP_PROJ, QL_DOWN_PROJ };
#define QL_MODULES 7
#define QL_MODULES_ALL ((1u << QL_MODULES) - 1)

#define QL_EOS_MAX 16
#define QL_HEAD_DIM_MAX 512

enum ql_rope_kind {
	QL_ROPE_NONE,
	QL_ROPE_LINEAR,	 /* inv_freq / factor */
	QL_ROPE_LLAMA3,	 /* numerics 4.2 */
	QL_ROPE_FACTORS	 /* inv_freq[i] / factors[i], GGUF's rope_freqs.weight */
};

struct ql_rope_scaling {
	enum ql_rope_kind kind;
	double factor, low_freq_factor, high_freq_factor;
	uint32_t original_max_position;
	float factors[QL_HEAD_DIM_MAX / 2]; /* kind QL_ROPE_FACTORS only */
};

/* The gate of the feed-forward part: h = act(gate) ⊙ up. */
enum ql_arch_act { QL_ARCH_SILU, QL_ARCH_GELU_TANH };

/* What sets single layers apart (ql_arch.layer). */
#define QL_LAYER_WINDOW 1u /* keys are seen through sliding_window */
#define QL_LAYER_NOPE 2u   /* no rotary embedding */

struct ql_arch {
	char family[16];     /* "llama" (also Mistral, SmolLM2), "qwen2", "gemma3", …; = GGUF's general.architecture */
	char model_type[24]; /* config.json's model_type; the family for GGUF */
	uint32_t hidden_size, intermediate_size, num_hidden_layers;
	uint32_t num_attention_heads, num_key_value_heads, head_dim;
	uint32_t vocab_size;
	uint32_t max_position_embeddings; /* usable context */
	uint32_t sliding_window; /* of layers with QL_LAYER_WINDOW: key j is visible to query i iff i - window < j ≤ i; 0 = none */
	uint8_t layer[QL_LAYERS_MAX]; /* QL_LAYER_… of each layer */
	float rms_norm_eps;
	double rope_theta;
	double rope_theta_local; /* > 0: layers with a window use it, without scaling (gemma3) */
	struct ql_rope_scaling rope;
	enum ql_arch_act act;
	double attn_scale;	     /* of scores; head_dim^-1/2 unless the model says otherwise */
	double attn_softcap;	     /* scores s become c·tanh(s/c); 0 = no */
	double logit_softcap;	     /* the same for logits */
	bool tie_word_embeddings;
	bool attention_bias_qkv; /* q, k, v have biases (qwen2) */
	bool qk_norm;		 /* RMSNorm over head_dim on q and k before RoPE (qwen3, gemma3) */
	bool post_norms;	 /* further norms on what attention and feed-forward add to the residual stream (gemma2, 3) */
	bool norm_plus_one;	 /* norms are stored as w where 1 + w is meant (gemma's HF files; GGUF stores 1 + w) */
	bool scaled_embeddings;	 /* embeddings are multiplied by √hidden_size, see ql_arch_embed_scale */
	bool fused;		 /* files hold q|k|v and gate|up as one tensor each (phi3) */
	bool stored_4bit;	 /* linears lie in bitsandbytes' 4-bit form (HF directories) */
	bool permuted;		 /* GGUF files hold the rows of q and k interleaved (llama, smollm3) */
	int64_t bos_id, pad_id;	 /* -1 = not given */
	int32_t eos_ids[QL_EOS_MAX]; /* distinct, in order of appearance */
	int n_eos;
};

const char *ql_module_name(int module); /* "q_proj" … */
int ql_module_of(const char *name);	/* -1 if it is none of the seven */
/* Shape of the module's weight [out, in]. */
void ql_arch_module_shape(const struct ql_arch *a, int module, uint32_t *out, uint32_t *in);

/* From the text of config.json.  QL_EINVAL/QL_EFORMAT/QL_EUNSUPPORTED name the key. */
int ql_arch_from_config_json(struct ql_arch *a, const char *text, size_t len, struct ql_err *e);
/* Adds the eos ids of generation_config.json. */
int ql_arch_add_generation_json(struct ql_arch *a, const char *text, size_t len, struct ql_err *e);
/* From a GGUF file's metadata, its rope_freqs.weight and the shape of token_embd.weight. */
int ql_arch_from_gguf(struct ql_arch *a, const struct ql_gguf *g, struct ql_err *e);
/* Ranges of all integers and their relations; both readers end with it. */
int ql_arch_check(const struct ql_arch *a, struct ql_err *e);

/* out[i] = the rotary frequency of pair i < head_dim/2, fp32, scaling applied: (float)(1 / theta^(2i/head_dim)) as torch
 * computes it in fp32, then divided by factor i.  _local: that of layers with a window, where they have their own theta. */
void ql_arch_inv_freq(const struct ql_arch *a, float *out);
void ql_arch_inv_freq_local(const struct ql_arch *a, float *out);
/* What embeddings are multiplied by: 1, or √hidden_size rounded to the type they are stored in (transformers rounds it to the
 * model's type; other types than F16 and BF16 do not round it further than fp32, as in llama.cpp). */
float ql_arch_embed_scale(const struct ql_arch *a, enum ql_dtype stored);
/* out[i] = the divisor that scaling applies to pair i (1 for kind none): what GGUF's rope_freqs.weight holds. */
void ql_arch_rope_factors(const struct ql_arch *a, float *out);

/* The tensors of a model, in a fixed order (embedding, layers, final norm, lm_head when not tied).  Where files hold several
 * of them fused, each is still listed alone, with its place in the file's tensor; such neighbours follow each other. */
enum ql_permute { QL_PERMUTE_NONE, QL_PERMUTE_Q, QL_PERMUTE_K };
struct ql_arch_tensor {
	char hf[80];   /* "model.layers.3.self_attn.q_proj.weight" */
	char gguf[64]; /* "blk.3.attn_q.weight" */
	char file_hf[80], file_gguf[64]; /* the tensor that files hold it in: itself, or "….qkv_proj.weight", "….attn_qkv.weight" */
	uint32_t file_parts, file_part;	 /* this is part file_part of file_parts (1 and 0 when not fused) */
	uint32_t file_row, file_rows;	 /* its first row there, and the rows of the whole */
	int layer;     /* -1 outside layers */
	int module;    /* enum ql_module for the weight of a linear, else -1 */
	int n_dims;    /* 1 or 2 */
	uint32_t rows, cols; /* [rows, cols]; 1-D: rows = 1 */
	enum ql_permute permute; /* rows are permuted in GGUF files of `permuted` architectures */
	bool norm;
};
size_t ql_arch_tensor_count(const struct ql_arch *a);
void ql_arch_tensor_at(const struct ql_arch *a, size_t i, struct ql_arch_tensor *t); /* i < count */
/* Index of that HF or GGUF name, or SIZE_MAX. */
size_t ql_arch_tensor_index_hf(const struct ql_arch *a, const char *hf);
size_t ql_arch_tensor_index_gguf(const struct ql_arch *a, const char *gguf);
/* The same for the names files use: the first part's index, or SIZE_MAX (for the names of parts that files hold fused too). */
size_t ql_arch_file_index_hf(const struct ql_arch *a, const char *hf);
size_t ql_arch_file_index_gguf(const struct ql_arch *a, const char *gguf);
/* Path of a module that files hold fused ("qkv_proj" for q, k and v), or its own name. */
const char *ql_arch_file_module(const struct ql_arch *a, int module);
/* GGUF `llama` row r of a permuted tensor is HF row ql_arch_hf_row(head_dim, r): h·hd + 2i + s ↔ h·hd + s·hd/2 + i. */
static inline uint64_t ql_arch_hf_row(uint32_t hd, uint64_t gguf_row)
{
	uint64_t h = gguf_row / hd, j = gguf_row % hd;

	return h * hd + (j & 1) * (hd / 2) + (j >> 1);
}
static inline uint64_t ql_arch_gguf_row(uint32_t hd, uint64_t hf_row)
{
	uint64_t h = hf_row / hd, j = hf_row % hd;

	return h * hd + 2 * (j % (hd / 2)) + j / (hd / 2);
}

#endif
