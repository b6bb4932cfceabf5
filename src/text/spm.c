/* SentencePiece BPE: two neighbours are joined where their concatenation is an entry, best score first. What is left over and
 * is no entry is a single character, and becomes its bytes <0xXX> or the unknown token. Called by enc_word; spaces have become
 * U+2581 before. */
#include "text/text_int.h"

/* Scores as ranks: a float's bits, made to rise with its value, then turned round. Never RANK_NONE. */
static uint32_t rank_of_score(float score)
{
    uint32_t bits;
    score += 0.0f; /* -0 and 0 are equal scores */
    memcpy(&bits, &score, sizeof bits);
    uint32_t rising = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return ~rising == RANK_NONE ? RANK_NONE - 1 : ~rising;
}

uint32_t spm_rank(const struct tok *t, const char *p, size_t n)
{
    if (n > t->max_bytes) return RANK_NONE;
    int32_t id = tok_part(t, p, n, 0);
    return id < 0 ? RANK_NONE : rank_of_score((float)t->scores[id]);
}

int spm_word(struct enc *e, struct str word)
{
    uint32_t n = 0;
    size_t chars = 0;
    for (size_t i = 0; i < word.n; i++) chars += ((unsigned char)word.p[i] & 0xC0) != 0x80;
    TRY(enc_syms(e, chars));
    for (size_t i = 0; i < word.n; i++)
        if (((unsigned char)word.p[i] & 0xC0) != 0x80) e->syms[n++].v = (uint32_t)i;
    TRY(enc_merge(e, word, n));
    for (uint32_t i = n ? 0 : SYM_END; i != SYM_END; i = e->syms[i].next) {
        uint32_t next = e->syms[i].next;
        struct str s = {word.p + e->syms[i].v, (next == SYM_END ? word.n : e->syms[next].v) - e->syms[i].v};
        int32_t id = tok_part(e->t, s.p, s.n, 0);
        if (id < 0)
            TRY(enc_fallback(e, s));
        else
            TRY(enc_put(e, id));
    }
    return 0;
}
