/* files.c - rows of files: list, get, content, delete, expiry, start-up sweep; see files.h. */
#include "daemon/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "daemon/files_internal.h"
#include "daemon/revision.h"
#include "daemon/store.h"

#define LIST_MAX 10000
#define COLUMNS "id, filename, purpose, bytes, created_at, ifnull(expires_at, 0), sha256, project, seq"
/* A file that a job which has not ended will still read. */
#define IN_USE \
	"SELECT count(*) FROM jobs WHERE (training_file = ?1 OR validation_file = ?1) AND state NOT IN ('succeeded', 'failed', 'cancelled')"

json_t *ql_file_json(const char *id, const char *filename, const char *purpose, int64_t bytes, int64_t created_at, int64_t expires_at)
{
	json_t *o = json_pack("{s:s,s:s,s:I,s:I,s:s,s:s,s:s}", "id", id, "object", "file", "bytes", (json_int_t)bytes, "created_at",
			      (json_int_t)created_at, "filename", filename, "purpose", purpose, "status", "processed");

	if (o != NULL && expires_at > 0)
		(void)json_object_set_new(o, "expires_at", json_integer(expires_at));
	return o;
}

static json_t *row_json(sqlite3_stmt *q)
{
	return ql_file_json(ql_store_text(q, 0), ql_store_text(q, 1), ql_store_text(q, 2), sqlite3_column_int64(q, 3),
			    sqlite3_column_int64(q, 4), sqlite3_column_int64(q, 5));
}

static int not_found(struct ql_fault *f, const char *id)
{
	return ql_fault_set(f, QL_ENOTFOUND, 404, NULL, "id", "No such File object: %.80s", id);
}

/* The row of a live file that `who` may see, positioned; NULL with *f. */
static sqlite3_stmt *find(struct ql_control *ctl, const struct ql_who *who, const char *id, struct ql_fault *f)
{
	struct ql_err e = {0};
	sqlite3_stmt *q;
	int rc;

	q = ql_store_query(ctl->store, &e,
			   "SELECT " COLUMNS " FROM files WHERE id = ?1 AND (?2 = '' OR project = ?2) AND (expires_at IS NULL OR expires_at > ?3)",
			   "ssi", id, ql_who_filter(who), (int64_t)time(NULL));
	rc = q == NULL ? e.code : ql_store_step(ctl->store, q, &e);
	if (rc == 1)
		return q;
	ql_store_done(q);
	if (rc == 0)
		(void)not_found(f, id);
	else
		(void)ql_fault_internal(f, &e, "file");
	return NULL;
}

int ql_file_get(struct ql_control *ctl, const struct ql_who *who, const char *id, json_t **out, struct ql_fault *f)
{
	sqlite3_stmt *q = find(ctl, who, id, f);

	if (q == NULL)
		return QL_ENOTFOUND;
	*out = row_json(q);
	ql_store_done(q);
	return *out == NULL ? ql_fault_internal(f, NULL, "file") : QL_OK;
}

int ql_file_purpose(struct ql_control *ctl, const struct ql_who *who, const char *id, char out[32])
{
	sqlite3_stmt *q = find(ctl, who, id, NULL);

	if (q == NULL)
		return QL_ENOTFOUND;
	(void)snprintf(out, 32, "%s", ql_store_text(q, 2));
	ql_store_done(q);
	return QL_OK;
}

int ql_file_open(struct ql_control *ctl, const struct ql_who *who, const char *id, int *fd, uint64_t *size, char sha256[65],
		 char filename[256], struct ql_fault *f)
{
	sqlite3_stmt *q = find(ctl, who, id, f);
	struct ql_err e = {0};
	int64_t bytes;

	if (q == NULL)
		return QL_ENOTFOUND;
	bytes = sqlite3_column_int64(q, 3);
	(void)snprintf(filename, 256, "%s", ql_store_text(q, 1));
	(void)snprintf(sha256, 65, "%s", ql_store_text(q, 6));
	ql_store_done(q);
	*fd = ql_io_open_read(ctl->files->dir, id, size, &e);
	if (*fd < 0)
		return ql_fault_internal(f, &e, "file content");
	if (*size != (uint64_t)bytes) {
		(void)close(*fd);
		*fd = -1;
		(void)ql_err_set(&e, QL_EFORMAT, "file %s has %llu bytes, not %lld", id, (unsigned long long)*size, (long long)bytes);
		return ql_fault_internal(f, &e, "file content");
	}
	return QL_OK;
}

static int64_t page_limit(const struct ql_page *p, int64_t preset, int64_t most)
{
	int64_t n = p->limit <= 0 ? preset : p->limit;

	return n > most ? most : n;
}

int ql_file_list(struct ql_control *ctl, const struct ql_who *who, const char *purpose, const struct ql_page *page, json_t **out,
		 struct ql_fault *f)
{
	int64_t limit = page_limit(page, LIST_MAX, LIST_MAX), n = 0, from = page->ascending ? 0 : INT64_MAX;
	const char *filter = ql_who_filter(who);
	json_t *data = json_array();
	struct ql_err e = {0};
	sqlite3_stmt *q;
	bool more = false;
	int rc = 0;

	if (page->after != NULL) /* unknown: an empty page */
		from = ql_store_int(ctl->store, page->ascending ? INT64_MAX : 0,
				    "SELECT seq FROM files WHERE id = ?1 AND (?2 = '' OR project = ?2)", "ss", page->after, filter);
	q = page->ascending ? ql_store_query(ctl->store, &e,
					     "SELECT " COLUMNS " FROM files WHERE (?1 = '' OR project = ?1) AND (?2 = '' OR purpose = ?2) AND seq > ?3"
					     " AND (expires_at IS NULL OR expires_at > ?4) ORDER BY seq LIMIT ?5",
					     "ssiii", filter, purpose == NULL ? "" : purpose, from, (int64_t)time(NULL), limit + 1)
			    : ql_store_query(ctl->store, &e,
					     "SELECT " COLUMNS " FROM files WHERE (?1 = '' OR project = ?1) AND (?2 = '' OR purpose = ?2) AND seq < ?3"
					     " AND (expires_at IS NULL OR expires_at > ?4) ORDER BY seq DESC LIMIT ?5",
					     "ssiii", filter, purpose == NULL ? "" : purpose, from, (int64_t)time(NULL), limit + 1);
	while (q != NULL && (rc = ql_store_step(ctl->store, q, &e)) == 1) {
		if (n++ == limit) {
			more = true;
			break;
		}
		(void)json_array_append_new(data, row_json(q));
	}
	ql_store_done(q);
	if (q == NULL || rc < 0) {
		json_decref(data);
		return ql_fault_internal(f, &e, "files");
	}
	n = (int64_t)json_array_size(data);
	*out = json_pack("{s:s,s:s,s:s,s:b}", "object", "list", "first_id",
			 n == 0 ? "" : json_string_value(json_object_get(json_array_get(data, 0), "id")), "last_id",
			 n == 0 ? "" : json_string_value(json_object_get(json_array_get(data, (size_t)n - 1), "id")), "has_more", (int)more);
	if (*out == NULL || json_object_set_new(*out, "data", data) != 0)
		return ql_fault_internal(f, NULL, "files");
	return QL_OK;
}

int ql_file_insert(struct ql_control *ctl, const char *project, const char *id, const char *filename, const char *purpose,
		   uint64_t bytes, const char *sha256, int64_t created_at, int64_t expires_at, struct ql_err *e)
{
	int rc = ql_store_run(ctl->store, e,
			      "INSERT INTO files (id, project, filename, purpose, bytes, sha256, created_at, expires_at)"
			      " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, nullif(?8, 0))",
			      "ssssisii", id, project, filename, purpose, (int64_t)bytes, sha256, created_at, expires_at);

	return rc < 0 ? rc : ql_revision_bump(ctl, project, NULL, NULL, e);
}

int ql_file_insert_made(struct ql_control *ctl, const char *project, const char *id, const char *filename, const char *purpose,
			uint64_t bytes, const char *sha256, struct ql_err *e)
{
	return ql_file_insert(ctl, project, id, filename, purpose, bytes, sha256, (int64_t)time(NULL), 0, e);
}

/* Row gone and committed, then the bytes. */
static int remove_file(struct ql_control *ctl, const char *id, const char *project, struct ql_err *e)
{
	struct ql_err late = {0};
	int rc = ql_store_begin(ctl->store, e);

	if (rc != QL_OK)
		return rc;
	rc = ql_store_run(ctl->store, e, "DELETE FROM files WHERE id = ?1", "s", id);
	if (rc >= 0)
		rc = ql_revision_bump(ctl, project, NULL, NULL, e);
	if (rc == QL_OK)
		rc = ql_store_commit(ctl->store, e);
	else
		ql_store_rollback(ctl->store);
	if (rc == QL_OK && ql_io_remove_tree(ctl->files->dir, id, &late) != QL_OK)
		ql_log(QL_LOG_WARN, "files", "left for the next start: %s", late.message);
	return rc;
}

int ql_file_delete(struct ql_control *ctl, const struct ql_who *who, const char *id, json_t **out, struct ql_fault *f)
{
	sqlite3_stmt *q = find(ctl, who, id, f);
	char project[QL_PROJECT_SIZE], own[QL_ID_SIZE];
	struct ql_err e = {0};

	if (q == NULL)
		return QL_ENOTFOUND;
	(void)snprintf(own, sizeof own, "%s", ql_store_text(q, 0));
	(void)snprintf(project, sizeof project, "%s", ql_store_text(q, 7));
	ql_store_done(q);
	if (ql_store_int(ctl->store, 1, IN_USE, "s", own) > 0)
		return ql_fault_set(f, QL_ESTATE, 400, "file_in_use", "id", "File %s is needed by a job that has not ended.", own);
	if (remove_file(ctl, own, project, &e) != QL_OK)
		return ql_fault_internal(f, &e, "file delete");
	*out = json_pack("{s:s,s:s,s:b}", "id", own, "object", "file", "deleted", 1);
	return *out == NULL ? ql_fault_internal(f, NULL, "file delete") : QL_OK;
}

void ql_files_expire(struct ql_control *ctl)
{
	char id[QL_ID_SIZE], project[QL_PROJECT_SIZE];
	int64_t after = 0;

	for (;;) {
		struct ql_err e = {0};
		sqlite3_stmt *q = ql_store_query(ctl->store, &e,
						 "SELECT seq, id, project FROM files WHERE expires_at <= ?1 AND seq > ?2 ORDER BY seq LIMIT 1",
						 "ii", (int64_t)time(NULL), after);
		bool found = q != NULL && ql_store_step(ctl->store, q, &e) == 1;

		if (found) {
			after = sqlite3_column_int64(q, 0);
			(void)snprintf(id, sizeof id, "%s", ql_store_text(q, 1));
			(void)snprintf(project, sizeof project, "%s", ql_store_text(q, 2));
		}
		ql_store_done(q);
		if (!found)
			return;
		if (ql_store_int(ctl->store, 1, IN_USE, "s", id) == 0 && remove_file(ctl, id, project, &e) != QL_OK)
			ql_log(QL_LOG_WARN, "files", "expiry: %s", e.message);
	}
}

/* Rows whose bytes are missing or have another size go, with a word in the log. */
static int sweep_rows(struct ql_control *ctl, struct ql_err *e)
{
	char id[QL_ID_SIZE];
	int64_t after = 0, bytes;
	int rc;

	for (;;) {
		sqlite3_stmt *q = ql_store_query(ctl->store, e, "SELECT seq, id, bytes FROM files WHERE seq > ?1 ORDER BY seq LIMIT 1", "i", after);
		struct stat st;

		rc = q == NULL ? e->code : ql_store_step(ctl->store, q, e);
		if (rc == 1) {
			after = sqlite3_column_int64(q, 0);
			bytes = sqlite3_column_int64(q, 2);
			(void)snprintf(id, sizeof id, "%s", ql_store_text(q, 1));
		}
		ql_store_done(q);
		if (rc != 1)
			return rc;
		if (fstatat(ctl->files->dir, id, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) && st.st_size == bytes)
			continue;
		ql_log(QL_LOG_ERROR, "files", "%s is missing or has another size: forgotten", id);
		rc = ql_store_run(ctl->store, e, "DELETE FROM files WHERE id = ?1", "s", id);
		if (rc < 0)
			return rc;
	}
}

/* Temporaries and bytes without a row go. */
static int sweep(struct ql_control *ctl, struct ql_err *e)
{
	int fd = dup(ctl->files->dir);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct ql_err late = {0};
	struct dirent *de;

	if (d == NULL) {
		if (fd >= 0)
			(void)close(fd);
		return ql_err_errno(e, "files");
	}
	rewinddir(d);
	while ((de = readdir(d)) != NULL) {
		if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
			continue;
		if (ql_store_int(ctl->store, 1, "SELECT count(*) FROM files WHERE id = ?1", "s", de->d_name) == 0)
			(void)ql_io_remove_tree(ctl->files->dir, de->d_name, &late);
	}
	(void)closedir(d);
	return sweep_rows(ctl, e);
}

int ql_files_open(struct ql_control *ctl, struct ql_err *e)
{
	int rc;

	ctl->files = calloc(1, sizeof *ctl->files);
	if (ctl->files == NULL)
		return ql_err_set(e, QL_ENOMEM, "files");
	ctl->files->dir = -1;
	rc = ql_io_ensure_dir(ctl->state_fd, "files", &ctl->files->dir, e);
	return rc == QL_OK ? sweep(ctl, e) : rc;
}

void ql_files_close(struct ql_control *ctl)
{
	if (ctl->files != NULL && ctl->files->dir >= 0)
		(void)close(ctl->files->dir);
	free(ctl->files);
	ctl->files = NULL;
}
