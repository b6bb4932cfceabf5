/* gram_regex: ECMAScript's regular expressions as they are with the flag u, but for what a finite automaton cannot do: no
 * assertions inside of the expression, no references to groups, no properties of characters. An anchor stands at the beginning
 * or end of an alternative of the whole expression, or of a group that does. Lazy quantifiers take the same texts as others. */
#include "grammar/grammar_int.h"

struct regex {
    struct build *b;
    struct str text;
    size_t pos;
    const struct regex_options *o;
};

static void wrong(struct regex *p, int code, const char *what)
{
    if (p->b->rc == 0) p->b->rc = fail(p->b->e, code, "%s, character %zu: %s", p->o->where, p->pos + 1, what);
}

static int peek(const struct regex *p)
{
    return p->pos < p->text.n ? (unsigned char)p->text.p[p->pos] : -1;
}

static bool take(struct regex *p, const char *z)
{
    if (!str_starts((struct str){p->text.p + p->pos, p->text.n - p->pos}, str_of(z))) return false;
    p->pos += strlen(z);
    return true;
}

/* ---- characters -------------------------------------------------------------------------------------------------------- */

static const struct span digits[] = {{'0', '9'}};
static const struct span word[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
static const struct span space[] = {{'\t', '\r'},     {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680}, {0x2000, 0x200A},
                                    {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
static const struct span line_ends[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};
static const struct {
    char letter, inverse;
    const struct span *v;
    size_t n;
} shorthands[] = {{'d', 'D', digits, COUNT_OF(digits)}, {'w', 'W', word, COUNT_OF(word)}, {'s', 'S', space, COUNT_OF(space)}};

static void add_spans(struct chars *c, const struct span *v, size_t n, bool invert)
{
    struct chars s = {0};
    for (size_t i = 0; i < n; i++) chars_add(&s, v[i].lo, v[i].hi);
    if (invert) chars_invert(&s);
    for (uint32_t i = 0; i < s.n; i++) chars_add(c, s.r[i].lo, s.r[i].hi);
}

static uint32_t read_hex(struct regex *p, unsigned n, bool braces)
{
    uint32_t v = 0;
    for (unsigned i = 0; i < n && p->b->rc == 0; i++) {
        const int c = peek(p), low = c | 0x20;
        if (braces && i > 0 && c == '}') break;
        if (c >= '0' && c <= '9')
            v = v << 4 | (uint32_t)(c - '0');
        else if (c > 0 && low >= 'a' && low <= 'f')
            v = v << 4 | (uint32_t)(low - 'a' + 10);
        else
            wrong(p, ERR_ARG, "expected a hexadecimal digit");
        p->pos += c >= 0;
    }
    if (braces && !take(p, "}")) wrong(p, ERR_ARG, "expected }");
    if (v > CHAR_LAST) wrong(p, ERR_ARG, "there is no such character");
    return v;
}

/* \uXXXX, and two of them where they are the halves of one character. */
static uint32_t read_unicode(struct regex *p)
{
    if (take(p, "{")) return read_hex(p, 6, true);
    const uint32_t high = read_hex(p, 4, false);
    if (high < 0xD800 || high > 0xDFFF) return high;
    const uint32_t low = take(p, "\\u") ? read_hex(p, 4, false) : 0;
    if (high > 0xDBFF || low < 0xDC00 || low > 0xDFFF) wrong(p, ERR_ARG, "half of a surrogate pair is no character");
    return 0x10000 + ((high & 0x3FF) << 10 | (low & 0x3FF));
}

/* What follows a backslash, as a set; *cp gets it where it is one character, else NONE. */
static void read_escape(struct regex *p, bool in_set, struct chars *c, uint32_t *cp)
{
    static const char controls[][2] = {{'n', '\n'}, {'r', '\r'}, {'t', '\t'}, {'f', '\f'}, {'v', '\v'}, {'0', 0}};
    const int letter = peek(p);
    *cp = NONE;
    p->pos += letter >= 0;
    for (size_t i = 0; i < COUNT_OF(shorthands); i++)
        if (letter == shorthands[i].letter || letter == shorthands[i].inverse) {
            add_spans(c, shorthands[i].v, shorthands[i].n, letter == shorthands[i].inverse);
            return;
        }
    for (size_t i = 0; i < COUNT_OF(controls); i++)
        if (letter == controls[i][0]) *cp = (uint32_t)controls[i][1];
    if (letter == '0' && peek(p) >= '0' && peek(p) <= '9') *cp = NONE;
    if (in_set && letter == 'b') *cp = '\b';
    if (letter == 'x') *cp = read_hex(p, 2, false);
    if (letter == 'u') *cp = read_unicode(p);
    if (letter > ' ' && letter < 0x7F && strchr("^$\\.*+?()[]{}|/-\"'`~!@#%&=:;,<>_ ", letter)) *cp = (uint32_t)letter;
    if (*cp == NONE)
        wrong(p, ERR_UNSUPPORTED, "this escape cannot be honoured (assertions, references and properties are not supported)");
    else
        chars_add(c, *cp, *cp);
}

static uint32_t read_plain(struct regex *p)
{
    uint32_t cp = 0;
    const size_t n = utf8_decode((struct str){p->text.p + p->pos, p->text.n - p->pos}, &cp);
    if (n == 0) wrong(p, ERR_ARG, "expected a character");
    p->pos += n;
    return cp;
}

/* One end of a range. */
static void set_atom(struct regex *p, struct chars *c, uint32_t *cp)
{
    if (take(p, "\\")) {
        read_escape(p, true, c, cp);
        return;
    }
    *cp = read_plain(p);
    chars_add(c, *cp, *cp);
}

static uint32_t set(struct regex *p, uint32_t at)
{
    struct chars c = {0};
    const bool invert = take(p, "^");
    while (p->b->rc == 0 && !take(p, "]")) {
        uint32_t lo, hi;
        if (peek(p) < 0) wrong(p, ERR_ARG, "expected ]");
        set_atom(p, &c, &lo);
        if (peek(p) != '-' || p->pos + 1 >= p->text.n || p->text.p[p->pos + 1] == ']') continue;
        p->pos++;
        set_atom(p, &c, &hi);
        if (lo == NONE || hi == NONE || hi < lo) wrong(p, ERR_ARG, "this is no range of characters");
        chars_add(&c, lo, hi);
    }
    if (c.full) wrong(p, ERR_LIMIT, "the set has too many parts");
    if (invert) chars_invert(&c);
    return build_chars(p->b, at, &c, p->o->in_json);
}

static uint32_t any_char(struct regex *p, uint32_t at, bool line_end_too)
{
    struct chars c = {0};
    if (!line_end_too) add_spans(&c, line_ends, COUNT_OF(line_ends), false);
    chars_invert(&c);
    return build_chars(p->b, at, &c, p->o->in_json);
}

/* ---- structure --------------------------------------------------------------------------------------------------------- */

/* Which ends of the whole expression a part of it has: there anchors may stand, and what comes before or behind a match. */
struct ends {
    bool left, right;
};

static uint32_t choice(struct regex *p, uint32_t at, struct ends ends);

static uint32_t group(struct regex *p, uint32_t at, struct ends ends)
{
    if (take(p, "?") && !take(p, ":")) {
        if (peek(p) != '<' || take(p, "<=") || take(p, "<!")) wrong(p, ERR_UNSUPPORTED, "assertions cannot be honoured");
        while (p->b->rc == 0 && !take(p, ">")) {
            if (peek(p) < 0) wrong(p, ERR_ARG, "expected > behind the name of a group");
            p->pos += peek(p) >= 0;
        }
    }
    at = choice(p, at, ends);
    if (!take(p, ")")) wrong(p, ERR_ARG, "expected )");
    return at;
}

bool regex_is_syntax(struct str text, size_t *i, bool *in_set)
{
    const char c = text.p[*i];
    if (c == '\\') {
        ++*i;
        return false;
    }
    if (!*in_set && c != '[') return true;
    *in_set = c != ']';
    return false;
}

size_t regex_group(struct str text)
{
    unsigned depth = 0;
    bool in_set = false;
    for (size_t i = 0; i < text.n; i++) {
        if (regex_is_syntax(text, &i, &in_set)) {
            if (text.p[i] == '(') depth++;
            if (text.p[i] == ')' && depth > 0 && --depth == 0) return i + 1;
        }
        if (depth == 0) return 0;
    }
    return 0;
}

/* The character behind the group that begins at the current position; 0: there is none, or no group. */
static char behind_group(const struct regex *p)
{
    const size_t size = regex_group((struct str){p->text.p + p->pos, p->text.n - p->pos});
    return size == 0 ? 0 : p->pos + size < p->text.n ? p->text.p[p->pos + size] : '|';
}

/* The ends that the group at the current position, if it is one, takes over from the sequence that it is a part of. */
static struct ends ends_of_group(const struct regex *p, struct ends ends, bool first)
{
    const char c = behind_group(p);
    const bool once = c && !strchr("*+?{", c);
    return (struct ends){ends.left && first && once, ends.right && (c == '|' || c == ')')};
}

static uint32_t atom(struct regex *p, uint32_t at, struct ends ends)
{
    struct chars c = {0};
    uint32_t cp;
    if (take(p, "(")) return group(p, at, ends);
    if (take(p, "[")) return set(p, at);
    if (take(p, ".")) return any_char(p, at, false);
    if (take(p, "\\")) {
        read_escape(p, false, &c, &cp);
        return build_chars(p->b, at, &c, p->o->in_json);
    }
    if (peek(p) == '^' || peek(p) == '$')
        wrong(p, ERR_UNSUPPORTED, "an anchor can be honoured only at the beginning or end of the whole expression");
    if (peek(p) >= 0 && strchr("*+?{}]", peek(p))) wrong(p, ERR_ARG, "there is nothing to repeat, or a \\ is missing");
    return p->b->rc < 0 ? 0 : build_char(p->b, at, read_plain(p), p->o->in_json);
}

static uint32_t read_count(struct regex *p)
{
    uint32_t v = 0;
    if (!(peek(p) >= '0' && peek(p) <= '9')) wrong(p, ERR_ARG, "expected a number");
    for (; peek(p) >= '0' && peek(p) <= '9' && p->b->rc == 0; p->pos++) {
        v = v * 10 + (uint32_t)(peek(p) - '0');
        if (v > REPEAT_MAX) wrong(p, ERR_LIMIT, "too many repetitions");
    }
    return v;
}

static bool quantifier(struct regex *p, uint32_t *min, uint32_t *max)
{
    *min = 0;
    *max = UNBOUNDED;
    if (take(p, "+")) {
        *min = 1;
    } else if (take(p, "?")) {
        *max = 1;
    } else if (take(p, "{")) {
        *min = *max = read_count(p);
        if (take(p, ",")) *max = peek(p) == '}' ? UNBOUNDED : read_count(p);
        if (*max < *min) wrong(p, ERR_ARG, "the second number must not be smaller than the first");
        if (!take(p, "}")) wrong(p, ERR_ARG, "expected }");
    } else if (!take(p, "*")) {
        return false;
    }
    (void)take(p, "?");
    return true;
}

/* An end of a whole expression: its anchor, or anything where the expression may match anywhere. */
static uint32_t edge_of(struct regex *p, uint32_t at, const char *anchor)
{
    if (take(p, anchor) || !p->o->search) return at;
    struct part any = {.from = build_state(p->b)};
    any.to = any_char(p, any.from, true);
    return build_repeat(p->b, at, any, 0, UNBOUNDED);
}

/* The end of an alternative, whose anchor may come first. */
static bool at_end(const struct regex *p, struct ends ends)
{
    const int c = peek(p);
    const char next = p->pos + 1 < p->text.n ? p->text.p[p->pos + 1] : '|';
    return c < 0 || c == '|' || c == ')' || (ends.right && c == '$' && (next == '|' || next == ')'));
}

static uint32_t sequence(struct regex *p, uint32_t at, struct ends ends)
{
    struct build *b = p->b;
    struct ends inner = ends_of_group(p, ends, true);
    if (ends.left && !inner.left) {
        at = edge_of(p, at, "^");
        ends.left = false;
    }
    for (bool first = true; b->rc == 0 && !at_end(p, ends); first = false) {
        uint32_t min, max;
        struct part part = {.from = build_state(b)};
        inner = ends_of_group(p, ends, first);
        part.to = atom(p, part.from, inner);
        if (inner.right) ends.right = false;
        if (quantifier(p, &min, &max)) {
            at = build_repeat(b, at, part, min, max);
        } else {
            build_empty(b, at, part.from);
            at = part.to;
        }
    }
    return ends.right ? edge_of(p, at, "$") : at;
}

static uint32_t choice(struct regex *p, uint32_t at, struct ends ends)
{
    struct build *b = p->b;
    const uint32_t end = build_state(b);
    if (++b->depth > NESTING_MAX) wrong(p, ERR_LIMIT, "groups are nested too deep");
    do {
        const uint32_t from = build_state(b);
        build_empty(b, at, from);
        build_empty(b, sequence(p, from, ends), end);
    } while (b->rc == 0 && take(p, "|"));
    b->depth--;
    return end;
}

uint32_t regex_append(struct build *b, uint32_t at, struct str text, const struct regex_options *o)
{
    struct regex p = {.b = b, .text = text, .o = o};
    if (!utf8_valid(text)) wrong(&p, ERR_ARG, "the text is not valid UTF-8");
    at = choice(&p, at, (struct ends){true, true});
    if (p.pos < text.n) wrong(&p, ERR_ARG, "there is no ( for this )");
    return at;
}
