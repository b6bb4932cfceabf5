/* draft_map: how a draft model with another vocabulary reads and writes the tokens of the model it drafts for.
 *
 * Tokens of the two are the same where they stand for the same bytes, or where both are control tokens with the same name. What
 * the draft model has no such token for it reads as the one of its tokens that is the longest end of it, which says most about
 * what follows; it never drafts that. A wrong reading costs acceptance, nothing else: each draft token is checked. */
#include "run/speculate_int.h"

#include <stdlib.h>

#define CONTROL 0xff   /* begins the keys of control tokens; no text has this byte */
#define LEAST_COMMON 4 /* a quarter of the smaller vocabulary */

struct entry {
    struct str key;
    int32_t id;
};

struct vocabulary {
    const struct tok *tok;
    struct entry *entries; /* [n] by key, then id */
    uint32_t n;
};

static int by_key(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    const int order = memcmp(x->key.p, y->key.p, size_min(x->key.n, y->key.n));
    if (order) return order;
    return x->key.n != y->key.n ? (x->key.n > y->key.n) - (x->key.n < y->key.n) : (x->id > y->id) - (x->id < y->id);
}

/* What a token is told by; empty for a hole. It is in b until the next call. */
static int key_of(const struct tok *t, int32_t id, struct buf *b, struct str *out, struct err *e)
{
    b->n = 0;
    if (tok_is_special(t, id)) {
        if (buf_c(b, (char)CONTROL) < 0 || buf_str(b, tok_entry(t, id)) < 0) return fail_nomem(e, "a token", b->n);
    } else if ((size_t)id < tok_n_vocab(t)) {
        TRY(tok_bytes(t, id, b, e));
    }
    *out = (struct str){b->p, b->n};
    return 0;
}

static int read_vocabulary(const struct tok *t, uint32_t n, struct arena *a, struct buf *b, struct vocabulary *out,
                           struct err *e)
{
    struct str key;
    *out = (struct vocabulary){.tok = t, .entries = arena_array(a, n, sizeof *out->entries)};
    if (!out->entries) return fail_nomem(e, "a vocabulary", n * sizeof *out->entries);
    for (uint32_t id = 0; id < n; id++) {
        TRY(key_of(t, (int32_t)id, b, &key, e));
        if (key.n == 0) continue;
        char *copy = arena_alloc(a, key.n);
        if (!copy) return fail_nomem(e, "a vocabulary", key.n);
        memcpy(copy, key.p, key.n);
        out->entries[out->n++] = (struct entry){{copy, key.n}, (int32_t)id};
    }
    qsort(out->entries, out->n, sizeof *out->entries, by_key);
    return 0;
}

/* The last token with a key, since bytes come before the texts that are the same; -1: none. */
static int32_t find(const struct vocabulary *v, struct str key)
{
    const struct entry after = {key, INT32_MAX};
    uint32_t low = 0, high = v->n;
    while (low < high) {
        const uint32_t mid = low + (high - low) / 2;
        if (by_key(&v->entries[mid], &after) <= 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low && str_eq(v->entries[low - 1].key, key) ? v->entries[low - 1].id : -1;
}

/* The token that the draft model reads for a key that it does not have. */
static int32_t find_end(const struct vocabulary *v, struct str key)
{
    for (size_t skip = 1; skip < key.n; skip++) {
        const int32_t id = find(v, (struct str){key.p + skip, key.n - skip});
        if (id >= 0) return id;
    }
    return 0;
}

static bool is_stop(const struct tok *t, int32_t id)
{
    size_t n;
    const int32_t *stops = tok_stops(t, &n);
    for (size_t i = 0; i < n; i++)
        if (stops[i] == id) return true;
    return false;
}

/* By its key, else by what it is for; -1: none. */
static int32_t counterpart(const struct vocabulary *v, const struct tok *large, int32_t id, struct str key)
{
    const int32_t same = key.n ? find(v, key) : -1;
    if (same >= 0) return same;
    if (id == tok_bos(large)) return tok_bos(v->tok);
    return is_stop(large, id) ? tok_eos(v->tok) : -1;
}

/* A token of the draft model becomes one token only, the last of those that it stands for. Returns how many it can make. */
static uint32_t keep_last(int32_t *map, uint32_t n, uint32_t n_draft, bool *taken)
{
    uint32_t n_common = 0;
    memset(taken, 0, n_draft * sizeof *taken);
    for (uint32_t id = n; id-- > 0;) {
        if (map[id] < 0) continue;
        if (taken[map[id]]) {
            map[id] = ~map[id];
            continue;
        }
        taken[map[id]] = true;
        n_common++;
    }
    return n_common;
}

static int fill(const struct tok *large, uint32_t n, const struct tok *draft, uint32_t n_draft, struct arena *scratch,
                struct buf *b, int32_t *map, struct err *e)
{
    struct vocabulary v;
    struct str key;
    bool *taken = arena_array(scratch, n_draft, sizeof *taken);
    if (!taken) return fail_nomem(e, "a vocabulary", n_draft);
    TRY(read_vocabulary(draft, n_draft, scratch, b, &v, e));
    for (uint32_t id = 0; id < n; id++) {
        TRY(key_of(large, (int32_t)id, b, &key, e));
        const int32_t same = counterpart(&v, large, (int32_t)id, key);
        map[id] = same >= 0 && (uint32_t)same < n_draft ? same : ~find_end(&v, key);
    }
    const uint32_t n_common = keep_last(map, n, n_draft, taken);
    if (n_common < size_min(n, n_draft) / LEAST_COMMON)
        return fail(e, ERR_ARG,
                    "the draft model's vocabulary has %u of the %u tokens of the model; use a draft model with the same "
                    "vocabulary, or one that is closer",
                    n_common, n);
    return 0;
}

/* What one vocabulary has beyond the other is padding. */
static bool same_ids(const struct tok *a, const struct tok *b)
{
    const size_t n = size_min(tok_n_vocab(a), tok_n_vocab(b));
    for (size_t id = 0; id < n; id++)
        if (!str_eq(tok_entry(a, (int32_t)id), tok_entry(b, (int32_t)id))) return false;
    return true;
}

int draft_map_new(const struct tok *large, uint32_t n_vocab, const struct tok *draft, uint32_t n_draft_vocab, struct arena *a,
                  int32_t **out, struct err *e)
{
    struct arena scratch = {0};
    struct buf b = {0};
    *out = NULL;
    if (same_ids(large, draft)) return 0;
    int32_t *map = arena_array(a, n_vocab, sizeof *map);
    const int rc = map ? fill(large, n_vocab, draft, n_draft_vocab, &scratch, &b, map, e)
                       : fail_nomem(e, "a vocabulary", n_vocab * sizeof *map);
    if (rc == 0) *out = map;
    buf_fini(&b);
    arena_fini(&scratch);
    return rc;
}
