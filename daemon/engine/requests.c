/* requests.c - frames of type `infer`: chat, completion, tokenize, detokenize, template.
 *
 * Rendering and tokenising (prompts.c) happen on the reader's thread; generation is handed to the scheduler, whose events become frames.
 * A frame with several prompts is several scheduler requests under one id; the last to end closes it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/json.h"
#include "core/base/limits.h"
#include "daemon/engine/engine.h"

#define PROMPTS_MAX 16

struct group { /* one frame */
	struct engine *g;
	int64_t id;
	uint32_t n_prompts, n_choices;
	_Atomic uint32_t open; /* prompts not ended, plus one while submitting */
	_Atomic bool failed;
	struct ql_infer_usage used; /* tokens: sums; times: the longest.  Scheduler's thread, or before any is submitted */
};

struct prompt_ctx {
	struct group *group;
	uint32_t first_index;
};

static json_t *logprobs_json(const struct engine *g, const struct ql_token_info *t, uint32_t n)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < n; i++) {
		json_t *o = engine_token_json(g, t[i].token, t[i].logprob), *top = json_array();

		for (uint32_t k = 0; k < t[i].n_top && !isnan(t[i].logprob); k++)
			(void)json_array_append_new(top, engine_token_json(g, t[i].top[k].token, t[i].top[k].logprob));
		(void)json_object_set_new(o, "top", top);
		(void)json_array_append_new(list, o);
	}
	return list;
}

static void on_delta(void *ctx, uint32_t choice, const char *text, size_t len, const struct ql_token_info *tokens, uint32_t n)
{
	struct prompt_ctx *p = ctx;
	bool with = tokens != NULL && n > 0;

	if (p->group->failed)
		return;
	engine_send(json_pack("{s:s, s:I, s:i, s:o, s:i, s:o}", "type", "delta", "id", (json_int_t)p->group->id, "index",
			      (int)(p->first_index + choice), "text", engine_text_json(text, len), "tokens", (int)n, "logprobs",
			      with ? logprobs_json(p->group->g, tokens, n) : json_null()));
}

static void on_finish(void *ctx, uint32_t choice, enum ql_finish reason)
{
	struct prompt_ctx *p = ctx;

	if (!p->group->failed)
		engine_send(json_pack("{s:s, s:I, s:i, s:s}", "type", "finish", "id", (json_int_t)p->group->id, "index",
				      (int)(p->first_index + choice), "reason", reason == QL_FINISH_STOP ? "stop" : "length"));
}

/* One prompt fewer; the last closes the request. */
static void leave_group(struct group *q)
{
	if (--q->open > 0)
		return;
	if (!q->failed)
		engine_send(json_pack("{s:s, s:I, s:I, s:I, s:I, s:f, s:f}", "type", "infer_done", "id", (json_int_t)q->id,
				      "prompt_tokens", (json_int_t)q->used.prompt_tokens, "completion_tokens",
				      (json_int_t)q->used.completion_tokens, "cached_tokens", (json_int_t)q->used.cached_tokens,
				      "queue_seconds", q->used.queue_s, "prefill_seconds", q->used.prefill_s));
	free(q);
}

static void on_done(void *ctx, const struct ql_infer_usage *u)
{
	struct prompt_ctx *p = ctx;
	struct ql_infer_usage *sum = &p->group->used;

	sum->prompt_tokens += u->prompt_tokens;
	sum->completion_tokens += u->completion_tokens;
	sum->cached_tokens += u->cached_tokens;
	sum->queue_s = u->queue_s > sum->queue_s ? u->queue_s : sum->queue_s;
	sum->prefill_s = u->prefill_s > sum->prefill_s ? u->prefill_s : sum->prefill_s;
	leave_group(p->group);
	free(p);
}

void engine_send_error(int64_t id, const struct ql_err *e)
{
	engine_send(json_pack("{s:s, s:I, s:i, s:s, s:s, s:s}", "type", "infer_error", "id", (json_int_t)id, "code", e->code,
			      "error_code", engine_error_word(e->code, e->param), "param", e->param, "message", e->message));
}

static void fail_group(struct group *q, const struct ql_err *e)
{
	if (!atomic_exchange(&q->failed, true))
		engine_send_error(q->id, e);
}

static void on_error(void *ctx, const struct ql_err *e)
{
	struct prompt_ctx *p = ctx;

	fail_group(p->group, e);
	leave_group(p->group);
	free(p);
}

/* ---- reading the frame ---------------------------------------------------------------------------------------------------- */

struct parsed { /* owns its lists */
	struct ql_infer_request r;
	struct ql_adapter_ref adapter;
	struct ql_bias bias[QL_INFER_LOGIT_BIAS_MAX];
	const char *stops[QL_INFER_STOPS_MAX];
	int32_t stop_tokens[QL_INFER_N_MAX];
	int64_t max_tokens; /* -1: what fits */
};

static int read_adapter(const json_t *frame, struct parsed *p, struct ql_err *e)
{
	const json_t *a = json_object_get(frame, "adapter");
	const char *name = NULL, *dir = NULL;
	int64_t generation = 0;
	int rc;

	if (a == NULL || json_is_null(a))
		return QL_OK;
	rc = ql_json_get_str(a, "name", 1, sizeof p->adapter.name - 1, &name, e);
	if (rc == QL_OK)
		rc = ql_json_get_str(a, "dir", 1, sizeof p->adapter.dir - 1, &dir, e);
	if (rc == QL_OK)
		rc = ql_json_get_int(a, "generation", 0, INT64_MAX, &generation, e);
	if (rc == QL_OK && (name == NULL || dir == NULL))
		rc = ql_err_param(e, QL_EINVAL, "adapter", "adapter without name or dir");
	if (rc != QL_OK)
		return rc;
	(void)snprintf(p->adapter.name, sizeof p->adapter.name, "%s", name);
	(void)snprintf(p->adapter.dir, sizeof p->adapter.dir, "%s", dir);
	p->adapter.generation = (uint64_t)generation;
	p->r.adapter = &p->adapter;
	return QL_OK;
}

static int read_sampling(const json_t *f, struct ql_sampling *s, struct ql_err *e)
{
	const struct {
		const char *key;
		double min, max, *out;
	} rows[] = {
		{"temperature", 0, 2, &s->temperature},		      {"top_p", 0, 1, &s->top_p},
		{"min_p", 0, 1, &s->min_p},			      {"presence_penalty", -2, 2, &s->presence_penalty},
		{"frequency_penalty", -2, 2, &s->frequency_penalty}, {"repetition_penalty", 0.1, 10, &s->repetition_penalty},
	};
	int64_t top_k = 0, seed;
	struct timespec t;
	int rc = QL_OK;

	(void)clock_gettime(CLOCK_REALTIME, &t);
	seed = (int64_t)((uint64_t)t.tv_nsec * 6364136223846793005ull + (uint64_t)t.tv_sec) & INT64_MAX;
	*s = (struct ql_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1};
	for (size_t i = 0; rc == QL_OK && i < sizeof rows / sizeof rows[0]; i++)
		rc = ql_json_get_num(f, rows[i].key, rows[i].min, rows[i].max, rows[i].out, e);
	if (rc == QL_OK)
		rc = ql_json_get_int(f, "top_k", -1, 1000, &top_k, e);
	if (rc == QL_OK)
		rc = ql_json_get_int(f, "seed", INT64_MIN, INT64_MAX, &seed, e);
	s->top_k = top_k > 0 ? (uint32_t)top_k : 0;
	s->seed = (uint64_t)seed;
	return rc;
}

static int read_lists(const struct engine *g, const json_t *f, struct parsed *p, struct ql_err *e)
{
	const json_t *stop = json_object_get(f, "stop"), *ids = json_object_get(f, "stop_token_ids"),
		     *bias = json_object_get(f, "logit_bias");
	const char *key;
	json_t *v;

	if (json_array_size(stop) > QL_INFER_STOPS_MAX || json_array_size(ids) > QL_INFER_N_MAX ||
	    json_object_size(bias) > QL_INFER_LOGIT_BIAS_MAX)
		return ql_err_param(e, QL_ELIMIT, "stop", "too many stop strings, stop tokens or biases");
	for (size_t i = 0; i < json_array_size(stop); i++) {
		p->stops[i] = json_string_value(json_array_get(stop, i));
		if (p->stops[i] == NULL || p->stops[i][0] == '\0')
			return ql_err_param(e, QL_EINVAL, "stop", "'stop' must hold non-empty strings");
	}
	p->r.stop = p->stops;
	p->r.n_stop = (uint32_t)json_array_size(stop);
	for (size_t i = 0; i < json_array_size(ids); i++)
		p->stop_tokens[i] = (int32_t)json_integer_value(json_array_get(ids, i));
	p->r.stop_tokens = p->stop_tokens;
	p->r.n_stop_tokens = (uint32_t)json_array_size(ids);
	json_object_foreach((json_t *)(uintptr_t)bias, key, v) {
		char *end;
		long id = strtol(key, &end, 10);

		if (*end != '\0' || id < 0 || id >= ql_tok_vocab_size(g->tok) || !json_is_number(v))
			return ql_err_param(e, QL_EINVAL, "logit_bias", "'logit_bias': '%.20s' is not a token of the vocabulary", key);
		if (json_number_value(v) != 0)
			p->bias[p->r.sampling.n_bias++] = (struct ql_bias){(int32_t)id, (float)json_number_value(v)};
	}
	p->r.sampling.bias = p->bias;
	return QL_OK;
}

static int read_request(const struct engine *g, const json_t *f, struct parsed *p, struct ql_err *e)
{
	int64_t n = 1, min_tokens = 0, logprobs = -1;
	int rc;

	memset(p, 0, sizeof *p);
	p->max_tokens = -1;
	rc = read_adapter(f, p, e);
	if (rc == QL_OK)
		rc = read_sampling(f, &p->r.sampling, e);
	if (rc == QL_OK)
		rc = read_lists(g, f, p, e);
	if (rc == QL_OK)
		rc = ql_json_get_int(f, "n", 1, QL_INFER_N_MAX, &n, e);
	if (rc == QL_OK)
		rc = ql_json_get_int(f, "max_tokens", 0, INT32_MAX, &p->max_tokens, e);
	if (rc == QL_OK)
		rc = ql_json_get_int(f, "min_tokens", 0, INT32_MAX, &min_tokens, e);
	if (rc == QL_OK)
		rc = ql_json_get_int(f, "logprobs", -1, 20, &logprobs, e);
	if (rc == QL_OK)
		rc = ql_json_get_bool(f, "ignore_eos", &p->r.ignore_eos, e);
	if (rc == QL_OK)
		rc = ql_json_get_bool(f, "echo", &p->r.echo, e);
	p->r.n = (uint32_t)n;
	p->r.min_tokens = (uint32_t)min_tokens;
	p->r.logprobs = (int32_t)logprobs;
	p->r.events = (struct ql_infer_events){on_delta, on_finish, on_done, on_error};
	return rc;
}

static int submit(struct group *q, struct parsed *p, const struct ql_ids *ids, uint32_t prompt, struct ql_err *e)
{
	uint32_t context = ql_infer_context(q->g->infer), room;
	struct prompt_ctx *c;
	int rc;

	if (ids->n >= context)
		return ql_err_param(e, QL_ELIMIT, "messages",
				    "This model's maximum context length is %u tokens. However, your messages resulted in %zu tokens.",
				    context, ids->n);
	room = context - (uint32_t)ids->n;
	if (p->max_tokens < 0)
		p->r.max_tokens = room < 4096 ? room : 4096;
	else
		p->r.max_tokens = p->max_tokens < (int64_t)room ? (uint32_t)p->max_tokens : room;
	c = malloc(sizeof *c);
	if (c == NULL)
		return ql_err_set(e, QL_ENOMEM, "request");
	*c = (struct prompt_ctx){q, prompt * p->r.n};
	p->r.id = (uint64_t)q->id;
	p->r.prompt = ids->ids;
	p->r.n_prompt = (uint32_t)ids->n;
	p->r.ctx = c;
	q->open++;
	rc = ql_infer_submit(q->g->infer, &p->r, e);
	if (rc != QL_OK) {
		q->open--;
		free(c);
	}
	return rc;
}

static void generate(struct engine *g, const json_t *f, int64_t id, bool chat)
{
	struct parsed *p = malloc(sizeof *p);
	struct group *q = calloc(1, sizeof *q);
	struct ql_ids ids = {0};
	struct ql_err e = {0};
	const json_t *prompts = json_object_get(f, "prompts");
	int rc;

	if (p == NULL || q == NULL) {
		(void)ql_err_set(&e, QL_ENOMEM, "out of memory");
		engine_send_error(id, &e);
		free(p);
		free(q);
		return;
	}
	q->g = g;
	q->id = id;
	q->open = 1;
	rc = read_request(g, f, p, &e);
	if (rc == QL_OK && chat) {
		rc = engine_encode_chat(g, f, &ids, NULL, &e);
		if (rc == QL_OK)
			rc = submit(q, p, &ids, 0, &e);
	} else if (rc == QL_OK) {
		if (!json_is_array(prompts) || json_array_size(prompts) == 0 || json_array_size(prompts) > PROMPTS_MAX)
			rc = ql_err_param(&e, QL_EINVAL, "prompt", "1 to %d prompts are needed", PROMPTS_MAX);
		for (size_t i = 0; rc == QL_OK && i < json_array_size(prompts); i++) {
			ids.n = 0;
			rc = engine_encode_prompt(g, f, json_array_get(prompts, i), &ids, &e);
			if (rc == QL_OK)
				rc = submit(q, p, &ids, (uint32_t)i, &e);
		}
	}
	if (rc != QL_OK) {
		fail_group(q, &e);
		ql_infer_cancel(g->infer, (uint64_t)id); /* prompts already submitted */
	}
	leave_group(q);
	ql_ids_free(&ids);
	free(p);
}

void engine_infer(struct engine *g, const json_t *f)
{
	const char *kind = json_string_value(json_object_get(f, "kind"));
	int64_t id = json_integer_value(json_object_get(f, "id"));
	json_t *result = NULL;
	struct ql_err e = {0};
	int rc;

	if (kind == NULL)
		kind = "";
	if (strcmp(kind, "chat") == 0 || strcmp(kind, "completion") == 0) {
		generate(g, f, id, kind[1] == 'h');
		return;
	}
	if (strcmp(kind, "preview") == 0) {
		engine_preview(g, f, id);
		return;
	}
	if (strcmp(kind, "import") == 0) {
		engine_import(g, f, id);
		return;
	}
	rc = engine_text(g, f, kind, &result, &e);
	if (rc != QL_OK)
		engine_send_error(id, &e);
	else
		engine_send_result(id, result);
}
