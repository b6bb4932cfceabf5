/* attn_tmpl: one tile of 64 positions against query rows, ROWS_MAX of them at a time, in the vocabulary of a vec_ header.
 * attn_<isa>.c defines ROWS_MAX, EACH_NR (1 to ROWS_MAX), and the types that it reads as they are, and includes it once.
 *
 * Scores: lanes are positions, four registers of them at a time; each d is one broadcast of q[d] and four fmas per row, or four
 * d are one of bytes and four integer products. Positions past a row's valid ones hold whatever the cache held before; their
 * lanes are computed and then replaced, never added up.
 *
 * Values: lanes are elements of v, and j runs in order over the positions that all rows of the group see; what single rows see
 * before that (the lower edge of a window) comes first, row by row, and what they see beyond it (the diagonal of a prompt)
 * follows in the same way, which is the same order for each output.
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
    for (size_t at = 0; at < ahead->step; at += 64) fetch_l2(ahead->p, round * ahead->step + at);
}

/* Float keys. */
ALWAYS void scores_floats(const struct attn_tile *a, size_t r, float *p, struct ahead ahead, const enum qtype t,
                          const unsigned nr)
{
    const size_t bytes = bits_of(t) / 8;
    const float *q = a->q + r * a->head_dim;
    for (size_t j = 0; j < ATTN_TILE; j += REGS * VL) {
        const uint8_t *k = (const uint8_t *)a->k + j * bytes;
        vec acc[ROWS_MAX][REGS];
        UNROLL for (unsigned i = 0; i < nr; i++) UNROLL for (unsigned h = 0; h < REGS; h++) acc[i][h] = v_zero();
        for (size_t d = 0; d < a->head_dim; d++, k += ATTN_TILE * bytes) {
            vec x[ROWS_MAX];
            ask(&ahead, d);
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

/* Four elements of VL keys from k on times four of a query, added to acc, less what off keeps. */
ALWAYS ivec dot4(ivec acc, ivec k, ivec q, const bool high, const enum qtype t)
{
    return t == QTYPE_Q8_0 ? vi_dot_i8(acc, k, q) : vi_dot_u8(acc, high ? vi_high_half(k) : vi_low_half(k), q);
}

/* Quantised keys: sums of products of integers for each block, scaled and added up in p, since the registers are taken. */
ALWAYS void scores_integers(const struct attn_tile *a, size_t r, float *p, struct ahead ahead, const enum qtype t,
                            const unsigned nr)
{
    const size_t blocks = attn_blocks(a->head_dim), fours = KV_BLOCK / 4, rows = fours * bits_of(t) / 8;
    const int off = t == QTYPE_Q8_0 ? I8_OFF : 8;
    for (size_t b = 0; b < blocks; b++)
        for (size_t j = 0; j < ATTN_TILE; j += REGS * VL) {
            const uint8_t *k = (const uint8_t *)a->k + (b * rows * ATTN_TILE + j) * 4;
            const uint8_t *scale = (const uint8_t *)a->k + attn_scales(bits_of(t), a->head_dim) + (b * ATTN_TILE + j) * 2;
            const int8_t *q = a->quant.q + (r * blocks + b) * KV_BLOCK;
            ivec acc[ROWS_MAX][REGS];
            UNROLL for (unsigned i = 0; i < nr; i++) UNROLL for (unsigned h = 0; h < REGS; h++) acc[i][h] =
                vi_set1(-off * a->quant.s[(r + i) * blocks + b]);
            for (size_t d = 0; d < fours; d++) {
                const bool high = t == QTYPE_Q4_0 && d % 2;
                ivec x[ROWS_MAX];
                ask(&ahead, b * fours + d);
                UNROLL for (unsigned i = 0; i < nr; i++) x[i] = vi_set1((int)load_u32(q + i * blocks * KV_BLOCK + 4 * d));
                UNROLL for (unsigned h = 0; h < REGS; h++)
                {
                    ivec key = vi_load(k + h * VL * 4);
                    UNROLL for (unsigned i = 0; i < nr; i++) acc[i][h] = dot4(acc[i][h], key, x[i], high, t);
                }
                if (t == QTYPE_Q8_0 || high) k += ATTN_TILE * 4;
            }
            UNROLL for (unsigned i = 0; i < nr; i++)
            {
                const vec dq = v_set1(a->quant.d[(r + i) * blocks + b]);
                UNROLL for (unsigned h = 0; h < REGS; h++)
                {
                    float *s = p + i * ATTN_TILE + j + h * VL;
                    vec d = v_mul(dq, v_load_as(scale + h * VL * 2, QTYPE_F16));
                    v_store(s, v_fma(d, vi_to_float(acc[i][h]), b ? v_load(s) : v_zero()));
                }
            }
        }
}

/* p[nr][64] = scores of rows r.. */
ALWAYS void scores(const struct attn_tile *a, size_t r, float *p, struct ahead ahead, const enum qtype t, const unsigned nr)
{
    if (bits_of(t) < 16)
        scores_integers(a, r, p, ahead, t, nr);
    else
        scores_floats(a, r, p, ahead, t, nr);
}

/* The positions that a row sees. */
struct span {
    size_t from, end;
};
ALWAYS struct span row_span(const struct attn_tile *a, size_t row)
{
    return (struct span){attn_from(a, row), a->valid[row]};
}
ALWAYS bool span_all(struct span s)
{
    return s.from == 0 && s.end == ATTN_TILE;
}
/* The lanes of a, which stand for the positions from `at` on, that lie in the span; the others replaced by those of rest. */
ALWAYS vec v_in_span(vec a, size_t at, struct span s, vec rest)
{
    a = v_first_n(a, s.end > at ? s.end - at : 0, rest);
    return s.from > at ? v_first_n(rest, s.from - at, a) : a;
}

/* The running maximum: never a NaN score, never -0. */
ALWAYS float running_max(float m, const float *p, struct span s)
{
    vec top = v_set1(m);
    if (span_all(s)) {
        UNROLL for (size_t j = 0; j < ATTN_TILE; j += VL) top = v_max(v_load(p + j), top);
    } else {
        for (size_t j = 0; j < s.end; j += VL) top = v_max(v_in_span(v_load(p + j), j, s, v_set1(-INFINITY)), top);
    }
    return v_max_all(top) + 0.0f;
}

/* p[0..63] = exp(p - top), 0 outside of the span; returns the sum. all: the span is the whole tile, and known to be. */
ALWAYS float weights(float *p, float top, struct span s, const bool all)
{
    vec sum[PARTS];
    UNROLL for (size_t j = 0; j < ATTN_TILE; j += 16) UNROLL for (size_t h = 0; h < PARTS; h++)
    {
        size_t at = j + h * VL;
        vec e = v_exp_falling(v_sub(v_load(p + at), v_set1(top)));
        if (!all) e = v_in_span(e, at, s, v_zero());
        v_store(p + at, e);
        sum[h] = j == 0 ? e : v_add(sum[h], e);
    }
    return v_fold(sum);
}

static void cap_scores(float *p, float cap)
{
    for (size_t j = 0; j < ATTN_TILE; j += VL) v_store(p + j, v_capped(v_load(p + j), v_set1(cap)));
}

/* Turns the scores of rows r.. into their weights and updates m and l; factor: what o is to be multiplied by. In two passes,
 * each of which has no row wait for another: the processor overlaps their long chains. */
static void soften(const struct attn_tile *a, size_t r, size_t nr, float *p, float factor[ROWS_MAX])
{
    float top[ROWS_MAX];
    for (size_t i = 0; i < nr && a->softcap != 0.0f; i++) cap_scores(p + i * ATTN_TILE, a->softcap);
    for (size_t i = 0; i < nr; i++) {
        top[i] = running_max(a->m[r + i], p + i * ATTN_TILE, row_span(a, r + i));
        factor[i] = v_get(v_exp(v_set1(a->m[r + i] - top[i])));
        a->m[r + i] = top[i];
    }
    for (size_t i = 0; i < nr; i++) {
        const struct span s = row_span(a, r + i);
        float *row = p + i * ATTN_TILE, sum = span_all(s) ? weights(row, top[i], s, true) : weights(row, top[i], s, false);
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
    const uint8_t *scales = (const uint8_t *)a->v + attn_scales(bits_of(t), a->v_dim);
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

#define SCORES(TYPE, nr)                                                                                \
    static void scores_##TYPE##_##nr(const struct attn_tile *a, size_t r, float *p, struct ahead ahead) \
    {                                                                                                   \
        scores(a, r, p, ahead, QTYPE_##TYPE, nr);                                                       \
    }
#define VALUES(TYPE, nr)                                                                                                  \
    static void values_##TYPE##_##nr(const struct attn_tile *a, size_t r, const float *p, const float *factor, size_t j0, \
                                     size_t j1, struct ahead ahead)                                                       \
    {                                                                                                                     \
        all_values(a, r, p, factor, j0, j1, ahead, QTYPE_##TYPE, nr);                                                     \
    }
#define SCORES_TYPE(TYPE) EACH_NR(SCORES, TYPE)
#define VALUES_TYPE(TYPE) EACH_NR(VALUES, TYPE)
DIRECT_K(SCORES_TYPE)
DIRECT_V(VALUES_TYPE)

/* By type and nr - 1; NULL for types that are always widened. */
#define SCORES_NAME(TYPE, nr) scores_##TYPE##_##nr,
#define VALUES_NAME(TYPE, nr) values_##TYPE##_##nr,
#define SCORES_LINE(TYPE) [QTYPE_##TYPE] = {EACH_NR(SCORES_NAME, TYPE)},
#define VALUES_LINE(TYPE) [QTYPE_##TYPE] = {EACH_NR(VALUES_NAME, TYPE)},
static scores_fn *const scores_of[QTYPE_COUNT][ROWS_MAX] = {DIRECT_K(SCORES_LINE)};
static values_fn *const values_of[QTYPE_COUNT][ROWS_MAX] = {DIRECT_V(VALUES_LINE)};

/* Keys of two bytes as floats; the first n values. */
ALWAYS void widen_k(const struct attn_tile *a, float *dst, const enum qtype t)
{
    for (size_t i = 0; i < a->head_dim * ATTN_TILE; i += VL) v_store(dst + i, v_load_as((const uint8_t *)a->k + 2 * i, t));
}
ALWAYS void widen_v(const struct attn_tile *a, size_t n, float *dst, const enum qtype t)
{
    float *scales = a->scratch + SCRATCH_P; /* nobody has scores yet */
    if (bits_of(t) < 16) widen_v_scales(a, n, scales, t);
    for (size_t j = 0; j < n; j++)
        for (size_t d = 0; d < a->v_dim; d += VL)
            v_store_n(dst + j * a->v_dim + d, load_v(a->v, a->v_dim, j, d, a->v_dim - d, scales, t), a->v_dim - d);
}
static void widen_k_F16(const struct attn_tile *a, float *dst)
{
    widen_k(a, dst, QTYPE_F16);
}
static void widen_k_BF16(const struct attn_tile *a, float *dst)
{
    widen_k(a, dst, QTYPE_BF16);
}
#define WIDEN_V(TYPE)                                                           \
    static void widen_v_##TYPE(const struct attn_tile *a, size_t n, float *dst) \
    {                                                                           \
        widen_v(a, n, dst, QTYPE_##TYPE);                                       \
    }
WIDEN_V(F16)
WIDEN_V(BF16)
WIDEN_V(Q8_0)
WIDEN_V(Q4_0)
static const struct {
    void (*k)(const struct attn_tile *a, float *dst);
    void (*v)(const struct attn_tile *a, size_t n, float *dst);
} widen_of[QTYPE_COUNT] = {
    [QTYPE_F16] = {widen_k_F16, widen_v_F16},
    [QTYPE_BF16] = {widen_k_BF16, widen_v_BF16},
    [QTYPE_Q8_0] = {NULL, widen_v_Q8_0},
    [QTYPE_Q4_0] = {NULL, widen_v_Q4_0},
};

/* What all rows of a group see; where that is nothing, the end of the tile, before which each row goes alone. */
static struct span common_span(const struct attn_tile *a, size_t r, size_t nr)
{
    struct span s = {0, ATTN_TILE};
    for (size_t i = 0; i < nr; i++) {
        s.from = size_max(s.from, attn_from(a, r + i));
        s.end = size_min(s.end, a->valid[r + i]);
    }
    return s.from < s.end ? s : (struct span){ATTN_TILE, ATTN_TILE};
}

/* Positions j0..j1-1 of one row. */
static void values_alone(const struct attn_tile *a, size_t r, const float *p, float factor, size_t j0, size_t j1)
{
    values_of[a->v_type][0](a, r, p, &factor, j0, j1, (struct ahead){NULL, 0});
}

/* Rows r..r+nr-1, each of which sees something. The scores of the first group ask for the values, its values for what is next.
 */
static void attn_group(const struct attn_tile *a, size_t r, size_t nr, struct ahead in_scores, struct ahead in_values)
{
    float *p = a->scratch + SCRATCH_P;
    float factor[ROWS_MAX];
    scores_of[a->k_type][nr - 1](a, r, p, in_scores);
    soften(a, r, nr, p, factor);
    const struct span all = common_span(a, r, nr);
    for (size_t i = 0; a->from && i < nr; i++) {
        if (a->from[r + i] >= all.from) continue;
        values_alone(a, r + i, p + i * ATTN_TILE, factor[i], a->from[r + i], size_min(all.from, a->valid[r + i]));
        factor[i] = 1.0f;
    }
    if (all.from < all.end) values_of[a->v_type][nr - 1](a, r, p, factor, all.from, all.end, in_values);
    for (size_t i = 0; i < nr; i++)
        if (a->valid[r + i] > all.end) values_alone(a, r + i, p + i * ATTN_TILE, 1.0f, all.end, a->valid[r + i]);
}

/* Quantised values are read as they are by up to so many rows, floats by any number: to take their elements out again for each
 * group of rows is cheaper than to widen them once. */
enum { DIRECT_ROWS = 2 * ROWS_MAX };

void KERNEL(attn_tile)(const struct attn_tile *a)
{
    struct attn_tile now = *a;
    /* Shared out over the rounds of scores and values by the time that they take. */
    const bool integers = attn_quantised(a->k_type);
    const size_t rounds = integers ? attn_blocks(a->head_dim) * KV_BLOCK / 4 : a->head_dim;
    const size_t first = integers ? a->next_bytes / 4 : a->next_bytes / 2;
    struct ahead in_scores = {a->next, first / rounds};
    struct ahead in_values = {a->next ? (const uint8_t *)a->next + first : NULL, (a->next_bytes - first) / ATTN_TILE};
    size_t seen = 0;
    for (size_t r = 0; r < a->n_rows; r++) seen = size_max(seen, a->valid[r]);
    if (!scores_of[a->k_type][0]) {
        widen_of[a->k_type].k(a, a->scratch);
        now.k = a->scratch;
        now.k_type = QTYPE_F32;
    }
    if (!values_of[a->v_type][0] || (attn_quantised(a->v_type) && a->n_rows > DIRECT_ROWS)) {
        widen_of[a->v_type].v(a, seen, a->scratch + SCRATCH_V);
        now.v = a->scratch + SCRATCH_V;
        now.v_type = QTYPE_F32;
    }
    for (size_t r = 0; r < a->n_rows;) {
        /* As many rows as make all groups alike: 8 are 4 and 4. */
        const size_t left = a->n_rows - r, groups = (left + ROWS_MAX - 1) / ROWS_MAX, most = (left + groups - 1) / groups;
        size_t nr = 0;
        while (nr < most && a->valid[r + nr] > 0) nr++;
        if (nr > 0) attn_group(&now, r, nr, in_scores, in_values);
        in_scores.p = in_values.p = NULL;
        r += size_max(nr, 1);
    }
}

#endif
