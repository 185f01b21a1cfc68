/* verify_peft.c - a written PEFT directory read back and compared with the adapter, value by value; see export.h. */
#include <math.h>
#include <string.h>

#include "core/export/export_priv.h"

static int compare(const struct ql_adapter_file *want, const struct ql_adapter_file *got, size_t i, const struct ql_arch *a,
		   struct ql_err *e)
{
	const struct ql_adapter_pair *p = &want->pairs[i], *q = &got->pairs[i];
	const char *name = ql_module_name((int)(i % QL_MODULES));
	double scale;
	uint32_t rows, cols;

	if ((p->a == NULL) != (q->a == NULL))
		return ql_err_param(e, QL_EMISMATCH, name, "layer %zu, %s: one of adapter and directory has none", i / QL_MODULES, name);
	if (p->a == NULL)
		return QL_OK;
	scale = ql_adapter_pair_scale(want, p);
	if (p->rank != q->rank || fabs(ql_adapter_pair_scale(got, q) - scale) > 1e-8 * scale) /* numbers have 9 digits */
		return ql_err_param(e, QL_EMISMATCH, name, "layer %zu, %s: rank or scale differ", i / QL_MODULES, name);
	ql_arch_module_shape(a, (int)(i % QL_MODULES), &rows, &cols);
	if (memcmp(p->a, q->a, (size_t)p->rank * cols * sizeof(float)) != 0 || memcmp(p->b, q->b, (size_t)p->rank * rows * sizeof(float)) != 0)
		return ql_err_param(e, QL_EMISMATCH, name, "layer %zu, %s: the directory differs from the adapter", i / QL_MODULES, name);
	return QL_OK;
}

int ql_export_verify_peft(const struct ql_export *x, int dirfd, struct ql_err *e)
{
	const struct ql_arch *a = ql_source_arch(x->source);
	struct ql_adapter_file got = {0};
	int rc = x->adapter == NULL ? ql_err_set(e, QL_EINVAL, "no adapter given") : ql_export_check_input(x, e);

	if (rc == QL_OK)
		rc = ql_adapter_read(&got, dirfd, a, e);
	if (rc == QL_OK && (got.rank != x->adapter->rank || got.rslora != x->adapter->rslora))
		rc = ql_err_set(e, QL_EMISMATCH, "adapter_config.json differs from the adapter");
	for (size_t i = 0; rc == QL_OK && i < (size_t)a->num_hidden_layers * QL_MODULES; i++)
		rc = compare(x->adapter, &got, i, a, e);
	ql_adapter_file_free(&got);
	if (rc != QL_OK)
		(void)ql_err_prefix(e, "verify");
	return rc;
}
