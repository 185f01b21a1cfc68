/* gate.c - see gate.h.  One mutex; the side inside is `held`; waiting inference always goes before a waiting trainer. */
#include "core/model/gate.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#define SHARED_SECONDS 10

struct ql_gate {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool held;
	int infer_waiting, train_waiting;
	unsigned long train_next, train_turn; /* trainers go in order of arrival */
	double target, since, train_s, infer_s;
	double debt; /* seconds the trainer may still run before it must yield again */
	double infer_left; /* when inference was inside last; 0 = never */
};

static double now_s(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

struct ql_gate *ql_gate_new(double target_s)
{
	struct ql_gate *g = calloc(1, sizeof *g);

	if (g == NULL)
		return NULL;
	(void)pthread_mutex_init(&g->lock, NULL);
	(void)pthread_cond_init(&g->changed, NULL);
	g->target = target_s;
	return g;
}

void ql_gate_free(struct ql_gate *g)
{
	if (g == NULL)
		return;
	(void)pthread_cond_destroy(&g->changed);
	(void)pthread_mutex_destroy(&g->lock);
	free(g);
}

void ql_gate_set_target(struct ql_gate *g, double target_s)
{
	(void)pthread_mutex_lock(&g->lock);
	g->target = target_s;
	(void)pthread_mutex_unlock(&g->lock);
}

static void enter_locked(struct ql_gate *g, enum ql_gate_side side)
{
	if (side == QL_GATE_INFER) {
		g->infer_waiting++;
		/* a trainer that is owed time goes first */
		while (g->held || (g->debt > 0 && g->train_waiting > 0))
			(void)pthread_cond_wait(&g->changed, &g->lock);
		g->infer_waiting--;
	} else {
		unsigned long ticket = g->train_next++;

		g->train_waiting++;
		while (g->held || ticket != g->train_turn || (g->infer_waiting > 0 && g->debt <= 0))
			(void)pthread_cond_wait(&g->changed, &g->lock);
		g->train_turn++;
		g->train_waiting--;
	}
	g->held = true;
	g->since = now_s();
}

static void leave_locked(struct ql_gate *g, enum ql_gate_side side)
{
	double t = now_s() - g->since;

	if (side == QL_GATE_TRAIN) {
		g->train_s += t;
		g->debt -= t;
		if (g->debt < 0)
			g->debt = 0;
	} else {
		g->infer_s += t;
		g->debt = t < g->target ? g->target - t : 0;
		g->infer_left = g->since + t;
	}
	g->held = false;
	(void)pthread_cond_broadcast(&g->changed);
}

void ql_gate_enter(struct ql_gate *g, enum ql_gate_side side)
{
	(void)pthread_mutex_lock(&g->lock);
	enter_locked(g, side);
	(void)pthread_mutex_unlock(&g->lock);
}

void ql_gate_leave(struct ql_gate *g, enum ql_gate_side side)
{
	(void)pthread_mutex_lock(&g->lock);
	leave_locked(g, side);
	(void)pthread_mutex_unlock(&g->lock);
}

bool ql_gate_shared(struct ql_gate *g)
{
	bool shared;

	(void)pthread_mutex_lock(&g->lock);
	shared = g->infer_waiting > 0 || (g->infer_left > 0 && now_s() - g->infer_left < SHARED_SECONDS);
	(void)pthread_mutex_unlock(&g->lock);
	return shared;
}

bool ql_gate_yield(struct ql_gate *g)
{
	bool stood_aside = false;

	(void)pthread_mutex_lock(&g->lock);
	if (g->infer_waiting > 0) {
		leave_locked(g, QL_GATE_TRAIN);
		enter_locked(g, QL_GATE_TRAIN);
		stood_aside = true;
	}
	(void)pthread_mutex_unlock(&g->lock);
	return stood_aside;
}

void ql_gate_busy(struct ql_gate *g, double *train_s, double *infer_s)
{
	(void)pthread_mutex_lock(&g->lock);
	*train_s = g->train_s;
	*infer_s = g->infer_s;
	(void)pthread_mutex_unlock(&g->lock);
}
