/* peak_avx2: the limits of AVX2. Its product of int8 takes three instructions for 32 multiply-adds. */
#include <immintrin.h>

#include "kernel/peak.h"
#include "kernel/x86/avx2.h"

#define START_INT8(c) __m256i v##c = _mm256_set1_epi8(3);
#define STEP_INT8(c)                                                                                          \
    v##c = _mm256_add_epi32(v##c, _mm256_madd_epi16(_mm256_maddubs_epi16(v##c, v##c), _mm256_set1_epi16(1))); \
    KEEP("x", v##c);
PEAK(peak_int8_avx2, TWELVE, 12, START_INT8, STEP_INT8, 32)

#define START_F32(c) __m256 v##c = _mm256_set1_ps(0.5f);
#define STEP_F32(c)                           \
    v##c = _mm256_fmadd_ps(v##c, v##c, v##c); \
    KEEP("x", v##c);
PEAK(peak_f32_avx2, TWELVE, 12, START_F32, STEP_F32, 8)

void peak_init_avx2(struct kernels *k)
{
    k->peak_int8 = peak_int8_avx2;
    k->peak_f32 = peak_f32_avx2;
}
