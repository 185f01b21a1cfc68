/* value.h - the values a template computes with, and the state of one rendering.
 *
 * A value is 16 bytes and passed by value; what it points to lives in the rendering's arena (or in the compiled template's,
 * for literals) and is never changed after it is made, except namespaces, iterators and loops.
 * Strings are byte ranges of UTF-8 with marks: the sorted ranges that came from untrusted input.  Every operation that
 * makes a string from others carries the marks along (strings are built through struct sb only).
 * Functions that can fail return a code of err.h, having set the rendering's error. */
#ifndef QL_TMPL_VALUE_H
#define QL_TMPL_VALUE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/buf.h"
#include "core/base/err.h"
#include "core/text/span.h"
#include "core/text/tmpl/arena.h"

enum vkind {
	V_MISSING, /* no value at all: an argument not given, an exhausted iterator; never seen by a template */
	V_UNDEF,
	V_NONE,
	V_BOOL,
	V_INT,
	V_FLOAT,
	V_STR,
	V_LIST,
	V_TUPLE,
	V_DICT,
	V_VIEW,  /* dict.keys(), .values(), .items(); sub = enum view */
	V_RANGE,
	V_NS,
	V_ITER,  /* a generator: can be consumed once, always true, no length */
	V_MACRO,
	V_FUNC,   /* a global function */
	V_METHOD, /* a method bound to its object */
	V_LOOP
};
enum view { VIEW_KEYS, VIEW_VALUES, VIEW_ITEMS };

struct str {
	const char *p;
	size_t len;
	const struct ql_span *marks; /* sorted, disjoint */
	size_t n_marks;
	size_t n_cp;          /* code points; SIZE_MAX = not counted yet (only in a rendering's arena) */
	bool safe;            /* Markup */
	struct ql_span whole; /* room for the commonest mark */
};
struct undef;
struct list;
struct dict;
struct range;
struct ns;
struct iter;
struct macro;
struct func;
struct method;
struct loop;

struct val {
	uint8_t kind, sub;
	union {
		bool b;
		int64_t i;
		double f;
		struct str *s;
		struct undef *undef;
		struct list *list;
		struct dict *dict;
		struct range *range;
		struct ns *ns;
		struct iter *iter;
		struct macro *macro;
		const struct func *func;
		struct method *method;
		struct loop *loop;
	};
};

struct undef {
	const char *hint; /* or NULL */
	struct val obj;   /* V_MISSING: a variable */
	struct val name;
	bool security; /* using it is a SecurityError */
};
struct list {
	struct val *v;
	size_t n, cap;
};
struct entry {
	struct val key, value;
	uint64_t hash;
};
struct dict {
	struct entry *e; /* insertion order */
	size_t n, cap;
	uint32_t *index; /* open addressing, entry number + 1; NULL while n <= 8 */
	size_t n_index;
};
struct range {
	int64_t start, stop, step;
	size_t n;
};
struct ns {
	struct dict attrs;
};
struct kwarg {
	struct str *name;
	struct val v;
};
struct args {
	const struct val *pos;
	size_t n;
	const struct kwarg *kw;
	size_t n_kw;
};
struct node;
struct scope;
struct vm;
struct ql_tmpl;

typedef int func_fn(struct vm *m, const struct args *a, struct val *out);
struct func {
	const char *name;
	func_fn *fn;
};
typedef int method_fn(struct vm *m, struct val self, const struct args *a, struct val *out);
struct method {
	struct val self;
	const char *name;
	method_fn *fn; /* NULL: exists in Python, not in our subset */
};
struct macro {
	const struct node *node;
	struct scope *scope; /* where it was defined */
};
struct iter {
	int (*next)(struct vm *m, struct iter *it, struct val *out); /* V_MISSING at the end */
	struct val src;
	struct iter *in; /* the iterator it draws from */
	size_t pos;
	int op;
	void *state;
};
struct loop {
	struct iter *it;
	struct val iterable, current, before, after; /* after: peeked, V_MISSING if none */
	bool have_after, ended, have_length;
	size_t index0, length;
	struct val changed;
};

/* One variable scope: names are the template's interned ids. */
struct binding {
	uint32_t name;
	struct val v;
};
struct scope {
	struct scope *parent;
	struct binding *b;
	size_t n, cap;
};

/* A string being built: in the arena, or (root) in malloc'ed memory for the output. */
struct sb {
	char *p;
	size_t len, cap;
	struct ql_span *marks;
	size_t n_marks, cap_marks;
	bool root;
};

struct vm {
	const struct ql_tmpl *t;
	const struct ql_tmpl_env *env;
	struct tmpl_arena arena;
	struct ql_err *e;
	struct ql_err own; /* where errors go when the caller gave none */
	uint32_t line;     /* of the node being evaluated */
	uint64_t work, loops, max_work; /* work: in 64ths of a step; about 0.6 ns each */
	int depth, macro_depth, value_depth;
	struct val *globals; /* by name id; V_MISSING = not looked up yet */
	struct scope *scope;
	struct sb *out; /* where output goes now */
	struct sb root;
	struct ql_span *gen;
	size_t n_gen, cap_gen;
	struct val pending; /* what a filter block or set block captured, for its first filter */
	bool gen_lost; /* a generation block ran inside a capture: its place is unknown */
};

/* ---- vm.c: errors and budgets ---- */
int vm_nomem(struct vm *m); /* arena or host exhausted: QL_ELIMIT or QL_ENOMEM */
int vm_limit(struct vm *m, const char *what);
/* "template line N: <kind>: …", QL_EINVAL. */
int vm_raise(struct vm *m, const char *kind, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int vm_unsupported(struct vm *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int vm_step(struct vm *m, size_t n); /* counts a step and n 64ths of one: n bytes or elements worked on */
int vm_over(struct vm *m);           /* QL_ELIMIT if more work was counted than a rendering may do */
int vm_undef_error(struct vm *m, struct val v);
void *vm_alloc(struct vm *m, size_t size);

/* ---- value.c ---- */
static inline struct val v_none(void) { return (struct val){.kind = V_NONE}; }
static inline struct val v_missing(void) { return (struct val){.kind = V_MISSING}; }
static inline struct val v_bool(bool b) { return (struct val){.kind = V_BOOL, .b = b}; }
static inline struct val v_int(int64_t i) { return (struct val){.kind = V_INT, .i = i}; }
static inline struct val v_float(double f) { return (struct val){.kind = V_FLOAT, .f = f}; }
static inline struct val v_str(struct str *s) { return (struct val){.kind = V_STR, .s = s}; }
static inline bool v_is_intlike(struct val v) { return v.kind == V_INT || v.kind == V_BOOL; }
static inline int64_t v_as_int(struct val v) { return v.kind == V_BOOL ? (int64_t)v.b : v.i; }
static inline bool v_is_num(struct val v) { return v_is_intlike(v) || v.kind == V_FLOAT; }
static inline double v_as_float(struct val v) { return v.kind == V_FLOAT ? v.f : (double)v_as_int(v); }
const char *v_type(struct val v); /* Python's type name */
/* "'messages' is undefined", "… has no attribute", or a hint; obj V_MISSING for a variable. */
int v_undef(struct vm *m, struct val *out, const char *hint, struct val obj, struct val name, bool security);
int v_truth(struct vm *m, struct val v, bool *out);
int v_deeper(struct vm *m); /* one level into a nested value: counts value_depth up, which the caller counts down */
/* compare.c */
int v_eq(struct vm *m, struct val a, struct val b, bool *out);
int v_cmp(struct vm *m, struct val a, struct val b, int op, bool *out); /* op: T_LT … of ast.h */
int v_hash(struct vm *m, struct val v, uint64_t *out);                  /* TypeError if unhashable */
int v_len(struct vm *m, struct val v, size_t *out);                     /* TypeError if it has none */
int v_contains(struct vm *m, struct val item, struct val in, bool *out);
int v_list_new(struct vm *m, struct list **out, size_t cap);
int v_list_add(struct vm *m, struct list *l, struct val v);
int v_list(struct vm *m, struct val *out, struct list *l); /* wraps */
int v_tuple2(struct vm *m, struct val *out, struct val a, struct val b);

/* ---- dict.c ---- */
int v_dict_new(struct vm *m, struct dict **out);
int v_dict_put(struct vm *m, struct dict *d, struct val key, struct val value);
int v_dict_get(struct vm *m, const struct dict *d, struct val key, struct val *out); /* V_MISSING if absent */
int v_dict_get_s(struct vm *m, const struct dict *d, const char *key, size_t len, struct val *out);
int v_dict_from(struct vm *m, struct dict *d, const struct args *a, const char *who); /* dict(…)'s arguments */

/* ---- str.c ---- */
int str_new(struct vm *m, struct val *out, const char *p, size_t len);       /* no marks; bytes are borrowed */
int str_lit(struct vm *m, struct val *out, const char *z);                   /* static text */
int str_copy(struct vm *m, struct val *out, const char *p, size_t len);      /* no marks; bytes copied */
int str_marked(struct vm *m, struct val *out, const char *p, size_t len);    /* wholly untrusted; borrowed */
int str_sub(struct vm *m, struct val *out, const struct str *s, size_t begin, size_t end); /* bytes; keeps safe */
size_t str_ncp(struct str *s);
size_t str_off(struct str *s, size_t cp); /* byte offset of code point number cp; s->len if beyond */
int str_slice(struct vm *m, struct val *out, struct str *s, int64_t start, int64_t step, size_t n);
static inline bool str_is(const struct str *s, const char *z)
{
	return s->len == __builtin_strlen(z) && __builtin_memcmp(s->p, z, s->len) == 0;
}
int sb_add(struct vm *m, struct sb *b, const char *p, size_t len);
int sb_addz(struct vm *m, struct sb *b, const char *z);
int sb_mark(struct vm *m, struct sb *b, size_t begin, size_t end); /* after adding those bytes */
int sb_sub(struct vm *m, struct sb *b, const struct str *s, size_t begin, size_t end);
int sb_str(struct vm *m, struct sb *b, const struct str *s);
/* Code point cp with the mark of byte `at` of `s` (a mapped character). */
int sb_cp(struct vm *m, struct sb *b, uint32_t cp, const struct str *s, size_t at);
int sb_end(struct vm *m, struct sb *b, struct val *out);
int str_concat(struct vm *m, struct val *out, const struct str *a, const struct str *b);
bool str_marked_at(const struct str *s, size_t at);
int str_escape(struct vm *m, struct val *out, struct val v); /* markupsafe.escape */

/* ---- uni.c: code points as Python sees them ---- */
bool uni_space(uint32_t cp);
bool uni_digit(uint32_t cp);
int uni_lower(uint32_t cp, uint32_t out[3]); /* each returns how many */
int uni_upper(uint32_t cp, uint32_t out[3]);
int uni_title(uint32_t cp, uint32_t out[3]);
bool uni_is_cased(uint32_t cp);
bool uni_is_ignorable(uint32_t cp);
bool uni_printable(uint32_t cp);
int uni_category(uint32_t cp); /* utf8proc's */

/* ---- repr.c ---- */
size_t float_repr(double f, char out[40]);
int sb_float(struct vm *m, struct sb *b, double f);
int v_repr(struct vm *m, struct sb *b, struct val v);  /* repr(v) */
int v_print(struct vm *m, struct sb *b, struct val v); /* str(v) */
int v_to_str(struct vm *m, struct val v, struct val *out); /* soft_str: strings (safe or not) stay as they are */
int str_plain(struct vm *m, struct val v, struct val *out); /* str(v): drops safe */

/* ---- iter.c ---- */
int iter_new(struct vm *m, struct val v, struct iter **out); /* iter(v); TypeError if not iterable */
int iter_next(struct vm *m, struct iter *it, struct val *out);
int iter_range_new(struct vm *m, struct val *out, int64_t start, int64_t stop, int64_t step);
int iter_wrap(struct vm *m, struct iter **out, struct iter *in, int (*next)(struct vm *, struct iter *, struct val *));
bool v_iterable(struct val v);
int v_to_list(struct vm *m, struct val v, struct list **out); /* list(v), always a new one */
int v_item(struct vm *m, struct val seq, size_t i, struct val *out); /* of a list, tuple, range, string */

/* ---- json.c ---- */
enum { FROM_UNTRUSTED = 1, FROM_MESSAGES = 2 /* roles of the list's objects are trusted */, FROM_COPY = 4 };
int v_from_json(struct vm *m, const json_t *j, int flags, struct val *out); /* strings are borrowed unless FROM_COPY */
int v_tojson(struct vm *m, const struct args *a, struct val self, struct val *out); /* the filter */
int v_fromjson(struct vm *m, struct val text, struct val *out);

/* ---- ops.c ---- */
int op_binary(struct vm *m, int op, struct val a, struct val b, struct val *out); /* T_ADD … */
int op_neg(struct vm *m, struct val a, bool positive, struct val *out);

/* ---- access.c ---- */
int v_getattr(struct vm *m, struct val obj, const char *name, size_t len, struct val *out);
int v_getitem(struct vm *m, struct val obj, struct val key, struct val *out);
int v_slice(struct vm *m, struct val obj, struct val start, struct val stop, struct val step, struct val *out);
/* "a.b.0", an integer or none, as filters' attribute arguments are looked up; def V_MISSING or used for undefined. */
int v_attrpath(struct vm *m, struct val obj, struct val path, struct val def, struct val *out);

/* ---- format.c, percent.c ---- */
struct spec {
	uint32_t fill;
	char align, sign, type; /* 0 = none */
	bool alt, zero, comma;
	size_t width;
	int precision; /* -1 = none */
};
int fmt_value(struct vm *m, struct sb *b, const struct spec *s, struct val v, bool percent);
int fmt_parse_spec(struct vm *m, const char *p, size_t len, struct spec *s);
int v_format(struct vm *m, struct val self, const struct args *a, struct val *out); /* str.format */
int v_percent(struct vm *m, struct val fmt, struct val arg, struct val *out);       /* str % x */

/* ---- call.c ---- */
int v_call(struct vm *m, struct val f, const struct args *a, struct val *out);
/* Binds a call to parameter names (NULL-terminated): out[i] V_MISSING where not given.  min are required. */
int args_bind(struct vm *m, const char *who, const struct args *a, const char *const *names, size_t min, struct val *out);

/* ---- filters*.c, tests.c, methods*.c, funcs.c ---- */
typedef int filter_fn(struct vm *m, struct val self, const struct args *a, struct val *out);
filter_fn *filter_find(const char *name, size_t len);
bool filter_known(const char *name, size_t len); /* jinja2 has it, we may not */
typedef int test_fn(struct vm *m, struct val self, const struct args *a, bool *out);
test_fn *test_find(const char *name, size_t len);
int v_test(struct vm *m, const char *name, size_t len, struct val self, const struct args *a, bool *out);
int v_filter(struct vm *m, const char *name, size_t len, struct val self, const struct args *a, struct val *out);
/* Whether the object has a Python attribute of this name, and what it is: out V_MISSING if none; *unsafe if the sandbox
 * withholds it. */
int method_find(struct vm *m, struct val obj, const char *name, size_t len, struct val *out, bool *unsafe);
const struct func *func_find(const char *name, size_t len);
int loop_attr(struct vm *m, struct val loop, const char *name, size_t len, struct val *out);
int loop_advance(struct vm *m, struct loop *l, struct val *out);

#endif
