/* text_ops.h - string work shared by filters and methods. */
#ifndef QL_TMPL_TEXT_OPS_H
#define QL_TMPL_TEXT_OPS_H

#include "core/text/tmpl/value.h"

enum strip { STRIP_LEFT = 1, STRIP_RIGHT = 2 };
int text_strip(struct vm *m, struct val s, struct val chars, int sides, struct val *out); /* chars: string or none */
int text_case(struct vm *m, struct val s, bool upper, struct val *out);
int text_capitalize(struct vm *m, struct val s, struct val *out);
/* count < 0: all. */
int text_replace(struct vm *m, struct val s, struct val old, struct val new_text, int64_t count, struct val *out);
int text_join(struct vm *m, struct val sep, struct val items, struct val *out); /* items: str() of each */
int text_splitlines(struct vm *m, struct val s, bool keep, struct list *out);
/* Lower case of s[begin..end) appended. */
int text_lower_part(struct vm *m, struct sb *b, const struct str *s, size_t begin, size_t end);
int text_upper_part(struct vm *m, struct sb *b, const struct str *s, size_t begin, size_t end);
/* First occurrence of sub in s[from..to), or SIZE_MAX. */
size_t text_find(const struct str *s, const struct str *sub, size_t from, size_t to);
size_t text_rfind(const struct str *s, const struct str *sub, size_t from, size_t to);
/* The code point at byte i and its length. */
size_t text_cp(const struct str *s, size_t i, uint32_t *cp);

#endif
