/* mm_q8_0_dotprod: Q8_0 weights with SDOT, which adds four products of int8 to each int32 of a register.
 *
 * Up to eight activation rows take the weights in place (q8_0_rows.h). There 8 of 14 instructions are SDOT; with more rows it
 * pays to transpose the weights first: the panel holds, for each four consecutive k, these four bytes of eight rows, so that a
 * register holds four rows, SDOT by element broadcasts four bytes of one activation row to them, and the sums of a block are
 * outputs without any horizontal addition. A tile is 8 weight rows x 4 activation rows: per block 64 SDOT in 88 instructions
 * and 24 loads, with 8 + 8 accumulators. A panel of 32 rows x 1024 (36 KiB) stays in the level-1 cache while all activation
 * rows pass; between the parts of a row the sums rest in dst, as the floats that they are. */
#include "kernel/arm/neon_int.h"

static inline int32x4_t dot32(int8x16_t w0, int8x16_t w1, int8x16_t x0, int8x16_t x1)
{
    return vdotq_s32(vdotq_s32(vdupq_n_s32(0), w0, x0), w1, x1);
}

#include "kernel/arm/q8_0_rows.h"

enum { TILE_ROWS = 8, TILE_COLS = 4, PANEL_ROWS = 32, PANEL_BLOCKS = 1024 / ACT_BLOCK };

/* One block of eight rows. q[s][4 * i + j]: element 4s + j of row i. */
struct panel_block {
    int8_t q[ACT_BLOCK / 4][TILE_ROWS * 4];
    float d[TILE_ROWS];
};
typedef struct panel_block panel_rows[PANEL_BLOCKS];
_Static_assert(PANEL_ROWS / TILE_ROWS * sizeof(panel_rows) <= MM_SCRATCH, "the panel is larger than its scratch");

/* 16 bytes of four rows: out[i] = bytes 4i..4i+3 of each row. */
static inline void transpose(const uint8_t *w[4], size_t offset, int32x4_t out[4])
{
    int32x4_t a[4];
    UNROLL for (size_t i = 0; i < 4; i++) a[i] = vreinterpretq_s32_u8(vld1q_u8(w[i] + offset));
    int64x2_t low01 = vreinterpretq_s64_s32(vtrn1q_s32(a[0], a[1])), high01 = vreinterpretq_s64_s32(vtrn2q_s32(a[0], a[1]));
    int64x2_t low23 = vreinterpretq_s64_s32(vtrn1q_s32(a[2], a[3])), high23 = vreinterpretq_s64_s32(vtrn2q_s32(a[2], a[3]));
    out[0] = vreinterpretq_s32_s64(vtrn1q_s64(low01, low23));
    out[1] = vreinterpretq_s32_s64(vtrn1q_s64(high01, high23));
    out[2] = vreinterpretq_s32_s64(vtrn2q_s64(low01, low23));
    out[3] = vreinterpretq_s32_s64(vtrn2q_s64(high01, high23));
}

/* Blocks b..b+n-1 of rows r..r+7. */
static void panel_fill(struct panel_block *p, const struct mm *a, size_t r, size_t b, size_t n)
{
    for (size_t i = 0; i < TILE_ROWS; i += 4) {
        const uint8_t *w[4];
        for (size_t j = 0; j < 4; j++) w[j] = a->w + (r + i + j) * a->row_bytes + b * Q8_0_BYTES;
        for (size_t o = 0; o < n; o++) {
            uint16x4_t half = {load_u16(w[0]), load_u16(w[1]), load_u16(w[2]), load_u16(w[3])};
            vst1q_f32(p[o].d + i, vcvt_f32_f16(vreinterpret_f16_u16(half)));
            int32x4_t q[8];
            transpose(w, 2, q);
            transpose(w, 18, q + 4);
            UNROLL for (size_t s = 0; s < 8; s++) vst1q_s8(p[o].q[s] + 4 * i, vreinterpretq_s8_s32(q[s]));
            UNROLL for (size_t j = 0; j < 4; j++) w[j] += Q8_0_BYTES;
        }
    }
}

/* Four k: sum[2j], sum[2j+1] += rows 0..3, 4..7 of w times the four bytes of x[j] numbered by lane, which must be a literal. */
#define DOT_LANE(w, lane)                                                         \
    do {                                                                          \
        int8x16_t w_low = vld1q_s8((w)[lane]), w_high = vld1q_s8((w)[lane] + 16); \
        UNROLL for (size_t j = 0; j < M; j++)                                     \
        {                                                                         \
            sum[2 * j] = vdotq_laneq_s32(sum[2 * j], w_low, x[j], lane);          \
            sum[2 * j + 1] = vdotq_laneq_s32(sum[2 * j + 1], w_high, x[j], lane); \
        }                                                                         \
    } while (0)

/* Eight weight rows x M activation rows over n blocks; q and d are at the first of them. Adds to dst, or starts it. */
TILE_INLINE void panel_tile(const struct panel_block *p, const struct mm *a, const int8_t *q, const float *d, size_t n,
                            float *dst, bool start, const size_t M)
{
    size_t blocks = a->k / ACT_BLOCK;
    float32x4_t acc[2 * TILE_COLS];
    UNROLL for (size_t j = 0; j < M; j++)
    {
        acc[2 * j] = start ? vdupq_n_f32(0.0f) : vld1q_f32(dst + j * a->dst_stride);
        acc[2 * j + 1] = start ? vdupq_n_f32(0.0f) : vld1q_f32(dst + j * a->dst_stride + 4);
    }
    for (; n > 0; n--, p++, q += ACT_BLOCK, d++) {
        int32x4_t sum[2 * TILE_COLS];
        UNROLL for (size_t j = 0; j < 2 * M; j++) sum[j] = vdupq_n_s32(0);
        UNROLL for (size_t half = 0; half < 2; half++)
        {
            int8x16_t x[TILE_COLS];
            UNROLL for (size_t j = 0; j < M; j++) x[j] = vld1q_s8(q + j * a->k + 16 * half);
            DOT_LANE(p->q + 4 * half, 0);
            DOT_LANE(p->q + 4 * half, 1);
            DOT_LANE(p->q + 4 * half, 2);
            DOT_LANE(p->q + 4 * half, 3);
        }
        float32x4_t d_low = vld1q_f32(p->d), d_high = vld1q_f32(p->d + 4);
        UNROLL for (size_t j = 0; j < M; j++)
        {
            float dx = d[j * blocks];
            acc[2 * j] = vfmaq_f32(acc[2 * j], vmulq_n_f32(d_low, dx), vcvtq_f32_s32(sum[2 * j]));
            acc[2 * j + 1] = vfmaq_f32(acc[2 * j + 1], vmulq_n_f32(d_high, dx), vcvtq_f32_s32(sum[2 * j + 1]));
        }
    }
    UNROLL for (size_t j = 0; j < M; j++)
    {
        vst1q_f32(dst + j * a->dst_stride, acc[2 * j]);
        vst1q_f32(dst + j * a->dst_stride + 4, acc[2 * j + 1]);
    }
}

typedef void panel_fn(const struct panel_block *p, const struct mm *a, const int8_t *q, const float *d, size_t n, float *dst,
                      bool start);
#define PANEL_TILE(M)                                                                                                      \
    static void panel_tile_##M(const struct panel_block *p, const struct mm *a, const int8_t *q, const float *d, size_t n, \
                               float *dst, bool start)                                                                     \
    {                                                                                                                      \
        panel_tile(p, a, q, d, n, dst, start, M);                                                                          \
    }
PANEL_TILE(1)
PANEL_TILE(2)
PANEL_TILE(3)
PANEL_TILE(4)
static panel_fn *const panel_tiles[TILE_COLS] = {panel_tile_1, panel_tile_2, panel_tile_3, panel_tile_4};

/* Weight rows r..r+rows-1, a multiple of TILE_ROWS, with all activation rows. */
static void mm_panel(const struct mm *a, size_t r, size_t rows)
{
    panel_rows *panel = a->scratch;
    size_t blocks = a->k / ACT_BLOCK, tiles = rows / TILE_ROWS;
    for (size_t b = 0; b < blocks; b += PANEL_BLOCKS) {
        size_t n = size_min(PANEL_BLOCKS, blocks - b);
        for (size_t t = 0; t < tiles; t++) panel_fill(panel[t], a, r + t * TILE_ROWS, b, n);
        for (size_t m = 0; m < a->n_rows; m += TILE_COLS) {
            panel_fn *tile = panel_tiles[size_min(TILE_COLS, a->n_rows - m) - 1];
            const int8_t *q = a->act.q + m * a->k + b * ACT_BLOCK;
            const float *d = a->act.d + m * blocks + b;
            float *dst = a->dst + m * a->dst_stride + r;
            for (size_t t = 0; t < tiles; t++) tile(panel[t], a, q, d, n, dst + t * TILE_ROWS, b == 0);
        }
    }
}

static void mm_q8_0_dotprod(const struct mm *a, size_t r0, size_t r1)
{
    if (a->n_rows > ROWS_MAX && a->k > 0)
        for (size_t rows; (rows = size_min(PANEL_ROWS, (r1 - r0) / TILE_ROWS * TILE_ROWS)) > 0; r0 += rows)
            mm_panel(a, r0, rows);
    mm_rows(a, r0, r1);
}

void kernels_init_dotprod(struct kernels *k)
{
    k->mm[QTYPE_Q8_0] = mm_q8_0_dotprod;
    peak_init_dotprod(k);
}
