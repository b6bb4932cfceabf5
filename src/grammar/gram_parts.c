/* gram_parts: a form that is put together of others. The text is a JSON object of parts by name, each a rule; the answer is
 * what the one named "root" says. A part is
 *
 *   "text"              this text
 *   [part, ..]          one behind the other
 *   {"any": [part, ..]} one of them
 *   {"many": part}      once or more often
 *   {"rule": "name"}    the part of this name
 *   {"schema": ..}, {"grammar": "GBNF"}, {"regex": ".."}, {"json": true}    what the forms of these kinds take
 *   {"free": {"without": ["text", ..], "first": ["text", ..]}}
 *                       any text in which none of the first ones occurs, and that begins with none of the others, white space
 * in front of it or not
 *
 * A server's calls of tools are such parts (tools/serve/ask_form.c). */
#include "grammar/grammar_int.h"

struct parts {
    struct build *b;
    struct names names; /* of the parts, to their rules */
    struct json_parts json;
};

static void wrong(struct parts *p, const char *what)
{
    if (p->b->rc == 0) p->b->rc = fail(p->b->e, ERR_ARG, "parts: %s", what);
}

/* Where the rule of a name is; NULL after a failure. */
static uint32_t *rule_of(struct parts *p, struct str name)
{
    uint32_t *rule = name.n ? names_at(&p->names, name) : NULL;
    if (!name.n) wrong(p, "a name was expected");
    if (!rule && p->b->rc == 0) p->b->rc = fail_nomem(p->b->e, "a grammar", name.n);
    return rule;
}

/* ---- free text --------------------------------------------------------------------------------------------------------- */

#define FREE_BYTES 64 /* of all texts together: time is in the fourth power of it */

/* What the text so far ends with (or all of it is, behind white space: whole): a beginning of a text that must not come. */
struct seen {
    struct str text;
    bool whole;
    uint32_t state;
};
struct free_text {
    const struct json *without, *first; /* arrays; NULL: none */
    struct seen seen[FREE_BYTES + 2];
    size_t n;
    bool occurs[256]; /* in one of the texts, or is white space: all other bytes lead to the same */
};

static struct seen *find_seen(struct free_text *f, struct str text, bool whole)
{
    for (size_t i = 0; i < f->n; i++)
        if (f->seen[i].whole == whole && str_eq(f->seen[i].text, text)) return &f->seen[i];
    return NULL;
}

static bool is_one_of(const struct json *list, struct str text)
{
    for (size_t i = 0; list && i < list->n; i++)
        if (str_eq(list->v[i].s, text)) return true;
    return false;
}

/* Where the byte at the end of text leads, text without it being what was seen; NULL: nowhere. */
static const struct seen *next_seen(struct free_text *f, struct str text, bool whole)
{
    const struct seen *longest = NULL;
    const char last = text.p[text.n - 1];
    if (whole && text.n == 1 && (last == ' ' || last == '\n' || last == '\r' || last == '\t'))
        return find_seen(f, STR(""), true);
    if (whole && is_one_of(f->first, text)) return NULL;
    if (whole) longest = find_seen(f, text, true);
    for (size_t i = 0; i < text.n; i++) {
        const struct str end = {text.p + i, text.n - i};
        if (is_one_of(f->without, end)) return NULL;
        if (!longest) longest = find_seen(f, end, false);
    }
    return longest ? longest : find_seen(f, STR(""), false);
}

/* Makes states for all beginnings of the texts but the texts themselves; false: they are no texts, or too long. */
static bool add_seen(struct parts *p, struct free_text *f, const struct json *list, bool whole)
{
    bool ok = !list || (list->type == JSON_ARRAY && list->n <= FREE_BYTES);
    for (size_t i = 0; ok && list && i < list->n; i++) {
        const struct json *j = &list->v[i];
        ok = j->type == JSON_STRING && j->s.n > 0;
        for (size_t n = 0; ok && n < j->s.n; n++) f->occurs[(uint8_t)j->s.p[n]] = true;
        for (size_t n = 1; ok && n < j->s.n; n++) {
            const struct str text = {j->s.p, n};
            if (find_seen(f, text, whole)) continue;
            ok = f->n < COUNT_OF(f->seen);
            if (ok) f->seen[f->n++] = (struct seen){text, whole, build_state(p->b)};
        }
    }
    return ok;
}

static void put_seen(struct parts *p, struct free_text *f, const struct seen *from)
{
    char text[FREE_BYTES + 1];
    uint32_t to = NONE, lo = 0;
    memcpy(text, from->text.p, from->text.n);
    for (uint32_t byte = 0; byte <= 256; byte++) {
        const struct seen *next = NULL;
        text[from->text.n] = (char)byte;
        if (byte < 256 && !f->occurs[byte])
            next = &f->seen[0];
        else if (byte < 256)
            next = next_seen(f, (struct str){text, from->text.n + 1}, from->whole);
        const uint32_t state = next ? next->state : NONE;
        if (byte > 0 && byte < 256 && state == to) continue;
        if (to != NONE) build_bytes(p->b, from->state, to, (uint8_t)lo, (uint8_t)(byte - 1));
        to = state;
        lo = byte;
    }
}

static uint32_t put_free(struct parts *p, uint32_t at, const struct json *j)
{
    struct build *b = p->b;
    struct free_text f = {.without = json_find(j, "without"), .first = json_find(j, "first"), .n = 2};
    f.occurs[' '] = f.occurs['\n'] = f.occurs['\r'] = f.occurs['\t'] = true;
    f.seen[0] = (struct seen){STR(""), false, build_state(b)};
    f.seen[1] = (struct seen){STR(""), true, build_state(b)};
    if (!add_seen(p, &f, f.without, false) || !add_seen(p, &f, f.first, true))
        wrong(p, "\"free\" must be an object; \"without\" and \"first\" in it are arrays of texts that are short together");
    const uint32_t end = build_state(b);
    build_empty(b, at, f.seen[1].state);
    for (size_t i = 0; i < f.n && b->rc == 0; i++) {
        put_seen(p, &f, &f.seen[i]);
        build_empty(b, f.seen[i].state, end);
    }
    return end;
}

/* ---- parts ------------------------------------------------------------------------------------------------------------- */

static uint32_t put(struct parts *p, uint32_t at, const struct json *part);

static uint32_t put_any(struct parts *p, uint32_t at, const struct json *j)
{
    const uint32_t end = build_state(p->b);
    if (j->type != JSON_ARRAY) wrong(p, "\"any\" must be an array");
    for (size_t i = 0; i < j->n && p->b->rc == 0; i++) {
        const uint32_t from = build_state(p->b);
        build_empty(p->b, at, from);
        build_empty(p->b, put(p, from, &j->v[i]), end);
    }
    return end;
}

static uint32_t put_many(struct parts *p, uint32_t at, const struct json *j)
{
    struct part part = {.from = build_state(p->b)};
    part.to = put(p, part.from, j);
    return build_repeat(p->b, at, part, 1, UNBOUNDED);
}

static uint32_t put_rule(struct parts *p, uint32_t at, const struct json *j)
{
    const uint32_t *rule = rule_of(p, j->type == JSON_STRING ? j->s : STR(""));
    if (rule && *rule == NONE) wrong(p, "\"rule\" must be the name of a part");
    return p->b->rc < 0 ? 0 : build_use(p->b, at, *rule);
}

/* A rule of its own, that another front end fills. */
static uint32_t put_schema(struct parts *p, uint32_t at, const struct json *j)
{
    const uint32_t rule = build_rule(p->b, STR("the schema"));
    if (p->b->rc == 0) schema_fill(p->b, rule, j);
    return build_use(p->b, at, rule);
}

static uint32_t put_grammar(struct parts *p, uint32_t at, const struct json *j)
{
    const uint32_t rule = build_rule(p->b, STR("the grammar"));
    if (j->type != JSON_STRING) wrong(p, "\"grammar\" must be a text");
    if (p->b->rc == 0) gbnf_fill(p->b, rule, j->s);
    return build_use(p->b, at, rule);
}

static uint32_t put_regex(struct parts *p, uint32_t at, const struct json *j)
{
    const struct regex_options o = {.where = "regex"};
    if (j->type != JSON_STRING) wrong(p, "\"regex\" must be a text");
    return p->b->rc < 0 ? 0 : regex_append(p->b, at, j->s, &o);
}

static uint32_t put_json(struct parts *p, uint32_t at, const struct json *j)
{
    if (j->type != JSON_TRUE) wrong(p, "\"json\" must be true");
    return json_use(&p->json, at, JSON_RULE_OBJECT);
}

static uint32_t put_sequence(struct parts *p, uint32_t at, const struct json *list)
{
    for (size_t i = 0; i < list->n && p->b->rc == 0; i++) at = put(p, at, &list->v[i]);
    return at;
}

static uint32_t put_kind(struct parts *p, uint32_t at, const struct json *part)
{
    static const struct {
        const char *name;
        uint32_t (*put)(struct parts *p, uint32_t at, const struct json *j);
    } kinds[] = {{"any", put_any},         {"many", put_many},   {"rule", put_rule}, {"schema", put_schema},
                 {"grammar", put_grammar}, {"regex", put_regex}, {"json", put_json}, {"free", put_free}};
    for (size_t i = 0; part->type == JSON_OBJECT && part->n == 1 && i < COUNT_OF(kinds); i++)
        if (str_is(part->keys[0], kinds[i].name)) return kinds[i].put(p, at, &part->v[0]);
    wrong(p,
          "a part is a text, an array of parts, or an object with one of any, many, rule, schema, grammar, regex, json, free");
    return 0;
}

static uint32_t put(struct parts *p, uint32_t at, const struct json *part)
{
    struct build *b = p->b;
    if (++b->depth > NESTING_MAX && b->rc == 0)
        b->rc = fail(b->e, ERR_LIMIT, "parts are nested more than %d deep", NESTING_MAX);
    if (b->rc == 0)
        at = part->type == JSON_STRING  ? build_text(b, at, part->s)
             : part->type == JSON_ARRAY ? put_sequence(p, at, part)
                                        : put_kind(p, at, part);
    b->depth--;
    return at;
}

/* The rules of all names, so that parts may name those that come later. */
static void name_parts(struct parts *p, const struct json *all)
{
    bool rooted = false;
    for (size_t i = 0; all->type == JSON_OBJECT && i < all->n && p->b->rc == 0; i++) {
        uint32_t *rule = rule_of(p, all->keys[i]);
        if (rule && *rule != NONE) wrong(p, "two have the same name");
        if (p->b->rc < 0) return;
        const bool root = str_is(all->keys[i], "root");
        *rule = root ? 0 : build_rule(p->b, all->keys[i]);
        rooted = rooted || root;
    }
    if (!rooted) wrong(p, "an object with a part named \"root\" was expected");
}

void parts_build(struct build *b, struct str text)
{
    struct parts p = {.b = b};
    struct arena a = {0};
    struct json *all;
    json_parts_init(&p.json, b);
    const int rc = json_parse(&a, text, "parts", &all, b->e);
    if (rc < 0) {
        b->rc = rc == ERR_FORMAT ? ERR_ARG : rc;
        if (b->e) b->e->code = b->rc;
    } else {
        name_parts(&p, all);
    }
    for (size_t i = 0; b->rc == 0 && i < all->n; i++) {
        const uint32_t rule = *names_at(&p.names, all->keys[i]);
        const uint32_t end = put(&p, b->g->rules[rule].entry, &all->v[i]);
        if (b->rc == 0) build_empty(b, end, b->g->rules[rule].final);
    }
    json_parts_fini(&p.json);
    names_fini(&p.names);
    arena_fini(&a);
}
