/* quantize.c - quantises a 4096 x 4096 matrix to NF4 with double quantisation and tells what it costs.
 * usage: quantize [ROWS]
 * Build: cc quantize.c $(pkg-config --cflags --libs qlorad) -lm */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <qlorad/qlorad.h>

#define N 4096u

/* Roughly normal numbers: the sum of four uniform ones. */
static float sample(uint64_t *state)
{
	float sum = 0;

	for (int i = 0; i < 4; i++) {
		*state = *state * 6364136223846793005u + 1442695040888963407u;
		sum += (float)(*state >> 40) * 0x1p-24f - 0.5f;
	}
	return sum * 0.02f;
}

int main(int argc, char **argv)
{
	const uint64_t rows = argc > 1 ? strtoull(argv[1], NULL, 10) : N;
	struct qlora_q4_options options = QLORA_Q4_OPTIONS_INIT;
	float *w = malloc((size_t)rows * N * sizeof *w), row[N];
	struct qlora_error err;
	qlora_q4 *q = NULL;
	uint64_t state = 1;
	double diff = 0, norm = 0;
	int rc;

	if (rows == 0 || rows > N || w == NULL)
		return 1;
	for (size_t i = 0; i < (size_t)rows * N; i++)
		w[i] = sample(&state);
	options.threads = 2;
	rc = qlora_q4_quantize(&q, w, QLORA_F32, rows, N, &options, &err);
	for (uint64_t r = 0; rc == QLORA_OK && r < rows; r++) {
		rc = qlora_q4_dequantize(q, r * N, N, row, QLORA_F32, &err);
		for (uint64_t c = 0; rc == QLORA_OK && c < N; c++) {
			double d = (double)row[c] - (double)w[r * N + c];

			diff += d * d;
			norm += (double)w[r * N + c] * (double)w[r * N + c];
		}
	}
	if (rc == QLORA_OK)
		printf("%llu x %u: %.3f bits per weight, relative error %.4f\n", (unsigned long long)rows, N,
		       8.0 * (double)qlora_q4_bytes(q) / (double)rows / N, sqrt(diff / norm));
	else
		fprintf(stderr, "%s\n", err.message);
	rc = rc == QLORA_OK && sqrt(diff / norm) < 0.12 ? 0 : 1; /* NF4 on a bell curve is near 0.09 */
	qlora_q4_free(q);
	free(w);
	return rc;
}
