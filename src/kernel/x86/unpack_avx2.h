/* unpack_avx2: how the blocks of each type become registers. For every type two inline functions:
 *
 *   chunk_TYPE   weights 32 i .. 32 i + 31 of a piece of 256, in order: struct qblock's u or, for SIGNED types, u - 128; p is
 *                where the piece's blocks lie
 *   stage_TYPE   where the blocks of GROUP rows lie, and their scales, for one piece
 *
 * Scales are staged a piece ahead of their use: what is stored byte by byte is read as a vector when it has reached the cache.
 * Layouts: src/quant. Types without functions of their own are taken apart by struct qtype_info (chunk_any, stage_any). */
#ifndef QUERN_UNPACK_AVX2_H
#define QUERN_UNPACK_AVX2_H

#include "kernel/x86/vec_avx2.h"

#include "kernel/x86/int_rows_tmpl.h"

enum { GROUP = 8 }; /* rows that are staged, and in decode multiplied, together */

/* One piece (256 weights) of GROUP rows. */
struct stage {
    const uint8_t *p[GROUP];
    /* Scales and minima: types of 32: of each block; types of 256: [0]. As 16-bit floats, or (stage_any) as floats. */
    uint16_t d16[8][GROUP], m16[8][GROUP];
    float d[8][GROUP], m[8][GROUP];
    int16_t sc[GROUP][16], mn[GROUP][16]; /* types of 256: for each 16 weights */
    uint8_t u[GROUP][QSUPER];             /* of stage_any */
};

typedef void stage_fn(const struct rows *w, size_t from, size_t piece, size_t n_blocks, struct stage *st);
typedef __m256i chunk_fn(const uint8_t *p, const size_t i);

/* 8 scales of a type d_type: F16, MXFP4 (exponents), or F32 for those of stage_any. */
ALWAYS __m256 eight_scales(const uint16_t *half, const float *full, const enum qtype d_type)
{
    return d_type == QTYPE_F32 ? _mm256_loadu_ps(full) : v_scales(_mm_loadu_si128((const __m128i *)half), d_type);
}

/* ---- products ---------------------------------------------------------------------------------------------
 *
 * vpmaddubsw multiplies unsigned weights by signed activations and adds two products in int16. Weights are as struct qblock has
 * them where u <= 128: two products are at most 2 * 128 * 127 = 32512. Others are SIGNED, less 128, and then
 *
 *     sum w * q = sum |w| * (q with the sign of w)
 *
 * with |-128| an unsigned byte. */

/* How many sums of two products are added up in int16: as many as fit for a type's largest u, but no more than 4, for what more
 * would save is lost in registers. */
enum fit { SIGNED = 0, UPTO_128 = 1, UPTO_63 = 2, UPTO_31 = 4 };

/* The offset of what a chunk holds. */
ALWAYS int chunk_off(const int off, const enum fit fit)
{
    return fit == SIGNED ? off - 128 : off;
}

/* Sums of two products. */
ALWAYS __m256i pairs(__m256i w, __m256i y, const enum fit fit)
{
    return fit == SIGNED ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(y, w)) : _mm256_maddubs_epi16(w, y);
}

/* ---- pieces of registers -------------------------------------------------------------------------------- */

ALWAYS __m256i load_32(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

/* Bytes shifted right by n bits, left where n is negative, and masked: all that stays must come from the same byte. */
ALWAYS __m256i bits(__m256i v, const int n, const int mask)
{
    v = n < 0 ? _mm256_slli_epi16(v, -n) : _mm256_srli_epi16(v, n);
    return _mm256_and_si256(v, _mm256_set1_epi8((char)mask));
}

/* The low halves of 16 bytes, then their high halves. */
ALWAYS __m256i nibbles(const uint8_t *p)
{
    const __m256i v = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p));
    return _mm256_and_si256(_mm256_srlv_epi32(v, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4)), _mm256_set1_epi8(15));
}

/* u with 16 added where one of the 32 bits at p is set. */
ALWAYS __m256i with_fifth(__m256i u, const uint8_t *p)
{
    const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    const __m256i v = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32((int)load_u32(p)), byte), bit);
    return _mm256_or_si256(u, _mm256_and_si256(_mm256_cmpeq_epi8(v, bit), _mm256_set1_epi8(16)));
}

ALWAYS __m256i look_up(const int8_t table[16], __m256i index)
{
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table)), index);
}

/* ---- types of 32 -------------------------------------------------------------------------------------------- */

ALWAYS void stage_32(const struct rows *w, size_t from, size_t piece, size_t n_blocks, struct stage *st, const size_t bytes,
                     half_fn *const d, const bool has_min)
{
    for (size_t i = 0; i < GROUP; i++) {
        const uint8_t *p = st->p[i] = row_at(w, from + i).data + piece * 8 * bytes;
        for (size_t b = 0; b < n_blocks; b++) st->d16[b][i] = d(p + b * bytes);
        for (size_t b = 0; b < n_blocks && has_min; b++) st->m16[b][i] = load_u16(p + b * bytes + 2);
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

/* The levels of IQ4, and twice those of e2m1, + 12. */
static const int8_t iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const int8_t fp4_levels[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

ALWAYS __m256i chunk_q8_0(const uint8_t *p, const size_t i)
{
    return load_32(p + 34 * i + 2);
}
ALWAYS __m256i chunk_q4_0(const uint8_t *p, const size_t i)
{
    return nibbles(p + 18 * i + 2);
}
ALWAYS __m256i chunk_q4_1(const uint8_t *p, const size_t i)
{
    return nibbles(p + 20 * i + 4);
}
ALWAYS __m256i chunk_q5_0(const uint8_t *p, const size_t i)
{
    return with_fifth(nibbles(p + 22 * i + 6), p + 22 * i + 2);
}
ALWAYS __m256i chunk_q5_1(const uint8_t *p, const size_t i)
{
    return with_fifth(nibbles(p + 24 * i + 8), p + 24 * i + 4);
}
ALWAYS __m256i chunk_iq4_nl(const uint8_t *p, const size_t i)
{
    return look_up(iq4_levels, nibbles(p + 18 * i + 2));
}
ALWAYS __m256i chunk_mxfp4(const uint8_t *p, const size_t i)
{
    return look_up(fp4_levels, nibbles(p + 17 * i + 1));
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
ALWAYS void store_16(int16_t *dst, __m256i v)
{
    _mm256_storeu_si256((__m256i *)dst, v);
}

/* Blocks begin with 16 bytes: d, dmin, and 6-bit scales and minima of 32 weights each in 12 bytes S, M, L of four. The result:
 * S & 63, L & 15, M & 63, L >> 4; and where L stands, the upper two bits of S or M above it. */
ALWAYS __m128i header_scales(__m128i h)
{
    const __m128i base = _mm_setr_epi8(4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m128i tops = _mm_setr_epi8(-1, -1, -1, -1, 4, 5, 6, 7, -1, -1, -1, -1, 8, 9, 10, 11);
    const __m128i shift = _mm_setr_epi32(0, 0, 0, 4), mask = _mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f);
    const __m128i v = _mm_and_si128(_mm_srlv_epi32(_mm_shuffle_epi8(h, base), shift), mask);
    const __m128i top = _mm_srli_epi16(_mm_shuffle_epi8(h, tops), 2);
    return _mm_or_si128(v, _mm_and_si128(top, _mm_set1_epi8(0x30)));
}
ALWAYS void stage_45(const struct rows *w, size_t from, size_t piece, struct stage *st, const size_t bytes)
{
    stage_rows(w, from, piece, st, bytes);
    stage_halves(st, 0, st->d16[0]);
    stage_halves(st, 2, st->m16[0]);
    UNROLL for (size_t i = 0; i < GROUP; i++)
    {
        const __m128i s = header_scales(_mm_loadu_si128((const __m128i *)st->p[i]));
        store_16(st->sc[i], _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(s, s)));
        store_16(st->mn[i], _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(s, s)));
    }
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
ALWAYS __m256i chunk_q4_k(const uint8_t *p, const size_t i)
{
    return bits(load_32(p + 16 + 32 * (i / 2)), 4 * (int)(i % 2), 15);
}
ALWAYS __m256i chunk_q5_k(const uint8_t *p, const size_t i)
{
    const __m256i u = bits(load_32(p + 48 + 32 * (i / 2)), 4 * (int)(i % 2), 15);
    return _mm256_or_si256(u, bits(load_32(p + 16), (int)i - 4, 16));
}

ALWAYS void stage_q6_k(const struct rows *w, size_t from, size_t piece, size_t n_blocks, struct stage *st)
{
    (void)n_blocks;
    stage_rows(w, from, piece, st, 210);
    stage_halves(st, 208, st->d16[0]);
    UNROLL for (size_t i = 0; i < GROUP; i++)
        store_16(st->sc[i], _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(st->p[i] + 192))));
}
/* Quarters of 32 weights of each half of 128: low nibbles of 64 bytes, then high ones; their upper two bits in 32 bytes. */
ALWAYS __m256i chunk_q6_k(const uint8_t *p, const size_t i)
{
    const size_t half = i / 4, quarter = i % 4;
    const __m256i u = bits(load_32(p + 64 * half + 32 * (quarter % 2)), 4 * (int)(quarter / 2), 15);
    return _mm256_or_si256(u, bits(load_32(p + 128 + 32 * half), 2 * (int)quarter - 4, 48));
}

ALWAYS void stage_q2_k(const struct rows *w, size_t from, size_t piece, size_t n_blocks, struct stage *st)
{
    (void)n_blocks;
    stage_rows(w, from, piece, st, 84);
    stage_halves(st, 80, st->d16[0]);
    stage_halves(st, 82, st->m16[0]);
    for (size_t i = 0; i < GROUP; i++) {
        const __m256i s = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)st->p[i]));
        store_16(st->sc[i], _mm256_and_si256(s, _mm256_set1_epi16(15)));
        store_16(st->mn[i], _mm256_srli_epi16(s, 4));
    }
}
ALWAYS __m256i chunk_q2_k(const uint8_t *p, const size_t i)
{
    return bits(load_32(p + 16 + 32 * (i / 4)), 2 * (int)(i % 4), 3);
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
        store_16(st->sc[i], _mm256_sub_epi16(s, _mm256_set1_epi16(32)));
    }
}
ALWAYS __m256i chunk_q3_k(const uint8_t *p, const size_t i)
{
    const __m256i u = bits(load_32(p + 32 + 32 * (i / 4)), 2 * (int)(i % 4), 3);
    return _mm256_or_si256(u, bits(load_32(p), (int)i - 2, 4));
}

ALWAYS void stage_iq4_xs(const struct rows *w, size_t from, size_t piece, size_t n_blocks, struct stage *st)
{
    (void)n_blocks;
    stage_rows(w, from, piece, st, 136);
    stage_halves(st, 0, st->d16[0]);
    for (size_t i = 0; i < GROUP; i++) {
        const uint32_t low = load_u32(st->p[i] + 4), high = load_u16(st->p[i] + 2);
        for (unsigned b = 0; b < 8; b++)
            st->sc[i][2 * b] = st->sc[i][2 * b + 1] = (int16_t)((int)((low >> 4 * b & 15) | (high >> 2 * b & 3) << 4) - 32);
    }
}
ALWAYS __m256i chunk_iq4_xs(const uint8_t *p, const size_t i)
{
    return look_up(iq4_levels, nibbles(p + 8 + 16 * i));
}

/* ---- any type ------------------------------------------------------------------------------------------------------ */

ALWAYS __m256i chunk_any_256(const uint8_t *p, const size_t i)
{
    return load_32(p + 32 * i);
}
ALWAYS __m256i chunk_any_32(const uint8_t *p, const size_t i)
{
    return _mm256_xor_si256(load_32(p + 32 * i), _mm256_set1_epi8(-128));
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
        if (info->arith == ARITH_256) memcpy(st->sc[i], q.sc, sizeof q.sc), memcpy(st->mn[i], q.mn, sizeof q.mn);
    }
}

#endif
