/* The codec of frames: any split of the stream gives the same frames; hostile frames end the peer and never cost memory. */
#include "tests/unit/cm.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/limits.h"
#include "daemon/frame.h"

struct seen {
	int n;
	char types[16][16];
	int fail_at;
};

static int on_frame(void *user, json_t *f, struct ql_err *e)
{
	struct seen *s = user;

	if (s->n == s->fail_at - 1)
		return ql_err_set(e, QL_EINTERNAL, "stop");
	(void)snprintf(s->types[s->n++], 16, "%s", json_string_value(json_object_get(f, "type")));
	return QL_OK;
}

static void add(struct ql_buf *b, const char *type)
{
	json_t *f = json_pack("{s:s,s:i}", "type", type, "n", 5);

	assert_int_equal(ql_frame_encode(f, b, NULL), QL_OK);
	json_decref(f);
}

static void splits(void **state)
{
	struct ql_buf b = {0};

	(void)state;
	add(&b, "one");
	add(&b, "two");
	add(&b, "three");
	for (size_t cut = 1; cut <= b.len; cut++) {
		struct ql_frame_reader r = {0};
		struct seen s = {0};
		struct ql_err e = {0};

		for (size_t at = 0; at < b.len; at += cut)
			assert_int_equal(ql_frame_feed(&r, b.data + at, at + cut > b.len ? b.len - at : cut, on_frame, &s, &e), QL_OK);
		assert_int_equal(s.n, 3);
		assert_string_equal(s.types[0], "one");
		assert_string_equal(s.types[2], "three");
		ql_frame_reader_free(&r);
	}
	ql_buf_free(&b);
}

static int feed(const void *data, size_t len)
{
	struct ql_frame_reader r = {0};
	struct seen s = {0};
	struct ql_err e = {0};
	int rc = ql_frame_feed(&r, data, len, on_frame, &s, &e);

	assert_true(r.buf.cap < 4096);
	ql_frame_reader_free(&r);
	return rc;
}

static void hostile(void **state)
{
	static const struct {
		const char *data;
		size_t len;
	} bad[] = {
		{"\0\0\0\0", 4},		 {"\xff\xff\xff\xff", 4},	 {"\x01\0\x80\0", 4}, {"\x02\0\0\0{}", 6},
		{"\x02\0\0\0[]", 6},	 {"\x04\0\0\0null", 8},	 {"\x05\0\0\0{bad}", 9},
		{"\x0a\0\0\0{\"type\":1}", 14}, {"\x0d\0\0\0{\"type\":\"a\"}x", 17},
		{"\x17\0\0\0{\"type\":\"a\",\"type\":\"b\"}", 27}, {"\x0c\0\0\0{\"type\":\"\xff\"}", 16},
	};

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_int_not_equal(feed(bad[i].data, bad[i].len), QL_OK);
	assert_int_equal(feed("\x0c\0\0\0{\"type\":\"a\"}", 16), QL_OK);
}

static void depth_and_size(void **state)
{
	struct ql_buf b = {0};
	json_t *f;
	char *big;

	(void)state;
	(void)ql_buf_add(&b, "\0\0\0\0", 4);
	(void)ql_buf_adds(&b, "{\"type\":\"a\",\"v\":");
	for (int i = 0; i < 70; i++)
		(void)ql_buf_addc(&b, '[');
	for (int i = 0; i < 70; i++)
		(void)ql_buf_addc(&b, ']');
	(void)ql_buf_addc(&b, '}');
	b.data[0] = (char)(b.len - 4);
	assert_int_not_equal(feed(b.data, b.len), QL_OK);
	ql_buf_free(&b);
	big = malloc(QL_FRAME_MAX + 1);
	assert_non_null(big);
	memset(big, 'x', QL_FRAME_MAX);
	big[QL_FRAME_MAX] = '\0';
	f = json_pack("{s:s,s:s}", "type", "a", "v", big);
	assert_int_equal(ql_frame_encode(f, &b, NULL), QL_ELIMIT);
	assert_int_equal(b.len, 0);
	json_decref(f);
	free(big);
}

static void handler_stops(void **state)
{
	struct ql_frame_reader r = {0};
	struct seen s = {.fail_at = 2};
	struct ql_err e = {0};
	struct ql_buf b = {0};

	(void)state;
	add(&b, "one");
	add(&b, "two");
	add(&b, "three");
	assert_int_equal(ql_frame_feed(&r, b.data, b.len, on_frame, &s, &e), QL_EINTERNAL);
	assert_int_equal(s.n, 1);
	ql_frame_reader_free(&r);
	ql_buf_free(&b);
}

/* 20,000 random mutations of good streams: a code each time, and no more. */
static void mutations(void **state)
{
	struct ql_buf b = {0};
	uint32_t seed = 1;

	(void)state;
	add(&b, "one");
	add(&b, "two");
	for (int i = 0; i < 20000; i++) {
		char copy[128];
		struct ql_frame_reader r = {0};
		struct seen s = {0};
		struct ql_err e = {0};

		assert_true(b.len < sizeof copy);
		memcpy(copy, b.data, b.len);
		for (int k = 0; k < 3; k++) {
			seed = seed * 1664525u + 1013904223u;
			copy[(seed >> 8) % b.len] = (char)(seed >> 24);
		}
		(void)ql_frame_feed(&r, copy, b.len, on_frame, &s, &e);
		ql_frame_reader_free(&r);
	}
	ql_buf_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(splits), cmocka_unit_test(hostile), cmocka_unit_test(depth_and_size),
					   cmocka_unit_test(handler_stops), cmocka_unit_test(mutations)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
