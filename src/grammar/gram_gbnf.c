/* gram_gbnf: llama.cpp's notation for grammars (GBNF).
 *
 *   rule      = name "::=" choice newline
 *   choice    = sequence { "|" sequence }
 *   sequence  = { item [ "*" | "+" | "?" | "{" m [ "," [ n ] ] "}" ] }
 *   item      = "literal" | "[" ["^"] set "]" | "." | name | "(" choice ")"
 *
 * A line end ends the rule, but not inside of parentheses, behind "|" and behind "::=". "#" begins a comment. */
#include "grammar/grammar_int.h"

struct gbnf {
    struct build *b;
    struct str text;
    size_t pos;
    struct names names; /* of rules, to their numbers */
    uint8_t *defined;   /* [RULES_MAX] */
    uint32_t root;
};

/* ---- characters of the text -------------------------------------------------------------------------------------------- */

/* Names the place and what stands there; what: "expected a name". */
static void wrong(struct gbnf *p, const char *what)
{
    size_t line = 1, start = 0;
    if (p->b->rc < 0) return;
    for (size_t i = 0; i < p->pos; i++)
        if (p->text.p[i] == '\n') line++, start = i + 1;
    size_t column = p->pos - start + 1;
    if (p->pos == p->text.n)
        p->b->rc = fail(p->b->e, ERR_ARG, "grammar, line %zu, column %zu: %s, found the end", line, column, what);
    else
        p->b->rc = fail(
            p->b->e, ERR_ARG, "grammar, line %zu, column %zu: %s, found \"%.*s\"", line, column, what,
            (int)size_min(size_max(1, utf8_decode((struct str){p->text.p + p->pos, p->text.n - p->pos}, &(uint32_t){0})), 4),
            p->text.p + p->pos);
}

static int peek(const struct gbnf *p)
{
    return p->pos < p->text.n ? (unsigned char)p->text.p[p->pos] : -1;
}

static bool take(struct gbnf *p, const char *z)
{
    const struct str rest = {p->text.p + p->pos, p->text.n - p->pos};
    if (!str_starts(rest, str_of(z))) return false;
    p->pos += strlen(z);
    return true;
}

static void skip_space(struct gbnf *p, bool newlines)
{
    for (int c; (c = peek(p)) >= 0; p->pos++) {
        if (c == '#')
            while (p->pos + 1 < p->text.n && p->text.p[p->pos + 1] != '\n' && p->text.p[p->pos + 1] != '\r') p->pos++;
        else if (!(c == ' ' || c == '\t' || (newlines && (c == '\n' || c == '\r'))))
            return;
    }
}

static int hex_digit(int c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static uint32_t read_hex(struct gbnf *p, unsigned n)
{
    uint32_t v = 0;
    for (unsigned i = 0; i < n; i++, p->pos++) {
        const int d = hex_digit(peek(p));
        if (d < 0) {
            wrong(p, "expected a hexadecimal digit");
            return 0;
        }
        v = v << 4 | (uint32_t)d;
    }
    if (v > CHAR_LAST || (v >= 0xD800 && v <= 0xDFFF)) wrong(p, "the escape before this is no character");
    return v;
}

/* One character of a literal or a set. */
static uint32_t read_char(struct gbnf *p)
{
    static const char escapes[][2] = {{'n', '\n'}, {'r', '\r'}, {'t', '\t'}, {'"', '"'}, {'\\', '\\'},
                                      {'[', '['},  {']', ']'},  {'-', '-'},  {'^', '^'}};
    uint32_t cp = 0;
    if (!take(p, "\\")) {
        const size_t n = utf8_decode((struct str){p->text.p + p->pos, p->text.n - p->pos}, &cp);
        if (n == 0) wrong(p, "expected a character");
        p->pos += n;
        return cp;
    }
    if (take(p, "x")) return read_hex(p, 2);
    if (take(p, "u")) return read_hex(p, 4);
    if (take(p, "U")) return read_hex(p, 8);
    for (size_t i = 0; i < COUNT_OF(escapes); i++)
        if (peek(p) == escapes[i][0]) {
            p->pos++;
            return (uint32_t)(unsigned char)escapes[i][1];
        }
    wrong(p, "expected an escape (n r t \" \\ [ ] - ^ xXX uXXXX UXXXXXXXX)");
    return 0;
}

static bool is_name(int c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

/* The number of the rule that is named here. */
static uint32_t read_name(struct gbnf *p)
{
    const size_t start = p->pos;
    while (is_name(peek(p))) p->pos++;
    const struct str name = {p->text.p + start, p->pos - start};
    if (name.n == 0) wrong(p, "expected the name of a rule");
    if (p->b->rc < 0) return 0;
    if (str_is(name, "root")) return p->root;
    uint32_t *at = names_at(&p->names, name);
    if (!at) {
        p->b->rc = fail_nomem(p->b->e, "a grammar", name.n);
        return 0;
    }
    if (*at == NONE) *at = build_rule(p->b, name);
    return *at;
}

/* ---- items ------------------------------------------------------------------------------------------------------------- */

static uint32_t choice(struct gbnf *p, uint32_t at, bool nested);

static uint32_t literal(struct gbnf *p, uint32_t at)
{
    while (p->b->rc == 0 && !take(p, "\"")) {
        if (peek(p) < 0 || peek(p) == '\n') {
            wrong(p, "expected \" at the end of a literal");
            break;
        }
        at = build_char(p->b, at, read_char(p), false);
    }
    return at;
}

static uint32_t set(struct gbnf *p, uint32_t at)
{
    struct chars c = {0};
    const bool invert = take(p, "^");
    while (p->b->rc == 0 && !take(p, "]")) {
        if (peek(p) < 0) {
            wrong(p, "expected ] at the end of a set");
            break;
        }
        const uint32_t lo = read_char(p);
        uint32_t hi = lo;
        if (peek(p) == '-' && p->pos + 1 < p->text.n && p->text.p[p->pos + 1] != ']') {
            p->pos++;
            hi = read_char(p);
        }
        if (hi < lo) wrong(p, "the range before this goes backwards");
        chars_add(&c, lo, hi);
    }
    if (invert) chars_invert(&c);
    return build_chars(p->b, at, &c, false);
}

static uint32_t item(struct gbnf *p, uint32_t at)
{
    if (take(p, "\"")) return literal(p, at);
    if (take(p, "[")) return set(p, at);
    if (take(p, ".")) {
        struct chars any = {0};
        chars_invert(&any);
        return build_chars(p->b, at, &any, false);
    }
    if (!take(p, "(")) return build_use(p->b, at, read_name(p));
    skip_space(p, true);
    at = choice(p, at, true);
    if (!take(p, ")")) wrong(p, "expected )");
    return at;
}

static uint32_t read_count(struct gbnf *p)
{
    uint32_t v = 0;
    if (!(peek(p) >= '0' && peek(p) <= '9')) wrong(p, "expected a number");
    for (; peek(p) >= '0' && peek(p) <= '9'; p->pos++) {
        v = v * 10 + (uint32_t)(peek(p) - '0');
        if (v <= REPEAT_MAX) continue;
        if (p->b->rc == 0) p->b->rc = fail(p->b->e, ERR_LIMIT, "grammar: a part is repeated more than %d times", REPEAT_MAX);
        return 0;
    }
    return v;
}

/* How often the item before this comes; false: once. */
static bool read_repeat(struct gbnf *p, uint32_t *min, uint32_t *max)
{
    *min = 0;
    *max = UNBOUNDED;
    if (take(p, "*")) return true;
    if (take(p, "+")) return *min = 1, true;
    if (take(p, "?")) return *max = 1, true;
    if (!take(p, "{")) return false;
    skip_space(p, false);
    if (peek(p) != ',') *min = *max = read_count(p);
    skip_space(p, false);
    if (take(p, ",")) {
        *max = UNBOUNDED;
        skip_space(p, false);
        if (peek(p) != '}') *max = read_count(p);
        skip_space(p, false);
    }
    if (*max < *min) wrong(p, "the second number must not be smaller than the first");
    if (!take(p, "}")) wrong(p, "expected }");
    return true;
}

static uint32_t sequence(struct gbnf *p, uint32_t at, bool nested)
{
    for (int c; p->b->rc == 0 && (c = peek(p)) >= 0;) {
        uint32_t min, max;
        if (!is_name(c) && !memchr("\"[.(", c, 4)) break;
        struct part part = {.from = build_state(p->b)};
        part.to = item(p, part.from);
        skip_space(p, nested);
        if (read_repeat(p, &min, &max)) {
            at = build_repeat(p->b, at, part, min, max);
            skip_space(p, nested);
        } else {
            build_empty(p->b, at, part.from);
            at = part.to;
        }
    }
    return at;
}

static uint32_t choice(struct gbnf *p, uint32_t at, bool nested)
{
    struct build *b = p->b;
    const uint32_t end = build_state(b);
    if (++b->depth > NESTING_MAX && b->rc == 0)
        b->rc = fail(b->e, ERR_LIMIT, "grammar: groups are nested more than %d deep", NESTING_MAX);
    do {
        const uint32_t from = build_state(b);
        skip_space(p, nested);
        build_empty(b, at, from);
        build_empty(b, sequence(p, from, nested), end);
        if (peek(p) != '|') break;
        p->pos++;
        skip_space(p, true);
    } while (b->rc == 0);
    b->depth--;
    return end;
}

/* ---- rules ------------------------------------------------------------------------------------------------------------- */

static void rule(struct gbnf *p)
{
    struct build *b = p->b;
    const size_t start = p->pos;
    const uint32_t r = read_name(p);
    skip_space(p, false);
    if (b->rc == 0 && !take(p, "::=")) wrong(p, "expected ::=");
    if (b->rc < 0) return;
    if (p->defined[r]) {
        p->pos = start;
        wrong(p, "this rule is defined twice");
        return;
    }
    p->defined[r] = 1;
    skip_space(p, true);
    const uint32_t end = choice(p, b->g->rules[r].entry, false);
    if (b->rc < 0) return;
    build_empty(b, end, b->g->rules[r].final);
    if (peek(p) >= 0 && peek(p) != '\n' && peek(p) != '\r') wrong(p, "expected an item or the end of the line");
    skip_space(p, true);
}

static void check_defined(struct gbnf *p)
{
    for (size_t i = 0; i < p->names.cap && p->b->rc == 0; i++) {
        const struct name_slot *s = &p->names.slots[i];
        if (s->key.p && !p->defined[s->value])
            p->b->rc = fail(p->b->e, ERR_ARG, "grammar: the rule \"%.*s\" is used, but not defined", STR_ARG(s->key));
    }
    if (p->b->rc == 0 && !p->defined[p->root])
        p->b->rc = fail(p->b->e, ERR_ARG, "grammar: there is no rule \"root\", which says what the answer is");
}

void gbnf_fill(struct build *b, uint32_t root, struct str text)
{
    struct gbnf p = {.b = b, .text = text, .defined = mem_array(RULES_MAX, 1), .root = root};
    if (!p.defined) b->rc = fail_nomem(b->e, "a grammar", RULES_MAX);
    if (b->rc == 0 && !utf8_valid(text)) b->rc = fail(b->e, ERR_ARG, "grammar: the text is not valid UTF-8");
    if (b->rc == 0) skip_space(&p, true);
    while (b->rc == 0 && p.pos < text.n) rule(&p);
    if (b->rc == 0) check_defined(&p);
    mem_free(p.defined);
    names_fini(&p.names);
}

void gbnf_build(struct build *b, struct str text)
{
    gbnf_fill(b, 0, text);
}
