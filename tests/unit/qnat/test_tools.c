/* test_tools.c - the file tools from the command line on a tiny model: every container to every other, exit statuses. */
#include <math.h>
#include <stdio_ext.h>
#include <sys/stat.h>

#include "core/formats/source.h"
#include "core/qnat/tset.h"
#include "tests/unit/formats/tiny.h"
#include "tools/tools.h"

static struct scratch dir;

/* Runs "COMMAND args…" with `@name` standing for a file of the scratch directory; output goes to out.txt there. */
static int tool(const char *line)
{
	char text[1024], paths[8][128], *argv[16], *word, *save;
	int argc = 0, used = 0, status, keep = dup(1), fd = openat(dir.fd, "out.txt", O_CREAT | O_TRUNC | O_RDWR, 0600);

	assert_true(keep >= 0 && fd >= 0);
	(void)snprintf(text, sizeof text, "%s", line);
	for (word = strtok_r(text, " ", &save); word != NULL; word = strtok_r(NULL, " ", &save)) {
		if (word[0] == '@') {
			(void)snprintf(paths[used], sizeof paths[used], "%s/%s", dir.path, word + 1);
			word = paths[used++];
		}
		argv[argc++] = word;
	}
	argv[argc] = NULL;
	(void)fflush(stdout);
	(void)dup2(fd, 1);
	status = ql_tools_main(argc, argv);
	(void)fflush(stdout);
	(void)dup2(keep, 1);
	(void)close(keep);
	(void)close(fd);
	return status;
}

static bool printed(const char *what)
{
	size_t len;
	uint8_t *p = scratch_read(&dir, "out.txt", &len);
	bool yes = memmem(p, len, what, strlen(what)) != NULL;

	free(p);
	return yes;
}

static int setup(void **ctx)
{
	(void)ctx;
	scratch_open(&dir);
	tiny_gguf(&dir, "a.gguf");
	tiny_shard(&dir, "a.safetensors", 0, 10, SIZE_MAX);
	return 0;
}

static int teardown(void **ctx)
{
	(void)ctx;
	scratch_close(&dir);
	return 0;
}

static void test_bnb(void **ctx)
{
	(void)ctx;
	assert_int_equal(tool("quantize @a.gguf @nf4.safetensors --type nf4"), 0);
	assert_int_equal(tool("compare @a.gguf @nf4.safetensors --max-rel 0.2"), 0);
	assert_int_equal(tool("compare @a.gguf @nf4.safetensors --max-rel 0.0001 --json"), 2);
	assert_true(printed("relative_error"));
	assert_int_equal(tool("inspect @nf4.safetensors --json --values"), 0);
	assert_true(printed("\"type\": \"nf4\"") && printed("\"double_quantised\": true") && printed("\"valid\": true"));
	assert_int_equal(tool("convert @nf4.safetensors @same.safetensors --json"), 0);
	assert_true(printed("\"kind\": \"safetensors\"") && printed("\"bits_per_weight\""));
	assert_int_equal(tool("compare @nf4.safetensors @same.safetensors --max-rel 0"), 0);
	assert_int_equal(tool("quantize @a.gguf @fp4.safetensors --type fp4 --block 128 --double-quant off"), 0);
	assert_int_equal(tool("compare @a.gguf @fp4.safetensors --max-rel 0.3"), 0);
	assert_int_equal(tool("quantize @a.gguf @int4.safetensors --type int4"), 0);
	assert_int_equal(tool("compare @a.gguf @int4.safetensors --max-rel 0.3"), 0);
	assert_int_equal(tool("quantize @a.safetensors @16.safetensors --type f16"), 0);
	assert_int_equal(tool("compare @a.safetensors @16.safetensors --max-rel 0"), 0);
}

static void test_qnat_tools(void **ctx)
{
	(void)ctx;
	assert_int_equal(tool("quantize @a.gguf @q.qnat --type nf4 --compat"), 0);
	assert_int_equal(tool("inspect @q.qnat"), 0);
	assert_true(printed("off by a constant"));
	assert_int_equal(tool("convert @q.qnat @q.safetensors"), 0);
	assert_int_equal(tool("compare @q.qnat @q.safetensors --max-rel 0"), 0);
	assert_int_equal(tool("convert @q.safetensors @r.qnat"), 0);
	assert_int_equal(tool("compare @q.qnat @r.qnat --max-rel 0"), 0);
	assert_int_equal(tool("inspect @r.qnat"), 0);
	assert_true(printed("\"true\""));
	assert_int_equal(tool("convert @q.qnat @q.gguf"), 0);
	assert_int_equal(tool("compare @q.qnat @q.gguf --max-rel 0"), 0);
	assert_int_equal(tool("quantize @q.qnat @q8.gguf --type q8_0"), 0);
	assert_int_equal(tool("compare @q.qnat @q8.gguf --max-rel 0.01"), 0);
	assert_int_equal(tool("convert @a.gguf @none.qnat"), 1); /* nothing in it is NF4 */
	assert_false(scratch_has(&dir, "none.qnat"));
	assert_int_equal(tool("quantize @a.gguf @none.qnat --type fp4"), 1);
}

static void test_gguf(void **ctx)
{
	static const char *const types[] = {"q4_k_m", "q5_k_m", "q6_k", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "q4_k",
					    "f16", "bf16", "f32"};
	struct ql_source *s;
	char line[256], path[128];
	struct ql_err e;

	(void)ctx;
	for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
		(void)snprintf(line, sizeof line, "quantize @a.gguf @%s.gguf --type %s --threads 2", types[i], types[i]);
		assert_int_equal(tool(line), 0);
		(void)snprintf(path, sizeof path, "%s/%s.gguf", dir.path, types[i]);
		if (ql_source_open(&s, path, &e) != QL_OK) /* a whole model still */
			fail_msg("%s: %s", types[i], e.message);
		ql_source_close(s);
		(void)snprintf(line, sizeof line, "compare @a.gguf @%s.gguf --max-rel 0.12", types[i]);
		assert_int_equal(tool(line), 0);
	}
	assert_int_equal(tool("convert @a.gguf @copy.gguf"), 0);
	assert_int_equal(tool("compare @a.gguf @copy.gguf --max-rel 0"), 0);
	assert_int_equal(tool("convert @q4_0.gguf @copy.safetensors"), 0); /* HF names and rows */
	assert_int_equal(tool("compare @q4_0.gguf @copy.safetensors --max-rel 0"), 0);
	assert_int_equal(tool("inspect @q4_k_m.gguf --json"), 0);
	assert_true(printed("tokenizer.ggml.tokens") && printed("bits_per_weight"));
}

/* A whole directory in bitsandbytes' form. */
static void test_directory(void **ctx)
{
	struct scratch in;
	char line[256], path[128];
	uint8_t *p;
	size_t len;

	(void)ctx;
	scratch_open(&in);
	tiny_hf(&in);
	scratch_write(&in, "tokenizer_config.json", "{}", 2);
	(void)snprintf(line, sizeof line, "quantize %s @model/ --type nf4 --json", in.path);
	assert_int_equal(tool(line), 0);
	(void)snprintf(line, sizeof line, "compare %s @model --max-rel 0.2", in.path);
	assert_int_equal(tool(line), 0);
	(void)snprintf(line, sizeof line, "inspect %s", in.path);
	assert_int_equal(tool(line), 0);
	assert_true(printed("Hugging Face directory") && printed("num_hidden_layers"));
	(void)snprintf(path, sizeof path, "model/config.json");
	p = scratch_read(&dir, path, &len);
	assert_non_null(memmem(p, len, "\"bnb_4bit_quant_type\": \"nf4\"", 28));
	free(p);
	assert_true(scratch_has(&dir, "model/tokenizer_config.json"));
	(void)snprintf(line, sizeof line, "quantize %s @model/ --type nf4", in.path);
	assert_int_equal(tool(line), 1); /* it is there already */
	assert_int_equal(mkdirat(dir.fd, "taken.tmp", 0700), 0);
	scratch_write(&dir, "mine", "x", 1);
	assert_int_equal(renameat(dir.fd, "mine", dir.fd, "taken.tmp/mine"), 0);
	(void)snprintf(line, sizeof line, "quantize %s @taken/ --type nf4", in.path);
	assert_int_equal(tool(line), 1); /* not over somebody's directory */
	assert_true(scratch_has(&dir, "taken.tmp/mine") && !scratch_has(&dir, "taken"));
	(void)snprintf(line, sizeof line, "quantize %s @other/ --type q8_0", in.path);
	assert_int_equal(tool(line), 1);
	assert_int_equal(tool("quantize @a.gguf @other/ --type nf4"), 1);
	assert_false(scratch_has(&dir, "other"));
	(void)snprintf(line, sizeof line, "quantize %s @x.gguf --type q8_0", in.path);
	assert_int_equal(tool(line), 1); /* a GGUF model needs a tokenizer */
	scratch_close(&in);
}

/* A hand-made 4-bit tensor of 64 elements; `state` is its JSON, `absmax` and `map` the counts of floats, `codes` the bytes. */
static int open_bnb(const char *state, uint64_t codes, uint64_t absmax, uint64_t map, float scale, struct ql_err *e)
{
	const struct ql_st_spec specs[] = {
		{"w", QL_U8, 2, {codes, 1}}, {"w.absmax", QL_F32, 1, {absmax}}, {"w.quant_map", QL_F32, 1, {map}},
		{"w.quant_state.bitsandbytes__nf4", QL_U8, 1, {strlen(state)}}};
	static const uint8_t zeros[1024];
	struct ql_st_writer *w;
	struct ql_tset *t;
	char path[128];
	size_t k;
	int rc;

	assert_int_equal(ql_st_write_begin(&w, dir.fd, "bnb.safetensors", specs, 4, NULL), QL_OK);
	while ((k = ql_st_write_next(w)) < 4) {
		size_t n = k == 0 ? codes : k == 1 ? absmax * 4 : k == 2 ? map * 4 : strlen(state);

		if (k == 1 && absmax > 0) {
			assert_int_equal(ql_st_write_data(w, &scale, 4, NULL), QL_OK);
			n -= 4;
		}
		if (n > 0)
			assert_int_equal(ql_st_write_data(w, k == 3 ? (const void *)state : zeros, n, NULL), QL_OK);
	}
	assert_int_equal(ql_st_write_commit(w, NULL), QL_OK);
	(void)snprintf(path, sizeof path, "%s/bnb.safetensors", dir.path);
	*e = (struct ql_err){0};
	rc = ql_tset_open(&t, path, false, e);
	assert_true(rc == QL_OK ? ql_tset_count(t) == 1 : e->message[0] != '\0');
	ql_tset_close(t);
	return rc;
}

/* Figures are judged by llama.cpp (tests/interop/test_quant_llamacpp.py); here, what is refused. */
static void test_perplexity(void **ctx)
{
	(void)ctx;
	assert_int_equal(tool("perplexity @a.gguf"), 64);
	assert_int_equal(tool("perplexity @a.gguf @t.txt --weights q8_0"), 64);
	assert_int_equal(tool("perplexity @a.gguf @t.txt --block 64"), 64);
	assert_int_equal(tool("perplexity @a.gguf @t.txt --weights nf4 --block 48"), 64);
	assert_int_equal(tool("perplexity @a.gguf @t.txt --context 3"), 64);
	assert_int_equal(tool("perplexity @a.gguf @t.txt --device tpu"), 64);
	assert_int_equal(tool("perplexity @a.safetensors @t.txt"), 1);
	assert_int_equal(tool("perplexity @none.gguf @t.txt"), 1);
	assert_int_equal(tool("perplexity --help"), 0);
	assert_true(printed("usage: qlorad perplexity"));
}

static void test_malformed_bnb(void **ctx)
{
	static const char good[] = "{\"blocksize\":64,\"shape\":[1,64]}";
	static const char *const bad[] = {
		"", "[]", "{", "{\"blocksize\":64}", "{\"shape\":[1,64]}", "{\"blocksize\":0,\"shape\":[1,64]}",
		"{\"blocksize\":63,\"shape\":[1,64]}", "{\"blocksize\":64,\"shape\":[]}", "{\"blocksize\":64,\"shape\":[1,65]}",
		"{\"blocksize\":64,\"shape\":[-1,64]}", "{\"blocksize\":64,\"shape\":[\"1\",64]}",
		"{\"blocksize\":64,\"shape\":[9223372036854775807,9223372036854775807]}",
		"{\"blocksize\":64,\"nested_blocksize\":256,\"shape\":[1,64]}", "{\"blocksize\":\"64\",\"shape\":[1,64]}",
		"{\"blocksize\":64,\"nested_offset\":1e99,\"shape\":[1,64]}", "{\"blocksize\":1e3,\"shape\":[1,64]}"};
	struct ql_err e;

	(void)ctx;
	assert_int_equal(open_bnb(good, 32, 1, 16, 1.0f, &e), QL_OK);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		if (open_bnb(bad[i], 32, 1, 16, 1.0f, &e) == QL_OK)
			fail_msg("accepted: %s", bad[i]);
	assert_int_equal(open_bnb(good, 31, 1, 16, 1.0f, &e), QL_EFORMAT);
	assert_int_equal(open_bnb(good, 32, 2, 16, 1.0f, &e), QL_EFORMAT);
	assert_int_equal(open_bnb(good, 32, 0, 16, 1.0f, &e), QL_EFORMAT);
	assert_int_equal(open_bnb(good, 32, 1, 15, 1.0f, &e), QL_EFORMAT);
	assert_int_equal(open_bnb(good, 32, 1, 16, (float)INFINITY, &e), QL_EFORMAT);
	assert_non_null(strstr(e.message, "absmax"));
}

static void test_refusals(void **ctx)
{
	(void)ctx;
	assert_int_equal(tool("inspect @missing.gguf"), 1);
	assert_int_equal(tool("inspect"), 64);
	assert_int_equal(tool("inspect @a.gguf @a.gguf"), 64);
	assert_int_equal(tool("inspect @a.gguf --wrong"), 64);
	assert_int_equal(tool("quantize @a.gguf @x.gguf"), 64);
	assert_int_equal(tool("quantize @a.gguf @x.gguf --type q9"), 64);
	assert_int_equal(tool("quantize @a.gguf @x.bin --type nf4"), 64);
	assert_int_equal(tool("quantize @a.gguf @x.safetensors --type nf4 --block 63"), 64);
	assert_int_equal(tool("quantize @a.gguf @x.safetensors --type nf4 --block 64k"), 64);
	assert_int_equal(tool("quantize @a.gguf @x.safetensors --type nf4 --block 4294967360"), 64);
	assert_int_equal(tool("quantize @a.gguf @x.safetensors --type nf4 --threads 2x"), 64);
	assert_int_equal(tool("perplexity @a.gguf @a.gguf --device cuda:x"), 64);
	assert_int_equal(tool("quantize @a.gguf @x.gguf --type q4_0 --block 64"), 64);
	assert_int_equal(tool("quantize @a.gguf @x.gguf --type"), 64);
	assert_int_equal(tool("convert @a.gguf @x.gguf --type f16"), 64);
	assert_int_equal(tool("compare @a.gguf @a.gguf --max-rel x"), 64);
	assert_int_equal(tool("quantize @a.gguf @x.gguf --type nf4"), 1);
	assert_int_equal(tool("quantize @a.gguf @x.safetensors --type q4_0"), 1);
	assert_int_equal(tool("compare @a.gguf @a.safetensors"), 2); /* not all tensors are in it */
	assert_false(scratch_has(&dir, "x.gguf"));
	assert_false(scratch_has(&dir, "x.safetensors"));
	assert_int_equal(tool("quantize --help"), 0);
	assert_true(printed("exit status"));
	scratch_write(&dir, "cut.gguf", "GGUF\3\0\0\0", 8);
	assert_int_equal(tool("inspect @cut.gguf"), 1);
	tiny_shard(&dir, "nan.safetensors", 0, 10, 3);
	assert_int_equal(tool("inspect @nan.safetensors"), 0);
	assert_int_equal(tool("inspect @nan.safetensors --values"), 1);
	assert_true(printed("NOT FINITE"));
	assert_int_equal(tool("quantize @nan.safetensors @x.safetensors --type nf4"), 1);
	assert_false(scratch_has(&dir, "x.safetensors"));
}

static void test_full_disk(void **ctx)
{
	int keep = dup(1), fd = open("/dev/full", O_WRONLY | O_CLOEXEC), status;
	char name[] = "inspect", json[] = "--json", path[128], *argv[] = {name, path, json, NULL};

	(void)ctx;
	assert_true(keep >= 0 && fd >= 0);
	(void)snprintf(path, sizeof path, "%s/a.gguf", dir.path);
	(void)fflush(stdout);
	(void)dup2(fd, 1);
	status = ql_tools_main(3, argv);
	__fpurge(stdout);
	clearerr(stdout);
	(void)dup2(keep, 1);
	(void)close(keep);
	(void)close(fd);
	assert_int_equal(status, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_full_disk, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bnb, setup, teardown),
		cmocka_unit_test_setup_teardown(test_qnat_tools, setup, teardown),
		cmocka_unit_test_setup_teardown(test_gguf, setup, teardown),
		cmocka_unit_test_setup_teardown(test_directory, setup, teardown),
		cmocka_unit_test_setup_teardown(test_perplexity, setup, teardown),
		cmocka_unit_test_setup_teardown(test_malformed_bnb, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
