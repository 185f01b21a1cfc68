/* write_priv.h - what the writers of the public interface share. */
#ifndef QL_LIB_WRITE_PRIV_H
#define QL_LIB_WRITE_PRIV_H

#include "core/formats/safetensors.h"
#include "lib/priv.h"

struct lib_item {
	char *name;
	enum ql_dtype type;
	int n_dims;
	uint64_t shape[QL_ST_DIMS_MAX], n, cols;
	const float *data;	   /* borrowed; NULL for q4 */
	const struct qlora_q4 *q4; /* borrowed */
};
struct lib_meta {
	char *key, *value;
};
struct qlora_writer {
	enum qlora_format format;
	struct lib_item *items;
	struct lib_meta *meta;
	size_t n, n_meta;
};

/* Values of a plain or block item, converted in pieces of whole rows. */
int lib_stream(const struct lib_item *it, int (*sink)(void *ctx, const void *data, size_t len, struct ql_err *e), void *ctx,
	       struct ql_err *e);
int lib_save_st(const struct qlora_writer *w, int dirfd, const char *file, struct ql_err *e);

#endif
