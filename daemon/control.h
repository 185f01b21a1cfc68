/* control.h - the control process (`qlorad serve`): one thread, one libuv loop, which owns the store, the jobs, the files
 * and the sockets, and never touches a tensor, a model file, a dataset or a template.
 *
 * Life:  ql_serve_main → configuration → lock of the state directory → ql_control_open (store, recovery) → ql_http_start →
 * READY=1 → engine spawned → loop.  SIGTERM or SIGINT → ql_control_drain: draining = true, readyz 503, ql_http_drain,
 * engine told to stop its jobs at a snapshot (they go back to queued), engine exits, ql_http_stop, WAL checkpoint, exit 0.
 *
 * Everything below is called on the loop thread, and is synchronous except where a callback is named.  Functions return
 * QL_OK or an enum ql_code, and then *fault says what to answer.
 *
 * The HTTP room offers, in api/http.h (called by daemon/serve.c only):
 *   int  ql_http_start(struct ql_control *ctl, struct ql_err *e);  binds every listener of ctl->config->listen and the
 *        sockets passed by the service manager (ctl->listen_fds, already O_CLOEXEC), keeps its state in ctl->http, logs
 *        "listening on http://127.0.0.1:PORT" (area "http") for each.  An error ends the start; nothing stays open.
 *   void ql_http_drain(struct ql_control *ctl);  returns at once: new work gets 503 draining; streams end within 20 s.
 *   bool ql_http_idle(struct ql_control *ctl);   true when no request is being answered.
 *   void ql_http_stop(struct ql_control *ctl);   closes everything; all uv handles are closed after the loop ran once more.
 */
#ifndef QL_DAEMON_CONTROL_H
#define QL_DAEMON_CONTROL_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "config/config.h"
#include "daemon/fault.h"

#define QL_ENGINES_MAX 8
#define QL_ORGANIZATION "qlorad"       /* third part of ft: names and owned_by */
#define QL_ORGANIZATION_ID "org-qlorad"
#define QL_PROJECT_DEFAULT "default"
#define QL_LISTEN_FDS_MAX 16

struct ql_store;
struct ql_metrics;
struct ql_engine;
struct ql_jobs;
struct ql_files;
struct ql_models;
struct ql_exports;
struct ql_auth;
struct ql_ticker;

struct ql_control {
	const struct ql_config *config;
	uv_loop_t *loop;
	int state_fd;                 /* the state directory */
	struct ql_store *store;
	struct ql_metrics *metrics;
	struct ql_engine *engines[QL_ENGINES_MAX];
	size_t n_engines;
	struct ql_jobs *jobs;         /* each room's own memory, opaque */
	struct ql_files *files;
	struct ql_models *models;
	struct ql_exports *exports;
	struct ql_auth *auth;
	struct ql_ticker *ticker;     /* control.c's own */
	void *http;                   /* the HTTP room's */
	int listen_fds[QL_LISTEN_FDS_MAX]; /* from the service manager */
	size_t n_listen_fds;
	int64_t started_at;           /* Unix seconds */
	bool draining;                /* answer new work with 503 draining, readyz 503 */
	char base_name[QL_MODEL_NAME_SIZE]; /* id of the base model; known from the start */
	void (*on_broken)(struct ql_control *ctl); /* set by serve.c: the engine refused the settings at its first start */
	void *serve;                  /* serve.c's own */
};

/* Opens the rooms on an open store directory and recovers (robustness.md §3.5).  On failure nothing stays open. */
int ql_control_open(struct ql_control *ctl, const struct ql_config *config, uv_loop_t *loop, int state_fd, struct ql_err *e);
/* Stops timers and frees the rooms; the loop must run once more (UV_RUN_DEFAULT) for handles to close, then call
 * ql_control_free. */
void ql_control_close(struct ql_control *ctl);
void ql_control_free(struct ql_control *ctl);

/* The revision counter a client sees: its project's, or that of all projects for an admin (api.md §15.2).  One look-up by key. */
int64_t ql_control_revision(struct ql_control *ctl, const struct ql_who *who);
/* Counts progress pushes: of one job, or (id NULL) of everything volatile.  ETag: W/"r<revision>-<tick>".  No SQL. */
int64_t ql_control_tick(struct ql_control *ctl, const char *job);
/* The same for GET /v1/status, which also shows the engines: their states, loading, queues and memory.  Uptime and free disk alone do
 * not count. */
int64_t ql_control_status_tick(const struct ql_control *ctl);
/* The same for GET /v1/models, which shows facts of the base: another base, or the first load of this one, is another tick. */
int64_t ql_control_models_tick(const struct ql_control *ctl);

/* True if the engine is ready and nothing drains; else *f (if not NULL) is the 503 to answer: loading, engine_unavailable
 * or draining, with retry_after. */
bool ql_control_ready(struct ql_control *ctl, struct ql_fault *f);
/* GET /v1/status (api.md §15.2), ready to send. */
json_t *ql_control_status(struct ql_control *ctl, const struct ql_who *who);
/* GET /version: {version, commit, build}. */
json_t *ql_control_version(struct ql_control *ctl);
/* Puts gauges that are computed on demand (jobs by status, state bytes, process) into ctl->metrics; call before
 * ql_metrics_render. */
void ql_control_metrics(struct ql_control *ctl);

#endif
