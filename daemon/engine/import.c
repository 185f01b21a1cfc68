/* import.c - infer frames of kind `import`: an uploaded adapter becomes adapters/ID in our own form, checked against the model.
 *
 * The upload is a PEFT directory as an uncompressed tar (adapter_config.json and adapter_model.safetensors, in any one directory)
 * or a GGUF LoRA; which of the two, its first bytes tell.  Everything in it is untrusted: tar.h, peft.h.  One import at a time,
 * as a task (task.c), without the device. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/formats/peft_config.h"
#include "core/formats/tar.h"
#include "core/train/checkpoint.h"
#include "daemon/engine/engine.h"

static int unpack(struct engine *g, const char *file, int fd, struct ql_adapter_file *f, struct ql_err *e)
{
	struct ql_tar_want want[] = {{.name = "adapter_config.json", .max = QL_CONFIG_JSON_MAX},
				     {.name = "adapter_model.safetensors", .max = UINT64_MAX},
				     {.name = "adapter_model.bin", .max = UINT64_MAX}};
	struct ql_map map = {0};
	int rc = ql_map_at(&map, g->state_fd, file, e);

	if (rc != QL_OK)
		return rc;
	rc = ql_tar_find(map.base, map.size, want, 3, e);
	if (rc == QL_OK && want[1].data == NULL && want[2].data != NULL)
		rc = ql_err_set(e, QL_EUNSUPPORTED, "adapter_model.bin is a pickle file, which is never read: save the adapter as safetensors");
	for (int i = 0; rc == QL_OK && i < 2; i++)
		rc = want[i].data == NULL ? ql_err_set(e, QL_EFORMAT, "the archive holds no %s", want[i].name)
					  : ql_io_replace(fd, want[i].name, want[i].data, (size_t)want[i].size, e);
	ql_map_free(&map);
	return rc == QL_OK ? ql_adapter_read(f, fd, &g->model->arch, e) : rc;
}

static int read_any(struct engine *g, const char *file, int fd, struct ql_adapter_file *f, struct ql_err *e)
{
	uint64_t size = 0;
	char magic[4] = "";
	int in = ql_io_open_read(g->state_fd, file, &size, e), rc;

	if (in < 0)
		return in;
	rc = size < 4 ? ql_err_set(e, QL_EFORMAT, "the file is neither a tar archive nor a GGUF adapter") : ql_io_pread_all(in, magic, 4, 0, e);
	(void)close(in);
	if (rc != QL_OK)
		return rc;
	return memcmp(magic, "GGUF", 4) == 0 ? ql_adapter_read_gguf(f, g->state_fd, file, &g->model->arch, e) : unpack(g, file, fd, f, e);
}

/* Ranks and alphas that are not the adapter's own, by full module name. */
static void patterns(const struct ql_adapter_file *f, json_t *ranks, json_t *alphas)
{
	for (size_t i = 0; i < (size_t)f->n_layers * QL_MODULES; i++) {
		const struct ql_adapter_pair *p = &f->pairs[i];
		char path[QL_PEFT_MODULE_MAX];

		if (p->a == NULL)
			continue;
		ql_peft_module_path((uint32_t)(i / QL_MODULES), (int)(i % QL_MODULES), path);
		if (p->rank != f->rank)
			(void)json_object_set_new(ranks, path, json_integer(p->rank));
		if (p->alpha < f->alpha || p->alpha > f->alpha)
			(void)json_object_set_new(alphas, path, json_real(p->alpha));
	}
}

/* What a job that goes on from it needs to know: the shape of the adapter, as in a recipe. */
static int describe(const struct ql_adapter_file *f, const struct ql_manifest *m, json_t **out, struct ql_err *e)
{
	json_t *modules = json_array(), *ranks = json_object(), *alphas = json_object();

	for (int i = 0; i < QL_MODULES; i++)
		if (f->modules >> i & 1)
			(void)json_array_append_new(modules, json_string(ql_module_name(i)));
	patterns(f, ranks, alphas);
	*out = json_pack("{s:s, s:I, s:{s:i, s:f, s:b, s:o, s:o, s:o}}", "manifest_sha256", m->sha256, "bytes", (json_int_t)m->bytes, "shape",
			 "rank", (int)f->rank, "alpha", f->alpha, "use_rslora", f->rslora, "target_modules", modules, "rank_pattern", ranks,
			 "alpha_pattern", alphas);
	return *out == NULL ? ql_err_set(e, QL_ENOMEM, "import") : QL_OK;
}

static int fill(struct engine_task *t, const char *file, int fd, json_t **out, struct ql_err *e)
{
	struct engine *g = t->g;
	static const char *const files[] = {"adapter_config.json", "adapter_model.safetensors", "qlorad.json", NULL};
	struct ql_adapter_write_opts o = {.dtype = QL_F32, .base_name = ql_source_name(g->source)};
	struct ql_adapter_file f = {0};
	struct ql_manifest m;
	char sidecar[160];
	int rc = read_any(g, file, fd, &f, e);

	if (rc == QL_EMISMATCH || rc == QL_ENONFINITE || (rc == QL_ENOTFOUND && e->param[0] != '\0')) /* the file's fault */
		rc = e->code = QL_EFORMAT;
	if (rc == QL_OK && t->cancelled)
		rc = ql_err_set(e, QL_ECANCELLED, "the engine is stopping");
	if (rc != QL_OK) {
		ql_adapter_file_free(&f);
		return rc;
	}
	f.dropout = 0; /* of its own training */
	(void)snprintf(sidecar, sizeof sidecar, "{\"format\": 1, \"imported\": true, \"base\": \"%s\"}\n", g->model->base_sha256);
	rc = ql_adapter_write(&f, &g->model->arch, fd, &o, e);
	if (rc == QL_OK)
		rc = ql_io_replace(fd, "qlorad.json", sidecar, strlen(sidecar), e);
	if (rc == QL_OK)
		rc = ql_manifest_write(fd, files, &m, e);
	if (rc == QL_OK)
		rc = describe(&f, &m, out, e);
	if (rc == QL_OK && t->cancelled)
		rc = ql_err_set(e, QL_ECANCELLED, "the engine is stopping");
	ql_adapter_file_free(&f);
	return rc;
}

static int work(struct engine_task *x, json_t **out, struct ql_err *e)
{
	const char *file = NULL, *dir = NULL;
	int parent = -1, fd = -1, rc = ql_json_get_str(x->frame, "file", 1, 256, &file, e);

	if (rc == QL_OK)
		rc = ql_json_get_str(x->frame, "dir", 1, 256, &dir, e);
	if (rc == QL_OK && (file == NULL || strncmp(file, "files/", 6) != 0 || dir == NULL || strncmp(dir, "adapters/", 9) != 0))
		rc = ql_err_param(e, QL_EINVAL, "file", "import without a file or a place");
	if (rc == QL_OK)
		rc = ql_io_ensure_dir(x->g->state_fd, "adapters", &parent, e);
	if (rc == QL_OK)
		rc = ql_io_dir_begin(parent, dir + 9, &fd, e);
	if (rc == QL_OK) {
		rc = fill(x, file, fd, out, e);
		if (rc == QL_OK)
			rc = ql_io_dir_publish(parent, dir + 9, fd, e);
		else
			ql_io_dir_abort(parent, dir + 9, fd);
	}
	if (parent >= 0)
		(void)close(parent);
	return rc;
}

void engine_import(struct engine *g, const json_t *frame, int64_t id)
{
	static const struct engine_task_kind kind = {.name = "import", .alone = true, .work = work, .answer = engine_task_answer};
	struct ql_err e = {0};

	if (engine_task_start(g, &kind, frame, &e) != QL_OK)
		engine_send_error(id, &e);
}
