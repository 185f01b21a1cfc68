/* test_source.c - one view over GGUF and Hugging Face bases: equal values, missing and extra tensors, shards, text, hash. */
#include "core/formats/source.h"
#include "tests/unit/formats/tiny.h"

#include <sys/stat.h>

static char *path_of(const struct scratch *s, const char *file)
{
	static char p[256];

	(void)snprintf(p, sizeof p, "%s%s%s", s->path, file != NULL ? "/" : "", file != NULL ? file : "");
	return p;
}

/* Every value of every tensor, in three ways of cutting the rows. */
static void check_values(const struct ql_source *s)
{
	struct ql_arch a = tiny_arch();
	struct ql_arch_tensor t;
	struct ql_source_tensor st;
	struct ql_err e = {0};
	float v[96 * 96];

	for (size_t i = 0; i < ql_arch_tensor_count(&a); i++) {
		ql_arch_tensor_at(&a, i, &t);
		assert_int_equal(ql_source_find(s, t.hf, &st, &e), QL_OK);
		assert_int_equal(st.rows, t.rows);
		assert_int_equal(st.cols, t.cols);
		for (uint64_t step = 1; step <= t.rows; step += t.rows > 1 ? t.rows - 1 : 1) {
			for (uint64_t r = 0; r < t.rows; r += step) {
				uint64_t n = t.rows - r < step ? t.rows - r : step;

				assert_int_equal(ql_source_read_f32(s, &st, r, n, v, &e), QL_OK);
				for (uint64_t k = 0; k < n * t.cols; k++) {
					float want = tiny_value(i, r + k / t.cols, k % t.cols);

					if (v[k] < want || v[k] > want)
						fail_msg("%s row %d col %d: %g, not %g", t.hf, (int)(r + k / t.cols),
							 (int)(k % t.cols), (double)v[k], (double)want);
				}
			}
		}
		assert_int_equal(ql_source_read_f32(s, &st, t.rows, 1, v, &e), QL_EINVAL);
		assert_int_equal(ql_source_read_f32(s, &st, UINT64_MAX, 2, v, &e), QL_EINVAL);
	}
	assert_int_equal(ql_source_find(s, "lm_head.weight", &st, &e), QL_ENOTFOUND);
}

static void from_gguf(void **state)
{
	struct ql_source_tensor t;
	struct ql_source *src;
	struct ql_err e = {0};
	struct scratch s;
	char hex[65], want[65];
	size_t n;

	(void)state;
	scratch_open(&s);
	tiny_gguf(&s, "m.gguf");
	assert_int_equal(ql_source_open(&src, path_of(&s, "m.gguf"), &e), QL_OK);
	check_values(src);
	assert_string_equal(ql_source_name(src), "Tiny");
	assert_string_equal(ql_source_chat_template(src, &n), "{{ messages }}");
	assert_int_equal(n, 14);
	assert_non_null(ql_source_gguf(src));
	assert_null(ql_source_dir(src));
	assert_int_equal(ql_source_find(src, "model.layers.0.self_attn.q_proj.weight", &t, &e), QL_OK);
	assert_null(ql_source_raw(src, &t, &n));
	assert_int_equal(ql_source_find(src, "model.layers.0.self_attn.v_proj.weight", &t, &e), QL_OK);
	assert_non_null(ql_source_raw(src, &t, &n));
	assert_int_equal(n, 32 * 64 * 4);
	assert_int_equal(ql_source_hash(src, NULL, hex, &e), QL_OK);
	assert_int_equal(ql_io_sha256(s.fd, "m.gguf", want, NULL, &e), QL_OK);
	assert_string_equal(hex, want);
	ql_source_close(src);
	scratch_close(&s);
}

static void from_hf(void **state)
{
	static const char templates[] = "{\"chat_template\":[{\"name\":\"x\",\"template\":\"X\"},"
					"{\"name\":\"default\",\"template\":\"D\"},{\"name\":\"tool_use\",\"template\":\"T\"}]}";
	static const char index[] = "{\"metadata\":{\"total_size\":1},\"weight_map\":{";
	struct ql_arch a = tiny_arch();
	struct ql_source *src;
	struct ql_err e = {0};
	struct ql_buf map = {0};
	struct scratch s;
	char one[65], two[65];
	size_t n, count = ql_arch_tensor_count(&a);

	(void)state;
	scratch_open(&s);
	tiny_hf(&s);
	assert_int_equal(ql_source_open(&src, s.path, &e), QL_OK);
	check_values(src);
	assert_null(ql_source_chat_template(src, &n));
	assert_string_equal(ql_source_name(src), strrchr(s.path, '/') + 1);
	assert_int_equal(ql_source_hash(src, NULL, one, &e), QL_OK);
	ql_source_close(src);
	/* the same in two shards, with both kinds of templates and generation_config.json */
	assert_int_equal(unlinkat(s.fd, "model.safetensors", 0), 0);
	tiny_shard(&s, "b.safetensors", 0, 7, SIZE_MAX);
	tiny_shard(&s, "a.safetensors", 7, count, SIZE_MAX);
	assert_int_equal(ql_buf_adds(&map, index), QL_OK);
	for (size_t i = 0; i < count; i++) {
		struct ql_arch_tensor t;

		ql_arch_tensor_at(&a, i, &t);
		assert_int_equal(ql_buf_addf(&map, "%s\"%s\":\"%c.safetensors\"", i > 0 ? "," : "", t.hf, i < 7 ? 'b' : 'a'), QL_OK);
	}
	assert_int_equal(ql_buf_adds(&map, "}}"), QL_OK);
	scratch_write(&s, "model.safetensors.index.json", map.data, map.len);
	scratch_write(&s, "tokenizer_config.json", templates, strlen(templates));
	scratch_write(&s, "generation_config.json", "{\"eos_token_id\":[2,7]}", 22);
	assert_int_equal(ql_source_open(&src, s.path, &e), QL_OK);
	check_values(src);
	assert_int_equal(ql_source_arch(src)->n_eos, 2);
	assert_string_equal(ql_source_chat_template(src, &n), "D");
	assert_string_equal(ql_source_tool_template(src, &n), "T");
	assert_int_equal(n, 1);
	assert_int_equal(ql_source_hash(src, NULL, two, &e), QL_OK);
	assert_string_not_equal(one, two);
	assert_true(ql_source_stamp(src, one) && ql_source_stamp(src, two));
	assert_string_equal(one, two);
	assert_int_equal(utimensat(s.fd, "a.safetensors", (const struct timespec[2]){{1, 0}, {1, 0}}, 0), 0);
	assert_true(ql_source_stamp(src, two));
	assert_string_not_equal(one, two); /* another time, other weights until they are read */
	assert_int_equal(renameat(s.fd, "a.safetensors", s.fd, "c.safetensors"), 0);
	assert_false(ql_source_stamp(src, two));
	assert_int_equal(renameat(s.fd, "c.safetensors", s.fd, "a.safetensors"), 0);
	ql_source_close(src);
	scratch_write(&s, "chat_template.jinja", "J", 1);
	assert_int_equal(ql_source_open(&src, s.path, &e), QL_OK);
	assert_string_equal(ql_source_chat_template(src, &n), "J");
	assert_null(ql_source_tool_template(src, &n)); /* of the other file */
	ql_source_close(src);
	/* a shard with a tensor that the index does not name */
	tiny_shard(&s, "b.safetensors", 0, 8, SIZE_MAX);
	assert_int_equal(ql_source_open(&src, s.path, &e), QL_EMISMATCH);
	tiny_shard(&s, "b.safetensors", 0, 6, SIZE_MAX);
	assert_int_equal(ql_source_open(&src, s.path, &e), QL_ENOTFOUND);
	ql_buf_free(&map);
	scratch_close(&s);
}

static void bad_indices(void **state)
{
	static const struct { const char *text; int code; } cases[] = {
		{"{}", QL_EFORMAT},
		{"{\"weight_map\":[]}", QL_EFORMAT},
		{"{\"weight_map\":{\"a\":1}}", QL_EFORMAT},
		{"{\"weight_map\":{\"a\":\"../m.safetensors\"}}", QL_EFORMAT},
		{"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", QL_EFORMAT},
		{"{\"weight_map\":{\"a\":\"\"}}", QL_EFORMAT},
		{"{\"weight_map\":{\"a\":\"none.safetensors\"}}", QL_ENOTFOUND},
		{"{\"weight_map\":", QL_EFORMAT},
	};
	struct ql_source *src;
	struct ql_err e;
	struct scratch s;

	(void)state;
	scratch_open(&s);
	assert_int_equal(ql_source_open(&src, s.path, &e), QL_ENOTFOUND);
	scratch_write(&s, "config.json", TINY_CONFIG, strlen(TINY_CONFIG));
	assert_int_equal(ql_source_open(&src, s.path, &e), QL_ENOTFOUND);
	assert_non_null(strstr(e.message, "neither"));
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		scratch_write(&s, "model.safetensors.index.json", cases[i].text, strlen(cases[i].text));
		assert_int_equal(ql_source_open(&src, s.path, &e), cases[i].code);
		assert_null(src);
	}
	scratch_close(&s);
}

/* A directory whose weight file lacks a tensor, has one more, or holds a NaN. */
static void wrong_tensors(void **state)
{
	static const struct ql_st_spec extra[] = {{"model.layers.0.extra", QL_F32, 1, {1}}};
	struct ql_arch a = tiny_arch();
	struct ql_source_tensor t;
	struct ql_source *src;
	struct ql_st_writer *w;
	struct ql_err e;
	struct scratch s;
	float v[64 * 96];
	size_t n = ql_arch_tensor_count(&a);

	(void)state;
	scratch_open(&s);
	tiny_hf(&s);
	tiny_shard(&s, "model.safetensors", 0, n - 1, SIZE_MAX);
	assert_int_equal(ql_source_open(&src, s.path, &e), QL_ENOTFOUND);
	assert_string_equal(e.param, "model.norm.weight");
	tiny_shard(&s, "model.safetensors", 0, n, 8);
	assert_int_equal(ql_source_open(&src, s.path, &e), QL_OK);
	assert_int_equal(ql_source_find(src, "model.layers.0.mlp.up_proj.weight", &t, &e), QL_OK);
	assert_int_equal(ql_source_read_f32(src, &t, 0, t.rows - 1, v, &e), QL_OK);
	assert_int_equal(ql_source_read_f32(src, &t, t.rows - 1, 1, v, &e), QL_ENONFINITE);
	assert_string_equal(e.param, t.name);
	ql_source_close(src);
	assert_int_equal(ql_st_write_begin(&w, s.fd, "model.safetensors", extra, 1, &e), QL_OK);
	assert_int_equal(ql_st_write_data(w, "abcd", 4, &e), QL_OK);
	assert_int_equal(ql_st_write_commit(w, &e), QL_OK);
	assert_int_equal(ql_source_open(&src, s.path, &e), QL_EUNSUPPORTED);
	assert_string_equal(e.param, "model.layers.0.extra");
	scratch_write(&s, "config.json", TINY_CONFIG_HEAD ",\"tie_word_embeddings\":false}",
		      strlen(TINY_CONFIG_HEAD ",\"tie_word_embeddings\":false}"));
	tiny_shard(&s, "model.safetensors", 0, n, SIZE_MAX);
	assert_int_equal(ql_source_open(&src, s.path, &e), QL_ENOTFOUND);
	assert_string_equal(e.param, "lm_head.weight");
	scratch_close(&s);
}

/* The real model, when QL_SMOL names it. */
static void smollm2(void **state)
{
	const char *path = getenv("QL_SMOL");
	struct ql_source_tensor t;
	struct ql_source *src;
	struct ql_err e = {0};
	size_t n;
	float *v;

	(void)state;
	if (path == NULL) {
		print_message("QL_SMOL (a SmolLM2-135M GGUF file) is not set\n");
		skip();
	}
	if (ql_source_open(&src, path, &e) != QL_OK)
		fail_msg("%s", e.message);
	assert_int_equal(ql_source_arch(src)->num_hidden_layers, 30);
	assert_int_equal(ql_source_arch(src)->num_attention_heads, 9);
	assert_int_equal(ql_source_arch(src)->num_key_value_heads, 3);
	assert_int_equal(ql_source_arch(src)->vocab_size, 49152);
	assert_true(ql_source_arch(src)->tie_word_embeddings);
	assert_non_null(ql_source_chat_template(src, &n));
	for (size_t i = 0; i < ql_arch_tensor_count(ql_source_arch(src)); i++) {
		struct ql_arch_tensor a;

		ql_arch_tensor_at(ql_source_arch(src), i, &a);
		assert_int_equal(ql_source_find(src, a.hf, &t, &e), QL_OK);
		v = malloc(t.n * sizeof *v);
		assert_non_null(v);
		if (ql_source_read_f32(src, &t, 0, t.rows, v, &e) != QL_OK)
			fail_msg("%s", e.message);
		free(v);
	}
	ql_source_close(src);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(from_gguf),	 cmocka_unit_test(from_hf), cmocka_unit_test(bad_indices),
		cmocka_unit_test(wrong_tensors), cmocka_unit_test(smollm2),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
