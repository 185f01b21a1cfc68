/* replay.h - makes a fuzz target usable without a fuzzer: with QL_FUZZ_REPLAY defined its main feeds each file (or each file
 * of each directory) named on the command line to the target, and then the same bytes cut short and with bytes changed,
 * so that an ordinary test run covers some of what a fuzzer would.  Build with -fsanitize=fuzzer and without the macro to
 * fuzz for real. */
#ifndef QL_TESTS_FUZZ_REPLAY_H
#define QL_TESTS_FUZZ_REPLAY_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#ifdef QL_FUZZ_REPLAY
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* An exact-size copy, so that reading past the end is noticed. */
static void feed(const uint8_t *data, size_t size)
{
	uint8_t *p = malloc(size == 0 ? 1 : size);

	if (p == NULL)
		abort();
	if (size > 0)
		memcpy(p, data, size);
	(void)LLVMFuzzerTestOneInput(p, size);
	free(p);
}

static void vary(uint8_t *data, size_t size)
{
	static const uint8_t values[] = {0x00, 0x01, 0x22, 0x2c, 0x7b, 0x7f, 0x80, 0xff};
	size_t step = size / 4096 + 1;

	for (size_t n = 0; n <= size; n += step)
		feed(data, n);
	for (size_t i = 0; i < size; i += step)
		for (size_t k = 0; k < sizeof values; k++) {
			uint8_t old = data[i];

			data[i] = values[k];
			feed(data, size);
			data[i] = old;
		}
}

/* Several changes at once: bytes replaced, ranges copied over others; a fixed sequence, so that a failure repeats. */
static void scramble(const uint8_t *data, size_t size)
{
	uint32_t x = 0x9e3779b9u ^ (uint32_t)size;
	uint8_t *p = malloc(size + 1);

	if (p == NULL)
		abort();
	for (int round = 0; round < 20000 && size > 0; round++) {
		memcpy(p, data, size);
		for (int k = 0; k <= round % 6; k++) {
			size_t at, from, n;

			x = x * 1664525u + 1013904223u;
			at = (x >> 8) % size;
			x = x * 1664525u + 1013904223u;
			from = (x >> 8) % size;
			n = 1 + (x & 15);
			if (x & 16 && at + n <= size && from + n <= size)
				memmove(p + at, p + from, n);
			else
				p[at] = (uint8_t)(x >> 20);
		}
		feed(p, size);
	}
	free(p);
}

static int replay_file(const char *path)
{
	FILE *f = fopen(path, "rb");
	uint8_t *data = malloc(1 << 20);
	size_t size;

	if (f == NULL || data == NULL) {
		(void)fprintf(stderr, "cannot read %s\n", path);
		return 1;
	}
	size = fread(data, 1, 1 << 20, f);
	(void)fclose(f);
	vary(data, size);
	scramble(data, size);
	free(data);
	(void)printf("%s: %zu bytes\n", path, size);
	return 0;
}

static int replay(const char *path)
{
	DIR *d = opendir(path);
	struct dirent *ent;
	char name[4096];
	int bad = 0;

	if (d == NULL)
		return replay_file(path);
	while ((ent = readdir(d)) != NULL) {
		if (ent->d_name[0] == '.')
			continue;
		(void)snprintf(name, sizeof name, "%s/%s", path, ent->d_name);
		bad |= replay_file(name);
	}
	(void)closedir(d);
	return bad;
}

int main(int argc, char **argv)
{
	int bad = argc < 2;

	for (int i = 1; i < argc; i++)
		bad |= replay(argv[i]);
	return bad;
}
#endif
#endif
