/* routes.c - every route of the daemon, api.md §2 row by row.  The tests read the same table (tests/unit/api) and walk it
 * over HTTP with every kind of token (tests/integration/test_http_auth.py). */
#include "api/handlers.h"

#define I QL_SCOPE_INFER
#define T QL_SCOPE_TRAIN
#define A QL_SCOPE_ADMIN
#define PUBLIC 0u

const struct ql_route ql_routes[] = {
	{QL_POST, "/files", T, QL_ROUTE_WORK, QL_BODY_UPLOAD, ql_h_file_create},
	{QL_GET, "/files", T, 0, QL_BODY_NONE, ql_h_file_list},
	{QL_GET, "/files/{id}", T, 0, QL_BODY_NONE, ql_h_file_get},
	{QL_GET, "/files/{id}/content", T, 0, QL_BODY_NONE, ql_h_file_content},
	{QL_GET, "/files/{id}/preview", T, 0, QL_BODY_NONE, ql_h_file_preview},
	{QL_DELETE, "/files/{id}", T, 0, QL_BODY_NONE, ql_h_file_delete},

	{QL_POST, "/fine_tuning/jobs", T, QL_ROUTE_WORK, QL_BODY_JSON, ql_h_job_create},
	{QL_GET, "/fine_tuning/jobs", T, 0, QL_BODY_NONE, ql_h_job_list},
	{QL_GET, "/fine_tuning/jobs/{id}", T, 0, QL_BODY_NONE, ql_h_job_get},
	{QL_POST, "/fine_tuning/jobs/{id}/cancel", T, 0, QL_BODY_OPTIONAL, ql_h_job_cancel},
	{QL_POST, "/fine_tuning/jobs/{id}/pause", T, 0, QL_BODY_OPTIONAL, ql_h_job_pause},
	{QL_POST, "/fine_tuning/jobs/{id}/resume", T, 0, QL_BODY_OPTIONAL, ql_h_job_resume},
	{QL_GET, "/fine_tuning/jobs/{id}/events", T, QL_ROUTE_STREAM, QL_BODY_NONE, ql_h_job_events},
	{QL_GET, "/fine_tuning/jobs/{id}/checkpoints", T, 0, QL_BODY_NONE, ql_h_job_checkpoints},

	{QL_POST, "/chat/completions", I, QL_ROUTE_WORK, QL_BODY_JSON, ql_h_chat},
	{QL_POST, "/completions", I, QL_ROUTE_WORK, QL_BODY_JSON, ql_h_completion},
	{QL_POST, "/tokenize", I, 0, QL_BODY_JSON, ql_h_tokenize},
	{QL_POST, "/detokenize", I, 0, QL_BODY_JSON, ql_h_detokenize},
	{QL_POST, "/apply-template", I, 0, QL_BODY_JSON, ql_h_apply_template},

	{QL_GET, "/models", I, 0, QL_BODY_NONE, ql_h_model_list},
	{QL_GET, "/models/{model}", I, 0, QL_BODY_NONE, ql_h_model_get},
	{QL_DELETE, "/models/{model}", T, 0, QL_BODY_NONE, ql_h_model_delete},

	{QL_POST, "/load_lora_adapter", A, QL_ROUTE_WORK, QL_BODY_JSON, ql_h_adapter_load},
	{QL_POST, "/unload_lora_adapter", A, 0, QL_BODY_JSON, ql_h_adapter_unload},
	{QL_GET, "/adapters", I, 0, QL_BODY_NONE, ql_h_adapter_list},
	{QL_GET, "/lora-adapters", I, QL_ROUTE_BARE, QL_BODY_NONE, ql_h_adapter_list_llama},
	{QL_POST, "/lora-adapters", I, QL_ROUTE_BARE, QL_BODY_NONE, ql_h_adapter_scales},

	{QL_POST, "/exports", T, QL_ROUTE_WORK, QL_BODY_JSON, ql_h_export_create},
	{QL_GET, "/exports", T, 0, QL_BODY_NONE, ql_h_export_list},
	{QL_GET, "/exports/{id}", T, 0, QL_BODY_NONE, ql_h_export_get},
	{QL_DELETE, "/exports/{id}", T, 0, QL_BODY_NONE, ql_h_export_delete},
	{QL_GET, "/exports/{id}/content", T, 0, QL_BODY_NONE, ql_h_export_content},

	{QL_GET, "/version", I, 0, QL_BODY_NONE, ql_h_version},
	{QL_GET, "/status", I, 0, QL_BODY_NONE, ql_h_status},
	{QL_GET, "/metrics", I, QL_ROUTE_BARE, QL_BODY_NONE, ql_h_metrics},
	{QL_GET, "/livez", PUBLIC, QL_ROUTE_BARE, QL_BODY_NONE, ql_h_livez},
	{QL_GET, "/ping", PUBLIC, QL_ROUTE_BARE, QL_BODY_NONE, ql_h_livez},
	{QL_GET, "/readyz", PUBLIC, QL_ROUTE_BARE, QL_BODY_NONE, ql_h_readyz},
	{QL_GET, "/health", PUBLIC, 0, QL_BODY_NONE, ql_h_health},

	{QL_GET, "/", PUBLIC, QL_ROUTE_BARE, QL_BODY_NONE, ql_h_dashboard},
	{QL_GET, "/dashboard", PUBLIC, QL_ROUTE_BARE, QL_BODY_NONE, ql_h_dashboard},
	{QL_GET, "/dashboard/{file}", PUBLIC, QL_ROUTE_BARE, QL_BODY_NONE, ql_h_asset},
};

const size_t ql_routes_n = sizeof ql_routes / sizeof ql_routes[0];
