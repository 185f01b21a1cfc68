/* filters_num.c - abs, int, float, round. */
#include "core/text/tmpl/filters.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text/tmpl/ast.h"
#include "core/text/tmpl/text_ops.h"

int flt_abs(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	if (a->n + a->n_kw > 0)
		return vm_raise(m, "TypeError", "abs() takes exactly one argument (%zu given)", a->n + a->n_kw + 1);
	if (!v_is_num(self))
		return vm_raise(m, "TypeError", "bad operand type for abs(): '%s'", v_type(self));
	*out = self;
	if (self.kind == V_FLOAT)
		*out = v_float(fabs(self.f));
	else if (v_as_int(self) < 0)
		return op_neg(m, self, false, out);
	else
		*out = v_int(v_as_int(self));
	return QL_OK;
}

/* Stripped of white space, "_" between digits removed; false if it cannot be a number's text. */
static bool clean(const struct str *s, char *out, size_t size)
{
	size_t begin = 0, end = s->len, o = 0;
	uint32_t cp;

	while (begin < end && text_cp(s, begin, &cp) > 0 && uni_space(cp))
		begin += text_cp(s, begin, &cp);
	while (end > begin && uni_space((unsigned char)s->p[end - 1]) && (unsigned char)s->p[end - 1] < 0x80)
		end--;
	if (end - begin + 1 > size)
		return false;
	for (size_t i = begin; i < end; i++) {
		char c = s->p[i];

		if (c == '_') {
			char before = i > begin ? s->p[i - 1] : '\0', after = i + 1 < end ? s->p[i + 1] : '\0';

			if (before == '\0' || before == '_' || after == '\0' || after == '_' || strchr("+-.", before) != NULL)
				return false;
			continue;
		}
		if ((unsigned char)c >= 0x80 || c == '\0')
			return false;
		out[o++] = c;
	}
	out[o] = '\0';
	return o > 0;
}

enum parsed { NOT_A_NUMBER, A_NUMBER, TOO_BIG };

/* int(text, base). */
static enum parsed parse_int(const char *t, int64_t base, int64_t *out)
{
	bool neg = *t == '-';
	uint64_t v = 0;
	char x;

	if (*t == '-' || *t == '+')
		t++;
	x = t[0] == '0' ? (char)(t[1] | 0x20) : '\0';
	if ((x == 'x' && (base == 16 || base == 0)) || (x == 'o' && (base == 8 || base == 0)) || (x == 'b' && (base == 2 || base == 0))) {
		base = x == 'x' ? 16 : x == 'o' ? 8 : 2;
		t += 2;
	} else if (base == 0) {
		base = 10;
	}
	if (*t == '\0')
		return NOT_A_NUMBER;
	for (; *t != '\0'; t++) {
		char c = (char)(*t | 0x20);
		int64_t d = *t >= '0' && *t <= '9' ? *t - '0' : c >= 'a' && c <= 'z' ? c - 'a' + 10 : 99;

		if (d >= base)
			return NOT_A_NUMBER;
		if (v > ((uint64_t)INT64_MAX - (uint64_t)d) / (uint64_t)base)
			return TOO_BIG;
		v = v * (uint64_t)base + (uint64_t)d;
	}
	*out = neg ? -(int64_t)v : (int64_t)v;
	return A_NUMBER;
}

/* float(text): decimal, inf, infinity, nan; no hexadecimal. */
static bool parse_float(const char *t, double *out)
{
	const char *d = *t == '+' || *t == '-' ? t + 1 : t;
	char *end;

	if (strpbrk(t, "xXpP(") != NULL || *d == '+' || *d == '-' || *d == ' ')
		return false;
	*out = strtod(t, &end);
	return *end == '\0' && end != t;
}

static int int_of_float(struct vm *m, double f, bool direct, struct val def, struct val *out)
{
	*out = def;
	if (isnan(f))
		return QL_OK;
	if (isinf(f))
		return direct ? vm_raise(m, "OverflowError", "cannot convert float infinity to integer") : QL_OK;
	if (fabs(f) >= 9223372036854775807.0)
		return vm_limit(m, "integer beyond 64 bits");
	*out = v_int((int64_t)f);
	return QL_OK;
}

int flt_int(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	static const char *const names[] = {"default", "base", NULL};
	struct val v[2];
	char text[400];
	int64_t i = 0, base = 10;
	double f;
	int rc = args_bind(m, "do_int", a, names, 0, v);

	if (rc == QL_OK)
		rc = vm_step(m, self.kind == V_STR ? 512 + self.s->len * 16 : 0); /* white space is skipped */
	if (rc != QL_OK)
		return rc;
	*out = v[0].kind == V_MISSING ? v_int(0) : v[0];
	if (v_is_intlike(v[1]))
		base = v_as_int(v[1]);
	if (self.kind == V_UNDEF)
		return vm_undef_error(m, self);
	if (v_is_intlike(self)) {
		*out = v_int(v_as_int(self));
		return QL_OK;
	}
	if (self.kind == V_FLOAT)
		return int_of_float(m, self.f, true, *out, out);
	if (self.kind != V_STR || !clean(self.s, text, sizeof text) || base < 0 || base == 1 || base > 36)
		return QL_OK;
	switch (parse_int(text, base, &i)) {
	case A_NUMBER:
		*out = v_int(i);
		return QL_OK;
	case TOO_BIG:
		return vm_limit(m, "integer beyond 64 bits");
	default:
		return parse_float(text, &f) ? int_of_float(m, f, false, *out, out) : QL_OK;
	}
}

int flt_float(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	static const char *const names[] = {"default", NULL};
	struct val v;
	char text[400];
	double f;
	int rc = args_bind(m, "do_float", a, names, 0, &v);

	if (rc == QL_OK)
		rc = vm_step(m, self.kind == V_STR ? 512 + self.s->len * 16 : 0);
	if (rc != QL_OK)
		return rc;
	*out = v.kind == V_MISSING ? v_float(0) : v;
	if (self.kind == V_UNDEF)
		return vm_undef_error(m, self);
	if (v_is_num(self))
		*out = v_float(v_as_float(self));
	else if (self.kind == V_STR && clean(self.s, text, sizeof text) && parse_float(text, &f))
		*out = v_float(f);
	return QL_OK;
}

/* round(x, n): the decimal nearest to the exact value, ties to even, as printf rounds. */
static int round_common(struct vm *m, struct val self, int64_t n, struct val *out)
{
	char text[512];
	double p;

	if (v_is_intlike(self)) {
		if (n < 0)
			return vm_unsupported(m, "rounding an integer to tens");
		*out = v_int(v_as_int(self));
		return QL_OK;
	}
	*out = self;
	if (isnan(self.f) || isinf(self.f) || n > 300)
		return QL_OK;
	if (n < 0) {
		p = pow(10, (double)-n);
		*out = v_float(nearbyint(self.f / p) * p);
		return QL_OK;
	}
	if (fabs(self.f) < 1e100) {
		(void)snprintf(text, sizeof text, "%.*f", (int)n, self.f);
		*out = v_float(strtod(text, NULL));
	}
	return QL_OK;
}

int flt_round(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	static const char *const names[] = {"precision", "method", NULL};
	struct val v[2];
	int64_t n = 0;
	double p;
	int rc = args_bind(m, "do_round", a, names, 0, v);

	if (rc == QL_OK)
		rc = vm_step(m, 4096);
	if (rc != QL_OK)
		return rc;
	if (v[0].kind != V_MISSING) {
		if (!v_is_intlike(v[0]))
			return vm_raise(m, "TypeError", "'%s' object cannot be interpreted as an integer", v_type(v[0]));
		n = v_as_int(v[0]);
	}
	if (self.kind == V_UNDEF)
		return vm_undef_error(m, self);
	if (!v_is_num(self))
		return vm_raise(m, "TypeError", "type %s doesn't define __round__ method", v_type(self));
	if (v[1].kind == V_MISSING || (v[1].kind == V_STR && str_is(v[1].s, "common")))
		return round_common(m, self, n, out);
	if (v[1].kind != V_STR || (!str_is(v[1].s, "ceil") && !str_is(v[1].s, "floor")))
		return vm_raise(m, "FilterArgumentError", "method must be common, ceil or floor");
	if (n < -300 || n > 300)
		return vm_limit(m, "precision beyond 300 digits");
	p = pow(10, (double)n);
	*out = v_float((str_is(v[1].s, "ceil") ? ceil(v_as_float(self) * p) : floor(v_as_float(self) * p)) / p);
	return QL_OK;
}
