/* tool_quant.c - the quantisers as a program, for comparison with other projects' (tests/interop/test_quant_*.py).
 *
 *   quant_tool q4 KIND DTYPE BLOCKSIZE NESTED IN OUT     KIND nf4|fp4|int4, DTYPE f32|f16|bf16, NESTED 0 or 256
 *       writes OUT.codes, OUT.absmax (f32, expanded if nested), OUT.f32, OUT.bf16, OUT.f16 and, if nested,
 *       OUT.absmax_q, OUT.nested_absmax, OUT.offset
 *   quant_tool blkq TYPE COLS IN OUT [IMPORTANCE]        f32 to GGUF blocks
 *   quant_tool blkd TYPE N IN OUT                        GGUF blocks to f32
 *   quant_tool map signed|unsigned OUT                   the 256 values
 * All files are raw little-endian arrays.  Exit code 0, or 1 with the library's message on stderr. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/quant/blk.h"
#include "core/quant/q4.h"

static void *load(const char *path, size_t *len)
{
	FILE *f = fopen(path, "rb");
	void *p = NULL;
	long n;

	if (f != NULL && fseek(f, 0, SEEK_END) == 0 && (n = ftell(f)) >= 0 && fseek(f, 0, SEEK_SET) == 0) {
		*len = (size_t)n;
		p = malloc(*len + 64);
		if (p != NULL && fread(p, 1, *len, f) != *len) {
			free(p);
			p = NULL;
		}
	}
	if (f != NULL)
		(void)fclose(f);
	if (p == NULL)
		fprintf(stderr, "cannot read %s\n", path);
	return p;
}

static int save(const char *prefix, const char *suffix, const void *p, size_t len)
{
	char path[4096];
	FILE *f;
	int ok;

	(void)snprintf(path, sizeof path, "%s%s", prefix, suffix);
	f = fopen(path, "wb");
	ok = f != NULL && fwrite(p, 1, len, f) == len;
	if (f != NULL)
		ok = fclose(f) == 0 && ok;
	if (!ok)
		fprintf(stderr, "cannot write %s\n", path);
	return ok ? 0 : 1;
}

static int fail(const struct ql_err *e)
{
	fprintf(stderr, "%s\n", e->message);
	return 1;
}

static int run_q4(char **a)
{
	struct ql_q4_opts o = {.kind = ql_dtype_of(a[0]), .blocksize = (uint32_t)atoi(a[2]), .nested = atoi(a[3]) != 0,
			       .nested_blocksize = (uint32_t)atoi(a[3])};
	static const enum ql_dtype types[3] = {QL_F32, QL_BF16, QL_F16};
	enum ql_dtype t = ql_dtype_of(a[1]);
	struct ql_err e = {0};
	struct ql_q4 q;
	size_t len = 0;
	void *src = load(a[4], &len);
	float *buf;
	int bad = 0;
	uint64_t n, m;

	if (src == NULL || t >= QL_DTYPE_COUNT)
		return 1;
	n = len / ql_dtypes[t].bytes;
	if (ql_q4_quantize(&q, src, t, n, &o, NULL, &e) != QL_OK)
		return fail(&e);
	m = ql_q4_blocks(&q);
	buf = malloc((size_t)(n + 64) * 4);
	if (buf == NULL)
		return 1;
	bad |= save(a[5], ".codes", q.codes, (size_t)(n / 2 + n % 2));
	(void)ql_q4_absmax(&q, 0, m, buf);
	bad |= save(a[5], ".absmax", buf, (size_t)m * 4);
	if (q.nested) {
		bad |= save(a[5], ".absmax_q", q.absmax_q, (size_t)m);
		bad |= save(a[5], ".nested_absmax", q.nested_absmax, (size_t)ql_q4_nested_blocks(&q) * 4);
		bad |= save(a[5], ".offset", &q.offset, 4);
	}
	for (int i = 0; i < 3; i++) {
		char suffix[8] = ".";

		if (ql_q4_dequantize(&q, 0, n, buf, types[i], NULL, &e) != QL_OK)
			return fail(&e);
		(void)strcat(suffix, ql_dtype_name(types[i]));
		bad |= save(a[5], suffix, buf, (size_t)n * ql_dtypes[types[i]].bytes);
	}
	ql_q4_free(&q);
	free(buf);
	free(src);
	return bad;
}

static int run_blkq(int argc, char **a)
{
	enum ql_dtype t = ql_dtype_of(a[0]);
	uint64_t cols = strtoull(a[1], NULL, 10), rows;
	size_t len = 0, wlen = 0, size;
	float *src = load(a[2], &len), *w = argc > 4 ? load(a[4], &wlen) : NULL;
	struct ql_err e = {0};
	void *dst;

	if (src == NULL || t >= QL_DTYPE_COUNT || cols == 0 || (argc > 4 && (w == NULL || wlen != cols * 4)))
		return 1;
	rows = len / 4 / cols;
	size = ql_dtype_bytes(t, cols) * (size_t)rows;
	dst = malloc(size + 1);
	if (dst == NULL)
		return 1;
	if (ql_blk_quantize(t, src, rows, cols, w, dst, NULL, &e) != QL_OK)
		return fail(&e);
	return save(a[3], "", dst, size);
}

static int run_blkd(char **a)
{
	enum ql_dtype t = ql_dtype_of(a[0]);
	uint64_t n = strtoull(a[1], NULL, 10);
	size_t len = 0;
	void *src = load(a[2], &len);
	struct ql_err e = {0};
	float *dst = malloc((size_t)n * 4 + 1);

	if (src == NULL || dst == NULL || t >= QL_DTYPE_COUNT || len != ql_dtype_bytes(t, n))
		return 1;
	if (ql_blk_dequantize(t, src, n, dst, &e) != QL_OK)
		return fail(&e);
	return save(a[3], "", dst, (size_t)n * 4);
}

int main(int argc, char **argv)
{
	if (argc == 8 && strcmp(argv[1], "q4") == 0)
		return run_q4(argv + 2);
	if ((argc == 6 || argc == 7) && strcmp(argv[1], "blkq") == 0)
		return run_blkq(argc - 2, argv + 2);
	if (argc == 6 && strcmp(argv[1], "blkd") == 0)
		return run_blkd(argv + 2);
	if (argc == 4 && strcmp(argv[1], "map") == 0)
		return save(argv[3], "", argv[2][0] == 's' ? ql_dynamic_map_signed() : ql_dynamic_map_unsigned(), 1024);
	fprintf(stderr, "usage: see the head of tool_quant.c\n");
	return 1;
}
