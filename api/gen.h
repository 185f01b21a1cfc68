/* gen.h - one generation: /v1/chat/completions or /v1/completions, from checked fields to the last byte (api.md §8, §9).
 *
 * gen_params.c turns the body into the engine's `infer` frame; gen.c follows the frames that come back and keeps what an
 * unstreamed answer needs; gen_chat.c and gen_text.c write the two families of objects.  Index = prompt · n + i. */
#ifndef QL_API_GEN_H
#define QL_API_GEN_H

#include "api/handlers.h"
#include "api/fields.h"
#include "daemon/models.h"

#define QL_INFER_SECONDS_MAX 3600
#define QL_PROMPTS_MAX 16
#define QL_MAX_TOKENS_DEFAULT 4096 /* chat, when the request names no limit */

struct ql_choice {
	struct ql_buf text;
	json_t *logprobs;      /* engine's entries, array; NULL when not asked for */
	const char *reason;    /* "stop" | "length", NULL until finished */
	uint64_t last_ms;      /* of the last token */
	int64_t tokens;
	double sum_logprob;    /* for best_of */
	size_t text_offset;    /* code points before the next token (text completions) */
};

struct ql_gen {
	struct ql_req *r;
	int64_t infer_id;
	bool chat, stream, include_usage, logprobs, echo;
	char id[QL_ID_SIZE], fingerprint[16], *model;
	int64_t created;
	size_t n_prompts, n, best_of; /* choices the client gets and candidates made, for each prompt */
	size_t n_choices;             /* n_prompts · max(n, best_of) */
	struct ql_choice *choices;
	uint64_t first_ms; /* of the first token, 0 = none yet */
	char ignored[256];            /* for x-qlora-ignored */
};

/* gen_params.c: checks the fields common to both routes, fills g and frame.  top: alternatives, -1 none. */
int ql_gen_params(struct ql_req *r, struct ql_gen *g, json_t *frame, struct ql_fault *f);
/* Names of the fields in `list` (NULL-terminated) that body holds, into g->ignored. */
void ql_gen_ignored(struct ql_gen *g, const json_t *body, const char *const *list);

/* gen.c: starts the request; frame is taken over.  On failure the caller answers; *g is freed by ql_gen_free. */
struct ql_gen *ql_gen_new(struct ql_req *r, bool chat);
int ql_gen_start(struct ql_gen *g, json_t *frame, struct ql_fault *f);
void ql_gen_free(struct ql_gen *g);

/* gen_chat.c, gen_text.c: new references, NULL when out of memory. */
json_t *ql_chat_role_chunk(const struct ql_gen *g, size_t index);
json_t *ql_chat_delta_chunk(const struct ql_gen *g, size_t index, const json_t *frame);
json_t *ql_chat_finish_chunk(const struct ql_gen *g, size_t index, const char *reason);
json_t *ql_chat_choice(const struct ql_gen *g, size_t from, size_t index);
json_t *ql_text_delta_chunk(struct ql_gen *g, size_t index, const json_t *frame);
json_t *ql_text_finish_chunk(const struct ql_gen *g, size_t index, const char *reason);
json_t *ql_text_choice(struct ql_gen *g, size_t from, size_t index);
/* The outer object around `choices` (taken over); usage NULL: the chunk's null when include_usage, else nothing. */
json_t *ql_gen_object(const struct ql_gen *g, const char *object, json_t *choices, json_t *usage, bool chunk);
json_t *ql_gen_usage(const json_t *done_frame);

#endif
