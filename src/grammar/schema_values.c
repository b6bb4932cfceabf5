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

/* Whether a listed value satisfies one of the schemas that apply. Keywords that it would take a validator for are errors. */
static bool admits(struct schema *s, struct sub sub, const struct json *v)
{
    static const struct {
        const char *name;
        unsigned types;
    } others[] = {{"properties", TYPE_OBJECT},
                  {"patternProperties", TYPE_OBJECT},
                  {"propertyNames", TYPE_OBJECT},
                  {"minProperties", TYPE_OBJECT},
                  {"maxProperties", TYPE_OBJECT},
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
    if (type == TYPE_STRING) return schema_admits_string(s, sub, v->s);
    return !is_number(v) || schema_admits_number(j, v->f);
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
        const struct sub x = schema_inside(s, a, "properties", pa->keys[i], &pa->v[i]);
        const struct sub y = schema_inside(s, b, "properties", pa->keys[i], other);
        if (schema_disjoint(s, x, y, TYPE_ALL, depth + 1)) return true;
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
