/* tool_tok.c - a tokenizer on the command line, for the interop tests:
 *	tool_tok gguf FILE | json TOKENIZER_JSON [TOKENIZER_CONFIG_JSON]
 * then any of: add_special parse_special begin decode ids=OUT; reads a JSON array of strings on stdin and prints a JSON array:
 * for each string its ids; with `begin` an object {"ids","begin"}; with `decode` the text that its ids decode to.  A string
 * that fails gives {"error"}.  ids=OUT also writes the ids to a file: 32-bit integers, -1 after each string. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/formats/gguf.h"
#include "core/text/tok.h"

static int read_all(FILE *f, struct ql_buf *b)
{
	char chunk[65536];
	size_t n;
	int rc = QL_OK;

	while (rc == QL_OK && (n = fread(chunk, 1, sizeof chunk, f)) > 0)
		rc = ql_buf_add(b, chunk, n);
	return rc != QL_OK ? rc : ferror(f) ? QL_EIO : QL_OK;
}

static int read_file(const char *path, struct ql_buf *b)
{
	FILE *f = fopen(path, "rb");
	int rc = f == NULL ? QL_EIO : read_all(f, b);

	if (f != NULL)
		fclose(f);
	return rc;
}

static int load(struct ql_tok **t, int argc, char **argv, struct ql_err *e)
{
	struct ql_buf tok = {0}, config = {0};
	struct ql_gguf *g = NULL;
	int rc;

	if (strcmp(argv[1], "gguf") == 0) {
		rc = ql_gguf_open(&g, argv[2], e);
		if (rc == QL_OK)
			rc = ql_tok_from_gguf(t, g, e);
		ql_gguf_close(g);
		return rc;
	}
	rc = read_file(argv[2], &tok);
	if (rc == QL_OK && argc > 3 && strchr(argv[3], '.') != NULL)
		rc = read_file(argv[3], &config);
	if (rc == QL_OK)
		rc = ql_tok_from_json(t, tok.data, tok.len, config.data, config.len, e);
	else
		(void)ql_err_set(e, rc, "cannot read %s", argv[2]);
	ql_buf_free(&tok);
	ql_buf_free(&config);
	return rc;
}

static json_t *numbers(const struct ql_ids *v, bool begin)
{
	json_t *a = json_array();

	for (size_t i = 0; i < v->n; i++)
		json_array_append_new(a, json_integer(begin ? (json_int_t)v->begin[i] : v->ids[i]));
	return a;
}

static void write_ids(FILE *f, const struct ql_ids *v)
{
	static const int32_t end = -1;

	if (v->n > 0)
		(void)fwrite(v->ids, sizeof *v->ids, v->n, f);
	(void)fwrite(&end, sizeof end, 1, f);
}

static json_t *answer(const struct ql_tok *t, const json_t *s, unsigned flags, bool begin, bool decode, FILE *f)
{
	struct ql_ids ids = {0};
	struct ql_buf text = {0};
	struct ql_err e = {0};
	json_t *v;
	int rc = ql_tok_encode(t, json_string_value(s), json_string_length(s), flags, NULL, 0, &ids, &e);

	if (rc == QL_OK && decode)
		rc = ql_tok_decode(t, ids.ids, ids.n, false, &text, &e);
	if (f != NULL)
		write_ids(f, &ids);
	if (rc != QL_OK)
		v = json_pack("{s:s}", "error", e.message);
	else if (decode)
		v = json_stringn(text.data == NULL ? "" : text.data, text.len);
	else if (begin)
		v = json_pack("{s:o,s:o}", "ids", numbers(&ids, false), "begin", numbers(&ids, true));
	else
		v = numbers(&ids, false);
	ql_ids_free(&ids);
	ql_buf_free(&text);
	return v;
}

int main(int argc, char **argv)
{
	struct ql_tok *t = NULL;
	struct ql_buf in = {0};
	struct ql_err e = {0};
	unsigned flags = 0;
	bool begin = false, decode = false;
	json_t *list, *out = json_array(), *s;
	FILE *f = NULL;
	size_t i;

	if (argc < 3 || load(&t, argc, argv, &e) != QL_OK) {
		fprintf(stderr, "tool_tok: %s\n", argc < 3 ? "gguf|json FILE [options]" : e.message);
		return 1;
	}
	for (int k = 3; k < argc; k++) {
		flags |= strcmp(argv[k], "add_special") == 0 ? QL_TOK_ADD_SPECIAL : 0;
		flags |= strcmp(argv[k], "parse_special") == 0 ? QL_TOK_PARSE_SPECIAL : 0;
		begin |= strcmp(argv[k], "begin") == 0;
		decode |= strcmp(argv[k], "decode") == 0;
		if (strncmp(argv[k], "ids=", 4) == 0 && (f = fopen(argv[k] + 4, "wb")) == NULL)
			return 1;
	}
	if (read_all(stdin, &in) != QL_OK || (list = json_loadb(in.data, in.len, JSON_ALLOW_NUL, NULL)) == NULL) {
		fprintf(stderr, "tool_tok: no JSON on stdin\n");
		return 1;
	}
	json_array_foreach(list, i, s)
		json_array_append_new(out, answer(t, s, flags, begin, decode, f));
	json_dumpf(out, stdout, JSON_COMPACT);
	if (f != NULL && fclose(f) != 0)
		return 1;
	json_decref(list);
	json_decref(out);
	ql_buf_free(&in);
	ql_tok_free(t);
	return 0;
}
