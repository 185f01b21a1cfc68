/* blk.h - GGUF block types: Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K IQ4_NL, and F32, F16, BF16 as types of block 1.
 *
 * Layouts are those of ggml-common.h (little-endian): every block of 32 (K types: 256) consecutive elements of a row
 * is stored by itself; elements and bytes per block are in ql_dtypes[].  The rules of every type stand at the head of
 * the file that implements them (blk_simple.c, blk_k.c, blk_iq4.c); without importance the bytes equal those of ggml's
 * reference quantisers (quantize_row_*_ref; for IQ4_NL quantize_iq4_nl) built without contraction.  Values:
 *   Q4_0 d(q-8)   Q5_0 d(q-16)   Q4_1, Q5_1 d*q + m   Q8_0 d*q   IQ4_NL d*kv[q]
 *   Q4_K, Q5_K (d*sc)*q - (dmin*mn)   Q6_K (d*sc)*(q-32)          fp32, no fma, in this order
 * Thread-safe; results do not depend on the pool. */
#ifndef QL_QUANT_BLK_H
#define QL_QUANT_BLK_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/dtype.h"
#include "core/base/err.h"
#include "core/base/pool.h"

bool ql_blk_known(enum ql_dtype t); /* is t one of the types above? */

/* n elements (a multiple of the block) from src to dst[n].  Any bytes are valid input: scales that are NaN or infinite
 * give NaN or infinite values (see ql_blk_check).  QL_EINVAL: type; QL_ESHAPE: n not a multiple of the block. */
int ql_blk_dequantize(enum ql_dtype t, const void *src, uint64_t n, float *dst, struct ql_err *e);

/* For blocks read from a file: refuses a NaN or infinite scale (or value, for the plain types).  QL_EFORMAT with the index
 * of the block in e->offset; QL_EINVAL, QL_ESHAPE as above. */
int ql_blk_check(enum ql_dtype t, const void *src, uint64_t n, struct ql_err *e);

/* rows x cols fp32 to dst (rows * ql_dtype_bytes(t, cols) bytes).  cols is a multiple of the block.  importance, when
 * given, holds cols weights >= 0, one per column (e.g. mean squared activations): Q4_K, Q5_K and Q6_K then minimise
 * sum importance_i * sqrt(s2 + x_i^2) * (x_i - y_i)^2 (s2 = mean square of the super-block), never worse in that measure
 * than the plain quantiser (method: blk_k.inc.h); every other type refuses it with QL_EUNSUPPORTED.  QL_ENONFINITE: NaN,
 * infinity, a value of 1e9 and more (block types), or a block whose f16 scale or minimum overflows (F16, BF16: the value
 * itself); index in e->offset ("element N").  QL_EINVAL, QL_ESHAPE.  dst is undefined on failure. */
int ql_blk_quantize(enum ql_dtype t, const float *src, uint64_t rows, uint64_t cols, const float *importance, void *dst,
		    struct ql_pool *pool, struct ql_err *e);

#endif
