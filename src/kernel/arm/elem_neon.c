/* elem_neon: norms, activation functions, add, rotary embedding and exp, four values at a time. Every element is computed by
 * itself, so only the sum of the norm has an order to keep. The last n % 4 elements go through a padded register, so that they
 * see the same instructions. */
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

/* The sum of x - mean, or of its squares, in lanes. */
static float sum_of(const float *x, size_t n, float mean, bool squares)
{
    struct lanes a = {{vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)}};
    for (size_t i = 0; i < n; i += 4) {
        float32x4_t *lane = &a.v[i / 4 % 4], v;
        if (n - i >= 4) {
            v = vsubq_f32(vld1q_f32(x + i), vdupq_n_f32(mean));
        } else { /* what is not there is no deviation either */
            float t[4] = {0};
            for (size_t k = 0; k < n - i; k++) t[k] = x[i + k] - mean;
            v = vld1q_f32(t);
        }
        *lane = squares ? vfmaq_f32(*lane, v, v) : vaddq_f32(*lane, v);
    }
    return lanes_fold(a);
}

static void layer_norm_neon(const float *x, const float *w, const float *b, float eps, size_t n, float *y)
{
    const float mean = sum_of(x, n, 0.0f, false) / (float)n;
    const float r = 1.0f / sqrtf(sum_of(x, n, mean, true) / (float)n + eps);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t v = vmulq_f32(vmulq_n_f32(vsubq_f32(vld1q_f32(x + i), vdupq_n_f32(mean)), r), vld1q_f32(w + i));
        vst1q_f32(y + i, vaddq_f32(v, b ? vld1q_f32(b + i) : vdupq_n_f32(0.0f)));
    }
    for (; i < n; i++) y[i] = ((x[i] - mean) * r) * w[i] + (b ? b[i] : 0.0f);
}

static inline float32x4_t erf_f32x4(float32x4_t x)
{
    const float32x4_t one = vdupq_n_f32(1.0f);
    const float32x4_t t = vdivq_f32(one, vfmaq_f32(one, vdupq_n_f32(0.3275911f), vabsq_f32(x)));
    float32x4_t p = vfmaq_f32(vdupq_n_f32(-1.453152027f), vdupq_n_f32(1.061405429f), t);
    p = vfmaq_f32(vdupq_n_f32(1.421413741f), p, t);
    p = vfmaq_f32(vdupq_n_f32(-0.284496736f), p, t);
    p = vfmaq_f32(vdupq_n_f32(0.254829592f), p, t);
    return copysign_f32x4(vsubq_f32(one, vmulq_f32(vmulq_f32(p, t), exp_f32x4(vnegq_f32(vmulq_f32(x, x))))), x);
}

static inline float32x4_t silu_f32x4(float32x4_t x)
{
    return vdivq_f32(x, vaddq_f32(vdupq_n_f32(1.0f), exp_f32x4(vnegq_f32(x))));
}
static inline float32x4_t gelu_tanh_f32x4(float32x4_t x)
{
    float32x4_t t = vmulq_n_f32(vfmaq_f32(x, vdupq_n_f32(0.044715f), vmulq_f32(vmulq_f32(x, x), x)), 0.7978845608f);
    return vmulq_f32(vmulq_n_f32(x, 0.5f), vaddq_f32(vdupq_n_f32(1.0f), tanh_f32x4(t)));
}
static inline float32x4_t gelu_f32x4(float32x4_t x)
{
    return vmulq_f32(vmulq_n_f32(x, 0.5f), vaddq_f32(vdupq_n_f32(1.0f), erf_f32x4(vmulq_n_f32(x, 0.7071067812f))));
}
static inline float32x4_t relu2_f32x4(float32x4_t x)
{
    const float32x4_t zero = vdupq_n_f32(0.0f), r = vbslq_f32(vcgtq_f32(x, zero), x, zero);
    return vmulq_f32(r, r);
}
static inline float32x4_t clamp_f32x4(float32x4_t g, float32x4_t u, float limit)
{
    const float32x4_t top = vdupq_n_f32(limit), low = vdupq_n_f32(-limit), one = vdupq_n_f32(1.0f);
    g = vbslq_f32(vcltq_f32(g, top), g, top);
    u = vbslq_f32(vcltq_f32(u, top), u, top);
    u = vbslq_f32(vcgtq_f32(u, low), u, low);
    return vmulq_f32(vaddq_f32(u, one), vdivq_f32(g, vaddq_f32(one, exp_f32x4(vnegq_f32(vmulq_n_f32(g, 1.702f))))));
}
static inline float32x4_t gate_f32x4(float32x4_t x, float32x4_t g)
{
    const float32x4_t one = vdupq_n_f32(1.0f);
    return vmulq_f32(x, vdivq_f32(one, vaddq_f32(one, exp_f32x4(vnegq_f32(g)))));
}

/* A function body: y[i] = value, which says it of four elements a, of x, or a and b. */
#define UNARY(x, value)                                                           \
    {                                                                             \
        size_t i = 0;                                                             \
        float32x4_t a;                                                            \
        for (; i + 4 <= n; i += 4) a = vld1q_f32(x + i), vst1q_f32(y + i, value); \
        if (i < n) a = load_part(x + i, n - i), store_part(y + i, value, n - i);  \
    }
#define BINARY(first, second, value)                                                                                   \
    {                                                                                                                  \
        size_t i = 0;                                                                                                  \
        float32x4_t a, b;                                                                                              \
        for (; i + 4 <= n; i += 4) a = vld1q_f32(first + i), b = vld1q_f32(second + i), vst1q_f32(y + i, value);       \
        if (i < n) a = load_part(first + i, n - i), b = load_part(second + i, n - i), store_part(y + i, value, n - i); \
    }
#define ACT(name)                                                                                                              \
    static void act_##name##_neon(const float *x, size_t n, float *y) UNARY(x, name##_f32x4(a)) static void glu_##name##_neon( \
        const float *g, const float *u, float limit, size_t n, float *y)                                                       \
    {                                                                                                                          \
        (void)limit;                                                                                                           \
        BINARY(g, u, vmulq_f32(name##_f32x4(a), b))                                                                            \
    }
ACT(silu)
ACT(gelu_tanh)
ACT(gelu)
ACT(relu2)

static void glu_clamp_neon(const float *g, const float *u, float limit, size_t n, float *y)
    BINARY(g, u, clamp_f32x4(a, b, limit))

        static void gate_neon(const float *x, const float *g, size_t n, float *y) BINARY(x, g, gate_f32x4(a, b))

            static void scale_neon(const float *x, float f, size_t n, float *y) UNARY(x, vmulq_n_f32(a, f))

                static void softcap_neon(const float *x, float cap, size_t n, float *y) UNARY(x, softcap_f32x4(a, cap))

                    static void add_neon(const float *a, const float *b, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(y + i, vaddq_f32(vld1q_f32(a + i), vld1q_f32(b + i)));
    for (; i < n; i++) y[i] = a[i] + b[i];
}

static void mul_neon(const float *a, const float *b, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(y + i, vmulq_f32(vld1q_f32(a + i), vld1q_f32(b + i)));
    for (; i < n; i++) y[i] = a[i] * b[i];
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
    k->layer_norm = layer_norm_neon;
    k->act[ACT_SILU] = act_silu_neon;
    k->act[ACT_GELU_TANH] = act_gelu_tanh_neon;
    k->act[ACT_GELU] = act_gelu_neon;
    k->act[ACT_RELU2] = act_relu2_neon;
    k->glu[ACT_SILU] = glu_silu_neon;
    k->glu[ACT_GELU_TANH] = glu_gelu_tanh_neon;
    k->glu[ACT_GELU] = glu_gelu_neon;
    k->glu[ACT_RELU2] = glu_relu2_neon;
    k->glu[ACT_SWIGLU_CLAMP] = glu_clamp_neon;
    k->gate = gate_neon;
    k->scale = scale_neon;
    k->softcap = softcap_neon;
    k->add = add_neon;
    k->rope = rope_neon;
    k->mul = mul_neon;
    k->exp = exp_neon;
}
