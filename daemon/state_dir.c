/* state_dir.c - the state directory itself: made 0700, on a local file system, locked.
 *
 * Two locks: STATE/lock is control's and ends with it.  The directory itself is locked through the descriptor that engines
 * inherit, so that a new control does not start an engine while one of its predecessor still dies. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "core/base/log.h"
#include "daemon/control_internal.h"
#include "daemon/engine_internal.h"

#define CIFS_MAGIC 0xFF534D42u
#define SMB2_MAGIC 0xFE534D42u

/* mkdir -p; parents get the umask's mode. */
static int make_parents(const char *path, struct ql_err *e)
{
	char part[4096];
	size_t n = strlen(path);

	if (n >= sizeof part)
		return ql_err_set(e, QL_EINVAL, "state directory: path too long");
	for (size_t i = 1; i < n; i++) {
		if (path[i] != '/')
			continue;
		memcpy(part, path, i);
		part[i] = '\0';
		if (mkdir(part, 0777) != 0 && errno != EEXIST)
			return ql_err_errno(e, "create %s", part);
	}
	if (mkdir(path, 0700) != 0 && errno != EEXIST)
		return ql_err_errno(e, "create state directory %s", path);
	return QL_OK;
}

/* SQLite's locks and WAL do not work over a network. */
static int check_local(int fd, struct ql_err *e)
{
	struct statfs fs;
	unsigned long type;

	if (fstatfs(fd, &fs) != 0)
		return ql_err_errno(e, "state directory");
	type = (unsigned long)fs.f_type & 0xffffffffu;
	if (type == NFS_SUPER_MAGIC || type == CIFS_MAGIC || type == SMB2_MAGIC)
		return ql_err_set(e, QL_EUNSUPPORTED, "the state directory is on a network file system; it needs a local one");
	if (type == FUSE_SUPER_MAGIC)
		ql_log(QL_LOG_WARN, "control", "the state directory is on a FUSE file system: durability depends on it");
	return QL_OK;
}

int ql_state_open(const char *path, struct ql_err *e)
{
	int rc = make_parents(path, e), fd;

	if (rc != QL_OK)
		return rc;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return ql_err_errno(e, "open state directory %s", path);
	rc = check_local(fd, e);
	if (rc != QL_OK) {
		(void)close(fd);
		return rc;
	}
	return fd;
}

int ql_state_lock(int dir, struct ql_err *e)
{
	int fd = openat(dir, "lock", O_CREAT | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600), rc;

	if (fd < 0)
		return ql_err_errno(e, "lock state directory");
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return fd;
	rc = errno == EWOULDBLOCK ? ql_err_set(e, QL_EBUSY, "the state directory is in use by another qlorad")
				  : ql_err_errno(e, "lock state directory");
	(void)close(fd);
	return rc;
}

bool ql_state_lock_engine(int fd) { return flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK; }
