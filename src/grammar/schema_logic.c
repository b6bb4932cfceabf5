/* schema_logic: "not", "if", what depends on a property, and a "oneOf" whose schemas overlap, as schemas without them: anyOf,
 * allOf and denials of single keywords. The opposite of a schema, as it is made here, holds for values that do not satisfy it,
 * but not for all of them: what has no opposite that could be honoured is left out of the alternatives, and where none is left
 * the schema is refused.
 *
 * What is made refers to the places of what it is made of, for messages. It is made once for each schema, so that a schema
 * that refers to itself is finite here, too. */
#include "grammar/schema_int.h"

static const struct json always = {.type = JSON_TRUE}, never = {.type = JSON_FALSE};

/* ---- making schemas ---------------------------------------------------------------------------------------------------- */

/* An empty object, array or string; capacity elements have room. `never` after a failure: too little memory. */
static struct json *make(struct schema *s, enum json_type type, size_t capacity)
{
    struct json *j = arena_alloc(&s->arena, sizeof *j);
    if (j) *j = (struct json){.type = type};
    if (j && capacity) {
        j->v = arena_array(&s->arena, capacity, sizeof *j->v);
        j->keys = arena_array(&s->arena, capacity, sizeof *j->keys);
    }
    if (j && (!capacity || (j->v && j->keys))) return j;
    if (s->b->rc == 0) s->b->rc = fail_nomem(s->b->e, "a schema", capacity * sizeof *j);
    return NULL;
}

static void put(struct json *to, struct str key, const struct json *v)
{
    if (!to || !v) return;
    to->keys[to->n] = key;
    to->v[to->n++] = *v;
}

/* {key: v}, with room for two more. */
static struct json *make_one(struct schema *s, const char *key, const struct json *v)
{
    struct json *j = make(s, JSON_OBJECT, 3);
    put(j, str_of(key), v);
    return j;
}

static struct json *make_string(struct schema *s, struct str text)
{
    struct json *j = make(s, JSON_STRING, 0);
    if (j) j->s = text;
    return j;
}

/* {"type": types}, with room for two more; TYPE_REAL stands for all numbers. */
static struct json *make_typed(struct schema *s, unsigned types)
{
    static const struct {
        unsigned type;
        const char *name;
    } names[] = {{TYPE_NULL, "null"},     {TYPE_BOOL, "boolean"}, {TYPE_REAL, "number"},
                 {TYPE_STRING, "string"}, {TYPE_ARRAY, "array"},  {TYPE_OBJECT, "object"}};
    struct json *list = make(s, JSON_ARRAY, COUNT_OF(names));
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (types & names[i].type) put(list, (struct str){0}, make_string(s, str_of(names[i].name)));
    return make_one(s, "type", list);
}

/* {"type": type, key: v} */
static struct json *make_rule(struct schema *s, unsigned type, const char *key, const struct json *v)
{
    struct json *j = make_typed(s, type);
    put(j, str_of(key), v);
    return j;
}

/* An object that has name with a value of v, or, where that is `never`, does not have it. */
static struct json *make_member(struct schema *s, struct str name, const struct json *v)
{
    struct json *properties = make(s, JSON_OBJECT, 1), *required = make(s, JSON_ARRAY, 1);
    put(properties, name, v);
    put(required, (struct str){0}, make_string(s, name));
    struct json *j = make_rule(s, TYPE_OBJECT, "properties", properties);
    if (v->type != JSON_FALSE) put(j, STR("required"), required);
    return j;
}

const struct json *schema_requiring(struct schema *s, struct str name)
{
    struct json *required = make(s, JSON_ARRAY, 1);
    put(required, (struct str){0}, make_string(s, name));
    return make_rule(s, TYPE_OBJECT, "required", required);
}

/* {"allOf": [a, b]}; b may be NULL. */
static struct json *make_both(struct schema *s, const struct json *a, const struct json *b)
{
    struct json *list = make(s, JSON_ARRAY, 2);
    put(list, (struct str){0}, a);
    put(list, (struct str){0}, b);
    return make_one(s, "allOf", list);
}

/* An opposite in its place. */
static const struct json *make_mark(struct schema *s, const struct json *opposite)
{
    struct json *j = opposite ? make_both(s, opposite, NULL) : NULL;
    put(j, STR(SCHEMA_OPPOSITE), &always);
    return j;
}

/* ---- opposites --------------------------------------------------------------------------------------------------------- */

/* Alternatives that each rule a schema out. */
struct opposite {
    struct schema *s;
    struct sub sub;
    struct json *any;
    bool partial; /* there is something that has no opposite here */
};

static void add(struct opposite *o, const struct json *alternative)
{
    if (!alternative)
        o->partial = true;
    else if (alternative->type != JSON_FALSE)
        put(o->any, (struct str){0}, alternative);
}

static void not_ref(struct opposite *o, const struct json *v)
{
    struct sub target;
    (void)v;
    if (!schema_resolve(o->s, o->sub, &target)) return;
    /* What is made keeps the base of the schema that it replaces. */
    add(o, target.base == o->sub.base ? schema_opposite(o->s, target) : NULL);
}

static void not_type(struct opposite *o, const struct json *v)
{
    const unsigned types = schema_types(o->sub.j);
    (void)v;
    unsigned others = TYPE_ALL & ~types;
    if (types & TYPE_INTEGER) others &= ~(unsigned)TYPE_REAL; /* numbers that are not whole are no type */
    if (others & ~(unsigned)TYPE_INTEGER) add(o, make_typed(o->s, others));
}

static void not_enum(struct opposite *o, const struct json *v)
{
    add(o, make_one(o->s, SCHEMA_NO_VALUES, v));
}

static void not_const(struct opposite *o, const struct json *v)
{
    struct json *list = make(o->s, JSON_ARRAY, 1);
    put(list, (struct str){0}, v);
    not_enum(o, list);
}

static void not_pattern(struct opposite *o, const struct json *v)
{
    add(o, make_rule(o->s, TYPE_STRING, SCHEMA_NO_PATTERN, v));
}

static void not_count(struct opposite *o, unsigned type, const char *opposite, const struct json *v, int64_t by)
{
    struct json *n = make(o->s, JSON_INT, 0);
    if (!n || v->f + (double)by < 0) return;
    n->i = v->i + by;
    n->f = v->f + (double)by;
    add(o, make_rule(o->s, type, opposite, n));
}

static void not_min_length(struct opposite *o, const struct json *v)
{
    not_count(o, TYPE_STRING, "maxLength", v, -1);
}

static void not_max_length(struct opposite *o, const struct json *v)
{
    not_count(o, TYPE_STRING, "minLength", v, 1);
}

static void not_min_items(struct opposite *o, const struct json *v)
{
    not_count(o, TYPE_ARRAY, "maxItems", v, -1);
}

static void not_max_items(struct opposite *o, const struct json *v)
{
    not_count(o, TYPE_ARRAY, "minItems", v, 1);
}

static void not_min_properties(struct opposite *o, const struct json *v)
{
    not_count(o, TYPE_OBJECT, "maxProperties", v, -1);
}

static void not_max_properties(struct opposite *o, const struct json *v)
{
    not_count(o, TYPE_OBJECT, "minProperties", v, 1);
}

static bool is_flag(const struct json *v)
{
    return v && v->type == JSON_TRUE;
}

static void not_minimum(struct opposite *o, const struct json *v)
{
    const bool open = is_flag(json_find(o->sub.j, "exclusiveMinimum"));
    add(o, make_rule(o->s, TYPE_REAL, open ? "maximum" : "exclusiveMaximum", v));
}

static void not_maximum(struct opposite *o, const struct json *v)
{
    const bool open = is_flag(json_find(o->sub.j, "exclusiveMaximum"));
    add(o, make_rule(o->s, TYPE_REAL, open ? "minimum" : "exclusiveMinimum", v));
}

static void not_above(struct opposite *o, const struct json *v)
{
    if (v->type == JSON_INT || v->type == JSON_REAL) add(o, make_rule(o->s, TYPE_REAL, "maximum", v));
}

static void not_below(struct opposite *o, const struct json *v)
{
    if (v->type == JSON_INT || v->type == JSON_REAL) add(o, make_rule(o->s, TYPE_REAL, "minimum", v));
}

static void not_required(struct opposite *o, const struct json *v)
{
    for (size_t i = 0; i < v->n; i++) add(o, make_member(o->s, v->v[i].s, &never));
}

static void not_properties(struct opposite *o, const struct json *v)
{
    for (size_t i = 0; i < v->n && o->s->b->rc == 0; i++) {
        const struct json *other = schema_opposite(o->s, schema_inside(o->s, o->sub, "properties", v->keys[i], &v->v[i]));
        add(o, other && other->type != JSON_FALSE ? make_member(o->s, v->keys[i], other) : other);
    }
}

/* An array whose first item is another. */
static void not_items(struct opposite *o, const struct json *v)
{
    const struct json *other = NULL;
    if (v->type != JSON_ARRAY && !json_find(o->sub.j, "prefixItems"))
        other = schema_opposite(o->s, schema_inside(o->s, o->sub, "items", (struct str){0}, v));
    struct json *first = make(o->s, JSON_ARRAY, 1), *one = make(o->s, JSON_INT, 0);
    if (!other || other->type == JSON_FALSE || !first || !one) {
        add(o, other);
        return;
    }
    put(first, (struct str){0}, other);
    one->i = 1;
    one->f = 1;
    struct json *j = make(o->s, JSON_OBJECT, 4);
    put(j, STR("prefixItems"), first);
    put(j, STR("items"), &always);
    put(j, STR("minItems"), one);
    add(o, j);
}

static void not_all_of(struct opposite *o, const struct json *v)
{
    for (size_t i = 0; i < v->n && o->s->b->rc == 0; i++)
        add(o, schema_opposite(o->s, schema_element(o->s, o->sub, "allOf", v, i)));
}

/* None of them holds; for a "oneOf", two could, too. */
static void not_one_of(struct opposite *o, const struct json *v)
{
    struct json *all = make(o->s, JSON_ARRAY, v->n);
    for (size_t i = 0; i < v->n && o->s->b->rc == 0; i++) {
        const struct json *other = schema_opposite(o->s, schema_element(o->s, o->sub, "anyOf", v, i));
        if (!other || other->type == JSON_FALSE) {
            add(o, other);
            return;
        }
        put(all, (struct str){0}, other);
    }
    add(o, make_one(o->s, "allOf", all));
}

static void not_not(struct opposite *o, const struct json *v)
{
    add(o, v);
}

static void not_format(struct opposite *o, const struct json *v)
{
    (void)v;
    o->partial = o->partial || schema_format_types(o->sub.j);
}

static void not_told(struct opposite *o, const struct json *v)
{
    o->partial = o->partial || v->type != JSON_TRUE;
}

static const struct {
    const char *name;
    void (*fn)(struct opposite *o, const struct json *v);
} opposites[] = {
    {"$ref", not_ref},
    {"type", not_type},
    {"enum", not_enum},
    {"const", not_const},
    {"pattern", not_pattern},
    {"minLength", not_min_length},
    {"maxLength", not_max_length},
    {"minItems", not_min_items},
    {"maxItems", not_max_items},
    {"minProperties", not_min_properties},
    {"maxProperties", not_max_properties},
    {"minimum", not_minimum},
    {"maximum", not_maximum},
    {"exclusiveMinimum", not_above},
    {"exclusiveMaximum", not_below},
    {"required", not_required},
    {"properties", not_properties},
    {"items", not_items},
    {"allOf", not_all_of},
    {"anyOf", not_one_of},
    {"oneOf", not_one_of},
    {"not", not_not},
    {"format", not_format},
    {"additionalProperties", not_told},
    {"patternProperties", not_told},
    {"propertyNames", not_told},
    {"prefixItems", not_told},
    {"additionalItems", not_told},
    {"multipleOf", not_told},
    {"uniqueItems", not_told},
    {"if", not_told},
    {"contains", not_told},
    {"unevaluatedProperties", not_told},
    {"dependencies", not_told},
    {"dependentRequired", not_told},
    {"dependentSchemas", not_told},
    {SCHEMA_NO_VALUES, not_told},
    {SCHEMA_NO_PATTERN, not_told},
};

static const struct json *make_opposite(struct schema *s, struct sub sub)
{
    const struct json *j = sub.j;
    size_t most = COUNT_OF(opposites);
    static const char *const many[] = {"required", "properties", "allOf"};
    if (j->type == JSON_TRUE || j->type == JSON_FALSE) return j->type == JSON_TRUE ? &never : &always;
    for (size_t i = 0; i < COUNT_OF(many); i++) {
        const struct json *v = json_find(j, many[i]);
        most += v ? v->n : 0;
    }
    struct opposite o = {.s = s, .sub = sub, .any = make(s, JSON_ARRAY, most)};
    for (size_t i = 0; i < COUNT_OF(opposites) && s->b->rc == 0; i++) {
        const struct json *v = json_find(j, opposites[i].name);
        if (v) opposites[i].fn(&o, v);
    }
    if (s->b->rc < 0 || o.any->n == 0) return o.partial ? NULL : &never;
    if (o.any->n == 1 && !o.partial) return &o.any->v[0];
    struct json *whole = make_one(s, "anyOf", o.any);
    if (o.partial) put(whole, STR(SCHEMA_PARTIAL), &always);
    return whole;
}

/* ---- what was made before ---------------------------------------------------------------------------------------------- */

/* The place in s->made of what `kind` makes of j; NONE after a failure. A new one is NULL until it is made, so that what refers
 * to itself has no opposite. */
static uint32_t made_at(struct schema *s, const struct json *j, char kind, bool *found)
{
    char key[sizeof(struct json *) + 1];
    memcpy(key, &j, sizeof(struct json *));
    key[sizeof(struct json *)] = kind;
    uint32_t *number = names_at(&s->made_names, (struct str){key, sizeof key});
    *found = number && *number != NONE;
    if (*found) return *number;
    if (number && s->n_made == s->cap_made) {
        const uint32_t cap = s->cap_made ? s->cap_made * 2 : 64;
        const struct json **v = mem_realloc(s->made, cap * sizeof *v);
        if (v) s->made = v, s->cap_made = cap;
    }
    if (!number || s->n_made == s->cap_made) {
        if (s->b->rc == 0) s->b->rc = fail_nomem(s->b->e, "a schema", sizeof key);
        return NONE;
    }
    s->made[s->n_made] = NULL;
    return *number = s->n_made++;
}

static const struct json *make_once(struct schema *s, struct sub sub, char kind,
                                    const struct json *(*fn)(struct schema *s, struct sub sub))
{
    bool found;
    const uint32_t at = made_at(s, sub.j, kind, &found);
    if (at == NONE) return NULL;
    if (!found && s->b->depth < NESTING_MAX) {
        s->b->depth++;
        const struct json *j = fn(s, sub);
        s->made[at] = j;
        s->b->depth--;
    }
    return s->made[at];
}

const struct json *schema_opposite(struct schema *s, struct sub sub)
{
    return make_once(s, sub, '!', make_opposite);
}

/* ---- keywords that are made of others ---------------------------------------------------------------------------------- */

static const struct json *make_not(struct schema *s, struct sub sub)
{
    const struct json *v = json_find(sub.j, "not");
    const struct json *other = schema_opposite(s, schema_inside(s, sub, "not", (struct str){0}, v));
    if (!other) schema_wrong(s, ERR_UNSUPPORTED, sub, "not", "this cannot be honoured: its opposite cannot be told");
    return make_mark(s, other);
}

static const struct json *make_if(struct schema *s, struct sub sub)
{
    const struct json *v = json_find(sub.j, "if");
    const struct json *other = schema_opposite(s, schema_inside(s, sub, "if", (struct str){0}, v));
    if (!other) schema_wrong(s, ERR_UNSUPPORTED, sub, "if", "this cannot be honoured: its opposite cannot be told");
    struct json *any = make(s, JSON_ARRAY, 2);
    put(any, (struct str){0}, make_both(s, v, json_find(sub.j, "then")));
    put(any, (struct str){0}, make_both(s, make_mark(s, other), json_find(sub.j, "else")));
    return make_one(s, "anyOf", any);
}

/* Either there is no member of the name, or what depends on it holds: further names, or a schema. */
static const struct json *make_dependency(struct schema *s, struct str name, const struct json *v)
{
    const bool names = v->type == JSON_ARRAY;
    struct json *required = make(s, JSON_ARRAY, 1 + (names ? v->n : 0)), *any = make(s, JSON_ARRAY, 2);
    put(required, (struct str){0}, make_string(s, name));
    for (size_t i = 0; names && i < v->n; i++) put(required, (struct str){0}, &v->v[i]);
    const struct json *there = make_rule(s, TYPE_OBJECT, "required", required);
    put(any, (struct str){0}, make_member(s, name, &never));
    put(any, (struct str){0}, names ? there : make_both(s, there, v));
    return make_one(s, "anyOf", any);
}

static const struct json *make_dependencies(struct schema *s, struct sub sub)
{
    static const char *const kinds[] = {"dependencies", "dependentRequired", "dependentSchemas"};
    const unsigned others = json_find(sub.j, "type") ? schema_types(sub.j) & ~(unsigned)TYPE_OBJECT : 0;
    size_t n = 0;
    for (size_t i = 0; i < COUNT_OF(kinds); i++) n += json_find(sub.j, kinds[i]) ? json_find(sub.j, kinds[i])->n : 0;
    struct json *all = make(s, JSON_ARRAY, n), *any = make(s, JSON_ARRAY, 2);
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        const struct json *v = json_find(sub.j, kinds[i]);
        for (size_t k = 0; v && k < v->n; k++) put(all, (struct str){0}, make_dependency(s, v->keys[k], &v->v[k]));
    }
    struct json *whole = make_one(s, "allOf", all);
    if (!(others & ~(unsigned)TYPE_INTEGER)) return whole;
    put(any, (struct str){0}, make_typed(s, others)); /* they say nothing of other types */
    put(any, (struct str){0}, whole);
    return make_one(s, "anyOf", any);
}

void schema_bring_logic(struct schema *s, struct conj *c, size_t at)
{
    static const struct {
        const char *name;
        const struct json *(*make)(struct schema *s, struct sub sub);
        char kind;
    } kinds[] = {{"not", make_not, 'n'},
                 {"if", make_if, 'i'},
                 {"dependencies", make_dependencies, 'd'},
                 {"dependentRequired", make_dependencies, 'd'},
                 {"dependentSchemas", make_dependencies, 'd'}};
    for (size_t i = 0; i < COUNT_OF(kinds) && s->b->rc == 0; i++) {
        const struct sub sub = c->v[at];
        if (!json_find(sub.j, kinds[i].name)) continue;
        const struct json *j = make_once(s, sub, kinds[i].kind, kinds[i].make);
        if (j) schema_conj_bring(s, c, schema_inside(s, sub, kinds[i].name, (struct str){0}, j), at);
    }
}
