/* mm_q8_0: matrix products with Q8_0 weights on AVX-512 VNNI. mm_q8_0_tmpl.h has the plan and the loops outside.
 *
 *     sum w * q = sum (w + 128) * q - 128 * sum q
 *
 * vpdpbusd multiplies unsigned by signed bytes: w + 128 is w with its top bit flipped (0..255, a stored -128 included), and
 * the sums of q come with the activations. All of it is exact in int32.
 *
 * Decode: 8 weight rows by 2 blocks a step. A register holds two blocks of one row; a tree of adds turns eight of them into
 * the 8 sums of the first block and the 8 of the second.
 *
 * Prefill: a register holds 4 weights of 16 rows; 32 x 6 outputs stay in registers for a whole panel. Per block of 32 that is
 * 96 multiply-adds of int8 and 36 float instructions (scale, convert, fma) on the same two ports: at most 73 % of the peak. */
#include "kernel/x86/avx512.h"
#include "kernel/x86/vec_avx512.h"

enum {
    GROUP = 8,       /* weight rows of a decode step */
    DIRECT_COLS = 4, /* most activation rows for which a panel does not pay */
    PANEL_ROWS = 32,
    PANEL_COLS = 6,
    PANEL_BLOCKS = 16, /* blocks of a panel's K: 16 KB of weights, to stay in L1 */
    STRIP = 1536,      /* activation rows per panel, bounded by scratch */
};
#include "kernel/x86/mm_q8_0_tmpl.h"

/* Two blocks of a row at p, or one (and 32 times nothing), with the top bits flipped. */
ALWAYS __m512i weights(const uint8_t *p, const bool two)
{
    __m512i w = _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)(p + 2)));
    if (two) w = _mm512_inserti64x4(w, _mm256_loadu_si256((const __m256i *)(p + BLOCK_BYTES + 2)), 1);
    return _mm512_xor_si512(w, _mm512_set1_epi8(-128));
}

/* The f16 scales at p + at[i], widened; each is read with the two weights behind it. */
ALWAYS __m512 scales(const uint8_t *p, __m512i at, __mmask16 m)
{
    __m512i d = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), m, at, p, 1);
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(d));
}

/* Row sums: of registers t[0..7], lanes 0-7 are added up into lane 0..7 of the result, lanes 8-15 into lane 8..15. */
ALWAYS __m512i sum_rows(const __m512i t[GROUP])
{
    __m512i p[4], h[2];
    UNROLL for (int i = 0; i < 4; i++) p[i] =
        _mm512_add_epi32(_mm512_unpacklo_epi32(t[2 * i], t[2 * i + 1]), _mm512_unpackhi_epi32(t[2 * i], t[2 * i + 1]));
    UNROLL for (int i = 0; i < 2; i++) h[i] =
        _mm512_add_epi32(_mm512_unpacklo_epi64(p[2 * i], p[2 * i + 1]), _mm512_unpackhi_epi64(p[2 * i], p[2 * i + 1]));
    const __m512i even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    return _mm512_add_epi32(_mm512_permutex2var_epi64(h[0], even, h[1]), _mm512_permutex2var_epi64(h[0], odd, h[1]));
}

/* One step of a group: block b, or b and b + 1, of 8 rows at p[] into acc[m] for n_cols activation rows. */
ALWAYS void group_step(__m256 *acc, const uint8_t *const p[GROUP], __m512 dw, const struct mm *a, size_t b, size_t n_cols,
                       const bool two)
{
    __m512i u[GROUP];
    UNROLL for (int r = 0; r < GROUP; r++) u[r] = weights(p[r], two);
    const size_t n_blocks = a->k / ACT_BLOCK;
    for (size_t m = 0; m < n_cols; m++) {
        const int8_t *q8 = a->act.q + m * a->k + b * ACT_BLOCK;
        const float *d = a->act.d + m * n_blocks + b;
        const int16_t *s = a->act.s + m * n_blocks + b;
        __m512i q = two ? _mm512_loadu_si512(q8) : _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)q8));
        __m512i off = _mm512_mask_set1_epi32(_mm512_set1_epi32(s[0]), 0xff00, two ? s[1] : 0);
        __m512 dx = _mm512_mask_broadcastss_ps(_mm512_set1_ps(d[0]), 0xff00, _mm_set_ss(two ? d[1] : 0.0f));
        __m512i t[GROUP];
        UNROLL for (int r = 0; r < GROUP; r++) t[r] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), u[r], q);
        __m512 sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum_rows(t), _mm512_slli_epi32(off, 7)));
        __m512 scale = _mm512_mul_ps(dw, dx);
        acc[m] = _mm256_fmadd_ps(_mm512_castps512_ps256(scale), _mm512_castps512_ps256(sum), acc[m]);
        if (two) acc[m] = _mm256_fmadd_ps(_mm512_extractf32x8_ps(scale, 1), _mm512_extractf32x8_ps(sum, 1), acc[m]);
    }
}

/* Up to 8 weight rows from r on, n_cols activation rows of a. Offsets within a group fit the gather's 31 bits for rows below
 * 256 MB. */
ALWAYS void mm_group(const struct mm *a, size_t r, size_t n_rows, size_t n_cols)
{
    const uint8_t *p[GROUP], *base = a->w + r * a->row_bytes;
    int32_t at[16];
    for (size_t i = 0; i < GROUP; i++) {
        p[i] = q8_row(base, a->row_bytes, n_rows, i);
        at[i] = (int32_t)(p[i] - base);
        at[i + GROUP] = at[i] + BLOCK_BYTES;
    }
    const __m512i offsets = _mm512_loadu_si512(at);
    __m256 acc[DIRECT_COLS];
    for (size_t m = 0; m < n_cols; m++) acc[m] = _mm256_setzero_ps();
    const size_t n_blocks = a->k / ACT_BLOCK, far = (GROUP - 1) * a->row_bytes;
    size_t b = 0;
    for (; b + 2 <= n_blocks; b += 2, base += 2 * BLOCK_BYTES) {
        size_t ahead = b * BLOCK_BYTES + PREFETCH < a->row_bytes ? PREFETCH : PREFETCH + far;
        UNROLL for (int i = 0; i < GROUP; i++)
        {
            /* A step of 68 bytes: every line is asked for at least once. */
            fetch_l1(p[i], ahead);
            fetch_l1(p[i], ahead + 64);
        }
        group_step(acc, p, scales(base, offsets, 0xffff), a, b, n_cols, true);
        UNROLL for (int i = 0; i < GROUP; i++) p[i] += 2 * BLOCK_BYTES;
    }
    if (b < n_blocks) group_step(acc, p, scales(base, offsets, 0x00ff), a, b, n_cols, false);
    for (size_t m = 0; m < n_cols; m++) _mm256_mask_storeu_ps(a->dst + m * a->dst_stride + r, (__mmask8)lanes(n_rows), acc[m]);
}

/* ---- panels ---------------------------------------------------------------------------------------- */

/* Transposes 16 x 16 dwords; row i of the result goes to dst + i * PANEL_ROWS * 4. */
ALWAYS void store_transposed(const __m512i w[16], uint8_t *dst)
{
    __m512i a[16], b[16];
    UNROLL for (int i = 0; i < 16; i += 4)
    {
        __m512i t0 = _mm512_unpacklo_epi32(w[i], w[i + 1]), t1 = _mm512_unpackhi_epi32(w[i], w[i + 1]);
        __m512i t2 = _mm512_unpacklo_epi32(w[i + 2], w[i + 3]), t3 = _mm512_unpackhi_epi32(w[i + 2], w[i + 3]);
        a[i] = _mm512_unpacklo_epi64(t0, t2); /* column 0, 4, 8, 12 of four rows */
        a[i + 1] = _mm512_unpackhi_epi64(t0, t2);
        a[i + 2] = _mm512_unpacklo_epi64(t1, t3);
        a[i + 3] = _mm512_unpackhi_epi64(t1, t3);
    }
    UNROLL for (int i = 0; i < 4; i++)
    {
        b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88); /* columns i and i + 8, rows 0-7 */
        b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
        b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
        b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
    }
    UNROLL for (int i = 0; i < 8; i++)
    {
        _mm512_store_si512(dst + i * PANEL_ROWS * 4, _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88));
        _mm512_store_si512(dst + (i + 8) * PANEL_ROWS * 4, _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd));
    }
}

/* Two blocks (or one) from p on of 16 rows into a panel; dst is the place of the first row's first 4 weights. */
ALWAYS void unpack16(uint8_t *dst, const uint8_t *p, size_t row_bytes, size_t n_rows, const bool two)
{
    __m512i w[16];
    UNROLL for (size_t r = 0; r < 16; r++) w[r] = weights(q8_row(p, row_bytes, n_rows, r), two);
    store_transposed(w, dst);
}

static void unpack(struct panel *t, const uint8_t *w, size_t row_bytes, size_t n_rows, size_t n_blocks)
{
    for (size_t g = 0; g < PANEL_ROWS; g += 16) {
        const uint8_t *p = q8_row(w, row_bytes, n_rows, g);
        size_t n = n_rows > g ? n_rows - g : 1;
        int32_t at[16];
        for (size_t i = 0; i < 16; i++) at[i] = (int32_t)(q8_row(p, row_bytes, n, i) - p);
        const __m512i offsets = _mm512_loadu_si512(at);
        for (size_t b = 0; b < n_blocks; b++) _mm512_store_ps(&t->d[b][g], scales(p + b * BLOCK_BYTES, offsets, 0xffff));
        size_t b = 0;
        for (; b + 2 <= n_blocks; b += 2) unpack16(t->w[8 * b][g], p + b * BLOCK_BYTES, row_bytes, n, true);
        if (b < n_blocks) unpack16(t->w[8 * b][g], p + b * BLOCK_BYTES, row_bytes, n, false);
    }
}

ALWAYS void tile_body(const struct tile *t, const unsigned nc)
{
    const size_t stride = t->k / ACT_BLOCK;
    int32_t off[PANEL_COLS][PANEL_BLOCKS]; /* -128 * sum of q */
    __m512 acc[PANEL_COLS][2];
    UNROLL for (unsigned c = 0; c < nc; c++)
    {
        __m512i s = _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(lanes(t->n_blocks), t->s + c * stride));
        prefetch_scales(t, c, nc);
        _mm512_storeu_si512(off[c], _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(s, 7)));
        UNROLL for (int h = 0; h < 2; h++) acc[c][h] = t->first ? _mm512_setzero_ps() : _mm512_load_ps(t->state[c] + 16 * h);
    }
    const int8_t *q = t->q;
    for (size_t b = 0; b < t->n_blocks; b++, q += ACT_BLOCK) {
        __m512i sum[PANEL_COLS][2];
        prefetch_block(t, b, nc);
        UNROLL for (unsigned c = 0; c < nc; c++) sum[c][0] = sum[c][1] = _mm512_set1_epi32(off[c][b]);
        UNROLL for (size_t i = 0; i < 8; i++)
        {
            const uint8_t *w = t->panel->w[8 * b + i][0];
            __m512i w0 = _mm512_load_si512(w), w1 = _mm512_load_si512(w + 64);
            UNROLL for (unsigned c = 0; c < nc; c++)
            {
                __m512i y = _mm512_set1_epi32((int)load_u32(q + c * t->k + 4 * i));
                sum[c][0] = _mm512_dpbusd_epi32(sum[c][0], w0, y);
                sum[c][1] = _mm512_dpbusd_epi32(sum[c][1], w1, y);
            }
        }
        UNROLL for (int h = 0; h < 2; h++)
        {
            __m512 dw = _mm512_load_ps(t->panel->d[b] + 16 * h);
            UNROLL for (unsigned c = 0; c < nc; c++)
            {
                __m512 scale = _mm512_mul_ps(dw, _mm512_set1_ps(t->d[c * stride + b]));
                acc[c][h] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(sum[c][h]), acc[c][h]);
            }
        }
    }
    UNROLL for (unsigned c = 0; c < nc; c++) UNROLL for (size_t h = 0; h < 2; h++)
    {
        float *dst = t->dst + c * t->dst_stride + 16 * h;
        if (!t->last)
            _mm512_store_ps(t->state[c] + 16 * h, acc[c][h]);
        else if (t->n_rows > 16 * h)
            _mm512_mask_storeu_ps(dst, lanes(t->n_rows - 16 * h), acc[c][h]);
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
TILE(5)
TILE(6)
static tile_fn *const tiles[PANEL_COLS] = {tile_1, tile_2, tile_3, tile_4, tile_5, tile_6};

void mm_q8_0_avx512(const struct mm *a, size_t r0, size_t r1)
{
    if (a->n_rows == 1)
        for (size_t r = r0; r < r1; r += GROUP) mm_group(a, r, size_min(r1 - r, GROUP), 1);
    else if (a->n_rows <= DIRECT_COLS)
        for (size_t r = r0; r < r1; r += GROUP) mm_group(a, r, size_min(r1 - r, GROUP), a->n_rows);
    else
        mm_panels(a, r0, r1, unpack, tiles);
}
