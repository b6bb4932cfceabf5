/* codebook: 1 to 3 bits a weight, in superblocks of 256. Eight weights (IQ3: four) are one point of a grid in which only the
 * useful ones of all combinations of levels are kept (codebook_tables.h); an index names it. IQ2 and IQ3 keep magnitudes there,
 * and the signs beside them.
 *
 *   IQ2_XXS   66 bytes: d f16 @0, then for each 32: index u8[4], signs u7[4] and scale u4 in a u32
 *   IQ2_XS    74 bytes: d f16 @0, index u9 and signs u7 in u16[32] @2, scales u8[8] @66
 *   IQ2_S     82 bytes: d f16 @0, index u8[32] @2, signs u8[32] @34, high u8[8] @66, scales u8[8] @74
 *             w = d / 8 * (2 * scale + 1) * +-{8, 25, 43}
 *   IQ3_XXS   98 bytes: d f16 @0, index u8[64] @2, signs u7[4] and scale u4 in u32[8] @66
 *             w = d / 4 * (2 * scale + 1) * +-{4, 12, 20, 28, 36, 44, 52, 62}
 *   IQ3_S    110 bytes: d f16 @0, index u8[64] @2, high u8[8] @66, signs u8[32] @74, scales u8[4] @106
 *             w = d * (2 * scale + 1) * +-{1, 3, .. 15}
 *   IQ1_S     50 bytes: d f16 @0, index u8[32] @2, high u16[8] @34: index u3[4], scale u3, minus u1
 *   IQ1_M     56 bytes: index u8[32] @0, high u4[32] @32: index u3, minus u1; scales u16[4] @48: scale u3[4], a quarter of d
 *             w = d / 8 * (2 * scale + 1) * (8 * {-1, 0, 1} +- 1)
 *
 * Fields are named from the lowest bit up. Points, scales (of 16 weights in IQ2_XS, IQ2_S and IQ1_M, else of 32) and the bits
 * of high are in the order of the weights. Seven signs have an eighth that makes the number of minuses even. */
#include "quant/codebook_tables.h"
#include "quant/quant_int.h"

#define BYTES(n) (UINT64_C(0x0101010101010101) * (n))

static void put_signed(uint8_t u[8], uint64_t point, uint8_t minus)
{
    /* 64 + v becomes 64 - v = 127 - (64 + v) + 1. */
    const uint64_t flip = signs[minus], q = (point ^ flip) + (flip & BYTES(1));
    memcpy(u, &q, sizeof q);
}

static uint64_t point_of_two(const uint32_t *points, size_t first, size_t second)
{
    return points[first] | (uint64_t)points[second] << 32;
}

/* Of weights 32 g .. 32 g + 15, and 32 g + 16 .. 32 g + 31. */
static void put_scales(struct qblock *out, size_t g, unsigned first, unsigned second)
{
    out->sc[2 * g] = (int16_t)(2 * first + 1);
    out->sc[2 * g + 1] = (int16_t)(2 * second + 1);
}

void unpack_IQ2_XXS(const struct qrow *row, size_t block, struct qblock *out)
{
    const uint8_t *p = row->data + block * 66;
    out->d = f16_to_f32(load_u16(p)) / 8;
    for (size_t g = 0; g < 8; g++) {
        const uint8_t *index = p + 2 + 8 * g;
        const uint32_t minus = load_u32(index + 4);
        put_scales(out, g, minus >> 28, minus >> 28);
        for (size_t l = 0; l < 4; l++)
            put_signed(out->u + 32 * g + 8 * l, points_iq2_xxs[index[l]], even[minus >> 7 * l & 127]);
    }
}

void unpack_IQ2_XS(const struct qrow *row, size_t block, struct qblock *out)
{
    const uint8_t *p = row->data + block * 74, *scales = p + 66;
    out->d = f16_to_f32(load_u16(p)) / 8;
    for (size_t g = 0; g < 8; g++) put_scales(out, g, scales[g] & 15, scales[g] >> 4);
    for (size_t i = 0; i < 32; i++) {
        const unsigned q = load_u16(p + 2 + 2 * i);
        put_signed(out->u + 8 * i, points_iq2_xs[q & 511], even[q >> 9]);
    }
}

void unpack_IQ2_S(const struct qrow *row, size_t block, struct qblock *out)
{
    const uint8_t *p = row->data + block * 82, *index = p + 2, *minus = p + 34, *high = p + 66, *scales = p + 74;
    out->d = f16_to_f32(load_u16(p)) / 8;
    for (size_t g = 0; g < 8; g++) put_scales(out, g, scales[g] & 15, scales[g] >> 4);
    for (size_t i = 0; i < 32; i++)
        put_signed(out->u + 8 * i, points_iq2_s[index[i] | (high[i / 4] >> 2 * (i % 4) & 3) << 8], minus[i]);
}

void unpack_IQ3_XXS(const struct qrow *row, size_t block, struct qblock *out)
{
    const uint8_t *p = row->data + block * 98;
    out->d = f16_to_f32(load_u16(p)) / 4;
    for (size_t g = 0; g < 8; g++) {
        const uint8_t *index = p + 2 + 8 * g;
        const uint32_t minus = load_u32(p + 66 + 4 * g);
        put_scales(out, g, minus >> 28, minus >> 28);
        for (size_t l = 0; l < 4; l++)
            put_signed(out->u + 32 * g + 8 * l, point_of_two(points_iq3_xxs, index[2 * l], index[2 * l + 1]),
                       even[minus >> 7 * l & 127]);
    }
}

void unpack_IQ3_S(const struct qrow *row, size_t block, struct qblock *out)
{
    const uint8_t *p = row->data + block * 110, *minus = p + 74, *scales = p + 106;
    out->d = f16_to_f32(load_u16(p));
    for (size_t g = 0; g < 8; g++) {
        const uint8_t *index = p + 2 + 8 * g;
        const unsigned high = p[66 + g], scale = scales[g / 2] >> 4 * (g % 2) & 15;
        put_scales(out, g, scale, scale);
        for (size_t l = 0; l < 4; l++)
            put_signed(out->u + 32 * g + 8 * l,
                       point_of_two(points_iq3_s, index[2 * l] | (high >> 2 * l & 1) << 8,
                                    index[2 * l + 1] | (high >> (2 * l + 1) & 1) << 8),
                       minus[4 * g + l]);
    }
}

/* high: three bits of the index; minus: 1 where the point moves down by an eighth, 0 where up. A branch would be a guess. */
static void put_shifted(uint8_t u[8], uint8_t index, unsigned high, unsigned minus)
{
    const uint64_t q = points_iq1[index | (high & 7) << 8] - BYTES(2) * minus;
    memcpy(u, &q, sizeof q);
}

void unpack_IQ1_S(const struct qrow *row, size_t block, struct qblock *out)
{
    const uint8_t *p = row->data + block * 50;
    out->d = f16_to_f32(load_u16(p)) / 8;
    for (size_t g = 0; g < 8; g++) {
        const unsigned high = load_u16(p + 34 + 2 * g), scale = high >> 12 & 7;
        put_scales(out, g, scale, scale);
        for (size_t l = 0; l < 4; l++) put_shifted(out->u + 32 * g + 8 * l, p[2 + 4 * g + l], high >> 3 * l, high >> 15);
    }
}

void unpack_IQ1_M(const struct qrow *row, size_t block, struct qblock *out)
{
    const uint8_t *p = row->data + block * 56, *high = p + 32, *scales = p + 48;
    unsigned d = 0;
    for (size_t i = 0; i < 4; i++) d |= (unsigned)load_u16(scales + 2 * i) >> 12 << 4 * i;
    out->d = f16_to_f32((uint16_t)d) / 8;
    for (size_t g = 0; g < 8; g++) {
        const unsigned two = load_u16(scales + g / 2 * 2) >> 6 * (g % 2);
        put_scales(out, g, two & 7, two >> 3 & 7);
    }
    for (size_t i = 0; i < 32; i++) {
        const unsigned h = high[i / 2] >> 4 * (i % 2);
        put_shifted(out->u + 8 * i, p[i], h, h >> 3 & 1);
    }
}
