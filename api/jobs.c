/* jobs.c - /v1/fine_tuning/jobs (api.md §5).  What a job is, and which body is right, is daemon/jobs.h's. */
#include "daemon/jobs.h"

#include <string.h>

#include "api/handlers.h"
#include "api/page.h"

#define METADATA_FILTERS_MAX 16

void ql_h_job_create(struct ql_req *r)
{
	struct ql_reply reply = {0};
	struct ql_fault f = {0};
	struct ql_idem idem;

	if (ql_req_idem(r, &idem, &f) != QL_OK || ql_job_create(r->ctl, &r->who, r->json, &idem, &reply, &f) != QL_OK)
		ql_reply_fault(r, &f);
	else
		ql_reply_repeatable(r, &reply);
}

/* metadata[k]=v (repeatable) and metadata=null.  key_mem holds the names between the brackets. */
static int metadata_filters(struct ql_req *r, struct ql_job_query *q, const char **keys, const char **values,
			    char key_mem[METADATA_FILTERS_MAX][72], struct ql_fault *f)
{
	for (size_t i = 0; i < r->target.n_query; i++) {
		const char *key = r->target.query[i].key, *value = r->target.query[i].value;
		size_t n = strlen(key);

		if (strcmp(key, "metadata") == 0) {
			if (strcmp(value, "null") != 0)
				return ql_bad_value(f, "metadata", "'metadata' must be null, or metadata[key]=value.");
			q->metadata_null = true;
			continue;
		}
		if (strncmp(key, "metadata[", 9) != 0)
			continue;
		if (n < 11 || key[n - 1] != ']' || n - 10 > 64 || q->n_metadata == METADATA_FILTERS_MAX)
			return ql_bad_value(f, "metadata", "A metadata filter must be metadata[key]=value, key at most 64 "
							   "characters, at most %d of them.", METADATA_FILTERS_MAX);
		memcpy(key_mem[q->n_metadata], key + 9, n - 10);
		key_mem[q->n_metadata][n - 10] = '\0';
		keys[q->n_metadata] = key_mem[q->n_metadata];
		values[q->n_metadata++] = value;
	}
	return QL_OK;
}

void ql_h_job_list(struct ql_req *r)
{
	const char *keys[METADATA_FILTERS_MAX], *values[METADATA_FILTERS_MAX];
	char key_mem[METADATA_FILTERS_MAX][72];
	struct ql_job_query q = {.keys = keys, .values = values, .since = -1};
	struct ql_fault f = {0};
	json_t *out;
	bool set;

	if (ql_page_read(&r->target, 20, 100, &q.page, &f) != QL_OK ||
	    ql_query_int(&r->target, "since", 0, INT64_MAX, &set, &q.since, &f) != QL_OK ||
	    ql_query_str(&r->target, "status", 32, &q.status, &f) != QL_OK ||
	    metadata_filters(r, &q, keys, values, key_mem, &f) != QL_OK)
		goto bad;
	if (ql_reply_unchanged(r, ql_control_revision(r->ctl, &r->who), ql_control_tick(r->ctl, NULL)))
		return;
	if (ql_job_list(r->ctl, &r->who, &q, &out, &f) != QL_OK)
		goto bad;
	ql_reply_json(r, 200, out);
	return;
bad:
	ql_reply_fault(r, &f);
}

void ql_h_job_get(struct ql_req *r)
{
	const char *id = r->match.param[0];
	struct ql_fault f = {0};
	json_t *out;

	/* The tag holds a revision of the client's own project only, so 304 tells nothing about foreign ids: a client
	 * that never saw this job has no tag for it, and one that saw it may know. */
	if (r->headers.if_none_match != NULL &&
	    ql_reply_unchanged(r, ql_control_revision(r->ctl, &r->who), ql_control_tick(r->ctl, id)))
		return;
	if (ql_job_get(r->ctl, &r->who, id, &out, &f) != QL_OK) {
		r->n_extra = 0;
		ql_reply_fault(r, &f);
		return;
	}
	if (r->headers.if_none_match == NULL)
		(void)ql_reply_unchanged(r, ql_control_revision(r->ctl, &r->who), ql_control_tick(r->ctl, id));
	ql_reply_json(r, 200, out);
}

static void change(struct ql_req *r, int (*fn)(struct ql_control *, const struct ql_who *, const char *, json_t **,
					       struct ql_fault *))
{
	struct ql_fault f = {0};
	json_t *out;

	if (fn(r->ctl, &r->who, r->match.param[0], &out, &f) != QL_OK)
		ql_reply_fault(r, &f);
	else
		ql_reply_json(r, 200, out);
}

void ql_h_job_cancel(struct ql_req *r) { change(r, ql_job_cancel); }
void ql_h_job_pause(struct ql_req *r) { change(r, ql_job_pause); }
void ql_h_job_resume(struct ql_req *r) { change(r, ql_job_resume); }

void ql_h_job_checkpoints(struct ql_req *r)
{
	struct ql_fault f = {0};
	struct ql_page page;
	json_t *out;

	if (ql_page_read(&r->target, 10, 100, &page, &f) != QL_OK ||
	    ql_job_checkpoints(r->ctl, &r->who, r->match.param[0], &page, &out, &f) != QL_OK)
		ql_reply_fault(r, &f);
	else
		ql_reply_json(r, 200, out);
}
