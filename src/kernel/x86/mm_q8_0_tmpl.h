/* mm_q8_0_tmpl: the frame of matrix products with Q8_0 weights: blocks of 34 bytes, an f16 scale and 32 int8 weights, against activations
 * quantised in the same blocks. A block's integer sum is exact, whatever its order; then one fma per block and output, in the
 * order of blocks. mm_q8_0_<isa>.c defines the sizes and includes this once.
 *
 *  - Few activation rows (decode): GROUP weight rows at a time, each its own stream of memory with its own prefetch.
 *  - Many (prefill): PANEL_ROWS weight rows by PANEL_BLOCKS blocks go into scratch as [k / 4][rows][4], so that a register is 4 weights of
 *    several rows and a broadcast of 4 activations serves it. All activation rows pass over the panel while it is in L1; between
 *    panels of the same rows the outputs wait in scratch.
 *
 * Where fewer weight rows are left, the last one is repeated and not stored. */
#ifndef QUERN_MM_Q8_0_TMPL_H
#define QUERN_MM_Q8_0_TMPL_H

enum {
    BLOCK_BYTES = 34,
    PREFETCH = 1024, /* bytes ahead in each weight row */
};

struct panel {
    uint8_t w[PANEL_BLOCKS * 8][PANEL_ROWS][4];
    float d[PANEL_BLOCKS][PANEL_ROWS];
    float state[STRIP][PANEL_ROWS]; /* the outputs */
};
_Static_assert(sizeof(struct panel) <= MM_SCRATCH, "scratch");

/* The activations of one tile: up to PANEL_COLS rows, from one block on. */
struct cols {
    const int8_t *q, *next; /* next: those of the following tile, to be fetched meanwhile */
    const float *d;
    const int32_t *s;
    size_t k;
};

typedef void unpack_fn(struct panel *t, const uint8_t *w, size_t row_bytes, size_t n_rows, size_t n_blocks);
/* All rows of the panel by a tile's activations, added to state[PANEL_COLS or fewer][PANEL_ROWS]. */
typedef void panel_fn(const struct panel *t, const struct cols *x, size_t n_blocks, float (*state)[PANEL_ROWS]);

/* Row r of n, or the last. */
ALWAYS const uint8_t *q8_row(const uint8_t *w, size_t row_bytes, size_t n, size_t r)
{
    return w + (r < n ? r : n - 1) * row_bytes;
}

/* Weight rows r.. (n_rows, at most PANEL_ROWS) by activation rows m.. (n_cols, at most STRIP). */
static void mm_strip(const struct mm *a, size_t r, size_t n_rows, size_t m, size_t n_cols, unpack_fn *unpack,
                     panel_fn *const tiles[PANEL_COLS])
{
    struct panel *t = a->scratch;
    const size_t n_blocks = a->k / ACT_BLOCK;
    memset(t->state, 0, n_cols * sizeof t->state[0]);
    for (size_t b = 0; b < n_blocks; b += PANEL_BLOCKS) {
        size_t n = size_min(n_blocks - b, PANEL_BLOCKS);
        unpack(t, a->w + r * a->row_bytes + b * BLOCK_BYTES, a->row_bytes, n_rows, n);
        for (size_t c = 0; c < n_cols; c += PANEL_COLS) {
            size_t nc = size_min(n_cols - c, PANEL_COLS), at = m + c;
            struct cols x = {.q = a->act.q + at * a->k + b * ACT_BLOCK,
                             .d = a->act.d + at * n_blocks + b,
                             .s = a->act.s + at * n_blocks + b,
                             .k = a->k};
            x.next = x.q + nc * a->k;
            tiles[nc - 1](t, &x, n, t->state + c);
        }
    }
    for (size_t c = 0; c < n_cols; c++) memcpy(a->dst + (m + c) * a->dst_stride + r, t->state[c], n_rows * sizeof(float));
}

static void mm_panels(const struct mm *a, size_t r0, size_t r1, unpack_fn *unpack, panel_fn *const tiles[PANEL_COLS])
{
    for (size_t r = r0; r < r1; r += PANEL_ROWS)
        for (size_t m = 0; m < a->n_rows; m += STRIP)
            mm_strip(a, r, size_min(r1 - r, PANEL_ROWS), m, size_min(a->n_rows - m, STRIP), unpack, tiles);
}

#endif
