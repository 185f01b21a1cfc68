/* tok_json.c - ql_tok_from_json: HF's tokenizer.json (a BPE model) and what of tokenizer_config.json decides ids. */
#include <stdlib.h>
#include <string.h>

#include "core/base/limits.h"
#include "core/text/tok_json.h"

/* ---- model.vocab */

static int vocab_size(struct ql_tok_loader *l, size_t *n)
{
	const char *key;
	json_t *v;
	size_t i;

	*n = 0;
	json_object_foreach((json_t *)l->vocab, key, v) {
		json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;

		if (id < 0 || id >= QL_VOCAB_MAX)
			return ql_err_param(l->e, QL_EFORMAT, "model.vocab", "the id of token '%.64s' is not a number from 0 to %d", key,
					    QL_VOCAB_MAX - 1);
		if ((size_t)id >= *n)
			*n = (size_t)id + 1;
	}
	json_array_foreach(l->added, i, v) {
		const json_t *idv = json_object_get(v, "id");
		json_int_t id = json_is_integer(idv) ? json_integer_value(idv) : -1;

		if (id < 0 || id >= QL_VOCAB_MAX)
			return ql_err_param(l->e, QL_EFORMAT, "added_tokens", "the id of added token %zu is not a number from 0 to %d", i,
					    QL_VOCAB_MAX - 1);
		if ((size_t)id >= *n)
			*n = (size_t)id + 1;
	}
	return QL_OK;
}

static int read_names(struct ql_tok_loader *l)
{
	const char *key;
	size_t key_len;
	json_t *v;

	l->names = calloc(l->t->n, sizeof *l->names);
	l->texts = calloc(l->t->n, sizeof *l->texts);
	l->pieces = calloc(l->t->n, sizeof *l->pieces);
	if (l->names == NULL || l->texts == NULL || l->pieces == NULL)
		return ql_err_set(l->e, QL_ENOMEM, "no memory for the vocabulary");
	json_object_keylen_foreach((json_t *)l->vocab, key, key_len, v) {
		struct ql_tok_str *s = &l->names[json_integer_value(v)];

		if (s->p != NULL)
			return ql_err_param(l->e, QL_EFORMAT, "model.vocab", "tokens '%.64s' and '%.64s' have the same id %lld", s->p, key,
					    (long long)json_integer_value(v));
		*s = (struct ql_tok_str){key, key_len};
		l->names_len += key_len;
	}
	return QL_OK;
}

/* ---- added_tokens */

static int add_one(struct ql_tok_loader *l, size_t i, const json_t *v)
{
	struct ql_added a = {.id = (int32_t)json_integer_value(json_object_get(v, "id"))};
	const json_t *known;
	const char *text = NULL;
	int rc = ql_json_get_str(v, "content", 0, QL_TOK_TOKEN_MAX, &text, l->e);

	if (rc == QL_OK)
		rc = ql_json_get_bool(v, "special", &a.special, l->e);
	a.normalized = !a.special;
	if (rc == QL_OK)
		rc = ql_json_get_bool(v, "normalized", &a.normalized, l->e);
	if (rc == QL_OK)
		rc = ql_json_get_bool(v, "single_word", &a.single_word, l->e);
	if (rc == QL_OK)
		rc = ql_json_get_bool(v, "lstrip", &a.lstrip, l->e);
	if (rc == QL_OK)
		rc = ql_json_get_bool(v, "rstrip", &a.rstrip, l->e);
	if (rc != QL_OK) {
		(void)ql_err_prefix(l->e, "added token %zu", i);
		return rc;
	}
	if (text == NULL || *text == '\0')
		return QL_OK;
	a.text = (char *)text;
	a.len = strlen(text);
	known = json_object_get(l->vocab, text);
	if ((known != NULL && json_integer_value(known) != a.id) || (known == NULL && l->names[a.id].p != NULL))
		return ql_err_param(l->e, QL_EFORMAT, "added_tokens", "added token '%.64s' has id %d, which is not its id in the vocabulary",
				    text, (int)a.id);
	l->pieces[a.id] = (struct ql_tok_str){a.text, a.len};
	return ql_tok_add(l->t, &a, l->e);
}

static int add_all(struct ql_tok_loader *l)
{
	json_t *v;
	size_t i;
	int rc = QL_OK;

	json_array_foreach(l->added, i, v) {
		rc = add_one(l, i, v);
		if (rc != QL_OK)
			break;
	}
	return rc;
}

/* tokenizer.json's own list, else the table of tokenizer_config.json turned into one. */
static int find_added(struct ql_tok_loader *l, json_t **made)
{
	const json_t *list = json_object_get(l->root, "added_tokens");
	json_t *table = json_object_get(l->config, "added_tokens_decoder"), *v;
	const char *key;

	if (list != NULL && !json_is_null(list) && !json_is_array(list))
		return ql_err_param(l->e, QL_EFORMAT, "added_tokens", "'added_tokens' must be a list");
	l->added = list;
	if (json_array_size(list) > 0 || !json_is_object(table))
		return QL_OK;
	*made = json_array();
	json_object_foreach(table, key, v) {
		json_t *copy = json_copy(v);
		char *end;
		long id = strtol(key, &end, 10);

		if (copy == NULL || *end != '\0' || json_object_set_new(copy, "id", json_integer(id)) != 0 ||
		    json_array_append_new(*made, copy) != 0)
			return ql_err_param(l->e, QL_EFORMAT, "added_tokens_decoder", "entry '%.64s' is not understood", key);
	}
	l->added = *made;
	return QL_OK;
}

/* ---- model */

static int must_be_empty(const struct ql_tok_loader *l, const char *key)
{
	const char *s = "";
	int rc = ql_json_get_str(l->model, key, 0, 64, &s, l->e);

	if (rc != QL_OK)
		return rc;
	return *s == '\0' ? QL_OK : ql_err_param(l->e, QL_EUNSUPPORTED, key, "model: '%s' is not supported", key);
}

static int check_model(struct ql_tok_loader *l)
{
	double dropout = 0;
	int rc;

	l->model = json_object_get(l->root, "model");
	l->vocab = json_object_get(l->model, "vocab");
	if (!json_is_object(l->model))
		return ql_err_param(l->e, QL_EFORMAT, "model", "'model' must be an object");
	if (json_object_get(l->model, "type") != NULL && strcmp(ql_tok_json_type(l->model), "BPE") != 0)
		return ql_err_param(l->e, QL_EUNSUPPORTED, "model.type", "tokenizer model '%.64s' is not supported",
				    ql_tok_json_type(l->model));
	if (!json_is_object(l->vocab))
		return ql_err_param(l->e, QL_EFORMAT, "model.vocab", "'vocab' must be an object");
	rc = ql_json_get_num(l->model, "dropout", 0, 1, &dropout, l->e);
	if (rc == QL_OK && dropout != 0)
		rc = ql_err_param(l->e, QL_EUNSUPPORTED, "model.dropout", "model: 'dropout' is not supported");
	if (rc == QL_OK)
		rc = must_be_empty(l, "continuing_subword_prefix");
	return rc == QL_OK ? must_be_empty(l, "end_of_word_suffix") : rc;
}

static int model_flags(struct ql_tok_loader *l)
{
	struct ql_bpe *b = &l->t->bpe;
	const char *unk = NULL;
	int rc = ql_json_get_bool(l->model, "fuse_unk", &b->fuse_unk, l->e);

	if (rc == QL_OK)
		rc = ql_json_get_bool(l->model, "byte_fallback", &b->byte_fallback, l->e);
	if (rc == QL_OK)
		rc = ql_json_get_bool(l->model, "ignore_merges", &b->ignore_merges, l->e);
	if (rc == QL_OK)
		rc = ql_json_get_str(l->model, "unk_token", 1, QL_TOK_TOKEN_MAX, &unk, l->e);
	if (rc != QL_OK || unk == NULL)
		return rc;
	b->unk = (int32_t)ql_tok_json_id(l, unk, strlen(unk));
	l->t->unk = b->unk;
	return b->unk >= 0 ? QL_OK : ql_err_param(l->e, QL_EFORMAT, "model.unk_token", "'%.64s' is not in the vocabulary", unk);
}

/* ---- tokenizer_config.json */

static int config_token(const struct ql_tok_loader *l, const char *key, int32_t *out)
{
	const json_t *v = json_object_get(l->config, key);
	const char *s = json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);

	if (v == NULL || json_is_null(v))
		return QL_OK;
	if (s == NULL)
		return ql_err_param(l->e, QL_EFORMAT, key, "'%s' must be a string or an object with 'content'", key);
	if (*s == '\0')
		return QL_OK;
	for (size_t i = 0; i < l->t->n_added; i++)
		if (strcmp(l->t->added[i].text, s) == 0) {
			*out = l->t->added[i].id;
			return QL_OK;
		}
	*out = (int32_t)ql_tok_json_id(l, s, strlen(s));
	return *out >= 0 ? QL_OK : ql_err_param(l->e, QL_EFORMAT, key, "%s '%.64s' is not a token", key, s);
}

/* add_bos_token, add_eos_token: they decide over the post-processor, which is what stands there otherwise. */
static int config_affix(struct ql_tok_loader *l, const char *key, int32_t id, int32_t *list, size_t *n)
{
	bool add = false;
	int rc = ql_json_get_bool(l->config, key, &add, l->e);

	if (rc != QL_OK || json_object_get(l->config, key) == NULL || id < 0)
		return rc;
	if (add && *n == 0)
		list[(*n)++] = id;
	else if (!add && *n == 1 && list[0] == id)
		*n = 0;
	return QL_OK;
}

static int facts(struct ql_tok_loader *l)
{
	struct ql_tok *t = l->t;
	int rc = config_token(l, "bos_token", &t->bos);

	if (rc == QL_OK)
		rc = config_token(l, "eos_token", &t->eos);
	if (rc == QL_OK)
		rc = config_token(l, "pad_token", &t->pad);
	if (rc == QL_OK && t->unk < 0)
		rc = config_token(l, "unk_token", &t->unk);
	if (rc == QL_OK)
		rc = config_affix(l, "add_bos_token", t->bos, t->prefix, &t->n_prefix);
	if (rc == QL_OK)
		rc = config_affix(l, "add_eos_token", t->eos, t->suffix, &t->n_suffix);
	if (rc == QL_OK && l->config == NULL && t->n_prefix == 1)
		t->bos = t->prefix[0];
	if (rc == QL_OK && l->config == NULL && t->n_suffix == 1)
		t->eos = t->suffix[0];
	return rc;
}

/* ---- the whole */

static int describe(struct ql_tok_loader *l)
{
	json_t *d = json_pack("{s:O?,s:O?,s:O?}", "normalizer", json_object_get(l->root, "normalizer"), "pre_tokenizer",
			      json_object_get(l->root, "pre_tokenizer"), "decoder", json_object_get(l->root, "decoder"));

	l->t->description = d == NULL ? NULL : json_dumps(d, JSON_COMPACT | JSON_SORT_KEYS);
	json_decref(d);
	return l->t->description == NULL ? ql_err_set(l->e, QL_ENOMEM, "no memory for a tokenizer") : QL_OK;
}

static int components(struct ql_tok_loader *l)
{
	struct ql_tok *t = l->t;
	int rc = ql_tok_json_normalizer(&t->norm, json_object_get(l->root, "normalizer"), l->e);

	if (rc == QL_OK)
		rc = ql_tok_json_pre_tokenizer(t, json_object_get(l->root, "pre_tokenizer"), &t->bpe.bytes, l->e);
	if (rc == QL_OK)
		rc = ql_tok_json_post_processor(t, json_object_get(l->root, "post_processor"), l->e);
	if (rc == QL_OK)
		rc = ql_tok_json_decoder(&l->decoder, json_object_get(l->root, "decoder"), l->e);
	if (rc == QL_OK && l->decoder.bytes != t->bpe.bytes)
		rc = ql_err_param(l->e, QL_EUNSUPPORTED, "decoder", "ByteLevel as pre_tokenizer but not as decoder, or the reverse, is not supported");
	if (rc == QL_OK && t->bpe.bytes && (l->decoder.meta || l->decoder.fallback || l->decoder.strip != 0))
		rc = ql_err_param(l->e, QL_EUNSUPPORTED, "decoder", "ByteLevel with other decoders is not supported");
	t->strip = l->decoder.strip;
	t->fallback_decode = l->decoder.fallback;
	return rc;
}

static int build(struct ql_tok_loader *l, json_t **made)
{
	size_t n;
	int rc = check_model(l);

	if (rc == QL_OK)
		rc = find_added(l, made);
	if (rc == QL_OK)
		rc = vocab_size(l, &n);
	if (rc == QL_OK)
		rc = ql_tok_new(&l->t, n, l->e);
	if (rc == QL_OK)
		rc = model_flags(l);
	if (rc == QL_OK)
		rc = components(l);
	if (rc == QL_OK)
		rc = read_names(l);
	if (rc == QL_OK)
		rc = add_all(l);
	if (rc == QL_OK)
		rc = ql_tok_json_texts(l);
	if (rc == QL_OK)
		rc = ql_tok_json_merges(l);
	if (rc == QL_OK)
		rc = facts(l);
	if (rc == QL_OK)
		rc = describe(l);
	if (rc == QL_OK)
		rc = ql_bpe_finish(&l->t->bpe, l->e);
	return rc == QL_OK ? ql_tok_finish(l->t, l->e) : rc;
}

/* Not ql_json_parse: real files hold "model_max_length": 1000000000000000019884624838656, more than an integer can. */
static int parse_config(struct ql_tok_loader *l, const char *text, size_t len)
{
	json_error_t je;

	if (len > QL_TOKENIZER_JSON_MAX)
		return ql_err_set(l->e, QL_ELIMIT, "tokenizer_config.json of %zu bytes, more than the %zu allowed", len,
				  (size_t)QL_TOKENIZER_JSON_MAX);
	l->config = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &je);
	if (l->config == NULL)
		return ql_err_at(l->e, QL_EFORMAT, (uint64_t)(je.position < 0 ? 0 : je.position),
				 "tokenizer_config.json: invalid JSON: %s", je.text);
	return QL_OK;
}

int ql_tok_from_json(struct ql_tok **out, const char *tokenizer_json, size_t len, const char *tokenizer_config_json,
		     size_t len2, struct ql_err *e)
{
	struct ql_tok_loader l = {.e = e};
	json_t *made = NULL;
	int rc;

	*out = NULL;
	rc = ql_json_parse(tokenizer_json, len, QL_TOKENIZER_JSON_MAX, &l.root, e);
	if (rc != QL_OK)
		(void)ql_err_prefix(e, "tokenizer.json");
	if (rc == QL_OK && tokenizer_config_json != NULL)
		rc = parse_config(&l, tokenizer_config_json, len2);
	if (rc == QL_OK)
		rc = build(&l, &made);
	if (rc == QL_OK) {
		*out = l.t;
		l.t = NULL;
	}
	ql_tok_free(l.t);
	free(l.names);
	free(l.texts);
	free(l.pieces);
	free(l.mem);
	json_decref(made);
	json_decref(l.config);
	json_decref(l.root);
	return rc;
}
