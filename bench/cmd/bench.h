/* bench.h - `qlorad bench`: how fast this machine trains, serves, quantises and loads, measured with the code of the daemon (trainer,
 * passes, inference scheduler, loader) on a real base or on synthetic weights of a known shape.
 *
 *   options.c  command line        arch.c    shapes by name           synth.c   a model and a tokenizer of random content
 *   ceiling.c  what bounds it: matrix products alone, copy bandwidth
 *   profile.c  where the time of a pass goes, op by op
 *   train.c  decode.c  mixed.c  quantize.c  load.c   one measurement each      serve.c   requests shared by decode and mixed
 * Each measurement adds its figures to a JSON object; main.c prints it whole (--json) or as lines.  Private to this room. */
#ifndef QL_BENCH_BENCH_H
#define QL_BENCH_BENCH_H

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/infer/infer.h"
#include "core/model/model.h"
#include "core/text/tok.h"
#include "core/train/trainer.h"

#define BENCH_LIST_MAX 16

struct bench_list {
	uint32_t v[BENCH_LIST_MAX];
	uint32_t n;
};

struct bench {
	/* options */
	const char *what, *base, *arch_name, *device, *dir, *dump;
	uint32_t layers, threads, seq, rank, steps, prompt, tokens;
	struct bench_list micro_batch, batch, adapters;
	int recompute; /* enum in ql_memory_wish */
	bool dense, json, keep, profile;
	double target_ms, memory_limit_gib, learning_rate;
	/* made of them */
	struct ql_arch arch;
	struct ql_device *dev;
	struct ql_source *source; /* NULL: synthetic */
	struct ql_model *model;
	struct ql_tok *tok;
	struct ql_pool *pool;
	char tmp[256]; /* directory for adapters and caches, removed at the end; "" = none yet */
	json_t *out;
};

/* options.c.  0: go on; else the exit status (after a message, or help). */
int bench_options(struct bench *b, int argc, char **argv);

/* arch.c: the text of a config.json for a known shape, its layers replaced where layers > 0; QL_EINVAL lists the names. */
int bench_arch_json(const char *name, uint32_t layers, char *out, size_t size, struct ql_err *e);
void bench_arch_names(char *out, size_t size);

/* synth.c.  Pseudo-random tokens that do not repeat from call to call with another seed. */
int bench_synth_model(struct bench *b, struct ql_err *e);
int bench_synth_tok(struct ql_tok **out, uint32_t vocab, struct ql_err *e);
void bench_tokens(int32_t *ids, size_t n, uint32_t vocab, uint64_t seed);
/* Every second token is one of 16: something that can be learnt from batches of which none is seen twice. */
void bench_tokens_skewed(int32_t *ids, size_t n, uint32_t vocab, uint64_t seed);
void bench_random_bf16(uint16_t *p, size_t n, float scale, uint64_t seed);
/* The device, then the model (base or synthetic) and its tokenizer. */
int bench_open_device(struct bench *b, struct ql_err *e);
int bench_open_model(struct bench *b, struct ql_err *e);
int bench_tmp(struct bench *b, struct ql_err *e); /* makes b->tmp */

/* ceiling.c.  Bytes read and written per second by copies on the device; seconds of the matrix products of one training step (all
 * linears and the head, forward and input gradient) over that many tokens, dense weights of the activation type. */
int bench_copy_rate(struct bench *b, double *bytes_per_s, struct ql_err *e);
int bench_upload_rate(struct bench *b, double *bytes_per_s, struct ql_err *e);
int bench_products(struct bench *b, uint32_t tokens, double *seconds, struct ql_err *e);

/* train.c: a run of the trainer, measured by its step events; shared with mixed.c. */
struct bench_run {
	struct bench *b;
	struct ql_dataset *data;
	struct ql_train_job job;
	struct ql_memory_plan plan;
	double *at;	/* time at which each step ended, [steps] */
	uint64_t steps; /* room in at */
	double *loss, *rate;	/* of each step: loss and learning rate, [steps] */
	uint64_t lowest_free, tokens_per_step;
	struct ql_mem_info kinds; /* at the last step */
	_Atomic uint64_t done;
	_Atomic bool stop;
};
int bench_run_new(struct bench_run *r, struct bench *b, uint32_t micro_batch, uint64_t steps, struct ql_err *e);
void bench_run_free(struct bench_run *r);
/* Tokens per second over the steps that ended in (from, to]; 0 if fewer than two. */
double bench_run_rate(const struct bench_run *r, double from, double to);

/* serve.c: an inference scheduler on its thread, and requests whose tokens are timed. */
struct bench_request {
	struct bench_server *s;
	double submitted, first, end;
	double *at; /* of each delta, [cap] */
	uint32_t n, cap;
	uint64_t tokens;
	bool ended, failed;
	char error[200];
};
struct bench_server {
	struct bench *b;
	struct ql_infer *infer;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool running;
	uint64_t next_seed;
};
int bench_server_start(struct bench_server *s, struct bench *b, uint32_t rows, uint32_t prompt, uint32_t tokens, uint32_t adapters,
		       struct ql_err *e);
void bench_server_stop(struct bench_server *s);
/* Submits n requests, request i with adapter i mod adapters (none if 0); wait returns when all ended. */
int bench_submit(struct bench_server *s, struct bench_request *q, uint32_t n, uint32_t adapters, uint32_t prompt, uint32_t tokens,
		 struct ql_err *e);
int bench_wait(struct bench_server *s, struct bench_request *q, uint32_t n, struct ql_err *e);
void bench_requests_free(struct bench_request *q, uint32_t n);
/* Between the last first token and the first end: tokens per second of all together, and quantiles of the gaps, seconds. */
void bench_gaps(const struct bench_request *q, uint32_t n, double *rate, double *p50, double *p99);

/* serve.c: an adapter directory at path; seed makes A, B is zero or random. */
int bench_write_adapter(struct bench *b, const char *path, uint64_t seed, bool random_b, struct ql_err *e);

/* profile.c: between begin and end the device's ops are timed in `passes` passes of so many rows, after skipping some; end adds the
 * table to o.  decode: passes run without a graph. */
struct bench_profile;
int bench_profile_begin(struct bench_profile **out, struct bench *b, bool decode, uint32_t rows, uint32_t skip, uint32_t passes, struct ql_err *e);
void bench_profile_end(struct bench_profile *p, json_t *o); /* accepts NULL */

/* One each; figures into o. */
int bench_train(struct bench *b, struct ql_err *e);
int bench_decode(struct bench *b, struct ql_err *e);
int bench_mixed(struct bench *b, struct ql_err *e);
int bench_quantize(struct bench *b, struct ql_err *e);
int bench_load(struct bench *b, struct ql_err *e);

double bench_now(void);
/* Adds a finite number, 6 significant digits. */
void bench_put(json_t *o, const char *key, double v);
/* Allocator peak since the last reset, and what the driver says is in use. */
void bench_put_memory(struct bench *b, json_t *o);
/* What is allocated for what, GiB. */
void bench_put_kinds(json_t *o, const struct ql_mem_info *info);

#endif
