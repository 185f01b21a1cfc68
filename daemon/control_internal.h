/* control_internal.h - parts of the control process that only serve.c and control.c know. */
#ifndef QL_DAEMON_CONTROL_INTERNAL_H
#define QL_DAEMON_CONTROL_INTERNAL_H

#include "daemon/control.h"

/* Starts the engine and the 10 s tick. */
void ql_control_start(struct ql_control *ctl);
/* Stops work: jobs at a snapshot, exports back to the queue, nothing new. */
void ql_control_drain(struct ql_control *ctl);
bool ql_control_drained(struct ql_control *ctl); /* jobs and exports are out of the engine's hands */

/* serve.c: `qlorad serve`; token_cmd.c: `qlorad token`, `qlorad check`. */
int ql_serve_main(int argc, char **argv);
int ql_token_main(int argc, char **argv);
int ql_check_main(int argc, char **argv);
/* Opens (making it, 0700) the state directory; fd or QL_ code. */
int ql_state_open(const char *path, struct ql_err *e);
/* The exclusive lock that keeps a second control out: STATE/lock, held while the returned descriptor is open.  QL_EBUSY. */
int ql_state_lock(int fd, struct ql_err *e);

#endif
