/* checked.h - arithmetic on numbers that came from outside.  Each returns false on overflow and leaves *out undefined. */
#ifndef QL_BASE_CHECKED_H
#define QL_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool ql_add_size(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline bool ql_mul_size(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool ql_sub_size(size_t a, size_t b, size_t *out) { return !__builtin_sub_overflow(a, b, out); }
static inline bool ql_add_u64(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline bool ql_mul_u64(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool ql_add_i64(int64_t a, int64_t b, int64_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline bool ql_mul_i64(int64_t a, int64_t b, int64_t *out) { return !__builtin_mul_overflow(a, b, out); }

/* a rounded up to a multiple of `to` (a power of two); false on overflow. */
static inline bool ql_align_u64(uint64_t a, uint64_t to, uint64_t *out)
{
	if (!ql_add_u64(a, to - 1, out))
		return false;
	*out &= ~(to - 1);
	return true;
}

#endif
