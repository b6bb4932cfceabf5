/* Byte pair encoding by a list of merges: the rank of a pair is its place in the list. The symbols a word starts with are its
 * bytes (byte-level vocabularies) or its characters (SentencePiece vocabularies in a tokenizer.json). Called by enc_word. */
#include "text/text_int.h"

uint32_t bpe_find(const struct tok *t, uint32_t left, uint32_t right, size_t *slot)
{
    size_t at = (size_t)hash_mix(((uint64_t)left << 32 | right) ^ t->seed, 0xD6E8FEB86659FD93u) & t->pair_mask;
    uint32_t rank = RANK_NONE;
    for (uint32_t rank1; (rank1 = t->pair_slots[at]) != 0; at = (at + 1) & t->pair_mask) {
        const struct tok_merge *m = &t->merges[rank1 - 1];
        if ((uint32_t)m->left != left || (uint32_t)m->right != right) continue;
        rank = rank1 - 1;
        break;
    }
    *slot = at;
    return rank;
}

/* The whole word as one entry; *id -1 where it is none. */
static int whole_word(struct enc *e, struct str word, int32_t *id)
{
    *id = -1;
    if (word.n > e->t->max_bytes) return 0;
    if (e->t->model == MODEL_BYTES) {
        e->word.n = 0;
        if (alphabet_put(&e->word, word) < 0) return fail_nomem(e->err, "word", word.n * 2);
        word = buf_view(&e->word);
    }
    *id = tok_part(e->t, word.p, word.n, e->flags);
    return 0;
}

/* The entry for a character of the word, with the marks for its place; -1: there is none. */
static int symbol_at(struct enc *e, struct str word, size_t at, size_t n, int32_t *id)
{
    const struct tok *t = e->t;
    if (t->word_inside.n == 0 && t->word_end.n == 0) {
        *id = t->model == MODEL_BYTES ? t->byte_id[(unsigned char)word.p[at]] : tok_part(t, word.p + at, n, e->flags);
        if (*id >= 0 && !tok_in_words(t, *id, e->flags)) *id = -1;
        return 0;
    }
    char ch[4];
    if (t->model == MODEL_BYTES)
        n = utf8_encode(byte_to_char((unsigned char)word.p[at]), ch);
    else
        memcpy(ch, word.p + at, n);
    e->word.n = 0;
    int rc = at ? buf_str(&e->word, t->word_inside) : 0;
    if (rc == 0) rc = buf_put(&e->word, ch, n);
    if (rc == 0 && at + (t->model == MODEL_BYTES ? 1 : n) == word.n) rc = buf_str(&e->word, t->word_end);
    if (rc < 0) return fail_nomem(e->err, "word", word.n);
    *id = tok_part(t, e->word.p, e->word.n, e->flags);
    return 0;
}

/* Puts the symbols of the bytes of a character without an entry; false where some have none. */
static bool put_byte_symbols(struct enc *e, struct str ch, size_t *k)
{
    const struct tok *t = e->t;
    if (!t->byte_fallback) return false;
    for (size_t b = 0; b < ch.n; b++)
        if (t->byte_id[(unsigned char)ch.p[b]] < 0) return false;
    for (size_t b = 0; b < ch.n; b++) e->syms[(*k)++].v = (uint32_t)t->byte_id[(unsigned char)ch.p[b]];
    return true;
}

/* The symbols that a word starts with: its bytes or its characters. One without an entry is its bytes, where the tokenizer says
 * so and all have entries, else the unknown token, of which there is one for a row of them where the tokenizer says so. An
 * unknown token waits for the next entry or unknown one, and so comes behind bytes that follow it, as in the library that
 * defines the format. */
static int start(struct enc *e, struct str word, uint32_t *n)
{
    const struct tok *t = e->t;
    size_t k = 0;
    bool waits = false;
    TRY(enc_syms(e, word.n));
    for (size_t i = 0, len; i < word.n; i += len) {
        uint32_t cp = (unsigned char)word.p[i];
        int32_t id = -1;
        len = t->model == MODEL_BYTES ? 1 : utf8_next(word.p + i, &cp);
        TRY(symbol_at(e, word, i, len, &id));
        if (id < 0 && put_byte_symbols(e, (struct str){word.p + i, len}, &k)) continue;
        if (id < 0 && t->drop_unknown) continue;
        if (id < 0 && t->unk < 0)
            return fail(e->err, ERR_UNSUPPORTED, "the vocabulary has no entry for %s%02X and no unknown token",
                        t->model == MODEL_BYTES ? "the byte 0x" : "U+", (unsigned)cp);
        if (waits && (id >= 0 || !t->fuse_unk)) e->syms[k++].v = (uint32_t)t->unk;
        if (id >= 0) e->syms[k++].v = (uint32_t)id;
        waits = id < 0;
    }
    if (waits) e->syms[k++].v = (uint32_t)t->unk;
    *n = (uint32_t)k;
    return 0;
}

int bpe_word(struct enc *e, struct str word)
{
    uint32_t n = 0;
    if (word.n == 0) return 0;
    if (e->t->ignore_merges) {
        int32_t id;
        TRY(whole_word(e, word, &id));
        if (id >= 0) return enc_put(e, id);
    }
    TRY(start(e, word, &n));
    TRY(enc_merge(e, word, n));
    for (uint32_t i = n ? 0 : SYM_END; i != SYM_END; i = e->syms[i].next) TRY(enc_put(e, (int32_t)e->syms[i].v));
    return 0;
}
