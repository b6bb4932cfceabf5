/* peak_avxvnni: the limit of AVX2 with VNNI; that of floats is AVX2's. */
#include "kernel/peak.h"
#include "kernel/x86/vnni.h"

#define START_INT8(c) __m256i v##c = _mm256_set1_epi8(3);
#define STEP_INT8(c)                 \
    v##c = DPBUSD(v##c, v##c, v##c); \
    KEEP("x", v##c);
PEAK(peak_int8, TWELVE, 12, START_INT8, STEP_INT8, 32)

void VNNI(peak_init)(struct kernels *k)
{
    k->peak_int8 = peak_int8;
}
