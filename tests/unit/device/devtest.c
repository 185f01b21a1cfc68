/* devtest.c - see devtest.h. */
#include "tests/unit/device/devtest.h"

struct ql_device *dev;
struct ql_queue *queue;
struct ql_err err;

#define KEPT_MAX 4096
static void *dev_kept[KEPT_MAX], *host_kept[KEPT_MAX];
static struct ql_weight *weight_kept[KEPT_MAX];
static size_t n_dev, n_host, n_weight;
static uint64_t rng = 1;

bool dt_is_cpu(void)
{
	const char *name = getenv("QL_TEST_DEVICE");

	return name == NULL || strcmp(name, "cuda") != 0;
}

struct ql_device *dt_open_threads(int n_threads)
{
	struct ql_device *d;
	int rc = dt_is_cpu() ? ql_device_cpu(&d, n_threads, &err) : ql_device_cuda(&d, 0, &err);

	if (rc == QL_EUNSUPPORTED || rc == QL_ENOTFOUND) {
		(void)fprintf(stderr, "skipped: %s\n", err.message);
		exit(77);
	}
	if (rc != QL_OK) {
		(void)fprintf(stderr, "open: %s\n", err.message);
		exit(1);
	}
	return d;
}

int dt_setup(void **state)
{
	(void)state;
	dev = dt_open_threads(2);
	return dev->ops->queue_new(dev, &queue, &err) == QL_OK ? 0 : -1;
}

int dt_each(void **state)
{
	(void)state;
	(void)OPS->sync(dev, queue, &err);
	while (n_weight > 0)
		OPS->weight_free(dev, weight_kept[--n_weight]);
	while (n_dev > 0)
		OPS->free(dev, dev_kept[--n_dev]);
	while (n_host > 0)
		free(host_kept[--n_host]);
	return 0;
}

int dt_teardown(void **state)
{
	(void)dt_each(state);
	OPS->queue_free(dev, queue);
	OPS->close(dev);
	return 0;
}

/* ---- numbers: splitmix64 and Box-Muller ---- */

void dt_seed(uint64_t seed) { rng = seed * 0x9E3779B97F4A7C15u + 1; }

static uint64_t next(void)
{
	uint64_t z = rng += 0x9E3779B97F4A7C15u;

	z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
	z = (z ^ z >> 27) * 0x94D049BB133111EBu;
	return z ^ z >> 31;
}

double dt_normal(void)
{
	double u = ((double)(next() >> 11) + 1.0) * 0x1p-53, v = (double)(next() >> 11) * 0x1p-53;

	return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

uint32_t dt_below(uint32_t n) { return (uint32_t)(next() % n); }

float dt_round(double x)
{
	return dev->act == QL_BF16 ? ql_f32_of_bf16(ql_bf16_of_f32((float)x)) : (float)x;
}

double dt_tol(void) { return dev->act == QL_BF16 ? 1e-2 : 1e-5; }

void *dt_host(size_t bytes)
{
	void *p = calloc(1, bytes == 0 ? 1 : bytes);

	assert_non_null(p);
	assert_true(n_host < KEPT_MAX);
	host_kept[n_host++] = p;
	return p;
}

float *dt_randn(size_t n, double scale)
{
	float *x = dt_host(n * sizeof *x);

	for (size_t i = 0; i < n; i++)
		x[i] = dt_round(scale * dt_normal());
	return x;
}

/* ---- device memory ---- */

void *dt_alloc(size_t bytes)
{
	void *p;

	OK(OPS->alloc(dev, QL_MEM_ACTIVATION, bytes == 0 ? 1 : bytes, &p, &err));
	assert_true(n_dev < KEPT_MAX);
	dev_kept[n_dev++] = p;
	return p;
}

void *dt_up(const void *src, size_t bytes)
{
	void *p = dt_alloc(bytes);

	OK(OPS->upload(dev, queue, p, src, bytes, &err));
	OK(OPS->sync(dev, queue, &err));
	return p;
}

float *dt_nan_f32(size_t n)
{
	unsigned char *h = dt_host(n * 4);

	memset(h, 0xff, n * 4);
	return dt_up(h, n * 4);
}

void dt_down(void *dst, const void *src, size_t bytes)
{
	OK(OPS->download(dev, queue, dst, src, bytes, &err));
	OK(OPS->sync(dev, queue, &err));
}

size_t dt_ld(size_t cols, size_t ext)
{
	size_t a = dev->ext_align == 0 ? 1 : dev->ext_align;

	return (cols + ext + 3 + a - 1) / a * a;
}

static struct ql_tensor filled(enum ql_dtype dtype, uint32_t rows, uint32_t cols, size_t ld, const float *host)
{
	size_t size = dtype == QL_BF16 ? 2 : 4, bytes = (size_t)rows * ld * size;
	unsigned char *h = dt_host(bytes);

	memset(h, 0xff, bytes);
	for (size_t r = 0; host != NULL && r < rows; r++)
		for (size_t c = 0; c < cols; c++) {
			uint16_t half = ql_bf16_of_f32(host[r * cols + c]);

			memcpy(h + (r * ld + c) * size, dtype == QL_BF16 ? (const void *)&half : &host[r * cols + c], size);
		}
	return (struct ql_tensor){dt_up(h, bytes), dtype, rows, cols, ld};
}

struct ql_tensor dt_put(const float *host, uint32_t rows, uint32_t cols, size_t ld)
{
	return filled(dev->act, rows, cols, ld, host);
}

struct ql_tensor dt_out(uint32_t rows, uint32_t cols, size_t ld) { return filled(dev->act, rows, cols, ld, NULL); }

struct ql_tensor dt_out_f32(uint32_t rows, uint32_t cols, size_t ld) { return filled(QL_F32, rows, cols, ld, NULL); }

struct ql_tensor dt_none(void) { return (struct ql_tensor){.dtype = dev->act}; }

static float element(const unsigned char *h, enum ql_dtype dtype, size_t i)
{
	uint16_t half;
	float f;

	if (dtype == QL_BF16) {
		memcpy(&half, h + i * 2, 2);
		return ql_f32_of_bf16(half);
	}
	memcpy(&f, h + i * 4, 4);
	return f;
}

float *dt_get(struct ql_tensor t)
{
	size_t size = t.dtype == QL_BF16 ? 2 : 4, n = t.rows == 0 ? 0 : (t.rows - 1) * t.ld + t.cols;
	unsigned char *h = dt_host(n * size);
	float *out = dt_host((size_t)t.rows * t.cols * 4);

	dt_down(h, t.data, n * size);
	for (size_t r = 0; r < t.rows; r++)
		for (size_t c = 0; c < t.cols; c++)
			out[r * t.cols + c] = element(h, t.dtype, r * t.ld + c);
	return out;
}

void dt_gap(struct ql_tensor t, size_t from_col)
{
	size_t size = t.dtype == QL_BF16 ? 2 : 4, n = t.rows * t.ld;
	unsigned char *h = dt_host(n * size);

	dt_down(h, t.data, n * size);
	for (size_t r = 0; r < t.rows; r++)
		for (size_t c = from_col; c < t.ld; c++)
			if (!isnan(element(h, t.dtype, r * t.ld + c)))
				fail_msg("row %zu, column %zu beyond %u was written", r, c, t.cols);
}

/* ---- judging ---- */

void dt_close_tol(const char *what, const float *got, const double *want, size_t n, double tol)
{
	double d2 = 0.0, w2 = 0.0, worst = 0.0, top = 0.0;
	size_t at = 0;

	for (size_t i = 0; i < n; i++) {
		double d = (double)got[i] - want[i];

		if (!isfinite(got[i]))
			fail_msg("%s: element %zu of %zu is %g, expected %.9g", what, i, n, (double)got[i], want[i]);
		d2 += d * d;
		w2 += want[i] * want[i];
		top = fabs(want[i]) > top ? fabs(want[i]) : top;
		if (fabs(d) > worst) {
			worst = fabs(d);
			at = i;
		}
	}
	if (sqrt(d2) > tol * sqrt(w2) || worst > 4 * tol * top)
		fail_msg("%s: relative error %.3g (allowed %.3g); worst at %zu of %zu: %.9g, expected %.9g", what,
			 sqrt(d2) / (sqrt(w2) > 0 ? sqrt(w2) : 1), tol, at, n, (double)got[at], want[at]);
}

void dt_close(const char *what, const float *got, const double *want, size_t n, double factor)
{
	dt_close_tol(what, got, want, n, dt_tol() * factor);
}

/* ---- weights ---- */

const char *const dt_store_name[DT_STORES] = {"f32", "f16",	 "bf16",	"q8_0",	  "nf4",
					      "fp4", "int4", "nf4 plain", "nf4 b32", "nf4 b256"};

static void q8_row(const float *x, size_t n, unsigned char *out, double *values)
{
	for (size_t b = 0; b < n; b += 32, out += 34) {
		float top = 0.0f;
		uint16_t h;

		for (size_t i = 0; i < 32; i++)
			top = fabsf(x[b + i]) > top ? fabsf(x[b + i]) : top;
		h = ql_f16_of_f32(top / 127.0f);
		memcpy(out, &h, 2);
		for (size_t i = 0; i < 32; i++) {
			float d = ql_f32_of_f16(h), q = d > 0.0f ? rintf(x[b + i] / d) : 0.0f;

			q = q > 127.0f ? 127.0f : q < -127.0f ? -127.0f : q;
			out[2 + i] = (unsigned char)(int8_t)q;
			values[b + i] = (double)(q * d);
		}
	}
}

static void *dense_part(enum dt_store store, const float *x, uint32_t out, uint32_t in, double *values)
{
	size_t n = (size_t)out * in;
	uint16_t *half = dt_host(n * 2);
	unsigned char *q8;

	if (store == DT_F32) {
		for (size_t i = 0; i < n; i++)
			values[i] = (double)x[i];
		return memcpy(dt_host(n * 4), x, n * 4);
	}
	if (store == DT_Q8_0) {
		q8 = dt_host(n / 32 * 34);
		for (size_t r = 0; r < out; r++)
			q8_row(x + r * in, in, q8 + r * (in / 32 * 34), values + r * in);
		return q8;
	}
	for (size_t i = 0; i < n; i++) {
		half[i] = store == DT_F16 ? ql_f16_of_f32(x[i]) : ql_bf16_of_f32(x[i]);
		values[i] = (double)(store == DT_F16 ? ql_f32_of_f16(half[i]) : ql_f32_of_bf16(half[i]));
	}
	return half;
}

struct ql_weight *dt_weight(enum dt_store store, uint32_t in, uint32_t n_parts, const uint32_t *out, double **dense)
{
	static const enum ql_dtype dtype[] = {QL_F32, QL_F16, QL_BF16, QL_Q8_0};
	struct ql_weight_shape s = {.in = in, .n_parts = n_parts};
	struct ql_q4_opts opts = QL_Q4_OPTS_DEFAULT;
	struct ql_q4 q[QL_PARTS_MAX] = {0};
	const struct ql_q4 *qp[QL_PARTS_MAX] = {&q[0], &q[1], &q[2]};
	const void *parts[QL_PARTS_MAX] = {0};
	struct ql_weight *w = NULL;
	size_t rows = 0, at = 0;
	int rc;

	for (uint32_t p = 0; p < n_parts; p++)
		rows += s.out[p] = out[p];
	*dense = dt_host(rows * in * sizeof **dense);
	opts.kind = store == DT_FP4 ? QL_FP4 : store == DT_INT4 ? QL_INT4 : QL_NF4;
	opts.nested = store != DT_NF4_PLAIN;
	opts.blocksize = store == DT_NF4_B32 ? 32 : store == DT_NF4_B256 ? 256 : 64;
	for (uint32_t p = 0; p < n_parts; p++) {
		size_t n = (size_t)out[p] * in;
		float *x = dt_host(n * 4), *back = dt_host(n * 4);

		for (size_t i = 0; i < n; i++)
			x[i] = (float)(dt_normal() / sqrt((double)in));
		if (store <= DT_Q8_0) {
			parts[p] = dense_part(store, x, out[p], in, *dense + at);
		} else {
			assert_int_equal(ql_q4_quantize(&q[p], x, QL_F32, n, &opts, NULL, &err), QL_OK);
			assert_int_equal(ql_q4_dequantize(&q[p], 0, n, back, QL_F32, NULL, &err), QL_OK);
			for (size_t i = 0; i < n; i++)
				(*dense)[at + i] = (double)back[i];
		}
		at += n;
	}
	rc = store <= DT_Q8_0 ? OPS->weight_from_dense(dev, &s, dtype[store], parts, &w, &err) :
				OPS->weight_from_q4(dev, &s, qp, &w, &err);
	for (uint32_t p = 0; p < QL_PARTS_MAX; p++)
		ql_q4_free(&q[p]);
	if (rc != QL_OK)
		fail_msg("weight %s [%zu, %u]: %s", dt_store_name[store], rows, in, err.message);
	assert_true(n_weight < KEPT_MAX);
	weight_kept[n_weight++] = w;
	return w;
}
