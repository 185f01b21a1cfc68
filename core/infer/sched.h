/* sched.h - the scheduler's state, shared by its files; private to the room.
 *
 * infer.c: setting up, ends, the loop.  ask.c: calls from other threads.  admit.c: which waiting row runs next.  turn.c: a prompt chunk, a decode
 * step, what becomes of their logits.  Fields after `lock` are shared between threads under it; the rest belongs to the
 * scheduler's thread. */
#ifndef QL_INFER_SCHED_H
#define QL_INFER_SCHED_H

#include <pthread.h>

#include "core/base/limits.h"
#include "core/infer/row.h"

/* An adapter that shall leave the device. */
struct drop {
	struct drop *next;
	char name[256];
};

struct ql_infer {
	struct ql_model *m;
	const struct ql_tok *tok;
	struct ql_infer_opts o;
	struct ql_kv kv;
	struct ql_step *step;
	struct ql_blocks *blocks;
	struct ql_adapters *adapters;
	struct ql_sampler *sampler;
	uint32_t max_blocks, vocab;
	float *logits, *row_logits; /* host: [max_chunk or max_rows, vocab], [vocab] */
	struct ql_alt *alts;
	int32_t *ints; /* inputs of a step */
	struct row **running;
	uint32_t n_running;
	struct request *active; /* admitted or waiting, in order of arrival; changed by the scheduler's thread under lock */

	pthread_mutex_t lock; /* the rest */
	pthread_cond_t wake;
	struct request *inbox, **inbox_end;
	uint32_t n_waiting; /* requests of which no row was admitted */
	bool stopping;
	struct drop *drops;
	struct ql_infer_stats stats;
	char (*resident)[256]; /* [adapter_slots]: names of the adapters on the device, as of the last turn */
	uint32_t *resident_users, n_resident;
};

/* Seconds on a clock that only goes forward. */
double ql_infer_now(void);
/* Counts a turn of n tokens. */
void ql_infer_count_turn(struct ql_infer *f, uint32_t n);

/* infer.c: a request that failed (error event), a row that ended (finish event, and done after the last one). */
void ql_infer_fail(struct ql_infer *f, struct request *q, const struct ql_err *e);
void ql_infer_end_row(struct ql_infer *f, struct row *w, enum ql_finish reason);

/* admit.c: admits the first waiting row if rows, blocks and adapter slots allow. */
void ql_infer_admit(struct ql_infer *f);

/* turn.c: one chunk of the row's prompt; one token for every row that decodes. */
int ql_infer_prefill(struct ql_infer *f, struct row *w, struct ql_err *e);
int ql_infer_decode(struct ql_infer *f, struct ql_err *e);

#endif
