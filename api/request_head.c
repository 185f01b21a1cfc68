/* request_head.c - what a request's head must pass, in this order: framing and target, Host, Origin, token, route, method, scope,
 * size and type of the body (api.md §15.3). */
#include <string.h>

#include "api/reply.h"
#include "core/base/limits.h"
#include "daemon/auth.h"
#include "daemon/metrics.h"

#define UPLOAD_SLACK QL_KIB(64) /* form fields and boundaries around the file */

static enum MHD_Result collect_header(void *cls, enum MHD_ValueKind kind, const char *key, size_t key_size, const char *value,
				      size_t value_size)
{
	(void)kind;
	(void)key_size;
	ql_headers_add(cls, key, value, value_size);
	return MHD_YES;
}

static void rejected(struct ql_req *r, const char *reason)
{
	char labels[64];

	ql_metrics_labels(labels, sizeof labels, "reason", reason, NULL);
	ql_metrics_add(r->ctl->metrics, QLM_HTTP_REJECTED, labels, 1);
}

/* Framing, target, method: faults here close the connection. */
static int check_form(struct ql_req *r, const char *method, const char *version, struct ql_fault *f)
{
	struct ql_err e;
	int rc;

	(void)MHD_get_connection_values_n(r->mhd, MHD_HEADER_KIND, collect_header, &r->headers);
	rc = ql_headers_check(&r->headers, &r->framing, f);
	if (rc != QL_OK)
		return rc;
	if (r->raw_target == NULL)
		return ql_bad_internal(f);
	if (version != r->raw_end + 1)
		return ql_bad(f, 400, "invalid_value", NULL, "The request line is malformed.");
	if (ql_target_parse(&r->target, r->raw_target, strlen(r->raw_target), &e) != QL_OK)
		return ql_bad(f, 400, "invalid_value", NULL, "Malformed request target: %s.", e.message);
	r->method = ql_method_of(method);
	if (r->target.asterisk && r->method != QL_OPTIONS)
		return ql_bad(f, 400, "invalid_value", NULL, "The target '*' is for OPTIONS only.");
	return QL_OK;
}

static int check_access(struct ql_req *r, struct ql_fault *f)
{
	const struct ql_config *c = r->ctl->config;
	const struct ql_route *route;
	int rc;

	if (!r->conn->is_unix && ql_host_check(r->headers.host, &c->hosts, f) != QL_OK) {
		rejected(r, "host");
		return QL_EINVAL;
	}
	if (ql_origin_check(r->headers.origin, &c->origins, &r->cors, f) != QL_OK) {
		rejected(r, "origin");
		return QL_EINVAL;
	}
	r->match = ql_route_find(ql_routes, ql_routes_n, r->method, &r->target);
	route = r->match.route;
	if (r->method == QL_OPTIONS || (route != NULL && route->scopes == 0))
		return QL_OK;
	rc = ql_auth_check(r->ctl, r->headers.auth, r->conn->peer, r->conn->is_unix, &r->who, f);
	if (rc != QL_OK) {
		rejected(r, "auth");
		return rc;
	}
	if (route == NULL && r->match.methods != 0)
		return ql_bad(f, 405, "method_not_allowed", NULL, "Not allowed to use this method on this URL.");
	if (route == NULL)
		return ql_bad(f, 404, "unknown_url", NULL, "Unknown request URL. Please check the URL for typos.");
	return ql_auth_scope(&r->who, route->scopes, f);
}

uint64_t ql_req_body_limit(const struct ql_req *r)
{
	if (r->match.route == NULL || r->match.route->body == QL_BODY_NONE || r->match.route->body == QL_BODY_OPTIONAL)
		return QL_REQ_SMALL_BODY;
	return r->match.route->body == QL_BODY_JSON ? QL_JSON_BODY_MAX :
						      (uint64_t)r->ctl->config->upload_max_bytes + UPLOAD_SLACK;
}

int ql_req_too_large(struct ql_req *r, struct ql_fault *f)
{
	rejected(r, "size");
	return ql_bad(f, 413, "request_too_large", NULL, "The request body is larger than the %llu bytes allowed.",
		      (unsigned long long)ql_req_body_limit(r));
}

int ql_req_media(struct ql_req *r, struct ql_fault *f)
{
	enum ql_body body = r->match.route->body;
	const char *want = body == QL_BODY_UPLOAD ? "multipart/form-data" : "application/json";

	if (body == QL_BODY_NONE || ql_media_type_is(r->headers.type, want))
		return QL_OK;
	return ql_bad(f, 415, "unsupported_media_type", NULL, "Content-Type must be %s.", want);
}

static int check_body_head(struct ql_req *r, struct ql_fault *f)
{
	const struct ql_route *route = r->match.route;
	bool has_body = r->framing.chunked || r->framing.length > 0;
	int rc = QL_OK;

	if (r->framing.has_length && r->framing.length > ql_req_body_limit(r))
		return ql_req_too_large(r, f);
	if (route == NULL)
		return QL_OK;
	if ((route->flags & QL_ROUTE_WORK) && r->ctl->draining) {
		(void)ql_bad(f, 503, "draining", NULL, "The server is shutting down; try again soon.");
		f->retry_after = 5;
		return QL_EBUSY;
	}
	if (has_body || route->body == QL_BODY_UPLOAD)
		rc = ql_req_media(r, f);
	if (rc == QL_OK && route->body == QL_BODY_UPLOAD)
		rc = ql_upload_begin(r, f);
	return rc;
}

bool ql_req_check_head(struct ql_req *r, const char *method, const char *version, struct ql_fault *f)
{
	bool must_close;

	if (r->conn->over || r->http->stopping) {
		(void)ql_bad(f, 503, "engine_unavailable", NULL, "Too many connections.");
		f->retry_after = 1;
		return true;
	}
	if (check_form(r, method, version, f) != QL_OK)
		return true;
	must_close = check_access(r, f) != QL_OK &&
		     (r->framing.length > QL_REQ_SMALL_BODY || (r->framing.chunked && r->who.scopes == 0));
	if (f->status == 0)
		(void)check_body_head(r, f);
	return must_close || f->status == 413;
}
