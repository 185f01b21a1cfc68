/* revision.c - see revision.h. */
#include "daemon/revision.h"

#include "daemon/store.h"

static int bump(struct ql_control *ctl, const char *name, int64_t *out, struct ql_err *e)
{
	int rc = ql_store_run(ctl->store, e,
			      "INSERT INTO projects (name, revision) VALUES (?1, 1) ON CONFLICT (name) DO UPDATE SET revision = revision + 1",
			      "s", name);

	if (rc < 0)
		return rc;
	if (out != NULL)
		*out = ql_store_int(ctl->store, 0, "SELECT revision FROM projects WHERE name = ?1", "s", name);
	return QL_OK;
}

int ql_revision_bump(struct ql_control *ctl, const char *project, int64_t *own, int64_t *all, struct ql_err *e)
{
	int rc = bump(ctl, project, own, e);

	return rc == QL_OK ? bump(ctl, "", all, e) : rc;
}

const char *ql_who_filter(const struct ql_who *who) { return (who->scopes & QL_SCOPE_ADMIN) != 0 ? "" : who->project; }

int64_t ql_control_revision(struct ql_control *ctl, const struct ql_who *who)
{
	return ql_store_int(ctl->store, 0, "SELECT revision FROM projects WHERE name = ?1", "s", ql_who_filter(who));
}
