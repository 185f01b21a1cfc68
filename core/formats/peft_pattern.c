/* peft_pattern.c - regular expressions of adapter_config.json and of a job's rank_pattern and alpha_pattern: compiled once, run in
 * PCRE2 with match, depth and heap limits on names of at most 80 bytes.  peft (tuners_utils.get_pattern_key) takes the first key that
 * matches as ^(.*\.)?(K)$; what has no key keeps the adapter's own rank and alpha. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/limits.h"
#include "core/formats/peft_config.h"

#define COMPILED_MAX QL_MIB(16) /* bytes of all patterns together, compiled */

struct pattern {
	const char *key;
	pcre2_code *code;
};

struct ql_peft_patterns {
	char what[32];
	struct pattern *list;
	size_t n, bytes;
	pcre2_match_context *limits;
	pcre2_match_data *data;
};

static int add(struct ql_peft_patterns *p, const char *before, const char *key, struct ql_err *e)
{
	char text[QL_PEFT_REGEX_MAX + 32];
	size_t at, bytes = 0;
	pcre2_code *code;
	int n;

	if (snprintf(text, sizeof text, "%s%s)$", before, key) >= (int)sizeof text)
		return ql_err_param(e, QL_ELIMIT, p->what, "%s: a pattern of more than %d bytes", p->what, QL_PEFT_REGEX_MAX);
	code = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C | PCRE2_DOLLAR_ENDONLY, &n, &at,
			     NULL);
	if (code == NULL)
		return ql_err_param(e, QL_EFORMAT, p->what, "%s: bad pattern '%.80s'", p->what, key);
	p->list[p->n++] = (struct pattern){key, code};
	(void)pcre2_pattern_info(code, PCRE2_INFO_SIZE, &bytes);
	p->bytes += bytes;
	return p->bytes <= COMPILED_MAX ? QL_OK : ql_err_param(e, QL_ELIMIT, p->what, "%s: its patterns are too large", p->what);
}

static int make(struct ql_peft_patterns **out, const char *what, size_t n, struct ql_err *e)
{
	struct ql_peft_patterns *p = calloc(1, sizeof *p);

	*out = p;
	if (p == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for patterns");
	(void)snprintf(p->what, sizeof p->what, "%s", what);
	p->list = calloc(n > 0 ? n : 1, sizeof *p->list);
	p->limits = pcre2_match_context_create(NULL);
	p->data = pcre2_match_data_create(1, NULL);
	if (p->list == NULL || p->limits == NULL || p->data == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for patterns");
	(void)pcre2_set_match_limit(p->limits, 10000); /* a file may bring thousands of patterns for each module */
	(void)pcre2_set_depth_limit(p->limits, 1000);
	(void)pcre2_set_heap_limit(p->limits, 1024);
	return QL_OK;
}

static int finish(struct ql_peft_patterns **out, int rc)
{
	if (rc != QL_OK) {
		ql_peft_patterns_free(*out);
		*out = NULL;
	}
	return rc;
}

int ql_peft_patterns_new(struct ql_peft_patterns **out, const char *what, const json_t *pattern, struct ql_err *e)
{
	int rc = make(out, what, json_object_size(pattern), e);
	const char *key;
	json_t *v;

	if (rc == QL_OK)
		json_object_foreach((json_t *)(uintptr_t)pattern, key, v)
			if ((rc = add(*out, "(?:.*\\.)?(?:", key, e)) != QL_OK)
				break;
	return finish(out, rc);
}

int ql_peft_regex_new(struct ql_peft_patterns **out, const char *what, const char *pattern, struct ql_err *e)
{
	int rc = make(out, what, 1, e);

	return finish(out, rc == QL_OK ? add(*out, "(?:", pattern, e) : rc);
}

int ql_peft_patterns_find(struct ql_peft_patterns *p, const char *module, const char **key, struct ql_err *e)
{
	size_t len = strlen(module);

	*key = NULL;
	for (size_t i = 0; i < p->n; i++) {
		int n = pcre2_match(p->list[i].code, (PCRE2_SPTR)module, len, 0, PCRE2_ANCHORED, p->data, p->limits);

		if (n >= 0) {
			*key = p->list[i].key;
			return QL_OK;
		}
		if (n != PCRE2_ERROR_NOMATCH)
			return ql_err_param(e, QL_ELIMIT, p->what, "%s: pattern '%.80s' takes too long", p->what, p->list[i].key);
	}
	return QL_OK;
}

void ql_peft_patterns_free(struct ql_peft_patterns *p)
{
	if (p == NULL)
		return;
	for (size_t i = 0; i < p->n; i++)
		pcre2_code_free(p->list[i].code);
	pcre2_match_data_free(p->data);
	pcre2_match_context_free(p->limits);
	free(p->list);
	free(p);
}
