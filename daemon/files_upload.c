/* files_upload.c - an upload on its way: temporary file and hash while it arrives, fsync and rename on a uv worker, then the
 * row with its idempotency record in one transaction, then the callback.  See files.h. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "core/base/utf8.h"
#include "daemon/files_internal.h"
#include "daemon/idem.h"
#include "daemon/store.h"

#define ROUTE "/v1/files"
#define UPLOADS_MAX 64
#define EXPIRES_MIN 3600
#define EXPIRES_MAX 2592000

struct ql_upload {
	struct ql_control *ctl;
	struct ql_who who;
	char id[QL_ID_SIZE];
	struct ql_io_file file;
	struct ql_sha256 hash;
	char sha256[QL_SHA256_HEX_SIZE], fingerprint[QL_SHA256_HEX_SIZE];
	char *filename, *purpose, *key;
	int64_t expires_seconds, retry_count;
	ql_upload_cb *cb;
	void *user;
	uv_work_t work;
	struct ql_err err; /* the worker's */
	int rc;
	struct ql_fault fault; /* found before the worker ran */
	struct ql_reply reply;
	struct ql_upload_key flight;
};

static void upload_free(struct ql_upload *up)
{
	for (struct ql_upload_key **p = &up->ctl->files->in_flight; *p != NULL; p = &(*p)->next)
		if (*p == &up->flight) {
			*p = up->flight.next;
			break;
		}
	up->ctl->files->n_uploads--;
	free(up->flight.route_key);
	free(up->filename);
	free(up->purpose);
	free(up->key);
	json_decref(up->reply.body);
	free(up);
}

/* Whether the store may hold so many files and bytes more. */
static int check_quota(struct ql_control *ctl, int64_t files, int64_t bytes, struct ql_fault *f)
{
	if (ql_store_int(ctl->store, 0, "SELECT count(*) FROM files", "") <= ctl->config->max_files - files &&
	    ql_store_int(ctl->store, 0, "SELECT sum(bytes) FROM files", "") <= ctl->config->max_file_bytes - bytes)
		return QL_OK;
	(void)ql_fault_set(f, QL_ELIMIT, 429, "quota_exceeded", NULL, "The store is full; delete files first.");
	f->no_retry = true;
	return QL_ELIMIT;
}

int ql_file_begin(struct ql_control *ctl, const struct ql_who *who, struct ql_upload **out, struct ql_fault *f)
{
	struct ql_upload *up;
	struct ql_err e = {0};

	*out = NULL;
	if (ctl->draining)
		return ql_fault_set(f, QL_ESTATE, 503, "draining", NULL, "The server is shutting down.");
	if (ctl->files->n_uploads >= UPLOADS_MAX) {
		(void)ql_fault_set(f, QL_EBUSY, 429, "rate_limit_exceeded", NULL, "Too many uploads at the same time.");
		f->retry_after = 2;
		return QL_EBUSY;
	}
	if (check_quota(ctl, 1, 1, f) != QL_OK)
		return QL_ELIMIT;
	if (!ql_space_ok(ctl, 0))
		return ql_fault_set(f, QL_ENOSPC, 503, "no_space", NULL, "The server's disk is full; try again later.");
	up = calloc(1, sizeof *up);
	if (up == NULL)
		return ql_fault_internal(f, NULL, "upload");
	ql_id_make(up->id, "file-");
	if (ql_io_begin(&up->file, ctl->files->dir, up->id, &e) != QL_OK) {
		free(up);
		return ql_fault_internal(f, &e, "upload");
	}
	up->ctl = ctl;
	up->who = *who;
	up->work.data = up;
	ql_sha256_init(&up->hash);
	ctl->files->n_uploads++;
	*out = up;
	return QL_OK;
}

int ql_file_append(struct ql_upload *up, const void *data, size_t len, struct ql_fault *f)
{
	struct ql_err e = {0};

	if (up->file.written + len > (uint64_t)up->ctl->config->upload_max_bytes)
		return ql_fault_set(f, QL_ELIMIT, 413, "request_too_large", "file", "The file is larger than the %lld bytes allowed.",
				    (long long)up->ctl->config->upload_max_bytes);
	if (ql_io_write(&up->file, data, len, &e) != QL_OK)
		return ql_fault_internal(f, &e, "upload");
	ql_sha256_add(&up->hash, data, len);
	return QL_OK;
}

uint64_t ql_upload_bytes(const struct ql_upload *up) { return up->file.written; }

void ql_file_abort(struct ql_upload *up)
{
	if (up == NULL)
		return;
	ql_io_abort(&up->file);
	upload_free(up);
}

void ql_upload_forget(struct ql_upload *up) { up->cb = NULL; }

static bool has_suffix(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);

	return n > m && strcmp(s + n - m, end) == 0;
}

static int check_filename(const char *name, const char *purpose, struct ql_fault *f)
{
	size_t n = strlen(name);

	if (n < 1 || n > 255 || !ql_utf8_valid(name, n, NULL))
		return ql_fault_set(f, QL_EINVAL, 400, "invalid_value", "file", "'filename' must have 1 to 255 bytes of UTF-8.");
	for (const char *p = name; *p != '\0'; p++)
		if (iscntrl((unsigned char)*p))
			return ql_fault_set(f, QL_EINVAL, 400, "invalid_value", "file", "'filename' must not have control characters.");
	if (strcmp(purpose, "fine-tune") == 0 && !has_suffix(name, ".jsonl"))
		return ql_fault_set(f, QL_EINVAL, 400, "invalid_value", "file", "A file for fine-tuning must be named *.jsonl.");
	return QL_OK;
}

static int check_expiry(struct ql_upload *up, const struct ql_upload_meta *m, struct ql_fault *f)
{
	char *end;
	long long n;

	if (m->expires_anchor == NULL && m->expires_seconds == NULL)
		return QL_OK;
	if (m->expires_anchor == NULL || strcmp(m->expires_anchor, "created_at") != 0)
		return ql_fault_set(f, QL_EINVAL, 400, "invalid_value", "expires_after[anchor]", "'expires_after[anchor]' must be created_at.");
	n = m->expires_seconds == NULL || !isdigit((unsigned char)m->expires_seconds[0]) ? -1 : strtoll(m->expires_seconds, &end, 10);
	if (n < EXPIRES_MIN || n > EXPIRES_MAX || *end != '\0')
		return ql_fault_set(f, QL_EINVAL, 400, "invalid_value", "expires_after[seconds]",
				    "'expires_after[seconds]' must be between %d and %d.", EXPIRES_MIN, EXPIRES_MAX);
	up->expires_seconds = n;
	return QL_OK;
}

static int check_meta(struct ql_upload *up, const struct ql_upload_meta *m, struct ql_fault *f)
{
	static const char *const purposes[] = {"assistants", "batch", "fine-tune", "vision", "user_data", "evals"};
	size_t i = 0;
	int rc;

	if (m->filename == NULL)
		return ql_fault_set(f, QL_EINVAL, 400, "missing_required_parameter", "file", "Missing required parameter: 'file'.");
	if (m->purpose == NULL)
		return ql_fault_set(f, QL_EINVAL, 400, "missing_required_parameter", "purpose", "Missing required parameter: 'purpose'.");
	while (i < sizeof purposes / sizeof purposes[0] && strcmp(purposes[i], m->purpose) != 0)
		i++;
	if (i == sizeof purposes / sizeof purposes[0])
		return ql_fault_set(f, QL_EINVAL, 400, "invalid_value", "purpose",
				    "'purpose' must be one of assistants, batch, fine-tune, vision, user_data, evals.");
	if ((rc = check_filename(m->filename, m->purpose, f)) != QL_OK || (rc = check_expiry(up, m, f)) != QL_OK)
		return rc;
	if (up->file.written == 0)
		return ql_fault_set(f, QL_EINVAL, 400, "invalid_value", "file", "The file is empty.");
	return QL_OK;
}

/* The fingerprint of an upload: a retry has another multipart boundary, so the raw body will not do. */
static void fingerprint(struct ql_upload *up)
{
	struct ql_sha256 h;

	ql_sha256_init(&h);
	ql_sha256_add(&h, up->purpose, strlen(up->purpose) + 1);
	ql_sha256_add(&h, up->filename, strlen(up->filename) + 1);
	ql_sha256_add(&h, up->sha256, 64);
	ql_sha256_end_hex(&h, up->fingerprint);
}

static int enter_flight(struct ql_upload *up, struct ql_fault *f)
{
	struct ql_files *files = up->ctl->files;
	struct ql_upload_key *k;
	size_t n;

	if (up->key == NULL)
		return QL_OK;
	n = strlen(up->who.project) + strlen(up->key) + 2;
	up->flight.route_key = malloc(n);
	if (up->flight.route_key == NULL)
		return ql_fault_internal(f, NULL, "upload");
	(void)snprintf(up->flight.route_key, n, "%s %s", up->who.project, up->key);
	for (k = files->in_flight; k != NULL; k = k->next)
		if (strcmp(k->route_key, up->flight.route_key) == 0) {
			(void)ql_fault_set(f, QL_EBUSY, 409, "idempotency_key_in_flight", NULL,
					   "A request with this Idempotency-Key is still being worked on.");
			f->retry_after = 1;
			return QL_EBUSY;
		}
	up->flight.next = files->in_flight;
	files->in_flight = &up->flight;
	return QL_OK;
}

static void on_work(uv_work_t *w)
{
	struct ql_upload *up = w->data;

	if (up->file.fd >= 0)
		up->rc = ql_io_commit(&up->file, &up->err);
}

static int save_row(struct ql_upload *up, struct ql_err *e)
{
	struct ql_idem idem = {.key = up->key, .retry_count = up->retry_count};
	int64_t now = (int64_t)time(NULL);
	int rc = ql_store_begin(up->ctl->store, e);

	if (rc != QL_OK)
		return rc;
	up->reply.status = 200;
	up->reply.body = ql_file_json(up->id, up->filename, up->purpose, (int64_t)up->file.written, now,
				      up->expires_seconds > 0 ? now + up->expires_seconds : 0);
	rc = up->reply.body == NULL ? ql_err_set(e, QL_ENOMEM, "upload")
				    : ql_file_insert(up->ctl, up->who.project, up->id, up->filename, up->purpose, up->file.written, up->sha256,
						     now, up->expires_seconds > 0 ? now + up->expires_seconds : 0, e);
	if (rc == QL_OK)
		rc = ql_idem_save(up->ctl, &up->who, ROUTE, &idem, up->fingerprint, 200, up->reply.body, e);
	if (rc == QL_OK)
		return ql_store_commit(up->ctl->store, e);
	ql_store_rollback(up->ctl->store);
	return rc;
}

static void on_done(uv_work_t *w, int status)
{
	struct ql_upload *up = w->data;
	struct ql_err e = {0};

	if (status != 0) /* cancelled before the worker ran */
		ql_io_abort(&up->file);
	if (up->fault.status == 0 && up->reply.body == NULL) {
		if (status != 0)
			up->rc = ql_err_set(&up->err, QL_ECANCELLED, "upload cancelled");
		if (up->rc != QL_OK) {
			(void)ql_fault_internal(&up->fault, &up->err, "upload");
		} else if (check_quota(up->ctl, 1, (int64_t)up->file.written, &up->fault) != QL_OK) { /* others were stored meanwhile */
			(void)ql_io_remove_tree(up->ctl->files->dir, up->id, &e);
		} else if (save_row(up, &e) != QL_OK) {
			(void)ql_fault_internal(&up->fault, &e, "upload");
			(void)ql_io_remove_tree(up->ctl->files->dir, up->id, &e);
		}
	}
	if (up->cb != NULL) {
		struct ql_reply reply = up->reply;

		up->reply.body = NULL;
		if (up->fault.status != 0) {
			json_decref(reply.body);
			reply.body = NULL;
		}
		up->cb(up->user, &up->fault, &reply);
	}
	upload_free(up);
}

/* All that can be said before the bytes are durable.  A fault or a replay leaves nothing on disk. */
static void prepare(struct ql_upload *up, const struct ql_upload_meta *meta, const struct ql_idem *idem)
{
	if (check_meta(up, meta, &up->fault) != QL_OK)
		return;
	up->filename = strdup(meta->filename);
	up->purpose = strdup(meta->purpose);
	up->key = idem != NULL && idem->key != NULL ? strdup(idem->key) : NULL;
	up->retry_count = idem != NULL ? idem->retry_count : 0;
	if (up->filename == NULL || up->purpose == NULL || (idem != NULL && idem->key != NULL && up->key == NULL)) {
		(void)ql_fault_internal(&up->fault, NULL, "upload");
		return;
	}
	ql_sha256_end_hex(&up->hash, up->sha256);
	fingerprint(up);
	if (enter_flight(up, &up->fault) == QL_OK &&
	    ql_idem_find(up->ctl, &up->who, ROUTE, idem, up->fingerprint, &up->reply, &up->fault) == 0)
		(void)check_quota(up->ctl, 1, (int64_t)up->file.written, &up->fault); /* now that its size is known */
}

void ql_file_commit(struct ql_upload *up, const struct ql_upload_meta *meta, const struct ql_idem *idem, ql_upload_cb *cb, void *user)
{
	up->cb = cb;
	up->user = user;
	prepare(up, meta, idem);
	if (up->fault.status != 0 || up->reply.body != NULL)
		ql_io_abort(&up->file);
	if (uv_queue_work(up->ctl->loop, &up->work, on_work, on_done) != 0)
		ql_log(QL_LOG_ERROR, "files", "worker refused"); /* only without a callback: cannot happen */
}
