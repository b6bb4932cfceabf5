/* attn: attention tiles on AVX2, three query rows at a time; but for F32 and quantised keys, tiles are always widened first. */
#include "kernel/x86/avx2.h"
#include "kernel/x86/vec_avx2.h"

enum { ROWS_MAX = 3 };
#define EACH_NR(F, TYPE) F(TYPE, 1) F(TYPE, 2) F(TYPE, 3)
#define DIRECT_K(F) F(F32) F(Q8_0) F(Q4_0)
#define DIRECT_V(F) F(F32)

#include "kernel/x86/attn_tmpl.h"
