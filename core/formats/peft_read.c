/* peft_read.c - an untrusted PEFT adapter directory → struct ql_adapter_file; see peft.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/checked.h"
#include "core/base/io.h"
#include "core/base/limits.h"
#include "core/formats/peft_config.h"
#include "core/formats/peft_whole.h"
#include "core/formats/safetensors.h"

int ql_adapter_file_init(struct ql_adapter_file *f, const struct ql_arch *arch, uint32_t rank, double alpha, bool rslora,
			 struct ql_err *e)
{
	*f = (struct ql_adapter_file){0};
	if (rank < 1 || rank > QL_LORA_RANK_MAX)
		return ql_err_param(e, QL_EINVAL, "rank", "adapter rank %u is not between 1 and %d", rank, QL_LORA_RANK_MAX);
	if (!(alpha > 0 && alpha <= 1e6))
		return ql_err_param(e, QL_EINVAL, "alpha", "adapter alpha %g is not between 0 and 1e6", alpha);
	f->pairs = calloc((size_t)arch->num_hidden_layers * QL_MODULES, sizeof *f->pairs);
	if (f->pairs == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for an adapter");
	f->rank = rank;
	f->alpha = alpha;
	f->rslora = rslora;
	f->n_layers = arch->num_hidden_layers;
	return QL_OK;
}

void ql_adapter_file_set(struct ql_adapter_file *f, uint32_t layer, int module, const float *a, const float *b)
{
	f->pairs[(size_t)layer * QL_MODULES + (size_t)module] = (struct ql_adapter_pair){a, b, f->rank, f->alpha};
	f->modules |= 1u << module;
}

void ql_adapter_file_free(struct ql_adapter_file *f)
{
	free(f->pairs);
	free(f->storage);
	*f = (struct ql_adapter_file){0};
}

double ql_adapter_pair_scale(const struct ql_adapter_file *f, const struct ql_adapter_pair *p)
{
	return f->rslora ? p->alpha / sqrt((double)p->rank) : p->alpha / (double)p->rank;
}

/* The tensor of one half; both spellings; NULL if absent. */
static const struct ql_st_tensor *find_half(const struct ql_st *st, const char *module, char half)
{
	char name[QL_PEFT_MODULE_MAX + 64];
	const struct ql_st_tensor *t;

	(void)snprintf(name, sizeof name, "base_model.model.%s.lora_%c.weight", module, half);
	t = ql_st_find(st, name);
	if (t != NULL)
		return t;
	(void)snprintf(name, sizeof name, "base_model.model.%s.lora_%c.default.weight", module, half);
	return ql_st_find(st, name);
}

static int check_half(const struct ql_st_tensor *t, uint64_t rows, uint64_t cols, struct ql_err *e)
{
	if (t->dtype != QL_F32 && t->dtype != QL_F16 && t->dtype != QL_BF16)
		return ql_err_param(e, QL_EUNSUPPORTED, t->name, "tensor %.200s has the type %s", t->name, t->dtype_name);
	if (t->n_dims != 2 || t->shape[0] != rows || t->shape[1] != cols)
		return ql_err_param(e, QL_ESHAPE, t->name, "tensor %.200s is not [%llu, %llu]", t->name,
				    (unsigned long long)rows, (unsigned long long)cols);
	return QL_OK;
}

static int widen(const struct ql_st_tensor *t, float *dst, struct ql_err *e)
{
	const uint8_t *src = t->data;

	for (uint64_t i = 0; i < t->n; i++) {
		uint16_t h;

		if (t->dtype == QL_F32) {
			memcpy(&dst[i], src + 4 * i, 4);
		} else {
			memcpy(&h, src + 2 * i, 2);
			dst[i] = t->dtype == QL_F16 ? ql_f32_of_f16(h) : ql_f32_of_bf16(h);
		}
		if (!isfinite(dst[i]))
			return ql_err_param(e, QL_ENONFINITE, t->name, "tensor %.200s holds NaN or infinity (element %llu)",
					    t->name, (unsigned long long)i);
	}
	return QL_OK;
}

struct found {
	struct ql_arch_tensor tensor; /* of the first part */
	const struct ql_st_tensor *a, *b;
	uint32_t rank;
	double alpha;
};

/* Looks for the pair of one module of files, checks it against config and model, adds its elements to *total. */
static int find_pair(const struct ql_st *st, const struct ql_peft_config *c, const struct ql_arch *arch, struct found *out,
		     size_t *total, struct ql_err *e)
{
	const struct ql_arch_tensor *t = &out->tensor;
	char path[QL_PEFT_MODULE_MAX];
	bool wanted = false;
	int rc;

	ql_adapter_file_path(arch, (uint32_t)t->layer, t->module, path);
	out->a = find_half(st, path, 'A');
	out->b = find_half(st, path, 'B');
	rc = ql_peft_config_targets(c, path, (uint32_t)t->layer, &wanted, e);
	if (rc != QL_OK)
		return rc;
	if (!wanted)
		return out->a == NULL && out->b == NULL
			       ? QL_OK
			       : ql_err_param(e, QL_EMISMATCH, path, "the file holds an adapter for %s, the config does not", path);
	if (out->a == NULL || out->b == NULL)
		return ql_err_param(e, QL_ENOTFOUND, path, "%s of %s is missing", out->a == NULL ? "lora_A" : "lora_B", path);
	rc = ql_peft_config_scale(c, path, &out->rank, &out->alpha, e);
	if (rc == QL_OK && out->rank > t->file_parts * QL_LORA_RANK_MAX)
		rc = ql_err_param(e, QL_ELIMIT, "rank_pattern", "%s: rank %u is above %u", path, out->rank,
				  t->file_parts * QL_LORA_RANK_MAX);
	if (rc == QL_OK)
		rc = check_half(out->a, out->rank, t->cols, e);
	if (rc == QL_OK)
		rc = check_half(out->b, t->file_rows, out->rank, e);
	*total += rc == QL_OK ? (size_t)(out->a->n + out->b->n) : 0; /* ≤ file size / 2 each: cannot overflow */
	return rc;
}

/* Every entry of a target list must name one of the linears ("lm_head" or a misspelling would be lost silently). */
static int check_targets(const struct ql_peft_config *c, const struct ql_arch *arch, struct ql_err *e)
{
	const json_t *item;
	size_t i;

	json_array_foreach(c->targets, i, item) {
		const char *name = json_string_value(item);
		bool used = false;

		for (uint32_t layer = 0; !used && layer < arch->num_hidden_layers; layer++)
			for (int m = 0; !used && m < QL_MODULES; m++) {
				char path[QL_PEFT_MODULE_MAX];
				size_t n = strlen(name), len;

				ql_adapter_file_path(arch, layer, m, path);
				len = strlen(path);
				used = n <= len && strcmp(path + len - n, name) == 0 && (n == len || path[len - n - 1] == '.');
			}
		if (!used)
			return ql_err_param(e, QL_EUNSUPPORTED, "target_modules",
					    "target module '%.80s' is none of the model's linears", name);
	}
	return QL_OK;
}

/* Alpha of a part of rank r that has the whole's scale. */
static double part_alpha(const struct ql_adapter_file *f, const struct found *w, uint32_t r)
{
	double alpha = w->alpha * (f->rslora ? sqrt((double)r / w->rank) : (double)r / w->rank);

	return fabs(alpha - f->alpha) <= 1e-9 * f->alpha ? f->alpha : alpha;
}

/* Points the pairs of the parts at A [rank, cols] and B [file_rows, rank]; where B is made of blocks, moves them together. */
static int split(struct ql_adapter_file *f, const struct ql_st *st, const struct found *w, const struct ql_arch *arch,
		 const float *a, float *b, struct ql_err *e)
{
	const struct ql_arch_tensor *t = &w->tensor;
	uint32_t rows[QL_ADAPTER_PARTS_MAX], ranks[QL_ADAPTER_PARTS_MAX], cols, first = 0;
	bool blocks = t->file_parts > 1 && ql_adapter_ranks_of(ql_st_metadata(st, w->b->name), t->file_parts, w->rank, ranks);
	float *src = b;

	for (uint32_t p = 0; p < t->file_parts; p++)
		ql_arch_module_shape(arch, t->module + (int)p, &rows[p], &cols);
	blocks = blocks && ql_adapter_is_blocks(b, w->rank, t->file_parts, rows, ranks);
	for (uint32_t p = 0; p < t->file_parts; p++) {
		uint32_t r = blocks ? ranks[p] : w->rank;

		for (uint32_t i = 0; blocks && i < rows[p]; i++) /* b never overtakes src */
			memmove(b + (size_t)i * r, src + (size_t)i * w->rank + first, r * sizeof *b);
		if (r > QL_LORA_RANK_MAX)
			return ql_err_param(e, QL_ELIMIT, "rank_pattern", "tensor %.200s: rank %u is above %d", w->a->name, r,
					    QL_LORA_RANK_MAX);
		if (r > 0) {
			ql_adapter_file_set(f, (uint32_t)t->layer, t->module + (int)p, a + (size_t)first * t->cols, b);
			f->pairs[(size_t)t->layer * QL_MODULES + (size_t)t->module + p].rank = r;
			f->pairs[(size_t)t->layer * QL_MODULES + (size_t)t->module + p].alpha =
				blocks ? part_alpha(f, w, r) : w->alpha;
		}
		b += (size_t)rows[p] * r;
		src += (size_t)rows[p] * w->rank;
		first += blocks ? r : 0;
	}
	return QL_OK;
}

static int read_pairs(struct ql_adapter_file *f, const struct ql_st *st, const struct ql_peft_config *c,
		      const struct ql_arch *arch, struct ql_err *e)
{
	size_t n = 0, total = 0, used = 0, bytes;
	struct found *found = calloc((size_t)f->n_layers * QL_MODULES + 1, sizeof *found); /* one is in the making */
	float *at;
	int rc = found == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for an adapter") : QL_OK;

	for (size_t i = 0; rc == QL_OK && i < ql_arch_tensor_count(arch); i++) {
		ql_arch_tensor_at(arch, i, &found[n].tensor);
		if (found[n].tensor.module < 0 || found[n].tensor.n_dims != 2 || found[n].tensor.file_part > 0)
			continue;
		rc = find_pair(st, c, arch, &found[n], &total, e);
		used += found[n].a != NULL ? 2 : 0;
		n += found[n].a != NULL ? 1 : 0;
	}
	if (rc == QL_OK && used != ql_st_count(st))
		rc = ql_err_set(e, QL_EMISMATCH, "%zu tensors belong to no module of the model",
				ql_st_count(st) - (used < ql_st_count(st) ? used : 0));
	if (rc == QL_OK && used == 0)
		rc = ql_err_set(e, QL_EFORMAT, "the adapter has no tensors");
	if (rc == QL_OK && (!ql_mul_size(total, sizeof(float), &bytes) || (f->storage = malloc(bytes)) == NULL))
		rc = ql_err_set(e, QL_ENOMEM, "no memory for an adapter of %zu numbers", total);
	at = f->storage;
	for (size_t i = 0; rc == QL_OK && i < n; i++) {
		float *a = at, *b = a + found[i].a->n;

		at = b + found[i].b->n;
		rc = widen(found[i].a, a, e);
		if (rc == QL_OK)
			rc = widen(found[i].b, b, e);
		if (rc == QL_OK)
			rc = split(f, st, &found[i], arch, a, b, e);
	}
	free(found);
	return rc;
}

int ql_adapter_read(struct ql_adapter_file *f, int dirfd, const struct ql_arch *arch, struct ql_err *e)
{
	struct ql_peft_config c = {0};
	struct ql_buf text = {0};
	struct ql_st *st = NULL;
	int rc = ql_io_read_all(dirfd, "adapter_config.json", QL_CONFIG_JSON_MAX, &text, e);

	*f = (struct ql_adapter_file){0};
	if (rc == QL_OK)
		rc = ql_peft_config_parse(&c, text.data, text.len, e);
	if (rc == QL_OK)
		rc = check_targets(&c, arch, e);
	if (rc == QL_OK)
		rc = ql_st_open_at(&st, dirfd, "adapter_model.safetensors", e);
	if (rc == QL_OK)
		rc = ql_adapter_file_init(f, arch, c.r, c.alpha, c.rslora, e);
	if (rc == QL_OK) {
		f->dropout = c.dropout;
		(void)snprintf(f->base_name, sizeof f->base_name, "%.*s", (int)sizeof f->base_name - 1, c.base_name);
		rc = read_pairs(f, st, &c, arch, e);
	}
	ql_st_close(st);
	ql_peft_config_free(&c);
	ql_buf_free(&text);
	if (rc != QL_OK)
		ql_adapter_file_free(f);
	return rc;
}
