/* kernels.c - which table of inner loops this machine gets. */
#include "core/quant/kernels.h"

#if defined(__x86_64__)
#if defined(__clang__)
#define HAS_F16C 1 /* it does not know the name; every CPU with AVX2 and FMA has it */
#else
#define HAS_F16C __builtin_cpu_supports("f16c")
#endif

static bool has_avx2(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HAS_F16C;
}

static bool has_avx512(void)
{
	return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
	       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

const struct ql_quant_ops *ql_quant_ops_at(int i)
{
	switch (i) {
	case 0:
		return &ql_quant_ops_scalar;
	case 1:
		return has_avx2() ? &ql_quant_ops_avx2 : NULL;
	case 2:
		return has_avx512() ? &ql_quant_ops_avx512 : NULL;
	default:
		return NULL;
	}
}

const struct ql_quant_ops *ql_quant_ops_best(void)
{
	return has_avx512() ? &ql_quant_ops_avx512 : has_avx2() ? &ql_quant_ops_avx2 : &ql_quant_ops_scalar;
}
#else
const struct ql_quant_ops *ql_quant_ops_at(int i) { return i == 0 ? &ql_quant_ops_scalar : NULL; }
const struct ql_quant_ops *ql_quant_ops_best(void) { return &ql_quant_ops_scalar; }
#endif
