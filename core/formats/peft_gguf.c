/* peft_gguf.c - an untrusted GGUF LoRA (llama.cpp) → struct ql_adapter_file; see peft.h.
 *
 * general.type "adapter", adapter.type "lora", adapter.lora.alpha; tensors <base tensor>.lora_a ne {in, r} and .lora_b ne
 * {r, out}.  The scale of a pair is alpha/r with its own r, or 1 where alpha is 0.  For `llama`, B's rows of q and k are in GGUF order.
 * A pair on a fused tensor is the pair of its A and its rows of B on each part. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/base/limits.h"
#include "core/formats/gguf.h"
#include "core/formats/peft.h"

static int want_word(const struct ql_gguf *g, const char *key, const char *want, struct ql_err *e)
{
	struct ql_gguf_str s = {0};
	int rc = ql_gguf_get_str(g, key, true, &s, e);

	if (rc == QL_OK && (s.len != strlen(want) || memcmp(s.s, want, s.len) != 0))
		rc = ql_err_param(e, QL_EMISMATCH, key, "%s is '%.*s', '%s' is needed", key, s.len > 60 ? 60 : (int)s.len, s.s, want);
	return rc;
}

static float element(const struct ql_gguf_tensor *t, uint64_t i)
{
	const uint8_t *p = t->data;
	uint16_t h;
	float f;

	if (t->dtype == QL_F32) {
		memcpy(&f, p + 4 * i, 4);
		return f;
	}
	memcpy(&h, p + 2 * i, 2);
	return t->dtype == QL_F16 ? ql_f32_of_f16(h) : ql_f32_of_bf16(h);
}

/* Rows [0, rows) into dst, row g of the file at row hf(g) where heads are permuted. */
static int widen(const struct ql_gguf_tensor *t, uint64_t rows, uint64_t cols, uint32_t head_dim, float *dst, struct ql_err *e)
{
	for (uint64_t g = 0; g < rows; g++) {
		float *to = dst + (head_dim > 0 ? ql_arch_hf_row(head_dim, g) : g) * cols;

		for (uint64_t c = 0; c < cols; c++) {
			to[c] = element(t, g * cols + c);
			if (!isfinite(to[c]))
				return ql_err_param(e, QL_ENONFINITE, t->name, "tensor %s holds NaN or infinity (row %llu)", t->name,
						    (unsigned long long)g);
		}
	}
	return QL_OK;
}

static int check_half(const struct ql_gguf_tensor *t, uint64_t rows, uint64_t cols, struct ql_err *e)
{
	if (t->dtype != QL_F32 && t->dtype != QL_F16 && t->dtype != QL_BF16)
		return ql_err_param(e, QL_EUNSUPPORTED, t->name, "tensor %s is stored as %s", t->name,
				    ql_gguf_type_name(t->type_id));
	if (t->n_dims != 2 || t->ne[0] != cols || t->ne[1] != rows)
		return ql_err_param(e, QL_ESHAPE, t->name, "tensor %s is not [%llu, %llu]", t->name, (unsigned long long)rows,
				    (unsigned long long)cols);
	return QL_OK;
}

struct found {
	const struct ql_gguf_tensor *a, *b;
	struct ql_arch_tensor t;
	uint32_t rank;
};

/* The pair of one base tensor; false if the file has none. */
static int find_pair(const struct ql_gguf *g, struct found *f, bool *there, struct ql_err *e)
{
	char name[2][QL_GGUF_TENSOR_NAME_MAX + 16];
	int rc;

	for (int h = 0; h < 2; h++)
		(void)snprintf(name[h], sizeof name[h], "%s.lora_%c", f->t.file_gguf, h == 0 ? 'a' : 'b');
	f->a = ql_gguf_tensor_find(g, name[0]);
	f->b = ql_gguf_tensor_find(g, name[1]);
	*there = f->a != NULL || f->b != NULL;
	if (!*there)
		return QL_OK;
	if (f->a == NULL || f->b == NULL)
		return ql_err_param(e, QL_ENOTFOUND, f->t.file_gguf, "%s is missing", name[f->a == NULL ? 0 : 1]);
	if (f->a->n_dims != 2 || f->a->ne[1] < 1 || f->a->ne[1] > QL_LORA_RANK_MAX)
		return ql_err_param(e, QL_ESHAPE, f->a->name, "tensor %s: its rank is not between 1 and %d", f->a->name, QL_LORA_RANK_MAX);
	f->rank = (uint32_t)f->a->ne[1];
	rc = check_half(f->a, f->rank, f->t.cols, e);
	return rc == QL_OK ? check_half(f->b, f->t.file_rows, f->rank, e) : rc;
}

static int read_pairs(struct ql_adapter_file *f, const struct ql_gguf *g, const struct ql_arch *arch, double alpha,
		      const struct found *found, size_t n, struct ql_err *e)
{
	size_t total = 0, bytes;
	float *at;
	int rc = QL_OK;

	for (size_t i = 0; i < n; i++)
		total += (size_t)(found[i].a->n + found[i].b->n); /* ≤ the file's size */
	if (2 * n != ql_gguf_tensor_count(g))
		return ql_err_set(e, QL_EMISMATCH, "%zu tensors belong to no linear of the model", ql_gguf_tensor_count(g) - 2 * n);
	if (!ql_mul_size(total, sizeof(float), &bytes) || (f->storage = malloc(bytes)) == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for an adapter of %zu numbers", total);
	at = f->storage;
	for (size_t i = 0; rc == QL_OK && i < n; i++) {
		const struct found *q = &found[i];
		bool turned = q->t.permute != QL_PERMUTE_NONE && arch->permuted;
		const float *b = at + q->a->n;

		for (uint32_t part = 0; part < q->t.file_parts; part++) {
			uint32_t rows, cols;
			int module = q->t.module + (int)part;

			ql_arch_module_shape(arch, module, &rows, &cols);
			f->pairs[(size_t)q->t.layer * QL_MODULES + (size_t)module] =
				(struct ql_adapter_pair){at, b, q->rank, alpha > 0 ? alpha : (double)q->rank};
			f->modules |= 1u << module;
			b += (size_t)rows * q->rank;
		}
		rc = widen(q->a, q->rank, q->t.cols, 0, at, e);
		at += q->a->n;
		if (rc == QL_OK)
			rc = widen(q->b, q->t.file_rows, q->rank, turned ? arch->head_dim : 0, at, e);
		at += q->b->n;
	}
	return rc;
}

int ql_adapter_read_gguf(struct ql_adapter_file *f, int dirfd, const char *file, const struct ql_arch *arch, struct ql_err *e)
{
	size_t count = ql_arch_tensor_count(arch), n = 0;
	struct found *found = calloc(count, sizeof *found);
	struct ql_gguf *g = NULL;
	uint32_t rank = 0;
	float alpha = 0;
	int rc = found == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for an adapter") : ql_gguf_open_at(&g, dirfd, file, e);

	*f = (struct ql_adapter_file){0};
	if (rc == QL_OK)
		rc = want_word(g, "general.type", "adapter", e);
	if (rc == QL_OK)
		rc = want_word(g, "adapter.type", "lora", e);
	if (rc == QL_OK)
		rc = want_word(g, "general.architecture", arch->family, e);
	if (rc == QL_OK)
		rc = ql_gguf_get_f32(g, "adapter.lora.alpha", true, &alpha, e);
	if (rc == QL_OK && !(alpha >= 0))
		rc = ql_err_param(e, QL_EFORMAT, "adapter.lora.alpha", "adapter.lora.alpha is negative");
	for (size_t i = 0; rc == QL_OK && i < count; i++) {
		bool there = false;

		ql_arch_tensor_at(arch, i, &found[n].t);
		if (found[n].t.module < 0 || found[n].t.file_part > 0)
			continue;
		rc = find_pair(g, &found[n], &there, e);
		rank = rc == QL_OK && there && found[n].rank > rank ? found[n].rank : rank;
		n += there;
	}
	if (rc == QL_OK && n == 0)
		rc = ql_err_set(e, QL_EFORMAT, "the file holds no adapter for this model");
	if (rc == QL_OK)
		rc = ql_adapter_file_init(f, arch, rank, alpha > 0 ? (double)alpha : (double)rank, false, e);
	if (rc == QL_OK)
		rc = read_pairs(f, g, arch, (double)alpha, found, n, e);
	ql_gguf_close(g);
	free(found);
	if (rc != QL_OK)
		ql_adapter_file_free(f);
	return rc;
}
