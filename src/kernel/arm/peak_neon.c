/* peak_neon: the limits of NEON. Without the dot product instruction, 16 products of int8 take three instructions. */
#include "kernel/arm/neon_int.h"
#include "kernel/peak.h"

#define START_INT8(c) int32x4_t v##c = vdupq_n_s32(0x03030303);
#define STEP_INT8(c)                                                                             \
    {                                                                                            \
        int8x16_t x = vreinterpretq_s8_s32(v##c);                                                \
        v##c = vpadalq_s16(v##c, vmlal_high_s8(vmull_s8(vget_low_s8(x), vget_low_s8(x)), x, x)); \
        KEEP("w", v##c);                                                                         \
    }
PEAK(peak_int8_neon, SIXTEEN, 16, START_INT8, STEP_INT8, 16)

#define START_F32(c) float32x4_t v##c = vdupq_n_f32(0.5f);
#define STEP_F32(c)                     \
    v##c = vfmaq_f32(v##c, v##c, v##c); \
    KEEP("w", v##c);
PEAK(peak_f32_neon, SIXTEEN, 16, START_F32, STEP_F32, 4)

void peak_init_neon(struct kernels *k)
{
    k->peak_int8 = peak_int8_neon;
    k->peak_f32 = peak_f32_neon;
}
