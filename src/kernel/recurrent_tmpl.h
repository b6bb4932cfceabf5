/* recurrent_tmpl: kernels of recurrent layers, in the vocabulary of a vec_ header of x86/ or arm/. */
#ifndef QUERN_RECURRENT_TMPL_H
#define QUERN_RECURRENT_TMPL_H

/* Channels that are taken through all rows before the next: their weights and the rows around the present one stay in L1. */
enum { CONV_BLOCK = 512 };

/* n channels, VL or a part of it, of one row, with the inputs in[i] of each tap. */
ALWAYS void conv_vec(const struct conv *a, const float *const in[], const size_t taps, size_t c, const size_t n, float *y)
{
    vec sum = a->bias ? v_load_n(a->bias + c, n) : v_zero();
    for (size_t i = 0; i < taps; i++) sum = v_fma(v_load_n(a->w + i * a->stride + c, n), v_load_n(in[i] + c, n), sum);
    if (a->silu) sum = v_silu(sum);
    v_store_n(y + c, sum, n);
}

/* Channels [from, to) of all rows. */
ALWAYS void conv_rows(const struct conv *a, const size_t taps, size_t from, size_t to)
{
    const size_t past = taps - 1;
    for (size_t t = 0; t < a->n_rows; t++) {
        const float *in[CONV_TAPS_MAX];
        float *y = a->y + t * a->y_stride;
        for (size_t i = 0; i < taps; i++)
            in[i] = t + i < past ? a->before + (t + i) * a->stride : a->x + (t + i - past) * a->x_stride;
        size_t c = from;
        for (; c + VL <= to; c += VL) conv_vec(a, in, taps, c, VL, y);
        if (c < to) conv_vec(a, in, taps, c, to - c, y);
    }
}

static void KERNEL(conv)(const struct conv *a)
{
    for (size_t from = 0; from < a->n; from += CONV_BLOCK) {
        const size_t to = size_min(a->n, from + CONV_BLOCK);
        if (a->taps == 4)
            conv_rows(a, 4, from, to);
        else if (a->taps == 3)
            conv_rows(a, 3, from, to);
        else
            conv_rows(a, a->taps, from, to);
    }
    conv_keep(a);
}

/* ---- the gated delta rule ------------------------------------------------------------------------------------------------ */

enum { DELTA_VECS = DELTA_COLS / VL };

/* What the state holds of a key, and what a query sees in it. */
struct delta_sums {
    vec known[DELTA_VECS], seen[DELTA_VECS];
};

ALWAYS struct delta_sums delta_zero(void)
{
    struct delta_sums s;
    UNROLL for (size_t i = 0; i < DELTA_VECS; i++) s.known[i] = s.seen[i] = v_zero();
    return s;
}

/* Adds vector i of a row of the state. */
ALWAYS void delta_see(struct delta_sums *s, size_t i, vec state, vec k, vec q)
{
    s->known[i] = v_fma(state, k, s->known[i]);
    s->seen[i] = v_fma(state, q, s->seen[i]);
}

ALWAYS float delta_dot(const float *k, const float *q, size_t n)
{
    vec lane[PARTS];
    UNROLL for (size_t h = 0; h < PARTS; h++) lane[h] = v_zero();
    for (size_t i = 0; i < n; i += 16) UNROLL for (size_t h = 0; h < PARTS; h++)
        {
            const size_t at = i + h * VL;
            const vec x = at < n ? v_load_n(k + at, n - at) : v_zero(), y = at < n ? v_load_n(q + at, n - at) : v_zero();
            lane[h] = v_fma(x, y, lane[h]);
        }
    return v_fold(lane);
}

/* The output of row t, and what is new in its values: news [DELTA_VECS]. */
ALWAYS void delta_out(const struct delta *a, size_t t, const struct delta_sums *s, vec news[DELTA_VECS])
{
    const float decay = a->decay[t * a->gate_stride];
    const vec kq = v_set1(delta_dot(a->k + t * a->qk_stride, a->q + t * a->qk_stride, a->k_dim));
    UNROLL for (size_t i = 0; i < DELTA_VECS; i++)
    {
        const size_t c = i * VL, left = c < a->v_dim ? a->v_dim - c : 0;
        const vec v = left ? v_load_n(a->v + t * a->v_stride + c, left) : v_zero();
        news[i] = v_mul(v_fma(v_set1(-decay), s->known[i], v), v_set1(a->beta[t * a->gate_stride]));
        if (left) v_store_n(a->o + t * a->o_stride + c, v_fma(news[i], kq, v_mul(v_set1(decay), s->seen[i])), left);
    }
}

/* The pass that brings the state up to row t sums for row t + 1. The sums of all columns are chains side by side, which cover
 * the latency of a multiply-add. */
static void KERNEL(delta)(const struct delta *a)
{
    struct delta_sums s = delta_zero();
    const float *from = a->before;
    float *to = a->after;
    for (size_t d = 0; d < a->k_dim; d++) {
        const vec k = v_set1(a->k[d]), q = v_set1(a->q[d]);
        UNROLL for (size_t i = 0; i < DELTA_VECS; i++) delta_see(&s, i, v_load(from + d * DELTA_COLS + i * VL), k, q);
    }
    for (size_t t = 0; t < a->n_rows; t++, from = to) {
        vec news[DELTA_VECS];
        delta_out(a, t, &s, news);
        s = delta_zero();
        /* Behind the last row, sums that nobody reads. */
        const float *k = a->k + t * a->qk_stride, *k_next = t + 1 < a->n_rows ? k + a->qk_stride : k;
        const float *q_next = a->q + (size_t)(k_next - a->k);
        const vec decay = v_set1(a->decay[t * a->gate_stride]);
        for (size_t d = 0; d < a->k_dim; d++) {
            const vec now = v_set1(k[d]), key = v_set1(k_next[d]), query = v_set1(q_next[d]);
            UNROLL for (size_t i = 0; i < DELTA_VECS; i++)
            {
                const size_t at = d * DELTA_COLS + i * VL;
                const vec state = v_fma(now, news[i], v_mul(v_load(from + at), decay));
                v_store(to + at, state);
                delta_see(&s, i, state, key, query);
            }
        }
    }
}

void KERNEL(recurrent_init)(struct kernels *k)
{
    k->conv = KERNEL(conv);
    k->delta = KERNEL(delta);
}

#endif
