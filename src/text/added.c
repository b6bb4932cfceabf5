/* Added tokens: those that are cut out of a text before anything else looks at it. A set is sorted by text and never changes.
 * encode.c looks in one set for the raw text and in another for the normalized one. */
#include "text/text_int.h"

/* Heap sort: in place, n log n whatever the file holds. */
static void sort_added(struct tok_added *v, size_t n)
{
    for (size_t build = n / 2, end = n; end > 1;) {
        if (build > 0) {
            build--;
        } else {
            struct tok_added top = v[0];
            v[0] = v[--end];
            v[end] = top;
        }
        struct tok_added x = v[build];
        size_t at = build;
        for (size_t kid; (kid = 2 * at + 1) < end; at = kid) {
            if (kid + 1 < end && str_cmp(v[kid].text, v[kid + 1].text) < 0) kid++;
            if (str_cmp(x.text, v[kid].text) >= 0) break;
            v[at] = v[kid];
        }
        v[at] = x;
    }
}

int tok_set_added(struct tok *t, unsigned set, struct tok_added *v, size_t n, struct err *e)
{
    struct tok_added_set *s = &t->added[set];
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (v[i].text.n > ADDED_BYTES_MAX)
            return fail(e, ERR_UNSUPPORTED, "added token %d is %zu bytes long, supported are at most %d", (int)v[i].id,
                        v[i].text.n, ADDED_BYTES_MAX);
        if (v[i].text.n) v[kept++] = v[i];
    }
    sort_added(v, kept);
    s->v = v;
    for (size_t i = 0; i < kept; i++)
        if (i + 1 == kept || !str_eq(v[i].text, v[i + 1].text)) v[s->n++] = v[i];
    for (size_t i = 0; i < s->n; i++) s->first[(size_t)(unsigned char)v[i].text.p[0] + 1]++;
    for (size_t b = 0; b < 256; b++) s->first[b + 1] += s->first[b];
    return 0;
}

/* The longest token of the set that s starts with, NULL where there is none: the tokens are sorted, so those that agree
 * with s so far are a range, which each further byte narrows by bisection. */
static const struct tok_added *longest_added(const struct tok_added_set *set, struct str s, unsigned flags)
{
    const struct tok_added *v = set->v, *best = NULL;
    size_t lo = set->first[(unsigned char)s.p[0]], hi = set->first[(size_t)(unsigned char)s.p[0] + 1];
    for (size_t d = 1; lo < hi; d++) {
        if (v[lo].text.n == d) {
            if (!v[lo].special || (flags & TOK_PARSE_SPECIAL)) best = &v[lo];
            lo++;
        }
        if (d == s.n) break;
        unsigned char c = (unsigned char)s.p[d];
        size_t ends[2]; /* first entry with byte d at least c, at least c + 1 */
        for (unsigned k = 0; k < 2; k++) {
            size_t a = lo, b = hi;
            while (a < b) {
                size_t mid = a + (b - a) / 2;
                if ((unsigned)(unsigned char)v[mid].text.p[d] < c + k)
                    a = mid + 1;
                else
                    b = mid;
            }
            ends[k] = a;
        }
        lo = ends[0];
        hi = ends[1];
    }
    return best;
}

static size_t skip_space(struct str s, size_t at)
{
    uint32_t cp;
    for (size_t n; at < s.n && (n = utf8_decode((struct str){s.p + at, s.n - at}, &cp)) != 0; at += n)
        if (uclass_of(cp) != U_SPACE) break;
    return at;
}

static bool touches_word(struct str s, size_t from, size_t to)
{
    uint32_t cp;
    if (from > 0) {
        utf8_before(s, from, &cp);
        if (uclass_is_word(cp)) return true;
    }
    return to < s.n && utf8_decode((struct str){s.p + to, s.n - to}, &cp) && uclass_is_word(cp);
}

/* Widens *h, which was found at [from, to), by the white space that a takes along; at is where text goes on. */
static void take_space(const struct tok_added *a, struct str s, size_t at, struct added_hit *h)
{
    uint32_t cp;
    for (size_t prev; a->lstrip && h->from > at; h->from = prev) {
        prev = utf8_before(s, h->from, &cp);
        if (prev < at || uclass_of(cp) != U_SPACE) break;
    }
    if (a->lstrip) h->from = size_max(h->from, at);
    if (a->rstrip) h->to = h->space_end = h->to < h->space_end ? h->space_end : skip_space(s, h->to);
}

/* The library finds all tokens before it looks at the white space beside them, and goes on behind a token even where that does
 * not count. So tokens in the white space that another took along are found as well, but for those of which it leaves nothing,
 * and text goes on behind the last of them. */
void added_next(const struct tok_added_set *set, struct str s, unsigned flags, struct added_hit *h)
{
    for (size_t i = h->after; set->n && i < s.n; i++) {
        const unsigned char b = (unsigned char)s.p[i];
        if (set->first[b] == set->first[(size_t)b + 1]) continue;
        const struct tok_added *a = longest_added(set, (struct str){s.p + i, s.n - i}, flags);
        if (!a) continue;
        struct added_hit hit = {i, i + a->text.n, i + a->text.n, h->space_end, a->id};
        i = hit.after - 1;
        if (a->single_word && touches_word(s, hit.from, hit.to)) continue;
        take_space(a, s, h->to, &hit);
        h->space_end = hit.space_end;
        if (hit.from >= hit.to) continue;
        *h = hit;
        return;
    }
    *h = (struct added_hit){s.n, s.n, s.n, s.n, -1};
}
