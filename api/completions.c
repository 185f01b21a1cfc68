/* completions.c - POST /v1/completions (api.md §9): prompts as text or token ids. */
#include <stdio.h>

#include "api/gen.h"
#include "core/base/limits.h"
#include "daemon/engine_link.h"

static const char *const ignored[] = {"user",	  "suffix",	"metadata",	     "store",	   "service_tier",
				      "prediction", "prompt_cache_key", "prompt_cache_retention", "safety_identifier",
				      "moderation", NULL};

static int check_ids(const json_t *ids, int64_t vocab, const char *where, struct ql_fault *f)
{
	const json_t *v;
	size_t i;

	if (json_array_size(ids) < 1)
		return ql_bad_value(f, where, "Invalid value for '%s': an empty prompt.", where);
	json_array_foreach((json_t *)(uintptr_t)ids, i, v)
		if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= vocab)
			return ql_bad_value(f, where, "Invalid value for '%s': token ids must be integers from 0 to %lld.", where,
					    (long long)vocab - 1);
	return QL_OK;
}

static int check_prompts(const json_t *list, int64_t vocab, struct ql_fault *f)
{
	const json_t *v;
	size_t i;

	if (json_array_size(list) < 1 || json_array_size(list) > QL_PROMPTS_MAX)
		return ql_bad_value(f, "prompt", "Invalid value for 'prompt': must have 1 to %d prompts.", QL_PROMPTS_MAX);
	json_array_foreach((json_t *)(uintptr_t)list, i, v) {
		char where[32];
		int rc = QL_OK;

		(void)snprintf(where, sizeof where, "prompt[%zu]", i);
		if (!json_is_string(v) && !json_is_array(v))
			rc = ql_bad_value(f, where, "Invalid type for '%s': expected a string or an array of token ids.", where);
		else if (json_is_array(v) != json_is_array(json_array_get(list, 0)))
			rc = ql_bad_value(f, where, "Invalid type for '%s': prompts must all have one type.", where);
		else if (json_is_array(v))
			rc = check_ids(v, vocab, where, f);
		if (rc != QL_OK)
			return rc;
	}
	return QL_OK;
}

/* string | [string] | [int] | [[int]] → a list of prompts. */
static int put_prompts(struct ql_req *r, struct ql_gen *g, json_t *frame, struct ql_fault *f)
{
	int64_t vocab = json_integer_value(json_object_get(ql_engine_model(r->ctl), "vocab_size"));
	json_t *prompt = json_object_get(r->json, "prompt"), *list;
	int rc;

	if (prompt == NULL || json_is_null(prompt))
		return ql_bad_missing(f, "prompt");
	if (vocab <= 0)
		vocab = QL_VOCAB_MAX;
	if (!json_is_string(prompt) && !json_is_array(prompt))
		return ql_bad_value(f, "prompt",
				    "Invalid type for 'prompt': expected a string, strings, token ids or lists of them.");
	if (json_is_array(prompt) && json_is_integer(json_array_get(prompt, 0)))
		rc = check_ids(prompt, vocab, "prompt", f);
	else
		rc = json_is_array(prompt) ? check_prompts(prompt, vocab, f) : QL_OK;
	if (rc != QL_OK)
		return rc;
	list = json_is_array(prompt) && !json_is_integer(json_array_get(prompt, 0)) ? json_incref(prompt) :
										      json_pack("[O]", prompt);
	g->n_prompts = json_array_size(list);
	if (g->n_prompts * (g->best_of > g->n ? g->best_of : g->n) > QL_INFER_ROWS_MAX) {
		json_decref(list);
		return ql_bad_value(f, g->best_of > g->n ? "best_of" : "n",
				    "The number of prompts times the choices for each must be at most %d.", QL_INFER_ROWS_MAX);
	}
	return json_object_set_new(frame, "prompts", list) == 0 ? QL_OK : ql_bad_internal(f);
}

void ql_h_completion(struct ql_req *r)
{
	struct ql_gen *g = ql_gen_new(r, false);
	json_t *frame = json_pack("{s:s}", "kind", "completion");
	struct ql_fault f = {0};
	int rc = g == NULL || frame == NULL ? ql_bad_internal(&f) : QL_OK;

	if (rc == QL_OK)
		rc = ql_gen_params(r, g, frame, &f);
	if (rc == QL_OK)
		rc = put_prompts(r, g, frame, &f);
	if (rc == QL_OK) {
		ql_gen_ignored(g, r->json, ignored);
		rc = ql_gen_start(g, frame, &f); /* takes the frame */
		frame = NULL;
	}
	json_decref(frame);
	if (rc == QL_OK)
		return;
	ql_gen_free(g);
	ql_reply_fault(r, &f);
}
