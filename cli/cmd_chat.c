/* cmd_chat.c - `qlorad chat`: one question, or a conversation line by line; the answer is shown as it comes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cmds.h"
#include "core/base/buf.h"
#include "core/base/json.h"

struct answer {
	struct ql_buf text;
	bool quiet; /* it is printed as JSON when it is whole */
};

static bool on_chunk(void *ctx, const json_t *chunk)
{
	struct answer *a = ctx;
	const json_t *delta = json_object_get(json_array_get(json_object_get(chunk, "choices"), 0), "delta");
	const char *text = json_string_value(json_object_get(delta, "content"));

	if (text != NULL && !a->quiet) {
		(void)fputs(text, stdout);
		(void)fflush(stdout);
	}
	if (text != NULL)
		(void)ql_buf_adds(&a->text, text);
	return true;
}

static int ask(const struct cli *c, json_t *body, json_t *messages, const char *question, struct ql_err *e)
{
	struct answer answer = {.quiet = c->json};
	json_t *said;
	int rc;

	(void)json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "user", "content", question));
	(void)json_object_set(body, "messages", messages);
	rc = cli_stream(c, "/v1/chat/completions", body, on_chunk, &answer, e);
	if (!c->json)
		(void)putchar('\n');
	if (rc == QL_OK) {
		said = json_pack("{s:s, s:s}", "role", "assistant", "content", answer.text.len > 0 ? answer.text.data : "");
		if (c->json)
			cli_print(said);
		(void)json_array_append_new(messages, said);
	}
	ql_buf_free(&answer.text);
	return rc;
}

static int talk(const struct cli *c, json_t *body, json_t *messages, struct ql_err *e)
{
	char *line = NULL;
	size_t cap = 0;
	ssize_t n;
	int rc = QL_OK;

	for (;;) {
		if (isatty(STDIN_FILENO) && !c->json) {
			(void)fputs("> ", stdout);
			(void)fflush(stdout);
		}
		n = getline(&line, &cap, stdin);
		if (n < 0)
			break;
		line[strcspn(line, "\n")] = '\0';
		if (line[0] == '\0')
			continue;
		rc = ask(c, body, messages, line, e);
		if (rc != QL_OK)
			break;
	}
	free(line);
	return rc;
}

static int default_model(const struct cli *c, json_t *body, struct ql_err *e)
{
	json_t *list = NULL, *m;
	size_t i;
	int rc = cli_call(c, "GET", "/v1/models", NULL, &list, e);

	if (rc != QL_OK)
		return rc;
	json_array_foreach(json_object_get(list, "data"), i, m) {
		const char *id = json_string_value(json_object_get(m, "id"));

		if (json_object_get(body, "model") == NULL && id != NULL && strchr(id, ':') == NULL)
			(void)json_object_set(body, "model", json_object_get(m, "id"));
	}
	json_decref(list);
	return json_object_get(body, "model") != NULL ? QL_OK : ql_err_set(e, QL_EBUSY, "the server lists no model yet");
}

int cmd_chat(const struct cli *c, int argc, char **argv)
{
	static const char *const numbers[][2] = {{"temperature", "temperature"}, {"max-tokens", "max_tokens"}, {"seed", "seed"}};
	json_t *body = json_pack("{s:b}", "stream", 1), *messages = json_array();
	const char *bad = NULL, *model = cli_option(&argc, argv, "model", &bad), *system = cli_option(&argc, argv, "system", &bad);
	struct ql_err e = {0};
	int rc = QL_OK;

	for (size_t i = 0; rc == QL_OK && i < 3; i++) {
		const char *v = cli_option(&argc, argv, numbers[i][0], &bad);
		json_t *n = NULL;

		if (v == NULL)
			continue;
		if (ql_json_parse(v, strlen(v), 64, &n, NULL) != QL_OK || !json_is_number(n))
			rc = ql_err_set(&e, QL_EINVAL, "--%s: '%s' is no number", numbers[i][0], v);
		(void)json_object_set_new(body, numbers[i][1], n);
	}
	if (rc == QL_OK && bad != NULL)
		rc = ql_err_set(&e, QL_EINVAL, "--%s needs a value", bad);
	if (rc == QL_OK && (cli_unknown(argc, argv) != NULL || argc > 1))
		rc = ql_err_set(&e, QL_EINVAL, "usage: qlorad chat [PROMPT] [options] (see --help)");
	if (model != NULL)
		(void)json_object_set_new(body, "model", json_string(model));
	if (system != NULL)
		(void)json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "system", "content", system));
	if (rc == QL_OK && model == NULL)
		rc = default_model(c, body, &e);
	if (rc == QL_OK)
		rc = argc == 1 ? ask(c, body, messages, argv[0], &e) : talk(c, body, messages, &e);
	json_decref(body);
	json_decref(messages);
	return rc == QL_OK ? 0 : cli_fail(&e);
}
