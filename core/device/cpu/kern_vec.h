/* kern_vec.h - VL floats in GCC's vector extension, and the vector functions of kern.h written with them.
 * Included once by each kern_<isa>.c, which sets VL (4, 8 or 16) and is compiled for its instruction set with contraction
 * allowed, so that a·b + c is one fused multiply-add where the machine has it. */
#include <math.h>
#include <string.h>

#include "core/base/dtype.h"
#include "core/base/philox.h"
#include "core/device/cpu/kern.h"

typedef float vf __attribute__((vector_size(4 * VL)));
typedef int32_t vi __attribute__((vector_size(4 * VL)));
typedef uint32_t vb __attribute__((vector_size(4 * VL)));
typedef float vf_u __attribute__((vector_size(4 * VL), aligned(4), may_alias));

static const vf vf_zero = {0};

static inline __attribute__((always_inline)) vf vf_load(const float *p) { return *(const vf_u *)p; }
static inline __attribute__((always_inline)) void vf_store(float *p, vf v) { *(vf_u *)p = v; }
static inline __attribute__((always_inline)) vf vf_set(float x) { return x - vf_zero; }
static inline __attribute__((always_inline)) vf vf_fma(vf a, vf b, vf c) { return a * b + c; }
static inline __attribute__((always_inline)) vf vf_sel(vi mask, vf a, vf b)
{
	return (vf)((mask & (vi)a) | (~mask & (vi)b));
}
static inline __attribute__((always_inline)) vf vf_max(vf a, vf b) { return vf_sel(a > b, a, b); }

static inline float vf_sum(vf v) /* fixed tree */
{
	float t[VL];

	memcpy(t, &v, sizeof t);
	for (int w = VL / 2; w > 0; w /= 2)
		for (int i = 0; i < w; i++)
			t[i] += t[i + w];
	return t[0];
}

/* e^x: x = n·ln2 + r, |r| ≤ ln2/2, a polynomial of degree 6 for e^r (Taylor, remainder < 1.3e-7), times 2^n.
 * x < -87.33 gives 0, x > 88.7 about 2^127.9; NaN stays NaN (chosen explicitly: its payload must not reach the sum below). */
static inline __attribute__((always_inline)) vf vf_exp(vf x)
{
	const float magic = 0x1.8p23f;
	vi low = x < -87.33f, nan = x != x;
	vf n, r, p, was = x;

	x = vf_sel(x > 88.7f, vf_set(88.7f), vf_sel(low, vf_set(-87.33f), x)); /* so that the sum below cannot overflow */
	n = (x * 0x1.715476p0f + magic) - magic;
	r = x - n * 0x1.62ep-1f;
	r = r - n * 0x1.0bfbe8p-15f;
	p = vf_fma(r, vf_set(1.0f / 5040), vf_set(1.0f / 720));
	p = vf_fma(p, r, vf_set(1.0f / 120));
	p = vf_fma(p, r, vf_set(1.0f / 24));
	p = vf_fma(p, r, vf_set(1.0f / 6));
	p = vf_fma(p, r, vf_set(0.5f));
	p = vf_fma(p, r, vf_set(1.0f));
	p = vf_fma(p, r, vf_set(1.0f));
	vb e = (vb)(n + magic) << 23; /* low bits of n in place of the exponent; unsigned: far below -87 it wraps */
	return vf_sel(nan, was, (vf)(~low & (vi)((vb)p + e)));
}

/* head and tail of a loop over n floats: the tail goes through a padded copy */
#define VF_LOAD_N(p, n, pad)                                                                                           \
	({                                                                                                             \
		float t_[VL];                                                                                          \
		for (size_t i_ = 0; i_ < VL; i_++)                                                                     \
			t_[i_] = i_ < (n) ? (p)[i_] : (pad);                                                           \
		vf_load(t_);                                                                                           \
	})
static inline void vf_store_n(float *p, vf v, size_t n)
{
	float t[VL];

	memcpy(t, &v, sizeof t);
	memcpy(p, t, n * sizeof *p);
}

static float dot(const float *a, const float *b, size_t n)
{
	vf s0 = vf_zero, s1 = vf_zero, s2 = vf_zero, s3 = vf_zero;
	size_t i = 0;

	for (; i + 4 * VL <= n; i += 4 * VL) {
		s0 = vf_fma(vf_load(a + i), vf_load(b + i), s0);
		s1 = vf_fma(vf_load(a + i + VL), vf_load(b + i + VL), s1);
		s2 = vf_fma(vf_load(a + i + 2 * VL), vf_load(b + i + 2 * VL), s2);
		s3 = vf_fma(vf_load(a + i + 3 * VL), vf_load(b + i + 3 * VL), s3);
	}
	for (; i + VL <= n; i += VL)
		s0 = vf_fma(vf_load(a + i), vf_load(b + i), s0);
	float r = vf_sum((s0 + s1) + (s2 + s3));

	for (; i < n; i++)
		r += a[i] * b[i];
	return r;
}

/* four rows at a time; each row's sum has the same order wherever it falls */
static void dots(const float *q, const float *k, size_t ld, size_t n, size_t dim, float *out)
{
	size_t i = 0;

	for (; i + 4 <= n; i += 4) {
		vf s[4] = {vf_zero, vf_zero, vf_zero, vf_zero};
		size_t c = 0;

		for (; c + VL <= dim; c += VL) {
			vf x = vf_load(q + c);

#pragma GCC unroll 4
			for (int r = 0; r < 4; r++)
				s[r] = vf_fma(x, vf_load(k + (i + (size_t)r) * ld + c), s[r]);
		}
		for (int r = 0; r < 4; r++) {
			float t = vf_sum(s[r]);

			for (size_t l = c; l < dim; l++)
				t += q[l] * k[(i + (size_t)r) * ld + l];
			out[i + (size_t)r] = t;
		}
	}
	for (; i < n; i++) {
		vf s = vf_zero;
		size_t c = 0;
		float t;

		for (; c + VL <= dim; c += VL)
			s = vf_fma(vf_load(q + c), vf_load(k + i * ld + c), s);
		t = vf_sum(s);
		for (; c < dim; c++)
			t += q[c] * k[i * ld + c];
		out[i] = t;
	}
}

static void axpy(float s, const float *x, float *y, size_t n)
{
	vf v = vf_set(s);
	size_t i = 0;

	for (; i + VL <= n; i += VL)
		vf_store(y + i, vf_fma(v, vf_load(x + i), vf_load(y + i)));
	for (; i < n; i++)
		y[i] += s * x[i];
}

static void scale(float s, float *y, size_t n)
{
	size_t i = 0;

	for (; i + VL <= n; i += VL)
		vf_store(y + i, s * vf_load(y + i));
	for (; i < n; i++)
		y[i] *= s;
}

static float max(const float *x, size_t n)
{
	float best = x[0];
	size_t i = 0;

	if (n >= VL) {
		vf m = vf_load(x);

		for (i = VL; i + VL <= n; i += VL)
			m = vf_max(vf_load(x + i), m);
		for (int j = 0; j < VL; j++)
			best = m[j] > best ? m[j] : best;
	}
	for (; i < n; i++)
		best = x[i] > best ? x[i] : best;
	return best;
}

static float exp_sum(float *x, size_t n, float s, float shift)
{
	vf total = vf_zero, vs = vf_set(s), vsh = vf_set(-shift);
	size_t i = 0;

	for (; i + VL <= n; i += VL) {
		vf v = vf_exp(vf_fma(vs, vf_load(x + i), vsh));

		vf_store(x + i, v);
		total += v;
	}
	if (i < n) {
		vf v = vf_exp(vf_fma(vs, VF_LOAD_N(x + i, n - i, 0.0f), vsh));
		float t[VL];

		memcpy(t, &v, sizeof t);
		for (size_t j = 0; j < VL; j++)
			t[j] = j < n - i ? t[j] : 0.0f;
		memcpy(x + i, t, (n - i) * sizeof *x);
		total += vf_load(t);
	}
	return vf_sum(total);
}

static double exp_only_sum(const float *x, size_t n, float shift)
{
	double total = 0.0;

	for (size_t i = 0; i < n; i += 64 * VL) { /* short fp32 sums, gathered in fp64 */
		size_t end = n - i < 64 * VL ? n : i + 64 * VL, j = i;
		vf s = vf_zero;

		for (; j + VL <= end; j += VL)
			s += vf_exp(vf_load(x + j) - shift);
		if (j < end) {
			vf v = vf_exp(VF_LOAD_N(x + j, end - j, 0.0f) - shift);

			for (size_t l = 0; l < end - j; l++)
				total += (double)v[l];
		}
		total += (double)vf_sum(s);
	}
	return total;
}

static void dsoftmax(const float *p, float *dp, float d, float s, size_t n)
{
	size_t i = 0;

	for (; i + VL <= n; i += VL)
		vf_store(dp + i, vf_load(p + i) * (vf_load(dp + i) - d) * s);
	for (; i < n; i++)
		dp[i] = p[i] * (dp[i] - d) * s;
}

static inline __attribute__((always_inline)) vf vf_sigmoid(vf g) { return 1.0f / (1.0f + vf_exp(-g)); }

/* the gate and its derivative: g·σ(g), and GELU in its tanh form, which is g·σ(2u), u = √(2/π)(g + 0.044715·g³) */
static inline __attribute__((always_inline)) vf silu_v(vf g, vf *slope)
{
	vf s = vf_sigmoid(g);

	*slope = s * (1.0f + g * (1.0f - s));
	return g * s;
}

static inline __attribute__((always_inline)) vf gelu_v(vf g, vf *slope)
{
	const float a = 0.7978845608028654f, b = 0.044715f;
	vf g2 = g * g, s = vf_sigmoid(2.0f * a * g * (1.0f + b * g2));

	*slope = s + g * s * (1.0f - s) * (2.0f * a * (1.0f + 3.0f * b * g2));
	return g * s;
}

#define GLU(name, gate_v)                                                                                              \
	static void name(const float *gate, const float *up, float *h, size_t n)                                       \
	{                                                                                                              \
		size_t i = 0;                                                                                          \
		vf unused;                                                                                             \
                                                                                                                       \
		for (; i + VL <= n; i += VL)                                                                           \
			vf_store(h + i, gate_v(vf_load(gate + i), &unused) * vf_load(up + i));                         \
		if (i < n) {                                                                                           \
			vf g = VF_LOAD_N(gate + i, n - i, 0.0f), u = VF_LOAD_N(up + i, n - i, 0.0f);                   \
                                                                                                                       \
			vf_store_n(h + i, gate_v(g, &unused) * u, n - i);                                              \
		}                                                                                                      \
	}                                                                                                              \
	static void name##_grad(const float *dh, const float *gate, const float *up, float *dgate, float *dup,         \
				size_t n)                                                                              \
	{                                                                                                              \
		size_t i = 0;                                                                                          \
		vf slope, y;                                                                                           \
                                                                                                                       \
		for (; i + VL <= n; i += VL) {                                                                         \
			vf d = vf_load(dh + i), u = vf_load(up + i);                                                   \
                                                                                                                       \
			y = gate_v(vf_load(gate + i), &slope);                                                         \
			vf_store(dgate + i, d * u * slope);                                                            \
			vf_store(dup + i, d * y);                                                                      \
		}                                                                                                      \
		if (i < n) {                                                                                           \
			vf d = VF_LOAD_N(dh + i, n - i, 0.0f), u = VF_LOAD_N(up + i, n - i, 0.0f);                     \
                                                                                                                       \
			y = gate_v(VF_LOAD_N(gate + i, n - i, 0.0f), &slope);                                          \
			vf_store_n(dgate + i, d * u * slope, n - i);                                                   \
			vf_store_n(dup + i, d * y, n - i);                                                             \
		}                                                                                                      \
	}
GLU(swiglu, silu_v)
GLU(geglu, gelu_v)
#undef GLU

/* tanh: its series to x⁹ below 0.3 (remainder < 6e-8 of it), else 1 - 2/(e^2x + 1) */
static inline __attribute__((always_inline)) vf vf_tanh(vf x)
{
	vf x2 = x * x, p, far = 1.0f - 2.0f / (vf_exp(2.0f * x) + 1.0f);

	p = vf_fma(x2, vf_set(62.0f / 2835), vf_set(-17.0f / 315));
	p = vf_fma(p, x2, vf_set(2.0f / 15));
	p = vf_fma(p, x2, vf_set(-1.0f / 3));
	p = vf_fma(p * x2, x, x);
	return vf_sel(x2 < 0.09f, p, far);
}

static void softcap(float *x, size_t n, float s, float c, float *slope)
{
	vf in = vf_set(s / c), out = vf_set(c);

	for (size_t i = 0; i < n; i += VL) {
		size_t k = n - i < VL ? n - i : VL;
		vf t = vf_tanh((k == VL ? vf_load(x + i) : VF_LOAD_N(x + i, k, 0.0f)) * in);

		if (k == VL)
			vf_store(x + i, t * out);
		else
			vf_store_n(x + i, t * out, k);
		if (slope != NULL)
			vf_store_n(slope + i, (1.0f - t) * (1.0f + t), k);
	}
}

#ifndef QL_KERN_OWN_DROPOUT
/* VL Philox blocks at a time; words of lane i belong to elements 4·(b0 + i) … + 3. */
typedef uint32_t vu __attribute__((vector_size(4 * VL)));
typedef uint64_t vw __attribute__((vector_size(8 * VL)));

static inline __attribute__((always_inline)) void mulhilo(vu a, uint32_t m, vu *hi, vu *lo)
{
	vw w = __builtin_convertvector(a, vw) * (uint64_t)m;

	*lo = __builtin_convertvector(w, vu);
	*hi = __builtin_convertvector(w >> 32, vu);
}

static void philox_v(uint64_t b0, uint32_t step, uint32_t site, uint64_t seed, vu out[4])
{
	uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
	vw b;
	vu c0, c1, c2 = step + (vu){0}, c3 = site + (vu){0}, h0, l0, h1, l1;

	for (int i = 0; i < VL; i++)
		b[i] = b0 + (uint64_t)i;
	c0 = __builtin_convertvector(b, vu);
	c1 = __builtin_convertvector(b >> 32, vu);
	for (int r = 0; r < 10; r++) {
		mulhilo(c0, 0xD2511F53u, &h0, &l0);
		mulhilo(c2, 0xCD9E8D57u, &h1, &l1);
		c0 = h1 ^ c1 ^ k0;
		c1 = l1;
		c2 = h0 ^ c3 ^ k1;
		c3 = l0;
		k0 += 0x9E3779B9u;
		k1 += 0xBB67AE85u;
	}
	out[0] = c0;
	out[1] = c1;
	out[2] = c2;
	out[3] = c3;
}

static void dropout(const float *x, float *dst, size_t n, uint64_t e0, uint64_t seed, uint32_t step, uint32_t site,
		    uint32_t threshold, float inv)
{
	size_t i = 0;

	while (i < n) {
		uint64_t e = e0 + i;
		size_t skip = (size_t)(e & 3), count = 4 * VL - skip < n - i ? 4 * VL - skip : n - i;
		uint32_t w[4][VL];
		vu out[4];

		philox_v(e >> 2, step, site, seed, out);
		memcpy(w, out, sizeof w);
		for (size_t j = 0; j < count; j++) {
			size_t at = j + skip;

			dst[i + j] = w[at & 3][at >> 2] >= threshold ? x[i + j] * inv : 0.0f;
		}
		i += count;
	}
}
#endif
