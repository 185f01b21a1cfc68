/* peft_write.c - struct ql_adapter_file → PEFT adapter directory; see peft.h.
 *
 * adapter_config.json has the classic key set, sorted, indent 2.  Pairs whose rank or alpha differ from the adapter's go
 * into rank_pattern / alpha_pattern under their full module name, or, baked, into B:  the reader's scale is
 * alpha'/r_pair, so B' = B · scale / (alpha'/r_pair).  Tensors are written one by one through a small buffer. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/utf8.h"
#include "core/formats/peft_config.h"
#include "core/formats/peft_whole.h"
#include "core/formats/safetensors.h"

#define CHUNK 4096 /* elements converted at once */

/* alpha as PEFT has it: an integer when integral (vLLM types it int). */
static json_t *number(double v)
{
	return v >= -9e15 && v <= 9e15 && floor(v) >= v ? json_integer((json_int_t)v) : json_real(v);
}

static bool same(double a, double b) { return a >= b && a <= b; }

/* The alpha written as lora_alpha. */
static double config_alpha(const struct ql_adapter_file *f, bool bake)
{
	return bake && f->rslora ? f->alpha * sqrt((double)f->rank) : f->alpha;
}

static int fill_patterns(const struct ql_adapter_file *f, const struct ql_adapter_wholes *w, json_t *ranks, json_t *alphas,
			 const struct ql_arch *arch, bool bake)
{
	int bad = 0;

	for (size_t i = 0; i < w->n; i++) {
		const struct ql_adapter_whole *h = &w->v[i];
		char path[QL_PEFT_MODULE_MAX];

		ql_adapter_file_path(arch, (uint32_t)h->tensor.layer, h->tensor.module, path);
		if (h->rank != f->rank)
			bad |= json_object_set_new(ranks, path, json_integer(h->rank));
		if (!bake && !same(h->alpha, f->alpha))
			bad |= json_object_set_new(alphas, path, number(h->alpha));
	}
	return bad;
}

/* target_modules: plain suffixes when a module is on all layers or none; else full names of what there is. */
static json_t *target_list(const struct ql_adapter_file *f, const struct ql_adapter_wholes *w, const struct ql_arch *arch)
{
	json_t *list = json_array();

	for (int m = 0; list != NULL && m < QL_MODULES; m++) {
		uint32_t n = 0;

		for (size_t i = 0; i < w->n; i++)
			n += w->v[i].tensor.module == m;
		if (n == f->n_layers && json_array_append_new(list, json_string(ql_arch_file_module(arch, m))) != 0)
			goto fail;
		for (size_t i = 0; n != f->n_layers && i < w->n; i++) {
			char path[QL_PEFT_MODULE_MAX];

			if (w->v[i].tensor.module != m)
				continue;
			ql_adapter_file_path(arch, (uint32_t)w->v[i].tensor.layer, m, path);
			if (json_array_append_new(list, json_string(path)) != 0)
				goto fail;
		}
	}
	return list;
fail:
	json_decref(list);
	return NULL;
}

static json_t *make_config(const struct ql_adapter_file *f, const struct ql_adapter_wholes *w, const struct ql_arch *arch,
			   const struct ql_adapter_write_opts *o)
{
	json_t *ranks = json_object(), *alphas = json_object(), *targets = target_list(f, w, arch), *cfg = NULL;
	double alpha = config_alpha(f, o->bake);

	if (ranks == NULL || alphas == NULL || targets == NULL || fill_patterns(f, w, ranks, alphas, arch, o->bake) != 0) {
		json_decref(ranks);
		json_decref(alphas);
		json_decref(targets);
		return NULL;
	}
	cfg = json_pack("{s:o, s:n, s:s, s:s, s:b, s:b, s:b, s:n, s:n, s:o, s:f, s:n, s:s, s:i, s:o, s:n, s:o, s:s, s:b, s:b}",
			"alpha_pattern", alphas, "auto_mapping", "base_model_name_or_path", o->base_name, "bias", "none",
			"fan_in_fan_out", 0, "inference_mode", 1, "init_lora_weights", 1, "layers_pattern",
			"layers_to_transform", "lora_alpha", number(alpha), "lora_dropout", f->dropout, "modules_to_save",
			"peft_type", "LORA", "r", (int)f->rank, "rank_pattern", ranks, "revision", "target_modules", targets,
			"task_type", "CAUSAL_LM", "use_dora", 0, "use_rslora", f->rslora && !o->bake);
	return cfg;
}

static int write_config(const struct ql_adapter_file *f, const struct ql_adapter_wholes *w, const struct ql_arch *arch, int dirfd,
			const struct ql_adapter_write_opts *o, struct ql_err *e)
{
	json_t *cfg = make_config(f, w, arch, o);
	char *text = cfg == NULL ? NULL : json_dumps(cfg, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(15));
	int rc;

	json_decref(cfg);
	if (text == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for adapter_config.json");
	rc = ql_io_replace(dirfd, "adapter_config.json", text, strlen(text), e);
	free(text);
	return rc;
}

/* n numbers times `factor`, narrowed to dtype, to the writer. */
static int write_values(struct ql_st_writer *w, const float *v, uint64_t n, double factor, enum ql_dtype dtype,
			const char *name, struct ql_err *e)
{
	uint8_t out[CHUNK * 4];
	size_t item = ql_dtypes[dtype].bytes;

	for (uint64_t done = 0; done < n;) {
		size_t m = n - done < CHUNK ? (size_t)(n - done) : CHUNK;
		int rc;

		for (size_t i = 0; i < m; i++) {
			float x = same(factor, 1) ? v[done + i] : (float)((double)v[done + i] * factor), back = x;
			uint16_t h;

			if (dtype == QL_F32) {
				memcpy(out + 4 * i, &x, 4);
			} else {
				h = dtype == QL_F16 ? ql_f16_of_f32(x) : ql_bf16_of_f32(x);
				back = dtype == QL_F16 ? ql_f32_of_f16(h) : ql_f32_of_bf16(h);
				memcpy(out + 2 * i, &h, 2);
			}
			if (!isfinite(back))
				return ql_err_param(e, QL_ENONFINITE, name, "tensor %.200s is not finite in %s", name,
						    ql_dtype_name(dtype));
		}
		rc = ql_st_write_data(w, out, m * item, e);
		if (rc != QL_OK)
			return rc;
		done += m;
	}
	return QL_OK;
}

struct plan {
	struct ql_st_spec *specs; /* A and B of each whole, in turn */
	char (*names)[QL_PEFT_MODULE_MAX + 40];
	char (*ranks)[16];  /* of the parts of fused ones, noted with B, so that reading restores them */
	const char **notes; /* [2n] */
};

static void free_plan(struct plan *p)
{
	free(p->specs);
	free(p->names);
	free(p->ranks);
	free(p->notes);
}

static int make_plan(struct plan *p, const struct ql_adapter_wholes *w, const struct ql_arch *arch, enum ql_dtype dtype,
		     struct ql_err *e)
{
	p->specs = calloc(2 * w->n, sizeof *p->specs);
	p->names = calloc(2 * w->n, sizeof *p->names);
	p->ranks = calloc(w->n, sizeof *p->ranks);
	p->notes = calloc(2 * w->n, sizeof *p->notes);
	if (p->specs == NULL || p->names == NULL || p->ranks == NULL || p->notes == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory to write an adapter");
	for (size_t i = 0; i < w->n; i++) {
		const struct ql_adapter_whole *h = &w->v[i];
		char path[QL_PEFT_MODULE_MAX];

		ql_adapter_file_path(arch, (uint32_t)h->tensor.layer, h->tensor.module, path);
		for (int half = 0; half < 2; half++) {
			char *name = p->names[2 * i + (size_t)half];

			(void)snprintf(name, sizeof *p->names, "base_model.model.%s.lora_%c.weight", path, half == 0 ? 'A' : 'B');
			p->specs[2 * i + (size_t)half] = (struct ql_st_spec){
				name, dtype, 2, {half == 0 ? h->rank : h->tensor.file_rows, half == 0 ? h->tensor.cols : h->rank}};
		}
		if (h->parts == 1)
			continue;
		(void)snprintf(p->ranks[i], sizeof *p->ranks, h->parts == 2 ? "%u,%u" : "%u,%u,%u", h->ranks[0], h->ranks[1],
			       h->ranks[2]);
		p->notes[2 * i + 1] = p->ranks[i];
	}
	return QL_OK;
}

/* What B is multiplied with so that alpha'/r_whole is the right scale. */
static double bake_factor(const struct ql_adapter_file *f, const struct ql_adapter_whole *h, bool bake)
{
	struct ql_adapter_pair p = {.rank = h->rank, .alpha = h->alpha};

	return bake ? ql_adapter_pair_scale(f, &p) / (config_alpha(f, true) / (double)h->rank) : 1;
}

static int write_tensors(const struct ql_adapter_file *f, const struct ql_adapter_wholes *wholes, const struct ql_arch *arch,
			 int dirfd, const struct ql_adapter_write_opts *o, struct ql_err *e)
{
	struct ql_st_writer *w = NULL;
	struct plan p = {0};
	size_t i, n = 2 * wholes->n;
	int rc = make_plan(&p, wholes, arch, o->dtype, e);

	if (rc == QL_OK)
		rc = ql_st_write_begin_notes(&w, dirfd, "adapter_model.safetensors", p.specs, p.notes, n, e);
	while (rc == QL_OK && (i = ql_st_write_next(w)) < n) {
		const struct ql_adapter_whole *h = &wholes->v[i / 2];
		double factor = i % 2 == 0 ? 1 : bake_factor(f, h, o->bake);

		rc = write_values(w, i % 2 == 0 ? h->a : h->b, p.specs[i].shape[0] * p.specs[i].shape[1],
				  fabs(factor - 1) < 1e-12 ? 1 : factor, o->dtype, p.specs[i].name, e);
	}
	if (rc == QL_OK)
		rc = ql_st_write_commit(w, e);
	else
		ql_st_write_abort(w);
	free_plan(&p);
	return rc;
}

int ql_adapter_write(const struct ql_adapter_file *f, const struct ql_arch *arch, int dirfd,
		     const struct ql_adapter_write_opts *o, struct ql_err *e)
{
	struct ql_adapter_wholes w;
	int rc;

	if (o->dtype != QL_F32 && o->dtype != QL_F16 && o->dtype != QL_BF16)
		return ql_err_set(e, QL_EINVAL, "adapters are written as f32, f16 or bf16");
	if (o->base_name == NULL || o->base_name[0] == '\0' || !ql_utf8_valid(o->base_name, strlen(o->base_name), NULL))
		return ql_err_param(e, QL_EINVAL, "base_model_name_or_path", "an adapter needs the name of its base model");
	if (f->n_layers != arch->num_hidden_layers)
		return ql_err_set(e, QL_EMISMATCH, "the adapter has %u layers, the model %u", f->n_layers, arch->num_hidden_layers);
	rc = ql_adapter_wholes_make(&w, f, arch, e);
	if (rc == QL_OK)
		rc = write_tensors(f, &w, arch, dirfd, o, e);
	if (rc == QL_OK)
		rc = write_config(f, &w, arch, dirfd, o, e);
	ql_adapter_wholes_free(&w);
	return rc;
}
