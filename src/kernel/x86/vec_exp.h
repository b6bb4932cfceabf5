/* vec_exp: num_exp and the hyperbolic tangent in every lane, in the vocabulary of the vec_ header that includes it. Where x is
 * NaN so is p, whatever the power became. */
#ifndef QUERN_VEC_EXP_H
#define QUERN_VEC_EXP_H

/* p * 2^n, right between the ends of the range. */
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

ALWAYS vec v_tanh(vec x)
{
    const vec e = v_exp(v_mul(v_set1(-2.0f), v_abs(x)));
    return v_copysign(v_div(v_sub(v_set1(1.0f), e), v_add(v_set1(1.0f), e)), x);
}

#endif
