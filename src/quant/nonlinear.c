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

/* ---- writing -------------------------------------------------------------------------------------------- */

static const int8_t iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const int8_t fp4_levels[16] = {-12, -8, -6, -4, -3, -2, -1, 0, 0, 1, 2, 3, 4, 6, 8, 12};

static void put_nibbles(const uint8_t u[32], uint8_t q[16])
{
    for (size_t j = 0; j < 16; j++) q[j] = (uint8_t)(u[j] | u[j + 16] << 4);
}

static void pack_IQ4_NL(const struct qblock *b, uint8_t *p)
{
    put_half(p, b->d);
    put_nibbles(b->u, p + 2);
}

static void pack_IQ4_XS(const struct qblock *b, uint8_t *p)
{
    put_half(p, b->d);
    memset(p + 2, 0, 6);
    for (size_t g = 0; g < 8; g++) {
        unsigned scale = (unsigned)(b->sc[2 * g] + 32);
        p[2 + g / 4] |= (uint8_t)(scale >> 4 << 2 * (g % 4));
        p[4 + g / 2] |= (uint8_t)((scale & 15) << 4 * (g % 2));
        put_nibbles(b->u + 32 * g, p + 8 + 16 * g);
    }
}

void quantize_IQ4_NL(const float *src, const struct qcolumns *c, void *dst, size_t n)
{
    static const struct qfit fit = {
        .type = QTYPE_IQ4_NL, .lo = -127, .hi = 113, .levels = iq4_levels, .sub = 32, .pack = pack_IQ4_NL};
    quant_search(&fit, src, c, dst, n);
}

void quantize_IQ4_XS(const float *src, const struct qcolumns *c, void *dst, size_t n)
{
    static const struct qfit fit = {.type = QTYPE_IQ4_XS,
                                    .lo = -127,
                                    .hi = 113,
                                    .levels = iq4_levels,
                                    .sub = 32,
                                    .sc_lo = -32,
                                    .sc_hi = 31,
                                    .pack = pack_IQ4_XS};
    quant_search(&fit, src, c, dst, n);
}

/* The exponent e for which 6 * 2^(e - 127) or less is the power of two above max; a half of it or twice may do better. */
static unsigned exponent_of(float max)
{
    uint32_t u;
    memcpy(&u, &max, sizeof u);
    int e = (int)(u >> 23 & 255) - 2;
    return (unsigned)(e < 1 ? 1 : e > 253 ? 253 : e);
}

void quantize_MXFP4(const float *src, const struct qcolumns *c, void *dst, size_t n)
{
    static const struct qfit fit = {.type = QTYPE_MXFP4, .lo = -12, .hi = 12, .levels = fp4_levels, .sub = 32};
    float carried = 0.0f;
    struct qblock b;
    uint8_t *p = dst;
    for (size_t i = 0; i < n; i += 32, p += 17) {
        float max = 0.0f, w[32], best = 0.0f;
        memset(p, 0, 17);
        for (size_t k = 0; k < 32; k++) {
            float a = src[i + k] < 0 ? -src[i + k] : src[i + k];
            if (a > max || a != a) max = a;
        }
        if (max < 0x1p-40f) continue;
        if (!(max <= 0x1p40f)) {
            memset(p + 1, 0x77, 16); /* the largest level times the largest scale: infinity */
            p[0] = 255;
            continue;
        }
        const struct qcolumns at = qcolumns_from(c, i);
        quant_weights(src + i, at.squares, 32, w);
        for (unsigned e = exponent_of(max) - 1, k = 0; k < 3; k++, e++) {
            uint8_t u[32];
            const float d = quant_e8m0_half((uint8_t)e), err = quant_nearest(&fit, src + i, w, 32, d, u);
            if (k > 0 && !(err < best)) continue;
            best = err;
            b.d = d;
            p[0] = (uint8_t)e;
            memcpy(b.u, u, sizeof u);
        }
        if (at.means) quant_balance(&fit, src + i, &at, &b, &carried);
        for (size_t j = 0; j < 32; j++) b.u[j] = b.u[j] < 8 ? 15 - b.u[j] : b.u[j] - 8;
        put_nibbles(b.u, p + 1);
    }
}
