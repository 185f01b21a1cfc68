/* test_tmpl_render.c - what must come out exactly as Python's jinja2 has it; each row was checked against jinja2 3.1.6. */
#include "tests/unit/text/tmpl/tmpl_util.h"

#define VARS "{\"s\":\"text\",\"d\":{\"name\":\"Bob\",\"n\":3},\"l\":[1,2,3],\"messages\":[{\"role\":\"user\",\"content\":\"a\"}," \
	     "{\"role\":\"assistant\",\"content\":\"b\"}]}"

static void white_space(void **state)
{
	(void)state;
	check("a\n", "{}", "a");
	check("a\n\n", "{}", "a\n");
	check("a\r\nb\rc", "{}", "a\nb\nc");
	check("{% if true %}\nx\n{% endif %}\ny", "{}", "x\ny");
	check("{# c #}\ny", "{}", "y");
	check("{{ 1 }}\ny", "{}", "1\ny");
	check("  {% if true %}\n  x\n\t{% endif %}\n", "{}", "  x\n");
	check("  {{ 1 }}", "{}", "  1");
	check("a {% if true %}b{% endif %}", "{}", "a b");
	check("a \n\n {%- if true -%} \n b \n {%- endif -%} \n c", "{}", "abc");
	check("{{-7}}", "{}", "7");
	check("{{ -7 }}", "{}", "-7");
	check("  {%+ if true %}x{% endif +%}\ny", "{}", "  x\ny");
	check("{% raw %}{{ x }}{% endraw %}", "{}", "{{ x }}");
	check("\xc2\xa0{%- if true %}x{% endif %}", "{}", "x");
}

static void printing(void **state)
{
	(void)state;
	check("{{ none }} {{ true }} {{ 1.0 }}", "{}", "None True 1.0");
	check("{{ [1,'a',none] }} {{ {'a':1} }} {{ (1,) }}", "{}", "[1, 'a', None] {'a': 1} (1,)");
	check("{{ [\"it's\", '\"', 'b\\'\"', '\\n\\x7f\xc3\xa9'] }}", "{}", "[\"it's\", '\"', 'b\\'\"', '\\n\\x7f\xc3\xa9']");
	check("{{ 1e20 }} {{ 0.1+0.2 }} {{ 7//2 }} {{ 7/2 }}", "{}", "1e+20 0.30000000000000004 3 3.5");
	check("{{ 1e15 }} {{ 1e16 }} {{ 0.0001 }} {{ 1e-5 }} {{ 5.684341886080802e-14 }} {{ -0.0 }}", "{}",
	      "1000000000000000.0 1e+16 0.0001 1e-05 5.684341886080802e-14 -0.0");
	check("{{ x }}[{{ 5.0 }}]", "{\"x\":1.5}", "1.5[5.0]");
	check("{{ -7//2 }} {{ -7%3 }} {{ 7%-3 }} {{ 2**10 }} {{ 2**-1 }}", "{}", "-4 2 -2 1024 0.5");
	refuse("{{ 9223372036854775807 + 1 }}", "{}", QL_ELIMIT, "64 bits");
	refuse("{{ 1/0 }}", "{}", QL_EINVAL, "ZeroDivisionError");
}

static void undefined(void **state)
{
	(void)state;
	check("[{{ x }}]{{ 'a' in x }}{{ x is defined }}{% if x %}y{% endif %}", "{}", "[]FalseFalse");
	refuse("{{ x.y }}", "{}", QL_EINVAL, "line 1: UndefinedError: 'x' is undefined");
	refuse("\n\n{{ x['y'] }}", "{}", QL_EINVAL, "line 3");
	check("{{ d.missing }}{{ d['missing'] is defined }}{{ none.x is defined }}", VARS, "FalseFalse");
	refuse("{{ d.missing.x }}", VARS, QL_EINVAL, "'dict object' has no attribute 'missing'");
	check("{{ 'a' if false }}{{ 1 and 2 }}{{ 0 or 'x' }}", "{}", "2x");
}

static void access(void **state)
{
	(void)state;
	check("{{ d.items() | list }}", "{\"d\":{\"items\":5}}", "[('items', 5)]");
	check("{{ d['items'] }}{{ d.get('q') }}{{ d.get('q', 7) }}", "{\"d\":{\"items\":5}}", "5None7");
	check("{{ 'h\xc3\xa9llo'[1] }}{{ 'h\xc3\xa9llo'|length }}{{ 'h\xc3\xa9llo'[::-1] }}{{ 'h\xc3\xa9llo'[1:3] }}", "{}", "\xc3\xa9" "5oll\xc3\xa9h\xc3\xa9l");
	check("{{ l[1:] }}{{ l[:2] }}{{ l[::-1] }}{{ l[-1] }}{{ l[9] is defined }}", VARS, "[2, 3][1, 2][3, 2, 1]3False");
	check("{{ s.__class__ }}{{ s['__class__'] }}", VARS, "");
	refuse("{{ s.__class__.__mro__ }}", VARS, QL_EINVAL, "SecurityError");
	refuse("{{ l.append(1) }}", VARS, QL_EINVAL, "SecurityError");
	refuse("{{ d.update({'a': 1}) }}", VARS, QL_EINVAL, "SecurityError");
	refuse("{{ d.pop('n') }}", VARS, QL_EINVAL, "SecurityError");
	refuse("{% set ns = namespace() %}{% set ns._x = 1 %}", VARS, QL_EINVAL, "SecurityError");
	refuse("{{ namespace(_x=1) }}", VARS, QL_EINVAL, "SecurityError");
}

static void operators(void **state)
{
	(void)state;
	refuse("{{ 'a' + 1 }}", "{}", QL_EINVAL, "TypeError: can only concatenate str (not \"int\") to str");
	check("{{ 'a' ~ 1 ~ none }}", "{}", "a1None");
	refuse("{{ 1 < 'a' }}", "{}", QL_EINVAL, "TypeError");
	refuse("{{ 1 in 'xyz' }}", "{}", QL_EINVAL, "TypeError");
	check("{{ 1 < 2 < 3 }}{{ 1 == true }}{{ 3 not in [1] }}{{ not 1 in [1] }}", "{}", "TrueTrueTrueFalse");
	check("{{ 'a' 'b' \"c\" }}{{ 2**3**2 }}{{ -2**2 }}", "{}", "abc644");
}

static void scopes(void **state)
{
	(void)state;
	check("{% set x = 0 %}{% for i in l %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}", VARS, "1230");
	check("{% set ns = namespace(x=0) %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}", VARS, "6");
	check("{% if true %}{% set x = 1 %}{% endif %}{{ x }}", VARS, "1");
	check("{% macro m(a, b=a) %}{{ a }}{{ b }}{% set q = 1 %}{% endmacro %}{{ m(1) }}{{ m(b=2, a=3) }}{{ q is defined }}", VARS, "1132False");
	check("{% set x %}a{{ 1 }}{% endset %}{{ x|upper }}", VARS, "A1");
	check("{% for i in l if i != 2 %}{{ loop.index }}{{ loop.last }}{% else %}e{% endfor %}", VARS, "1False2True");
	check("{% for i in l %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% if i == 3 %}{% break %}{% endif %}{% endfor %}", VARS, "13");
	check("{% for i in [] %}x{% else %}e{% endfor %}{% for k, v in d|items %}{{ k }}{{ v }}{% endfor %}", VARS, "enameBobn3");
	check("{% for i in l %}{{ loop.previtem }}{{ loop.cycle('a','b') }}{{ loop.nextitem }}{{ loop.revindex }} {% endfor %}", VARS, "a23 1b32 2a1 ");
	check("{% macro m() %}[{{ caller(1) }}]{% endmacro %}{% call(x) m() %}<{{ x }}>{% endcall %}", "{}", "[<1>]");
}

static void filters(void **state)
{
	(void)state;
	check("{{ {'a': [1, '\xc3\xa9'], 'b': none}|tojson }}", "{}", "{\"a\": [1, \"\xc3\xa9\"], \"b\": null}");
	check("{{ {'a': [1], 'b': {}}|tojson(indent=2) }}", "{}", "{\n  \"a\": [\n    1\n  ],\n  \"b\": {}\n}");
	check("{{ '<&\\'\\u2028\\x7f\\n\\t\\x01\\\\\"'|tojson }}", "{}", "\"<&'\xe2\x80\xa8\x7f\\n\\t\\u0001\\\\\\\"\"");
	check("{{ [1.0, 1e100, true]|tojson }}{{ {'b':1,'a':2}|tojson(sort_keys=true, separators=(',',':')) }}", "{}",
	      "[1.0, 1e+100, true]{\"a\":2,\"b\":1}");
	refuse("{{ x|tojson }}", "{}", QL_EINVAL, "Object of type Undefined is not JSON serializable");
	check("{{ ['b','A','c']|sort }}{{ {'b':1,'A':2}|dictsort }}{{ ['a','A']|unique|list }}", "{}", "['A', 'b', 'c'][('A', 2), ('b', 1)]['a']");
	check("{{ x|default('d') }}{{ none|default('d') }}{{ none|default('d', true) }}{{ ''|d('e', true) }}", "{}", "dNonede");
	check("{{ ('<a>'|safe) + '<b>' }}{{ ('<a>'|safe) ~ '<b>' }}{{ '<a>'|safe }}", "{}", "<a>&lt;b&gt;<a><b><a>");
	check("{{ messages|map(attribute='role')|join('/') }}{{ messages|selectattr('role','equalto','user')|list|length }}"
	      "{{ messages|rejectattr('role','eq','user')|map(attribute='content')|first }}", VARS, "user/assistant1b");
	check("{{ messages|selectattr('role')|list|length }}{{ 'y' if messages|selectattr('role','eq','nobody') }}", VARS, "2y");
	refuse("{{ messages|selectattr('role')|length }}", VARS, QL_EINVAL, "object of type 'generator' has no len()");
	check("{{ ' x '|trim }}{{ 'ab'|upper }}{{ 'a-b'|title }}{{ 'aB'|capitalize }}{{ '42.7'|int }}{{ 2.5|round }}{{ -3|abs }}", "{}", "xABA-BAb422.03");
	check("{{ 'a\nb\n\nc'|indent(2) }}{{ 'aXb'|replace('X','-') }}{{ '%s=%d'|format('a', 1) }}", "{}", "a\n  b\n\n  ca-ba=1");
	refuse("{{ 1|nosuch }}", "{}", QL_EFORMAT, "No filter named 'nosuch'.");
	refuse("{{ 'a'|urlize }}", "{}", QL_EUNSUPPORTED, "urlize");
	check("{% if false %}{{ 1|nosuch }}{% endif %}ok", "{}", "ok");
}

static void tests_and_methods(void **state)
{
	(void)state;
	check("{{ s is string }}{{ d is mapping }}{{ l is sequence }}{{ s is iterable }}{{ 5 is number }}{{ 5 is odd }}{{ none is none }}"
	      "{{ true is boolean }}{{ 5 is in [5] }}{{ 5 is equalto 6 }}{{ s is not none }}", VARS,
	      "TrueTrueTrueTrueTrueTrueTrueTrueTrueFalseTrue");
	check("{{ 'a,b'.split(',') }}{{ ' a  b '.split() }}{{ '<t>x</t>y'.split('</t>')[-1] }}{{ 'xxa'.lstrip('x') }}{{ 'ab'.startswith(('x','a')) }}",
	      "{}", "['a', 'b']['a', 'b']yaTrue");
	check("{{ 'abcabc'.find('c') }}{{ 'aa'.count('a') }}{{ ','.join(['a','b']) }}{{ '{} {x}'.format(1, x=2) }}{{ 'Stra\xc3\x9f" "e'.upper() }}",
	      "{}", "22a,b1 2STRASSE");
	check("{{ '\xce\x91\xce\xa3 \xce\xa3'.lower() }}", "{}", "\xce\xb1\xcf\x82 \xcf\x83");
	refuse("{{ 'a'.encode() }}", "{}", QL_EUNSUPPORTED, "encode");
}

static void functions(void **state)
{
	struct ql_rendered r = {0};
	struct ql_err e = {0};
	const char *src = "{{ raise_exception('Roles must alternate: ' ~ 1) }}";

	(void)state;
	assert_int_equal(run(src, strlen(src), "{}", "{}", &r, &e), QL_EINVAL);
	assert_string_equal(e.message, "Roles must alternate: 1");
	assert_string_equal(e.param, "messages");
	(void)setenv("TZ", "UTC", 1);
	check("{{ strftime_now('%d %b %Y %H:%M%%') }}", "{}", "25 Jul 2025 10:00%");
	check("{{ range(3)|list }}{{ range(5, 0, -2)|list }}{{ dict(a=1) }}{{ namespace(a=1).a }}", "{}", "[0, 1, 2][5, 3, 1]{'a': 1}1");
	refuse("{{ range(100001) }}", "{}", QL_EINVAL, "OverflowError");
}

static void refused(void **state)
{
	static const char *const tags[] = {"include 'x'", "import 'x' as y", "extends 'x'", "block a", "autoescape true",
					   "from 'x' import y", "for i in l recursive"};
	static const char *const broken[] = {"{{ 1", "{% if x %}", "{{ 'a }}", "{% endif %}", "{{ (1 }}", "{% set 1 = 2 %}", "{% nosuch %}",
					     "{% for x %}{% endfor %}", "{# x", "{{ }}", "{{ a b }}", "{% break %}", "{{ 1 is nosuch }}"};
	char src[80];

	(void)state;
	for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++) {
		(void)snprintf(src, sizeof src, "a\n{%% %s %%}", tags[i]);
		refuse(src, "{}", QL_EUNSUPPORTED, "template line 2: ");
	}
	for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++)
		refuse(broken[i], "{}", QL_EFORMAT, "template line 1: ");
	refuse("\xff", "{}", QL_EFORMAT, "UTF-8");
}

int main(void)
{
	const struct CMUnitTest t[] = {cmocka_unit_test(white_space), cmocka_unit_test(printing), cmocka_unit_test(undefined),
				       cmocka_unit_test(access), cmocka_unit_test(operators), cmocka_unit_test(scopes),
				       cmocka_unit_test(filters), cmocka_unit_test(tests_and_methods), cmocka_unit_test(functions),
				       cmocka_unit_test(refused)};

	return cmocka_run_group_tests(t, NULL, NULL);
}
