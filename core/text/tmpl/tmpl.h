/* tmpl.h - chat templates: the subset of Jinja that models' chat templates use, rendered byte for byte as Python's
 * jinja2 3.1.6 does it in transformers' configuration (immutable sandbox, trim_blocks, lstrip_blocks, loop controls,
 * the {% generation %} tag, tojson without HTML escaping, autoescape off).
 *
 * Out of scope and refused when compiling, by name: include, import, extends, block, autoescape, recursive loops.
 * Integers are 64 bit; an operation that leaves that range is an error (Python's have no bound).
 * Limits: QL_TMPL_* of core/base/limits.h; exceeding one is QL_ELIMIT, never a crash, a hang or an unbounded
 * allocation.  A template never sees a file, a process, a clock other than the one given, or a Python attribute. */
#ifndef QL_TEXT_TMPL_H
#define QL_TEXT_TMPL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/buf.h"
#include "core/base/err.h"
#include "core/text/span.h"

/* A compiled template: immutable, may be used by any number of threads at once. */
struct ql_tmpl;

/* Compiles src[0..len) (UTF-8, copied).  On success *out is the caller's, to be freed with ql_tmpl_free.
 * QL_EFORMAT: a syntax error or bad UTF-8; QL_EUNSUPPORTED: a statement outside the subset; QL_ELIMIT: source, nodes or
 * depth; QL_ENOMEM.  The message begins "template line N: ". */
int ql_tmpl_compile(struct ql_tmpl **out, const char *src, size_t len, struct ql_err *e);
void ql_tmpl_free(struct ql_tmpl *t); /* accepts NULL */

/* Models may come with a second template named "tool_use".  set: t owns it from now on (and frees one it had).  for: the template
 * that renders a conversation with or without tools; t may be NULL. */
void ql_tmpl_set_tool_use(struct ql_tmpl *t, struct ql_tmpl *tool_use);
const struct ql_tmpl *ql_tmpl_for(const struct ql_tmpl *t, bool tools);

/* What a template renders with.  Everything is borrowed for the call. */
struct ql_tmpl_env {
	const json_t *vars;    /* object: messages, tools, add_generation_prompt, …; its strings are untrusted.  The one
	                        * exception: a message's "role" that is one of the known roles counts as the template's
	                        * own text, since templates build tokens such as <|user|> from it. */
	const json_t *trusted; /* object or NULL: bos_token, eos_token, …; vars win over it */
	int64_t now_unix;      /* seconds; what strftime_now formats, in local time */
};

/* The result.  Zero-initialise; free with ql_rendered_free. */
struct ql_rendered {
	struct ql_buf text;         /* UTF-8 */
	struct ql_span *plain;      /* sorted, merged byte ranges of text that came from untrusted input strings; */
	size_t n_plain;             /* special tokens must not be recognised there */
	struct ql_span *generation; /* what {% generation %} blocks produced, in order, possibly empty ranges */
	size_t n_generation;
};
void ql_rendered_free(struct ql_rendered *r); /* accepts NULL and a zeroed one */

/* Renders t.  *out must be zeroed or freed; on failure it is left zeroed.
 * QL_EINVAL: the template raised (raise_exception: the message is exactly the template's text, e->param "messages";
 * otherwise Python's kind of error as "template line N: TypeError: …"); QL_EUNSUPPORTED: valid Jinja outside the subset
 * met while running; QL_ELIMIT; QL_ENOMEM. */
int ql_tmpl_render(const struct ql_tmpl *t, const struct ql_tmpl_env *env, struct ql_rendered *out, struct ql_err *e);

/* Facts found while compiling. */
bool ql_tmpl_has_generation(const struct ql_tmpl *t); /* contains a {% generation %} block */
bool ql_tmpl_uses(const struct ql_tmpl *t, const char *name); /* refers to a variable of this name (e.g. "tools") */

/* Adapts messages to what the template can read; the same in training and serving.  What the template can read was found
 * by rendering small conversations when it was compiled.
 *   content part arrays  → the concatenation of their texts, unless the template reads arrays;
 *   content strings      → an array of one text part, if the template reads only arrays;
 *   tool_calls arguments → an object, when the template treats them as a mapping (JSON text is parsed), else JSON text;
 *   role developer       → system, unless the template mentions 'developer'; role function → tool;
 *   reasoning_content, thinking, reasoning: the first that is not null is given as reasoning_content and thinking.
 * *out is a new array, owned by the caller; messages is not changed.  QL_EINVAL with param "messages[i]…" for a shape it
 * cannot read (message not an object, role missing, part without text, part of another type, arguments no object). */
int ql_chat_normalize(const struct ql_tmpl *t, const json_t *messages, json_t **out, struct ql_err *e);

#endif
