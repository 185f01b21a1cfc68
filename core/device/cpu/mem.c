/* mem.c - memory of the CPU device: aligned blocks with a header that remembers kind and size, and one scratch area.
 *
 * A block is [64-byte header][data]; large ones start on a 2 MiB boundary and ask for huge pages.  The kernel promises
 * memory it may not have, so a large request is first compared with what is really available (the host's, or the
 * control group's if that is less): better a clear QL_ENODEVMEM now than being killed later. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/base/checked.h"
#include "core/base/hostmem.h"
#include "core/device/cpu/cpu.h"

#define HEADER 64
#define HUGE ((size_t)2 << 20)
#define ASK_FROM ((size_t)64 << 20) /* requests from here on are compared with what is available */

struct header {
	size_t bytes;
	enum ql_mem_kind kind;
};

static uint64_t used_now(const struct ql_cpu *c)
{
	uint64_t sum = 0;

	for (int i = 0; i < QL_MEM_KINDS; i++)
		sum += c->used[i];
	return sum;
}

int ql_cpu_alloc(struct ql_device *d, enum ql_mem_kind kind, size_t bytes, void **out, struct ql_err *e)
{
	struct ql_cpu *c = ql_cpu_of(d);
	uint64_t total, available, sum;
	size_t whole, align;
	char *p;

	*out = NULL;
	if ((unsigned)kind >= QL_MEM_KINDS)
		return ql_err_set(e, QL_EINVAL, "alloc: no such kind of memory");
	if (!ql_add_size(bytes, HEADER, &whole) || whole > SIZE_MAX / 2)
		return ql_err_set(e, QL_ENODEVMEM, "cpu: %zu bytes asked for", bytes);
	align = whole >= 2 * HUGE ? HUGE : 64;
	whole = (whole + align - 1) / align * align;
	if (whole >= ASK_FROM) {
		ql_host_memory(&total, &available);
		if (whole > available)
			return ql_err_set(e, QL_ENODEVMEM, "cpu: %zu bytes asked for, %llu available", bytes,
					  (unsigned long long)available);
	}
	p = aligned_alloc(align, whole);
	if (p == NULL)
		return ql_err_set(e, QL_ENODEVMEM, "cpu: %zu bytes asked for", bytes);
	if (align == HUGE)
		(void)madvise(p, whole, MADV_HUGEPAGE);
	*(struct header *)(void *)p = (struct header){bytes, kind};
	c->used[kind] += bytes;
	sum = used_now(c);
	c->peak = sum > c->peak ? sum : c->peak;
	*out = p + HEADER;
	return QL_OK;
}

int ql_cpu_alloc_paged(struct ql_device *d, size_t bytes, void **out, struct ql_err *e)
{
	return ql_cpu_alloc(d, QL_MEM_OPTIMIZER, bytes, out, e);
}

void ql_cpu_free(struct ql_device *d, void *p)
{
	struct header *h;

	if (p == NULL)
		return;
	h = (struct header *)(void *)((char *)p - HEADER);
	ql_cpu_of(d)->used[h->kind] -= h->bytes;
	free(h);
}

int ql_cpu_mem_info(struct ql_device *d, struct ql_mem_info *out, struct ql_err *e)
{
	struct ql_cpu *c = ql_cpu_of(d);

	(void)e;
	ql_host_memory(&out->total, &out->available);
	memcpy(out->used, c->used, sizeof out->used);
	out->peak = c->peak;
	return QL_OK;
}

void ql_cpu_mem_reset_peak(struct ql_device *d)
{
	struct ql_cpu *c = ql_cpu_of(d);

	c->peak = used_now(c);
}

int ql_cpu_scratch(struct ql_cpu *c, size_t shared, size_t per_worker, void **out, struct ql_err *e)
{
	size_t need;

	if (!ql_mul_size((per_worker + 63) & ~(size_t)63, (size_t)c->n_threads, &need) ||
	    !ql_add_size(need, (shared + 63) & ~(size_t)63, &need))
		return ql_err_set(e, QL_ENODEVMEM, "cpu: scratch size overflows");
	if (need > c->scratch_bytes) {
		void *p;
		int rc;

		ql_cpu_free(&c->dev, c->scratch);
		c->scratch = NULL;
		c->scratch_bytes = 0;
		rc = ql_cpu_alloc(&c->dev, QL_MEM_SCRATCH, need, &p, e);
		if (rc != QL_OK)
			return rc;
		c->scratch = p;
		c->scratch_bytes = need;
	}
	*out = c->scratch;
	return QL_OK;
}
