/* gguf_write.c - the writer; order of calls in gguf.h.
 * KVs and tensor infos are serialised into two buffers as they come; begin() writes magic, counts, both buffers and padding,
 * after that tensor data goes straight to the file. */
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/checked.h"
#include "core/base/io.h"
#include "core/base/limits.h"
#include "core/base/utf8.h"
#include "core/formats/gguf_priv.h"

struct item {
	char *name; /* key or tensor name */
	uint64_t bytes; /* tensors: data bytes without padding */
};

struct table {
	struct item *items;
	size_t n, cap;
};

struct ql_gguf_writer {
	struct table kvs, tensors;
	struct ql_buf kv_bytes, info_bytes;
	uint64_t data_size; /* of the tensors declared so far, padded */
	bool begun;
	struct ql_io_file file;
	size_t at;
	uint64_t done; /* bytes of tensor `at` written */
};

static const uint8_t zeros[QL_GGUF_ALIGNMENT_DEFAULT];

static bool table_has(const struct table *t, const char *name)
{
	for (size_t i = 0; i < t->n; i++)
		if (strcmp(t->items[i].name, name) == 0)
			return true;
	return false;
}

static int table_add(struct table *t, const char *name, size_t max, size_t limit, const char *what, struct ql_err *e)
{
	size_t len = strlen(name);

	if (len == 0 || len > max || !ql_utf8_valid(name, len, NULL))
		return ql_err_param(e, QL_EINVAL, name, "GGUF: bad %s %.100s", what, name);
	if (table_has(t, name))
		return ql_err_param(e, QL_EINVAL, name, "GGUF: %s %.100s is given twice", what, name);
	if (t->n == limit)
		return ql_err_set(e, QL_ELIMIT, "GGUF: more than %zu entries", limit);
	if (t->n == t->cap) {
		size_t cap = t->cap == 0 ? 64 : t->cap * 2;
		struct item *p = realloc(t->items, cap * sizeof *p);

		if (p == NULL)
			return ql_err_set(e, QL_ENOMEM, "no memory for a GGUF table");
		t->items = p;
		t->cap = cap;
	}
	t->items[t->n].name = strdup(name);
	if (t->items[t->n].name == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for a name");
	t->items[t->n++].bytes = 0;
	return QL_OK;
}

static int put_u32(struct ql_buf *b, uint32_t v)
{
	uint8_t x[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)};

	return ql_buf_add(b, x, 4);
}

static int put_u64(struct ql_buf *b, uint64_t v)
{
	int rc = put_u32(b, (uint32_t)v);

	return rc != QL_OK ? rc : put_u32(b, (uint32_t)(v >> 32));
}

static int put_str(struct ql_buf *b, const char *s, size_t len)
{
	int rc = put_u64(b, len);

	return rc != QL_OK || len == 0 ? rc : ql_buf_add(b, s, len);
}

int ql_gguf_write_new(struct ql_gguf_writer **w, struct ql_err *e)
{
	*w = calloc(1, sizeof **w);
	if (*w == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for a GGUF writer");
	(*w)->file.fd = -1;
	return QL_OK;
}

/* Key and type of a value, array header included; a failure later in the value is remembered by no one but the caller, who
 * aborts the writer. */
static int begin_kv(struct ql_gguf_writer *w, const char *key, enum ql_gguf_type type, enum ql_gguf_type elem, uint64_t n,
		    struct ql_err *e)
{
	int rc;

	if (w->begun)
		return ql_err_set(e, QL_ESTATE, "GGUF: keys come before the data");
	if (n > QL_GGUF_ARRAY_MAX)
		return ql_err_param(e, QL_ELIMIT, key, "GGUF: array %.100s is too long", key);
	rc = table_add(&w->kvs, key, QL_NAME_MAX, QL_GGUF_KV_MAX, "key", e);
	if (rc != QL_OK)
		return rc;
	rc = put_str(&w->kv_bytes, key, strlen(key));
	if (rc == QL_OK)
		rc = put_u32(&w->kv_bytes, (uint32_t)type);
	if (rc == QL_OK && type == QL_GGUF_ARRAY)
		rc = put_u32(&w->kv_bytes, (uint32_t)elem);
	if (rc == QL_OK && type == QL_GGUF_ARRAY)
		rc = put_u64(&w->kv_bytes, n);
	return rc == QL_OK ? QL_OK : ql_err_set(e, rc, "no memory for GGUF metadata");
}

static int kv_done(int rc, struct ql_err *e)
{
	return rc == QL_OK ? QL_OK : ql_err_set(e, rc, "no memory for GGUF metadata");
}

/* A scalar whose little-endian bytes are the low `len` bytes of v. */
static int write_scalar(struct ql_gguf_writer *w, const char *key, enum ql_gguf_type type, uint64_t v, unsigned len,
			struct ql_err *e)
{
	uint8_t x[8];
	int rc = begin_kv(w, key, type, type, 1, e);

	if (rc != QL_OK)
		return rc;
	for (unsigned i = 0; i < len; i++)
		x[i] = (uint8_t)(v >> (8 * i));
	return kv_done(ql_buf_add(&w->kv_bytes, x, len), e);
}

static uint32_t bits_of(float v)
{
	uint32_t u;

	memcpy(&u, &v, 4);
	return u;
}

int ql_gguf_write_u32(struct ql_gguf_writer *w, const char *key, uint32_t v, struct ql_err *e)
{
	return write_scalar(w, key, QL_GGUF_U32, v, 4, e);
}

int ql_gguf_write_i32(struct ql_gguf_writer *w, const char *key, int32_t v, struct ql_err *e)
{
	return write_scalar(w, key, QL_GGUF_I32, (uint32_t)v, 4, e);
}

int ql_gguf_write_u64(struct ql_gguf_writer *w, const char *key, uint64_t v, struct ql_err *e)
{
	return write_scalar(w, key, QL_GGUF_U64, v, 8, e);
}

int ql_gguf_write_f32(struct ql_gguf_writer *w, const char *key, float v, struct ql_err *e)
{
	return write_scalar(w, key, QL_GGUF_F32, bits_of(v), 4, e);
}

int ql_gguf_write_bool(struct ql_gguf_writer *w, const char *key, bool v, struct ql_err *e)
{
	return write_scalar(w, key, QL_GGUF_BOOL, v, 1, e);
}

int ql_gguf_write_str(struct ql_gguf_writer *w, const char *key, const char *s, size_t len, struct ql_err *e)
{
	int rc = len > QL_GGUF_STRING_MAX ? ql_err_param(e, QL_ELIMIT, key, "GGUF: string %.100s is too long", key)
					  : begin_kv(w, key, QL_GGUF_STR, QL_GGUF_STR, 1, e);

	return rc != QL_OK ? rc : kv_done(put_str(&w->kv_bytes, s, len), e);
}

int ql_gguf_write_strs(struct ql_gguf_writer *w, const char *key, const struct ql_gguf_str *v, size_t n, struct ql_err *e)
{
	int rc = begin_kv(w, key, QL_GGUF_ARRAY, QL_GGUF_STR, n, e);

	for (size_t i = 0; rc == QL_OK && i < n; i++) {
		if (v[i].len > QL_GGUF_STRING_MAX)
			return ql_err_param(e, QL_ELIMIT, key, "GGUF: a string of %.100s is too long", key);
		rc = kv_done(put_str(&w->kv_bytes, v[i].s, v[i].len), e);
	}
	return rc;
}

int ql_gguf_write_u32s(struct ql_gguf_writer *w, const char *key, const uint32_t *v, size_t n, struct ql_err *e)
{
	int rc = begin_kv(w, key, QL_GGUF_ARRAY, QL_GGUF_U32, n, e);

	for (size_t i = 0; rc == QL_OK && i < n; i++)
		rc = kv_done(put_u32(&w->kv_bytes, v[i]), e);
	return rc;
}

int ql_gguf_write_i32s(struct ql_gguf_writer *w, const char *key, const int32_t *v, size_t n, struct ql_err *e)
{
	int rc = begin_kv(w, key, QL_GGUF_ARRAY, QL_GGUF_I32, n, e);

	for (size_t i = 0; rc == QL_OK && i < n; i++)
		rc = kv_done(put_u32(&w->kv_bytes, (uint32_t)v[i]), e);
	return rc;
}

int ql_gguf_write_f32s(struct ql_gguf_writer *w, const char *key, const float *v, size_t n, struct ql_err *e)
{
	int rc = begin_kv(w, key, QL_GGUF_ARRAY, QL_GGUF_F32, n, e);

	for (size_t i = 0; rc == QL_OK && i < n; i++)
		rc = kv_done(put_u32(&w->kv_bytes, bits_of(v[i])), e);
	return rc;
}

int ql_gguf_write_kv(struct ql_gguf_writer *w, const struct ql_gguf_kv *kv, struct ql_err *e)
{
	int rc = begin_kv(w, kv->key, kv->type, kv->elem, kv->count, e);

	if (rc != QL_OK || kv->bytes == 0)
		return rc;
	return kv_done(ql_buf_add(&w->kv_bytes, kv->data, kv->bytes), e);
}

bool ql_gguf_write_has(const struct ql_gguf_writer *w, const char *key) { return table_has(&w->kvs, key); }

/* Bytes of a tensor; 0 when type or dimensions cannot be. */
static uint64_t tensor_bytes(enum ql_dtype dtype, int n_dims, const uint64_t *ne)
{
	const struct ql_gguf_type_info *info;
	uint64_t n = 1, bytes;

	if ((unsigned)dtype >= QL_DTYPE_COUNT || n_dims < 1 || n_dims > 4)
		return 0;
	info = ql_gguf_type_find(ql_gguf_type_id(dtype));
	if (info == NULL || ne[0] % info->block != 0)
		return 0;
	for (int i = 0; i < n_dims; i++)
		if (!ql_mul_u64(n, ne[i], &n))
			return 0;
	return ql_mul_u64(n / info->block, info->bytes, &bytes) && bytes <= INT64_MAX ? bytes : 0;
}

int ql_gguf_write_tensor(struct ql_gguf_writer *w, const char *name, enum ql_dtype dtype, int n_dims, const uint64_t *ne,
			 struct ql_err *e)
{
	uint64_t bytes = tensor_bytes(dtype, n_dims, ne), next;
	struct ql_buf *b = &w->info_bytes;
	int rc;

	if (w->begun)
		return ql_err_set(e, QL_ESTATE, "GGUF: tensors are declared before the data");
	if (bytes == 0)
		return ql_err_param(e, QL_EINVAL, name, "GGUF: tensor %.80s: type and dimensions do not fit", name);
	if (!ql_add_u64(w->data_size, bytes, &next) || !ql_align_u64(next, QL_GGUF_ALIGNMENT_DEFAULT, &next) ||
	    next > INT64_MAX)
		return ql_err_set(e, QL_EINVAL, "GGUF: file too large");
	rc = table_add(&w->tensors, name, QL_GGUF_TENSOR_NAME_MAX, QL_GGUF_TENSORS_MAX, "tensor", e);
	if (rc != QL_OK)
		return rc;
	w->tensors.items[w->tensors.n - 1].bytes = bytes;
	rc = put_str(b, name, strlen(name));
	if (rc == QL_OK)
		rc = put_u32(b, (uint32_t)n_dims);
	for (int i = 0; rc == QL_OK && i < n_dims; i++)
		rc = put_u64(b, ne[i]);
	if (rc == QL_OK)
		rc = put_u32(b, ql_gguf_type_id(dtype));
	if (rc == QL_OK)
		rc = put_u64(b, w->data_size);
	w->data_size = next;
	return kv_done(rc, e);
}

static int pad(struct ql_gguf_writer *w, struct ql_err *e)
{
	size_t over = (size_t)(w->file.written % QL_GGUF_ALIGNMENT_DEFAULT);

	return over == 0 ? QL_OK : ql_io_write(&w->file, zeros, QL_GGUF_ALIGNMENT_DEFAULT - over, e);
}

int ql_gguf_write_begin(struct ql_gguf_writer *w, int dirfd, const char *file, struct ql_err *e)
{
	struct ql_buf head = {0};
	int rc;

	if (w->begun)
		return ql_err_set(e, QL_ESTATE, "GGUF: begun twice");
	if (w->kv_bytes.len + w->info_bytes.len > QL_GGUF_HEADER_MAX - 64)
		return ql_err_set(e, QL_ELIMIT, "GGUF: header larger than %zu bytes", QL_GGUF_HEADER_MAX);
	rc = ql_buf_add(&head, "GGUF", 4);
	if (rc == QL_OK)
		rc = put_u32(&head, 3);
	if (rc == QL_OK)
		rc = put_u64(&head, w->tensors.n);
	if (rc == QL_OK)
		rc = put_u64(&head, w->kvs.n);
	if (rc != QL_OK)
		rc = ql_err_set(e, rc, "no memory for the GGUF header");
	if (rc == QL_OK)
		rc = ql_io_begin(&w->file, dirfd, file, e);
	if (rc == QL_OK) {
		w->begun = true;
		rc = ql_io_write(&w->file, head.data, head.len, e);
	}
	if (rc == QL_OK && w->kv_bytes.len > 0)
		rc = ql_io_write(&w->file, w->kv_bytes.data, w->kv_bytes.len, e);
	if (rc == QL_OK && w->info_bytes.len > 0)
		rc = ql_io_write(&w->file, w->info_bytes.data, w->info_bytes.len, e);
	if (rc == QL_OK)
		rc = pad(w, e);
	ql_buf_free(&head);
	ql_buf_free(&w->kv_bytes);
	ql_buf_free(&w->info_bytes);
	return rc;
}

size_t ql_gguf_write_next(const struct ql_gguf_writer *w) { return w->at; }

int ql_gguf_write_data(struct ql_gguf_writer *w, const void *data, size_t len, struct ql_err *e)
{
	int rc;

	if (len == 0)
		return QL_OK;
	if (!w->begun || w->at == w->tensors.n || len > w->tensors.items[w->at].bytes - w->done)
		return ql_err_set(e, QL_ESTATE, "GGUF: more bytes than the tensor has");
	rc = ql_io_write(&w->file, data, len, e);
	if (rc != QL_OK)
		return rc;
	w->done += len;
	if (w->done < w->tensors.items[w->at].bytes)
		return QL_OK;
	w->at++;
	w->done = 0;
	return pad(w, e);
}

static void free_table(struct table *t)
{
	for (size_t i = 0; i < t->n; i++)
		free(t->items[i].name);
	free(t->items);
}

static void free_writer(struct ql_gguf_writer *w)
{
	free_table(&w->kvs);
	free_table(&w->tensors);
	ql_buf_free(&w->kv_bytes);
	ql_buf_free(&w->info_bytes);
	free(w);
}

int ql_gguf_write_commit(struct ql_gguf_writer *w, struct ql_err *e)
{
	int rc;

	if (!w->begun || w->at != w->tensors.n) {
		const char *name = w->at < w->tensors.n ? w->tensors.items[w->at].name : "";

		rc = ql_err_param(e, QL_ESTATE, name, "GGUF: tensor %.80s is not written completely", name);
		ql_io_abort(&w->file);
	} else {
		rc = ql_io_commit(&w->file, e);
	}
	free_writer(w);
	return rc;
}

void ql_gguf_write_abort(struct ql_gguf_writer *w)
{
	if (w == NULL)
		return;
	ql_io_abort(&w->file);
	free_writer(w);
}
