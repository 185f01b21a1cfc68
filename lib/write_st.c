/* write_st.c - the safetensors writer of the public interface; 4-bit matrices in bitsandbytes' key layout. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/write_priv.h"

#define PARTS 6

/* One stored array. */
struct part {
	const struct lib_item *plain; /* streamed, or NULL: */
	const void *data;
	size_t bytes;
	char name[QL_NAME_MAX + 64], state[256];
};

static void put(struct ql_st_spec *s, struct part *p, const char *base, const char *suffix, enum ql_dtype dtype, uint64_t n,
		const void *data)
{
	(void)snprintf(p->name, sizeof p->name, "%.*s%s", QL_NAME_MAX, base, suffix);
	*s = (struct ql_st_spec){.name = p->name, .dtype = dtype, .n_dims = 1, .shape = {n}};
	p->data = data;
	p->bytes = n * ql_dtypes[dtype].bytes;
}

static size_t put_q4(struct ql_st_spec *s, struct part *p, const struct lib_item *it)
{
	const struct ql_q4 *q = &it->q4->q;
	char suffix[64];
	size_t n = 0;

	put(&s[n], &p[n], it->name, "", QL_U8, (q->n + 1) / 2, q->codes);
	s[n].n_dims = 2;
	s[n++].shape[1] = 1;
	if (q->nested)
		put(&s[n], &p[n], it->name, ".absmax", QL_U8, ql_q4_blocks(q), q->absmax_q);
	else
		put(&s[n], &p[n], it->name, ".absmax", QL_F32, ql_q4_blocks(q), q->absmax);
	n++;
	put(&s[n], &p[n], it->name, ".quant_map", QL_F32, 16, q->code);
	n++;
	if (q->nested) {
		put(&s[n], &p[n], it->name, ".nested_absmax", QL_F32, ql_q4_nested_blocks(q), q->nested_absmax);
		n++;
		put(&s[n], &p[n], it->name, ".nested_quant_map", QL_F32, 256, q->nested_map);
		n++;
	}
	(void)snprintf(p[n].state, sizeof p[n].state,
		       "{\"quant_type\":\"%s\",\"blocksize\":%u,\"dtype\":\"float32\",\"shape\":[%llu,%llu]", ql_dtype_name(q->kind),
		       q->blocksize, (unsigned long long)it->shape[0], (unsigned long long)it->shape[1]);
	if (q->nested)
		(void)snprintf(p[n].state + strlen(p[n].state), sizeof p[n].state - strlen(p[n].state),
			       ",\"nested_blocksize\":%u,\"nested_dtype\":\"float32\",\"nested_offset\":%.9g", q->nested_blocksize,
			       (double)q->offset);
	(void)strcat(p[n].state, "}");
	(void)snprintf(suffix, sizeof suffix, ".quant_state.bitsandbytes__%s", ql_dtype_name(q->kind));
	put(&s[n], &p[n], it->name, suffix, QL_U8, strlen(p[n].state), p[n].state);
	return n + 1;
}

static int sink(void *ctx, const void *data, size_t len, struct ql_err *e) { return ql_st_write_data(ctx, data, len, e); }

int lib_save_st(const struct qlora_writer *w, int dirfd, const char *file, struct ql_err *e)
{
	struct ql_st_spec *specs = calloc(w->n * PARTS + 1, sizeof *specs);
	struct part *parts = calloc(w->n * PARTS + 1, sizeof *parts);
	struct ql_st_writer *st = NULL;
	size_t n = 0, k;
	int rc = specs == NULL || parts == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for a tensor list") : QL_OK;

	for (size_t i = 0; rc == QL_OK && i < w->n; i++) {
		const struct lib_item *it = &w->items[i];

		if (it->q4 != NULL) {
			n += put_q4(specs + n, parts + n, it);
			continue;
		}
		specs[n] = (struct ql_st_spec){.name = it->name, .dtype = it->type, .n_dims = it->n_dims};
		memcpy(specs[n].shape, it->shape, sizeof it->shape);
		parts[n++].plain = it;
	}
	if (rc == QL_OK)
		rc = ql_st_write_begin(&st, dirfd, file, specs, n, e);
	while (rc == QL_OK && (k = ql_st_write_next(st)) < n)
		rc = parts[k].plain != NULL ? lib_stream(parts[k].plain, sink, st, e)
					    : ql_st_write_data(st, parts[k].data, parts[k].bytes, e);
	if (rc == QL_OK)
		rc = ql_st_write_commit(st, e);
	else
		ql_st_write_abort(st);
	free(parts);
	free(specs);
	return rc;
}
