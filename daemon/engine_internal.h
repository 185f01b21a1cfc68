/* engine_internal.h - one engine as control sees it; shared by engine_proc.c and engine_spawn.c (process), engine_link.c (requests) and
 * engine_frames.c (what comes back).  Nothing outside those files and jobs/exports touches it. */
#ifndef QL_DAEMON_ENGINE_INTERNAL_H
#define QL_DAEMON_ENGINE_INTERNAL_H

#include "daemon/engine_link.h"
#include "daemon/frame.h"

struct ql_infer {
	int64_t id;
	bool counted; /* against the queue of requests */
	struct ql_infer_cb cb;
	void *user;
	struct ql_infer *next;
};

struct ql_engine {
	struct ql_control *ctl;
	size_t index;
	enum ql_engine_state state;
	uv_process_t process;
	uv_pipe_t pipe;
	uv_timer_t timer;	/* restart when down, heartbeat when up */
	bool process_alive;	/* no exit seen yet */
	bool process_open, pipe_open; /* handles not closed yet */
	bool eof;
	bool closing;		/* control ends: never start again */
	bool drain_sent;
	struct ql_frame_reader in;
	struct ql_infer *infers;
	size_t n_counted;
	int64_t next_id;
	uint64_t started_ms, ready_ms, last_frame_ms, killed_ms;
	uint64_t backoff_ms;
	int load_deaths;
	int64_t restarts, since;
	int64_t model_tick; /* changes of `model`; begins as tick does */
	int64_t tick; /* changes of what /v1/status shows of it; begins at the time of control's start, so that no tag comes twice */
	int64_t ping;
	bool ever_ready;
	const char *kill_reason; /* set when control killed it: "hang" or "exit" */
	bool our_fault;		 /* control could not keep up its books with it: nothing that it had in hand is to blame */
	int exit_code, exit_signal;
	char last_exit[160];
	char fatal[256];
	double load_progress;
	json_t *model, *info, *status;
};

/* Sends a frame (reference taken over).  QL_EBUSY: queue full; QL_ESTATE: no engine; QL_ELIMIT: too large. */
int ql_engine_send(struct ql_engine *en, json_t *frame, struct ql_err *e);
/* engine_frames.c: handles one frame; an error ends the engine. */
int ql_engine_frame(struct ql_engine *en, json_t *frame, struct ql_err *e);
/* engine_status.c: the status frame. */
int ql_engine_status_frame(struct ql_engine *en, const json_t *f, struct ql_err *e);
/* True: the adapter of that name was on a device when the engine last told. */
bool ql_engine_holds(const struct ql_control *ctl, const char *adapter);
/* engine_link.c: every open request gets an error. */
void ql_engine_fail_requests(struct ql_engine *en);
struct ql_infer *ql_engine_take(struct ql_engine *en, int64_t id); /* unlinks; NULL if unknown */
struct ql_infer *ql_engine_peek(struct ql_engine *en, int64_t id);

/* ---- engine_spawn.c ---- */
/* Starts the program with `theirs` as its end of the socket.  On failure too the handle is open, and on_closed comes. */
int ql_engine_spawn(struct ql_engine *en, int theirs, uv_exit_cb on_exit, uv_close_cb on_closed, struct ql_err *e);
json_t *ql_engine_init_frame(const struct ql_config *c);

/* ---- engine_proc.c ---- */
int ql_engines_open(struct ql_control *ctl, struct ql_err *e); /* makes the list; starts nothing */
void ql_engine_start(struct ql_engine *en);
void ql_engine_kill(struct ql_engine *en, const char *reason);
void ql_engine_drain(struct ql_engine *en); /* drain frame, then closing */
/* state_dir.c: false while the engine of an earlier control still runs.  The lock is on the state directory's own open file,
 * which engines inherit: it ends with the last of them. */
bool ql_state_lock_engine(int fd);
bool ql_engine_gone(const struct ql_engine *en); /* no process */
void ql_engines_close(struct ql_control *ctl);
void ql_engines_free(struct ql_control *ctl);

/* ---- what engines tell the other rooms (jobs_engine.c, exports.c) ---- */
void ql_jobs_engine_ready(struct ql_control *ctl);
void ql_jobs_engine_lost(struct ql_control *ctl, const char *reason); /* NULL: its jobs are not to blame */
int ql_jobs_frame(struct ql_control *ctl, const char *type, const json_t *frame, struct ql_err *e);
void ql_exports_engine_ready(struct ql_control *ctl);
void ql_exports_engine_lost(struct ql_control *ctl, bool to_blame);
int ql_exports_frame(struct ql_control *ctl, const char *type, const json_t *frame, struct ql_err *e);

#endif
