/* engine_status.c - the engine's status frame, once a second: memory, queues and totals become metrics; the frame is kept for
 * /v1/engine and the adapters' list.  Totals of the frame count from the engine's start, those of the metrics from control's. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/base/json.h"
#include "daemon/engine_internal.h"
#include "daemon/metrics.h"

#define TURN_BUCKETS 17

static double before(const struct ql_engine *en, const char *key)
{
	return json_number_value(json_object_get(json_object_get(en->status, "counters"), key));
}

static double grown(const struct ql_engine *en, const json_t *now, const char *key)
{
	double v = json_number_value(json_object_get(now, key)), b = before(en, key);

	return v >= b ? v - b : v;
}

static void take_counter(struct ql_engine *en, const json_t *now, const char *key, enum ql_metric id, const char *labels)
{
	ql_metrics_add(en->ctl->metrics, id, labels, grown(en, now, key));
}

static void take_memory(struct ql_metrics *m, const json_t *memory)
{
	static const char *const kinds[] = {"base", "kv", "adapter", "optimizer", "activation", "scratch", "available"};
	char labels[64];

	for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
		const json_t *v = json_object_get(memory, kinds[i]);

		ql_metrics_labels(labels, sizeof labels, "kind", strcmp(kinds[i], "available") == 0 ? "free" : kinds[i], (char *)NULL);
		if (json_is_number(v))
			ql_metrics_set(m, QLM_GPU_MEMORY, labels, json_number_value(v));
	}
}

/* How many turns had how many tokens. */
static void take_turns(struct ql_engine *en, const json_t *f, const json_t *c, const char *labels)
{
	const json_t *now = json_object_get(f, "turns"), *old = json_object_get(en->status, "turns");
	uint64_t d[TURN_BUCKETS];

	if (json_array_size(now) != TURN_BUCKETS)
		return;
	for (size_t i = 0; i < TURN_BUCKETS; i++) {
		json_int_t v = json_integer_value(json_array_get(now, i)), b = json_integer_value(json_array_get(old, i));

		d[i] = (uint64_t)(v >= b ? v - b : v > 0 ? v : 0);
	}
	ql_metrics_merge(en->ctl->metrics, QLM_V_ITERATION_TOKENS, labels, d, TURN_BUCKETS, grown(en, c, "turn_tokens"));
}

/* Names of the list, joined by commas; only those with "running" where asked. */
static void join(const json_t *list, bool running, char *out, size_t size)
{
	size_t n = 0, i;
	json_t *v;

	out[0] = '\0';
	json_array_foreach (list, i, v) {
		const char *name = json_string_value(json_is_object(v) ? json_object_get(v, "name") : v);

		if (name == NULL || (running && !json_is_true(json_object_get(v, "running"))) || n + strlen(name) + 2 > size)
			continue;
		n += (size_t)snprintf(out + n, size - n, "%s%s", n > 0 ? "," : "", name);
	}
}

static void take_adapters(struct ql_engine *en, const json_t *f, const json_t *c)
{
	const json_t *list = json_object_get(f, "adapters");
	struct ql_metrics *m = en->ctl->metrics;
	char running[200], waiting[200], most[24], labels[512];

	if (!json_is_array(list))
		return;
	ql_metrics_set(m, QLM_ADAPTERS_RESIDENT, "tier=\"device\"", (double)json_array_size(list));
	take_counter(en, c, "adapters_in", QLM_ADAPTER_SWAPS, "direction=\"in\"");
	take_counter(en, c, "adapters_out", QLM_ADAPTER_SWAPS, "direction=\"out\"");
	join(list, true, running, sizeof running);
	join(json_object_get(f, "wanted"), false, waiting, sizeof waiting);
	(void)snprintf(most, sizeof most, "%" JSON_INTEGER_FORMAT, json_integer_value(json_object_get(f, "max_adapters")));
	ql_metrics_labels(labels, sizeof labels, "max_lora", most, "running_lora_adapters", running, "waiting_lora_adapters", waiting,
			  (char *)NULL);
	ql_metrics_drop(m, QLM_V_LORA_INFO, NULL);
	ql_metrics_set(m, QLM_V_LORA_INFO, labels, (double)time(NULL));
}

/* Whether /v1/status shows something else now. */
static bool shows_change(const json_t *old, const json_t *now)
{
	static const char *const keys[] = {"running", "waiting", "tokens_per_second", "memory"};

	for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
		const json_t *a = json_object_get(old, keys[i]), *b = json_object_get(now, keys[i]);

		if (a != b && !json_equal(a, b))
			return true;
	}
	return false;
}

int ql_engine_status_frame(struct ql_engine *en, const json_t *f, struct ql_err *e)
{
	const json_t *c = json_object_get(f, "counters");
	struct ql_metrics *m = en->ctl->metrics;
	int64_t running = 0, waiting = 0;
	double kv = 0, tps = 0;
	char labels[400];
	int rc;

	if ((rc = ql_json_get_int(f, "running", 0, INT32_MAX, &running, e)) != QL_OK ||
	    (rc = ql_json_get_int(f, "waiting", 0, INT32_MAX, &waiting, e)) != QL_OK ||
	    (rc = ql_json_get_num(f, "kv_usage", 0, 1.001, &kv, e)) != QL_OK ||
	    (rc = ql_json_get_num(f, "tokens_per_second", 0, 1e12, &tps, e)) != QL_OK)
		return rc;
	ql_metrics_labels(labels, sizeof labels, "model_name", en->ctl->base_name, "engine", "0", (char *)NULL);
	take_memory(m, json_object_get(f, "memory"));
	ql_metrics_set(m, QLM_V_RUNNING, labels, (double)running);
	ql_metrics_set(m, QLM_V_WAITING, labels, (double)waiting);
	ql_metrics_set(m, QLM_V_KV_USAGE, labels, kv);
	ql_metrics_set(m, QLM_V_PREEMPTIONS, labels, 0); /* blocks are set aside at admission: nothing is ever preempted */
	take_counter(en, c, "prompt_tokens", QLM_V_PROMPT_TOKENS, labels);
	take_counter(en, c, "prompt_tokens", QLM_V_PREFIX_QUERIES, labels);
	take_counter(en, c, "cached_tokens", QLM_V_PREFIX_HITS, labels);
	take_counter(en, c, "generation_tokens", QLM_V_GENERATION_TOKENS, labels);
	take_counter(en, c, "trained_tokens", QLM_TRAINED_TOKENS, "");
	take_counter(en, c, "padding_tokens", QLM_PADDING_TOKENS, "");
	take_counter(en, c, "busy_train_s", QLM_GPU_BUSY, "work=\"train\"");
	take_counter(en, c, "busy_infer_s", QLM_GPU_BUSY, "work=\"decode\"");
	take_turns(en, f, c, labels);
	take_adapters(en, f, c);
	en->tick += shows_change(en->status, f);
	json_decref(en->status);
	en->status = json_copy((json_t *)(uintptr_t)f);
	return QL_OK;
}

bool ql_engine_holds(const struct ql_control *ctl, const char *adapter)
{
	for (size_t i = 0; i < QL_ENGINES_MAX; i++) {
		const struct ql_engine *en = ctl->engines[i];
		size_t k;
		json_t *v;

		if (en == NULL || en->state != QL_ENGINE_READY)
			continue;
		json_array_foreach (json_object_get(en->status, "adapters"), k, v) {
			const char *name = json_string_value(json_object_get(v, "name"));

			if (name != NULL && strcmp(name, adapter) == 0)
				return true;
		}
	}
	return false;
}
