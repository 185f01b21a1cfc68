/* options.c - the command line of `qlorad bench`. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/cmd/bench.h"

#define USAGE 64

static const char help[] =
	"usage: qlorad bench train|decode|serve-mixed|quantize|load [options]\n\n"
	"Measures with the daemon's own code and prints each figure beside what bounds it on this machine.\n\n"
	"  --base PATH          a real model (GGUF file or Hugging Face directory)\n"
	"  --arch NAME          random weights of this shape (default tiny): %s\n"
	"  --layers N           that many layers instead of the shape's own\n"
	"  --device NAME        auto (default), cpu, cuda, cuda:N         --threads N   of the CPU\n"
	"  --json               one JSON object instead of lines\n"
	"  --dir PATH           where adapters, caches and synthetic checkpoints are put for the run (default /tmp)\n"
	"  --keep               leave them there\n"
	"training (train, serve-mixed)\n"
	"  --micro-batch LIST   sequences in one pass (default 1); train measures each of a comma list\n"
	"  --seq N              tokens of a sequence (default 2048; tiny: 128)      --rank N     of the adapter (default 16)\n"
	"  --steps N            measured steps (default 10)\n"
	"  --recompute MODE     on: every layer is run again in backward; offload: also, their inputs wait on the host; off: none;\n"
	"                       auto (default): as memory allows\n"
	"  --dense MODE         auto (default): dense copies of 4-bit weights where memory is left; off: none\n"
	"  --memory-limit GIB   plan for that much device memory in all\n"
	"  --learning-rate X    constant (default: the job's default schedule)\n"
	"  --dump DIR           with --base: leave there what repeats the run elsewhere: 4-bit base, first adapter, tokens of each step\n"
	"  --profile            train, decode: a table of ops as well, from a further run\n"
	"serving (decode, serve-mixed)\n"
	"  --batch LIST         requests at once (default 1; serve-mixed 4)\n"
	"  --adapters LIST      how many adapters they use, one number for each of --batch (default 1; 0: the base)\n"
	"  --prompt N --tokens N   prompt and answer length (default 512 and 128; tiny: 32 and 16)\n"
	"  --target-ms MS       serve-mixed: the wished time from token to token (default 20)\n";

static bool number(const char *v, uint32_t min, uint32_t max, uint32_t *out)
{
	char *end;
	unsigned long n = strtoul(v, &end, 10);

	if (*v < '0' || *v > '9' || *end != '\0' || n < min || n > max)
		return false;
	*out = (uint32_t)n;
	return true;
}

static bool list(const char *v, uint32_t max, struct bench_list *l)
{
	l->n = 0;
	while (l->n < BENCH_LIST_MAX) {
		char *end;
		unsigned long n = strtoul(v, &end, 10);

		if (*v < '0' || *v > '9' || n > max || (*end != '\0' && *end != ','))
			return false;
		l->v[l->n++] = (uint32_t)n;
		if (*end == '\0')
			return true;
		v = end + 1;
	}
	return false;
}

static bool real(const char *v, double *out)
{
	char *end;

	*out = strtod(v, &end);
	return end != v && *end == '\0' && isfinite(*out) && *out > 0;
}

static bool word(const char *v, const char *const *words, int *out)
{
	for (int i = 0; words[i] != NULL; i++)
		if (strcmp(v, words[i]) == 0) {
			*out = i;
			return true;
		}
	return false;
}

/* An option with a value; *known false if it is none of ours. */
static bool take(struct bench *b, const char *name, const char *v, bool *known)
{
	static const char *const recompute[] = {"auto", "off", "on", "offload", NULL}, *const dense[] = {"off", "auto", NULL};
	const struct {
		const char *name;
		uint32_t min, max, *to;
	} numbers[] = {{"--layers", 1, 1000, &b->layers},	{"--threads", 1, 256, &b->threads},   {"--seq", 2, 1 << 20, &b->seq},
		       {"--rank", 1, 256, &b->rank},		{"--steps", 2, 100000, &b->steps},    {"--prompt", 1, 1 << 20, &b->prompt},
		       {"--tokens", 2, 1 << 16, &b->tokens}};
	const struct {
		const char *name;
		const char **to;
	} texts[] = {{"--base", &b->base}, {"--arch", &b->arch_name}, {"--device", &b->device}, {"--dir", &b->dir}, {"--dump", &b->dump}};
	int w = b->dense;
	bool ok;

	*known = true;
	for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
		if (strcmp(name, numbers[i].name) == 0)
			return number(v, numbers[i].min, numbers[i].max, numbers[i].to);
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
		if (strcmp(name, texts[i].name) == 0) {
			*texts[i].to = v;
			return *v != '\0';
		}
	if (strcmp(name, "--micro-batch") == 0)
		return list(v, 256, &b->micro_batch);
	if (strcmp(name, "--batch") == 0)
		return list(v, 256, &b->batch);
	if (strcmp(name, "--adapters") == 0)
		return list(v, 256, &b->adapters);
	if (strcmp(name, "--target-ms") == 0)
		return real(v, &b->target_ms);
	if (strcmp(name, "--memory-limit") == 0)
		return real(v, &b->memory_limit_gib);
	if (strcmp(name, "--learning-rate") == 0)
		return real(v, &b->learning_rate);
	if (strcmp(name, "--recompute") == 0)
		return word(v, recompute, &b->recompute);
	if (strcmp(name, "--dense") == 0) {
		ok = word(v, dense, &w);
		b->dense = w != 0;
		return ok;
	}
	*known = false;
	return false;
}

static int usage(FILE *out, int status)
{
	char names[400];

	bench_arch_names(names, sizeof names);
	(void)fprintf(out, help, names);
	return status;
}

static int settle(struct bench *b)
{
	static const char *const whats[] = {"train", "decode", "serve-mixed", "quantize", "load", NULL};
	bool tiny;
	int w;

	if (b->what == NULL || !word(b->what, whats, &w)) {
		(void)fprintf(stderr, "qlorad bench: %s%s\n", b->what == NULL ? "train, decode, serve-mixed, quantize or load?" : "unknown bench ",
			      b->what == NULL ? "" : b->what);
		return USAGE;
	}
	if (b->base != NULL && b->arch_name != NULL) {
		(void)fputs("qlorad bench: --base and --arch exclude each other\n", stderr);
		return USAGE;
	}
	if (b->base != NULL && b->layers > 0) {
		(void)fputs("qlorad bench: --layers goes with --arch\n", stderr);
		return USAGE;
	}
	if (b->dump != NULL && (b->base == NULL || strcmp(b->what, "train") != 0)) {
		(void)fputs("qlorad bench: --dump goes with train and --base\n", stderr);
		return USAGE;
	}
	if (b->profile && strcmp(b->what, "train") != 0 && strcmp(b->what, "decode") != 0) {
		(void)fputs("qlorad bench: --profile goes with train and decode\n", stderr);
		return USAGE;
	}
	if (b->arch_name == NULL && b->base == NULL)
		b->arch_name = "tiny";
	tiny = b->arch_name != NULL && strcmp(b->arch_name, "tiny") == 0;
	b->seq = b->seq > 0 ? b->seq : tiny ? 128 : 2048;
	b->prompt = b->prompt > 0 ? b->prompt : tiny ? 32 : 512;
	b->tokens = b->tokens > 0 ? b->tokens : tiny ? 16 : 128;
	if (b->micro_batch.n == 0)
		b->micro_batch = (struct bench_list){{1}, 1};
	if (b->batch.n == 0)
		b->batch = (struct bench_list){{strcmp(b->what, "serve-mixed") == 0 ? 4 : 1}, 1};
	if (b->adapters.n == 0)
		b->adapters = (struct bench_list){{1}, 1};
	for (uint32_t i = 0; i < b->batch.n; i++)
		if (b->batch.v[i] == 0)
			b->batch.v[i] = 1;
	for (uint32_t i = 0; i < b->micro_batch.n; i++)
		if (b->micro_batch.v[i] == 0)
			b->micro_batch.v[i] = 1;
	return 0;
}

int bench_options(struct bench *b, int argc, char **argv)
{
	b->device = "auto";
	b->dir = "/tmp";
	b->rank = 16;
	b->steps = 10;
	b->dense = true;
	b->target_ms = 20;
	for (int i = 1; i < argc; i++) {
		bool known = true;

		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			return usage(stdout, 0);
		if (strcmp(argv[i], "--json") == 0) {
			b->json = true;
		} else if (strcmp(argv[i], "--keep") == 0) {
			b->keep = true;
		} else if (strcmp(argv[i], "--profile") == 0) {
			b->profile = true;
		} else if (argv[i][0] != '-' && b->what == NULL) {
			b->what = argv[i];
		} else if (i + 1 == argc || !take(b, argv[i], argv[i + 1], &known)) {
			(void)fprintf(stderr, "qlorad bench: %s %s\n", argv[i],
				      !known ? "is no option" : i + 1 == argc ? "needs a value" : "has an unusable value");
			return USAGE;
		} else {
			i++;
		}
	}
	if (b->what == NULL)
		return usage(stderr, USAGE);
	return settle(b);
}
