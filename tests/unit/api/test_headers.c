/* test_headers.c - framing that two readers could read in two ways, Host, Origin, tags, ranges, and event framing. */
#include <stdio.h>
#include <string.h>

#include "api/headers.h"
#include "api/range.h"
#include "api/sse.h"
#include "core/base/limits.h"
#include "tests/unit/cm.h"

struct h {
	const char *name, *value;
};

static int check(const struct h *list, size_t n, struct ql_framing *out, struct ql_fault *f)
{
	struct ql_headers h = {0};

	*f = (struct ql_fault){0};
	for (size_t i = 0; i < n && list[i].name != NULL; i++)
		ql_headers_add(&h, list[i].name, list[i].value, strlen(list[i].value));
	return ql_headers_check(&h, out, f);
}

static void framing(void **state)
{
	static const struct {
		struct h list[4];
		int status; /* 0 = fine */
		bool chunked;
		uint64_t length;
	} cases[] = {
		{{{"Host", "x"}}, 0, false, 0},
		{{{"Host", "x"}, {"Content-Length", "12"}}, 0, false, 12},
		{{{"Host", "x"}, {"content-length", "0"}}, 0, false, 0},
		{{{"Host", "x"}, {"Transfer-Encoding", "Chunked"}}, 0, true, 0},
		{{{"Host", "x"}, {"Content-Length", "1"}, {"Content-Length", "1"}}, 400, false, 0},
		{{{"Host", "x"}, {"Content-Length", "1"}, {"Transfer-Encoding", "chunked"}}, 400, false, 0},
		{{{"Host", "x"}, {"Transfer-Encoding", "gzip, chunked"}}, 400, false, 0},
		{{{"Host", "x"}, {"Transfer-Encoding", "identity"}}, 400, false, 0},
		{{{"Host", "x"}, {"Transfer-Encoding", "chunked, chunked"}}, 400, false, 0},
		{{{"Host", "x"}, {"Transfer-Encoding", ""}}, 400, false, 0},
		{{{"Host", "x"}, {"Transfer-Encoding", "chunked"}, {"Transfer-Encoding", "chunked"}}, 400, false, 0},
		{{{"Host", "x"}, {"Host", "x"}}, 400, false, 0},
		{{{"Host", "x"}, {"Authorization", "a"}, {"authorization", "a"}}, 400, false, 0},
		{{{"Host", "x"}, {"Content-Type", "a"}, {"Content-Type", "a"}}, 400, false, 0},
		{{{"Host", "x"}, {"Idempotency-Key", "a"}, {"Idempotency-Key", "b"}}, 400, false, 0},
		{{{"Host", "x"}, {"Content-Length", ""}}, 400, false, 0},
		{{{"Host", "x"}, {"Content-Length", "-1"}}, 400, false, 0},
		{{{"Host", "x"}, {"Content-Length", "+1"}}, 400, false, 0},
		{{{"Host", "x"}, {"Content-Length", "1,1"}}, 400, false, 0},
		{{{"Host", "x"}, {"Content-Length", "0x10"}}, 400, false, 0},
		{{{"Host", "x"}, {"Content-Length", "18446744073709551615"}}, 0, false, UINT64_MAX},
		{{{"Host", "x"}, {"Content-Length", "18446744073709551616"}}, 400, false, 0},
		{{{"Host", "x"}, {"X", "a\rb"}}, 400, false, 0},
		{{{"Host", "x"}, {"X", "a\nb"}}, 400, false, 0},
		{{{"Host", "x"}, {"X y", "a"}}, 400, false, 0},
		{{{"Host", "x"}, {"X", "a\tb"}}, 0, false, 0},
	};
	struct ql_framing out;
	struct ql_fault f;

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		int rc = check(cases[i].list, 4, &out, &f);

		if ((rc == QL_OK ? 0 : f.status) != cases[i].status)
			fail_msg("case %zu: %d %s", i, f.status, f.message);
		if (rc == QL_OK) {
			assert_int_equal(out.chunked, cases[i].chunked);
			assert_true(out.length == cases[i].length);
		}
	}
}

static void sizes(void **state)
{
	struct ql_headers h = {0};
	struct ql_framing out;
	struct ql_fault f;
	static char big[QL_HTTP_HEAD_MAX];

	(void)state;
	for (int i = 0; i < QL_HTTP_HEADERS_MAX; i++)
		ql_headers_add(&h, "X", "y", 1);
	assert_int_equal(ql_headers_check(&h, &out, &f), QL_OK);
	ql_headers_add(&h, "X", "y", 1);
	assert_int_not_equal(ql_headers_check(&h, &out, &f), QL_OK);
	assert_int_equal(f.status, 431);
	h = (struct ql_headers){0};
	memset(big, 'a', sizeof big - 6);
	ql_headers_add(&h, "X", big, sizeof big - 6);
	assert_int_equal(ql_headers_check(&h, &out, &f), QL_OK);
	ql_headers_add(&h, "Y", "", 0);
	assert_int_not_equal(ql_headers_check(&h, &out, &f), QL_OK);
	/* a NUL inside a value */
	h = (struct ql_headers){0};
	ql_headers_add(&h, "X", "a\0b", 3);
	assert_int_not_equal(ql_headers_check(&h, &out, &f), QL_OK);
	assert_int_equal(f.status, 400);
}

static void hosts(void **state)
{
	static const char *const good[] = {"localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:8177", "[::1]", "[::1]:1", "my.host",
					   "MY.host:99"};
	static const char *const bad[] = {"",		"evil.com",	   "localhost.evil.com", "127.0.0.1.evil.com", "localhost:",
					  "localhost:x", "localhost:123456", "[::1",		 "[::1]x",	       "::1",
					  "127.0.0.2",	"localhost@evil",  "localhost/",	 " localhost",	       "0.0.0.0"};
	char name[] = "my.host";
	char *list[] = {name};
	const struct ql_strings more = {1, list};
	struct ql_fault f;

	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
		assert_int_equal(ql_host_check(good[i], &more, &f), QL_OK);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		if (ql_host_check(bad[i], &more, &f) == QL_OK)
			fail_msg("accepted: %s", bad[i]);
		assert_int_equal(f.status, 403);
		assert_string_equal(f.code, "host_not_allowed");
	}
	assert_int_not_equal(ql_host_check(NULL, &more, &f), QL_OK);
}

static void origins(void **state)
{
	char name[] = "https://app.example";
	char *list[] = {name};
	const struct ql_strings allowed = {1, list};
	struct ql_fault f;
	bool listed;

	(void)state;
	assert_int_equal(ql_origin_check(NULL, &allowed, &listed, &f), QL_OK);
	assert_false(listed);
	assert_int_equal(ql_origin_check("https://app.example", &allowed, &listed, &f), QL_OK);
	assert_true(listed);
	assert_int_not_equal(ql_origin_check("http://app.example", &allowed, &listed, &f), QL_OK);
	assert_int_not_equal(ql_origin_check("https://app.example.evil", &allowed, &listed, &f), QL_OK);
	assert_int_not_equal(ql_origin_check("null", &allowed, &listed, &f), QL_OK);
	assert_int_not_equal(ql_origin_check("", &allowed, &listed, &f), QL_OK);
	assert_int_equal(f.status, 403);
}

static void tags(void **state)
{
	(void)state;
	assert_true(ql_etag_match("W/\"r1-2\"", "W/\"r1-2\""));
	assert_true(ql_etag_match("\"r1-2\"", "W/\"r1-2\""));
	assert_true(ql_etag_match("\"x\", W/\"r1-2\" , \"y\"", "W/\"r1-2\""));
	assert_true(ql_etag_match("*", "W/\"r1-2\""));
	assert_false(ql_etag_match(NULL, "W/\"r1-2\""));
	assert_false(ql_etag_match("", "W/\"r1-2\""));
	assert_false(ql_etag_match("W/\"r1-20\"", "W/\"r1-2\""));
	assert_false(ql_etag_match("W/\"r1-2", "W/\"r1-2\""));
	assert_false(ql_etag_match(",,,", "W/\"r1-2\""));
}

static void keys(void **state)
{
	char key[QL_IDEMPOTENCY_KEY_MAX + 2];
	struct ql_fault f;

	(void)state;
	memset(key, 'k', sizeof key);
	key[QL_IDEMPOTENCY_KEY_MAX + 1] = '\0';
	assert_int_not_equal(ql_idem_key_check(key, &f), QL_OK);
	key[QL_IDEMPOTENCY_KEY_MAX] = '\0';
	assert_int_equal(ql_idem_key_check(key, &f), QL_OK);
	assert_int_not_equal(ql_idem_key_check("", &f), QL_OK);
	assert_int_not_equal(ql_idem_key_check("a b", &f), QL_OK);
	assert_int_not_equal(ql_idem_key_check("a\xc3\xa9", &f), QL_OK);
}

static void ranges(void **state)
{
	static const struct {
		const char *value;
		uint64_t size;
		enum ql_range want;
		uint64_t first, last;
	} cases[] = {
		{NULL, 10, QL_RANGE_NONE, 0, 0},	 {"bytes=0-0", 10, QL_RANGE_ONE, 0, 0},
		{"bytes=0-9", 10, QL_RANGE_ONE, 0, 9},	 {"bytes=0-10", 10, QL_RANGE_ONE, 0, 9},
		{"bytes=3-", 10, QL_RANGE_ONE, 3, 9},	 {"bytes=9-", 10, QL_RANGE_ONE, 9, 9},
		{"bytes=10-", 10, QL_RANGE_UNSATISFIABLE, 0, 0}, {"bytes=-3", 10, QL_RANGE_ONE, 7, 9},
		{"bytes=-30", 10, QL_RANGE_ONE, 0, 9},	 {"bytes=-0", 10, QL_RANGE_UNSATISFIABLE, 0, 0},
		{"bytes=-1", 0, QL_RANGE_UNSATISFIABLE, 0, 0}, {"bytes=0-", 0, QL_RANGE_UNSATISFIABLE, 0, 0},
		{"bytes=5-4", 10, QL_RANGE_NONE, 0, 0},	 {"bytes=0-1,3-4", 10, QL_RANGE_NONE, 0, 0},
		{"bytes=a-b", 10, QL_RANGE_NONE, 0, 0},	 {"bytes=", 10, QL_RANGE_NONE, 0, 0},
		{"bytes=-", 10, QL_RANGE_NONE, 0, 0},	 {"items=0-1", 10, QL_RANGE_NONE, 0, 0},
		{"bytes=1", 10, QL_RANGE_NONE, 0, 0},	 {"bytes= 1-2 ", 10, QL_RANGE_ONE, 1, 2},
		{"bytes=0-99999999999999999999999", 10, QL_RANGE_ONE, 0, 9},
		{"bytes=99999999999999999999999-", 10, QL_RANGE_UNSATISFIABLE, 0, 0},
		{"bytes=-99999999999999999999999", 10, QL_RANGE_ONE, 0, 9},
		{"bytes=--1", 10, QL_RANGE_NONE, 0, 0},	 {"BYTES=1-1", 10, QL_RANGE_ONE, 1, 1},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		uint64_t first = 0, last = 0;
		enum ql_range got = ql_range_parse(cases[i].value, cases[i].size, &first, &last);

		if (got != cases[i].want || (got == QL_RANGE_ONE && (first != cases[i].first || last != cases[i].last)))
			fail_msg("%s of %llu: %d %llu-%llu", cases[i].value, (unsigned long long)cases[i].size, (int)got,
				 (unsigned long long)first, (unsigned long long)last);
	}
}

static void events(void **state)
{
	struct ql_buf b = {0};
	json_t *v = json_pack("{s:s}", "text", "a\nb\r\n\n");

	(void)state;
	assert_int_equal(ql_sse_retry(&b, 2000), QL_OK);
	assert_int_equal(ql_sse_json(&b, "ftevent-1", "fine_tuning.job.event", v), QL_OK);
	assert_int_equal(ql_sse_comment(&b, "ping"), QL_OK);
	assert_int_equal(ql_sse_json(&b, NULL, NULL, v), QL_OK);
	assert_int_equal(ql_sse_text(&b, "[DONE]"), QL_OK);
	assert_string_equal(b.data, "retry: 2000\n\n"
				    "id: ftevent-1\nevent: fine_tuning.job.event\ndata: {\"text\":\"a\\nb\\r\\n\\n\"}\n\n"
				    ": ping\n\n"
				    "data: {\"text\":\"a\\nb\\r\\n\\n\"}\n\n"
				    "data: [DONE]\n\n");
	ql_buf_reset(&b);
	assert_int_equal(ql_sse_text(&b, "a\nb\r\nc"), QL_OK);
	assert_string_equal(b.data, "data: a\ndata: b\ndata: c\n\n");
	ql_buf_free(&b);
	json_decref(v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(framing), cmocka_unit_test(sizes),	cmocka_unit_test(hosts),
					   cmocka_unit_test(origins), cmocka_unit_test(tags),	cmocka_unit_test(keys),
					   cmocka_unit_test(ranges),  cmocka_unit_test(events)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
