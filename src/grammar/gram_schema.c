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
    const struct sub *v; /* [n] the conjunction */
    size_t n;
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

struct sub schema_inside(struct schema *s, struct sub outer, const char *keyword, struct str name, const struct json *j)
{
    struct buf b = {0};
    int rc = buf_z(&b, outer.path);
    rc |= put_step(&b, str_of(keyword));
    if (name.p) rc |= put_step(&b, name);
    const char *path = rc == 0 ? arena_dup(&s->arena, b.p, size_min(b.n, 400)) : NULL;
    buf_fini(&b);
    if (!path && s->b->rc == 0) s->b->rc = fail_nomem(s->b->e, "a schema", strlen(outer.path));
    return (struct sub){.j = j, .base = schema_has_id(j) ? j : outer.base, .path = path ? path : ""};
}

struct sub schema_element(struct schema *s, struct sub outer, const char *keyword, const struct json *list, size_t i)
{
    char number[24];
    const size_t n = (size_t)snprintf(number, sizeof number, "%zu", i);
    return schema_inside(s, outer, keyword, (struct str){number, n}, &list->v[i]);
}

/* ---- conjunctions ------------------------------------------------------------------------------------------------------ */

void schema_conj_add(struct schema *s, struct conj *c, struct sub sub)
{
    if (c->n < CONJ_MAX)
        c->v[c->n++] = sub;
    else
        schema_wrong(s, ERR_LIMIT, sub, NULL, "too many schemas apply at once");
}

void schema_conj_bring(struct schema *s, struct conj *c, struct sub sub, size_t by)
{
    for (size_t i = 0; i < c->n; i++) {
        if (c->v[i].j != sub.j) continue;
        for (size_t up = by + 1; up; up = c->v[up - 1].by)
            if (up == i + 1) schema_wrong(s, ERR_ARG, c->v[by], NULL, "this schema refers to itself and to nothing else");
        return;
    }
    sub.by = (uint32_t)by + 1;
    schema_conj_add(s, c, sub);
}

void schema_flatten(struct schema *s, struct conj *c)
{
    for (size_t i = 0; i < c->n && s->b->rc == 0; i++) {
        const struct json *all = json_find(c->v[i].j, "allOf");
        struct sub target;
        if (json_find(c->v[i].j, "$ref") && !(c->v[i].done & DONE_REF)) {
            c->v[i].done |= DONE_REF;
            if (schema_resolve(s, c->v[i], &target)) schema_conj_bring(s, c, target, i);
        }
        if (!(c->v[i].done & DONE_LOGIC)) {
            c->v[i].done |= DONE_LOGIC;
            schema_bring_logic(s, c, i);
        }
        if (!all || (c->v[i].done & DONE_ALL)) continue;
        c->v[i].done |= DONE_ALL;
        for (size_t k = 0; k < all->n && s->b->rc == 0; k++)
            schema_conj_bring(s, c, schema_element(s, c->v[i], "allOf", all, k), i);
    }
}

void schema_spend(struct schema *s, size_t work)
{
    s->spent += work;
    if (s->spent > SCHEMA_WORK && s->b->rc == 0)
        s->b->rc = fail(s->b->e, ERR_LIMIT, "the schema has too many alternatives and values that depend on one another");
}

uint32_t schema_rule(struct schema *s, const struct conj *wanted)
{
    struct {
        const struct json *j;
        uint64_t done;
    } key[CONJ_MAX];
    struct conj c = *wanted;
    schema_flatten(s, &c);
    if (s->b->rc < 0) return 0;
    for (size_t i = 0; i < c.n; i++) key[i].j = c.v[i].j, key[i].done = c.v[i].done;
    if (c.n == 0) key[0].j = NULL, key[0].done = 0;
    uint32_t *rule = names_at(&s->rules, (struct str){(const char *)key, size_max(c.n, 1) * sizeof key[0]});
    if (rule && *rule != NONE) return *rule;
    struct todo *todo = arena_alloc(&s->arena, sizeof *todo);
    struct sub *v = arena_array(&s->arena, c.n + 1, sizeof *v);
    if (!rule || !todo || !v) {
        s->b->rc = fail_nomem(s->b->e, "a schema", c.n * sizeof *v);
        return 0;
    }
    memcpy(v, c.v, c.n * sizeof *v);
    schema_spend(s, c.n);
    *rule = build_rule(s->b, c.n ? str_of(c.v[0].path) : STR("a value"));
    *todo = (struct todo){NULL, *rule, v, c.n};
    *s->todo_end = todo;
    s->todo_end = &todo->next;
    return *rule;
}

uint32_t schema_shared_rule(struct schema *s, const struct buf *key, bool *found)
{
    uint32_t *rule = key ? names_at(&s->shared, buf_view(key)) : NULL;
    if (!rule && s->b->rc == 0) s->b->rc = fail_nomem(s->b->e, "a schema", 0);
    if (s->b->rc < 0) return 0;
    *found = *rule != NONE;
    if (!*found) *rule = build_rule(s->b, STR("a value"));
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
    {"patternProperties", TYPE_OBJECT},
    {"unevaluatedProperties", TYPE_OBJECT},
    {"propertyNames", TYPE_OBJECT},
    {"minProperties", TYPE_OBJECT},
    {"maxProperties", TYPE_OBJECT},
    {"dependencies", TYPE_OBJECT},
    {"dependentRequired", TYPE_OBJECT},
    {"dependentSchemas", TYPE_OBJECT},
    {"items", TYPE_ARRAY},
    {"prefixItems", TYPE_ARRAY},
    {"additionalItems", TYPE_ARRAY},
    {"uniqueItems", TYPE_ARRAY},
    {"contains", TYPE_ARRAY},
    {"minItems", TYPE_ARRAY},
    {"maxItems", TYPE_ARRAY},
    {"minLength", TYPE_STRING},
    {"maxLength", TYPE_STRING},
    {"pattern", TYPE_STRING},
    {"multipleOf", TYPE_INTEGER | TYPE_REAL},
    {"minimum", TYPE_INTEGER | TYPE_REAL},
    {"maximum", TYPE_INTEGER | TYPE_REAL},
    {"exclusiveMinimum", TYPE_INTEGER | TYPE_REAL},
    {"exclusiveMaximum", TYPE_INTEGER | TYPE_REAL},
};

/* The types that a schema says something of. */
static unsigned types_meant(const struct json *schema)
{
    unsigned meant = schema_format_types(schema);
    for (size_t k = 0; k < COUNT_OF(typed); k++)
        if (json_find(schema, typed[k].name)) meant |= typed[k].types;
    return meant;
}

unsigned schema_types_of(const struct conj *c, bool *open)
{
    unsigned types = TYPE_ALL, meant = 0;
    bool stated = false;
    for (size_t i = 0; i < c->n; i++) {
        if (c->v[i].j->type == JSON_FALSE) {
            *open = false;
            return 0;
        }
        stated = stated || json_find(c->v[i].j, "type");
        types &= schema_types(c->v[i].j);
        meant |= types_meant(c->v[i].j);
    }
    *open = types == TYPE_ALL && !meant && !schema_excludes_types(c, TYPE_ALL);
    return stated || !meant ? types : meant;
}

static uint32_t put_words(struct schema *s, uint32_t at, const struct conj *c, unsigned types)
{
    static const struct {
        unsigned type;
        struct json value;
        const char *text;
    } words[] = {{TYPE_NULL, {.type = JSON_NULL}, "null"},
                 {TYPE_BOOL, {.type = JSON_TRUE}, "true"},
                 {TYPE_BOOL, {.type = JSON_FALSE}, "false"}};
    const uint32_t end = build_state(s->b);
    for (size_t i = 0; i < COUNT_OF(words); i++)
        if ((types & words[i].type) && !schema_excludes(c, &words[i].value))
            build_empty(s->b, build_text(s->b, at, str_of(words[i].text)), end);
    return end;
}

static void fill(struct schema *s, const struct todo *t)
{
    struct build *b = s->b;
    struct conj whole = {.n = t->n};
    const struct conj *c = &whole;
    const struct rule r = b->g->rules[t->rule];
    bool listed = false, open;
    memcpy(whole.v, t->v, t->n * sizeof *t->v);
    if (schema_put_choices(s, r, c)) return;
    for (size_t i = 0; i < c->n; i++) {
        const struct json *v;
        size_t n;
        listed = listed || schema_values(c->v[i].j, &v, &n);
    }
    const unsigned types = schema_types_of(c, &open);
    if (listed) {
        if (types) build_empty(b, schema_put_values(s, r.entry, c), r.final);
        return;
    }
    if (open) {
        build_empty(b, json_use(&s->parts, r.entry, JSON_RULE_VALUE), r.final);
        return;
    }
    if (types & (TYPE_NULL | TYPE_BOOL)) build_empty(b, put_words(s, r.entry, c, types), r.final);
    if (types & (TYPE_INTEGER | TYPE_REAL)) build_empty(b, schema_put_number(s, r.entry, c, types & TYPE_REAL), r.final);
    if (types & TYPE_STRING) build_empty(b, schema_put_string(s, r.entry, c), r.final);
    if ((types & TYPE_ARRAY) && !schema_excludes_types(c, TYPE_ARRAY)) build_empty(b, schema_put_array(s, r.entry, c), r.final);
    if ((types & TYPE_OBJECT) && !schema_excludes_types(c, TYPE_OBJECT))
        build_empty(b, schema_put_object(s, r.entry, c), r.final);
}

void schema_fill(struct build *b, uint32_t rule, const struct json *root)
{
    struct schema s = {.b = b, .root = root};
    const struct conj whole = {.v = {{.j = root, .base = root, .path = "#"}}, .n = 1};
    s.todo_end = &s.todo;
    json_parts_init(&s.parts, b);
    schema_check(&s, whole.v[0]);
    const uint32_t value = schema_rule(&s, &whole);
    if (b->rc == 0) build_call(b, b->g->rules[rule].entry, b->g->rules[rule].final, value);
    for (struct todo *t = s.todo; t && b->rc == 0; t = t->next) fill(&s, t);
    json_parts_fini(&s.parts);
    names_fini(&s.rules);
    names_fini(&s.checked);
    names_fini(&s.shared);
    names_fini(&s.made_names);
    mem_free(s.made);
    names_fini(&s.part_names);
    mem_free(s.parts_named);
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
