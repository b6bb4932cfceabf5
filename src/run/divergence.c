/* divergence: how far the expectations of one model are from those of another. After each token it is
 *
 *     KLD = sum over the vocabulary of p_base (log p_base - log p)        entries with log p_base <= -16 left out
 *
 * in f64, in order. The cut is llama.cpp's: its files of log-probabilities hold nothing below. */
#include "run/run.h"

#include <stdlib.h>

#define LEAST (-16.0)

struct log_probs log_probs_of(const struct kernels *k, const float *logits, uint32_t n_vocab, float *x, float *scratch)
{
    float top = logits[0];
    double total = 0;
    for (uint32_t v = 1; v < n_vocab; v++) top = logits[v] > top ? logits[v] : top;
    for (uint32_t v = 0; v < n_vocab; v++) x[v] = logits[v] - top;
    k->exp(x, n_vocab, scratch);
    for (uint32_t v = 0; v < n_vocab; v++) total += (double)scratch[v];
    return (struct log_probs){x, num_log(total)};
}

int divergence_init(struct divergence *d, size_t cap, struct err *e)
{
    *d = (struct divergence){.cap = cap};
    d->values = mem_array(cap, sizeof *d->values);
    return d->values ? 0 : fail_nomem(e, "divergences", cap * sizeof *d->values);
}

void divergence_fini(struct divergence *d)
{
    mem_free(d->values);
    *d = (struct divergence){0};
}

static uint32_t likeliest(const float *x, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t v = 1; v < n; v++) best = x[v] > x[best] ? v : best;
    return best;
}

void divergence_add(struct divergence *d, const struct kernels *k, const struct log_probs *base, const struct log_probs *p,
                    uint32_t n_vocab, int32_t token, float *scratch)
{
    double sum = 0;
    for (uint32_t v = 0; v < n_vocab; v++) scratch[v] = (float)((double)base->x[v] - base->log_total);
    k->exp(scratch, n_vocab, scratch);
    for (uint32_t v = 0; v < n_vocab; v++) {
        double log_base = (double)base->x[v] - base->log_total, log_p = (double)p->x[v] - p->log_total;
        if (log_base > LEAST) sum += (double)scratch[v] * (log_base - log_p);
    }
    d->same_top += likeliest(base->x, n_vocab) == likeliest(p->x, n_vocab);
    d->base_nll += base->log_total - (double)base->x[token];
    if (d->n < d->cap) d->values[d->n++] = (float)sum;
}

static int compare(const void *a, const void *b)
{
    float x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

/* The value below which a share of all lies, between two values in proportion. */
static double quantile(const struct divergence *d, double share)
{
    double at = share * (double)(d->n - 1);
    size_t i = (size_t)at;
    double rest = at - (double)i, low = (double)d->values[i], high = (double)d->values[size_min(i + 1, d->n - 1)];
    return low + rest * (high - low);
}

void divergence_sum(struct divergence *d, struct divergence_result *out)
{
    double sum = 0;
    *out = (struct divergence_result){0};
    if (d->n == 0) return;
    for (size_t i = 0; i < d->n; i++) sum += (double)d->values[i];
    qsort(d->values, d->n, sizeof *d->values, compare);
    *out = (struct divergence_result){.mean = sum / (double)d->n,
                                      .median = quantile(d, 0.5),
                                      .p99 = quantile(d, 0.99),
                                      .max = (double)d->values[d->n - 1],
                                      .same_top = (double)d->same_top / (double)d->n,
                                      .base_nll = d->base_nll / (double)d->n};
}
