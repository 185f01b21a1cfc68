/* tokenizer_config.c - see tokenizer_config.h. */
#include "core/formats/tokenizer_config.h"

#include "core/base/limits.h"

int ql_tokenizer_config_parse(const char *text, size_t len, json_t **out, struct ql_err *e)
{
	json_error_t je;

	*out = NULL;
	if (len > QL_TOKENIZER_CONFIG_MAX)
		return ql_err_set(e, QL_ELIMIT, "tokenizer_config.json: %zu bytes, more than %zu", len, QL_TOKENIZER_CONFIG_MAX);
	*out = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &je);
	if (*out == NULL)
		return ql_err_at(e, json_error_code(&je) == json_error_out_of_memory ? QL_ENOMEM : QL_EFORMAT,
				 (uint64_t)(je.position < 0 ? 0 : je.position), "tokenizer_config.json: invalid JSON: %s", je.text);
	if (!json_is_object(*out)) {
		json_decref(*out);
		*out = NULL;
		return ql_err_set(e, QL_EFORMAT, "tokenizer_config.json: not an object");
	}
	return QL_OK;
}
