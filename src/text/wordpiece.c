/* wordpiece: BERT's tokenizer. A word is cut from the left into the longest pieces that the vocabulary has; pieces that begin a
 * word and pieces that continue one are marked apart, in tokenizer.json by "##" before the latter, in GGUF files by U+2581
 * before the former. A word of which a part is in no piece is unknown as a whole. */
#include "text/text_int.h"

#define WORD_CHARS_MAX 100 /* longer words are unknown, as in the original */

/* The longest piece at the start of s, behind its mark; -1: none. */
static int32_t longest_piece(struct enc *e, struct str mark, struct str s, size_t *n, struct err *err)
{
    const struct tok *t = e->t;
    *n = size_min(s.n, t->max_bytes > mark.n ? t->max_bytes - mark.n : 0);
    e->word.n = 0;
    if (buf_str(&e->word, mark) < 0 || buf_put(&e->word, s.p, *n) < 0) return fail_nomem(err, "a word", s.n);
    for (; *n > 0; --*n) {
        const int32_t id = tok_normal(t, e->word.p, mark.n + *n);
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
    bool known = chars <= WORD_CHARS_MAX;
    for (size_t at = 0, n; known && at < word.n; at += n) {
        const int32_t id =
            longest_piece(e, at ? t->piece_inside : t->piece_first, (struct str){word.p + at, word.n - at}, &n, e->err);
        if (id < -1) return id;
        known = id >= 0;
        if (known && ids_put(e->out, id) < 0) return fail_nomem(e->err, "token ids", e->out->n);
    }
    if (known) return 0;
    e->out->n = before;
    return t->unk >= 0 && ids_put(e->out, t->unk) < 0 ? fail_nomem(e->err, "token ids", before) : 0;
}

/* BERT's words: white space parts them, punctuation stands alone. */
int wordpiece_setup(struct tok *t, struct str first, struct str inside, struct err *e)
{
    t->model = MODEL_PIECES;
    t->piece_first = first;
    t->piece_inside = inside;
    TRY(pre_add(t, (struct pre_op){.find = FIND_CLASS, .behavior = PRE_REMOVED, .cls = CLASS_SPACE, .run = true}, e));
    return pre_add(t, (struct pre_op){.find = FIND_CLASS, .behavior = PRE_ISOLATED, .cls = CLASS_PUNCT}, e);
}
