/* cache_note.c - what a source's weights are, remembered from the last start; see cache.h. */
#include <stdio.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/model/cache.h"

static bool note_read(int dir, const char *name, char hex[65])
{
	struct ql_buf b = {0};
	json_t *v = NULL;
	const char *sha = NULL;
	bool ok = false;

	if (ql_io_read_all(dir, name, 4096, &b, NULL) == QL_OK &&
	    ql_json_parse(b.data, b.len, 4096, &v, NULL) == QL_OK && json_is_object(v) &&
	    ql_json_get_str(v, "sha256", 64, 64, &sha, NULL) == QL_OK && sha != NULL &&
	    strspn(sha, "0123456789abcdef") == 64) {
		memcpy(hex, sha, 65);
		ok = true;
	}
	json_decref(v);
	ql_buf_free(&b);
	return ok;
}

int ql_cache_source_hash(const struct ql_source *s, int cache_dir, struct ql_pool *pool, char hex[65], struct ql_err *e)
{
	char name[64] = "", text[160], stamp[65];
	bool noted = cache_dir >= 0 && ql_source_stamp(s, stamp);
	int rc;

	if (noted) {
		(void)snprintf(name, sizeof name, "source-%.24s.json", stamp);
		if (note_read(cache_dir, name, hex))
			return QL_OK;
	}
	rc = ql_source_hash(s, pool, hex, e);
	if (rc != QL_OK || !noted)
		return rc;
	(void)snprintf(text, sizeof text, "{\"sha256\":\"%s\"}\n", hex);
	if (ql_io_replace(cache_dir, name, text, strlen(text), NULL) != QL_OK)
		ql_log(QL_LOG_WARN, "cache", "the note of the base model's hash could not be written");
	return QL_OK;
}
