/* jinja_filters.c: the filters of jinja2 that make sense on text and data, as rows of one table. tojson is the one of
 * transformers: json.dumps without escaping of non-ASCII.
 *
 * A filter gets its value in c->self and its arguments, bound by the signature of its row, in c->a. What jinja2 gives as a
 * generator (map, select, batch, ...) is a one-shot iterator here too: true even when empty, without a length. Its elements are
 * computed at once. */
#include "text/jinja_int.h"

#include <math.h>

/* ---- arguments ------------------------------------------------------------------------------------------------------ */

static int opt_int(struct jrt *rt, struct jcall *c, int i, int64_t standard, int64_t *out)
{
    *out = standard;
    return jv_given(c->a[i]) ? jv_want_int(rt, c->a[i], c->def->name, out) : 0;
}

static bool opt_bool(const struct jcall *c, int i, bool standard)
{
    return jv_given(c->a[i]) ? jv_truth(c->a[i]) : standard;
}

static bool opt_none(const struct jcall *c, int i)
{
    return jv_is_none_or_absent(c->a[i]);
}

/* The element that the path "a.b.0" leads to; an empty attribute is the item itself. fallback (or absent) replaces what is
 * undefined on the way. */
static int get_path(struct jrt *rt, struct jv item, struct jv attribute, struct jv fallback, struct jv *out)
{
    *out = item;
    if (jv_is_none_or_absent(attribute)) return 0;
    if (attribute.kind != JK_STR) return jv_item(rt, item, attribute, out);
    struct str path = jv_text(attribute);
    for (size_t at = 0; at <= path.n;) {
        size_t start = at;
        while (at < path.n && path.p[at] != '.') at++;
        struct str part = {path.p + start, at - start};
        struct jv key;
        uint64_t i;
        at++;
        if (str_u64(part, &i) && i <= INT64_MAX)
            key = jv_int((int64_t)i);
        else if (part.n == path.n)
            key = attribute;
        else
            TRY(jv_str_view(rt, part.p, part.n, &key));
        TRY(jv_item(rt, *out, key, out));
        if (out->kind == JK_UNDEF && !jv_is_none_or_absent(fallback)) *out = fallback;
    }
    return 0;
}

static int fold_case(struct jrt *rt, struct jv v, struct jv *out)
{
    *out = v;
    if (v.kind != JK_STR) return 0;
    size_t mark = jrt_mark(rt);
    TRY(jstr_put_case(rt, jv_text(v), JCASE_LOWER));
    return jrt_take(rt, mark, out);
}

/* The value to compare an item by: its attribute, without case unless that matters. */
static int get_key(struct jrt *rt, struct jv item, struct jv attribute, bool case_sensitive, struct jv *out)
{
    TRY(get_path(rt, item, attribute, jv_none(), out));
    return case_sensitive ? 0 : fold_case(rt, *out, out);
}

/* The same for "a,b", always as a list of keys: equal keys need no order, as in jinja2. */
static int get_keys(struct jrt *rt, struct jv item, struct jv attribute, bool case_sensitive, struct jv *out)
{
    struct jlist *keys = jlist_new(rt, 1);
    if (!keys) return rt->rc;
    bool path = attribute.kind == JK_STR;
    struct str all = path ? jv_text(attribute) : STR("");
    for (size_t at = 0; at <= all.n; at++) {
        size_t start = at;
        while (at < all.n && all.p[at] != ',') at++;
        struct jv name = attribute, key;
        if (path) TRY(jv_str_view(rt, all.p + start, at - start, &name));
        TRY(get_key(rt, item, name, case_sensitive, &key));
        TRY(jlist_put(rt, keys, key));
    }
    *out = jv_list(keys);
    return 0;
}

static int soft_text(struct jrt *rt, struct jcall *c)
{
    return jv_soft_str(rt, c->self, &c->self);
}

/* ---- text --------------------------------------------------------------------------------------------------------------- */

static int f_case(struct jrt *rt, struct jcall *c, struct jv *out)
{
    TRY(soft_text(rt, c));
    size_t mark = jrt_mark(rt);
    TRY(jstr_put_case(rt, jv_text(c->self), (enum jstr_case)c->def->arg));
    TRY(jrt_take(rt, mark, out));
    out->safe = c->self.safe && c->def->arg != JCASE_FILTER_TITLE;
    return 0;
}

static int f_trim(struct jrt *rt, struct jcall *c, struct jv *out)
{
    TRY(soft_text(rt, c));
    return jstr_strip(rt, c->self, c->a[0], true, true, out);
}

static int f_string(struct jrt *rt, struct jcall *c, struct jv *out)
{
    return jv_soft_str(rt, c->self, out);
}

static int f_safe(struct jrt *rt, struct jcall *c, struct jv *out)
{
    TRY(jv_str(rt, c->self, out));
    out->safe = true;
    return 0;
}

static int f_escape(struct jrt *rt, struct jcall *c, struct jv *out)
{
    return jv_escape(rt, c->self, out);
}

static int f_forceescape(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jv plain;
    TRY(jv_str(rt, c->self, &plain));
    return jv_escape(rt, plain, out);
}

static int f_replace(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jv s, from, to;
    int64_t count = -1;
    TRY(jv_str(rt, c->self, &s));
    TRY(jv_str(rt, c->a[0], &from));
    TRY(jv_str(rt, c->a[1], &to));
    if (!opt_none(c, 2)) TRY(opt_int(rt, c, 2, -1, &count));
    return jstr_replace(rt, jv_text(s), jv_text(from), jv_text(to), count, out);
}

static int f_center(struct jrt *rt, struct jcall *c, struct jv *out)
{
    int64_t width;
    TRY(soft_text(rt, c));
    TRY(opt_int(rt, c, 0, 80, &width));
    return jstr_center(rt, c->self, width, STR(" "), 0, out);
}

static int f_format(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jv args;
    TRY(soft_text(rt, c));
    if (c->n > 0 && c->n_kw > 0) return JFAIL(rt, "can't handle positional and keyword arguments at the same time");
    if (c->n_kw > 0) {
        struct jdict *d = jdict_new(rt);
        if (!d) return rt->rc;
        for (size_t i = 0; i < c->n_kw; i++) TRY(jdict_put(rt, d, c->kw[i].name, c->kw[i].val));
        args = (struct jv){.kind = JK_DICT, .u.dict = d};
    } else {
        struct jlist *l = jlist_new(rt, c->n);
        if (!l) return rt->rc;
        for (size_t i = 0; i < c->n; i++) TRY(jlist_put(rt, l, c->v[i]));
        args = jv_tuple(l);
    }
    return jformat_percent(rt, c->self, args, out);
}

static int f_indent(struct jrt *rt, struct jcall *c, struct jv *out)
{
    bool first = opt_bool(c, 1, false), blank = opt_bool(c, 2, false), begun = false;
    struct jv s = c->self, pad;
    struct str text, line;
    size_t ending;
    int64_t width;
    TRY(jv_want_str(rt, s, "indent", &text));
    size_t mark = jrt_mark(rt);
    if (c->a[0].kind == JK_STR) {
        pad = c->a[0];
    } else {
        TRY(opt_int(rt, c, 0, 4, &width));
        TRY(jrt_put_fill(rt, STR(" "), width > 0 ? (uint64_t)width : 0));
        TRY(jrt_take(rt, mark, &pad));
    }
    if (first) TRY(jrt_put_str(rt, jv_text(pad)));
    /* As if a newline stood at the end: a text that ends with one has an empty last line. */
    for (size_t at = 0; jstr_line(text, &at, &line, &ending); begun = true) {
        if (begun) TRY(jrt_put_z(rt, "\n"));
        if (begun && (blank || line.n > 0)) TRY(jrt_put_str(rt, jv_text(pad)));
        TRY(jrt_put_str(rt, line));
        if (at == text.n && ending > 0) {
            TRY(jrt_put_z(rt, "\n"));
            if (blank) TRY(jrt_put_str(rt, jv_text(pad)));
        }
    }
    TRY(jrt_take(rt, mark, out));
    out->safe = s.safe;
    return 0;
}

static int f_truncate(struct jrt *rt, struct jcall *c, struct jv *out)
{
    int64_t length, leeway = 5, chars;
    struct jv s = c->self, end;
    size_t end_chars, cut, mark = jrt_mark(rt);
    TRY(opt_int(rt, c, 0, 255, &length));
    if (!opt_none(c, 3)) TRY(opt_int(rt, c, 3, 5, &leeway));
    if (jv_given(c->a[2]))
        TRY(jv_str(rt, c->a[2], &end));
    else
        TRY(jv_str_view(rt, "...", 3, &end));
    TRY(jv_len(rt, s, &chars));
    TRY(jv_chars(rt, end.u.s, &end_chars));
    if (length < (int64_t)end_chars) return JFAIL(rt, "expected length >= %zu, got %lld", end_chars, (long long)length);
    if (leeway < 0) return JFAIL(rt, "expected leeway >= 0, got %lld", (long long)leeway);
    *out = s; /* also what is no text, where it is short */
    if (chars >= 0 && (length >= chars || chars - length <= leeway)) return 0;
    if (s.kind != JK_STR) return JFAIL(rt, "truncate: expected a string, got '%s'", jv_type_name(s.kind));
    TRY(jv_byte_of(rt, s.u.s, (size_t)length - end_chars, &cut));
    if (!opt_bool(c, 1, false)) { /* back to the last blank */
        size_t blank = cut;
        while (blank > 0 && s.u.s->p[blank - 1] != ' ') blank--;
        if (blank > 0) cut = blank - 1;
    }
    TRY(jrt_put(rt, s.u.s->p, cut));
    TRY(jrt_put_str(rt, jv_text(end)));
    TRY(jrt_take(rt, mark, out));
    out->safe = s.safe;
    return 0;
}

static int f_wordcount(struct jrt *rt, struct jcall *c, struct jv *out)
{
    TRY(soft_text(rt, c));
    struct str s = jv_text(c->self);
    int64_t n = 0;
    bool inside = false;
    TRY(jrt_spend_bytes(rt, s.n * 4));
    for (size_t at = 0; at < s.n;) {
        uint32_t cp;
        at += jstr_next(s, at, &cp);
        bool word = jstr_is_word(cp);
        n += word && !inside;
        inside = word;
    }
    *out = jv_int(n);
    return 0;
}

/* s without what stands between open and close, both included. */
static int cut_between(struct jrt *rt, struct jv s, struct str open, struct str close, struct jv *out)
{
    size_t mark = jrt_mark(rt), at = 0, from, to;
    struct str text = jv_text(s);
    for (;;) {
        TRY(jv_find(rt, text, open, at, &from));
        if (from == SIZE_MAX) break;
        TRY(jv_find(rt, text, close, from, &to));
        if (to == SIZE_MAX) break;
        TRY(jrt_put(rt, text.p + at, from - at));
        at = to + close.n;
    }
    TRY(jrt_put(rt, text.p + at, text.n - at));
    return jrt_take(rt, mark, out);
}

/* The character of the entity at s (which starts with '&'); returns its bytes in s, 0 where it is none. */
static size_t read_entity(struct str s, uint32_t *cp)
{
    static const struct {
        const char *name;
        uint32_t cp;
    } named[] = {{"amp", '&'}, {"lt", '<'}, {"gt", '>'}, {"quot", '"'}, {"apos", '\''}, {"nbsp", 0xA0}};
    size_t end = 1;
    while (end < s.n && end < 12 && s.p[end] != ';') end++;
    if (end >= s.n || s.p[end] != ';') return 0;
    struct str name = {s.p + 1, end - 1};
    for (size_t i = 0; i < COUNT_OF(named); i++) {
        if (!str_is(name, named[i].name)) continue;
        *cp = named[i].cp;
        return end + 1;
    }
    if (name.n < 2 || name.p[0] != '#') return 0;
    bool hex = (name.p[1] | 0x20) == 'x', overflow;
    int64_t v;
    struct str digits = {name.p + 1 + hex, name.n - 1 - hex};
    if (!jstr_to_int(digits, hex ? 16 : 10, &v, &overflow) || overflow || v <= 0 || v > 0x10FFFF) return 0;
    *cp = (uint32_t)v;
    return end + 1;
}

static int f_striptags(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jv s;
    TRY(jv_str(rt, c->self, &s));
    TRY(cut_between(rt, s, STR("<!--"), STR("-->"), &s));
    TRY(cut_between(rt, s, STR("<"), STR(">"), &s));
    struct str text = jstr_trim(jv_text(s), true, true);
    size_t mark = jrt_mark(rt), k;
    bool blank = false;
    for (size_t at = 0; at < text.n; at += k) {
        uint32_t cp;
        char utf8[4];
        k = jstr_next(text, at, &cp);
        if (jstr_is_space(cp)) {
            blank = true;
            continue;
        }
        if (blank) TRY(jrt_put_z(rt, " "));
        blank = false;
        size_t entity = cp == '&' ? read_entity((struct str){text.p + at, text.n - at}, &cp) : 0;
        if (entity > 0) k = entity;
        TRY(entity > 0 ? jrt_put(rt, utf8, utf8_encode(cp, utf8)) : jrt_put(rt, text.p + at, k));
    }
    return jrt_take(rt, mark, out);
}

static int put_quoted(struct jrt *rt, struct jv v, bool query)
{
    static const char hex[] = "0123456789ABCDEF";
    struct jv s;
    TRY(jv_str(rt, v, &s));
    struct str text = jv_text(s);
    for (size_t i = 0; i < text.n; i++) {
        unsigned char ch = (unsigned char)text.p[i];
        bool plain = (ch >= '0' && ch <= '9') || ((ch | 0x20) >= 'a' && (ch | 0x20) <= 'z') || (ch && strchr("_.-~", ch)) ||
                     (ch == '/' && !query);
        char esc[3] = {'%', hex[ch >> 4], hex[ch & 15]};
        if (plain)
            TRY(jrt_put(rt, text.p + i, 1));
        else
            TRY(query && ch == ' ' ? jrt_put(rt, "+", 1) : jrt_put(rt, esc, 3));
    }
    return 0;
}

static int f_urlencode(struct jrt *rt, struct jcall *c, struct jv *out)
{
    size_t mark = jrt_mark(rt);
    uint8_t k = c->self.kind;
    if (k != JK_DICT && k != JK_LIST && k != JK_TUPLE && k != JK_ITER && k != JK_VIEW && k != JK_RANGE) {
        TRY(put_quoted(rt, c->self, false));
        return jrt_take(rt, mark, out);
    }
    struct jdict *d = c->self.kind == JK_DICT ? c->self.u.dict : NULL;
    struct jlist *l = NULL;
    if (!d) TRY(jlist_of(rt, c->self, &l));
    for (size_t i = 0; i < (d ? d->n : l->n); i++) {
        struct jv key, val;
        if (d) {
            key = d->e[i].key;
            val = d->e[i].val;
        } else {
            struct jlist *pair;
            TRY(jlist_of(rt, l->v[i], &pair));
            if (pair->n != 2) return JFAIL(rt, "urlencode: expected pairs of key and value");
            key = pair->v[0];
            val = pair->v[1];
        }
        if (i > 0) TRY(jrt_put_z(rt, "&"));
        TRY(put_quoted(rt, key, true));
        TRY(jrt_put_z(rt, "="));
        TRY(put_quoted(rt, val, true));
    }
    return jrt_take(rt, mark, out);
}

static int f_xmlattr(struct jrt *rt, struct jcall *c, struct jv *out)
{
    size_t mark = jrt_mark(rt);
    bool space = opt_bool(c, 0, true);
    if (c->self.kind != JK_DICT) return JFAIL(rt, "xmlattr: expected a dict, got '%s'", jv_type_name(c->self.kind));
    const struct jdict *d = c->self.u.dict;
    for (size_t i = 0; i < d->n; i++) {
        struct jv key, val;
        if (d->e[i].val.kind == JK_NONE || d->e[i].val.kind == JK_UNDEF) continue;
        TRY(jv_soft_str(rt, d->e[i].key, &key));
        for (size_t k = 0; k < key.u.s->n; k++)
            if (jstr_is_space((unsigned char)key.u.s->p[k]) || strchr("/>=", key.u.s->p[k]))
                return JFAIL(rt, "Invalid character in attribute name: '%.*s'", STR_ARG(jv_text(key)));
        TRY(jv_escape(rt, key, &key));
        TRY(jv_escape(rt, d->e[i].val, &val));
        if (space || jrt_mark(rt) > mark) TRY(jrt_put_z(rt, " "));
        TRY(jrt_put_str(rt, jv_text(key)));
        TRY(jrt_put_z(rt, "=\""));
        TRY(jrt_put_str(rt, jv_text(val)));
        TRY(jrt_put_z(rt, "\""));
    }
    return jrt_take(rt, mark, out);
}

/* ---- wordwrap: Python's textwrap, line by line -------------------------------------------------------------------- */

struct wrap {
    struct str line;
    size_t at;
    int64_t width;
    bool break_words, break_hyphens;
    struct str joint;
    bool any; /* a line was written */
};

/* The chunk that starts at `at`: white space, or a word up to white space or behind one of its hyphens. *chars: its length. */
static size_t wrap_chunk(const struct wrap *w, size_t at, int64_t *chars)
{
    uint32_t cp, next, after;
    size_t end = at;
    int64_t run = 0; /* letters and digits in a row */
    bool blank = false, letter = false;
    for (*chars = 0; end < w->line.n; (*chars)++) {
        size_t k = jstr_next(w->line, end, &cp);
        if (end == at)
            blank = jstr_is_space(cp);
        else if (jstr_is_space(cp) != blank)
            break;
        end += k;
        if (cp == '-' && w->break_hyphens && run >= 2 && letter && end < w->line.n) {
            size_t m = jstr_next(w->line, end, &next);
            after = 0;
            if (end + m < w->line.n) jstr_next(w->line, end + m, &after);
            if (jstr_is_word(next) && jstr_is_word(after) && !(after >= '0' && after <= '9')) {
                (*chars)++;
                break;
            }
        }
        letter = jstr_is_word(cp) && !(cp >= '0' && cp <= '9');
        run = jstr_is_word(cp) ? run + 1 : 0;
    }
    return end;
}

/* The byte behind the first n characters from `at`. */
static size_t wrap_skip(const struct wrap *w, size_t at, int64_t n)
{
    uint32_t cp;
    for (; n > 0 && at < w->line.n; n--) at += jstr_next(w->line, at, &cp);
    return at;
}

/* Where to break a word that is longer than a line: behind its last hyphen in the room that is left, or after the room. */
static size_t wrap_break(const struct wrap *w, size_t at, int64_t room)
{
    size_t end = wrap_skip(w, at, room);
    for (size_t i = end; w->break_hyphens && i > at + 1; i--)
        if (w->line.p[i - 1] == '-' && w->line.p[at] != '-') return i;
    return end;
}

/* Writes one line of the result; w->at moves behind it. */
static int wrap_line(struct jrt *rt, struct wrap *w)
{
    int64_t used = 0, chars;
    uint32_t cp;
    bool trim = true;
    size_t start = w->at, end = start, k;
    if (w->any && (jstr_next(w->line, start, &cp), jstr_is_space(cp))) start = end = wrap_chunk(w, start, &chars);
    while (end < w->line.n) {
        TRY(jrt_spend(rt, J_COST_NODE));
        k = wrap_chunk(w, end, &chars);
        TRY(jrt_spend(rt, 8 * (k - end)));
        if (used + chars > w->width) {
            if (chars > w->width && w->break_words) {
                trim = used < w->width; /* an empty piece of the word hides the blank in front of it */
                end = wrap_break(w, end, w->width - used);
            } else if (chars > w->width && used == 0) {
                end = k;
            }
            break;
        }
        used += chars;
        end = k;
    }
    w->at = end;
    struct str text = jstr_trim((struct str){w->line.p + start, end - start}, false, trim);
    if (text.n == 0) return 0;
    if (w->any) TRY(jrt_put_str(rt, w->joint));
    w->any = true;
    return jrt_put_str(rt, text);
}

static int f_wordwrap(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct str text, line;
    size_t ending, mark = jrt_mark(rt);
    struct wrap w = {.break_words = opt_bool(c, 1, true), .joint = STR("\n"), .break_hyphens = opt_bool(c, 3, true)};
    TRY(jv_want_str(rt, c->self, "wordwrap", &text));
    TRY(opt_int(rt, c, 0, 79, &w.width));
    if (w.width <= 0) return JFAIL(rt, "invalid width %lld (must be > 0)", (long long)w.width);
    if (!opt_none(c, 2)) TRY(jv_want_str(rt, c->a[2], "wordwrap", &w.joint));
    bool more = false;
    for (size_t at = 0; jstr_line(text, &at, &line, &ending); more = true) {
        if (more) TRY(jrt_put_str(rt, w.joint));
        w.line = line;
        w.at = 0;
        w.any = false;
        while (w.at < line.n) TRY(wrap_line(rt, &w));
    }
    return jrt_take(rt, mark, out);
}

/* ---- numbers ---------------------------------------------------------------------------------------------------------------
 */

static int f_abs(struct jrt *rt, struct jcall *c, struct jv *out)
{
    double f;
    if (c->self.kind == JK_UNDEF) return jv_use_undefined(rt, c->self);
    if (!jv_number(c->self, &f)) return JFAIL(rt, "bad operand type for abs(): '%s'", jv_type_name(c->self.kind));
    return jv_negate(rt, c->self, f < 0 || (f == 0 && signbit(f)), out);
}

static int f_int(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jv v = c->self;
    int64_t base, i;
    double f;
    bool overflow = false, number = jv_number(v, &f);
    if (v.kind == JK_UNDEF) return jv_use_undefined(rt, v);
    TRY(opt_int(rt, c, 1, 10, &base));
    *out = jv_given(c->a[0]) ? c->a[0] : jv_int(0);
    if (v.kind == JK_INT || v.kind == JK_BIG) {
        *out = v;
        return 0;
    }
    if (v.kind == JK_STR) {
        TRY(jrt_spend_bytes(rt, v.u.s->n));
        if (jstr_to_int(jv_text(v), base == 0 || (base >= 2 && base <= 36) ? (int)base : 10, &i, &overflow)) {
            if (overflow) return jv_overflow(rt, "int");
            *out = jv_int(i);
            return 0;
        }
        number = jstr_to_float(jv_text(v), &f);
        if (number && isinf(f)) return 0;
    }
    if (!number || isnan(f)) return 0;
    if (!(f >= -9223372036854775808.0 && f < 9223372036854775808.0)) return jv_overflow(rt, "int");
    *out = jv_int((int64_t)f);
    return 0;
}

static int f_float(struct jrt *rt, struct jcall *c, struct jv *out)
{
    double f;
    if (c->self.kind == JK_UNDEF) return jv_use_undefined(rt, c->self);
    bool ok = jv_number(c->self, &f);
    if (c->self.kind == JK_STR) TRY(jrt_spend_bytes(rt, c->self.u.s->n));
    if (c->self.kind == JK_STR || c->self.kind == JK_BIG) ok = jstr_to_float(jv_text(c->self), &f);
    *out = ok ? jv_float(f) : jv_given(c->a[0]) ? c->a[0] : jv_float(0);
    return 0;
}

/* Rounded to a number of decimals as Python does it: by way of the decimal text, which is correctly rounded. */
static double round_decimals(double v, int64_t digits)
{
    char text[JFORMAT_DOUBLE_MAX];
    double r = v;
    if (isnan(v) || isinf(v) || digits > 300) return v;
    if (digits >= 0) {
        size_t n = jformat_double(text, v, 'f', (int)digits, false);
        bool minus = n > 0 && text[0] == '-';
        if (!str_f64((struct str){text + minus, n - minus}, &r)) return v;
        return minus ? -r : r;
    }
    if (digits < -308) return copysign(0.0, v);
    double scale = pow(10.0, (double)-digits), q = v / scale, whole = floor(q);
    double diff = q - whole;
    if (diff > 0.5 || (diff == 0.5 && fmod(whole, 2.0) != 0)) whole += 1.0;
    return copysign(whole * scale, v);
}

/* v rounded to tens, hundreds, ...: places is how many zeros it gets, and of two as near it is the even one. */
static int round_places(struct jrt *rt, int64_t v, int64_t places, struct jv *out)
{
    const int64_t half = 5000000000000000000; /* of ten to the 19th */
    int64_t unit = 1;
    *out = jv_int(0);
    if (places > 18) return places == 19 && (v > half || v < -half) ? jv_overflow(rt, "round") : 0;
    while (places-- > 0) unit *= 10;
    int64_t q = v / unit, rest = v % unit < 0 ? -(v % unit) : v % unit;
    if (rest > unit - rest || (rest == unit - rest && q % 2 != 0)) q += v < 0 ? -1 : 1;
    if (__builtin_mul_overflow(q, unit, &v)) return jv_overflow(rt, "round");
    *out = jv_int(v);
    return 0;
}

static int f_round(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct str method = STR("common");
    int64_t digits, i;
    double f;
    TRY(opt_int(rt, c, 0, 0, &digits));
    if (jv_given(c->a[1])) TRY(jv_want_str(rt, c->a[1], "round", &method));
    bool common = str_is(method, "common"), up = str_is(method, "ceil");
    if (!common && !up && !str_is(method, "floor")) return JFAIL(rt, "method must be common, ceil or floor");
    if (c->self.kind == JK_UNDEF) return jv_use_undefined(rt, c->self);
    if (!jv_number(c->self, &f)) return JFAIL(rt, "type %s doesn't define __round__ method", jv_type_name(c->self.kind));
    if (common && c->self.kind != JK_FLOAT && digits >= 0) return jv_negate(rt, c->self, false, out);
    if (common && c->self.kind != JK_FLOAT) {
        TRY(jv_want_int(rt, c->self, "round", &i));
        return round_places(rt, i, digits < -99 ? 99 : -digits, out);
    }
    if (common) {
        *out = jv_float(round_decimals(f, digits));
        return 0;
    }
    double scale = pow(10.0, (double)digits);
    double whole = up ? ceil(f * scale) : floor(f * scale);
    *out = jv_float((whole == 0 ? 0 : whole) / scale); /* Python's are whole numbers, which have one zero */
    return 0;
}

/* ---- lists
 * ----------------------------------------------------------------------------------------------------------------------- */

static int f_length(struct jrt *rt, struct jcall *c, struct jv *out)
{
    int64_t n;
    TRY(jv_len(rt, c->self, &n));
    if (n < 0) return JFAIL(rt, "object of type '%s' has no len()", jv_type_name(c->self.kind));
    *out = jv_int(n);
    return 0;
}

static int f_list(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jlist *l;
    TRY(jlist_of(rt, c->self, &l));
    *out = jv_list(l);
    return 0;
}

static int f_first(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jiter *it;
    TRY(jv_iter(rt, c->self, &it));
    int more = jiter_next(rt, it, out);
    if (more != 0) return more < 0 ? more : 0;
    return jv_hint(rt, "No first item, sequence was empty.", out);
}

static int f_last(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jlist *l;
    if (c->self.kind == JK_ITER) return JFAIL(rt, "'generator' object is not reversible");
    if (c->self.kind == JK_LIST || c->self.kind == JK_TUPLE)
        l = c->self.u.list;
    else
        TRY(jlist_of(rt, c->self, &l));
    if (l->n == 0) return jv_hint(rt, "No last item, sequence was empty.", out);
    *out = l->v[l->n - 1];
    return 0;
}

static int f_reverse(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jv backwards[3] = {jv_none(), jv_none(), jv_int(-1)};
    struct jlist *l;
    if (c->self.kind == JK_STR) return jv_slice(rt, c->self, backwards, out);
    TRY(jlist_of(rt, c->self, &l));
    for (size_t i = 0, j = l->n; i + 1 < j; i++) {
        struct jv t = l->v[i];
        l->v[i] = l->v[--j];
        l->v[j] = t;
    }
    if (c->self.kind != JK_ITER) return jv_iter_of(rt, l, out);
    *out = jv_list(l);
    return 0;
}

static int f_join(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jlist *l;
    struct jv sep = {.kind = JK_ABSENT}, item;
    TRY(jlist_of(rt, c->self, &l));
    if (jv_given(c->a[0])) TRY(jv_str(rt, c->a[0], &sep));
    size_t mark = jrt_mark(rt);
    for (size_t i = 0; i < l->n; i++) {
        TRY(get_path(rt, l->v[i], c->a[1], jv_none(), &item));
        if (i > 0 && jv_given(sep)) TRY(jrt_put_str(rt, jv_text(sep)));
        TRY(jv_put_str(rt, item));
    }
    return jrt_take(rt, mark, out);
}

static int f_extreme(struct jrt *rt, struct jcall *c, struct jv *out)
{
    bool max = c->def->arg, case_sensitive = opt_bool(c, 0, false), better;
    struct jlist *l;
    struct jv best_key = jv_none(), key;
    TRY(jlist_of(rt, c->self, &l));
    if (l->n == 0) return jv_hint(rt, "No aggregated item, sequence was empty.", out);
    for (size_t i = 0; i < l->n; i++) {
        TRY(get_key(rt, l->v[i], c->a[1], case_sensitive, &key));
        better = i == 0;
        if (i > 0) TRY(max ? jv_compare(rt, JO_GT, key, best_key, &better) : jv_less(rt, key, best_key, &better));
        if (!better) continue;
        best_key = key;
        *out = l->v[i];
    }
    return 0;
}

static int f_sum(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jlist *l;
    struct jv item;
    TRY(jlist_of(rt, c->self, &l));
    *out = jv_given(c->a[1]) ? c->a[1] : jv_int(0);
    if (out->kind == JK_STR) return JFAIL(rt, "sum() can't sum strings [use ''.join(seq) instead]");
    for (size_t i = 0; i < l->n; i++) {
        TRY(get_path(rt, l->v[i], c->a[0], jv_none(), &item));
        TRY(jv_binary(rt, JO_ADD, *out, item, out));
    }
    return 0;
}

static int f_sort(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jlist *l;
    bool case_sensitive = opt_bool(c, 1, false);
    TRY(jlist_of(rt, c->self, &l));
    struct jv *keys = jrt_array(rt, l->n, sizeof *keys);
    if (!keys) return rt->rc;
    for (size_t i = 0; i < l->n; i++) TRY(get_keys(rt, l->v[i], c->a[2], case_sensitive, &keys[i]));
    TRY(jv_sort(rt, keys, l->v, l->n, opt_bool(c, 0, false)));
    *out = jv_list(l);
    return 0;
}

static int f_dictsort(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct str by = STR("key");
    bool case_sensitive = opt_bool(c, 0, false);
    if (jv_given(c->a[1])) TRY(jv_want_str(rt, c->a[1], "dictsort", &by));
    bool values = str_is(by, "value");
    if (!values && !str_is(by, "key")) return JFAIL(rt, "You can only sort by either \"key\" or \"value\"");
    if (c->self.kind == JK_UNDEF) return jv_use_undefined(rt, c->self);
    if (c->self.kind != JK_DICT) return JFAIL(rt, "'%s' object has no attribute 'items'", jv_type_name(c->self.kind));
    const struct jdict *d = c->self.u.dict;
    struct jlist *l = jlist_new(rt, d->n);
    struct jv *keys = jrt_array(rt, d->n, sizeof *keys);
    if (!l || !keys) return rt->rc;
    for (size_t i = 0; i < d->n; i++) {
        keys[i] = values ? d->e[i].val : d->e[i].key;
        if (!case_sensitive) TRY(fold_case(rt, keys[i], &keys[i]));
        TRY(jv_pair(rt, d->e[i].key, d->e[i].val, &l->v[l->n++]));
    }
    TRY(jv_sort(rt, keys, l->v, l->n, opt_bool(c, 2, false)));
    *out = jv_list(l);
    return 0;
}

static int f_unique(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jlist *l, *kept = jlist_new(rt, 0);
    struct jdict *seen = jdict_new(rt);
    if (!kept || !seen) return rt->rc;
    TRY(jlist_of(rt, c->self, &l));
    for (size_t i = 0; i < l->n; i++) {
        struct jv key;
        size_t before = seen->n;
        TRY(get_key(rt, l->v[i], c->a[1], opt_bool(c, 0, false), &key));
        TRY(jdict_put(rt, seen, key, jv_none()));
        if (seen->n > before) TRY(jlist_put(rt, kept, l->v[i]));
    }
    return jv_iter_of(rt, kept, out);
}

static int f_groupby(struct jrt *rt, struct jcall *c, struct jv *out)
{
    bool case_sensitive = opt_bool(c, 2, false), same;
    struct jlist *l, *groups = jlist_new(rt, 0), *members = NULL;
    if (!groups) return rt->rc;
    TRY(jlist_of(rt, c->self, &l));
    struct jv *keys = jrt_array(rt, l->n, sizeof *keys);
    if (!keys) return rt->rc;
    for (size_t i = 0; i < l->n; i++) {
        TRY(get_path(rt, l->v[i], c->a[0], c->a[1], &keys[i]));
        if (!case_sensitive) TRY(fold_case(rt, keys[i], &keys[i]));
    }
    TRY(jv_sort(rt, keys, l->v, l->n, false));
    for (size_t i = 0; i < l->n; i++) {
        same = false;
        if (i > 0) TRY(jv_eq(rt, keys[i - 1], keys[i], &same));
        if (!same) {
            struct jv grouper = keys[i], group;
            if (!case_sensitive) TRY(get_path(rt, l->v[i], c->a[0], c->a[1], &grouper));
            if (!(members = jlist_new(rt, 0))) return rt->rc;
            TRY(jv_pair(rt, grouper, jv_list(members), &group));
            group.why = 1;
            TRY(jlist_put(rt, groups, group));
        }
        TRY(jlist_put(rt, members, l->v[i]));
    }
    *out = jv_list(groups);
    return 0;
}

static int f_batch(struct jrt *rt, struct jcall *c, struct jv *out)
{
    int64_t size;
    struct jlist *l, *rows = jlist_new(rt, 0), *row = jlist_new(rt, 0);
    if (!rows || !row) return rt->rc;
    TRY(opt_int(rt, c, 0, 0, &size));
    TRY(jlist_of(rt, c->self, &l));
    for (size_t i = 0; i < l->n; i++) {
        if ((int64_t)row->n == size) {
            TRY(jlist_put(rt, rows, jv_list(row)));
            if (!(row = jlist_new(rt, 0))) return rt->rc;
        }
        TRY(jlist_put(rt, row, l->v[i]));
    }
    if (row->n == 0) return jv_iter_of(rt, rows, out);
    while (!opt_none(c, 1) && (int64_t)row->n < size) TRY(jlist_put(rt, row, c->a[1]));
    TRY(jlist_put(rt, rows, jv_list(row)));
    return jv_iter_of(rt, rows, out);
}

static int f_slice(struct jrt *rt, struct jcall *c, struct jv *out)
{
    int64_t slices;
    struct jlist *l, *rows = jlist_new(rt, 0);
    if (!rows) return rt->rc;
    TRY(opt_int(rt, c, 0, 0, &slices));
    TRY(jlist_of(rt, c->self, &l));
    if (slices == 0) return JFAIL(rt, "integer division or modulo by zero");
    size_t at = 0;
    for (int64_t i = 0; i < slices; i++) {
        size_t extra = l->n % (size_t)slices, n = l->n / (size_t)slices + ((size_t)i < extra);
        struct jlist *row = jlist_new(rt, n);
        if (!row) return rt->rc;
        for (size_t k = 0; k < n; k++) row->v[row->n++] = l->v[at++];
        if (!opt_none(c, 1) && (size_t)i >= extra) TRY(jlist_put(rt, row, c->a[1]));
        TRY(jlist_put(rt, rows, jv_list(row)));
    }
    return jv_iter_of(rt, rows, out);
}

static int f_items(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jlist *l = jlist_new(rt, 0);
    if (!l) return rt->rc;
    if (c->self.kind == JK_UNDEF) return jv_iter_of(rt, l, out);
    if (c->self.kind != JK_DICT) return JFAIL(rt, "Can only get item pairs from a mapping.");
    const struct jdict *d = c->self.u.dict;
    TRY(jlist_reserve(rt, l, d->n));
    for (size_t i = 0; i < d->n; i++) TRY(jv_pair(rt, d->e[i].key, d->e[i].val, &l->v[l->n++]));
    return jv_iter_of(rt, l, out);
}

/* ---- map, select, reject ------------------------------------------------------------------------------------------------- */

static int f_map(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jlist *l, *mapped = jlist_new(rt, 0);
    struct jv attribute = {.kind = JK_ABSENT}, fallback = {.kind = JK_ABSENT}, v;
    struct str name;
    const struct jbuiltin *filter = NULL;
    struct jcall args = {.n = c->n ? c->n - 1 : 0, .v = c->n ? c->v + 1 : NULL, .n_kw = c->n_kw, .kw = c->kw};
    if (!mapped) return rt->rc;
    if (!jv_truth(c->self)) return jv_iter_of(rt, mapped, out); /* none is as good as an empty list */
    if (c->n == 0) {
        for (size_t i = 0; i < c->n_kw; i++) {
            struct str key = jv_text(c->kw[i].name);
            if (str_is(key, "attribute"))
                attribute = c->kw[i].val;
            else if (str_is(key, "default"))
                fallback = c->kw[i].val;
            else
                return JFAIL(rt, "Unexpected keyword argument '%.*s'", STR_ARG(key));
        }
        if (!jv_given(attribute)) return JFAIL(rt, "map requires a filter argument");
    } else {
        TRY(jv_want_str(rt, c->v[0], "map", &name));
        if (!(filter = jfilter_find(name))) return JFAIL(rt, "No filter named '%.*s'.", STR_ARG(name));
    }
    TRY(jlist_of(rt, c->self, &l));
    TRY(jrt_enter(rt));
    for (size_t i = 0; i < l->n; i++) {
        TRY(filter ? jcall_builtin(rt, filter, l->v[i], &args, &v) : get_path(rt, l->v[i], attribute, fallback, &v));
        TRY(jlist_put(rt, mapped, v));
    }
    jrt_leave(rt);
    return jv_iter_of(rt, mapped, out);
}

enum { SELECT_REJECT = 1, SELECT_ATTR = 2 };

static int f_select(struct jrt *rt, struct jcall *c, struct jv *out)
{
    bool reject = c->def->arg & SELECT_REJECT;
    size_t off = c->def->arg & SELECT_ATTR ? 1 : 0;
    struct jlist *l, *kept = jlist_new(rt, 0);
    struct str name;
    const struct jbuiltin *test = NULL;
    struct jv attribute = {.kind = JK_ABSENT}, v;
    if (!kept) return rt->rc;
    if (!jv_truth(c->self)) return jv_iter_of(rt, kept, out); /* none is as good as an empty list */
    if (off > 0) {
        if (c->n == 0) return JFAIL(rt, "Missing parameter for attribute name");
        attribute = c->v[0];
    }
    struct jcall args = {.n_kw = c->n_kw, .kw = c->kw};
    if (c->n > off) {
        TRY(jv_want_str(rt, c->v[off], c->def->name, &name));
        if (!(test = jtest_find(name))) return JFAIL(rt, "No test named '%.*s'.", STR_ARG(name));
        args.n = c->n - off - 1;
        args.v = c->v + off + 1;
    }
    TRY(jlist_of(rt, c->self, &l));
    TRY(jrt_enter(rt));
    for (size_t i = 0; i < l->n; i++) {
        TRY(get_path(rt, l->v[i], attribute, jv_none(), &v));
        if (test) TRY(jcall_builtin(rt, test, v, &args, &v));
        if (jv_truth(v) != reject) TRY(jlist_put(rt, kept, l->v[i]));
    }
    jrt_leave(rt);
    return jv_iter_of(rt, kept, out);
}

/* ---- others
 * --------------------------------------------------------------------------------------------------------------------- */

static int f_default(struct jrt *rt, struct jcall *c, struct jv *out)
{
    bool replace = c->self.kind == JK_UNDEF || (opt_bool(c, 1, false) && !jv_truth(c->self));
    *out = c->self;
    if (!replace) return 0;
    *out = c->a[0];
    return jv_given(c->a[0]) ? 0 : jv_str_view(rt, "", 0, out);
}

static int f_attr(struct jrt *rt, struct jcall *c, struct jv *out)
{
    bool found;
    struct jv name;
    if (c->self.kind == JK_UNDEF) return jv_use_undefined(rt, c->self);
    TRY(jv_str(rt, c->a[0], &name));
    TRY(jv_attr_only(rt, c->self, name, out, &found));
    if (!found) *out = (struct jv){.kind = JK_UNDEF, .why = JU_ATTR, .of = c->self.kind, .u.s = name.u.s};
    return 0;
}

static int f_tojson(struct jrt *rt, struct jcall *c, struct jv *out)
{
    struct jjson_style style = {.ascii = opt_bool(c, 0, false), .sort_keys = opt_bool(c, 3, false), .pretty = !opt_none(c, 1)};
    size_t mark = jrt_mark(rt);
    struct jv pad;
    int64_t width;
    style.item_sep = style.pretty ? STR(",") : STR(", ");
    style.key_sep = STR(": ");
    if (style.pretty && c->a[1].kind == JK_STR) {
        style.indent = jv_text(c->a[1]);
    } else if (style.pretty) {
        TRY(opt_int(rt, c, 1, 0, &width));
        TRY(jrt_put_fill(rt, STR(" "), width > 0 ? (uint64_t)width : 0));
        TRY(jrt_take(rt, mark, &pad));
        style.indent = jv_text(pad);
    }
    if (!opt_none(c, 2)) {
        struct jlist *l;
        TRY(jlist_of(rt, c->a[2], &l));
        if (l->n != 2) return JFAIL(rt, "tojson: separators must be two strings");
        TRY(jv_want_str(rt, l->v[0], "tojson", &style.item_sep));
        TRY(jv_want_str(rt, l->v[1], "tojson", &style.key_sep));
    }
    TRY(jv_put_json(rt, c->self, &style));
    return jrt_take(rt, mark, out);
}

static const struct jbuiltin filters[] = {
    {"abs", "", f_abs, 0},
    {"attr", "name", f_attr, 0},
    {"batch", "linecount fill_with?", f_batch, 0},
    {"capitalize", "", f_case, JCASE_CAPITALIZE},
    {"center", "width?", f_center, 0},
    {"count", "", f_length, 0},
    {"d", "default_value? boolean?", f_default, 0},
    {"default", "default_value? boolean?", f_default, 0},
    {"dictsort", "case_sensitive? by? reverse?", f_dictsort, 0},
    {"e", "", f_escape, 0},
    {"escape", "", f_escape, 0},
    {"first", "", f_first, 0},
    {"float", "default?", f_float, 0},
    {"forceescape", "", f_forceescape, 0},
    {"format", "*", f_format, 0},
    {"groupby", "attribute default? case_sensitive?", f_groupby, 0},
    {"indent", "width? first? blank?", f_indent, 0},
    {"int", "default? base?", f_int, 0},
    {"items", "", f_items, 0},
    {"join", "d? attribute?", f_join, 0},
    {"last", "", f_last, 0},
    {"length", "", f_length, 0},
    {"list", "", f_list, 0},
    {"lower", "", f_case, JCASE_LOWER},
    {"map", "*", f_map, 0},
    {"max", "case_sensitive? attribute?", f_extreme, 1},
    {"min", "case_sensitive? attribute?", f_extreme, 0},
    {"reject", "*", f_select, SELECT_REJECT},
    {"rejectattr", "*", f_select, SELECT_REJECT | SELECT_ATTR},
    {"replace", "old new count?", f_replace, 0},
    {"reverse", "", f_reverse, 0},
    {"round", "precision? method?", f_round, 0},
    {"safe", "", f_safe, 0},
    {"select", "*", f_select, 0},
    {"selectattr", "*", f_select, SELECT_ATTR},
    {"slice", "slices fill_with?", f_slice, 0},
    {"sort", "reverse? case_sensitive? attribute?", f_sort, 0},
    {"string", "", f_string, 0},
    {"striptags", "", f_striptags, 0},
    {"sum", "attribute? start?", f_sum, 0},
    {"title", "", f_case, JCASE_FILTER_TITLE},
    {"tojson", "ensure_ascii? indent? separators? sort_keys?", f_tojson, 0},
    {"trim", "chars?", f_trim, 0},
    {"truncate", "length? killwords? end? leeway?", f_truncate, 0},
    {"unique", "case_sensitive? attribute?", f_unique, 0},
    {"upper", "", f_case, JCASE_UPPER},
    {"urlencode", "", f_urlencode, 0},
    {"wordcount", "", f_wordcount, 0},
    {"wordwrap", "width? break_long_words? wrapstring? break_on_hyphens?", f_wordwrap, 0},
    {"xmlattr", "autospace?", f_xmlattr, 0},
};

const struct jbuiltin *jfilter_find(struct str name)
{
    return jbuiltin_find(filters, COUNT_OF(filters), name);
}
