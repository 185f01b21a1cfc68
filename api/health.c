/* health.c - liveness and readiness (api.md §13), /version, /v1/status, /metrics. */
#include <string.h>
#include <strings.h>

#include "api/handlers.h"
#include "core/base/buf.h"
#include "daemon/metrics.h"

void ql_h_livez(struct ql_req *r) { ql_reply_json(r, 200, json_pack("{s:s}", "status", "ok")); }

void ql_h_readyz(struct ql_req *r)
{
	struct ql_fault f = {0};

	if (ql_control_ready(r->ctl, &f))
		ql_reply_json(r, 200, json_pack("{s:s}", "status", "ok"));
	else
		ql_reply_fault(r, &f);
}

/* llama.cpp's form: clients match the type. */
void ql_h_health(struct ql_req *r)
{
	struct ql_fault f = {0};

	if (ql_control_ready(r->ctl, &f)) {
		ql_reply_json(r, 200, json_pack("{s:s}", "status", "ok"));
		return;
	}
	if (f.code != NULL && strcmp(f.code, "loading") == 0)
		memcpy(f.message, "Loading model", sizeof "Loading model");
	ql_reply_fault_type(r, &f, "unavailable_error");
}

void ql_h_version(struct ql_req *r) { ql_reply_json(r, 200, ql_control_version(r->ctl)); }

void ql_h_status(struct ql_req *r)
{
	if (!ql_reply_unchanged(r, ql_control_revision(r->ctl, &r->who), ql_control_status_tick(r->ctl)))
		ql_reply_json(r, 200, ql_control_status(r->ctl, &r->who));
}

void ql_h_metrics(struct ql_req *r)
{
	bool open = r->headers.accept != NULL && strcasestr(r->headers.accept, "application/openmetrics-text") != NULL;
	struct ql_buf out = {0};
	struct ql_fault f;

	ql_control_metrics(r->ctl);
	if (ql_metrics_render(r->ctl->metrics, open, &out) != QL_OK) {
		ql_buf_free(&out);
		(void)ql_bad_internal(&f);
		ql_reply_fault(r, &f);
		return;
	}
	ql_reply_bytes(r, 200,
		       open ? "application/openmetrics-text; version=1.0.0; charset=utf-8" :
			      "text/plain; version=0.0.4; charset=utf-8",
		       out.data, out.len);
}
