/* slab_avx512_tmpl: how slabs are filled (mm_int_avx512.c has struct slab). A register of a slab has a dword of each of 16
 * rows: weights are transposed.
 *
 * The types of which most files are made are transposed as they lie and taken apart afterwards: half as many shuffles, and the
 * scales of 16 rows come apart together. All others become rows of bytes first (chunk_TYPE, stage_TYPE). */
#ifndef QUERN_SLAB_AVX512_TMPL_H
#define QUERN_SLAB_AVX512_TMPL_H

#include "kernel/x86/unpack_avx512.h"

/* ---- from rows of bytes ------------------------------------------------------------------------------------ */

/* Transposes 16 x 16 dwords; row i of the result goes to dst + i * SLAB_ROWS * 4. */
ALWAYS void store_transposed(const __m512i w[16], uint8_t *dst)
{
    __m512i a[16], b[16];
    UNROLL for (int i = 0; i < 16; i += 4)
    {
        __m512i t0 = _mm512_unpacklo_epi32(w[i], w[i + 1]), t1 = _mm512_unpackhi_epi32(w[i], w[i + 1]);
        __m512i t2 = _mm512_unpacklo_epi32(w[i + 2], w[i + 3]), t3 = _mm512_unpackhi_epi32(w[i + 2], w[i + 3]);
        a[i] = _mm512_unpacklo_epi64(t0, t2); /* column 0, 4, 8, 12 of four rows */
        a[i + 1] = _mm512_unpackhi_epi64(t0, t2);
        a[i + 2] = _mm512_unpacklo_epi64(t1, t3);
        a[i + 3] = _mm512_unpackhi_epi64(t1, t3);
    }
    UNROLL for (int i = 0; i < 4; i++)
    {
        b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88); /* columns i and i + 8, rows 0-7 */
        b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
        b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
        b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
    }
    UNROLL for (int i = 0; i < 8; i++)
    {
        _mm512_store_si512(dst + i * SLAB_ROWS * 4, _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88));
        _mm512_store_si512(dst + (i + 8) * SLAB_ROWS * 4, _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd));
    }
}

/* Integer scale s of row r; of its minimum. */
ALWAYS int32_t scale_at(const struct stage *st, size_t r, size_t s, const enum form form)
{
    return form == WIDE32 ? st->wide[r][s] : form == SUB32 ? st->bytes[r][s] : st->sc[r][s];
}
ALWAYS int16_t min_at(const struct stage *st, size_t r, size_t s, const enum form form)
{
    return form == SUB32 ? st->bytes[r][8 + s] : st->mn[r][s];
}
#define SUBS(form) ((form) == NO_SUBS ? 0 : (form) == SUB16 ? 16 : 8)

/* Scales of 8 rows, staged, into a slab from row g on. */
ALWAYS void fill_scales(struct slab *s, const struct stage *st, size_t g, const enum form form, const bool has_min,
                        const enum qtype d_type)
{
    for (size_t b = 0; b < (form == NO_SUBS ? 8 : 1); b++) {
        _mm256_store_ps(&s->d[b][g], eight_scales(st->d16[b], st->d[b], d_type));
        if (has_min) _mm256_store_ps(&s->m[b][g], eight_scales(st->m16[b], st->m[b], d_type));
    }
    for (size_t r = 0; r < GROUP; r++)
        for (size_t i = 0; i < SUBS(form); i++) {
            s->sc[i][g + r] = scale_at(st, r, i, form);
            if (has_min) s->mn[i / 2][g + r][i % 2] = min_at(st, r, i, form);
        }
}

/* From row g of w on. */
ALWAYS void slab_from_chunks(struct slab *s, const struct rows *w, size_t g, size_t piece, size_t n_blocks,
                             chunk_fn *const chunk, stage_fn *const stage, const enum form form, const bool has_min,
                             const enum qtype d_type)
{
    struct stage st[2];
    for (size_t h = 0; h < 2; h++) {
        stage(w, g + h * GROUP, piece, n_blocks, &st[h]);
        fill_scales(s, &st[h], h * GROUP, form, has_min, d_type);
    }
    UNROLL for (size_t i = 0; i < 4; i++)
    {
        __m512i u[16];
        if (2 * i >= n_blocks) break;
        if (2 * i + 1 < n_blocks) {
            UNROLL for (size_t r = 0; r < 16; r++) u[r] = chunk(st[r / GROUP].p[r % GROUP], i, true);
        } else {
            UNROLL for (size_t r = 0; r < 16; r++) u[r] = chunk(st[r / GROUP].p[r % GROUP], i, false);
        }
        store_transposed(u, s->w[16 * i][0]);
    }
}

ALWAYS void fill_from_chunks(struct panel *panel, const struct rows *w, size_t piece, size_t n_blocks, chunk_fn *const chunk,
                             stage_fn *const stage, const enum form form, const bool has_min, const enum qtype d_type)
{
    for (size_t h = 0; h < 2; h++)
        slab_from_chunks(&panel->half[h], w, h * SLAB_ROWS, piece, n_blocks, chunk, stage, form, has_min, d_type);
}

/* ---- as they lie ------------------------------------------------------------------------------------------- */

/* The piece of each of 16 rows from row g of w on. */
struct pieces {
    const uint8_t *p[16];
};
ALWAYS struct pieces pieces_at(const struct rows *w, size_t g, size_t at)
{
    struct pieces s;
    UNROLL for (size_t r = 0; r < 16; r++) s.p[r] = row_at(w, g + r).data + at;
    return s;
}

/* Dwords of four registers, within each quarter: t[i] has dword i of a[0], a[1], a[2], a[3]. */
ALWAYS void transpose_four(const __m512i a[4], __m512i t[4])
{
    const __m512i t0 = _mm512_unpacklo_epi32(a[0], a[1]), t1 = _mm512_unpackhi_epi32(a[0], a[1]);
    const __m512i t2 = _mm512_unpacklo_epi32(a[2], a[3]), t3 = _mm512_unpackhi_epi32(a[2], a[3]);
    t[0] = _mm512_unpacklo_epi64(t0, t2);
    t[1] = _mm512_unpackhi_epi64(t0, t2);
    t[2] = _mm512_unpacklo_epi64(t1, t3);
    t[3] = _mm512_unpackhi_epi64(t1, t3);
}

/* 16 bytes of each row, `at` bytes into its piece: t[i] has their dword i of all rows. */
ALWAYS void quads(const struct pieces *s, const size_t at, __m512i t[4])
{
    __m512i q[4];
    UNROLL for (size_t i = 0; i < 4; i++)
    {
        const uint8_t *const four[4] = {s->p[i] + at, s->p[i + 4] + at, s->p[i + 8] + at, s->p[i + 12] + at};
        q[i] = headers(four);
    }
    transpose_four(q, t);
}

/* f16 in the lower half of each dword. */
ALWAYS vec low_halves(__m512i v)
{
    return v_widen(_mm512_cvtepi32_epi16(v), QTYPE_F16);
}

/* A turn: 32 bytes of each of 16 rows become 8 registers, of which register k has dword k of all rows. It is made in steps, so
 * that other work can stand between them (few_avx512_tmpl.h). */
enum { TURN_LOADS = 6, TURN_STEPS = 10 }; /* the last four use two registers each */

struct turn {
    __m512i a[4];
    __m512i x[4], y[4]; /* dwords i and i + 4 of rows 0-7, of rows 8-15 */
};

/* 32 bytes, of which the second 16 lie `gap` bytes behind the first. */
ALWAYS __m256i row_of(const uint8_t *p, const size_t gap)
{
    if (gap == 16) return _mm256_loadu_si256((const __m256i *)p);
    return _mm256_loadu2_m128i((const __m128i *)(p + gap), (const __m128i *)p);
}
/* Rows r and r + 4. */
ALWAYS __m512i two_rows(const struct pieces *p, size_t r, size_t at, const size_t gap)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(row_of(p->p[r] + at, gap)), row_of(p->p[r + 4] + at, gap), 1);
}
/* Keeps what makes v, reads and writes before it on that side. */
#define HERE(v) __asm__ volatile("" : "+v"(v) : : "memory")

ALWAYS void turn_step(struct turn *t, const struct pieces *p, size_t at, const size_t gap, const unsigned step)
{
    if (step == 2) transpose_four(t->a, t->x);
    if (step == 5) transpose_four(t->a, t->y);
    if (step == 2 || step >= 5) return;
    const size_t row = step < 3 ? 2 * step : 8 + 2 * (step - 3);
    UNROLL for (size_t i = 0; i < 2; i++)
    {
        const size_t k = row % 8 + i;
        t->a[k] = two_rows(p, row + i, at, gap);
        HERE(t->a[k]);
    }
}
ALWAYS __m512i turned(const struct turn *t, const unsigned k)
{
    return k < 4 ? _mm512_shuffle_i32x4(t->x[k], t->y[k], 0x88) : _mm512_shuffle_i32x4(t->x[k - 4], t->y[k - 4], 0xdd);
}

/* A slab's weights are filled in 4 parts of 64. What a type needs for a part, or for two, of which the even one has a turn
 * more: of bits that lie apart and belong to both. */
enum turns { ONE_TURN, TWO_TURNS, THREE_IN_TWO };
enum place { ANY_PART, EVEN, ODD }; /* EVEN and ODD: of THREE_IN_TWO */

typedef void scales_fn(struct slab *s, const struct pieces *p);
/* Step `step` in the filling of part i, of as many as steps_of says. */
typedef void weights_fn(struct slab *s, const struct pieces *p, size_t i, const enum place place, const unsigned step,
                        struct turn *t);
ALWAYS unsigned steps_of(const enum turns turns, const enum place place)
{
    return turns == TWO_TURNS || place == EVEN ? 2 * TURN_STEPS : TURN_STEPS;
}

ALWAYS void fill_part(struct slab *s, const struct pieces *p, size_t i, const enum place place, const enum turns turns,
                      weights_fn *const weights)
{
    struct turn t;
    UNROLL for (unsigned step = 0; step < 2 * TURN_STEPS; step++) if (step < steps_of(turns, place))
        weights(s, p, i, place, step, &t);
}

ALWAYS void fill_slab(struct slab *s, const struct pieces *p, const enum turns turns, scales_fn *const scales,
                      weights_fn *const weights)
{
    scales(s, p);
    for (size_t i = 0; i < 4; i += turns == THREE_IN_TWO ? 2 : 1) {
        fill_part(s, p, i, turns == THREE_IN_TWO ? EVEN : ANY_PART, turns, weights);
        if (turns == THREE_IN_TWO) fill_part(s, p, i + 1, ODD, turns, weights);
    }
}

ALWAYS void fill_from_turns(struct panel *panel, const struct rows *w, size_t piece, const enum turns turns,
                            scales_fn *const scales, weights_fn *const weights, const size_t bytes)
{
    for (size_t h = 0; h < 2; h++) {
        const struct pieces p = pieces_at(w, h * SLAB_ROWS, piece * bytes);
        fill_slab(&panel->half[h], &p, turns, scales, weights);
    }
}

/* (low & 15) | (high & 48) */
ALWAYS __m512i six_bits(__m512i low, __m512i high)
{
    return _mm512_ternarylogic_epi64(_mm512_and_si512(low, bytes_of(15)), high, bytes_of(48), 0xf8);
}

/* Scales and minima of Q4_K and Q5_K (src/quant/kquants.c). The minimum of a subblock of 32 stands once, as those of the
 * panel's tiles are. */
ALWAYS void scales_45(struct slab *s, const struct pieces *p)
{
    __m512i t[4];
    const __m512i low6 = bytes_of(63);
    quads(p, 0, t);
    v_store(s->d[0], low_halves(t[0]));
    v_store(s->m[0], low_halves(_mm512_srli_epi32(t[0], 16)));
    const __m512i sc[2] = {_mm512_and_si512(t[1], low6), six_bits(t[3], _mm512_srli_epi16(t[1], 2))};
    const __m512i mn[2] = {_mm512_and_si512(t[2], low6), six_bits(_mm512_srli_epi16(t[3], 4), _mm512_srli_epi16(t[2], 2))};
    UNROLL for (unsigned i = 0; i < 8; i++)
        _mm512_store_si512(s->sc[i], _mm512_and_si512(_mm512_srli_epi32(sc[i / 4], 8 * (i % 4)), _mm512_set1_epi32(255)));
    const __m512i pair[2] = {_mm512_broadcast_i32x4(_mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1)),
                             _mm512_broadcast_i32x4(_mm_setr_epi8(2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1))};
    UNROLL for (size_t i = 0; i < 4; i++) _mm512_store_si512(s->mn[i], _mm512_shuffle_epi8(mn[i / 2], pair[i % 2]));
}

ALWAYS void scales_q4_k(struct slab *s, const struct pieces *p)
{
    scales_45(s, p);
}
ALWAYS void weights_q4_k(struct slab *s, const struct pieces *p, size_t i, const enum place place, const unsigned step,
                         struct turn *t)
{
    (void)place;
    turn_step(t, p, 16 + 32 * i, 16, step);
    if (step < TURN_LOADS) return;
    UNROLL for (unsigned k = step - TURN_LOADS; k < 8; k += 4)
    {
        const __m512i v = turned(t, k);
        _mm512_store_si512(s->w[16 * i + k], _mm512_and_si512(v, bytes_of(15)));
        _mm512_store_si512(s->w[16 * i + k + 8], _mm512_and_si512(_mm512_srli_epi16(v, 4), bytes_of(15)));
    }
}

/* Bits that lie apart are turned before the first of the parts that need them, and kept where the weights of the last of
 * these will stand. */
ALWAYS void turn_apart(uint8_t (*w)[SLAB_ROWS][4], const struct pieces *p, size_t at, const unsigned step, struct turn *t)
{
    turn_step(t, p, at, 16, step);
    if (step < TURN_LOADS) return;
    UNROLL for (unsigned k = step - TURN_LOADS; k < 8; k += 4) _mm512_store_si512(w[k], turned(t, k));
}

ALWAYS void scales_q5_k(struct slab *s, const struct pieces *p)
{
    scales_45(s, p);
}
ALWAYS void weights_q5_k(struct slab *s, const struct pieces *p, size_t i, const enum place place, const unsigned step,
                         struct turn *t)
{
    (void)place;
    if (i == 0 && step == 0) UNROLL for (unsigned at = 0; at < TURN_STEPS; at++) turn_apart(s->w + 48, p, 16, at, t);
    turn_step(t, p, 48 + 32 * i, 16, step);
    if (step < TURN_LOADS) return;
    UNROLL for (unsigned k = step - TURN_LOADS; k < 8; k += 4)
    {
        const __m512i v = turned(t, k), m15 = bytes_of(15), m16 = bytes_of(16);
        const __m512i h = _mm512_srl_epi16(_mm512_load_si512(s->w[48 + k]), _mm_cvtsi64_si128(2 * (long long)i));
        /* (low & 15) | (fifth & 16) */
        _mm512_store_si512(s->w[16 * i + k],
                           _mm512_ternarylogic_epi64(_mm512_and_si512(v, m15), _mm512_slli_epi16(h, 4), m16, 0xf8));
        _mm512_store_si512(s->w[16 * i + k + 8], _mm512_ternarylogic_epi64(_mm512_and_si512(_mm512_srli_epi16(v, 4), m15),
                                                                           _mm512_slli_epi16(h, 3), m16, 0xf8));
    }
}

ALWAYS void scales_q6_k(struct slab *s, const struct pieces *p)
{
    uint16_t d[SLAB_ROWS];
    __m512i t[4];
    UNROLL for (size_t r = 0; r < SLAB_ROWS; r++) d[r] = load_u16(p->p[r] + 208);
    quads(p, 192, t);
    UNROLL for (unsigned i = 0; i < 16; i++)
        _mm512_store_si512(s->sc[i], _mm512_srai_epi32(_mm512_slli_epi32(t[i / 4], 24 - 8 * (i % 4)), 24));
    v_store(s->d[0], v_widen(_mm256_loadu_si256((const __m256i *)d), QTYPE_F16));
}
/* Of half i / 2 of the weights, quarters i % 2 and i % 2 + 2. */
ALWAYS void weights_q6_k(struct slab *s, const struct pieces *p, size_t i, const enum place place, const unsigned step,
                         struct turn *t)
{
    uint8_t(*const w)[SLAB_ROWS][4] = s->w + i / 2 * 32, (*const high)[SLAB_ROWS][4] = w + 8;
    const bool odd = place == ODD;
    const unsigned at = odd ? step : step - TURN_STEPS;
    if (!odd && step < TURN_STEPS) {
        turn_apart(high, p, 128 + i / 2 * 32, step, t);
        return;
    }
    turn_step(t, p, 32 * i, 16, at);
    if (at < TURN_LOADS) return;
    UNROLL for (unsigned k = at - TURN_LOADS; k < 8; k += 4)
    {
        const __m512i v = turned(t, k), h = _mm512_load_si512(high[k]);
        const __m512i h0 = _mm512_slli_epi16(h, odd ? 2 : 4), h2 = odd ? _mm512_srli_epi16(h, 2) : h;
        _mm512_store_si512(w[8 * odd + k], six_bits(v, h0));
        _mm512_store_si512(w[8 * odd + k + 16], six_bits(_mm512_srli_epi16(v, 4), h2));
    }
}

/* Scales of 6 bits less 32: four bits of each in a dword, the upper two of all in 16 bits. */
ALWAYS void scales_iq4_xs(struct slab *s, const struct pieces *p)
{
    uint16_t d[SLAB_ROWS], high[SLAB_ROWS];
    uint32_t low[SLAB_ROWS];
    UNROLL for (size_t r = 0; r < SLAB_ROWS; r++)
    {
        d[r] = load_u16(p->p[r]);
        high[r] = load_u16(p->p[r] + 2);
        low[r] = load_u32(p->p[r] + 4);
    }
    v_store(s->d[0], v_widen(_mm256_loadu_si256((const __m256i *)d), QTYPE_F16));
    const __m512i l = _mm512_loadu_si512(low);
    const __m512i h = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)high)), 4);
    const __m512i low4 = _mm512_set1_epi32(15), top2 = _mm512_set1_epi32(48);
    UNROLL for (unsigned i = 0; i < 8; i++)
    {
        /* (low & 15) | (high & 48) */
        const __m512i sc = _mm512_ternarylogic_epi64(_mm512_and_si512(_mm512_srli_epi32(l, 4 * i), low4),
                                                     _mm512_srli_epi32(h, 2 * i), top2, 0xf8);
        _mm512_store_si512(s->sc[i], _mm512_sub_epi32(sc, _mm512_set1_epi32(32)));
    }
}
/* Two subblocks of 16 bytes each. */
ALWAYS void weights_iq4_xs(struct slab *s, const struct pieces *p, size_t i, const enum place place, const unsigned step,
                           struct turn *t)
{
    (void)place;
    turn_step(t, p, 8 + 32 * i, 16, step);
    if (step < TURN_LOADS) return;
    UNROLL for (unsigned k = step - TURN_LOADS; k < 8; k += 4)
    {
        const __m512i v = turned(t, k), m15 = bytes_of(15);
        uint8_t(*const w)[SLAB_ROWS][4] = s->w + 16 * i + k / 4 * 8 + k % 4;
        _mm512_store_si512(w[0], look_up(iq4_levels, _mm512_and_si512(v, m15)));
        _mm512_store_si512(w[4], look_up(iq4_levels, _mm512_and_si512(_mm512_srli_epi16(v, 4), m15)));
    }
}

/* Scales of types of 32: blocks 2 i and 2 i + 1. */
ALWAYS void scales_32(struct slab *s, const struct pieces *p, size_t i, const size_t bytes, half_fn *const half,
                      const enum qtype d_type)
{
    UNROLL for (size_t b = 0; b < 2; b++)
    {
        uint16_t d[SLAB_ROWS];
        UNROLL for (size_t r = 0; r < SLAB_ROWS; r++) d[r] = half(p->p[r] + (2 * i + b) * bytes);
        v_store(s->d[2 * i + b], v_scales(_mm256_loadu_si256((const __m256i *)d), d_type));
    }
}
ALWAYS void scales_with_weights(struct slab *s, const struct pieces *p)
{
    (void)s, (void)p;
}
#define scales_q8_0 scales_with_weights
#define scales_q4_0 scales_with_weights
#define scales_iq4_nl scales_with_weights
#define scales_mxfp4 scales_with_weights

ALWAYS void weights_q8_0(struct slab *s, const struct pieces *p, size_t i, const enum place place, const unsigned step,
                         struct turn *t)
{
    const unsigned b = step / TURN_STEPS, at = step % TURN_STEPS;
    (void)place;
    if (step == 0) scales_32(s, p, i, 34, half_at_0, QTYPE_F16);
    turn_step(t, p, (2 * i + b) * 34 + 2, 16, at);
    if (at < TURN_LOADS) return;
    UNROLL for (unsigned k = at - TURN_LOADS; k < 8; k += 4)
        _mm512_store_si512(s->w[16 * i + 8 * b + k], _mm512_xor_si512(turned(t, k), bytes_of(-128)));
}

/* Two blocks of nibbles behind the scale; levels: what they stand for, or NULL. */
ALWAYS void weights_nibbles(struct slab *s, const struct pieces *p, size_t i, const unsigned step, struct turn *t,
                            const size_t bytes, const int8_t *levels)
{
    turn_step(t, p, 2 * i * bytes + bytes - 16, bytes, step);
    if (step < TURN_LOADS) return;
    UNROLL for (unsigned k = step - TURN_LOADS; k < 8; k += 4)
    {
        const __m512i v = turned(t, k), m15 = bytes_of(15);
        const __m512i low = _mm512_and_si512(v, m15), top = _mm512_and_si512(_mm512_srli_epi16(v, 4), m15);
        uint8_t(*const w)[SLAB_ROWS][4] = s->w + 16 * i + k / 4 * 8 + k % 4;
        _mm512_store_si512(w[0], levels ? look_up(levels, low) : low);
        _mm512_store_si512(w[4], levels ? look_up(levels, top) : top);
    }
}
#define NIBBLES(type, bytes, half, d_type, levels)                                                                            \
    ALWAYS void weights_##type(struct slab *s, const struct pieces *p, size_t i, const enum place place, const unsigned step, \
                               struct turn *t)                                                                                \
    {                                                                                                                         \
        (void)place;                                                                                                          \
        if (step == 0) scales_32(s, p, i, bytes, half, d_type);                                                               \
        weights_nibbles(s, p, i, step, t, bytes, levels);                                                                     \
    }
NIBBLES(q4_0, 18, half_at_0, QTYPE_F16, NULL)
NIBBLES(iq4_nl, 18, half_at_0, QTYPE_F16, iq4_levels)
NIBBLES(mxfp4, 17, exponent_at_0, QTYPE_MXFP4, fp4_levels)

#endif
