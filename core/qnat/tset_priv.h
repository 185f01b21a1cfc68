/* tset_priv.h - what the files of the tensor view share. */
#ifndef QL_QNAT_TSET_PRIV_H
#define QL_QNAT_TSET_PRIV_H

#include "core/formats/source.h"
#include "core/qnat/tset.h"

struct ql_tset {
	enum ql_tset_kind kind;
	struct ql_tset_tensor *t;
	const struct ql_tset_tensor **by_name; /* sorted */
	size_t n;
	struct ql_st **st;
	size_t n_st;
	struct ql_qnat *qnat;
	struct ql_source *source;   /* a GGUF model under Hugging Face names; owns gguf then */
	struct ql_gguf *gguf;
};

/* Each fills containers and table; names point into the containers. */
int ql_tset_open_gguf(struct ql_tset *s, const char *path, bool model_names, struct ql_err *e);
int ql_tset_open_qnat(struct ql_tset *s, const char *path, struct ql_err *e);
int ql_tset_open_st(struct ql_tset *s, const char *path, struct ql_err *e); /* file, HF and PEFT directory by s->kind */

#endif
