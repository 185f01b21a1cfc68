/* row.h - requests and their rows, as the scheduler keeps them; private to the room. */
#ifndef QL_INFER_ROW_H
#define QL_INFER_ROW_H

#include <stdatomic.h>

#include "core/infer/adapters.h"
#include "core/infer/blocks.h"
#include "core/infer/infer.h"
#include "core/infer/text_out.h"

enum row_state { ROW_WAITING, ROW_PREFILL, ROW_DECODE, ROW_ENDED };

struct request;

struct row {
	struct request *req;
	uint32_t choice;
	enum row_state state;
	int32_t *tokens; /* prompt then generated */
	uint32_t n_tokens, n_cached;
	int32_t *blocks; /* for prompt + max_tokens */
	uint32_t n_blocks, n_keyed; /* full blocks whose key is in `key` */
	struct ql_block_key key;
	struct ql_text_out text;
};

struct request {
	struct request *next;
	struct ql_infer_request r; /* pointers into the fields below */
	struct ql_adapter_ref adapter_ref;
	struct ql_adapter *adapter; /* while admitted rows exist */
	struct ql_sampling sampling;
	int32_t *stop_tokens;
	char **stops;
	struct row *rows; /* [n] */
	uint32_t n_ended;
	_Atomic uint32_t n_admitted; /* read by other threads, for the figures */
	uint64_t completion_tokens, cached_tokens;
	double t_submit, t_admit, t_prompt; /* seconds: came, admitted, prompt done */
	_Atomic bool cancelled;
};

/* A deep copy of what the caller submitted; NULL when out of memory. */
struct request *ql_request_new(const struct ql_infer_request *r, const struct ql_tok *tok);
void ql_request_free(struct request *q);
/* Token `token` was chosen for the row (logits: before sampling changed them, or NULL without logprobs).  Gives out text, finds
 * the end.  True if the row ended; *reason then says how. */
bool ql_row_take(struct row *w, const struct ql_tok *tok, int32_t token, const struct ql_token_info *info, enum ql_finish *reason,
		 struct ql_err *e);
/* The prompt's text and tokens, for echo. */
int ql_row_echo(struct row *w, const struct ql_tok *tok, const struct ql_token_info *infos, struct ql_err *e);

#endif
