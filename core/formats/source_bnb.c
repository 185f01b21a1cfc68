/* source_bnb.c - linears of a Hugging Face directory that transformers saved in bitsandbytes' 4-bit form: used as they are.
 * Parts of a fused tensor get scales of their own (nested ones expanded: the same values), since their blocks of nested scales
 * need not begin where the part does. */
#include <stdlib.h>
#include <string.h>

#include "core/formats/bnb.h"
#include "core/formats/source_priv.h"

static const struct ql_st_tensor *find(const void *ctx, const char *name)
{
	const struct ql_source *s = ctx;

	for (size_t i = 0; i < s->n_shards; i++) {
		const struct ql_st_tensor *t = ql_st_find(s->shards[i].st, name);

		if (t != NULL)
			return t;
	}
	return NULL;
}

bool ql_source_is_bnb_part(const struct ql_source *s, const char *name)
{
	return s->arch.stored_4bit && ql_bnb_companion(&(struct ql_bnb_keys){find, s}, name);
}

static void point(struct ql_source *s, size_t i, struct ql_q4 q)
{
	struct ql_source_tensor *t = &s->tensors[i];

	s->q4[i] = q;
	t->q4 = &s->q4[i];
	t->dtype = q.kind;
	t->data = q.codes;
	t->bytes = (size_t)((q.n + 1) / 2);
}

/* Rows of `whole` from `row` on as a tensor of their own. */
static int cut(struct ql_q4 *q, const struct ql_q4 *whole, const struct ql_source_tensor *t, uint64_t row, struct ql_err *e)
{
	uint64_t begin = row * t->cols, blocks;
	int rc;

	if (begin % whole->blocksize != 0)
		return ql_err_param(e, QL_EUNSUPPORTED, t->name, "%s begins within a block of %u", t->name, whole->blocksize);
	*q = (struct ql_q4){.kind = whole->kind, .n = t->n, .blocksize = whole->blocksize, .codes = whole->codes + begin / 2};
	memcpy(q->code, whole->code, sizeof q->code);
	blocks = ql_q4_blocks(q);
	q->owned = q->absmax = malloc((size_t)blocks * sizeof(float));
	if (q->absmax == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for scales");
	rc = ql_q4_absmax(whole, begin / whole->blocksize, blocks, q->absmax);
	return rc == QL_OK ? QL_OK : ql_err_set(e, rc, "%s: scales", t->name);
}

int ql_source_bind_bnb(struct ql_source *s, size_t i, const struct ql_st_tensor *f, struct ql_err *e)
{
	struct ql_arch_tensor a;
	struct ql_bnb_info info;
	struct ql_q4 q;
	int rc = ql_bnb_read(&q, f, &(struct ql_bnb_keys){find, s}, &info, e);

	if (rc != QL_OK)
		return rc;
	ql_arch_tensor_at(&s->arch, i, &a);
	if (info.n_dims != 2 || info.shape[0] != a.file_rows || info.shape[1] != a.cols)
		rc = ql_err_param(e, QL_ESHAPE, f->name, "tensor %s: shape does not fit config.json, [%u, %u] expected", f->name,
				  a.file_rows, a.cols);
	if (rc == QL_OK && !ql_q4_blocksize_ok(q.blocksize))
		rc = ql_err_param(e, QL_EUNSUPPORTED, f->name, "tensor %s: blocks of %u", f->name, q.blocksize);
	if (rc == QL_OK && s->q4 == NULL && (s->q4 = calloc(s->n_tensors, sizeof *s->q4)) == NULL)
		rc = ql_err_set(e, QL_ENOMEM, "no memory for %zu tensors", s->n_tensors);
	if (rc == QL_OK && a.file_parts == 1) {
		point(s, i, q);
		return QL_OK;
	}
	for (uint32_t p = 0, row = 0; rc == QL_OK && p < a.file_parts; row += (uint32_t)s->tensors[i + p].rows, p++) {
		struct ql_q4 part;

		rc = cut(&part, &q, &s->tensors[i + p], row, e);
		if (rc == QL_OK)
			point(s, i + p, part);
	}
	free(q.owned); /* the codes are borrowed */
	return rc;
}

void ql_source_free_bnb(struct ql_source *s)
{
	for (size_t i = 0; s->q4 != NULL && i < s->n_tensors; i++)
		free(s->q4[i].owned);
	free(s->q4);
}
