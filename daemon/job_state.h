/* job_state.h - the states of a job and what may change them: one table (job_state.c), api.md §5.6 row for row. */
#ifndef QL_DAEMON_JOB_STATE_H
#define QL_DAEMON_JOB_STATE_H

#include <stdbool.h>

enum ql_job_state { QL_S_VALIDATING, QL_S_QUEUED, QL_S_RUNNING, QL_S_PAUSING, QL_S_PAUSED, QL_S_SUCCEEDED, QL_S_FAILED,
		QL_S_CANCELLED, QL_S_COUNT };

enum ql_job_happening {
	QL_E_FILES_GOOD, /* validated, auto_start */
	QL_E_FILES_HELD, /* validated, auto_start false */
	QL_E_PICKED,	 /* the scheduler gives it to an engine: attempt + 1 */
	QL_E_FINISHED,	 /* last step done, everything durable */
	QL_E_FAULT,	 /* files bad, data or numeric fault, engine deaths */
	QL_E_LOST,	 /* engine gone */
	QL_E_NO_SPACE,	 /* the engine could not write */
	QL_E_STOPPED,	 /* the engine stopped it, snapshot durable */
	QL_E_PAUSE,
	QL_E_RESUME,
	QL_E_CANCEL,
	QL_E_COUNT
};

struct ql_job_edge {
	bool legal, same; /* same: legal, changes nothing */
	enum ql_job_state to;
};

extern const char *const ql_job_state_names[QL_S_COUNT];
extern const char *const ql_job_happening_names[QL_E_COUNT];
const struct ql_job_edge *ql_job_edge(enum ql_job_state from, enum ql_job_happening what);
bool ql_job_state_final(enum ql_job_state s);
/* QL_S_COUNT if it is none. */
enum ql_job_state ql_job_state_of(const char *name);
/* The API's word; paused_as is config->report_paused_as. */
const char *ql_job_status(enum ql_job_state s, const char *paused_as);

#endif
