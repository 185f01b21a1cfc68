/* store_open.c - opening the database: settings, damage, version, backup and migration. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/store_internal.h"
#include "daemon/store_schema.h"

#define BUSY_MS 5000

static int exec(struct ql_store *st, const char *sql, struct ql_err *e)
{
	int rc = sqlite3_exec(st->db, sql, NULL, NULL, NULL);

	return rc == SQLITE_OK ? QL_OK : ql_store_err(st, e, rc, "statement");
}

static int pragma_int(struct ql_store *st, const char *sql, int64_t *out, struct ql_err *e)
{
	sqlite3_stmt *q = NULL;
	int rc = sqlite3_prepare_v2(st->db, sql, -1, &q, NULL);

	if (rc == SQLITE_OK)
		rc = sqlite3_step(q);
	if (rc == SQLITE_ROW)
		*out = sqlite3_column_int64(q, 0);
	(void)sqlite3_finalize(q);
	return rc == SQLITE_ROW ? QL_OK : ql_store_err(st, e, rc, "pragma");
}

static int check(struct ql_store *st, const char *sql, struct ql_err *e)
{
	sqlite3_stmt *q = NULL;
	int rc = sqlite3_prepare_v2(st->db, sql, -1, &q, NULL), out = QL_OK;

	if (rc == SQLITE_OK)
		rc = sqlite3_step(q);
	if (rc != SQLITE_ROW)
		out = ql_store_err(st, e, rc, "check");
	else if (strcmp(ql_store_text(q, 0), "ok") != 0)
		out = ql_err_set(e, QL_EFORMAT, "store is damaged: %s", ql_store_text(q, 0));
	(void)sqlite3_finalize(q);
	return out;
}

int ql_store_integrity(struct ql_store *st, struct ql_err *e) { return check(st, "PRAGMA integrity_check(1)", e); }

/* A copy of the database as it is, beside it, before a migration touches it. */
static int backup(struct ql_store *st, const char *path, int64_t version, struct ql_err *e)
{
	char name[4200];
	sqlite3 *to = NULL;
	sqlite3_backup *b = NULL;
	int rc;

	(void)snprintf(name, sizeof name, "%s/qlorad.db.v%lld", path, (long long)version);
	rc = sqlite3_open_v2(name, &to, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);
	if (rc == SQLITE_OK) {
		b = sqlite3_backup_init(to, "main", st->db, "main");
		rc = b == NULL ? sqlite3_errcode(to) : sqlite3_backup_step(b, -1);
		(void)sqlite3_backup_finish(b);
	}
	(void)sqlite3_close(to);
	return rc == SQLITE_DONE ? QL_OK : ql_err_set(e, QL_EIO, "store: backup before migration: %s", sqlite3_errstr(rc));
}

static int migrate(struct ql_store *st, const char *path, struct ql_err *e)
{
	int64_t version = 0, app = 0, tables = 0;
	char pragma[96];
	int rc;

	if ((rc = pragma_int(st, "PRAGMA user_version", &version, e)) != QL_OK ||
	    (rc = pragma_int(st, "PRAGMA application_id", &app, e)) != QL_OK ||
	    (rc = pragma_int(st, "SELECT count(*) FROM sqlite_schema", &tables, e)) != QL_OK)
		return rc;
	if (tables != 0 && app != QL_STORE_APPLICATION_ID)
		return ql_err_set(e, QL_EFORMAT, "qlorad.db is not a database of qlorad");
	if (version > ql_store_migrations_n || version < 0)
		return ql_err_set(e, QL_EUNSUPPORTED, "qlorad.db has version %lld, this program knows up to %d: use a newer qlorad",
				  (long long)version, ql_store_migrations_n);
	if (version == ql_store_migrations_n)
		return QL_OK;
	if (tables != 0 && (rc = backup(st, path, version, e)) != QL_OK)
		return rc;
	if ((rc = exec(st, "BEGIN IMMEDIATE", e)) != QL_OK)
		return rc;
	for (int64_t v = version; v < ql_store_migrations_n && rc == QL_OK; v++)
		rc = exec(st, ql_store_migrations[v], e);
	(void)snprintf(pragma, sizeof pragma, "PRAGMA application_id=%d; PRAGMA user_version=%d", QL_STORE_APPLICATION_ID,
		       ql_store_migrations_n);
	if (rc == QL_OK && (rc = exec(st, pragma, e)) == QL_OK && (rc = exec(st, "COMMIT", e)) == QL_OK)
		return QL_OK;
	(void)sqlite3_exec(st->db, "ROLLBACK", NULL, NULL, NULL);
	return rc;
}

int ql_store_open(struct ql_store **out, const char *path, bool quick, struct ql_err *e)
{
	static const char *const pragmas[] = {
		"PRAGMA busy_timeout=5000",    "PRAGMA journal_mode=WAL",	"PRAGMA synchronous=FULL",
		"PRAGMA foreign_keys=ON",      "PRAGMA trusted_schema=OFF",	"PRAGMA cell_size_check=ON",
		"PRAGMA mmap_size=0",	       "PRAGMA wal_autocheckpoint=1000", "PRAGMA journal_size_limit=67108864",
		"PRAGMA temp_store=MEMORY",    "PRAGMA cache_size=-4096"};
	struct ql_store *st = calloc(1, sizeof *st);
	char name[4200];
	int rc;

	*out = NULL;
	if (st == NULL)
		return ql_err_set(e, QL_ENOMEM, "store");
	if ((size_t)snprintf(name, sizeof name, "%s/qlorad.db", path) >= sizeof name) {
		rc = ql_err_set(e, QL_EINVAL, "state directory: path too long");
		goto fail;
	}
	rc = sqlite3_open_v2(name, &st->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
	if (rc != SQLITE_OK) {
		rc = ql_store_err(st, e, rc, "open");
		goto fail;
	}
	(void)sqlite3_extended_result_codes(st->db, 1);
	(void)sqlite3_busy_timeout(st->db, BUSY_MS);
	(void)sqlite3_db_config(st->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	for (size_t i = 0; i < sizeof pragmas / sizeof pragmas[0]; i++)
		if ((rc = exec(st, pragmas[i], e)) != QL_OK)
			goto fail;
	if (quick && (rc = check(st, "PRAGMA quick_check(1)", e)) != QL_OK)
		goto fail;
	if ((rc = migrate(st, path, e)) != QL_OK)
		goto fail;
	*out = st;
	return QL_OK;
fail:
	if (st->db != NULL)
		(void)sqlite3_close(st->db);
	free(st);
	return rc;
}
