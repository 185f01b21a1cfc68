/* cache.h - the 4-bit form of a base model on disk, and in host memory while the model is loaded.
 *
 * cache/base-<id>.safetensors holds the quantised linears in bitsandbytes' layout (formats.md §4): per tensor X.weight
 * (U8 [ceil(n/2), 1]), .absmax, .quant_map, .quant_state.bitsandbytes__nf4 and, double-quantised, .nested_absmax and
 * .nested_quant_map, so transformers can load it; and in __metadata__, under X.weight, the SHA-256 of these.  <id> is the first 24
 * digits of SHA-256(source hash, quantisation settings, layout version).  cache/source-<id>.json remembers a source's SHA-256 by path,
 * size, mtime and inode of its files, so that a warm start need not read 16 GB to know what it is.  Both are untrusted when read:
 * parsed with the same limits, digests compared, rebuilt when wrong. */
#ifndef QL_MODEL_CACHE_H
#define QL_MODEL_CACHE_H

#include "core/device/device.h"
#include "core/formats/source.h"
#include "core/quant/q4.h"

struct ql_base_cache;

/* SHA-256 of the source's weights, from the note in cache_dir when it still fits, else computed and noted. */
int ql_cache_source_hash(const struct ql_source *s, int cache_dir, struct ql_pool *pool, char hex[65], struct ql_err *e);

/* Opens the cached form, or quantises the source (progress per tensor) and writes it.  A source in 4 bit is used as it is, whatever q
 * says: nothing is cached, and the tensors borrow from it.  cache_dir -1: memory only.  dev: quantises where it
 * is no CPU and the source holds plain rows (the same bits); may be NULL. */
int ql_base_cache_open(struct ql_base_cache **out, const struct ql_source *s, const char *source_sha256, int cache_dir,
		       const struct ql_q4_opts *q, struct ql_device *dev, struct ql_pool *pool,
		       void (*progress)(void *ctx, double fraction, const char *what), void *ctx, struct ql_err *e);
void ql_base_cache_close(struct ql_base_cache *c);
/* The tensor of a linear; never NULL for layer < num_hidden_layers. */
const struct ql_q4 *ql_base_cache_get(const struct ql_base_cache *c, uint32_t layer, int module);
bool ql_base_cache_was_cached(const struct ql_base_cache *c);
/* How long opening spent on either; 0 where the cached form was found. */
void ql_base_cache_seconds(const struct ql_base_cache *c, double *quantise, double *write);

#endif
