/* dataset.h - training files (JSONL) → token ids and masks; and the same path for one conversation to be served.
 *
 * Kinds, found from the keys of the first line; every line must be of that kind:
 *   chat {"messages"}, prompt/completion {"prompt","completion"} (strings, or lists of messages), text {"text"},
 *   Alpaca {"instruction","output"}, ShareGPT {"conversations"}; preference pairs {"input","preferred_output",
 *   "non_preferred_output"} or {"prompt","chosen","rejected"} are checked and then refused: nothing trains on them yet.
 * Which tokens are targets: see mask.h.  Chat lines are tokenised once, as rendered, with add_special off.
 * Reading is by line (QL_DATASET_LINE_MAX, QL_DATASET_LINES_MAX), never the whole file; the examples are kept in memory,
 * 5 bytes a token. */
#ifndef QL_TEXT_DATASET_H
#define QL_TEXT_DATASET_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/buf.h"
#include "core/base/err.h"
#include "core/base/limits.h"
#include "core/text/tmpl/tmpl.h"
#include "core/text/tok.h"

/* One training sequence; borrowed from its dataset. */
struct ql_example {
	const int32_t *ids;
	const uint8_t *target; /* target[t] = 1: token t is trained, i.e. predicted from tokens 0..t-1; target[0] = 0 */
	uint32_t n;            /* tokens, 1 .. max_seq_length */
	uint32_t n_targets;    /* Σ target, >= 1 */
	uint64_t line;         /* 1-based line of the file */
};

enum ql_overlong {
	QL_OVERLONG_TRUNCATE, /* keep the first max_seq_length tokens */
	QL_OVERLONG_DROP,     /* leave the line out and count it */
	QL_OVERLONG_ERROR     /* a fault of that line */
};

enum ql_train_on {
	QL_TRAIN_ON_ALL, /* every assistant message with weight 1 */
	QL_TRAIN_ON_LAST /* only the last assistant message; a line in which its weight is 0 is a fault */
};

struct ql_dataset_opts {
	const struct ql_tok *tok;
	const struct ql_tmpl *tmpl; /* may be NULL; then a chat line is a fault */
	const json_t *trusted;      /* bos_token, eos_token, … for the template; may be NULL */
	uint32_t max_seq_length;    /* >= 2 */
	enum ql_overlong on_overlong;
	enum ql_train_on train_on;
	bool completion_only_loss; /* true: as mask.h; false: every token but the first is a target */
	bool alpaca_template;      /* Alpaca lines as the Stanford prompt/completion text instead of chat */
	int min_examples;          /* fewer (after dropping): QL_EFORMAT, param "invalid_n_examples" */
	int64_t now_unix;
	int (*cancelled)(void *ctx); /* may be NULL; asked every few lines; non-zero: QL_ECANCELLED */
	void *cancel_ctx;
};

struct ql_dataset_fault {
	uint64_t line;
	char reason[200];
};

struct ql_dataset_report {
	char kind[24]; /* "chat", "completion", "completion-chat", "text", "alpaca", "sharegpt", "preference" or "" */
	uint64_t lines, examples, dropped, truncated, tokens, target_tokens, max_tokens;
	uint64_t trailing_dropped; /* chat lines whose messages after the last assistant message were left out */
	uint64_t only_last;        /* chat lines whose earlier answers are not trained since the template rewrites them (mask.h) */
	struct ql_dataset_fault faults[QL_DATASET_FAULTS_REPORTED];
	uint64_t n_faults; /* all of them; the first QL_DATASET_FAULTS_REPORTED are listed */
	char sha256[65];   /* of the file */
};

struct ql_dataset;

/* Reads `path` below dirfd.  Every line is checked even after a fault; any fault: QL_EFORMAT (message: the first fault
 * with its line), *out = NULL, and *rep (may not be NULL) lists them.  Other errors: QL_EIO, QL_ENOTFOUND, QL_ELIMIT (too
 * many lines), QL_EINVAL (opts), QL_ECANCELLED, QL_ENOMEM; rep is filled as far as it got. */
int ql_dataset_load(struct ql_dataset **out, int dirfd, const char *path, const struct ql_dataset_opts *o,
		    struct ql_dataset_report *rep, struct ql_err *e);
/* Without a file: n_examples of n tokens each (n >= 2), ids end to end and copied; every token but an example's first is a target.
 * For measurements.  QL_EINVAL, QL_ENOMEM. */
int ql_dataset_make(struct ql_dataset **out, const int32_t *ids, uint32_t n_examples, uint32_t n, struct ql_err *e);
size_t ql_dataset_count(const struct ql_dataset *d);
struct ql_example ql_dataset_get(const struct ql_dataset *d, size_t i); /* i < count */
void ql_dataset_free(struct ql_dataset *d);                             /* accepts NULL */

/* The report as a JSON object (kind, examples, …, target_share, faults: [{line, reason}]); NULL when out of memory. */
json_t *ql_dataset_report_json(const struct ql_dataset_report *rep);

/* The first n lines (1..100) as they will be trained: {"kind","has_more","examples":[{"line","text","tokens","target_tokens",
 * "truncated","dropped","trained":[{"begin","end","text"}],"ids":[…],"target":[0|1,…]}]}.  text is what was tokenised, up to the last
 * token that is kept; trained lists the byte ranges of text that target tokens cover.  A line with a fault is {"line","error"}; a
 * preference line {"line","prompt","preferred","non_preferred"} with the rendered texts.  At most max_bytes of JSON are made: the
 * lines that no longer fit are left out (has_more), a first line that does not fit is an error of its own.
 * *out is a new reference. */
int ql_dataset_preview(json_t **out, int dirfd, const char *path, const struct ql_dataset_opts *o, size_t n, size_t max_bytes,
		       struct ql_err *e);

/* One conversation for serving: normalise, render, tokenise exactly as training does, so that the ids of a served prompt
 * are a prefix of the ids trained on.  tools, kwargs (object, text <= QL_TMPL_KWARGS_MAX) and text_or_null may be NULL.
 * continue_final_message: the rendered text is cut right after the last message's content (needs a last message with
 * text; excludes add_generation_prompt).  *out is filled as ql_tok_encode does; free with ql_ids_free.
 * QL_EINVAL with param "messages", "tools" or "chat_template_kwargs". */
int ql_chat_encode(const struct ql_tok *tok, const struct ql_tmpl *tmpl, const json_t *trusted, const json_t *messages,
		   const json_t *tools, const json_t *kwargs, bool add_generation_prompt, bool continue_final_message,
		   int64_t now_unix, struct ql_ids *out, struct ql_buf *text_or_null, struct ql_err *e);

#endif
