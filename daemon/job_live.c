/* job_live.c - the jobs that an engine has in hand: what is known of them beyond their rows. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/engine_internal.h"
#include "daemon/jobs_internal.h"
#include "daemon/metrics.h"

struct ql_live *ql_live_find(struct ql_control *ctl, const char *id)
{
	struct ql_live *l = ctl->jobs->live;

	while (l != NULL && strcmp(l->id, id) != 0)
		l = l->next;
	return l;
}

void ql_live_drop(struct ql_control *ctl, struct ql_live *l)
{
	static const enum ql_metric gauges[] = {QLM_JOB_STEP, QLM_JOB_TOTAL_STEPS, QLM_JOB_TRAIN_LOSS, QLM_JOB_LEARNING_RATE,
			QLM_JOB_GRAD_NORM};
	char labels[96];

	for (struct ql_live **p = &ctl->jobs->live; *p != NULL; p = &(*p)->next)
		if (*p == l) {
			*p = l->next;
			break;
		}
	ql_metrics_labels(labels, sizeof labels, "job", l->id, (char *)NULL);
	for (size_t i = 0; i < sizeof gauges / sizeof gauges[0]; i++)
		ql_metrics_drop(ctl->metrics, gauges[i], labels);
	ctl->jobs->tick++;
	json_decref(l->progress);
	json_decref(l->pending);
	free(l);
}

struct ql_live *ql_live_add(struct ql_control *ctl, const struct ql_job *j, int64_t attempt, bool training)
{
	struct ql_live *l = calloc(1, sizeof *l);

	if (l == NULL)
		return NULL;
	(void)snprintf(l->id, sizeof l->id, "%s", j->id);
	(void)snprintf(l->project, sizeof l->project, "%s", j->project);
	l->attempt = attempt;
	l->training = training;
	l->phase = training ? "loading" : NULL;
	l->step = j->step;
	l->total_steps = j->total_steps;
	l->eta_seconds = -1;
	l->moved_ms = uv_now(ctl->loop);
	l->next = ctl->jobs->live;
	ctl->jobs->live = l;
	return l;
}

void ql_live_stop(struct ql_control *ctl, struct ql_live *l, const char *mode)
{
	struct ql_err e = {0};

	if (l->stop_sent && strcmp(mode, "cancel") != 0)
		return;
	l->stop_sent = true;
	if (ql_engine_send(ctl->engines[0],
			   json_pack("{s:s,s:s,s:I,s:s}", "type", "stop", "job", l->id, "attempt", (json_int_t)l->attempt, "mode", mode), &e) != QL_OK)
		ql_engine_kill(ctl->engines[0], "exit"); /* a state frame must not be lost */
}

int64_t ql_control_tick(struct ql_control *ctl, const char *job)
{
	const struct ql_live *l = job == NULL ? NULL : ql_live_find(ctl, job);

	return job == NULL ? ctl->jobs->tick : l == NULL ? 0 : l->tick;
}
