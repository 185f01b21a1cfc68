/* hash.c - see hash.h. */
#include "core/base/hash.h"

#include "core/base/sha_ni.h"

#define LARGE ((size_t)64 << 10)

void ql_sha256_init(struct ql_sha256 *h) { (void)crypto_hash_sha256_init(&h->state); }

void ql_sha256_add(struct ql_sha256 *h, const void *data, size_t len)
{
	crypto_hash_sha256_state *s = &h->state;
	const uint8_t *p = data;

	if (len >= LARGE && ql_sha_ni_usable()) {
		size_t open = (size_t)(s->count >> 3 & 63), n = open == 0 ? 0 : 64 - open;

		(void)crypto_hash_sha256_update(s, p, n); /* ends a begun block */
		p += n;
		len -= n;
		n = len / 64;
		ql_sha_ni_blocks(s->state, p, n);
		s->count += (uint64_t)n * 512;
		p += n * 64;
		len -= n * 64;
	}
	(void)crypto_hash_sha256_update(s, p, len);
}

void ql_sha256_end(struct ql_sha256 *h, uint8_t out[32]) { (void)crypto_hash_sha256_final(&h->state, out); }

void ql_hex(const uint8_t *in, size_t len, char *out)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < len; i++) {
		out[2 * i] = digits[in[i] >> 4];
		out[2 * i + 1] = digits[in[i] & 15];
	}
	out[2 * len] = '\0';
}

void ql_sha256_end_hex(struct ql_sha256 *h, char out[QL_SHA256_HEX_SIZE])
{
	uint8_t digest[32];

	ql_sha256_end(h, digest);
	ql_hex(digest, sizeof digest, out);
}

void ql_sha256_hex(const void *data, size_t len, char out[QL_SHA256_HEX_SIZE])
{
	struct ql_sha256 h;

	ql_sha256_init(&h);
	ql_sha256_add(&h, data, len);
	ql_sha256_end_hex(&h, out);
}
