/* probs: what a model thought of a token: the logarithm of its probability, and the likeliest ones beside it. */
#include "run/run.h"

void token_probs(struct sampler *s, const struct kernels *k, const float *logits, uint32_t n, struct token_event *t,
                 int32_t *ids, float *probs)
{
    const struct log_probs p = log_probs_of(k, logits, s->n_vocab, s->logits, s->weights);
    t->logprob = (float)((double)p.x[t->id] - p.log_total);
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        uint32_t at = (uint32_t)t->n_top;
        if (at == n && (n == 0 || !(logits[i] > logits[ids[n - 1]]))) continue;
        if (t->n_top < n) t->n_top++;
        at = (uint32_t)t->n_top - 1;
        for (; at > 0 && logits[i] > logits[ids[at - 1]]; at--) ids[at] = ids[at - 1];
        ids[at] = (int32_t)i;
    }
    for (uint32_t i = 0; i < t->n_top; i++) probs[i] = (float)((double)p.x[ids[i]] - p.log_total);
    t->top_ids = ids;
    t->top_logprobs = probs;
}
