/* ternary: weights -1, 0 and 1 in superblocks of 256, w = d * (q - 1).
 *
 *   TQ1_0   54 bytes: q u8[48] @0 (5 digits of base 3 a byte), rest u8[4] @48 (4 digits a byte), d f16 @52
 *   TQ2_0   66 bytes: q u8[64] @0 (4 pairs of bits a byte), d f16 @64
 *
 * Digits of TQ1_0: a byte holds the fraction of a number in [0, 1) of base 3, scaled to 256 and rounded up, so that digit n is
 * the whole part of 3 * (byte * 3^n mod 256) / 256. Bytes come in runs of 32, 16 and 4; digit n of the run's byte l is weight
 * n * run + l of it. */
#include "quant/quant_int.h"

static void digits(const uint8_t *q, size_t run, size_t n, uint8_t *u)
{
    for (size_t i = 0; i < n; i++)
        for (size_t l = 0; l < run; l++) {
            static const uint8_t powers[5] = {1, 3, 9, 27, 81};
            uint8_t rest = (uint8_t)(q[l] * powers[i]);
            u[i * run + l] = (uint8_t)(rest * 3 >> 8);
        }
}

static void one_scale(struct qblock *out)
{
    for (size_t s = 0; s < 16; s++) out->sc[s] = 1;
}

void unpack_TQ1_0(const struct qrow *row, size_t block, struct qblock *out)
{
    const uint8_t *p = row->data + block * 54;
    out->d = f16_to_f32(load_u16(p + 52));
    one_scale(out);
    digits(p, 32, 5, out->u);
    digits(p + 32, 16, 5, out->u + 160);
    digits(p + 48, 4, 4, out->u + 240);
}

void unpack_TQ2_0(const struct qrow *row, size_t block, struct qblock *out)
{
    const uint8_t *p = row->data + block * 66;
    out->d = f16_to_f32(load_u16(p + 64));
    one_scale(out);
    for (size_t i = 0; i < 256; i++) out->u[i] = p[32 * (i / 128) + i % 32] >> 2 * (i / 32 % 4) & 3;
}
