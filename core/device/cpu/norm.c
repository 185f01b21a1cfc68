/* norm.c - RMSNorm: y = [add +] w ⊙ (x·ρ), ρ = (mean(x²) + eps)^-1/2, and its gradient
 *	g = w ⊙ dy,  dx = [add +] ρ·(g - x·ρ²·mean(g ⊙ x)),
 * over whole rows or over each group of columns.  Sums in fp64: four partial sums (element i to sum i mod 4), added in order. */
#include <math.h>

#include "core/device/cpu/cpu.h"

#define ROWS 16 /* rows an item takes */

struct job {
	struct ql_tensor x, y, dy, add, dx;
	const float *w;
	size_t group, n_groups;
	float eps, *rstd;
	const float *rstd_in;
};

/* one group of n values */
static float forward_group(const float *x, const float *w, size_t n, float eps, const float *add, float *y)
{
	double s[4] = {0};
	size_t i = 0;
	float rho;

	for (; i + 4 <= n; i += 4)
		for (size_t l = 0; l < 4; l++)
			s[l] += (double)x[i + l] * (double)x[i + l];
	for (; i < n; i++)
		s[i % 4] += (double)x[i] * (double)x[i];
	rho = (float)(1.0 / sqrt((s[0] + s[1] + s[2] + s[3]) / (double)n + (double)eps));
	if (add == NULL)
		for (i = 0; i < n; i++)
			y[i] = x[i] * rho * w[i];
	else
		for (i = 0; i < n; i++)
			y[i] = add[i] + x[i] * rho * w[i];
	return rho;
}

static void forward(void *ctx, size_t item, int worker)
{
	const struct job *j = ctx;

	(void)worker;
	for (size_t t = item * ROWS; t < ql_min(item * ROWS + ROWS, j->x.rows); t++)
		for (size_t g = 0; g < j->n_groups; g++) {
			size_t c = g * j->group;
			float rho = forward_group(ql_row(&j->x, t) + c, j->w + c, j->group, j->eps,
						  j->add.data == NULL ? NULL : ql_row(&j->add, t) + c, ql_row(&j->y, t) + c);

			if (j->rstd != NULL)
				j->rstd[t * j->n_groups + g] = rho;
		}
}

static void backward_group(const float *x, const float *w, const float *dy, float rho, size_t n, const float *add, float *dx)
{
	double s[4] = {0};
	size_t i = 0;
	float c;

	for (; i + 4 <= n; i += 4)
		for (size_t l = 0; l < 4; l++)
			s[l] += (double)(w[i + l] * dy[i + l]) * (double)x[i + l];
	for (; i < n; i++)
		s[i % 4] += (double)(w[i] * dy[i]) * (double)x[i];
	c = (float)((s[0] + s[1] + s[2] + s[3]) / (double)n * (double)rho * (double)rho);
	if (add == NULL)
		for (i = 0; i < n; i++)
			dx[i] = rho * (w[i] * dy[i] - x[i] * c);
	else
		for (i = 0; i < n; i++)
			dx[i] = add[i] + rho * (w[i] * dy[i] - x[i] * c);
}

static void backward(void *ctx, size_t item, int worker)
{
	const struct job *j = ctx;

	(void)worker;
	for (size_t t = item * ROWS; t < ql_min(item * ROWS + ROWS, j->x.rows); t++)
		for (size_t g = 0; g < j->n_groups; g++) {
			size_t c = g * j->group;

			backward_group(ql_row(&j->x, t) + c, j->w + c, ql_row(&j->dy, t) + c, j->rstd_in[t * j->n_groups + g],
				       j->group, j->add.data == NULL ? NULL : ql_row(&j->add, t) + c, ql_row(&j->dx, t) + c);
		}
}

/* Checks x and add, and sets the groups. */
static int prepare(struct job *j, const char *op, uint32_t group, struct ql_err *e)
{
	uint32_t n = group == 0 ? j->x.cols : group;
	int rc = ql_cpu_check(&j->x, op, "x", j->x.rows, j->x.cols, e);

	if (rc == QL_OK && j->add.data != NULL)
		rc = ql_cpu_check(&j->add, op, "add", j->x.rows, j->x.cols, e);
	if (rc == QL_OK && n > 0 && j->x.cols % n != 0)
		rc = ql_err_param(e, QL_ESHAPE, "group", "%s: %u columns in groups of %u", op, j->x.cols, n);
	j->group = n;
	j->n_groups = n == 0 ? 0 : j->x.cols / n;
	return rc;
}

int ql_cpu_rmsnorm(struct ql_device *d, struct ql_queue *q, struct ql_tensor x, const float *w, uint32_t group, float eps,
		   struct ql_tensor add, struct ql_tensor y, float *rstd, struct ql_err *e)
{
	struct job j = {.x = x, .y = y, .add = add, .w = w, .eps = eps, .rstd = rstd};
	int rc = prepare(&j, "rmsnorm", group, e);

	(void)q;
	if (rc == QL_OK)
		rc = ql_cpu_check(&y, "rmsnorm", "y", x.rows, x.cols, e);
	if (rc != QL_OK)
		return rc;
	ql_pool_run(ql_cpu_of(d)->pool, ql_ceil_div(x.rows, ROWS), forward, &j);
	return QL_OK;
}

int ql_cpu_rmsnorm_grad(struct ql_device *d, struct ql_queue *q, struct ql_tensor x, const float *w, uint32_t group,
			const float *rstd, struct ql_tensor dy, struct ql_tensor add, struct ql_tensor dx, struct ql_err *e)
{
	struct job j = {.x = x, .w = w, .rstd_in = rstd, .dy = dy, .add = add, .dx = dx};
	int rc = prepare(&j, "rmsnorm_grad", group, e);

	(void)q;
	if (rc == QL_OK)
		rc = ql_cpu_check(&dy, "rmsnorm_grad", "dy", x.rows, x.cols, e);
	if (rc == QL_OK)
		rc = ql_cpu_check(&dx, "rmsnorm_grad", "dx", x.rows, x.cols, e);
	if (rc != QL_OK)
		return rc;
	ql_pool_run(ql_cpu_of(d)->pool, ql_ceil_div(x.rows, ROWS), backward, &j);
	return QL_OK;
}
