/* revision.h - the revision counters (api.md §15.2): one a project, and one ('') over all, for admins. */
#ifndef QL_DAEMON_REVISION_H
#define QL_DAEMON_REVISION_H

#include "daemon/control.h"

/* Inside a transaction: counts a change of `project`; the new values go to *own and *all (may be NULL). */
int ql_revision_bump(struct ql_control *ctl, const char *project, int64_t *own, int64_t *all, struct ql_err *e);
/* ?1 of the lists' SQL: "" sees everything, else the project. */
const char *ql_who_filter(const struct ql_who *who);

#endif
