/* filters.h - the filters that are not in filters.c. */
#ifndef QL_TMPL_FILTERS_H
#define QL_TMPL_FILTERS_H

#include "core/text/tmpl/value.h"

/* filters_seq.c, filters_sort.c */
filter_fn flt_first, flt_last, flt_length, flt_list, flt_items, flt_join, flt_map, flt_select, flt_reject, flt_selectattr,
	flt_rejectattr, flt_reverse, flt_sort, flt_dictsort, flt_unique, flt_min, flt_max, flt_sum, flt_batch;
/* filters_num.c */
filter_fn flt_abs, flt_int, flt_float, flt_round;

/* The value lower-cased if it is a string and the case is to be ignored. */
int flt_fold(struct vm *m, struct val v, bool case_sensitive, struct val *out);
int flt_bool(struct vm *m, struct val v, bool absent, bool *out);

#endif
