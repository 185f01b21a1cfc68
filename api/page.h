/* page.h - what lists have in common (api.md §2), and sending a file with ETag and one range. */
#ifndef QL_API_PAGE_H
#define QL_API_PAGE_H

#include "api/fields.h"

struct ql_req;

/* limit and after from the query.  The strings are borrowed from the target. */
int ql_page_read(const struct ql_target *t, int64_t dflt, int64_t max, struct ql_page *out, struct ql_fault *f);

/* Answers with the file (files.c): ETag = its hash, Content-Disposition, If-None-Match, Range.  fd is taken over. */
void ql_reply_file(struct ql_req *r, int fd, uint64_t size, const char *sha256, const char *name);

#endif
