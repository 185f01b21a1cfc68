/* fixture.h - a tiny model with random weights in a Hugging Face directory, loaded on the device under test. */
#ifndef QL_TESTS_MODEL_FIXTURE_H
#define QL_TESTS_MODEL_FIXTURE_H

#include "tests/unit/cm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/philox.h"
#include "core/formats/safetensors.h"
#include "core/model/pass.h"
#include "core/model/step.h"
#include "tests/unit/scratch.h"

#define FX_VOCAB 48
#define FX_CONFIG                                                                                                              \
	"{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":96,"     \
	"\"num_hidden_layers\":3,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":48,\"rms_norm_eps\":1e-5," \
	"\"max_position_embeddings\":256,\"bos_token_id\":1,\"eos_token_id\":2,\"tie_word_embeddings\":false}"

static inline float fx_random(uint64_t stream, uint64_t i)
{
	uint32_t w[4];

	ql_philox((uint32_t)i, (uint32_t)(i >> 32), (uint32_t)stream, 77, 5, w);
	return (ql_u01(w[0]) + ql_u01(w[1]) + ql_u01(w[2]) - 1.5f) * 2.0f; /* variance 1 */
}

static inline void fx_write_config(const struct scratch *s, const char *config)
{
	struct ql_arch a;
	struct ql_arch_tensor t[96];
	struct ql_st_spec specs[96];
	struct ql_st_writer *w;
	size_t n, k;

	scratch_write(s, "config.json", config, strlen(config));
	assert_int_equal(ql_arch_from_config_json(&a, config, strlen(config), NULL), QL_OK);
	n = 0;
	for (size_t i = 0; i < ql_arch_tensor_count(&a); i++) { /* as files have them */
		assert_true(n < 96);
		ql_arch_tensor_at(&a, i, &t[n]);
		if (t[n].file_part > 0)
			continue;
		t[n].rows = t[n].file_rows;
		specs[n] = (struct ql_st_spec){t[n].file_hf, QL_F32, t[n].n_dims, {t[n].rows, t[n].cols}};
		if (t[n].n_dims == 1)
			specs[n].shape[0] = t[n].cols;
		n++;
	}
	assert_int_equal(ql_st_write_begin(&w, s->fd, "model.safetensors", specs, n, NULL), QL_OK);
	while ((k = ql_st_write_next(w)) < n) {
		size_t count = (size_t)t[k].rows * t[k].cols;
		float *p = malloc(count * sizeof *p);

		for (size_t i = 0; i < count; i++)
			p[i] = t[k].norm ? (a.norm_plus_one ? 0.0f : 1.0f) + 0.1f * fx_random(k, i) : fx_random(k, i) * 0.15f;
		assert_int_equal(ql_st_write_data(w, p, count * sizeof *p, NULL), QL_OK);
		free(p);
	}
	assert_int_equal(ql_st_write_commit(w, NULL), QL_OK);
}

static inline void fx_write(const struct scratch *s) { fx_write_config(s, FX_CONFIG); }

struct fx {
	struct ql_source *source;
	struct ql_device *dev;
	struct ql_model *m;
};

static inline void fx_open(struct fx *f, const struct scratch *s, int threads)
{
	struct ql_model_opts o = {.quant = QL_Q4_OPTS_DEFAULT, .cache_dir = s->fd};
	const char *name = getenv("QL_TEST_DEVICE");
	struct ql_err e = {0};

	assert_int_equal(ql_source_open(&f->source, s->path, &e), QL_OK);
	assert_int_equal(name != NULL && strcmp(name, "cuda") == 0 ? ql_device_cuda(&f->dev, 0, &e) : ql_device_cpu(&f->dev, threads, &e),
			 QL_OK);
	if (ql_model_load(&f->m, f->dev, f->source, &o, &e) != QL_OK)
		fail_msg("%s", e.message);
}

static inline void fx_close(struct fx *f)
{
	ql_model_free(f->m);
	f->dev->ops->close(f->dev);
	ql_source_close(f->source);
}

/* An adapter on all linears with B different from zero. */
static inline struct ql_lora_set *fx_lora(struct fx *f, bool zero_b)
{
	struct ql_lora_config c = {.rank = 4, .alpha = 8, .modules = QL_MODULES_ALL};
	struct ql_lora_set *s;
	float *host;

	assert_int_equal(ql_lora_new(&s, f->m, &c, 11, NULL), QL_OK);
	if (zero_b)
		return s;
	host = malloc((size_t)s->n_params * 4);
	assert_int_equal(f->dev->ops->download(f->dev, f->m->queue, host, s->params, (size_t)s->n_params * 4, NULL), QL_OK);
	assert_int_equal(f->dev->ops->sync(f->dev, f->m->queue, NULL), QL_OK);
	for (uint64_t i = s->n_a; i < s->n_params; i++)
		host[i] = 0.1f * fx_random(900, i);
	assert_int_equal(f->dev->ops->upload(f->dev, f->m->queue, s->params, host, (size_t)s->n_params * 4, NULL), QL_OK);
	assert_int_equal(f->dev->ops->sync(f->dev, f->m->queue, NULL), QL_OK);
	free(host);
	return s;
}

/* A micro-batch of sequences of the given lengths; the second half of each is trained. */
struct fx_batch {
	struct ql_batch b;
	int32_t ids[256], positions[256], cu[16], rows[256], labels[256];
};

static inline void fx_batch(struct fx_batch *x, const uint32_t *lens, uint32_t n, uint64_t stream)
{
	uint32_t t = 0, targets = 0;

	for (uint32_t s = 0; s < n; s++) {
		x->cu[s] = (int32_t)t;
		for (uint32_t i = 0; i < lens[s]; i++, t++) {
			uint32_t w[4];

			ql_philox(i, lens[s], (uint32_t)stream, 3, 9, w);
			x->ids[t] = (int32_t)(w[0] % FX_VOCAB);
			x->positions[t] = (int32_t)i;
			if (i > 0 && i >= lens[s] / 2) {
				x->rows[targets] = (int32_t)t - 1;
				x->labels[targets++] = x->ids[t];
			}
		}
	}
	x->cu[n] = (int32_t)t;
	x->b = (struct ql_batch){t, n, targets, x->ids, x->positions, x->cu, x->rows, x->labels};
}

#endif
