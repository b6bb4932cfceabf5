/* SentencePiece's precompiled_charsmap: which characters, or rows of them, become which text. Layout, little-endian: u32 size
 * of the trie in bytes; the units of the trie, u32 each; the texts, each ending with a NUL. A unit of the double array: bits
 * 0-7 the byte that leads here (and bit 31, clear in all but values), bit 8: a value belongs to this node, bit 9: the offset is
 * in steps of 256, bits 10-30 the offset; the unit that holds a value has the place of the text in bits 0-30.
 *
 * SentencePiece, and with it GGUF, takes the longest match at each place. The Precompiled normalizer of tokenizer.json cuts the
 * text into graphemes, looks at those of less than 6 bytes as a whole, at all others character by character, and takes the
 * SHORTEST match at their start for all of it. Both are wanted as they are: models were trained with them. */
#include "text/text_int.h"

#include <utf8proc.h>

#define TEXT_BYTES_MAX 256 /* of one replacement; the longest in use has 33. Bounds what a text can grow to */
#define KEY_BYTES_MAX 64   /* a damaged trie may have circles */

static uint32_t offset_of(uint32_t unit)
{
    return (unit >> 10) << ((unit & 0x200) >> 6);
}

/* Whether a step by byte c from the node whose offset is *at leads anywhere; *unit is where. */
static bool step(const struct charsmap *m, unsigned c, size_t *at, uint32_t *unit)
{
    *at ^= c;
    if (*at >= m->units.n / 4) return false;
    *unit = load_u32(m->units.p + 4 * *at);
    if ((*unit & 0x800000FFu) != c) return false;
    *at ^= offset_of(*unit);
    return true;
}

/* Walks s through the trie. Returns the length of the longest key at its start, or of the shortest, and its text; 0: none. */
static size_t find(const struct charsmap *m, struct str s, bool shortest, struct str *to)
{
    size_t best = 0, at = offset_of(load_u32(m->units.p));
    for (size_t i = 0; i < s.n && i < KEY_BYTES_MAX; i++) {
        const unsigned char c = (unsigned char)s.p[i];
        uint32_t unit;
        if (c == 0 || !step(m, c, &at, &unit)) break;
        if (!(unit & 0x100)) continue;
        if (at >= m->units.n / 4) break;
        const size_t text = load_u32(m->units.p + 4 * at) & 0x7FFFFFFFu;
        if (text >= m->texts.n) break;
        best = i + 1;
        *to = (struct str){m->texts.p + text, strlen(m->texts.p + text)}; /* the last byte of texts is a NUL */
        if (shortest) break;
    }
    return best;
}

/* Whether c stays and no key goes on from it with an ASCII character. CR and LF make one grapheme. */
static bool stays(const struct charsmap *m, unsigned c)
{
    size_t at = offset_of(load_u32(m->units.p));
    uint32_t unit, next;
    if (c == '\r') return false;
    if (!step(m, c, &at, &unit)) return true;
    if (unit & 0x100) return false;
    for (unsigned d = 1; d < 128; d++) {
        size_t there = at;
        if (step(m, d, &there, &next)) return false;
    }
    return true;
}

int charsmap_open(struct tok *t, struct str blob, struct err *e)
{
    struct charsmap *m = &t->charsmap;
    const size_t trie = blob.n >= 4 ? load_u32(blob.p) : 0;
    if (trie == 0 || trie % 4 || trie > blob.n - 4 || blob.n - 4 == trie || blob.p[blob.n - 1] != 0)
        return fail(e, ERR_FORMAT, "precompiled_charsmap: %zu bytes that are no trie and texts", blob.n);
    TRY(tok_dup(t, blob, &m->blob, e));
    m->units = (struct str){m->blob.p + 4, trie};
    m->texts = (struct str){m->blob.p + 4 + trie, blob.n - 4 - trie};
    for (size_t i = 0, n; i < m->texts.n; i += n + 1) {
        n = strlen(m->texts.p + i);
        if (n > TEXT_BYTES_MAX) return fail(e, ERR_UNSUPPORTED, "precompiled_charsmap: a text of %zu bytes", n);
    }
    for (unsigned c = 1; c < 128; c++)
        if (stays(m, c)) m->plain[c / 64] |= (uint64_t)1 << c % 64;
    return 0;
}

/* The end of the run of ASCII characters from i that stay and have an ASCII character, or nothing, behind them. */
static size_t plain_run(const struct charsmap *m, struct str in, size_t i)
{
    for (; i < in.n; i++) {
        const unsigned char c = (unsigned char)in.p[i];
        if (c >= 0x80 || !(m->plain[c / 64] >> c % 64 & 1) || (i + 1 < in.n && (unsigned char)in.p[i + 1] >= 0x80)) break;
    }
    return i;
}

/* Length of the grapheme at the start of s, which is valid UTF-8 there. */
static size_t grapheme(struct str s)
{
    uint32_t a, b;
    utf8proc_int32_t state = 0;
    size_t i = utf8_decode(s, &a), n;
    for (; i < s.n && (n = utf8_decode((struct str){s.p + i, s.n - i}, &b)) != 0; i += n, a = b)
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)a, (utf8proc_int32_t)b, &state)) break;
    return i;
}

static int put_grapheme(const struct charsmap *m, struct str s, struct buf *out)
{
    struct str to;
    uint32_t cp;
    if (s.n < 6 && find(m, s, true, &to)) return buf_str(out, to);
    for (size_t n; s.n; s.p += n, s.n -= n) {
        n = utf8_decode(s, &cp);
        if (!find(m, (struct str){s.p, n}, true, &to)) to = (struct str){s.p, n};
        TRY(buf_str(out, to));
    }
    return 0;
}

/* Of the longest match at each place; a key may end inside of a character only where the file is damaged. */
static int put_longest(const struct charsmap *m, struct str s, size_t char_bytes, size_t *n, struct buf *out)
{
    struct str to;
    *n = find(m, s, false, &to);
    if (*n) return buf_str(out, to);
    *n = char_bytes;
    return buf_put(out, s.p, char_bytes);
}

int charsmap_run(const struct charsmap *m, struct str in, bool graphemes, struct buf *out)
{
    for (size_t i = 0, n; i < in.n; i += n) {
        struct str s = {in.p + i, in.n - i};
        uint32_t cp;
        n = plain_run(m, in, i) - i;
        if (n) {
            TRY(buf_put(out, s.p, n));
            continue;
        }
        n = utf8_decode(s, &cp);
        if (n == 0) {
            n = 1;
            TRY(buf_c(out, s.p[0]));
        } else if (graphemes) {
            n = grapheme(s);
            TRY(put_grapheme(m, (struct str){s.p, n}, out));
        } else {
            TRY(put_longest(m, s, n, &n, out));
        }
    }
    return 0;
}
