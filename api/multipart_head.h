/* multipart_head.h - header values with parameters, and the head of one multipart part.
 *   value  := token *( OWS ";" OWS name "=" ( token | quoted-string ) )
 * In quoted strings \" and \\ are unescaped, any other backslash stays (old browsers sent paths).  name* (RFC 5987,
 * UTF-8 only) wins over name. */
#ifndef QL_API_MULTIPART_HEAD_H
#define QL_API_MULTIPART_HEAD_H

#include <stdbool.h>
#include <stddef.h>

#include "api/multipart.h"

/* The parameter `name` of a header value into out (size with the NUL).  Absent: out = "" and *found = false.
 * QL_EFORMAT if malformed, given twice, too long, or with control bytes. */
int ql_header_param(const char *value, const char *name, char *out, size_t size, bool *found, struct ql_err *e);
/* Parses head[0..len), which ends in an empty line; needs Content-Disposition: form-data with a name. */
int ql_part_head_parse(const char *head, size_t len, struct ql_part *part, struct ql_err *e);

#endif
