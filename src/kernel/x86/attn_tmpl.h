/* attn_tmpl: one tile of 64 positions against query rows, ROWS_MAX of them at a time, in the vocabulary of a vec_ header.
 * attn_<isa>.c defines ROWS_MAX, EACH_NR (1 to ROWS_MAX) and DIRECT_TYPES (F32 and others) and includes it once.
 *
 * Scores: lanes are positions, four registers of them at a time; each d is one broadcast of q[d] and four fmas per row.
 * Positions past a row's valid ones hold whatever the cache held before; their lanes are computed and then replaced, never
 * added up.
 *
 * Values: lanes are elements of v, and j runs in order over the positions that all rows of the group see; what single rows see
 * beyond that (the diagonal of a prompt) follows row by row, which is the same order for each output.
 *
 * Elements are taken out of their type as they are loaded, or the tile is widened into scratch once and the functions for F32
 * do the rest: see DIRECT_ROWS. */
#ifndef QUERN_ATTN_TMPL_H
#define QUERN_ATTN_TMPL_H

enum {
    REGS = 4, /* registers of one row in a group */
    /* Parts of scratch, in floats: widened k, then widened v or its scales, then the rows' scores. */
    SCRATCH_V = ATTN_DIM_MAX * ATTN_TILE,
    SCRATCH_P = 2 * ATTN_DIM_MAX * ATTN_TILE,
};

ALWAYS unsigned bits_of(const enum qtype t)
{
    return t == QTYPE_F32 ? 32 : t == QTYPE_Q8_0 ? 8 : t == QTYPE_Q4_0 ? 4 : 16;
}

/* Element d of VL keys from position j on; scale: theirs, for quantised types. */
ALWAYS vec load_k(const uint8_t *k, size_t d, size_t j, vec scale, const enum qtype t)
{
    if (t == QTYPE_Q8_0) return v_mul(scale, v_load_i8(k + d * ATTN_TILE + j));
    if (t == QTYPE_Q4_0) return v_mul(scale, v_load_i4(k + d / 2 * ATTN_TILE + j, (int)(d % 2 * 4)));
    return v_load_as(k + (d * ATTN_TILE + j) * (bits_of(t) / 8), t);
}

/* Scales of VL keys from position j on, in the block of element d. */
ALWAYS vec load_k_scale(const uint8_t *k, size_t dim, size_t d, size_t j, const enum qtype t)
{
    if (bits_of(t) >= 16) return v_zero();
    return v_load_as(k + attn_k_scales(bits_of(t), dim) + (d / KV_BLOCK * ATTN_TILE + j) * 2, QTYPE_F16);
}

/* Elements d .. d + VL - 1 of the value of position j; d a multiple of VL. n of them exist (all where it is VL). scales: of
 * quantised types, [ATTN_TILE][blocks]. */
ALWAYS vec load_v(const uint8_t *v, size_t dim, size_t j, size_t d, size_t n, const float *scales, const enum qtype t)
{
    const size_t block = j * attn_blocks(dim) + d / KV_BLOCK, in = d % KV_BLOCK;
    if (t == QTYPE_Q8_0) return v_mul(v_set1(scales[block]), v_load_i8(v + block * KV_BLOCK + in));
    if (t == QTYPE_Q4_0) return v_mul(v_set1(scales[block]), v_load_i4(v + block * 16 + in % 16, (int)(in / 16 * 4)));
    const uint8_t *p = v + (j * dim + d) * (bits_of(t) / 8);
    return n >= VL ? v_load_as(p, t) : v_load_as_n(p, n, t);
}

/* What is needed after the loop that is running: each of its rounds asks for `step` bytes more. With few rows the arithmetic of
 * a tile is as fast as memory, and neither may wait for the other; the tiles of a head lie too far apart for the processor to
 * guess. */
struct ahead {
    const uint8_t *p; /* NULL: nothing */
    size_t step;
};
ALWAYS void ask(const struct ahead *ahead, size_t round)
{
    if (!ahead->p) return;
    for (size_t at = 0; at < ahead->step; at += 64) fetch_l1(ahead->p, round * ahead->step + at);
}

/* p[nr][64] = scores of rows r.. */
ALWAYS void scores(const struct attn_tile *a, size_t r, float *p, struct ahead ahead, const enum qtype t, const unsigned nr)
{
    const float *q = a->q + r * a->head_dim;
    const uint8_t *k = a->k;
    for (size_t j = 0; j < ATTN_TILE; j += REGS * VL) {
        vec acc[ROWS_MAX][REGS];
        UNROLL for (unsigned i = 0; i < nr; i++) UNROLL for (unsigned h = 0; h < REGS; h++) acc[i][h] = v_zero();
        for (size_t block = 0; block < a->head_dim; block += KV_BLOCK) {
            vec scale[REGS];
            UNROLL for (unsigned h = 0; h < REGS; h++) scale[h] = load_k_scale(k, a->head_dim, block, j + h * VL, t);
            const size_t end = size_min(a->head_dim, block + KV_BLOCK);
            for (size_t d = block; d < end; d++) {
                vec x[ROWS_MAX];
                ask(&ahead, d);
                UNROLL for (unsigned i = 0; i < nr; i++) x[i] = v_set1(q[i * a->head_dim + d]);
                UNROLL for (unsigned h = 0; h < REGS; h++)
                {
                    vec key = load_k(k, d, j + h * VL, scale[h], t);
                    UNROLL for (unsigned i = 0; i < nr; i++) acc[i][h] = v_fma(x[i], key, acc[i][h]);
                }
            }
        }
        UNROLL for (unsigned i = 0; i < nr; i++) UNROLL for (unsigned h = 0; h < REGS; h++)
            v_store(p + i * ATTN_TILE + j + h * VL, acc[i][h]);
    }
}

/* The running maximum: never a NaN score, never -0. */
ALWAYS float running_max(float m, const float *s, size_t n)
{
    vec top = v_set1(m);
    if (n == ATTN_TILE) {
        UNROLL for (size_t j = 0; j < ATTN_TILE; j += VL) top = v_max(v_load(s + j), top);
    } else {
        for (size_t j = 0; j < n; j += VL) top = v_max(v_first_n(v_load(s + j), n - j, v_set1(-INFINITY)), top);
    }
    return v_max_all(top) + 0.0f;
}

/* p[0..63] = exp(p - top), 0 from position n on; returns the sum. all: n is 64, and known to be. */
ALWAYS float weights(float *p, float top, size_t n, const bool all)
{
    vec sum[PARTS];
    UNROLL for (size_t j = 0; j < ATTN_TILE; j += 16) UNROLL for (size_t h = 0; h < PARTS; h++)
    {
        size_t at = j + h * VL;
        vec e = v_exp_falling(v_sub(v_load(p + at), v_set1(top)));
        if (!all) e = v_first_n(e, n > at ? n - at : 0, v_zero());
        v_store(p + at, e);
        sum[h] = j == 0 ? e : v_add(sum[h], e);
    }
    return v_fold(sum);
}

/* Turns the scores of rows r.. into their weights and updates m and l; factor: what o is to be multiplied by. In two passes,
 * each of which has no row wait for another: the processor overlaps their long chains. */
static void soften(const struct attn_tile *a, size_t r, size_t nr, float *p, float factor[ROWS_MAX])
{
    float top[ROWS_MAX];
    for (size_t i = 0; i < nr; i++) {
        top[i] = running_max(a->m[r + i], p + i * ATTN_TILE, a->valid[r + i]);
        factor[i] = v_get(v_exp(v_set1(a->m[r + i] - top[i])));
        a->m[r + i] = top[i];
    }
    for (size_t i = 0; i < nr; i++) {
        const size_t n = a->valid[r + i];
        float *row = p + i * ATTN_TILE, sum = n == ATTN_TILE ? weights(row, top[i], n, true) : weights(row, top[i], n, false);
        a->l[r + i] = fmaf(a->l[r + i], factor[i], sum);
    }
}

/* o[d..] of rows r.. times factor, plus positions j0..j1-1: nz registers, of whose elements n exist (all, where nz is REGS). */
ALWAYS void values(const struct attn_tile *a, size_t r, const float *p, const float *factor, size_t j0, size_t j1, size_t d,
                   size_t n, struct ahead ahead, const enum qtype t, const unsigned nr, const unsigned nz)
{
    float *o = a->o + r * a->v_dim + d;
    vec acc[ROWS_MAX][REGS];
    UNROLL for (unsigned i = 0; i < nr; i++) UNROLL for (unsigned h = 0; h < nz; h++)
    {
        const float *from = o + i * a->v_dim + h * VL;
        acc[i][h] = v_mul(nz == REGS ? v_load(from) : v_load_n(from, n), v_set1(factor[i]));
    }
    for (size_t j = j0; j < j1; j++) {
        vec w[ROWS_MAX];
        ask(&ahead, j);
        UNROLL for (unsigned i = 0; i < nr; i++) w[i] = v_set1(p[i * ATTN_TILE + j]);
        UNROLL for (unsigned h = 0; h < nz; h++)
        {
            vec x = load_v(a->v, a->v_dim, j, d + h * VL, nz == REGS ? VL : n, a->scratch + SCRATCH_V, t);
            UNROLL for (unsigned i = 0; i < nr; i++) acc[i][h] = v_fma(w[i], x, acc[i][h]);
        }
    }
    UNROLL for (unsigned i = 0; i < nr; i++) UNROLL for (unsigned h = 0; h < nz; h++)
        v_store_n(o + i * a->v_dim + h * VL, acc[i][h], nz == REGS ? VL : n);
}

/* The scales of the first n values as floats, and room for VL - 1 more: whole registers are stored, which loads soon after can
 * be served from. */
ALWAYS void widen_v_scales(const struct attn_tile *a, size_t n, float *dst, const enum qtype t)
{
    const uint8_t *scales = (const uint8_t *)a->v + attn_v_scales(bits_of(t), a->v_dim);
    n *= attn_blocks(a->v_dim);
    for (size_t i = 0; i < n; i += VL)
        v_store(dst + i, n - i < VL ? v_load_as_n(scales + 2 * i, n - i, QTYPE_F16) : v_load_as(scales + 2 * i, QTYPE_F16));
}

ALWAYS void all_values(const struct attn_tile *a, size_t r, const float *p, const float *factor, size_t j0, size_t j1,
                       struct ahead ahead, const enum qtype t, const unsigned nr)
{
    const struct ahead nothing = {NULL, 0};
    if (bits_of(t) < 16) widen_v_scales(a, j1, a->scratch + SCRATCH_V, t);
    size_t d = 0;
    for (; d + REGS * VL <= a->v_dim; d += REGS * VL)
        values(a, r, p, factor, j0, j1, d, REGS * VL, d == 0 ? ahead : nothing, t, nr, REGS);
    for (; d < a->v_dim; d += VL) values(a, r, p, factor, j0, j1, d, a->v_dim - d, d == 0 ? ahead : nothing, t, nr, 1);
}

typedef void scores_fn(const struct attn_tile *a, size_t r, float *p, struct ahead ahead);
typedef void values_fn(const struct attn_tile *a, size_t r, const float *p, const float *factor, size_t j0, size_t j1,
                       struct ahead ahead);
typedef void widen_fn(const struct attn_tile *a, size_t n, float *dst);

#define ROWS(TYPE, nr)                                                                                                    \
    static void scores_##TYPE##_##nr(const struct attn_tile *a, size_t r, float *p, struct ahead ahead)                   \
    {                                                                                                                     \
        scores(a, r, p, ahead, QTYPE_##TYPE, nr);                                                                         \
    }                                                                                                                     \
    static void values_##TYPE##_##nr(const struct attn_tile *a, size_t r, const float *p, const float *factor, size_t j0, \
                                     size_t j1, struct ahead ahead)                                                       \
    {                                                                                                                     \
        all_values(a, r, p, factor, j0, j1, ahead, QTYPE_##TYPE, nr);                                                     \
    }
#define ROW_FUNCTIONS(TYPE) EACH_NR(ROWS, TYPE)
DIRECT_TYPES(ROW_FUNCTIONS)

/* By type and nr - 1; NULL for types that are always widened. */
#define SCORES_NAME(TYPE, nr) scores_##TYPE##_##nr,
#define VALUES_NAME(TYPE, nr) values_##TYPE##_##nr,
#define SCORES_LINE(TYPE) [QTYPE_##TYPE] = {EACH_NR(SCORES_NAME, TYPE)},
#define VALUES_LINE(TYPE) [QTYPE_##TYPE] = {EACH_NR(VALUES_NAME, TYPE)},
static scores_fn *const scores_of[QTYPE_COUNT][ROWS_MAX] = {DIRECT_TYPES(SCORES_LINE)};
static values_fn *const values_of[QTYPE_COUNT][ROWS_MAX] = {DIRECT_TYPES(VALUES_LINE)};

/* All keys, the first n values, as floats. */
ALWAYS void widen_k(const struct attn_tile *a, float *dst, const enum qtype t)
{
    for (size_t d = 0; d < a->head_dim; d++)
        UNROLL for (size_t j = 0; j < ATTN_TILE; j += VL)
            v_store(dst + d * ATTN_TILE + j, load_k(a->k, d, j, load_k_scale(a->k, a->head_dim, d, j, t), t));
}
ALWAYS void widen_v(const struct attn_tile *a, size_t n, float *dst, const enum qtype t)
{
    float *scales = a->scratch + SCRATCH_P; /* nobody has scores yet */
    if (bits_of(t) < 16) widen_v_scales(a, n, scales, t);
    for (size_t j = 0; j < n; j++)
        for (size_t d = 0; d < a->v_dim; d += VL)
            v_store_n(dst + j * a->v_dim + d, load_v(a->v, a->v_dim, j, d, a->v_dim - d, scales, t), a->v_dim - d);
}
#define WIDEN(TYPE)                                                             \
    static void widen_k_##TYPE(const struct attn_tile *a, size_t n, float *dst) \
    {                                                                           \
        (void)n;                                                                \
        widen_k(a, dst, QTYPE_##TYPE);                                          \
    }                                                                           \
    static void widen_v_##TYPE(const struct attn_tile *a, size_t n, float *dst) \
    {                                                                           \
        widen_v(a, n, dst, QTYPE_##TYPE);                                       \
    }
WIDEN(F16)
WIDEN(BF16)
WIDEN(Q8_0)
WIDEN(Q4_0)
static const struct {
    widen_fn *k, *v;
} widen_of[QTYPE_COUNT] = {
    [QTYPE_F16] = {widen_k_F16, widen_v_F16},
    [QTYPE_BF16] = {widen_k_BF16, widen_v_BF16},
    [QTYPE_Q8_0] = {widen_k_Q8_0, widen_v_Q8_0},
    [QTYPE_Q4_0] = {widen_k_Q4_0, widen_v_Q4_0},
};

/* Rows r..r+nr-1, each of which sees something. The scores of the first group ask for the values, its values for what is next.
 */
static void attn_group(const struct attn_tile *a, size_t r, size_t nr, struct ahead v, struct ahead next)
{
    values_fn *const *values_fns = values_of[a->v_type];
    float *p = a->scratch + SCRATCH_P;
    float factor[ROWS_MAX];
    size_t common = ATTN_TILE;
    scores_of[a->k_type][nr - 1](a, r, p, v);
    soften(a, r, nr, p, factor);
    for (size_t i = 0; i < nr; i++) common = size_min(common, a->valid[r + i]);
    values_fns[nr - 1](a, r, p, factor, 0, common, next);
    const float one = 1.0f;
    for (size_t i = 0; i < nr; i++)
        if (a->valid[r + i] > common)
            values_fns[0](a, r + i, p + i * ATTN_TILE, &one, common, a->valid[r + i], (struct ahead){NULL, 0});
}

/* Quantised tiles are read as they are by up to so many rows, floats by any number: to take their elements out again for each
 * group of rows is cheaper than to widen them once. */
enum { DIRECT_ROWS = 2 * ROWS_MAX };

static bool widens(enum qtype t, bool direct, size_t n_rows)
{
    return !direct || ((t == QTYPE_Q8_0 || t == QTYPE_Q4_0) && n_rows > DIRECT_ROWS);
}

void KERNEL(attn_tile)(const struct attn_tile *a)
{
    struct attn_tile now = *a;
    struct ahead v = {a->v, attn_v_bytes(a->v_type, a->v_dim) / a->head_dim};
    struct ahead next = {a->next, attn_k_bytes(a->k_type, a->head_dim) / ATTN_TILE};
    size_t seen = 0;
    for (size_t r = 0; r < a->n_rows; r++) seen = size_max(seen, a->valid[r]);
    if (widens(a->k_type, scores_of[a->k_type][0] != NULL, a->n_rows)) {
        widen_of[a->k_type].k(a, ATTN_TILE, a->scratch);
        now.k = a->scratch;
        now.k_type = QTYPE_F32;
    }
    if (widens(a->v_type, values_of[a->v_type][0] != NULL, a->n_rows)) {
        widen_of[a->v_type].v(a, seen, a->scratch + SCRATCH_V);
        now.v = a->scratch + SCRATCH_V;
        now.v_type = QTYPE_F32;
    }
    for (size_t r = 0; r < a->n_rows;) {
        /* As many rows as make all groups alike: 8 are 4 and 4. */
        const size_t left = a->n_rows - r, groups = (left + ROWS_MAX - 1) / ROWS_MAX, most = (left + groups - 1) / groups;
        size_t nr = 0;
        while (nr < most && a->valid[r + nr] > 0) nr++;
        if (nr > 0) attn_group(&now, r, nr, v, next);
        v.p = next.p = NULL;
        r += size_max(nr, 1);
    }
}

#endif
