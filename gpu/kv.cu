/* kv.cu - k_cache[slots[t]] = k[t], v_cache likewise; act rows of n_kv·head_dim, slots device int32 [T], -1 skips the row.  A slot
 * outside the cache is skipped too: slots are device data and cannot be refused here. */
#include "gpu/kernel.h"

template <typename W>
__global__ void __launch_bounds__(128) kv_kernel(const W *k, size_t ldk, const W *v, size_t ldv, const int32_t *__restrict__ slots, W *kc, size_t ldkc,
						 W *vc, size_t ldvc, uint32_t cache_rows, uint32_t n)
{
	const size_t t = blockIdx.x;

	cu_release();
	cu_acquire();
	const int32_t s = slots[t];

	if (s < 0 || (uint32_t)s >= cache_rows)
		return;
	for (uint32_t i = threadIdx.x; i < n; i += 128) {
		kc[(size_t)s * ldkc + i] = k[t * ldk + i];
		vc[(size_t)s * ldvc + i] = v[t * ldv + i];
	}
}

int cu_kv_write(struct ql_device *d, struct ql_queue *q, struct ql_tensor k, struct ql_tensor v, const int32_t *slots, struct ql_tensor kc,
		struct ql_tensor vc, struct ql_err *e)
{
	const struct ql_tensor *all[4] = {&k, &v, &kc, &vc};
	bool vec = true;

	QL_TRY(cu_begin(d, "kv_write", e));
	for (int i = 0; i < 4; i++) {
		QL_TRY(cu_check_act(all[i], "kv_write", e));
		vec = vec && cu_vec_ok(all[i]);
		if (all[i]->cols != k.cols)
			return ql_err_set(e, QL_ESHAPE, "kv_write: widths %u and %u", k.cols, all[i]->cols);
	}
	if (k.rows != v.rows || kc.rows != vc.rows)
		return ql_err_set(e, QL_ESHAPE, "kv_write: keys and values differ in rows");
	if (k.rows == 0)
		return QL_OK;
	if (vec)
		CU_TRY(cu_launch(d, q, kv_kernel<uint4>, k.rows, 128, 0, (const uint4 *)k.data, k.ld / 8, (const uint4 *)v.data, v.ld / 8, slots,
				 (uint4 *)kc.data, kc.ld / 8, (uint4 *)vc.data, vc.ld / 8, kc.rows, k.cols / 8));
	else
		CU_TRY(cu_launch(d, q, kv_kernel<uint16_t>, k.rows, 128, 0, (const uint16_t *)k.data, k.ld, (const uint16_t *)v.data, v.ld, slots,
				 (uint16_t *)kc.data, kc.ld, (uint16_t *)vc.data, vc.ld, kc.rows, k.cols));
	return QL_OK;
}
