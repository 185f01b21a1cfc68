/* files.h - uploaded and produced files: bytes in STATE/files/<id>, a row each.  api.md §4, robustness.md §3.
 *
 * Upload: ql_file_begin → ql_file_append* → ql_file_commit (or ql_file_abort).  The bytes go to a temporary file and into
 * SHA-256 as they come; commit makes the file durable on a uv worker, then commits the row, then calls back on the loop. */
#ifndef QL_DAEMON_FILES_H
#define QL_DAEMON_FILES_H

#include "daemon/control.h"

struct ql_upload;

/* Form fields as received; NULL or 0 = absent.  All checks are made by ql_file_commit. */
struct ql_upload_meta {
	const char *filename;
	const char *purpose;
	const char *expires_anchor;  /* must be created_at when given */
	const char *expires_seconds; /* text of the field; 3600..2592000 */
};

/* status 0 in *f: success, *reply is the answer (the callback takes reply->body). */
typedef void ql_upload_cb(void *user, const struct ql_fault *f, struct ql_reply *reply);

/* 429 quota_exceeded (files, bytes), 503 no_space, 503 draining.  *out is owned by the caller until commit or abort. */
int ql_file_begin(struct ql_control *ctl, const struct ql_who *who, struct ql_upload **out, struct ql_fault *f);
/* 413 request_too_large over config->upload_max_bytes; 503 no_space.  After a failure only ql_file_abort is allowed. */
int ql_file_append(struct ql_upload *up, const void *data, size_t len, struct ql_fault *f);
/* Takes over `up`, always; cb is called exactly once, later (never from inside this call) unless ql_upload_forget came first. */
void ql_file_commit(struct ql_upload *up, const struct ql_upload_meta *meta, const struct ql_idem *idem, ql_upload_cb *cb, void *user);
/* The client went away after commit: the upload goes on, cb will not be called. */
void ql_upload_forget(struct ql_upload *up);
void ql_file_abort(struct ql_upload *up); /* accepts NULL */
/* Bytes appended so far. */
uint64_t ql_upload_bytes(const struct ql_upload *up);

/* Answers ready to send; unknown, expired or foreign id: 404 `No such File object: file-X`, param id, code null. */
int ql_file_list(struct ql_control *ctl, const struct ql_who *who, const char *purpose, const struct ql_page *page,
		 json_t **out, struct ql_fault *f); /* limit 1..10000, default 10000 */
int ql_file_get(struct ql_control *ctl, const struct ql_who *who, const char *id, json_t **out, struct ql_fault *f);
/* *fd is the caller's to close; sha256 is the hex hash; filename is copied (may be longer than cut). */
int ql_file_open(struct ql_control *ctl, const struct ql_who *who, const char *id, int *fd, uint64_t *size, char sha256[65],
		 char filename[256], struct ql_fault *f);
/* 400 file_in_use while a job that has not ended names it. */
int ql_file_delete(struct ql_control *ctl, const struct ql_who *who, const char *id, json_t **out, struct ql_fault *f);

/* ---- for the other rooms of control ---- */
int ql_files_open(struct ql_control *ctl, struct ql_err *e); /* makes files/, sweeps temporaries and orphans */
void ql_files_close(struct ql_control *ctl);
/* purpose of a live file of who's project into out; QL_ENOTFOUND if there is none. */
int ql_file_purpose(struct ql_control *ctl, const struct ql_who *who, const char *id, char out[32]);
/* Inserts the row of a file that the daemon made (within the caller's transaction); bytes are in files/<id> already. */
int ql_file_insert_made(struct ql_control *ctl, const char *project, const char *id, const char *filename,
			const char *purpose, uint64_t bytes, const char *sha256, struct ql_err *e);
/* Removes expired files that no live job needs; called each minute. */
void ql_files_expire(struct ql_control *ctl);
/* Free space against the reserve (1 GiB or config->space_reserve_bytes, or 3 × the largest live checkpoint).  False: too little. */
bool ql_space_ok(struct ql_control *ctl, uint64_t need);

#endif
