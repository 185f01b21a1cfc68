/* fields.h - request fields as tables: every field has a type, a minimum, a maximum and a name for the error.
 *
 * A table row says where in the caller's struct the value goes.  Absent and null leave the slot as it is (zeroed =
 * "not given").  Integers must be JSON integers: 3.0 and true are not.  Faults are 400 with `param` = prefix + name. */
#ifndef QL_API_FIELDS_H
#define QL_API_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/bad.h"
#include "api/target.h"

struct ql_fint {
	bool set;
	int64_t v;
};
struct ql_fnum {
	bool set;
	double v;
};
struct ql_fbool {
	bool set, v;
};
struct ql_fstr {
	const char *v; /* NULL = not given; borrowed from the JSON */
	size_t len;
};

enum ql_ftype {
	QL_FT_INT,  /* struct ql_fint, imin..imax */
	QL_FT_NUM,  /* struct ql_fnum, nmin..nmax */
	QL_FT_BOOL, /* struct ql_fbool */
	QL_FT_STR,  /* struct ql_fstr, imin..imax bytes; with words: one of them */
	QL_FT_OBJ,  /* const json_t * */
	QL_FT_ARR,  /* const json_t *, imin..imax elements */
	QL_FT_ANY   /* const json_t * */
};

#define QL_FF_REQUIRED 1u
#define QL_FF_MIN_OPEN 2u /* nmin itself is refused */
#define QL_FF_MAX_OPEN 4u
#define QL_FF_IGNORED 8u  /* accepted without effect; listed in x-qlora-ignored */

struct ql_field {
	const char *name;
	enum ql_ftype type;
	unsigned flags;
	int64_t imin, imax;
	double nmin, nmax;
	const char *const *words; /* NULL-terminated */
	size_t offset;
};

/* Reads obj by the table.  prefix ("qlora." or "") goes before names in faults. */
int ql_fields_read(const json_t *obj, const struct ql_field *table, size_t n, const char *prefix, void *out,
		   struct ql_fault *f);
/* Refuses keys of obj that the table lacks (code unsupported_parameter). */
int ql_fields_only(const json_t *obj, const struct ql_field *table, size_t n, const char *prefix, struct ql_fault *f);

/* ?limit= of a list: 0 or absent = dflt, above max = max, negative or not an integer = fault. */
int ql_query_limit(const struct ql_target *t, int64_t dflt, int64_t max, int64_t *out, struct ql_fault *f);
/* A query parameter given at most once; *out is NULL if absent or empty. */
int ql_query_str(const struct ql_target *t, const char *key, size_t max, const char **out, struct ql_fault *f);
int ql_query_bool(const struct ql_target *t, const char *key, bool *out, struct ql_fault *f); /* true|false|1|0 */
/* A decimal integer min..max; *set tells whether it was given. */
int ql_query_int(const struct ql_target *t, const char *key, int64_t min, int64_t max, bool *set, int64_t *out,
		 struct ql_fault *f);

#endif
