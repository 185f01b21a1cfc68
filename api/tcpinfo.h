/* tcpinfo.h - one number of the kernel's TCP_INFO.  A file of its own: glibc's struct tcp_info ends before the field, and
 * the kernel's header cannot be included beside glibc's. */
#ifndef QL_API_TCPINFO_H
#define QL_API_TCPINFO_H

#include <stdint.h>

/* Bytes received on a TCP connection so far; 0 if the kernel does not tell. */
uint64_t ql_tcp_received(int fd);

#endif
