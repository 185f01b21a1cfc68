/* check.c - shape checks that every op does before it starts. */
#include "core/base/limits.h"
#include "core/device/cpu/cpu.h"

int ql_cpu_check(const struct ql_tensor *t, const char *op, const char *name, uint64_t rows, uint64_t cols,
		 struct ql_err *e)
{
	if (t->dtype != QL_F32)
		return ql_err_param(e, QL_ESHAPE, name, "%s: %s is %s, not f32", op, name,
				    (unsigned)t->dtype < QL_DTYPE_COUNT ? ql_dtype_name(t->dtype) : "of no type");
	if (t->rows != rows || t->cols != cols || t->ld < t->cols)
		return ql_err_param(e, QL_ESHAPE, name, "%s: %s is [%u, %u] ld %zu, expected [%llu, %llu]", op, name, t->rows,
				    t->cols, t->ld, (unsigned long long)rows, (unsigned long long)cols);
	if (t->data == NULL && rows > 0 && cols > 0)
		return ql_err_param(e, QL_ESHAPE, name, "%s: %s has no data", op, name);
	return QL_OK;
}

int ql_cpu_check_segs(const struct ql_lora_seg *segs, uint32_t n, const struct ql_weight *w, uint32_t rows, bool grads,
		      const char *op, uint32_t *r_max, struct ql_err *e)
{
	uint32_t end = 0;

	*r_max = 0;
	if (n > 0 && segs == NULL)
		return ql_err_set(e, QL_EINVAL, "%s: no segments given", op);
	for (uint32_t i = 0; i < n; i++) {
		const struct ql_lora_seg *s = &segs[i];
		uint32_t r = 0;

		if (s->row_begin < end || s->row_end < s->row_begin || s->row_end > rows)
			return ql_err_param(e, QL_ESHAPE, "segs", "%s: segment %u covers rows %u to %u of %u", op, i,
					    s->row_begin, s->row_end, rows);
		end = s->row_end;
		if (!(s->dropout >= 0.0f && s->dropout < 1.0f))
			return ql_err_param(e, QL_EINVAL, "dropout", "%s: dropout of segment %u outside [0, 1)", op, i);
		for (uint32_t p = 0; p < w->s.n_parts; p++) {
			const struct ql_lora *l = &s->part[p];

			if (l->r > QL_LORA_RANK_MAX)
				return ql_err_param(e, QL_ELIMIT, "r", "%s: rank %u above %d", op, l->r, QL_LORA_RANK_MAX);
			if (l->r > 0 && (l->a == NULL || l->b == NULL || (grads && (l->da == NULL || l->db == NULL))))
				return ql_err_param(e, QL_EINVAL, "segs", "%s: segment %u, part %u: missing matrix", op, i, p);
			r += l->r;
		}
		*r_max = r > *r_max ? r : *r_max;
	}
	return QL_OK;
}
