/* formats_tool.c - the formats and export rooms on a command line, for the interop tests (tests/interop/test_formats_*.py).
 *   arch SRC                          the architecture as JSON
 *   dump SRC TENSOR                   fp32 rows to stdout
 *   inv-freq SRC                      fp32 to stdout
 *   adapter-read SRC DIR              per pair: module path, rank, scale, then nothing else; fails as the reader does
 *   adapter-write SRC DIR RANK ALPHA RSLORA BAKE DTYPE   a fixed pseudo-random adapter on all linears
 *   adapter-copy SRC FROM TO BAKE     read, then write as f32
 *   gguf|lora|hf SRC ADAPTER|- TYPE DIR FILE|-           export and verify
 *   vocab TOKENIZER.json CONFIG.json SIZE OUT.gguf       a GGUF file with the vocabulary and no tensors
 * Exit status 1 with the error on stderr. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/export/export.h"
#include "core/export/vocab_hf.h"

static struct ql_err err;

static int fail(void)
{
	(void)fprintf(stderr, "%d %s: %s\n", err.code, err.param, err.message);
	return 1;
}

static int open_dir(const char *path) { return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC); }

static int cmd_arch(const struct ql_arch *a)
{
	(void)printf("{\"family\":\"%s\",\"hidden\":%u,\"inner\":%u,\"layers\":%u,\"heads\":%u,\"kv\":%u,\"head_dim\":%u,\"vocab\":%u,"
		     "\"context\":%u,\"eps\":%.9g,\"theta\":%.17g,\"rope\":%d,\"tied\":%d,\"bias\":%d,\"qk_norm\":%d}\n",
		     a->family, a->hidden_size, a->intermediate_size, a->num_hidden_layers, a->num_attention_heads,
		     a->num_key_value_heads, a->head_dim, a->vocab_size, a->max_position_embeddings, (double)a->rms_norm_eps,
		     a->rope_theta, (int)a->rope.kind, a->tie_word_embeddings, a->attention_bias_qkv, a->qk_norm);
	return 0;
}

static int cmd_dump(const struct ql_source *s, const char *name)
{
	struct ql_source_tensor t;
	float *v;
	int rc;

	if (ql_source_find(s, name, &t, &err) != QL_OK)
		return fail();
	v = malloc((size_t)t.n * sizeof *v);
	if (v == NULL)
		return 1;
	rc = ql_source_read_f32(s, &t, 0, t.rows, v, &err);
	if (rc == QL_OK)
		(void)fwrite(v, sizeof *v, (size_t)t.n, stdout);
	free(v);
	return rc == QL_OK ? 0 : fail();
}

static int cmd_inv_freq(const struct ql_arch *a)
{
	float v[QL_HEAD_DIM_MAX / 2];

	ql_arch_inv_freq(a, v);
	(void)fwrite(v, sizeof *v, a->head_dim / 2, stdout);
	return 0;
}

static int read_adapter(struct ql_adapter_file *f, const char *dir, const struct ql_arch *a)
{
	int fd = open_dir(dir), rc = fd < 0 ? ql_err_errno(&err, "open %s", dir) : ql_adapter_read(f, fd, a, &err);

	if (fd >= 0)
		(void)close(fd);
	return rc;
}

static int cmd_adapter_read(const struct ql_arch *a, const char *dir)
{
	struct ql_adapter_file f;

	if (read_adapter(&f, dir, a) != QL_OK)
		return fail();
	for (size_t i = 0; i < (size_t)f.n_layers * QL_MODULES; i++)
		if (f.pairs[i].a != NULL)
			(void)printf("%zu %s %u %.9g\n", i / QL_MODULES, ql_module_name((int)(i % QL_MODULES)), f.pairs[i].rank,
				     ql_adapter_pair_scale(&f, &f.pairs[i]));
	ql_adapter_file_free(&f);
	return 0;
}

static int write_adapter(const struct ql_adapter_file *f, const struct ql_arch *a, const char *dir, enum ql_dtype dtype, bool bake)
{
	int fd = open_dir(dir), rc = fd < 0 ? ql_err_errno(&err, "open %s", dir) : QL_OK;

	if (rc == QL_OK)
		rc = ql_adapter_write(f, a, fd, &(struct ql_adapter_write_opts){dtype, "base/model", bake}, &err);
	if (fd >= 0)
		(void)close(fd);
	return rc == QL_OK ? 0 : fail();
}

static int cmd_adapter_copy(const struct ql_arch *a, char **arg)
{
	struct ql_adapter_file f;
	int rc;

	if (read_adapter(&f, arg[0], a) != QL_OK)
		return fail();
	rc = write_adapter(&f, a, arg[1], QL_F32, atoi(arg[2]) != 0);
	ql_adapter_file_free(&f);
	return rc;
}

/* A and B in (-0.1, 0.1) from a linear congruential sequence. */
static void fill(float *v, size_t n, uint32_t *state)
{
	for (size_t i = 0; i < n; i++) {
		*state = *state * 1664525u + 1013904223u;
		v[i] = ((float)(*state >> 8) / 16777216.0f - 0.5f) * 0.2f;
	}
}

static int cmd_adapter_write(const struct ql_arch *a, char **arg)
{
	uint32_t rank = (uint32_t)atoi(arg[1]), state = 1, rows, cols;
	struct ql_adapter_file f;
	size_t total = 0, at = 0;
	float *mem;
	int rc;

	for (int m = 0; m < QL_MODULES; m++) {
		ql_arch_module_shape(a, m, &rows, &cols);
		total += (size_t)rank * (rows + cols) * a->num_hidden_layers;
	}
	if (ql_adapter_file_init(&f, a, rank, atof(arg[2]), atoi(arg[3]) != 0, &err) != QL_OK)
		return fail();
	mem = malloc(total * sizeof *mem);
	if (mem == NULL)
		return 1;
	fill(mem, total, &state);
	for (uint32_t l = 0; l < a->num_hidden_layers; l++)
		for (int m = 0; m < QL_MODULES; m++) {
			ql_arch_module_shape(a, m, &rows, &cols);
			ql_adapter_file_set(&f, l, m, mem + at, mem + at + (size_t)rank * cols);
			at += (size_t)rank * (rows + cols);
		}
	rc = write_adapter(&f, a, arg[0], ql_dtype_of(arg[5]), atoi(arg[4]) != 0);
	ql_adapter_file_free(&f);
	free(mem);
	return rc;
}

static int cmd_export(const struct ql_source *s, const char *what, char **arg)
{
	enum ql_export_type type = ql_export_type_of(arg[1]);
	struct ql_export x = {.source = s};
	struct ql_adapter_file f = {0};
	int fd, rc = QL_OK;

	if (strcmp(arg[0], "-") != 0) {
		rc = read_adapter(&f, arg[0], ql_source_arch(s));
		x.adapter = &f;
	}
	fd = open_dir(arg[2]);
	if (rc == QL_OK && fd < 0)
		rc = ql_err_errno(&err, "open %s", arg[2]);
	if (rc == QL_OK && strcmp(what, "gguf") == 0) {
		rc = ql_export_gguf(&x, type, fd, arg[3], &err);
		rc = rc != QL_OK ? rc : ql_export_verify_gguf(&x, type, fd, arg[3], &err);
	} else if (rc == QL_OK && strcmp(what, "lora") == 0) {
		rc = ql_export_gguf_lora(&x, type, fd, arg[3], &err);
		rc = rc != QL_OK ? rc : ql_export_verify_gguf_lora(&x, type, fd, arg[3], &err);
	} else if (rc == QL_OK) {
		rc = ql_export_hf(&x, type, fd, &err);
		rc = rc != QL_OK ? rc : ql_export_verify_hf(&x, type, fd, &err);
	}
	if (fd >= 0)
		(void)close(fd);
	ql_adapter_file_free(&f);
	return rc == QL_OK ? 0 : fail();
}

static int run(const struct ql_source *s, const char *cmd, int n, char **arg)
{
	const struct ql_arch *a = ql_source_arch(s);

	if (strcmp(cmd, "arch") == 0)
		return cmd_arch(a);
	if (strcmp(cmd, "dump") == 0 && n == 1)
		return cmd_dump(s, arg[0]);
	if (strcmp(cmd, "inv-freq") == 0)
		return cmd_inv_freq(a);
	if (strcmp(cmd, "adapter-read") == 0 && n == 1)
		return cmd_adapter_read(a, arg[0]);
	if (strcmp(cmd, "adapter-write") == 0 && n == 6)
		return cmd_adapter_write(a, arg);
	if (strcmp(cmd, "adapter-copy") == 0 && n == 3)
		return cmd_adapter_copy(a, arg);
	if ((strcmp(cmd, "gguf") == 0 || strcmp(cmd, "lora") == 0 || strcmp(cmd, "hf") == 0) && n == 4)
		return cmd_export(s, cmd, arg);
	(void)fprintf(stderr, "bad command\n");
	return 2;
}

static int cmd_vocab(const char *tokenizer, const char *config, const char *size, const char *out)
{
	static const char *const keys[] = {"llama.block_count", "llama.context_length", "llama.embedding_length",
					   "llama.feed_forward_length", "llama.attention.head_count"};
	static const uint32_t values[] = {1, 512, 64, 64, 4};
	struct ql_arch a = {.family = "llama", .vocab_size = (uint32_t)atoi(size), .bos_id = -1, .pad_id = -1};
	struct ql_buf tok = {0}, cfg = {0};
	struct ql_gguf_writer *w = NULL;
	char *copy = strdup(out), *slash = strrchr(copy, '/'); /* files are written beneath a directory */
	const char *name = slash != NULL ? slash + 1 : out;
	int dir, rc = ql_io_read_file(tokenizer, (size_t)1 << 28, &tok, &err);

	if (slash != NULL)
		*slash = '\0';
	dir = open_dir(slash != NULL ? copy : ".");
	if (rc == QL_OK)
		rc = ql_io_read_file(config, (size_t)1 << 24, &cfg, &err);
	if (rc == QL_OK)
		rc = ql_gguf_write_new(&w, &err);
	if (rc == QL_OK)
		rc = ql_gguf_write_str(w, "general.architecture", "llama", 5, &err);
	for (size_t i = 0; rc == QL_OK && i < sizeof keys / sizeof keys[0]; i++)
		rc = ql_gguf_write_u32(w, keys[i], values[i], &err);
	if (rc == QL_OK)
		rc = ql_gguf_write_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f, &err);
	if (rc == QL_OK)
		rc = ql_vocab_hf_write(w, &a, tok.data, tok.len, cfg.data, cfg.len, &err);
	if (rc == QL_OK)
		rc = ql_gguf_write_begin(w, dir, name, &err);
	if (rc == QL_OK)
		rc = ql_gguf_write_commit(w, &err);
	else
		ql_gguf_write_abort(w);
	ql_buf_free(&tok);
	ql_buf_free(&cfg);
	free(copy);
	(void)close(dir);
	return rc == QL_OK ? 0 : fail();
}

int main(int argc, char **argv)
{
	struct ql_source *s;
	int rc;

	if (argc < 3)
		return 2;
	if (strcmp(argv[1], "vocab") == 0)
		return argc == 6 ? cmd_vocab(argv[2], argv[3], argv[4], argv[5]) : 2;
	if (ql_source_open(&s, argv[2], &err) != QL_OK)
		return fail();
	rc = run(s, argv[1], argc - 3, argv + 3);
	ql_source_close(s);
	return rc;
}
