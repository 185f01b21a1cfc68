/* arch_priv.h - the family table, shared by the readers of config.json and GGUF metadata. */
#ifndef QL_FORMATS_ARCH_PRIV_H
#define QL_FORMATS_ARCH_PRIV_H

#include <jansson.h>

#include "core/formats/arch.h"

/* What a family does differently from llama. */
enum {
	QL_AF_BIAS_QKV = 1 << 0,      /* q, k and v have biases */
	QL_AF_BIAS_KEY = 1 << 1,      /* config.json may say attention_bias: false (true is refused) */
	QL_AF_QK_NORM = 1 << 2,	      /* norms of query and key heads */
	QL_AF_WINDOW_FLAG = 1 << 3,   /* sliding_window counts only with use_sliding_window: true, from max_window_layers on */
	QL_AF_WINDOW = 1 << 4,	      /* sliding_window counts when present */
	QL_AF_POST_NORMS = 1 << 5,    /* norms behind attention and feed-forward */
	QL_AF_GEMMA = 1 << 6,	      /* 1 + w norms, scaled embeddings, GELU gate, query_pre_attn_scalar, tied by default */
	QL_AF_SOFTCAPS = 1 << 7,      /* attn_logit_softcapping, final_logit_softcapping */
	QL_AF_LOCAL_ROPE = 1 << 8,    /* layers with a window have their own rotary base */
	QL_AF_FUSED = 1 << 9,	      /* q|k|v and gate|up are one tensor each */
	QL_AF_NOPE = 1 << 10,	      /* layers without rotary embedding */
	QL_AF_PERMUTED = 1 << 11,     /* rows of q and k are interleaved in GGUF */
	QL_AF_TIED = 1 << 12,	      /* tie_word_embeddings is true when absent */
};

struct ql_arch_family {
	const char *family;	  /* graph and GGUF architecture */
	const char *model_type;	  /* config.json */
	const char *architecture; /* config.json, architectures[0] */
	unsigned flags;		  /* QL_AF_… */
	uint32_t pattern;	  /* with a window: every pattern-th layer sees everything; 0 = none does */
	uint32_t default_context; /* max_position_embeddings when absent */
	uint32_t default_window;  /* sliding_window when absent */
	double default_theta;	  /* rope_theta when absent */
};

extern const struct ql_arch_family ql_arch_families[];
extern const int ql_arch_n_families;

/* Sets family, model_type and the implied flags. */
void ql_arch_set_family(struct ql_arch *a, const struct ql_arch_family *f);
/* With a window set: marks its layers by the family's pattern. */
void ql_arch_set_pattern(struct ql_arch *a, const struct ql_arch_family *f);
/* Adds an eos id unless known; QL_ELIMIT when full. */
int ql_arch_add_eos(struct ql_arch *a, int64_t id, struct ql_err *e);
/* arch_hf_rope.c: windows, layers without rotary embedding, rotary settings of config.json. */
int ql_arch_read_layers(const json_t *cfg, const struct ql_arch_family *f, struct ql_arch *a, struct ql_err *e);
int ql_arch_read_rope(const json_t *cfg, const struct ql_arch_family *f, struct ql_arch *a, struct ql_err *e);

#endif
