/* mm_int_i8mm: integer weights with SMMLA, which multiplies two rows of 8 k with two columns of 8 k: 32 products to an
 * instruction, twice those of SDOT. It needs a second column to be of use; one activation row takes the kernels of dotprod. */
#include "kernel/arm/neon_int.h"

/* sum[4 c + i]: rows 2 i and 2 i + 1 with columns 2 c and 2 c + 1, as row 0 column 0, row 0 column 1, row 1 column 0, ... */
enum { UNIT = 8, SPREAD_REGS = 4 };

#define ROW64(v) vreinterpretq_u64_u8(v)

TILE_INLINE void order4(uint8x16_t v[4])
{
    const uint64x2_t a = ROW64(v[0]), b = ROW64(v[1]), c = ROW64(v[2]), d = ROW64(v[3]);
    v[0] = vreinterpretq_u8_u64(vzip1q_u64(a, b));
    v[1] = vreinterpretq_u8_u64(vzip1q_u64(c, d));
    v[2] = vreinterpretq_u8_u64(vzip2q_u64(a, b));
    v[3] = vreinterpretq_u8_u64(vzip2q_u64(c, d));
}

TILE_INLINE void order_words(uint8x16_t v[4])
{
    UNROLL for (size_t i = 0; i < 4; i += 2)
    {
        const uint32x4_t a = vreinterpretq_u32_u8(v[i]), b = vreinterpretq_u32_u8(v[i + 1]);
        v[i] = vreinterpretq_u8_u32(vzip1q_u32(a, b));
        v[i + 1] = vreinterpretq_u8_u32(vzip2q_u32(a, b));
    }
}

/* 8 k: the weights at w, two rows to a register, and columns 2 c and 2 c + 1 in x[c]. */
TILE_INLINE void dot_columns(int32x4_t *sum, const int8_t *w, const int8x16_t x[2], const size_t M)
{
    UNROLL for (size_t i = 0; i < 4; i += 2)
    {
        const int8x16_t w0 = vld1q_s8(w + 16 * i), w1 = vld1q_s8(w + 16 * i + 16);
        UNROLL for (size_t c = 0; c < M / 2; c++)
        {
            sum[4 * c + i] = vmmlaq_s32(sum[4 * c + i], w0, x[c]);
            sum[4 * c + i + 1] = vmmlaq_s32(sum[4 * c + i + 1], w1, x[c]);
        }
    }
}

TILE_INLINE void spread(void *dst, float32x4_t v, size_t half)
{
    float *p = (float *)dst + 8 * half;
    vst1q_f32(p, vzip1q_f32(v, v));
    vst1q_f32(p + 4, vzip2q_f32(v, v));
}

TILE_INLINE float32x4_t columns(float32x4_t v, size_t o)
{
    const float64x2_t pairs = vreinterpretq_f64_f32(v);
    return vreinterpretq_f32_f64(vdupq_n_f64(pairs[o / 4]));
}

TILE_INLINE float32x4_t rows_of(const float *sums, size_t column, size_t half)
{
    const float *p = sums + 4 * (column / 2 * 4 + 2 * half);
    const float32x4_t a = vld1q_f32(p), b = vld1q_f32(p + 4);
    return column % 2 ? vuzp2q_f32(a, b) : vuzp1q_f32(a, b);
}

#include "kernel/arm/mm_panel_tmpl.h"

static void mm_int_i8mm(const struct mm *a, size_t r0, size_t r1)
{
    (a->n_rows > 1 && a->act.packed ? mm_panels : mm_rows_dotprod)(a, r0, r1);
}

void kernels_init_i8mm(struct kernels *k)
{
    for (enum qtype t = 0; t < QTYPE_COUNT; t++)
        if (qtypes[t].arith != ARITH_FLOAT) k->mm[t] = mm_int_i8mm;
    k->pack_cols = TILE_COLS;
    k->pack_unit = UNIT;
    k->pack_min = 2;
    k->pack_act = pack_act;
}
