/* store_internal.h - what store.c and store_open.c share. */
#ifndef QL_DAEMON_STORE_INTERNAL_H
#define QL_DAEMON_STORE_INTERNAL_H

#include "daemon/store.h"

#define STATEMENTS_MAX 256

struct cached {
	const char *sql;
	sqlite3_stmt *stmt;
};

struct ql_store {
	sqlite3 *db;
	struct cached cache[STATEMENTS_MAX];
	size_t n_cached;
	struct ql_metrics *metrics;
	bool in_tx, broken;
	bool (*on_space)(void *user, bool full);
	void (*on_broken)(void *user);
	void *space_user, *broken_user;
};

/* *e from a result code of SQLite; marks the store broken where the medium is at fault.  Returns e's code. */
int ql_store_err(struct ql_store *st, struct ql_err *e, int src, const char *what);

#endif
