/* tar.h - a few wanted files out of an untrusted, uncompressed tar archive (POSIX ustar, GNU, pax; IEEE Std 1003.1 "pax").
 *
 * Blocks of 512 bytes: header {name 100, mode, uid, gid, size 12 (octal), mtime, checksum 8, type 1, linkname 100, magic 6,
 * version 2, uname, gname, dev, prefix 155}, then the data, padded.  Two zero blocks, or the end of the file, end it.
 * Refused: links, devices, absolute names, "..", empty components, a wrong checksum, sizes beyond the archive or a wanted
 * file's limit, extended headers that change a name or a size, long-name records, a wanted file twice, and too many entries.
 * Directories and other regular files are passed over.  Nothing is ever written under a name from the archive. */
#ifndef QL_FORMATS_TAR_H
#define QL_FORMATS_TAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

#define QL_TAR_ENTRIES_MAX 4096
#define QL_TAR_DEPTH_MAX 8 /* directories above a file */

struct ql_tar_want {
	const char *name; /* last component; the directory it lies in does not matter */
	uint64_t max;	  /* bytes */
	/* found: */
	const uint8_t *data; /* inside the archive, NULL = not there */
	uint64_t size;
};

/* Looks at len bytes.  QL_EFORMAT with the offset, QL_EUNSUPPORTED (a type that is refused, gzip), QL_ELIMIT. */
int ql_tar_find(const uint8_t *data, size_t len, struct ql_tar_want *want, size_t n_want, struct ql_err *e);

#endif
