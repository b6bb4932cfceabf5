/* attn: attention tiles on AVX-512, six query rows at a time. Few rows read an f16 tile as it is; more than one group of them
 * share a widened copy. */
#include "kernel/x86/avx512.h"
#include "kernel/x86/vec_avx512.h"

enum { ROWS_MAX = 6 };
#define ALL_ROWS(type, TYPE)                                                                \
    ROWS(type, TYPE, 1)                                                                     \
    ROWS(type, TYPE, 2)                                                                     \
    ROWS(type, TYPE, 3)                                                                     \
    ROWS(type, TYPE, 4)                                                                     \
    ROWS(type, TYPE, 5)                                                                     \
    ROWS(type, TYPE, 6)                                                                     \
    static const struct row_fns fns_##type[ROWS_MAX] =                                      \
        {                                                                                   \
            {scores_##type##_1, values_##type##_1}, {scores_##type##_2, values_##type##_2}, \
            {scores_##type##_3, values_##type##_3}, {scores_##type##_4, values_##type##_4}, \
            {scores_##type##_5, values_##type##_5}, {scores_##type##_6, values_##type##_6}, \
    };

#include "kernel/x86/attn_tmpl.h"

ALL_ROWS(f16, F16)

void attn_tile_f16_avx512(const struct attn_tile *a)
{
    if (a->n_rows <= ROWS_MAX)
        attn_rows(a, fns_f16);
    else
        attn_rows_widened(a);
}
