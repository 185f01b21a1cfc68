/* cpu.h - what the files of the CPU device share.  Activations are f32.  See core/device/device.h for every op's meaning.
 *
 * Parallel work: an op cuts its work into items by the shapes alone and hands them to the pool; an item computes its own
 * part of the result in an order of its own, so the number of threads never shows.  Each op asks once for scratch
 * (shared by all items, plus a piece for each worker) before it starts, so that nothing can fail inside items. */
#ifndef QL_DEVICE_CPU_CPU_H
#define QL_DEVICE_CPU_CPU_H

#include "core/base/pool.h"
#include "core/device/cpu/kern.h"
#include "core/device/device.h"
#include "core/quant/q4.h"

#define QL_KC 256   /* rows of k in one block: a panel block is 16 KiB */
#define QL_NB 4	    /* panels an item takes at once (64 columns) */
#define QL_MB 264   /* rows an item takes at once, about */

struct ql_cpu {
	struct ql_device dev; /* first */
	struct ql_pool *pool;
	int n_threads;
	const struct ql_kern *k;
	uint64_t used[QL_MEM_KINDS], peak;
	char *scratch;
	size_t scratch_bytes;
};

static inline struct ql_cpu *ql_cpu_of(struct ql_device *d) { return (struct ql_cpu *)(void *)d; }

/* A frozen weight as panels (kern.h).  Part p owns panels panel[p] … panel[p+1]-1 and outputs begin[p] … begin[p+1]-1;
 * the last panel of a part is padded with zero outputs. */
struct ql_weight {
	struct ql_cpu *cpu;
	struct ql_weight_shape s;
	uint32_t out, begin[QL_PARTS_MAX + 1], panel[QL_PARTS_MAX + 1];
	enum ql_dtype store;	   /* QL_NF4 = any 4-bit code book; QL_F32, QL_F16, QL_BF16, QL_Q8_0 */
	uint32_t group;		   /* 4-bit: k's that share one scale */
	float level[QL_PARTS_MAX][16];
	void *data;		   /* panel i at data + i·panel_bytes */
	float *scale;		   /* panel i at scale + i·panel_scales */
	size_t panel_bytes, panel_scales;
	struct ql_q4 q4[QL_PARTS_MAX]; /* what weight_to_q4 needs beyond the panels (weight_q4.c) */
	bool is_q4;
	uint64_t bytes;
};

/* Adapter matrices as panels: A with 16 ranks side by side, k over `in`; B scaled, 16 outputs side by side, k over r. */
struct ql_lora_packed {
	float *a, *b; /* one allocation, a first; NULL = no adapter */
	uint32_t r, in, out;
};

struct ql_lora_table {
	uint32_t n_slots, n_sites, r_max; /* r_max never shrinks */
	struct ql_lora_packed *at;	  /* [n_slots][n_sites] */
};

/* mem.c */
int ql_cpu_alloc(struct ql_device *d, enum ql_mem_kind kind, size_t bytes, void **out, struct ql_err *e);
int ql_cpu_alloc_paged(struct ql_device *d, size_t bytes, void **out, struct ql_err *e);
void ql_cpu_free(struct ql_device *d, void *p);
int ql_cpu_mem_info(struct ql_device *d, struct ql_mem_info *out, struct ql_err *e);
void ql_cpu_mem_reset_peak(struct ql_device *d);
#define QL_CPU_HEAD_DIM_MAX 1024

/* One scratch area: `shared` bytes at *out, then `per_worker` bytes for each worker from ql_cpu_worker on (both rounded
 * up to 64).  Valid until the next call. */
int ql_cpu_scratch(struct ql_cpu *c, size_t shared, size_t per_worker, void **out, struct ql_err *e);
static inline void *ql_cpu_worker(void *scratch, size_t shared, size_t per_worker, int worker)
{
	return (char *)scratch + ((shared + 63) & ~(size_t)63) + (size_t)worker * ((per_worker + 63) & ~(size_t)63);
}

/* check.c: shape checks before anything runs.  `op` and `name` go into the message. */
int ql_cpu_check(const struct ql_tensor *t, const char *op, const char *name, uint64_t rows, uint64_t cols,
		 struct ql_err *e);
int ql_cpu_check_segs(const struct ql_lora_seg *segs, uint32_t n, const struct ql_weight *w, uint32_t rows,
		      bool grads, const char *op, uint32_t *r_max, struct ql_err *e);

/* weight.c */
/* k's [k0, k0 + n) of a panel as floats [n][16]: in dst, or in place when stored as f32.  k0 is a multiple of 32
 * (blocks of Q8_0), n at most 64 unless k0 is a multiple of 64. */
const float *ql_cpu_panel(const struct ql_kern *k, const struct ql_weight *w, uint32_t panel, size_t k0, size_t n,
			  float *dst);
uint32_t ql_cpu_part_of(const struct ql_weight *w, uint32_t panel);
int ql_cpu_weight_new(struct ql_cpu *c, const struct ql_weight_shape *s, struct ql_weight **out, struct ql_err *e);
int ql_cpu_weight_from_dense(struct ql_device *d, const struct ql_weight_shape *s, enum ql_dtype dtype,
			     const void *const parts[], struct ql_weight **out, struct ql_err *e);
void ql_cpu_weight_free(struct ql_device *d, struct ql_weight *w);
uint64_t ql_cpu_weight_bytes(const struct ql_weight *w);
float ql_cpu_weight_at(const struct ql_weight *w, uint32_t part, uint32_t row, uint32_t k);
/* weight_q4.c */
int ql_cpu_weight_from_q4(struct ql_device *d, const struct ql_weight_shape *s, const struct ql_q4 *const parts[],
			  struct ql_weight **out, struct ql_err *e);
int ql_cpu_weight_quantize(struct ql_device *d, const struct ql_weight_shape *s, enum ql_dtype src,
			   const void *const parts[], enum ql_dtype kind, struct ql_weight **out, struct ql_err *e);
int ql_cpu_weight_rows(struct ql_device *d, struct ql_queue *queue, const struct ql_weight *w, struct ql_tensor dst,
		       struct ql_err *e);
int ql_cpu_weight_to_q4(struct ql_device *d, const struct ql_weight *w, uint32_t part, struct ql_q4 *out,
			struct ql_err *e);

/* lora.c */
size_t ql_cpu_lora_a_floats(uint32_t r, uint32_t in);
void ql_cpu_lora_pack_a(const struct ql_kern *k, const float *a, uint32_t r, uint32_t in, float *dst);
/* rank columns of part p begin here, after the input's own columns */
uint32_t ql_cpu_lora_column(const struct ql_lora_seg *seg, uint32_t part);
/* S columns of x for all rows of all segments (training, prefill) */
int ql_cpu_lora_s(struct ql_cpu *c, const struct ql_weight *w, struct ql_tensor x, const struct ql_lora_seg *segs,
		  uint32_t n_segs, struct ql_err *e);
/* M⊙src for channels [k0, k0 + n) of row `row` (only for dropout > 0); src and dst point at channel k0 and may be equal.
 * The second: rows × n block of M⊙x to dst with ld n. */
void ql_cpu_dropout_row(const struct ql_kern *k, const struct ql_lora_seg *seg, uint32_t part, uint32_t in, size_t row,
			size_t k0, size_t n, const float *src, float *dst);
void ql_cpu_dropout(const struct ql_kern *k, const struct ql_lora_seg *seg, uint32_t part, uint32_t in,
		    struct ql_tensor x, size_t row, size_t rows, size_t k0, size_t n, float *dst);
int ql_cpu_table_new(struct ql_device *d, uint32_t n_slots, uint32_t n_sites, struct ql_lora_table **out,
		     struct ql_err *e);
int ql_cpu_table_set(struct ql_device *d, struct ql_queue *q, struct ql_lora_table *t, uint32_t slot, uint32_t site,
		     uint32_t in, uint32_t out, const struct ql_lora *lora, struct ql_err *e);
void ql_cpu_table_free(struct ql_device *d, struct ql_lora_table *t);

/* the ops, one file each */
#define QL_CPU_OP(name, ...) int ql_cpu_##name(struct ql_device *d, struct ql_queue *q, __VA_ARGS__, struct ql_err *e)
QL_CPU_OP(embed, const struct ql_weight *w, const int32_t *ids, float scale, struct ql_tensor y);
QL_CPU_OP(embed_noise, const struct ql_noise *a);
QL_CPU_OP(rmsnorm, struct ql_tensor x, const float *w, uint32_t group, float eps, struct ql_tensor add, struct ql_tensor y,
	  float *rstd);
QL_CPU_OP(rmsnorm_grad, struct ql_tensor x, const float *w, uint32_t group, const float *rstd, struct ql_tensor dy,
	  struct ql_tensor add, struct ql_tensor dx);
QL_CPU_OP(rope, struct ql_tensor x, uint32_t n_head, uint32_t head_dim, const int32_t *positions, const float *inv_freq,
	  float sign);
QL_CPU_OP(swiglu, enum ql_act f, struct ql_tensor gate, struct ql_tensor up, struct ql_tensor h);
QL_CPU_OP(softcap, struct ql_tensor x, float c);
QL_CPU_OP(swiglu_grad, enum ql_act f, struct ql_tensor dh, struct ql_tensor gate, struct ql_tensor up, struct ql_tensor dgate,
	  struct ql_tensor dup);
QL_CPU_OP(linear, const struct ql_linear *a);
QL_CPU_OP(linear_grad, const struct ql_linear_grad *a);
QL_CPU_OP(attention, const struct ql_attn *a);
QL_CPU_OP(attention_grad, const struct ql_attn_grad *a);
QL_CPU_OP(kv_write, struct ql_tensor k, struct ql_tensor v, const int32_t *slots, struct ql_tensor k_cache,
	  struct ql_tensor v_cache);
QL_CPU_OP(paged_attention, const struct ql_paged_attn *a);
QL_CPU_OP(cross_entropy, const struct ql_xent *a);
QL_CPU_OP(sum_squares, const float *g, uint64_t n, double *host_out);
QL_CPU_OP(adamw, const struct ql_adamw *a);
QL_CPU_OP(adam8, const struct ql_adam8 *a);
QL_CPU_OP(argmax, struct ql_tensor logits, int32_t *ids);
static inline float *ql_row(const struct ql_tensor *t, size_t row) { return (float *)t->data + row * t->ld; }
static inline size_t ql_min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t ql_ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }
/* rows an item takes when `rows` are cut evenly into pieces of at most QL_MB; a multiple of 12 */
static inline size_t ql_cpu_row_block(size_t rows)
{
	size_t n = ql_ceil_div(rows, QL_MB);

	return n <= 1 ? rows : (ql_ceil_div(rows, n) + 11) / 12 * 12;
}

#endif
