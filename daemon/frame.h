/* frame.h - the framing of daemon/ipc.h: u32 little-endian length, then one JSON object with a string "type". */
#ifndef QL_DAEMON_FRAME_H
#define QL_DAEMON_FRAME_H

#include <jansson.h>

#include "core/base/buf.h"
#include "core/base/err.h"

/* Appends the frame to *out.  QL_ELIMIT above QL_FRAME_MAX; then *out is as before. */
int ql_frame_encode(const json_t *frame, struct ql_buf *out, struct ql_err *e);

struct ql_frame_reader {
	struct ql_buf buf; /* bytes of an unfinished frame */
};

/* Takes bytes as they come and calls on_frame for each whole frame (borrowed).  Stops with on_frame's code if that is not
 * QL_OK.  QL_EFORMAT, QL_ELIMIT: the peer breaks the protocol; the reader must not be used any more. */
int ql_frame_feed(struct ql_frame_reader *r, const void *data, size_t len, int (*on_frame)(void *user, json_t *frame, struct ql_err *e),
		  void *user, struct ql_err *e);
void ql_frame_reader_free(struct ql_frame_reader *r);

#endif
