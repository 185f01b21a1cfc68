/* perplexity.c - qlorad perplexity: how well a model predicts a text, with its weights as the file has them or in 4 bit. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/model/perplexity.h"
#include "core/text/tok.h"
#include "tools/priv.h"

static const char help[] =
	"usage: qlorad perplexity MODEL TEXT [--weights stored|nf4|fp4|int4] [--block N] [--double-quant on|off]\n"
	"                         [--adapter DIR] [--context N] [--windows N] [--device cpu|cuda[:N]] [--threads N] [--json]\n\n"
	"exp of the mean negative log-likelihood of a text.  The text's tokens are cut into windows that do not overlap, the second\n"
	"half of each is scored given all before it in the window, a rest shorter than a window is dropped: llama-perplexity's\n"
	"rule, so that its figures compare.\n\n"
	"  MODEL  a GGUF file or a Hugging Face directory;  TEXT  a UTF-8 file\n"
	"  --weights W          stored: the file's own values, whatever their type (default); nf4, fp4, int4: the linears quantised\n"
	"                       anew, as the daemon holds them\n"
	"  --block N, --double-quant on|off   of these (64, on)\n"
	"  --adapter DIR        with a PEFT adapter on top\n"
	"  --context N          tokens of a window (512)\n"
	"  --windows N          stop after so many (all)\n"
	"  --device D           (cpu)      --threads N  (all)      --json  one JSON object on standard output\n\n"
	"exit status: 0 measured; 1 a file was refused or work failed; 64 wrong usage\n";

struct job {
	const char *model_path, *text_path, *adapter_path, *weights, *device;
	struct ql_model_opts load;
	struct ql_perplexity_opts run;
	int threads;
	bool json;
	struct tool_progress progress;
	struct ql_source *source;
	struct ql_tok *tok;
	struct ql_device *dev;
	struct ql_model *model;
	struct ql_lora_set *lora;
	struct ql_ids ids;
};

static int load_tokenizer(struct job *j, struct ql_err *e)
{
	struct ql_buf tok = {0}, config = {0};
	char path[4400];
	int rc;

	if (ql_source_gguf(j->source) != NULL)
		return ql_tok_from_gguf(&j->tok, ql_source_gguf(j->source), e);
	(void)snprintf(path, sizeof path, "%s/tokenizer.json", ql_source_dir(j->source));
	rc = ql_io_read_file(path, QL_TOKENIZER_JSON_MAX, &tok, e);
	if (rc == QL_OK) {
		(void)snprintf(path, sizeof path, "%s/tokenizer_config.json", ql_source_dir(j->source));
		rc = ql_io_read_file(path, QL_TOKENIZER_JSON_MAX, &config, e);
		rc = rc == QL_ENOTFOUND ? QL_OK : rc;
	}
	if (rc == QL_OK)
		rc = ql_tok_from_json(&j->tok, tok.data, tok.len, config.data, config.len, e);
	ql_buf_free(&tok);
	ql_buf_free(&config);
	return rc;
}

static int read_text(struct job *j, struct ql_err *e)
{
	struct ql_buf text = {0};
	int rc = ql_io_read_file(j->text_path, QL_TOK_TEXT_MAX, &text, e);

	if (rc == QL_OK)
		rc = ql_tok_encode(j->tok, text.len > 0 ? text.data : "", text.len, QL_TOK_ADD_SPECIAL, NULL, 0, &j->ids, e);
	if (rc == QL_OK && j->ids.n > 0 && ql_tok_add_eos(j->tok))
		j->ids.n--; /* windows end anywhere */
	for (size_t i = 0; rc == QL_OK && i < j->ids.n; i++)
		if ((uint32_t)j->ids.ids[i] >= ql_source_arch(j->source)->vocab_size)
			rc = ql_err_set(e, QL_EMISMATCH, "the tokenizer's token %d is outside the model's vocabulary of %u",
					j->ids.ids[i], ql_source_arch(j->source)->vocab_size);
	ql_buf_free(&text);
	return rc;
}

static void on_load(void *ctx, double fraction, const char *what) { tool_progress_at(ctx, fraction, what); }

static int on_window(void *ctx, uint64_t done, uint64_t all, double perplexity)
{
	char what[64];

	(void)snprintf(what, sizeof what, "window %llu of %llu: %.4f", (unsigned long long)done, (unsigned long long)all, perplexity);
	tool_progress_at(ctx, (double)done / (double)all, what);
	return 0;
}

static int load_adapter(struct job *j, struct ql_err *e)
{
	struct ql_adapter_file f = {0};
	int dir, rc;

	if (j->adapter_path == NULL)
		return QL_OK;
	dir = open(j->adapter_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return ql_err_errno(e, "%.200s", j->adapter_path);
	rc = ql_adapter_read(&f, dir, &j->model->arch, e);
	(void)close(dir);
	if (rc == QL_OK)
		rc = ql_lora_from_file(&j->lora, j->model, &f, false, e);
	ql_adapter_file_free(&f);
	return rc;
}

static int measure(struct job *j, struct ql_perplexity *r, struct ql_err *e)
{
	int rc = ql_source_open(&j->source, j->model_path, e);

	if (rc == QL_OK)
		rc = load_tokenizer(j, e);
	if (rc == QL_OK)
		rc = read_text(j, e);
	if (rc == QL_OK && strcmp(j->device, "cpu") == 0)
		rc = ql_device_cpu(&j->dev, j->threads, e);
	else if (rc == QL_OK)
		rc = ql_device_cuda(&j->dev, j->device[4] == ':' ? (int)tool_number(j->device + 5, 0, 1023) : 0, e);
	if (rc == QL_OK)
		rc = ql_model_load(&j->model, j->dev, j->source, &j->load, e);
	if (rc == QL_OK)
		rc = load_adapter(j, e);
	j->run.lora = j->lora;
	j->run.bos = j->tok != NULL && ql_tok_add_bos(j->tok) ? ql_tok_bos(j->tok) : -1;
	tool_progress_end(&j->progress);
	tool_progress_start(&j->progress);
	return rc == QL_OK ? ql_perplexity_run(j->model, j->ids.ids, j->ids.n, &j->run, r, e) : rc;
}

static void release(struct job *j)
{
	ql_lora_free(j->lora);
	ql_model_free(j->model);
	if (j->dev != NULL)
		j->dev->ops->close(j->dev);
	ql_ids_free(&j->ids);
	ql_tok_free(j->tok);
	ql_source_close(j->source);
}

static void print(const struct job *j, const struct ql_perplexity *r, double seconds)
{
	json_t *o;

	if (!j->json) {
		(void)printf("perplexity %.4f +/- %.4f (%s weights, %llu windows of %u tokens, %llu tokens scored)\n", r->perplexity,
			     r->std_error, j->weights, (unsigned long long)r->windows, j->run.context, (unsigned long long)r->scored);
		return;
	}
	o = json_pack("{s:s, s:I, s:I, s:I, s:I}", "weights", j->weights, "context", (json_int_t)j->run.context, "windows",
		      (json_int_t)r->windows, "scored", (json_int_t)r->scored, "tokens", (json_int_t)j->ids.n);
	(void)json_object_set_new(o, "perplexity", ql_json_real(r->perplexity));
	(void)json_object_set_new(o, "standard_error", ql_json_real(r->std_error));
	(void)json_object_set_new(o, "nll", ql_json_real(r->nll / (double)r->scored));
	(void)json_object_set_new(o, "seconds", ql_json_real(seconds));
	(void)json_dumpf(o, stdout, JSON_INDENT(2));
	(void)putchar('\n');
	json_decref(o);
}

static bool parse(struct job *j, int *argc, char **argv)
{
	bool bad = false;
	const char *block = tool_option(argc, argv, "--block", &bad), *twice = tool_option(argc, argv, "--double-quant", &bad);
	const char *context = tool_option(argc, argv, "--context", &bad), *windows = tool_option(argc, argv, "--windows", &bad);
	const char *threads = tool_option(argc, argv, "--threads", &bad);
	long b = block == NULL ? 64 : tool_number(block, 32, 4096), c = context == NULL ? 512 : tool_number(context, 4, QL_CONTEXT_MAX);
	long w = windows == NULL ? 0 : tool_number(windows, 1, INT32_MAX), t = threads == NULL ? 0 : tool_number(threads, 1, 256);

	j->weights = tool_option(argc, argv, "--weights", &bad);
	j->adapter_path = tool_option(argc, argv, "--adapter", &bad);
	j->device = tool_option(argc, argv, "--device", &bad);
	j->json = tool_flag(argc, argv, "--json");
	if (!tool_args_ok(*argc, argv, 2, bad))
		return false;
	j->weights = j->weights == NULL ? "stored" : j->weights;
	j->device = j->device == NULL ? "cpu" : j->device;
	j->load = (struct ql_model_opts){.quant = QL_Q4_OPTS_DEFAULT, .as_stored = strcmp(j->weights, "stored") == 0,
					 .cache_dir = -1, .progress = on_load, .progress_ctx = &j->progress};
	j->load.quant.kind = ql_dtype_of(j->weights);
	if (b < 0 || !ql_q4_blocksize_ok((uint32_t)b) || c < 0 || w < 0 || t < 0 ||
	    (twice != NULL && strcmp(twice, "on") != 0 && strcmp(twice, "off") != 0))
		return (void)fprintf(stderr, "qlorad perplexity: a value is out of range; see --help\n"), false;
	if (!j->load.as_stored && ql_q4_code(j->load.quant.kind) == NULL)
		return (void)fprintf(stderr, "qlorad perplexity: --weights %s: stored, nf4, fp4 or int4\n", j->weights), false;
	if (j->load.as_stored && (block != NULL || twice != NULL))
		return (void)fprintf(stderr, "qlorad perplexity: --block and --double-quant go with --weights nf4, fp4 or int4\n"), false;
	if (strcmp(j->device, "cpu") != 0 && (strncmp(j->device, "cuda", 4) != 0 ||
						(j->device[4] != '\0' && (j->device[4] != ':' || tool_number(j->device + 5, 0, 1023) < 0))))
		return (void)fprintf(stderr, "qlorad perplexity: --device %s: cpu, cuda or cuda:N\n", j->device), false;
	j->load.quant.blocksize = (uint32_t)b;
	j->load.quant.nested = twice == NULL || strcmp(twice, "on") == 0;
	j->run = (struct ql_perplexity_opts){.context = (uint32_t)c, .max_windows = (uint32_t)w, .bos = -1,
					     .progress = on_window, .progress_ctx = &j->progress};
	j->threads = t > 0 ? (int)t : (int)sysconf(_SC_NPROCESSORS_ONLN);
	j->model_path = argv[1];
	j->text_path = argv[2];
	return true;
}

int tool_perplexity(int argc, char **argv)
{
	struct timespec from, to;
	struct ql_perplexity r;
	struct ql_err e = {0};
	struct job j = {0};
	int rc;

	if (tool_flag(&argc, argv, "--help") || tool_flag(&argc, argv, "-h"))
		return (void)fputs(help, stdout), TOOL_OK;
	if (!parse(&j, &argc, argv))
		return TOOL_USAGE;
	j.load.pool = ql_pool_new(j.threads);
	tool_progress_start(&j.progress);
	(void)clock_gettime(CLOCK_MONOTONIC, &from);
	rc = measure(&j, &r, &e);
	(void)clock_gettime(CLOCK_MONOTONIC, &to);
	tool_progress_end(&j.progress);
	if (rc == QL_OK)
		print(&j, &r, (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec));
	release(&j);
	ql_pool_free(j.load.pool);
	return rc == QL_OK ? TOOL_OK : tool_fail("perplexity", &e);
}
