/* adapters.h - adapters on the device, by name and generation: loaded at first use, kept while a row uses them, the longest
 * unused one making room.  Used by the scheduler's thread only. */
#ifndef QL_INFER_ADAPTERS_H
#define QL_INFER_ADAPTERS_H

#include "core/infer/infer.h"

struct ql_adapters;

struct ql_adapter {
	struct ql_adapter_ref ref;
	struct ql_lora_set *lora;
	int32_t slot;
	uint32_t users;
	uint64_t last_use;
	bool dropped; /* freed when the last user leaves */
};

int ql_adapters_new(struct ql_adapters **out, struct ql_model *m, uint32_t n_slots, const uint32_t max_rank[QL_GROUPS],
		    ql_adapter_open open_dir, void *open_ctx, struct ql_err *e);
void ql_adapters_free(struct ql_adapters *a);
struct ql_lora_table *ql_adapters_table(struct ql_adapters *a);
/* Loads (inside the gate) or finds, and counts a user.  QL_EBUSY: every slot is in use, try again when a row ends. */
int ql_adapters_use(struct ql_adapters *a, const struct ql_adapter_ref *ref, struct ql_adapter **out, struct ql_err *e);
void ql_adapters_leave(struct ql_adapters *a, struct ql_adapter *x);
void ql_adapters_drop(struct ql_adapters *a, const char *name);
/* Adapters loaded and put out so far. */
void ql_adapters_moves(const struct ql_adapters *a, uint64_t *in, uint64_t *out);
/* Those on the device: names into names[max], users into users[max]; returns how many. */
uint32_t ql_adapters_names(const struct ql_adapters *a, char (*names)[256], uint32_t *users, uint32_t max);

#endif
