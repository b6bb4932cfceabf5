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

static float k_q4_0(const uint8_t *tile, size_t dim, size_t j, size_t d)
{
    (void)dim;
    return (float)((tile[d / 2 * ATTN_TILE + j] >> d % 2 * 4 & 15) - 8);
}
static float v_q4_0(const uint8_t *tile, size_t dim, size_t j, size_t d)
{
    const uint8_t *block = tile + (j * attn_blocks(dim) + d / KV_BLOCK) * 16;
    return (float)((block[d % 16] >> d / 16 % 2 * 4 & 15) - 8);
}

/* Element d of the key or value of position j, for quantised types without its scale. */
#define ELEMENTS(type, v_stride)                                               \
    static float k_##type(const uint8_t *tile, size_t dim, size_t j, size_t d) \
    {                                                                          \
        (void)dim;                                                             \
        return type##_at(tile, d * ATTN_TILE + j);                             \
    }                                                                          \
    static float v_##type(const uint8_t *tile, size_t dim, size_t j, size_t d) \
    {                                                                          \
        return type##_at(tile, j * (v_stride) + d);                            \
    }
ELEMENTS(f32, dim)
ELEMENTS(f16, dim)
ELEMENTS(bf16, dim)
ELEMENTS(i8, attn_blocks(dim) * KV_BLOCK)

static const struct {
    unsigned bits;
    float (*k)(const uint8_t *tile, size_t dim, size_t j, size_t d);
    float (*v)(const uint8_t *tile, size_t dim, size_t j, size_t d);
} types[QTYPE_COUNT] = {
    [QTYPE_F32] = {32, k_f32, v_f32}, [QTYPE_F16] = {16, k_f16, v_f16},   [QTYPE_BF16] = {16, k_bf16, v_bf16},
    [QTYPE_Q8_0] = {8, k_i8, v_i8},   [QTYPE_Q4_0] = {4, k_q4_0, v_q4_0},
};

unsigned attn_bits(enum qtype t)
{
    return types[t].bits;
}

static bool scaled(enum qtype t)
{
    return types[t].bits < 16;
}

size_t attn_k_bytes(enum qtype t, size_t dim)
{
    return attn_k_scales(types[t].bits, dim) + (scaled(t) ? 2 * ATTN_TILE * attn_blocks(dim) : 0);
}

size_t attn_v_bytes(enum qtype t, size_t dim)
{
    return scaled(t) ? attn_v_scales(types[t].bits, dim) + 2 * ATTN_TILE * attn_blocks(dim)
                     : ATTN_TILE * dim * types[t].bits / 8;
}

void attn_widen_k(enum qtype t, const void *tile, size_t dim, float *dst)
{
    const uint8_t *scales = (const uint8_t *)tile + attn_k_scales(types[t].bits, dim);
    for (size_t d = 0; d < dim; d++)
        for (size_t j = 0; j < ATTN_TILE; j++) {
            float x = types[t].k(tile, dim, j, d);
            dst[d * ATTN_TILE + j] = scaled(t) ? f16_at(scales, d / KV_BLOCK * ATTN_TILE + j) * x : x;
        }
}

void attn_widen_v(enum qtype t, const void *tile, size_t dim, size_t n, float *dst)
{
    const uint8_t *scales = (const uint8_t *)tile + attn_v_scales(types[t].bits, dim);
    for (size_t j = 0; j < n; j++)
        for (size_t d = 0; d < dim; d++) {
            float x = types[t].v(tile, dim, j, d);
            dst[j * dim + d] = scaled(t) ? f16_at(scales, j * attn_blocks(dim) + d / KV_BLOCK) * x : x;
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
    kn->from_float[t](x, dim, q, d);
    if (bits == 32) {
        for (size_t i = 0; i < dim; i++) memcpy(to + (i * ATTN_TILE + pos) * 4, q + 4 * i, 4);
    } else if (bits == 16) {
        for (size_t i = 0; i < dim; i++) memcpy(to + (i * ATTN_TILE + pos) * 2, q + 2 * i, 2);
    } else if (bits == 8) {
        for (size_t i = 0; i < dim; i++) to[i * ATTN_TILE + pos] = q[i];
    } else {
        for (size_t i = 0; i < dim; i += 2) to[i / 2 * ATTN_TILE + pos] = (uint8_t)(q[i] | q[i + 1] << 4);
    }
    if (!scaled(t)) return;
    to += attn_k_scales(bits, dim);
    for (size_t b = 0; b < attn_blocks(dim); b++) memcpy(to + (b * ATTN_TILE + pos) * 2, &d[b], 2);
}

void attn_store_v(const struct kernels *kn, enum qtype t, const float *x, size_t dim, void *tile, size_t pos)
{
    uint8_t q[BYTES_MAX], *to = tile;
    uint16_t d[BLOCKS_MAX];
    const unsigned bits = types[t].bits;
    const size_t blocks = attn_blocks(dim);
    if (!scaled(t)) {
        kn->from_float[t](x, dim, to + pos * dim * bits / 8, d);
        return;
    }
    kn->from_float[t](x, dim, q, d);
    memcpy(to + attn_v_scales(bits, dim) + pos * blocks * 2, d, blocks * 2);
    to += pos * blocks * KV_BLOCK / 8 * bits;
    if (bits == 8)
        memcpy(to, q, blocks * KV_BLOCK);
    else
        for (size_t i = 0; i < blocks * 16; i++) {
            const uint8_t *low = q + i / 16 * KV_BLOCK + i % 16;
            to[i] = (uint8_t)(low[0] | low[16] << 4);
        }
}
