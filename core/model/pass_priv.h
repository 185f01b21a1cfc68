/* pass_priv.h - the buffers of a pass, shared by pass_mem.c (their memory), pass.c (the run), layer.c (one layer's ops), offload.c. */
#ifndef QL_MODEL_PASS_PRIV_H
#define QL_MODEL_PASS_PRIV_H

#include "core/model/pass.h"

/* One layer's activations; entries that a layer does not keep point into the shared set. */
struct acts {
	struct ql_tensor x, n1, qkv, o, x2, n2, gu, h;
	struct ql_tensor qk;	 /* q|k as attention takes them; with norms of heads a buffer of its own, else columns of qkv */
	struct ql_tensor t1, t2; /* arch.post_norms: what attention and feed-forward give, before their norms */
	float *lse, *rstd1, *rstd2, *rstd_qk, *rstd_t1, *rstd_t2;
};

/* Inputs of QL_KEEP_HOST layers: two device buffers, and slots on the host for all but the last two. */
struct offload {
	uint32_t first, sent;	  /* layers first … first+sent-1 have a slot */
	uint64_t slot;		  /* bytes of one */
	struct ql_tensor stage[2]; /* in the arena */
	void *host;
	struct ql_queue *queue;	  /* of the copies; NULL = none are made */
	struct ql_event *ready, *copied[2];
};

struct ql_pass {
	struct ql_model *m;
	uint32_t max_tokens, group_rank[QL_GROUPS];
	struct ql_keep_mix keep;
	bool train;
	void *arena;	     /* one device allocation */
	struct acts *layers; /* [n_layers] */
	struct acts spare;   /* shared set */
	/* buffers of the backward pass that never live at once share memory (pass.c); d(gate|up) is written over gate|up */
	struct ql_tensor x_last, dres, dt, dqkv, dh, dn, d_o, hidden; /* dt: gradient of t1 or t2 */
	float *rstd_last, *nll;
	int32_t *loss_rows; /* host [max_tokens]: rows of slices of the loss */
	int32_t *ids, *positions, *cu, *rows, *labels, *argmax;
	struct offload off;
	/* the running batch */
	struct ql_batch b;
	bool backward; /* follows the forward pass */
	const struct ql_lora_set *lora;
	const struct ql_dropout *drop;
	struct ql_event *slice[2];
	unsigned n_slices;
};

static inline enum ql_keep ql_pass_keeps(const struct ql_pass *p, uint32_t layer)
{
	uint32_t kept = p->keep.all + p->keep.main;

	return layer < p->keep.all ? QL_KEEP_ALL : layer < kept ? QL_KEEP_MAIN : layer - kept < p->keep.host ? QL_KEEP_HOST : QL_KEEP_INPUT;
}

/* Runs layer l's forward from a->x into next (next.data NULL: everything but the output).  again: what QL_KEEP_MAIN dropped. */
int ql_layer_forward(struct ql_pass *p, uint32_t l, struct acts *a, struct ql_tensor next, struct ql_err *e);
int ql_layer_again(struct ql_pass *p, uint32_t l, struct acts *a, struct ql_err *e);
/* dres: in = gradient of the layer's output, out = of its input (left alone below the first layer). */
int ql_layer_backward(struct ql_pass *p, uint32_t l, struct acts *a, struct ql_err *e);

/* offload.c.  open: memory and queue, after the arena was laid out; close: accepts what open left half done.  before_forward: called
 * before each layer of a forward pass that a backward pass follows; before_backward: before each layer is run again; these enqueue
 * copies and waits.  stop: after a failure, returns when no copy is under way. */
uint64_t ql_offload_host_bytes(const struct ql_pass *p);
int ql_offload_open(struct ql_pass *p, struct ql_err *e);
void ql_offload_close(struct ql_pass *p);
int ql_offload_before_forward(struct ql_pass *p, uint32_t layer, struct ql_err *e);
int ql_offload_before_backward(struct ql_pass *p, uint32_t layer, struct ql_err *e);
void ql_offload_stop(struct ql_pass *p);
/* End of a slice: at most two are in flight, and waiting inference goes first. */
int ql_pass_slice(struct ql_pass *p, struct ql_err *e);

#endif
