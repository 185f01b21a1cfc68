/* space.h - the disk reserve; see space.c. */
#ifndef QL_DAEMON_SPACE_H
#define QL_DAEMON_SPACE_H

#include "daemon/control.h"

/* Gives up or restores STATE/reserve by the free space; called by the tick. */
void ql_space_tick(struct ql_control *ctl);
/* Gives it up if the disk is nearly full, or full (said by a write that failed).  True: there was one. */
bool ql_space_release(struct ql_control *ctl, bool full);

#endif
