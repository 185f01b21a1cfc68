/* kernel.h - what kernels share: overlapping launches, sums over a warp, bf16 packing, rows of 8, Philox. */
#ifndef QL_GPU_KERNEL_H
#define QL_GPU_KERNEL_H

#include "gpu/gpu.h"

/* Programmatic dependent launch (compute capability 9.0): a kernel launched by cu_launch may start while the one before it in the queue
 * still runs.  It begins with cu_release(), which lets the next one do the same, and calls cu_acquire() before it touches anything
 * but weights: that waits until all earlier work is complete and visible.  What earlier work may have written is never read by a
 * read-only load (__ldg, const __restrict__): such a load can return what L1 kept of the address from before. */
__device__ __forceinline__ void cu_release(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	cudaTriggerProgrammaticLaunchCompletion();
#endif
}
__device__ __forceinline__ void cu_acquire(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	cudaGridDependencySynchronize();
#endif
}
template <typename... P, typename... A>
static inline cudaError_t cu_launch(struct ql_device *d, struct ql_queue *q, void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, A... args)
{
	cudaLaunchAttribute at;
	cudaLaunchConfig_t c = {};

	c.gridDim = grid;
	c.blockDim = block;
	c.dynamicSmemBytes = smem;
	c.stream = q->s;
	at.id = cudaLaunchAttributeProgrammaticStreamSerialization;
	at.val.programmaticStreamSerializationAllowed = 1;
	c.attrs = &at;
	c.numAttrs = cu_of(d)->hopper ? 1 : 0;
	return cudaLaunchKernelEx(&c, kernel, P(args)...);
}
__device__ __forceinline__ float warp_sum(float v)
{
#pragma unroll
	for (int o = 16; o; o >>= 1)
		v += __shfl_xor_sync(~0u, v, o);
	return v;
}
__device__ __forceinline__ float warp_max(float v)
{
#pragma unroll
	for (int o = 16; o; o >>= 1)
		v = fmaxf(v, __shfl_xor_sync(~0u, v, o));
	return v;
}
__device__ __forceinline__ void unpack8(uint4 u, float f[8])
{
	const uint32_t w[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
	for (int i = 0; i < 4; i++) {
		f[2 * i] = __uint_as_float(w[i] << 16);
		f[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
	}
}
__device__ __forceinline__ uint32_t pack2(float a, float b)
{
	__nv_bfloat162 h = __floats2bfloat162_rn(a, b);
	uint32_t u;
	memcpy(&u, &h, 4);
	return u;
}
__device__ __forceinline__ uint4 pack8(const float f[8])
{
	return make_uint4(pack2(f[0], f[1]), pack2(f[2], f[3]), pack2(f[4], f[5]), pack2(f[6], f[7]));
}
/* 8 consecutive elements of a row; VEC: one 16-byte access, else element by element up to n */
template <bool VEC> __device__ __forceinline__ void load8(const bf16 *p, uint32_t i, uint32_t n, float f[8])
{
	if (VEC) {
		unpack8(*reinterpret_cast<const uint4 *>(p + i), f);
	} else {
#pragma unroll
		for (uint32_t j = 0; j < 8; j++)
			f[j] = i + j < n ? __bfloat162float(p[i + j]) : 0.f;
	}
}
template <bool VEC> __device__ __forceinline__ void store8(bf16 *p, uint32_t i, uint32_t n, const float f[8])
{
	if (VEC) {
		*reinterpret_cast<uint4 *>(p + i) = pack8(f);
	} else {
#pragma unroll
		for (uint32_t j = 0; j < 8; j++)
			if (i + j < n)
				p[i + j] = __float2bfloat16_rn(f[j]);
	}
}
__device__ __forceinline__ void philox4(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint64_t key, uint32_t out[4])
{
	uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
#pragma unroll
	for (int r = 0; r < 10; r++) {
		uint32_t h0 = __umulhi(0xD2511F53u, c0), l0 = 0xD2511F53u * c0;
		uint32_t h1 = __umulhi(0xCD9E8D57u, c2), l1 = 0xCD9E8D57u * c2;
		c0 = h1 ^ c1 ^ k0;
		c2 = h0 ^ c3 ^ k1;
		c1 = l1;
		c3 = l0;
		k0 += 0x9E3779B9u;
		k1 += 0xBB67AE85u;
	}
	out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

#endif
