/* arena.h - bump allocation with a hard maximum, freed as a whole.  A template's syntax tree lives in one, and every value
 * of a rendering in another, so that nothing is counted or freed one by one and a template cannot take more memory than
 * its maximum.  Chunks are linked; an allocation is aligned to 16 bytes, text to 1. */
#ifndef QL_TMPL_ARENA_H
#define QL_TMPL_ARENA_H

#include <stdbool.h>
#include <stddef.h>

struct tmpl_chunk;

struct tmpl_arena {
	struct tmpl_chunk *head;
	size_t used, max; /* bytes asked for so far; the maximum */
};

void tmpl_arena_init(struct tmpl_arena *a, size_t max);
void tmpl_arena_free(struct tmpl_arena *a);
/* NULL when the maximum or the host's memory is exhausted.  Zeroed. */
void *tmpl_alloc(struct tmpl_arena *a, size_t size);
/* The same for text: unaligned, not zeroed. */
char *tmpl_alloc_text(struct tmpl_arena *a, size_t size);
/* Text [p, p + len) (or none, NULL and 0) in size >= len bytes: p itself if it is all that the newest chunk holds, which then moves
 * with it, else a copy.  So text that grows beyond a chunk is not copied each time.  NULL as above; p is then as it was. */
char *tmpl_grow_text(struct tmpl_arena *a, char *p, size_t len, size_t size);
/* If text [p, p + len) ends where the newest chunk's free space begins, and `extra` more bytes fit there, takes them and
 * returns true: p may then be written up to len + extra. */
bool tmpl_extend_text(struct tmpl_arena *a, const char *p, size_t len, size_t extra);

#endif
