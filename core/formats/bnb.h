/* bnb.h - 4-bit tensors in bitsandbytes' key layout: X, X.absmax, X.quant_map, [X.nested_absmax, X.nested_quant_map],
 * X.quant_state.bitsandbytes__KIND (JSON), folded into one ql_q4.  Source: bitsandbytes, functional.py, QuantState.
 * X holds the codes whatever its type says (bnb_4bit_quant_storage).  The keys may lie in several files: a look-up finds them. */
#ifndef QL_FORMATS_BNB_H
#define QL_FORMATS_BNB_H

#include <stdbool.h>

#include "core/formats/safetensors.h"
#include "core/quant/q4.h"

struct ql_bnb_keys {
	const struct ql_st_tensor *(*find)(const void *ctx, const char *name); /* NULL if there is none */
	const void *ctx;
};

struct ql_bnb_info {
	int n_dims;
	uint64_t shape[QL_ST_DIMS_MAX]; /* of the values; unused entries 1 */
	uint64_t bytes;			/* of all keys */
};

/* Reads tensor t; *q borrows the codes and the nested codes, owns its floats (ql_q4_free).  Scales are checked.  QL_ENOTFOUND,
 * without a message: t is not such a tensor. */
int ql_bnb_read(struct ql_q4 *q, const struct ql_st_tensor *t, const struct ql_bnb_keys *k, struct ql_bnb_info *info,
		struct ql_err *e);
/* Is `name` a part of some 4-bit tensor other than its codes? */
bool ql_bnb_companion(const struct ql_bnb_keys *k, const char *name);

#endif
