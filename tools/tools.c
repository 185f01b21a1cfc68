/* tools.c - dispatch of the file tools, and their options and progress line. */
#include "tools/tools.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/priv.h"

static int run(int argc, char **argv)
{
	if (strcmp(argv[0], "inspect") == 0)
		return tool_inspect(argc, argv);
	if (strcmp(argv[0], "compare") == 0)
		return tool_compare(argc, argv);
	if (strcmp(argv[0], "perplexity") == 0)
		return tool_perplexity(argc, argv);
	if (strcmp(argv[0], "quantize") == 0 || strcmp(argv[0], "convert") == 0)
		return tool_write(argc, argv);
	(void)fprintf(stderr, "qlorad: unknown command '%s'\n", argv[0]);
	return TOOL_USAGE;
}

/* An answer that did not reach its reader (a full disk, a closed pipe) is no answer. */
int ql_tools_main(int argc, char **argv)
{
	int status = run(argc, argv);

	if (status == TOOL_USAGE || (fflush(stdout) == 0 && !ferror(stdout)))
		return status;
	(void)fprintf(stderr, "qlorad %s: standard output could not be written\n", argv[0]);
	return TOOL_FAILED;
}

long tool_number(const char *s, long min, long max)
{
	char *end;
	long v = strtol(s, &end, 10);

	return end == s || *end != '\0' || v < min || v > max ? -1 : v;
}

json_t *tool_path_json(const char *path)
{
	json_t *v = json_string(path);

	return v != NULL ? v : json_string("(not UTF-8)");
}

static void drop(int *argc, char **argv, int at, int n)
{
	for (int i = at; i + n <= *argc; i++) /* the NULL at the end moves too */
		argv[i] = argv[i + n];
	*argc -= n;
}

const char *tool_option(int *argc, char **argv, const char *name, bool *bad)
{
	size_t len = strlen(name);
	const char *v;

	for (int i = 1; i < *argc; i++) {
		if (strncmp(argv[i], name, len) != 0 || (argv[i][len] != '\0' && argv[i][len] != '='))
			continue;
		if (argv[i][len] == '=') {
			v = argv[i] + len + 1;
			drop(argc, argv, i, 1);
			return v;
		}
		if (i + 1 == *argc) {
			(void)fprintf(stderr, "qlorad: %s needs a value\n", name);
			*bad = true;
			return NULL;
		}
		v = argv[i + 1];
		drop(argc, argv, i, 2);
		return v;
	}
	return NULL;
}

bool tool_flag(int *argc, char **argv, const char *name)
{
	for (int i = 1; i < *argc; i++)
		if (strcmp(argv[i], name) == 0) {
			drop(argc, argv, i, 1);
			return true;
		}
	return false;
}

bool tool_args_ok(int argc, char **argv, int want, bool bad)
{
	for (int i = 1; i < argc && !bad; i++)
		if (argv[i][0] == '-' && argv[i][1] != '\0') {
			(void)fprintf(stderr, "qlorad %s: unknown option %s\n", argv[0], argv[i]);
			return false;
		}
	if (!bad && argc != want + 1)
		(void)fprintf(stderr, "qlorad %s: %d file name%s expected; see --help\n", argv[0], want, want == 1 ? "" : "s");
	return !bad && argc == want + 1;
}

int tool_fail(const char *cmd, const struct ql_err *e)
{
	(void)fprintf(stderr, "qlorad %s: %s\n", cmd, e->message[0] != '\0' ? e->message : ql_code_text(e->code));
	return TOOL_FAILED;
}

void tool_progress_start(struct tool_progress *p) { *p = (struct tool_progress){isatty(STDERR_FILENO) == 1, -1}; }

void tool_progress_at(struct tool_progress *p, double done, const char *what)
{
	int percent = (int)(done * 100.0);
	char bar[41];

	if (!p->on || percent == p->last)
		return;
	p->last = percent;
	for (int i = 0; i < 40; i++)
		bar[i] = i < percent * 40 / 100 ? '#' : '.';
	bar[40] = '\0';
	(void)fprintf(stderr, "\r[%s] %3d %% %-40.40s", bar, percent, what);
}

void tool_progress_end(struct tool_progress *p)
{
	if (p->on && p->last >= 0)
		(void)fputs("\r\033[K", stderr);
}
