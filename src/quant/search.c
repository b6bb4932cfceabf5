/* search: scales for blocks of weights, found by trying. A quantiser for q levels has to choose scales such that the weighted
 * squared error is least; given the levels that the weights go to, the best scale is a least-squares fit in closed form, and
 * given the scale, each weight goes to its nearest level. From a row of trial scales this alternation finds the best or nearly
 * so.
 *
 * Results are the same on every machine: float arithmetic without libm, sums in a fixed order (eight lanes, then folded). */
#include "quant/quant_int.h"

#include <math.h>

enum { LANES = 8, SUB_MAX = 32 };

/* A weight below a half of the smallest half is zero. Above HUGE, or NaN, no type has a finite scale. In between no sum
 * overflows or vanishes. */
#define TINY 0x1p-25f
#define LARGE 0x1p30f

/* x ~ scale * q + min for the weights of one subblock. */
struct line {
    float scale, min;
    float err;     /* weighted sum of squared errors, less that of all zeros */
    float wq, wqq; /* sums over the weights w of w q and w q q */
};

static float fold(const float s[LANES])
{
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

static float dot(const float *a, const float *b, size_t n)
{
    float s[LANES] = {0};
    for (size_t i = 0; i < n; i += LANES)
        for (size_t l = 0; l < LANES; l++) s[l] += a[i + l] * b[i + l];
    return fold(s);
}

static float dot_square(const float *w, const float *q, size_t n)
{
    float s[LANES] = {0};
    for (size_t i = 0; i < n; i += LANES)
        for (size_t l = 0; l < LANES; l++) s[l] += w[i + l] * (q[i + l] * q[i + l]);
    return fold(s);
}

static float total(const float *w, size_t n)
{
    float s[LANES] = {0};
    for (size_t i = 0; i < n; i += LANES)
        for (size_t l = 0; l < LANES; l++) s[l] += w[i + l];
    return fold(s);
}

/* The largest magnitude, its sign kept in *x_max; NaN if there is one. */
static float largest(const float *x, size_t n, float *x_max)
{
    float max = 0.0f, at = 0.0f;
    for (size_t i = 0; i < n; i++) {
        float a = fabsf(x[i]);
        if (a > max) max = a, at = x[i];
        if (!(a <= LARGE)) return NAN;
    }
    *x_max = at;
    return max;
}

/* ---- levels --------------------------------------------------------------------------------------------- */

static size_t nearest_in(const int8_t levels[16], float v)
{
    size_t i = 0;
    float twice = 2.0f * v;
    for (size_t step = 8; step; step /= 2)
        if (twice > (float)(levels[i + step - 1] + levels[i + step])) i += step;
    return i;
}

/* q[i] = the level nearest to (x[i] - min) * inverse, ties of integers to even. */
static void assign(const struct qfit *f, const float *x, float min, float inverse, size_t n, float *q)
{
    const float lo = (float)f->lo, hi = (float)f->hi, magic = 0x1.8p23f;
    if (f->levels) {
        for (size_t i = 0; i < n; i++) q[i] = f->levels[nearest_in(f->levels, (x[i] - min) * inverse)];
        return;
    }
    for (size_t i = 0; i < n; i += LANES)
        for (size_t l = 0; l < LANES; l++) {
            float v = (x[i + l] - min) * inverse;
            v = v > lo ? v : lo; /* NaN becomes lo */
            v = v < hi ? v : hi;
            q[i + l] = (v + magic) - magic;
        }
}

static float inverse_of(float scale)
{
    return fabsf(scale) > 0x1p-60f ? 1.0f / scale : 0.0f;
}

static float error_of(const float *x, const float *w, const float *q, float scale, float min, size_t n)
{
    float s[LANES] = {0};
    for (size_t i = 0; i < n; i += LANES)
        for (size_t l = 0; l < LANES; l++) {
            float e = x[i + l] - (scale * q[i + l] + min);
            s[l] += w[i + l] * (e * e);
        }
    return fold(s);
}

/* ---- one scale ------------------------------------------------------------------------------------------ */

/* The least-squares scale for the levels that trial `inverse` gives. */
static struct line refit(const struct qfit *f, const float *x, const float *w, const float *wx, size_t n, float inverse)
{
    float q[SUB_MAX];
    assign(f, x, 0.0f, inverse, n, q);
    float wxq = dot(wx, q, n), wqq = dot_square(w, q, n);
    if (!(wqq > 0.0f)) return (struct line){0};
    return (struct line){.scale = wxq / wqq, .err = -wxq * (wxq / wqq), .wq = dot(w, q, n), .wqq = wqq};
}

static void keep_better(struct line *best, struct line l)
{
    if (l.err < best->err) *best = l;
}

/* x ~ scale * q. The trials put the largest x on or near the two outermost levels. */
static struct line fit_scale(const struct qfit *f, const float *x, const float *w, size_t n)
{
    struct line best = {0};
    float x_max, wx[SUB_MAX];
    if (largest(x, n, &x_max) == 0.0f) return best;
    for (size_t i = 0; i < n; i++) wx[i] = w[i] * x[i];
    const int ends[2] = {f->lo, f->hi};
    for (size_t e = 0; e < 2; e++) {
        if (ends[e] == 0) continue;
        for (int t = -10; t <= 10; t++) {
            float inverse = (float)ends[e] * (1.0f + 0.025f * (float)t) / x_max;
            struct line l = refit(f, x, w, wx, n, inverse);
            keep_better(&best, l);
        }
    }
    for (int i = 0; i < 3; i++) keep_better(&best, refit(f, x, w, wx, n, inverse_of(best.scale)));
    return best;
}

/* ---- scale and minimum ---------------------------------------------------------------------------------- */

/* Constants of a subblock in fits of a scale and a minimum. */
struct moments {
    float w, wx;  /* sums */
    bool min_any; /* the minimum may be positive */
};

/* The least-squares line for the levels that the line `from` gives. */
static struct line refit_line(const struct qfit *f, const float *x, const float *w, const float *wx, size_t n,
                              const struct moments *k, float scale, float min)
{
    float q[SUB_MAX];
    assign(f, x, min, inverse_of(scale), n, q);
    float wq = dot(w, q, n), wqq = dot_square(w, q, n), wxq = dot(wx, q, n);
    float det = k->w * wqq - wq * wq;
    struct line l = {.wq = wq, .wqq = wqq};
    if (det > 0.0f) {
        l.scale = (k->w * wxq - wq * k->wx) / det;
        l.min = (wqq * k->wx - wq * wxq) / det;
    }
    if (!(det > 0.0f) || (l.min > 0.0f && !k->min_any)) {
        l.min = 0.0f;
        l.scale = wqq > 0.0f ? wxq / wqq : 0.0f;
    }
    if (l.scale < 0.0f) return (struct line){0};
    l.err = -(l.scale * wxq + l.min * k->wx);
    return l;
}

static struct line fit_line(const struct qfit *f, const float *x, const float *w, size_t n, bool min_any)
{
    float wx[SUB_MAX], lo = x[0], hi = x[0];
    for (size_t i = 0; i < n; i++) {
        wx[i] = w[i] * x[i];
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
    }
    struct moments k = {.w = total(w, n), .wx = total(wx, n), .min_any = min_any};
    if (!min_any && lo > 0.0f) lo = 0.0f;
    struct line best = {0};
    if (min_any && k.w > 0.0f) best = (struct line){.min = k.wx / k.w, .err = -k.wx * (k.wx / k.w)};
    if (!(hi > lo)) return best;
    for (int t = -8; t <= 12; t++) {
        struct line l = refit_line(f, x, w, wx, n, &k, (hi - lo) / ((float)f->hi + 0.1f * (float)t), lo);
        keep_better(&best, l);
        keep_better(&best, refit_line(f, x, w, wx, n, &k, l.scale, l.min));
    }
    for (int i = 0; i < 3; i++) keep_better(&best, refit_line(f, x, w, wx, n, &k, best.scale, best.min));
    return best;
}

static struct line fit_sub(const struct qfit *f, const float *x, const float *w, size_t n, bool min_any)
{
    return qtypes[f->type].has_min ? fit_line(f, x, w, n, min_any) : fit_scale(f, x, w, n);
}

/* ---- blocks --------------------------------------------------------------------------------------------- */

void quant_weights(const float *x, const float *importance, size_t n, float *w)
{
    float sum = 0.0f, squares = 0.0f;
    for (size_t i = 0; i < n; i++) squares += x[i] * x[i];
    float mean = squares / (float)n;
    for (size_t i = 0; importance && i < n; i++) sum += importance[i];
    bool known = importance && sum > 0x1p-60f && sum < 0x1p60f;
    for (size_t i = 0; i < n; i++)
        w[i] = known ? importance[i] * ((float)n / sum) * sqrtf(mean + x[i] * x[i]) : mean + x[i] * x[i];
}

static float to_half(float v)
{
    return f16_to_f32(f32_to_f16(v));
}

static void levels_to_index(const struct qfit *f, const float *q, size_t n, uint8_t *u)
{
    for (size_t i = 0; i < n; i++) u[i] = f->levels ? (uint8_t)nearest_in(f->levels, q[i]) : (uint8_t)((int)q[i] - f->lo);
}

float quant_nearest(const struct qfit *f, const float *x, const float *w, size_t n, float d, uint8_t *u)
{
    float q[SUB_MAX];
    assign(f, x, 0.0f, inverse_of(d), n, q);
    levels_to_index(f, q, n, u);
    return error_of(x, w, q, d, 0.0f, n);
}

static void place(const struct qfit *f, const float *x, float scale, float min, size_t n, uint8_t *u)
{
    float q[SUB_MAX];
    assign(f, x, min, inverse_of(scale), n, q);
    levels_to_index(f, q, n, u);
}

static void fit_32(const struct qfit *f, const float *x, const float *w, struct qblock *out)
{
    struct line l = fit_sub(f, x, w, 32, true);
    out->d = to_half(l.scale);
    out->m = to_half(l.min);
    place(f, x, out->d, out->m, 32, out->u);
}

/* d, m and integers sc, mn for scales and minima of n subblocks */
static void fit_256(const struct qfit *f, const float *x, const float *w, struct qblock *out)
{
    const size_t n = QSUPER / f->sub, step = f->sub / QSUB;
    const bool has_min = qtypes[f->type].has_min;
    float scale[16], min[16], ws[16], wm[16], sc[16], mn[16] = {0};
    struct qfit fs = {.type = f->type, .lo = f->sc_lo, .hi = f->sc_hi}, fm = {.type = f->type, .lo = 0, .hi = f->sc_hi};
    for (size_t s = 0; s < n; s++) {
        struct line l = fit_sub(f, x + s * f->sub, w + s * f->sub, f->sub, false);
        scale[s] = l.scale;
        min[s] = -l.min;
        ws[s] = l.wqq;
        wm[s] = total(w + s * f->sub, f->sub);
    }
    out->d = to_half(fit_scale(&fs, scale, ws, n).scale);
    assign(&fs, scale, 0.0f, inverse_of(out->d), n, sc);
    out->m = 0.0f;
    if (has_min) {
        out->m = to_half(fit_scale(&fm, min, wm, n).scale);
        assign(&fm, min, 0.0f, inverse_of(out->m), n, mn);
    }
    for (size_t s = 0; s < n; s++) {
        for (size_t i = 0; i < step; i++) {
            out->sc[s * step + i] = (int16_t)sc[s];
            out->mn[s * step + i] = (int16_t)mn[s];
        }
        place(f, x + s * f->sub, out->d * sc[s], -out->m * mn[s], f->sub, out->u + s * f->sub);
    }
}

void quant_search(const struct qfit *f, const float *src, const float *importance, void *dst, size_t n)
{
    const struct qtype_info *t = &qtypes[f->type];
    uint8_t *p = dst;
    for (size_t i = 0; i < n; i += t->block_n, p += t->block_bytes) {
        float x_max, w[QSUPER];
        struct qblock b = {0};
        float max = largest(src + i, t->block_n, &x_max);
        if (max >= TINY) {
            quant_weights(src + i, importance ? importance + i : NULL, t->block_n, w);
            (t->arith == ARITH_32 ? fit_32 : fit_256)(f, src + i, w, &b);
        } else if (!(max < TINY)) {
            b.d = NAN;
        }
        f->pack(&b, p);
    }
}
