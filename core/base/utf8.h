/* utf8.h - UTF-8 (RFC 3629): validation and single steps.  No overlong forms, surrogates or values above U+10FFFF. */
#ifndef QL_BASE_UTF8_H
#define QL_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decodes one code point at s[0..len).  Returns its length 1..4 and sets *cp, or 0 if the bytes are invalid, or -1 if
 * they are the valid beginning of a longer sequence (more input needed). */
int ql_utf8_decode(const char *s, size_t len, uint32_t *cp);
/* Writes cp to out, returns 1..4; cp must be a valid scalar value. */
int ql_utf8_encode(uint32_t cp, char out[4]);
/* True if s[0..len) is valid; else *bad (if not NULL) is the offset of the first bad byte. */
bool ql_utf8_valid(const char *s, size_t len, size_t *bad);
/* Length of the longest prefix of s that does not end in the middle of a valid sequence. */
size_t ql_utf8_whole(const char *s, size_t len);

#endif
