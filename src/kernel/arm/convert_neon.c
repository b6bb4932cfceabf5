/* convert_neon: weights to floats, and activations to int8. */
#include "kernel/arm/neon_int.h"

/* Two bytes to an element, widened by load8; the last n % 8 go through a padded copy. */
TILE_INLINE void widen(const uint8_t *src, float *dst, size_t n, load8_fn *load8)
{
    for (; n >= 8; n -= 8, src += 16, dst += 8) {
        struct f32x8 w = load8(src);
        vst1q_f32(dst, w.v[0]);
        vst1q_f32(dst + 4, w.v[1]);
    }
    if (n == 0) return;
    uint8_t padded[16] = {0};
    float out[8];
    memcpy(padded, src, 2 * n);
    struct f32x8 w = load8(padded);
    vst1q_f32(out, w.v[0]);
    vst1q_f32(out + 4, w.v[1]);
    memcpy(dst, out, n * sizeof *dst);
}

void widen_f16_neon(const void *src, float *dst, size_t n)
{
    widen(src, dst, n, load8_f16);
}
void widen_bf16_neon(const void *src, float *dst, size_t n)
{
    widen(src, dst, n, load8_bf16);
}

static void to_float_f16_neon(const struct qrow *row, float *dst, size_t n)
{
    widen(row->data, dst, n, load8_f16);
}

static void from_float_f16_neon(const float *src, size_t n, void *q, uint16_t *d)
{
    uint8_t *out = q;
    (void)d;
    for (; n >= 4; n -= 4, src += 4, out += 8)
        vst1_u16((uint16_t *)(void *)out, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(src))));
    for (; n > 0; n--, src++, out += 2) {
        uint16_t h = f32_to_f16(*src);
        memcpy(out, &h, sizeof h);
    }
}

/* A key or value of the cache, in blocks; the last one is filled up with zeros. */
static void kv_blocks(const struct kv_rule *rule, const float *x, size_t n, int8_t *q, uint16_t *d)
{
    for (size_t b = 0; b < n; b += KV_BLOCK, d++) {
        float block[KV_BLOCK] = {0};
        memcpy(block, x + b, size_min(n - b, KV_BLOCK) * sizeof *block);
        float32x4_t low = vdupq_n_f32(0.0f), high = low;
        uint32x4_t top = vdupq_n_u32(0);
        for (size_t i = 0; i < KV_BLOCK; i += 4) {
            float32x4_t v = vld1q_f32(block + i);
            low = vminq_f32(low, v);
            high = vmaxq_f32(high, v);
            top = vmaxq_u32(top, vreinterpretq_u32_f32(vabsq_f32(v)));
        }
        float id;
        *d = kv_scale(rule, vminvq_f32(low), vmaxvq_f32(high), vmaxvq_u32(top) < 0x7f800000u, &id);
        for (size_t i = 0; i < KV_BLOCK; i += 8) {
            int32x4_t v[2];
            for (size_t h = 0; h < 2; h++) {
                float32x4_t r = vrndnq_f32(vmulq_n_f32(vld1q_f32(block + i + 4 * h), id));
                r = vmaxq_f32(vminq_f32(r, vdupq_n_f32(rule->top)), vdupq_n_f32(rule->bottom));
                v[h] = vcvtq_s32_f32(vaddq_f32(r, vdupq_n_f32(rule->off)));
            }
            int8x8_t bytes = vmovn_s16(vmovn_high_s32(vmovn_s32(v[0]), v[1]));
            vst1_s8(q + b + i, id != 0.0f ? bytes : vdup_n_s8((int8_t)rule->off));
        }
    }
}

static void from_float_q8_0_neon(const float *src, size_t n, void *q, uint16_t *d)
{
    kv_blocks(&kv_q8_0, src, n, q, d);
}

static void from_float_q4_0_neon(const float *src, size_t n, void *q, uint16_t *d)
{
    kv_blocks(&kv_q4_0, src, n, q, d);
}

static void to_float_bf16_neon(const struct qrow *row, float *dst, size_t n)
{
    widen(row->data, dst, n, load8_bf16);
}

static void to_float_q8_0_neon(const struct qrow *row, float *dst, size_t n)
{
    const uint8_t *in = row->data;
    for (size_t b = 0; b < n / 32; b++, in += 34, dst += 32) {
        float d = f16_to_f32(load_u16(in));
        for (size_t i = 0; i < 32; i += 8) {
            int16x8_t q = vmovl_s8(vreinterpret_s8_u8(vld1_u8(in + 2 + i)));
            vst1q_f32(dst + i, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(q))), d));
            vst1q_f32(dst + i + 4, vmulq_n_f32(vcvtq_f32_s32(vmovl_high_s16(q)), d));
        }
    }
}

/* |x * id| <= 127 where id is not 0, and the conversion gives 0 for x * 0 even where x is infinite or NaN: narrowing keeps all.
 */
static inline int16x8_t quant8(const float *x, float id)
{
    int32x4_t low = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x), id));
    int32x4_t high = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 4), id));
    return vmovn_high_s32(vmovn_s32(low), high);
}

/* One block of n activations that share a scale; returns what they are multiplied with, 0 where all become 0. */
static inline float block_scale(const float *x, const size_t n, float *d)
{
    uint32x4_t max[2] = {vdupq_n_u32(0), vdupq_n_u32(0)};
    for (size_t i = 0; i < n; i += 8) {
        max[0] = vmaxq_u32(max[0], vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(x + i)))); /* vabs only clears the sign */
        max[1] = vmaxq_u32(max[1], vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(x + i + 4))));
    }
    uint32_t top = vmaxvq_u32(vmaxq_u32(max[0], max[1]));
    float amax;
    memcpy(&amax, &top, sizeof amax);
    bool finite = top < 0x7f800000u, tiny = amax < 0x1p-100f;
    *d = !finite ? NAN : tiny ? 0.0f : amax / 127.0f;
    return finite && !tiny ? 127.0f / amax : 0.0f;
}

/* 16 activations; their sums by lanes. */
static inline int16x8_t quant16(const float *x, float id, int8_t *q)
{
    int16x8_t low = quant8(x, id), high = quant8(x + 8, id);
    vst1q_s8(q, vmovn_high_s16(vmovn_s16(low), high));
    return vaddq_s16(low, high);
}

static void quant_act_32_neon(const float *x, size_t n, int8_t *q, float *d, int16_t *s)
{
    for (size_t b = 0; b < n / ACT_BLOCK; b++, x += ACT_BLOCK, q += ACT_BLOCK) {
        float id = block_scale(x, ACT_BLOCK, d + b);
        s[b] = vaddvq_s16(vaddq_s16(quant16(x, id, q), quant16(x + 16, id, q + 16))); /* at most 32 * 127 */
    }
}

static void quant_act_256_neon(const float *x, size_t n, int8_t *q, float *d, int16_t *s)
{
    for (size_t b = 0; b < n / QSUPER; b++, x += QSUPER, q += QSUPER) {
        float id = block_scale(x, QSUPER, d + b);
        for (size_t i = 0; i < QSUPER; i += QSUB) *s++ = vaddvq_s16(quant16(x + i, id, q + i));
    }
}

void convert_init_neon(struct kernels *k)
{
    k->to_float[QTYPE_F16] = to_float_f16_neon;
    k->from_float[QTYPE_F16] = from_float_f16_neon;
    k->from_float[QTYPE_Q8_0] = from_float_q8_0_neon;
    k->from_float[QTYPE_Q4_0] = from_float_q4_0_neon;
    k->to_float[QTYPE_BF16] = to_float_bf16_neon;
    k->to_float[QTYPE_Q8_0] = to_float_q8_0_neon;
    k->quant_act_32 = quant_act_32_neon;
    k->quant_act_256 = quant_act_256_neon;
}
