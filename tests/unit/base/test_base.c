/* test_base.c - the base room: UTF-8, hashing, Philox, JSON limits, durable replace under faults, the thread pool. */
#include "tests/unit/cm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/hash.h"
#include "core/base/hostmem.h"
#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/base/philox.h"
#include "core/base/pool.h"
#include "core/base/utf8.h"
#include "tests/unit/scratch.h"

static void test_utf8(void **state)
{
	size_t bad = 99;

	(void)state;
	assert_true(ql_utf8_valid("h\xC3\xA9\xF0\x9F\x99\x82", 7, NULL));
	assert_false(ql_utf8_valid("ab\xC0\x80", 4, &bad));
	assert_int_equal(bad, 2);
	assert_false(ql_utf8_valid("\xED\xA0\x80", 3, &bad)); /* surrogate */
	assert_false(ql_utf8_valid("\xF4\x90\x80\x80", 4, &bad));
	assert_int_equal(ql_utf8_whole("a\xF0\x9F\x99", 4), 1);
	assert_int_equal(ql_utf8_whole("a\xF0\x9F\x99\x82", 5), 5);
	assert_int_equal(ql_utf8_whole("abc", 3), 3);
}

static void test_sha256(void **state)
{
	char hex[65];

	(void)state;
	ql_sha256_hex("abc", 3, hex);
	assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

/* Long input may take the processor's own instructions, short pieces do not: both ways, from every place in a block. */
static void test_sha256_long(void **state)
{
	size_t n = ((size_t)200 << 10) + 77;
	uint8_t *p = malloc(n);
	struct ql_sha256 h;
	char at_once[65], parts[65];

	(void)state;
	assert_non_null(p);
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(i * 2654435761u >> 13);
	for (size_t begin = 0; begin < 70; begin += 3) {
		ql_sha256_init(&h);
		for (size_t i = 0; i < n; i += 1000)
			ql_sha256_add(&h, p + i, n - i < 1000 ? n - i : 1000);
		ql_sha256_end_hex(&h, parts);
		ql_sha256_init(&h);
		ql_sha256_add(&h, p, begin);
		ql_sha256_add(&h, p + begin, n - begin);
		ql_sha256_end_hex(&h, at_once);
		assert_string_equal(at_once, parts);
	}
	free(p);
}

static void test_philox_vectors(void **state)
{
	uint32_t w[4];

	(void)state;
	ql_philox(0, 0, 0, 0, 0, w);
	assert_int_equal(w[0], 0x6627e8d5u);
	assert_int_equal(w[3], 0x9b00dbd8u);
	ql_philox(~0u, ~0u, ~0u, ~0u, ~0ull, w);
	assert_int_equal(w[0], 0x408f276du);
	assert_int_equal(w[1], 0x41c83b0eu);
	assert_int_equal(w[2], 0xa20bc7c6u);
	assert_int_equal(w[3], 0x6d5451fdu);
}

static void test_permutation(void **state)
{
	uint32_t a[1000], b[1000], seen[1000] = {0};
	int differ = 0;

	(void)state;
	ql_permutation(7, 0, a, 1000);
	ql_permutation(7, 1, b, 1000);
	for (int i = 0; i < 1000; i++) {
		assert_true(a[i] < 1000);
		seen[a[i]]++;
		differ += a[i] != b[i];
	}
	for (int i = 0; i < 1000; i++)
		assert_int_equal(seen[i], 1);
	assert_true(differ > 900);
}

static void test_json_limits(void **state)
{
	struct ql_err e;
	char deep[200];
	json_t *v;
	int64_t n = 5;

	(void)state;
	memset(deep, '[', 65);
	memset(deep + 65, ']', 65);
	assert_int_equal(ql_json_parse(deep, 130, 1000, &v, &e), QL_ELIMIT);
	assert_int_equal(ql_json_parse(deep + 1, 128, 1000, &v, &e), QL_OK);
	json_decref(v);
	assert_int_equal(ql_json_parse("{\"a\":1,\"a\":2}", 13, 1000, &v, &e), QL_EFORMAT);
	assert_int_equal(ql_json_parse("{\"a\":3.0}", 9, 1000, &v, &e), QL_OK);
	assert_int_equal(ql_json_get_int(v, "a", 0, 10, &n, &e), QL_EINVAL);
	assert_string_equal(e.param, "a");
	json_decref(v);
	assert_int_equal(ql_json_parse("1", 1, 0, &v, &e), QL_ELIMIT);
}

/* What an error quotes may be cut anywhere or be no text at all: message and param stay UTF-8, so that JSON can carry them. */
static void test_err_utf8(void **state)
{
	char text[1025];
	struct ql_err e;

	(void)state;
	for (size_t i = 0; i < 1024; i += 2)
		memcpy(text + i, "\xC3\xA9", 3);
	for (int shift = 0; shift < 4; shift++) { /* each place of a cut in a character of two and of four bytes */
		(void)ql_err_param(&e, QL_EINVAL, text + 1 - shift % 2, "%.*s%s", shift, "abc", text);
		assert_true(ql_utf8_valid(e.message, strlen(e.message), NULL) && ql_utf8_valid(e.param, strlen(e.param), NULL));
		assert_true(strlen(e.message) >= 508 && strlen(e.param) >= 60);
		(void)ql_err_prefix(&e, "%.*s", 3 + shift, "\xF0\x9F\x99\x82\xF0\x9F\x99\x82");
		assert_true(ql_utf8_valid(e.message, strlen(e.message), NULL));
		(void)ql_err_set(&e, QL_EINVAL, "'%.*s' is cut", 5 + shift, "\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9");
		assert_true(ql_utf8_valid(e.message, strlen(e.message), NULL));
		assert_non_null(strstr(e.message, shift % 2 == 0 ? "\xC3\xA9?' is cut" : "\xC3\xA9' is cut"));
	}
	(void)ql_err_at(&e, QL_EFORMAT, 7, "\xFF%s\x80", "a");
	assert_string_equal(e.message, "?a?, at byte 7");
}

/* An I/O vtable whose k-th call (counted over all kinds) fails. */
static int fault_at, fault_count;
static int fault(void)
{
	if (++fault_count == fault_at) {
		errno = EIO;
		return 1;
	}
	return 0;
}
static int f_create(const struct ql_io *io, int d, const char *n, mode_t m)
{
	(void)io;
	return fault() ? -1 : ql_io_real.create_excl(&ql_io_real, d, n, m);
}
static ssize_t f_write(const struct ql_io *io, int fd, const void *p, size_t n)
{
	(void)io;
	return fault() ? -1 : ql_io_real.write(&ql_io_real, fd, p, n);
}
static int f_sync(const struct ql_io *io, int fd)
{
	(void)io;
	return fault() ? -1 : ql_io_real.sync(&ql_io_real, fd);
}
static int f_close(const struct ql_io *io, int fd)
{
	(void)io;
	int rc = ql_io_real.close(&ql_io_real, fd);
	return fault() ? -1 : rc;
}
static int f_rename(const struct ql_io *io, int d, const char *a, const char *b)
{
	(void)io;
	return fault() ? -1 : ql_io_real.rename(&ql_io_real, d, a, b);
}
static int f_unlink(const struct ql_io *io, int d, const char *n)
{
	(void)io;
	return ql_io_real.unlink(&ql_io_real, d, n);
}
static int f_mkdir(const struct ql_io *io, int d, const char *n, mode_t m)
{
	(void)io;
	return fault() ? -1 : ql_io_real.mkdir(&ql_io_real, d, n, m);
}

static void test_replace_faults(void **state)
{
	static const struct ql_io faulty = {f_create, f_write, f_sync, f_close, f_rename, f_unlink, f_mkdir, NULL};
	struct ql_buf got = {0};
	struct scratch s;
	struct ql_err e;
	int fd, failures = 0;

	(void)state;
	scratch_open(&s);
	fd = s.fd;
	assert_int_equal(ql_io_replace(fd, "x", "old", 3, &e), QL_OK);
	for (fault_at = 1;; fault_at++) {
		int rc;

		fault_count = 0;
		ql_io_install(&faulty);
		rc = ql_io_replace(fd, "x", "new", 3, &e);
		ql_io_install(NULL);
		assert_int_equal(ql_io_read_all(fd, "x", 100, &got, &e), QL_OK);
		if (rc == QL_OK)
			break;
		failures++;
		assert_true(strcmp(got.data, "old") == 0 || strcmp(got.data, "new") == 0);
		assert_int_equal(ql_io_replace(fd, "x", "old", 3, &e), QL_OK);
	}
	assert_int_equal(failures, 6); /* create, write, sync, close, rename, sync of the directory */
	assert_string_equal(got.data, "new");
	assert_int_equal(ql_io_read_all(fd, "x", 2, &got, &e), QL_ELIMIT);
	assert_int_equal(ql_io_read_all(fd, "../etc/passwd", 100, &got, &e) < 0, 1);
	ql_buf_free(&got);
	scratch_close(&s);
}

/* At every fault the file is in one of the two places, whole; nothing is overwritten, no link is followed. */
static void test_move(void **state)
{
	static const struct ql_io faulty = {f_create, f_write, f_sync, f_close, f_rename, f_unlink, f_mkdir, NULL};
	struct ql_buf got = {0};
	struct scratch s;
	struct ql_err e;
	int fd, sub, failures = 0;

	(void)state;
	scratch_open(&s);
	fd = s.fd;
	assert_int_equal(ql_io_ensure_dir(fd, "to", &sub, &e), QL_OK);
	for (fault_at = 1;; fault_at++) {
		int rc;

		assert_int_equal(ql_io_replace(fd, "x", "data", 4, &e), QL_OK);
		fault_count = 0;
		ql_io_install(&faulty);
		rc = ql_io_move(fd, "x", "to", "y", &e);
		ql_io_install(NULL);
		if (rc == QL_OK)
			break;
		failures++;
		assert_int_equal(ql_io_read_all(fd, faccessat(sub, "y", F_OK, 0) == 0 ? "to/y" : "x", 100, &got, &e), QL_OK);
		assert_string_equal(got.data, "data");
		assert_int_equal(ql_io_remove_tree(sub, "y", &e), QL_OK);
	}
	assert_int_equal(failures, 2); /* rename, sync of the directory */
	assert_int_equal(ql_io_read_all(sub, "y", 100, &got, &e), QL_OK);
	assert_int_not_equal(faccessat(fd, "x", F_OK, 0), 0);
	assert_int_equal(ql_io_replace(fd, "x", "other", 5, &e), QL_OK);
	assert_int_equal(ql_io_move(fd, "x", "to", "y", &e), QL_EEXIST);
	assert_int_equal(symlinkat("x", fd, "link"), 0);
	assert_true(ql_io_move(fd, "link", "to", "z", &e) < 0);
	assert_true(ql_io_move(fd, "x", "to", "../z", &e) < 0);
	assert_true(ql_io_move(fd, "x", "none", "z", &e) < 0);
	ql_buf_free(&got);
	(void)close(sub);
	scratch_close(&s);
}

static void put(const struct scratch *s, const char *path, const char *text)
{
	int fd = openat(s->fd, path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	struct ql_err e;

	assert_true(fd >= 0);
	assert_int_equal(ql_io_write_all(fd, text, strlen(text), &e), QL_OK);
	(void)close(fd);
}

/* A service's limit is in its own group, a slice's above it, a container's at the root; the least counts. */
static void test_cgroups(void **state)
{
	uint64_t total, left;
	struct scratch s;
	char self[80];

	(void)state;
	scratch_open(&s);
	(void)snprintf(self, sizeof self, "%s/self", s.path);
	assert_int_equal(mkdirat(s.fd, "a.slice", 0700) + mkdirat(s.fd, "a.slice/b.service", 0700), 0);
	total = left = 1000;
	ql_cgroup_limits(s.path, self, &total, &left); /* no such file: no limit */
	assert_true(total == 1000 && left == 1000);
	put(&s, "self", "4:memory:/elsewhere\n0::/a.slice/b.service\n");
	put(&s, "a.slice/b.service/memory.max", "max\n");
	put(&s, "a.slice/memory.max", "800\n");
	ql_cgroup_limits(s.path, self, &total, &left);
	assert_true(total == 800 && left == 1000);
	put(&s, "a.slice/memory.current", "500\n");
	put(&s, "a.slice/memory.stat", "anon 300\nfile 200\ninactive_file 150\n");
	ql_cgroup_limits(s.path, self, &total, &left);
	assert_true(total == 800 && left == 450);
	put(&s, "a.slice/b.service/memory.max", "600\n");
	put(&s, "a.slice/b.service/memory.current", "590\n");
	ql_cgroup_limits(s.path, self, &total, &left);
	assert_true(total == 600 && left == 10);
	put(&s, "self", "0::/\n");
	put(&s, "memory.max", "70\n");
	total = left = 1000;
	ql_cgroup_limits(s.path, self, &total, &left);
	assert_true(total == 70 && left == 1000);
	scratch_close(&s);
}

static _Atomic unsigned char hits[10000];
static void hit(void *ctx, size_t i, int worker)
{
	(void)ctx;
	(void)worker;
	hits[i]++;
}

static void test_pool(void **state)
{
	(void)state;
	for (int threads = 1; threads <= 8; threads *= 2) {
		struct ql_pool *p = ql_pool_new(threads);

		assert_non_null(p);
		memset((void *)hits, 0, sizeof hits);
		for (int r = 0; r < 200; r++)
			ql_pool_run(p, 1000, hit, NULL);
		for (int i = 0; i < 1000; i++)
			assert_int_equal(hits[i], 200);
		ql_pool_free(p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_utf8),	     cmocka_unit_test(test_sha256), cmocka_unit_test(test_sha256_long),
		cmocka_unit_test(test_philox_vectors), cmocka_unit_test(test_permutation),
		cmocka_unit_test(test_json_limits),    cmocka_unit_test(test_err_utf8),
		cmocka_unit_test(test_replace_faults), cmocka_unit_test(test_move), cmocka_unit_test(test_cgroups),
		cmocka_unit_test(test_pool),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
