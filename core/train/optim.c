/* optim.c - see optim.h. */
#include "core/train/optim.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/quant/q4.h"

uint64_t ql_optim_part_bytes(const struct ql_optim_part *p) { return p->count * (p->dtype == QL_F32 ? 4 : 1); }

uint64_t ql_optim_bytes(const struct ql_optim *o)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < o->n_parts; i++)
		sum += ql_optim_part_bytes(&o->part[i]);
	return sum;
}

uint64_t ql_optim_tensor_bytes(enum ql_optim_kind kind, uint64_t elements)
{
	uint64_t blocks = (elements + QL_ADAM8_BLOCK - 1) / QL_ADAM8_BLOCK;

	if (kind == QL_OPTIM_ADAMW)
		return elements * 8;
	return elements * (elements < QL_OPTIM_8BIT_FROM ? 10 : 2) + blocks * (8 + sizeof(struct ql_adam8_block));
}

double ql_clip_coef(double norm, double max_norm)
{
	double coef = max_norm > 0 ? max_norm / (norm + 1e-6) : 1;

	return coef < 1 ? coef : 1;
}

double ql_optim_bound(double beta1, double beta2, uint64_t t)
{
	double ratio = beta1 * beta1 / beta2; /* ∞ for β2 = 0 */
	double sum = fabs(1 - ratio) < 1e-9 ? (double)t : (1 - pow(ratio, (double)t)) / (1 - ratio);

	return isfinite(ratio) ? (1 - beta1) * sqrt(sum / (1 - beta2)) : INFINITY;
}

/* ---- building ---- */

static int add_part(struct ql_optim *o, struct ql_queue *q, const char *name, enum ql_dtype dtype, uint64_t count, bool moment,
		    struct ql_err *e)
{
	struct ql_optim_part *p = &o->part[o->n_parts++];
	const struct ql_device_ops *op = o->dev->ops;
	size_t bytes;
	int rc;

	*p = (struct ql_optim_part){name, dtype, count, NULL};
	bytes = (size_t)ql_optim_part_bytes(p);
	rc = moment && o->paged ? op->alloc_paged(o->dev, bytes, &p->data, e)
				: op->alloc(o->dev, QL_MEM_OPTIMIZER, bytes, &p->data, e);
	return rc == QL_OK ? op->zero(o->dev, q, p->data, bytes, e) : rc;
}

/* The blocks of one tensor of n elements from `begin` on; returns the place behind them. */
static struct ql_adam8_block *cut(struct ql_adam8_block *b, uint64_t begin, uint64_t n, uint32_t *small)
{
	for (uint64_t at = 0; at < n; at += QL_ADAM8_BLOCK, b++) {
		*b = (struct ql_adam8_block){begin + at, n - at < QL_ADAM8_BLOCK ? (uint32_t)(n - at) : QL_ADAM8_BLOCK,
					     QL_ADAM8_CODED};
		if (n < QL_OPTIM_8BIT_FROM) {
			b->small = *small;
			*small += b->count;
		}
	}
	return b;
}

static int upload_tables(struct ql_optim *o, struct ql_queue *q, const struct ql_adam8_block *blocks, struct ql_err *e)
{
	const struct ql_device_ops *op = o->dev->ops;
	size_t bytes = (size_t)o->n_blocks * sizeof *blocks, map = 256 * sizeof(float);
	int rc = op->alloc(o->dev, QL_MEM_OPTIMIZER, bytes, (void **)&o->blocks, e);

	if (rc == QL_OK)
		rc = op->upload(o->dev, q, o->blocks, blocks, bytes, e);
	if (rc == QL_OK)
		rc = op->alloc(o->dev, QL_MEM_OPTIMIZER, 2 * map, (void **)&o->maps, e);
	if (rc == QL_OK)
		rc = op->upload(o->dev, q, o->maps, ql_dynamic_map_signed(), map, e);
	if (rc == QL_OK)
		rc = op->upload(o->dev, q, o->maps + 256, ql_dynamic_map_unsigned(), map, e);
	return rc;
}

static int build_8bit(struct ql_optim *o, struct ql_queue *q, const uint64_t *tensors, uint32_t n_tensors, uint32_t n_first,
		      struct ql_err *e)
{
	struct ql_adam8_block *blocks, *at;
	uint64_t n_blocks = 0, begin = 0;
	uint32_t small = 0;
	int rc;

	for (uint32_t i = 0; i < n_tensors; i++)
		n_blocks += (tensors[i] + QL_ADAM8_BLOCK - 1) / QL_ADAM8_BLOCK;
	if (n_blocks >= UINT32_MAX / 2)
		return ql_err_set(e, QL_ELIMIT, "too many parameters");
	blocks = at = calloc(n_blocks > 0 ? (size_t)n_blocks : 1, sizeof *blocks);
	if (blocks == NULL)
		return ql_err_set(e, QL_ENOMEM, "optimiser");
	for (uint32_t i = 0; i < n_tensors; i++) {
		if (i == n_first)
			o->n_blocks_first = (uint32_t)(at - blocks);
		at = cut(at, begin, tensors[i], &small);
		begin += tensors[i];
	}
	o->n_blocks = (uint32_t)n_blocks;
	if (n_first >= n_tensors)
		o->n_blocks_first = o->n_blocks;
	rc = add_part(o, q, "exp_avg", QL_U8, o->n, true, e);
	if (rc == QL_OK)
		rc = add_part(o, q, "exp_avg_sq", QL_U8, o->n, true, e);
	if (rc == QL_OK)
		rc = add_part(o, q, "exp_avg_absmax", QL_F32, n_blocks, false, e);
	if (rc == QL_OK)
		rc = add_part(o, q, "exp_avg_sq_absmax", QL_F32, n_blocks, false, e);
	if (rc == QL_OK && small > 0)
		rc = add_part(o, q, "exp_avg_small", QL_F32, small, true, e);
	if (rc == QL_OK && small > 0)
		rc = add_part(o, q, "exp_avg_sq_small", QL_F32, small, true, e);
	if (rc == QL_OK)
		rc = upload_tables(o, q, blocks, e);
	if (rc == QL_OK)
		rc = o->dev->ops->sync(o->dev, q, e); /* before the host copy goes */
	free(blocks);
	return rc;
}

int ql_optim_new(struct ql_optim **out, struct ql_device *d, struct ql_queue *q, enum ql_optim_kind kind, bool paged,
		 const uint64_t *tensors, uint32_t n_tensors, uint32_t n_tensors_first, struct ql_err *e)
{
	struct ql_optim *o = calloc(1, sizeof *o);
	int rc;

	*out = NULL;
	if (o == NULL)
		return ql_err_set(e, QL_ENOMEM, "optimiser");
	o->dev = d;
	o->kind = kind;
	o->paged = paged;
	for (uint32_t i = 0; i < n_tensors; i++) {
		o->n += tensors[i];
		o->n_first += i < n_tensors_first ? tensors[i] : 0;
	}
	if (kind == QL_OPTIM_ADAMW_8BIT) {
		rc = build_8bit(o, q, tensors, n_tensors, n_tensors_first, e);
	} else {
		rc = add_part(o, q, "exp_avg", QL_F32, o->n, true, e);
		if (rc == QL_OK)
			rc = add_part(o, q, "exp_avg_sq", QL_F32, o->n, true, e);
	}
	if (rc == QL_OK)
		rc = d->ops->sync(d, q, e);
	if (rc != QL_OK) {
		ql_optim_free(o);
		return rc;
	}
	*out = o;
	return QL_OK;
}

int ql_optim_for_lora(struct ql_optim **out, const struct ql_lora_set *lora, enum ql_optim_kind kind, bool paged, struct ql_err *e)
{
	uint32_t sites = lora->model->arch.num_hidden_layers * QL_MODULES, n = 0, n_a;
	uint64_t *tensors = calloc(2 * (size_t)sites, sizeof *tensors);
	int rc;

	*out = NULL;
	if (tensors == NULL)
		return ql_err_set(e, QL_ENOMEM, "optimiser");
	for (uint32_t i = 0; i < sites; i++)
		if (lora->sites[i].r > 0)
			tensors[n++] = (uint64_t)lora->sites[i].r * lora->sites[i].in;
	n_a = n;
	for (uint32_t i = 0; i < sites; i++)
		if (lora->sites[i].r > 0)
			tensors[n++] = (uint64_t)lora->sites[i].r * lora->sites[i].out;
	rc = ql_optim_new(out, lora->model->dev, lora->model->queue, kind, paged, tensors, n, n_a, e);
	free(tensors);
	return rc;
}

void ql_optim_free(struct ql_optim *o)
{
	if (o == NULL)
		return;
	for (uint32_t i = 0; i < o->n_parts; i++)
		o->dev->ops->free(o->dev, o->part[i].data);
	o->dev->ops->free(o->dev, o->blocks);
	o->dev->ops->free(o->dev, o->maps);
	free(o);
}

/* ---- using ---- */

static int step_32(struct ql_optim *o, struct ql_queue *q, float *params, const float *grads, const struct ql_optim_rule *r,
		   struct ql_err *e)
{
	struct ql_adamw_group groups[2] = {{0, o->n_first, r->lr_first, r->weight_decay},
					   {o->n_first, o->n - o->n_first, r->lr_rest, r->weight_decay}};
	struct ql_adamw a = {.p = params, .m = o->part[0].data, .v = o->part[1].data, .g = grads, .groups = groups, .n_groups = 2,
			     .beta1 = r->beta1, .beta2 = r->beta2, .eps = r->eps, .t = r->t, .grad_scale = r->grad_scale};

	return o->dev->ops->adamw(o->dev, q, &a, e);
}

int ql_optim_step(struct ql_optim *o, struct ql_queue *q, float *params, const float *grads, const struct ql_optim_rule *r,
		  struct ql_err *e)
{
	struct ql_adam8_group groups[2] = {{0, o->n_blocks_first, r->lr_first, r->weight_decay},
					   {o->n_blocks_first, o->n_blocks - o->n_blocks_first, r->lr_rest, r->weight_decay}};
	struct ql_adam8 a = {.p = params, .g = grads, .blocks = o->blocks, .maps = o->maps, .groups = groups, .n_groups = 2,
			     .beta1 = r->beta1, .beta2 = r->beta2, .eps = r->eps, .t = r->t, .grad_scale = r->grad_scale,
			     .bound = ql_optim_bound(r->beta1, r->beta2, r->t)};

	if (o->kind == QL_OPTIM_ADAMW)
		return step_32(o, q, params, grads, r, e);
	a.m = o->part[0].data;
	a.v = o->part[1].data;
	a.m_absmax = o->part[2].data;
	a.v_absmax = o->part[3].data;
	a.m32 = o->part[4].data;
	a.v32 = o->part[5].data;
	return o->dev->ops->adam8(o->dev, q, &a, e);
}

int ql_optim_download(const struct ql_optim *o, struct ql_queue *q, void *host, struct ql_err *e)
{
	char *at = host;
	int rc = QL_OK;

	for (uint32_t i = 0; rc == QL_OK && i < o->n_parts; i++) {
		rc = o->dev->ops->download(o->dev, q, at, o->part[i].data, (size_t)ql_optim_part_bytes(&o->part[i]), e);
		at += ql_optim_part_bytes(&o->part[i]);
	}
	return rc;
}
