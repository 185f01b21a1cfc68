/* jobs.c - frames `start` and `stop`: one thread for each running job, its events as frames, its result published. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "core/text/tmpl/tmpl.h"
#include "core/train/trainer.h"
#include "daemon/engine/engine.h"

struct job {
	struct job *next;
	struct engine *g;
	json_t *frame;
	char id[80];
	int64_t attempt;
	_Atomic int stop; /* enum ql_train_stop */
	char stop_mode[16];
	pthread_t thread;
	_Atomic uint64_t held; /* bytes of device memory, by the plan; 0 before it is made */
	json_t *plan;	       /* of this run, NULL before it is made */
	/* the run */
	int dir; /* jobs/ID */
	struct ql_train_job t;
	struct ql_tmpl *own_template;
	const char *template_text;
	struct ql_dataset *data, *valid;
	struct ql_adapter_file init;
	json_t *identity;
};

/* ---- events -> frames ------------------------------------------------------------------------------------------------------ */

static json_t *frame_for(const struct job *j, const char *type)
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
	json_t *o = frame_for(j, "started"), *c = json_object();

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

static void on_phase(void *ctx, const char *phase)
{
	struct job *j = ctx;
	json_t *o = frame_for(j, "phase");

	(void)json_object_set_new(o, "phase", json_string(phase));
	engine_send(o);
}

static void on_step(void *ctx, const struct ql_train_metrics *t)
{
	struct job *j = ctx;
	json_t *o = frame_for(j, "step"), *m = json_object();

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
	json_t *o = frame_for(j, "checkpoint");
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

static void send_failed(struct job *j, uint64_t step, const char *code, const struct ql_err *e)
{
	json_t *o = frame_for(j, "failed");

	put_int(o, "step", step);
	(void)json_object_set_new(o, "code", json_string(code));
	(void)json_object_set_new(o, "message", json_string(e->message));
	(void)json_object_set_new(o, "param", e->param[0] != '\0' ? json_string(e->param) : json_null());
	engine_send(o);
}

static const char *failure_code(int rc)
{
	switch (rc) {
	case QL_ENONFINITE:
		return "non_finite_loss";
	case QL_ENODEVMEM:
	case QL_ENOMEM:
		return "not_enough_memory";
	case QL_EMISMATCH:
	case QL_EFORMAT:
		return "checkpoint_invalid";
	case QL_ENOSPC:
		return "no_space";
	default:
		return "internal_error";
	}
}

/* ---- preparing ---------------------------------------------------------------------------------------------------------------- */

static int cancelled(void *ctx) { return ((struct job *)ctx)->stop != QL_TRAIN_GO; }

static json_t *identity(const struct job *j, const char *template_sha, const char *data_sha, const char *valid_sha)
{
	char *text = json_dumps(json_object_get(j->frame, "recipe"), JSON_SORT_KEYS | JSON_COMPACT);
	char recipe_sha[65];
	json_t *o;

	if (text == NULL)
		return NULL;
	ql_sha256_hex(text, strlen(text), recipe_sha);
	free(text);
	o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "base", j->g->model->base_sha256, "tokenizer", j->g->tokenizer_sha256,
		      "template", template_sha, "dataset", data_sha, "validation", valid_sha, "recipe", recipe_sha, "quantization",
		      ql_dtype_name(j->g->model->quant_kind));
	return o;
}

static int load_data(struct job *j, const struct ql_tmpl *t, char data_sha[65], char valid_sha[65], struct ql_err *e)
{
	const json_t *recipe = json_object_get(j->frame, "recipe");
	const char *path = NULL, *valid = NULL;
	struct ql_dataset_report *rep = malloc(sizeof *rep);
	int rc = rep == NULL ? ql_err_set(e, QL_ENOMEM, "dataset") : ql_json_get_str(j->frame, "training_file", 1, 256, &path, e);

	if (rc == QL_OK && path == NULL)
		rc = ql_err_param(e, QL_EINVAL, "training_file", "no training file");
	if (rc == QL_OK)
		rc = ql_json_get_str(j->frame, "validation_file", 1, 256, &valid, e);
	if (rc == QL_OK)
		rc = engine_dataset(j->g, path, recipe, t, j->t.recipe.max_seq_length, 1, cancelled, j, &j->data, rep, e);
	if (rc == QL_OK)
		memcpy(data_sha, rep->sha256, 65);
	if (rc == QL_OK && valid != NULL) {
		rc = engine_dataset(j->g, valid, recipe, t, j->t.recipe.max_seq_length, 1, cancelled, j, &j->valid, rep, e);
		if (rc == QL_OK)
			memcpy(valid_sha, rep->sha256, 65);
	}
	free(rep);
	return rc;
}

static int load_init(struct job *j, struct ql_err *e)
{
	const char *dir = NULL;
	int rc = ql_json_get_str(j->frame, "adapter_from", 1, 256, &dir, e), fd;

	if (rc != QL_OK || dir == NULL)
		return rc;
	fd = engine_open_state_dir(j->g, dir, e);
	if (fd < 0)
		return fd;
	rc = ql_adapter_read(&j->init, fd, &j->g->model->arch, e);
	(void)close(fd);
	if (rc == QL_OK)
		j->t.init = &j->init;
	return rc;
}

static int prepare(struct job *j, struct ql_err *e)
{
	char template_sha[65], data_sha[65] = "", valid_sha[65] = "";
	const char *dir = NULL, *resume = NULL;
	const struct ql_tmpl *t;
	double snapshot = j->g->snapshot_seconds;
	int rc = ql_recipe_parse(&j->t.recipe, json_object_get(j->frame, "recipe"), false, e), jobs_fd = -1;

	if (rc == QL_OK)
		rc = ql_json_get_str(j->frame, "dir", 1, 256, &dir, e);
	if (rc == QL_OK)
		rc = ql_json_get_str(j->frame, "resume", 1, 64, &resume, e);
	if (rc == QL_OK)
		rc = ql_json_get_num(j->frame, "snapshot_seconds", 0.001, 86400, &snapshot, e);
	if (rc == QL_OK && (dir == NULL || strncmp(dir, "jobs/", 5) != 0))
		rc = ql_err_param(e, QL_EINVAL, "dir", "start without a job directory");
	if (rc == QL_OK)
		rc = engine_template(j->g, j->t.recipe.chat_template, &t, &j->own_template, template_sha, e);
	if (rc == QL_OK)
		rc = load_data(j, t, data_sha, valid_sha, e);
	if (rc == QL_OK)
		rc = load_init(j, e);
	if (rc == QL_OK)
		rc = ql_io_ensure_dir(j->g->state_fd, "jobs", &jobs_fd, e);
	if (rc == QL_OK) {
		rc = ql_io_ensure_dir(jobs_fd, dir + 5, &j->dir, e);
		(void)close(jobs_fd);
	}
	if (rc != QL_OK)
		return rc;
	j->identity = identity(j, template_sha, data_sha, valid_sha);
	if (j->identity == NULL)
		return ql_err_set(e, QL_ENOMEM, "job");
	j->t.model = j->g->model;
	j->t.data = j->data;
	j->t.valid = j->valid;
	j->t.identity = j->identity;
	j->t.base_name = ql_source_name(j->g->source);
	j->t.dir = j->dir;
	j->t.resume = resume;
	j->t.snapshot_seconds = snapshot;
	j->t.events = (struct ql_train_events){.ctx = j, .planned = on_planned, .started = on_started, .phase = on_phase, .step = on_step,
					       .checkpoint = on_checkpoint, .stop = on_stop};
	return QL_OK;
}

/* ---- publishing ------------------------------------------------------------------------------------------------------------------ */

static int copy_file(int from, const char *name, int to, const char *as, struct ql_err *e)
{
	struct ql_buf b = {0};
	int rc = ql_io_read_all(from, name, (size_t)1 << 34, &b, e);

	if (rc == QL_OK)
		rc = ql_io_replace(to, as, b.len > 0 ? b.data : "", b.len, e);
	ql_buf_free(&b);
	return rc;
}

/* qlorad.json: what the adapter belongs to; no times, so that equal runs give equal files. */
static int write_sidecar(struct job *j, int fd, struct ql_err *e)
{
	json_t *o = json_pack("{s:i, s:O, s:O}", "format", 1, "identity", j->identity, "recipe", json_object_get(j->frame, "recipe"));
	char *text = o == NULL ? NULL : json_dumps(o, JSON_INDENT(1) | JSON_SORT_KEYS);
	int rc = text == NULL ? ql_err_set(e, QL_ENOMEM, "qlorad.json") : ql_io_replace(fd, "qlorad.json", text, strlen(text), e);

	free(text);
	json_decref(o);
	return rc;
}

/* The last checkpoint's adapter becomes adapters/ID, whole or not at all. */
static int publish(struct job *j, const struct ql_train_result *r, const char *name, struct ql_manifest *m, struct ql_err *e)
{
	const char *files[] = {"adapter_config.json", "adapter_model.safetensors", "qlorad.json", NULL, NULL};
	int from = ql_io_open_dir(j->dir, r->final_dir, e), parent = -1, fd = -1, rc;

	if (from < 0)
		return from;
	rc = ql_io_ensure_dir(j->g->state_fd, "adapters", &parent, e);
	if (rc == QL_OK)
		rc = ql_io_remove_tree(parent, name, e); /* left by an attempt that did not commit it */
	if (rc == QL_OK)
		rc = ql_io_dir_begin(parent, name, &fd, e);
	if (rc != QL_OK)
		goto cleanup;
	for (int i = 0; rc == QL_OK && i < 2; i++)
		rc = copy_file(from, files[i], fd, files[i], e);
	if (rc == QL_OK)
		rc = write_sidecar(j, fd, e);
	if (rc == QL_OK && j->t.recipe.chat_template != NULL) {
		rc = ql_io_replace(fd, "chat_template.jinja", j->t.recipe.chat_template, strlen(j->t.recipe.chat_template), e);
		files[3] = "chat_template.jinja";
	}
	if (rc == QL_OK)
		rc = ql_manifest_write(fd, files, m, e);
	if (rc == QL_OK)
		rc = ql_io_dir_publish(parent, name, fd, e);
	else
		ql_io_dir_abort(parent, name, fd);
	if (rc == QL_OK)
		rc = copy_file(from, "step_metrics.csv", j->dir, "step_metrics.csv", e);
cleanup:
	(void)close(from);
	if (parent >= 0)
		(void)close(parent);
	return rc;
}

static int finish(struct job *j, const struct ql_train_result *r, struct ql_err *e)
{
	const char *target = NULL;
	char path[320];
	struct ql_manifest m;
	json_t *o;
	int rc = ql_json_get_str(j->frame, "publish", 1, 256, &target, e);

	if (rc == QL_OK && (target == NULL || strncmp(target, "adapters/", 9) != 0))
		rc = ql_err_param(e, QL_EINVAL, "publish", "start without a place for the adapter");
	if (rc != QL_OK)
		return rc;
	on_phase(j, "publishing");
	rc = publish(j, r, target + 9, &m, e);
	if (rc != QL_OK)
		return rc;
	o = frame_for(j, "done");
	put_int(o, "step", r->step);
	put_int(o, "trained_tokens", r->trained_tokens);
	(void)json_object_set_new(o, "early", json_boolean(r->early));
	(void)json_object_set_new(o, "dir", json_string(target));
	(void)json_object_set_new(o, "manifest_sha256", json_string(m.sha256));
	put_int(o, "bytes", m.bytes);
	(void)snprintf(path, sizeof path, "%s/step_metrics.csv", json_string_value(json_object_get(j->frame, "dir")));
	(void)json_object_set_new(o, "csv", json_string(path));
	engine_send(o);
	return QL_OK;
}

/* ---- threads ----------------------------------------------------------------------------------------------------------------------- */

static void job_free(struct job *j)
{
	if (j->dir >= 0)
		(void)close(j->dir);
	ql_dataset_free(j->data);
	ql_dataset_free(j->valid);
	ql_tmpl_free(j->own_template);
	ql_adapter_file_free(&j->init);
	json_decref(j->identity);
	json_decref(j->plan);
	json_decref(j->frame);
	free(j);
}

static void send_stopped(struct job *j, uint64_t step)
{
	json_t *o = frame_for(j, "stopped");

	put_int(o, "step", step);
	(void)pthread_mutex_lock(&j->g->lock); /* a cancel may follow a pause */
	(void)json_object_set_new(o, "mode", json_string(j->stop_mode));
	(void)pthread_mutex_unlock(&j->g->lock);
	engine_send(o);
}

static void unlink_job(struct job *j)
{
	struct engine *g = j->g;
	struct job **p = &g->jobs;

	(void)pthread_mutex_lock(&g->lock);
	while (*p != j)
		p = &(*p)->next;
	*p = j->next;
	(void)pthread_cond_broadcast(&g->idle);
	(void)pthread_mutex_unlock(&g->lock);
}

static void *job_main(void *arg)
{
	struct job *j = arg;
	struct ql_train_result r = {0};
	struct ql_err e = {0};
	int rc;

	on_phase(j, "loading");
	rc = prepare(j, &e);
	if (rc == QL_OK)
		rc = ql_train_run(&j->t, &r, &e);
	engine_check_device(rc, &e);
	if (rc == QL_OK && !r.stopped)
		rc = finish(j, &r, &e);
	if (rc == QL_ECANCELLED || (rc == QL_OK && r.stopped))
		send_stopped(j, r.step);
	else if (rc != QL_OK)
		send_failed(j, r.step, failure_code(rc), &e);
	unlink_job(j);
	job_free(j);
	return NULL;
}

void engine_job_start(struct engine *g, json_t *frame)
{
	const char *id = json_string_value(json_object_get(frame, "job"));
	struct job *j = calloc(1, sizeof *j);
	struct ql_err e = {0};

	if (j == NULL || id == NULL) {
		(void)ql_err_set(&e, QL_EFORMAT, "a start frame without job, or no memory");
		engine_fatal(70, &e);
	}
	j->g = g;
	j->frame = json_incref(frame);
	j->dir = -1;
	(void)snprintf(j->id, sizeof j->id, "%s", id);
	(void)snprintf(j->stop_mode, sizeof j->stop_mode, "pause");
	j->attempt = json_integer_value(json_object_get(frame, "attempt"));
	(void)pthread_mutex_lock(&g->lock);
	j->next = g->jobs;
	g->jobs = j;
	(void)pthread_mutex_unlock(&g->lock);
	if (pthread_create(&j->thread, NULL, job_main, j) != 0) {
		(void)ql_err_set(&e, QL_ENOMEM, "no thread for the job");
		send_failed(j, 0, "internal_error", &e);
		unlink_job(j);
		job_free(j);
		return;
	}
	(void)pthread_detach(j->thread);
}

void engine_job_stop(struct engine *g, const json_t *frame)
{
	const char *id = json_string_value(json_object_get(frame, "job")), *mode = json_string_value(json_object_get(frame, "mode"));

	if (id == NULL || mode == NULL)
		return;
	(void)pthread_mutex_lock(&g->lock);
	for (struct job *j = g->jobs; j != NULL; j = j->next)
		if (strcmp(j->id, id) == 0 && j->attempt == json_integer_value(json_object_get(frame, "attempt"))) {
			(void)snprintf(j->stop_mode, sizeof j->stop_mode, "%s", mode);
			j->stop = strcmp(mode, "cancel") == 0 ? QL_TRAIN_CANCEL : QL_TRAIN_PAUSE;
		}
	(void)pthread_mutex_unlock(&g->lock);
	engine_tasks_cancel(g, id, json_integer_value(json_object_get(frame, "attempt"))); /* a validation knows only this */
}

uint64_t engine_jobs_memory(struct engine *g)
{
	uint64_t sum = 0;

	(void)pthread_mutex_lock(&g->lock);
	for (struct job *j = g->jobs; j != NULL; j = j->next)
		sum += j->held;
	(void)pthread_mutex_unlock(&g->lock);
	return sum;
}

void engine_jobs_drain(struct engine *g)
{
	(void)pthread_mutex_lock(&g->lock);
	for (struct job *j = g->jobs; j != NULL; j = j->next)
		if (j->stop == QL_TRAIN_GO) {
			(void)snprintf(j->stop_mode, sizeof j->stop_mode, "drain");
			j->stop = QL_TRAIN_PAUSE;
		}
	while (g->jobs != NULL)
		(void)pthread_cond_wait(&g->idle, &g->lock);
	(void)pthread_mutex_unlock(&g->lock);
}
