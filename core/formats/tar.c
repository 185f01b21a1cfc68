/* tar.c - see tar.h. */
#include "core/formats/tar.h"

#include <stdio.h>
#include <string.h>

#define BLOCK 512

static int bad(struct ql_err *e, int code, size_t at, const char *what)
{
	return ql_err_at(e, code, at, "tar archive: %s", what);
}

static bool is_zero(const uint8_t *h)
{
	for (int i = 0; i < BLOCK; i++)
		if (h[i] != 0)
			return false;
	return true;
}

/* Octal digits, blanks before them, ended by a blank or NUL. */
static bool octal(const uint8_t *p, size_t n, uint64_t *out)
{
	size_t i = 0;

	*out = 0;
	while (i < n && p[i] == ' ')
		i++;
	if (i == n || p[i] < '0' || p[i] > '7')
		return false;
	for (; i < n && p[i] >= '0' && p[i] <= '7'; i++) {
		if (*out >> 60 != 0)
			return false;
		*out = *out << 3 | (uint64_t)(p[i] - '0');
	}
	return i == n || p[i] == ' ' || p[i] == '\0';
}

static bool checksum_ok(const uint8_t *h)
{
	uint64_t want, sum = 0;

	for (int i = 0; i < BLOCK; i++)
		sum += i >= 148 && i < 156 ? ' ' : h[i];
	return octal(h + 148, 8, &want) && want == sum;
}

/* The last component of a name that stays below its directory; NULL if it does not. */
static const char *last_component(char *path)
{
	const char *last = NULL;
	int depth = 0;

	if (strncmp(path, "./", 2) == 0)
		path += 2;
	for (char *p = path, *slash; p != NULL; p = slash != NULL ? slash + 1 : NULL) {
		slash = strchr(p, '/');
		if (slash != NULL)
			*slash = '\0';
		if (*p == '\0' || strcmp(p, "..") == 0 || strcmp(p, ".") == 0 || ++depth > QL_TAR_DEPTH_MAX + 1)
			return NULL;
		last = p;
	}
	return last;
}

/* A pax header may not say anything that makes the entry another one. */
static int check_pax(const uint8_t *p, uint64_t n, size_t at, struct ql_err *e)
{
	static const char *const harmful[] = {"path=", "size=", "linkpath=", "hdrcharset=", "GNU.sparse."};

	for (uint64_t i = 0; i < n;) {
		uint64_t len = 0, k = i;

		while (k < n && p[k] >= '0' && p[k] <= '9' && len < BLOCK * 1024)
			len = len * 10 + (uint64_t)(p[k++] - '0');
		if (k == i || k >= n || p[k] != ' ' || len < k - i + 3 || len > n - i || p[i + len - 1] != '\n')
			return bad(e, QL_EFORMAT, at, "a pax header is broken");
		k++;
		for (size_t h = 0; h < sizeof harmful / sizeof harmful[0]; h++) {
			size_t w = strlen(harmful[h]);

			if (i + len - k >= w && memcmp(p + k, harmful[h], w) == 0)
				return bad(e, QL_EUNSUPPORTED, at, "a pax header gives a file another name or size");
		}
		i += len;
	}
	return QL_OK;
}

static int take(struct ql_tar_want *want, size_t n_want, const char *name, const uint8_t *data, uint64_t size, size_t at,
		struct ql_err *e)
{
	for (size_t i = 0; i < n_want; i++) {
		if (strcmp(want[i].name, name) != 0)
			continue;
		if (want[i].data != NULL)
			return bad(e, QL_EFORMAT, at, "a file is there twice");
		if (size > want[i].max)
			return bad(e, QL_ELIMIT, at, "a file is too large");
		want[i].data = data;
		want[i].size = size;
	}
	return QL_OK;
}

static int entry(const uint8_t *h, const uint8_t *body, uint64_t size, size_t at, struct ql_tar_want *want, size_t n_want,
		 struct ql_err *e)
{
	char path[260];
	const char *name;

	switch (h[156]) {
	case 'x':
	case 'g':
		return check_pax(body, size, at, e);
	case '5':
		return size == 0 ? QL_OK : bad(e, QL_EFORMAT, at, "a directory with content");
	case '0':
	case '\0':
		break;
	default:
		return bad(e, QL_EUNSUPPORTED, at, "only regular files and directories are taken (no links, devices or long-name records)");
	}
	(void)snprintf(path, sizeof path, "%.155s%s%.100s", memcmp(h + 257, "ustar\0", 6) == 0 ? (const char *)h + 345 : "",
		       memcmp(h + 257, "ustar\0", 6) == 0 && h[345] != 0 ? "/" : "", (const char *)h);
	name = last_component(path);
	if (name == NULL)
		return bad(e, QL_EFORMAT, at, "a name that is absolute, empty or leads out of the archive");
	return take(want, n_want, name, body, size, at, e);
}

int ql_tar_find(const uint8_t *data, size_t len, struct ql_tar_want *want, size_t n_want, struct ql_err *e)
{
	size_t at = 0;
	int n = 0;

	if (len >= 2 && data[0] == 0x1f && data[1] == 0x8b)
		return bad(e, QL_EUNSUPPORTED, 0, "it is compressed with gzip: give an uncompressed one");
	for (; len - at >= BLOCK && !is_zero(data + at); n++) {
		uint64_t size;
		int rc;

		if (n == QL_TAR_ENTRIES_MAX)
			return bad(e, QL_ELIMIT, at, "too many entries");
		if (!checksum_ok(data + at) || !octal(data + at + 124, 12, &size))
			return bad(e, QL_EFORMAT, at, "no tar header, or a wrong checksum");
		if (size > len - at - BLOCK)
			return bad(e, QL_EFORMAT, at, "a file is longer than the archive");
		rc = entry(data + at, data + at + BLOCK, size, at, want, n_want, e);
		if (rc != QL_OK)
			return rc;
		size = (size + BLOCK - 1) / BLOCK * BLOCK;
		at = size > len - at - BLOCK ? len : at + BLOCK + (size_t)size;
	}
	return n > 0 ? QL_OK : bad(e, QL_EFORMAT, 0, "it is empty");
}
