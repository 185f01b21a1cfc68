/* gguf_priv.h - tables shared by the GGUF reader and writer. */
#ifndef QL_FORMATS_GGUF_PRIV_H
#define QL_FORMATS_GGUF_PRIV_H

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

#endif
