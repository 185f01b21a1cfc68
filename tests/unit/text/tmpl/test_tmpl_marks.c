/* test_tmpl_marks.c - which bytes of the output came from untrusted strings, and what {% generation %} produced. */
#include "tests/unit/text/tmpl/tmpl_util.h"

/* Renders; the untrusted bytes come back as they are, all others as '.'. */
static void marked(const char *src, const char *vars, const char *want)
{
	struct ql_rendered r = {0};
	struct ql_err e = {0};
	char got[512];
	size_t end = 0;

	if (run(src, strlen(src), vars, "{\"bos_token\":\"<s>\"}", &r, &e) != QL_OK)
		fail_msg("%s: %s", src, e.message);
	assert_true(r.text.len < sizeof got);
	memset(got, '.', r.text.len);
	got[r.text.len] = '\0';
	for (size_t i = 0; i < r.n_plain; i++) {
		assert_true(r.plain[i].begin < r.plain[i].end && r.plain[i].end <= r.text.len);
		assert_true(i == 0 || r.plain[i].begin > end); /* sorted and merged */
		end = r.plain[i].end;
		memcpy(got + r.plain[i].begin, r.text.data + r.plain[i].begin, end - r.plain[i].begin);
	}
	if (strcmp(got, want) != 0)
		fail_msg("%s\n  text     %s\n  marked   %s\n  expected %s", src, r.text.data, got, want);
	ql_rendered_free(&r);
}

#define V "{\"x\":\"abc\",\"y\":\" <de> \",\"n\":5,\"d\":{\"k\":\"v\"},\"l\":[\"p\",\"q\"],\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}," \
	  "{\"role\":\"we<ird\",\"content\":[{\"text\":\"T\"}]}]}"

static void marks(void **state)
{
	(void)state;
	marked("A{{ x }}B", V, ".abc.");
	marked("{{ bos_token }}{{ x }}", V, "...abc");
	marked("{{ 'A' + x + 'B' + x + x }}", V, ".abc.abcabc");
	marked("{{ 'A' ~ x ~ n ~ 'B' }}", V, ".abc..");
	marked("{{ y|trim }}|{{ x[1:] }}|{{ x[::-1] }}|{{ ('A' ~ x)[1:3] }}|{{ x[0] }}", V, "<de>.bc.cba.ab.a");
	marked("{{ x|upper }}{{ ('q' ~ x)|capitalize }}{{ x|replace('b', 'Z') }}{{ 'b'|replace('b', x) }}", V, "ABC.abca.cabc");
	marked("{{ x|replace('b', 'Z') }}", V, "a.c");
	marked("{{ d|tojson }}", V, "..k....v..");
	marked("{{ d }}{{ l }}", V, "..k....v....p....q..");
	marked("{{ l|join('-') }}{{ '%s:%s' % (x, 'k') }}{{ '{}!'.format(x) }}", V, "p.qabc..abc.");
	marked("{{ x.split('b') }}{% for c in x %}{{ c }}-{% endfor %}", V, "..a....c..a.b.c.");
	marked("{% set z %}[{{ x }}]{% endset %}{{ z }}{{ z|upper }}", V, ".abc..ABC.");
	marked("{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m(x) }}", V, ".abc.");
	marked("{% filter upper %}a{{ x }}{% endfilter %}", V, ".ABC");
	marked("{{ x if true }}{{ u|default(x) }}{{ 'lit' if x == 'abc' }}", V, "abcabc...");
	marked("{{ y|escape }}", V, " &lt;de&gt; ");
	marked("{{ {'a': x}|tojson(indent=1) }}", V, ".........abc...");
	/* a known role is the template's; any other text, wherever it comes from, is not */
	marked("{% for m in messages %}<|{{ m.role }}|>{% endfor %}", V, "........" "..we<ird..");
	marked("{{ messages[0].content }}{{ messages[1].content[0].text }}{% for k in d %}{{ k }}{% endfor %}", V, "hiTk");
}

static void generation(void **state)
{
	const char *src = "{% for m in messages %}{% if m.role == 'user' %}U:{{ m.content }}\n{% else %}A:{% generation %}{{ 'x' }}y"
			  "{% endgeneration %}\n{% endif %}{% endfor %}";
	struct ql_rendered r = {0};
	struct ql_err e = {0};

	(void)state;
	assert_int_equal(run(src, strlen(src), V, "{}", &r, &e), QL_OK);
	assert_string_equal(r.text.data, "U:hi\nA:xy"); /* trim_blocks: the newline after the end tag */
	assert_int_equal(r.n_generation, 1);
	assert_int_equal(r.generation[0].begin, 7);
	assert_int_equal(r.generation[0].end, 9);
	ql_rendered_free(&r);
	/* inside a captured block its place is unknown: no ranges, the text all the same */
	src = "{% set z %}{% generation %}a{% endgeneration %}{% endset %}{{ z }}";
	assert_int_equal(run(src, strlen(src), V, "{}", &r, &e), QL_OK);
	assert_string_equal(r.text.data, "a");
	assert_int_equal(r.n_generation, 0);
	ql_rendered_free(&r);
}

static void facts(void **state)
{
	struct ql_tmpl *t = NULL;
	const char *src = "{% if tools %}{% generation %}{% endgeneration %}{% endif %}";

	(void)state;
	assert_int_equal(ql_tmpl_compile(&t, src, strlen(src), NULL), QL_OK);
	assert_true(ql_tmpl_has_generation(t) && ql_tmpl_uses(t, "tools"));
	assert_false(ql_tmpl_uses(t, "tool"));
	ql_tmpl_free(t);
	ql_tmpl_free(NULL);
	ql_rendered_free(NULL);
}

int main(void)
{
	const struct CMUnitTest t[] = {cmocka_unit_test(marks), cmocka_unit_test(generation), cmocka_unit_test(facts)};

	return cmocka_run_group_tests(t, NULL, NULL);
}
