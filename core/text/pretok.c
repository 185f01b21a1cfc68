/* pretok.c - running the steps of pretok.h, and HF's split behaviours. */
#include "core/text/pretok.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/limits.h"

int ql_pretok_add(struct ql_pretok *p, struct ql_pretok_step step, struct ql_err *e)
{
	struct ql_pretok_step *s;
	int rc = QL_OK;

	if (p->n >= QL_TOK_STEPS_MAX) {
		rc = ql_err_param(e, QL_ELIMIT, "pre_tokenizer", "more than %d pre-tokenizers in a row", QL_TOK_STEPS_MAX);
		goto fail;
	}
	s = realloc(p->steps, (p->n + 1) * sizeof *s);
	if (s == NULL) {
		rc = ql_err_set(e, QL_ENOMEM, "no memory for a pre-tokenizer");
		goto fail;
	}
	p->steps = s;
	s[p->n++] = step;
	return QL_OK;
fail:
	ql_regex_free(step.regex);
	free(step.apart);
	return rc;
}

void ql_pretok_free(struct ql_pretok *p)
{
	for (size_t i = 0; i < p->n; i++) {
		ql_regex_free(p->steps[i].regex);
		free(p->steps[i].apart);
	}
	free(p->steps);
	*p = (struct ql_pretok){0};
}

struct item {
	size_t begin, end;
	bool match;
};

struct items {
	struct item *v;
	size_t n, cap;
};

static int push(struct items *it, size_t begin, size_t end, bool match, struct ql_err *e)
{
	if (it->n == it->cap) {
		size_t cap = it->cap == 0 ? 64 : it->cap * 2;
		struct item *v = realloc(it->v, cap * sizeof *v);

		if (v == NULL)
			return ql_err_set(e, QL_ENOMEM, "no memory for the pieces of a text");
		it->v = v;
		it->cap = cap;
	}
	it->v[it->n++] = (struct item){begin, end, match};
	return QL_OK;
}

/* Matches and what lies between, in order, as HF's find_matches: an empty match directly after another is none. */
static int find_all(const struct ql_pretok_step *s, struct ql_regex_match *m, const char *text, size_t begin, size_t end,
		    struct items *it, struct ql_err *e)
{
	size_t from = begin, prev = begin, mb, me;
	bool first = true;
	int rc = QL_OK;

	while (from <= end) {
		rc = ql_regex_find(s->regex, m, text + begin, end - begin, from - begin, &mb, &me, e);
		if (rc != QL_OK)
			break;
		mb += begin;
		me += begin;
		if (mb < me || first || mb != prev) {
			if (prev != mb)
				rc = push(it, prev, mb, s->invert, e);
			if (rc == QL_OK)
				rc = push(it, mb, me, !s->invert, e);
			prev = me;
			first = false;
		}
		from = me;
		if (mb == me) /* one character on */
			do
				from++;
			while (from < end && ((uint8_t)text[from] & 0xc0) == 0x80);
		if (rc != QL_OK)
			return rc;
	}
	if (rc != QL_ENOTFOUND && rc != QL_OK)
		return rc;
	return prev < end ? push(it, prev, end, s->invert, e) : QL_OK;
}

/* Applies the behaviour in place. */
static void behave(struct items *it, enum ql_split how)
{
	size_t out = 0;

	if (how == QL_SPLIT_MERGED_NEXT) { /* from the back: a match joins what follows unless that is a match */
		bool next_match = false;
		size_t w = it->n;

		for (size_t i = it->n; i-- > 0;) {
			bool match = it->v[i].match;

			if (match && !next_match && w < it->n)
				it->v[w].begin = it->v[i].begin;
			else
				it->v[--w] = it->v[i];
			next_match = match;
		}
		for (; w < it->n; w++)
			it->v[out++] = it->v[w];
		it->n = out;
		return;
	}
	for (size_t i = 0; i < it->n; i++) {
		struct item x = it->v[i];
		bool prev_match = i > 0 && it->v[i - 1].match;

		if (how == QL_SPLIT_REMOVED && x.match)
			continue;
		if (out > 0 && ((how == QL_SPLIT_MERGED_PREVIOUS && x.match && !prev_match) ||
				(how == QL_SPLIT_CONTIGUOUS && x.match == it->v[out - 1].match)))
			it->v[out - 1].end = x.end;
		else
			it->v[out++] = x;
	}
	it->n = out;
}

struct run {
	const struct ql_pretok *p;
	struct ql_regex_match *m;
	const char *text;
	ql_piece_fn *piece;
	void *ctx;
	struct ql_err *e;
};

/* Up to where the characters from p on stay together. */
static const char *scan_apart(const struct ql_pretok_apart *t, const char *p, const char *stop)
{
	uint8_t last = (uint8_t)*p;

	for (p++; p < stop; p++) {
		uint8_t c = (uint8_t)*p;

		if ((last | c) < 0x80 && (t->bits[last][c >> 3] >> (c & 7) & 1) != 0)
			break;
		last = c;
	}
	return p;
}

/* Recursion depth = number of steps <= QL_TOK_STEPS_MAX. */
static int run_step(const struct run *r, size_t step, size_t begin, size_t end)
{
	const struct ql_pretok_step *s;
	struct items it = {0};
	int rc = QL_OK;

	if (begin == end)
		return QL_OK;
	if (step == r->p->n)
		return r->piece(r->ctx, begin, end);
	s = &r->p->steps[step];
	if (s->apart != NULL) {
		const char *p = r->text + begin, *stop = r->text + end;

		while (rc == QL_OK && p < stop) {
			const char *q = scan_apart(s->apart, p, stop);

			rc = run_step(r, step + 1, (size_t)(p - r->text), (size_t)(q - r->text));
			p = q;
		}
		return rc;
	}
	if (s->scan != NULL) {
		const char *p = r->text + begin, *stop = r->text + end;

		while (rc == QL_OK && p < stop) {
			const char *q = s->scan(p, stop);

			while (q < stop && s->n_glued > 0 && memchr(s->glued, q[-1], s->n_glued) != NULL)
				q = s->scan(q, stop);
			rc = run_step(r, step + 1, (size_t)(p - r->text), (size_t)(q - r->text));
			p = q;
		}
		return rc;
	}
	rc = find_all(s, r->m, r->text, begin, end, &it, r->e);
	if (rc == QL_OK)
		behave(&it, s->behaviour);
	for (size_t i = 0; rc == QL_OK && i < it.n; i++)
		rc = run_step(r, step + 1, it.v[i].begin, it.v[i].end);
	free(it.v);
	return rc;
}

int ql_pretok_run(const struct ql_pretok *p, struct ql_regex_match *m, const char *text, size_t len, ql_piece_fn *piece,
		  void *ctx, struct ql_err *e)
{
	struct run r = {p, m, text, piece, ctx, e};

	return run_step(&r, 0, 0, len);
}
