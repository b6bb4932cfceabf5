/* Detokenizer: ids become bytes, bytes become text. Each byte goes through a hold of at most four, which lets out whole
 * characters only; what can no longer become one is U+FFFD, one for each maximal part (the Unicode standard's recommended
 * practice), so the pieces of a stream put together are the text of the whole. */
#include "text/text_int.h"

static const char replacement[] = "\xEF\xBF\xBD";

void detok_init(struct detok *d, const struct tok *t, bool show_special)
{
    *d = (struct detok){.t = t, .show_special = show_special};
}

enum held { HELD_MORE, HELD_WHOLE, HELD_BAD };

/* What the held bytes are: the start of a character, one whole character, or neither by the last byte. */
static enum held held_state(const unsigned char *h, unsigned n)
{
    unsigned want = h[0] < 0x80 ? 1 : h[0] < 0xC2 ? 0 : h[0] < 0xE0 ? 2 : h[0] < 0xF0 ? 3 : h[0] < 0xF5 ? 4 : 0;
    if (want == 0) return HELD_BAD;
    if (n > 1) {
        unsigned lo = 0x80, hi = 0xBF; /* of the second byte: no overlong forms, no surrogates, nothing above 10FFFF */
        if (n == 2 && h[0] == 0xE0) lo = 0xA0;
        if (n == 2 && h[0] == 0xED) hi = 0x9F;
        if (n == 2 && h[0] == 0xF0) lo = 0x90;
        if (n == 2 && h[0] == 0xF4) hi = 0x8F;
        if (h[n - 1] < lo || h[n - 1] > hi) return HELD_BAD;
    }
    return n == want ? HELD_WHOLE : HELD_MORE;
}

static int put_byte(struct detok *d, unsigned char b, struct buf *out)
{
    if (!d->any) {
        d->any = true;
        if (d->t->strip_space && !d->t->strip_marks && b == ' ') return 0;
    }
    if (d->raw) return buf_c(out, (char)b);
    for (;;) {
        d->held[d->n_held++] = b;
        enum held state = held_state(d->held, d->n_held);
        if (state == HELD_MORE) return 0;
        bool again = state == HELD_BAD && d->n_held > 1; /* b does not belong to the bytes before it */
        unsigned n = d->n_held;
        d->n_held = 0;
        TRY(state == HELD_WHOLE ? buf_put(out, d->held, n) : buf_z(out, replacement));
        if (!again) return 0;
    }
}

static int put_bytes(struct detok *d, struct str s, struct buf *out)
{
    for (size_t i = 0; i < s.n; i++) TRY(put_byte(d, (unsigned char)s.p[i], out));
    return 0;
}

static bool in_alphabet(struct str s)
{
    uint32_t cp;
    for (size_t n; s.n; s.p += n, s.n -= n)
        if ((n = utf8_decode(s, &cp)) == 0 || char_to_byte(cp) < 0) return false;
    return true;
}

/* A normal entry of a byte-level vocabulary; one with a character outside of the alphabet stands for itself. */
static int put_alphabet(struct detok *d, struct str s, struct buf *out)
{
    uint32_t cp;
    if (!in_alphabet(s)) return put_bytes(d, s, out);
    for (size_t n; s.n; s.p += n, s.n -= n) {
        n = utf8_next(s.p, &cp);
        TRY(put_byte(d, (unsigned char)char_to_byte(cp), out));
    }
    return 0;
}

static int put_spaced(struct detok *d, struct str s, struct buf *out)
{
    const struct str mark = d->t->show_mark;
    for (size_t i = 0; i < s.n;) {
        const bool space = str_starts((struct str){s.p + i, s.n - i}, mark);
        if (!space || d->begun || !d->t->strip_marks) TRY(put_byte(d, space ? ' ' : (unsigned char)s.p[i], out));
        i += space ? mark.n : 1;
    }
    return 0;
}

/* What the WordPiece decoder makes of a space and what is behind it: punctuation and parted contractions are closed up. */
static const struct {
    const char *behind, *to;
} closed[] = {{".", "."},   {"?", "?"},           {"!", "!"},   {",", ","},     {"' ", "'"},   {"n't", "n't"},
              {"'m", "'m"}, {"do not", " don't"}, {"'s", "'s"}, {"'ve", "'ve"}, {"'re", "'re"}};

static struct str behind(struct str s, size_t n)
{
    return (struct str){s.p + n, s.n - n};
}

/* space: one is in front of s. */
static int put_closed(struct detok *d, bool space, struct str s, struct buf *out)
{
    while (space || s.n) {
        if (!space && s.p[0] != ' ') {
            TRY(put_byte(d, (unsigned char)s.p[0], out));
            s = behind(s, 1);
            continue;
        }
        if (!space) s = behind(s, 1);
        space = false;
        size_t i = 0;
        while (i < COUNT_OF(closed) && !str_starts(s, str_of(closed[i].behind))) i++;
        TRY(put_bytes(d, i < COUNT_OF(closed) ? str_of(closed[i].to) : STR(" "), out));
        if (i < COUNT_OF(closed)) s = behind(s, strlen(closed[i].behind));
    }
    return 0;
}

/* Words are parted by spaces, but for what belongs to the word before it. */
static int put_piece(struct detok *d, struct str s, struct buf *out)
{
    const struct tok *t = d->t;
    const bool inside = t->piece_first.n ? !str_starts(s, t->piece_first) : str_starts(s, t->show_mark);
    const struct str mark = !inside    ? t->piece_first
                            : d->begun ? t->show_mark
                                       : (struct str){0}; /* the first is shown as it is */
    const bool space = !inside && d->begun;
    s = (struct str){s.p + mark.n, s.n - mark.n};
    if (t->show_close) return put_closed(d, space, s, out);
    if (space) TRY(put_byte(d, ' ', out));
    return put_bytes(d, s, out);
}

static int put_suffixed(struct detok *d, struct str s, struct buf *out)
{
    const struct str mark = d->t->show_mark;
    if (d->space_due) TRY(put_byte(d, ' ', out));
    d->space_due = str_ends(s, mark);
    return put_bytes(d, (struct str){s.p, s.n - (d->space_due ? mark.n : 0)}, out);
}

static int put_joined(struct detok *d, struct str s, struct buf *out)
{
    if (d->begun) TRY(put_byte(d, ' ', out));
    return put_bytes(d, s, out);
}

static int put_entry(struct detok *d, int32_t id, struct buf *out)
{
    static int (*const puts[])(struct detok * d, struct str s, struct buf * out) = {
        [SHOW_PLAIN] = put_bytes,  [SHOW_BYTES] = put_alphabet,  [SHOW_SPACED] = put_spaced,
        [SHOW_PIECES] = put_piece, [SHOW_SUFFIX] = put_suffixed, [SHOW_JOINED] = put_joined,
    };
    const struct tok *t = d->t;
    const bool renamed = t->shown && t->shown[id].n;
    const struct str s = renamed ? t->shown[id] : tok_text(t, (size_t)id);
    const int32_t type = t->types[id];
    const bool special = type == TYPE_CONTROL || type == TYPE_UNKNOWN || type == TYPE_UNUSED;
    if (special && !d->show_special && !renamed) return 0; /* the library knows special tokens by their text */
    const int b = (type == TYPE_BYTE && !t->show_byte_names) || t->show_all_bytes ? tok_byte_name(s) : -1;
    const bool text = t->show_added_raw && (special || type == TYPE_USER);
    TRY(b >= 0 ? put_byte(d, (unsigned char)b, out) : text ? put_bytes(d, s, out) : puts[t->show](d, s, out));
    d->begun = true;
    return 0;
}

static int done(int rc, const struct buf *out, struct err *e)
{
    if (rc == ERR_LIMIT) return fail(e, rc, "the text is longer than %zu bytes", out->limit);
    return rc < 0 ? fail_nomem(e, "text", out->n) : 0;
}

int detok_put(struct detok *d, int32_t id, struct buf *out, struct err *e)
{
    if (!tok_id_ok(d->t, id))
        return fail(e, ERR_ARG, "token id %d is out of range, the vocabulary has %zu entries", (int)id, d->t->n);
    return done(put_entry(d, id, out), out, e);
}

int detok_end(struct detok *d, struct buf *out, struct err *e)
{
    if (d->n_held == 0) return 0;
    d->n_held = 0;
    return done(buf_z(out, replacement), out, e);
}

int tok_bytes(const struct tok *t, int32_t id, struct buf *out, struct err *e)
{
    struct detok d = {.t = t, .any = true, .begun = true, .raw = true};
    return detok_put(&d, id, out, e);
}

bool tok_strips_space(const struct tok *t)
{
    return t->strip_space;
}
