/* data_util.h - a byte tokenizer with ChatML's special tokens, ChatML templates, and files made of lines. */
#ifndef QL_TESTS_DATA_UTIL_H
#define QL_TESTS_DATA_UTIL_H

#include <fcntl.h>
#include <unistd.h>

#include "core/base/json.h"
#include "core/text/data/dataset.h"
#include "tests/unit/text/test_tok_util.h"

enum { IM_START = 256, IM_END, EOS };

#define CHATML "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}" \
	       "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
/* Drops the reasoning of earlier answers, as several families do. */
#define FORGETS "{% for m in messages %}{% set c = m.content if loop.last else m.content.split('#')[-1] %}{{ '<|im_start|>' + m.role + '\\n' + " \
		"c + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
#define WITH_GENERATION "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}{% generation %}" \
	"{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}{% else %}{{ m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"

struct fixture {
	struct mini mini;
	struct ql_tok *tok;
	struct ql_tmpl *tmpl;
	struct ql_dataset_opts o;
	struct ql_dataset_report rep;
	struct ql_dataset *d;
	struct ql_err e;
};

static inline void setup(struct fixture *f, const char *template, bool add_bos)
{
	*f = (struct fixture){0};
	mini_init(&f->mini, "gpt-2");
	mini_add(&f->mini, "<|im_start|>", QL_TOK_CONTROL);
	mini_add(&f->mini, "<|im_end|>", QL_TOK_CONTROL);
	mini_add(&f->mini, "<|eos|>", QL_TOK_CONTROL);
	mini_add(&f->mini, "<|eot_id|>", QL_TOK_CONTROL);
	mini_add(&f->mini, "<end_of_turn>", QL_TOK_CONTROL);
	mini_add(&f->mini, "<|user|>", QL_TOK_CONTROL);
	mini_add(&f->mini, "\u0120b", QL_TOK_NORMAL); /* " b" is one token */
	mini_merge(&f->mini, "\u0120 b");
	f->mini.spec.eos = EOS;
	f->mini.spec.eot = IM_END;
	if (add_bos) {
		f->mini.spec.bos = IM_START;
		f->mini.spec.add_bos = true;
	}
	f->tok = mini_load(&f->mini);
	if (template != NULL && ql_tmpl_compile(&f->tmpl, template, strlen(template), &f->e) != QL_OK)
		fail_msg("%s", f->e.message);
	f->o = (struct ql_dataset_opts){.tok = f->tok, .tmpl = f->tmpl, .max_seq_length = 4096, .completion_only_loss = true,
					.min_examples = 1};
}

static inline void teardown(struct fixture *f)
{
	ql_dataset_free(f->d);
	ql_tmpl_free(f->tmpl);
	ql_tok_free(f->tok);
}

/* A file of its own for this process; the name lies in the current directory. */
static inline int write_file(const char *data, size_t len, char name[64])
{
	int dir = open(".", O_RDONLY | O_DIRECTORY), fd;

	assert_true(dir >= 0);
	(void)snprintf(name, 64, "test_data_%d.jsonl", (int)getpid());
	fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), (ssize_t)len);
	(void)close(fd);
	return dir;
}

static inline int load_bytes(struct fixture *f, const char *data, size_t len)
{
	char name[64];
	int dir = write_file(data, len, name), rc;

	ql_dataset_free(f->d);
	f->e = (struct ql_err){0};
	rc = ql_dataset_load(&f->d, dir, name, &f->o, &f->rep, &f->e);
	(void)unlinkat(dir, name, 0);
	(void)close(dir);
	return rc;
}

static inline void load_ok(struct fixture *f, const char *lines)
{
	if (load_bytes(f, lines, strlen(lines)) != QL_OK)
		fail_msg("%s: %s", lines, f->e.message);
}

/* One line, refused: the first fault's reason contains `part`. */
static inline void load_bad(struct fixture *f, const char *line, const char *part)
{
	int rc = load_bytes(f, line, strlen(line));

	if (rc == QL_OK)
		fail_msg("%s: accepted", line);
	if (rc != QL_EFORMAT || f->rep.n_faults == 0 || strstr(f->rep.faults[0].reason, part) == NULL)
		fail_msg("%s: code %d, %s", line, rc, f->e.message);
	assert_null(f->d);
}

/* Example i as text: trained tokens in brackets, special tokens by name. */
static inline char *shown(struct fixture *f, size_t i)
{
	struct ql_example x = ql_dataset_get(f->d, i);
	struct ql_buf b = {0};
	uint32_t n = 0;

	assert_int_equal(x.target[0], 0);
	for (uint32_t t = 0; t < x.n; t++) {
		size_t len;
		const char *p = ql_tok_piece(f->tok, x.ids[t], &len);

		if (x.target[t] && (t == 0 || !x.target[t - 1]))
			(void)ql_buf_adds(&b, "[");
		(void)ql_buf_add(&b, p, len);
		if (x.target[t] && (t + 1 == x.n || !x.target[t + 1]))
			(void)ql_buf_adds(&b, "]");
		n += x.target[t];
	}
	assert_int_equal(n, x.n_targets);
	return b.data;
}

static inline void shows(struct fixture *f, size_t i, const char *want)
{
	char *got = shown(f, i);

	if (strcmp(got, want) != 0)
		fail_msg("example %zu is\n%s\nexpected\n%s", i, got, want);
	free(got);
}

#endif
