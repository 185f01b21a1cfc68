/* blk_scalar.c - GGUF blocks, the reference build: see blk_impl.h. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "core/quant/blk_impl.h"
#include "core/quant/blk_layout.h"

#define FN(name) ql_blk_##name##_scalar
#include "core/quant/blk_expand_ref.inc.h"
#include "core/quant/blk_dequant.inc.h"
#include "core/quant/blk_simple.inc.h"
#include "core/quant/blk_search_ref.inc.h"
#include "core/quant/blk_k.inc.h"
