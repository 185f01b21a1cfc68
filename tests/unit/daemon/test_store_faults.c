/* The store on a medium that fails: every write and every sync of a transaction, once and for ever, by a VFS between SQLite and the
 * system.  A full disk leaves everything as it was and is no lasting harm; an error of the medium ends all writing. */
#include "tests/unit/scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/io.h"
#include "daemon/store.h"

static struct scratch here;

/* ---- the VFS: the system's, with the k-th call of a kind failing ---- */

enum kind { NONE, WRITE, SYNC };
static struct {
	enum kind kind;
	int at, count, code;
	bool for_ever;
} fault;

struct file {
	sqlite3_file base;
	sqlite3_file *real; /* behind this struct */
};

static sqlite3_vfs *under, over;
static sqlite3_io_methods methods[2]; /* with and without shared memory: version 3 and 1 */

static int failing(enum kind kind)
{
	if (fault.kind != kind)
		return SQLITE_OK;
	fault.count++;
	return fault.count == fault.at || (fault.for_ever && fault.count > fault.at) ? fault.code : SQLITE_OK;
}

static sqlite3_file *real(sqlite3_file *f) { return ((struct file *)f)->real; }

static int f_close(sqlite3_file *f) { return real(f)->pMethods->xClose(real(f)); }
static int f_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at) { return real(f)->pMethods->xRead(real(f), p, n, at); }
static int f_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at)
{
	int rc = failing(WRITE);

	return rc != SQLITE_OK ? rc : real(f)->pMethods->xWrite(real(f), p, n, at);
}
static int f_truncate(sqlite3_file *f, sqlite3_int64 n) { return real(f)->pMethods->xTruncate(real(f), n); }
static int f_sync(sqlite3_file *f, int flags)
{
	int rc = failing(SYNC);

	return rc != SQLITE_OK ? rc : real(f)->pMethods->xSync(real(f), flags);
}
static int f_size(sqlite3_file *f, sqlite3_int64 *n) { return real(f)->pMethods->xFileSize(real(f), n); }
static int f_lock(sqlite3_file *f, int l) { return real(f)->pMethods->xLock(real(f), l); }
static int f_unlock(sqlite3_file *f, int l) { return real(f)->pMethods->xUnlock(real(f), l); }
static int f_reserved(sqlite3_file *f, int *r) { return real(f)->pMethods->xCheckReservedLock(real(f), r); }
static int f_control(sqlite3_file *f, int op, void *p) { return real(f)->pMethods->xFileControl(real(f), op, p); }
static int f_sector(sqlite3_file *f) { return real(f)->pMethods->xSectorSize(real(f)); }
static int f_traits(sqlite3_file *f) { return real(f)->pMethods->xDeviceCharacteristics(real(f)); }
static int f_shm_map(sqlite3_file *f, int i, int n, int w, void volatile **p) { return real(f)->pMethods->xShmMap(real(f), i, n, w, p); }
static int f_shm_lock(sqlite3_file *f, int o, int n, int flags) { return real(f)->pMethods->xShmLock(real(f), o, n, flags); }
static void f_shm_barrier(sqlite3_file *f) { real(f)->pMethods->xShmBarrier(real(f)); }
static int f_shm_unmap(sqlite3_file *f, int d) { return real(f)->pMethods->xShmUnmap(real(f), d); }

static int v_open(sqlite3_vfs *v, const char *name, sqlite3_file *f, int flags, int *out)
{
	struct file *x = (struct file *)f;
	int rc;

	(void)v;
	x->base.pMethods = NULL;
	x->real = (sqlite3_file *)(void *)(x + 1);
	rc = under->xOpen(under, name, x->real, flags, out);
	if (rc == SQLITE_OK)
		x->base.pMethods = &methods[x->real->pMethods->iVersion >= 2 ? 0 : 1];
	return rc;
}

static void install(void)
{
	methods[0] = (sqlite3_io_methods){.iVersion = 2, .xClose = f_close, .xRead = f_read, .xWrite = f_write, .xTruncate = f_truncate,
					  .xSync = f_sync, .xFileSize = f_size, .xLock = f_lock, .xUnlock = f_unlock,
					  .xCheckReservedLock = f_reserved, .xFileControl = f_control, .xSectorSize = f_sector,
					  .xDeviceCharacteristics = f_traits, .xShmMap = f_shm_map, .xShmLock = f_shm_lock,
					  .xShmBarrier = f_shm_barrier, .xShmUnmap = f_shm_unmap};
	methods[1] = methods[0];
	methods[1].iVersion = 1;
	under = sqlite3_vfs_find(NULL);
	over = *under;
	over.zName = "faulty";
	over.szOsFile = under->szOsFile + (int)sizeof(struct file);
	over.xOpen = v_open;
	over.pNext = NULL;
	assert_int_equal(sqlite3_vfs_register(&over, 1), SQLITE_OK);
}

/* ---- tests ---- */

static int fresh(void **state)
{
	(void)state;
	memset(&fault, 0, sizeof fault);
	scratch_open(&here);
	return 0;
}

static int clean(void **state)
{
	(void)state;
	scratch_close(&here);
	return 0;
}

static struct ql_store *store(void)
{
	struct ql_store *st = NULL;
	struct ql_err e = {0};

	assert_int_equal(ql_store_open(&st, here.path, true, &e), QL_OK);
	return st;
}

static int64_t rows(struct ql_store *st) { return ql_store_int(st, -1, "SELECT count(*) FROM meta", ""); }

/* Some rows in one transaction, larger than a page together. */
static int put(struct ql_store *st, int round, struct ql_err *e)
{
	char key[32], value[3000];
	int rc = ql_store_begin(st, e);

	memset(value, 'v', sizeof value - 1);
	value[sizeof value - 1] = '\0';
	for (int i = 0; i < 4 && rc == QL_OK; i++) {
		(void)snprintf(key, sizeof key, "%d.%d", round, i);
		rc = ql_store_run(st, e, "INSERT INTO meta (key, value) VALUES (?1, ?2)", "ss", key, value);
		rc = rc < 0 ? rc : QL_OK;
	}
	if (rc == QL_OK)
		return ql_store_commit(st, e);
	ql_store_rollback(st);
	return rc;
}

static void set_fault(enum kind kind, int at, int code, bool for_ever)
{
	fault.kind = kind;
	fault.at = at;
	fault.count = 0;
	fault.code = code;
	fault.for_ever = for_ever;
}

/* Each write of a transaction finds the disk full: nothing of it is there, nothing else is lost, and the next one goes through. */
static void test_full(void **state)
{
	struct ql_store *st = store();
	struct ql_err e = {0};
	int failures = 0;

	(void)state;
	for (int round = 0; round < 2; round++)
		for (int at = 1;; at++) {
			int64_t before = rows(st);
			int rc;

			set_fault(WRITE, at, SQLITE_FULL, round == 1);
			rc = put(st, failures, &e);
			set_fault(NONE, 0, 0, false);
			assert_false(ql_store_in_transaction(st));
			assert_false(ql_store_broken(st));
			if (rc == QL_OK) { /* that many writes it does not have */
				assert_int_equal(rows(st), before + 4);
				failures++;
				break;
			}
			assert_int_equal(rc, QL_ENOSPC);
			assert_int_equal(rows(st), before);
			assert_int_equal(put(st, failures++, &e), QL_OK);
			assert_int_equal(rows(st), before + 4);
			assert_int_equal(ql_store_integrity(st, &e), QL_OK);
		}
	assert_true(failures > 10);
	ql_store_close(st);
	st = store();
	assert_int_equal(rows(st), 4 * failures);
	ql_store_close(st);
}

static int asked[2];
static bool give(void *user, bool full)
{
	(void)user;
	asked[full]++;
	if (full)
		set_fault(NONE, 0, 0, false);
	return full;
}

/* Who can make room is asked, and a single statement is tried again. */
static void test_room_is_made(void **state)
{
	struct ql_store *st = store();
	struct ql_err e = {0};

	(void)state;
	ql_store_on_space(st, give, NULL);
	set_fault(WRITE, 1, SQLITE_FULL, true);
	assert_int_equal(ql_store_meta_set(st, "k", "v", &e), QL_OK);
	assert_int_equal(rows(st), 1);
	assert_true(asked[0] == 0 && asked[1] == 1);
	assert_int_equal(put(st, 1, &e), QL_OK);
	assert_true(asked[0] == 1 && asked[1] == 1);
	set_fault(WRITE, 1, SQLITE_FULL, true);
	assert_int_equal(put(st, 2, &e), QL_ENOSPC); /* a transaction is its maker's to repeat */
	assert_int_equal(put(st, 2, &e), QL_OK);
	assert_int_equal(rows(st), 9);
	ql_store_close(st);
}

static int broken;
static void on_broken(void *user) { *(int *)user += 1; }

/* A failed sync means lost data: never "saved", nothing is written any more, and the next start finds whole transactions only. */
static void test_sync_fails(void **state)
{
	struct ql_store *st = store();
	struct ql_err e = {0};
	int64_t before;
	int syncs = 0;

	(void)state;
	assert_int_equal(put(st, 0, &e), QL_OK);
	for (int at = 1;; at++) {
		int rc;

		broken = 0;
		ql_store_on_broken(st, on_broken, &broken);
		before = rows(st);
		set_fault(SYNC, at, SQLITE_IOERR_FSYNC, false);
		rc = put(st, at, &e);
		set_fault(NONE, 0, 0, false);
		if (rc == QL_OK)
			break;
		syncs++;
		assert_int_equal(rc, QL_EIO);
		assert_true(ql_store_broken(st) && broken == 1 && !ql_store_in_transaction(st));
		assert_int_equal(put(st, 100 + at, &e), QL_EIO);
		assert_int_equal(ql_store_meta_set(st, "k", "v", &e), QL_EIO);
		assert_int_equal(broken, 1);
		ql_store_close(st);
		st = store();
		assert_true(rows(st) == before || rows(st) == before + 4);
		assert_int_equal(ql_store_integrity(st, &e), QL_OK);
	}
	assert_true(syncs >= 1);
	ql_store_close(st);
}

/* A quota is told as an error of the medium with its own errno. */
static int quota_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at)
{
	if (failing(WRITE) == SQLITE_OK)
		return real(f)->pMethods->xWrite(real(f), p, n, at);
	errno = EDQUOT;
	return SQLITE_IOERR_WRITE;
}

static void test_quota(void **state)
{
	struct ql_store *st = store();
	struct ql_err e = {0};

	(void)state;
	methods[0].xWrite = quota_write;
	set_fault(WRITE, 1, SQLITE_IOERR_WRITE, true);
	assert_int_equal(put(st, 1, &e), QL_ENOSPC);
	assert_false(ql_store_broken(st));
	set_fault(NONE, 0, 0, false);
	methods[0].xWrite = f_write;
	assert_int_equal(put(st, 1, &e), QL_OK);
	set_fault(WRITE, 1, SQLITE_IOERR_WRITE, false);
	errno = 0;
	assert_int_equal(put(st, 2, &e), QL_EIO); /* not a quota */
	assert_true(ql_store_broken(st));
	ql_store_close(st);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_full, fresh, clean),
		cmocka_unit_test_setup_teardown(test_room_is_made, fresh, clean),
		cmocka_unit_test_setup_teardown(test_sync_fails, fresh, clean),
		cmocka_unit_test_setup_teardown(test_quota, fresh, clean),
	};

	install();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
