/* mm_float_tmpl: matrix products with weights that are used as floats, in the vocabulary of a vec_ header. mm_float_<isa>.c
 * defines the size of the register tile (TILE_ROWS weight rows by TILE_COLS activation rows) and includes it once.
 *
 * Direct: a tile runs over the whole length, widening weights as it reads them. Decode is this with one tile of columns: the
 * weights pass once, in order, and memory is the limit. A tile asks for the next one's rows in the order in which they lie in
 * memory, as one stream. It stays the best as long as the activations fit the second-level cache.
 *
 * Packed: blocks of PACK_ROWS x PACK_K weights are widened into scratch and serve PACK_COLS activation rows. Between blocks of
 * K the lanes wait in scratch: the same chain, put down and taken up again. A tile's activations (12 KB) stay in L1 while the
 * block's weights (64 KB) stream over them from L2; all of scratch is in L2. Types that only the quant room can widen are
 * always packed.
 *
 * A tile with fewer than TILE_ROWS weight rows left repeats the last one and does not store it. */
#ifndef QUERN_MM_FLOAT_TMPL_H
#define QUERN_MM_FLOAT_TMPL_H

enum {
    DIRECT_BYTES = 512 * 1024, /* most activations for which packing does not pay (measured: 1 MB with an L2 of 2 MB) */
    PACK_K = 512,
    PACK_ROWS = 32,
    PACK_COLS = 90,
    TILE_LANES = TILE_ROWS * TILE_COLS * 16,
};
_Static_assert(PACK_ROWS % TILE_ROWS == 0 && PACK_COLS % TILE_COLS == 0, "blocks are whole tiles");
_Static_assert((PACK_K + PACK_COLS * 16) * PACK_ROWS * sizeof(float) <= MM_SCRATCH, "scratch");

struct tile {
    const uint8_t *w[TILE_ROWS];
    size_t next_rows; /* direct tiles: bytes from w[0] to the first row of the next tile */
    const float *x;
    size_t x_stride;
    size_t k;
    /* Of packed tiles only. */
    const float *next; /* one row of the next tiles' activations, to be fetched meanwhile; NULL: none */
    float *state;      /* TILE_LANES floats: the lanes between blocks of K */
    bool first, last;
    float *dst;
    size_t dst_stride, n_rows;
};

/* acc += elements i..i+15, of which n exist. */
ALWAYS void tile_step(vec acc[TILE_COLS][TILE_ROWS][PARTS], const struct tile *a, size_t i, size_t n, const enum qtype t,
                      const unsigned nc)
{
    const size_t bytes = t == QTYPE_F32 ? 4 : 2;
    UNROLL for (size_t h = 0; h < PARTS; h++)
    {
        const size_t at = i + h * VL, left = n > h * VL ? n - h * VL : 0;
        vec w[TILE_ROWS];
        UNROLL for (unsigned r = 0; r < TILE_ROWS; r++) w[r] =
            n >= 16 ? v_load_as(a->w[r] + at * bytes, t) : v_load_as_n(a->w[r] + at * bytes, left, t);
        UNROLL for (unsigned c = 0; c < nc; c++)
        {
            const float *p = a->x + c * a->x_stride + at;
            vec x = n >= 16 ? v_load(p) : v_load_n(p, left);
            UNROLL for (unsigned r = 0; r < TILE_ROWS; r++) acc[c][r][h] = v_fma(w[r], x, acc[c][r][h]);
        }
    }
}

ALWAYS void tile_body(const struct tile *a, const enum qtype t, const unsigned nc, const bool packed)
{
    const size_t bytes = t == QTYPE_F32 ? 4 : 2, line = 64 / bytes;
    vec acc[TILE_COLS][TILE_ROWS][PARTS];
    UNROLL for (unsigned c = 0; c < nc; c++) UNROLL for (unsigned r = 0; r < TILE_ROWS; r++)
        UNROLL for (unsigned h = 0; h < PARTS; h++) acc[c][r][h] =
            packed && !a->first ? v_load(a->state + 16 * (c * TILE_ROWS + r) + h * VL) : v_zero();
    size_t i = 0;
    for (; i + line <= a->k; i += line) {
        UNROLL for (unsigned r = 0; r < TILE_ROWS; r++) if (!packed)
            fetch_l2(a->w[0], a->next_rows + i * bytes * TILE_ROWS + r * 64);
        if (packed && a->next) fetch_l2(a->next, i * sizeof(float));
        UNROLL for (size_t j = 0; j < line; j += 16) tile_step(acc, a, i + j, 16, t, nc);
    }
    for (; i + 16 <= a->k; i += 16) tile_step(acc, a, i, 16, t, nc);
    if (i < a->k) tile_step(acc, a, i, a->k - i, t, nc);
    UNROLL for (unsigned c = 0; c < nc; c++)
    {
        if (packed && !a->last) {
            UNROLL for (unsigned r = 0; r < TILE_ROWS; r++) UNROLL for (unsigned h = 0; h < PARTS; h++)
                v_store(a->state + 16 * (c * TILE_ROWS + r) + h * VL, acc[c][r][h]);
        } else {
            fold_rows(a->dst + c * a->dst_stride, acc[c], a->n_rows);
        }
    }
}

typedef void tile_fn(const struct tile *a);
#define TILE(type, TYPE, nc, packed)                     \
    static void tile_##type##_##nc(const struct tile *a) \
    {                                                    \
        tile_body(a, QTYPE_##TYPE, nc, packed);          \
    }
TILES(f32, F32, false)
TILES(f16, F16, false)
TILES(bf16, BF16, false)
TILES(packed, F32, true)

/* Pointers to the rows of a tile: row_bytes apart, the last of n repeated. */
ALWAYS void tile_rows(struct tile *t, const uint8_t *w, size_t row_bytes, size_t n)
{
    for (size_t r = 0; r < TILE_ROWS; r++) t->w[r] = w + (r < n ? r : n - 1) * row_bytes;
    t->n_rows = size_min(n, TILE_ROWS);
}

static void mm_direct(const struct mm *a, size_t r0, size_t r1, tile_fn *const fn[TILE_COLS])
{
    struct tile t = {.next_rows = TILE_ROWS * a->row_bytes, .x_stride = a->act.stride, .k = a->k, .dst_stride = a->dst_stride};
    for (size_t r = r0; r < r1; r += TILE_ROWS) {
        tile_rows(&t, a->w + r * a->row_bytes, a->row_bytes, r1 - r);
        for (size_t c = 0; c < a->n_rows; c += TILE_COLS) {
            t.x = a->act.f + c * a->act.stride;
            t.dst = a->dst + c * a->dst_stride + r;
            fn[size_min(a->n_rows - c, TILE_COLS) - 1](&t);
        }
    }
}

/* Widens elements k0 .. k0 + n - 1 of rows r .. r + n_rows - 1 into [PACK_ROWS][PACK_K]. t QTYPE_COUNT: of any type. */
ALWAYS void pack(float *dst, const struct mm *a, size_t r, size_t n_rows, size_t k0, size_t n, const enum qtype t)
{
    const size_t bytes = t == QTYPE_F32 ? 4 : 2;
    for (size_t end = r + n_rows; r < end; r++, dst += PACK_K) {
        if (t == QTYPE_COUNT) {
            const struct qrow any = mm_row(a, r);
            qtypes[a->type].row_to_float(&any, k0, dst, n);
            continue;
        }
        const uint8_t *row = a->w + r * a->row_bytes + k0 * bytes;
        size_t i = 0;
        for (; i + VL <= n; i += VL) v_store(dst + i, v_load_as(row + i * bytes, t));
        if (i < n) v_store(dst + i, v_load_as_n(row + i * bytes, n - i, t));
    }
}

/* Weight rows r.. (n_rows of them, at most PACK_ROWS) by activation rows c0..c1-1 (at most PACK_COLS). */
ALWAYS void mm_block(const struct mm *a, size_t r, size_t n_rows, size_t c0, size_t c1, const enum qtype type)
{
    float *packed = a->scratch;
    struct tile t = {.x_stride = a->act.stride, .dst_stride = a->dst_stride};
    for (size_t k0 = 0; k0 < a->k; k0 += PACK_K) {
        t.k = size_min(a->k - k0, PACK_K);
        t.first = k0 == 0;
        t.last = k0 + t.k == a->k;
        t.state = packed + PACK_K * PACK_ROWS;
        pack(packed, a, r, n_rows, k0, t.k, type);
        for (size_t c = c0; c < c1; c += TILE_COLS) {
            t.x = a->act.f + c * a->act.stride + k0;
            for (size_t i = 0; i < n_rows; i += TILE_ROWS, t.state += TILE_LANES) {
                tile_rows(&t, (const uint8_t *)(packed + i * PACK_K), PACK_K * sizeof(float), n_rows - i);
                t.dst = a->dst + c * a->dst_stride + r + i;
                size_t ahead = c + TILE_COLS + i / TILE_ROWS;
                t.next = i / TILE_ROWS < TILE_COLS && ahead < c1 ? a->act.f + ahead * a->act.stride + k0 : NULL;
                tiles_packed[size_min(c1 - c, TILE_COLS) - 1](&t);
            }
        }
    }
}

ALWAYS void mm_packed(const struct mm *a, size_t r0, size_t r1, const enum qtype t)
{
    for (size_t r = r0; r < r1; r += PACK_ROWS)
        for (size_t c = 0; c < a->n_rows; c += PACK_COLS)
            mm_block(a, r, size_min(r1 - r, PACK_ROWS), c, size_min(a->n_rows, c + PACK_COLS), t);
}

ALWAYS void mm_float(const struct mm *a, size_t r0, size_t r1, const enum qtype t, tile_fn *const direct[TILE_COLS])
{
    if (a->n_rows <= TILE_COLS || a->n_rows * a->k * sizeof(float) <= DIRECT_BYTES)
        mm_direct(a, r0, r1, direct);
    else
        mm_packed(a, r0, r1, t);
}

void KERNEL(mm_f32)(const struct mm *a, size_t r0, size_t r1)
{
    mm_float(a, r0, r1, QTYPE_F32, tiles_f32);
}
void KERNEL(mm_f16)(const struct mm *a, size_t r0, size_t r1)
{
    mm_float(a, r0, r1, QTYPE_F16, tiles_f16);
}
void KERNEL(mm_bf16)(const struct mm *a, size_t r0, size_t r1)
{
    mm_float(a, r0, r1, QTYPE_BF16, tiles_bf16);
}
void KERNEL(mm_any_float)(const struct mm *a, size_t r0, size_t r1)
{
    mm_packed(a, r0, r1, QTYPE_COUNT);
}

#endif
