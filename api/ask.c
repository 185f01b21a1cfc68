/* ask.c - see ask.h. */
#include "api/ask.h"

#include <stdlib.h>

#include "api/fields.h"
#include "daemon/engine_link.h"

struct ask {
	struct ql_req *r;
	int64_t infer_id;
	ql_ask_answer answer;
	int form;
};

static void on_result(void *user, const json_t *result)
{
	struct ask *a = user;

	a->infer_id = 0;
	if (!a->r->gone)
		a->answer(a->r, a->form, result);
}

static void on_error(void *user, const struct ql_fault *f)
{
	struct ask *a = user;

	a->infer_id = 0;
	if (!a->r->gone)
		ql_reply_fault(a->r, f);
}

static const struct ql_infer_cb callbacks = {.error = on_error, .result = on_result};

static void on_gone(struct ql_req *r)
{
	struct ask *a = r->state;

	if (a->infer_id > 0)
		ql_engine_infer_cancel(r->ctl, a->infer_id);
	a->infer_id = 0;
}

static void on_free(struct ql_req *r) { free(r->state); }

void ql_ask(struct ql_req *r, ql_ask_answer answer, int form, json_t *frame, int rc, struct ql_fault *f)
{
	struct ask *a = rc == QL_OK ? calloc(1, sizeof *a) : NULL;

	if (rc == QL_OK && a == NULL)
		rc = ql_bad_internal(f);
	if (rc == QL_OK) {
		*a = (struct ask){.r = r, .answer = answer, .form = form};
		a->infer_id = ql_engine_infer(r->ctl, frame, &callbacks, a, f);
		if (a->infer_id > 0) {
			r->state = a;
			r->on_gone = on_gone;
			r->on_free = on_free;
			json_decref(frame);
			return;
		}
	}
	json_decref(frame);
	free(a);
	ql_reply_fault(r, f);
}
