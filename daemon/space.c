/* space.c - the disk reserve (robustness.md §3.6): a job, an upload or an export starts only while the free space is above
 * config->space_reserve_bytes or 3 × the largest live checkpoint, whichever is more, plus what it needs itself.
 *
 * The store keeps 64 MiB for itself in STATE/reserve, so that cancels and deletes can be committed on a full disk: the file
 * is given up when space runs out and made again when it is back. */
#include <fcntl.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "daemon/files.h"
#include "daemon/space.h"
#include "daemon/store.h"

#define STORE_RESERVE QL_MIB(64)
#define TIGHT_BYTES QL_MIB(16)

bool ql_space_ok(struct ql_control *ctl, uint64_t need)
{
	uint64_t free_bytes = 0, reserve = (uint64_t)ctl->config->space_reserve_bytes;
	int64_t largest = ql_store_int(ctl->store, 0,
				       "SELECT max(bytes) FROM checkpoints WHERE job IN (SELECT id FROM jobs WHERE state IN"
				       " ('queued', 'running', 'pausing', 'paused'))",
				       "");
	struct ql_err e = {0};

	if (ql_io_free_bytes(ctl->state_fd, &free_bytes, &e) != QL_OK) {
		ql_log(QL_LOG_WARN, "space", "%s", e.message);
		return true; /* unknown: the write itself will tell */
	}
	if (largest > 0 && (uint64_t)largest < UINT64_MAX / 4 && 3 * (uint64_t)largest > reserve)
		reserve = 3 * (uint64_t)largest;
	return free_bytes >= reserve && free_bytes - reserve >= need;
}

static bool has_reserve(struct ql_control *ctl) { return faccessat(ctl->state_fd, "reserve", F_OK, AT_SYMLINK_NOFOLLOW) == 0; }

bool ql_space_release(struct ql_control *ctl, bool full)
{
	uint64_t free_bytes = 0;

	if (!full && (ql_io_free_bytes(ctl->state_fd, &free_bytes, NULL) != QL_OK || free_bytes >= TIGHT_BYTES))
		return false;
	if (unlinkat(ctl->state_fd, "reserve", 0) != 0)
		return false;
	ql_log(QL_LOG_WARN, "space", "disk full: the store's own reserve is used up now");
	return true;
}

void ql_space_tick(struct ql_control *ctl)
{
	uint64_t free_bytes = 0;
	struct ql_err e = {0};
	int fd;

	(void)ql_space_release(ctl, false);
	if (ctl->config->space_reserve_bytes == 0 || has_reserve(ctl) || ql_io_free_bytes(ctl->state_fd, &free_bytes, &e) != QL_OK ||
	    free_bytes < 4 * STORE_RESERVE)
		return;
	fd = openat(ctl->state_fd, "reserve", O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return;
	if (posix_fallocate(fd, 0, (off_t)STORE_RESERVE) != 0)
		(void)unlinkat(ctl->state_fd, "reserve", 0);
	(void)close(fd);
}
