/* ops.c - arithmetic: + - * / // % ** and unary signs.  Integers that leave 64 bits are an error. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/base/limits.h"
#include "core/text/tmpl/ast.h"

static const char *op_text(int op)
{
	switch (op) {
	case T_ADD:
		return "+";
	case T_SUB:
		return "-";
	case T_MUL:
		return "*";
	case T_DIV:
		return "/";
	case T_FLOORDIV:
		return "//";
	case T_MOD:
		return "%";
	default:
		return "** or pow()";
	}
}

static int too_big(struct vm *m) { return vm_limit(m, "integer beyond 64 bits"); }

static int int_pow(struct vm *m, int64_t a, int64_t b, struct val *out)
{
	int64_t r = 1;

	if (b < 0) {
		if (a == 0)
			return vm_raise(m, "ZeroDivisionError", "0.0 cannot be raised to a negative power");
		*out = v_float(pow((double)a, (double)b));
		return QL_OK;
	}
	if (a == 0 || a == 1 || a == -1) {
		*out = v_int(b == 0 ? 1 : a == -1 ? (b % 2 == 0 ? 1 : -1) : a);
		return QL_OK;
	}
	for (; b > 0; b--)
		if (!ql_mul_i64(r, a, &r))
			return too_big(m);
	*out = v_int(r);
	return QL_OK;
}

static int int_op(struct vm *m, int op, int64_t a, int64_t b, struct val *out)
{
	int64_t r = 0;
	bool ok = true;

	if ((op == T_DIV || op == T_FLOORDIV || op == T_MOD) && b == 0)
		return vm_raise(m, "ZeroDivisionError",
				op == T_DIV ? "division by zero" : "integer division or modulo by zero");
	switch (op) {
	case T_ADD:
		ok = ql_add_i64(a, b, &r);
		break;
	case T_SUB:
		ok = !__builtin_sub_overflow(a, b, &r);
		break;
	case T_MUL:
		ok = ql_mul_i64(a, b, &r);
		break;
	case T_DIV:
		*out = v_float((double)a / (double)b);
		return QL_OK;
	case T_FLOORDIV:
	case T_MOD:
		if (a == INT64_MIN && b == -1) {
			ok = op == T_MOD;
			break;
		}
		r = op == T_MOD ? a % b : a / b;
		if (a % b != 0 && (a < 0) != (b < 0))
			r += op == T_MOD ? b : -1;
		break;
	default:
		return int_pow(m, a, b, out);
	}
	if (!ok)
		return too_big(m);
	*out = v_int(r);
	return QL_OK;
}

static double float_mod(double a, double b)
{
	double r = fmod(a, b);

	if (r != 0)
		return (b < 0) != (r < 0) ? r + b : r;
	return copysign(0.0, b);
}

static int float_op(struct vm *m, int op, double a, double b, struct val *out)
{
	double r;

	if ((op == T_DIV || op == T_FLOORDIV || op == T_MOD) && b == 0)
		return vm_raise(m, "ZeroDivisionError", op == T_DIV ? "float division by zero" : op == T_MOD ? "float modulo" :
				"float floor division by zero");
	switch (op) {
	case T_ADD:
		r = a + b;
		break;
	case T_SUB:
		r = a - b;
		break;
	case T_MUL:
		r = a * b;
		break;
	case T_DIV:
		r = a / b;
		break;
	case T_MOD:
		r = float_mod(a, b);
		break;
	case T_FLOORDIV: {
		double d = (a - float_mod(a, b)) / b, f = floor(d);

		r = d == 0 ? copysign(0.0, a / b) : d - f > 0.5 ? f + 1 : f;
		break;
	}
	default:
		if (a == 0 && b < 0)
			return vm_raise(m, "ZeroDivisionError", "0.0 cannot be raised to a negative power");
		r = pow(a, b);
		if (isnan(r) && !isnan(a) && !isnan(b))
			return vm_unsupported(m, "a complex number");
		if (isinf(r) && !isinf(a) && !isinf(b))
			return vm_raise(m, "OverflowError", "(34, 'Numerical result out of range')");
		break;
	}
	*out = v_float(r);
	return QL_OK;
}

static int list_concat(struct vm *m, struct val a, struct val b, struct val *out)
{
	struct list *l;
	int rc = v_list_new(m, &l, a.list->n + b.list->n);

	if (rc == QL_OK)
		rc = vm_step(m, (a.list->n + b.list->n) * 16);
	if (rc != QL_OK)
		return rc;
	if (a.list->n > 0)
		memcpy(l->v, a.list->v, a.list->n * sizeof *l->v);
	if (b.list->n > 0)
		memcpy(l->v + a.list->n, b.list->v, b.list->n * sizeof *l->v);
	l->n = a.list->n + b.list->n;
	*out = (struct val){.kind = a.kind, .list = l};
	return QL_OK;
}

static int repeat(struct vm *m, struct val seq, int64_t times, struct val *out)
{
	size_t n = seq.kind == V_STR ? seq.s->len : seq.list->n, total;
	struct sb b = {0};
	struct list *l;
	int rc;

	if (times < 0)
		times = 0;
	if (!ql_mul_size(n, (size_t)times, &total) || total > QL_TMPL_OUTPUT_MAX)
		return vm_limit(m, "string or list longer than a template may make");
	rc = vm_step(m, total);
	if (rc == QL_OK && seq.kind != V_STR) {
		rc = v_list_new(m, &l, total);
		for (size_t i = 0; rc == QL_OK && i < total; i++)
			l->v[i] = seq.list->v[i % n];
		if (rc != QL_OK)
			return rc;
		l->n = total;
		*out = (struct val){.kind = seq.kind, .list = l};
		return vm_step(m, total * 16);
	}
	if (rc == QL_OK && total > 0 && seq.s->n_marks == 0) { /* by doubling */
		rc = sb_str(m, &b, seq.s);
		while (rc == QL_OK && b.len < total) {
			struct val so_far;

			rc = str_new(m, &so_far, b.p, b.len <= total - b.len ? b.len : total - b.len);
			if (rc == QL_OK)
				rc = sb_str(m, &b, so_far.s);
		}
		total = 0;
	}
	for (size_t i = 0; rc == QL_OK && i < total; i += n)
		if ((rc = sb_str(m, &b, seq.s)) == QL_OK)
			rc = vm_step(m, 0);
	if (rc == QL_OK)
		rc = sb_end(m, &b, out);
	if (rc == QL_OK)
		out->s->safe = seq.s->safe;
	return rc;
}

static int add_strings(struct vm *m, struct val a, struct val b, struct val *out)
{
	bool safe = a.s->safe || b.s->safe;
	int rc = QL_OK;

	if (safe)
		rc = str_escape(m, &a, a);
	if (rc == QL_OK && safe)
		rc = str_escape(m, &b, b);
	if (rc == QL_OK)
		rc = str_concat(m, out, a.s, b.s);
	if (rc == QL_OK)
		out->s->safe = safe;
	return rc;
}

int op_binary(struct vm *m, int op, struct val a, struct val b, struct val *out)
{
	bool seq_a = a.kind == V_STR || a.kind == V_LIST || a.kind == V_TUPLE;
	bool seq_b = b.kind == V_STR || b.kind == V_LIST || b.kind == V_TUPLE;

	if (op == T_MOD && a.kind == V_STR)
		return v_percent(m, a, b, out);
	if (a.kind == V_UNDEF || b.kind == V_UNDEF)
		return vm_undef_error(m, a.kind == V_UNDEF ? a : b);
	if (v_is_intlike(a) && v_is_intlike(b))
		return int_op(m, op, v_as_int(a), v_as_int(b), out);
	if (v_is_num(a) && v_is_num(b))
		return float_op(m, op, v_as_float(a), v_as_float(b), out);
	if (op == T_ADD && a.kind == V_STR && b.kind == V_STR)
		return add_strings(m, a, b, out);
	if (op == T_ADD && a.kind == b.kind && (a.kind == V_LIST || a.kind == V_TUPLE))
		return list_concat(m, a, b, out);
	if (op == T_MUL && seq_a && v_is_intlike(b))
		return repeat(m, a, v_as_int(b), out);
	if (op == T_MUL && seq_b && v_is_intlike(a))
		return repeat(m, b, v_as_int(a), out);
	if (op == T_ADD && seq_a)
		return vm_raise(m, "TypeError", "can only concatenate %s (not \"%s\") to %s", v_type(a), v_type(b), v_type(a));
	return vm_raise(m, "TypeError", "unsupported operand type(s) for %s: '%s' and '%s'", op_text(op), v_type(a), v_type(b));
}

int op_neg(struct vm *m, struct val a, bool positive, struct val *out)
{
	if (a.kind == V_UNDEF)
		return vm_undef_error(m, a);
	if (v_is_intlike(a)) {
		if (!positive && v_as_int(a) == INT64_MIN)
			return too_big(m);
		*out = v_int(positive ? v_as_int(a) : -v_as_int(a));
		return QL_OK;
	}
	if (a.kind == V_FLOAT) {
		*out = v_float(positive ? a.f : -a.f);
		return QL_OK;
	}
	return vm_raise(m, "TypeError", "bad operand type for unary %s: '%s'", positive ? "+" : "-", v_type(a));
}
