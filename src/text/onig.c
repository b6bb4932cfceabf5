/* The regular expressions of a tokenizer.json are Oniguruma's, with Ruby's syntax. Here they are written anew for PCRE2 where
 * the two differ in what they mean:
 *
 *  - sets in sets, and intersections: [a-z&&[^aeiou]]. PCRE2 knows neither, and reads the inner brackets as characters;
 *  - \w, \s, \h, \b and [:alpha:], which are other characters;
 *  - \p{Han}: the characters of a script, where PCRE2 takes those that are used with it as well; \p{Letter}, which is L;
 *  - (?m), where the dot takes line feeds; {,n}; {n,m}+, which repeats and is not possessive.
 *
 * A set that PCRE2 has no set for becomes a group of alternatives and lookaheads that matches one character; but a repeated
 * group keeps a way back for each character, and a repeated set needs none, so categories without some characters, the common
 * case, become a set again. What differs and cannot be written is an error. regex.c is the caller. */
#include <stdio.h>

#include "text/text_int.h"

#define SET_DEPTH_MAX 8

struct onig {
    struct str s; /* the expression */
    size_t at;    /* what is before it was written to out */
    struct buf *out;
    struct err *e;
    unsigned depth; /* open groups, and one for the whole */
    unsigned fold;  /* which of them began to take letters of either case as alike; 0: none */
};

static int put(struct onig *o, struct str s)
{
    return buf_str(o->out, s) < 0 ? fail_nomem(o->e, "regular expression", o->s.n) : 0;
}

static int put_z(struct onig *o, const char *z)
{
    return put(o, str_of(z));
}

/* Writes the expression as it is as far as to. */
static int copy(struct onig *o, size_t to)
{
    const struct str s = {o->s.p + o->at, to - o->at};
    o->at = to;
    return put(o, s);
}

static int unsupported(const struct onig *o, const char *what)
{
    return fail(o->e, ERR_UNSUPPORTED, "regular expression '%.*s': %s at offset %zu is not supported", STR_ARG(o->s), what,
                o->at);
}

static bool looks_at(const struct onig *o, size_t at, const char *z)
{
    return str_starts((struct str){o->s.p + at, o->s.n - at}, str_of(z));
}

/* ---- escapes ---------------------------------------------------------------------------------------------- */

/* What a backslash and a letter stand for. All end with a range, behind which a hyphen is a member whatever follows. The last
 * ranges of WORDS are letters in circles and squares. */
#define HEX_DIGITS "0-9A-Fa-f"
#define SPACES "\\x20\\x{85}\\x{A0}\\x{1680}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}\\x{2000}-\\x{200A}\\t-\\r"
#define WORDS                                                                                        \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}" \
    "\\x{1F170}-\\x{1F189}"

/* Outside of a set, \w and \b count these as well. */
#define MORE_WORDS "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}"
#define WORD "[" MORE_WORDS WORDS "]"

/* What a letter behind a backslash stands for; those of a capital are all others. NULL: nothing of its own. */
static const char *members_of(char letter, bool in_set)
{
    switch (letter) {
    case 'w':
    case 'W':
        return in_set ? WORDS : MORE_WORDS WORDS;
    case 's':
    case 'S':
        return SPACES;
    case 'h':
    case 'H':
        return HEX_DIGITS;
    default:
        return NULL;
    }
}

static bool one_of(char c, const char *chars)
{
    return c && strchr(chars, c);
}

static bool is_capital(char c)
{
    return c >= 'A' && c <= 'Z';
}

/* End of the escape at at, with its braces or digits if it has some. */
static size_t escape_end(struct str s, size_t at)
{
    const size_t end = size_min(at + 2, s.n);
    if (end < s.n && s.p[at + 1] == 'u') return size_min(end + 4, s.n);
    if (end == s.n || s.p[end] != '{' || !one_of(s.p[at + 1], "pPx")) return end;
    const char *close = memchr(s.p + end, '}', s.n - end);
    return close ? (size_t)(close - s.p) + 1 : end;
}

/* Names of categories beside those of one or two letters, which are all that PCRE2 knows. */
static const struct {
    const char *name, *category;
} long_names[] = {
    {"letter", "L"},
    {"uppercaseletter", "Lu"},
    {"lowercaseletter", "Ll"},
    {"titlecaseletter", "Lt"},
    {"modifierletter", "Lm"},
    {"otherletter", "Lo"},
    {"mark", "M"},
    {"nonspacingmark", "Mn"},
    {"spacingmark", "Mc"},
    {"enclosingmark", "Me"},
    {"number", "N"},
    {"decimalnumber", "Nd"},
    {"letternumber", "Nl"},
    {"othernumber", "No"},
    {"punctuation", "P"},
    {"punct", "P"},
    {"connectorpunctuation", "Pc"},
    {"dashpunctuation", "Pd"},
    {"openpunctuation", "Ps"},
    {"closepunctuation", "Pe"},
    {"initialpunctuation", "Pi"},
    {"finalpunctuation", "Pf"},
    {"otherpunctuation", "Po"},
    {"symbol", "S"},
    {"mathsymbol", "Sm"},
    {"currencysymbol", "Sc"},
    {"modifiersymbol", "Sk"},
    {"othersymbol", "So"},
    {"separator", "Z"},
    {"spaceseparator", "Zs"},
    {"lineseparator", "Zl"},
    {"paragraphseparator", "Zp"},
    {"other", "C"},
    {"control", "Cc"},
    {"format", "Cf"},
    {"privateuse", "Co"},
    {"unassigned", "Cn"},
};

/* Case, spaces, hyphens and underscores in a name do not count. NULL: no category. */
static const char *category_of(struct str name)
{
    char plain[32];
    size_t n = 0;
    for (size_t i = 0; i < name.n; i++) {
        const char c = name.p[i];
        if (one_of(c, " -_")) continue;
        if (n == sizeof plain) return NULL;
        plain[n++] = is_capital(c) ? (char)(c | 0x20) : c;
    }
    for (size_t i = 0; i < COUNT_OF(long_names); i++)
        if (str_is((struct str){plain, n}, long_names[i].name)) return long_names[i].category;
    return NULL;
}

/* \p{Name}, where the name may be that of a script. The names with one or two letters are categories. */
static int put_property(struct onig *o, size_t end)
{
    size_t name = o->at + 3;
    if (name < end && o->s.p[name] == '^') name++;
    if (end < name + 4) return copy(o, end);
    const char *category = category_of((struct str){o->s.p + name, end - 1 - name});
    if (category) {
        TRY(copy(o, name));
        o->at = end - 1;
        TRY(put_z(o, category));
        return copy(o, end);
    }
    char probe[64];
    const int n = snprintf(probe, sizeof probe, "\\p{sc:%.*s", (int)size_min(end - name, sizeof probe), o->s.p + name);
    const int script = n > 0 && (size_t)n < sizeof probe ? regex_valid((struct str){probe, (size_t)n}, o->e) : 0;
    if (script < 0) return script;
    TRY(copy(o, name));
    if (script) TRY(put_z(o, "sc:"));
    return copy(o, end);
}

/* in_set: as an item between brackets, but that \W and the like are a set (see set_item). */
static int put_escape(struct onig *o, bool in_set)
{
    const size_t end = escape_end(o->s, o->at);
    const char c = o->at + 1 < o->s.n ? o->s.p[o->at + 1] : '\0', *members = members_of(c, in_set);
    if ((c == 'p' || c == 'P') && end > o->at + 2) return put_property(o, end);
    if (c == 'u') {
        o->at += 2;
        TRY(put_z(o, "\\x{"));
        TRY(copy(o, end));
        return put_z(o, "}");
    }
    if (c == 'Q' || c == 'E') return unsupported(o, "\\Q or \\E");
    if ((c == 'b' || c == 'B') && !in_set) {
        o->at = end;
        return put_z(o, c == 'b' ? "(?:(?<=" WORD ")(?!" WORD ")|(?<!" WORD ")(?=" WORD "))"
                                 : "(?:(?<=" WORD ")(?=" WORD ")|(?<!" WORD ")(?!" WORD "))");
    }
    if (!members) return copy(o, end);
    o->at = end;
    if (in_set && !is_capital(c)) return put_z(o, members);
    TRY(put_z(o, is_capital(c) ? "[^" : "["));
    TRY(put_z(o, members));
    return put_z(o, "]");
}

/* ---- sets ------------------------------------------------------------------------------------------------- */

enum item { ITEM_PLAIN, ITEM_OTHERS, ITEM_SET, ITEM_AND, ITEM_CLOSE, ITEM_NONE };

/* [:alpha:] or [:^alpha:] at at: its length, else 0. */
static size_t posix_bytes(struct str s, size_t at)
{
    size_t i = at + 2;
    if (s.n - at < 4 || s.p[at + 1] != ':') return 0;
    if (s.p[i] == '^') i++;
    while (i < s.n && s.p[i] >= 'a' && s.p[i] <= 'z') i++;
    return str_starts((struct str){s.p + i, s.n - i}, STR(":]")) ? i + 2 - at : 0;
}

/* The item of a set at at, and its end; of a set inside, that of its bracket. A bracket that comes first is a member.
 * ITEM_OTHERS: \W and the like. */
static enum item set_item(struct str s, size_t at, bool first, size_t *end)
{
    *end = at + 1;
    if (at >= s.n) return ITEM_NONE;
    switch (s.p[at]) {
    case '\\':
        *end = escape_end(s, at);
        return at + 1 < s.n && is_capital(s.p[at + 1]) && members_of(s.p[at + 1], true) ? ITEM_OTHERS : ITEM_PLAIN;
    case '[': {
        const size_t posix = posix_bytes(s, at);
        if (posix) *end = at + posix;
        return posix ? ITEM_PLAIN : ITEM_SET;
    }
    case ']':
        return first ? ITEM_PLAIN : ITEM_CLOSE;
    case '&':
        if (at + 1 == s.n || s.p[at + 1] != '&') return ITEM_PLAIN;
        *end = at + 2;
        return ITEM_AND;
    default:
        return ITEM_PLAIN;
    }
}

/* The set whose bracket is at at: its end, 0 where it has none; simple: PCRE2 can write it as one. */
static size_t set_end(struct str s, size_t at, bool *simple)
{
    unsigned depth = 1;
    bool first = true;
    *simple = true;
    at++;
    do {
        if (first && at < s.n && s.p[at] == '^') at++;
        const enum item it = set_item(s, at, first, &at);
        first = it == ITEM_SET;
        if (it == ITEM_NONE) return 0;
        if (it == ITEM_SET) depth++;
        if (it == ITEM_CLOSE) depth--;
        if (it == ITEM_AND || it == ITEM_OTHERS || depth > 1) *simple = false;
    } while (depth > 0);
    return at;
}

/* [:alpha:] as far as end. */
static int put_posix(struct onig *o, size_t end)
{
    static const struct {
        const char *name, *members, *others; /* NULL: no set */
    } rows[] = {
        {"alpha", "\\p{Alphabetic}", "\\P{Alphabetic}"},
        {"lower", "\\p{Lowercase}", "\\P{Lowercase}"},
        {"upper", "\\p{Uppercase}", "\\P{Uppercase}"},
        {"punct", "\\p{P}\\p{S}", NULL},
        {"blank", "\\t\\p{Zs}", NULL},
        {"digit", "\\p{Nd}", "\\P{Nd}"},
        {"cntrl", "\\p{Cc}", "\\P{Cc}"},
        {"alnum", "\\p{Alphabetic}\\p{Nd}", NULL},
        {"space", SPACES, NULL},
        {"word", WORDS, NULL},
        {"xdigit", HEX_DIGITS, NULL},
    };
    const bool others = o->s.p[o->at + 2] == '^';
    const size_t from = o->at + (others ? 3 : 2);
    const struct str name = {o->s.p + from, end - 2 - from};
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        const char *members = others ? rows[i].others : rows[i].members;
        if (!str_is(name, rows[i].name) || !members) continue;
        o->at = end;
        return put_z(o, members);
    }
    return unsupported(o, "this set by name");
}

/* A plain item of a set. */
static int put_item(struct onig *o, size_t end)
{
    if (o->s.p[o->at] == '\\') return put_escape(o, true);
    return end - o->at > 1 ? put_posix(o, end) : copy(o, end);
}

static int put_simple(struct onig *o, size_t end)
{
    TRY(copy(o, o->at + 1));
    for (size_t next; o->at < end;) {
        set_item(o->s, o->at, false, &next);
        TRY(put_item(o, next));
    }
    return 0;
}

static int put_set(struct onig *o, unsigned depth);

/* The plain items as far as to, those in sets inside left out. They are next to others now, so what is special by its place is
 * escaped or an error. *n: how many. */
static int put_members(struct onig *o, size_t to, bool first, size_t *n)
{
    bool simple, after_set = false;
    for (size_t end; o->at < to; o->at = end, first = false) {
        const enum item it = set_item(o->s, o->at, first, &end);
        const bool dash = o->s.p[o->at] == '-';
        if (it == ITEM_PLAIN) {
            size_t next;
            const enum item then = set_item(o->s, end, false, &next);
            if (dash && (after_set || then == ITEM_SET || then == ITEM_OTHERS)) return unsupported(o, "a range of sets");
            if (o->s.p[o->at] == '^') TRY(put_z(o, "\\"));
            TRY(put_item(o, end));
            ++*n;
        }
        after_set = it != ITEM_PLAIN;
        if (it == ITEM_SET) end = set_end(o->s, o->at, &simple);
    }
    return 0;
}

/* One side of an intersection: the items as far as to. */
static int put_union(struct onig *o, size_t to, bool first, unsigned depth)
{
    const size_t from = o->at, mark = o->out->n;
    size_t end, n = 0;
    if (from == to) return unsupported(o, "an empty side of &&");
    TRY(put_z(o, "(?>["));
    TRY(put_members(o, to, first, &n));
    TRY(put_z(o, "]"));
    if (n == 0) o->out->n = mark + 3;
    for (o->at = from; o->at < to; first = false) {
        const enum item it = set_item(o->s, o->at, first, &end);
        if (it == ITEM_PLAIN) {
            o->at = end;
            continue;
        }
        if (n++) TRY(put_z(o, "|"));
        TRY(it == ITEM_SET ? put_set(o, depth + 1) : put_escape(o, true));
    }
    return put_z(o, ")");
}

/* End of the items before the next && or the end of the set. */
static size_t union_end(struct str s, size_t at, bool first)
{
    bool simple;
    for (size_t end;; at = end, first = false) {
        const enum item it = set_item(s, at, first, &end);
        if (it == ITEM_AND || it == ITEM_CLOSE) return at;
        if (it == ITEM_SET) end = set_end(s, at, &simple);
    }
}

/* ---- categories without some characters --------------------------------------------------------------------- */

static const char categories[][3] = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe",
                                     "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"};
#define ALL_CATEGORIES ((UINT32_C(1) << COUNT_OF(categories)) - 1)

/* The categories that an item \p{Lu} or \P{L} stands for, as bits; 0: it is something else. */
static uint32_t category_bits(struct str item)
{
    if (item.n < 5 || item.n > 6 || item.p[0] != '\\' || !one_of(item.p[1], "pP") || item.p[2] != '{') return 0;
    const struct str name = {item.p + 3, item.n - 4};
    uint32_t bits = 0;
    for (size_t i = 0; i < COUNT_OF(categories); i++)
        if (str_starts(str_of(categories[i]), name)) bits |= UINT32_C(1) << i;
    return bits && item.p[1] == 'P' ? ALL_CATEGORIES & ~bits : bits;
}

static int put_categories(struct onig *o, uint32_t bits)
{
    for (size_t i = 0; i < COUNT_OF(categories); i++) {
        if (!(bits & UINT32_C(1) << i)) continue;
        TRY(put_z(o, "\\p{"));
        TRY(put_z(o, categories[i]));
        TRY(put_z(o, "}"));
    }
    return 0;
}

/* [\p{L}\p{M}&&[^\p{Han}]]: where those that are left out begin, and the categories; else 0. */
static size_t difference(struct str s, size_t at, uint32_t *bits)
{
    size_t end, next;
    bool simple;
    for (*bits = 0; set_item(s, at, false, &end) == ITEM_PLAIN; at = end) {
        const uint32_t more = category_bits((struct str){s.p + at, end - at});
        if (!more) return 0;
        *bits |= more;
    }
    if (set_item(s, at, false, &at) != ITEM_AND || set_item(s, at, false, &end) != ITEM_SET || s.p[end] != '^') return 0;
    next = set_end(s, at, &simple);
    if (!simple || one_of(s.p[end + 1], "]-") || set_item(s, next, false, &next) != ITEM_CLOSE) return 0;
    return end + 1;
}

/* What is in none of the other categories, and is none of those left out. o->at is behind the bracket and, if others, its ^. */
static int put_difference(struct onig *o, size_t left_out, size_t end, uint32_t bits, bool others)
{
    size_t n = 0;
    o->at = left_out;
    TRY(put_z(o, others ? "[" : "[^"));
    TRY(put_categories(o, ALL_CATEGORIES & ~bits));
    TRY(put_members(o, end - 2, true, &n));
    o->at = end;
    return put_z(o, "]");
}

/* The set whose bracket is at o->at: as it is, or as (?:(?=A)(?=B)C), which matches one character. */
static int put_set(struct onig *o, unsigned depth)
{
    bool simple, first = true;
    const size_t end = set_end(o->s, o->at, &simple);
    if (end == 0) return fail(o->e, ERR_FORMAT, "regular expression '%.*s': a set does not end", STR_ARG(o->s));
    if (simple) return put_simple(o, end);
    if (depth == SET_DEPTH_MAX) return unsupported(o, "a set in so many others");
    const bool others = o->s.p[++o->at] == '^';
    if (others) o->at++;
    uint32_t bits;
    const size_t left_out = o->fold ? 0 : difference(o->s, o->at, &bits); /* PCRE2 folds categories, too: Ll is Lu then */
    if (left_out) return put_difference(o, left_out, end, bits, others);
    TRY(put_z(o, others ? "(?:(?!" : "(?:"));
    for (;; first = false) {
        const size_t to = union_end(o->s, o->at, first);
        const bool more = o->s.p[to] == '&';
        if (more) TRY(put_z(o, "(?="));
        TRY(put_union(o, to, first, depth));
        o->at = to + (more ? 2 : 1);
        if (!more) break;
        TRY(put_z(o, ")"));
    }
    return put_z(o, others ? ")(?s:.))" : ")");
}

/* ---- groups and repeats ----------------------------------------------------------------------------------- */

/* (?m) and (?i-m: and the like. */
static int put_options(struct onig *o)
{
    size_t end = o->at + 2;
    while (end < o->s.n && one_of(o->s.p[end], "imx-")) end++;
    o->depth++;
    if (end == o->s.n || !one_of(o->s.p[end], ":)")) return copy(o, o->at + 2);
    while (o->at < end) {
        if (o->s.p[o->at] == 'i' && !o->fold) o->fold = o->s.p[end] == ':' ? o->depth : o->depth - 1;
        if (o->s.p[o->at] != 'm') {
            TRY(copy(o, o->at + 1));
            continue;
        }
        TRY(put_z(o, "s"));
        o->at++;
    }
    return 0;
}

static bool more_repeats(struct str s, size_t at)
{
    return at < s.n && one_of(s.p[at], "?*+{");
}

/* {n,m} and {,m}, and what is behind it. A brace that begins no such thing is a character. */
static int put_interval(struct onig *o)
{
    const char *p = o->s.p;
    size_t i = o->at + 1, low = 0, digits = 0;
    bool range = false;
    for (; i < o->s.n && ((p[i] >= '0' && p[i] <= '9') || (p[i] == ',' && !range)); i++) {
        if (p[i] == ',')
            range = true;
        else
            digits++;
        if (!range) low = size_min(low * 10 + (size_t)(p[i] - '0'), UINT16_MAX);
    }
    if (i == o->s.n || p[i] != '}' || digits == 0) return copy(o, o->at + 1);
    const char next = i + 1 < o->s.n ? p[i + 1] : '\0';
    if (next == '+' && range && low <= 1 && !more_repeats(o->s, i + 2)) { /* any number */
        o->at = i + 2;
        return put_z(o, low ? "+" : "*");
    }
    if (next == '+' || (next == '?' && !range)) return unsupported(o, "a repeat of a repeat");
    TRY(copy(o, o->at + 1));
    if (p[o->at] == ',') TRY(put_z(o, "0"));
    return copy(o, i + 1);
}

static int put_char(struct onig *o, char c)
{
    if (c == '(') o->depth++;
    if (c == ')' && o->depth > 1) {
        if (o->depth == o->fold) o->fold = 0;
        o->depth--;
    }
    return copy(o, o->at + 1);
}

int onig_to_pcre(struct str regex, struct buf *out, struct err *e)
{
    struct onig o = {.s = regex, .out = out, .e = e, .depth = 1};
    while (o.at < regex.n) {
        const char c = regex.p[o.at];
        if (c == '\\')
            TRY(put_escape(&o, false));
        else if (c == '[')
            TRY(put_set(&o, 0));
        else if (c == '{')
            TRY(put_interval(&o));
        else if (looks_at(&o, o.at, "(?"))
            TRY(put_options(&o));
        else
            TRY(put_char(&o, c));
    }
    return 0;
}
