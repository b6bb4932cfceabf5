/* recurrent_neon: kernels of recurrent layers. */
#include "kernel/arm/vec_neon.h"

/* Channels that are taken through all rows before the next: their weights and the rows around the present one stay in L1. */
enum { CONV_BLOCK = 512 };

/* Channels [from, to) of one row, with the inputs in[i] of each tap. */
static inline void conv_row(const struct conv *a, const float *const in[CONV_TAPS_MAX], size_t from, size_t to, float *y)
{
    size_t c = from;
    for (; c + 4 <= to; c += 4) {
        float32x4_t sum = a->bias ? vld1q_f32(a->bias + c) : vdupq_n_f32(0.0f);
        for (size_t i = 0; i < a->taps; i++) sum = vfmaq_f32(sum, vld1q_f32(a->w + i * a->stride + c), vld1q_f32(in[i] + c));
        vst1q_f32(y + c, a->silu ? v_silu(sum) : sum);
    }
    if (c == to) return;
    const size_t left = to - c;
    float32x4_t sum = a->bias ? load_part(a->bias + c, left) : vdupq_n_f32(0.0f);
    for (size_t i = 0; i < a->taps; i++)
        sum = vfmaq_f32(sum, load_part(a->w + i * a->stride + c, left), load_part(in[i] + c, left));
    store_part(y + c, a->silu ? v_silu(sum) : sum, left);
}

static void conv_neon(const struct conv *a)
{
    const size_t past = a->taps - 1;
    for (size_t from = 0; from < a->n; from += CONV_BLOCK)
        for (size_t t = 0; t < a->n_rows; t++) {
            const float *in[CONV_TAPS_MAX];
            for (size_t i = 0; i < a->taps; i++)
                in[i] = t + i < past ? a->before + (t + i) * a->stride : a->x + (t + i - past) * a->x_stride;
            conv_row(a, in, from, size_min(a->n, from + CONV_BLOCK), a->y + t * a->y_stride);
        }
    conv_keep(a);
}

/* ---- the gated delta rule ------------------------------------------------------------------------------------------------ */

/* Columns that go through the state together: the chains of their sums cover the latency of a multiply-add. */
enum { DELTA_VECS = 4, DELTA_STEP = DELTA_VECS * 4 };

/* What the state holds of a key, and what a query sees in it. */
struct delta_sums {
    float32x4_t known[DELTA_VECS], seen[DELTA_VECS];
};

TILE_INLINE struct delta_sums delta_zero(void)
{
    struct delta_sums s;
    UNROLL for (size_t i = 0; i < DELTA_VECS; i++) s.known[i] = s.seen[i] = vdupq_n_f32(0.0f);
    return s;
}

/* Adds vector i of a row of the state. */
TILE_INLINE void delta_see(struct delta_sums *s, size_t i, float32x4_t state, float k, float q)
{
    s->known[i] = vfmaq_n_f32(s->known[i], state, k);
    s->seen[i] = vfmaq_n_f32(s->seen[i], state, q);
}

static float delta_dot(const float *k, const float *q, size_t n)
{
    struct lanes a = {{vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)}};
    for (; n >= LANES; n -= LANES, k += LANES, q += LANES)
        for (size_t v = 0; v < 4; v++) a.v[v] = vfmaq_f32(a.v[v], vld1q_f32(k + 4 * v), vld1q_f32(q + 4 * v));
    if (n == 0) return lanes_fold(a);
    float rest[2][LANES] = {{0}};
    memcpy(rest[0], k, n * sizeof *k);
    memcpy(rest[1], q, n * sizeof *q);
    for (size_t v = 0; v < 4; v++) a.v[v] = vfmaq_f32(a.v[v], vld1q_f32(rest[0] + 4 * v), vld1q_f32(rest[1] + 4 * v));
    return lanes_fold(a);
}

/* Four elements of a value, the ones from v_dim on +0. */
static inline float32x4_t delta_value(const struct delta *a, size_t t, size_t c)
{
    const float *v = a->v + t * a->v_stride + c;
    return c + 4 <= a->v_dim ? vld1q_f32(v) : c < a->v_dim ? load_part(v, a->v_dim - c) : vdupq_n_f32(0.0f);
}

/* The output of row t, and what is new in its values: news [DELTA_VECS]. */
TILE_INLINE void delta_out(const struct delta *a, size_t t, size_t col, const struct delta_sums *s,
                           float32x4_t news[DELTA_VECS])
{
    const float decay = a->decay[t * a->gate_stride], beta = a->beta[t * a->gate_stride];
    const float kq = delta_dot(a->k + t * a->qk_stride, a->q + t * a->qk_stride, a->k_dim);
    UNROLL for (size_t i = 0; i < DELTA_VECS; i++)
    {
        const size_t c = col + 4 * i;
        news[i] = vmulq_n_f32(vfmaq_n_f32(delta_value(a, t, c), s->known[i], -decay), beta);
        const float32x4_t o = vfmaq_n_f32(vmulq_n_f32(s->seen[i], decay), news[i], kq);
        if (c + 4 <= a->v_dim)
            vst1q_f32(a->o + t * a->o_stride + c, o);
        else if (c < a->v_dim)
            store_part(a->o + t * a->o_stride + c, o, a->v_dim - c);
    }
}

/* Columns [col, col + DELTA_STEP) of all rows. The pass that brings the state up to row t sums for row t + 1. */
static void delta_cols(const struct delta *a, size_t col)
{
    struct delta_sums s = delta_zero();
    const float *from = a->before + col;
    float *to = a->after + col;
    for (size_t d = 0; d < a->k_dim; d++)
        UNROLL for (size_t i = 0; i < DELTA_VECS; i++)
            delta_see(&s, i, vld1q_f32(from + d * DELTA_COLS + 4 * i), a->k[d], a->q[d]);
    for (size_t t = 0; t < a->n_rows; t++, from = to) {
        float32x4_t news[DELTA_VECS];
        delta_out(a, t, col, &s, news);
        s = delta_zero();
        const float *k = a->k + t * a->qk_stride, *q = a->q + t * a->qk_stride;
        const size_t next = t + 1 < a->n_rows ? a->qk_stride : 0; /* behind the last row, sums that nobody reads */
        const float decay = a->decay[t * a->gate_stride];
        for (size_t d = 0; d < a->k_dim; d++) UNROLL for (size_t i = 0; i < DELTA_VECS; i++)
            {
                const size_t at = d * DELTA_COLS + 4 * i;
                const float32x4_t state = vfmaq_n_f32(vmulq_n_f32(vld1q_f32(from + at), decay), news[i], k[d]);
                vst1q_f32(to + at, state);
                delta_see(&s, i, state, k[next + d], q[next + d]);
            }
    }
}

static void delta_neon(const struct delta *a)
{
    for (size_t col = 0; col < DELTA_COLS; col += DELTA_STEP) delta_cols(a, col);
}

void recurrent_init_neon(struct kernels *k)
{
    k->conv = conv_neon;
    k->delta = delta_neon;
}
