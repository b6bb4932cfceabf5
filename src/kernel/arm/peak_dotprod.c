/* peak_dotprod: the limit of SDOT, 16 multiply-adds of int8 an instruction. */
#include "kernel/arm/neon_int.h"
#include "kernel/peak.h"

#define START_INT8(c) int32x4_t v##c = vdupq_n_s32(0x03030303);
#define STEP_INT8(c)                                                                \
    v##c = vdotq_s32(v##c, vreinterpretq_s8_s32(v##c), vreinterpretq_s8_s32(v##c)); \
    KEEP("w", v##c);
PEAK(peak_int8_dotprod, SIXTEEN, 16, START_INT8, STEP_INT8, 16)

void peak_init_dotprod(struct kernels *k)
{
    k->peak_int8 = peak_int8_dotprod;
}
