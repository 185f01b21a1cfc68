/* tok_nfc.c - NFC, NFD, NFKC and NFKD with offsets, by utf8proc, cluster by cluster.
 *
 * A cluster ends where a character stands that never combines with what is before it, under any of the four forms: not a
 * mark, not a conjoining Hangul vowel or final consonant or a compatibility form of one, not a half-width voicing mark.
 * The forms are those of utf8proc's version of Unicode (15.0 in Debian 12); forms never change for characters that exist. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "core/base/utf8.h"
#include "core/text/tok_norm.h"
#include "core/text/unicode.h"

/* Marks in a row are sorted in quadratic time, so longer rows of them (no language has any) are taken in parts. */
enum { CLUSTER_MAX = 512 }; /* bytes */

struct cp_range {
	uint32_t first, last;
};

static bool in_ranges(const struct cp_range *r, size_t n, uint32_t cp)
{
	for (size_t i = 0; i < n; i++)
		if (cp >= r[i].first && cp <= r[i].last)
			return true;
	return false;
}

/* Characters that NFC leaves alone and that combine with nothing before them: the bulk of real texts. */
static bool plain_nfc(uint32_t cp)
{
	static const struct cp_range plain[] = {
		{0, 0x2ff}, {0x4e00, 0x9fff}, {0xac00, 0xd7a3}, {0x400, 0x482}, {0x48a, 0x52f}, {0x3041, 0x3096}, {0x309b, 0x30ff},
		{0x3001, 0x3029}, {0x2010, 0x2027}, {0x2030, 0x205e}, {0x1e00, 0x1eff}, {0x391, 0x3ff}, {0x5d0, 0x5ea},
		{0x620, 0x64a}, {0xe01, 0xe30}, {0x2190, 0x2328}, {0x232b, 0x2adb}, {0xff01, 0xff9d}, {0x3400, 0x4dbf},
		{0x1f300, 0x1faff},
	};

	return in_ranges(plain, sizeof plain / sizeof *plain, cp);
}

static bool plain(enum ql_norm_kind kind, uint32_t cp)
{
	if (kind == QL_NORM_NFC)
		return plain_nfc(cp);
	return cp < 0x80 || (cp >= 0x4e00 && cp <= 0x9fff);
}

static bool starts_cluster(uint32_t cp)
{
	static const struct cp_range combining[] = {
		{0x1160, 0x11ff}, {0xd7b0, 0xd7ff}, {0x3131, 0x318e}, {0xff9e, 0xffdc}, {0x16d63, 0x16d6a},
	};

	return ql_unicode_class(cp) != QL_U_M && !in_ranges(combining, sizeof combining / sizeof *combining, cp);
}

static utf8proc_option_t options(enum ql_norm_kind kind)
{
	utf8proc_option_t o = UTF8PROC_STABLE;

	if (kind == QL_NORM_NFKC || kind == QL_NORM_NFKD)
		o |= UTF8PROC_COMPAT;
	return o | (kind == QL_NORM_NFC || kind == QL_NORM_NFKC ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE);
}

/* The normal form of src[from..to), appended to dst; with dst NULL only *changed is found out. */
static int cluster(enum ql_norm_kind kind, const struct ql_ntext *src, size_t from, size_t to, struct ql_nbuf *dst, bool *changed)
{
	utf8proc_uint8_t *out = NULL;
	utf8proc_ssize_t n;
	size_t len = to - from;
	int rc = QL_OK;

	n = utf8proc_map((const utf8proc_uint8_t *)src->p + from, (utf8proc_ssize_t)len, &out, options(kind));
	if (n < 0)
		return n == UTF8PROC_ERROR_NOMEM ? QL_ENOMEM : QL_EFORMAT;
	*changed = (size_t)n != len || memcmp(out, src->p + from, len) != 0;
	if (dst != NULL && *changed)
		rc = ql_nbuf_add(dst, (const char *)out, (size_t)n, ql_ntext_origin(src, from), 0);
	else if (dst != NULL)
		rc = ql_nbuf_copy(dst, src, from, to);
	free(out);
	return rc;
}

/* The next cluster at or after `from` that holds a character not plain; false if there is none.  A plain character is one
 * cluster with whatever marks follow it. */
static bool next_cluster(enum ql_norm_kind kind, const struct ql_ntext *t, size_t from, size_t *begin, size_t *end)
{
	size_t last = from, i;
	uint32_t cp = 0;
	int n;

	for (i = from; i < t->len; i += (size_t)n) {
		if ((uint8_t)t->p[i] < 0x80) {
			n = 1;
		} else {
			n = ql_utf8_decode(t->p + i, t->len - i, &cp);
			if (n <= 0 || !plain(kind, cp))
				break;
		}
		last = i;
	}
	if (i >= t->len)
		return false;
	*begin = i > from && !starts_cluster(cp) ? last : i;
	for (*end = i; *end < t->len; *end += (size_t)n) {
		n = ql_utf8_decode(t->p + *end, t->len - *end, &cp);
		if (n <= 0) /* never: the text was checked */
			n = 1;
		else if (*end > i && (starts_cluster(cp) || *end - i >= CLUSTER_MAX))
			break;
	}
	return true;
}

int ql_norm_unicode(enum ql_norm_kind kind, const struct ql_ntext *src, struct ql_nbuf *dst, bool *same)
{
	size_t at = 0, begin, end;
	bool changed = false, ignored;
	int rc = QL_OK;

	*same = true;
	while (!changed && next_cluster(kind, src, at, &begin, &end)) {
		rc = cluster(kind, src, begin, end, NULL, &changed);
		if (rc != QL_OK)
			return rc;
		at = end;
	}
	*same = !changed;
	if (!changed)
		return QL_OK;
	at = 0;
	while (rc == QL_OK && next_cluster(kind, src, at, &begin, &end)) {
		rc = ql_nbuf_copy(dst, src, at, begin);
		if (rc == QL_OK)
			rc = cluster(kind, src, begin, end, dst, &ignored);
		at = end;
	}
	return rc == QL_OK ? ql_nbuf_copy(dst, src, at, src->len) : rc;
}
