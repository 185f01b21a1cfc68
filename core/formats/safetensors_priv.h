/* safetensors_priv.h - what the files of the safetensors reader share. */
#ifndef QL_FORMATS_SAFETENSORS_PRIV_H
#define QL_FORMATS_SAFETENSORS_PRIV_H

#include <jansson.h>

#include "core/base/io.h"
#include "core/formats/safetensors.h"

struct ql_st_entry {
	struct ql_st_tensor t;
	uint64_t begin, end;
};

struct ql_st {
	struct ql_map map; /* empty for open_mem */
	const uint8_t *file;
	size_t size;
	struct ql_st_entry *entries; /* data order */
	size_t n, cap;
	uint32_t *by_name; /* indices into entries, sorted by name */
	json_t *metadata;  /* object of strings, or NULL */
};

/* Fills st from st->file[0..size); what is there on failure is freed by ql_st_close. */
int ql_st_parse(struct ql_st *st, struct ql_err *e);

#endif
