/* test_peft.c - PEFT adapter directories: round trips, patterns, baking, selection rules, refused keys and files. */
#include <math.h>

#include "core/formats/peft.h"
#include "core/formats/peft_config.h"
#include "core/formats/safetensors.h"
#include "tests/unit/formats/tiny.h"

#define RANK 4

/* A tiny adapter on the modules of `mask`, values known, owned by `mem`. */
static void make_adapter(struct ql_adapter_file *f, const struct ql_arch *a, uint32_t mask, bool rslora, float **mem)
{
	size_t at = 0;

	assert_int_equal(ql_adapter_file_init(f, a, RANK, 8, rslora, NULL), QL_OK);
	*mem = malloc(sizeof(float) * 2 * QL_MODULES * RANK * 400);
	assert_non_null(*mem);
	for (uint32_t l = 0; l < a->num_hidden_layers; l++)
		for (int m = 0; m < QL_MODULES; m++) {
			uint32_t rows, cols;
			float *pa, *pb;

			if (!(mask >> m & 1))
				continue;
			ql_arch_module_shape(a, m, &rows, &cols);
			pa = *mem + at;
			pb = pa + RANK * cols;
			at += RANK * (size_t)(rows + cols);
			for (uint32_t i = 0; i < RANK * cols; i++)
				pa[i] = (float)((int)(i % 31) - 15) / 32.0f;
			for (uint32_t i = 0; i < RANK * rows; i++)
				pb[i] = (float)((int)(i % 17) - 8 + m) / 16.0f;
			ql_adapter_file_set(f, l, m, pa, pb);
		}
}

/* scale·B·A at one place. */
static double delta(const struct ql_adapter_file *f, uint32_t layer, int m, uint32_t cols, uint32_t r, uint32_t c)
{
	const struct ql_adapter_pair *p = &f->pairs[layer * QL_MODULES + (uint32_t)m];
	double sum = 0;

	for (uint32_t k = 0; k < p->rank; k++)
		sum += (double)p->b[r * p->rank + k] * (double)p->a[k * cols + c];
	return sum * ql_adapter_pair_scale(f, p);
}

static void same_effect(const struct ql_adapter_file *x, const struct ql_adapter_file *y, const struct ql_arch *a, double tol)
{
	for (uint32_t l = 0; l < a->num_hidden_layers; l++)
		for (int m = 0; m < QL_MODULES; m++) {
			uint32_t rows, cols;

			ql_arch_module_shape(a, m, &rows, &cols);
			assert_true((x->pairs[l * QL_MODULES + (uint32_t)m].a == NULL) ==
				    (y->pairs[l * QL_MODULES + (uint32_t)m].a == NULL));
			if (x->pairs[l * QL_MODULES + (uint32_t)m].a == NULL)
				continue;
			for (uint32_t i = 0; i < 50; i++) {
				double u = delta(x, l, m, cols, i % rows, i * 7 % cols), v = delta(y, l, m, cols, i % rows, i * 7 % cols);

				if (fabs(u - v) > tol * (1 + fabs(u)))
					fail_msg("layer %u %s: %g and %g", l, ql_module_name(m), u, v);
			}
		}
}

static void write_read(const struct ql_adapter_file *f, const struct ql_arch *a, struct ql_adapter_write_opts o,
		       const struct scratch *s, struct ql_adapter_file *back)
{
	struct ql_err e = {0};

	if (ql_adapter_write(f, a, s->fd, &o, &e) != QL_OK || ql_adapter_read(back, s->fd, a, &e) != QL_OK)
		fail_msg("%s", e.message);
}

static void round_trips(void **state)
{
	static const uint32_t masks[] = {QL_MODULES_ALL, 1u << QL_Q_PROJ | 1u << QL_V_PROJ, 1u << QL_DOWN_PROJ};
	struct ql_arch a = tiny_arch();

	(void)state;
	for (int k = 0; k < 3; k++)
		for (int rs = 0; rs < 2; rs++)
			for (int bake = 0; bake < 2; bake++) {
				static const enum ql_dtype types[] = {QL_F32, QL_BF16, QL_F16};
				struct ql_adapter_file f, back;
				struct scratch s;
				float *mem;

				scratch_open(&s);
				make_adapter(&f, &a, masks[k], rs != 0, &mem);
				f.dropout = 0.05;
				write_read(&f, &a, (struct ql_adapter_write_opts){types[k], "org/base", bake != 0}, &s, &back);
				assert_int_equal(back.modules, masks[k]);
				assert_int_equal(back.rank, RANK);
				assert_int_equal(back.rslora, rs && !bake);
				assert_string_equal(back.base_name, "org/base");
				assert_true(fabs(back.dropout - 0.05) < 1e-9);
				same_effect(&f, &back, &a, 1e-6);
				ql_adapter_file_free(&back);
				ql_adapter_file_free(&f);
				free(mem);
				scratch_close(&s);
			}
}

/* Pairs with their own rank and alpha: by patterns, and baked. */
static void patterns(void **state)
{
	struct ql_arch a = tiny_arch();
	struct ql_adapter_file f, back;
	float *mem;

	(void)state;
	for (int rs = 0; rs < 2; rs++)
		for (int bake = 0; bake < 2; bake++) {
			struct scratch s;

			scratch_open(&s);
			make_adapter(&f, &a, QL_MODULES_ALL, rs != 0, &mem);
			f.pairs[QL_K_PROJ].rank = 2; /* the first rows of A, the first columns of B as they lie */
			f.pairs[QL_MODULES + QL_UP_PROJ].alpha = 3.5;
			f.pairs[QL_MODULES + QL_O_PROJ].a = f.pairs[QL_MODULES + QL_O_PROJ].b = NULL;
			write_read(&f, &a, (struct ql_adapter_write_opts){QL_F32, "b", bake != 0}, &s, &back);
			assert_int_equal(back.pairs[QL_K_PROJ].rank, 2);
			same_effect(&f, &back, &a, 1e-6);
			ql_adapter_file_free(&back);
			ql_adapter_file_free(&f);
			free(mem);
			scratch_close(&s);
		}
}

static struct ql_arch fused_arch(void)
{
	static const char text[] = "{\"architectures\":[\"Phi3ForCausalLM\"],\"model_type\":\"phi3\",\"hidden_size\":64,"
				   "\"intermediate_size\":96,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
				   "\"num_key_value_heads\":2,\"vocab_size\":32}";
	struct ql_arch a;

	assert_int_equal(ql_arch_from_config_json(&a, text, strlen(text), NULL), QL_OK);
	return a;
}

/* Where files fuse modules, pairs of parts become one of blocks and come back as they were, even when B is zero. */
static void fused_modules(void **state)
{
	static const uint32_t masks[] = {QL_MODULES_ALL, 1u << QL_Q_PROJ | 1u << QL_V_PROJ | 1u << QL_UP_PROJ, 1u << QL_K_PROJ};
	struct ql_arch a = fused_arch();

	(void)state;
	for (int k = 0; k < 3; k++)
		for (int mode = 0; mode < 8; mode++) { /* rslora, own ranks, B zero */
			struct ql_adapter_file f, back;
			struct ql_st *st;
			struct scratch s;
			float *mem;

			scratch_open(&s);
			make_adapter(&f, &a, masks[k], (mode & 1) != 0, &mem);
			for (uint32_t i = 0; i < 2 * QL_MODULES; i++) {
				struct ql_adapter_pair *p = &f.pairs[i];
				uint32_t rows, cols;

				ql_arch_module_shape(&a, (int)(i % QL_MODULES), &rows, &cols);
				if (p->a != NULL && (mode & 2) != 0 && i % 3 == 1) { /* of the same scale */
					p->rank = 1;
					p->alpha = (mode & 1) != 0 ? 4 : 2;
				}
				if (p->a != NULL && (mode & 4) != 0)
					memset((float *)(uintptr_t)p->b, 0, (size_t)rows * p->rank * sizeof(float));
			}
			write_read(&f, &a, (struct ql_adapter_write_opts){QL_F32, "b", false}, &s, &back);
			assert_int_equal(back.modules, masks[k]);
			for (uint32_t i = 0; i < 2 * QL_MODULES; i++) {
				struct ql_adapter_pair *p = &f.pairs[i], *q = &back.pairs[i];
				uint32_t rows, cols;

				ql_arch_module_shape(&a, (int)(i % QL_MODULES), &rows, &cols);
				assert_true((p->a == NULL) == (q->a == NULL));
				if (p->a == NULL)
					continue;
				assert_int_equal(p->rank, q->rank);
				assert_true(fabs(p->alpha - q->alpha) < 1e-12);
				assert_memory_equal(p->a, q->a, (size_t)p->rank * cols * sizeof(float));
				assert_memory_equal(p->b, q->b, (size_t)p->rank * rows * sizeof(float));
			}
			ql_adapter_file_free(&back);
			write_read(&f, &a, (struct ql_adapter_write_opts){QL_F32, "b", true}, &s, &back);
			same_effect(&f, &back, &a, 1e-6);
			assert_int_equal(ql_st_open_at(&st, s.fd, "adapter_model.safetensors", NULL), QL_OK);
			assert_true(ql_st_find(st, "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight") == NULL);
			assert_non_null(ql_st_find(st, "base_model.model.model.layers.1.self_attn.qkv_proj.lora_B.weight"));
			ql_st_close(st);
			ql_adapter_file_free(&back);
			ql_adapter_file_free(&f);
			free(mem);
			scratch_close(&s);
		}
}

/* A pair that another program made on the fused weight: the same A for each part, its rows of B. */
static void fused_foreign(void **state)
{
	static const struct ql_st_spec specs[] = {
		{"base_model.model.model.layers.0.self_attn.qkv_proj.lora_A.weight", QL_F32, 2, {4, 64}},
		{"base_model.model.model.layers.0.self_attn.qkv_proj.lora_B.weight", QL_F32, 2, {128, 4}},
	};
	static const char config[] = "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":8,\"target_modules\":[\"qkv_proj\"],"
				     "\"layers_to_transform\":[0]}";
	struct ql_arch a = fused_arch();
	struct ql_adapter_file f;
	struct ql_st_writer *w;
	struct ql_err e = {0};
	struct scratch s;
	float values[512];
	size_t k;

	(void)state;
	scratch_open(&s);
	for (int i = 0; i < 512; i++)
		values[i] = (float)i;
	scratch_write(&s, "adapter_config.json", config, strlen(config));
	assert_int_equal(ql_st_write_begin(&w, s.fd, "adapter_model.safetensors", specs, 2, NULL), QL_OK);
	while ((k = ql_st_write_next(w)) < 2)
		assert_int_equal(ql_st_write_data(w, values, k == 0 ? 4 * 64 * 4 : 128 * 4 * 4, NULL), QL_OK);
	assert_int_equal(ql_st_write_commit(w, NULL), QL_OK);
	if (ql_adapter_read(&f, s.fd, &a, &e) != QL_OK)
		fail_msg("%s", e.message);
	for (int m = QL_Q_PROJ; m <= QL_V_PROJ; m++) {
		const struct ql_adapter_pair *p = &f.pairs[m];

		assert_int_equal(p->rank, 4);
		assert_memory_equal(p->a, values, 4 * 64 * sizeof(float));
		assert_memory_equal(p->b, values + (m == QL_Q_PROJ ? 0 : m == QL_K_PROJ ? 64 * 4 : 96 * 4), 32 * 4 * sizeof(float));
	}
	assert_true(f.pairs[QL_O_PROJ].a == NULL && f.pairs[QL_MODULES].a == NULL);
	ql_adapter_file_free(&f);
	scratch_close(&s);
}

/* The text of the config, exactly. */
static void golden_config(void **state)
{
	static const char want[] =
		"{\n  \"alpha_pattern\": {},\n  \"auto_mapping\": null,\n  \"base_model_name_or_path\": \"org/base\",\n"
		"  \"bias\": \"none\",\n  \"fan_in_fan_out\": false,\n  \"inference_mode\": true,\n  \"init_lora_weights\": true,\n"
		"  \"layers_pattern\": null,\n  \"layers_to_transform\": null,\n  \"lora_alpha\": 8,\n  \"lora_dropout\": 0.0,\n"
		"  \"modules_to_save\": null,\n  \"peft_type\": \"LORA\",\n  \"r\": 4,\n  \"rank_pattern\": {},\n  \"revision\": null,\n"
		"  \"target_modules\": [\n    \"q_proj\",\n    \"v_proj\"\n  ],\n  \"task_type\": \"CAUSAL_LM\",\n  \"use_dora\": false,\n"
		"  \"use_rslora\": false\n}";
	struct ql_arch a = tiny_arch();
	struct ql_adapter_file f, back;
	struct scratch s;
	uint8_t *text;
	size_t len;
	float *mem;

	(void)state;
	scratch_open(&s);
	make_adapter(&f, &a, 1u << QL_Q_PROJ | 1u << QL_V_PROJ, false, &mem);
	write_read(&f, &a, (struct ql_adapter_write_opts){QL_F32, "org/base", false}, &s, &back);
	text = scratch_read(&s, "adapter_config.json", &len);
	assert_string_equal((const char *)text, want);
	free(text);
	ql_adapter_file_free(&back);
	ql_adapter_file_free(&f);
	free(mem);
	scratch_close(&s);
}

/* Reads the q+v adapter of all layers under another config. */
static int read_with(const struct scratch *s, const char *config, struct ql_err *e)
{
	struct ql_arch a = tiny_arch();
	struct ql_adapter_file f;
	int rc;

	scratch_write(s, "adapter_config.json", config, strlen(config));
	*e = (struct ql_err){0};
	rc = ql_adapter_read(&f, s->fd, &a, e);
	assert_int_equal(rc, e->code);
	assert_true(rc == QL_OK || f.pairs == NULL);
	ql_adapter_file_free(&f);
	return rc;
}

#define HEAD "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":8,\"target_modules\":"
/* Keys compiled once: the first that matches decides, a bad one is refused by name, large ones have a limit together. */
static void pattern_keys(void **state)
{
	json_t *o = json_pack("{s:i,s:i,s:i}", "layers\\.1\\..*", 1, "q_proj", 2, "self_attn\\.q_proj", 3);
	struct ql_peft_patterns *p = NULL;
	struct ql_err e = {0};
	const char *key;
	char name[64];

	(void)state;
	assert_int_equal(ql_peft_patterns_new(&p, "rank_pattern", o, &e), QL_OK);
	assert_int_equal(ql_peft_patterns_find(p, "model.layers.1.self_attn.q_proj", &key, &e), QL_OK);
	assert_string_equal(key, "layers\\.1\\..*");
	assert_int_equal(ql_peft_patterns_find(p, "model.layers.2.self_attn.q_proj", &key, &e), QL_OK);
	assert_string_equal(key, "q_proj");
	assert_int_equal(ql_peft_patterns_find(p, "model.layers.2.self_attn.xq_proj", &key, &e), QL_OK);
	assert_null(key);
	ql_peft_patterns_free(p);
	(void)json_object_set_new(o, "(((", json_integer(1));
	assert_int_equal(ql_peft_patterns_new(&p, "rank_pattern", o, &e), QL_EFORMAT);
	assert_null(p);
	assert_string_equal(e.param, "rank_pattern");
	json_object_clear(o);
	for (int i = 0; i < 1000; i++) {
		(void)snprintf(name, sizeof name, "(?:abcdefgh){2000}%d", i);
		(void)json_object_set_new(o, name, json_integer(1));
	}
	assert_int_equal(ql_peft_patterns_new(&p, "alpha_pattern", o, &e), QL_ELIMIT);
	assert_null(p);
	json_decref(o);
	assert_int_equal(ql_peft_patterns_new(&p, "alpha_pattern", NULL, &e), QL_OK);
	assert_int_equal(ql_peft_patterns_find(p, "q_proj", &key, &e), QL_OK);
	assert_null(key);
	ql_peft_patterns_free(p);
}

#define QV HEAD "[\"q_proj\",\"v_proj\"]"

static void configs(void **state)
{
	static const struct { const char *text; int code; const char *param; } cases[] = {
		{QV "}", QL_OK, ""},
		{HEAD "[\"self_attn.q_proj\",\"v_proj\"]}", QL_OK, ""},
		{HEAD "\".*\\\\.(q|v)_proj\"}", QL_OK, ""},
		{HEAD "\"model\\\\.layers\\\\.[01]\\\\.self_attn\\\\.[qv]_proj\"}", QL_OK, ""},
		{HEAD "\"all-linear\",\"exclude_modules\":[\"k_proj\",\"o_proj\",\"gate_proj\",\"up_proj\",\"down_proj\"]}", QL_OK, ""},
		{HEAD "\"all-linear\",\"exclude_modules\":\".*(k_proj|o_proj|mlp.*)\"}", QL_OK, ""},
		{QV ",\"layers_to_transform\":[0,1],\"layers_pattern\":\"layers\"}", QL_OK, ""},
		{QV ",\"rank_pattern\":{\"k_proj\":16},\"alpha_pattern\":{\"q_proj\":2}}", QL_OK, ""},
		{QV ",\"use_dora\":false,\"modules_to_save\":null,\"bias\":\"none\",\"lora_bias\":false,\"new_key\":1}", QL_OK, ""},
		{QV ",\"rank_pattern\":{\"q_proj\":2}}", QL_ESHAPE, NULL},
		{QV ",\"layers_to_transform\":[0]}", QL_EMISMATCH, NULL},
		{QV ",\"layers_pattern\":\"blocks\"}", QL_EUNSUPPORTED, "layers_pattern"},
		{HEAD "[\"q_proj\"]}", QL_EMISMATCH, NULL},
		{HEAD "[\"q_proj\",\"v_proj\",\"k_proj\"]}", QL_ENOTFOUND, NULL},
		{HEAD "[\"q_proj\",\"v_proj\",\"lm_head\"]}", QL_EUNSUPPORTED, "target_modules"},
		{HEAD "[\"q_proj\",\"v_proj\",\"proj\"]}", QL_EUNSUPPORTED, "target_modules"},
		{HEAD "\"(((\"}", QL_EFORMAT, "target_modules"},
		{HEAD "\"((((((a|.)*)*)*)*)*)*[XY]\"}", QL_ELIMIT, "target_modules"},
		{HEAD "null}", QL_EFORMAT, "target_modules"},
		{HEAD "[]}", QL_EFORMAT, "target_modules"},
		{HEAD "[1]}", QL_EFORMAT, "target_modules"},
		{QV ",\"use_dora\":true}", QL_EUNSUPPORTED, "use_dora"},
		{QV ",\"bias\":\"all\"}", QL_EUNSUPPORTED, "bias"},
		{QV ",\"lora_bias\":true}", QL_EUNSUPPORTED, "lora_bias"},
		{QV ",\"modules_to_save\":[\"lm_head\"]}", QL_EUNSUPPORTED, "modules_to_save"},
		{QV ",\"fan_in_fan_out\":true}", QL_EUNSUPPORTED, "fan_in_fan_out"},
		{QV ",\"layer_replication\":[[0,1]]}", QL_EUNSUPPORTED, "layer_replication"},
		{QV ",\"target_parameters\":[\"x\"]}", QL_EUNSUPPORTED, "target_parameters"},
		{QV ",\"trainable_token_indices\":[1]}", QL_EUNSUPPORTED, "trainable_token_indices"},
		{QV ",\"init_lora_weights\":\"pissa_niter_4\"}", QL_EUNSUPPORTED, "init_lora_weights"},
		{QV ",\"init_lora_weights\":\"gaussian\"}", QL_OK, ""},
		{QV ",\"rank_pattern\":{\"q_proj\":0}}", QL_EINVAL, "rank_pattern"},
		{QV ",\"alpha_pattern\":{\"q_proj\":-1}}", QL_EINVAL, "alpha_pattern"},
		{"{\"peft_type\":\"LOHA\",\"target_modules\":[\"q_proj\"]}", QL_EUNSUPPORTED, "peft_type"},
		{"{\"peft_type\":\"LORA\",\"r\":257,\"target_modules\":[\"q_proj\"]}", QL_EINVAL, "r"},
		{"{\"peft_type\":\"LORA\",\"r\":0,\"target_modules\":[\"q_proj\"]}", QL_EINVAL, "r"},
		{"{\"peft_type\":\"LORA\",\"lora_alpha\":0,\"target_modules\":[\"q_proj\"]}", QL_EINVAL, "lora_alpha"},
		{"[]", QL_EFORMAT, ""},
		{"{", QL_EFORMAT, ""},
	};
	struct ql_arch a = tiny_arch();
	struct ql_adapter_file f, back;
	struct scratch s;
	struct ql_err e;
	float *mem;

	(void)state;
	scratch_open(&s);
	make_adapter(&f, &a, 1u << QL_Q_PROJ | 1u << QL_V_PROJ, false, &mem);
	write_read(&f, &a, (struct ql_adapter_write_opts){QL_F32, "b", false}, &s, &back);
	ql_adapter_file_free(&back);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		int rc = read_with(&s, cases[i].text, &e);

		if (rc != cases[i].code || (cases[i].param != NULL && strcmp(e.param, cases[i].param) != 0))
			fail_msg("case %zu %s: code %d, param '%s': %s", i, cases[i].text, rc, e.param, e.message);
	}
	ql_adapter_file_free(&f);
	free(mem);
	scratch_close(&s);
}

/* One-layer-deep tensor files with a fault each. */
static void bad_tensors(void **state)
{
#define P "base_model.model.model.layers."
	static const struct { struct ql_st_spec specs[5]; size_t n; uint32_t fill; int code; } cases[] = {
		{{{P "0.self_attn.q_proj.lora_A.weight", QL_F32, 2, {4, 64}}, {P "0.self_attn.q_proj.lora_B.weight", QL_F32, 2, {64, 4}},
		  {P "1.self_attn.q_proj.lora_A.default.weight", QL_F32, 2, {4, 64}},
		  {P "1.self_attn.q_proj.lora_B.default.weight", QL_F32, 2, {64, 4}}}, 4, 0, QL_OK},
		{{{P "0.self_attn.q_proj.lora_A.weight", QL_F32, 2, {4, 64}}, {P "0.self_attn.q_proj.lora_B.weight", QL_F32, 2, {64, 4}},
		  {P "1.self_attn.q_proj.lora_A.weight", QL_F32, 2, {4, 64}},
		  {P "1.self_attn.q_proj.lora_B.weight", QL_F32, 2, {64, 4}}}, 4, 0x7f800000, QL_ENONFINITE},
		{{{P "0.self_attn.q_proj.lora_A.weight", QL_F32, 2, {4, 64}}, {P "0.self_attn.q_proj.lora_B.weight", QL_F32, 2, {64, 4}},
		  {P "1.self_attn.q_proj.lora_A.weight", QL_F32, 2, {4, 64}}}, 3, 0, QL_ENOTFOUND},
		{{{P "0.self_attn.q_proj.lora_A.weight", QL_F32, 2, {4, 64}}, {P "0.self_attn.q_proj.lora_B.weight", QL_F32, 2, {64, 4}},
		  {P "1.self_attn.q_proj.lora_A.weight", QL_F32, 2, {4, 64}}, {P "1.self_attn.q_proj.lora_B.weight", QL_F32, 2, {64, 4}},
		  {P "0.self_attn.q_proj.lora_magnitude_vector", QL_F32, 1, {64}}}, 5, 0, QL_EMISMATCH},
		{{{P "0.self_attn.q_proj.lora_A.weight", QL_F32, 2, {4, 63}}, {P "0.self_attn.q_proj.lora_B.weight", QL_F32, 2, {64, 4}}},
		 2, 0, QL_ESHAPE},
		{{{P "0.self_attn.q_proj.lora_A.weight", QL_F32, 2, {4, 64}}, {P "0.self_attn.q_proj.lora_B.weight", QL_F32, 2, {64, 5}}},
		 2, 0, QL_ESHAPE},
		{{{P "0.self_attn.q_proj.lora_A.weight", QL_U8, 2, {4, 64}}, {P "0.self_attn.q_proj.lora_B.weight", QL_F32, 2, {64, 4}}},
		 2, 0, QL_EUNSUPPORTED},
		{{{NULL, QL_F32, 0, {0}}}, 0, 0, QL_ENOTFOUND},
	};
	struct scratch s;
	struct ql_err e;

	(void)state;
	scratch_open(&s);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct ql_st_writer *w;
		size_t k;
		int rc;

		assert_int_equal(ql_st_write_begin(&w, s.fd, "adapter_model.safetensors", cases[i].specs, cases[i].n, &e), QL_OK);
		while ((k = ql_st_write_next(w)) < cases[i].n)
			assert_int_equal(ql_st_write_data(w, &cases[i].fill, cases[i].specs[k].dtype == QL_U8 ? 1 : 4, &e), QL_OK);
		assert_int_equal(ql_st_write_commit(w, &e), QL_OK);
		rc = read_with(&s, HEAD "[\"q_proj\"]}", &e);
		if (rc != cases[i].code)
			fail_msg("case %zu: code %d: %s", i, rc, e.message);
	}
	assert_int_equal(unlinkat(s.fd, "adapter_model.safetensors", 0), 0);
	assert_int_equal(read_with(&s, HEAD "[\"q_proj\"]}", &e), QL_ENOTFOUND);
	scratch_close(&s);
}

/* A GGUF LoRA whose A has a type that is known by size only. */
static void gguf_type_unknown(void **state)
{
	static const char name[] = "blk.0.attn_q.weight.lora_a";
	struct ql_arch a = tiny_arch();
	const uint64_t ne_b[2] = {RANK, 64}, ne_a[2] = {64, RANK};
	static const uint16_t zeros[RANK * 64];
	struct ql_adapter_file f;
	struct ql_gguf_writer *w;
	struct scratch s;
	struct ql_err e;
	uint8_t *file, *at;
	size_t len;

	(void)state;
	scratch_open(&s);
	assert_int_equal(ql_gguf_write_new(&w, NULL), QL_OK);
	assert_int_equal(ql_gguf_write_str(w, "general.type", "adapter", 7, NULL), QL_OK);
	assert_int_equal(ql_gguf_write_str(w, "general.architecture", "llama", 5, NULL), QL_OK);
	assert_int_equal(ql_gguf_write_str(w, "adapter.type", "lora", 4, NULL), QL_OK);
	assert_int_equal(ql_gguf_write_f32(w, "adapter.lora.alpha", 8, NULL), QL_OK);
	assert_int_equal(ql_gguf_write_tensor(w, "blk.0.attn_q.weight.lora_b", QL_F16, 2, ne_b, NULL), QL_OK);
	assert_int_equal(ql_gguf_write_tensor(w, name, QL_F16, 2, ne_a, NULL), QL_OK); /* last: it may become shorter */
	assert_int_equal(ql_gguf_write_begin(w, s.fd, "x.gguf", NULL), QL_OK);
	assert_int_equal(ql_gguf_write_data(w, zeros, sizeof zeros, NULL), QL_OK);
	assert_int_equal(ql_gguf_write_data(w, zeros, sizeof zeros, NULL), QL_OK);
	assert_int_equal(ql_gguf_write_commit(w, NULL), QL_OK);
	assert_int_equal(ql_adapter_read_gguf(&f, s.fd, "x.gguf", &a, &e), QL_OK);
	ql_adapter_file_free(&f);
	file = scratch_read(&s, "x.gguf", &len);
	at = memmem(file, len, name, sizeof name - 1);
	assert_non_null(at);
	at[sizeof name - 1 + 4 + 16] = 9; /* behind n_dims and ne: Q8_1 */
	scratch_write(&s, "x.gguf", file, len);
	free(file);
	assert_int_equal(ql_adapter_read_gguf(&f, s.fd, "x.gguf", &a, &e), QL_EUNSUPPORTED);
	assert_non_null(strstr(e.message, "Q8_1"));
	scratch_close(&s);
}

/* x.gguf: a LoRA of F16 zeros on layer 0's attention and layer 1's feed-forward. */
static void write_gguf_lora(const struct scratch *s, const struct ql_arch *a)
{
	static const uint16_t zeros[RANK * 512];
	struct ql_gguf_writer *w;
	struct ql_arch_tensor t;
	char name[2][80];

	assert_int_equal(ql_gguf_write_new(&w, NULL), QL_OK);
	assert_int_equal(ql_gguf_write_str(w, "general.type", "adapter", 7, NULL), QL_OK);
	assert_int_equal(ql_gguf_write_str(w, "general.architecture", a->family, strlen(a->family), NULL), QL_OK);
	assert_int_equal(ql_gguf_write_str(w, "adapter.type", "lora", 4, NULL), QL_OK);
	assert_int_equal(ql_gguf_write_f32(w, "adapter.lora.alpha", 8, NULL), QL_OK);
	for (int pass = 0; pass < 2; pass++) {
		for (size_t i = 0; i < ql_arch_tensor_count(a); i++) {
			ql_arch_tensor_at(a, i, &t);
			if (t.module < 0 || t.n_dims != 2 || t.file_part > 0 || (t.layer == 0) != (t.module <= QL_O_PROJ))
				continue;
			for (int h = 0; h < 2; h++) {
				uint64_t ne[2] = {h == 0 ? t.cols : RANK, h == 0 ? RANK : t.file_rows};

				(void)snprintf(name[h], sizeof name[h], "%s.lora_%c", t.file_gguf, h == 0 ? 'a' : 'b');
				if (pass == 0)
					assert_int_equal(ql_gguf_write_tensor(w, name[h], QL_F16, 2, ne, NULL), QL_OK);
				else
					assert_int_equal(ql_gguf_write_data(w, zeros, (size_t)(ne[0] * ne[1]) * 2, NULL), QL_OK);
			}
		}
		if (pass == 0)
			assert_int_equal(ql_gguf_write_begin(w, s->fd, "x.gguf", NULL), QL_OK);
	}
	assert_int_equal(ql_gguf_write_commit(w, NULL), QL_OK);
}

static int no_sync(const struct ql_io *io, int fd)
{
	(void)io, (void)fd;
	return 0;
}

/* Valid files with some bytes changed: read or refused, never more.  QL_MUTATIONS: how many (a fuzzer's seed corpus of two). */
static void mutations(void **state)
{
	static const char *const names[] = {"adapter_config.json", "adapter_model.safetensors", "x.gguf"};
	const char *many = getenv("QL_MUTATIONS");
	long rounds = many != NULL ? strtol(many, NULL, 10) : 300, accepted = 0;
	struct ql_arch arches[2] = {tiny_arch(), fused_arch()};
	struct ql_io quick = ql_io_real;
	uint64_t seed = 11;

	(void)state;
	quick.sync = no_sync;
	ql_io_install(&quick);
	for (int k = 0; k < 2; k++) {
		struct ql_adapter_file f, back;
		uint8_t *data[3];
		size_t len[3];
		struct scratch s;
		float *mem;

		scratch_open(&s);
		make_adapter(&f, &arches[k], QL_MODULES_ALL, false, &mem);
		f.pairs[QL_K_PROJ].rank = 2;
		f.pairs[QL_MODULES + QL_V_PROJ].alpha = 3;
		write_read(&f, &arches[k], (struct ql_adapter_write_opts){QL_F32, "b", false}, &s, &back);
		write_gguf_lora(&s, &arches[k]);
		for (int i = 0; i < 3; i++)
			data[i] = scratch_read(&s, names[i], &len[i]);
		for (long r = 0; r < rounds; r++) {
			int which = (int)(r % 3), changes = 1 + (int)(r / 3 % 3);
			size_t head = which == 0 ? len[0] : len[which] < 4096 ? len[which] : 4096;
			uint8_t *copy = malloc(len[which]);
			struct ql_adapter_file got;
			int rc;

			memcpy(copy, data[which], len[which]);
			for (int c = 0; c < changes; c++) {
				seed = seed * 6364136223846793005u + 1442695040888963407u;
				copy[(seed >> 33) % head] = (uint8_t)(seed >> 20);
			}
			assert_true(ql_io_replace(s.fd, names[which], copy, len[which], NULL) == QL_OK);
			rc = which < 2 ? ql_adapter_read(&got, s.fd, &arches[k], NULL)
				       : ql_adapter_read_gguf(&got, s.fd, names[2], &arches[k], NULL);
			if (rc == QL_OK) {
				struct ql_err e = {0};

				accepted++;
				if (got.alpha > 0)
					(void)ql_adapter_write(&got, &arches[k], s.fd,
							       &(struct ql_adapter_write_opts){QL_F32, "b", false}, &e);
				ql_adapter_file_free(&got);
			}
			for (int i = 0; i < 2; i++)
				if (rc == QL_OK || i == which)
					scratch_write(&s, names[i], data[i], len[i]);
			free(copy);
		}
		for (int i = 0; i < 3; i++)
			free(data[i]);
		ql_adapter_file_free(&back);
		ql_adapter_file_free(&f);
		free(mem);
		scratch_close(&s);
	}
	ql_io_install(NULL);
	assert_true(accepted > 0);
}

static void writer_refuses(void **state)
{
	struct ql_arch a = tiny_arch();
	struct ql_adapter_file f;
	struct scratch s;
	struct ql_err e;
	float *mem;

	(void)state;
	scratch_open(&s);
	assert_int_equal(ql_adapter_file_init(&f, &a, 0, 8, false, &e), QL_EINVAL);
	assert_int_equal(ql_adapter_file_init(&f, &a, 257, 8, false, &e), QL_EINVAL);
	assert_int_equal(ql_adapter_file_init(&f, &a, 4, 8, false, &e), QL_OK);
	assert_int_equal(ql_adapter_write(&f, &a, s.fd, &(struct ql_adapter_write_opts){QL_F32, "b", false}, &e), QL_EINVAL);
	ql_adapter_file_free(&f);
	make_adapter(&f, &a, 1, false, &mem);
	assert_int_equal(ql_adapter_write(&f, &a, s.fd, &(struct ql_adapter_write_opts){QL_Q8_0, "b", false}, &e), QL_EINVAL);
	assert_int_equal(ql_adapter_write(&f, &a, s.fd, &(struct ql_adapter_write_opts){QL_F32, "", false}, &e), QL_EINVAL);
	mem[3] = 70000;
	assert_int_equal(ql_adapter_write(&f, &a, s.fd, &(struct ql_adapter_write_opts){QL_F16, "b", false}, &e), QL_ENONFINITE);
	assert_false(scratch_has(&s, "adapter_model.safetensors"));
	assert_false(scratch_has(&s, "adapter_config.json"));
	ql_adapter_file_free(&f);
	free(mem);
	scratch_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trips), cmocka_unit_test(patterns),    cmocka_unit_test(golden_config),
		cmocka_unit_test(pattern_keys), cmocka_unit_test(configs),     cmocka_unit_test(bad_tensors), cmocka_unit_test(writer_refuses),
		cmocka_unit_test(fused_modules), cmocka_unit_test(fused_foreign), cmocka_unit_test(gguf_type_unknown),
		cmocka_unit_test(mutations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
