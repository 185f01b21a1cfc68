/* config.h - the settings of `qlorad serve`: a JSON file, QLORAD_* variables and flags, by one table (schema.c).
 *
 * Precedence: flag > environment > file > default.  A key snake_case in the file is --snake-case as a flag and
 * QLORAD_SNAKE_CASE in the environment.  Lists are arrays in the file, comma-separated in the environment, repeated as flags.
 * Unknown keys and values out of range are errors that name the key and where it came from. */
#ifndef QL_CONFIG_CONFIG_H
#define QL_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "core/base/err.h"

struct ql_strings {
	size_t n;
	char **v;
};

struct ql_config {
	char *base;                   /* GGUF file or HF directory; required */
	char *state_dir;
	struct ql_strings listen;     /* "127.0.0.1:8177", "[::1]:0", "unix:/path"; empty only with passed sockets */
	char *device;                 /* auto | cpu | cuda | cuda:N */
	int64_t threads;              /* 0 = all */
	char *model_name;             /* id of the base; NULL: from the file's name */
	struct ql_strings aliases;    /* other names of the base */
	int64_t max_running_jobs;
	int64_t max_batch_rows;
	int64_t adapter_slots;        /* adapters on the device at once */
	int64_t kv_tokens;            /* 0 = auto */
	int64_t max_context;          /* 0 = the model's */
	double inter_token_target_ms;
	int64_t snapshot_seconds;
	int64_t upload_max_bytes;
	bool allow_remote, no_auth;
	struct ql_strings hosts;      /* further accepted Host names */
	struct ql_strings origins;    /* accepted Origin values */
	char *report_paused_as;       /* paused | queued */
	bool metrics_compat;
	char *log_level;              /* error | warn | info | debug */
	/* limits */
	int64_t min_examples;         /* a training file must have so many */
	int64_t max_waiting_jobs;
	int64_t max_waiting_requests;
	int64_t max_files;
	int64_t max_file_bytes;       /* of all files together */
	int64_t max_exports_kept;
	int64_t export_days;
	int64_t space_reserve_bytes;
	int64_t drain_seconds;        /* how long SIGTERM waits for streams */
};

/* Reads argv[1…] (sub-command already removed), environment `env` (NAME=value…, NULL-terminated) and the file named by
 * --config or QLORAD_CONFIG.  *check is set by --check-config.  *help is set by --help: then nothing else was read. */
int ql_config_load(struct ql_config *c, int argc, char **argv, char **env, bool *check, bool *help, struct ql_err *e);
void ql_config_free(struct ql_config *c);
void ql_config_help(FILE *out);     /* flags with types, ranges, defaults */
void ql_config_example(FILE *out);  /* a commented example file (// comments are accepted in the file) */
void ql_config_print(const struct ql_config *c, FILE *out); /* effective values as JSON */

/* True if `listen` is a UNIX socket or a loopback address. */
bool ql_config_is_local(const char *listen);

#endif
