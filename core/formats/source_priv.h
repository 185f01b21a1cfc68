/* source_priv.h - what the files of the base-model view share. */
#ifndef QL_FORMATS_SOURCE_PRIV_H
#define QL_FORMATS_SOURCE_PRIV_H

#include "core/formats/gguf.h"
#include "core/formats/safetensors.h"
#include "core/formats/source.h"

#define QL_SOURCE_SHARDS_MAX 1024
#define QL_SOURCE_INDEX_JSON_MAX QL_MIB(4)

struct ql_source_shard {
	char *name; /* file name in the directory */
	struct ql_st *st;
};

struct ql_source {
	struct ql_arch arch;
	char *path;
	char *dir;	   /* = path for a directory, else NULL */
	struct ql_gguf *g; /* NULL for a directory */
	struct ql_source_shard *shards;
	size_t n_shards;
	struct ql_source_tensor *tensors; /* by index of ql_arch_tensor_at; names owned */
	size_t n_tensors;
	struct ql_q4 *q4; /* [n_tensors], what those tensors point to that are 4-bit; NULL when none is */
	char config_hash[65]; /* of config.json as it was read */
	char *name, *tmpl, *tool_tmpl;
	size_t tmpl_len, tool_tmpl_len;
};

/* source_gguf.c, source_hf.c: fill everything but name and template. */
int ql_source_open_gguf(struct ql_source *s, struct ql_err *e);
int ql_source_open_hf(struct ql_source *s, struct ql_err *e);
/* source_text.c: display name and chat template. */
int ql_source_load_text(struct ql_source *s, struct ql_err *e);

/* source_bnb.c: a 4-bit tensor, at index i and what follows it in there; QL_ENOTFOUND without a message if f is none. */
int ql_source_bind_bnb(struct ql_source *s, size_t i, const struct ql_st_tensor *f, struct ql_err *e);
/* Is it a part of a 4-bit tensor other than its codes? */
bool ql_source_is_bnb_part(const struct ql_source *s, const char *name);
void ql_source_free_bnb(struct ql_source *s);

/* After arch is set: makes the tensor table, all entries without data. */
int ql_source_make_table(struct ql_source *s, struct ql_err *e);
/* Points tensor i and, where the file's tensor holds several, those that follow it in there, at their rows of data. */
void ql_source_bind(struct ql_source *s, size_t i, enum ql_dtype dtype, const void *data);
/* Refuses a table with tensors that were not found. */
int ql_source_check_table(const struct ql_source *s, struct ql_err *e);

/* dir/name as one string, malloc'ed; NULL without memory. */
char *ql_source_join(const char *dir, const char *name);

#endif
