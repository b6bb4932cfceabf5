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

/* The word as the vocabulary writes it. */
static int in_alphabet(struct enc *e, struct str word)
{
    e->word.n = 0;
    TRY(buf_reserve(&e->word, word.n * 2));
    char *out = e->word.p;
    for (size_t i = 0; i < word.n; i++) {
        uint32_t cp = byte_to_char((unsigned char)word.p[i]);
        if (cp >= 0x80) *out++ = (char)(0xC0 | cp >> 6);
        *out++ = (char)(cp >= 0x80 ? 0x80 | (cp & 0x3F) : cp);
    }
    e->word.n = (size_t)(out - e->word.p);
    return 0;
}

static int put(struct enc *e, int32_t id)
{
    return ids_put(e->out, id) < 0 ? fail_nomem(e->err, "token ids", e->out->n) : 0;
}

/* The whole word as one entry; *id -1 where it is none. */
static int whole_word(struct enc *e, struct str word, int32_t *id)
{
    *id = -1;
    if (word.n > e->t->max_bytes) return 0;
    if (e->t->model == MODEL_BYTES) {
        if (in_alphabet(e, word) < 0) return fail_nomem(e->err, "word", word.n * 2);
        word = buf_view(&e->word);
    }
    *id = tok_normal(e->t, word.p, word.n);
    return 0;
}

static int start_bytes(struct enc *e, struct str word, uint32_t *n)
{
    const struct tok *t = e->t;
    TRY(enc_syms(e, word.n));
    for (size_t i = 0; i < word.n; i++) {
        int32_t id = t->byte_id[(unsigned char)word.p[i]];
        if (id < 0) id = t->unk;
        if (id < 0)
            return fail(e->err, ERR_UNSUPPORTED, "the vocabulary has no entry for the byte 0x%02X and no unknown token",
                        (unsigned)(unsigned char)word.p[i]);
        e->syms[i].v = (uint32_t)id;
    }
    *n = (uint32_t)word.n;
    return 0;
}

/* A character without an entry is its bytes, where the tokenizer says so and all have entries, else the unknown token; one
 * for a row of them where the tokenizer says so. */
static int start_chars(struct enc *e, struct str word, uint32_t *n)
{
    const struct tok *t = e->t;
    size_t k = 0;
    bool after_unk = false;
    TRY(enc_syms(e, word.n));
    for (size_t i = 0, len; i < word.n; i += len) {
        uint32_t cp;
        len = utf8_next(word.p + i, &cp);
        int32_t id = tok_normal(t, word.p + i, len);
        bool bytes = id < 0 && t->byte_fallback;
        for (size_t b = 0; b < len && bytes; b++) bytes = t->byte_id[(unsigned char)word.p[i + b]] >= 0;
        if (bytes) {
            for (size_t b = 0; b < len; b++) e->syms[k++].v = (uint32_t)t->byte_id[(unsigned char)word.p[i + b]];
        } else if (id >= 0) {
            e->syms[k++].v = (uint32_t)id;
        } else if (t->unk < 0) {
            return fail(e->err, ERR_UNSUPPORTED, "the vocabulary has no entry for U+%04X and no unknown token", (unsigned)cp);
        } else if (!(after_unk && t->fuse_unk)) {
            e->syms[k++].v = (uint32_t)t->unk;
        }
        after_unk = id < 0 && !bytes;
    }
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
        if (id >= 0) return put(e, id);
    }
    TRY(e->t->model == MODEL_BYTES ? start_bytes(e, word, &n) : start_chars(e, word, &n));
    TRY(enc_merge(e, word, n));
    for (uint32_t i = n ? 0 : SYM_END; i != SYM_END; i = e->syms[i].next) TRY(put(e, (int32_t)e->syms[i].v));
    return 0;
}
