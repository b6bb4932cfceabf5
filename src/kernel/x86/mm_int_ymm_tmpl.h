/* mm_int_ymm_tmpl: matrix products with integer weights in registers of 32 bytes. int_tmpl.h has the plan and the loops
 * outside, unpack_avx2.h the types. mm_int_<isa>.c includes this once, having defined the sizes REGS, PANEL_ROWS and PACK_COLS
 * and how integers are multiplied:
 *
 *   dot_8         adds to each lane four products of bytes
 *   dot_16        adds to each lane two products of int16
 *   multiply_32   adds the products of a block of 32 weights of a panel's rows with those of nc activation rows
 *   multiply_sub  the same of 4 n weights that share the integer scales sc
 *   panel_chunk   what a panel keeps of a chunk, panel_off the offset of that, panel_scale an integer scale in a panel
 *
 * Decode: 8 weight rows by a block of 32 or of 256; a tree of adds turns eight registers into their 8 sums.
 *
 * Prefill: a register holds 4 weights of 8 rows, a tile is REGS such by PACK_COLS outputs. A panel has the rows of several
 * tiles, which take the same activations in turn: these come from L2, once for all. What an offset adds follows from the sums
 * of q. */
#ifndef QUERN_MM_INT_YMM_TMPL_H
#define QUERN_MM_INT_YMM_TMPL_H

enum {
    DIRECT_COLS = 4, /* activation rows of a decode step at most */
    PACK_MIN = 5,    /* activation rows from which panels pay */
    TILE_COLS = PACK_COLS,
    STRIP = 768, /* activation rows per panel, bounded by scratch */
};

struct panel {
    uint8_t w[QSUPER / 4][PANEL_ROWS][4];
    float d[8][PANEL_ROWS], m[8][PANEL_ROWS]; /* types of 256: [0] */
    /* Types of 256: the scale of each 16 weights; pairs of int16: the minima of two times 16 weights, or what their scales make
     * of the offset. */
    uint32_t sc[16][PANEL_ROWS], mn[8][PANEL_ROWS];
};
#include "kernel/x86/int_tmpl.h"

/* ---- decode ---------------------------------------------------------------------------------------- */

/* Lane r of the result is the sum of register t[r]. */
ALWAYS __m256i sum_rows(const __m256i t[GROUP])
{
    __m256i p[4], h[2];
    UNROLL for (int i = 0; i < 4; i++) p[i] =
        _mm256_add_epi32(_mm256_unpacklo_epi32(t[2 * i], t[2 * i + 1]), _mm256_unpackhi_epi32(t[2 * i], t[2 * i + 1]));
    UNROLL for (int i = 0; i < 2; i++) h[i] =
        _mm256_add_epi32(_mm256_unpacklo_epi64(p[2 * i], p[2 * i + 1]), _mm256_unpackhi_epi64(p[2 * i], p[2 * i + 1]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(h[0], h[1], 0x20), _mm256_permute2x128_si256(h[0], h[1], 0x31));
}

/* Types of 32: block b of a piece of 8 rows that begins at `block`, into acc and min. */
ALWAYS void step_32(__m256 *acc, __m256 *min, const struct stage *st, const struct mm *a, size_t block, size_t b, size_t n_cols,
                    chunk_fn *const chunk, const int off, const bool has_min, const enum fit fit, const enum qtype d_type)
{
    const size_t n_blocks = a->k / ACT_BLOCK;
    const __m256 dw = eight_scales(st->d16[b], st->d[b], d_type);
    __m256i u[GROUP];
    UNROLL for (int r = 0; r < GROUP; r++) u[r] = chunk(st->p[r], b);
    for (size_t m = 0; m < n_cols; m++) {
        const __m256i y = _mm256_loadu_si256((const __m256i *)(a->act.q + m * a->k + (block + b) * ACT_BLOCK));
        const __m256 dx = _mm256_set1_ps(a->act.d[m * n_blocks + block + b]);
        const int s = a->act.s[m * n_blocks + block + b];
        __m256i t[GROUP];
        UNROLL for (int r = 0; r < GROUP; r++) t[r] = dot_8(_mm256_setzero_si256(), u[r], y, fit);
        const __m256i sum = _mm256_sub_epi32(sum_rows(t), _mm256_set1_epi32(chunk_off(off, fit) * s));
        acc[m] = _mm256_fmadd_ps(_mm256_mul_ps(dw, dx), _mm256_cvtepi32_ps(sum), acc[m]);
        if (!has_min) continue;
        const __m256 least = _mm256_mul_ps(eight_scales(st->m16[b], st->m[b], d_type), dx);
        min[m] = _mm256_fmadd_ps(least, _mm256_set1_ps((float)s), min[m]);
    }
}

/* The scales of the two subblocks of chunk i, one for each int16 lane. */
ALWAYS __m256i lane_scales(const int16_t sc[16], const size_t i)
{
    const short at = (short)(0x0100 + 0x0202 * (int)(2 * i % 8));
    const __m256i index = _mm256_setr_m128i(_mm_set1_epi16(at), _mm_set1_epi16((short)(at + 0x0202)));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(sc + i / 4 * 8))), index);
}

/* Types of 256: one superblock of 8 rows. */
ALWAYS void piece_256(__m256 *acc, __m256 *min, const struct stage *st, const struct mm *a, size_t piece, size_t n_cols,
                      chunk_fn *const chunk, const int off, const bool has_min, const enum fit fit, const enum qtype d_type)
{
    const size_t n_d = a->k / QSUPER, n_s = a->k / QSUB;
    const int less = chunk_off(off, fit);
    __m256i t[DIRECT_COLS][GROUP];
    UNROLL for (int r = 0; r < GROUP; r++)
    {
        __m256i u[8], sc[8];
        UNROLL for (size_t i = 0; i < 8; i++)
        {
            u[i] = chunk(st->p[r], i);
            sc[i] = lane_scales(st->sc[r], i);
        }
        for (size_t m = 0; m < n_cols; m++) {
            const int8_t *q = a->act.q + m * a->k + piece * QSUPER;
            __m256i sum = _mm256_setzero_si256();
            if (less) {
                const __m256i by = _mm256_mullo_epi16(load_32((const uint8_t *)st->sc[r]), _mm256_set1_epi16((short)-less));
                sum = _mm256_madd_epi16(by, load_32((const uint8_t *)(a->act.s + m * n_s + piece * 16)));
            }
            UNROLL for (size_t i = 0; i < 8; i++) sum =
                dot_16(sum, pairs(u[i], load_32((const uint8_t *)q + 32 * i), fit), sc[i]);
            t[m][r] = sum;
        }
    }
    const __m256 dw = eight_scales(st->d16[0], st->d[0], d_type);
    for (size_t m = 0; m < n_cols; m++) {
        const __m256 dx = _mm256_set1_ps(a->act.d[m * n_d + piece]);
        acc[m] = _mm256_fmadd_ps(_mm256_mul_ps(dw, dx), _mm256_cvtepi32_ps(sum_rows(t[m])), acc[m]);
        if (!has_min) continue;
        const __m256i s = load_32((const uint8_t *)(a->act.s + m * n_s + piece * 16));
        __m256i v[GROUP];
        UNROLL for (int r = 0; r < GROUP; r++) v[r] = _mm256_madd_epi16(load_32((const uint8_t *)st->mn[r]), s);
        const __m256 mw = eight_scales(st->m16[0], st->m[0], d_type);
        min[m] = _mm256_fmadd_ps(_mm256_mul_ps(mw, dx), _mm256_cvtepi32_ps(sum_rows(v)), min[m]);
    }
}

/* ---- prefill --------------------------------------------------------------------------------------- */

/* 8 rows of 8 dwords become 8 columns of 8 rows, from dst on in a panel. */
ALWAYS void store_transposed(const __m256i w[8], uint8_t *dst)
{
    __m256i a[8];
    UNROLL for (int i = 0; i < 8; i += 4)
    {
        __m256i t0 = _mm256_unpacklo_epi32(w[i], w[i + 1]), t1 = _mm256_unpackhi_epi32(w[i], w[i + 1]);
        __m256i t2 = _mm256_unpacklo_epi32(w[i + 2], w[i + 3]), t3 = _mm256_unpackhi_epi32(w[i + 2], w[i + 3]);
        a[i] = _mm256_unpacklo_epi64(t0, t2); /* columns 0 and 4 of four rows */
        a[i + 1] = _mm256_unpackhi_epi64(t0, t2);
        a[i + 2] = _mm256_unpacklo_epi64(t1, t3);
        a[i + 3] = _mm256_unpackhi_epi64(t1, t3);
    }
    UNROLL for (int i = 0; i < 4; i++)
    {
        _mm256_store_si256((__m256i *)(dst + i * PANEL_ROWS * 4), _mm256_permute2x128_si256(a[i], a[i + 4], 0x20));
        _mm256_store_si256((__m256i *)(dst + (i + 4) * PANEL_ROWS * 4), _mm256_permute2x128_si256(a[i], a[i + 4], 0x31));
    }
}

/* The integer scales of a type of 256, of GROUP rows from g on; less: the offset of what the panel holds. */
ALWAYS void fill_subs(struct panel *panel, struct stage *st, size_t g, const int less, const bool has_min)
{
    for (size_t r = 0; r < GROUP; r++) {
        for (size_t s = 0; s < 16; s++) panel->sc[s][g + r] = panel_scale(st->sc[r][s]);
        if (less) {
            const __m256i by = _mm256_mullo_epi16(load_32((const uint8_t *)st->sc[r]), _mm256_set1_epi16((short)-less));
            store_16(st->mn[r], by);
        }
        for (size_t s = 0; s < 8 && (less || has_min); s++)
            memcpy(&panel->mn[s][g + r], st->mn[r] + 2 * s, sizeof panel->mn[s][g + r]);
    }
}

ALWAYS void fill(struct panel *panel, const struct rows *w, size_t piece, size_t n_blocks, chunk_fn *const chunk,
                 stage_fn *const stage, const enum qarith arith, const int off, const bool has_min, const enum fit fit,
                 const enum qtype d_type)
{
    for (size_t g = 0; g < PANEL_ROWS; g += GROUP) {
        struct stage st;
        stage(w, g, piece, n_blocks, &st);
        for (size_t b = 0; b < (arith == ARITH_32 ? n_blocks : 1); b++) {
            _mm256_store_ps(panel->d[b] + g, eight_scales(st.d16[b], st.d[b], d_type));
            if (has_min) _mm256_store_ps(panel->m[b] + g, eight_scales(st.m16[b], st.m[b], d_type));
        }
        if (arith == ARITH_256) fill_subs(panel, &st, g, panel_off(off, fit), has_min);
        UNROLL for (size_t i = 0; i < 8; i++)
        {
            __m256i u[GROUP];
            if (i >= n_blocks) continue; /* not break: with two exits a loop may stay a loop */
            UNROLL for (size_t r = 0; r < GROUP; r++) u[r] = panel_chunk(chunk(st.p[r], i), fit);
            store_transposed(u, panel->w[8 * i][g]);
        }
    }
}

/* acc = fma(d * dx, value, acc) */
ALWAYS vec chain(const float *d, float dx, vec value, vec acc)
{
    return v_fma(v_mul(v_load(d), v_set1(dx)), value, acc);
}

/* Tiles begin at row g of the panel. */
ALWAYS void tile_32(const struct tile *t, size_t g, const unsigned nc, const enum fit fit)
{
    const int less = panel_off(t->off, fit);
    vec acc[PACK_COLS][REGS];
    UNROLL for (unsigned c = 0; c < nc; c++) UNROLL for (unsigned h = 0; h < REGS; h++) acc[c][h] =
        v_load(t->acc[c] + g + VL * h);
    for (size_t b = 0; b < t->n_blocks; b++) {
        __m256i sum[PACK_COLS][REGS];
        UNROLL for (unsigned c = 0; c < nc; c++) UNROLL for (unsigned h = 0; h < REGS; h++) sum[c][h] =
            _mm256_set1_epi32(-less * t->s[c * t->s_row + b]);
        multiply_32(sum, t->panel->w[8 * b][g], t->y + b * 32 * PACK_COLS, nc, fit);
        UNROLL for (unsigned c = 0; c < nc; c++) UNROLL for (unsigned h = 0; h < REGS; h++) acc[c][h] =
            chain(t->panel->d[b] + g + VL * h, t->d[c * t->d_row + b], _mm256_cvtepi32_ps(sum[c][h]), acc[c][h]);
    }
    UNROLL for (unsigned c = 0; c < nc; c++) UNROLL for (unsigned h = 0; h < REGS; h++)
        v_store(t->acc[c] + g + VL * h, acc[c][h]);
    if (!t->has_min) return;
    UNROLL for (unsigned c = 0; c < nc; c++) UNROLL for (unsigned h = 0; h < REGS; h++) acc[c][h] =
        v_load(t->min[c] + g + VL * h);
    for (size_t b = 0; b < t->n_blocks; b++)
        UNROLL for (unsigned c = 0; c < nc; c++) UNROLL for (unsigned h = 0; h < REGS; h++) acc[c][h] =
            chain(t->panel->m[b] + g + VL * h, t->d[c * t->d_row + b], v_set1((float)t->s[c * t->s_row + b]), acc[c][h]);
    UNROLL for (unsigned c = 0; c < nc; c++) UNROLL for (unsigned h = 0; h < REGS; h++)
        v_store(t->min[c] + g + VL * h, acc[c][h]);
}

/* Sums over the subblocks of the panel's mn times the sums of q. */
ALWAYS void multiply_sums(__m256i sum[PACK_COLS][REGS], const struct tile *t, size_t g, const unsigned nc)
{
    for (size_t s = 0; s < 8; s++)
        UNROLL for (unsigned c = 0; c < nc; c++) UNROLL for (unsigned h = 0; h < REGS; h++) sum[c][h] =
            dot_16(sum[c][h], _mm256_load_si256((const __m256i *)(t->panel->mn[s] + g) + h),
                   _mm256_set1_epi32((int)load_u32((const uint8_t *)(t->s + c * t->s_row + 2 * s))));
}

/* The scaled sums of a superblock, into the chains at acc. */
ALWAYS void store_chains(float (*acc)[PANEL_ROWS], const float *d, const struct tile *t, size_t g, __m256i sum[PACK_COLS][REGS],
                         const unsigned nc)
{
    UNROLL for (unsigned c = 0; c < nc; c++) UNROLL for (unsigned h = 0; h < REGS; h++)
    {
        float *at = acc[c] + g + VL * h;
        v_store(at, chain(d + g + VL * h, t->d[c * t->d_row], _mm256_cvtepi32_ps(sum[c][h]), v_load(at)));
    }
}

/* n: weights that share a scale, / 4. */
ALWAYS void tile_256(const struct tile *t, size_t g, const unsigned nc, const unsigned n, const enum fit fit)
{
    __m256i sum[PACK_COLS][REGS];
    UNROLL for (unsigned c = 0; c < nc; c++) UNROLL for (unsigned h = 0; h < REGS; h++) sum[c][h] = _mm256_setzero_si256();
    if (t->has_min) {
        multiply_sums(sum, t, g, nc);
        store_chains(t->min, t->panel->m[0], t, g, sum, nc);
        UNROLL for (unsigned c = 0; c < nc; c++) UNROLL for (unsigned h = 0; h < REGS; h++) sum[c][h] = _mm256_setzero_si256();
    } else if (panel_off(t->off, fit)) {
        multiply_sums(sum, t, g, nc);
    }
    for (size_t i = 0; i < QSUPER / 4; i += n)
        multiply_sub(sum, t->panel->w[i][g], t->y + i * 4 * PACK_COLS, t->panel->sc[i / 4] + g, n, nc, fit);
    store_chains(t->acc, t->panel->d[0], t, g, sum, nc);
}

/* ---- the types -------------------------------------------------------------------------------------- */

/* Up to 8 weight rows by n_cols activation rows of a. The scales of a piece are staged while the one before is multiplied. */
ALWAYS void group(const struct rows *w, size_t n_cols, chunk_fn *const chunk, stage_fn *const stage, const size_t bytes,
                  const enum qarith arith, const int off, const bool has_min, const enum fit fit, const enum qtype d_type)
{
    const struct mm *a = w->a;
    const size_t n_pieces = (a->k + QSUPER - 1) / QSUPER;
    struct stage st[2];
    __m256 acc[DIRECT_COLS], min[DIRECT_COLS];
    for (size_t m = 0; m < n_cols; m++) acc[m] = min[m] = _mm256_setzero_ps();
    stage(w, 0, 0, size_min(a->k, QSUPER) / ACT_BLOCK, &st[0]);
    for (size_t piece = 0; piece < n_pieces; piece++) {
        const size_t left = a->k - piece * QSUPER, n_blocks = size_min(left, QSUPER) / ACT_BLOCK;
        const struct stage *now = &st[piece % 2];
        fetch_group(w, piece, bytes);
        if (left > QSUPER) stage(w, 0, piece + 1, size_min(left - QSUPER, QSUPER) / ACT_BLOCK, &st[(piece + 1) % 2]);
        if (arith == ARITH_256)
            piece_256(acc, min, now, a, piece, n_cols, chunk, off, has_min, fit, d_type);
        else
            for (size_t b = 0; b < n_blocks; b++)
                step_32(acc, min, now, a, 8 * piece, b, n_cols, chunk, off, has_min, fit, d_type);
    }
    for (size_t m = 0; m < n_cols; m++) {
        if (has_min) acc[m] = arith == ARITH_32 ? _mm256_add_ps(acc[m], min[m]) : _mm256_sub_ps(acc[m], min[m]);
        v_store_n(a->dst + m * a->dst_stride + w->r, acc[m], w->n);
    }
}

/* Tiles serve all types whose weights fit alike and whose scales serve equally many weights. EACH_NC, of mm_int_<isa>.c,
 * applies a macro to 1 .. PACK_COLS columns. */
#define TILE(tag, nc, run, ...)                                       \
    static void tile_##tag##_##nc(const struct tile *t)               \
    {                                                                 \
        for (size_t g = 0; g < PANEL_ROWS; g += VL * REGS) {          \
            fetch_next(t, g / (VL * REGS), PANEL_ROWS / (VL * REGS)); \
            run(t, g, nc, __VA_ARGS__);                               \
        }                                                             \
    }
#define TILE_NAME(tag, nc, ...) tile_##tag##_##nc,
#define TILES(tag, ...)             \
    EACH_NC(TILE, tag, __VA_ARGS__) \
    static tile_fn *const tiles_##tag[PACK_COLS] = {EACH_NC(TILE_NAME, tag, )};
TILES(signed, tile_32, SIGNED)
TILES(u31, tile_32, UPTO_31)
TILES(sub32_signed, tile_256, 8, SIGNED)
TILES(sub32_u31, tile_256, 8, UPTO_31)
TILES(sub16_u128, tile_256, 4, UPTO_128)
TILES(sub16_u63, tile_256, 4, UPTO_63)
TILES(sub16_u31, tile_256, 4, UPTO_31)

/* A type whose blocks are read by chunk and stage. bytes: of 256 weights. Its functions know it as w->a->type. */
#define PRODUCT(tag, chunk, stage, bytes, arith, off, has_min, fit, tiles, d_type)                   \
    static void one_##tag(const struct rows *w, size_t n_cols)                                       \
    {                                                                                                \
        (void)n_cols;                                                                                \
        group(w, 1, chunk, stage, bytes, arith, off, has_min, fit, d_type);                          \
    }                                                                                                \
    static void several_##tag(const struct rows *w, size_t n_cols)                                   \
    {                                                                                                \
        group(w, n_cols, chunk, stage, bytes, arith, off, has_min, fit, d_type);                     \
    }                                                                                                \
    static void fill_##tag(struct panel *panel, const struct rows *w, size_t piece, size_t n_blocks) \
    {                                                                                                \
        fill(panel, w, piece, n_blocks, chunk, stage, arith, off, has_min, fit, d_type);             \
    }                                                                                                \
    static void mm_##tag(const struct mm *a, size_t r0, size_t r1)                                   \
    {                                                                                                \
        if (a->act.packed)                                                                           \
            mm_panels(a, r0, r1, fill_##tag, tiles_##tiles);                                         \
        else                                                                                         \
            mm_direct(a, r0, r1, one_##tag, several_##tag);                                          \
    }
#define HOT(TYPE, tag, bytes, arith, off, has_min, fit, tiles, d_type) \
    PRODUCT(tag, chunk_##tag, stage_##tag, bytes, ARITH_##arith, off, has_min, fit, tiles, d_type)
#define ANY(arith, fit, tiles)                                                                                               \
    PRODUCT(any_##arith, chunk_any_##arith, stage_any, QSUPER / qtypes[w->a->type].block_n * qtypes[w->a->type].block_bytes, \
            ARITH_##arith, qtypes[w->a->type].off, qtypes[w->a->type].has_min, fit, tiles, QTYPE_F32)

/* X(TYPE, tag, bytes of 256 weights, arithmetic, off, has_min, fit, tiles, type of d and m) */
#define HOT_TYPES(X)                                                  \
    X(Q8_0, q8_0, 272, 32, 128, false, SIGNED, signed, QTYPE_F16)     \
    X(Q4_0, q4_0, 144, 32, 8, false, UPTO_31, u31, QTYPE_F16)         \
    X(Q4_1, q4_1, 160, 32, 0, true, UPTO_31, u31, QTYPE_F16)          \
    X(Q5_0, q5_0, 176, 32, 16, false, UPTO_31, u31, QTYPE_F16)        \
    X(Q5_1, q5_1, 192, 32, 0, true, UPTO_31, u31, QTYPE_F16)          \
    X(IQ4_NL, iq4_nl, 144, 32, 128, false, SIGNED, signed, QTYPE_F16) \
    X(MXFP4, mxfp4, 136, 32, 12, false, UPTO_31, u31, QTYPE_MXFP4)    \
    X(Q2_K, q2_k, 84, 256, 0, true, UPTO_31, sub16_u31, QTYPE_F16)    \
    X(Q3_K, q3_k, 110, 256, 4, false, UPTO_31, sub16_u31, QTYPE_F16)  \
    X(Q4_K, q4_k, 144, 256, 0, true, UPTO_31, sub32_u31, QTYPE_F16)   \
    X(Q5_K, q5_k, 176, 256, 0, true, UPTO_31, sub32_u31, QTYPE_F16)   \
    X(Q6_K, q6_k, 210, 256, 32, false, UPTO_63, sub16_u63, QTYPE_F16) \
    X(IQ4_XS, iq4_xs, 136, 256, 128, false, SIGNED, sub32_signed, QTYPE_F16)
HOT_TYPES(HOT)
ANY(32, SIGNED, signed)
ANY(256, UPTO_128, sub16_u128)

/* All integer types, and packed activations. */
static void mm_int_init(struct kernels *k)
{
    for (size_t t = 0; t < QTYPE_COUNT; t++) {
        if (qtypes[t].arith == ARITH_32) k->mm[t] = mm_any_32;
        if (qtypes[t].arith == ARITH_256) k->mm[t] = mm_any_256;
    }
#define SET(TYPE, tag, bytes, arith, off, has_min, fit, tiles, d_type) k->mm[QTYPE_##TYPE] = mm_##tag;
    HOT_TYPES(SET)
#undef SET
    k->pack_cols = PACK_COLS;
    k->pack_min = PACK_MIN;
    k->pack_act = pack_act;
}

#endif
