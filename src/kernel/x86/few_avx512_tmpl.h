/* few_avx512_tmpl: products with few activation rows, for types whose weights are transposed as they lie
 * (slab_avx512_tmpl.h).
 *
 * Multiplications have two of four vector units, shuffles the others and one of the first. While one slab is multiplied, the
 * next is therefore filled, and the rows behind are fetched. The schedulers see some 60 instructions ahead only, and what they
 * see is all of one kind where a slab is filled in one go: so steps of filling stand between the products of 4 weights of
 * each row, and HERE keeps them there. */
#ifndef QUERN_FEW_AVX512_TMPL_H
#define QUERN_FEW_AVX512_TMPL_H

#include "kernel/x86/slab_avx512_tmpl.h"

/* Scratch. */
struct few {
    struct slab slab[2];              /* the one that is multiplied, and the next one */
    vec acc[FEW_COLS], min[FEW_COLS]; /* the chains of the slab's rows */
    int32_t sums[FEW_SUMS][PACK_COLS];
};
_Static_assert(sizeof(struct few) <= MM_SCRATCH, "scratch");

/* A slab and what it is multiplied with: a group of up to PACK_COLS activation rows. */
struct slab_tile {
    const struct slab *slab;
    const int8_t *y;                  /* [64][PACK_COLS][4] */
    const int32_t (*sums)[PACK_COLS]; /* what sums_ahead has made of the sums of q, for each subblock or each pair */
    const float *d;                   /* scale of the first row; the next row's is d_row further */
    size_t d_row;
    vec *acc, *min;
};
typedef void slab_fn(const struct slab_tile *t);

/* Another slab, which is filled beside products. */
struct filling {
    struct slab *slab;
    struct pieces from;
    uintptr_t fetch; /* where the rows behind lie, in the order of memory: one stream, which may run past the last */
};

/* Beside the products of dword j of 16 of part i. */
ALWAYS void fill_beside(struct filling *f, struct turn *turn, size_t i, const enum place place, const unsigned j,
                        const enum turns turns, scales_fn *const scales, weights_fn *const weights, const size_t bytes)
{
    const unsigned steps = steps_of(turns, place), first = (steps * j + 15) / 16;
    const size_t lines = SLAB_ROWS * bytes / 256 + 1;
    UNROLL for (unsigned step = first; step < first + 2; step++) if (step * 16 < steps * (j + 1))
        weights(f->slab, &f->from, i, place, step, turn);
    if (place != EVEN && j == 8 && i == (place == ODD)) scales(f->slab, &f->from);
    UNROLL for (size_t line = lines * j / 16; line < lines * (j + 1) / 16; line++) fetch_l2((const void *)f->fetch, 64 * line);
    if (j == 15) f->fetch += SLAB_ROWS * bytes / 4;
}

/* Part i of 4 of a slab by nc activation rows: `done` takes the sums of each subblock or block of n dwords. */
typedef void done_fn(void *chains, const struct slab_tile *t, size_t at, const __m512i *sum, const unsigned nc);

ALWAYS void slab_part(void *chains, done_fn *const done, const struct slab_tile *t, size_t i, const enum place place,
                      const unsigned nc, const unsigned n, const bool has_min, struct filling *f, const enum turns turns,
                      scales_fn *const scales, weights_fn *const weights, const size_t bytes)
{
    __m512i sum[PACK_COLS];
    struct turn turn;
    UNROLL for (unsigned j = 0; j < 16; j++)
    {
        const size_t at = 16 * i + j;
        if (f) fill_beside(f, &turn, i, place, j, turns, scales, weights, bytes);
        const __m512i w = _mm512_load_si512(t->slab->w[at]);
        UNROLL for (unsigned c = 0; c < nc; c++)
        {
            if (j % n == 0) sum[c] = has_min ? _mm512_setzero_si512() : _mm512_set1_epi32(t->sums[at / n][c]);
            sum[c] = _mm512_dpbusd_epi32(sum[c], w, _mm512_set1_epi32((int)load_u32(t->y + (at * PACK_COLS + c) * 4)));
        }
        HERE(sum[0]);
        if (j % n == n - 1) done(chains, t, at / n, sum, nc);
    }
}
ALWAYS void subblock_done(void *chains, const struct slab_tile *t, size_t at, const __m512i *sum, const unsigned nc)
{
    __m512i *total = chains;
    const __m512i sc = _mm512_load_si512(t->slab->sc[at]);
    UNROLL for (unsigned c = 0; c < nc; c++)
    {
        total[c] = _mm512_add_epi32(total[c], _mm512_mullo_epi32(sum[c], sc));
        HERE(total[c]);
    }
}
ALWAYS void block_done(void *chains, const struct slab_tile *t, size_t at, const __m512i *sum, const unsigned nc)
{
    vec *acc = chains;
    const vec d = v_load(t->slab->d[at]);
    UNROLL for (unsigned c = 0; c < nc; c++)
    {
        acc[c] = v_fma(v_mul(d, v_set1(t->d[c * t->d_row + at])), _mm512_cvtepi32_ps(sum[c]), acc[c]);
        HERE(acc[c]);
    }
}

/* chain = fma(d * dx, total, chain) */
ALWAYS void slab_chains(vec *chain, const float *d, const struct slab_tile *t, const __m512i total[PACK_COLS],
                        const unsigned nc)
{
    UNROLL for (unsigned c = 0; c < nc; c++) chain[c] =
        v_fma(v_mul(v_load(d), v_set1(t->d[c * t->d_row])), _mm512_cvtepi32_ps(total[c]), chain[c]);
}

/* Minima: sums over the subblocks of mn times the sum of q. */
ALWAYS void slab_minima(const struct slab_tile *t, const unsigned nc, const size_t subs)
{
    __m512i total[PACK_COLS];
    UNROLL for (unsigned c = 0; c < nc; c++) total[c] = _mm512_setzero_si512();
    UNROLL for (size_t i = 0; i < subs / 2; i++)
    {
        const __m512i mn = _mm512_load_si512(t->slab->mn[i]);
        UNROLL for (unsigned c = 0; c < nc; c++) total[c] = _mm512_dpwssd_epi32(total[c], mn, _mm512_set1_epi32(t->sums[i][c]));
    }
    slab_chains(t->min, t->slab->m[0], t, total, nc);
}

/* A slab by nc activation rows; f: NULL, or what is filled meanwhile. */
ALWAYS void slab_cols(const struct slab_tile *tile, const unsigned nc, const enum form form, const bool has_min,
                      struct filling *f, const enum turns turns, scales_fn *const scales, weights_fn *const weights,
                      const size_t bytes)
{
    const struct slab_tile own = *tile, *t = &own; /* what others cannot change */
    const unsigned n = form == SUB16 ? 4 : 8;
    done_fn *const done = form == NO_SUBS ? block_done : subblock_done;
    __m512i total[PACK_COLS];
    vec acc[PACK_COLS];
    void *const chains = form == NO_SUBS ? (void *)acc : (void *)total;
    if (has_min) slab_minima(t, nc, 64 / n);
    UNROLL for (unsigned c = 0; c < nc; c++) total[c] = _mm512_setzero_si512(), acc[c] = t->acc[c];
    for (size_t i = 0; i < 4; i += turns == THREE_IN_TWO ? 2 : 1) {
        slab_part(chains, done, t, i, turns == THREE_IN_TWO ? EVEN : ANY_PART, nc, n, has_min, f, turns, scales, weights,
                  bytes);
        if (turns == THREE_IN_TWO) slab_part(chains, done, t, i + 1, ODD, nc, n, has_min, f, turns, scales, weights, bytes);
    }
    if (form == NO_SUBS)
        UNROLL for (unsigned c = 0; c < nc; c++) t->acc[c] = acc[c];
    else
        slab_chains(t->acc, t->slab->d[0], t, total, nc);
}

/* The sums of q of a piece as slabs need them, for each (sub)block: times -off, or, where has_min, pairs of int16. */
ALWAYS void piece_sums(const struct mm *a, size_t m, size_t piece, const enum form form, int32_t v[16])
{
    const size_t n_pieces = a->k / QSUPER;
    const __m512i less = _mm512_set1_epi32(-qtypes[a->type].off);
    if (form == NO_SUBS) {
        const __m128i s = _mm_loadu_si128((const __m128i *)(a->act.s + (m * n_pieces + piece) * 8));
        _mm256_storeu_si256((__m256i *)v, _mm256_mullo_epi32(_mm256_cvtepi16_epi32(s), _mm512_castsi512_si256(less)));
        return;
    }
    const __m512i sums = sums_of(a->act.s + (m * n_pieces + piece) * 16, form == SUB16 ? 16 : 8);
    if (qtypes[a->type].has_min)
        _mm256_storeu_si256((__m256i *)v, _mm512_cvtepi32_epi16(sums));
    else
        _mm512_storeu_si512(v, _mm512_mullo_epi32(sums, less));
}
/* Of all activation rows; n of a piece. */
static void sums_ahead(const struct mm *a, int32_t (*out)[PACK_COLS], const enum form form, size_t n)
{
    const size_t n_pieces = a->k / QSUPER;
    for (size_t m = 0; m < a->n_rows; m++)
        for (size_t piece = 0; piece < n_pieces; piece++) {
            int32_t v[16];
            piece_sums(a, m, piece, form, v);
            for (size_t i = 0; i < n; i++) out[(m / PACK_COLS * n_pieces + piece) * n + i][m % PACK_COLS] = v[i];
        }
}

ALWAYS void fill_next(struct filling *f, const struct mm *a, size_t r, size_t r1, size_t piece, const size_t bytes)
{
    struct few *few = a->scratch;
    f->slab = few->slab + (f->slab == few->slab);
    if (piece == 0) {
        f->from = pieces_at(&(struct rows){a, r, r1 - r}, 0, 0);
        f->fetch = (uintptr_t)a->w + (r + SLAB_ROWS) * a->row_bytes + 2 * SLAB_ROWS * bytes;
    } else {
        UNROLL for (size_t i = 0; i < SLAB_ROWS; i++) f->from.p[i] += bytes;
    }
}

/* Weight rows r0 .. r1 - 1 by all activation rows, of which the first nc are multiplied while the next slab is filled: shuffles
 * run on other units than products. `others` have the rest in groups. */
ALWAYS void few_rows(const struct mm *a, size_t r0, size_t r1, const unsigned nc, slab_fn *const others[PACK_COLS],
                     const enum turns turns, scales_fn *const scales, weights_fn *const weights, const size_t bytes,
                     const enum form form, const bool has_min)
{
    const size_t n_pieces = a->k / QSUPER, subs = form == SUB16 ? 16 : 8, n_sums = has_min ? subs / 2 : subs;
    const size_t n_d = form == NO_SUBS ? 8 : 1; /* scales of a row in a piece */
    struct few *few = a->scratch;
    struct filling f;
    f.slab = few->slab;
    sums_ahead(a, few->sums, form, n_sums);
    fill_next(&f, a, r0, r1, 0, bytes);
    fill_slab(f.slab, &f.from, turns, scales, weights);
    for (size_t r = r0; r < r1; r += SLAB_ROWS) {
        for (size_t m = 0; m < a->n_rows; m++) few->acc[m] = few->min[m] = v_set1(0.0f);
        for (size_t piece = 0; piece < n_pieces; piece++) {
            struct slab_tile t = {.slab = f.slab, .d_row = n_d * n_pieces};
            if (piece + 1 < n_pieces)
                fill_next(&f, a, r, r1, piece + 1, bytes);
            else /* behind the last rows, these once more */
                fill_next(&f, a, r + SLAB_ROWS < r1 ? r + SLAB_ROWS : r, r1, 0, bytes);
            for (size_t m = 0; m < a->n_rows; m += PACK_COLS) {
                t.y = packed_at(a, m, piece * QSUPER);
                t.sums = (const int32_t(*)[PACK_COLS])few->sums + (m / PACK_COLS * n_pieces + piece) * n_sums;
                t.d = a->act.d + (m * n_pieces + piece) * n_d;
                t.acc = few->acc + m;
                t.min = few->min + m;
                if (m == 0)
                    slab_cols(&t, nc, form, has_min, &f, turns, scales, weights, bytes);
                else
                    others[size_min(a->n_rows - m, PACK_COLS) - 1](&t);
            }
        }
        for (size_t m = 0; m < a->n_rows; m++)
            v_store_n(a->dst + m * a->dst_stride + r, has_min ? v_sub(few->acc[m], few->min[m]) : few->acc[m], r1 - r);
    }
}

typedef void few_fn(const struct mm *a, size_t r0, size_t r1);

/* Whether slabs pay, and fit. */
static bool is_few(const struct mm *a)
{
    const size_t groups = (a->n_rows + PACK_COLS - 1) / PACK_COLS;
    return a->n_rows <= FEW_COLS && a->k % QSUPER == 0 && groups * (a->k / QSUB) <= FEW_SUMS;
}

#endif
