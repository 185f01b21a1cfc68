/* write.c - qlorad quantize and qlorad convert: options, choice of the writer, and what the writers share. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/json.h"
#include "core/export/export.h"
#include "core/quant/blk.h"
#include "tools/priv.h"

#define PIECE ((uint64_t)1 << 20)

static const char help_quantize[] =
	"usage: qlorad quantize IN OUT --type TYPE [--block N] [--double-quant on|off] [--compat] [--threads N]\n"
	"                       [--json]\n\n"
	"IN:  a Hugging Face directory, a safetensors (16/32 bit or bitsandbytes 4-bit), GGUF or QNAT file.\n"
	"OUT: by its ending.\n"
	"  .safetensors  nf4, fp4 in bitsandbytes' layout; int4 the same way, which only qlorad reads; f32, f16, bf16\n"
	"  .gguf         q4_k_m q5_k_m q6_k q8_0 q4_0 f16 bf16 f32 for whole models: metadata and tokenizer are written, llama.cpp\n"
	"                loads the file; also q4_1 q5_0 q5_1 q4_k q5_k iq4_nl, from GGUF (metadata kept) or from plain tensors\n"
	"  NAME/         nf4 or fp4, from a Hugging Face directory: a directory that transformers loads with bitsandbytes\n"
	"  .qnat         nf4; tensors QNAT cannot hold (norms, embeddings, biases) are left out and counted\n\n"
	"  --block N            block size of the 4-bit types, 32 … 4096 (64)\n"
	"  --double-quant on|off  quantise their scales too (on; QNAT keeps the plain scales beside)\n"
	"  --compat             QNAT: the offsets as qlora-rs writes them\n"
	"  --threads N          (all)\n"
	"  --json               what was written, as one JSON object on standard output\n\n"
	"Matrices are quantised; 1-D tensors and norms are not, and with 4-bit types neither are embeddings and output layers.\n\n"
	"exit status: 0 written; 1 a file was refused or writing failed, nothing is left behind; 64 wrong usage\n";
static const char help_convert[] =
	"usage: qlorad convert IN OUT [--compat] [--threads N] [--json]\n\n"
	"Writes the tensors of IN (see qlorad quantize --help) into another container, by OUT's ending, without quantising anew\n"
	"where OUT can hold what IN has; anything else becomes f32, which is exact.  A Hugging Face directory becomes a GGUF model\n"
	"in the type its weights have.\n\n"
	"exit status: 0 written; 1 a file was refused or writing failed, nothing is left behind; 64 wrong usage\n";

static bool has(const char *name, const char *part) { return strstr(name, part) != NULL; }

bool tool_is_weight(const struct tool_job *j, const struct ql_tset_tensor *t)
{
	bool four_bit = j->type == QL_NF4 || j->type == QL_FP4 || j->type == QL_INT4;

	if (t->n_dims < 2 || !t->values || t->n == 0 || has(t->name, "norm") || has(t->name, ".bias"))
		return false;
	return !four_bit || !(has(t->name, "embed") || has(t->name, "lm_head") || strcmp(t->name, "output.weight") == 0 ||
			      strcmp(t->name, "token_embd.weight") == 0);
}

void tool_step(struct tool_job *j, uint64_t n, const char *what)
{
	j->done += n;
	tool_progress_at(&j->progress, j->total > 0 ? (double)j->done / (double)j->total : 1.0, what);
}

int tool_q4(const struct tool_job *j, const struct ql_tset_tensor *t, struct ql_q4 *q, struct ql_err *e)
{
	bool keep = j->type == QL_DTYPE_COUNT;
	float *x;
	int rc;

	if (t->q4 != NULL && (keep || (t->q4->kind == j->type && t->q4->blocksize == j->q4.blocksize &&
				       t->q4->nested == j->q4.nested && !t->q4->per_channel))) {
		*q = *t->q4;
		q->owned = NULL;
		return QL_OK;
	}
	if (t->qnat != NULL && (keep || (j->type == QL_NF4 && t->qnat->block_size == j->q4.blocksize && !j->q4.nested)))
		return ql_qnat_to_q4(t->qnat, q, e);
	if (t->data != NULL && (t->dtype == QL_F32 || t->dtype == QL_F16 || t->dtype == QL_BF16) &&
	    (uintptr_t)t->data % 4 == 0) {
		rc = ql_q4_quantize(q, t->data, t->dtype, t->n, &j->q4, j->pool, e);
	} else {
		x = malloc(t->n * sizeof *x);
		rc = x == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for a tensor") : ql_tset_read(j->in, t, 0, t->n, x, e);
		if (rc == QL_OK)
			rc = ql_q4_quantize(q, x, QL_F32, t->n, &j->q4, j->pool, e);
		free(x);
	}
	ql_tset_drop(j->in, t);
	if (rc != QL_OK)
		(void)ql_err_prefix(e, "tensor %.200s", t->name);
	return rc;
}

int tool_stream(struct tool_job *j, const struct ql_tset_tensor *t, enum ql_dtype to,
		int (*sink)(void *ctx, const void *data, size_t len, struct ql_err *e), void *ctx, struct ql_err *e)
{
	uint64_t cols = t->n_dims > 0 ? t->shape[t->n_dims - 1] : 1, piece = cols <= PIECE ? PIECE / cols * cols : PIECE;
	bool same = t->data != NULL && t->dtype == to;
	float *x = malloc(piece * sizeof *x);
	uint8_t *out = malloc(piece * sizeof *x); /* no type is wider */
	int rc = x == NULL || out == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for rows of a tensor") : QL_OK;

	/* a longer row goes in pieces, which are whole blocks as it is: PIECE is a multiple of every block */
	for (uint64_t i = 0; rc == QL_OK && i < t->n; i += piece) {
		uint64_t k = t->n - i < piece ? t->n - i : piece;

		if (same) {
			rc = sink(ctx, (const uint8_t *)t->data + (i == 0 ? 0 : ql_dtype_bytes(to, i)), ql_dtype_bytes(to, k), e);
		} else {
			rc = ql_tset_read(j->in, t, i, k, x, e);
			if (rc == QL_OK && cols <= PIECE)
				rc = ql_blk_quantize(to, x, k / cols, cols, NULL, out, j->pool, e);
			else if (rc == QL_OK)
				rc = ql_blk_quantize(to, x, 1, k, NULL, out, j->pool, e);
			if (rc == QL_OK)
				rc = sink(ctx, out, ql_dtype_bytes(to, k), e);
		}
		ql_tset_drop(j->in, t);
		tool_step(j, k, t->name);
	}
	free(x);
	free(out);
	return rc == QL_OK ? QL_OK : ((void)ql_err_prefix(e, "tensor %.200s", t->name), rc);
}

/* Reading, for whole models: the export with metadata and tokenizer. */
static int on_progress(void *ctx, double done)
{
	tool_progress_at(ctx, done, "writing");
	return 0;
}

static enum ql_export_type recipe_of(const struct tool_job *j, const struct ql_source *s)
{
	struct ql_source_tensor t;

	if (j->type_name != NULL)
		return ql_export_type_of(j->type_name);
	if (ql_source_gguf(s) != NULL || ql_source_find(s, "model.embed_tokens.weight", &t, NULL) != QL_OK)
		return QL_EXPORT_TYPES;
	return ql_export_type_of(ql_dtype_name(t.dtype)); /* convert: the type its weights have */
}

static int write_gguf(struct tool_job *j, struct ql_err *e)
{
	struct ql_source *s = NULL;
	enum ql_export_type type;
	int rc = ql_source_open(&s, j->in_path, e);

	if (rc != QL_OK && ql_tset_kind(j->in) == QL_TSET_HF) /* without its config a directory is no model */
		return rc;
	if (rc != QL_OK) {
		*e = (struct ql_err){0};
		return tool_write_gguf(j, e);
	}
	type = recipe_of(j, s);
	if (type < QL_EXPORT_TYPES) {
		struct ql_export x = {.source = s, .pool = j->pool, .progress = on_progress, .progress_ctx = &j->progress};

		rc = ql_export_gguf(&x, type, j->dirfd, j->file, e);
	} else if (ql_tset_kind(j->in) == QL_TSET_HF) {
		rc = ql_err_set(e, QL_EUNSUPPORTED, "a Hugging Face directory becomes GGUF in f32, f16, bf16, q8_0, q4_0, q4_k_m, "
				"q5_k_m or q6_k; for %s write f32 or bf16 first and quantize that",
				j->type_name != NULL ? j->type_name : "its weights' type");
	} else {
		rc = tool_write_gguf(j, e);
	}
	ql_source_close(s);
	return rc;
}

static bool ends(const char *s, const char *tail)
{
	size_t n = strlen(s), m = strlen(tail);

	return n > m && strcmp(s + n - m, tail) == 0;
}

static bool parse_type(struct tool_job *j)
{
	j->type = ql_dtype_of(j->type_name);
	if (j->type < QL_DTYPE_COUNT)
		return ql_blk_known(j->type) || j->type >= QL_NF4;
	if (ql_export_type_of(j->type_name) < QL_EXPORT_TYPES) { /* q4_k_m, q5_k_m */
		j->type = strcmp(j->type_name, "q4_k_m") == 0 ? QL_Q4_K : QL_Q5_K;
		return true;
	}
	return false;
}

static bool parse(struct tool_job *j, int *argc, char **argv, int *threads)
{
	bool bad = false;
	const char *block = tool_option(argc, argv, "--block", &bad), *twice = tool_option(argc, argv, "--double-quant", &bad);
	const char *count = tool_option(argc, argv, "--threads", &bad);
	bool quantize = strcmp(argv[0], "quantize") == 0;

	j->type_name = tool_option(argc, argv, "--type", &bad);
	j->compat = tool_flag(argc, argv, "--compat");
	j->json = tool_flag(argc, argv, "--json");
	if (!tool_args_ok(*argc, argv, 2, bad))
		return false;
	*threads = count != NULL ? (int)tool_number(count, 1, 256) : (int)sysconf(_SC_NPROCESSORS_ONLN);
	j->q4 = (struct ql_q4_opts)QL_Q4_OPTS_DEFAULT;
	j->q4.blocksize = block == NULL ? 64 : tool_number(block, 32, 4096) < 0 ? 0 : (uint32_t)tool_number(block, 32, 4096);
	j->q4.nested = twice == NULL || strcmp(twice, "on") == 0;
	if (!quantize && (block != NULL || twice != NULL || j->type_name != NULL))
		return (void)fprintf(stderr, "qlorad convert: --type, --block and --double-quant belong to quantize\n"), false;
	if (quantize && (j->type_name == NULL || !parse_type(j)))
		return (void)fprintf(stderr, "qlorad quantize: --type %s; see --help\n",
				     j->type_name == NULL ? "is needed" : "is not known"), false;
	if (!ql_q4_blocksize_ok(j->q4.blocksize) || *threads < 1 || *threads > 256 ||
	    (twice != NULL && strcmp(twice, "on") != 0 && strcmp(twice, "off") != 0))
		return (void)fprintf(stderr, "qlorad %s: a value is out of range; see --help\n", argv[0]), false;
	if ((block != NULL || twice != NULL) && j->type < QL_NF4)
		return (void)fprintf(stderr, "qlorad quantize: --block and --double-quant go with nf4, fp4 and int4\n"), false;
	if (j->type < QL_DTYPE_COUNT && j->type >= QL_NF4)
		j->q4.kind = j->type;
	return true;
}

static int write_to(struct tool_job *j, const char *out, struct ql_err *e)
{
	char dir[4096], path[4096];
	bool whole = ends(out, "/");
	const char *slash;
	int rc;

	if (strlen(out) >= sizeof path)
		return ql_err_set(e, QL_EINVAL, "the path is too long");
	(void)snprintf(path, sizeof path, "%.*s", (int)strlen(out) - whole, out);
	out = path;
	slash = strrchr(out, '/');
	(void)snprintf(dir, sizeof dir, "%.*s", slash == NULL ? 1 : (int)(slash - out) + 1, slash == NULL ? "." : out);
	j->file = slash == NULL ? out : slash + 1;
	j->dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (j->dirfd < 0)
		return ql_err_errno(e, "%.200s", dir);
	for (size_t i = 0; i < ql_tset_count(j->in); i++)
		j->total += ql_tset_at(j->in, i)->n;
	tool_progress_start(&j->progress);
	rc = whole		  ? tool_write_dir(j, e)
	     : ends(out, ".gguf") ? write_gguf(j, e)
	     : ends(out, ".qnat") ? tool_write_qnat(j, e)
				  : tool_write_st(j, e);
	tool_progress_end(&j->progress);
	(void)close(j->dirfd);
	return rc;
}

/* The container that was written, opened again: a file that our own readers refuse was not written. */
static int summary(const struct tool_job *j, const char *out, struct ql_err *e)
{
	struct ql_tset *made;
	uint64_t elements = 0, bytes = 0;
	int rc = ql_tset_open(&made, out, false, e);
	json_t *o;

	if (rc != QL_OK)
		return rc;
	for (size_t i = 0; i < ql_tset_count(made); i++) {
		elements += ql_tset_at(made, i)->n;
		bytes += ql_tset_at(made, i)->bytes;
	}
	o = json_pack("{s:o, s:o, s:s, s:I, s:I, s:I, s:I}", "in", tool_path_json(j->in_path), "out", tool_path_json(out), "kind",
		      ql_tset_kind_name(ql_tset_kind(made)), "tensors", (json_int_t)ql_tset_count(made), "left_out",
		      (json_int_t)j->left_out, "elements", (json_int_t)elements, "bytes", (json_int_t)bytes);
	if (elements > 0)
		(void)json_object_set_new(o, "bits_per_weight", ql_json_real((double)bytes * 8 / (double)elements));
	(void)json_dumpf(o, stdout, JSON_INDENT(2));
	(void)putchar('\n');
	json_decref(o);
	ql_tset_close(made);
	return QL_OK;
}

int tool_write(int argc, char **argv)
{
	bool quantize = strcmp(argv[0], "quantize") == 0;
	struct tool_job j = {.cmd = argv[0], .type = QL_DTYPE_COUNT};
	struct ql_tset *in = NULL;
	struct ql_err e = {0};
	int rc, threads;

	if (tool_flag(&argc, argv, "--help") || tool_flag(&argc, argv, "-h"))
		return (void)fputs(quantize ? help_quantize : help_convert, stdout), TOOL_OK;
	if (!parse(&j, &argc, argv, &threads))
		return TOOL_USAGE;
	if (!ends(argv[2], ".gguf") && !ends(argv[2], ".qnat") && !ends(argv[2], ".safetensors") &&
	    !(quantize && ends(argv[2], "/"))) {
		(void)fprintf(stderr, "qlorad %s: %s ends neither in .gguf, .safetensors nor .qnat%s\n", j.cmd, argv[2],
			      quantize ? ", nor in /" : "");
		return TOOL_USAGE;
	}
	j.in_path = argv[1];
	/* GGUF to GGUF keeps its names and rows; towards the others a model takes Hugging Face's */
	rc = ql_tset_open(&in, argv[1], !ends(argv[2], ".gguf"), &e);
	if (rc == QL_OK) {
		j.in = in;
		j.pool = ql_pool_new(threads);
		rc = write_to(&j, argv[2], &e);
	}
	if (rc == QL_OK && j.json)
		rc = summary(&j, argv[2], &e);
	ql_pool_free(j.pool);
	ql_tset_close(in);
	if (rc == QL_OK && j.left_out > 0)
		(void)fprintf(stderr, "qlorad %s: %zu tensors left out, which this format cannot hold\n", j.cmd, j.left_out);
	return rc == QL_OK ? TOOL_OK : tool_fail(j.cmd, &e);
}
