/* range.c - see range.h. */
#include "api/range.h"

#include <stdbool.h>
#include <stddef.h>
#include <strings.h>

/* Digits at *s; false without one, saturating at UINT64_MAX. */
static bool number(const char **s, uint64_t *out)
{
	uint64_t n = 0;

	if (**s < '0' || **s > '9')
		return false;
	for (; **s >= '0' && **s <= '9'; (*s)++)
		if (__builtin_mul_overflow(n, (uint64_t)10, &n) || __builtin_add_overflow(n, (uint64_t)(**s - '0'), &n))
			n = UINT64_MAX;
	*out = n;
	return true;
}

enum ql_range ql_range_parse(const char *value, uint64_t size, uint64_t *first, uint64_t *last)
{
	bool has_first, has_last;
	uint64_t a = 0, b = 0;

	if (value == NULL || strncasecmp(value, "bytes=", 6) != 0)
		return QL_RANGE_NONE;
	value += 6;
	while (*value == ' ')
		value++;
	has_first = number(&value, &a);
	if (*value++ != '-')
		return QL_RANGE_NONE;
	has_last = number(&value, &b);
	while (*value == ' ')
		value++;
	if (*value != '\0' || (!has_first && !has_last) || (has_first && has_last && b < a))
		return QL_RANGE_NONE; /* several ranges, or not a range: ignored */
	if (!has_first) {     /* the last b bytes */
		if (b == 0 || size == 0)
			return QL_RANGE_UNSATISFIABLE;
		*first = b >= size ? 0 : size - b;
		*last = size - 1;
		return QL_RANGE_ONE;
	}
	if (a >= size)
		return QL_RANGE_UNSATISFIABLE;
	*first = a;
	*last = has_last && b < size - 1 ? b : size - 1;
	return QL_RANGE_ONE;
}
