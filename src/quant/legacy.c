/* legacy: blocks of 32 weights with f16 scales, the oldest types of GGUF.
 *
 *   Q8_0   d f16 @0, q int8[32] @2                               w = d * q
 *   Q4_0   d f16 @0, q u8[16] @2                                 w = d * (q - 8)
 *   Q4_1   d f16 @0, m f16 @2, q u8[16] @4                       w = d * q + m
 *   Q5_0   d f16 @0, high u32 @2, q u8[16] @6                    w = d * (q - 16)
 *   Q5_1   d f16 @0, m f16 @2, high u32 @4, q u8[16] @8          w = d * q + m
 *
 * Nibbles: weight j < 16 is the low half of byte j, weight j + 16 the high half. Bit i of high is bit 4 of weight i.
 *
 * Q8_0's quantiser is the one that defines the type: d = amax / 127 in float, q = x * (1 / d) rounded half away from zero, with
 * the d that has not been rounded to binary16 yet. Files are thus the same bytes whichever program wrote them. A block that
 * holds a NaN or an infinity reads back as NaN: its d is not finite and the offending q is 0 or d is NaN. */
#include "quant/quant_int.h"

enum { BLOCK = 32 };

static float half_at(const uint8_t *p)
{
    return f16_to_f32(load_u16(p));
}

static void nibbles(const uint8_t *q, uint8_t u[BLOCK])
{
    for (size_t j = 0; j < 16; j++) {
        u[j] = q[j] & 15;
        u[j + 16] = q[j] >> 4;
    }
}

static void fifth_bits(const uint8_t *p, uint8_t u[BLOCK])
{
    uint32_t high = load_u32(p);
    for (size_t i = 0; i < BLOCK; i++) u[i] |= (uint8_t)((high >> i & 1) << 4);
}

void unpack_Q8_0(const struct qrow *row, size_t block, struct qblock *out)
{
    const uint8_t *p = row->data + block * 34;
    out->d = half_at(p);
    for (size_t i = 0; i < BLOCK; i++) out->u[i] = p[2 + i] ^ 0x80; /* q + 128 */
}

void unpack_Q4_0(const struct qrow *row, size_t block, struct qblock *out)
{
    const uint8_t *p = row->data + block * 18;
    out->d = half_at(p);
    nibbles(p + 2, out->u);
}

void unpack_Q4_1(const struct qrow *row, size_t block, struct qblock *out)
{
    const uint8_t *p = row->data + block * 20;
    out->d = half_at(p);
    out->m = half_at(p + 2);
    nibbles(p + 4, out->u);
}

void unpack_Q5_0(const struct qrow *row, size_t block, struct qblock *out)
{
    const uint8_t *p = row->data + block * 22;
    out->d = half_at(p);
    nibbles(p + 6, out->u);
    fifth_bits(p + 2, out->u);
}

void unpack_Q5_1(const struct qrow *row, size_t block, struct qblock *out)
{
    const uint8_t *p = row->data + block * 24;
    out->d = half_at(p);
    out->m = half_at(p + 2);
    nibbles(p + 8, out->u);
    fifth_bits(p + 4, out->u);
}

/* ---- writing -------------------------------------------------------------------------------------------- */

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

void quantize_Q8_0(const float *src, const struct qcolumns *c, void *dst, size_t n)
{
    uint8_t *out = dst;
    (void)c; /* the step is too fine for it to matter */
    for (size_t b = 0; b < n / BLOCK; b++, src += BLOCK, out += 34) {
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

static void put_nibbles(const uint8_t u[BLOCK], uint8_t *q)
{
    for (size_t j = 0; j < 16; j++) q[j] = (uint8_t)((u[j] & 15) | (u[j + 16] & 15) << 4);
}

static void put_fifth_bits(const uint8_t u[BLOCK], uint8_t *p)
{
    uint32_t high = 0;
    for (size_t i = 0; i < BLOCK; i++) high |= (uint32_t)(u[i] >> 4) << i;
    memcpy(p, &high, sizeof high);
}

static void pack_Q4_0(const struct qblock *b, uint8_t *p)
{
    put_half(p, b->d);
    put_nibbles(b->u, p + 2);
}

static void pack_Q4_1(const struct qblock *b, uint8_t *p)
{
    put_half(p, b->d);
    put_half(p + 2, b->m);
    put_nibbles(b->u, p + 4);
}

static void pack_Q5_0(const struct qblock *b, uint8_t *p)
{
    put_half(p, b->d);
    put_fifth_bits(b->u, p + 2);
    put_nibbles(b->u, p + 6);
}

static void pack_Q5_1(const struct qblock *b, uint8_t *p)
{
    put_half(p, b->d);
    put_half(p + 2, b->m);
    put_fifth_bits(b->u, p + 4);
    put_nibbles(b->u, p + 8);
}

void quantize_Q4_0(const float *src, const struct qcolumns *c, void *dst, size_t n)
{
    static const struct qfit fit = {.type = QTYPE_Q4_0, .lo = -8, .hi = 7, .sub = BLOCK, .pack = pack_Q4_0};
    quant_search(&fit, src, c, dst, n);
}

void quantize_Q4_1(const float *src, const struct qcolumns *c, void *dst, size_t n)
{
    static const struct qfit fit = {.type = QTYPE_Q4_1, .hi = 15, .sub = BLOCK, .min_any = true, .pack = pack_Q4_1};
    quant_search(&fit, src, c, dst, n);
}

void quantize_Q5_0(const float *src, const struct qcolumns *c, void *dst, size_t n)
{
    static const struct qfit fit = {.type = QTYPE_Q5_0, .lo = -16, .hi = 15, .sub = BLOCK, .pack = pack_Q5_0};
    quant_search(&fit, src, c, dst, n);
}

void quantize_Q5_1(const float *src, const struct qcolumns *c, void *dst, size_t n)
{
    static const struct qfit fit = {.type = QTYPE_Q5_1, .hi = 31, .sub = BLOCK, .min_any = true, .pack = pack_Q5_1};
    quant_search(&fit, src, c, dst, n);
}
