/* control.c - opening and closing the rooms in order, the 10 s tick, and the answers that show the whole daemon. */
#include "daemon/control.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/log.h"
#include "daemon/auth.h"
#include "daemon/control_internal.h"
#include "daemon/engine_internal.h"
#include "daemon/exports_internal.h"
#include "daemon/files.h"
#include "daemon/idem.h"
#include "daemon/jobs_internal.h"
#include "daemon/metrics.h"
#include "daemon/models_internal.h"
#include "daemon/revision.h"
#include "daemon/space.h"
#include "daemon/store.h"
#include "daemon/sweep.h"

#define TICK_MS 10000
#define TICKS_A_MINUTE 6
#define QUEUE_SHOWN 100

struct ql_ticker {
	uv_timer_t timer;
	struct ql_control *ctl;
	uint64_t due_ms;
	unsigned n;
};

static void on_tick(uv_timer_t *t);

static bool on_space(void *user, bool full) { return ql_space_release(user, full); }

/* The tick ends control; it comes at once. */
static void on_store_broken(void *user)
{
	struct ql_control *ctl = user;

	if (ctl->ticker != NULL)
		(void)uv_timer_start(&ctl->ticker->timer, on_tick, 0, TICK_MS);
}

int ql_control_open(struct ql_control *ctl, const struct ql_config *config, uv_loop_t *loop, int state_fd, struct ql_err *e)
{
	int rc;

	ctl->config = config;
	ctl->loop = loop;
	ctl->state_fd = state_fd;
	ctl->started_at = (int64_t)time(NULL);
	if (config->model_name != NULL)
		(void)snprintf(ctl->base_name, sizeof ctl->base_name, "%s", config->model_name);
	else
		ql_model_base_name(config->base, ctl->base_name);
	ctl->metrics = ql_metrics_new(config->metrics_compat);
	if (ctl->metrics == NULL)
		return ql_err_set(e, QL_ENOMEM, "control");
	(void)ql_space_release(ctl, false); /* opening needs a few pages */
	if ((rc = ql_store_open(&ctl->store, config->state_dir, true, e)) != QL_OK)
		goto fail;
	ql_store_metrics(ctl->store, ctl->metrics);
	ql_store_on_space(ctl->store, on_space, ctl);
	ql_store_on_broken(ctl->store, on_store_broken, ctl);
	if ((rc = ql_auth_open(ctl, e)) != QL_OK || (rc = ql_files_open(ctl, e)) != QL_OK || (rc = ql_sweep_all(ctl, e)) != QL_OK ||
	    (rc = ql_engines_open(ctl, e)) != QL_OK || (rc = ql_exports_open(ctl, e)) != QL_OK || (rc = ql_jobs_open(ctl, e)) != QL_OK)
		goto fail;
	ql_space_tick(ctl);
	return QL_OK;
fail:
	ql_control_close(ctl);
	(void)uv_run(loop, UV_RUN_DEFAULT);
	ql_control_free(ctl);
	return rc;
}

static void ticker_closed(uv_handle_t *h) { free(h->data); }

void ql_control_close(struct ql_control *ctl)
{
	if (ctl->ticker != NULL)
		uv_close((uv_handle_t *)&ctl->ticker->timer, ticker_closed);
	ctl->ticker = NULL;
	ql_jobs_close(ctl);
	ql_engines_close(ctl);
}

void ql_control_free(struct ql_control *ctl)
{
	ql_jobs_free(ctl);
	ql_exports_free(ctl);
	ql_engines_free(ctl);
	ql_files_close(ctl);
	if (ctl->store != NULL)
		ql_auth_close(ctl);
	ql_store_close(ctl->store);
	ctl->store = NULL;
	ql_metrics_free(ctl->metrics);
	ctl->metrics = NULL;
}

static void on_tick(uv_timer_t *t)
{
	struct ql_ticker *k = t->data;
	struct ql_control *ctl = k->ctl;
	uint64_t now = uv_hrtime() / 1000000;

	if (k->due_ms != 0)
		ql_metrics_observe(ctl->metrics, QLM_LOOP_STALL_SECONDS, "", now > k->due_ms ? (double)(now - k->due_ms) / 1000 : 0);
	k->due_ms = now + TICK_MS;
	if (ql_store_broken(ctl->store)) {
		ql_log(QL_LOG_ERROR, "control", "the database cannot be trusted any more: ending, the next start recovers it");
		if (ctl->on_broken != NULL)
			ctl->on_broken(ctl);
		return;
	}
	ql_space_tick(ctl);
	ql_jobs_tick(ctl);
	ql_exports_again(ctl);
	if (++k->n % TICKS_A_MINUTE != 0)
		return;
	ql_files_expire(ctl);
	ql_exports_tick(ctl);
	ql_idem_sweep(ctl);
	ql_auth_sweep(ctl);
}

void ql_control_start(struct ql_control *ctl)
{
	struct ql_ticker *k = calloc(1, sizeof *k);

	if (k != NULL) {
		(void)uv_timer_init(ctl->loop, &k->timer);
		k->timer.data = k;
		k->ctl = ctl;
		ctl->ticker = k;
		(void)uv_timer_start(&k->timer, on_tick, TICK_MS, TICK_MS);
	}
	ql_engine_start(ctl->engines[0]);
}

void ql_control_drain(struct ql_control *ctl)
{
	ctl->draining = true;
	ql_exports_drain(ctl);
	ql_jobs_drain(ctl);
}

bool ql_control_drained(struct ql_control *ctl) { return ql_jobs_drained(ctl) && ctl->exports->running[0] == '\0'; }

/* ---- what is shown ---- */

json_t *ql_control_version(struct ql_control *ctl)
{
	const char *build = json_string_value(json_object_get(ql_engine_info(ctl), "build"));

	return json_pack("{s:s,s:s,s:s}", "version", QL_VERSION, "commit", QL_COMMIT, "build", build == NULL ? "" : build);
}

static json_t *engine_json(struct ql_control *ctl)
{
	static const char *const names[] = {"down", "loading", "ready", "broken"};
	const struct ql_engine *en = ctl->engines[0];
	json_t *o = json_pack("{s:s,s:s,s:I,s:I,s:s?}", "state", names[en->state], "model", ctl->base_name, "since",
			(json_int_t)en->since, "restarts",
			      (json_int_t)en->restarts, "last_exit", en->last_exit[0] == '\0' ? NULL : en->last_exit);

	if (en->state == QL_ENGINE_LOADING)
		(void)json_object_set_new(o, "progress", json_real(en->load_progress));
	if (en->fatal[0] != '\0')
		(void)json_object_set_new(o, "message", json_string(en->fatal));
	if (json_object_get(en->info, "device") != NULL)
		(void)json_object_set(o, "device", json_object_get(en->info, "device"));
	return o;
}

static json_t *queue_json(struct ql_control *ctl, const struct ql_who *who)
{
	struct ql_err e = {0};
	sqlite3_stmt *q = ql_store_query(ctl->store, &e,
					 "SELECT id, state, priority, step, total_steps FROM jobs WHERE state IN ('validating', 'queued', 'running', 'pausing',"
					 " 'paused') AND (?1 = '' OR project = ?1) ORDER BY state = 'running' DESC, priority DESC, seq LIMIT ?2",
					 "si", ql_who_filter(who), (int64_t)QUEUE_SHOWN);
	json_t *list = json_array();

	while (q != NULL && ql_store_step(ctl->store, q, &e) == 1) {
		const struct ql_live *l = ql_live_find(ctl, ql_store_text(q, 0));
		int64_t step = l != NULL ? l->step : sqlite3_column_int64(q, 3), total = l != NULL ? l->total_steps : sqlite3_column_int64(q, 4);

		(void)json_array_append_new(list, json_pack("{s:s,s:s,s:I,s:f}", "id", ql_store_text(q, 0), "state", ql_store_text(q, 1), "priority",
							    (json_int_t)sqlite3_column_int64(q, 2), "progress",
							    total > 0 ? (double)step / (double)total : 0.0));
	}
	ql_store_done(q);
	return list;
}

int64_t ql_control_status_tick(const struct ql_control *ctl)
{
	int64_t tick = ctl->jobs->tick + ctl->draining;

	for (size_t i = 0; i < ctl->n_engines; i++)
		tick += ctl->engines[i]->tick;
	return tick;
}

int64_t ql_control_models_tick(const struct ql_control *ctl) { return ctl->engines[0]->model_tick; }

static int64_t file_size(struct ql_control *ctl, const char *name)
{
	struct stat st;

	return fstatat(ctl->state_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 ? (int64_t)st.st_size : 0;
}

static const char *const disk_kinds[] = {"db", "wal", "files", "checkpoints", "adapters", "exports", "free"};

static void disk(struct ql_control *ctl, int64_t out[7])
{
	uint64_t free_bytes = 0;

	out[0] = file_size(ctl, "qlorad.db");
	out[1] = file_size(ctl, "qlorad.db-wal");
	out[2] = ql_store_int(ctl->store, 0, "SELECT sum(bytes) FROM files", "");
	out[3] = ql_store_int(ctl->store, 0, "SELECT sum(bytes) FROM checkpoints", "");
	out[4] = ql_store_int(ctl->store, 0, "SELECT sum(bytes) FROM models", "");
	out[5] = ql_store_int(ctl->store, 0, "SELECT sum(json_extract(f.value, '$.bytes')) FROM exports, json_each(exports.files) f", "");
	(void)ql_io_free_bytes(ctl->state_fd, &free_bytes, NULL);
	out[6] = (int64_t)free_bytes;
}

json_t *ql_control_status(struct ql_control *ctl, const struct ql_who *who)
{
	const json_t *s = ql_engine_status(ctl), *v;
	json_t *o, *inference = json_object(), *space = json_object();
	static const char *const counts[] = {"running", "waiting", "tokens_per_second"};
	int64_t bytes[7];

	for (size_t i = 0; i < 3; i++) {
		v = json_object_get(s, counts[i]);
		(void)json_object_set_new(inference, counts[i], json_is_number(v) ? json_copy((json_t *)(uintptr_t)v) : json_integer(0));
	}
	disk(ctl, bytes);
	for (size_t i = 0; i < 7; i++)
		(void)json_object_set_new(space, disk_kinds[i], json_integer(bytes[i]));
	v = json_object_get(s, "memory");
	o = json_pack("{s:I,s:I,s:b,s:o,s:o,s:o,s:o,s:o}", "revision", (json_int_t)ql_control_revision(ctl, who), "uptime",
		      (json_int_t)((int64_t)time(NULL) - ctl->started_at), "draining", (int)ctl->draining, "engine", engine_json(ctl), "queue",
		      queue_json(ctl, who), "inference", inference, "memory",
		      v == NULL ? json_object() : json_copy((json_t *)(uintptr_t)v), "disk", space);
	return o;
}

static void process_metrics(struct ql_control *ctl)
{
	struct rusage r;
	struct rlimit lim;
	long pages = 0;
	double fds = 0;
	FILE *f = fopen("/proc/self/statm", "re");
	DIR *d = opendir("/proc/self/fd");

	if (f != NULL) {
		if (fscanf(f, "%*s %ld", &pages) == 1)
			ql_metrics_set(ctl->metrics, QLM_PROCESS_RSS, "", (double)pages * (double)sysconf(_SC_PAGESIZE));
		(void)fclose(f);
	}
	if (d != NULL) {
		while (readdir(d) != NULL)
			fds++;
		(void)closedir(d);
		ql_metrics_set(ctl->metrics, QLM_PROCESS_OPEN_FDS, "", fds - 3); /* ".", ".." and the directory itself */
	}
	if (getrlimit(RLIMIT_NOFILE, &lim) == 0)
		ql_metrics_set(ctl->metrics, QLM_PROCESS_MAX_FDS, "", (double)lim.rlim_cur);
	if (getrusage(RUSAGE_SELF, &r) == 0)
		ql_metrics_set(ctl->metrics, QLM_PROCESS_CPU, "",
			       (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) + (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) * 1e-6);
	ql_metrics_set(ctl->metrics, QLM_PROCESS_START, "", (double)ctl->started_at);
}

void ql_control_metrics(struct ql_control *ctl)
{
	int64_t bytes[7], counts[QL_S_COUNT] = {0};
	struct ql_err e = {0};
	char labels[64];
	sqlite3_stmt *q = ql_store_query(ctl->store, &e, "SELECT state, count(*) FROM jobs GROUP BY state", "");

	while (q != NULL && ql_store_step(ctl->store, q, &e) == 1) {
		enum ql_job_state s = ql_job_state_of(ql_store_text(q, 0));

		if (s < QL_S_COUNT)
			counts[s == QL_S_PAUSING ? QL_S_PAUSED : s] += sqlite3_column_int64(q, 1);
	}
	ql_store_done(q);
	for (int i = 0; i < QL_S_COUNT; i++) {
		if (i == QL_S_PAUSING)
			continue;
		ql_metrics_labels(labels, sizeof labels, "status", ql_job_status((enum ql_job_state)i, "paused"), (char *)NULL);
		ql_metrics_set(ctl->metrics, QLM_JOBS, labels, (double)counts[i]);
	}
	disk(ctl, bytes);
	for (size_t i = 0; i < 7; i++) {
		ql_metrics_labels(labels, sizeof labels, "kind", disk_kinds[i], (char *)NULL);
		ql_metrics_set(ctl->metrics, QLM_STATE_BYTES, labels, (double)bytes[i]);
	}
	process_metrics(ctl);
}
