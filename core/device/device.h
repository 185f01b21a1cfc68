/* device.h - the op interface: everything a model does with numbers, behind one table of functions.
 *
 * A device owns memory, weights and queues; the CPU implementation (core/device/cpu) is the reference every other
 * backend (gpu/) is tested against.  Callers never look at tensor memory: they upload, run ops and download.
 *
 * Conventions
 *  - struct ql_tensor is a view: `rows` rows of `cols` elements, row i at data + i·ld elements.  Views may overlap
 *    columns of one buffer (q, k and v are column ranges of one matrix).  All pointers in it are device memory.
 *  - "act" is the device's activation type dev->act: f32 on the CPU, bf16 on CUDA.  Sums are fp32 or wider.
 *  - Ops are enqueued in order on a queue and may return before they ran.  All calls for one device are serialised by
 *    the caller (core/model/gate.h): an implementation keeps no locks and owns one scratch area.
 *  - Results depend on the arguments alone: no float atomics, fixed reduction orders, the same bits whatever the number
 *    of threads; a row's result does not depend on which other rows share the call beyond kernel choice by `rows`.
 *  - Each returns QL_OK or a code with *e set.  Shapes are checked before anything is launched (QL_ESHAPE).  A failure
 *    of the device itself is QL_EDEVICE, is sticky, and names the op.  An op whose pointer is NULL is not offered;
 *    only those marked optional may be NULL.
 *  - Adapter ("ext") columns.  Let x be the input of a linear with adapters of total rank R.  Its buffer must have
 *    ld ≥ cols + R, and the op writes S = (M⊙x)·Aᵀ into columns cols … cols+R-1 of x's own rows (module by module, in
 *    order).  So a GEMM may run over [x | S]·[W | s·B]ᵀ as one product with R more columns, and backward finds S where
 *    forward left it.  Likewise dy's buffer must have ld ≥ out + R in linear_backward, which writes dS = s·dy·B there.
 */
#ifndef QL_DEVICE_DEVICE_H
#define QL_DEVICE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/dtype.h"
#include "core/base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

struct ql_device;
struct ql_queue;      /* ordered work */
struct ql_event;      /* a point in a queue */
struct ql_graph;      /* a recorded sequence of ops */
struct ql_weight;     /* a frozen matrix [out, in], in whatever layout the backend likes */
struct ql_lora_table; /* adapters reachable by slot number from inside a batch */
struct ql_q4;	      /* core/quant/q4.h: a 4-bit tensor in host memory */

enum ql_mem_kind { QL_MEM_BASE, QL_MEM_KV, QL_MEM_ADAPTER, QL_MEM_OPTIMIZER, QL_MEM_ACTIVATION, QL_MEM_SCRATCH, QL_MEM_KINDS };

struct ql_tensor {
	void *data;
	enum ql_dtype dtype;
	uint32_t rows, cols;
	size_t ld; /* elements from one row to the next, ≥ cols */
};

struct ql_mem_info {
	uint64_t total, available; /* of the device; on the CPU: of the host */
	uint64_t used[QL_MEM_KINDS];
	uint64_t peak; /* largest Σ used since start or the last mem_reset_peak */
};

/* ---- weights -------------------------------------------------------------------------------------------------- */

#define QL_PARTS_MAX 3

/* A weight is up to three matrices of one input width stacked by rows (q|k|v, gate|up), so that one product serves
 * them: y[:, part_begin[p] … part_begin[p+1]) is part p's output. */
struct ql_weight_shape {
	uint32_t in, n_parts, out[QL_PARTS_MAX]; /* total output = Σ out */
};

/* ---- LoRA ------------------------------------------------------------------------------------------------------ */

/* One adapted module: y += scale·(M⊙x)·Aᵀ·Bᵀ.  Device memory, fp32 masters. */
struct ql_lora {
	const float *a; /* [r, in] */
	const float *b; /* [out, r] */
	float *da, *db; /* gradients of the same shapes, accumulated into; NULL when not training */
	uint32_t r;
	float scale;
};

/* Rows row_begin … row_end-1 of a call use these modules (one for each part of the weight; r == 0 = none).
 * Segments are sorted, disjoint, and may leave rows without adapter.  Dropout mask (numerics.md §2.3): element
 * (row, channel) of part p is kept iff word ≥ ⌊p·2³²⌋, word = Philox4x32-10 with key seed, counter (⌊e/4⌋ low,
 * ⌊e/4⌋ high, step, site[p]), output e mod 4, e = (token_base + row - row_begin)·in + channel; kept values are divided
 * by 1 - dropout.  dropout == 0: no mask. */
struct ql_lora_seg {
	uint32_t row_begin, row_end;
	struct ql_lora part[QL_PARTS_MAX];
	float dropout;
	uint64_t seed, token_base;
	uint32_t step, site[QL_PARTS_MAX];
};

struct ql_linear {
	const struct ql_weight *w;
	struct ql_tensor x;    /* act [T, in]; see "ext columns" when n_segs > 0 */
	struct ql_tensor y;    /* act or f32 [T, out]; data == NULL: compute only the S columns (needs n_segs > 0) */
	const float *bias;     /* [out] fp32 or NULL */
	const void *residual;  /* act [T, out] with ld_residual, added to the result, or NULL; may equal y.data */
	size_t ld_residual;
	/* adapters known on the host (training, prefill) */
	const struct ql_lora_seg *segs;
	uint32_t n_segs;
	/* or adapters looked up per row on the device (decode): row t uses slot row_slot[t] (-1 = none) of the table at
	 * sites site0 … site0 + n_parts-1.  Exclusive with segs; no ext columns needed. */
	const struct ql_lora_table *table;
	const int32_t *row_slot; /* device [T] */
	uint32_t site0;
};

struct ql_linear_grad {
	const struct ql_weight *w;
	struct ql_tensor dy; /* act [T, out], ld ≥ out + R when n_segs > 0 */
	struct ql_tensor x;  /* act [T, in] with S in its ext columns, as forward left them (unused if n_segs == 0) */
	struct ql_tensor dx; /* act [T, in]; data == NULL: not wanted; may be x itself */
	bool dx_accumulate;  /* dx += instead of = */
	const struct ql_lora_seg *segs; /* da += dSᵀ·(M⊙x),  db += scale·dyᵀ·S */
	uint32_t n_segs;
};

/* ---- noise on embeddings ------------------------------------------------------------------------------------------ */

/* NEFTune (Jain et al., arXiv 2310.05914): y[t, c] += (2u - 1)·alpha/√(L·d), L the length of the row's sequence, d = y.cols;
 * u = ql_u01(word e mod 4) of Philox4x32-10 with key seed, counter (⌊e/4⌋ low, ⌊e/4⌋ high, step, QL_RNG_NEFTUNE << 24),
 * e = (token_base + t)·d + c.  So the noise does not depend on packing or micro-batches, and a resume needs no state. */
struct ql_noise {
	struct ql_tensor y; /* act [T, d] */
	uint32_t n_seqs;
	const int32_t *cu_seqlens; /* device [n_seqs + 1] */
	float alpha;
	uint64_t seed, token_base;
	uint32_t step;
};

/* ---- attention -------------------------------------------------------------------------------------------------- */

struct ql_attn {
	struct ql_tensor q; /* act [T, n_head·head_dim] */
	struct ql_tensor k, v; /* act [T, n_kv·head_dim] */
	struct ql_tensor o; /* act [T, n_head·head_dim] */
	float *lse;	    /* device f32 [n_head, T]: log-sum-exp of the scaled scores; NULL if not wanted (inference) */
	uint32_t n_head, n_kv, head_dim;
	uint32_t n_seqs;
	const int32_t *cu_seqlens;	/* device [n_seqs + 1], first 0, last T */
	const int32_t *cu_seqlens_host; /* the same on the host */
	float scale;			/* usually head_dim^-1/2 */
	float softcap;			/* > 0: the scaled score s becomes c·tanh(s/c) before masking (Gemma 2); 0 = none */
	uint32_t window;		/* 0 = none; else key j is visible to query i iff i - window < j ≤ i */
};

struct ql_attn_grad {
	struct ql_attn f;	     /* with o and lse as forward left them */
	struct ql_tensor d_o;	     /* act [T, n_head·head_dim] */
	struct ql_tensor dq, dk, dv; /* act, shapes of q, k, v; overwritten */
};

/* Cached keys and values of one layer: token t of a sequence lies in block table[t / block_tokens] at t % block_tokens.
 * k, v: act [n_blocks·block_tokens, n_kv·head_dim]. */
struct ql_paged_attn {
	struct ql_tensor q, o; /* act [T, n_head·head_dim]; rows q_begin[s] … q_begin[s+1]-1 belong to sequence s */
	struct ql_tensor k_cache, v_cache;
	uint32_t n_head, n_kv, head_dim, block_tokens;
	uint32_t n_seqs, max_blocks;
	const int32_t *q_begin;	    /* device [n_seqs + 1] */
	const int32_t *kv_len;	    /* device [n_seqs]: cached tokens, the new ones included; query j of sequence s sits at
				       position kv_len[s] - (q_begin[s+1]-q_begin[s]) + j and sees positions ≤ its own */
	const int32_t *block_table; /* device [n_seqs, max_blocks] */
	uint32_t q_len_max, kv_len_max; /* host-known upper bounds (may be rounded up, e.g. for graphs) */
	float scale, softcap;
	uint32_t window;
};

/* ---- loss ------------------------------------------------------------------------------------------------------- */

struct ql_xent {
	const struct ql_weight *head; /* [vocab, d] */
	struct ql_tensor hidden;      /* act [T, d] */
	const int32_t *rows;	      /* device [N]: rows of hidden that are scored, ascending */
	const int32_t *labels;	      /* device [N]: token that row must predict */
	uint32_t n;
	float softcap;		  /* > 0: logits z become c·tanh(z/c); 0 = none */
	float grad_scale;	  /* dhidden row = grad_scale · (softmax - onehot)·head; 1/targets of the whole step */
	float *nll;		  /* device f32 [N]: logsumexp - z_label */
	int32_t *argmax;	  /* device [N]: lowest id of the largest logit; NULL = not wanted */
	struct ql_tensor dhidden; /* act [T, d] or data == NULL (evaluation); rows not listed are set to 0 */
};

/* ---- feed-forward ------------------------------------------------------------------------------------------------ */

enum ql_act {
	QL_ACT_SILU,	 /* g·σ(g) */
	QL_ACT_GELU_TANH /* g/2·(1 + tanh(√(2/π)·(g + 0.044715·g³))) */
};

/* ---- optimiser --------------------------------------------------------------------------------------------------- */

/* Parameters of a job lie in one flat fp32 array; a group is a range of it with its own rate. */
struct ql_adamw_group {
	uint64_t begin, count;
	double lr, weight_decay;
};

struct ql_adamw {
	float *p, *m, *v;  /* device, flat */
	const float *g;
	const struct ql_adamw_group *groups; /* host */
	uint32_t n_groups;
	double beta1, beta2, eps;
	uint64_t t;	   /* 1, 2, … */
	float grad_scale;  /* g is multiplied by it first (clipping) */
};

/* AdamW with 8-bit moments in blocks (bitsandbytes' AdamW8bit; Dettmers et al., "8-bit optimizers via block-wise
 * quantization").  A block is up to QL_ADAM8_BLOCK parameters of one tensor; its moments are codes of the dynamic maps
 * (m signed, v unsigned) with one fp32 absmax each, or, for tensors too small to gain, plain fp32. */
#define QL_ADAM8_BLOCK 256
#define QL_ADAM8_CODED UINT32_MAX
struct ql_adam8_block {
	uint64_t begin; /* first parameter */
	uint32_t count; /* 1 … QL_ADAM8_BLOCK */
	uint32_t small; /* QL_ADAM8_CODED, or where its fp32 moments begin in m32 and v32 */
};

struct ql_adam8_group { /* blocks block_begin … block_begin + n_blocks-1 */
	uint32_t block_begin, n_blocks;
	double lr, weight_decay;
};

struct ql_adam8 {
	float *p; /* device, flat */
	const float *g;
	uint8_t *m, *v;		    /* device: codes, at the parameters' own places; initially 0 */
	float *m_absmax, *v_absmax; /* device [blocks]; initially 0 */
	float *m32, *v32;	    /* device; may be NULL when no block is small */
	const struct ql_adam8_block *blocks; /* device */
	const float *maps;	    /* device [2·256]: ql_dynamic_map_signed, then ql_dynamic_map_unsigned */
	const struct ql_adam8_group *groups; /* host */
	uint32_t n_groups;
	double beta1, beta2, eps;
	double bound; /* no gradients make |m| > bound·√v (ql_optim_bound) */
	uint64_t t;
	float grad_scale;
};

/* ---- the table ---------------------------------------------------------------------------------------------------- */

struct ql_device_ops {
	const char *name; /* "cpu", "cuda" */

	void (*close)(struct ql_device *d);

	/* memory: zeroed on request only */
	int (*alloc)(struct ql_device *d, enum ql_mem_kind kind, size_t bytes, void **out, struct ql_err *e);
	/* Memory for what is touched once a step (paged optimiser states, inputs of layers; QL_MEM_OPTIMIZER): ops and copies take it as
	 * any other, and copies between it and device memory run beside compute on another queue.
	 * CUDA: pinned memory of the host, so it costs no device memory.  CPU: the same as alloc. */
	int (*alloc_paged)(struct ql_device *d, size_t bytes, void **out, struct ql_err *e);
	void (*free)(struct ql_device *d, void *p); /* accepts NULL */
	int (*mem_info)(struct ql_device *d, struct ql_mem_info *out, struct ql_err *e);
	void (*mem_reset_peak)(struct ql_device *d);
	int (*upload)(struct ql_device *d, struct ql_queue *q, void *dst, const void *src, size_t bytes, struct ql_err *e);
	/* the bytes are at dst after the next sync */
	int (*download)(struct ql_device *d, struct ql_queue *q, void *dst, const void *src, size_t bytes, struct ql_err *e);
	int (*copy)(struct ql_device *d, struct ql_queue *q, void *dst, const void *src, size_t bytes, struct ql_err *e);
	int (*zero)(struct ql_device *d, struct ql_queue *q, void *dst, size_t bytes, struct ql_err *e);

	/* queues */
	int (*queue_new)(struct ql_device *d, struct ql_queue **out, struct ql_err *e);
	/* A queue for copy, zero, upload and download alone: it has no work areas for other ops. */
	int (*copy_queue_new)(struct ql_device *d, struct ql_queue **out, struct ql_err *e);
	void (*queue_free)(struct ql_device *d, struct ql_queue *q); /* when its work has ended */
	int (*sync)(struct ql_device *d, struct ql_queue *q, struct ql_err *e);
	int (*event_record)(struct ql_device *d, struct ql_queue *q, struct ql_event **ev, struct ql_err *e); /* *ev NULL: made */
	int (*event_wait)(struct ql_device *d, struct ql_event *ev, struct ql_err *e); /* host waits */
	/* What q is given from now on runs after the last recorded point of ev, on whatever queue that was; the host does not wait, and
	 * ev may be recorded anew at once. */
	int (*queue_wait)(struct ql_device *d, struct ql_queue *q, struct ql_event *ev, struct ql_err *e);
	void (*event_free)(struct ql_device *d, struct ql_event *ev);
	/* seconds of the device's time from one event to a later one; waits for both */
	int (*event_seconds)(struct ql_device *d, struct ql_event *from, struct ql_event *to, double *seconds, struct ql_err *e);

	/* graphs, optional: ops between begin and end are recorded, not run; run replays them with the same pointers */
	int (*graph_begin)(struct ql_device *d, struct ql_queue *q, struct ql_err *e);
	int (*graph_end)(struct ql_device *d, struct ql_queue *q, struct ql_graph **out, struct ql_err *e);
	int (*graph_run)(struct ql_device *d, struct ql_queue *q, struct ql_graph *g, struct ql_err *e);
	void (*graph_free)(struct ql_device *d, struct ql_graph *g);

	/* weights.  Host inputs are copied before the call returns.
	 * from_q4: parts[p] is the 4-bit tensor of part p (n = out[p]·in).  from_dense: rows of type F32, F16, BF16 or Q8_0,
	 * kept in that precision.  quantize: dense host rows (F32, F16, BF16) quantised on the device, bit-equal to
	 * ql_q4_quantize with kind, blocksize 64, nested; the rows may also lie in device memory. */
	int (*weight_from_q4)(struct ql_device *d, const struct ql_weight_shape *s, const struct ql_q4 *const parts[],
			      struct ql_weight **out, struct ql_err *e);
	int (*weight_from_dense)(struct ql_device *d, const struct ql_weight_shape *s, enum ql_dtype dtype,
				 const void *const parts[], struct ql_weight **out, struct ql_err *e);
	int (*weight_quantize)(struct ql_device *d, const struct ql_weight_shape *s, enum ql_dtype src, const void *const parts[],
			       enum ql_dtype kind, struct ql_weight **out, struct ql_err *e);
	/* Downloads part p of a 4-bit weight into *out (bit-equal to what ql_q4_quantize makes); ql_q4_free it. */
	int (*weight_to_q4)(struct ql_device *d, const struct ql_weight *w, uint32_t part, struct ql_q4 *out, struct ql_err *e);
	void (*weight_free)(struct ql_device *d, struct ql_weight *w);
	uint64_t (*weight_bytes)(const struct ql_weight *w);
	/* optional: keep (or drop) a dense copy in act type for faster large products; results are the same bits */
	int (*weight_resident)(struct ql_device *d, struct ql_weight *w, bool on, struct ql_err *e);
	/* dst = the values of a 4-bit weight, act [Σ out, in]: level·scale, rounded once to act */
	int (*weight_rows)(struct ql_device *d, struct ql_queue *q, const struct ql_weight *w, struct ql_tensor dst, struct ql_err *e);

	/* adapters by slot; a site is 7·layer + module.  set copies the description (and makes compute copies where the backend
	 * wants them), so call it again when a or b change; r == 0 clears. */
	int (*table_new)(struct ql_device *d, uint32_t n_slots, uint32_t n_sites, struct ql_lora_table **out, struct ql_err *e);
	int (*table_set)(struct ql_device *d, struct ql_queue *q, struct ql_lora_table *t, uint32_t slot, uint32_t site,
			 uint32_t in, uint32_t out, const struct ql_lora *lora, struct ql_err *e);
	void (*table_free)(struct ql_device *d, struct ql_lora_table *t);

	/* y[t] = scale · row ids[t] of the embedding matrix w; act [T, d] */
	int (*embed)(struct ql_device *d, struct ql_queue *q, const struct ql_weight *w, const int32_t *ids, float scale,
		     struct ql_tensor y, struct ql_err *e);
	int (*embed_noise)(struct ql_device *d, struct ql_queue *q, const struct ql_noise *a, struct ql_err *e);
	/* y = [add +] w ⊙ (x·ρ), ρ = (mean(x²) + eps)^-1/2.  group 0: one ρ a row; else one for each `group` columns (norms of
	 * heads; group divides d).  w f32 [d]; rstd f32 [T, d / group] receives ρ, or NULL.  add: act [T, d] or NULL data.  y may
	 * be x or add. */
	int (*rmsnorm)(struct ql_device *d, struct ql_queue *q, struct ql_tensor x, const float *w, uint32_t group, float eps,
		       struct ql_tensor add, struct ql_tensor y, float *rstd, struct ql_err *e);
	/* g = w ⊙ dy; dx = [add +] ρ·(g - x·ρ²·mean(g ⊙ x)), means over the same columns.  add: as above; dx may be dy or add. */
	int (*rmsnorm_grad)(struct ql_device *d, struct ql_queue *q, struct ql_tensor x, const float *w, uint32_t group,
			    const float *rstd, struct ql_tensor dy, struct ql_tensor add, struct ql_tensor dx, struct ql_err *e);
	/* In place, rotate-half: pair (i, i + head_dim/2) of each head turned by sign·positions[t]·inv_freq[i]; sign -1 is the
	 * backward.  x: act [T, n_head·head_dim]. */
	int (*rope)(struct ql_device *d, struct ql_queue *q, struct ql_tensor x, uint32_t n_head, uint32_t head_dim,
		    const int32_t *positions, const float *inv_freq, float sign, struct ql_err *e);
	/* h = f(gate) ⊙ up; gate, up, h act [T, f], views of any ld */
	int (*swiglu)(struct ql_device *d, struct ql_queue *q, enum ql_act f, struct ql_tensor gate, struct ql_tensor up,
		      struct ql_tensor h, struct ql_err *e);
	/* dup = dh ⊙ f(gate), dgate = dh ⊙ up ⊙ f'(gate), for silu σ(gate)(1 + gate(1 - σ(gate))); dgate may be gate, dup up */
	int (*swiglu_grad)(struct ql_device *d, struct ql_queue *q, enum ql_act f, struct ql_tensor dh, struct ql_tensor gate,
			   struct ql_tensor up, struct ql_tensor dgate, struct ql_tensor dup, struct ql_err *e);
	/* x = c·tanh(x/c) in place, c > 0; x f32 [T, n] */
	int (*softcap)(struct ql_device *d, struct ql_queue *q, struct ql_tensor x, float c, struct ql_err *e);

	int (*linear)(struct ql_device *d, struct ql_queue *q, const struct ql_linear *a, struct ql_err *e);
	int (*linear_grad)(struct ql_device *d, struct ql_queue *q, const struct ql_linear_grad *a, struct ql_err *e);
	int (*attention)(struct ql_device *d, struct ql_queue *q, const struct ql_attn *a, struct ql_err *e);
	int (*attention_grad)(struct ql_device *d, struct ql_queue *q, const struct ql_attn_grad *a, struct ql_err *e);
	/* k_cache[slots[t]] = k[t], v_cache likewise; slots device int32 [T], -1 skips the row */
	int (*kv_write)(struct ql_device *d, struct ql_queue *q, struct ql_tensor k, struct ql_tensor v, const int32_t *slots,
			struct ql_tensor k_cache, struct ql_tensor v_cache, struct ql_err *e);
	int (*paged_attention)(struct ql_device *d, struct ql_queue *q, const struct ql_paged_attn *a, struct ql_err *e);
	int (*cross_entropy)(struct ql_device *d, struct ql_queue *q, const struct ql_xent *a, struct ql_err *e);

	/* Σ g², fp64, in an order fixed by n alone; the result is on the host after sync */
	int (*sum_squares)(struct ql_device *d, struct ql_queue *q, const float *g, uint64_t n, double *host_out, struct ql_err *e);
	/* numerics.md §6.1, decay first, fp32 state, scalars in fp64 rounded when used */
	int (*adamw)(struct ql_device *d, struct ql_queue *q, const struct ql_adamw *a, struct ql_err *e);
	/* numerics.md §6.4.  Per block, scalars as in adamw: g ← g·grad_scale; m ← m·β1 + (1-β1)·g; v ← v·β2 + ((1-β2)·g)·g of the
	 * decoded moments; p as in adamw, from these m and v; then new absmax and codes = number of map midpoints strictly below
	 * x·(1/max(absmax, 1e-38)); where the decoded sign is not that of m ≠ 0, the code moves one towards it (as bitsandbytes' CUDA
	 * kernel).  One rule is ours: where the old v has code 0 (it was below 1.6e-7 of the block's largest, a gradient below a
	 * 2,500th of the largest) and the new |m| > bound·√v, it counts as code 1 instead.  bitsandbytes takes it for 0, so that a
	 * parameter whose gradient then becomes small moves by m/√(the last g²), or by m/eps. */
	int (*adam8)(struct ql_device *d, struct ql_queue *q, const struct ql_adam8 *a, struct ql_err *e);
	/* ids[t] = lowest index of the largest element of row t; logits f32 [T, vocab] */
	int (*argmax)(struct ql_device *d, struct ql_queue *q, struct ql_tensor logits, int32_t *ids, struct ql_err *e);
};

struct ql_device {
	const struct ql_device_ops *ops;
	enum ql_dtype act;	 /* activation type */
	uint32_t ext_align;	 /* ld of buffers with ext columns must be a multiple of this (elements) */
	uint32_t small_rows;	 /* up to this many rows `linear` with a table is the fast path for decode */
	uint32_t head_dim_max;	 /* largest head size attention takes */
	char description[128];	 /* "cpu: 2 threads, avx2", "cuda:0 NVIDIA H100 80GB HBM3, driver …" */
	void *impl;
};

/* The CPU backend.  n_threads 0 = all online processors.  Close with d->ops->close(d). */
int ql_device_cpu(struct ql_device **out, int n_threads, struct ql_err *e);
/* The CUDA backend, device `ordinal`; QL_EUNSUPPORTED when built without it, QL_ENOTFOUND when there is no such device. */
int ql_device_cuda(struct ql_device **out, int ordinal, struct ql_err *e);

#ifdef __cplusplus
}
#endif
#endif
