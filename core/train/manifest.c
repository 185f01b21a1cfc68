/* manifest.c - MANIFEST.json: the files of a directory with their sizes and digests; see checkpoint.h. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/train/checkpoint.h"

int ql_manifest_write(int dirfd, const char *const *names, struct ql_manifest *out, struct ql_err *e)
{
	struct ql_buf text = {0};
	uint64_t size;
	char hex[65];
	int rc = ql_buf_adds(&text, "{\"files\":[");

	*out = (struct ql_manifest){0};
	for (int i = 0; rc == QL_OK && names[i] != NULL; i++) {
		rc = ql_io_sha256(dirfd, names[i], hex, &size, e);
		if (rc == QL_OK)
			rc = ql_buf_addf(&text, "%s\n{\"name\":\"%s\",\"bytes\":%llu,\"sha256\":\"%s\"}", i == 0 ? "" : ",", names[i],
					 (unsigned long long)size, hex);
		out->bytes += size;
	}
	if (rc == QL_OK)
		rc = ql_buf_adds(&text, "\n]}\n");
	if (rc == QL_ENOMEM)
		(void)ql_err_set(e, rc, "manifest");
	if (rc == QL_OK)
		rc = ql_io_replace(dirfd, "MANIFEST.json", text.data, text.len, e);
	if (rc == QL_OK) {
		ql_sha256_hex(text.data, text.len, out->sha256);
		out->bytes += text.len;
	}
	ql_buf_free(&text);
	return rc;
}

static int check_file(int dirfd, const json_t *f, struct ql_err *e)
{
	const char *name = NULL, *sha = NULL;
	int64_t bytes = -1;
	uint64_t size;
	char hex[65];
	int rc = ql_json_get_str(f, "name", 1, 128, &name, e);

	if (rc == QL_OK)
		rc = ql_json_get_str(f, "sha256", 64, 64, &sha, e);
	if (rc == QL_OK)
		rc = ql_json_get_int(f, "bytes", 0, INT64_MAX, &bytes, e);
	if (rc != QL_OK)
		return rc;
	if (name == NULL || sha == NULL || bytes < 0 || !ql_io_name_ok(name))
		return ql_err_set(e, QL_EFORMAT, "MANIFEST.json: an entry is incomplete");
	rc = ql_io_sha256(dirfd, name, hex, &size, e);
	if (rc != QL_OK)
		return rc;
	if (size != (uint64_t)bytes || strcmp(hex, sha) != 0)
		return ql_err_param(e, QL_EFORMAT, name, "%s is not what MANIFEST.json says", name);
	return QL_OK;
}

static bool lists(const json_t *files, const char *name)
{
	const json_t *f;
	size_t i;

	json_array_foreach(files, i, f) {
		const char *s = json_string_value(json_object_get(f, "name"));

		if (s != NULL && strcmp(s, name) == 0)
			return true;
	}
	return false;
}

int ql_manifest_check(int dirfd, const char *expect_sha256, const char *const *names, struct ql_err *e)
{
	struct ql_buf text = {0};
	const json_t *files;
	json_t *v = NULL;
	char hex[65];
	int rc = ql_io_read_all(dirfd, "MANIFEST.json", QL_CONFIG_JSON_MAX, &text, e);

	if (rc != QL_OK)
		goto cleanup;
	ql_sha256_hex(text.data, text.len, hex);
	if (expect_sha256 != NULL && strcmp(hex, expect_sha256) != 0) {
		rc = ql_err_param(e, QL_EFORMAT, "MANIFEST.json", "MANIFEST.json is not the one recorded");
		goto cleanup;
	}
	rc = ql_json_parse(text.data, text.len, QL_CONFIG_JSON_MAX, &v, e);
	if (rc != QL_OK)
		goto cleanup;
	files = json_object_get(v, "files");
	if (!json_is_array(files) || json_array_size(files) == 0) {
		rc = ql_err_set(e, QL_EFORMAT, "MANIFEST.json lists no files");
		goto cleanup;
	}
	for (size_t i = 0; rc == QL_OK && names[i] != NULL; i++)
		if (!lists(files, names[i]))
			rc = ql_err_param(e, QL_EFORMAT, names[i], "MANIFEST.json does not name %s", names[i]);
	for (size_t i = 0; rc == QL_OK && i < json_array_size(files); i++)
		rc = check_file(dirfd, json_array_get(files, i), e);
cleanup:
	json_decref(v);
	ql_buf_free(&text);
	return rc;
}
