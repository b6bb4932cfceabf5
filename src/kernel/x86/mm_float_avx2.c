/* mm_float: weights that are used as floats on AVX2. Two registers are the 16 lanes of one output: a tile of 2 weight rows by 3
 * activation rows keeps 12 of the 16 there are, and 10 loads feed 12 fmas. */
#include "kernel/x86/avx2.h"
#include "kernel/x86/vec_avx2.h"

enum { TILE_ROWS = 2, TILE_COLS = 3 };

ALWAYS void fold_rows(float *dst, vec a[TILE_ROWS][PARTS], size_t n)
{
    for (size_t r = 0; r < n; r++) dst[r] = v_fold(a[r]);
}

#define TILES(type, TYPE, packed) \
    TILE(type, TYPE, 1, packed)   \
    TILE(type, TYPE, 2, packed)   \
    TILE(type, TYPE, 3, packed)   \
    static tile_fn *const tiles_##type[] = {tile_##type##_1, tile_##type##_2, tile_##type##_3};

#include "kernel/x86/mm_float_tmpl.h"
