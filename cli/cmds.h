/* cmds.h - the client sub-commands; each gets the arguments after its name, returns the exit status. */
#ifndef QL_CLI_CMDS_H
#define QL_CLI_CMDS_H

#include "cli/client.h"

int cmd_submit(const struct cli *c, int argc, char **argv);
int cmd_jobs(const struct cli *c, int argc, char **argv);
int cmd_watch(const struct cli *c, int argc, char **argv);
int cmd_change(const struct cli *c, const char *what, int argc, char **argv); /* cancel, pause, resume */
int cmd_chat(const struct cli *c, int argc, char **argv);
int cmd_export(const struct cli *c, int argc, char **argv);
int cmd_models(const struct cli *c, int argc, char **argv);

/* Follows a job to its end; exit status 0 only if it succeeded. */
int watch_job(const struct cli *c, const char *id);
int cli_fail(const struct ql_err *e); /* prints, returns 1 */
void cli_print(const json_t *v);      /* indented JSON */
/* text with everything but [A-Za-z0-9._~:-] percent-encoded, for one path segment. */
void cli_escape(const char *text, char *out, size_t size);

#endif
