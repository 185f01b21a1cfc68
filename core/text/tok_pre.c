/* tok_pre.c - pre-tokenisers by the names of tokenizer.ggml.pre.
 *
 * tekken and gpt-4o are the models' own expressions.  llama.cpp approximates these two (its letters have case only in ASCII,
 * and marks are no letters), so ids can differ from llama.cpp's there on words with non-ASCII case or marks. */
#include <string.h>

#include "core/text/tok_priv.h"

struct pre {
	const char *name;
	ql_scan_fn *scan; /* NULL: "default", which is a list of patterns */
	bool ignore_merges, add_bos;
};

static const struct pre table[] = {
	{"gpt-2", ql_scan_gpt2, false, false},
	{"smollm", ql_scan_smollm, false, false},
	{"llama-bpe", ql_scan_llama3_ggml, true, true},
	{"llama3", ql_scan_llama3_ggml, true, true},
	{"llama-v3", ql_scan_llama3_ggml, true, true},
	{"qwen2", ql_scan_qwen2_ggml, false, false},
	{"qwen35", ql_scan_qwen35_ggml, false, false},
	{"tekken", ql_scan_tekken, true, true},
	{"gpt-4o", ql_scan_gpt4o_ggml, false, false},
	{"default", NULL, false, false},
};

/* llama.cpp's guess for a file without a known kind: four splits in a row. */
static int add_default(struct ql_pretok *p, struct ql_err *e)
{
	static const char *const patterns[] = {"[\\p{P}\\$\\+<=>\\^~\\|]+", NULL, "\\p{N}+", "[0-9][0-9][0-9]"};

	for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
		struct ql_pretok_step step = {.behaviour = QL_SPLIT_ISOLATED};
		int rc = QL_OK;

		if (patterns[i] == NULL)
			step.scan = ql_scan_gpt2;
		else
			rc = ql_regex_new(&step.regex, patterns[i], e);
		if (rc == QL_OK)
			rc = ql_pretok_add(p, step, e);
		if (rc != QL_OK)
			return rc;
	}
	return QL_OK;
}

int ql_tok_pre_from_name(struct ql_tok *t, const char *pre, bool *ignore_merges, struct ql_err *e)
{
	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		if (strcmp(table[i].name, pre) != 0)
			continue;
		*ignore_merges = table[i].ignore_merges;
		if (table[i].scan == NULL)
			return add_default(&t->pretok, e);
		return ql_pretok_add(&t->pretok, (struct ql_pretok_step){.scan = table[i].scan, .behaviour = QL_SPLIT_ISOLATED}, e);
	}
	return ql_err_param(e, QL_EUNSUPPORTED, "tokenizer.ggml.pre", "pre-tokenizer '%.64s' is not supported", pre);
}

bool ql_tok_pre_adds_bos(const char *pre)
{
	for (size_t i = 0; i < sizeof table / sizeof *table; i++)
		if (strcmp(table[i].name, pre) == 0)
			return table[i].add_bos;
	return false;
}
