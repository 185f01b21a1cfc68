/* gpu_ops.cu - what the CUDA ops reach on this card, each beside its ceiling in the same run.  Shapes of an 8B model (hidden 4096,
 * 32 heads over 8 of 128, ffn 14336, vocabulary 128256, 32 layers), adapters of rank 16 on all seven linears.
 *
 * Prints: copy bandwidth; quantise and dequantise; matrix-vector products; a layer's forward and backward op by op with
 * TFLOP/s or TB/s, for several token counts, from 4-bit weights and from resident copies; the training step of 32 layers and
 * the head that follows from it, against the same step's bare matrix products; a decode step of 32 layers in a graph.
 * Usage: gpu_ops [section …] with sections copy quant matvec layer decode (default: all).  Times are medians of event pairs. */
#include <algorithm>
#include <functional>
#include <vector>

#include "gpu/gpu.h"

static struct ql_device *dev;
static struct ql_queue *q;
static struct ql_err err;

#define OK(call)                                                                      \
	do {                                                                          \
		int rc_ = (call);                                                     \
		if (rc_ != QL_OK) {                                                   \
			printf("%s:%d: %s (%d)\n", __FILE__, __LINE__, err.message, rc_); \
			exit(1);                                                      \
		}                                                                     \
	} while (0)
#define CU(call)                                                                                          \
	do {                                                                                              \
		cudaError_t rc_ = (call);                                                                 \
		if (rc_ != cudaSuccess) {                                                                 \
			printf("%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(rc_));                   \
			exit(1);                                                                          \
		}                                                                                         \
	} while (0)

enum { H = 4096, F = 14336, NQ = 32, NKV = 8, HD = 128, QKV = 6144, V = 128256, L = 32, R = 16 };

__global__ void fill_bf16(bf16 *p, size_t n, uint32_t seed, float scale)
{
	for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
		uint32_t x = (uint32_t)i * 2654435761u ^ seed;

		x ^= x >> 16;
		x *= 0x85ebca6bu;
		x ^= x >> 13;
		x *= 0xc2b2ae35u;
		x ^= x >> 16;
		p[i] = __float2bfloat16_rn(((float)(x & 0xffff) / 32768.f - 1.f) * scale);
	}
}

__global__ void fill_f32(float *p, size_t n, float v, float step)
{
	for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
		p[i] = v + step * (float)((i * 2654435761u >> 7) % 1000) * 1e-3f;
}

static void *take(size_t bytes)
{
	void *p;

	OK(dev->ops->alloc(dev, QL_MEM_ACTIVATION, bytes, &p, &err));
	return p;
}

static bf16 *take_bf16(size_t n, float scale)
{
	bf16 *p = (bf16 *)take(n * 2);

	fill_bf16<<<1024, 256, 0, q->s>>>(p, n, (uint32_t)(uintptr_t)p, scale);
	return p;
}

static float *take_f32(size_t n, float v, float step)
{
	float *p = (float *)take(n * 4);

	fill_f32<<<1024, 256, 0, q->s>>>(p, n, v, step);
	return p;
}

static void give(void *p) { dev->ops->free(dev, p); }

/* median over reps of the time of one call; `inner` calls lie between two events, so that launch gaps count as they do in a stream of work */
static double time_us(int reps, const std::function<void(int)> &f, int inner = 1)
{
	std::vector<float> t;
	cudaEvent_t a, b;

	CU(cudaEventCreate(&a));
	CU(cudaEventCreate(&b));
	for (int i = 0; i < 3; i++)
		f(i);
	for (int i = 0; i < reps; i++) {
		float ms;

		CU(cudaEventRecord(a, q->s));
		for (int k = 0; k < inner; k++)
			f(i * inner + k);
		CU(cudaEventRecord(b, q->s));
		CU(cudaEventSynchronize(b));
		CU(cudaEventElapsedTime(&ms, a, b));
		t.push_back(ms / (float)inner);
	}
	CU(cudaEventDestroy(a));
	CU(cudaEventDestroy(b));
	std::sort(t.begin(), t.end());
	return t[t.size() / 2] * 1e3;
}

/* a 4-bit weight of random codes */
static struct ql_weight *synthetic(uint32_t in, std::vector<uint32_t> out)
{
	struct ql_weight_shape s = {in, (uint32_t)out.size(), {0, 0, 0}};
	struct ql_q4 part[3];
	const struct ql_q4 *ptr[3];
	static std::vector<uint8_t> codes, aq;
	static std::vector<float> nested;
	struct ql_weight *w;

	for (size_t p = 0; p < out.size(); p++) {
		uint64_t n = (uint64_t)in * out[p], m = n / 64;

		s.out[p] = out[p];
		if (codes.size() < n / 2) {
			uint32_t x = 12345;

			codes.resize(n / 2);
			aq.resize(m);
			nested.assign(m / 256 + 1, 0.01f);
			for (size_t i = 0; i < codes.size(); i++)
				codes[i] = (uint8_t)((x = x * 1664525u + 1013904223u) >> 24);
			for (size_t i = 0; i < aq.size(); i++)
				aq[i] = (uint8_t)(100 + i % 50);
		}
	}
	for (size_t p = 0; p < out.size(); p++) {
		memset(&part[p], 0, sizeof part[p]);
		part[p].kind = QL_NF4;
		part[p].n = (uint64_t)in * out[p];
		part[p].blocksize = 64;
		part[p].nested = true;
		part[p].nested_blocksize = 256;
		memcpy(part[p].code, ql_q4_code(QL_NF4), 64);
		memcpy(part[p].nested_map, ql_dynamic_map_signed(), 1024);
		part[p].codes = codes.data();
		part[p].absmax_q = aq.data();
		part[p].nested_absmax = nested.data();
		part[p].offset = 0.03f;
		ptr[p] = &part[p];
	}
	OK(dev->ops->weight_from_q4(dev, &s, ptr, &w, &err));
	return w;
}

static struct ql_weight *dense_head(void)
{
	struct ql_weight_shape s = {H, 1, {V, 0, 0}};
	std::vector<uint16_t> rows((size_t)V * H);
	const void *p = rows.data();
	struct ql_weight *w;
	uint32_t x = 99;

	for (auto &v : rows) {
		x = x * 1664525u + 1013904223u;
		v = (uint16_t)(x >> 16 & 0x80ff) | 0x3c00;
	}
	OK(dev->ops->weight_from_dense(dev, &s, QL_BF16, &p, &w, &err));
	return w;
}

static double copy_tb;

static void bench_copy(void)
{
	const size_t n = (size_t)2 << 30;
	void *a = take(n), *b = take(n);
	double us = time_us(20, [&](int) { CU(cudaMemcpyAsync(b, a, n, cudaMemcpyDeviceToDevice, q->s)); });

	copy_tb = 2.0 * n / us / 1e6;
	printf("copy: %.2f TB/s (read + written)\n", copy_tb);
	give(a);
	give(b);
}

static void bench_quant(void)
{
	const uint64_t n = (uint64_t)F * H, m = n / 64;
	const int N = 4;
	bf16 *src[N];
	uint8_t *codes = (uint8_t *)take(n / 2), *aq = (uint8_t *)take(m), *tmp = (uint8_t *)take(CU_QUANT_TMP);
	float *absmax = (float *)take(m * 4), *nested = (float *)take(m / 256 * 4 + 4), *off = (float *)take(4), *map = (float *)take(1024);
	unsigned long long *bad = (unsigned long long *)take(8);
	struct cu_book book = {{-0.8480964004993439f, -0.6106329262256622f, -0.4599952697753906f, -0.33967943489551544f, -0.23460740596055984f,
				-0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f, 0.1202552504837513f, 0.2035212516784668f,
				0.2920137718319893f, 0.3893125355243683f, 0.5016634166240692f, 0.6427869200706482f, 0.8614784181118011f},
			       0xfedcba9876543210ull, 7};

	for (int i = 0; i < N; i++)
		src[i] = take_bf16(n, 0.02f);
	OK(dev->ops->upload(dev, q, map, ql_dynamic_map_signed(), 1024, &err));
	double us = time_us(40, [&](int i) {
		OK(cu_quant_blocks(dev, q, src[i % N], QL_BF16, 0, n, &book, codes, absmax, bad, &err));
		OK(cu_quant_nested(dev, q, absmax, m, map, aq, nested, off, tmp, &err));
	}, 4);
	double us1 = time_us(40, [&](int i) { OK(cu_quant_blocks(dev, q, src[i % N], QL_BF16, 0, n, &book, codes, absmax, bad, &err)); }, 4);
	printf("quantise 14336x4096 bf16 -> nf4 nested: %.1f us, %.2f TB/s read (blocks alone %.1f us, %.2f TB/s)\n", us, n * 2 / us / 1e6, us1,
	       n * 2 / us1 / 1e6);
	struct ql_weight *w[N];
	for (int i = 0; i < N; i++)
		w[i] = synthetic(H, {F});
	us = time_us(40, [&](int i) { OK(cu_weight_expand(dev, q, w[i % N], src[i % N], H, &err)); }, 8);
	printf("dequantise 14336x4096 nf4 nested -> bf16: %.1f us, %.2f TB/s written (%.2f TB/s moved)\n", us, n * 2 / us / 1e6, n * (2 + .516) / us / 1e6);
	for (int i = 0; i < N; i++) {
		dev->ops->weight_free(dev, w[i]);
		give(src[i]);
	}
	give(codes), give(aq), give(tmp), give(absmax), give(nested), give(off), give(map), give(bad);
}

static void bench_matvec(void)
{
	const int N = 6;
	struct { uint32_t in; std::vector<uint32_t> out; } shape[] = {{H, {F}}, {H, {4096, 1024, 1024}}, {H, {H}}, {H, {F, F}}, {F, {H}}};
	bf16 *x = take_bf16((size_t)16 * F, 1.f);
	void *y = take((size_t)16 * V * 4);

	for (auto &s : shape) {
		struct ql_weight *w[N];
		uint32_t out = 0;

		for (auto o : s.out)
			out += o;
		for (int i = 0; i < N; i++)
			w[i] = synthetic(s.in, s.out);
		for (uint32_t T : {1u, 4u, 8u, 16u}) {
			double us = time_us(15, [&](int i) {
				struct ql_linear a = {};

				a.w = w[i % N];
				a.x = {x, QL_BF16, T, s.in, s.in};
				a.y = {y, QL_BF16, T, out, out};
				OK(dev->ops->linear(dev, q, &a, &err));
			}, 12);
			printf("matvec nf4 %ux%u T=%u: %.1f us, %.2f TB/s of weights\n", out, s.in, T, us, cu_weight_bytes(w[0]) / us / 1e6);
		}
		for (int i = 0; i < N; i++)
			dev->ops->weight_free(dev, w[i]);
	}
	struct ql_weight *h = dense_head();
	for (uint32_t T : {1u, 16u}) {
		double us = time_us(20, [&](int) {
			struct ql_linear a = {};

			a.w = h;
			a.x = {x, QL_BF16, T, H, H};
			a.y = {y, QL_F32, T, V, V};
			OK(dev->ops->linear(dev, q, &a, &err));
		});
		printf("matvec bf16 head %dx%d T=%u: %.1f us, %.2f TB/s of weights\n", V, H, T, us, (double)V * H * 2 / us / 1e6);
	}
	dev->ops->weight_free(dev, h);
	give(x);
	give(y);
}

/* ---- a layer ---- */

struct layer {
	struct ql_weight *qkv, *o, *gu, *down;
	struct ql_lora_seg seg[4];
};

static struct ql_lora lora(uint32_t in, uint32_t out)
{
	struct ql_lora l = {take_f32((size_t)R * in, -0.01f, 0.02f), take_f32((size_t)out * R, -0.01f, 0.02f), take_f32((size_t)R * in, 0, 0),
			    take_f32((size_t)out * R, 0, 0), R, 2.f};

	return l;
}

static struct layer make_layer(bool adapters)
{
	struct layer l = {};

	l.qkv = synthetic(H, {4096, 1024, 1024});
	l.o = synthetic(H, {H});
	l.gu = synthetic(H, {F, F});
	l.down = synthetic(F, {H});
	if (adapters) {
		l.seg[0].part[0] = lora(H, 4096), l.seg[0].part[1] = lora(H, 1024), l.seg[0].part[2] = lora(H, 1024);
		l.seg[1].part[0] = lora(H, H);
		l.seg[2].part[0] = lora(H, F), l.seg[2].part[1] = lora(H, F);
		l.seg[3].part[0] = lora(F, H);
	}
	return l;
}

static void free_layer(struct layer *l)
{
	for (auto w : {l->qkv, l->o, l->gu, l->down})
		dev->ops->weight_free(dev, w);
}

struct op_time {
	const char *name;
	double flops, bytes;
	std::vector<float> ms;
};

static struct ql_tensor act(bf16 *p, uint32_t T, uint32_t cols, size_t ld) { return {p, QL_BF16, T, cols, ld}; }

static void bench_layer(uint32_t T, uint32_t seq, bool resident)
{
	struct layer l = make_layer(true);
	const uint32_t S = T / seq;
	const size_t E = 64;
	const struct ql_device_ops *o = dev->ops;
	std::vector<int32_t> cu(S + 1), pos(T), rows(T);
	std::vector<float> inv(HD / 2);
	bf16 *x0 = take_bf16((size_t)T * H, 1), *h1 = take_bf16((size_t)T * (H + E), 1), *qkv = take_bf16((size_t)T * (QKV + E), 1),
	     *at = take_bf16((size_t)T * (H + E), 1), *x2 = take_bf16((size_t)T * H, 1), *h2 = take_bf16((size_t)T * (H + E), 1),
	     *gu = take_bf16((size_t)T * (2 * F + E), 1), *ac = take_bf16((size_t)T * (F + E), 1), *x3 = take_bf16((size_t)T * (H + E), 1e-3f),
	     *dac = take_bf16((size_t)T * (F + E), 1), *dgu = take_bf16((size_t)T * (2 * F + E), 1), *dh = take_bf16((size_t)T * (H + E), 1),
	     *dx2 = take_bf16((size_t)T * (H + E), 1), *dat = take_bf16((size_t)T * (H + E), 1), *dqkv = take_bf16((size_t)T * (QKV + E), 1),
	     *dx = take_bf16((size_t)T * (H + E), 1), *dy = take_bf16((size_t)T * (H + E), 1e-3f);
	float *w1 = take_f32(H, 1, 0), *rs1 = take_f32(T, 0, 0), *rs2 = take_f32(T, 0, 0), *lse = take_f32((size_t)NQ * T, 0, 0), *nll = take_f32(T, 0, 0);
	int32_t *dcu = (int32_t *)take((S + 1) * 4), *dpos = (int32_t *)take(T * 4), *drows = (int32_t *)take(T * 4);
	float *dinv = (float *)take(HD / 2 * 4);

	for (uint32_t s = 0; s <= S; s++)
		cu[s] = (int32_t)(s * seq);
	for (uint32_t t = 0; t < T; t++)
		pos[t] = (int32_t)(t % seq), rows[t] = (int32_t)t;
	for (int i = 0; i < HD / 2; i++)
		inv[i] = powf(500000.f, -2.f * i / HD);
	OK(o->upload(dev, q, dcu, cu.data(), (S + 1) * 4, &err));
	OK(o->upload(dev, q, dpos, pos.data(), T * 4, &err));
	OK(o->upload(dev, q, drows, rows.data(), T * 4, &err));
	OK(o->upload(dev, q, dinv, inv.data(), HD / 2 * 4, &err));
	for (int i = 0; i < 4; i++)
		l.seg[i].row_end = T;
	for (auto w : {l.qkv, l.o, l.gu, l.down})
		OK(o->weight_resident(dev, w, resident, &err));

	auto lin = [&](struct ql_weight *w, int seg, struct ql_tensor x, struct ql_tensor y, const void *res, size_t ldr) {
		struct ql_linear a = {};

		a.w = w, a.x = x, a.y = y, a.residual = res, a.ld_residual = ldr, a.segs = &l.seg[seg], a.n_segs = 1;
		OK(o->linear(dev, q, &a, &err));
	};
	auto grad = [&](struct ql_weight *w, int seg, struct ql_tensor gy, struct ql_tensor x, struct ql_tensor gx) {
		struct ql_linear_grad a = {};

		a.w = w, a.dy = gy, a.x = x, a.dx = gx, a.segs = &l.seg[seg], a.n_segs = 1;
		OK(o->linear_grad(dev, q, &a, &err));
	};
	struct ql_attn f = {};
	const size_t lq = QKV + E;
	f.q = act(qkv, T, H, lq), f.k = act(qkv + H, T, 1024, lq), f.v = act(qkv + H + 1024, T, 1024, lq), f.o = act(at, T, H, H + E);
	f.lse = lse, f.n_head = NQ, f.n_kv = NKV, f.head_dim = HD, f.n_seqs = S, f.cu_seqlens = dcu, f.cu_seqlens_host = cu.data();
	f.scale = 0.08838834764831845f;
	struct ql_attn_grad fg = {};
	fg.f = f, fg.d_o = act(dat, T, H, H + E);
	fg.dq = act(dqkv, T, H, lq), fg.dk = act(dqkv + H, T, 1024, lq), fg.dv = act(dqkv + H + 1024, T, 1024, lq);
	const double TH = (double)T * H * 2, fa = 4.0 * seq * seq / 2 * NQ * HD * S;
	auto gf = [&](double out, double in) { return 2.0 * T * out * in; };
	std::vector<std::pair<op_time, std::function<void(void)>>> ops = {
		{{"rmsnorm 1", 0, 2 * TH, {}}, [&] { OK(o->rmsnorm(dev, q, act(x0, T, H, H), w1, 0, 1e-5f, {}, act(h1, T, H, H + E), rs1, &err)); }},
		{{"linear qkv", gf(QKV, H), 0, {}}, [&] { lin(l.qkv, 0, act(h1, T, H, H + E), act(qkv, T, QKV, lq), NULL, 0); }},
		{{"rope q|k", 0, 2.5 * TH, {}}, [&] { OK(o->rope(dev, q, act(qkv, T, H + 1024, lq), NQ + NKV, HD, dpos, dinv, 1, &err)); }},
		{{"attention", fa, 0, {}}, [&] { OK(o->attention(dev, q, &f, &err)); }},
		{{"linear o", gf(H, H), 0, {}}, [&] { lin(l.o, 1, act(at, T, H, H + E), act(x2, T, H, H), x0, H); }},
		{{"rmsnorm 2", 0, 2 * TH, {}}, [&] { OK(o->rmsnorm(dev, q, act(x2, T, H, H), w1, 0, 1e-5f, {}, act(h2, T, H, H + E), rs2, &err)); }},
		{{"linear gate|up", gf(2 * F, H), 0, {}}, [&] { lin(l.gu, 2, act(h2, T, H, H + E), act(gu, T, 2 * F, 2 * F + E), NULL, 0); }},
		{{"swiglu", 0, 3.0 * T * F * 2, {}},
		 [&] { OK(o->swiglu(dev, q, QL_ACT_SILU, act(gu, T, F, 2 * F + E), act(gu + F, T, F, 2 * F + E), act(ac, T, F, F + E), &err)); }},
		{{"linear down", gf(H, F), 0, {}}, [&] { lin(l.down, 3, act(ac, T, F, F + E), act(x3, T, H, H + E), x2, H); }},
		{{"grad down", gf(H, F), 0, {}}, [&] { grad(l.down, 3, act(dy, T, H, H + E), act(ac, T, F, F + E), act(dac, T, F, F + E)); }},
		{{"swiglu grad", 0, 5.0 * T * F * 2, {}},
		 [&] {
			 OK(o->swiglu_grad(dev, q, QL_ACT_SILU, act(dac, T, F, F + E), act(gu, T, F, 2 * F + E), act(gu + F, T, F, 2 * F + E), act(dgu, T, F, 2 * F + E),
					   act(dgu + F, T, F, 2 * F + E), &err));
		 }},
		{{"grad gate|up", gf(2 * F, H), 0, {}}, [&] { grad(l.gu, 2, act(dgu, T, 2 * F, 2 * F + E), act(h2, T, H, H + E), act(dh, T, H, H + E)); }},
		{{"rmsnorm grad 2", 0, 4 * TH, {}},
		 [&] { OK(o->rmsnorm_grad(dev, q, act(x2, T, H, H), w1, 0, rs2, act(dh, T, H, H + E), act(dy, T, H, H + E), act(dx2, T, H, H + E), &err)); }},
		{{"grad o", gf(H, H), 0, {}}, [&] { grad(l.o, 1, act(dx2, T, H, H + E), act(at, T, H, H + E), act(dat, T, H, H + E)); }},
		{{"attention grad", 2.5 * fa, 0, {}}, [&] { OK(o->attention_grad(dev, q, &fg, &err)); }},
		{{"rope grad q|k", 0, 2.5 * TH, {}}, [&] { OK(o->rope(dev, q, act(dqkv, T, H + 1024, lq), NQ + NKV, HD, dpos, dinv, -1, &err)); }},
		{{"grad qkv", gf(QKV, H), 0, {}}, [&] { grad(l.qkv, 0, act(dqkv, T, QKV, lq), act(h1, T, H, H + E), act(dh, T, H, H + E)); }},
		{{"rmsnorm grad 1", 0, 4 * TH, {}},
		 [&] { OK(o->rmsnorm_grad(dev, q, act(x0, T, H, H), w1, 0, rs1, act(dh, T, H, H + E), act(dx2, T, H, H + E), act(dx, T, H, H + E), &err)); }},
	};
	const int reps = 12;
	std::vector<cudaEvent_t> ev(ops.size() + 1);
	std::vector<float> total;
	for (auto &v : ev)
		CU(cudaEventCreate(&v));
	for (int r = -3; r < reps; r++) {
		for (size_t i = 0; i < ops.size(); i++) {
			CU(cudaEventRecord(ev[i], q->s));
			ops[i].second();
		}
		CU(cudaEventRecord(ev[ops.size()], q->s));
		if (r % 4 == 3 || r == reps - 1 || r < 0)
			CU(cudaEventSynchronize(ev[ops.size()]));
		else
			CU(cudaEventSynchronize(ev[ops.size()]));
		for (size_t i = 0; r >= 0 && i < ops.size(); i++) {
			float ms;

			CU(cudaEventElapsedTime(&ms, ev[i], ev[i + 1]));
			ops[i].first.ms.push_back(ms);
		}
		if (r >= 0) {
			float ms;

			CU(cudaEventElapsedTime(&ms, ev[0], ev[ops.size()]));
			total.push_back(ms);
		}
	}
	/* the whole layer as a stream of work, 8 layers deep, without events in between */
	double layer_us = time_us(5, [&](int) {
		for (int k = 0; k < 8; k++)
			for (auto &p : ops)
				p.second();
	}) / 8;
	double fwd_us = time_us(5, [&](int) {
		for (int k = 0; k < 8; k++)
			for (size_t i = 0; i < 9; i++)
				ops[i].second();
	}) / 8;
	/* the same layer's bare matrix products */
	std::vector<bf16 *> wb;
	for (auto n : {(size_t)QKV * H, (size_t)H * H, (size_t)2 * F * H, (size_t)H * F})
		wb.push_back(take_bf16(n, 0.02f));
	double gemm_us = time_us(5, [&](int) {
		const uint64_t ns[4] = {QKV, H, 2 * F, H}, ks[4] = {H, H, H, F};

		for (int k = 0; k < 4; k++)
			for (int i = 0; i < 4; i++) {
				OK(cu_gemm_nt(dev, q, T, ns[i], ks[i], 1, dgu, ks[i], wb[i], ks[i], 0, NULL, 0, gu, ns[i], QL_BF16, NULL, &err));
				OK(cu_gemm_nn(dev, q, T, ks[i], ns[i], 1, gu, ns[i], wb[i], ks[i], 0, NULL, 0, dgu, ks[i], QL_BF16, &err));
			}
	}) / 4;
	for (auto p : wb)
		give(p);
	/* the head */
	struct ql_weight *head = dense_head();
	std::vector<int32_t> lab(T);
	for (uint32_t t = 0; t < T; t++)
		lab[t] = (int32_t)(t * 7919 % V);
	OK(o->upload(dev, q, dpos, lab.data(), T * 4, &err));
	double head_us = time_us(3, [&](int) {
		struct ql_xent a = {};

		a.head = head, a.hidden = act(x0, T, H, H), a.rows = drows, a.labels = dpos, a.n = T, a.grad_scale = 1.f / T, a.nll = nll;
		a.dhidden = act(dx, T, H, H + E);
		OK(o->cross_entropy(dev, q, &a, &err));
	});
	float *z = (float *)take((size_t)1024 * V * 4);
	double head_gemm_us = time_us(3, [&](int) {
		for (uint32_t t = 0; t < T; t += 1024) {
			OK(cu_gemm_nt(dev, q, 1024, V, H, 1, x0, H, head->dense, H, 0, NULL, 0, z, V, QL_F32, NULL, &err));
			OK(cu_gemm_nn(dev, q, 1024, H, V, 1, z, V, head->dense, H, 0, NULL, 0, dx, H, QL_BF16, &err));
		}
	});
	give(z);
	o->weight_free(dev, head);
	printf("\nlayer, T=%u in sequences of %u, %s weights\n", T, seq, resident ? "resident bf16" : "nf4");
	double sum = 0;
	for (auto &p : ops) {
		std::sort(p.first.ms.begin(), p.first.ms.end());
		sum += p.first.ms[p.first.ms.size() / 2] * 1e3;
	}
	for (auto &p : ops) {
		const double us = p.first.ms[p.first.ms.size() / 2] * 1e3;

		printf("  %-15s %8.1f us %5.1f %%", p.first.name, us, 100 * us / sum);
		if (p.first.flops > 0)
			printf("  %6.0f TFLOP/s\n", p.first.flops / us / 1e6);
		else
			printf("  %6.2f TB/s\n", p.first.bytes / us / 1e6);
	}
	std::sort(total.begin(), total.end());
	const double step = L * layer_us + head_us, ceiling = L * gemm_us + head_gemm_us;
	printf("  layer %.0f us (ops apart %.0f), forward %.0f us; matrix products alone %.0f us; head %.0f us (products alone %.0f)\n", layer_us, sum, fwd_us,
	       gemm_us, head_us, head_gemm_us);
	printf("  step of %d layers + head: %.0f tok/s = %.2f of the products-only ceiling %.0f tok/s; with recomputation %.0f tok/s; prefill %.0f tok/s\n", L,
	       T / step * 1e6, ceiling / step, T / ceiling * 1e6, T / (step + L * fwd_us) * 1e6, T / (L * fwd_us) * 1e6);
	fflush(stdout);
	for (auto &v : ev)
		CU(cudaEventDestroy(v));
	for (auto p : {x0, h1, qkv, at, x2, h2, gu, ac, x3, dac, dgu, dh, dx2, dat, dqkv, dx, dy})
		give(p);
	for (auto p : {w1, rs1, rs2, lse, nll, dinv})
		give(p);
	for (auto p : {dcu, dpos, drows})
		give(p);
	for (int i = 0; i < 4; i++)
		for (int p = 0; p < 3; p++) {
			const struct ql_lora &a = l.seg[i].part[p];

			give((void *)a.a), give((void *)a.b), give(a.da), give(a.db);
		}
	free_layer(&l);
}

/* ---- decode ---- */

static void bench_decode(void)
{
	const uint32_t ctx = 512, BT = 16, slots = 8, TM = 16;
	const struct ql_device_ops *o = dev->ops;
	std::vector<struct layer> ls;
	struct ql_weight *head = dense_head();
	struct ql_lora_table *table;
	const uint32_t blocks_per = (ctx + BT) / BT + 1, n_blocks = blocks_per * TM;
	std::vector<bf16 *> kc, vc;
	struct ql_lora big = lora(F, 2 * F); /* large enough for every shape */

	for (int i = 0; i < L; i++) {
		ls.push_back(make_layer(false));
		kc.push_back(take_bf16((size_t)n_blocks * BT * 1024, 1));
		vc.push_back(take_bf16((size_t)n_blocks * BT * 1024, 1));
	}
	OK(o->table_new(dev, slots, 7 * L, &table, &err));
	for (uint32_t s = 0; s < slots; s++)
		for (uint32_t i = 0; i < 7 * L; i++) {
			static const uint32_t in[7] = {H, H, H, H, H, H, F}, out[7] = {H, 1024, 1024, H, F, F, H};

			OK(o->table_set(dev, q, table, s, i, in[i % 7], out[i % 7], &big, &err));
		}
	bf16 *x = take_bf16(TM * H, 1), *h = take_bf16(TM * H, 1), *qkv = take_bf16(TM * QKV, 1), *at = take_bf16(TM * H, 1), *gu = take_bf16((size_t)TM * 2 * F, 1),
	     *ac = take_bf16((size_t)TM * F, 1);
	float *w1 = take_f32(H, 1, 0), *logits = take_f32((size_t)TM * V, 0, 0), *dinv = take_f32(HD / 2, 0.01f, 0);
	std::vector<int32_t> pos(TM, ctx), slot(TM), qb(TM + 1), kvl(TM, ctx + 1), bt(TM * blocks_per), sl(TM), ids(TM, 5);
	int32_t *dpos = (int32_t *)take(64), *dslot = (int32_t *)take(64), *dqb = (int32_t *)take(128), *dkvl = (int32_t *)take(64), *dsl = (int32_t *)take(64),
		*dbt = (int32_t *)take(bt.size() * 4), *dids = (int32_t *)take(64);
	for (uint32_t t = 0; t < TM; t++) {
		slot[t] = (int32_t)(t % slots);
		sl[t] = (int32_t)(t * blocks_per * BT + ctx);
		for (uint32_t b = 0; b < blocks_per; b++)
			bt[t * blocks_per + b] = (int32_t)(t * blocks_per + b);
	}
	for (uint32_t t = 0; t <= TM; t++)
		qb[t] = (int32_t)t;
	OK(o->upload(dev, q, dpos, pos.data(), TM * 4, &err));
	OK(o->upload(dev, q, dslot, slot.data(), TM * 4, &err));
	OK(o->upload(dev, q, dqb, qb.data(), (TM + 1) * 4, &err));
	OK(o->upload(dev, q, dkvl, kvl.data(), TM * 4, &err));
	OK(o->upload(dev, q, dsl, sl.data(), TM * 4, &err));
	OK(o->upload(dev, q, dbt, bt.data(), bt.size() * 4, &err));
	OK(o->upload(dev, q, dids, ids.data(), TM * 4, &err));
	OK(o->sync(dev, q, &err));
	double base = 0;
	for (int adapters = 0; adapters < 2; adapters++)
		for (uint32_t T : {1u, 2u, 4u, 8u, 16u}) {
			struct ql_graph *g;
			auto lin = [&](struct ql_weight *w, bf16 *in, uint32_t ni, void *out, enum ql_dtype t, uint32_t no, const void *res, uint32_t site) {
				struct ql_linear a = {};

				a.w = w, a.x = {in, QL_BF16, T, ni, ni}, a.y = {out, t, T, no, no}, a.residual = res, a.ld_residual = no;
				if (adapters && site != ~0u)
					a.table = table, a.row_slot = dslot, a.site0 = site;
				OK(o->linear(dev, q, &a, &err));
			};
			auto rows = [&](bf16 *p, uint32_t n, size_t ld) { return ql_tensor{p, QL_BF16, T, n, ld}; };

			OK(o->graph_begin(dev, q, &err));
			for (uint32_t i = 0; i < L; i++) {
				struct layer &l = ls[i];
				struct ql_paged_attn p = {};

				OK(o->rmsnorm(dev, q, rows(x, H, H), w1, 0, 1e-5f, {}, rows(h, H, H), NULL, &err));
				lin(l.qkv, h, H, qkv, QL_BF16, QKV, NULL, 7 * i);
				OK(o->rope(dev, q, rows(qkv, H + 1024, QKV), NQ + NKV, HD, dpos, dinv, 1, &err)); /* q and k lie side by side */
				ql_tensor kct = {kc[i], QL_BF16, n_blocks * BT, 1024, 1024}, vct = {vc[i], QL_BF16, n_blocks * BT, 1024, 1024};
				OK(o->kv_write(dev, q, rows(qkv + H, 1024, QKV), rows(qkv + H + 1024, 1024, QKV), dsl, kct, vct, &err));
				p.q = rows(qkv, H, QKV), p.o = rows(at, H, H), p.k_cache = kct, p.v_cache = vct, p.n_head = NQ, p.n_kv = NKV, p.head_dim = HD;
				p.block_tokens = BT, p.n_seqs = T, p.max_blocks = blocks_per, p.q_begin = dqb, p.kv_len = dkvl, p.block_table = dbt, p.q_len_max = 1;
				p.kv_len_max = ctx + 16, p.scale = 0.088f;
				OK(o->paged_attention(dev, q, &p, &err));
				lin(l.o, at, H, x, QL_BF16, H, x, 7 * i + 3);
				OK(o->rmsnorm(dev, q, rows(x, H, H), w1, 0, 1e-5f, {}, rows(h, H, H), NULL, &err));
				lin(l.gu, h, H, gu, QL_BF16, 2 * F, NULL, 7 * i + 4);
				OK(o->swiglu(dev, q, QL_ACT_SILU, rows(gu, F, 2 * F), rows(gu + F, F, 2 * F), rows(ac, F, F), &err));
				lin(l.down, ac, F, x, QL_BF16, H, x, 7 * i + 6);
			}
			OK(o->rmsnorm(dev, q, rows(x, H, H), w1, 0, 1e-5f, {}, rows(h, H, H), NULL, &err));
			lin(head, h, H, logits, QL_F32, V, NULL, ~0u);
			OK(o->argmax(dev, q, {logits, QL_F32, T, V, V}, dids, &err));
			OK(o->graph_end(dev, q, &g, &err));
			double us = time_us(15, [&](int) { OK(o->graph_run(dev, q, g, &err)); });
			if (T == 1)
				base = us;
			printf("decode 32 layers + head, context %u, batch %2u, %s: %.2f ms = %.0f tok/s (%.2f x batch 1)\n", ctx, T,
			       adapters ? "adapters r16" : "no adapter ", us / 1e3, T / us * 1e6, T * base / us);
			o->graph_free(dev, g);
		}
	fflush(stdout);
	o->table_free(dev, table);
	o->weight_free(dev, head);
	for (auto &l : ls)
		free_layer(&l);
	for (auto p : kc)
		give(p);
	for (auto p : vc)
		give(p);
}

int main(int argc, char **argv)
{
	auto wanted = [&](const char *s) {
		if (argc < 2)
			return true;
		for (int i = 1; i < argc; i++)
			if (strcmp(argv[i], s) == 0)
				return true;
		return false;
	};

	OK(ql_device_cuda(&dev, 0, &err));
	OK(dev->ops->queue_new(dev, &q, &err));
	printf("%s\n", dev->description);
	bench_copy();
	if (wanted("quant"))
		bench_quant();
	if (wanted("matvec"))
		bench_matvec();
	if (wanted("layer")) {
		bench_layer(2048, 2048, false);
		bench_layer(2048, 2048, true);
		bench_layer(8192, 2048, false);
		bench_layer(8192, 2048, true);
		bench_layer(16384, 2048, true);
	}
	if (wanted("decode"))
		bench_decode();
	dev->ops->queue_free(dev, q);
	dev->ops->close(dev);
	return 0;
}
