/* elem_tmpl: elementwise kernels, in the vocabulary of a vec_ header. elem_<isa>.c includes it once and adds what it cannot
 * say: quantised activations, and the level's table. Every loop ends with a part of a vector, so no second loop follows. */
#ifndef QUERN_ELEM_TMPL_H
#define QUERN_ELEM_TMPL_H

static void KERNEL(rms_norm)(const float *x, const float *w, float eps, size_t n, float *y)
{
    vec lane[PARTS];
    for (size_t h = 0; h < PARTS; h++) lane[h] = v_zero();
    for (size_t i = 0; i < n; i += 16)
        for (size_t h = 0; h < PARTS; h++) {
            size_t at = i + h * VL;
            vec v = at < n ? v_load_n(x + at, n - at) : v_zero();
            lane[h] = v_fma(v, v, lane[h]);
        }
    /* The compiler's sqrtf may be a call that sets errno; the instruction is what IEEE 754 defines. */
    float r = 1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(v_fold(lane) / (float)n + eps)));
    for (size_t i = 0; i < n; i += VL)
        v_store_n(y + i, v_mul(v_mul(v_load_n(x + i, n - i), v_set1(r)), v_load_n(w + i, n - i)), n - i);
}

static void KERNEL(layer_norm)(const float *x, const float *w, const float *b, float eps, size_t n, float *y)
{
    vec lane[PARTS];
    for (size_t h = 0; h < PARTS; h++) lane[h] = v_zero();
    for (size_t i = 0; i < n; i += 16)
        for (size_t h = 0; h < PARTS; h++) {
            size_t at = i + h * VL;
            if (at < n) lane[h] = v_add(lane[h], v_load_n(x + at, n - at));
        }
    const vec mean = v_set1(v_fold(lane) / (float)n);
    for (size_t h = 0; h < PARTS; h++) lane[h] = v_zero();
    for (size_t i = 0; i < n; i += 16)
        for (size_t h = 0; h < PARTS; h++) {
            size_t at = i + h * VL;
            if (at >= n) continue;
            vec v = v_first_n(v_sub(v_load_n(x + at, n - at), mean), n - at, v_zero());
            lane[h] = v_fma(v, v, lane[h]);
        }
    const float r = 1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(v_fold(lane) / (float)n + eps)));
    for (size_t i = 0; i < n; i += VL) {
        vec v = v_mul(v_mul(v_sub(v_load_n(x + i, n - i), mean), v_set1(r)), v_load_n(w + i, n - i));
        v_store_n(y + i, v_add(v, b ? v_load_n(b + i, n - i) : v_zero()), n - i);
    }
}

ALWAYS vec v_erf(vec x)
{
    const vec t = v_div(v_set1(1.0f), v_fma(v_set1(0.3275911f), v_abs(x), v_set1(1.0f)));
    vec p = v_set1(1.061405429f);
    p = v_fma(p, t, v_set1(-1.453152027f));
    p = v_fma(p, t, v_set1(1.421413741f));
    p = v_fma(p, t, v_set1(-0.284496736f));
    p = v_fma(p, t, v_set1(0.254829592f));
    return v_copysign(v_sub(v_set1(1.0f), v_mul(v_mul(p, t), v_exp(v_neg(v_mul(x, x))))), x);
}

ALWAYS vec v_silu(vec x)
{
    return v_div(x, v_add(v_set1(1.0f), v_exp(v_neg(x))));
}
ALWAYS vec v_gelu_tanh(vec x)
{
    vec t = v_mul(v_set1(0.7978845608f), v_fma(v_set1(0.044715f), v_mul(v_mul(x, x), x), x));
    return v_mul(v_mul(v_set1(0.5f), x), v_add(v_set1(1.0f), v_tanh(t)));
}
ALWAYS vec v_gelu(vec x)
{
    return v_mul(v_mul(v_set1(0.5f), x), v_add(v_set1(1.0f), v_erf(v_mul(x, v_set1(0.7071067812f)))));
}
ALWAYS vec v_relu2(vec x)
{
    const vec r = v_max(x, v_zero());
    return v_mul(r, r);
}

#define ACT(name)                                                                                     \
    static void KERNEL(act_##name)(const float *x, size_t n, float *y)                                \
    {                                                                                                 \
        for (size_t i = 0; i < n; i += VL) v_store_n(y + i, v_##name(v_load_n(x + i, n - i)), n - i); \
    }                                                                                                 \
    static void KERNEL(glu_##name)(const float *g, const float *u, float limit, size_t n, float *y)   \
    {                                                                                                 \
        (void)limit;                                                                                  \
        for (size_t i = 0; i < n; i += VL)                                                            \
            v_store_n(y + i, v_mul(v_##name(v_load_n(g + i, n - i)), v_load_n(u + i, n - i)), n - i); \
    }
ACT(silu)
ACT(gelu_tanh)
ACT(gelu)
ACT(relu2)

static void KERNEL(glu_clamp)(const float *g, const float *u, float limit, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += VL) {
        const vec gate = v_min(v_load_n(g + i, n - i), v_set1(limit));
        const vec up = v_max(v_min(v_load_n(u + i, n - i), v_set1(limit)), v_set1(-limit));
        const vec swish = v_div(gate, v_add(v_set1(1.0f), v_exp(v_neg(v_mul(v_set1(1.702f), gate)))));
        v_store_n(y + i, v_mul(v_add(up, v_set1(1.0f)), swish), n - i);
    }
}

static void KERNEL(gate)(const float *x, const float *g, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += VL) {
        const vec s = v_div(v_set1(1.0f), v_add(v_set1(1.0f), v_exp(v_neg(v_load_n(g + i, n - i)))));
        v_store_n(y + i, v_mul(v_load_n(x + i, n - i), s), n - i);
    }
}

static void KERNEL(scale)(const float *x, float f, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += VL) v_store_n(y + i, v_mul(v_load_n(x + i, n - i), v_set1(f)), n - i);
}

static void KERNEL(softcap)(const float *x, float cap, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += VL)
        v_store_n(y + i, v_mul(v_set1(cap), v_tanh(v_div(v_load_n(x + i, n - i), v_set1(cap)))), n - i);
}

static void KERNEL(add)(const float *a, const float *b, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += VL) v_store_n(y + i, v_add(v_load_n(a + i, n - i), v_load_n(b + i, n - i)), n - i);
}

static void KERNEL(mul)(const float *a, const float *b, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += VL) v_store_n(y + i, v_mul(v_load_n(a + i, n - i), v_load_n(b + i, n - i)), n - i);
}

static void KERNEL(exp)(const float *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += VL) v_store_n(y + i, v_exp(v_load_n(x + i, n - i)), n - i);
}

static void rope_halves(float *x, const float *cos_t, const float *sin_t, size_t n_pairs)
{
    for (size_t i = 0; i < n_pairs; i += VL) {
        size_t left = n_pairs - i;
        float *p0 = x + i, *p1 = p0 + n_pairs;
        vec x0 = v_load_n(p0, left), x1 = v_load_n(p1, left), c = v_load_n(cos_t + i, left), s = v_load_n(sin_t + i, left);
        v_store_n(p0, v_fms(x0, c, v_mul(x1, s)), left);
        v_store_n(p1, v_fma(x0, s, v_mul(x1, c)), left);
    }
}

/* x0 and x1 stand in both lanes of their pair; one instruction subtracts in the even lanes and adds in the odd ones. */
static void rope_adjacent(float *x, const float *cos_t, const float *sin_t, size_t n_pairs)
{
    for (size_t i = 0; i < n_pairs; i += VL / 2) {
        size_t left = n_pairs - i;
        vec v = v_load_n(x + 2 * i, 2 * left);
        vec c = v_load_twice_n(cos_t + i, left), s = v_load_twice_n(sin_t + i, left);
        v_store_n(x + 2 * i, v_fmas(v_even(v), v_mix(c, s), v_mul(v_odd(v), v_mix(s, c))), 2 * left);
    }
}

static void KERNEL(rope)(float *x, const float *cos_t, const float *sin_t, size_t n_pairs, bool neox)
{
    (neox ? rope_halves : rope_adjacent)(x, cos_t, sin_t, n_pairs);
}

static void KERNEL(attn_merge)(float *m, float *l, float *o, float m2, float l2, const float *o2, size_t n)
{
    float t = m2 > *m ? m2 : *m;
    vec a = v_exp(v_set1(*m - t)), b = v_exp(v_set1(m2 - t));
    *l = fmaf(*l, v_get(a), l2 * v_get(b));
    for (size_t d = 0; d < n; d += VL)
        v_store_n(o + d, v_fma(v_load_n(o + d, n - d), a, v_mul(v_load_n(o2 + d, n - d), b)), n - d);
    *m = t;
}

/* A key or value of the cache, in blocks; the last one is filled up with zeros. */
ALWAYS void kv_blocks(const struct kv_rule *rule, const float *x, size_t n, uint8_t *q, uint16_t *d)
{
    const vec magic = v_set1(0x1.8p+23f);
    for (size_t b = 0; b < n; b += KV_BLOCK, d++) {
        vec v[KV_BLOCK / VL], low = v_zero(), high = v_zero(), odd = v_zero();
        UNROLL for (size_t i = 0; i < KV_BLOCK / VL; i++)
        {
            v[i] = n - b > i * VL ? v_load_n(x + b + i * VL, n - b - i * VL) : v_zero();
            low = v_min(v[i], low);
            high = v_max(v[i], high);
            odd = v_fma(v[i], v_zero(), odd); /* NaN where v is not finite */
        }
        float id;
        *d = kv_scale(rule, -v_max_all(v_neg(low)), v_max_all(high), !v_any_nan(odd), &id);
        UNROLL for (size_t i = 0; i < KV_BLOCK / VL; i++)
        {
            vec r = id != 0.0f ? v_sub(v_add(v_mul(v[i], v_set1(id)), magic), magic) : v_zero();
            r = v_max(v_min(r, v_set1(rule->top)), v_set1(rule->bottom));
            v_store_i8(q + b + i * VL, v_add(r, v_set1(rule->off)));
        }
    }
}

static void KERNEL(from_float_f16)(const float *src, size_t n, void *q, uint16_t *d)
{
    (void)d;
    for (size_t i = 0; i < n; i += VL) v_store_f16_n((uint8_t *)q + 2 * i, v_load_n(src + i, n - i), n - i);
}

static void KERNEL(from_float_q8_0)(const float *src, size_t n, void *q, uint16_t *d)
{
    kv_blocks(&kv_q8_0, src, n, q, d);
}

static void KERNEL(from_float_q4_0)(const float *src, size_t n, void *q, uint16_t *d)
{
    kv_blocks(&kv_q4_0, src, n, q, d);
}

static void KERNEL(to_float_f16)(const struct qrow *row, float *dst, size_t n)
{
    const uint8_t *p = row->data;
    for (size_t i = 0; i < n; i += VL)
        v_store_n(dst + i, n - i < VL ? v_load_as_n(p + 2 * i, n - i, QTYPE_F16) : v_load_as(p + 2 * i, QTYPE_F16), n - i);
}

static void KERNEL(to_float_bf16)(const struct qrow *row, float *dst, size_t n)
{
    const uint8_t *p = row->data;
    for (size_t i = 0; i < n; i += VL)
        v_store_n(dst + i, n - i < VL ? v_load_as_n(p + 2 * i, n - i, QTYPE_BF16) : v_load_as(p + 2 * i, QTYPE_BF16), n - i);
}

static void KERNEL(to_float_q8_0)(const struct qrow *row, float *dst, size_t n)
{
    const uint8_t *p = row->data;
    for (size_t b = 0; b < n / 32; b++, dst += 32, p += 34)
        for (size_t i = 0; i < 32; i += VL) v_store(dst + i, v_mul(v_set1(_cvtsh_ss(load_u16(p))), v_load_i8(p + 2 + i)));
}

/* The entries above of the level's table. */
static void elem_init(struct kernels *k)
{
    k->rms_norm = KERNEL(rms_norm);
    k->layer_norm = KERNEL(layer_norm);
    k->act[ACT_SILU] = KERNEL(act_silu);
    k->act[ACT_GELU_TANH] = KERNEL(act_gelu_tanh);
    k->act[ACT_GELU] = KERNEL(act_gelu);
    k->act[ACT_RELU2] = KERNEL(act_relu2);
    k->glu[ACT_SILU] = KERNEL(glu_silu);
    k->glu[ACT_GELU_TANH] = KERNEL(glu_gelu_tanh);
    k->glu[ACT_GELU] = KERNEL(glu_gelu);
    k->glu[ACT_RELU2] = KERNEL(glu_relu2);
    k->glu[ACT_SWIGLU_CLAMP] = KERNEL(glu_clamp);
    k->gate = KERNEL(gate);
    k->scale = KERNEL(scale);
    k->softcap = KERNEL(softcap);
    k->add = KERNEL(add);
    k->mul = KERNEL(mul);
    k->exp = KERNEL(exp);
    k->rope = KERNEL(rope);
    k->attn_merge = KERNEL(attn_merge);
    k->to_float[QTYPE_F16] = KERNEL(to_float_f16);
    k->to_float[QTYPE_BF16] = KERNEL(to_float_bf16);
    k->to_float[QTYPE_Q8_0] = KERNEL(to_float_q8_0);
    k->from_float[QTYPE_F16] = KERNEL(from_float_f16);
    k->from_float[QTYPE_Q8_0] = KERNEL(from_float_q8_0);
    k->from_float[QTYPE_Q4_0] = KERNEL(from_float_q4_0);
}

#endif
