/* sampler: from logits to a token. The steps and their order are those that users of llama.cpp know: bias, penalties, grammar,
 * top-k, top-p, min-p, temperature, draw. Everything is computed in a fixed order with our own exp, and the random number of a
 * step is a function of the seed and the number of the step, so the same seed draws the same tokens on every machine.
 *
 * Candidates that top-k, top-p or min-p chose among are ordered by logit, ties by the smaller id; where none of them is on, by
 * id. Probabilities are exp(logit - largest) in f32, summed in f64 in candidate order. */
#include <math.h>

#include "run/run.h"

struct candidate {
    float logit;
    int32_t id;
};

int sampling_check(const struct sampling *p, uint32_t n_vocab, struct err *e)
{
    const struct {
        const char *name;
        float v, min, max;
    } rows[] = {
        {"temperature", p->temperature, 0, 1000},
        {"top-p", p->top_p, 0, 1},
        {"min-p", p->min_p, 0, 1},
        {"repeat penalty", p->repeat_penalty, 0.001f, 1000},
        {"presence penalty", p->presence_penalty, -1000, 1000},
        {"frequency penalty", p->frequency_penalty, -1000, 1000},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        if (!(rows[i].v >= rows[i].min && rows[i].v <= rows[i].max))
            return fail(e, ERR_ARG, "%s is %g; expected a number from %g to %g", rows[i].name, (double)rows[i].v,
                        (double)rows[i].min, (double)rows[i].max);
    for (size_t i = 0; i < p->n_bias; i++)
        if (p->bias[i].id < 0 || (uint32_t)p->bias[i].id >= n_vocab || isnan(p->bias[i].bias))
            return fail(e, ERR_ARG, "logit bias for token %d: expected a token from 0 to %u and a number", p->bias[i].id,
                        n_vocab - 1);
    return 0;
}

int sampler_init(struct sampler *s, uint32_t n_vocab, struct err *e)
{
    *s = (struct sampler){.n_vocab = n_vocab};
    s->cand = mem_array(n_vocab, sizeof *s->cand);
    s->count = mem_array(n_vocab, sizeof *s->count);
    s->logits = mem_array(n_vocab, sizeof *s->logits);
    if (s->cand && s->count && s->logits) return 0;
    sampler_fini(s);
    return fail_nomem(e, "the sampler", n_vocab * sizeof(struct candidate));
}

void sampler_fini(struct sampler *s)
{
    mem_free(s->cand);
    mem_free(s->count);
    mem_free(s->logits);
    *s = (struct sampler){0};
}

/* Uniform in [0, 1) with 53 bits: the SplitMix64 sequence (Steele, Lea, Flood 2014) started at seed, element step. */
static double uniform(uint64_t seed, uint64_t step)
{
    uint64_t z = seed + (step + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-53;
}

/* ---- penalties ---------------------------------------------------------------------------------------- */

static void penalise(struct sampler *s, const struct sampling *p, const int32_t *history, size_t n)
{
    bool none = p->repeat_penalty == 1.0f && p->presence_penalty == 0.0f && p->frequency_penalty == 0.0f;
    size_t window = size_min(n, p->penalty_last_n);
    if (none || window == 0) return;
    history += n - window;
    for (size_t i = 0; i < window; i++) s->count[history[i]]++;
    for (size_t i = 0; i < window; i++) {
        uint32_t *count = &s->count[history[i]];
        if (*count == 0) continue; /* already done */
        float *l = &s->logits[history[i]];
        *l = *l > 0 ? *l / p->repeat_penalty : *l * p->repeat_penalty;
        *l -= p->presence_penalty + (float)*count * p->frequency_penalty;
        *count = 0;
    }
}

/* ---- selection ------------------------------------------------------------------------------------------- */

static bool better(struct candidate a, struct candidate b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* Heap with the best on top where sign is true, else the worst. */
static void sift(struct candidate *c, size_t i, size_t n, bool best)
{
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && better(c[child + 1], c[child]) == best) child++;
        if (better(c[child], c[i]) != best) return;
        struct candidate t = c[i];
        c[i] = c[child];
        c[child] = t;
    }
}

static void heapify(struct candidate *c, size_t n, bool best)
{
    for (size_t i = n / 2; i-- > 0;) sift(c, i, n, best);
}

/* Moves the k best of c[0 .. n) to its front, in order. */
static void select_top(struct candidate *c, size_t n, size_t k)
{
    heapify(c, k, false);
    for (size_t i = k; i < n; i++) {
        if (!better(c[i], c[0])) continue;
        c[0] = c[i];
        sift(c, 0, k, false);
    }
    for (size_t last = k; last-- > 1;) { /* the worst goes to the end */
        struct candidate t = c[0];
        c[0] = c[last];
        c[last] = t;
        sift(c, 0, last, false);
    }
}

static double weight(struct candidate c, float top)
{
    return (double)num_exp(c.logit - top);
}

/* Top-p and min-p over sorted candidates: the number of those kept. */
static size_t cut_sorted(const struct candidate *c, size_t n, float top, const struct sampling *p, double total)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double w = weight(c[i], top);
        if (i > 0 && (sum >= (double)p->top_p * total || w < (double)p->min_p)) return i;
        sum += w;
    }
    return n;
}

/* The same over candidates in any order, which sorts only those that it keeps: they come off a heap one by one, best first,
 * gather at the end of the array, and move to its front in order. */
static size_t cut_unsorted(struct candidate *c, size_t n, float top, const struct sampling *p, double total)
{
    size_t left = 0;
    for (size_t i = 0; i < n; i++)
        if (weight(c[i], top) >= (double)p->min_p) c[left++] = c[i];
    heapify(c, left, true);
    double sum = 0;
    size_t kept = 0;
    while (left > 0 && (kept == 0 || sum < (double)p->top_p * total)) {
        struct candidate best = c[0];
        c[0] = c[--left];
        c[left] = best;
        sift(c, 0, left, true);
        sum += weight(best, top);
        kept++;
    }
    for (size_t i = 0; i < kept / 2; i++) {
        struct candidate t = c[left + i];
        c[left + i] = c[left + kept - 1 - i];
        c[left + kept - 1 - i] = t;
    }
    memmove(c, c + left, kept * sizeof *c);
    return kept;
}

int sampler_pick(struct sampler *s, const struct sampling *p, const float *logits, const int32_t *history, size_t n_history,
                 uint64_t step, int32_t *out, struct err *e)
{
    const uint64_t *allowed = s->allowed;
    s->allowed = NULL;
    memcpy(s->logits, logits, s->n_vocab * sizeof *logits);
    for (size_t i = 0; i < p->n_bias; i++) s->logits[p->bias[i].id] += p->bias[i].bias;
    penalise(s, p, history, n_history);

    struct candidate *c = s->cand;
    size_t n = 0, best = 0;
    for (uint32_t id = 0; id < s->n_vocab; id++) {
        if (allowed && !(allowed[id / 64] >> (id % 64) & 1)) continue;
        if (!(s->logits[id] > -INFINITY)) continue; /* banned, or not a number */
        c[n] = (struct candidate){s->logits[id], (int32_t)id};
        if (better(c[n], c[best])) best = n;
        n++;
    }
    if (n == 0 && allowed) return fail(e, ERR_ARG, "no token that the grammar allows has a finite score");
    if (n == 0) return fail(e, ERR_FORMAT, "the model gives no token a finite score; the file may be damaged");
    float top = c[best].logit;
    *out = c[best].id;
    if (p->temperature <= 0 || top == INFINITY) return 0;

    bool sorted = p->top_k > 0 && p->top_k < n;
    if (sorted) {
        select_top(c, n, p->top_k);
        n = p->top_k;
    }
    double total = 0, sum = 0;
    if (p->top_p < 1 || p->min_p > 0) {
        for (size_t i = 0; i < n; i++) total += weight(c[i], top);
        n = sorted ? cut_sorted(c, n, top, p, total) : cut_unsorted(c, n, top, p, total);
        total = 0;
    }
    for (size_t i = 0; i < n; i++) total += (double)num_exp((c[i].logit - top) / p->temperature);
    double goal = uniform(p->seed, step) * total;
    for (size_t i = 0; i < n; i++) {
        sum += (double)num_exp((c[i].logit - top) / p->temperature);
        *out = c[i].id;
        if (sum > goal) break;
    }
    return 0;
}
