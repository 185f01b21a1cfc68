/* pass_mem.c - the memory of a pass: what each layer keeps, what layers share, what lies on what; see pass.h. */
#include <stdlib.h>
#include <string.h>

#include "core/model/pass_priv.h"

/* One arena: the same walk counts bytes (base NULL) and hands out pieces. */
struct cursor {
	char *base;
	uint64_t at;
};

static void *take(struct cursor *c, uint64_t bytes)
{
	void *p = c->base == NULL ? NULL : c->base + c->at;

	c->at += (bytes + 255) & ~(uint64_t)255;
	return p;
}

static struct ql_tensor take_tensor(struct cursor *c, const struct ql_model *m, uint32_t rows, uint32_t cols, uint32_t ext)
{
	size_t align = m->dev->ext_align > 0 ? m->dev->ext_align : 1, ld = ((size_t)cols + ext + align - 1) / align * align;

	return ql_view(take(c, (uint64_t)rows * ld * ql_dtypes[m->dev->act].bytes), m->dev->act, rows, cols, ld);
}

enum { A_X = 1, A_NORMS = 2, A_MAIN = 4 };

/* what: A_X the input; A_NORMS n1, n2, normed q|k and, last, h; A_MAIN qkv, o, x2, gu, what post norms take, and the statistics. */
static void take_acts(struct cursor *c, const struct ql_pass *p, struct acts *a, unsigned what)
{
	const struct ql_model *m = p->m;
	uint32_t T = p->max_tokens, d = m->arch.hidden_size, f = m->arch.intermediate_size;

	if (what & A_X)
		a->x = take_tensor(c, m, T, d, 0);
	if (what & A_NORMS) {
		a->n1 = take_tensor(c, m, T, d, p->group_rank[QL_GROUP_QKV]);
		a->n2 = take_tensor(c, m, T, d, p->group_rank[QL_GROUP_GATE_UP]);
		if (m->arch.qk_norm)
			a->qk = take_tensor(c, m, T, m->d_q + m->d_kv, 0);
	}
	if (what & A_MAIN) {
		a->qkv = take_tensor(c, m, T, m->d_q + 2 * m->d_kv, 0);
		a->o = take_tensor(c, m, T, m->d_q, p->group_rank[QL_GROUP_O]);
		a->x2 = take_tensor(c, m, T, d, 0);
		a->gu = take_tensor(c, m, T, 2 * f, p->group_rank[QL_GROUP_GATE_UP]); /* columns of its gradient */
		a->lse = take(c, (uint64_t)T * m->arch.num_attention_heads * 4);
		a->rstd1 = take(c, (uint64_t)T * 4);
		a->rstd2 = take(c, (uint64_t)T * 4);
		if (m->arch.post_norms) {
			a->t1 = take_tensor(c, m, T, d, 0);
			a->t2 = take_tensor(c, m, T, d, 0);
			a->rstd_t1 = take(c, (uint64_t)T * 4);
			a->rstd_t2 = take(c, (uint64_t)T * 4);
		}
		if (m->arch.qk_norm)
			a->rstd_qk = take(c, (uint64_t)T * (m->arch.num_attention_heads + m->arch.num_key_value_heads) * 4);
	}
	if (what & A_NORMS)
		a->h = take_tensor(c, m, T, f, p->group_rank[QL_GROUP_DOWN]);
}

/* What a layer has for itself (its x: or in turn with others, take_stages); the rest is in the shared set. */
static unsigned owned_by(const struct ql_pass *p, uint32_t layer)
{
	static const unsigned own[QL_KEEPS] = {A_X | A_NORMS | A_MAIN, A_X | A_MAIN, A_X, A_X};

	return p->train ? own[ql_pass_keeps(p, layer)] : 0;
}

/* In the order of a layer's backward: dh lives until d(gate|up) is made; then dn, then d_o, then dqkv beside d_o, then dqkv
 * beside dn.  The last hidden states are read before any of them is written.  A shared h ends where dh begins, in one op, and is the
 * last piece of the shared set: dh lies on it, and the others in its place. */
static void take_gradients(struct cursor *c, struct ql_pass *p, bool shared_h)
{
	const struct ql_model *m = p->m;
	uint32_t T = p->max_tokens, d = m->arch.hidden_size, f = m->arch.intermediate_size;
	struct cursor start = *c, late;

	if (shared_h) {
		p->dh = p->spare.h;
		start.at -= ((uint64_t)T * p->spare.h.ld * ql_dtypes[m->dev->act].bytes + 255) & ~(uint64_t)255;
	} else {
		p->dh = take_tensor(c, m, T, f, 0);
	}
	late = start;
	p->hidden = take_tensor(&late, m, T, d, 0);
	c->at = late.at > c->at ? late.at : c->at;
	late = start;
	p->dqkv = take_tensor(&late, m, T, m->d_q + 2 * m->d_kv, p->group_rank[QL_GROUP_QKV]);
	start = late;
	p->dn = take_tensor(&late, m, T, d, 0);
	c->at = late.at > c->at ? late.at : c->at;
	p->d_o = take_tensor(&start, m, T, m->d_q, 0);
	c->at = start.at > c->at ? start.at : c->at;
}

/* Two buffers for the inputs of all layers that leave theirs on the host. */
static void take_stages(struct cursor *c, struct ql_pass *p)
{
	struct offload *o = &p->off;
	uint32_t T = p->max_tokens, d = p->m->arch.hidden_size, n = p->keep.host;

	o->first = p->keep.all + p->keep.main;
	o->sent = n > 2 ? n - 2 : 0;
	for (uint32_t i = 0; i < 2 && i < n; i++)
		o->stage[i] = take_tensor(c, p->m, T, d, 0);
	o->slot = ((uint64_t)T * o->stage[0].ld * ql_dtypes[p->m->dev->act].bytes + 255) & ~(uint64_t)255;
	for (uint32_t i = 0; i < n; i++)
		p->layers[o->first + i].x = o->stage[i % 2];
}

static uint64_t lay_out(struct ql_pass *p, char *base)
{
	const struct ql_model *m = p->m;
	struct cursor c = {base, 0};
	uint32_t T = p->max_tokens, d = m->arch.hidden_size, L = m->arch.num_hidden_layers;
	uint32_t r_o = p->group_rank[QL_GROUP_O], r_down = p->group_rank[QL_GROUP_DOWN];
	unsigned always = p->train ? A_X | A_NORMS | A_MAIN : 0; /* what no layer needs from the shared set */

	for (uint32_t l = 0; l < L; l++)
		always &= owned_by(p, l);
	take_acts(&c, p, &p->spare, (A_X | A_NORMS | A_MAIN) & ~always);
	if (p->train) {
		take_gradients(&c, p, (always & A_NORMS) == 0);
		p->dres = take_tensor(&c, m, T, d, r_o > r_down ? r_o : r_down);
		if (m->arch.post_norms)
			p->dt = take_tensor(&c, m, T, d, r_o > r_down ? r_o : r_down);
	}
	for (uint32_t l = 0; l < L; l++) {
		p->layers[l] = p->spare;
		take_acts(&c, p, &p->layers[l], ql_pass_keeps(p, l) == QL_KEEP_HOST ? 0 : owned_by(p, l));
	}
	if (p->train)
		take_stages(&c, p);
	if (p->train && (always & A_NORMS) == 0)
		p->x_last = p->spare.n1; /* read for the last time before a layer is run again */
	else
		p->x_last = take_tensor(&c, m, T, d, 0);
	if (!p->train)
		p->hidden = take_tensor(&c, m, T, d, 0);
	p->rstd_last = take(&c, (uint64_t)T * 4);
	p->ids = take(&c, (uint64_t)T * 4);
	p->positions = take(&c, (uint64_t)T * 4);
	p->cu = take(&c, ((uint64_t)T + 1) * 4);
	p->rows = take(&c, (uint64_t)T * 4);
	p->labels = take(&c, (uint64_t)T * 4);
	p->argmax = take(&c, (uint64_t)T * 4);
	p->nll = take(&c, (uint64_t)T * 4);
	return c.at;
}

static void describe(struct ql_pass *p, struct ql_model *m, const uint32_t group_rank[QL_GROUPS], uint32_t max_tokens,
		     struct ql_keep_mix keep, bool train)
{
	p->m = m;
	uint32_t L = m->arch.num_hidden_layers;

	p->max_tokens = max_tokens;
	p->keep.all = keep.all < L ? keep.all : L;
	p->keep.main = keep.main < L - p->keep.all ? keep.main : L - p->keep.all;
	p->keep.host = keep.host < L - p->keep.all - p->keep.main ? keep.host : L - p->keep.all - p->keep.main;
	p->train = train;
	memcpy(p->group_rank, group_rank, sizeof p->group_rank);
}

/* Of device memory, and into *host, unless NULL, of the host's. */
static uint64_t count_bytes(const struct ql_model *m, const uint32_t group_rank[QL_GROUPS], uint32_t max_tokens, struct ql_keep_mix keep,
			    uint64_t *host)
{
	struct ql_pass p = {0};
	uint64_t bytes;

	describe(&p, (struct ql_model *)(uintptr_t)m, group_rank, max_tokens, keep, true);
	p.layers = calloc(m->arch.num_hidden_layers, sizeof *p.layers);
	if (p.layers == NULL)
		return UINT64_MAX;
	bytes = lay_out(&p, NULL);
	if (host != NULL)
		*host = ql_offload_host_bytes(&p);
	free(p.layers);
	return bytes;
}

uint64_t ql_pass_bytes(const struct ql_model *m, const uint32_t group_rank[QL_GROUPS], uint32_t max_tokens, struct ql_keep_mix keep)
{
	return count_bytes(m, group_rank, max_tokens, keep, NULL);
}

uint64_t ql_pass_host_bytes(const struct ql_model *m, uint32_t max_tokens, struct ql_keep_mix keep)
{
	static const uint32_t no_rank[QL_GROUPS];
	uint64_t host = UINT64_MAX;

	(void)count_bytes(m, no_rank, max_tokens, keep, &host);
	return host;
}

static int make(struct ql_pass **out, struct ql_model *m, const uint32_t group_rank[QL_GROUPS], uint32_t max_tokens,
		struct ql_keep_mix keep, bool train, struct ql_err *e)
{
	struct ql_pass *p = calloc(1, sizeof *p);
	int rc;

	*out = NULL;
	if (p == NULL)
		return ql_err_set(e, QL_ENOMEM, "pass");
	describe(p, m, group_rank, max_tokens, keep, train);
	p->layers = calloc(m->arch.num_hidden_layers, sizeof *p->layers);
	p->loss_rows = calloc(max_tokens, sizeof *p->loss_rows);
	if (p->layers == NULL || p->loss_rows == NULL) {
		rc = ql_err_set(e, QL_ENOMEM, "pass");
		goto fail;
	}
	rc = m->dev->ops->alloc(m->dev, QL_MEM_ACTIVATION, (size_t)lay_out(p, NULL), &p->arena, e);
	if (rc != QL_OK)
		goto fail;
	(void)lay_out(p, p->arena);
	rc = ql_offload_open(p, e);
	if (rc != QL_OK)
		goto fail;
	*out = p;
	return QL_OK;
fail:
	ql_pass_free(p);
	return rc;
}

int ql_pass_new_mixed(struct ql_pass **out, struct ql_model *m, const uint32_t group_rank[QL_GROUPS], uint32_t max_tokens,
		      struct ql_keep_mix keep, struct ql_err *e)
{
	return make(out, m, group_rank, max_tokens, keep, true, e);
}

int ql_pass_new(struct ql_pass **out, struct ql_model *m, const uint32_t group_rank[QL_GROUPS], uint32_t max_tokens,
		enum ql_keep keep, bool train, struct ql_err *e)
{
	uint32_t L = m->arch.num_hidden_layers;
	struct ql_keep_mix mix = {keep == QL_KEEP_ALL ? L : 0, keep == QL_KEEP_MAIN ? L : 0, keep == QL_KEEP_HOST ? L : 0};

	return make(out, m, group_rank, max_tokens, mix, train, e);
}

void ql_pass_free(struct ql_pass *p)
{
	if (p == NULL)
		return;
	for (int i = 0; i < 2; i++)
		if (p->slice[i] != NULL)
			p->m->dev->ops->event_free(p->m->dev, p->slice[i]);
	ql_offload_close(p);
	p->m->dev->ops->free(p->m->dev, p->arena);
	free(p->layers);
	free(p->loss_rows);
	free(p);
}
