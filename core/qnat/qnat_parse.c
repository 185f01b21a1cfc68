/* qnat_parse.c - from bytes to a checked tensor table; every rule of qnat.h's reader. */
#include <math.h>
#include <stdlib.h>

#include "core/base/checked.h"
#include "core/base/limits.h"
#include "core/base/utf8.h"
#include "core/qnat/qnat_priv.h"

struct cursor {
	const uint8_t *p;
	size_t size, at;
};

static int need(const struct cursor *c, size_t n, const char *what, struct ql_err *e)
{
	if (n > c->size - c->at)
		return ql_err_at(e, QL_EFORMAT, c->at, "the file ends inside %s", what);
	return QL_OK;
}

static int take_u32(struct cursor *c, uint32_t *v, const char *what, struct ql_err *e)
{
	int rc = need(c, 4, what, e);

	if (rc == QL_OK) {
		*v = ql_qnat_u32(c->p + c->at);
		c->at += 4;
	}
	return rc;
}

static int take_u64(struct cursor *c, uint64_t *v, const char *what, struct ql_err *e)
{
	uint32_t lo = 0, hi = 0;
	int rc = need(c, 8, what, e);

	if (rc == QL_OK)
		rc = take_u32(c, &lo, what, e);
	if (rc == QL_OK)
		rc = take_u32(c, &hi, what, e);
	*v = lo | (uint64_t)hi << 32;
	return rc;
}

/* A length-prefixed string of `min`..QL_NAME_MAX bytes of UTF-8 without NUL; malloc'ed. */
static int take_str(struct cursor *c, size_t min, char **out, const char *what, struct ql_err *e)
{
	size_t start = c->at;
	uint32_t len = 0;
	int rc = take_u32(c, &len, what, e);

	if (rc == QL_OK && (len < min || len > QL_NAME_MAX))
		return ql_err_at(e, len < min ? QL_EFORMAT : QL_ELIMIT, start, "%s has %u bytes", what, len);
	if (rc == QL_OK)
		rc = need(c, len, what, e);
	if (rc != QL_OK)
		return rc;
	if (memchr(c->p + c->at, 0, len) != NULL || !ql_utf8_valid((const char *)c->p + c->at, len, NULL))
		return ql_err_at(e, QL_EFORMAT, c->at, "%s is not UTF-8 text", what);
	*out = strndup((const char *)c->p + c->at, len);
	c->at += len;
	return *out == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for a name") : QL_OK;
}

static int parse_header(struct cursor *c, uint32_t *count, struct ql_err *e)
{
	uint32_t version = 0, flags = 0, reserved = 0;
	uint64_t metadata = 0;
	int rc = need(c, QL_QNAT_HEADER, "the header", e);

	if (rc != QL_OK)
		return rc;
	if (memcmp(c->p, "QNAT", 4) != 0)
		return ql_err_at(e, QL_EFORMAT, 0, "this is not a QNAT file");
	c->at = 4;
	(void)take_u32(c, &version, "the header", e);
	(void)take_u32(c, &flags, "the header", e);
	(void)take_u64(c, &metadata, "the header", e);
	(void)take_u32(c, count, "the header", e);
	(void)take_u32(c, &reserved, "the header", e);
	if (version != 1)
		return ql_err_at(e, QL_EUNSUPPORTED, 4, "QNAT version %u is not known, only 1", version);
	if (flags != 0)
		return ql_err_at(e, QL_EUNSUPPORTED, 8, "unknown QNAT flags 0x%x", flags);
	if (metadata != 0)
		return ql_err_at(e, QL_EFORMAT, 12, "metadata_size is not 0");
	if (*count > QL_QNAT_TENSORS_MAX)
		return ql_err_at(e, QL_ELIMIT, 20, "%u tensors, more than %d", *count, QL_QNAT_TENSORS_MAX);
	return reserved == 0 ? QL_OK : ql_err_at(e, QL_EFORMAT, 24, "the reserved field is not 0");
}

static int parse_metadata(struct ql_qnat *q, struct cursor *c, struct ql_err *e)
{
	static const enum ql_dtype dtypes[] = {QL_F32, QL_F16, QL_BF16};
	int rc = take_str(c, 0, &q->model_name, "model_name", e);

	if (rc == QL_OK)
		rc = take_str(c, 0, &q->model_type, "model_type", e);
	if (rc == QL_OK)
		rc = need(c, 1, "the model's dtype", e);
	if (rc == QL_OK && c->p[c->at] > 2)
		rc = ql_err_at(e, QL_EFORMAT, c->at, "dtype %u is not 0, 1 or 2", c->p[c->at]);
	if (rc == QL_OK)
		q->dtype = dtypes[c->p[c->at++]];
	return rc;
}

static int check_sizes(const struct ql_qnat_tensor *t, uint64_t at, struct ql_err *e)
{
	if (t->block_size == 0 || t->num_blocks == 0)
		return ql_err_at(e, QL_EFORMAT, at, "tensor %.200s: block_size or num_blocks is 0", t->name);
	if (t->block_size % 2 != 0)
		return ql_err_at(e, QL_EUNSUPPORTED, at, "tensor %.200s: odd block_size %u", t->name, t->block_size);
	if ((uint64_t)t->block_size * t->num_blocks != t->n)
		return ql_err_at(e, QL_EFORMAT, at, "tensor %.200s: %u blocks of %u are not its %llu elements", t->name,
				 t->num_blocks, t->block_size, (unsigned long long)t->n);
	return QL_OK;
}

static int parse_tensor(struct cursor *c, struct ql_qnat_tensor *t, struct ql_err *e)
{
	char *name = NULL;
	uint32_t ndim = 0;
	size_t at;
	int rc = take_str(c, 1, &name, "a tensor's name", e);

	t->name = name;
	if (rc == QL_OK)
		rc = take_u32(c, &ndim, "a tensor header", e);
	if (rc == QL_OK && (ndim == 0 || ndim > QL_QNAT_DIMS_MAX))
		rc = ql_err_at(e, QL_EFORMAT, c->at - 4, "tensor %.200s has %u dimensions", name, ndim);
	t->n_dims = (int)ndim;
	t->n = 1;
	for (uint32_t i = 0; rc == QL_OK && i < QL_QNAT_DIMS_MAX; i++) {
		t->dims[i] = 1;
		if (i >= ndim)
			continue;
		rc = take_u64(c, &t->dims[i], "a tensor header", e);
		if (rc == QL_OK && !ql_mul_u64(t->n, t->dims[i], &t->n))
			rc = ql_err_at(e, QL_EFORMAT, c->at - 8, "tensor %.200s: its dimensions overflow", name);
	}
	at = c->at;
	if (rc == QL_OK)
		rc = take_u32(c, &t->block_size, "a tensor header", e);
	if (rc == QL_OK)
		rc = take_u64(c, &t->offset_written, "a tensor header", e);
	if (rc == QL_OK)
		rc = take_u32(c, &t->num_blocks, "a tensor header", e);
	return rc == QL_OK ? check_sizes(t, at, e) : rc;
}

static int by_name(const void *a, const void *b)
{
	return strcmp((*(const struct ql_qnat_tensor *const *)a)->name, (*(const struct ql_qnat_tensor *const *)b)->name);
}

static int check_names(struct ql_qnat *q, struct ql_err *e)
{
	for (size_t i = 0; i < q->n; i++)
		q->by_name[i] = &q->t[i];
	qsort(q->by_name, q->n, sizeof *q->by_name, by_name);
	for (size_t i = 1; i < q->n; i++)
		if (strcmp(q->by_name[i - 1]->name, q->by_name[i]->name) == 0)
			return ql_err_param(e, QL_EFORMAT, q->by_name[i]->name, "two tensors are named %.200s",
					    q->by_name[i]->name);
	return QL_OK;
}

/* Which optional parts the size of a tensor tells. */
static int find_parts(struct ql_qnat_tensor *t, struct ql_err *e)
{
	uint64_t n = t->num_blocks, fixed = t->n / 2 + 4 * n, rest = t->bytes - fixed;

	if (t->bytes < fixed || (rest != 0 && rest != 4 * n && rest != n + 4 && rest != 5 * n + 4))
		return ql_err_param(e, QL_EFORMAT, t->name,
				    "tensor %.200s: %zu bytes of data fit none of the four layouts of its %llu blocks", t->name,
				    t->bytes, (unsigned long long)n);
	t->zero_points = rest == 4 * n || rest == 5 * n + 4;
	t->nested = rest == n + 4 || rest == 5 * n + 4;
	return QL_OK;
}

/* Scales must be finite; the redundant double-quantised ones are compared with them. */
static int check_scales(struct ql_qnat_tensor *t, struct ql_err *e)
{
	const uint8_t *scale = t->data + t->n / 2, *zero = scale + 4 * (size_t)t->num_blocks;
	const uint8_t *nested = zero + (t->zero_points ? 4 * (size_t)t->num_blocks : 0);
	float sf = t->nested ? ql_qnat_f32(nested + t->num_blocks) : 0;

	t->nested_plausible = true;
	for (size_t i = 0; i < t->num_blocks; i++) {
		float s = ql_qnat_f32(scale + 4 * i);

		if (!isfinite(s) || (t->zero_points && !isfinite(ql_qnat_f32(zero + 4 * i))))
			return ql_err_at(e, QL_EFORMAT, t->offset + t->n / 2 + 4 * i,
					 "tensor %.200s: the scale or zero point of block %zu is not finite", t->name, i);
		if (t->nested && !(fabsf((float)((int)nested[i] - 128) * sf - s) <= 0.51f * fabsf(sf) + 1e-6f * fabsf(s)))
			t->nested_plausible = false;
	}
	return QL_OK;
}

/* Gives each tensor its place: the data starts after the headers, sizes are the differences of the offsets. */
static int place(struct ql_qnat *q, size_t start, struct ql_err *e)
{
	uint64_t at = start;
	int rc = QL_OK;

	q->offsets_true = true;
	for (size_t i = 0; rc == QL_OK && i < q->n; i++) {
		struct ql_qnat_tensor *t = &q->t[i];
		uint64_t bytes = q->size - at;

		if (i + 1 < q->n && !ql_sub_size(t[1].offset_written, t->offset_written, &bytes))
			return ql_err_param(e, QL_EFORMAT, t[1].name, "tensor %.200s: its offset is below the one before",
					    t[1].name);
		if (bytes > q->size - at)
			return ql_err_param(e, QL_EFORMAT, t->name, "tensor %.200s: its data reaches past the end of the file",
					    t->name);
		t->offset = at;
		t->bytes = bytes;
		t->data = q->file + at;
		at += bytes;
		q->offsets_true = q->offsets_true && t->offset == t->offset_written;
		rc = find_parts(t, e);
		if (rc == QL_OK)
			rc = check_scales(t, e);
	}
	if (rc == QL_OK && at != q->size)
		rc = ql_err_at(e, QL_EFORMAT, at, "%llu bytes follow the last tensor", (unsigned long long)(q->size - at));
	return rc;
}

int ql_qnat_parse(struct ql_qnat *q, struct ql_err *e)
{
	struct cursor c = {q->file, q->size, 0};
	uint32_t count = 0;
	int rc = parse_header(&c, &count, e);

	if (rc == QL_OK)
		rc = parse_metadata(q, &c, e);
	/* the smallest tensor header: a name of one byte and one dimension */
	if (rc == QL_OK && count > (c.size - c.at) / 33)
		rc = ql_err_at(e, QL_EFORMAT, 20, "the file is too short for %u tensors", count);
	if (rc != QL_OK)
		return rc;
	q->t = calloc(count + 1, sizeof *q->t);
	q->by_name = calloc(count + 1, sizeof *q->by_name);
	if (q->t == NULL || q->by_name == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for %u tensors", count);
	for (uint32_t i = 0; rc == QL_OK && i < count; i++) {
		q->n = i + 1; /* so that close frees the name of a half-read one */
		rc = parse_tensor(&c, &q->t[i], e);
	}
	if (rc == QL_OK)
		rc = check_names(q, e);
	return rc == QL_OK ? place(q, c.at, e) : rc;
}
