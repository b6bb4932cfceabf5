/* jinja_str.c: what Python's str does: case, white space, classes of characters, searching, splitting, stripping, padding,
 * repr. Positions are code points at the surface and bytes inside; Unicode properties come from utf8proc.
 *
 * The methods are rows of jstr_methods; the filters of the same meaning (jinja_filters.c) call the same functions. Results that
 * are a part of their source share its bytes. */
#include "text/jinja_int.h"

#include <utf8proc.h>

/* ---- characters ------------------------------------------------------------------------------------------------- */

size_t jstr_next_wide(struct str s, size_t at, uint32_t *cp)
{
    size_t k = utf8_decode((struct str){s.p + at, s.n - at}, cp);
    if (k > 0) return k;
    *cp = 0xFFFD;
    return 1;
}

bool jstr_is_space(uint32_t cp)
{
    if (cp < 0x80) return cp == ' ' || (cp >= 9 && cp <= 13) || (cp >= 0x1C && cp <= 0x1F);
    return cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

static bool is_alpha(uint32_t cp)
{
    if (cp < 0x80) return (cp | 0x20) >= 'a' && (cp | 0x20) <= 'z';
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

static bool is_decimal(uint32_t cp)
{
    if (cp < 0x80) return cp >= '0' && cp <= '9';
    return utf8proc_category((utf8proc_int32_t)cp) == UTF8PROC_CATEGORY_ND;
}

/* Digits that are no decimals: superscripts, subscripts, circled and the like (Unicode, Numeric_Type=Digit). */
static bool is_digit(uint32_t cp)
{
    static const uint32_t ranges[][2] = {
        {0xB2, 0xB3},     {0xB9, 0xB9},       {0x1369, 0x1371},   {0x19DA, 0x19DA},   {0x2070, 0x2070},
        {0x2074, 0x2079}, {0x2080, 0x2089},   {0x2460, 0x2468},   {0x2474, 0x247C},   {0x2488, 0x2490},
        {0x24EA, 0x24EA}, {0x24F5, 0x24FD},   {0x24FF, 0x24FF},   {0x2776, 0x277E},   {0x2780, 0x2788},
        {0x278A, 0x2792}, {0x10A40, 0x10A43}, {0x10E60, 0x10E68}, {0x11052, 0x1105A}, {0x1F100, 0x1F10A},
    };
    if (is_decimal(cp)) return true;
    for (size_t i = 0; i < COUNT_OF(ranges); i++)
        if (cp >= ranges[i][0] && cp <= ranges[i][1]) return true;
    return false;
}

/* Everything with a numeric value but the numerals among the Han characters. */
static bool is_numeric(uint32_t cp)
{
    if (cp < 0x80) return cp >= '0' && cp <= '9';
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO;
}

static bool is_alnum(uint32_t cp)
{
    return is_alpha(cp) || is_numeric(cp);
}

bool jstr_is_word(uint32_t cp)
{
    return cp == '_' || is_alnum(cp);
}

static bool is_ascii(uint32_t cp)
{
    return cp < 0x80;
}

static bool is_printable(uint32_t cp)
{
    if (cp < 0x80) return cp >= 0x20 && cp < 0x7F;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
        return false;
    default:
        return true;
    }
}

static bool is_lower(uint32_t cp)
{
    return cp < 0x80 ? cp >= 'a' && cp <= 'z' : utf8proc_islower((utf8proc_int32_t)cp) != 0;
}

static bool is_upper(uint32_t cp)
{
    if (cp < 0x80) return cp >= 'A' && cp <= 'Z';
    return utf8proc_isupper((utf8proc_int32_t)cp) != 0;
}

static bool is_cased(uint32_t cp)
{
    return is_lower(cp) || is_upper(cp) || utf8proc_category((utf8proc_int32_t)cp) == UTF8PROC_CATEGORY_LT;
}

/* ---- case ----------------------------------------------------------------------------------------------------------- */

/* Characters whose upper case is more than one character (Unicode, SpecialCasing): those that occur in running text. */
static const struct {
    uint32_t cp;
    const char *upper, *title;
} special_upper[] = {
    {0xDF, "SS", "Ss"},
    {0x149, "\xCA\xBCN", "\xCA\xBCN"},
    {0x1F0, "J\xCC\x8C", "J\xCC\x8C"},
    {0x587, "\xD4\xB5\xD5\x92", "\xD4\xB5\xD6\x82"},
    {0xFB00, "FF", "Ff"},
    {0xFB01, "FI", "Fi"},
    {0xFB02, "FL", "Fl"},
    {0xFB03, "FFI", "Ffi"},
    {0xFB04, "FFL", "Ffl"},
    {0xFB05, "ST", "St"},
    {0xFB06, "ST", "St"},
};

enum char_case { TO_LOWER, TO_UPPER, TO_TITLE, TO_FOLD };

/* Writes the character in another case; at most 16 bytes. */
static size_t map_char(uint32_t cp, enum char_case to, char out[16])
{
    if (cp < 0x80) {
        bool lower = cp >= 'a' && cp <= 'z', upper = cp >= 'A' && cp <= 'Z';
        if ((lower && (to == TO_UPPER || to == TO_TITLE)) || (upper && (to == TO_LOWER || to == TO_FOLD))) cp ^= 0x20;
        out[0] = (char)cp;
        return 1;
    }
    if (to == TO_UPPER || to == TO_TITLE) {
        for (size_t i = 0; i < COUNT_OF(special_upper); i++) {
            if (special_upper[i].cp != cp) continue;
            const char *z = to == TO_UPPER ? special_upper[i].upper : special_upper[i].title;
            size_t n = strlen(z);
            memcpy(out, z, n);
            return n;
        }
    }
    if (to == TO_LOWER && cp == 0x130) { /* capital I with a dot keeps the dot */
        memcpy(out, "i\xCC\x87", 3);
        return 3;
    }
    utf8proc_int32_t c = (utf8proc_int32_t)cp, folded[4];
    if (to == TO_FOLD) {
        utf8proc_ssize_t n = utf8proc_decompose_char(c, folded, 4, UTF8PROC_CASEFOLD, NULL);
        size_t k = 0;
        for (utf8proc_ssize_t i = 0; i < n && n <= 4; i++) k += utf8_encode((uint32_t)folded[i], out + k);
        if (k > 0) return k;
    } else {
        c = to == TO_LOWER ? utf8proc_tolower(c) : to == TO_UPPER ? utf8proc_toupper(c) : utf8proc_totitle(c);
    }
    return utf8_encode((uint32_t)c, out);
}

/* A capital sigma at the end of a word has a lower case of its own. */
static bool is_final_sigma(struct str s, size_t at, size_t len, bool after_cased)
{
    uint32_t next = 0;
    if (at + len < s.n) jstr_next(s, at + len, &next);
    return after_cased && !is_cased(next);
}

static enum char_case case_of(enum jstr_case how, uint32_t cp, bool first, bool after_cased, bool after_separator)
{
    switch (how) {
    case JCASE_UPPER:
        return TO_UPPER;
    case JCASE_LOWER:
        return TO_LOWER;
    case JCASE_FOLD:
        return TO_FOLD;
    case JCASE_SWAP:
        return is_upper(cp) ? TO_LOWER : TO_UPPER;
    case JCASE_CAPITALIZE:
        return first ? TO_TITLE : TO_LOWER;
    case JCASE_TITLE:
        return after_cased ? TO_LOWER : TO_TITLE;
    case JCASE_FILTER_TITLE:
        return after_separator ? TO_UPPER : TO_LOWER;
    }
    return TO_LOWER;
}

int jstr_put_case(struct jrt *rt, struct str s, enum jstr_case how)
{
    char chunk[256];
    size_t n = 0;
    bool after_cased = false, after_separator = true;
    for (size_t at = 0; at < s.n;) {
        uint32_t cp;
        size_t k = jstr_next(s, at, &cp);
        enum char_case to = case_of(how, cp, at == 0, after_cased, after_separator);
        if (k == 1 && cp == 0xFFFD)
            chunk[n++] = s.p[at]; /* not UTF-8: stays as it is */
        else if (cp == 0x3A3 && to == TO_LOWER)
            n += utf8_encode(is_final_sigma(s, at, k, after_cased) ? 0x3C2 : 0x3C3, chunk + n);
        else
            n += map_char(cp, to, chunk + n);
        after_cased = is_cased(cp) && !(how == JCASE_FILTER_TITLE && after_separator); /* what follows is lowered by itself */
        after_separator = jstr_is_space(cp) || cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<';
        at += k;
        if (n < sizeof chunk - 16 && at < s.n) continue;
        TRY(jrt_put(rt, chunk, n));
        n = 0;
    }
    return 0;
}

static int m_case(struct jrt *rt, struct jcall *c, struct jv *out)
{
    size_t mark = jrt_mark(rt);
    TRY(jstr_put_case(rt, jv_text(c->self), (enum jstr_case)c->def->arg));
    return jrt_take(rt, mark, out);
}

/* ---- classes of characters --------------------------------------------------------------------------------------------- */

static int m_is(struct jrt *rt, struct jcall *c, struct jv *out)
{
    static bool (*const tests[])(uint32_t) = {is_alpha,   is_alnum,      is_digit, is_decimal,
                                              is_numeric, jstr_is_space, is_ascii, is_printable};
    enum { FIRST_TRUE_WHEN_EMPTY = 6 };
    struct str s = jv_text(c->self);
    TRY(jrt_spend_bytes(rt, s.n * 4));
    bool all = s.n > 0 || c->def->arg >= FIRST_TRUE_WHEN_EMPTY;
    for (size_t at = 0; all && at < s.n;) {
        uint32_t cp;
        at += jstr_next(s, at, &cp);
        all = tests[c->def->arg](cp);
    }
    *out = jv_bool(all);
    return 0;
}

enum { IS_LOWER, IS_UPPER, IS_TITLE };

static int m_is_case(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct str s = jv_text(c->self);
    TRY(jrt_spend_bytes(rt, s.n * 4));
    bool any = false, good = true, after_cased = false;
    for (size_t at = 0; good && at < s.n;) {
        uint32_t cp;
        at += jstr_next(s, at, &cp);
        bool lower = is_lower(cp), cased = is_cased(cp);
        if (c->def->arg == IS_LOWER) good = !cased || lower;
        if (c->def->arg == IS_UPPER) good = !cased || is_upper(cp);
        if (c->def->arg == IS_TITLE) good = !cased || lower == after_cased;
        any |= cased;
        after_cased = cased;
    }
    *out = jv_bool(any && good);
    return 0;
}

/* ---- stripping ------------------------------------------------------------------------------------------------------------
 */

/* The character that ends before `end`. */
static size_t before(struct str s, size_t end, uint32_t *cp)
{
    size_t at = end - 1;
    while (at > 0 && end - at < 4 && ((unsigned char)s.p[at] & 0xC0) == 0x80) at--;
    size_t k = jstr_next((struct str){s.p, end}, at, cp);
    if (at + k == end) return k;
    *cp = 0xFFFD; /* a stray byte */
    return 1;
}

struct str jstr_trim(struct str s, bool left, bool right)
{
    uint32_t cp;
    while (left && s.n > 0) {
        size_t k = jstr_next(s, 0, &cp);
        if (!jstr_is_space(cp)) break;
        s.p += k;
        s.n -= k;
    }
    while (right && s.n > 0) {
        size_t k = before(s, s.n, &cp);
        if (!jstr_is_space(cp)) break;
        s.n -= k;
    }
    return s;
}

/* Is the character of k bytes at p one of chars? */
static bool one_of(struct str chars, const char *p, size_t k)
{
    for (size_t at = 0; at < chars.n;) {
        uint32_t cp;
        size_t m = jstr_next(chars, at, &cp);
        if (m == k && memcmp(chars.p + at, p, k) == 0) return true;
        at += m;
    }
    return false;
}

int jstr_strip(struct jrt *rt, struct jv s, struct jv chars, bool left, bool right, struct jv *out)
{
    struct str text = jv_text(s), set, rest;
    if (jv_is_none_or_absent(chars)) {
        rest = jstr_trim(text, left, right);
        TRY(jrt_spend_bytes(rt, text.n - rest.n));
    } else {
        uint32_t cp;
        TRY(jv_want_str(rt, chars, "strip", &set));
        rest = text;
        while (left && rest.n > 0) {
            size_t k = jstr_next(rest, 0, &cp);
            TRY(jrt_spend(rt, 1 + set.n));
            if (!one_of(set, rest.p, k)) break;
            rest.p += k;
            rest.n -= k;
        }
        while (right && rest.n > 0) {
            size_t k = before(rest, rest.n, &cp);
            TRY(jrt_spend(rt, 1 + set.n));
            if (!one_of(set, rest.p + rest.n - k, k)) break;
            rest.n -= k;
        }
    }
    size_t from = rest.n ? (size_t)(rest.p - text.p) : 0;
    return jv_substr(rt, s, from, from + rest.n, out);
}

enum { STRIP_LEFT = 1, STRIP_RIGHT = 2 };

static int m_strip(struct jrt *rt, struct jcall *c, struct jv *out)
{
    return jstr_strip(rt, c->self, c->a[0], c->def->arg & STRIP_LEFT, c->def->arg & STRIP_RIGHT, out);
}

static int m_remove_affix(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct str s = jv_text(c->self), affix;
    TRY(jv_want_str(rt, c->a[0], c->def->name, &affix));
    *out = c->self;
    if (c->def->arg == STRIP_LEFT && str_starts(s, affix)) return jv_substr(rt, c->self, affix.n, s.n, out);
    if (c->def->arg == STRIP_RIGHT && str_ends(s, affix)) return jv_substr(rt, c->self, 0, s.n - affix.n, out);
    return 0;
}

/* ---- searching
 * --------------------------------------------------------------------------------------------------------------- */

/* The bytes [*lo, *hi) that the optional arguments start and end of a search mean. *none: start lies behind the end. */
static int search_window(struct jrt *rt, struct jv s, struct jv start, struct jv end, size_t *lo, size_t *hi, bool *none)
{
    struct jv bound[3] = {start.kind == JK_ABSENT ? jv_none() : start, end.kind == JK_ABSENT ? jv_none() : end, jv_none()};
    struct jrange r;
    size_t chars;
    *lo = 0;
    *hi = s.u.s->n;
    *none = false;
    if (bound[0].kind == JK_NONE && bound[1].kind == JK_NONE) return 0;
    TRY(jv_chars(rt, s.u.s, &chars));
    TRY(jv_slice_range(rt, bound, (int64_t)chars, &r));
    *none = r.stop < r.start || (bound[0].kind == JK_INT && bound[0].u.i > (int64_t)chars);
    TRY(jv_byte_of(rt, s.u.s, (size_t)r.start, lo));
    return jv_byte_of(rt, s.u.s, (size_t)r.stop, hi);
}

static int find_last(struct jrt *rt, struct str hay, struct str needle, size_t from, size_t *at)
{
    *at = SIZE_MAX;
    if (needle.n > hay.n || from > hay.n - needle.n) return 0;
    for (size_t i = hay.n - needle.n + 1; i-- > from;) {
        TRY(jrt_spend_bytes(rt, 1));
        if (needle.n > 0 && hay.p[i] != needle.p[0]) continue;
        TRY(jrt_spend_bytes(rt, needle.n));
        if (needle.n > 0 && memcmp(hay.p + i, needle.p, needle.n) != 0) continue;
        *at = i;
        return 0;
    }
    return 0;
}

enum { FIND_LAST = 1, FIND_OR_FAIL = 2 };

static int m_find(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct str s = jv_text(c->self), sub;
    size_t lo, hi, at = SIZE_MAX, chars = 0;
    bool none;
    TRY(jv_want_str(rt, c->a[0], c->def->name, &sub));
    TRY(search_window(rt, c->self, c->a[1], c->a[2], &lo, &hi, &none));
    s.n = hi;
    if (!none) TRY((c->def->arg & FIND_LAST) ? find_last(rt, s, sub, lo, &at) : jv_find(rt, s, sub, lo, &at));
    if (at == SIZE_MAX) {
        if (c->def->arg & FIND_OR_FAIL) return JFAIL(rt, "substring not found");
        *out = jv_int(-1);
        return 0;
    }
    struct jstr head = {s.p, at, c->self.u.s->chars == c->self.u.s->n ? at : JSTR_UNCOUNTED, NULL};
    TRY(jv_chars(rt, &head, &chars));
    *out = jv_int((int64_t)chars);
    return 0;
}

static int m_count(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct str s = jv_text(c->self), sub;
    size_t lo, hi, at;
    int64_t n = 0;
    bool none;
    TRY(jv_want_str(rt, c->a[0], "count", &sub));
    TRY(search_window(rt, c->self, c->a[1], c->a[2], &lo, &hi, &none));
    if (!none && sub.n == 0) {
        struct jstr part = {s.p + lo, hi - lo, JSTR_UNCOUNTED, NULL};
        size_t chars;
        TRY(jv_chars(rt, &part, &chars));
        n = (int64_t)chars + 1;
    }
    s.n = hi;
    while (!none && sub.n > 0) {
        TRY(jv_find(rt, s, sub, lo, &at));
        if (at == SIZE_MAX) break;
        n++;
        lo = at + sub.n;
    }
    *out = jv_int(n);
    return 0;
}

/* startswith, endswith: one affix, or a tuple of them. */
static int m_affix(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jv affix = c->a[0];
    size_t lo, hi, n = affix.kind == JK_TUPLE ? affix.u.list->n : 1;
    bool none, hit = false;
    TRY(search_window(rt, c->self, c->a[1], c->a[2], &lo, &hi, &none));
    struct str s = {c->self.u.s->p + lo, hi > lo ? hi - lo : 0}, a;
    for (size_t i = 0; i < n && !hit; i++) {
        TRY(jv_want_str(rt, affix.kind == JK_TUPLE ? affix.u.list->v[i] : affix, c->def->name, &a));
        TRY(jrt_spend_bytes(rt, a.n));
        hit = !none && (c->def->arg == STRIP_LEFT ? str_starts(s, a) : str_ends(s, a));
    }
    *out = jv_bool(hit);
    return 0;
}

/* ---- splitting
 * ------------------------------------------------------------------------------------------------------------------ */

static int put_part(struct jrt *rt, struct jlist *l, struct jv s, size_t from, size_t to)
{
    struct jv part;
    TRY(jv_substr(rt, s, from, to, &part));
    return jlist_put(rt, l, part);
}

static void reverse_list(struct jlist *l)
{
    for (size_t i = 0, j = l->n; i + 1 < j; i++) {
        struct jv t = l->v[i];
        l->v[i] = l->v[--j];
        l->v[j] = t;
    }
}

/* At white space, from the left. */
static int split_words(struct jrt *rt, struct jv s, uint64_t max, struct jlist *l)
{
    struct str text = jv_text(s);
    uint32_t cp;
    TRY(jrt_spend_bytes(rt, text.n));
    for (size_t at = 0; at < text.n;) {
        size_t k = jstr_next(text, at, &cp);
        if (jstr_is_space(cp)) {
            at += k;
            continue;
        }
        if (l->n == max) return put_part(rt, l, s, at, text.n);
        size_t from = at;
        while (at < text.n) {
            k = jstr_next(text, at, &cp);
            if (jstr_is_space(cp)) break;
            at += k;
        }
        TRY(put_part(rt, l, s, from, at));
    }
    return 0;
}

static int rsplit_words(struct jrt *rt, struct jv s, uint64_t max, struct jlist *l)
{
    struct str text = jv_text(s);
    uint32_t cp;
    TRY(jrt_spend_bytes(rt, text.n));
    for (size_t end = text.n; end > 0;) {
        size_t k = before(text, end, &cp);
        if (jstr_is_space(cp)) {
            end -= k;
            continue;
        }
        if (l->n == max) {
            TRY(put_part(rt, l, s, 0, end));
            break;
        }
        size_t to = end;
        while (end > 0) {
            k = before(text, end, &cp);
            if (jstr_is_space(cp)) break;
            end -= k;
        }
        TRY(put_part(rt, l, s, end, to));
    }
    reverse_list(l);
    return 0;
}

static int split_at(struct jrt *rt, struct jv s, struct str sep, uint64_t max, bool from_right, struct jlist *l)
{
    struct str text = jv_text(s);
    size_t at, start = 0, end = text.n;
    while (l->n < max) {
        TRY(from_right ? find_last(rt, (struct str){text.p, end}, sep, 0, &at) : jv_find(rt, text, sep, start, &at));
        if (at == SIZE_MAX) break;
        TRY(from_right ? put_part(rt, l, s, at + sep.n, end) : put_part(rt, l, s, start, at));
        end = at;
        start = at + sep.n;
    }
    TRY(from_right ? put_part(rt, l, s, 0, end) : put_part(rt, l, s, start, text.n));
    if (from_right) reverse_list(l);
    return 0;
}

static int m_split(struct jrt *rt, struct jcall *c, struct jv *out)
{
    bool right = c->def->arg == FIND_LAST;
    int64_t max = -1;
    struct str sep;
    struct jlist *l = jlist_new(rt, 0);
    if (!l) return rt->rc;
    if (jv_given(c->a[1])) TRY(jv_want_int(rt, c->a[1], c->def->name, &max));
    uint64_t limit = max < 0 ? UINT64_MAX : (uint64_t)max;
    *out = jv_list(l);
    if (jv_is_none_or_absent(c->a[0])) return right ? rsplit_words(rt, c->self, limit, l) : split_words(rt, c->self, limit, l);
    TRY(jv_want_str(rt, c->a[0], c->def->name, &sep));
    if (sep.n == 0) return JFAIL(rt, "empty separator");
    return split_at(rt, c->self, sep, limit, right, l);
}

static int m_partition(struct jrt *rt, struct jcall *c, struct jv *out)
{
    bool right = c->def->arg == FIND_LAST;
    struct str s = jv_text(c->self), sep;
    size_t at;
    TRY(jv_want_str(rt, c->a[0], c->def->name, &sep));
    if (sep.n == 0) return JFAIL(rt, "empty separator");
    TRY(right ? find_last(rt, s, sep, 0, &at) : jv_find(rt, s, sep, 0, &at));
    struct jlist *l = jlist_new(rt, 3);
    if (!l) return rt->rc;
    bool hit = at != SIZE_MAX;
    size_t cut = hit ? at : right ? 0 : s.n, resume = hit ? at + sep.n : cut;
    TRY(put_part(rt, l, c->self, 0, cut));
    TRY(put_part(rt, l, c->self, cut, resume));
    TRY(put_part(rt, l, c->self, resume, s.n));
    *out = jv_tuple(l);
    return 0;
}

bool jstr_line(struct str s, size_t *at, struct str *line, size_t *ending)
{
    size_t start = *at, end = start;
    if (start >= s.n) return false;
    *ending = 0;
    while (end < s.n) {
        uint32_t cp;
        size_t k = jstr_next(s, end, &cp);
        bool breaks = (cp >= 0x0A && cp <= 0x0D) || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 || cp == 0x2028 || cp == 0x2029;
        if (breaks) {
            *ending = cp == '\r' && end + 1 < s.n && s.p[end + 1] == '\n' ? 2 : k;
            break;
        }
        end += k;
    }
    *line = (struct str){s.p + start, end - start};
    *at = end + *ending;
    return true;
}

static int m_splitlines(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct str s = jv_text(c->self), line;
    bool keep = jv_given(c->a[0]) && jv_truth(c->a[0]);
    struct jlist *l = jlist_new(rt, 0);
    if (!l) return rt->rc;
    TRY(jrt_spend_bytes(rt, s.n));
    for (size_t at = 0, ending; jstr_line(s, &at, &line, &ending);)
        TRY(put_part(rt, l, c->self, (size_t)(line.p - s.p), keep ? at : at - ending));
    *out = jv_list(l);
    return 0;
}

/* ---- building
 * --------------------------------------------------------------------------------------------------------------------- */

int jstr_replace(struct jrt *rt, struct str s, struct str from, struct str to, int64_t count, struct jv *out)
{
    size_t mark = jrt_mark(rt), at = 0, hit;
    uint64_t left = count < 0 ? UINT64_MAX : (uint64_t)count;
    for (; left > 0; left--) {
        if (from.n == 0) { /* in front of every character, and at the end */
            uint32_t cp;
            TRY(jrt_put_str(rt, to));
            if (at == s.n) break;
            size_t k = jstr_next(s, at, &cp);
            TRY(jrt_put(rt, s.p + at, k));
            at += k;
            continue;
        }
        TRY(jv_find(rt, s, from, at, &hit));
        if (hit == SIZE_MAX) break;
        TRY(jrt_put(rt, s.p + at, hit - at));
        TRY(jrt_put_str(rt, to));
        at = hit + from.n;
    }
    TRY(jrt_put(rt, s.p + at, s.n - at));
    return jrt_take(rt, mark, out);
}

static int m_replace(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct str from, to;
    int64_t count = -1;
    TRY(jv_want_str(rt, c->a[0], "replace", &from));
    TRY(jv_want_str(rt, c->a[1], "replace", &to));
    if (c->self.safe) {
        struct jv escaped;
        TRY(jv_escape(rt, c->a[1], &escaped));
        to = jv_text(escaped);
    }
    if (jv_given(c->a[2])) TRY(jv_want_int(rt, c->a[2], "replace", &count));
    return jstr_replace(rt, jv_text(c->self), from, to, count, out);
}

static int m_join(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jlist *l;
    TRY(jlist_of(rt, c->a[0], &l));
    size_t mark = jrt_mark(rt);
    for (size_t i = 0; i < l->n; i++) {
        struct jv item = l->v[i];
        if (c->self.safe) TRY(jv_escape(rt, item, &item));
        if (item.kind != JK_STR)
            return JFAIL(rt, "sequence item %zu: expected str instance, %s found", i, jv_type_name(item.kind));
        if (i > 0) TRY(jrt_put_str(rt, jv_text(c->self)));
        TRY(jrt_put_str(rt, jv_text(item)));
    }
    return jrt_take(rt, mark, out);
}

/* align < 0: text at the left; > 0: at the right; 0: in the middle, the odd blank where Python puts it. */
int jstr_center(struct jrt *rt, struct jv s, int64_t width, struct str fill, int align, struct jv *out)
{
    size_t chars, mark = jrt_mark(rt);
    TRY(jv_chars(rt, s.u.s, &chars));
    uint64_t pad = width > 0 && (uint64_t)width > chars ? (uint64_t)width - chars : 0;
    uint64_t left = align < 0 ? 0 : align > 0 ? pad : pad / 2 + (pad & (uint64_t)width & 1);
    TRY(jrt_put_fill(rt, fill, left));
    TRY(jrt_put_str(rt, jv_text(s)));
    TRY(jrt_put_fill(rt, fill, pad - left));
    TRY(jrt_take(rt, mark, out));
    out->safe = s.safe;
    return 0;
}

static int m_pad(struct jrt *rt, struct jcall *c, struct jv *out)
{
    int64_t width;
    struct str fill = STR(" ");
    TRY(jv_want_int(rt, c->a[0], c->def->name, &width));
    if (jv_given(c->a[1])) {
        uint32_t cp;
        TRY(jv_want_str(rt, c->a[1], c->def->name, &fill));
        if (fill.n == 0 || jstr_next(fill, 0, &cp) != fill.n)
            return JFAIL(rt, "The fill character must be exactly one character long");
    }
    return jstr_center(rt, c->self, width, fill, c->def->arg, out);
}

static int m_zfill(struct jrt *rt, struct jcall *c, struct jv *out)
{
    int64_t width;
    struct str s = jv_text(c->self);
    size_t chars, sign = s.n > 0 && (s.p[0] == '-' || s.p[0] == '+'), mark = jrt_mark(rt);
    TRY(jv_want_int(rt, c->a[0], "zfill", &width));
    TRY(jv_chars(rt, c->self.u.s, &chars));
    TRY(jrt_put(rt, s.p, sign));
    TRY(jrt_put_fill(rt, STR("0"), width > 0 && (uint64_t)width > chars ? (uint64_t)width - chars : 0));
    TRY(jrt_put(rt, s.p + sign, s.n - sign));
    return jrt_take(rt, mark, out);
}

static int m_expandtabs(struct jrt *rt, struct jcall *c, struct jv *out)
{
    int64_t size = 8, column = 0;
    struct str s = jv_text(c->self);
    size_t mark = jrt_mark(rt);
    if (jv_given(c->a[0])) TRY(jv_want_int(rt, c->a[0], "expandtabs", &size));
    for (size_t at = 0; at < s.n;) {
        uint32_t cp;
        size_t k = jstr_next(s, at, &cp);
        if (cp == '\t') {
            int64_t pad = size > 0 ? size - column % size : 0;
            TRY(jrt_put_fill(rt, STR(" "), (uint64_t)pad));
            column += pad;
        } else {
            TRY(jrt_put(rt, s.p + at, k));
            column = cp == '\n' || cp == '\r' ? 0 : column + 1;
        }
        at += k;
    }
    return jrt_take(rt, mark, out);
}

static int m_format(struct jrt *rt, struct jcall *c, struct jv *out)
{
    return jformat_braces(rt, c->self, c, out);
}

int jstr_put_repr(struct jrt *rt, struct str s)
{
    static const char digits[] = "0123456789abcdef";
    bool single = s.n > 0 && memchr(s.p, '\'', s.n), twice = s.n > 0 && memchr(s.p, '"', s.n);
    char quote = single && !twice ? '"' : '\'';
    TRY(jrt_put(rt, &quote, 1));
    size_t start = 0, k;
    for (size_t at = 0; at < s.n; at += k) {
        uint32_t cp;
        char esc[12] = "\\";
        size_t n = 2;
        k = jstr_next(s, at, &cp);
        if (cp == (uint32_t)quote || cp == '\\') {
            esc[1] = (char)cp;
        } else if (cp == '\n' || cp == '\r' || cp == '\t') {
            esc[1] = cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't';
        } else if (!is_printable(cp)) {
            size_t width = cp < 0x100 ? 2 : cp < 0x10000 ? 4 : 8;
            esc[1] = width == 2 ? 'x' : width == 4 ? 'u' : 'U';
            for (size_t i = 0; i < width; i++) esc[2 + i] = digits[cp >> (4 * (width - 1 - i)) & 15];
            n = 2 + width;
        } else {
            continue;
        }
        TRY(jrt_put(rt, s.p + start, at - start));
        TRY(jrt_put(rt, esc, n));
        start = at + k;
    }
    TRY(jrt_put(rt, s.p + start, s.n - start));
    return jrt_put(rt, &quote, 1);
}

/* ---- numbers out of text
 * ---------------------------------------------------------------------------------------------------------- */

bool jstr_to_int(struct str s, int base, int64_t *out, bool *overflow)
{
    s = jstr_trim(s, true, true);
    *overflow = false;
    bool minus = s.n > 0 && s.p[0] == '-';
    if (s.n > 0 && (s.p[0] == '-' || s.p[0] == '+')) s = (struct str){s.p + 1, s.n - 1};
    char mark = s.n > 2 && s.p[0] == '0' ? (char)(s.p[1] | 0x20) : '\0';
    int marked = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    if (marked && (base == marked || base == 0)) {
        s = (struct str){s.p + 2, s.n - 2};
        base = marked;
        if (s.p[0] == '_') s = (struct str){s.p + 1, s.n - 1};
    }
    if (base == 0) base = 10;
    uint64_t v = 0;
    bool digit = false;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i], low = (char)(c | 0x20);
        if (c == '_' && digit && i + 1 < s.n) {
            digit = false;
            continue;
        }
        int d = c >= '0' && c <= '9' ? c - '0' : low >= 'a' && low <= 'z' ? low - 'a' + 10 : 99;
        if (d >= base) return false;
        digit = true;
        if (!u64_mul(v, (uint64_t)base, &v) || !u64_add(v, (uint64_t)d, &v)) *overflow = true;
    }
    if (!digit) return false;
    if (v > (uint64_t)INT64_MAX + minus) *overflow = true;
    *out = minus ? (int64_t)(0 - v) : (int64_t)v;
    return true;
}

/* Digits with single underscores between them, copied without these. False where there are none. */
static bool copy_digits(struct str s, size_t *at, char *out, size_t *n)
{
    bool digit = false;
    size_t start = *at;
    for (; *at < s.n; (*at)++) {
        char c = s.p[*at];
        if (c == '_' && digit && *at + 1 < s.n)
            digit = false;
        else if (c >= '0' && c <= '9') {
            digit = true;
            out[(*n)++] = c;
        } else
            break;
    }
    return digit && *at > start;
}

static bool is_word_nocase(struct str s, const char *word)
{
    size_t n = strlen(word), i = 0;
    if (s.n != n) return false;
    while (i < n && (s.p[i] | 0x20) == word[i]) i++;
    return i == n;
}

bool jstr_to_float(struct str s, double *out)
{
    enum { LONGEST = 400 };
    char text[LONGEST + 8];
    size_t n = 0, at = 0;
    s = jstr_trim(s, true, true);
    bool minus = s.n > 0 && s.p[0] == '-';
    if (s.n > 0 && (s.p[0] == '-' || s.p[0] == '+')) s = (struct str){s.p + 1, s.n - 1};
    if (s.n > LONGEST) return false;
    if (is_word_nocase(s, "inf") || is_word_nocase(s, "infinity")) {
        *out = minus ? -__builtin_inf() : __builtin_inf();
        return true;
    }
    if (is_word_nocase(s, "nan")) {
        *out = __builtin_nan("");
        return true;
    }
    text[n++] = '0';
    bool digits = copy_digits(s, &at, text, &n);
    if (digits) {
        memmove(text, text + 1, --n);
    } else if (at > 0) {
        return false;
    }
    if (at < s.n && s.p[at] == '.') {
        at++;
        text[n++] = '.';
        size_t mark = at;
        bool fraction = copy_digits(s, &at, text, &n);
        if (!fraction && (at > mark || !digits)) return false;
        if (!fraction) n--;
        digits = true;
    }
    if (!digits) return false;
    if (at < s.n && (s.p[at] | 0x20) == 'e') {
        text[n++] = 'e';
        at++;
        if (at < s.n && (s.p[at] == '-' || s.p[at] == '+')) text[n++] = s.p[at++];
        if (!copy_digits(s, &at, text, &n)) return false;
    }
    double v;
    if (at != s.n) return false;
    if (!str_f64((struct str){text, n}, &v)) v = __builtin_inf(); /* well-formed, so it is too large */
    *out = minus ? -v : v;
    return true;
}

/* ---- the table
 * ---------------------------------------------------------------------------------------------------------------------- */

const struct jbuiltin jstr_methods[] = {
    {"capitalize", "", m_case, JCASE_CAPITALIZE},
    {"casefold", "", m_case, JCASE_FOLD},
    {"center", "width fillchar?", m_pad, 0},
    {"count", "sub start? end?", m_count, 0},
    {"endswith", "suffix start? end?", m_affix, STRIP_RIGHT},
    {"expandtabs", "tabsize?", m_expandtabs, 0},
    {"find", "sub start? end?", m_find, 0},
    {"format", "*", m_format, 0},
    {"index", "sub start? end?", m_find, FIND_OR_FAIL},
    {"isalnum", "", m_is, 1},
    {"isalpha", "", m_is, 0},
    {"isascii", "", m_is, 6},
    {"isdecimal", "", m_is, 3},
    {"isdigit", "", m_is, 2},
    {"islower", "", m_is_case, IS_LOWER},
    {"isnumeric", "", m_is, 4},
    {"isprintable", "", m_is, 7},
    {"isspace", "", m_is, 5},
    {"istitle", "", m_is_case, IS_TITLE},
    {"isupper", "", m_is_case, IS_UPPER},
    {"join", "iterable", m_join, 0},
    {"ljust", "width fillchar?", m_pad, -1},
    {"lower", "", m_case, JCASE_LOWER},
    {"lstrip", "chars?", m_strip, STRIP_LEFT},
    {"partition", "sep", m_partition, 0},
    {"removeprefix", "prefix", m_remove_affix, STRIP_LEFT},
    {"removesuffix", "suffix", m_remove_affix, STRIP_RIGHT},
    {"replace", "old new count?", m_replace, 0},
    {"rfind", "sub start? end?", m_find, FIND_LAST},
    {"rindex", "sub start? end?", m_find, FIND_LAST | FIND_OR_FAIL},
    {"rjust", "width fillchar?", m_pad, 1},
    {"rpartition", "sep", m_partition, FIND_LAST},
    {"rsplit", "sep? maxsplit?", m_split, FIND_LAST},
    {"rstrip", "chars?", m_strip, STRIP_RIGHT},
    {"split", "sep? maxsplit?", m_split, 0},
    {"splitlines", "keepends?", m_splitlines, 0},
    {"startswith", "prefix start? end?", m_affix, STRIP_LEFT},
    {"strip", "chars?", m_strip, STRIP_LEFT | STRIP_RIGHT},
    {"swapcase", "", m_case, JCASE_SWAP},
    {"title", "", m_case, JCASE_TITLE},
    {"upper", "", m_case, JCASE_UPPER},
    {"zfill", "width", m_zfill, 0},
};
const size_t jstr_n_methods = COUNT_OF(jstr_methods);
