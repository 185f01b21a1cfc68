/* gen.c - follows one generation: frames of the engine in, chunks or one object out.
 *
 * The answer starts with the first frame, not before: what the engine refuses (a prompt that is too long, a queue that is
 * full) still gets its own status.  A client that goes away closes the engine's request through on_gone. */
#include "api/gen.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/sse.h"
#include "core/base/limits.h"
#include "daemon/engine_link.h"
#include "daemon/metrics.h"

static uint64_t now_ms(const struct ql_gen *g) { return ql_now_ms(g->r->http); }

static void labels_of(const struct ql_gen *g, char out[400])
{
	ql_metrics_labels(out, 400, "model_name", g->r->ctl->base_name, "engine", "0", NULL);
}

static void observe(const struct ql_gen *g, enum ql_metric id, double v)
{
	char labels[400];

	labels_of(g, labels);
	ql_metrics_observe(g->r->ctl->metrics, id, labels, v);
}

/* Writes one chunk; v is taken over. */
static void send_chunk(struct ql_gen *g, json_t *v)
{
	ql_stream_flush(g->r, v == NULL ? QL_ENOMEM : ql_sse_json(&g->r->out, NULL, NULL, v));
	json_decref(v);
}

static void begin_answer(struct ql_gen *g)
{
	if (g->r->streaming)
		return;
	if (g->ignored[0] != '\0')
		ql_reply_header(g->r, "x-qlora-ignored", "%s", g->ignored);
	ql_stream_begin(g->r);
	for (size_t i = 0; g->chat && i < g->n_choices && !g->r->gone; i++)
		send_chunk(g, ql_chat_role_chunk(g, i));
}

/* Keeps what the unstreamed answer needs. */
static int keep(struct ql_choice *c, const json_t *frame)
{
	const json_t *text = json_object_get(frame, "text"), *lp = json_object_get(frame, "logprobs"), *v;
	size_t i;

	if (ql_buf_add(&c->text, json_string_value(text), json_string_length(text)) != QL_OK)
		return QL_ENOMEM;
	json_array_foreach((json_t *)(uintptr_t)lp, i, v) {
		c->sum_logprob += json_number_value(json_object_get(v, "logprob"));
		if (c->logprobs == NULL)
			c->logprobs = json_array();
		if (json_array_append(c->logprobs, (json_t *)(uintptr_t)v) != 0)
			return QL_ENOMEM;
	}
	return QL_OK;
}

static void on_delta(void *user, const json_t *frame)
{
	struct ql_gen *g = user;
	int64_t index = json_integer_value(json_object_get(frame, "index"));
	int64_t tokens = json_integer_value(json_object_get(frame, "tokens"));
	uint64_t now = now_ms(g);
	struct ql_choice *c;

	if (index < 0 || (size_t)index >= g->n_choices || g->r->gone)
		return;
	c = &g->choices[index];
	if (g->first_ms == 0) {
		g->first_ms = now;
		observe(g, QLM_V_TTFT, (double)(now - g->r->start_ms) / 1000.0);
	} else if (c->last_ms != 0 && tokens > 0) {
		observe(g, QLM_V_ITL, (double)(now - c->last_ms) / 1000.0 / (double)tokens);
	}
	c->last_ms = now;
	c->tokens += tokens;
	if (!g->stream) {
		if (keep(c, frame) != QL_OK)
			ql_req_abandon(g->r);
		return;
	}
	begin_answer(g);
	if (!g->r->gone && (json_string_length(json_object_get(frame, "text")) > 0 ||
			    (g->logprobs && json_array_size(json_object_get(frame, "logprobs")) > 0)))
		send_chunk(g, g->chat ? ql_chat_delta_chunk(g, (size_t)index, frame) :
					ql_text_delta_chunk(g, (size_t)index, frame));
}

static void on_finish(void *user, const json_t *frame)
{
	struct ql_gen *g = user;
	int64_t index = json_integer_value(json_object_get(frame, "index"));
	const char *reason = json_string_value(json_object_get(frame, "reason"));
	char labels[400];

	if (index < 0 || (size_t)index >= g->n_choices || g->choices[index].reason != NULL || g->r->gone)
		return;
	reason = reason != NULL && strcmp(reason, "stop") == 0 ? "stop" : "length";
	g->choices[index].reason = reason;
	ql_metrics_labels(labels, sizeof labels, "model_name", g->r->ctl->base_name, "engine", "0", "finished_reason", reason,
			  NULL);
	ql_metrics_add(g->r->ctl->metrics, QLM_V_SUCCESS, labels, 1);
	observe(g, QLM_V_REQ_GENERATION_TOKENS, (double)g->choices[index].tokens);
	if (!g->stream)
		return;
	begin_answer(g);
	if (!g->r->gone)
		send_chunk(g, g->chat ? ql_chat_finish_chunk(g, (size_t)index, reason) :
					ql_text_finish_chunk(g, (size_t)index, reason));
}

/* Best candidates first: the highest mean log probability of a token; ties keep the order of making. */
static void rank(struct ql_choice *c, size_t n)
{
	for (size_t i = 1; i < n; i++)
		for (size_t j = i; j > 0; j--) {
			double a = c[j].sum_logprob / (double)(c[j].tokens > 0 ? c[j].tokens : 1);
			double b = c[j - 1].sum_logprob / (double)(c[j - 1].tokens > 0 ? c[j - 1].tokens : 1);
			struct ql_choice t = c[j];

			if (!(a > b))
				break;
			c[j] = c[j - 1];
			c[j - 1] = t;
		}
}

static json_t *all_choices(struct ql_gen *g)
{
	json_t *choices = json_array();

	for (size_t p = 0; p < g->n_prompts; p++) {
		size_t from = p * (g->best_of > g->n ? g->best_of : g->n);

		if (g->best_of > g->n)
			rank(g->choices + from, g->best_of);
		for (size_t i = 0; i < g->n; i++) {
			size_t index = p * g->n + i;

			if (json_array_append_new(choices, g->chat ? ql_chat_choice(g, from + i, index) :
								     ql_text_choice(g, from + i, index)) != 0) {
				json_decref(choices);
				return NULL;
			}
		}
	}
	return choices;
}

/* Names that the engine ignored (its own list) join ours, in the header of an answer that has not begun. */
static void engine_ignored(struct ql_gen *g, const json_t *frame)
{
	const json_t *v;
	size_t i;

	json_array_foreach(json_object_get(frame, "ignored"), i, v) {
		size_t n = strlen(g->ignored), m = json_string_length(v);

		if (!json_is_string(v) || n + m + 3 > sizeof g->ignored)
			continue;
		if (n > 0) {
			memcpy(g->ignored + n, ", ", 2);
			n += 2;
		}
		memcpy(g->ignored + n, json_string_value(v), m + 1);
	}
}

static void on_done(void *user, const json_t *frame)
{
	struct ql_gen *g = user;
	struct ql_req *r = g->r;
	json_t *usage;

	g->infer_id = 0;
	if (r->gone)
		return;
	observe(g, QLM_V_E2E, (double)(now_ms(g) - r->start_ms) / 1000.0);
	observe(g, QLM_V_REQ_PROMPT_TOKENS, (double)json_integer_value(json_object_get(frame, "prompt_tokens")));
	if (json_is_number(json_object_get(frame, "queue_seconds")))
		observe(g, QLM_V_QUEUE_TIME, json_number_value(json_object_get(frame, "queue_seconds")));
	if (json_is_number(json_object_get(frame, "prefill_seconds")))
		observe(g, QLM_V_PREFILL_TIME, json_number_value(json_object_get(frame, "prefill_seconds")));
	if (g->first_ms != 0)
		observe(g, QLM_V_DECODE_TIME, (double)(now_ms(g) - g->first_ms) / 1000.0);
	for (size_t i = 0; i < g->n_choices; i++)
		if (g->choices[i].reason == NULL) /* the engine closed without a finish: not a success */
			g->choices[i].reason = "length";
	usage = ql_gen_usage(frame);
	if (!g->stream) {
		const char *object = g->chat ? "chat.completion" : "text_completion";

		engine_ignored(g, frame);
		if (g->ignored[0] != '\0')
			ql_reply_header(r, "x-qlora-ignored", "%s", g->ignored);
		ql_reply_json(r, 200, ql_gen_object(g, object, all_choices(g), usage, false));
		return;
	}
	begin_answer(g);
	if (g->include_usage && !r->gone)
		send_chunk(g, ql_gen_object(g, g->chat ? "chat.completion.chunk" : "text_completion", json_array(), usage, true));
	else
		json_decref(usage);
	if (r->gone)
		return;
	ql_stream_flush(r, ql_sse_text(&r->out, "[DONE]"));
	ql_stream_end(r);
}

static void on_error(void *user, const struct ql_fault *f)
{
	struct ql_gen *g = user;

	g->infer_id = 0;
	if (g->r->gone)
		return;
	if (!g->r->streaming) {
		ql_reply_fault(g->r, f);
		return;
	}
	send_chunk(g, ql_bad_json(f, NULL));
	ql_stream_end(g->r);
}

static const struct ql_infer_cb callbacks = {.delta = on_delta, .finish = on_finish, .done = on_done, .error = on_error};

static void on_gone(struct ql_req *r)
{
	struct ql_gen *g = r->state;

	if (g->infer_id > 0)
		ql_engine_infer_cancel(r->ctl, g->infer_id);
	g->infer_id = 0;
}

static void on_free(struct ql_req *r) { ql_gen_free(r->state); }

struct ql_gen *ql_gen_new(struct ql_req *r, bool chat)
{
	struct ql_gen *g = calloc(1, sizeof *g);

	if (g == NULL)
		return NULL;
	g->r = r;
	g->chat = chat;
	g->n_prompts = 1;
	g->created = (int64_t)time(NULL);
	ql_id_make(g->id, chat ? "chatcmpl-" : "cmpl-");
	return g;
}

int ql_gen_start(struct ql_gen *g, json_t *frame, struct ql_fault *f)
{
	struct ql_req *r = g->r;
	int64_t id;

	g->n_choices = g->n_prompts * (g->best_of > g->n ? g->best_of : g->n);
	g->choices = calloc(g->n_choices, sizeof *g->choices);
	if (g->choices == NULL) {
		json_decref(frame);
		return ql_bad_internal(f);
	}
	observe(g, QLM_V_REQ_MAX_TOKENS, (double)json_integer_value(json_object_get(frame, "max_tokens")));
	id = ql_engine_infer(r->ctl, frame, &callbacks, g, f);
	json_decref(frame);
	if (id <= 0)
		return id == 0 ? ql_bad_internal(f) : (int)id;
	g->infer_id = id;
	r->state = g;
	r->on_gone = on_gone;
	r->on_free = on_free;
	r->deadline_ms = ql_now_ms(r->http) + QL_INFER_SECONDS_MAX * 1000ULL;
	return QL_OK;
}

void ql_gen_free(struct ql_gen *g)
{
	if (g == NULL)
		return;
	for (size_t i = 0; g->choices != NULL && i < g->n_choices; i++) {
		ql_buf_free(&g->choices[i].text);
		json_decref(g->choices[i].logprobs);
	}
	free(g->choices);
	free(g->model);
	free(g);
}
