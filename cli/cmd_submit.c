/* cmd_submit.c - `qlorad submit`: upload, create, perhaps watch. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cmds.h"
#include "core/base/json.h"

static int upload(const struct cli *c, const char *file, char id[64], struct ql_err *e)
{
	json_t *f = NULL;
	int rc = cli_upload(c, file, &f, e);
	const char *s = json_string_value(json_object_get(f, "id"));

	if (rc == QL_OK && s == NULL)
		rc = ql_err_set(e, QL_EFORMAT, "the server's answer to the upload has no id");
	if (rc == QL_OK)
		(void)snprintf(id, 64, "%s", s);
	json_decref(f);
	return rc;
}

/* The first model of the list is the base. */
static int base_model(const struct cli *c, char name[256], struct ql_err *e)
{
	json_t *list = NULL;
	const char *found = NULL;
	size_t i;
	json_t *m;
	int rc = cli_call(c, "GET", "/v1/models", NULL, &list, e);

	if (rc != QL_OK)
		return rc;
	json_array_foreach(json_object_get(list, "data"), i, m) {
		const char *id = json_string_value(json_object_get(m, "id"));

		if (found == NULL && id != NULL && strchr(id, ':') == NULL)
			found = id;
	}
	if (found == NULL)
		rc = ql_err_set(e, QL_EBUSY, "the server lists no base model yet");
	else
		(void)snprintf(name, 256, "%s", found);
	json_decref(list);
	return rc;
}

static int set_number(json_t *o, const char *key, const char *text, struct ql_err *e)
{
	json_t *v;
	int rc;

	if (text == NULL)
		return QL_OK;
	rc = ql_json_parse(text, strlen(text), 64, &v, e);
	if (rc == QL_OK && !json_is_number(v)) {
		json_decref(v);
		rc = QL_EINVAL;
	}
	if (rc != QL_OK)
		return ql_err_set(e, QL_EINVAL, "%s: '%s' is no number", key, text);
	return json_object_set_new(o, key, v) == 0 ? QL_OK : ql_err_set(e, QL_ENOMEM, "out of memory");
}

/* --set key=value: JSON, or a plain word taken as a string. */
static int set_any(json_t *o, char *pair, struct ql_err *e)
{
	char *eq = strchr(pair, '=');
	json_t *v;

	if (eq == NULL)
		return ql_err_set(e, QL_EINVAL, "--set needs KEY=VALUE");
	*eq = '\0';
	if (ql_json_parse(eq + 1, strlen(eq + 1), 65536, &v, NULL) != QL_OK)
		v = json_string(eq + 1);
	return v != NULL && json_object_set_new(o, pair, v) == 0 ? QL_OK : ql_err_set(e, QL_EINVAL, "--set %s: not UTF-8", pair);
}

static int options(int *argc, char **argv, json_t *body, json_t *hyper, json_t *qlora, struct ql_err *e)
{
	static const struct {
		const char *option, *key;
		int where; /* 0 hyperparameters, 1 qlora, 2 the body */
	} numbers[] = {{"epochs", "n_epochs", 0},   {"batch-size", "batch_size", 0}, {"learning-rate", "learning_rate", 1},
		       {"rank", "rank", 1},	    {"alpha", "alpha", 1},	     {"dropout", "dropout", 1},
		       {"max-steps", "max_steps", 1}, {"max-seq-length", "max_seq_length", 1}, {"seed", "seed", 2}};
	const char *bad = NULL, *v;
	int rc = QL_OK;

	for (size_t i = 0; rc == QL_OK && i < sizeof numbers / sizeof numbers[0]; i++)
		rc = set_number(numbers[i].where == 0 ? hyper : numbers[i].where == 1 ? qlora : body, numbers[i].key,
				cli_option(argc, argv, numbers[i].option, &bad), e);
	while (rc == QL_OK && (v = cli_option(argc, argv, "set", &bad)) != NULL)
		rc = set_any(qlora, (char *)(uintptr_t)v, e);
	if (rc == QL_OK && (v = cli_option(argc, argv, "suffix", &bad)) != NULL)
		(void)json_object_set_new(body, "suffix", json_string(v));
	if (rc == QL_OK && (v = cli_option(argc, argv, "model", &bad)) != NULL)
		(void)json_object_set_new(body, "model", json_string(v));
	if (rc == QL_OK && bad != NULL)
		rc = ql_err_set(e, QL_EINVAL, "--%s needs a value", bad);
	return rc;
}

static int create(const struct cli *c, const char *file, const char *valid, json_t *body, json_t **job, struct ql_err *e)
{
	char id[64], model[256];
	int rc = upload(c, file, id, e);

	if (rc == QL_OK)
		(void)json_object_set_new(body, "training_file", json_string(id));
	if (rc == QL_OK && valid != NULL) {
		rc = upload(c, valid, id, e);
		if (rc == QL_OK)
			(void)json_object_set_new(body, "validation_file", json_string(id));
	}
	if (rc == QL_OK && json_object_get(body, "model") == NULL) {
		rc = base_model(c, model, e);
		if (rc == QL_OK)
			(void)json_object_set_new(body, "model", json_string(model));
	}
	return rc == QL_OK ? cli_call(c, "POST", "/v1/fine_tuning/jobs", body, job, e) : rc;
}

int cmd_submit(const struct cli *c, int argc, char **argv)
{
	json_t *body = json_object(), *hyper = json_object(), *qlora = json_object(), *job = NULL;
	const char *bad = NULL, *valid = cli_option(&argc, argv, "validation", &bad), *id;
	bool watch = cli_flag(&argc, argv, "watch");
	struct ql_err e = {0};
	int rc = bad != NULL ? ql_err_set(&e, QL_EINVAL, "--%s needs a value", bad) : options(&argc, argv, body, hyper, qlora, &e), status = 0;

	if (rc == QL_OK && cli_unknown(argc, argv) != NULL)
		rc = ql_err_set(&e, QL_EINVAL, "unknown option %s (see qlorad submit --help)", cli_unknown(argc, argv));
	if (rc == QL_OK && argc != 1)
		rc = ql_err_set(&e, QL_EINVAL, "usage: qlorad submit FILE.jsonl [options] (see --help)");
	(void)json_object_set_new(body, "method", json_pack("{s:s, s:{s:o}}", "type", "supervised", "supervised", "hyperparameters", hyper));
	(void)json_object_set_new(body, "qlora", qlora);
	if (rc == QL_OK)
		rc = create(c, argv[0], valid, body, &job, &e);
	if (rc == QL_OK) {
		id = json_string_value(json_object_get(job, "id"));
		if (c->json)
			cli_print(job);
		else
			(void)printf("%s\n", id != NULL ? id : "");
		(void)fflush(stdout);
		if (watch && id != NULL)
			status = watch_job(c, id);
	}
	json_decref(body);
	json_decref(job);
	return rc == QL_OK ? status : cli_fail(&e);
}
