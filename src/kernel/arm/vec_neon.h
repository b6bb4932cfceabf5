/* vec_neon: the vocabulary in which elem_tmpl.h is written, in NEON; vec_avx2.h and vec_avx512.h of x86/ are the same with
 * wider registers. A vec has VL floats; PARTS of them are the 16 lanes of docs/arithmetic.md. Functions with _n touch the first
 * n floats only (all where n >= VL): the others load as +0. */
#ifndef QUERN_VEC_NEON_H
#define QUERN_VEC_NEON_H

#include "kernel/arm/neon_int.h"

#define ALWAYS TILE_INLINE
#define KERNEL(name) name##_neon

typedef float32x4_t vec;
enum { VL = 4, PARTS = 4 };

/* All bits set in the first n lanes. */
ALWAYS uint32x4_t first_lanes(size_t n)
{
    static const uint32_t numbers[VL] = {0, 1, 2, 3};
    return vcltq_u32(vld1q_u32(numbers), vdupq_n_u32((uint32_t)size_min(n, VL)));
}
ALWAYS uint32x4_t odd_lanes(void)
{
    return vreinterpretq_u32_u64(vdupq_n_u64(0xffffffff00000000u));
}
ALWAYS uint32x4_t sign_bits(void)
{
    return vdupq_n_u32(0x80000000u);
}

ALWAYS vec v_zero(void)
{
    return vdupq_n_f32(0.0f);
}
ALWAYS vec v_set1(float x)
{
    return vdupq_n_f32(x);
}
ALWAYS vec v_load(const float *p)
{
    return vld1q_f32(p);
}
ALWAYS vec v_load_n(const float *p, size_t n)
{
    return n >= VL ? vld1q_f32(p) : load_part(p, n);
}
ALWAYS void v_store(float *p, vec v)
{
    vst1q_f32(p, v);
}
ALWAYS void v_store_n(float *p, vec v, size_t n)
{
    if (n >= VL)
        vst1q_f32(p, v);
    else
        store_part(p, v, n);
}
/* VL / 2 floats, each of them twice. */
ALWAYS vec v_load_twice_n(const float *p, size_t n)
{
    vec v = load_part(p, size_min(n, VL / 2));
    return vzip1q_f32(v, v);
}

ALWAYS vec v_add(vec a, vec b)
{
    return vaddq_f32(a, b);
}
ALWAYS vec v_sub(vec a, vec b)
{
    return vsubq_f32(a, b);
}
ALWAYS vec v_mul(vec a, vec b)
{
    return vmulq_f32(a, b);
}
ALWAYS vec v_div(vec a, vec b)
{
    return vdivq_f32(a, b);
}
ALWAYS vec v_neg(vec a)
{
    return vnegq_f32(a);
}
ALWAYS vec v_abs(vec a)
{
    return vabsq_f32(a);
}
/* a, not negative, with the sign of another. */
ALWAYS vec v_with_sign(vec a, vec sign)
{
    return vbslq_f32(sign_bits(), sign, a);
}
/* x where a < b, else y. */
ALWAYS vec v_if_less(vec a, vec b, vec x, vec y)
{
    return vbslq_f32(vcltq_f32(a, b), x, y);
}
/* a * b + c, a * b - c, and the two in turns: - in even lanes, + in odd ones. */
ALWAYS vec v_fma(vec a, vec b, vec c)
{
    return vfmaq_f32(c, a, b);
}
ALWAYS vec v_fms(vec a, vec b, vec c)
{
    return vfmaq_f32(vnegq_f32(c), a, b);
}
ALWAYS vec v_fmas(vec a, vec b, vec c)
{
    return vfmaq_f32(vbslq_f32(odd_lanes(), c, vnegq_f32(c)), a, b);
}
/* The larger, the smaller; b where one is NaN or both are zero. */
ALWAYS vec v_max(vec a, vec b)
{
    return v_if_less(b, a, a, b);
}
ALWAYS vec v_min(vec a, vec b)
{
    return v_if_less(a, b, a, b);
}
/* The first n lanes, the others replaced by those of rest. */
ALWAYS vec v_first_n(vec a, size_t n, vec rest)
{
    return vbslq_f32(first_lanes(n), a, rest);
}
/* Each pair of lanes: its even one twice, its odd one twice; the even lanes of a and the odd ones of b. */
ALWAYS vec v_even(vec a)
{
    return vtrn1q_f32(a, a);
}
ALWAYS vec v_odd(vec a)
{
    return vtrn2q_f32(a, a);
}
ALWAYS vec v_mix(vec a, vec b)
{
    return vbslq_f32(odd_lanes(), b, a);
}

/* 2^n for the t of num_exp, and the two ends of its range laid over y. */
ALWAYS vec v_exp_power(vec t)
{
    return vreinterpretq_f32_u32(vshlq_n_u32(vaddq_u32(vreinterpretq_u32_f32(t), vdupq_n_u32(127)), 23));
}
ALWAYS vec v_exp_low(vec x, vec y)
{
    return v_if_less(x, v_set1(-87.0f), v_zero(), y);
}
ALWAYS vec v_exp_high(vec x, vec y)
{
    return v_if_less(v_set1(88.0f), x, v_set1(INFINITY), y);
}

ALWAYS float v_get(vec a)
{
    return vgetq_lane_f32(a, 0);
}
/* The fold of 16 lanes. */
ALWAYS float v_fold(const vec a[PARTS])
{
    return lanes_fold((struct lanes){{a[0], a[1], a[2], a[3]}});
}
ALWAYS float root(float x)
{
    return vget_lane_f32(vsqrt_f32(vdup_n_f32(x)), 0);
}

#include "kernel/vec_math_tmpl.h"

#endif
