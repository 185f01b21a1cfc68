/* test_export.c - merged GGUF, GGUF LoRA and merged HF directory of a tiny model: values, types, verification that can fail,
 * cancelling, overflow. */
#include <math.h>

#include "core/base/json.h"
#include "core/export/export_priv.h"
#include "core/quant/blk.h"
#include "tests/unit/formats/tiny.h"

#define RANK 3

struct fixture {
	struct scratch s;
	struct ql_arch a;
	struct ql_source *src;
	struct ql_adapter_file f;
	float mem[2 * QL_MODULES * RANK * 200];
	struct ql_export x;
	struct ql_err e;
};

static void fill_adapter(struct fixture *t)
{
	size_t at = 0;

	assert_int_equal(ql_adapter_file_init(&t->f, &t->a, RANK, 6, true, NULL), QL_OK);
	for (uint32_t l = 0; l < t->a.num_hidden_layers; l++)
		for (int m = 0; m < QL_MODULES; m++) {
			uint32_t rows, cols;
			float *a, *b;

			if (m == QL_O_PROJ)
				continue; /* a module without adapter */
			ql_arch_module_shape(&t->a, m, &rows, &cols);
			a = t->mem + at;
			b = a + RANK * cols;
			at += RANK * (size_t)(rows + cols);
			for (uint32_t i = 0; i < RANK * cols; i++)
				a[i] = (float)((int)(i * 7 % 29) - 14) / 100.0f;
			for (uint32_t i = 0; i < RANK * rows; i++)
				b[i] = (float)((int)(i * 3 % 23) - 11 + m) / 50.0f;
			ql_adapter_file_set(&t->f, l, m, a, b);
		}
	assert_true(at <= sizeof t->mem / sizeof t->mem[0]);
	t->f.pairs[QL_V_PROJ].alpha = 1.5; /* a pair of its own scale */
}

static void setup(struct fixture *t, bool hf)
{
	char path[128];

	*t = (struct fixture){.a = tiny_arch()};
	scratch_open(&t->s);
	if (hf)
		tiny_hf(&t->s);
	else
		tiny_gguf(&t->s, "base.gguf");
	(void)snprintf(path, sizeof path, "%s%s", t->s.path, hf ? "" : "/base.gguf");
	if (ql_source_open(&t->src, path, &t->e) != QL_OK)
		fail_msg("%s", t->e.message);
	fill_adapter(t);
	t->x = (struct ql_export){.source = t->src, .adapter = &t->f, .name = "Tiny tuned"};
}

static void teardown(struct fixture *t)
{
	ql_source_close(t->src);
	ql_adapter_file_free(&t->f);
	scratch_close(&t->s);
}

/* W + s·B·A in double, straight from the definition. */
static double merged(const struct fixture *t, size_t i, const struct ql_arch_tensor *q, uint64_t r, uint64_t c, bool with)
{
	const struct ql_adapter_pair *p = q->module >= 0 ? &t->f.pairs[q->layer * QL_MODULES + q->module] : NULL;
	double sum = 0, w = (double)tiny_value(i, r, c);

	if (!with || p == NULL || p->a == NULL)
		return w;
	for (int k = 0; k < RANK; k++)
		sum += (double)p->b[r * RANK + (uint64_t)k] * (double)p->a[(uint64_t)k * q->cols + c];
	return w + p->alpha / sqrt(RANK) * sum;
}

/* Compares a written GGUF with the definition, element by element, within the type's own error. */
static void compare_gguf(const struct fixture *t, const char *file, bool with, double tol)
{
	struct ql_err e = {0};
	struct ql_gguf *g;
	float v[96 * 96];

	assert_int_equal(ql_gguf_open_at(&g, t->s.fd, file, &e), QL_OK);
	for (size_t i = 0; i < ql_arch_tensor_count(&t->a); i++) {
		const struct ql_gguf_tensor *f;
		struct ql_arch_tensor q;

		ql_arch_tensor_at(&t->a, i, &q);
		f = ql_gguf_tensor_find(g, q.gguf);
		assert_non_null(f);
		assert_int_equal(ql_blk_dequantize(f->dtype, f->data, f->n, v, &e), QL_OK);
		for (uint64_t k = 0; k < f->n; k++) {
			uint64_t r = k / q.cols, hf = q.permute != QL_PERMUTE_NONE ? ql_arch_hf_row(16, r) : r;
			double want = merged(t, i, &q, hf, k % q.cols, with);

			if (fabs((double)v[k] - want) > tol * (q.n_dims == 1 ? 0 : 1) + 1e-6)
				fail_msg("%s %s row %d: %g, not %g", file, q.gguf, (int)r, (double)v[k], want);
		}
	}
	ql_gguf_close(g);
}

static void gguf_types(void **state)
{
	static const struct { enum ql_export_type type; double tol; uint32_t file_type; } cases[] = {
		{QL_EXPORT_F32, 0, 0}, {QL_EXPORT_F16, 1e-3, 1}, {QL_EXPORT_BF16, 6e-3, 32}, {QL_EXPORT_Q8_0, 8e-3, 7},
		{QL_EXPORT_Q4_0, 0.15, 2}, {QL_EXPORT_Q4_K_M, 0.15, 15}, {QL_EXPORT_Q5_K_M, 0.08, 17}, {QL_EXPORT_Q6_K, 0.05, 18}};
	struct fixture t;

	(void)state;
	setup(&t, false);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
		for (int with = 0; with < 2; with++) {
			struct ql_gguf_str name;
			struct ql_gguf *g;
			uint32_t v = 99;

			t.x.adapter = with ? &t.f : NULL;
			if (ql_export_gguf(&t.x, cases[i].type, t.s.fd, "out.gguf", &t.e) != QL_OK ||
			    ql_export_verify_gguf(&t.x, cases[i].type, t.s.fd, "out.gguf", &t.e) != QL_OK)
				fail_msg("%s: %s", ql_export_type_name(cases[i].type), t.e.message);
			compare_gguf(&t, "out.gguf", with != 0, cases[i].tol);
			assert_int_equal(ql_gguf_open_at(&g, t.s.fd, "out.gguf", &t.e), QL_OK);
			assert_int_equal(ql_gguf_get_u32(g, "general.file_type", true, &v, &t.e), QL_OK);
			assert_int_equal(v, cases[i].file_type);
			assert_true((ql_gguf_kv_find(g, "general.quantization_version") != NULL) == (cases[i].type >= QL_EXPORT_Q8_0));
			assert_int_equal(ql_gguf_get_str(g, "general.name", true, &name, &t.e), QL_OK);
			assert_memory_equal(name.s, "Tiny tuned", 10);
			assert_non_null(ql_gguf_kv_find(g, "tokenizer.ggml.tokens"));
			assert_null(ql_gguf_tensor_find(g, "output.weight")); /* tied stays tied */
			ql_gguf_close(g);
			assert_int_equal(ql_export_type_of(ql_export_type_name(cases[i].type)), cases[i].type);
		}
	assert_int_equal(ql_export_type_of("q2_k"), QL_EXPORT_TYPES);
	teardown(&t);
}

/* Without an adapter and in f32 the weights come out as they went in, and a second export is byte-identical. */
static void identity(void **state)
{
	struct fixture t;
	uint8_t *a, *b;
	size_t na, nb;

	(void)state;
	setup(&t, false);
	t.x.adapter = NULL;
	t.x.name = NULL;
	t.x.pool = ql_pool_new(2);
	assert_int_equal(ql_export_gguf(&t.x, QL_EXPORT_F32, t.s.fd, "one.gguf", &t.e), QL_OK);
	ql_pool_free(t.x.pool);
	t.x.pool = NULL;
	assert_int_equal(ql_export_gguf(&t.x, QL_EXPORT_F32, t.s.fd, "two.gguf", &t.e), QL_OK);
	a = scratch_read(&t.s, "one.gguf", &na);
	b = scratch_read(&t.s, "two.gguf", &nb);
	assert_int_equal(na, nb);
	assert_memory_equal(a, b, na);
	free(a);
	free(b);
	teardown(&t);
}

/* Damages one byte of a written file at a time; verification must notice each that matters. */
static void corruption(void **state)
{
	struct fixture t;
	struct ql_gguf *g;
	const struct ql_gguf_tensor *q;
	uint8_t *p;
	size_t len, at;

	(void)state;
	setup(&t, false);
	assert_int_equal(ql_export_gguf(&t.x, QL_EXPORT_Q8_0, t.s.fd, "out.gguf", &t.e), QL_OK);
	p = scratch_read(&t.s, "out.gguf", &len);
	assert_int_equal(ql_gguf_open_mem(&g, p, len, &t.e), QL_OK);
	q = ql_gguf_tensor_find(g, "blk.1.attn_q.weight");
	at = (size_t)((const uint8_t *)q->data - p);
	ql_gguf_close(g);
	p[at + 5] ^= 1; /* a value of the first row */
	scratch_write(&t.s, "bad.gguf", p, len);
	assert_int_equal(ql_export_verify_gguf(&t.x, QL_EXPORT_Q8_0, t.s.fd, "bad.gguf", &t.e), QL_EMISMATCH);
	assert_string_equal(t.e.param, "model.layers.1.self_attn.q_proj.weight");
	p[at + 5] ^= 1;
	p[at + 34 * 2 * 3 + 1] = 0x7c; /* the scale of row 3 becomes infinite */
	p[at + 34 * 2 * 3] = 0;
	scratch_write(&t.s, "bad.gguf", p, len);
	assert_int_equal(ql_export_verify_gguf(&t.x, QL_EXPORT_Q8_0, t.s.fd, "bad.gguf", &t.e), QL_ENONFINITE);
	scratch_write(&t.s, "bad.gguf", p, len - 64);
	assert_int_equal(ql_export_verify_gguf(&t.x, QL_EXPORT_Q8_0, t.s.fd, "bad.gguf", &t.e), QL_EFORMAT);
	assert_int_equal(ql_export_verify_gguf(&t.x, QL_EXPORT_F16, t.s.fd, "out.gguf", &t.e), QL_EMISMATCH);
	t.f.pairs[QL_Q_PROJ].alpha *= 2; /* the right file for another adapter */
	assert_int_equal(ql_export_verify_gguf(&t.x, QL_EXPORT_Q8_0, t.s.fd, "out.gguf", &t.e), QL_EMISMATCH);
	free(p);
	teardown(&t);
}

/* With digests any byte counts, also of rows that are not recomputed. */
static void corruption_anywhere(void **state)
{
	struct ql_arch_tensor q;
	struct fixture t;
	struct scratch out;
	struct ql_gguf *g;
	size_t len, at, n;
	uint8_t *p;

	(void)state;
	setup(&t, false);
	n = ql_arch_tensor_count(&t.a);
	t.x.digests = calloc(n, sizeof *t.x.digests);
	assert_int_equal(ql_export_gguf(&t.x, QL_EXPORT_F16, t.s.fd, "out.gguf", &t.e), QL_OK);
	assert_int_equal(ql_export_verify_gguf(&t.x, QL_EXPORT_F16, t.s.fd, "out.gguf", &t.e), QL_OK);
	p = scratch_read(&t.s, "out.gguf", &len);
	for (size_t i = 0; i < n; i++) {
		ql_arch_tensor_at(&t.a, i, &q);
		assert_int_equal(ql_gguf_open_mem(&g, p, len, &t.e), QL_OK);
		at = (size_t)((const uint8_t *)ql_gguf_tensor_find(g, q.gguf)->data - p) + (q.n_dims == 2 ? 2 * q.cols : 0) + 4; /* row 1 */
		ql_gguf_close(g);
		p[at] ^= 1;
		scratch_write(&t.s, "bad.gguf", p, len);
		assert_int_equal(ql_export_verify_gguf(&t.x, QL_EXPORT_F16, t.s.fd, "bad.gguf", &t.e), QL_EMISMATCH);
		assert_string_equal(t.e.param, q.hf);
		p[at] ^= 1;
	}
	free(p);
	free(t.x.digests);
	teardown(&t);
	setup(&t, true);
	scratch_open(&out);
	t.x.digests = calloc(n, sizeof *t.x.digests);
	assert_int_equal(ql_export_hf(&t.x, QL_EXPORT_BF16, out.fd, &t.e), QL_OK);
	assert_int_equal(ql_export_verify_hf(&t.x, QL_EXPORT_BF16, out.fd, &t.e), QL_OK);
	p = scratch_read(&out, "model.safetensors", &len);
	for (at = len - 2; at > len / 2; at -= 777) {
		p[at] ^= 1;
		scratch_write(&out, "model.safetensors", p, len);
		assert_int_equal(ql_export_verify_hf(&t.x, QL_EXPORT_BF16, out.fd, &t.e), QL_EMISMATCH);
		p[at] ^= 1;
	}
	free(p);
	free(t.x.digests);
	scratch_close(&out);
	teardown(&t);
}

static void replace_in(const struct scratch *s, const char *file, const char *from, const char *to)
{
	size_t len;
	char *p = (char *)scratch_read(s, file, &len), *hit;

	assert_int_equal(strlen(from), strlen(to));
	hit = memmem(p, len, from, strlen(from));
	assert_non_null(hit);
	memcpy(hit, to, strlen(to));
	scratch_write(s, file, (uint8_t *)p, len);
	free(p);
}

/* A PEFT directory is read back whole: values, scales, and which modules there are. */
static void peft_directory(void **state)
{
	struct ql_adapter_write_opts o = {.dtype = QL_F32, .base_name = "tiny"};
	struct fixture t;
	struct scratch out;
	uint8_t *p;
	size_t len;

	(void)state;
	setup(&t, false);
	scratch_open(&out);
	t.f.pairs[QL_K_PROJ].alpha = 6.0 / 7; /* no finite decimal */
	assert_int_equal(ql_adapter_write(&t.f, &t.a, out.fd, &o, &t.e), QL_OK);
	if (ql_export_verify_peft(&t.x, out.fd, &t.e) != QL_OK)
		fail_msg("%s", t.e.message);
	p = scratch_read(&out, "adapter_model.safetensors", &len);
	p[len - 3] ^= 1;
	scratch_write(&out, "adapter_model.safetensors", p, len);
	assert_int_equal(ql_export_verify_peft(&t.x, out.fd, &t.e), QL_EMISMATCH);
	p[len - 3] ^= 1;
	scratch_write(&out, "adapter_model.safetensors", p, len - 1);
	assert_int_equal(ql_export_verify_peft(&t.x, out.fd, &t.e), QL_EFORMAT);
	scratch_write(&out, "adapter_model.safetensors", p, len);
	free(p);
	assert_int_equal(ql_export_verify_peft(&t.x, out.fd, &t.e), QL_OK);
	replace_in(&out, "adapter_config.json", "\"lora_alpha\": 6", "\"lora_alpha\": 5");
	assert_int_equal(ql_export_verify_peft(&t.x, out.fd, &t.e), QL_EMISMATCH);
	replace_in(&out, "adapter_config.json", "\"lora_alpha\": 5", "\"lora_alpha\": 6");
	replace_in(&out, "adapter_config.json", "\"use_rslora\": true", "\"use_rslora\":false");
	assert_int_equal(ql_export_verify_peft(&t.x, out.fd, &t.e), QL_EMISMATCH);
	replace_in(&out, "adapter_config.json", "\"use_rslora\":false", "\"use_rslora\": true");
	t.f.pairs[QL_Q_PROJ].a = NULL;
	assert_int_equal(ql_export_verify_peft(&t.x, out.fd, &t.e), QL_EMISMATCH);
	scratch_close(&out);
	teardown(&t);
}

static int stop_at(void *ctx, double done)
{
	*(double *)ctx = done;
	return done > 0.5;
}

static void cancel(void **state)
{
	struct fixture t;
	double seen = 0;

	(void)state;
	setup(&t, false);
	t.x.progress = stop_at;
	t.x.progress_ctx = &seen;
	assert_int_equal(ql_export_gguf(&t.x, QL_EXPORT_F16, t.s.fd, "out.gguf", &t.e), QL_ECANCELLED);
	assert_true(seen > 0.5 && seen < 1);
	assert_false(scratch_has(&t.s, "out.gguf"));
	teardown(&t);
}

static void overflow(void **state)
{
	struct fixture t;

	(void)state;
	setup(&t, false);
	for (size_t i = 0; i < sizeof t.mem / sizeof t.mem[0]; i++)
		t.mem[i] *= 2000;
	assert_int_equal(ql_export_gguf(&t.x, QL_EXPORT_F16, t.s.fd, "out.gguf", &t.e), QL_ENONFINITE);
	assert_non_null(strstr(t.e.message, "bf16"));
	assert_false(scratch_has(&t.s, "out.gguf"));
	assert_int_equal(ql_export_gguf(&t.x, QL_EXPORT_BF16, t.s.fd, "out.gguf", &t.e), QL_OK);
	t.mem[0] = NAN;
	assert_int_equal(ql_export_gguf(&t.x, QL_EXPORT_F32, t.s.fd, "nan.gguf", &t.e), QL_ENONFINITE);
	assert_false(scratch_has(&t.s, "nan.gguf"));
	teardown(&t);
}

/* The effect alpha/r·B·A of the written tensors, rows of B put back, equals the adapter's. */
static void compare_lora(const struct fixture *t, const char *file, double tol)
{
	float a[RANK * 96], b[96 * RANK], alpha = 0;
	struct ql_err e = {0};
	struct ql_gguf *g;
	size_t seen = 0;

	assert_int_equal(ql_gguf_open_at(&g, t->s.fd, file, &e), QL_OK);
	assert_int_equal(ql_gguf_get_f32(g, "adapter.lora.alpha", true, &alpha, &e), QL_OK);
	for (size_t i = 0; i < ql_arch_tensor_count(&t->a); i++) {
		const struct ql_gguf_tensor *ta, *tb;
		struct ql_arch_tensor q;
		char name[80];

		ql_arch_tensor_at(&t->a, i, &q);
		(void)snprintf(name, sizeof name, "%s.lora_a", q.gguf);
		ta = ql_gguf_tensor_find(g, name);
		if (ta == NULL)
			continue;
		(void)snprintf(name, sizeof name, "%s.lora_b", q.gguf);
		tb = ql_gguf_tensor_find(g, name);
		assert_non_null(tb);
		seen += 2;
		assert_int_equal(ql_blk_dequantize(ta->dtype, ta->data, ta->n, a, &e), QL_OK);
		assert_int_equal(ql_blk_dequantize(tb->dtype, tb->data, tb->n, b, &e), QL_OK);
		assert_int_equal(ta->ne[0], q.cols);
		assert_int_equal(tb->ne[1], q.rows);
		for (uint32_t r = 0; r < q.rows; r++)
			for (uint32_t c = 0; c < q.cols; c += 5) {
				uint64_t hf = q.permute != QL_PERMUTE_NONE ? ql_arch_hf_row(16, r) : r;
				double want = merged(t, i, &q, hf, c, true) - (double)tiny_value(i, hf, c), got = 0;

				for (int k = 0; k < RANK; k++)
					got += (double)b[r * RANK + (uint32_t)k] * (double)a[(uint32_t)k * q.cols + c];
				got *= (double)alpha / RANK;
				if (fabs(got - want) > tol)
					fail_msg("%s row %u: %g, not %g", q.gguf, r, got, want);
			}
	}
	assert_int_equal(seen, ql_gguf_tensor_count(g));
	assert_int_equal(seen, 2 * 2 * 6);
	ql_gguf_close(g);
}

/* Our reader gives the adapter back: A as it was, scale·B as it was. */
static void read_lora_back(struct fixture *t, const char *file)
{
	struct ql_adapter_file f;
	struct ql_arch other = t->a;

	if (ql_adapter_read_gguf(&f, t->s.fd, file, &t->a, &t->e) != QL_OK)
		fail_msg("%s", t->e.message);
	assert_int_equal(f.modules, t->f.modules);
	for (size_t i = 0; i < (size_t)t->a.num_hidden_layers * QL_MODULES; i++) {
		const struct ql_adapter_pair *p = &t->f.pairs[i], *q = &f.pairs[i];
		uint32_t rows, cols;

		assert_true((p->a == NULL) == (q->a == NULL));
		if (p->a == NULL)
			continue;
		ql_arch_module_shape(&t->a, (int)(i % QL_MODULES), &rows, &cols);
		assert_int_equal(q->rank, p->rank);
		assert_memory_equal(p->a, q->a, (size_t)p->rank * cols * 4);
		for (size_t k = 0; k < (size_t)p->rank * rows; k++)
			assert_true(fabs((double)p->b[k] * ql_adapter_pair_scale(&t->f, p) - (double)q->b[k] * ql_adapter_pair_scale(&f, q)) <= 1e-6);
	}
	ql_adapter_file_free(&f);
	other.num_hidden_layers = 1;
	assert_int_equal(ql_adapter_read_gguf(&f, t->s.fd, file, &other, &t->e), QL_EMISMATCH); /* tensors of a layer we lack */
	other = t->a;
	other.intermediate_size = 32;
	assert_int_equal(ql_adapter_read_gguf(&f, t->s.fd, file, &other, &t->e), QL_ESHAPE);
	assert_int_equal(ql_adapter_read_gguf(&f, t->s.fd, "base.gguf", &t->a, &t->e), QL_ENOTFOUND); /* a model, no adapter */
}

static void gguf_lora(void **state)
{
	struct fixture t;
	uint8_t *p;
	size_t len;

	(void)state;
	setup(&t, false);
	assert_int_equal(ql_export_gguf_lora(&t.x, QL_EXPORT_F32, t.s.fd, "a.gguf", &t.e), QL_OK);
	assert_int_equal(ql_export_verify_gguf_lora(&t.x, QL_EXPORT_F32, t.s.fd, "a.gguf", &t.e), QL_OK);
	compare_lora(&t, "a.gguf", 1e-5);
	read_lora_back(&t, "a.gguf");
	p = scratch_read(&t.s, "a.gguf", &len);
	p[len - 60] ^= 1;
	scratch_write(&t.s, "bad.gguf", p, len);
	assert_int_equal(ql_export_verify_gguf_lora(&t.x, QL_EXPORT_F32, t.s.fd, "bad.gguf", &t.e), QL_EMISMATCH);
	free(p);
	assert_int_equal(ql_export_gguf_lora(&t.x, QL_EXPORT_F16, t.s.fd, "h.gguf", &t.e), QL_OK);
	assert_int_equal(ql_export_verify_gguf_lora(&t.x, QL_EXPORT_F16, t.s.fd, "h.gguf", &t.e), QL_OK);
	compare_lora(&t, "h.gguf", 2e-3);
	assert_int_equal(ql_export_gguf_lora(&t.x, QL_EXPORT_Q8_0, t.s.fd, "q.gguf", &t.e), QL_EINVAL);
	t.x.adapter = NULL;
	assert_int_equal(ql_export_gguf_lora(&t.x, QL_EXPORT_F32, t.s.fd, "q.gguf", &t.e), QL_EINVAL);
	teardown(&t);
}

static void hf_directory(void **state)
{
	struct ql_source_tensor st;
	struct ql_arch_tensor q;
	struct ql_source *again;
	struct fixture t;
	struct scratch out;
	float v[96 * 96];
	uint8_t *p;
	size_t len;

	(void)state;
	setup(&t, true);
	scratch_write(&t.s, "tokenizer.json", "{}", 2);
	scratch_write(&t.s, "pytorch_model.bin", "x", 1);
	scratch_write(&t.s, "modeling_x.py", "x", 1);
	scratch_open(&out);
	if (ql_export_hf(&t.x, QL_EXPORT_BF16, out.fd, &t.e) != QL_OK || ql_export_verify_hf(&t.x, QL_EXPORT_BF16, out.fd, &t.e) != QL_OK)
		fail_msg("%s", t.e.message);
	assert_true(scratch_has(&out, "tokenizer.json"));
	assert_false(scratch_has(&out, "pytorch_model.bin"));
	assert_false(scratch_has(&out, "modeling_x.py"));
	p = scratch_read(&out, "config.json", &len);
	assert_non_null(strstr((const char *)p, "\"dtype\": \"bfloat16\""));
	free(p);
	assert_int_equal(ql_source_open(&again, out.path, &t.e), QL_OK);
	for (size_t i = 0; i < ql_arch_tensor_count(&t.a); i++) {
		ql_arch_tensor_at(&t.a, i, &q);
		assert_int_equal(ql_source_find(again, q.hf, &st, &t.e), QL_OK);
		assert_int_equal(st.dtype, QL_BF16);
		assert_int_equal(ql_source_read_f32(again, &st, 0, st.rows, v, &t.e), QL_OK);
		for (uint64_t k = 0; k < st.n; k++)
			assert_true(fabs((double)v[k] - merged(&t, i, &q, k / q.cols, k % q.cols, true)) <= 6e-3);
	}
	ql_source_close(again);
	p = scratch_read(&out, "model.safetensors", &len);
	p[len - 1] ^= 0x40;
	scratch_write(&out, "model.safetensors", p, len);
	assert_int_equal(ql_export_verify_hf(&t.x, QL_EXPORT_BF16, out.fd, &t.e), QL_EMISMATCH);
	free(p);
	assert_int_equal(ql_export_hf(&t.x, QL_EXPORT_Q8_0, out.fd, &t.e), QL_EINVAL);
	scratch_close(&out);
	teardown(&t);
	setup(&t, false);
	assert_int_equal(ql_export_hf(&t.x, QL_EXPORT_BF16, t.s.fd, &t.e), QL_EUNSUPPORTED);
	teardown(&t);
}

/* The caller's own base weights (in the daemon: the dequantised NF4). */
static int twos(void *ctx, const char *name, uint64_t row, uint64_t n, float *dst, struct ql_err *e)
{
	struct fixture *t = ctx;
	struct ql_source_tensor s;

	assert_int_equal(ql_source_find(t->src, name, &s, e), QL_OK);
	assert_true(row + n <= s.rows);
	for (uint64_t i = 0; i < n * s.cols; i++)
		dst[i] = 2;
	return QL_OK;
}

static void own_base(void **state)
{
	struct fixture t;
	struct ql_gguf *g;
	float v = 0;

	(void)state;
	setup(&t, false);
	t.x.read_f32 = twos;
	t.x.ctx = &t;
	t.x.adapter = NULL;
	t.x.chat_template = "NEW";
	assert_int_equal(ql_export_gguf(&t.x, QL_EXPORT_F32, t.s.fd, "o.gguf", &t.e), QL_OK);
	assert_int_equal(ql_gguf_open_at(&g, t.s.fd, "o.gguf", &t.e), QL_OK);
	memcpy(&v, ql_gguf_tensor_find(g, "blk.0.ffn_up.weight")->data, 4);
	assert_true(v >= 2 && v <= 2);
	assert_memory_equal(ql_gguf_kv_find(g, "tokenizer.chat_template")->data + 8, "NEW", 3);
	ql_gguf_close(g);
	teardown(&t);
}

static struct {
	int calls, stop_at;
	double last;
} told;

static int on_told(void *ctx, double done)
{
	(void)ctx;
	assert_true(done > told.last && done <= 1);
	told.last = done;
	return ++told.calls == told.stop_at;
}

/* Merging into the original weights: only where they exist, and the difference from the other base is told. */
static void original_base(void **state)
{
	struct ql_export_diff d;
	struct fixture t;
	double square = 0, diff = 0;

	(void)state;
	setup(&t, false);
	t.x.read_f32 = twos;
	t.x.ctx = &t;
	assert_int_equal(ql_export_check_original(t.src, &t.e), QL_OK);
	t.x.progress = on_told;
	memset(&told, 0, sizeof told);
	assert_int_equal(ql_export_base_diff(&t.x, &d, &t.e), QL_OK);
	assert_true(told.calls >= (int)(t.a.num_hidden_layers * QL_MODULES) && told.last >= 1);
	for (int at = told.calls; at > 0; at = at * 2 / 3) { /* cancelled anywhere */
		memset(&told, 0, sizeof told);
		told.stop_at = at;
		assert_int_equal(ql_export_base_diff(&t.x, &d, &t.e), QL_ECANCELLED);
		assert_int_equal(told.calls, at);
	}
	t.x.progress = NULL;
	assert_int_equal(ql_export_base_diff(&t.x, &d, &t.e), QL_OK);
	assert_int_equal(d.tensors, t.a.num_hidden_layers * QL_MODULES);
	for (size_t i = 0; i < ql_arch_tensor_count(&t.a); i++) {
		struct ql_arch_tensor q;

		ql_arch_tensor_at(&t.a, i, &q);
		for (uint64_t k = 0; q.module >= 0 && k < (uint64_t)q.rows * q.cols; k++) {
			double w = (double)tiny_value(i, k / q.cols, k % q.cols);

			square += w * w;
			diff += (w - 2) * (w - 2);
		}
	}
	assert_true(fabs(d.relative_rms - sqrt(diff / square)) <= 1e-9 * d.relative_rms);
	assert_true(d.max_abs > 2);
	t.x.read_f32 = NULL;
	assert_int_equal(ql_export_gguf(&t.x, QL_EXPORT_Q8_0, t.s.fd, "q.gguf", &t.e), QL_OK);
	ql_source_close(t.src);
	char path[160];
	(void)snprintf(path, sizeof path, "%s/q.gguf", t.s.path);
	assert_int_equal(ql_source_open(&t.src, path, &t.e), QL_OK);
	assert_int_equal(ql_export_check_original(t.src, &t.e), QL_EUNSUPPORTED);
	assert_string_equal(t.e.param, "merge_base");
	teardown(&t);
}

/* The type of one tensor by its HF name. */
static enum ql_dtype type_of(const struct ql_arch *a, enum ql_export_type type, const char *hf)
{
	struct ql_arch_tensor t;

	ql_arch_tensor_at(a, ql_arch_tensor_index_hf(a, hf), &t);
	return ql_export_tensor_type(type, a, &t);
}

/* llama-quant.cpp's choices for an 8B-like model and for rows that are no multiple of 256 (SmolLM2). */
static void recipes(void **state)
{
	static const char big[] = "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":4096,"
		"\"intermediate_size\":14336,\"num_hidden_layers\":32,\"num_attention_heads\":32,\"num_key_value_heads\":8,"
		"\"vocab_size\":128}";
	static const char smol[] = "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":576,"
		"\"intermediate_size\":1536,\"num_hidden_layers\":30,\"num_attention_heads\":9,\"num_key_value_heads\":3,"
		"\"vocab_size\":128,\"tie_word_embeddings\":true}";
	static const int q6[] = {0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31};
	struct ql_arch a;
	char name[80];

	(void)state;
	assert_int_equal(ql_arch_from_config_json(&a, big, sizeof big - 1, NULL), QL_OK);
	for (int l = 0, k = 0; l < 32; l++) {
		bool six = k < 16 && q6[k] == l;

		k += six;
		(void)snprintf(name, sizeof name, "model.layers.%d.self_attn.v_proj.weight", l);
		assert_int_equal(type_of(&a, QL_EXPORT_Q4_K_M, name), six ? QL_Q6_K : QL_Q4_K);
		assert_int_equal(type_of(&a, QL_EXPORT_Q5_K_M, name), six ? QL_Q6_K : QL_Q5_K);
		assert_int_equal(type_of(&a, QL_EXPORT_Q4_0, name), QL_Q4_0);
		(void)snprintf(name, sizeof name, "model.layers.%d.mlp.down_proj.weight", l);
		assert_int_equal(type_of(&a, QL_EXPORT_Q4_K_M, name), six ? QL_Q6_K : QL_Q4_K);
	}
	assert_int_equal(type_of(&a, QL_EXPORT_Q4_K_M, "model.layers.0.mlp.up_proj.weight"), QL_Q4_K);
	assert_int_equal(type_of(&a, QL_EXPORT_Q4_K_M, "model.embed_tokens.weight"), QL_Q4_K);
	assert_int_equal(type_of(&a, QL_EXPORT_Q4_K_M, "lm_head.weight"), QL_Q6_K);
	assert_int_equal(type_of(&a, QL_EXPORT_Q4_0, "lm_head.weight"), QL_Q6_K);
	assert_int_equal(type_of(&a, QL_EXPORT_Q8_0, "lm_head.weight"), QL_Q8_0);
	assert_int_equal(type_of(&a, QL_EXPORT_Q6_K, "model.norm.weight"), QL_F32);
	assert_int_equal(type_of(&a, QL_EXPORT_BF16, "model.layers.3.input_layernorm.weight"), QL_F32);
	assert_int_equal(ql_arch_from_config_json(&a, smol, sizeof smol - 1, NULL), QL_OK);
	assert_int_equal(type_of(&a, QL_EXPORT_Q4_K_M, "model.layers.5.mlp.up_proj.weight"), QL_Q5_0);
	assert_int_equal(type_of(&a, QL_EXPORT_Q5_K_M, "model.layers.5.mlp.up_proj.weight"), QL_Q5_1);
	assert_int_equal(type_of(&a, QL_EXPORT_Q6_K, "model.layers.5.mlp.up_proj.weight"), QL_Q8_0);
	assert_int_equal(type_of(&a, QL_EXPORT_Q4_K_M, "model.layers.4.mlp.down_proj.weight"), QL_Q4_K);
	assert_int_equal(type_of(&a, QL_EXPORT_Q4_K_M, "model.embed_tokens.weight"), QL_Q8_0);
	assert_int_equal(type_of(&a, QL_EXPORT_Q4_0, "model.embed_tokens.weight"), QL_Q8_0);
}

#define FUSED_CONFIG "{\"architectures\":[\"Phi3ForCausalLM\"],\"model_type\":\"phi3\",\"hidden_size\":64,\"intermediate_size\":96," \
	"\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":32,\"rms_norm_eps\":1e-5," \
	"\"max_position_embeddings\":128,\"bos_token_id\":1,\"eos_token_id\":2}"

/* The fixture with a model whose files fuse q|k|v and gate|up; part p of a tensor has the values of its own index. */
static void setup_fused(struct fixture *t)
{
	struct ql_arch_tensor q[40];
	struct ql_st_spec specs[40];
	size_t first[40], n = 0, k;
	struct ql_st_writer *w;

	*t = (struct fixture){.x = {.name = "Tiny tuned"}};
	assert_int_equal(ql_arch_from_config_json(&t->a, FUSED_CONFIG, strlen(FUSED_CONFIG), &t->e), QL_OK);
	scratch_open(&t->s);
	scratch_write(&t->s, "config.json", FUSED_CONFIG, strlen(FUSED_CONFIG));
	for (size_t i = 0; i < ql_arch_tensor_count(&t->a); i++) {
		ql_arch_tensor_at(&t->a, i, &q[n]);
		if (q[n].file_part > 0)
			continue;
		specs[n] = (struct ql_st_spec){q[n].file_hf, QL_F32, q[n].n_dims, {q[n].file_rows, q[n].cols}};
		if (q[n].n_dims == 1)
			specs[n].shape[0] = q[n].cols;
		first[n++] = i;
	}
	assert_int_equal(ql_st_write_begin(&w, t->s.fd, "model.safetensors", specs, n, NULL), QL_OK);
	while ((k = ql_st_write_next(w)) < n)
		for (uint32_t p = 0, parts = q[k].file_parts; p < parts; p++) {
			struct ql_arch_tensor part;
			float *v;

			ql_arch_tensor_at(&t->a, first[k] + p, &part);
			v = tiny_rows(&t->a, first[k] + p, &part, false);
			assert_int_equal(ql_st_write_data(w, v, (size_t)part.rows * part.cols * 4, NULL), QL_OK);
			free(v);
		}
	assert_int_equal(ql_st_write_commit(w, NULL), QL_OK);
	if (ql_source_open(&t->src, t->s.path, &t->e) != QL_OK)
		fail_msg("%s", t->e.message);
	fill_adapter(t);
	t->x.source = t->src;
	t->x.adapter = &t->f;
}

/* Fused tensors: parts merged each with its own pair, in one tensor; the adapter as one pair of blocks. */
static void fused(void **state)
{
	struct ql_source_tensor st;
	struct ql_arch_tensor q;
	struct ql_source *again;
	struct ql_adapter_file f;
	struct fixture t;
	struct scratch out;
	float v[96 * 96];

	(void)state;
	setup_fused(&t);
	scratch_open(&out);
	if (ql_export_hf(&t.x, QL_EXPORT_F32, out.fd, &t.e) != QL_OK || ql_export_verify_hf(&t.x, QL_EXPORT_F32, out.fd, &t.e) != QL_OK)
		fail_msg("%s", t.e.message);
	assert_int_equal(ql_source_open(&again, out.path, &t.e), QL_OK);
	for (size_t i = 0; i < ql_arch_tensor_count(&t.a); i++) {
		ql_arch_tensor_at(&t.a, i, &q);
		assert_int_equal(ql_source_find(again, q.hf, &st, &t.e), QL_OK);
		assert_int_equal(ql_source_read_f32(again, &st, 0, st.rows, v, &t.e), QL_OK);
		for (uint64_t k = 0; k < st.n; k++)
			assert_true(fabs((double)v[k] - merged(&t, i, &q, k / q.cols, k % q.cols, true)) <= 1e-6);
	}
	ql_source_close(again);
	if (ql_export_gguf_lora(&t.x, QL_EXPORT_F32, out.fd, "a.gguf", &t.e) != QL_OK ||
	    ql_export_verify_gguf_lora(&t.x, QL_EXPORT_F32, out.fd, "a.gguf", &t.e) != QL_OK ||
	    ql_adapter_read_gguf(&f, out.fd, "a.gguf", &t.a, &t.e) != QL_OK)
		fail_msg("%s", t.e.message);
	assert_int_equal(f.modules, t.f.modules);
	for (size_t i = 0; i < ql_arch_tensor_count(&t.a); i++) { /* the same effect on each part */
		const struct ql_adapter_pair *a, *b;

		ql_arch_tensor_at(&t.a, i, &q);
		if (q.module < 0 || q.module == QL_O_PROJ)
			continue;
		a = &t.f.pairs[q.layer * QL_MODULES + q.module];
		b = &f.pairs[q.layer * QL_MODULES + q.module];
		assert_int_equal(b->rank, RANK * q.file_parts);
		for (uint32_t r = 0; r < q.rows; r += 7)
			for (uint32_t c = 0; c < q.cols; c += 5) {
				double x = 0, y = 0;

				for (uint32_t k = 0; k < a->rank; k++)
					x += (double)a->b[r * a->rank + k] * (double)a->a[k * q.cols + c] * ql_adapter_pair_scale(&t.f, a);
				for (uint32_t k = 0; k < b->rank; k++)
					y += (double)b->b[r * b->rank + k] * (double)b->a[k * q.cols + c] * ql_adapter_pair_scale(&f, b);
				assert_true(fabs(x - y) <= 1e-6);
			}
	}
	ql_adapter_file_free(&f);
	scratch_close(&out);
	teardown(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gguf_types), cmocka_unit_test(identity),  cmocka_unit_test(corruption), cmocka_unit_test(cancel),
		cmocka_unit_test(overflow),   cmocka_unit_test(gguf_lora), cmocka_unit_test(hf_directory), cmocka_unit_test(own_base),
		cmocka_unit_test(recipes),    cmocka_unit_test(corruption_anywhere), cmocka_unit_test(peft_directory),
		cmocka_unit_test(original_base), cmocka_unit_test(fused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
