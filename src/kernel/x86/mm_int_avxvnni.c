/* mm_int: matrix products with integer weights on AVX2 with VNNI, and the level of that name: all else is AVX2's. vpdpbusd adds
 * four products of unsigned weights and signed activations in int32; panels hold weights as struct qblock has them. The sums of
 * a subblock are multiplied by its scale in int32. */
#include "kernel/x86/unpack_avx2.h"
#include "kernel/x86/vnni.h"

enum { REGS = 2, PANEL_ROWS = 32, PACK_COLS = 6 };
#define EACH_NC(F, tag, ...) \
    F(tag, 1, __VA_ARGS__)   \
    F(tag, 2, __VA_ARGS__) F(tag, 3, __VA_ARGS__) F(tag, 4, __VA_ARGS__) F(tag, 5, __VA_ARGS__) F(tag, 6, __VA_ARGS__)

ALWAYS __m256i dot_16(__m256i sum, __m256i a, __m256i b)
{
    return DPWSSD(sum, a, b);
}
ALWAYS __m256i dot_8(__m256i sum, __m256i w, __m256i y, const enum fit fit)
{
    return fit == SIGNED ? DPBUSD(sum, _mm256_abs_epi8(w), _mm256_sign_epi8(y, w)) : DPBUSD(sum, w, y);
}

ALWAYS void multiply(__m256i sum[PACK_COLS][REGS], const uint8_t *w, const int8_t *y, const unsigned n, const unsigned nc)
{
    UNROLL for (unsigned i = 0; i < n; i++)
    {
        __m256i u[REGS];
        UNROLL for (unsigned h = 0; h < REGS; h++) u[h] = load_32(w + (i * PANEL_ROWS + 8 * h) * 4);
        UNROLL for (unsigned c = 0; c < nc; c++)
        {
            const __m256i q = _mm256_set1_epi32((int)load_u32(y + (i * PACK_COLS + c) * 4));
            UNROLL for (unsigned h = 0; h < REGS; h++) sum[c][h] = DPBUSD(sum[c][h], u[h], q);
        }
    }
}
ALWAYS void multiply_32(__m256i sum[PACK_COLS][REGS], const uint8_t *w, const int8_t *y, const unsigned nc, const enum fit fit)
{
    (void)fit;
    multiply(sum, w, y, 8, nc);
}
ALWAYS void multiply_sub(__m256i sum[PACK_COLS][REGS], const uint8_t *w, const int8_t *y, const uint32_t *sc, const unsigned n,
                         const unsigned nc, const enum fit fit)
{
    (void)fit;
    __m256i p[PACK_COLS][REGS];
    UNROLL for (unsigned c = 0; c < nc; c++) UNROLL for (unsigned h = 0; h < REGS; h++) p[c][h] = _mm256_setzero_si256();
    multiply(p, w, y, n, nc);
    UNROLL for (unsigned h = 0; h < REGS; h++)
    {
        const __m256i by = _mm256_load_si256((const __m256i *)sc + h);
        UNROLL for (unsigned c = 0; c < nc; c++) sum[c][h] = _mm256_add_epi32(sum[c][h], _mm256_mullo_epi32(p[c][h], by));
    }
}

/* Panels keep unsigned weights, and scales in int32. */
ALWAYS __m256i panel_chunk(__m256i u, const enum fit fit)
{
    return fit == SIGNED ? _mm256_xor_si256(u, _mm256_set1_epi8(-128)) : u;
}
ALWAYS int panel_off(const int off, const enum fit fit)
{
    (void)fit;
    return off;
}
ALWAYS uint32_t panel_scale(int16_t sc)
{
    return (uint32_t)sc;
}

#include "kernel/x86/mm_int_ymm_tmpl.h"

void VNNI(kernels_init)(struct kernels *k)
{
    mm_int_init(k);
    VNNI(peak_init)(k);
}
