/* step.h - one inference pass: new tokens of some sequences, attending to what is cached of each.
 *
 * The cache is paged: a pool of blocks of QL_KV_BLOCK tokens for all layers; token t of a sequence is in its block t / QL_KV_BLOCK.
 * A call is either a chunk of one sequence's prompt (adapter known on the host) or one token of each of several sequences, each
 * with its own adapter slot (-1 = base).  Both give logits for the rows asked for.  On devices with graphs the second form is
 * recorded once per (rows, length class, adapters or not) and replayed. */
#ifndef QL_MODEL_STEP_H
#define QL_MODEL_STEP_H

#include "core/model/lora.h"

#define QL_KV_BLOCK 16

struct ql_kv {
	uint32_t n_blocks;
	struct ql_tensor *k, *v; /* [layers], act [n_blocks·QL_KV_BLOCK, d_kv] */
	void *arena;
};

/* A pool of n_blocks blocks. */
int ql_kv_new(struct ql_kv *kv, struct ql_model *m, uint32_t n_blocks, struct ql_err *e);
void ql_kv_free(struct ql_kv *kv, struct ql_model *m);
uint64_t ql_kv_block_bytes(const struct ql_model *m);

struct ql_step;

struct ql_step_in { /* host arrays */
	uint32_t n_tokens, n_seqs;
	const int32_t *ids, *positions, *slots; /* [n_tokens]; slots: block·QL_KV_BLOCK + t % QL_KV_BLOCK */
	const int32_t *q_begin, *kv_len;	/* [n_seqs + 1], [n_seqs]: cached tokens, the new ones included */
	const int32_t *block_table;		/* [n_seqs, max_blocks] of the step */
	const struct ql_lora_set *lora;		/* chunk: the adapter or NULL */
	const int32_t *row_slot;		/* decode: adapter slot per row; NULL for a chunk */
	bool any_adapter;			/* decode: some row_slot ≥ 0 */
	uint32_t logits_begin, logits_count;	/* rows whose logits are wanted */
};

/* max_chunk: tokens of a prompt chunk; max_rows: sequences decoded together; max_blocks: blocks of one sequence;
 * max_logits: rows of logits in one call; group_rank: largest Σ r of adapters; table may be NULL. */
int ql_step_new(struct ql_step **out, struct ql_model *m, const struct ql_kv *kv, const struct ql_lora_table *table,
		const uint32_t group_rank[QL_GROUPS], uint32_t max_chunk, uint32_t max_rows, uint32_t max_blocks,
		uint32_t max_logits, struct ql_err *e);
void ql_step_free(struct ql_step *s);
/* Logits f32 [logits_count, vocab] to the host.  The caller is inside the gate. */
int ql_step_run(struct ql_step *s, const struct ql_step_in *in, float *logits, struct ql_err *e);
/* The same, but of row i (of logits_count ≤ max_rows) only the lowest id of its largest logit, argmax[i]; and its logits to
 * logits + i·vocab if wanted[i].  A row of 128256 logits takes longer to bring to the host than a small model's step. */
int ql_step_run_argmax(struct ql_step *s, const struct ql_step_in *in, int32_t *argmax, const bool *wanted, float *logits,
		       struct ql_err *e);

#endif
