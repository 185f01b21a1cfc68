/* test_safetensors.c - reader at its limits, hostile headers, truncation at every byte, writer → reader. */
#include "core/formats/safetensors.h"
#include "tests/unit/scratch.h"

/* header text + n_data bytes 0, 1, 2, …; *len gets the size. */
static uint8_t *make(const char *header, size_t n_data, size_t *len)
{
	size_t n = strlen(header);
	uint8_t *p = malloc(8 + n + n_data);

	assert_non_null(p);
	for (size_t i = 0; i < 8; i++)
		p[i] = (uint8_t)((uint64_t)n >> (8 * i));
	memcpy(p + 8, header, n);
	for (size_t i = 0; i < n_data; i++)
		p[8 + n + i] = (uint8_t)i;
	*len = 8 + n + n_data;
	return p;
}

static int open_code(const char *header, size_t n_data, struct ql_err *e)
{
	struct ql_st *st = NULL;
	size_t len;
	uint8_t *p = make(header, n_data, &len);
	int rc;

	*e = (struct ql_err){0};
	rc = ql_st_open_mem(&st, p, len, e);
	assert_true((rc == QL_OK) == (st != NULL));
	assert_int_equal(rc, e->code);
	assert_true(rc == QL_OK || e->message[0] != '\0');
	ql_st_close(st);
	free(p);
	return rc;
}

static void accepts(void **state)
{
	static const char header[] = " {\"b\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[4,16]},\n"
				     "\"__metadata__\":{\"format\":\"pt\",\"x\":\"\\u00e9\"},"
				     "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
				     "\"empty\":{\"dtype\":\"I64\",\"shape\":[3,0],\"data_offsets\":[4,4]},"
				     "\"f4\":{\"shape\":[6],\"dtype\":\"F4\",\"data_offsets\":[16,19]}}  ";
	const struct ql_st_tensor *t;
	struct ql_err e = {0};
	struct ql_st *st;
	size_t len;
	uint8_t *p = make(header, 19, &len);

	(void)state;
	assert_int_equal(ql_st_open_mem(&st, p, len, &e), QL_OK);
	assert_int_equal(ql_st_count(st), 4);
	assert_string_equal(ql_st_metadata(st, "format"), "pt");
	assert_null(ql_st_metadata(st, "none"));
	assert_string_equal(ql_st_at(st, 0)->name, "a");
	assert_string_equal(ql_st_at(st, 1)->name, "empty");
	t = ql_st_find(st, "b");
	assert_non_null(t);
	assert_int_equal(t->dtype, QL_F16);
	assert_int_equal(t->n_dims, 2);
	assert_int_equal(t->shape[1], 3);
	assert_int_equal(t->n, 6);
	assert_int_equal(t->bytes, 12);
	assert_ptr_equal(t->data, p + len - 19 + 4);
	assert_int_equal(ql_st_find(st, "a")->n, 1);
	assert_int_equal(ql_st_find(st, "empty")->n, 0);
	t = ql_st_find(st, "f4");
	assert_int_equal(t->dtype, QL_DTYPE_COUNT);
	assert_string_equal(t->dtype_name, "F4");
	assert_null(ql_st_find(st, "c"));
	ql_st_close(st);
	free(p);
}

#define T(name, dtype, shape, offsets) "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void refuses(void **state)
{
	static const struct { const char *header; size_t data; int code; const char *word; } cases[] = {
		{"", 0, QL_EFORMAT, "'{'"},
		{"[]", 0, QL_EFORMAT, "'{'"},
		{"{", 0, QL_EFORMAT, "closing"},
		{"{}", 1, QL_EFORMAT, "after the last"},
		{"{}x", 0, QL_EFORMAT, "after the closing"},
		{"{" T("a", "F32", "[1]", "[0,4]") ",}", 4, QL_EFORMAT, "after ','"},
		{"{" T("a", "F32", "[1]", "[0,4]") " " T("b", "F32", "[1]", "[4,8]") "}", 8, QL_EFORMAT, "JSON"},
		{"{" T("a", "F32", "[1]", "[0,4]") "," T("a", "F32", "[1]", "[4,8]") "}", 8, QL_EFORMAT, "twice"},
		{"{" T("a", "F32", "[1]", "[0,4]") "," T("\\u0061", "F32", "[1]", "[4,8]") "}", 8, QL_EFORMAT, "twice"},
		{"{" T("a", "F32", "[1]", "[0,4]") "," T("b", "F32", "[1]", "[8,12]") "}", 12, QL_EFORMAT, "hole"},
		{"{" T("a", "F32", "[2]", "[0,8]") "," T("b", "F32", "[1]", "[4,8]") "}", 8, QL_EFORMAT, "overlap"},
		{"{" T("a", "F32", "[1]", "[4,8]") "}", 8, QL_EFORMAT, "hole"},
		{"{" T("a", "F32", "[1]", "[0,4]") "}", 5, QL_EFORMAT, "after the last"},
		{"{" T("a", "F32", "[2]", "[0,8]") "}", 7, QL_EFORMAT, "beyond"},
		{"{" T("a", "F32", "[2]", "[0,4]") "}", 4, QL_EFORMAT, "do not make"},
		{"{" T("a", "F32", "[1]", "[4,0]") "}", 4, QL_EFORMAT, "data_offsets"},
		{"{" T("a", "F32", "[1]", "[0]") "}", 4, QL_EFORMAT, "data_offsets"},
		{"{" T("a", "F32", "[1]", "[0,4,4]") "}", 4, QL_ELIMIT, "data_offsets"},
		{"{" T("a", "F32", "[-1]", "[0,4]") "}", 4, QL_EFORMAT, "integers"},
		{"{" T("a", "F32", "[1.0]", "[0,4]") "}", 4, QL_EFORMAT, "integers"},
		{"{" T("a", "F32", "{}", "[0,4]") "}", 4, QL_EFORMAT, "shape"},
		{"{" T("a", "F4", "[1]", "[0,0]") "}", 0, QL_EFORMAT, "do not make"},
		{"{" T("a", "F99", "[1]", "[0,4]") "}", 4, QL_EFORMAT, "dtype"},
		{"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, QL_EFORMAT, "dtype"},
		{"{\"a\":7}", 4, QL_EFORMAT, "not an object"},
		{"{\"a\" 7}", 4, QL_EFORMAT, "JSON"},
		{"{a:7}", 4, QL_EFORMAT, "quotes"},
		{"{" T("a", "U8", "[4294967296,4294967296]", "[0,0]") "}", 0, QL_EFORMAT, "overflows"},
		{"{" T("a", "F64", "[9223372036854775807]", "[0,0]") "}", 0, QL_EFORMAT, "do not make"},
		{"{" T("a", "U8", "[99999999999999999999]", "[0,0]") "}", 0, QL_EFORMAT, "JSON"},
		{"{" T("", "F32", "[1]", "[0,4]") "}", 4, QL_EFORMAT, "name of 0"},
		{"{" T("a\\u0000", "F32", "[1]", "[0,4]") "}", 4, QL_EFORMAT, "JSON"},
		{"{" T("\xff", "F32", "[1]", "[0,4]") "}", 4, QL_EFORMAT, "UTF-8"},
		{"{\"__metadata__\":{\"a\":1}}", 0, QL_EFORMAT, "not a string"},
		{"{\"__metadata__\":[]}", 0, QL_EFORMAT, "not an object"},
		{"{\"__metadata__\":{},\"__metadata__\":{}}", 0, QL_EFORMAT, "twice"},
		{"{\"__metadata__\":{\"a\":\"x\",\"a\":\"y\"}}", 0, QL_EFORMAT, "JSON"},
		{"{" T("a", "F32", "[1]", "[0,4],\"dtype\":\"F32\"") "}", 4, QL_EFORMAT, "JSON"},
		{"{" T("a", "F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, QL_ELIMIT, "shape"},
	};
	struct ql_err e;

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		int rc = open_code(cases[i].header, cases[i].data, &e);

		if (rc != cases[i].code || strstr(e.message, cases[i].word) == NULL)
			fail_msg("%s: code %d, message %s", cases[i].header, rc, e.message);
	}
	assert_int_equal(open_code("{" T("a", "F32", "[1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, &e), QL_OK);
}

static void name_limit(void **state)
{
	char header[1024], name[600];
	struct ql_err e;

	(void)state;
	for (size_t n = QL_NAME_MAX; n <= QL_NAME_MAX + 1; n++) {
		memset(name, 'x', n);
		name[n] = '\0';
		(void)snprintf(header, sizeof header, "{\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", name);
		assert_int_equal(open_code(header, 1, &e), n == QL_NAME_MAX ? QL_OK : QL_ELIMIT);
	}
}

static void header_limit(void **state)
{
	char *header = malloc(QL_ST_HEADER_MAX + 2);
	struct ql_err e;

	(void)state;
	assert_non_null(header);
	memset(header, ' ', QL_ST_HEADER_MAX + 1);
	memcpy(header, "{}", 2);
	header[QL_ST_HEADER_MAX] = '\0';
	assert_int_equal(open_code(header, 0, &e), QL_OK);
	header[QL_ST_HEADER_MAX] = ' ';
	header[QL_ST_HEADER_MAX + 1] = '\0';
	assert_int_equal(open_code(header, 0, &e), QL_ELIMIT);
	free(header);
}

static void tensor_limit(void **state)
{
	struct ql_buf b = {0};
	struct ql_err e;

	(void)state;
	for (int extra = 0; extra < 2; extra++) {
		ql_buf_reset(&b);
		for (int i = 0; i < QL_ST_TENSORS_MAX + extra; i++)
			assert_int_equal(ql_buf_addf(&b, "%c\"%d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
						     i == 0 ? '{' : ',', i), QL_OK);
		assert_int_equal(ql_buf_addc(&b, '}'), QL_OK);
		assert_int_equal(open_code(b.data, 0, &e), extra == 0 ? QL_OK : QL_ELIMIT);
	}
	ql_buf_free(&b);
}

static void write_sample(const struct scratch *s, const char *file)
{
	static const struct ql_st_spec specs[] = {
		{"z.weight", QL_F32, 2, {2, 3}}, {"h", QL_BF16, 1, {5}}, {"a.weight", QL_F32, 0, {0}},
		{"none", QL_F16, 2, {0, 4}},	 {"q\"uote", QL_U8, 1, {3}}};
	struct ql_st_writer *w;
	struct ql_err e = {0};
	uint8_t bytes[64];
	size_t i;

	for (i = 0; i < sizeof bytes; i++)
		bytes[i] = (uint8_t)(i + 1);
	assert_int_equal(ql_st_write_begin(&w, s->fd, file, specs, 5, &e), QL_OK);
	while ((i = ql_st_write_next(w)) < 5) {
		size_t n = ql_dtypes[specs[i].dtype].bytes;

		for (int d = 0; d < specs[i].n_dims; d++)
			n *= specs[i].shape[d];
		assert_int_equal(ql_st_write_data(w, bytes, 1, &e), QL_OK);
		assert_int_equal(ql_st_write_data(w, bytes + 1, n - 1, &e), QL_OK);
	}
	assert_int_equal(ql_st_write_data(w, bytes, 1, NULL), QL_ESTATE);
	assert_int_equal(ql_st_write_commit(w, &e), QL_OK);
}

static void round_trip(void **state)
{
	struct scratch s;
	struct ql_err e = {0};
	struct ql_st *st;
	uint8_t *p;
	size_t len;

	(void)state;
	scratch_open(&s);
	write_sample(&s, "m.safetensors");
	p = scratch_read(&s, "m.safetensors", &len);
	assert_int_equal(p[0] % 8, 0);
	assert_memory_equal(p + 8, "{\"__metadata__\":{\"format\":\"pt\"},\"a.weight\":", 43);
	assert_int_equal(ql_st_open_at(&st, s.fd, "m.safetensors", &e), QL_OK);
	assert_int_equal(ql_st_count(st), 5);
	assert_string_equal(ql_st_metadata(st, "format"), "pt");
	assert_string_equal(ql_st_at(st, 0)->name, "a.weight");
	assert_string_equal(ql_st_at(st, 1)->name, "z.weight");
	assert_int_equal(ql_st_find(st, "z.weight")->shape[1], 3);
	assert_int_equal(ql_st_find(st, "h")->bytes, 10);
	assert_int_equal(((const uint8_t *)ql_st_find(st, "q\"uote")->data)[2], 3);
	assert_non_null(ql_st_find(st, "none"));
	ql_st_close(st);
	for (size_t n = 0; n < len; n++) { /* cut anywhere: an error, never a crash */
		struct ql_err cut = {0};
		uint8_t *q = malloc(n + 1);

		assert_non_null(q);
		memcpy(q, p, n);
		assert_int_not_equal(ql_st_open_mem(&st, q, n, &cut), QL_OK);
		assert_null(st);
		assert_true(cut.message[0] != '\0');
		free(q);
	}
	free(p);
	scratch_close(&s);
}

static void writer_refuses(void **state)
{
	static const struct ql_st_spec twice[] = {{"a", QL_F32, 1, {1}}, {"b", QL_F32, 1, {1}}, {"a", QL_U8, 1, {1}}};
	static const struct ql_st_spec huge[] = {{"a", QL_F32, 2, {1ull << 40, 1ull << 40}}};
	static const struct ql_st_spec block[] = {{"a", QL_Q8_0, 1, {32}}};
	struct ql_st_writer *w;
	struct scratch s;
	struct ql_err e;

	(void)state;
	scratch_open(&s);
	assert_int_equal(ql_st_write_begin(&w, s.fd, "x", twice, 3, &e), QL_EINVAL);
	assert_null(w);
	assert_int_equal(ql_st_write_begin(&w, s.fd, "x", huge, 1, &e), QL_EINVAL);
	assert_int_equal(ql_st_write_begin(&w, s.fd, "x", block, 1, &e), QL_EINVAL);
	assert_int_equal(ql_st_write_begin(&w, s.fd, "../x", twice, 2, &e), QL_EINVAL);
	assert_int_equal(ql_st_write_begin(&w, s.fd, "x", twice, 2, &e), QL_OK);
	assert_int_equal(ql_st_write_data(w, "abcde", 5, &e), QL_ESTATE);
	assert_int_equal(ql_st_write_data(w, "abcd", 4, &e), QL_OK);
	assert_int_equal(ql_st_write_commit(w, &e), QL_ESTATE);
	assert_false(scratch_has(&s, "x"));
	scratch_close(&s);
}

static void links(void **state)
{
	struct scratch s;
	struct ql_err e;
	struct ql_st *st;

	(void)state;
	scratch_open(&s);
	write_sample(&s, "m.safetensors");
	assert_int_equal(symlinkat("m.safetensors", s.fd, "link"), 0);
	assert_int_not_equal(ql_st_open_at(&st, s.fd, "link", &e), QL_OK);
	assert_int_not_equal(ql_st_open_at(&st, s.fd, "../etc/passwd", &e), QL_OK);
	assert_int_equal(ql_st_open_at(&st, s.fd, "missing", &e), QL_ENOTFOUND);
	scratch_write(&s, "empty", "", 0);
	assert_int_equal(ql_st_open_at(&st, s.fd, "empty", &e), QL_EFORMAT);
	scratch_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(accepts),	cmocka_unit_test(refuses),	cmocka_unit_test(name_limit),
		cmocka_unit_test(header_limit), cmocka_unit_test(tensor_limit), cmocka_unit_test(round_trip),
		cmocka_unit_test(writer_refuses), cmocka_unit_test(links),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
