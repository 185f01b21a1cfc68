/* out_qnat.c - NF4 tensors into a QNAT file; what QNAT cannot hold is left out and counted. */
#include <stdlib.h>
#include <string.h>

#include "tools/priv.h"

static bool fits(const struct tool_job *j, const struct ql_tset_tensor *t)
{
	if (j->type != QL_DTYPE_COUNT)
		return tool_is_weight(j, t) && t->n % j->q4.blocksize == 0;
	if (t->q4 != NULL)
		return t->q4->kind == QL_NF4 && t->n % t->q4->blocksize == 0 &&
		       memcmp(t->q4->code, ql_q4_code(QL_NF4), sizeof t->q4->code) == 0;
	return t->qnat != NULL;
}

static struct ql_qnat_spec spec_of(const struct tool_job *j, const struct ql_tset_tensor *t)
{
	struct ql_qnat_spec s = {.name = t->name, .n_dims = t->n_dims, .block_size = j->q4.blocksize, .nested = j->q4.nested};

	memcpy(s.dims, t->shape, sizeof s.dims);
	if (j->type == QL_DTYPE_COUNT) {
		s.block_size = t->qnat != NULL ? t->qnat->block_size : t->q4->blocksize;
		s.nested = t->qnat != NULL ? t->qnat->nested : t->q4->nested;
	}
	return s;
}

static int write_all(struct tool_job *j, struct ql_qnat_writer *w, struct ql_err *e)
{
	struct tool_job plain = *j; /* QNAT always holds the plain scales: quantise without nesting them */
	int rc = QL_OK;

	plain.q4.nested = false;
	for (size_t i = 0; rc == QL_OK && i < ql_tset_count(j->in); i++) {
		const struct ql_tset_tensor *t = ql_tset_at(j->in, i);
		struct ql_q4 q;

		if (!fits(j, t))
			continue;
		rc = tool_q4(&plain, t, &q, e);
		if (rc != QL_OK)
			break;
		rc = ql_qnat_write_q4(w, &q, e);
		free(q.owned);
		tool_step(j, t->n, t->name);
	}
	return rc;
}

int tool_write_qnat(struct tool_job *j, struct ql_err *e)
{
	const struct ql_qnat *from = ql_tset_qnat(j->in);
	struct ql_qnat_model m = QL_QNAT_MODEL_DEFAULT;
	struct ql_qnat_spec *specs = calloc(ql_tset_count(j->in) + 1, sizeof *specs);
	struct ql_qnat_writer *w = NULL;
	size_t n = 0;
	int rc = QL_OK;

	if (specs == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for a tensor list");
	if (j->type != QL_DTYPE_COUNT && j->type != QL_NF4)
		rc = ql_err_set(e, QL_EUNSUPPORTED, "QNAT holds nf4 only, not %s", j->type_name);
	if (from != NULL)
		m = (struct ql_qnat_model){ql_qnat_model_name(from), ql_qnat_model_type(from), ql_qnat_dtype(from)};
	for (size_t i = 0; i < ql_tset_count(j->in); i++) {
		if (fits(j, ql_tset_at(j->in, i)))
			specs[n++] = spec_of(j, ql_tset_at(j->in, i));
		else
			j->left_out++;
	}
	if (rc == QL_OK && n == 0)
		rc = ql_err_set(e, QL_EUNSUPPORTED, "no tensor of %.200s can be stored in QNAT", j->in_path);
	if (rc == QL_OK)
		rc = ql_qnat_write_begin(&w, j->dirfd, j->file, &m, specs, n, j->compat, e);
	if (rc == QL_OK)
		rc = write_all(j, w, e);
	free(specs);
	if (rc == QL_OK)
		return ql_qnat_write_commit(w, e);
	ql_qnat_write_abort(w);
	return rc;
}
