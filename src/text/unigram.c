/* Unigram: of all ways to cut a word into entries, the one whose scores add up to the most (Viterbi). A character that is no
 * entry may stand alone at a score below all others; a row of such is one unknown token, or its bytes where the vocabulary has
 * entries for bytes.
 *
 * For each place of the word only the best way to get there is kept: its score, in a ring that is longer than the longest
 * entry, and the entry that it ends with. Of equal ways the one whose last entry is longest counts. Time is linear in the word,
 * times the bytes of the longest entry. Called by enc_word; spaces have become U+2581 before. */
#include "text/text_int.h"

#include <float.h>
#include <math.h>

#define RING 1024 /* places; entries are shorter */
#define UNKNOWN_PENALTY 10.0

/* Extends the best way to place i by every entry that starts there. Whether one of them is exactly the character. */
static bool extend(struct enc *e, struct str word, size_t i, size_t char_bytes, double score)
{
    const struct tok *t = e->t;
    bool alone = false;
    uint32_t v = t->trie.root[(unsigned char)word.p[i]];
    for (size_t k = i + 1; v; v = trie_step(&t->trie, v, (unsigned char)word.p[k++])) {
        const int32_t id = t->trie.id[v];
        if (id >= 0 && tok_in_words(t, id, e->flags)) {
            const double sum = score + t->scores[id];
            if (sum > e->ring[k % RING]) {
                e->ring[k % RING] = sum;
                e->ends[k] = id;
            }
            alone = alone || k == i + char_bytes;
        }
        if (k == word.n) break;
    }
    return alone;
}

static void forward(struct enc *e, struct str word)
{
    for (size_t k = 0; k < RING && k <= word.n; k++) e->ring[k] = -HUGE_VAL;
    e->ring[0] = 0;
    for (size_t i = 0, n; i < word.n; i += n) {
        uint32_t cp;
        const double score = e->ring[i % RING];
        n = utf8_next(word.p + i, &cp);
        for (size_t k = i; k < i + n; k++) e->ring[k % RING] = -HUGE_VAL; /* places behind this one, RING further on */
        if (extend(e, word, i, n, score)) continue;
        const double sum = score + e->t->unk_score;
        if (sum > e->ring[(i + n) % RING]) {
            e->ring[(i + n) % RING] = sum;
            e->ends[i + n] = -(int32_t)n;
        }
    }
}

/* Turns the ends of the best way into its entries from the left, at the end of the same array; returns where they begin. */
static size_t backward(struct enc *e, size_t n)
{
    size_t out = n + 1;
    for (size_t at = n; at > 0;) {
        const int32_t id = e->ends[at];
        e->ends[--out] = id;
        at -= id < 0 ? (size_t)-id : e->t->ents[id].n;
    }
    return out;
}

static int room(struct enc *e, size_t n)
{
    if (n <= e->cap_ends) return 0;
    size_t cap = n < 1024 ? 1024 : n, bytes;
    if (!e->ring) e->ring = mem_array(RING, sizeof *e->ring);
    int32_t *p = e->ring && size_mul(cap, sizeof *p, &bytes) ? mem_realloc(e->ends, bytes) : NULL;
    if (!p) return fail_nomem(e->err, "a word", n);
    e->ends = p;
    e->cap_ends = cap;
    return 0;
}

/* A row of characters without an entry, which may be one all the same once they are together. */
static int put_unknown(struct enc *e, struct str row)
{
    const int32_t id = tok_part(e->t, row.p, row.n, e->flags);
    return id >= 0 ? enc_put(e, id) : enc_fallback(e, row);
}

int unigram_word(struct enc *e, struct str word)
{
    if (word.n == 0) return 0;
    TRY(room(e, word.n + 1));
    forward(e, word);
    size_t at = 0, from = 0; /* the row of unknown characters before at begins at from */
    for (size_t i = backward(e, word.n); i <= word.n; i++) {
        const int32_t id = e->ends[i];
        const size_t n = id < 0 ? (size_t)-id : e->t->ents[id].n;
        const bool known = id >= 0 && id != e->t->unk; /* the text of the unknown token may be written out */
        if (known && from < at) TRY(put_unknown(e, (struct str){word.p + from, at - from}));
        if (known) TRY(enc_put(e, id));
        at += n;
        if (known) from = at;
    }
    return from < at ? put_unknown(e, (struct str){word.p + from, at - from}) : 0;
}

int unigram_index(struct tok *t, struct err *e)
{
    double min = HUGE_VAL;
    if (t->max_bytes >= RING)
        return fail(e, ERR_UNSUPPORTED, "an entry of %zu bytes is not supported in a Unigram vocabulary (at most %d)",
                    t->max_bytes, RING - 1);
    for (size_t id = 0; id < t->n; id++) {
        if (!t->word_use[id]) continue;
        if (!(fabs(t->scores[id]) <= (double)FLT_MAX)) /* sums of such stay finite */
            return fail(e, ERR_FORMAT, "the score of entry %zu is out of range", id);
        if (t->scores[id] < min) min = t->scores[id];
    }
    t->unk_score = (min < HUGE_VAL ? min : 0) - UNKNOWN_PENALTY;
    return trie_build(t, e);
}
