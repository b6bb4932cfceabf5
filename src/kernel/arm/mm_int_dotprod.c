/* mm_int_dotprod: integer weights with SDOT, which adds four products of int8 to each int32 of a register. In a panel a
 * register holds four k of four rows, and SDOT by element multiplies them with four k of one column. */
#include "kernel/arm/neon_int.h"

/* ---- one activation row ------------------------------------------------------------------------------------------- */

static inline int32x4_t dot4(int32x4_t sum, int8x16_t w, int8x16_t x)
{
    return vdotq_s32(sum, w, x);
}

static inline int32x4_t dot16(int32x4_t sum, int8x16_t w, int8x16_t x)
{
    return vdotq_s32(sum, w, x);
}

static inline int32x4_t dot32(int32x4_t sum, const int8x16_t w[2], const int8x16_t x[2])
{
    return vdotq_s32(vdotq_s32(sum, w[0], x[0]), w[1], x[1]);
}

#include "kernel/arm/mm_rows_tmpl.h"

ROWS_OF(1)

void mm_rows_dotprod(const struct mm *a, size_t r0, size_t r1)
{
    rows_fn *const rows = rows_1(a->type);
    for (size_t r = r0; r < r1; r += QUAD)
        for (size_t m = 0; m < a->n_rows; m++) rows(a, r, r1, m);
}

/* ---- several ---------------------------------------------------------------------------------------------------- */

/* sum[2 j], sum[2 j + 1]: rows 0-3 and 4-7 of column j. */
enum { UNIT = 4, SPREAD_REGS = 2 };

TILE_INLINE void order4(uint8x16_t v[QUAD])
{
    transpose4(v);
}

TILE_INLINE void order_words(uint8x16_t v[QUAD])
{
    (void)v;
}

/* Column j of x, which must be a literal. */
#define DOT_COLUMN(j)                                                        \
    do {                                                                     \
        sum[2 * (j)] = vdotq_laneq_s32(sum[2 * (j)], low, x[i], j);          \
        sum[2 * (j) + 1] = vdotq_laneq_s32(sum[2 * (j) + 1], high, x[i], j); \
    } while (0)

/* 8 k: the weights at w and four k of each column in x[0] and x[1]. */
TILE_INLINE void dot_columns(int32x4_t *sum, const int8_t *w, const int8x16_t x[2], const size_t M)
{
    UNROLL for (size_t i = 0; i < 2; i++)
    {
        const int8x16_t low = vld1q_s8(w + 32 * i), high = vld1q_s8(w + 32 * i + 16);
        DOT_COLUMN(0);
        DOT_COLUMN(1);
        if (M == 2) continue;
        DOT_COLUMN(2);
        DOT_COLUMN(3);
    }
}

TILE_INLINE void spread(void *dst, float32x4_t v, size_t half)
{
    vst1q_f32((float *)dst + 4 * half, v);
}

TILE_INLINE float32x4_t columns(float32x4_t v, size_t o)
{
    return vdupq_n_f32(v[o / 2]);
}

TILE_INLINE float32x4_t rows_of(const float *sums, size_t column, size_t half)
{
    return vld1q_f32(sums + 4 * (2 * column + half));
}

#include "kernel/arm/mm_panel_tmpl.h"

static void mm_int_dotprod(const struct mm *a, size_t r0, size_t r1)
{
    (a->n_rows > 1 && a->act.packed ? mm_panels : mm_rows_dotprod)(a, r0, r1);
}

void kernels_init_dotprod(struct kernels *k)
{
    for (enum qtype t = 0; t < QTYPE_COUNT; t++)
        if (qtypes[t].arith != ARITH_FLOAT) k->mm[t] = mm_int_dotprod;
    k->pack_cols = TILE_COLS;
    k->pack_unit = UNIT;
    k->pack_min = 2;
    peak_init_dotprod(k);
    k->pack_act = pack_act;
}
