/* prefix: pages of the KV cache that several sequences share, and the tree of those that are kept after their sequence has
 * ended.
 *
 * A node of the tree is a full page: the KV_PAGE tokens that it holds, and its parent, the page of the tokens before. So a path
 * from a root spells the beginning of a sequence exactly, and a page in the tree never changes. A node has the number of its
 * page: there are arrays of n_pages and no allocation after prefix_init. Children are found in a hash table over parent and
 * tokens.
 *
 *     refs[p]   holders of page p: running sequences, and the tree
 *     free      refs 0
 *     kept      in the tree, refs 1: may be taken back, the least recently used leaf first
 *
 * A model with recurrent layers can go on only from where there is a state. Behind some pages in the tree there is one; states
 * are counted and taken back like pages. */
#include "run/run.h"

#define NONE UINT32_MAX

struct node {
    int32_t tokens[KV_PAGE];
    uint32_t parent; /* NONE: a root */
    uint64_t key;
    uint32_t first_child, next_sibling, next_in_bucket;
    uint64_t used;  /* tick of the last use */
    uint32_t state; /* behind the page; NO_STATE: none */
    bool in_tree;
};

static uint32_t *bucket_of(const struct prefix *t, uint32_t parent, uint64_t key, const int32_t *tokens)
{
    const struct str bytes = {(const char *)(const void *)tokens, KV_PAGE * sizeof *tokens};
    uint64_t h = str_hash(bytes) ^ (parent * 0x9e3779b97f4a7c15u) ^ (key * 0xc2b2ae3d27d4eb4fu);
    return &t->buckets[(h ^ h >> 32) & t->mask];
}

static int init_states(struct prefix *t, size_t floats, uint32_t n, struct err *e)
{
    if (floats == 0) return 0;
    t->state_floats = floats;
    t->n_states = t->n_free_states = n;
    t->state_refs = mem_array(n, sizeof *t->state_refs);
    t->free_states = mem_array(n, sizeof *t->free_states);
    size_t bytes = 0;
    const bool ok = t->state_refs && t->free_states && size_mul(floats, n * sizeof(float), &bytes);
    if (!ok || !(t->states = mem_pages(bytes)))
        return fail(e, ERR_NOMEM, "no memory for recurrent states: %zu MiB; fewer requests at once need less", bytes >> 20);
    t->state_bytes = bytes;
    for (uint32_t s = 0; s < n; s++) t->free_states[s] = n - 1 - s;
    return 0;
}

static int init_pages(struct prefix *t, const struct model *m, const struct prefix_options *o, struct err *e)
{
    uint32_t n_buckets = 16;
    size_t bytes = 0;
    while (n_buckets < 2 * (uint64_t)o->n_pages && n_buckets < 1u << 30) n_buckets *= 2;
    t->mask = n_buckets - 1;
    t->layers = mem_array(m->hp.n_layers, sizeof *t->layers);
    t->nodes = mem_array(o->n_pages, sizeof *t->nodes);
    t->refs = mem_array(o->n_pages, sizeof *t->refs);
    t->free = mem_array(o->n_pages, sizeof *t->free);
    t->buckets = mem_array(n_buckets, sizeof *t->buckets);
    bool ok = t->layers && t->nodes && t->refs && t->free && t->buckets;
    ok = ok && kv_layout(m, o->k_type, o->v_type, t->layers, &t->page_bytes) && size_mul(t->page_bytes, o->n_pages, &bytes);
    t->memory = ok ? mem_pages(bytes) : NULL;
    if (!t->memory)
        return fail(e, ERR_NOMEM, "no memory for the KV cache: %zu MiB in %s and %s; a smaller one (--kv-size, -c) needs less",
                    bytes >> 20, qtypes[o->k_type].name, qtypes[o->v_type].name);
    t->bytes = bytes;
    for (uint32_t p = 0; p < o->n_pages; p++) t->free[p] = o->n_pages - 1 - p;
    for (uint32_t b = 0; b < n_buckets; b++) t->buckets[b] = NONE;
    return 0;
}

int prefix_init(struct prefix *t, const struct model *m, const struct prefix_options *o, struct err *e)
{
    *t = (struct prefix){.n_pages = o->n_pages, .n_free = o->n_pages, .first_root = NONE};
    int rc = init_pages(t, m, o, e);
    if (rc == 0) rc = init_states(t, o->state_floats, o->n_states, e);
    if (rc < 0) prefix_fini(t);
    return rc;
}

void prefix_fini(struct prefix *t)
{
    if (t->memory) mem_pages_free(t->memory, t->bytes);
    mem_free(t->layers);
    mem_free(t->nodes);
    mem_free(t->refs);
    mem_free(t->free);
    mem_free(t->buckets);
    if (t->states) mem_pages_free(t->states, t->state_bytes);
    mem_free(t->state_refs);
    mem_free(t->free_states);
    *t = (struct prefix){0};
}

uint8_t *prefix_page(const struct prefix *t, uint32_t page)
{
    return t->memory + page * t->page_bytes;
}

/* ---- the tree ---------------------------------------------------------------------------------------------------------- */

static uint32_t *children_of(struct prefix *t, uint32_t parent)
{
    return parent == NONE ? &t->first_root : &t->nodes[parent].first_child;
}

static uint32_t find(const struct prefix *t, uint32_t parent, uint64_t key, const int32_t *tokens)
{
    uint32_t n = *bucket_of(t, parent, key, tokens);
    while (n != NONE && !(t->nodes[n].parent == parent && t->nodes[n].key == key &&
                          memcmp(t->nodes[n].tokens, tokens, sizeof t->nodes[n].tokens) == 0))
        n = t->nodes[n].next_in_bucket;
    return n;
}

static void unlink_from(uint32_t *head, const struct prefix *t, uint32_t n, size_t next)
{
    while (*head != n) head = (uint32_t *)(void *)((uint8_t *)&t->nodes[*head] + next);
    *head = *(uint32_t *)(void *)((uint8_t *)&t->nodes[n] + next);
}

static void remove_node(struct prefix *t, uint32_t n)
{
    struct node *x = &t->nodes[n];
    unlink_from(bucket_of(t, x->parent, x->key, x->tokens), t, n, offsetof(struct node, next_in_bucket));
    unlink_from(children_of(t, x->parent), t, n, offsetof(struct node, next_sibling));
    if (x->state != NO_STATE) prefix_give_state(t, x->state);
    x->in_tree = false;
    t->n_kept--;
}

/* The least recently used leaf that nobody else holds. */
static uint32_t oldest_leaf(const struct prefix *t)
{
    uint32_t best = NONE;
    for (uint32_t p = 0; p < t->n_pages; p++) {
        const struct node *x = &t->nodes[p];
        if (!x->in_tree || t->refs[p] != 1 || x->first_child != NONE) continue;
        if (best == NONE || x->used < t->nodes[best].used) best = p;
    }
    return best;
}

bool prefix_take(struct prefix *t, uint32_t *page)
{
    if (t->n_free == 0) {
        const uint32_t victim = oldest_leaf(t);
        if (victim == NONE) return false;
        remove_node(t, victim);
        t->refs[victim] = 0;
        t->free[t->n_free++] = victim;
    }
    *page = t->free[--t->n_free];
    t->refs[*page] = 1;
    return true;
}

void prefix_give(struct prefix *t, uint32_t page)
{
    if (--t->refs[page] > 0) return;
    t->free[t->n_free++] = page;
}

uint32_t prefix_available(const struct prefix *t)
{
    uint32_t n = t->n_free;
    /* Whoever holds a page holds those before it, too: every kept page with no other holder can be had in the end. */
    for (uint32_t p = 0; p < t->n_pages; p++) n += t->nodes[p].in_tree && t->refs[p] == 1;
    return n;
}

uint32_t prefix_match(struct prefix *t, const int32_t *tokens, uint32_t n, uint64_t key, uint32_t *pages)
{
    uint32_t parent = NONE, n_pages = 0;
    for (; (n_pages + 1) * KV_PAGE <= n; n_pages++) {
        const uint32_t page = find(t, parent, key, tokens + n_pages * KV_PAGE);
        if (page == NONE) break;
        t->refs[page]++;
        t->nodes[page].used = ++t->tick;
        pages[n_pages] = parent = page;
    }
    return n_pages;
}

void prefix_miss(struct prefix *t, const int32_t *tokens, uint32_t n, const uint32_t *pages, uint32_t n_pages,
                 struct prefix_miss *out)
{
    uint32_t same = 0;
    *out = (struct prefix_miss){n_pages * KV_PAGE, -1, -1};
    tokens += n_pages * KV_PAGE;
    n -= n_pages * KV_PAGE;
    for (uint32_t c = *children_of(t, n_pages ? pages[n_pages - 1] : NONE); c != NONE; c = t->nodes[c].next_sibling) {
        uint32_t i = 0;
        while (i < KV_PAGE && i < n && t->nodes[c].tokens[i] == tokens[i]) i++;
        if (i == KV_PAGE || i == n || i < same) continue;
        same = i;
        *out = (struct prefix_miss){n_pages * KV_PAGE + i, t->nodes[c].tokens[i], tokens[i]};
    }
}

uint32_t prefix_keep(struct prefix *t, uint32_t parent, const int32_t *tokens, uint64_t key, uint32_t page)
{
    const uint32_t same = find(t, parent, key, tokens);
    if (same != NONE) { /* computed twice, with the same bytes: one is enough */
        t->nodes[same].used = ++t->tick;
        t->refs[same]++;
        prefix_give(t, page);
        return same;
    }
    struct node *x = &t->nodes[page];
    uint32_t *bucket = bucket_of(t, parent, key, tokens), *children = children_of(t, parent);
    *x = (struct node){.parent = parent,
                       .key = key,
                       .first_child = NONE,
                       .next_sibling = *children,
                       .next_in_bucket = *bucket,
                       .used = ++t->tick,
                       .state = NO_STATE,
                       .in_tree = true};
    memcpy(x->tokens, tokens, sizeof x->tokens);
    *bucket = *children = page;
    t->refs[page]++;
    t->n_kept++;
    return page;
}

/* ---- recurrent states -------------------------------------------------------------------------------------------------- */

float *prefix_state(const struct prefix *t, uint32_t state)
{
    return state == NO_STATE ? NULL : t->states + state * t->state_floats;
}

void prefix_give_state(struct prefix *t, uint32_t state)
{
    if (--t->state_refs[state] > 0) return;
    t->free_states[t->n_free_states++] = state;
}

void prefix_keep_state(struct prefix *t, uint32_t page, uint32_t state)
{
    struct node *x = &t->nodes[page];
    if (x->state != NO_STATE) prefix_give_state(t, x->state);
    x->state = state;
}

bool prefix_take_state(struct prefix *t, uint32_t *state)
{
    uint32_t oldest = NONE;
    for (uint32_t p = 0; t->n_free_states == 0 && p < t->n_pages; p++) {
        const struct node *x = &t->nodes[p];
        if (!x->in_tree || x->state == NO_STATE || t->state_refs[x->state] > 1) continue;
        if (oldest == NONE || x->used < t->nodes[oldest].used) oldest = p;
    }
    if (oldest != NONE) prefix_keep_state(t, oldest, NO_STATE);
    if (t->n_free_states == 0) return false;
    *state = t->free_states[--t->n_free_states];
    t->state_refs[*state] = 1;
    return true;
}

uint32_t prefix_find_state(struct prefix *t, uint32_t page)
{
    const uint32_t state = t->nodes[page].state;
    if (state != NO_STATE) t->state_refs[state]++;
    return state;
}
