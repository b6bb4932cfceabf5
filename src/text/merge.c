/* Merging: the symbols of one word are joined two by two, always the pair of lowest rank and of equals the leftmost, until no
 * pair of neighbours can be joined. Both kinds of vocabulary come here; they differ in how a pair gets its rank (bpe_find: the
 * place in the list of merges; spm_rank: the score of what the two give together).
 *
 * The symbols are a linked list in an array. Short words look for the best pair by walking the list; long ones keep a heap of
 * (rank, position), so that a word of n symbols takes O(n log n). A heap entry whose rank is no longer that of its symbol is
 * stale and is dropped when it comes up. */
#include "text/text_int.h"

#define SHORT_WORD 24

int enc_syms(struct enc *e, size_t n)
{
    if (n <= e->cap_syms) return 0;
    if (n > UINT32_MAX / 2) return fail(e->err, ERR_LIMIT, "a word of %zu bytes is not supported", n);
    size_t cap = n < 1024 ? 1024 : n, bytes;
    struct sym *p = size_mul(cap, sizeof *p, &bytes) ? mem_realloc(e->syms, bytes) : NULL;
    if (!p) return fail_nomem(e->err, "symbols of a word", n);
    e->syms = p;
    e->cap_syms = cap;
    return 0;
}

/* ---- heap: four children per node, which keeps it half as deep as a binary one ---------------------------- */

static int heap_push(struct enc *e, uint32_t rank, uint32_t i)
{
    if (e->n_heap == e->cap_heap) {
        size_t cap = e->cap_heap ? e->cap_heap + e->cap_heap / 2 : 256, bytes;
        uint64_t *p = size_mul(cap, sizeof *p, &bytes) ? mem_realloc(e->heap, bytes) : NULL;
        if (!p) return fail_nomem(e->err, "merge queue", cap);
        e->heap = p;
        e->cap_heap = cap;
    }
    uint64_t key = (uint64_t)rank << 32 | i, *h = e->heap;
    size_t at = e->n_heap++;
    for (; at > 0 && key < h[(at - 1) / 4]; at = (at - 1) / 4) h[at] = h[(at - 1) / 4];
    h[at] = key;
    return 0;
}

static uint64_t heap_pop(struct enc *e)
{
    uint64_t *h = e->heap, top = h[0], key = h[--e->n_heap];
    size_t n = e->n_heap, at = 0;
    for (size_t kid; (kid = 4 * at + 1) < n; at = kid) {
        size_t end = size_min(kid + 4, n);
        for (size_t k = kid + 1; k < end; k++)
            if (h[k] < h[kid]) kid = k;
        if (key <= h[kid]) break;
        h[at] = h[kid];
    }
    h[at] = key;
    return top;
}

/* ---- the list --------------------------------------------------------------------------------------------- */

static uint32_t rank_of(const struct enc *e, struct str word, uint32_t i)
{
    const struct sym *s = e->syms;
    uint32_t j = s[i].next;
    if (j == SYM_END) return RANK_NONE;
    size_t slot;
    if (e->t->model != MODEL_SCORES) return bpe_find(e->t, s[i].v, s[j].v, &slot);
    size_t end = s[j].next == SYM_END ? word.n : s[s[j].next].v;
    return spm_rank(e->t, word.p + s[i].v, end - s[i].v);
}

/* Joins i with its right neighbour and ranks the two pairs that the result is in. */
static void join(struct enc *e, struct str word, uint32_t i)
{
    struct sym *s = e->syms;
    uint32_t j = s[i].next;
    if (e->t->model != MODEL_SCORES) s[i].v = (uint32_t)e->t->merges[s[i].rank].id;
    s[i].next = s[j].next;
    if (s[j].next != SYM_END) s[s[j].next].prev = i;
    s[j].rank = RANK_NONE;
    s[i].rank = rank_of(e, word, i);
    if (s[i].prev != SYM_END) s[s[i].prev].rank = rank_of(e, word, s[i].prev);
}

static void merge_short(struct enc *e, struct str word)
{
    const struct sym *s = e->syms;
    for (;;) {
        uint32_t best = 0;
        for (uint32_t i = 0; i != SYM_END; i = s[i].next)
            if (s[i].rank < s[best].rank) best = i;
        if (s[best].rank == RANK_NONE) return;
        join(e, word, best);
    }
}

static int merge_long(struct enc *e, struct str word, uint32_t n)
{
    const struct sym *s = e->syms;
    e->n_heap = 0;
    for (uint32_t i = 0; i < n; i++)
        if (s[i].rank != RANK_NONE) TRY(heap_push(e, s[i].rank, i));
    while (e->n_heap) {
        uint64_t top = heap_pop(e);
        uint32_t i = (uint32_t)top;
        if (s[i].rank != (uint32_t)(top >> 32)) continue;
        join(e, word, i);
        if (s[i].rank != RANK_NONE) TRY(heap_push(e, s[i].rank, i));
        uint32_t p = s[i].prev;
        if (p != SYM_END && s[p].rank != RANK_NONE) TRY(heap_push(e, s[p].rank, p));
    }
    return 0;
}

int enc_merge(struct enc *e, struct str word, uint32_t n)
{
    struct sym *s = e->syms;
    for (uint32_t i = 0; i < n; i++) {
        s[i].prev = i ? i - 1 : SYM_END;
        s[i].next = i + 1 < n ? i + 1 : SYM_END;
    }
    for (uint32_t i = 0; i < n; i++) s[i].rank = rank_of(e, word, i);
    if (n > SHORT_WORD) return merge_long(e, word, n);
    if (n > 0) merge_short(e, word);
    return 0;
}

/* ---- words ------------------------------------------------------------------------------------------------ */

int enc_fallback(struct enc *e, struct str ch)
{
    const struct tok *t = e->t;
    bool all = true;
    for (size_t i = 0; i < ch.n; i++) all = all && t->byte_id[(unsigned char)ch.p[i]] >= 0;
    for (size_t i = 0; all && i < ch.n; i++) TRY(enc_put(e, t->byte_id[(unsigned char)ch.p[i]]));
    if (all) return 0;
    if (t->unk < 0)
        return fail(e->err, ERR_UNSUPPORTED, "the vocabulary has no entry for '%.*s', none for its bytes and no unknown token",
                    STR_ARG(ch));
    return enc_put(e, t->unk);
}

int enc_word(struct enc *e, struct str word)
{
    static int (*const words[])(struct enc * e, struct str word) = {
        [MODEL_BYTES] = bpe_word,  [MODEL_CHARS] = bpe_word,       [MODEL_PIECES] = wordpiece_word,
        [MODEL_SCORES] = spm_word, [MODEL_UNIGRAM] = unigram_word, [MODEL_WORDS] = wordlevel_word,
    };
    const unsigned stage = e->t->n_pre ? e->t->n_pre - 1 : 0;
    const bool cached = cache_takes(e, stage, word);
    const size_t from = e->out->n;
    if (cached) {
        const int rc = cache_find(e, stage, word);
        if (rc != 0) return rc < 0 ? rc : 0;
    }
    TRY(words[e->t->model](e, word));
    if (cached) cache_keep(e, stage, word, from);
    return 0;
}
