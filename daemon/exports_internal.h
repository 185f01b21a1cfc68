/* exports_internal.h - exports as the rest of control sees them. */
#ifndef QL_DAEMON_EXPORTS_INTERNAL_H
#define QL_DAEMON_EXPORTS_INTERNAL_H

#include "daemon/exports.h"

struct ql_exports {
	char running[QL_ID_SIZE]; /* the one the engine has in hand, "" if none */
	double progress;
	bool stopping;
};

int ql_exports_open(struct ql_control *ctl, struct ql_err *e); /* running → queued */
void ql_exports_free(struct ql_control *ctl);
void ql_exports_schedule(struct ql_control *ctl);
void ql_exports_again(struct ql_control *ctl); /* the same, after looking for those whose end could not be stored */
void ql_exports_tick(struct ql_control *ctl);  /* old ones go */
void ql_exports_drain(struct ql_control *ctl); /* the running one is cancelled and goes back to the queue */

#endif
