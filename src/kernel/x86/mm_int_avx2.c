/* mm_int: matrix products with integer weights on AVX2. The sums of two products that vpmaddubsw makes in int16 are multiplied
 * by an integer scale, or by 1, and added in int32 by vpmaddwd and vpaddd. Of small weights several such sums fit int16, so
 * that fewer of these follow. */
#include "kernel/x86/avx2.h"
#include "kernel/x86/unpack_avx2.h"

enum { REGS = 1, PANEL_ROWS = 32, PACK_COLS = 4 };
#define EACH_NC(F, tag, ...) F(tag, 1, __VA_ARGS__) F(tag, 2, __VA_ARGS__) F(tag, 3, __VA_ARGS__) F(tag, 4, __VA_ARGS__)

ALWAYS __m256i dot_16(__m256i sum, __m256i a, __m256i b)
{
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}
ALWAYS __m256i dot_8(__m256i sum, __m256i w, __m256i y, const enum fit fit)
{
    return dot_16(sum, pairs(w, y, fit), _mm256_set1_epi16(1));
}

/* sc: of 8 rows, each twice in int16. */
ALWAYS void multiply(__m256i sum[PACK_COLS][REGS], const uint8_t *w, const int8_t *y, __m256i sc, const unsigned n,
                     const unsigned nc, const enum fit fit)
{
    const unsigned steps = fit == SIGNED ? 1 : fit < n ? fit : n;
    for (unsigned i = 0; i < n; i += steps) {
        __m256i p[PACK_COLS];
        UNROLL for (unsigned j = i; j < i + steps; j++)
        {
            const __m256i u = load_32(w + j * PANEL_ROWS * 4);
            UNROLL for (unsigned c = 0; c < nc; c++)
            {
                const __m256i two = pairs(u, _mm256_set1_epi32((int)load_u32(y + (j * PACK_COLS + c) * 4)), fit);
                p[c] = j == i ? two : _mm256_add_epi16(p[c], two);
            }
        }
        UNROLL for (unsigned c = 0; c < nc; c++) sum[c][0] = dot_16(sum[c][0], p[c], sc);
    }
}
ALWAYS void multiply_32(__m256i sum[PACK_COLS][REGS], const uint8_t *w, const int8_t *y, const unsigned nc, const enum fit fit)
{
    multiply(sum, w, y, _mm256_set1_epi16(1), 8, nc, fit);
}
ALWAYS void multiply_sub(__m256i sum[PACK_COLS][REGS], const uint8_t *w, const int8_t *y, const uint32_t *sc, const unsigned n,
                         const unsigned nc, const enum fit fit)
{
    multiply(sum, w, y, _mm256_load_si256((const __m256i *)sc), n, nc, fit);
}

/* Panels keep chunks as they are, and each scale twice. */
ALWAYS __m256i panel_chunk(__m256i u, const enum fit fit)
{
    (void)fit;
    return u;
}
ALWAYS int panel_off(const int off, const enum fit fit)
{
    return chunk_off(off, fit);
}
ALWAYS uint32_t panel_scale(int16_t sc)
{
    return (uint16_t)sc * 0x10001u;
}

#include "kernel/x86/mm_int_ymm_tmpl.h"

void mm_int_init_avx2(struct kernels *k)
{
    mm_int_init(k);
}
