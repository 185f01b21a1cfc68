/* peft.h - PEFT LoRA adapter directories: adapter_config.json + adapter_model.safetensors.
 *
 * Tensors: "base_model.model." + HF module path + ".lora_A.weight" [r, in] / ".lora_B.weight" [out, r]; reading also takes
 * ".lora_A.default.weight".  Effect of a pair: W' = W + scale·B·A with scale = alpha/r, or alpha/√r with rsLoRA, r and alpha
 * per module where rank_pattern / alpha_pattern say so.  Reading honours target_modules (list, regular expression,
 * "all-linear"), exclude_modules, layers_to_transform, and refuses by name every key whose effect we do not have (DoRA,
 * biases, modules_to_save, …).  Modules that files fuse (phi3's qkv_proj, gate_up_proj) are pairs of their parts here and one
 * pair in the directory: peft_whole.h.  Source: peft, tuners/lora/config.py, utils/save_and_load.py. */
#ifndef QL_FORMATS_PEFT_H
#define QL_FORMATS_PEFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/dtype.h"
#include "core/base/err.h"
#include "core/formats/arch.h"

struct ql_adapter_pair {
	const float *a; /* [rank, in] row-major, NULL = no adapter on this module */
	const float *b; /* [out, rank] */
	uint32_t rank;
	double alpha;
};

struct ql_adapter_file {
	uint32_t rank; /* the config's r and lora_alpha */
	double alpha;
	bool rslora;
	double dropout;
	uint32_t modules;  /* mask of enum ql_module that occur in any layer */
	uint32_t n_layers; /* = the model's */
	struct ql_adapter_pair *pairs; /* [n_layers · QL_MODULES], index layer·QL_MODULES + module; owned */
	void *storage;		       /* owned memory behind a and b, or NULL when they are borrowed */
	char base_name[512];	       /* base_model_name_or_path; "" = none */
};

/* An empty adapter for a model: all pairs absent.  The caller points pairs at its memory (borrowed until free). */
int ql_adapter_file_init(struct ql_adapter_file *f, const struct ql_arch *arch, uint32_t rank, double alpha, bool rslora,
			 struct ql_err *e);
/* Points one pair at the caller's A [rank, in] and B [out, rank], with the adapter's rank and alpha, and marks the module. */
void ql_adapter_file_set(struct ql_adapter_file *f, uint32_t layer, int module, const float *a, const float *b);
void ql_adapter_file_free(struct ql_adapter_file *f); /* accepts a zeroed one */
/* alpha/r or alpha/√r of a present pair. */
double ql_adapter_pair_scale(const struct ql_adapter_file *f, const struct ql_adapter_pair *p);

/* Reads an untrusted directory: shapes against arch, every value finite, both halves of each pair, no other tensor, exactly
 * the modules the config targets.  f is filled on success only (free it then). */
int ql_adapter_read(struct ql_adapter_file *f, int dirfd, const struct ql_arch *arch, struct ql_err *e);

/* The same from a GGUF LoRA as llama.cpp reads it (general.type adapter, adapter.type lora); every tensor must belong to one of
 * the model's linears.  QL_EMISMATCH: another kind of file or architecture. */
int ql_adapter_read_gguf(struct ql_adapter_file *f, int dirfd, const char *file, const struct ql_arch *arch, struct ql_err *e);

struct ql_adapter_write_opts {
	enum ql_dtype dtype;   /* QL_F32 (as PEFT keeps them), QL_BF16 or QL_F16 */
	const char *base_name; /* base_model_name_or_path, must not be empty */
	bool bake; /* write the effect with plain alpha/r only: rsLoRA becomes alpha' = alpha·√r, per-module ranks and alphas go
		    * into B; for readers that know neither (vLLM patterns, convert_lora_to_gguf) */
};
/* Writes both files into dirfd (each durably replaced).  Same input, same bytes. */
int ql_adapter_write(const struct ql_adapter_file *f, const struct ql_arch *arch, int dirfd,
		     const struct ql_adapter_write_opts *opts, struct ql_err *e);

#endif
