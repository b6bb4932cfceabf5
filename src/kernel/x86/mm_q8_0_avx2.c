/* mm_q8_0: matrix products with Q8_0 weights on AVX2. mm_q8_0_tmpl.h has the plan and the loops outside.
 *
 *     sum w * q = sum |w| * (q with the sign of w)
 *
 * vpmaddubsw multiplies unsigned by signed bytes and adds pairs in int16: |w| is at most 128 (a stored -128 becomes 128 as an
 * unsigned byte), |q| at most 127, so a pair is at most 2 * 128 * 127 = 32512 and cannot saturate. Pairs are then added up in
 * int32.
 *
 * Decode: 8 weight rows by one block a step; a tree of adds turns their eight registers into the 8 sums.
 *
 * Prefill: a register holds 4 weights of 8 rows; 8 x 4 outputs stay in registers for a whole panel. */
#include "kernel/x86/avx2.h"
#include "kernel/x86/vec_avx2.h"

enum {
    GROUP = 8,
    DIRECT_COLS = 8, /* most activation rows for which a panel does not pay */
    PANEL_ROWS = 8,
    PANEL_COLS = 4,
    PANEL_BLOCKS = 64, /* blocks of a panel's K: 16 KB of weights, to stay in L1 */
    STRIP = 1536,      /* activation rows per panel */
};
#include "kernel/x86/mm_q8_0_tmpl.h"

/* Eight int32 sums of four products each. */
ALWAYS __m256i dot4(__m256i w, __m256i q)
{
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

/* Lane r of the result is the sum of register t[r]. */
ALWAYS __m256i sum_rows(const __m256i t[GROUP])
{
    __m256i p[4], h[2];
    UNROLL for (int i = 0; i < 4; i++) p[i] =
        _mm256_add_epi32(_mm256_unpacklo_epi32(t[2 * i], t[2 * i + 1]), _mm256_unpackhi_epi32(t[2 * i], t[2 * i + 1]));
    UNROLL for (int i = 0; i < 2; i++) h[i] =
        _mm256_add_epi32(_mm256_unpacklo_epi64(p[2 * i], p[2 * i + 1]), _mm256_unpackhi_epi64(p[2 * i], p[2 * i + 1]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(h[0], h[1], 0x20), _mm256_permute2x128_si256(h[0], h[1], 0x31));
}

/* The f16 scales at p[0..7], widened. */
ALWAYS __m256 scales(const uint8_t *const p[GROUP])
{
    uint16_t d[GROUP];
    UNROLL for (int i = 0; i < GROUP; i++) d[i] = load_u16(p[i]);
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)d));
}

/* Up to 8 weight rows from r on, n_cols activation rows of a. */
ALWAYS void mm_group(const struct mm *a, size_t r, size_t n_rows, size_t n_cols)
{
    const uint8_t *p[GROUP];
    for (size_t i = 0; i < GROUP; i++) p[i] = q8_row(a->w + r * a->row_bytes, a->row_bytes, n_rows, i);
    __m256 acc[DIRECT_COLS];
    for (size_t m = 0; m < n_cols; m++) acc[m] = _mm256_setzero_ps();
    const size_t n_blocks = a->k / ACT_BLOCK, far = (GROUP - 1) * a->row_bytes;
    for (size_t b = 0; b < n_blocks; b++) {
        size_t ahead = b * BLOCK_BYTES + PREFETCH < a->row_bytes ? PREFETCH : PREFETCH + far;
        UNROLL for (int i = 0; i < GROUP; i++) fetch_l1(p[i], ahead);
        const __m256 dw = scales(p);
        for (size_t m = 0; m < n_cols; m++) {
            const __m256i q = _mm256_loadu_si256((const __m256i *)(a->act.q + m * a->k + b * ACT_BLOCK));
            __m256i t[GROUP];
            UNROLL for (int i = 0; i < GROUP; i++) t[i] = dot4(_mm256_loadu_si256((const __m256i *)(p[i] + 2)), q);
            __m256 scale = _mm256_mul_ps(dw, _mm256_set1_ps(a->act.d[m * n_blocks + b]));
            acc[m] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(sum_rows(t)), acc[m]);
        }
        UNROLL for (int i = 0; i < GROUP; i++) p[i] += BLOCK_BYTES;
    }
    for (size_t m = 0; m < n_cols; m++) v_store_n(a->dst + m * a->dst_stride + r, acc[m], n_rows);
}

/* One block of 8 rows: transposes 8 x 8 dwords. */
ALWAYS void unpack_block(uint8_t (*dst)[PANEL_ROWS][4], const uint8_t *const p[PANEL_ROWS])
{
    __m256i w[8], a[8];
    UNROLL for (int i = 0; i < 8; i++) w[i] = _mm256_loadu_si256((const __m256i *)(p[i] + 2));
    UNROLL for (int i = 0; i < 8; i += 4)
    {
        __m256i t0 = _mm256_unpacklo_epi32(w[i], w[i + 1]), t1 = _mm256_unpackhi_epi32(w[i], w[i + 1]);
        __m256i t2 = _mm256_unpacklo_epi32(w[i + 2], w[i + 3]), t3 = _mm256_unpackhi_epi32(w[i + 2], w[i + 3]);
        a[i] = _mm256_unpacklo_epi64(t0, t2); /* columns 0 and 4 of four rows */
        a[i + 1] = _mm256_unpackhi_epi64(t0, t2);
        a[i + 2] = _mm256_unpacklo_epi64(t1, t3);
        a[i + 3] = _mm256_unpackhi_epi64(t1, t3);
    }
    UNROLL for (int i = 0; i < 4; i++)
    {
        _mm256_store_si256((__m256i *)dst[i], _mm256_permute2x128_si256(a[i], a[i + 4], 0x20));
        _mm256_store_si256((__m256i *)dst[i + 4], _mm256_permute2x128_si256(a[i], a[i + 4], 0x31));
    }
}

static void unpack(struct panel *t, const uint8_t *w, size_t row_bytes, size_t n_rows, size_t n_blocks)
{
    const uint8_t *p[PANEL_ROWS];
    for (size_t i = 0; i < PANEL_ROWS; i++) p[i] = q8_row(w, row_bytes, n_rows, i);
    for (size_t b = 0; b < n_blocks; b++) {
        _mm256_store_ps(t->d[b], scales(p));
        unpack_block(t->w + 8 * b, p);
        for (size_t i = 0; i < PANEL_ROWS; i++) p[i] += BLOCK_BYTES;
    }
}

ALWAYS void tile_body(const struct tile *t, const unsigned nc)
{
    const size_t stride = t->k / ACT_BLOCK;
    __m256 acc[PANEL_COLS];
    UNROLL for (unsigned c = 0; c < nc; c++)
    {
        prefetch_scales(t, c, nc);
        acc[c] = t->first ? _mm256_setzero_ps() : _mm256_load_ps(t->state[c]);
    }
    const int8_t *q = t->q;
    for (size_t b = 0; b < t->n_blocks; b++, q += ACT_BLOCK) {
        __m256i sum[PANEL_COLS];
        prefetch_block(t, b, nc);
        UNROLL for (unsigned c = 0; c < nc; c++) sum[c] = _mm256_setzero_si256();
        for (size_t i = 0; i < 8; i++) {
            __m256i w = _mm256_load_si256((const __m256i *)t->panel->w[8 * b + i]);
            UNROLL for (unsigned c = 0; c < nc; c++) sum[c] =
                _mm256_add_epi32(sum[c], dot4(w, _mm256_set1_epi32((int)load_u32(q + c * t->k + 4 * i))));
        }
        __m256 dw = _mm256_load_ps(t->panel->d[b]);
        UNROLL for (unsigned c = 0; c < nc; c++)
        {
            __m256 scale = _mm256_mul_ps(dw, _mm256_set1_ps(t->d[c * stride + b]));
            acc[c] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(sum[c]), acc[c]);
        }
    }
    UNROLL for (unsigned c = 0; c < nc; c++)
    {
        if (t->last)
            v_store_n(t->dst + c * t->dst_stride, acc[c], t->n_rows);
        else
            _mm256_store_ps(t->state[c], acc[c]);
    }
}

#define TILE(nc)                                \
    static void tile_##nc(const struct tile *t) \
    {                                           \
        tile_body(t, nc);                       \
    }
TILE(1)
TILE(2)
TILE(3)
TILE(4)
static tile_fn *const tiles[PANEL_COLS] = {tile_1, tile_2, tile_3, tile_4};

void mm_q8_0_avx2(const struct mm *a, size_t r0, size_t r1)
{
    if (a->n_rows == 1)
        for (size_t r = r0; r < r1; r += GROUP) mm_group(a, r, size_min(r1 - r, GROUP), 1);
    else if (a->n_rows <= DIRECT_COLS)
        for (size_t r = r0; r < r1; r += GROUP) mm_group(a, r, size_min(r1 - r, GROUP), a->n_rows);
    else
        mm_panels(a, r0, r1, unpack, tiles);
}
