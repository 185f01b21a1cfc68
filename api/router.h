/* router.h - the route table: what is offered, to whom, with which body.
 *
 * Patterns are written without the /v1 prefix; "{x}" stands for one non-empty segment, given decoded in order.  A route is
 * served with and without /v1 unless it is marked bare (api.md §1, the ones with a dagger).  The table is data, so that
 * authorisation, 405 with Allow, metrics labels and the tests all read the same rows. */
#ifndef QL_API_ROUTER_H
#define QL_API_ROUTER_H

#include <stdbool.h>
#include <stddef.h>

#include "api/target.h"

struct ql_req;

enum ql_method { QL_GET = 1, QL_POST = 2, QL_DELETE = 4, QL_HEAD = 8, QL_OPTIONS = 16 };
enum ql_body {
	QL_BODY_NONE,     /* a body is read and dropped, up to a limit */
	QL_BODY_JSON,     /* one JSON object, application/json */
	QL_BODY_OPTIONAL, /* nothing, or a JSON object */
	QL_BODY_UPLOAD    /* multipart/form-data */
};

#define QL_ROUTE_BARE 1u   /* only without /v1 */
#define QL_ROUTE_STREAM 2u /* may stream: HEAD gets an empty fixed response (api.md §18 row 19) */
#define QL_ROUTE_WORK 4u   /* new work: 503 while draining */

#define QL_ROUTE_PARAMS_MAX 2

struct ql_route {
	enum ql_method method;
	const char *pattern;
	unsigned scopes; /* bits of enum ql_scope, any of them is enough; 0 = public */
	unsigned flags;
	enum ql_body body;
	void (*handler)(struct ql_req *r);
};

struct ql_match {
	const struct ql_route *route;           /* NULL: see methods */
	unsigned methods;                       /* of every route with that path; 0 = unknown path */
	const char *param[QL_ROUTE_PARAMS_MAX]; /* borrowed from the target */
};

/* Method of that name, 0 if it is not one of ours. */
unsigned ql_method_of(const char *name);
/* Finds the route for method (HEAD matches GET) and target. */
struct ql_match ql_route_find(const struct ql_route *table, size_t n, unsigned method, const struct ql_target *t);
/* "GET, HEAD, OPTIONS" for an Allow header; out holds 40. */
void ql_route_allow(unsigned methods, char out[40]);

/* The table of the daemon (routes.c). */
extern const struct ql_route ql_routes[];
extern const size_t ql_routes_n;

#endif
