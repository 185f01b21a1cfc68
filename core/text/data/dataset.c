/* dataset.c - a file → examples, stored end to end, and the report. */
#include "core/text/data/dataset.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/base/hash.h"
#include "core/base/utf8.h"
#include "core/text/data/data.h"

struct example {
	uint64_t at, line; /* at: of the first token */
	uint32_t n, n_targets;
};

struct ql_dataset {
	int32_t *ids;
	uint8_t *target;
	size_t n_tokens, cap_tokens;
	struct example *examples;
	size_t n, cap;
};

static int nomem(struct ql_err *e) { return ql_err_set(e, QL_ENOMEM, "dataset"); }

void ql_dataset_free(struct ql_dataset *d)
{
	if (d == NULL)
		return;
	free(d->ids);
	free(d->target);
	free(d->examples);
	free(d);
}

size_t ql_dataset_count(const struct ql_dataset *d) { return d->n; }

struct ql_example ql_dataset_get(const struct ql_dataset *d, size_t i)
{
	const struct example *x = &d->examples[i];

	return (struct ql_example){d->ids + x->at, d->target + x->at, x->n, x->n_targets, x->line};
}

static int reserve(struct ql_dataset *d, size_t extra, struct ql_err *e)
{
	size_t need, cap = d->cap_tokens == 0 ? 4096 : d->cap_tokens, bytes;
	int32_t *ids;
	uint8_t *target;

	if (!ql_add_size(d->n_tokens, extra, &need))
		return nomem(e);
	while (cap < need)
		if (!ql_mul_size(cap, 2, &cap))
			return nomem(e);
	if (cap == d->cap_tokens)
		return QL_OK;
	if (!ql_mul_size(cap, sizeof *ids, &bytes))
		return nomem(e);
	ids = realloc(d->ids, bytes);
	if (ids == NULL)
		return nomem(e);
	d->ids = ids;
	target = realloc(d->target, cap);
	if (target == NULL)
		return nomem(e);
	d->target = target;
	d->cap_tokens = cap;
	return QL_OK;
}

static int store(struct ql_dataset *d, const struct built *b, uint64_t line, struct ql_err *e)
{
	int rc = reserve(d, b->ids.n, e);

	if (rc == QL_OK && d->n == d->cap) {
		size_t cap = d->cap == 0 ? 256 : d->cap * 2;
		struct example *x = realloc(d->examples, cap * sizeof *x);

		if (x == NULL)
			return nomem(e);
		d->examples = x;
		d->cap = cap;
	}
	if (rc != QL_OK)
		return rc;
	memcpy(d->ids + d->n_tokens, b->ids.ids, b->ids.n * sizeof *d->ids);
	memcpy(d->target + d->n_tokens, b->target, b->ids.n);
	d->examples[d->n++] = (struct example){d->n_tokens, line, (uint32_t)b->ids.n, b->n_targets};
	d->n_tokens += b->ids.n;
	return QL_OK;
}

int ql_dataset_make(struct ql_dataset **out, const int32_t *ids, uint32_t n_examples, uint32_t n, struct ql_err *e)
{
	struct ql_dataset *d = calloc(1, sizeof *d);
	int rc = d == NULL ? nomem(e) : n_examples < 1 || n < 2 ? ql_err_set(e, QL_EINVAL, "%u examples of %u tokens", n_examples, n) : QL_OK;

	*out = NULL;
	if (rc == QL_OK)
		rc = reserve(d, (size_t)n_examples * n, e);
	if (rc == QL_OK && (d->examples = calloc(n_examples, sizeof *d->examples)) == NULL)
		rc = nomem(e);
	if (rc != QL_OK) {
		ql_dataset_free(d);
		return rc;
	}
	d->n = d->cap = n_examples;
	d->n_tokens = (size_t)n_examples * n;
	memcpy(d->ids, ids, d->n_tokens * sizeof *ids);
	memset(d->target, 1, d->n_tokens);
	for (uint32_t i = 0; i < n_examples; i++) {
		d->examples[i] = (struct example){(uint64_t)i * n, i + 1, n, n - 1};
		d->target[(size_t)i * n] = 0;
	}
	*out = d;
	return QL_OK;
}

static void add_fault(struct ql_dataset_report *rep, uint64_t line, const char *reason)
{
	struct ql_dataset_fault *f;
	size_t n = strlen(reason);

	if (rep->n_faults++ >= QL_DATASET_FAULTS_REPORTED)
		return;
	f = &rep->faults[rep->n_faults - 1];
	f->line = line;
	if (n >= sizeof f->reason)
		n = ql_utf8_whole(reason, sizeof f->reason - 1);
	memcpy(f->reason, reason, n);
	f->reason[n] = '\0';
}

/* Errors that are ours or the machine's, not the line's. */
static bool is_fatal(int rc) { return rc == QL_ENOMEM || rc == QL_EINTERNAL || rc == QL_EIO || rc == QL_ECANCELLED; }

static int take_line(struct ql_dataset *d, const struct ql_dataset_opts *o, struct lines *l, enum data_kind *kind,
		     struct ql_dataset_report *rep, struct ql_err *e)
{
	struct built b = {0};
	struct ql_err why = {0};
	bool blank;
	int rc = data_line(o, l, kind, &b, &blank, &why);

	if (rc == QL_OK && !blank) {
		rep->truncated += b.truncated && !b.dropped;
		rep->dropped += b.dropped;
		rep->trailing_dropped += b.trailing_dropped;
		rep->only_last += b.only_last && !b.dropped;
	}
	if (rc == QL_OK && !blank && !b.dropped) {
		rep->examples++;
		rep->tokens += b.ids.n;
		rep->target_tokens += b.n_targets;
		if (b.ids.n > rep->max_tokens)
			rep->max_tokens = b.ids.n;
		if (rep->n_faults == 0) /* after a fault nothing will be kept */
			rc = store(d, &b, l->number, &why);
	}
	built_free(&b);
	if (rc == QL_OK)
		return QL_OK;
	if (is_fatal(rc))
		return ql_err_set(e, rc, "line %llu: %s", (unsigned long long)l->number, why.message);
	add_fault(rep, l->number, why.message);
	return QL_OK;
}

static int read_all(struct ql_dataset *d, const struct ql_dataset_opts *o, struct lines *l, struct ql_dataset_report *rep,
		    struct ql_err *e)
{
	enum data_kind kind = DATA_UNKNOWN;
	bool more;
	int rc;

	while ((rc = lines_next(l, &more, e)) == QL_OK && more) {
		if (o->cancelled != NULL && (l->number & 15) == 0 && o->cancelled(o->cancel_ctx) != 0)
			return ql_err_set(e, QL_ECANCELLED, "validation was cancelled at line %llu", (unsigned long long)l->number);
		rep->lines = l->number;
		rc = take_line(d, o, l, &kind, rep, e);
		(void)snprintf(rep->kind, sizeof rep->kind, "%s", data_kind_name(kind));
		if (rc != QL_OK)
			return rc;
	}
	return rc;
}

static int verdict(const struct ql_dataset_opts *o, const struct ql_dataset_report *rep, struct ql_err *e)
{
	int min = o->min_examples > 1 ? o->min_examples : 1;

	if (rep->n_faults > 0) {
		(void)ql_err_param(e, QL_EFORMAT, "invalid_training_file", "line %llu: %s%s", (unsigned long long)rep->faults[0].line,
				   rep->faults[0].reason, rep->n_faults > 1 ? " (and other lines)" : "");
		if (e != NULL)
			e->offset = rep->faults[0].line;
		return QL_EFORMAT;
	}
	if (rep->examples < (uint64_t)min)
		return ql_err_param(e, QL_EFORMAT, "invalid_n_examples",
				    "%llu usable examples, at least %d are needed (%llu lines were dropped)",
				    (unsigned long long)rep->examples, min, (unsigned long long)rep->dropped);
	return QL_OK;
}

static int check_opts(const struct ql_dataset_opts *o, struct ql_err *e)
{
	if (o->tok == NULL || o->max_seq_length < 2 || o->max_seq_length > QL_CONTEXT_MAX)
		return ql_err_param(e, QL_EINVAL, "max_seq_length", "a dataset needs a tokenizer and a max_seq_length of 2 to %d",
				    QL_CONTEXT_MAX);
	return QL_OK;
}

int ql_dataset_load(struct ql_dataset **out, int dirfd, const char *path, const struct ql_dataset_opts *o,
		    struct ql_dataset_report *rep, struct ql_err *e)
{
	struct ql_dataset *d = NULL;
	struct ql_sha256 hash;
	struct lines l = {.fd = -1};
	int rc = check_opts(o, e);

	*out = NULL;
	*rep = (struct ql_dataset_report){0};
	if (rc != QL_OK)
		return rc;
	ql_sha256_init(&hash);
	d = calloc(1, sizeof *d);
	rc = d == NULL ? nomem(e) : lines_open(&l, dirfd, path, &hash, e);
	if (rc == QL_OK)
		rc = read_all(d, o, &l, rep, e);
	if (rc == QL_OK) {
		ql_sha256_end_hex(&hash, rep->sha256);
		rc = verdict(o, rep, e);
	}
	lines_close(&l);
	if (rc != QL_OK) {
		ql_dataset_free(d);
		return rc;
	}
	*out = d;
	return QL_OK;
}

json_t *ql_dataset_report_json(const struct ql_dataset_report *rep)
{
	uint64_t n = rep->n_faults < QL_DATASET_FAULTS_REPORTED ? rep->n_faults : QL_DATASET_FAULTS_REPORTED;
	double share = rep->tokens == 0 ? 0.0 : (double)rep->target_tokens / (double)rep->tokens;
	json_t *faults = json_array(), *out;

	for (uint64_t i = 0; i < n; i++)
		if (json_array_append_new(faults, json_pack("{s:I, s:s}", "line", (json_int_t)rep->faults[i].line, "reason",
							     rep->faults[i].reason)) != 0) {
			json_decref(faults);
			return NULL;
		}
	out = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:s, s:I, s:o}", "kind", rep->kind, "lines",
			(json_int_t)rep->lines, "examples", (json_int_t)rep->examples, "dropped", (json_int_t)rep->dropped,
			"truncated", (json_int_t)rep->truncated, "trailing_dropped", (json_int_t)rep->trailing_dropped,
			"only_last", (json_int_t)rep->only_last, "tokens",
			(json_int_t)rep->tokens, "target_tokens", (json_int_t)rep->target_tokens, "max_tokens",
			(json_int_t)rep->max_tokens, "target_share", share, "sha256", rep->sha256, "n_faults",
			(json_int_t)rep->n_faults, "faults", faults);
	return out;
}
