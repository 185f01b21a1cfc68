/* arch.c - shapes of well-known models, as config.json has them (Hugging Face, each model's own page). */
#include <stdio.h>
#include <string.h>

#include "bench/cmd/bench.h"

struct shape {
	const char *name, *type;
	uint32_t hidden, inner, layers, heads, kv, head_dim, vocab;
	bool tied;
	double theta, eps;
	uint32_t positions;
};

static const struct shape shapes[] = {
	{"tiny", "llama", 128, 256, 2, 2, 1, 64, 512, true, 10000, 1e-5, 4096},
	{"smollm2-135m", "llama", 576, 1536, 30, 9, 3, 64, 49152, true, 100000, 1e-5, 8192},
	{"llama-3.2-1b", "llama", 2048, 8192, 16, 32, 8, 64, 128256, true, 500000, 1e-5, 131072},
	{"llama-3.1-8b", "llama", 4096, 14336, 32, 32, 8, 128, 128256, false, 500000, 1e-5, 131072},
	{"qwen2.5-14b", "qwen2", 5120, 13824, 48, 40, 8, 128, 152064, false, 1000000, 1e-6, 32768},
	{"llama-3.3-70b", "llama", 8192, 28672, 80, 64, 8, 128, 128256, false, 500000, 1e-5, 131072},
};
#define N_SHAPES (sizeof shapes / sizeof shapes[0])

void bench_arch_names(char *out, size_t size)
{
	size_t at = 0;

	out[0] = '\0';
	for (size_t i = 0; i < N_SHAPES && at < size; i++)
		at += (size_t)snprintf(out + at, size - at, "%s%s", i > 0 ? ", " : "", shapes[i].name);
}

int bench_arch_json(const char *name, uint32_t layers, char *out, size_t size, struct ql_err *e)
{
	char names[400];

	for (size_t i = 0; i < N_SHAPES; i++) {
		const struct shape *s = &shapes[i];

		if (strcmp(s->name, name) != 0)
			continue;
		(void)snprintf(out, size,
			       "{\"architectures\":[\"%s\"],\"model_type\":\"%s\",\"hidden_size\":%u,\"intermediate_size\":%u,"
			       "\"num_hidden_layers\":%u,\"num_attention_heads\":%u,\"num_key_value_heads\":%u,\"head_dim\":%u,"
			       "\"vocab_size\":%u,\"tie_word_embeddings\":%s,\"rope_theta\":%g,\"rms_norm_eps\":%g,"
			       "\"max_position_embeddings\":%u,\"hidden_act\":\"silu\",\"torch_dtype\":\"bfloat16\",\"bos_token_id\":0,"
			       "\"eos_token_id\":1}",
			       strcmp(s->type, "qwen2") == 0 ? "Qwen2ForCausalLM" : "LlamaForCausalLM", s->type, s->hidden, s->inner,
			       layers > 0 ? layers : s->layers, s->heads, s->kv, s->head_dim, s->vocab, s->tied ? "true" : "false",
			       s->theta, s->eps, s->positions);
		return QL_OK;
	}
	bench_arch_names(names, sizeof names);
	return ql_err_param(e, QL_EINVAL, "arch", "unknown shape '%.40s'; known: %s", name, names);
}
