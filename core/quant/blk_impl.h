/* blk_impl.h - the GGUF block functions of each instruction set, and the table that lists them.
 *
 * blk_scalar.c, blk_avx2.c and blk_avx512.c each compile the same rules (blk_*.inc.h) under names ending in the set;
 * the weighted searches exist twice: blk_search_ref.inc.h, plain C, and blk_search_lanes.inc.h, eight sub-blocks at a time
 * in the lanes of a vector, so that every sum keeps its index order and the bits are the same. */
#ifndef QL_QUANT_BLK_IMPL_H
#define QL_QUANT_BLK_IMPL_H

#include <stddef.h>

#define QL_BLK_DECLARE(set, type)                                                                                      \
	void ql_blk_dq_##type##_##set(const void *src, size_t n_blocks, float *dst);                                   \
	void ql_blk_qz_##type##_##set(const float *x, size_t n_blocks, const float *weight, void *dst);
#define QL_BLK_DECLARE_ALL(set)                                                                                        \
	QL_BLK_DECLARE(set, q4_0)                                                                                      \
	QL_BLK_DECLARE(set, q4_1)                                                                                      \
	QL_BLK_DECLARE(set, q5_0)                                                                                      \
	QL_BLK_DECLARE(set, q5_1)                                                                                      \
	QL_BLK_DECLARE(set, q8_0)                                                                                      \
	QL_BLK_DECLARE(set, q4_k)                                                                                      \
	QL_BLK_DECLARE(set, q5_k)                                                                                      \
	QL_BLK_DECLARE(set, q6_k)                                                                                      \
	QL_BLK_DECLARE(set, iq4_nl)

QL_BLK_DECLARE_ALL(scalar)
QL_BLK_DECLARE_ALL(avx2)
QL_BLK_DECLARE_ALL(avx512)

#define QL_BLK_LIST(what, set)                                                                                         \
	{                                                                                                              \
		[QL_Q4_0] = ql_blk_##what##_q4_0_##set, [QL_Q4_1] = ql_blk_##what##_q4_1_##set,                        \
		[QL_Q5_0] = ql_blk_##what##_q5_0_##set, [QL_Q5_1] = ql_blk_##what##_q5_1_##set,                        \
		[QL_Q8_0] = ql_blk_##what##_q8_0_##set, [QL_Q4_K] = ql_blk_##what##_q4_k_##set,                        \
		[QL_Q5_K] = ql_blk_##what##_q5_k_##set, [QL_Q6_K] = ql_blk_##what##_q6_k_##set,                        \
		[QL_IQ4_NL] = ql_blk_##what##_iq4_nl_##set,                                                            \
	}
#define QL_BLK_TABLE(set) .blk_dequant = QL_BLK_LIST(dq, set), .blk_quant = QL_BLK_LIST(qz, set)

#endif
