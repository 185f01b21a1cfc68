/* read.c - files read through the public interface: a tensor view (core/qnat/tset.h) behind a handle. */
#include <stdlib.h>
#include <string.h>

#include "core/qnat/tset.h"
#include "lib/priv.h"

struct qlora_file {
	struct ql_tset *s;
};

int qlora_file_open(qlora_file **out, const char *path, struct qlora_error *err)
{
	struct ql_err e = {.offset = QL_NO_OFFSET};
	struct qlora_file *f = calloc(1, sizeof *f);
	int rc = f == NULL ? ql_err_set(&e, QL_ENOMEM, "no memory for a file") : ql_tset_open(&f->s, path, false, &e);

	*out = rc == QL_OK ? f : NULL;
	if (rc != QL_OK)
		free(f);
	return lib_done(rc, &e, err);
}

const char *qlora_file_kind(const qlora_file *f) { return ql_tset_kind_name(ql_tset_kind(f->s)); }
uint64_t qlora_file_count(const qlora_file *f) { return ql_tset_count(f->s); }

static int check_index(const struct qlora_file *f, uint64_t i, struct ql_err *e)
{
	return i < ql_tset_count(f->s) ? QL_OK
				       : ql_err_param(e, QL_ENOTFOUND, "i", "there is no tensor %llu", (unsigned long long)i);
}

int qlora_file_info(const qlora_file *f, uint64_t i, struct qlora_tensor_info *info, struct qlora_error *err)
{
	struct ql_err e = {.offset = QL_NO_OFFSET};
	int rc = check_index(f, i, &e);

	if (rc == QL_OK) {
		const struct ql_tset_tensor *t = ql_tset_at(f->s, i);

		*info = (struct qlora_tensor_info){.name = t->name, .type = t->values ? lib_type(t->dtype) : QLORA_OTHER,
						   .n_dims = t->n_dims, .elements = t->n, .bytes = t->bytes};
		memcpy(info->shape, t->shape, sizeof info->shape);
	}
	return lib_done(rc, &e, err);
}

int qlora_file_find(const qlora_file *f, const char *name, uint64_t *i, struct qlora_error *err)
{
	struct ql_err e = {.offset = QL_NO_OFFSET};
	const struct ql_tset_tensor *t = ql_tset_find(f->s, name);

	if (t == NULL)
		return lib_done(ql_err_param(&e, QL_ENOTFOUND, name, "there is no tensor %.200s", name), &e, err);
	*i = (uint64_t)(t - ql_tset_at(f->s, 0));
	return lib_done(QL_OK, &e, err);
}

/* Elements that are stored together, of which the view reads whole ones only. */
static uint32_t block_of(const struct ql_tset_tensor *t)
{
	return t->q4 != NULL || t->qnat != NULL || t->dtype == QL_DTYPE_COUNT ? 1 : ql_dtypes[t->dtype].block;
}

static int read_values(const struct ql_tset *s, const struct ql_tset_tensor *t, uint64_t begin, uint64_t count, float *dst,
		       struct ql_err *e)
{
	uint32_t block = block_of(t), rest = (uint32_t)(count % block);
	float last[256]; /* the longest block */
	int rc;

	if (begin > t->n || count > t->n - begin)
		return ql_err_param(e, QL_EINVAL, t->name, "tensor %.200s: elements out of range", t->name);
	rc = ql_tset_read(s, t, begin, count - rest, dst, e);
	if (rc == QL_OK && rest > 0)
		rc = ql_tset_read(s, t, begin + count - rest, block, last, e);
	if (rc == QL_OK && rest > 0)
		memcpy(dst + (count - rest), last, rest * sizeof *last);
	return rc;
}

int qlora_file_read(const qlora_file *f, uint64_t i, uint64_t begin, uint64_t count, float *dst, struct qlora_error *err)
{
	struct ql_err e = {.offset = QL_NO_OFFSET};
	int rc = check_index(f, i, &e);

	if (rc == QL_OK)
		rc = read_values(f->s, ql_tset_at(f->s, i), begin, count, dst, &e);
	return lib_done(rc, &e, err);
}

void qlora_file_close(qlora_file *f)
{
	if (f == NULL)
		return;
	ql_tset_close(f->s);
	free(f);
}
