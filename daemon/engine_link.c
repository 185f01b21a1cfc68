/* engine_link.c - frames to the engine, and the inference requests that wait for it; see engine_link.h. */
#include "daemon/engine_link.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/limits.h"
#include "core/base/log.h"
#include "daemon/engine_internal.h"

struct sending {
	uv_write_t req;
	struct ql_buf buf;
};

static void on_written(uv_write_t *req, int status)
{
	struct sending *s = (struct sending *)req;

	(void)status; /* a broken pipe shows as EOF in the reader */
	ql_buf_free(&s->buf);
	free(s);
}

int ql_engine_send(struct ql_engine *en, json_t *frame, struct ql_err *e)
{
	struct sending *s = NULL;
	uv_buf_t buf;
	int rc;

	if (frame == NULL)
		return ql_err_set(e, QL_ENOMEM, "frame");
	if (!en->pipe_open || en->eof || !en->process_alive || en->killed_ms != 0) {
		json_decref(frame);
		return ql_err_set(e, QL_ESTATE, "the engine is not running");
	}
	s = calloc(1, sizeof *s);
	rc = s == NULL ? ql_err_set(e, QL_ENOMEM, "frame") : ql_frame_encode(frame, &s->buf, e);
	json_decref(frame);
	if (rc == QL_OK && uv_stream_get_write_queue_size((uv_stream_t *)&en->pipe) + s->buf.len > QL_FRAME_QUEUE_MAX)
		rc = ql_err_set(e, QL_EBUSY, "the engine does not keep up");
	if (rc == QL_OK) {
		buf = uv_buf_init(s->buf.data, (unsigned)s->buf.len);
		if (uv_write(&s->req, (uv_stream_t *)&en->pipe, &buf, 1, on_written) == 0)
			return QL_OK;
		rc = ql_err_set(e, QL_ESTATE, "the engine is not running");
	}
	if (s != NULL)
		ql_buf_free(&s->buf);
	free(s);
	return rc;
}

struct ql_infer *ql_engine_peek(struct ql_engine *en, int64_t id)
{
	struct ql_infer *r = en->infers;

	while (r != NULL && r->id != id)
		r = r->next;
	return r;
}

struct ql_infer *ql_engine_take(struct ql_engine *en, int64_t id)
{
	for (struct ql_infer **p = &en->infers; *p != NULL; p = &(*p)->next)
		if ((*p)->id == id) {
			struct ql_infer *r = *p;

			*p = r->next;
			if (r->counted)
				en->n_counted--;
			return r;
		}
	return NULL;
}

void ql_engine_fail_requests(struct ql_engine *en)
{
	struct ql_fault f;

	while (en->infers != NULL) {
		struct ql_infer *r = ql_engine_take(en, en->infers->id);

		(void)ql_fault_set(&f, QL_ESTATE, 503, "engine_unavailable", NULL, "The model engine was restarted; try again.");
		f.retry_after = 2;
		r->cb.error(r->user, &f);
		free(r);
	}
}

bool ql_control_ready(struct ql_control *ctl, struct ql_fault *f)
{
	enum ql_engine_state s = ql_engine_state(ctl);

	if (ctl->draining) {
		(void)ql_fault_set(f, QL_ESTATE, 503, "draining", NULL, "The server is shutting down.");
	} else if (s == QL_ENGINE_LOADING) {
		(void)ql_fault_set(f, QL_ESTATE, 503, "loading", NULL, "Loading model");
		if (f != NULL)
			f->retry_after = 2;
	} else if (s != QL_ENGINE_READY) {
		(void)ql_fault_set(f, QL_ESTATE, 503, "engine_unavailable", NULL, "The model engine is not running.");
		if (f != NULL && s == QL_ENGINE_BROKEN)
			f->retry_after = 30;
	} else {
		return true;
	}
	return false;
}

static bool is_counted(const json_t *frame)
{
	const char *kind = json_string_value(json_object_get(frame, "kind"));

	return kind != NULL && (strcmp(kind, "chat") == 0 || strcmp(kind, "completion") == 0);
}

int64_t ql_engine_infer(struct ql_control *ctl, json_t *frame, const struct ql_infer_cb *cb, void *user, struct ql_fault *f)
{
	struct ql_engine *en = ctl->engines[0];
	bool counted = is_counted(frame);
	struct ql_infer *r;
	struct ql_err e = {0};
	json_t *copy;
	int rc;

	if (!ql_control_ready(ctl, f))
		return QL_ESTATE;
	if (counted && (int64_t)en->n_counted >= ctl->config->max_waiting_requests) {
		(void)ql_fault_set(f, QL_EBUSY, 429, "queue_full", NULL, "Too many requests are waiting; try again shortly.");
		f->retry_after = 1;
		return QL_EBUSY;
	}
	r = calloc(1, sizeof *r);
	copy = json_copy(frame);
	if (r == NULL || copy == NULL || json_object_set_new(copy, "type", json_string("infer")) != 0 ||
	    json_object_set_new(copy, "id", json_integer(en->next_id)) != 0) {
		free(r);
		json_decref(copy);
		return ql_fault_internal(f, NULL, "infer");
	}
	rc = ql_engine_send(en, copy, &e);
	if (rc != QL_OK) {
		free(r);
		if (rc == QL_ELIMIT)
			return ql_fault_set(f, rc, 413, "request_too_large", NULL, "The request is too large.");
		if (rc == QL_ESTATE)
			return ql_fault_set(f, rc, 503, "engine_unavailable", NULL, "The model engine is not running.");
		return ql_fault_err(f, &e, NULL);
	}
	r->id = en->next_id++;
	r->counted = counted;
	r->cb = *cb;
	r->user = user;
	r->next = en->infers;
	en->infers = r;
	en->n_counted += counted;
	return r->id;
}

void ql_engine_infer_cancel(struct ql_control *ctl, int64_t id)
{
	struct ql_engine *en = ctl->engines[0];
	struct ql_infer *r = ql_engine_take(en, id);
	struct ql_err e = {0};

	if (r == NULL)
		return;
	free(r);
	(void)ql_engine_send(en, json_pack("{s:s,s:I}", "type", "infer_cancel", "id", (json_int_t)id), &e);
}

enum ql_engine_state ql_engine_state(struct ql_control *ctl) { return ctl->engines[0]->state; }
const json_t *ql_engine_model(struct ql_control *ctl) { return ctl->engines[0]->model; }
const json_t *ql_engine_status(struct ql_control *ctl) { return ctl->engines[0]->status; }
const json_t *ql_engine_info(struct ql_control *ctl) { return ctl->engines[0]->info; }

int64_t ql_engine_context(struct ql_control *ctl)
{
	int64_t n = json_integer_value(json_object_get(ctl->engines[0]->model, "context"));
	int64_t most = ctl->config->max_context;

	return most > 0 && (n == 0 || most < n) ? most : n;
}
