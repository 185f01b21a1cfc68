/* gate.h - turns on the one device queue: a trainer that works in slices, and inference that is let in between them.
 *
 * All device calls happen between enter and leave.  The trainer calls ql_gate_yield after each slice of a few
 * milliseconds: if inference waits, it goes first and the trainer resumes behind it; if nobody waits, nothing happens.
 * Measured on an H100, a second stream does not give this at any priority (small kernels wait for resident blocks).
 * target: the wished time from token to token, seconds; after an inference turn of t the trainer may work for target - t before
 * it yields again (not at all if t is longer), and nothing is lost when nobody waits.  Several trainers go in order of
 * arrival; each leaves between its optimiser steps. */
#ifndef QL_MODEL_GATE_H
#define QL_MODEL_GATE_H

#include <stdbool.h>

struct ql_gate;

enum ql_gate_side { QL_GATE_TRAIN, QL_GATE_INFER };

struct ql_gate *ql_gate_new(double target_s); /* NULL when out of memory */
void ql_gate_free(struct ql_gate *g);
void ql_gate_set_target(struct ql_gate *g, double target_s);
void ql_gate_enter(struct ql_gate *g, enum ql_gate_side side);
void ql_gate_leave(struct ql_gate *g, enum ql_gate_side side);
/* Does inference wait, or was it inside within the last ten seconds?  Then long work is worth cutting. */
bool ql_gate_shared(struct ql_gate *g);
/* Trainer only, while inside.  True if it stood aside. */
bool ql_gate_yield(struct ql_gate *g);
/* Seconds each side held the gate. */
void ql_gate_busy(struct ql_gate *g, double *train_s, double *infer_s);

#endif
