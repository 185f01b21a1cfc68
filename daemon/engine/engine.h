/* engine.h - the engine process: one base model, one device, the protocol of daemon/ipc.h.  Private to this directory.
 *
 * Threads: the reader (main) takes frames, answers what needs no device, and starts the others; one scheduler thread for
 * inference; one thread for each running job and each task (validation, preview, import); one for exports.  Device work goes through the model's gate.  Frames
 * are written under one lock, so each arrives whole.  A device failure sends `fatal` and ends the process at once. */
#ifndef QL_DAEMON_ENGINE_H
#define QL_DAEMON_ENGINE_H

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "core/base/err.h"
#include "core/infer/infer.h"
#include "core/model/model.h"
#include "core/text/data/dataset.h"

struct job;
struct export_task;
struct engine_task;
struct ql_memory_plan;

struct engine {
	int state_fd;
	/* settings of `init` */
	char base_path[4096], device_name[64], cache_dir[64];
	int threads;
	struct ql_infer_opts infer_opts;
	double token_target_ms;
	double snapshot_seconds;
	/* the model */
	struct ql_source *source;
	struct ql_device *dev;
	struct ql_model *model;
	struct ql_tok *tok;
	struct ql_tmpl *tmpl; /* NULL if the base has no chat template */
	json_t *trusted;      /* bos_token, eos_token, … */
	char tokenizer_sha256[65], template_sha256[65];
	struct ql_infer *infer;
	pthread_t infer_thread;
	bool infer_started;
	/* work */
	pthread_mutex_t lock;
	pthread_cond_t idle; /* a job, an export or a task ended */
	struct job *jobs;
	struct engine_task *tasks;
	struct export_task *exports;
	bool export_running;
	_Atomic unsigned long trained_tokens;
	double last_status;
	unsigned long last_generated;
};

/* wire.c: frames.  send steals obj (NULL = out of memory: fatal). */
int engine_wire_read(struct ql_buf *b, int timeout_ms, json_t **out, struct ql_err *e); /* QL_EBUSY: timeout; QL_ENOTFOUND: end */
void engine_send(json_t *obj);
/* Frame infer_result, which closes a request; steals result.  What its size depends on is the client's: an answer too large for a
 * frame (a long text as tokens with their pieces) becomes the error 400. */
void engine_send_result(int64_t id, json_t *result);
/* The last frame, then the end of the process. */
_Noreturn void engine_fatal(int exit_code, const struct ql_err *e);
/* Ends the process if rc is a sticky device failure. */
void engine_check_device(int rc, const struct ql_err *e);

/* load.c */
int engine_load(struct engine *g, struct ql_err *e);
void engine_unload(struct engine *g);
/* The template in force: the job's own text, or the base's.  *owned is to be freed, or NULL. */
int engine_template(struct engine *g, const char *text, const struct ql_tmpl **out, struct ql_tmpl **owned, char sha256[65],
		    struct ql_err *e);
int engine_open_state_dir(void *engine, const char *dir, struct ql_err *e); /* ql_adapter_open */

/* task.c: a thread that owns a frame */
struct engine_task_kind {
	const char *name; /* for messages */
	bool alone;	  /* at most one at a time; the next is refused with QL_EBUSY */
	/* On the task's thread.  *out is handed to answer, which is always called, and steals it. */
	int (*work)(struct engine_task *t, json_t **out, struct ql_err *e);
	void (*answer)(struct engine_task *t, int rc, json_t *out, const struct ql_err *e);
};
struct engine_task {
	struct engine *g;
	const struct engine_task_kind *kind;
	json_t *frame;
	int64_t id;		/* of the frame, 0 if it has none */
	_Atomic bool cancelled; /* to end early; what it answers then is not awaited */
	bool done;		/* under the engine's lock */
	struct engine_task *next;
};
/* Starts it; the frame is borrowed.  QL_EBUSY, QL_ENOMEM: nothing was started. */
int engine_task_start(struct engine *g, const struct engine_task_kind *kind, const json_t *frame, struct ql_err *e);
int engine_task_cancelled(void *task); /* as a callback of long work */
/* The answer of an infer frame: infer_result or infer_error. */
void engine_task_answer(struct engine_task *t, int rc, json_t *out, const struct ql_err *e);
void engine_tasks_cancel(struct engine *g, const char *job, int64_t attempt); /* those of the job's frame */
void engine_tasks_drain(struct engine *g); /* asks all to end early and waits */

/* jobs.c, validate.c */
void engine_validate(struct engine *g, json_t *frame);
void engine_job_start(struct engine *g, json_t *frame);
void engine_job_stop(struct engine *g, const json_t *frame);
void engine_jobs_drain(struct engine *g); /* asks all to pause and waits */
uint64_t engine_jobs_memory(struct engine *g); /* bytes that running jobs hold and give back when they end */
struct ql_recipe;
/* The plan of a job that will be alone on the device: what runs now will have ended.  QL_ENODEVMEM with the bytes needed. */
int engine_estimate(struct engine *g, const struct ql_recipe *r, uint32_t longest, struct ql_memory_plan *out, struct ql_err *e);
/* How a job with this recipe reads its files; max_seq_length is cut to the model's context. */
struct ql_dataset_opts engine_dataset_opts(const struct engine *g, const struct ql_recipe *r, const struct ql_tmpl *t,
					   uint32_t max_seq_length);
int engine_dataset(struct engine *g, const char *path, const json_t *recipe, const struct ql_tmpl *t, uint32_t max_seq_length,
		   int min_examples, int (*cancelled)(void *), void *ctx, struct ql_dataset **out, struct ql_dataset_report *rep,
		   struct ql_err *e);

/* memplan.c: a plan as `qlora.plan` of the Job object shows it, and its bytes with the dense copies that were really made */
json_t *engine_plan_json(const struct ql_model *m, const struct ql_memory_plan *p);
uint64_t engine_plan_bytes(const struct ql_model *m, const struct ql_memory_plan *p);

/* requests.c */
void engine_infer(struct engine *g, const json_t *frame);
void engine_send_error(int64_t id, const struct ql_err *e); /* frame infer_error */

/* import.c, preview.c */
void engine_import(struct engine *g, const json_t *frame, int64_t id);
void engine_preview(struct engine *g, const json_t *frame, int64_t id);

/* prompts.c */
/* The frame's messages, through the adapter's or the base's template, as tokens; text, if not NULL, gets the rendered form. */
int engine_encode_chat(struct engine *g, const json_t *f, struct ql_ids *ids, struct ql_buf *text, struct ql_err *e);
/* A prompt (string or list of token ids) as tokens. */
int engine_encode_prompt(struct engine *g, const json_t *f, const json_t *prompt, struct ql_ids *ids, struct ql_err *e);
/* A JSON string; a NUL, which frames and most clients cannot carry, is shown as U+FFFD. */
json_t *engine_text_json(const char *text, size_t len);
/* {token, bytes, logprob} */
json_t *engine_token_json(const struct engine *g, int32_t token, float logprob);
/* Requests of kind tokenize, detokenize, template. */
int engine_text(struct engine *g, const json_t *f, const char *kind, json_t **result, struct ql_err *e);

/* exports.c */
void engine_export(struct engine *g, json_t *frame);
void engine_export_cancel(struct engine *g, const char *id);
void engine_exports_drain(struct engine *g);

double engine_now(void);
const char *engine_error_word(int code, const char *param); /* api.md §3 code of an error in a request */

#endif
