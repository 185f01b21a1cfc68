/* main.c - `qlorad engine`: started by control with the socket and the state directory, never by hand. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "core/model/cache.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/engine_main.h"
#include "daemon/ipc.h"

#define STATUS_MS 1000

static int read_init(struct engine *g, const json_t *f, struct ql_err *e)
{
	const char *base = NULL, *device = "auto", *cache = "cache";
	int64_t version = 0, threads = 0, rows = 16, kv = 0, context = 0, slots = 32;
	int rc = ql_json_get_int(f, "v", QL_IPC_VERSION, QL_IPC_VERSION, &version, e);

	if (rc == QL_OK)
		rc = ql_json_get_str(f, "base", 1, sizeof g->base_path - 1, &base, e);
	if (rc == QL_OK)
		rc = ql_json_get_str(f, "device", 1, sizeof g->device_name - 1, &device, e);
	if (rc == QL_OK)
		rc = ql_json_get_str(f, "cache", 1, sizeof g->cache_dir - 1, &cache, e);
	if (rc == QL_OK)
		rc = ql_json_get_int(f, "threads", 0, 256, &threads, e);
	if (rc == QL_OK)
		rc = ql_json_get_int(f, "max_batch_rows", 1, QL_INFER_ROWS_MAX, &rows, e);
	if (rc == QL_OK)
		rc = ql_json_get_int(f, "kv_tokens", 0, INT32_MAX, &kv, e);
	if (rc == QL_OK)
		rc = ql_json_get_int(f, "max_context", 0, QL_CONTEXT_MAX, &context, e);
	if (rc == QL_OK)
		rc = ql_json_get_int(f, "adapter_slots", 1, QL_ADAPTER_SLOTS_MAX, &slots, e);
	if (rc == QL_OK)
		rc = ql_json_get_num(f, "inter_token_target_ms", 0, 60000, &g->token_target_ms, e);
	if (rc == QL_OK)
		rc = ql_json_get_num(f, "snapshot_seconds", 0.001, 86400, &g->snapshot_seconds, e);
	if (rc == QL_OK && base == NULL)
		rc = ql_err_param(e, QL_EINVAL, "base", "no base model");
	if (rc != QL_OK)
		return rc;
	(void)snprintf(g->base_path, sizeof g->base_path, "%s", base);
	(void)snprintf(g->device_name, sizeof g->device_name, "%s", device);
	(void)snprintf(g->cache_dir, sizeof g->cache_dir, "%s", cache);
	g->threads = (int)threads;
	g->infer_opts = (struct ql_infer_opts){.max_rows = (uint32_t)rows, .max_waiting = QL_INFER_WAITING_MAX,
					       .kv_tokens = (uint32_t)kv, .max_context = (uint32_t)context,
					       .adapter_slots = (uint32_t)slots};
	return QL_OK;
}

static json_t *memory_json(struct engine *g)
{
	static const char *const kinds[QL_MEM_KINDS] = {"base", "kv", "adapter", "optimizer", "activation", "scratch"};
	struct ql_mem_info info;
	json_t *o = json_object();

	if (g->dev->ops->mem_info(g->dev, &info, NULL) != QL_OK)
		return o;
	for (int i = 0; i < QL_MEM_KINDS; i++)
		(void)json_object_set_new(o, kinds[i], json_integer((json_int_t)info.used[i]));
	(void)json_object_set_new(o, "available", json_integer((json_int_t)info.available));
	return o;
}

static uint64_t parameters(const struct ql_arch *a)
{
	uint64_t n = 0;
	struct ql_arch_tensor t;

	for (size_t i = 0; i < ql_arch_tensor_count(a); i++) {
		ql_arch_tensor_at(a, i, &t);
		n += (uint64_t)t.rows * t.cols;
	}
	return n;
}

static void send_ready(struct engine *g)
{
	const struct ql_arch *a = &g->model->arch;
	const struct ql_q4 *q = ql_base_cache_get(g->model->base, 0, QL_Q_PROJ);
	json_t *m = json_pack("{s:s, s:s, s:I, s:i, s:i, s:i, s:i, s:b, s:{s:s, s:i, s:b}, s:s, s:s, s:s}", "name",
			      ql_source_name(g->source), "family", a->family, "parameters", (json_int_t)parameters(a), "layers",
			      (int)a->num_hidden_layers, "hidden_size", (int)a->hidden_size, "context",
			      (int)ql_infer_context(g->infer), "vocab_size", (int)a->vocab_size, "has_template", g->tmpl != NULL,
			      "quantization", "type", ql_dtype_name(g->model->quant_kind), "block_size", (int)q->blocksize, "double_quant", q->nested,
			      "base_sha256", g->model->base_sha256, "tokenizer_sha256", g->tokenizer_sha256, "template_sha256",
			      g->template_sha256);

	engine_send(json_pack("{s:s, s:o, s:s, s:s, s:o}", "type", "ready", "model", m, "device", g->dev->description, "build",
			      QL_VERSION, "memory", memory_json(g)));
}

/* [{name, running: bool}…] on the device, and the names that wait. */
static void adapters_json(struct engine *g, json_t **resident, json_t **wanted)
{
	char(*names)[256] = calloc(QL_ADAPTER_SLOTS_MAX, sizeof *names);
	uint32_t *users = calloc(QL_ADAPTER_SLOTS_MAX, sizeof *users), n;

	*resident = json_array();
	*wanted = json_array();
	if (names != NULL && users != NULL) {
		n = ql_infer_resident(g->infer, names, users, QL_ADAPTER_SLOTS_MAX);
		for (uint32_t i = 0; i < n; i++)
			(void)json_array_append_new(*resident, json_pack("{s:s, s:b}", "name", names[i], "running", users[i] > 0));
		n = ql_infer_wanted(g->infer, names, QL_ADAPTER_SLOTS_MAX);
		for (uint32_t i = 0; i < n; i++)
			(void)json_array_append_new(*wanted, json_string(names[i]));
	}
	free(names);
	free(users);
}

static void send_status(struct engine *g)
{
	struct ql_infer_stats s;
	double train_s, infer_s, now = engine_now(), dt = now - g->last_status;
	json_t *c, *turns = json_array(), *resident, *wanted;

	ql_infer_stats(g->infer, &s);
	ql_gate_busy(g->model->gate, &train_s, &infer_s);
	for (int i = 0; i < QL_INFER_TURN_BUCKETS; i++)
		(void)json_array_append_new(turns, json_integer((json_int_t)s.turns[i]));
	adapters_json(g, &resident, &wanted);
	c = json_pack("{s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:I, s:I}", "prompt_tokens", (json_int_t)s.prompt_tokens,
		      "generation_tokens", (json_int_t)s.generated_tokens, "cached_tokens", (json_int_t)s.cached_tokens,
		      "trained_tokens", (json_int_t)g->trained_tokens, "padding_tokens", (json_int_t)0, "busy_train_s", train_s,
		      "busy_infer_s", infer_s, "turn_tokens", (json_int_t)s.turn_tokens, "adapters_in", (json_int_t)s.adapters_in,
		      "adapters_out", (json_int_t)s.adapters_out);
	engine_send(json_pack("{s:s, s:o, s:i, s:i, s:f, s:f, s:o, s:o, s:o, s:o, s:i}", "type", "status", "memory", memory_json(g),
			      "running", (int)s.running, "waiting", (int)s.waiting, "tokens_per_second",
			      dt > 0 ? (double)(s.generated_tokens - g->last_generated) / dt : 0.0, "kv_usage",
			      s.blocks > 0 ? (double)s.blocks_held / s.blocks : 0.0, "counters", c, "turns", turns, "adapters", resident,
			      "wanted", wanted, "max_adapters", (int)g->infer_opts.adapter_slots));
	g->last_status = now;
	g->last_generated = s.generated_tokens;
}

/* False: the engine is to end. */
static bool dispatch(struct engine *g, json_t *f)
{
	const char *type = json_string_value(json_object_get(f, "type"));
	struct ql_err e;

	if (strcmp(type, "infer") == 0) {
		engine_infer(g, f);
	} else if (strcmp(type, "infer_cancel") == 0) {
		ql_infer_cancel(g->infer, (uint64_t)json_integer_value(json_object_get(f, "id")));
	} else if (strcmp(type, "adapter_drop") == 0) {
		if (json_is_string(json_object_get(f, "name")))
			ql_infer_drop_adapter(g->infer, json_string_value(json_object_get(f, "name")));
	} else if (strcmp(type, "validate") == 0) {
		engine_validate(g, f);
	} else if (strcmp(type, "start") == 0) {
		engine_job_start(g, f);
	} else if (strcmp(type, "stop") == 0) {
		engine_job_stop(g, f);
	} else if (strcmp(type, "export") == 0) {
		engine_export(g, f);
	} else if (strcmp(type, "export_cancel") == 0) {
		if (json_is_string(json_object_get(f, "id")))
			engine_export_cancel(g, json_string_value(json_object_get(f, "id")));
	} else if (strcmp(type, "ping") == 0) {
		engine_send(json_pack("{s:s, s:O}", "type", "pong", "n", json_object_get(f, "n")));
	} else if (strcmp(type, "drain") == 0) {
		return false;
	} else {
		(void)ql_err_set(&e, QL_EFORMAT, "unknown frame type '%.40s'", type);
		engine_fatal(QL_EXIT_DEVICE, &e);
	}
	return true;
}

static void serve(struct engine *g, struct ql_buf *in)
{
	struct ql_err e;
	bool go = true;

	g->last_status = engine_now();
	while (go) {
		json_t *f = NULL;
		int rc = engine_wire_read(in, STATUS_MS, &f, &e);

		if (rc == QL_ENOTFOUND)
			_exit(0); /* control died: its successor starts another engine, jobs go on from their checkpoints */
		if (rc != QL_OK && rc != QL_EBUSY)
			engine_fatal(QL_EXIT_DEVICE, &e);
		if (rc == QL_OK)
			go = dispatch(g, f);
		json_decref(f);
		if (engine_now() - g->last_status >= STATUS_MS / 1000.0)
			send_status(g);
	}
}

static int exit_code_of(int rc)
{
	return rc == QL_EDEVICE ? QL_EXIT_DEVICE : rc == QL_ENOMEM || rc == QL_ENODEVMEM ? QL_EXIT_NO_DEVICE : QL_EXIT_CONFIG;
}

static int read_first(struct engine *g, struct ql_buf *in, struct ql_err *e)
{
	json_t *f = NULL;
	int rc;

	do
		rc = engine_wire_read(in, 10000, &f, e);
	while (rc == QL_EBUSY);
	if (rc == QL_OK && strcmp(json_string_value(json_object_get(f, "type")), "init") != 0)
		rc = ql_err_set(e, QL_EFORMAT, "the first frame is not init");
	if (rc == QL_OK)
		rc = read_init(g, f, e);
	json_decref(f);
	return rc;
}

static bool control_is_gone(void)
{
	struct pollfd p = {.fd = QL_IPC_FD, .events = POLLRDHUP};

	return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP)) != 0;
}

int ql_engine_main(int argc, char **argv)
{
	struct engine g = {.state_fd = QL_IPC_STATE_FD, .snapshot_seconds = 60, .token_target_ms = 50};
	struct ql_buf in = {0};
	struct stat st;
	struct ql_err e = {0};
	int rc;

	(void)argv;
	if (argc > 1 || fstat(QL_IPC_FD, &st) != 0 || !S_ISSOCK(st.st_mode) || fstat(QL_IPC_STATE_FD, &st) != 0 || !S_ISDIR(st.st_mode)) {
		(void)fprintf(stderr, "qlorad engine is started by `qlorad serve`, not by hand\n");
		return QL_EXIT_CONFIG;
	}
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (control_is_gone())
		return 0; /* it died before we could ask to be told; its successor waits for our end */
	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGTERM, SIG_IGN); /* control says when to end */
	(void)signal(SIGINT, SIG_IGN);
	(void)pthread_mutex_init(&g.lock, NULL);
	(void)pthread_cond_init(&g.idle, NULL);
	rc = read_first(&g, &in, &e);
	if (rc == QL_OK)
		rc = engine_load(&g, &e);
	if (rc != QL_OK)
		engine_fatal(exit_code_of(rc), &e);
	send_ready(&g);
	serve(&g, &in);
	ql_buf_free(&in);
	engine_jobs_drain(&g);
	engine_exports_drain(&g);
	engine_tasks_drain(&g);
	engine_unload(&g);
	return 0;
}
