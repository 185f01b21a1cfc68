/* gen_params.c - the sampling fields of api.md §8 and §9 as one table, and the fields that need more than a range. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/gen.h"
#include "core/base/hash.h"
#include "core/base/limits.h"
#include "daemon/engine_link.h"

struct params {
	struct ql_fstr model;
	struct ql_fint max_tokens, max_completion_tokens, n, best_of, seed, top_k, min_tokens, top_logprobs, text_logprobs;
	struct ql_fnum temperature, top_p, presence, frequency, min_p, repetition;
	struct ql_fbool stream, ignore_eos, chat_logprobs, echo, parse_special;
	const json_t *stop, *stop_ids, *logit_bias, *stream_options, *response_format, *modalities, *lora;
};

#define AT(member) .offset = offsetof(struct params, member)
#define INT(nm, lo, hi, member) {.name = nm, .type = QL_FT_INT, .imin = lo, .imax = hi, AT(member)}
#define NUM(nm, lo, hi, member) {.name = nm, .type = QL_FT_NUM, .nmin = lo, .nmax = hi, AT(member)}
#define BOOL(nm, member) {.name = nm, .type = QL_FT_BOOL, AT(member)}
#define OBJ(nm, member) {.name = nm, .type = QL_FT_OBJ, AT(member)}
#define ARR(nm, lo, hi, member) {.name = nm, .type = QL_FT_ARR, .imin = lo, .imax = hi, AT(member)}

#define COMMON_FIELDS                                                                                                        \
	{.name = "model", .type = QL_FT_STR, .flags = QL_FF_REQUIRED, .imin = 1, .imax = QL_MODEL_NAME_SIZE - 1, AT(model)}, \
	INT("max_tokens", 0, QL_CONTEXT_MAX, max_tokens), INT("n", 1, QL_INFER_N_MAX, n),                                    \
	INT("seed", INT64_MIN, INT64_MAX, seed), INT("top_k", 0, 1000, top_k),                                               \
	INT("min_tokens", 0, QL_CONTEXT_MAX, min_tokens), NUM("temperature", 0, 2, temperature), NUM("top_p", 0, 1, top_p),  \
	NUM("presence_penalty", -2, 2, presence), NUM("frequency_penalty", -2, 2, frequency), NUM("min_p", 0, 1, min_p),     \
	NUM("repetition_penalty", 0.1, 10, repetition), BOOL("stream", stream), BOOL("ignore_eos", ignore_eos),              \
	{.name = "stop", .type = QL_FT_ANY, AT(stop)}, ARR("stop_token_ids", 0, 16, stop_ids),                               \
	OBJ("logit_bias", logit_bias), OBJ("stream_options", stream_options), ARR("lora", 0, 32, lora)

static const struct ql_field chat_fields[] = {
	COMMON_FIELDS,
	INT("max_completion_tokens", 0, QL_CONTEXT_MAX, max_completion_tokens),
	BOOL("logprobs", chat_logprobs),
	INT("top_logprobs", 0, 20, top_logprobs),
	OBJ("response_format", response_format),
	ARR("modalities", 0, 8, modalities),
};

static const struct ql_field text_fields[] = {
	COMMON_FIELDS,
	INT("logprobs", 0, 5, text_logprobs),
	INT("best_of", 0, QL_INFER_N_MAX, best_of),
	BOOL("echo", echo),
	BOOL("parse_special", parse_special),
};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* Limits that depend on the model: 0..context. */
static int check_context(struct ql_req *r, const struct params *p, struct ql_fault *f)
{
	int64_t context = ql_engine_context(r->ctl);
	const struct {
		const char *name;
		const struct ql_fint *v;
	} rows[] = {{"max_completion_tokens", &p->max_completion_tokens},
		    {"max_tokens", &p->max_tokens},
		    {"min_tokens", &p->min_tokens}};

	for (size_t i = 0; context > 0 && i < COUNT(rows); i++)
		if (rows[i].v->set && rows[i].v->v > context)
			return ql_bad_value(f, rows[i].name,
					    "Invalid value for '%s': must be between 0 and %lld, the model's context length.",
					    rows[i].name, (long long)context);
	return QL_OK;
}

static int put_stop(const json_t *stop, json_t *frame, struct ql_fault *f)
{
	json_t *list, *v;
	size_t i;

	if (stop == NULL)
		return QL_OK;
	list = json_is_string(stop) ? json_pack("[O]", stop) :
	       json_is_array(stop)  ? json_incref((json_t *)(uintptr_t)stop) :
				      NULL;
	if (list == NULL)
		return ql_bad_value(f, "stop", "Invalid type for 'stop': expected a string or an array of strings.");
	if (json_array_size(list) > QL_INFER_STOPS_MAX) {
		json_decref(list);
		return ql_bad_value(f, "stop", "Invalid value for 'stop': at most %d strings.", QL_INFER_STOPS_MAX);
	}
	json_array_foreach(list, i, v)
		if (!json_is_string(v) || json_string_length(v) < 1 || json_string_length(v) > QL_INFER_STOP_BYTES_MAX) {
			json_decref(list);
			return ql_bad_value(f, "stop", "Invalid value for 'stop': each must be a string of 1 to %d bytes.",
					    QL_INFER_STOP_BYTES_MAX);
		}
	return json_object_set_new(frame, "stop", list) == 0 ? QL_OK : ql_bad_internal(f);
}

static int64_t vocabulary(struct ql_req *r)
{
	int64_t n = json_integer_value(json_object_get(ql_engine_model(r->ctl), "vocab_size"));

	return n > 0 ? n : QL_VOCAB_MAX;
}

static int put_stop_ids(struct ql_req *r, const json_t *ids, json_t *frame, struct ql_fault *f)
{
	const json_t *v;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)ids, i, v)
		if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= vocabulary(r))
			return ql_bad_value(f, "stop_token_ids",
					    "Invalid value for 'stop_token_ids': each must be an id of the vocabulary.");
	if (ids != NULL && json_object_set(frame, "stop_token_ids", (json_t *)(uintptr_t)ids) != 0)
		return ql_bad_internal(f);
	return QL_OK;
}

static int put_logit_bias(struct ql_req *r, const json_t *bias, json_t *frame, struct ql_fault *f)
{
	int64_t vocab = vocabulary(r);
	json_t *out, *v;
	const char *key;

	if (bias == NULL)
		return QL_OK;
	if (json_object_size(bias) > QL_INFER_LOGIT_BIAS_MAX)
		return ql_bad_value(f, "logit_bias", "Invalid value for 'logit_bias': at most %d entries.",
				    QL_INFER_LOGIT_BIAS_MAX);
	out = json_object();
	json_object_foreach((json_t *)(uintptr_t)bias, key, v) {
		double x = json_number_value(v);
		size_t digits = strspn(key, "0123456789");

		if (!json_is_number(v) || !(x >= -100 && x <= 100)) {
			json_decref(out);
			return ql_bad_value(f, "logit_bias",
					    "Invalid value for 'logit_bias': values must be numbers from -100 to 100.");
		}
		if (x == 0)
			continue;
		if (digits == 0 || digits > 9 || key[digits] != '\0' || strtoll(key, NULL, 10) >= vocab) {
			json_decref(out);
			return ql_bad_value(f, "logit_bias",
					    "Invalid value for 'logit_bias': keys must be ids of the vocabulary (0 to %lld).",
					    (long long)vocab - 1);
		}
		(void)json_object_set(out, key, v);
	}
	return json_object_set_new(frame, "logit_bias", out) == 0 ? QL_OK : ql_bad_internal(f);
}

static int check_formats(const struct params *p, struct ql_fault *f)
{
	const json_t *type = json_object_get(p->response_format, "type"), *v;
	const char *word = json_string_value(type);
	size_t i;

	if (p->response_format != NULL && word == NULL)
		return ql_bad_missing(f, "response_format.type");
	if (word != NULL && (strcmp(word, "json_object") == 0 || strcmp(word, "json_schema") == 0))
		return ql_bad_unsupported(f, "response_format", "response_format '%s' is not supported; only 'text' is.", word);
	if (word != NULL && strcmp(word, "text") != 0)
		return ql_bad_value(f, "response_format.type", "Invalid value for 'response_format.type': must be text.");
	json_array_foreach((json_t *)(uintptr_t)p->modalities, i, v)
		if (json_string_value(v) == NULL || strcmp(json_string_value(v), "text") != 0)
			return ql_bad_unsupported(f, "modalities", "Only the modality 'text' is supported.");
	return QL_OK;
}

/* lora: [{id, scale}], llama.cpp's form: at most one entry with scale ≠ 0.  The engine applies adapters at scale 1. */
static int read_lora(struct ql_req *r, const json_t *lora, struct ql_model_ref *m, struct ql_fault *f)
{
	struct {
		struct ql_fint id;
		struct ql_fnum scale;
	} q;
	const struct ql_field fields[] = {
		{.name = "id", .type = QL_FT_INT, .flags = QL_FF_REQUIRED, .imin = 0, .imax = INT32_MAX, .offset = 0},
		{.name = "scale", .type = QL_FT_NUM, .flags = QL_FF_REQUIRED, .nmin = -4, .nmax = 4,
		 .offset = (size_t)((char *)&q.scale - (char *)&q)},
	};
	const json_t *v;
	bool chosen = false;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)lora, i, v) {
		char prefix[32];
		int rc;

		(void)snprintf(prefix, sizeof prefix, "lora[%zu].", i);
		memset(&q, 0, sizeof q);
		if (!json_is_object(v))
			return ql_bad_value(f, "lora", "Invalid type for 'lora': expected an array of objects.");
		rc = ql_fields_read(v, fields, 2, prefix, &q, f);
		if (rc != QL_OK)
			return rc;
		if (q.scale.v == 0)
			continue;
		if (chosen)
			return ql_bad_value(f, "lora", "Invalid value for 'lora': at most one entry with a scale other than 0.");
		if (q.scale.v != 1)
			return ql_bad_unsupported(f, "lora", "Scales other than 0 and 1 are not supported.");
		rc = ql_adapter_by_id(r->ctl, &r->who, q.id.v, m, f);
		if (rc != QL_OK)
			return rc;
		chosen = true;
	}
	return QL_OK;
}

static int put_model(struct ql_req *r, struct ql_gen *g, const struct params *p, json_t *frame, struct ql_fault *f)
{
	const json_t *model = ql_engine_model(r->ctl);
	const char *base_hash = json_string_value(json_object_get(model, "base_sha256"));
	char text[QL_MODEL_NAME_SIZE + 256], hex[65];
	struct ql_model_ref m;
	int rc, n;

	rc = ql_model_resolve(r->ctl, &r->who, p->model.v, &m, f);
	if (rc == QL_OK && p->lora != NULL)
		rc = read_lora(r, p->lora, &m, f);
	if (rc != QL_OK)
		return rc;
	n = snprintf(text, sizeof text, "%s|%s|%lld|%s", base_hash == NULL ? r->ctl->base_name : base_hash,
		     m.base ? "" : m.name, m.base ? 0LL : (long long)m.generation, QL_VERSION);
	ql_sha256_hex(text, n < 0 ? 0 : strlen(text), hex);
	(void)snprintf(g->fingerprint, sizeof g->fingerprint, "fp_%.10s", hex);
	g->model = strdup(p->model.v);
	if (g->model == NULL || json_object_set_new(frame, "adapter", ql_model_adapter(&m)) != 0)
		return ql_bad_internal(f);
	return QL_OK;
}

static int read_stream(struct ql_gen *g, const struct params *p, struct ql_fault *f)
{
	struct ql_fbool usage = {0};
	const struct ql_field field = {.name = "include_usage", .type = QL_FT_BOOL, .offset = 0};
	int rc = QL_OK;

	if (p->stream_options != NULL)
		rc = ql_fields_read(p->stream_options, &field, 1, "stream_options.", &usage, f);
	g->stream = p->stream.v;
	g->include_usage = g->stream && usage.v;
	return rc;
}

static int put_numbers(struct ql_req *r, struct ql_gen *g, const struct params *p, json_t *frame, struct ql_fault *f)
{
	int64_t context = ql_engine_context(r->ctl), dflt = g->chat ? QL_MAX_TOKENS_DEFAULT : 16, top = -1;
	const struct ql_fint *max = p->max_completion_tokens.set ? &p->max_completion_tokens : &p->max_tokens;
	json_t *o;

	if (context > 0 && dflt > context)
		dflt = context;
	if (p->top_logprobs.set && p->top_logprobs.v > 0 && !p->chat_logprobs.v)
		return ql_bad_value(f, "top_logprobs", "'top_logprobs' needs 'logprobs' to be true.");
	if (g->chat ? p->chat_logprobs.v : p->text_logprobs.set)
		top = g->chat ? p->top_logprobs.v : p->text_logprobs.v;
	g->logprobs = top >= 0;
	if (!g->logprobs && g->best_of > g->n)
		top = 0; /* candidates are compared by their mean log probability */
	o = json_pack("{s:I,s:I,s:f,s:f,s:I,s:f,s:f,s:f,s:f,s:b,s:I,s:I}", "n", (json_int_t)(g->best_of > g->n ? g->best_of : g->n),
		      "max_tokens", (json_int_t)(max->set ? max->v : dflt), "temperature",
		      p->temperature.set ? p->temperature.v : 1.0, "top_p", p->top_p.set ? p->top_p.v : 1.0, "top_k",
		      (json_int_t)p->top_k.v, "min_p", p->min_p.v, "presence_penalty", p->presence.v, "frequency_penalty",
		      p->frequency.v, "repetition_penalty", p->repetition.set ? p->repetition.v : 1.0, "ignore_eos",
		      p->ignore_eos.v, "min_tokens", (json_int_t)p->min_tokens.v, "logprobs", (json_int_t)top);
	if (o == NULL || json_object_update_new(frame, o) != 0)
		return ql_bad_internal(f);
	if (p->seed.set && json_object_set_new(frame, "seed", json_integer(p->seed.v)) != 0)
		return ql_bad_internal(f);
	return QL_OK;
}

int ql_gen_params(struct ql_req *r, struct ql_gen *g, json_t *frame, struct ql_fault *f)
{
	struct params p = {0};
	int rc;

	rc = g->chat ? ql_fields_read(r->json, chat_fields, COUNT(chat_fields), "", &p, f) :
		       ql_fields_read(r->json, text_fields, COUNT(text_fields), "", &p, f);
	if (rc == QL_OK)
		rc = check_context(r, &p, f);
	if (rc == QL_OK)
		rc = check_formats(&p, f);
	if (rc == QL_OK)
		rc = read_stream(g, &p, f);
	if (rc != QL_OK)
		return rc;
	g->n = p.n.set ? (size_t)p.n.v : 1;
	g->best_of = p.best_of.v > 0 ? (size_t)p.best_of.v : g->n;
	g->echo = p.echo.v;
	if (g->best_of < g->n)
		return ql_bad_value(f, "best_of", "'best_of' must be at least 'n'.");
	if (g->best_of > g->n && g->stream)
		return ql_bad_value(f, "best_of", "'best_of' cannot be used with 'stream'.");
	rc = put_numbers(r, g, &p, frame, f);
	if (rc == QL_OK)
		rc = put_stop(p.stop, frame, f);
	if (rc == QL_OK)
		rc = put_stop_ids(r, p.stop_ids, frame, f);
	if (rc == QL_OK)
		rc = put_logit_bias(r, p.logit_bias, frame, f);
	if (rc == QL_OK && !g->chat && (json_object_set_new(frame, "echo", json_boolean(p.echo.v)) != 0 ||
					json_object_set_new(frame, "parse_special", json_boolean(p.parse_special.v)) != 0))
		rc = ql_bad_internal(f);
	if (rc == QL_OK)
		rc = put_model(r, g, &p, frame, f);
	return rc;
}

void ql_gen_ignored(struct ql_gen *g, const json_t *body, const char *const *list)
{
	size_t n = strlen(g->ignored);

	for (; *list != NULL; list++) {
		const json_t *v = json_object_get(body, *list);
		int m;

		if (v == NULL || json_is_null(v))
			continue;
		m = snprintf(g->ignored + n, sizeof g->ignored - n, "%s%s", n == 0 ? "" : ", ", *list);
		if (m < 0 || n + (size_t)m >= sizeof g->ignored) {
			g->ignored[n] = '\0';
			return;
		}
		n += (size_t)m;
	}
}
