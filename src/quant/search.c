/* search: the quantisers. A block has levels (integers, or a table of 16) and scales; they are chosen such that the weighted
 * sum of squared errors is small. Given scale and minimum, each weight goes to its nearest level; given the levels, the best
 * scale and minimum are a least-squares fit in closed form. From a row of trial scales this alternation finds the best or
 * nearly so.
 *
 * Types of 256 have two stages: each subblock is fitted by itself, then its scale and minimum become integers. These are again
 * levels times a scale and found by the same search, each weighted by what an error of it costs; then, in turn, the integers of
 * each subblock are chosen anew with the weights assigned by the scales as they will be read, and the block's two floats are
 * fitted to all 256 weights.
 *
 * Results are the same on every machine: no libm beyond the exactly rounded sqrtf, sums in a fixed order (lanes, then a fold).
 * A row is a caller's finite floats, but no other can do harm: a block with a NaN or with weights beyond LARGE reads back as
 * NaN, and in between TINY and LARGE no sum overflows. */
#include "quant/quant_int.h"

#include <math.h>

enum {
    LANES = 4,    /* of sums; divides every count here */
    SUB_MAX = 32, /* weights that share a scale, and scales of a block */
    SUBS_MAX = QSUPER / QSUB,
    ROUNDS = 2, /* of choosing integers and fitting the block's floats */
};

#define TINY 0x1p-25f /* half of the smallest half: a block below it is zero */
#define LARGE 0x1p28f /* no type has half scales for more */

/* Up to SUB_MAX numbers and the weights of their errors. */
struct weighed {
    const float *x, *w;
    size_t n;
};

/* Sums over numbers that were assigned the levels q. */
struct sums {
    float wq, wqq, wxq;
};

/* x ~ scale * q + min */
struct line {
    float scale, min;
    float err; /* the weighted sum of squared errors, less that of x ~ 0 */
};

/* A subblock of 256 weights under way. */
struct sub {
    struct weighed span;
    float w, wx;          /* sums */
    float q[SUB_MAX];     /* levels */
    float sc, mn;         /* integers */
    struct sums assigned; /* for q */
};

/* ---- sums ------------------------------------------------------------------------------------------------ */

/* Four floats at a time: the compilers' own vectors, with the same operations on every machine. */
typedef float vec __attribute__((vector_size(16)));
typedef int32_t mask __attribute__((vector_size(16)));

static vec load(const float *p)
{
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

static vec all(float f)
{
    return (vec){f, f, f, f};
}

static float fold(vec v)
{
    return (v[0] + v[2]) + (v[1] + v[3]);
}

static float sum(const float *a, size_t n)
{
    vec s = all(0.0f);
    for (size_t i = 0; i < n; i += LANES) s += load(a + i);
    return fold(s);
}

static float dot(const float *a, const float *b, size_t n)
{
    vec s = all(0.0f);
    for (size_t i = 0; i < n; i += LANES) s += load(a + i) * load(b + i);
    return fold(s);
}

static struct sums sums_of(const struct weighed *s, const float *q)
{
    vec wq = all(0.0f), wqq = all(0.0f), wxq = all(0.0f);
    for (size_t i = 0; i < s->n; i += LANES) {
        vec qi = load(q + i), t = load(s->w + i) * qi;
        wq += t;
        wqq += t * qi;
        wxq += t * load(s->x + i);
    }
    return (struct sums){fold(wq), fold(wqq), fold(wxq)};
}

static float error_of(const struct weighed *s, const float *q, float scale, float min)
{
    vec err = all(0.0f);
    for (size_t i = 0; i < s->n; i += LANES) {
        vec e = load(s->x + i) - (all(scale) * load(q + i) + all(min));
        err += load(s->w + i) * (e * e);
    }
    return fold(err);
}

/* ---- levels ---------------------------------------------------------------------------------------------- */

static vec pick(mask where, vec a, vec b)
{
    return (vec)((where & (mask)a) | (~where & (mask)b));
}

/* v in lo..hi to the nearest integer, ties to even; NaN is lo. */
static vec to_levels(vec v, vec lo, vec hi)
{
    const vec magic = all(0x1.8p23f); /* floats have no fraction from here on */
    v = pick(v > lo, v, lo);
    v = pick(v < hi, v, hi);
    return (v + magic) - magic;
}

static float to_level(float v, float lo, float hi)
{
    return to_levels(all(v), all(lo), all(hi))[0];
}

/* q[i] = the level of the table nearest to (x[i] - min) * inverse, the lower one at a tie: one step up for each middle of two
 * levels that it exceeds. */
static void assign_table(const int8_t levels[16], const float *x, size_t n, vec min, vec inverse, float *q)
{
    vec step[15], middle[15];
    for (size_t k = 0; k < 15; k++) {
        step[k] = all((float)(levels[k + 1] - levels[k]));
        middle[k] = all(0.5f * (float)(levels[k + 1] + levels[k]));
    }
    for (size_t i = 0; i < n; i += LANES) {
        vec v = (load(x + i) - min) * inverse, at = all((float)levels[0]);
        for (size_t k = 0; k < 15; k++) at += (vec)((v > middle[k]) & (mask)step[k]);
        memcpy(q + i, &at, sizeof at);
    }
}

/* q[i] = the level nearest to (x[i] - min) / scale. */
static void assign(const struct qfit *f, const float *x, size_t n, float scale, float min, float *q)
{
    const vec inverse = all(fabsf(scale) > 0x1p-60f ? 1.0f / scale : 0.0f);
    const vec lo = all((float)f->lo), hi = all((float)f->hi);
    if (f->levels) {
        assign_table(f->levels, x, n, all(min), inverse, q);
        return;
    }
    for (size_t i = 0; i < n; i += LANES) {
        vec v = to_levels((load(x + i) - all(min)) * inverse, lo, hi);
        memcpy(q + i, &v, sizeof v);
    }
}

/* What the file holds for levels q: q + off for integers, the place in a table. */
static void to_index(const struct qfit *f, const float *q, size_t n, uint8_t *u)
{
    for (size_t i = 0; i < n; i++) {
        int level = (int)q[i];
        size_t place = 0;
        while (f->levels && f->levels[place] < level) place++;
        u[i] = (uint8_t)(f->levels ? (int)place : level - f->lo);
    }
}

/* ---- a scale, or a scale and a minimum --------------------------------------------------------------------- */

static void keep_better(struct line *best, struct line l)
{
    if (l.err < best->err) *best = l;
}

/* The best scale for the levels that `scale` assigns. */
static struct line refit_scale(const struct qfit *f, const struct weighed *s, float scale)
{
    float q[SUB_MAX];
    assign(f, s->x, s->n, scale, 0.0f, q);
    struct sums a = sums_of(s, q);
    if (!(a.wqq > 0.0f)) return (struct line){0};
    return (struct line){.scale = a.wxq / a.wqq, .err = -a.wxq * (a.wxq / a.wqq)};
}

/* x ~ scale * q. The trials put the x of the largest magnitude on or about each outermost level. */
static struct line fit_scale(const struct qfit *f, const struct weighed *s)
{
    enum { TRIALS = 8 };
    struct line best = {0};
    float at = 0.0f;
    for (size_t i = 0; i < s->n; i++)
        if (fabsf(s->x[i]) > fabsf(at)) at = s->x[i];
    const int ends[2] = {f->lo, f->hi};
    for (size_t e = 0; e < COUNT_OF(ends) && at != 0.0f; e++) {
        if (ends[e] == 0) continue;
        for (int t = -TRIALS; t <= TRIALS; t++)
            keep_better(&best, refit_scale(f, s, at / ((float)ends[e] * (1.0f + 0.03f * (float)t))));
    }
    for (int i = 0; i < 3; i++) keep_better(&best, refit_scale(f, s, best.scale));
    return best;
}

/* The best scale and minimum for the levels that `scale` and `min` assign. A minimum above 0 only where the type has it. */
static struct line refit_line(const struct qfit *f, const struct weighed *s, float w, float wx, float scale, float min)
{
    float q[SUB_MAX];
    assign(f, s->x, s->n, scale, min, q);
    struct sums a = sums_of(s, q);
    float det = w * a.wqq - a.wq * a.wq;
    struct line l = {0};
    if (det > 0.0f) l = (struct line){.scale = (w * a.wxq - a.wq * wx) / det, .min = (a.wqq * wx - a.wq * a.wxq) / det};
    if (!(det > 0.0f) || (l.min > 0.0f && !f->min_any)) l = (struct line){.scale = a.wqq > 0.0f ? a.wxq / a.wqq : 0.0f};
    if (!(l.scale >= 0.0f)) return (struct line){0};
    l.err = -(l.scale * a.wxq + l.min * wx);
    return l;
}

/* x ~ scale * q + min. The trials put the outermost levels on the least and the largest x or about them. */
static struct line fit_line(const struct qfit *f, const struct weighed *s)
{
    enum { TRIALS = 5 }; /* for each end */
    const float w = sum(s->w, s->n), wx = dot(s->w, s->x, s->n);
    float lo = s->x[0], hi = s->x[0];
    for (size_t i = 0; i < s->n; i++) {
        lo = s->x[i] < lo ? s->x[i] : lo;
        hi = s->x[i] > hi ? s->x[i] : hi;
    }
    struct line best = {0};
    if (w > 0.0f && (f->min_any || wx < 0.0f)) best = (struct line){.min = wx / w, .err = -wx * (wx / w)};
    if (!f->min_any && lo > 0.0f) lo = 0.0f;
    const float step = (hi - lo) * (0.02f + 0.1f / (float)f->hi);
    for (int t = 0; t < TRIALS * TRIALS && hi > lo; t++) {
        float first = lo + step * (float)(t % TRIALS - 1), last = hi - step * (float)(t / TRIALS - 1);
        keep_better(&best, refit_line(f, s, w, wx, (last - first) / (float)f->hi, first));
    }
    for (int i = 0; i < 3; i++) keep_better(&best, refit_line(f, s, w, wx, best.scale, best.min));
    return best;
}

static struct line fit(const struct qfit *f, const struct weighed *s)
{
    return qtypes[f->type].has_min ? fit_line(f, s) : fit_scale(f, s);
}

/* ---- blocks of 256 ------------------------------------------------------------------------------------------ */

static float to_half(float v)
{
    return f16_to_f32(f32_to_f16(v));
}

/* First integers for the scales and minima of the subblocks' own fits. What an error of them costs are the sums w q q and w. */
static void first_integers(const struct qfit *f, struct sub *subs, const struct line *lines, size_t n, struct qblock *b)
{
    const struct qfit scales = {.type = f->type, .lo = f->sc_lo, .hi = f->sc_hi}, minima = {.type = f->type, .hi = f->sc_hi};
    float x[SUBS_MAX], w[SUBS_MAX], q[SUBS_MAX];
    const struct weighed span = {x, w, n};
    for (size_t i = 0; i < n; i++) {
        x[i] = lines[i].scale;
        w[i] = subs[i].assigned.wqq;
    }
    b->d = to_half(fit_scale(&scales, &span).scale);
    assign(&scales, x, n, b->d, 0.0f, q);
    for (size_t i = 0; i < n; i++) {
        subs[i].sc = q[i];
        x[i] = -lines[i].min;
        w[i] = subs[i].w;
    }
    b->m = to_half(fit_scale(&minima, &span).scale);
    assign(&minima, x, n, b->m, 0.0f, q);
    for (size_t i = 0; i < n; i++) subs[i].mn = q[i];
}

/* The best sc and mn, of those next to the present ones, for the block's d and m. */
static void choose_integers(const struct qfit *f, struct sub *s, float d, float m)
{
    const float sc = s->sc, lo = (float)f->sc_lo, hi = (float)f->sc_hi, inverse = m != 0.0f ? 1.0f / m : 0.0f;
    float best = INFINITY, q[SUB_MAX];
    float mn = s->mn;
    for (float t = to_level(sc - 1.0f, lo, hi); t <= sc + 1.0f && t <= hi; t += 1.0f) {
        assign(f, s->span.x, s->span.n, d * t, -m * mn, q);
        float new_mn = mn;
        if (m != 0.0f) {
            new_mn = to_level((d * t * dot(s->span.w, q, s->span.n) - s->wx) / s->w * inverse, 0.0f, hi);
            assign(f, s->span.x, s->span.n, d * t, -m * new_mn, q);
        }
        float err = error_of(&s->span, q, d * t, -m * new_mn);
        if (!(err < best)) continue;
        best = err;
        s->sc = t;
        s->mn = new_mn;
        memcpy(s->q, q, sizeof q);
    }
    s->assigned = sums_of(&s->span, s->q);
}

/* The least-squares d and m for all levels and integers of the block. */
static void fit_floats(const struct qfit *f, const struct sub *subs, size_t n, struct qblock *b)
{
    float dd = 0.0f, dm = 0.0f, mm = 0.0f, xd = 0.0f, xm = 0.0f;
    for (size_t i = 0; i < n; i++) {
        const struct sub *s = &subs[i];
        dd += s->sc * s->sc * s->assigned.wqq;
        xd += s->sc * s->assigned.wxq;
        dm -= s->sc * s->mn * s->assigned.wq;
        mm += s->mn * s->mn * s->w;
        xm -= s->mn * s->wx;
    }
    float det = dd * mm - dm * dm;
    if (!(dd > 0.0f)) return;
    b->d = to_half(qtypes[f->type].has_min && det > 0.0f ? (xd * mm - xm * dm) / det : xd / dd);
    if (det > 0.0f) b->m = to_half((xm * dd - xd * dm) / det);
}

static void fit_256(const struct qfit *f, const float *x, const float *w, struct qblock *b)
{
    const size_t n = QSUPER / f->sub, same = f->sub / QSUB;
    struct sub subs[SUBS_MAX];
    struct line lines[SUBS_MAX];
    for (size_t i = 0; i < n; i++) {
        struct sub *s = &subs[i];
        s->span = (struct weighed){x + i * f->sub, w + i * f->sub, f->sub};
        s->w = sum(s->span.w, f->sub);
        s->wx = dot(s->span.w, s->span.x, f->sub);
        lines[i] = fit(f, &s->span);
        assign(f, s->span.x, f->sub, lines[i].scale, lines[i].min, s->q);
        s->assigned = sums_of(&s->span, s->q);
    }
    first_integers(f, subs, lines, n, b);
    for (int r = 0;; r++) {
        for (size_t i = 0; i < n; i++) choose_integers(f, &subs[i], b->d, b->m);
        if (r == ROUNDS) break;
        fit_floats(f, subs, n, b);
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < same; k++) {
            b->sc[i * same + k] = (int16_t)subs[i].sc;
            b->mn[i * same + k] = (int16_t)subs[i].mn;
        }
        to_index(f, subs[i].q, f->sub, b->u + i * f->sub);
    }
}

/* ---- rows ------------------------------------------------------------------------------------------------- */

static void fit_32(const struct qfit *f, const float *x, const float *w, struct qblock *b)
{
    float q[SUB_MAX];
    struct line l = fit(f, &(struct weighed){x, w, f->sub});
    b->d = to_half(l.scale);
    b->m = to_half(l.min);
    assign(f, x, f->sub, b->d, b->m, q);
    to_index(f, q, f->sub, b->u);
}

/* A large weight of the model matters more than its share of the squared error tells, and less than in proportion to its
 * square: sqrt(mean + x^2) gave the lowest divergence of the demo model's predictions, with and without importance. A column
 * of which the sample that importance comes from saw nothing still counts a little. */
void quant_weights(const float *x, const float *importance, size_t n, float *w)
{
    float squares = dot(x, x, n) / (float)n;
    float whole = importance ? sum(importance, n) : 0.0f;
    bool known = whole > 0x1p-100f && whole < 0x1p100f;
    for (size_t i = 0; i < n; i++) {
        w[i] = sqrtf(squares + x[i] * x[i]);
        if (known) w[i] *= importance[i] / whole * (float)n + 0x1p-8f;
    }
}

float quant_nearest(const struct qfit *f, const float *x, const float *w, size_t n, float d, uint8_t *u)
{
    float q[SUB_MAX];
    assign(f, x, n, d, 0.0f, q);
    to_index(f, q, n, u);
    return error_of(&(struct weighed){x, w, n}, q, d, 0.0f);
}

/* The largest magnitude; NaN where one is NaN. */
static float largest(const float *x, size_t n)
{
    float max = 0.0f;
    for (size_t i = 0; i < n && max == max; i++)
        if (!(fabsf(x[i]) <= max)) max = fabsf(x[i]);
    return max;
}

void quant_search(const struct qfit *f, const float *src, const struct qcolumns *c, void *dst, size_t n)
{
    const struct qtype_info *t = &qtypes[f->type];
    const float zeros[QSUPER] = {0};
    float carried = 0.0f;
    uint8_t *p = dst;
    for (size_t i = 0; i < n; i += t->block_n, p += t->block_bytes) {
        struct qblock b = {0};
        to_index(f, zeros, t->block_n, b.u);
        float w[QSUPER], max = largest(src + i, t->block_n);
        if (max >= TINY && max <= LARGE) {
            const struct qcolumns at = qcolumns_from(c, i);
            quant_weights(src + i, at.squares, t->block_n, w);
            (t->arith == ARITH_32 ? fit_32 : fit_256)(f, src + i, w, &b);
            if (at.means) quant_balance(f, src + i, &at, &b, &carried);
        } else if (!(max < TINY)) {
            b.d = NAN;
        }
        f->pack(&b, p);
    }
}
