/* engine_main.h - the entry of `qlorad engine`. */
#ifndef QL_DAEMON_ENGINE_MAIN_H
#define QL_DAEMON_ENGINE_MAIN_H
int ql_engine_main(int argc, char **argv);
#endif
