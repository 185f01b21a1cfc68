/* export.c - writes matrices as GGUF, as QNAT and as safetensors; inspect.c shows what is in such files.
 * usage: export [DIRECTORY]
 * Build: cc export.c $(pkg-config --cflags --libs qlorad) */
#include <stdio.h>
#include <stdlib.h>

#include <qlorad/qlorad.h>

#define ROWS 64u
#define COLS 256u

static int write_gguf(const float *w, const char *path, struct qlora_error *err)
{
	const uint64_t shape[2] = {ROWS, COLS};
	qlora_writer *out;
	int rc = qlora_writer_new(&out, QLORA_GGUF, err);

	if (rc == QLORA_OK)
		rc = qlora_writer_meta(out, "general.name", "example", err);
	if (rc == QLORA_OK)
		rc = qlora_writer_add(out, "a.weight", QLORA_Q4_K, 2, shape, w, err);
	if (rc == QLORA_OK)
		rc = qlora_writer_add(out, "b.weight", QLORA_Q8_0, 2, shape, w, err);
	if (rc == QLORA_OK)
		rc = qlora_writer_save(out, path, err);
	qlora_writer_free(out);
	return rc;
}

static int write_q4(const float *w, enum qlora_format format, const char *path, struct qlora_error *err)
{
	qlora_writer *out = NULL;
	qlora_q4 *q;
	int rc = qlora_q4_quantize(&q, w, QLORA_F32, ROWS, COLS, NULL, err);

	if (rc == QLORA_OK)
		rc = qlora_writer_new(&out, format, err);
	if (rc == QLORA_OK)
		rc = qlora_writer_add_q4(out, "a.weight", q, err);
	if (rc == QLORA_OK)
		rc = qlora_writer_save(out, path, err);
	qlora_writer_free(out);
	qlora_q4_free(q);
	return rc;
}

int main(int argc, char **argv)
{
	static const char *const names[] = {"example.gguf", "example.qnat", "example.safetensors"};
	static float w[ROWS * COLS];
	struct qlora_error err;
	char path[4096];
	int rc = QLORA_OK;

	for (unsigned i = 0; i < ROWS * COLS; i++)
		w[i] = (float)((int)(i * 2654435761u >> 16 & 0xffff) - 32768) / 32768.0f;
	for (int i = 0; rc == QLORA_OK && i < 3; i++) {
		(void)snprintf(path, sizeof path, "%s/%s", argc > 1 ? argv[1] : ".", names[i]);
		rc = i == 0 ? write_gguf(w, path, &err) : write_q4(w, i == 1 ? QLORA_QNAT : QLORA_SAFETENSORS, path, &err);
		if (rc == QLORA_OK)
			printf("%s\n", path);
	}
	if (rc != QLORA_OK)
		fprintf(stderr, "%s\n", err.message);
	return rc == QLORA_OK ? 0 : 1;
}
