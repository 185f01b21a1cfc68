/* load.c - the engine's model: source, tokenizer, template, device, weights, scheduler. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "core/text/tmpl/tmpl.h"
#include "daemon/engine/engine.h"

static void report(void *ctx, double fraction, const char *what)
{
	struct engine *g = ctx;

	if (engine_now() - g->last_status < 0.25 && fraction < 1)
		return;
	g->last_status = engine_now();
	engine_send(json_pack("{s:s, s:f, s:s}", "type", "loading", "progress", fraction, "message", what));
}

static int read_optional(const char *dir, const char *name, size_t max, struct ql_buf *out, struct ql_err *e)
{
	char path[4400];
	int rc;

	(void)snprintf(path, sizeof path, "%s/%s", dir, name);
	rc = ql_io_read_file(path, max, out, e);
	return rc == QL_ENOTFOUND ? QL_OK : rc;
}

static int load_tokenizer(struct engine *g, struct ql_err *e)
{
	struct ql_buf tok = {0}, config = {0};
	int rc;

	if (ql_source_gguf(g->source) != NULL) {
		rc = ql_tok_from_gguf(&g->tok, ql_source_gguf(g->source), e);
	} else {
		rc = read_optional(ql_source_dir(g->source), "tokenizer.json", QL_TOKENIZER_JSON_MAX, &tok, e);
		if (rc == QL_OK && tok.len == 0)
			rc = ql_err_set(e, QL_ENOTFOUND, "the base directory has no tokenizer.json");
		if (rc == QL_OK)
			rc = read_optional(ql_source_dir(g->source), "tokenizer_config.json", QL_TOKENIZER_JSON_MAX, &config, e);
		if (rc == QL_OK)
			rc = ql_tok_from_json(&g->tok, tok.data, tok.len, config.data, config.len, e);
		ql_buf_free(&tok);
		ql_buf_free(&config);
	}
	if (rc != QL_OK)
		return rc;
	if ((uint32_t)ql_tok_vocab_size(g->tok) > ql_source_arch(g->source)->vocab_size)
		return ql_err_set(e, QL_EMISMATCH, "the tokenizer has %d tokens, the model %u", ql_tok_vocab_size(g->tok),
				  ql_source_arch(g->source)->vocab_size);
	ql_tok_hash(g->tok, g->tokenizer_sha256);
	return QL_OK;
}

static void trust(json_t *o, const char *key, const struct ql_tok *t, int32_t id)
{
	size_t len;
	const char *s = id < 0 ? NULL : ql_tok_piece(t, id, &len);

	if (s != NULL)
		(void)json_object_set_new(o, key, json_stringn(s, len));
}

int engine_template(struct engine *g, const char *text, const struct ql_tmpl **out, struct ql_tmpl **owned, char sha256[65],
		    struct ql_err *e)
{
	*owned = NULL;
	if (text == NULL) {
		*out = g->tmpl;
		memcpy(sha256, g->template_sha256, 65);
		return QL_OK;
	}
	ql_sha256_hex(text, strlen(text), sha256);
	int rc = ql_tmpl_compile(owned, text, strlen(text), e);

	*out = *owned;
	return rc;
}

/* The second template that some models have for conversations with tools; part of the template's hash. */
static void load_tool_template(struct engine *g)
{
	size_t len = 0;
	const char *text = ql_source_tool_template(g->source, &len);
	struct ql_tmpl *t = NULL;
	struct ql_sha256 hash;
	struct ql_err e = {0};

	if (text == NULL)
		return;
	if (ql_tmpl_compile(&t, text, len, &e) != QL_OK) {
		ql_log(QL_LOG_WARN, "engine", "the base's chat template for tools is not usable: %s", e.message);
		return;
	}
	ql_tmpl_set_tool_use(g->tmpl, t);
	ql_sha256_init(&hash);
	ql_sha256_add(&hash, g->template_sha256, 64);
	ql_sha256_add(&hash, text, len);
	ql_sha256_end_hex(&hash, g->template_sha256);
}

static int load_template(struct engine *g, struct ql_err *e)
{
	size_t len = 0;
	const char *text = ql_source_chat_template(g->source, &len);

	g->trusted = json_object();
	if (g->trusted == NULL)
		return ql_err_set(e, QL_ENOMEM, "template");
	trust(g->trusted, "bos_token", g->tok, ql_tok_bos(g->tok));
	trust(g->trusted, "eos_token", g->tok, ql_tok_eos(g->tok));
	trust(g->trusted, "pad_token", g->tok, ql_tok_pad(g->tok));
	trust(g->trusted, "unk_token", g->tok, ql_tok_unk(g->tok));
	ql_sha256_hex(text != NULL ? text : "", len, g->template_sha256);
	if (text == NULL)
		return QL_OK;
	if (ql_tmpl_compile(&g->tmpl, text, len, e) == QL_OK) {
		load_tool_template(g);
		return QL_OK;
	}
	/* the base still serves completions and trains on text; chat says why it cannot */
	ql_log(QL_LOG_WARN, "engine", "the base's chat template is not usable: %s", e->message);
	g->tmpl = NULL;
	return QL_OK;
}

static int open_device(struct engine *g, struct ql_err *e)
{
	const char *name = g->device_name;
	int rc;

	if (strcmp(name, "cpu") == 0)
		return ql_device_cpu(&g->dev, g->threads, e);
	if (strcmp(name, "auto") == 0) {
		rc = ql_device_cuda(&g->dev, 0, e);
		if (rc == QL_EUNSUPPORTED || rc == QL_ENOTFOUND)
			return ql_device_cpu(&g->dev, g->threads, e);
		return rc;
	}
	if (strncmp(name, "cuda", 4) == 0 && (name[4] == '\0' || name[4] == ':'))
		return ql_device_cuda(&g->dev, name[4] == ':' ? atoi(name + 5) : 0, e);
	return ql_err_param(e, QL_EINVAL, "device", "unknown device '%s'", name);
}

int engine_open_state_dir(void *engine, const char *dir, struct ql_err *e)
{
	return ql_io_open_dir(((struct engine *)engine)->state_fd, dir, e);
}

static int load_model(struct engine *g, struct ql_err *e)
{
	struct ql_model_opts o = {.quant = QL_Q4_OPTS_DEFAULT, .cache_dir = -1, .progress = report, .progress_ctx = g};
	int n = g->threads > 0 ? g->threads : (int)sysconf(_SC_NPROCESSORS_ONLN), rc;

	rc = ql_io_ensure_dir(g->state_fd, g->cache_dir, &o.cache_dir, e);
	if (rc != QL_OK)
		return rc;
	o.pool = ql_pool_new(n < 1 ? 1 : n > 256 ? 256 : n);
	rc = ql_model_load(&g->model, g->dev, g->source, &o, e);
	ql_pool_free(o.pool);
	(void)close(o.cache_dir);
	if (rc == QL_OK)
		ql_gate_set_target(g->model->gate, g->token_target_ms / 1000);
	return rc;
}

static void *infer_main(void *arg)
{
	struct engine *g = arg;
	struct ql_err e = {0};

	if (ql_infer_run(g->infer, &e) != QL_OK)
		engine_fatal(70, &e);
	return NULL;
}

int engine_load(struct engine *g, struct ql_err *e)
{
	int rc = ql_source_open(&g->source, g->base_path, e);

	if (rc == QL_OK)
		rc = load_tokenizer(g, e);
	if (rc == QL_OK)
		rc = load_template(g, e);
	if (rc == QL_OK)
		rc = open_device(g, e);
	if (rc == QL_OK)
		rc = load_model(g, e);
	if (rc == QL_OK)
		rc = ql_infer_new(&g->infer, g->model, g->tok, &g->infer_opts, engine_open_state_dir, g, e);
	if (rc != QL_OK)
		return rc;
	if (pthread_create(&g->infer_thread, NULL, infer_main, g) != 0)
		return ql_err_set(e, QL_ENOMEM, "inference thread");
	g->infer_started = true;
	return QL_OK;
}

void engine_unload(struct engine *g)
{
	if (g->infer_started) {
		ql_infer_stop(g->infer);
		(void)pthread_join(g->infer_thread, NULL);
	}
	ql_infer_free(g->infer);
	ql_model_free(g->model);
	if (g->dev != NULL)
		g->dev->ops->close(g->dev);
	ql_tmpl_free(g->tmpl);
	ql_tok_free(g->tok);
	ql_source_close(g->source);
	json_decref(g->trusted);
}
