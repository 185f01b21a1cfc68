/* priv.h - what the tool sub-commands share: options, progress, and the job of writing a container. */
#ifndef QL_TOOLS_PRIV_H
#define QL_TOOLS_PRIV_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/base/pool.h"
#include "core/qnat/tset.h"

enum tool_status { TOOL_OK = 0, TOOL_FAILED = 1, TOOL_DIFFERENT = 2, TOOL_USAGE = 64 };

int tool_inspect(int argc, char **argv);
int tool_compare(int argc, char **argv);
int tool_perplexity(int argc, char **argv);
int tool_write(int argc, char **argv); /* quantize, convert */

/* Value of "--name VALUE" or "--name=VALUE", removed from argv; NULL if absent.  *bad is set when the value is missing. */
const char *tool_option(int *argc, char **argv, const char *name, bool *bad);
bool tool_flag(int *argc, char **argv, const char *name);
/* argv must now be the name and `want` plain arguments; prints what is wrong and returns false otherwise. */
bool tool_args_ok(int argc, char **argv, int want, bool bad);
/* A whole decimal number in [min, max], min ≥ 0; -1 for anything else. */
long tool_number(const char *s, long min, long max);
json_t *tool_path_json(const char *path); /* a path as JSON carries it */
int tool_fail(const char *cmd, const struct ql_err *e); /* prints, returns TOOL_FAILED */

/* A line on stderr when that is a terminal: percent and what is being done. */
struct tool_progress {
	bool on;
	int last;
};
void tool_progress_start(struct tool_progress *p);
void tool_progress_at(struct tool_progress *p, double done, const char *what);
void tool_progress_end(struct tool_progress *p);

/* Writing a container from a set of tensors. */
struct tool_job {
	const struct ql_tset *in;
	const char *in_path, *cmd;
	int dirfd;	  /* directory of the result … */
	const char *file; /* … and its name there */
	const char *type_name; /* as given, or NULL */
	enum ql_dtype type;    /* what weights become; QL_DTYPE_COUNT: keep (convert) */
	struct ql_q4_opts q4;
	bool compat, json;
	struct ql_pool *pool;
	struct tool_progress progress;
	uint64_t done, total; /* elements */
	size_t left_out;      /* tensors the target cannot hold */
};
/* Is this tensor one whose weights are quantised?  Norms, biases and other 1-D tensors never; for 4-bit types embeddings and
 * output layers neither, as bitsandbytes leaves them. */
bool tool_is_weight(const struct tool_job *j, const struct ql_tset_tensor *t);
void tool_step(struct tool_job *j, uint64_t n, const char *what);
/* One tensor in 4-bit form: kept as stored when the type and block fit (then nothing is owned), else quantised. */
int tool_q4(const struct tool_job *j, const struct ql_tset_tensor *t, struct ql_q4 *q, struct ql_err *e);
/* Streams a tensor's values as plain or block type `to` into sink; cols = the last dimension. */
int tool_stream(struct tool_job *j, const struct ql_tset_tensor *t, enum ql_dtype to,
		int (*sink)(void *ctx, const void *data, size_t len, struct ql_err *e), void *ctx, struct ql_err *e);

int tool_write_gguf(struct tool_job *j, struct ql_err *e);
int tool_write_st(struct tool_job *j, struct ql_err *e);
int tool_write_qnat(struct tool_job *j, struct ql_err *e);
int tool_write_dir(struct tool_job *j, struct ql_err *e);

#endif
