/* schema_values: types, and the texts of values: listed ones, numbers within bounds, strings. */
#include <math.h>
#include <stdio.h>

#include "grammar/schema_int.h"

/* ---- types and values -------------------------------------------------------------------------------------------------- */

bool schema_type_name(struct str name, unsigned *bits)
{
    static const struct {
        const char *name;
        unsigned bits;
    } types[] = {
        {"null", TYPE_NULL},     {"boolean", TYPE_BOOL}, {"integer", TYPE_INTEGER}, {"number", TYPE_INTEGER | TYPE_REAL},
        {"string", TYPE_STRING}, {"array", TYPE_ARRAY},  {"object", TYPE_OBJECT}};
    for (size_t i = 0; i < COUNT_OF(types); i++)
        if (str_is(name, types[i].name)) {
            *bits = types[i].bits;
            return true;
        }
    return false;
}

unsigned schema_types(const struct json *schema)
{
    const struct json *type = json_find(schema, "type");
    unsigned all = 0, bits = 0;
    if (!type) return TYPE_ALL;
    if (type->type == JSON_STRING && schema_type_name(type->s, &bits)) return bits;
    for (size_t i = 0; i < type->n; i++)
        if (schema_type_name(type->v[i].s, &bits)) all |= bits;
    return all;
}

unsigned schema_type_of(const struct json *v)
{
    static const unsigned types[] = {
        [JSON_NULL] = TYPE_NULL, [JSON_FALSE] = TYPE_BOOL,    [JSON_TRUE] = TYPE_BOOL,   [JSON_INT] = TYPE_INTEGER,
        [JSON_REAL] = TYPE_REAL, [JSON_STRING] = TYPE_STRING, [JSON_ARRAY] = TYPE_ARRAY, [JSON_OBJECT] = TYPE_OBJECT};
    return v->type == JSON_REAL && v->f == floor(v->f) ? TYPE_INTEGER : types[v->type];
}

static bool is_number(const struct json *v)
{
    return v->type == JSON_INT || v->type == JSON_REAL;
}

bool json_equal(const struct json *a, const struct json *b)
{
    if (is_number(a) && is_number(b)) return a->f == b->f;
    if (a->type != b->type || a->n != b->n) return false;
    if (a->type == JSON_STRING) return str_eq(a->s, b->s);
    for (size_t i = 0; i < a->n; i++) {
        const struct json *other = a->type == JSON_ARRAY ? &b->v[i] : json_find_str(b, a->keys[i]);
        if (!other || !json_equal(&a->v[i], other)) return false;
    }
    return true;
}

bool schema_values(const struct json *schema, const struct json **v, size_t *n)
{
    const struct json *one = json_find(schema, "const"), *list = json_find(schema, "enum");
    if (!one && !list) return false;
    *v = one ? one : list->v;
    *n = one ? 1 : list->n;
    return true;
}

static size_t length_of(struct str s)
{
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) n += ((unsigned char)s.p[i] & 0xC0) != 0x80;
    return n;
}

static bool within(const struct json *schema, const char *keyword, double v, bool at_least, bool open)
{
    const struct json *limit = json_find(schema, keyword);
    if (!limit) return true;
    return at_least ? (open ? v > limit->f : v >= limit->f) : (open ? v < limit->f : v <= limit->f);
}

/* Whether a listed value satisfies one of the schemas that apply. Keywords that it would take a validator for are errors. */
static bool admits(struct schema *s, struct sub sub, const struct json *v)
{
    static const struct {
        const char *name;
        unsigned types;
    } others[] = {{"pattern", TYPE_STRING},
                  {"format", TYPE_STRING},
                  {"properties", TYPE_OBJECT},
                  {"required", TYPE_OBJECT},
                  {"additionalProperties", TYPE_OBJECT},
                  {"items", TYPE_ARRAY},
                  {"prefixItems", TYPE_ARRAY},
                  {"additionalItems", TYPE_ARRAY},
                  {"minItems", TYPE_ARRAY},
                  {"maxItems", TYPE_ARRAY}};
    const unsigned type = schema_type_of(v);
    const struct json *j = sub.j, *listed;
    size_t n = 0, i = 0;
    if (j->type == JSON_FALSE || !(schema_types(j) & type)) return false;
    if (schema_values(j, &listed, &n)) {
        while (i < n && !json_equal(&listed[i], v)) i++;
        if (i == n) return false;
        if (json_find(j, "const") && json_find(j, "enum"))
            schema_wrong(s, ERR_UNSUPPORTED, sub, "enum", "this cannot be honoured beside \"const\"");
    }
    for (size_t k = 0; k < COUNT_OF(others); k++)
        if ((others[k].types & type) && json_find(j, others[k].name))
            schema_wrong(s, ERR_UNSUPPORTED, sub, others[k].name, "this cannot be honoured beside listed values");
    if (type == TYPE_STRING)
        return within(j, "minLength", (double)length_of(v->s), true, false) &&
               within(j, "maxLength", (double)length_of(v->s), false, false);
    return !is_number(v) ||
           (within(j, "minimum", v->f, true, false) && within(j, "maximum", v->f, false, false) &&
            within(j, "exclusiveMinimum", v->f, true, true) && within(j, "exclusiveMaximum", v->f, false, true));
}

uint32_t schema_put_values(struct schema *s, uint32_t at, const struct conj *c)
{
    struct build *b = s->b;
    const struct json *v = NULL;
    size_t n = 0;
    const uint32_t end = build_state(b);
    for (size_t i = 0; i < c->n && !v; i++) (void)schema_values(c->v[i].j, &v, &n);
    for (size_t i = 0; i < n && b->rc == 0; i++) {
        bool ok = true;
        struct buf text = {0};
        for (size_t k = 0; k < c->n; k++) ok = admits(s, c->v[k], &v[i]) && ok;
        if (!ok) continue;
        if (json_write(&text, &v[i]) < 0 && b->rc == 0) b->rc = fail_nomem(b->e, "a schema", text.n);
        build_empty(b, build_text(b, at, buf_view(&text)), end);
        buf_fini(&text);
    }
    return end;
}

/* ---- schemas that no value satisfies both of ------------------------------------------------------------------------------
 */

#define DISJOINT_DEPTH 8

static bool requires(const struct json *schema, struct str name)
{
    const struct json *required = json_find(schema, "required");
    for (size_t i = 0; required && i < required->n; i++)
        if (str_eq(required->v[i].s, name)) return true;
    return false;
}

/* a requires a property that b has no place for. */
static bool is_excluded(const struct json *a, const struct json *b)
{
    const struct json *required = json_find(a, "required"), *extra = json_find(b, "additionalProperties");
    for (size_t i = 0; extra && extra->type == JSON_FALSE && required && i < required->n; i++)
        if (!json_find_str(json_find(b, "properties"), required->v[i].s)) return true;
    return false;
}

static bool objects_disjoint(struct schema *s, struct sub a, struct sub b, unsigned depth)
{
    const struct json *pa = json_find(a.j, "properties"), *pb = json_find(b.j, "properties");
    for (size_t i = 0; pa && pb && i < pa->n; i++) {
        const struct json *other = json_find_str(pb, pa->keys[i]);
        if (!other || !(requires(a.j, pa->keys[i]) || requires(b.j, pa->keys[i]))) continue;
        if (schema_disjoint(s, (struct sub){.j = &pa->v[i], .path = a.path}, (struct sub){.j = other, .path = b.path}, TYPE_ALL,
                            depth + 1))
            return true;
    }
    return is_excluded(a.j, b.j) || is_excluded(b.j, a.j);
}

/* Listed values make up the types. */
static unsigned narrow_types(const struct json *j)
{
    const struct json *v;
    size_t n;
    unsigned types = 0;
    if (!schema_values(j, &v, &n)) return schema_types(j);
    for (size_t i = 0; i < n; i++) types |= schema_type_of(&v[i]);
    return types & schema_types(j);
}

bool schema_disjoint(struct schema *s, struct sub a, struct sub b, unsigned types, unsigned depth)
{
    const struct json *va, *vb;
    size_t na, nb;
    if (depth > DISJOINT_DEPTH) return false;
    if (json_find(a.j, "$ref")) return schema_resolve(s, a, &a) && schema_disjoint(s, a, b, types, depth + 1);
    if (json_find(b.j, "$ref")) return schema_resolve(s, b, &b) && schema_disjoint(s, a, b, types, depth + 1);
    if (a.j->type == JSON_FALSE || b.j->type == JSON_FALSE) return true;
    types &= narrow_types(a.j) & narrow_types(b.j);
    if (types == 0) return true;
    if (schema_values(a.j, &va, &na) && schema_values(b.j, &vb, &nb)) {
        for (size_t i = 0; i < na; i++)
            for (size_t k = 0; k < nb; k++)
                if (json_equal(&va[i], &vb[k])) return false;
        return true;
    }
    return types == TYPE_OBJECT && objects_disjoint(s, a, b, depth);
}

/* ---- numbers ----------------------------------------------------------------------------------------------------------- */

#define DIGITS_MAX 15 /* of a number: doubles keep them all apart */

/* A bound as digits: d[0 .. whole) before the point, then those behind it up to n; no zeros at either end. */
struct decimal {
    char d[2 * DIGITS_MAX + 2];
    unsigned whole, n;
    bool negative, open;
};

/* From the text of a JSON number; false where it has too many digits. */
static bool read_decimal(struct str text, struct decimal *out)
{
    char d[64];
    int n = 0, point = -1, exponent = 0;
    size_t i = text.n && text.p[0] == '-';
    *out = (struct decimal){.negative = i == 1};
    for (; i < text.n && (text.p[i] | 0x20) != 'e'; i++) {
        if (text.p[i] == '.')
            point = n;
        else if (n > 0 || text.p[i] != '0' || point >= 0)
            d[n < 63 ? n++ : 63] = text.p[i];
        if (n == 63) return false;
    }
    if (point < 0) point = n;
    if (i < text.n) {
        int64_t e;
        const bool plus = text.p[i + 1] == '+';
        if (!str_i64((struct str){text.p + i + 1 + plus, text.n - i - 1 - plus}, &e) || e > 30 || e < -30) return false;
        exponent = (int)e;
    }
    point += exponent;
    while (n > 0 && d[n - 1] == '0') n--;
    for (int k = point < 0 ? point : 0; k < (n > point ? n : point); k++) {
        const char digit = k >= 0 && k < n ? d[k] : '0';
        if (out->n == sizeof out->d) return false;
        if (out->n == 0 && k < point && digit == '0') continue;
        out->d[out->n++] = digit;
        out->whole += k < point;
    }
    if (n == 0) out->n = out->whole = 0, out->negative = false;
    return out->whole <= DIGITS_MAX && out->n <= DIGITS_MAX;
}

static int compare(const struct decimal *a, const struct decimal *b)
{
    if (a->whole != b->whole) return a->whole < b->whole ? -1 : 1;
    for (unsigned i = 0; i < a->n || i < b->n; i++) {
        const char x = i < a->n ? a->d[i] : '0', y = i < b->n ? b->d[i] : '0';
        if (x != y) return x < y ? -1 : 1;
    }
    return 0;
}

/* Numbers with n_whole digits before the point that lie between lo and hi, digit by digit: whether what was written so far
 * equals the beginning of lo and that of hi. */
struct span {
    struct build *b;
    const struct decimal *lo, *hi; /* NULL: no bound among the numbers of this length */
    unsigned n_whole, n;           /* digits in all, at most */
    uint32_t end;
    uint32_t state[2 * DIGITS_MAX + 2][2][2]; /* behind i digits; NONE: not made yet */
};

static char digit_at(const struct decimal *d, unsigned n_whole, unsigned i)
{
    /* Shorter numbers have zeros in front: 0 itself has one digit before the point and none in d. */
    const unsigned skip = n_whole - d->whole;
    return i < skip || i - skip >= d->n ? '0' : d->d[i - skip];
}

/* Of a bound, which may have more digits than are written. */
static bool rest_is_zero(const struct decimal *d, unsigned n_whole, unsigned i)
{
    for (; i < n_whole + d->n; i++)
        if (digit_at(d, n_whole, i) != '0') return false;
    return true;
}

/* Whether the number may end behind i digits. */
static bool may_end(const struct span *s, unsigned i, bool low, bool high)
{
    const bool at_low = low && rest_is_zero(s->lo, s->n_whole, i);
    const bool at_high = high && rest_is_zero(s->hi, s->n_whole, i);
    return (!low || at_low) && !(at_low && s->lo->open) && !(at_high && s->hi->open);
}

static uint32_t span_state(struct span *s, unsigned i, bool low, bool high)
{
    uint32_t *at = &s->state[i][low][high];
    if (*at == NONE) *at = build_state(s->b);
    return *at;
}

/* The digits that may follow `from`, which stands behind i of them. */
static void put_digit(struct span *s, uint32_t from, unsigned i, bool low, bool high)
{
    const char first = i == 0 && s->n_whole > 1 ? '1' : '0';
    const char min = low ? digit_at(s->lo, s->n_whole, i) : '0', max = high ? digit_at(s->hi, s->n_whole, i) : '9';
    for (char d = min > first ? min : first; d <= max; d++)
        build_bytes(s->b, from, span_state(s, i + 1, low && d == min, high && d == max), (uint8_t)d, (uint8_t)d);
}

static void put_span(struct span *s, uint32_t at)
{
    struct build *b = s->b;
    memset(s->state, 0xFF, sizeof s->state);
    put_digit(s, at, 0, s->lo != NULL, s->hi != NULL);
    for (unsigned i = 1; i <= s->n; i++)
        for (unsigned k = 0; k < 4 && b->rc == 0; k++) {
            const bool low = k & 1, high = k & 2;
            uint32_t from = s->state[i][low][high];
            if (from == NONE) continue;
            if (i >= s->n_whole && may_end(s, i, low, high)) build_empty(b, from, s->end);
            if (i == s->n) continue;
            if (i == s->n_whole) from = build_text(b, from, STR("."));
            put_digit(s, from, i, low, high);
        }
}

/* Numbers from lo to hi, neither of them negative; hi NULL: as large as may be. */
static void put_range(struct build *b, uint32_t at, uint32_t end, const struct decimal *lo, const struct decimal *hi, bool real)
{
    if (hi && (compare(lo, hi) > 0 || (compare(lo, hi) == 0 && (lo->open || hi->open)))) return;
    const unsigned first = lo->whole ? lo->whole : 1, last = hi ? (hi->whole ? hi->whole : 1) : DIGITS_MAX;
    for (unsigned n = first; n <= last; n++) {
        struct span s = {.b = b, .lo = n == first ? lo : NULL, .hi = n == last ? hi : NULL, .n_whole = n, .end = end};
        s.n = real ? DIGITS_MAX : n;
        put_span(&s, at);
    }
}

/* The stricter of the bounds that the schemas state; false where there is none. */
static bool find_bound(struct schema *s, const struct conj *c, const char *keyword, const char *open, bool lower,
                       struct decimal *out)
{
    bool any = false;
    for (size_t i = 0; i < c->n; i++)
        for (int k = 0; k < 2; k++) {
            const struct json *v = json_find(c->v[i].j, k ? open : keyword);
            struct decimal d;
            if (!v) continue;
            if (!read_decimal(v->s, &d)) {
                schema_wrong(s, ERR_UNSUPPORTED, c->v[i], k ? open : keyword,
                             "bounds of more than 15 digits cannot be honoured");
                return false;
            }
            d.open = k;
            int order = any ? compare(&d, out) : 0;
            if (any && d.negative != out->negative)
                order = d.negative ? -1 : 1;
            else if (d.negative)
                order = -order;
            if (!any || (lower ? order > 0 : order < 0) || (order == 0 && d.open)) *out = d;
            any = true;
        }
    return any;
}

uint32_t schema_put_number(struct schema *s, uint32_t at, const struct conj *c, bool real)
{
    struct build *b = s->b;
    struct decimal lo, hi;
    const bool has_lo = find_bound(s, c, "minimum", "exclusiveMinimum", true, &lo);
    const bool has_hi = find_bound(s, c, "maximum", "exclusiveMaximum", false, &hi);
    if (!has_lo && !has_hi) return json_use(&s->parts, at, real ? JSON_RULE_NUMBER : JSON_RULE_INTEGER);
    const uint32_t end = build_state(b);
    const struct decimal zero = {0}, below_zero = {.open = true};
    if (b->rc < 0) return 0;
    if (!has_hi || !hi.negative) put_range(b, at, end, has_lo && !lo.negative ? &lo : &zero, has_hi ? &hi : NULL, real);
    if (!has_lo || lo.negative)
        put_range(b, build_text(b, at, STR("-")), end, has_hi && hi.negative ? &hi : &below_zero, has_lo ? &lo : NULL, real);
    return end;
}

/* ---- strings ----------------------------------------------------------------------------------------------------------- */

#define DAY "(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[1-9]|1\\d|2[0-8])"
#define HOUR "(?:[01]\\d|2[0-3]):[0-5]\\d"
#define DATE "\\d{4}-(?:" DAY ")"
#define TIME HOUR ":[0-5]\\d(?:\\.\\d{1,6})?(?:Z|[+-]" HOUR ")"
#define LABEL "[a-z0-9]{1,20}(?:-[a-z0-9]{1,20})?"
#define HOST LABEL "(?:\\." LABEL "){0,2}\\.[a-z]{2,10}"
#define BYTE "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"

/* What is generated for a format; all of it is valid, not all that is valid is generated. */
static const struct {
    const char *name, *regex;
} formats[] = {
    {"date", DATE},
    {"time", TIME},
    {"date-time", DATE "T" TIME},
    {"duration", "P(?:\\d{1,4}[YMWD]|(?:\\d{1,4}D)?T\\d{1,4}[HMS])"},
    {"uuid", "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"},
    {"email", "[a-z0-9]{1,20}(?:[._+-][a-z0-9]{1,20}){0,2}@" HOST},
    {"hostname", HOST},
    {"ipv4", "(?:" BYTE "\\.){3}" BYTE},
    {"ipv6", "(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}"},
    {"uri", "https?://" HOST "(?:/[A-Za-z0-9._-]{1,40}){0,6}/?"},
};

uint32_t schema_count(const struct conj *c, const char *keyword, bool largest, uint32_t dflt)
{
    uint32_t n = dflt;
    for (size_t i = 0; i < c->n; i++) {
        const struct json *v = json_find(c->v[i].j, keyword);
        if (!v) continue;
        const uint32_t k = v->f < (double)(UNBOUNDED - 1) ? (uint32_t)v->f : UNBOUNDED - 1;
        if (largest ? k > n : k < n) n = k;
    }
    return n;
}

static const char *format_regex(struct str name)
{
    for (size_t i = 0; i < COUNT_OF(formats); i++)
        if (str_is(name, formats[i].name)) return formats[i].regex;
    return NULL;
}

uint32_t schema_put_string(struct schema *s, uint32_t at, const struct conj *c)
{
    struct build *b = s->b;
    struct sub where = {0};
    const char *keyword = NULL;
    const uint32_t min = schema_count(c, "minLength", true, 0), max = schema_count(c, "maxLength", false, UNBOUNDED);
    for (size_t i = 0; i < c->n; i++)
        for (int k = 0; k < 2; k++) {
            const char *key = k ? "pattern" : "format";
            const struct json *v = json_find(c->v[i].j, key);
            if (!v) continue;
            if (keyword && !str_eq(json_find(where.j, keyword)->s, v->s))
                schema_wrong(s, ERR_UNSUPPORTED, c->v[i], key, "two patterns or formats cannot be honoured together");
            where = c->v[i];
            keyword = key;
        }
    if (!keyword && min == 0 && max == UNBOUNDED) return json_use(&s->parts, at, JSON_RULE_STRING);
    at = build_text(b, at, STR("\""));
    if (keyword) {
        if (min > 0 || max != UNBOUNDED)
            schema_wrong(s, ERR_UNSUPPORTED, where, keyword, "this cannot be honoured beside minLength or maxLength");
        const struct str text = json_find(where.j, keyword)->s;
        const bool format = strcmp(keyword, "format") == 0;
        const char *known = format ? format_regex(text) : NULL;
        char place[400];
        (void)snprintf(place, sizeof place, "schema, %.300s/%s", where.path, keyword);
        if (format && !known) schema_wrong(s, ERR_UNSUPPORTED, where, keyword, "this format cannot be honoured");
        const struct regex_options o = {.search = !format, .in_json = true, .where = place};
        at = regex_append(b, at, format ? str_of(known) : text, &o);
    } else if (max < min) {
        at = build_state(b); /* nowhere */
    } else if (min > REPEAT_MAX) {
        schema_wrong(s, ERR_LIMIT, c->v[0], "minLength", "strings that are so long cannot be asked for");
    } else {
        struct part p = {.from = build_state(b)};
        p.to = json_use(&s->parts, p.from, JSON_RULE_CHARACTER);
        at = build_repeat(b, at, p, min, max == UNBOUNDED ? UNBOUNDED : (uint32_t)size_min(max, REPEAT_MAX));
    }
    return build_text(b, at, STR("\""));
}
