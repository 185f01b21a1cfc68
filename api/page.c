/* page.c - see page.h. */
#include "api/page.h"

int ql_page_read(const struct ql_target *t, int64_t dflt, int64_t max, struct ql_page *out, struct ql_fault *f)
{
	int rc;

	*out = (struct ql_page){0};
	rc = ql_query_limit(t, dflt, max, &out->limit, f);
	if (rc == QL_OK)
		rc = ql_query_str(t, "after", 256, &out->after, f);
	return rc;
}
