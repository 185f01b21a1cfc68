/* range.h - the Range header (RFC 9110 §14): one byte range is honoured, anything else means the whole. */
#ifndef QL_API_RANGE_H
#define QL_API_RANGE_H

#include <stdint.h>

enum ql_range { QL_RANGE_NONE, QL_RANGE_ONE, QL_RANGE_UNSATISFIABLE };

/* value: the header or NULL; size: of the thing.  For ONE, *first..*last (both included) lie within it. */
enum ql_range ql_range_parse(const char *value, uint64_t size, uint64_t *first, uint64_t *last);

#endif
