/* Encoding: drives a text through the stages (see text_int.h) and collects the ids. All that it writes to is in a struct enc of
 * the call. */
#include "text/text_int.h"

#define TEXT_BYTES_MAX ((size_t)1 << 29)       /* so that offsets in a normalized text fit 32 bits */
#define NORMALIZED_BYTES_MAX ((size_t)1 << 31) /* a normalizer may make a text longer */

int enc_put(struct enc *e, int32_t id)
{
    return ids_put(e->out, id) < 0 ? fail_nomem(e->err, "token ids", e->out->n) : 0;
}

/* What the cache is asked of pieces on their way through the stages. */
static int piece_known(void *ctx, unsigned stage, struct str piece)
{
    struct enc *e = ctx;
    if (!cache_takes(e, stage, piece)) return 0;
    e->piece_from[stage] = e->out->n;
    return cache_find(e, stage, piece);
}

static void piece_done(void *ctx, unsigned stage, struct str piece)
{
    struct enc *e = ctx;
    if (cache_takes(e, stage, piece)) cache_keep(e, stage, piece, e->piece_from[stage]);
}

static int encode_words(struct enc *e, struct str piece, bool first, bool resumed)
{
    struct str word;
    int rc;
    pre_start(&e->pre, piece, first, resumed);
    while ((rc = pre_next(&e->pre, &word, e->err)) > 0) TRY(enc_word(e, word));
    return rc;
}

static size_t valid_bytes(struct str s)
{
    size_t i = 0;
    while (i < s.n) {
        uint64_t w;
        if (s.n - i >= 8 && (memcpy(&w, s.p + i, 8), (w & 0x8080808080808080u) == 0)) {
            i += 8;
            continue;
        }
        uint32_t cp;
        size_t n = utf8_decode((struct str){s.p + i, s.n - i}, &cp);
        if (n == 0) break;
        i += n;
    }
    return i;
}

/* Bytes that are no UTF-8 part the piece, and are the ids of their bytes, or U+FFFD where the vocabulary has none. */
static int encode_piece(struct enc *e, struct str piece, bool first)
{
    bool resumed = false;
    while (piece.n) {
        size_t n = valid_bytes(piece);
        if (n) {
            TRY(encode_words(e, (struct str){piece.p, n}, first, resumed));
        } else {
            int32_t id = e->t->byte_id[(unsigned char)piece.p[0]];
            TRY(id >= 0 ? enc_put(e, id) : encode_words(e, STR("\xEF\xBF\xBD"), first, resumed));
            n = 1;
        }
        piece.p += n;
        piece.n -= n;
        first = false;
        resumed = true;
    }
    return 0;
}

static int encode_segment(struct enc *e, struct str segment, bool first)
{
    struct str s;
    struct added_hit h = {.id = 0};
    TRY(norm_run(e->t, segment, &e->pre.regex, e->norm, &s, e->err));
    for (size_t at = 0; h.id >= 0; at = h.to) {
        added_next(&e->t->added[1], s, e->flags, &h);
        if (h.from > at) TRY(encode_piece(e, (struct str){s.p + at, h.from - at}, first && at == 0));
        if (h.id >= 0) TRY(enc_put(e, h.id));
    }
    return 0;
}

static int encode_text(struct enc *e, struct str text)
{
    struct added_hit h = {.id = 0};
    for (size_t at = 0; h.id >= 0; at = h.to) {
        added_next(&e->t->added[0], text, e->flags, &h);
        if (h.from > at) TRY(encode_segment(e, (struct str){text.p + at, h.from - at}, at == 0));
        if (h.id >= 0) TRY(enc_put(e, h.id));
    }
    return 0;
}

/* What goes with one call, and how it is given back. */
static int enc_init(struct enc *enc, size_t text_bytes)
{
    if (text_bytes > TEXT_BYTES_MAX)
        return fail(enc->err, ERR_LIMIT, "the text has %zu bytes, the tokenizer takes at most %zu at once", text_bytes,
                    TEXT_BYTES_MAX);
    enc->norm[0].limit = enc->norm[1].limit = NORMALIZED_BYTES_MAX;
    pre_run_init(&enc->pre, enc->t, text_bytes);
    TRY(cache_new(enc, text_bytes));
    if (enc->cache) enc->pre.watch = (struct pre_watch){piece_known, piece_done, enc};
    return 0;
}

static void enc_fini(struct enc *enc)
{
    pre_run_fini(&enc->pre);
    for (size_t i = 0; i < COUNT_OF(enc->norm); i++) buf_fini(&enc->norm[i]);
    buf_fini(&enc->word);
    mem_free(enc->syms);
    mem_free(enc->heap);
    mem_free(enc->ring);
    mem_free(enc->ends);
    mem_free(enc->cache);
}

static int encode_one(struct enc *e, struct str text)
{
    const struct tok *t = e->t;
    TRY(enc_init(e, text.n));
    for (unsigned i = 0; i < t->n_prefix && (e->flags & TOK_ADD_SPECIAL); i++) TRY(enc_put(e, t->prefix[i]));
    TRY(encode_text(e, text));
    for (unsigned i = 0; i < t->n_suffix && (e->flags & TOK_ADD_SPECIAL); i++) TRY(enc_put(e, t->suffix[i]));
    return 0;
}

int tok_encode(const struct tok *t, struct str text, unsigned flags, struct ids *out, struct err *e)
{
    const size_t before = out->n;
    struct enc enc = {.t = t, .flags = flags, .out = out, .err = e};
    const int rc = encode_one(&enc, text);
    if (rc < 0) out->n = before;
    enc_fini(&enc);
    return rc;
}

static int encode_two(struct enc *e, struct str a, struct str b, struct buf *types)
{
    size_t n;
    TRY(enc_init(e, size_add(a.n, b.n, &n) ? n : SIZE_MAX));
    for (unsigned i = 0; i < e->t->n_pair; i++) {
        const struct pair_item *it = &e->t->pair[i];
        const size_t from = e->out->n;
        if (it->id == PAIR_A || it->id == PAIR_B)
            TRY(encode_text(e, it->id == PAIR_A ? a : b));
        else if (e->flags & TOK_ADD_SPECIAL)
            TRY(enc_put(e, it->id));
        for (size_t k = from; k < e->out->n; k++)
            if (buf_c(types, (char)it->type) < 0) return fail_nomem(e->err, "types of tokens", types->n);
    }
    return 0;
}

int tok_encode_pair(const struct tok *t, struct str a, struct str b, unsigned flags, struct ids *out, struct buf *types,
                    struct err *e)
{
    const size_t before = out->n, types_before = types->n;
    struct enc enc = {.t = t, .flags = flags, .out = out, .err = e};
    const int rc = encode_two(&enc, a, b, types);
    if (rc < 0) {
        out->n = before;
        types->n = types_before;
    }
    enc_fini(&enc);
    return rc;
}
