/* gpu.h - what the files of gpu/ share: the device's state, error and launch checks, scratch memory, small helpers.
 *
 * Numbers: activations are bf16, sums fp32 or wider, reductions have a fixed order, no float atomics.  Every CUDA call and
 * every launch is checked; a failure names the op and makes the device refuse everything after it (device.h: sticky),
 * except memory that could not be had (QL_ENODEVMEM).
 * The code uses no exceptions, no RTTI and no C++ library, so that the C linker can link it. */
#ifndef QL_GPU_GPU_H
#define QL_GPU_GPU_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The C headers: dtype.h spells the half type as C does. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wclass-memaccess"
#define _Float16 __half
extern "C" {
#include "core/base/dtype.h"
#include "core/base/err.h"
#include "core/quant/q4.h"
}
#undef _Float16
#pragma GCC diagnostic pop
#include "core/device/device.h"

typedef __nv_bfloat16 bf16;

#define CU_EXT_ALIGN 64u	/* ld of buffers with ext columns */
#define CU_SMALL_ROWS 16u	/* rows of one matvec launch */
#define CU_PENDING_MAX 128
#define CU_STAGE_BYTES ((size_t)4 << 20)  /* pinned, per queue and direction */
#define CU_BULK_BYTES ((size_t)16 << 20)  /* pinned, per device, two of them */
#define CU_BLAS_WS_BYTES ((size_t)32 << 20)
#define CU_WORK_BYTES ((size_t)48 << 20)  /* per queue that decodes: partial results of the decode ops */
#define CU_COUNT_BYTES ((size_t)16 << 10)

struct cu_pending {
	void *dst;
	size_t off, bytes;
};

struct ql_queue {
	cudaStream_t s;
	uint8_t *up, *down; /* pinned staging */
	size_t up_used, down_used;
	struct cu_pending pend[CU_PENDING_MAX];
	uint32_t n_pend;
	void *blas_ws;	/* this and count: NULL on the queue of weight loading */
	uint8_t *count; /* first 4 KiB: counters that are zero between launches; then partial sums of sum_squares */
	uint8_t *work;	/* NULL until the first decode op */
	bool capturing;
};

struct ql_event {
	cudaEvent_t ev;
};

struct ql_graph {
	cudaGraphExec_t exec;
};

#define CU_PINNED 0xffffu /* kind of pinned host memory, which is not counted */
struct cu_alloc {
	void *p;
	size_t bytes;
	uint32_t kind;
};

struct cu_blas; /* blas.cu */

struct cu_dev {
	struct ql_device pub;
	int ordinal, sms;
	bool hopper; /* compute capability 9.0 */
	uint64_t total;
	struct cu_alloc *allocs; /* open addressing, capacity a power of two */
	size_t n_allocs, cap_allocs;
	uint64_t used[QL_MEM_KINDS], peak;
	void *scratch;
	size_t scratch_cap;
	void *retired[32]; /* earlier scratch areas that recorded graphs use */
	unsigned n_retired, n_graphs;
	struct ql_queue *scratch_user; /* queue that used the scratch last */
	cudaEvent_t scratch_ev;
	void *bulk[2]; /* pinned */
	cudaEvent_t bulk_ev[2];
	struct ql_queue *setup; /* queue of weight loading */
	struct cu_blas *blas;
	const char *op;	 /* the op enqueued last */
	struct ql_err dead; /* code != 0 after a sticky failure */
};

static inline struct cu_dev *cu_of(struct ql_device *d) { return (struct cu_dev *)d->impl; }

/* Reports err in *e; memory failures are plain, everything else makes the device dead.  Returns the code. */
int cu_fail(struct ql_device *d, cudaError_t err, struct ql_err *e);
/* Start of every op: refuses on a dead device, notes the name. */
int cu_begin(struct ql_device *d, const char *op, struct ql_err *e);

#define CU_TRY(call)                                        \
	do {                                                \
		cudaError_t cu_r_ = (call);                 \
		if (cu_r_ != cudaSuccess)                   \
			return cu_fail(d, cu_r_, e);        \
	} while (0)
#define CU_LAUNCHED() CU_TRY(cudaGetLastError())
#define QL_TRY(call)                      \
	do {                              \
		int ql_r_ = (call);       \
		if (ql_r_ != QL_OK)       \
			return ql_r_;     \
	} while (0)

int cu_alloc(struct ql_device *d, enum ql_mem_kind kind, size_t bytes, void **out, struct ql_err *e);
void cu_free(struct ql_device *d, void *p);
/* Scratch of at least `bytes` for one op on q; the contents live until the next op. */
int cu_scratch(struct ql_device *d, struct ql_queue *q, size_t bytes, void **out, struct ql_err *e);
/* The queue's work area, CU_WORK_BYTES, made when first asked for. */
int cu_work(struct ql_device *d, struct ql_queue *q, uint8_t **out, struct ql_err *e);
int cu_upload(struct ql_device *d, struct ql_queue *q, void *dst, const void *src, size_t bytes, struct ql_err *e);
int cu_download(struct ql_device *d, struct ql_queue *q, void *dst, const void *src, size_t bytes, struct ql_err *e);
/* Waits for the queue and hands pending downloads to their owners. */
int cu_drain(struct ql_device *d, struct ql_queue *q, struct ql_err *e);
int cu_sync(struct ql_device *d, struct ql_queue *q, struct ql_err *e);

/* The rest of device.h's memory, queues, events and graphs. */
int cu_alloc_paged(struct ql_device *, size_t, void **, struct ql_err *);
int cu_mem_info(struct ql_device *, struct ql_mem_info *, struct ql_err *);
void cu_mem_reset_peak(struct ql_device *);
int cu_copy(struct ql_device *, struct ql_queue *, void *, const void *, size_t, struct ql_err *);
int cu_zero(struct ql_device *, struct ql_queue *, void *, size_t, struct ql_err *);
int cu_queue_new(struct ql_device *, struct ql_queue **, struct ql_err *);
int cu_copy_queue_new(struct ql_device *, struct ql_queue **, struct ql_err *); /* light: without work areas */
void cu_queue_free(struct ql_device *, struct ql_queue *);
int cu_queue_wait(struct ql_device *, struct ql_queue *, struct ql_event *, struct ql_err *);
int cu_event_record(struct ql_device *, struct ql_queue *, struct ql_event **, struct ql_err *);
int cu_event_wait(struct ql_device *, struct ql_event *, struct ql_err *);
int cu_event_seconds(struct ql_device *, struct ql_event *, struct ql_event *, double *, struct ql_err *);
void cu_event_free(struct ql_device *, struct ql_event *);
int cu_graph_begin(struct ql_device *, struct ql_queue *, struct ql_err *);
int cu_graph_end(struct ql_device *, struct ql_queue *, struct ql_graph **, struct ql_err *);
int cu_graph_run(struct ql_device *, struct ql_queue *, struct ql_graph *, struct ql_err *);
void cu_graph_free(struct ql_device *, struct ql_graph *);

static inline size_t cu_align(size_t n) { return (n + 255) & ~(size_t)255; }

/* ---- shapes -------------------------------------------------------------------------------------------------------- */

/* An activation view: bf16, data present, ld ≥ cols. */
int cu_check_act(const struct ql_tensor *t, const char *name, struct ql_err *e);
int cu_check_same(const struct ql_tensor *a, const struct ql_tensor *b, const char *what, struct ql_err *e);

static inline bool cu_vec_ok(const struct ql_tensor *t) /* 16-byte accesses possible */
{
	return t->cols % 8 == 0 && t->ld % 8 == 0 && ((uintptr_t)t->data & 15) == 0;
}

/* ---- weights --------------------------------------------------------------------------------------------------------- */

/* One part of a 4-bit weight as kernels see it. */
struct cu_part {
	const uint8_t *codes;
	const float *absmax;	 /* or, nested: */
	const uint8_t *absmax_q;
	const float *nested;
	const float *tab; /* 16 levels, then 256 nested map values */
	const float *offset; /* device scalar */
	uint32_t nested_bs, row0, out;
};

struct ql_weight {
	enum ql_dtype dtype; /* NF4, FP4, INT4, F32, F16, BF16, Q8_0 */
	struct ql_weight_shape s;
	uint32_t in, out;
	uint32_t blocksize; /* 4-bit */
	bool nested, per_channel;
	struct cu_part part[QL_PARTS_MAX];
	const void *dense;  /* [out, in]; Q8_0: the int8 values */
	const __half *q8_d; /* [out, in/32] */
	void *mem;
	uint64_t bytes;
	float code[QL_PARTS_MAX][16], map[QL_PARTS_MAX][256]; /* host copies for weight_to_q4 */
	bf16 *resident; /* [out + ext, resident_ld] */
	size_t resident_ld;
	uint32_t resident_ext;
};

static inline bool cu_is_q4(enum ql_dtype t) { return t == QL_NF4 || t == QL_FP4 || t == QL_INT4; }

/* dequant.cu: writes the weight as bf16 rows of ld elements at dst. */
int cu_weight_expand(struct ql_device *d, struct ql_queue *q, const struct ql_weight *w, bf16 *dst, size_t ld, struct ql_err *e);
int cu_weight_from_q4(struct ql_device *, const struct ql_weight_shape *, const struct ql_q4 *const *, struct ql_weight **, struct ql_err *);
int cu_weight_from_dense(struct ql_device *, const struct ql_weight_shape *, enum ql_dtype, const void *const *, struct ql_weight **, struct ql_err *);
int cu_weight_quantize(struct ql_device *, const struct ql_weight_shape *, enum ql_dtype, const void *const *, enum ql_dtype,
		       struct ql_weight **, struct ql_err *);
int cu_weight_to_q4(struct ql_device *, const struct ql_weight *, uint32_t, struct ql_q4 *, struct ql_err *);
void cu_weight_free(struct ql_device *, struct ql_weight *);
uint64_t cu_weight_bytes(const struct ql_weight *);
int cu_weight_resident(struct ql_device *, struct ql_weight *, bool, struct ql_err *);
int cu_weight_rows(struct ql_device *, struct ql_queue *, const struct ql_weight *, struct ql_tensor, struct ql_err *);

/* quant.cu.  blocks: elements [first, first + n) of a part (first a multiple of 64) from src (device, F32/F16/BF16) into codes and
 * absmax, whose pointers are those of the whole part; *bad (device) receives the smallest non-finite index or stays.
 * nested: m scales into absmax_q, nested ([⌈m/256⌉]) and *offset; tmp holds CU_QUANT_TMP bytes. */
struct cu_book {
	float thr[15];
	uint64_t map; /* code of order i in bits 4i … 4i+3 */
	uint32_t zero;
};
#define CU_QUANT_TMP ((size_t)64 << 10)
int cu_quant_blocks(struct ql_device *d, struct ql_queue *q, const void *src, enum ql_dtype src_dtype, uint64_t first, uint64_t n,
		    const struct cu_book *book, uint8_t *codes, float *absmax, unsigned long long *bad, struct ql_err *e);
int cu_quant_nested(struct ql_device *d, struct ql_queue *q, const float *absmax, uint64_t m, const float *map, uint8_t *absmax_q,
		    float *nested, float *offset, void *tmp, struct ql_err *e);

/* ---- adapters reachable by slot ------------------------------------------------------------------------------------- */

struct cu_lora_entry { /* device */
	const bf16 *a; /* [r, in] */
	const bf16 *b; /* [out, rp], columns r … rp-1 zero */
	uint32_t r, rp;
	float scale;
	uint32_t pad;
};

struct ql_lora_table {
	uint32_t n_slots, n_sites, r_max;
	struct cu_lora_entry *dev; /* [n_slots, n_sites] */
	struct cu_lora_entry *host;
	uint32_t *in, *out;
	size_t *cap; /* bytes of each entry's buffer */
};

int cu_table_new(struct ql_device *, uint32_t, uint32_t, struct ql_lora_table **, struct ql_err *);
int cu_table_set(struct ql_device *, struct ql_queue *, struct ql_lora_table *, uint32_t, uint32_t, uint32_t, uint32_t,
		 const struct ql_lora *, struct ql_err *);
void cu_table_free(struct ql_device *, struct ql_lora_table *);

/* ---- matrix products (blas.cu) ---------------------------------------------------------------------------------------- */

/* Column-major D = alpha·op(A)·op(B) + beta·C [+ bias per row of D]; A, B bf16; C and D of type out (bf16 or f32). */
struct cu_gemm {
	bool ta, tb;
	uint64_t m, n, k;
	float alpha, beta;
	const void *a, *b, *c;
	void *d;
	size_t lda, ldb, ldc, ldd;
	enum ql_dtype out;
	const void *bias; /* [m], type out, or NULL */
};
int cu_blas_open(struct ql_device *d, struct ql_err *e);
void cu_blas_close(struct cu_dev *c);
int cu_gemm(struct ql_device *d, struct ql_queue *q, const struct cu_gemm *g, struct ql_err *e);

/* Row-major helpers.  nt: D[M,N] = alpha·X[M,K]·W[N,K]ᵀ + beta·C;  nn: D[M,N] = alpha·X[M,K]·W[K,N] + beta·C;
 * tn: D[M,N] = alpha·X[K,M]ᵀ·W[K,N] + beta·C. */
int cu_gemm_nt(struct ql_device *d, struct ql_queue *q, uint64_t M, uint64_t N, uint64_t K, float alpha, const void *x, size_t ldx,
	       const void *w, size_t ldw, float beta, const void *c, size_t ldc, void *out, size_t ldo, enum ql_dtype t,
	       const void *bias, struct ql_err *e);
int cu_gemm_nn(struct ql_device *d, struct ql_queue *q, uint64_t M, uint64_t N, uint64_t K, float alpha, const void *x, size_t ldx,
	       const void *w, size_t ldw, float beta, const void *c, size_t ldc, void *out, size_t ldo, enum ql_dtype t,
	       struct ql_err *e);
int cu_gemm_tn(struct ql_device *d, struct ql_queue *q, uint64_t M, uint64_t N, uint64_t K, float alpha, const void *x, size_t ldx,
	       const void *w, size_t ldw, float beta, void *out, size_t ldo, enum ql_dtype t, struct ql_err *e);

/* ---- ops ---------------------------------------------------------------------------------------------------------------- */

int cu_embed(struct ql_device *, struct ql_queue *, const struct ql_weight *, const int32_t *, float, struct ql_tensor, struct ql_err *);
int cu_embed_noise(struct ql_device *, struct ql_queue *, const struct ql_noise *, struct ql_err *);
int cu_rmsnorm(struct ql_device *, struct ql_queue *, struct ql_tensor, const float *, uint32_t, float, struct ql_tensor, struct ql_tensor,
	       float *, struct ql_err *);
int cu_rmsnorm_grad(struct ql_device *, struct ql_queue *, struct ql_tensor, const float *, uint32_t, const float *, struct ql_tensor,
		    struct ql_tensor, struct ql_tensor, struct ql_err *);
int cu_rope(struct ql_device *, struct ql_queue *, struct ql_tensor, uint32_t, uint32_t, const int32_t *, const float *, float, struct ql_err *);
int cu_swiglu(struct ql_device *, struct ql_queue *, enum ql_act, struct ql_tensor, struct ql_tensor, struct ql_tensor, struct ql_err *);
int cu_softcap(struct ql_device *, struct ql_queue *, struct ql_tensor, float, struct ql_err *);
int cu_swiglu_grad(struct ql_device *, struct ql_queue *, enum ql_act, struct ql_tensor, struct ql_tensor, struct ql_tensor, struct ql_tensor,
		   struct ql_tensor, struct ql_err *);
int cu_linear(struct ql_device *, struct ql_queue *, const struct ql_linear *, struct ql_err *);
int cu_linear_grad(struct ql_device *, struct ql_queue *, const struct ql_linear_grad *, struct ql_err *);
int cu_attention(struct ql_device *, struct ql_queue *, const struct ql_attn *, struct ql_err *);
int cu_attention_grad(struct ql_device *, struct ql_queue *, const struct ql_attn_grad *, struct ql_err *);
int cu_kv_write(struct ql_device *, struct ql_queue *, struct ql_tensor, struct ql_tensor, const int32_t *, struct ql_tensor,
		struct ql_tensor, struct ql_err *);
int cu_paged_attention(struct ql_device *, struct ql_queue *, const struct ql_paged_attn *, struct ql_err *);
int cu_cross_entropy(struct ql_device *, struct ql_queue *, const struct ql_xent *, struct ql_err *);
int cu_sum_squares(struct ql_device *, struct ql_queue *, const float *, uint64_t, double *, struct ql_err *);
int cu_adamw(struct ql_device *, struct ql_queue *, const struct ql_adamw *, struct ql_err *);
int cu_adam8(struct ql_device *, struct ql_queue *, const struct ql_adam8 *, struct ql_err *);
int cu_argmax(struct ql_device *, struct ql_queue *, struct ql_tensor, int32_t *, struct ql_err *);

/* linear.cu: W as bf16 rows (the dense weight itself, its resident copy, or expanded into scratch) and `extra` bytes of scratch. */
int cu_weight_view(struct ql_device *d, struct ql_queue *q, const struct ql_weight *w, size_t extra, const bf16 **ptr, size_t *ld, uint8_t **extra_ptr,
		   struct ql_err *e);

/* matvec.cu: up to CU_SMALL_ROWS rows (base product, bias, residual and table adapters in one launch). */
int cu_matvec(struct ql_device *d, struct ql_queue *q, const struct ql_linear *a, uint32_t row0, uint32_t rows, struct ql_err *e);

/* dynamic shared memory limits of the kernels that need more than 48 KiB; called once when the device opens */
cudaError_t cu_attention_fwd_setup(void);
cudaError_t cu_attention_bwd_setup(void);
cudaError_t cu_matvec_setup(void);

/* attention_fwd.cu also serves chunked prefill over a paged cache */
struct cu_flash {
	const bf16 *q, *k, *v;
	bf16 *o;
	float *lse;
	size_t ldq, ldk, ldv, ldo;
	uint32_t T, n_head, n_kv, head_dim, n_seqs, window;
	float scale, softcap;
	const int32_t *cu;	    /* [n_seqs + 1] first query row of each sequence */
	const int32_t *kv_len;	    /* paged: [n_seqs], else NULL */
	const int32_t *block_table; /* paged */
	uint32_t max_blocks, block_tokens;
	uint32_t tiles_max; /* upper bound of Σ ⌈rows/128⌉ */
};
int cu_flash_fwd90(struct ql_device *d, struct ql_queue *q, const struct cu_flash *f, struct ql_err *e); /* attention_fwd90.cu */
cudaError_t cu_attention_fwd90_setup(void);
int cu_flash_fwd(struct ql_device *d, struct ql_queue *q, const struct cu_flash *f, struct ql_err *e);
#define CU_FLASH_BM 128u

#endif
