/* client.h - the HTTP side of the client sub-commands: one server, one token, libcurl.
 *
 * Server: http://host:port or unix:/path/to/api.sock.  Errors of the server come back as QL_ codes with its message and
 * param; nothing is retried except a 503 while the engine loads (told with Retry-After). */
#ifndef QL_CLI_CLIENT_H
#define QL_CLI_CLIENT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "core/base/err.h"

struct cli {
	char url[512];	  /* without trailing slash, e.g. "http://127.0.0.1:8177" */
	char socket[256]; /* UNIX socket path or "" */
	char key[128];	  /* bearer token or "" */
	bool json;	  /* --json: print the server's objects */
};

/* Takes the common options (--server, --key, --key-file, --state-dir, --json) out of argv; *argc is what is left.  Defaults: environment
 * QLORAD_SERVER, QLORAD_KEY; then http://127.0.0.1:8177 and STATE/admin.token of QLORAD_STATE_DIR or --state-dir. */
int cli_init(struct cli *c, int *argc, char **argv, struct ql_err *e);

/* Sends body (NULL: none; a reference is not taken) and parses the JSON answer into *out (may be NULL). */
int cli_call(const struct cli *c, const char *method, const char *path, const json_t *body, json_t **out, struct ql_err *e);
/* multipart/form-data with fields purpose and file. */
int cli_upload(const struct cli *c, const char *file, json_t **out, struct ql_err *e);
/* Server-sent events: `data` is called with each JSON object; returning false ends the stream quietly.  body NULL: GET. */
int cli_stream(const struct cli *c, const char *path, const json_t *body, bool (*data)(void *ctx, const json_t *event), void *ctx,
	       struct ql_err *e);
/* Bytes into a file, written beside it and renamed when whole and of the expected SHA-256. */
int cli_download(const struct cli *c, const char *path, const char *to, const char *sha256, struct ql_err *e);

/* Option parsing: value of "--name VALUE" or "--name=VALUE", removed from argv; NULL if absent.  QL_EINVAL if the value is missing
 * is reported through *bad. */
const char *cli_option(int *argc, char **argv, const char *name, const char **bad);
bool cli_flag(int *argc, char **argv, const char *name);
/* The first argument that still looks like an option, or NULL. */
const char *cli_unknown(int argc, char **argv);

#endif
