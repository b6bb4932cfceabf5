/* lookup: where the end of a sequence has occurred before in it. What followed there is a guess at what follows now: edited
 * code, quotations and tables repeat themselves.
 *
 * The index is a suffix automaton. A state stands for the runs of tokens that end at the same places, which are the suffixes of
 * its longest one down to a certain length; its link leads to the state of the shorter suffixes, which end at more places. The
 * link of the state of the whole sequence is therefore the longest suffix that has occurred before. A token is added in
 * constant time on average, whatever the sequence; n tokens have at most 2 n states and 3 n edges, which lookup_init makes room
 * for.
 *
 * Edges are in a hash table, by state and token, and each state's in a list, which a copied state needs. */
#include "run/speculate_int.h"

#define NONE UINT32_MAX
#define ROOT 0u
#define SHORTEST 2      /* tokens of a match: single ones say too little */
#define LOOKUP_FRESH 32 /* states whose place is renewed by a token, the longest first: bounds what repeated tokens cost */

struct lookup_state {
    uint32_t length, link; /* of its longest run; the state of the next shorter ones */
    uint32_t end;          /* the last position of an occurrence, the latest known */
    uint32_t edges;        /* the first of its list */
};

struct lookup_edge {
    uint32_t from, to;
    int32_t token;
    uint32_t next_hash, next_from; /* in its bucket; of the same state */
};

int lookup_init(struct lookup *l, struct arena *a, const int32_t *tokens, uint32_t cap, struct err *e)
{
    uint32_t n_heads = 64;
    const size_t n_states = 2 * (size_t)cap + 1, n_edges = 3 * (size_t)cap + 1;
    while (n_heads < cap && n_heads < 1u << 30) n_heads *= 2;
    *l = (struct lookup){.tokens = tokens, .mask = n_heads - 1};
    l->heads = arena_array(a, n_heads, sizeof *l->heads);
    l->states = arena_array(a, n_states, sizeof *l->states);
    l->edges = arena_array(a, n_edges, sizeof *l->edges);
    if (!l->heads || !l->states || !l->edges) return fail_nomem(e, "the index of a sequence", n_edges * sizeof *l->edges);
    lookup_clear(l);
    return 0;
}

void lookup_clear(struct lookup *l)
{
    l->n = l->n_edges = 0;
    l->last = ROOT;
    l->same = l->at = 0;
    l->states[ROOT] = (struct lookup_state){.link = NONE, .edges = NONE};
    l->n_states = 1;
    for (uint32_t i = 0; i <= l->mask; i++) l->heads[i] = NONE;
}

/* ---- edges ------------------------------------------------------------------------------------------------------------- */

static uint32_t *head_of(const struct lookup *l, uint32_t from, int32_t token)
{
    const uint64_t key = (uint64_t)from << 32 | (uint32_t)token;
    return &l->heads[(key * 0x9e3779b97f4a7c15u >> 32) & l->mask];
}

static struct lookup_edge *find_edge(const struct lookup *l, uint32_t from, int32_t token)
{
    uint32_t i = *head_of(l, from, token);
    while (i != NONE && (l->edges[i].from != from || l->edges[i].token != token)) i = l->edges[i].next_hash;
    return i == NONE ? NULL : &l->edges[i];
}

static void add_edge(struct lookup *l, uint32_t from, int32_t token, uint32_t to)
{
    uint32_t *head = head_of(l, from, token), *first = &l->states[from].edges;
    l->edges[l->n_edges] =
        (struct lookup_edge){.from = from, .to = to, .token = token, .next_hash = *head, .next_from = *first};
    *head = *first = l->n_edges++;
}

/* ---- states ------------------------------------------------------------------------------------------------------------ */

static uint32_t add_state(struct lookup *l, uint32_t length, uint32_t link, uint32_t end)
{
    l->states[l->n_states] = (struct lookup_state){.length = length, .link = link, .end = end, .edges = NONE};
    return l->n_states++;
}

/* The runs of state q that are no longer than that of p and a token get a state of their own, since they end at one place more
 * than the others now. p and its suffixes lead to it by the token. */
static uint32_t split(struct lookup *l, uint32_t p, int32_t token, uint32_t q)
{
    const struct lookup_state *old = &l->states[q];
    const uint32_t part = add_state(l, l->states[p].length + 1, old->link, old->end);
    for (uint32_t i = old->edges; i != NONE; i = l->edges[i].next_from) add_edge(l, part, l->edges[i].token, l->edges[i].to);
    for (struct lookup_edge *x; p != NONE && (x = find_edge(l, p, token)) && x->to == q; p = l->states[p].link) x->to = part;
    l->states[q].link = part;
    return part;
}

/* The state of the longest suffix that ends in the token and was there before it came; `added` is that of the whole. */
static uint32_t link_of(struct lookup *l, uint32_t added, int32_t token)
{
    const struct lookup_edge *x = NULL;
    uint32_t p = l->last;
    for (; p != NONE && !(x = find_edge(l, p, token)); p = l->states[p].link) add_edge(l, p, token, added);
    if (p == NONE) return ROOT;
    return l->states[x->to].length == l->states[p].length + 1 ? x->to : split(l, p, token, x->to);
}

static void add_token(struct lookup *l, int32_t token)
{
    const uint32_t added = add_state(l, l->n + 1, ROOT, l->n), match = link_of(l, added, token);
    l->states[added].link = match;
    l->last = added;
    l->same = l->states[match].length;
    l->at = l->states[match].end + 1;
    for (uint32_t s = match, i = 0; s != ROOT && i < LOOKUP_FRESH; s = l->states[s].link, i++) l->states[s].end = l->n;
    l->n++;
}

void lookup_extend(struct lookup *l, uint32_t n)
{
    while (l->n < n) add_token(l, l->tokens[l->n]);
}

uint32_t lookup_find(const struct lookup *l, uint32_t *same)
{
    *same = l->same >= SHORTEST ? l->same : 0;
    return *same ? l->at : 0;
}
