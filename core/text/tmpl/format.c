/* format.c - format specifications ("{:>8.3f}", "%-5d") applied to values, and str.format. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/limits.h"
#include "core/base/utf8.h"
#include "core/text/tmpl/value.h"

#define WIDTH_MAX 4096
#define PRECISION_MAX 100

static int pad(struct vm *m, struct sb *b, uint32_t fill, size_t n)
{
	char c[4];
	size_t k = (size_t)ql_utf8_encode(fill == 0 ? ' ' : fill, c);
	int rc = QL_OK;

	for (size_t i = 0; i < n && rc == QL_OK; i++)
		rc = sb_add(m, b, c, k);
	return rc;
}

static int fmt_str(struct vm *m, struct sb *b, const struct spec *s, struct str *text, bool percent)
{
	size_t n = str_ncp(text), fill, left;
	char align = s->align != 0 ? s->align : percent ? '>' : '<';
	int rc;

	if (s->precision >= 0 && (size_t)s->precision < n)
		n = (size_t)s->precision;
	fill = s->width > n ? s->width - n : 0;
	left = align == '>' ? fill : align == '^' ? fill / 2 : 0;
	rc = pad(m, b, s->fill, left);
	if (rc == QL_OK)
		rc = sb_sub(m, b, text, 0, str_off(text, n));
	return rc != QL_OK ? rc : pad(m, b, s->fill, fill - left);
}

/* Puts "," between groups of three digits of the integer part. */
static void group(char *text, size_t size)
{
	char out[512];
	size_t n = strspn(text, "0123456789"), o = 0, len = strlen(text);

	if (len + len / 3 + 2 > sizeof out || len + len / 3 + 2 > size)
		return;
	for (size_t i = 0; i < n; i++) {
		out[o++] = text[i];
		if ((n - i) % 3 == 1 && i + 1 < n)
			out[o++] = ',';
	}
	memcpy(out + o, text + n, len - n + 1);
	memcpy(text, out, strlen(out) + 1);
}

/* sign, prefix and digits, padded. */
static int fmt_number(struct vm *m, struct sb *b, const struct spec *s, bool negative, const char *prefix, char *digits,
		      size_t size)
{
	char sign[2] = {negative ? '-' : s->sign == '+' || s->sign == ' ' ? s->sign : '\0', '\0'};
	char align = s->align != 0 ? s->align : s->zero ? '=' : '>';
	uint32_t fill_cp = s->fill != 0 ? s->fill : s->zero && align == '=' ? '0' : ' ';
	size_t n, fill, left;
	int rc;

	if (s->comma)
		group(digits, size);
	n = strlen(sign) + strlen(prefix) + strlen(digits);
	fill = s->width > n ? s->width - n : 0;
	left = align == '>' ? fill : align == '^' ? fill / 2 : 0;
	rc = pad(m, b, fill_cp, align == '=' ? 0 : left);
	if (rc == QL_OK)
		rc = sb_addz(m, b, sign);
	if (rc == QL_OK)
		rc = sb_addz(m, b, prefix);
	if (rc == QL_OK && align == '=')
		rc = pad(m, b, fill_cp, fill);
	if (rc == QL_OK)
		rc = sb_addz(m, b, digits);
	return rc != QL_OK || align == '=' ? rc : pad(m, b, fill_cp, fill - left);
}

static int fmt_int(struct vm *m, struct sb *b, const struct spec *s, int64_t v)
{
	uint64_t u = v < 0 ? (uint64_t)0 - (uint64_t)v : (uint64_t)v;
	char digits[512], plain[80];
	const char *prefix = "";
	int n = 0, rc = vm_step(m, 512);

	if (rc != QL_OK)
		return rc;
	if (s->type == 'b') {
		for (uint64_t x = u; x != 0 || n == 0; x >>= 1)
			plain[n++] = (char)('0' + (x & 1));
		for (int i = 0; i < n / 2; i++) {
			char c = plain[i];

			plain[i] = plain[n - 1 - i];
			plain[n - 1 - i] = c;
		}
		plain[n] = '\0';
	} else {
		n = snprintf(plain, sizeof plain, s->type == 'x' ? "%llx" : s->type == 'X' ? "%llX" : s->type == 'o' ? "%llo" : "%llu",
			     (unsigned long long)u);
	}
	if (s->alt)
		prefix = s->type == 'x' ? "0x" : s->type == 'X' ? "0X" : s->type == 'o' ? "0o" : s->type == 'b' ? "0b" : "";
	if (s->precision > n)
		(void)snprintf(digits, sizeof digits, "%0*d%s", s->precision - n, 0, plain);
	else
		(void)snprintf(digits, sizeof digits, "%s", plain);
	return fmt_number(m, b, s, v < 0, prefix, digits, sizeof digits);
}

static int fmt_float(struct vm *m, struct sb *b, const struct spec *s, double f)
{
	char digits[512], type = s->type == '%' ? 'f' : s->type, conv[8] = "%.*f";
	int precision = s->precision < 0 ? 6 : s->precision;
	bool negative = signbit(f) && !isnan(f);
	double v = fabs(s->type == '%' ? f * 100 : f);
	int rc = vm_step(m, 4096 + 64 * (size_t)precision);

	if (rc != QL_OK)
		return rc;
	if (isnan(v) || isinf(v)) {
		bool upper = type == 'F' || type == 'E' || type == 'G';

		(void)snprintf(digits, sizeof digits, "%s", isnan(v) ? (upper ? "NAN" : "nan") : upper ? "INF" : "inf");
	} else if (type == 0 && s->precision < 0) {
		(void)float_repr(v, digits);
	} else if (type == 0) {
		return vm_unsupported(m, "a float format with precision and no type");
	} else if ((type == 'f' || type == 'F') && v > 1e200) {
		return vm_limit(m, "number too long to format");
	} else {
		conv[3] = type;
		(void)snprintf(digits, sizeof digits, conv, precision, v);
	}
	if (s->type == '%')
		(void)strcat(digits, "%");
	return fmt_number(m, b, s, negative, "", digits, sizeof digits);
}

static int fmt_char(struct vm *m, struct sb *b, const struct spec *s, struct val v)
{
	struct val text;
	char c[4];
	int rc;

	if (v.kind == V_STR && str_ncp(v.s) == 1)
		return fmt_str(m, b, s, v.s, true);
	if (!v_is_intlike(v) || v_as_int(v) < 0 || v_as_int(v) > 0x10ffff || (v_as_int(v) >= 0xd800 && v_as_int(v) < 0xe000))
		return vm_raise(m, "TypeError", "%%c requires int or char");
	rc = str_copy(m, &text, c, (size_t)ql_utf8_encode((uint32_t)v_as_int(v), c));
	return rc != QL_OK ? rc : fmt_str(m, b, s, text.s, true);
}

int fmt_value(struct vm *m, struct sb *b, const struct spec *s, struct val v, bool percent)
{
	bool int_type = s->type != 0 && strchr("dioxXbun", s->type) != NULL;
	bool float_type = s->type != 0 && strchr("eEfFgG%", s->type) != NULL;

	if (s->width > WIDTH_MAX || s->precision > PRECISION_MAX)
		return vm_limit(m, "format width or precision too large");
	if (s->type == 'c')
		return fmt_char(m, b, s, v);
	if (float_type || (v.kind == V_FLOAT && (s->type == 0 || (int_type && !percent)))) {
		if (!v_is_num(v))
			return v.kind == V_UNDEF ? vm_undef_error(m, v)
						 : vm_raise(m, percent ? "TypeError" : "ValueError",
							    percent ? "must be real number, not %s"
								    : "Unknown format code for object of type '%s'", v_type(v));
		if (int_type)
			return vm_raise(m, "ValueError", "Unknown format code '%c' for object of type 'float'", s->type);
		return fmt_float(m, b, s, v_as_float(v));
	}
	if (int_type || (v_is_intlike(v) && s->type == 0)) {
		if (v.kind == V_FLOAT && percent && strchr("diu", s->type) != NULL && fabs(v.f) < 9e18)
			v = v_int((int64_t)v.f);
		if (!v_is_intlike(v))
			return v.kind == V_UNDEF ? vm_undef_error(m, v)
						 : vm_raise(m, percent ? "TypeError" : "ValueError",
							    percent ? "%%d format: a real number is required, not %s"
								    : "Unknown format code for object of type '%s'", v_type(v));
		if (s->precision >= 0 && !percent)
			return vm_raise(m, "ValueError", "Precision not allowed in integer format specifier");
		return fmt_int(m, b, s, v_as_int(v));
	}
	if (v.kind == V_STR && (s->type == 0 || s->type == 's')) {
		if (!percent && (s->align == '=' || s->sign != 0))
			return vm_raise(m, "ValueError", "Sign or '=' alignment not allowed in string format specifier");
		return fmt_str(m, b, s, v.s, percent);
	}
	return vm_raise(m, v.kind == V_STR || v_is_num(v) ? "ValueError" : "TypeError",
			"unsupported format string passed to %s.__format__", v_type(v));
}

/* [[fill]align][sign][#][0][width][,][.precision][type] */
int fmt_parse_spec(struct vm *m, const char *p, size_t len, struct spec *s)
{
	const char *end = p + len;
	uint32_t cp = 0;
	int k = len > 0 ? ql_utf8_decode(p, len, &cp) : 0;

	*s = (struct spec){.precision = -1};
	if (k > 0 && p + k < end && strchr("<>=^", p[k]) != NULL) {
		s->fill = cp;
		s->align = p[k];
		p += k + 1;
	} else if (p < end && strchr("<>=^", *p) != NULL) {
		s->align = *p++;
	}
	if (p < end && strchr("+- ", *p) != NULL)
		s->sign = *p++;
	if (p < end && *p == '#') {
		s->alt = true;
		p++;
	}
	if (p < end && *p == '0') {
		s->zero = true;
		p++;
	}
	for (; p < end && *p >= '0' && *p <= '9' && s->width <= WIDTH_MAX; p++)
		s->width = s->width * 10 + (size_t)(*p - '0');
	if (p < end && *p == ',') {
		s->comma = true;
		p++;
	}
	if (p < end && *p == '.') {
		s->precision = 0;
		for (p++; p < end && *p >= '0' && *p <= '9' && s->precision <= PRECISION_MAX; p++)
			s->precision = s->precision * 10 + (*p - '0');
	}
	if (p < end && strchr("sdioxXbceEfFgGn%", *p) != NULL)
		s->type = *p++;
	if (p < end)
		return vm_raise(m, "ValueError", "Invalid format specifier '%.*s'", (int)(len > 60 ? 60 : len), end - len);
	return QL_OK;
}

struct fmt {
	struct vm *m;
	const struct args *a;
	size_t next; /* automatic field number */
	struct sb b;
	bool safe;
};

static int first_part(struct fmt *f, const char *p, size_t len, struct val *out)
{
	size_t i = 0;

	if (len == 0)
		i = f->next++;
	else if (*p < '0' || *p > '9') {
		for (i = 0; i < f->a->n_kw; i++) {
			const struct str *k = f->a->kw[i].name;

			if (k->len == len && memcmp(k->p, p, len) == 0) {
				*out = f->a->kw[i].v;
				return QL_OK;
			}
		}
		return vm_raise(f->m, "KeyError", "'%.*s'", (int)(len > 60 ? 60 : len), p);
	} else {
		for (size_t k = 0; k < len && i < 10000; k++) {
			if (p[k] < '0' || p[k] > '9')
				return vm_raise(f->m, "KeyError", "'%.*s'", (int)(len > 60 ? 60 : len), p);
			i = i * 10 + (size_t)(p[k] - '0');
		}
	}
	if (i >= f->a->n)
		return vm_raise(f->m, "IndexError", "Replacement index %zu out of range for positional args tuple", i);
	*out = f->a->pos[i];
	return QL_OK;
}

/* name(.attr | [key])* */
static int field_value(struct fmt *f, const char *p, const char *end, struct val *out)
{
	const char *q = p;
	int rc;

	while (q < end && *q != '.' && *q != '[')
		q++;
	rc = first_part(f, p, (size_t)(q - p), out);
	while (rc == QL_OK && q < end) {
		const char *name = q + 1;
		bool item = *q == '[';
		struct val key;
		char *stop;

		for (q = name; q < end && (item ? *q != ']' : *q != '.' && *q != '[');)
			q++;
		if (item && q == end)
			return vm_raise(f->m, "ValueError", "expected '}' before end of string");
		if (!item) {
			rc = v_getattr(f->m, *out, name, (size_t)(q - name), out);
			continue;
		}
		rc = str_new(f->m, &key, name, (size_t)(q - name));
		if (rc == QL_OK && q > name && strspn(name, "0123456789") >= (size_t)(q - name) && q - name < 18)
			key = v_int(strtoll(name, &stop, 10));
		if (rc == QL_OK)
			rc = v_getitem(f->m, *out, key, out);
		q++;
	}
	return rc;
}

static int one_field(struct fmt *f, const char *p, const char *end)
{
	const char *name_end = p, *spec = end;
	struct spec s = {.precision = -1};
	struct val v;
	char conv = 0;
	int rc;

	while (name_end < end && *name_end != '!' && *name_end != ':')
		name_end++;
	rc = field_value(f, p, name_end, &v);
	if (rc != QL_OK)
		return rc;
	p = name_end;
	if (p < end && *p == '!') {
		conv = p + 1 < end ? p[1] : 0;
		p += 2;
		if ((conv != 's' && conv != 'r') || (p < end && *p != ':'))
			return vm_raise(f->m, "ValueError", "bad conversion in format string");
	}
	if (p < end && *p == ':')
		spec = p + 1;
	if (memchr(spec, '{', (size_t)(end - spec)) != NULL)
		return vm_unsupported(f->m, "a nested format field");
	if (conv == 'r') {
		struct sb r = {0};

		rc = v_repr(f->m, &r, v);
		if (rc == QL_OK)
			rc = sb_end(f->m, &r, &v);
	} else if (conv == 's' || spec == end) {
		rc = v_to_str(f->m, v, &v);
	}
	if (rc == QL_OK && f->safe)
		rc = str_escape(f->m, &v, v);
	if (rc == QL_OK)
		rc = fmt_parse_spec(f->m, spec, (size_t)(end - spec), &s);
	return rc != QL_OK ? rc : fmt_value(f->m, &f->b, &s, v, false);
}

int v_format(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	struct fmt f = {.m = m, .a = a, .safe = self.s->safe};
	const struct str *s = self.s;
	size_t i = 0;
	int rc = QL_OK;

	while (rc == QL_OK && i < s->len) {
		size_t j = i;

		while (j < s->len && s->p[j] != '{' && s->p[j] != '}')
			j++;
		m->work += 64 + (j - i);
		rc = sb_sub(m, &f.b, s, i, j);
		if (rc != QL_OK || j == s->len)
			break;
		if (j + 1 < s->len && s->p[j + 1] == s->p[j]) {
			rc = sb_sub(m, &f.b, s, j, j + 1);
			i = j + 2;
			continue;
		}
		if (s->p[j] == '}')
			return vm_raise(m, "ValueError", "Single '}' encountered in format string");
		for (i = j + 1; i < s->len && s->p[i] != '}';)
			i++;
		if (i == s->len)
			return vm_raise(m, "ValueError", "Single '{' encountered in format string");
		rc = one_field(&f, s->p + j + 1, s->p + i);
		i++;
	}
	if (rc == QL_OK)
		rc = sb_end(m, &f.b, out);
	if (rc == QL_OK)
		out->s->safe = f.safe;
	return rc;
}
