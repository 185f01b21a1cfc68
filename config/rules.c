/* rules.c - defaults that depend on the environment, and the rules between settings. */
#include <arpa/inet.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "config/schema.h"

static const char *variable(char **env, const char *name)
{
	size_t n = strlen(name);

	for (; env != NULL && *env != NULL; env++)
		if (strncmp(*env, name, n) == 0 && (*env)[n] == '=' && (*env)[n + 1] != '\0')
			return *env + n + 1;
	return NULL;
}

/* "host:port" or "[v6]:port" → parts; false if it is neither. */
static bool split_address(const char *listen, char host[64], long *port)
{
	const char *colon = strrchr(listen, ':');
	size_t n;
	char *end;

	if (colon == NULL || colon == listen)
		return false;
	n = (size_t)(colon - listen);
	if (listen[0] == '[') {
		if (listen[n - 1] != ']' || n < 3)
			return false;
		listen++;
		n -= 2;
	} else if (memchr(listen, ':', n) != NULL) {
		return false;
	}
	if (n >= 64 || !isdigit((unsigned char)colon[1]))
		return false;
	memcpy(host, listen, n);
	host[n] = '\0';
	*port = strtol(colon + 1, &end, 10);
	return *end == '\0' && *port >= 0 && *port <= 65535;
}

bool ql_config_is_local(const char *listen)
{
	struct in6_addr six;
	struct in_addr four;
	char host[64];
	long port;

	if (strncmp(listen, "unix:", 5) == 0)
		return true;
	if (!split_address(listen, host, &port))
		return false;
	if (strcmp(host, "localhost") == 0)
		return true;
	if (inet_pton(AF_INET, host, &four) == 1)
		return (ntohl(four.s_addr) >> 24) == 127;
	return inet_pton(AF_INET6, host, &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six);
}

static int check_listen(const struct ql_config *c, const char *listen, struct ql_err *e)
{
	struct in6_addr six;
	struct in_addr four;
	char host[64];
	long port;

	if (strncmp(listen, "unix:", 5) == 0) {
		if (listen[5] != '/' || strlen(listen + 5) >= sizeof((struct sockaddr_un *)0)->sun_path)
			return ql_err_param(e, QL_EINVAL, "listen", "listen: '%.120s': the socket needs an absolute path of at most 107 bytes", listen);
		return QL_OK;
	}
	if (!split_address(listen, host, &port))
		return ql_err_param(e, QL_EINVAL, "listen", "listen: '%.120s' is neither address:port nor unix:/path", listen);
	if (strcmp(host, "localhost") != 0 && inet_pton(AF_INET, host, &four) != 1 && inet_pton(AF_INET6, host, &six) != 1)
		return ql_err_param(e, QL_EINVAL, "listen", "listen: '%.60s' is not an IP address", host);
	if (!ql_config_is_local(listen) && c->no_auth)
		return ql_err_param(e, QL_EINVAL, "no_auth", "no_auth is refused with listen '%.60s': it is not a loopback address", listen);
	if (!ql_config_is_local(listen) && !c->allow_remote)
		return ql_err_param(e, QL_EINVAL, "listen", "listen '%.60s' is not a loopback address: set allow_remote, and put TLS in front", listen);
	return QL_OK;
}

static bool name_ok(const char *s)
{
	if (!isalnum((unsigned char)s[0]) || strlen(s) > 128)
		return false;
	for (; *s != '\0'; s++)
		if (!isalnum((unsigned char)*s) && strchr("._/-", *s) == NULL)
			return false;
	return true;
}

static int check_names(const struct ql_config *c, struct ql_err *e)
{
	if (c->model_name != NULL && !name_ok(c->model_name))
		return ql_err_param(e, QL_EINVAL, "model_name", "model_name: letters, digits and . _ / - only, a letter or digit first");
	for (size_t i = 0; i < c->aliases.n; i++)
		if (!name_ok(c->aliases.v[i]))
			return ql_err_param(e, QL_EINVAL, "aliases", "aliases: '%.80s': letters, digits and . _ / - only", c->aliases.v[i]);
	for (size_t i = 0; i < c->origins.n; i++)
		if (strncmp(c->origins.v[i], "http://", 7) != 0 && strncmp(c->origins.v[i], "https://", 8) != 0)
			return ql_err_param(e, QL_EINVAL, "origins", "origins: '%.80s' must start with http:// or https://", c->origins.v[i]);
	return QL_OK;
}

static bool device_ok(const char *s)
{
	if (strcmp(s, "auto") == 0 || strcmp(s, "cpu") == 0 || strcmp(s, "cuda") == 0)
		return true;
	if (strncmp(s, "cuda:", 5) != 0 || s[5] == '\0' || strlen(s + 5) > 2)
		return false;
	for (s += 5; *s != '\0'; s++)
		if (!isdigit((unsigned char)*s))
			return false;
	return true;
}

static int default_state_dir(struct ql_config *c, char **env, struct ql_err *e)
{
	const char *systemd = variable(env, "STATE_DIRECTORY"), *xdg = variable(env, "XDG_STATE_HOME"), *home = variable(env, "HOME");
	char path[4096];

	if (systemd != NULL)
		(void)snprintf(path, sizeof path, "%.*s", (int)strcspn(systemd, ":"), systemd);
	else if (xdg != NULL)
		(void)snprintf(path, sizeof path, "%s/qlorad", xdg);
	else if (home != NULL)
		(void)snprintf(path, sizeof path, "%s/.local/state/qlorad", home);
	else
		return ql_err_param(e, QL_EINVAL, "state_dir", "state_dir is not set and there is no HOME");
	return ql_setting_set_text(c, ql_setting_find("state_dir"), path, false, "state_dir", e);
}

int ql_config_finish(struct ql_config *c, char **env, struct ql_err *e)
{
	const char *runtime = variable(env, "RUNTIME_DIRECTORY");
	char listen[4200];
	int rc = QL_OK;

	if (c->base == NULL)
		return ql_err_param(e, QL_EINVAL, "base", "no base model: give --base PATH (a GGUF file or a Hugging Face directory)");
	if (!device_ok(c->device))
		return ql_err_param(e, QL_EINVAL, "device", "device: '%s' is none of auto, cpu, cuda, cuda:N", c->device);
	if (c->state_dir == NULL && (rc = default_state_dir(c, env, e)) != QL_OK)
		return rc;
	if (c->listen.n == 0 && variable(env, "LISTEN_FDS") == NULL) { /* passed sockets are enough */
		if (runtime != NULL)
			(void)snprintf(listen, sizeof listen, "unix:%.*s/api.sock", (int)strcspn(runtime, ":"), runtime);
		else
			(void)snprintf(listen, sizeof listen, "127.0.0.1:8177");
		rc = ql_setting_set_text(c, ql_setting_find("listen"), listen, true, "listen", e);
	}
	for (size_t i = 0; i < c->listen.n && rc == QL_OK; i++)
		rc = check_listen(c, c->listen.v[i], e);
	return rc == QL_OK ? check_names(c, e) : rc;
}
