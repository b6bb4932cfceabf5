/* int_tmpl: the frame of matrix products with integer weights. mm_int_<isa>.c defines the sizes, struct panel and the tiles,
 * and includes this once.
 *
 * Few activation rows (decode) take GROUP weight rows at a time, whose bytes are fetched as one stream.
 *
 * Many (prefill): PANEL_ROWS weight rows by 256 weights are unpacked into scratch as [k / 4][rows][4], so that a register is 4
 * weights of several rows and a broadcast of 4 activations serves it. All activation rows pass over the panel while it is in
 * L1, TILE_COLS at a time and packed likewise; between panels of the same rows the two chains of each output (scaled sums,
 * minima) wait in scratch.
 *
 * Where fewer weight rows are left, the last one is repeated and not stored. */
#ifndef QUERN_INT_TMPL_H
#define QUERN_INT_TMPL_H

struct work {
    struct panel panel;
    float acc[STRIP][PANEL_ROWS], min[STRIP][PANEL_ROWS]; /* the chains, between panels of the same rows */
};
_Static_assert(sizeof(struct work) <= MM_SCRATCH, "scratch");

/* One tile: all rows of a panel by up to TILE_COLS activation rows. */
struct tile {
    const struct panel *panel;
    size_t n_blocks;  /* of 32 weights in the panel, 8 but at the end of a row */
    const int8_t *y;  /* [8 n_blocks][PACK_COLS][4], from the tile's first row on */
    const float *d;   /* scale of the panel's (first) block, for the first row; the next row's is d_row further */
    const int16_t *s; /* its sums, likewise */
    size_t d_row, s_row;
    float (*acc)[PANEL_ROWS], (*min)[PANEL_ROWS];
    int off; /* of the type */
    bool has_min;
    /* What it asks for meanwhile: lines of the next panel's rows, in the order in which they lie in memory. */
    const uint8_t *w;
    size_t next_at, next_lines;
};

/* Step i of n of that: spread over the products, where nobody waits for it. */
ALWAYS void fetch_next(const struct tile *t, size_t i, const size_t n)
{
    for (size_t line = t->next_lines * i / n; line < t->next_lines * (i + 1) / n; line++)
        fetch_l2(t->w, t->next_at + 64 * line);
}

typedef void fill_fn(struct panel *panel, const struct rows *w, size_t piece, size_t n_blocks);
typedef void tile_fn(const struct tile *t);

static void store_strip(const struct rows *w, const struct work *k, size_t m, size_t n_cols)
{
    const struct qtype_info *info = &qtypes[w->a->type];
    for (size_t c = 0; c < n_cols; c++) {
        float *dst = w->a->dst + (m + c) * w->a->dst_stride + w->r;
        for (size_t i = 0; i < PANEL_ROWS && i < w->n; i += VL) {
            vec acc = v_load(k->acc[c] + i);
            if (info->has_min && info->arith == ARITH_32) acc = v_add(acc, v_load(k->min[c] + i));
            if (info->has_min && info->arith == ARITH_256) acc = v_sub(acc, v_load(k->min[c] + i));
            v_store_n(dst + i, acc, w->n - i);
        }
    }
}

/* Packed activations from column `from` of row m on. */
ALWAYS const int8_t *packed_at(const struct mm *a, size_t m, size_t from)
{
    return a->act.packed + m / PACK_COLS * PACK_COLS * a->k + from * PACK_COLS + m % PACK_COLS * 4;
}

/* PANEL_ROWS weight rows by activation rows m.. (n_cols, at most STRIP). */
static void mm_strip(const struct rows *w, size_t m, size_t n_cols, fill_fn *fill, tile_fn *const tiles[TILE_COLS])
{
    const struct mm *a = w->a;
    const struct qtype_info *info = &qtypes[a->type];
    struct work *k = a->scratch;
    const size_t n_d = act_scales(info->arith, a->k), n_s = act_sums(info->arith, a->k);
    const size_t n_tiles = (a->k + QSUPER - 1) / QSUPER * ((n_cols + TILE_COLS - 1) / TILE_COLS);
    memset(k->acc, 0, n_cols * sizeof *k->acc);
    if (info->has_min) memset(k->min, 0, n_cols * sizeof *k->min);
    struct tile t = {.panel = &k->panel,
                     .d_row = n_d,
                     .s_row = n_s,
                     .off = info->off,
                     .has_min = info->has_min,
                     .w = a->w,
                     .next_at = (w->r + PANEL_ROWS) * a->row_bytes,
                     .next_lines = PANEL_ROWS * a->row_bytes / 64 / n_tiles + 1};
    for (size_t from = 0; from < a->k; from += QSUPER) {
        t.n_blocks = size_min(a->k - from, QSUPER) / ACT_BLOCK;
        fill(&k->panel, w, from / QSUPER, t.n_blocks);
        for (size_t c = 0; c < n_cols; c += TILE_COLS) {
            t.y = packed_at(a, m + c, from);
            t.d = a->act.d + (m + c) * n_d + from * n_d / a->k;
            t.s = a->act.s + (m + c) * n_s + from * n_s / a->k;
            t.acc = k->acc + c;
            t.min = k->min + c;
            tiles[size_min(n_cols - c, TILE_COLS) - 1](&t);
            t.next_at += 64 * t.next_lines;
        }
    }
    store_strip(w, k, m, n_cols);
}

static void mm_panels(const struct mm *a, size_t r0, size_t r1, fill_fn *fill, tile_fn *const tiles[TILE_COLS])
{
    for (size_t r = r0; r < r1; r += PANEL_ROWS)
        for (size_t m = 0; m < a->n_rows; m += STRIP)
            mm_strip(&(struct rows){a, r, size_min(r1 - r, PANEL_ROWS)}, m, size_min(a->n_rows - m, STRIP), fill, tiles);
}

/* Asks for a share of the next GROUP rows, in the order in which they lie in memory: one stream, whatever the rows' number. */
ALWAYS void fetch_group(const struct rows *w, size_t piece, size_t bytes)
{
    const size_t at = GROUP * (w->a->row_bytes + piece * bytes);
    for (size_t i = 0; i < GROUP * bytes; i += 64) fetch_l2(w->a->w + w->r * w->a->row_bytes, at + i);
}

/* Up to GROUP weight rows by n_cols activation rows, DIRECT_COLS at most. */
typedef void group_fn(const struct rows *w, size_t n_cols);

static void mm_direct(const struct mm *a, size_t r0, size_t r1, group_fn *one, group_fn *several)
{
    const enum qarith arith = qtypes[a->type].arith;
    struct mm part = *a;
    for (size_t m = 0; m < a->n_rows; m += DIRECT_COLS) {
        part.n_rows = size_min(a->n_rows - m, DIRECT_COLS);
        part.act.q = a->act.q + m * a->k;
        part.act.d = a->act.d + m * act_scales(arith, a->k);
        part.act.s = a->act.s + m * act_sums(arith, a->k);
        part.dst = a->dst + m * a->dst_stride;
        for (size_t r = r0; r < r1; r += GROUP)
            (part.n_rows == 1 ? one : several)(&(struct rows){&part, r, size_min(r1 - r, GROUP)}, part.n_rows);
    }
}

/* [k / 4][PACK_COLS][4]: dwords of up to PACK_COLS rows side by side. */
static void pack_act(const int8_t *q, size_t n, size_t k, int8_t *dst)
{
    for (size_t i = 0; i < k; i += 4, dst += 4 * PACK_COLS)
        for (size_t c = 0; c < n; c++) memcpy(dst + 4 * c, q + c * k + i, 4);
}

#endif
