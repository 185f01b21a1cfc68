/* exports.c - frame `export`: adapters and merged models as files others load, checked by reading them again before they are
 * offered.  One runs at a time, in order of arrival, on its own thread and without the device. */
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/export/export.h"
#include "daemon/engine/engine.h"

struct export_task {
	struct export_task *next;
	struct engine *g;
	json_t *frame;
	char id[80];
	_Atomic bool cancelled;
	double last_report;
	double from, share; /* what is done now is this part of the whole */
};

#define DIFF_SHARE 0.3 /* of an export into original weights: reading both bases, against merging and checking */

static int on_progress(void *ctx, double done)
{
	struct export_task *x = ctx;

	if (engine_now() - x->last_report > 0.25) {
		x->last_report = engine_now();
		engine_send(json_pack("{s:s, s:s, s:f}", "type", "export_progress", "id", x->id, "progress", x->from + x->share * done));
	}
	return x->cancelled;
}

/* "Base-suffix-F16.gguf", every character that is not plain made '-'. */
static void file_name(const struct export_task *x, const char *type, bool lora, char *out, size_t size)
{
	const json_t *a = json_object_get(x->frame, "adapter");
	const char *name = json_string_value(json_object_get(a, "name"));
	char upper[16], suffix[80] = "";
	size_t n = 0;

	for (; type[n] != '\0' && n < sizeof upper - 1; n++)
		upper[n] = (char)toupper((unsigned char)type[n]);
	upper[n] = '\0';
	if (name != NULL) { /* ft:base:org:suffix:id → suffix, or id where there is none */
		char copy[256], *save = NULL, *part[8] = {0};
		int parts = 0;

		(void)snprintf(copy, sizeof copy, "%s", name);
		for (char *p = strtok_r(copy, ":", &save); p != NULL && parts < 8; p = strtok_r(NULL, ":", &save))
			part[parts++] = p;
		(void)snprintf(suffix, sizeof suffix, "-%.60s", parts > 3 ? part[3] : parts > 0 ? part[parts - 1] : "adapter");
	}
	(void)snprintf(out, size, "%.60s%s-%s%s.gguf", ql_source_name(x->g->source), suffix, upper, lora ? "-LoRA" : "");
	for (char *p = out; *p != '\0'; p++)
		if (!isalnum((unsigned char)*p) && *p != '.' && *p != '_' && *p != '-')
			*p = '-';
}

static int read_adapter(struct export_task *x, struct ql_adapter_file *f, bool *have, struct ql_buf *tmpl, struct ql_err *e)
{
	const char *dir = json_string_value(json_object_get(json_object_get(x->frame, "adapter"), "dir"));
	int fd, rc;

	*have = dir != NULL;
	if (dir == NULL)
		return QL_OK;
	fd = engine_open_state_dir(x->g, dir, e);
	if (fd < 0)
		return fd;
	rc = ql_adapter_read(f, fd, &x->g->model->arch, e);
	if (rc == QL_OK) {
		rc = ql_io_read_all(fd, "chat_template.jinja", QL_TMPL_SOURCE_MAX, tmpl, e);
		if (rc == QL_ENOTFOUND)
			rc = QL_OK;
	}
	(void)close(fd);
	return rc;
}

static int write_one(struct export_task *x, const struct ql_export *ex, const char *format, const char *quant, int fd, struct ql_err *e)
{
	enum ql_export_type type = ql_export_type_of(quant);
	struct ql_adapter_write_opts o = {.dtype = QL_F32, .base_name = ql_source_name(x->g->source)};
	char file[200];
	int rc;

	if (strcmp(format, "peft") == 0) {
		rc = ex->adapter == NULL ? ql_err_param(e, QL_EINVAL, "model", "the base has no adapter to export")
					 : ql_adapter_write(ex->adapter, &x->g->model->arch, fd, &o, e);
		return rc == QL_OK ? ql_export_verify_peft(ex, fd, e) : rc;
	}
	if (type == QL_EXPORT_TYPES)
		return ql_err_param(e, QL_EUNSUPPORTED, "quantization", "unknown quantization '%.20s'", quant);
	file_name(x, quant, strcmp(format, "gguf_lora") == 0, file, sizeof file);
	if (strcmp(format, "gguf_lora") == 0) {
		rc = ql_export_gguf_lora(ex, type, fd, file, e);
		return rc == QL_OK ? ql_export_verify_gguf_lora(ex, type, fd, file, e) : rc;
	}
	if (strcmp(format, "gguf") == 0) {
		rc = ql_export_gguf(ex, type, fd, file, e);
		return rc == QL_OK ? ql_export_verify_gguf(ex, type, fd, file, e) : rc;
	}
	if (strcmp(format, "safetensors") == 0) {
		rc = ql_export_hf(ex, type, fd, e);
		return rc == QL_OK ? ql_export_verify_hf(ex, type, fd, e) : rc;
	}
	return ql_err_param(e, QL_EUNSUPPORTED, "format", "unknown format '%.20s'", format);
}

static json_t *list_files(int fd, struct ql_err *e)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	DIR *d = copy < 0 ? NULL : fdopendir(copy);
	json_t *list;
	struct dirent *ent;

	if (d == NULL) {
		(void)ql_err_errno(e, "list the export's files");
		if (copy >= 0)
			(void)close(copy);
		return NULL;
	}
	list = json_array();
	while ((ent = readdir(d)) != NULL) {
		uint64_t size;
		char hex[65];

		if (ent->d_name[0] == '.')
			continue;
		if (ql_io_sha256(fd, ent->d_name, hex, &size, e) != QL_OK) {
			json_decref(list);
			list = NULL;
			break;
		}
		(void)json_array_append_new(list, json_pack("{s:s, s:I, s:s}", "name", ent->d_name, "bytes", (json_int_t)size,
							    "sha256", hex));
	}
	(void)closedir(d);
	return list;
}

/* Merging into the original weights: their difference from the base trained on goes into the report. */
static int use_original(struct export_task *x, struct ql_export *ex, json_t **report, struct ql_err *e)
{
	struct ql_export_diff d;
	int rc = ql_export_check_original(ex->source, e);

	x->share = DIFF_SHARE;
	if (rc == QL_OK)
		rc = ql_export_base_diff(ex, &d, e);
	x->from = DIFF_SHARE;
	x->share = 1 - DIFF_SHARE;
	if (rc != QL_OK)
		return rc;
	*report = json_pack("{s:{s:f, s:f, s:I}}", "base_difference", "relative_rms", d.relative_rms, "max_abs", d.max_abs, "tensors",
			    (json_int_t)d.tensors);
	ex->read_f32 = NULL; /* the source's own weights */
	return *report == NULL ? ql_err_set(e, QL_ENOMEM, "export") : QL_OK;
}

static int run(struct export_task *x, json_t **files, json_t **report, struct ql_err *e)
{
	const char *format = NULL, *quant = NULL, *dir = NULL, *name = NULL, *merge = NULL;
	struct ql_adapter_file adapter = {0};
	struct ql_export ex = {.source = x->g->source, .read_f32 = ql_model_read_f32, .ctx = x->g->model, .progress = on_progress,
			       .progress_ctx = x};
	struct ql_buf tmpl = {0};
	bool have = false;
	int parent = -1, fd = -1, rc = ql_json_get_str(x->frame, "format", 1, 32, &format, e);

	if (rc == QL_OK)
		rc = ql_json_get_str(x->frame, "quantization", 1, 32, &quant, e);
	if (rc == QL_OK)
		rc = ql_json_get_str(x->frame, "dir", 9, 256, &dir, e);
	if (rc == QL_OK)
		rc = ql_json_get_str(x->frame, "name", 1, 256, &name, e);
	if (rc == QL_OK)
		rc = ql_json_get_str(x->frame, "merge_base", 1, 32, &merge, e);
	if (rc == QL_OK && merge != NULL && strcmp(merge, "original") == 0)
		rc = use_original(x, &ex, report, e);
	if (rc == QL_OK && (format == NULL || dir == NULL || strncmp(dir, "exports/", 8) != 0))
		rc = ql_err_param(e, QL_EINVAL, "format", "export without format or place");
	if (rc == QL_OK)
		rc = read_adapter(x, &adapter, &have, &tmpl, e);
	if (rc == QL_OK)
		rc = ql_io_ensure_dir(x->g->state_fd, "exports", &parent, e);
	if (rc == QL_OK)
		rc = ql_io_remove_tree(parent, dir + 8, e);
	if (rc == QL_OK)
		rc = ql_io_dir_begin(parent, dir + 8, &fd, e);
	if (rc != QL_OK)
		goto cleanup;
	ex.adapter = have ? &adapter : NULL;
	ex.name = name;
	ex.chat_template = tmpl.len > 0 ? tmpl.data : NULL;
	ex.digests = calloc(ql_arch_tensor_count(&x->g->model->arch), sizeof *ex.digests); /* without memory: some rows only */
	ex.pool = ql_pool_new(2);
	rc = write_one(x, &ex, format, quant != NULL ? quant : strcmp(format, "gguf_lora") == 0 ? "f32" : strcmp(format, "safetensors") == 0 ? "bf16" : "f16", fd, e);
	ql_pool_free(ex.pool);
	free(ex.digests);
	if (rc == QL_OK && (*files = list_files(fd, e)) == NULL)
		rc = e->code != QL_OK ? e->code : ql_err_set(e, QL_ENOMEM, "export");
	if (rc == QL_OK)
		rc = ql_io_dir_publish(parent, dir + 8, fd, e);
	else
		ql_io_dir_abort(parent, dir + 8, fd);
cleanup:
	ql_adapter_file_free(&adapter);
	ql_buf_free(&tmpl);
	if (parent >= 0)
		(void)close(parent);
	return rc;
}

static void work(struct export_task *x)
{
	struct ql_err e = {0};
	json_t *files = NULL, *report = NULL;
	int rc = x->cancelled ? ql_err_set(&e, QL_ECANCELLED, "cancelled") : run(x, &files, &report, &e);

	if (rc == QL_OK)
		engine_send(json_pack("{s:s, s:s, s:O, s:O?}", "type", "export_done", "id", x->id, "files", files, "verification", report));
	else
		engine_send(json_pack("{s:s, s:s, s:s, s:s, s:s}", "type", "export_failed", "id", x->id, "code",
				      rc == QL_ECANCELLED ? "cancelled" : engine_error_word(rc, e.param), "message", e.message,
				      "param", e.param));
	json_decref(files);
	json_decref(report);
}

static void *export_main(void *arg)
{
	struct engine *g = arg;

	for (;;) {
		struct export_task *x, **p;

		(void)pthread_mutex_lock(&g->lock);
		x = g->exports;
		if (x == NULL) {
			g->export_running = false;
			(void)pthread_cond_broadcast(&g->idle);
			(void)pthread_mutex_unlock(&g->lock);
			return NULL;
		}
		(void)pthread_mutex_unlock(&g->lock);
		work(x);
		(void)pthread_mutex_lock(&g->lock);
		for (p = &g->exports; *p != x; p = &(*p)->next)
			;
		*p = x->next;
		(void)pthread_mutex_unlock(&g->lock);
		json_decref(x->frame);
		free(x);
	}
}

void engine_export(struct engine *g, json_t *frame)
{
	const char *id = json_string_value(json_object_get(frame, "id"));
	struct export_task *x = calloc(1, sizeof *x), **end;
	struct ql_err e = {0};
	pthread_t t;
	bool start;

	if (x == NULL || id == NULL) {
		(void)ql_err_set(&e, QL_EFORMAT, "an export frame without id, or no memory");
		engine_fatal(70, &e);
	}
	x->g = g;
	x->frame = json_incref(frame);
	x->share = 1;
	(void)snprintf(x->id, sizeof x->id, "%s", id);
	(void)pthread_mutex_lock(&g->lock);
	for (end = &g->exports; *end != NULL; end = &(*end)->next)
		;
	*end = x;
	start = !g->export_running;
	g->export_running = true;
	(void)pthread_mutex_unlock(&g->lock);
	if (start && pthread_create(&t, NULL, export_main, g) == 0)
		(void)pthread_detach(t);
	else if (start)
		(void)export_main(g); /* no thread to be had: here and now */
}

void engine_export_cancel(struct engine *g, const char *id)
{
	(void)pthread_mutex_lock(&g->lock);
	for (struct export_task *x = g->exports; x != NULL; x = x->next)
		if (strcmp(x->id, id) == 0)
			x->cancelled = true;
	(void)pthread_mutex_unlock(&g->lock);
}

void engine_exports_drain(struct engine *g)
{
	(void)pthread_mutex_lock(&g->lock);
	for (struct export_task *x = g->exports; x != NULL; x = x->next)
		x->cancelled = true;
	while (g->export_running)
		(void)pthread_cond_wait(&g->idle, &g->lock);
	(void)pthread_mutex_unlock(&g->lock);
}
