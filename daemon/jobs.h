/* jobs.h - fine-tuning jobs: creation, states, queue, events, checkpoints.  api.md §5 … §7.
 *
 * The state machine is one table in jobs_state.c; every change of state goes through it, in one transaction with its
 * events.  All json results are ready to send. */
#ifndef QL_DAEMON_JOBS_H
#define QL_DAEMON_JOBS_H

#include "daemon/control.h"

/* All checks of api.md §5.1-5.3; commits; status validating_files.  400 with param and code, 429 queue_full (no_retry), 503. */
int ql_job_create(struct ql_control *ctl, const struct ql_who *who, const json_t *body, const struct ql_idem *idem,
		  struct ql_reply *reply, struct ql_fault *f);

/* 404 fine_tune_not_found, param fine_tune_id, for unknown and foreign ids alike (every function that takes an id). */
int ql_job_get(struct ql_control *ctl, const struct ql_who *who, const char *id, json_t **out, struct ql_fault *f);

struct ql_job_query {
	struct ql_page page;          /* limit 1..100, default 20 */
	size_t n_metadata;            /* metadata[k]=v filters, all must match */
	const char *const *keys, *const *values;
	bool metadata_null;           /* metadata=null: jobs without metadata */
	int64_t since;                /* revision, -1 = absent: jobs changed after it, oldest change first, plus "revision" */
	const char *status;           /* an API status, or NULL; unknown word: 400 */
};
int ql_job_list(struct ql_control *ctl, const struct ql_who *who, const struct ql_job_query *q, json_t **out, struct ql_fault *f);

/* The job after the change.  400 invalid_state where the table does not allow it; repeats are harmless. */
int ql_job_cancel(struct ql_control *ctl, const struct ql_who *who, const char *id, json_t **out, struct ql_fault *f);
int ql_job_pause(struct ql_control *ctl, const struct ql_who *who, const char *id, json_t **out, struct ql_fault *f);
int ql_job_resume(struct ql_control *ctl, const struct ql_who *who, const char *id, json_t **out, struct ql_fault *f);

int ql_job_events(struct ql_control *ctl, const struct ql_who *who, const char *id, const struct ql_page *page, json_t **out,
		  struct ql_fault *f); /* newest first; limit 1..1000, default 20 */
int ql_job_checkpoints(struct ql_control *ctl, const struct ql_who *who, const char *id, const struct ql_page *page,
		       json_t **out, struct ql_fault *f); /* limit 1..100, default 10 */

/* Event streams, pulled by the reader so that a slow one costs nothing.
 *   w = ql_job_watch(…, after, notify, user)   after: an event id (Last-Event-ID) or NULL; unknown = from the beginning
 *   ql_job_watch_read(w, max, &events, &end)   events: array of up to max Event objects, oldest first, behind the last
 *                                              ones read; may be empty.  end: the job has ended and nothing is left.
 *   notify(user) is called on the loop after a commit that added events (never from inside watch or read); then read.
 * A reconnect that is at the end at its first read with nothing to send answers 204. */
struct ql_job_watch;
int ql_job_watch(struct ql_control *ctl, const struct ql_who *who, const char *id, const char *after,
		 void (*notify)(void *user), void *user, struct ql_job_watch **out, struct ql_fault *f);
int ql_job_watch_read(struct ql_job_watch *w, int max, json_t **events, bool *end, struct ql_fault *f);
void ql_job_watch_close(struct ql_job_watch *w); /* accepts NULL; no notify afterwards */

#endif
