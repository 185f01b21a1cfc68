/* The store: creation, pragmas, migration with its backup, refusals, transactions, damage; tokens and repeats on it. */
#include "tests/unit/scratch.h"

#include <fcntl.h>
#include <math.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "daemon/auth.h"
#include "daemon/idem.h"
#include "daemon/models_internal.h"
#include "daemon/revision.h"
#include "daemon/store.h"
#include "daemon/store_schema.h"

static struct scratch here;

static int fresh(void **state)
{
	(void)state;
	scratch_open(&here);
	return 0;
}

static int clean(void **state)
{
	(void)state;
	scratch_close(&here);
	return 0;
}

static struct ql_store *store(void)
{
	struct ql_store *st = NULL;
	struct ql_err e = {0};
	int rc = ql_store_open(&st, here.path, true, &e);

	if (rc != QL_OK)
		print_error("%s\n", e.message);
	assert_int_equal(rc, QL_OK);
	return st;
}

static void raw(const char *sql)
{
	char path[96];
	sqlite3 *db;

	(void)snprintf(path, sizeof path, "%s/qlorad.db", here.path);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	(void)sqlite3_close(db);
}

static void create(void **state)
{
	struct ql_store *st = store();
	struct ql_err e = {0};

	(void)state;
	assert_int_equal(ql_store_migrations_n, QL_STORE_VERSION);
	assert_int_equal(ql_store_int(st, -1, "PRAGMA user_version", ""), QL_STORE_VERSION);
	assert_int_equal(ql_store_int(st, -1, "PRAGMA application_id", ""), QL_STORE_APPLICATION_ID);
	assert_int_equal(ql_store_int(st, -1, "PRAGMA synchronous", ""), 2);
	assert_int_equal(ql_store_int(st, -1, "PRAGMA foreign_keys", ""), 1);
	assert_int_equal(ql_store_int(st, 1, "SELECT journal_mode = 'wal' FROM pragma_journal_mode", ""), 1);
	assert_int_equal(ql_store_int(st, -1, "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' AND sql NOT LIKE '%STRICT%'", ""), 0);
	assert_int_equal(ql_store_integrity(st, &e), QL_OK);
	assert_int_equal(ql_store_meta_set(st, "k", "one", &e), QL_OK);
	assert_int_equal(ql_store_meta_set(st, "k", "two", &e), QL_OK);
	ql_store_close(st);
	st = store();
	{
		char *v = ql_store_meta_get(st, "k");

		assert_string_equal(v, "two");
		free(v);
		assert_null(ql_store_meta_get(st, "none"));
	}
	ql_store_close(st);
}

static void refused(void **state)
{
	struct ql_store *st = NULL;
	struct ql_err e = {0};
	char path[96];
	int fd;

	(void)state;
	ql_store_close(store());
	raw("PRAGMA user_version = 99");
	assert_int_equal(ql_store_open(&st, here.path, true, &e), QL_EUNSUPPORTED);
	assert_null(st);
	assert_non_null(strstr(e.message, "newer"));
	raw("PRAGMA user_version = 1; PRAGMA application_id = 5");
	assert_int_equal(ql_store_open(&st, here.path, true, &e), QL_EFORMAT);
	(void)snprintf(path, sizeof path, "%s/qlorad.db", here.path);
	fd = open(path, O_WRONLY | O_TRUNC);
	assert_int_equal(write(fd, "this is not a database, but long enough to be read as one ........................................", 98), 98);
	(void)close(fd);
	assert_int_not_equal(ql_store_open(&st, here.path, true, &e), QL_OK);
	assert_int_not_equal(ql_store_open(&st, "/nonexistent", true, &e), QL_OK);
}

/* An older database gets a backup beside it, and all that was in it stays. */
static void migrated(void **state)
{
	char path[96];
	struct ql_store *st;
	struct stat s;

	(void)state;
	raw("CREATE TABLE old (x); PRAGMA application_id = 1900834642; PRAGMA user_version = 0");
	assert_int_equal(QL_STORE_APPLICATION_ID, 1900834642);
	st = store();
	assert_int_equal(ql_store_int(st, -1, "PRAGMA user_version", ""), QL_STORE_VERSION);
	assert_int_equal(ql_store_int(st, -1, "SELECT count(*) FROM old", ""), 0);
	ql_store_close(st);
	(void)snprintf(path, sizeof path, "%s/qlorad.db.v0", here.path);
	assert_int_equal(stat(path, &s), 0);
}

static void transactions(void **state)
{
	struct ql_store *st = store();
	struct ql_err e = {0};

	(void)state;
	assert_int_equal(ql_store_begin(st, &e), QL_OK);
	assert_int_equal(ql_store_begin(st, &e), QL_EINTERNAL);
	assert_int_equal(ql_store_run(st, &e, "INSERT INTO meta (key, value) VALUES (?1, ?2)", "ss", "a", "1"), 1);
	ql_store_rollback(st);
	assert_int_equal(ql_store_int(st, -1, "SELECT count(*) FROM meta", ""), 0);
	assert_int_equal(ql_store_begin(st, &e), QL_OK);
	assert_int_equal(ql_store_run(st, &e, "INSERT INTO meta (key, value) VALUES (?1, ?2)", "ss", "a", "1"), 1);
	assert_int_equal(ql_store_run(st, &e, "INSERT INTO meta (key, value) VALUES (?1, ?2)", "ss", "a", "1"), QL_EEXIST);
	assert_int_equal(ql_store_commit(st, &e), QL_OK);
	assert_int_equal(ql_store_int(st, -1, "SELECT count(*) FROM meta", ""), 1);
	/* types are checked by the STRICT table, NULL and NaN are NULL */
	assert_true(ql_store_run(st, &e, "INSERT INTO meta (key, value) VALUES (?1, ?2)", "ss", "b", NULL) < 0);
	assert_int_equal(ql_store_int(st, 7, "SELECT ?1", "d", (double)NAN), 7);
	assert_int_equal(ql_store_int(st, 7, "SELECT ?1", "d", 1.0), 1);
	assert_int_equal(ql_store_int(st, 7, "SELECT ?1", "n"), 7);
	assert_int_equal(ql_store_int(st, 7, "SELECT nonsense", ""), 7);
	ql_store_close(st);
}

struct room {
	struct ql_control ctl;
	struct ql_config config;
	uv_loop_t loop;
};

static void open_room(struct room *r)
{
	struct ql_err e = {0};

	memset(r, 0, sizeof *r);
	assert_int_equal(uv_loop_init(&r->loop), 0);
	r->ctl.loop = &r->loop;
	r->ctl.config = &r->config;
	r->ctl.store = store();
	r->ctl.state_fd = open(here.path, O_RDONLY | O_DIRECTORY);
	assert_int_equal(ql_auth_open(&r->ctl, &e), QL_OK);
}

static void close_room(struct room *r)
{
	ql_auth_close(&r->ctl);
	ql_store_close(r->ctl.store);
	(void)close(r->ctl.state_fd);
	assert_int_equal(uv_loop_close(&r->loop), 0);
}

static int check(struct room *r, const char *header, struct ql_who *who, struct ql_fault *f)
{
	return ql_auth_check(&r->ctl, header, "10.0.0.1", false, who, f);
}

static void tokens(void **state)
{
	char token[QL_TOKEN_SIZE], id[QL_ID_SIZE], header[80], line[80] = "";
	struct ql_who who;
	struct ql_fault f;
	struct ql_err e = {0};
	struct room r;
	struct stat st;
	FILE *file;

	(void)state;
	open_room(&r);
	assert_int_equal(fstatat(r.ctl.state_fd, "admin.token", &st, 0), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	(void)snprintf(header, sizeof header, "%s/admin.token", here.path);
	file = fopen(header, "r");
	assert_non_null(fgets(line, sizeof line, file));
	(void)fclose(file);
	line[strcspn(line, "\n")] = '\0';
	(void)snprintf(header, sizeof header, "Bearer %s", line);
	assert_int_equal(check(&r, header, &who, &f), QL_OK);
	assert_int_equal(who.scopes, QL_SCOPE_ADMIN | QL_SCOPE_TRAIN | QL_SCOPE_INFER);
	assert_string_equal(ql_who_filter(&who), "");
	/* the token itself is nowhere in the store */
	assert_int_equal(ql_store_int(r.ctl.store, -1, "SELECT count(*) FROM tokens WHERE hash LIKE 'qlo%' OR length(hash) <> 64", ""), 0);
	assert_int_equal(ql_token_add(r.ctl.store, "l", "p", QL_SCOPE_INFER, 0, token, id, &e), QL_OK);
	assert_int_equal(strlen(token), QL_TOKEN_SIZE - 1);
	(void)snprintf(header, sizeof header, "bearer   %s", token);
	assert_int_equal(check(&r, header, &who, &f), QL_OK);
	assert_string_equal(who.project, "p");
	assert_string_equal(who.token, id);
	assert_string_equal(ql_who_filter(&who), "p");
	assert_int_equal(ql_auth_scope(&who, QL_SCOPE_INFER, &f), QL_OK);
	assert_int_not_equal(ql_auth_scope(&who, QL_SCOPE_TRAIN, &f), QL_OK);
	assert_int_equal(f.status, 403);
	/* wrong in each way: one text */
	{
		const char *const wrong[] = {NULL, "", "Bearer", "Bearer ", "Basic x", token, "Bearer qlo_",
				"Bearer qlo_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
					     "Bearer qlo_'; DROP TABLE tokens; --AAAAAAAAAAAAAAAAAAAAAAAA"};

		for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
			assert_int_not_equal(check(&r, wrong[i], &who, &f), QL_OK);
			assert_int_equal(f.status, 401);
			assert_string_equal(f.message, "Incorrect API key provided.");
			assert_int_equal(who.scopes, 0);
		}
	}
	(void)snprintf(header, sizeof header, "Bearer %s", token);
	assert_true(ql_store_run(r.ctl.store, &e, "UPDATE tokens SET expires_at = ?2 WHERE id = ?1", "si", id, (int64_t)time(NULL)) == 1);
	assert_int_not_equal(check(&r, header, &who, &f), QL_OK);
	assert_true(ql_store_run(r.ctl.store, &e, "UPDATE tokens SET expires_at = ?2 WHERE id = ?1", "si", id,
			(int64_t)time(NULL) + 100) == 1);
	assert_int_equal(check(&r, header, &who, &f), QL_OK);
	assert_int_equal(ql_token_revoke(r.ctl.store, id, &e), QL_OK);
	assert_int_not_equal(check(&r, header, &who, &f), QL_OK);
	assert_int_equal(ql_token_revoke(r.ctl.store, "key-x", &e), QL_ENOTFOUND);
	/* the 21st failure of one address, and only of that */
	for (int i = 0; i < 30; i++)
		(void)check(&r, "Bearer qlo_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", &who, &f);
	assert_int_equal(f.status, 429);
	assert_int_equal(f.retry_after, 60);
	assert_int_equal(ql_auth_check(&r.ctl, NULL, "10.0.0.2", false, &who, &f), QL_EINVAL);
	assert_int_equal(f.status, 401);
	assert_int_equal(ql_auth_check(&r.ctl, NULL, "10.0.0.2", true, &who, &f), QL_OK);
	assert_int_equal(ql_scopes_of("infer,train"), QL_SCOPE_INFER | QL_SCOPE_TRAIN);
	assert_int_equal(ql_scopes_of("a"), QL_SCOPE_ADMIN);
	assert_int_equal(ql_scopes_of("infer,"), QL_SCOPE_INFER);
	assert_int_equal(ql_scopes_of("infer;train"), 0);
	assert_int_equal(ql_scopes_of(""), 0);
	close_room(&r);
	/* a second start makes no second admin token */
	open_room(&r);
	assert_int_equal(ql_store_int(r.ctl.store, -1, "SELECT count(*) FROM tokens WHERE label = 'first start'", ""), 1);
	close_room(&r);
}

static void repeats(void **state)
{
	struct ql_who who = {.project = "p", .token = "key-1"}, other = {.project = "q", .token = "key-2"}, twin = {.project = "p",
			.token = "key-3"};
	struct ql_idem key = {.key = "k"}, retry = {.retry_count = 1}, none = {.retry_count = 0};
	const char *one = "1111", *two = "2222";
	json_t *body = json_pack("{s:s}", "id", "x");
	struct ql_reply reply = {0};
	struct ql_fault f = {0};
	struct ql_err e = {0};
	struct room r;

	(void)state;
	open_room(&r);
	assert_int_equal(ql_idem_find(&r.ctl, &who, "/a", &key, one, &reply, &f), 0);
	assert_int_equal(ql_idem_save(&r.ctl, &who, "/a", &key, one, 200, body, &e), QL_OK);
	assert_int_equal(ql_idem_find(&r.ctl, &who, "/a", &key, one, &reply, &f), 1);
	assert_true(json_equal(reply.body, body) && reply.status == 200 && reply.replayed);
	json_decref(reply.body);
	assert_int_equal(ql_idem_find(&r.ctl, &who, "/a", &key, two, &reply, &f), QL_EINVAL);
	assert_int_equal(f.status, 422);
	assert_int_equal(ql_idem_find(&r.ctl, &who, "/b", &key, two, &reply, &f), 0);   /* per route */
	assert_int_equal(ql_idem_find(&r.ctl, &other, "/a", &key, two, &reply, &f), 0); /* per project */
	assert_int_equal(ql_idem_find(&r.ctl, &who, "/a", &retry, one, &reply, &f), 1);
	json_decref(reply.body);
	assert_int_equal(ql_idem_find(&r.ctl, &who, "/a", &none, one, &reply, &f), 0);
	assert_int_equal(ql_idem_find(&r.ctl, &twin, "/a", &retry, one, &reply, &f), 0); /* another token */
	assert_int_equal(ql_idem_find(&r.ctl, &who, "/a", &retry, two, &reply, &f), 0);
	/* old ones end */
	assert_true(ql_store_run(r.ctl.store, &e, "UPDATE repeats SET created_at = created_at - 86401", "") > 0);
	assert_int_equal(ql_idem_find(&r.ctl, &who, "/a", &key, two, &reply, &f), 0);
	ql_idem_sweep(&r.ctl);
	assert_int_equal(ql_store_int(r.ctl.store, -1, "SELECT count(*) FROM repeats", ""), 0);
	json_decref(body);
	close_room(&r);
}

static void revisions(void **state)
{
	struct ql_who p = {.project = "p"}, q = {.project = "q"}, admin = {.project = "p", .scopes = QL_SCOPE_ADMIN};
	struct ql_err e = {0};
	int64_t own, all;
	struct room r;

	(void)state;
	open_room(&r);
	assert_int_equal(ql_control_revision(&r.ctl, &p), 0);
	for (int i = 1; i <= 3; i++)
		assert_int_equal(ql_revision_bump(&r.ctl, "p", &own, &all, &e), QL_OK);
	assert_int_equal(ql_revision_bump(&r.ctl, "q", &own, &all, &e), QL_OK);
	assert_int_equal(own, 1);
	assert_int_equal(all, 4);
	assert_int_equal(ql_control_revision(&r.ctl, &p), 3);
	assert_int_equal(ql_control_revision(&r.ctl, &q), 1);
	assert_int_equal(ql_control_revision(&r.ctl, &admin), 4);
	close_room(&r);
}

static void names(void **state)
{
	static const char *const rows[][2] = {{"/m/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct.Q4_1"}, {"llama.gguf", "llama"},
					      {"/hf/Llama 3/", "Llama-3"}, {"/", "base"}, {".gguf", "gguf"}, {"/a/--x:y", "x-y"}, {"/a/\xc3\xa9t", "t"}};
	char name[QL_MODEL_NAME_SIZE], id[QL_ID_SIZE];

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		ql_model_base_name(rows[i][0], name);
		assert_string_equal(name, rows[i][1]);
	}
	ql_model_make_name("b", "", name);
	assert_int_equal(strncmp(name, "ft:b:qlorad::", 13), 0);
	assert_int_equal(strlen(name), 13 + 8);
	ql_model_make_checkpoint_name("b", "s", 12, name);
	assert_int_equal(strncmp(name, "ft:b:qlorad:s:", 14), 0);
	assert_string_equal(name + 14 + 8, ":ckpt-step-12");
	for (int i = 0; i < 100; i++) {
		ql_id_make(id, "ftckpt_");
		assert_true(ql_id_ok(id, "ftckpt_"));
		assert_true(ql_io_name_ok(id));
	}
	assert_false(ql_id_ok("file-../../etc/passwd/aaaaaa", "file-"));
	assert_false(ql_id_ok("file-AAAAAAAAAAAAAAAAAAAAAAAA", "file-"));
	assert_false(ql_id_ok("file-aaaaaaaaaaaaaaaaaaaaaaa", "file-"));
	assert_false(ql_id_ok("file-aaaaaaaaaaaaaaaaaaaaaaaaa", "file-"));
	assert_false(ql_id_ok(NULL, "file-"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(create, fresh, clean),	 cmocka_unit_test_setup_teardown(refused, fresh, clean),
		cmocka_unit_test_setup_teardown(migrated, fresh, clean), cmocka_unit_test_setup_teardown(transactions, fresh, clean),
		cmocka_unit_test_setup_teardown(tokens, fresh, clean),	 cmocka_unit_test_setup_teardown(repeats, fresh, clean),
		cmocka_unit_test_setup_teardown(revisions, fresh, clean), cmocka_unit_test(names)};

	if (sodium_init() < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
