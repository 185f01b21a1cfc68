/* test_tmpl_limits.c - every limit at its value and one above, and templates made to explode. */
#include <time.h>

#include "tests/unit/text/tmpl/tmpl_util.h"

static char *repeat(const char *a, size_t na, const char *mid, const char *b, size_t nb)
{
	size_t la = strlen(a), lb = strlen(b), n = la * na + strlen(mid) + lb * nb;
	char *s = malloc(n + 1), *p = s;

	assert_non_null(s);
	for (size_t i = 0; i < na; i++, p += la)
		memcpy(p, a, la);
	p = stpcpy(p, mid);
	for (size_t i = 0; i < nb; i++, p += lb)
		memcpy(p, b, lb);
	*p = '\0';
	return s;
}

static int code(const char *src)
{
	struct ql_rendered r = {0};
	struct ql_err e = {0};
	int rc = run(src, strlen(src), "{}", "{}", &r, &e);

	ql_rendered_free(&r);
	return rc;
}

static void at_and_above(const char *a, const char *mid, const char *b, size_t limit)
{
	char *at = repeat(a, limit, mid, b, limit), *above = repeat(a, limit + 1, mid, b, limit + 1);

	if (code(at) != QL_OK || code(above) != QL_ELIMIT)
		fail_msg("%s…%s…%s: at the limit %d, above %d", a, mid, b, code(at), code(above));
	free(at);
	free(above);
}

static void source(void **state)
{
	char *s = repeat("a", QL_TMPL_SOURCE_MAX, "", "", 0);
	struct ql_tmpl *t;

	(void)state;
	assert_int_equal(code(s), QL_OK);
	s = realloc(s, QL_TMPL_SOURCE_MAX + 2);
	memcpy(s + QL_TMPL_SOURCE_MAX, "a", 2);
	assert_int_equal(ql_tmpl_compile(&t, s, QL_TMPL_SOURCE_MAX + 1, NULL), QL_ELIMIT);
	assert_null(t);
	free(s);
}

static void depth(void **state)
{
	(void)state;
	at_and_above("{% if 1 %}", "x", "{% endif %}", QL_TMPL_DEPTH_MAX - 1); /* an expression inside the innermost is one more */
}

static void nodes(void **state)
{
	/* a text node each, one for the number and one for its print tag */
	char *s = repeat("{{1}}", QL_TMPL_NODES_MAX / 2, "", "", 0);

	(void)state;
	assert_int_equal(strlen(s) <= QL_TMPL_SOURCE_MAX, true);
	assert_int_equal(code(s), QL_OK);
	s = realloc(s, strlen(s) + 6);
	(void)strcat(s, "{{1}}");
	assert_int_equal(code(s), QL_ELIMIT);
	free(s);
}

static void macros(void **state)
{
	char src[200];

	(void)state;
	for (int over = 0; over < 2; over++) {
		(void)snprintf(src, sizeof src, "{%% macro f(n) %%}{%% if n > 1 %%}{{ f(n - 1) }}{%% endif %%}{%% endmacro %%}{{ f(%d) }}",
			       QL_TMPL_MACRO_DEPTH_MAX + over);
		assert_int_equal(code(src), over ? QL_ELIMIT : QL_OK);
	}
}

static void loops(void **state)
{
	char src[200];

	(void)state;
	for (int over = 0; over < 2; over++) {
		(void)snprintf(src, sizeof src, "{%% for i in range(%d) %%}{%% endfor %%}%s", QL_TMPL_LOOPS_MAX,
			       over ? "{% for i in [1] %}{% endfor %}" : "");
		assert_int_equal(code(src), over ? QL_ELIMIT : QL_OK);
	}
}

static void output(void **state)
{
	char src[200];

	(void)state;
	for (int over = 0; over < 2; over++) {
		(void)snprintf(src, sizeof src, "{%% set s = 'x' * %zu %%}{{ s }}{{ s }}{{ s }}{{ s }}%s", QL_TMPL_OUTPUT_MAX / 4,
			       over ? "y" : "");
		assert_int_equal(code(src), over ? QL_ELIMIT : QL_OK);
	}
}

/* Each must be refused by a limit, whatever it tries.  The slowest one's processor time is printed, not judged. */
static void bombs(void **state)
{
	static const char *const src[] = {
		"{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
		"{% set ns = namespace(s='x') %}{% for a in range(99999) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
		"{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}", "{{ 'x' * 1000000000 }}", "{{ [0] * 1000000000 }}",
		"{{ '%999999d' % 1 }}", "{{ 'x'.center(9999999) }}", "{{ [1]|tojson(indent=99999999) }}",
		"{% set ns = namespace(l=[]) %}{% for a in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
		"{% set ns = namespace(l=[]) %}{% for a in range(99999) %}{% set ns.l = ns.l|map('string') %}{% endfor %}{{ ns.l|list }}",
		"{% set ns = namespace(l=[1]) %}{% for a in range(99999) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
		"{% set s = 'a' * 8000000 %}{% for i in range(99999) %}{{ s.replace('a','b')|length }}{% endfor %}",
		"{% set s = 'a' * 4000000 %}{% for i in range(99999) %}{{ s.rfind('a'*100000 ~ 'b') }}{% endfor %}",
		"{% set s = 'a' * 4000000 %}{% for i in range(99999) %}{{ s|tojson|length }}{{ s.split('a')|length }}{% endfor %}",
		"{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
		"{% set s = 'a' * 4000000 %}{% for i in range(99999) %}{{ s == s ~ '' }}{{ 'b' in s }}{% endfor %}",
		"{% set s = 'a' * 4000000 %}{% for i in range(99999) %}{{ s[::-1]|length }}{{ s|upper|length }}{% endfor %}",
		"{% set s = ' ' * 4000000 %}{% for i in range(99999) %}{{ (s~'x')|trim|length }}{% endfor %}",
		"{% set s='é'*1000000 %}{% for i in range(99999) %}{{ s[i] }}{% endfor %}",
		"{% for i in range(9999) %}{{ range(99999)|list|sort(reverse=true)|sort|length }}{% endfor %}",
		"{% for i in range(9999) %}{{ range(99999)|map('string')|join|length }}{{ range(99999)|list|tojson|length }}{% endfor %}",
		"{% for i in range(9999) %}{{ dict(range(99999)|map('string')|batch(2)) }}{% endfor %}",
		"{% for i in range(99999) %}{{ messages }}{{ 'x'*100000 }}{% endfor %}",
		"{% for i in range(99999) %}{% set x = messages|tojson %}{% endfor %}",
		"{% for i in range(99999) %}{% for m in messages if m.content|length > 5 %}{% endfor %}{% endfor %}",
		"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
		"{% set s = '<' * 1000000 %}{% for i in range(99999) %}{{ s|escape|length }}{% endfor %}",
		"{% for i in range(99999) %}{{ messages[0].content|escape|length }}{% endfor %}",
		"{% for i in range(99999) %}{{ messages|map(attribute='content')|join|length }}{% endfor %}",
		"{% for i in range(99999) %}{{ i / 7 }}{{ i ** 0.5 }}{{ 1e300|round(2) }}{% endfor %}{% for i in range(2) %}{% endfor %}",
		"{% for i in range(99999) %}{{ '{} {:>20} {:.3f} %s %5.3f'.format(i, i, i) % (i, i) }}{% endfor %}",
		"{% set s = 'ab' * 1000000 %}{% for i in range(99999) %}{{ s.isalpha() }}{{ s.isupper() }}{% endfor %}",
		"{% set s = '1' * 1000000 %}{% for i in range(99999) %}{{ s.isdigit() }}{{ s|int }}{% endfor %}",
		"{% set s = 'a' * 4000000 %}{% for i in range(99999) %}{{ s|title|length }}{% endfor %}",
		"{% set s = 'a' * 4000000 %}{% for i in range(99999) %}{{ s.rpartition('b')|length }}{{ s.rsplit('b')|length }}{% endfor %}",
		"{% set s = '[' ~ '[],' * 500000 ~ '1]' %}{% for i in range(99999) %}{{ s|fromjson|length }}{% endfor %}",
		"{% set s = '\\x01' * 1000000 %}{% for i in range(99999) %}{{ [s]|string|length }}{{ s|tojson|length }}{% endfor %}",
		"{% set s = '%%' * 1000000 %}{% for i in range(99999) %}{{ (s % ())|length }}{% endfor %}",
		"{% set s = '{{' * 1000000 %}{% for i in range(99999) %}{{ s.format()|length }}{% endfor %}",
		"{% for i in range(9999) %}{{ range(99999)|list|string|length }}{% endfor %}",
	};
	char *content = repeat("<b>", 3000, "", "", 0), *message = malloc(10000), *messages, *vars = malloc(1000100);
	struct ql_tmpl_env env = {.now_unix = NOW};
	double slowest = 0;
	size_t which = 0;
	json_t *parsed;

	(void)state;
	assert_true(message != NULL && vars != NULL);
	(void)snprintf(message, 10000, "{\"role\":\"user\",\"content\":\"%s\"},", content);
	messages = repeat(message, 99, "", "", 0);
	(void)snprintf(vars, 1000100, "{\"messages\":[%s{\"role\":\"user\",\"content\":\"x\"}]}", messages);
	env.vars = parsed = json_of(vars);
	for (size_t i = 0; i < sizeof src / sizeof src[0]; i++) {
		struct ql_rendered r = {0};
		struct ql_err e = {0};
		struct ql_tmpl *t = NULL;
		clock_t begin = clock();
		int rc = ql_tmpl_compile(&t, src[i], strlen(src[i]), &e);
		double ms;

		if (rc == QL_OK)
			rc = ql_tmpl_render(t, &env, &r, &e);
		ms = 1e3 * (double)(clock() - begin) / CLOCKS_PER_SEC;
		ql_rendered_free(&r);
		ql_tmpl_free(t);
		if (rc != QL_ELIMIT)
			fail_msg("%s: code %d", src[i], rc);
		if (ms > slowest) {
			slowest = ms;
			which = i;
		}
	}
	print_message("slowest: %.1f ms of processor time: %s\n", slowest, src[which]);
	json_decref(parsed);
	free(content);
	free(message);
	free(messages);
	free(vars);
}

static void deep_input(void **state)
{
	static const char *const open[] = {"{{ (", "{{ [", "{{ {'a':", "{% if 1 %}", "{{ -", "{{ not ", "{% for x in y %}", "{{ 1 if 1 else ",
					   "{{ f(", "{{ x[", "{% set x %}", "{% macro m() %}", "{{ 1|d("};

	(void)state;
	for (size_t i = 0; i < sizeof open / sizeof open[0]; i++) {
		/* "{{ (" once, then "(" many times */
		const char *again = strncmp(open[i], "{{ ", 3) == 0 ? open[i] + 3 : open[i];
		char *s = repeat(again, 5000, "", "", 0), *all = malloc(strlen(s) + 4);

		assert_non_null(all);
		(void)sprintf(all, "%s%s", again == open[i] ? "" : "{{ ", s);
		assert_int_equal(code(all), QL_ELIMIT);
		free(all);
		free(s);
	}
}

int main(void)
{
	const struct CMUnitTest t[] = {cmocka_unit_test(source), cmocka_unit_test(depth), cmocka_unit_test(nodes),
				       cmocka_unit_test(macros), cmocka_unit_test(loops), cmocka_unit_test(output),
				       cmocka_unit_test(bombs), cmocka_unit_test(deep_input)};

	return cmocka_run_group_tests(t, NULL, NULL);
}
