/* safetensors.c - opening, closing and look-up; the parser is safetensors_parse.c. */
#include "core/formats/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "core/formats/safetensors_priv.h"

/* Takes over *map; parses what `file` points to. */
static int open_bytes(struct ql_st **out, struct ql_map *map, const void *file, size_t size, struct ql_err *e)
{
	struct ql_st *st = calloc(1, sizeof *st);
	int rc;

	if (st == NULL) {
		ql_map_free(map);
		return ql_err_set(e, QL_ENOMEM, "no memory for a safetensors reader");
	}
	st->map = *map;
	st->file = file;
	st->size = size;
	rc = ql_st_parse(st, e);
	if (rc != QL_OK)
		ql_st_close(st);
	else
		*out = st;
	return rc;
}

int ql_st_open_mem(struct ql_st **out, const void *data, size_t size, struct ql_err *e)
{
	struct ql_map none = {0};

	*out = NULL;
	return open_bytes(out, &none, data, size, e);
}

int ql_st_open_at(struct ql_st **out, int dirfd, const char *name, struct ql_err *e)
{
	struct ql_map map;
	int rc;

	*out = NULL;
	rc = ql_map_at(&map, dirfd, name, e);
	if (rc == QL_OK)
		rc = open_bytes(out, &map, map.base, map.size, e);
	if (rc != QL_OK)
		(void)ql_err_prefix(e, "%.200s", name);
	return rc;
}

int ql_st_open(struct ql_st **out, const char *path, struct ql_err *e) { return ql_st_open_at(out, -1, path, e); }

void ql_st_close(struct ql_st *st)
{
	if (st == NULL)
		return;
	for (size_t i = 0; i < st->n; i++)
		free((void *)(uintptr_t)st->entries[i].t.name);
	free(st->entries);
	free(st->by_name);
	json_decref(st->metadata);
	ql_map_free(&st->map);
	free(st);
}

size_t ql_st_count(const struct ql_st *st) { return st->n; }

const struct ql_st_tensor *ql_st_at(const struct ql_st *st, size_t i) { return &st->entries[i].t; }

const struct ql_st_tensor *ql_st_find(const struct ql_st *st, const char *name)
{
	size_t lo = 0, hi = st->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		const struct ql_st_tensor *t = &st->entries[st->by_name[mid]].t;
		int c = strcmp(name, t->name);

		if (c == 0)
			return t;
		if (c < 0)
			hi = mid;
		else
			lo = mid + 1;
	}
	return NULL;
}

const char *ql_st_metadata(const struct ql_st *st, const char *key)
{
	return json_string_value(json_object_get(st->metadata, key));
}

const void *ql_st_file(const struct ql_st *st, size_t *size)
{
	*size = st->size;
	return st->file;
}
