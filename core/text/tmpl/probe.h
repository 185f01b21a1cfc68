/* probe.h - what a template can read, found by rendering small conversations with it right after parsing. */
#ifndef QL_TMPL_PROBE_H
#define QL_TMPL_PROBE_H

#include "core/text/tmpl/tmpl.h"

/* Sets t->takes_parts, needs_parts, takes_object_args.  Fails only for want of memory: a template that refuses a probe is
 * taken at its word. */
int tmpl_probe(struct ql_tmpl *t, struct ql_err *e);
/* ql_tmpl_render that may take *steps steps; on return *steps are left. */
int tmpl_render_within(const struct ql_tmpl *t, const struct ql_tmpl_env *env, uint64_t *steps, struct ql_rendered *out,
		       struct ql_err *e);

#endif
