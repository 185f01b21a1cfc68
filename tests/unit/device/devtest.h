/* devtest.h - helpers of the op tests.  Every test runs on the device named by QL_TEST_DEVICE (cpu, the default, or cuda)
 * and never touches device memory from the host.  Ops are compared with plain fp64 loops written in the tests.
 *
 * Inputs are rounded to the device's activation type first, so that reference and device see the same numbers.  Outputs
 * are filled with NaNs before the call; a gap between rows (ld > cols) must still hold them afterwards. */
#ifndef QL_TESTS_DEVTEST_H
#define QL_TESTS_DEVTEST_H

#include "tests/unit/cm.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/device/device.h"
#include "core/quant/q4.h"

extern struct ql_device *dev;
extern struct ql_queue *queue;
extern struct ql_err err;

int dt_setup(void **state);    /* group setup: opens the device */
int dt_teardown(void **state); /* frees what the test allocated, closes */
int dt_each(void **state);     /* test teardown: frees what the test allocated */
bool dt_is_cpu(void);
/* another device of the same kind with that many threads (CPU); the caller swaps dev and queue, see test_determinism.c */
struct ql_device *dt_open_threads(int n_threads);

/* calls an op and fails the test with its message unless it returns QL_OK */
#define OK(call)                                                                                                       \
	do {                                                                                                           \
		int rc_ = (call);                                                                                      \
		if (rc_ != QL_OK)                                                                                      \
			fail_msg("%s: %s (%d)", #call, err.message, rc_);                                              \
	} while (0)
#define OPS (dev->ops)

/* ---- numbers ---- */
void dt_seed(uint64_t seed);
double dt_normal(void);
uint32_t dt_below(uint32_t n);
float dt_round(double x); /* to the activation type */
double dt_tol(void);	  /* 1e-5 for f32, 1e-2 for bf16 */
/* n rounded normals times scale; freed by dt_each */
float *dt_randn(size_t n, double scale);
void *dt_host(size_t bytes); /* zeroed host memory, freed by dt_each */

/* ---- device memory, freed by dt_each ---- */
void *dt_alloc(size_t bytes);
void *dt_up(const void *src, size_t bytes); /* copy of host memory */
float *dt_nan_f32(size_t n);		    /* f32 array of NaNs */
void dt_down(void *dst, const void *src, size_t bytes);
size_t dt_ld(size_t cols, size_t ext); /* a leading dimension with a gap, fit for ext columns */
struct ql_tensor dt_put(const float *host, uint32_t rows, uint32_t cols, size_t ld); /* host is [rows, cols] */
struct ql_tensor dt_out(uint32_t rows, uint32_t cols, size_t ld);		      /* NaNs */
struct ql_tensor dt_out_f32(uint32_t rows, uint32_t cols, size_t ld);
float *dt_get(struct ql_tensor t);		     /* [rows, cols] */
void dt_gap(struct ql_tensor t, size_t from_col);    /* columns from_col … ld-1 of all rows but the last are NaN still */
struct ql_tensor dt_none(void);

/* ---- judging: ‖got - want‖ ≤ tol·‖want‖ and max|got - want| ≤ 4·tol·max|want|; factor loosens both ---- */
void dt_close(const char *what, const float *got, const double *want, size_t n, double factor);
void dt_close_tol(const char *what, const float *got, const double *want, size_t n, double tol);

/* ---- weights: random, in several stored forms; *dense receives the values the device must use, [Σ out, in] ---- */
enum dt_store { DT_F32, DT_F16, DT_BF16, DT_Q8_0, DT_NF4, DT_FP4, DT_INT4, DT_NF4_PLAIN, DT_NF4_B32, DT_NF4_B256, DT_STORES };
extern const char *const dt_store_name[DT_STORES];
struct ql_weight *dt_weight(enum dt_store store, uint32_t in, uint32_t n_parts, const uint32_t *out, double **dense);

#endif
