/* test_multipart.c - the form parser at every split point, and on bodies that break the format. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/multipart_head.h"
#include "core/base/buf.h"
#include "tests/unit/cm.h"

#define TYPE "multipart/form-data; boundary=XyZ"

/* What the callbacks saw, as text: [name|filename|type]data. */
struct seen {
	struct ql_buf text;
	int fail_at; /* the call that returns an error, -1 none */
	int calls;
};

static int count(struct seen *s) { return s->calls++ == s->fail_at ? QL_EBUSY : QL_OK; }

static int on_begin(void *user, const struct ql_part *p, struct ql_err *e)
{
	struct seen *s = user;

	(void)e;
	(void)ql_buf_addf(&s->text, "[%s|%s|%s]", p->name, p->has_filename ? p->filename : "-", p->type);
	return count(s);
}

static int on_data(void *user, const char *data, size_t len, struct ql_err *e)
{
	struct seen *s = user;

	(void)e;
	assert_true(len > 0);
	(void)ql_buf_add(&s->text, data, len);
	return count(s);
}

static int on_end(void *user, struct ql_err *e)
{
	struct seen *s = user;

	(void)e;
	(void)ql_buf_addc(&s->text, ';');
	return count(s);
}

static const struct ql_multipart_cb cb = {on_begin, on_data, on_end};

/* Feeds body in pieces cut at a and b; returns the code, *out is what was seen. */
static int run(const char *body, size_t len, size_t a, size_t b, struct seen *s)
{
	struct ql_multipart *m = calloc(1, sizeof *m);
	struct ql_err e = {0};
	size_t cuts[4] = {0, a, b, len};
	int rc;

	rc = ql_multipart_init(m, TYPE, &cb, s, &e);
	for (int i = 0; i < 3 && rc == QL_OK; i++) {
		size_t n = cuts[i + 1] - cuts[i];
		char *piece = malloc(n == 0 ? 1 : n);

		memcpy(piece, body + cuts[i], n);
		rc = ql_multipart_feed(m, piece, n, &e);
		free(piece);
	}
	if (rc == QL_OK)
		rc = ql_multipart_finish(m, &e);
	free(m);
	return rc;
}

static const char good[] = "preamble\r\n--XyZ\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nfine-tune\r\n"
			   "--XyZ \t\r\ncontent-disposition: form-data; name=file; filename=\"a \\\"b\\\\.jsonl\"\r\n"
			   "Content-Type: application/octet-stream\r\n\r\n"
			   "\r\n--Xy\r\n--XYZ\r\r\n-\n\r\n--Xy\r\n\0\r\n\r\n--XyZ\r\n"
			   "Content-Disposition: form-data; name=\"empty\"; filename=\"\"\r\n\r\n\r\n--XyZ--\r\nepilogue";
static const char want[] = "[purpose|-|]fine-tune;[file|a \"b\\.jsonl|application/octet-stream]"
			   "\r\n--Xy\r\n--XYZ\r\r\n-\n\r\n--Xy\r\n\0\r\n;[empty||];";

static void every_split(void **state)
{
	size_t len = sizeof good - 1;

	(void)state;
	for (size_t a = 0; a <= len; a++)
		for (size_t b = a; b <= len; b += (b - a) < 40 ? 1 : 17) {
			struct seen s = {.fail_at = -1};
			int rc = run(good, len, a, b, &s);

			if (rc != QL_OK || s.text.len != sizeof want - 1 || memcmp(s.text.data, want, s.text.len) != 0)
				fail_msg("cut at %zu and %zu: code %d, %zu bytes", a, b, rc, s.text.len);
			ql_buf_free(&s.text);
		}
}

static void byte_by_byte(void **state)
{
	struct ql_multipart *m = calloc(1, sizeof *m);
	struct seen s = {.fail_at = -1};
	struct ql_err e = {0};

	(void)state;
	assert_int_equal(ql_multipart_init(m, TYPE, &cb, &s, &e), QL_OK);
	for (size_t i = 0; i < sizeof good - 1; i++)
		assert_int_equal(ql_multipart_feed(m, good + i, 1, &e), QL_OK);
	assert_int_equal(ql_multipart_finish(m, &e), QL_OK);
	assert_int_equal(s.text.len, sizeof want - 1);
	assert_memory_equal(s.text.data, want, sizeof want - 1);
	ql_buf_free(&s.text);
	free(m);
}

/* Every prefix of a good body is an error (unless the closing delimiter is in), and none crashes. */
static void truncated(void **state)
{
	size_t close = sizeof good - 1 - strlen("\r\nepilogue");

	(void)state;
	for (size_t n = 0; n < sizeof good - 1; n++) {
		struct seen s = {.fail_at = -1};

		assert_int_equal(run(good, n, 0, n, &s) == QL_OK, n >= close);
		ql_buf_free(&s.text);
	}
}

/* An error of a callback ends the parse with that code, whichever call it is. */
static void callback_errors(void **state)
{
	(void)state;
	for (int at = 0;; at++) {
		struct seen s = {.fail_at = at};
		int rc = run(good, sizeof good - 1, 0, sizeof good - 1, &s);

		ql_buf_free(&s.text);
		if (s.calls <= at) {
			assert_int_equal(rc, QL_OK);
			assert_true(at > 8);
			return;
		}
		assert_int_equal(rc, QL_EBUSY);
		assert_int_equal(s.calls, at + 1);
	}
}

#define HEAD "Content-Disposition: form-data; name=\"a\"\r\n\r\n"

static void malformed(void **state)
{
	static const char *const bad[] = {
		"--XyZ\r\n" HEAD "x\r\n--XyZ",
		"--XyZ\r\n" HEAD "x\r\n--XyZ-",
		"--XyZ\r\n" HEAD "x\r\n--XyZ-x",
		"--XyZ\r\n" HEAD "x\r\n--XyZxx",
		"--XyZ\n" HEAD "x\r\n--XyZ--",
		"--XyZ\r\rx",
		"-XyZ\r\n" HEAD "x\r\n-XyZ--",
		"--XyZ\r\nContent-Disposition: form-data; name=\"a\"\n\nx\r\n--XyZ--",
		"--XyZ\r\nContent-Disposition: attachment; name=\"a\"\r\n\r\nx\r\n--XyZ--",
		"--XyZ\r\nContent-Disposition: form-data\r\n\r\nx\r\n--XyZ--",
		"--XyZ\r\nContent-Disposition: form-data; name=\"a\r\n\r\nx\r\n--XyZ--",
		"--XyZ\r\nContent-Disposition: form-data; name=\"a\"; name=\"b\"\r\n\r\nx\r\n--XyZ--",
		"--XyZ\r\nContent-Disposition: form-data; name=\"a\" x\r\n\r\nx\r\n--XyZ--",
		"--XyZ\r\nContent-Disposition: form-data; name\r\n\r\nx\r\n--XyZ--",
		"--XyZ\r\nContent-Disposition: form-data; name=\"\xff\"\r\n\r\nx\r\n--XyZ--",
		"--XyZ\r\nContent-Disposition: form-data; name=\"a\x01\"\r\n\r\nx\r\n--XyZ--",
		"--XyZ\r\nContent-Disposition: form-data; name=\"a\"\r\nContent-Disposition: form-data; name=\"b\"\r\n\r\nx\r\n--XyZ--",
		"--XyZ\r\nContent-Disposition: form-data; name=a; filename*=latin1''x\r\n\r\nx\r\n--XyZ--",
		"--XyZ\r\nContent-Disposition: form-data; name=a; filename*=utf-8''%0a\r\n\r\nx\r\n--XyZ--",
		"--XyZ\r\nContent-Transfer-Encoding: base64\r\n" HEAD "x\r\n--XyZ--",
		"--XyZ\r\n: x\r\n" HEAD "x\r\n--XyZ--",
		"--XyZ\r\nNo colon\r\n" HEAD "x\r\n--XyZ--",
		"--XyZ\r\nSp ace: x\r\n" HEAD "x\r\n--XyZ--",
		"--XyZ\r\n\r\nx\r\n--XyZ--",
		"",
		"x",
	};

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		for (size_t cut = 0; cut <= strlen(bad[i]); cut++) {
			struct seen s = {.fail_at = -1};

			if (run(bad[i], strlen(bad[i]), cut, cut, &s) == QL_OK)
				fail_msg("accepted: %s", bad[i]);
			ql_buf_free(&s.text);
		}
}

static void bounds(void **state)
{
	static char body[64 * 1024];
	struct seen s = {.fail_at = -1};
	size_t n;

	(void)state;
	/* a head at its limit and above it */
	for (int over = 0; over <= 1; over++) {
		size_t fill = QL_MULTIPART_HEAD_MAX - strlen(HEAD) - strlen("X: \r\n") + (size_t)over;

		n = (size_t)sprintf(body, "--XyZ\r\nX: %0*d\r\n%sx\r\n--XyZ--", (int)fill, 0, HEAD);
		s.fail_at = -1;
		assert_int_equal(run(body, n, 0, n, &s) == QL_OK, !over);
	}
	/* parts */
	for (size_t parts = QL_MULTIPART_PARTS_MAX; parts <= QL_MULTIPART_PARTS_MAX + 1; parts++) {
		n = 0;
		for (size_t i = 0; i < parts; i++)
			n += (size_t)sprintf(body + n, "--XyZ\r\n%sx\r\n", HEAD);
		n += (size_t)sprintf(body + n, "--XyZ--");
		assert_int_equal(run(body, n, 0, n, &s) == QL_OK, parts == QL_MULTIPART_PARTS_MAX);
	}
	/* text outside of parts */
	memset(body, 'p', 20000);
	n = 20000 + (size_t)sprintf(body + 20000, "\r\n--XyZ\r\n%sx\r\n--XyZ--", HEAD);
	assert_int_not_equal(run(body, n, 0, n, &s), QL_OK);
	n = (size_t)sprintf(body, "--XyZ\r\n%sx\r\n--XyZ--", HEAD);
	memset(body + n, 'e', 20000);
	assert_int_not_equal(run(body, n + 20000, 0, n + 20000, &s), QL_OK);
	ql_buf_free(&s.text);
}

static void content_types(void **state)
{
	static const struct {
		const char *type;
		bool ok;
	} cases[] = {
		{"multipart/form-data; boundary=abc", true},
		{"Multipart/Form-Data;boundary=\"a b'()+_,-./:=?c\"", true},
		{"multipart/form-data; charset=utf-8; boundary=abc", true},
		{"multipart/form-data", false},
		{"multipart/form-data; boundary=", false},
		{"multipart/form-data; boundary=\"\"", false},
		{"multipart/form-data; boundary=\"ab \"", false},
		{"multipart/form-data; boundary=a\xc3\xa9", false},
		{"multipart/form-data; boundary=\"a\r\nb\"", false},
		{"multipart/form-data; boundary=a; boundary=b", false},
		{"multipart/form-datax; boundary=a", false},
		{"multipart/mixed; boundary=a", false},
		{"application/json", false},
		{"multipart/form-data; boundary=0123456789012345678901234567890123456789012345678901234567890123456789", true},
		{"multipart/form-data; boundary=01234567890123456789012345678901234567890123456789012345678901234567890", false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct ql_multipart m;
		struct ql_err e = {0};

		if ((ql_multipart_init(&m, cases[i].type, &cb, NULL, &e) == QL_OK) != cases[i].ok)
			fail_msg("%s", cases[i].type);
	}
}

static void filenames(void **state)
{
	static const struct {
		const char *value, *want;
	} cases[] = {
		{"form-data; name=a; filename=\"C:\\dir\\x.jsonl\"", "C:\\dir\\x.jsonl"},
		{"form-data; name=a; filename=plain.jsonl", "plain.jsonl"},
		{"form-data; name=a; filename=\"x\"; filename*=UTF-8''na%C3%AFve.jsonl", "na\xc3\xafve.jsonl"},
		{"form-data; name=a; filename*=utf-8'en'y.jsonl; filename=\"x\"", "y.jsonl"},
		{"form-data; name=a; filename=\"caf\xc3\xa9.jsonl\"", "caf\xc3\xa9.jsonl"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		char out[64];
		bool found;
		struct ql_err e = {0};

		assert_int_equal(ql_header_param(cases[i].value, "filename", out, sizeof out, &found, &e), QL_OK);
		assert_true(found);
		assert_string_equal(out, cases[i].want);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_split),	 cmocka_unit_test(byte_by_byte), cmocka_unit_test(truncated),
		cmocka_unit_test(callback_errors), cmocka_unit_test(malformed),	 cmocka_unit_test(bounds),
		cmocka_unit_test(content_types), cmocka_unit_test(filenames)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
