/* load.c - reads file, environment and flags into struct ql_config; see config.h. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "config/schema.h"
#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/limits.h"

/* Takes `// …` comments out of a JSON text, in place, leaving strings alone.  Newlines stay, so that offsets do too. */
static void strip_comments(char *s, size_t len)
{
	bool in_string = false;

	for (size_t i = 0; i < len; i++) {
		if (in_string) {
			if (s[i] == '\\')
				i++;
			else if (s[i] == '"')
				in_string = false;
		} else if (s[i] == '"') {
			in_string = true;
		} else if (s[i] == '/' && i + 1 < len && s[i + 1] == '/') {
			while (i < len && s[i] != '\n')
				s[i++] = ' ';
		}
	}
}

static int from_list(struct ql_config *c, const struct ql_setting *s, const json_t *v, const char *from, struct ql_err *e)
{
	int rc = ql_setting_set_text(c, s, "", false, from, e);
	json_t *item;
	size_t i;

	json_array_foreach(v, i, item) {
		if (rc != QL_OK)
			break;
		if (!json_is_string(item))
			return ql_err_param(e, QL_EINVAL, s->name, "%s: entries must be strings", from);
		rc = ql_setting_set_text(c, s, json_string_value(item), true, from, e);
	}
	return rc;
}

static int from_json(struct ql_config *c, const struct ql_setting *s, const json_t *v, const char *from, struct ql_err *e)
{
	char text[64];

	switch (s->type) {
	case QL_SET_STRING:
		if (!json_is_string(v))
			return ql_err_param(e, QL_EINVAL, s->name, "%s: must be a string", from);
		return ql_setting_set_text(c, s, json_string_value(v), false, from, e);
	case QL_SET_BOOL:
		if (!json_is_boolean(v))
			return ql_err_param(e, QL_EINVAL, s->name, "%s: must be true or false", from);
		return ql_setting_set_text(c, s, json_is_true(v) ? "true" : "false", false, from, e);
	case QL_SET_LIST:
		if (!json_is_array(v))
			return ql_err_param(e, QL_EINVAL, s->name, "%s: must be an array of strings", from);
		return from_list(c, s, v, from, e);
	default:
		if (json_is_integer(v))
			(void)snprintf(text, sizeof text, "%lld", (long long)json_integer_value(v));
		else if (json_is_real(v) && s->type == QL_SET_REAL)
			(void)snprintf(text, sizeof text, "%.17g", json_real_value(v));
		else
			return ql_err_param(e, QL_EINVAL, s->name, "%s: must be %s", from,
					    s->type == QL_SET_INT ? "an integer" : "a number");
		return ql_setting_set_text(c, s, text, false, from, e);
	}
}

static int load_file(struct ql_config *c, const char *path, struct ql_err *e)
{
	struct ql_buf text = {0};
	json_t *root = NULL, *v;
	const char *key;
	char from[128];
	int rc = ql_io_read_file(path, QL_CONFIG_JSON_MAX, &text, e);

	if (rc == QL_OK) {
		strip_comments(text.data == NULL ? (char[]){""} : text.data, text.len);
		rc = ql_json_parse(text.data == NULL ? "" : text.data, text.len, QL_CONFIG_JSON_MAX, &root, e);
	}
	if (rc == QL_OK && !json_is_object(root))
		rc = ql_err_set(e, QL_EFORMAT, "the settings must be one JSON object");
	if (rc == QL_OK)
		json_object_foreach(root, key, v) {
			const struct ql_setting *s = ql_setting_find(key);

			if (s == NULL) {
				rc = ql_err_param(e, QL_EINVAL, "config", "unknown key '%.60s'", key);
				break;
			}
			(void)snprintf(from, sizeof from, "key '%s'", key);
			if (!json_is_null(v) && (rc = from_json(c, s, v, from, e)) != QL_OK)
				break;
		}
	if (rc != QL_OK)
		(void)ql_err_prefix(e, "settings file %s", path);
	json_decref(root);
	ql_buf_free(&text);
	return rc;
}

/* QLORAD_KEY is the client's token, QLORAD_SERVER the client's server, QLORAD_CONFIG the file: not settings of serve. */
static bool is_other_variable(const char *name)
{
	static const char *const others[] = {"QLORAD_CONFIG", "QLORAD_KEY", "QLORAD_SERVER", "QLORAD_ENGINE_EXE"};

	for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
		if (strcmp(name, others[i]) == 0)
			return true;
	return strncmp(name, "QLORAD_TEST_", 12) == 0;
}

static int load_env(struct ql_config *c, char **env, struct ql_err *e)
{
	for (; env != NULL && *env != NULL; env++) {
		const char *eq = strchr(*env, '=');
		char name[96], key[96];
		const struct ql_setting *s;
		int rc;

		if (strncmp(*env, "QLORAD_", 7) != 0 || eq == NULL)
			continue;
		if ((size_t)(eq - *env) >= sizeof name)
			return ql_err_param(e, QL_EINVAL, "environment", "unknown setting %.90s… in the environment", *env);
		(void)snprintf(name, sizeof name, "%.*s", (int)(eq - *env), *env);
		if (is_other_variable(name))
			continue;
		for (size_t i = 0; i <= strlen(name + 7); i++)
			key[i] = (char)tolower((unsigned char)name[7 + i]);
		s = ql_setting_find(key);
		if (s == NULL)
			return ql_err_param(e, QL_EINVAL, "environment", "unknown setting %s in the environment", name);
		rc = ql_setting_set_text(c, s, eq + 1, false, name, e);
		if (rc != QL_OK)
			return rc;
	}
	return QL_OK;
}

static const struct ql_setting *flag_setting(const char *flag, size_t len)
{
	char name[96];

	if (len >= sizeof name)
		return NULL;
	for (size_t i = 0; i < len; i++)
		name[i] = flag[i] == '-' ? '_' : flag[i];
	name[len] = '\0';
	return memchr(flag, '_', len) != NULL ? NULL : ql_setting_find(name);
}

static int load_flags(struct ql_config *c, int argc, char **argv, bool *check, struct ql_err *e)
{
	bool seen[64] = {false};

	for (int i = 1; i < argc; i++) {
		const char *a = argv[i], *eq = strchr(a, '='), *value;
		size_t len = eq == NULL ? strlen(a) : (size_t)(eq - a);
		const struct ql_setting *s;
		bool again;
		int rc;

		if (strcmp(a, "--check-config") == 0) {
			*check = true;
			continue;
		}
		if (len == 8 && strncmp(a, "--config", 8) == 0) {
			if (eq == NULL && ++i >= argc)
				return ql_err_set(e, QL_EINVAL, "--config needs a value");
			continue;
		}
		s = strncmp(a, "--", 2) == 0 ? flag_setting(a + 2, len - 2) : NULL;
		if (s == NULL)
			return ql_err_param(e, QL_EINVAL, "flags", "unknown argument '%.80s'; see qlorad serve --help", a);
		if (eq != NULL)
			value = eq + 1;
		else if (s->type == QL_SET_BOOL)
			value = "true";
		else if (i + 1 < argc)
			value = argv[++i];
		else
			return ql_err_param(e, QL_EINVAL, s->name, "%s needs a value", a);
		again = seen[s - ql_settings];
		seen[s - ql_settings] = true;
		if (again && s->type != QL_SET_LIST)
			return ql_err_param(e, QL_EINVAL, s->name, "%.*s is given twice", (int)len, a);
		if (s->type == QL_SET_LIST && !again && (rc = ql_setting_set_text(c, s, "", false, a, e)) != QL_OK)
			return rc;
		rc = ql_setting_set_text(c, s, value, s->type == QL_SET_LIST, a, e);
		if (rc != QL_OK)
			return rc;
	}
	return QL_OK;
}

static const char *config_path(int argc, char **argv, char **env)
{
	const char *path = NULL;

	for (; env != NULL && *env != NULL; env++)
		if (strncmp(*env, "QLORAD_CONFIG=", 14) == 0)
			path = *env + 14;
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--config") == 0 && i + 1 < argc)
			path = argv[++i];
		else if (strncmp(argv[i], "--config=", 9) == 0)
			path = argv[i] + 9;
	}
	return path;
}

int ql_config_load(struct ql_config *c, int argc, char **argv, char **env, bool *check, bool *help, struct ql_err *e)
{
	const char *path = config_path(argc, argv, env);
	int rc = QL_OK;

	memset(c, 0, sizeof *c);
	*check = *help = false;
	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			*help = true;
			return QL_OK;
		}
	for (size_t i = 0; i < ql_settings_n && rc == QL_OK; i++)
		if (ql_settings[i].preset != NULL)
			rc = ql_setting_set_text(c, &ql_settings[i], ql_settings[i].preset, false, ql_settings[i].name, e);
	if (rc == QL_OK && path != NULL)
		rc = load_file(c, path, e);
	if (rc == QL_OK)
		rc = load_env(c, env, e);
	if (rc == QL_OK)
		rc = load_flags(c, argc, argv, check, e);
	if (rc == QL_OK)
		rc = ql_config_finish(c, env, e);
	if (rc != QL_OK)
		ql_config_free(c);
	return rc;
}

void ql_config_free(struct ql_config *c)
{
	for (size_t i = 0; i < ql_settings_n; i++) {
		char *at = (char *)c + ql_settings[i].offset;

		if (ql_settings[i].type == QL_SET_STRING) {
			free(*(char **)at);
		} else if (ql_settings[i].type == QL_SET_LIST) {
			struct ql_strings *l = (struct ql_strings *)at;

			while (l->n > 0)
				free(l->v[--l->n]);
			free(l->v);
		}
	}
	memset(c, 0, sizeof *c);
}
