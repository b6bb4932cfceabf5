/* attn: attention tiles on AVX2, three query rows at a time; f16 tiles are always widened into scratch first. */
#include "kernel/x86/avx2.h"
#include "kernel/x86/vec_avx2.h"

enum { ROWS_MAX = 3 };
#define ALL_ROWS(type, TYPE)                             \
    ROWS(type, TYPE, 1)                                  \
    ROWS(type, TYPE, 2)                                  \
    ROWS(type, TYPE, 3)                                  \
    static const struct row_fns fns_##type[ROWS_MAX] = { \
        {scores_##type##_1, values_##type##_1},          \
        {scores_##type##_2, values_##type##_2},          \
        {scores_##type##_3, values_##type##_3},          \
    };

#include "kernel/x86/attn_tmpl.h"

void attn_tile_f16_avx2(const struct attn_tile *a)
{
    attn_rows_widened(a);
}
