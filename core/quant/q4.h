/* q4.h - block-wise 4-bit quantisation with a 16-level code book: NF4, FP4 and INT4, with or without nested
 * (double-quantised) scales.
 *
 * A tensor of n elements is flattened row-major; block b covers elements [b*B, (b+1)*B), the last one may be short.
 *   absmax[b] = max |x|,  r = 1 / max(absmax[b], 1e-38),  v = clamp(x * r, -1, 1)          (fp32, no fma)
 *   code      = number of thresholds t with v > t (strict: a tie goes to the lower code)
 *   byte j    = code[2j] << 4 | code[2j+1]; an odd count pads the last low nibble with the code of value 0
 *   value     = level[code] * absmax[b], one fp32 rounding, then one RNE rounding to bf16/f16 if asked for
 * A zero block has absmax 0 and all codes = code of +0 (NF4 7, FP4 0, INT4 8).
 * Nested scales: offset = mean of all absmax (fp64 sum in index order, rounded to fp32); d = absmax - offset in blocks
 * of 256; nested_absmax = max |d|; absmax_q = number of midpoints of the signed dynamic map strictly below
 * d * (1/nested_absmax) (zero block: 127); read back as (map[q] * nested_absmax) + offset, two roundings, unclamped.
 *
 * Code books: NF4, FP4 (sign-magnitude, 0.0052 below 1/6) and the dynamic map are those of bitsandbytes (functional.py,
 * csrc/kernels.cu; Dettmers et al., "QLoRA", 2023).  NF4 codes and absmax equal its CPU backend bit for bit where the
 * element count is a multiple of B.  FP4 takes the sign bit from v < 0 and the smaller magnitude on a tie, as that
 * project's CUDA kernel does; its CPU backend may store the other zero, and the other neighbour on an exact negative tie;
 * all other values are equal.  INT4 is our own: level (c-8)/7, codes 1..15, thresholds the fp32 midpoints.
 *
 * Everything here is thread-safe and free of global mutable state.  Results do not depend on the pool's size. */
#ifndef QL_QUANT_Q4_H
#define QL_QUANT_Q4_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/dtype.h"
#include "core/base/err.h"
#include "core/base/pool.h"

struct ql_q4_opts {
	enum ql_dtype kind;	   /* QL_NF4, QL_FP4, QL_INT4 */
	uint32_t blocksize;	   /* 32, 64, 128, 256, 512, 1024, 2048, 4096; usually 64 */
	bool nested;		   /* quantise the scales as well */
	uint32_t nested_blocksize; /* the same set; 256 is what bitsandbytes uses; ignored unless nested */
};

#define QL_Q4_OPTS_DEFAULT {.kind = QL_NF4, .blocksize = 64, .nested = true, .nested_blocksize = 256}

/* A quantised tensor.  The arrays are either owned (one allocation, `owned`) or borrowed, e.g. from a mapped file;
 * then owned is NULL and they must outlive the struct.  M = ceil(n / blocksize), N = ceil(M / nested_blocksize).
 * Filled by hand (from a file): set everything, zero the rest, then ql_q4_check. */
struct ql_q4 {
	enum ql_dtype kind;
	uint64_t n; /* elements, >= 1 */
	uint32_t blocksize, nested_blocksize;
	bool nested;
	float code[16];	     /* levels by bit pattern; a file may bring its own */
	uint8_t *codes;	     /* [ceil(n/2)] */
	float *absmax;	     /* [M] when !nested, else NULL */
	uint8_t *absmax_q;   /* [M] when nested */
	float *nested_absmax; /* [N] when nested */
	float offset;	     /* when nested */
	float nested_map[256]; /* when nested; always used as stored */
	void *owned;
	bool per_channel; /* blocksize is the slice of one row (strategy.h): any even number, n a multiple of it */
};

/* Quantises n elements of src (QL_F32, QL_F16 or QL_BF16, contiguous).  *out need not be initialised; on success the
 * caller frees it with ql_q4_free, on failure it is zeroed.  QL_ENONFINITE: a NaN or infinity, its index in e->offset and in
 * the message ("element N").  QL_EINVAL: kind, block sizes, dtype or n == 0.  QL_ENOMEM.  The input is read once. */
int ql_q4_quantize(struct ql_q4 *out, const void *src, enum ql_dtype src_dtype, uint64_t n, const struct ql_q4_opts *o,
		   struct ql_pool *pool, struct ql_err *e);

/* Elements [begin, begin + count) into dst (QL_F32, QL_BF16 or QL_F16).  Any begin and count inside the tensor,
 * count 0 included.  QL_EINVAL: range or dtype.  Allocates nothing (nested scales are expanded in pieces on the stack). */
int ql_q4_dequantize(const struct ql_q4 *q, uint64_t begin, uint64_t count, void *dst, enum ql_dtype dst_dtype,
		     struct ql_pool *pool, struct ql_err *e);

/* The scales of blocks [first_block, first_block + n_blocks), nested ones expanded, into out[n_blocks].
 * QL_OK, or QL_EINVAL when the range leaves the tensor. */
int ql_q4_absmax(const struct ql_q4 *q, uint64_t first_block, uint64_t n_blocks, float *out);

/* For a struct filled from a file: kind, sizes that do not overflow, allowed block sizes, pointers present, finite code
 * book, scales, nested scales and offset; no zero-padding rule is enforced.  A code book other than the kind's own is
 * allowed (any 16 finite levels, unsorted too).  QL_EFORMAT with the array's name in e->param and the index in
 * e->offset.  Reads every scale once. */
int ql_q4_check(const struct ql_q4 *q, struct ql_err *e);

/* Frees what ql_q4_quantize allocated and zeroes the struct; accepts NULL and borrowed arrays (left alone). */
void ql_q4_free(struct ql_q4 *q);

uint64_t ql_q4_blocks(const struct ql_q4 *q);	     /* M */
uint64_t ql_q4_nested_blocks(const struct ql_q4 *q); /* N, 0 when not nested */
/* Bytes of codes and scales as held: ceil(n/2) + 4M, or ceil(n/2) + M + 4N + 4 (offset); the shared maps not counted. */
uint64_t ql_q4_bytes(const struct ql_q4 *q);
bool ql_q4_blocksize_ok(uint32_t blocksize); /* one of 32 … 4096 */

/* The 16 levels by bit pattern; NULL for any other dtype.  Static. */
const float *ql_q4_code(enum ql_dtype kind);
/* The 256 values of bitsandbytes' dynamic maps, ascending (signed: SHA-256 e732639a…, unsigned: 305f002c…).  Static
 * lifetime, computed once. */
const float *ql_dynamic_map_signed(void), *ql_dynamic_map_unsigned(void);

/* Low level, for a device with expanded scales: dst[i] = code[c(begin+i)] * absmax[(begin+i)/blocksize], i < count.
 * codes and absmax point at the start of the tensor; blocksize is even; nothing is checked.  The best path of this
 * machine is chosen at run time; all give the same bits. */
void ql_q4_dequant_f32(const float code[16], const uint8_t *codes, const float *absmax, uint32_t blocksize,
		       uint64_t begin, uint64_t count, float *dst);
/* The same rounded to QL_BF16 or QL_F16 (bits). */
void ql_q4_dequant_h16(const float code[16], const uint8_t *codes, const float *absmax, uint32_t blocksize,
		       uint64_t begin, uint64_t count, uint16_t *dst, enum ql_dtype dst_dtype);
/* Low level: out[i] = (map[q[first+i]] * nested_absmax[(first+i)/nested_blocksize]) + offset. */
void ql_q4_expand_absmax(const float map[256], const uint8_t *q, const float *nested_absmax, uint32_t nested_blocksize,
			 float offset, uint64_t first, uint64_t count, float *out);

#endif
