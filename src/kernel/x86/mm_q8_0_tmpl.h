/* mm_q8_0_tmpl: the frame of matrix products with Q8_0 weights: blocks of 34 bytes, an f16 scale and 32 int8 weights, against
 * activations quantised in the same blocks. A block's integer sum is exact, whatever its order; then one fma per block and
 * output, in the order of blocks. mm_q8_0_<isa>.c defines the sizes and includes this once.
 *
 * Few activation rows (decode): GROUP weight rows at a time, each its own stream of memory with its own prefetch.
 *
 * Many (prefill): PANEL_ROWS weight rows by PANEL_BLOCKS blocks go into scratch as [k / 4][rows][4], so that a register is 4
 * weights of several rows and a broadcast of 4 activations serves it. All activation rows pass over the panel while it is in
 * L1; between panels of the same rows the outputs wait in scratch.
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
    float state[STRIP][PANEL_ROWS]; /* the outputs, between panels of the same rows */
};
_Static_assert(sizeof(struct panel) <= MM_SCRATCH, "scratch");

/* One tile: all rows of a panel by the activation rows of up to PANEL_COLS columns. */
struct tile {
    const struct panel *panel;
    size_t n_blocks;
    const int8_t *q; /* the activations, and those of the following tile behind them */
    const float *d;
    const int16_t *s;
    size_t k;         /* row lengths: of q k, of d and s k / 32 */
    const uint8_t *w; /* the panel's weights as they are stored; w + fetch begins a share of the next one's */
    size_t row_bytes, fetch, fetch_rows;
    float (*state)[PANEL_ROWS]; /* where the sums come from, unless this is the first panel of its rows */
    bool first, last;
    float *dst; /* where they go in the end: n_rows of each column */
    size_t dst_stride, n_rows;
};

/* Fetches the scales and sums of a column of the next tile: each is a line of its own, far from the last. */
ALWAYS void prefetch_scales(const struct tile *t, size_t c, size_t nc)
{
    const size_t at = (nc + c) * (t->k / ACT_BLOCK);
    fetch_l1(t->d, at * sizeof *t->d);
    fetch_l1(t->s, at * sizeof *t->s);
}

/* Fetches block b of what comes next: activations of nc columns (two blocks are a line) and this tile's share of the weights,
 * which memory brings in while the arithmetic goes on. */
ALWAYS void prefetch_block(const struct tile *t, size_t b, size_t nc)
{
    if (b % 2 == 0)
        for (size_t c = 0; c < nc; c++) fetch_l1(t->q, (nc + c) * t->k + b * ACT_BLOCK);
    for (size_t r = 0; r < t->fetch_rows; r++) fetch_l2(t->w, t->fetch + r * t->row_bytes + b * BLOCK_BYTES);
}

typedef void unpack_fn(struct panel *t, const uint8_t *w, size_t row_bytes, size_t n_rows, size_t n_blocks);
typedef void tile_fn(const struct tile *t);

/* Row r of n, or the last. */
ALWAYS const uint8_t *q8_row(const uint8_t *w, size_t row_bytes, size_t n, size_t r)
{
    return w + (r < n ? r : n - 1) * row_bytes;
}

/* Weight rows r.. (n_rows, at most PANEL_ROWS) by activation rows m.. (n_cols, at most STRIP). */
static void mm_strip(const struct mm *a, size_t r, size_t n_rows, size_t m, size_t n_cols, unpack_fn *unpack,
                     tile_fn *const tiles[PANEL_COLS])
{
    struct panel *panel = a->scratch;
    const size_t n_blocks = a->k / ACT_BLOCK;
    struct tile t = {.panel = panel, .k = a->k, .dst_stride = a->dst_stride, .n_rows = n_rows, .row_bytes = a->row_bytes};
    for (size_t b = 0; b < n_blocks; b += PANEL_BLOCKS) {
        t.n_blocks = size_min(n_blocks - b, PANEL_BLOCKS);
        t.first = b == 0;
        t.last = b + t.n_blocks == n_blocks;
        t.w = a->w + r * a->row_bytes + b * BLOCK_BYTES;
        unpack(panel, t.w, a->row_bytes, n_rows, t.n_blocks);
        /* The next panel: further along these rows, or the start of the following ones. */
        const size_t next = t.last ? PANEL_ROWS * a->row_bytes - b * BLOCK_BYTES : t.n_blocks * BLOCK_BYTES;
        for (size_t c = 0; c < n_cols; c += PANEL_COLS) {
            size_t nc = size_min(n_cols - c, PANEL_COLS);
            t.q = a->act.q + (m + c) * a->k + b * ACT_BLOCK;
            t.d = a->act.d + (m + c) * n_blocks + b;
            t.s = a->act.s + (m + c) * n_blocks + b;
            t.state = panel->state + c;
            t.dst = a->dst + (m + c) * a->dst_stride + r;
            size_t row = c * PANEL_ROWS / n_cols, end = size_min((c + nc) * PANEL_ROWS / n_cols, n_rows);
            t.fetch = next + row * a->row_bytes;
            t.fetch_rows = end > row ? end - row : 0;
            tiles[nc - 1](&t);
        }
    }
}

static void mm_panels(const struct mm *a, size_t r0, size_t r1, unpack_fn *unpack, tile_fn *const tiles[PANEL_COLS])
{
    for (size_t r = r0; r < r1; r += PANEL_ROWS)
        for (size_t m = 0; m < a->n_rows; m += STRIP)
            mm_strip(a, r, size_min(r1 - r, PANEL_ROWS), m, size_min(a->n_rows - m, STRIP), unpack, tiles);
}

#endif
