/* tok_json_parts.c - normalizer, pre_tokenizer, post_processor and decoder of a tokenizer.json (kinds: tokenizers 0.23). */
#include <string.h>

#include "core/base/limits.h"
#include "core/text/tok_json.h"

const char *ql_tok_json_type(const json_t *v)
{
	const char *s = json_string_value(json_object_get(v, "type"));

	return s == NULL ? "" : s;
}

static bool is(const json_t *v, const char *type) { return strcmp(ql_tok_json_type(v), type) == 0; }

static int unsupported(const json_t *v, const char *what, struct ql_err *e)
{
	return ql_err_param(e, QL_EUNSUPPORTED, what, "%s '%.64s' is not supported", what, ql_tok_json_type(v));
}

/* The list in v[key], of at most QL_TOK_STEPS_MAX entries. */
static int list_of(const json_t *v, const char *key, const char *what, const json_t **out, struct ql_err *e)
{
	*out = json_object_get(v, key);
	if (!json_is_array(*out))
		return ql_err_param(e, QL_EFORMAT, what, "%s: '%s' must be a list", what, key);
	if (json_array_size(*out) > QL_TOK_STEPS_MAX)
		return ql_err_param(e, QL_ELIMIT, what, "%s: '%s' has more than %d entries", what, key, QL_TOK_STEPS_MAX);
	return QL_OK;
}

/* {"String": s} or {"Regex": s}. */
static int pattern_of(const json_t *v, const char *what, const char **text, size_t *len, bool *regex, struct ql_err *e)
{
	const json_t *p = json_object_get(v, "pattern"), *s = json_object_get(p, "String"), *r = json_object_get(p, "Regex");
	const json_t *x = s != NULL ? s : r;

	*regex = s == NULL;
	*text = json_string_value(x);
	*len = json_string_length(x);
	if (*text == NULL || *len == 0)
		return ql_err_param(e, QL_EFORMAT, what, "%s: 'pattern' must hold a String or a Regex, not empty", what);
	return QL_OK;
}

static int str_of(const json_t *v, const char *key, const char *what, const char **out, struct ql_err *e)
{
	int rc;

	*out = NULL;
	rc = ql_json_get_str(v, key, 0, QL_TOK_TOKEN_MAX, out, e);
	if (rc != QL_OK) {
		(void)ql_err_prefix(e, "%s", what);
		return rc;
	}
	return *out != NULL ? QL_OK : ql_err_param(e, QL_EFORMAT, what, "%s: '%s' is missing", what, key);
}

/* ---- normalizer */

static int replace(struct ql_norm *n, const json_t *v, struct ql_err *e)
{
	struct ql_regex *r = NULL;
	const char *text, *content;
	size_t len;
	bool regex;
	int rc = pattern_of(v, "normalizer", &text, &len, &regex, e);

	if (rc == QL_OK)
		rc = str_of(v, "content", "normalizer", &content, e);
	if (rc == QL_OK && regex)
		rc = ql_regex_new(&r, text, e);
	if (rc != QL_OK)
		return rc;
	return ql_norm_add(n, regex ? QL_NORM_REPLACE_REGEX : QL_NORM_REPLACE, text, content, r, e);
}

/* The recursion is bounded by QL_JSON_DEPTH_MAX, the number of steps by ql_norm_add. */
int ql_tok_json_normalizer(struct ql_norm *n, const json_t *v, struct ql_err *e)
{
	static const struct {
		const char *type;
		enum ql_norm_kind kind;
	} forms[] = {{"NFC", QL_NORM_NFC}, {"NFD", QL_NORM_NFD}, {"NFKC", QL_NORM_NFKC}, {"NFKD", QL_NORM_NFKD}};
	const json_t *list, *item;
	const char *s;
	size_t i;
	int rc;

	if (v == NULL || json_is_null(v))
		return QL_OK;
	if (is(v, "Sequence")) {
		rc = list_of(v, "normalizers", "normalizer", &list, e);
		if (rc == QL_OK)
			json_array_foreach(list, i, item)
				if ((rc = ql_tok_json_normalizer(n, item, e)) != QL_OK)
					break;
		return rc;
	}
	if (is(v, "Prepend")) {
		rc = str_of(v, "prepend", "normalizer", &s, e);
		return rc == QL_OK ? ql_norm_add(n, QL_NORM_PREPEND, s, NULL, NULL, e) : rc;
	}
	if (is(v, "Replace"))
		return replace(n, v, e);
	for (i = 0; i < sizeof forms / sizeof *forms; i++)
		if (is(v, forms[i].type))
			return ql_norm_add(n, forms[i].kind, NULL, NULL, NULL, e);
	return unsupported(v, "normalizer", e);
}

/* ---- pre_tokenizer */

static int behaviour_of(const json_t *v, enum ql_split *out, struct ql_err *e)
{
	static const char *const names[] = {
		[QL_SPLIT_REMOVED] = "Removed", [QL_SPLIT_ISOLATED] = "Isolated", [QL_SPLIT_MERGED_PREVIOUS] = "MergedWithPrevious",
		[QL_SPLIT_MERGED_NEXT] = "MergedWithNext", [QL_SPLIT_CONTIGUOUS] = "Contiguous",
	};
	const char *s;
	int rc = str_of(v, "behavior", "pre_tokenizer", &s, e);

	if (rc != QL_OK)
		return rc;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (strcmp(s, names[i]) == 0) {
			*out = (enum ql_split)i;
			return QL_OK;
		}
	return ql_err_param(e, QL_EUNSUPPORTED, "pre_tokenizer", "pre_tokenizer: behavior '%.64s' is not supported", s);
}

static int split(struct ql_tok *t, const json_t *v, struct ql_err *e)
{
	struct ql_pretok_step step = {.behaviour = QL_SPLIT_ISOLATED};
	const char *text;
	size_t len;
	bool regex;
	int rc = pattern_of(v, "pre_tokenizer", &text, &len, &regex, e);

	if (rc == QL_OK)
		rc = behaviour_of(v, &step.behaviour, e);
	if (rc == QL_OK)
		rc = ql_json_get_bool(v, "invert", &step.invert, e);
	if (rc != QL_OK)
		return rc;
	/* the known patterns match all of any text: what is between matches is empty, so keeping the matches by
	 * removing the rest is the same as isolating them */
	if (regex && ((step.behaviour == QL_SPLIT_ISOLATED) || (step.behaviour == QL_SPLIT_REMOVED && step.invert)))
		step.scan = ql_scan_for_pattern(text);
	if (step.scan == NULL)
		rc = regex ? ql_regex_new(&step.regex, text, e) : ql_regex_new_literal(&step.regex, text, len, e);
	return rc == QL_OK ? ql_pretok_add(&t->pretok, step, e) : rc;
}

static int scan(struct ql_tok *t, ql_scan_fn *fn, struct ql_err *e)
{
	struct ql_pretok *p = &t->pretok;

	if (fn == ql_scan_gpt2 && p->n > 0 && p->steps[p->n - 1].scan == ql_scan_digit) { /* the two in one pass */
		p->steps[p->n - 1].scan = ql_scan_smollm;
		return QL_OK;
	}
	return ql_pretok_add(p, (struct ql_pretok_step){.scan = fn, .behaviour = QL_SPLIT_ISOLATED}, e);
}

/* What changes the text must come before any split: then it is a normaliser. */
static int must_be_first(const struct ql_tok *t, const json_t *v, struct ql_err *e)
{
	if (t->pretok.n == 0 && t->pre_norm.n == 0)
		return QL_OK;
	return ql_err_param(e, QL_EUNSUPPORTED, "pre_tokenizer",
			    "pre_tokenizer '%.64s', where it changes the text, is supported only as the first", ql_tok_json_type(v));
}

static int byte_level(struct ql_tok *t, const json_t *v, struct ql_err *e)
{
	bool prefix = true, use_regex = true;
	int rc = ql_json_get_bool(v, "add_prefix_space", &prefix, e);

	if (rc == QL_OK)
		rc = ql_json_get_bool(v, "use_regex", &use_regex, e);
	if (rc == QL_OK && prefix) {
		rc = must_be_first(t, v, e);
		if (rc == QL_OK)
			rc = ql_norm_add(&t->pre_norm, QL_NORM_PREPEND_MISSING, " ", NULL, NULL, e);
	}
	return rc == QL_OK && use_regex ? scan(t, ql_scan_gpt2, e) : rc;
}

static int metaspace(struct ql_tok *t, const json_t *v, struct ql_err *e)
{
	const char *rep = QL_TOK_META, *scheme = NULL;
	bool legacy = true, cut = true;
	enum ql_norm_kind kind = QL_NORM_PREPEND_MISSING;
	int rc = must_be_first(t, v, e);

	if (rc == QL_OK)
		rc = ql_json_get_str(v, "replacement", 1, 4, &rep, e);
	if (rc == QL_OK)
		rc = ql_json_get_str(v, "prepend_scheme", 1, 16, &scheme, e);
	if (rc == QL_OK)
		rc = ql_json_get_bool(v, "add_prefix_space", &legacy, e);
	if (rc == QL_OK)
		rc = ql_json_get_bool(v, "split", &cut, e);
	if (rc != QL_OK)
		return rc;
	if (strcmp(rep, QL_TOK_META) != 0)
		return ql_err_param(e, QL_EUNSUPPORTED, "pre_tokenizer", "Metaspace: only the replacement U+2581 is supported");
	if (scheme == NULL)
		scheme = legacy ? "always" : "never";
	if (strcmp(scheme, "first") == 0)
		kind = QL_NORM_PREPEND_FIRST;
	else if (strcmp(scheme, "always") != 0 && strcmp(scheme, "never") != 0)
		return ql_err_param(e, QL_EUNSUPPORTED, "pre_tokenizer", "Metaspace: prepend_scheme '%s' is not supported", scheme);
	rc = ql_norm_add(&t->pre_norm, QL_NORM_REPLACE, " ", QL_TOK_META, NULL, e);
	if (rc == QL_OK && strcmp(scheme, "never") != 0)
		rc = ql_norm_add(&t->pre_norm, kind, QL_TOK_META, NULL, NULL, e);
	if (rc == QL_OK && cut) {
		struct ql_pretok_step step = {.behaviour = QL_SPLIT_MERGED_NEXT};

		rc = ql_regex_new_literal(&step.regex, QL_TOK_META, strlen(QL_TOK_META), e);
		if (rc == QL_OK)
			rc = ql_pretok_add(&t->pretok, step, e);
	}
	return rc;
}

int ql_tok_json_pre_tokenizer(struct ql_tok *t, const json_t *v, bool *bytes, struct ql_err *e)
{
	const json_t *list, *item;
	bool individual = false;
	size_t i;
	int rc;

	if (v == NULL || json_is_null(v))
		return QL_OK;
	if (is(v, "Sequence")) {
		rc = list_of(v, "pretokenizers", "pre_tokenizer", &list, e);
		if (rc == QL_OK)
			json_array_foreach(list, i, item)
				if ((rc = ql_tok_json_pre_tokenizer(t, item, bytes, e)) != QL_OK)
					break;
		return rc;
	}
	if (*bytes)
		return ql_err_param(e, QL_EUNSUPPORTED, "pre_tokenizer", "pre_tokenizer '%.64s' after ByteLevel is not supported",
				    ql_tok_json_type(v));
	if (is(v, "Split"))
		return split(t, v, e);
	if (is(v, "ByteLevel")) {
		*bytes = true;
		return byte_level(t, v, e);
	}
	if (is(v, "Digits")) {
		rc = ql_json_get_bool(v, "individual_digits", &individual, e);
		return rc == QL_OK ? scan(t, individual ? ql_scan_digit : ql_scan_digits, e) : rc;
	}
	if (is(v, "Metaspace"))
		return metaspace(t, v, e);
	return unsupported(v, "pre_tokenizer", e);
}

/* ---- post_processor */

static int template_ids(struct ql_tok *t, const json_t *specials, const char *name, bool before, struct ql_err *e)
{
	const json_t *ids = json_object_get(json_object_get(specials, name), "ids"), *v;
	int32_t *to = before ? t->prefix : t->suffix;
	size_t *n = before ? &t->n_prefix : &t->n_suffix, i;

	if (!json_is_array(ids))
		return ql_err_param(e, QL_EFORMAT, "post_processor", "TemplateProcessing: special token '%.64s' has no ids", name);
	json_array_foreach(ids, i, v) {
		json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;

		if (id < 0 || id >= (json_int_t)t->n)
			return ql_err_param(e, QL_EFORMAT, "post_processor", "TemplateProcessing: id of '%.64s' is not in the vocabulary",
					    name);
		if (*n == QL_TOK_AFFIX_MAX)
			return ql_err_param(e, QL_ELIMIT, "post_processor", "TemplateProcessing adds more than %d tokens", QL_TOK_AFFIX_MAX);
		to[(*n)++] = (int32_t)id;
	}
	return QL_OK;
}

static int template(struct ql_tok *t, const json_t *v, struct ql_err *e)
{
	const json_t *list, *item;
	bool before = true;
	size_t i;
	int rc = list_of(v, "single", "post_processor", &list, e);

	if (rc != QL_OK)
		return rc;
	json_array_foreach(list, i, item) {
		const char *name = json_string_value(json_object_get(json_object_get(item, "SpecialToken"), "id"));
		const char *sequence = json_string_value(json_object_get(json_object_get(item, "Sequence"), "id"));

		if (name != NULL)
			rc = template_ids(t, json_object_get(v, "special_tokens"), name, before, e);
		else if (sequence != NULL && strcmp(sequence, "A") == 0 && before)
			before = false;
		else
			rc = ql_err_param(e, QL_EFORMAT, "post_processor", "TemplateProcessing: entry %zu of 'single' is not understood", i);
		if (rc != QL_OK)
			return rc;
	}
	return before ? ql_err_param(e, QL_EFORMAT, "post_processor", "TemplateProcessing: 'single' leaves out the text") : QL_OK;
}

int ql_tok_json_post_processor(struct ql_tok *t, const json_t *v, struct ql_err *e)
{
	const json_t *list, *item;
	size_t i;
	int rc;

	if (v == NULL || json_is_null(v) || is(v, "ByteLevel")) /* ByteLevel moves offsets only */
		return QL_OK;
	if (is(v, "TemplateProcessing"))
		return t->n_prefix + t->n_suffix == 0
			       ? template(t, v, e)
			       : ql_err_param(e, QL_EUNSUPPORTED, "post_processor", "two TemplateProcessing are not supported");
	if (!is(v, "Sequence"))
		return unsupported(v, "post_processor", e);
	rc = list_of(v, "processors", "post_processor", &list, e);
	if (rc == QL_OK)
		json_array_foreach(list, i, item)
			if ((rc = ql_tok_json_post_processor(t, item, e)) != QL_OK)
				break;
	return rc;
}

/* ---- decoder */

static int strip(struct ql_tok_decoder *d, const json_t *v, struct ql_err *e)
{
	const char *content;
	int64_t start = 0, stop = 0;
	int rc = str_of(v, "content", "decoder", &content, e);

	if (rc == QL_OK)
		rc = ql_json_get_int(v, "start", 0, 16, &start, e);
	if (rc == QL_OK)
		rc = ql_json_get_int(v, "stop", 0, 16, &stop, e);
	if (rc != QL_OK)
		return rc;
	if (strcmp(content, " ") != 0 || stop != 0)
		return ql_err_param(e, QL_EUNSUPPORTED, "decoder", "decoder Strip is supported for leading spaces only");
	d->strip = (uint8_t)start;
	return QL_OK;
}

static int decoder_metaspace(struct ql_tok_decoder *d, const json_t *v, struct ql_err *e)
{
	const char *scheme = "always", *rep = QL_TOK_META;
	bool legacy = true;
	int rc = ql_json_get_str(v, "prepend_scheme", 1, 16, &scheme, e);

	if (rc == QL_OK)
		rc = ql_json_get_str(v, "replacement", 1, 4, &rep, e);
	if (rc == QL_OK)
		rc = ql_json_get_bool(v, "add_prefix_space", &legacy, e);
	if (rc != QL_OK)
		return rc;
	if (strcmp(rep, QL_TOK_META) != 0)
		return ql_err_param(e, QL_EUNSUPPORTED, "decoder", "Metaspace: only the replacement U+2581 is supported");
	d->meta = true;
	d->strip = strcmp(scheme, "never") != 0 && legacy;
	return QL_OK;
}

static int decoder_replace(struct ql_tok_decoder *d, const json_t *v, struct ql_err *e)
{
	const char *text, *content;
	size_t len;
	bool regex;
	int rc = pattern_of(v, "decoder", &text, &len, &regex, e);

	if (rc == QL_OK)
		rc = str_of(v, "content", "decoder", &content, e);
	if (rc != QL_OK)
		return rc;
	if (regex || strcmp(text, QL_TOK_META) != 0 || strcmp(content, " ") != 0)
		return ql_err_param(e, QL_EUNSUPPORTED, "decoder", "decoder Replace is supported for U+2581 by a space only");
	d->meta = true;
	return QL_OK;
}

int ql_tok_json_decoder(struct ql_tok_decoder *d, const json_t *v, struct ql_err *e)
{
	const json_t *list, *item;
	size_t i;
	int rc;

	if (v == NULL || json_is_null(v))
		return ql_err_param(e, QL_EUNSUPPORTED, "decoder", "a tokenizer without a decoder is not supported");
	if (is(v, "ByteLevel")) {
		d->bytes = true;
		return QL_OK;
	}
	if (is(v, "ByteFallback")) {
		d->fallback = true;
		return QL_OK;
	}
	if (is(v, "Fuse"))
		return QL_OK;
	if (is(v, "Replace"))
		return decoder_replace(d, v, e);
	if (is(v, "Strip"))
		return strip(d, v, e);
	if (is(v, "Metaspace"))
		return decoder_metaspace(d, v, e);
	if (!is(v, "Sequence"))
		return unsupported(v, "decoder", e);
	rc = list_of(v, "decoders", "decoder", &list, e);
	if (rc == QL_OK)
		json_array_foreach(list, i, item)
			if ((rc = ql_tok_json_decoder(d, item, e)) != QL_OK)
				break;
	return rc;
}
