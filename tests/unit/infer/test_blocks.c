/* test_blocks.c - the cache's blocks under random use, against a plain list of what must be true. */
#include "tests/unit/cm.h"

#include <stdlib.h>
#include <string.h>

#include "core/infer/blocks.h"

#define N 24

static uint32_t random_below(uint64_t *s, uint32_t n)
{
	*s = *s * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(*s >> 33) % n;
}

static struct ql_block_key key_of(int i)
{
	struct ql_block_key k;

	ql_block_key_first(&k, "x", (uint64_t)i);
	return k;
}

/* held[i]: times block i is held; key[i]: what it was published as, -1 = nothing (also after it was taken anew). */
static void test_random(void **state)
{
	int held[N] = {0}, key[N];
	struct ql_blocks *b;
	uint64_t seed = 7;

	(void)state;
	assert_int_equal(ql_blocks_new(&b, N, NULL), QL_OK);
	for (int i = 0; i < N; i++)
		key[i] = -1;
	for (int round = 0; round < 60000; round++) {
		uint32_t what = random_below(&seed, 4), k = random_below(&seed, 40), n_held = 0;
		struct ql_block_key name = key_of((int)k);
		int32_t i = (int32_t)random_below(&seed, N);

		for (int j = 0; j < N; j++)
			n_held += held[j] > 0;
		assert_int_equal(ql_blocks_held(b), n_held);
		assert_int_equal(ql_blocks_available(b), N - n_held);
		if (what == 0) {
			i = ql_blocks_take(b);
			assert_int_equal(i >= 0, n_held < N);
			if (i < 0)
				continue;
			assert_int_equal(held[i], 0);
			held[i] = 1;
			key[i] = -1;
		} else if (what == 1 && held[i] > 0) {
			ql_blocks_release(b, i);
			held[i]--;
		} else if (what == 2 && held[i] > 0 && key[i] < 0) {
			bool known = false;

			for (int j = 0; j < N; j++)
				known |= key[j] == (int)k;
			ql_blocks_publish(b, i, &name);
			if (!known)
				key[i] = (int)k;
		} else if (what == 3) {
			int want = -1;

			for (int j = 0; j < N; j++)
				want = key[j] == (int)k ? j : want;
			i = ql_blocks_find(b, &name);
			assert_int_equal(i, want);
			if (i >= 0)
				held[i]++;
		}
	}
	ql_blocks_free(b);
}

/* Of kept blocks the longest unused goes first; a held one never. */
static void test_eviction(void **state)
{
	struct ql_block_key k[3] = {key_of(0), key_of(1), key_of(2)};
	struct ql_blocks *b;
	int32_t at[3];

	(void)state;
	assert_int_equal(ql_blocks_new(&b, 3, NULL), QL_OK);
	for (int i = 0; i < 3; i++) {
		at[i] = ql_blocks_take(b);
		ql_blocks_publish(b, at[i], &k[i]);
	}
	assert_int_equal(ql_blocks_take(b), -1);
	for (int i = 0; i < 3; i++)
		ql_blocks_release(b, at[i]);
	assert_int_equal(ql_blocks_find(b, &k[0]), at[0]); /* used again: 1 is now the oldest */
	ql_blocks_release(b, at[0]);
	assert_int_equal(ql_blocks_find(b, &k[2]), at[2]);
	assert_int_equal(ql_blocks_take(b), at[1]);
	assert_int_equal(ql_blocks_find(b, &k[1]), -1);
	assert_int_equal(ql_blocks_take(b), at[0]);
	assert_int_equal(ql_blocks_take(b), -1);
	assert_int_equal(ql_blocks_find(b, &k[2]), at[2]);
	ql_blocks_free(b);
}

/* A chain depends on the adapter, its generation, the order of blocks and every token. */
static void test_keys(void **state)
{
	int32_t t[16] = {1, 2, 3}, u[16] = {1, 2, 4};
	struct ql_block_key a, b, c, d;

	(void)state;
	ql_block_key_first(&a, "", 0);
	ql_block_key_first(&b, "m", 0);
	ql_block_key_first(&c, "m", 1);
	assert_true(memcmp(&a, &b, sizeof a) != 0 && memcmp(&b, &c, sizeof b) != 0);
	ql_block_key_next(&c, &b, t, 16);
	ql_block_key_next(&d, &b, u, 16);
	assert_true(memcmp(&c, &d, sizeof c) != 0);
	ql_block_key_next(&d, &a, t, 16);
	assert_true(memcmp(&c, &d, sizeof c) != 0);
	ql_block_key_next(&d, &b, t, 16);
	assert_memory_equal(&c, &d, sizeof c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_random), cmocka_unit_test(test_eviction), cmocka_unit_test(test_keys)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
