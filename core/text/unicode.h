/* unicode.h - classes of code points for the pre-tokenisers: Unicode 16.0, from our own table, so that token ids do not
 * depend on the version of a system library. */
#ifndef QL_TEXT_UNICODE_H
#define QL_TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ql_uclass {
	QL_U_OTHER, /* controls, unassigned, private use, … */
	QL_U_LU,
	QL_U_LL,
	QL_U_LT,
	QL_U_LM,
	QL_U_LO, /* the five kinds of letters are 1..5 */
	QL_U_M,
	QL_U_N,
	QL_U_P,
	QL_U_S,
	QL_U_SPACE /* White_Space: what \s matches in Oniguruma and llama.cpp, not the same as category Z */
};

/* cp may be any number; beyond U+10FFFF gives QL_U_OTHER. */
enum ql_uclass ql_unicode_class(uint32_t cp);

static inline bool ql_u_letter(enum ql_uclass c) { return c >= QL_U_LU && c <= QL_U_LO; }

/* the data: unicode_data.c */
extern const uint32_t ql_unicode_runs[];
extern const uint32_t ql_unicode_n_runs;
extern const uint16_t ql_unicode_index[0x200 + 1];

#endif
