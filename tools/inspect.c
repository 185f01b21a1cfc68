/* inspect.c - qlorad inspect: header, metadata, tensor table, bits per weight and validity of one container. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "tools/priv.h"

#define ARRAY_SHOWN 8
#define TEXT_SHOWN 200
#define PIECE ((uint64_t)1 << 20)

static const char help[] =
	"usage: qlorad inspect FILE [--json] [--values]\n\n"
	"Shows what a GGUF, safetensors or QNAT file, a Hugging Face directory or an adapter directory holds: header, metadata,\n"
	"tensors with type, shape and size, bits per weight.  Opening it checks every rule of the format.\n\n"
	"  --json    one JSON object on standard output\n"
	"  --values  also read every tensor and look for NaN and infinite values\n\n"
	"exit status: 0 valid; 1 refused, or values that are not finite; 64 wrong usage\n";

static json_t *text(const char *s, size_t len)
{
	json_t *v = json_stringn(s, len > TEXT_SHOWN ? TEXT_SHOWN : len);

	while (v == NULL && len > 0 && len > TEXT_SHOWN - 4) /* cut inside a character */
		v = json_stringn(s, --len > TEXT_SHOWN ? TEXT_SHOWN : len);
	return v == NULL ? json_string("(not UTF-8)") : v;
}

/* One scalar of a KV; *p advances.  The reader has checked the bounds. */
static json_t *scalar(enum ql_gguf_type type, const uint8_t **p)
{
	static const uint8_t sizes[QL_GGUF_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};
	uint64_t u = 0;
	json_t *v;

	memcpy(&u, *p, sizes[type]);
	*p += sizes[type];
	switch (type) {
	case QL_GGUF_I8: return json_integer((int8_t)u);
	case QL_GGUF_I16: return json_integer((int16_t)u);
	case QL_GGUF_I32: return json_integer((int32_t)u);
	case QL_GGUF_BOOL: return json_boolean(u != 0);
	case QL_GGUF_F32: {
		float f;

		memcpy(&f, &u, 4);
		v = ql_json_real((double)f);
		return v == NULL ? json_null() : v;
	}
	case QL_GGUF_F64: {
		double d;

		memcpy(&d, &u, 8);
		v = ql_json_real(d);
		return v == NULL ? json_null() : v;
	}
	case QL_GGUF_STR:
		v = text((const char *)*p, u);
		*p += u;
		return v;
	default: return u <= INT64_MAX ? json_integer((json_int_t)u) : json_real((double)u);
	}
}

static json_t *gguf_metadata(const struct ql_gguf *g)
{
	json_t *all = json_object();

	for (size_t i = 0; i < ql_gguf_kv_count(g); i++) {
		const struct ql_gguf_kv *kv = ql_gguf_kv_at(g, i);
		const uint8_t *p = kv->data;
		json_t *v;

		if (kv->type != QL_GGUF_ARRAY) {
			v = scalar(kv->type, &p);
		} else {
			json_t *first = json_array();

			for (uint64_t k = 0; k < kv->count && k < ARRAY_SHOWN; k++)
				(void)json_array_append_new(first, scalar(kv->elem, &p));
			v = json_pack("{s:I, s:o}", "count", (json_int_t)kv->count, "first", first);
		}
		(void)json_object_set_new(all, kv->key, v);
	}
	return all;
}

/* The directory's own JSON: sizes of a model, rank and targets of an adapter. */
static void add_config(json_t *h, const struct ql_tset *s, const char *path)
{
	bool peft = ql_tset_kind(s) == QL_TSET_PEFT;
	struct ql_buf text = {0};
	json_t *v = NULL;
	char file[4096];

	if (!peft && ql_tset_kind(s) != QL_TSET_HF)
		return;
	(void)snprintf(file, sizeof file, "%s/%s", path, peft ? "adapter_config.json" : "config.json");
	if (ql_io_read_file(file, QL_CONFIG_JSON_MAX, &text, NULL) == QL_OK &&
	    ql_json_parse(text.data, text.len, QL_CONFIG_JSON_MAX, &v, NULL) == QL_OK)
		(void)json_object_set_new(h, "config", v);
	else
		(void)json_object_set_new(h, "warning", json_string(peft ? "adapter_config.json is missing or no JSON"
									  : "config.json is missing or no JSON"));
	ql_buf_free(&text);
}

static json_t *header(const struct ql_tset *s, const char *path)
{
	const struct ql_qnat *q = ql_tset_qnat(s);
	json_t *h = json_object();

	(void)json_object_set_new(h, "kind", json_string(ql_tset_kind_name(ql_tset_kind(s))));
	if (ql_tset_gguf(s) != NULL) {
		(void)json_object_set_new(h, "version", json_integer(ql_gguf_version(ql_tset_gguf(s))));
		(void)json_object_set_new(h, "alignment", json_integer(ql_gguf_alignment(ql_tset_gguf(s))));
		(void)json_object_set_new(h, "metadata", gguf_metadata(ql_tset_gguf(s)));
	} else if (q != NULL) {
		(void)json_object_set_new(h, "version", json_integer(1));
		(void)json_object_set_new(h, "model_name", json_string(ql_qnat_model_name(q)));
		(void)json_object_set_new(h, "model_type", json_string(ql_qnat_model_type(q)));
		(void)json_object_set_new(h, "dtype", json_string(ql_dtype_name(ql_qnat_dtype(q))));
		(void)json_object_set_new(h, "offsets", json_string(ql_qnat_offsets_true(q) ? "true" : "off by a constant"));
	} else {
		size_t n = 0;

		while (ql_tset_st(s, n) != NULL)
			n++;
		(void)json_object_set_new(h, "weight_files", json_integer((json_int_t)n));
		if (n == 1 && ql_st_metadata(ql_tset_st(s, 0), "format") != NULL)
			(void)json_object_set_new(h, "format", json_string(ql_st_metadata(ql_tset_st(s, 0), "format")));
		add_config(h, s, path);
	}
	return h;
}

static json_t *tensor(const struct ql_tset_tensor *t)
{
	json_t *shape = json_array(), *o;

	for (int d = 0; d < t->n_dims; d++)
		(void)json_array_append_new(shape, json_integer((json_int_t)t->shape[d]));
	o = json_pack("{s:s, s:s, s:o, s:I, s:I}", "name", t->name, "type", t->type, "shape", shape, "elements",
		      (json_int_t)t->n, "bytes", (json_int_t)t->bytes);
	if (t->q4 != NULL) {
		(void)json_object_set_new(o, "block_size", json_integer(t->q4->blocksize));
		(void)json_object_set_new(o, "double_quantised", json_boolean(t->q4->nested));
	} else if (t->qnat != NULL) {
		(void)json_object_set_new(o, "block_size", json_integer(t->qnat->block_size));
		(void)json_object_set_new(o, "double_quantised", json_boolean(t->qnat->nested));
		(void)json_object_set_new(o, "zero_points", json_boolean(t->qnat->zero_points));
		if (!t->qnat->nested_plausible)
			(void)json_object_set_new(o, "warning", json_string("the double-quantised scales differ from the scales"));
	}
	return o;
}

/* Index of the first value that is not finite, or UINT64_MAX. */
static int find_nonfinite(const struct ql_tset *s, const struct ql_tset_tensor *t, uint64_t *at, struct ql_err *e)
{
	uint64_t cols = t->n_dims > 0 && t->shape[t->n_dims - 1] > 0 ? t->shape[t->n_dims - 1] : 1;
	uint64_t piece = cols <= PIECE ? PIECE / cols * cols : PIECE;
	float *x = malloc(piece * sizeof *x);
	int rc = x == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for a piece of a tensor") : QL_OK;

	*at = UINT64_MAX;
	for (uint64_t i = 0; rc == QL_OK && *at == UINT64_MAX && i < t->n; i += piece) {
		uint64_t n = t->n - i < piece ? t->n - i : piece;

		rc = ql_tset_read(s, t, i, n, x, e);
		ql_tset_drop(s, t);
		for (uint64_t k = 0; rc == QL_OK && k < n && *at == UINT64_MAX; k++)
			if (!isfinite(x[k]))
				*at = i + k;
	}
	free(x);
	return rc;
}

static int check_values(const struct ql_tset *s, json_t *tensors, bool *finite, struct ql_err *e)
{
	struct tool_progress p;
	int rc = QL_OK;

	tool_progress_start(&p);
	for (size_t i = 0; rc == QL_OK && i < ql_tset_count(s); i++) {
		const struct ql_tset_tensor *t = ql_tset_at(s, i);
		uint64_t at;

		tool_progress_at(&p, (double)i / (double)ql_tset_count(s), t->name);
		if (!t->values)
			continue;
		rc = find_nonfinite(s, t, &at, e);
		if (rc == QL_OK && at != UINT64_MAX) {
			(void)json_object_set_new(json_array_get(tensors, i), "not_finite_at", json_integer((json_int_t)at));
			*finite = false;
		}
	}
	tool_progress_end(&p);
	return rc;
}

static void print_plain(json_t *o)
{
	const char *key;
	json_t *v, *h = json_object_get(o, "header"), *list = json_object_get(o, "tensors");
	size_t i;

	json_object_foreach(h, key, v) {
		const char *k2;
		json_t *v2;

		if (json_is_object(v)) {
			json_object_foreach(v, k2, v2) {
				char *s = json_dumps(v2, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9));

				(void)printf("  %-44s %s\n", k2, s);
				free(s);
			}
		} else {
			char *s = json_dumps(v, JSON_ENCODE_ANY);

			(void)printf("%s: %s\n", key, s);
			free(s);
		}
	}
	(void)printf("\n%-52s %-8s %14s  shape\n", "tensor", "type", "bytes");
	json_array_foreach(list, i, v) {
		char *s = json_dumps(json_object_get(v, "shape"), 0);

		(void)printf("%-52s %-8s %14lld  %s%s\n", json_string_value(json_object_get(v, "name")),
			     json_string_value(json_object_get(v, "type")),
			     (long long)json_integer_value(json_object_get(v, "bytes")), s,
			     json_object_get(v, "not_finite_at") != NULL ? "  NOT FINITE" : "");
		free(s);
	}
	(void)printf("\n%lld tensors, %lld weights, %lld bytes, %.4f bits per weight\n",
		     (long long)json_array_size(list), (long long)json_integer_value(json_object_get(o, "elements")),
		     (long long)json_integer_value(json_object_get(o, "bytes")),
		     json_number_value(json_object_get(o, "bits_per_weight")));
}

int tool_inspect(int argc, char **argv)
{
	bool json, values, finite = true;
	struct ql_tset *s = NULL;
	struct ql_err e = {0};
	json_t *o, *list;
	uint64_t n = 0, bytes = 0;
	int rc;

	if (tool_flag(&argc, argv, "--help") || tool_flag(&argc, argv, "-h"))
		return (void)fputs(help, stdout), TOOL_OK;
	json = tool_flag(&argc, argv, "--json");
	values = tool_flag(&argc, argv, "--values");
	if (!tool_args_ok(argc, argv, 1, false))
		return TOOL_USAGE;
	rc = ql_tset_open(&s, argv[1], false, &e);
	if (rc != QL_OK)
		return tool_fail("inspect", &e);
	list = json_array();
	for (size_t i = 0; i < ql_tset_count(s); i++) {
		(void)json_array_append_new(list, tensor(ql_tset_at(s, i)));
		n += ql_tset_at(s, i)->n;
		bytes += ql_tset_at(s, i)->bytes;
	}
	if (values)
		rc = check_values(s, list, &finite, &e);
	o = json_pack("{s:o, s:o, s:I, s:I, s:b}", "header", header(s, argv[1]), "tensors", list, "elements", (json_int_t)n,
		      "bytes", (json_int_t)bytes, "valid", rc == QL_OK && finite);
	(void)json_object_set_new(o, "bits_per_weight", json_real(n == 0 ? 0.0 : 8.0 * (double)bytes / (double)n));
	if (json) {
		(void)json_dumpf(o, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
		(void)putchar('\n');
	} else {
		print_plain(o);
	}
	json_decref(o);
	ql_tset_close(s);
	if (rc != QL_OK)
		return tool_fail("inspect", &e);
	return finite ? TOOL_OK : TOOL_FAILED;
}
