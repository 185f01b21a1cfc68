/* assets.h - the dashboard's static files, turned into arrays at build time by dashboard/embed.py. */
#ifndef QL_API_ASSETS_H
#define QL_API_ASSETS_H

#include <stddef.h>

struct ql_asset {
	const char *name, *type, *etag; /* etag: with its quotes */
	const unsigned char *data;
	size_t len;
};

extern const struct ql_asset ql_assets[];
extern const size_t ql_assets_n;

#endif
