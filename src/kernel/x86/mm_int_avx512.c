/* mm_int: matrix products with integer weights on AVX-512 VNNI. int_tmpl.h has the plan and the loops outside, unpack_avx512.h
 * the types.
 *
 * Decode, types of 32: 8 weight rows by 2 blocks a step. vpdpbusd multiplies the unsigned weights of a row; a tree of adds
 * turns eight registers into the 8 sums of the first block and the 8 of the second.
 *
 * Decode, types of 256: vpmaddubsw makes sums of two products (u is at most 128, so they fit int16), vpdpwssd multiplies them
 * by the scale of their subblock and adds up; one tree for the 8 sums of a superblock. Where u is larger, vpdpbusd and vpmulld.
 *
 * Prefill: a register holds 4 weights of 16 rows, a tile is 32 x 4 outputs. Types of 32: 8 vpdpbusd for each block and
 * register, then scale, convert, fma. Types of 256: a vpmulld and an add for each subblock, floats once in 256.
 *
 * In between, where taking weights apart costs as much as multiplying them, both are done side by side (few_avx512_tmpl.h). */
#include "kernel/x86/avx512.h"
#include "kernel/x86/unpack_avx512.h"

enum {
    DIRECT_COLS = 8, /* activation rows of a decode step at most */
    PACK_MIN = 2,    /* activation rows from which panels pay */
    PANEL_ROWS = 32,
    SLAB_ROWS = 16,
    PACK_COLS = 8,
    TILE_COLS = 4,   /* half of what is packed together: sums and totals of 32 rows by more do not fit the registers */
    FEW_COLS = 48,   /* activation rows up to which slabs are filled beside products, */
    FEW_SUMS = 6144, /* if these hold their sums: for each PACK_COLS rows one for each 16 of their activations */
    STRIP = 768,     /* activation rows per panel, bounded by scratch */
};

/* 256 weights of SLAB_ROWS rows, taken apart: a register of w has a dword of each row. */
struct slab {
    uint8_t w[QSUPER / 4][SLAB_ROWS][4];
    float d[8][SLAB_ROWS], m[8][SLAB_ROWS]; /* types of 256: [0] */
    int32_t sc[16][SLAB_ROWS];              /* types of 256: of each subblock */
    int16_t mn[8][SLAB_ROWS][2];            /* of two subblocks each */
};
struct panel {
    struct slab half[2];
};
#include "kernel/x86/int_tmpl.h"
#include "kernel/x86/slab_avx512_tmpl.h"

/* ---- decode ---------------------------------------------------------------------------------------- */

/* Row sums: of registers t[0..7], lanes 0-7 are added up into lane 0..7 of the result, lanes 8-15 into lane 8..15. */
ALWAYS __m512i sum_rows(const __m512i t[GROUP])
{
    __m512i p[4], h[2];
    UNROLL for (int i = 0; i < 4; i++) p[i] =
        _mm512_add_epi32(_mm512_unpacklo_epi32(t[2 * i], t[2 * i + 1]), _mm512_unpackhi_epi32(t[2 * i], t[2 * i + 1]));
    UNROLL for (int i = 0; i < 2; i++) h[i] =
        _mm512_add_epi32(_mm512_unpacklo_epi64(p[2 * i], p[2 * i + 1]), _mm512_unpackhi_epi64(p[2 * i], p[2 * i + 1]));
    const __m512i even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    return _mm512_add_epi32(_mm512_permutex2var_epi64(h[0], even, h[1]), _mm512_permutex2var_epi64(h[0], odd, h[1]));
}

ALWAYS __m256i fold_halves(__m512i v)
{
    return _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
}

/* Sums of four products of y with 1, times -off: what a product of u with y must start from. */
ALWAYS __m512i start_four(__m512i y, const int off)
{
    return _mm512_mullo_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), bytes_of(1), y), _mm512_set1_epi32(-off));
}

/* Types of 32: blocks b and (where two) b + 1 of a piece of 8 rows, into acc and min. */
ALWAYS void step_32(__m256 *acc, __m256 *min, const struct stage *st, const struct mm *a, size_t block, size_t b, size_t n_cols,
                    const bool two, chunk_fn *const chunk, const int off, const bool has_min, const enum qtype d_type)
{
    const size_t n_blocks = a->k / ACT_BLOCK;
    __m512i u[GROUP];
    UNROLL for (int r = 0; r < GROUP; r++) u[r] = chunk(st->p[r], b / 2, two);
    const __m512 dw = scales_of(st->d16[b], st->d[b], d_type);
    for (size_t m = 0; m < n_cols; m++) {
        const int8_t *q = a->act.q + m * a->k + (block + b) * ACT_BLOCK;
        const float *d = a->act.d + m * n_blocks + block + b;
        const int16_t *s = a->act.s + m * n_blocks + block + b;
        const __m512i y = two ? _mm512_loadu_si512(q) : _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)q));
        const __m512 dx = _mm512_mask_broadcastss_ps(_mm512_set1_ps(d[0]), 0xff00, _mm_set_ss(two ? d[1] : 0.0f));
        const __m512i start = off ? start_four(y, off) : _mm512_setzero_si512();
        __m512i t[GROUP];
        UNROLL for (int r = 0; r < GROUP; r++) t[r] = _mm512_dpbusd_epi32(start, u[r], y);
        const __m512 scale = _mm512_mul_ps(dw, dx), value = _mm512_cvtepi32_ps(sum_rows(t));
        acc[m] = _mm256_fmadd_ps(_mm512_castps512_ps256(scale), _mm512_castps512_ps256(value), acc[m]);
        if (two) acc[m] = _mm256_fmadd_ps(_mm512_extractf32x8_ps(scale, 1), _mm512_extractf32x8_ps(value, 1), acc[m]);
        if (!has_min) continue;
        const __m512 least = _mm512_mul_ps(scales_of(st->m16[b], st->m[b], d_type), dx);
        min[m] = _mm256_fmadd_ps(_mm512_castps512_ps256(least), _mm256_set1_ps((float)s[0]), min[m]);
        if (two) min[m] = _mm256_fmadd_ps(_mm512_extractf32x8_ps(least, 1), _mm256_set1_ps((float)s[1]), min[m]);
    }
}

ALWAYS void piece_32(__m256 *acc, __m256 *min, const struct stage *st, const struct mm *a, size_t piece, size_t n_blocks,
                     size_t n_cols, chunk_fn *const chunk, const int off, const bool has_min, const enum qtype d_type)
{
    size_t b = 0;
    for (; b + 2 <= n_blocks; b += 2) step_32(acc, min, st, a, 8 * piece, b, n_cols, true, chunk, off, has_min, d_type);
    if (b < n_blocks) step_32(acc, min, st, a, 8 * piece, b, n_cols, false, chunk, off, has_min, d_type);
}

/* An index for vpshufb: the 16-bit lanes of each quarter q take byte (or, where pairs, bytes 2 n and 2 n + 1) n = at[q]. */
ALWAYS __m512i quarter_index(const int at0, const int at1, const int at2, const int at3, const bool pairs)
{
    const int base = pairs ? 0x0100 : 0x8000, unit = pairs ? 0x0202 : 0x0001;
    __m512i v = _mm512_castsi128_si512(_mm_set1_epi16((short)(base + unit * at0)));
    v = _mm512_inserti32x4(v, _mm_set1_epi16((short)(base + unit * at1)), 1);
    v = _mm512_inserti32x4(v, _mm_set1_epi16((short)(base + unit * at2)), 2);
    return _mm512_inserti32x4(v, _mm_set1_epi16((short)(base + unit * at3)), 3);
}

/* The scales of the subblocks of chunk i of row r, one for each int16 lane (int32, where WIDE32). */
ALWAYS __m512i lane_scales(const struct stage *st, const int r, const size_t i, const enum form form)
{
    const int at = (int)(form == SUB16 ? 4 * i % 8 : 2 * i);
    if (form == WIDE32) {
        const __m512i index = _mm512_inserti64x4(_mm512_set1_epi32(at), _mm256_set1_epi32(at + 1), 1);
        return _mm512_permutexvar_epi32(index, _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)st->wide[r])));
    }
    const void *from = form == SUB16 ? (const void *)(st->sc[r] + i / 2 * 8) : st->bytes[r];
    const __m512i sc = _mm512_broadcast_i32x4(_mm_loadu_si128(from));
    return _mm512_shuffle_epi8(sc, form == SUB16 ? quarter_index(at, at + 1, at + 2, at + 3, true)
                                                 : quarter_index(at, at, at + 1, at + 1, false));
}

/* Sums over the subblocks of 8 rows of mn times the sum of q. */
ALWAYS __m256i min_sums(const struct stage *st, const int16_t *s, const enum form form)
{
    const __m256i s16 = _mm256_loadu_si256((const __m256i *)s);
    if (form == SUB16) {
        __m512i t[GROUP];
        UNROLL for (int i = 0; i < GROUP; i++) t[i] =
            _mm512_zextsi256_si512(_mm256_madd_epi16(_mm256_loadu_si256((const __m256i *)st->mn[i]), s16));
        return _mm512_castsi512_si256(sum_rows(t));
    }
    /* Four rows a register: their minima are the upper 8 bytes of each quarter. */
    const __m512i y = _mm512_broadcast_i32x4(_mm256_cvtepi32_epi16(_mm256_madd_epi16(s16, _mm256_set1_epi16(1))));
    const __m512i none = _mm512_setzero_si512();
    const __m512i a = _mm512_madd_epi16(_mm512_unpackhi_epi8(_mm512_loadu_si512(st->bytes[0]), none), y);
    const __m512i b = _mm512_madd_epi16(_mm512_unpackhi_epi8(_mm512_loadu_si512(st->bytes[4]), none), y);
    __m512i t = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)); /* a0+a2 b0+b2 a1+a3 b1+b3 */
    t = _mm512_add_epi32(t, _mm512_shuffle_epi32(t, 0x4e));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, t));
}

/* The products of chunk u with y, of which less is what an offset adds to each lane before the scales: sums of two products in
 * int16, or where WIDE32 of four in int32 (and then less is what they start from). */
ALWAYS __m512i add_chunk(__m512i sum, __m512i u, __m512i y, __m512i less, __m512i sc, const int off, const enum form form)
{
    if (form == WIDE32) return _mm512_add_epi32(sum, _mm512_mullo_epi32(_mm512_dpbusd_epi32(less, u, y), sc));
    const __m512i p = _mm512_maddubs_epi16(u, y);
    return _mm512_dpwssd_epi32(sum, off ? _mm512_sub_epi16(p, less) : p, sc);
}
ALWAYS __m512i less_of(__m512i y, const int off, const enum form form)
{
    return form == WIDE32 ? start_four(y, off) : _mm512_maddubs_epi16(bytes_of(off), y);
}

/* Types of 256: one superblock of 8 rows. */
ALWAYS void piece_256(__m256 *acc, __m256 *min, const struct stage *st, const struct mm *a, size_t piece, size_t n_cols,
                      chunk_fn *const chunk, const int off, const bool has_min, const enum form form, const enum qtype d_type)
{
    __m512i t[DIRECT_COLS][GROUP], less[DIRECT_COLS][4];
    for (size_t m = 0; m < n_cols && off; m++)
        UNROLL for (size_t i = 0; i < 4; i++) less[m][i] =
            less_of(_mm512_loadu_si512(a->act.q + m * a->k + piece * QSUPER + 64 * i), off, form);
    UNROLL for (int r = 0; r < GROUP; r++)
    {
        __m512i u[4], sc[4];
        UNROLL for (size_t i = 0; i < 4; i++)
        {
            u[i] = chunk(st->p[r], i, true);
            sc[i] = lane_scales(st, r, i, form);
        }
        for (size_t m = 0; m < n_cols; m++) {
            const int8_t *q = a->act.q + m * a->k + piece * QSUPER;
            __m512i sum = _mm512_setzero_si512();
            UNROLL for (size_t i = 0; i < 4; i++) sum =
                add_chunk(sum, u[i], _mm512_loadu_si512(q + 64 * i), off ? less[m][i] : sum, sc[i], off, form);
            t[m][r] = sum;
        }
    }
    const __m256 dw = eight_scales(st->d16[0], st->d[0], d_type), mw = eight_scales(st->m16[0], st->m[0], d_type);
    for (size_t m = 0; m < n_cols; m++) {
        const __m256 dx = _mm256_set1_ps(a->act.d[m * (a->k / QSUPER) + piece]);
        acc[m] = _mm256_fmadd_ps(_mm256_mul_ps(dw, dx), _mm256_cvtepi32_ps(fold_halves(sum_rows(t[m]))), acc[m]);
        if (!has_min) continue;
        const __m256i least = min_sums(st, a->act.s + m * (a->k / QSUB) + piece * 16, form);
        min[m] = _mm256_fmadd_ps(_mm256_mul_ps(mw, dx), _mm256_cvtepi32_ps(least), min[m]);
    }
}

/* ---- tiles ----------------------------------------------------------------------------------------- */

/* sum[c][h] += 4 * n weights of the panel's rows, from dword i on, times those of nc activation rows. */
ALWAYS void multiply(__m512i sum[TILE_COLS][2], const struct panel *p, size_t i, const int8_t *y, const unsigned n,
                     const unsigned nc)
{
    UNROLL for (unsigned j = 0; j < n; j++)
    {
        const __m512i w0 = _mm512_load_si512(p->half[0].w[i + j]), w1 = _mm512_load_si512(p->half[1].w[i + j]);
        UNROLL for (unsigned c = 0; c < nc; c++)
        {
            const __m512i q = _mm512_set1_epi32((int)load_u32(y + ((i + j) * PACK_COLS + c) * 4));
            sum[c][0] = _mm512_dpbusd_epi32(sum[c][0], w0, q);
            sum[c][1] = _mm512_dpbusd_epi32(sum[c][1], w1, q);
        }
    }
}

/* acc = fma(d * dx, value, acc) in 32 lanes. */
ALWAYS void chain(float *acc, const float *d0, const float *d1, __m512 dx, const __m512i value[2])
{
    UNROLL for (int h = 0; h < 2; h++)
        v_store(acc + 16 * h, v_fma(v_mul(v_load(h ? d1 : d0), dx), _mm512_cvtepi32_ps(value[h]), v_load(acc + 16 * h)));
}

ALWAYS void tile_32(const struct tile *t, const unsigned nc, const bool has_min)
{
    int32_t start[TILE_COLS][8]; /* of the sums: -off * sum of q */
    __m512 acc[TILE_COLS][2];
    UNROLL for (unsigned c = 0; c < nc; c++)
    {
        const __m128i s = _mm_maskz_loadu_epi16((__mmask8)lanes(t->n_blocks), t->s + c * t->s_row);
        _mm256_storeu_si256((__m256i *)start[c], _mm256_mullo_epi32(_mm256_cvtepi16_epi32(s), _mm256_set1_epi32(-t->off)));
        UNROLL for (int h = 0; h < 2; h++) acc[c][h] = v_load(t->acc[c] + 16 * h);
    }
    for (size_t b = 0; b < t->n_blocks; b++) {
        __m512i sum[TILE_COLS][2];
        fetch_next(t, b, 8);
        UNROLL for (unsigned c = 0; c < nc; c++) sum[c][0] = sum[c][1] = _mm512_set1_epi32(start[c][b]);
        multiply(sum, t->panel, 8 * b, t->y, 8, nc);
        UNROLL for (int h = 0; h < 2; h++)
        {
            const __m512 dw = v_load(t->panel->half[h].d[b]);
            UNROLL for (unsigned c = 0; c < nc; c++) acc[c][h] =
                v_fma(v_mul(dw, v_set1(t->d[c * t->d_row + b])), _mm512_cvtepi32_ps(sum[c][h]), acc[c][h]);
        }
    }
    UNROLL for (unsigned c = 0; c < nc; c++) UNROLL for (int h = 0; h < 2; h++) v_store(t->acc[c] + 16 * h, acc[c][h]);
    if (!has_min) return;
    UNROLL for (unsigned c = 0; c < nc; c++) UNROLL for (int h = 0; h < 2; h++) acc[c][h] = v_load(t->min[c] + 16 * h);
    for (size_t b = 0; b < t->n_blocks; b++) UNROLL for (int h = 0; h < 2; h++)
        {
            const __m512 mw = v_load(t->panel->half[h].m[b]);
            UNROLL for (unsigned c = 0; c < nc; c++) acc[c][h] =
                v_fma(v_mul(mw, v_set1(t->d[c * t->d_row + b])), v_set1((float)t->s[c * t->s_row + b]), acc[c][h]);
        }
    UNROLL for (unsigned c = 0; c < nc; c++) UNROLL for (int h = 0; h < 2; h++) v_store(t->min[c] + 16 * h, acc[c][h]);
}

/* The sums of q of each subblock. */
ALWAYS __m512i sums_of(const int16_t *s, const size_t subs)
{
    const __m256i s16 = _mm256_loadu_si256((const __m256i *)s);
    return subs == 16 ? _mm512_cvtepi16_epi32(s16) : _mm512_zextsi256_si512(_mm256_madd_epi16(s16, _mm256_set1_epi16(1)));
}

/* The minima of a tile: they are few, and done before the products, whose start waits for nothing of them. */
ALWAYS void tile_minima(const struct tile *t, const unsigned nc, const size_t subs)
{
    int16_t pairs[TILE_COLS][16]; /* sums of q of each subblock */
    __m512i total[TILE_COLS][2];
    UNROLL for (unsigned c = 0; c < nc; c++)
    {
        _mm256_storeu_si256((__m256i *)pairs[c], _mm512_cvtepi32_epi16(sums_of(t->s + c * t->s_row, subs)));
        total[c][0] = total[c][1] = _mm512_setzero_si512();
    }
    for (size_t s = 0; s < subs / 2; s++) UNROLL for (int h = 0; h < 2; h++)
        {
            const __m512i mn = _mm512_load_si512(t->panel->half[h].mn[s]);
            UNROLL for (unsigned c = 0; c < nc; c++) total[c][h] =
                _mm512_dpwssd_epi32(total[c][h], mn, _mm512_set1_epi32((int)load_u32(pairs[c] + 2 * s)));
        }
    UNROLL for (unsigned c = 0; c < nc; c++)
        chain(t->min[c], t->panel->half[0].m[0], t->panel->half[1].m[0], v_set1(t->d[c * t->d_row]), total[c]);
}

/* A type with minima has no offset. */
ALWAYS void tile_256(const struct tile *t, const unsigned nc, const bool has_min, const size_t subs)
{
    int32_t start[TILE_COLS][16]; /* of the sums of a subblock: -off * sum of q */
    __m512i total[TILE_COLS][2];
    if (has_min) tile_minima(t, nc, subs);
    UNROLL for (unsigned c = 0; c < nc; c++)
    {
        const __m512i sums = sums_of(t->s + c * t->s_row, subs);
        if (!has_min) _mm512_storeu_si512(start[c], _mm512_mullo_epi32(sums, _mm512_set1_epi32(-t->off)));
        total[c][0] = total[c][1] = _mm512_setzero_si512();
    }
    for (size_t s = 0; s < subs; s++) {
        __m512i sum[TILE_COLS][2];
        fetch_next(t, s, subs);
        UNROLL for (unsigned c = 0; c < nc; c++) sum[c][0] = sum[c][1] =
            has_min ? _mm512_setzero_si512() : _mm512_set1_epi32(start[c][s]);
        const unsigned n = 64 / (unsigned)subs;
        multiply(sum, t->panel, s * n, t->y, n, nc);
        UNROLL for (int h = 0; h < 2; h++)
        {
            const __m512i sc = _mm512_load_si512(t->panel->half[h].sc[s]);
            UNROLL for (unsigned c = 0; c < nc; c++) total[c][h] =
                _mm512_add_epi32(total[c][h], _mm512_mullo_epi32(sum[c][h], sc));
        }
    }
    UNROLL for (unsigned c = 0; c < nc; c++)
        chain(t->acc[c], t->panel->half[0].d[0], t->panel->half[1].d[0], v_set1(t->d[c * t->d_row]), total[c]);
}

#include "kernel/x86/few_avx512_tmpl.h"

/* ---- the types -------------------------------------------------------------------------------------- */

/* Up to 8 weight rows by n_cols activation rows of a. The scales of a piece are staged while the one before is multiplied. */
ALWAYS void group(const struct rows *w, size_t n_cols, chunk_fn *const chunk, stage_fn *const stage, const size_t bytes,
                  const int off, const bool has_min, const enum form form, const enum qtype d_type)
{
    const struct mm *a = w->a;
    const size_t n_pieces = (a->k + QSUPER - 1) / QSUPER;
    struct stage st[2];
    __m256 acc[DIRECT_COLS], min[DIRECT_COLS];
    for (size_t m = 0; m < n_cols; m++) acc[m] = min[m] = _mm256_setzero_ps();
    stage(w, 0, 0, size_min(a->k, QSUPER) / ACT_BLOCK, &st[0]);
    for (size_t piece = 0; piece < n_pieces; piece++) {
        const size_t left = a->k - piece * QSUPER;
        const struct stage *now = &st[piece % 2];
        fetch_group(w, piece, bytes);
        if (left > QSUPER) stage(w, 0, piece + 1, size_min(left - QSUPER, QSUPER) / ACT_BLOCK, &st[(piece + 1) % 2]);
        if (form == NO_SUBS)
            piece_32(acc, min, now, a, piece, size_min(left, QSUPER) / ACT_BLOCK, n_cols, chunk, off, has_min, d_type);
        else
            piece_256(acc, min, now, a, piece, n_cols, chunk, off, has_min, form, d_type);
    }
    for (size_t m = 0; m < n_cols; m++) {
        if (has_min) acc[m] = form == NO_SUBS ? _mm256_add_ps(acc[m], min[m]) : _mm256_sub_ps(acc[m], min[m]);
        _mm256_mask_storeu_ps(a->dst + m * a->dst_stride + w->r, (__mmask8)lanes(w->n), acc[m]);
    }
}

/* Tiles serve all types of a form that have a minimum, or all that have none. */
#define TILE(tag, nc, BODY)                             \
    static void tile_##tag##_##nc(const struct tile *t) \
    {                                                   \
        BODY;                                           \
    }
#define TILES(tag, BODY)  \
    TILE(tag, 1, BODY(1)) \
    TILE(tag, 2, BODY(2)) \
    TILE(tag, 3, BODY(3)) \
    TILE(tag, 4, BODY(4)) \
    static tile_fn *const tiles_##tag[TILE_COLS] = {tile_##tag##_1, tile_##tag##_2, tile_##tag##_3, tile_##tag##_4};
#define BODY_32(nc) tile_32(t, nc, false)
#define BODY_32_MIN(nc) tile_32(t, nc, true)
#define BODY_SUB32(nc) tile_256(t, nc, false, 8)
#define BODY_SUB32_MIN(nc) tile_256(t, nc, true, 8)
#define BODY_SUB16(nc) tile_256(t, nc, false, 16)
#define BODY_SUB16_MIN(nc) tile_256(t, nc, true, 16)
TILES(32, BODY_32)
TILES(32_min, BODY_32_MIN)
TILES(sub32, BODY_SUB32)
TILES(sub32_min, BODY_SUB32_MIN)
TILES(sub16, BODY_SUB16)
TILES(sub16_min, BODY_SUB16_MIN)

static tile_fn *const *tiles_of(enum qtype type, enum form form)
{
    const bool has_min = qtypes[type].has_min;
    if (form == NO_SUBS) return has_min ? tiles_32_min : tiles_32;
    if (form == SUB16) return has_min ? tiles_sub16_min : tiles_sub16;
    return has_min ? tiles_sub32_min : tiles_sub32;
}

#define FROM_TWO(F, ...) \
    F(2, __VA_ARGS__)    \
    F(3, __VA_ARGS__) F(4, __VA_ARGS__) F(5, __VA_ARGS__) F(6, __VA_ARGS__) F(7, __VA_ARGS__) F(8, __VA_ARGS__)
#define FROM_ONE(F, ...) F(1, __VA_ARGS__) FROM_TWO(F, __VA_ARGS__)
#define SLAB(nc, tag, form, has_min)                                    \
    static void slab_##tag##_##nc(const struct slab_tile *t)            \
    {                                                                   \
        slab_cols(t, nc, form, has_min, NULL, ONE_TURN, NULL, NULL, 0); \
    }
#define SLAB_NAME(nc, tag) slab_##tag##_##nc,
#define SLABS(tag, form, has_min)      \
    FROM_ONE(SLAB, tag, form, has_min) \
    static slab_fn *const slabs_##tag[PACK_COLS] = {FROM_ONE(SLAB_NAME, tag)};
SLABS(32, NO_SUBS, false)
SLABS(sub32, SUB32, false)
SLABS(sub32_min, SUB32, true)
SLABS(sub16, SUB16, false)

ALWAYS slab_fn *const *slabs_of(const enum form form, const bool has_min)
{
    if (form == NO_SUBS) return slabs_32;
    if (form == SUB16) return slabs_sub16;
    return has_min ? slabs_sub32_min : slabs_sub32;
}

/* A type whose blocks are read by chunk and stage. bytes: of 256 weights. Its functions know it as w->a->type. */
#define PRODUCT(tag, chunk, stage, bytes, off, has_min, form, d_type)       \
    static void one_##tag(const struct rows *w, size_t n_cols)              \
    {                                                                       \
        (void)n_cols;                                                       \
        group(w, 1, chunk, stage, bytes, off, has_min, form, d_type);       \
    }                                                                       \
    static void several_##tag(const struct rows *w, size_t n_cols)          \
    {                                                                       \
        group(w, n_cols, chunk, stage, bytes, off, has_min, form, d_type);  \
    }                                                                       \
    static void mm_##tag##_avx512(const struct mm *a, size_t r0, size_t r1) \
    {                                                                       \
        if (!a->act.packed)                                                 \
            mm_direct(a, r0, r1, one_##tag, several_##tag);                 \
        else if (!few_##tag(a, r0, r1))                                     \
            mm_panels(a, r0, r1, fill_##tag, tiles_of(a->type, form));      \
    }

/* How slabs of a type are filled (slab_avx512_tmpl.h): CHUNKS, from rows of bytes; else transposed as they lie, which is fast
 * enough to do it beside the products of few activation rows. Rows of types of 32 may end within a piece, which turns do not:
 * their panels are filled from chunks. */
#define FILL_CHUNKS(tag, chunk, stage, bytes, form, has_min, d_type)                                 \
    static void fill_##tag(struct panel *panel, const struct rows *w, size_t piece, size_t n_blocks) \
    {                                                                                                \
        fill_from_chunks(panel, w, piece, n_blocks, chunk, stage, form, has_min, d_type);            \
    }                                                                                                \
    static bool few_##tag(const struct mm *a, size_t r0, size_t r1)                                  \
    {                                                                                                \
        (void)a, (void)r0, (void)r1;                                                                 \
        return false;                                                                                \
    }
#define FEW(nc, tag, bytes, form, has_min, turns)                                                                   \
    static void few_##tag##_##nc(const struct mm *a, size_t r0, size_t r1)                                          \
    {                                                                                                               \
        few_rows(a, r0, r1, nc, slabs_of(form, has_min), turns, scales_##tag, weights_##tag, bytes, form, has_min); \
    }
#define FEW_NAME(nc, tag) few_##tag##_##nc,
#define FILL_SLABS(tag, chunk, stage, bytes, form, has_min, d_type, turns)                           \
    static void fill_##tag(struct panel *panel, const struct rows *w, size_t piece, size_t n_blocks) \
    {                                                                                                \
        if (form == NO_SUBS)                                                                         \
            fill_from_chunks(panel, w, piece, n_blocks, chunk, stage, form, has_min, d_type);        \
        else                                                                                         \
            fill_from_turns(panel, w, piece, turns, scales_##tag, weights_##tag, bytes);             \
    }                                                                                                \
    FROM_TWO(FEW, tag, bytes, form, has_min, turns)                                                  \
    static bool few_##tag(const struct mm *a, size_t r0, size_t r1)                                  \
    {                                                                                                \
        static few_fn *const first[PACK_COLS - 1] = {FROM_TWO(FEW_NAME, tag)};                       \
        const bool pays = is_few(a);                                                                 \
        if (pays) first[size_min(a->n_rows, PACK_COLS) - PACK_MIN](a, r0, r1);                       \
        return pays;                                                                                 \
    }
#define FILL_ONE_TURN(...) FILL_SLABS(__VA_ARGS__, ONE_TURN)
#define FILL_TWO_TURNS(...) FILL_SLABS(__VA_ARGS__, TWO_TURNS)
#define FILL_THREE_IN_TWO(...) FILL_SLABS(__VA_ARGS__, THREE_IN_TWO)
#define HOT(TYPE, tag, bytes, off, has_min, form, d_type, FILL)              \
    FILL_##FILL(tag, chunk_##tag, stage_##tag, bytes, form, has_min, d_type) \
        PRODUCT(tag, chunk_##tag, stage_##tag, bytes, off, has_min, form, d_type)
#define ANY(tag, form)                                                                                       \
    FILL_CHUNKS(tag, chunk_any, stage_any, 0, form, qtypes[w->a->type].has_min, QTYPE_F32)                   \
    PRODUCT(tag, chunk_any, stage_any, QSUPER / qtypes[w->a->type].block_n * qtypes[w->a->type].block_bytes, \
            qtypes[w->a->type].off, qtypes[w->a->type].has_min, form, QTYPE_F32)

/* X(TYPE, tag, bytes of 256 weights, off, has_min, form, type of d and m, how panels are filled) */
#define HOT_TYPES(X)                                                 \
    X(Q8_0, q8_0, 272, 128, false, NO_SUBS, QTYPE_F16, TWO_TURNS)    \
    X(Q4_0, q4_0, 144, 8, false, NO_SUBS, QTYPE_F16, ONE_TURN)       \
    X(Q4_1, q4_1, 160, 0, true, NO_SUBS, QTYPE_F16, CHUNKS)          \
    X(Q5_0, q5_0, 176, 16, false, NO_SUBS, QTYPE_F16, CHUNKS)        \
    X(Q5_1, q5_1, 192, 0, true, NO_SUBS, QTYPE_F16, CHUNKS)          \
    X(IQ4_NL, iq4_nl, 144, 128, false, NO_SUBS, QTYPE_F16, ONE_TURN) \
    X(MXFP4, mxfp4, 136, 12, false, NO_SUBS, QTYPE_MXFP4, ONE_TURN)  \
    X(Q2_K, q2_k, 84, 0, true, SUB16, QTYPE_F16, CHUNKS)             \
    X(Q3_K, q3_k, 110, 4, false, SUB16, QTYPE_F16, CHUNKS)           \
    X(Q4_K, q4_k, 144, 0, true, SUB32, QTYPE_F16, ONE_TURN)          \
    X(Q5_K, q5_k, 176, 0, true, SUB32, QTYPE_F16, ONE_TURN)          \
    X(Q6_K, q6_k, 210, 32, false, SUB16, QTYPE_F16, THREE_IN_TWO)    \
    X(IQ4_XS, iq4_xs, 136, 128, false, WIDE32, QTYPE_F16, ONE_TURN)
HOT_TYPES(HOT)
ANY(any_32, NO_SUBS)
ANY(any_256, SUB16)

void mm_int_init_avx512(struct kernels *k)
{
    for (size_t t = 0; t < QTYPE_COUNT; t++) {
        if (qtypes[t].arith == ARITH_32) k->mm[t] = mm_any_32_avx512;
        if (qtypes[t].arith == ARITH_256) k->mm[t] = mm_any_256_avx512;
    }
#define SET(TYPE, tag, bytes, off, has_min, form, d_type, FILL) k->mm[QTYPE_##TYPE] = mm_##tag##_avx512;
    HOT_TYPES(SET)
#undef SET
    k->pack_cols = PACK_COLS;
    k->pack_min = PACK_MIN;
    k->pack_act = pack_act;
}
