/* fuzz_qnat.c - any bytes as a QNAT file: open, read values both ways, turn into our own form. */
#include "core/qnat/qnat.h"
#include "tests/fuzz/replay.h"

static void touch(const struct ql_qnat_tensor *t)
{
	uint64_t step = t->n / 64 + 1;
	struct ql_q4 q;
	float v;

	for (uint64_t i = 0; i < t->n; i += step) {
		(void)ql_qnat_read(t, i, 1, false, &v, NULL);
		(void)ql_qnat_read(t, i, 1, true, &v, NULL);
	}
	if (ql_qnat_read(t, t->n - 1, 1, false, &v, NULL) != QL_OK || ql_qnat_read(t, t->n, 1, false, &v, NULL) == QL_OK)
		__builtin_trap();
	if (ql_qnat_to_q4(t, &q, NULL) == QL_OK)
		ql_q4_free(&q);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ql_err e = {0};
	struct ql_qnat *q = NULL;

	if (ql_qnat_open_mem(&q, data, size, &e) != QL_OK) {
		if (e.message[0] == '\0' || q != NULL)
			__builtin_trap();
		return 0;
	}
	for (size_t i = 0; i < ql_qnat_count(q); i++) {
		if (ql_qnat_find(q, ql_qnat_at(q, i)->name) != ql_qnat_at(q, i))
			__builtin_trap();
		touch(ql_qnat_at(q, i));
	}
	ql_qnat_close(q);
	return 0;
}
