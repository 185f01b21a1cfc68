/* hostmem.h - how much memory the host, and the control groups this process is in, still have. */
#ifndef QL_BASE_HOSTMEM_H
#define QL_BASE_HOSTMEM_H

#include <stdint.h>

/* Bytes in all and bytes that can be had without swapping (MemAvailable of /proc/meminfo), each cut to what the control groups allow.
 * 0 where the kernel does not tell. */
void ql_host_memory(uint64_t *total, uint64_t *available);

/* Cuts both to the limits of a process's control group and of every group above it (cgroup v2: memory.max, memory.current, and of
 * memory.stat what is file cache that can go).  fs: where the groups are mounted, "/sys/fs/cgroup"; self: the file that names the
 * process's group, "/proc/self/cgroup".  What cannot be read does not limit. */
void ql_cgroup_limits(const char *fs, const char *self, uint64_t *total, uint64_t *available);

#endif
