/* job_ckpt.c - rows of checkpoints.  A user's checkpoint is listed, usable as a model, and kept within save_total_limit (the
 * newest always); a snapshot is for recovery: the last two are kept while the job may go on.  Rows go first, files after the
 * commit. */
#include <fcntl.h>
#include <sodium/randombytes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "daemon/engine_internal.h"
#include "daemon/jobs_internal.h"
#include "daemon/metrics.h"
#include "daemon/models_internal.h"

#define SNAPSHOTS_KEPT 2

struct removal {
	uv_work_t work;
	int dir;
	char name[160];
	struct ql_err err;
};

static void removal_work(uv_work_t *w)
{
	struct removal *r = (struct removal *)w;

	(void)ql_io_remove_tree(r->dir, r->name, &r->err);
}

static void removal_done(uv_work_t *w, int status)
{
	struct removal *r = (struct removal *)w;

	if (status != 0 || r->err.code != 0)
		ql_log(QL_LOG_WARN, "sweep", "%s is left for the next start", r->name);
	(void)close(r->dir);
	free(r);
}

void ql_remove_later(struct ql_control *ctl, const char *dir, const char *name)
{
	struct removal *r = calloc(1, sizeof *r);
	struct ql_err e = {0};

	if (r == NULL)
		return;
	(void)snprintf(r->name, sizeof r->name, "%s", name);
	r->dir = ql_io_name_ok(name) ? ql_io_open_dir(ctl->state_fd, dir, &e) : -1;
	if (r->dir >= 0 && uv_queue_work(ctl->loop, &r->work, removal_work, removal_done) == 0)
		return;
	if (r->dir >= 0)
		(void)close(r->dir);
	free(r);
}

void ql_remove_unfinished(struct ql_control *ctl, const char *dir, const char *name)
{
	char tmp[160];

	(void)snprintf(tmp, sizeof tmp, "%s.tmp", name);
	ql_remove_later(ctl, dir, tmp);
	ql_remove_later(ctl, dir, name);
}

bool ql_ckpt_newest(struct ql_control *ctl, const char *job, struct ql_job_ckpt *out)
{
	struct ql_err e = {0};
	sqlite3_stmt *q = ql_store_query(ctl->store, &e,
					 "SELECT dir, name, step, seq, bytes FROM checkpoints WHERE job = ?1 AND invalid = 0 ORDER BY step DESC LIMIT 1",
					 "s", job);
	bool found = q != NULL && ql_store_step(ctl->store, q, &e) == 1;

	memset(out, 0, sizeof *out);
	if (found) {
		(void)snprintf(out->dir, sizeof out->dir, "%s", ql_store_text(q, 0));
		(void)snprintf(out->name, sizeof out->name, "%s", ql_store_text(q, 1));
		out->step = sqlite3_column_int64(q, 2);
		out->seq = sqlite3_column_int64(q, 3);
		out->bytes = sqlite3_column_int64(q, 4);
	}
	ql_store_done(q);
	return found;
}

/* The metrics that a Checkpoint object may have, and step. */
static char *metrics_text(const json_t *m, int64_t step)
{
	static const char *const keys[] = {"train_loss", "train_mean_token_accuracy", "valid_loss", "valid_mean_token_accuracy",
					   "full_valid_loss", "full_valid_mean_token_accuracy"};
	json_t *o = json_pack("{s:I}", "step", (json_int_t)step);
	char *text;

	for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
		if (json_is_number(json_object_get(m, keys[i])))
			(void)json_object_set(o, keys[i], json_object_get(m, keys[i]));
	text = ql_json_text(o);
	json_decref(o);
	return text;
}

static int insert(struct ql_control *ctl, const struct ql_job *j, int64_t step, bool user, const char *dir, const char *name,
		  const char *sha256, int64_t bytes, const char *metrics, struct ql_err *e)
{
	char id[QL_ID_SIZE];
	int rc;

	ql_id_make(id, "ftckpt_");
	rc = ql_store_run(ctl->store, e,
			  "INSERT INTO checkpoints (id, job, step, kind, dir, name, manifest_sha256, bytes, metrics, created_at)"
			  " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (job, step) DO UPDATE SET"
			  " kind = CASE WHEN kind = 'user' THEN kind ELSE excluded.kind END, name = ifnull(name, excluded.name),"
			  " dir = excluded.dir, manifest_sha256 = excluded.manifest_sha256, bytes = excluded.bytes,"
			  " metrics = CASE WHEN excluded.kind = 'user' OR kind <> 'user' THEN excluded.metrics ELSE metrics END, invalid = 0",
			  "ssissssisi", id, j->id, step, user ? "user" : "snapshot", dir, name, sha256, bytes, metrics, (int64_t)time(NULL));
	return rc < 0 ? rc : QL_OK;
}

static bool is_user(struct ql_control *ctl, const char *job, int64_t step)
{
	return ql_store_int(ctl->store, 0, "SELECT count(*) FROM checkpoints WHERE job = ?1 AND step = ?2 AND kind = 'user'", "si",
			job, step) > 0;
}

int ql_ckpt_insert(struct ql_control *ctl, const struct ql_job *j, const json_t *frame, struct ql_err *e)
{
	const char *dir = NULL, *sha256 = "", *kind = "snapshot";
	const struct ql_live *l = ql_live_find(ctl, j->id);
	char name[QL_MODEL_NAME_SIZE] = "", want[32];
	int64_t step = -1, bytes = 0;
	bool user, repeated;
	char *metrics;
	int rc;

	if ((rc = ql_json_get_int(frame, "step", 0, INT32_MAX, &step, e)) != QL_OK ||
	    (rc = ql_json_get_int(frame, "bytes", 0, INT64_MAX, &bytes, e)) != QL_OK ||
	    (rc = ql_json_get_str(frame, "dir", 1, 31, &dir, e)) != QL_OK ||
	    (rc = ql_json_get_str(frame, "manifest_sha256", 64, 64, &sha256, e)) != QL_OK ||
	    (rc = ql_json_get_str(frame, "kind", 1, 16, &kind, e)) != QL_OK)
		return rc;
	(void)snprintf(want, sizeof want, "step-%lld", (long long)step);
	if (dir == NULL || strcmp(dir, want) != 0 || sha256[0] == '\0')
		return ql_err_set(e, QL_EFORMAT, "checkpoint: bad dir or hash");
	user = strcmp(kind, "user") == 0;
	repeated = is_user(ctl, j->id, step);
	if (user && l != NULL && l->total_steps > 0 && step >= l->total_steps)
		(void)snprintf(name, sizeof name, "%s", j->reserved_name);
	else if (user)
		ql_model_make_checkpoint_name(j->base_model, j->suffix, step, name);
	metrics = metrics_text(json_object_get(frame, "metrics"), step);
	if (metrics == NULL)
		return ql_err_set(e, QL_ENOMEM, "checkpoint");
	rc = insert(ctl, j, step, user, dir, user ? name : NULL, sha256, bytes, metrics, e);
	free(metrics);
	if (rc == QL_OK && user && !repeated)
		rc = ql_job_event(ctl, j->id, "info", NULL, -1, e, "Checkpoint created at step %lld with Snapshot ID: %s", (long long)step, name);
	if (rc == QL_OK)
		ql_metrics_observe(ctl->metrics, QLM_CHECKPOINT_BYTES, user ? "kind=\"user\"" : "kind=\"snapshot\"", (double)bytes);
	return rc == QL_OK ? ql_job_touch(ctl, j->id, j->project, e) : rc;
}

/* Takes one row out (in its own transaction) and its files with it; the oldest that `sql` names.  False: none left. */
static bool prune_one(struct ql_control *ctl, const char *job, const char *sql, int64_t keep)
{
	struct ql_err e = {0};
	sqlite3_stmt *q = ql_store_query(ctl->store, &e, sql, "si", job, keep);
	char path[128], dir[32], name[QL_MODEL_NAME_SIZE];
	int64_t seq = 0;
	bool found = q != NULL && ql_store_step(ctl->store, q, &e) == 1;

	if (found) {
		seq = sqlite3_column_int64(q, 0);
		(void)snprintf(dir, sizeof dir, "%s", ql_store_text(q, 1));
		(void)snprintf(name, sizeof name, "%s", ql_store_text(q, 2));
	}
	ql_store_done(q);
	if (!found)
		return false;
	if (ql_store_run(ctl->store, &e, "DELETE FROM checkpoints WHERE seq = ?1", "i", seq) < 0) {
		ql_log(QL_LOG_WARN, "jobs", "prune: %s", e.message);
		return false;
	}
	if (name[0] != '\0')
		ql_model_forget(ctl, name);
	(void)snprintf(path, sizeof path, "jobs/%s", job);
	ql_remove_later(ctl, path, dir);
	return true;
}

/* A checkpoint that a live job trains on or an export reads is left alone, and so is the newest of the job. */
#define PRUNABLE \
	"SELECT seq, dir, name FROM checkpoints c WHERE job = ?1 AND step < (SELECT max(step) FROM checkpoints WHERE job = ?1 AND invalid = 0)" \
	" AND NOT EXISTS (SELECT 1 FROM jobs WHERE adapter_from = c.name AND state NOT IN ('succeeded', 'failed', 'cancelled'))" \
	" AND NOT EXISTS (SELECT 1 FROM exports WHERE model = c.name AND state IN ('queued', 'running'))"

void ql_ckpt_prune(struct ql_control *ctl, const struct ql_job *j, bool final)
{
	int64_t limit = json_integer_value(json_object_get(j->recipe, "save_total_limit"));

	if (limit < 1)
		limit = 1;
	while (prune_one(ctl, j->id, PRUNABLE " AND kind = 'user' AND (SELECT count(*) FROM checkpoints WHERE job = ?1 AND kind = 'user') > ?2 ORDER BY step LIMIT 1", limit))
		;
	/* Snapshots: newest two of all resume points are kept; none once the job has succeeded. */
	while (prune_one(ctl, j->id,
			 PRUNABLE " AND kind = 'snapshot' AND (?2 = 0 OR step < (SELECT step FROM checkpoints WHERE job = ?1 AND invalid = 0"
				  " ORDER BY step DESC LIMIT 1 OFFSET ?2 - 1)) ORDER BY step LIMIT 1",
			 final ? 0 : SNAPSHOTS_KEPT))
		;
}

void ql_ckpt_sweep_ended(struct ql_control *ctl)
{
	for (;;) {
		struct ql_err e = {0};
		sqlite3_stmt *q = ql_store_query(ctl->store, &e,
						 "SELECT c.job FROM checkpoints c JOIN jobs j ON j.id = c.job WHERE c.kind = 'snapshot' AND j.state IN"
						 " ('failed', 'cancelled') LIMIT 1",
						 "");
		bool found = q != NULL && ql_store_step(ctl->store, q, &e) == 1;
		char job[QL_ID_SIZE];

		if (found)
			(void)snprintf(job, sizeof job, "%s", ql_store_text(q, 0));
		ql_store_done(q);
		if (!found || !prune_one(ctl, job, "SELECT seq, dir, name FROM checkpoints WHERE job = ?1 AND kind = 'snapshot' AND ?2 = 0 LIMIT 1", 0))
			return;
	}
}
