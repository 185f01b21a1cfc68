/* test_refusals.c - malformed QNAT, GGUF and safetensors files, at least 200 of each, opened by path: every one refused with a
 * named code and a message, in less than 100 ms of CPU and 64 MiB of address space.
 *
 * The files are made from the fuzz corpus (argv[1]): each cut, appended bytes, each number of the header made huge, each
 * byte of the first part flipped (kept when the result still is a valid file: a changed letter of a name is one). */
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#include "core/formats/gguf.h"
#include "core/formats/safetensors.h"
#include "core/qnat/qnat.h"
#include "tests/unit/scratch.h"

#define ROOM ((rlim_t)64 << 20)
#define SECONDS 0.1
#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1 /* it reserves terabytes, and is slow on purpose */
#else
#define SANITIZED 0
#endif

static const char *corpus;
static double slowest;

struct kind {
	const char *name, *seeds[3];
	int (*open)(const char *path, struct ql_err *e);
};

static int open_qnat(const char *path, struct ql_err *e)
{
	struct ql_qnat *q = NULL;
	int rc = ql_qnat_open(&q, path, e);

	assert_true((rc == QL_OK) == (q != NULL));
	ql_qnat_close(q);
	return rc;
}

static int open_gguf(const char *path, struct ql_err *e)
{
	struct ql_gguf *g = NULL;
	int rc = ql_gguf_open(&g, path, e);

	assert_true((rc == QL_OK) == (g != NULL));
	ql_gguf_close(g);
	return rc;
}

static int open_st(const char *path, struct ql_err *e)
{
	struct ql_st *s = NULL;
	int rc = ql_st_open(&s, path, e);

	assert_true((rc == QL_OK) == (s != NULL));
	ql_st_close(s);
	return rc;
}

static const struct kind kinds[3] = {
	{"qnat", {"golden.qnat", "parts.qnat", NULL}, open_qnat},
	{"gguf", {"llama", "v2_empty", NULL}, open_gguf},
	{"safetensors", {"two", "escapes", "empty_tensor"}, open_st},
};

static double cpu_seconds(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Opens the bytes as a file; must_refuse: anything else fails the test.  Returns 1 if refused. */
static int try(const struct kind *k, const uint8_t *p, size_t n, bool must_refuse, const char *what, size_t at)
{
	int fd = memfd_create("malformed", MFD_CLOEXEC), rc;
	struct ql_err e = {0};
	char path[64];
	double t;

	assert_true(fd >= 0 && write(fd, p, n) == (ssize_t)n);
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	t = cpu_seconds();
	rc = k->open(path, &e);
	t = cpu_seconds() - t;
	(void)close(fd);
	slowest = t > slowest ? t : slowest;
	if (!SANITIZED && t >= SECONDS)
		fail_msg("%s, %s %zu: %.3f s", k->name, what, at, t);
	if (rc == QL_OK && must_refuse)
		fail_msg("%s, %s %zu: accepted", k->name, what, at);
	if (rc == QL_OK)
		return 0;
	/* a code that says what is wrong with the file: not "no memory", not "internal" */
	if ((rc != QL_EFORMAT && rc != QL_ELIMIT && rc != QL_EUNSUPPORTED) || e.code != rc || e.message[0] == '\0')
		fail_msg("%s, %s %zu: %s: '%s'", k->name, what, at, ql_code_text(rc), e.message);
	return 1;
}

static int all_of(const struct kind *k, const uint8_t *seed, size_t n)
{
	static const uint64_t huge[] = {UINT64_MAX, (uint64_t)1 << 63, (uint64_t)1 << 40, 0x7fffffff, 0xffffffff};
	size_t head = n < 400 ? n : 400;
	uint8_t *p = calloc(1, n + 4096);
	int refused = 0;

	assert_non_null(p);
	memcpy(p, seed, n);
	for (size_t i = 0; i < n; i++) /* every cut; QNAT tells a tensor's optional parts by its size, so a cut there is another file */
		refused += try(k, p, i, strcmp(k->name, "qnat") != 0 || i + 64 < n, "cut at", i);
	for (size_t i = 0; i + 8 <= head; i++) /* numbers */
		for (size_t h = 0; h < sizeof huge / sizeof huge[0]; h++) {
			memcpy(p + i, &huge[h], h < 3 ? 8 : 4);
			if (memcmp(p, seed, n) != 0)
				refused += try(k, p, n, false, "number at", i);
			memcpy(p, seed, n);
		}
	for (size_t i = 0; i < head; i++) /* bytes */
		for (int bit = 0; bit < 8; bit++) {
			p[i] ^= (uint8_t)(1 << bit);
			refused += try(k, p, n, i < 4 && strcmp(k->name, "safetensors") != 0, "bit at", i);
			p[i] = seed[i];
		}
	free(p);
	return refused;
}

static void refusals(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
		int refused = 0;

		for (int f = 0; f < 3 && kinds[i].seeds[f] != NULL; f++) {
			struct ql_buf b = {0};
			char path[4096];

			(void)snprintf(path, sizeof path, "%s/%s/%s", corpus, kinds[i].name, kinds[i].seeds[f]);
			assert_int_equal(ql_io_read_file(path, QL_MIB(1), &b, NULL), QL_OK);
			refused += all_of(&kinds[i], (const uint8_t *)b.data, b.len);
			ql_buf_free(&b);
		}
		print_message("%s: %d malformed files refused, the slowest in %.2f ms of CPU\n", kinds[i].name, refused, slowest * 1e3);
		assert_true(refused >= 200);
	}
}

/* From here on the process may grow by ROOM only; a reader that believes a header runs into it and says QL_ENOMEM. */
static void limit(void)
{
	struct rlimit r;
	unsigned long pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	if (SANITIZED || f == NULL || fscanf(f, "%lu", &pages) != 1) {
		print_message("without the memory limit\n");
	} else {
		r.rlim_cur = r.rlim_max = pages * (rlim_t)sysconf(_SC_PAGESIZE) + ROOM;
		if (setrlimit(RLIMIT_AS, &r) != 0)
			abort();
	}
	if (f != NULL)
		(void)fclose(f);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(refusals)};

	corpus = argc > 1 ? argv[1] : "tests/fuzz/corpus";
	limit();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
