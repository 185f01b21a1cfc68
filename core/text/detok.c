/* detok.c - see detok.h. */
#include "core/text/detok.h"

#include <string.h>

#include "core/base/utf8.h"
#include "core/text/tok_priv.h"

static const char REPLACEMENT[3] = {(char)0xef, (char)0xbf, (char)0xbd}; /* U+FFFD */

void ql_detok_init_continue(struct ql_detok *d, const struct ql_tok *tok, bool skip_special)
{
	*d = (struct ql_detok){.tok = tok, .skip_special = skip_special};
}

void ql_detok_init(struct ql_detok *d, const struct ql_tok *tok, bool skip_special)
{
	ql_detok_init_continue(d, tok, skip_special);
	d->n_strip = tok->strip;
}

/* Bytes of the maximal part at s that begins a character but is none: at least 1. */
static size_t invalid_len(const char *s, size_t len)
{
	size_t n = 1;
	uint32_t cp;

	while (n < len && ql_utf8_decode(s, n + 1, &cp) == -1)
		n++;
	return n;
}

static int replace(const struct ql_detok *d, size_t n_bytes, struct ql_buf *out)
{
	int rc = QL_OK;

	for (size_t i = 0; rc == QL_OK && i < (d->tok->fallback_decode ? n_bytes : 1); i++)
		rc = ql_buf_add(out, REPLACEMENT, sizeof REPLACEMENT);
	return rc;
}

/* Appends the whole characters of s[0..len) and replaces what is invalid; *used = where an incomplete tail begins. */
static int emit(const struct ql_detok *d, const char *s, size_t len, size_t *used, struct ql_buf *out)
{
	size_t good = 0, i = 0;
	int rc = QL_OK;

	while (rc == QL_OK && i < len) {
		uint32_t cp;
		int n = (uint8_t)s[i] < 0x80 ? 1 : ql_utf8_decode(s + i, len - i, &cp);

		if (n > 0) {
			i += (size_t)n;
			continue;
		}
		rc = ql_buf_add(out, s + good, i - good);
		good = i;
		if (n < 0 || rc != QL_OK)
			break;
		n = (int)invalid_len(s + i, len - i);
		rc = replace(d, (size_t)n, out);
		i += (size_t)n;
		good = i;
	}
	if (rc == QL_OK && good < i)
		rc = ql_buf_add(out, s + good, i - good);
	*used = i;
	return rc;
}

int ql_detok_push(struct ql_detok *d, int32_t id, struct ql_buf *out, struct ql_err *e)
{
	size_t len, used;
	const char *p = ql_tok_piece(d->tok, id, &len);
	int rc;

	if (p == NULL)
		return ql_err_set(e, QL_EINVAL, "token id %d is not in the vocabulary of %d", (int)id,
				  (int)ql_tok_vocab_size(d->tok));
	if (d->skip_special && ql_tok_is_special(d->tok, id))
		return QL_OK;
	for (; d->n_strip > 0 && len > 0; len--, p++) {
		if (*p != ' ') {
			d->n_strip = 0;
			break;
		}
		d->n_strip--;
	}
	/* byte by byte until nothing is held: at most 3 bytes are, and a character has 4 */
	for (; d->n_held > 0 && len > 0; p++, len--) {
		size_t n = (size_t)d->n_held + 1;
		char head[sizeof d->held + 1];

		memcpy(head, d->held, d->n_held);
		head[n - 1] = *p;
		rc = emit(d, head, n, &used, out);
		if (rc != QL_OK)
			return ql_err_set(e, rc, "no memory for the text");
		d->n_held = (uint8_t)(n - used);
		memcpy(d->held, head + used, d->n_held);
	}
	if (len == 0)
		return QL_OK;
	rc = emit(d, p, len, &used, out);
	if (rc != QL_OK)
		return ql_err_set(e, rc, "no memory for the text");
	d->n_held = (uint8_t)(len - used);
	memcpy(d->held, p + used, d->n_held);
	return QL_OK;
}

int ql_detok_finish(struct ql_detok *d, struct ql_buf *out)
{
	int rc = d->n_held > 0 ? replace(d, d->n_held, out) : QL_OK;

	ql_detok_init(d, d->tok, d->skip_special);
	return rc;
}

int ql_tok_decode(const struct ql_tok *t, const int32_t *ids, size_t n, bool skip_special, struct ql_buf *out,
		  struct ql_err *e)
{
	size_t start = out->len;
	struct ql_detok d;
	int rc = QL_OK;

	ql_detok_init(&d, t, skip_special);
	for (size_t i = 0; rc == QL_OK && i < n; i++)
		rc = ql_detok_push(&d, ids[i], out, e);
	if (rc == QL_OK) {
		rc = ql_detok_finish(&d, out);
		if (rc != QL_OK)
			(void)ql_err_set(e, rc, "no memory for the text");
	}
	if (rc != QL_OK && out->data != NULL) {
		out->len = start;
		out->data[start] = '\0';
	}
	return rc;
}
