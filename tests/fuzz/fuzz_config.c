/* fuzz_config.c - any bytes as config.json, generation_config.json and adapter_config.json. */
#include "core/formats/arch.h"
#include "core/formats/peft_config.h"
#include "tests/fuzz/replay.h"

static void ask(const struct ql_peft_config *c)
{
	char path[QL_PEFT_MODULE_MAX];
	uint32_t rank;
	double alpha;
	bool yes;

	for (int m = 0; m < QL_MODULES; m++) {
		ql_peft_module_path(1, m, path);
		(void)ql_peft_config_targets(c, path, 1, &yes, NULL);
		(void)ql_peft_config_scale(c, path, &rank, &alpha, NULL);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ql_peft_config c;
	struct ql_err e = {0};
	struct ql_arch a;

	if (ql_arch_from_config_json(&a, (const char *)data, size, &e) == QL_OK) {
		float freq[QL_HEAD_DIM_MAX / 2];

		ql_arch_inv_freq(&a, freq);
		(void)ql_arch_add_generation_json(&a, (const char *)data, size, &e);
	} else if (e.message[0] == '\0') {
		__builtin_trap();
	}
	e = (struct ql_err){0};
	if (ql_peft_config_parse(&c, (const char *)data, size, &e) == QL_OK)
		ask(&c);
	else if (e.message[0] == '\0')
		__builtin_trap();
	ql_peft_config_free(&c);
	return 0;
}
