/* fuzz_gguf.c - any bytes as a GGUF file: open, read every value with every getter, derive the architecture, touch tensors. */
#include <stdlib.h>

#include "core/formats/arch.h"
#include "core/formats/gguf.h"
#include "tests/fuzz/replay.h"

static void read_values(const struct ql_gguf *g, const char *key)
{
	struct ql_gguf_str s, *strs;
	uint32_t u = 0, *u32s;
	int32_t *i32s;
	float f = 0, *f32s;
	bool b = false;
	size_t n;

	(void)ql_gguf_get_u32(g, key, true, &u, NULL);
	(void)ql_gguf_get_f32(g, key, true, &f, NULL);
	(void)ql_gguf_get_bool(g, key, true, &b, NULL);
	(void)ql_gguf_get_str(g, key, true, &s, NULL);
	(void)ql_gguf_get_strs(g, key, true, &strs, &n, NULL);
	free(strs);
	(void)ql_gguf_get_u32s(g, key, true, &u32s, &n, NULL);
	free(u32s);
	(void)ql_gguf_get_i32s(g, key, true, &i32s, &n, NULL);
	free(i32s);
	(void)ql_gguf_get_f32s(g, key, true, &f32s, &n, NULL);
	free(f32s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ql_err e = {0};
	struct ql_gguf *g = NULL;
	struct ql_arch a;
	volatile uint8_t sink = 0;

	if (ql_gguf_open_mem(&g, data, size, &e) != QL_OK) {
		if (e.message[0] == '\0' || g != NULL)
			__builtin_trap();
		return 0;
	}
	for (size_t i = 0; i < ql_gguf_kv_count(g); i++) {
		if (ql_gguf_kv_find(g, ql_gguf_kv_at(g, i)->key) != ql_gguf_kv_at(g, i))
			__builtin_trap();
		read_values(g, ql_gguf_kv_at(g, i)->key);
	}
	for (size_t i = 0; i < ql_gguf_tensor_count(g); i++) {
		const struct ql_gguf_tensor *t = ql_gguf_tensor_at(g, i);

		sink = (uint8_t)(((const uint8_t *)t->data)[0] + ((const uint8_t *)t->data)[t->bytes - 1]);
	}
	(void)sink;
	if (ql_arch_from_gguf(&a, g, &e) == QL_OK) {
		float freq[QL_HEAD_DIM_MAX / 2];
		struct ql_arch_tensor t;

		ql_arch_inv_freq(&a, freq);
		for (size_t i = 0; i < ql_arch_tensor_count(&a); i += 7)
			ql_arch_tensor_at(&a, i, &t);
	}
	ql_gguf_close(g);
	return 0;
}
