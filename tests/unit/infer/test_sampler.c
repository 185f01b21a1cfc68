/* test_sampler.c - from logits to a token: cut-offs at their borders and with ties, penalties over long rows, seeds, log-probabilities. */
#include "tests/unit/cm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/infer/sampler.h"

#define V 16

static struct ql_sampler *s;

static int setup(void **state)
{
	(void)state;
	return ql_sampler_new(&s, V, NULL);
}

static int teardown(void **state)
{
	(void)state;
	ql_sampler_free(s);
	return 0;
}

static const struct ql_sampling plain = {.temperature = 1, .top_p = 1, .repetition_penalty = 1};

/* The set of tokens that 400 draws give, as a mask. */
static uint32_t drawn(const float *z, struct ql_sampling p)
{
	static const int32_t history[1] = {0};
	uint32_t mask = 0;

	for (p.seed = 0; p.seed < 400; p.seed++) {
		float copy[V];

		memcpy(copy, z, sizeof copy);
		mask |= 1u << ql_sample(s, copy, &p, history, 1, 1, NULL, 0, 0);
	}
	return mask;
}

/* Probabilities 1/2, 1/4, 1/8, 1/8 at ids 5, 2, 7, 9; none elsewhere. */
static void halves(float *z)
{
	for (int i = 0; i < V; i++)
		z[i] = -INFINITY;
	z[5] = 0;
	z[2] = -logf(2);
	z[7] = z[9] = -logf(4);
}

static void test_cuts(void **state)
{
	struct ql_sampling p = plain;
	float z[V], flat[V] = {0};

	(void)state;
	halves(z);
	assert_int_equal(drawn(z, p), 1 << 5 | 1 << 2 | 1 << 7 | 1 << 9);
	p.top_k = 3; /* of equals the lower id */
	assert_int_equal(drawn(z, p), 1 << 5 | 1 << 2 | 1 << 7);
	assert_int_equal(drawn(flat, p), 7);
	p.top_p = 0.6; /* of what top_k left: 4/7 is not enough */
	assert_int_equal(drawn(z, p), 1 << 5 | 1 << 2);
	p = plain;
	p.top_p = 0.49;
	assert_int_equal(drawn(z, p), 1 << 5);
	p.top_p = 0.51;
	assert_int_equal(drawn(z, p), 1 << 5 | 1 << 2);
	p.top_p = 0.8;
	assert_int_equal(drawn(z, p), 1 << 5 | 1 << 2 | 1 << 7);
	p.top_p = 0; /* the most likely */
	assert_int_equal(drawn(z, p), 1 << 5);
	p = plain;
	p.min_p = 0.3;
	assert_int_equal(drawn(z, p), 1 << 5 | 1 << 2);
	p.min_p = 1;
	assert_int_equal(drawn(flat, p), 0xffff); /* all are as likely as the best */
}

/* A temperature that a float cannot hold is 0, and the first of equals wins. */
static void test_cold(void **state)
{
	struct ql_sampling p = plain;
	float z[V] = {0};

	(void)state;
	z[11] = z[13] = 3;
	for (p.temperature = 1e-3; p.temperature > 1e-60; p.temperature *= 1e-7) {
		uint32_t mask = drawn(z, p);

		assert_true(mask == 1 << 11 || mask == (1 << 11 | 1 << 13)); /* a real temperature draws between the two */
	}
	p.temperature = 1e-50;
	assert_int_equal(drawn(z, p), 1 << 11);
}

static void test_frequencies(void **state)
{
	static const int32_t history[1] = {0};
	struct ql_sampling p = plain;
	int count[V] = {0};

	(void)state;
	for (p.seed = 0; p.seed < 20000; p.seed++) {
		float z[V];

		halves(z);
		count[ql_sample(s, z, &p, history, 1, 1, NULL, 0, 0)]++;
	}
	assert_true(abs(count[5] - 10000) < 350 && abs(count[2] - 5000) < 300 && abs(count[7] - 2500) < 230 && abs(count[9] - 2500) < 230);
}

/* Same seed, same token; another choice or another place in the text draws anew. */
static void test_seeds(void **state)
{
	static const int32_t history[64] = {0};
	struct ql_sampling p = plain;
	int same_choice = 0, same_place = 0;

	(void)state;
	for (p.seed = 1; p.seed <= 200; p.seed++) {
		float a[V] = {0}, b[V] = {0}, c[V] = {0}, d[V] = {0};
		int32_t t = ql_sample(s, a, &p, history, 1, 5, NULL, 0, 0);

		assert_int_equal(t, ql_sample(s, b, &p, history, 1, 5, NULL, 0, 0));
		same_choice += t == ql_sample(s, c, &p, history, 1, 5, NULL, 0, 1);
		same_place += t == ql_sample(s, d, &p, history, 1, 6, NULL, 0, 0);
	}
	assert_true(same_choice < 40 && same_place < 40);
}

static void test_penalties(void **state)
{
	enum { LONG = 70000 };
	int32_t *history = malloc(LONG * sizeof *history);
	struct ql_sampling p = plain;
	const int32_t barred[] = {4};
	const struct ql_bias bias[] = {{3, 0.5f}};
	float z[V] = {0};

	(void)state;
	assert_non_null(history);
	p.temperature = 0; /* then the logits stay as the penalties left them */
	p.repetition_penalty = 2;
	for (int i = 0; i < LONG; i++)
		history[i] = i == 0 ? 2 : 1;
	z[1] = 4;
	z[2] = -4;
	z[3] = 1;
	p.bias = bias;
	p.n_bias = 1;
	assert_int_equal(ql_sample(s, z, &p, history, LONG, LONG, NULL, 0, 0), 1);
	assert_true(z[1] == 2 && z[2] == -8 && z[3] == 1.5f); /* once, however often a token came */
	p = plain;
	p.temperature = 0;
	p.presence_penalty = 0.25;
	p.frequency_penalty = 0.5;
	memset(z, 0, sizeof z);
	z[4] = 9;
	history[10] = 5; /* of the prompt: does not count */
	history[11] = history[12] = history[13] = 6;
	assert_int_equal(ql_sample(s, z, &p, history, 11, 14, barred, 1, 0), 0);
	assert_true(z[5] == 0 && z[6] == -1.75f && z[4] == -INFINITY);
	memset(z, 0, sizeof z);
	(void)ql_sample(s, z, &p, history, 11, 14, NULL, 0, 0); /* nothing is left from the call before */
	assert_true(z[6] == -1.75f);
	free(history);
}

static void test_logprobs(void **state)
{
	struct ql_alt top[5];
	float z[V];

	(void)state;
	halves(z);
	assert_true(fabsf(ql_logprob(z, V, 2, top, 5) - logf(0.25f)) < 1e-6f);
	assert_true(top[0].token == 5 && top[1].token == 2 && top[2].token == 7 && top[3].token == 9);
	assert_true(fabsf(top[0].logprob - logf(0.5f)) < 1e-6f && fabsf(top[3].logprob - logf(0.125f)) < 1e-6f);
	assert_true(isinf(ql_logprob(z, V, 0, NULL, 0)));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_cuts), cmocka_unit_test(test_cold), cmocka_unit_test(test_frequencies),
					   cmocka_unit_test(test_seeds), cmocka_unit_test(test_penalties), cmocka_unit_test(test_logprobs)};

	return cmocka_run_group_tests(tests, setup, teardown);
}
