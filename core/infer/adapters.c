/* adapters.c - see adapters.h. */
#include "core/infer/adapters.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct ql_adapters {
	struct ql_model *m;
	struct ql_lora_table *table;
	struct ql_adapter *slots; /* [n]; lora NULL = empty */
	uint32_t n, max_rank[QL_GROUPS];
	uint64_t clock, moved_in, moved_out;
	ql_adapter_open open_dir;
	void *open_ctx;
};

int ql_adapters_new(struct ql_adapters **out, struct ql_model *m, uint32_t n_slots, const uint32_t max_rank[QL_GROUPS],
		    ql_adapter_open open_dir, void *open_ctx, struct ql_err *e)
{
	struct ql_adapters *a = calloc(1, sizeof *a);
	int rc;

	*out = NULL;
	if (a == NULL)
		return ql_err_set(e, QL_ENOMEM, "adapters");
	a->m = m;
	a->n = n_slots;
	a->open_dir = open_dir;
	a->open_ctx = open_ctx;
	memcpy(a->max_rank, max_rank, sizeof a->max_rank);
	a->slots = calloc(n_slots, sizeof *a->slots);
	rc = a->slots == NULL ? ql_err_set(e, QL_ENOMEM, "adapters")
			      : m->dev->ops->table_new(m->dev, n_slots, m->arch.num_hidden_layers * QL_MODULES, &a->table, e);
	if (rc != QL_OK) {
		ql_adapters_free(a);
		return rc;
	}
	for (uint32_t i = 0; i < n_slots; i++)
		a->slots[i].slot = (int32_t)i;
	*out = a;
	return QL_OK;
}

static void empty(struct ql_adapters *a, struct ql_adapter *x)
{
	int32_t slot = x->slot;

	(void)ql_lora_to_table(NULL, a->m, a->table, (uint32_t)slot, NULL);
	ql_lora_free(x->lora);
	*x = (struct ql_adapter){.slot = slot};
	a->moved_out++;
}

void ql_adapters_free(struct ql_adapters *a)
{
	if (a == NULL)
		return;
	for (uint32_t i = 0; a->slots != NULL && i < a->n; i++)
		ql_lora_free(a->slots[i].lora);
	if (a->table != NULL)
		a->m->dev->ops->table_free(a->m->dev, a->table);
	free(a->slots);
	free(a);
}

struct ql_lora_table *ql_adapters_table(struct ql_adapters *a) { return a->table; }

static int load(struct ql_adapters *a, const struct ql_adapter_ref *ref, struct ql_adapter *x, struct ql_err *e)
{
	struct ql_adapter_file f = {0};
	struct ql_lora_set *lora = NULL;
	int fd = a->open_dir(a->open_ctx, ref->dir, e), rc;

	if (fd < 0)
		return fd;
	rc = ql_adapter_read(&f, fd, &a->m->arch, e);
	(void)close(fd);
	if (rc == QL_OK)
		rc = ql_lora_from_file(&lora, a->m, &f, false, e);
	ql_adapter_file_free(&f);
	for (int g = 0; rc == QL_OK && g < QL_GROUPS; g++)
		if (lora->group_rank[g] > a->max_rank[g])
			rc = ql_err_param(e, QL_ELIMIT, "model", "the adapter's rank is above the largest that can be served");
	if (rc == QL_OK)
		rc = ql_lora_to_table(lora, a->m, a->table, (uint32_t)x->slot, e);
	if (rc != QL_OK) {
		ql_lora_free(lora);
		return rc;
	}
	x->ref = *ref;
	x->lora = lora;
	x->dropped = false;
	a->moved_in++;
	return QL_OK;
}

int ql_adapters_use(struct ql_adapters *a, const struct ql_adapter_ref *ref, struct ql_adapter **out, struct ql_err *e)
{
	struct ql_adapter *room = NULL;
	int rc;

	*out = NULL;
	for (uint32_t i = 0; i < a->n; i++) {
		struct ql_adapter *x = &a->slots[i];

		if (x->lora != NULL && !x->dropped && x->ref.generation == ref->generation && strcmp(x->ref.name, ref->name) == 0) {
			*out = x;
			break;
		}
		if (x->users == 0 && (room == NULL || (x->lora == NULL && room->lora != NULL) ||
				      ((x->lora == NULL) == (room->lora == NULL) && x->last_use < room->last_use)))
			room = x;
	}
	if (*out == NULL) {
		if (room == NULL)
			return ql_err_set(e, QL_EBUSY, "all %u adapter slots are in use", a->n);
		if (room->lora != NULL)
			empty(a, room);
		rc = load(a, ref, room, e);
		if (rc != QL_OK)
			return rc;
		*out = room;
	}
	(*out)->users++;
	(*out)->last_use = ++a->clock;
	return QL_OK;
}

void ql_adapters_leave(struct ql_adapters *a, struct ql_adapter *x)
{
	if (--x->users == 0 && x->dropped)
		empty(a, x);
}

void ql_adapters_drop(struct ql_adapters *a, const char *name)
{
	for (uint32_t i = 0; i < a->n; i++) {
		struct ql_adapter *x = &a->slots[i];

		if (x->lora == NULL || strcmp(x->ref.name, name) != 0)
			continue;
		if (x->users == 0)
			empty(a, x);
		else
			x->dropped = true;
	}
}

void ql_adapters_moves(const struct ql_adapters *a, uint64_t *in, uint64_t *out)
{
	*in = a->moved_in;
	*out = a->moved_out;
}

uint32_t ql_adapters_names(const struct ql_adapters *a, char (*names)[256], uint32_t *users, uint32_t max)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < a->n && n < max; i++)
		if (a->slots[i].lora != NULL && !a->slots[i].dropped) {
			users[n] = a->slots[i].users;
			memcpy(names[n++], a->slots[i].ref.name, sizeof names[0]);
		}
	return n;
}
