/* lines.c - a file by lines, in blocks, hashed on the way. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/text/data/data.h"

#define BLOCK QL_KIB(256)

int lines_open(struct lines *l, int dirfd, const char *path, struct ql_sha256 *hash, struct ql_err *e)
{
	uint64_t size = 0;

	*l = (struct lines){.fd = -1, .hash = hash};
	l->block = malloc(BLOCK);
	if (l->block == NULL)
		return ql_err_set(e, QL_ENOMEM, "dataset");
	l->fd = ql_io_open_read(dirfd, path, &size, e);
	return l->fd < 0 ? l->fd : QL_OK;
}

void lines_close(struct lines *l)
{
	if (l->fd >= 0)
		(void)close(l->fd);
	free(l->block);
	ql_buf_free(&l->line);
	*l = (struct lines){.fd = -1};
}

static int fill(struct lines *l, struct ql_err *e)
{
	ssize_t n;

	do
		n = read(l->fd, l->block, BLOCK);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return ql_err_errno(e, "reading the dataset");
	if (n > 0 && l->hash != NULL)
		ql_sha256_add(l->hash, l->block, (size_t)n);
	l->eof = n == 0;
	l->at = 0;
	l->have = (size_t)n;
	return QL_OK;
}

/* Adds bytes to the line; one over the limit is remembered as too long and its text given up. */
static int add(struct lines *l, size_t n, struct ql_err *e)
{
	if (l->line.len + n > QL_DATASET_LINE_MAX + 1) { /* + 1: a carriage return */
		l->too_long = true;
		ql_buf_reset(&l->line);
	}
	if (!l->too_long && ql_buf_add(&l->line, l->block + l->at, n) != QL_OK)
		return ql_err_set(e, QL_ENOMEM, "dataset");
	return QL_OK;
}

int lines_next(struct lines *l, bool *more, struct ql_err *e)
{
	bool any = false;
	int rc = QL_OK;

	*more = false;
	ql_buf_reset(&l->line);
	l->too_long = false;
	for (;;) {
		const char *nl;
		size_t n;

		if (l->at == l->have && (rc = fill(l, e)) != QL_OK)
			return rc;
		if (l->eof)
			break;
		any = true;
		nl = memchr(l->block + l->at, '\n', l->have - l->at);
		n = nl == NULL ? l->have - l->at : (size_t)(nl - (l->block + l->at));
		rc = add(l, n, e);
		if (rc != QL_OK)
			return rc;
		l->at += n + (nl != NULL);
		if (nl != NULL)
			break;
	}
	if (!any)
		return QL_OK;
	if (++l->number > QL_DATASET_LINES_MAX)
		return ql_err_set(e, QL_ELIMIT, "more than %d lines", QL_DATASET_LINES_MAX);
	if (l->line.len > 0 && l->line.data[l->line.len - 1] == '\r')
		l->line.data[--l->line.len] = '\0';
	l->too_long |= l->line.len > QL_DATASET_LINE_MAX;
	*more = true;
	return QL_OK;
}
