/* uni.c - what Python's str methods know about code points: white space, case, printability. */
#include <stdlib.h>
#include <utf8proc.h>

#include "core/text/tmpl/case_table.h"
#include "core/text/tmpl/value.h"

bool uni_space(uint32_t cp)
{
	return (cp >= 9 && cp <= 13) || (cp >= 0x1c && cp <= 0x20) || cp == 0x85 || cp == 0xa0 || cp == 0x1680 ||
	       (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

int uni_category(uint32_t cp) { return (int)utf8proc_category((utf8proc_int32_t)cp); }

bool uni_digit(uint32_t cp)
{
	return (cp >= '0' && cp <= '9') || (cp > 127 && uni_category(cp) == UTF8PROC_CATEGORY_ND) || cp == 0xb2 || cp == 0xb3 ||
	       cp == 0xb9 || cp == 0x2070 || (cp >= 0x2074 && cp <= 0x2079) || (cp >= 0x2080 && cp <= 0x2089);
}

static int find_special(uint32_t cp)
{
	size_t lo = 0, hi = sizeof special_case / sizeof special_case[0];

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (special_case[mid].cp == cp)
			return (int)mid;
		if (special_case[mid].cp < cp)
			lo = mid + 1;
		else
			hi = mid;
	}
	return -1;
}

static int put(const uint32_t from[3], uint32_t out[3])
{
	int n = 0;

	while (n < 3 && from[n] != 0) {
		out[n] = from[n];
		n++;
	}
	return n;
}

int uni_upper(uint32_t cp, uint32_t out[3])
{
	int i = cp < 0x80 ? -1 : find_special(cp);

	if (i >= 0)
		return put(special_case[i].upper, out);
	out[0] = cp < 0x80 ? (cp >= 'a' && cp <= 'z' ? cp - 32 : cp) : (uint32_t)utf8proc_toupper((utf8proc_int32_t)cp);
	return 1;
}

int uni_title(uint32_t cp, uint32_t out[3])
{
	int i = cp < 0x80 ? -1 : find_special(cp);

	if (i >= 0)
		return put(special_case[i].title, out);
	out[0] = cp < 0x80 ? (cp >= 'a' && cp <= 'z' ? cp - 32 : cp) : (uint32_t)utf8proc_totitle((utf8proc_int32_t)cp);
	return 1;
}

int uni_lower(uint32_t cp, uint32_t out[3])
{
	if (cp == 0x130) {
		out[0] = 'i';
		out[1] = 0x307;
		return 2;
	}
	out[0] = cp < 0x80 ? (cp >= 'A' && cp <= 'Z' ? cp + 32 : cp) : (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
	return 1;
}

bool uni_is_cased(uint32_t cp)
{
	int c = uni_category(cp);

	return c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LL || c == UTF8PROC_CATEGORY_LT;
}

bool uni_is_ignorable(uint32_t cp)
{
	int c = uni_category(cp);

	return c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_ME || c == UTF8PROC_CATEGORY_CF ||
	       c == UTF8PROC_CATEGORY_LM || c == UTF8PROC_CATEGORY_SK || cp == '\'' || cp == '.' || cp == ':' || cp == 0xb7 ||
	       cp == 0x387 || cp == 0x55f || cp == 0x5f4 || cp == 0x2018 || cp == 0x2019 || cp == 0x2024 || cp == 0x2027 ||
	       cp == 0xfe13 || cp == 0xfe52 || cp == 0xfe55 || cp == 0xff07 || cp == 0xff0e || cp == 0xff1a;
}

bool uni_printable(uint32_t cp)
{
	int c;

	if (cp < 0x80)
		return cp >= 0x20 && cp < 0x7f;
	c = uni_category(cp);
	return c != UTF8PROC_CATEGORY_CC && c != UTF8PROC_CATEGORY_CF && c != UTF8PROC_CATEGORY_CS && c != UTF8PROC_CATEGORY_CO &&
	       c != UTF8PROC_CATEGORY_CN && c != UTF8PROC_CATEGORY_ZL && c != UTF8PROC_CATEGORY_ZP &&
	       c != UTF8PROC_CATEGORY_ZS;
}
