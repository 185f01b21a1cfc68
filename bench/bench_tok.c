/* bench_tok.c - tokeniser speed: bench_tok gguf|json FILE TEXT is a worker (bench/common.py) with TEXT in memory, cut into documents of
 * about 16 KiB at line ends.  Each line "encode MIB" tokenises that much of it on this thread and is answered with
 * {"bytes", "tokens", "seconds"}: processor time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/io.h"
#include "core/base/limits.h"
#include "core/formats/gguf.h"
#include "core/text/tok.h"

#define DOCUMENT 16384

static int load(struct ql_tok **t, const char *kind, const char *path, struct ql_err *e)
{
	struct ql_buf text = {0};
	struct ql_gguf *g = NULL;
	int rc;

	if (strcmp(kind, "gguf") == 0) {
		rc = ql_gguf_open(&g, path, e);
		if (rc == QL_OK)
			rc = ql_tok_from_gguf(t, g, e);
		ql_gguf_close(g);
		return rc;
	}
	rc = ql_io_read_file(path, QL_MIB(64), &text, e);
	if (rc == QL_OK)
		rc = ql_tok_from_json(t, text.data, text.len, NULL, 0, e);
	ql_buf_free(&text);
	return rc;
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The end of the document that begins at `at`. */
static size_t document(const struct ql_buf *text, size_t at)
{
	const char *nl;

	if (text->len - at <= DOCUMENT)
		return text->len;
	nl = memchr(text->data + at + DOCUMENT, '\n', text->len - at - DOCUMENT);
	return nl == NULL ? text->len : (size_t)(nl - text->data) + 1;
}

static int encode(const struct ql_tok *t, const struct ql_buf *text, size_t bytes, struct ql_err *e)
{
	struct ql_ids ids = {0};
	double begin = seconds();
	size_t at = 0, n = 0;
	int rc = QL_OK;

	while (rc == QL_OK && at < bytes && at < text->len) {
		size_t end = document(text, at);

		ids.n = 0;
		rc = ql_tok_encode(t, text->data + at, end - at, QL_TOK_PARSE_SPECIAL, NULL, 0, &ids, e);
		n += ids.n;
		at = end;
	}
	if (rc == QL_OK)
		printf("{\"bytes\": %zu, \"tokens\": %zu, \"seconds\": %.6f}\n", at, n, seconds() - begin);
	ql_ids_free(&ids);
	return rc;
}

int main(int argc, char **argv)
{
	struct ql_tok *t = NULL;
	struct ql_buf text = {0};
	struct ql_err e = {0};
	char line[64];
	int rc;

	if (argc != 4)
		return 2;
	rc = load(&t, argv[1], argv[2], &e);
	if (rc == QL_OK)
		rc = ql_io_read_file(argv[3], QL_MIB(512), &text, &e);
	if (rc == QL_OK)
		puts("{\"ready\": true}");
	(void)fflush(stdout);
	while (rc == QL_OK && fgets(line, sizeof line, stdin) != NULL) {
		rc = encode(t, &text, QL_MIB(strtoul(line + strcspn(line, " "), NULL, 10)), &e);
		(void)fflush(stdout);
	}
	if (rc != QL_OK)
		(void)fprintf(stderr, "bench_tok: %s\n", e.message);
	ql_buf_free(&text);
	ql_tok_free(t);
	return rc != QL_OK;
}
