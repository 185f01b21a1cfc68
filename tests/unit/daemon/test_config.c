/* Settings: precedence, every row's range, unknown keys, rules between settings, the example file. */
#include "tests/unit/cm.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/schema.h"
#include "tests/unit/scratch.h"

static struct scratch dir;
static char file[80];

static void write_file(const char *text)
{
	int fd = open(file, O_WRONLY | O_TRUNC | O_CREAT, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	(void)close(fd);
}

static int load(struct ql_config *c, char **args, char **env, struct ql_err *e)
{
	int n = 0, rc;
	bool check, help;

	while (args[n] != NULL)
		n++;
	memset(e, 0, sizeof *e);
	rc = ql_config_load(c, n, args, env, &check, &help, e);
	return rc;
}
#define ARGS(...) ((char *[]){"serve", __VA_ARGS__, NULL})
#define ENV(...) ((char *[]){"HOME=/h", __VA_ARGS__, NULL})

static void precedence(void **state)
{
	struct ql_config c;
	struct ql_err e;

	(void)state;
	write_file("{ // a comment with \"quotes\"\n \"base\": \"/file//x\", \"threads\": 3, \"listen\": [\"127.0.0.1:1\"] }");
	assert_int_equal(load(&c, ARGS("--config", file), ENV("A=b"), &e), QL_OK);
	assert_string_equal(c.base, "/file//x");
	assert_int_equal(c.threads, 3);
	assert_string_equal(c.state_dir, "/h/.local/state/qlorad");
	assert_string_equal(c.listen.v[0], "127.0.0.1:1");
	ql_config_free(&c);
	assert_int_equal(load(&c, ARGS("--config", file), ENV("QLORAD_THREADS=4", "QLORAD_LISTEN=127.0.0.1:2,[::1]:3"), &e), QL_OK);
	assert_int_equal(c.threads, 4);
	assert_int_equal(c.listen.n, 2);
	ql_config_free(&c);
	assert_int_equal(load(&c, ARGS("--config", file, "--threads", "5", "--listen=127.0.0.1:9", "--listen", "unix:/s"),
			ENV("QLORAD_THREADS=4"), &e),
			 QL_OK);
	assert_int_equal(c.threads, 5);
	assert_int_equal(c.listen.n, 2);
	assert_string_equal(c.listen.v[1], "unix:/s");
	ql_config_free(&c);
	assert_int_equal(load(&c, ARGS("--base", "b"), ENV("RUNTIME_DIRECTORY=/run/q", "STATE_DIRECTORY=/var/q"), &e), QL_OK);
	assert_string_equal(c.listen.v[0], "unix:/run/q/api.sock");
	assert_string_equal(c.state_dir, "/var/q");
	ql_config_free(&c);
}

static void refused(void **state)
{
	static const struct {
		const char *args[4], *env, *file, *word; /* word: must be in the message */
	} rows[] = {
		{{"--base"}, "A=b", "{}", "value"},
		{{"--unknown", "1"}, "A=b", "{}", "unknown"},
		{{"--model_name", "x"}, "A=b", "{}", "unknown"},
		{{"stray"}, "A=b", "{}", "unknown"},
		{{"--threads", "5", "--threads", "6"}, "A=b", "{}", "twice"},
		{{"--threads", "x"}, "A=b", "{}", "integer"},
		{{"--threads", "1.5"}, "A=b", "{}", "integer"},
		{{"--threads", "99999999999999999999"}, "A=b", "{}", "integer"},
		{{"--inter-token-target-ms", "nan"}, "A=b", "{}", "number"},
		{{NULL}, "QLORAD_NONSENSE=1", "{}", "QLORAD_NONSENSE"},
		{{NULL}, "QLORAD_" "NONSENSENONSENSENONSENSENONSENSENONSENSENONSENSENONSENSENONSENSENONSENSENONSENSENONSENSENONSENSE=1", "{}",
		 "QLORAD_NONSENSE"},
		{{"--threads", "257"}, "A=b", "{}", "between"}, /* as many as the engine takes */
		{{"--base", "/models/caf\xe9.gguf"}, "A=b", "{}", "UTF-8"},
		{{"--aliases", "caf\xe9"}, "A=b", "{}", "UTF-8"},
		{{NULL}, "QLORAD_THREADS=-1", "{}", "QLORAD_THREADS"},
		{{NULL}, "QLORAD_NO_AUTH=maybe", "{}", "QLORAD_NO_AUTH"},
		{{NULL}, "A=b", "{\"unknown\":1}", "unknown"},
		{{NULL}, "A=b", "{\"threads\":\"3\"}", "threads"},
		{{NULL}, "A=b", "{\"threads\":3.0}", "threads"},
		{{NULL}, "A=b", "{\"no_auth\":1}", "no_auth"},
		{{NULL}, "A=b", "{\"listen\":\"x\"}", "listen"},
		{{NULL}, "A=b", "{\"listen\":[1]}", "listen"},
		{{NULL}, "A=b", "{\"threads\":3,\"threads\":4}", "JSON"},
		{{NULL}, "A=b", "[]", "object"},
		{{NULL}, "A=b", "{", "JSON"},
		{{"--device", "gpu"}, "A=b", "{}", "device"},
		{{"--device", "cuda:x"}, "A=b", "{}", "device"},
		{{"--log-level", "loud"}, "A=b", "{}", "none of"},
		{{"--listen", "localhost"}, "A=b", "{}", "neither"},
		{{"--listen", "127.0.0.1:70000"}, "A=b", "{}", "neither"},
		{{"--listen", "127.0.0.1:"}, "A=b", "{}", "neither"},
		{{"--listen", "example.org:80"}, "A=b", "{}", "not an IP"},
		{{"--listen", "::1:80"}, "A=b", "{}", "neither"},
		{{"--listen", "0.0.0.0:80"}, "A=b", "{}", "allow_remote"},
		{{"--listen", "0.0.0.0:80", "--allow-remote", "--no-auth"}, "A=b", "{}", "no_auth"},
		{{"--listen", "unix:relative"}, "A=b", "{}", "absolute"},
		{{"--model-name", "a:b"}, "A=b", "{}", "model_name"},
		{{"--aliases", "-x"}, "A=b", "{}", "aliases"},
		{{"--origins", "example.org"}, "A=b", "{}", "origins"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		char *args[10] = {"serve", "--config", file}, *env[] = {"HOME=/h", "QLORAD_BASE=b", (char *)(uintptr_t)rows[i].env, NULL};
		struct ql_config c;
		struct ql_err e;

		for (int k = 0; k < 4; k++)
			args[3 + k] = (char *)(uintptr_t)rows[i].args[k];
		write_file(rows[i].file);
		if (load(&c, args, env, &e) == QL_OK || strstr(e.message, rows[i].word) == NULL)
			print_error("row %zu: %s\n", i, e.message);
		assert_true(e.code < 0);
		assert_non_null(strstr(e.message, rows[i].word));
	}
	{
		struct ql_config c;
		struct ql_err e;

		assert_int_not_equal(load(&c, ARGS("--threads", "1"), ENV("A=b"), &e), QL_OK); /* no base */
		assert_string_equal(e.param, "base");
		assert_int_not_equal(load(&c, ARGS("--config", "/nonexistent"), ENV("A=b"), &e), QL_OK);
	}
}

/* Each number at its least and greatest value and one beyond; each boolean and list. */
static void each_row(void **state)
{
	(void)state;
	for (size_t i = 0; i < ql_settings_n; i++) {
		const struct ql_setting *s = &ql_settings[i];
		double v[4] = {s->min, s->max, s->min - 1, s->max + 1};

		assert_ptr_equal(ql_setting_find(s->name), s);
		assert_non_null(s->help);
		for (int k = 0; k < 4 && (s->type == QL_SET_INT || s->type == QL_SET_REAL); k++) {
			struct ql_config c = {0};
			struct ql_err e = {0};
			char text[40];

			(void)snprintf(text, sizeof text, "%.0f", v[k]);
			assert_int_equal(ql_setting_set_text(&c, s, text, false, "test", &e) == QL_OK, k < 2);
		}
	}
}

static void local(void **state)
{
	(void)state;
	assert_true(ql_config_is_local("127.0.0.1:0"));
	assert_true(ql_config_is_local("127.3.2.1:0"));
	assert_true(ql_config_is_local("[::1]:0"));
	assert_true(ql_config_is_local("localhost:1"));
	assert_true(ql_config_is_local("unix:/x"));
	assert_false(ql_config_is_local("0.0.0.0:1"));
	assert_false(ql_config_is_local("[::]:1"));
	assert_false(ql_config_is_local("128.0.0.1:1"));
	assert_false(ql_config_is_local("nonsense"));
}

static void example(void **state)
{
	FILE *f = fopen(file, "w");
	struct ql_config c;
	struct ql_err e;

	(void)state;
	assert_non_null(f);
	ql_config_example(f);
	(void)fclose(f);
	if (load(&c, ARGS("--config", file), ENV("A=b"), &e) != QL_OK)
		print_error("%s\n", e.message);
	assert_int_equal(e.code, 0);
	assert_string_equal(c.base, "/srv/models/model.gguf");
	ql_config_free(&c);
}

static int setup(void **state)
{
	(void)state;
	scratch_open(&dir);
	(void)snprintf(file, sizeof file, "%s/config.json", dir.path);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	scratch_close(&dir);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(precedence), cmocka_unit_test(refused), cmocka_unit_test(each_row),
			cmocka_unit_test(local),
					   cmocka_unit_test(example)};

	return cmocka_run_group_tests(tests, setup, teardown);
}
