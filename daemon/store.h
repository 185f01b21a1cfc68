/* store.h - the SQLite database STATE/qlorad.db: opening, migrations, statements and transactions.  robustness.md §3.3.
 *
 * One connection, on the loop thread.  WAL, synchronous=FULL; tables are STRICT; writes run inside BEGIN IMMEDIATE …
 * COMMIT.  Statements are prepared once and kept; text of SQL never contains a value.  The schema is store_schema.c. */
#ifndef QL_DAEMON_STORE_H
#define QL_DAEMON_STORE_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"

#define QL_STORE_VERSION 2
#define QL_STORE_APPLICATION_ID 0x714c6f52 /* "qLoR" */

struct ql_store;
struct ql_metrics;

/* Opens (creates) qlorad.db below the directory `path`.  Newer version: QL_EUNSUPPORTED; older: a backup is written to
 * qlorad.db.v<old> and it is migrated in one transaction.  `check`: run quick_check. */
int ql_store_open(struct ql_store **out, const char *path, bool check, struct ql_err *e);
void ql_store_close(struct ql_store *st); /* with a truncating WAL checkpoint; accepts NULL */
/* `PRAGMA integrity_check`; QL_EFORMAT with the first finding. */
int ql_store_integrity(struct ql_store *st, struct ql_err *e);
void ql_store_metrics(struct ql_store *st, struct ql_metrics *m);

/* Asked for disk space before each transaction (full false) and after a write that found the disk full (true): returns true if it
 * freed some; then a statement outside of transactions is tried again.  NULL: nobody can. */
void ql_store_on_space(struct ql_store *st, bool (*fn)(void *user, bool full), void *user);
/* Told once when an error of the medium makes the database untrustworthy.  From then on nothing is written any more. */
void ql_store_on_broken(struct ql_store *st, void (*fn)(void *user), void *user);

/* Transactions do not nest.  commit: on failure the transaction is rolled back (QL_ENOSPC: the disk is full, all is as before it);
 * an I/O error of the database is fatal for control (ql_store_broken is true from then on). */
int ql_store_begin(struct ql_store *st, struct ql_err *e);
int ql_store_commit(struct ql_store *st, struct ql_err *e);
void ql_store_rollback(struct ql_store *st);
bool ql_store_in_transaction(const struct ql_store *st);
bool ql_store_broken(const struct ql_store *st);

/* Prepared statement for `sql` (a literal) with its parameters bound by `types`, one character each:
 *   s const char * (NULL → NULL)   i int64_t   d double (not finite → NULL)   n nothing (NULL)
 * Returns NULL with *e on failure.  Must be given back with ql_store_done before the same sql is used again. */
sqlite3_stmt *ql_store_query(struct ql_store *st, struct ql_err *e, const char *sql, const char *types, ...);
/* 1 row, 0 end, < 0 QL_ code. */
int ql_store_step(struct ql_store *st, sqlite3_stmt *q, struct ql_err *e);
void ql_store_done(sqlite3_stmt *q); /* accepts NULL */
/* Runs a statement to its end; returns the number of rows changed (≥ 0) or a QL_ code. */
int ql_store_run(struct ql_store *st, struct ql_err *e, const char *sql, const char *types, ...);
/* First column of the first row as integer; `none` if there is no row or it is NULL or on failure. */
int64_t ql_store_int(struct ql_store *st, int64_t none, const char *sql, const char *types, ...);
/* Column as text, never NULL. */
const char *ql_store_text(sqlite3_stmt *q, int column);

/* Small key → text store for facts of the daemon. */
int ql_store_meta_set(struct ql_store *st, const char *key, const char *value, struct ql_err *e);
char *ql_store_meta_get(struct ql_store *st, const char *key); /* malloc'd or NULL */

#endif
