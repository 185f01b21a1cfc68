/* gguf_types.c - ggml's tensor types by id (ggml.h, ggml-common.h) and GGUF's value types. */
#include <string.h>

#include "core/formats/gguf_priv.h"

const uint8_t ql_gguf_elem_bytes[QL_GGUF_TYPES] = {
	[QL_GGUF_U8] = 1,  [QL_GGUF_I8] = 1,  [QL_GGUF_U16] = 2, [QL_GGUF_I16] = 2, [QL_GGUF_U32] = 4, [QL_GGUF_I32] = 4,
	[QL_GGUF_F32] = 4, [QL_GGUF_BOOL] = 1, [QL_GGUF_U64] = 8, [QL_GGUF_I64] = 8, [QL_GGUF_F64] = 8,
};

static const struct ql_gguf_type_info types[] = {
	{0, "F32", 1, 4, QL_F32},	 {1, "F16", 1, 2, QL_F16},	   {2, "Q4_0", 32, 18, QL_Q4_0},
	{3, "Q4_1", 32, 20, QL_Q4_1},	 {6, "Q5_0", 32, 22, QL_Q5_0},	   {7, "Q5_1", 32, 24, QL_Q5_1},
	{8, "Q8_0", 32, 34, QL_Q8_0},	 {9, "Q8_1", 32, 36, QL_DTYPE_COUNT}, {10, "Q2_K", 256, 84, QL_DTYPE_COUNT},
	{11, "Q3_K", 256, 110, QL_DTYPE_COUNT}, {12, "Q4_K", 256, 144, QL_Q4_K}, {13, "Q5_K", 256, 176, QL_Q5_K},
	{14, "Q6_K", 256, 210, QL_Q6_K}, {15, "Q8_K", 256, 292, QL_DTYPE_COUNT},
	{16, "IQ2_XXS", 256, 66, QL_DTYPE_COUNT}, {17, "IQ2_XS", 256, 74, QL_DTYPE_COUNT},
	{18, "IQ3_XXS", 256, 98, QL_DTYPE_COUNT}, {19, "IQ1_S", 256, 50, QL_DTYPE_COUNT},
	{20, "IQ4_NL", 32, 18, QL_IQ4_NL}, {21, "IQ3_S", 256, 110, QL_DTYPE_COUNT},
	{22, "IQ2_S", 256, 82, QL_DTYPE_COUNT}, {23, "IQ4_XS", 256, 136, QL_DTYPE_COUNT},
	{24, "I8", 1, 1, QL_I8},	 {25, "I16", 1, 2, QL_I16},	   {26, "I32", 1, 4, QL_I32},
	{27, "I64", 1, 8, QL_I64},	 {28, "F64", 1, 8, QL_F64},	   {29, "IQ1_M", 256, 56, QL_DTYPE_COUNT},
	{30, "BF16", 1, 2, QL_BF16},	 {34, "TQ1_0", 256, 54, QL_DTYPE_COUNT}, {35, "TQ2_0", 256, 66, QL_DTYPE_COUNT},
	{39, "MXFP4", 32, 17, QL_DTYPE_COUNT},
};

const struct ql_gguf_type_info *ql_gguf_type_find(uint32_t id)
{
	for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
		if (types[i].id == id)
			return &types[i];
	return NULL;
}

uint32_t ql_gguf_type_id(enum ql_dtype t)
{
	for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
		if (types[i].dtype == t && t != QL_DTYPE_COUNT)
			return types[i].id;
	return UINT32_MAX;
}

const char *ql_gguf_type_name(uint32_t type_id)
{
	const struct ql_gguf_type_info *t = ql_gguf_type_find(type_id);

	return t != NULL ? t->name : "?";
}
