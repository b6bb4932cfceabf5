/* q8_0: blocks of 32 weights, w = d * q.
 *
 *   byte 0  d   binary16
 *   byte 2  q   int8[32], -127..127
 *
 * The quantiser is the one that defines the type: d = amax / 127 in float, q = x * (1 / d) rounded half away from zero, with
 * the d that has not been rounded to binary16 yet. Files are thus the same bytes whichever program wrote them.
 *
 * A block that holds a NaN or an infinity reads back as NaN: its d is not finite and the offending q is 0 or d is NaN. */
#include "quant/quant_int.h"

enum { BLOCK = 32, BLOCK_BYTES = 34 };

/* The largest |x[i]|. Magnitudes compare as integers, and NaN compares above infinity, so that it is never lost. */
static float block_amax(const float *x)
{
    uint32_t max = 0;
    for (size_t i = 0; i < BLOCK; i++) {
        uint32_t u;
        memcpy(&u, &x[i], sizeof u);
        u &= 0x7fffffffu;
        if (u > max) max = u;
    }
    float f;
    memcpy(&f, &max, sizeof f);
    return f;
}

/* v rounded half away from zero. It is within -127.1..127.1 save where 1 / d overflowed (d below 2^-128) or the block is not
 * finite. The fraction is exact, so this equals roundf, without a call for each weight. */
static int8_t round_q(float v)
{
    v = v < -127.0f ? -127.0f : v > 127.0f ? 127.0f : v == v ? v : 0.0f;
    int q = (int)v;
    float rest = v - (float)q;
    return (int8_t)(q + (rest >= 0.5f) - (rest <= -0.5f));
}

void from_float_Q8_0(const float *src, void *dst, size_t n)
{
    uint8_t *out = dst;
    for (size_t b = 0; b < n / BLOCK; b++, src += BLOCK, out += BLOCK_BYTES) {
        float d = block_amax(src) / 127.0f;
        float id = d != 0.0f ? 1.0f / d : 0.0f;
        uint16_t h = f32_to_f16(d);
        memcpy(out, &h, sizeof h);
        for (size_t i = 0; i < BLOCK; i++) {
            int8_t q = round_q(src[i] * id);
            memcpy(out + 2 + i, &q, 1);
        }
    }
}

void to_float_Q8_0(const void *src, float *dst, size_t n)
{
    const uint8_t *in = src;
    for (size_t b = 0; b < n / BLOCK; b++, dst += BLOCK, in += BLOCK_BYTES) {
        float d = f16_to_f32(load_u16(in));
        for (size_t i = 0; i < BLOCK; i++) dst[i] = d * (float)(int8_t)in[2 + i];
    }
}
