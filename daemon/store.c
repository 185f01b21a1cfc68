/* store.c - statements, transactions and their failures; see store.h.  Opening is store_open.c's. */
#include "daemon/store.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/log.h"
#include "daemon/metrics.h"
#include "daemon/store_internal.h"

/* A write that found no room leaves the file as it was.  A quota, or the shared memory file, tells so by errno only: that of the
 * last call that failed (sqlite3_system_errno does not know those of a COMMIT). */
static bool is_full(int src, int err)
{
	return (src & 0xff) == SQLITE_FULL ||
	       ((src == SQLITE_IOERR_WRITE || src == SQLITE_IOERR_SHMSIZE) && (err == ENOSPC || err == EDQUOT));
}

int ql_store_err(struct ql_store *st, struct ql_err *e, int src, const char *what)
{
	int code = is_full(src, errno) ? SQLITE_FULL : src & 0xff;

	if ((code == SQLITE_IOERR || code == SQLITE_CORRUPT || code == SQLITE_NOTADB) && !st->broken) {
		st->broken = true;
		if (st->on_broken != NULL)
			st->on_broken(st->broken_user);
	}
	return ql_err_set(e, code == SQLITE_FULL    ? QL_ENOSPC
			     : code == SQLITE_NOMEM ? QL_ENOMEM
			     : code == SQLITE_BUSY  ? QL_EBUSY
			     : code == SQLITE_IOERR ? QL_EIO
			     : code == SQLITE_CORRUPT || code == SQLITE_NOTADB ? QL_EFORMAT
			     : code == SQLITE_CONSTRAINT		       ? QL_EEXIST
									       : QL_EINTERNAL,
			  "store: %s: %s", what, st->db != NULL ? sqlite3_errmsg(st->db) : sqlite3_errstr(src));
}

void ql_store_close(struct ql_store *st)
{
	if (st == NULL)
		return;
	for (size_t i = 0; i < st->n_cached; i++)
		(void)sqlite3_finalize(st->cache[i].stmt);
	(void)sqlite3_wal_checkpoint_v2(st->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
	if (sqlite3_close(st->db) != SQLITE_OK)
		ql_log(QL_LOG_WARN, "store", "closed with work left");
	free(st);
}

void ql_store_metrics(struct ql_store *st, struct ql_metrics *m) { st->metrics = m; }

void ql_store_on_space(struct ql_store *st, bool (*fn)(void *user, bool full), void *user)
{
	st->on_space = fn;
	st->space_user = user;
}

void ql_store_on_broken(struct ql_store *st, void (*fn)(void *user), void *user)
{
	st->on_broken = fn;
	st->broken_user = user;
}

bool ql_store_in_transaction(const struct ql_store *st) { return st->in_tx; }
bool ql_store_broken(const struct ql_store *st) { return st->broken; }

int ql_store_begin(struct ql_store *st, struct ql_err *e)
{
	int rc;

	if (st->in_tx)
		return ql_err_set(e, QL_EINTERNAL, "store: transactions do not nest");
	if (st->on_space != NULL)
		(void)st->on_space(st->space_user, false);
	rc = ql_store_run(st, e, "BEGIN IMMEDIATE", "");
	if (rc < 0)
		return rc;
	st->in_tx = true;
	return QL_OK;
}

int ql_store_commit(struct ql_store *st, struct ql_err *e)
{
	struct timespec a, b;
	int rc;

	(void)clock_gettime(CLOCK_MONOTONIC, &a);
	rc = ql_store_run(st, e, "COMMIT", "");
	(void)clock_gettime(CLOCK_MONOTONIC, &b);
	if (st->metrics != NULL)
		ql_metrics_observe(st->metrics, QLM_DB_COMMIT_SECONDS, "",
				   (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) * 1e-9);
	if (rc < 0) {
		ql_store_rollback(st);
		return rc;
	}
	st->in_tx = false;
	return QL_OK;
}

void ql_store_rollback(struct ql_store *st)
{
	if (!st->in_tx)
		return;
	st->in_tx = false;
	if (sqlite3_get_autocommit(st->db) == 0 && sqlite3_exec(st->db, "ROLLBACK", NULL, NULL, NULL) != SQLITE_OK)
		ql_log(QL_LOG_ERROR, "store", "rollback: %s", sqlite3_errmsg(st->db));
}

static sqlite3_stmt *prepared(struct ql_store *st, const char *sql, struct ql_err *e)
{
	sqlite3_stmt *q = NULL;
	int rc;

	for (size_t i = 0; i < st->n_cached; i++)
		if (st->cache[i].sql == sql || strcmp(st->cache[i].sql, sql) == 0)
			return st->cache[i].stmt;
	if (st->n_cached == STATEMENTS_MAX) {
		(void)ql_err_set(e, QL_EINTERNAL, "store: too many statements");
		return NULL;
	}
	rc = sqlite3_prepare_v3(st->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &q, NULL);
	if (rc != SQLITE_OK) {
		(void)ql_store_err(st, e, rc, sql);
		return NULL;
	}
	st->cache[st->n_cached].sql = sql;
	st->cache[st->n_cached++].stmt = q;
	return q;
}

static sqlite3_stmt *query(struct ql_store *st, struct ql_err *e, const char *sql, const char *types, va_list ap)
{
	sqlite3_stmt *q = prepared(st, sql, e);
	int rc = SQLITE_OK;

	if (q == NULL)
		return NULL;
	(void)sqlite3_reset(q);
	for (int i = 0; types[i] != '\0' && rc == SQLITE_OK; i++) {
		const char *s;
		double d;

		switch (types[i]) {
		case 's':
			s = va_arg(ap, const char *);
			rc = sqlite3_bind_text(q, i + 1, s, -1, SQLITE_TRANSIENT);
			break;
		case 'i':
			rc = sqlite3_bind_int64(q, i + 1, va_arg(ap, int64_t));
			break;
		case 'd':
			d = va_arg(ap, double);
			rc = isfinite(d) ? sqlite3_bind_double(q, i + 1, d) : sqlite3_bind_null(q, i + 1);
			break;
		default:
			rc = sqlite3_bind_null(q, i + 1);
		}
	}
	if (rc == SQLITE_OK)
		return q;
	(void)ql_store_err(st, e, rc, "bind");
	ql_store_done(q);
	return NULL;
}

sqlite3_stmt *ql_store_query(struct ql_store *st, struct ql_err *e, const char *sql, const char *types, ...)
{
	sqlite3_stmt *q;
	va_list ap;

	va_start(ap, types);
	q = query(st, e, sql, types, ap);
	va_end(ap);
	return q;
}

int ql_store_step(struct ql_store *st, sqlite3_stmt *q, struct ql_err *e)
{
	int rc = sqlite3_step(q);

	if (rc == SQLITE_ROW)
		return 1;
	return rc == SQLITE_DONE ? 0 : ql_store_err(st, e, rc, "step");
}

void ql_store_done(sqlite3_stmt *q)
{
	if (q == NULL)
		return;
	(void)sqlite3_reset(q);
	(void)sqlite3_clear_bindings(q);
}

int ql_store_run(struct ql_store *st, struct ql_err *e, const char *sql, const char *types, ...)
{
	struct ql_err local = {0};
	sqlite3_stmt *q;
	va_list ap;
	int rc;

	if (e == NULL)
		e = &local;
	if (st->broken)
		return ql_err_set(e, QL_EIO, "store: the database cannot be trusted any more");
	va_start(ap, types);
	q = query(st, e, sql, types, ap);
	va_end(ap);
	if (q == NULL)
		return e->code < 0 ? e->code : QL_EINTERNAL;
	do
		rc = ql_store_step(st, q, e);
	while (rc > 0);
	if (rc == QL_ENOSPC && st->on_space != NULL && st->on_space(st->space_user, true) && !st->in_tx) {
		(void)sqlite3_reset(q); /* keeps what is bound */
		do
			rc = ql_store_step(st, q, e);
		while (rc > 0);
	}
	ql_store_done(q);
	return rc < 0 ? rc : sqlite3_changes(st->db);
}

int64_t ql_store_int(struct ql_store *st, int64_t none, const char *sql, const char *types, ...)
{
	struct ql_err e = {0};
	int64_t v = none;
	sqlite3_stmt *q;
	va_list ap;
	int rc;

	va_start(ap, types);
	q = query(st, &e, sql, types, ap);
	va_end(ap);
	rc = q == NULL ? e.code : ql_store_step(st, q, &e);
	if (rc < 0)
		ql_log(QL_LOG_ERROR, "store", "%s", e.message);
	else if (rc == 1 && sqlite3_column_type(q, 0) != SQLITE_NULL)
		v = sqlite3_column_int64(q, 0);
	ql_store_done(q);
	return v;
}

const char *ql_store_text(sqlite3_stmt *q, int column)
{
	const unsigned char *s = sqlite3_column_text(q, column);

	return s == NULL ? "" : (const char *)s;
}

int ql_store_meta_set(struct ql_store *st, const char *key, const char *value, struct ql_err *e)
{
	int rc = ql_store_run(st, e, "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2",
			      "ss", key, value);

	return rc < 0 ? rc : QL_OK;
}

char *ql_store_meta_get(struct ql_store *st, const char *key)
{
	struct ql_err e = {0};
	sqlite3_stmt *q = ql_store_query(st, &e, "SELECT value FROM meta WHERE key = ?1", "s", key);
	char *out = NULL;

	if (q != NULL && ql_store_step(st, q, &e) == 1)
		out = strdup(ql_store_text(q, 0));
	ql_store_done(q);
	return out;
}
