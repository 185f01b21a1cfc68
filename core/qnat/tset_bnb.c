/* tset_bnb.c - 4-bit tensors in bitsandbytes' key layout (core/formats/bnb.h) as members of a tensor set. */
#include <string.h>

#include "core/formats/bnb.h"
#include "core/qnat/tset.h"

static const struct ql_st_tensor *find(const void *ctx, const char *name) { return ql_st_find(ctx, name); }

bool ql_tset_bnb_companion(const struct ql_st *st, const char *name)
{
	return ql_bnb_companion(&(struct ql_bnb_keys){find, st}, name);
}

int ql_tset_bnb(const struct ql_st *st, const struct ql_st_tensor *t, struct ql_q4 *q, struct ql_tset_tensor *out,
		struct ql_err *e)
{
	struct ql_bnb_info info;
	int rc = ql_bnb_read(q, t, &(struct ql_bnb_keys){find, st}, &info, e);

	if (rc != QL_OK)
		return rc;
	*out = (struct ql_tset_tensor){.name = t->name, .type = ql_dtype_name(q->kind), .dtype = q->kind, .values = true,
				       .n_dims = info.n_dims, .n = q->n, .bytes = info.bytes};
	memcpy(out->shape, info.shape, sizeof out->shape);
	return QL_OK;
}
