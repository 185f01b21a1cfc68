/* token.c - making, listing and revoking bearer tokens; see auth.h. */
#include <sodium.h>
#include <string.h>
#include <time.h>

#include "core/base/hash.h"
#include "core/base/json.h"
#include "core/base/utf8.h"
#include "daemon/auth.h"
#include "daemon/store.h"

#define TOKENS_MAX 1000
#define LABEL_MAX 128

static bool project_ok(const char *s)
{
	size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

	return n >= 1 && n < QL_PROJECT_SIZE && s[n] == '\0';
}

static bool label_ok(const char *s)
{
	size_t n = strlen(s);

	if (n < 1 || n > LABEL_MAX || !ql_utf8_valid(s, n, NULL))
		return false;
	for (; *s != '\0'; s++)
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			return false;
	return true;
}

int ql_token_add(struct ql_store *st, const char *label, const char *project, unsigned scopes, int64_t expires_at,
		 char token[QL_TOKEN_SIZE], char id[QL_ID_SIZE], struct ql_err *e)
{
	unsigned char secret[32];
	char hex[QL_SHA256_HEX_SIZE];
	int rc;

	if (!project_ok(project))
		return ql_err_param(e, QL_EINVAL, "project", "project: 1 to 63 of letters, digits and . _ -");
	if (!label_ok(label))
		return ql_err_param(e, QL_EINVAL, "label", "label: 1 to %d bytes of text", LABEL_MAX);
	if (scopes == 0)
		return ql_err_param(e, QL_EINVAL, "scopes", "scopes: infer, train, admin");
	if (ql_store_int(st, 0, "SELECT count(*) FROM tokens", "") >= TOKENS_MAX)
		return ql_err_set(e, QL_ELIMIT, "there are %d tokens already; revoke some", TOKENS_MAX);
	randombytes_buf(secret, sizeof secret);
	memcpy(token, "qlo_", 4);
	(void)sodium_bin2base64(token + 4, QL_TOKEN_SIZE - 4, secret, sizeof secret, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
	ql_sha256_hex(token, strlen(token), hex);
	ql_id_make(id, "key-");
	rc = ql_store_run(st, e,
			  "INSERT INTO tokens (id, hash, label, project, scopes, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, nullif(?7, 0))",
			  "ssssiii", id, hex, label, project, (int64_t)scopes, (int64_t)time(NULL), expires_at);
	sodium_memzero(secret, sizeof secret);
	return rc < 0 ? rc : QL_OK;
}

static json_t *int_or_null(sqlite3_stmt *q, int column)
{
	return sqlite3_column_type(q, column) == SQLITE_NULL ? json_null() : json_integer(sqlite3_column_int64(q, column));
}

int ql_token_list(struct ql_store *st, json_t **out, struct ql_err *e)
{
	sqlite3_stmt *q = ql_store_query(
		st, e, "SELECT id, label, project, scopes, created_at, expires_at, revoked_at, last_used FROM tokens ORDER BY created_at, id", "");
	json_t *list = json_array();
	int rc = q == NULL ? e->code : 1;

	while (rc > 0 && (rc = ql_store_step(st, q, e)) == 1) {
		int64_t scopes = sqlite3_column_int64(q, 3);
		char text[4] = "";

		(void)snprintf(text, sizeof text, "%s%s%s", scopes & QL_SCOPE_INFER ? "i" : "", scopes & QL_SCOPE_TRAIN ? "t" : "",
			       scopes & QL_SCOPE_ADMIN ? "a" : "");
		(void)json_array_append_new(
			list, json_pack("{s:s,s:s,s:s,s:s,s:I,s:o,s:o,s:o}", "id", ql_store_text(q, 0), "label", ql_store_text(q, 1), "project",
					ql_store_text(q, 2), "scopes", text, "created_at", (json_int_t)sqlite3_column_int64(q, 4),
					"expires_at", int_or_null(q, 5), "revoked_at", int_or_null(q, 6), "last_used", int_or_null(q, 7)));
	}
	ql_store_done(q);
	if (rc < 0) {
		json_decref(list);
		return rc;
	}
	*out = list;
	return QL_OK;
}

int ql_token_revoke(struct ql_store *st, const char *id, struct ql_err *e)
{
	int rc = ql_store_run(st, e, "UPDATE tokens SET revoked_at = ifnull(revoked_at, ?2) WHERE id = ?1", "si", id, (int64_t)time(NULL));

	if (rc == 0)
		return ql_err_param(e, QL_ENOTFOUND, "id", "no token %.60s", id);
	return rc < 0 ? rc : QL_OK;
}

unsigned ql_scopes_of(const char *text)
{
	static const struct {
		const char *word;
		unsigned bit;
	} words[] = {{"i", QL_SCOPE_INFER},	{"infer", QL_SCOPE_INFER}, {"inference", QL_SCOPE_INFER}, {"t", QL_SCOPE_TRAIN},
		     {"train", QL_SCOPE_TRAIN}, {"a", QL_SCOPE_ADMIN},	   {"admin", QL_SCOPE_ADMIN}};
	unsigned out = 0;

	while (*text != '\0') {
		size_t n = strcspn(text, ","), i = 0;

		while (i < sizeof words / sizeof words[0] && (strlen(words[i].word) != n || strncmp(words[i].word, text, n) != 0))
			i++;
		if (i == sizeof words / sizeof words[0])
			return 0;
		out |= words[i].bit;
		text += n + (text[n] == ',');
	}
	return out;
}
