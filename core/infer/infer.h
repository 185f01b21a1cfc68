/* infer.h - the inference scheduler: many requests, each with its own adapter, one device.
 *
 * A request has one prompt and n choices; each choice is a row with its own cache blocks, sharing full prompt blocks with
 * others of the same adapter.  One thread runs ql_infer_run: it admits waiting rows in order while rows and blocks allow (blocks
 * for prompt + max_tokens are set aside at admission, so a running row never lacks one), runs one prompt chunk, then one
 * decode step for all running rows, and so on, entering the model's gate for each.  submit, cancel, drop and stop may be called
 * from any thread; callbacks run on the scheduler's thread, outside the gate. */
#ifndef QL_INFER_INFER_H
#define QL_INFER_INFER_H

#include "core/infer/sampler.h"
#include "core/model/step.h"
#include "core/text/tok.h"

struct ql_infer;

struct ql_infer_opts {
	uint32_t max_rows;	/* rows decoded together */
	uint32_t max_waiting;	/* requests in the queue; those that run do not count */
	uint32_t kv_tokens;	/* cached tokens in all; 0 = chosen from memory */
	uint32_t max_context;	/* 0 = the model's */
	uint32_t adapter_slots; /* adapters on the device */
	uint32_t max_chunk;	/* prompt tokens in one turn; 0 = chosen */
};

enum ql_finish { QL_FINISH_STOP, QL_FINISH_LENGTH };

struct ql_token_info {
	int32_t token;
	float logprob; /* NaN: none (first echoed token) */
	struct ql_alt *top;
	uint32_t n_top;
};

/* What a request used.  The times are of its first row: from submit to admission, and from there to the end of its prompt. */
struct ql_infer_usage { /* cached_tokens: of the prompt, found in the cache when the first choice began */
	uint64_t prompt_tokens, completion_tokens, cached_tokens;
	double queue_s, prefill_s;
};

struct ql_infer_events {
	/* New text of a choice (whole characters, maybe empty) and the tokens behind it. */
	void (*delta)(void *ctx, uint32_t choice, const char *text, size_t len, const struct ql_token_info *tokens, uint32_t n_tokens);
	void (*finish)(void *ctx, uint32_t choice, enum ql_finish reason);
	/* Exactly one of these ends the request; ctx is not used afterwards. */
	void (*done)(void *ctx, const struct ql_infer_usage *u);
	void (*error)(void *ctx, const struct ql_err *e);
};

struct ql_adapter_ref {
	char name[256];
	char dir[256]; /* below the state directory */
	uint64_t generation;
};

struct ql_infer_request {
	uint64_t id;
	const int32_t *prompt; /* copied */
	uint32_t n_prompt, n; /* n choices */
	uint32_t max_tokens;
	const struct ql_adapter_ref *adapter; /* NULL = base */
	struct ql_sampling sampling;	      /* bias copied */
	const char *const *stop;	      /* copied */
	uint32_t n_stop;
	const int32_t *stop_tokens; /* copied */
	uint32_t n_stop_tokens;
	bool ignore_eos, echo;
	uint32_t min_tokens; /* as many come before a stop token may, and a stop string may end only behind them */
	int32_t logprobs; /* -1 none, else number of alternatives */
	struct ql_infer_events events;
	void *ctx;
};

/* Turns (a prompt chunk or a decode step) by their number of tokens: at most 1, 2, 5, 10, … 100,000, or more. */
#define QL_INFER_TURN_BUCKETS 17

struct ql_infer_stats {
	uint32_t running, waiting; /* rows; requests */
	uint32_t blocks_held, blocks;
	uint64_t prompt_tokens, generated_tokens, cached_tokens;
	uint64_t turns[QL_INFER_TURN_BUCKETS], turn_tokens;
	uint64_t adapters_in, adapters_out; /* loaded to the device, put out to make room or dropped */
};

/* Opens an adapter directory by its reference: returns a descriptor or a code. */
typedef int (*ql_adapter_open)(void *ctx, const char *dir, struct ql_err *e);

int ql_infer_new(struct ql_infer **out, struct ql_model *m, const struct ql_tok *tok, const struct ql_infer_opts *o,
		 ql_adapter_open open_dir, void *open_ctx, struct ql_err *e);
void ql_infer_free(struct ql_infer *f); /* after run returned; open requests get an error event first */
/* QL_EBUSY: queue full; QL_ELIMIT: prompt and max_tokens do not fit the context (param "messages"); QL_EINVAL: n, or a token that is none
 * of the vocabulary (param "prompt", "logit_bias", "stop_token_ids"). */
int ql_infer_submit(struct ql_infer *f, const struct ql_infer_request *r, struct ql_err *e);
void ql_infer_cancel(struct ql_infer *f, uint64_t id);
void ql_infer_drop_adapter(struct ql_infer *f, const char *name);
/* Until stop, or until the device fails (its code; open requests got an error event). */
int ql_infer_run(struct ql_infer *f, struct ql_err *e);
void ql_infer_stop(struct ql_infer *f);
void ql_infer_stats(struct ql_infer *f, struct ql_infer_stats *out);
/* Adapters on the device, as of the last turn: names into names[max], the number of their running requests into users[max]; returns how many. */
uint32_t ql_infer_resident(struct ql_infer *f, char (*names)[256], uint32_t *users, uint32_t max);
/* Adapters of requests that wait (each once): names into names[max]; returns how many. */
uint32_t ql_infer_wanted(struct ql_infer *f, char (*names)[256], uint32_t max);
uint32_t ql_infer_context(const struct ql_infer *f);

#endif
