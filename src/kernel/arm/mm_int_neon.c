/* mm_int_neon: integer weights on arm64 without the dot product instruction. A product of two int8 is at most 128 * 127 = 16256
 * in magnitude, so that an int16 holds the sum of two; the next step must widen. */
#include "kernel/arm/neon_int.h"

static inline int32x4_t dot4(int32x4_t sum, int8x16_t w, int8x16_t x)
{
    int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x)), high = vmull_high_s8(w, x);
    return vpadalq_s16(sum, vpaddq_s16(low, high));
}

static inline int32x4_t dot16(int32x4_t sum, int8x16_t w, int8x16_t x)
{
    return vpadalq_s16(sum, vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(x)), w, x));
}

static inline int32x4_t dot32(int32x4_t sum, const int8x16_t w[2], const int8x16_t x[2])
{
    return dot16(dot16(sum, w[0], x[0]), w[1], x[1]);
}

#include "kernel/arm/mm_rows_tmpl.h"

/* Several activation rows share the unpacking, but no more than fit the registers. */
enum { COLS = 4 };
ROWS_OF(1)
ROWS_OF(4)

static void mm_int_neon(const struct mm *a, size_t r0, size_t r1)
{
    rows_fn *const one = rows_1(a->type), *const many = rows_4(a->type);
    for (size_t r = r0; r < r1; r += QUAD)
        for (size_t m = 0; m < a->n_rows;) {
            const bool several = a->n_rows - m > COLS / 2;
            (several ? many : one)(a, r, r1, m);
            m += several ? COLS : 1;
        }
}

void mm_int_init_neon(struct kernels *k)
{
    for (enum qtype t = 0; t < QTYPE_COUNT; t++)
        if (qtypes[t].arith != ARITH_FLOAT) k->mm[t] = mm_int_neon;
}
