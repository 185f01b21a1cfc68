/* tset.c - opening a container by what it is, look-up and reading of values; see tset.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/io.h"
#include "core/qnat/tset_priv.h"
#include "core/quant/blk.h"

static int by_name(const void *a, const void *b)
{
	return strcmp((*(const struct ql_tset_tensor *const *)a)->name, (*(const struct ql_tset_tensor *const *)b)->name);
}

static int index_names(struct ql_tset *s, struct ql_err *e)
{
	s->by_name = calloc(s->n + 1, sizeof *s->by_name);
	if (s->by_name == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for a tensor table");
	for (size_t i = 0; i < s->n; i++)
		s->by_name[i] = &s->t[i];
	qsort(s->by_name, s->n, sizeof *s->by_name, by_name);
	for (size_t i = 1; i < s->n; i++)
		if (strcmp(s->by_name[i - 1]->name, s->by_name[i]->name) == 0)
			return ql_err_param(e, QL_EFORMAT, s->by_name[i]->name, "tensor %.200s is in two files",
					    s->by_name[i]->name);
	return QL_OK;
}

/* What the path is: by directory contents, else by the first bytes. */
static int find_kind(const char *path, enum ql_tset_kind *kind, struct ql_err *e)
{
	char name[4096];
	struct stat st;
	uint8_t magic[4] = {0};
	FILE *f;

	if (stat(path, &st) != 0)
		return ql_err_errno(e, "%.200s", path);
	if (S_ISDIR(st.st_mode)) {
		(void)snprintf(name, sizeof name, "%s/adapter_model.safetensors", path);
		*kind = stat(name, &st) == 0 ? QL_TSET_PEFT : QL_TSET_HF;
		return QL_OK;
	}
	f = fopen(path, "rbe");
	if (f == NULL)
		return ql_err_errno(e, "%.200s", path);
	(void)!fread(magic, 1, sizeof magic, f);
	(void)fclose(f);
	*kind = memcmp(magic, "GGUF", 4) == 0 ? QL_TSET_GGUF : memcmp(magic, "QNAT", 4) == 0 ? QL_TSET_QNAT : QL_TSET_SAFETENSORS;
	return QL_OK;
}

int ql_tset_open(struct ql_tset **out, const char *path, bool model_names, struct ql_err *e)
{
	struct ql_tset *s = calloc(1, sizeof *s);
	int rc;

	*out = NULL;
	if (s == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for a tensor table");
	rc = find_kind(path, &s->kind, e);
	if (rc == QL_OK)
		rc = s->kind == QL_TSET_GGUF   ? ql_tset_open_gguf(s, path, model_names, e)
		     : s->kind == QL_TSET_QNAT ? ql_tset_open_qnat(s, path, e)
					       : ql_tset_open_st(s, path, e);
	if (rc == QL_OK)
		rc = index_names(s, e);
	if (rc != QL_OK)
		ql_tset_close(s);
	else
		*out = s;
	return rc;
}

void ql_tset_close(struct ql_tset *s)
{
	if (s == NULL)
		return;
	for (size_t i = 0; i < s->n; i++)
		if (s->t[i].q4 != NULL) {
			free(s->t[i].q4->owned);
			free((void *)(uintptr_t)s->t[i].q4);
		}
	free(s->t);
	free(s->by_name);
	for (size_t i = 0; i < s->n_st; i++)
		ql_st_close(s->st[i]);
	free(s->st);
	ql_qnat_close(s->qnat);
	if (s->source == NULL)
		ql_gguf_close(s->gguf);
	ql_source_close(s->source);
	free(s);
}

enum ql_tset_kind ql_tset_kind(const struct ql_tset *s) { return s->kind; }
size_t ql_tset_count(const struct ql_tset *s) { return s->n; }
const struct ql_tset_tensor *ql_tset_at(const struct ql_tset *s, size_t i) { return &s->t[i]; }
const struct ql_gguf *ql_tset_gguf(const struct ql_tset *s) { return s->gguf; }
const struct ql_qnat *ql_tset_qnat(const struct ql_tset *s) { return s->qnat; }
const struct ql_st *ql_tset_st(const struct ql_tset *s, size_t i) { return i < s->n_st ? s->st[i] : NULL; }

const char *ql_tset_kind_name(enum ql_tset_kind k)
{
	static const char *const names[] = {"safetensors", "GGUF", "QNAT", "Hugging Face directory", "PEFT adapter directory"};

	return names[k];
}

static int by_key(const void *key, const void *t)
{
	return strcmp(key, (*(const struct ql_tset_tensor *const *)t)->name);
}

const struct ql_tset_tensor *ql_tset_find(const struct ql_tset *s, const char *name)
{
	const struct ql_tset_tensor **p = bsearch(name, s->by_name, s->n, sizeof *s->by_name, by_key);

	return p == NULL ? NULL : *p;
}

/* Whole rows of a tensor whose rows are permuted in the file. */
static int read_permuted(const struct ql_tset *s, const struct ql_tset_tensor *t, uint64_t begin, uint64_t count, float *dst,
			 struct ql_err *e)
{
	uint64_t cols = t->shape[t->n_dims - 1];
	struct ql_source_tensor src;
	int rc = ql_source_find(s->source, t->name, &src, e);

	if (rc == QL_OK && (begin % cols != 0 || count % cols != 0))
		rc = ql_err_param(e, QL_ESHAPE, t->name, "tensor %.200s is read in whole rows", t->name);
	return rc == QL_OK ? ql_source_read_f32(s->source, &src, begin / cols, count / cols, dst, e) : rc;
}

int ql_tset_read(const struct ql_tset *s, const struct ql_tset_tensor *t, uint64_t begin, uint64_t count, float *dst,
		 struct ql_err *e)
{
	const struct ql_dtype_info *i;

	if (!t->values)
		return ql_err_param(e, QL_EUNSUPPORTED, t->name, "tensor %.200s: values of type %s cannot be read", t->name, t->type);
	if (begin > t->n || count > t->n - begin)
		return ql_err_param(e, QL_EINVAL, t->name, "tensor %.200s: elements out of range", t->name);
	if (t->qnat != NULL)
		return ql_qnat_read(t->qnat, begin, count, false, dst, e);
	if (t->q4 != NULL)
		return ql_q4_dequantize(t->q4, begin, count, dst, QL_F32, NULL, e);
	if (t->permute != 0)
		return read_permuted(s, t, begin, count, dst, e);
	i = &ql_dtypes[t->dtype];
	if (begin % i->block != 0)
		return ql_err_param(e, QL_EINVAL, t->name, "tensor %.200s is read in whole blocks", t->name);
	return ql_blk_dequantize(t->dtype, (const uint8_t *)t->data + begin / i->block * i->bytes, count, dst, e);
}

void ql_tset_drop(const struct ql_tset *s, const struct ql_tset_tensor *t)
{
	struct ql_source_tensor src;

	if (t->data != NULL)
		ql_map_drop(t->data, t->bytes);
	else if (t->qnat != NULL)
		ql_map_drop(t->qnat->data, t->qnat->bytes);
	else if (t->q4 != NULL) /* its codes lie in the file */
		ql_map_drop(t->q4->codes, t->q4->n / 2);
	else if (t->permute != 0 && ql_source_find(s->source, t->name, &src, NULL) == QL_OK)
		ql_source_drop(s->source, &src);
}
