/* nested.h - double quantisation of one fp32 vector (numbers of one tensor, e.g. its absmax values); rule in q4.h. */
#ifndef QL_QUANT_NESTED_H
#define QL_QUANT_NESTED_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/pool.h"

/* a[m] to codes q[m], absmax[ceil(m/blocksize)] and *offset.  Returns false, having written an undefined part, when a
 * difference from the mean overflows fp32 (possible for vectors with both signs).  a must be finite; blocksize at most 4096. */
bool ql_nested_encode(const float *a, uint64_t m, uint32_t blocksize, uint8_t *q, float *absmax, float *offset,
		      struct ql_pool *pool);

#endif
