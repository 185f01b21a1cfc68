/* wire.c - frames on descriptor QL_IPC_FD; see daemon/ipc.h for the format. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "daemon/engine/engine.h"
#include "daemon/ipc.h"

static pthread_mutex_t write_lock = PTHREAD_MUTEX_INITIALIZER;

double engine_now(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* One frame if b holds a whole one. */
static int take_frame(struct ql_buf *b, json_t **out, struct ql_err *e)
{
	const unsigned char *p = (const unsigned char *)b->data;
	size_t len;
	int rc;

	if (b->len < 4)
		return QL_EBUSY;
	len = (size_t)p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24;
	if (len == 0 || len > QL_FRAME_MAX)
		return ql_err_set(e, QL_EFORMAT, "frame of %zu bytes", len);
	if (b->len < 4 + len)
		return QL_EBUSY;
	rc = ql_json_parse(b->data + 4, len, QL_FRAME_MAX, out, e);
	if (rc == QL_OK && (!json_is_object(*out) || !json_is_string(json_object_get(*out, "type")))) {
		json_decref(*out);
		rc = ql_err_set(e, QL_EFORMAT, "frame without type");
	}
	memmove(b->data, b->data + 4 + len, b->len - 4 - len);
	b->len -= 4 + len;
	return rc;
}

int engine_wire_read(struct ql_buf *b, int timeout_ms, json_t **out, struct ql_err *e)
{
	struct pollfd p = {.fd = QL_IPC_FD, .events = POLLIN};
	ssize_t n;
	int rc = take_frame(b, out, e);

	if (rc != QL_EBUSY)
		return rc;
	rc = poll(&p, 1, timeout_ms);
	if (rc == 0 || (rc < 0 && errno == EINTR))
		return QL_EBUSY;
	rc = ql_buf_reserve(b, 65536);
	if (rc != QL_OK)
		return ql_err_set(e, rc, "frame");
	n = read(QL_IPC_FD, b->data + b->len, 65536);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return QL_EBUSY;
	if (n <= 0)
		return ql_err_set(e, QL_ENOTFOUND, "control is gone");
	b->len += (size_t)n;
	return take_frame(b, out, e);
}

static bool write_all(const void *data, size_t len)
{
	const char *p = data;

	while (len > 0) {
		ssize_t n = write(QL_IPC_FD, p, len);

		if (n < 0 && errno == EAGAIN) {
			struct pollfd w = {.fd = QL_IPC_FD, .events = POLLOUT};

			(void)poll(&w, 1, 1000);
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

/* QL_ENOMEM: obj is NULL or could not be written; QL_ELIMIT: it is too large for a frame. */
static int try_send(const json_t *obj)
{
	char *text = obj == NULL ? NULL : ql_json_text(obj);
	size_t len = text == NULL ? 0 : strlen(text);
	unsigned char head[4] = {(unsigned char)len, (unsigned char)(len >> 8), (unsigned char)(len >> 16),
				 (unsigned char)(len >> 24)};

	if (text == NULL)
		return QL_ENOMEM;
	if (len > QL_FRAME_MAX) {
		free(text);
		return QL_ELIMIT;
	}
	(void)pthread_mutex_lock(&write_lock);
	/* a dead control is noticed by the reader */
	if (write_all(head, 4))
		(void)write_all(text, len);
	(void)pthread_mutex_unlock(&write_lock);
	free(text);
	return QL_OK;
}

void engine_send(json_t *obj)
{
	int rc = try_send(obj);

	json_decref(obj);
	if (rc != QL_OK) {
		ql_log(QL_LOG_ERROR, "engine", "a frame could not be made: %s", ql_code_text(rc));
		_exit(QL_EXIT_DEVICE);
	}
}

void engine_send_result(int64_t id, json_t *result)
{
	json_t *o = json_pack("{s:s, s:I, s:o}", "type", "infer_result", "id", (json_int_t)id, "result", result);
	int rc = try_send(o);
	struct ql_err e;

	json_decref(o);
	if (rc == QL_OK)
		return;
	if (rc == QL_ELIMIT)
		(void)ql_err_set(&e, rc, "The answer would be larger than %zu MiB; ask for less at a time.", QL_FRAME_MAX >> 20);
	else
		(void)ql_err_set(&e, rc, "no memory for the answer");
	engine_send_error(id, &e);
}

_Noreturn void engine_fatal(int exit_code, const struct ql_err *e)
{
	ql_log(QL_LOG_ERROR, "engine", "%s", e->message);
	engine_send(json_pack("{s:s, s:i, s:s}", "type", "fatal", "code", e->code, "message", e->message));
	_exit(exit_code); /* the device may hang in its own clean-up */
}

void engine_check_device(int rc, const struct ql_err *e)
{
	if (rc == QL_EDEVICE)
		engine_fatal(QL_EXIT_DEVICE, e);
}

const char *engine_error_word(int code, const char *param)
{
	switch (code) {
	case QL_EINVAL:
	case QL_EFORMAT:
	case QL_ESHAPE:
		return "invalid_value";
	case QL_ELIMIT:
		return param != NULL && (strcmp(param, "messages") == 0 || strcmp(param, "prompt") == 0) ? "context_length_exceeded"
												       : "invalid_value";
	case QL_EUNSUPPORTED:
		return "unsupported_value";
	case QL_ENOTFOUND:
		return "model_not_found";
	case QL_EBUSY:
		return "queue_full";
	case QL_ESTATE:
		return "draining";
	case QL_ENOSPC:
		return "no_space";
	default:
		return "internal_error";
	}
}
