/* out_st.c - tensors into one safetensors file; 4-bit ones in bitsandbytes' key layout.
 * The file's order (wide types first) puts the scales of all tensors before the codes, and the size of a tensor's JSON state
 * must be known before anything is written.  So scales are made in a first pass and kept (1/64 of the weights, nested), codes
 * in a second one; quantising is deterministic, so the two agree. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/quant/blk.h"
#include "tools/priv.h"

enum { WEIGHT, ABSMAX, MAP, NESTED_ABSMAX, NESTED_MAP, STATE, PARTS };
static const char *const suffixes[PARTS] = {"", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map",
					    ".quant_state.bitsandbytes__"};

struct item {
	const struct ql_tset_tensor *t;
	bool four_bit;
	enum ql_dtype to; /* plain */
	struct ql_q4 q;	  /* without codes; the scales are ours */
	char state[512];
};
struct entry {
	size_t item;
	int part;
	char *name;
};
struct plan {
	struct item *items;
	struct entry *entries;
	struct ql_st_spec *specs;
	size_t n_items, n;
};

/* Keeps copies of the scales only. */
static int keep_scales(struct item *it, struct ql_q4 *q, struct ql_err *e)
{
	size_t m = ql_q4_blocks(q), nn = ql_q4_nested_blocks(q), floats = q->nested ? nn : m;
	uint8_t *p = malloc(floats * 4 + (q->nested ? m : 0));

	if (p == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for the scales of a tensor");
	memcpy(p, q->nested ? q->nested_absmax : q->absmax, floats * 4);
	if (q->nested)
		memcpy(p + floats * 4, q->absmax_q, m);
	it->q = *q;
	it->q.owned = p;
	it->q.codes = NULL;
	it->q.absmax = q->nested ? NULL : (float *)(void *)p;
	it->q.nested_absmax = q->nested ? (float *)(void *)p : NULL;
	it->q.absmax_q = q->nested ? p + floats * 4 : NULL;
	return QL_OK;
}

static void make_state(struct item *it)
{
	const struct ql_q4 *q = &it->q;
	size_t at, room = sizeof it->state;
	char *s = it->state;

	at = (size_t)snprintf(s, room, "{\"quant_type\":\"%s\",\"blocksize\":%u,\"dtype\":\"%s\",\"shape\":[",
			      ql_dtype_name(q->kind), q->blocksize,
			      it->t->dtype == QL_F16 ? "float16" : it->t->dtype == QL_F32 ? "float32" : "bfloat16");
	for (int d = 0; d < it->t->n_dims; d++)
		at += (size_t)snprintf(s + at, room - at, "%s%llu", d > 0 ? "," : "", (unsigned long long)it->t->shape[d]);
	if (q->nested)
		at += (size_t)snprintf(s + at, room - at, "],\"nested_blocksize\":%u,\"nested_dtype\":\"float32\",\"nested_offset\":%.9g}",
				       q->nested_blocksize, (double)q->offset);
	else
		(void)snprintf(s + at, room - at, "]}");
}

static int add(struct plan *p, size_t item, int part, enum ql_dtype dtype, int n_dims, const uint64_t *shape, struct ql_err *e)
{
	const struct item *it = &p->items[item];
	struct entry *en = &p->entries[p->n];
	char name[QL_NAME_MAX + 64];

	(void)snprintf(name, sizeof name, "%s%s%s", it->t->name, suffixes[part], part == STATE ? ql_dtype_name(it->q.kind) : "");
	*en = (struct entry){item, part, strdup(name)};
	if (en->name == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for a tensor name");
	p->specs[p->n] = (struct ql_st_spec){.name = en->name, .dtype = dtype, .n_dims = n_dims};
	memcpy(p->specs[p->n].shape, shape, (size_t)n_dims * sizeof *shape);
	p->n++;
	return QL_OK;
}

static int add_four_bit(struct tool_job *j, struct plan *p, size_t i, struct ql_err *e)
{
	struct item *it = &p->items[i];
	uint64_t codes[2], m, nn, map = 16, nested_map = 256, len;
	struct ql_q4 q;
	int rc = tool_q4(j, it->t, &q, e);

	if (rc != QL_OK)
		return rc;
	rc = keep_scales(it, &q, e);
	free(q.owned);
	tool_step(j, it->t->n / 2, it->t->name);
	if (rc != QL_OK)
		return rc;
	make_state(it);
	codes[0] = (it->q.n + 1) / 2;
	codes[1] = 1;
	m = ql_q4_blocks(&it->q);
	nn = ql_q4_nested_blocks(&it->q);
	len = strlen(it->state);
	rc = add(p, i, WEIGHT, QL_U8, 2, codes, e);
	if (rc == QL_OK)
		rc = add(p, i, ABSMAX, it->q.nested ? QL_U8 : QL_F32, 1, &m, e);
	if (rc == QL_OK)
		rc = add(p, i, MAP, QL_F32, 1, &map, e);
	if (rc == QL_OK && it->q.nested)
		rc = add(p, i, NESTED_ABSMAX, QL_F32, 1, &nn, e);
	if (rc == QL_OK && it->q.nested)
		rc = add(p, i, NESTED_MAP, QL_F32, 1, &nested_map, e);
	return rc == QL_OK ? add(p, i, STATE, QL_U8, 1, &len, e) : rc;
}

/* What a tensor becomes that is not in 4-bit form. */
static enum ql_dtype plain_type(const struct tool_job *j, const struct ql_tset_tensor *t)
{
	bool held = t->dtype <= QL_BOOL;

	if (j->type == QL_F32 || j->type == QL_F16 || j->type == QL_BF16)
		return t->values ? j->type : t->dtype;
	return held ? t->dtype : QL_F32;
}

static int make_plan(struct tool_job *j, struct plan *p, struct ql_err *e)
{
	int rc = QL_OK;

	p->n_items = ql_tset_count(j->in);
	p->items = calloc(p->n_items + 1, sizeof *p->items);
	p->entries = calloc(p->n_items * PARTS + 1, sizeof *p->entries);
	p->specs = calloc(p->n_items * PARTS + 1, sizeof *p->specs);
	if (p->items == NULL || p->entries == NULL || p->specs == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for a tensor list");
	for (size_t i = 0; rc == QL_OK && i < p->n_items; i++) {
		struct item *it = &p->items[i];
		const struct ql_tset_tensor *t = it->t = ql_tset_at(j->in, i);

		if (!t->values && (t->dtype > QL_BOOL || t->data == NULL))
			return ql_err_param(e, QL_EUNSUPPORTED, t->name, "tensor %.200s: type %s cannot be read", t->name, t->type);
		it->four_bit = j->type == QL_DTYPE_COUNT ? t->q4 != NULL || t->qnat != NULL
							 : j->type >= QL_NF4 && tool_is_weight(j, t);
		it->to = plain_type(j, t);
		rc = it->four_bit ? add_four_bit(j, p, i, e) : add(p, i, WEIGHT, it->to, t->n_dims, t->shape, e);
	}
	return rc;
}

static int sink(void *ctx, const void *data, size_t len, struct ql_err *e) { return ql_st_write_data(ctx, data, len, e); }

static int write_codes(struct tool_job *j, struct ql_st_writer *w, const struct item *it, struct ql_err *e)
{
	struct ql_q4 q;
	int rc = tool_q4(j, it->t, &q, e);

	if (rc != QL_OK)
		return rc;
	rc = ql_st_write_data(w, q.codes, (q.n + 1) / 2, e);
	free(q.owned);
	ql_tset_drop(j->in, it->t);
	tool_step(j, it->t->n - it->t->n / 2, it->t->name);
	return rc;
}

static int write_part(struct tool_job *j, struct ql_st_writer *w, const struct item *it, int part, struct ql_err *e)
{
	const struct ql_q4 *q = &it->q;

	switch (part) {
	case ABSMAX:
		return q->nested ? ql_st_write_data(w, q->absmax_q, ql_q4_blocks(q), e)
				 : ql_st_write_data(w, q->absmax, ql_q4_blocks(q) * 4, e);
	case MAP: return ql_st_write_data(w, q->code, sizeof q->code, e);
	case NESTED_ABSMAX: return ql_st_write_data(w, q->nested_absmax, ql_q4_nested_blocks(q) * 4, e);
	case NESTED_MAP: return ql_st_write_data(w, q->nested_map, sizeof q->nested_map, e);
	case STATE: return ql_st_write_data(w, it->state, strlen(it->state), e);
	default: break;
	}
	if (it->four_bit)
		return write_codes(j, w, it, e);
	if (!it->t->values) {
		int rc = ql_st_write_data(w, it->t->data, it->t->bytes, e);

		ql_tset_drop(j->in, it->t);
		tool_step(j, it->t->n, it->t->name);
		return rc;
	}
	return tool_stream(j, it->t, it->to, sink, w, e);
}

int tool_write_st(struct tool_job *j, struct ql_err *e)
{
	struct ql_st_writer *w = NULL;
	struct plan p = {0};
	size_t k;
	int rc;

	if (j->type < QL_NF4 && ql_dtypes[j->type].block > 1)
		return ql_err_set(e, QL_EUNSUPPORTED, "%s is a GGUF type; write .gguf", ql_dtype_name(j->type));
	rc = make_plan(j, &p, e);
	if (rc == QL_OK)
		rc = ql_st_write_begin(&w, j->dirfd, j->file, p.specs, p.n, e);
	while (rc == QL_OK && (k = ql_st_write_next(w)) < p.n)
		rc = write_part(j, w, &p.items[p.entries[k].item], p.entries[k].part, e);
	if (rc == QL_OK)
		rc = ql_st_write_commit(w, e);
	else
		ql_st_write_abort(w);
	for (size_t i = 0; i < p.n; i++)
		free(p.entries[i].name);
	for (size_t i = 0; p.items != NULL && i < p.n_items; i++)
		free(p.items[i].q.owned);
	free(p.items);
	free(p.entries);
	free(p.specs);
	return rc;
}
