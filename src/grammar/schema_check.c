/* schema_check: the keywords of JSON Schema from draft 4 to 2020-12, and the form that each one's value must have. One that
 * constrains in a way that cannot be honoured fails the schema: nothing is left out silently. Those of no draft say nothing, as
 * all drafts have it; what is inside of them, and definitions, are looked at where a reference leads there. */
#include <math.h>

#include "grammar/schema_int.h"

static void check_schema(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    schema_check(s, schema_inside(s, sub, key, (struct str){0}, v));
}

static void check_list(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    if (v->type != JSON_ARRAY || v->n == 0) {
        schema_wrong(s, ERR_ARG, sub, key, "expected an array of at least one schema");
        return;
    }
    for (size_t i = 0; i < v->n && s->b->rc == 0; i++) schema_check(s, schema_element(s, sub, key, v, i));
}

static void check_items(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    if (v->type == JSON_ARRAY)
        check_list(s, sub, key, v);
    else
        check_schema(s, sub, key, v);
}

static void check_map(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    if (v->type != JSON_OBJECT) {
        schema_wrong(s, ERR_ARG, sub, key, "expected an object of schemas");
        return;
    }
    for (size_t i = 0; i < v->n && s->b->rc == 0; i++) schema_check(s, schema_inside(s, sub, key, v->keys[i], &v->v[i]));
}

static void check_object(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    if (v->type != JSON_OBJECT) schema_wrong(s, ERR_ARG, sub, key, "expected an object of schemas");
}

static void check_strings(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    bool ok = v->type == JSON_ARRAY;
    for (size_t i = 0; ok && i < v->n; i++) ok = v->v[i].type == JSON_STRING;
    if (!ok) schema_wrong(s, ERR_ARG, sub, key, "expected an array of strings");
}

/* Of each name, further names or a schema. */
static void check_dependencies(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    check_object(s, sub, key, v);
    for (size_t i = 0; i < v->n && s->b->rc == 0; i++) {
        const struct sub inside = schema_inside(s, sub, key, v->keys[i], &v->v[i]);
        if (v->v[i].type == JSON_ARRAY)
            check_strings(s, inside, NULL, &v->v[i]);
        else
            schema_check(s, inside);
    }
}

static void check_type(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    unsigned bits;
    bool ok = v->type == JSON_STRING && schema_type_name(v->s, &bits);
    if (v->type == JSON_ARRAY) {
        ok = v->n > 0;
        for (size_t i = 0; ok && i < v->n; i++) ok = v->v[i].type == JSON_STRING && schema_type_name(v->v[i].s, &bits);
    }
    if (!ok) schema_wrong(s, ERR_ARG, sub, key, "expected the name of a type, or an array of them");
}

static void check_count(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    const bool ok = (v->type == JSON_INT && v->i >= 0) || (v->type == JSON_REAL && v->f >= 0 && v->f == floor(v->f));
    if (!ok) schema_wrong(s, ERR_ARG, sub, key, "expected a whole number that is not negative");
}

static void check_number(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    if (v->type != JSON_INT && v->type != JSON_REAL) schema_wrong(s, ERR_ARG, sub, key, "expected a number");
}

static void check_step(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    check_number(s, sub, key, v);
    if (!(v->f > 0)) schema_wrong(s, ERR_ARG, sub, key, "expected a number above 0");
}

static void check_string(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    if (v->type != JSON_STRING) schema_wrong(s, ERR_ARG, sub, key, "expected a string");
}

static void check_values(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    if (v->type != JSON_ARRAY || v->n == 0) schema_wrong(s, ERR_ARG, sub, key, "expected an array of at least one value");
}

static void check_unevaluated(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    if (v->type != JSON_TRUE && v->type != JSON_FALSE)
        schema_wrong(s, ERR_UNSUPPORTED, sub, key, "only true and false can be honoured");
}

static void check_bool(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    if (v->type != JSON_TRUE && v->type != JSON_FALSE) schema_wrong(s, ERR_ARG, sub, key, "expected true or false");
}

/* Draft 4 has true and false beside "minimum" or "maximum". */
static void check_open(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    if (v->type != JSON_TRUE && v->type != JSON_FALSE) check_number(s, sub, key, v);
}

static void check_draft(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    check_string(s, sub, key, v);
    static const char *const old[] = {"http://json-schema.org/draft-01", "http://json-schema.org/draft-02",
                                      "http://json-schema.org/draft-03"};
    for (size_t i = 0; i < COUNT_OF(old) && s->b->rc == 0; i++)
        if (str_starts(v->s, str_of(old[i])))
            schema_wrong(s, ERR_UNSUPPORTED, sub, key, "drafts before draft 4 cannot be honoured");
}

static void check_never(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    (void)v;
    schema_wrong(s, ERR_UNSUPPORTED, sub, key, "this keyword cannot be honoured");
}

static const struct {
    const char *name;
    void (*check)(struct schema *s, struct sub sub, const char *key, const struct json *v);
} keywords[] = {
    {"$ref", check_string},
    {"$defs", check_object},
    {"definitions", check_object},
    {"type", check_type},
    {"enum", check_values},
    {"allOf", check_list},
    {"anyOf", check_list},
    {"oneOf", check_list},
    {"not", check_schema},
    {"if", check_schema},
    {"then", check_schema},
    {"else", check_schema},
    {"dependencies", check_dependencies},
    {"dependentRequired", check_dependencies},
    {"dependentSchemas", check_dependencies},
    {"properties", check_map},
    {"required", check_strings},
    {"additionalProperties", check_schema},
    {"patternProperties", check_map},
    {"propertyNames", check_schema},
    {"minProperties", check_count},
    {"maxProperties", check_count},
    {"items", check_items},
    {"prefixItems", check_list},
    {"additionalItems", check_schema},
    {"minItems", check_count},
    {"maxItems", check_count},
    {"uniqueItems", check_bool},
    {"minLength", check_count},
    {"maxLength", check_count},
    {"pattern", check_string},
    {"format", check_string},
    {"multipleOf", check_step},
    {"minimum", check_number},
    {"maximum", check_number},
    {"exclusiveMinimum", check_open},
    {"exclusiveMaximum", check_open},
    {"$schema", check_draft},
    {"$id", check_string},
    {"contains", check_schema},
    {"minContains", check_count},
    {"maxContains", check_never},
    {"unevaluatedItems", check_never},
    {"unevaluatedProperties", check_unevaluated},
    {"$dynamicRef", check_never},
    {"$recursiveRef", check_never},
};

void schema_check(struct schema *s, struct sub sub)
{
    const struct json *j = sub.j;
    if (s->b->rc < 0 || j->type == JSON_TRUE || j->type == JSON_FALSE) return;
    if (j->type != JSON_OBJECT) {
        schema_wrong(s, ERR_ARG, sub, NULL, "a schema is an object, true or false");
        return;
    }
    for (size_t i = 0; i < j->n && s->b->rc == 0; i++) {
        size_t k = 0;
        while (k < COUNT_OF(keywords) && !str_is(j->keys[i], keywords[k].name)) k++;
        if (k < COUNT_OF(keywords)) keywords[k].check(s, sub, keywords[k].name, &j->v[i]);
    }
}
