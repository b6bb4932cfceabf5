/* kquants: superblocks of 256 weights with two levels of scales.
 *
 *   Q2_K    84 bytes: scales u8[16] @0 (low half scale, high half minimum), q u8[64] @16, d f16 @80, dmin f16 @82
 *   Q3_K   110 bytes: high u8[32] @0, q u8[64] @32, scales u8[12] @96, d f16 @108
 *   Q4_K   144 bytes: d f16 @0, dmin f16 @2, scales u8[12] @4, q u8[128] @16
 *   Q5_K   176 bytes: d f16 @0, dmin f16 @2, scales u8[12] @4, high u8[32] @16, q u8[128] @48
 *   Q6_K   210 bytes: low u8[128] @0, high u8[64] @128, scales i8[16] @192, d f16 @208
 *
 * Q2_K and Q3_K: weight 128 h + 32 j + l (j < 4, l < 32) has its two low bits at bit 2 j of q[32 h + l], and a scale for each
 * 16 weights. Q4_K and Q5_K: weight 64 g + l is the low half of q[32 g + l], 64 g + 32 + l the high half; scale and minimum
 * for each 32, 6 bits each, packed into 12 bytes. */
#include "quant/quant_int.h"

static float half_at(const uint8_t *p)
{
    return f16_to_f32(load_u16(p));
}

/* Each of 8 numbers stands for two subblocks of 16. */
static void twice(int16_t out[16], size_t s, int v)
{
    out[2 * s] = out[2 * s + 1] = (int16_t)v;
}

/* The 6-bit scales and minima of Q4_K and Q5_K: the first four of each are the low bits of bytes 0-3 and 4-7; the others have
 * their low halves in bytes 8-11 and their two high bits in the tops of bytes 0-7. */
static void unpack_scales(const uint8_t p[12], struct qblock *out)
{
    for (size_t s = 0; s < 4; s++) {
        twice(out->sc, s, p[s] & 63);
        twice(out->mn, s, p[s + 4] & 63);
        twice(out->sc, s + 4, (p[s + 8] & 15) | p[s] >> 6 << 4);
        twice(out->mn, s + 4, p[s + 8] >> 4 | p[s + 4] >> 6 << 4);
    }
}

static void two_bits(const uint8_t q[64], uint8_t u[256])
{
    for (size_t i = 0; i < 256; i++) u[i] = q[32 * (i / 128) + i % 32] >> 2 * (i / 32 % 4) & 3;
}

static void four_bits(const uint8_t q[128], uint8_t u[256])
{
    for (size_t g = 0; g < 4; g++)
        for (size_t l = 0; l < 32; l++) {
            u[64 * g + l] = q[32 * g + l] & 15;
            u[64 * g + 32 + l] = q[32 * g + l] >> 4;
        }
}

void unpack_Q2_K(const struct qrow *row, size_t block, struct qblock *out)
{
    const uint8_t *p = row->data + block * 84;
    out->d = half_at(p + 80);
    out->m = half_at(p + 82);
    for (size_t s = 0; s < 16; s++) {
        out->sc[s] = p[s] & 15;
        out->mn[s] = p[s] >> 4;
    }
    two_bits(p + 16, out->u);
}

void unpack_Q3_K(const struct qrow *row, size_t block, struct qblock *out)
{
    const uint8_t *p = row->data + block * 110, *scales = p + 96;
    out->d = half_at(p + 108);
    for (size_t s = 0; s < 16; s++) {
        int low = s < 8 ? scales[s] & 15 : scales[s - 8] >> 4;
        out->sc[s] = (int16_t)((low | (scales[8 + s % 4] >> 2 * (s / 4) & 3) << 4) - 32);
    }
    two_bits(p + 32, out->u);
    for (size_t i = 0; i < 256; i++) out->u[i] |= (uint8_t)((p[i % 32] >> i / 32 & 1) << 2);
}

void unpack_Q4_K(const struct qrow *row, size_t block, struct qblock *out)
{
    const uint8_t *p = row->data + block * 144;
    out->d = half_at(p);
    out->m = half_at(p + 2);
    unpack_scales(p + 4, out);
    four_bits(p + 16, out->u);
}

void unpack_Q5_K(const struct qrow *row, size_t block, struct qblock *out)
{
    const uint8_t *p = row->data + block * 176;
    out->d = half_at(p);
    out->m = half_at(p + 2);
    unpack_scales(p + 4, out);
    four_bits(p + 48, out->u);
    for (size_t i = 0; i < 256; i++) out->u[i] |= (uint8_t)((p[16 + i % 32] >> i / 32 & 1) << 4);
}

void unpack_Q6_K(const struct qrow *row, size_t block, struct qblock *out)
{
    const uint8_t *p = row->data + block * 210;
    out->d = half_at(p + 208);
    for (size_t s = 0; s < 16; s++) out->sc[s] = (int8_t)p[192 + s];
    for (size_t h = 0; h < 2; h++, p += 64) /* halves of 128 weights, in quarters of 32 */
        for (size_t l = 0; l < 32; l++) {
            const uint8_t high = row->data[block * 210 + 128 + 32 * h + l];
            uint8_t *u = out->u + 128 * h + l;
            u[0] = (uint8_t)((p[l] & 15) | (high & 3) << 4);
            u[32] = (uint8_t)((p[l + 32] & 15) | (high >> 2 & 3) << 4);
            u[64] = (uint8_t)(p[l] >> 4 | (high >> 4 & 3) << 4);
            u[96] = (uint8_t)(p[l + 32] >> 4 | (high >> 6) << 4);
        }
}

/* ---- writing -------------------------------------------------------------------------------------------- */

static void pack_scales(const struct qblock *b, uint8_t p[12])
{
    for (size_t s = 0; s < 4; s++) {
        int sc = b->sc[2 * s + 8], mn = b->mn[2 * s + 8];
        p[s] = (uint8_t)(b->sc[2 * s] | sc >> 4 << 6);
        p[s + 4] = (uint8_t)(b->mn[2 * s] | mn >> 4 << 6);
        p[s + 8] = (uint8_t)((sc & 15) | (mn & 15) << 4);
    }
}

static void put_two_bits(const uint8_t u[256], uint8_t q[64])
{
    memset(q, 0, 64);
    for (size_t i = 0; i < 256; i++) q[32 * (i / 128) + i % 32] |= (uint8_t)((u[i] & 3) << 2 * (i / 32 % 4));
}

static void put_four_bits(const uint8_t u[256], uint8_t q[128])
{
    for (size_t g = 0; g < 4; g++)
        for (size_t l = 0; l < 32; l++) q[32 * g + l] = (uint8_t)((u[64 * g + l] & 15) | (u[64 * g + 32 + l] & 15) << 4);
}

/* Bit `bit` of each u: of weight i at bit i / 32 of byte i % 32. */
static void put_high_bits(const uint8_t u[256], unsigned bit, uint8_t high[32])
{
    memset(high, 0, 32);
    for (size_t i = 0; i < 256; i++) high[i % 32] |= (uint8_t)((u[i] >> bit & 1) << i / 32);
}

static void pack_Q2_K(const struct qblock *b, uint8_t *p)
{
    for (size_t s = 0; s < 16; s++) p[s] = (uint8_t)(b->sc[s] | b->mn[s] << 4);
    put_two_bits(b->u, p + 16);
    put_half(p + 80, b->d);
    put_half(p + 82, b->m);
}

static void pack_Q3_K(const struct qblock *b, uint8_t *p)
{
    put_high_bits(b->u, 2, p);
    put_two_bits(b->u, p + 32);
    uint8_t *scales = p + 96;
    memset(scales, 0, 12);
    for (size_t s = 0; s < 16; s++) {
        unsigned v = (unsigned)(b->sc[s] + 32);
        scales[s % 8] |= (uint8_t)((v & 15) << 4 * (s / 8));
        scales[8 + s % 4] |= (uint8_t)(v >> 4 << 2 * (s / 4));
    }
    put_half(p + 108, b->d);
}

static void pack_Q4_K(const struct qblock *b, uint8_t *p)
{
    put_half(p, b->d);
    put_half(p + 2, b->m);
    pack_scales(b, p + 4);
    put_four_bits(b->u, p + 16);
}

static void pack_Q5_K(const struct qblock *b, uint8_t *p)
{
    put_half(p, b->d);
    put_half(p + 2, b->m);
    pack_scales(b, p + 4);
    put_high_bits(b->u, 4, p + 16);
    put_four_bits(b->u, p + 48);
}

static void pack_Q6_K(const struct qblock *b, uint8_t *p)
{
    put_half(p + 208, b->d);
    for (size_t s = 0; s < 16; s++) p[192 + s] = (uint8_t)b->sc[s];
    for (size_t h = 0; h < 2; h++)
        for (size_t l = 0; l < 32; l++) {
            const uint8_t *u = b->u + 128 * h + l;
            p[64 * h + l] = (uint8_t)((u[0] & 15) | (u[64] & 15) << 4);
            p[64 * h + l + 32] = (uint8_t)((u[32] & 15) | (u[96] & 15) << 4);
            p[128 + 32 * h + l] = (uint8_t)(u[0] >> 4 | u[32] >> 4 << 2 | u[64] >> 4 << 4 | u[96] >> 4 << 6);
        }
}

void quantize_Q2_K(const float *src, const struct qcolumns *c, void *dst, size_t n)
{
    static const struct qfit fit = {
        .type = QTYPE_Q2_K, .lo = 0, .hi = 3, .sub = 16, .sc_lo = 0, .sc_hi = 15, .pack = pack_Q2_K};
    quant_search(&fit, src, c, dst, n);
}

void quantize_Q3_K(const float *src, const struct qcolumns *c, void *dst, size_t n)
{
    static const struct qfit fit = {
        .type = QTYPE_Q3_K, .lo = -4, .hi = 3, .sub = 16, .sc_lo = -32, .sc_hi = 31, .pack = pack_Q3_K};
    quant_search(&fit, src, c, dst, n);
}

void quantize_Q4_K(const float *src, const struct qcolumns *c, void *dst, size_t n)
{
    static const struct qfit fit = {
        .type = QTYPE_Q4_K, .lo = 0, .hi = 15, .sub = 32, .sc_lo = 0, .sc_hi = 63, .pack = pack_Q4_K};
    quant_search(&fit, src, c, dst, n);
}

void quantize_Q5_K(const float *src, const struct qcolumns *c, void *dst, size_t n)
{
    static const struct qfit fit = {
        .type = QTYPE_Q5_K, .lo = 0, .hi = 31, .sub = 32, .sc_lo = 0, .sc_hi = 63, .pack = pack_Q5_K};
    quant_search(&fit, src, c, dst, n);
}

void quantize_Q6_K(const float *src, const struct qcolumns *c, void *dst, size_t n)
{
    static const struct qfit fit = {
        .type = QTYPE_Q6_K, .lo = -32, .hi = 31, .sub = 16, .sc_lo = -128, .sc_hi = 127, .pack = pack_Q6_K};
    quant_search(&fit, src, c, dst, n);
}
