/* kern_generic.c - the kernels for any machine GCC knows vectors of four floats for; also the slow, plain reference. */
#define VL 4
#define QL_KERN_MR 3
#define QL_KERN_NP 1
#include "core/device/cpu/kern_vec.h"

#include "core/device/cpu/kern_gemm.h"
#include "core/device/cpu/kern_panel.h"
#include "core/device/cpu/kern_table.h"

const struct ql_kern ql_kern_generic = QL_KERN_TABLE("generic");
