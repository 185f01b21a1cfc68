/* engine_frames.c - frames from the engine: one table of types; every field is checked before it is used.  A frame that
 * breaks the protocol ends the engine (the caller kills it). */
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "core/base/utf8.h"
#include "daemon/engine_internal.h"
#include "daemon/metrics.h"
#include "daemon/store.h"

static int f_loading(struct ql_engine *en, const json_t *f, struct ql_err *e)
{
	double p = 0;
	int rc = ql_json_get_num(f, "progress", 0, 1, &p, e);

	en->load_progress = p;
	en->tick++;
	return rc;
}

static int check_model(const json_t *m, struct ql_err *e)
{
	static const char *const ints[] = {"parameters", "layers", "hidden_size", "context", "vocab_size"};
	int64_t v = 0;
	int rc = QL_OK;

	if (!json_is_object(m))
		return ql_err_set(e, QL_EFORMAT, "ready without a model");
	for (size_t i = 0; i < sizeof ints / sizeof ints[0] && rc == QL_OK; i++)
		rc = ql_json_get_int(m, ints[i], 0, INT64_MAX, &v, e);
	if (rc == QL_OK && json_integer_value(json_object_get(m, "context")) < 1)
		rc = ql_err_set(e, QL_EFORMAT, "ready without a context length");
	return rc;
}

static int f_ready(struct ql_engine *en, const json_t *f, struct ql_err *e)
{
	json_t *model = json_object_get(f, "model");
	const char *device = "", *build = "";
	struct ql_err local = {0};
	char labels[512], *text;
	int rc = check_model(model, e);

	if (rc != QL_OK || (rc = ql_json_get_str(f, "device", 0, 256, &device, e)) != QL_OK ||
	    (rc = ql_json_get_str(f, "build", 0, 256, &build, e)) != QL_OK)
		return rc;
	en->model_tick += en->model == NULL || !json_equal(en->model, model);
	json_decref(en->model);
	en->model = json_incref(model);
	json_decref(en->info);
	en->info = json_pack("{s:s,s:s}", "device", device, "build", build);
	if (json_is_object(json_object_get(f, "memory")))
		(void)json_object_set(en->info, "memory", json_object_get(f, "memory"));
	text = ql_json_text(model);
	if (text == NULL || ql_store_meta_set(en->ctl->store, "model", text, &local) != QL_OK)
		ql_log(QL_LOG_WARN, "engine", "model facts not stored: %s", local.message);
	free(text);
	en->state = QL_ENGINE_READY;
	en->since = (int64_t)time(NULL);
	en->ready_ms = uv_now(en->ctl->loop);
	en->tick++;
	en->ever_ready = true;
	en->load_deaths = 0;
	en->load_progress = 1;
	ql_metrics_set(en->ctl->metrics, QLM_ENGINE_UP, "", 1);
	ql_metrics_drop(en->ctl->metrics, QLM_BUILD_INFO, NULL);
	ql_metrics_labels(labels, sizeof labels, "version", QL_VERSION, "device", device, "build", build, (char *)NULL);
	ql_metrics_set(en->ctl->metrics, QLM_BUILD_INFO, labels, 1);
	ql_log(QL_LOG_INFO, "engine", "ready after %.1f s on %s", (double)(en->ready_ms - en->started_ms) / 1000, device);
	ql_jobs_engine_ready(en->ctl);
	ql_exports_engine_ready(en->ctl);
	return QL_OK;
}

static int f_fatal(struct ql_engine *en, const json_t *f, struct ql_err *e)
{
	const char *message = "";
	int rc = ql_json_get_str(f, "message", 0, 4096, &message, e);

	(void)snprintf(en->fatal, sizeof en->fatal, "%s", message);
	en->fatal[ql_utf8_whole(en->fatal, strlen(en->fatal))] = '\0';
	en->tick++;
	return rc;
}

static int f_pong(struct ql_engine *en, const json_t *f, struct ql_err *e)
{
	(void)en, (void)f, (void)e; /* the arrival of any frame is the heartbeat */
	return QL_OK;
}

static int request_id(const json_t *f, int64_t *id, struct ql_err *e)
{
	*id = 0;
	if (ql_json_get_int(f, "id", 1, INT64_MAX, id, e) != QL_OK)
		return e->code;
	return *id == 0 ? ql_err_set(e, QL_EFORMAT, "frame without id") : QL_OK;
}

static int f_delta(struct ql_engine *en, const json_t *f, struct ql_err *e)
{
	const json_t *lp = json_object_get(f, "logprobs");
	int64_t id, index = 0, tokens = 0;
	struct ql_infer *r;

	if (request_id(f, &id, e) != QL_OK || ql_json_get_int(f, "index", 0, INT32_MAX, &index, e) != QL_OK ||
	    ql_json_get_int(f, "tokens", 0, INT32_MAX, &tokens, e) != QL_OK)
		return e->code;
	if (!json_is_string(json_object_get(f, "text")) || (lp != NULL && !json_is_null(lp) && !json_is_array(lp)))
		return ql_err_set(e, QL_EFORMAT, "delta: bad text or logprobs");
	r = ql_engine_peek(en, id);
	if (r != NULL && r->cb.delta != NULL)
		r->cb.delta(r->user, f);
	return QL_OK;
}

static int f_finish(struct ql_engine *en, const json_t *f, struct ql_err *e)
{
	int64_t id, index = 0;
	struct ql_infer *r;

	if (request_id(f, &id, e) != QL_OK || ql_json_get_int(f, "index", 0, INT32_MAX, &index, e) != QL_OK)
		return e->code;
	if (!json_is_string(json_object_get(f, "reason")))
		return ql_err_set(e, QL_EFORMAT, "finish without reason");
	r = ql_engine_peek(en, id);
	if (r != NULL && r->cb.finish != NULL)
		r->cb.finish(r->user, f);
	return QL_OK;
}

static int f_infer_done(struct ql_engine *en, const json_t *f, struct ql_err *e)
{
	int64_t id, n = 0;
	struct ql_infer *r;

	if (request_id(f, &id, e) != QL_OK || ql_json_get_int(f, "prompt_tokens", 0, INT64_MAX, &n, e) != QL_OK ||
	    ql_json_get_int(f, "completion_tokens", 0, INT64_MAX, &n, e) != QL_OK ||
	    ql_json_get_int(f, "cached_tokens", 0, INT64_MAX, &n, e) != QL_OK)
		return e->code;
	r = ql_engine_take(en, id);
	if (r != NULL && r->cb.done != NULL)
		r->cb.done(r->user, f);
	free(r);
	return QL_OK;
}

/* The words of api.md §3 that an engine may answer, with their status. */
static const struct {
	const char *word;
	int status;
} error_words[] = {
	{"invalid_value", 400},		{"missing_required_parameter", 400}, {"unsupported_parameter", 400},
	{"unsupported_value", 400},	{"context_length_exceeded", 400},    {"model_not_found", 404},
	{"queue_full", 429},		{"engine_unavailable", 503},	     {"loading", 503},
	{"draining", 503},		{"internal_error", 500},	     {"invalid_json", 400},
	{"model_not_available", 400},	{"invalid_state", 400},
};

static void error_fault(const json_t *f, const char *word, const char *param, const char *message, struct ql_fault *out)
{
	int64_t code = json_integer_value(json_object_get(f, "code"));
	int status = 500;
	const char *name = "internal_error";

	for (size_t i = 0; word != NULL && i < sizeof error_words / sizeof error_words[0]; i++)
		if (strcmp(error_words[i].word, word) == 0) {
			name = error_words[i].word;
			status = error_words[i].status;
			goto known;
		}
	switch (code) {
	case QL_EINVAL:
	case QL_EFORMAT:
	case QL_ELIMIT:
	case QL_ESHAPE:
	case QL_EMISMATCH:
		name = "invalid_value";
		status = 400;
		break;
	case QL_EUNSUPPORTED:
		name = "unsupported_value";
		status = 400;
		break;
	case QL_ENOTFOUND:
		name = "model_not_found";
		status = 404;
		break;
	case QL_EBUSY:
		name = "queue_full";
		status = 429;
		break;
	default:
		break;
	}
known:
	if (status == 500) {
		ql_log(QL_LOG_ERROR, "engine", "request failed: %s", message);
		message = "The server had an error while processing your request.";
	}
	(void)ql_fault_set(out, QL_EINVAL, status, name, param, "%s", message);
	if (status == 429)
		out->retry_after = 1;
}

static int f_infer_error(struct ql_engine *en, const json_t *f, struct ql_err *e)
{
	const char *word = NULL, *param = NULL, *message = "";
	struct ql_fault fault;
	struct ql_infer *r;
	int64_t id;

	if (request_id(f, &id, e) != QL_OK || ql_json_get_str(f, "error_code", 0, 64, &word, e) != QL_OK ||
	    ql_json_get_str(f, "param", 0, 256, &param, e) != QL_OK || ql_json_get_str(f, "message", 0, QL_FRAME_MAX, &message, e) != QL_OK)
		return e->code;
	r = ql_engine_take(en, id);
	if (r != NULL) {
		error_fault(f, word, param, message, &fault);
		r->cb.error(r->user, &fault);
	}
	free(r);
	return QL_OK;
}

static int f_infer_result(struct ql_engine *en, const json_t *f, struct ql_err *e)
{
	const json_t *result = json_object_get(f, "result");
	struct ql_infer *r;
	int64_t id;

	if (request_id(f, &id, e) != QL_OK)
		return e->code;
	if (!json_is_object(result))
		return ql_err_set(e, QL_EFORMAT, "infer_result without result");
	r = ql_engine_take(en, id);
	if (r != NULL && r->cb.result != NULL)
		r->cb.result(r->user, result);
	free(r);
	return QL_OK;
}

static const struct {
	const char *type;
	int (*handle)(struct ql_engine *en, const json_t *f, struct ql_err *e);
	int room; /* 0 here, 1 jobs, 2 exports */
} types[] = {
	{"loading", f_loading, 0}, {"ready", f_ready, 0},	    {"fatal", f_fatal, 0},	   {"pong", f_pong, 0},
	{"status", ql_engine_status_frame, 0},   {"delta", f_delta, 0},	    {"finish", f_finish, 0},	   {"infer_done", f_infer_done, 0},
	{"infer_error", f_infer_error, 0}, {"infer_result", f_infer_result, 0}, {"validated", NULL, 1}, {"started", NULL, 1},
	{"step", NULL, 1},	   {"phase", NULL, 1},		    {"checkpoint", NULL, 1},	   {"stopped", NULL, 1},
	{"done", NULL, 1},	   {"failed", NULL, 1},		    {"export_progress", NULL, 2}, {"export_done", NULL, 2},
	{"export_failed", NULL, 2},
};

int ql_engine_frame(struct ql_engine *en, json_t *frame, struct ql_err *e)
{
	const char *type = json_string_value(json_object_get(frame, "type"));
	int rc;

	for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
		if (strcmp(types[i].type, type) != 0)
			continue;
		if (types[i].room == 1)
			rc = ql_jobs_frame(en->ctl, type, frame, e);
		else if (types[i].room == 2)
			rc = ql_exports_frame(en->ctl, type, frame, e);
		else
			rc = types[i].handle(en, frame, e);
		return rc == QL_OK ? QL_OK : ql_err_prefix(e, "frame '%s'", type);
	}
	return ql_err_set(e, QL_EFORMAT, "unknown frame '%.40s'", type);
}
