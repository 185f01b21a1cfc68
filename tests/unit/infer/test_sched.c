/* test_sched.c - requests on a tiny model: what submit refuses, choices that share a prompt, answers with and without the cache and after
 * a cancelled neighbour, echoes, min_tokens, and the figures. */
#include "tests/unit/model/fixture.h"

#include <pthread.h>

#include "core/infer/infer.h"
#include "tests/unit/text/test_tok_util.h"

#define MAX_TEXT 4096
#define VOCAB 300 /* more than the tokenizer has */
#define FIRST '!' /* what is generated lies in FIRST … LAST */
#define LAST '('

static const char config[] =
	"{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":96,"
	"\"num_hidden_layers\":3,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":300,\"rms_norm_eps\":1e-5,"
	"\"max_position_embeddings\":256,\"bos_token_id\":1,\"eos_token_id\":2,\"tie_word_embeddings\":false}";

static struct ql_bias printable[VOCAB];
static uint32_t n_printable;
static struct scratch dir;
static struct fx f;
static struct ql_tok *tok;

static int setup(void **state)
{
	static struct mini m;

	(void)state;
	scratch_open(&dir);
	fx_write_config(&dir, config);
	fx_open(&f, &dir, 2);
	mini_init(&m, "gpt-2"); /* a token for each byte */
	tok = mini_load(&m);
	for (int32_t i = 0; i < VOCAB; i++)
		if (i < FIRST || i > LAST)
			printable[n_printable++] = (struct ql_bias){i, -100};
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ql_tok_free(tok);
	fx_close(&f);
	scratch_close(&dir);
	return 0;
}

static int no_adapters(void *ctx, const char *name, struct ql_err *e)
{
	(void)ctx;
	return ql_err_set(e, QL_ENOTFOUND, "no adapter %s", name);
}

/* One request and what came of it. */
struct seen {
	struct ql_infer *infer;
	struct seen *then; /* submitted when this one ends */
	uint64_t cancel;   /* cancelled when this one's first event comes */
	struct ql_infer_request r;
	char text[4][MAX_TEXT];
	size_t len[4];
	uint32_t n_infos, largest_event;
	float logprobs[MAX_TEXT];
	enum ql_finish reason[4];
	struct ql_infer_usage used;
	struct ql_infer_stats stats; /* when it ended */
	int failed;
	bool last; /* its end stops the loop */
};

static void submit(struct seen *s)
{
	struct ql_err e = {0};

	s->r.ctx = s;
	if (ql_infer_submit(s->infer, &s->r, &e) != QL_OK)
		fail_msg("%s", e.message);
}

static void over(struct seen *s)
{
	ql_infer_stats(s->infer, &s->stats);
	if (s->then != NULL)
		submit(s->then);
	if (s->last)
		ql_infer_stop(s->infer);
}

static void on_delta(void *ctx, uint32_t choice, const char *text, size_t len, const struct ql_token_info *t, uint32_t n)
{
	struct seen *s = ctx;

	if (s->cancel != 0)
		ql_infer_cancel(s->infer, s->cancel);
	assert_true(s->len[choice] + len < MAX_TEXT);
	memcpy(s->text[choice] + s->len[choice], text, len);
	s->len[choice] += len;
	s->largest_event = n > s->largest_event ? n : s->largest_event;
	for (uint32_t i = 0; i < n && t != NULL; i++)
		s->logprobs[s->n_infos++] = t[i].logprob;
}

static void on_finish(void *ctx, uint32_t choice, enum ql_finish reason) { ((struct seen *)ctx)->reason[choice] = reason; }

static void on_done(void *ctx, const struct ql_infer_usage *u)
{
	((struct seen *)ctx)->used = *u;
	over(ctx);
}

static void on_error(void *ctx, const struct ql_err *e)
{
	((struct seen *)ctx)->failed = e->code;
	over(ctx);
}

static struct ql_infer *open_infer(uint32_t rows, uint32_t waiting)
{
	struct ql_infer_opts o = {.max_rows = rows, .max_waiting = waiting, .adapter_slots = 1};
	struct ql_infer *infer;
	struct ql_err e = {0};

	if (ql_infer_new(&infer, f.m, tok, &o, no_adapters, NULL, &e) != QL_OK)
		fail_msg("%s", e.message);
	return infer;
}

static struct seen request(struct ql_infer *infer, uint64_t id, const int32_t *prompt, uint32_t n_prompt, uint32_t max_tokens)
{
	return (struct seen){.infer = infer,
			     .r = {.id = id, .prompt = prompt, .n_prompt = n_prompt, .n = 1, .max_tokens = max_tokens, .logprobs = -1,
				   .sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 5, .bias = printable,
						.n_bias = n_printable},
				   .events = {on_delta, on_finish, on_done, on_error}}};
}

static void make_prompt(int32_t *ids, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		ids[i] = (int32_t)(33 + (i * 7 + i / 5) % 14); /* printable bytes */
}

static void run(struct ql_infer *infer)
{
	struct ql_err e = {0};

	if (ql_infer_run(infer, &e) != QL_OK)
		fail_msg("%s", e.message);
}

static void test_refused(void **state)
{
	static const struct ql_bias bias[] = {{VOCAB, 1}};
	const int32_t beyond[] = {5, VOCAB}, below[] = {-1};
	struct ql_infer *infer = open_infer(2, 4);
	int32_t ids[256];
	struct seen s;
	struct ql_err e;

	(void)state;
	make_prompt(ids, 256);
#define REFUSED(change, code, word)                                                                                            \
	s = request(infer, 1, ids, 20, 5);                                                                                     \
	change;                                                                                                                \
	assert_int_equal(ql_infer_submit(infer, &s.r, &e), code);                                                              \
	assert_string_equal(e.param, word)
	REFUSED(s.r.n_prompt = 0, QL_EINVAL, "prompt");
	REFUSED(s.r.n_prompt = 256, QL_ELIMIT, "messages");
	REFUSED(s.r.max_tokens = 237, QL_ELIMIT, "messages"); /* would wait for blocks that never come */
	REFUSED(s.r.max_tokens = UINT32_MAX, QL_ELIMIT, "messages");
	REFUSED((s.r.prompt = beyond, s.r.n_prompt = 2), QL_EINVAL, "prompt");
	REFUSED((s.r.prompt = below, s.r.n_prompt = 1), QL_EINVAL, "prompt");
	REFUSED((s.r.stop_tokens = beyond, s.r.n_stop_tokens = 2), QL_EINVAL, "stop_token_ids");
	REFUSED((s.r.stop_tokens = ids, s.r.n_stop_tokens = 17), QL_EINVAL, "stop_token_ids");
	REFUSED((s.r.sampling.bias = bias, s.r.sampling.n_bias = 1), QL_EINVAL, "logit_bias");
	REFUSED(s.r.n = 0, QL_EINVAL, "n");
	s = request(infer, 1, ids, 20, 236);
	s.r.ctx = &s;
	assert_int_equal(ql_infer_submit(infer, &s.r, &e), QL_OK);
	ql_infer_free(infer);
	assert_int_equal(s.failed, QL_ECANCELLED);
}

/* Three choices and a second request of the same prompt: same seed, same text; the cache is counted as part of the prompt. */
static void test_choices_and_cache(void **state)
{
	struct ql_infer *infer = open_infer(2, 4); /* fewer rows than choices */
	struct ql_infer_stats stats;
	int32_t ids[100];
	struct seen a, b, c;

	(void)state;
	make_prompt(ids, 100);
	a = request(infer, 1, ids, 100, 12);
	a.r.n = 3;
	b = request(infer, 2, ids, 100, 12);
	c = request(infer, 3, ids, 100, 12);
	c.r.sampling.temperature = 0;
	c.last = true;
	b.then = &c;
	a.then = &b;
	submit(&a);
	run(infer);
	assert_true(a.used.prompt_tokens == 100 && a.used.completion_tokens == 36 && a.used.cached_tokens == 0);
	assert_true(b.used.cached_tokens == 96 && b.used.completion_tokens == 12 && c.used.cached_tokens == 96);
	assert_true(a.len[0] > 0 && strcmp(a.text[0], b.text[0]) == 0);
	assert_true(strcmp(a.text[0], a.text[1]) != 0 && strcmp(a.text[1], a.text[2]) != 0);
	assert_int_equal(a.reason[2], QL_FINISH_LENGTH);
	ql_infer_stats(infer, &stats);
	assert_int_equal(stats.blocks_held, 0);
	ql_infer_free(infer);
}

/* A request cancelled while it runs leaves nothing of its own in the answers of others that reuse its blocks. */
static void test_cancelled_neighbour(void **state)
{
	struct ql_infer_stats stats;
	struct seen alone, a, b, c;
	struct ql_infer *infer;
	int32_t ids[60], other[60];

	(void)state;
	make_prompt(ids, 60);
	memcpy(other, ids, sizeof other);
	other[50] = 40; /* the same first blocks */
	infer = open_infer(1, 4);
	alone = request(infer, 1, ids, 60, 20);
	alone.r.sampling.temperature = 0;
	alone.last = true;
	submit(&alone);
	run(infer);
	ql_infer_free(infer);
	infer = open_infer(2, 4);
	a = request(infer, 7, other, 60, 190); /* until it is cancelled */
	b = request(infer, 8, other, 60, 3);
	b.cancel = 7;
	b.then = &c;
	c = request(infer, 9, ids, 60, 20);
	c.r.sampling.temperature = 0;
	c.last = true;
	submit(&a);
	submit(&b);
	run(infer);
	assert_int_equal(a.failed, QL_ECANCELLED);
	assert_true(c.used.cached_tokens == 48 && b.failed == 0);
	assert_string_equal(c.text[0], alone.text[0]);
	ql_infer_stats(infer, &stats);
	assert_int_equal(stats.blocks_held, 0);
	ql_infer_free(infer);
}

/* Ids that the model has and the tokenizer has not are echoed as nothing; a long echo comes in several events. */
static void test_echo(void **state)
{
	struct ql_infer *infer = open_infer(1, 4);
	int32_t ids[250];
	struct seen s, t;

	(void)state;
	make_prompt(ids, 250);
	ids[100] = VOCAB - 1;
	s = request(infer, 1, ids, 250, 2);
	s.r.echo = true;
	s.r.logprobs = 2;
	t = request(infer, 2, ids, 250, 2);
	t.r.echo = true;
	s.then = &t;
	t.last = true;
	submit(&s);
	run(infer);
	ql_infer_free(infer);
	assert_int_equal(s.n_infos, 252);
	assert_true(isnan(s.logprobs[0]) && s.largest_event <= 256);
	assert_true(s.len[0] == 251 && s.text[0][0] == '!' && s.text[0][99] == (char)ids[99] && s.text[0][100] == (char)ids[101] &&
		    s.text[0][248] == (char)ids[249]);
	for (uint32_t i = 1; i < s.n_infos; i++)
		assert_true(s.logprobs[i] <= 0);
	assert_string_equal(s.text[0], t.text[0]);
	assert_int_equal(t.n_infos, 0);
}

/* min_tokens holds against stop strings as against stop tokens. */
static void test_min_tokens(void **state)
{
	struct ql_infer *infer = open_infer(1, 4);
	char first[2] = "";
	const char *const stops[] = {first};
	int32_t ids[20], stop_ids[16];
	struct seen a, b, c, d;

	(void)state;
	make_prompt(ids, 20);
	a = request(infer, 1, ids, 20, 40);
	a.r.sampling.repetition_penalty = 0.5; /* tokens come again and again */
	a.last = true;
	submit(&a);
	run(infer);
	ql_infer_free(infer);
	for (size_t i = 0; i < a.len[0] && first[0] == '\0'; i++) /* a character that ends up early, and later again */
		if (i < 10 && strchr(a.text[0] + 15, a.text[0][i]) != NULL)
			first[0] = a.text[0][i];
	assert_int_equal(a.len[0], 40);
	if (first[0] == '\0')
		fail_msg("no character of '%s' comes again", a.text[0]);
	infer = open_infer(1, 4);
	b = request(infer, 2, ids, 20, 40);
	b.r.sampling = a.r.sampling;
	b.r.stop = stops;
	b.r.n_stop = 1;
	c = b;
	c.r.min_tokens = 14;
	for (int i = 0; i < 16; i++)
		stop_ids[i] = first[0];
	d = request(infer, 3, ids, 20, 40);
	d.r.stop_tokens = stop_ids;
	d.r.n_stop_tokens = 16;
	d.r.min_tokens = 14;
	b.then = &c;
	c.then = &d;
	d.last = true;
	submit(&b);
	run(infer);
	ql_infer_free(infer);
	assert_true(b.reason[0] == QL_FINISH_STOP && b.len[0] < 10 && strncmp(a.text[0], b.text[0], b.len[0]) == 0);
	assert_true(c.reason[0] == QL_FINISH_STOP && c.len[0] >= 14 && strncmp(a.text[0], c.text[0], c.len[0]) == 0);
	assert_true(d.len[0] >= 14 && strchr(d.text[0], first[0]) == NULL);
}

/* Waiting are the requests of which nothing runs yet, whatever the number of rows of those that do; only they fill the queue. */
static void test_figures(void **state)
{
	struct ql_infer *infer = open_infer(4, 3);
	int32_t ids[20];
	struct seen a, b[4];
	struct ql_infer_stats stats;
	struct ql_err e;

	(void)state;
	make_prompt(ids, 20);
	a = request(infer, 1, ids, 20, 4);
	a.r.n = 4;
	submit(&a);
	for (int i = 0; i < 2; i++) {
		b[i] = request(infer, 2 + (uint64_t)i, ids, 20, 30);
		submit(&b[i]);
	}
	ql_infer_stats(infer, &stats);
	assert_int_equal(stats.waiting, 3);
	b[2] = request(infer, 9, ids, 20, 30);
	assert_int_equal(ql_infer_submit(infer, &b[2].r, &e), QL_EBUSY);
	a.then = &b[2]; /* a ran: two wait at the most, a third has a place */
	b[2].last = true;
	run(infer);
	assert_int_equal(a.failed, 0);
	assert_true(a.stats.waiting <= 2);
	ql_infer_stats(infer, &stats);
	assert_int_equal(stats.waiting, 0);
	ql_infer_free(infer);
}

/* ---- many threads ------------------------------------------------------------------------------------------------------------ */

enum { CLIENTS = 3, REQUESTS = 40 };

struct client {
	struct ql_infer *infer;
	uint64_t first;
	const int32_t *prompt;
	_Atomic int ended[REQUESTS];
	struct one {
		struct client *c;
		int i;
	} one[REQUESTS];
};

static void end_one(void *ctx)
{
	struct one *o = ctx;

	o->c->ended[o->i]++;
}

static void quiet_delta(void *ctx, uint32_t choice, const char *text, size_t len, const struct ql_token_info *t, uint32_t n)
{
	(void)ctx, (void)choice, (void)text, (void)len, (void)t, (void)n;
}

static void quiet_finish(void *ctx, uint32_t choice, enum ql_finish reason) { (void)ctx, (void)choice, (void)reason; }

static void quiet_done(void *ctx, const struct ql_infer_usage *u)
{
	(void)u;
	end_one(ctx);
}

static void quiet_error(void *ctx, const struct ql_err *e)
{
	(void)e;
	end_one(ctx);
}

/* Submits, cancels every third, looks at the figures. */
static void *client_main(void *arg)
{
	struct client *c = arg;
	char names[4][256];
	uint32_t users[4];

	for (int i = 0; i < REQUESTS; i++) {
		struct seen s = request(c->infer, c->first + (uint64_t)i, c->prompt, 5 + (uint32_t)i * 3, 6);
		struct ql_infer_stats stats;

		c->one[i] = (struct one){c, i};
		s.r.n = 1 + (uint32_t)i % 3;
		s.r.ctx = &c->one[i];
		s.r.events = (struct ql_infer_events){quiet_delta, quiet_finish, quiet_done, quiet_error};
		if (ql_infer_submit(c->infer, &s.r, NULL) != QL_OK)
			c->ended[i]++; /* the queue was full */
		if (i % 3 == 1)
			ql_infer_cancel(c->infer, c->first + (uint64_t)i - (uint64_t)(i % 2));
		ql_infer_stats(c->infer, &stats);
		assert_true(stats.waiting <= 24 && stats.blocks_held <= stats.blocks);
		(void)ql_infer_resident(c->infer, names, users, 4);
		(void)ql_infer_wanted(c->infer, names, 4);
		ql_infer_drop_adapter(c->infer, "nobody");
	}
	return NULL;
}

static void *loop_main(void *arg)
{
	struct ql_err e;

	(void)ql_infer_run(arg, &e);
	return NULL;
}

/* Each request ends exactly once, whatever the threads do. */
static void test_threads(void **state)
{
	struct ql_infer *infer = open_infer(4, 24);
	static struct client c[CLIENTS];
	pthread_t loop, threads[CLIENTS];
	struct ql_infer_stats stats;
	int32_t ids[200];

	(void)state;
	make_prompt(ids, 200);
	assert_int_equal(pthread_create(&loop, NULL, loop_main, infer), 0);
	for (int k = 0; k < CLIENTS; k++) {
		c[k].infer = infer;
		c[k].first = (uint64_t)(k + 1) * 1000;
		c[k].prompt = ids;
		assert_int_equal(pthread_create(&threads[k], NULL, client_main, &c[k]), 0);
	}
	for (int k = 0; k < CLIENTS; k++)
		(void)pthread_join(threads[k], NULL);
	ql_infer_stop(infer);
	(void)pthread_join(loop, NULL);
	ql_infer_stats(infer, &stats);
	ql_infer_free(infer); /* what was open ends with an error */
	for (int k = 0; k < CLIENTS; k++)
		for (int i = 0; i < REQUESTS; i++)
			assert_int_equal(c[k].ended[i], 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_threads), cmocka_unit_test(test_refused), cmocka_unit_test(test_choices_and_cache),
					   cmocka_unit_test(test_cancelled_neighbour), cmocka_unit_test(test_echo),
					   cmocka_unit_test(test_min_tokens), cmocka_unit_test(test_figures)};

	return cmocka_run_group_tests(tests, setup, teardown);
}
