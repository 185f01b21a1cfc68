/* tool_data.c - for the interop tests: data_tool BASE FILE.jsonl MAX_SEQ_LENGTH [option…] prints the preview of the file's
 * first lines, then the report of loading all of it, one JSON object a line.  BASE is a GGUF file, or a directory with
 * tokenizer.json and tokenizer_config.json.  Options: template=FILE (instead of the base's), overlong=truncate|drop|error,
 * all (every token is a target), last (only last turns), alpaca (the Stanford text). */
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

static int other_template(struct base *b, const char *path, struct ql_err *e)
{
	struct ql_buf source = {0};
	int rc = ql_io_read_file(path, QL_TMPL_SOURCE_MAX, &source, e);

	ql_tmpl_free(b->tmpl);
	b->tmpl = NULL;
	if (rc == QL_OK)
		rc = ql_tmpl_compile(&b->tmpl, source.data, source.len, e);
	ql_buf_free(&source);
	return rc;
}

static int option(struct base *b, struct ql_dataset_opts *o, const char *arg, struct ql_err *e)
{
	if (strncmp(arg, "template=", 9) == 0)
		return other_template(b, arg + 9, e);
	if (strcmp(arg, "all") == 0)
		o->completion_only_loss = false;
	else if (strcmp(arg, "alpaca") == 0)
		o->alpaca_template = true;
	else if (strcmp(arg, "last") == 0)
		o->train_on = QL_TRAIN_ON_LAST;
	else if (strcmp(arg, "overlong=drop") == 0)
		o->on_overlong = QL_OVERLONG_DROP;
	else if (strcmp(arg, "overlong=error") == 0)
		o->on_overlong = QL_OVERLONG_ERROR;
	else if (strcmp(arg, "overlong=truncate") != 0)
		return ql_err_set(e, QL_EINVAL, "unknown option %s", arg);
	return QL_OK;
}

static int show(const struct ql_dataset_opts *o, int fd, const char *name, struct ql_err *e)
{
	struct ql_dataset_report rep;
	struct ql_dataset *d = NULL;
	struct ql_err why = {0};
	json_t *p = NULL;
	int rc = ql_dataset_preview(&p, fd, name, o, 100, QL_MIB(64), e);

	if (rc != QL_OK)
		return rc;
	print(p);
	(void)ql_dataset_load(&d, fd, name, o, &rep, &why);
	ql_dataset_free(d);
	print(ql_dataset_report_json(&rep));
	return QL_OK;
}

int main(int argc, char **argv)
{
	struct ql_dataset_opts o = {.completion_only_loss = true, .min_examples = 1};
	struct base b = {0};
	struct ql_err e = {0};
	char *dir, *slash;
	int rc, fd;

	dir = argc < 4 ? NULL : strdup(argv[2]);
	slash = dir == NULL ? NULL : strrchr(dir, '/');
	if (slash == NULL)
		return 2;
	*slash = '\0';
	fd = open(dir, O_RDONLY | O_DIRECTORY);
	rc = load(&b, argv[1], &e);
	for (int i = 4; i < argc && rc == QL_OK; i++)
		rc = option(&b, &o, argv[i], &e);
	o.tok = b.tok;
	o.tmpl = b.tmpl;
	o.trusted = b.trusted;
	o.max_seq_length = (uint32_t)atoi(argv[3]);
	if (rc == QL_OK)
		rc = show(&o, fd, slash + 1, &e);
	if (rc != QL_OK)
		(void)fprintf(stderr, "%s\n", e.message);
	json_decref(b.trusted);
	ql_tmpl_free(b.tmpl);
	ql_tok_free(b.tok);
	(void)close(fd);
	free(dir);
	return rc != QL_OK;
}
