/* arch_priv.h - the family table, shared by the readers of config.json and GGUF metadata. */
#ifndef QL_FORMATS_ARCH_PRIV_H
#define QL_FORMATS_ARCH_PRIV_H

#include "core/formats/arch.h"

struct ql_arch_family {
	const char *family;	  /* graph and GGUF architecture */
	const char *model_type;	  /* config.json */
	const char *architecture; /* config.json, architectures[0] */
	bool bias_qkv, qk_norm;
	bool bias_key;	   /* config key attention_bias is read (true is refused); else it must be absent or false */
	bool window_flag;  /* sliding_window counts only with use_sliding_window: true */
	bool window_always; /* sliding_window counts when present */
};

extern const struct ql_arch_family ql_arch_families[];
extern const int ql_arch_n_families;

/* Sets family, model_type and the implied flags. */
void ql_arch_set_family(struct ql_arch *a, const struct ql_arch_family *f);
/* Adds an eos id unless known; QL_ELIMIT when full. */
int ql_arch_add_eos(struct ql_arch *a, int64_t id, struct ql_err *e);

#endif
