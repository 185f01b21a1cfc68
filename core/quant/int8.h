/* int8.h - 8-bit block-wise formats.
 *
 * INT8 (weights): per block of B elements d = absmax/127 (fp32), q = clamp(rint(x * (1/max(d, 1e-38))), -127, 127),
 * value = q * d.  rint is RNE.  Block sizes as for 4-bit.  Own definition; -128 is never written.
 *
 * DYN8 (states of 8-bit Adam; bitsandbytes csrc/kernels.cu, Dettmers et al., "8-bit Optimizers via Block-wise
 * Quantization", 2022): per block of 256 one fp32 absmax = max |x| and codes = number of midpoints of the dynamic map
 * strictly below x / absmax (a division); value = map[code] * absmax.  Signed map for the first moment: where x < 0 and
 * the value is not negative the code goes one down, where x > 0 and the value is negative one up.  A zero block has absmax 0
 * and the code of 0 (signed 127, unsigned 0).  Note that fresh states are "codes 0, absmax 0": value 0 as well. */
#ifndef QL_QUANT_INT8_H
#define QL_QUANT_INT8_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/dtype.h"
#include "core/base/err.h"
#include "core/base/pool.h"

#define QL_DYN8_BLOCK 256

/* codes[n], scale[ceil(n/blocksize)] (d, not absmax).  src F32, F16 or BF16.  Errors as ql_q4_quantize. */
int ql_int8_quantize(const void *src, enum ql_dtype src_dtype, uint64_t n, uint32_t blocksize, int8_t *codes,
		     float *scale, struct ql_pool *pool, struct ql_err *e);
/* Elements [begin, begin + count) of an INT8 tensor into dst; codes and scale point at its start. */
void ql_int8_dequantize(const int8_t *codes, const float *scale, uint32_t blocksize, uint64_t begin, uint64_t count,
			float *dst);

/* n elements in blocks of 256; codes[n], absmax[ceil(n/256)].  The unsigned map refuses negative numbers (QL_EINVAL).
 * QL_ENONFINITE with the index in e->offset. */
int ql_dyn8_quantize(bool is_signed, const float *src, uint64_t n, uint8_t *codes, float *absmax, struct ql_pool *pool,
		     struct ql_err *e);
void ql_dyn8_dequantize(bool is_signed, const uint8_t *codes, const float *absmax, uint64_t n, float *dst);
/* One block (n <= 256) without any check, for an optimiser that has checked its gradients: returns the absmax. */
float ql_dyn8_encode_block(bool is_signed, const float *x, uint32_t n, uint8_t *codes);
void ql_dyn8_decode_block(bool is_signed, const uint8_t *codes, float absmax, uint32_t n, float *dst);

#endif
