/* q4.c - quantising to 4 bits, and the checks a tensor from a file must pass.  The formulas are in q4.h.
 *
 * Work is cut into pieces of about 65,536 elements (whole blocks), whatever the number of threads; each piece reads its
 * weights once and writes codes and scales.  Nested scales follow in a second step over the scale vector, 1/64 of
 * the data.  Non-finite input: every piece reports its first bad block, the smallest index wins, nothing is returned. */
#include "core/quant/q4.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/base/checked.h"
#include "core/quant/nested.h"
#include "core/quant/q4_impl.h"

#define ALIGN 64
#define HUGE_PAGE ((uint64_t)2 << 20)

bool ql_q4_blocksize_ok(uint32_t b) { return b >= 32 && b <= 4096 && (b & (b - 1)) == 0; }

uint64_t ql_q4_blocks(const struct ql_q4 *q) { return ql_q4_ceil(q->n, q->blocksize); }

uint64_t ql_q4_nested_blocks(const struct ql_q4 *q)
{
	return q->nested ? ql_q4_ceil(ql_q4_blocks(q), q->nested_blocksize) : 0;
}

uint64_t ql_q4_bytes(const struct ql_q4 *q)
{
	uint64_t m = ql_q4_blocks(q), codes = q->n / 2 + q->n % 2;

	return q->nested ? codes + m + 4 * ql_q4_nested_blocks(q) + 4 : codes + 4 * m;
}

int ql_q4_opts_check(const struct ql_q4_opts *o, enum ql_dtype src_dtype, uint64_t n, uint64_t channel,
		     struct ql_err *e)
{
	if (ql_q4_book_of(o->kind) == NULL)
		return ql_err_param(e, QL_EINVAL, "kind", "not a 4-bit type: %d", (int)o->kind);
	if (src_dtype != QL_F32 && src_dtype != QL_F16 && src_dtype != QL_BF16)
		return ql_err_param(e, QL_EINVAL, "dtype", "cannot quantise %s: f32, f16 or bf16 needed",
				    src_dtype < QL_DTYPE_COUNT ? ql_dtype_name(src_dtype) : "an unknown type");
	if (n == 0)
		return ql_err_param(e, QL_EINVAL, "n", "an empty tensor cannot be quantised");
	if (n > UINT64_MAX / 8)
		return ql_err_param(e, QL_ELIMIT, "n", "too many elements");
	if (channel == 0 && !ql_q4_blocksize_ok(o->blocksize))
		return ql_err_param(e, QL_EINVAL, "blocksize",
				    "block size %u: 32, 64, 128, 256, 512, 1024, 2048 or 4096 allowed", o->blocksize);
	if (channel != 0 && o->blocksize != 0)
		return ql_err_param(e, QL_EINVAL, "blocksize", "per-channel quantisation takes no block size");
	if (o->nested && !ql_q4_blocksize_ok(o->nested_blocksize))
		return ql_err_param(e, QL_EINVAL, "nested_blocksize",
				    "nested block size %u: 32, 64, 128, 256, 512, 1024, 2048 or 4096 allowed",
				    o->nested_blocksize);
	return QL_OK;
}

void *ql_q4_alloc(const struct ql_q4_part *parts, int n_parts)
{
	uint64_t total = 0, bytes;
	void *whole;
	uint8_t *p;

	for (int i = 0; i < n_parts; i++)
		if (!ql_mul_u64(parts[i].count, parts[i].size, &bytes) || !ql_align_u64(bytes, ALIGN, &bytes) ||
		    !ql_add_u64(total, bytes, &total))
			return NULL;
	if (total == 0 || total > PTRDIFF_MAX)
		return NULL;
	if (posix_memalign(&whole, total >= 2 * HUGE_PAGE ? HUGE_PAGE : ALIGN, (size_t)total) != 0)
		return NULL;
	p = whole;
#ifdef MADV_HUGEPAGE
	if (total >= 2 * HUGE_PAGE) /* a wish: fewer, larger first touches */
		(void)madvise(p, (size_t)total, MADV_HUGEPAGE);
#endif
	total = 0;
	for (int i = 0; i < n_parts; i++) {
		*parts[i].at = parts[i].count != 0 ? p + total : NULL;
		total += (parts[i].count * parts[i].size + ALIGN - 1) & ~(uint64_t)(ALIGN - 1);
	}
	return p;
}

/* ---- the parallel loop ---- */

struct run {
	const struct ql_quant_ops *ops;
	const struct ql_q4_job *all;
	uint64_t per; /* blocks of one piece */
	_Atomic uint64_t bad;
};

static void run_piece(void *ctx, size_t i, int worker)
{
	struct run *r = ctx;
	const struct ql_q4_job *a = r->all;
	uint64_t block = i * r->per, at = block * a->blocksize, bad, seen;
	uint64_t size = a->src_dtype == QL_F32 ? 4 : 2, n = r->per * a->blocksize;
	struct ql_q4_job j = *a;

	(void)worker;
	j.src = (const uint8_t *)a->src + at * size;
	j.n = a->n - at < n ? a->n - at : n;
	j.codes = a->codes + at / 2;
	j.scale = a->scale + block;
	j.zero = a->zero == NULL ? NULL : a->zero + block;
	bad = r->ops->q4_quant(&j);
	if (bad == UINT64_MAX)
		return;
	bad += at;
	seen = atomic_load(&r->bad);
	while (bad < seen && !atomic_compare_exchange_weak(&r->bad, &seen, bad))
		;
}

/* The block at `at` was refused: name its first NaN or infinity, or the block itself. */
static int refuse(const struct ql_q4_job *j, const struct ql_quant_ops *ops, uint64_t at, struct ql_err *e)
{
	uint64_t end = j->n - at < j->blocksize ? j->n : at + j->blocksize;
	uint64_t size = j->src_dtype == QL_F32 ? 4 : 2;
	int rc;

	for (uint64_t i = at; i < end; i++) {
		float x;

		ops->widen((const uint8_t *)j->src + i * size, j->src_dtype, 1, &x);
		if (ops->absmax_bits(&x, 1) < QL_BITS_INF)
			continue;
		rc = ql_err_set(e, QL_ENONFINITE, "element %llu is %s", (unsigned long long)i,
				x != x ? "NaN" : "infinite");
		if (e != NULL)
			e->offset = i;
		return rc;
	}
	rc = ql_err_set(e, QL_ENONFINITE, "element %llu starts a block whose range overflows fp32",
			(unsigned long long)at);
	if (e != NULL)
		e->offset = at;
	return rc;
}

int ql_q4_quant_run(const struct ql_q4_job *all, struct ql_pool *pool, struct ql_err *e)
{
	struct run r = {.ops = ql_quant_ops_best(), .all = all, .bad = UINT64_MAX};
	uint64_t pieces;

	r.per = all->blocksize >= QL_Q4_CHUNK ? 1 : QL_Q4_CHUNK / all->blocksize;
	pieces = ql_q4_ceil(ql_q4_ceil(all->n, all->blocksize), r.per);
	ql_pool_run(pool, (size_t)pieces, run_piece, &r);
	if (r.bad != UINT64_MAX)
		return refuse(all, r.ops, r.bad, e);
	return QL_OK;
}

/* ---- quantise ---- */

int ql_q4_quantize_any(struct ql_q4 *out, const void *src, enum ql_dtype src_dtype, uint64_t n, uint64_t channel,
		       const struct ql_q4_opts *o, struct ql_pool *pool, struct ql_err *e)
{
	struct ql_q4 q = {.kind = o->kind, .n = n, .nested = o->nested};
	float *absmax = NULL;
	uint64_t m;
	int rc = ql_q4_opts_check(o, src_dtype, n, channel, e);

	memset(out, 0, sizeof *out);
	if (rc != QL_OK)
		return rc;
	q.blocksize = channel != 0 ? (uint32_t)channel : o->blocksize;
	q.per_channel = channel != 0;
	q.nested_blocksize = o->nested ? o->nested_blocksize : 0;
	memcpy(q.code, ql_q4_code(o->kind), sizeof q.code);
	m = ql_q4_blocks(&q);
	struct ql_q4_part parts[] = {
		{(void **)&q.codes, n / 2 + n % 2, 1},
		{(void **)&q.absmax, o->nested ? 0 : m, sizeof(float)},
		{(void **)&q.absmax_q, o->nested ? m : 0, 1},
		{(void **)&q.nested_absmax, ql_q4_nested_blocks(&q), sizeof(float)},
	};
	q.owned = ql_q4_alloc(parts, 4);
	absmax = o->nested && q.owned != NULL ? malloc((size_t)m * sizeof *absmax) : q.absmax;
	if (q.owned == NULL || absmax == NULL) {
		rc = ql_err_set(e, QL_ENOMEM, "no memory for a tensor of %llu elements", (unsigned long long)n);
		goto cleanup;
	}
	struct ql_q4_job job = {.book = ql_q4_book_of(o->kind), .mode = QL_Q4_SYM, .src = src, .src_dtype = src_dtype,
				.n = n, .blocksize = q.blocksize, .codes = q.codes, .scale = absmax};
	rc = ql_q4_quant_run(&job, pool, e);
	if (rc != QL_OK)
		goto cleanup;
	if (o->nested) {
		memcpy(q.nested_map, ql_dynamic_map_signed(), sizeof q.nested_map);
		if (!ql_nested_encode(absmax, m, q.nested_blocksize, q.absmax_q, q.nested_absmax, &q.offset, pool))
			rc = ql_err_set(e, QL_EINTERNAL, "scales overflow");
	}
cleanup:
	if (o->nested)
		free(absmax);
	if (rc == QL_OK)
		*out = q;
	else
		free(q.owned);
	return rc;
}

int ql_q4_quantize(struct ql_q4 *out, const void *src, enum ql_dtype src_dtype, uint64_t n, const struct ql_q4_opts *o,
		   struct ql_pool *pool, struct ql_err *e)
{
	return ql_q4_quantize_any(out, src, src_dtype, n, 0, o, pool, e);
}

void ql_q4_free(struct ql_q4 *q)
{
	if (q == NULL)
		return;
	free(q->owned);
	memset(q, 0, sizeof *q);
}

/* ---- checks ---- */

uint64_t ql_q4_first_nonfinite(const float *x, uint64_t n)
{
	const struct ql_quant_ops *ops = ql_quant_ops_best();

	for (uint64_t at = 0; at < n; at += 4096) {
		size_t k = (size_t)(n - at < 4096 ? n - at : 4096);

		if (ops->absmax_bits(x + at, k) < QL_BITS_INF)
			continue;
		for (size_t i = 0; i < k; i++)
			if (ops->absmax_bits(x + at + i, 1) >= QL_BITS_INF)
				return at + i;
	}
	return n;
}

static int bad_array(struct ql_err *e, const char *name, uint64_t i)
{
	int rc = ql_err_param(e, QL_EFORMAT, name, "%s[%llu] is not finite", name, (unsigned long long)i);

	if (e != NULL)
		e->offset = i;
	return rc;
}

static int check_nested(const struct ql_q4 *q, struct ql_err *e)
{
	uint64_t blocks = ql_q4_nested_blocks(q), i;
	float offset = q->offset < 0.0f ? -q->offset : q->offset, sum;

	if (q->absmax_q == NULL || q->nested_absmax == NULL)
		return ql_err_param(e, QL_EFORMAT, "nested_absmax", "nested scales are missing");
	i = ql_q4_first_nonfinite(q->nested_map, 256);
	if (i != 256)
		return bad_array(e, "nested_quant_map", i);
	for (i = 0; i < 256; i++)
		if (q->nested_map[i] < -1.0f || q->nested_map[i] > 1.0f)
			return ql_err_param(e, QL_EFORMAT, "nested_quant_map", "nested_quant_map[%llu] is not in [-1, 1]",
					    (unsigned long long)i);
	if (ql_q4_first_nonfinite(&q->offset, 1) != 1)
		return ql_err_param(e, QL_EFORMAT, "nested_offset", "nested_offset is not finite");
	i = ql_q4_first_nonfinite(q->nested_absmax, blocks);
	if (i != blocks)
		return bad_array(e, "nested_absmax", i);
	for (i = 0; i < blocks; i++) {
		float a = q->nested_absmax[i] < 0.0f ? -q->nested_absmax[i] : q->nested_absmax[i];

		sum = a + offset;
		if (ql_q4_first_nonfinite(&sum, 1) != 1)
			return ql_err_param(e, QL_EFORMAT, "nested_absmax", "nested_absmax[%llu] overflows with the offset",
					    (unsigned long long)i);
	}
	return QL_OK;
}

int ql_q4_check(const struct ql_q4 *q, struct ql_err *e)
{
	uint64_t m, i;

	if (ql_q4_book_of(q->kind) == NULL)
		return ql_err_param(e, QL_EFORMAT, "quant_type", "not a 4-bit type");
	if (q->n == 0 || q->n > UINT64_MAX / 8)
		return ql_err_param(e, QL_EFORMAT, "shape", "%llu elements", (unsigned long long)q->n);
	if (q->per_channel ? q->blocksize == 0 || q->blocksize % 2 != 0 || q->n % q->blocksize != 0 :
			     !ql_q4_blocksize_ok(q->blocksize))
		return ql_err_param(e, QL_EFORMAT, "blocksize", "block size %u", q->blocksize);
	if (q->nested && !ql_q4_blocksize_ok(q->nested_blocksize))
		return ql_err_param(e, QL_EFORMAT, "nested_blocksize", "nested block size %u", q->nested_blocksize);
	if (q->codes == NULL)
		return ql_err_param(e, QL_EFORMAT, "codes", "codes are missing");
	i = ql_q4_first_nonfinite(q->code, 16);
	if (i != 16)
		return bad_array(e, "quant_map", i);
	if (q->nested)
		return check_nested(q, e);
	if (q->absmax == NULL)
		return ql_err_param(e, QL_EFORMAT, "absmax", "absmax is missing");
	m = ql_q4_blocks(q);
	i = ql_q4_first_nonfinite(q->absmax, m);
	return i == m ? QL_OK : bad_array(e, "absmax", i);
}
