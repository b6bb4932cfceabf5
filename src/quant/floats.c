/* floats: IEEE half, bfloat16 and float rows.
 *
 * The conversions work on the bits and not through the machine's instructions: x86 and Arm agree on ordinary numbers, but
 * the rounding mode, flush-to-zero flags and the treatment of NaN depend on machine state, and a file that Quern writes or a
 * logit that it prints must not. The results equal those of VCVTPS2PH / FCVT in their default mode (round to nearest even,
 * subnormals exact), so kernels may use those instructions.
 *
 *   binary32   s eeeeeeee mmmmmmmmmmmmmmmmmmmmmmm    bias 127
 *   binary16   s eeeee    mmmmmmmmmm                 bias 15, subnormals are m * 2^-24
 *   bfloat16   s eeeeeeee mmmmmmm                    the upper half of binary32
 *
 * A NaN becomes quiet and keeps its sign and the top bits of its payload. */
#include "quant/quant_int.h"

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* m >> shift, rounded to nearest even; shift 1..31. */
static uint32_t shift_rne(uint32_t m, unsigned shift)
{
    uint32_t half = UINT32_C(1) << (shift - 1);
    uint32_t rest = m & ((half << 1) - 1);
    uint32_t q = m >> shift;
    return q + (rest > half || (rest == half && (q & 1)));
}

float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exp = (h >> 10) & 31u;
    uint32_t mant = h & 0x3ffu;
    if (exp == 31) return float_of(sign | 0x7f800000u | mant << 13 | (mant ? 0x400000u : 0));
    if (exp != 0) return float_of(sign | (exp + 112) << 23 | mant << 13);
    if (mant == 0) return float_of(sign);
    /* A subnormal half is a normal float: bring its leading one to bit 10. */
    unsigned up = (unsigned)__builtin_clz(mant) - 21;
    return float_of(sign | (113 - up) << 23 | (mant << up & 0x3ffu) << 13);
}

uint16_t f32_to_f16(float f)
{
    uint32_t u = bits_of(f);
    uint32_t sign = u >> 16 & 0x8000u;
    uint32_t mag = u & 0x7fffffffu;
    if (mag > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (mag >> 13 & 0x3ffu));
    if (mag >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and above round to infinity */
    /* Normal: rounding the float's own exponent and mantissa as one integer carries into the exponent rightly. */
    if (mag >= 0x38800000u) return (uint16_t)(sign | (shift_rne(mag, 13) - (112u << 10)));
    /* At most 2^-25: zero (a tie at 2^-25 goes to the even zero). */
    if (mag <= 0x33000000u) return (uint16_t)sign;
    /* Subnormal, in units of 2^-24; the exponent is 102..112 here, so the shift is 14..24. */
    return (uint16_t)(sign | shift_rne((mag & 0x7fffffu) | 0x800000u, 126 - (mag >> 23)));
}

uint16_t f32_to_bf16(float f)
{
    uint32_t u = bits_of(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)shift_rne(u, 16);
}

void row_to_float_F32(const struct qrow *row, size_t from, float *dst, size_t n)
{
    memcpy(dst, row->data + from * sizeof *dst, n * sizeof *dst);
}

void quantize_F32(const float *src, const struct qcolumns *c, void *dst, size_t n)
{
    (void)c;
    memcpy(dst, src, n * sizeof *src);
}

void row_to_float_F16(const struct qrow *row, size_t from, float *dst, size_t n)
{
    for (size_t i = 0; i < n; i++) dst[i] = f16_to_f32(load_u16(row->data + 2 * (from + i)));
}

void quantize_F16(const float *src, const struct qcolumns *c, void *dst, size_t n)
{
    (void)c;
    uint8_t *p = dst;
    for (size_t i = 0; i < n; i++) {
        uint16_t h = f32_to_f16(src[i]);
        memcpy(p + 2 * i, &h, sizeof h);
    }
}

void row_to_float_BF16(const struct qrow *row, size_t from, float *dst, size_t n)
{
    for (size_t i = 0; i < n; i++) dst[i] = bf16_to_f32(load_u16(row->data + 2 * (from + i)));
}

void quantize_BF16(const float *src, const struct qcolumns *c, void *dst, size_t n)
{
    (void)c;
    uint8_t *p = dst;
    for (size_t i = 0; i < n; i++) {
        uint16_t h = f32_to_bf16(src[i]);
        memcpy(p + 2 * i, &h, sizeof h);
    }
}
