/* iter.c - iteration: iter(v) over every kind, and the consuming of generators. */
#include <string.h>

#include "core/base/limits.h"
#include "core/text/tmpl/value.h"

bool v_iterable(struct val v)
{
	return v.kind == V_UNDEF || v.kind == V_STR || v.kind == V_LIST || v.kind == V_TUPLE || v.kind == V_DICT ||
	       v.kind == V_VIEW || v.kind == V_RANGE || v.kind == V_ITER || v.kind == V_LOOP;
}

int v_item(struct vm *m, struct val seq, size_t i, struct val *out)
{
	switch (seq.kind) {
	case V_LIST:
	case V_TUPLE:
		*out = seq.list->v[i];
		return QL_OK;
	case V_RANGE:
		*out = v_int(seq.range->start + seq.range->step * (int64_t)i);
		return QL_OK;
	default:
		return str_slice(m, out, seq.s, (int64_t)i, 1, 1);
	}
}

static int next_str(struct vm *m, struct iter *it, struct val *out)
{
	struct str *s = it->src.s;
	size_t from = it->pos, to = from + 1;
	int rc;

	*out = v_missing();
	if (from >= s->len)
		return QL_OK;
	while (to < s->len && ((unsigned char)s->p[to] & 0xc0) == 0x80)
		to++;
	it->pos = to;
	rc = str_sub(m, out, s, from, to);
	if (rc == QL_OK)
		out->s->safe = false;
	return rc;
}

static int next_dict(struct vm *m, struct iter *it, struct val *out)
{
	const struct dict *d = it->src.dict;
	const struct entry *e;

	*out = v_missing();
	if (it->pos >= d->n)
		return QL_OK;
	e = &d->e[it->pos++];
	if (it->src.kind == V_VIEW && it->src.sub == VIEW_ITEMS)
		return v_tuple2(m, out, e->key, e->value);
	*out = it->src.kind == V_VIEW && it->src.sub == VIEW_VALUES ? e->value : e->key;
	return QL_OK;
}

static int next_seq(struct vm *m, struct iter *it, struct val *out)
{
	size_t n = it->src.kind == V_RANGE ? it->src.range->n : it->src.list->n;

	*out = v_missing();
	return it->pos < n ? v_item(m, it->src, it->pos++, out) : QL_OK;
}

static int next_none(struct vm *m, struct iter *it, struct val *out)
{
	(void)m;
	(void)it;
	*out = v_missing();
	return QL_OK;
}

/* iter(loop) is the loop itself: its items are pairs of value and loop. */
static int next_loop(struct vm *m, struct iter *it, struct val *out)
{
	struct val v;
	int rc = loop_advance(m, it->src.loop, &v);

	*out = v;
	return rc != QL_OK || v.kind == V_MISSING ? rc : v_tuple2(m, out, v, it->src);
}

int iter_new(struct vm *m, struct val v, struct iter **out)
{
	struct iter *it;

	if (v.kind == V_ITER) {
		*out = v.iter;
		return QL_OK;
	}
	if (!v_iterable(v))
		return vm_raise(m, "TypeError", "'%s' object is not iterable", v_type(v));
	it = vm_alloc(m, sizeof *it);
	*out = it;
	if (it == NULL)
		return m->e->code;
	it->src = v;
	it->next = v.kind == V_STR ? next_str
		 : v.kind == V_DICT || v.kind == V_VIEW ? next_dict
		 : v.kind == V_UNDEF ? next_none
		 : v.kind == V_LOOP ? next_loop
				    : next_seq;
	return QL_OK;
}

int iter_next(struct vm *m, struct iter *it, struct val *out)
{
	int rc = vm_step(m, 0);

	*out = v_missing();
	if (rc != QL_OK)
		return rc;
	if (++m->depth > QL_TMPL_EVAL_DEPTH_MAX)
		rc = vm_limit(m, "generators nested too deep");
	else
		rc = it->next(m, it, out);
	m->depth--;
	return rc;
}

int iter_wrap(struct vm *m, struct iter **out, struct iter *in, int (*next)(struct vm *, struct iter *, struct val *))
{
	struct iter *it = vm_alloc(m, sizeof *it);

	*out = it;
	if (it == NULL)
		return m->e->code;
	it->in = in;
	it->next = next;
	return QL_OK;
}

int iter_range_new(struct vm *m, struct val *out, int64_t start, int64_t stop, int64_t step)
{
	struct range *r = vm_alloc(m, sizeof *r);
	uint64_t span, by;

	if (r == NULL)
		return m->e->code;
	if (step == 0)
		return vm_raise(m, "ValueError", "range() arg 3 must not be zero");
	span = step > 0 ? (stop > start ? (uint64_t)stop - (uint64_t)start : 0) : (start > stop ? (uint64_t)start - (uint64_t)stop : 0);
	by = step > 0 ? (uint64_t)step : (uint64_t)0 - (uint64_t)step;
	span = span == 0 ? 0 : (span - 1) / by + 1;
	if (span > 100000)
		return vm_raise(m, "OverflowError",
				"Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).");
	*r = (struct range){start, stop, step, (size_t)span};
	*out = (struct val){.kind = V_RANGE, .range = r};
	return QL_OK;
}

int v_to_list(struct vm *m, struct val v, struct list **out)
{
	struct iter *it;
	struct val x;
	int rc = iter_new(m, v, &it);

	if (rc == QL_OK)
		rc = v_list_new(m, out, v.kind == V_LIST || v.kind == V_TUPLE ? v.list->n : 0);
	while (rc == QL_OK && (rc = iter_next(m, it, &x)) == QL_OK && x.kind != V_MISSING)
		rc = v_list_add(m, *out, x);
	return rc;
}
