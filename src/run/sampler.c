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

int sampler_init(struct sampler *s, const struct kernels *k, uint32_t n_vocab, struct err *e)
{
    *s = (struct sampler){.exp = k->exp, .n_vocab = n_vocab};
    s->cand = mem_array(n_vocab, sizeof *s->cand);
    s->count = mem_array(n_vocab, sizeof *s->count);
    s->logits = mem_array(n_vocab, sizeof *s->logits);
    s->weights = mem_array(n_vocab, sizeof *s->weights);
    if (s->cand && s->count && s->logits && s->weights) return 0;
    sampler_fini(s);
    return fail_nomem(e, "the sampler", n_vocab * sizeof(struct candidate));
}

void sampler_fini(struct sampler *s)
{
    mem_free(s->cand);
    mem_free(s->count);
    mem_free(s->logits);
    mem_free(s->weights);
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
    const size_t window = size_min(n, p->penalty_last_n);
    if (window == 0) return;
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

/* Heaps have the worst on top. */
static void sift(struct candidate *c, size_t i, size_t n)
{
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && better(c[child], c[child + 1])) child++;
        if (better(c[child], c[i])) return;
        struct candidate t = c[i];
        c[i] = c[child];
        c[child] = t;
    }
}

static void heapify(struct candidate *c, size_t n)
{
    for (size_t i = n / 2; i-- > 0;) sift(c, i, n);
}

/* A heap becomes a row, the best first. */
static void order_heap(struct candidate *c, size_t n)
{
    for (size_t last = n; last-- > 1;) {
        struct candidate t = c[0];
        c[0] = c[last];
        c[last] = t;
        sift(c, 0, last);
    }
}

/* The weights of the n candidates at a temperature, whose sum is returned: exp((logit - top) / temperature). */
static double weigh(struct sampler *s, size_t n, float top, float temperature)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) s->weights[i] = (s->cand[i].logit - top) / temperature;
    s->exp(s->weights, n, s->weights);
    for (size_t i = 0; i < n; i++) sum += (double)s->weights[i];
    return sum;
}

/* Of n weighed candidates in order, the number of those that top-p and min-p leave, at least min_keep; goal: what is enough of
 * the weights. */
static size_t cut(const struct sampler *s, size_t n, double goal, float min_p, size_t min_keep)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && i >= min_keep && (sum >= goal || s->weights[i] < min_p)) return i;
        sum += (double)s->weights[i];
    }
    return n;
}

/* Puts n weighed candidates in order, leaving out those that no cut would leave. One is left where those better than it have
 * less than goal; it and those behind it have at most n times its weight. */
static size_t order(struct sampler *s, size_t n, double total, double goal, float min_p)
{
    const double least = (total - goal) / (double)n * (1 - 1e-6);
    size_t left = 0;
    for (size_t i = 0; i < n; i++)
        if ((double)s->weights[i] >= least && s->weights[i] >= min_p) s->cand[left++] = s->cand[i];
    heapify(s->cand, left);
    order_heap(s->cand, left);
    return left;
}

/* Whether one of 64 is larger: most of a vocabulary is passed over by this alone. */
static bool any_larger(const float v[64], float limit)
{
    int any = 0;
    for (int i = 0; i < 64; i++) any |= v[i] > limit;
    return any;
}

/* The k best candidates, in order, where there are more than k (*ordered); else all, by id. What the mask bans is none, nor is
 * what is no number. Returns how many. */
static size_t gather(struct sampler *s, const float *logits, const uint64_t *allowed, size_t k, bool *ordered)
{
    struct candidate *c = s->cand; /* the worst of k on top, once there were more */
    float limit = -INFINITY;       /* what the next must be larger than: ids rise, so ties are lost */
    size_t n = 0;
    *ordered = false;
    for (uint32_t from = 0; from < s->n_vocab; from += 64) {
        const uint32_t end = (uint32_t)size_min(64, s->n_vocab - from);
        const uint64_t bits = allowed ? allowed[from / 64] : UINT64_MAX;
        if (!bits || (end == 64 && !any_larger(logits + from, limit))) continue;
        for (uint32_t i = 0; i < end; i++) {
            const struct candidate next = {logits[from + i], (int32_t)(from + i)};
            if (!(next.logit > limit) || !(bits >> i & 1)) continue;
            if (n < k) {
                c[n++] = next;
                continue;
            }
            if (!*ordered) heapify(c, k);
            *ordered = true;
            if (better(next, c[0])) {
                c[0] = next;
                sift(c, 0, k);
            }
            limit = c[0].logit;
        }
    }
    if (*ordered) order_heap(c, k);
    return n;
}

static struct candidate best_of(const struct candidate *c, size_t n)
{
    struct candidate best = c[0];
    for (size_t i = 1; i < n; i++)
        if (better(c[i], best)) best = c[i];
    return best;
}

/* The logits with what p adds to them. */
static const float *adjusted(struct sampler *s, const struct sampling *p, const float *logits, const int32_t *history, size_t n)
{
    const bool penalties = p->repeat_penalty != 1.0f || p->presence_penalty != 0.0f || p->frequency_penalty != 0.0f;
    if (!p->n_bias && !penalties) return logits;
    memcpy(s->logits, logits, s->n_vocab * sizeof *logits);
    for (size_t i = 0; i < p->n_bias; i++) s->logits[p->bias[i].id] += p->bias[i].bias;
    if (penalties) penalise(s, p, history, n);
    return s->logits;
}

int sampler_pick(struct sampler *s, const struct sampling *p, const float *logits, const int32_t *history, size_t n_history,
                 uint64_t step, int32_t *out, struct err *e)
{
    const uint64_t *allowed = s->allowed;
    const size_t k = p->temperature <= 0 ? 1 : p->top_k > 0 ? p->top_k : s->n_vocab;
    struct candidate *c = s->cand;
    bool sorted;
    s->allowed = NULL;
    size_t n = gather(s, adjusted(s, p, logits, history, n_history), allowed, size_min(k, s->n_vocab), &sorted);
    if (n == 0 && (allowed || p->n_bias))
        return fail(e, ERR_ARG, "no token that the grammar and the biases allow has a finite score");
    if (n == 0) return fail(e, ERR_FORMAT, "the model gives no token a finite score; the file may be damaged");
    const struct candidate best = sorted ? c[0] : best_of(c, n);
    const float top = best.logit;
    *out = best.id;
    if (p->temperature <= 0 || top == INFINITY) return 0;

    if (p->top_p < 1 || p->min_p > 0) {
        const double total = weigh(s, n, top, 1), goal = p->top_p < 1 ? (double)p->top_p * total : INFINITY;
        if (!sorted) {
            n = p->min_keep > 1 ? order(s, n, total, INFINITY, 0) : order(s, n, total, goal, p->min_p);
            weigh(s, n, top, 1);
        }
        n = cut(s, n, goal, p->min_p, p->min_keep);
    }
    const double goal = uniform(p->seed, step) * weigh(s, n, top, p->temperature);
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)s->weights[i];
        *out = c[i].id;
        if (sum > goal) break;
    }
    return 0;
}
