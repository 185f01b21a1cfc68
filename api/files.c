/* files.c - /v1/files (api.md §4).  The upload's body is upload.c's. */
#include "daemon/files.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "api/handlers.h"
#include "api/page.h"
#include "api/range.h"

void ql_h_file_create(struct ql_req *r) { ql_upload_end(r); }

void ql_h_file_list(struct ql_req *r)
{
	const char *purpose, *order;
	struct ql_fault f = {0};
	struct ql_page page;
	json_t *out;

	if (ql_page_read(&r->target, 10000, 10000, &page, &f) != QL_OK ||
	    ql_query_str(&r->target, "purpose", 64, &purpose, &f) != QL_OK ||
	    ql_query_str(&r->target, "order", 8, &order, &f) != QL_OK)
		goto bad;
	page.ascending = order != NULL && strcmp(order, "asc") == 0;
	if (order != NULL && !page.ascending && strcmp(order, "desc") != 0) {
		(void)ql_bad_value(&f, "order", "'order' must be asc or desc.");
		goto bad;
	}
	if (ql_file_list(r->ctl, &r->who, purpose, &page, &out, &f) != QL_OK)
		goto bad;
	ql_reply_json(r, 200, out);
	return;
bad:
	ql_reply_fault(r, &f);
}

void ql_h_file_get(struct ql_req *r)
{
	struct ql_fault f = {0};
	json_t *out;

	if (ql_file_get(r->ctl, &r->who, r->match.param[0], &out, &f) != QL_OK)
		ql_reply_fault(r, &f);
	else
		ql_reply_json(r, 200, out);
}

void ql_h_file_delete(struct ql_req *r)
{
	struct ql_fault f = {0};
	json_t *out;

	if (ql_file_delete(r->ctl, &r->who, r->match.param[0], &out, &f) != QL_OK)
		ql_reply_fault(r, &f);
	else
		ql_reply_json(r, 200, out);
}

void ql_reply_file(struct ql_req *r, int fd, uint64_t size, const char *sha256, const char *name)
{
	uint64_t first = 0, last = 0;
	char tag[80], safe[200];
	size_t n = 0;

	for (const char *s = name; *s != '\0' && n + 1 < sizeof safe; s++)
		safe[n++] = (*s >= 0x20 && *s < 0x7f && *s != '"' && *s != '\\') ? *s : '_';
	safe[n] = '\0';
	(void)snprintf(tag, sizeof tag, "\"%s\"", sha256);
	ql_reply_header(r, "ETag", "%s", tag);
	ql_reply_header(r, "Content-Disposition", "attachment; filename=\"%s\"", safe);
	ql_reply_header(r, "Accept-Ranges", "bytes");
	if (ql_etag_match(r->headers.if_none_match, tag)) {
		(void)close(fd);
		ql_reply_empty(r, 304);
		return;
	}
	switch (ql_range_parse(r->headers.range, size, &first, &last)) {
	case QL_RANGE_NONE:
		ql_reply_fd(r, 200, "application/octet-stream", fd, 0, size);
		return;
	case QL_RANGE_ONE:
		ql_reply_header(r, "Content-Range", "bytes %llu-%llu/%llu", (unsigned long long)first,
				(unsigned long long)last, (unsigned long long)size);
		ql_reply_fd(r, 206, "application/octet-stream", fd, first, last - first + 1);
		return;
	case QL_RANGE_UNSATISFIABLE:
		(void)close(fd);
		ql_reply_header(r, "Content-Range", "bytes */%llu", (unsigned long long)size);
		ql_reply_empty(r, 416);
		return;
	}
}

void ql_h_file_content(struct ql_req *r)
{
	char sha256[65] = "", name[256] = "";
	struct ql_fault f = {0};
	uint64_t size = 0;
	int fd = -1;

	if (ql_file_open(r->ctl, &r->who, r->match.param[0], &fd, &size, sha256, name, &f) != QL_OK)
		ql_reply_fault(r, &f);
	else
		ql_reply_file(r, fd, size, sha256, name);
}
