/* kern_table.h - the initialiser of a struct ql_kern from the functions of kern_gemm.h, kern_vec.h and kern_panel.h. */
#define QL_KERN_TABLE(isa)                                                                                             \
	{                                                                                                              \
		.name = isa, .gemm = gemm, .pack_t = pack_t, .pack = pack, .unpack_q4 = unpack_q4,                     \
		.unpack_q8 = unpack_q8, .unpack_f16 = unpack_f16, .unpack_bf16 = unpack_bf16, .gemv_q4 = gemv_q4,      \
		.gemv_q8 = gemv_q8, .gemv_f32 = gemv_f32, .gemv_f16 = gemv_f16, .gemv_bf16 = gemv_bf16, .dot = dot,    \
		.dots = dots, .axpy = axpy, .scale = scale, .max = max, .exp_sum = exp_sum, .exp_only_sum = exp_only_sum,            \
		.dsoftmax = dsoftmax, .swiglu = swiglu, .swiglu_grad = swiglu_grad, .geglu = geglu,                    \
		.geglu_grad = geglu_grad, .softcap = softcap, .dropout = dropout,                                      \
	}
