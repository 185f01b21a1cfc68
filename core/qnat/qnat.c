/* qnat.c - opening, closing, look-up and reading of values; the parser is qnat_parse.c. */
#include <stdlib.h>
#include <string.h>

#include "core/qnat/qnat_priv.h"

/* Takes over *map; parses what `file` points to. */
static int open_bytes(struct ql_qnat **out, struct ql_map *map, const void *file, size_t size, struct ql_err *e)
{
	struct ql_qnat *q = calloc(1, sizeof *q);
	int rc;

	if (q == NULL) {
		ql_map_free(map);
		return ql_err_set(e, QL_ENOMEM, "no memory for a QNAT reader");
	}
	q->map = *map;
	q->file = file;
	q->size = size;
	rc = ql_qnat_parse(q, e);
	if (rc != QL_OK)
		ql_qnat_close(q);
	else
		*out = q;
	return rc;
}

int ql_qnat_open_mem(struct ql_qnat **out, const void *data, size_t size, struct ql_err *e)
{
	struct ql_map none = {0};

	*out = NULL;
	return open_bytes(out, &none, data, size, e);
}

int ql_qnat_open(struct ql_qnat **out, const char *path, struct ql_err *e)
{
	struct ql_map map;
	int rc;

	*out = NULL;
	rc = ql_map_file(&map, path, e);
	if (rc == QL_OK)
		rc = open_bytes(out, &map, map.base, map.size, e);
	if (rc != QL_OK)
		(void)ql_err_prefix(e, "%.200s", path);
	return rc;
}

void ql_qnat_close(struct ql_qnat *q)
{
	if (q == NULL)
		return;
	for (size_t i = 0; i < q->n; i++)
		free((void *)(uintptr_t)q->t[i].name);
	free(q->t);
	free(q->by_name);
	free(q->model_name);
	free(q->model_type);
	ql_map_free(&q->map);
	free(q);
}

size_t ql_qnat_count(const struct ql_qnat *q) { return q->n; }
const struct ql_qnat_tensor *ql_qnat_at(const struct ql_qnat *q, size_t i) { return &q->t[i]; }
const char *ql_qnat_model_name(const struct ql_qnat *q) { return q->model_name; }
const char *ql_qnat_model_type(const struct ql_qnat *q) { return q->model_type; }
enum ql_dtype ql_qnat_dtype(const struct ql_qnat *q) { return q->dtype; }
bool ql_qnat_offsets_true(const struct ql_qnat *q) { return q->offsets_true; }

static int by_key(const void *key, const void *t)
{
	return strcmp(key, (*(const struct ql_qnat_tensor *const *)t)->name);
}

const struct ql_qnat_tensor *ql_qnat_find(const struct ql_qnat *q, const char *name)
{
	const struct ql_qnat_tensor **p = bsearch(name, q->by_name, q->n, sizeof *q->by_name, by_key);

	return p == NULL ? NULL : *p;
}

int ql_qnat_read(const struct ql_qnat_tensor *t, uint64_t begin, uint64_t count, bool as_written, float *dst,
		 struct ql_err *e)
{
	const uint8_t *scales = t->data + t->n / 2, *zeros = scales + 4 * (size_t)t->num_blocks;
	const float *level = ql_q4_code(QL_NF4);

	if (begin > t->n || count > t->n - begin)
		return ql_err_param(e, QL_EINVAL, t->name, "tensor %.200s has %llu elements, asked for %llu from %llu", t->name,
				    (unsigned long long)t->n, (unsigned long long)count, (unsigned long long)begin);
	for (uint64_t i = begin; i < begin + count;) {
		uint64_t block = i / t->block_size, end = (block + 1) * t->block_size;
		float scale = ql_qnat_f32(scales + 4 * block);
		float zero = as_written && t->zero_points ? ql_qnat_f32(zeros + 4 * block) : 0;

		for (end = end < begin + count ? end : begin + count; i < end; i++) {
			unsigned byte = t->data[i / 2], code = i % 2 == 0 ? byte & 15 : byte >> 4;

			*dst++ = (level[code] + zero) * scale;
		}
	}
	return QL_OK;
}

int ql_qnat_to_q4(const struct ql_qnat_tensor *t, struct ql_q4 *out, struct ql_err *e)
{
	size_t head = 4 * (size_t)t->num_blocks, half = t->n / 2;
	uint8_t *p = malloc(head + half);

	*out = (struct ql_q4){.kind = QL_NF4, .n = t->n, .blocksize = t->block_size, .owned = p};
	if (p == NULL)
		return ql_err_param(e, QL_ENOMEM, t->name, "no memory for tensor %.200s", t->name);
	out->per_channel = !ql_q4_blocksize_ok(t->block_size);
	memcpy(out->code, ql_q4_code(QL_NF4), sizeof out->code);
	out->absmax = (float *)(void *)p;
	out->codes = p + head;
	for (size_t i = 0; i < t->num_blocks; i++)
		out->absmax[i] = ql_qnat_f32(t->data + half + 4 * i);
	for (size_t i = 0; i < half; i++)
		out->codes[i] = (uint8_t)(t->data[i] << 4 | t->data[i] >> 4);
	return QL_OK;
}
