/* idem.h - repeats of creating requests (api.md §15.1).  Used by files.c, job_create.c and exports.c.
 *
 *   ql_idem_find  before the work: an earlier answer (*reply filled, returns 1), nothing (0), or a refusal (< 0, *f)
 *   ql_idem_save  inside the creating transaction: what was answered
 *   in flight     keys whose upload is still being made durable; kept in memory only */
#ifndef QL_DAEMON_IDEM_H
#define QL_DAEMON_IDEM_H

#include "daemon/control.h"

/* fingerprint: hex SHA-256.  idem may be NULL. */
int ql_idem_find(struct ql_control *ctl, const struct ql_who *who, const char *route, const struct ql_idem *idem,
		 const char *fingerprint, struct ql_reply *reply, struct ql_fault *f);
int ql_idem_save(struct ql_control *ctl, const struct ql_who *who, const char *route, const struct ql_idem *idem,
		 const char *fingerprint, int status, const json_t *body, struct ql_err *e);
/* Drops old records; called each minute. */
void ql_idem_sweep(struct ql_control *ctl);

#endif
