/* jinja_lex.c: a template's bytes as tokens, one at a time, with the white space rules of trim_blocks and lstrip_blocks.
 *
 * Text outside of tags is one token per stretch. Rules, as jinja2 has them:
 *  - the source ends without its last newline; \r\n and \r are \n;
 *  - "{%" and "{#" take the blanks in front of them when nothing else stands on that line before them; "{%+" does not;
 *  - "{%-", "{{-", "{#-" take all white space in front of them;  "-%}", "-}}", "-#}" all white space behind them;
 *  - "%}" and "#}" take one newline behind them; "+%}" and "+#}" do not; nor does the tag that opens a raw block.
 * A tag ends only where the brackets inside it are balanced, so "{{ {'a': {}} }}" is one expression.
 *
 * Invariant: every byte of the source is looked at a bounded number of times; the token strings point into the source copy or
 * into the arena. Called by jinja_parse.c. */
#include "text/jinja_int.h"

#include <stdio.h>

enum { MODE_TEXT, MODE_VAR, MODE_BLOCK };

/* Longest first where one is the start of another. */
static const struct {
    char text[3];
    uint8_t kind;
} operators[] = {
    {"//", JTOK_FLOORDIV}, {"**", JTOK_POW},   {"==", JTOK_EQ},      {"!=", JTOK_NE},      {">=", JTOK_GE},
    {"<=", JTOK_LE},       {"+", JTOK_ADD},    {"-", JTOK_SUB},      {"/", JTOK_DIV},      {"*", JTOK_MUL},
    {"%", JTOK_MOD},       {"~", JTOK_TILDE},  {"[", JTOK_LBRACKET}, {"]", JTOK_RBRACKET}, {"(", JTOK_LPAREN},
    {")", JTOK_RPAREN},    {"{", JTOK_LBRACE}, {"}", JTOK_RBRACE},   {">", JTOK_GT},       {"<", JTOK_LT},
    {"=", JTOK_ASSIGN},    {".", JTOK_DOT},    {":", JTOK_COLON},    {"|", JTOK_PIPE},     {",", JTOK_COMMA},
    {";", JTOK_SEMICOLON},
};

const char *jlex_kind_name(enum jtok kind)
{
    switch (kind) {
    case JTOK_STRING:
        return "string";
    case JTOK_INT:
        return "integer";
    case JTOK_FLOAT:
        return "float";
    case JTOK_IDENT:
        return "name";
    case JTOK_TEXT:
        return "template text";
    case JTOK_VAR_BEGIN:
        return "begin of print statement";
    case JTOK_VAR_END:
        return "end of print statement";
    case JTOK_BLOCK_BEGIN:
        return "begin of statement block";
    case JTOK_BLOCK_END:
        return "end of statement block";
    case JTOK_EOF:
        return "end of template";
    default:
        break;
    }
    for (size_t i = 0; i < COUNT_OF(operators); i++)
        if (operators[i].kind == kind) return operators[i].text;
    return "token";
}

int jlex_fail_at(const struct jlex *lx, uint32_t line, int code, const char *fmt, ...)
{
    char msg[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return fail(lx->e, code, "%.*s: line %u: %s", STR_ARG(lx->name), (unsigned)line, msg);
}

/* Copies the source with \n as the only line break and without the last one. */
int jlex_init(struct jlex *lx, struct arena *a, struct str source, struct str name, struct err *e)
{
    memset(lx, 0, sizeof *lx);
    lx->arena = a;
    lx->name = name;
    lx->e = e;
    lx->line = 1;
    lx->line_starting = true;
    if (source.n > JINJA_SOURCE_MAX)
        return fail(e, ERR_LIMIT, "%.*s: the template has %zu bytes, more than the %zu allowed", STR_ARG(name), source.n,
                    (size_t)JINJA_SOURCE_MAX);
    if (!utf8_valid(source)) return fail(e, ERR_FORMAT, "%.*s: the template is not valid UTF-8", STR_ARG(name));
    char *p = arena_alloc(a, source.n + 1);
    if (!p) return fail_nomem(e, "the source of a template", source.n + 1);
    size_t n = 0;
    for (size_t i = 0; i < source.n; i++) {
        char c = source.p[i];
        if (c == '\r') {
            c = '\n';
            if (i + 1 < source.n && source.p[i + 1] == '\n') i++;
        }
        p[n++] = c;
    }
    if (n > 0 && p[n - 1] == '\n') n--;
    lx->src = (struct str){p, n};
    return 0;
}

static char peek(const struct jlex *lx, size_t ahead)
{
    return lx->src.n - lx->pos > ahead ? lx->src.p[lx->pos + ahead] : '\0';
}

/* Moves to `to`, counting lines; what was passed decides whether the next text starts a line. */
static void advance(struct jlex *lx, size_t to)
{
    for (size_t i = lx->pos; i < to; i++) lx->line += lx->src.p[i] == '\n';
    if (to > lx->pos) lx->line_starting = lx->src.p[to - 1] == '\n';
    lx->pos = to;
}

static size_t skip_space(const struct jlex *lx, size_t at)
{
    while (at < lx->src.n) {
        uint32_t cp;
        size_t k = jstr_next(lx->src, at, &cp);
        if (!jstr_is_space(cp)) break;
        at += k;
    }
    return at;
}

/* ---- text ------------------------------------------------------------------------------------------------ */

/* `text` stands in front of a tag whose sign is '-', '+' or 0; strip says whether lstrip_blocks is for this kind of tag. */
static struct str strip_before(struct str text, char sign, bool lstrip, bool line_starting)
{
    if (sign == '-') return jstr_trim(text, false, true);
    if (sign == '+' || !lstrip) return text;
    size_t line = text.n;
    while (line > 0 && text.p[line - 1] != '\n') line--;
    if (line == 0 && !line_starting) return text;
    struct str tail = {text.p + line, text.n - line};
    if (jstr_trim(tail, true, false).n == 0) text.n = line;
    return text;
}

/* Where the end mark "%}", "}}" or "#}" at `at` ends with what it takes along; at points to its first character or sign. */
static size_t end_of_tag(const struct jlex *lx, size_t at, bool trim)
{
    char sign = lx->src.p[at];
    if (sign == '-') return skip_space(lx, at + 3);
    if (sign == '+') return at + 3;
    size_t end = at + 2;
    if (trim && end < lx->src.n && lx->src.p[end] == '\n') end++;
    return end;
}

/* Matches "{% WORD %}" with any signs at `at`; *sign is the one at the front, *close where its closing mark begins. */
static bool match_word_tag(const struct jlex *lx, size_t at, const char *word, char *sign, size_t *close)
{
    struct str s = lx->src;
    if (s.n - at < 2 || s.p[at] != '{' || s.p[at + 1] != '%') return false;
    at += 2;
    *sign = at < s.n && (s.p[at] == '-' || s.p[at] == '+') ? s.p[at++] : '\0';
    at = skip_space(lx, at);
    size_t n = strlen(word);
    if (s.n - at < n || memcmp(s.p + at, word, n) != 0) return false;
    at = skip_space(lx, at + n);
    *close = at;
    if (at < s.n && (s.p[at] == '-' || s.p[at] == '+')) at++;
    return s.n - at >= 2 && s.p[at] == '%' && s.p[at + 1] == '}';
}

static void text_token(struct jtoken *t, struct str text, uint32_t line)
{
    t->kind = JTOK_TEXT;
    t->line = line;
    t->s = text;
}

/* After "{% raw %}": text up to "{% endraw %}". */
static int lex_raw(struct jlex *lx, struct jtoken *t, size_t body)
{
    uint32_t opened = lx->line;
    advance(lx, body);
    uint32_t line = lx->line;
    for (size_t at = body; at < lx->src.n; at++) {
        const char *brace = memchr(lx->src.p + at, '{', lx->src.n - at);
        if (!brace) break;
        at = (size_t)(brace - lx->src.p);
        char sign;
        size_t close;
        if (!match_word_tag(lx, at, "endraw", &sign, &close)) continue;
        text_token(t, strip_before((struct str){lx->src.p + body, at - body}, sign, true, lx->line_starting), line);
        advance(lx, end_of_tag(lx, close, true));
        return 0;
    }
    return jlex_fail_at(lx, opened, ERR_FORMAT, "missing end of raw directive");
}

static int skip_comment(struct jlex *lx, size_t body)
{
    size_t at = body;
    for (;;) {
        const char *hash = at < lx->src.n ? memchr(lx->src.p + at, '#', lx->src.n - at) : NULL;
        if (!hash) return jlex_fail_at(lx, lx->line, ERR_FORMAT, "missing end of comment tag");
        at = (size_t)(hash - lx->src.p);
        if (at + 1 < lx->src.n && lx->src.p[at + 1] == '}') break;
        at++;
    }
    if (at > body && (lx->src.p[at - 1] == '-' || lx->src.p[at - 1] == '+')) at--;
    advance(lx, end_of_tag(lx, at, true));
    return 0;
}

/* The next "{{", "{%" or "{#" from at on; the end of the source where there is none. */
static size_t find_tag(struct str s, size_t at)
{
    for (; at < s.n; at++) {
        const char *brace = memchr(s.p + at, '{', s.n - at);
        if (!brace) break;
        at = (size_t)(brace - s.p);
        if (at + 1 < s.n && (s.p[at + 1] == '{' || s.p[at + 1] == '%' || s.p[at + 1] == '#')) return at;
    }
    return s.n;
}

/* In MODE_TEXT: the text up to the next tag, or the beginning of the tag that stands here. */
static int lex_outside(struct jlex *lx, struct jtoken *t)
{
    struct str s = lx->src;
    for (;;) {
        size_t start = lx->pos, at = find_tag(s, start);
        t->line = lx->line;
        char kind = peek(lx, at - start + 1), sign = peek(lx, at - start + 2);
        if (sign != '-' && sign != '+') sign = '\0';
        if (at > start) {
            struct str text = {s.p + start, at - start};
            text_token(t, at < s.n ? strip_before(text, sign, kind != '{', lx->line_starting) : text, lx->line);
            advance(lx, at);
            return 0;
        }
        if (at == s.n) {
            t->kind = JTOK_EOF;
            return 0;
        }
        char raw_sign;
        size_t close;
        if (match_word_tag(lx, at, "raw", &raw_sign, &close) && s.p[close] != '+')
            return lex_raw(lx, t, end_of_tag(lx, close, false));
        advance(lx, at + 2 + (sign != '\0'));
        if (kind == '#') {
            TRY(skip_comment(lx, lx->pos));
            continue;
        }
        lx->mode = kind == '{' ? MODE_VAR : MODE_BLOCK;
        t->kind = kind == '{' ? JTOK_VAR_BEGIN : JTOK_BLOCK_BEGIN;
        return 0;
    }
}

/* ---- inside a tag ------------------------------------------------------------------------------------------ */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static int digit_of(char c)
{
    if (is_digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return 99;
}

/* Digits of a base with single underscores between them, from `at`; returns the end, == at where there are none. */
static size_t digits_end(struct str s, size_t at, int base)
{
    size_t end = at;
    while (end < s.n) {
        if (digit_of(s.p[end]) < base)
            end++;
        else if (end > at && s.p[end] == '_' && end + 1 < s.n && digit_of(s.p[end + 1]) < base)
            end += 2;
        else
            break;
    }
    return end;
}

/* The end of a float literal at `at`, or `at`: digits, then a fraction or an exponent or both. */
static size_t float_end(struct str s, size_t at)
{
    size_t end = digits_end(s, at, 10), whole = end;
    if (end + 1 < s.n && s.p[end] == '.' && is_digit(s.p[end + 1])) end = digits_end(s, end + 1, 10);
    if (end < s.n && (s.p[end] == 'e' || s.p[end] == 'E')) {
        size_t exp = end + 1;
        if (exp < s.n && (s.p[exp] == '+' || s.p[exp] == '-')) exp++;
        size_t exp_end = digits_end(s, exp, 10);
        if (exp_end > exp) end = exp_end;
    }
    return end == whole ? at : end;
}

static int lex_float(struct jlex *lx, struct jtoken *t, size_t end)
{
    size_t n = end - lx->pos, m = 0;
    char *p = arena_alloc(lx->arena, n + 1);
    if (!p) return fail_nomem(lx->e, "a number of a template", n + 1);
    for (size_t i = 0; i < n; i++)
        if (lx->src.p[lx->pos + i] != '_') p[m++] = lx->src.p[lx->pos + i];
    if (!str_f64((struct str){p, m}, &t->f)) t->f = __builtin_inf(); /* well-formed, so it is too large */
    t->kind = JTOK_FLOAT;
    advance(lx, end);
    return 0;
}

static int lex_integer(struct jlex *lx, struct jtoken *t)
{
    int base = 10;
    size_t at = lx->pos, end = at;
    char mark = peek(lx, 0) == '0' ? (char)(peek(lx, 1) | 0x20) : '\0';
    if (mark == 'x' || mark == 'o' || mark == 'b') {
        int b = mark == 'x' ? 16 : mark == 'o' ? 8 : 2;
        size_t from = at + 2 + (peek(lx, 2) == '_');
        size_t to = digits_end(lx->src, from, b);
        if (to > from) {
            base = b;
            at = from;
            end = to;
        }
    }
    if (base == 10) {
        end = digits_end(lx->src, at, 10);
        if (peek(lx, 0) == '0') /* "007" is three tokens, as it is no Python number */
            for (end = at + 1; end < lx->src.n; end++)
                if (lx->src.p[end] != '0' && !(lx->src.p[end] == '_' && end + 1 < lx->src.n && lx->src.p[end + 1] == '0'))
                    break;
    }
    uint64_t v = 0;
    for (size_t i = at; i < end; i++) {
        if (lx->src.p[i] == '_') continue;
        if (!u64_mul(v, (uint64_t)base, &v) || !u64_add(v, (uint64_t)digit_of(lx->src.p[i]), &v) || v > INT64_MAX)
            return jlex_fail_at(lx, lx->line, ERR_UNSUPPORTED,
                                "an integer is beyond 64 bits (Python's big integers are not supported)");
    }
    t->kind = JTOK_INT;
    t->i = (int64_t)v;
    advance(lx, end);
    return 0;
}

/* One escape of a string literal at s.p[*at] (behind the backslash) to out; at most 4 bytes for each 2 of source. */
static int unescape_one(const struct jlex *lx, struct str s, size_t *at, char *out, size_t *n)
{
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    char c = s.p[*at];
    const char *hit = c ? strchr(from, c) : NULL;
    if (hit) {
        out[(*n)++] = to[hit - from];
        (*at)++;
        return 0;
    }
    if (c == '\n') {
        (*at)++;
        return 0;
    }
    size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    uint32_t v = 0;
    size_t i = *at + 1;
    if (digits > 0) {
        for (size_t k = 0; k < digits; k++, i++) {
            if (i >= s.n || digit_of(s.p[i]) > 15)
                return jlex_fail_at(lx, lx->line, ERR_FORMAT, "truncated \\%c escape in a string", c);
            v = v << 4 | (uint32_t)digit_of(s.p[i]);
        }
        if (v > 0x10FFFF) return jlex_fail_at(lx, lx->line, ERR_FORMAT, "illegal Unicode character in a string");
        /* A pair of \u surrogates is one character for everyone but Python. */
        if (v >= 0xD800 && v < 0xDC00 && s.n - i >= 6 && s.p[i] == '\\' && s.p[i + 1] == 'u') {
            uint32_t low = 0;
            for (size_t k = 2; k < 6; k++) low = low << 4 | (uint32_t)(digit_of(s.p[i + k]) & 15);
            if (low >= 0xDC00 && low < 0xE000) {
                v = 0x10000 + ((v - 0xD800) << 10) + (low - 0xDC00);
                i += 6;
            }
        }
    } else if (c >= '0' && c <= '7') {
        for (i = *at; i < s.n && i < *at + 3 && s.p[i] >= '0' && s.p[i] <= '7'; i++) v = v << 3 | (uint32_t)(s.p[i] - '0');
    } else if (c == 'N') {
        return jlex_fail_at(lx, lx->line, ERR_UNSUPPORTED, "\\N{...} escapes are not supported in strings");
    } else {
        out[(*n)++] = '\\'; /* an unknown escape stays as it is written */
        return 0;
    }
    *n += utf8_encode(v, out + *n);
    *at = i;
    return 0;
}

static int lex_string(struct jlex *lx, struct jtoken *t)
{
    char quote = peek(lx, 0);
    size_t end = lx->pos + 1;
    bool escaped = false;
    while (end < lx->src.n && lx->src.p[end] != quote) {
        bool backslash = lx->src.p[end] == '\\';
        escaped |= backslash;
        end += 1 + (size_t)backslash;
    }
    if (end >= lx->src.n) return jlex_fail_at(lx, lx->line, ERR_FORMAT, "a string is not closed");
    struct str raw = {lx->src.p + lx->pos + 1, end - lx->pos - 1};
    t->kind = JTOK_STRING;
    t->s = raw;
    if (escaped) {
        char *p = arena_alloc(lx->arena, raw.n + 1);
        if (!p) return fail_nomem(lx->e, "a string of a template", raw.n + 1);
        size_t n = 0;
        for (size_t i = 0; i < raw.n;) {
            if (raw.p[i] != '\\') {
                p[n++] = raw.p[i++];
                continue;
            }
            i++;
            TRY(unescape_one(lx, raw, &i, p, &n));
        }
        t->s = (struct str){p, n};
    }
    advance(lx, end + 1);
    return 0;
}

static int lex_operator(struct jlex *lx, struct jtoken *t)
{
    char c = peek(lx, 0);
    for (size_t i = 0; i < COUNT_OF(operators); i++) {
        const char *op = operators[i].text;
        if (op[0] != c || (op[1] && op[1] != peek(lx, 1))) continue;
        t->kind = operators[i].kind;
        static const char open[] = "([{", close[] = ")]}";
        const char *o = strchr(open, c);
        if (o) {
            if (lx->n_closers == JINJA_NEST_MAX)
                return jlex_fail_at(lx, lx->line, ERR_LIMIT, "brackets are nested more than %d deep", JINJA_NEST_MAX);
            lx->closers[lx->n_closers++] = close[o - open];
        } else if (strchr(close, c)) {
            if (lx->n_closers == 0) return jlex_fail_at(lx, lx->line, ERR_FORMAT, "unexpected '%c'", c);
            char want = lx->closers[--lx->n_closers];
            if (want != c) return jlex_fail_at(lx, lx->line, ERR_FORMAT, "unexpected '%c', expected '%c'", c, want);
        }
        advance(lx, lx->pos + 1 + (op[1] != '\0'));
        return 0;
    }
    uint32_t cp;
    size_t k = jstr_next(lx->src, lx->pos, &cp);
    return jlex_fail_at(lx, lx->line, ERR_FORMAT, "unexpected char '%.*s'", (int)k, lx->src.p + lx->pos);
}

/* The closing mark of the tag at the current position, with or without a sign. */
static bool at_end_mark(const struct jlex *lx)
{
    if (lx->n_closers > 0) return false;
    char c = lx->mode == MODE_VAR ? '}' : '%';
    size_t sign = peek(lx, 0) == '-' || (lx->mode == MODE_BLOCK && peek(lx, 0) == '+');
    return peek(lx, sign) == c && peek(lx, sign + 1) == '}';
}

static int lex_inside(struct jlex *lx, struct jtoken *t)
{
    if (!at_end_mark(lx)) advance(lx, skip_space(lx, lx->pos));
    t->line = lx->line;
    if (lx->pos >= lx->src.n) {
        t->kind = JTOK_EOF;
        return 0;
    }
    if (at_end_mark(lx)) {
        t->kind = lx->mode == MODE_VAR ? JTOK_VAR_END : JTOK_BLOCK_END;
        advance(lx, end_of_tag(lx, lx->pos, lx->mode == MODE_BLOCK));
        lx->mode = MODE_TEXT;
        return 0;
    }
    char c = peek(lx, 0);
    if (is_digit(c)) {
        size_t end = lx->pos > 0 && lx->src.p[lx->pos - 1] == '.' ? lx->pos : float_end(lx->src, lx->pos);
        return end > lx->pos ? lex_float(lx, t, end) : lex_integer(lx, t);
    }
    if (c == '\'' || c == '"') return lex_string(lx, t);
    size_t end = lx->pos;
    while (end < lx->src.n) {
        uint32_t cp;
        size_t k = jstr_next(lx->src, end, &cp);
        if (!jstr_is_word(cp)) break;
        end += k;
    }
    if (end == lx->pos) return lex_operator(lx, t);
    t->kind = JTOK_IDENT;
    t->s = (struct str){lx->src.p + lx->pos, end - lx->pos};
    advance(lx, end);
    return 0;
}

int jlex_next(struct jlex *lx, struct jtoken *t)
{
    memset(t, 0, sizeof *t);
    return lx->mode == MODE_TEXT ? lex_outside(lx, t) : lex_inside(lx, t);
}
