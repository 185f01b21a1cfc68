/* sha_ni.h - the inner loop of SHA-256 by the processor's own instructions, where it has them; private to hash.c. */
#ifndef QL_BASE_SHA_NI_H
#define QL_BASE_SHA_NI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Asks the processor (slow under virtualisation: not worth it for less than some tens of kilobytes). */
bool ql_sha_ni_usable(void);
/* Takes n blocks of 64 bytes into the state.  Only where usable. */
void ql_sha_ni_blocks(uint32_t state[8], const uint8_t *data, size_t n);

#endif
