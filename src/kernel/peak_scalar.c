/* peak_scalar: the limits of plain C, one multiply-add at a time. */
#include "kernel/peak.h"

#define START_INT8(c) uint32_t v##c = 3;
#define STEP_INT8(c)           \
    v##c = v##c * v##c + v##c; \
    KEEP("r", v##c);
PEAK(peak_int8_scalar, TWELVE, 12, START_INT8, STEP_INT8, 1)

#define START_F32(c) float v##c = 0.5f;
#if defined(__x86_64__)
#define KEEP_FLOAT(v) KEEP("x", v)
#elif defined(__aarch64__)
#define KEEP_FLOAT(v) KEEP("w", v)
#else
#define KEEP_FLOAT(v) KEEP("m", v)
#endif
#define STEP_F32(c)            \
    v##c = v##c * v##c + v##c; \
    KEEP_FLOAT(v##c);
PEAK(peak_f32_scalar, TWELVE, 12, START_F32, STEP_F32, 1)

void peak_init_scalar(struct kernels *k)
{
    k->peak_int8 = peak_int8_scalar;
    k->peak_f32 = peak_f32_scalar;
}
