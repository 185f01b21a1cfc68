/* io.c - reads, the system-call vtable and the durable replacement of single files; see io.h. */
#include "core/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/hash.h"

static int real_create(const struct ql_io *io, int dir, const char *name, mode_t mode)
{
	(void)io;
	return openat(dir, name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC | O_NOFOLLOW, mode);
}

static ssize_t real_write(const struct ql_io *io, int fd, const void *data, size_t len)
{
	(void)io;
	return write(fd, data, len);
}

static int real_sync(const struct ql_io *io, int fd)
{
	(void)io;
	return fsync(fd);
}

static int real_close(const struct ql_io *io, int fd)
{
	(void)io;
	return close(fd);
}

static int real_rename(const struct ql_io *io, int dir, const char *from, const char *to)
{
	(void)io;
	return renameat(dir, from, dir, to);
}

static int real_unlink(const struct ql_io *io, int dir, const char *name)
{
	(void)io;
	return unlinkat(dir, name, 0);
}

static int real_mkdir(const struct ql_io *io, int dir, const char *name, mode_t mode)
{
	(void)io;
	return mkdirat(dir, name, mode);
}

const struct ql_io ql_io_real = {real_create, real_write,  real_sync,  real_close,
				 real_rename, real_unlink, real_mkdir, NULL};

static const struct ql_io *_Atomic installed = &ql_io_real;
static _Atomic unsigned temp_counter;

const struct ql_io *ql_io_current(void) { return installed; }
void ql_io_install(const struct ql_io *io) { installed = io != NULL ? io : &ql_io_real; }

bool ql_io_name_ok(const char *name)
{
	size_t n = strlen(name);

	if (n == 0 || n > 128 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return false;
	return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}

static int open_beneath(int dir, const char *path, int flags)
{
	struct open_how how = {.flags = (uint64_t)(unsigned)flags,
			       .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};

	return (int)syscall(SYS_openat2, dir, path, &how, sizeof how);
}

int ql_io_open_read(int dir, const char *path, uint64_t *size, struct ql_err *e)
{
	struct stat st;
	int fd = open_beneath(dir, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return ql_err_errno(e, "open %s", path);
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
		(void)close(fd);
		return ql_err_set(e, QL_EIO, "%s is not a regular file", path);
	}
	if (size != NULL)
		*size = (uint64_t)st.st_size;
	return fd;
}

int ql_io_open_dir(int dir, const char *path, struct ql_err *e)
{
	int fd = open_beneath(dir, path, O_RDONLY | O_CLOEXEC | O_DIRECTORY);

	return fd < 0 ? ql_err_errno(e, "open directory %s", path) : fd;
}

int ql_io_pread_all(int fd, void *data, size_t len, uint64_t offset, struct ql_err *e)
{
	char *p = data;

	while (len > 0) {
		ssize_t n = pread(fd, p, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return ql_err_errno(e, "read");
		if (n == 0)
			return ql_err_at(e, QL_EFORMAT, offset, "file ends early");
		p += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return QL_OK;
}

static int read_fd(int fd, const char *path, size_t max, struct ql_buf *out, struct ql_err *e)
{
	struct stat st;
	int rc;

	if (fstat(fd, &st) != 0)
		return ql_err_errno(e, "stat %s", path);
	if (!S_ISREG(st.st_mode))
		return ql_err_set(e, QL_EIO, "%s is not a regular file", path);
	if ((uint64_t)st.st_size > max)
		return ql_err_set(e, QL_ELIMIT, "%s: %lld bytes, more than the %zu allowed", path,
				  (long long)st.st_size, max);
	ql_buf_reset(out);
	rc = ql_buf_reserve(out, (size_t)st.st_size);
	if (rc != QL_OK)
		return ql_err_set(e, rc, "%s: no memory for %lld bytes", path, (long long)st.st_size);
	rc = ql_io_pread_all(fd, out->data, (size_t)st.st_size, 0, e);
	if (rc != QL_OK) {
		(void)ql_err_prefix(e, "%s", path);
		return rc;
	}
	out->len = (size_t)st.st_size;
	out->data[out->len] = '\0';
	return QL_OK;
}

int ql_io_read_all(int dir, const char *path, size_t max, struct ql_buf *out, struct ql_err *e)
{
	int fd = ql_io_open_read(dir, path, NULL, e), rc;

	if (fd < 0)
		return fd;
	rc = read_fd(fd, path, max, out, e);
	(void)close(fd);
	return rc;
}

int ql_io_read_file(const char *path, size_t max, struct ql_buf *out, struct ql_err *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc;

	if (fd < 0)
		return ql_err_errno(e, "open %s", path);
	rc = read_fd(fd, path, max, out, e);
	(void)close(fd);
	return rc;
}

int ql_io_write_all(int fd, const void *data, size_t len, struct ql_err *e)
{
	const struct ql_io *io = ql_io_current();
	const char *p = data;

	while (len > 0) {
		ssize_t n = io->write(io, fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return ql_err_errno(e, "write");
		p += n;
		len -= (size_t)n;
	}
	return QL_OK;
}

int ql_io_begin(struct ql_io_file *f, int dir, const char *name, struct ql_err *e)
{
	const struct ql_io *io = ql_io_current();

	*f = (struct ql_io_file){.dir = dir, .fd = -1};
	if (!ql_io_name_ok(name))
		return ql_err_set(e, QL_EINVAL, "bad file name");
	(void)snprintf(f->name, sizeof f->name, "%s", name);
	(void)snprintf(f->tmp, sizeof f->tmp, "%s.tmp.%ld.%u", name, (long)getpid(),
		       atomic_fetch_add(&temp_counter, 1));
	f->fd = io->create_excl(io, dir, f->tmp, 0600);
	return f->fd < 0 ? ql_err_errno(e, "create %s", f->tmp) : QL_OK;
}

int ql_io_write(struct ql_io_file *f, const void *data, size_t len, struct ql_err *e)
{
	int rc = ql_io_write_all(f->fd, data, len, e);

	if (rc == QL_OK)
		f->written += len;
	return rc;
}

void ql_io_abort(struct ql_io_file *f)
{
	const struct ql_io *io = ql_io_current();

	if (f->fd < 0)
		return;
	(void)io->close(io, f->fd);
	f->fd = -1;
	(void)io->unlink(io, f->dir, f->tmp);
}

int ql_io_commit(struct ql_io_file *f, struct ql_err *e)
{
	const struct ql_io *io = ql_io_current();
	int rc;

	if (io->sync(io, f->fd) != 0) {
		rc = ql_err_errno(e, "sync %s", f->tmp);
		ql_io_abort(f);
		return rc;
	}
	rc = io->close(io, f->fd);
	f->fd = -1;
	if (rc != 0 || io->rename(io, f->dir, f->tmp, f->name) != 0) {
		rc = ql_err_errno(e, "publish %s", f->name);
		(void)io->unlink(io, f->dir, f->tmp);
		return rc;
	}
	if (io->sync(io, f->dir) != 0) /* published, but not promised: report failure */
		return ql_err_errno(e, "sync directory of %s", f->name);
	return QL_OK;
}

int ql_io_replace(int dir, const char *name, const void *data, size_t len, struct ql_err *e)
{
	struct ql_io_file f;
	int rc = ql_io_begin(&f, dir, name, e);

	if (rc != QL_OK)
		return rc;
	rc = ql_io_write(&f, data, len, e);
	if (rc != QL_OK) {
		ql_io_abort(&f);
		return rc;
	}
	return ql_io_commit(&f, e);
}

int ql_io_sha256(int dir, const char *path, char out[65], uint64_t *size, struct ql_err *e)
{
	uint8_t chunk[65536];
	struct ql_sha256 h;
	uint64_t total = 0;
	int fd = ql_io_open_read(dir, path, NULL, e);

	if (fd < 0)
		return fd;
	ql_sha256_init(&h);
	for (;;) {
		ssize_t n = read(fd, chunk, sizeof chunk);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			int rc = ql_err_errno(e, "read %s", path);

			(void)close(fd);
			return rc;
		}
		if (n == 0)
			break;
		ql_sha256_add(&h, chunk, (size_t)n);
		total += (uint64_t)n;
	}
	(void)close(fd);
	ql_sha256_end_hex(&h, out);
	if (size != NULL)
		*size = total;
	return QL_OK;
}

int ql_io_free_bytes(int fd, uint64_t *out, struct ql_err *e)
{
	struct statvfs v;

	if (fstatvfs(fd, &v) != 0)
		return ql_err_errno(e, "statvfs");
	*out = (uint64_t)v.f_bavail * v.f_frsize;
	return QL_OK;
}

int ql_map_fd(struct ql_map *m, int fd, struct ql_err *e)
{
	struct stat st;
	void *p;

	*m = (struct ql_map){0};
	if (fstat(fd, &st) != 0)
		return ql_err_errno(e, "stat");
	if (!S_ISREG(st.st_mode))
		return ql_err_set(e, QL_EIO, "not a regular file");
	if (st.st_size == 0)
		return QL_OK;
	p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (p == MAP_FAILED)
		return ql_err_errno(e, "map %lld bytes", (long long)st.st_size);
	m->base = p;
	m->size = (size_t)st.st_size;
	return QL_OK;
}

int ql_map_file(struct ql_map *m, const char *path, struct ql_err *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc;

	*m = (struct ql_map){0};
	if (fd < 0)
		return ql_err_errno(e, "open %s", path);
	rc = ql_map_fd(m, fd, e);
	(void)close(fd);
	if (rc != QL_OK)
		(void)ql_err_prefix(e, "%s", path);
	return rc;
}

int ql_map_at(struct ql_map *m, int dir, const char *name, struct ql_err *e)
{
	int fd, rc;

	if (dir < 0)
		return ql_map_file(m, name, e);
	*m = (struct ql_map){0};
	fd = ql_io_open_read(dir, name, NULL, e);
	if (fd < 0)
		return fd;
	rc = ql_map_fd(m, fd, e);
	(void)close(fd);
	return rc;
}

void ql_map_drop(const void *data, size_t size)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = ((uintptr_t)data + page - 1) / page * page;
	uintptr_t to = ((uintptr_t)data + size) / page * page;

	if (from < to)
		(void)madvise((void *)from, to - from, MADV_DONTNEED);
}

void ql_map_free(struct ql_map *m)
{
	if (m->base != NULL)
		(void)munmap((void *)(uintptr_t)m->base, m->size);
	*m = (struct ql_map){0};
}
