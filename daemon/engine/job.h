/* job.h - a running job of the engine, for jobs.c (its thread), job_events.c (its frames), job_prepare.c (what it reads first) and
 * job_publish.c (its result). */
#ifndef QL_DAEMON_ENGINE_JOB_H
#define QL_DAEMON_ENGINE_JOB_H

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
	bool started;	       /* the first step can come: its checkpoint, if any, was read */
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

/* ---- jobs.c ---- */
/* Waits until no other job is being cancelled, or j itself is to stop. */
void engine_job_await_cancelled(struct job *j);

/* ---- job_events.c ---- */
/* What the trainer tells, as frames. */
struct ql_train_events engine_job_events(struct job *j);
/* A frame {type, job, attempt}; a new reference. */
json_t *engine_job_frame(const struct job *j, const char *type);
void engine_job_phase(struct job *j, const char *phase);
/* checkpoint: name of the one that does not read back, so that the one before it is tried; else NULL. */
void engine_job_failed(struct job *j, uint64_t step, const char *code, const char *checkpoint, const struct ql_err *e);
void engine_job_stopped(struct job *j, uint64_t step);

/* ---- job_prepare.c ---- */
/* Fills j->t from the start frame: recipe, data, adapter to go on from, directory, identity. */
int engine_job_prepare(struct job *j, struct ql_err *e);

/* ---- job_publish.c ---- */
/* The last checkpoint's adapter becomes adapters/ID, and the frame `done` is sent. */
int engine_job_finish(struct job *j, const struct ql_train_result *r, struct ql_err *e);

#endif
