/* attn: attention tiles on AVX2, three query rows at a time; tiles of other types than F32 are always widened first. */
#include "kernel/x86/avx2.h"
#include "kernel/x86/vec_avx2.h"

enum { ROWS_MAX = 3 };
#define EACH_NR(F, TYPE) F(TYPE, 1) F(TYPE, 2) F(TYPE, 3)
#define DIRECT_TYPES(F) F(F32)

#include "kernel/x86/attn_tmpl.h"
