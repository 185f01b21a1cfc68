/* base_diff.c - merging into the original weights: whether the source still has them, and how far they lie from the 4-bit base
 * the adapter was trained on; see export.h. */
#include <math.h>
#include <stdlib.h>

#include "core/export/export_priv.h"

#define CHUNK_ELEMENTS ((uint64_t)1 << 18)

static bool is_original(enum ql_dtype t) { return t == QL_F32 || t == QL_F16 || t == QL_BF16; }

int ql_export_check_original(const struct ql_source *s, struct ql_err *e)
{
	const struct ql_arch *a = ql_source_arch(s);
	struct ql_source_tensor f;
	struct ql_arch_tensor t;
	int rc = QL_OK;

	for (size_t i = 0; rc == QL_OK && i < ql_arch_tensor_count(a); i++) {
		ql_arch_tensor_at(a, i, &t);
		if (t.module < 0)
			continue;
		rc = ql_source_find(s, t.hf, &f, e);
		if (rc == QL_OK && !is_original(f.dtype))
			rc = ql_err_param(e, QL_EUNSUPPORTED, "merge_base",
					  "the base holds %s as %s, not in 16 or 32 bits: there are no original weights to merge into",
					  t.hf, ql_dtype_name(f.dtype));
	}
	return rc;
}

struct sums {
	double square, diff, max;
	uint64_t done, total; /* elements */
};

static int compare(const struct ql_export *x, const struct ql_arch_tensor *t, float *w, float *q, struct sums *s, struct ql_err *e)
{
	uint64_t step = CHUNK_ELEMENTS / t->cols > 0 ? CHUNK_ELEMENTS / t->cols : 1;
	struct ql_source_tensor f;
	int rc = ql_source_find(x->source, t->hf, &f, e);

	for (uint64_t row = 0; rc == QL_OK && row < t->rows; row += step) {
		uint64_t n = t->rows - row < step ? t->rows - row : step;

		rc = ql_source_read_f32(x->source, &f, row, n, w, e);
		if (rc == QL_OK)
			rc = x->read_f32(x->ctx, t->hf, row, n, q, e);
		for (uint64_t i = 0; rc == QL_OK && i < n * t->cols; i++) {
			double d = (double)w[i] - (double)q[i];

			s->square += (double)w[i] * (double)w[i];
			s->diff += d * d;
			s->max = fabs(d) > s->max ? fabs(d) : s->max;
		}
		s->done += n * t->cols;
		if (rc == QL_OK && x->progress != NULL && x->progress(x->progress_ctx, (double)s->done / (double)s->total) != 0)
			rc = ql_err_set(e, QL_ECANCELLED, "export cancelled");
	}
	return rc;
}

int ql_export_base_diff(const struct ql_export *x, struct ql_export_diff *out, struct ql_err *e)
{
	const struct ql_arch *a = ql_source_arch(x->source);
	struct ql_arch_tensor t;
	struct sums s = {0};
	uint64_t most = CHUNK_ELEMENTS;
	float *w, *q;
	int rc = QL_OK;

	*out = (struct ql_export_diff){0};
	for (size_t i = 0; i < ql_arch_tensor_count(a); i++) {
		ql_arch_tensor_at(a, i, &t);
		most = t.cols > most ? t.cols : most;
		s.total += t.module < 0 ? 0 : (uint64_t)t.rows * t.cols;
	}
	w = malloc(most * sizeof *w);
	q = malloc(most * sizeof *q);
	if (w == NULL || q == NULL)
		rc = ql_err_set(e, QL_ENOMEM, "no memory for the export's buffers");
	for (size_t i = 0; rc == QL_OK && i < ql_arch_tensor_count(a); i++) {
		ql_arch_tensor_at(a, i, &t);
		if (t.module < 0)
			continue;
		rc = compare(x, &t, w, q, &s, e);
		out->tensors++;
	}
	out->relative_rms = s.square > 0 ? sqrt(s.diff / s.square) : 0;
	out->max_abs = s.max;
	free(w);
	free(q);
	return rc;
}
