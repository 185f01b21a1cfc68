/* cli.c - dispatch and help of the client sub-commands. */
#include "cli/cli.h"

#include <ctype.h>
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cmds.h"

static const struct {
	const char *name, *args, *text;
} helps[] = {
	{"submit", "FILE.jsonl [options]",
	 "Uploads a training file and creates a fine-tuning job.\n"
	 "  --model NAME           base or fine-tuned model to start from (default: the base)\n"
	 "  --validation FILE      held-out examples\n"
	 "  --suffix NAME          part of the new model's name\n"
	 "  --epochs N --batch-size N --learning-rate X --seed N\n"
	 "  --rank N --alpha X --dropout X --max-steps N --max-seq-length N\n"
	 "  --set KEY=VALUE        any other key of the job's `qlora` object (JSON value)\n"
	 "  --watch                follow the job to its end\n"},
	{"jobs", "[JOB]", "Lists the jobs, newest first, or shows one.\n"},
	{"watch", "JOB", "Follows a job: progress bar, loss, time left; with --json every event as a line.  Exit status 0 if it\n"
	 "succeeds.\n"},
	{"cancel", "JOB", "Cancels a job; its checkpoints stay.\n"},
	{"pause", "JOB", "Pauses a job after a snapshot.\n"},
	{"resume", "JOB", "Lets a paused job go on.\n"},
	{"models", "", "Lists the models that can be asked.\n"},
	{"chat", "[PROMPT] [options]",
	 "Asks a model, or talks with it line by line when no prompt is given.\n"
	 "  --model NAME           (default: the base)\n"
	 "  --system TEXT --temperature X --max-tokens N --seed N\n"
	 "With --json each answer is one message, printed when it is whole.\n"},
	{"export", "MODEL [options]",
	 "Exports a model and downloads the files.\n"
	 "  --format F             peft, gguf_lora, gguf or safetensors (default gguf)\n"
	 "  --quantization Q       f32, f16, bf16, q8_0, … (default f16)\n"
	 "  --out DIR              (default: the current directory)\n"},
};

int cli_fail(const struct ql_err *e)
{
	(void)fprintf(stderr, "qlorad: %s\n", e->message);
	return 1;
}

void cli_print(const json_t *v)
{
	(void)json_dumpf(v, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
	(void)putchar('\n');
}

void cli_escape(const char *text, char *out, size_t size)
{
	size_t n = 0;

	for (; *text != '\0' && n + 4 < size; text++) {
		if (isalnum((unsigned char)*text) || strchr("._~:-", *text) != NULL)
			out[n++] = *text;
		else
			n += (size_t)snprintf(out + n, size - n, "%%%02X", (unsigned char)*text);
	}
	out[n] = '\0';
}

static int help(const char *name)
{
	for (size_t i = 0; i < sizeof helps / sizeof helps[0]; i++)
		if (strcmp(helps[i].name, name) == 0)
			(void)printf("usage: qlorad %s %s\n%s"
				     "Common: --server http://HOST:PORT|unix:/PATH  --key TOKEN  --key-file FILE  --state-dir DIR (reads its\n"
				     "admin.token)  --json.  Environment: QLORAD_SERVER, QLORAD_KEY, QLORAD_STATE_DIR.\n",
				     name, helps[i].args, helps[i].text);
	return 0;
}

static int dispatch(const struct cli *c, const char *name, int argc, char **argv)
{
	if (strcmp(name, "submit") == 0)
		return cmd_submit(c, argc, argv);
	if (strcmp(name, "jobs") == 0)
		return cmd_jobs(c, argc, argv);
	if (strcmp(name, "watch") == 0)
		return cmd_watch(c, argc, argv);
	if (strcmp(name, "chat") == 0)
		return cmd_chat(c, argc, argv);
	if (strcmp(name, "export") == 0)
		return cmd_export(c, argc, argv);
	if (strcmp(name, "models") == 0)
		return cmd_models(c, argc, argv);
	return cmd_change(c, name, argc, argv);
}

int ql_cli_main(int argc, char **argv)
{
	const char *name = argc > 0 ? argv[0] : "";
	struct cli c;
	struct ql_err e;
	int rc, status;

	argc--;
	argv++;
	if (cli_flag(&argc, argv, "help"))
		return help(name);
	rc = cli_init(&c, &argc, argv, &e);
	if (rc != QL_OK)
		return cli_fail(&e);
	(void)curl_global_init(CURL_GLOBAL_DEFAULT);
	status = dispatch(&c, name, argc, argv);
	curl_global_cleanup();
	return status;
}
