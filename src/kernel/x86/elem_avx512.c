/* elem: elementwise AVX-512 kernels, quantised activations, and the table of the level. */
#include "kernel/x86/avx512.h"
#include "kernel/x86/vec_avx512.h"

#include "kernel/x86/elem_tmpl.h"

static void quant_act_32_avx512(const float *x, size_t n, int8_t *q, float *d, int16_t *s)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    for (size_t b = 0; b < n / ACT_BLOCK; b++, x += ACT_BLOCK, q += ACT_BLOCK) {
        __m512 x0 = _mm512_loadu_ps(x), x1 = _mm512_loadu_ps(x + 16);
        __m512i m0 = _mm512_and_si512(_mm512_castps_si512(x0), magnitude);
        __m512i m1 = _mm512_and_si512(_mm512_castps_si512(x1), magnitude);
        uint32_t top = _mm512_reduce_max_epu32(_mm512_max_epu32(m0, m1));
        float amax;
        memcpy(&amax, &top, sizeof amax);
        bool finite = top < 0x7f800000u, live = finite && amax >= 0x1p-100f;
        d[b] = !finite ? NAN : live ? amax / 127.0f : 0.0f;
        __mmask16 keep = live ? 0xffff : 0; /* none: every q is 0, whatever x holds */
        __m512 id = _mm512_set1_ps(127.0f / (live ? amax : 1.0f));
        __m512i q0 = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(x0, id));
        __m512i q1 = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(x1, id));
        _mm_storeu_si128((__m128i *)q, _mm512_cvtepi32_epi8(q0));
        _mm_storeu_si128((__m128i *)(q + 16), _mm512_cvtepi32_epi8(q1));
        s[b] = (int16_t)_mm512_reduce_add_epi32(_mm512_add_epi32(q0, q1));
    }
}

void kernels_init_avx512(struct kernels *k)
{
    k->mm[QTYPE_F32] = mm_f32_avx512;
    k->mm[QTYPE_F16] = mm_f16_avx512;
    k->mm[QTYPE_BF16] = mm_bf16_avx512;
    k->mm[QTYPE_Q8_0] = mm_q8_0_avx512;
    k->to_float[QTYPE_F16] = to_float_f16_avx512;
    k->to_float[QTYPE_BF16] = to_float_bf16_avx512;
    k->to_float[QTYPE_Q8_0] = to_float_q8_0_avx512;
    k->quant_act_32 = quant_act_32_avx512;
    k->rms_norm = rms_norm_avx512;
    k->swiglu = swiglu_avx512;
    k->add = add_avx512;
    k->rope = rope_avx512;
    k->attn_tile[QTYPE_F32] = attn_tile_f32_avx512;
    k->attn_tile[QTYPE_F16] = attn_tile_f16_avx512;
    k->attn_merge = attn_merge_avx512;
    k->exp = exp_avx512;
    peak_init_avx512(k);
}
