/* json.h - jansson with our limits: depth and size are checked before it runs, duplicate keys are errors, and typed
 * getters name the field at fault.  "null" and absent mean the same.  Numbers are written with 9 significant digits. */
#ifndef QL_BASE_JSON_H
#define QL_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

/* Parses exactly one JSON value.  *out is a new reference owned by the caller.  QL_EFORMAT with the byte offset, or
 * QL_ELIMIT (depth > QL_JSON_DEPTH_MAX, len > max). */
int ql_json_parse(const char *text, size_t len, size_t max, json_t **out, struct ql_err *e);
/* Compact text of v; NULL when out of memory.  Free with free(). */
char *ql_json_text(const json_t *v);
/* A real, or NULL if not finite (leave the key out then). */
json_t *ql_json_real(double v);

/* Getters: absent or null leaves *out alone and returns QL_OK.  Wrong type or out of [min, max]: QL_EINVAL with param. */
int ql_json_get_int(const json_t *obj, const char *key, int64_t min, int64_t max, int64_t *out, struct ql_err *e);
int ql_json_get_num(const json_t *obj, const char *key, double min, double max, double *out, struct ql_err *e);
int ql_json_get_bool(const json_t *obj, const char *key, bool *out, struct ql_err *e);
/* *out borrows from obj.  Length limits in bytes. */
int ql_json_get_str(const json_t *obj, const char *key, size_t min, size_t max, const char **out, struct ql_err *e);
/* Refuses keys of obj that are not in the NULL-terminated list; prefix ("qlora.") is put before the name. */
int ql_json_only(const json_t *obj, const char *const *keys, const char *prefix, struct ql_err *e);

#endif
