/* peak_avx512: the limits of AVX-512 with VNNI. */
#include <immintrin.h>

#include "kernel/peak.h"
#include "kernel/x86/avx512.h"

#define START_INT8(c) __m512i v##c = _mm512_set1_epi8(3);
#define STEP_INT8(c)                              \
    v##c = _mm512_dpbusd_epi32(v##c, v##c, v##c); \
    KEEP("v", v##c);
PEAK(peak_int8_avx512, TWELVE, 12, START_INT8, STEP_INT8, 64)

#define START_F32(c) __m512 v##c = _mm512_set1_ps(0.5f);
#define STEP_F32(c)                           \
    v##c = _mm512_fmadd_ps(v##c, v##c, v##c); \
    KEEP("v", v##c);
PEAK(peak_f32_avx512, TWELVE, 12, START_F32, STEP_F32, 16)

void peak_init_avx512(struct kernels *k)
{
    k->peak_int8 = peak_int8_avx512;
    k->peak_f32 = peak_f32_avx512;
}
