/* fake_engine.c - speaks daemon/ipc.h as an engine would, without a model: validates by counting lines, "trains" by waiting,
 * writes checkpoints and adapters whose bytes depend on the step alone, answers with canned tokens, exports a small file.
 *
 * Behaviour is set by the environment:
 *   QLORAD_TEST_STEPS=N            steps of a job (default 10)
 *   QLORAD_TEST_STEP_MS=N          time of a step (default 20)
 *   QLORAD_TEST_SAVE=N             a user's checkpoint every N steps (default 5)
 *   QLORAD_TEST_DIE=WHERE[:N]      die (SIGKILL to itself) at: init, ready, validate, start, step (N), checkpoint (N), done, infer, import, export
 *   QLORAD_TEST_DIE_MARK=PATH      die only QLORAD_TEST_DIE_TIMES (default 1) times: PATH.1, PATH.2, … are made and counted
 *   QLORAD_TEST_HANG=WHERE         stop answering at: init, step
 *   QLORAD_TEST_EXIT=CODE          exit with it at init after a fatal frame
 *   QLORAD_TEST_GARBAGE=1          send a broken frame after ready
 *   QLORAD_TEST_TOKENS=N           tokens of an answer (default 5), QLORAD_TEST_TOKEN_MS=N between them (default 5)
 *   QLORAD_TEST_DAMAGED=step-N     says that this checkpoint does not read back
 *   QLORAD_TEST_DEVICE=TEXT        what it says to run on
 *   QLORAD_TEST_DEAF=1             hears of a cancel too late
 *   QLORAD_TEST_SHORT_CSV=1        says that the metrics' file has one byte more than it has
 *   QLORAD_TEST_EXPORT_HOLD=PATH   an export goes on when PATH exists
 *   QLORAD_TEST_FAULTS=1           validation finds faults; QLORAD_TEST_FAIL=CODE: the job fails with it at step 3 (…_FAIL_START: at once),
 *                                  with QLORAD_TEST_MESSAGE=TEXT as its message */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/limits.h"
#include "daemon/frame.h"
#include "daemon/ipc.h"

#define JOBS_MAX 8
#define INFERS_MAX 64

struct job {
	bool live;
	json_t *frame; /* start */
	char id[64];
	int64_t attempt, step, total, next_ms;
};

struct infer {
	int64_t id, left, done, n, index, next_ms;
	bool live;
};

static struct job jobs[JOBS_MAX];
static struct infer infers[INFERS_MAX];
static bool draining;

static int64_t now_ms(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int64_t env_int(const char *name, int64_t preset)
{
	const char *s = getenv(name);

	return s == NULL || *s == '\0' ? preset : strtoll(s, NULL, 10);
}

static bool may_die(void)
{
	const char *mark = getenv("QLORAD_TEST_DIE_MARK");
	char path[512];

	if (mark == NULL)
		return true;
	for (int64_t i = 1; i <= env_int("QLORAD_TEST_DIE_TIMES", 1); i++) {
		int fd;

		(void)snprintf(path, sizeof path, "%s.%lld", mark, (long long)i);
		fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
		if (fd >= 0) {
			(void)close(fd);
			return true;
		}
	}
	return false;
}

static void die_at(const char *where, int64_t n)
{
	const char *want = getenv("QLORAD_TEST_DIE");
	char text[64];

	(void)snprintf(text, sizeof text, "%s:%lld", where, (long long)n);
	if (want != NULL && (strcmp(want, where) == 0 || strcmp(want, text) == 0) && may_die())
		(void)raise(SIGKILL);
}

static void hang_at(const char *where)
{
	const char *want = getenv("QLORAD_TEST_HANG");

	if (want != NULL && strcmp(want, where) == 0)
		for (;;)
			(void)pause();
}

static void send_frame(json_t *f)
{
	struct ql_buf b = {0};

	if (ql_frame_encode(f, &b, NULL) != QL_OK || ql_io_write_all(QL_IPC_FD, b.data, b.len, NULL) != QL_OK)
		exit(70);
	ql_buf_free(&b);
	json_decref(f);
}

static const char *device(void)
{
	const char *s = getenv("QLORAD_TEST_DEVICE");

	return s != NULL ? s : "fake device";
}

static void on_init(void)
{
	int64_t code = env_int("QLORAD_TEST_EXIT", 0);

	die_at("init", 0);
	hang_at("init");
	if (code != 0) {
		send_frame(json_pack("{s:s,s:I,s:s}", "type", "fatal", "code", (json_int_t)code, "message", "told to by the test"));
		exit((int)code);
	}
	send_frame(json_pack("{s:s,s:f,s:s}", "type", "loading", "progress", 0.5, "message", "half"));
	send_frame(json_pack("{s:s,s:{s:s,s:s,s:I,s:i,s:i,s:i,s:i,s:b,s:{s:s,s:i,s:b},s:s,s:s,s:s},s:s,s:s,s:{}}", "type", "ready",
			"model", "name",
			     "fake", "family", "llama", "parameters", (json_int_t)135000000, "layers", 30, "hidden_size", 576, "context", 2048,
			     "vocab_size", 49152, "has_template", 1, "quantization", "type", "nf4", "block_size", 64, "double_quant", 1,
			     "base_sha256", "b", "tokenizer_sha256", "t", "template_sha256", "c", "device", device(), "build", "fake build",
			     "memory"));
	die_at("ready", 0);
	if (env_int("QLORAD_TEST_GARBAGE", 0) != 0) {
		unsetenv("QLORAD_TEST_GARBAGE");
		(void)!write(QL_IPC_FD, "\x05\0\0\0{bad}", 9);
	}
}

static void on_validate(const json_t *f)
{
	const char *path = json_string_value(json_object_get(f, "training_file"));
	struct ql_buf b = {0};
	json_int_t lines = 0;
	struct ql_err e = {0};
	char sha[65] = "";

	die_at("validate", 0);
	if (env_int("QLORAD_TEST_FAULTS", 0) != 0) {
		send_frame(json_pack("{s:s,s:O,s:O,s:b,s:s,s:s,s:s,s:[{s:i,s:s},{s:i,s:s}]}", "type", "validated", "job", json_object_get(f, "job"),
				     "attempt", json_object_get(f, "attempt"), "ok", 0, "code", "invalid_training_file", "message", "2 bad lines",
				     "param", "training_file", "faults", "line", 3, "reason", "not JSON", "line", 7, "reason", "no messages"));
		return;
	}
	if (path == NULL || ql_io_read_all(QL_IPC_STATE_FD, path, QL_MIB(64), &b, &e) != QL_OK) {
		send_frame(json_pack("{s:s,s:O,s:O,s:b,s:s,s:s}", "type", "validated", "job", json_object_get(f, "job"), "attempt",
				     json_object_get(f, "attempt"), "ok", 0, "code", "invalid_training_file", "message", e.message));
		return;
	}
	for (size_t i = 0; i < b.len; i++)
		lines += b.data[i] == '\n';
	ql_sha256_hex(b.data, b.len, sha);
	ql_buf_free(&b);
	send_frame(json_pack("{s:s,s:O,s:O,s:b,s:{s:s,s:I,s:i,s:i,s:I,s:I,s:i,s:s},s:n,s:{s:i}}", "type", "validated", "job",
			json_object_get(f, "job"),
			     "attempt", json_object_get(f, "attempt"), "ok", 1, "dataset", "kind", "chat", "examples", lines, "dropped", 0, "truncated", 0,
			     "tokens", lines * 20, "target_tokens", lines * 10, "max_tokens", 40, "sha256", sha, "validation", "estimate", "memory_bytes",
			     1000000));
}

static json_t *job_frame(const struct job *j, const char *type)
{
	return json_pack("{s:s,s:s,s:I,s:I}", "type", type, "job", j->id, "attempt", (json_int_t)j->attempt, "step", (json_int_t)j->step);
}

/* A directory with one file; its bytes depend on the step only. */
static void put_dir(const char *parent, const char *name, int64_t step, char sha[65])
{
	int top = ql_io_open_dir(QL_IPC_STATE_FD, parent, NULL), dir = -1;
	struct ql_err e = {0};
	char text[64];

	(void)snprintf(text, sizeof text, "weights after step %lld\n", (long long)step);
	ql_sha256_hex(text, strlen(text), sha);
	if (top < 0 || ql_io_dir_begin(top, name, &dir, &e) != QL_OK || ql_io_replace(dir, "adapter_model.safetensors", text,
			strlen(text), &e) != QL_OK ||
	    ql_io_dir_publish(top, name, dir, &e) != QL_OK) {
		(void)fprintf(stderr, "fake engine: %s/%s: %s\n", parent, name, e.message);
		exit(70);
	}
	(void)close(top);
}

static void put_checkpoint(struct job *j, const char *kind)
{
	const char *parent = json_string_value(json_object_get(j->frame, "dir"));
	char name[32], sha[65];
	json_t *f;

	(void)snprintf(name, sizeof name, "step-%lld", (long long)j->step);
	put_dir(parent, name, j->step, sha);
	f = job_frame(j, "checkpoint");
	(void)json_object_set_new(f, "dir", json_string(name));
	(void)json_object_set_new(f, "manifest_sha256", json_string(sha));
	(void)json_object_set_new(f, "bytes", json_integer(24));
	(void)json_object_set_new(f, "kind", json_string(kind));
	(void)json_object_set_new(f, "metrics", json_pack("{s:f}", "train_loss", 1.0 / (double)(j->step + 1)));
	send_frame(f);
	die_at("checkpoint", j->step);
}

static void finish_job(struct job *j, bool last);
static void fail_job(struct job *j, const char *code, const char *checkpoint);

static void on_start(json_t *f)
{
	const char *resume = json_string_value(json_object_get(f, "resume"));
	struct job *j = NULL;
	json_t *s;

	die_at("start", 0);
	for (int i = 0; i < JOBS_MAX && j == NULL; i++)
		if (!jobs[i].live)
			j = &jobs[i];
	if (j == NULL)
		exit(70);
	j->live = true;
	j->frame = json_incref(f);
	(void)snprintf(j->id, sizeof j->id, "%s", json_string_value(json_object_get(f, "job")));
	j->attempt = json_integer_value(json_object_get(f, "attempt"));
	j->step = resume == NULL ? 0 : strtoll(resume + 5, NULL, 10);
	j->total = env_int("QLORAD_TEST_STEPS", 10);
	j->next_ms = now_ms() + env_int("QLORAD_TEST_STEP_MS", 20);
	if (resume != NULL && getenv("QLORAD_TEST_DAMAGED") != NULL && strcmp(getenv("QLORAD_TEST_DAMAGED"), resume) == 0) {
		fail_job(j, "checkpoint_invalid", resume);
		return;
	}
	if (getenv("QLORAD_TEST_FAIL_START") != NULL) {
		fail_job(j, getenv("QLORAD_TEST_FAIL_START"), NULL);
		return;
	}
	s = job_frame(j, "started");
	(void)json_object_set_new(s, "total_steps", json_integer(j->total));
	(void)json_object_set_new(s, "tokens_per_epoch", json_integer(200));
	(void)json_object_set_new(s, "exact_resume", json_true());
	(void)json_object_set_new(s, "device", json_string(device()));
	(void)json_object_set_new(s, "recipe", json_pack("{s:i,s:i,s:i,s:i}", "micro_batch_size", 1, "gradient_accumulation_steps",
			1, "warmup_steps", 1,
							 "logging_steps", 1));
	send_frame(s);
	if (j->step >= j->total)
		finish_job(j, false);
}

static void end_job(struct job *j)
{
	json_decref(j->frame);
	memset(j, 0, sizeof *j);
}

static void finish_job(struct job *j, bool last)
{
	char csv[160], text[4096] = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n", sha[65], path[128], csv_sha[65];
	const char *publish = json_string_value(json_object_get(j->frame, "publish"));
	int dir = ql_io_open_dir(QL_IPC_STATE_FD, json_string_value(json_object_get(j->frame, "dir")), NULL);
	struct ql_err e = {0};
	json_t *f;

	if (last) /* a resume from the last step has it already */
		put_checkpoint(j, "user");
	for (int64_t s = 1; s <= j->total && strlen(text) < sizeof text - 64; s++)
		(void)snprintf(text + strlen(text), 64, "%lld,%.4f,0.5,,\n", (long long)s, 1.0 / (double)(s + 1));
	if (dir < 0 || ql_io_replace(dir, "step_metrics.csv", text, strlen(text), &e) != QL_OK)
		exit(70);
	(void)close(dir);
	(void)snprintf(csv, sizeof csv, "jobs/%s/step_metrics.csv", j->id);
	(void)snprintf(path, sizeof path, "%s", publish);
	put_dir("adapters", strchr(path, '/') + 1, j->total, sha);
	die_at("done", 0);
	f = job_frame(j, "done");
	(void)json_object_set_new(f, "trained_tokens", json_integer(j->total * 20));
	(void)json_object_set_new(f, "dir", json_string(publish));
	(void)json_object_set_new(f, "manifest_sha256", json_string(sha));
	(void)json_object_set_new(f, "bytes", json_integer(24));
	(void)json_object_set_new(f, "csv", json_string(csv));
	ql_sha256_hex(text, strlen(text), csv_sha);
	(void)json_object_set_new(f, "csv_sha256", json_string(csv_sha));
	(void)json_object_set_new(f, "csv_bytes", json_integer((json_int_t)strlen(text) + (getenv("QLORAD_TEST_SHORT_CSV") != NULL)));
	send_frame(f);
	end_job(j);
}

static void fail_job(struct job *j, const char *code, const char *checkpoint)
{
	json_t *f = job_frame(j, "failed");
	const char *message = getenv("QLORAD_TEST_MESSAGE");

	if (checkpoint != NULL)
		(void)json_object_set_new(f, "checkpoint", json_string(checkpoint));

	(void)json_object_set_new(f, "code", json_string(code));
	(void)json_object_set_new(f, "message", json_string(message != NULL ? message : "told to by the test"));
	send_frame(f);
	end_job(j);
}

static void step_job(struct job *j)
{
	const char *fail = getenv("QLORAD_TEST_FAIL");
	json_t *f;

	j->step++;
	die_at("step", j->step);
	hang_at("step");
	if (fail != NULL && j->step == 3) {
		fail_job(j, fail, NULL);
		return;
	}
	f = job_frame(j, "step");
	(void)json_object_set_new(f, "total_steps", json_integer(j->total));
	(void)json_object_set_new(f, "epoch", json_real((double)j->step / (double)j->total));
	(void)json_object_set_new(f, "metrics",
				  json_pack("{s:f,s:f,s:f,s:f,s:i,s:i}", "train_loss", 1.0 / (double)(j->step + 1), "train_mean_token_accuracy", 0.5,
					    "learning_rate", 2e-4, "grad_norm", 1.5, "tokens", 20, "target_tokens", 10));
	(void)json_object_set_new(f, "seconds", json_real((double)env_int("QLORAD_TEST_STEP_MS", 20) / 1000));
	(void)json_object_set_new(f, "tokens_per_second", json_real(1000));
	(void)json_object_set_new(f, "eta_seconds", json_real((double)(j->total - j->step) * 0.02));
	(void)json_object_set_new(f, "log", json_true());
	send_frame(f);
	if (j->step >= j->total)
		finish_job(j, true);
	else if (j->step % env_int("QLORAD_TEST_SAVE", 5) == 0)
		put_checkpoint(j, "user");
	j->next_ms = now_ms() + env_int("QLORAD_TEST_STEP_MS", 20);
}

static void on_stop(const json_t *f)
{
	const char *id = json_string_value(json_object_get(f, "job")), *mode = json_string_value(json_object_get(f, "mode"));

	if (strcmp(mode, "cancel") == 0 && getenv("QLORAD_TEST_DEAF") != NULL)
		return;
	for (int i = 0; i < JOBS_MAX; i++) {
		struct job *j = &jobs[i];
		json_t *s;

		if (!j->live || strcmp(j->id, id) != 0 || j->attempt != json_integer_value(json_object_get(f, "attempt")))
			continue;
		if (strcmp(mode, "cancel") != 0 && j->step > 0 && j->step % env_int("QLORAD_TEST_SAVE", 5) != 0)
			put_checkpoint(j, "snapshot");
		s = job_frame(j, "stopped");
		(void)json_object_set_new(s, "mode", json_string(mode));
		send_frame(s);
		end_job(j);
	}
}

static void on_infer(const json_t *f)
{
	const char *kind = json_string_value(json_object_get(f, "kind"));
	int64_t id = json_integer_value(json_object_get(f, "id")), most;

	die_at("infer", 0);
	if (strcmp(kind, "preview") == 0) {
		/* shows what it was asked for */
		send_frame(json_pack("{s:s,s:I,s:{s:s,s:b,s:[{s:i,s:O,s:O,s:O}]}}", "type", "infer_result", "id", (json_int_t)id, "result", "kind",
				     "chat", "has_more", 0, "examples", "line", 1, "file", json_object_get(f, "file"), "lines",
				     json_object_get(f, "lines"), "recipe", json_object_get(f, "recipe")));
		return;
	}
	if (strcmp(kind, "import") == 0) {
		const char *dir = json_string_value(json_object_get(f, "dir"));
		char sha[65];

		if (getenv("QLORAD_TEST_DIE") != NULL) {
			char tmp[160];

			(void)snprintf(tmp, sizeof tmp, "%s.tmp", dir);
			(void)mkdirat(QL_IPC_STATE_FD, tmp, 0700);
			die_at("import", 0);
		}
		put_dir("adapters", strchr(dir, '/') + 1, 0, sha);
		send_frame(json_pack("{s:s,s:I,s:{s:s,s:i,s:{s:i,s:f}}}", "type", "infer_result", "id", (json_int_t)id, "result", "manifest_sha256", sha,
				     "bytes", 24, "shape", "rank", 8, "alpha", 16.0));
		return;
	}
	if (strcmp(kind, "chat") != 0 && strcmp(kind, "completion") != 0) {
		json_t *r = strcmp(kind, "tokenize") == 0 ? json_pack("{s:[i,i,i],s:i}", "tokens", 1, 2, 3, "max_model_len", 2048)
							  : json_pack("{s:s}", "text", "hello");

		send_frame(json_pack("{s:s,s:I,s:o}", "type", "infer_result", "id", (json_int_t)id, "result", r));
		return;
	}
	most = json_is_integer(json_object_get(f, "max_tokens")) ? json_integer_value(json_object_get(f,
			"max_tokens")) : env_int("QLORAD_TEST_TOKENS", 5);
	if (most > env_int("QLORAD_TEST_TOKENS", 5))
		most = env_int("QLORAD_TEST_TOKENS", 5);
	for (int i = 0; i < INFERS_MAX; i++)
		if (!infers[i].live) {
			int64_t n = json_is_integer(json_object_get(f, "n")) ? json_integer_value(json_object_get(f, "n")) : 1;

			infers[i] = (struct infer){.live = true, .id = id, .left = most, .n = n, .next_ms = now_ms()};
			return;
		}
	send_frame(json_pack("{s:s,s:I,s:i,s:s,s:s}", "type", "infer_error", "id", (json_int_t)id, "code", QL_EBUSY, "error_code",
			"queue_full", "message",
			     "full"));
}

static void step_infer(struct infer *r)
{
	char text[32];

	if (r->done < r->left) {
		(void)snprintf(text, sizeof text, "%sw%lld", r->done > 0 ? " " : "", (long long)r->done);
		for (int64_t i = 0; i < r->n; i++)
			send_frame(json_pack("{s:s,s:I,s:I,s:s,s:i,s:n}", "type", "delta", "id", (json_int_t)r->id, "index", (json_int_t)i,
					"text", text, "tokens",
					     1, "logprobs"));
		r->done++;
		r->next_ms = now_ms() + env_int("QLORAD_TEST_TOKEN_MS", 5);
		return;
	}
	for (int64_t i = 0; i < r->n; i++)
		send_frame(json_pack("{s:s,s:I,s:I,s:s}", "type", "finish", "id", (json_int_t)r->id, "index", (json_int_t)i, "reason", "stop"));
	send_frame(json_pack("{s:s,s:I,s:i,s:I,s:i}", "type", "infer_done", "id", (json_int_t)r->id, "prompt_tokens", 7, "completion_tokens",
			     (json_int_t)(r->done * r->n), "cached_tokens", 0));
	r->live = false;
}

static json_t *held_export;

static bool hold_export(void)
{
	const char *path = getenv("QLORAD_TEST_EXPORT_HOLD");

	return path != NULL && access(path, F_OK) != 0;
}

static void end_export(void)
{
	json_t *f = held_export;
	const char *id = json_string_value(json_object_get(f, "id"));
	char sha[65];

	held_export = NULL;
	put_dir("exports", id, 99, sha);
	send_frame(json_pack("{s:s,s:s,s:[{s:s,s:i,s:s}],s:n}", "type", "export_done", "id", id, "files", "name",
			"adapter_model.safetensors", "bytes", 23,
			     "sha256", sha, "verification"));
	json_decref(f);
}

static void on_export(json_t *f)
{
	die_at("export", 0);
	send_frame(json_pack("{s:s,s:O,s:f}", "type", "export_progress", "id", json_object_get(f, "id"), "progress", 0.5));
	held_export = json_incref(f);
	if (!hold_export())
		end_export();
}

static void on_export_cancel(const json_t *f)
{
	if (held_export == NULL || !json_equal(json_object_get(f, "id"), json_object_get(held_export, "id")))
		return;
	send_frame(json_pack("{s:s,s:O,s:s,s:s}", "type", "export_failed", "id", json_object_get(f, "id"), "code", "cancelled", "message", "cancelled"));
	json_decref(held_export);
	held_export = NULL;
}

static int on_frame(void *user, json_t *f, struct ql_err *e)
{
	const char *type = json_string_value(json_object_get(f, "type"));

	(void)user, (void)e;
	if (strcmp(type, "init") == 0)
		on_init();
	else if (strcmp(type, "validate") == 0)
		on_validate(f);
	else if (strcmp(type, "start") == 0)
		on_start(f);
	else if (strcmp(type, "stop") == 0)
		on_stop(f);
	else if (strcmp(type, "infer") == 0)
		on_infer(f);
	else if (strcmp(type, "export") == 0)
		on_export(f);
	else if (strcmp(type, "export_cancel") == 0)
		on_export_cancel(f);
	else if (strcmp(type, "ping") == 0)
		send_frame(json_pack("{s:s,s:O}", "type", "pong", "n", json_object_get(f, "n")));
	else if (strcmp(type, "drain") == 0)
		draining = true;
	else if (strcmp(type, "infer_cancel") == 0)
		for (int i = 0; i < INFERS_MAX; i++)
			if (infers[i].id == json_integer_value(json_object_get(f, "id")))
				infers[i].live = false;
	return QL_OK;
}

static int next_wait(void)
{
	int64_t now = now_ms(), wait = held_export != NULL ? 20 : 1000;

	for (int i = 0; i < JOBS_MAX; i++)
		if (jobs[i].live && jobs[i].next_ms - now < wait)
			wait = jobs[i].next_ms - now;
	for (int i = 0; i < INFERS_MAX; i++)
		if (infers[i].live && infers[i].next_ms - now < wait)
			wait = infers[i].next_ms - now;
	return wait < 0 ? 0 : (int)wait;
}

static bool busy(void)
{
	for (int i = 0; i < JOBS_MAX; i++)
		if (jobs[i].live)
			return true;
	for (int i = 0; i < INFERS_MAX; i++)
		if (infers[i].live)
			return true;
	return false;
}

int main(void)
{
	struct ql_frame_reader reader = {0};
	struct pollfd p = {.fd = QL_IPC_FD, .events = POLLIN};
	char buf[65536];
	struct ql_err e = {0};

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	p.events = POLLIN | POLLRDHUP;
	if (poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLRDHUP)) != 0)
		return 1; /* control died before it could be told */
	p.events = POLLIN;
	(void)signal(SIGPIPE, SIG_IGN);
	while (!(draining && !busy())) {
		int ready = poll(&p, 1, next_wait());

		if (ready > 0) {
			ssize_t n = read(QL_IPC_FD, buf, sizeof buf);

			if (n == 0 || (n < 0 && errno != EINTR))
				return 1;
			if (n > 0 && ql_frame_feed(&reader, buf, (size_t)n, on_frame, NULL, &e) != QL_OK)
				return 70;
		}
		if (held_export != NULL && !hold_export())
			end_export();
		for (int i = 0; i < JOBS_MAX; i++)
			if (jobs[i].live && jobs[i].next_ms <= now_ms())
				step_job(&jobs[i]);
		for (int i = 0; i < INFERS_MAX; i++)
			if (infers[i].live && infers[i].next_ms <= now_ms())
				step_infer(&infers[i]);
	}
	ql_frame_reader_free(&reader);
	return 0;
}
