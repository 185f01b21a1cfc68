/* test_many.c - GGUF and safetensors files of 0 … 1,000 tensors of many types and shapes, read back exactly. */
#include "core/formats/gguf.h"
#include "core/formats/safetensors.h"
#include "tests/unit/scratch.h"

static const size_t counts[] = {0, 1, 2, 63, 300, 1000};
static uint32_t state = 1;

static uint32_t next(void)
{
	state = state * 1664525u + 1013904223u;
	return state >> 8;
}

/* Tensor i of a file: its name, type, rows of whole blocks, and bytes, all functions of i. */
struct made {
	char name[32];
	enum ql_dtype type;
	uint64_t rows, cols;
	size_t bytes;
	uint8_t *data;
};

static struct made *make(size_t n, const enum ql_dtype *types, size_t n_types)
{
	struct made *m = calloc(n + 1, sizeof *m);

	assert_non_null(m);
	for (size_t i = 0; i < n; i++) {
		(void)snprintf(m[i].name, sizeof m[i].name, "tensor.%zu", i * 7919 % 1009);
		m[i].type = types[i % n_types];
		m[i].rows = 1 + next() % 5;
		m[i].cols = ql_dtypes[m[i].type].block * (uint64_t)(1 + next() % 3);
		m[i].bytes = (size_t)(m[i].rows * ql_dtype_bytes(m[i].type, m[i].cols));
		m[i].data = malloc(m[i].bytes);
		assert_non_null(m[i].data);
		for (size_t k = 0; k < m[i].bytes; k++)
			m[i].data[k] = (uint8_t)next();
	}
	return m;
}

static void discard(struct made *m, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(m[i].data);
	free(m);
}

static void write_gguf(const struct scratch *s, const struct made *m, size_t n)
{
	struct ql_gguf_writer *w;

	assert_int_equal(ql_gguf_write_new(&w, NULL), QL_OK);
	assert_int_equal(ql_gguf_write_str(w, "general.name", "many", 4, NULL), QL_OK);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(ql_gguf_write_tensor(w, m[i].name, m[i].type, 2, (uint64_t[]){m[i].cols, m[i].rows}, NULL), QL_OK);
	assert_int_equal(ql_gguf_write_begin(w, s->fd, "many", NULL), QL_OK);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(ql_gguf_write_data(w, m[i].data, m[i].bytes, NULL), QL_OK);
	assert_int_equal(ql_gguf_write_commit(w, NULL), QL_OK);
}

static void gguf(void **ctx)
{
	static const enum ql_dtype types[] = {QL_F32, QL_F16, QL_BF16, QL_Q4_0, QL_Q4_1, QL_Q5_0, QL_Q5_1, QL_Q8_0, QL_Q4_K, QL_Q5_K,
					      QL_Q6_K, QL_IQ4_NL};
	struct scratch s;

	(void)ctx;
	scratch_open(&s);
	for (size_t k = 0; k < sizeof counts / sizeof counts[0]; k++) {
		struct made *m = make(counts[k], types, sizeof types / sizeof types[0]);
		struct ql_gguf *g;

		write_gguf(&s, m, counts[k]);
		assert_int_equal(ql_gguf_open_at(&g, s.fd, "many", NULL), QL_OK);
		assert_int_equal(ql_gguf_tensor_count(g), counts[k]);
		for (size_t i = 0; i < counts[k]; i++) {
			const struct ql_gguf_tensor *t = ql_gguf_tensor_at(g, i);

			assert_string_equal(t->name, m[i].name);
			assert_int_equal(t->dtype, m[i].type);
			assert_int_equal(t->ne[0], m[i].cols);
			assert_int_equal(t->ne[1], m[i].rows);
			assert_int_equal(t->bytes, m[i].bytes);
			assert_memory_equal(t->data, m[i].data, m[i].bytes);
		}
		ql_gguf_close(g);
		discard(m, counts[k]);
	}
	scratch_close(&s);
}

static void safetensors(void **ctx)
{
	static const enum ql_dtype types[] = {QL_F32, QL_F16, QL_BF16, QL_U8};
	struct scratch s;

	(void)ctx;
	scratch_open(&s);
	for (size_t k = 0; k < sizeof counts / sizeof counts[0]; k++) {
		size_t n = counts[k], due;
		struct made *m = make(n, types, sizeof types / sizeof types[0]);
		struct ql_st_spec *specs = calloc(n + 1, sizeof *specs);
		struct ql_st_writer *w;
		struct ql_st *st;

		assert_non_null(specs);
		for (size_t i = 0; i < n; i++)
			specs[i] = (struct ql_st_spec){.name = m[i].name, .dtype = m[i].type, .n_dims = 2, .shape = {m[i].rows, m[i].cols}};
		assert_int_equal(ql_st_write_begin(&w, s.fd, "many", specs, n, NULL), QL_OK);
		while ((due = ql_st_write_next(w)) < n)
			assert_int_equal(ql_st_write_data(w, m[due].data, m[due].bytes, NULL), QL_OK);
		assert_int_equal(ql_st_write_commit(w, NULL), QL_OK);
		assert_int_equal(ql_st_open_at(&st, s.fd, "many", NULL), QL_OK);
		assert_int_equal(ql_st_count(st), n);
		for (size_t i = 0; i < n; i++) {
			const struct ql_st_tensor *t = ql_st_find(st, m[i].name);

			assert_non_null(t);
			assert_int_equal(t->dtype, m[i].type);
			assert_int_equal(t->shape[0], m[i].rows);
			assert_int_equal(t->shape[1], m[i].cols);
			assert_int_equal(t->bytes, m[i].bytes);
			assert_memory_equal(t->data, m[i].data, m[i].bytes);
		}
		ql_st_close(st);
		free(specs);
		discard(m, n);
	}
	scratch_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(gguf), cmocka_unit_test(safetensors)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
