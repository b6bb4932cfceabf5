/* schema_strings: strings with lengths, patterns and formats; several of them are conditions on one text (gram_lang). */
#include <stdio.h>

#include "grammar/schema_int.h"

/* ---- formats ----------------------------------------------------------------------------------------------------------- */

#define DAY "(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[1-9]|1\\d|2[0-8])"
#define HOUR "(?:[01]\\d|2[0-3]):[0-5]\\d"
#define DATE "\\d{4}-(?:" DAY ")"
#define TIME HOUR ":[0-5]\\d(?:\\.\\d{1,6})?(?:Z|[+-]" HOUR ")"
#define LABEL "[a-z0-9]{1,20}(?:-[a-z0-9]{1,20})?"
#define HOST LABEL "(?:\\." LABEL "){0,2}\\.[a-z]{2,10}"
#define EMAIL "[a-z0-9]{1,20}(?:[._+-][a-z0-9]{1,20}){0,2}@" HOST
#define BYTE "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define STEPS "(?:/[A-Za-z0-9._-]{1,40}){0,6}"
#define URI "https?://" HOST STEPS "/?"
#define BRIEF_HOST "[a-z0-9]{1,12}\\.[a-z]{2,4}"
#define BRIEF_STEP "(?:/[A-Za-z0-9._-]{1,12})?"
#define ATOM "(?:[A-Za-z0-9_ ,:;@/-]|\\.|\\\\[dDwWsS.*+?()\\[\\]{}|^$\\\\/]|\\[[A-Za-z0-9_.]{1,20}\\])[*+?]?"

/* What is generated for a format; all of it is valid, not all that is valid is generated. Without an expression: of numbers.
 * Any other format is an annotation. brief: what is generated where "maxLength" is less than `room` characters. */
struct format {
    const char *name, *regex, *brief;
    double room;
};
static const struct format formats[] = {
    {"date", DATE, NULL, 0},
    {"time", TIME, NULL, 0},
    {"date-time", DATE "T" TIME, NULL, 0},
    {"duration", "P(?:\\d{1,4}[YMWD]|(?:\\d{1,4}D)?T\\d{1,4}[HMS])", NULL, 0},
    {"uuid", "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", NULL, 0},
    {"email", EMAIL, "[a-z0-9]{1,12}@" BRIEF_HOST, 200},
    {"idn-email", EMAIL, "[a-z0-9]{1,12}@" BRIEF_HOST, 200},
    {"hostname", HOST, BRIEF_HOST, 140},
    {"idn-hostname", HOST, BRIEF_HOST, 140},
    {"ipv4", "(?:" BYTE "\\.){3}" BYTE, NULL, 0},
    {"ipv6", "(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}", NULL, 0},
    {"uri", URI, "https?://" BRIEF_HOST BRIEF_STEP, 400},
    {"url", URI, "https?://" BRIEF_HOST BRIEF_STEP, 400},
    {"iri", URI, "https?://" BRIEF_HOST BRIEF_STEP, 400},
    {"uri-reference", "(?:https?://" HOST ")?" STEPS "/?", BRIEF_STEP, 400},
    {"iri-reference", "(?:https?://" HOST ")?" STEPS "/?", BRIEF_STEP, 400},
    {"uri-template", "(?:https?://" HOST ")?(?:/(?:[A-Za-z0-9._-]{1,40}|\\{[a-z][a-z0-9_]{0,20}\\})){0,6}/?", BRIEF_STEP, 400},
    {"json-pointer", STEPS, BRIEF_STEP, 250},
    {"relative-json-pointer", "(?:0|[1-9]\\d{0,3})(?:#|" STEPS ")", "(?:0|[1-9])" BRIEF_STEP, 260},
    {"regex", "\\^?(?:" ATOM "){0,60}\\$?", NULL, 0},
    {"byte", "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?", NULL, 0},
    {"int32", NULL, NULL, 0},
    {"int64", NULL, NULL, 0},
};

static const struct format *format_of(const struct json *schema)
{
    const struct json *name = json_find(schema, "format");
    for (size_t i = 0; name && i < COUNT_OF(formats); i++)
        if (str_is(name->s, formats[i].name)) return &formats[i];
    return NULL;
}

unsigned schema_format_types(const struct json *schema)
{
    const struct format *format = format_of(schema);
    return !format ? 0 : format->regex ? TYPE_STRING : TYPE_INTEGER | TYPE_REAL;
}

/* ---- conditions -------------------------------------------------------------------------------------------------------- */

/* What a conjunction says of a text. */
struct expression {
    struct sub sub; /* that says so in `keyword` */
    const char *keyword;
    struct str regex;
};
struct text_rules {
    const char *path;
    struct expression v[LANG_PARTS + 1]; /* one more than can be, which fails when they are conditions */
    size_t n;
    const struct str *excluded; /* [n_excluded] */
    size_t n_excluded;
    uint32_t min, max; /* characters */
};
#define LENGTH_BESIDE 2000 /* characters at most, where there are other conditions, too */

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

static void add_expression(struct text_rules *r, struct sub sub, const char *keyword, struct str regex)
{
    for (size_t i = 0; i < r->n; i++)
        if (r->v[i].keyword == keyword && str_eq(r->v[i].regex, regex)) return;
    if (r->n < COUNT_OF(r->v)) r->v[r->n++] = (struct expression){sub, keyword, regex};
}

static const char in_pattern[] = "pattern", in_format[] = "format", excluded_pattern[] = "not";

/* ---- lookahead --------------------------------------------------------------------------------------------------------- */

/* "^" before, and what stands around a part of an expression; in the arena. */
static struct str anchored(struct schema *s, const char *open, struct str part, const char *close)
{
    struct buf b = {0};
    const int rc = buf_z(&b, open) | buf_str(&b, part) | buf_z(&b, close);
    const char *copy = rc == 0 ? arena_dup(&s->arena, b.p, b.n) : NULL;
    const size_t n = b.n;
    buf_fini(&b);
    if (!copy && s->b->rc == 0) s->b->rc = fail_nomem(s->b->e, "a schema", part.n);
    return copy ? (struct str){copy, n} : STR("");
}

/* The expression has alternatives that are not in a group. */
static bool has_alternatives(struct str text)
{
    bool in_set = false;
    for (size_t i = 0; i < text.n; i++) {
        const size_t size = in_set ? 0 : regex_group((struct str){text.p + i, text.n - i});
        if (size > 0) {
            i += size - 1;
            continue;
        }
        if (regex_is_syntax(text, &i, &in_set) && text.p[i] == '|') return true;
    }
    return false;
}

/* Lookahead at the beginning, "^(?=A)(?!B)C", is further conditions: that it begins with A, and not with B. */
static void add_pattern(struct schema *s, struct text_rules *r, struct sub sub, struct str text)
{
    while (s->b->rc == 0 && (str_starts(text, STR("^(?=")) || str_starts(text, STR("^(?!"))) && !has_alternatives(text)) {
        const size_t size = regex_group((struct str){text.p + 1, text.n - 1});
        if (size == 0) break;
        const struct str inside = anchored(s, "^(?:", (struct str){text.p + 4, size - 4}, ")");
        add_expression(r, sub, text.p[3] == '!' ? excluded_pattern : in_pattern, inside);
        text = anchored(s, "^", (struct str){text.p + 1 + size, text.n - 1 - size}, "");
    }
    add_expression(r, sub, in_pattern, text);
}

static uint32_t put_regex(struct build *b, uint32_t at, const char *path, const char *keyword, struct str regex)
{
    char place[400];
    (void)snprintf(place, sizeof place, "schema, %.300s%s%s", path, keyword ? "/" : "", keyword ? keyword : "");
    const struct regex_options o = {.search = keyword != in_format, .in_json = true, .where = place};
    return regex_append(b, at, regex, &o);
}

uint32_t schema_put_regex(struct build *b, uint32_t at, const char *path, struct str regex)
{
    return put_regex(b, at, path, NULL, regex);
}

static uint32_t put_expression(struct build *b, uint32_t at, const struct expression *x)
{
    return put_regex(b, at, x->sub.path, x->keyword, x->regex);
}

static void add_expressions(struct lang *l, const struct text_rules *r)
{
    for (size_t i = 0; i < r->n; i++) {
        const uint32_t from = lang_begin(l);
        const uint32_t to = put_expression(&l->b, from, &r->v[i]);
        lang_end(l, from, to, r->v[i].keyword == excluded_pattern ? LANG_WITHOUT : LANG_WITH);
    }
}

/* Bounds that an expression implies are none to look after. */
static void drop_lengths(struct schema *s, struct text_rules *r)
{
    struct lang l;
    if (r->min == 0 && r->max == UNBOUNDED) return;
    lang_init(&l, s->b, r->path);
    add_expressions(&l, r);
    lang_lengths(&l, &r->min, &r->max);
    lang_fini(&l);
}

/* The texts among the values that are excluded. */
static void gather_excluded(struct schema *s, const struct conj *c, struct text_rules *r)
{
    size_t n = 0;
    for (size_t k = 0; k < c->n; k++) {
        const struct json *no = json_find(c->v[k].j, SCHEMA_NO_VALUES);
        n += no ? no->n : 0;
    }
    struct str *v = arena_array(&s->arena, n + 1, sizeof *v);
    if (!v && s->b->rc == 0) s->b->rc = fail_nomem(s->b->e, "a schema", n * sizeof *v);
    for (size_t k = 0; k < c->n && v; k++) {
        const struct json *no = json_find(c->v[k].j, SCHEMA_NO_VALUES);
        for (size_t i = 0; no && i < no->n; i++)
            if (no->v[i].type == JSON_STRING) v[r->n_excluded++] = no->v[i].s;
    }
    r->excluded = v;
}

static void gather_rules(struct schema *s, const struct conj *c, struct text_rules *r)
{
    r->n = r->n_excluded = 0;
    r->path = c->n ? c->v[0].path : "#";
    gather_excluded(s, c, r);
    r->min = schema_count(c, "minLength", true, 0);
    r->max = schema_count(c, "maxLength", false, UNBOUNDED);
    if (r->min > REPEAT_MAX) schema_wrong(s, ERR_LIMIT, c->v[0], "minLength", "strings that are so long cannot be asked for");
    for (size_t i = 0; i < c->n; i++) {
        const struct json *pattern = json_find(c->v[i].j, in_pattern), *no = json_find(c->v[i].j, SCHEMA_NO_PATTERN);
        const struct format *format = format_of(c->v[i].j);
        if (pattern) add_pattern(s, r, c->v[i], pattern->s);
        if (no) add_expression(r, c->v[i], excluded_pattern, no->s);
        if (!format || !format->regex) continue;
        const bool brief = format->brief && r->max < format->room;
        add_expression(r, c->v[i], in_format, str_of(brief ? format->brief : format->regex));
    }
    if (r->n > 0) drop_lengths(s, r);
}

static void add_length(struct lang *l, uint32_t min, uint32_t max)
{
    const uint32_t from = lang_begin(l);
    struct chars all = {0};
    chars_add(&all, 0, CHAR_LAST);
    struct part p = {.from = build_state(&l->b)};
    p.to = build_chars(&l->b, p.from, &all, false);
    lang_end(l, from, max < min ? build_state(&l->b) : build_repeat(&l->b, from, p, min, max), LANG_WITH);
}

static void add_rules(struct lang *l, const struct text_rules *r)
{
    add_expressions(l, r);
    lang_any(l);
    if (r->n_excluded > 0) lang_texts(l, r->excluded, r->n_excluded, LANG_WITHOUT);
    const uint32_t most = r->min > LENGTH_BESIDE ? r->min : LENGTH_BESIDE;
    if (r->min > 0 || r->max != UNBOUNDED)
        add_length(l, r->min, r->max == UNBOUNDED ? UNBOUNDED : (uint32_t)size_min(r->max, most));
}

void schema_add_conditions(struct schema *s, struct lang *l, const struct conj *c)
{
    struct text_rules r;
    gather_rules(s, c, &r);
    add_rules(l, &r);
}

static size_t length_of(struct str s)
{
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) n += ((unsigned char)s.p[i] & 0xC0) != 0x80;
    return n;
}

bool schema_admits_string(struct schema *s, struct sub sub, struct str text)
{
    struct conj c = {.v = {sub}, .n = 1};
    struct text_rules r;
    struct lang l;
    bool ok = true;
    gather_rules(s, &c, &r);
    const size_t length = length_of(text);
    if (length < r.min || length > r.max) return false;
    lang_init(&l, s->b, sub.path);
    add_expressions(&l, &r);
    const uint32_t ends = lang_takes(&l, text);
    for (size_t i = 0; i < r.n && s->b->rc == 0; i++) {
        if ((ends >> i & 1) != (r.v[i].keyword == excluded_pattern)) continue;
        ok = false;
        if (r.v[i].keyword == in_format)
            schema_wrong(s, ERR_UNSUPPORTED, sub, in_format, "whether a listed value has this format cannot be told");
    }
    lang_fini(&l);
    return ok;
}

/* ---- strings ----------------------------------------------------------------------------------------------------------- */

/* min to max characters, each with or without an escape. */
static uint32_t put_length(struct schema *s, uint32_t at, uint32_t min, uint32_t max)
{
    struct build *b = s->b;
    if (max < min) return build_state(b); /* nowhere */
    struct part p = {.from = build_state(b)};
    p.to = json_use(&s->parts, p.from, JSON_RULE_CHARACTER);
    return build_repeat(b, at, p, min, max == UNBOUNDED ? UNBOUNDED : (uint32_t)size_min(max, REPEAT_MAX));
}

static uint32_t put_conditions(struct schema *s, uint32_t at, const struct text_rules *r)
{
    struct lang l;
    lang_init(&l, s->b, r->path);
    add_rules(&l, r);
    at = lang_append(&l, &s->parts, at);
    lang_fini(&l);
    return at;
}

static uint32_t put_text(struct schema *s, uint32_t at, const struct text_rules *r)
{
    struct build *b = s->b;
    const bool any_length = r->min == 0 && r->max == UNBOUNDED;
    at = build_text(b, at, STR("\""));
    if (r->n == 0 && r->n_excluded == 0)
        at = put_length(s, at, r->min, r->max);
    else if (r->n == 1 && r->n_excluded == 0 && any_length && r->v[0].keyword != excluded_pattern)
        at = put_expression(b, at, &r->v[0]);
    else
        at = put_conditions(s, at, r);
    return build_text(b, at, STR("\""));
}

static int put_key(struct buf *key, char kind, struct str text)
{
    return buf_printf(key, " %c%zu:", kind, text.n) | buf_str(key, text);
}

/* Texts of which the same is said share a rule. */
uint32_t schema_put_string(struct schema *s, uint32_t at, const struct conj *c)
{
    struct text_rules r;
    struct buf key = {0};
    bool found = false;
    gather_rules(s, c, &r);
    if (r.n + r.n_excluded == 0 && r.min == 0 && r.max == UNBOUNDED) return json_use(&s->parts, at, JSON_RULE_STRING);
    int rc = buf_printf(&key, "string %u %u", r.min, r.max);
    for (size_t i = 0; i < r.n; i++) rc |= put_key(&key, r.v[i].keyword[0], r.v[i].regex);
    for (size_t i = 0; i < r.n_excluded; i++) rc |= put_key(&key, '-', r.excluded[i]);
    const uint32_t rule = schema_shared_rule(s, rc == 0 ? &key : NULL, &found);
    buf_fini(&key);
    if (s->b->rc == 0 && !found) build_empty(s->b, put_text(s, s->b->g->rules[rule].entry, &r), s->b->g->rules[rule].final);
    return build_use(s->b, at, rule);
}
