/* unpack_avx512: how the blocks of each type become registers. For every type two inline functions:
 *
 *   chunk_TYPE   weights 64 i .. 64 i + 63 of a piece of 256 (struct qblock's u, in order); p is where the piece's blocks lie
 *   stage_TYPE   where the blocks of GROUP rows lie, and their scales, for one piece
 *
 * Scales are staged a piece ahead of their use: what is stored byte by byte is read as a vector when it has reached the cache.
 * Layouts: src/quant. Types without functions of their own are taken apart by struct qtype_info (chunk_any, stage_any). */
#ifndef QUERN_UNPACK_AVX512_H
#define QUERN_UNPACK_AVX512_H

#include "kernel/x86/vec_avx512.h"

#include "kernel/x86/int_rows_tmpl.h"

enum { GROUP = 8 }; /* rows that are staged, and in decode multiplied, together */

/* How the integer scales of types of 256 are staged. */
enum form {
    NO_SUBS, /* types of 32 have none */
    SUB16,   /* sc, mn: int16 for each 16 weights */
    SUB32,   /* bytes: 8 scales, then 8 minima, for 32 weights each */
    WIDE32,  /* wide: int32 for each 32; u may exceed 128 */
};

/* One piece (256 weights) of GROUP rows. */
struct stage {
    const uint8_t *p[GROUP];
    /* Scales and minima: types of 32: of each block; types of 256: [0]. As 16-bit floats, or (stage_any) as floats. */
    uint16_t d16[8][GROUP], m16[8][GROUP];
    float d[8][GROUP], m[8][GROUP];
    union {
        struct {
            int16_t sc[GROUP][16], mn[GROUP][16];
        };
        uint8_t bytes[GROUP][16];
        int32_t wide[GROUP][8];
    };
    uint8_t u[GROUP][QSUPER]; /* of stage_any */
};

/* 8 scales, or 16 of two blocks, of a type d_type: F16, MXFP4 (exponents), or F32 for those of stage_any. */
ALWAYS __m512 scales_of(const uint16_t *half, const float *full, const enum qtype d_type)
{
    return d_type == QTYPE_F32 ? _mm512_loadu_ps(full) : v_scales(_mm256_loadu_si256((const __m256i *)half), d_type);
}
ALWAYS __m256 eight_scales(const uint16_t *half, const float *full, const enum qtype d_type)
{
    if (d_type == QTYPE_F32) return _mm256_loadu_ps(full);
    const __m128i h = _mm_loadu_si128((const __m128i *)half);
    return d_type == QTYPE_F16 ? _mm256_cvtph_ps(h) : _mm512_castps512_ps256(v_scales(_mm256_castsi128_si256(h), d_type));
}

typedef void stage_fn(const struct rows *w, size_t from, size_t piece, size_t n_blocks, struct stage *st);
typedef __m512i chunk_fn(const uint8_t *p, const size_t i, const bool two);

/* ---- pieces of registers -------------------------------------------------------------------------------- */

ALWAYS __m512i bytes_of(int v)
{
    return _mm512_set1_epi8((char)v);
}

/* 32 bytes in both halves. */
ALWAYS __m512i both_halves(const uint8_t *p)
{
    return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)p));
}

/* 16 bytes at p in the first two quarters, 16 at q (or nothing) in the others. */
ALWAYS __m512i quarters(const uint8_t *p, const uint8_t *q, const bool two)
{
    __m512i v = _mm512_zextsi256_si512(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p)));
    return two ? _mm512_inserti64x4(v, _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)q)), 1) : v;
}

/* Each half or quarter of v shifted right by its own number of bits; what crosses a byte is for the caller to mask. */
ALWAYS __m512i shift_halves(__m512i v, const int low, const int high)
{
    return _mm512_srlv_epi16(v, _mm512_inserti64x4(_mm512_set1_epi16((short)low), _mm256_set1_epi16((short)high), 1));
}
ALWAYS __m512i nibbles(__m512i v)
{
    const __m256i by = _mm256_setr_m128i(_mm_setzero_si128(), _mm_set1_epi16(4));
    return _mm512_and_si512(_mm512_srlv_epi16(v, _mm512_broadcast_i64x4(by)), bytes_of(15));
}

/* u with `bit` set where the byte of v has the bit `low` (first half) or `high`. */
ALWAYS __m512i set_where(__m512i u, __m512i v, const int low, const int high, const int bit)
{
    const __m512i mask = _mm512_inserti64x4(bytes_of(1 << low), _mm256_set1_epi8((char)(1 << high)), 1);
    return _mm512_mask_blend_epi8(_mm512_test_epi8_mask(v, mask), u, _mm512_or_si512(u, bytes_of(bit)));
}

ALWAYS __m512i look_up(const int8_t table[16], __m512i index)
{
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table)), index);
}

/* ---- types of 32 -------------------------------------------------------------------------------------------- */

/* The scales are collected as 16-bit integers, which keeps them off the vector units. */
ALWAYS void stage_32(const struct rows *w, size_t from, size_t piece, size_t n_blocks, struct stage *st, const size_t bytes,
                     half_fn *const d, const bool has_min)
{
    for (size_t i = 0; i < GROUP; i++) {
        const uint8_t *p = st->p[i] = row_at(w, from + i).data + piece * 8 * bytes;
        if (n_blocks == 8) {
            UNROLL for (size_t b = 0; b < 8; b++) st->d16[b][i] = d(p + b * bytes);
            UNROLL for (size_t b = 0; b < 8 && has_min; b++) st->m16[b][i] = load_u16(p + b * bytes + 2);
        } else {
            for (size_t b = 0; b < n_blocks; b++) st->d16[b][i] = d(p + b * bytes);
            for (size_t b = 0; b < n_blocks && has_min; b++) st->m16[b][i] = load_u16(p + b * bytes + 2);
        }
    }
}
#define STAGE_32(type, bytes, d, has_min)                                                                        \
    ALWAYS void stage_##type(const struct rows *w, size_t from, size_t piece, size_t n_blocks, struct stage *st) \
    {                                                                                                            \
        stage_32(w, from, piece, n_blocks, st, bytes, d, has_min);                                               \
    }
STAGE_32(q8_0, 34, half_at_0, false)
STAGE_32(q4_0, 18, half_at_0, false)
STAGE_32(q4_1, 20, half_at_0, true)
STAGE_32(q5_0, 22, half_at_0, false)
STAGE_32(q5_1, 24, half_at_0, true)
STAGE_32(iq4_nl, 18, half_at_0, false)
STAGE_32(mxfp4, 17, exponent_at_0, false)

ALWAYS __m512i chunk_q8_0(const uint8_t *p, const size_t i, const bool two)
{
    p += 2 * i * 34 + 2;
    __m512i w = _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)p));
    if (two) w = _mm512_inserti64x4(w, _mm256_loadu_si256((const __m256i *)(p + 34)), 1);
    return _mm512_xor_si512(w, bytes_of(-128));
}

/* Two blocks of nibbles that begin `at` bytes into blocks of `bytes`. */
ALWAYS __m512i nibbles_of(const uint8_t *p, const size_t i, const bool two, const size_t bytes, const size_t at)
{
    p += 2 * i * bytes + at;
    return nibbles(quarters(p, p + bytes, two));
}
ALWAYS __m512i with_fifth(__m512i u, const uint8_t *p, const size_t i, const bool two, const size_t bytes, const size_t at)
{
    p += 2 * i * bytes + at;
    const uint64_t high = load_u32(p) | (two ? (uint64_t)load_u32(p + bytes) << 32 : 0);
    return _mm512_mask_blend_epi8(high, u, _mm512_or_si512(u, bytes_of(16)));
}

ALWAYS __m512i chunk_q4_0(const uint8_t *p, const size_t i, const bool two)
{
    return nibbles_of(p, i, two, 18, 2);
}
ALWAYS __m512i chunk_q4_1(const uint8_t *p, const size_t i, const bool two)
{
    return nibbles_of(p, i, two, 20, 4);
}
ALWAYS __m512i chunk_q5_0(const uint8_t *p, const size_t i, const bool two)
{
    return with_fifth(nibbles_of(p, i, two, 22, 6), p, i, two, 22, 2);
}
ALWAYS __m512i chunk_q5_1(const uint8_t *p, const size_t i, const bool two)
{
    return with_fifth(nibbles_of(p, i, two, 24, 8), p, i, two, 24, 4);
}

/* The levels of IQ4, + 128, and twice those of e2m1, + 12. */
static const int8_t iq4_levels[16] = {1, 24, 45, 63, 79, 93, 106, 118, -127, -115, -103, -90, -75, -59, -39, -15};
static const int8_t fp4_levels[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

ALWAYS __m512i chunk_iq4_nl(const uint8_t *p, const size_t i, const bool two)
{
    return look_up(iq4_levels, nibbles_of(p, i, two, 18, 2));
}
ALWAYS __m512i chunk_mxfp4(const uint8_t *p, const size_t i, const bool two)
{
    return look_up(fp4_levels, nibbles_of(p, i, two, 17, 1));
}

/* ---- types of 256 --------------------------------------------------------------------------------------------- */

ALWAYS void stage_rows(const struct rows *w, size_t from, size_t piece, struct stage *st, const size_t bytes)
{
    UNROLL for (size_t i = 0; i < GROUP; i++) st->p[i] = row_at(w, from + i).data + piece * bytes;
}
/* The f16 at byte `at` of each block. */
ALWAYS void stage_halves(const struct stage *st, const size_t at, uint16_t *out)
{
    UNROLL for (size_t i = 0; i < GROUP; i++) out[i] = load_u16(st->p[i] + at);
}

/* Four blocks begin with 16 bytes each: d, dmin, and 6-bit scales and minima in 12 bytes S, M, L of four. */
ALWAYS __m512i headers(const uint8_t *const p[4])
{
    __m512i h = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)p[0]));
    h = _mm512_inserti32x4(h, _mm_loadu_si128((const __m128i *)p[1]), 1);
    h = _mm512_inserti32x4(h, _mm_loadu_si128((const __m128i *)p[2]), 2);
    return _mm512_inserti32x4(h, _mm_loadu_si128((const __m128i *)p[3]), 3);
}
/* S & 63, L & 15, M & 63, L >> 4; and where L stands, the upper two bits of S or M above it. */
ALWAYS __m512i header_scales(__m512i h)
{
    const __m128i base = _mm_setr_epi8(4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m128i tops = _mm_setr_epi8(-1, -1, -1, -1, 4, 5, 6, 7, -1, -1, -1, -1, 8, 9, 10, 11);
    const __m128i shift = _mm_setr_epi32(0, 0, 0, 4), mask = _mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f);
    __m512i v = _mm512_srlv_epi32(_mm512_shuffle_epi8(h, _mm512_broadcast_i32x4(base)), _mm512_broadcast_i32x4(shift));
    const __m512i top = _mm512_srli_epi16(_mm512_shuffle_epi8(h, _mm512_broadcast_i32x4(tops)), 2);
    v = _mm512_and_si512(v, _mm512_broadcast_i32x4(mask));
    return _mm512_ternarylogic_epi64(v, top, bytes_of(0x30), 0xf8); /* v | (top & 0x30) */
}
ALWAYS void stage_45(const struct rows *w, size_t from, size_t piece, struct stage *st, const size_t bytes)
{
    stage_rows(w, from, piece, st, bytes);
    const __m512i h0 = headers(st->p), h1 = headers(st->p + 4);
    _mm512_storeu_si512(st->bytes[0], header_scales(h0));
    _mm512_storeu_si512(st->bytes[4], header_scales(h1));
    const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m256i dm = _mm512_castsi512_si256(_mm512_permutex2var_epi32(h0, first, h1));
    _mm_storeu_si128((__m128i *)st->d16[0], _mm256_cvtepi32_epi16(dm));
    _mm_storeu_si128((__m128i *)st->m16[0], _mm256_cvtepi32_epi16(_mm256_srli_epi32(dm, 16)));
}
ALWAYS void stage_q4_k(const struct rows *w, size_t from, size_t piece, size_t n_blocks, struct stage *st)
{
    (void)n_blocks;
    stage_45(w, from, piece, st, 144);
}
ALWAYS void stage_q5_k(const struct rows *w, size_t from, size_t piece, size_t n_blocks, struct stage *st)
{
    (void)n_blocks;
    stage_45(w, from, piece, st, 176);
}

ALWAYS __m512i chunk_q4_k(const uint8_t *p, const size_t i, const bool two)
{
    (void)two;
    return _mm512_and_si512(shift_halves(both_halves(p + 16 + 32 * i), 0, 4), bytes_of(15));
}
ALWAYS __m512i chunk_q5_k(const uint8_t *p, const size_t i, const bool two)
{
    (void)two;
    const __m512i u = _mm512_and_si512(shift_halves(both_halves(p + 48 + 32 * i), 0, 4), bytes_of(15));
    return set_where(u, both_halves(p + 16), (int)(2 * i), (int)(2 * i + 1), 16);
}

ALWAYS void stage_q6_k(const struct rows *w, size_t from, size_t piece, size_t n_blocks, struct stage *st)
{
    (void)n_blocks;
    stage_rows(w, from, piece, st, 210);
    stage_halves(st, 208, st->d16[0]);
    for (size_t i = 0; i < GROUP; i++) {
        __m128i s = _mm_loadu_si128((const __m128i *)(st->p[i] + 192));
        _mm256_storeu_si256((__m256i *)st->sc[i], _mm256_cvtepi8_epi16(s));
    }
}
/* Quarters of 32 weights of each half of 128: low nibbles of 64 bytes, then high ones; their upper two bits in 32 bytes. */
ALWAYS __m512i chunk_q6_k(const uint8_t *p, const size_t i, const bool two)
{
    (void)two;
    const __m512i low = _mm512_loadu_si512(p + 64 * (i / 2)), high = both_halves(p + 128 + 32 * (i / 2));
    const __m512i u = i % 2 ? _mm512_srli_epi16(low, 4) : low;
    const __m512i up = _mm512_inserti64x4(_mm512_set1_epi16(4), _mm256_set1_epi16(2), 1);
    const __m512i h = i % 2 ? shift_halves(high, 0, 2) : _mm512_sllv_epi16(high, up);
    /* (u & 15) | (h & 48) */
    return _mm512_ternarylogic_epi64(_mm512_and_si512(u, bytes_of(15)), h, bytes_of(48), 0xf8);
}

ALWAYS void stage_q2_k(const struct rows *w, size_t from, size_t piece, size_t n_blocks, struct stage *st)
{
    (void)n_blocks;
    stage_rows(w, from, piece, st, 84);
    stage_halves(st, 80, st->d16[0]);
    stage_halves(st, 82, st->m16[0]);
    for (size_t i = 0; i < GROUP; i++) {
        __m256i s = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)st->p[i]));
        _mm256_storeu_si256((__m256i *)st->sc[i], _mm256_and_si256(s, _mm256_set1_epi16(15)));
        _mm256_storeu_si256((__m256i *)st->mn[i], _mm256_srli_epi16(s, 4));
    }
}
ALWAYS __m512i two_bits(const uint8_t *q, const size_t i)
{
    const int at = 4 * (int)(i % 2);
    return _mm512_and_si512(shift_halves(both_halves(q + 32 * (i / 2)), at, at + 2), bytes_of(3));
}
ALWAYS __m512i chunk_q2_k(const uint8_t *p, const size_t i, const bool two)
{
    (void)two;
    return two_bits(p + 16, i);
}

/* Four bits of each of 16 scales in 8 bytes (low halves first), their upper two in 4 bytes (2 bits, then the next 2). */
ALWAYS void stage_q3_k(const struct rows *w, size_t from, size_t piece, size_t n_blocks, struct stage *st)
{
    (void)n_blocks;
    stage_rows(w, from, piece, st, 110);
    stage_halves(st, 108, st->d16[0]);
    for (size_t i = 0; i < GROUP; i++) {
        const uint64_t low = load_u64(st->p[i] + 96), four = load_u32(st->p[i] + 104), ones = 0x0303030303030303;
        const uint64_t s0 = (low & 0x0f0f0f0f0f0f0f0f) | ((four | four >> 2 << 32) & ones) << 4;
        const uint64_t s8 = (low >> 4 & 0x0f0f0f0f0f0f0f0f) | ((four >> 4 | four >> 6 << 32) & ones) << 4;
        const __m256i s = _mm256_cvtepu8_epi16(_mm_set_epi64x((long long)s8, (long long)s0));
        _mm256_storeu_si256((__m256i *)st->sc[i], _mm256_sub_epi16(s, _mm256_set1_epi16(32)));
    }
}
ALWAYS __m512i chunk_q3_k(const uint8_t *p, const size_t i, const bool two)
{
    (void)two;
    return set_where(two_bits(p + 32, i), both_halves(p), (int)(2 * i), (int)(2 * i + 1), 4);
}

ALWAYS void stage_iq4_xs(const struct rows *w, size_t from, size_t piece, size_t n_blocks, struct stage *st)
{
    (void)n_blocks;
    stage_rows(w, from, piece, st, 136);
    stage_halves(st, 0, st->d16[0]);
    for (size_t i = 0; i < GROUP; i++) {
        const __m256i four = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28), two = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
        const __m256i low = _mm256_srlv_epi32(_mm256_set1_epi32((int)load_u32(st->p[i] + 4)), four);
        const __m256i high = _mm256_slli_epi32(_mm256_srlv_epi32(_mm256_set1_epi32(load_u16(st->p[i] + 2)), two), 4);
        /* (low & 15) | (high & 48) */
        __m256i s = _mm256_and_si256(low, _mm256_set1_epi32(15));
        s = _mm256_or_si256(s, _mm256_and_si256(high, _mm256_set1_epi32(48)));
        _mm256_storeu_si256((__m256i *)st->wide[i], _mm256_sub_epi32(s, _mm256_set1_epi32(32)));
    }
}
ALWAYS __m512i chunk_iq4_xs(const uint8_t *p, const size_t i, const bool two)
{
    (void)two;
    return look_up(iq4_levels, nibbles(quarters(p + 8 + 32 * i, p + 24 + 32 * i, true)));
}

/* ---- any type ------------------------------------------------------------------------------------------------------ */

ALWAYS __m512i chunk_any(const uint8_t *p, const size_t i, const bool two)
{
    (void)two; /* what follows the last block was zeroed */
    return _mm512_loadu_si512(p + 64 * i);
}

static void stage_any(const struct rows *w, size_t from, size_t piece, size_t n_blocks, struct stage *st)
{
    const struct qtype_info *info = &qtypes[w->a->type];
    const size_t n = info->arith == ARITH_256 ? 1 : n_blocks, block = piece * (QSUPER / info->block_n);
    struct qblock q;
    for (size_t i = 0; i < GROUP; i++) {
        const struct qrow row = row_at(w, from + i);
        st->p[i] = st->u[i];
        for (size_t b = 0; b < n; b++) {
            info->unpack(&row, block + b, &q);
            memcpy(st->u[i] + b * info->block_n, q.u, info->block_n);
            st->d[b][i] = q.d;
            st->m[b][i] = q.m;
        }
        memset(st->u[i] + n * info->block_n, 0, QSUPER - n * info->block_n);
        if (info->arith == ARITH_256) memcpy(st->sc[i], q.sc, sizeof q.sc), memcpy(st->mn[i], q.mn, sizeof q.mn);
    }
}

#endif
