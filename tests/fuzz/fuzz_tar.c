/* The archive reader: nothing it points at may lie outside the input, and nothing above a limit is given out. */
#include <stdlib.h>

#include "core/formats/tar.h"
#include "tests/fuzz/replay.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ql_tar_want want[] = {{.name = "adapter_config.json", .max = 1000}, {.name = "adapter_model.safetensors", .max = UINT64_MAX}};
	struct ql_err e = {0};
	volatile uint8_t seen = 0;

	if (ql_tar_find(data, size, want, 2, &e) != QL_OK && e.message[0] == '\0')
		abort();
	for (int i = 0; i < 2; i++) {
		if (want[i].data == NULL)
			continue;
		if (want[i].data < data || want[i].size > size || want[i].data + want[i].size > data + size || want[i].size > want[i].max)
			abort();
		for (uint64_t k = 0; k < want[i].size; k++)
			seen = (uint8_t)(seen ^ want[i].data[k]);
	}
	return 0;
}
