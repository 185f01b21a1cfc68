/* scratch.h - a temporary directory per test, removed afterwards, and whole files of it. */
#ifndef QL_TESTS_SCRATCH_H
#define QL_TESTS_SCRATCH_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/limits.h"
#include "tests/unit/cm.h"

struct scratch {
	char path[64];
	int fd;
};

static inline void scratch_open(struct scratch *s)
{
	(void)snprintf(s->path, sizeof s->path, "/tmp/ql_test_XXXXXX");
	assert_non_null(mkdtemp(s->path));
	s->fd = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(s->fd >= 0);
}

static inline void scratch_close(struct scratch *s)
{
	(void)close(s->fd);
	assert_int_equal(ql_io_remove_tree(AT_FDCWD, s->path, NULL), QL_OK);
}

static inline void scratch_write(const struct scratch *s, const char *name, const void *data, size_t len)
{
	assert_int_equal(ql_io_replace(s->fd, name, data, len, NULL), QL_OK);
}

/* Whole file; free() it. */
static inline uint8_t *scratch_read(const struct scratch *s, const char *name, size_t *len)
{
	struct ql_buf b = {0};

	assert_int_equal(ql_io_read_all(s->fd, name, QL_MIB(64), &b, NULL), QL_OK);
	*len = b.len;
	return (uint8_t *)b.data;
}

static inline bool scratch_has(const struct scratch *s, const char *name)
{
	return faccessat(s->fd, name, F_OK, 0) == 0;
}

#endif
