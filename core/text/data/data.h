/* data.h - inside this directory: from a JSON line to tokens and mask.
 *
 *   kinds.c     line → struct sample (what to render or which text)     messages.c, sharegpt.c, preference.c  its parts
 *   render.c    conversation → text (the template's variables)          mask.c   text → which byte ranges are trained
 *   build.c     sample → text, ids, targets                             lines.c  file → lines
 *   dataset.c   file → examples and report; preview.c the first lines; chat_encode.c one conversation for serving */
#ifndef QL_DATA_DATA_H
#define QL_DATA_DATA_H

#include "core/text/data/dataset.h"

enum data_kind {
	DATA_UNKNOWN,
	DATA_CHAT,
	DATA_COMPLETION,
	DATA_COMPLETION_CHAT,
	DATA_TEXT,
	DATA_ALPACA,
	DATA_SHAREGPT,
	DATA_PREFERENCE
};

/* What one line asks to be trained on.  Either text (is_text) or a conversation. */
struct sample {
	bool is_text;
	struct ql_buf text;
	size_t prompt_len;  /* bytes of text that are prompt */
	json_t *messages;   /* owned; without the keys that are ours (weight) */
	uint8_t *trained;   /* one per message: an assistant message whose loss counts */
	json_t *tools;      /* owned or NULL */
	json_t *kwargs;     /* owned or NULL */
	bool trailing_dropped;
};
void sample_free(struct sample *s);

/* The kind a line's keys tell; DATA_UNKNOWN if none. */
enum data_kind data_kind_of(const json_t *line);
const char *data_kind_name(enum data_kind k);
/* line (an object of kind k) → *s.  QL_EINVAL, the message says which key is wrong. */
int data_sample(const json_t *line, enum data_kind k, bool alpaca_text, struct sample *s, struct ql_err *e);

/* Checks a conversation and moves it to s: roles, contents, tool calls, weights; functions and refusals are rewritten.
 * first_trained: messages before it are never trained. */
int data_messages(const json_t *messages, size_t first_trained, struct sample *s, struct ql_err *e);
/* tools or functions (deprecated form) of a line → s->tools; both may be NULL. */
int data_tools(const json_t *tools, const json_t *functions, struct sample *s, struct ql_err *e);
int data_kwargs(const json_t *kwargs, json_t **out, struct ql_err *e); /* a new reference, or NULL if absent */
int data_sharegpt(const json_t *line, struct sample *s, struct ql_err *e);

/* A preference line: two samples with the same prompt, the first n_prompt messages (or, of text samples, prompt_len bytes). */
struct preference {
	struct sample preferred, non_preferred;
	size_t n_prompt;
};
int data_preference(const json_t *line, struct preference *p, struct ql_err *e);
void preference_free(struct preference *p);
/* {"prompt","preferred","non_preferred"} as rendered. */
int data_preference_show(const struct ql_dataset_opts *o, const struct preference *p, json_t **out, struct ql_err *e);

/* Renders messages[0..n) (normalised).  tools, kwargs, trusted may be NULL. */
struct data_render {
	const struct ql_tmpl *tmpl;
	const json_t *trusted, *messages, *tools, *kwargs;
	int64_t now_unix;
};
int data_render(const struct data_render *r, size_t n, bool add_generation_prompt, struct ql_rendered *out, struct ql_err *e);

/* The byte ranges of full->text that are trained, by mask.h's rules before the end-of-turn token is known.
 * *out is allocated (free), sorted.  *only_last: rule 3.  QL_EINVAL if none can be found. */
int data_mask(const struct data_render *r, const uint8_t *trained, const struct ql_rendered *full, struct ql_span **out,
	      size_t *n, bool *only_last, struct ql_err *e);

/* A line worked out. */
struct built {
	struct ql_buf text; /* what was tokenised, up to the last token that is kept */
	struct ql_ids ids;  /* after truncation; the appended EOS begins at text.len */
	uint8_t *target;
	uint32_t n_targets;
	bool truncated, dropped, trailing_dropped;
	bool only_last; /* mask.h rule 3: earlier answers are not trained */
};
void built_free(struct built *b);
int data_build(const struct ql_dataset_opts *o, const struct sample *s, struct built *b, struct ql_err *e);

/* A file by lines. */
struct lines {
	int fd;
	uint64_t number; /* of the line last given, 1-based */
	struct ql_buf line;
	char *block;
	size_t at, have;
	bool eof, too_long;
	struct ql_sha256 *hash; /* of everything read; may be NULL */
};
int lines_open(struct lines *l, int dirfd, const char *path, struct ql_sha256 *hash, struct ql_err *e);
/* The next line without its end (LF or CRLF) in l->line; *more false at the end of the file.  A line over
 * QL_DATASET_LINE_MAX is skipped with l->too_long set.  QL_EIO, QL_ENOMEM, QL_ELIMIT (too many lines). */
int lines_next(struct lines *l, bool *more, struct ql_err *e);
void lines_close(struct lines *l);

/* One line as text → *b, with the kind found or compared.  *blank: nothing to do.  Faults are QL_EINVAL, QL_EFORMAT,
 * QL_ELIMIT or QL_EUNSUPPORTED with a reason for people; QL_ENOMEM and QL_EINTERNAL are not the line's fault. */
int data_line(const struct ql_dataset_opts *o, struct lines *l, enum data_kind *kind, struct built *b, bool *blank,
	      struct ql_err *e);
/* The first part of it: the line as an object of the file's kind; *out NULL if blank. */
int data_line_json(struct lines *l, enum data_kind *kind, json_t **out, struct ql_err *e);

#endif
