/* lora.h - the parameters of one adapter on a device.
 *
 * All A matrices, then all B matrices, each layer by layer and module by module, in one flat fp32 array; so the optimiser
 * sees two ranges (LoRA+ gives them different rates) and the gradient norm is one sum.  A [r, in], B [out, r];
 * y += scale·x·Aᵀ·Bᵀ, scale = alpha/r or alpha/√r (rsLoRA).  Initial A ~ U(±1/√in) or N(0, 1/r²), B = 0
 * (PEFT tuners/lora/layer.py). */
#ifndef QL_MODEL_LORA_H
#define QL_MODEL_LORA_H

#include "core/formats/peft.h"
#include "core/model/model.h"

struct ql_lora_site {
	uint64_t a, b; /* offsets in the flat array, in floats */
	uint32_t r;    /* 0 = no adapter here */
	uint32_t in, out;
	float scale;
};

struct ql_lora_set {
	struct ql_model *model;
	uint32_t rank;
	double alpha;
	bool rslora;
	uint32_t modules;
	struct ql_lora_site *sites; /* [layers · QL_MODULES] */
	uint64_t n_params, n_a;	    /* A's come first */
	float *params;		    /* device */
	float *grads;		    /* device, NULL unless trainable */
	uint32_t group_rank[QL_GROUPS]; /* largest Σ r of each group: ext columns needed */
};

struct ql_lora_config {
	uint32_t rank;
	double alpha;
	bool rslora, gaussian;
	uint32_t modules; /* mask of enum ql_module */
	const uint32_t *site_rank; /* [layers · QL_MODULES] instead of rank, alpha and modules of each site; NULL = the same everywhere */
	const double *site_alpha;
};

/* A new trainable adapter, initialised from seed. */
int ql_lora_new(struct ql_lora_set **out, struct ql_model *m, const struct ql_lora_config *c, uint64_t seed, struct ql_err *e);
/* From a directory's contents; per-module ranks and alphas are kept. */
int ql_lora_from_file(struct ql_lora_set **out, struct ql_model *m, const struct ql_adapter_file *f, bool trainable,
		      struct ql_err *e);
void ql_lora_free(struct ql_lora_set *s);
/* Downloads the parameters into host[n_params] (inside the gate). */
int ql_lora_download(const struct ql_lora_set *s, float *host, struct ql_err *e);
/* Describes downloaded parameters as a PEFT adapter that borrows host; no device call. */
int ql_lora_describe(const struct ql_lora_set *s, const float *host, struct ql_adapter_file *f, struct ql_err *e);
/* The modules of a layer's group for an op; grads only if the set has them and with_grads. */
void ql_lora_parts(const struct ql_lora_set *s, uint32_t layer, int group, bool with_grads, struct ql_lora out[QL_PARTS_MAX]);
/* Puts (or with s == NULL clears) the adapter into a slot of a table over 7·layers sites. */
int ql_lora_to_table(const struct ql_lora_set *s, struct ql_model *m, struct ql_lora_table *t, uint32_t slot, struct ql_err *e);

#endif
