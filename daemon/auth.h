/* auth.h - bearer tokens.  api.md §15.3, robustness.md §10.
 *
 * A token is "qlo_" + 43 characters of base64url (32 random bytes); the store has its SHA-256, id, label, project, scopes and
 * times.  Nothing here logs or returns a token except ql_token_add, once. */
#ifndef QL_DAEMON_AUTH_H
#define QL_DAEMON_AUTH_H

#include "daemon/control.h"

#define QL_TOKEN_SIZE 48 /* with the NUL */

/* `authorization` is the header's value or NULL.  `peer` identifies the client for the failure limit: its address without
 * the port.  401 invalid_api_key (one text for every reason); 429 rate_limit_exceeded, retry_after 60, no_retry.
 * With config->no_auth, or `local` (a UNIX socket, where connecting is the credential), *who is an admin. */
int ql_auth_check(struct ql_control *ctl, const char *authorization, const char *peer, bool local, struct ql_who *who,
		  struct ql_fault *f);
/* 403 insufficient_scope unless who has one of the scopes (an admin has all). */
int ql_auth_scope(const struct ql_who *who, unsigned scopes, struct ql_fault *f);

/* ---- tokens (the `token` sub-command; the store is shared with a running daemon through SQLite's locks) ---- */
struct ql_store;
int ql_token_add(struct ql_store *st, const char *label, const char *project, unsigned scopes, int64_t expires_at /* 0: never */,
		 char token[QL_TOKEN_SIZE], char id[QL_ID_SIZE], struct ql_err *e);
int ql_token_list(struct ql_store *st, json_t **out, struct ql_err *e);
int ql_token_revoke(struct ql_store *st, const char *id, struct ql_err *e);
/* "i", "t", "a", or words infer, train, admin, joined by commas; 0 if wrong. */
unsigned ql_scopes_of(const char *text);
/* First start: makes an admin token and writes it to admin.token (0600) when the store has no token. */
int ql_auth_open(struct ql_control *ctl, struct ql_err *e);
void ql_auth_close(struct ql_control *ctl);
void ql_auth_sweep(struct ql_control *ctl); /* writes the times of last use; called each minute */

#endif
