/* methods.h - tables of what the Python types offer. */
#ifndef QL_TMPL_METHODS_H
#define QL_TMPL_METHODS_H

#include "core/text/tmpl/value.h"

struct method_entry {
	const char *name;
	method_fn *fn; /* NULL: exists in Python, not in our subset */
	bool unsafe;   /* changes the object: withheld by the sandbox */
};

extern const struct method_entry str_methods[], str_methods2[]; /* end with name NULL */

/* Start and end arguments of find, count, …: code points → byte range; *from > s->len if start is beyond the end. */
int method_range(struct vm *m, struct str *s, struct val start, struct val end, size_t *from, size_t *to);

#endif
