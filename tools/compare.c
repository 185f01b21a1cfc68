/* compare.c - qlorad compare: two containers, tensor by tensor and by name. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/quant/strategy.h"
#include "tools/priv.h"

#define PIECE ((uint64_t)1 << 20)

static const char help[] =
	"usage: qlorad compare A B [--json] [--max-rel X]\n\n"
	"Compares the tensors of two files or directories by name: root mean square error, error relative to A, largest error,\n"
	"cosine.  Each of A and B is a GGUF, safetensors (16/32 bit or bitsandbytes 4-bit) or QNAT file, a Hugging Face directory\n"
	"or an adapter directory.  GGUF models are compared under their Hugging Face names and row order.\n\n"
	"  --json       one JSON object on standard output\n"
	"  --max-rel X  a tensor with a relative error above X makes the exit status 2\n\n"
	"exit status: 0 compared; 1 a file was refused; 2 a tensor is missing on one side, has another shape, or exceeds\n"
	"--max-rel; 64 wrong usage\n";

struct totals {
	struct ql_quant_sums all;
	size_t compared, missing, shapes, above, unread;
	double limit;
	json_t *list;
};

static bool same_shape(const struct ql_tset_tensor *a, const struct ql_tset_tensor *b)
{
	int i = 0, k = 0; /* sizes of 1 do not matter: [1, n] is [n] */

	while (i < a->n_dims || k < b->n_dims) {
		if (i < a->n_dims && a->shape[i] == 1)
			i++;
		else if (k < b->n_dims && b->shape[k] == 1)
			k++;
		else if (i < a->n_dims && k < b->n_dims && a->shape[i] == b->shape[k])
			i++, k++;
		else
			return false;
	}
	return true;
}

static int measure(const struct ql_tset *sa, const struct ql_tset *sb, const struct ql_tset_tensor *a,
		   const struct ql_tset_tensor *b, float *x, float *y, uint64_t room, struct ql_quant_sums *s, struct ql_err *e)
{
	uint64_t cols = a->shape[a->n_dims > 0 ? a->n_dims - 1 : 0], piece;
	int rc = QL_OK;

	piece = cols > 0 && cols <= room ? room / cols * cols : room;
	for (uint64_t i = 0; rc == QL_OK && i < a->n; i += piece) {
		uint64_t n = a->n - i < piece ? a->n - i : piece;

		rc = ql_tset_read(sa, a, i, n, x, e);
		if (rc == QL_OK)
			rc = ql_tset_read(sb, b, i, n, y, e);
		if (rc == QL_OK)
			ql_quant_sums_add(s, x, y, n);
		ql_tset_drop(sa, a);
		ql_tset_drop(sb, b);
	}
	return rc;
}

static void add_sums(struct ql_quant_sums *to, const struct ql_quant_sums *s)
{
	to->n += s->n;
	to->diff2 += s->diff2;
	to->a2 += s->a2;
	to->b2 += s->b2;
	to->ab += s->ab;
	to->max_abs = s->max_abs > to->max_abs ? s->max_abs : to->max_abs;
}

static void put_figures(json_t *o, const struct ql_quant_error *r)
{
	(void)json_object_set_new(o, "rmse", ql_json_real(r->rmse));
	(void)json_object_set_new(o, "relative_error", ql_json_real(r->rel_rmse));
	(void)json_object_set_new(o, "max_error", ql_json_real(r->max_abs));
	(void)json_object_set_new(o, "cosine", ql_json_real(r->cosine));
}

static void report(struct totals *t, const struct ql_tset_tensor *a, const char *type_b, const char *problem,
		   const struct ql_quant_error *r)
{
	if (t->list != NULL) {
		json_t *o = json_pack("{s:s, s:s?, s:s?, s:s?}", "name", a->name, "type_a", a->type, "type_b", type_b, "problem",
				      problem);

		if (r != NULL)
			put_figures(o, r);
		(void)json_array_append_new(t->list, o);
	} else if (problem != NULL) {
		(void)printf("%-48s %s\n", a->name, problem);
	} else {
		(void)printf("%-48s %-6s %-6s %11.5g %11.5g %11.5g %11.8f\n", a->name, a->type, type_b, r->rmse, r->rel_rmse,
			     r->max_abs, r->cosine);
	}
}

static int compare_one(const struct ql_tset *sa, const struct ql_tset *sb, const struct ql_tset_tensor *a, struct totals *t,
		       float *x, float *y, uint64_t room, struct ql_err *e)
{
	const struct ql_tset_tensor *b = ql_tset_find(sb, a->name);
	struct ql_quant_sums s = {0};
	struct ql_quant_error r;
	int rc;

	if (b == NULL || !same_shape(a, b)) {
		t->missing += b == NULL;
		t->shapes += b != NULL;
		report(t, a, b == NULL ? NULL : b->type, b == NULL ? "only in A" : "shapes differ", NULL);
		return QL_OK;
	}
	if (!a->values || !b->values) {
		t->unread++;
		report(t, a, b->type, "values of this type cannot be read", NULL);
		return QL_OK;
	}
	rc = measure(sa, sb, a, b, x, y, room, &s, e);
	if (rc != QL_OK)
		return rc;
	r = ql_quant_error_of(&s);
	add_sums(&t->all, &s);
	t->compared++;
	t->above += isfinite(t->limit) && !(r.rel_rmse <= t->limit);
	report(t, a, b->type, NULL, &r);
	return QL_OK;
}

static int compare_all(const struct ql_tset *sa, const struct ql_tset *sb, struct totals *t, struct ql_err *e)
{
	struct tool_progress p;
	const uint64_t room = PIECE; /* whole blocks, and whole rows of every permuted tensor (QL_DIM_MAX) */
	float *x = malloc(room * sizeof *x), *y = malloc(room * sizeof *y);
	int rc = QL_OK;

	if (x == NULL || y == NULL)
		rc = ql_err_set(e, QL_ENOMEM, "no memory for a piece of a tensor");
	tool_progress_start(&p);
	for (size_t i = 0; rc == QL_OK && i < ql_tset_count(sa); i++) {
		tool_progress_at(&p, (double)i / (double)ql_tset_count(sa), ql_tset_at(sa, i)->name);
		rc = compare_one(sa, sb, ql_tset_at(sa, i), t, x, y, room, e);
	}
	tool_progress_end(&p);
	for (size_t i = 0; rc == QL_OK && i < ql_tset_count(sb); i++)
		if (ql_tset_find(sa, ql_tset_at(sb, i)->name) == NULL) {
			t->missing++;
			report(t, ql_tset_at(sb, i), NULL, "only in B", NULL);
		}
	free(x);
	free(y);
	return rc;
}

static void finish(struct totals *t)
{
	struct ql_quant_error r = ql_quant_error_of(&t->all);

	if (t->list != NULL) {
		json_t *all = json_pack("{s:I, s:I, s:I}", "compared", (json_int_t)t->compared, "missing",
					(json_int_t)t->missing, "shape_differs", (json_int_t)t->shapes), *o;

		put_figures(all, &r);
		o = json_pack("{s:O, s:o}", "tensors", t->list, "total", all);
		(void)json_dumpf(o, stdout, JSON_INDENT(2));
		(void)putchar('\n');
		json_decref(o);
	} else {
		(void)printf("%zu compared, %zu on one side only, %zu of another shape, %zu not readable\n", t->compared,
			     t->missing, t->shapes, t->unread);
		(void)printf("all: rmse %.6g, relative %.6g, max %.6g, cosine %.9f\n", r.rmse, r.rel_rmse, r.max_abs, r.cosine);
	}
}

int tool_compare(int argc, char **argv)
{
	struct ql_tset *a = NULL, *b = NULL;
	struct totals t = {.limit = INFINITY};
	struct ql_err e = {0};
	bool bad = false, json;
	const char *limit;
	char *end;
	int rc;

	if (tool_flag(&argc, argv, "--help") || tool_flag(&argc, argv, "-h"))
		return (void)fputs(help, stdout), TOOL_OK;
	json = tool_flag(&argc, argv, "--json");
	limit = tool_option(&argc, argv, "--max-rel", &bad);
	if (limit != NULL) {
		t.limit = strtod(limit, &end);
		if (end == limit || *end != '\0' || !(t.limit >= 0)) {
			(void)fprintf(stderr, "qlorad compare: --max-rel %s is no number\n", limit);
			return TOOL_USAGE;
		}
	}
	if (!tool_args_ok(argc, argv, 2, bad))
		return TOOL_USAGE;
	rc = ql_tset_open(&a, argv[1], true, &e);
	if (rc == QL_OK)
		rc = ql_tset_open(&b, argv[2], true, &e);
	if (rc == QL_OK && json)
		t.list = json_array();
	else if (rc == QL_OK)
		(void)printf("%-48s %-6s %-6s %11s %11s %11s %11s\n", "tensor", "A", "B", "rmse", "relative", "max", "cosine");
	if (rc == QL_OK)
		rc = compare_all(a, b, &t, &e);
	if (rc == QL_OK)
		finish(&t);
	json_decref(t.list);
	ql_tset_close(a);
	ql_tset_close(b);
	if (rc != QL_OK)
		return tool_fail("compare", &e);
	return t.missing + t.shapes + t.above > 0 ? TOOL_DIFFERENT : TOOL_OK;
}
