/* unpack_neon: blocks of integer weights into registers, for every engine of this folder. Of each type there are two functions:
 *
 *   weights_T   32 weights of one block, as int8 in their natural order
 *   head_T      the scales of one block of each of four rows, rows in the lanes: that is how sums are scaled
 *
 * Types that have none here are taken apart by src/quant, into memory: they run everywhere, only not as fast. No load leaves
 * its block. The layouts are described in src/quant. */
#ifndef QUERN_UNPACK_NEON_H
#define QUERN_UNPACK_NEON_H

#include "kernel/arm/neon_int.h"

enum { QUAD = 4 }; /* weight rows that share a register */

/* A block of each of four rows. Byte b of lane i of sc[g] and mn[g] belongs to sub-block 4 g + b of row i: 16 of them, or 8 in
 * the first half where the type has a scale for each 32 weights. The scales fit int8 and are signed. */
struct head {
    float32x4_t d, m;
    uint8x16_t sc[4], mn[4];
};

/* The same position of four rows. Types without a loader of their own are unpacked to wide, to which p then points. */
struct quad {
    const uint8_t *p[QUAD]; /* the blocks */
    const uint8_t *row[QUAD];
    size_t r, r1; /* the first row, and the end of rows: the last one stands for those beyond */
    const struct mm *a;
    struct qblock *wide; /* [QUAD] */
};

typedef void head_fn(struct quad *w, size_t block, struct head *out);
typedef void weights_fn(const uint8_t *p, size_t s, int8x16_t q[2]); /* weights 32 s .. 32 s + 31 of the block at p */

/* What the engines need to know of a type, as constants. */
struct traits {
    size_t block, bytes, sub; /* weights and bytes of a block; weights to a scale: 16, or 32 */
    bool min;
    bool wide; /* taken apart by src/quant */
};

enum {
#define T(NAME, name, id, block_n, bytes, ARITH, off, min, W) BLOCK_##NAME = block_n, BYTES_##NAME = bytes, MIN_##NAME = min,
#include "quant/types.def"
#undef T
};

/* X(NAME, sub, head, weights, arg) for each type that has a loader. */
#define LOADED_TYPES(X, arg)                        \
    X(Q8_0, 32, head_half, weights_Q8_0, arg)       \
    X(Q4_0, 32, head_half, weights_Q4_0, arg)       \
    X(Q4_1, 32, head_halves, weights_Q4_1, arg)     \
    X(Q5_0, 32, head_half, weights_Q5_0, arg)       \
    X(Q5_1, 32, head_halves, weights_Q5_1, arg)     \
    X(IQ4_NL, 32, head_half, weights_IQ4_NL, arg)   \
    X(MXFP4, 32, head_MXFP4, weights_MXFP4, arg)    \
    X(Q2_K, 16, head_Q2_K, weights_Q2_K, arg)       \
    X(Q3_K, 16, head_Q3_K, weights_Q3_K, arg)       \
    X(Q4_K, 32, head_Q4_K, weights_Q4_K, arg)       \
    X(Q5_K, 32, head_Q4_K, weights_Q5_K, arg)       \
    X(Q6_K, 16, head_Q6_K, weights_Q6_K, arg)       \
    X(IQ4_XS, 32, head_IQ4_XS, weights_IQ4_XS, arg) \
    X(TQ2_0, 32, head_TQ2_0, weights_TQ2_0, arg)
#define TRAITS(NAME, sub) ((struct traits){BLOCK_##NAME, BYTES_##NAME, sub, MIN_##NAME, false})

/* X(NAME, block, sub, min, arg) for each kind of the others: by their arithmetic and whether they have a minimum. */
#define WIDE_KINDS(X, arg)                   \
    X(wide_32, ACT_BLOCK, 32, false, arg)    \
    X(wide_32_min, ACT_BLOCK, 32, true, arg) \
    X(wide_256, QSUPER, 16, false, arg)      \
    X(wide_256_min, QSUPER, 16, true, arg)
#define WIDE_TRAITS(block, sub, min) ((struct traits){block, 0, sub, min, true})

/* ---- helpers ----------------------------------------------------------------------------------------------- */

/* Shifts of bytes by a number that is constant once loops are unrolled; the intrinsics want a literal. */
static inline uint8x16_t shr8(uint8x16_t v, size_t n)
{
    return v >> vdupq_n_u8((uint8_t)n);
}
static inline uint8x16_t shl8(uint8x16_t v, size_t n)
{
    return v << vdupq_n_u8((uint8_t)n);
}

/* Four rows of 16 bytes to four groups of 4 bytes of each row: v[i] = bytes 4 i .. 4 i + 3 of the rows. */
TILE_INLINE void transpose4(uint8x16_t v[QUAD])
{
    uint32x4_t a[QUAD];
    UNROLL for (size_t i = 0; i < QUAD; i++) a[i] = vreinterpretq_u32_u8(v[i]);
    uint64x2_t low01 = vreinterpretq_u64_u32(vtrn1q_u32(a[0], a[1])), high01 = vreinterpretq_u64_u32(vtrn2q_u32(a[0], a[1]));
    uint64x2_t low23 = vreinterpretq_u64_u32(vtrn1q_u32(a[2], a[3])), high23 = vreinterpretq_u64_u32(vtrn2q_u32(a[2], a[3]));
    v[0] = vreinterpretq_u8_u64(vtrn1q_u64(low01, low23));
    v[1] = vreinterpretq_u8_u64(vtrn1q_u64(high01, high23));
    v[2] = vreinterpretq_u8_u64(vtrn2q_u64(low01, low23));
    v[3] = vreinterpretq_u8_u64(vtrn2q_u64(high01, high23));
}

/* The 16 bytes at offset `at` of each block, transposed. */
TILE_INLINE void words(const struct quad *w, size_t at, uint8x16_t v[QUAD])
{
    UNROLL for (size_t i = 0; i < QUAD; i++) v[i] = vld1q_u8(w->p[i] + at);
    transpose4(v);
}

static inline float32x4_t widen_low(uint8x16_t v) /* of each 32 bits, the lower f16 */
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(vreinterpretq_u32_u8(v))));
}
static inline float32x4_t widen_high(uint8x16_t v)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vshrn_n_u32(vreinterpretq_u32_u8(v), 16)));
}

/* One f16 of each block. */
TILE_INLINE float32x4_t half_of_each(const struct quad *w, size_t at)
{
    uint16x4_t h = {load_u16(w->p[0] + at), load_u16(w->p[1] + at), load_u16(w->p[2] + at), load_u16(w->p[3] + at)};
    return vcvt_f32_f16(vreinterpret_f16_u16(h));
}

/* Four bytes of each block. */
TILE_INLINE uint8x16_t word_of_each(const struct quad *w, size_t at)
{
    uint32x4_t v = {load_u32(w->p[0] + at), load_u32(w->p[1] + at), load_u32(w->p[2] + at), load_u32(w->p[3] + at)};
    return vreinterpretq_u8_u32(v);
}

TILE_INLINE void quad_at(struct quad *w, size_t block, size_t bytes)
{
    UNROLL for (size_t i = 0; i < QUAD; i++) w->p[i] = w->row[i] + block * bytes;
}

static inline struct quad quad_of(const struct mm *a, size_t r, size_t r1, struct qblock wide[QUAD])
{
    struct quad w = {.r = r, .r1 = r1, .a = a, .wide = wide};
    for (size_t i = 0; i < QUAD; i++) w.row[i] = a->w + size_min(r + i, r1 - 1) * a->row_bytes;
    return w;
}

/* Scale number s of the four rows. */
TILE_INLINE int32x4_t head_scale(const uint8x16_t sc[4], size_t s)
{
    uint32x4_t v = vreinterpretq_u32_u8(sc[s / 4]) << vdupq_n_u32((uint32_t)(24 - 8 * (s % 4)));
    return vshrq_n_s32(vreinterpretq_s32_u32(v), 24);
}

/* ---- blocks of 32 --------------------------------------------------------------------------------------------- */

TILE_INLINE void head_half(struct quad *w, size_t block, struct head *h)
{
    (void)block;
    h->d = half_of_each(w, 0);
}

TILE_INLINE void head_halves(struct quad *w, size_t block, struct head *h)
{
    (void)block;
    uint8x16_t v = word_of_each(w, 0);
    h->d = widen_low(v);
    h->m = widen_high(v);
}

/* 2^(e - 128); the two smallest are subnormal. */
TILE_INLINE void head_MXFP4(struct quad *w, size_t block, struct head *h)
{
    (void)block;
    uint32x4_t e = {w->p[0][0], w->p[1][0], w->p[2][0], w->p[3][0]};
    uint32x4_t small = vshlq_u32(vdupq_n_u32(0x200000), vreinterpretq_s32_u32(e));
    uint32x4_t normal = vshlq_n_u32(vsubq_u32(e, vdupq_n_u32(1)), 23);
    h->d = vreinterpretq_f32_u32(vbslq_u32(vcltq_u32(e, vdupq_n_u32(2)), small, normal));
}

TILE_INLINE void nibbles(const uint8_t *p, uint8x16_t u[2])
{
    uint8x16_t v = vld1q_u8(p);
    u[0] = vandq_u8(v, vdupq_n_u8(15));
    u[1] = vshrq_n_u8(v, 4);
}

/* All ones where the bit of a weight is set, of 32 bits. */
TILE_INLINE void bit_masks(const uint8_t *p, uint8x16_t mask[2])
{
    static const uint8_t at[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
    uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(UINT64_C(0x8040201008040201)));
    uint8x16_t bits = vreinterpretq_u8_u32(vdupq_n_u32(load_u32(p))), low = vld1q_u8(at);
    mask[0] = vtstq_u8(vqtbl1q_u8(bits, low), bit);
    mask[1] = vtstq_u8(vqtbl1q_u8(bits, vaddq_u8(low, vdupq_n_u8(2))), bit);
}

TILE_INLINE void weights_Q8_0(const uint8_t *p, size_t s, int8x16_t q[2])
{
    (void)s;
    UNROLL for (size_t i = 0; i < 2; i++) q[i] = vreinterpretq_s8_u8(vld1q_u8(p + 2 + 16 * i));
}

TILE_INLINE void weights_Q4_0(const uint8_t *p, size_t s, int8x16_t q[2])
{
    (void)s;
    uint8x16_t u[2];
    nibbles(p + 2, u);
    UNROLL for (size_t i = 0; i < 2; i++) q[i] = vreinterpretq_s8_u8(vsubq_u8(u[i], vdupq_n_u8(8)));
}

TILE_INLINE void weights_Q4_1(const uint8_t *p, size_t s, int8x16_t q[2])
{
    (void)s;
    uint8x16_t u[2];
    nibbles(p + 4, u);
    UNROLL for (size_t i = 0; i < 2; i++) q[i] = vreinterpretq_s8_u8(u[i]);
}

TILE_INLINE void weights_Q5_0(const uint8_t *p, size_t s, int8x16_t q[2])
{
    (void)s;
    uint8x16_t u[2], mask[2];
    nibbles(p + 6, u);
    bit_masks(p + 2, mask);
    /* u - 16 where the fifth bit is clear, u where it is set */
    UNROLL for (size_t i = 0; i < 2; i++) q[i] = vreinterpretq_s8_u8(vorrq_u8(u[i], vbicq_u8(vdupq_n_u8(0xf0), mask[i])));
}

TILE_INLINE void weights_Q5_1(const uint8_t *p, size_t s, int8x16_t q[2])
{
    (void)s;
    uint8x16_t u[2], mask[2];
    nibbles(p + 8, u);
    bit_masks(p + 4, mask);
    UNROLL for (size_t i = 0; i < 2; i++) q[i] = vreinterpretq_s8_u8(vorrq_u8(u[i], vandq_u8(mask[i], vdupq_n_u8(16))));
}

static const int8_t iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const int8_t fp4_levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}; /* doubled */

TILE_INLINE void look_up(const int8_t table[16], const uint8_t *p, int8x16_t q[2])
{
    uint8x16_t u[2];
    nibbles(p, u);
    UNROLL for (size_t i = 0; i < 2; i++) q[i] = vqtbl1q_s8(vld1q_s8(table), u[i]);
}

TILE_INLINE void weights_IQ4_NL(const uint8_t *p, size_t s, int8x16_t q[2])
{
    (void)s;
    look_up(iq4_levels, p + 2, q);
}

TILE_INLINE void weights_MXFP4(const uint8_t *p, size_t s, int8x16_t q[2])
{
    (void)s;
    look_up(fp4_levels, p + 1, q);
}

/* ---- blocks of 256 -------------------------------------------------------------------------------------------- */

TILE_INLINE void head_Q2_K(struct quad *w, size_t block, struct head *h)
{
    (void)block;
    words(w, 0, h->sc);
    UNROLL for (size_t g = 0; g < 4; g++)
    {
        h->mn[g] = vshrq_n_u8(h->sc[g], 4);
        h->sc[g] = vandq_u8(h->sc[g], vdupq_n_u8(15));
    }
    uint8x16_t v = word_of_each(w, 80);
    h->d = widen_low(v);
    h->m = widen_high(v);
}

/* Scales and d are the last 14 bytes: loaded with the two before them, which then are rotated to the end. */
TILE_INLINE void head_Q3_K(struct quad *w, size_t block, struct head *h)
{
    (void)block;
    uint8x16_t v[QUAD];
    UNROLL for (size_t i = 0; i < QUAD; i++)
    {
        v[i] = vld1q_u8(w->p[i] + 94);
        v[i] = vextq_u8(v[i], v[i], 2);
    }
    transpose4(v);
    const uint8x16_t two_bits = vdupq_n_u8(3);
    h->sc[0] = vsliq_n_u8(v[0], vandq_u8(v[2], two_bits), 4);
    h->sc[1] = vsliq_n_u8(v[1], vandq_u8(vshrq_n_u8(v[2], 2), two_bits), 4);
    h->sc[2] = vsliq_n_u8(vshrq_n_u8(v[0], 4), vandq_u8(vshrq_n_u8(v[2], 4), two_bits), 4);
    h->sc[3] = vsliq_n_u8(vshrq_n_u8(v[1], 4), vshrq_n_u8(v[2], 6), 4);
    UNROLL for (size_t g = 0; g < 4; g++) h->sc[g] = vsubq_u8(h->sc[g], vdupq_n_u8(32));
    h->d = widen_low(v[3]);
}

/* Also Q5_K's: d, dmin and the 12 bytes of scales are the first 16. */
TILE_INLINE void head_Q4_K(struct quad *w, size_t block, struct head *h)
{
    (void)block;
    uint8x16_t v[QUAD];
    words(w, 0, v);
    h->d = widen_low(v[0]);
    h->m = widen_high(v[0]);
    h->sc[0] = vandq_u8(v[1], vdupq_n_u8(63));
    h->mn[0] = vandq_u8(v[2], vdupq_n_u8(63));
    h->sc[1] = vsliq_n_u8(v[3], vshrq_n_u8(v[1], 6), 4);
    h->mn[1] = vsliq_n_u8(vshrq_n_u8(v[3], 4), vshrq_n_u8(v[2], 6), 4);
}

TILE_INLINE void head_Q6_K(struct quad *w, size_t block, struct head *h)
{
    (void)block;
    words(w, 192, h->sc);
    h->d = half_of_each(w, 208);
}

/* Nibble s of the second word is the low part of scale s, bits 2 s of the upper half of the first its high part. */
TILE_INLINE void head_IQ4_XS(struct quad *w, size_t block, struct head *h)
{
    (void)block;
    uint8x16_t v[QUAD];
    words(w, 0, v);
    h->d = widen_low(v[0]);
    uint8x16_t even = vandq_u8(v[1], vdupq_n_u8(15)), odd = vshrq_n_u8(v[1], 4);
    uint32x4_t row01 = vreinterpretq_u32_u8(vzip1q_u8(even, odd)), row23 = vreinterpretq_u32_u8(vzip2q_u8(even, odd));
    uint8x16_t low[2] = {vreinterpretq_u8_u32(vuzp1q_u32(row01, row23)), vreinterpretq_u8_u32(vuzp2q_u32(row01, row23))};
    static const uint8_t byte2[16] = {2, 2, 2, 2, 6, 6, 6, 6, 10, 10, 10, 10, 14, 14, 14, 14};
    const int8x16_t shifts = vreinterpretq_s8_u32(vdupq_n_u32(0xfafcfe00)); /* 0, -2, -4, -6 */
    UNROLL for (size_t g = 0; g < 2; g++)
    {
        uint8x16_t high = vqtbl1q_u8(v[0], vaddq_u8(vld1q_u8(byte2), vdupq_n_u8((uint8_t)g)));
        high = vandq_u8(vshlq_u8(high, shifts), vdupq_n_u8(3));
        h->sc[g] = vsubq_u8(vsliq_n_u8(low[g], high, 4), vdupq_n_u8(32));
    }
}

TILE_INLINE void head_TQ2_0(struct quad *w, size_t block, struct head *h)
{
    (void)block;
    h->d = half_of_each(w, 64);
    h->sc[0] = h->sc[1] = vdupq_n_u8(1);
}

/* 32 weights of 2 bits: bits 2 (s % 4) of 32 bytes. */
TILE_INLINE void bit_pairs(const uint8_t *p, size_t s, uint8x16_t u[2])
{
    UNROLL for (size_t i = 0; i < 2; i++)
    {
        u[i] = vandq_u8(shr8(vld1q_u8(p + 32 * (s / 4) + 16 * i), 2 * (s % 4)), vdupq_n_u8(3));
    }
}

TILE_INLINE void weights_TQ2_0(const uint8_t *p, size_t s, int8x16_t q[2])
{
    uint8x16_t u[2];
    bit_pairs(p, s, u);
    UNROLL for (size_t i = 0; i < 2; i++) q[i] = vreinterpretq_s8_u8(vsubq_u8(u[i], vdupq_n_u8(1)));
}

TILE_INLINE void weights_Q2_K(const uint8_t *p, size_t s, int8x16_t q[2])
{
    uint8x16_t u[2];
    bit_pairs(p + 16, s, u);
    UNROLL for (size_t i = 0; i < 2; i++) q[i] = vreinterpretq_s8_u8(u[i]);
}

/* v with the bits of mask replaced: those from bit `to` on by those from bit `from` of bits on. */
TILE_INLINE uint8x16_t set_bits(uint8x16_t v, uint8x16_t bits, size_t from, size_t to, uint8_t mask)
{
    bits = from > to ? shr8(bits, from - to) : shl8(bits, to - from);
    return vbslq_u8(vdupq_n_u8(mask), bits, v);
}

TILE_INLINE void weights_Q3_K(const uint8_t *p, size_t s, int8x16_t q[2])
{
    uint8x16_t u[2];
    bit_pairs(p + 32, s, u);
    UNROLL for (size_t i = 0; i < 2; i++)
    {
        u[i] = set_bits(u[i], vld1q_u8(p + 16 * i), s, 2, 4);
        q[i] = vreinterpretq_s8_u8(vsubq_u8(u[i], vdupq_n_u8(4)));
    }
}

/* Half of the 32 weights s of Q4_K's and Q5_K's nibbles. */
TILE_INLINE uint8x16_t k_nibbles(const uint8_t *p, size_t s, size_t i)
{
    uint8x16_t v = vld1q_u8(p + 32 * (s / 2) + 16 * i);
    return s % 2 ? vshrq_n_u8(v, 4) : vandq_u8(v, vdupq_n_u8(15));
}

TILE_INLINE void weights_Q4_K(const uint8_t *p, size_t s, int8x16_t q[2])
{
    UNROLL for (size_t i = 0; i < 2; i++) q[i] = vreinterpretq_s8_u8(k_nibbles(p + 16, s, i));
}

TILE_INLINE void weights_Q5_K(const uint8_t *p, size_t s, int8x16_t q[2])
{
    UNROLL for (size_t i = 0; i < 2; i++) q[i] =
        vreinterpretq_s8_u8(set_bits(k_nibbles(p + 48, s, i), vld1q_u8(p + 16 + 16 * i), s, 4, 16));
}

TILE_INLINE void weights_Q6_K(const uint8_t *p, size_t s, int8x16_t q[2])
{
    const size_t half = s / 4, quarter = s % 4;
    UNROLL for (size_t i = 0; i < 2; i++)
    {
        uint8x16_t v = vld1q_u8(p + 64 * half + 32 * (quarter % 2) + 16 * i), high = vld1q_u8(p + 128 + 32 * half + 16 * i);
        v = quarter >= 2 ? vshrq_n_u8(v, 4) : vandq_u8(v, vdupq_n_u8(15));
        q[i] = vreinterpretq_s8_u8(vsubq_u8(set_bits(v, high, 2 * quarter, 4, 0x30), vdupq_n_u8(32)));
    }
}

TILE_INLINE void weights_IQ4_XS(const uint8_t *p, size_t s, int8x16_t q[2])
{
    look_up(iq4_levels, p + 8 + 16 * s, q);
}

/* ---- the others ------------------------------------------------------------------------------------------------ */

/* What remains to be added to each weight of a type of 32 once it is an int8: such types may use all of a u8 where off is 0. */
static inline int32_t wide_bias(enum qtype t)
{
    return qtypes[t].off == 0 && qtypes[t].arith == ARITH_32 ? 128 : 0;
}

/* Takes block number `block` of the four rows apart and points w->p to the weights, made signed. */
static void head_wide(struct quad *w, size_t block, struct head *h)
{
    const enum qtype t = w->a->type;
    const uint8x16_t off = vdupq_n_u8((uint8_t)(qtypes[t].off + wide_bias(t)));
    float d[QUAD], m[QUAD] = {0};
    uint8_t sc[QUAD][16] = {{0}}, mn[QUAD][16] = {{0}};
    for (size_t i = 0; i < QUAD; i++) {
        const struct qrow row = mm_row(w->a, size_min(w->r + i, w->r1 - 1));
        struct qblock *b = &w->wide[i];
        qtypes[t].unpack(&row, block, b);
        for (size_t j = 0; j < qtypes[t].block_n; j += 16) vst1q_u8(b->u + j, vsubq_u8(vld1q_u8(b->u + j), off));
        w->p[i] = b->u;
        d[i] = b->d;
        if (qtypes[t].has_min) m[i] = b->m;
        for (size_t s = 0; qtypes[t].arith == ARITH_256 && s < 16; s++) {
            sc[i][s] = (uint8_t)b->sc[s];
            if (qtypes[t].has_min) mn[i][s] = (uint8_t)b->mn[s];
        }
    }
    h->d = vld1q_f32(d);
    h->m = vld1q_f32(m);
    for (size_t i = 0; i < QUAD; i++) h->sc[i] = vld1q_u8(sc[i]), h->mn[i] = vld1q_u8(mn[i]);
    transpose4(h->sc);
    transpose4(h->mn);
}

TILE_INLINE void weights_wide(const uint8_t *p, size_t s, int8x16_t q[2])
{
    UNROLL for (size_t i = 0; i < 2; i++) q[i] = vreinterpretq_s8_u8(vld1q_u8(p + 32 * s + 16 * i));
}

/* ---- sums of activations ------------------------------------------------------------------------------------------ */

/* The sums of 16 that go with 256 activations, as 128 * hi + lo, so that they can be multiplied like weights. For scales that
 * span 32 the first 8 bytes are sums of 32; the others repeat them. |sum| <= 4064: hi is within -32..32, lo within -64..63. */
struct split {
    int8x16_t hi, lo;
};
TILE_INLINE struct split split_sums(const int16_t *s, const size_t sub)
{
    int16x8_t a = vld1q_s16(s), b = vld1q_s16(s + 8);
    if (sub == 32) a = b = vpaddq_s16(a, b);
    int8x16_t hi = vrshrn_high_n_s16(vrshrn_n_s16(a, 7), b, 7), low = vmovn_high_s16(vmovn_s16(a), b);
    return (struct split){hi, vsubq_s8(low, vshlq_n_s8(hi, 7))};
}

#endif
