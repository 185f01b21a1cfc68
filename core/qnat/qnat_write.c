/* qnat_write.c - the writer; layout and both offset rules in qnat.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/checked.h"
#include "core/base/io.h"
#include "core/base/limits.h"
#include "core/base/utf8.h"
#include "core/qnat/qnat.h"

struct slot {
	uint64_t n;
	uint32_t block_size, num_blocks;
	bool zero_points, nested;
};

struct ql_qnat_writer {
	struct ql_io_file file;
	struct slot *slots;
	size_t n, at;
};

static int put(struct ql_buf *b, uint64_t v, int bytes)
{
	uint8_t p[8];

	for (int i = 0; i < bytes; i++)
		p[i] = (uint8_t)(v >> 8 * i);
	return ql_buf_add(b, p, (size_t)bytes);
}

static int put_str(struct ql_buf *b, const char *s)
{
	size_t len = strlen(s);

	return put(b, len, 4) != QL_OK ? QL_ENOMEM : ql_buf_add(b, s, len);
}

static uint64_t data_bytes(const struct slot *s)
{
	uint64_t n = s->num_blocks;

	return s->n / 2 + 4 * n + (s->zero_points ? 4 * n : 0) + (s->nested ? n + 4 : 0);
}

static bool text_ok(const char *s, size_t min)
{
	size_t len = s == NULL ? 0 : strlen(s);

	return s != NULL && len >= min && len <= QL_NAME_MAX && ql_utf8_valid(s, len, NULL);
}

static int check_spec(const struct ql_qnat_spec *p, struct slot *s, struct ql_err *e)
{
	uint64_t n = 1;

	if (!text_ok(p->name, 1))
		return ql_err_set(e, QL_EINVAL, "bad tensor name for QNAT");
	if (p->n_dims < 1 || p->n_dims > QL_QNAT_DIMS_MAX)
		return ql_err_param(e, QL_ESHAPE, p->name, "tensor %.200s: %d dimensions", p->name, p->n_dims);
	for (int i = 0; i < p->n_dims; i++)
		if (!ql_mul_u64(n, p->dims[i], &n) || n > INT64_MAX)
			return ql_err_param(e, QL_ESHAPE, p->name, "tensor %.200s: too large", p->name);
	if (p->block_size == 0 || p->block_size % 2 != 0 || n == 0 || n % p->block_size != 0 ||
	    n / p->block_size > UINT32_MAX)
		return ql_err_param(e, QL_ESHAPE, p->name, "tensor %.200s: %llu elements are no whole, even blocks of %u", p->name,
				    (unsigned long long)n, p->block_size);
	*s = (struct slot){n, p->block_size, (uint32_t)(n / p->block_size), p->zero_points, p->nested};
	return QL_OK;
}

static int name_order(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static int check_unique(const struct ql_qnat_spec *specs, size_t n, struct ql_err *e)
{
	const char **names = malloc((n + 1) * sizeof *names);
	int rc = names == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for tensor names") : QL_OK;

	for (size_t i = 0; rc == QL_OK && i < n; i++)
		names[i] = specs[i].name;
	if (rc == QL_OK)
		qsort(names, n, sizeof *names, name_order);
	for (size_t i = 1; rc == QL_OK && i < n; i++)
		if (strcmp(names[i - 1], names[i]) == 0)
			rc = ql_err_param(e, QL_EINVAL, names[i], "two tensors are named %.200s", names[i]);
	free(names);
	return rc;
}

static int build_head(struct ql_buf *b, const struct ql_qnat_writer *w, const struct ql_qnat_model *m,
		      const struct ql_qnat_spec *specs, bool compat)
{
	uint64_t headers = 0, at;
	int bad = QL_OK;

	for (size_t i = 0; i < w->n; i++)
		headers += 24 + strlen(specs[i].name) + 8 * (uint64_t)specs[i].n_dims;
	at = (compat ? 60 : 37 + strlen(m->name) + strlen(m->type)) + headers;
	bad |= ql_buf_add(b, "QNAT", 4) | put(b, 1, 4) | put(b, 0, 4) | put(b, 0, 8) | put(b, w->n, 4) | put(b, 0, 4);
	bad |= put_str(b, m->name) | put_str(b, m->type) | put(b, m->dtype == QL_F32 ? 0 : m->dtype == QL_F16 ? 1 : 2, 1);
	for (size_t i = 0; i < w->n; i++) {
		bad |= put_str(b, specs[i].name) | put(b, (uint64_t)specs[i].n_dims, 4);
		for (int d = 0; d < specs[i].n_dims; d++)
			bad |= put(b, specs[i].dims[d], 8);
		bad |= put(b, specs[i].block_size, 4) | put(b, at, 8) | put(b, w->slots[i].num_blocks, 4);
		at += data_bytes(&w->slots[i]);
	}
	return bad;
}

int ql_qnat_write_begin(struct ql_qnat_writer **out, int dirfd, const char *file, const struct ql_qnat_model *m,
			const struct ql_qnat_spec *specs, size_t n, bool compat, struct ql_err *e)
{
	struct ql_qnat_writer *w = NULL;
	struct ql_buf head = {0};
	int rc = QL_OK;

	*out = NULL;
	if (n > QL_QNAT_TENSORS_MAX)
		return ql_err_set(e, QL_ELIMIT, "%zu tensors, more than %d", n, QL_QNAT_TENSORS_MAX);
	if (!text_ok(m->name, 0) || !text_ok(m->type, 0) || (m->dtype != QL_F32 && m->dtype != QL_F16 && m->dtype != QL_BF16))
		return ql_err_set(e, QL_EINVAL, "bad model name, type or dtype for QNAT");
	w = calloc(1, sizeof *w);
	if (w == NULL || (w->slots = calloc(n + 1, sizeof *w->slots)) == NULL) {
		free(w);
		return ql_err_set(e, QL_ENOMEM, "no memory for a QNAT writer");
	}
	w->n = n;
	w->file.fd = -1;
	for (size_t i = 0; rc == QL_OK && i < n; i++)
		rc = check_spec(&specs[i], &w->slots[i], e);
	if (rc == QL_OK)
		rc = check_unique(specs, n, e);
	if (rc == QL_OK && build_head(&head, w, m, specs, compat) != QL_OK)
		rc = ql_err_set(e, QL_ENOMEM, "no memory for the tensor headers");
	if (rc == QL_OK)
		rc = ql_io_begin(&w->file, dirfd, file, e);
	if (rc == QL_OK) {
		rc = ql_io_write(&w->file, head.data, head.len, e);
		if (rc != QL_OK)
			ql_io_abort(&w->file);
	}
	ql_buf_free(&head);
	if (rc == QL_OK) {
		*out = w;
	} else {
		free(w->slots);
		free(w);
	}
	return rc;
}

static int write_codes(struct ql_qnat_writer *w, const uint8_t *codes, uint64_t bytes, struct ql_err *e)
{
	uint8_t turned[8192];
	int rc = QL_OK;

	for (uint64_t i = 0; rc == QL_OK && i < bytes;) {
		size_t k = bytes - i < sizeof turned ? (size_t)(bytes - i) : sizeof turned;

		for (size_t j = 0; j < k; j++)
			turned[j] = (uint8_t)(codes[i + j] << 4 | codes[i + j] >> 4);
		rc = ql_io_write(&w->file, turned, k, e);
		i += k;
	}
	return rc;
}

static float scale_written(float s) { return s == 0.0f ? 1.0f : s; }

static int write_scales(struct ql_qnat_writer *w, const float *scale, size_t n, struct ql_err *e)
{
	float piece[1024];
	int rc = QL_OK;

	for (size_t i = 0; rc == QL_OK && i < n;) {
		size_t k = n - i < 1024 ? n - i : 1024;

		for (size_t j = 0; j < k; j++)
			piece[j] = scale_written(scale[i + j]);
		rc = ql_io_write(&w->file, piece, k * sizeof *piece, e);
		i += k;
	}
	return rc;
}

int ql_qnat_write_tensor(struct ql_qnat_writer *w, const uint8_t *codes, const float *scale, const float *zero,
			 const uint8_t *nested, float nested_scale, struct ql_err *e)
{
	const struct slot *s = &w->slots[w->at];
	int rc;

	if (w->at == w->n)
		return ql_err_set(e, QL_ESTATE, "all tensors of the QNAT file are written");
	if ((zero != NULL) != s->zero_points || (nested != NULL) != s->nested)
		return ql_err_set(e, QL_EINVAL, "the parts of tensor %zu are not those announced", w->at);
	rc = write_codes(w, codes, s->n / 2, e);
	if (rc == QL_OK)
		rc = write_scales(w, scale, s->num_blocks, e);
	if (rc == QL_OK && zero != NULL)
		rc = ql_io_write(&w->file, zero, 4 * (size_t)s->num_blocks, e);
	if (rc == QL_OK && nested != NULL)
		rc = ql_io_write(&w->file, nested, s->num_blocks, e);
	if (rc == QL_OK && nested != NULL)
		rc = ql_io_write(&w->file, &nested_scale, 4, e);
	if (rc == QL_OK)
		w->at++;
	return rc;
}

int ql_qnat_write_q4(struct ql_qnat_writer *w, const struct ql_q4 *q, struct ql_err *e)
{
	const struct slot *s = &w->slots[w->at];
	float *scale = NULL, most = 0, sf;
	uint8_t *nested = NULL;
	int rc;

	if (w->at == w->n)
		return ql_err_set(e, QL_ESTATE, "all tensors of the QNAT file are written");
	if (q->kind != QL_NF4 || memcmp(q->code, ql_q4_code(QL_NF4), sizeof q->code) != 0)
		return ql_err_set(e, QL_EINVAL, "QNAT holds NF4 tensors with the standard levels only");
	if (q->n != s->n || q->blocksize != s->block_size)
		return ql_err_set(e, QL_ESHAPE, "tensor %zu has another size or block size than announced", w->at);
	if (s->zero_points)
		return ql_err_set(e, QL_EINVAL, "tensor %zu: an absmax tensor has no zero points", w->at);
	scale = malloc((size_t)s->num_blocks * sizeof *scale);
	nested = malloc(s->num_blocks);
	rc = scale == NULL || nested == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for the scales of a tensor")
					     : ql_q4_absmax(q, 0, s->num_blocks, scale);
	for (size_t i = 0; rc == QL_OK && i < s->num_blocks; i++) {
		scale[i] = scale_written(scale[i]);
		most = fabsf(scale[i]) > most ? fabsf(scale[i]) : most;
	}
	sf = most / 127.0f;
	sf = sf > 0.0f ? sf : 1.0f; /* underflow of a tiny scale */
	for (size_t i = 0; rc == QL_OK && i < s->num_blocks; i++)
		nested[i] = (uint8_t)(rintf(fminf(fmaxf(scale[i] / sf, -127.0f), 127.0f)) + 128.0f);
	if (rc == QL_OK)
		rc = ql_qnat_write_tensor(w, q->codes, scale, NULL, s->nested ? nested : NULL, sf, e);
	free(scale);
	free(nested);
	return rc;
}

void ql_qnat_write_abort(struct ql_qnat_writer *w)
{
	if (w == NULL)
		return;
	ql_io_abort(&w->file);
	free(w->slots);
	free(w);
}

int ql_qnat_write_commit(struct ql_qnat_writer *w, struct ql_err *e)
{
	int rc;

	if (w->at < w->n) {
		rc = ql_err_set(e, QL_ESTATE, "%zu tensors of the QNAT file are missing", w->n - w->at);
		ql_qnat_write_abort(w);
		return rc;
	}
	rc = ql_io_commit(&w->file, e);
	free(w->slots);
	free(w);
	return rc;
}
