/* vec_math_tmpl: the functions of docs/arithmetic.md in every lane, in the vocabulary of the vec_ header that includes it. Each
 * does what its namesake in num.c or scalar.c does, which explain them. */
#ifndef QUERN_VEC_MATH_TMPL_H
#define QUERN_VEC_MATH_TMPL_H

/* p * 2^n, right between the ends of the range. Where x is NaN so is p, whatever the power became. */
ALWAYS vec v_exp_inner(vec x)
{
    const vec magic = v_set1(0x1.8p+23f);
    vec t = v_fma(x, v_set1(0x1.715476p+0f), magic);
    vec n = v_sub(t, magic);
    vec r = v_fma(n, v_set1(-0x1.62ep-1f), x);
    r = v_fma(n, v_set1(-0x1.0bfbe8p-15f), r);
    vec p = v_set1(0x1.6d110ap-10f);
    p = v_fma(p, r, v_set1(0x1.120b6ep-7f));
    p = v_fma(p, r, v_set1(0x1.55551ap-5f));
    p = v_fma(p, r, v_set1(0x1.5554dcp-3f));
    p = v_fma(p, r, v_set1(0x1p-1f));
    p = v_fma(p, r, v_set1(1.0f));
    p = v_fma(p, r, v_set1(1.0f));
    return v_mul(p, v_exp_power(t));
}

ALWAYS vec v_exp(vec x)
{
    return v_exp_high(x, v_exp_low(x, v_exp_inner(x)));
}
/* The same for x that are at most 0, or NaN. */
ALWAYS vec v_exp_falling(vec x)
{
    return v_exp_low(x, v_exp_inner(x));
}

/* tanh(x), x / cap scaled back. */
ALWAYS vec v_tanh(vec x)
{
    vec a = v_abs(x), z = v_mul(a, a);
    vec p = v_set1(-0x1.8f8de4p-8f);
    p = v_fma(p, z, v_set1(0x1.58048ep-6f));
    p = v_fma(p, z, v_set1(-0x1.b9258ap-5f));
    p = v_fma(p, z, v_set1(0x1.110e1cp-3f));
    p = v_fma(p, z, v_set1(-0x1.555552p-2f));
    vec e = v_exp_falling(v_mul(v_set1(-2.0f), a)), one = v_set1(1.0f);
    vec t = v_if_less(a, v_set1(0.625f), v_fma(v_mul(a, z), p, a), v_div(v_sub(one, e), v_add(one, e)));
    return v_with_sign(t, x);
}
ALWAYS vec v_capped(vec x, vec cap)
{
    return v_mul(cap, v_tanh(v_div(x, cap)));
}

ALWAYS vec v_gated(vec x, vec g)
{
    return v_div(x, v_add(v_set1(1.0f), v_exp(v_neg(g))));
}
ALWAYS vec v_silu(vec x)
{
    return v_gated(x, x);
}
ALWAYS vec v_relu(vec x)
{
    return v_max(v_zero(), x);
}
ALWAYS vec v_relu2(vec x)
{
    vec r = v_max(v_zero(), x);
    return v_mul(r, r);
}

ALWAYS vec v_tail_normal(vec a)
{
    vec p = v_set1(0x1.099936p-8f);
    p = v_fma(p, a, v_set1(0x1.4988fp-5f));
    p = v_fma(p, a, v_set1(0x1.74dce4p-3f));
    p = v_fma(p, a, v_set1(0x1.bf3ef8p-2f));
    p = v_fma(p, a, v_set1(0.5f));
    vec q = v_set1(0x1.4cdfc6p-7f);
    q = v_fma(q, a, v_set1(0x1.9d09e6p-4f));
    q = v_fma(q, a, v_set1(0x1.dd8e72p-2f));
    q = v_fma(q, a, v_set1(0x1.329d64p+0f));
    q = v_fma(q, a, v_set1(0x1.abe1aap+0f));
    q = v_fma(q, a, v_set1(1.0f));
    return v_mul(v_exp_falling(v_mul(v_set1(-0.5f), v_mul(a, a))), v_div(p, q));
}
ALWAYS vec v_tail_tanh(vec a)
{
    vec e = v_exp(v_mul(a, v_fma(v_mul(a, a), v_set1(0x1.2444f2p-4f), v_set1(0x1.988454p+0f))));
    return v_div(v_set1(1.0f), v_add(v_set1(1.0f), e));
}
ALWAYS vec v_gelu(vec x)
{
    vec a = v_min(v_set1(16.0f), v_abs(x));
    return v_fma(v_neg(a), v_tail_normal(a), v_max(v_zero(), x));
}
ALWAYS vec v_gelu_tanh(vec x)
{
    vec a = v_min(v_set1(16.0f), v_abs(x));
    return v_fma(v_neg(a), v_tail_tanh(a), v_max(v_zero(), x));
}

#endif
