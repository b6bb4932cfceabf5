/* route: which experts a token goes to (docs/arithmetic.md, "Routing"). A few hundred numbers a token: one definition, in C. */
#include "kernel/kernel.h"

#include <math.h>

/* Index of the largest of n values that are not yet taken, the first of equals; there is one. */
static size_t best(const float *v, const bool *taken, size_t n)
{
    size_t at = n;
    for (size_t i = 0; i < n; i++)
        if (!taken[i] && (at == n || v[i] > v[at])) at = i;
    return at;
}

static void softmax(float *v, size_t n)
{
    float top = v[0], sum = 0.0f;
    for (size_t i = 1; i < n; i++) top = v[i] > top ? v[i] : top;
    for (size_t i = 0; i < n; i++) sum += v[i] = num_exp(v[i] - top);
    for (size_t i = 0; i < n; i++) v[i] /= sum;
}

/* Takes the experts of all but the best groups out of the choice. */
static void limit_groups(const struct route_params *p, const float *score, bool *taken)
{
    float group[ROUTE_EXPERTS_MAX];
    bool chosen[ROUTE_EXPERTS_MAX] = {false};
    const size_t n = p->n_experts / p->n_groups;
    for (size_t g = 0; g < p->n_groups; g++) {
        bool none[ROUTE_EXPERTS_MAX] = {false};
        const float *s = score + g * n;
        const size_t first = best(s, none, n);
        group[g] = s[first];
        none[first] = true;
        if (p->group_top2 && n > 1) group[g] += s[best(s, none, n)];
    }
    for (size_t i = 0; i < p->n_groups_used; i++) chosen[best(group, chosen, p->n_groups)] = true;
    for (size_t e = 0; e < p->n_experts; e++) taken[e] = !chosen[e / n];
}

void route(const struct route_params *p, const float *logits, float *weights, int32_t *experts)
{
    float score[ROUTE_EXPERTS_MAX], choice[ROUTE_EXPERTS_MAX];
    bool taken[ROUTE_EXPERTS_MAX] = {false};
    for (size_t e = 0; e < p->n_experts; e++) score[e] = p->sigmoid ? 1.0f / (1.0f + num_exp(-logits[e])) : logits[e];
    if (!p->sigmoid && !p->top_softmax) softmax(score, p->n_experts);
    for (size_t e = 0; e < p->n_experts; e++) choice[e] = p->bias ? score[e] + p->bias[e] : score[e];
    if (p->n_groups > 1) limit_groups(p, choice, taken);
    float sum = 0.0f;
    for (size_t i = 0; i < p->n_used; i++) {
        const size_t e = best(choice, taken, p->n_experts);
        taken[e] = true;
        experts[i] = (int32_t)e;
        weights[i] = score[e];
    }
    if (p->top_softmax) softmax(weights, p->n_used);
    for (size_t i = 0; i < p->n_used; i++) sum += weights[i];
    for (size_t i = 0; i < p->n_used; i++) {
        if (p->normalise) weights[i] /= sum + ROUTE_EPSILON;
        weights[i] *= p->scale;
        if (p->expert_scale) weights[i] *= p->expert_scale[experts[i]];
    }
}
