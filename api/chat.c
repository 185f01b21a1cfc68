/* chat.c - POST /v1/chat/completions (api.md §8). */
#include "api/gen.h"
#include "api/messages.h"

static const char *const ignored[] = {
	"user",		"metadata",	  "store",	     "service_tier", "reasoning_effort",   "verbosity", "prediction",
	"prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "safety_identifier", "moderation",
	"web_search_options", "audio", NULL};

void ql_h_chat(struct ql_req *r)
{
	struct ql_gen *g = ql_gen_new(r, true);
	json_t *frame = json_pack("{s:s}", "kind", "chat");
	struct ql_fault f = {0};
	int rc = g == NULL || frame == NULL ? ql_bad_internal(&f) : QL_OK;

	if (rc == QL_OK)
		rc = ql_gen_params(r, g, frame, &f);
	if (rc == QL_OK)
		rc = ql_template_read(r->json, frame, &f);
	if (rc == QL_OK) {
		ql_gen_ignored(g, r->json, ignored);
		rc = ql_gen_start(g, frame, &f); /* takes the frame */
		frame = NULL;
	}
	json_decref(frame);
	if (rc == QL_OK)
		return; /* on_gone owns g now */
	ql_gen_free(g);
	ql_reply_fault(r, &f);
}
