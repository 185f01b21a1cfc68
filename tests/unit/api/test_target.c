/* test_target.c - the raw request target and the route table on hostile paths. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/router.h"
#include "core/base/limits.h"
#include "tests/unit/cm.h"

static void handler(struct ql_req *r) { (void)r; }

static const struct ql_route table[] = {
	{QL_GET, "/files", 0, 0, QL_BODY_NONE, handler},
	{QL_POST, "/files", 0, 0, QL_BODY_UPLOAD, handler},
	{QL_GET, "/files/{id}", 0, 0, QL_BODY_NONE, handler},
	{QL_DELETE, "/files/{id}", 0, 0, QL_BODY_NONE, handler},
	{QL_GET, "/files/{id}/content", 0, 0, QL_BODY_NONE, handler},
	{QL_GET, "/models/{model}", 0, 0, QL_BODY_NONE, handler},
	{QL_GET, "/metrics", 0, QL_ROUTE_BARE, QL_BODY_NONE, handler},
	{QL_GET, "/", 0, QL_ROUTE_BARE, QL_BODY_NONE, handler},
};
#define N (sizeof table / sizeof table[0])

static int parse(struct ql_target *t, const char *raw, size_t len)
{
	struct ql_err e = {0};
	/* An exact copy, so that a sanitiser sees one byte too many. */
	char *copy = malloc(len == 0 ? 1 : len);
	int rc;

	memcpy(copy, raw, len);
	rc = ql_target_parse(t, copy, len, &e);
	free(copy);
	return rc;
}

static void refused(void **state)
{
	static const char *const bad[] = {
		"",	       "x",	      "http://evil/x", "//evil/../x", "/%",	     "/%4",	    "/%4g",	  "/a%00b",
		"/a%0ab",      "/a%1fb",      "/a%7fb",	       "/.",	      "/..",	     "/a/../b",	    "/a/%2e%2e/b", "/%2e",
		"/a/.%2e",     "/a b",	      "/a\tb",	       "/a#b",	      "/a\\b",	     "/\x80",	    "/%ff",	  "/%c0%af",
		"/%ed%a0%80",  "/a?x=%00",    "/a?x=%zz",      "/a?%",	      "/a?x=%ff",    "*x",	    "**",	  "/a?b=%0d%0a",
		"/1/2/3/4/5/6/7/8/9/10/11/12/13",
	};
	struct ql_target t;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		if (parse(&t, bad[i], strlen(bad[i])) == QL_OK)
			fail_msg("accepted: %s", bad[i]);
		assert_null(t.mem);
	}
	assert_int_not_equal(parse(&t, "/a\0b", 4), QL_OK);
}

static void every_byte(void **state)
{
	(void)state;
	for (int c = 0; c < 256; c++) {
		char raw[4] = {'/', 'a', (char)c, 'b'};
		struct ql_target t;
		bool plain = c > 0x20 && c < 0x7f && c != '#' && c != '\\' && c != '%';

		assert_int_equal(parse(&t, raw, 4) == QL_OK, plain);
		ql_target_free(&t);
	}
	for (int c = 0; c < 256; c++) {
		char raw[8];
		struct ql_target t;
		/* One escaped byte is text unless it is a control byte, DEL, or a byte that is not UTF-8 alone. */
		bool plain = c >= 0x20 && c < 0x7f;

		(void)snprintf(raw, sizeof raw, "/a%%%02Xb", (unsigned)c);
		assert_int_equal(parse(&t, raw, strlen(raw)) == QL_OK, plain);
		if (plain)
			assert_int_equal((unsigned char)t.segment[0][1], c);
		ql_target_free(&t);
	}
}

static void segments(void **state)
{
	struct ql_target t;

	(void)state;
	assert_int_equal(parse(&t, "/v1/models/org%2Fname", 21), QL_OK);
	assert_int_equal(t.n_segments, 3);
	assert_string_equal(t.segment[2], "org/name");
	ql_target_free(&t);
	assert_int_equal(parse(&t, "/v1/models/ft:a:b::c?x=1+2&y=%2B&z&&=q", 38), QL_OK);
	assert_string_equal(t.segment[2], "ft:a:b::c");
	assert_string_equal(ql_target_query(&t, "x", NULL), "1 2");
	assert_string_equal(ql_target_query(&t, "y", NULL), "+");
	assert_string_equal(ql_target_query(&t, "z", NULL), "");
	assert_string_equal(ql_target_query(&t, "", NULL), "q");
	assert_null(ql_target_query(&t, "w", NULL));
	ql_target_free(&t);
	assert_int_equal(parse(&t, "/", 1), QL_OK);
	assert_int_equal(t.n_segments, 1);
	assert_string_equal(t.segment[0], "");
	ql_target_free(&t);
	assert_int_equal(parse(&t, "*", 1), QL_OK);
	assert_true(t.asterisk);
	ql_target_free(&t);
}

static void limits(void **state)
{
	char raw[QL_HTTP_URI_MAX + 2];
	struct ql_target t;
	size_t times;

	(void)state;
	memset(raw, 'a', sizeof raw);
	raw[0] = '/';
	assert_int_equal(parse(&t, raw, QL_HTTP_URI_MAX), QL_OK);
	ql_target_free(&t);
	assert_int_equal(parse(&t, raw, QL_HTTP_URI_MAX + 1), QL_ELIMIT);
	for (size_t n = QL_TARGET_QUERY_MAX; n <= QL_TARGET_QUERY_MAX + 1; n++) {
		strcpy(raw, "/?");
		for (size_t i = 0; i < n; i++)
			strcat(raw, "k=v&");
		assert_int_equal(parse(&t, raw, strlen(raw)), n == QL_TARGET_QUERY_MAX ? QL_OK : QL_ELIMIT);
		if (n == QL_TARGET_QUERY_MAX) {
			(void)ql_target_query(&t, "k", &times);
			assert_int_equal(times, n);
		}
		ql_target_free(&t);
	}
	/* The densest case for the memory kept: single separators. */
	memset(raw, '/', 12);
	raw[12] = '?';
	for (size_t i = 13; i < 13 + QL_TARGET_QUERY_MAX * 2; i += 2) {
		raw[i] = '=';
		raw[i + 1] = '&';
	}
	assert_int_equal(parse(&t, raw, 13 + QL_TARGET_QUERY_MAX * 2), QL_OK);
	ql_target_free(&t);
}

static struct ql_match find(struct ql_target *t, const char *method, const char *raw)
{
	assert_int_equal(parse(t, raw, strlen(raw)), QL_OK);
	return ql_route_find(table, N, ql_method_of(method), t);
}

static void routes(void **state)
{
	static const struct {
		const char *method, *target;
		int row; /* -1: known path, other methods; -2: unknown */
		const char *param;
	} cases[] = {
		{"GET", "/v1/files", 0, NULL},	     {"GET", "/files", 0, NULL},	{"HEAD", "/files", 0, NULL},
		{"POST", "/v1/files", 1, NULL},	     {"DELETE", "/v1/files", -1, NULL}, {"PUT", "/v1/files", -1, NULL},
		{"GET", "/v1/files/", -2, NULL},     {"GET", "/v1/files/x", 2, "x"},	{"GET", "//files", -2, NULL},
		{"GET", "/v1//files", -2, NULL},     {"GET", "/v1/v1/files", -2, NULL}, {"DELETE", "/files/x", 3, "x"},
		{"GET", "/files/a%2Fcontent", 2, "a/content"},
		{"GET", "/files/a/content", 4, "a"}, {"GET", "/files//content", -2, NULL}, {"GET", "/files/a/content/", -2, NULL},
		{"GET", "/models/%7Bx%7D", 5, "{x}"}, {"GET", "/metrics", 6, NULL},	{"GET", "/v1/metrics", -2, NULL},
		{"GET", "/", 7, NULL},		     {"GET", "/v1", -2, NULL},		{"GET", "/v1/", -2, NULL},
		{"GET", "/Files", -2, NULL},	     {"get", "/files", -1, NULL},	{"GET", "/%66iles", 0, NULL},
		{"GET", "/%76%31/files", 0, NULL},   {"GET", "/v2/files", -2, NULL},	{"GET", "/files/%2e%2e%2f", 2, "../"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct ql_target t;
		struct ql_match m = find(&t, cases[i].method, cases[i].target);
		int row = m.route != NULL ? (int)(m.route - table) : m.methods != 0 ? -1 : -2;

		if (row != cases[i].row)
			fail_msg("%s %s: row %d, not %d", cases[i].method, cases[i].target, row, cases[i].row);
		if (cases[i].param != NULL)
			assert_string_equal(m.param[0], cases[i].param);
		ql_target_free(&t);
	}
}

static void allow(void **state)
{
	struct ql_target t;
	char out[40];

	(void)state;
	ql_route_allow(find(&t, "PUT", "/files/x").methods, out);
	assert_string_equal(out, "GET, HEAD, DELETE, OPTIONS");
	ql_target_free(&t);
	ql_route_allow(QL_POST, out);
	assert_string_equal(out, "POST, OPTIONS");
	ql_route_allow(QL_GET | QL_POST | QL_DELETE, out);
	assert_string_equal(out, "GET, HEAD, POST, DELETE, OPTIONS");
	ql_route_allow(0, out);
	assert_string_equal(out, "OPTIONS");
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(refused),  cmocka_unit_test(every_byte), cmocka_unit_test(segments),
					   cmocka_unit_test(limits),   cmocka_unit_test(routes),     cmocka_unit_test(allow)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
