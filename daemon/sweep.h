/* sweep.h - takes away what no row names: temporaries and leftovers of a crash.  Only below STATE/jobs, adapters, exports. */
#ifndef QL_DAEMON_SWEEP_H
#define QL_DAEMON_SWEEP_H

#include "daemon/control.h"

/* Makes jobs/, adapters/, exports/ and cache/, and removes entries without a row in them; missing checkpoints lose theirs. */
int ql_sweep_all(struct ql_control *ctl, struct ql_err *e);
/* The same for jobs/<id> alone, and for adapters/<id> when there is no such model: before each start of a job, since the
 * engine publishes by rename and does not overwrite. */
int ql_sweep_job(struct ql_control *ctl, const char *id, struct ql_err *e);

#endif
