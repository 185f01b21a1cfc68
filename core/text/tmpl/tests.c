/* tests.c - what may follow "is". */
#include <string.h>

#include "core/text/tmpl/ast.h"

static int no_args(struct vm *m, const char *who, const struct args *a)
{
	if (a->n + a->n_kw > 0)
		return vm_raise(m, "TypeError", "test_%s() takes 1 positional argument but %zu were given", who, a->n + a->n_kw + 1);
	return QL_OK;
}

#define KIND_TEST(name, cond)                                                                         \
	static int t_##name(struct vm *m, struct val v, const struct args *a, bool *out)              \
	{                                                                                             \
		*out = (cond);                                                                        \
		return no_args(m, #name, a);                                                          \
	}
KIND_TEST(defined, v.kind != V_UNDEF)
KIND_TEST(undefined, v.kind == V_UNDEF)
KIND_TEST(none, v.kind == V_NONE)
KIND_TEST(boolean, v.kind == V_BOOL)
KIND_TEST(true, v.kind == V_BOOL && v.b)
KIND_TEST(false, v.kind == V_BOOL && !v.b)
KIND_TEST(integer, v.kind == V_INT)
KIND_TEST(float, v.kind == V_FLOAT)
KIND_TEST(number, v_is_num(v))
KIND_TEST(string, v.kind == V_STR)
KIND_TEST(mapping, v.kind == V_DICT)
KIND_TEST(iterable, v_iterable(v))
KIND_TEST(sequence, v.kind == V_STR || v.kind == V_LIST || v.kind == V_TUPLE || v.kind == V_DICT || v.kind == V_RANGE ||
		      v.kind == V_UNDEF)
KIND_TEST(escaped, v.kind == V_STR && v.s->safe)
KIND_TEST(callable, v.kind == V_FUNC || v.kind == V_METHOD || v.kind == V_MACRO || v.kind == V_LOOP || v.kind == V_UNDEF)

static int remainder_is(struct vm *m, struct val v, int64_t by, int64_t want, bool *out)
{
	struct val r;
	int rc = op_binary(m, T_MOD, v, v_int(by), &r);

	return rc != QL_OK ? rc : v_eq(m, r, v_int(want), out);
}

static int t_odd(struct vm *m, struct val v, const struct args *a, bool *out)
{
	int rc = no_args(m, "odd", a);

	return rc != QL_OK ? rc : remainder_is(m, v, 2, 1, out);
}

static int t_even(struct vm *m, struct val v, const struct args *a, bool *out)
{
	int rc = no_args(m, "even", a);

	return rc != QL_OK ? rc : remainder_is(m, v, 2, 0, out);
}

static int one_arg(struct vm *m, const char *who, const struct args *a, struct val *out)
{
	static const char *const names[] = {"other", NULL};

	return args_bind(m, who, a, names, 1, out);
}

static int t_divisibleby(struct vm *m, struct val v, const struct args *a, bool *out)
{
	struct val by, r;
	int rc = one_arg(m, "divisibleby", a, &by);

	if (rc == QL_OK)
		rc = op_binary(m, T_MOD, v, by, &r);
	return rc != QL_OK ? rc : v_eq(m, r, v_int(0), out);
}

static int t_eq(struct vm *m, struct val v, const struct args *a, bool *out)
{
	struct val b;
	int rc = one_arg(m, "eq", a, &b);

	return rc != QL_OK ? rc : v_eq(m, v, b, out);
}

static int t_ne(struct vm *m, struct val v, const struct args *a, bool *out)
{
	int rc = t_eq(m, v, a, out);

	*out = !*out;
	return rc;
}

static int compare(struct vm *m, struct val v, const struct args *a, int op, bool *out)
{
	struct val b;
	int rc = one_arg(m, "comparison", a, &b);

	return rc != QL_OK ? rc : v_cmp(m, v, b, op, out);
}

static int t_gt(struct vm *m, struct val v, const struct args *a, bool *out) { return compare(m, v, a, T_GT, out); }
static int t_ge(struct vm *m, struct val v, const struct args *a, bool *out) { return compare(m, v, a, T_GE, out); }
static int t_lt(struct vm *m, struct val v, const struct args *a, bool *out) { return compare(m, v, a, T_LT, out); }
static int t_le(struct vm *m, struct val v, const struct args *a, bool *out) { return compare(m, v, a, T_LE, out); }

static int t_in(struct vm *m, struct val v, const struct args *a, bool *out)
{
	struct val b;
	int rc = one_arg(m, "in", a, &b);

	return rc != QL_OK ? rc : v_contains(m, v, b, out);
}

static int t_sameas(struct vm *m, struct val v, const struct args *a, bool *out)
{
	struct val b;
	int rc = one_arg(m, "sameas", a, &b);

	if (rc != QL_OK)
		return rc;
	*out = v.kind == b.kind;
	if (*out && (v.kind == V_STR || v.kind == V_INT || v.kind == V_FLOAT || v.kind == V_BOOL || v.kind == V_NONE))
		return v_eq(m, v, b, out); /* Python shares equal small constants */
	*out = *out && v.ns == b.ns;
	return QL_OK;
}

static int t_case(struct vm *m, struct val v, bool upper, bool *out)
{
	const char *name = upper ? "isupper" : "islower";
	const struct args none = {0};
	struct val text, f, r = v_bool(false);
	bool unsafe;
	int rc = str_plain(m, v, &text);

	if (rc == QL_OK)
		rc = method_find(m, text, name, 7, &f, &unsafe);
	if (rc == QL_OK)
		rc = v_call(m, f, &none, &r);
	*out = r.b;
	return rc;
}

static int t_upper(struct vm *m, struct val v, const struct args *a, bool *out)
{
	int rc = no_args(m, "upper", a);

	return rc != QL_OK ? rc : t_case(m, v, true, out);
}

static int t_lower(struct vm *m, struct val v, const struct args *a, bool *out)
{
	int rc = no_args(m, "lower", a);

	return rc != QL_OK ? rc : t_case(m, v, false, out);
}

static int t_filter(struct vm *m, struct val v, const struct args *a, bool *out)
{
	*out = v.kind == V_STR && (filter_find(v.s->p, v.s->len) != NULL || filter_known(v.s->p, v.s->len));
	return no_args(m, "filter", a);
}

static int t_test(struct vm *m, struct val v, const struct args *a, bool *out)
{
	*out = v.kind == V_STR && test_find(v.s->p, v.s->len) != NULL;
	return no_args(m, "test", a);
}

test_fn *test_find(const char *name, size_t len)
{
	static const struct {
		const char *name;
		test_fn *fn;
	} tests[] = {{"defined", t_defined}, {"undefined", t_undefined}, {"none", t_none}, {"string", t_string},
		     {"mapping", t_mapping}, {"iterable", t_iterable}, {"sequence", t_sequence}, {"boolean", t_boolean},
		     {"true", t_true}, {"false", t_false}, {"integer", t_integer}, {"float", t_float}, {"number", t_number},
		     {"callable", t_callable}, {"escaped", t_escaped}, {"odd", t_odd}, {"even", t_even},
		     {"divisibleby", t_divisibleby}, {"in", t_in}, {"sameas", t_sameas}, {"upper", t_upper}, {"lower", t_lower},
		     {"filter", t_filter}, {"test", t_test}, {"==", t_eq}, {"eq", t_eq}, {"equalto", t_eq}, {"!=", t_ne},
		     {"ne", t_ne}, {">", t_gt}, {"gt", t_gt}, {"greaterthan", t_gt}, {">=", t_ge}, {"ge", t_ge}, {"<", t_lt},
		     {"lt", t_lt}, {"lessthan", t_lt}, {"<=", t_le}, {"le", t_le}};

	for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
		if (strlen(tests[i].name) == len && memcmp(tests[i].name, name, len) == 0)
			return tests[i].fn;
	return NULL;
}

int v_test(struct vm *m, const char *name, size_t len, struct val self, const struct args *a, bool *out)
{
	test_fn *fn = test_find(name, len);

	if (fn == NULL)
		return vm_raise(m, "TemplateRuntimeError", "No test named '%.*s'.", (int)(len > 60 ? 60 : len), name);
	return fn(m, self, a, out);
}
