/* sse.h - the text of server-sent events (WHATWG HTML §9.2): fields one a line, an empty line ends the event. */
#ifndef QL_API_SSE_H
#define QL_API_SSE_H

#include <jansson.h>

#include "core/base/buf.h"

/* "id: …\nevent: …\ndata: {…}\n\n"; id and event may be NULL and hold no line breaks.  data is written as compact JSON,
 * which has none.  QL_OK or QL_ENOMEM (also for JSON that cannot be written); then nothing was added. */
int ql_sse_json(struct ql_buf *b, const char *id, const char *event, const json_t *data);
/* "data: TEXT\n\n" with one data line for each line of text. */
int ql_sse_text(struct ql_buf *b, const char *text);
/* "retry: MS\n\n": how long a client waits before it reconnects. */
int ql_sse_retry(struct ql_buf *b, unsigned ms);
/* ": TEXT\n\n", ignored by clients. */
int ql_sse_comment(struct ql_buf *b, const char *text);

#endif
