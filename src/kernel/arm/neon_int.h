/* neon_int: what the arm64 kernels share: 16 lanes as four registers, the fold, the weight loaders. Private to arm/.
 *
 * Each file of this folder exports one function, which puts its kernels into the table. All code is written with intrinsics
 * that mean one IEEE operation each: vfmaq is fused, vmulq and vaddq round by themselves (-ffp-contract=off keeps them apart).
 * FPCR is as the system starts a thread: round to nearest, FZ off.
 *
 * Hot loops are inline functions over constant tile sizes, so that their accumulators live in registers. There are 32: a tile
 * takes 16 or 24 of them for sums, so that the latency of a fused multiply-add (4 cycles, on up to 4 pipes) is covered. A value
 * is loaded where it is needed; the build turns off GCC's scheduling before register allocation, which would hoist loads until
 * the sums spill. */
#ifndef QUERN_NEON_INT_H
#define QUERN_NEON_INT_H

#include <arm_neon.h>
#include <math.h>

#include "kernel/kernel.h"

#define TILE_INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#define LANES 16

/* Lane l of docs/arithmetic.md is v[l / 4][l % 4]. */
struct lanes {
    float32x4_t v[4];
};

static inline float lanes_fold(struct lanes a)
{
    float32x4_t four = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
    float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

/* The first n < 4 of four floats, the others +0; and the way back. */
static inline float32x4_t load_part(const float *p, size_t n)
{
    float t[4] = {0};
    memcpy(t, p, n * sizeof *t);
    return vld1q_f32(t);
}
static inline void store_part(float *p, float32x4_t v, size_t n)
{
    float t[4];
    vst1q_f32(t, v);
    memcpy(p, t, n * sizeof *t);
}

/* Eight weights as floats. Weights have no alignment, so they are loaded as bytes. */
struct f32x8 {
    float32x4_t v[2];
};
typedef struct f32x8 load8_fn(const uint8_t *p);

static inline struct f32x8 load8_f32(const uint8_t *p)
{
    return (struct f32x8){{vreinterpretq_f32_u8(vld1q_u8(p)), vreinterpretq_f32_u8(vld1q_u8(p + 16))}};
}
static inline struct f32x8 load8_f16(const uint8_t *p)
{
    float16x8_t h = vreinterpretq_f16_u8(vld1q_u8(p));
    return (struct f32x8){{vcvt_f32_f16(vget_low_f16(h)), vcvt_high_f32_f16(h)}};
}
static inline struct f32x8 load8_bf16(const uint8_t *p)
{
    uint16x8_t h = vreinterpretq_u16_u8(vld1q_u8(p));
    uint32x4_t low = vshll_n_u16(vget_low_u16(h), 16), high = vshll_high_n_u16(h, 16);
    return (struct f32x8){{vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high)}};
}

void widen_f16_neon(const void *src, float *dst, size_t n);
void widen_bf16_neon(const void *src, float *dst, size_t n);

/* The files of this folder, called by kernels_init_neon. */
void attn_init_neon(struct kernels *k);
void convert_init_neon(struct kernels *k);
void elem_init_neon(struct kernels *k);
void mm_float_init_neon(struct kernels *k);
void mm_int_init_neon(struct kernels *k);
void recurrent_init_neon(struct kernels *k);
void peak_init_neon(struct kernels *k);
void peak_init_dotprod(struct kernels *k);

/* Products with one activation row, which no wider instruction helps. */
void mm_rows_dotprod(const struct mm *a, size_t r0, size_t r1);

#endif
