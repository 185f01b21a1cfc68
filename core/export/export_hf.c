/* export_hf.c - the merged model as a Hugging Face directory, and its verification; see export.h.
 * One model.safetensors; config.json with dtype and without quantization_config; every other file that holds no weights is
 * copied (links of the source directory are followed: the operator named it). */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/buf.h"
#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/export/export_priv.h"
#include "core/formats/safetensors.h"

static const char weights[] = "model.safetensors";

/* File name endings that are weights, code or indices: never copied. */
static const char *const skipped[] = {".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth",
				      ".pkl", ".h5", ".msgpack", ".onnx", ".gguf", ".py", NULL};

static bool ends_with(const char *s, const char *end)
{
	size_t a = strlen(s), b = strlen(end);

	return a >= b && strcmp(s + a - b, end) == 0;
}

static bool is_copied(const struct ql_export *x, const char *name)
{
	for (size_t i = 0; skipped[i] != NULL; i++)
		if (ends_with(name, skipped[i]))
			return false;
	if (x->chat_template != NULL && strcmp(name, "chat_template.jinja") == 0)
		return false;
	return name[0] != '.' && strcmp(name, "config.json") != 0 && ql_io_name_ok(name);
}

static int read_source(const struct ql_export *x, const char *name, struct ql_buf *out, struct ql_err *e)
{
	struct ql_buf path = {0};
	int rc = ql_buf_addf(&path, "%s/%s", ql_source_dir(x->source), name);

	rc = rc != QL_OK ? ql_err_set(e, rc, "no memory for a path") : ql_io_read_file(path.data, QL_TOKENIZER_JSON_MAX, out, e);
	ql_buf_free(&path);
	return rc;
}

static int copy_file(const struct ql_export *x, const char *name, int dirfd, struct ql_err *e)
{
	struct ql_buf text = {0};
	int rc = read_source(x, name, &text, e);

	if (rc == QL_OK)
		rc = ql_io_replace(dirfd, name, text.data, text.len, e);
	ql_buf_free(&text);
	return rc;
}

static int copy_files(const struct ql_export *x, int dirfd_out, struct ql_err *e)
{
	DIR *d = opendir(ql_source_dir(x->source));
	struct dirent *ent;
	struct stat st;
	int rc = QL_OK;

	if (d == NULL)
		return ql_err_errno(e, "open %.200s", ql_source_dir(x->source));
	while (rc == QL_OK && (ent = readdir(d)) != NULL)
		if (is_copied(x, ent->d_name) && fstatat(dirfd(d), ent->d_name, &st, 0) == 0 && S_ISREG(st.st_mode))
			rc = copy_file(x, ent->d_name, dirfd_out, e);
	(void)closedir(d);
	if (rc == QL_OK && x->chat_template != NULL)
		rc = ql_io_replace(dirfd_out, "chat_template.jinja", x->chat_template, strlen(x->chat_template), e);
	return rc;
}

static int write_config(const struct ql_export *x, enum ql_export_type type, int dirfd, struct ql_err *e)
{
	const char *dtype = type == QL_EXPORT_BF16 ? "bfloat16" : type == QL_EXPORT_F16 ? "float16" : "float32";
	struct ql_buf text = {0};
	json_t *cfg = NULL;
	char *out = NULL;
	int rc = read_source(x, "config.json", &text, e);

	if (rc == QL_OK)
		rc = ql_json_parse(text.data, text.len, QL_CONFIG_JSON_MAX, &cfg, e);
	if (rc != QL_OK)
		goto cleanup;
	(void)json_object_del(cfg, "quantization_config");
	if (json_object_set_new(cfg, "dtype", json_string(dtype)) != 0 ||
	    json_object_set_new(cfg, "torch_dtype", json_string(dtype)) != 0) /* the name before transformers 4.56 */
		rc = ql_err_set(e, QL_ENOMEM, "no memory for config.json");
	if (rc == QL_OK) {
		out = json_dumps(cfg, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
		rc = out == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for config.json")
				 : ql_io_replace(dirfd, "config.json", out, strlen(out), e);
	}
cleanup:
	free(out);
	json_decref(cfg);
	ql_buf_free(&text);
	return rc;
}

static int sink(void *ctx, const void *data, size_t len, struct ql_err *e) { return ql_st_write_data(ctx, data, len, e); }

static int write_weights(struct ql_export_run *r, enum ql_dtype dtype, int dirfd, struct ql_err *e)
{
	size_t all = ql_arch_tensor_count(r->arch), n = 0, i;
	struct ql_st_spec *specs = calloc(all, sizeof *specs);
	struct ql_arch_tensor *ts = calloc(all, sizeof *ts), t;
	size_t *first = calloc(all, sizeof *first);
	struct ql_st_writer *w = NULL;
	int rc = specs == NULL || ts == NULL || first == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for %zu tensors", all) : QL_OK;

	for (i = 0; rc == QL_OK && i < all; i++) {
		ql_arch_tensor_at(r->arch, i, &ts[n]);
		if (ts[n].file_part > 0)
			continue;
		specs[n] = (struct ql_st_spec){ts[n].file_hf, dtype, ts[n].n_dims, {ts[n].file_rows, ts[n].cols}};
		if (ts[n].n_dims == 1)
			specs[n].shape[0] = ts[n].cols;
		first[n++] = i;
	}
	if (rc == QL_OK)
		rc = ql_st_write_begin(&w, dirfd, weights, specs, n, e);
	while (rc == QL_OK && (i = ql_st_write_next(w)) < n)
		for (uint32_t p = 0; rc == QL_OK && p < ts[i].file_parts; p++) {
			ql_arch_tensor_at(r->arch, first[i] + p, &t);
			rc = ql_export_stream(r, &t, dtype, false, sink, w, e);
		}
	if (rc == QL_OK)
		rc = ql_st_write_commit(w, e);
	else
		ql_st_write_abort(w);
	free(specs);
	free(ts);
	free(first);
	return rc;
}

static int check_request(const struct ql_export *x, enum ql_export_type type, struct ql_err *e)
{
	if (type != QL_EXPORT_F32 && type != QL_EXPORT_F16 && type != QL_EXPORT_BF16)
		return ql_err_set(e, QL_EINVAL, "a Hugging Face directory is written as f32, f16 or bf16");
	if (ql_source_dir(x->source) == NULL)
		return ql_err_set(e, QL_EUNSUPPORTED, "a Hugging Face directory needs config.json and tokenizer.json of the base; "
				  "this base is a GGUF file: export a merged GGUF instead");
	return ql_export_check_input(x, e);
}

int ql_export_hf(const struct ql_export *x, enum ql_export_type type, int dirfd, struct ql_err *e)
{
	struct ql_export_run r = {0};
	int rc = check_request(x, type, e);

	if (rc == QL_OK)
		rc = ql_export_run_init(&r, x, e);
	if (rc == QL_OK)
		rc = write_weights(&r, ql_export_types[type].base, dirfd, e);
	if (rc == QL_OK)
		rc = copy_files(x, dirfd, e);
	if (rc == QL_OK)
		rc = write_config(x, type, dirfd, e); /* last: a directory without it is no model */
	ql_export_run_free(&r);
	return rc;
}

static int verify_tensor(struct ql_export_run *r, const struct ql_st *st, const struct ql_arch_tensor *t, enum ql_dtype dtype,
			 struct ql_err *e)
{
	const struct ql_st_tensor *f = ql_st_find(st, t->file_hf);

	if (f == NULL)
		return ql_err_param(e, QL_EMISMATCH, t->file_hf, "tensor %s is missing", t->file_hf);
	if (f->dtype != dtype || f->n_dims != t->n_dims || f->shape[t->n_dims - 1] != t->cols ||
	    (t->n_dims == 2 && f->shape[0] != t->file_rows))
		return ql_err_param(e, QL_EMISMATCH, t->file_hf, "tensor %s has another type or shape than written", t->file_hf);
	return ql_export_check_tensor(r, t, dtype, false,
				      (const char *)f->data + t->file_row * ql_dtype_bytes(dtype, t->cols), e);
}

static int verify_config(const struct ql_export_run *r, int dirfd, struct ql_err *e)
{
	struct ql_buf text = {0};
	struct ql_arch a;
	int rc = ql_io_read_all(dirfd, "config.json", QL_CONFIG_JSON_MAX, &text, e);

	if (rc == QL_OK)
		rc = ql_arch_from_config_json(&a, text.data, text.len, e);
	if (rc == QL_OK && (a.hidden_size != r->arch->hidden_size || a.num_hidden_layers != r->arch->num_hidden_layers ||
			    a.vocab_size != r->arch->vocab_size || a.tie_word_embeddings != r->arch->tie_word_embeddings))
		rc = ql_err_set(e, QL_EMISMATCH, "config.json describes another model");
	ql_buf_free(&text);
	return rc;
}

int ql_export_verify_hf(const struct ql_export *x, enum ql_export_type type, int dirfd, struct ql_err *e)
{
	struct ql_export_run r = {0};
	struct ql_st *st = NULL;
	struct ql_arch_tensor t;
	size_t n = 0, wholes = 0;
	int rc = check_request(x, type, e);

	if (rc == QL_OK)
		rc = ql_export_run_init(&r, x, e);
	if (rc == QL_OK)
		rc = verify_config(&r, dirfd, e);
	if (rc == QL_OK)
		rc = ql_st_open_at(&st, dirfd, weights, e);
	if (rc == QL_OK)
		n = ql_arch_tensor_count(r.arch);
	for (size_t i = 0; i < n; i++) {
		ql_arch_tensor_at(r.arch, i, &t);
		wholes += t.file_part == 0;
	}
	if (rc == QL_OK && ql_st_count(st) != wholes)
		rc = ql_err_set(e, QL_EMISMATCH, "the file holds %zu tensors, %zu were written", ql_st_count(st), wholes);
	for (size_t i = 0; rc == QL_OK && i < n; i++) {
		ql_arch_tensor_at(r.arch, i, &t);
		rc = verify_tensor(&r, st, &t, ql_export_types[type].base, e);
	}
	ql_st_close(st);
	ql_export_run_free(&r);
	if (rc != QL_OK)
		(void)ql_err_prefix(e, "verify");
	return rc;
}
