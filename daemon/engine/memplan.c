/* memplan.c - the memory plan of a training run as JSON. */
#include "core/train/trainer.h"
#include "daemon/engine/engine.h"

/* Fewer layers may have got their dense copies than were planned. */
static uint64_t dense_bytes(const struct ql_model *m, const struct ql_memory_plan *p)
{
	return p->dense_layers == 0 ? 0 : p->dense_layers * ql_model_dense_bytes(m);
}

uint64_t engine_plan_bytes(const struct ql_model *m, const struct ql_memory_plan *p)
{
	return p->state_bytes + p->pass_bytes + dense_bytes(m, p);
}

json_t *engine_plan_json(const struct ql_model *m, const struct ql_memory_plan *p)
{
	json_int_t all = p->keep.all, main = p->keep.main, recomputed = (json_int_t)m->arch.num_hidden_layers - all - main;

	return json_pack("{s:I, s:{s:I, s:I, s:I, s:I, s:I}, s:{s:I, s:I, s:I, s:I, s:I}, s:I}", "micro_batch_tokens", (json_int_t)p->max_tokens, "layers",
			 "keep_all", all, "keep_main", main, "recomputed", recomputed, "offloaded", (json_int_t)p->keep.host, "dense", (json_int_t)p->dense_layers, "bytes",
			 "adapter_and_optimizer", (json_int_t)p->state_bytes, "activations", (json_int_t)p->pass_bytes, "dense_weights",
			 (json_int_t)dense_bytes(m, p), "total", (json_int_t)engine_plan_bytes(m, p), "on_host", (json_int_t)p->host_bytes, "available_bytes", (json_int_t)p->available);
}
