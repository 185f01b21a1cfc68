/* layer.c - forward and backward of one transformer layer over the op interface; formulas in pass.h. */
#include <math.h>

#include "core/model/pass_priv.h"

/* The adapter segment of a group: the whole batch uses one adapter.  Returns the number of segments (0 or 1). */
static uint32_t segment(const struct ql_pass *p, uint32_t layer, int group, bool with_grads, struct ql_lora_seg *s)
{
	bool any = false;

	if (p->lora == NULL)
		return 0;
	*s = (struct ql_lora_seg){.row_end = p->b.n_tokens};
	ql_lora_parts(p->lora, layer, group, with_grads, s->part);
	for (int i = 0; i < QL_PARTS_MAX; i++) {
		any |= s->part[i].r > 0;
		s->site[i] = 16 * layer + (uint32_t)(ql_groups[group].first + i);
	}
	if (p->drop != NULL && p->drop->p > 0) {
		s->dropout = p->drop->p;
		s->seed = p->drop->seed;
		s->token_base = p->drop->token_base;
		s->step = p->drop->step;
	}
	return any ? 1 : 0;
}

static int linear(struct ql_pass *p, uint32_t layer, int group, struct ql_tensor x, struct ql_tensor y, const float *bias,
		  struct ql_tensor residual, struct ql_err *e)
{
	struct ql_device *d = p->m->dev;
	struct ql_lora_seg seg;
	struct ql_linear a = {.w = p->m->layers[layer].group[group], .x = x, .y = y, .bias = bias, .residual = residual.data,
			      .ld_residual = residual.ld};

	a.n_segs = segment(p, layer, group, false, &seg);
	a.segs = &seg;
	if (y.data == NULL && a.n_segs == 0)
		return QL_OK; /* no S columns to make */
	return d->ops->linear(d, p->m->queue, &a, e);
}

static int linear_grad(struct ql_pass *p, uint32_t layer, int group, struct ql_tensor dy, struct ql_tensor x,
		       struct ql_tensor dx, struct ql_err *e)
{
	struct ql_device *d = p->m->dev;
	struct ql_lora_seg seg;
	struct ql_linear_grad a = {.w = p->m->layers[layer].group[group], .dy = dy, .x = x, .dx = dx};

	a.n_segs = segment(p, layer, group, true, &seg);
	a.segs = &seg;
	if (dx.data == NULL && a.n_segs == 0)
		return QL_OK;
	return d->ops->linear_grad(d, p->m->queue, &a, e);
}

static const struct ql_tensor none = {0};

/* Views of the batch's rows. */
static struct ql_tensor rows(const struct ql_pass *p, struct ql_tensor t)
{
	t.rows = p->b.n_tokens;
	return t;
}

static struct ql_attn attention_args(const struct ql_pass *p, const struct acts *a)
{
	const struct ql_model *m = p->m;
	struct ql_tensor qkv = rows(p, a->qkv);

	return (struct ql_attn){.q = ql_cols(qkv, 0, m->d_q), .k = ql_cols(qkv, m->d_q, m->d_kv),
				.v = ql_cols(qkv, m->d_q + m->d_kv, m->d_kv), .o = rows(p, a->o), .lse = p->train ? a->lse : NULL,
				.n_head = m->arch.num_attention_heads, .n_kv = m->arch.num_key_value_heads,
				.head_dim = m->arch.head_dim, .n_seqs = p->b.n_seqs, .cu_seqlens = p->cu,
				.cu_seqlens_host = p->b.cu_seqlens,
				.scale = (float)(1.0 / sqrt((double)m->arch.head_dim))};
}

#define RUN(call)                                                                                                              \
	do {                                                                                                                   \
		rc = (call);                                                                                                   \
		if (rc != QL_OK)                                                                                               \
			return rc;                                                                                             \
		(void)ql_gate_yield(p->m->gate);                                                                               \
	} while (0)

int ql_layer_forward(struct ql_pass *p, uint32_t l, struct acts *a, struct ql_tensor next, struct ql_err *e)
{
	struct ql_model *m = p->m;
	const struct ql_device_ops *op = m->dev->ops;
	const struct ql_layer *w = &m->layers[l];
	uint32_t f = m->arch.intermediate_size;
	struct ql_tensor x = rows(p, a->x), x2 = rows(p, a->x2), n1 = rows(p, a->n1), n2 = rows(p, a->n2), gu = rows(p, a->gu),
			 h = rows(p, a->h), qkv = rows(p, a->qkv);
	struct ql_attn at = attention_args(p, a);
	int rc;

	RUN(op->rmsnorm(m->dev, m->queue, x, w->norm1, m->arch.rms_norm_eps, n1, a->rstd1, e));
	RUN(linear(p, l, QL_GROUP_QKV, n1, qkv, w->bias_qkv, none, e));
	/* q and k lie side by side: one turn for both */
	RUN(op->rope(m->dev, m->queue, ql_cols(qkv, 0, m->d_q + m->d_kv), at.n_head + at.n_kv, at.head_dim, p->positions, m->inv_freq, 1, e));
	RUN(op->attention(m->dev, m->queue, &at, e));
	RUN(linear(p, l, QL_GROUP_O, at.o, x2, NULL, x, e));
	RUN(ql_pass_slice(p, e));
	RUN(op->rmsnorm(m->dev, m->queue, x2, w->norm2, m->arch.rms_norm_eps, n2, a->rstd2, e));
	RUN(linear(p, l, QL_GROUP_GATE_UP, n2, gu, NULL, none, e));
	RUN(op->swiglu(m->dev, m->queue, ql_cols(gu, 0, f), ql_cols(gu, f, f), h, e));
	RUN(linear(p, l, QL_GROUP_DOWN, h, rows(p, next), NULL, x2, e));
	return ql_pass_slice(p, e);
}

int ql_layer_again(struct ql_pass *p, uint32_t l, struct acts *a, struct ql_err *e)
{
	struct ql_model *m = p->m;
	const struct ql_device_ops *op = m->dev->ops;
	const struct ql_layer *w = &m->layers[l];
	uint32_t f = m->arch.intermediate_size;
	struct ql_tensor n1 = rows(p, a->n1), n2 = rows(p, a->n2), gu = rows(p, a->gu), h = rows(p, a->h);
	int rc;

	RUN(op->rmsnorm(m->dev, m->queue, rows(p, a->x), w->norm1, m->arch.rms_norm_eps, n1, NULL, e));
	RUN(linear(p, l, QL_GROUP_QKV, n1, none, NULL, none, e));
	RUN(op->rmsnorm(m->dev, m->queue, rows(p, a->x2), w->norm2, m->arch.rms_norm_eps, n2, NULL, e));
	RUN(linear(p, l, QL_GROUP_GATE_UP, n2, none, NULL, none, e));
	RUN(op->swiglu(m->dev, m->queue, ql_cols(gu, 0, f), ql_cols(gu, f, f), h, e));
	RUN(linear(p, l, QL_GROUP_DOWN, h, none, NULL, none, e));
	return QL_OK;
}

int ql_layer_backward(struct ql_pass *p, uint32_t l, struct acts *a, struct ql_err *e)
{
	struct ql_model *m = p->m;
	const struct ql_device_ops *op = m->dev->ops;
	const struct ql_layer *w = &m->layers[l];
	uint32_t f = m->arch.intermediate_size;
	struct ql_tensor dres = rows(p, p->dres), dgu = rows(p, a->gu), dqkv = rows(p, p->dqkv), gu = rows(p, a->gu),
			 dh = rows(p, p->dh), dn = rows(p, p->dn), d_o = rows(p, p->d_o);
	struct ql_attn_grad g = {.f = attention_args(p, a), .d_o = d_o};
	int rc;

	g.dq = ql_cols(dqkv, 0, m->d_q);
	g.dk = ql_cols(dqkv, m->d_q, m->d_kv);
	g.dv = ql_cols(dqkv, m->d_q + m->d_kv, m->d_kv);
	RUN(linear_grad(p, l, QL_GROUP_DOWN, dres, rows(p, a->h), dh, e));
	RUN(op->swiglu_grad(m->dev, m->queue, dh, ql_cols(gu, 0, f), ql_cols(gu, f, f), ql_cols(dgu, 0, f), ql_cols(dgu, f, f),
			    e));
	RUN(linear_grad(p, l, QL_GROUP_GATE_UP, dgu, rows(p, a->n2), dn, e));
	RUN(op->rmsnorm_grad(m->dev, m->queue, rows(p, a->x2), w->norm2, a->rstd2, dn, dres, dres, e));
	RUN(ql_pass_slice(p, e));
	RUN(linear_grad(p, l, QL_GROUP_O, dres, rows(p, a->o), d_o, e));
	RUN(op->attention_grad(m->dev, m->queue, &g, e));
	RUN(op->rope(m->dev, m->queue, ql_cols(dqkv, 0, m->d_q + m->d_kv), g.f.n_head + g.f.n_kv, g.f.head_dim, p->positions, m->inv_freq, -1,
		     e));
	/* below the first layer lies only the frozen embedding */
	RUN(linear_grad(p, l, QL_GROUP_QKV, dqkv, rows(p, a->n1), l > 0 ? dn : none, e));
	if (l > 0)
		RUN(op->rmsnorm_grad(m->dev, m->queue, rows(p, a->x), w->norm1, a->rstd1, dn, dres, dres, e));
	return ql_pass_slice(p, e);
}
