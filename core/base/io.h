/* io.h - all writing of state, and every read of a file, goes through here.
 *
 * struct ql_io is the vtable of the system calls that matter for durability, so that tests can fail, drop or garble
 * the k-th of them; ql_io_real is the operating system.  ql_io_replace is the only way a state file comes to be:
 * temporary name in the same directory (O_EXCL) → write → fsync → close → rename → fsync(directory).  A failed fsync
 * is final for that descriptor (the kernel has marked the pages clean): it is reported, never repeated. */
#ifndef QL_BASE_IO_H
#define QL_BASE_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/base/buf.h"
#include "core/base/err.h"

struct ql_io {
	int (*create_excl)(const struct ql_io *io, int dir, const char *name, mode_t mode); /* fd or -1 */
	ssize_t (*write)(const struct ql_io *io, int fd, const void *data, size_t len);
	int (*sync)(const struct ql_io *io, int fd);
	int (*close)(const struct ql_io *io, int fd);
	int (*rename)(const struct ql_io *io, int dir, const char *from, const char *to);
	int (*unlink)(const struct ql_io *io, int dir, const char *name);
	int (*mkdir)(const struct ql_io *io, int dir, const char *name, mode_t mode);
	void *user;
};

extern const struct ql_io ql_io_real;
/* The vtable in force; ql_io_real unless a test installed another (ql_io_install(NULL) restores it). */
const struct ql_io *ql_io_current(void);
void ql_io_install(const struct ql_io *io);

/* True if `name` is usable as one path component made by us: ^[A-Za-z0-9._-]{1,128}$, not "." or "..". */
bool ql_io_name_ok(const char *name);

/* Opens a regular file below `dir` for reading; `path` may hold '/', each part is resolved beneath dir without following
 * links (openat2 RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS).  Returns fd or a QL_ code; *size gets the file's size. */
int ql_io_open_read(int dir, const char *path, uint64_t *size, struct ql_err *e);
int ql_io_open_dir(int dir, const char *path, struct ql_err *e); /* fd or QL_ code */

/* Reads a whole file below dir into *out; refuses more than max bytes with QL_ELIMIT. */
int ql_io_read_all(int dir, const char *path, size_t max, struct ql_buf *out, struct ql_err *e);
/* The same for a path the operator named (config, base model): links are followed. */
int ql_io_read_file(const char *path, size_t max, struct ql_buf *out, struct ql_err *e);
int ql_io_pread_all(int fd, void *data, size_t len, uint64_t offset, struct ql_err *e);
int ql_io_write_all(int fd, const void *data, size_t len, struct ql_err *e);

/* Replaces `name` in `dir` by `len` bytes, all or nothing, on the medium when it returns QL_OK. */
int ql_io_replace(int dir, const char *name, const void *data, size_t len, struct ql_err *e);

/* The same in pieces, for files too large for memory: begin → write* → commit or abort. */
struct ql_io_file {
	int dir, fd;
	char name[160], tmp[200];
	uint64_t written;
};
int ql_io_begin(struct ql_io_file *f, int dir, const char *name, struct ql_err *e);
int ql_io_write(struct ql_io_file *f, const void *data, size_t len, struct ql_err *e);
int ql_io_commit(struct ql_io_file *f, struct ql_err *e); /* after it (failed or not) f is closed */
void ql_io_abort(struct ql_io_file *f);

/* A directory published as a whole: make "<name>.tmp", fill it (ql_io_replace into its fd), then publish = fsync it,
 * rename to name, fsync the parent.  An existing target is an error QL_EEXIST. */
int ql_io_dir_begin(int parent, const char *name, int *dirfd, struct ql_err *e); /* removes a stale tmp first */
int ql_io_dir_publish(int parent, const char *name, int dirfd, struct ql_err *e); /* closes dirfd */
void ql_io_dir_abort(int parent, const char *name, int dirfd);
/* mkdir -p of one component; returns an open fd of it. */
int ql_io_ensure_dir(int parent, const char *name, int *dirfd, struct ql_err *e);
/* Moves the regular file `from` (a path below dir, on the medium already) into the directory `into` below dir as `name`; on the medium
 * when it returns QL_OK.  Nothing is copied: both must be on one file system. */
int ql_io_move(int dir, const char *from, const char *into, const char *name, struct ql_err *e);
/* Removes name (a directory with its files, or a file) below parent; missing is fine. */
int ql_io_remove_tree(int parent, const char *name, struct ql_err *e);

/* SHA-256 of a file below dir, hex. */
int ql_io_sha256(int dir, const char *path, char out[65], uint64_t *size, struct ql_err *e);
/* Free bytes of the file system that holds fd. */
int ql_io_free_bytes(int fd, uint64_t *out, struct ql_err *e);

/* A file mapped read-only.  Zero-initialise; base == NULL for an empty file. */
struct ql_map {
	const uint8_t *base;
	size_t size;
};
int ql_map_file(struct ql_map *m, const char *path, struct ql_err *e);
/* The regular file `name` below directory `dir` (ql_io_open_read's rules), or with dir = -1 the file at the path `name`. */
int ql_map_at(struct ql_map *m, int dir, const char *name, struct ql_err *e);
int ql_map_fd(struct ql_map *m, int fd, struct ql_err *e);
/* These bytes of a mapped file (never of other memory) are not needed soon: they leave this process's memory and are read again
 * when touched.  So that work on files larger than the memory stays small. */
void ql_map_drop(const void *data, size_t size);
void ql_map_free(struct ql_map *m);

#endif
