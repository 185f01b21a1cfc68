/* client.c - see client.h. */
#include "cli/client.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/buf.h"
#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/json.h"

#define ANSWER_MAX ((size_t)256 << 20)

/* ---- options ----------------------------------------------------------------------------------------------------------- */

static void drop(int *argc, char **argv, int at, int n)
{
	memmove(argv + at, argv + at + n, (size_t)(*argc - at - n) * sizeof *argv);
	*argc -= n;
}

const char *cli_option(int *argc, char **argv, const char *name, const char **bad)
{
	size_t len = strlen(name);

	for (int i = 0; i < *argc; i++) {
		const char *value;

		if (strncmp(argv[i], "--", 2) != 0 || strncmp(argv[i] + 2, name, len) != 0)
			continue;
		if (argv[i][2 + len] == '=') {
			value = argv[i] + 3 + len;
			drop(argc, argv, i, 1);
			return value;
		}
		if (argv[i][2 + len] != '\0')
			continue;
		if (i + 1 >= *argc) {
			*bad = name;
			return NULL;
		}
		value = argv[i + 1];
		drop(argc, argv, i, 2);
		return value;
	}
	return NULL;
}

bool cli_flag(int *argc, char **argv, const char *name)
{
	for (int i = 0; i < *argc; i++)
		if (strncmp(argv[i], "--", 2) == 0 && strcmp(argv[i] + 2, name) == 0) {
			drop(argc, argv, i, 1);
			return true;
		}
	return false;
}

const char *cli_unknown(int argc, char **argv)
{
	for (int i = 0; i < argc; i++)
		if (strncmp(argv[i], "--", 2) == 0 && argv[i][2] != '\0')
			return argv[i];
	return NULL;
}

static int read_key(struct cli *c, const char *path, struct ql_err *e)
{
	struct ql_buf b = {0};
	int rc = ql_io_read_file(path, 4096, &b, e);

	if (rc == QL_OK) {
		size_t n = strcspn(b.data, "\r\n");

		(void)snprintf(c->key, sizeof c->key, "%.*s", (int)n, b.data);
	}
	ql_buf_free(&b);
	return rc;
}

int cli_init(struct cli *c, int *argc, char **argv, struct ql_err *e)
{
	const char *bad = NULL, *server = cli_option(argc, argv, "server", &bad), *key = cli_option(argc, argv, "key", &bad),
		   *key_file = cli_option(argc, argv, "key-file", &bad), *state = cli_option(argc, argv, "state-dir", &bad);
	char path[4200];

	*c = (struct cli){.json = cli_flag(argc, argv, "json")};
	if (bad != NULL)
		return ql_err_set(e, QL_EINVAL, "--%s needs a value", bad);
	if (server == NULL)
		server = getenv("QLORAD_SERVER");
	if (server == NULL)
		server = "http://127.0.0.1:8177";
	if (strncmp(server, "unix:", 5) == 0) {
		(void)snprintf(c->socket, sizeof c->socket, "%s", server + 5);
		server = "http://localhost";
	}
	if (strncmp(server, "http://", 7) != 0 && strncmp(server, "https://", 8) != 0)
		return ql_err_set(e, QL_EINVAL, "--server must be http://HOST:PORT or unix:/PATH");
	(void)snprintf(c->url, sizeof c->url, "%s", server);
	for (size_t n = strlen(c->url); n > 0 && c->url[n - 1] == '/'; n--)
		c->url[n - 1] = '\0';
	if (key == NULL)
		key = getenv("QLORAD_KEY");
	if (key != NULL) {
		(void)snprintf(c->key, sizeof c->key, "%s", key);
		return QL_OK;
	}
	if (key_file != NULL)
		return read_key(c, key_file, e);
	if (state == NULL)
		state = getenv("QLORAD_STATE_DIR");
	if (state == NULL)
		return QL_OK; /* the server may not ask for one */
	(void)snprintf(path, sizeof path, "%s/admin.token", state);
	return read_key(c, path, e);
}

/* ---- requests ------------------------------------------------------------------------------------------------------------ */

struct transfer {
	CURL *curl;
	struct curl_slist *headers;
	char *text;
	char error[CURL_ERROR_SIZE];
};

static int begin(struct transfer *t, const struct cli *c, const char *path, const json_t *body, struct ql_err *e)
{
	char url[2048], auth[200];

	*t = (struct transfer){.curl = curl_easy_init()};
	if (t->curl == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for a connection");
	(void)snprintf(url, sizeof url, "%s%s", c->url, path);
	(void)curl_easy_setopt(t->curl, CURLOPT_URL, url);
	(void)curl_easy_setopt(t->curl, CURLOPT_ERRORBUFFER, t->error);
	(void)curl_easy_setopt(t->curl, CURLOPT_NOSIGNAL, 1L);
	(void)curl_easy_setopt(t->curl, CURLOPT_CONNECTTIMEOUT, 10L);
	if (c->socket[0] != '\0')
		(void)curl_easy_setopt(t->curl, CURLOPT_UNIX_SOCKET_PATH, c->socket);
	if (c->key[0] != '\0') {
		(void)snprintf(auth, sizeof auth, "Authorization: Bearer %s", c->key);
		t->headers = curl_slist_append(t->headers, auth);
	}
	t->headers = curl_slist_append(t->headers, "Expect:");
	if (body != NULL) {
		t->text = json_dumps(body, JSON_COMPACT);
		t->headers = curl_slist_append(t->headers, "Content-Type: application/json");
		(void)curl_easy_setopt(t->curl, CURLOPT_POSTFIELDS, t->text);
	}
	(void)curl_easy_setopt(t->curl, CURLOPT_HTTPHEADER, t->headers);
	return QL_OK;
}

static void end(struct transfer *t)
{
	curl_slist_free_all(t->headers);
	curl_easy_cleanup(t->curl);
	free(t->text);
}

static size_t collect(char *data, size_t size, size_t n, void *ctx)
{
	struct ql_buf *b = ctx;

	if (b->len + size * n > ANSWER_MAX || ql_buf_add(b, data, size * n) != QL_OK)
		return 0;
	return size * n;
}

static int server_error(long status, const struct ql_buf *b, struct ql_err *e)
{
	const char *message = NULL, *param = NULL;
	json_t *v = NULL;
	int code = status == 404 ? QL_ENOTFOUND : status == 503 || status == 429 ? QL_EBUSY : status >= 500 ? QL_EINTERNAL : QL_EINVAL;

	if (b->len > 0 && ql_json_parse(b->data, b->len, ANSWER_MAX, &v, NULL) == QL_OK) {
		const json_t *o = json_object_get(v, "error");

		message = json_string_value(json_object_get(o, "message"));
		param = json_string_value(json_object_get(o, "param"));
	}
	if (param != NULL)
		(void)ql_err_param(e, code, param, "%s (HTTP %ld, %s)", message != NULL ? message : "refused", status, param);
	else
		(void)ql_err_set(e, code, "%s (HTTP %ld)", message != NULL ? message : "refused", status);
	json_decref(v);
	return code;
}

static int perform(struct transfer *t, struct ql_buf *answer, struct ql_err *e)
{
	CURLcode cc;
	long status = 0;

	(void)curl_easy_setopt(t->curl, CURLOPT_WRITEFUNCTION, collect);
	(void)curl_easy_setopt(t->curl, CURLOPT_WRITEDATA, answer);
	cc = curl_easy_perform(t->curl);
	if (cc != CURLE_OK)
		return ql_err_set(e, QL_EIO, "%s", t->error[0] != '\0' ? t->error : curl_easy_strerror(cc));
	(void)curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
	return status >= 200 && status < 300 ? QL_OK : server_error(status, answer, e);
}

static int parse(const struct ql_buf *b, json_t **out, struct ql_err *e)
{
	if (out == NULL)
		return QL_OK;
	return ql_json_parse(b->data != NULL ? b->data : "", b->len, ANSWER_MAX, out, e);
}

int cli_call(const struct cli *c, const char *method, const char *path, const json_t *body, json_t **out, struct ql_err *e)
{
	struct ql_buf b = {0};
	struct transfer t;
	int rc = begin(&t, c, path, body, e);

	if (rc != QL_OK)
		return rc;
	if (strcmp(method, "POST") == 0 && body == NULL)
		(void)curl_easy_setopt(t.curl, CURLOPT_POSTFIELDS, "");
	(void)curl_easy_setopt(t.curl, CURLOPT_CUSTOMREQUEST, method);
	rc = perform(&t, &b, e);
	if (rc == QL_OK)
		rc = parse(&b, out, e);
	end(&t);
	ql_buf_free(&b);
	return rc;
}

int cli_upload(const struct cli *c, const char *file, json_t **out, struct ql_err *e)
{
	struct ql_buf b = {0};
	struct transfer t;
	curl_mime *form;
	curl_mimepart *p;
	int rc;

	if (access(file, R_OK) != 0)
		return ql_err_errno(e, "%s", file);
	rc = begin(&t, c, "/v1/files", NULL, e);
	if (rc != QL_OK)
		return rc;
	form = curl_mime_init(t.curl);
	p = curl_mime_addpart(form);
	(void)curl_mime_name(p, "purpose");
	(void)curl_mime_data(p, "fine-tune", CURL_ZERO_TERMINATED);
	p = curl_mime_addpart(form);
	(void)curl_mime_name(p, "file");
	(void)curl_mime_filedata(p, file);
	(void)curl_easy_setopt(t.curl, CURLOPT_MIMEPOST, form);
	rc = perform(&t, &b, e);
	if (rc == QL_OK)
		rc = parse(&b, out, e);
	curl_mime_free(form);
	end(&t);
	ql_buf_free(&b);
	return rc;
}

/* ---- streams ---------------------------------------------------------------------------------------------------------------- */

struct stream {
	struct ql_buf buf;
	bool (*data)(void *ctx, const json_t *event);
	void *ctx;
	CURL *curl;
	bool ended;
	struct ql_err *e;
	int rc;
};

/* One line of an event stream; only data lines matter here. */
static void take_line(struct stream *s, const char *line, size_t len)
{
	json_t *v = NULL;
	const char *message;

	if (len < 6 || memcmp(line, "data: ", 6) != 0)
		return;
	if (len == 12 && memcmp(line + 6, "[DONE]", 6) == 0) {
		s->ended = true;
		return;
	}
	s->rc = ql_json_parse(line + 6, len - 6, ANSWER_MAX, &v, s->e);
	if (s->rc == QL_OK) {
		message = json_string_value(json_object_get(json_object_get(v, "error"), "message"));
		if (message != NULL && json_object_get(v, "choices") == NULL && json_object_get(v, "object") == NULL)
			s->rc = ql_err_set(s->e, QL_EINTERNAL, "%s", message);
		else if (!s->data(s->ctx, v))
			s->ended = true;
	}
	json_decref(v);
}

static size_t on_stream(char *data, size_t size, size_t n, void *ctx)
{
	struct stream *s = ctx;
	long status = 0;
	char *nl;

	if (ql_buf_add(&s->buf, data, size * n) != QL_OK)
		return 0;
	(void)curl_easy_getinfo(s->curl, CURLINFO_RESPONSE_CODE, &status);
	if (status >= 300)
		return size * n;
	while (!s->ended && s->rc == QL_OK && s->buf.len > 0 && (nl = memchr(s->buf.data, '\n', s->buf.len)) != NULL) {
		size_t len = (size_t)(nl - s->buf.data);

		take_line(s, s->buf.data, len > 0 && nl[-1] == '\r' ? len - 1 : len);
		memmove(s->buf.data, nl + 1, s->buf.len - len - 1);
		s->buf.len -= len + 1;
	}
	return s->ended || s->rc != QL_OK ? 0 : size * n;
}

int cli_stream(const struct cli *c, const char *path, const json_t *body, bool (*data)(void *ctx, const json_t *event), void *ctx,
	       struct ql_err *e)
{
	struct stream s = {.data = data, .ctx = ctx, .e = e};
	struct transfer t;
	CURLcode cc;
	long status = 0;
	int rc = begin(&t, c, path, body, e);

	if (rc != QL_OK)
		return rc;
	s.curl = t.curl;
	(void)curl_easy_setopt(t.curl, CURLOPT_WRITEFUNCTION, on_stream);
	(void)curl_easy_setopt(t.curl, CURLOPT_WRITEDATA, &s);
	cc = curl_easy_perform(t.curl);
	(void)curl_easy_getinfo(t.curl, CURLINFO_RESPONSE_CODE, &status);
	if (s.rc != QL_OK)
		rc = s.rc;
	else if (status >= 300)
		rc = server_error(status, &s.buf, e);
	else if (!s.ended && cc != CURLE_OK)
		rc = ql_err_set(e, QL_EIO, "%s", t.error[0] != '\0' ? t.error : curl_easy_strerror(cc));
	end(&t);
	ql_buf_free(&s.buf);
	return rc;
}

/* ---- downloads ---------------------------------------------------------------------------------------------------------------- */

struct sink {
	FILE *f;
	struct ql_sha256 h;
};

static size_t on_bytes(char *data, size_t size, size_t n, void *ctx)
{
	struct sink *s = ctx;

	ql_sha256_add(&s->h, data, size * n);
	return fwrite(data, 1, size * n, s->f);
}

int cli_download(const struct cli *c, const char *path, const char *to, const char *sha256, struct ql_err *e)
{
	char tmp[4200], hex[65];
	struct transfer t;
	struct sink s;
	CURLcode cc;
	int rc;

	(void)snprintf(tmp, sizeof tmp, "%s.part", to);
	s.f = fopen(tmp, "wb");
	if (s.f == NULL)
		return ql_err_errno(e, "%s", tmp);
	rc = begin(&t, c, path, NULL, e);
	if (rc != QL_OK) {
		(void)fclose(s.f);
		return rc;
	}
	ql_sha256_init(&s.h);
	(void)curl_easy_setopt(t.curl, CURLOPT_FAILONERROR, 1L);
	(void)curl_easy_setopt(t.curl, CURLOPT_WRITEFUNCTION, on_bytes);
	(void)curl_easy_setopt(t.curl, CURLOPT_WRITEDATA, &s);
	cc = curl_easy_perform(t.curl);
	ql_sha256_end_hex(&s.h, hex);
	if (fclose(s.f) != 0)
		rc = ql_err_errno(e, "%s", tmp);
	else if (cc != CURLE_OK)
		rc = ql_err_set(e, QL_EIO, "%s", t.error[0] != '\0' ? t.error : curl_easy_strerror(cc));
	else if (sha256 != NULL && strcmp(hex, sha256) != 0)
		rc = ql_err_set(e, QL_EFORMAT, "%s arrived with another SHA-256 than the server announced", to);
	else if (rename(tmp, to) != 0)
		rc = ql_err_errno(e, "%s", to);
	if (rc != QL_OK)
		(void)unlink(tmp);
	end(&t);
	return rc;
}
