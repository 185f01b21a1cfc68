/* pass.h - forward and backward of a whole model over one packed micro-batch.
 *
 * Per layer, x [T, d] the residual stream:
 *   n1 = rmsnorm(x)   q|k|v = n1·Wᵀ (+bias)   q, k = rope(q), rope(k)   o = attention(q, k, v)
 *   x2 = x + o·Woᵀ    n2 = rmsnorm(x2)   g|u = n2·Wᵀ   h = silu(g) ⊙ u   x' = x2 + h·Wdᵀ
 * with what the architecture adds (formats/arch.h): norms of the heads of q and k before rope, norms of o·Woᵀ and h·Wdᵀ before
 * they are added, another gate, windows, soft caps, layers without rope,
 * then loss = Σ over target rows of cross-entropy(rmsnorm(x)·headᵀ).  Sequences are packed end to end and isolated
 * (cu_seqlens); logits exist only in chunks.  Backward follows numerics.md §2.1 and §4.1; only adapters get gradients.
 *
 * What a layer keeps for its backward is a choice per pass (memory against work):
 *   QL_KEEP_ALL    everything;  QL_KEEP_MAIN  x, q|k|v, o, x2, g|u (norms, h and the small S are computed again);
 *   QL_KEEP_INPUT  x only (the layer is run again);
 *   QL_KEEP_HOST   nothing: x waits in pinned memory of the host (offload.c), and the layer is run again.  All such layers share
 *                  two device buffers; copies run on a queue of their own beside the compute of the next layer.
 * The results are the same bits in all four, and in any mix of layers. */
#ifndef QL_MODEL_PASS_H
#define QL_MODEL_PASS_H

#include "core/model/lora.h"

enum ql_keep { QL_KEEP_ALL, QL_KEEP_MAIN, QL_KEEP_INPUT, QL_KEEP_HOST, QL_KEEPS };

/* A choice for each layer: the first `all` layers keep everything, the next `main` the main tensors, the next `host` leave their
 * input on the host, the rest keep it. */
struct ql_keep_mix {
	uint32_t all, main, host;
};

struct ql_batch { /* host arrays */
	uint32_t n_tokens, n_seqs, n_targets;
	const int32_t *ids, *positions; /* [n_tokens] */
	const int32_t *cu_seqlens;	/* [n_seqs + 1] */
	const int32_t *rows, *labels;	/* [n_targets]: row t predicts labels */
};

struct ql_dropout { /* the random parts of a training pass */
	float p;
	float neftune; /* NEFTune's alpha, 0 = none */
	uint64_t seed, token_base; /* tokens of the optimiser step before this micro-batch */
	uint32_t step;
};

struct ql_pass;

/* Device bytes of a training pass: for the planner; exactly what ql_pass_new_mixed allocates. */
uint64_t ql_pass_bytes(const struct ql_model *m, const uint32_t group_rank[QL_GROUPS], uint32_t max_tokens, struct ql_keep_mix keep);
/* Bytes of pinned host memory (alloc_paged) that it takes besides: an input of max_tokens rows for each of `host` layers but two. */
uint64_t ql_pass_host_bytes(const struct ql_model *m, uint32_t max_tokens, struct ql_keep_mix keep);
/* A training pass.  QL_ENODEVMEM, or QL_ENOMEM where pinned host memory cannot be had. */
int ql_pass_new_mixed(struct ql_pass **out, struct ql_model *m, const uint32_t group_rank[QL_GROUPS], uint32_t max_tokens,
		      struct ql_keep_mix keep, struct ql_err *e);
/* The same choice for every layer; train false: forward only (evaluation), buffers of one layer. */
int ql_pass_new(struct ql_pass **out, struct ql_model *m, const uint32_t group_rank[QL_GROUPS], uint32_t max_tokens,
		enum ql_keep keep, bool train, struct ql_err *e);
void ql_pass_free(struct ql_pass *p);

/* Runs one micro-batch; the caller is inside the model's gate, which is yielded between ops.  lora may be NULL.  With
 * backward, gradients of Σ nll·grad_scale are added to lora->grads.  nll and argmax [n_targets] are on the host when it
 * returns (argmax may be NULL). */
int ql_pass_run(struct ql_pass *p, const struct ql_batch *b, const struct ql_lora_set *lora, const struct ql_dropout *drop,
		float grad_scale, bool backward, float *nll, int32_t *argmax, struct ql_err *e);
/* The same without loss: final hidden states through the head, for tests and verification: logits f32 [n_tokens, vocab]. */
int ql_pass_logits(struct ql_pass *p, const struct ql_batch *b, const struct ql_lora_set *lora, float *logits, struct ql_err *e);

#endif
