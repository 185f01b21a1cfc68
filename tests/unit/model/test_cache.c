/* test_cache.c - the 4-bit form on disk: found again, and made anew when any of its bytes is another. */
#include <dirent.h>

#include "core/model/cache.h"
#include "tests/unit/model/fixture.h"

static struct scratch dir;
static struct ql_source *source;

static int setup(void **state)
{
	(void)state;
	scratch_open(&dir);
	fx_write(&dir);
	return ql_source_open(&source, dir.path, NULL);
}

static int teardown(void **state)
{
	(void)state;
	ql_source_close(source);
	scratch_close(&dir);
	return 0;
}

/* Opens the cache; *first gets layer 1's down_proj as fp32 when it is NULL, else is compared with it. */
static bool open_cached(bool nested, float **first)
{
	struct ql_q4_opts o = QL_Q4_OPTS_DEFAULT;
	struct ql_base_cache *c;
	struct ql_err e = {0};
	const struct ql_q4 *q;
	float *v;
	bool cached;

	o.nested = nested;
	if (ql_base_cache_open(&c, source, "0123", dir.fd, &o, NULL, NULL, NULL, NULL, &e) != QL_OK)
		fail_msg("%s", e.message);
	q = ql_base_cache_get(c, 1, QL_DOWN_PROJ);
	v = malloc((size_t)q->n * sizeof *v);
	assert_int_equal(ql_q4_dequantize(q, 0, q->n, v, QL_F32, NULL, &e), QL_OK);
	if (*first == NULL) {
		*first = v;
	} else {
		assert_memory_equal(v, *first, (size_t)q->n * sizeof *v);
		free(v);
	}
	cached = ql_base_cache_was_cached(c);
	ql_base_cache_close(c);
	return cached;
}

static void file_name(char out[64])
{
	DIR *d = opendir(dir.path);
	struct dirent *ent;

	out[0] = '\0';
	while ((ent = readdir(d)) != NULL)
		if (strncmp(ent->d_name, "base-", 5) == 0)
			(void)snprintf(out, 64, "%.63s", ent->d_name);
	(void)closedir(d);
	assert_true(out[0] != '\0');
}

static void test_damage(void **state)
{
	float *first = NULL;
	char name[64];
	size_t len, head;
	uint8_t *p;

	(void)state;
	for (int nested = 0; nested < 2; nested++) {
		assert_false(open_cached(nested != 0, &first));
		assert_true(open_cached(nested != 0, &first));
		file_name(name);
		p = scratch_read(&dir, name, &len);
		head = 8 + (size_t)p[0] + ((size_t)p[1] << 8) + ((size_t)p[2] << 16);
		/* scales come first, codes last; each is a change that leaves the file well formed */
		for (size_t at = head; at < len; at += (len - head) / 7) {
			p[at] ^= 1;
			scratch_write(&dir, name, p, len);
			assert_false(open_cached(nested != 0, &first)); /* and is written again */
			assert_true(open_cached(nested != 0, &first));
			p[at] ^= 1;
		}
		scratch_write(&dir, name, p, len - 1);
		assert_false(open_cached(nested != 0, &first));
		assert_int_equal(unlinkat(dir.fd, name, 0), 0);
		free(p);
		free(first);
		first = NULL;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_damage)};

	return cmocka_run_group_tests(tests, setup, teardown);
}
