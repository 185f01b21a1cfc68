/* cli.h - entry of the client sub-commands: argv[0] is the sub-command's name. */
#ifndef QL_CLI_CLI_H
#define QL_CLI_CLI_H
int ql_cli_main(int argc, char **argv);
#endif
