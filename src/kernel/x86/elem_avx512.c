/* elem: elementwise AVX-512 kernels, quantised activations, and the table of the level. */
#include "kernel/x86/avx512.h"
#include "kernel/x86/vec_avx512.h"

#include "kernel/elem_tmpl.h"
#include "kernel/x86/convert_tmpl.h"

/* n registers of activations that share a scale; a sum for each n_sum of them. */
ALWAYS void quant_block(const float *x, const size_t n, const size_t n_sum, int8_t *q, float *d, int16_t *s)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i most = _mm512_setzero_si512(), sum = most;
    for (size_t i = 0; i < n; i++)
        most = _mm512_max_epu32(most, _mm512_and_si512(_mm512_castps_si512(v_load(x + 16 * i)), magnitude));
    const uint32_t top = _mm512_reduce_max_epu32(most);
    float amax;
    memcpy(&amax, &top, sizeof amax);
    const bool finite = top < 0x7f800000u, live = finite && amax >= 0x1p-100f;
    *d = !finite ? NAN : live ? amax / 127.0f : 0.0f;
    const __mmask16 keep = live ? 0xffff : 0; /* none: every q is 0, whatever x holds */
    const __m512 id = _mm512_set1_ps(127.0f / (live ? amax : 1.0f));
    for (size_t i = 0; i < n; i++) {
        const __m512i v = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(v_load(x + 16 * i), id));
        _mm_storeu_si128((__m128i *)(q + 16 * i), _mm512_cvtepi32_epi8(v));
        sum = i % n_sum ? _mm512_add_epi32(sum, v) : v;
        if (i % n_sum == n_sum - 1) s[i / n_sum] = (int16_t)_mm512_reduce_add_epi32(sum);
    }
}

static void quant_act_32_avx512(const float *x, size_t n, int8_t *q, float *d, int16_t *s)
{
    for (size_t i = 0; i < n; i += ACT_BLOCK) quant_block(x + i, 2, 2, q + i, d++, s++);
}

static void quant_act_256_avx512(const float *x, size_t n, int8_t *q, float *d, int16_t *s)
{
    for (size_t i = 0; i < n; i += QSUPER) quant_block(x + i, 16, 1, q + i, d++, s + i / QSUB);
}

void kernels_init_avx512(struct kernels *k)
{
    for (size_t t = 0; t < QTYPE_COUNT; t++)
        if (qtypes[t].arith == ARITH_FLOAT) k->mm[t] = mm_any_float_avx512;
    k->mm[QTYPE_F32] = mm_f32_avx512;
    k->mm[QTYPE_F16] = mm_f16_avx512;
    k->mm[QTYPE_BF16] = mm_bf16_avx512;
    mm_int_init_avx512(k);
    elem_init_avx512(k);
    convert_init_avx512(k);
    k->quant_act_32 = quant_act_32_avx512;
    k->quant_act_256 = quant_act_256_avx512;
    k->attn_tile = attn_tile_avx512;
    recurrent_init_avx512(k);
    peak_init_avx512(k);
}
