/* unicode.c - see unicode.h. */
#include "core/text/unicode.h"

enum ql_uclass ql_unicode_class(uint32_t cp)
{
	uint32_t lo, hi; /* the run sought is in [lo, hi) */

	if (cp < 0x20000) {
		lo = ql_unicode_index[cp >> 8];
		hi = (uint32_t)ql_unicode_index[(cp >> 8) + 1] + 1;
	} else if (cp < 0x110000) {
		lo = ql_unicode_index[0x200];
		hi = ql_unicode_n_runs;
	} else {
		return QL_U_OTHER;
	}
	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (ql_unicode_runs[mid] >> 8 <= cp)
			lo = mid;
		else
			hi = mid;
	}
	return (enum ql_uclass)(ql_unicode_runs[lo] & 0xff);
}
