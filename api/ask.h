/* ask.h - a request that the engine answers with one result: sent, waited for, cancelled when the client leaves. */
#ifndef QL_API_ASK_H
#define QL_API_ASK_H

#include "api/handlers.h"

/* Replies to r from the engine's result; form is the caller's own. */
typedef void (*ql_ask_answer)(struct ql_req *r, int form, const json_t *result);

/* Sends frame (taken over) and waits; rc and f: the outcome of building it, answered at once when it is an error. */
void ql_ask(struct ql_req *r, ql_ask_answer answer, int form, json_t *frame, int rc, struct ql_fault *f);

#endif
