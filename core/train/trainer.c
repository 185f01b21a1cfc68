/* trainer.c - the loop; see trainer.h. */
#include "core/train/trainer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/train/run.h"

/* ---- setting up --------------------------------------------------------------------------------------------------------- */

static uint32_t longest_example(const struct ql_dataset *d)
{
	uint32_t n = 0;

	for (size_t i = 0; d != NULL && i < ql_dataset_count(d); i++)
		if (ql_dataset_get(d, i).n > n)
			n = ql_dataset_get(d, i).n;
	return n;
}

static int new_state(struct run *r, struct ql_err *e)
{
	const struct ql_recipe *c = &r->job->recipe;
	uint32_t n = r->m->arch.num_hidden_layers * QL_MODULES, *rank = calloc(n, sizeof *rank);
	double *alpha = calloc(n, sizeof *alpha);
	struct ql_lora_config lc = {c->rank, c->alpha, c->rslora, c->gaussian_init, c->modules, rank, alpha};
	int rc = rank == NULL || alpha == NULL ? ql_err_set(e, QL_ENOMEM, "adapter") : QL_OK;

	if (rc == QL_OK && r->job->init != NULL) {
		rc = ql_lora_from_file(&r->lora, r->m, r->job->init, true, e);
	} else if (rc == QL_OK) {
		rc = ql_recipe_sites(c, &r->m->arch, rank, alpha, e);
		if (rc == QL_OK)
			rc = ql_lora_new(&r->lora, r->m, &lc, c->seed, e);
	}
	free(rank);
	free(alpha);
	return rc == QL_OK ? ql_optim_for_lora(&r->optim, r->lora, c->optimizer, c->paged, e) : rc;
}

/* Bytes of all allocations on the device. */
static uint64_t device_used(const struct run *r)
{
	struct ql_mem_info info = {0};
	uint64_t sum = 0;

	if (r->m->dev->ops->mem_info(r->m->dev, &info, NULL) == QL_OK)
		for (int k = 0; k < QL_MEM_KINDS; k++)
			sum += info.used[k];
	return sum;
}

static int set_up(struct run *r, struct ql_err *e)
{
	const struct ql_train_job *j = r->job;
	uint32_t longest = longest_example(j->data), longest_valid = longest_example(j->valid);
	struct ql_memory_wish wish = j->memory;
	uint64_t before = device_used(r), after;
	struct ql_memory_plan mem;
	int rc;

	if (j->resume != NULL)
		rc = ql_checkpoint_read(j->dir, j->resume, r->m, j->identity, j->recipe.optimizer, j->recipe.paged, &r->lora, &r->optim,
					&r->st, e);
	else
		rc = new_state(r, e);
	if (rc != QL_OK)
		return rc;
	if (longest_valid > longest)
		longest = longest_valid;
	/* the split into micro-batches decides the bits of sums: a resumed run keeps it */
	after = device_used(r);
	wish.also_available += after > before ? after - before : 0; /* adapter and optimiser: the plan counts them again */
	rc = ql_train_plan_memory(r->m, &j->recipe, longest, (uint32_t)r->st.max_tokens, &wish, &mem, e);
	if (rc != QL_OK)
		return rc;
	r->st.max_tokens = mem.max_tokens;
	rc = ql_pass_new_mixed(&r->pass, r->m, r->lora->group_rank, mem.max_tokens, mem.keep, e);
	if (rc == QL_OK)
		rc = ql_plan_init(&r->plan, j->data, j->recipe.seed, j->recipe.batch_size, j->recipe.micro_batch_size,
				  mem.max_tokens, e);
	if (rc == QL_OK && j->valid != NULL)
		rc = ql_plan_init(&r->valid_plan, j->valid, 0, j->recipe.batch_size, 0, mem.max_tokens, e);
	if (rc != QL_OK)
		return rc;
	mem.dense_layers = r->dense_layers = ql_model_dense_hold(r->m, mem.dense_layers, NULL);
	if (j->events.planned != NULL)
		j->events.planned(j->events.ctx, &mem);
	r->total_steps = j->recipe.max_steps > 0 ? j->recipe.max_steps : r->plan.steps_per_epoch * j->recipe.n_epochs;
	r->warmup = ql_recipe_warmup(&j->recipe, r->total_steps);
	r->logging_steps = j->recipe.logging_steps > 0 ? j->recipe.logging_steps
						       : (uint32_t)(r->total_steps / 1000 > 0 ? r->total_steps / 1000 : 1);
	r->nll = malloc((size_t)mem.max_tokens * sizeof *r->nll);
	r->argmax = malloc((size_t)mem.max_tokens * sizeof *r->argmax);
	r->snap = (struct ql_snapshot){malloc((size_t)r->lora->n_params * sizeof(float)), malloc((size_t)ql_optim_bytes(r->optim))};
	if (r->nll == NULL || r->argmax == NULL || r->snap.params == NULL || r->snap.optimizer == NULL)
		return ql_err_set(e, QL_ENOMEM, "training buffers");
	if (r->st.csv.len == 0 &&
	    ql_buf_adds(&r->st.csv, "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n") != QL_OK)
		return ql_err_set(e, QL_ENOMEM, "metrics");
	return QL_OK;
}

static void tear_down(struct run *r)
{
	ql_pass_free(r->pass);
	ql_model_dense_release(r->m, r->dense_layers);
	ql_plan_free(&r->plan);
	ql_plan_free(&r->valid_plan);
	ql_step_batches_free(&r->batches);
	ql_optim_free(r->optim);
	ql_lora_free(r->lora);
	ql_train_state_free(&r->st);
	free(r->nll);
	free(r->argmax);
	free(r->snap.params);
	free(r->snap.optimizer);
}

/* ---- one step ------------------------------------------------------------------------------------------------------------ */

static int gradients(struct run *r, struct ql_train_metrics *t, struct ql_err *e)
{
	const struct ql_recipe *c = &r->job->recipe;
	struct ql_dropout drop = {.p = (float)c->dropout, .neftune = (float)c->neftune, .seed = c->seed, .step = (uint32_t)r->st.step};
	double nll = 0;
	uint64_t correct = 0;
	int rc = ql_plan_step(&r->plan, r->st.step, &r->batches, e);

	if (rc == QL_OK && r->batches.n_targets == 0)
		rc = ql_err_set(e, QL_EINTERNAL, "step %llu has no target token", (unsigned long long)r->st.step + 1);
	for (uint32_t i = 0; rc == QL_OK && i < r->batches.n_micro; i++) {
		drop.token_base = r->batches.token_base[i];
		rc = ql_pass_run(r->pass, &r->batches.micro[i], r->lora, &drop, (float)(1.0 / (double)r->batches.n_targets), true,
				 r->nll, r->argmax, e);
		if (rc == QL_OK)
			ql_run_tally(r, &r->batches.micro[i], &nll, &correct);
		if (rc == QL_OK && ql_run_asked_to_stop(r) == QL_TRAIN_CANCEL)
			rc = ql_err_set(e, QL_ECANCELLED, "cancelled");
	}
	t->tokens = r->batches.n_tokens;
	t->targets = r->batches.n_targets;
	t->loss = nll / (double)(t->targets > 0 ? t->targets : 1);
	t->accuracy = (double)correct / (double)(t->targets > 0 ? t->targets : 1);
	return rc;
}

static int update(struct run *r, struct ql_train_metrics *t, struct ql_err *e)
{
	const struct ql_recipe *c = &r->job->recipe;
	const struct ql_device_ops *op = r->m->dev->ops;
	struct ql_device *d = r->m->dev;
	double sum = 0, lr;
	int rc = op->sum_squares(d, r->m->queue, r->lora->grads, r->lora->n_params, &sum, e);

	if (rc == QL_OK)
		rc = op->sync(d, r->m->queue, e);
	if (rc != QL_OK)
		return rc;
	t->grad_norm = sqrt(sum);
	if (!isfinite(t->loss) || !isfinite(t->grad_norm))
		return ql_err_set(e, QL_ENONFINITE, "step %llu: loss %g, gradient norm %g", (unsigned long long)r->st.step + 1,
				  t->loss, t->grad_norm);
	lr = c->learning_rate * ql_schedule_factor(c->schedule, r->st.step, r->total_steps, r->warmup, c->min_lr_ratio);
	t->learning_rate = lr;
	struct ql_optim_rule rule = {.lr_first = lr, .lr_rest = lr * c->loraplus_ratio, .weight_decay = c->weight_decay,
				     .beta1 = c->beta1, .beta2 = c->beta2, .eps = c->eps, .t = r->st.step + 1,
				     .grad_scale = (float)ql_clip_coef(t->grad_norm, c->max_grad_norm)};

	rc = ql_optim_step(r->optim, r->m->queue, r->lora->params, r->lora->grads, &rule, e);
	if (rc == QL_OK)
		rc = op->zero(d, r->m->queue, r->lora->grads, (size_t)r->lora->n_params * 4, e);
	return rc == QL_OK ? op->sync(d, r->m->queue, e) : rc;
}

/* ---- steps and checkpoints ---------------------------------------------------------------------------------------------------- */

static int save(struct run *r, bool user, struct ql_err *e)
{
	const struct ql_train_job *j = r->job;
	struct ql_manifest m;
	int rc;

	if (j->dir < 0)
		return QL_OK;
	j->events.phase(j->events.ctx, "checkpointing");
	rc = ql_snapshot_take(r->lora, r->optim, &r->snap, e);
	if (rc != QL_OK)
		return rc;
	ql_gate_leave(r->m->gate, QL_GATE_TRAIN); /* nobody waits for the disk */
	rc = ql_checkpoint_write(j->dir, r->lora, r->optim, &r->snap, &r->st, j->identity, j->base_name, &m, e);
	ql_gate_enter(r->m->gate, QL_GATE_TRAIN);
	if (rc != QL_OK)
		return rc;
	r->last_snapshot = ql_now();
	r->last_checkpoint = r->st.step;
	j->events.checkpoint(j->events.ctx, r->st.step, &m, user, r->st.last);
	j->events.phase(j->events.ctx, "training");
	return QL_OK;
}

static int one_step(struct run *r, struct ql_err *e)
{
	const struct ql_train_job *j = r->job;
	struct ql_train_metrics t = {.total_steps = r->total_steps};
	double begin = ql_now();
	int rc = gradients(r, &t, e);

	if (rc == QL_OK)
		rc = update(r, &t, e);
	if (rc != QL_OK)
		return rc;
	r->st.step++;
	r->st.tokens += t.tokens;
	r->st.targets += t.targets;
	t.step = r->st.step;
	t.epoch = (double)r->st.step / (double)r->plan.steps_per_epoch;
	t.seconds = ql_now() - begin;
	t.tokens_per_second = (double)t.tokens / (t.seconds > 0 ? t.seconds : 1e-9);
	r->seconds_sum += t.seconds;
	t.eta_seconds = r->seconds_sum / (double)++r->steps_timed * (double)(r->total_steps - r->st.step);
	t.log = t.step == 1 || t.step % r->logging_steps == 0 || t.step == r->total_steps;
	rc = ql_run_validate(r, &t, e);
	if (rc == QL_OK)
		rc = ql_run_record(r, &t, e);
	if (rc == QL_OK)
		j->events.step(j->events.ctx, &t);
	return rc;
}

/* After a step: a user-visible checkpoint where one is due, else a snapshot by the clock or on request to stop. */
static int save_if_due(struct run *r, enum ql_train_stop stop, struct ql_err *e)
{
	const struct ql_recipe *c = &r->job->recipe;
	bool user = r->st.step == r->total_steps || ql_run_is_stale(r) || r->st.step % r->plan.steps_per_epoch == 0 ||
		    (c->save_steps > 0 && r->st.step % c->save_steps == 0);

	if (user)
		return save(r, true, e);
	if (stop == QL_TRAIN_PAUSE || ql_now() - r->last_snapshot >= r->job->snapshot_seconds)
		return save(r, false, e);
	return QL_OK;
}

static int loop(struct run *r, struct ql_train_result *out, struct ql_err *e)
{
	const struct ql_train_job *j = r->job;
	enum ql_train_stop stop = QL_TRAIN_GO;
	int rc = QL_OK;

	j->events.started(j->events.ctx, r->st.step, r->total_steps, 0, &j->recipe, r->warmup, r->logging_steps);
	j->events.phase(j->events.ctx, "training");
	r->last_snapshot = ql_now();
	if (j->resume == NULL)
		rc = save(r, false, e); /* step 0: the initial adapter */
	while (rc == QL_OK && r->st.step < r->total_steps && !ql_run_is_stale(r)) {
		ql_gate_leave(r->m->gate, QL_GATE_TRAIN); /* other jobs take their turn */
		ql_gate_enter(r->m->gate, QL_GATE_TRAIN);
		stop = ql_run_asked_to_stop(r);
		if (stop == QL_TRAIN_PAUSE && r->last_checkpoint != r->st.step && r->steps_timed > 0)
			rc = save(r, false, e);
		if (rc != QL_OK || stop != QL_TRAIN_GO)
			break;
		rc = one_step(r, e);
		if (rc == QL_OK)
			rc = save_if_due(r, ql_run_asked_to_stop(r), e);
	}
	if (rc == QL_ECANCELLED) {
		stop = QL_TRAIN_CANCEL;
		rc = QL_OK;
	}
	/* cancelled behind the last step, while validating: complete, but for its record and its checkpoint */
	out->stopped = stop == QL_TRAIN_CANCEL || (r->st.step < r->total_steps && !ql_run_is_stale(r));
	out->early = !out->stopped && r->st.step < r->total_steps;
	out->step = r->st.step;
	out->trained_tokens = r->st.targets;
	(void)snprintf(out->final_dir, sizeof out->final_dir, "step-%llu", (unsigned long long)r->st.step);
	return rc;
}

int ql_train_run(const struct ql_train_job *given, struct ql_train_result *out, struct ql_err *e)
{
	struct ql_train_job job = *given;
	struct run r = {.job = &job, .m = job.model};
	int rc;

	ql_recipe_split(&job.recipe);

	*out = (struct ql_train_result){0};
	ql_gate_enter(r.m->gate, QL_GATE_TRAIN);
	rc = set_up(&r, e);
	if (rc == QL_OK)
		rc = loop(&r, out, e);
	tear_down(&r);
	ql_gate_leave(r.m->gate, QL_GATE_TRAIN);
	return rc;
}
