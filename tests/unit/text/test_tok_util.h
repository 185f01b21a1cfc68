/* test_tok_util.h - small tokenizers for the tests. */
#ifndef QL_TESTS_TOK_UTIL_H
#define QL_TESTS_TOK_UTIL_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text/tok.h"
#include "core/text/tok_spec.h"
#include "tests/unit/cm.h"

/* xorshift64*: the same numbers on every run */
static inline uint64_t next_random(uint64_t *s)
{
	*s ^= *s >> 12;
	*s ^= *s << 25;
	*s ^= *s >> 27;
	return *s * 0x2545f4914f6cdd1du;
}
static inline uint32_t below(uint64_t *s, uint32_t n) { return (uint32_t)(next_random(s) >> 33) % n; }

/* A tokenizer with all 256 bytes (ids 0..255, in byte order), then `merged` tokens in the GPT-2 alphabet, then specials. */
#define UTIL_MAX 512
struct mini {
	char bytes[256][5];
	struct ql_tok_str tokens[UTIL_MAX];
	int32_t types[UTIL_MAX];
	struct ql_tok_str merges[UTIL_MAX];
	struct ql_tok_spec spec;
};

static inline struct ql_tok_str tok_str(const char *s) { return (struct ql_tok_str){s, strlen(s)}; }

static inline void mini_add(struct mini *m, const char *token, int32_t type)
{
	m->tokens[m->spec.n_tokens] = tok_str(token);
	m->types[m->spec.n_tokens++] = type;
}

static inline void mini_merge(struct mini *m, const char *merge) { m->merges[m->spec.n_merges++] = tok_str(merge); }

static inline void mini_init(struct mini *m, const char *pre)
{
	int next = 0;

	memset(m, 0, sizeof *m);
	m->spec = (struct ql_tok_spec){.model = QL_TOK_MODEL_GPT2, .pre = pre, .tokens = m->tokens, .types = m->types,
				       .merges = m->merges, .bos = -1, .eos = -1, .eot = -1, .pad = -1, .unk = -1};
	for (int b = 0; b < 256; b++) {
		int cp = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae ? b : 0x100 + next++;

		if (cp < 0x80) {
			m->bytes[b][0] = (char)cp;
		} else {
			m->bytes[b][0] = (char)(0xc0 | cp >> 6);
			m->bytes[b][1] = (char)(0x80 | (cp & 0x3f));
		}
		mini_add(m, m->bytes[b], QL_TOK_NORMAL);
	}
}

static inline struct ql_tok *mini_load(struct mini *m)
{
	struct ql_tok *t = NULL;
	struct ql_err e = {0};

	if (ql_tok_from_spec(&t, &m->spec, &e) != QL_OK)
		fail_msg("%s", e.message);
	return t;
}

static inline struct ql_tok *json_load(const char *json)
{
	struct ql_tok *t = NULL;
	struct ql_err e = {0};

	if (ql_tok_from_json(&t, json, strlen(json), NULL, 0, &e) != QL_OK)
		fail_msg("%s", e.message);
	return t;
}

/* Encodes and compares with the n ids given. */
#define assert_ids(t, text, flags, ...) \
	check_ids(t, text, strlen(text), flags, NULL, 0, (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / 4)

static inline void check_ids(const struct ql_tok *t, const char *text, size_t len, unsigned flags, const struct ql_span *plain,
			     size_t n_plain, const int32_t *want, size_t n)
{
	struct ql_ids ids = {0};
	struct ql_err e = {0};

	if (ql_tok_encode(t, text, len, flags, plain, n_plain, &ids, &e) != QL_OK)
		fail_msg("%s", e.message);
	for (size_t i = 0; i < n || i < ids.n; i++)
		if (i >= n || i >= ids.n || ids.ids[i] != want[i])
			fail_msg("\"%s\": token %zu is %d, not %d (%zu tokens, not %zu)", text, i, i < ids.n ? (int)ids.ids[i] : -1,
				 i < n ? (int)want[i] : -1, ids.n, n);
	ql_ids_free(&ids);
}

#endif
