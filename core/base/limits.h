/* limits.h - every limit of the program in one place; each is tested at the limit and one above.
 * Sizes are bytes, times are in the unit the name ends in. */
#ifndef QL_BASE_LIMITS_H
#define QL_BASE_LIMITS_H

#define QL_KIB(n) ((size_t)(n) << 10)
#define QL_MIB(n) ((size_t)(n) << 20)
#define QL_GIB(n) ((uint64_t)(n) << 30)

/* JSON, wherever it comes from */
#define QL_JSON_DEPTH_MAX 64
#define QL_JSON_BODY_MAX QL_MIB(4)
#define QL_JSON_KEYS_MAX 4096

/* HTTP */
#define QL_HTTP_CONNECTIONS_TCP 1024
#define QL_HTTP_CONNECTIONS_UNIX 256
#define QL_HTTP_CONNECTIONS_RESERVE 16
#define QL_HTTP_HEADERS_MAX 64
#define QL_HTTP_HEAD_MAX QL_KIB(16)
#define QL_HTTP_URI_MAX QL_KIB(4)
#define QL_HTTP_HEAD_SECONDS 5
#define QL_HTTP_IDLE_SECONDS 60
#define QL_HTTP_BODY_GRACE_SECONDS 10
#define QL_HTTP_BODY_RATE_MIN QL_KIB(16)
#define QL_HTTP_BODIES_MAX QL_MIB(256) /* JSON bodies on their way, together */
#define QL_HTTP_STREAM_BUFFER_MAX QL_KIB(256)
#define QL_HTTP_PING_SECONDS 15
#define QL_MULTIPART_HEAD_MAX QL_KIB(4)
#define QL_IDEMPOTENCY_KEY_MAX 255
#define QL_IDEMPOTENCY_SECONDS 86400
#define QL_AUTH_FAILURES_PER_MINUTE 20

/* jobs, files, requests */
#define QL_JOBS_WAITING_MAX 1000
#define QL_JOB_METRICS_MAX 10000
#define QL_JOB_MESSAGES_MAX 10000
#define QL_ADAPTERS_MAX 10000
#define QL_FILES_MAX 10000
#define QL_INFER_WAITING_MAX 256
#define QL_INFER_ROWS_MAX 64
#define QL_ADAPTER_SLOTS_MAX 1024 /* adapters on the device */
#define QL_INFER_N_MAX 16
#define QL_INFER_STOPS_MAX 4
#define QL_INFER_STOP_TOKENS_MAX 16
#define QL_INFER_STOP_BYTES_MAX 256
#define QL_INFER_LOGIT_BIAS_MAX 1024
#define QL_MESSAGES_MAX 2048
#define QL_TOOLS_MAX 128
#define QL_EXPORTS_WAITING_MAX 16
#define QL_ENGINE_DEATHS_MAX 3
#define QL_LORA_RANK_MAX 256

/* datasets */
#define QL_DATASET_LINE_MAX QL_MIB(8)
#define QL_DATASET_LINES_MAX 10000000
#define QL_DATASET_FAULTS_REPORTED 20

/* model files */
#define QL_NAME_MAX 512
#define QL_ST_HEADER_MAX QL_MIB(16)
#define QL_ST_TENSORS_MAX 65536
#define QL_ST_DIMS_MAX 8
#define QL_GGUF_KV_MAX 65536
#define QL_GGUF_TENSORS_MAX 65536
#define QL_GGUF_STRING_MAX QL_MIB(16)
#define QL_GGUF_ARRAY_MAX (16u << 20)
#define QL_GGUF_HEADER_MAX QL_MIB(512)
#define QL_GGUF_TENSOR_NAME_MAX 63
#define QL_GGUF_ALIGNMENT_MAX 4096
#define QL_CONFIG_JSON_MAX QL_MIB(1)
#define QL_TOKENIZER_JSON_MAX QL_MIB(64)
#define QL_VOCAB_MAX (1 << 20)
#define QL_MERGES_MAX (4 << 20)
#define QL_TOK_TEXT_MAX QL_MIB(256) /* one text to tokenise */
#define QL_TOK_PIECE_MAX QL_MIB(32) /* between two cuts of the pre-tokeniser */
#define QL_TOK_TOKEN_MAX QL_KIB(64)  /* bytes of one token */
#define QL_TOK_ADDED_MAX 65536
#define QL_TOK_ADDED_BYTES_MAX QL_KIB(1) /* of one added token */
#define QL_TOK_STEPS_MAX 16 /* normalisers or pre-tokenisers in a row */
#define QL_TOK_REGEX_MAX QL_KIB(16)
#define QL_TOK_REGEX_SECONDS 1         /* processor time of a file's own patterns on one text … */
#define QL_TOK_REGEX_SECONDS_PER_MIB 2 /* … and for each MiB of it */
#define QL_LAYERS_MAX 1024
#define QL_DIM_MAX (1 << 20)
#define QL_CONTEXT_MAX (1 << 24)

/* chat templates (Jinja subset) */
#define QL_TMPL_SOURCE_MAX QL_KIB(256)
#define QL_TMPL_KWARGS_MAX QL_KIB(16)
#define QL_TMPL_NODES_MAX 65536
#define QL_TMPL_DEPTH_MAX 200
#define QL_TMPL_STEPS_MAX 500000
#define QL_TMPL_LOOPS_MAX 100000
#define QL_TMPL_OUTPUT_MAX QL_MIB(16)
#define QL_TMPL_MACRO_DEPTH_MAX 64
#define QL_TMPL_EVAL_DEPTH_MAX 2000 /* nested evaluations, macros' bodies included */
#define QL_TMPL_VALUE_DEPTH_MAX 200 /* nested lists, objects and generators */
#define QL_TMPL_MEMORY_MAX QL_MIB(64)

/* between processes */
#define QL_FRAME_MAX QL_MIB(8)
#define QL_FRAME_QUEUE_MAX QL_MIB(32)
#define QL_HEARTBEAT_SECONDS 30

/* logging */
#define QL_LOG_LINE_MAX QL_KIB(4)

#endif
