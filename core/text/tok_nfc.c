/* tok_nfc.c - NFC, NFD, NFKC and NFKD with offsets, by utf8proc, cluster by cluster.
 *
 * A cluster ends where a character stands that never combines with what is before it, under any of the four forms: not a
 * mark, not a conjoining Hangul vowel or final consonant or a compatibility form of one, not a half-width voicing mark. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "core/base/utf8.h"
#include "core/text/tok_norm.h"
#include "core/text/unicode.h"

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

/* Appends the normal form of src[from..to). */
static int cluster(enum ql_norm_kind kind, const struct ql_ntext *src, size_t from, size_t to, struct ql_nbuf *dst, bool *changed)
{
	utf8proc_uint8_t *out = NULL;
	utf8proc_ssize_t n;
	size_t len = to - from;
	uint32_t cp;
	int rc = QL_OK;

	if (ql_utf8_decode(src->p + from, len, &cp) == (int)len && plain(kind, cp)) {
		for (size_t i = 0; rc == QL_OK && i < len; i++)
			rc = ql_nbuf_add(dst, src->p + from + i, 1, ql_ntext_origin(src, from + i), 0);
		return rc;
	}
	n = utf8proc_map((const utf8proc_uint8_t *)src->p + from, (utf8proc_ssize_t)len, &out, options(kind));
	if (n < 0)
		return n == UTF8PROC_ERROR_NOMEM ? QL_ENOMEM : QL_EFORMAT;
	if ((size_t)n == len && memcmp(out, src->p + from, len) == 0) {
		for (size_t i = 0; rc == QL_OK && i < len; i++)
			rc = ql_nbuf_add(dst, src->p + from + i, 1, ql_ntext_origin(src, from + i), 0);
	} else {
		*changed = true;
		rc = ql_nbuf_add(dst, (const char *)out, (size_t)n, ql_ntext_origin(src, from), 0);
	}
	free(out);
	return rc;
}

int ql_norm_unicode(enum ql_norm_kind kind, const struct ql_ntext *src, struct ql_nbuf *dst, bool *same, struct ql_err *e)
{
	size_t begin = 0, i = 0;
	bool changed = false, all_plain = true;
	uint32_t cp;
	int n, rc = QL_OK;

	for (i = 0; i < src->len && all_plain; i += (size_t)n) {
		n = ql_utf8_decode(src->p + i, src->len - i, &cp);
		if (n <= 0)
			return ql_err_at(e, QL_EFORMAT, ql_ntext_origin(src, i), "invalid UTF-8");
		all_plain = plain(kind, cp);
	}
	*same = all_plain;
	if (all_plain)
		return QL_OK;
	for (i = 0; rc == QL_OK && i < src->len; i += (size_t)n) {
		n = ql_utf8_decode(src->p + i, src->len - i, &cp);
		if (n <= 0)
			return ql_err_at(e, QL_EFORMAT, ql_ntext_origin(src, i), "invalid UTF-8");
		if (i > begin && starts_cluster(cp)) {
			rc = cluster(kind, src, begin, i, dst, &changed);
			begin = i;
		}
	}
	if (rc == QL_OK)
		rc = cluster(kind, src, begin, src->len, dst, &changed);
	*same = !changed;
	return rc;
}
