/* q4_body.inc.h - the 4-bit loops over blocks, compiled once per instruction set.
 *
 * The including file has defined, as static functions (x, dst any alignment; codes are whole bytes from an even element):
 *   k_widen(src, t, n, dst)            exact widening of F16/BF16
 *   k_absmax_bits(x, n)                max of the bits of |x|, so that NaN and infinity show
 *   k_minmax(x, n, &mn, &mx)           for finite x; the sign of a zero result is not defined
 *   k_book, k_book_of(book)            a code book in the form k_encode likes
 *   k_encode(&kbook, x, n, c, r, out)  codes of (x - c) * r
 *   k_encode_range(x, n, c, r, out)    codes clamp(rint((x - c) * r), 0, 15)
 *   k_lut(code, scale, zero, lut)      code[k] * scale (+ *zero unless NULL): the 16 values a block can hold
 *   k_scales8(x, b, scale, recip)      and K_SCALES8, optional: scales_of below for b a multiple of K_SCALES8
 *   k_decode_f32(lut, codes, n, dst, stream), k_decode_h16(lut, codes, n, dst, stream)
 * A block is read once from memory: what the second pass over it reads lies in the first-level cache (one row of a
 * per-channel tensor longer than PIECE: in the second).  Ordinary symmetric blocks go GROUP at a time: their scales do not
 * wait for each other, and while they are encoded the next ones are on their way from memory. */
#define PIECE 4096
#define GROUP 8

static const float *view(const void *src, enum ql_dtype t, uint64_t at, size_t n, float *buf)
{
	if (t == QL_F32)
		return (const float *)src + at;
	k_widen((const uint16_t *)src + at, t, n, buf);
	return buf;
}

static inline float bits_float(uint32_t u)
{
	float f;

	memcpy(&f, &u, 4);
	return f;
}

/* What the codes of one block are computed with. */
struct frame {
	float scale, zero, recip;
};

static bool frame_of(enum ql_q4_mode mode, uint32_t bits, float mn, float mx, struct frame *f)
{
	if (bits >= QL_BITS_INF)
		return false;
	switch (mode) {
	case QL_Q4_SYM:
		f->scale = bits_float(bits);
		f->zero = 0.0f;
		break;
	case QL_Q4_MID:
		f->scale = mx * 0.5f - mn * 0.5f + 0.0f;
		f->zero = mx * 0.5f + mn * 0.5f + 0.0f; /* + 0: never -0, whichever zero k_minmax saw */
		break;
	default: /* QL_Q4_RANGE */
		f->scale = (mx - mn) / 15.0f + 0.0f;
		f->zero = mn + 0.0f;
		break;
	}
	if (f->scale > FLT_MAX)
		return false;
	f->recip = 1.0f / (f->scale > QL_SCALE_FLOOR ? f->scale : QL_SCALE_FLOOR);
	return true;
}

#include "core/quant/q4_fit.inc.h"

/* The scales of GROUP blocks and their reciprocals; false where one holds an infinity or a NaN. */
static inline bool scales_of(const float *x, size_t b, float scale[GROUP], float recip[GROUP])
{
#ifdef K_SCALES8
	if (b % K_SCALES8 == 0)
		return k_scales8(x, b, scale, recip);
#endif
	for (size_t k = 0; k < GROUP; k++) {
		uint32_t bits = k_absmax_bits(x + k * b, b);

		if (bits >= QL_BITS_INF)
			return false;
		scale[k] = bits_float(bits);
		recip[k] = 1.0f / (scale[k] > QL_SCALE_FLOOR ? scale[k] : QL_SCALE_FLOOR);
	}
	return true;
}

/* Whole groups of symmetric blocks from the start; *done receives their elements.  Returns as k_q4_quant. */
static uint64_t quant_groups(const struct ql_q4_job *j, const k_book *book, uint64_t *done)
{
	_Alignas(64) float buf[PIECE];
	size_t size = j->src_dtype == QL_F32 ? 4 : 2, b = (size_t)j->blocksize, n = GROUP * b;
	float *scale = j->scale, recip[GROUP];
	uint64_t at = 0;

	for (; j->n - at >= n; at += n, scale += GROUP) {
		const float *x = view(j->src, j->src_dtype, at, n, buf);
		const char *next = (const char *)j->src + (at + n) * size; /* may be past the end: only fetched */

		if (!scales_of(x, b, scale, recip)) {
			size_t k = 0;

			while (k_absmax_bits(x + k * b, b) < QL_BITS_INF)
				k++;
			return at + k * b;
		}
		for (size_t k = 0; k < GROUP; k++, next += b * size) {
			for (size_t line = 0; line < b * size; line += 64)
				__builtin_prefetch(next + line);
			k_encode(book, x + k * b, b, 0.0f, recip[k], j->codes + (at + k * b) / 2);
		}
	}
	*done = at;
	return UINT64_MAX;
}

static uint64_t k_q4_quant(const struct ql_q4_job *j)
{
	_Alignas(64) float buf[PIECE];
	const k_book book = k_book_of(j->book);
	uint64_t block, at = 0;

	if (j->mode == QL_Q4_SYM && GROUP * j->blocksize <= PIECE) {
		uint64_t bad = quant_groups(j, &book, &at);

		if (bad != UINT64_MAX)
			return bad;
	}
	for (block = at / j->blocksize; at < j->n; at += j->blocksize, block++) {
		uint64_t len = j->n - at < j->blocksize ? j->n - at : j->blocksize;
		const float *x = NULL;
		uint32_t bits = 0;
		float mn = INFINITY, mx = -INFINITY;
		struct frame f = {0};

		for (uint64_t p = 0; p < len; p += PIECE) {
			size_t n = (size_t)(len - p < PIECE ? len - p : PIECE);
			uint32_t b;

			x = view(j->src, j->src_dtype, at + p, n, buf);
			b = k_absmax_bits(x, n);
			bits = b > bits ? b : bits;
			if (j->mode != QL_Q4_SYM && b < QL_BITS_INF)
				k_minmax(x, n, &mn, &mx);
		}
		if (!frame_of(j->mode, bits, mn, mx, &f))
			return at;
		if (j->mode == QL_Q4_MID)
			fit_frame(j, &book, at, len, &f);
		j->scale[block] = f.scale;
		if (j->mode != QL_Q4_SYM)
			j->zero[block] = f.zero;
		for (uint64_t p = 0; p < len; p += PIECE) {
			size_t n = (size_t)(len - p < PIECE ? len - p : PIECE);

			if (len > PIECE)
				x = view(j->src, j->src_dtype, at + p, n, buf);
			if (j->mode == QL_Q4_RANGE)
				k_encode_range(x, n, f.zero, f.recip, j->codes + (at + p) / 2);
			else
				k_encode(&book, x, n, f.zero, f.recip, j->codes + (at + p) / 2);
		}
	}
	return UINT64_MAX;
}

static void lut_make(const struct ql_q4_read *r, uint64_t block, float lut[16])
{
	block -= r->first_block;
	k_lut(r->code, r->scale[block], r->zero == NULL ? NULL : &r->zero[block], lut);
}

static void k_q4_dequant_f32(const struct ql_q4_read *r, float *dst)
{
	_Alignas(64) float lut[16];

	for (uint64_t at = r->begin, end = at + r->count, block = at / r->blocksize; at < end; block++) {
		uint64_t stop = (block + 1) * r->blocksize;

		lut_make(r, block, lut);
		stop = stop < end ? stop : end;
		if (at % 2 != 0) {
			*dst++ = lut[r->codes[at / 2] & 15];
			at++;
		}
		k_decode_f32(lut, r->codes + at / 2, (size_t)(stop - at), dst, r->stream);
		dst += stop - at;
		at = stop;
	}
	k_fence(r->stream);
}

static void k_q4_dequant_h16(const struct ql_q4_read *r, uint16_t *dst, enum ql_dtype t)
{
	_Alignas(64) float lut[16];
	_Alignas(32) uint16_t half[16];

	for (uint64_t at = r->begin, end = at + r->count, block = at / r->blocksize; at < end; block++) {
		uint64_t stop = (block + 1) * r->blocksize;

		lut_make(r, block, lut);
		k_narrow16(lut, t, half);
		stop = stop < end ? stop : end;
		if (at % 2 != 0) {
			*dst++ = half[r->codes[at / 2] & 15];
			at++;
		}
		k_decode_h16(half, r->codes + at / 2, (size_t)(stop - at), dst, r->stream);
		dst += stop - at;
		at = stop;
	}
	k_fence(r->stream);
}
