/* panel_avx512_tmpl: how panels are filled (mm_int_avx512.c has struct panel). A register of a panel has a dword of each of 16
 * rows: weights are transposed, 16 x 16 dwords at a time.
 *
 * The types of which most files are made are transposed as they lie and taken apart afterwards: half as many shuffles, and the
 * scales of 16 rows come apart together. All others become rows of bytes first (chunk_TYPE, stage_TYPE). */
#ifndef QUERN_PANEL_AVX512_TMPL_H
#define QUERN_PANEL_AVX512_TMPL_H

#include "kernel/x86/unpack_avx512.h"

/* ---- from rows of bytes ------------------------------------------------------------------------------------ */

/* Transposes 16 x 16 dwords; row i of the result goes to dst + i * PANEL_ROWS * 4. */
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
        _mm512_store_si512(dst + i * PANEL_ROWS * 4, _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88));
        _mm512_store_si512(dst + (i + 8) * PANEL_ROWS * 4, _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd));
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

/* Scales of 8 rows, staged, into a panel from row g on. */
ALWAYS void fill_scales(struct panel *panel, const struct stage *st, size_t g, const enum form form, const bool has_min,
                        const enum qtype d_type)
{
    for (size_t b = 0; b < (form == NO_SUBS ? 8 : 1); b++) {
        _mm256_store_ps(&panel->d[b][g], eight_scales(st->d16[b], st->d[b], d_type));
        if (has_min) _mm256_store_ps(&panel->m[b][g], eight_scales(st->m16[b], st->m[b], d_type));
    }
    for (size_t r = 0; r < GROUP; r++)
        for (size_t s = 0; s < SUBS(form); s++) {
            panel->sc[s][g + r] = scale_at(st, r, s, form);
            if (has_min) panel->mn[s / 2][g + r][s % 2] = min_at(st, r, s, form);
        }
}

ALWAYS void fill(struct panel *panel, const struct rows *w, size_t piece, size_t n_blocks, chunk_fn *const chunk,
                 stage_fn *const stage, const enum form form, const bool has_min, const enum qtype d_type)
{
    for (size_t g = 0; g < PANEL_ROWS; g += 2 * GROUP) {
        struct stage st[2];
        for (size_t h = 0; h < 2; h++) {
            stage(w, g + h * GROUP, piece, n_blocks, &st[h]);
            fill_scales(panel, &st[h], g + h * GROUP, form, has_min, d_type);
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
            store_transposed(u, panel->w[16 * i][g]);
        }
    }
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

/* 16 bytes of each row, `at` bytes into its piece: t[i] has their dword i of all rows. */
ALWAYS void quads(const struct pieces *s, const size_t at, __m512i t[4])
{
    __m512i q[4], u[4];
    UNROLL for (size_t i = 0; i < 4; i++)
    {
        const uint8_t *const four[4] = {s->p[i] + at, s->p[i + 4] + at, s->p[i + 8] + at, s->p[i + 12] + at};
        q[i] = headers(four);
    }
    UNROLL for (size_t i = 0; i < 4; i += 2)
    {
        u[i] = _mm512_unpacklo_epi32(q[i], q[i + 1]);     /* dwords 0 and 1 of two rows, */
        u[i + 1] = _mm512_unpackhi_epi32(q[i], q[i + 1]); /* 2 and 3 */
    }
    t[0] = _mm512_unpacklo_epi64(u[0], u[2]);
    t[1] = _mm512_unpackhi_epi64(u[0], u[2]);
    t[2] = _mm512_unpacklo_epi64(u[1], u[3]);
    t[3] = _mm512_unpackhi_epi64(u[1], u[3]);
}

/* f16 in the lower half of each dword. */
ALWAYS vec low_halves(__m512i v)
{
    return v_widen(_mm512_cvtepi32_epi16(v), QTYPE_F16);
}

/* Scales and minima of Q4_K and Q5_K (src/quant/kquants.c). The minimum of a subblock of 32 stands once, as those of the
 * panel's tiles are. */
ALWAYS void scales_45(struct panel *panel, const struct pieces *s, size_t g)
{
    __m512i t[4];
    const __m512i low6 = bytes_of(63), low4 = bytes_of(15), top2 = bytes_of(48);
    quads(s, 0, t);
    v_store(&panel->d[0][g], low_halves(t[0]));
    v_store(&panel->m[0][g], low_halves(_mm512_srli_epi32(t[0], 16)));
    /* (low & 15) | (high & 48) */
    const __m512i sc[2] = {
        _mm512_and_si512(t[1], low6),
        _mm512_ternarylogic_epi64(_mm512_and_si512(t[3], low4), _mm512_srli_epi16(t[1], 2), top2, 0xf8),
    };
    const __m512i mn[2] = {
        _mm512_and_si512(t[2], low6),
        _mm512_ternarylogic_epi64(_mm512_and_si512(_mm512_srli_epi16(t[3], 4), low4), _mm512_srli_epi16(t[2], 2), top2, 0xf8),
    };
    UNROLL for (unsigned i = 0; i < 8; i++) _mm512_store_si512(
        panel->sc[i] + g, _mm512_and_si512(_mm512_srli_epi32(sc[i / 4], 8 * (i % 4)), _mm512_set1_epi32(255)));
    const __m512i pair[2] = {_mm512_broadcast_i32x4(_mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1)),
                             _mm512_broadcast_i32x4(_mm_setr_epi8(2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1))};
    UNROLL for (size_t i = 0; i < 4; i++) _mm512_store_si512(panel->mn[i][g], _mm512_shuffle_epi8(mn[i / 2], pair[i % 2]));
}

static void fill_q4_k(struct panel *panel, const struct rows *w, size_t piece, size_t n_blocks)
{
    (void)n_blocks;
    for (size_t g = 0; g < PANEL_ROWS; g += 16) {
        const struct pieces s = pieces_at(w, g, piece * 144);
        scales_45(panel, &s, g);
        UNROLL for (size_t i = 0; i < 8; i++) /* halves of 32 bytes: two subblocks */
        {
            __m512i t[4];
            quads(&s, 16 + 16 * i, t);
            UNROLL for (size_t j = 0; j < 4; j++)
            {
                const size_t at = i / 2 * 16 + i % 2 * 4 + j;
                _mm512_store_si512(panel->w[at][g], _mm512_and_si512(t[j], bytes_of(15)));
                _mm512_store_si512(panel->w[at + 8][g], _mm512_and_si512(_mm512_srli_epi16(t[j], 4), bytes_of(15)));
            }
        }
    }
}

/* Bit i of each byte of v, as 16. */
ALWAYS __m512i fifth_bit(__m512i v, const unsigned i)
{
    return _mm512_and_si512(i < 4 ? _mm512_slli_epi32(v, 4 - i) : _mm512_srli_epi32(v, i - 4), bytes_of(16));
}

static void fill_q5_k(struct panel *panel, const struct rows *w, size_t piece, size_t n_blocks)
{
    (void)n_blocks;
    for (size_t g = 0; g < PANEL_ROWS; g += 16) {
        const struct pieces s = pieces_at(w, g, piece * 176);
        scales_45(panel, &s, g);
        UNROLL for (size_t half = 0; half < 2; half++)
        {
            __m512i t[4], high[4];
            quads(&s, 16 + 16 * half, high);
            UNROLL for (size_t i = 0; i < 4; i++)
            {
                quads(&s, 48 + 32 * i + 16 * half, t);
                UNROLL for (size_t j = 0; j < 4; j++)
                {
                    const size_t at = i * 16 + half * 4 + j;
                    const __m512i low = _mm512_and_si512(t[j], bytes_of(15));
                    const __m512i top = _mm512_and_si512(_mm512_srli_epi16(t[j], 4), bytes_of(15));
                    _mm512_store_si512(panel->w[at][g], _mm512_or_si512(low, fifth_bit(high[j], 2 * (unsigned)i)));
                    _mm512_store_si512(panel->w[at + 8][g], _mm512_or_si512(top, fifth_bit(high[j], 2 * (unsigned)i + 1)));
                }
            }
        }
    }
}

/* (low & 15) | (high & 48) */
ALWAYS __m512i six_bits(__m512i low, __m512i high)
{
    return _mm512_ternarylogic_epi64(_mm512_and_si512(low, bytes_of(15)), high, bytes_of(48), 0xf8);
}

static void fill_q6_k(struct panel *panel, const struct rows *w, size_t piece, size_t n_blocks)
{
    (void)n_blocks;
    for (size_t g = 0; g < PANEL_ROWS; g += 16) {
        const struct pieces s = pieces_at(w, g, piece * 210);
        __m512i t[4];
        quads(&s, 194, t); /* the last two bytes are d */
        v_store(&panel->d[0][g], low_halves(_mm512_srli_epi32(t[3], 16)));
        quads(&s, 192, t);
        UNROLL for (unsigned i = 0; i < 16; i++)
            _mm512_store_si512(panel->sc[i] + g, _mm512_srai_epi32(_mm512_slli_epi32(t[i / 4], 24 - 8 * (i % 4)), 24));
        UNROLL for (size_t i = 0; i < 4; i++) /* half i / 2 of the weights, half i % 2 of each of its quarters */
        {
            __m512i first[4], second[4], high[4];
            quads(&s, 64 * (i / 2) + 16 * (i % 2), first);
            quads(&s, 64 * (i / 2) + 16 * (i % 2) + 32, second);
            quads(&s, 128 + 16 * i, high);
            UNROLL for (size_t j = 0; j < 4; j++)
            {
                const size_t at = i / 2 * 32 + i % 2 * 4 + j;
                const __m512i low[4] = {first[j], second[j], _mm512_srli_epi16(first[j], 4), _mm512_srli_epi16(second[j], 4)};
                const __m512i top[4] = {_mm512_slli_epi16(high[j], 4), _mm512_slli_epi16(high[j], 2), high[j],
                                        _mm512_srli_epi16(high[j], 2)};
                UNROLL for (size_t q = 0; q < 4; q++) _mm512_store_si512(panel->w[at + 8 * q][g], six_bits(low[q], top[q]));
            }
        }
    }
}

#endif
