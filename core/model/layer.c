/* layer.c - forward and backward of one transformer layer over the op interface; formulas in pass.h. */
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

/* q|k as attention takes them. */
static struct ql_tensor qk_of(const struct ql_pass *p, const struct acts *a)
{
	const struct ql_model *m = p->m;

	return m->arch.qk_norm ? rows(p, a->qk) : ql_cols(rows(p, a->qkv), 0, m->d_q + m->d_kv);
}

static struct ql_attn attention_args(const struct ql_pass *p, uint32_t l, const struct acts *a)
{
	const struct ql_model *m = p->m;
	struct ql_tensor qk = qk_of(p, a);

	return (struct ql_attn){.q = ql_cols(qk, 0, m->d_q), .k = ql_cols(qk, m->d_q, m->d_kv),
				.v = ql_cols(rows(p, a->qkv), m->d_q + m->d_kv, m->d_kv), .o = rows(p, a->o),
				.lse = p->train ? a->lse : NULL, .n_head = m->arch.num_attention_heads,
				.n_kv = m->arch.num_key_value_heads, .head_dim = m->arch.head_dim, .n_seqs = p->b.n_seqs,
				.cu_seqlens = p->cu, .cu_seqlens_host = p->b.cu_seqlens, .scale = (float)m->arch.attn_scale,
				.softcap = (float)m->arch.attn_softcap, .window = m->layers[l].window};
}

#define RUN(call)                                                                                                              \
	do {                                                                                                                   \
		rc = (call);                                                                                                   \
		if (rc != QL_OK)                                                                                               \
			return rc;                                                                                             \
		(void)ql_gate_yield(p->m->gate);                                                                               \
	} while (0)

static int norm(struct ql_pass *p, struct ql_tensor x, const float *w, struct ql_tensor add, struct ql_tensor y, float *rstd,
		struct ql_err *e)
{
	struct ql_model *m = p->m;

	return m->dev->ops->rmsnorm(m->dev, m->queue, x, w, 0, m->arch.rms_norm_eps, add, y, rstd, e);
}

static int norm_grad(struct ql_pass *p, struct ql_tensor x, const float *w, const float *rstd, struct ql_tensor dy,
		     struct ql_tensor add, struct ql_tensor dx, struct ql_err *e)
{
	struct ql_model *m = p->m;

	return m->dev->ops->rmsnorm_grad(m->dev, m->queue, x, w, 0, rstd, dy, add, dx, e);
}

/* From q|k as the linear gave them to what attention takes: norms of heads, then rope.  q and k lie side by side: one turn for
 * both. */
static int prepare_qk(struct ql_pass *p, uint32_t l, struct acts *a, float *rstd, struct ql_err *e)
{
	struct ql_model *m = p->m;
	const struct ql_device_ops *op = m->dev->ops;
	const struct ql_layer *w = &m->layers[l];
	struct ql_tensor qk = qk_of(p, a);
	int rc;

	if (m->arch.qk_norm)
		RUN(op->rmsnorm(m->dev, m->queue, ql_cols(rows(p, a->qkv), 0, qk.cols), w->qk_norm, m->arch.head_dim,
				m->arch.rms_norm_eps, none, qk, rstd, e));
	if (w->inv_freq != NULL)
		RUN(op->rope(m->dev, m->queue, qk, qk.cols / m->arch.head_dim, m->arch.head_dim, p->positions, w->inv_freq, 1, e));
	return QL_OK;
}

/* The gradient of the same, in place. */
static int prepare_qk_grad(struct ql_pass *p, uint32_t l, const struct acts *a, struct ql_tensor dqk, struct ql_err *e)
{
	struct ql_model *m = p->m;
	const struct ql_device_ops *op = m->dev->ops;
	const struct ql_layer *w = &m->layers[l];
	int rc;

	if (w->inv_freq != NULL)
		RUN(op->rope(m->dev, m->queue, dqk, dqk.cols / m->arch.head_dim, m->arch.head_dim, p->positions, w->inv_freq, -1, e));
	if (m->arch.qk_norm)
		RUN(op->rmsnorm_grad(m->dev, m->queue, ql_cols(rows(p, a->qkv), 0, dqk.cols), w->qk_norm, m->arch.head_dim,
				     a->rstd_qk, dqk, none, dqk, e));
	return QL_OK;
}

/* out = in + W·x, or in + norm(W·x) through t where the architecture has norms there (post).  out.data NULL: everything but the
 * sum (the statistics of the norm are wanted even then; its result goes where the backward pass has room). */
static int add_linear(struct ql_pass *p, uint32_t l, int group, struct ql_tensor x, struct ql_tensor in, const float *post,
		      struct ql_tensor t, float *rstd, struct ql_tensor out, struct ql_err *e)
{
	int rc;

	if (post == NULL)
		return linear(p, l, group, x, out, NULL, in, e);
	RUN(linear(p, l, group, x, t, NULL, none, e));
	RUN(norm(p, t, post, in, out.data != NULL ? out : rows(p, p->dt), rstd, e));
	return QL_OK;
}

static int gate(struct ql_pass *p, struct ql_tensor gu, struct ql_tensor h, struct ql_err *e)
{
	struct ql_model *m = p->m;
	uint32_t f = m->arch.intermediate_size;

	return m->dev->ops->swiglu(m->dev, m->queue, ql_model_act(m), ql_cols(gu, 0, f), ql_cols(gu, f, f), h, e);
}

int ql_layer_forward(struct ql_pass *p, uint32_t l, struct acts *a, struct ql_tensor next, struct ql_err *e)
{
	struct ql_model *m = p->m;
	const struct ql_layer *w = &m->layers[l];
	struct ql_tensor x = rows(p, a->x), x2 = rows(p, a->x2), n1 = rows(p, a->n1), n2 = rows(p, a->n2), gu = rows(p, a->gu),
			 h = rows(p, a->h);
	struct ql_attn at = attention_args(p, l, a);
	int rc;

	RUN(norm(p, x, w->norm1, none, n1, a->rstd1, e));
	RUN(linear(p, l, QL_GROUP_QKV, n1, rows(p, a->qkv), w->bias_qkv, none, e));
	RUN(prepare_qk(p, l, a, a->rstd_qk, e));
	RUN(m->dev->ops->attention(m->dev, m->queue, &at, e));
	RUN(add_linear(p, l, QL_GROUP_O, at.o, x, w->post1, rows(p, a->t1), a->rstd_t1, x2, e));
	RUN(ql_pass_slice(p, e));
	RUN(norm(p, x2, w->norm2, none, n2, a->rstd2, e));
	RUN(linear(p, l, QL_GROUP_GATE_UP, n2, gu, NULL, none, e));
	RUN(gate(p, gu, h, e));
	RUN(add_linear(p, l, QL_GROUP_DOWN, h, x2, w->post2, rows(p, a->t2), a->rstd_t2, rows(p, next), e));
	return ql_pass_slice(p, e);
}

int ql_layer_again(struct ql_pass *p, uint32_t l, struct acts *a, struct ql_err *e)
{
	const struct ql_layer *w = &p->m->layers[l];
	struct ql_tensor n1 = rows(p, a->n1), n2 = rows(p, a->n2), h = rows(p, a->h);
	int rc;

	RUN(norm(p, rows(p, a->x), w->norm1, none, n1, NULL, e));
	RUN(linear(p, l, QL_GROUP_QKV, n1, none, NULL, none, e));
	if (p->m->arch.qk_norm) /* else q|k|v itself was kept, turned */
		RUN(prepare_qk(p, l, a, NULL, e));
	RUN(norm(p, rows(p, a->x2), w->norm2, none, n2, NULL, e));
	RUN(linear(p, l, QL_GROUP_GATE_UP, n2, none, NULL, none, e));
	RUN(gate(p, rows(p, a->gu), h, e));
	RUN(linear(p, l, QL_GROUP_DOWN, h, none, NULL, none, e));
	return QL_OK;
}

/* The gradient of what add_linear added: of t through its norm, or of the sum itself. */
static int added_grad(struct ql_pass *p, struct ql_tensor t, const float *post, const float *rstd, struct ql_tensor *dy,
		      struct ql_err *e)
{
	*dy = rows(p, post != NULL ? p->dt : p->dres);
	return post != NULL ? norm_grad(p, rows(p, t), post, rstd, rows(p, p->dres), none, *dy, e) : QL_OK;
}

int ql_layer_backward(struct ql_pass *p, uint32_t l, struct acts *a, struct ql_err *e)
{
	struct ql_model *m = p->m;
	const struct ql_device_ops *op = m->dev->ops;
	const struct ql_layer *w = &m->layers[l];
	uint32_t f = m->arch.intermediate_size;
	struct ql_tensor dres = rows(p, p->dres), dgu = rows(p, a->gu), dqkv = rows(p, p->dqkv), gu = rows(p, a->gu),
			 dh = rows(p, p->dh), dn = rows(p, p->dn), dy;
	struct ql_attn_grad g = {.f = attention_args(p, l, a), .d_o = rows(p, p->d_o)};
	int rc;

	g.dq = ql_cols(dqkv, 0, m->d_q);
	g.dk = ql_cols(dqkv, m->d_q, m->d_kv);
	g.dv = ql_cols(dqkv, m->d_q + m->d_kv, m->d_kv);
	RUN(added_grad(p, a->t2, w->post2, a->rstd_t2, &dy, e));
	RUN(linear_grad(p, l, QL_GROUP_DOWN, dy, rows(p, a->h), dh, e));
	RUN(op->swiglu_grad(m->dev, m->queue, ql_model_act(m), dh, ql_cols(gu, 0, f), ql_cols(gu, f, f), ql_cols(dgu, 0, f),
			    ql_cols(dgu, f, f), e));
	RUN(linear_grad(p, l, QL_GROUP_GATE_UP, dgu, rows(p, a->n2), dn, e));
	RUN(norm_grad(p, rows(p, a->x2), w->norm2, a->rstd2, dn, dres, dres, e));
	RUN(ql_pass_slice(p, e));
	RUN(added_grad(p, a->t1, w->post1, a->rstd_t1, &dy, e));
	RUN(linear_grad(p, l, QL_GROUP_O, dy, rows(p, a->o), g.d_o, e));
	RUN(op->attention_grad(m->dev, m->queue, &g, e));
	RUN(prepare_qk_grad(p, l, a, ql_cols(dqkv, 0, m->d_q + m->d_kv), e));
	/* below the first layer lies only the frozen embedding */
	RUN(linear_grad(p, l, QL_GROUP_QKV, dqkv, rows(p, a->n1), l > 0 ? dn : none, e));
	if (l > 0)
		RUN(norm_grad(p, rows(p, a->x), w->norm1, a->rstd1, dn, dres, dres, e));
	return ql_pass_slice(p, e);
}
