/* nonlinear: 4-bit types whose nibble is looked up in a table.
 *
 *   IQ4_NL   18 bytes for 32: d f16 @0, q u8[16] @2                                     w = d * table[q]
 *   IQ4_XS  136 bytes for 256: d f16 @0, high u16 @2, low u8[4] @4, q u8[128] @8        w = d * (scale - 32) * table[q]
 *   MXFP4    17 bytes for 32: e u8 @0, q u8[16] @1                                      w = 2^(e - 128) * fp4[q]
 *
 * Nibbles as in Q4_0, in groups of 32. The values of e2m1 are doubled, so that they are integers, and the scale is halved. */
#include "quant/quant_int.h"

/* The levels of IQ4, + 128. */
static const uint8_t iq4[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
const uint8_t quant_fp4[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

static void look_up(const uint8_t table[16], const uint8_t q[16], uint8_t u[32])
{
    for (size_t j = 0; j < 16; j++) {
        u[j] = table[q[j] & 15];
        u[j + 16] = table[q[j] >> 4];
    }
}

void unpack_IQ4_NL(const struct qrow *row, size_t block, struct qblock *out)
{
    const uint8_t *p = row->data + block * 18;
    out->d = f16_to_f32(load_u16(p));
    look_up(iq4, p + 2, out->u);
}

void unpack_IQ4_XS(const struct qrow *row, size_t block, struct qblock *out)
{
    const uint8_t *p = row->data + block * 136;
    const unsigned high = load_u16(p + 2);
    out->d = f16_to_f32(load_u16(p));
    for (size_t g = 0; g < 8; g++) {
        unsigned scale = (p[4 + g / 2] >> 4 * (g % 2) & 15u) | (high >> 2 * g & 3) << 4;
        out->sc[2 * g] = out->sc[2 * g + 1] = (int16_t)((int)scale - 32);
        look_up(iq4, p + 8 + 16 * g, out->u + 32 * g);
    }
}

float quant_e8m0_half(uint8_t e)
{
    /* The two smallest are subnormal. */
    uint32_t bits = e < 2 ? UINT32_C(0x200000) << e : (uint32_t)(e - 1) << 23;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

void unpack_MXFP4(const struct qrow *row, size_t block, struct qblock *out)
{
    const uint8_t *p = row->data + block * 17;
    out->d = quant_e8m0_half(p[0]);
    look_up(quant_fp4, p + 1, out->u);
}
