/* main.c - the sub-commands of the one binary: a table. */
#include <stdio.h>
#include <string.h>

#include "config/config.h"
#include "daemon/control_internal.h"
#include "daemon/engine/engine_main.h"
#include "daemon/ipc.h"
#ifdef QL_WITH_CLI
#include "cli/cli.h"
#endif
#ifdef QL_WITH_TOOLS
#include "tools/tools.h"
#endif
#ifdef QL_WITH_BENCH
#include "bench/cmd/main.h"
#endif

static int version_main(int argc, char **argv)
{
	(void)argc, (void)argv;
	(void)printf("qlorad %s (%s)\n", QL_VERSION, QL_COMMIT);
	return 0;
}

static int example_main(int argc, char **argv)
{
	if (argc > 1) {
		bool help = strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0;

		(void)fputs("usage: qlorad config-example\n\nPrints a commented settings file with every key and its default.\n",
			    help ? stdout : stderr);
		return help ? 0 : QL_EXIT_CONFIG;
	}
	ql_config_example(stdout);
	return 0;
}

static int help_main(int argc, char **argv);

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv); /* argv[0] is the name */
	const char *help; /* NULL: not for people */
} commands[] = {
#ifdef QL_WITH_SERVE
	{"serve", ql_serve_main, "run the daemon: HTTP API, jobs, inference, exports"},
#endif
#ifdef QL_WITH_ENGINE
	{"engine", ql_engine_main, NULL},
#endif
	{"token", ql_token_main, "add, list and revoke the tokens of a daemon"},
	{"check", ql_check_main, "check the database of a state directory"},
	{"config-example", example_main, "print a commented settings file"},
#ifdef QL_WITH_CLI
	{"submit", ql_cli_main, "upload a file and start a fine-tuning job"},
	{"jobs", ql_cli_main, "list jobs"},
	{"watch", ql_cli_main, "follow a job: progress, loss, time left"},
	{"cancel", ql_cli_main, "cancel a job"},
	{"pause", ql_cli_main, "pause a job after a snapshot"},
	{"resume", ql_cli_main, "let a paused job go on"},
	{"models", ql_cli_main, "list the models that can be asked"},
	{"chat", ql_cli_main, "talk to the base or to an adapter"},
	{"export", ql_cli_main, "export an adapter or a merged model"},
#endif
#ifdef QL_WITH_TOOLS
	{"inspect", ql_tools_main, "show what a model file holds and whether it is valid"},
	{"compare", ql_tools_main, "compare the tensors of two model files"},
	{"perplexity", ql_tools_main, "measure how well a model predicts a text"},
	{"quantize", ql_tools_main, "quantise a model file"},
	{"convert", ql_tools_main, "write a model file in another format"},
#endif
#ifdef QL_WITH_BENCH
	{"bench", ql_bench_main, "measure training, serving, quantising and loading on this machine"},
#endif
	{"version", version_main, "print the version"},
	{"help", help_main, "print this"},
};
#define N_COMMANDS (sizeof commands / sizeof commands[0])

static void usage(FILE *out)
{
	(void)fputs("usage: qlorad COMMAND [options]\n\n", out);
	for (size_t i = 0; i < N_COMMANDS; i++)
		if (commands[i].help != NULL)
			(void)fprintf(out, "  %-15s %s\n", commands[i].name, commands[i].help);
	(void)fputs("\nqlorad COMMAND --help tells more about one.\n", out);
}

static const struct command *find(const char *name)
{
	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
		name = "help";
	else if (strcmp(name, "--version") == 0)
		name = "version";
	for (size_t i = 0; i < N_COMMANDS; i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

static int help_main(int argc, char **argv)
{
	const struct command *c = argc > 1 ? find(argv[1]) : NULL;
	char flag[] = "--help", *args[] = {argc > 1 ? argv[1] : NULL, flag, NULL};

	if (c != NULL && c->help != NULL && c->run != help_main && c->run != version_main)
		return c->run(2, args);
	usage(stdout);
	return 0;
}

int main(int argc, char **argv)
{
	const struct command *c = argc > 1 ? find(argv[1]) : NULL;

	if (c != NULL)
		return c->run(argc - 1, argv + 1);
	if (argc > 1)
		(void)fprintf(stderr, "qlorad: unknown command '%s'\n\n", argv[1]);
	usage(stderr);
	return QL_EXIT_CONFIG;
}
