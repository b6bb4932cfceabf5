/* gram_schema: a JSON Schema becomes rules. A value must satisfy several schemas at once (allOf, a $ref and what stands beside
 * it), so a rule belongs to a conjunction of schemas; alternatives are distributed over it. Rules are asked for by name and
 * filled from a list, so nothing recurses, and a schema that refers to itself is a rule that calls itself.
 *
 * What is generated satisfies the schema; not all that satisfies it is generated. Keys come in the order of the schema, keys
 * that it does not name only where it says so, white space is bounded. */
#include <stdio.h>

#include "grammar/schema_int.h"

struct todo {
    struct todo *next;
    uint32_t rule;
    struct conj c;
};

/* ---- places ------------------------------------------------------------------------------------------------------------ */

void schema_wrong(struct schema *s, int code, struct sub sub, const char *keyword, const char *text)
{
    if (s->b->rc == 0)
        s->b->rc = fail(s->b->e, code, "schema, %.300s%s%s: %s", sub.path, keyword ? "/" : "", keyword ? keyword : "", text);
}

static int put_step(struct buf *b, struct str name)
{
    int rc = buf_c(b, '/');
    for (size_t i = 0; i < name.n; i++)
        rc |= name.p[i] == '~' ? buf_z(b, "~0") : name.p[i] == '/' ? buf_z(b, "~1") : buf_c(b, name.p[i]);
    return rc;
}

const char *schema_path(struct schema *s, const char *path, const char *keyword, struct str name)
{
    struct buf b = {0};
    int rc = buf_z(&b, path);
    if (keyword) rc |= put_step(&b, str_of(keyword));
    if (name.p) rc |= put_step(&b, name);
    const char *copy = rc == 0 ? arena_dup(&s->arena, b.p, size_min(b.n, 400)) : NULL;
    buf_fini(&b);
    if (!copy && s->b->rc == 0) s->b->rc = fail_nomem(s->b->e, "a schema", strlen(path));
    return copy ? copy : "";
}

/* ---- references -------------------------------------------------------------------------------------------------------- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    const char low = (char)(c | 0x20);
    return low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
}

/* One step of a pointer without its escapes (%XX, ~0, ~1); buf: room for it. */
static struct str read_step(struct str step, char *buf)
{
    size_t n = 0;
    for (size_t i = 0; i < step.n; i++) {
        char c = step.p[i];
        if (c == '%' && step.n - i > 2 && hex_digit(step.p[i + 1]) >= 0 && hex_digit(step.p[i + 2]) >= 0) {
            c = (char)(hex_digit(step.p[i + 1]) << 4 | hex_digit(step.p[i + 2]));
            i += 2;
        }
        if (c == '~' && step.n - i > 1 && (step.p[i + 1] == '0' || step.p[i + 1] == '1')) c = step.p[++i] == '0' ? '~' : '/';
        buf[n++] = c;
    }
    return (struct str){buf, n};
}

static const struct json *follow_step(const struct json *j, struct str step)
{
    uint64_t i;
    if (j->type == JSON_OBJECT) return json_find_str(j, step);
    return j->type == JSON_ARRAY && str_u64(step, &i) && i < j->n ? &j->v[i] : NULL;
}

bool schema_resolve(struct schema *s, struct sub sub, struct sub *out)
{
    const struct str ref = json_find(sub.j, "$ref")->s;
    const struct json *j = s->root;
    char *buf = arena_alloc(&s->arena, ref.n + 1);
    if (!buf) {
        s->b->rc = fail_nomem(s->b->e, "a schema", ref.n);
        return false;
    }
    if (ref.n == 0 || ref.p[0] != '#' || (ref.n > 1 && ref.p[1] != '/')) {
        schema_wrong(s, ERR_UNSUPPORTED, sub, "$ref", "only references into the schema itself (#, #/...) can be honoured");
        return false;
    }
    for (size_t i = 1; i < ref.n && j;) {
        size_t end = ++i;
        while (end < ref.n && ref.p[end] != '/') end++;
        j = follow_step(j, read_step((struct str){ref.p + i, end - i}, buf));
        i = end;
    }
    if (!j) {
        schema_wrong(s, ERR_ARG, sub, "$ref", "there is nothing at this place");
        return false;
    }
    *out = (struct sub){.j = j, .path = arena_dup(&s->arena, ref.p, size_min(ref.n, 400))};
    uint32_t *known = names_at(&s->checked, (struct str){(const char *)&j, sizeof(struct json *)});
    if (!out->path || !known) {
        s->b->rc = fail_nomem(s->b->e, "a schema", ref.n);
        return false;
    }
    if (*known == NONE) schema_check(s, *out);
    *known = 1;
    return s->b->rc == 0;
}

/* ---- conjunctions ------------------------------------------------------------------------------------------------------ */

/* Adds what the schema at place `by` brings in, unless it is there already. */
static void add_sub(struct schema *s, struct conj *c, struct sub sub, size_t by)
{
    for (size_t i = 0; i < c->n; i++) {
        if (c->v[i].j != sub.j) continue;
        for (size_t up = by + 1; up; up = c->v[up - 1].by)
            if (up == i + 1) schema_wrong(s, ERR_ARG, c->v[by], NULL, "this schema refers to itself and to nothing else");
        return;
    }
    if (c->n == CONJ_MAX) {
        schema_wrong(s, ERR_LIMIT, sub, NULL, "too many schemas apply at once");
        return;
    }
    sub.by = (uint32_t)by + 1;
    c->v[c->n++] = sub;
}

/* Brings in what "$ref" and "allOf" say. */
static void flatten(struct schema *s, struct conj *c)
{
    for (size_t i = 0; i < c->n && s->b->rc == 0; i++) {
        const struct json *all = json_find(c->v[i].j, "allOf");
        struct sub target;
        if (json_find(c->v[i].j, "$ref") && !(c->v[i].done & DONE_REF)) {
            c->v[i].done |= DONE_REF;
            if (schema_resolve(s, c->v[i], &target)) add_sub(s, c, target, i);
        }
        if (!all || (c->v[i].done & DONE_ALL)) continue;
        c->v[i].done |= DONE_ALL;
        for (size_t k = 0; k < all->n && s->b->rc == 0; k++)
            add_sub(s, c, (struct sub){.j = &all->v[k], .path = schema_path(s, c->v[i].path, "allOf", (struct str){0})}, i);
    }
}

uint32_t schema_rule(struct schema *s, const struct conj *wanted)
{
    struct {
        const struct json *j;
        uint64_t done;
    } key[CONJ_MAX];
    struct conj c = *wanted;
    flatten(s, &c);
    if (s->b->rc < 0) return 0;
    for (size_t i = 0; i < c.n; i++) key[i].j = c.v[i].j, key[i].done = c.v[i].done;
    if (c.n == 0) key[0].j = NULL, key[0].done = 0;
    uint32_t *rule = names_at(&s->rules, (struct str){(const char *)key, size_max(c.n, 1) * sizeof key[0]});
    if (rule && *rule != NONE) return *rule;
    struct todo *todo = arena_alloc(&s->arena, sizeof *todo);
    if (!rule || !todo) {
        s->b->rc = fail_nomem(s->b->e, "a schema", sizeof *todo);
        return 0;
    }
    *rule = build_rule(s->b, c.n ? str_of(c.v[0].path) : STR("a value"));
    *todo = (struct todo){NULL, *rule, c};
    *s->todo_end = todo;
    s->todo_end = &todo->next;
    return *rule;
}

/* ---- one conjunction --------------------------------------------------------------------------------------------------- */

/* Keywords that say something of one type only. Without "type" they mean that type. */
static const struct {
    const char *name;
    unsigned types;
} typed[] = {
    {"properties", TYPE_OBJECT},
    {"required", TYPE_OBJECT},
    {"additionalProperties", TYPE_OBJECT},
    {"items", TYPE_ARRAY},
    {"prefixItems", TYPE_ARRAY},
    {"additionalItems", TYPE_ARRAY},
    {"minItems", TYPE_ARRAY},
    {"maxItems", TYPE_ARRAY},
    {"minLength", TYPE_STRING},
    {"maxLength", TYPE_STRING},
    {"pattern", TYPE_STRING},
    {"format", TYPE_STRING},
    {"minimum", TYPE_INTEGER | TYPE_REAL},
    {"maximum", TYPE_INTEGER | TYPE_REAL},
    {"exclusiveMinimum", TYPE_INTEGER | TYPE_REAL},
    {"exclusiveMaximum", TYPE_INTEGER | TYPE_REAL},
};

static unsigned types_of(const struct conj *c)
{
    unsigned types = TYPE_ALL, meant = 0;
    bool stated = false;
    for (size_t i = 0; i < c->n; i++) {
        if (c->v[i].j->type == JSON_FALSE) return 0;
        stated = stated || json_find(c->v[i].j, "type");
        types &= schema_types(c->v[i].j);
        for (size_t k = 0; k < COUNT_OF(typed); k++)
            if (json_find(c->v[i].j, typed[k].name)) meant |= typed[k].types;
    }
    return stated || !meant ? types : meant;
}

static bool has_any(const struct conj *c, unsigned types)
{
    for (size_t i = 0; i < c->n; i++)
        for (size_t k = 0; k < COUNT_OF(typed); k++)
            if ((typed[k].types & types) && json_find(c->v[i].j, typed[k].name)) return true;
    return false;
}

static uint32_t put_words(struct schema *s, uint32_t at, unsigned types)
{
    static const struct {
        unsigned type;
        const char *text;
    } words[] = {{TYPE_NULL, "null"}, {TYPE_BOOL, "true"}, {TYPE_BOOL, "false"}};
    const uint32_t end = build_state(s->b);
    for (size_t i = 0; i < COUNT_OF(words); i++)
        if (types & words[i].type) build_empty(s->b, build_text(s->b, at, str_of(words[i].text)), end);
    return end;
}

static void check_exclusive(struct schema *s, struct sub sub, const struct json *branches, unsigned types)
{
    const char *path = schema_path(s, sub.path, "oneOf", (struct str){0});
    for (size_t i = 0; i < branches->n; i++)
        for (size_t k = i + 1; k < branches->n && s->b->rc == 0; k++) {
            const struct sub a = {.j = &branches->v[i], .path = path}, b = {.j = &branches->v[k], .path = path};
            if (!schema_disjoint(s, a, b, types, 0))
                schema_wrong(s, ERR_UNSUPPORTED, sub, "oneOf",
                             "two of its schemas could hold at once, for neither their types nor a constant that one of them "
                             "requires tells them apart; anyOf can be honoured");
        }
}

/* Distributes alternatives of the conjunction; false where it has none. */
static bool distribute(struct schema *s, const struct todo *t)
{
    static const struct {
        const char *name;
        uint32_t done;
    } kinds[] = {{"anyOf", DONE_ANY}, {"oneOf", DONE_ONE}};
    const struct rule r = s->b->g->rules[t->rule];
    for (size_t i = 0; i < t->c.n; i++)
        for (size_t kind = 0; kind < COUNT_OF(kinds); kind++) {
            const struct json *branches = json_find(t->c.v[i].j, kinds[kind].name);
            if (!branches || (t->c.v[i].done & kinds[kind].done)) continue;
            if (kinds[kind].done == DONE_ONE) check_exclusive(s, t->c.v[i], branches, types_of(&t->c));
            for (size_t k = 0; k < branches->n && s->b->rc == 0; k++) {
                struct conj c = t->c;
                char number[24];
                const size_t n = (size_t)snprintf(number, sizeof number, "%zu", k);
                const char *path = schema_path(s, c.v[i].path, kinds[kind].name, (struct str){number, n});
                c.v[i].done |= kinds[kind].done;
                add_sub(s, &c, (struct sub){.j = &branches->v[k], .path = path}, i);
                build_call(s->b, r.entry, r.final, schema_rule(s, &c));
            }
            return true;
        }
    return false;
}

static void fill(struct schema *s, const struct todo *t)
{
    struct build *b = s->b;
    const struct conj *c = &t->c;
    const struct rule r = b->g->rules[t->rule];
    bool listed = false;
    if (distribute(s, t)) return;
    for (size_t i = 0; i < c->n; i++) {
        const struct json *v;
        size_t n;
        listed = listed || schema_values(c->v[i].j, &v, &n);
    }
    const unsigned types = types_of(c);
    if (listed) {
        if (types) build_empty(b, schema_put_values(s, r.entry, c), r.final);
        return;
    }
    if (types == TYPE_ALL && !has_any(c, TYPE_ALL)) {
        build_empty(b, json_use(&s->parts, r.entry, JSON_RULE_VALUE), r.final);
        return;
    }
    if (types & (TYPE_NULL | TYPE_BOOL)) build_empty(b, put_words(s, r.entry, types), r.final);
    if (types & (TYPE_INTEGER | TYPE_REAL)) build_empty(b, schema_put_number(s, r.entry, c, types & TYPE_REAL), r.final);
    if (types & TYPE_STRING) build_empty(b, schema_put_string(s, r.entry, c), r.final);
    if (types & TYPE_ARRAY) build_empty(b, schema_put_array(s, r.entry, c), r.final);
    if (types & TYPE_OBJECT) build_empty(b, schema_put_object(s, r.entry, c), r.final);
}

void schema_fill(struct build *b, uint32_t rule, const struct json *root)
{
    struct schema s = {.b = b, .root = root};
    const struct conj whole = {.v = {{.j = root, .path = "#"}}, .n = 1};
    s.todo_end = &s.todo;
    json_parts_init(&s.parts, b);
    schema_check(&s, whole.v[0]);
    const uint32_t value = schema_rule(&s, &whole);
    if (b->rc == 0) build_call(b, b->g->rules[rule].entry, b->g->rules[rule].final, value);
    for (struct todo *t = s.todo; t && b->rc == 0; t = t->next) fill(&s, t);
    names_fini(&s.rules);
    names_fini(&s.checked);
    arena_fini(&s.arena);
}

void schema_build(struct build *b, struct str text)
{
    struct arena a = {0};
    struct json *root;
    const int rc = json_parse(&a, text, "schema", &root, b->e);
    if (rc < 0) {
        b->rc = rc == ERR_FORMAT ? ERR_ARG : rc;
        if (b->e) b->e->code = b->rc;
    } else {
        schema_fill(b, 0, root);
    }
    arena_fini(&a);
}
