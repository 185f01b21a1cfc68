/* dashboard.c - the dashboard's page and files: public, since they hold no data; what they show is fetched with a token. */
#include <string.h>

#include "api/assets.h"
#include "api/handlers.h"

static void give(struct ql_req *r, const char *name)
{
	struct ql_fault f;

	for (size_t i = 0; i < ql_assets_n; i++) {
		const struct ql_asset *a = &ql_assets[i];

		if (strcmp(a->name, name) != 0)
			continue;
		ql_reply_header(r, "ETag", "%s", a->etag);
		ql_reply_header(r, "Content-Security-Policy",
				"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
				"base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
		ql_reply_header(r, "Referrer-Policy", "no-referrer");
		if (ql_etag_match(r->headers.if_none_match, a->etag))
			ql_reply_empty(r, 304);
		else
			ql_reply_static(r, a->type, a->data, a->len);
		return;
	}
	(void)ql_bad(&f, 404, "unknown_url", NULL, "Unknown request URL. Please check the URL for typos.");
	ql_reply_fault(r, &f);
}

void ql_h_dashboard(struct ql_req *r) { give(r, "index.html"); }
void ql_h_asset(struct ql_req *r) { give(r, r->match.param[0]); }
