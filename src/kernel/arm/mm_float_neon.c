/* mm_float_neon: matrix products with F32, F16 and BF16 weights.
 *
 * An output is 16 lanes, four registers, over the whole row. Two paths compute the same sums:
 *
 * - Few activation rows: the weights are read in place, once. A tile is 4 weight rows x 1 activation row where there is only
 * one, else 2 x 3 or 2 x 2; the four registers of an output grow together.
 *
 * - Many: a tile of whole outputs has at most six, so that nearly every multiply-add needs a load of its own and the widening
 * is repeated per tile. But the lanes of an output are independent: a pass over a part of the row may take only the lanes
 *   4g..4g+3, one register per output, and a tile then has 4 x 6 outputs for ten loads. The weights of 16 rows x 512 are
 * widened once into a panel in which each such pass is contiguous. Between the parts of a row the lanes rest in memory as the
 * floats that they are. Panel, activations and lanes of a tile together stay within a level-1 cache of 64 KiB. */
#include "kernel/arm/neon_int.h"

/* ---- few activation rows ------------------------------------------------------------------------------------ */

/* Half a step: acc[h][i * M + j] += w[i] * x[j] for the lanes 8h..8h+7. */
TILE_INLINE void dot_half(float32x4_t *acc0, float32x4_t *acc1, const uint8_t *w, size_t row_bytes, const float *x,
                          size_t stride, load8_fn *load8, const size_t R, const size_t M)
{
    struct f32x8 w8[4];
    UNROLL for (size_t i = 0; i < R; i++) w8[i] = load8(w + i * row_bytes);
    UNROLL for (size_t j = 0; j < M; j++)
    {
        float32x4_t x0 = vld1q_f32(x + j * stride);
        UNROLL for (size_t i = 0; i < R; i++) acc0[i * M + j] = vfmaq_f32(acc0[i * M + j], w8[i].v[0], x0);
        float32x4_t x1 = vld1q_f32(x + j * stride + 4);
        UNROLL for (size_t i = 0; i < R; i++) acc1[i * M + j] = vfmaq_f32(acc1[i * M + j], w8[i].v[1], x1);
    }
}

/* Weight rows r..r+R-1 with activation rows m..m+M-1. acc[g][i * M + j]: lanes 4g..4g+3 of row i with row j. */
TILE_INLINE void dot_tile(const struct mm *a, size_t r, size_t m, size_t size, load8_fn *load8, const size_t R, const size_t M)
{
    const uint8_t *w = a->w + r * a->row_bytes;
    const float *x = a->act.f + m * a->act.stride;
    float32x4_t acc[4][6];
    UNROLL for (size_t o = 0; o < R * M; o++) acc[0][o] = acc[1][o] = acc[2][o] = acc[3][o] = vdupq_n_f32(0.0f);
    size_t k = a->k;
    for (; k >= LANES; k -= LANES, w += LANES * size, x += LANES) {
        dot_half(acc[0], acc[1], w, a->row_bytes, x, a->act.stride, load8, R, M);
        dot_half(acc[2], acc[3], w + 8 * size, a->row_bytes, x + 8, a->act.stride, load8, R, M);
    }
    if (k > 0) {
        uint8_t w_part[4][LANES * sizeof(float)] = {0};
        float x_part[3][LANES] = {0};
        for (size_t i = 0; i < R; i++) memcpy(w_part[i], w + i * a->row_bytes, k * size);
        for (size_t j = 0; j < M; j++) memcpy(x_part[j], x + j * a->act.stride, k * sizeof *x);
        dot_half(acc[0], acc[1], w_part[0], sizeof w_part[0], x_part[0], LANES, load8, R, M);
        dot_half(acc[2], acc[3], w_part[0] + 8 * size, sizeof w_part[0], x_part[0] + 8, LANES, load8, R, M);
    }
    UNROLL for (size_t o = 0; o < R * M; o++)
    {
        struct lanes lanes = {{acc[0][o], acc[1][o], acc[2][o], acc[3][o]}};
        a->dst[(m + o % M) * a->dst_stride + r + o / M] = lanes_fold(lanes);
    }
}

/* Tiles of one weight row and of several: four for one activation row, two for two and three. */
typedef void dot_fn(const struct mm *a, size_t r, size_t m);
struct dot_tiles {
    dot_fn *one[3], *several[3];
};

static void mm_in_place(const struct mm *a, size_t r0, size_t r1, const struct dot_tiles *tiles)
{
    size_t several = a->n_rows == 1 ? 4 : 2;
    for (size_t r = r0; r < r1;) {
        bool full = r1 - r >= several;
        dot_fn *const *tile = full ? tiles->several : tiles->one;
        for (size_t m = 0; m < a->n_rows;) {
            size_t left = a->n_rows - m, n = left == 4 ? 2 : size_min(left, 3); /* 1 only where n_rows is 1 */
            tile[n - 1](a, r, m);
            m += n;
        }
        r += full ? several : 1;
    }
}

/* ---- many activation rows ------------------------------------------------------------------------------------- */

enum { PANEL_ROWS = 16, PANEL_K = 512, PANEL_COLS = 96, TILE_ROWS = 4, TILE_COLS = 6, GROUPS = LANES / 4 };

struct panel {
    float w[PANEL_ROWS / TILE_ROWS][GROUPS][PANEL_K / LANES][TILE_ROWS][4];
    float lanes[PANEL_ROWS / TILE_ROWS][PANEL_COLS][TILE_ROWS][LANES];
};
_Static_assert(sizeof(struct panel) <= MM_SCRATCH, "the panel is larger than its scratch");

/* Widens elements k..k+n-1 of rows r..r+rows-1; a last tile that is not full repeats the last row. */
TILE_INLINE void panel_fill(struct panel *p, const struct mm *a, size_t r, size_t rows, size_t k, size_t n, size_t size,
                            load8_fn *load8)
{
    size_t padded = (rows + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    for (size_t i = 0; i < padded; i++) {
        const uint8_t *w = a->w + (r + size_min(i, rows - 1)) * a->row_bytes + k * size;
        for (size_t step = 0; step < n / LANES; step++) {
            for (size_t half = 0; half < 2; half++, w += 8 * size) {
                struct f32x8 w8 = load8(w);
                vst1q_f32(p->w[i / TILE_ROWS][2 * half][step][i % TILE_ROWS], w8.v[0]);
                vst1q_f32(p->w[i / TILE_ROWS][2 * half + 1][step][i % TILE_ROWS], w8.v[1]);
            }
        }
    }
}

/* TILE_ROWS weight rows x M activation rows, group by group of four lanes. */
TILE_INLINE void panel_tile(float (*w)[PANEL_K / LANES][TILE_ROWS][4], const float *x, size_t stride, size_t steps,
                            float (*lanes)[TILE_ROWS][LANES], const size_t M)
{
    for (size_t g = 0; g < GROUPS; g++) {
        float32x4_t acc[TILE_COLS * TILE_ROWS];
        UNROLL for (size_t j = 0; j < M; j++)
        {
            UNROLL for (size_t i = 0; i < TILE_ROWS; i++) acc[j * TILE_ROWS + i] = vld1q_f32(lanes[j][i] + 4 * g);
        }
        for (size_t s = 0; s < steps; s++) {
            float32x4_t w4[TILE_ROWS];
            UNROLL for (size_t i = 0; i < TILE_ROWS; i++) w4[i] = vld1q_f32(w[g][s][i]);
            UNROLL for (size_t j = 0; j < M; j++)
            {
                float32x4_t x4 = vld1q_f32(x + j * stride + s * LANES + 4 * g);
                UNROLL for (size_t i = 0; i < TILE_ROWS; i++)
                {
                    acc[j * TILE_ROWS + i] = vfmaq_f32(acc[j * TILE_ROWS + i], w4[i], x4);
                }
            }
        }
        UNROLL for (size_t j = 0; j < M; j++)
        {
            UNROLL for (size_t i = 0; i < TILE_ROWS; i++) vst1q_f32(lanes[j][i] + 4 * g, acc[j * TILE_ROWS + i]);
        }
    }
}

typedef void panel_fn(float (*w)[PANEL_K / LANES][TILE_ROWS][4], const float *x, size_t stride, size_t steps,
                      float (*lanes)[TILE_ROWS][LANES]);
#define PANEL_TILE(M)                                                                                                 \
    static void panel_tile_##M(float(*w)[PANEL_K / LANES][TILE_ROWS][4], const float *x, size_t stride, size_t steps, \
                               float(*lanes)[TILE_ROWS][LANES])                                                       \
    {                                                                                                                 \
        panel_tile(w, x, stride, steps, lanes, M);                                                                    \
    }
PANEL_TILE(1)
PANEL_TILE(2)
PANEL_TILE(3)
PANEL_TILE(4)
PANEL_TILE(5)
PANEL_TILE(6)
static panel_fn *const panel_tiles[TILE_COLS] = {panel_tile_1, panel_tile_2, panel_tile_3,
                                                 panel_tile_4, panel_tile_5, panel_tile_6};

/* Weight rows r..r+rows-1 with activation rows m..m+cols-1. */
typedef void fill_fn(struct panel *p, const struct mm *a, size_t r, size_t rows, size_t k, size_t n);
static void panel_block(const struct mm *a, size_t r, size_t rows, size_t m, size_t cols, fill_fn *fill)
{
    struct panel *p = a->scratch;
    size_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (size_t t = 0; t < tiles; t++) memset(p->lanes[t], 0, cols * sizeof p->lanes[t][0]);
    for (size_t k = 0; k < a->k; k += PANEL_K) {
        size_t n = size_min(PANEL_K, a->k - k);
        fill(p, a, r, rows, k, n);
        for (size_t j = 0; j < cols; j += TILE_COLS) {
            const float *x = a->act.f + (m + j) * a->act.stride + k;
            panel_fn *tile = panel_tiles[size_min(TILE_COLS, cols - j) - 1];
            for (size_t t = 0; t < tiles; t++) tile(p->w[t], x, a->act.stride, n / LANES, &p->lanes[t][j]);
        }
    }
    for (size_t j = 0; j < cols; j++) {
        float *dst = a->dst + (m + j) * a->dst_stride + r;
        for (size_t i = 0; i < rows; i++) {
            const float *l = p->lanes[i / TILE_ROWS][j][i % TILE_ROWS];
            dst[i] = lanes_fold((struct lanes){{vld1q_f32(l), vld1q_f32(l + 4), vld1q_f32(l + 8), vld1q_f32(l + 12)}});
        }
    }
}

static void mm_panels(const struct mm *a, size_t r0, size_t r1, fill_fn *fill)
{
    for (size_t r = r0; r < r1; r += PANEL_ROWS)
        for (size_t m = 0; m < a->n_rows; m += PANEL_COLS)
            panel_block(a, r, size_min(PANEL_ROWS, r1 - r), m, size_min(PANEL_COLS, a->n_rows - m), fill);
}

/* ---- per type --------------------------------------------------------------------------------------------------- */

/* A panel pays from about eight activation rows on (in place, the widening costs a third of the multiply-adds; the panel, two
 * instructions per four weights). Rows that no whole number of lanes fills are too rare for a panel. */
enum { IN_PLACE_MAX = 8 };

#define DOT_TILE(type, size, R, M)                                             \
    static void dot_##type##_##R##x##M(const struct mm *a, size_t r, size_t m) \
    {                                                                          \
        dot_tile(a, r, m, size, load8_##type, R, M);                           \
    }
#define MM_FLOAT(type, size)                                                                                \
    DOT_TILE(type, size, 1, 1)                                                                              \
    DOT_TILE(type, size, 1, 2)                                                                              \
    DOT_TILE(type, size, 1, 3)                                                                              \
    DOT_TILE(type, size, 4, 1)                                                                              \
    DOT_TILE(type, size, 2, 2)                                                                              \
    DOT_TILE(type, size, 2, 3)                                                                              \
    static void fill_##type(struct panel *p, const struct mm *a, size_t r, size_t rows, size_t k, size_t n) \
    {                                                                                                       \
        panel_fill(p, a, r, rows, k, n, size, load8_##type);                                                \
    }                                                                                                       \
    static void mm_##type##_neon(const struct mm *a, size_t r0, size_t r1)                                  \
    {                                                                                                       \
        static const struct dot_tiles tiles = {{dot_##type##_1x1, dot_##type##_1x2, dot_##type##_1x3},      \
                                               {dot_##type##_4x1, dot_##type##_2x2, dot_##type##_2x3}};     \
        if (a->n_rows > IN_PLACE_MAX && a->k % LANES == 0)                                                  \
            mm_panels(a, r0, r1, fill_##type);                                                              \
        else                                                                                                \
            mm_in_place(a, r0, r1, &tiles);                                                                 \
    }
MM_FLOAT(f32, 4)
MM_FLOAT(f16, 2)
MM_FLOAT(bf16, 2)

/* Types that only the quant room can widen. */
static void fill_any(struct panel *p, const struct mm *a, size_t r, size_t rows, size_t k, size_t n)
{
    float wide[PANEL_K];
    size_t padded = (rows + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    for (size_t i = 0; i < padded; i++) {
        const struct qrow row = mm_row(a, r + size_min(i, rows - 1));
        qtypes[a->type].row_to_float(&row, k, wide, n);
        for (size_t at = 0; at < n; at += 4)
            vst1q_f32(p->w[i / TILE_ROWS][at / 4 % GROUPS][at / LANES][i % TILE_ROWS], vld1q_f32(wide + at));
    }
}

static void mm_any_float_neon(const struct mm *a, size_t r0, size_t r1)
{
    mm_panels(a, r0, r1, fill_any); /* their blocks are whole numbers of lanes */
}

void mm_float_init_neon(struct kernels *k)
{
    for (size_t t = 0; t < QTYPE_COUNT; t++)
        if (qtypes[t].arith == ARITH_FLOAT) k->mm[t] = mm_any_float_neon;
    k->mm[QTYPE_F32] = mm_f32_neon;
    k->mm[QTYPE_F16] = mm_f16_neon;
    k->mm[QTYPE_BF16] = mm_bf16_neon;
}
