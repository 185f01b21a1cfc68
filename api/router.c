/* router.c - see router.h. */
#include "api/router.h"

#include <string.h>

static const struct {
	const char *name;
	unsigned method;
} methods[] = {{"GET", QL_GET}, {"HEAD", QL_HEAD}, {"POST", QL_POST}, {"DELETE", QL_DELETE}, {"OPTIONS", QL_OPTIONS}};

unsigned ql_method_of(const char *name)
{
	for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
		if (strcmp(methods[i].name, name) == 0)
			return methods[i].method;
	return 0;
}

static bool matches(const char *pattern, const struct ql_target *t, size_t from, const char **param)
{
	size_t seg = from, n_param = 0;

	for (const char *p = pattern; *p == '/';) {
		const char *begin = ++p, *have;
		size_t n;

		while (*p != '\0' && *p != '/')
			p++;
		n = (size_t)(p - begin);
		if (seg == t->n_segments)
			return false;
		have = t->segment[seg++];
		if (n > 0 && begin[0] == '{') {
			if (have[0] == '\0' || n_param == QL_ROUTE_PARAMS_MAX)
				return false;
			param[n_param++] = have;
		} else if (strlen(have) != n || memcmp(have, begin, n) != 0) {
			return false;
		}
	}
	return seg == t->n_segments;
}

struct ql_match ql_route_find(const struct ql_route *table, size_t n, unsigned method, const struct ql_target *t)
{
	struct ql_match m = {0};
	bool prefixed = !t->asterisk && t->n_segments > 1 && strcmp(t->segment[0], "v1") == 0;
	unsigned want = method == QL_HEAD ? QL_GET : method;

	if (t->asterisk)
		return m;
	for (size_t i = 0; i < n; i++) {
		const char *param[QL_ROUTE_PARAMS_MAX] = {0};

		if (prefixed && (table[i].flags & QL_ROUTE_BARE))
			continue;
		if (!matches(table[i].pattern, t, prefixed ? 1 : 0, param))
			continue;
		m.methods |= table[i].method;
		if (table[i].method != want || m.route != NULL)
			continue;
		m.route = &table[i];
		memcpy(m.param, param, sizeof param);
	}
	return m;
}

void ql_route_allow(unsigned mask, char out[40])
{
	size_t n = 0;

	if (mask & QL_GET)
		mask |= QL_HEAD;
	mask |= QL_OPTIONS;
	out[0] = '\0';
	for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
		size_t len = strlen(methods[i].name);

		if (!(mask & methods[i].method) || n + len + 3 > 40)
			continue;
		if (n > 0) {
			memcpy(out + n, ", ", 2);
			n += 2;
		}
		memcpy(out + n, methods[i].name, len + 1);
		n += len;
	}
}
