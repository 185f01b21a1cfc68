/* text_out.c - see text_out.h. */
#include "core/infer/text_out.h"

#include <string.h>

#include "core/text/tok.h"

void ql_text_out_init(struct ql_text_out *t, const struct ql_tok *tok, char *const *stops, uint32_t n_stops)
{
	*t = (struct ql_text_out){.stops = stops, .n_stops = n_stops};
	ql_detok_init_continue(&t->detok, tok, true);
}

void ql_text_out_free(struct ql_text_out *t) { ql_buf_free(&t->pending); }

void ql_text_out_taken(struct ql_text_out *t, size_t n)
{
	memmove(t->pending.data, t->pending.data + n, t->pending.len - n);
	t->pending.len -= n;
}

/* Where the first stop string begins, or SIZE_MAX. */
static size_t find_stop(const struct ql_text_out *t)
{
	size_t first = SIZE_MAX;

	for (uint32_t i = 0; i < t->n_stops; i++) {
		const char *p = t->pending.len == 0 ? NULL
						    : memmem(t->pending.data, t->pending.len, t->stops[i], strlen(t->stops[i]));

		if (p != NULL && (size_t)(p - t->pending.data) < first)
			first = (size_t)(p - t->pending.data);
	}
	return first;
}

/* Length of the longest end of pending that begins some stop string. */
static size_t held_back(const struct ql_text_out *t)
{
	size_t most = 0;

	for (uint32_t i = 0; i < t->n_stops; i++) {
		size_t n = strlen(t->stops[i]) - 1;

		if (n > t->pending.len)
			n = t->pending.len;
		while (n > most && memcmp(t->pending.data + t->pending.len - n, t->stops[i], n) != 0)
			n--;
		if (n > most)
			most = n;
	}
	return most;
}

int ql_text_out_push(struct ql_text_out *t, int32_t token, bool may_stop, size_t *ready, bool *hit, struct ql_err *e)
{
	int rc = token < ql_tok_vocab_size(t->detok.tok) ? ql_detok_push(&t->detok, token, &t->pending, e) : QL_OK;
	size_t at = may_stop ? find_stop(t) : SIZE_MAX;

	*hit = at != SIZE_MAX;
	*ready = *hit ? at : t->pending.len - held_back(t);
	return rc;
}

int ql_text_out_finish(struct ql_text_out *t, size_t *ready, struct ql_err *e)
{
	int rc = ql_detok_finish(&t->detok, &t->pending);
	size_t at = find_stop(t);

	*ready = at != SIZE_MAX ? at : t->pending.len;
	return rc == QL_OK ? rc : ql_err_set(e, rc, "text");
}
