/* job_events.c - what happens in a job as frames to control (daemon/ipc.h). */
#include <stdio.h>

#include "core/base/json.h"
#include "daemon/engine/job.h"

json_t *engine_job_frame(const struct job *j, const char *type)
{
	return json_pack("{s:s, s:s, s:I}", "type", type, "job", j->id, "attempt", (json_int_t)j->attempt);
}

static void put_int(json_t *o, const char *k, uint64_t v) { (void)json_object_set_new(o, k, json_integer((json_int_t)v)); }
static void put_num(json_t *o, const char *k, double v)
{
	json_t *r = ql_json_real(v);

	if (r != NULL)
		(void)json_object_set_new(o, k, r);
}

static void on_planned(void *ctx, const struct ql_memory_plan *p)
{
	struct job *j = ctx;

	j->held = engine_plan_bytes(j->g->model, p);
	json_decref(j->plan);
	j->plan = engine_plan_json(j->g->model, p);
}

static void on_started(void *ctx, uint64_t step, uint64_t total, uint64_t tokens_per_epoch, const struct ql_recipe *r,
		       uint64_t warmup, uint32_t logging_steps)
{
	struct job *j = ctx;
	json_t *o = engine_job_frame(j, "started"), *c = json_object();

	j->started = true;
	put_int(o, "step", step);
	put_int(o, "total_steps", total);
	put_int(o, "tokens_per_epoch", tokens_per_epoch);
	(void)json_object_set_new(o, "exact_resume", json_true());
	(void)json_object_set_new(o, "device", json_string(j->g->dev->description));
	if (r->micro_batch_size > 0)
		put_int(c, "micro_batch_size", r->micro_batch_size);
	if (r->grad_accum > 0)
		put_int(c, "gradient_accumulation_steps", r->grad_accum);
	put_int(c, "warmup_steps", warmup);
	put_int(c, "logging_steps", logging_steps);
	(void)json_object_set_new(o, "recipe", c);
	(void)json_object_set(o, "plan", j->plan);
	engine_send(o);
}

void engine_job_phase(struct job *j, const char *phase)
{
	json_t *o = engine_job_frame(j, "phase");

	(void)json_object_set_new(o, "phase", json_string(phase));
	engine_send(o);
}

static void on_phase(void *ctx, const char *phase) { engine_job_phase(ctx, phase); }

static void on_step(void *ctx, const struct ql_train_metrics *t)
{
	struct job *j = ctx;
	json_t *o = engine_job_frame(j, "step"), *m = json_object();

	put_int(o, "step", t->step);
	put_int(o, "total_steps", t->total_steps);
	put_num(o, "epoch", t->epoch);
	put_num(o, "seconds", t->seconds);
	put_num(o, "tokens_per_second", t->tokens_per_second);
	put_num(o, "eta_seconds", t->eta_seconds);
	(void)json_object_set_new(o, "log", json_boolean(t->log));
	put_num(m, "train_loss", t->loss);
	put_num(m, "train_mean_token_accuracy", t->accuracy);
	put_num(m, "learning_rate", t->learning_rate);
	put_num(m, "grad_norm", t->grad_norm);
	put_int(m, "tokens", t->tokens);
	put_int(m, "target_tokens", t->targets);
	if (t->has_valid) {
		put_num(m, "valid_loss", t->valid_loss);
		put_num(m, "valid_mean_token_accuracy", t->valid_accuracy);
	}
	if (t->has_full_valid) {
		put_num(m, "full_valid_loss", t->full_valid_loss);
		put_num(m, "full_valid_mean_token_accuracy", t->full_valid_accuracy);
	}
	(void)json_object_set_new(o, "metrics", m);
	j->g->trained_tokens += t->tokens;
	engine_send(o);
}

static void on_checkpoint(void *ctx, uint64_t step, const struct ql_manifest *m, bool user, const json_t *metrics)
{
	struct job *j = ctx;
	json_t *o = engine_job_frame(j, "checkpoint");
	char dir[64];

	(void)snprintf(dir, sizeof dir, "step-%llu", (unsigned long long)step);
	put_int(o, "step", step);
	(void)json_object_set_new(o, "dir", json_string(dir));
	(void)json_object_set_new(o, "manifest_sha256", json_string(m->sha256));
	put_int(o, "bytes", m->bytes);
	(void)json_object_set_new(o, "kind", json_string(user ? "user" : "snapshot"));
	(void)json_object_set_new(o, "metrics", metrics != NULL ? json_deep_copy(metrics) : json_object());
	engine_send(o);
}

static enum ql_train_stop on_stop(void *ctx) { return (enum ql_train_stop)((struct job *)ctx)->stop; }

void engine_job_failed(struct job *j, uint64_t step, const char *code, const char *checkpoint, const struct ql_err *e)
{
	json_t *o = engine_job_frame(j, "failed");

	put_int(o, "step", step);
	(void)json_object_set_new(o, "code", json_string(code));
	(void)json_object_set_new(o, "message", json_string(e->message));
	(void)json_object_set_new(o, "param", e->param[0] != '\0' ? json_string(e->param) : json_null());
	if (checkpoint != NULL)
		(void)json_object_set_new(o, "checkpoint", json_string(checkpoint));
	engine_send(o);
}

void engine_job_stopped(struct job *j, uint64_t step)
{
	json_t *o = engine_job_frame(j, "stopped");

	put_int(o, "step", step);
	(void)pthread_mutex_lock(&j->g->lock); /* a cancel may follow a pause */
	(void)json_object_set_new(o, "mode", json_string(j->stop_mode));
	(void)pthread_mutex_unlock(&j->g->lock);
	engine_send(o);
}

struct ql_train_events engine_job_events(struct job *j)
{
	return (struct ql_train_events){.ctx = j, .planned = on_planned, .started = on_started, .phase = on_phase, .step = on_step,
					.checkpoint = on_checkpoint, .stop = on_stop};
}
