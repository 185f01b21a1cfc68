/* schema.h - the one table of settings behind file, environment, flags, --help and the example. */
#ifndef QL_CONFIG_SCHEMA_H
#define QL_CONFIG_SCHEMA_H

#include <stddef.h>

#include "config/config.h"

enum ql_setting_type { QL_SET_STRING, QL_SET_INT, QL_SET_REAL, QL_SET_BOOL, QL_SET_LIST };

struct ql_setting {
	const char *name; /* snake_case */
	enum ql_setting_type type;
	size_t offset;	  /* of the field in struct ql_config */
	double min, max;  /* numbers; strings: least and most bytes; lists: most entries in max */
	const char *preset; /* default as in the environment; NULL: none */
	const char *words;  /* allowed words separated by '|', or NULL */
	const char *help;
};

extern const struct ql_setting ql_settings[];
extern const size_t ql_settings_n;

/* The row of that name, or NULL. */
const struct ql_setting *ql_setting_find(const char *name);
/* Takes `text` (environment, flag, default) for a row; `from` is named in errors ("--threads", "QLORAD_THREADS").  Lists: a
 * comma-separated text replaces; `append` adds one entry instead. */
int ql_setting_set_text(struct ql_config *c, const struct ql_setting *s, const char *text, bool append, const char *from,
			struct ql_err *e);
/* Rules between settings; base, state_dir and listen get their defaults here. */
int ql_config_finish(struct ql_config *c, char **env, struct ql_err *e);

#endif
