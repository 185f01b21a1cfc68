/* dtype.h - element and block types of tensors, shared by files, quantisers and devices.
 * Block types hold `block` elements in `bytes` bytes (ggml-common.h); plain types have block 1.  The 4-bit code-book
 * types NF4, FP4 and INT4 carry their scales in separate arrays (core/quant/q4.h), so `bytes` counts the codes of two
 * elements only. */
#ifndef QL_BASE_DTYPE_H
#define QL_BASE_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum ql_dtype {
	QL_F32, QL_F16, QL_BF16, QL_F64,
	QL_I8, QL_U8, QL_I16, QL_U16, QL_I32, QL_U32, QL_I64, QL_U64, QL_BOOL,
	QL_Q4_0, QL_Q4_1, QL_Q5_0, QL_Q5_1, QL_Q8_0, QL_Q4_K, QL_Q5_K, QL_Q6_K, QL_IQ4_NL,
	QL_NF4, QL_FP4, QL_INT4,
	QL_DTYPE_COUNT
};

struct ql_dtype_info {
	const char *name; /* lower case, as llama.cpp and bitsandbytes spell it */
	uint32_t block, bytes;
};

static const struct ql_dtype_info ql_dtypes[QL_DTYPE_COUNT] = {
	[QL_F32] = {"f32", 1, 4},      [QL_F16] = {"f16", 1, 2},      [QL_BF16] = {"bf16", 1, 2},
	[QL_F64] = {"f64", 1, 8},      [QL_I8] = {"i8", 1, 1},	      [QL_U8] = {"u8", 1, 1},
	[QL_I16] = {"i16", 1, 2},      [QL_U16] = {"u16", 1, 2},      [QL_I32] = {"i32", 1, 4},
	[QL_U32] = {"u32", 1, 4},      [QL_I64] = {"i64", 1, 8},      [QL_U64] = {"u64", 1, 8},
	[QL_BOOL] = {"bool", 1, 1},    [QL_Q4_0] = {"q4_0", 32, 18},  [QL_Q4_1] = {"q4_1", 32, 20},
	[QL_Q5_0] = {"q5_0", 32, 22},  [QL_Q5_1] = {"q5_1", 32, 24},  [QL_Q8_0] = {"q8_0", 32, 34},
	[QL_Q4_K] = {"q4_k", 256, 144}, [QL_Q5_K] = {"q5_k", 256, 176}, [QL_Q6_K] = {"q6_k", 256, 210},
	[QL_IQ4_NL] = {"iq4_nl", 32, 18}, [QL_NF4] = {"nf4", 2, 1},   [QL_FP4] = {"fp4", 2, 1},
	[QL_INT4] = {"int4", 2, 1},
};

static inline const char *ql_dtype_name(enum ql_dtype t) { return ql_dtypes[t].name; }

/* Type of that name, or QL_DTYPE_COUNT. */
static inline enum ql_dtype ql_dtype_of(const char *name)
{
	for (int i = 0; i < QL_DTYPE_COUNT; i++)
		if (strcmp(ql_dtypes[i].name, name) == 0)
			return (enum ql_dtype)i;
	return QL_DTYPE_COUNT;
}

/* Bytes of n elements (n a multiple of the block; the last code byte of an odd 4-bit tensor is counted whole);
 * 0 on overflow or for n == 0. */
static inline size_t ql_dtype_bytes(enum ql_dtype t, uint64_t n)
{
	uint64_t blocks = n / ql_dtypes[t].block + (n % ql_dtypes[t].block != 0), bytes;

	return __builtin_mul_overflow(blocks, (uint64_t)ql_dtypes[t].bytes, &bytes) ? 0 : (size_t)bytes;
}

/* Exact widening and RNE narrowing between f32 and the 16-bit floats (bits in, bits out). */
static inline float ql_f32_of_bf16(uint16_t h)
{
	uint32_t u = (uint32_t)h << 16;
	float f;

	memcpy(&f, &u, 4);
	return f;
}

static inline uint16_t ql_bf16_of_f32(float f)
{
	uint32_t u;

	memcpy(&u, &f, 4);
	if ((u & 0x7fffffffu) > 0x7f800000u)
		return (uint16_t)(u >> 16 | 0x40); /* NaN made quiet */
	return (uint16_t)((u + (0x7fffu + (u >> 16 & 1))) >> 16);
}

static inline float ql_f32_of_f16(uint16_t h)
{
	_Float16 x;

	memcpy(&x, &h, 2);
	return (float)x;
}

static inline uint16_t ql_f16_of_f32(float f)
{
	_Float16 x = (_Float16)f;
	uint16_t h;

	memcpy(&h, &x, 2);
	return h;
}

#endif
