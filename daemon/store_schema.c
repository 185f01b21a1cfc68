/* store_schema.c - the tables of qlorad.db and their migrations: entry n of ql_store_migrations leads from user_version n
 * to n + 1.  A released entry is never changed; add a new one.
 *
 *   meta         facts of the daemon (last model seen, …)
 *   projects     revision counter of each project; the row '' counts the changes of all
 *   tokens       SHA-256 of each bearer token, never the token
 *   files        rows of STATE/files/<id>
 *   jobs         one row a job; recipe, resolved, dataset, estimate, fingerprint, progress are JSON; recipe does
 *                not change once the files are validated (the engine's checkpoints hold its hash), resolved is what the engine
 *                chose when the job started; reserved_name is the name that the
 *                finished model will get; deaths counts engine deaths at death_step (newest checkpoint then)
 *   events       seq is the time of insertion in microseconds, made unique: order within a job, and the id's first digits
 *   checkpoints  STATE/jobs/<job>/<dir>; kind user is listed, kind snapshot is for recovery only
 *   models       finished adapters, STATE/adapters/<job>; imported ones, STATE/adapters/import-…, have job '' and a shape (JSON:
 *                rank, alpha, … as in a recipe)
 *   exports      STATE/exports/<id>
 *   repeats      idempotency: kind 0 by Idempotency-Key, kind 1 by fingerprint (retries of clients that send no key) */
#include "daemon/store_schema.h"

static const char version_1[] =
	"CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;"
	"CREATE TABLE projects (name TEXT PRIMARY KEY, revision INTEGER NOT NULL) STRICT;"
	"CREATE TABLE tokens (id TEXT PRIMARY KEY, hash TEXT NOT NULL UNIQUE, label TEXT NOT NULL, project TEXT NOT NULL,"
	" scopes INTEGER NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER, revoked_at INTEGER, last_used INTEGER) STRICT;"
	"CREATE TABLE files (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, project TEXT NOT NULL,"
	" filename TEXT NOT NULL, purpose TEXT NOT NULL, bytes INTEGER NOT NULL, sha256 TEXT NOT NULL,"
	" created_at INTEGER NOT NULL, expires_at INTEGER) STRICT;"
	"CREATE INDEX files_project ON files (project, seq);"
	"CREATE TABLE jobs (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, project TEXT NOT NULL,"
	" state TEXT NOT NULL, attempt INTEGER NOT NULL DEFAULT 0, revision INTEGER NOT NULL DEFAULT 0,"
	" revision_all INTEGER NOT NULL DEFAULT 0, created_at INTEGER NOT NULL, finished_at INTEGER, model TEXT NOT NULL,"
	" base_model TEXT NOT NULL, adapter_from TEXT, reserved_name TEXT NOT NULL, fine_tuned_model TEXT,"
	" training_file TEXT NOT NULL, validation_file TEXT, suffix TEXT, seed INTEGER NOT NULL, metadata TEXT,"
	" priority INTEGER NOT NULL DEFAULT 0, recipe TEXT NOT NULL, error_code TEXT, error_message TEXT, error_param TEXT,"
	" pause_reason TEXT, deaths INTEGER NOT NULL DEFAULT 0, death_step INTEGER NOT NULL DEFAULT -1,"
	" step INTEGER NOT NULL DEFAULT 0, total_steps INTEGER NOT NULL DEFAULT 0, progress TEXT, dataset TEXT, estimate TEXT,"
	" fingerprint TEXT, resolved TEXT, trained_tokens INTEGER, result_file TEXT, metrics_events INTEGER NOT NULL DEFAULT 0) STRICT;"
	"CREATE INDEX jobs_project ON jobs (project, seq);"
	"CREATE INDEX jobs_state ON jobs (state, priority DESC, seq);"
	"CREATE INDEX jobs_revision ON jobs (project, revision);"
	"CREATE INDEX jobs_revision_all ON jobs (revision_all);"
	"CREATE TABLE events (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,"
	" job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, created_at INTEGER NOT NULL, level TEXT NOT NULL,"
	" message TEXT NOT NULL, type TEXT NOT NULL, data TEXT NOT NULL, step INTEGER) STRICT;"
	"CREATE INDEX events_job ON events (job, seq);"
	"CREATE UNIQUE INDEX events_step ON events (job, step) WHERE type = 'metrics';"
	"CREATE TABLE checkpoints (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,"
	" job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, step INTEGER NOT NULL, kind TEXT NOT NULL,"
	" dir TEXT NOT NULL, name TEXT UNIQUE, manifest_sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, metrics TEXT NOT NULL,"
	" created_at INTEGER NOT NULL, invalid INTEGER NOT NULL DEFAULT 0, UNIQUE (job, step)) STRICT;"
	"CREATE TABLE models (seq INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, project TEXT NOT NULL,"
	" job TEXT NOT NULL, base_model TEXT NOT NULL, dir TEXT NOT NULL, manifest_sha256 TEXT NOT NULL, bytes INTEGER NOT NULL,"
	" base_sha256 TEXT, rank INTEGER NOT NULL, alpha REAL NOT NULL, created_at INTEGER NOT NULL) STRICT;"
	"CREATE INDEX models_project ON models (project, seq);"
	"CREATE TABLE exports (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, project TEXT NOT NULL,"
	" state TEXT NOT NULL, model TEXT NOT NULL, format TEXT NOT NULL, quantization TEXT, merge_base TEXT NOT NULL,"
	" progress REAL NOT NULL DEFAULT 0, files TEXT NOT NULL DEFAULT '[]', verification TEXT, error_code TEXT,"
	" error_message TEXT, deaths INTEGER NOT NULL DEFAULT 0, created_at INTEGER NOT NULL, finished_at INTEGER,"
	" expires_at INTEGER) STRICT;"
	"CREATE INDEX exports_project ON exports (project, seq);"
	"CREATE TABLE repeats (project TEXT NOT NULL, route TEXT NOT NULL, kind INTEGER NOT NULL, key TEXT NOT NULL,"
	" token TEXT NOT NULL, fingerprint TEXT NOT NULL, status INTEGER NOT NULL, body TEXT NOT NULL,"
	" created_at INTEGER NOT NULL, PRIMARY KEY (project, route, kind, key)) STRICT;"
	"CREATE INDEX repeats_time ON repeats (kind, created_at);";

static const char version_2[] = "ALTER TABLE models ADD COLUMN shape TEXT;";

const char *const ql_store_migrations[] = {version_1, version_2};
const int ql_store_migrations_n = (int)(sizeof ql_store_migrations / sizeof ql_store_migrations[0]);
