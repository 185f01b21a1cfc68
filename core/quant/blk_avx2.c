/* blk_avx2.c - GGUF blocks, compiled for AVX2: see blk_impl.h. */
#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "core/quant/blk_impl.h"
#include "core/quant/blk_layout.h"

#define FN(name) ql_blk_##name##_avx2
#include "core/quant/blk_expand_lanes.inc.h"
#include "core/quant/blk_dequant.inc.h"
#include "core/quant/blk_simple.inc.h"
#include "core/quant/blk_search_lanes.inc.h"
#include "core/quant/blk_k.inc.h"
