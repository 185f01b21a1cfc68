/* schema.c - the table of settings; see config.h for the meaning of the fields. */
#include "config/schema.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/limits.h"
#include "core/base/utf8.h"

#define AT(field) offsetof(struct ql_config, field)
#define TEXT QL_SET_STRING
#define INT QL_SET_INT
#define REAL QL_SET_REAL
#define BOOL QL_SET_BOOL
#define LIST QL_SET_LIST

const struct ql_setting ql_settings[] = {
	{"base", TEXT, AT(base), 1, 4095, NULL, NULL, "base model: a GGUF file or a Hugging Face directory (required)"},
	{"state_dir", TEXT, AT(state_dir), 1, 4000, NULL, NULL,
	 "where everything is kept; default $STATE_DIRECTORY, else $XDG_STATE_HOME/qlorad or ~/.local/state/qlorad"},
	{"listen", LIST, AT(listen), 0, 16, NULL, NULL,
	 "address:port (port 0: any) or unix:/path; default: the sockets passed by a service manager, else unix:$RUNTIME_DIRECTORY/api.sock, else 127.0.0.1:8177"},
	{"device", TEXT, AT(device), 1, 32, "auto", NULL, "auto, cpu, cuda or cuda:N"},
	{"threads", INT, AT(threads), 0, 256, "0", NULL, "CPU threads of the engine; 0: all"},
	{"model_name", TEXT, AT(model_name), 1, 128, NULL, NULL, "id of the base model; default: the name of its file"},
	{"aliases", LIST, AT(aliases), 0, 16, NULL, NULL, "further names of the base model"},
	{"max_running_jobs", INT, AT(max_running_jobs), 1, 8, "1", NULL, "jobs that train at the same time"},
	{"max_batch_rows", INT, AT(max_batch_rows), 1, QL_INFER_ROWS_MAX, "16", NULL, "sequences decoded together"},
	{"adapter_slots", INT, AT(adapter_slots), 1, QL_ADAPTER_SLOTS_MAX, "32", NULL, "adapters kept on the device"},
	{"kv_tokens", INT, AT(kv_tokens), 0, 1 << 26, "0", NULL, "tokens in the KV cache; 0: from memory"},
	{"max_context", INT, AT(max_context), 0, QL_CONTEXT_MAX, "0", NULL, "longest sequence; 0: the model's"},
	{"inter_token_target_ms", REAL, AT(inter_token_target_ms), 1, 10000, "50", NULL,
	 "time between tokens of a request that training is to leave room for"},
	{"snapshot_seconds", INT, AT(snapshot_seconds), 5, 86400, "60", NULL, "training that a crash may cost at most"},
	{"upload_max_bytes", INT, AT(upload_max_bytes), 1024, 1099511627776.0, "536870912", NULL, "largest upload"},
	{"allow_remote", BOOL, AT(allow_remote), 0, 1, "false", NULL, "permit listen addresses that are not loopback (put TLS in front)"},
	{"no_auth", BOOL, AT(no_auth), 0, 1, "false", NULL, "no tokens; only on loopback addresses and UNIX sockets"},
	{"hosts", LIST, AT(hosts), 0, 64, NULL, NULL, "Host names accepted besides localhost and loopback addresses"},
	{"origins", LIST, AT(origins), 0, 64, NULL, NULL, "web origins that browsers may call from, as https://name"},
	{"report_paused_as", TEXT, AT(report_paused_as), 1, 8, "paused", "paused|queued", "status of a paused job in the API"},
	{"metrics_compat", BOOL, AT(metrics_compat), 0, 1, "true", NULL, "also serve metrics under vLLM's names"},
	{"log_level", TEXT, AT(log_level), 1, 8, "info", "error|warn|info|debug", "what is logged"},
	{"min_examples", INT, AT(min_examples), 10, 1000000, "10", NULL, "examples that a training file must have"},
	{"max_waiting_jobs", INT, AT(max_waiting_jobs), 1, QL_JOBS_WAITING_MAX, "1000", NULL, "jobs that may wait or be paused"},
	{"max_waiting_requests", INT, AT(max_waiting_requests), 1, QL_INFER_WAITING_MAX, "256", NULL, "inference requests under way"},
	{"max_files", INT, AT(max_files), 1, QL_FILES_MAX, "10000", NULL, "files kept"},
	{"max_file_bytes", INT, AT(max_file_bytes), 1024, 1e15, "53687091200", NULL, "bytes of all files together"},
	{"max_exports_kept", INT, AT(max_exports_kept), 1, 1000, "32", NULL, "finished exports kept; the oldest go first"},
	{"export_days", INT, AT(export_days), 1, 3650, "7", NULL, "days that a finished export is kept"},
	{"space_reserve_bytes", INT, AT(space_reserve_bytes), 0, 1e15, "1073741824", NULL,
	 "disk space left free; below it jobs pause and uploads are refused"},
	{"drain_seconds", INT, AT(drain_seconds), 1, 600, "20", NULL, "time that running answers get at SIGTERM"},
};
const size_t ql_settings_n = sizeof ql_settings / sizeof ql_settings[0];

const struct ql_setting *ql_setting_find(const char *name)
{
	for (size_t i = 0; i < ql_settings_n; i++)
		if (strcmp(ql_settings[i].name, name) == 0)
			return &ql_settings[i];
	return NULL;
}

static int set_number(struct ql_config *c, const struct ql_setting *s, const char *text, const char *from, struct ql_err *e)
{
	char *at = (char *)c + s->offset, *end = NULL;
	long long n;
	double v;

	errno = 0;
	if (s->type == QL_SET_INT) {
		n = strtoll(text, &end, 10);
		v = (double)n;
	} else {
		n = 0;
		v = strtod(text, &end);
	}
	if (end == text || *end != '\0' || errno != 0 || !isfinite(v))
		return ql_err_param(e, QL_EINVAL, s->name, "%s: '%.80s' is not %s", from, text,
				    s->type == QL_SET_INT ? "an integer" : "a number");
	if (v < s->min || v > s->max)
		return ql_err_param(e, QL_EINVAL, s->name, "%s: %.80s is not between %.15g and %.15g", from, text, s->min, s->max);
	if (s->type == QL_SET_INT)
		*(int64_t *)at = n;
	else
		*(double *)at = v;
	return QL_OK;
}

static bool is_word(const char *words, const char *text)
{
	size_t n = strlen(text);

	while (*words != '\0') {
		size_t w = strcspn(words, "|");

		if (w == n && strncmp(words, text, n) == 0)
			return true;
		words += w + (words[w] == '|');
	}
	return false;
}

static int set_string(struct ql_config *c, const struct ql_setting *s, const char *text, const char *from, struct ql_err *e)
{
	char **at = (char **)((char *)c + s->offset), *copy;
	size_t n = strlen(text);

	if ((double)n < s->min || (double)n > s->max)
		return ql_err_param(e, QL_EINVAL, s->name, "%s: must have %.0f to %.0f bytes", from, s->min, s->max);
	if (s->words != NULL && !is_word(s->words, text))
		return ql_err_param(e, QL_EINVAL, s->name, "%s: '%.80s' is none of %s", from, text, s->words);
	if (!ql_utf8_valid(text, n, NULL)) /* it goes to the engine, and into answers, as JSON */
		return ql_err_param(e, QL_EINVAL, s->name, "%s: must be UTF-8", from);
	copy = strdup(text);
	if (copy == NULL)
		return ql_err_set(e, QL_ENOMEM, "settings");
	free(*at);
	*at = copy;
	return QL_OK;
}

static int list_add(struct ql_strings *l, const char *text, size_t len, const struct ql_setting *s, const char *from, struct ql_err *e)
{
	char **v;

	if (len == 0 || len > 4095 || !ql_utf8_valid(text, len, NULL))
		return ql_err_param(e, QL_EINVAL, s->name, "%s: an entry must have 1 to 4095 bytes of UTF-8", from);
	if ((double)l->n >= s->max)
		return ql_err_param(e, QL_EINVAL, s->name, "%s: more than %.0f entries", from, s->max);
	v = realloc(l->v, (l->n + 1) * sizeof *v);
	if (v == NULL)
		return ql_err_set(e, QL_ENOMEM, "settings");
	l->v = v;
	l->v[l->n] = strndup(text, len);
	if (l->v[l->n] == NULL)
		return ql_err_set(e, QL_ENOMEM, "settings");
	l->n++;
	return QL_OK;
}

static int set_list(struct ql_config *c, const struct ql_setting *s, const char *text, bool append, const char *from, struct ql_err *e)
{
	struct ql_strings *l = (struct ql_strings *)((char *)c + s->offset);
	int rc = QL_OK;

	if (append)
		return list_add(l, text, strlen(text), s, from, e);
	while (l->n > 0)
		free(l->v[--l->n]);
	while (rc == QL_OK && *text != '\0') {
		size_t n = strcspn(text, ",");

		rc = list_add(l, text, n, s, from, e);
		text += n + (text[n] == ',');
	}
	return rc;
}

int ql_setting_set_text(struct ql_config *c, const struct ql_setting *s, const char *text, bool append, const char *from,
		struct ql_err *e)
{
	bool *flag = (bool *)((char *)c + s->offset);

	switch (s->type) {
	case QL_SET_STRING:
		return set_string(c, s, text, from, e);
	case QL_SET_LIST:
		return set_list(c, s, text, append, from, e);
	case QL_SET_BOOL:
		if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0 && strcmp(text, "1") != 0 && strcmp(text, "0") != 0)
			return ql_err_param(e, QL_EINVAL, s->name, "%s: '%.80s' is neither true nor false", from, text);
		*flag = text[0] == 't' || text[0] == '1';
		return QL_OK;
	default:
		return set_number(c, s, text, from, e);
	}
}
