/* handlers.h - one function for each route; the table that names them is routes.c.  A handler runs once, with the body in
 * r->json for JSON routes, and answers through reply.h. */
#ifndef QL_API_HANDLERS_H
#define QL_API_HANDLERS_H

#include "api/reply.h"

void ql_h_file_create(struct ql_req *r);
void ql_h_file_list(struct ql_req *r);
void ql_h_file_get(struct ql_req *r);
void ql_h_file_content(struct ql_req *r);
void ql_h_file_preview(struct ql_req *r);
void ql_h_file_delete(struct ql_req *r);

void ql_h_job_create(struct ql_req *r);
void ql_h_job_list(struct ql_req *r);
void ql_h_job_get(struct ql_req *r);
void ql_h_job_cancel(struct ql_req *r);
void ql_h_job_pause(struct ql_req *r);
void ql_h_job_resume(struct ql_req *r);
void ql_h_job_events(struct ql_req *r);
void ql_h_job_checkpoints(struct ql_req *r);

void ql_h_model_list(struct ql_req *r);
void ql_h_model_get(struct ql_req *r);
void ql_h_model_delete(struct ql_req *r);

void ql_h_chat(struct ql_req *r);
void ql_h_completion(struct ql_req *r);
void ql_h_tokenize(struct ql_req *r);
void ql_h_detokenize(struct ql_req *r);
void ql_h_apply_template(struct ql_req *r);

void ql_h_adapter_load(struct ql_req *r);
void ql_h_adapter_unload(struct ql_req *r);
void ql_h_adapter_list(struct ql_req *r);
void ql_h_adapter_list_llama(struct ql_req *r);
void ql_h_adapter_scales(struct ql_req *r);

void ql_h_export_create(struct ql_req *r);
void ql_h_export_list(struct ql_req *r);
void ql_h_export_get(struct ql_req *r);
void ql_h_export_delete(struct ql_req *r);
void ql_h_export_content(struct ql_req *r);

void ql_h_livez(struct ql_req *r);
void ql_h_readyz(struct ql_req *r);
void ql_h_health(struct ql_req *r);
void ql_h_version(struct ql_req *r);
void ql_h_metrics(struct ql_req *r);
void ql_h_status(struct ql_req *r);

void ql_h_dashboard(struct ql_req *r);
void ql_h_asset(struct ql_req *r);

#endif
