/* elem_tmpl: elementwise kernels and norms, in the vocabulary of a vec_ header of x86/ or arm/. elem_<isa>.c includes it once.
 * Every loop ends with a part of a vector, so no second loop follows. elem_init_<isa> puts them into the table. */
#ifndef QUERN_ELEM_TMPL_H
#define QUERN_ELEM_TMPL_H

/* ---- norms ------------------------------------------------------------------------------------------------------- */

/* Adds the first n <= 16 elements to the lanes, or the squares of what they are more than mean. Where n is known, the parts
 * that do not exist disappear. */
ALWAYS void add_up(vec lane[PARTS], const float *x, size_t n)
{
    UNROLL for (size_t h = 0; h < PARTS; h++) if (n > h * VL) lane[h] = v_add(lane[h], v_load_n(x + h * VL, n - h * VL));
}
ALWAYS void add_squares(vec lane[PARTS], const float *x, size_t n, vec mean)
{
    UNROLL for (size_t h = 0; h < PARTS; h++)
    {
        if (n <= h * VL) continue;
        const size_t left = n - h * VL;
        vec d = v_sub(v_load_n(x + h * VL, left), mean);
        if (left < VL) d = v_first_n(d, left, v_zero());
        lane[h] = v_fma(d, d, lane[h]);
    }
}

/* Lanes start at +0 and are never -0: what a missing part would add, fma(0, 0, lane), changes nothing. */
static float sum_of(const float *x, size_t n)
{
    vec lane[PARTS];
    UNROLL for (size_t h = 0; h < PARTS; h++) lane[h] = v_zero();
    for (; n >= 16; n -= 16, x += 16) add_up(lane, x, 16);
    add_up(lane, x, n);
    return v_fold(lane);
}
static float sum_of_squares(const float *x, float mean, size_t n)
{
    vec lane[PARTS];
    UNROLL for (size_t h = 0; h < PARTS; h++) lane[h] = v_zero();
    for (; n >= 16; n -= 16, x += 16) add_squares(lane, x, 16, v_set1(mean));
    add_squares(lane, x, n, v_set1(mean));
    return v_fold(lane);
}

static void KERNEL(rms_norm)(const float *x, const float *w, float eps, size_t n, float *y)
{
    const vec r = v_set1(1.0f / root(sum_of_squares(x, 0.0f, n) / (float)n + eps));
    for (size_t i = 0; i < n; i += VL) v_store_n(y + i, v_mul(v_mul(v_load_n(x + i, n - i), r), v_load_n(w + i, n - i)), n - i);
}

static void KERNEL(layer_norm)(const float *x, const float *w, const float *b, float eps, size_t n, float *y)
{
    const float mean = sum_of(x, n) / (float)n;
    const vec m = v_set1(mean), r = v_set1(1.0f / root(sum_of_squares(x, mean, n) / (float)n + eps));
    for (size_t i = 0; i < n; i += VL) {
        const size_t left = n - i;
        vec d = v_mul(v_sub(v_load_n(x + i, left), m), r), weight = v_load_n(w + i, left);
        v_store_n(y + i, b ? v_fma(d, weight, v_load_n(b + i, left)) : v_mul(d, weight), left);
    }
}

/* ---- element by element ---------------------------------------------------------------------------------------------- */

#define ACT(name, f)                                                                                                          \
    static void KERNEL(act_##name)(const float *x, size_t n, float *y)                                                        \
    {                                                                                                                         \
        for (size_t i = 0; i < n; i += VL) v_store_n(y + i, f(v_load_n(x + i, n - i)), n - i);                                \
    }                                                                                                                         \
    static void KERNEL(glu_##name)(const float *g, const float *u, float limit, size_t n, float *y)                           \
    {                                                                                                                         \
        (void)limit;                                                                                                          \
        for (size_t i = 0; i < n; i += VL) v_store_n(y + i, v_mul(f(v_load_n(g + i, n - i)), v_load_n(u + i, n - i)), n - i); \
    }
ACT(silu, v_silu)
ACT(gelu_tanh, v_gelu_tanh)
ACT(gelu, v_gelu)
ACT(relu2, v_relu2)
ACT(relu, v_relu)

static void KERNEL(glu_clamp)(const float *g, const float *u, float limit, size_t n, float *y)
{
    const vec top = v_set1(limit), bottom = v_set1(-limit);
    for (size_t i = 0; i < n; i += VL) {
        vec a = v_min(top, v_load_n(g + i, n - i)), b = v_max(bottom, v_min(top, v_load_n(u + i, n - i)));
        v_store_n(y + i, v_mul(v_add(b, v_set1(1.0f)), v_gated(a, v_mul(v_set1(1.702f), a))), n - i);
    }
}

static void KERNEL(add)(const float *a, const float *b, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += VL) v_store_n(y + i, v_add(v_load_n(a + i, n - i), v_load_n(b + i, n - i)), n - i);
}

static void KERNEL(mul)(const float *a, const float *b, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += VL) v_store_n(y + i, v_mul(v_load_n(a + i, n - i), v_load_n(b + i, n - i)), n - i);
}

static void KERNEL(gate)(const float *x, const float *g, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += VL) v_store_n(y + i, v_gated(v_load_n(x + i, n - i), v_load_n(g + i, n - i)), n - i);
}

static void KERNEL(scale)(const float *x, float f, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += VL) v_store_n(y + i, v_mul(v_load_n(x + i, n - i), v_set1(f)), n - i);
}

static void KERNEL(softcap)(const float *x, float cap, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += VL) v_store_n(y + i, v_capped(v_load_n(x + i, n - i), v_set1(cap)), n - i);
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

/* ---- the table ------------------------------------------------------------------------------------------------------- */

void KERNEL(elem_init)(struct kernels *k)
{
    k->rms_norm = KERNEL(rms_norm);
    k->layer_norm = KERNEL(layer_norm);
    k->act[ACT_SILU] = KERNEL(act_silu);
    k->act[ACT_GELU_TANH] = KERNEL(act_gelu_tanh);
    k->act[ACT_GELU] = KERNEL(act_gelu);
    k->act[ACT_RELU2] = KERNEL(act_relu2);
    k->act[ACT_RELU] = KERNEL(act_relu);
    k->glu[ACT_SILU] = KERNEL(glu_silu);
    k->glu[ACT_GELU_TANH] = KERNEL(glu_gelu_tanh);
    k->glu[ACT_GELU] = KERNEL(glu_gelu);
    k->glu[ACT_SWIGLU_CLAMP] = KERNEL(glu_clamp);
    k->glu[ACT_RELU2] = KERNEL(glu_relu2);
    k->glu[ACT_RELU] = KERNEL(glu_relu);
    k->add = KERNEL(add);
    k->mul = KERNEL(mul);
    k->gate = KERNEL(gate);
    k->scale = KERNEL(scale);
    k->softcap = KERNEL(softcap);
    k->exp = KERNEL(exp);
    k->rope = KERNEL(rope);
    k->attn_merge = KERNEL(attn_merge);
}

#endif
