/* qlorad.h - libqlora: 4-bit and GGUF quantisation, a QLoRA linear layer, safetensors/GGUF/QNAT files.  C99 and C++.
 *
 * Conventions.  Every function that can fail returns QLORA_OK (0) or a negative code and fills *err when err is not NULL.
 * Objects behind opaque pointers are made by a function whose first argument is `out` (*out is NULL on failure) and freed by
 * the function ending in _free or _close, which accepts NULL.  Matrices are row-major; sizes are 64-bit.  No global state:
 * different objects may be used from different threads at the same time, one object by several threads as long as nobody
 * changes it.  Nothing here prints, exits or installs handlers.
 *
 * Stability.  The soname follows QLORA_API_VERSION.  Structs that callers fill begin with `size`: set it with the _INIT macro;
 * later versions append fields only. */
#ifndef QLORAD_QLORAD_H
#define QLORAD_QLORAD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define QL_API __attribute__((visibility("default")))
#else
#define QL_API
#endif

#define QLORA_API_VERSION 1
QL_API int qlora_api_version(void);	/* of the library at run time */
QL_API const char *qlora_version(void); /* "0.1.1" */

enum qlora_code {
	QLORA_OK = 0,
	QLORA_EINVAL = -1,	/* an argument is wrong */
	QLORA_ENOMEM = -2,
	QLORA_EIO = -3,		/* the operating system refused a read or write */
	QLORA_EFORMAT = -4,	/* a file breaks its format; offset tells where */
	QLORA_ELIMIT = -5,	/* a size limit is exceeded */
	QLORA_ENOTFOUND = -6,	/* no such file or tensor */
	QLORA_EUNSUPPORTED = -7, /* valid, but not offered */
	QLORA_ESTATE = -8,	/* not possible in this order */
	QLORA_ESHAPE = -9,	/* sizes do not fit */
	QLORA_ENOSPC = -13,
	QLORA_EEXIST = -15,
	QLORA_ENONFINITE = -17, /* NaN or infinity; offset is the element */
	QLORA_EINTERNAL = -18
};

#define QLORA_NO_OFFSET UINT64_MAX
struct qlora_error {
	int code;
	uint64_t offset; /* byte in a file or element of an array; QLORA_NO_OFFSET if none */
	char param[64];	 /* tensor or field at fault, "" if none */
	char message[512];
};
QL_API const char *qlora_code_text(int code); /* never NULL */

/* Element types.  Numbers are fixed. */
enum qlora_type {
	QLORA_F32 = 0, QLORA_F16 = 1, QLORA_BF16 = 2,
	QLORA_Q4_0 = 16, QLORA_Q4_1 = 17, QLORA_Q5_0 = 18, QLORA_Q5_1 = 19, QLORA_Q8_0 = 20, QLORA_Q4_K = 21, QLORA_Q5_K = 22,
	QLORA_Q6_K = 23, QLORA_IQ4_NL = 24,
	QLORA_NF4 = 32, QLORA_FP4 = 33, QLORA_INT4 = 34,
	QLORA_OTHER = 255 /* in a file: known by size only */
};
QL_API const char *qlora_type_name(enum qlora_type t);	/* "q4_k"; "?" for an unknown one */
QL_API enum qlora_type qlora_type_of(const char *name); /* QLORA_OTHER if unknown */
/* Bytes of n elements of a plain or GGUF block type; 0 if n is no multiple of the block, or for 4-bit code-book types. */
QL_API uint64_t qlora_type_bytes(enum qlora_type t, uint64_t n);

/* ---- 4-bit with a 16-level code book ----------------------------------------------------------------------------------
 * Blocks of `block` consecutive elements: absmax = max |x|, code = nearest level of x/absmax, value = level·absmax.
 * NF4 and FP4 are bitsandbytes' (codes and scales bit for bit); INT4 has the levels (c - 8)/7.  With double_quant the scales
 * are quantised to 8 bit in blocks of 256 around their mean.  Dettmers et al., "QLoRA", 2023. */
struct qlora_q4_options {
	uint32_t size;
	enum qlora_type type; /* QLORA_NF4, QLORA_FP4, QLORA_INT4 */
	uint32_t block;	      /* 32, 64, … 4096; 0: one scale per row (cols even) */
	int double_quant;
	int threads; /* 1 … 256 */
};
#define QLORA_Q4_OPTIONS_INIT {(uint32_t)sizeof(struct qlora_q4_options), QLORA_NF4, 64, 1, 1}

typedef struct qlora_q4 qlora_q4;
/* src: rows·cols elements of F32, F16 or BF16.  options NULL: the defaults above.  QLORA_ENONFINITE names the element. */
QL_API int qlora_q4_quantize(qlora_q4 **out, const void *src, enum qlora_type src_type, uint64_t rows, uint64_t cols,
			     const struct qlora_q4_options *options, struct qlora_error *err);
/* Elements [begin, begin + count) to dst of F32, F16 or BF16. */
QL_API int qlora_q4_dequantize(const qlora_q4 *q, uint64_t begin, uint64_t count, void *dst, enum qlora_type dst_type,
			       struct qlora_error *err);
QL_API uint64_t qlora_q4_rows(const qlora_q4 *q);
QL_API uint64_t qlora_q4_cols(const qlora_q4 *q);
QL_API uint64_t qlora_q4_bytes(const qlora_q4 *q); /* codes and scales as held */
/* The codes: (rows·cols + 1)/2 bytes, first element in the high nibble; valid until free. */
QL_API const uint8_t *qlora_q4_codes(const qlora_q4 *q);
QL_API uint64_t qlora_q4_blocks(const qlora_q4 *q);
/* The scales of all blocks, double-quantised ones expanded, into out[qlora_q4_blocks]. */
QL_API int qlora_q4_absmax(const qlora_q4 *q, float *out, struct qlora_error *err);
QL_API void qlora_q4_free(qlora_q4 *q);
/* The same from the caller's arrays, which are copied and checked: codes as above, one scale for each block (block 0: each row). */
QL_API int qlora_q4_from(qlora_q4 **out, enum qlora_type type, uint64_t rows, uint64_t cols, uint32_t block, const uint8_t *codes,
			 const float *absmax, struct qlora_error *err);

/* ---- 4-bit with scale and zero point (asymmetric) ------------------------------------------------------------------------
 * Two numbers for each block (options->block 0: each row).  NF4, FP4: scale h and middle c, value = level·h + c, found by least
 * squares from starts near the half range and the middle of the range (no value errs by more than these would allow); INT4: step s
 * and minimum, value = code·s + min.  The zero point takes part in the rounding.  Zero itself is in general not representable.
 * For data away from zero; on weights around zero NF4 gains about a tenth of the error for half a bit a weight. */
typedef struct qlora_asym qlora_asym;
QL_API int qlora_asym_quantize(qlora_asym **out, const void *src, enum qlora_type src_type, uint64_t rows, uint64_t cols,
			       const struct qlora_q4_options *options, struct qlora_error *err);
QL_API int qlora_asym_dequantize(const qlora_asym *q, uint64_t begin, uint64_t count, void *dst, enum qlora_type dst_type,
				 struct qlora_error *err);
QL_API uint64_t qlora_asym_bytes(const qlora_asym *q); /* codes and both vectors as held */
QL_API void qlora_asym_free(qlora_asym *q);

/* ---- 8 bit ---------------------------------------------------------------------------------------------------------------
 * Blocks of `block` (32 … 4096) elements: scale = absmax/127, code = rint(x/scale), value = code·scale.  codes [n], scales
 * [ceil(n/block)] are the caller's. */
QL_API int qlora_int8_quantize(const void *src, enum qlora_type src_type, uint64_t n, uint32_t block, int8_t *codes, float *scales,
			       int threads, struct qlora_error *err);
/* Elements [begin, begin + count); codes and scales point at the tensor's start. */
QL_API int qlora_int8_dequantize(const int8_t *codes, const float *scales, uint32_t block, uint64_t begin, uint64_t count,
				 float *dst, struct qlora_error *err);

/* ---- GGUF block types --------------------------------------------------------------------------------------------------
 * ggml's layouts; without importance the bytes of its reference quantisers.  cols is a multiple of the block; dst holds
 * rows·qlora_type_bytes(t, cols).  importance: NULL, or cols weights ≥ 0 for the K types. */
QL_API int qlora_blocks_quantize(enum qlora_type t, const float *src, uint64_t rows, uint64_t cols, const float *importance,
				 void *dst, int threads, struct qlora_error *err);
QL_API int qlora_blocks_dequantize(enum qlora_type t, const void *src, uint64_t n, float *dst, struct qlora_error *err);

/* ---- QLoRA linear ------------------------------------------------------------------------------------------------------
 * y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ with W [out, in] frozen in 4 bit, A [rank, in], B [out, rank] trained, s = alpha/rank (alpha/√rank
 * with rslora).  A starts uniform in ±1/√in (Kaiming, a = √5) from the seed, B as zeros, so the layer starts as the base.
 * Products are accumulated in fp64 by simple loops: this is the reference, not the fast path of the daemon. */
struct qlora_linear_options {
	uint32_t size;
	uint32_t rank;
	double alpha;
	int rslora;
	uint64_t seed;
	struct qlora_q4_options q4;
};
#define QLORA_LINEAR_OPTIONS_INIT {(uint32_t)sizeof(struct qlora_linear_options), 16, 32.0, 0, 0, QLORA_Q4_OPTIONS_INIT}

typedef struct qlora_linear qlora_linear;
/* weight [out_features, in_features] fp32; NULL options: the defaults. */
QL_API int qlora_linear_new(qlora_linear **out, const float *weight, uint64_t out_features, uint64_t in_features,
			    const struct qlora_linear_options *options, struct qlora_error *err);
QL_API float *qlora_linear_a(qlora_linear *l); /* [rank, in]: read and update in place */
QL_API float *qlora_linear_b(qlora_linear *l); /* [out, rank] */
QL_API const qlora_q4 *qlora_linear_base(const qlora_linear *l);
QL_API double qlora_linear_scale(const qlora_linear *l);
/* x [n, in] → y [n, out]. */
QL_API int qlora_linear_forward(const qlora_linear *l, const float *x, uint64_t n, float *y, struct qlora_error *err);
/* From dy [n, out]: dx [n, in], da [rank, in], db [out, rank] are overwritten; each may be NULL.
 *   db = s·dyᵀ·(x·Aᵀ)   da = s·(dy·B)ᵀ·x   dx = dy·W + s·(dy·B)·A */
QL_API int qlora_linear_backward(const qlora_linear *l, const float *x, const float *dy, uint64_t n, float *dx, float *da,
				 float *db, struct qlora_error *err);
/* w [out, in] = W + s·B·A, W dequantised, one rounding to fp32. */
QL_API int qlora_linear_merge(const qlora_linear *l, float *w, struct qlora_error *err);
QL_API void qlora_linear_free(qlora_linear *l);

/* ---- Reading files -----------------------------------------------------------------------------------------------------
 * A GGUF, safetensors (bitsandbytes' 4-bit tensors folded into one) or QNAT file, a Hugging Face or PEFT directory.  Files
 * are untrusted: every rule of the format is checked on opening.  They must not be changed while open (they are mapped). */
struct qlora_tensor_info {
	const char *name; /* valid until close */
	enum qlora_type type; /* QLORA_OTHER: values cannot be read */
	int n_dims;
	uint64_t shape[8]; /* row-major, unused entries 1 */
	uint64_t elements, bytes;
};
typedef struct qlora_file qlora_file;
QL_API int qlora_file_open(qlora_file **out, const char *path, struct qlora_error *err);
QL_API const char *qlora_file_kind(const qlora_file *f); /* "GGUF", "safetensors", "QNAT", … */
QL_API uint64_t qlora_file_count(const qlora_file *f);
QL_API int qlora_file_info(const qlora_file *f, uint64_t i, struct qlora_tensor_info *info, struct qlora_error *err);
QL_API int qlora_file_find(const qlora_file *f, const char *name, uint64_t *i, struct qlora_error *err);
/* Elements [begin, begin + count) of tensor i as fp32; begin is a multiple of the type's block, count any number. */
QL_API int qlora_file_read(const qlora_file *f, uint64_t i, uint64_t begin, uint64_t count, float *dst,
			   struct qlora_error *err);
QL_API void qlora_file_close(qlora_file *f);

/* ---- Writing files -----------------------------------------------------------------------------------------------------
 * new → meta, add → save.  Tensors are borrowed until save, which quantises and writes one after the other; the file appears
 * whole, under its name, or not at all.  File names: letters, digits, '.', '_', '-'. */
enum qlora_format { QLORA_SAFETENSORS = 0, QLORA_GGUF = 1, QLORA_QNAT = 2, QLORA_QNAT_COMPAT = 3 /* offsets as qlora-rs */ };
typedef struct qlora_writer qlora_writer;
QL_API int qlora_writer_new(qlora_writer **out, enum qlora_format format, struct qlora_error *err);
/* GGUF: any key, a string value.  QNAT: "model_name", "model_type".  safetensors has none of its own. */
QL_API int qlora_writer_meta(qlora_writer *w, const char *key, const char *value, struct qlora_error *err);
/* data: fp32, row-major, shape[0..n_dims).  type as stored: safetensors F32, F16, BF16; GGUF these and the block types (rows
 * hold whole blocks). */
QL_API int qlora_writer_add(qlora_writer *w, const char *name, enum qlora_type type, int n_dims, const uint64_t *shape,
			    const float *data, struct qlora_error *err);
/* A quantised matrix [rows, cols]: safetensors (bitsandbytes' layout) or QNAT (NF4, elements a multiple of the block). */
QL_API int qlora_writer_add_q4(qlora_writer *w, const char *name, const qlora_q4 *q, struct qlora_error *err);
QL_API int qlora_writer_save(qlora_writer *w, const char *path, struct qlora_error *err);
QL_API void qlora_writer_free(qlora_writer *w);

#ifdef __cplusplus
}
#endif
#endif
