/* sweep.c - see sweep.h. */
#include "daemon/sweep.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/log.h"
#include "daemon/store.h"

/* Calls keep() for each entry of the directory `path`; what is not kept is removed.  A missing directory is empty. */
static int sweep_dir(struct ql_control *ctl, const char *path, bool (*keep)(struct ql_control *ctl, const char *parent,
		const char *name),
		     const char *parent, struct ql_err *e)
{
	struct ql_err missing = {0};
	int fd = ql_io_open_dir(ctl->state_fd, path, &missing), copy;
	struct dirent *de;
	DIR *d;

	if (fd == QL_ENOTFOUND)
		return QL_OK;
	if (fd < 0)
		return ql_err_set(e, fd, "%s", missing.message);
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	d = copy < 0 ? NULL : fdopendir(copy);
	if (d == NULL) {
		if (copy >= 0)
			(void)close(copy);
		(void)close(fd);
		return ql_err_errno(e, "read directory %s", path);
	}
	while ((de = readdir(d)) != NULL) {
		if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0 || keep(ctl, parent, de->d_name))
			continue;
		ql_log(QL_LOG_INFO, "sweep", "removed %s/%s", path, de->d_name);
		if (ql_io_remove_tree(fd, de->d_name, &missing) != QL_OK)
			ql_log(QL_LOG_WARN, "sweep", "%s", missing.message);
	}
	(void)closedir(d);
	(void)close(fd);
	return QL_OK;
}

/* Something else in a directory's place (a stray copy, a link) is no job's directory: it makes room. */
static bool keep_job(struct ql_control *ctl, const char *parent, const char *name)
{
	char path[300];
	struct stat st;

	(void)parent;
	(void)snprintf(path, sizeof path, "jobs/%s", name);
	return fstatat(ctl->state_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode) &&
	       ql_store_int(ctl->store, 1, "SELECT count(*) FROM jobs WHERE id = ?1", "s", name) > 0;
}

static bool keep_adapter(struct ql_control *ctl, const char *parent, const char *name)
{
	(void)parent;
	return ql_store_int(ctl->store, 1, "SELECT count(*) FROM models WHERE dir = 'adapters/' || ?1", "s", name) > 0;
}

static bool keep_export(struct ql_control *ctl, const char *parent, const char *name)
{
	(void)parent;
	return ql_store_int(ctl->store, 1, "SELECT count(*) FROM exports WHERE id = ?1 AND state = 'succeeded'", "s", name) > 0;
}

/* In a job's directory: checkpoints with a row, and the engine's own files that are not directories or temporaries. */
static bool keep_in_job(struct ql_control *ctl, const char *job, const char *name)
{
	if (strstr(name, ".tmp") != NULL)
		return false;
	if (strncmp(name, "step-", 5) != 0)
		return true;
	return ql_store_int(ctl->store, 1, "SELECT count(*) FROM checkpoints WHERE job = ?1 AND dir = ?2 AND invalid = 0", "ss",
			job, name) > 0;
}

int ql_sweep_job(struct ql_control *ctl, const char *id, struct ql_err *e)
{
	char path[80];
	int dir, rc;

	rc = ql_store_run(ctl->store, e, "DELETE FROM checkpoints WHERE job = ?1 AND invalid = 1", "s", id);
	if (rc < 0)
		return rc;
	(void)snprintf(path, sizeof path, "jobs/%s", id);
	rc = sweep_dir(ctl, path, keep_in_job, id, e);
	if (rc == QL_OK && !keep_adapter(ctl, NULL, id)) {
		dir = ql_io_open_dir(ctl->state_fd, "adapters", e);
		if (dir < 0)
			return dir;
		rc = ql_io_remove_tree(dir, id, e);
		(void)close(dir);
	}
	return rc;
}

/* Checkpoints whose directory is gone lose their row, so that a resume takes the one before. */
static int check_rows(struct ql_control *ctl, struct ql_err *e)
{
	int64_t after = 0;
	char path[160];
	struct stat st;
	int rc;

	for (;;) {
		sqlite3_stmt *q = ql_store_query(ctl->store, e, "SELECT seq, job, dir FROM checkpoints WHERE seq > ?1 ORDER BY seq LIMIT 1", "i", after);

		rc = q == NULL ? e->code : ql_store_step(ctl->store, q, e);
		if (rc == 1) {
			after = sqlite3_column_int64(q, 0);
			(void)snprintf(path, sizeof path, "jobs/%s/%s", ql_store_text(q, 1), ql_store_text(q, 2));
		}
		ql_store_done(q);
		if (rc != 1)
			return rc;
		if (fstatat(ctl->state_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode))
			continue;
		ql_log(QL_LOG_ERROR, "sweep", "%s is missing: its checkpoint is forgotten", path);
		rc = ql_store_run(ctl->store, e, "DELETE FROM checkpoints WHERE seq = ?1", "i", after);
		if (rc < 0)
			return rc;
	}
}

static int sweep_live_jobs(struct ql_control *ctl, struct ql_err *e)
{
	char id[QL_ID_SIZE];
	int64_t after = 0;
	int rc;

	for (;;) {
		sqlite3_stmt *q = ql_store_query(ctl->store, e, "SELECT seq, id FROM jobs WHERE seq > ?1 ORDER BY seq LIMIT 1", "i", after);

		rc = q == NULL ? e->code : ql_store_step(ctl->store, q, e);
		if (rc == 1) {
			after = sqlite3_column_int64(q, 0);
			(void)snprintf(id, sizeof id, "%s", ql_store_text(q, 1));
		}
		ql_store_done(q);
		if (rc != 1)
			return rc;
		rc = ql_sweep_job(ctl, id, e);
		if (rc != QL_OK)
			return rc;
	}
}

int ql_sweep_all(struct ql_control *ctl, struct ql_err *e)
{
	static const char *const dirs[] = {"jobs", "adapters", "exports", "cache"};
	int rc = QL_OK, fd = -1;

	for (size_t i = 0; i < sizeof dirs / sizeof dirs[0] && rc == QL_OK; i++) {
		rc = ql_io_ensure_dir(ctl->state_fd, dirs[i], &fd, e);
		if (rc == QL_OK)
			(void)close(fd);
	}
	if (rc == QL_OK)
		rc = sweep_dir(ctl, "jobs", keep_job, NULL, e);
	if (rc == QL_OK)
		rc = check_rows(ctl, e);
	if (rc == QL_OK)
		rc = sweep_dir(ctl, "adapters", keep_adapter, NULL, e);
	if (rc == QL_OK)
		rc = sweep_dir(ctl, "exports", keep_export, NULL, e);
	return rc == QL_OK ? sweep_live_jobs(ctl, e) : rc;
}
