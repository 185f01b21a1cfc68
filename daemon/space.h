/* space.h - the disk reserve; see space.c. */
#ifndef QL_DAEMON_SPACE_H
#define QL_DAEMON_SPACE_H

#include "daemon/control.h"

/* Gives up or restores STATE/reserve by the free space; called by the tick. */
void ql_space_tick(struct ql_control *ctl);

#endif
