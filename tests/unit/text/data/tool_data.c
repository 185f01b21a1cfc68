/* tool_data.c - for the interop tests: data_tool BASE reads jobs on stdin, one JSON object a line: {"file": PATH.jsonl,
 * "max_seq_length", "template"? (source, instead of the base's), "overlong"?: "truncate"|"drop"|"error", "all"?: true (every token
 * is a target), "last"?: true (only last turns), "alpaca"?: true (the Stanford text)}.  For each it prints {"preview", "report"}: the
 * first lines, and what loading all of it says; or {"error"}.  BASE is a GGUF file, or a directory with tokenizer.json and
 * tokenizer_config.json. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/formats/gguf.h"
#include "core/formats/tokenizer_config.h"
#include "core/text/data/dataset.h"

struct base {
	struct ql_tok *tok;
	struct ql_tmpl *tmpl;
	json_t *trusted;
};

static void print(json_t *v)
{
	char *text = json_dumps(v, JSON_COMPACT);

	puts(text == NULL ? "null" : text);
	free(text);
	json_decref(v);
}

static int load_gguf(struct base *b, const char *path, struct ql_err *e)
{
	struct ql_gguf_str source = {0};
	struct ql_gguf *g = NULL;
	int rc = ql_gguf_open(&g, path, e);

	if (rc == QL_OK)
		rc = ql_tok_from_gguf(&b->tok, g, e);
	if (rc == QL_OK && ql_gguf_get_str(g, "tokenizer.chat_template", true, &source, e) == QL_OK)
		rc = ql_tmpl_compile(&b->tmpl, source.s, source.len, e);
	ql_gguf_close(g);
	return rc;
}

static int load_dir(struct base *b, const char *dir, struct ql_err *e)
{
	struct ql_buf tok = {0}, config = {0};
	json_t *parsed = NULL, *source;
	char path[4200];
	int rc;

	(void)snprintf(path, sizeof path, "%s/tokenizer.json", dir);
	rc = ql_io_read_file(path, QL_MIB(64), &tok, e);
	(void)snprintf(path, sizeof path, "%s/tokenizer_config.json", dir);
	if (rc == QL_OK)
		rc = ql_io_read_file(path, QL_TOKENIZER_CONFIG_MAX, &config, e);
	if (rc == QL_OK)
		rc = ql_tok_from_json(&b->tok, tok.data, tok.len, config.data, config.len, e);
	if (rc == QL_OK)
		rc = ql_tokenizer_config_parse(config.data, config.len, &parsed, e);
	source = json_object_get(parsed, "chat_template");
	if (rc == QL_OK && json_is_string(source))
		rc = ql_tmpl_compile(&b->tmpl, json_string_value(source), json_string_length(source), e);
	json_decref(parsed);
	ql_buf_free(&tok);
	ql_buf_free(&config);
	return rc;
}

static void trust(json_t *o, const char *key, const struct ql_tok *t, int32_t id)
{
	size_t len = 0;
	const char *s = id < 0 ? NULL : ql_tok_piece(t, id, &len);

	if (s != NULL)
		(void)json_object_set_new(o, key, json_stringn(s, len));
}

static int load(struct base *b, const char *path, struct ql_err *e)
{
	struct stat st;
	int rc = stat(path, &st) == 0 && S_ISDIR(st.st_mode) ? load_dir(b, path, e) : load_gguf(b, path, e);

	b->trusted = json_object();
	if (rc != QL_OK)
		return rc;
	trust(b->trusted, "bos_token", b->tok, ql_tok_bos(b->tok));
	trust(b->trusted, "eos_token", b->tok, ql_tok_eos(b->tok));
	trust(b->trusted, "pad_token", b->tok, ql_tok_pad(b->tok));
	trust(b->trusted, "unk_token", b->tok, ql_tok_unk(b->tok));
	return QL_OK;
}

/* The job's options; *owned is to be freed. */
static int options(const struct base *b, const json_t *job, struct ql_dataset_opts *o, struct ql_tmpl **owned, struct ql_err *e)
{
	const json_t *source = json_object_get(job, "template");
	const char *overlong = json_string_value(json_object_get(job, "overlong"));
	int rc = QL_OK;

	*o = (struct ql_dataset_opts){.tok = b->tok, .tmpl = b->tmpl, .trusted = b->trusted, .min_examples = 1};
	o->max_seq_length = (uint32_t)json_integer_value(json_object_get(job, "max_seq_length"));
	o->completion_only_loss = !json_is_true(json_object_get(job, "all"));
	o->train_on = json_is_true(json_object_get(job, "last")) ? QL_TRAIN_ON_LAST : QL_TRAIN_ON_ALL;
	o->alpaca_template = json_is_true(json_object_get(job, "alpaca"));
	if (overlong != NULL)
		o->on_overlong = strcmp(overlong, "drop") == 0 ? QL_OVERLONG_DROP
				 : strcmp(overlong, "error") == 0 ? QL_OVERLONG_ERROR : QL_OVERLONG_TRUNCATE;
	if (json_is_string(source)) {
		rc = ql_tmpl_compile(owned, json_string_value(source), json_string_length(source), e);
		o->tmpl = *owned;
	}
	return rc;
}

static json_t *answer(const struct base *b, const json_t *job)
{
	const char *path = json_string_value(json_object_get(job, "file")), *slash = strrchr(path, '/');
	char *dir = strndup(path, (size_t)(slash - path));
	int fd = open(dir, O_RDONLY | O_DIRECTORY), rc;
	struct ql_dataset_opts o;
	struct ql_dataset_report rep;
	struct ql_dataset *d = NULL;
	struct ql_tmpl *owned = NULL;
	struct ql_err e = {0}, why = {0};
	json_t *p = NULL, *out;

	rc = options(b, job, &o, &owned, &e);
	if (rc == QL_OK)
		rc = ql_dataset_preview(&p, fd, slash + 1, &o, 100, QL_MIB(64), &e);
	if (rc == QL_OK) {
		(void)ql_dataset_load(&d, fd, slash + 1, &o, &rep, &why);
		ql_dataset_free(d);
		out = json_pack("{s:o, s:o}", "preview", p, "report", ql_dataset_report_json(&rep));
	} else {
		out = json_pack("{s:s}", "error", e.message);
	}
	ql_tmpl_free(owned);
	(void)close(fd);
	free(dir);
	return out;
}

int main(int argc, char **argv)
{
	struct base b = {0};
	struct ql_err e = {0};
	char *line = NULL;
	size_t cap = 0;
	ssize_t n;

	if (argc != 2 || load(&b, argv[1], &e) != QL_OK) {
		(void)fprintf(stderr, "%s\n", argc != 2 ? "data_tool BASE" : e.message);
		return 1;
	}
	while ((n = getline(&line, &cap, stdin)) > 0) {
		json_t *job = json_loadb(line, (size_t)n, 0, NULL);

		if (job == NULL || strchr(json_string_value(json_object_get(job, "file")), '/') == NULL)
			return 1;
		print(answer(&b, job));
		(void)fflush(stdout);
		json_decref(job);
	}
	free(line);
	json_decref(b.trusted);
	ql_tmpl_free(b.tmpl);
	ql_tok_free(b.tok);
	return 0;
}
