/* messages.h - the messages and tools of a chat request: checked, and brought into the one form the engine takes.
 *
 *   out message: {role, content: string | null, name?, tool_call_id?, tool_calls?}
 * Text parts are joined; `developer` becomes `system`, the name that chat templates know.  Images, audio and files are
 * refused.  Faults name the place: messages[3].content[0].type. */
#ifndef QL_API_MESSAGES_H
#define QL_API_MESSAGES_H

#include <jansson.h>

#include "api/bad.h"

/* in: the `messages` value (may be NULL).  *out: new array. */
int ql_messages_read(const json_t *in, json_t **out, struct ql_fault *f);

/* tools / functions / tool_choice / function_call of body → *out: new array of tools, or NULL when there are none or the
 * choice is none. */
int ql_tools_read(const json_t *body, json_t **out, struct ql_fault *f);

/* add_generation_prompt, continue_final_message, chat_template_kwargs of body into frame (with messages and tools). */
int ql_template_read(const json_t *body, json_t *frame, struct ql_fault *f);

#endif
