/* kernels.h - inner loops of the quantisation room, one table of functions per instruction set.
 *
 * kern_scalar.c is the reference; kern_avx2.c and kern_avx512.c must give the same bits for every input (the tests compare
 * all paths the machine has).  None of them checks its arguments; none uses a fused multiply-add. */
#ifndef QL_QUANT_KERNELS_H
#define QL_QUANT_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core/base/dtype.h"

#define QL_SCALE_FLOOR 1e-38f	   /* 1/x stays finite above it */
#define QL_BITS_INF 0x7f800000u	   /* bits of |x| at or above it: infinity or NaN */

/* How a normalised value becomes a code: order = number of thr[] strictly below it; code = map[order].  Ascending;
 * sign-magnitude FP4 is brought to this form by moving each negative threshold one float down. */
struct ql_q4_book {
	float thr[15];
	uint8_t map[16];
	uint8_t zero; /* the code of +0 */
};

enum ql_q4_mode {
	QL_Q4_SYM,  /* scale = absmax; no zero point */
	QL_Q4_MID,  /* scale = half range, zero = middle, or what a search near them finds better (q4_fit.inc.h) */
	QL_Q4_RANGE /* scale = range/15, zero = min; integer codes, no book */
};

/* One call's worth of 4-bit quantisation: n elements of src from the start of a block. */
struct ql_q4_job {
	const struct ql_q4_book *book;
	const float *code; /* [16] levels; for QL_Q4_MID */
	enum ql_q4_mode mode;
	const void *src;
	enum ql_dtype src_dtype; /* F32, F16, BF16 */
	uint64_t n, blocksize;	 /* blocksize even; the last block may be short */
	uint8_t *codes;
	float *scale, *zero; /* per block; zero unused for QL_Q4_SYM */
};

/* One call's worth of decoding: elements [begin, begin + count) of the tensor that starts at codes, scale, zero. */
struct ql_q4_read {
	const float *code; /* [16] levels */
	const uint8_t *codes;
	const float *scale, *zero; /* per block from block `first_block` on; zero may be NULL */
	uint64_t first_block, blocksize, begin, count;
	bool stream; /* write around the caches */
};

struct ql_quant_ops {
	const char *name;
	/* Returns UINT64_MAX, or the first element of the first block that holds a NaN, an infinity or (RANGE) a
	 * range that overflows; later blocks are then not written. */
	uint64_t (*q4_quant)(const struct ql_q4_job *j);
	void (*q4_dequant_f32)(const struct ql_q4_read *r, float *dst);
	void (*q4_dequant_h16)(const struct ql_q4_read *r, uint16_t *dst, enum ql_dtype t);
	void (*widen)(const void *src, enum ql_dtype t, size_t n, float *dst); /* exact */
	void (*narrow)(const float *x, size_t n, enum ql_dtype t, uint16_t *dst); /* to BF16 or F16, RNE; finite x */
	uint32_t (*absmax_bits)(const float *x, size_t n);			/* max of bits & 0x7fffffff */
	void (*int8_encode)(const float *x, size_t n, float r, int8_t *q);	/* clamp(rint(x*r), ±127) */
	/* Whole blocks of one GGUF type; NULL for types that are none. */
	void (*blk_dequant[QL_DTYPE_COUNT])(const void *src, size_t n_blocks, float *dst);
	/* n_blocks blocks (K types: super-blocks) of one row.  weight: importance of these elements or NULL. */
	void (*blk_quant[QL_DTYPE_COUNT])(const float *x, size_t n_blocks, const float *weight, void *dst);
};

/* The best table for this machine; the CPU is asked each time, which costs a load and a test. */
const struct ql_quant_ops *ql_quant_ops_best(void);
/* Every table this machine can run, for tests: 0 is the scalar one; NULL past the end. */
const struct ql_quant_ops *ql_quant_ops_at(int i);

extern const struct ql_quant_ops ql_quant_ops_scalar;
#if defined(__x86_64__)
extern const struct ql_quant_ops ql_quant_ops_avx2, ql_quant_ops_avx512;
#endif

const struct ql_q4_book *ql_q4_book_of(enum ql_dtype kind); /* NULL for other types */

/* The code of a dynamic map: the number of its 255 midpoints strictly below x.  The upper bits of x (sign, exponent, 7 bits
 * of mantissa) name a cell narrow enough to hold one midpoint at most, so one comparison settles the code. */
#define QL_CELLS 2818		      /* of one sign: below 2^-22, 22 binades of 128, 1 and above */
#define QL_CELL_FIRST ((127u - 22) << 7) /* upper bits of 2^-22 */
struct ql_dynamic {
	float mid[256];		   /* (map[k] + map[k+1])/2, then infinity */
	uint8_t code[2][QL_CELLS]; /* [sign][cell]: code of the least value of the cell */
};
const struct ql_dynamic *ql_dynamic_of(bool is_signed);

static inline uint8_t ql_dynamic_code(const struct ql_dynamic *d, float x)
{
	uint32_t u, cell;
	uint8_t c;

	memcpy(&u, &x, 4);
	cell = (u & 0x7fffffffu) >> 16;
	cell = cell < QL_CELL_FIRST ? 0 : cell - QL_CELL_FIRST + 1;
	cell = cell < QL_CELLS - 1 ? cell : QL_CELLS - 1;
	c = d->code[u >> 31][cell];
	return (uint8_t)(c + (x > d->mid[c]));
}

#endif
