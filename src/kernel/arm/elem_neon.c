/* elem_neon: norm, SwiGLU, add, rotary embedding and exp, four values at a time. Every element is computed by itself, so
 * only the sum of the norm has an order to keep. The last n % 4 elements go through a padded register, so that they see the
 * same instructions. */
#include "kernel/arm/neon_int.h"

static float sum_of_squares(const float *x, size_t n)
{
    struct lanes a = {{vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)}};
    for (; n >= LANES; n -= LANES, x += LANES) {
        for (size_t v = 0; v < 4; v++) {
            float32x4_t x4 = vld1q_f32(x + 4 * v);
            a.v[v] = vfmaq_f32(a.v[v], x4, x4);
        }
    }
    /* The padding would add +0 to lanes that are +0 or more already: it changes nothing and is left out. */
    for (size_t v = 0; n > 0; v++, x += 4) {
        size_t part = size_min(n, 4);
        float32x4_t x4 = load_part(x, part);
        a.v[v] = vfmaq_f32(a.v[v], x4, x4);
        n -= part;
    }
    return lanes_fold(a);
}

static void rms_norm_neon(const float *x, const float *w, float eps, size_t n, float *y)
{
    float r = 1.0f / sqrtf(sum_of_squares(x, n) / (float)n + eps);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(y + i, vmulq_f32(vmulq_n_f32(vld1q_f32(x + i), r), vld1q_f32(w + i)));
    for (; i < n; i++) y[i] = (x[i] * r) * w[i];
}

static inline float32x4_t swiglu_f32x4(float32x4_t g, float32x4_t u)
{
    float32x4_t silu = vdivq_f32(g, vaddq_f32(vdupq_n_f32(1.0f), exp_f32x4(vnegq_f32(g))));
    return vmulq_f32(silu, u);
}

static void swiglu_neon(const float *g, const float *u, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(y + i, swiglu_f32x4(vld1q_f32(g + i), vld1q_f32(u + i)));
    if (i < n) store_part(y + i, swiglu_f32x4(load_part(g + i, n - i), load_part(u + i, n - i)), n - i);
}

static void add_neon(const float *a, const float *b, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(y + i, vaddq_f32(vld1q_f32(a + i), vld1q_f32(b + i)));
    for (; i < n; i++) y[i] = a[i] + b[i];
}

static void exp_neon(const float *x, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(y + i, exp_f32x4(vld1q_f32(x + i)));
    if (i < n) store_part(y + i, exp_f32x4(load_part(x + i, n - i)), n - i);
}

/* (x0, x1) in pair.val, rotated. */
static inline float32x4x2_t rotate(float32x4x2_t pair, float32x4_t c, float32x4_t s)
{
    float32x4_t x0 = pair.val[0], x1 = pair.val[1];
    pair.val[0] = vfmaq_f32(vnegq_f32(vmulq_f32(x1, s)), x0, c);
    pair.val[1] = vfmaq_f32(vmulq_f32(x1, c), x0, s);
    return pair;
}

static void rope_neon(float *x, const float *cos_t, const float *sin_t, size_t n_pairs, bool neox)
{
    size_t i = 0;
    for (; i + 4 <= n_pairs; i += 4) {
        float32x4_t c = vld1q_f32(cos_t + i), s = vld1q_f32(sin_t + i);
        if (neox) {
            float32x4x2_t y = rotate((float32x4x2_t){{vld1q_f32(x + i), vld1q_f32(x + i + n_pairs)}}, c, s);
            vst1q_f32(x + i, y.val[0]);
            vst1q_f32(x + i + n_pairs, y.val[1]);
        } else {
            vst2q_f32(x + 2 * i, rotate(vld2q_f32(x + 2 * i), c, s));
        }
    }
    for (; i < n_pairs; i++) {
        float *p0 = neox ? x + i : x + 2 * i;
        float *p1 = neox ? x + i + n_pairs : x + 2 * i + 1;
        float x0 = *p0, x1 = *p1;
        *p0 = fmaf(x0, cos_t[i], -(x1 * sin_t[i]));
        *p1 = fmaf(x0, sin_t[i], x1 * cos_t[i]);
    }
}

void elem_init_neon(struct kernels *k)
{
    k->rms_norm = rms_norm_neon;
    k->swiglu = swiglu_neon;
    k->add = add_neon;
    k->rope = rope_neon;
    k->exp = exp_neon;
}
