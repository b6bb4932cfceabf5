/* mm_rows: products of integer weights in place, four rows at a time. Included by one file per instruction set, which first
 * defines
 *
 *   static inline int32x4_t dot4(int32x4_t sum, int8x16_t w, int8x16_t x);   sum[i] += the products of bytes 4 i .. 4 i + 3
 *   static inline int32x4_t dot16(int32x4_t sum, int8x16_t w, int8x16_t x);  adds the 16 products to the lanes in any grouping
 *   static inline int32x4_t dot32(int32x4_t sum, const int8x16_t w[2], const int8x16_t x[2]);                  the same of 32
 *
 * Lanes run along K; after each sub-block three pairwise additions bring the four rows' sums into the lanes of one register,
 * where one instruction scales them all. No weight is stored and loaded again on the way.
 *
 * With one activation row the sums of a block are never set back: the sum over sub-blocks of scale * sum equals that of
 * (scale - next scale) * sum so far. It is integer arithmetic modulo 2^32 with a result that fits, so it is exact. */
#ifndef QUERN_MM_ROWS_TMPL_H
#define QUERN_MM_ROWS_TMPL_H

#include "kernel/arm/unpack_neon.h"

/* Lane i: the sum of the lanes of v[i]. */
TILE_INLINE int32x4_t sum_lanes(const int32x4_t v[QUAD])
{
    return vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3]));
}

/* Scale s of a block of 256, or for sums that are kept running the difference to the next. */
TILE_INLINE int32x4_t scale_of(const struct head *h, size_t s, const struct traits t, const bool running)
{
    int32x4_t scale = head_scale(h->sc, s);
    return running && s + 1 < t.block / t.sub ? vsubq_s32(scale, head_scale(h->sc, s + 1)) : scale;
}

/* Adds the 32 products of each row with x to the sum of a block, scaled. v: the running sums. */
TILE_INLINE int32x4_t add_32(int32x4_t sum, int32x4_t v[QUAD], int8x16_t q[QUAD][2], const int8x16_t x[2], const struct head *h,
                             size_t s, const struct traits t, const bool running)
{
    if (t.sub == 32) {
        UNROLL for (size_t i = 0; i < QUAD; i++) v[i] = dot32(running ? v[i] : vdupq_n_s32(0), q[i], x);
        return t.block == ACT_BLOCK ? sum_lanes(v) : vmlaq_s32(sum, sum_lanes(v), scale_of(h, s, t, running));
    }
    UNROLL for (size_t half = 0; half < 2; half++)
    {
        UNROLL for (size_t i = 0; i < QUAD; i++) v[i] = dot16(running ? v[i] : vdupq_n_s32(0), q[i][half], x[half]);
        sum = vmlaq_s32(sum, sum_lanes(v), scale_of(h, 2 * s + half, t, running));
    }
    return sum;
}

/* Bytes 4 n .. 4 n + 3 to every lane. */
#define SPREAD(v, n) vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(v), n))
#define ADD_MINS(sum, x)                                                    \
    do {                                                                    \
        (sum) = dot4(sum, vreinterpretq_s8_u8(h->mn[0]), SPREAD(x, 0));     \
        (sum) = dot4(sum, vreinterpretq_s8_u8(h->mn[1]), SPREAD(x, 1));     \
        if (sub == 16) {                                                    \
            (sum) = dot4(sum, vreinterpretq_s8_u8(h->mn[2]), SPREAD(x, 2)); \
            (sum) = dot4(sum, vreinterpretq_s8_u8(h->mn[3]), SPREAD(x, 3)); \
        }                                                                   \
    } while (0)

/* Of 256 activations with the sums s: the sum of mn * sum of q. */
TILE_INLINE int32x4_t min_sums(const struct head *h, const int16_t *s, const size_t sub)
{
    struct split x = split_sums(s, sub);
    int32x4_t hi = vdupq_n_s32(0), lo = vdupq_n_s32(0);
    ADD_MINS(hi, x.hi);
    ADD_MINS(lo, x.lo);
    return vaddq_s32(vshlq_n_s32(hi, 7), lo);
}

/* One activation row, at a block. */
struct column {
    const int8_t *q;
    const float *d;
    const int16_t *s;
};

/* The integer sums of one block of four rows with M columns. */
TILE_INLINE void block_sums(int32x4_t *sum, const struct quad *w, const struct head *h, const struct column *x,
                            weights_fn *weights, const struct traits t, const size_t M)
{
    int32x4_t v[QUAD];
    UNROLL for (size_t i = 0; i < QUAD; i++) v[i] = vdupq_n_s32(0);
    UNROLL for (size_t j = 0; j < M; j++) sum[j] = vdupq_n_s32(0);
    UNROLL for (size_t s = 0; s < t.block / 32; s++)
    {
        int8x16_t q[QUAD][2];
        UNROLL for (size_t i = 0; i < QUAD; i++) weights(w->p[i], s, q[i]);
        UNROLL for (size_t j = 0; j < M; j++)
        {
            const int8x16_t x32[2] = {vld1q_s8(x[j].q + 32 * s), vld1q_s8(x[j].q + 32 * s + 16)};
            sum[j] = add_32(sum[j], v, q, x32, h, s, t, M == 1);
        }
    }
}

/* Asks for a share of the four rows that come next, which lie one after the other: a single stream, over the borders of pages
 * too, however short the rows are. */
TILE_INLINE void fetch_next(const struct mm *a, size_t r, size_t block, const size_t bytes)
{
    const uint8_t *p = a->w + (r + QUAD) * a->row_bytes + block * QUAD * bytes;
    UNROLL for (size_t i = 0; i < QUAD * bytes; i += 64) __builtin_prefetch(p + i, 0, 2);
}

/* Weight rows r..r+3 (those from r1 on are row r1 - 1 once more, and not stored) with activation rows m..m+M-1, of which
 * those from n_rows on are treated alike. */
TILE_INLINE void rows_tile(const struct mm *a, size_t r, size_t r1, size_t m, head_fn *head, weights_fn *weights,
                           const struct traits t, const size_t M)
{
    struct qblock wide[QUAD];
    struct quad w = quad_of(a, r, r1, wide);
    const size_t blocks = a->k / t.block, sums = t.block == QSUPER ? QSUPER / QSUB : 1; /* to a block */
    const int32_t bias = t.wide ? wide_bias(a->type) : 0;
    struct column x[4];
    float32x4_t acc[4], min[4];
    UNROLL for (size_t j = 0; j < M; j++)
    {
        const size_t row = size_min(m + j, a->n_rows - 1);
        x[j] = (struct column){a->act.q + row * a->k, a->act.d + row * blocks, a->act.s + row * blocks * sums};
        acc[j] = min[j] = vdupq_n_f32(0.0f);
    }
    for (size_t b = 0; b < blocks; b++) {
        struct head h;
        int32x4_t sum[4];
        if (!t.wide) {
            quad_at(&w, b, t.bytes);
            fetch_next(a, r, b, t.bytes);
        }
        head(&w, b, &h);
        block_sums(sum, &w, &h, x, weights, t, M);
        UNROLL for (size_t j = 0; j < M; j++)
        {
            const float dx = *x[j].d++;
            const int16_t *s = x[j].s;
            x[j].q += t.block;
            x[j].s += sums;
            if (t.wide && t.block == ACT_BLOCK) sum[j] = vaddq_s32(sum[j], vdupq_n_s32(bias * s[0]));
            acc[j] = vfmaq_f32(acc[j], vmulq_n_f32(h.d, dx), vcvtq_f32_s32(sum[j]));
            if (!t.min) continue;
            float32x4_t f = t.block == QSUPER ? vcvtq_f32_s32(min_sums(&h, s, t.sub)) : vdupq_n_f32((float)s[0]);
            min[j] = vfmaq_f32(min[j], vmulq_n_f32(h.m, dx), f);
        }
    }
    for (size_t j = 0; j < M && m + j < a->n_rows; j++) {
        float *dst = a->dst + (m + j) * a->dst_stride + r;
        float32x4_t y = !t.min ? acc[j] : t.block == QSUPER ? vsubq_f32(acc[j], min[j]) : vaddq_f32(acc[j], min[j]);
        if (r1 - r >= QUAD)
            vst1q_f32(dst, y);
        else
            store_part(dst, y, r1 - r);
    }
}

typedef void rows_fn(const struct mm *a, size_t r, size_t r1, size_t m);

/* The functions of a type by its number of activation rows, 1 and more; several only where they were made. */
#define ROWS(NAME, traits, head, weights, M)                                         \
    static void rows_##NAME##_##M(const struct mm *a, size_t r, size_t r1, size_t m) \
    {                                                                                \
        rows_tile(a, r, r1, m, head, weights, traits, M);                            \
    }
#define ROWS_LOADED(NAME, sub, head, weights, M) ROWS(NAME, TRAITS(NAME, sub), head, weights, M)
#define ROWS_WIDE(NAME, block, sub, min, M) ROWS(NAME, WIDE_TRAITS(block, sub, min), head_wide, weights_wide, M)
#define ROWS_ENTRY(NAME, sub, head, weights, M) [QTYPE_##NAME] = rows_##NAME##_##M,

/* Defines rows_M: the function for M activation rows by type. */
#define ROWS_OF(M)                                                                            \
    LOADED_TYPES(ROWS_LOADED, M)                                                              \
    WIDE_KINDS(ROWS_WIDE, M)                                                                  \
    static rows_fn *rows_##M(enum qtype t)                                                    \
    {                                                                                         \
        static rows_fn *const loaded[QTYPE_COUNT] = {LOADED_TYPES(ROWS_ENTRY, M)};            \
        static rows_fn *const wide[2][2] = {{rows_wide_32_##M, rows_wide_32_min_##M},         \
                                            {rows_wide_256_##M, rows_wide_256_min_##M}};      \
        return loaded[t] ? loaded[t] : wide[qtypes[t].arith == ARITH_256][qtypes[t].has_min]; \
    }

#endif
