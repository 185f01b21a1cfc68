/* job_state.c - the table; see job_state.h.  A cell that is not named is refused: by the API with 400 invalid_state, for a
 * frame of the engine by dropping it.
 *
 *   validating  → queued | paused (held) | failed | cancelled; the engine's death leaves it: it is validated again
 *   queued      → running (picked) | paused | failed (nothing to resume from, file gone) | cancelled
 *   running     → succeeded | failed | queued (engine lost, stopped by drain or by a withdrawn pause) | pausing | paused
 *                 (no space) | cancelled
 *   pausing     → paused (stopped, engine lost, no space) | running (resumed) | succeeded (it was faster) | failed | cancelled
 *   paused      → queued (resumed) | cancelled
 *   succeeded, failed, cancelled: final; cancel on cancelled changes nothing */
#include "daemon/job_state.h"

#include <stddef.h>
#include <string.h>

#define GO(state) {true, false, QL_S_##state}
#define STAY(state) {true, true, QL_S_##state}

static const struct ql_job_edge edges[QL_S_COUNT][QL_E_COUNT] = {
	[QL_S_VALIDATING][QL_E_FILES_GOOD] = GO(QUEUED),
	[QL_S_VALIDATING][QL_E_FILES_HELD] = GO(PAUSED),
	[QL_S_VALIDATING][QL_E_FAULT] = GO(FAILED),
	[QL_S_VALIDATING][QL_E_LOST] = STAY(VALIDATING),
	[QL_S_VALIDATING][QL_E_CANCEL] = GO(CANCELLED),
	[QL_S_QUEUED][QL_E_PICKED] = GO(RUNNING),
	[QL_S_QUEUED][QL_E_FAULT] = GO(FAILED),
	[QL_S_QUEUED][QL_E_PAUSE] = GO(PAUSED),
	[QL_S_QUEUED][QL_E_RESUME] = STAY(QUEUED),
	[QL_S_QUEUED][QL_E_CANCEL] = GO(CANCELLED),
	[QL_S_RUNNING][QL_E_FINISHED] = GO(SUCCEEDED),
	[QL_S_RUNNING][QL_E_FAULT] = GO(FAILED),
	[QL_S_RUNNING][QL_E_LOST] = GO(QUEUED),
	[QL_S_RUNNING][QL_E_NO_SPACE] = GO(PAUSED),
	[QL_S_RUNNING][QL_E_STOPPED] = GO(QUEUED),
	[QL_S_RUNNING][QL_E_PAUSE] = GO(PAUSING),
	[QL_S_RUNNING][QL_E_RESUME] = STAY(RUNNING),
	[QL_S_RUNNING][QL_E_CANCEL] = GO(CANCELLED),
	[QL_S_PAUSING][QL_E_FINISHED] = GO(SUCCEEDED),
	[QL_S_PAUSING][QL_E_FAULT] = GO(FAILED),
	[QL_S_PAUSING][QL_E_LOST] = GO(PAUSED),
	[QL_S_PAUSING][QL_E_NO_SPACE] = GO(PAUSED),
	[QL_S_PAUSING][QL_E_STOPPED] = GO(PAUSED),
	[QL_S_PAUSING][QL_E_PAUSE] = STAY(PAUSING),
	[QL_S_PAUSING][QL_E_RESUME] = GO(RUNNING),
	[QL_S_PAUSING][QL_E_CANCEL] = GO(CANCELLED),
	[QL_S_PAUSED][QL_E_PAUSE] = STAY(PAUSED),
	[QL_S_PAUSED][QL_E_RESUME] = GO(QUEUED),
	[QL_S_PAUSED][QL_E_CANCEL] = GO(CANCELLED),
	[QL_S_CANCELLED][QL_E_CANCEL] = STAY(CANCELLED),
};

const char *const ql_job_state_names[QL_S_COUNT] = {"validating", "queued",    "running", "pausing",
						    "paused",	  "succeeded", "failed",  "cancelled"};
const char *const ql_job_happening_names[QL_E_COUNT] = {"files good", "files held", "picked",  "finished", "fault", "engine lost",
							"no space",   "stopped",    "pause",   "resume",   "cancel"};

const struct ql_job_edge *ql_job_edge(enum ql_job_state from, enum ql_job_happening what) { return &edges[from][what]; }

bool ql_job_state_final(enum ql_job_state s) { return s == QL_S_SUCCEEDED || s == QL_S_FAILED || s == QL_S_CANCELLED; }

enum ql_job_state ql_job_state_of(const char *name)
{
	int i = 0;

	while (i < QL_S_COUNT && strcmp(ql_job_state_names[i], name) != 0)
		i++;
	return (enum ql_job_state)i;
}

const char *ql_job_status(enum ql_job_state s, const char *paused_as)
{
	static const char *const words[QL_S_COUNT] = {"validating_files", "queued",    "running", NULL, NULL,
						      "succeeded",	  "failed",    "cancelled"};

	return words[s] == NULL ? paused_as : words[s];
}
