/* blocks.c - see blocks.h.  Kept blocks form a list by last use; keys are found through a small open hash. */
#include "core/infer/blocks.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/hash.h"

struct block {
	uint32_t count;
	bool keyed;
	struct ql_block_key key;
	int32_t next_hash;     /* chain of equal hash slots */
	int32_t newer, older; /* list of kept blocks; free ones use `older` as a stack */
};

struct ql_blocks {
	uint32_t n, held, kept;
	struct block *blocks;
	int32_t *slots; /* heads, n of them */
	int32_t free_top, newest, oldest;
};

int ql_blocks_new(struct ql_blocks **out, uint32_t n, struct ql_err *e)
{
	struct ql_blocks *b = calloc(1, sizeof *b);

	*out = NULL;
	if (b != NULL) {
		b->n = n;
		b->blocks = calloc(n, sizeof *b->blocks);
		b->slots = malloc((size_t)n * sizeof *b->slots);
	}
	if (b == NULL || b->blocks == NULL || b->slots == NULL) {
		ql_blocks_free(b);
		return ql_err_set(e, QL_ENOMEM, "%u cache blocks", n);
	}
	b->free_top = -1;
	b->newest = b->oldest = -1;
	for (uint32_t i = n; i-- > 0;) {
		b->slots[i] = -1;
		b->blocks[i].older = b->free_top;
		b->free_top = (int32_t)i;
	}
	*out = b;
	return QL_OK;
}

void ql_blocks_free(struct ql_blocks *b)
{
	if (b == NULL)
		return;
	free(b->blocks);
	free(b->slots);
	free(b);
}

uint32_t ql_blocks_available(const struct ql_blocks *b) { return b->n - b->held; }
uint32_t ql_blocks_held(const struct ql_blocks *b) { return b->held; }

static int32_t *slot_of(struct ql_blocks *b, const struct ql_block_key *key)
{
	uint64_t h;

	memcpy(&h, key->bytes, sizeof h);
	return &b->slots[h % b->n];
}

static void unkey(struct ql_blocks *b, int32_t i)
{
	int32_t *p = slot_of(b, &b->blocks[i].key);

	while (*p != i)
		p = &b->blocks[*p].next_hash;
	*p = b->blocks[i].next_hash;
	b->blocks[i].keyed = false;
}

static void kept_remove(struct ql_blocks *b, int32_t i)
{
	struct block *x = &b->blocks[i];

	if (x->newer >= 0)
		b->blocks[x->newer].older = x->older;
	else
		b->newest = x->older;
	if (x->older >= 0)
		b->blocks[x->older].newer = x->newer;
	else
		b->oldest = x->newer;
	b->kept--;
}

int32_t ql_blocks_take(struct ql_blocks *b)
{
	int32_t i = b->free_top;

	if (i >= 0) {
		b->free_top = b->blocks[i].older;
	} else {
		i = b->oldest;
		if (i < 0)
			return -1;
		kept_remove(b, i);
		unkey(b, i);
	}
	b->blocks[i].count = 1;
	b->held++;
	return i;
}

void ql_blocks_release(struct ql_blocks *b, int32_t i)
{
	struct block *x = &b->blocks[i];

	if (--x->count > 0)
		return;
	b->held--;
	if (!x->keyed) {
		x->older = b->free_top;
		b->free_top = i;
		return;
	}
	x->newer = -1;
	x->older = b->newest;
	if (b->newest >= 0)
		b->blocks[b->newest].newer = i;
	b->newest = i;
	if (b->oldest < 0)
		b->oldest = i;
	b->kept++;
}

static int32_t lookup(struct ql_blocks *b, const struct ql_block_key *key)
{
	for (int32_t i = *slot_of(b, key); i >= 0; i = b->blocks[i].next_hash)
		if (memcmp(b->blocks[i].key.bytes, key->bytes, sizeof key->bytes) == 0)
			return i;
	return -1;
}

void ql_blocks_publish(struct ql_blocks *b, int32_t i, const struct ql_block_key *key)
{
	int32_t *slot = slot_of(b, key);

	if (b->blocks[i].keyed || lookup(b, key) >= 0)
		return;
	b->blocks[i].key = *key;
	b->blocks[i].keyed = true;
	b->blocks[i].next_hash = *slot;
	*slot = i;
}

int32_t ql_blocks_find(struct ql_blocks *b, const struct ql_block_key *key)
{
	int32_t i = lookup(b, key);

	if (i < 0)
		return -1;
	if (b->blocks[i].count++ == 0) {
		kept_remove(b, i);
		b->held++;
	}
	return i;
}

void ql_blocks_forget(struct ql_blocks *b)
{
	while (b->oldest >= 0) {
		int32_t i = b->oldest;

		kept_remove(b, i);
		unkey(b, i);
		b->blocks[i].older = b->free_top;
		b->free_top = i;
	}
}

void ql_block_key_first(struct ql_block_key *out, const char *adapter, uint64_t generation)
{
	struct ql_sha256 h;

	ql_sha256_init(&h);
	ql_sha256_add(&h, adapter, strlen(adapter) + 1);
	ql_sha256_add(&h, &generation, sizeof generation);
	ql_sha256_end(&h, out->bytes);
}

void ql_block_key_next(struct ql_block_key *out, const struct ql_block_key *prev, const int32_t *tokens, uint32_t n)
{
	struct ql_sha256 h;

	ql_sha256_init(&h);
	ql_sha256_add(&h, prev->bytes, sizeof prev->bytes);
	ql_sha256_add(&h, tokens, (size_t)n * sizeof *tokens);
	ql_sha256_end(&h, out->bytes);
}
