/* mm_q8_0_neon: Q8_0 weights on arm64 without the dot product instruction. A product of two int8 is at most 128 * 127 = 16256
 * in magnitude, so that an int16 holds the sum of two; the next step must widen. */
#include "kernel/arm/neon_int.h"

static inline int32x4_t dot32(int8x16_t w0, int8x16_t w1, int8x16_t x0, int8x16_t x1)
{
    int16x8_t p0 = vmlal_high_s8(vmull_s8(vget_low_s8(w0), vget_low_s8(x0)), w0, x0);
    int16x8_t p1 = vmlal_high_s8(vmull_s8(vget_low_s8(w1), vget_low_s8(x1)), w1, x1);
    return vpadalq_s16(vpaddlq_s16(p0), p1);
}

#include "kernel/arm/q8_0_rows.h"

void mm_q8_0_init_neon(struct kernels *k)
{
    k->mm[QTYPE_Q8_0] = mm_rows;
}
