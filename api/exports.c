/* exports.c - /v1/exports (api.md §12). */
#include "daemon/exports.h"

#include "api/handlers.h"
#include "api/page.h"

void ql_h_export_create(struct ql_req *r)
{
	struct ql_reply reply = {0};
	struct ql_fault f = {0};
	struct ql_idem idem;

	if (ql_req_idem(r, &idem, &f) != QL_OK || ql_export_create(r->ctl, &r->who, r->json, &idem, &reply, &f) != QL_OK)
		ql_reply_fault(r, &f);
	else
		ql_reply_repeatable(r, &reply);
}

void ql_h_export_list(struct ql_req *r)
{
	struct ql_fault f = {0};
	struct ql_page page;
	json_t *out;

	if (ql_page_read(&r->target, 20, 100, &page, &f) != QL_OK ||
	    ql_export_list(r->ctl, &r->who, &page, &out, &f) != QL_OK)
		ql_reply_fault(r, &f);
	else
		ql_reply_json(r, 200, out);
}

void ql_h_export_get(struct ql_req *r)
{
	struct ql_fault f = {0};
	json_t *out;

	if (ql_export_get(r->ctl, &r->who, r->match.param[0], &out, &f) != QL_OK)
		ql_reply_fault(r, &f);
	else
		ql_reply_json(r, 200, out);
}

void ql_h_export_delete(struct ql_req *r)
{
	struct ql_fault f = {0};
	json_t *out;

	if (ql_export_delete(r->ctl, &r->who, r->match.param[0], &out, &f) != QL_OK)
		ql_reply_fault(r, &f);
	else
		ql_reply_json(r, 200, out);
}

void ql_h_export_content(struct ql_req *r)
{
	char sha256[65] = "", name[160] = "";
	struct ql_fault f = {0};
	const char *file;
	uint64_t size = 0;
	int fd = -1;

	if (ql_query_str(&r->target, "file", 200, &file, &f) != QL_OK ||
	    ql_export_file(r->ctl, &r->who, r->match.param[0], file, &fd, &size, sha256, name, &f) != QL_OK)
		ql_reply_fault(r, &f);
	else
		ql_reply_file(r, fd, size, sha256, name);
}
