/* engine_spawn.c - the engine's process: which program, with what environment, descriptors and first frame. */
#include <stdlib.h>
#include <string.h>

#include "daemon/engine_internal.h"
#include "daemon/ipc.h"

extern char **environ;

/* The environment without what belongs to control alone. */
static char **child_environment(void)
{
	static const char *const own[] = {"NOTIFY_SOCKET=", "WATCHDOG_USEC=", "WATCHDOG_PID=", "LISTEN_FDS=",
					  "LISTEN_PID=",    "LISTEN_FDNAMES=", "QLORAD_KEY="};
	size_t n = 0, k = 0;
	char **env;

	while (environ != NULL && environ[n] != NULL)
		n++;
	env = calloc(n + 1, sizeof *env);
	if (env == NULL)
		return NULL;
	for (size_t i = 0; i < n; i++) {
		bool drop = false;

		for (size_t j = 0; j < sizeof own / sizeof own[0]; j++)
			drop = drop || strncmp(environ[i], own[j], strlen(own[j])) == 0;
		if (!drop)
			env[k++] = environ[i];
	}
	return env;
}

static const char *engine_program(void)
{
#ifdef QL_TEST_HOOKS
	const char *test = getenv("QLORAD_ENGINE_EXE");

	if (test != NULL && test[0] != '\0')
		return test;
#endif
	return "/proc/self/exe";
}

int ql_engine_spawn(struct ql_engine *en, int theirs, uv_exit_cb on_exit, uv_close_cb on_closed, struct ql_err *e)
{
	char *args[] = {(char *)(uintptr_t) "qlorad", (char *)(uintptr_t) "engine", NULL};
	uv_process_options_t o = {0};
	uv_stdio_container_t io[5] = {0};
	int rc;

	io[0].flags = UV_IGNORE;
	for (int i = 1; i < 5; i++)
		io[i].flags = UV_INHERIT_FD;
	io[1].data.fd = 1;
	io[2].data.fd = 2;
	io[QL_IPC_FD].data.fd = theirs;
	io[QL_IPC_STATE_FD].data.fd = en->ctl->state_fd;
	o.exit_cb = on_exit;
	o.file = engine_program();
	o.args = args;
	o.env = child_environment();
	o.stdio = io;
	o.stdio_count = 5;
	if (o.env == NULL)
		return ql_err_set(e, QL_ENOMEM, "engine");
	en->process_open = true; /* uv_spawn initialises the handle even when it fails */
	en->process.data = en;
	rc = uv_spawn(en->ctl->loop, &en->process, &o);
	free(o.env);
	if (rc != 0) {
		en->exit_code = 127;
		uv_close((uv_handle_t *)&en->process, on_closed);
		return ql_err_set(e, QL_EIO, "cannot start the engine: %s", uv_strerror(rc));
	}
	en->process_alive = true;
	return QL_OK;
}

json_t *ql_engine_init_frame(const struct ql_config *c)
{
	return json_pack("{s:s,s:i,s:s,s:s,s:I,s:s,s:I,s:I,s:I,s:I,s:f,s:I}", "type", "init", "v", QL_IPC_VERSION, "base", c->base,
			 "device", c->device, "threads", (json_int_t)c->threads, "cache", "cache", "max_batch_rows",
			 (json_int_t)c->max_batch_rows, "kv_tokens", (json_int_t)c->kv_tokens, "max_context",
			 (json_int_t)c->max_context, "adapter_slots", (json_int_t)c->adapter_slots, "inter_token_target_ms", c->inter_token_target_ms, "snapshot_seconds",
			 (json_int_t)c->snapshot_seconds);
}
