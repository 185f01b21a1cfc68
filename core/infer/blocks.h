/* blocks.h - who holds which block of the key/value cache, and which full blocks may be shared.
 *
 * A block is free, held (count > 0), or kept: full, held by nobody, findable by its key until it is needed.  The key of a full block
 * is SHA-256(previous block's key, its tokens); the chain begins with the adapter's identity, so prefixes are shared only
 * between requests of the same adapter. */
#ifndef QL_INFER_BLOCKS_H
#define QL_INFER_BLOCKS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"

struct ql_blocks;

struct ql_block_key {
	uint8_t bytes[32];
};

int ql_blocks_new(struct ql_blocks **out, uint32_t n, struct ql_err *e);
void ql_blocks_free(struct ql_blocks *b);
uint32_t ql_blocks_available(const struct ql_blocks *b); /* free or kept */
uint32_t ql_blocks_held(const struct ql_blocks *b);
/* A fresh block, evicting the longest unused kept one if need be; -1 if none. */
int32_t ql_blocks_take(struct ql_blocks *b);
void ql_blocks_release(struct ql_blocks *b, int32_t block);
/* Marks a held, full block as findable.  A key already known leaves the block private. */
void ql_blocks_publish(struct ql_blocks *b, int32_t block, const struct ql_block_key *key);
/* Holds the block with this key, or -1. */
int32_t ql_blocks_find(struct ql_blocks *b, const struct ql_block_key *key);
/* Forgets everything kept (the adapter's weights changed). */
void ql_blocks_forget(struct ql_blocks *b);

void ql_block_key_first(struct ql_block_key *out, const char *adapter, uint64_t generation);
void ql_block_key_next(struct ql_block_key *out, const struct ql_block_key *prev, const int32_t *tokens, uint32_t n);

#endif
