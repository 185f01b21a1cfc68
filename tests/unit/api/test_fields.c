/* test_fields.c - request fields by table: each limit, one above it, wrong types, null; query parameters. */
#include <string.h>

#include "api/fields.h"
#include "api/page.h"
#include "core/base/json.h"
#include "tests/unit/cm.h"

static const char *const words[] = {"red", "green", NULL};

struct out {
	struct ql_fint i, wide;
	struct ql_fnum x, open;
	struct ql_fbool b;
	struct ql_fstr s, w;
	const json_t *o, *a, *any;
};

static const struct ql_field table[] = {
	{.name = "i", .type = QL_FT_INT, .imin = 1, .imax = 16, .offset = offsetof(struct out, i)},
	{.name = "wide", .type = QL_FT_INT, .imin = INT64_MIN, .imax = INT64_MAX, .offset = offsetof(struct out, wide)},
	{.name = "x", .type = QL_FT_NUM, .nmin = -2, .nmax = 2, .offset = offsetof(struct out, x)},
	{.name = "open", .type = QL_FT_NUM, .flags = QL_FF_MIN_OPEN | QL_FF_MAX_OPEN, .nmin = 0, .nmax = 1,
	 .offset = offsetof(struct out, open)},
	{.name = "b", .type = QL_FT_BOOL, .offset = offsetof(struct out, b)},
	{.name = "s", .type = QL_FT_STR, .imin = 1, .imax = 4, .offset = offsetof(struct out, s)},
	{.name = "w", .type = QL_FT_STR, .words = words, .offset = offsetof(struct out, w)},
	{.name = "o", .type = QL_FT_OBJ, .offset = offsetof(struct out, o)},
	{.name = "a", .type = QL_FT_ARR, .imin = 1, .imax = 2, .offset = offsetof(struct out, a)},
	{.name = "any", .type = QL_FT_ANY, .offset = offsetof(struct out, any)},
};
#define N (sizeof table / sizeof table[0])

static int read_text(const char *text, struct out *out, struct ql_fault *f, json_t **keep)
{
	struct ql_err e = {0};

	*keep = NULL;
	assert_int_equal(ql_json_parse(text, strlen(text), 4096, keep, &e), QL_OK);
	*out = (struct out){0};
	*f = (struct ql_fault){0};
	return ql_fields_read(*keep, table, N, "", out, f);
}

static void accepted(void **state)
{
	static const char *const good[] = {
		"{}", "{\"i\":null,\"x\":null,\"b\":null,\"s\":null,\"o\":null,\"a\":null,\"w\":null}", "{\"i\":1}", "{\"i\":16}",
		"{\"wide\":-9223372036854775808}", "{\"wide\":9223372036854775807}", "{\"x\":-2}", "{\"x\":2.0}", "{\"x\":1}",
		"{\"open\":1e-300}", "{\"open\":0.999}", "{\"b\":true}", "{\"b\":false}", "{\"s\":\"abcd\"}", "{\"s\":\"a\"}",
		"{\"w\":\"green\"}", "{\"o\":{}}", "{\"a\":[1]}", "{\"a\":[1,2]}", "{\"any\":7}", "{\"unknown\":1}",
	};
	struct ql_fault f;
	struct out out;
	json_t *keep;

	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		if (read_text(good[i], &out, &f, &keep) != QL_OK)
			fail_msg("refused: %s (%s)", good[i], f.message);
		json_decref(keep);
	}
	assert_int_equal(read_text("{\"i\":7,\"x\":0.5,\"b\":true,\"s\":\"ab\",\"wide\":-1}", &out, &f, &keep), QL_OK);
	assert_true(out.i.set && out.i.v == 7 && out.x.set && out.x.v == 0.5 && out.b.set && out.b.v && out.s.len == 2);
	assert_true(out.wide.set && out.wide.v == -1 && !out.open.set && out.o == NULL);
	json_decref(keep);
}

static void refused(void **state)
{
	static const struct {
		const char *text, *param;
	} bad[] = {
		{"{\"i\":0}", "i"},	       {"{\"i\":17}", "i"},	  {"{\"i\":3.0}", "i"},	     {"{\"i\":true}", "i"},
		{"{\"i\":\"3\"}", "i"},	       {"{\"i\":[]}", "i"},	  {"{\"i\":-9223372036854775808}", "i"},
		{"{\"wide\":1.5}", "wide"},    {"{\"x\":-2.0001}", "x"},  {"{\"x\":2.0001}", "x"},   {"{\"x\":\"1\"}", "x"},
		{"{\"x\":true}", "x"},	       {"{\"x\":1e308}", "x"},	  {"{\"open\":0}", "open"},  {"{\"open\":1}", "open"},
		{"{\"b\":1}", "b"},	       {"{\"b\":\"true\"}", "b"}, {"{\"s\":\"\"}", "s"},     {"{\"s\":\"abcde\"}", "s"},
		{"{\"s\":5}", "s"},	       {"{\"w\":\"blue\"}", "w"}, {"{\"w\":\"Red\"}", "w"},  {"{\"w\":3}", "w"},
		{"{\"o\":[]}", "o"},	       {"{\"a\":{}}", "a"},	  {"{\"a\":[]}", "a"},	     {"{\"a\":[1,2,3]}", "a"},
	};
	struct ql_fault f;
	struct out out;
	json_t *keep;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		if (read_text(bad[i].text, &out, &f, &keep) == QL_OK)
			fail_msg("accepted: %s", bad[i].text);
		assert_string_equal(f.param, bad[i].param);
		assert_int_equal(f.status, 400);
		assert_string_equal(f.code, "invalid_value");
		json_decref(keep);
	}
}

static void required_and_unknown(void **state)
{
	const struct ql_field need = {.name = "model", .type = QL_FT_STR, .flags = QL_FF_REQUIRED, .imin = 1, .imax = 9};
	struct ql_fault f = {0};
	struct ql_fstr s = {0};
	json_t *v = json_pack("{s:n,s:i}", "model", "rank", 3);

	(void)state;
	assert_int_not_equal(ql_fields_read(v, &need, 1, "q.", &s, &f), QL_OK);
	assert_string_equal(f.code, "missing_required_parameter");
	assert_string_equal(f.param, "q.model");
	assert_int_not_equal(ql_fields_only(v, &need, 1, "q.", &f), QL_OK);
	assert_string_equal(f.param, "q.rank");
	assert_string_equal(f.code, "unsupported_parameter");
	(void)json_object_del(v, "rank");
	assert_int_equal(ql_fields_only(v, &need, 1, "q.", &f), QL_OK);
	json_decref(v);
}

static void queries(void **state)
{
	static const struct {
		const char *query;
		int64_t want; /* -1: fault */
	} limits[] = {
		{"", 20},	       {"limit=", 20},	 {"limit=0", 20},    {"limit=1", 1},	{"limit=100", 100}, {"limit=101", 100},
		{"limit=99999999", 100}, {"limit=-1", -1}, {"limit=x", -1},   {"limit=1.0", -1}, {"limit=1e2", -1},  {"limit=+5", -1},
		{"limit=%205", -1},    {"limit=5%20", -1}, {"limit=0x10", -1}, {"limit=9223372036854775808", -1}, {"limit=3&limit=4", -1},
		{"limit=true", -1},    {"limit=--1", -1},
	};

	(void)state;
	for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
		struct ql_fault f = {0};
		struct ql_target t;
		struct ql_page page;
		struct ql_err e;
		char raw[80] = "/x?";
		int rc;

		strcat(raw, limits[i].query);
		assert_int_equal(ql_target_parse(&t, raw, strlen(raw), &e), QL_OK);
		rc = ql_page_read(&t, 20, 100, &page, &f);
		if ((rc == QL_OK) != (limits[i].want >= 0) || (rc == QL_OK && page.limit != limits[i].want))
			fail_msg("%s", limits[i].query);
		if (rc != QL_OK)
			assert_string_equal(f.param, "limit");
		ql_target_free(&t);
	}
}

static void faults(void **state)
{
	struct ql_fault f = {0};
	json_t *v, *o;

	(void)state;
	(void)ql_bad(&f, 429, "queue_full", NULL, "bad \xff byte");
	v = ql_bad_json(&f, NULL);
	o = json_object_get(v, "error");
	assert_int_equal(json_object_size(o), 4);
	assert_string_equal(json_string_value(json_object_get(o, "message")), "bad ? byte");
	assert_string_equal(json_string_value(json_object_get(o, "type")), "rate_limit_error");
	assert_true(json_is_null(json_object_get(o, "param")));
	json_decref(v);
	(void)ql_bad(&f, 404, NULL, "id", "x");
	v = ql_bad_json(&f, NULL);
	o = json_object_get(v, "error");
	assert_true(json_is_null(json_object_get(o, "code")));
	assert_string_equal(json_string_value(json_object_get(o, "param")), "id");
	assert_string_equal(json_string_value(json_object_get(o, "type")), "invalid_request_error");
	json_decref(v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(accepted), cmocka_unit_test(refused),
					   cmocka_unit_test(required_and_unknown), cmocka_unit_test(queries),
					   cmocka_unit_test(faults)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
