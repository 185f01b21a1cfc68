/* engine_proc.c - the engine as a process: start, heartbeat, death, restart.  robustness.md §6.2.
 *
 *   exit or EOF       both are awaited, so that the last frames are read; then requests get an error, jobs go back to the
 *                     queue, restart after 0.5 s, doubling to 60 s; back to 0.5 s after 10 minutes of health
 *   silence           no frame for QL_HEARTBEAT_SECONDS (10 × that while loading) after a ping: SIGKILL, reason hang
 *   exit code 64      never started again; at the first start control ends too
 *   5 deaths loading  state broken: one try every 5 minutes
 *   not killable      no exit after SIGKILL: no second engine, the API stays up */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "daemon/engine_internal.h"
#include "daemon/ipc.h"
#include "daemon/metrics.h"
#include "daemon/store.h"

#define BEAT_MS 5000
#define BACKOFF_FIRST_MS 500
#define BACKOFF_MAX_MS 60000
#define BROKEN_MS 300000
#define HEALTH_MS 600000
#define LOAD_DEATHS_MAX 5
#define KILL_WAIT_MS 30000

static void settle(struct ql_engine *en);

static const char *const reasons[] = {"exit", "hang", "oom", "cuda"};

int ql_engines_open(struct ql_control *ctl, struct ql_err *e)
{
	struct ql_engine *en = calloc(1, sizeof *en);
	char *text;

	if (en == NULL)
		return ql_err_set(e, QL_ENOMEM, "engine");
	en->ctl = ctl;
	en->backoff_ms = BACKOFF_FIRST_MS;
	en->next_id = 1;
	en->since = (int64_t)time(NULL);
	en->tick = en->model_tick = en->since * 1000;
	(void)uv_timer_init(ctl->loop, &en->timer);
	en->timer.data = en;
	text = ql_store_meta_get(ctl->store, "model");
	if (text != NULL && ql_json_parse(text, strlen(text), QL_FRAME_MAX, &en->model, NULL) != QL_OK)
		en->model = NULL;
	free(text);
	ctl->engines[0] = en;
	ctl->n_engines = 1;
	ql_metrics_set(ctl->metrics, QLM_ENGINE_UP, "", 0);
	for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++) {
		char labels[64];

		ql_metrics_labels(labels, sizeof labels, "reason", reasons[i], (char *)NULL);
		ql_metrics_add(ctl->metrics, QLM_ENGINE_RESTARTS, labels, 0);
	}
	return QL_OK;
}

static void state_set(struct ql_engine *en, enum ql_engine_state s)
{
	en->state = s;
	en->since = (int64_t)time(NULL);
	en->tick++;
	ql_metrics_set(en->ctl->metrics, QLM_ENGINE_UP, "", s == QL_ENGINE_READY ? 1 : 0);
}

void ql_engine_kill(struct ql_engine *en, const char *reason)
{
	if (!en->process_alive)
		return;
	if (en->killed_ms == 0) {
		en->kill_reason = reason;
		en->killed_ms = uv_now(en->ctl->loop);
	}
	(void)uv_process_kill(&en->process, SIGKILL);
}

static void on_beat(uv_timer_t *t)
{
	struct ql_engine *en = t->data;
	uint64_t now = uv_now(en->ctl->loop), silent = now - en->last_frame_ms;
	uint64_t patience = QL_HEARTBEAT_SECONDS * 1000 * (en->state == QL_ENGINE_LOADING ? 10u : 1u);
	struct ql_err e = {0};

	if (!en->process_alive)
		return;
	if (en->killed_ms != 0) {
		if (now - en->killed_ms > KILL_WAIT_MS && now - en->killed_ms < KILL_WAIT_MS + 2 * BEAT_MS)
			ql_log(QL_LOG_ERROR, "engine", "does not end after SIGKILL (driver?); no other engine is started meanwhile");
		return;
	}
	if (silent > patience) {
		ql_log(QL_LOG_ERROR, "engine", "silent for %llu s: killed", (unsigned long long)(silent / 1000));
		ql_engine_kill(en, "hang");
		return;
	}
	(void)ql_engine_send(en, json_pack("{s:s,s:I}", "type", "ping", "n", (json_int_t)++en->ping), &e);
}

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
	(void)h;
	buf->base = malloc(suggested);
	buf->len = buf->base == NULL ? 0 : suggested;
}

static int on_frame(void *user, json_t *frame, struct ql_err *e) { return ql_engine_frame(user, frame, e); }

static void on_pipe_closed(uv_handle_t *h)
{
	struct ql_engine *en = h->data;

	en->pipe_open = false;
	settle(en);
}

static void pipe_end(struct ql_engine *en)
{
	if (en->eof)
		return;
	en->eof = true;
	uv_close((uv_handle_t *)&en->pipe, on_pipe_closed);
}

/* A frame that could not be acted upon for want of disk or memory: the engine must not go on as if it had been, and its jobs go
 * back to what is stored. */
static bool is_ours(const struct ql_control *ctl, int code)
{
	return ql_store_broken(ctl->store) || code == QL_ENOSPC || code == QL_EIO || code == QL_EBUSY || code == QL_ENOMEM || code == QL_EINTERNAL;
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
	struct ql_engine *en = s->data;
	struct ql_err e = {0};

	if (n > 0) {
		en->last_frame_ms = uv_now(en->ctl->loop);
		if (ql_frame_feed(&en->in, buf->base, (size_t)n, on_frame, en, &e) != QL_OK) {
			en->our_fault = is_ours(en->ctl, e.code);
			ql_log(QL_LOG_ERROR, "engine", "%s: %s", en->our_fault ? "its word cannot be stored" : "protocol fault", e.message);
			ql_engine_kill(en, "exit");
			pipe_end(en);
		}
	} else if (n < 0) {
		pipe_end(en);
	}
	free(buf->base);
}

static void on_process_closed(uv_handle_t *h)
{
	struct ql_engine *en = h->data;

	en->process_open = false;
	settle(en);
}

static void on_process_exit(uv_process_t *p, int64_t status, int sig)
{
	struct ql_engine *en = p->data;

	en->process_alive = false;
	en->exit_code = (int)status;
	en->exit_signal = sig;
	uv_close((uv_handle_t *)p, on_process_closed);
}

static void on_restart(uv_timer_t *t) { ql_engine_start(t->data); }

static const char *death_reason(const struct ql_engine *en)
{
	if (en->kill_reason != NULL)
		return en->kill_reason;
	if (en->exit_signal == SIGKILL)
		return "oom";
	return en->exit_signal == 0 && (en->exit_code == QL_EXIT_DEVICE || en->exit_code == QL_EXIT_NO_DEVICE) ? "cuda" : "exit";
}

static void schedule_restart(struct ql_engine *en, bool was_ready, bool healthy)
{
	uint64_t delay;

	if (en->exit_signal == 0 && en->exit_code == QL_EXIT_CONFIG) {
		state_set(en, QL_ENGINE_BROKEN);
		ql_log(QL_LOG_ERROR, "engine", "cannot work with these settings%s%s; not started again", en->fatal[0] ? ": " : "", en->fatal);
		if (!en->ever_ready && en->ctl->on_broken != NULL)
			en->ctl->on_broken(en->ctl);
		return;
	}
	if (healthy)
		en->backoff_ms = BACKOFF_FIRST_MS;
	en->load_deaths = was_ready ? 0 : en->load_deaths + 1;
	delay = en->backoff_ms;
	en->backoff_ms = en->backoff_ms * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : en->backoff_ms * 2;
	state_set(en, QL_ENGINE_DOWN);
	if (en->load_deaths >= LOAD_DEATHS_MAX) {
		state_set(en, QL_ENGINE_BROKEN);
		delay = BROKEN_MS;
	}
	ql_log(QL_LOG_INFO, "engine", "restart in %.1f s", (double)delay / 1000);
	(void)uv_timer_start(&en->timer, on_restart, delay, 0);
}

/* Both the process and its pipe are gone: tell everyone, then start again. */
static void settle(struct ql_engine *en)
{
	bool was_ready = en->state == QL_ENGINE_READY, wanted = en->drain_sent && en->exit_code == 0 && en->exit_signal == 0;
	bool healthy = was_ready && uv_now(en->ctl->loop) - en->ready_ms > HEALTH_MS;
	const char *reason = death_reason(en);
	char labels[64];

	if (en->process_open || en->pipe_open)
		return;
	(void)uv_timer_stop(&en->timer);
	ql_frame_reader_free(&en->in);
	if (en->exit_signal != 0)
		(void)snprintf(en->last_exit, sizeof en->last_exit, "signal %d (%s)", en->exit_signal, reason);
	else
		(void)snprintf(en->last_exit, sizeof en->last_exit, "exit code %d (%s)", en->exit_code, reason);
	ql_log(wanted ? QL_LOG_INFO : QL_LOG_WARN, "engine", "ended: %s%s%s", wanted ? "drained" : en->last_exit,
	       en->fatal[0] ? ": " : "", en->fatal);
	state_set(en, QL_ENGINE_DOWN);
	json_decref(en->status);
	en->status = NULL;
	ql_engine_fail_requests(en);
	ql_exports_engine_lost(en->ctl, !en->our_fault);
	ql_jobs_engine_lost(en->ctl, en->our_fault ? NULL : reason);
	if (en->closing)
		return;
	en->restarts++;
	en->tick++;
	ql_metrics_labels(labels, sizeof labels, "reason", reason, (char *)NULL);
	ql_metrics_add(en->ctl->metrics, QLM_ENGINE_RESTARTS, labels, 1);
	if (was_ready)
		en->ever_ready = true;
	schedule_restart(en, was_ready, healthy);
}

void ql_engine_start(struct ql_engine *en)
{
	struct ql_err e = {0};
	int sv[2] = {-1, -1}, rc;

	if (en->closing || en->process_open || en->pipe_open)
		return;
	if (!ql_state_lock_engine(en->ctl->state_fd)) {
		ql_log(QL_LOG_WARN, "engine", "waiting for the end of the engine of an earlier run");
		(void)uv_timer_start(&en->timer, on_restart, BACKOFF_FIRST_MS, 0);
		return;
	}
	en->eof = en->drain_sent = en->our_fault = false;
	en->kill_reason = NULL;
	en->killed_ms = 0;
	en->exit_code = en->exit_signal = 0;
	en->fatal[0] = '\0';
	en->load_progress = 0;
	en->started_ms = en->last_frame_ms = uv_now(en->ctl->loop);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) != 0) {
		rc = ql_err_errno(&e, "engine socket");
		goto fail;
	}
	(void)uv_pipe_init(en->ctl->loop, &en->pipe, 0);
	en->pipe.data = en;
	en->pipe_open = true;
	rc = uv_pipe_open(&en->pipe, sv[0]);
	if (rc != 0) {
		rc = ql_err_set(&e, QL_EIO, "engine socket: %s", uv_strerror(rc));
		pipe_end(en);
		goto fail;
	}
	sv[0] = -1;
	rc = ql_engine_spawn(en, sv[1], on_process_exit, on_process_closed, &e);
	if (rc != QL_OK) {
		pipe_end(en);
		goto fail;
	}
	(void)close(sv[1]);
	state_set(en, QL_ENGINE_LOADING);
	(void)uv_read_start((uv_stream_t *)&en->pipe, on_alloc, on_read);
	(void)uv_timer_start(&en->timer, on_beat, BEAT_MS, BEAT_MS);
	if (ql_engine_send(en, ql_engine_init_frame(en->ctl->config), &e) != QL_OK)
		ql_engine_kill(en, "exit");
	ql_log(QL_LOG_INFO, "engine", "started, process %d", (int)en->process.pid);
	return;
fail:
	for (int i = 0; i < 2; i++)
		if (sv[i] >= 0)
			(void)close(sv[i]);
	ql_log(QL_LOG_ERROR, "engine", "%s", e.message);
	if (!en->pipe_open && !en->process_open)
		schedule_restart(en, false, false);
}

bool ql_engine_gone(const struct ql_engine *en) { return !en->process_open && !en->pipe_open; }

void ql_engine_drain(struct ql_engine *en)
{
	struct ql_err e = {0};

	en->closing = true;
	if (en->drain_sent || ql_engine_gone(en)) {
		(void)uv_timer_stop(&en->timer);
		return;
	}
	en->drain_sent = true;
	if (en->state == QL_ENGINE_LOADING || ql_engine_send(en, json_pack("{s:s}", "type", "drain"), &e) != QL_OK)
		ql_engine_kill(en, "exit");
}

void ql_engines_close(struct ql_control *ctl)
{
	for (size_t i = 0; i < ctl->n_engines; i++) {
		struct ql_engine *en = ctl->engines[i];

		en->closing = true;
		ql_engine_kill(en, "exit");
		if (!uv_is_closing((uv_handle_t *)&en->timer))
			uv_close((uv_handle_t *)&en->timer, NULL);
		if (en->pipe_open)
			pipe_end(en);
	}
}

void ql_engines_free(struct ql_control *ctl)
{
	for (size_t i = 0; i < ctl->n_engines; i++) {
		struct ql_engine *en = ctl->engines[i];

		json_decref(en->model);
		json_decref(en->info);
		json_decref(en->status);
		ql_frame_reader_free(&en->in);
		free(en);
		ctl->engines[i] = NULL;
	}
	ctl->n_engines = 0;
}
