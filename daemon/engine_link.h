/* engine_link.h - the control side of daemon/ipc.h: the engine process, its frames and its supervision.
 *
 * Inference requests: ql_engine_infer sends one `infer` frame and routes what comes back to the callbacks, all on the loop
 * thread, until one of done, error or result closes it.  ql_engine_infer_cancel closes it from this side: no callback
 * comes afterwards.  Callbacks may call ql_engine_infer and ql_engine_infer_cancel. */
#ifndef QL_DAEMON_ENGINE_LINK_H
#define QL_DAEMON_ENGINE_LINK_H

#include "daemon/control.h"

enum ql_engine_state { QL_ENGINE_DOWN, QL_ENGINE_LOADING, QL_ENGINE_READY, QL_ENGINE_BROKEN };

/* Frames are borrowed for the duration of the call; see ipc.h for their fields.  They are checked before: delta has index
 * (int ≥ 0), text (string), tokens (int), logprobs (null or array); finish has index and reason; done has the counts. */
struct ql_infer_cb {
	void (*delta)(void *user, const json_t *frame);
	void (*finish)(void *user, const json_t *frame);
	void (*done)(void *user, const json_t *frame);             /* closes */
	void (*error)(void *user, const struct ql_fault *f);       /* closes; also when the engine dies */
	void (*result)(void *user, const json_t *result);          /* closes (tokenize, detokenize, template) */
};

/* frame: the object of an infer frame without type and id (borrowed; kind, adapter, … as in ipc.h).  Returns the request's
 * id (> 0), or a QL_ code with *f: 503 loading | engine_unavailable | draining, 429 queue_full (retry_after 1),
 * 413 request_too_large (frame above QL_FRAME_MAX).  tokenize, detokenize and template do not count against the queue. */
int64_t ql_engine_infer(struct ql_control *ctl, json_t *frame, const struct ql_infer_cb *cb, void *user, struct ql_fault *f);
void ql_engine_infer_cancel(struct ql_control *ctl, int64_t id); /* unknown ids are ignored */

enum ql_engine_state ql_engine_state(struct ql_control *ctl);
/* The `model` object of the last `ready` frame (of an earlier start too, from the store), or NULL.  Borrowed. */
const json_t *ql_engine_model(struct ql_control *ctl);
/* The last `status` frame, or NULL; `ready` frame's memory, device, build as {device, build, memory}.  Borrowed. */
const json_t *ql_engine_status(struct ql_control *ctl);
const json_t *ql_engine_info(struct ql_control *ctl);
/* Context length in tokens, 0 if not known yet. */
int64_t ql_engine_context(struct ql_control *ctl);

#endif
