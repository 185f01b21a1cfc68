/* hash.h - SHA-256 (FIPS 180-4), through libsodium.  Digests travel as 32 bytes or 64 lower-case hex digits. */
#ifndef QL_BASE_HASH_H
#define QL_BASE_HASH_H

#include <sodium/crypto_hash_sha256.h>
#include <stddef.h>
#include <stdint.h>

#define QL_SHA256_HEX_SIZE 65 /* with the NUL */

struct ql_sha256 {
	crypto_hash_sha256_state state;
};

void ql_sha256_init(struct ql_sha256 *h);
void ql_sha256_add(struct ql_sha256 *h, const void *data, size_t len);
void ql_sha256_end(struct ql_sha256 *h, uint8_t out[32]);
void ql_sha256_end_hex(struct ql_sha256 *h, char out[QL_SHA256_HEX_SIZE]);
void ql_sha256_hex(const void *data, size_t len, char out[QL_SHA256_HEX_SIZE]);
void ql_hex(const uint8_t *in, size_t len, char *out); /* out holds 2·len + 1 */

#endif
