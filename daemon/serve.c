/* serve.c - `qlorad serve`: start, signals, drain, end.
 *
 *   start   settings → state directory locked → store and recovery → listeners → READY=1 → engine
 *   drain   on SIGTERM, SIGINT, SIGHUP: STOPPING=1; new work 503; jobs stop at a snapshot and go back to queued; streams get
 *           drain_seconds; then the engine is drained and, if it does not end, killed; WAL checkpoint; exit 0
 *   second signal: the engine is killed at once (jobs go on from their last checkpoint at the next start) */
#include <malloc.h>
#include <signal.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/http.h"
#include "core/base/log.h"
#include "daemon/control_internal.h"
#include "daemon/engine_internal.h"
#include "daemon/ipc.h"
#include "daemon/sd.h"
#include "daemon/store.h"

#define STEP_MS 50
#define JOBS_MS 100000   /* longest wait for snapshots */
#define ENGINE_MS 10000  /* from the drain frame to SIGKILL */
#define FILES_WANTED 4096

extern char **environ;

enum stage { SERVING, STOPPING, ENGINE, CLOSING };

struct serve {
	struct ql_control ctl;
	struct ql_config config;
	uv_loop_t loop;
	uv_signal_t signals[3];
	uv_timer_t timer;    /* drain steps */
	uv_timer_t watchdog;
	enum stage stage;
	uint64_t since_ms;
	bool hurry;
	int status;
};

static void finish(struct serve *s)
{
	s->stage = CLOSING;
	(void)uv_timer_stop(&s->timer);
	ql_http_stop(&s->ctl);
	ql_control_close(&s->ctl);
	for (int i = 0; i < 3; i++)
		uv_close((uv_handle_t *)&s->signals[i], NULL);
	uv_close((uv_handle_t *)&s->timer, NULL);
	uv_close((uv_handle_t *)&s->watchdog, NULL);
}

static void on_step(uv_timer_t *t)
{
	struct serve *s = t->data;
	struct ql_engine *en = s->ctl.engines[0];
	uint64_t waited = uv_now(&s->loop) - s->since_ms;

	if (s->stage == STOPPING) {
		bool streams = ql_http_idle(&s->ctl) || waited > (uint64_t)s->config.drain_seconds * 1000;
		bool work = ql_control_drained(&s->ctl) || ql_engine_gone(en) || waited > JOBS_MS;

		if (!s->hurry && !(streams && work))
			return;
		s->stage = ENGINE;
		s->since_ms = uv_now(&s->loop);
		ql_engine_drain(en);
	} else if (s->stage == ENGINE) {
		if (!ql_engine_gone(en) && (s->hurry || waited > ENGINE_MS))
			ql_engine_kill(en, "exit");
		if (ql_engine_gone(en))
			finish(s);
	}
}

static void begin_drain(struct serve *s)
{
	if (s->stage != SERVING) {
		s->hurry = true;
		return;
	}
	ql_log(QL_LOG_INFO, "serve", "stopping: jobs go to a snapshot, answers get %lld s", (long long)s->config.drain_seconds);
	ql_sd_notify("STOPPING=1\nEXTEND_TIMEOUT_USEC=120000000");
	s->stage = STOPPING;
	s->since_ms = uv_now(&s->loop);
	ql_control_drain(&s->ctl);
	ql_http_drain(&s->ctl);
	(void)uv_timer_start(&s->timer, on_step, 0, STEP_MS);
}

static void on_signal(uv_signal_t *h, int sig)
{
	(void)sig;
	begin_drain(h->data);
}

static void on_broken(struct ql_control *ctl)
{
	struct serve *s = ctl->serve;

	s->status = ql_store_broken(ctl->store) ? 1 : QL_EXIT_CONFIG;
	begin_drain(s);
	s->hurry = true;
}

static void on_watchdog(uv_timer_t *t)
{
	(void)t;
	ql_sd_notify("WATCHDOG=1");
}

static int start(struct serve *s, struct ql_err *e)
{
	static const int numbers[] = {SIGTERM, SIGINT, SIGHUP};
	uint64_t watchdog = ql_sd_watchdog_ms();
	int rc;

	s->ctl.serve = s;
	s->ctl.on_broken = on_broken;
	s->ctl.n_listen_fds = ql_sd_listen_fds(s->ctl.listen_fds, QL_LISTEN_FDS_MAX);
	for (int i = 0; i < 3; i++) {
		(void)uv_signal_init(&s->loop, &s->signals[i]);
		s->signals[i].data = s;
	}
	(void)uv_timer_init(&s->loop, &s->timer);
	(void)uv_timer_init(&s->loop, &s->watchdog);
	s->timer.data = s;
	rc = ql_http_start(&s->ctl, e);
	if (rc != QL_OK) {
		finish(s);
		return rc;
	}
	for (int i = 0; i < 3; i++)
		(void)uv_signal_start(&s->signals[i], on_signal, numbers[i]);
	if (watchdog > 0)
		(void)uv_timer_start(&s->watchdog, on_watchdog, watchdog, watchdog);
	ql_sd_notify("READY=1");
	ql_control_start(&s->ctl);
	return QL_OK;
}

static int run(struct serve *s, struct ql_err *e)
{
	int fd, lock, rc;

	fd = ql_state_open(s->config.state_dir, e);
	if (fd < 0)
		return fd;
	lock = rc = ql_state_lock(fd, e);
	if (rc >= 0)
		rc = QL_OK;
	if (rc == QL_OK && uv_loop_init(&s->loop) != 0)
		rc = ql_err_set(e, QL_EIO, "cannot make an event loop");
	if (rc != QL_OK) {
		if (lock >= 0)
			(void)close(lock);
		(void)close(fd);
		return rc;
	}
	rc = ql_control_open(&s->ctl, &s->config, &s->loop, fd, e);
	if (rc == QL_OK) {
		rc = start(s, e);
		(void)uv_run(&s->loop, UV_RUN_DEFAULT);
		ql_control_free(&s->ctl);
	}
	if (uv_loop_close(&s->loop) != 0)
		ql_log(QL_LOG_WARN, "serve", "handles were left open");
	(void)close(lock);
	(void)close(fd);
	return rc;
}

/* Small and quiet: no core dumps (they hold weights and prompts), few malloc arenas, few workers. */
static void settle_process(void)
{
	struct rlimit none = {0, 0}, files;

	(void)umask(0077);
	(void)setrlimit(RLIMIT_CORE, &none);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < FILES_WANTED) {
		files.rlim_cur = files.rlim_max < FILES_WANTED ? files.rlim_max : FILES_WANTED;
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
	(void)signal(SIGPIPE, SIG_IGN);
	(void)mallopt(M_ARENA_MAX, 2);
	(void)setenv("UV_THREADPOOL_SIZE", "2", 0);
}

int ql_serve_main(int argc, char **argv)
{
	struct serve *s;
	struct ql_err e = {0};
	bool check, help;
	int rc;

	s = calloc(1, sizeof *s);
	if (s == NULL || sodium_init() < 0) {
		free(s);
		(void)fprintf(stderr, "qlorad: out of memory or random numbers\n");
		return 1;
	}
	rc = ql_config_load(&s->config, argc, argv, environ, &check, &help, &e);
	if (rc != QL_OK) {
		(void)fprintf(stderr, "qlorad serve: %s\n", e.message);
		free(s);
		return QL_EXIT_CONFIG;
	}
	if (help || check) {
		if (help)
			ql_config_help(stdout);
		else
			ql_config_print(&s->config, stdout);
		ql_config_free(&s->config);
		free(s);
		return 0;
	}
	ql_log_set_level((enum ql_log_level)ql_log_level_of(s->config.log_level));
	settle_process();
	rc = run(s, &e);
	if (rc != QL_OK)
		ql_log(QL_LOG_ERROR, "serve", "%s", e.message);
	else
		ql_log(QL_LOG_INFO, "serve", "stopped");
	rc = rc != QL_OK ? 1 : s->status;
	ql_config_free(&s->config);
	free(s);
	return rc;
}
