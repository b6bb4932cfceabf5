/* schema_check: the keywords of JSON Schema from draft 4 to 2020-12, and the form that each one's value must have, as the
 * meta-schemas of the drafts have it. One that constrains in a way that cannot be honoured fails the schema: nothing is left
 * out silently. In definitions, which hold only where a reference leads there, such a keyword fails no sooner than that, but
 * their form is checked. Keywords of no draft say nothing, as all drafts have it, and what is inside of them may be anything.
 */
#include <math.h>

#include "grammar/schema_int.h"

/* The form is right, but what it says is more than can be done. */
static void cannot(struct schema *s, struct sub sub, const char *key, const char *text)
{
    if (!s->only_form) schema_wrong(s, ERR_UNSUPPORTED, sub, key, text);
}

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
    if (v->type != JSON_OBJECT) schema_wrong(s, ERR_ARG, sub, key, "expected an object");
}

static bool is_bool(const struct json *v)
{
    return v->type == JSON_TRUE || v->type == JSON_FALSE;
}

static bool all_strings(const struct json *list)
{
    size_t i = 0;
    while (i < list->n && list->v[i].type == JSON_STRING) i++;
    return list->type == JSON_ARRAY && i == list->n;
}

/* Of a list of strings. */
static bool all_different(struct schema *s, const struct json *list)
{
    struct names seen = {0};
    bool ok = true;
    for (size_t i = 0; i < list->n && ok && s->b->rc == 0; i++) {
        uint32_t *at = names_at(&seen, list->v[i].s);
        if (!at) {
            s->b->rc = fail_nomem(s->b->e, "a schema", list->v[i].s.n);
            break;
        }
        ok = *at == NONE;
        *at = 1;
    }
    names_fini(&seen);
    return ok;
}

static void check_strings(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    if (!all_strings(v) || !all_different(s, v))
        schema_wrong(s, ERR_ARG, sub, key, "expected an array of strings, each of them once");
}

static void check_string_lists(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    check_object(s, sub, key, v);
    for (size_t i = 0; i < v->n && s->b->rc == 0; i++)
        check_strings(s, schema_inside(s, sub, key, v->keys[i], &v->v[i]), NULL, &v->v[i]);
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
        ok = v->n > 0 && all_strings(v) && all_different(s, v);
        for (size_t i = 0; ok && i < v->n; i++) ok = schema_type_name(v->v[i].s, &bits);
    }
    if (!ok) schema_wrong(s, ERR_ARG, sub, key, "expected the name of a type, or an array of them, each of them once");
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

/* The name of a part, as "$ref" has it behind '#'; the drafts have different characters. */
static void check_anchor(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    bool ok = v->type == JSON_STRING && v->s.n > 0;
    for (size_t i = 0; ok && i < v->s.n; i++) {
        const char c = v->s.p[i], low = (char)(c | 0x20);
        ok = (low >= 'a' && low <= 'z') || c == '_' || (i > 0 && ((c >= '0' && c <= '9') || c == '-' || c == '.' || c == ':'));
    }
    if (!ok) schema_wrong(s, ERR_ARG, sub, key, "expected a name of letters, digits, _, -, . and :");
}

static void check_array(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    if (v->type != JSON_ARRAY) schema_wrong(s, ERR_ARG, sub, key, "expected an array");
}

static void check_values(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    if (v->type != JSON_ARRAY || v->n == 0) schema_wrong(s, ERR_ARG, sub, key, "expected an array of at least one value");
}

static void check_unevaluated(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    check_schema(s, sub, key, v);
    if (!is_bool(v)) cannot(s, sub, key, "only true and false can be honoured");
}

static void check_bool(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    if (!is_bool(v)) schema_wrong(s, ERR_ARG, sub, key, "expected true or false");
}

static void check_bools(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    check_object(s, sub, key, v);
    for (size_t i = 0; i < v->n && s->b->rc == 0; i++)
        check_bool(s, schema_inside(s, sub, key, v->keys[i], &v->v[i]), NULL, &v->v[i]);
}

/* Draft 4 has true and false, beside the bound that they speak of. */
static void check_open(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    const char *bound = str_is(str_of(key), "exclusiveMinimum") ? "minimum" : "maximum";
    if (!is_bool(v))
        check_number(s, sub, key, v);
    else if (!json_find(sub.j, bound))
        schema_wrong(s, ERR_ARG, sub, key, "expected a number, or \"minimum\" or \"maximum\" beside true or false");
}

static void check_draft(struct schema *s, struct sub sub, const char *key, const struct json *v)
{
    check_string(s, sub, key, v);
    static const char *const old[] = {"http://json-schema.org/draft-01", "http://json-schema.org/draft-02",
                                      "http://json-schema.org/draft-03"};
    for (size_t i = 0; i < COUNT_OF(old) && s->b->rc == 0; i++)
        if (str_starts(v->s, str_of(old[i]))) cannot(s, sub, key, "drafts before draft 4 cannot be honoured");
}

/* IDLE: a schema inside holds only where a reference leads there, or nowhere. NEVER: cannot be honoured. */
enum { PLAIN, IDLE, NEVER };
static const struct keyword {
    const char *name;
    void (*check)(struct schema *s, struct sub sub, const char *key, const struct json *v);
    int kind;
} keywords[] = {
    {"$ref", check_string, PLAIN},
    {"$defs", check_map, IDLE},
    {"definitions", check_map, IDLE},
    {"type", check_type, PLAIN},
    {"enum", check_values, PLAIN},
    {"allOf", check_list, PLAIN},
    {"anyOf", check_list, PLAIN},
    {"oneOf", check_list, PLAIN},
    {"not", check_schema, PLAIN},
    {"if", check_schema, PLAIN},
    {"then", check_schema, PLAIN},
    {"else", check_schema, PLAIN},
    {"dependencies", check_dependencies, PLAIN},
    {"dependentRequired", check_string_lists, PLAIN},
    {"dependentSchemas", check_map, PLAIN},
    {"properties", check_map, PLAIN},
    {"required", check_strings, PLAIN},
    {"additionalProperties", check_schema, PLAIN},
    {"patternProperties", check_map, PLAIN},
    {"propertyNames", check_schema, PLAIN},
    {"minProperties", check_count, PLAIN},
    {"maxProperties", check_count, PLAIN},
    {"items", check_items, PLAIN},
    {"prefixItems", check_list, PLAIN},
    {"additionalItems", check_schema, PLAIN},
    {"minItems", check_count, PLAIN},
    {"maxItems", check_count, PLAIN},
    {"uniqueItems", check_bool, PLAIN},
    {"minLength", check_count, PLAIN},
    {"maxLength", check_count, PLAIN},
    {"pattern", check_string, PLAIN},
    {"format", check_string, PLAIN},
    {"multipleOf", check_step, PLAIN},
    {"minimum", check_number, PLAIN},
    {"maximum", check_number, PLAIN},
    {"exclusiveMinimum", check_open, PLAIN},
    {"exclusiveMaximum", check_open, PLAIN},
    {"contains", check_schema, PLAIN},
    {"minContains", check_count, PLAIN},
    {"maxContains", check_count, NEVER},
    {"unevaluatedItems", check_schema, NEVER},
    {"unevaluatedProperties", check_unevaluated, PLAIN},
    {"$schema", check_draft, PLAIN},
    {"$id", check_string, PLAIN},
    {"$anchor", check_anchor, PLAIN},
    {"$dynamicAnchor", check_anchor, PLAIN},
    {"$dynamicRef", check_string, NEVER},
    {"$recursiveAnchor", check_bool, PLAIN},
    {"$recursiveRef", check_string, NEVER},
    {"$vocabulary", check_bools, PLAIN},
    {"$comment", check_string, PLAIN},
    {"title", check_string, PLAIN},
    {"description", check_string, PLAIN},
    {"examples", check_array, PLAIN},
    {"readOnly", check_bool, PLAIN},
    {"writeOnly", check_bool, PLAIN},
    {"deprecated", check_bool, PLAIN},
    {"contentEncoding", check_string, PLAIN},
    {"contentMediaType", check_string, PLAIN},
    {"contentSchema", check_schema, IDLE},
};

static void check_keyword(struct schema *s, struct sub sub, const struct keyword *k, const struct json *v)
{
    const bool outer = s->only_form;
    s->only_form = outer || k->kind == IDLE;
    k->check(s, sub, k->name, v);
    s->only_form = outer;
    if (k->kind == NEVER) cannot(s, sub, k->name, "this keyword cannot be honoured");
}

/* The schema was not looked at, or only for its form where more is asked for now: so each is walked through twice at most, in
 * however many ways references lead to it. */
static bool is_new(struct schema *s, const struct json *j)
{
    enum { FORM = 1, WHOLE = 2 };
    const uint32_t level = s->only_form ? FORM : WHOLE;
    uint32_t *known = names_at(&s->checked, (struct str){(const char *)&j, sizeof(struct json *)});
    if (!known) {
        s->b->rc = fail_nomem(s->b->e, "a schema", sizeof(struct json *));
        return false;
    }
    if (*known != NONE && *known >= level) return false;
    *known = level;
    return true;
}

void schema_check(struct schema *s, struct sub sub)
{
    const struct json *j = sub.j;
    if (s->b->rc < 0 || is_bool(j)) return;
    if (j->type != JSON_OBJECT) {
        schema_wrong(s, ERR_ARG, sub, NULL, "a schema is an object, true or false");
        return;
    }
    if (!is_new(s, j)) return;
    for (size_t i = 0; i < j->n && s->b->rc == 0; i++) {
        size_t k = 0;
        while (k < COUNT_OF(keywords) && !str_is(j->keys[i], keywords[k].name)) k++;
        if (k < COUNT_OF(keywords)) check_keyword(s, sub, &keywords[k], &j->v[i]);
    }
}
