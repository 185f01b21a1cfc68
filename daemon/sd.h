/* sd.h - what a service manager says and wants to hear: NOTIFY_SOCKET datagrams, LISTEN_FDS sockets, the watchdog.  No
 * libsystemd: the protocol is a text datagram (sd_notify(3)) and three variables (sd_listen_fds(3)). */
#ifndef QL_DAEMON_SD_H
#define QL_DAEMON_SD_H

#include <stddef.h>
#include <stdint.h>

/* Sends e.g. "READY=1"; nothing happens without NOTIFY_SOCKET. */
void ql_sd_notify(const char *text);
/* Fills fds with the passed sockets, made close-on-exec; returns how many (0 without a service manager). */
size_t ql_sd_listen_fds(int *fds, size_t max);
/* Milliseconds between WATCHDOG=1 messages (half of WatchdogSec), 0 = none wanted. */
uint64_t ql_sd_watchdog_ms(void);

#endif
