/* perplexity.h - how well a model predicts a text: exp of the mean negative log-likelihood, over windows.
 *
 * As llama.cpp's llama-perplexity counts, so that figures compare: the text's tokens are cut into floor(n / context) windows
 * that do not overlap; what is left over is dropped.  In each window the first token is replaced by BOS where the tokenizer
 * puts one in front, and the tokens context/2 + 1 … context - 1 are scored, each given all before it in its window.
 *   perplexity = exp(mean nll),  standard error of it = perplexity · sqrt((mean nll² - (mean nll)²) / (scored - 1)) */
#ifndef QL_MODEL_PERPLEXITY_H
#define QL_MODEL_PERPLEXITY_H

#include "core/model/lora.h"

struct ql_perplexity_opts {
	uint32_t context;     /* tokens of a window, ≥ 4 */
	uint32_t max_windows; /* 0 = all */
	int32_t bos;	      /* takes the place of each window's first token; -1: it stays */
	const struct ql_lora_set *lora; /* NULL = the base alone */
	/* After each window, with the figures so far; returning non-zero cancels (QL_ECANCELLED). */
	int (*progress)(void *ctx, uint64_t windows_done, uint64_t windows, double perplexity);
	void *progress_ctx;
};

struct ql_perplexity {
	uint64_t windows, scored; /* windows run, tokens scored */
	double nll, nll2;	  /* Σ nll, Σ nll² */
	double perplexity, std_error;
};

/* ids[n]: the whole text, with BOS in front where the tokenizer puts one.  QL_EINVAL: a context outside the model's, or fewer
 * tokens than one window.  Takes the model's gate as the trainer does. */
int ql_perplexity_run(struct ql_model *m, const int32_t *ids, size_t n, const struct ql_perplexity_opts *o,
		      struct ql_perplexity *r, struct ql_err *e);

#endif
