/* span.h - a half-open byte range of a text, shared by templates, tokenizers and datasets. */
#ifndef QL_TEXT_SPAN_H
#define QL_TEXT_SPAN_H

#include <stddef.h>

/* Bytes [begin, end) of some text; begin <= end.  Lists of spans are sorted by begin and do not touch or overlap
 * unless the function that takes or gives them says otherwise. */
struct ql_span {
	size_t begin, end;
};

#endif
