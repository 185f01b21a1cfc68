/* checkpoint.c - see checkpoint.h. */
#include "core/train/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/formats/safetensors.h"

#define CSV_MAX QL_MIB(512)

static const char *const files[] = {"adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors",
				    "step_metrics.csv",	   "trainer.json",		NULL};

void ql_train_state_free(struct ql_train_state *st)
{
	json_decref(st->last);
	ql_buf_free(&st->csv);
	*st = (struct ql_train_state){0};
}

/* ---- writing ----------------------------------------------------------------------------------------------------------- */

int ql_snapshot_take(const struct ql_lora_set *lora, const struct ql_optim *o, struct ql_snapshot *s, struct ql_err *e)
{
	int rc = ql_optim_download(o, lora->model->queue, s->optimizer, e);

	return rc == QL_OK ? ql_lora_download(lora, s->params, e) : rc; /* syncs both */
}

static int write_adapter(int dirfd, const struct ql_lora_set *lora, const char *base_name, const float *params, struct ql_err *e)
{
	struct ql_adapter_write_opts o = {.dtype = QL_F32, .base_name = base_name};
	struct ql_adapter_file f = {0};
	int rc = ql_lora_describe(lora, params, &f, e);

	if (rc == QL_OK)
		rc = ql_adapter_write(&f, &lora->model->arch, dirfd, &o, e);
	ql_adapter_file_free(&f);
	return rc;
}

static int write_moments(int dirfd, const struct ql_optim *o, const void *host, struct ql_err *e)
{
	struct ql_st_spec specs[QL_OPTIM_PARTS] = {0};
	uint64_t begin[QL_OPTIM_PARTS], at = 0;
	struct ql_st_writer *w = NULL;
	size_t due;
	int rc;

	for (uint32_t i = 0; i < o->n_parts; i++) {
		specs[i] = (struct ql_st_spec){.name = o->part[i].name, .dtype = o->part[i].dtype, .n_dims = 1,
					       .shape = {o->part[i].count}};
		begin[i] = at;
		at += ql_optim_part_bytes(&o->part[i]);
	}
	rc = ql_st_write_begin(&w, dirfd, "optimizer.safetensors", specs, o->n_parts, e);
	while (rc == QL_OK && (due = ql_st_write_next(w)) < o->n_parts)
		rc = ql_st_write_data(w, (const char *)host + begin[due], (size_t)ql_optim_part_bytes(&o->part[due]), e);
	if (rc == QL_OK) {
		rc = ql_st_write_commit(w, e);
		w = NULL;
	}
	ql_st_write_abort(w);
	return rc;
}

static int write_state(int dirfd, const struct ql_train_state *st, const json_t *identity, struct ql_err *e)
{
	json_t *o = json_pack("{s:i, s:I, s:I, s:I, s:I, s:O?, s:O}", "format", QL_CHECKPOINT_FORMAT, "step", (json_int_t)st->step,
			      "max_tokens", (json_int_t)st->max_tokens, "tokens", (json_int_t)st->tokens, "targets",
			      (json_int_t)st->targets, "last", st->last, "identity", identity);
	bool bad = o == NULL || (st->has_best && json_object_set_new(o, "best", ql_json_real(st->best)) != 0) ||
		   ((st->has_best || st->stale > 0) && json_object_set_new(o, "stale", json_integer((json_int_t)st->stale)) != 0);
	char *text = bad ? NULL : json_dumps(o, JSON_INDENT(1) | JSON_SORT_KEYS);
	int rc = text == NULL ? ql_err_set(e, QL_ENOMEM, "trainer.json")
			      : ql_io_replace(dirfd, "trainer.json", text, strlen(text), e);

	free(text);
	json_decref(o);
	return rc;
}

int ql_checkpoint_write(int dir, const struct ql_lora_set *lora, const struct ql_optim *o, const struct ql_snapshot *snap,
			const struct ql_train_state *st, const json_t *identity, const char *base_name, struct ql_manifest *out, struct ql_err *e)
{
	char name[64];
	int fd = -1, rc;

	(void)snprintf(name, sizeof name, "step-%llu", (unsigned long long)st->step);
	/* a directory of that name can only be left from a run that did not commit it: this state is the same or newer */
	rc = ql_io_remove_tree(dir, name, e);
	if (rc == QL_OK)
		rc = ql_io_dir_begin(dir, name, &fd, e);
	if (rc != QL_OK)
		return rc;
	rc = write_adapter(fd, lora, base_name, snap->params, e);
	if (rc == QL_OK)
		rc = write_moments(fd, o, snap->optimizer, e);
	if (rc == QL_OK)
		rc = ql_io_replace(fd, "step_metrics.csv", st->csv.len > 0 ? st->csv.data : "", st->csv.len, e);
	if (rc == QL_OK)
		rc = write_state(fd, st, identity, e);
	if (rc == QL_OK)
		rc = ql_manifest_write(fd, files, out, e);
	if (rc != QL_OK) {
		ql_io_dir_abort(dir, name, fd);
		return rc;
	}
	return ql_io_dir_publish(dir, name, fd, e);
}

/* ---- reading ------------------------------------------------------------------------------------------------------------ */

static int check_identity(const json_t *have, const json_t *want, struct ql_err *e)
{
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)(uintptr_t)want, key, v) {
		const json_t *h = json_object_get(have, key);

		if (h == NULL || !json_equal(h, v))
			return ql_err_param(e, QL_EMISMATCH, key, "the checkpoint was made with another %s", key);
	}
	return QL_OK;
}

static int read_state(int fd, const json_t *identity, struct ql_train_state *st, struct ql_err *e)
{
	struct ql_buf text = {0};
	json_t *o = NULL;
	int64_t format = 0, step = -1, max_tokens = 0, tokens = 0, targets = 0, stale = 0;
	double best = 0;
	int rc = ql_io_read_all(fd, "trainer.json", QL_CONFIG_JSON_MAX, &text, e);

	if (rc == QL_OK)
		rc = ql_json_parse(text.data, text.len, QL_CONFIG_JSON_MAX, &o, e);
	if (rc == QL_OK)
		rc = ql_json_get_int(o, "format", 1, 1000, &format, e);
	if (rc == QL_OK && format != QL_CHECKPOINT_FORMAT)
		rc = ql_err_param(e, QL_EMISMATCH, "format", "checkpoint format %lld, this program knows %d", (long long)format,
				  QL_CHECKPOINT_FORMAT);
	if (rc == QL_OK)
		rc = ql_json_get_int(o, "step", 0, INT32_MAX, &step, e);
	if (rc == QL_OK)
		rc = ql_json_get_int(o, "max_tokens", 1, INT32_MAX, &max_tokens, e);
	if (rc == QL_OK)
		rc = ql_json_get_int(o, "tokens", 0, INT64_MAX, &tokens, e);
	if (rc == QL_OK)
		rc = ql_json_get_int(o, "targets", 0, INT64_MAX, &targets, e);
	if (rc == QL_OK)
		rc = ql_json_get_num(o, "best", -1e300, 1e300, &best, e);
	if (rc == QL_OK)
		rc = ql_json_get_int(o, "stale", 0, INT32_MAX, &stale, e);
	if (rc == QL_OK && (step < 0 || max_tokens < 1))
		rc = ql_err_set(e, QL_EFORMAT, "trainer.json is incomplete");
	if (rc == QL_OK)
		rc = check_identity(json_object_get(o, "identity"), identity, e);
	if (rc == QL_OK) {
		st->step = (uint64_t)step;
		st->max_tokens = (uint64_t)max_tokens;
		st->tokens = (uint64_t)tokens;
		st->targets = (uint64_t)targets;
		st->has_best = json_is_number(json_object_get(o, "best"));
		st->best = best;
		st->stale = (uint64_t)stale;
		st->last = json_deep_copy(json_object_get(o, "last"));
		rc = ql_io_read_all(fd, "step_metrics.csv", CSV_MAX, &st->csv, e);
	}
	json_decref(o);
	ql_buf_free(&text);
	return rc;
}

static int read_moments(int fd, struct ql_optim *o, struct ql_queue *q, struct ql_err *e)
{
	struct ql_st *st = NULL;
	int rc = ql_st_open_at(&st, fd, "optimizer.safetensors", e);

	for (uint32_t i = 0; rc == QL_OK && i < o->n_parts; i++) {
		const struct ql_optim_part *p = &o->part[i];
		const struct ql_st_tensor *t = ql_st_find(st, p->name);

		if (t == NULL || t->dtype != p->dtype || t->bytes != ql_optim_part_bytes(p))
			rc = ql_err_param(e, QL_EFORMAT, p->name, "optimizer.safetensors: %s is missing or has another type or size",
					  p->name);
		if (rc == QL_OK)
			rc = o->dev->ops->upload(o->dev, q, p->data, t->data, (size_t)t->bytes, e);
	}
	if (rc == QL_OK)
		rc = o->dev->ops->sync(o->dev, q, e);
	ql_st_close(st);
	return rc;
}

int ql_checkpoint_read(int dir, const char *name, struct ql_model *m, const json_t *identity, enum ql_optim_kind kind, bool paged,
		       struct ql_lora_set **lora, struct ql_optim **optim, struct ql_train_state *st, struct ql_err *e)
{
	struct ql_adapter_file f = {0};
	int fd, rc;

	*lora = NULL;
	*optim = NULL;
	*st = (struct ql_train_state){0};
	if (!ql_io_name_ok(name))
		return ql_err_set(e, QL_EINVAL, "bad checkpoint name");
	fd = ql_io_open_dir(dir, name, e);
	if (fd < 0)
		return fd;
	rc = ql_manifest_check(fd, NULL, files, e);
	if (rc == QL_OK)
		rc = read_state(fd, identity, st, e);
	if (rc == QL_OK)
		rc = ql_adapter_read(&f, fd, &m->arch, e);
	if (rc == QL_OK)
		rc = ql_lora_from_file(lora, m, &f, true, e);
	ql_adapter_file_free(&f);
	if (rc == QL_OK)
		rc = ql_optim_for_lora(optim, *lora, kind, paged, e);
	if (rc == QL_OK)
		rc = read_moments(fd, *optim, m->queue, e);
	(void)close(fd);
	if (rc != QL_OK) {
		ql_optim_free(*optim);
		ql_lora_free(*lora);
		*lora = NULL;
		*optim = NULL;
		ql_train_state_free(st);
	}
	return rc;
}
