/* priv.h - what the files of libqlora's public face share. */
#ifndef QL_LIB_PRIV_H
#define QL_LIB_PRIV_H

#include "core/base/err.h"
#include "core/base/dtype.h"
#include "core/base/pool.h"
#include "core/quant/q4.h"
#include "include/qlorad/qlorad.h"

struct qlora_q4 {
	struct ql_q4 q;
	uint64_t rows, cols;
};

/* Copies an error of ours out, when there is one; returns rc. */
int lib_done(int rc, const struct ql_err *e, struct qlora_error *err);
/* Threads of one call, 1 … 256; NULL for 1. */
int lib_pool(int threads, struct ql_pool **pool, struct ql_err *e);
/* What quantising a rows x cols matrix to 4 bits begins with: its number of elements, the options in our own form, threads (the
 * caller frees them). */
int lib_q4_begin(const struct qlora_q4_options *o, uint64_t rows, uint64_t cols, uint64_t *n, struct ql_q4_opts *opts,
		 struct ql_pool **pool, struct ql_err *e);
enum ql_dtype lib_dtype(enum qlora_type t); /* QL_DTYPE_COUNT if unknown */
enum qlora_type lib_type(enum ql_dtype t);  /* QLORA_OTHER if it has no number */

#endif
