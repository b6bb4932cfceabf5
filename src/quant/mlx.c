/* mlx: the types of MLX folders. A matrix is up to three tensors: packed integers, and for each group of 32, 64 or 128 weights
 * of a row a scale and a bias (struct qside). A block here is as many weights as share an activation scale, so a group is one
 * block or several that repeat its scale.
 *
 *   MLX2 to MLX8   q of 2, 3, 4, 5, 6 or 8 bits                            w = scale * q + bias
 *   MLX_MXFP4      e2m1, one e8m0 for each 32                              w = 2^(e - 127) * fp4
 *   MLX_MXFP8      e4m3, one e8m0 for each 32                              w = 2^(e - 127) * fp8
 *   MLX_NVFP4      e2m1, one e4m3 for each 16                              w = fp8 * fp4
 *
 * The integers of a row are one stream of bits, lowest first: weight i is bits i * b .. i * b + b - 1 of it. (The files call
 * the stream 32-bit words; on a little-endian machine that is the same.) */
#include <math.h>

#include "quant/quant_int.h"

enum { BLOCK = 32, NVFP4_BLOCK = 16 };

/* Index in the arrays of row->side of the group of weight number `from` of the row. Groups are powers of two. */
static size_t group_at(const struct qrow *row, size_t from)
{
    return row->first_group + (from >> __builtin_ctz(row->side->group));
}

static float side_float(enum qtype type, const uint8_t *p, size_t i)
{
    float f;
    if (type == QTYPE_F16) return f16_to_f32(load_u16(p + 2 * i));
    if (type == QTYPE_BF16) return bf16_to_f32(load_u16(p + 2 * i));
    memcpy(&f, p + 4 * i, sizeof f);
    return f;
}

/* ---- affine ------------------------------------------------------------------------------------------------- */

/* Eight fields of b bits, side by side from bit 0 on, each moved to a byte of its own: by halves, quarters, eighths. */
static inline uint64_t spread(uint64_t x, const unsigned b)
{
    const uint64_t four = (UINT64_C(1) << 4 * b) - 1;
    const uint64_t two = ((UINT64_C(1) << 2 * b) - 1) * UINT64_C(0x100000001);
    const uint64_t one = ((UINT64_C(1) << b) - 1) * UINT64_C(0x1000100010001);
    x = (x & four) | (x >> 4 * b) << 32;
    x = (x & two) | (x << (16 - 2 * b) & two << 16);
    return (x & one) | (x << (8 - b) & one << 8);
}

static inline void unpack_affine(const struct qrow *row, size_t block, struct qblock *out, const unsigned b)
{
    const struct qside *side = row->side;
    const uint8_t *p = row->data + block * 4 * b;
    const size_t group = group_at(row, block * BLOCK);
    out->d = side_float(side->type, side->scales, group);
    out->m = side_float(side->type, side->biases, group);
    for (size_t i = 0; i < BLOCK; i += 8, p += b) {
        uint64_t x = 0;
        memcpy(&x, p, b);
        x = spread(x, b);
        memcpy(out->u + i, &x, 8);
    }
}

#define AFFINE(NAME, b)                                                          \
    void unpack_##NAME(const struct qrow *row, size_t block, struct qblock *out) \
    {                                                                            \
        unpack_affine(row, block, out, b);                                       \
    }
AFFINE(MLX2, 2)
AFFINE(MLX3, 3)
AFFINE(MLX4, 4)
AFFINE(MLX5, 5)
AFFINE(MLX6, 6)
AFFINE(MLX8, 8)

/* ---- microscaling ------------------------------------------------------------------------------------------- */

/* e4m3: s eeee mmm, bias 7, subnormals are m * 2^-9; it has no infinity, and its NaN is all ones. */
static float e4m3(uint8_t b)
{
    const uint32_t mag = b & 0x7fu, normal = (mag << 20) + (UINT32_C(120) << 23);
    const float small = (float)mag * 0x1p-9f;
    float f;
    memcpy(&f, &normal, sizeof f);
    f = mag < 8 ? small : mag == 0x7f ? NAN : f;
    return b & 0x80 ? -f : f;
}

void unpack_MLX_MXFP4(const struct qrow *row, size_t block, struct qblock *out)
{
    const uint8_t *p = row->data + block * 16;
    out->d = quant_e8m0_half(row->side->scales[group_at(row, block * BLOCK)]);
    for (size_t j = 0; j < 16; j++) {
        out->u[2 * j] = quant_fp4[p[j] & 15];
        out->u[2 * j + 1] = quant_fp4[p[j] >> 4];
    }
}

void row_to_float_MLX_MXFP8(const struct qrow *row, size_t from, float *dst, size_t n)
{
    const uint8_t *p = row->data + from, *scales = row->side->scales + group_at(row, from);
    for (size_t i = 0; i < n; i += BLOCK, scales++) {
        const float scale = 2 * quant_e8m0_half(*scales);
        for (size_t j = i; j < i + BLOCK; j++) dst[j] = scale * e4m3(p[j]);
    }
}

void row_to_float_MLX_NVFP4(const struct qrow *row, size_t from, float *dst, size_t n)
{
    const uint8_t *p = row->data + from / 2, *scales = row->side->scales + group_at(row, from);
    for (size_t i = 0; i < n; i += NVFP4_BLOCK, p += NVFP4_BLOCK / 2, scales++) {
        const float half = 0.5f * e4m3(*scales);
        for (size_t j = 0; j < NVFP4_BLOCK / 2; j++) {
            dst[i + 2 * j] = half * (float)(quant_fp4[p[j] & 15] - 12);
            dst[i + 2 * j + 1] = half * (float)(quant_fp4[p[j] >> 4] - 12);
        }
    }
}
