/* cpu.c - opening the CPU device: its table of ops, its threads, its kernels.  Ops run when they are called; a queue has
 * nothing to hold and an event has always happened. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/device/cpu/cpu.h"

#define THREADS_MAX 256

struct ql_queue {
	int unused;
};

struct ql_event {
	struct timespec at; /* ops run at once, so it has always happened */
};

const struct ql_kern *ql_kern_pick(void)
{
	const char *want = getenv("QL_CPU_ISA");
	const struct ql_kern *best = &ql_kern_generic;

#if defined(__x86_64__)
	bool generic = want != NULL && strcmp(want, "generic") == 0, avx2 = want != NULL && strcmp(want, "avx2") == 0;

	__builtin_cpu_init();
	if (!generic && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
		best = &ql_kern_avx2;
		if (!avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
		    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
			best = &ql_kern_avx512;
	}
#else
	(void)want;
#endif
	return best;
}

static int cpu_upload(struct ql_device *d, struct ql_queue *q, void *dst, const void *src, size_t bytes, struct ql_err *e)
{
	(void)d;
	(void)q;
	(void)e;
	if (bytes > 0)
		memmove(dst, src, bytes);
	return QL_OK;
}

static int cpu_zero(struct ql_device *d, struct ql_queue *q, void *dst, size_t bytes, struct ql_err *e)
{
	(void)d;
	(void)q;
	(void)e;
	if (bytes > 0)
		memset(dst, 0, bytes);
	return QL_OK;
}

static int cpu_queue_new(struct ql_device *d, struct ql_queue **out, struct ql_err *e)
{
	(void)d;
	*out = calloc(1, sizeof **out);
	return *out != NULL ? QL_OK : ql_err_set(e, QL_ENOMEM, "queue");
}

static void cpu_queue_free(struct ql_device *d, struct ql_queue *q)
{
	(void)d;
	free(q);
}

static int cpu_sync(struct ql_device *d, struct ql_queue *q, struct ql_err *e)
{
	(void)d;
	(void)q;
	(void)e;
	return QL_OK;
}

static int cpu_event_record(struct ql_device *d, struct ql_queue *q, struct ql_event **ev, struct ql_err *e)
{
	(void)d;
	(void)q;
	if (*ev == NULL)
		*ev = calloc(1, sizeof **ev);
	if (*ev == NULL)
		return ql_err_set(e, QL_ENOMEM, "event");
	(void)clock_gettime(CLOCK_MONOTONIC, &(*ev)->at);
	return QL_OK;
}

static int cpu_event_seconds(struct ql_device *d, struct ql_event *from, struct ql_event *to, double *seconds, struct ql_err *e)
{
	(void)d;
	(void)e;
	*seconds = (double)(to->at.tv_sec - from->at.tv_sec) + (double)(to->at.tv_nsec - from->at.tv_nsec) * 1e-9;
	return QL_OK;
}

static int cpu_event_wait(struct ql_device *d, struct ql_event *ev, struct ql_err *e)
{
	(void)d;
	(void)ev;
	(void)e;
	return QL_OK;
}

/* Everything given to a queue before has run already. */
static int cpu_queue_wait(struct ql_device *d, struct ql_queue *q, struct ql_event *ev, struct ql_err *e)
{
	(void)d;
	(void)q;
	(void)ev;
	(void)e;
	return QL_OK;
}

static void cpu_event_free(struct ql_device *d, struct ql_event *ev)
{
	(void)d;
	free(ev);
}

static void cpu_close(struct ql_device *d)
{
	struct ql_cpu *c;

	if (d == NULL)
		return;
	c = ql_cpu_of(d);
	ql_cpu_free(d, c->scratch);
	ql_pool_free(c->pool);
	free(c);
}

static const struct ql_device_ops ops = {
	.name = "cpu",
	.close = cpu_close,
	.alloc = ql_cpu_alloc,
	.alloc_paged = ql_cpu_alloc_paged,
	.free = ql_cpu_free,
	.mem_info = ql_cpu_mem_info,
	.mem_reset_peak = ql_cpu_mem_reset_peak,
	.upload = cpu_upload,
	.download = cpu_upload,
	.copy = cpu_upload,
	.zero = cpu_zero,
	.queue_new = cpu_queue_new,
	.copy_queue_new = cpu_queue_new,
	.queue_free = cpu_queue_free,
	.sync = cpu_sync,
	.event_record = cpu_event_record,
	.event_wait = cpu_event_wait,
	.queue_wait = cpu_queue_wait,
	.event_free = cpu_event_free,
	.event_seconds = cpu_event_seconds,
	.weight_from_q4 = ql_cpu_weight_from_q4,
	.weight_from_dense = ql_cpu_weight_from_dense,
	.weight_quantize = ql_cpu_weight_quantize,
	.weight_rows = ql_cpu_weight_rows,
	.weight_to_q4 = ql_cpu_weight_to_q4,
	.weight_free = ql_cpu_weight_free,
	.weight_bytes = ql_cpu_weight_bytes,
	.table_new = ql_cpu_table_new,
	.table_set = ql_cpu_table_set,
	.table_free = ql_cpu_table_free,
	.embed = ql_cpu_embed,
	.embed_noise = ql_cpu_embed_noise,
	.rmsnorm = ql_cpu_rmsnorm,
	.rmsnorm_grad = ql_cpu_rmsnorm_grad,
	.rope = ql_cpu_rope,
	.swiglu = ql_cpu_swiglu,
	.swiglu_grad = ql_cpu_swiglu_grad,
	.softcap = ql_cpu_softcap,
	.linear = ql_cpu_linear,
	.linear_grad = ql_cpu_linear_grad,
	.attention = ql_cpu_attention,
	.attention_grad = ql_cpu_attention_grad,
	.kv_write = ql_cpu_kv_write,
	.paged_attention = ql_cpu_paged_attention,
	.cross_entropy = ql_cpu_cross_entropy,
	.sum_squares = ql_cpu_sum_squares,
	.adamw = ql_cpu_adamw,
	.adam8 = ql_cpu_adam8,
	.argmax = ql_cpu_argmax,
};

int ql_device_cpu(struct ql_device **out, int n_threads, struct ql_err *e)
{
	struct ql_cpu *c;

	*out = NULL;
	if (n_threads < 0 || n_threads > THREADS_MAX)
		return ql_err_param(e, QL_EINVAL, "threads", "cpu: %d threads; 0 to %d are possible", n_threads, THREADS_MAX);
	if (n_threads == 0) {
		long n = sysconf(_SC_NPROCESSORS_ONLN);

		n_threads = n < 1 ? 1 : n > THREADS_MAX ? THREADS_MAX : (int)n;
	}
	c = calloc(1, sizeof *c);
	if (c == NULL)
		return ql_err_set(e, QL_ENOMEM, "cpu device");
	c->n_threads = n_threads;
	c->pool = ql_pool_new(n_threads);
	if (c->pool == NULL) {
		free(c);
		return ql_err_set(e, QL_ENOMEM, "cpu: %d threads", n_threads);
	}
	c->k = ql_kern_pick();
	c->dev.ops = &ops;
	c->dev.act = QL_F32;
	c->dev.ext_align = 16;
	c->dev.small_rows = 16;
	c->dev.head_dim_max = QL_CPU_HEAD_DIM_MAX;
	c->dev.impl = c;
	(void)snprintf(c->dev.description, sizeof c->dev.description, "cpu: %d threads, %s", n_threads, c->k->name);
	*out = &c->dev;
	return QL_OK;
}
