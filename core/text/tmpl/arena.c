/* arena.c - see arena.h. */
#include "core/text/tmpl/arena.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"

struct tmpl_chunk {
	struct tmpl_chunk *next;
	size_t size, used;
	_Alignas(16) char data[];
};

#define CHUNK_MIN ((size_t)16 << 10)
#define CHUNK_MAX ((size_t)1 << 20)

void tmpl_arena_init(struct tmpl_arena *a, size_t max)
{
	*a = (struct tmpl_arena){.max = max};
}

void tmpl_arena_free(struct tmpl_arena *a)
{
	struct tmpl_chunk *c = a->head;

	while (c != NULL) {
		struct tmpl_chunk *next = c->next;

		free(c);
		c = next;
	}
	a->head = NULL;
}

static bool add_chunk(struct tmpl_arena *a, size_t need)
{
	size_t size = a->head == NULL ? CHUNK_MIN : a->head->size * 2;
	struct tmpl_chunk *c;

	if (size > CHUNK_MAX)
		size = CHUNK_MAX;
	if (size < need)
		size = need;
	c = malloc(sizeof *c + size);
	if (c == NULL)
		return false;
	c->size = size;
	c->used = 0;
	c->next = a->head;
	a->head = c;
	return true;
}

static char *take(struct tmpl_arena *a, size_t size, size_t align)
{
	size_t total, at;
	char *p;

	if (!ql_add_size(a->used, size, &total) || total > a->max)
		return NULL;
	at = a->head == NULL ? 0 : (a->head->used + align - 1) & ~(align - 1);
	if (a->head == NULL || at > a->head->size || a->head->size - at < size) {
		if (!add_chunk(a, size))
			return NULL;
		at = 0;
	}
	p = a->head->data + at;
	a->head->used = at + size;
	a->used = total;
	return p;
}

void *tmpl_alloc(struct tmpl_arena *a, size_t size)
{
	char *p = take(a, size == 0 ? 1 : size, 16);

	if (p != NULL)
		memset(p, 0, size);
	return p;
}

char *tmpl_alloc_text(struct tmpl_arena *a, size_t size) { return take(a, size, 1); }

char *tmpl_grow_text(struct tmpl_arena *a, char *p, size_t len, size_t size)
{
	struct tmpl_chunk *c = a->head;
	size_t total;

	if (c == NULL || p != c->data || c->used != len || size < len) {
		char *copy = tmpl_alloc_text(a, size);

		if (copy != NULL && len > 0)
			memcpy(copy, p, len);
		return copy;
	}
	if (!ql_add_size(a->used, size - len, &total) || total > a->max)
		return NULL;
	c = realloc(c, sizeof *c + size);
	if (c == NULL)
		return NULL;
	c->size = c->used = size;
	a->head = c;
	a->used = total;
	return c->data;
}

bool tmpl_extend_text(struct tmpl_arena *a, const char *p, size_t len, size_t extra)
{
	struct tmpl_chunk *c = a->head;
	size_t total;

	if (c == NULL || p + len != c->data + c->used || c->size - c->used < extra)
		return false;
	if (!ql_add_size(a->used, extra, &total) || total > a->max)
		return false;
	c->used += extra;
	a->used = total;
	return true;
}
