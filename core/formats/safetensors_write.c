/* safetensors_write.c - the writer; format and order in safetensors.h. */
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/checked.h"
#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/utf8.h"
#include "core/formats/safetensors.h"

static const char *const type_names[QL_DTYPE_COUNT] = {
	[QL_F32] = "F32", [QL_F16] = "F16", [QL_BF16] = "BF16", [QL_F64] = "F64", [QL_I8] = "I8",
	[QL_U8] = "U8",	  [QL_I16] = "I16", [QL_U16] = "U16",	[QL_I32] = "I32", [QL_U32] = "U32",
	[QL_I64] = "I64", [QL_U64] = "U64", [QL_BOOL] = "BOOL",
};

struct slot {
	char *name;
	size_t spec;  /* index into the caller's list */
	size_t align; /* bytes of one element */
	uint64_t bytes;
};

struct ql_st_writer {
	struct ql_io_file file;
	struct slot *slots; /* in writing order */
	size_t n, at;
	uint64_t done; /* bytes of slots[at] written */
};

static int slot_order(const void *a, const void *b)
{
	const struct slot *x = a, *y = b;

	if (x->align != y->align)
		return x->align > y->align ? -1 : 1;
	return strcmp(x->name, y->name);
}

static int fill_slot(struct slot *s, const struct ql_st_spec *spec, size_t index, struct ql_err *e)
{
	size_t len = spec->name == NULL ? 0 : strlen(spec->name);

	if (len == 0 || len > QL_NAME_MAX || !ql_utf8_valid(spec->name, len, NULL))
		return ql_err_set(e, QL_EINVAL, "bad tensor name for safetensors");
	if ((unsigned)spec->dtype >= QL_DTYPE_COUNT || type_names[spec->dtype] == NULL || spec->n_dims < 0 ||
	    spec->n_dims > QL_ST_DIMS_MAX)
		return ql_err_param(e, QL_EINVAL, spec->name, "tensor %.200s: bad type or dimensions", spec->name);
	s->spec = index;
	s->align = ql_dtypes[spec->dtype].bytes;
	s->bytes = s->align;
	for (int i = 0; i < spec->n_dims; i++)
		if (!ql_mul_u64(s->bytes, spec->shape[i], &s->bytes) || s->bytes > INT64_MAX)
			return ql_err_param(e, QL_EINVAL, spec->name, "tensor %.200s: too large", spec->name);
	s->name = strdup(spec->name);
	return s->name == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for a tensor name") : QL_OK;
}

static int name_order(const void *a, const void *b)
{
	return strcmp(((const struct slot *)a)->name, ((const struct slot *)b)->name);
}

/* Refuses repeated names and sizes beyond a file, then puts the slots in writing order. */
static int sort_slots(struct ql_st_writer *w, struct ql_err *e)
{
	uint64_t total = 0;

	qsort(w->slots, w->n, sizeof *w->slots, name_order);
	for (size_t i = 0; i < w->n; i++) {
		if (!ql_add_u64(total, w->slots[i].bytes, &total) || total > INT64_MAX)
			return ql_err_set(e, QL_EINVAL, "safetensors file too large");
		if (i > 0 && strcmp(w->slots[i - 1].name, w->slots[i].name) == 0)
			return ql_err_param(e, QL_EINVAL, w->slots[i].name, "tensor %.200s occurs twice", w->slots[i].name);
	}
	qsort(w->slots, w->n, sizeof *w->slots, slot_order);
	return QL_OK;
}

/* __metadata__: the format, and the notes by name. */
static int add_metadata(const struct ql_st_writer *w, const char *const *notes, struct ql_buf *b)
{
	json_t *m = json_pack("{s:s}", "format", "pt");
	bool bad = m == NULL;
	char *text;
	int rc;

	for (size_t i = 0; !bad && notes != NULL && i < w->n; i++)
		if (notes[w->slots[i].spec] != NULL)
			bad = json_object_set_new(m, w->slots[i].name, json_string(notes[w->slots[i].spec])) != 0;
	text = bad ? NULL : ql_json_text(m);
	rc = text == NULL ? QL_ENOMEM : ql_buf_addf(b, "{\"__metadata__\":%s", text);
	json_decref(m);
	free(text);
	return rc;
}

/* The header's JSON text, without padding. */
static int make_header(const struct ql_st_writer *w, const struct ql_st_spec *specs, const char *const *notes, struct ql_buf *b,
		       struct ql_err *e)
{
	uint64_t at = 0;
	int rc = add_metadata(w, notes, b);

	for (size_t i = 0; rc == QL_OK && i < w->n; i++) {
		const struct slot *s = &w->slots[i];
		const struct ql_st_spec *spec = &specs[s->spec];
		json_t *name = json_string(s->name);
		char *text = name == NULL ? NULL : ql_json_text(name);

		json_decref(name);
		if (text == NULL) {
			rc = QL_ENOMEM;
			break;
		}
		rc = ql_buf_addf(b, ",%s:{\"dtype\":\"%s\",\"shape\":[", text, type_names[spec->dtype]);
		free(text);
		for (int d = 0; rc == QL_OK && d < spec->n_dims; d++)
			rc = ql_buf_addf(b, "%s%llu", d > 0 ? "," : "", (unsigned long long)spec->shape[d]);
		if (rc == QL_OK)
			rc = ql_buf_addf(b, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at,
					 (unsigned long long)(at + s->bytes));
		at += s->bytes;
	}
	if (rc == QL_OK)
		rc = ql_buf_addc(b, '}');
	while (rc == QL_OK && b->len % 8 != 0)
		rc = ql_buf_addc(b, ' ');
	if (rc != QL_OK)
		return ql_err_set(e, rc, "no memory for the safetensors header");
	if (b->len > QL_ST_HEADER_MAX)
		return ql_err_set(e, QL_ELIMIT, "safetensors header of %zu bytes", b->len);
	return QL_OK;
}

static void free_writer(struct ql_st_writer *w)
{
	for (size_t i = 0; i < w->n; i++)
		free(w->slots[i].name);
	free(w->slots);
	free(w);
}

/* Steps over tensors that are complete (empty ones at once). */
static void settle(struct ql_st_writer *w)
{
	while (w->at < w->n && w->done == w->slots[w->at].bytes) {
		w->at++;
		w->done = 0;
	}
}

int ql_st_write_begin(struct ql_st_writer **out, int dirfd, const char *file, const struct ql_st_spec *specs, size_t n,
		      struct ql_err *e)
{
	return ql_st_write_begin_notes(out, dirfd, file, specs, NULL, n, e);
}

int ql_st_write_begin_notes(struct ql_st_writer **out, int dirfd, const char *file, const struct ql_st_spec *specs,
			    const char *const *notes, size_t n, struct ql_err *e)
{
	struct ql_st_writer *w = NULL;
	struct ql_buf header = {0};
	uint8_t len[8];
	int rc = QL_OK;

	*out = NULL;
	if (n > QL_ST_TENSORS_MAX)
		return ql_err_set(e, QL_ELIMIT, "more than %d tensors", QL_ST_TENSORS_MAX);
	w = calloc(1, sizeof *w);
	if (w != NULL)
		w->slots = calloc(n + 1, sizeof *w->slots);
	if (w == NULL || w->slots == NULL) {
		free(w);
		return ql_err_set(e, QL_ENOMEM, "no memory for a safetensors writer");
	}
	w->n = n;
	w->file.fd = -1;
	for (size_t i = 0; rc == QL_OK && i < n; i++)
		rc = fill_slot(&w->slots[i], &specs[i], i, e);
	if (rc != QL_OK)
		goto cleanup;
	rc = sort_slots(w, e);
	if (rc == QL_OK)
		rc = make_header(w, specs, notes, &header, e);
	if (rc == QL_OK)
		rc = ql_io_begin(&w->file, dirfd, file, e);
	if (rc != QL_OK)
		goto cleanup;
	for (int i = 0; i < 8; i++)
		len[i] = (uint8_t)((uint64_t)header.len >> (8 * i));
	rc = ql_io_write(&w->file, len, sizeof len, e);
	if (rc == QL_OK)
		rc = ql_io_write(&w->file, header.data, header.len, e);
cleanup:
	ql_buf_free(&header);
	if (rc != QL_OK) {
		ql_io_abort(&w->file);
		free_writer(w);
		return rc;
	}
	settle(w);
	*out = w;
	return QL_OK;
}

size_t ql_st_write_next(const struct ql_st_writer *w) { return w->at < w->n ? w->slots[w->at].spec : w->n; }

int ql_st_write_data(struct ql_st_writer *w, const void *data, size_t len, struct ql_err *e)
{
	int rc;

	if (len == 0)
		return QL_OK;
	if (w->at == w->n || len > w->slots[w->at].bytes - w->done)
		return ql_err_set(e, QL_ESTATE, "more bytes than the tensor has");
	rc = ql_io_write(&w->file, data, len, e);
	if (rc != QL_OK)
		return rc;
	w->done += len;
	settle(w);
	return QL_OK;
}

int ql_st_write_commit(struct ql_st_writer *w, struct ql_err *e)
{
	int rc;

	if (w->at != w->n) {
		rc = ql_err_param(e, QL_ESTATE, w->slots[w->at].name, "tensor %.200s is not written completely",
				  w->slots[w->at].name);
		ql_io_abort(&w->file);
	} else {
		rc = ql_io_commit(&w->file, e);
	}
	free_writer(w);
	return rc;
}

void ql_st_write_abort(struct ql_st_writer *w)
{
	if (w == NULL)
		return;
	ql_io_abort(&w->file);
	free_writer(w);
}
