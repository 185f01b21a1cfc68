/* probe.c - see probe.h.  Each probe renders a conversation with needles in it and looks for them in the output. */
#include "core/text/tmpl/probe.h"

#include <string.h>

#include "core/base/json.h"
#include "core/text/tmpl/ast.h"

#define PROBE_STEPS 20000 /* of all of them together; the models' own templates take up to 4,000 */
#define COMMON "\"add_generation_prompt\":false,\"documents\":null,\"bos_token\":\"\",\"eos_token\":\"\"," \
	       "\"pad_token\":\"\",\"unk_token\":\"\""

static const char probe_string[] = "{" COMMON ",\"messages\":[{\"role\":\"user\",\"content\":\"qNEEDLEq\"}]}";
static const char probe_parts[] =
	"{" COMMON ",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"qNEEDLEq\"}]}]}";
static const char probe_args[] =
	"{" COMMON ",\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":["
	"{\"id\":\"abcdefghi\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":{\"qNEEDLEq\":\"v\"}}}]},"
	"{\"role\":\"tool\",\"tool_call_id\":\"abcdefghi\",\"name\":\"f\",\"content\":\"r\"},"
	"{\"role\":\"assistant\",\"content\":\"b\"}]}";

static const char probe_tools[] = "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"d\",\"parameters\":"
				  "{\"type\":\"object\",\"properties\":{}}}}]";

/* Renders the probe; *found if the needle is in the output and `bad` is not.  tools: a JSON text. */
static int probe_with(const struct ql_tmpl *t, const char *text, const char *tools, const char *bad, uint64_t *steps, bool *found,
		      struct ql_err *e)
{
	struct ql_tmpl_env env = {.now_unix = 1700000000};
	struct ql_rendered r = {0};
	struct ql_err why = {0};
	json_t *vars = NULL, *list = json_loads(tools, JSON_DECODE_ANY, NULL);
	int rc = ql_json_parse(text, strlen(text), 4096, &vars, e);

	*found = false;
	if (rc == QL_OK && json_object_set(vars, "tools", list) != 0)
		rc = ql_err_set(e, QL_ENOMEM, "template");
	if (rc == QL_OK) {
		env.vars = vars;
		rc = tmpl_render_within(t, &env, steps, &r, &why);
		*found = rc == QL_OK && strstr(r.text.data, "qNEEDLEq") != NULL && strstr(r.text.data, bad) == NULL;
		rc = rc == QL_ENOMEM ? ql_err_set(e, QL_ENOMEM, "template") : QL_OK;
	}
	ql_rendered_free(&r);
	json_decref(list);
	json_decref(vars);
	return rc;
}

/* Without tools, else with one: a template named tool_use may want it. */
static int probe(const struct ql_tmpl *t, const char *text, const char *bad, uint64_t *steps, bool *found, struct ql_err *e)
{
	int rc = probe_with(t, text, "null", bad, steps, found, e);

	return rc != QL_OK || *found ? rc : probe_with(t, text, probe_tools, bad, steps, found, e);
}

int tmpl_probe(struct ql_tmpl *t, struct ql_err *e)
{
	uint64_t steps = PROBE_STEPS;
	bool takes_string = false;
	int rc = probe(t, probe_string, "\a", &steps, &takes_string, e);

	if (rc == QL_OK)
		rc = probe(t, probe_parts, "type", &steps, &t->takes_parts, e);
	if (rc == QL_OK)
		rc = probe(t, probe_args, "{'qNEEDLEq", &steps, &t->takes_object_args, e);
	t->needs_parts = t->takes_parts && !takes_string;
	return rc;
}
