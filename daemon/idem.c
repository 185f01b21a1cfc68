/* idem.c - see idem.h. */
#include "daemon/idem.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/json.h"
#include "core/base/limits.h"
#include "daemon/store.h"

#define BY_KEY 0
#define BY_FINGERPRINT 1
#define RETRY_SECONDS 120
#define RECORDS_MAX 100000

static int answer(sqlite3_stmt *q, struct ql_reply *reply, struct ql_err *e)
{
	const char *text = ql_store_text(q, 2);

	reply->status = sqlite3_column_int(q, 1);
	reply->replayed = true;
	return ql_json_parse(text, strlen(text), QL_JSON_BODY_MAX, &reply->body, e);
}

int ql_idem_find(struct ql_control *ctl, const struct ql_who *who, const char *route, const struct ql_idem *idem,
		 const char *fingerprint, struct ql_reply *reply, struct ql_fault *f)
{
	int kind = idem != NULL && idem->key != NULL ? BY_KEY : BY_FINGERPRINT;
	int64_t now = (int64_t)time(NULL), oldest = now - (kind == BY_KEY ? QL_IDEMPOTENCY_SECONDS : RETRY_SECONDS);
	struct ql_err e = {0};
	sqlite3_stmt *q;
	int rc;

	if (idem == NULL || (kind == BY_FINGERPRINT && idem->retry_count < 1))
		return 0;
	q = ql_store_query(ctl->store, &e,
			   "SELECT fingerprint, status, body, token FROM repeats WHERE project = ?1 AND route = ?2 AND kind = ?3 AND"
			   " key = ?4 AND created_at >= ?5",
			   "ssisi", who->project, route, (int64_t)kind, kind == BY_KEY ? idem->key : fingerprint, oldest);
	rc = q == NULL ? e.code : ql_store_step(ctl->store, q, &e);
	if (rc == 1 && kind == BY_KEY && strcmp(ql_store_text(q, 0), fingerprint) != 0)
		rc = ql_fault_set(f, QL_EINVAL, 422, "idempotency_key_reused", NULL,
				  "This Idempotency-Key was used with another request.");
	else if (rc == 1 && kind == BY_FINGERPRINT && strcmp(ql_store_text(q, 3), who->token) != 0)
		rc = 0;
	else if (rc == 1)
		rc = answer(q, reply, &e) == QL_OK ? 1 : ql_fault_internal(f, &e, "repeat");
	else if (rc < 0)
		rc = ql_fault_internal(f, &e, "repeat");
	ql_store_done(q);
	return rc;
}

static int save(struct ql_control *ctl, const struct ql_who *who, const char *route, int kind, const char *key,
		const char *fingerprint, int status, const char *body, struct ql_err *e)
{
	return ql_store_run(ctl->store, e,
			    "INSERT OR REPLACE INTO repeats (project, route, kind, key, token, fingerprint, status, body, created_at)"
			    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
			    "ssisssisi", who->project, route, (int64_t)kind, key, who->token, fingerprint, (int64_t)status, body,
			    (int64_t)time(NULL));
}

int ql_idem_save(struct ql_control *ctl, const struct ql_who *who, const char *route, const struct ql_idem *idem,
		 const char *fingerprint, int status, const json_t *body, struct ql_err *e)
{
	char *text;
	int rc;

	if (idem == NULL)
		return QL_OK;
	text = ql_json_text(body);
	if (text == NULL)
		return ql_err_set(e, QL_ENOMEM, "repeat");
	rc = save(ctl, who, route, BY_FINGERPRINT, fingerprint, fingerprint, status, text, e);
	if (rc >= 0 && idem->key != NULL)
		rc = save(ctl, who, route, BY_KEY, idem->key, fingerprint, status, text, e);
	free(text);
	return rc < 0 ? rc : QL_OK;
}

void ql_idem_sweep(struct ql_control *ctl)
{
	int64_t now = (int64_t)time(NULL);

	(void)ql_store_run(ctl->store, NULL, "DELETE FROM repeats WHERE kind = 1 AND created_at < ?1", "i", now - RETRY_SECONDS);
	(void)ql_store_run(ctl->store, NULL, "DELETE FROM repeats WHERE kind = 0 AND created_at < ?1", "i",
			   now - QL_IDEMPOTENCY_SECONDS);
	(void)ql_store_run(ctl->store, NULL,
			   "DELETE FROM repeats WHERE rowid IN (SELECT rowid FROM repeats ORDER BY created_at DESC LIMIT -1 OFFSET ?1)",
			   "i", (int64_t)RECORDS_MAX);
}
