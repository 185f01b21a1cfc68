/* inspect.c - an inspection tool in small: lists the tensors of GGUF, safetensors and QNAT files and of model directories.
 * usage: inspect FILE…
 * Build: cc inspect.c $(pkg-config --cflags --libs qlorad) */
#include <stdio.h>

#include <qlorad/qlorad.h>

static void show(const struct qlora_tensor_info *t, float first)
{
	printf("  %-40s %-7s", t->name, qlora_type_name(t->type));
	for (int d = 0; d < t->n_dims; d++)
		printf(" %llu", (unsigned long long)t->shape[d]);
	if (t->elements > 0)
		printf("  %.3f bits per weight", 8.0 * (double)t->bytes / (double)t->elements);
	if (t->elements > 0 && t->type != QLORA_OTHER)
		printf(", begins %g", (double)first);
	printf("\n");
}

static int list(const char *path, struct qlora_error *err)
{
	struct qlora_tensor_info t;
	uint64_t elements = 0, bytes = 0;
	float first[256];
	qlora_file *f;
	int rc = qlora_file_open(&f, path, err);

	if (rc != QLORA_OK)
		return rc;
	printf("%s: %s, %llu tensors\n", path, qlora_file_kind(f), (unsigned long long)qlora_file_count(f));
	for (uint64_t i = 0; rc == QLORA_OK && i < qlora_file_count(f); i++) {
		rc = qlora_file_info(f, i, &t, err);
		if (rc == QLORA_OK && t.elements > 0 && t.type != QLORA_OTHER) /* whole blocks; 256 is the longest */
			rc = qlora_file_read(f, i, 0, t.elements < 256 ? t.elements : 256, first, err);
		if (rc != QLORA_OK)
			break;
		show(&t, first[0]);
		elements += t.elements;
		bytes += t.bytes;
	}
	if (rc == QLORA_OK && elements > 0)
		printf("  %llu elements, %.3f bits each\n", (unsigned long long)elements, 8.0 * (double)bytes / (double)elements);
	qlora_file_close(f);
	return rc;
}

int main(int argc, char **argv)
{
	struct qlora_error err;

	for (int i = 1; i < argc; i++)
		if (list(argv[i], &err) != QLORA_OK) {
			fprintf(stderr, "%s: %s\n", argv[i], err.message);
			return 1;
		}
	return argc > 1 ? 0 : 2;
}
