/* attn_tmpl: one tile of 64 positions against query rows, ROWS_MAX of them at a time, in the vocabulary of a vec_ header.
 * attn_<isa>.c defines ROWS_MAX and ALL_ROWS and includes it once.
 *
 * Scores: lanes are positions, four registers of them at a time; each d is one broadcast of q[d] and four fmas per row.
 * Positions past a row's valid ones hold whatever the cache held before; their lanes are computed and then replaced, never
 * added up.
 *
 * Values: lanes are elements of v, and j runs in order over the positions that all rows of the group see; what single rows see
 * beyond that (the diagonal of a prompt) follows row by row, which is the same order for each output. */
#ifndef QUERN_ATTN_TMPL_H
#define QUERN_ATTN_TMPL_H

enum {
    REGS = 4,                             /* registers of one row in a group */
    SCRATCH_V = ATTN_DIM_MAX * ATTN_TILE, /* floats: widened k, then widened v, then the rows' scores */
    SCRATCH_P = 2 * ATTN_DIM_MAX * ATTN_TILE,
};

/* p[nr][64] = scores of rows r.. */
ALWAYS void scores(const struct attn_tile *a, size_t r, float *p, const enum qtype t, const unsigned nr)
{
    const size_t bytes = t == QTYPE_F32 ? 4 : 2;
    const float *q = a->q + r * a->head_dim;
    for (size_t j = 0; j < ATTN_TILE; j += REGS * VL) {
        const uint8_t *k = (const uint8_t *)a->k + j * bytes;
        vec acc[ROWS_MAX][REGS];
        UNROLL for (unsigned i = 0; i < nr; i++) UNROLL for (unsigned h = 0; h < REGS; h++) acc[i][h] = v_zero();
        for (size_t d = 0; d < a->head_dim; d++, k += ATTN_TILE * bytes) {
            vec x[ROWS_MAX];
            UNROLL for (unsigned i = 0; i < nr; i++) x[i] = v_set1(q[i * a->head_dim + d]);
            UNROLL for (unsigned h = 0; h < REGS; h++)
            {
                vec key = v_load_as(k + h * VL * bytes, t);
                UNROLL for (unsigned i = 0; i < nr; i++) acc[i][h] = v_fma(x[i], key, acc[i][h]);
            }
        }
        UNROLL for (unsigned i = 0; i < nr; i++) UNROLL for (unsigned h = 0; h < REGS; h++)
            v_store(p + i * ATTN_TILE + j + h * VL, acc[i][h]);
    }
}

/* The running maximum: never a NaN score, never -0. */
static float running_max(float m, const float *s, size_t n)
{
    vec top = v_set1(m);
    for (size_t j = 0; j < n; j += VL) top = v_max(v_first_n(v_load(s + j), n - j, v_set1(-INFINITY)), top);
    return v_max_all(top) + 0.0f;
}

/* Turns the scores of one row into its p[0..63] (0 where it sees nothing), updates m and l and returns the factor for o. */
static float soften(const struct attn_tile *a, size_t r, float *p)
{
    const size_t n = a->valid[r];
    const float top = running_max(a->m[r], p, n), factor = v_get(v_exp(v_set1(a->m[r] - top)));
    vec sum[PARTS];
    for (size_t j = 0; j < ATTN_TILE; j += 16) UNROLL for (size_t h = 0; h < PARTS; h++)
        {
            size_t at = j + h * VL;
            vec e = v_first_n(v_exp(v_sub(v_load(p + at), v_set1(top))), n > at ? n - at : 0, v_zero());
            v_store(p + at, e);
            sum[h] = j == 0 ? e : v_add(sum[h], e);
        }
    a->l[r] = fmaf(a->l[r], factor, v_fold(sum));
    a->m[r] = top;
    return factor;
}

/* o[d..] of rows r.. times factor, plus positions j0..j1-1: nz registers, of whose elements n exist (all, where nz is REGS). */
ALWAYS void values(const struct attn_tile *a, size_t r, const float *p, const float *factor, size_t j0, size_t j1, size_t d,
                   size_t n, const enum qtype t, const unsigned nr, const unsigned nz)
{
    const size_t bytes = t == QTYPE_F32 ? 4 : 2;
    const uint8_t *v = (const uint8_t *)a->v + (j0 * a->v_dim + d) * bytes;
    float *o = a->o + r * a->v_dim + d;
    vec acc[ROWS_MAX][REGS];
    UNROLL for (unsigned i = 0; i < nr; i++) UNROLL for (unsigned h = 0; h < nz; h++)
    {
        const float *from = o + i * a->v_dim + h * VL;
        acc[i][h] = v_mul(nz == REGS ? v_load(from) : v_load_n(from, n), v_set1(factor[i]));
    }
    for (size_t j = j0; j < j1; j++, v += a->v_dim * bytes) {
        vec w[ROWS_MAX];
        UNROLL for (unsigned i = 0; i < nr; i++) w[i] = v_set1(p[i * ATTN_TILE + j]);
        UNROLL for (unsigned h = 0; h < nz; h++)
        {
            vec x = nz == REGS ? v_load_as(v + h * VL * bytes, t) : v_load_as_n(v, n, t);
            UNROLL for (unsigned i = 0; i < nr; i++) acc[i][h] = v_fma(w[i], x, acc[i][h]);
        }
    }
    UNROLL for (unsigned i = 0; i < nr; i++) UNROLL for (unsigned h = 0; h < nz; h++)
        v_store_n(o + i * a->v_dim + h * VL, acc[i][h], nz == REGS ? VL : n);
}

ALWAYS void all_values(const struct attn_tile *a, size_t r, const float *p, const float *factor, size_t j0, size_t j1,
                       const enum qtype t, const unsigned nr)
{
    size_t d = 0;
    for (; d + REGS * VL <= a->v_dim; d += REGS * VL) values(a, r, p, factor, j0, j1, d, REGS * VL, t, nr, REGS);
    for (; d < a->v_dim; d += VL) values(a, r, p, factor, j0, j1, d, a->v_dim - d, t, nr, 1);
}

struct row_fns {
    void (*scores)(const struct attn_tile *a, size_t r, float *p);
    void (*values)(const struct attn_tile *a, size_t r, const float *p, const float *factor, size_t j0, size_t j1);
};
#define ROWS(type, TYPE, nr)                                                                                              \
    static void scores_##type##_##nr(const struct attn_tile *a, size_t r, float *p)                                       \
    {                                                                                                                     \
        scores(a, r, p, QTYPE_##TYPE, nr);                                                                                \
    }                                                                                                                     \
    static void values_##type##_##nr(const struct attn_tile *a, size_t r, const float *p, const float *factor, size_t j0, \
                                     size_t j1)                                                                           \
    {                                                                                                                     \
        all_values(a, r, p, factor, j0, j1, QTYPE_##TYPE, nr);                                                            \
    }

ALL_ROWS(f32, F32)

/* Rows r..r+nr-1, each of which sees something. */
static void attn_group(const struct attn_tile *a, size_t r, size_t nr, const struct row_fns *f)
{
    float *p = a->scratch + SCRATCH_P;
    float factor[ROWS_MAX];
    size_t common = ATTN_TILE;
    f[nr - 1].scores(a, r, p);
    for (size_t i = 0; i < nr; i++) {
        factor[i] = soften(a, r + i, p + i * ATTN_TILE);
        common = size_min(common, a->valid[r + i]);
    }
    f[nr - 1].values(a, r, p, factor, 0, common);
    const float one = 1.0f;
    for (size_t i = 0; i < nr; i++)
        if (a->valid[r + i] > common) f[0].values(a, r + i, p + i * ATTN_TILE, &one, common, a->valid[r + i]);
}

static void attn_rows(const struct attn_tile *a, const struct row_fns f[ROWS_MAX])
{
    for (size_t r = 0; r < a->n_rows;) {
        size_t nr = 0;
        while (nr < ROWS_MAX && r + nr < a->n_rows && a->valid[r + nr] > 0) nr++;
        if (nr > 0) attn_group(a, r, nr, f);
        r += size_max(nr, 1);
    }
}

/* An f16 tile through scratch, widened once for all rows. */
static void attn_rows_widened(const struct attn_tile *a)
{
    size_t seen = 0;
    for (size_t r = 0; r < a->n_rows; r++) seen = size_max(seen, a->valid[r]);
    struct attn_tile wide = *a;
    wide.k = a->scratch;
    wide.v = a->scratch + SCRATCH_V;
    const uint8_t *k = a->k, *v = a->v;
    const size_t n = seen * a->v_dim;
    for (size_t i = 0; i < a->head_dim * ATTN_TILE; i += VL) v_store(a->scratch + i, v_load_as(k + 2 * i, QTYPE_F16));
    size_t i = 0;
    for (; i + VL <= n; i += VL) v_store(a->scratch + SCRATCH_V + i, v_load_as(v + 2 * i, QTYPE_F16));
    if (i < n) v_store_n(a->scratch + SCRATCH_V + i, v_load_as_n(v + 2 * i, n - i, QTYPE_F16), n - i);
    attn_rows(&wide, fns_f32);
}

void KERNEL(attn_tile_f32)(const struct attn_tile *a)
{
    attn_rows(a, fns_f32);
}

#endif
