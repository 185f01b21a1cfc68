/* pointwise.c - RoPE in place, gated activations and their gradients, the soft cap (device.h has the formulas).
 * RoPE: angle = (float)position·inv_freq[i] in fp32, cos and sin of that angle by libm; computed once a row, for all heads. */
#include <math.h>

#include "core/device/cpu/cpu.h"

#define ROPE_ROWS 16

struct rope_job {
	struct ql_tensor x;
	uint32_t n_head, head_dim;
	const int32_t *positions;
	const float *inv_freq;
	float sign;
};

static void rope_item(void *ctx, size_t item, int worker)
{
	const struct rope_job *j = ctx;
	uint32_t half = j->head_dim / 2;
	float c[QL_CPU_HEAD_DIM_MAX / 2], s[QL_CPU_HEAD_DIM_MAX / 2];

	(void)worker;
	for (size_t t = item * ROPE_ROWS; t < ql_min(item * ROPE_ROWS + ROPE_ROWS, j->x.rows); t++) {
		for (uint32_t i = 0; i < half; i++) {
			float angle = (float)j->positions[t] * j->inv_freq[i];

			c[i] = cosf(angle);
			s[i] = j->sign * sinf(angle);
		}
		for (uint32_t h = 0; h < j->n_head; h++) {
			float *x = ql_row(&j->x, t) + (size_t)h * j->head_dim;

			for (uint32_t i = 0; i < half; i++) {
				float a = x[i], b = x[i + half];

				x[i] = a * c[i] - b * s[i];
				x[i + half] = b * c[i] + a * s[i];
			}
		}
	}
}

int ql_cpu_rope(struct ql_device *d, struct ql_queue *q, struct ql_tensor x, uint32_t n_head, uint32_t head_dim,
		const int32_t *positions, const float *inv_freq, float sign, struct ql_err *e)
{
	struct rope_job j = {x, n_head, head_dim, positions, inv_freq, sign};
	int rc = ql_cpu_check(&x, "rope", "x", x.rows, (uint64_t)n_head * head_dim, e);

	(void)q;
	if (rc != QL_OK)
		return rc;
	if (head_dim == 0 || head_dim % 2 != 0 || head_dim > QL_CPU_HEAD_DIM_MAX)
		return ql_err_param(e, QL_ESHAPE, "head_dim", "rope: head_dim %u is odd or above %d", head_dim, QL_CPU_HEAD_DIM_MAX);
	ql_pool_run(ql_cpu_of(d)->pool, ql_ceil_div(x.rows, ROPE_ROWS), rope_item, &j);
	return QL_OK;
}

struct swiglu_job {
	void (*forward)(const float *gate, const float *up, float *h, size_t n);
	void (*backward)(const float *dh, const float *gate, const float *up, float *dgate, float *dup, size_t n);
	struct ql_tensor dh, gate, up, a, b; /* a: h or dgate; b: dup */
	size_t rows;			     /* per item */
};

static void swiglu_item(void *ctx, size_t item, int worker)
{
	const struct swiglu_job *j = ctx;

	(void)worker;
	for (size_t t = item * j->rows; t < ql_min((item + 1) * j->rows, j->gate.rows); t++) {
		if (j->dh.data == NULL)
			j->forward(ql_row(&j->gate, t), ql_row(&j->up, t), ql_row(&j->a, t), j->gate.cols);
		else
			j->backward(ql_row(&j->dh, t), ql_row(&j->gate, t), ql_row(&j->up, t), ql_row(&j->a, t),
				    ql_row(&j->b, t), j->gate.cols);
	}
}

static void swiglu_run(struct ql_cpu *c, enum ql_act f, struct swiglu_job *j)
{
	j->forward = f == QL_ACT_SILU ? c->k->swiglu : c->k->geglu;
	j->backward = f == QL_ACT_SILU ? c->k->swiglu_grad : c->k->geglu_grad;
	j->rows = j->gate.cols >= 4096 ? 4 : 16;
	ql_pool_run(c->pool, ql_ceil_div(j->gate.rows, j->rows), swiglu_item, j);
}

int ql_cpu_swiglu(struct ql_device *d, struct ql_queue *q, enum ql_act f, struct ql_tensor gate, struct ql_tensor up,
		  struct ql_tensor h, struct ql_err *e)
{
	struct swiglu_job j = {.gate = gate, .up = up, .a = h};
	int rc = ql_cpu_check(&gate, "swiglu", "gate", gate.rows, gate.cols, e);

	(void)q;
	if (rc == QL_OK)
		rc = ql_cpu_check(&up, "swiglu", "up", gate.rows, gate.cols, e);
	if (rc == QL_OK)
		rc = ql_cpu_check(&h, "swiglu", "h", gate.rows, gate.cols, e);
	if (rc == QL_OK)
		swiglu_run(ql_cpu_of(d), f, &j);
	return rc;
}

int ql_cpu_swiglu_grad(struct ql_device *d, struct ql_queue *q, enum ql_act f, struct ql_tensor dh, struct ql_tensor gate,
		       struct ql_tensor up, struct ql_tensor dgate, struct ql_tensor dup, struct ql_err *e)
{
	struct swiglu_job j = {.dh = dh, .gate = gate, .up = up, .a = dgate, .b = dup};
	const struct ql_tensor *all[] = {&dh, &gate, &up, &dgate, &dup};
	static const char *const names[] = {"dh", "gate", "up", "dgate", "dup"};
	int rc = QL_OK;

	(void)q;
	for (int i = 0; i < 5 && rc == QL_OK; i++)
		rc = ql_cpu_check(all[i], "swiglu_grad", names[i], gate.rows, gate.cols, e);
	if (rc == QL_OK)
		swiglu_run(ql_cpu_of(d), f, &j);
	return rc;
}

struct cap_job {
	const struct ql_kern *k;
	struct ql_tensor x;
	float c;
};

static void cap_item(void *ctx, size_t t, int worker)
{
	const struct cap_job *j = ctx;

	(void)worker;
	j->k->softcap(ql_row(&j->x, t), j->x.cols, 1.0f, j->c, NULL);
}

int ql_cpu_softcap(struct ql_device *d, struct ql_queue *q, struct ql_tensor x, float c, struct ql_err *e)
{
	struct cap_job j = {ql_cpu_of(d)->k, x, c};
	int rc = ql_cpu_check(&x, "softcap", "x", x.rows, x.cols, e);

	(void)q;
	if (rc != QL_OK)
		return rc;
	if (!(c > 0.0f))
		return ql_err_param(e, QL_EINVAL, "c", "softcap: %g is not positive", (double)c);
	ql_pool_run(ql_cpu_of(d)->pool, x.rows, cap_item, &j);
	return QL_OK;
}
