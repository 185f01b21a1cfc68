/* step.c - see step.h. */
#include "core/model/step.h"

#include <stdlib.h>
#include <string.h>

struct graph_key {
	uint32_t rows, kv_class;
	bool adapters;
};

struct ql_step {
	struct ql_model *m;
	const struct ql_kv *kv;
	const struct ql_lora_table *table;
	uint32_t group_rank[QL_GROUPS], max_chunk, max_rows, max_blocks, max_logits;
	void *arena;
	struct ql_tensor x[2], n, qkv, o, x2, gu, h, hidden, logits;
	int32_t *ints; /* device: every integer input in one piece, uploaded at once */
	int32_t *host; /* the same layout */
	int32_t *ids, *positions, *slots, *q_begin, *kv_len, *blocks, *row_slot;
	int32_t *best; /* device [max_rows]: argmax of each row of logits */
	struct {
		struct graph_key key;
		struct ql_graph *graph;
	} graphs[128];
	uint32_t n_graphs;
};

/* ---- memory ------------------------------------------------------------------------------------------------------------ */

static struct ql_tensor piece(struct ql_step *s, char *base, size_t *at, enum ql_dtype t, uint32_t rows, uint32_t cols,
			      uint32_t ext)
{
	size_t align = s->m->dev->ext_align > 0 ? s->m->dev->ext_align : 1, ld = ((size_t)cols + ext + align - 1) / align * align;
	struct ql_tensor v = ql_view(base == NULL ? NULL : base + *at, t, rows, cols, ld);

	*at += ((size_t)rows * ld * ql_dtypes[t].bytes + 255) & ~(size_t)255;
	return v;
}

static uint32_t max_tokens(const struct ql_step *s) { return s->max_chunk > s->max_rows ? s->max_chunk : s->max_rows; }

static size_t lay_out(struct ql_step *s, char *base)
{
	const struct ql_model *m = s->m;
	enum ql_dtype act = m->dev->act;
	uint32_t T = max_tokens(s), d = m->arch.hidden_size, f = m->arch.intermediate_size;
	uint32_t r_n = s->group_rank[QL_GROUP_QKV] > s->group_rank[QL_GROUP_GATE_UP] ? s->group_rank[QL_GROUP_QKV]
										     : s->group_rank[QL_GROUP_GATE_UP];
	size_t at = 0;

	s->x[0] = piece(s, base, &at, act, T, d, 0);
	s->x[1] = piece(s, base, &at, act, T, d, 0);
	s->x2 = piece(s, base, &at, act, T, d, 0);
	s->hidden = piece(s, base, &at, act, T, d, 0);
	s->n = piece(s, base, &at, act, T, d, r_n);
	s->qkv = piece(s, base, &at, act, T, m->d_q + 2 * m->d_kv, 0);
	s->o = piece(s, base, &at, act, T, m->d_q, s->group_rank[QL_GROUP_O]);
	s->gu = piece(s, base, &at, act, T, 2 * f, 0);
	s->h = piece(s, base, &at, act, T, f, s->group_rank[QL_GROUP_DOWN]);
	s->logits = piece(s, base, &at, QL_F32, s->max_logits, m->arch.vocab_size, 0);
	return at;
}

/* Integers, one after the other: ids, positions, slots, row_slot [T] · q_begin [R+1] · kv_len [R] · blocks [R·B]; then, written by the
 * device, best [R]. */
static size_t int_count(const struct ql_step *s)
{
	return 4 * (size_t)max_tokens(s) + 3 * (size_t)s->max_rows + 1 + (size_t)s->max_rows * s->max_blocks;
}

static void point_ints(struct ql_step *s)
{
	size_t T = max_tokens(s);

	s->ids = s->ints;
	s->positions = s->ids + T;
	s->slots = s->positions + T;
	s->row_slot = s->slots + T;
	s->q_begin = s->row_slot + T;
	s->kv_len = s->q_begin + s->max_rows + 1;
	s->blocks = s->kv_len + s->max_rows;
	s->best = s->blocks + (size_t)s->max_rows * s->max_blocks;
}

int ql_step_new(struct ql_step **out, struct ql_model *m, const struct ql_kv *kv, const struct ql_lora_table *table,
		const uint32_t group_rank[QL_GROUPS], uint32_t max_chunk, uint32_t max_rows, uint32_t max_blocks,
		uint32_t max_logits, struct ql_err *e)
{
	struct ql_step *s = calloc(1, sizeof *s);
	int rc;

	*out = NULL;
	if (s == NULL)
		return ql_err_set(e, QL_ENOMEM, "step");
	s->m = m;
	s->kv = kv;
	s->table = table;
	memcpy(s->group_rank, group_rank, sizeof s->group_rank);
	s->max_chunk = max_chunk;
	s->max_rows = max_rows;
	s->max_blocks = max_blocks;
	s->max_logits = max_logits;
	s->host = calloc(int_count(s), sizeof *s->host);
	if (s->host == NULL) {
		rc = ql_err_set(e, QL_ENOMEM, "step");
		goto fail;
	}
	rc = m->dev->ops->alloc(m->dev, QL_MEM_ACTIVATION, lay_out(s, NULL), &s->arena, e);
	if (rc == QL_OK)
		rc = m->dev->ops->alloc(m->dev, QL_MEM_ACTIVATION, int_count(s) * sizeof *s->ints, (void **)&s->ints, e);
	if (rc != QL_OK)
		goto fail;
	(void)lay_out(s, s->arena);
	point_ints(s);
	*out = s;
	return QL_OK;
fail:
	ql_step_free(s);
	return rc;
}

void ql_step_free(struct ql_step *s)
{
	if (s == NULL)
		return;
	for (uint32_t i = 0; i < s->n_graphs; i++)
		if (s->graphs[i].graph != NULL)
			s->m->dev->ops->graph_free(s->m->dev, s->graphs[i].graph);
	s->m->dev->ops->free(s->m->dev, s->arena);
	s->m->dev->ops->free(s->m->dev, s->ints);
	free(s->host);
	free(s);
}

/* ---- running ------------------------------------------------------------------------------------------------------------ */

/* Copies one input into the host image. */
static void put(struct ql_step *s, const int32_t *device_place, const int32_t *data, size_t n)
{
	memcpy(s->host + (device_place - s->ints), data, n * sizeof *data);
}

static int upload_inputs(struct ql_step *s, const struct ql_step_in *in, struct ql_err *e)
{
	size_t n = in->n_tokens, used = (size_t)(s->blocks - s->ints) + (size_t)in->n_seqs * s->max_blocks;

	put(s, s->ids, in->ids, n);
	put(s, s->positions, in->positions, n);
	put(s, s->slots, in->slots, n);
	if (in->row_slot != NULL)
		put(s, s->row_slot, in->row_slot, n);
	put(s, s->q_begin, in->q_begin, (size_t)in->n_seqs + 1);
	put(s, s->kv_len, in->kv_len, in->n_seqs);
	put(s, s->blocks, in->block_table, (size_t)in->n_seqs * s->max_blocks);
	return s->m->dev->ops->upload(s->m->dev, s->m->queue, s->ints, s->host, used * sizeof *s->ints, e);
}

struct call {
	struct ql_step *s;
	const struct ql_step_in *in;
	uint32_t kv_len_max, q_len_max;
};

static struct ql_tensor rows_of(struct ql_tensor t, uint32_t n)
{
	t.rows = n;
	return t;
}

static int linear(const struct call *c, uint32_t layer, int group, struct ql_tensor x, struct ql_tensor y, const float *bias,
		  const void *residual, size_t ld_residual, struct ql_err *e)
{
	const struct ql_step_in *in = c->in;
	struct ql_model *m = c->s->m;
	struct ql_lora_seg seg = {.row_end = in->n_tokens};
	struct ql_linear a = {.w = m->layers[layer].group[group], .x = x, .y = y, .bias = bias, .residual = residual,
			      .ld_residual = ld_residual};

	if (in->row_slot != NULL && in->any_adapter) {
		a.table = c->s->table;
		a.row_slot = c->s->row_slot;
		a.site0 = layer * QL_MODULES + (uint32_t)ql_groups[group].first;
	} else if (in->lora != NULL) {
		ql_lora_parts(in->lora, layer, group, false, seg.part);
		if (seg.part[0].r + seg.part[1].r + seg.part[2].r > 0) {
			a.segs = &seg;
			a.n_segs = 1;
		}
	}
	return m->dev->ops->linear(m->dev, m->queue, &a, e);
}

/* out = in + W·x, or in + norm(W·x) where the architecture has norms there. */
static int add_linear(const struct call *c, uint32_t l, int group, struct ql_tensor x, struct ql_tensor in, const float *post,
		      struct ql_tensor out, struct ql_err *e)
{
	struct ql_model *m = c->s->m;
	struct ql_tensor t = rows_of(c->s->hidden, c->in->n_tokens); /* free until the last layer is done */
	int rc;

	if (post == NULL)
		return linear(c, l, group, x, out, NULL, in.data, in.ld, e);
	rc = linear(c, l, group, x, t, NULL, NULL, 0, e);
	return rc == QL_OK ? m->dev->ops->rmsnorm(m->dev, m->queue, t, post, 0, m->arch.rms_norm_eps, in, out, NULL, e) : rc;
}

static int layer(const struct call *c, uint32_t l, struct ql_tensor x, struct ql_tensor next, struct ql_err *e)
{
	struct ql_step *s = c->s;
	struct ql_model *m = s->m;
	const struct ql_device_ops *op = m->dev->ops;
	const struct ql_layer *w = &m->layers[l];
	uint32_t T = c->in->n_tokens, f = m->arch.intermediate_size;
	struct ql_tensor n = rows_of(s->n, T), qkv = rows_of(s->qkv, T), gu = rows_of(s->gu, T), h = rows_of(s->h, T),
			 x2 = rows_of(s->x2, T), q = ql_cols(qkv, 0, m->d_q), k = ql_cols(qkv, m->d_q, m->d_kv),
			 v = ql_cols(qkv, m->d_q + m->d_kv, m->d_kv);
	struct ql_paged_attn at = {.q = q, .o = rows_of(s->o, T), .k_cache = s->kv->k[l], .v_cache = s->kv->v[l],
				   .n_head = m->arch.num_attention_heads, .n_kv = m->arch.num_key_value_heads,
				   .head_dim = m->arch.head_dim, .block_tokens = QL_KV_BLOCK, .n_seqs = c->in->n_seqs,
				   .max_blocks = s->max_blocks, .q_begin = s->q_begin, .kv_len = s->kv_len,
				   .block_table = s->blocks, .q_len_max = c->q_len_max, .kv_len_max = c->kv_len_max,
				   .scale = (float)m->arch.attn_scale, .softcap = (float)m->arch.attn_softcap,
				   .window = w->window};
	struct ql_tensor none = {0}, qk = ql_cols(qkv, 0, m->d_q + m->d_kv);
	float eps = m->arch.rms_norm_eps;
	int rc = op->rmsnorm(m->dev, m->queue, x, w->norm1, 0, eps, none, n, NULL, e);

	if (rc == QL_OK)
		rc = linear(c, l, QL_GROUP_QKV, n, qkv, w->bias_qkv, NULL, 0, e);
	if (rc == QL_OK && m->arch.qk_norm) /* q and k lie side by side: one turn for both */
		rc = op->rmsnorm(m->dev, m->queue, qk, w->qk_norm, at.head_dim, eps, none, qk, NULL, e);
	if (rc == QL_OK && w->inv_freq != NULL)
		rc = op->rope(m->dev, m->queue, qk, at.n_head + at.n_kv, at.head_dim, s->positions, w->inv_freq, 1, e);
	if (rc == QL_OK)
		rc = op->kv_write(m->dev, m->queue, k, v, s->slots, at.k_cache, at.v_cache, e);
	if (rc == QL_OK)
		rc = op->paged_attention(m->dev, m->queue, &at, e);
	if (rc == QL_OK)
		rc = add_linear(c, l, QL_GROUP_O, at.o, x, w->post1, x2, e);
	if (rc == QL_OK)
		rc = op->rmsnorm(m->dev, m->queue, x2, w->norm2, 0, eps, none, n, NULL, e);
	if (rc == QL_OK)
		rc = linear(c, l, QL_GROUP_GATE_UP, n, gu, NULL, NULL, 0, e);
	if (rc == QL_OK)
		rc = op->swiglu(m->dev, m->queue, ql_model_act(m), ql_cols(gu, 0, f), ql_cols(gu, f, f), h, e);
	if (rc == QL_OK)
		rc = add_linear(c, l, QL_GROUP_DOWN, h, x2, w->post2, next, e);
	return rc;
}

static int enqueue(const struct call *c, struct ql_err *e)
{
	struct ql_step *s = c->s;
	struct ql_model *m = s->m;
	const struct ql_device_ops *op = m->dev->ops;
	uint32_t T = c->in->n_tokens, L = m->arch.num_hidden_layers;
	struct ql_tensor x = rows_of(s->x[0], T), next = rows_of(s->x[1], T), hidden, none = {0};
	struct ql_linear head = {.w = m->head};
	int rc = op->embed(m->dev, m->queue, m->embed, s->ids, m->embed_scale, x, e);

	for (uint32_t l = 0; rc == QL_OK && l < L; l++) {
		struct ql_tensor t = x;

		rc = layer(c, l, x, next, e);
		x = next;
		next = t;
	}
	if (rc != QL_OK || c->in->logits_count == 0)
		return rc;
	x.data = (char *)x.data + (size_t)c->in->logits_begin * x.ld * ql_dtypes[x.dtype].bytes;
	x.rows = c->in->logits_count;
	hidden = rows_of(s->hidden, c->in->logits_count);
	rc = op->rmsnorm(m->dev, m->queue, x, m->norm, 0, m->arch.rms_norm_eps, none, hidden, NULL, e);
	head.x = hidden;
	head.y = rows_of(s->logits, c->in->logits_count);
	if (rc == QL_OK)
		rc = op->linear(m->dev, m->queue, &head, e);
	return rc == QL_OK && m->arch.logit_softcap > 0
		       ? op->softcap(m->dev, m->queue, head.y, (float)m->arch.logit_softcap, e)
		       : rc;
}

static int record(struct call *c, struct ql_graph **out, struct ql_err *e)
{
	struct ql_step *s = c->s;
	const struct ql_device_ops *op = s->m->dev->ops;
	int rc = op->graph_begin(s->m->dev, s->m->queue, e);

	if (rc != QL_OK)
		return rc;
	rc = enqueue(c, e);
	if (rc != QL_OK) {
		struct ql_graph *g = NULL;

		if (op->graph_end(s->m->dev, s->m->queue, &g, NULL) == QL_OK)
			op->graph_free(s->m->dev, g);
		return rc;
	}
	return op->graph_end(s->m->dev, s->m->queue, out, e);
}

/* Decode on a device with graphs.  A form met for the first time runs as it is (its ops may still grow their scratch), the second
 * time it is recorded, from then on replayed. */
static int replay(struct call *c, struct ql_err *e)
{
	struct ql_step *s = c->s;
	const struct ql_device_ops *op = s->m->dev->ops;
	struct graph_key key = {c->in->n_tokens, 256, c->in->any_adapter};
	uint32_t i = 0;
	int rc;

	while (key.kv_class < c->kv_len_max)
		key.kv_class *= 2;
	c->kv_len_max = key.kv_class;
	while (i < s->n_graphs && (s->graphs[i].key.rows != key.rows || s->graphs[i].key.kv_class != key.kv_class ||
				   s->graphs[i].key.adapters != key.adapters))
		i++;
	if (i == s->n_graphs) {
		if (s->n_graphs < sizeof s->graphs / sizeof s->graphs[0])
			s->graphs[s->n_graphs++].key = key;
		return enqueue(c, e);
	}
	if (s->graphs[i].graph == NULL) {
		rc = record(c, &s->graphs[i].graph, e);
		if (rc != QL_OK)
			return rc;
	}
	return op->graph_run(s->m->dev, s->m->queue, s->graphs[i].graph, e);
}

/* Enqueues the step; its logits are in s->logits. */
static int start(struct ql_step *s, const struct ql_step_in *in, struct ql_err *e)
{
	const struct ql_device_ops *op = s->m->dev->ops;
	struct call c = {s, in, 0, 0};
	int rc;

	if (in->n_tokens == 0 || in->n_tokens > (in->row_slot != NULL ? s->max_rows : max_tokens(s)) ||
	    in->n_seqs > s->max_rows || in->n_seqs > in->n_tokens || in->logits_count > s->max_logits ||
	    (uint64_t)in->logits_begin + in->logits_count > in->n_tokens)
		return ql_err_set(e, QL_ESHAPE, "a step of %u tokens, %u sequences, %u logits does not fit", in->n_tokens,
				  in->n_seqs, in->logits_count);
	for (uint32_t i = 0; i < in->n_seqs; i++) {
		uint32_t q = (uint32_t)(in->q_begin[i + 1] - in->q_begin[i]), kv = (uint32_t)in->kv_len[i];

		c.q_len_max = q > c.q_len_max ? q : c.q_len_max;
		c.kv_len_max = kv > c.kv_len_max ? kv : c.kv_len_max;
	}
	rc = upload_inputs(s, in, e);
	if (rc != QL_OK)
		return rc;
	if (in->row_slot != NULL && op->graph_begin != NULL && in->logits_begin == 0 && in->logits_count == in->n_tokens)
		return replay(&c, e);
	return enqueue(&c, e);
}

/* Rows may be padded on the device. */
static int fetch_row(struct ql_step *s, uint32_t i, float *logits, struct ql_err *e)
{
	size_t vocab = s->m->arch.vocab_size;

	return s->m->dev->ops->download(s->m->dev, s->m->queue, logits + i * vocab, (float *)s->logits.data + i * s->logits.ld,
					vocab * 4, e);
}

int ql_step_run(struct ql_step *s, const struct ql_step_in *in, float *logits, struct ql_err *e)
{
	int rc = start(s, in, e);

	for (uint32_t i = 0; rc == QL_OK && i < in->logits_count; i++)
		rc = fetch_row(s, i, logits, e);
	return rc == QL_OK ? s->m->dev->ops->sync(s->m->dev, s->m->queue, e) : rc;
}

int ql_step_run_argmax(struct ql_step *s, const struct ql_step_in *in, int32_t *argmax, const bool *wanted, float *logits,
		       struct ql_err *e)
{
	const struct ql_device_ops *op = s->m->dev->ops;
	int rc = in->logits_count <= s->max_rows ? start(s, in, e) : ql_err_set(e, QL_ESHAPE, "%u rows", in->logits_count);

	if (rc == QL_OK && in->logits_count > 0)
		rc = op->argmax(s->m->dev, s->m->queue, rows_of(s->logits, in->logits_count), s->best, e);
	if (rc == QL_OK && in->logits_count > 0)
		rc = op->download(s->m->dev, s->m->queue, argmax, s->best, (size_t)in->logits_count * sizeof *argmax, e);
	for (uint32_t i = 0; rc == QL_OK && i < in->logits_count; i++)
		if (wanted[i])
			rc = fetch_row(s, i, logits, e);
	return rc == QL_OK ? op->sync(s->m->dev, s->m->queue, e) : rc;
}
