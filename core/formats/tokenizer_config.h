/* tokenizer_config.h - parsing tokenizer_config.json: its model_max_length is often 10^30 written as an integer, which no
 * integer type holds, so all its numbers are read as reals. */
#ifndef QL_FORMATS_TOKENIZER_CONFIG_H
#define QL_FORMATS_TOKENIZER_CONFIG_H

#include <jansson.h>

#include "core/base/err.h"

#define QL_TOKENIZER_CONFIG_MAX QL_MIB(16)

/* *out is a new reference to an object.  QL_EFORMAT with the byte offset, QL_ELIMIT. */
int ql_tokenizer_config_parse(const char *text, size_t len, json_t **out, struct ql_err *e);

#endif
