/* peft_config.h - adapter_config.json: parsed form and the questions the reader asks it. */
#ifndef QL_FORMATS_PEFT_CONFIG_H
#define QL_FORMATS_PEFT_CONFIG_H

#include <jansson.h>

#include "core/formats/peft.h"

#define QL_PEFT_REGEX_MAX 8192 /* bytes of one pattern */

struct ql_peft_patterns;

struct ql_peft_config {
	json_t *json; /* owns every string below */
	uint32_t r;
	double alpha, dropout;
	bool rslora;
	const json_t *targets, *exclude;    /* list or string; NULL = none */
	const json_t *layers;		    /* list of integers, an integer, or NULL = all */
	const json_t *rank_pattern, *alpha_pattern; /* objects or NULL */
	const char *base_name;		    /* "" if none */
	struct ql_peft_patterns *targets_regex, *exclude_regex; /* where those are strings */
	struct ql_peft_patterns *ranks, *alphas;
};

int ql_peft_config_parse(struct ql_peft_config *c, const char *text, size_t len, struct ql_err *e);
void ql_peft_config_free(struct ql_peft_config *c);

/* Does the config put an adapter on `module` ("model.layers.0.self_attn.q_proj") of that layer? */
int ql_peft_config_targets(const struct ql_peft_config *c, const char *module, uint32_t layer, bool *yes, struct ql_err *e);
/* r and alpha of that module, patterns applied. */
int ql_peft_config_scale(const struct ql_peft_config *c, const char *module, uint32_t *r, double *alpha, struct ql_err *e);

/* The keys of a rank_pattern or alpha_pattern object as regular expressions, compiled once (what: its name, for messages).  The object is
 * borrowed; NULL is one without keys.  QL_EFORMAT: a key is no pattern; QL_ELIMIT: they are too large together. */
int ql_peft_patterns_new(struct ql_peft_patterns **out, const char *what, const json_t *pattern, struct ql_err *e);
/* The same with one pattern that must match the whole name. */
int ql_peft_regex_new(struct ql_peft_patterns **out, const char *what, const char *pattern, struct ql_err *e);
/* The first key K (in the object's order) for which ^(.*\.)?(K)$ matches the module's name; NULL if none does.  QL_ELIMIT: a match takes
 * too long.  One thread at a time. */
int ql_peft_patterns_find(struct ql_peft_patterns *p, const char *module, const char **key, struct ql_err *e);
void ql_peft_patterns_free(struct ql_peft_patterns *p);

/* "model.layers.N.self_attn.q_proj" of a layer and module; out holds QL_PEFT_MODULE_MAX bytes. */
#define QL_PEFT_MODULE_MAX 80
void ql_peft_module_path(uint32_t layer, int module, char *out);

#endif
