/* jinja_format.c: values into text by a format: "..." % args, "...".format(args), strftime.
 *
 * Both kinds of string format end in one description of a field (struct field) and two ways to write it: text and numbers.
 * Everything is independent of the locale. Widths are paid for before they are written and precisions are capped, so a
 * format cannot ask for more than the rendering may produce. Called by jinja_value.c (%), jinja_str.c and jinja_filters.c. */
#include "text/jinja_int.h"

#include <math.h>
#include <stdio.h>

struct field {
    struct str fill; /* one character */
    char align;      /* '<' '>' '^', '=' (padding behind the sign), 0: as the type has it */
    char sign;       /* '+' or ' ': in front of what is not negative; else 0 */
    bool alternate;
    char group; /* ',' or '_' between thousands, or 0 */
    int64_t width;
    int64_t precision; /* -1: none */
    char type;
};

int jformat_int(char out[24], int64_t v)
{
    char rev[24];
    int n = 0, k = 0;
    uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    do {
        rev[k++] = (char)('0' + u % 10);
        u /= 10;
    } while (u > 0);
    if (v < 0) out[n++] = '-';
    while (k > 0) out[n++] = rev[--k];
    return n;
}

size_t jformat_double(char out[JFORMAT_DOUBLE_MAX], double v, char form, int precision, bool alternate)
{
    char raw[JFORMAT_DOUBLE_MAX];
    bool upper = form < 'a';
    if (isnan(v) || isinf(v)) {
        const char *z = isnan(v) ? (upper ? "NAN" : "nan") : v > 0 ? (upper ? "INF" : "inf") : (upper ? "-INF" : "-inf");
        size_t n = strlen(z);
        memcpy(out, z, n);
        return n;
    }
    int len;
    switch (form) {
    case 'e':
        len = snprintf(raw, sizeof raw, alternate ? "%#.*e" : "%.*e", precision, v);
        break;
    case 'E':
        len = snprintf(raw, sizeof raw, alternate ? "%#.*E" : "%.*E", precision, v);
        break;
    case 'g':
        len = snprintf(raw, sizeof raw, alternate ? "%#.*g" : "%.*g", precision, v);
        break;
    case 'G':
        len = snprintf(raw, sizeof raw, alternate ? "%#.*G" : "%.*G", precision, v);
        break;
    default:
        len = snprintf(raw, sizeof raw, alternate ? "%#.*f" : "%.*f", precision, v);
        break;
    }
    size_t n = 0;
    for (int i = 0; i < len; i++) { /* whatever the locale puts between the digits becomes one point */
        char c = raw[i];
        bool plain = (c >= '0' && c <= '9') || c == '-' || c == '+' || c == 'e' || c == 'E';
        if (plain)
            out[n++] = c;
        else if (n == 0 || out[n - 1] != '.')
            out[n++] = '.';
    }
    return n;
}

/* ---- writing a field ---------------------------------------------------------------------------------------------- */

static int put_text(struct jrt *rt, const struct field *f, struct jv text)
{
    size_t chars;
    if (f->precision >= 0) {
        size_t cut;
        TRY(jv_byte_of(rt, text.u.s, (size_t)f->precision, &cut));
        TRY(jv_substr(rt, text, 0, cut, &text));
    }
    TRY(jv_chars(rt, text.u.s, &chars));
    uint64_t pad = f->width > 0 && (uint64_t)f->width > chars ? (uint64_t)f->width - chars : 0;
    uint64_t left = f->align == '>' ? pad : f->align == '^' ? pad / 2 : 0;
    TRY(jrt_put_fill(rt, f->fill, left));
    TRY(jrt_put_str(rt, jv_text(text)));
    return jrt_put_fill(rt, f->fill, pad - left);
}

/* digits with f->group between the thousands of its integer part. */
static int put_grouped(struct jrt *rt, const struct field *f, struct str digits)
{
    size_t whole = 0, every = f->type == 'x' || f->type == 'X' || f->type == 'o' || f->type == 'b' ? 4 : 3;
    while (whole < digits.n && ((digits.p[whole] >= '0' && digits.p[whole] <= '9') || every == 4)) whole++;
    if (!f->group) whole = 0;
    for (size_t i = 0; i < whole; i++) {
        if (i > 0 && (whole - i) % every == 0) TRY(jrt_put(rt, &f->group, 1));
        TRY(jrt_put(rt, digits.p + i, 1));
    }
    return jrt_put(rt, digits.p + whole, digits.n - whole);
}

/* sign, prefix ("0x"), digits; padded. */
static int put_number(struct jrt *rt, const struct field *f, bool minus, const char *prefix, struct str digits,
                      const char *suffix)
{
    char head[4];
    size_t n = 0, mark = jrt_mark(rt);
    struct jv body;
    if (minus || f->sign) head[n++] = minus ? '-' : f->sign;
    for (; *prefix; prefix++) head[n++] = *prefix;
    TRY(put_grouped(rt, f, digits));
    TRY(jrt_put_z(rt, suffix));
    TRY(jrt_take(rt, mark, &body));
    size_t used = n + body.u.s->n;
    uint64_t pad = f->width > 0 && (uint64_t)f->width > used ? (uint64_t)f->width - used : 0;
    uint64_t left = f->align == '<' || f->align == '=' ? 0 : f->align == '^' ? pad / 2 : pad;
    TRY(jrt_put_fill(rt, f->fill, left));
    TRY(jrt_put(rt, head, n));
    if (f->align == '=') TRY(jrt_put_fill(rt, f->fill, pad));
    TRY(jrt_put_str(rt, jv_text(body)));
    return f->align == '=' ? 0 : jrt_put_fill(rt, f->fill, pad - left);
}

static int put_integer(struct jrt *rt, const struct field *f, int64_t v)
{
    static const char lower[] = "0123456789abcdef", upper[] = "0123456789ABCDEF";
    char text[72 + JFORMAT_PRECISION_MAX];
    unsigned base = f->type == 'x' || f->type == 'X' ? 16 : f->type == 'o' ? 8 : f->type == 'b' ? 2 : 10;
    const char *prefix = !f->alternate || base == 10 ? ""
                         : f->type == 'x'            ? "0x"
                         : f->type == 'X'            ? "0X"
                         : base == 8                 ? "0o"
                                                     : "0b";
    uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    size_t at = sizeof text, least = f->precision > 0 ? (size_t)f->precision : 1;
    do {
        text[--at] = (f->type == 'X' ? upper : lower)[u % base];
        u /= base;
    } while (u > 0);
    while (sizeof text - at < least) text[--at] = '0';
    return put_number(rt, f, v < 0, prefix, (struct str){text + at, sizeof text - at}, "");
}

static int put_real(struct jrt *rt, const struct field *f, double v)
{
    char text[JFORMAT_DOUBLE_MAX];
    struct str digits = {text, 0};
    char form = f->type == '%' ? 'f' : f->type == 'n' ? 'g' : f->type ? f->type : 'g';
    bool shortest = !f->type && f->precision < 0;
    if (f->type == '%') v *= 100;
    if (shortest && !isnan(v) && !isinf(v))
        digits.n = f64_text(v, text);
    else
        digits.n = jformat_double(text, v, form, f->precision < 0 ? 6 : (int)f->precision, f->alternate);
    if (!f->type && !shortest && !memchr(text, '.', digits.n) && !memchr(text, 'e', digits.n) && !memchr(text, 'n', digits.n)) {
        text[digits.n++] = '.'; /* a float without a type always shows that it is one */
        text[digits.n++] = '0';
    }
    bool minus = text[0] == '-';
    if (minus) digits = (struct str){text + 1, digits.n - 1};
    return put_number(rt, f, minus, "", digits, f->type == '%' ? "%" : "");
}

static int check_precision(struct jrt *rt, const struct field *f)
{
    if (f->precision <= JFORMAT_PRECISION_MAX) return 0;
    return JFAIL_CODE(rt, ERR_LIMIT, "a precision of %lld in a format, more than the %d allowed", (long long)f->precision,
                      JFORMAT_PRECISION_MAX);
}

/* Decimal digits at *at. Saturates: a number that large is refused by the fuel or the precision limit. */
static int64_t read_number(struct str s, size_t *at)
{
    int64_t v = 0;
    for (; *at < s.n && s.p[*at] >= '0' && s.p[*at] <= '9'; (*at)++)
        if (v < INT64_MAX / 16) v = v * 10 + (s.p[*at] - '0');
    return v;
}

/* ---- % ---------------------------------------------------------------------------------------------------------------- */

struct percent {
    struct str format;
    size_t at;
    struct jv args;
    size_t used; /* positional arguments taken */
    bool escape; /* the format is Markup */
};

static int percent_next(struct jrt *rt, struct percent *p, struct jv *out)
{
    size_t n = p->args.kind == JK_TUPLE ? p->args.u.list->n : 1;
    if (p->used >= n) return JFAIL(rt, "not enough arguments for format string");
    *out = p->args.kind == JK_TUPLE ? p->args.u.list->v[p->used] : p->args;
    p->used++;
    return 0;
}

static int percent_star(struct jrt *rt, struct percent *p, int64_t *out)
{
    struct jv v;
    if (p->at < p->format.n && p->format.p[p->at] == '*') {
        p->at++;
        TRY(percent_next(rt, p, &v));
        return jv_want_int(rt, v, "* in a format", out);
    }
    *out = read_number(p->format, &p->at);
    return 0;
}

/* "(name)" behind the %; the value it names. */
static int percent_key(struct jrt *rt, struct percent *p, struct jv *out)
{
    size_t start = ++p->at;
    struct jv key;
    for (unsigned open = 1; p->at < p->format.n; p->at++) {
        open += p->format.p[p->at] == '(';
        open -= p->format.p[p->at] == ')';
        if (open == 0) break;
    }
    if (p->at >= p->format.n) return JFAIL(rt, "incomplete format key");
    if (p->args.kind != JK_DICT) return JFAIL(rt, "format requires a mapping");
    TRY(jv_str_view(rt, p->format.p + start, p->at - start, &key));
    p->at++;
    p->used = 1;
    struct jpair *e;
    TRY(jdict_find(rt, p->args.u.dict, key, &e));
    if (!e) return JFAIL(rt, "the format names the missing key '%.*s'", STR_ARG(jv_text(key)));
    *out = e->val;
    return 0;
}

static int percent_char(struct jrt *rt, const struct field *f, struct jv v)
{
    char text[4];
    int64_t i;
    size_t chars;
    if (v.kind == JK_STR) {
        TRY(jv_chars(rt, v.u.s, &chars));
        if (chars != 1) return JFAIL(rt, "%%c requires int or char");
        return put_text(rt, f, v);
    }
    TRY(jv_want_int(rt, v, "%c", &i));
    if (i < 0 || i > 0x10FFFF) return JFAIL(rt, "%%c arg not in range(0x110000)");
    TRY(jv_str_copy(rt, text, utf8_encode((uint32_t)i, text), &v));
    return put_text(rt, f, v);
}

static int percent_convert(struct jrt *rt, struct percent *p, struct field *f, struct jv v)
{
    double real;
    int64_t i;
    size_t mark = jrt_mark(rt);
    if (v.kind == JK_UNDEF && f->type != 's' && f->type != 'r' && f->type != 'a') return jv_use_undefined(rt, v);
    switch (f->type) {
    case 's':
        TRY(p->escape ? jv_escape(rt, v, &v) : jv_str(rt, v, &v));
        return put_text(rt, f, v);
    case 'r':
    case 'a':
        TRY(jv_put_repr(rt, v));
        TRY(jrt_take(rt, mark, &v));
        return put_text(rt, f, v);
    case 'c':
        return percent_char(rt, f, v);
    case 'd':
    case 'i':
    case 'u':
        f->type = 'd';
        if (v.kind == JK_FLOAT && fabs(v.u.f) < 9.2e18) return put_integer(rt, f, (int64_t)v.u.f);
        if (v.kind == JK_BIG) return put_number(rt, f, false, "", jv_text(v), "");
        if (!jv_number(v, &real)) return JFAIL(rt, "%%d format: a real number is required, not %s", jv_type_name(v.kind));
        TRY(jv_want_int(rt, v, "%d", &i));
        return put_integer(rt, f, i);
    case 'x':
    case 'X':
    case 'o':
        TRY(jv_want_int(rt, v, "%x", &i));
        return put_integer(rt, f, i);
    default:
        if (!jv_number(v, &real)) return JFAIL(rt, "must be real number, not %s", jv_type_name(v.kind));
        return put_real(rt, f, real);
    }
}

static int percent_field(struct jrt *rt, struct percent *p)
{
    struct field f = {.fill = STR(" "), .align = '>', .precision = -1};
    struct jv v = {.kind = JK_ABSENT};
    bool left = false, zero = false;
    if (p->at < p->format.n && p->format.p[p->at] == '(') TRY(percent_key(rt, p, &v));
    for (; p->at < p->format.n; p->at++) {
        char c = p->format.p[p->at];
        if (c == '-')
            left = true;
        else if (c == '0')
            zero = true;
        else if (c == '+' || (c == ' ' && f.sign != '+'))
            f.sign = c;
        else if (c == '#')
            f.alternate = true;
        else if (c != ' ')
            break;
    }
    TRY(percent_star(rt, p, &f.width));
    if (f.width < 0) {
        left = true;
        f.width = f.width < -INT64_MAX ? INT64_MAX : -f.width;
    }
    if (p->at < p->format.n && p->format.p[p->at] == '.') {
        p->at++;
        TRY(percent_star(rt, p, &f.precision));
        if (f.precision < 0) f.precision = 0;
    }
    while (p->at < p->format.n && memchr("hlL", p->format.p[p->at], 3)) p->at++;
    if (p->at >= p->format.n) return JFAIL(rt, "incomplete format");
    f.type = p->format.p[p->at++];
    if (f.type == '%') return jrt_put_z(rt, "%");
    if (!memchr("sracdiuxXoeEfFgG", f.type, 16)) return JFAIL(rt, "unsupported format character '%c'", f.type);
    if (f.type != 's' && f.type != 'r' && f.type != 'a') {
        TRY(check_precision(rt, &f));
        if (zero && f.type != 'c') {
            f.fill = STR("0");
            f.align = '=';
        }
    }
    if (left) {
        f.align = '<';
        f.fill = STR(" ");
    }
    if (!jv_given(v)) TRY(percent_next(rt, p, &v));
    return percent_convert(rt, p, &f, v);
}

int jformat_percent(struct jrt *rt, struct jv format, struct jv args, struct jv *out)
{
    struct percent p = {.format = jv_text(format), .args = args, .escape = format.safe};
    size_t mark = jrt_mark(rt), hit;
    TRY(jrt_enter(rt));
    for (;;) {
        TRY(jv_find(rt, p.format, STR("%"), p.at, &hit));
        size_t stop = hit == SIZE_MAX ? p.format.n : hit;
        TRY(jrt_put(rt, p.format.p + p.at, stop - p.at));
        if (hit == SIZE_MAX) break;
        p.at = hit + 1;
        TRY(jrt_spend(rt, J_COST_NODE));
        TRY(percent_field(rt, &p));
    }
    bool may_be_unused = args.kind == JK_DICT || args.kind == JK_LIST || args.kind == JK_RANGE || args.kind == JK_UNDEF;
    bool left_over = args.kind == JK_TUPLE ? p.used < args.u.list->n : p.used == 0 && !may_be_unused;
    if (left_over) return JFAIL(rt, "not all arguments converted during string formatting");
    jrt_leave(rt);
    TRY(jrt_take(rt, mark, out));
    out->safe = format.safe;
    return 0;
}

/* ---- str.format ------------------------------------------------------------------------------------------------------------
 */

/* [[fill]align][sign][#][0][width][,][.precision][type] */
static int parse_spec(struct jrt *rt, struct str s, struct field *f)
{
    size_t at = 0;
    uint32_t cp;
    *f = (struct field){.fill = STR(" "), .precision = -1};
    size_t k = s.n > 0 ? jstr_next(s, 0, &cp) : 0;
    if (s.n > k && memchr("<>^=", s.p[k], 4)) {
        f->fill = (struct str){s.p, k};
        f->align = s.p[k];
        at = k + 1;
    } else if (s.n > 0 && memchr("<>^=", s.p[0], 4)) {
        f->align = s.p[0];
        at = 1;
    }
    if (at < s.n && memchr("+- ", s.p[at], 3)) {
        f->sign = s.p[at] == '-' ? '\0' : s.p[at];
        at++;
    }
    if (at < s.n && s.p[at] == '#') {
        f->alternate = true;
        at++;
    }
    if (at < s.n && s.p[at] == '0') {
        if (!f->align) {
            f->align = '=';
            f->fill = STR("0");
        }
        at++;
    }
    f->width = read_number(s, &at);
    if (at < s.n && (s.p[at] == ',' || s.p[at] == '_')) f->group = s.p[at++];
    if (at < s.n && s.p[at] == '.') {
        size_t digits = ++at;
        f->precision = read_number(s, &at);
        if (at == digits) return JFAIL(rt, "Format specifier missing precision");
    }
    if (at < s.n) f->type = s.p[at++];
    if (at < s.n || (f->type && !memchr("sbcdeEfFgGnoxX%", f->type, 15)))
        return JFAIL(rt, "Invalid format specifier '%.*s'", STR_ARG(s));
    return check_precision(rt, f);
}

static int format_value(struct jrt *rt, struct jv v, struct str spec)
{
    struct field f;
    double real;
    if (spec.n == 0) return jv_put_str(rt, v);
    TRY(parse_spec(rt, spec, &f));
    bool integral = v.kind == JK_INT || v.kind == JK_BOOL;
    if (v.kind == JK_STR) {
        if (f.type && f.type != 's') return JFAIL(rt, "Unknown format code '%c' for object of type 'str'", f.type);
        if (f.align == '=') {
            if (f.fill.n != 1 || f.fill.p[0] != '0') return JFAIL(rt, "'=' alignment not allowed in string format specifier");
            f.align = '<';
        }
        return put_text(rt, &f, v);
    }
    if (!jv_number(v, &real) || f.type == 's')
        return JFAIL(rt, "unsupported format string passed to %s.__format__", jv_type_name(v.kind));
    if (integral && (!f.type || memchr("bdnoxX", f.type, 6))) {
        if (f.precision >= 0) return JFAIL(rt, "Precision not allowed in integer format specifier");
        return put_integer(rt, &f, v.kind == JK_BOOL ? v.u.b : v.u.i);
    }
    if (integral && f.type == 'c') {
        f.precision = -1;
        return percent_char(rt, &f, v.kind == JK_BOOL ? jv_int(v.u.b) : v);
    }
    if (f.type && memchr("bcdoxX", f.type, 6)) return JFAIL(rt, "Unknown format code '%c' for object of type 'float'", f.type);
    return put_real(rt, &f, real);
}

struct braces {
    const struct jcall *args;
    int64_t next; /* number of the next "{}" */
    bool automatic, manual;
    bool escape;    /* the format is Markup */
    unsigned depth; /* 1 inside the specification of a field */
};

static int braces_text(struct jrt *rt, struct braces *b, struct str s);

/* The argument that a field's name starts with. alone: it is the whole name; others may be numbered among automatic ones. */
static int braces_argument(struct jrt *rt, struct braces *b, struct str name, bool alone, struct jv *out)
{
    uint64_t i = 0;
    bool number = str_u64(name, &i);
    if (number || name.n == 0) {
        b->manual |= number && alone;
        b->automatic |= !number;
        if (b->manual && b->automatic)
            return JFAIL(rt, "cannot switch between manual field specification and automatic field numbering");
        if (!number) i = (uint64_t)b->next++;
        if (i >= b->args->n)
            return JFAIL(rt, "Replacement index %llu out of range for positional args tuple", (unsigned long long)i);
        *out = b->args->v[i];
        return 0;
    }
    for (size_t k = 0; k < b->args->n_kw; k++) {
        if (!str_eq(jv_text(b->args->kw[k].name), name)) continue;
        *out = b->args->kw[k].val;
        return 0;
    }
    return JFAIL(rt, "the format names the missing argument '%.*s'", STR_ARG(name));
}

/* name{.attribute | [index]}: through the same doors as the template's own expressions. */
static int braces_lookup(struct jrt *rt, struct braces *b, struct str path, struct jv *out)
{
    size_t at = 0;
    while (at < path.n && path.p[at] != '.' && path.p[at] != '[') at++;
    TRY(braces_argument(rt, b, (struct str){path.p, at}, at == path.n, out));
    while (at < path.n) {
        bool index = path.p[at] == '[';
        size_t start = ++at;
        while (at < path.n && (index ? path.p[at] != ']' : path.p[at] != '.' && path.p[at] != '[')) at++;
        struct str part = {path.p + start, at - start};
        if (part.n == 0 || (index && at == path.n)) return JFAIL(rt, "malformed field '%.*s' in a format", STR_ARG(path));
        at += index;
        struct jv key;
        int64_t i;
        TRY(jv_str_view(rt, part.p, part.n, &key));
        if (index) {
            if (str_i64(part, &i)) key = jv_int(i);
            TRY(jv_item(rt, *out, key, out));
        } else {
            TRY(jv_attr(rt, *out, key, out));
        }
    }
    return 0;
}

static int braces_field(struct jrt *rt, struct braces *b, struct str field)
{
    size_t at = 0, colon;
    char conversion = '\0';
    while (at < field.n && field.p[at] != '!' && field.p[at] != ':') {
        if (field.p[at] == '[')
            while (at < field.n && field.p[at] != ']') at++;
        at += at < field.n;
    }
    struct jv v, spec;
    TRY(braces_lookup(rt, b, (struct str){field.p, at}, &v));
    colon = at;
    if (at < field.n && field.p[at] == '!') {
        if (field.n - at < 2 || !memchr("rsa", field.p[at + 1], 3)) return JFAIL(rt, "unknown conversion in a format");
        conversion = field.p[at + 1];
        colon = at + 2;
        if (colon < field.n && field.p[colon] != ':') return JFAIL(rt, "expected ':' after conversion specifier");
    }
    size_t mark = jrt_mark(rt);
    if (conversion) {
        TRY(conversion == 's' ? jv_put_str(rt, v) : jv_put_repr(rt, v));
        TRY(jrt_take(rt, mark, &v));
    }
    struct str rest = colon < field.n ? (struct str){field.p + colon + 1, field.n - colon - 1} : (struct str){NULL, 0};
    b->depth++;
    TRY(braces_text(rt, b, rest));
    b->depth--;
    TRY(jrt_take(rt, mark, &spec));
    TRY(format_value(rt, v, jv_text(spec)));
    if (!b->escape || b->depth > 0 || (v.kind == JK_STR && v.safe)) return 0;
    TRY(jrt_take(rt, mark, &v));
    return jv_put_escaped(rt, jv_text(v));
}

static int braces_text(struct jrt *rt, struct braces *b, struct str s)
{
    for (size_t at = 0; at < s.n;) {
        char c = s.p[at];
        size_t start = at;
        TRY(jrt_spend(rt, J_COST_NODE));
        if (c != '{' && c != '}') {
            while (at < s.n && s.p[at] != '{' && s.p[at] != '}') at++;
            TRY(jrt_put(rt, s.p + start, at - start));
            continue;
        }
        if (at + 1 < s.n && s.p[at + 1] == c && b->depth == 0) {
            TRY(jrt_put(rt, &c, 1));
            at += 2;
            continue;
        }
        if (c == '}') return JFAIL(rt, "Single '}' encountered in format string");
        if (b->depth > 1) return JFAIL(rt, "Max string recursion exceeded");
        unsigned open = 1;
        for (at++; at < s.n && open > 0; at++) {
            open += s.p[at] == '{';
            open -= s.p[at] == '}';
        }
        if (open > 0) return JFAIL(rt, "expected '}' before end of string");
        TRY(braces_field(rt, b, (struct str){s.p + start + 1, at - start - 2}));
    }
    return 0;
}

int jformat_braces(struct jrt *rt, struct jv format, const struct jcall *args, struct jv *out)
{
    struct braces b = {.args = args, .escape = format.safe};
    size_t mark = jrt_mark(rt);
    TRY(jrt_enter(rt));
    TRY(jrt_spend_bytes(rt, format.u.s->n));
    TRY(braces_text(rt, &b, jv_text(format)));
    jrt_leave(rt);
    return jrt_take(rt, mark, out);
}

/* ---- strftime
 * --------------------------------------------------------------------------------------------------------------------- */

struct civil {
    int64_t year;
    int month, day, hour, minute, second; /* month and day from 1 */
    int weekday, yearday;                 /* Sunday is 0; the first of January is 0 */
};

static const char *const day_names[] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};
static const char *const month_names[] = {"January", "February", "March",     "April",   "May",      "June",
                                          "July",    "August",   "September", "October", "November", "December"};

static bool leap_year(int64_t y)
{
    return y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
}

/* Gregorian calendar from seconds since 1970. 400 years are 146097 days; inside them years are counted one by one. */
static struct civil civil_of(int64_t now)
{
    static const int month_days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    struct civil c = {.year = 1970};
    int64_t days = now / 86400, second = now % 86400;
    if (second < 0) {
        second += 86400;
        days--;
    }
    c.hour = (int)(second / 3600);
    c.minute = (int)(second / 60 % 60);
    c.second = (int)(second % 60);
    c.weekday = (int)(((days + 4) % 7 + 7) % 7);
    int64_t cycles = days / 146097;
    days %= 146097;
    if (days < 0) {
        days += 146097;
        cycles--;
    }
    c.year += cycles * 400;
    for (; days >= 365 + leap_year(c.year); c.year++) days -= 365 + leap_year(c.year);
    c.yearday = (int)days;
    for (int m = 0; m < 12; m++) {
        int n = month_days[m] + (m == 1 && leap_year(c.year));
        c.month = m + 1;
        if (days < n) break;
        days -= n;
    }
    c.day = (int)days + 1;
    return c;
}

/* ISO 8601: week 1 is the one with the year's first Thursday. */
static int iso_week(const struct civil *c, int64_t *year)
{
    int monday = (c->weekday + 6) % 7; /* days since Monday */
    int week = (c->yearday - monday + 10) / 7;
    *year = c->year;
    if (week < 1) {
        *year = c->year - 1;
        int last = c->yearday + 365 + leap_year(*year);
        return (last - monday + 10) / 7;
    }
    int next_year = (monday + 365 + leap_year(c->year) - c->yearday) % 7; /* days since Monday of the next 1 January */
    if (week == 53 && next_year <= 3) {
        *year = c->year + 1;
        return 1;
    }
    return week;
}

static int time_number(struct jrt *rt, int64_t v, int width, char pad, char flag)
{
    char text[24];
    size_t n = (size_t)jformat_int(text, v);
    if (flag == '_') pad = ' ';
    if (flag == '0') pad = '0';
    if (flag != '-')
        for (size_t i = n; i < (size_t)width; i++) TRY(jrt_put(rt, &pad, 1));
    return jrt_put(rt, text, n);
}

static int time_name(struct jrt *rt, const char *name, size_t n, char flag)
{
    struct str s = {name, n ? n : strlen(name)};
    return flag == '^' ? jstr_put_case(rt, s, JCASE_UPPER) : jrt_put_str(rt, s);
}

/* Directives that stand for a longer format. */
static const char *time_composite(char c)
{
    switch (c) {
    case 'c':
        return "%a %b %e %H:%M:%S %Y";
    case 'D':
    case 'x':
        return "%m/%d/%y";
    case 'F':
        return "%Y-%m-%d";
    case 'r':
        return "%I:%M:%S %p";
    case 'R':
        return "%H:%M";
    case 'T':
    case 'X':
        return "%H:%M:%S";
    default:
        return NULL;
    }
}

static int time_directive(struct jrt *rt, const struct civil *c, int64_t now, char d, char flag)
{
    int64_t iso_year;
    int week = iso_week(c, &iso_year), hour12 = c->hour % 12 ? c->hour % 12 : 12;
    switch (d) {
    case 'a':
        return time_name(rt, day_names[c->weekday], 3, flag);
    case 'A':
        return time_name(rt, day_names[c->weekday], 0, flag);
    case 'b':
    case 'h':
        return time_name(rt, month_names[c->month - 1], 3, flag);
    case 'B':
        return time_name(rt, month_names[c->month - 1], 0, flag);
    case 'C':
        return time_number(rt, c->year / 100, 2, '0', flag);
    case 'd':
        return time_number(rt, c->day, 2, '0', flag);
    case 'e':
        return time_number(rt, c->day, 2, ' ', flag);
    case 'f':
        return jrt_put_z(rt, "000000");
    case 'g':
        return time_number(rt, iso_year % 100, 2, '0', flag);
    case 'G':
        return time_number(rt, iso_year, 4, '0', flag);
    case 'H':
        return time_number(rt, c->hour, 2, '0', flag);
    case 'I':
        return time_number(rt, hour12, 2, '0', flag);
    case 'j':
        return time_number(rt, c->yearday + 1, 3, '0', flag);
    case 'k':
        return time_number(rt, c->hour, 2, ' ', flag);
    case 'l':
        return time_number(rt, hour12, 2, ' ', flag);
    case 'm':
        return time_number(rt, c->month, 2, '0', flag);
    case 'M':
        return time_number(rt, c->minute, 2, '0', flag);
    case 'n':
        return jrt_put_z(rt, "\n");
    case 'p':
        return time_name(rt, c->hour < 12 ? "AM" : "PM", 0, flag);
    case 'P':
        return time_name(rt, c->hour < 12 ? "am" : "pm", 0, flag);
    case 's':
        return time_number(rt, now, 1, '0', flag);
    case 'S':
        return time_number(rt, c->second, 2, '0', flag);
    case 't':
        return jrt_put_z(rt, "\t");
    case 'u':
        return time_number(rt, c->weekday ? c->weekday : 7, 1, '0', flag);
    case 'U':
        return time_number(rt, (c->yearday + 7 - c->weekday) / 7, 2, '0', flag);
    case 'V':
        return time_number(rt, week, 2, '0', flag);
    case 'w':
        return time_number(rt, c->weekday, 1, '0', flag);
    case 'W':
        return time_number(rt, (c->yearday + 7 - (c->weekday + 6) % 7) / 7, 2, '0', flag);
    case 'y':
        return time_number(rt, c->year % 100, 2, '0', flag);
    case 'Y':
        return time_number(rt, c->year, 1, '0', flag);
    case 'z':
    case 'Z':
        return 0; /* a time without a zone */
    case '%':
        return jrt_put_z(rt, "%");
    default:
        TRY(jrt_put_z(rt, "%"));
        if (flag) TRY(jrt_put(rt, &flag, 1));
        return jrt_put(rt, &d, 1);
    }
}

static int put_time(struct jrt *rt, const struct civil *c, struct str format, int64_t now, bool nested)
{
    for (size_t at = 0; at < format.n; at++) {
        if (format.p[at] != '%' || at + 1 == format.n) {
            TRY(jrt_put(rt, format.p + at, 1));
            continue;
        }
        char d = format.p[++at], flag = '\0';
        if (memchr("-_0^#", d, 5) && at + 1 < format.n) {
            flag = d;
            d = format.p[++at];
        }
        const char *longer = nested ? NULL : time_composite(d);
        TRY(longer ? put_time(rt, c, str_of(longer), now, true) : time_directive(rt, c, now, d, flag));
    }
    return 0;
}

int jformat_time(struct jrt *rt, struct str format, int64_t now)
{
    struct civil c = civil_of(now);
    return put_time(rt, &c, format, now, false);
}
