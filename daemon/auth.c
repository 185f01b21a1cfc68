/* auth.c - checking bearer tokens; see auth.h. */
#include "daemon/auth.h"

#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "daemon/store.h"

#define PEERS_MAX 1024 /* addresses remembered; the stalest makes room */
#define PEER_SIZE 64
#define USES_MAX 64
#define MINUTE_MS 60000

struct peer {
	char name[PEER_SIZE];
	uint64_t since_ms;
	int failures;
	bool told;
};

struct use { /* last use of a token, written with the minute's sweep */
	char id[QL_ID_SIZE];
	int64_t at;
};

struct ql_auth {
	struct peer peers[PEERS_MAX];
	size_t n_peers;
	struct use uses[USES_MAX];
	size_t n_uses;
};

static void hash_token(const char *token, char hex[QL_SHA256_HEX_SIZE]) { ql_sha256_hex(token, strlen(token), hex); }

static struct peer *find_peer(struct ql_auth *a, const char *name)
{
	for (size_t i = 0; i < a->n_peers; i++)
		if (strncmp(a->peers[i].name, name, PEER_SIZE - 1) == 0)
			return &a->peers[i];
	return NULL;
}

static bool is_blocked(struct ql_control *ctl, const char *name)
{
	struct peer *p = find_peer(ctl->auth, name);

	if (p == NULL || p->failures < QL_AUTH_FAILURES_PER_MINUTE)
		return false;
	if (uv_now(ctl->loop) - p->since_ms >= MINUTE_MS) {
		p->failures = 0;
		return false;
	}
	if (!p->told)
		ql_log(QL_LOG_WARN, "auth", "too many wrong tokens from %s", p->name);
	p->told = true;
	return true;
}

static void count_failure(struct ql_control *ctl, const char *name)
{
	struct ql_auth *a = ctl->auth;
	struct peer *p = find_peer(a, name);
	uint64_t now = uv_now(ctl->loop);

	if (p == NULL && a->n_peers < PEERS_MAX) {
		p = &a->peers[a->n_peers++];
	} else if (p == NULL) {
		p = &a->peers[0];
		for (size_t i = 1; i < a->n_peers; i++)
			if (a->peers[i].since_ms < p->since_ms)
				p = &a->peers[i];
	}
	if (strncmp(p->name, name, PEER_SIZE - 1) != 0 || p->failures == 0 || now - p->since_ms >= MINUTE_MS) {
		(void)snprintf(p->name, sizeof p->name, "%s", name);
		p->since_ms = now;
		p->failures = 0;
		p->told = false;
	}
	p->failures++;
}

static void note_use(struct ql_auth *a, const char *id, int64_t now)
{
	size_t i = 0;

	while (i < a->n_uses && strcmp(a->uses[i].id, id) != 0)
		i++;
	if (i == USES_MAX)
		return;
	if (i == a->n_uses) {
		(void)snprintf(a->uses[i].id, sizeof a->uses[i].id, "%s", id);
		a->n_uses++;
	}
	a->uses[i].at = now - now % 60;
}

void ql_auth_sweep(struct ql_control *ctl)
{
	struct ql_err e = {0};
	int rc;

	if (ctl->auth->n_uses == 0)
		return;
	rc = ql_store_begin(ctl->store, &e); /* one sync for all of them */
	for (size_t i = 0; rc >= 0 && i < ctl->auth->n_uses; i++)
		rc = ql_store_run(ctl->store, &e, "UPDATE tokens SET last_used = ?2 WHERE id = ?1 AND ifnull(last_used, 0) < ?2", "si",
				  ctl->auth->uses[i].id, ctl->auth->uses[i].at);
	if (rc >= 0 && (rc = ql_store_commit(ctl->store, &e)) == QL_OK)
		ctl->auth->n_uses = 0;
	else
		ql_store_rollback(ctl->store);
}

static bool token_form(const char *t)
{
	if (strncmp(t, "qlo_", 4) != 0 || strlen(t) != QL_TOKEN_SIZE - 1)
		return false;
	return strspn(t + 4, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == QL_TOKEN_SIZE - 5;
}

/* 1 found and valid, 0 not, < 0 store failure. */
static int look_up(struct ql_control *ctl, const char *token, struct ql_who *who, struct ql_err *e)
{
	char hex[QL_SHA256_HEX_SIZE];
	int64_t now = (int64_t)time(NULL);
	sqlite3_stmt *q;
	int rc;

	hash_token(token, hex);
	q = ql_store_query(ctl->store, e, "SELECT hash, id, project, scopes, expires_at, revoked_at FROM tokens WHERE hash = ?1", "s", hex);
	rc = q == NULL ? e->code : ql_store_step(ctl->store, q, e);
	if (rc == 1 && (strlen(ql_store_text(q, 0)) != 64 || sodium_memcmp(ql_store_text(q, 0), hex, 64) != 0 ||
			sqlite3_column_type(q, 5) != SQLITE_NULL ||
			(sqlite3_column_type(q, 4) != SQLITE_NULL && sqlite3_column_int64(q, 4) <= now)))
		rc = 0;
	if (rc == 1) {
		(void)snprintf(who->token, sizeof who->token, "%s", ql_store_text(q, 1));
		(void)snprintf(who->project, sizeof who->project, "%s", ql_store_text(q, 2));
		who->scopes = (unsigned)sqlite3_column_int(q, 3);
		if ((who->scopes & QL_SCOPE_ADMIN) != 0)
			who->scopes = QL_SCOPE_ADMIN | QL_SCOPE_TRAIN | QL_SCOPE_INFER;
		note_use(ctl->auth, who->token, now);
	}
	ql_store_done(q);
	sodium_memzero(hex, sizeof hex);
	return rc;
}

int ql_auth_check(struct ql_control *ctl, const char *authorization, const char *peer, bool local, struct ql_who *who,
		  struct ql_fault *f)
{
	const char *token = authorization;
	struct ql_err e = {0};
	int rc = 0;

	memset(who, 0, sizeof *who);
	if (local || ctl->config->no_auth) {
		(void)snprintf(who->project, sizeof who->project, "%s", QL_PROJECT_DEFAULT);
		(void)snprintf(who->token, sizeof who->token, "local");
		who->scopes = QL_SCOPE_ADMIN | QL_SCOPE_TRAIN | QL_SCOPE_INFER;
		return QL_OK;
	}
	if (is_blocked(ctl, peer)) {
		(void)ql_fault_set(f, QL_EBUSY, 429, "rate_limit_exceeded", NULL, "Too many requests with a wrong key; try again later.");
		if (f != NULL) {
			f->retry_after = 60;
			f->no_retry = true;
		}
		return QL_EBUSY;
	}
	if (token != NULL && strncasecmp(token, "Bearer ", 7) == 0) {
		token += 7;
		token += strspn(token, " ");
		if (token_form(token))
			rc = look_up(ctl, token, who, &e);
	}
	if (rc == 1)
		return QL_OK;
	memset(who, 0, sizeof *who);
	if (rc < 0)
		return ql_fault_internal(f, &e, "token");
	if (token != NULL)
		count_failure(ctl, peer);
	return ql_fault_set(f, QL_EINVAL, 401, "invalid_api_key", NULL, "Incorrect API key provided.");
}

int ql_auth_scope(const struct ql_who *who, unsigned scopes, struct ql_fault *f)
{
	if ((who->scopes & (scopes | QL_SCOPE_ADMIN)) != 0)
		return QL_OK;
	return ql_fault_set(f, QL_EINVAL, 403, "insufficient_scope", NULL, "This key does not permit this request.");
}

/* admin.token is written only together with the row: a start that was cut between them makes a new pair. */
static int first_token(struct ql_control *ctl, struct ql_err *e)
{
	char token[QL_TOKEN_SIZE], id[QL_ID_SIZE], line[QL_TOKEN_SIZE + 1];
	int rc = ql_token_add(ctl->store, "first start", QL_PROJECT_DEFAULT, QL_SCOPE_ADMIN, 0, token, id, e);

	if (rc != QL_OK)
		return rc;
	(void)snprintf(line, sizeof line, "%s\n", token);
	rc = ql_io_replace(ctl->state_fd, "admin.token", line, strlen(line), e);
	if (rc != QL_OK)
		(void)ql_store_run(ctl->store, NULL, "DELETE FROM tokens WHERE id = ?1", "s", id);
	else
		ql_log(QL_LOG_INFO, "auth", "made an admin token; it is in admin.token in the state directory");
	sodium_memzero(token, sizeof token);
	sodium_memzero(line, sizeof line);
	return rc;
}

int ql_auth_open(struct ql_control *ctl, struct ql_err *e)
{
	ctl->auth = calloc(1, sizeof *ctl->auth);
	if (ctl->auth == NULL)
		return ql_err_set(e, QL_ENOMEM, "tokens");
	/* A crash between row and file leaves one token that nobody knows: no file and never used means the first start again. */
	if (faccessat(ctl->state_fd, "admin.token", F_OK, 0) != 0 &&
	    ql_store_int(ctl->store, 0, "SELECT count(*) FROM tokens WHERE label <> 'first start' OR last_used IS NOT NULL", "") == 0)
		return first_token(ctl, e);
	return QL_OK;
}

void ql_auth_close(struct ql_control *ctl)
{
	if (ctl->auth != NULL)
		ql_auth_sweep(ctl);
	free(ctl->auth);
	ctl->auth = NULL;
}
