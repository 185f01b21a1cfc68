/* sampler.h - from a row of logits to a token, on the host.
 *
 * Order (as vLLM): logit_bias, then repetition, frequency and presence penalties, then min_tokens (stop tokens barred),
 * then temperature; p = softmax(z/T); candidates by p descending, id ascending; top_k first, top_p (shortest prefix with
 * Σ ≥ top_p), min_p (p ≥ min_p·max p); u from Philox(seed; token number, choice) picks the first candidate whose running sum
 * exceeds u·Σ.  temperature 0 = the lowest id of the largest logit.  Log-probabilities are those of the model itself, before
 * any of this.  Penalties: z -= presence·[n > 0] + frequency·n over generated tokens; repetition r: z > 0 ? z/r : z·r over
 * prompt and generated tokens. */
#ifndef QL_INFER_SAMPLER_H
#define QL_INFER_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

struct ql_bias {
	int32_t token;
	float bias;
};

struct ql_sampling {
	double temperature, top_p, min_p;
	uint32_t top_k; /* 0 = off */
	double presence_penalty, frequency_penalty, repetition_penalty;
	uint64_t seed;
	const struct ql_bias *bias;
	uint32_t n_bias;
};

struct ql_sampler; /* scratch for one thread */

int ql_sampler_new(struct ql_sampler **out, uint32_t vocab, struct ql_err *e);
void ql_sampler_free(struct ql_sampler *s);

/* Picks a token; logits [vocab] is changed.  history: prompt then generated tokens, n_prompt of them prompt.  barred: tokens that
 * may not come (min_tokens), or NULL. */
int32_t ql_sample(struct ql_sampler *s, float *logits, const struct ql_sampling *p, const int32_t *history, size_t n_prompt,
		  size_t n_history, const int32_t *barred, size_t n_barred, uint32_t choice);

struct ql_alt {
	int32_t token;
	float logprob;
};
/* log softmax at `token`, and the n most likely alternatives, best first (ties: lower id). */
float ql_logprob(const float *logits, uint32_t vocab, int32_t token, struct ql_alt *top, uint32_t n_top);

#endif
