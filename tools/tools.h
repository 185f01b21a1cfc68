/* tools.h - the sub-commands that work on model files without a daemon: inspect, compare, perplexity,
 * quantize, convert. */
#ifndef QL_TOOLS_TOOLS_H
#define QL_TOOLS_TOOLS_H

/* argv[0] is the sub-command's name.  Returns the exit status: 0 done; 1 a file was refused or work failed; 2 compare: the
 * two differ more than asked for, or not in the same tensors; 64 the command line is wrong. */
int ql_tools_main(int argc, char **argv);

#endif
