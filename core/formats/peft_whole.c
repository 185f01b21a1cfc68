/* peft_whole.c - see peft_whole.h. */
#include "core/formats/peft_whole.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/formats/peft_config.h"

void ql_adapter_file_path(const struct ql_arch *arch, uint32_t layer, int module, char *out)
{
	(void)snprintf(out, QL_PEFT_MODULE_MAX, "model.layers.%u.%s.%s", layer, module <= QL_O_PROJ ? "self_attn" : "mlp",
		       ql_arch_file_module(arch, module));
}

bool ql_adapter_ranks_of(const char *note, uint32_t parts, uint32_t rank, uint32_t out[QL_ADAPTER_PARTS_MAX])
{
	unsigned r[QL_ADAPTER_PARTS_MAX] = {0};
	uint64_t sum = 0;
	int end = 0, n = note == NULL ? 0 : parts == 3 ? sscanf(note, "%4u,%4u,%4u%n", &r[0], &r[1], &r[2], &end)
						       : sscanf(note, "%4u,%4u%n", &r[0], &r[1], &end);

	for (uint32_t p = 0; p < parts; p++) {
		out[p] = r[p];
		sum += r[p];
	}
	return n == (int)parts && note[end] == '\0' && sum == rank;
}

bool ql_adapter_is_blocks(const float *b, uint32_t rank, uint32_t parts, const uint32_t *rows_of, const uint32_t *ranks)
{
	uint32_t first = 0;

	for (uint32_t p = 0; p < parts; first += ranks[p], p++)
		for (uint32_t r = 0; r < rows_of[p]; r++, b += rank)
			for (uint32_t c = 0; c < rank; c++)
				if ((c < first || c >= first + ranks[p]) && (b[c] < 0 || b[c] > 0))
					return false;
	return true;
}

static const struct ql_adapter_pair *pair_of(const struct ql_adapter_file *f, const struct ql_arch_tensor *t, uint32_t part)
{
	return &f->pairs[(size_t)t->layer * QL_MODULES + (size_t)t->module + part];
}

/* Ranks and scale of the whole that begins at tensor t; false if none of its parts has a pair. */
static bool describe(struct ql_adapter_whole *w, const struct ql_adapter_file *f, const struct ql_arch_tensor *t)
{
	double scale = 0;

	*w = (struct ql_adapter_whole){.tensor = *t, .parts = t->file_parts};
	for (uint32_t p = 0; p < t->file_parts; p++) {
		const struct ql_adapter_pair *q = pair_of(f, t, p);

		if (q->a == NULL)
			continue;
		scale = w->rank == 0 ? ql_adapter_pair_scale(f, q) : scale;
		w->ranks[p] = q->rank;
		w->rank += q->rank;
	}
	w->alpha = scale * (f->rslora ? sqrt((double)w->rank) : (double)w->rank);
	if (t->file_parts == 1 && w->rank > 0) {
		w->a = pair_of(f, t, 0)->a;
		w->b = pair_of(f, t, 0)->b;
		w->alpha = pair_of(f, t, 0)->alpha;
	} else if (fabs(w->alpha - round(w->alpha)) < 1e-9 * w->alpha) {
		w->alpha = round(w->alpha); /* 3·alpha, and not a neighbour of it */
	}
	return w->rank > 0;
}

/* Fills A and B of a fused whole. */
static void fill(const struct ql_adapter_whole *w, const struct ql_adapter_file *f, float *a, float *b)
{
	struct ql_adapter_pair whole = {.rank = w->rank, .alpha = w->alpha};
	uint32_t cols = w->tensor.cols, first = 0, done = 0;

	memset(b, 0, (size_t)w->tensor.file_rows * w->rank * sizeof *b);
	for (uint32_t p = 0; p < w->parts; p++) {
		const struct ql_adapter_pair *q = pair_of(f, &w->tensor, p);
		uint32_t rows = p == 0 ? w->tensor.rows : p == 1 && w->parts == 3 ? (w->tensor.file_rows - w->tensor.rows) / 2
										   : w->tensor.file_rows - done;
		double ratio = q->a == NULL ? 1 : ql_adapter_pair_scale(f, q) / ql_adapter_pair_scale(f, &whole);

		for (uint32_t r = 0; q->a != NULL && r < rows; r++)
			for (uint32_t c = 0; c < q->rank; c++) {
				float v = q->b[(size_t)r * q->rank + c];

				b[(size_t)(done + r) * w->rank + first + c] = fabs(ratio - 1) < 1e-12 ? v : (float)((double)v * ratio);
			}
		if (q->a != NULL)
			memcpy(a + (size_t)first * cols, q->a, (size_t)q->rank * cols * sizeof *a);
		first += w->ranks[p];
		done += rows;
	}
}

int ql_adapter_wholes_make(struct ql_adapter_wholes *w, const struct ql_adapter_file *f, const struct ql_arch *arch,
			   struct ql_err *e)
{
	size_t n = ql_arch_tensor_count(arch), floats = 0, bytes;
	struct ql_arch_tensor t;
	float *at;

	*w = (struct ql_adapter_wholes){0};
	w->v = calloc((size_t)f->n_layers * QL_MODULES, sizeof *w->v);
	if (w->v == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for an adapter's tensors");
	for (size_t i = 0; i < n; i++) {
		ql_arch_tensor_at(arch, i, &t);
		if (t.module < 0 || t.n_dims != 2 || t.file_part > 0 || !describe(&w->v[w->n], f, &t))
			continue;
		if (t.file_parts > 1)
			floats += (size_t)w->v[w->n].rank * ((size_t)t.cols + t.file_rows);
		w->n++;
	}
	if (w->n == 0)
		return ql_err_set(e, QL_EINVAL, "the adapter has no tensors");
	if (floats > 0 && (!ql_mul_size(floats, sizeof(float), &bytes) || (w->storage = malloc(bytes)) == NULL))
		return ql_err_set(e, QL_ENOMEM, "no memory for %zu numbers of an adapter", floats);
	at = w->storage;
	for (size_t i = 0; i < w->n; i++) {
		struct ql_adapter_whole *h = &w->v[i];
		float *a = at;

		if (h->parts == 1)
			continue;
		at += (size_t)h->rank * h->tensor.cols;
		fill(h, f, a, at);
		h->a = a;
		h->b = at;
		at += (size_t)h->rank * h->tensor.file_rows;
	}
	return QL_OK;
}

void ql_adapter_wholes_free(struct ql_adapter_wholes *w)
{
	free(w->v);
	free(w->storage);
	*w = (struct ql_adapter_wholes){0};
}
