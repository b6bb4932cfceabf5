/* q8_0_rows: the product of Q8_0 weight rows in place with up to eight activation rows at a time. Included by one file per
 * instruction set, which first defines
 *
 *   static inline int32x4_t dot32(int8x16_t w0, int8x16_t w1, int8x16_t x0, int8x16_t x1);
 *
 * four int32 whose sum is the product of the 32 pairs (in any grouping: it is exact).
 *
 * A tile is 4 weight rows x M activation rows; the four weight rows are the lanes of a float accumulator per activation row.
 * Per block the weights are loaded once (8 registers) and serve all M; three pairwise additions bring the four rows' sums into
 * one register, so that one multiply-add serves four outputs. At M = 8 that is 8 + 8 accumulators and 7 more. */
#ifndef QUERN_Q8_0_ROWS_H
#define QUERN_Q8_0_ROWS_H

#include "kernel/arm/neon_int.h"

enum { Q8_0_BYTES = 34, ROWS_TILE = 4, ROWS_MAX = 8 };

/* Rows r..r+3; those from r1 on are computed as row r1 - 1 once more and not stored. */
TILE_INLINE void rows_tile(const struct mm *a, size_t r, size_t r1, size_t m, const size_t M)
{
    const uint8_t *w[ROWS_TILE];
    for (size_t i = 0; i < ROWS_TILE; i++) w[i] = a->w + size_min(r + i, r1 - 1) * a->row_bytes;
    size_t blocks = a->k / ACT_BLOCK;
    const int8_t *q = a->act.q + m * a->k;
    const float *d = a->act.d + m * blocks;
    float32x4_t acc[ROWS_MAX];
    UNROLL for (size_t j = 0; j < M; j++) acc[j] = vdupq_n_f32(0.0f);
    for (size_t b = 0; b < blocks; b++, q += ACT_BLOCK, d++) {
        uint16x4_t half = {load_u16(w[0]), load_u16(w[1]), load_u16(w[2]), load_u16(w[3])};
        float32x4_t dw = vcvt_f32_f16(vreinterpret_f16_u16(half));
        int8x16_t w0[ROWS_TILE], w1[ROWS_TILE];
        UNROLL for (size_t i = 0; i < ROWS_TILE; i++)
        {
            w0[i] = vreinterpretq_s8_u8(vld1q_u8(w[i] + 2));
            w1[i] = vreinterpretq_s8_u8(vld1q_u8(w[i] + 18));
            w[i] += Q8_0_BYTES;
        }
        UNROLL for (size_t j = 0; j < M; j++)
        {
            int8x16_t x0 = vld1q_s8(q + j * a->k), x1 = vld1q_s8(q + j * a->k + 16);
            int32x4_t row01 = vpaddq_s32(dot32(w0[0], w1[0], x0, x1), dot32(w0[1], w1[1], x0, x1));
            int32x4_t row23 = vpaddq_s32(dot32(w0[2], w1[2], x0, x1), dot32(w0[3], w1[3], x0, x1));
            float32x4_t sum = vcvtq_f32_s32(vpaddq_s32(row01, row23));
            acc[j] = vfmaq_f32(acc[j], vmulq_n_f32(dw, d[j * blocks]), sum);
        }
    }
    float *dst = a->dst + m * a->dst_stride + r;
    for (size_t j = 0; j < M; j++, dst += a->dst_stride) {
        if (r1 - r >= ROWS_TILE)
            vst1q_f32(dst, acc[j]);
        else
            store_part(dst, acc[j], r1 - r);
    }
}

typedef void rows_fn(const struct mm *a, size_t r, size_t r1, size_t m);
#define ROWS(M)                                                                  \
    static void rows_tile_##M(const struct mm *a, size_t r, size_t r1, size_t m) \
    {                                                                            \
        rows_tile(a, r, r1, m, M);                                               \
    }
ROWS(1)
ROWS(2)
ROWS(3)
ROWS(4)
ROWS(5)
ROWS(6)
ROWS(7)
ROWS(8)
static rows_fn *const rows_tiles[ROWS_MAX] = {rows_tile_1, rows_tile_2, rows_tile_3, rows_tile_4,
                                              rows_tile_5, rows_tile_6, rows_tile_7, rows_tile_8};

static void mm_rows(const struct mm *a, size_t r0, size_t r1)
{
    for (size_t r = r0; r < r1; r += ROWS_TILE)
        for (size_t m = 0; m < a->n_rows; m += ROWS_MAX) rows_tiles[size_min(ROWS_MAX, a->n_rows - m) - 1](a, r, r1, m);
}

#endif
