/* mm_float: weights that are used as floats on AVX-512. One register is the 16 lanes of one output: a tile of 4 weight rows by
 * 6 activation rows keeps 24 of them, and 10 loads feed 24 fmas. */
#include "kernel/x86/avx512.h"
#include "kernel/x86/vec_avx512.h"

enum { TILE_ROWS = 4, TILE_COLS = 6 };

/* The folds of four rows' lanes, all at once: halves of two rows share a register, then quarters of four. */
ALWAYS void fold_rows(float *dst, vec a[TILE_ROWS][PARTS], size_t n)
{
    vec ab = _mm512_add_ps(_mm512_shuffle_f32x4(a[0][0], a[1][0], 0x44), _mm512_shuffle_f32x4(a[0][0], a[1][0], 0xee));
    vec cd = _mm512_add_ps(_mm512_shuffle_f32x4(a[2][0], a[3][0], 0x44), _mm512_shuffle_f32x4(a[2][0], a[3][0], 0xee));
    vec x = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    x = _mm512_add_ps(x, _mm512_permute_ps(x, 0x4e));
    x = _mm512_add_ps(x, _mm512_permute_ps(x, 0xb1));
    x = _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), x);
    v_store_n(dst, x, n);
}

#define TILES(type, TYPE, packed)                                                              \
    TILE(type, TYPE, 1, packed)                                                                \
    TILE(type, TYPE, 2, packed)                                                                \
    TILE(type, TYPE, 3, packed)                                                                \
    TILE(type, TYPE, 4, packed)                                                                \
    TILE(type, TYPE, 5, packed)                                                                \
    TILE(type, TYPE, 6, packed)                                                                \
    static tile_fn *const tiles_##type[] = {tile_##type##_1, tile_##type##_2, tile_##type##_3, \
                                            tile_##type##_4, tile_##type##_5, tile_##type##_6};

#include "kernel/x86/mm_float_tmpl.h"
