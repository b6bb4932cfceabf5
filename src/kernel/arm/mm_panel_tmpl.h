/* mm_panel: products of integer weights with two and more activation rows. Included by one file per instruction set, which
 * first defines the order of its operands and the instruction:
 *
 *   UNIT             bytes of a row or column that lie together: 4 or 8. Packed activations are [k / UNIT][4][UNIT], weights of
 *                    a panel [k / UNIT][8][UNIT]
 *   SPREAD_REGS      registers that hold one number for each of the 8 rows, in the order of the sums
 *   void order4(uint8x16_t v[4])             16 k of 4 rows, a row each, to [16 / UNIT][4][UNIT]
 *   void order_words(uint8x16_t v[4])        the same from v[i] = bytes 4 i .. 4 i + 3 of the rows
 *   void dot_columns(int32x4_t *sum, const int8_t *w, const int8x16_t x[2], const size_t M)
 *                                            8 k: adds the products of 8 rows and M columns (2 or 4) to sum[2 M]
 *   void spread(void *dst, float32x4_t v, size_t half)      rows 4 half .. 4 half + 3 into SPREAD_REGS registers at dst
 *   float32x4_t columns(float32x4_t v, size_t o)            the numbers of the 4 columns v, as sum[o] wants them
 *   float32x4_t rows_of(const float *sums, size_t column, size_t half)     four rows of one column of [2 M][4] sums
 *
 * A panel holds 8 rows x 256 weights a piece, as int8 in the order in which the tile reads them, and lives in scratch, in the
 * level-1 cache, while all activation rows pass. A tile is 8 rows x 4 columns. In blocks of 256 its sums are never set back:
 * the sum over sub-blocks of scale * sum equals that of (scale - next scale) * sum so far, and the panel holds these
 * differences. It is integer arithmetic modulo 2^32 with a result that fits, so it is exact. */
#ifndef QUERN_MM_PANEL_TMPL_H
#define QUERN_MM_PANEL_TMPL_H

#include "kernel/arm/unpack_neon.h"

enum {
    TILE_ROWS = 8,
    TILE_COLS = 4,
    SUMS = TILE_ROWS * TILE_COLS / 4,
    SPREAD_N = 4 * SPREAD_REGS,
    PIECES = 8, /* of a panel: 1 tile x 8 pieces of K, or 4 x 2 */
    PANEL_TILES = 4,
    MANY = 16,   /* 4 tiles from so many activation rows on; fewer do not pay for jumping between rows */
    STRIP = 512, /* activation rows to a panel */
    UNITS = QSUPER / ACT_BLOCK,
};

/* 256 weights of 8 rows. Blocks of 32 have 8 d and m and no sc and mn, blocks of 256 one d and m. */
struct piece {
    int8_t q[UNITS][ACT_BLOCK * TILE_ROWS];
    int32_t sc[QSUPER / QSUB][SPREAD_N]; /* differences */
    int8_t mn[QSUPER / QSUB * TILE_ROWS];
    float d[UNITS][SPREAD_N], m[UNITS][SPREAD_N];
};

/* What belongs to 4 columns of packed activations, over the K of a panel. */
struct columns {
    float d[PIECES * UNITS][TILE_COLS], s[PIECES * UNITS][TILE_COLS]; /* by block */
    int8_t hi[PIECES][QSUPER / QSUB * TILE_COLS], lo[PIECES][QSUPER / QSUB * TILE_COLS];
};

/* The sums of a tile between the parts of K; min also for the sums of the minima. */
struct sums {
    float acc[SUMS][4], min[SUMS][4];
};

struct panel {
    struct piece piece[PIECES];
    struct sums sums[PANEL_TILES][STRIP / TILE_COLS];
};
_Static_assert(sizeof(struct panel) <= MM_SCRATCH, "the panel is larger than its scratch");

struct tile {
    const struct piece *w;
    const int8_t *x; /* of the first piece */
    const struct columns *c;
    size_t blocks;
    struct sums *sums;
    int32_t bias;
};
typedef void tile_fn(const struct tile *t);
typedef void fill_fn(struct piece *to, const struct mm *a, size_t r, size_t r1, size_t block, size_t n);

/* ---- filling ---------------------------------------------------------------------------------------------------- */

/* 16 bytes of 4 rows, ordered, to their places among those of 8 rows. */
TILE_INLINE void put(int8_t *dst, size_t half, const uint8x16_t v[QUAD])
{
    UNROLL for (size_t i = 0; i < QUAD; i++)
    {
        const size_t at = 16 * i, unit = QUAD * UNIT;
        vst1q_u8((uint8_t *)dst + at / unit * 2 * unit + half * unit + at % unit, v[i]);
    }
}

TILE_INLINE void put_weights(int8_t *dst, size_t half, int8x16_t q[QUAD][2])
{
    UNROLL for (size_t j = 0; j < 2; j++)
    {
        uint8x16_t v[QUAD];
        UNROLL for (size_t i = 0; i < QUAD; i++) v[i] = vreinterpretq_u8_s8(q[i][j]);
        order4(v);
        put(dst + 16 * TILE_ROWS * j, half, v);
    }
}

/* The scales of a block of 256, as differences, and the minima, of which there may be 8 that are followed by zeros. */
TILE_INLINE void put_scales(struct piece *to, size_t half, struct head *h, const struct traits t)
{
    const size_t n = QSUPER / t.sub;
    int32x4_t scale = head_scale(h->sc, 0);
    UNROLL for (size_t s = 0; s < n; s++)
    {
        int32x4_t next = s + 1 < n ? head_scale(h->sc, s + 1) : vdupq_n_s32(0);
        spread(to->sc[s], vreinterpretq_f32_s32(vsubq_s32(scale, next)), half);
        scale = next;
    }
    if (!t.min) return;
    if (t.sub == 32) h->mn[2] = h->mn[3] = vdupq_n_u8(0);
    order_words(h->mn);
    put(to->mn, half, h->mn);
}

/* n blocks from `block` on of rows r .. r + 7, of which those from r1 on are row r1 - 1 once more. */
TILE_INLINE void fill_piece(struct piece *to, const struct mm *a, size_t r, size_t r1, size_t block, size_t n, head_fn *head,
                            weights_fn *weights, const struct traits t)
{
    struct qblock wide[QUAD];
    for (size_t half = 0; half < 2; half++) {
        struct quad w = quad_of(a, size_min(r + QUAD * half, r1 - 1), r1, wide);
        for (size_t b = 0; b < n; b++) {
            struct head h;
            if (!t.wide) quad_at(&w, block + b, t.bytes);
            head(&w, block + b, &h);
            spread(to->d[b], h.d, half);
            if (t.min) spread(to->m[b], h.m, half);
            if (t.block == QSUPER) put_scales(to, half, &h, t);
            UNROLL for (size_t s = 0; s < t.block / 32; s++)
            {
                int8x16_t q[QUAD][2];
                UNROLL for (size_t i = 0; i < QUAD; i++) weights(w.p[i], s, q[i]);
                put_weights(to->q[b + s], half, q);
            }
        }
    }
}

/* ---- tiles ---------------------------------------------------------------------------------------------------------- */

/* 8 and 16 k of a panel at w and of packed columns at x; the loads stand side by side so that they pair. */
TILE_INLINE void panel_dot8(int32x4_t *sum, const int8_t *w, const int8_t *x, const size_t M)
{
    const int8x16_t x8[2] = {vld1q_s8(x), vld1q_s8(x + 16)};
    dot_columns(sum, w, x8, M);
}
TILE_INLINE void panel_dot16(int32x4_t *sum, const int8_t *w, const int8_t *x, const size_t M)
{
    const int8x16_t x16[4] = {vld1q_s8(x), vld1q_s8(x + 16), vld1q_s8(x + 32), vld1q_s8(x + 48)};
    dot_columns(sum, w, x16, M);
    dot_columns(sum, w + 8 * TILE_ROWS, x16 + 2, M);
}

TILE_INLINE void load_sums(float32x4_t *v, const float (*from)[4], const size_t M)
{
    UNROLL for (size_t o = 0; o < 2 * M; o++) v[o] = vld1q_f32(from[o]);
}
TILE_INLINE void store_sums(float (*to)[4], const float32x4_t *v, const size_t M)
{
    UNROLL for (size_t o = 0; o < 2 * M; o++) vst1q_f32(to[o], v[o]);
}

/* v[o] += w * x * sum, rounded as docs/arithmetic.md has it. */
TILE_INLINE void add_scaled(float32x4_t *v, const float *w, float32x4_t x, const float32x4_t *sum, const size_t M)
{
    UNROLL for (size_t o = 0; o < 2 * M; o++)
    {
        float32x4_t scale = vmulq_f32(vld1q_f32(w + 4 * (o % SPREAD_REGS)), columns(x, o));
        v[o] = vfmaq_f32(v[o], scale, sum[o]);
    }
}

TILE_INLINE void tile_32(const struct tile *t, const bool has_min, const bool bias, const size_t M)
{
    float32x4_t acc[SUMS], min[SUMS], f[SUMS];
    load_sums(acc, t->sums->acc, M);
    if (has_min) load_sums(min, t->sums->min, M);
    const int8_t *x = t->x;
    const float *dx = t->c->d[0], *sx = t->c->s[0];
    const struct piece *w = t->w;
    for (size_t left = t->blocks; left > 0; w++) {
        const size_t n = size_min(left, UNITS);
        const int8_t *q = w->q[0];
        left -= n;
        for (const float *d = w->d[0], *m = w->m[0], *end = w->d[n]; d < end; d += SPREAD_N, m += SPREAD_N) {
            int32x4_t sum[SUMS];
            const float32x4_t s = vld1q_f32(sx);
            UNROLL for (size_t o = 0; o < 2 * M; o++)
            {
                sum[o] = bias ? vmulq_n_s32(vcvtq_s32_f32(columns(s, o)), t->bias) : vdupq_n_s32(0);
            }
            UNROLL for (size_t i = 0; i < 2; i++) panel_dot16(sum, q + 16 * TILE_ROWS * i, x + 16 * TILE_COLS * i, M);
            UNROLL for (size_t o = 0; o < 2 * M; o++) f[o] = vcvtq_f32_s32(sum[o]);
            add_scaled(acc, d, vld1q_f32(dx), f, M);
            UNROLL for (size_t o = 0; o < 2 * M; o++) f[o] = columns(s, o);
            if (has_min) add_scaled(min, m, vld1q_f32(dx), f, M);
            q += ACT_BLOCK * TILE_ROWS;
            x += ACT_BLOCK * TILE_COLS;
            dx += TILE_COLS;
            sx += TILE_COLS;
        }
    }
    store_sums(t->sums->acc, acc, M);
    if (has_min) store_sums(t->sums->min, min, M);
}

/* total[o] += sum[o] * a difference of scales. */
TILE_INLINE void add_differences(uint32x4_t *total, const int32x4_t *sum, const int32_t *sc, const size_t M)
{
    UNROLL for (size_t o = 0; o < 2 * M; o++)
    {
        uint32x4_t scale = vreinterpretq_u32_s32(vld1q_s32(sc + 4 * (o % SPREAD_REGS)));
        total[o] = vmlaq_u32(total[o], vreinterpretq_u32_s32(sum[o]), scale);
    }
}

TILE_INLINE void tile_256(const struct tile *t, const bool has_min, const size_t sub, const size_t M)
{
    const int8_t *x = t->x;
    for (size_t b = 0; b < t->blocks; b++) {
        const struct piece *w = t->w + b;
        int32x4_t sum[SUMS];
        uint32x4_t total[SUMS];
        float32x4_t v[SUMS], f[SUMS];
        UNROLL for (size_t o = 0; o < 2 * M; o++) sum[o] = vdupq_n_s32(0), total[o] = vdupq_n_u32(0);
        const int8_t *q = w->q[0];
        const int32_t *sc = w->sc[0];
        for (size_t s = 0; s < QSUPER; s += 64, q += 64 * TILE_ROWS, x += 64 * TILE_COLS) {
            UNROLL for (size_t i = 0; i < 4; i++)
            {
                panel_dot16(sum, q + 16 * TILE_ROWS * i, x + 16 * TILE_COLS * i, M);
                if (sub == 32 && i % 2 == 0) continue;
                add_differences(total, sum, sc, M);
                sc += SPREAD_N;
            }
        }
        const float32x4_t d = vld1q_f32(t->c->d[b]);
        UNROLL for (size_t o = 0; o < 2 * M; o++) f[o] = vcvtq_f32_s32(vreinterpretq_s32_u32(total[o]));
        load_sums(v, t->sums->acc, M);
        add_scaled(v, w->d[0], d, f, M);
        store_sums(t->sums->acc, v, M);
        if (!has_min) continue;
        /* The sum of mn * sum of q is a product like the others, with the two parts of the sums as activations. */
        UNROLL for (size_t o = 0; o < 2 * M; o++) sum[o] = vdupq_n_s32(0);
        panel_dot8(sum, w->mn, t->c->hi[b], M);
        if (sub == 16) panel_dot8(sum, w->mn + 8 * TILE_ROWS, t->c->hi[b] + 8 * TILE_COLS, M);
        UNROLL for (size_t o = 0; o < 2 * M; o++) sum[o] = vshlq_n_s32(sum[o], 7);
        panel_dot8(sum, w->mn, t->c->lo[b], M);
        if (sub == 16) panel_dot8(sum, w->mn + 8 * TILE_ROWS, t->c->lo[b] + 8 * TILE_COLS, M);
        UNROLL for (size_t o = 0; o < 2 * M; o++) f[o] = vcvtq_f32_s32(sum[o]);
        load_sums(v, t->sums->min, M);
        add_scaled(v, w->m[0], d, f, M);
        store_sums(t->sums->min, v, M);
    }
}

/* ---- types ------------------------------------------------------------------------------------------------------------ */

enum kind { KIND_32, KIND_WIDE_32, KIND_256_SUB32, KIND_256_SUB16 };

/* Tiles of 2 and 4 columns. */
#define TILES(name, function, ...)             \
    static void name##_2(const struct tile *t) \
    {                                          \
        function(t, __VA_ARGS__, 2);           \
    }                                          \
    static void name##_4(const struct tile *t) \
    {                                          \
        function(t, __VA_ARGS__, 4);           \
    }
TILES(plain_32, tile_32, false, false)
TILES(min_32, tile_32, true, false)
TILES(plain_wide_32, tile_32, false, true)
TILES(min_wide_32, tile_32, true, true)
TILES(plain_sub32, tile_256, false, 32)
TILES(min_sub32, tile_256, true, 32)
TILES(plain_sub16, tile_256, false, 16)
TILES(min_sub16, tile_256, true, 16)

/* By kind, whether there is a minimum, and whether there are more than 2 columns. */
static tile_fn *const tiles[][2][2] = {
    [KIND_32] = {{plain_32_2, plain_32_4}, {min_32_2, min_32_4}},
    [KIND_WIDE_32] = {{plain_wide_32_2, plain_wide_32_4}, {min_wide_32_2, min_wide_32_4}},
    [KIND_256_SUB32] = {{plain_sub32_2, plain_sub32_4}, {min_sub32_2, min_sub32_4}},
    [KIND_256_SUB16] = {{plain_sub16_2, plain_sub16_4}, {min_sub16_2, min_sub16_4}},
};

#define FILL(NAME, traits, head, weights)                                                                      \
    static void fill_##NAME(struct piece *to, const struct mm *a, size_t r, size_t r1, size_t block, size_t n) \
    {                                                                                                          \
        fill_piece(to, a, r, r1, block, n, head, weights, traits);                                             \
    }
#define FILL_LOADED(NAME, sub, head, weights, arg) FILL(NAME, TRAITS(NAME, sub), head, weights)
#define FILL_WIDE(NAME, block_n, sub, min, arg) FILL(NAME, WIDE_TRAITS(block_n, sub, min), head_wide, weights_wide)
LOADED_TYPES(FILL_LOADED, )
WIDE_KINDS(FILL_WIDE, )

#define ROW(NAME, sub, head, weights, arg) \
    [QTYPE_##NAME] = {fill_##NAME, BLOCK_##NAME == ACT_BLOCK ? KIND_32 : KIND_256_SUB##sub},
static const struct loaded {
    fill_fn *fill;
    enum kind kind;
} loaded_types[QTYPE_COUNT] = {LOADED_TYPES(ROW, )};
#undef ROW

/* How the panels of a type are made and used. */
struct plan {
    fill_fn *fill;
    tile_fn *const *tile;
    bool min;
    int32_t bias;
};
static struct plan plan_of(enum qtype type)
{
    const struct qtype_info *info = &qtypes[type];
    const bool min = info->has_min;
    struct loaded of = loaded_types[type];
    if (!of.fill && info->arith == ARITH_32)
        of = (struct loaded){min ? fill_wide_32_min : fill_wide_32, KIND_WIDE_32};
    else if (!of.fill)
        of = (struct loaded){min ? fill_wide_256_min : fill_wide_256, KIND_256_SUB16};
    return (struct plan){of.fill, tiles[of.kind][min], min, wide_bias(type)};
}

/* ---- products ----------------------------------------------------------------------------------------------------------- */

/* Scales and sums of the activation rows m .. m + 3 from block b0 on; those past the last are any row of the product. */
static void columns_of(struct columns *c, const struct mm *a, size_t m, size_t b0, size_t n, size_t block, bool sub16)
{
    const size_t blocks = a->k / block;
    size_t row[TILE_COLS];
    for (size_t j = 0; j < TILE_COLS; j++) row[j] = size_min(m + j, a->n_rows - 1);
    for (size_t b = 0; b < n; b++)
        for (size_t j = 0; j < TILE_COLS; j++) c->d[b][j] = a->act.d[row[j] * blocks + b0 + b];
    if (block == ACT_BLOCK) {
        for (size_t b = 0; b < n; b++)
            for (size_t j = 0; j < TILE_COLS; j++) c->s[b][j] = a->act.s[row[j] * blocks + b0 + b];
        return;
    }
    for (size_t b = 0; qtypes[a->type].has_min && b < n; b++) {
        uint8x16_t hi[TILE_COLS], lo[TILE_COLS];
        UNROLL for (size_t j = 0; j < TILE_COLS; j++)
        {
            const int16_t *s = a->act.s + row[j] * (a->k / QSUB) + (b0 + b) * (QSUPER / QSUB);
            struct split x = sub16 ? split_sums(s, 16) : split_sums(s, 32);
            hi[j] = vreinterpretq_u8_s8(x.hi);
            lo[j] = vreinterpretq_u8_s8(x.lo);
        }
        order4(hi);
        order4(lo);
        UNROLL for (size_t i = 0; i < TILE_COLS; i++)
        {
            vst1q_u8((uint8_t *)c->hi[b] + 16 * i, hi[i]);
            vst1q_u8((uint8_t *)c->lo[b] + 16 * i, lo[i]);
        }
    }
}

/* Finished sums of weight rows r.. with activation rows m.. to dst, without what lies beyond the product. */
static void store_tile(const struct mm *a, const struct sums *s, size_t r, size_t r1, size_t m, bool min)
{
    const bool subtract = qtypes[a->type].arith == ARITH_256;
    for (size_t j = 0; j < TILE_COLS && m + j < a->n_rows; j++)
        for (size_t half = 0; half < 2 && r + QUAD * half < r1; half++) {
            float32x4_t y = rows_of(s->acc[0], j, half);
            if (min) {
                float32x4_t other = rows_of(s->min[0], j, half);
                y = subtract ? vsubq_f32(y, other) : vaddq_f32(y, other);
            }
            float *dst = a->dst + (m + j) * a->dst_stride + r + QUAD * half;
            if (r1 - r >= QUAD * (half + 1))
                vst1q_f32(dst, y);
            else
                store_part(dst, y, r1 - r - QUAD * half);
        }
}

/* Weight rows r .. r + 8 n_tiles - 1, those below r1, with the activation rows m0 .. m1 - 1. */
static void mm_panel(const struct mm *a, const struct plan *plan, size_t r, size_t r1, size_t n_tiles, size_t m0, size_t m1)
{
    struct panel *p = a->scratch;
    struct columns c;
    const size_t block = qtypes[a->type].block_n, in_piece = QSUPER / block, blocks = a->k / block;
    const size_t pieces = PIECES / n_tiles, step = pieces * in_piece; /* to a tile */
    for (size_t t = 0; t < n_tiles; t++) memset(p->sums[t], 0, (m1 - m0 + TILE_COLS - 1) / TILE_COLS * sizeof p->sums[t][0]);
    for (size_t b = 0; b < blocks; b += step) {
        const size_t n = size_min(step, blocks - b);
        for (size_t t = 0; t < n_tiles; t++)
            for (size_t i = 0; i < n; i += in_piece)
                plan->fill(&p->piece[t * pieces + i / in_piece], a, r + t * TILE_ROWS, r1, b + i, size_min(in_piece, n - i));
        for (size_t m = m0; m < m1; m += TILE_COLS) {
            columns_of(&c, a, m, b, n, block, plan->tile[0] == min_sub16_2);
            const struct tile tile = {NULL, a->act.packed + m * a->k + b * block * TILE_COLS, &c, n, NULL, plan->bias};
            for (size_t t = 0; t < n_tiles; t++) {
                struct tile of = tile;
                of.w = &p->piece[t * pieces];
                of.sums = &p->sums[t][(m - m0) / TILE_COLS];
                plan->tile[m1 - m > 2](&of);
            }
        }
    }
    for (size_t t = 0; t < n_tiles; t++)
        for (size_t m = m0; m < m1; m += TILE_COLS)
            store_tile(a, &p->sums[t][(m - m0) / TILE_COLS], r + t * TILE_ROWS, r1, m, plan->min);
}

/* The weight rows r0 .. r1 - 1 with packed activations. */
static void mm_panels(const struct mm *a, size_t r0, size_t r1)
{
    const struct plan plan = plan_of(a->type);
    const size_t most = a->n_rows >= MANY ? PANEL_TILES : 1;
    for (size_t r = r0; r < r1; r += most * TILE_ROWS) {
        const size_t n_tiles = size_min(most, (r1 - r + TILE_ROWS - 1) / TILE_ROWS);
        for (size_t m = 0; m < a->n_rows; m += STRIP) mm_panel(a, &plan, r, r1, n_tiles, m, size_min(m + STRIP, a->n_rows));
    }
}

/* kernels.pack_act. */
static void pack_act(const int8_t *q, size_t n, size_t k, int8_t *dst)
{
    for (size_t i = 0; i < k; i += 16, dst += 16 * TILE_COLS) {
        uint8x16_t v[TILE_COLS];
        UNROLL for (size_t j = 0; j < TILE_COLS; j++) v[j] =
            j < n ? vreinterpretq_u8_s8(vld1q_s8(q + j * k + i)) : vdupq_n_u8(0);
        order4(v);
        UNROLL for (size_t j = 0; j < TILE_COLS; j++) vst1q_u8((uint8_t *)dst + 16 * j, v[j]);
    }
}

#endif
