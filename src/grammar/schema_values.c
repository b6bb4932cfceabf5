/* schema_values: types, listed values, and whether two schemas exclude one another. */
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

static bool has_value(const struct json *list, const struct json *value)
{
    for (size_t i = 0; i < list->n; i++)
        if (json_equal(&list->v[i], value)) return true;
    return false;
}

bool schema_excludes(const struct conj *c, const struct json *value)
{
    for (size_t k = 0; k < c->n; k++) {
        const struct json *no = json_find(c->v[k].j, SCHEMA_NO_VALUES);
        if (no && has_value(no, value)) return true;
    }
    return false;
}

bool schema_excludes_types(const struct conj *c, unsigned types)
{
    for (size_t k = 0; k < c->n; k++) {
        const struct json *no = json_find(c->v[k].j, SCHEMA_NO_VALUES);
        for (size_t i = 0; no && i < no->n; i++)
            if (schema_type_of(&no->v[i]) & types) return true;
    }
    return false;
}

/* Whether a listed value, an element of list_of_v, satisfies one of the schemas that apply. Keywords that it would take a
 * validator for are errors. */
static bool admits(struct schema *s, struct sub sub, const struct json *v, const struct json *list_of_v)
{
    static const struct {
        const char *name;
        unsigned types;
    } others[] = {{"properties", TYPE_OBJECT},     {"patternProperties", TYPE_OBJECT},
                  {"propertyNames", TYPE_OBJECT},  {"unevaluatedProperties", TYPE_OBJECT},
                  {"minProperties", TYPE_OBJECT},  {"maxProperties", TYPE_OBJECT},
                  {"required", TYPE_OBJECT},       {"additionalProperties", TYPE_OBJECT},
                  {"items", TYPE_ARRAY},           {"prefixItems", TYPE_ARRAY},
                  {"additionalItems", TYPE_ARRAY}, {"uniqueItems", TYPE_ARRAY},
                  {"contains", TYPE_ARRAY},        {"minItems", TYPE_ARRAY},
                  {"maxItems", TYPE_ARRAY}};
    const unsigned type = schema_type_of(v);
    const struct json *j = sub.j, *one = json_find(j, "const"), *list = json_find(j, "enum");
    if (j->type == JSON_FALSE || !(schema_types(j) & type) || (one && !json_equal(one, v))) return false;
    if (list && list->v != list_of_v && !has_value(list, v)) return false;
    for (size_t k = 0; k < COUNT_OF(others); k++)
        if ((others[k].types & type) && json_find(j, others[k].name))
            schema_wrong(s, ERR_UNSUPPORTED, sub, others[k].name, "this cannot be honoured beside listed values");
    if (type == TYPE_STRING) return schema_admits_string(s, sub, v->s);
    return !is_number(v) || schema_admits_number(j, v);
}

/* Comparing n values with m others is little work for each pair, but for many. */
static void spend_on_lists(struct schema *s, size_t n, size_t m)
{
    schema_spend(s, n * m / 64);
}

/* The values that the lists of a conjunction have, but for the one that begins at v. */
static size_t count_others(const struct conj *c, const struct json *v)
{
    size_t n = 0;
    for (size_t k = 0; k < c->n; k++) {
        const struct json *list = json_find(c->v[k].j, "enum"), *no = json_find(c->v[k].j, SCHEMA_NO_VALUES);
        n += (list && list->v != v ? list->n : 0) + (no ? no->n : 0);
    }
    return n;
}

size_t schema_listed(struct schema *s, const struct conj *c, const struct json *const **out)
{
    const struct json *v = NULL;
    size_t n = 0, n_listed = 0;
    for (size_t i = 0; i < c->n && !v; i++) (void)schema_values(c->v[i].j, &v, &n);
    spend_on_lists(s, n, count_others(c, v));
    const struct json **listed = arena_array(&s->arena, n + 1, sizeof(const struct json *));
    if (!listed && s->b->rc == 0) s->b->rc = fail_nomem(s->b->e, "a schema", n * sizeof *listed);
    for (size_t i = 0; i < n && s->b->rc == 0; i++) {
        bool ok = !schema_excludes(c, &v[i]);
        for (size_t k = 0; k < c->n; k++) ok = admits(s, c->v[k], &v[i], v) && ok;
        if (ok) listed[n_listed++] = &v[i];
    }
    *out = listed;
    return s->b->rc < 0 ? 0 : n_listed;
}

uint32_t schema_put_value(struct schema *s, uint32_t at, const struct json *v)
{
    struct buf text = {0};
    if (json_write(&text, v) < 0 && s->b->rc == 0) s->b->rc = fail_nomem(s->b->e, "a schema", text.n);
    at = build_text(s->b, at, buf_view(&text));
    buf_fini(&text);
    return at;
}

uint32_t schema_put_values(struct schema *s, uint32_t at, const struct conj *c)
{
    const struct json *const *v;
    const size_t n = schema_listed(s, c, &v);
    const uint32_t end = build_state(s->b);
    for (size_t i = 0; i < n && s->b->rc == 0; i++) build_empty(s->b, schema_put_value(s, at, v[i]), end);
    return end;
}

/* ---- schemas that no value satisfies both of ------------------------------------------------------------------------------
 */

#define DISJOINT_DEPTH 8
#define DISJOINT_LOOKS 50 /* pairs, for one question */

static bool requires(const struct json *schema, struct str name)
{
    const struct json *required = json_find(schema, "required");
    for (size_t i = 0; required && i < required->n; i++)
        if (str_eq(required->v[i].s, name)) return true;
    return false;
}

bool schema_forbids(const struct json *schema, struct str name)
{
    const struct json *own = json_find_str(json_find(schema, "properties"), name);
    const struct json *extra = json_find(schema, "additionalProperties");
    if (own) return own->type == JSON_FALSE;
    return extra && extra->type == JSON_FALSE && !json_find(schema, "patternProperties");
}

/* a requires a property that b has no place for. */
static bool is_excluded(const struct json *a, const struct json *b)
{
    const struct json *required = json_find(a, "required");
    for (size_t i = 0; required && i < required->n; i++)
        if (schema_forbids(b, required->v[i].s)) return true;
    return false;
}

/* One of the schemas around those that are compared requires it. */
static bool is_required(struct schema *s, struct str name, unsigned depth)
{
    for (size_t i = 0; s->around && depth == 0 && i < s->around->n; i++)
        if (requires(s->around->v[i].j, name)) return true;
    return false;
}

/* Without a path of its own, for there are many. */
static struct sub part_of(struct sub outer, const struct json *j)
{
    return (struct sub){.j = j, .base = schema_has_id(j) ? j : outer.base, .path = outer.path};
}

static bool objects_disjoint(struct schema *s, struct sub a, struct sub b, unsigned depth)
{
    const struct json *pa = json_find(a.j, "properties"), *pb = json_find(b.j, "properties");
    for (size_t i = 0; pa && pb && i < pa->n; i++) {
        const struct json *other = json_find_str(pb, pa->keys[i]);
        if (!other || !(requires(a.j, pa->keys[i]) || requires(b.j, pa->keys[i]) || is_required(s, pa->keys[i], depth)))
            continue;
        if (schema_disjoint(s, part_of(a, &pa->v[i]), part_of(b, other), TYPE_ALL, depth + 1)) return true;
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

/* Whether the parts of a that all hold, or those of which one does, exclude b. */
static bool parts_disjoint(struct schema *s, struct sub a, struct sub b, unsigned types, unsigned depth)
{
    static const char *const kinds[] = {"allOf", "anyOf", "oneOf"};
    for (size_t k = 0; k < COUNT_OF(kinds); k++) {
        const struct json *parts = json_find(a.j, kinds[k]);
        size_t n = 0;
        for (size_t i = 0; parts && i < parts->n; i++) n += schema_disjoint(s, part_of(a, &parts->v[i]), b, types, depth + 1);
        if (parts && n >= (k == 0 ? 1 : parts->n)) return true;
    }
    return false;
}

/* All values of a list are among those that b excludes. */
static bool all_excluded(struct schema *s, const struct json *v, size_t n, const struct json *b)
{
    const struct json *no = json_find(b, SCHEMA_NO_VALUES);
    size_t i = 0;
    if (no) spend_on_lists(s, n, no->n);
    if (s->b->rc < 0) return false;
    while (no && i < n && has_value(no, &v[i])) i++;
    return no && i == n;
}

/* The least that a asks for is more than the most that b allows. */
static bool is_beyond(const struct json *a, const struct json *b, unsigned types)
{
    static const struct {
        const char *least, *most;
        unsigned types;
        bool open; /* one that is equal to the other is beyond it, too */
    } pairs[] = {{"minLength", "maxLength", TYPE_STRING, false},
                 {"minItems", "maxItems", TYPE_ARRAY, false},
                 {"minProperties", "maxProperties", TYPE_OBJECT, false},
                 {"minimum", "maximum", TYPE_INTEGER | TYPE_REAL, false},
                 {"minimum", "exclusiveMaximum", TYPE_INTEGER | TYPE_REAL, true},
                 {"exclusiveMinimum", "maximum", TYPE_INTEGER | TYPE_REAL, true}};
    for (size_t i = 0; i < COUNT_OF(pairs); i++) {
        const struct json *least = json_find(a, pairs[i].least), *most = json_find(b, pairs[i].most);
        if ((types & ~pairs[i].types) || !least || !most || !is_number(least) || !is_number(most)) continue;
        if (least->f > most->f || (pairs[i].open && least->f == most->f)) return true;
    }
    return false;
}

/* b excludes the pattern of a. */
static bool pattern_excluded(const struct json *a, const struct json *b)
{
    const struct json *pattern = json_find(a, "pattern"), *no = json_find(b, SCHEMA_NO_PATTERN);
    return pattern && no && str_eq(pattern->s, no->s);
}

static bool sides_disjoint(const struct json *a, const struct json *b, unsigned types)
{
    return is_beyond(a, b, types) || (types == TYPE_STRING && pattern_excluded(a, b));
}

static bool values_disjoint(struct schema *s, const struct json *va, size_t na, const struct json *vb, size_t nb)
{
    spend_on_lists(s, na, nb);
    if (s->b->rc < 0) return false;
    for (size_t i = 0; i < na; i++)
        for (size_t k = 0; k < nb; k++)
            if (json_equal(&va[i], &vb[k])) return false;
    return true;
}

bool schema_disjoint(struct schema *s, struct sub a, struct sub b, unsigned types, unsigned depth)
{
    const struct json *va, *vb;
    size_t na, nb;
    s->looks = depth == 0 ? 0 : s->looks + 1;
    schema_spend(s, 1);
    if (depth > DISJOINT_DEPTH || s->looks > DISJOINT_LOOKS || s->b->rc < 0) return false;
    if (a.j->type == JSON_FALSE || b.j->type == JSON_FALSE) return true;
    types &= narrow_types(a.j) & narrow_types(b.j);
    if (types == 0) return true;
    if (schema_values(a.j, &va, &na) && schema_values(b.j, &vb, &nb) && values_disjoint(s, va, na, vb, nb)) return true;
    if (schema_values(a.j, &va, &na) && all_excluded(s, va, na, b.j)) return true;
    if (schema_values(b.j, &vb, &nb) && all_excluded(s, vb, nb, a.j)) return true;
    if (sides_disjoint(a.j, b.j, types) || sides_disjoint(b.j, a.j, types)) return true;
    if (types == TYPE_OBJECT && objects_disjoint(s, a, b, depth)) return true;
    struct sub target;
    if (json_find(a.j, "$ref") && schema_resolve(s, a, &target) && schema_disjoint(s, target, b, types, depth + 1)) return true;
    if (json_find(b.j, "$ref") && schema_resolve(s, b, &target) && schema_disjoint(s, a, target, types, depth + 1)) return true;
    return parts_disjoint(s, a, b, types, depth) || parts_disjoint(s, b, a, types, depth);
}
