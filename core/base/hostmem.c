/* hostmem.c - see hostmem.h. */
#include "core/base/hostmem.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The number behind `key` at the beginning of a line; "max" is none. */
static bool read_number(const char *path, const char *key, uint64_t *out)
{
	char line[256];
	FILE *f = fopen(path, "re");
	bool found = false;

	if (f == NULL)
		return false;
	while (!found && fgets(line, sizeof line, f) != NULL) {
		unsigned long long v;

		if (strncmp(line, key, strlen(key)) == 0 && sscanf(line + strlen(key), "%llu", &v) == 1) {
			*out = v;
			found = true;
		}
	}
	(void)fclose(f);
	return found;
}

struct groups {
	const char *fs;
	uint64_t *total, *available;
};

static bool group_number(const struct groups *g, const char *group, const char *file, const char *key, uint64_t *out)
{
	char path[1024];
	int n = snprintf(path, sizeof path, "%s%s/%s", g->fs, group, file);

	return n > 0 && n < (int)sizeof path && read_number(path, key, out);
}

static void limit_by(const struct groups *g, const char *group)
{
	uint64_t limit, now, cache = 0, left;

	if (!group_number(g, group, "memory.max", "", &limit))
		return;
	*g->total = limit < *g->total ? limit : *g->total;
	if (!group_number(g, group, "memory.current", "", &now))
		return;
	(void)group_number(g, group, "memory.stat", "inactive_file ", &cache);
	left = limit > now ? limit - now : 0;
	left += cache < limit - left ? cache : limit - left;
	*g->available = left < *g->available ? left : *g->available;
}

void ql_cgroup_limits(const char *fs, const char *self, uint64_t *total, uint64_t *available)
{
	const struct groups g = {fs, total, available};
	char line[512], *slash;
	FILE *f = fopen(self, "re");
	bool found = false;

	while (f != NULL && !found && fgets(line, sizeof line, f) != NULL)
		found = strncmp(line, "0::/", 4) == 0;
	if (f != NULL)
		(void)fclose(f);
	if (found) { /* "0::/system.slice/qlorad.service" */
		line[strcspn(line, "\n")] = '\0';
		for (char *group = line + 3; (slash = strrchr(group, '/')) != NULL && group[1] != '\0'; *slash = '\0')
			limit_by(&g, group);
	}
	limit_by(&g, ""); /* in a container the group itself is mounted as the root */
}

void ql_host_memory(uint64_t *total, uint64_t *available)
{
	long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
	uint64_t v;

	*total = pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0;
	*available = read_number("/proc/meminfo", "MemAvailable:", &v) ? v << 10 : *total;
	ql_cgroup_limits("/sys/fs/cgroup", "/proc/self/cgroup", total, available);
}
