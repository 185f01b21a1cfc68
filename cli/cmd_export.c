/* cmd_export.c - `qlorad export`: create, wait, download, check. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cmds.h"
#include "core/base/io.h"

static int wait_for(const struct cli *c, json_t **x, struct ql_err *e)
{
	const char *id = json_string_value(json_object_get(*x, "id"));
	char path[256], part[128];
	bool tty = isatty(STDERR_FILENO) != 0;

	cli_escape(id != NULL ? id : "", part, sizeof part);
	(void)snprintf(path, sizeof path, "/v1/exports/%s", part);
	for (;;) {
		const char *status = json_string_value(json_object_get(*x, "status"));
		const char *why = json_string_value(json_object_get(json_object_get(*x, "error"), "message"));
		int rc;

		if (status != NULL && strcmp(status, "succeeded") == 0) {
			if (tty)
				(void)fputs("\r\033[K", stderr);
			return QL_OK;
		}
		if (status == NULL || strcmp(status, "failed") == 0 || strcmp(status, "cancelled") == 0)
			return ql_err_set(e, QL_EINTERNAL, "the export %s: %s", status != NULL ? status : "is gone", why != NULL ? why : "no reason given");
		if (tty)
			(void)fprintf(stderr, "\r\033[Kexporting %3.0f %%", 100 * json_number_value(json_object_get(*x, "progress")));
		(void)usleep(300000);
		json_decref(*x);
		*x = NULL;
		rc = cli_call(c, "GET", path, NULL, x, e);
		if (rc != QL_OK)
			return rc;
	}
}

static int fetch(const struct cli *c, const json_t *x, const char *dir, struct ql_err *e)
{
	const char *id = json_string_value(json_object_get(x, "id"));
	char part[128], file[256], path[600], to[4300];
	json_t *f;
	size_t i;

	cli_escape(id, part, sizeof part);
	json_array_foreach(json_object_get(x, "files"), i, f) {
		const char *name = json_string_value(json_object_get(f, "name"));
		int rc;

		if (name == NULL || !ql_io_name_ok(name))
			return ql_err_set(e, QL_EFORMAT, "the server offers a file with a bad name");
		cli_escape(name, file, sizeof file);
		(void)snprintf(path, sizeof path, "/v1/exports/%s/content?file=%s", part, file);
		(void)snprintf(to, sizeof to, "%s/%s", dir, name);
		rc = cli_download(c, path, to, json_string_value(json_object_get(f, "sha256")), e);
		if (rc != QL_OK)
			return rc;
		(void)printf("%s\n", to);
	}
	return QL_OK;
}

int cmd_export(const struct cli *c, int argc, char **argv)
{
	const char *bad = NULL, *format = cli_option(&argc, argv, "format", &bad), *quant = cli_option(&argc, argv, "quantization", &bad),
		   *out = cli_option(&argc, argv, "out", &bad);
	json_t *body, *x = NULL;
	struct ql_err e = {0};
	int rc;

	if (bad != NULL || argc != 1 || cli_unknown(argc, argv) != NULL) {
		(void)fprintf(stderr, "usage: qlorad export MODEL [--format F] [--quantization Q] [--out DIR]\n");
		return 2;
	}
	body = json_pack("{s:s, s:s}", "model", argv[0], "format", format != NULL ? format : "gguf");
	if (quant != NULL)
		(void)json_object_set_new(body, "quantization", json_string(quant));
	rc = cli_call(c, "POST", "/v1/exports", body, &x, &e);
	if (rc == QL_OK)
		rc = wait_for(c, &x, &e);
	if (rc == QL_OK && c->json)
		cli_print(x);
	if (rc == QL_OK)
		rc = fetch(c, x, out != NULL ? out : ".", &e);
	json_decref(body);
	json_decref(x);
	return rc == QL_OK ? 0 : cli_fail(&e);
}
