/* log.h - one line per event on stderr: "<level> <area>: message", with the systemd priority prefix when stderr is the
 * journal.  Lines are cut at QL_LOG_LINE_MAX.  No prompt, completion, training text or token is ever logged. */
#ifndef QL_BASE_LOG_H
#define QL_BASE_LOG_H

enum ql_log_level { QL_LOG_ERROR, QL_LOG_WARN, QL_LOG_INFO, QL_LOG_DEBUG };

void ql_log_set_level(enum ql_log_level level); /* default INFO */
int ql_log_level_of(const char *name);          /* error|warn|info|debug, -1 if none of them */
void ql_log(enum ql_log_level level, const char *area, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
