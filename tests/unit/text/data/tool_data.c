/* tool_data.c - for the interop tests: data_tool GGUF FILE.jsonl MAX_SEQ_LENGTH prints the preview of the file's first lines,
 * made with the GGUF's tokenizer and chat template, then the report of loading all of it, one JSON object a line. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/formats/gguf.h"
#include "core/text/data/dataset.h"

static void print(json_t *v)
{
	char *text = json_dumps(v, JSON_COMPACT);

	puts(text == NULL ? "null" : text);
	free(text);
	json_decref(v);
}

int main(int argc, char **argv)
{
	struct ql_dataset_opts o = {.completion_only_loss = true, .min_examples = 1};
	struct ql_gguf_str source = {0};
	struct ql_dataset_report rep;
	struct ql_dataset *d = NULL;
	struct ql_gguf *g = NULL;
	struct ql_tmpl *tmpl = NULL;
	struct ql_tok *tok = NULL;
	struct ql_err e = {0};
	json_t *p = NULL;
	char *dir, *slash;
	int rc, fd;

	if (argc != 4)
		return 2;
	dir = strdup(argv[2]);
	slash = dir == NULL ? NULL : strrchr(dir, '/');
	if (slash == NULL)
		return 2;
	*slash = '\0';
	fd = open(dir, O_RDONLY | O_DIRECTORY);
	rc = ql_gguf_open(&g, argv[1], &e);
	if (rc == QL_OK)
		rc = ql_tok_from_gguf(&tok, g, &e);
	if (rc == QL_OK)
		rc = ql_gguf_get_str(g, "tokenizer.chat_template", true, &source, &e);
	if (rc == QL_OK)
		rc = ql_tmpl_compile(&tmpl, source.s, source.len, &e);
	o.tok = tok;
	o.tmpl = tmpl;
	o.max_seq_length = (uint32_t)atoi(argv[3]);
	if (rc == QL_OK)
		rc = ql_dataset_preview(&p, fd, slash + 1, &o, 100, &e);
	if (rc == QL_OK) {
		print(p);
		if (ql_dataset_load(&d, fd, slash + 1, &o, &rep, &e) == QL_OK)
			ql_dataset_free(d);
		print(ql_dataset_report_json(&rep));
	} else {
		(void)fprintf(stderr, "%s\n", e.message);
	}
	ql_tmpl_free(tmpl);
	ql_tok_free(tok);
	ql_gguf_close(g);
	(void)close(fd);
	free(dir);
	return rc != QL_OK;
}
