/* fault.h - what control's functions hand to the HTTP room: who asks, why a request is refused, and a finished answer.
 *
 * A ql_fault is everything an error answer of api.md §3 needs.  type follows from the status: 429 rate_limit_error,
 * 5xx server_error, else invalid_request_error.  Lifetime: plain memory of the caller; code points to a literal. */
#ifndef QL_DAEMON_FAULT_H
#define QL_DAEMON_FAULT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"

#define QL_ID_SIZE 40      /* "ftckpt_" + 24 + NUL fits, and every other id */
#define QL_PROJECT_SIZE 64 /* project names: ^[A-Za-z0-9._-]{1,63}$ */
#define QL_MODEL_NAME_SIZE 320

enum ql_scope { QL_SCOPE_INFER = 1, QL_SCOPE_TRAIN = 2, QL_SCOPE_ADMIN = 4 };

/* Who asks.  An admin (scope a) has all scopes and sees the objects of all projects; what it makes belongs to `project`. */
struct ql_who {
	char project[QL_PROJECT_SIZE];
	char token[QL_ID_SIZE]; /* key-… , or "local" without authentication */
	unsigned scopes;        /* bits of enum ql_scope; ADMIN implies the others (set too) */
};

struct ql_fault {
	int status;          /* HTTP status; 0 = no fault */
	const char *code;    /* word of api.md §3, or NULL for null */
	char param[64];      /* "" for null */
	char message[512];
	int retry_after;     /* seconds for Retry-After, 0 = no such header */
	bool no_retry;       /* send x-should-retry: false */
};

/* A finished answer of a POST that may be repeated (api.md §15.1). */
struct ql_reply {
	int status;    /* 200 */
	json_t *body;  /* new reference, owned by the caller */
	bool replayed; /* send idempotent-replayed: true */
};

/* What the request said about repeats; zeroed = nothing. */
struct ql_idem {
	const char *key;       /* Idempotency-Key, checked by the HTTP room: 1..255 visible ASCII; NULL if absent */
	const char *body;      /* raw JSON body, for the fingerprint (not used for uploads) */
	size_t body_len;
	int64_t retry_count;   /* x-stainless-retry-count, 0 if absent or not a number */
};

/* A page of a list.  limit 0 = the route's default; above its maximum = the maximum. */
struct ql_page {
	int64_t limit;
	const char *after; /* id of the last item seen, or NULL */
	bool ascending;    /* files only: order=asc */
};

/* Each fills *f (may be NULL) and returns `rc`, one of enum ql_code. */
int ql_fault_set(struct ql_fault *f, int rc, int status, const char *code, const char *param, const char *fmt, ...)
	__attribute__((format(printf, 6, 7)));
/* 400 `code` with the message and param of *e; e->code ENOMEM, EIO, EINTERNAL… become 500 internal_error without detail
 * (logged), ENOSPC 503 no_space, EBUSY 429 queue_full. */
int ql_fault_err(struct ql_fault *f, const struct ql_err *e, const char *code);
/* 500 internal_error; the cause goes to the log only. */
int ql_fault_internal(struct ql_fault *f, const struct ql_err *e, const char *what);

/* "prefix" + 24 random characters of [0-9a-z]. */
void ql_id_make(char out[QL_ID_SIZE], const char *prefix);
/* True if id is prefix + 24 of [0-9a-z]: then it is safe as a path component. */
bool ql_id_ok(const char *id, const char *prefix);

#endif
