/* Archives: what is found in honest ones, and that hostile ones are refused. */
#include "tests/unit/cm.h"

#include <stdio.h>
#include <string.h>

#include "core/formats/tar.h"

static uint8_t tape[64 * 512];
static size_t used;

static void seal(uint8_t *h)
{
	unsigned sum = 0;

	memset(h + 148, ' ', 8);
	for (int i = 0; i < 512; i++)
		sum += h[i];
	(void)snprintf((char *)h + 148, 8, "%06o", sum);
}

/* Appends one entry; returns its header. */
static uint8_t *add(const char *name, char type, const char *data, size_t size)
{
	uint8_t *h = tape + used;

	memset(h, 0, 512);
	memcpy(h, name, strlen(name) < 100 ? strlen(name) : 100);
	memcpy(h + 100, "0000644", 7);
	(void)snprintf((char *)h + 124, 12, "%011o", (unsigned)size & 077777777);
	(void)snprintf((char *)h + 136, 12, "%011o", 1700000000u);
	h[156] = (uint8_t)type;
	memcpy(h + 257, "ustar\0" "00", 8);
	seal(h);
	memcpy(h + 512, data, size);
	memset(h + 512 + size, 0, (512 - size % 512) % 512);
	used += 512 + (size + 511) / 512 * 512;
	return h;
}

static void end(void)
{
	memset(tape + used, 0, 1024);
	used += 1024;
}

static int find(struct ql_tar_want *w, struct ql_err *e)
{
	w[0] = (struct ql_tar_want){.name = "adapter_config.json", .max = 100};
	w[1] = (struct ql_tar_want){.name = "adapter_model.safetensors", .max = 10000};
	return ql_tar_find(tape, used, w, 2, e);
}

static void honest(void **state)
{
	struct ql_tar_want w[2];
	struct ql_err e = {0};
	char body[1500];

	(void)state;
	memset(body, 'x', sizeof body);
	used = 0;
	add("lora/", '5', "", 0);
	add("pax", 'x', "28 mtime=1700000000.1234567\n", 28); /* as Python's tarfile writes */
	add("lora/adapter_config.json", '0', "{\"r\":8}", 7);
	add("lora/README.md", '0', body, 600);
	add("./lora/adapter_model.safetensors", '\0', body, sizeof body);
	end();
	assert_int_equal(find(w, &e), QL_OK);
	assert_int_equal(w[0].size, 7);
	assert_memory_equal(w[0].data, "{\"r\":8}", 7);
	assert_int_equal(w[1].size, sizeof body);
	used -= 1024; /* without the end mark, and cut in the padding */
	assert_int_equal(find(w, &e), QL_OK);
	used -= 30;
	assert_int_equal(find(w, &e), QL_OK);
	assert_non_null(w[1].data);
	used = 0;
	add("README.md", '0', body, 10);
	assert_int_equal(find(w, &e), QL_OK);
	assert_null(w[0].data);
}

static void hostile(void **state)
{
	static const struct {
		const char *name;
		char type;
		const char *data;
		int rc;
	} cases[] = {
		{"../adapter_config.json", '0', "{}", QL_EFORMAT},
		{"/etc/adapter_config.json", '0', "{}", QL_EFORMAT},
		{"a/../../adapter_config.json", '0', "{}", QL_EFORMAT},
		{"a//adapter_config.json", '0', "{}", QL_EFORMAT},
		{"", '0', "{}", QL_EFORMAT},
		{"1/2/3/4/5/6/7/8/9/adapter_config.json", '0', "{}", QL_EFORMAT},
		{"adapter_config.json", '2', "", QL_EUNSUPPORTED},		/* symbolic link */
		{"adapter_config.json", '1', "", QL_EUNSUPPORTED},		/* hard link */
		{"adapter_config.json", '3', "", QL_EUNSUPPORTED},		/* device */
		{"adapter_config.json", '6', "", QL_EUNSUPPORTED},		/* pipe */
		{"././@LongLink", 'L', "../../etc/passwd", QL_EUNSUPPORTED},
		{"sparse", 'S', "", QL_EUNSUPPORTED},
		{"pax", 'x', "17 path=/etc/pas\n", QL_EUNSUPPORTED},
		{"pax", 'g', "14 size=99999\n", QL_EUNSUPPORTED},
		{"pax", 'x', "99 mtime=1\n", QL_EFORMAT},
		{"pax", 'x', "0 mtime=1\n", QL_EFORMAT},
		{"pax", 'x', "mtime=1\n", QL_EFORMAT},
		{"adapter_config.json", '0', "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789X",
		 QL_ELIMIT}, /* above the caller's limit */
	};
	struct ql_tar_want w[2];
	struct ql_err e = {0};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		used = 0;
		add("README.md", '0', "x", 1);
		add(cases[i].name, cases[i].type, cases[i].data, strlen(cases[i].data));
		end();
		if (find(w, &e) != cases[i].rc)
			fail_msg("%zu (%s, %c): %d, %s", i, cases[i].name, cases[i].type, e.code, e.message);
	}
	used = 0;
	add("adapter_config.json", '0', "{}", 2);
	add("b/adapter_config.json", '0', "{}", 2);
	assert_int_equal(find(w, &e), QL_EFORMAT); /* which of the two? */
	used = 0;
	uint8_t *h = add("adapter_config.json", '0', "{}", 2);
	h[0] ^= 1;
	assert_int_equal(find(w, &e), QL_EFORMAT); /* checksum */
	used = 0;
	h = add("adapter_config.json", '0', "{}", 2);
	memcpy(h + 124, "77777777777", 11);
	seal(h);
	assert_int_equal(find(w, &e), QL_EFORMAT); /* longer than the archive */
	memcpy(h + 124, "\x80\0\0\0\0\0\0\0\0\0\xff\xff", 12);
	seal(h);
	assert_int_equal(find(w, &e), QL_EFORMAT); /* a size in base 256 */
	memcpy(h + 124, "-0000000001\0", 12);
	seal(h);
	assert_int_equal(find(w, &e), QL_EFORMAT);
	memset(tape, 0, 1024);
	used = 1024;
	assert_int_equal(find(w, &e), QL_EFORMAT); /* nothing in it */
	memcpy(tape, "\x1f\x8b\x08", 3);
	assert_int_equal(find(w, &e), QL_EUNSUPPORTED);
	used = 0;
	assert_int_equal(find(w, &e), QL_EFORMAT);
	/* any single damaged byte of an honest header is refused or harmless, never a read outside (run under the sanitizers) */
	for (size_t at = 0; at < 512; at++)
		for (int bit = 0; bit < 8; bit++) {
			used = 0;
			add("adapter_config.json", '0', "{}", 2);
			tape[at] ^= (uint8_t)(1 << bit);
			(void)find(w, &e);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(honest), cmocka_unit_test(hostile)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
