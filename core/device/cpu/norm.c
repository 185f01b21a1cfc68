/* norm.c - RMSNorm: y = w ⊙ (x·ρ), ρ = (mean(x²) + eps)^-1/2, and its gradient
 *	g = w ⊙ dy,  dx = [add +] ρ·(g - x·ρ²·mean(g ⊙ x)).
 * Sums over a row in fp64: four partial sums (element i to sum i mod 4), added in order. */
#include <math.h>

#include "core/device/cpu/cpu.h"

#define ROWS 16 /* rows an item takes */

struct job {
	struct ql_tensor x, y, dy, add, dx;
	const float *w;
	float eps, *rstd;
	const float *rstd_in;
};

static void forward(void *ctx, size_t item, int worker)
{
	const struct job *j = ctx;
	size_t n = j->x.cols;

	(void)worker;
	for (size_t t = item * ROWS; t < ql_min(item * ROWS + ROWS, j->x.rows); t++) {
		const float *x = ql_row(&j->x, t);
		float *y = ql_row(&j->y, t), rho;
		double s[4] = {0};
		size_t i = 0;

		for (; i + 4 <= n; i += 4)
			for (size_t l = 0; l < 4; l++)
				s[l] += (double)x[i + l] * (double)x[i + l];
		for (; i < n; i++)
			s[i % 4] += (double)x[i] * (double)x[i];
		rho = (float)(1.0 / sqrt((s[0] + s[1] + s[2] + s[3]) / (double)n + (double)j->eps));
		for (i = 0; i < n; i++)
			y[i] = x[i] * rho * j->w[i];
		if (j->rstd != NULL)
			j->rstd[t] = rho;
	}
}

static void backward(void *ctx, size_t item, int worker)
{
	const struct job *j = ctx;
	size_t n = j->x.cols;

	(void)worker;
	for (size_t t = item * ROWS; t < ql_min(item * ROWS + ROWS, j->x.rows); t++) {
		const float *x = ql_row(&j->x, t), *dy = ql_row(&j->dy, t), rho = j->rstd_in[t];
		const float *add = j->add.data == NULL ? NULL : ql_row(&j->add, t);
		float *dx = ql_row(&j->dx, t), c;
		double s[4] = {0};
		size_t i = 0;

		for (; i + 4 <= n; i += 4)
			for (size_t l = 0; l < 4; l++)
				s[l] += (double)(j->w[i + l] * dy[i + l]) * (double)x[i + l];
		for (; i < n; i++)
			s[i % 4] += (double)(j->w[i] * dy[i]) * (double)x[i];
		c = (float)((s[0] + s[1] + s[2] + s[3]) / (double)n * (double)rho * (double)rho);
		if (add == NULL)
			for (i = 0; i < n; i++)
				dx[i] = rho * (j->w[i] * dy[i] - x[i] * c);
		else
			for (i = 0; i < n; i++)
				dx[i] = add[i] + rho * (j->w[i] * dy[i] - x[i] * c);
	}
}

int ql_cpu_rmsnorm(struct ql_device *d, struct ql_queue *q, struct ql_tensor x, const float *w, float eps,
		   struct ql_tensor y, float *rstd, struct ql_err *e)
{
	struct job j = {.x = x, .y = y, .w = w, .eps = eps, .rstd = rstd};
	int rc = ql_cpu_check(&x, "rmsnorm", "x", x.rows, x.cols, e);

	(void)q;
	if (rc == QL_OK)
		rc = ql_cpu_check(&y, "rmsnorm", "y", x.rows, x.cols, e);
	if (rc != QL_OK)
		return rc;
	ql_pool_run(ql_cpu_of(d)->pool, ql_ceil_div(x.rows, ROWS), forward, &j);
	return QL_OK;
}

int ql_cpu_rmsnorm_grad(struct ql_device *d, struct ql_queue *q, struct ql_tensor x, const float *w, const float *rstd,
			struct ql_tensor dy, struct ql_tensor add, struct ql_tensor dx, struct ql_err *e)
{
	struct job j = {.x = x, .w = w, .rstd_in = rstd, .dy = dy, .add = add, .dx = dx};
	int rc = ql_cpu_check(&x, "rmsnorm_grad", "x", x.rows, x.cols, e);

	(void)q;
	if (rc == QL_OK)
		rc = ql_cpu_check(&dy, "rmsnorm_grad", "dy", x.rows, x.cols, e);
	if (rc == QL_OK)
		rc = ql_cpu_check(&dx, "rmsnorm_grad", "dx", x.rows, x.cols, e);
	if (rc == QL_OK && add.data != NULL)
		rc = ql_cpu_check(&add, "rmsnorm_grad", "add", x.rows, x.cols, e);
	if (rc != QL_OK)
		return rc;
	ql_pool_run(ql_cpu_of(d)->pool, ql_ceil_div(x.rows, ROWS), backward, &j);
	return QL_OK;
}
