/* cache_priv.h - what the files of the 4-bit cache share. */
#ifndef QL_MODEL_CACHE_PRIV_H
#define QL_MODEL_CACHE_PRIV_H

#include "core/formats/safetensors.h"
#include "core/model/cache.h"

struct ql_base_cache {
	uint32_t n_layers;
	struct ql_q4 *tensors; /* [n_layers · QL_MODULES] */
	struct ql_st *file;    /* what the tensors borrow from, or NULL when they own their memory */
	double quantise_s, write_s;
};

void ql_cache_linear_name(char *out, size_t size, uint32_t layer, int module);

/* cache_file.c: writes the file; reads one, whose settings must be exactly those of o and whose tensors must be what was written (on
 * failure c holds nothing of it). */
int ql_cache_write(const struct ql_base_cache *c, const struct ql_arch *a, int dir, const char *file, struct ql_pool *pool,
		   struct ql_err *e);
int ql_cache_read(struct ql_base_cache *c, const struct ql_arch *a, int dir, const char *file, const struct ql_q4_opts *o,
		  struct ql_pool *pool, struct ql_err *e);

#endif
