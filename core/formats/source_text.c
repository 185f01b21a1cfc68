/* source_text.c - what a base model says about itself in words: display name, chat template, and its hash. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/limits.h"
#include "core/base/utf8.h"
#include "core/formats/source_priv.h"
#include "core/formats/tokenizer_config.h"

#define NAME_MAX_BYTES 200

/* The last part of the real path, without ".gguf". */
static int name_from_path(struct ql_source *s, struct ql_err *e)
{
	char *real = realpath(s->path, NULL), *base;
	size_t n;

	if (real == NULL)
		return ql_err_errno(e, "resolve path");
	base = strrchr(real, '/');
	base = base != NULL && base[1] != '\0' ? base + 1 : real;
	n = strlen(base);
	if (s->dir == NULL && n > 5 && strcmp(base + n - 5, ".gguf") == 0)
		base[n - 5] = '\0';
	if (!ql_utf8_valid(base, strlen(base), NULL))
		base = (char *)(uintptr_t) "base";
	s->name = strdup(base);
	free(real);
	return s->name == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for a name") : QL_OK;
}

static int load_name(struct ql_source *s, struct ql_err *e)
{
	struct ql_gguf_str v = {NULL, 0};
	int rc = s->g != NULL ? ql_gguf_get_str(s->g, "general.name", false, &v, e) : QL_OK;

	if (rc != QL_OK)
		return rc;
	if (v.len == 0 || memchr(v.s, 0, v.len) != NULL || !ql_utf8_valid(v.s, v.len, NULL))
		return name_from_path(s, e);
	s->name = strndup(v.s, ql_utf8_whole(v.s, v.len < NAME_MAX_BYTES ? v.len : NAME_MAX_BYTES));
	return s->name == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for a name") : QL_OK;
}

static int set_template(char **out, size_t *out_len, const char *text, size_t len, struct ql_err *e)
{
	size_t bad;

	if (len > QL_TMPL_SOURCE_MAX)
		return ql_err_set(e, QL_ELIMIT, "chat template of %zu bytes, more than %zu", len, QL_TMPL_SOURCE_MAX);
	if (!ql_utf8_valid(text, len, &bad))
		return ql_err_at(e, QL_EFORMAT, bad, "chat template is not UTF-8");
	*out = malloc(len + 1);
	if (*out == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for the chat template");
	memcpy(*out, text, len);
	(*out)[len] = '\0';
	*out_len = len;
	return QL_OK;
}

/* tokenizer_config.json's chat_template: a string, which is "default", or [{"name","template"}]. */
static const json_t *pick_template(const json_t *cfg, const char *wanted)
{
	const json_t *v = json_object_get(cfg, "chat_template"), *item;
	size_t i;

	if (!json_is_array(v))
		return strcmp(wanted, "default") == 0 ? v : NULL;
	json_array_foreach(v, i, item) {
		const char *name = json_string_value(json_object_get(item, "name"));

		if (name != NULL && strcmp(name, wanted) == 0)
			return json_object_get(item, "template");
	}
	return NULL;
}

static int take_template(const json_t *cfg, const char *wanted, char **out, size_t *out_len, struct ql_err *e)
{
	const json_t *v = pick_template(cfg, wanted);

	if (json_is_string(v))
		return set_template(out, out_len, json_string_value(v), json_string_length(v), e);
	if (v != NULL && !json_is_null(v))
		return ql_err_param(e, QL_EFORMAT, "chat_template", "tokenizer_config.json: chat_template is not a string");
	return QL_OK;
}

static int template_from_config(struct ql_source *s, const struct ql_buf *text, struct ql_err *e)
{
	json_t *cfg = NULL;
	int rc = ql_tokenizer_config_parse(text->data, text->len, &cfg, e);

	if (rc == QL_OK)
		rc = take_template(cfg, "default", &s->tmpl, &s->tmpl_len, e);
	if (rc == QL_OK)
		rc = take_template(cfg, "tool_use", &s->tool_tmpl, &s->tool_tmpl_len, e);
	json_decref(cfg);
	return rc;
}

/* Reads an optional file of the directory; *found tells. */
static int read_optional(const struct ql_source *s, const char *name, size_t max, struct ql_buf *out, bool *found,
			 struct ql_err *e)
{
	char *path = ql_source_join(s->dir, name);
	int rc = path == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for a path") : ql_io_read_file(path, max, out, e);

	free(path);
	*found = rc == QL_OK;
	return rc == QL_ENOTFOUND ? QL_OK : rc;
}

static int load_template(struct ql_source *s, struct ql_err *e)
{
	struct ql_gguf_str v = {NULL, 0};
	struct ql_buf text = {0};
	bool found = false;
	int rc;

	if (s->g != NULL) {
		rc = ql_gguf_get_str(s->g, "tokenizer.chat_template", false, &v, e);
		if (rc == QL_OK && v.len > 0)
			rc = set_template(&s->tmpl, &s->tmpl_len, v.s, v.len, e);
		v.len = 0;
		if (rc == QL_OK)
			rc = ql_gguf_get_str(s->g, "tokenizer.chat_template.tool_use", false, &v, e);
		return rc != QL_OK || v.len == 0 ? rc : set_template(&s->tool_tmpl, &s->tool_tmpl_len, v.s, v.len, e);
	}
	rc = read_optional(s, "chat_template.jinja", QL_TMPL_SOURCE_MAX, &text, &found, e);
	if (rc == QL_OK && found) {
		rc = set_template(&s->tmpl, &s->tmpl_len, text.data, text.len, e);
		ql_buf_reset(&text);
		if (rc == QL_OK)
			rc = read_optional(s, "additional_chat_templates/tool_use.jinja", QL_TMPL_SOURCE_MAX, &text, &found, e);
		if (rc == QL_OK && found)
			rc = set_template(&s->tool_tmpl, &s->tool_tmpl_len, text.data, text.len, e);
	} else if (rc == QL_OK) {
		rc = read_optional(s, "tokenizer_config.json", QL_TOKENIZER_CONFIG_MAX, &text, &found, e);
		if (rc == QL_OK && found)
			rc = template_from_config(s, &text, e);
	}
	ql_buf_free(&text);
	return rc;
}

int ql_source_load_text(struct ql_source *s, struct ql_err *e)
{
	int rc = load_name(s, e);

	return rc == QL_OK ? load_template(s, e) : rc;
}
