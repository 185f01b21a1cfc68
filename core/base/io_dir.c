/* io_dir.c - directories published as a whole, and their removal; see io.h. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/io.h"

int ql_io_ensure_dir(int parent, const char *name, int *dirfd, struct ql_err *e)
{
	const struct ql_io *io = ql_io_current();

	if (!ql_io_name_ok(name))
		return ql_err_set(e, QL_EINVAL, "bad directory name");
	if (io->mkdir(io, parent, name, 0700) == 0) {
		if (io->sync(io, parent) != 0)
			return ql_err_errno(e, "sync parent of %s", name);
	} else if (errno != EEXIST) {
		return ql_err_errno(e, "create directory %s", name);
	}
	*dirfd = ql_io_open_dir(parent, name, e);
	return *dirfd < 0 ? *dirfd : QL_OK;
}

int ql_io_dir_begin(int parent, const char *name, int *dirfd, struct ql_err *e)
{
	const struct ql_io *io = ql_io_current();
	char tmp[200];
	int rc;

	if (!ql_io_name_ok(name))
		return ql_err_set(e, QL_EINVAL, "bad directory name");
	(void)snprintf(tmp, sizeof tmp, "%s.tmp", name);
	rc = ql_io_remove_tree(parent, tmp, e);
	if (rc != QL_OK)
		return rc;
	if (io->mkdir(io, parent, tmp, 0700) != 0)
		return ql_err_errno(e, "create directory %s", tmp);
	*dirfd = ql_io_open_dir(parent, tmp, e);
	return *dirfd < 0 ? *dirfd : QL_OK;
}

void ql_io_dir_abort(int parent, const char *name, int dirfd)
{
	char tmp[200];

	if (dirfd >= 0)
		(void)close(dirfd);
	(void)snprintf(tmp, sizeof tmp, "%s.tmp", name);
	(void)ql_io_remove_tree(parent, tmp, NULL);
}

int ql_io_dir_publish(int parent, const char *name, int dirfd, struct ql_err *e)
{
	const struct ql_io *io = ql_io_current();
	char tmp[200];
	int rc;

	(void)snprintf(tmp, sizeof tmp, "%s.tmp", name);
	if (io->sync(io, dirfd) != 0) {
		rc = ql_err_errno(e, "sync %s", tmp);
		ql_io_dir_abort(parent, name, dirfd);
		return rc;
	}
	(void)close(dirfd);
	if (faccessat(parent, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
		ql_io_dir_abort(parent, name, -1);
		return ql_err_set(e, QL_EEXIST, "%s already exists", name);
	}
	if (io->rename(io, parent, tmp, name) != 0) {
		rc = ql_err_errno(e, "publish %s", name);
		ql_io_dir_abort(parent, name, -1);
		return rc;
	}
	if (io->sync(io, parent) != 0)
		return ql_err_errno(e, "sync parent of %s", name);
	return QL_OK;
}

int ql_io_move(int dir, const char *from, const char *into, const char *name, struct ql_err *e)
{
	const struct ql_io *io = ql_io_current();
	int fd = ql_io_open_read(dir, from, NULL, e), rc = QL_OK; /* a regular file, no links on the way */
	char to[320];

	if (fd < 0)
		return fd;
	(void)close(fd);
	fd = ql_io_open_dir(dir, into, e);
	if (fd < 0)
		return fd;
	if (!ql_io_name_ok(name) || snprintf(to, sizeof to, "%s/%s", into, name) >= (int)sizeof to)
		rc = ql_err_set(e, QL_EINVAL, "bad file name");
	else if (faccessat(dir, to, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		rc = ql_err_set(e, QL_EEXIST, "%s already exists", to);
	else if (io->rename(io, dir, from, to) != 0)
		rc = ql_err_errno(e, "move %s to %s", from, into);
	else if (io->sync(io, fd) != 0)
		rc = ql_err_errno(e, "sync directory of %s", name);
	(void)close(fd);
	return rc;
}

static int remove_entries(int fd, struct ql_err *e)
{
	DIR *d = fdopendir(fd);
	struct dirent *ent;
	int rc = QL_OK;

	if (d == NULL) {
		rc = ql_err_errno(e, "open directory");
		(void)close(fd);
		return rc;
	}
	while (rc == QL_OK && (ent = readdir(d)) != NULL) {
		if (strcmp(ent->d_name, ".") == 0 || strcmp(ent->d_name, "..") == 0)
			continue;
		rc = ql_io_remove_tree(dirfd(d), ent->d_name, e);
	}
	(void)closedir(d);
	return rc;
}

int ql_io_remove_tree(int parent, const char *name, struct ql_err *e)
{
	struct stat st;
	int fd, rc;

	if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
		return errno == ENOENT ? QL_OK : ql_err_errno(e, "stat %s", name);
	if (!S_ISDIR(st.st_mode)) {
		if (unlinkat(parent, name, 0) != 0 && errno != ENOENT)
			return ql_err_errno(e, "remove %s", name);
		return QL_OK;
	}
	fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return ql_err_errno(e, "open directory %s", name);
	rc = remove_entries(fd, e);
	if (rc != QL_OK)
		return rc;
	if (unlinkat(parent, name, AT_REMOVEDIR) != 0 && errno != ENOENT)
		return ql_err_errno(e, "remove directory %s", name);
	return QL_OK;
}
