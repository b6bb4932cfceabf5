/* elem: elementwise AVX2 kernels, quantised activations, and the table of the level. */
#include "kernel/x86/avx2.h"
#include "kernel/x86/vec_avx2.h"

#include "kernel/elem_tmpl.h"
#include "kernel/x86/convert_tmpl.h"

ALWAYS __m128i halves_max(__m256i v)
{
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
    return _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
}

ALWAYS int32_t sum_all(__m256i v)
{
    __m128i t = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1)));
}

/* n times 32 activations that share a scale; a sum for all 32 or, where halves, for each 16. */
ALWAYS void quant_block(const float *x, const size_t n, const bool halves, int8_t *q, float *d, int16_t *s)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i most = _mm256_setzero_si256();
    for (size_t i = 0; i < 4 * n; i++)
        most = _mm256_max_epu32(most, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + 8 * i)), magnitude));
    const uint32_t top = (uint32_t)_mm_cvtsi128_si32(halves_max(most));
    float amax;
    memcpy(&amax, &top, sizeof amax);
    const bool finite = top < 0x7f800000u, live = finite && amax >= 0x1p-100f;
    *d = !finite ? NAN : live ? amax / 127.0f : 0.0f;
    const __m256i keep = _mm256_set1_epi32(live ? -1 : 0); /* none: every q is 0, whatever x holds */
    const __m256 id = _mm256_set1_ps(127.0f / (live ? amax : 1.0f));
    for (size_t b = 0; b < n; b++, x += 32, q += 32) {
        __m256i v[4];
        UNROLL for (int i = 0; i < 4; i++) v[i] =
            _mm256_and_si256(_mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), id)), keep);
        const __m256i low = _mm256_add_epi32(v[0], v[1]), high = _mm256_add_epi32(v[2], v[3]);
        if (halves) {
            *s++ = (int16_t)sum_all(low);
            *s++ = (int16_t)sum_all(high);
        } else {
            *s++ = (int16_t)sum_all(_mm256_add_epi32(low, high));
        }
        /* The packs work in each half of a register: dwords come out in the order 0, 2, 4, 6, 1, 3, 5, 7. */
        __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
        bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256((__m256i *)q, bytes);
    }
}

static void quant_act_32_avx2(const float *x, size_t n, int8_t *q, float *d, int16_t *s)
{
    for (size_t i = 0; i < n; i += ACT_BLOCK) quant_block(x + i, 1, false, q + i, d++, s++);
}

static void quant_act_256_avx2(const float *x, size_t n, int8_t *q, float *d, int16_t *s)
{
    for (size_t i = 0; i < n; i += QSUPER) quant_block(x + i, QSUPER / 32, true, q + i, d++, s + i / QSUB);
}

void kernels_init_avx2(struct kernels *k)
{
    for (size_t t = 0; t < QTYPE_COUNT; t++)
        if (qtypes[t].arith == ARITH_FLOAT) k->mm[t] = mm_any_float_avx2;
    k->mm[QTYPE_F32] = mm_f32_avx2;
    k->mm[QTYPE_F16] = mm_f16_avx2;
    k->mm[QTYPE_BF16] = mm_bf16_avx2;
    mm_int_init_avx2(k);
    elem_init_avx2(k);
    convert_init_avx2(k);
    k->quant_act_32 = quant_act_32_avx2;
    k->quant_act_256 = quant_act_256_avx2;
    k->attn_tile = attn_tile_avx2;
    recurrent_init_avx2(k);
    peak_init_avx2(k);
}
