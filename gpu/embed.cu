/* embed.cu - y[t] = scale · row ids[t] of the embedding matrix (any weight type); act [T, d].  An id outside the vocabulary gives a row of
 * zeros: ids are device data and cannot be refused here. */
#include "gpu/element.h"

__global__ void __launch_bounds__(256) embed_kernel(struct cu_any a, const int32_t *__restrict__ ids, float scale, bf16 *y, size_t ld)
{
	const int32_t id = ids[blockIdx.x];
	const bool ok = id >= 0 && (uint32_t)id < a.vocab;

	for (uint32_t i = threadIdx.x; i < a.in; i += 256)
		y[blockIdx.x * ld + i] = ok ? __float2bfloat16_rn(scale * cu_element(a, (uint32_t)id, i)) : __float2bfloat16_rn(0.f);
}

__global__ void __launch_bounds__(128) embed_copy(const uint4 *w, size_t ldw, uint32_t vocab, const int32_t *__restrict__ ids, uint4 *y, size_t ld)
{
	const int32_t id = ids[blockIdx.x];
	const bool ok = id >= 0 && (uint32_t)id < vocab;

	for (uint32_t i = threadIdx.x; i < ldw; i += 128)
		y[blockIdx.x * ld + i] = ok ? w[(size_t)id * ldw + i] : make_uint4(0, 0, 0, 0);
}

int cu_embed(struct ql_device *d, struct ql_queue *q, const struct ql_weight *w, const int32_t *ids, float scale, struct ql_tensor y,
	     struct ql_err *e)
{
	QL_TRY(cu_begin(d, "embed", e));
	QL_TRY(cu_check_act(&y, "y", e));
	if (y.cols != w->in)
		return ql_err_set(e, QL_ESHAPE, "embed: %u columns for rows of %u", y.cols, w->in);
	if (y.rows == 0)
		return QL_OK;
	if (w->dtype == QL_BF16 && cu_vec_ok(&y) && scale >= 1.f && scale <= 1.f) {
		embed_copy<<<y.rows, 128, 0, q->s>>>((const uint4 *)w->dense, w->in / 8, w->out, ids, (uint4 *)y.data, y.ld / 8);
	} else {
		embed_kernel<<<y.rows, 256, 0, q->s>>>(cu_any_of(w), ids, scale, (bf16 *)y.data, y.ld);
	}
	CU_LAUNCHED();
	return QL_OK;
}
