/* build.c - a sample → text, token ids and targets. */
#include <stdlib.h>
#include <string.h>

#include "core/text/data/data.h"
#include "core/text/data/mask.h"

static int nomem(struct ql_err *e) { return ql_err_set(e, QL_ENOMEM, "dataset line"); }

void built_free(struct built *b)
{
	ql_buf_free(&b->text);
	ql_ids_free(&b->ids);
	free(b->target);
	*b = (struct built){0};
}

/* Applies max_seq_length: tokens are left out, or the whole line. */
static int limit_length(const struct ql_dataset_opts *o, struct built *b, struct ql_err *e)
{
	size_t cut;

	if (b->ids.n <= o->max_seq_length)
		return QL_OK;
	if (o->on_overlong == QL_OVERLONG_ERROR)
		return ql_err_set(e, QL_EINVAL, "%zu tokens, more than the %u of max_seq_length", b->ids.n, o->max_seq_length);
	if (o->on_overlong == QL_OVERLONG_DROP) {
		b->dropped = true;
		return QL_OK;
	}
	cut = b->ids.begin[o->max_seq_length];
	while (cut < b->text.len && ((unsigned char)b->text.data[cut] & 0xc0) == 0x80)
		cut++; /* a character's other tokens */
	b->text.len = cut < b->text.len ? cut : b->text.len;
	b->ids.n = o->max_seq_length;
	b->truncated = true;
	return QL_OK;
}

static int finish(struct built *b)
{
	b->n_targets = 0;
	if (b->ids.n > 0 && b->target != NULL)
		b->target[0] = 0;
	for (size_t t = 0; t < b->ids.n && !b->dropped; t++)
		b->n_targets += b->target[t];
	b->dropped |= b->n_targets == 0;
	return QL_OK;
}

/* Does token t, which begins before byte `at`, reach beyond it?  Tokens touch, so the next one tells where it ends (one put in by
 * the normaliser ends where it begins). */
static bool covers(const struct ql_dataset_opts *o, const struct built *b, size_t t, size_t at)
{
	size_t end = t + 1 < b->ids.n ? b->ids.begin[t + 1] : b->text.len;

	return end > at && !ql_tok_is_special(o->tok, b->ids.ids[t]);
}

static int build_text(const struct ql_dataset_opts *o, const struct sample *s, struct built *b, struct ql_err *e)
{
	int32_t eos = ql_tok_eos(o->tok);
	bool completion = s->prompt_len > 0 && o->completion_only_loss;
	int rc;

	if (ql_buf_add(&b->text, s->text.data == NULL ? "" : s->text.data, s->text.len) != QL_OK)
		return nomem(e);
	rc = ql_tok_encode(o->tok, b->text.data, b->text.len, QL_TOK_ADD_SPECIAL | QL_TOK_PARSE_SPECIAL, NULL, 0, &b->ids, e);
	if (rc != QL_OK)
		return rc;
	if (eos >= 0 && (b->ids.n == 0 || b->ids.ids[b->ids.n - 1] != eos || (b->ids.n == 1 && eos == ql_tok_bos(o->tok))) &&
	    ql_ids_push(&b->ids, eos, (uint32_t)b->text.len) != QL_OK)
		return nomem(e);
	rc = limit_length(o, b, e);
	if (rc != QL_OK)
		return rc;
	b->target = calloc(b->ids.n + 1, 1);
	if (b->target == NULL)
		return nomem(e);
	for (size_t t = 1; t < b->ids.n; t++)
		b->target[t] = !completion || b->ids.begin[t] >= s->prompt_len || covers(o, b, t, s->prompt_len);
	return finish(b);
}

/* Tokens that cover a byte of [span.begin, span.end).  generation: and the stop token behind them; else up to the last stop token
 * among them. */
static void mark_span(const struct ql_dataset_opts *o, struct built *b, struct ql_span span, bool generation)
{
	size_t first = 0, last, stop;

	while (first < b->ids.n && b->ids.begin[first] < span.begin)
		first++;
	for (last = first; last < b->ids.n && b->ids.begin[last] < span.end;)
		last++;
	if (span.begin < span.end)
		while (first > 0 && covers(o, b, first - 1, span.begin))
			first--;
	if (generation) {
		if (last < b->ids.n && b->ids.begin[last] == span.end && ql_tok_is_stop(o->tok, b->ids.ids[last]))
			last++;
	} else {
		for (stop = last; stop > first && !ql_tok_is_stop(o->tok, b->ids.ids[stop - 1]);)
			stop--;
		if (stop > first)
			last = stop;
	}
	memset(b->target + first, 1, last - first);
}

static int encode_chat(const struct ql_dataset_opts *o, const struct data_render *r, const uint8_t *trained, struct built *b,
		       struct ql_err *e)
{
	struct ql_rendered full = {0};
	struct ql_span *spans = NULL;
	size_t n = 0;
	int rc = data_render(r, json_array_size(r->messages), false, &full, e);

	if (rc == QL_OK)
		rc = data_mask(r, trained, &full, &spans, &n, &b->only_last, e);
	if (rc == QL_OK)
		rc = ql_tok_encode(o->tok, full.text.data, full.text.len, QL_TOK_PARSE_SPECIAL, full.plain, full.n_plain, &b->ids, e);
	if (rc == QL_OK) {
		b->target = calloc(b->ids.n + 1, 1);
		rc = b->target == NULL ? nomem(e) : QL_OK;
	}
	if (rc == QL_OK) {
		b->text = full.text;
		full.text = (struct ql_buf){0};
	}
	/* Targets on the whole sequence first: a stop token beyond the cut still ends its message. */
	for (size_t i = 0; i < n && rc == QL_OK && o->completion_only_loss; i++)
		mark_span(o, b, spans[i], full.n_generation > 0);
	if (rc == QL_OK && !o->completion_only_loss)
		memset(b->target, 1, b->ids.n);
	if (rc == QL_OK)
		rc = limit_length(o, b, e);
	if (rc == QL_OK)
		rc = finish(b);
	free(spans);
	ql_rendered_free(&full);
	return rc;
}

int data_build(const struct ql_dataset_opts *o, const struct sample *s, struct built *b, struct ql_err *e)
{
	const struct ql_tmpl *tmpl = ql_tmpl_for(o->tmpl, s->tools != NULL);
	struct data_render r = {.tmpl = tmpl, .trusted = o->trusted, .tools = s->tools, .kwargs = s->kwargs, .now_unix = o->now_unix};
	json_t *messages = NULL;
	int rc;

	if (s->is_text)
		return build_text(o, s, b, e);
	if (tmpl == NULL)
		return ql_err_set(e, QL_EINVAL, "a chat line, but the base model has no chat template");
	rc = ql_chat_normalize(tmpl, s->messages, &messages, e);
	r.messages = messages;
	if (rc == QL_OK)
		rc = encode_chat(o, &r, s->trained, b, e);
	b->trailing_dropped = s->trailing_dropped;
	json_decref(messages);
	return rc;
}
