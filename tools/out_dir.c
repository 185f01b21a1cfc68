/* out_dir.c - a Hugging Face directory with its linears in 4 bit, as transformers loads it through bitsandbytes: one
 * model.safetensors, config.json with quantization_config, every other file that holds no weights copied.  The directory
 * appears whole or not at all. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "tools/priv.h"

static bool is_copied(const char *name)
{
	static const char *const not_copied[] = {".safetensors", ".bin", ".pt", ".pth", ".pkl", ".py", ".gguf", ".index.json"};
	size_t n = strlen(name);

	for (size_t i = 0; i < sizeof not_copied / sizeof not_copied[0]; i++) {
		size_t m = strlen(not_copied[i]);

		if (n >= m && strcmp(name + n - m, not_copied[i]) == 0)
			return false;
	}
	return name[0] != '.' && strcmp(name, "config.json") != 0 && ql_io_name_ok(name);
}

static int copy_files(const struct tool_job *j, struct ql_err *e)
{
	DIR *d = opendir(j->in_path);
	struct dirent *ent;
	struct stat st;
	int rc = QL_OK;

	if (d == NULL)
		return ql_err_errno(e, "%.200s", j->in_path);
	while (rc == QL_OK && (ent = readdir(d)) != NULL) {
		struct ql_buf text = {0};
		char path[4096];

		if (!is_copied(ent->d_name) || fstatat(dirfd(d), ent->d_name, &st, 0) != 0 || !S_ISREG(st.st_mode))
			continue;
		(void)snprintf(path, sizeof path, "%s/%s", j->in_path, ent->d_name);
		rc = ql_io_read_file(path, QL_TOKENIZER_JSON_MAX, &text, e);
		if (rc == QL_OK)
			rc = ql_io_replace(j->dirfd, ent->d_name, text.data, text.len, e);
		ql_buf_free(&text);
	}
	(void)closedir(d);
	return rc;
}

static const char *compute_dtype(const json_t *cfg)
{
	const char *name = json_string_value(json_object_get(cfg, "torch_dtype"));

	name = name == NULL ? json_string_value(json_object_get(cfg, "dtype")) : name;
	return name != NULL && (strcmp(name, "float16") == 0 || strcmp(name, "float32") == 0) ? name : "bfloat16";
}

static int write_config(const struct tool_job *j, struct ql_err *e)
{
	struct ql_buf text = {0};
	json_t *cfg = NULL, *quant;
	char path[4096], *out = NULL;
	int rc;

	(void)snprintf(path, sizeof path, "%s/config.json", j->in_path);
	rc = ql_io_read_file(path, QL_CONFIG_JSON_MAX, &text, e);
	if (rc == QL_OK)
		rc = ql_json_parse(text.data, text.len, QL_CONFIG_JSON_MAX, &cfg, e);
	if (rc == QL_OK && !json_is_object(cfg))
		rc = ql_err_set(e, QL_EFORMAT, "config.json is no object");
	if (rc == QL_OK) {
		quant = json_pack("{s:s, s:b, s:b, s:s, s:b, s:s, s:s}", "quant_method", "bitsandbytes", "load_in_4bit", 1,
				  "load_in_8bit", 0, "bnb_4bit_quant_type", ql_dtype_name(j->type), "bnb_4bit_use_double_quant",
				  (int)j->q4.nested, "bnb_4bit_compute_dtype", compute_dtype(cfg), "bnb_4bit_quant_storage",
				  "uint8");
		if (quant == NULL || json_object_set_new(cfg, "quantization_config", quant) != 0 ||
		    (out = json_dumps(cfg, JSON_INDENT(2))) == NULL)
			rc = ql_err_set(e, QL_ENOMEM, "no memory for config.json");
	}
	if (rc == QL_OK)
		rc = ql_io_replace(j->dirfd, "config.json", out, strlen(out), e);
	free(out);
	json_decref(cfg);
	ql_buf_free(&text);
	return rc;
}

/* Before the work: the result's name must be free, and so must the one it has while it is made; what lies there is somebody's. */
static int check_free(int parent, const char *name, struct ql_err *e)
{
	char tmp[200];

	if (!ql_io_name_ok(name))
		return ql_err_set(e, QL_EINVAL, "bad directory name");
	if (faccessat(parent, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return ql_err_set(e, QL_EEXIST, "%s already exists", name);
	(void)snprintf(tmp, sizeof tmp, "%s.tmp", name);
	if (faccessat(parent, tmp, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return ql_err_set(e, QL_EEXIST, "%s is in the way: remove it, or give the result another name", tmp);
	return QL_OK;
}

int tool_write_dir(struct tool_job *j, struct ql_err *e)
{
	int parent = j->dirfd, rc;
	const char *name = j->file;

	if (ql_tset_kind(j->in) != QL_TSET_HF || (j->type != QL_NF4 && j->type != QL_FP4) || j->q4.blocksize != 64)
		return ql_err_set(e, QL_EUNSUPPORTED,
				  "a directory is written from a Hugging Face directory, as nf4 or fp4 with blocks of 64");
	for (size_t i = 0; i < ql_tset_count(j->in); i++)
		if (ql_tset_at(j->in, i)->q4 != NULL)
			return ql_err_set(e, QL_EUNSUPPORTED, "%.200s is quantised already", j->in_path);
	rc = check_free(parent, name, e);
	if (rc == QL_OK)
		rc = ql_io_dir_begin(parent, name, &j->dirfd, e);
	if (rc != QL_OK) {
		j->dirfd = parent;
		return rc;
	}
	j->file = "model.safetensors";
	rc = tool_write_st(j, e);
	if (rc == QL_OK)
		rc = copy_files(j, e);
	if (rc == QL_OK)
		rc = write_config(j, e);
	if (rc == QL_OK)
		rc = ql_io_dir_publish(parent, name, j->dirfd, e);
	else
		ql_io_dir_abort(parent, name, j->dirfd);
	j->dirfd = parent;
	return rc;
}
