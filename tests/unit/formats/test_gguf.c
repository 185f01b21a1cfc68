/* test_gguf.c - reader at its limits, hostile headers, truncation at every byte, writer → reader, golden bytes. */
#include <math.h>

#include "core/base/limits.h"
#include "core/formats/gguf.h"
#include "tests/unit/scratch.h"

/* A GGUF file under construction, with any numbers one likes. */
struct raw {
	struct ql_buf b;
};

static void put(struct raw *r, uint64_t v, int bytes)
{
	for (int i = 0; i < bytes; i++)
		assert_int_equal(ql_buf_addc(&r->b, (char)(v >> (8 * i))), QL_OK);
}

static void put_text(struct raw *r, const char *s, size_t len)
{
	put(r, len, 8);
	for (size_t i = 0; i < len; i++)
		assert_int_equal(ql_buf_addc(&r->b, s[i]), QL_OK);
}

static void head(struct raw *r, uint32_t version, uint64_t tensors, uint64_t kvs)
{
	ql_buf_reset(&r->b);
	assert_int_equal(ql_buf_add(&r->b, "GGUF", 4), QL_OK);
	put(r, version, 4);
	put(r, tensors, 8);
	put(r, kvs, 8);
}

static void kv_u32(struct raw *r, const char *key, uint32_t v)
{
	put_text(r, key, strlen(key));
	put(r, QL_GGUF_U32, 4);
	put(r, v, 4);
}

static void info(struct raw *r, const char *name, uint32_t n_dims, const uint64_t *ne, uint32_t type, uint64_t offset)
{
	put_text(r, name, strlen(name));
	put(r, n_dims, 4);
	for (uint32_t i = 0; i < n_dims; i++)
		put(r, ne[i], 8);
	put(r, type, 4);
	put(r, offset, 8);
}

static void data(struct raw *r, size_t align, size_t n)
{
	while (r->b.len % align != 0)
		put(r, 0, 1);
	for (size_t i = 0; i < n; i++)
		put(r, i & 0xff, 1);
}

/* Opens from an exact-size copy, so that a read past the end is seen by sanitizers. */
static int try_open(const struct raw *r, struct ql_err *e)
{
	uint8_t *p = malloc(r->b.len + 1);
	struct ql_gguf *g;
	int rc;

	assert_non_null(p);
	p = realloc(p, r->b.len == 0 ? 1 : r->b.len);
	assert_non_null(p);
	memcpy(p, r->b.data, r->b.len);
	*e = (struct ql_err){0};
	rc = ql_gguf_open_mem(&g, p, r->b.len, e);
	assert_true((rc == QL_OK) == (g != NULL));
	assert_int_equal(rc, e->code);
	ql_gguf_close(g);
	free(p);
	return rc;
}

static void expect(const struct raw *r, int code, const char *word)
{
	struct ql_err e;
	int rc = try_open(r, &e);

	if (rc != code || (word != NULL && strstr(e.message, word) == NULL))
		fail_msg("expected %d with '%s', got %d: %s", code, word, rc, e.message);
}

static void header_faults(void **state)
{
	struct raw r = {0};

	(void)state;
	head(&r, 3, 0, 0);
	expect(&r, QL_OK, NULL);
	head(&r, 2, 0, 0);
	expect(&r, QL_OK, NULL);
	head(&r, 1, 0, 0);
	expect(&r, QL_EUNSUPPORTED, "version 1");
	head(&r, 4, 0, 0);
	expect(&r, QL_EUNSUPPORTED, "version 4");
	head(&r, 3u << 24, 0, 0);
	expect(&r, QL_EUNSUPPORTED, "big-endian");
	head(&r, 3, QL_GGUF_TENSORS_MAX + 1, 0);
	expect(&r, QL_ELIMIT, NULL);
	head(&r, 3, 0, QL_GGUF_KV_MAX + 1);
	expect(&r, QL_ELIMIT, NULL);
	head(&r, 3, UINT64_MAX, UINT64_MAX);
	expect(&r, QL_ELIMIT, NULL);
	head(&r, 3, 0, 5);
	expect(&r, QL_EFORMAT, "ends inside");
	r.b.data[0] = 'X';
	expect(&r, QL_EFORMAT, "not a GGUF");
	ql_buf_free(&r.b);
}

static void kv_faults(void **state)
{
	struct raw r = {0};

	(void)state;
	head(&r, 3, 0, 2);
	kv_u32(&r, "a", 1);
	kv_u32(&r, "a", 2);
	expect(&r, QL_EFORMAT, "twice");
	head(&r, 3, 0, 1);
	kv_u32(&r, "", 1);
	expect(&r, QL_EFORMAT, "key");
	head(&r, 3, 0, 1);
	put_text(&r, "a\0b", 3);
	put(&r, QL_GGUF_U8, 4);
	put(&r, 1, 1);
	expect(&r, QL_EFORMAT, "key");
	head(&r, 3, 0, 1);
	put_text(&r, "a", 1);
	put(&r, QL_GGUF_TYPES, 4);
	expect(&r, QL_EFORMAT, "value type");
	head(&r, 3, 0, 1);
	put_text(&r, "a", 1);
	put(&r, QL_GGUF_BOOL, 4);
	put(&r, 2, 1);
	expect(&r, QL_EFORMAT, "bool");
	head(&r, 3, 0, 1); /* array of arrays */
	put_text(&r, "a", 1);
	put(&r, QL_GGUF_ARRAY, 4);
	put(&r, QL_GGUF_ARRAY, 4);
	put(&r, 1, 8);
	expect(&r, QL_EFORMAT, "element type");
	head(&r, 3, 0, 1); /* more elements than the limit, and than the file */
	put_text(&r, "a", 1);
	put(&r, QL_GGUF_ARRAY, 4);
	put(&r, QL_GGUF_F64, 4);
	put(&r, QL_GGUF_ARRAY_MAX + 1ull, 8);
	expect(&r, QL_ELIMIT, "array");
	head(&r, 3, 0, 1);
	put_text(&r, "a", 1);
	put(&r, QL_GGUF_ARRAY, 4);
	put(&r, QL_GGUF_STR, 4);
	put(&r, QL_GGUF_ARRAY_MAX, 8);
	expect(&r, QL_EFORMAT, "ends inside");
	head(&r, 3, 0, 1);
	put_text(&r, "a", 1);
	put(&r, QL_GGUF_STR, 4);
	put(&r, QL_GGUF_STRING_MAX + 1, 8);
	expect(&r, QL_ELIMIT, "string");
	head(&r, 3, 0, 1);
	put_text(&r, "a", 1);
	put(&r, QL_GGUF_STR, 4);
	put(&r, UINT64_MAX, 8);
	expect(&r, QL_ELIMIT, "string");
	head(&r, 3, 0, 1);
	put(&r, QL_NAME_MAX + 1, 8);
	data(&r, 1, QL_NAME_MAX + 100);
	expect(&r, QL_ELIMIT, "key");
	ql_buf_free(&r.b);
}

static void alignments(void **state)
{
	static const struct { uint32_t align; int code; } cases[] = {
		{1, QL_OK}, {8, QL_OK}, {4096, QL_OK}, {8192, QL_EFORMAT}, {0, QL_EFORMAT}, {48, QL_EFORMAT}, {1u << 31, QL_EFORMAT}};
	static const uint64_t ne[] = {3};
	struct raw r = {0};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		uint32_t a = cases[i].align, step = a >= 1 && a <= 4096 && (a & (a - 1)) == 0 ? a : 32;

		head(&r, 3, 2, 1);
		kv_u32(&r, "general.alignment", a);
		info(&r, "x", 1, ne, 0, 0);
		info(&r, "y", 1, ne, 0, (12 + step - 1) / step * step);
		data(&r, step, 12);
		data(&r, step, 12);
		expect(&r, cases[i].code, cases[i].code == QL_OK ? NULL : "alignment");
	}
	ql_buf_free(&r.b);
}

static void tensor_faults(void **state)
{
	static const uint64_t one[] = {32, 2, 1, 1}, zero[] = {32, 0}, odd[] = {33, 1}, huge[] = {1ull << 40, 1ull << 40},
			      wrap[] = {1ull << 62, 1}, deep[] = {32, 1, 1, 1, 1};
	static const struct { const char *name; uint32_t n; const uint64_t *ne; uint32_t type; uint64_t offset; int code;
			      const char *word; } cases[] = {
		{"t", 2, one, 0, 0, QL_OK, NULL},
		{"t", 2, one, 8, 0, QL_OK, NULL},
		{"t", 4, one, 10, 0, QL_EFORMAT, "whole blocks"},
		{"t", 2, one, 4, 0, QL_EUNSUPPORTED, "type 4"},
		{"t", 2, one, 40, 0, QL_EUNSUPPORTED, "type 40"},
		{"t", 2, one, UINT32_MAX, 0, QL_EUNSUPPORTED, "type"},
		{"t", 2, one, 0, 32, QL_EFORMAT, "offset"},
		{"t", 2, one, 0, UINT64_MAX, QL_EFORMAT, "offset"},
		{"t", 2, zero, 0, 0, QL_EFORMAT, "dimensions"},
		{"t", 2, odd, 8, 0, QL_EFORMAT, "whole blocks"},
		{"t", 2, huge, 0, 0, QL_EFORMAT, "dimensions"},
		{"t", 2, wrap, 0, 0, QL_EFORMAT, "overflows"},
		{"t", 5, deep, 0, 0, QL_EFORMAT, "dimensions"},
		{"", 2, one, 0, 0, QL_EFORMAT, "name"},
		{"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 2, one, 0, 0, QL_OK, NULL},
		{"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 2, one, 0, 0, QL_ELIMIT, "name"},
	};
	struct raw r = {0};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		head(&r, 3, 1, 0);
		info(&r, cases[i].name, cases[i].n, cases[i].ne, cases[i].type, cases[i].offset);
		data(&r, 32, 256);
		expect(&r, cases[i].code, cases[i].word);
	}
	head(&r, 3, 1, 0); /* one byte short */
	info(&r, "t", 2, one, 0, 0);
	data(&r, 32, 255);
	expect(&r, QL_EFORMAT, "beyond");
	head(&r, 3, 2, 0);
	info(&r, "t", 2, one, 0, 0);
	info(&r, "t", 2, one, 0, 256);
	data(&r, 32, 512);
	expect(&r, QL_EFORMAT, "twice");
	head(&r, 3, 2, 0); /* overlap */
	info(&r, "t", 2, one, 0, 0);
	info(&r, "u", 2, one, 0, 128);
	data(&r, 32, 512);
	expect(&r, QL_EFORMAT, "offset");
	ql_buf_free(&r.b);
}

/* Writes one value of each kind and three tensors. */
static void write_sample(const struct scratch *s, const char *file)
{
	static const uint64_t ne1[] = {3}, ne2[] = {64, 2}, ne3[] = {2, 2, 2};
	static const struct ql_gguf_str strs[] = {{"x", 1}, {"", 0}, {"yz", 2}};
	static const int32_t i32s[] = {-1, 2147483647, 0};
	static const uint32_t u32s[] = {1, 4294967295u};
	static const float f32s[] = {-1.5f, 0.25f};
	struct ql_gguf_writer *w;
	struct ql_err e = {0};
	uint8_t bytes[256];
	int rc = ql_gguf_write_new(&w, &e);

	for (size_t i = 0; i < sizeof bytes; i++)
		bytes[i] = (uint8_t)i;
	rc |= ql_gguf_write_str(w, "general.architecture", "llama", 5, &e);
	rc |= ql_gguf_write_u32(w, "u32", 7, &e);
	rc |= ql_gguf_write_i32(w, "i32", -7, &e);
	rc |= ql_gguf_write_u64(w, "u64", 1ull << 40, &e);
	rc |= ql_gguf_write_f32(w, "f32", 0.5f, &e);
	rc |= ql_gguf_write_bool(w, "bool", true, &e);
	rc |= ql_gguf_write_strs(w, "strs", strs, 3, &e);
	rc |= ql_gguf_write_i32s(w, "i32s", i32s, 3, &e);
	rc |= ql_gguf_write_u32s(w, "u32s", u32s, 2, &e);
	rc |= ql_gguf_write_f32s(w, "f32s", f32s, 2, &e);
	rc |= ql_gguf_write_strs(w, "none", NULL, 0, &e);
	assert_int_equal(ql_gguf_write_u32(w, "u32", 8, NULL), QL_EINVAL);
	assert_true(ql_gguf_write_has(w, "u64"));
	rc |= ql_gguf_write_tensor(w, "a", QL_F32, 1, ne1, &e);
	rc |= ql_gguf_write_tensor(w, "b", QL_Q8_0, 2, ne2, &e);
	rc |= ql_gguf_write_tensor(w, "c", QL_F16, 3, ne3, &e);
	assert_int_equal(ql_gguf_write_tensor(w, "d", QL_Q8_0, 1, ne1, NULL), QL_EINVAL);
	assert_int_equal(ql_gguf_write_tensor(w, "d", QL_NF4, 2, ne2, NULL), QL_EINVAL);
	assert_int_equal(ql_gguf_write_data(w, bytes, 1, NULL), QL_ESTATE);
	rc |= ql_gguf_write_begin(w, s->fd, file, &e);
	assert_int_equal(ql_gguf_write_u32(w, "late", 8, NULL), QL_ESTATE);
	assert_int_equal(ql_gguf_write_data(w, bytes, 13, NULL), QL_ESTATE);
	rc |= ql_gguf_write_data(w, bytes, 12, &e);
	assert_int_equal(ql_gguf_write_next(w), 1);
	rc |= ql_gguf_write_data(w, bytes, 100, &e);
	rc |= ql_gguf_write_data(w, bytes + 100, 36, &e);
	rc |= ql_gguf_write_data(w, bytes, 16, &e);
	rc |= ql_gguf_write_commit(w, &e);
	if (rc != QL_OK)
		fail_msg("%s", e.message);
}

static void check_values(const struct ql_gguf *g)
{
	struct ql_gguf_str str = {0}, *strs;
	uint32_t u = 99, *u32s;
	uint64_t w = 0;
	int32_t *i32s;
	float f = 0, *f32s;
	bool b = false;
	size_t n;
	struct ql_err e = {0};

	assert_int_equal(ql_gguf_get_str(g, "general.architecture", true, &str, &e), QL_OK);
	assert_int_equal(str.len, 5);
	assert_memory_equal(str.s, "llama", 5);
	assert_int_equal(ql_gguf_get_u32(g, "u32", true, &u, &e), QL_OK);
	assert_int_equal(u, 7);
	assert_int_equal(ql_gguf_get_u32(g, "i32", true, &u, &e), QL_EFORMAT);
	assert_non_null(strstr(e.message, "i32"));
	assert_int_equal(ql_gguf_get_u32(g, "u64", true, &u, &e), QL_EFORMAT);
	assert_int_equal(ql_gguf_get_u64(g, "u64", true, &w, &e), QL_OK);
	assert_true(w == 1ull << 40);
	assert_int_equal(ql_gguf_get_u32(g, "f32", true, &u, &e), QL_EFORMAT);
	assert_int_equal(ql_gguf_get_f32(g, "f32", true, &f, &e), QL_OK);
	assert_true(f >= 0.5f && f <= 0.5f);
	assert_int_equal(ql_gguf_get_bool(g, "bool", true, &b, &e), QL_OK);
	assert_true(b);
	assert_int_equal(ql_gguf_get_bool(g, "u32", true, &b, &e), QL_EFORMAT);
	u = 5;
	assert_int_equal(ql_gguf_get_u32(g, "absent", false, &u, &e), QL_OK);
	assert_int_equal(u, 5);
	assert_int_equal(ql_gguf_get_u32(g, "absent", true, &u, &e), QL_ENOTFOUND);
	assert_string_equal(e.param, "absent");
	assert_int_equal(ql_gguf_get_strs(g, "strs", true, &strs, &n, &e), QL_OK);
	assert_int_equal(n, 3);
	assert_int_equal(strs[1].len, 0);
	assert_memory_equal(strs[2].s, "yz", 2);
	free(strs);
	assert_int_equal(ql_gguf_get_strs(g, "i32s", true, &strs, &n, &e), QL_EFORMAT);
	assert_null(strs);
	assert_int_equal(ql_gguf_get_strs(g, "none", true, &strs, &n, &e), QL_OK);
	assert_null(strs);
	assert_int_equal(ql_gguf_get_i32s(g, "i32s", true, &i32s, &n, &e), QL_OK);
	assert_int_equal(i32s[0], -1);
	assert_int_equal(i32s[1], 2147483647);
	free(i32s);
	assert_int_equal(ql_gguf_get_i32s(g, "u32s", true, &i32s, &n, &e), QL_EFORMAT);
	assert_null(i32s);
	assert_int_equal(ql_gguf_get_u32s(g, "u32s", true, &u32s, &n, &e), QL_OK);
	assert_true(u32s[1] == 4294967295u);
	free(u32s);
	assert_int_equal(ql_gguf_get_f32s(g, "f32s", true, &f32s, &n, &e), QL_OK);
	assert_true(f32s[0] <= -1.5f && f32s[0] >= -1.5f);
	free(f32s);
}

static void check_tensors(const struct ql_gguf *g)
{
	const struct ql_gguf_tensor *t = ql_gguf_tensor_find(g, "b");

	assert_int_equal(ql_gguf_tensor_count(g), 3);
	assert_non_null(t);
	assert_int_equal(t->dtype, QL_Q8_0);
	assert_int_equal(t->ne[0], 64);
	assert_int_equal(t->ne[1], 2);
	assert_int_equal(t->bytes, 136);
	assert_int_equal(((const uint8_t *)t->data)[135], 135);
	t = ql_gguf_tensor_at(g, 2);
	assert_string_equal(t->name, "c");
	assert_int_equal(t->n, 8);
	assert_int_equal(((const uint8_t *)t->data)[15], 15);
	assert_null(ql_gguf_tensor_find(g, "bb"));
}

static void round_trip(void **state)
{
	struct scratch s;
	struct ql_err e = {0};
	struct ql_gguf *g;
	uint8_t *p;
	size_t len, end;

	(void)state;
	scratch_open(&s);
	write_sample(&s, "m.gguf");
	assert_int_equal(ql_gguf_open_at(&g, s.fd, "m.gguf", &e), QL_OK);
	assert_int_equal(ql_gguf_version(g), 3);
	assert_int_equal(ql_gguf_alignment(g), 32);
	check_values(g);
	check_tensors(g);
	ql_gguf_close(g);
	p = scratch_read(&s, "m.gguf", &len);
	assert_int_equal(len % 32, 0);
	end = len - 16; /* the last 16 bytes are padding nobody needs */
	for (size_t n = 0; n < end; n++) {
		struct ql_err cut = {0};
		uint8_t *q = malloc(n == 0 ? 1 : n);

		assert_non_null(q);
		memcpy(q, p, n);
		assert_int_not_equal(ql_gguf_open_mem(&g, q, n, &cut), QL_OK);
		assert_null(g);
		assert_true(cut.message[0] != '\0');
		free(q);
	}
	assert_int_equal(ql_gguf_open_mem(&g, p, end, &e), QL_OK);
	ql_gguf_close(g);
	free(p);
	scratch_close(&s);
}

/* Flips every byte of the header to a few values: any answer but a crash or a read outside (sanitizers) will do. */
static void mutations(void **state)
{
	static const uint8_t values[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
	struct scratch s;
	uint8_t *p;
	size_t len;

	(void)state;
	scratch_open(&s);
	write_sample(&s, "m.gguf");
	p = scratch_read(&s, "m.gguf", &len);
	for (size_t i = 0; i < len; i++)
		for (size_t k = 0; k < sizeof values; k++) {
			uint8_t old = p[i];
			struct ql_err e = {0};
			struct ql_gguf *g;

			p[i] = values[k];
			if (ql_gguf_open_mem(&g, p, len, &e) != QL_OK)
				assert_true(e.message[0] != '\0' && g == NULL);
			ql_gguf_close(g);
			p[i] = old;
		}
	free(p);
	scratch_close(&s);
}

/* The smallest file with one of each, byte for byte. */
static void golden(void **state)
{
	static const uint8_t want[] = {
		'G', 'G', 'U', 'F', 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
		1, 0, 0, 0, 0, 0, 0, 0, 'k', 8, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 'v', 'w',
		1, 0, 0, 0, 0, 0, 0, 0, 't', 2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0, /* padding to 96 */
		1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
	static const uint64_t ne[] = {2, 1};
	struct ql_gguf_writer *w;
	struct scratch s;
	uint8_t *p;
	size_t len;

	(void)state;
	scratch_open(&s);
	assert_int_equal(ql_gguf_write_new(&w, NULL), QL_OK);
	assert_int_equal(ql_gguf_write_str(w, "k", "vw", 2, NULL), QL_OK);
	assert_int_equal(ql_gguf_write_tensor(w, "t", QL_F32, 2, ne, NULL), QL_OK);
	assert_int_equal(ql_gguf_write_begin(w, s.fd, "g", NULL), QL_OK);
	assert_int_equal(ql_gguf_write_data(w, "\1\2\3\4\5\6\7\10", 8, NULL), QL_OK);
	assert_int_equal(ql_gguf_write_commit(w, NULL), QL_OK);
	p = scratch_read(&s, "g", &len);
	assert_int_equal(len, sizeof want);
	assert_memory_equal(p, want, sizeof want);
	free(p);
	assert_int_equal(ql_gguf_write_new(&w, NULL), QL_OK); /* incomplete: no file */
	assert_int_equal(ql_gguf_write_tensor(w, "t", QL_F32, 2, ne, NULL), QL_OK);
	assert_int_equal(ql_gguf_write_begin(w, s.fd, "h", NULL), QL_OK);
	assert_int_equal(ql_gguf_write_commit(w, NULL), QL_ESTATE);
	assert_false(scratch_has(&s, "h"));
	scratch_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(header_faults), cmocka_unit_test(kv_faults),  cmocka_unit_test(alignments),
		cmocka_unit_test(tensor_faults), cmocka_unit_test(round_trip), cmocka_unit_test(mutations),
		cmocka_unit_test(golden),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
