/* gguf.c - opening, closing and look-up; the parser is gguf_parse.c. */
#include "core/formats/gguf.h"

#include <stdlib.h>
#include <string.h>

#include "core/formats/gguf_priv.h"

/* Takes over *map. */
static int open_bytes(struct ql_gguf **out, struct ql_map *map, const void *file, size_t size, struct ql_err *e)
{
	struct ql_gguf *g = calloc(1, sizeof *g);
	int rc;

	if (g == NULL) {
		ql_map_free(map);
		return ql_err_set(e, QL_ENOMEM, "no memory for a GGUF reader");
	}
	g->map = *map;
	g->file = file;
	g->size = size;
	rc = ql_gguf_parse(g, e);
	if (rc != QL_OK)
		ql_gguf_close(g);
	else
		*out = g;
	return rc;
}

int ql_gguf_open_mem(struct ql_gguf **out, const void *data, size_t size, struct ql_err *e)
{
	struct ql_map none = {0};

	*out = NULL;
	return open_bytes(out, &none, data, size, e);
}

int ql_gguf_open_at(struct ql_gguf **out, int dirfd, const char *name, struct ql_err *e)
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

int ql_gguf_open(struct ql_gguf **out, const char *path, struct ql_err *e) { return ql_gguf_open_at(out, -1, path, e); }

void ql_gguf_close(struct ql_gguf *g)
{
	if (g == NULL)
		return;
	for (size_t i = 0; i < g->n_kvs; i++)
		free((void *)(uintptr_t)g->kvs[i].key);
	for (size_t i = 0; i < g->n_tensors; i++)
		free((void *)(uintptr_t)g->tensors[i].name);
	free(g->kvs);
	free(g->tensors);
	free(g->offsets);
	free(g->kv_index);
	free(g->tensor_index);
	ql_map_free(&g->map);
	free(g);
}

uint32_t ql_gguf_version(const struct ql_gguf *g) { return g->version; }
uint32_t ql_gguf_alignment(const struct ql_gguf *g) { return g->alignment; }

const void *ql_gguf_file(const struct ql_gguf *g, size_t *size)
{
	*size = g->size;
	return g->file;
}

size_t ql_gguf_kv_count(const struct ql_gguf *g) { return g->n_kvs; }
const struct ql_gguf_kv *ql_gguf_kv_at(const struct ql_gguf *g, size_t i) { return &g->kvs[i]; }

const struct ql_gguf_kv *ql_gguf_kv_find(const struct ql_gguf *g, const char *key)
{
	size_t lo = 0, hi = g->n_kvs;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		const struct ql_gguf_kv *kv = &g->kvs[g->kv_index[mid]];
		int c = strcmp(key, kv->key);

		if (c == 0)
			return kv;
		if (c < 0)
			hi = mid;
		else
			lo = mid + 1;
	}
	return NULL;
}

size_t ql_gguf_tensor_count(const struct ql_gguf *g) { return g->n_tensors; }
const struct ql_gguf_tensor *ql_gguf_tensor_at(const struct ql_gguf *g, size_t i) { return &g->tensors[i]; }

const struct ql_gguf_tensor *ql_gguf_tensor_find(const struct ql_gguf *g, const char *name)
{
	size_t lo = 0, hi = g->n_tensors;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		const struct ql_gguf_tensor *t = &g->tensors[g->tensor_index[mid]];
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
