/* wordpiece: BERT's tokenizer. A word is cut from the left into the longest pieces that the vocabulary has; pieces that begin a
 * word and pieces that continue one are marked apart, in tokenizer.json by "##" before the latter, in GGUF files by U+2581
 * before the former. A word of which a part is in no piece is unknown as a whole. And WordLevel, where a word is one entry. */
#include "text/text_int.h"

/* The longest piece at the start of s, behind its mark; -1: none. */
static int32_t longest_piece(struct enc *e, struct str mark, struct str s, size_t *n, struct err *err)
{
    const struct tok *t = e->t;
    *n = size_min(s.n, t->max_bytes > mark.n ? t->max_bytes - mark.n : 0);
    e->word.n = 0;
    if (buf_str(&e->word, mark) < 0 || buf_put(&e->word, s.p, *n) < 0) return fail_nomem(err, "a word", s.n);
    for (; *n > 0; --*n) {
        const int32_t id = tok_part(t, e->word.p, mark.n + *n, e->flags);
        if (id >= 0) return id;
    }
    return -1;
}

int wordpiece_word(struct enc *e, struct str word)
{
    const struct tok *t = e->t;
    const size_t before = e->out->n;
    size_t chars = 0;
    for (size_t i = 0; i < word.n; i++) chars += ((unsigned char)word.p[i] & 0xc0) != 0x80;
    bool known = chars <= t->word_chars;
    for (size_t at = 0, n; known && at < word.n; at += n) {
        const int32_t id =
            longest_piece(e, at ? t->word_inside : t->piece_first, (struct str){word.p + at, word.n - at}, &n, e->err);
        if (id < -1) return id;
        known = id >= 0;
        if (known) TRY(enc_put(e, id));
    }
    if (known) return 0;
    e->out->n = before;
    return t->unk >= 0 ? enc_put(e, t->unk) : 0;
}

int wordlevel_word(struct enc *e, struct str word)
{
    const int32_t id = tok_part(e->t, word.p, word.n, e->flags);
    return enc_put(e, id >= 0 ? id : e->t->unk); /* the loader saw to it that there is one */
}

/* As BERT has it: white space parts words, punctuation stands alone; a word may have 100 characters. */
int wordpiece_setup(struct tok *t, struct str first, struct err *e)
{
    t->model = MODEL_PIECES;
    t->piece_first = first;
    t->word_chars = 100;
    t->show = SHOW_PIECES;
    t->show_close = true;
    TRY(pre_add(t, (struct pre_op){.find = FIND_CLASS, .behavior = PRE_REMOVED, .cls = CLASS_SPACE, .run = true}, e));
    return pre_add(t, (struct pre_op){.find = FIND_CLASS, .behavior = PRE_ISOLATED, .cls = CLASS_PUNCT}, e);
}
