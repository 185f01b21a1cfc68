/* source_hash.c - which weights these are: their digest, and a cheap stamp that tells whether they may have changed; see source.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/hash.h"
#include "core/formats/source_priv.h"

#define PIECE ((size_t)256 << 20)

struct piece {
	const uint8_t *data;
	size_t size;
	char hex[65];
};

static void hash_piece(void *ctx, size_t i, int worker)
{
	struct piece *p = (struct piece *)ctx + i;

	(void)worker;
	ql_sha256_hex(p->data, p->size, p->hex);
}

static size_t pieces_of(size_t size) { return size == 0 ? 1 : (size - 1) / PIECE + 1; }

/* A file of one piece: its SHA-256; else the SHA-256 of the digits of its pieces. */
static void join_pieces(const struct piece *p, size_t n, char hex[65])
{
	struct ql_sha256 h;

	if (n == 1) {
		memcpy(hex, p->hex, 65);
		return;
	}
	ql_sha256_init(&h);
	for (size_t i = 0; i < n; i++)
		ql_sha256_add(&h, p[i].hex, 64);
	ql_sha256_end_hex(&h, hex);
}

/* The pieces of all shards, hashed at once. */
static struct piece *hash_shards(const struct ql_source *s, struct ql_pool *pool, struct ql_err *e)
{
	struct piece *p;
	const void *data;
	size_t n = 0, k = 0, size;

	for (size_t i = 0; i < s->n_shards; i++) {
		(void)ql_st_file(s->shards[i].st, &size);
		n += pieces_of(size);
	}
	p = calloc(n + 1, sizeof *p);
	if (p == NULL) {
		(void)ql_err_set(e, QL_ENOMEM, "digests");
		return NULL;
	}
	for (size_t i = 0; i < s->n_shards; i++) {
		data = ql_st_file(s->shards[i].st, &size);
		for (size_t at = 0; at < size || at == 0; at += PIECE) {
			p[k].data = (const uint8_t *)data + at;
			p[k++].size = size - at < PIECE ? size - at : PIECE;
		}
	}
	ql_pool_run(pool, n, hash_piece, p);
	return p;
}

int ql_source_hash(const struct ql_source *s, struct ql_pool *pool, char hex[65], struct ql_err *e)
{
	struct piece *pieces, *p;
	struct ql_sha256 h;
	const void *data;
	size_t size;
	char line[65];

	if (s->g != NULL) {
		data = ql_gguf_file(s->g, &size);
		ql_sha256_hex(data, size, hex);
		return QL_OK;
	}
	p = pieces = hash_shards(s, pool, e);
	if (pieces == NULL)
		return QL_ENOMEM;
	ql_sha256_init(&h);
	ql_sha256_add(&h, s->config_hash, 64);
	ql_sha256_add(&h, "  config.json\n", 14);
	for (size_t i = 0; i < s->n_shards; i++) {
		(void)ql_st_file(s->shards[i].st, &size);
		join_pieces(p, pieces_of(size), line);
		p += pieces_of(size);
		ql_sha256_add(&h, line, 64);
		ql_sha256_add(&h, "  ", 2);
		ql_sha256_add(&h, s->shards[i].name, strlen(s->shards[i].name));
		ql_sha256_add(&h, "\n", 1);
	}
	ql_sha256_end_hex(&h, hex);
	free(pieces);
	return QL_OK;
}

static bool stamp_file(struct ql_sha256 *h, const char *path)
{
	char text[4352];
	struct stat st;
	int n;

	if (path == NULL || stat(path, &st) != 0 || !S_ISREG(st.st_mode))
		return false;
	n = snprintf(text, sizeof text, "%s|%lld|%lld.%09ld|%llu", path, (long long)st.st_size, (long long)st.st_mtim.tv_sec,
		     st.st_mtim.tv_nsec, (unsigned long long)st.st_ino);
	ql_sha256_add(h, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
	return true;
}

bool ql_source_stamp(const struct ql_source *s, char hex[65])
{
	struct ql_sha256 h;
	bool ok = true;

	ql_sha256_init(&h);
	if (s->dir == NULL) {
		ok = stamp_file(&h, s->path);
	} else {
		char *path = ql_source_join(s->dir, "config.json");

		ok = stamp_file(&h, path);
		free(path);
		for (size_t i = 0; ok && i < s->n_shards; i++) {
			path = ql_source_join(s->dir, s->shards[i].name);
			ql_sha256_add(&h, "\n", 1);
			ok = stamp_file(&h, path);
			free(path);
		}
	}
	ql_sha256_end_hex(&h, hex);
	return ok;
}
