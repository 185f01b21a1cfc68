/* model.h - a base model on a device: frozen weights, and the passes over them.
 *
 * The seven linears of each layer are NF4 with double quantisation (or another 4-bit type), stacked into four groups that
 * share an input: qkv, o, gate_up, down.  Embeddings, norms and the head keep their stored precision.  The 4-bit form is
 * cached on disk in bitsandbytes' key layout (cache.h) and reused.
 * One ql_model is used by a trainer and by inference at the same time through its gate; its own fields are constant after
 * load.  Positions restart at 0 in each packed sequence. */
#ifndef QL_MODEL_MODEL_H
#define QL_MODEL_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "core/device/device.h"
#include "core/formats/source.h"
#include "core/model/gate.h"
#include "core/quant/q4.h"

enum ql_group { QL_GROUP_QKV, QL_GROUP_O, QL_GROUP_GATE_UP, QL_GROUP_DOWN, QL_GROUPS };

/* First module and number of modules of each group, in enum ql_module order. */
extern const struct ql_group_info {
	int first, count;
} ql_groups[QL_GROUPS];

struct ql_layer {
	struct ql_weight *group[QL_GROUPS];
	float *norm1, *norm2;	      /* device [hidden]: before attention, before the feed-forward part */
	float *post1, *post2;	      /* device [hidden]: behind them (arch.post_norms), or NULL */
	float *qk_norm;		      /* device [d_q + d_kv]: weights of all query and key heads (arch.qk_norm), or NULL */
	float *bias_qkv;	      /* device [Σ out] or NULL */
	const float *inv_freq;	      /* device [head_dim/2], one of the model's; NULL = no rotary embedding */
	uint32_t window;	      /* of attention, 0 = none */
	uint32_t dense_holders;	      /* who asked for dense copies of the groups */
};

struct ql_model {
	struct ql_device *dev;
	struct ql_queue *queue;
	struct ql_gate *gate;
	struct ql_arch arch;
	struct ql_source *source;   /* owned by the caller, outlives the model */
	struct ql_base_cache *base; /* the 4-bit tensors on the host (mapped); NULL when loaded as_stored */
	struct ql_layer *layers;
	struct ql_weight *embed, *head; /* the same object when tied */
	float *norm;		    /* device [hidden] */
	float *inv_freq, *inv_freq_local; /* device [head_dim/2]; _local of layers with a window, or NULL where they share it */
	float embed_scale;	    /* embeddings are multiplied by it */
	enum ql_dtype quant_kind;
	char base_sha256[65];
	struct {
		double hash, quantise, write, upload; /* of the source; to 4 bits; of the cache file; to the device */
	} load_seconds;
	uint32_t d_q, d_kv; /* num_heads·head_dim, num_kv·head_dim */
};

struct ql_model_opts {
	struct ql_q4_opts quant;
	/* The linears keep the values the source has, dense (bf16 or f16 where it has those, else fp32), and quant is not used:
	 * for judging a file's own quantisation.  No 4-bit form and no base_sha256 then. */
	bool as_stored;
	int cache_dir; /* descriptor of the cache directory, -1 = no cache */
	struct ql_pool *pool; /* for quantising on the host; may be NULL */
	void (*progress)(void *ctx, double fraction, const char *what);
	void *progress_ctx;
};

/* Loads (quantising or from the cache) onto dev.  On failure *out is NULL.  Architectures whose maths is not built are
 * QL_EUNSUPPORTED. */
int ql_model_load(struct ql_model **out, struct ql_device *dev, struct ql_source *source, const struct ql_model_opts *o,
		  struct ql_err *e);
void ql_model_free(struct ql_model *m); /* accepts NULL; leaves the device open */

/* What follows from m->arch alone, for whoever fills a model's weights (ql_model_load does): the scale of embeddings of that type,
 * rotary frequencies on the device, each layer's share of them and its window.  m->dev, queue, arch and layers are set. */
int ql_model_constants(struct ql_model *m, enum ql_dtype embeddings, struct ql_err *e);
/* Dense copies (in the activation type) of the linears of layers 0 … n-1: large products then skip the expansion of 4-bit weights;
 * results are the same bits.  hold makes them, or counts one more holder of those that exist, until memory ends, and returns how many
 * layers have one (0 on devices without); release takes that number back.  Inside the gate. */
uint32_t ql_model_dense_hold(struct ql_model *m, uint32_t n_layers, struct ql_err *e);
void ql_model_dense_release(struct ql_model *m, uint32_t n_layers);
uint64_t ql_model_dense_bytes(const struct ql_model *m); /* of one layer's copies */

/* Rows of the weight that training and inference use, as fp32: the dequantised 4-bit values for the seven linears, the
 * stored ones for all others.  Signature fits core/export/export.h. */
int ql_model_read_f32(void *model, const char *hf_name, uint64_t row_begin, uint64_t n_rows, float *dst, struct ql_err *e);

static inline enum ql_act ql_model_act(const struct ql_model *m)
{
	return m->arch.act == QL_ARCH_SILU ? QL_ACT_SILU : QL_ACT_GELU_TANH;
}

/* A view of rows × cols at p. */
static inline struct ql_tensor ql_view(void *p, enum ql_dtype t, uint32_t rows, uint32_t cols, size_t ld)
{
	return (struct ql_tensor){p, t, rows, cols, ld};
}
/* The columns [c, c + cols) of a view. */
static inline struct ql_tensor ql_cols(struct ql_tensor t, uint32_t c, uint32_t cols)
{
	t.data = (char *)t.data + (size_t)c * ql_dtypes[t.dtype].bytes;
	t.cols = cols;
	return t;
}

#endif
