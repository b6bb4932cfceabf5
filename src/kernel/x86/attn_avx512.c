/* attn: attention tiles on AVX-512, six query rows at a time; it reads all types as they are. */
#include "kernel/x86/avx512.h"
#include "kernel/x86/vec_avx512.h"

enum { ROWS_MAX = 6 };
#define EACH_NR(F, TYPE) F(TYPE, 1) F(TYPE, 2) F(TYPE, 3) F(TYPE, 4) F(TYPE, 5) F(TYPE, 6)
#define DIRECT_K(F) F(F32) F(F16) F(BF16) F(Q8_0) F(Q4_0)
#define DIRECT_V(F) F(F32) F(F16) F(BF16) F(Q8_0) F(Q4_0)

#include "kernel/x86/attn_tmpl.h"
