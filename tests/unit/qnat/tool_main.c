/* tool_main.c - the file tools as a program of their own, for the tests that drive them. */
#include <stdio.h>

#include "tools/tools.h"

int main(int argc, char **argv)
{
	if (argc < 2) {
		(void)fputs("usage: qlorad_tools COMMAND …\n", stderr);
		return 64;
	}
	return ql_tools_main(argc - 1, argv + 1);
}
