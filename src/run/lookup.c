/* lookup: where the end of a sequence has occurred before in it. What followed there is a guess at what follows now: edited
 * code, quotations and tables repeat themselves.
 *
 * Positions are chained by the hash of the pair of tokens that ends there, the latest first. A search walks a bounded part of
 * the chain and keeps the longest match, so its time does not depend on the sequence. Nothing is allocated after lookup_init.
 */
#include "run/speculate_int.h"

#define NONE UINT32_MAX
#define LOOKUP_TRIES 64 /* places that a search looks at */
#define LOOKUP_LONG 32  /* tokens of a match, beyond which a longer one is no better */

static uint32_t *head_of(const struct lookup *l, uint32_t end)
{
    const uint64_t pair = (uint64_t)(uint32_t)l->tokens[end - 1] << 32 | (uint32_t)l->tokens[end];
    return &l->heads[(pair * 0x9e3779b97f4a7c15u >> 32) & l->mask];
}

int lookup_init(struct lookup *l, struct arena *a, const int32_t *tokens, uint32_t cap, struct err *e)
{
    uint32_t n_heads = 64;
    while (n_heads < cap && n_heads < 1u << 20) n_heads *= 2;
    *l = (struct lookup){.tokens = tokens, .mask = n_heads - 1};
    l->heads = arena_array(a, n_heads, sizeof *l->heads);
    l->before = arena_array(a, cap, sizeof *l->before);
    if (!l->heads || !l->before) return fail_nomem(e, "the index of a sequence", (n_heads + (size_t)cap) * sizeof *l->heads);
    lookup_clear(l);
    return 0;
}

void lookup_clear(struct lookup *l)
{
    l->n = 0;
    for (uint32_t i = 0; i <= l->mask; i++) l->heads[i] = NONE;
}

void lookup_extend(struct lookup *l, uint32_t n)
{
    for (; l->n < n; l->n++) {
        if (l->n == 0) continue; /* ends no pair */
        uint32_t *head = head_of(l, l->n);
        l->before[l->n] = *head;
        *head = l->n;
    }
}

/* Tokens up to and with position a that equal those up to b, a < b. */
static uint32_t same_before(const struct lookup *l, uint32_t a, uint32_t b)
{
    uint32_t n = 0;
    while (n < LOOKUP_LONG && n <= a && l->tokens[a - n] == l->tokens[b - n]) n++;
    return n;
}

uint32_t lookup_find(const struct lookup *l, uint32_t *same)
{
    uint32_t best = 0;
    *same = 0;
    if (l->n < 3) return 0;
    const uint32_t end = l->n - 1;
    uint32_t at = l->before[end];
    for (uint32_t tries = 0; at != NONE && tries < LOOKUP_TRIES && *same < LOOKUP_LONG; tries++, at = l->before[at]) {
        const uint32_t n = same_before(l, at, end);
        if (n < 2 || n <= *same) continue;
        *same = n;
        best = at + 1;
    }
    return best;
}
