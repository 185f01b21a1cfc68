/* upload.c - POST /v1/files: the form is parsed while it arrives, the file's bytes go straight to disk (api.md §4).
 *
 * Fields may come in any order; unknown ones are ignored.  A fault stops the writing at once and is answered when the body
 * is in.  The answer waits for the file to be durable (daemon/files.h). */
#include <stdlib.h>
#include <string.h>

#include "api/reply.h"
#include "daemon/files.h"

enum field { FIELD_NONE, FIELD_FILE, FIELD_PURPOSE, FIELD_ANCHOR, FIELD_SECONDS, FIELD_COUNT };

#define VALUE_MAX 256

struct ql_upload_form {
	struct ql_multipart parser;
	struct ql_upload *upload; /* owned until commit */
	bool committed;
	enum field field; /* of the part being read */
	bool seen[FIELD_COUNT];
	char filename[1024];
	char value[FIELD_COUNT][VALUE_MAX];
	size_t value_len[FIELD_COUNT];
	struct ql_fault fault; /* of a callback; status 0: the parser's own error counts */
};

static const char *const names[FIELD_COUNT] = {"", "file", "purpose", "expires_after[anchor]", "expires_after[seconds]"};

static int on_begin(void *user, const struct ql_part *part, struct ql_err *e)
{
	struct ql_req *r = user;
	struct ql_upload_form *form = r->form;

	(void)e;
	form->field = FIELD_NONE;
	for (int i = 1; i < FIELD_COUNT; i++)
		if (strcmp(names[i], part->name) == 0)
			form->field = (enum field)i;
	if (form->field == FIELD_NONE)
		return QL_OK;
	if (form->seen[form->field])
		return ql_bad_value(&form->fault, names[form->field], "The field '%s' is given twice.", names[form->field]);
	form->seen[form->field] = true;
	if (form->field != FIELD_FILE)
		return QL_OK;
	if (!part->has_filename)
		return ql_bad_value(&form->fault, "file", "The field 'file' must be a file with a filename.");
	memcpy(form->filename, part->filename, sizeof form->filename);
	return ql_file_begin(r->ctl, &r->who, &form->upload, &form->fault);
}

static int on_data(void *user, const char *data, size_t len, struct ql_err *e)
{
	struct ql_req *r = user;
	struct ql_upload_form *form = r->form;
	size_t *have = &form->value_len[form->field];

	(void)e;
	if (form->field == FIELD_NONE)
		return QL_OK;
	if (form->field == FIELD_FILE)
		return ql_file_append(form->upload, data, len, &form->fault);
	if (*have + len >= VALUE_MAX || memchr(data, '\0', len) != NULL)
		return ql_bad_value(&form->fault, names[form->field], "Invalid value for '%s'.", names[form->field]);
	memcpy(form->value[form->field] + *have, data, len);
	*have += len;
	return QL_OK;
}

static int on_end(void *user, struct ql_err *e)
{
	(void)user;
	(void)e;
	return QL_OK;
}

static const struct ql_multipart_cb callbacks = {on_begin, on_data, on_end};

int ql_upload_begin(struct ql_req *r, struct ql_fault *f)
{
	struct ql_err e = {0};

	r->form = calloc(1, sizeof *r->form);
	if (r->form == NULL)
		return ql_bad_internal(f);
	if (ql_multipart_init(&r->form->parser, r->headers.type, &callbacks, r, &e) != QL_OK)
		return ql_bad_value(f, "Content-Type", "Malformed upload: %s.", e.message);
	return QL_OK;
}

/* The fault of a callback, or else of the parser; the temporary file is removed at once. */
static int failed(struct ql_req *r, const struct ql_err *e, struct ql_fault *f)
{
	struct ql_upload_form *form = r->form;

	if (form->fault.status != 0)
		*f = form->fault;
	else
		(void)ql_bad_value(f, NULL, "Malformed upload: %s.", e->message);
	ql_file_abort(form->upload);
	form->upload = NULL;
	return QL_EINVAL;
}

int ql_upload_feed(struct ql_req *r, const char *data, size_t len, struct ql_fault *f)
{
	struct ql_err e = {0};

	return ql_multipart_feed(&r->form->parser, data, len, &e) == QL_OK ? QL_OK : failed(r, &e, f);
}

static void on_stored(void *user, const struct ql_fault *f, struct ql_reply *reply)
{
	struct ql_req *r = user;

	r->form->upload = NULL;
	r->on_gone = NULL;
	if (f->status != 0)
		ql_reply_fault(r, f);
	else
		ql_reply_repeatable(r, reply);
}

static void on_gone(struct ql_req *r)
{
	if (r->form->committed && r->form->upload != NULL)
		ql_upload_forget(r->form->upload);
	r->form->upload = NULL;
}

void ql_upload_end(struct ql_req *r)
{
	struct ql_upload_form *form = r->form;
	struct ql_upload_meta meta = {0};
	struct ql_fault f = {0};
	struct ql_err e = {0};
	struct ql_idem idem;

	if (ql_multipart_finish(&form->parser, &e) != QL_OK) {
		(void)failed(r, &e, &f);
	} else if (!form->seen[FIELD_FILE]) {
		(void)ql_bad_missing(&f, "file");
	} else if (!form->seen[FIELD_PURPOSE]) {
		(void)ql_bad_missing(&f, "purpose");
	} else if (ql_req_idem(r, &idem, &f) == QL_OK) {
		meta.filename = form->filename;
		meta.purpose = form->value[FIELD_PURPOSE];
		meta.expires_anchor = form->seen[FIELD_ANCHOR] ? form->value[FIELD_ANCHOR] : NULL;
		meta.expires_seconds = form->seen[FIELD_SECONDS] ? form->value[FIELD_SECONDS] : NULL;
		form->committed = true;
		r->on_gone = on_gone;
		ql_file_commit(form->upload, &meta, &idem, on_stored, r);
		return;
	}
	ql_reply_fault(r, &f);
}

void ql_upload_drop(struct ql_req *r)
{
	if (r->form == NULL)
		return;
	if (!r->form->committed)
		ql_file_abort(r->form->upload);
	free(r->form);
	r->form = NULL;
}
