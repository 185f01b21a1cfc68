/* dict.c - mappings in insertion order, with an open-addressing index once they have more than 8 entries. */
#include <string.h>

#include "core/text/tmpl/value.h"

#define SMALL 8

int v_dict_new(struct vm *m, struct dict **out)
{
	*out = vm_alloc(m, sizeof **out);
	return *out == NULL ? m->e->code : QL_OK;
}

static void index_put(struct dict *d, size_t entry)
{
	size_t h = d->e[entry].hash & (d->n_index - 1);

	while (d->index[h] != 0)
		h = (h + 1) & (d->n_index - 1);
	d->index[h] = (uint32_t)entry + 1;
}

/* The entry of key, or d->n. */
static int find(struct vm *m, const struct dict *d, struct val key, uint64_t hash, size_t *out)
{
	bool same = false;
	int rc;

	if (d->index == NULL) {
		for (size_t i = 0; i < d->n; i++) {
			if (d->e[i].hash != hash)
				continue;
			rc = v_eq(m, d->e[i].key, key, &same);
			if (rc != QL_OK || same) {
				*out = i;
				return rc;
			}
		}
		*out = d->n;
		return QL_OK;
	}
	for (size_t h = hash & (d->n_index - 1); d->index[h] != 0; h = (h + 1) & (d->n_index - 1)) {
		size_t i = d->index[h] - 1;

		m->work += 64;
		if (d->e[i].hash != hash)
			continue;
		rc = v_eq(m, d->e[i].key, key, &same);
		if (rc != QL_OK || same) {
			*out = i;
			return rc;
		}
	}
	*out = d->n;
	return QL_OK;
}

static int grow(struct vm *m, struct dict *d)
{
	size_t cap = d->cap == 0 ? 4 : d->cap * 2;
	struct entry *e = vm_alloc(m, cap * sizeof *e);

	if (e == NULL)
		return m->e->code;
	if (d->n > 0)
		memcpy(e, d->e, d->n * sizeof *e);
	d->e = e;
	d->cap = cap;
	if (cap <= SMALL)
		return QL_OK;
	d->n_index = cap * 2;
	d->index = vm_alloc(m, d->n_index * sizeof *d->index);
	if (d->index == NULL)
		return m->e->code;
	for (size_t i = 0; i < d->n; i++)
		index_put(d, i);
	return QL_OK;
}

int v_dict_put(struct vm *m, struct dict *d, struct val key, struct val value)
{
	uint64_t hash;
	size_t at;
	int rc = v_hash(m, key, &hash);

	if (rc == QL_OK)
		rc = find(m, d, key, hash, &at);
	if (rc != QL_OK)
		return rc;
	if (at < d->n) {
		d->e[at].value = value;
		return QL_OK;
	}
	if (d->n == d->cap && (rc = grow(m, d)) != QL_OK)
		return rc;
	d->e[d->n] = (struct entry){key, value, hash};
	d->n++;
	if (d->index != NULL)
		index_put(d, d->n - 1);
	return vm_step(m, 0);
}

int v_dict_get(struct vm *m, const struct dict *d, struct val key, struct val *out)
{
	uint64_t hash;
	size_t at;
	int rc = v_hash(m, key, &hash);

	*out = v_missing();
	if (rc == QL_OK)
		rc = find(m, d, key, hash, &at);
	if (rc == QL_OK && at < d->n)
		*out = d->e[at].value;
	return rc;
}

int v_dict_get_s(struct vm *m, const struct dict *d, const char *key, size_t len, struct val *out)
{
	struct str s = {.p = key, .len = len, .n_cp = SIZE_MAX};

	return v_dict_get(m, d, v_str(&s), out);
}

/* One element of dict([...]): a pair. */
static int put_pair(struct vm *m, struct dict *d, struct val pair)
{
	struct list *l;
	int rc = v_to_list(m, pair, &l);

	if (rc != QL_OK)
		return rc;
	if (l->n != 2)
		return vm_raise(m, "ValueError", "dictionary update sequence element has length %zu; 2 is required", l->n);
	return v_dict_put(m, d, l->v[0], l->v[1]);
}

int v_dict_from(struct vm *m, struct dict *d, const struct args *a, const char *who)
{
	struct iter *it;
	struct val v;
	int rc = QL_OK;

	if (a->n > 1)
		return vm_raise(m, "TypeError", "%s expected at most 1 argument, got %zu", who, a->n);
	if (a->n == 1 && (a->pos[0].kind == V_DICT || a->pos[0].kind == V_NS)) {
		const struct dict *from = a->pos[0].kind == V_DICT ? a->pos[0].dict : NULL;

		if (from == NULL)
			return vm_raise(m, "TypeError", "'Namespace' object is not iterable");
		for (size_t i = 0; i < from->n && rc == QL_OK; i++)
			rc = v_dict_put(m, d, from->e[i].key, from->e[i].value);
	} else if (a->n == 1) {
		rc = iter_new(m, a->pos[0], &it);
		while (rc == QL_OK && (rc = iter_next(m, it, &v)) == QL_OK && v.kind != V_MISSING)
			rc = put_pair(m, d, v);
	}
	for (size_t i = 0; i < a->n_kw && rc == QL_OK; i++)
		rc = v_dict_put(m, d, v_str(a->kw[i].name), a->kw[i].v);
	return rc;
}
