/* text.c - the settings for people: --help, the commented example, and the effective values. */
#include <string.h>

#include "config/schema.h"
#include "core/base/json.h"

static const char *const type_names[] = {"TEXT", "N", "NUMBER", "true|false", "TEXT, repeatable"};

static void put_flag(FILE *out, const char *name)
{
	for (; *name != '\0'; name++)
		(void)fputc(*name == '_' ? '-' : *name, out);
}

static void put_facts(FILE *out, const struct ql_setting *s)
{
	if (s->type == QL_SET_INT || s->type == QL_SET_REAL)
		(void)fprintf(out, " (%.15g..%.15g, default %s)", s->min, s->max, s->preset);
	else if (s->words != NULL)
		(void)fprintf(out, " (%s, default %s)", s->words, s->preset);
	else if (s->preset != NULL)
		(void)fprintf(out, " (default %s)", s->preset);
}

void ql_config_help(FILE *out)
{
	(void)fputs("usage: qlorad serve --base PATH [--config FILE] [--check-config] [options]\n\n"
		    "Serves the HTTP API. Each option is also a key of the JSON file named by --config (snake_case) and a\n"
		    "variable QLORAD_… (upper case). Flags win over the environment, the environment over the file.\n\n",
		    out);
	for (size_t i = 0; i < ql_settings_n; i++) {
		(void)fputs("  --", out);
		put_flag(out, ql_settings[i].name);
		if (ql_settings[i].type != QL_SET_BOOL)
			(void)fprintf(out, " %s", type_names[ql_settings[i].type]);
		(void)fprintf(out, "\n      %s", ql_settings[i].help);
		put_facts(out, &ql_settings[i]);
		(void)fputc('\n', out);
	}
	(void)fputs("  --config FILE\n      JSON file with settings (see qlorad config-example)\n"
		    "  --check-config\n      check the settings, print them and exit\n",
		    out);
}

static void put_example_value(FILE *out, const struct ql_setting *s)
{
	if (strcmp(s->name, "base") == 0)
		(void)fputs("\"/srv/models/model.gguf\"", out);
	else if (s->preset == NULL)
		(void)fputs(s->type == QL_SET_LIST ? "[]" : "null", out);
	else if (s->type == QL_SET_STRING)
		(void)fprintf(out, "\"%s\"", s->preset);
	else
		(void)fputs(s->preset, out);
}

void ql_config_example(FILE *out)
{
	(void)fputs("// Settings of `qlorad serve --config THIS_FILE`. Every key is optional except base; null or [] means the default.\n{\n", out);
	for (size_t i = 0; i < ql_settings_n; i++) {
		(void)fprintf(out, "  // %s", ql_settings[i].help);
		put_facts(out, &ql_settings[i]);
		(void)fprintf(out, "\n  \"%s\": ", ql_settings[i].name);
		put_example_value(out, &ql_settings[i]);
		(void)fputs(i + 1 < ql_settings_n ? ",\n" : "\n", out);
	}
	(void)fputs("}\n", out);
}

static json_t *value_json(const struct ql_config *c, const struct ql_setting *s)
{
	const char *at = (const char *)c + s->offset;
	const struct ql_strings *l = (const struct ql_strings *)(const void *)at;
	const char *text = NULL;
	json_t *list;

	switch (s->type) {
	case QL_SET_STRING:
		memcpy(&text, at, sizeof text);
		return text == NULL ? json_null() : json_string(text);
	case QL_SET_INT:
		return json_integer(*(const int64_t *)(const void *)at);
	case QL_SET_REAL:
		return json_real(*(const double *)(const void *)at);
	case QL_SET_BOOL:
		return json_boolean(*(const bool *)at);
	default:
		list = json_array();
		for (size_t i = 0; i < l->n; i++)
			(void)json_array_append_new(list, json_string(l->v[i]));
		return list;
	}
}

void ql_config_print(const struct ql_config *c, FILE *out)
{
	json_t *o = json_object();

	for (size_t i = 0; i < ql_settings_n; i++)
		(void)json_object_set_new(o, ql_settings[i].name, value_json(c, &ql_settings[i]));
	(void)json_dumpf(o, out, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
	(void)fputc('\n', out);
	json_decref(o);
}
