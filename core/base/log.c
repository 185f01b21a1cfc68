/* log.c - see log.h.  The level is the one process-wide setting; it is atomic, set once at start. */
#include "core/base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/limits.h"

static _Atomic int log_level = QL_LOG_INFO;
static const char *const level_names[] = {"error", "warn", "info", "debug"};

void ql_log_set_level(enum ql_log_level level) { log_level = (int)level; }

int ql_log_level_of(const char *name)
{
	for (int i = 0; i < 4; i++)
		if (strcmp(name, level_names[i]) == 0)
			return i;
	return -1;
}

void ql_log(enum ql_log_level level, const char *area, const char *fmt, ...)
{
	static const char priority[] = {'3', '4', '6', '7'};
	char line[QL_LOG_LINE_MAX];
	struct timespec now;
	struct tm tm;
	int n, m;
	va_list ap;

	if ((int)level > log_level)
		return;
	if (getenv("JOURNAL_STREAM") != NULL) {
		n = snprintf(line, sizeof line, "<%c>%s: ", priority[level], area);
	} else {
		(void)clock_gettime(CLOCK_REALTIME, &now);
		(void)gmtime_r(&now.tv_sec, &tm);
		n = snprintf(line, sizeof line, "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ %-5s %s: ", tm.tm_year + 1900,
			     tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, now.tv_nsec / 1000000,
			     level_names[level], area);
	}
	if (n < 0 || (size_t)n >= sizeof line - 2)
		return;
	va_start(ap, fmt);
	m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
	va_end(ap);
	if (m < 0)
		return;
	n = (int)strlen(line);
	for (int i = 0; i < n; i++)
		if ((unsigned char)line[i] < 0x20)
			line[i] = ' ';
	line[n] = '\n';
	(void)!write(STDERR_FILENO, line, (size_t)n + 1);
}
