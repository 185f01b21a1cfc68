/* qnat_priv.h - what the files of the QNAT reader share. */
#ifndef QL_QNAT_QNAT_PRIV_H
#define QL_QNAT_QNAT_PRIV_H

#include "core/base/io.h"
#include "core/qnat/qnat.h"

#include <string.h>

#define QL_QNAT_HEADER 28

struct ql_qnat {
	struct ql_map map; /* empty when opened from memory */
	const uint8_t *file;
	size_t size;
	char *model_name, *model_type;
	enum ql_dtype dtype;
	struct ql_qnat_tensor *t;
	const struct ql_qnat_tensor **by_name; /* sorted */
	size_t n;
	bool offsets_true;
};

int ql_qnat_parse(struct ql_qnat *q, struct ql_err *e); /* file and size are set; on failure close q */

static inline uint32_t ql_qnat_u32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline float ql_qnat_f32(const uint8_t *p)
{
	uint32_t u = ql_qnat_u32(p);
	float f;

	memcpy(&f, &u, 4);
	return f;
}

#endif
