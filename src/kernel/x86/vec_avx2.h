/* vec_avx2: the vocabulary in which mm_float_tmpl.h, attn_tmpl.h and elem_tmpl.h are written, in AVX2 with FMA and F16C.
 * vec_avx512.h is its twin. All of it is static inline and only *_avx2.c files include it.
 *
 * A vec has VL floats; PARTS of them are the 16 lanes of docs/arithmetic.md. Functions with _n touch the first n floats only
 * (all where n >= VL): the others load as +0, which is the padding that the definition asks for, and their addresses are never
 * used. */
#ifndef QUERN_VEC_AVX2_H
#define QUERN_VEC_AVX2_H

#include <immintrin.h>
#include <math.h>

#include "kernel/kernel.h"

/* Loops over a tile must disappear before their arrays can live in registers. */
#define ALWAYS static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define KERNEL(name) name##_avx2

typedef __m256 vec;
enum { VL = 8, PARTS = 2 };

/* Asks for the line at p + offset, into L1 or L2. It may lie outside of any object: nothing is read. */
ALWAYS void fetch_l1(const void *p, size_t offset)
{
    _mm_prefetch((const char *)((uintptr_t)p + offset), _MM_HINT_T0);
}
ALWAYS void fetch_l2(const void *p, size_t offset)
{
    _mm_prefetch((const char *)((uintptr_t)p + offset), _MM_HINT_T1);
}

/* All bits set in the first n lanes. */
ALWAYS __m256i lanes(size_t n)
{
    static const int32_t ones[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
    return _mm256_loadu_si256((const __m256i *)(ones + 8 - (n < VL ? n : VL)));
}

ALWAYS vec v_zero(void)
{
    return _mm256_setzero_ps();
}
ALWAYS vec v_set1(float x)
{
    return _mm256_set1_ps(x);
}
ALWAYS vec v_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
ALWAYS vec v_load_n(const float *p, size_t n)
{
    return n >= VL ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, lanes(n));
}
ALWAYS void v_store(float *p, vec v)
{
    _mm256_storeu_ps(p, v);
}
ALWAYS void v_store_n(float *p, vec v, size_t n)
{
    if (n >= VL)
        _mm256_storeu_ps(p, v);
    else
        _mm256_maskstore_ps(p, lanes(n), v);
}
/* VL / 2 floats, each of them twice. */
ALWAYS vec v_load_twice_n(const float *p, size_t n)
{
    __m128 half = _mm_maskload_ps(p, _mm256_castsi256_si128(lanes(n)));
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(half), _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
}

ALWAYS vec v_widen(__m128i h, const enum qtype t)
{
    if (t == QTYPE_F16) return _mm256_cvtph_ps(h);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
/* Scales: f16, or where t is MXFP4 exponents e of 2^(e - 128), of which the first two are subnormal. */
ALWAYS vec v_scales(__m128i h, const enum qtype t)
{
    if (t == QTYPE_F16) return v_widen(h, t);
    const __m256i e = _mm256_cvtepu16_epi32(h), tiny = _mm256_sllv_epi32(_mm256_set1_epi32(1 << 21), e);
    const __m256i is_tiny = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e);
    const __m256i v = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(v, tiny, is_tiny));
}
/* Numbers of type t (F32, F16 or BF16) as floats. */
ALWAYS vec v_load_as(const void *p, const enum qtype t)
{
    return t == QTYPE_F32 ? _mm256_loadu_ps(p) : v_widen(_mm_loadu_si128(p), t);
}
ALWAYS vec v_load_as_n(const void *p, size_t n, const enum qtype t)
{
    if (t == QTYPE_F32) return v_load_n(p, n);
    uint16_t h[VL] = {0};
    memcpy(h, p, 2 * size_min(n, VL));
    return v_widen(_mm_loadu_si128((const __m128i *)h), t);
}
ALWAYS vec v_load_i8(const void *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p)));
}
/* The halves of VL bytes, the low ones (shift 0) or the high ones (4), less 8. */
ALWAYS vec v_load_i4(const void *p, int shift)
{
    __m256i u = _mm256_srl_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p)), _mm_cvtsi32_si128(shift));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_and_si256(u, _mm256_set1_epi32(15)), _mm256_set1_epi32(8)));
}
/* Integers within -128..255 as bytes. */
ALWAYS void v_store_i8(void *p, vec v)
{
    const __m256i first = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, -1, -1, -1,
                                           -1, -1, -1, -1, -1, -1, -1, -1, -1);
    __m256i b = _mm256_shuffle_epi8(_mm256_cvtps_epi32(v), first);
    _mm_storel_epi64(p, _mm_unpacklo_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1)));
}
ALWAYS void v_store_f16_n(void *p, vec v, size_t n)
{
    uint16_t h[VL];
    _mm_storeu_si128((__m128i *)h, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    memcpy(p, h, 2 * size_min(n, VL));
}

/* Registers of bytes, four to each lane of VL. The products add four of them, times four int8 within -127..127, to the lane's
 * integer: of u8 up to 128 (two products must fit 16 bits); or of int8 that count as I8_OFF more than they are. */
typedef __m256i ivec;
enum { I8_OFF = 0 };
ALWAYS ivec vi_load(const void *p)
{
    return _mm256_loadu_si256(p);
}
ALWAYS ivec vi_set1(int x)
{
    return _mm256_set1_epi32(x);
}
ALWAYS ivec vi_low_half(ivec a)
{
    return _mm256_and_si256(a, _mm256_set1_epi8(15));
}
ALWAYS ivec vi_high_half(ivec a)
{
    return _mm256_and_si256(_mm256_srli_epi16(a, 4), _mm256_set1_epi8(15));
}
ALWAYS ivec vi_dot_u8(ivec acc, ivec u, ivec q)
{
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(u, q), _mm256_set1_epi16(1)));
}
ALWAYS ivec vi_dot_i8(ivec acc, ivec i, ivec q)
{
    return vi_dot_u8(acc, _mm256_abs_epi8(i), _mm256_sign_epi8(q, i));
}
ALWAYS vec vi_to_float(ivec a)
{
    return _mm256_cvtepi32_ps(a);
}

ALWAYS vec v_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}
ALWAYS vec v_sub(vec a, vec b)
{
    return _mm256_sub_ps(a, b);
}
ALWAYS vec v_mul(vec a, vec b)
{
    return _mm256_mul_ps(a, b);
}
ALWAYS vec v_div(vec a, vec b)
{
    return _mm256_div_ps(a, b);
}
ALWAYS vec v_neg(vec a)
{
    return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f));
}
ALWAYS vec v_abs(vec a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
/* a, not negative, with the sign of another. */
ALWAYS vec v_with_sign(vec a, vec sign)
{
    return _mm256_or_ps(a, _mm256_and_ps(sign, _mm256_set1_ps(-0.0f)));
}
/* x where a < b, else y. */
ALWAYS vec v_if_less(vec a, vec b, vec x, vec y)
{
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
/* a * b + c, a * b - c, and the two in turns: - in even lanes, + in odd ones. */
ALWAYS vec v_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}
ALWAYS vec v_fms(vec a, vec b, vec c)
{
    return _mm256_fmsub_ps(a, b, c);
}
ALWAYS vec v_fmas(vec a, vec b, vec c)
{
    return _mm256_fmaddsub_ps(a, b, c);
}
/* The larger, the smaller; b where one is NaN or both are zero. */
ALWAYS vec v_max(vec a, vec b)
{
    return _mm256_max_ps(a, b);
}
ALWAYS vec v_min(vec a, vec b)
{
    return _mm256_min_ps(a, b);
}
ALWAYS bool v_any_nan(vec a)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)) != 0;
}
/* The first n lanes, the others replaced by those of rest. */
ALWAYS vec v_first_n(vec a, size_t n, vec rest)
{
    return _mm256_blendv_ps(rest, a, _mm256_castsi256_ps(lanes(n)));
}
/* Each pair of lanes: its even one twice, its odd one twice; the even lanes of a and the odd ones of b. */
ALWAYS vec v_even(vec a)
{
    return _mm256_moveldup_ps(a);
}
ALWAYS vec v_odd(vec a)
{
    return _mm256_movehdup_ps(a);
}
ALWAYS vec v_mix(vec a, vec b)
{
    return _mm256_blend_ps(a, b, 0xaa);
}

/* 2^n for the t of num_exp, and the two ends of its range laid over y. */
ALWAYS vec v_exp_power(vec t)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_castps_si256(t), _mm256_set1_epi32(127)), 23));
}
ALWAYS vec v_exp_low(vec x, vec y)
{
    return _mm256_and_ps(_mm256_cmp_ps(x, _mm256_set1_ps(-87.0f), _CMP_NLT_UQ), y);
}
ALWAYS vec v_exp_high(vec x, vec y)
{
    return _mm256_blendv_ps(y, _mm256_set1_ps(INFINITY), _mm256_cmp_ps(x, _mm256_set1_ps(88.0f), _CMP_GT_OQ));
}

ALWAYS float v_get(vec a)
{
    return _mm256_cvtss_f32(a);
}
ALWAYS float v_max_all(vec a)
{
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
/* The fold of 16 lanes. */
ALWAYS float v_fold(const vec a[PARTS])
{
    __m256 h = _mm256_add_ps(a[0], a[1]);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

/* The compiler's sqrtf may be a call that sets errno; the instruction is what IEEE 754 defines. */
ALWAYS float root(float x)
{
    return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x)));
}

#include "kernel/vec_math_tmpl.h"

#endif
