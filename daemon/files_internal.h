/* files_internal.h - what files.c (rows, answers) and files_upload.c (incoming bytes) share. */
#ifndef QL_DAEMON_FILES_INTERNAL_H
#define QL_DAEMON_FILES_INTERNAL_H

#include "daemon/files.h"

struct ql_upload_key { /* Idempotency-Key of an upload that is being made durable */
	char *route_key;
	struct ql_upload_key *next;
};

struct ql_files {
	int dir; /* STATE/files */
	struct ql_upload_key *in_flight;
	size_t n_uploads; /* begun and not ended */
};

json_t *ql_file_json(const char *id, const char *filename, const char *purpose, int64_t bytes, int64_t created_at, int64_t expires_at);
int ql_file_insert(struct ql_control *ctl, const char *project, const char *id, const char *filename, const char *purpose,
		   uint64_t bytes, const char *sha256, int64_t created_at, int64_t expires_at, struct ql_err *e);

#endif
