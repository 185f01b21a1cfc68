/* layer.c - a QLoRA layer: trains the adapter by plain gradient descent until the layer does what another matrix does.
 * Build: cc layer.c $(pkg-config --cflags --libs qlorad) -lm */
#include <stdio.h>
#include <stdlib.h>

#include <qlorad/qlorad.h>

#define IN 64u
#define OUT 48u
#define ROWS 32u
#define RANK 8u

static float noise(uint64_t *state)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return (float)(*state >> 40) * 0x1p-23f - 1.0f;
}

/* Half the mean squared distance to the target; dy is its gradient. */
static double loss_of(const float *y, const float *target, float *dy)
{
	double loss = 0;

	for (size_t i = 0; i < ROWS * OUT; i++) {
		double d = (double)y[i] - (double)target[i];

		loss += 0.5 * d * d / ROWS;
		dy[i] = (float)(d / ROWS);
	}
	return loss;
}

int main(void)
{
	static float w[OUT * IN], merged[OUT * IN], x[ROWS * IN], y[ROWS * OUT], target[ROWS * OUT], dy[ROWS * OUT];
	static float da[RANK * IN], db[OUT * RANK];
	struct qlora_linear_options options = QLORA_LINEAR_OPTIONS_INIT;
	struct qlora_error err;
	qlora_linear *l = NULL;
	uint64_t state = 7;
	double first = 0, last = 0;
	int rc;

	for (size_t i = 0; i < OUT * IN; i++)
		w[i] = noise(&state) * 0.1f;
	for (size_t i = 0; i < ROWS * IN; i++)
		x[i] = noise(&state);
	for (size_t r = 0; r < ROWS; r++) /* the base plus a change of rank one */
		for (size_t o = 0; o < OUT; o++) {
			target[r * OUT + o] = 0;
			for (size_t c = 0; c < IN; c++)
				target[r * OUT + o] += x[r * IN + c] * (w[o * IN + c] + 0.05f * (float)((int)(o % 3) - 1));
		}
	options.rank = RANK;
	options.alpha = 2 * RANK;
	rc = qlora_linear_new(&l, w, OUT, IN, &options, &err);
	for (int step = 0; rc == QLORA_OK && step < 200; step++) {
		rc = qlora_linear_forward(l, x, ROWS, y, &err);
		last = loss_of(y, target, dy);
		first = step == 0 ? last : first;
		if (rc == QLORA_OK)
			rc = qlora_linear_backward(l, x, dy, ROWS, NULL, da, db, &err);
		for (size_t i = 0; rc == QLORA_OK && i < RANK * IN; i++)
			qlora_linear_a(l)[i] -= 0.02f * da[i];
		for (size_t i = 0; rc == QLORA_OK && i < OUT * RANK; i++)
			qlora_linear_b(l)[i] -= 0.02f * db[i];
	}
	if (rc == QLORA_OK)
		rc = qlora_linear_merge(l, merged, &err);
	if (rc == QLORA_OK)
		printf("loss %.5f -> %.5f, merged[0] %.6f\n", first, last, (double)merged[0]);
	else
		fprintf(stderr, "%s\n", err.message);
	qlora_linear_free(l);
	return rc == QLORA_OK && last < 0.3 * first ? 0 : 1;
}
