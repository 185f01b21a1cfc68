/* token_cmd.c - `qlorad token add|list|revoke` and `qlorad check`: they work on the state directory, with or without a
 * daemon running on it (SQLite's locks keep them apart). */
#include <ctype.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/auth.h"
#include "daemon/control_internal.h"
#include "daemon/ipc.h"
#include "daemon/store.h"

#define DAYS_MAX 36500

struct args {
	const char *state_dir, *label, *project, *scopes, *days, *id;
	bool help;
};

static const char token_help[] =
	"usage: qlorad token add --state-dir DIR [--label TEXT] [--project NAME] [--scopes infer,train,admin] [--days N]\n"
	"       qlorad token list --state-dir DIR\n"
	"       qlorad token revoke ID --state-dir DIR\n\n"
	"Makes, lists and revokes the bearer tokens of a daemon. A token is shown once, when it is made.\n"
	"--state-dir defaults to QLORAD_STATE_DIR. Without --days a token does not expire; --scopes defaults to infer,train.\n";

static const char check_help[] =
	"usage: qlorad check --state-dir DIR\n\n"
	"Checks the database of a state directory (PRAGMA integrity_check). Exit 0: nothing found.\n";

static int read_args(int argc, char **argv, int from, struct args *a)
{
	const struct {
		const char *flag, **to;
	} flags[] = {{"--state-dir", &a->state_dir}, {"--label", &a->label}, {"--project", &a->project}, {"--scopes", &a->scopes},
			{"--days", &a->days}};

	a->state_dir = getenv("QLORAD_STATE_DIR");
	a->label = "by hand";
	a->project = QL_PROJECT_DEFAULT;
	a->scopes = "infer,train";
	for (int i = from; i < argc; i++) {
		size_t k = 0;

		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			a->help = true;
			return 0;
		}
		while (k < 5 && strncmp(argv[i], flags[k].flag, strlen(flags[k].flag)) != 0)
			k++;
		if (k < 5 && argv[i][strlen(flags[k].flag)] == '=') {
			*flags[k].to = argv[i] + strlen(flags[k].flag) + 1;
		} else if (k < 5 && argv[i][strlen(flags[k].flag)] == '\0' && i + 1 < argc) {
			*flags[k].to = argv[++i];
		} else if (argv[i][0] != '-' && a->id == NULL) {
			a->id = argv[i];
		} else {
			(void)fprintf(stderr, "qlorad: unknown or incomplete argument '%s'\n", argv[i]);
			return -1;
		}
	}
	if (a->state_dir == NULL) {
		(void)fprintf(stderr, "qlorad: give --state-dir DIR, the state directory of the daemon\n");
		return -1;
	}
	return 0;
}

/* The directory must be there: a typing error must not make a new store. */
static int open_store(const char *path, bool must_have_db, struct ql_store **st, struct ql_err *e)
{
	char db[4200];

	(void)snprintf(db, sizeof db, "%s/qlorad.db", path);
	if (must_have_db && access(db, F_OK) != 0)
		return ql_err_set(e, QL_ENOTFOUND, "there is no qlorad.db in %s", path);
	(void)umask(0077);
	return ql_store_open(st, path, false, e);
}

static int add(const struct args *a, struct ql_store *st, struct ql_err *e)
{
	char token[QL_TOKEN_SIZE], id[QL_ID_SIZE], *end;
	long days = 0;
	int rc;

	if (a->days != NULL) {
		days = isdigit((unsigned char)a->days[0]) ? strtol(a->days, &end, 10) : -1;
		if (days < 1 || days > DAYS_MAX || *end != '\0')
			return ql_err_param(e, QL_EINVAL, "days", "--days: 1 to %d", DAYS_MAX);
	}
	rc = ql_token_add(st, a->label, a->project, ql_scopes_of(a->scopes), days > 0 ? (int64_t)time(NULL) + days * 86400 : 0, token, id, e);
	if (rc == QL_OK)
		(void)printf("%s\n", token);
	if (rc == QL_OK)
		(void)fprintf(stderr, "made %s; the token above is not shown again\n", id);
	sodium_memzero(token, sizeof token);
	return rc;
}

static int list(struct ql_store *st, struct ql_err *e)
{
	json_t *all = NULL;
	int rc = ql_token_list(st, &all, e);

	if (rc != QL_OK)
		return rc;
	(void)json_dumpf(all, stdout, JSON_INDENT(2));
	(void)fputc('\n', stdout);
	json_decref(all);
	return QL_OK;
}

int ql_token_main(int argc, char **argv)
{
	struct ql_store *st = NULL;
	struct args a = {0};
	struct ql_err e = {0};
	const char *what = argc > 1 ? argv[1] : "";
	int rc;

	if (strcmp(what, "add") != 0 && strcmp(what, "list") != 0 && strcmp(what, "revoke") != 0) {
		bool help = strcmp(what, "--help") == 0 || strcmp(what, "-h") == 0;

		(void)fputs(token_help, help ? stdout : stderr);
		return help ? 0 : QL_EXIT_CONFIG;
	}
	if (sodium_init() < 0 || read_args(argc, argv, 2, &a) != 0)
		return QL_EXIT_CONFIG;
	if (a.help) {
		(void)fputs(token_help, stdout);
		return 0;
	}
	if ((strcmp(what, "revoke") == 0) != (a.id != NULL)) {
		(void)fputs(token_help, stderr);
		return QL_EXIT_CONFIG;
	}
	rc = open_store(a.state_dir, true, &st, &e);
	if (rc == QL_OK)
		rc = strcmp(what, "add") == 0 ? add(&a, st, &e) : strcmp(what, "list") == 0 ? list(st, &e) : ql_token_revoke(st, a.id, &e);
	if (rc != QL_OK)
		(void)fprintf(stderr, "qlorad token: %s\n", e.message);
	ql_store_close(st);
	return rc == QL_OK ? 0 : 1;
}

int ql_check_main(int argc, char **argv)
{
	struct ql_store *st = NULL;
	struct args a = {0};
	struct ql_err e = {0};
	int rc;

	if (read_args(argc, argv, 1, &a) != 0 || a.id != NULL)
		return QL_EXIT_CONFIG;
	if (a.help) {
		(void)fputs(check_help, stdout);
		return 0;
	}
	rc = open_store(a.state_dir, true, &st, &e);
	if (rc == QL_OK)
		rc = ql_store_integrity(st, &e);
	(void)printf("%s\n", rc == QL_OK ? "ok" : e.message);
	ql_store_close(st);
	return rc == QL_OK ? 0 : 1;
}
