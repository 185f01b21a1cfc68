/* gguf_priv.h - what the files of the GGUF reader and writer share. */
#ifndef QL_FORMATS_GGUF_PRIV_H
#define QL_FORMATS_GGUF_PRIV_H

#include "core/base/io.h"
#include "core/formats/gguf.h"

#define QL_GGUF_ALIGNMENT_DEFAULT 32u

/* Bytes of one element of a fixed-size type, 0 for strings and arrays. */
extern const uint8_t ql_gguf_elem_bytes[QL_GGUF_TYPES];

struct ql_gguf_type_info {
	uint32_t id;
	const char *name;
	uint32_t block, bytes;
	enum ql_dtype dtype; /* QL_DTYPE_COUNT: size known, contents not read */
};
/* NULL for an unknown id. */
const struct ql_gguf_type_info *ql_gguf_type_find(uint32_t id);

struct ql_gguf {
	struct ql_map map; /* empty for open_mem */
	const uint8_t *file;
	size_t size;
	uint32_t version, alignment;
	struct ql_gguf_kv *kvs;
	size_t n_kvs, cap_kvs;
	struct ql_gguf_tensor *tensors;
	uint64_t *offsets; /* of each tensor, as the file says */
	size_t n_tensors, cap_tensors;
	uint32_t *kv_index, *tensor_index; /* sorted by key / name */
};

/* Fills g from g->file[0..size); what is there on failure is freed by ql_gguf_close. */
int ql_gguf_parse(struct ql_gguf *g, struct ql_err *e);

#endif
