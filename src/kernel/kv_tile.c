/* kv_tile: how keys and values lie in the tiles of the KV cache (kernel.h has the layouts) and how floats become one. This is
 * also the specification: SIMD kernels read the same layouts into the same floats. */
#include <math.h>

#include "kernel/kernel.h"

enum { BYTES_MAX = ATTN_DIM_MAX * sizeof(float), BLOCKS_MAX = ATTN_DIM_MAX / KV_BLOCK };

static float f32_at(const uint8_t *p, size_t i)
{
    uint32_t bits = load_u32(p + 4 * i);
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
static float f16_at(const uint8_t *p, size_t i)
{
    return f16_to_f32(load_u16(p + 2 * i));
}
static float bf16_at(const uint8_t *p, size_t i)
{
    return bf16_to_f32(load_u16(p + 2 * i));
}
static float i8_at(const uint8_t *p, size_t i)
{
    return (float)(int8_t)p[i];
}

static float k_q8_0(const uint8_t *tile, size_t dim, size_t j, size_t d)
{
    (void)dim;
    return i8_at(tile, (d / 4 * ATTN_TILE + j) * 4 + d % 4);
}
static float k_q4_0(const uint8_t *tile, size_t dim, size_t j, size_t d)
{
    (void)dim;
    return (float)((tile[(d / 8 * ATTN_TILE + j) * 4 + d % 4] >> d / 4 % 2 * 4 & 15) - 8);
}
static float v_q8_0(const uint8_t *tile, size_t dim, size_t j, size_t d)
{
    return i8_at(tile, j * attn_blocks(dim) * KV_BLOCK + d);
}
static float v_q4_0(const uint8_t *tile, size_t dim, size_t j, size_t d)
{
    const uint8_t *block = tile + (j * attn_blocks(dim) + d / KV_BLOCK) * 16;
    return (float)((block[d % 16] >> d / 16 % 2 * 4 & 15) - 8);
}

/* Element d of the key or value of position j, for quantised types without its scale. */
#define FLOATS(type)                                                           \
    static float k_##type(const uint8_t *tile, size_t dim, size_t j, size_t d) \
    {                                                                          \
        (void)dim;                                                             \
        return type##_at(tile, d * ATTN_TILE + j);                             \
    }                                                                          \
    static float v_##type(const uint8_t *tile, size_t dim, size_t j, size_t d) \
    {                                                                          \
        return type##_at(tile, j * dim + d);                                   \
    }
FLOATS(f32)
FLOATS(f16)
FLOATS(bf16)

static const struct {
    unsigned bits;
    float (*k)(const uint8_t *tile, size_t dim, size_t j, size_t d);
    float (*v)(const uint8_t *tile, size_t dim, size_t j, size_t d);
} types[QTYPE_COUNT] = {
    [QTYPE_F32] = {32, k_f32, v_f32},   [QTYPE_F16] = {16, k_f16, v_f16},   [QTYPE_BF16] = {16, k_bf16, v_bf16},
    [QTYPE_Q8_0] = {8, k_q8_0, v_q8_0}, [QTYPE_Q4_0] = {4, k_q4_0, v_q4_0},
};

unsigned attn_bits(enum qtype t)
{
    return types[t].bits;
}

size_t attn_bytes(enum qtype t, size_t dim)
{
    if (attn_quantised(t)) return attn_scales(types[t].bits, dim) + attn_blocks(dim) * ATTN_TILE * 2;
    return ATTN_TILE * dim * types[t].bits / 8;
}

void attn_key(enum qtype t, const void *tile, size_t dim, size_t pos, float *x, float *d)
{
    const bool quantised = attn_quantised(t);
    const uint8_t *scales = (const uint8_t *)tile + attn_scales(types[t].bits, dim);
    for (size_t i = 0; i < (quantised ? attn_blocks(dim) * KV_BLOCK : dim); i++) x[i] = types[t].k(tile, dim, pos, i);
    for (size_t b = 0; quantised && b < attn_blocks(dim); b++) d[b] = f16_at(scales, b * ATTN_TILE + pos);
}

void attn_value(enum qtype t, const void *tile, size_t dim, size_t pos, float *x)
{
    const uint8_t *scales = (const uint8_t *)tile + attn_scales(types[t].bits, dim);
    for (size_t i = 0; i < dim; i++) {
        x[i] = types[t].v(tile, dim, pos, i);
        if (attn_quantised(t)) x[i] = f16_at(scales, pos * attn_blocks(dim) + i / KV_BLOCK) * x[i];
    }
}

const struct kv_rule kv_q8_0 = {127.0f, -127.0f, 127.0f, 0.0f}, kv_q4_0 = {-8.0f, -8.0f, 7.0f, 8.0f};

uint16_t kv_scale(const struct kv_rule *rule, float low, float high, bool finite, float *id)
{
    uint16_t half = f32_to_f16((-low > high ? low : high) / rule->steps);
    float d = f16_to_f32(half);
    *id = finite && d != 0.0f ? 1.0f / d : 0.0f;
    return finite ? half : 0x7e00; /* NaN */
}

void attn_store_k(const struct kernels *kn, enum qtype t, const float *x, size_t dim, void *tile, size_t pos)
{
    uint8_t q[BYTES_MAX], *to = tile;
    uint16_t d[BLOCKS_MAX];
    const unsigned bits = types[t].bits;
    const size_t blocks = attn_blocks(dim);
    kn->from_float[t](x, dim, q, d);
    if (bits == 32) {
        for (size_t i = 0; i < dim; i++) memcpy(to + (i * ATTN_TILE + pos) * 4, q + 4 * i, 4);
    } else if (bits == 16) {
        for (size_t i = 0; i < dim; i++) memcpy(to + (i * ATTN_TILE + pos) * 2, q + 2 * i, 2);
    } else if (bits == 8) {
        for (size_t i = 0; i < blocks * KV_BLOCK / 4; i++) memcpy(to + (i * ATTN_TILE + pos) * 4, q + 4 * i, 4);
    } else {
        for (size_t i = 0; i < blocks * KV_BLOCK / 8; i++)
            for (size_t c = 0; c < 4; c++) to[(i * ATTN_TILE + pos) * 4 + c] = (uint8_t)(q[8 * i + c] | q[8 * i + 4 + c] << 4);
    }
    if (!attn_quantised(t)) return;
    to += attn_scales(bits, dim);
    for (size_t b = 0; b < blocks; b++) memcpy(to + (b * ATTN_TILE + pos) * 2, &d[b], 2);
}

void attn_store_v(const struct kernels *kn, enum qtype t, const float *x, size_t dim, void *tile, size_t pos)
{
    uint8_t q[BYTES_MAX], *to = tile;
    uint16_t d[BLOCKS_MAX];
    const unsigned bits = types[t].bits;
    const size_t blocks = attn_blocks(dim);
    if (!attn_quantised(t)) {
        kn->from_float[t](x, dim, to + pos * dim * bits / 8, d);
        return;
    }
    kn->from_float[t](x, dim, q, d);
    memcpy(to + attn_scales(bits, dim) + pos * blocks * 2, d, blocks * 2);
    to += pos * blocks * KV_BLOCK / 8 * bits;
    if (bits == 8)
        memcpy(to, q, blocks * KV_BLOCK);
    else
        for (size_t i = 0; i < blocks * 16; i++) {
            const uint8_t *low = q + i / 16 * KV_BLOCK + i % 16;
            to[i] = (uint8_t)(low[0] | low[16] << 4);
        }
}
