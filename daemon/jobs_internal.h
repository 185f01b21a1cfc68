/* jobs_internal.h - what the files of the job room share.
 *
 *   job_state.c   the table of states            job_row.c     rows in memory, the Job object
 *   job_fields.c  fields of a recipe             job_recipe.c  rules between them
 *   job_create.c  creation                       job_request.c the body's own fields besides the recipe
 *   job_auto.c    "auto" after validation        jobs.c        get, list, cancel, pause, resume
 *   job_change.c  transitions, events, watchers  job_events.c  lists of events and checkpoints, streams
 *   job_frames.c  frames from the engine         job_validated.c, job_steps.c, job_done.c   the larger ones
 *   job_sched.c   what the engine is given       job_lost.c    lost engines, drain, recovery, open and close
 *   job_tick.c    hangs and disk space           job_live.c    jobs that an engine has in hand
 *   job_ckpt.c    rows of checkpoints, pruning */
#ifndef QL_DAEMON_JOBS_INTERNAL_H
#define QL_DAEMON_JOBS_INTERNAL_H

#include "daemon/job_state.h"
#include "daemon/jobs.h"
#include "daemon/store.h"

/* A job that an engine has in hand: validation or training. */
struct ql_live {
	char id[QL_ID_SIZE], project[QL_PROJECT_SIZE];
	int64_t attempt;
	bool training;		/* else validating */
	bool stop_sent;
	const char *phase;	/* literal, or NULL */
	json_t *progress;	/* the object shown, or NULL */
	json_t *pending;	/* array of step events not in the store yet, or NULL */
	int64_t step, total_steps;
	double eta_seconds, step_seconds[16];
	int n_step_seconds;
	uint64_t moved_ms;	/* last sign of progress */
	uint64_t ckpt_started_ms;
	int64_t tick;
	struct ql_live *next;
};

struct ql_job_watch {
	struct ql_control *ctl;
	char id[QL_ID_SIZE];
	int64_t seq; /* last one read */
	bool due;    /* to be told */
	void (*notify)(void *user);
	void *user;
	struct ql_job_watch *next;
};

#define QL_TOUCHED_MAX 8

struct ql_jobs {
	struct ql_live *live;
	struct ql_job_watch *watches;
	uv_timer_t flush;	/* pending step events → store, at most QL_FLUSH_MS later */
	bool flush_armed;
	int64_t last_seq;	/* of events */
	int64_t tick;		/* all progress pushes */
	char touched[QL_TOUCHED_MAX][QL_ID_SIZE]; /* jobs changed in this transaction */
	size_t n_touched;
	bool stopping;		/* drain: nothing is picked any more */
	bool scheduling;
};

#define QL_FLUSH_MS 250

/* ---- job_row.c: a row as C values; strings and JSON are owned by it ---- */
struct ql_job {
	int64_t seq, attempt, revision, revision_all, created_at, finished_at, seed, priority, deaths, death_step, step, total_steps,
		trained_tokens, metrics_events;
	char id[QL_ID_SIZE], project[QL_PROJECT_SIZE], training_file[QL_ID_SIZE], validation_file[QL_ID_SIZE], result_file[QL_ID_SIZE],
		pause_reason[16], error_code[48], suffix[72];
	enum ql_job_state state;
	bool has_error_param;
	char model[QL_MODEL_NAME_SIZE], base_model[QL_MODEL_NAME_SIZE], adapter_from[QL_MODEL_NAME_SIZE], reserved_name[QL_MODEL_NAME_SIZE];
	char error_message[512], error_param[64];
	json_t *metadata, *recipe, *resolved, *progress, *dataset, *estimate, *fingerprint; /* NULL if none */
};

#define QL_JOB_COLUMNS \
	"seq, id, project, state, attempt, revision, revision_all, created_at, ifnull(finished_at, 0), model, base_model, adapter_from," \
	" reserved_name, training_file, validation_file, suffix, seed, metadata, priority, recipe, error_code, error_message," \
	" error_param, pause_reason, deaths, death_step, step, total_steps, progress, dataset, estimate, fingerprint," \
	" ifnull(trained_tokens, -1), result_file, metrics_events, resolved"

int ql_job_read(sqlite3_stmt *q, struct ql_job *j, struct ql_err *e); /* from a row of QL_JOB_COLUMNS */
void ql_job_free(struct ql_job *j);
int ql_job_load(struct ql_control *ctl, const char *id, struct ql_job *j, struct ql_err *e); /* QL_ENOTFOUND */
/* The same for an API call: the id must be visible to who; 404 otherwise. */
int ql_job_find(struct ql_control *ctl, const struct ql_who *who, const char *id, struct ql_job *j, struct ql_fault *f);
/* The Job object of api.md §5.4 as `who` sees it. */
json_t *ql_job_json(struct ql_control *ctl, const struct ql_who *who, const struct ql_job *j);

/* ---- job_fields.c, job_recipe.c, job_request.c ---- */
struct ql_recipe_facts { /* what is known of the base when a job is made; 0 or NULL: not yet */
	int64_t context;
	double parameters;
	const json_t *quantization;
	const json_t *inherit; /* recipe of the job whose adapter is trained on, or NULL */
};
struct ql_job_request {
	const char *model, *training_file, *validation_file, *suffix; /* borrowed from the body; NULL if absent */
	int64_t seed;						      /* -1 if absent */
	const json_t *metadata;					      /* borrowed; NULL if absent */
	bool wandb;						      /* an integration that is not acted upon */
	json_t *recipe;						      /* owned */
};
/* Checks the body's own fields (not the objects they name) and builds the recipe.  *code gets the error's word. */
int ql_job_request_read(const json_t *body, struct ql_job_request *r, const char **code, struct ql_err *e);
/* The value of a key, NULL if absent or null; and a refusal: param = prefix + name, message "'param' what". */
const json_t *ql_field_given(const json_t *obj, const char *key);
int ql_field_bad(struct ql_err *e, const char **code, const char *word, const char *prefix, const char *name, const char *what);
/* One part of the body each, into r: `qlora`, `hyperparameters` and `method`. */
int ql_recipe_read_qlora(const json_t *q, const json_t *quantization, json_t *r, const char **code, struct ql_err *e);
int ql_recipe_read_method(const json_t *body, json_t *r, const char **code, struct ql_err *e);
int ql_recipe_make(const json_t *body, const struct ql_recipe_facts *facts, json_t **recipe, const char **code, struct ql_err *e);

/* ---- job_auto.c: api.md §5.2; n examples ---- */
double ql_auto_base_rate(double parameters);
int64_t ql_auto_epochs(int64_t n);
int64_t ql_auto_batch(int64_t n);
/* Replaces "auto" and null in the recipe after validation.  context: the engine's. */
int ql_recipe_resolve(json_t *recipe, int64_t examples, int64_t context, double parameters, struct ql_err *e);
/* Copy of the recipe as the engine gets it (no multiplier, priority, auto_start). */
json_t *ql_recipe_for_engine(const json_t *recipe, int64_t seed, int64_t context);

/* ---- job_change.c ---- */
int ql_job_begin(struct ql_control *ctl, struct ql_err *e);
/* Within a transaction: moves the job if its row is still in `from` with `attempt`; else QL_ESTATE.  *to gets the new state.
 * "same" edges return QL_OK and change nothing.  attempt + 1 on PICKED; finished_at when final. */
int ql_job_move(struct ql_control *ctl, const struct ql_job *j, enum ql_job_happening what, enum ql_job_state *to, struct ql_err *e);
/* Counts a change of the job: revisions, watchers told after the commit. */
int ql_job_touch(struct ql_control *ctl, const char *id, const char *project, struct ql_err *e);
/* step < 0: a message; else a metrics event, dropped in silence if (job, step) is there already. */
int ql_job_event(struct ql_control *ctl, const char *id, const char *level, const json_t *data, int64_t step, struct ql_err *e,
		 const char *fmt, ...) __attribute__((format(printf, 7, 8)));
/* The place of an event among those of its job, also of one that was thinned out; `unknown` for what is no event's id. */
int64_t ql_job_event_seq(struct ql_control *ctl, const char *event, const char *job, int64_t unknown);
int ql_job_commit(struct ql_control *ctl, struct ql_err *e); /* then tells the watchers and wakes the scheduler */
void ql_job_rollback(struct ql_control *ctl);
/* failed, with error and event; within no transaction. */
int ql_job_fail(struct ql_control *ctl, const struct ql_job *j, const char *code, const char *param, const char *message,
		struct ql_err *e);

/* ---- job_ckpt.c ---- */
struct ql_job_ckpt {
	char dir[32], name[QL_MODEL_NAME_SIZE];
	int64_t step, seq, bytes;
};
/* Newest one that is not marked invalid; false if none. */
bool ql_ckpt_newest(struct ql_control *ctl, const char *job, struct ql_job_ckpt *out);
/* Row of a checkpoint frame (within a transaction), with its event when it is the user's. */
int ql_ckpt_insert(struct ql_control *ctl, const struct ql_job *j, const json_t *frame, struct ql_err *e);
/* After a commit: rows beyond save_total_limit and old snapshots go, then their files.  final: all snapshots. */
void ql_ckpt_prune(struct ql_control *ctl, const struct ql_job *j, bool final);
/* Snapshots of jobs that were cancelled or have failed: nothing will go on from them. */
void ql_ckpt_sweep_ended(struct ql_control *ctl);
/* Removes STATE/<dir>/<name> on a worker thread; what is left is swept at the next start. */
void ql_remove_later(struct ql_control *ctl, const char *dir, const char *name);
/* The same for what a dead engine was writing there, published or not (io.h). */
void ql_remove_unfinished(struct ql_control *ctl, const char *dir, const char *name);

/* ---- job_frames.c ---- */
/* Writes the pending events, loads the job and begins a transaction; end commits it when rc is QL_OK.  A move that the table
 * refuses is a stale frame: dropped, QL_OK.  end frees *j. */
int ql_job_frame_begin(struct ql_control *ctl, const struct ql_live *l, struct ql_job *j, struct ql_err *e);
int ql_job_frame_end(struct ql_control *ctl, struct ql_job *j, int rc, struct ql_err *e);
/* The same for the last frame of a job: the engine has it in hand no longer.  Not stored: the engine is ended by the caller, and what
 * it had in hand goes back to the queue. */
int ql_job_frame_last(struct ql_control *ctl, struct ql_live *l, struct ql_job *j, int rc, struct ql_err *e);
/* True if two descriptions of a device name the same kind of it: neither the number of a CPU's threads nor which of several cards
 * it is changes the bits of a run. */
bool ql_job_same_device(const char *a, const char *b);
/* Runs sql with (id, text of v or NULL). */
int ql_job_set_json(struct ql_control *ctl, const char *sql, const char *id, const json_t *v, struct ql_err *e);
/* Within a transaction: the events of `faults` (may be NULL), then failed with that error. */
int ql_job_give_up(struct ql_control *ctl, struct ql_job *j, const json_t *faults, const char *code, const char *param,
		   const char *message, struct ql_err *e);
int ql_job_on_validated(struct ql_control *ctl, struct ql_live *l, const json_t *f, struct ql_err *e); /* job_validated.c */
int ql_job_on_step(struct ql_control *ctl, struct ql_live *l, const json_t *f, struct ql_err *e);      /* job_steps.c */
int ql_job_on_done(struct ql_control *ctl, struct ql_live *l, const json_t *f, struct ql_err *e);      /* job_done.c */

/* ---- job_live.c, job_sched.c, job_lost.c, job_tick.c ---- */
struct ql_live *ql_live_find(struct ql_control *ctl, const char *id);
void ql_live_drop(struct ql_control *ctl, struct ql_live *l);
void ql_jobs_schedule(struct ql_control *ctl); /* gives work to the engine; safe to call at any time */
void ql_jobs_tick(struct ql_control *ctl);     /* each 10 s: space, progress of engines */
void ql_jobs_drain(struct ql_control *ctl);    /* stop(drain) to all that run; nothing is picked any more */
bool ql_jobs_drained(struct ql_control *ctl);  /* no engine has a job in hand */
void ql_live_stop(struct ql_control *ctl, struct ql_live *l, const char *mode);
/* Writes the pending step events of all jobs. */
int ql_jobs_flush(struct ql_control *ctl, struct ql_err *e); /* job_steps.c */
struct ql_live *ql_live_add(struct ql_control *ctl, const struct ql_job *j, int64_t attempt, bool training);

/* Jobs that their rows call running though no engine has them in hand, at the start or because their end could not be committed (a
 * full disk), go back to the queue; nothing is counted against them. */
int ql_jobs_adopt(struct ql_control *ctl, struct ql_err *e);
int ql_jobs_open(struct ql_control *ctl, struct ql_err *e); /* recovery: robustness.md §3.5 */
void ql_jobs_close(struct ql_control *ctl);		    /* closes the timer's handle */
void ql_jobs_free(struct ql_control *ctl);

#endif
