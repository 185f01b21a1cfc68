/* main.h - the entry of `qlorad bench`. */
#ifndef QL_BENCH_MAIN_H
#define QL_BENCH_MAIN_H
int ql_bench_main(int argc, char **argv); /* argv[0] is "bench"; 0 done, 1 failed, 64 wrong command line */
#endif
