/* schema_numbers: numbers within bounds, exact to the digit. */
#include <math.h>

#include "grammar/schema_int.h"

/* ---- decimals ---------------------------------------------------------------------------------------------------------- */

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

/* ---- digits ------------------------------------------------------------------------------------------------------------ */

/* Numbers with n_whole digits before the point that lie between lo and hi, digit by digit: whether what was written so far
 * equals the beginning of lo and that of hi. */
struct stretch {
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
static bool may_end(const struct stretch *s, unsigned i, bool low, bool high)
{
    const bool at_low = low && rest_is_zero(s->lo, s->n_whole, i);
    const bool at_high = high && rest_is_zero(s->hi, s->n_whole, i);
    return (!low || at_low) && !(at_low && s->lo->open) && !(at_high && s->hi->open);
}

static uint32_t stretch_state(struct stretch *s, unsigned i, bool low, bool high)
{
    uint32_t *at = &s->state[i][low][high];
    if (*at == NONE) *at = build_state(s->b);
    return *at;
}

/* The digits that may follow `from`, which stands behind i of them. */
static void put_digit(struct stretch *s, uint32_t from, unsigned i, bool low, bool high)
{
    const char first = i == 0 && s->n_whole > 1 ? '1' : '0';
    const char min = low ? digit_at(s->lo, s->n_whole, i) : '0', max = high ? digit_at(s->hi, s->n_whole, i) : '9';
    for (char d = min > first ? min : first; d <= max; d++)
        build_bytes(s->b, from, stretch_state(s, i + 1, low && d == min, high && d == max), (uint8_t)d, (uint8_t)d);
}

static void put_stretch(struct stretch *s, uint32_t at)
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
        struct stretch s = {.b = b, .lo = n == first ? lo : NULL, .hi = n == last ? hi : NULL, .n_whole = n, .end = end};
        s.n = real ? DIGITS_MAX : n;
        put_stretch(&s, at);
    }
}

/* ---- bounds ------------------------------------------------------------------------------------------------------------ */

/* What states a side's bound: a keyword; one that opens it, or does so for the first as a flag (draft 4); a format. */
#define BOUNDS 3
struct side {
    const char *names[BOUNDS];
    struct json format; /* of "int32" */
    bool lower;
};
static const struct side lower = {
    {"minimum", "exclusiveMinimum", "format"}, {.f = -2147483648.0, .s = {"-2147483648", 11}}, true};
static const struct side upper = {
    {"maximum", "exclusiveMaximum", "format"}, {.f = 2147483647.0, .s = {"2147483647", 10}}, false};

/* Bound number i; NULL: there is none. */
static const struct json *bound_of(const struct json *schema, const struct side *side, unsigned i, bool *open)
{
    const struct json *v = json_find(schema, side->names[i]);
    const struct json *flag = json_find(schema, side->names[1]);
    *open = i == 1 || (i == 0 && flag && flag->type == JSON_TRUE);
    if (i == 2) return v && str_is(v->s, "int32") ? &side->format : NULL;
    return v && (v->type == JSON_INT || v->type == JSON_REAL) ? v : NULL;
}

static bool is_whole(const struct json *schema)
{
    return schema_format_types(schema) & TYPE_INTEGER;
}

/* A bound beyond all numbers that are written is the last of those. */
static bool read_bound(const struct json *v, const struct side *side, struct decimal *out)
{
    if (read_decimal(v->s, out)) return true;
    *out = (struct decimal){.whole = DIGITS_MAX, .n = DIGITS_MAX, .negative = side->lower};
    memset(out->d, '9', DIGITS_MAX);
    return side->lower ? v->f < -1e15 : v->f > 1e15;
}

/* The stricter of the bounds that the schemas state; false where there is none. */
static bool find_bound(struct schema *s, const struct conj *c, const struct side *side, struct decimal *out)
{
    bool any = false;
    for (size_t i = 0; i < c->n; i++)
        for (unsigned k = 0; k < BOUNDS; k++) {
            struct decimal d;
            bool open;
            const struct json *v = bound_of(c->v[i].j, side, k, &open);
            if (!v) continue;
            if (!read_bound(v, side, &d)) {
                schema_wrong(s, ERR_UNSUPPORTED, c->v[i], side->names[k], "bounds of more than 15 digits cannot be honoured");
                return false;
            }
            d.open = open;
            int order = any ? compare(&d, out) : 0;
            if (any && d.negative != out->negative)
                order = d.negative ? -1 : 1;
            else if (d.negative)
                order = -order;
            if (!any || (side->lower ? order > 0 : order < 0) || (order == 0 && d.open)) *out = d;
            any = true;
        }
    return any;
}

struct range {
    bool real, has_lo, has_hi;
    struct decimal lo, hi;
};

static uint32_t put_numbers(struct build *b, uint32_t at, const struct range *r)
{
    const uint32_t end = build_state(b);
    const struct decimal zero = {0}, below_zero = {.open = true}, *lo = r->has_lo ? &r->lo : NULL,
                         *hi = r->has_hi ? &r->hi : NULL;
    if (!hi || !hi->negative) put_range(b, at, end, lo && !lo->negative ? lo : &zero, hi, r->real);
    if (!lo || lo->negative) put_range(b, build_text(b, at, STR("-")), end, hi && hi->negative ? hi : &below_zero, lo, r->real);
    return end;
}

/* ---- conditions on digits ---------------------------------------------------------------------------------------------- */

/* All ways to write one number. */
static void add_excluded(struct lang *l, const struct decimal *d)
{
    struct build *b = &l->b;
    const uint32_t from = lang_begin(l), end = build_state(b);
    uint32_t at = d->negative ? build_text(b, from, STR("-")) : from;
    at = build_text(b, at, d->whole ? (struct str){d->d, d->whole} : STR("0"));
    if (d->n <= d->whole) build_empty(b, at, end);
    at = build_text(b, at, STR("."));
    if (d->n > d->whole) at = build_text(b, at, (struct str){d->d + d->whole, d->n - d->whole});
    build_bytes(b, at, at, '0', '0');
    build_empty(b, at, end);
    lang_end(l, from, end, LANG_WITHOUT);
}

/* Multiples of p / 10^places. */
struct step_of {
    uint32_t p, places;
};
#define STEP_STATES 2000

static bool read_step(struct str text, struct step_of *m)
{
    struct decimal d;
    *m = (struct step_of){0, 0};
    if (!read_decimal(text, &d) || d.negative) return false;
    for (unsigned i = 0; i < d.n && m->p <= STEP_STATES; i++) m->p = m->p * 10 + (uint32_t)(d.d[i] - '0');
    m->places = d.n > d.whole ? d.n - d.whole : 0;
    return m->p > 0 && m->p * (m->places + 1) <= STEP_STATES;
}

/* With `left` more places, all of them 0, a number with the remainder r is a multiple. */
static bool is_multiple(const struct step_of *m, uint32_t r, uint32_t left)
{
    while (left-- > 0) r = r * 10 % m->p;
    return r == 0;
}

/* A state for each remainder of the digits so far, before the point and behind each place after it. */
static void add_step(struct lang *l, const struct step_of *m)
{
    struct build *b = &l->b;
    const uint32_t from = lang_begin(l), end = build_state(b), first = build_state(b);
    for (uint32_t i = 1; i < m->p * (m->places + 1); i++) (void)build_state(b);
    build_empty(b, from, first);
    build_bytes(b, from, first, '-', '-');
    for (uint32_t place = 0; place <= m->places; place++)
        for (uint32_t r = 0; r < m->p && b->rc == 0; r++) {
            uint32_t at = first + place * m->p + r;
            if (is_multiple(m, r, m->places - place)) build_empty(b, at, end);
            for (uint32_t d = 0; d < 10 && place == 0; d++)
                build_bytes(b, at, first + (r * 10 + d) % m->p, (uint8_t)('0' + d), (uint8_t)('0' + d));
            if (place == m->places) continue;
            if (place == 0) at = build_text(b, at, STR("."));
            for (uint32_t d = 0; d < 10; d++)
                build_bytes(b, at, first + (place + 1) * m->p + (r * 10 + d) % m->p, (uint8_t)('0' + d), (uint8_t)('0' + d));
        }
    lang_end(l, from, end, LANG_WITH);
}

/* ---- numbers ----------------------------------------------------------------------------------------------------------- */

/* What is said of a number besides its range. */
struct digit_rules {
    struct step_of steps[CONJ_MAX];
    size_t n_steps;
    struct decimal *excluded; /* [n_excluded] */
    size_t n_excluded;
};

static void gather_steps(struct schema *s, const struct conj *c, struct digit_rules *d, struct range *r)
{
    for (size_t i = 0; i < c->n && s->b->rc == 0; i++) {
        const struct json *v = json_find(c->v[i].j, "multipleOf");
        struct step_of m;
        if (!v) continue;
        if (!read_step(v->s, &m)) {
            schema_wrong(s, ERR_UNSUPPORTED, c->v[i], "multipleOf", "only steps of few digits can be honoured");
            return;
        }
        if (m.places == 0) r->real = false;
        if (m.places > 0 || m.p > 1) d->steps[d->n_steps++] = m;
    }
}

static void gather_excluded(struct schema *s, const struct conj *c, struct digit_rules *d)
{
    size_t n = 0;
    for (size_t k = 0; k < c->n; k++) {
        const struct json *no = json_find(c->v[k].j, SCHEMA_NO_VALUES);
        n += no ? no->n : 0;
    }
    d->excluded = arena_array(&s->arena, n + 1, sizeof *d->excluded);
    if (!d->excluded && s->b->rc == 0) s->b->rc = fail_nomem(s->b->e, "a schema", n * sizeof *d->excluded);
    for (size_t k = 0; k < c->n && s->b->rc == 0; k++) {
        const struct json *no = json_find(c->v[k].j, SCHEMA_NO_VALUES);
        for (size_t i = 0; no && i < no->n; i++) /* what has too many digits to be read is not written either */
            if ((no->v[i].type == JSON_INT || no->v[i].type == JSON_REAL) &&
                read_decimal(no->v[i].s, &d->excluded[d->n_excluded]))
                d->n_excluded++;
    }
}

static uint32_t put_digits(struct schema *s, uint32_t at, const struct conj *c, const struct range *r,
                           const struct digit_rules *d)
{
    struct lang l;
    if (d->n_steps + d->n_excluded == 0) return put_numbers(s->b, at, r);
    lang_init(&l, s->b, c->v[0].path);
    const uint32_t from = lang_begin(&l);
    lang_end(&l, from, put_numbers(&l.b, from, r), LANG_WITH);
    for (size_t i = 0; i < d->n_steps; i++) add_step(&l, &d->steps[i]);
    for (size_t i = 0; i < d->n_excluded; i++) add_excluded(&l, &d->excluded[i]);
    at = lang_append(&l, &s->parts, at);
    lang_fini(&l);
    return at;
}

static int put_key(struct buf *key, char kind, const struct decimal *d)
{
    return buf_printf(key, " %c%d%d%u:%.*s", kind, d->open, d->negative, d->whole, (int)d->n, d->d);
}

/* Numbers of which the same is said share a rule. */
uint32_t schema_put_number(struct schema *s, uint32_t at, const struct conj *c, bool real)
{
    struct build *b = s->b;
    struct range r = {.real = real};
    struct digit_rules d = {.n_steps = 0};
    struct buf key = {0};
    bool found = false;
    for (size_t i = 0; i < c->n; i++) r.real = r.real && !is_whole(c->v[i].j);
    r.has_lo = find_bound(s, c, &lower, &r.lo);
    r.has_hi = find_bound(s, c, &upper, &r.hi);
    gather_steps(s, c, &d, &r);
    gather_excluded(s, c, &d);
    if (!r.has_lo && !r.has_hi && d.n_steps + d.n_excluded == 0)
        return json_use(&s->parts, at, r.real ? JSON_RULE_NUMBER : JSON_RULE_INTEGER);
    int rc = buf_printf(&key, "number %d", r.real);
    if (r.has_lo) rc |= put_key(&key, '>', &r.lo);
    if (r.has_hi) rc |= put_key(&key, '<', &r.hi);
    for (size_t i = 0; i < d.n_steps; i++) rc |= buf_printf(&key, " *%u/%u", d.steps[i].p, d.steps[i].places);
    for (size_t i = 0; i < d.n_excluded; i++) rc |= put_key(&key, '-', &d.excluded[i]);
    const uint32_t rule = schema_shared_rule(s, rc == 0 ? &key : NULL, &found);
    buf_fini(&key);
    if (b->rc == 0 && !found) build_empty(b, put_digits(s, b->g->rules[rule].entry, c, &r, &d), b->g->rules[rule].final);
    return build_use(b, at, rule);
}

bool schema_admits_number(const struct json *schema, const struct json *v)
{
    const struct json *step = json_find(schema, "multipleOf");
    bool open, ok = !is_whole(schema) || v->f == floor(v->f);
    for (unsigned i = 0; i < BOUNDS; i++) {
        const struct json *lo = bound_of(schema, &lower, i, &open);
        if (lo) ok = ok && (open ? v->f > lo->f : v->f >= lo->f);
        const struct json *hi = bound_of(schema, &upper, i, &open);
        if (hi) ok = ok && (open ? v->f < hi->f : v->f <= hi->f);
    }
    struct step_of m;
    struct decimal d;
    if (!step || !ok) return ok;
    if (!read_step(step->s, &m) || !read_decimal(v->s, &d)) return false;
    const unsigned places = d.n > d.whole ? d.n - d.whole : 0;
    uint32_t r = 0;
    for (unsigned i = 0; i < d.n; i++) r = (r * 10 + (uint32_t)(d.d[i] - '0')) % m.p;
    return places <= m.places && is_multiple(&m, r, m.places - places);
}
