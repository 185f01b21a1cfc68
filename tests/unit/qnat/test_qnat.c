/* test_qnat.c - the golden file, files of 0…1,000 tensors read back exactly, both offset rules, malformed files. */
#include "core/qnat/qnat.h"

#include "tests/unit/scratch.h"

/* One all-zero tensor "w" [1, 64], as qlora-rs writes it. */
static const uint8_t golden[130] = {
	0x51, 0x4e, 0x41, 0x54, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x0b, 0x00, 0x00, 0x00, 0x71, 0x6c, 0x6f, 0x72, 0x61, 0x2d,
	0x6d, 0x6f, 0x64, 0x65, 0x6c, 0x05, 0x00, 0x00, 0x00, 0x71, 0x6c, 0x6f, 0x72, 0x61, 0x00, 0x01, 0x00, 0x00, 0x00,
	0x77, 0x02, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x40, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x00, 0x00, 0x40, 0x00, 0x00, 0x00, 0x65, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x77,
	0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77,
	0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x00, 0x00, 0x80, 0x3f};

static uint32_t state;

static uint32_t next(void)
{
	state = state * 1664525u + 1013904223u;
	return state >> 8;
}

static const struct ql_qnat_model defaults = QL_QNAT_MODEL_DEFAULT;

static void write_golden(const struct scratch *s, const char *file, bool compat)
{
	const struct ql_qnat_spec spec = {.name = "w", .n_dims = 2, .dims = {1, 64}, .block_size = 64};
	const struct ql_q4_opts o = {.kind = QL_NF4, .blocksize = 64};
	const float zeros[64] = {0};
	struct ql_qnat_writer *w;
	struct ql_q4 q;

	assert_int_equal(ql_q4_quantize(&q, zeros, QL_F32, 64, &o, NULL, NULL), QL_OK);
	assert_int_equal(ql_qnat_write_begin(&w, s->fd, file, &defaults, &spec, 1, compat, NULL), QL_OK);
	assert_int_equal(ql_qnat_write_q4(w, &q, NULL), QL_OK);
	assert_int_equal(ql_qnat_write_commit(w, NULL), QL_OK);
	ql_q4_free(&q);
}

static void test_golden(void **ctx)
{
	struct scratch s;
	uint8_t *p;
	size_t len;

	(void)ctx;
	scratch_open(&s);
	write_golden(&s, "a.qnat", true);
	p = scratch_read(&s, "a.qnat", &len);
	assert_int_equal(len, sizeof golden);
	assert_memory_equal(p, golden, len);
	free(p);
	write_golden(&s, "b.qnat", false); /* only the offset differs: it tells the truth */
	p = scratch_read(&s, "b.qnat", &len);
	assert_int_equal(p[82], 94);
	p[82] = 0x65;
	assert_memory_equal(p, golden, sizeof golden);
	free(p);
	scratch_close(&s);
}

/* A file of n tensors with every optional part in turn; codes and scales from the generator. */
struct made {
	struct ql_qnat_spec spec;
	char name[32];
	uint8_t codes[512], nested[64];
	float scale[64], zero[64], sf;
};

static struct made *make(size_t n)
{
	struct made *m = calloc(n + 1, sizeof *m);

	assert_non_null(m);
	for (size_t i = 0; i < n; i++) {
		uint32_t block = 2 + 2 * (next() % 8), blocks = 1 + next() % 16;

		(void)snprintf(m[i].name, sizeof m[i].name, "tensor.%zu", i * 7919 % 1009);
		m[i].spec = (struct ql_qnat_spec){m[i].name, 2, {blocks, block}, block, (i & 1) != 0, (i & 2) != 0};
		m[i].sf = 0.5f;
		for (uint32_t k = 0; k < block * blocks / 2; k++)
			m[i].codes[k] = (uint8_t)next();
		for (uint32_t k = 0; k < blocks; k++) {
			m[i].nested[k] = (uint8_t)(129 + next() % 127);
			m[i].scale[k] = (float)(m[i].nested[k] - 128) * 0.5f;
			m[i].zero[k] = (float)(next() % 9) - 4.0f;
		}
	}
	return m;
}

static void write_made(const struct scratch *s, const struct made *m, size_t n, bool compat)
{
	struct ql_qnat_spec *specs = calloc(n + 1, sizeof *specs);
	const struct ql_qnat_model model = {"some model", "", QL_BF16};
	struct ql_qnat_writer *w;

	assert_non_null(specs);
	for (size_t i = 0; i < n; i++)
		specs[i] = m[i].spec;
	assert_int_equal(ql_qnat_write_begin(&w, s->fd, "m.qnat", &model, specs, n, compat, NULL), QL_OK);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(ql_qnat_write_tensor(w, m[i].codes, m[i].scale, m[i].spec.zero_points ? m[i].zero : NULL,
						      m[i].spec.nested ? m[i].nested : NULL, m[i].sf, NULL), QL_OK);
	assert_int_equal(ql_qnat_write_commit(w, NULL), QL_OK);
	free(specs);
}

static void check_tensor(const struct ql_qnat *q, const struct made *m)
{
	const struct ql_qnat_tensor *t = ql_qnat_find(q, m->name);
	const float *level = ql_q4_code(QL_NF4);
	uint64_t n = m->spec.dims[0] * m->spec.dims[1];
	float v[512], z[512], again[512];
	struct ql_q4 q4;

	assert_non_null(t);
	assert_int_equal(t->n, n);
	assert_int_equal(t->block_size, m->spec.block_size);
	assert_int_equal(t->zero_points, m->spec.zero_points);
	assert_int_equal(t->nested, m->spec.nested);
	assert_true(t->nested_plausible);
	assert_int_equal(ql_qnat_read(t, 0, n, false, v, NULL), QL_OK);
	assert_int_equal(ql_qnat_read(t, 0, n, true, z, NULL), QL_OK);
	for (uint64_t i = 0; i < n; i++) {
		unsigned code = i % 2 == 0 ? m->codes[i / 2] >> 4 : m->codes[i / 2] & 15;
		size_t b = i / m->spec.block_size;

		assert_true(v[i] == level[code] * m->scale[b]);
		assert_true(z[i] == (level[code] + (m->spec.zero_points ? m->zero[b] : 0)) * m->scale[b]);
	}
	assert_int_equal(ql_qnat_to_q4(t, &q4, NULL), QL_OK);
	assert_memory_equal(q4.codes, m->codes, n / 2);
	assert_int_equal(ql_q4_check(&q4, NULL), QL_OK);
	assert_int_equal(ql_q4_dequantize(&q4, 0, n, again, QL_F32, NULL, NULL), QL_OK);
	assert_memory_equal(again, v, n * sizeof *v);
	assert_int_equal(ql_qnat_read(t, n - 1, 1, false, z, NULL), QL_OK);
	assert_true(z[0] == v[n - 1]);
	assert_int_equal(ql_qnat_read(t, n, 1, false, z, NULL), QL_EINVAL);
	ql_q4_free(&q4);
}

static void test_many(void **ctx)
{
	static const size_t counts[] = {0, 1, 2, 3, 4, 7, 63, 300, 1000};
	struct scratch s;

	(void)ctx;
	scratch_open(&s);
	for (size_t k = 0; k < 2 * sizeof counts / sizeof counts[0]; k++) {
		size_t n = counts[k / 2], len;
		struct made *m = make(n);
		struct ql_qnat *q;
		uint8_t *p;

		write_made(&s, m, n, k % 2 == 0);
		p = scratch_read(&s, "m.qnat", &len);
		assert_int_equal(ql_qnat_open_mem(&q, p, len, NULL), QL_OK);
		assert_int_equal(ql_qnat_count(q), n);
		assert_string_equal(ql_qnat_model_name(q), "some model");
		assert_string_equal(ql_qnat_model_type(q), "");
		assert_int_equal(ql_qnat_dtype(q), QL_BF16);
		assert_int_equal(ql_qnat_offsets_true(q), n == 0 || k % 2 == 1);
		for (size_t i = 0; i < n; i++)
			check_tensor(q, &m[i]);
		ql_qnat_close(q);
		free(p);
		free(m);
	}
	scratch_close(&s);
}

static int open_code(const uint8_t *p, size_t n, struct ql_err *e)
{
	uint8_t *copy = malloc(n + 1);
	struct ql_qnat *q;
	int rc;

	assert_non_null(copy);
	memcpy(copy, p, n);
	*e = (struct ql_err){0};
	rc = ql_qnat_open_mem(&q, copy, n, e);
	assert_int_equal(rc == QL_OK, q != NULL);
	if (rc != QL_OK)
		assert_true(e->message[0] != '\0' && e->code == rc);
	ql_qnat_close(q);
	free(copy);
	return rc;
}

/* Every field of the golden file broken by name, every cut, every appended byte. */
static void test_malformed(void **ctx)
{
	static const struct {
		size_t at;
		uint8_t v;
		int code;
		const char *says;
	} cases[] = {
		{0, 'X', QL_EFORMAT, "not a QNAT"}, {4, 2, QL_EUNSUPPORTED, "version 2"}, {7, 1, QL_EUNSUPPORTED, "version"},
		{8, 1, QL_EUNSUPPORTED, "flags"}, {12, 9, QL_EFORMAT, "metadata_size"}, {19, 1, QL_EFORMAT, "metadata_size"},
		{20, 0, QL_EFORMAT, "follow the last"}, {20, 3, QL_EFORMAT, "too short"}, {22, 2, QL_ELIMIT, "tensors"},
		{24, 1, QL_EFORMAT, "reserved"}, {28, 0xff, QL_EFORMAT, "ends inside model_name"},
		{29, 9, QL_ELIMIT, "model_name"}, {33, 0xff, QL_EFORMAT, "UTF-8"}, {33, 0, QL_EFORMAT, "UTF-8"},
		{52, 3, QL_EFORMAT, "dtype 3"}, {53, 0, QL_EFORMAT, "name has 0"}, {54, 4, QL_ELIMIT, "name"},
		{57, 0x80, QL_EFORMAT, "UTF-8"}, {58, 0, QL_EFORMAT, "0 dimensions"}, {58, 9, QL_EFORMAT, "9 dimensions"},
		{58, 1, QL_EFORMAT, "tensor w"}, {62, 0, QL_EFORMAT, "elements"}, {62, 2, QL_EFORMAT, "128 elements"},
		{69, 0xff, QL_EFORMAT, "overflow"}, {70, 65, QL_EFORMAT, "65 elements"}, {78, 0, QL_EFORMAT, "block_size"},
		{78, 63, QL_EUNSUPPORTED, "odd"}, {78, 32, QL_EFORMAT, "blocks of 32"}, {90, 0, QL_EFORMAT, "num_blocks"},
		{90, 2, QL_EFORMAT, "2 blocks"}, {129, 0x7f, QL_EFORMAT, "finite"},
	};
	uint8_t p[sizeof golden + 600];
	struct ql_err e;
	int refused = 0;

	(void)ctx;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++, refused++) {
		memcpy(p, golden, sizeof golden);
		p[cases[i].at] = cases[i].v;
		assert_int_equal(open_code(p, sizeof golden, &e), cases[i].code);
		if (strstr(e.message, cases[i].says) == NULL)
			fail_msg("byte %zu: '%s' does not say '%s'", cases[i].at, e.message, cases[i].says);
	}
	for (size_t n = 0; n < sizeof golden; n++, refused++)
		assert_int_not_equal(open_code(golden, n, &e), QL_OK);
	memset(p, 0, sizeof p);
	memcpy(p, golden, sizeof golden);
	for (size_t n = sizeof golden + 1; n <= sizeof p; n++) {
		size_t extra = n - sizeof golden; /* one block: 4, 5 and 9 more bytes are optional parts */

		assert_int_equal(open_code(p, n, &e), extra == 4 || extra == 5 || extra == 9 ? QL_OK : QL_EFORMAT);
		refused++;
	}
	assert_true(refused >= 200);
}

static void test_two_tensors(void **ctx)
{
	struct scratch s;
	struct ql_err e;
	struct made *m = make(2);
	uint8_t *p;
	size_t len, second = 28 + 4 + 10 + 4 + 1 + 24 + 16 + strlen(m[0].name);

	(void)ctx;
	scratch_open(&s);
	write_made(&s, m, 2, true);
	p = scratch_read(&s, "m.qnat", &len);
	assert_int_equal(open_code(p, len, &e), QL_OK);
	p[second + 4 + strlen(m[1].name) + 4 + 16 + 4]++; /* its offset: neither tensor's size fits now */
	assert_int_equal(open_code(p, len, &e), QL_EFORMAT);
	p[second + 4 + strlen(m[1].name) + 4 + 16 + 4 + 7] = 0xff;
	assert_int_equal(open_code(p, len, &e), QL_EFORMAT);
	assert_non_null(strstr(e.message, "past the end"));
	memset(p + second + 4 + strlen(m[1].name) + 4 + 16 + 4, 0, 8);
	assert_int_equal(open_code(p, len, &e), QL_EFORMAT);
	assert_non_null(strstr(e.message, "below"));
	free(p);
	free(m);
	m = make(2);
	(void)strcpy(m[1].name, m[0].name);
	{
		const struct ql_qnat_spec twice[2] = {m[0].spec, m[1].spec};
		struct ql_qnat_writer *w;

		assert_int_equal(ql_qnat_write_begin(&w, s.fd, "t.qnat", &defaults, twice, 2, false, &e), QL_EINVAL);
		assert_null(w);
		assert_false(scratch_has(&s, "t.qnat"));
	}
	free(m);
	scratch_close(&s);
}

static void test_writer_refuses(void **ctx)
{
	struct ql_qnat_spec spec = {.name = "w", .n_dims = 2, .dims = {2, 64}, .block_size = 64};
	const struct ql_q4_opts o = {.kind = QL_FP4, .blocksize = 64};
	float x[128] = {1.0f};
	struct ql_qnat_writer *w;
	struct ql_q4 q;
	struct scratch s;
	struct ql_err e;

	(void)ctx;
	scratch_open(&s);
	assert_int_equal(ql_q4_quantize(&q, x, QL_F32, 128, &o, NULL, NULL), QL_OK);
	assert_int_equal(ql_qnat_write_begin(&w, s.fd, "w.qnat", &defaults, &spec, 1, false, &e), QL_OK);
	assert_int_equal(ql_qnat_write_q4(w, &q, &e), QL_EINVAL);
	assert_int_equal(ql_qnat_write_commit(w, &e), QL_ESTATE);
	assert_false(scratch_has(&s, "w.qnat"));
	ql_q4_free(&q);
	spec.block_size = 63;
	assert_int_equal(ql_qnat_write_begin(&w, s.fd, "w.qnat", &defaults, &spec, 1, false, &e), QL_ESHAPE);
	spec.block_size = 48;
	assert_int_equal(ql_qnat_write_begin(&w, s.fd, "w.qnat", &defaults, &spec, 1, false, &e), QL_ESHAPE);
	spec.dims[0] = 0;
	assert_int_equal(ql_qnat_write_begin(&w, s.fd, "w.qnat", &defaults, &spec, 1, false, &e), QL_ESHAPE);
	scratch_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_golden), cmocka_unit_test(test_many), cmocka_unit_test(test_malformed),
		cmocka_unit_test(test_two_tensors), cmocka_unit_test(test_writer_refuses),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
