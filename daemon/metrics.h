/* metrics.h - counters, gauges and histograms of api.md §14, and their text.
 *
 * The families are one table in metrics.c; a series is a family plus its label text (`route="/v1/files",method="GET"`), made
 * when first used.  Label values come from closed sets; values are escaped by ql_metrics_labels.  Loop thread only. */
#ifndef QL_DAEMON_METRICS_H
#define QL_DAEMON_METRICS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/buf.h"

struct ql_metrics;

enum ql_metric {
	QLM_BUILD_INFO, QLM_ENGINE_UP, QLM_ENGINE_RESTARTS, QLM_JOBS, QLM_JOB_STEP, QLM_JOB_TOTAL_STEPS, QLM_JOB_TRAIN_LOSS,
	QLM_JOB_LEARNING_RATE, QLM_JOB_GRAD_NORM, QLM_JOB_STEP_SECONDS, QLM_TRAINED_TOKENS, QLM_PADDING_TOKENS,
	QLM_CHECKPOINT_SECONDS, QLM_CHECKPOINT_BYTES, QLM_ADAPTERS_RESIDENT, QLM_ADAPTER_SWAPS, QLM_GPU_MEMORY, QLM_GPU_BUSY,
	QLM_HTTP_REQUESTS, QLM_HTTP_REQUEST_SECONDS, QLM_HTTP_CONNECTIONS, QLM_HTTP_REJECTED, QLM_DB_COMMIT_SECONDS,
	QLM_LOOP_STALL_SECONDS, QLM_STATE_BYTES, QLM_PROCESS_CPU, QLM_PROCESS_RSS, QLM_PROCESS_OPEN_FDS, QLM_PROCESS_MAX_FDS,
	QLM_PROCESS_START,
	/* metrics_compat: left out of the text when the setting is off */
	QLM_V_RUNNING, QLM_V_WAITING, QLM_V_KV_USAGE, QLM_V_LORA_INFO, QLM_V_PROMPT_TOKENS, QLM_V_GENERATION_TOKENS,
	QLM_V_SUCCESS, QLM_V_PREEMPTIONS, QLM_V_PREFIX_QUERIES, QLM_V_PREFIX_HITS, QLM_V_TTFT, QLM_V_ITL, QLM_V_E2E,
	QLM_V_QUEUE_TIME, QLM_V_PREFILL_TIME, QLM_V_DECODE_TIME, QLM_V_REQ_PROMPT_TOKENS, QLM_V_REQ_GENERATION_TOKENS,
	QLM_V_REQ_MAX_TOKENS, QLM_V_ITERATION_TOKENS,
	QLM_COUNT
};

struct ql_metrics *ql_metrics_new(bool compat);
void ql_metrics_free(struct ql_metrics *m);
/* labels: "" or name="value",…  (build with ql_metrics_labels when a value is not a literal).  Counters: add; gauges: set;
 * histograms: observe.  set on a counter takes over a total kept elsewhere.  Out of memory: the sample is lost. */
void ql_metrics_add(struct ql_metrics *m, enum ql_metric id, const char *labels, double v);
void ql_metrics_set(struct ql_metrics *m, enum ql_metric id, const char *labels, double v);
void ql_metrics_observe(struct ql_metrics *m, enum ql_metric id, const char *labels, double v);
/* histograms: adds counts taken elsewhere, one for each of the family's buckets (else nothing happens), and the sum of their values */
void ql_metrics_merge(struct ql_metrics *m, enum ql_metric id, const char *labels, const uint64_t *counts, size_t n, double sum);
void ql_metrics_drop(struct ql_metrics *m, enum ql_metric id, const char *labels); /* NULL: all series of the family */
double ql_metrics_value(const struct ql_metrics *m, enum ql_metric id, const char *labels); /* 0 if absent; histograms: count */
/* snprintf-like helper: name=value pairs, NULL-terminated, escaped, into out. */
void ql_metrics_labels(char *out, size_t size, ...) __attribute__((sentinel));
/* The whole text: Prometheus 0.0.4, or OpenMetrics 1.0.0 with its # EOF. */
int ql_metrics_render(const struct ql_metrics *m, bool openmetrics, struct ql_buf *out);

#endif
