/* metrics.c - see metrics.h.  families[] is the list of api.md §14, row for row. */
#include "daemon/metrics.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/err.h"

#define LABELS_MAX 512
#define SERIES_MAX 1024 /* of one family: label values are closed sets, this is a guard */
#define BUCKETS_MAX 24

enum kind { COUNTER, GAUGE, HISTOGRAM };

struct family {
	const char *name; /* counters without _total */
	enum kind kind;
	const char *help;
	const double *buckets; /* ascending, ended by INFINITY */
	bool compat;
};

struct series {
	char *labels;
	double value;	   /* histograms: sum */
	uint64_t count;	   /* histograms */
	uint64_t *buckets; /* histograms: not cumulative; the last is +Inf */
	struct series *next;
};

struct ql_metrics {
	bool compat;
	struct series *first[QLM_COUNT];
	size_t n[QLM_COUNT];
};

static const double step_buckets[] = {.05, .1, .25, .5, 1, 2, 5, 10, 30, 60, INFINITY};
static const double short_buckets[] = {.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, INFINITY};
static const double long_buckets[] = {.1, .5, 1, 2, 5, 10, 30, 60, 120, 300, INFINITY};
static const double byte_buckets[] = {1e5, 1e6, 1e7, 5e7, 1e8, 5e8, 1e9, 5e9, 1e10, INFINITY};
static const double ttft_buckets[] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1,
				      2.5,  5,	  7.5, 10,  20,  40,  80,  160, 640, 2560, INFINITY};
static const double itl_buckets[] = {.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, INFINITY};
static const double e2e_buckets[] = {.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920,
		7680, INFINITY};
static const double token_buckets[] = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, INFINITY};

static const struct family families[QLM_COUNT] = {
	[QLM_BUILD_INFO] = {"qlorad_build_info", GAUGE, "Version and device of this daemon.", NULL, false},
	[QLM_ENGINE_UP] = {"qlorad_engine_up", GAUGE, "1 while the engine is ready.", NULL, false},
	[QLM_ENGINE_RESTARTS] = {"qlorad_engine_restarts", COUNTER, "Engine restarts by reason.", NULL, false},
	[QLM_JOBS] = {"qlorad_jobs", GAUGE, "Fine-tuning jobs by status.", NULL, false},
	[QLM_JOB_STEP] = {"qlorad_job_step", GAUGE, "Last finished step of a running job.", NULL, false},
	[QLM_JOB_TOTAL_STEPS] = {"qlorad_job_total_steps", GAUGE, "Planned steps of a running job.", NULL, false},
	[QLM_JOB_TRAIN_LOSS] = {"qlorad_job_train_loss", GAUGE, "Training loss of the last step.", NULL, false},
	[QLM_JOB_LEARNING_RATE] = {"qlorad_job_learning_rate", GAUGE, "Learning rate of the last step.", NULL, false},
	[QLM_JOB_GRAD_NORM] = {"qlorad_job_grad_norm", GAUGE, "Gradient norm of the last step before clipping.", NULL, false},
	[QLM_JOB_STEP_SECONDS] = {"qlorad_job_step_seconds", HISTOGRAM, "Time of one optimiser step.", step_buckets, false},
	[QLM_TRAINED_TOKENS] = {"qlorad_trained_tokens", COUNTER, "Tokens trained on.", NULL, false},
	[QLM_PADDING_TOKENS] = {"qlorad_padding_tokens", COUNTER, "Padding computed in training.", NULL, false},
	[QLM_CHECKPOINT_SECONDS] = {"qlorad_checkpoint_seconds", HISTOGRAM, "Time from one checkpoint phase to its row.", long_buckets, false},
	[QLM_CHECKPOINT_BYTES] = {"qlorad_checkpoint_bytes", HISTOGRAM, "Size of a checkpoint.", byte_buckets, false},
	[QLM_ADAPTERS_RESIDENT] = {"qlorad_adapters_resident", GAUGE, "Adapters by tier.", NULL, false},
	[QLM_ADAPTER_SWAPS] = {"qlorad_adapter_swaps", COUNTER, "Adapters moved between tiers.", NULL, false},
	[QLM_GPU_MEMORY] = {"qlorad_gpu_memory_bytes", GAUGE, "Device memory by use.", NULL, false},
	[QLM_GPU_BUSY] = {"qlorad_gpu_busy_seconds", COUNTER, "Device time by work.", NULL, false},
	[QLM_HTTP_REQUESTS] = {"qlorad_http_requests", COUNTER, "HTTP requests by route, method and status.", NULL, false},
	[QLM_HTTP_REQUEST_SECONDS] = {"qlorad_http_request_seconds", HISTOGRAM, "Time to answer by route.", short_buckets, false},
	[QLM_HTTP_CONNECTIONS] = {"qlorad_http_connections", GAUGE, "Open connections.", NULL, false},
	[QLM_HTTP_REJECTED] = {"qlorad_http_rejected", COUNTER, "Connections and requests refused by reason.", NULL, false},
	[QLM_DB_COMMIT_SECONDS] = {"qlorad_db_commit_seconds", HISTOGRAM, "Time of a database commit.", short_buckets, false},
	[QLM_LOOP_STALL_SECONDS] = {"qlorad_loop_stall_seconds", HISTOGRAM, "Lateness of the control loop's tick.", short_buckets, false},
	[QLM_STATE_BYTES] = {"qlorad_state_bytes", GAUGE, "Bytes of the state directory by kind.", NULL, false},
	[QLM_PROCESS_CPU] = {"process_cpu_seconds", COUNTER, "User and system CPU time.", NULL, false},
	[QLM_PROCESS_RSS] = {"process_resident_memory_bytes", GAUGE, "Resident memory.", NULL, false},
	[QLM_PROCESS_OPEN_FDS] = {"process_open_fds", GAUGE, "Open file descriptors.", NULL, false},
	[QLM_PROCESS_MAX_FDS] = {"process_max_fds", GAUGE, "Limit of open file descriptors.", NULL, false},
	[QLM_PROCESS_START] = {"process_start_time_seconds", GAUGE, "Start time since the epoch.", NULL, false},
	[QLM_V_RUNNING] = {"vllm:num_requests_running", GAUGE, "Requests being decoded.", NULL, true},
	[QLM_V_WAITING] = {"vllm:num_requests_waiting", GAUGE, "Requests waiting.", NULL, true},
	[QLM_V_KV_USAGE] = {"vllm:kv_cache_usage_perc", GAUGE, "KV cache use, 1 = full.", NULL, true},
	[QLM_V_LORA_INFO] = {"vllm:lora_requests_info", GAUGE, "Adapters of running and waiting requests.", NULL, true},
	[QLM_V_PROMPT_TOKENS] = {"vllm:prompt_tokens", COUNTER, "Prompt tokens processed.", NULL, true},
	[QLM_V_GENERATION_TOKENS] = {"vllm:generation_tokens", COUNTER, "Tokens generated.", NULL, true},
	[QLM_V_SUCCESS] = {"vllm:request_success", COUNTER, "Finished requests by reason.", NULL, true},
	[QLM_V_PREEMPTIONS] = {"vllm:num_preemptions", COUNTER, "Requests moved out of the cache.", NULL, true},
	[QLM_V_PREFIX_QUERIES] = {"vllm:prefix_cache_queries", COUNTER, "Tokens looked up in the prefix cache.", NULL, true},
	[QLM_V_PREFIX_HITS] = {"vllm:prefix_cache_hits", COUNTER, "Tokens found in the prefix cache.", NULL, true},
	[QLM_V_TTFT] = {"vllm:time_to_first_token_seconds", HISTOGRAM, "Time to the first token.", ttft_buckets, true},
	[QLM_V_ITL] = {"vllm:inter_token_latency_seconds", HISTOGRAM, "Time between tokens.", itl_buckets, true},
	[QLM_V_E2E] = {"vllm:e2e_request_latency_seconds", HISTOGRAM, "Time of a whole request.", e2e_buckets, true},
	[QLM_V_QUEUE_TIME] = {"vllm:request_queue_time_seconds", HISTOGRAM, "Time waiting.", e2e_buckets, true},
	[QLM_V_PREFILL_TIME] = {"vllm:request_prefill_time_seconds", HISTOGRAM, "Time in prefill.", e2e_buckets, true},
	[QLM_V_DECODE_TIME] = {"vllm:request_decode_time_seconds", HISTOGRAM, "Time in decode.", e2e_buckets, true},
	[QLM_V_REQ_PROMPT_TOKENS] = {"vllm:request_prompt_tokens", HISTOGRAM, "Prompt tokens of a request.", token_buckets, true},
	[QLM_V_REQ_GENERATION_TOKENS] = {"vllm:request_generation_tokens", HISTOGRAM, "Generated tokens of a request.", token_buckets, true},
	[QLM_V_REQ_MAX_TOKENS] = {"vllm:request_max_num_generation_tokens", HISTOGRAM, "Token limit of a request.", token_buckets, true},
	[QLM_V_ITERATION_TOKENS] = {"vllm:iteration_tokens_total", HISTOGRAM, "Tokens of one engine step.", token_buckets, true},
};

static size_t n_buckets(const struct family *f)
{
	size_t n = 1;

	while (isfinite(f->buckets[n - 1]))
		n++;
	return n;
}

struct ql_metrics *ql_metrics_new(bool compat)
{
	struct ql_metrics *m = calloc(1, sizeof *m);

	if (m != NULL)
		m->compat = compat;
	return m;
}

static void series_free(struct series *s)
{
	free(s->labels);
	free(s->buckets);
	free(s);
}

void ql_metrics_free(struct ql_metrics *m)
{
	if (m == NULL)
		return;
	for (int i = 0; i < QLM_COUNT; i++)
		ql_metrics_drop(m, (enum ql_metric)i, NULL);
	free(m);
}

static struct series *find(const struct ql_metrics *m, enum ql_metric id, const char *labels)
{
	for (struct series *s = m->first[id]; s != NULL; s = s->next)
		if (strcmp(s->labels, labels) == 0)
			return s;
	return NULL;
}

static struct series *get(struct ql_metrics *m, enum ql_metric id, const char *labels)
{
	struct series *s = find(m, id, labels), **end = &m->first[id];

	if (s != NULL || m->n[id] >= SERIES_MAX)
		return s;
	s = calloc(1, sizeof *s);
	if (s == NULL)
		return NULL;
	s->labels = strdup(labels);
	if (families[id].kind == HISTOGRAM)
		s->buckets = calloc(n_buckets(&families[id]), sizeof *s->buckets);
	if (s->labels == NULL || (families[id].kind == HISTOGRAM && s->buckets == NULL)) {
		series_free(s);
		return NULL;
	}
	while (*end != NULL)
		end = &(*end)->next;
	*end = s;
	m->n[id]++;
	return s;
}

void ql_metrics_add(struct ql_metrics *m, enum ql_metric id, const char *labels, double v)
{
	struct series *s = get(m, id, labels);

	if (s != NULL && isfinite(v))
		s->value += v;
}

void ql_metrics_set(struct ql_metrics *m, enum ql_metric id, const char *labels, double v)
{
	struct series *s = get(m, id, labels);

	if (s != NULL && isfinite(v))
		s->value = v;
}

void ql_metrics_observe(struct ql_metrics *m, enum ql_metric id, const char *labels, double v)
{
	struct series *s = get(m, id, labels);
	size_t i = 0;

	if (s == NULL || s->buckets == NULL || !isfinite(v))
		return;
	while (v > families[id].buckets[i])
		i++;
	s->buckets[i]++;
	s->count++;
	s->value += v;
}

void ql_metrics_merge(struct ql_metrics *m, enum ql_metric id, const char *labels, const uint64_t *counts, size_t n, double sum)
{
	struct series *s;

	if (families[id].kind != HISTOGRAM || n != n_buckets(&families[id]) || (s = get(m, id, labels)) == NULL)
		return;
	for (size_t i = 0; i < n; i++) {
		s->count += counts[i];
		s->buckets[i] += counts[i];
	}
	s->value += isfinite(sum) ? sum : 0;
}

void ql_metrics_drop(struct ql_metrics *m, enum ql_metric id, const char *labels)
{
	for (struct series **p = &m->first[id]; *p != NULL;) {
		struct series *s = *p;

		if (labels != NULL && strcmp(s->labels, labels) != 0) {
			p = &s->next;
			continue;
		}
		*p = s->next;
		m->n[id]--;
		series_free(s);
	}
}

double ql_metrics_value(const struct ql_metrics *m, enum ql_metric id, const char *labels)
{
	const struct series *s = find(m, id, labels);

	if (s == NULL)
		return 0;
	return s->buckets != NULL ? (double)s->count : s->value;
}

void ql_metrics_labels(char *out, size_t size, ...)
{
	const char *name;
	size_t n = 0;
	va_list ap;

	va_start(ap, size);
	if (size != 0)
		out[0] = '\0';
	while ((name = va_arg(ap, const char *)) != NULL) {
		const char *value = va_arg(ap, const char *);
		size_t need = strlen(name) + 2 * strlen(value) + 5;

		if (n + need > size)
			break;
		n += (size_t)snprintf(out + n, size - n, "%s%s=\"", n == 0 ? "" : ",", name);
		for (; *value != '\0'; value++) {
			if (*value == '\\' || *value == '"' || *value == '\n')
				out[n++] = '\\';
			out[n++] = *value == '\n' ? 'n' : *value;
		}
		out[n++] = '"';
		out[n] = '\0';
	}
	va_end(ap);
}

static int put_sample(struct ql_buf *b, const char *name, const char *suffix, const char *labels, const char *extra, double v)
{
	const char *comma = labels[0] != '\0' && extra[0] != '\0' ? "," : "";

	if (labels[0] == '\0' && extra[0] == '\0')
		return ql_buf_addf(b, "%s%s %.15g\n", name, suffix, v);
	return ql_buf_addf(b, "%s%s{%s%s%s} %.15g\n", name, suffix, labels, comma, extra, v);
}

static int put_histogram(struct ql_buf *b, const struct family *f, const struct series *s)
{
	uint64_t total = 0;
	size_t n = n_buckets(f);
	char le[48];
	int rc = QL_OK;

	for (size_t i = 0; i < n && rc == QL_OK; i++) {
		total += s->buckets[i];
		if (i + 1 == n)
			(void)snprintf(le, sizeof le, "le=\"+Inf\"");
		else
			(void)snprintf(le, sizeof le, "le=\"%.10g\"", f->buckets[i]);
		rc = put_sample(b, f->name, "_bucket", s->labels, le, (double)total);
	}
	if (rc == QL_OK)
		rc = put_sample(b, f->name, "_sum", s->labels, "", s->value);
	return rc == QL_OK ? put_sample(b, f->name, "_count", s->labels, "", (double)s->count) : rc;
}

int ql_metrics_render(const struct ql_metrics *m, bool openmetrics, struct ql_buf *out)
{
	static const char *const kinds[] = {"counter", "gauge", "histogram"};
	int rc = QL_OK;

	for (int i = 0; i < QLM_COUNT && rc == QL_OK; i++) {
		const struct family *f = &families[i];
		const char *total = f->kind == COUNTER ? "_total" : "";

		if (m->first[i] == NULL || (f->compat && !m->compat))
			continue;
		rc = ql_buf_addf(out, "# HELP %s%s %s\n# TYPE %s%s %s\n", f->name, openmetrics ? "" : total, f->help, f->name,
				 openmetrics ? "" : total, kinds[f->kind]);
		for (const struct series *s = m->first[i]; s != NULL && rc == QL_OK; s = s->next)
			rc = f->kind == HISTOGRAM ? put_histogram(out, f, s) : put_sample(out, f->name, total, s->labels, "", s->value);
	}
	if (rc == QL_OK && openmetrics)
		rc = ql_buf_adds(out, "# EOF\n");
	return rc;
}
