/* schema_objects: objects of a conjunction of schemas. Members that have names come in the order of the schemas, and behind
 * them those whose keys are described: by patterns, by what names must be, or not at all. The text of such a key tells which
 * patterns it matches, and so what its value must be (gram_lang). */
#include "grammar/schema_int.h"

/* ---- names ------------------------------------------------------------------------------------------------------------- */

struct property {
    struct str name;
    bool required;
    uint32_t ends; /* conditions of the object's keys that it satisfies */
};
struct object {
    struct schema *s;
    const struct conj *c;
    struct property *v; /* in the order of the schemas */
    size_t n, cap;
    struct names at;
    /* Conditions on keys: patterns first, then what names must be. */
    struct lang keys;
    struct pattern {
        size_t k, i; /* number i of the "patternProperties" of schema k */
    } patterns[LANG_PARTS];
    size_t n_patterns;
    bool described; /* there are such conditions */
};

static struct property *property_of(struct object *o, struct str name)
{
    struct schema *s = o->s;
    /* A name may be empty, a key of the table may not. */
    char *key = arena_alloc(&s->arena, name.n + 1);
    uint32_t *at = NULL;
    if (key) {
        if (name.n) memcpy(key, name.p, name.n);
        key[name.n] = '"';
        at = names_at(&o->at, (struct str){key, name.n + 1});
    }
    if (!at || o->n == o->cap) {
        if (s->b->rc == 0) s->b->rc = fail_nomem(s->b->e, "a schema", name.n);
        return NULL;
    }
    if (*at == NONE) {
        *at = (uint32_t)o->n;
        o->v[o->n++].name = name;
    }
    return &o->v[*at];
}

/* All names that the schemas know. */
static void gather_names(struct object *o)
{
    struct schema *s = o->s;
    const struct conj *c = o->c;
    for (size_t k = 0; k < c->n; k++) {
        const struct json *properties = json_find(c->v[k].j, "properties"), *required = json_find(c->v[k].j, "required");
        o->cap += (properties ? properties->n : 0) + (required ? required->n : 0);
    }
    o->v = arena_array(&s->arena, size_max(o->cap, 1), sizeof *o->v);
    if (!o->v) s->b->rc = fail_nomem(s->b->e, "a schema", o->cap * sizeof *o->v);
    for (size_t k = 0; k < c->n && s->b->rc == 0; k++) {
        const struct json *properties = json_find(c->v[k].j, "properties");
        for (size_t i = 0; properties && i < properties->n; i++) (void)property_of(o, properties->keys[i]);
    }
    for (size_t k = 0; k < c->n && s->b->rc == 0; k++) {
        const struct json *required = json_find(c->v[k].j, "required");
        for (size_t i = 0; required && i < required->n; i++) {
            struct property *q = property_of(o, required->v[i].s);
            if (q) q->required = true;
        }
    }
}

/* ---- conditions on keys ------------------------------------------------------------------------------------------------ */

static void add_pattern(struct object *o, size_t k, size_t i)
{
    struct lang *l = &o->keys;
    const struct json *patterns = json_find(o->c->v[k].j, "patternProperties");
    const struct sub sub = schema_inside(o->s, o->c->v[k], "patternProperties", patterns->keys[i], &patterns->v[i]);
    const uint32_t from = lang_begin(l);
    if (l->b.rc == 0) o->patterns[o->n_patterns++] = (struct pattern){k, i};
    lang_end(l, from, schema_put_regex(&l->b, from, sub.path, patterns->keys[i]), LANG_EITHER);
}

/* Listed names, of which those that are strings count. */
static void add_listed(struct object *o, const struct json *v, size_t n)
{
    struct str *texts = arena_array(&o->s->arena, n + 1, sizeof *texts);
    size_t n_texts = 0;
    if (!texts && o->s->b->rc == 0) o->s->b->rc = fail_nomem(o->s->b->e, "a schema", n * sizeof *texts);
    for (size_t i = 0; i < n && texts; i++)
        if (v[i].type == JSON_STRING) texts[n_texts++] = v[i].s;
    if (texts) lang_texts(&o->keys, texts, n_texts, LANG_WITH);
}

/* What "propertyNames" says. */
static void add_name_rules(struct object *o, struct sub sub)
{
    struct schema *s = o->s;
    struct conj c = {.v = {sub}, .n = 1};
    const struct json *v;
    size_t n;
    schema_flatten(s, &c);
    for (size_t i = 0; i < c.n && s->b->rc == 0; i++) {
        static const char *const others[] = {"anyOf", "oneOf"};
        for (size_t k = 0; k < COUNT_OF(others); k++)
            if (json_find(c.v[i].j, others[k]))
                schema_wrong(s, ERR_UNSUPPORTED, c.v[i], others[k], "this cannot be honoured for names");
        if (schema_values(c.v[i].j, &v, &n)) add_listed(o, v, n);
        if (c.v[i].j->type == JSON_FALSE || !(schema_types(c.v[i].j) & TYPE_STRING)) add_listed(o, NULL, 0);
    }
    schema_add_conditions(s, &o->keys, &c);
}

static void gather_conditions(struct object *o)
{
    struct schema *s = o->s;
    for (size_t k = 0; k < o->c->n; k++) {
        const struct json *patterns = json_find(o->c->v[k].j, "patternProperties");
        for (size_t i = 0; patterns && i < patterns->n && s->b->rc == 0; i++) add_pattern(o, k, i);
    }
    for (size_t k = 0; k < o->c->n && s->b->rc == 0; k++) {
        const struct json *names = json_find(o->c->v[k].j, "propertyNames");
        if (names) add_name_rules(o, schema_inside(s, o->c->v[k], "propertyNames", (struct str){0}, names));
    }
    o->described = o->keys.n > 0;
    for (size_t i = 0; i < o->n && o->described && s->b->rc == 0; i++) o->v[i].ends = lang_takes(&o->keys, o->v[i].name);
}

/* ---- values ------------------------------------------------------------------------------------------------------------ */

/* What schema k of a conjunction says of members counts for schema `up`, which brought it in, maybe through others; what rules
 * a schema out does not. */
static bool counts_for(const struct conj *c, size_t k, size_t up)
{
    for (size_t i = k + 1; i; i = c->v[i - 1].by) {
        if (json_find(c->v[i - 1].j, SCHEMA_OPPOSITE)) return false;
        if (i == up + 1) return true;
    }
    return false;
}

/* Some schema has "unevaluatedProperties": false, and for it none of those that speak of a member does. */
static bool is_unevaluated(const struct conj *c, const bool *speaks)
{
    for (size_t up = 0; up < c->n; up++) {
        const struct json *no = json_find(c->v[up].j, "unevaluatedProperties");
        bool evaluated = !no || no->type != JSON_FALSE;
        for (size_t k = 0; k < c->n && !evaluated; k++) evaluated = speaks[k] && counts_for(c, k, up);
        if (!evaluated) return true;
    }
    return false;
}

/* The conjunction for the value of a key that satisfies `ends`; name.p NULL: it is no name that a schema knows. False: there
 * can be no such member. */
static bool value_of(struct object *o, struct str name, uint32_t ends, struct conj *out)
{
    struct schema *s = o->s;
    bool speaks[CONJ_MAX] = {false};
    out->n = 0;
    for (size_t k = 0; k < o->c->n && s->b->rc == 0; k++) {
        const struct sub sub = o->c->v[k];
        const struct json *own = name.p ? json_find_str(json_find(sub.j, "properties"), name) : NULL;
        const struct json *patterns = json_find(sub.j, "patternProperties"), *extra = json_find(sub.j, "additionalProperties");
        bool known = own != NULL;
        if (own) schema_conj_add(s, out, schema_inside(s, sub, "properties", name, own));
        for (size_t i = 0; i < o->n_patterns; i++) {
            const struct pattern p = o->patterns[i];
            if (p.k != k || !(ends >> i & 1)) continue;
            known = true;
            schema_conj_add(s, out, schema_inside(s, sub, "patternProperties", patterns->keys[p.i], &patterns->v[p.i]));
        }
        if (!known && extra) schema_conj_add(s, out, schema_inside(s, sub, "additionalProperties", (struct str){0}, extra));
        speaks[k] = known || extra;
    }
    if (is_unevaluated(o->c, speaks)) return false;
    for (size_t i = 0; i < out->n; i++)
        if (out->v[i].j->type == JSON_FALSE) return false;
    return true;
}

/* ": value" */
static uint32_t put_value(struct schema *s, uint32_t at, const struct conj *value)
{
    return build_use(s->b, json_use(&s->parts, build_text(s->b, at, STR(":")), JSON_RULE_SPACE), schema_rule(s, value));
}

/* ---- members ----------------------------------------------------------------------------------------------------------- */

/* A rule for "name": value. NONE: it cannot be there. */
static uint32_t member_rule(struct object *o, const struct property *q)
{
    struct schema *s = o->s;
    struct build *b = s->b;
    struct conj value;
    struct buf key = {0};
    if (!lang_satisfied(&o->keys, q->ends) || !value_of(o, q->name, q->ends, &value)) return NONE;
    const uint32_t rule = build_rule(b, q->name);
    if (json_write_string(&key, q->name) < 0 && b->rc == 0) b->rc = fail_nomem(b->e, "a schema", q->name.n);
    if (b->rc == 0)
        build_empty(b, put_value(s, build_text(b, b->g->rules[rule].entry, buf_view(&key)), &value), b->g->rules[rule].final);
    buf_fini(&key);
    return rule;
}

/* Where a key ends, by the patterns that it matches. */
struct key_ends {
    struct object *o;
    uint32_t final; /* of the member */
    bool any;       /* there may be members with keys that match no pattern */
    struct {
        uint32_t patterns, at;
    } v[256];
    size_t n;
};

static uint32_t end_of_key(void *ctx, uint32_t ends)
{
    struct key_ends *k = ctx;
    struct object *o = k->o;
    struct conj value;
    const uint32_t patterns = ends & ((1u << o->n_patterns) - 1);
    size_t i = 0;
    if (o->s->b->rc < 0 || !lang_satisfied(&o->keys, ends) || (patterns == 0 && !k->any)) return NONE;
    while (i < k->n && k->v[i].patterns != patterns) i++;
    if (i < k->n) return k->v[i].at;
    if (i == COUNT_OF(k->v)) {
        schema_wrong(o->s, ERR_LIMIT, o->c->v[o->patterns[0].k], "patternProperties",
                     "keys can match too many patterns at once");
        return NONE;
    }
    uint32_t at = NONE;
    if (value_of(o, (struct str){0}, patterns, &value)) {
        at = build_state(o->s->b);
        build_empty(o->s->b, put_value(o->s, build_text(o->s->b, at, STR("\"")), &value), k->final);
    }
    k->v[k->n].patterns = patterns;
    k->v[k->n++].at = at;
    return at;
}

/* A rule for "key": value with a key that no schema names; NONE: there can be none. */
static uint32_t extra_rule(struct object *o)
{
    struct schema *s = o->s;
    struct str *names = arena_array(&s->arena, o->n + 1, sizeof *names);
    struct conj value;
    struct key_ends k = {.o = o, .any = o->n == 0 && o->n_patterns == 0};
    if (!names && s->b->rc == 0) s->b->rc = fail_nomem(s->b->e, "a schema", o->n * sizeof *names);
    for (size_t i = 0; i < o->c->n; i++) k.any = k.any || json_find(o->c->v[i].j, "additionalProperties");
    k.any = k.any && value_of(o, (struct str){0}, 0, &value);
    if (s->b->rc < 0 || (!k.any && o->n_patterns == 0)) return NONE;
    for (size_t i = 0; i < o->n; i++) names[i] = o->v[i].name;
    lang_any(&o->keys);
    if (o->n > 0) lang_texts(&o->keys, names, o->n, LANG_WITHOUT);
    const uint32_t rule = build_rule(s->b, STR("a further property"));
    if (s->b->rc < 0) return NONE;
    k.final = s->b->g->rules[rule].final;
    lang_append_ends(&o->keys, &s->parts, build_text(s->b, s->b->g->rules[rule].entry, STR("\"")), end_of_key, &k);
    return rule;
}

/* ---- objects ----------------------------------------------------------------------------------------------------------- */

/* Keys that no schema names can come twice, so that one of them is all that counts for `min`. */
static void put_extra(struct object *o, const struct schema_lines *here, const struct schema_lines *behind, uint32_t min)
{
    struct schema *s = o->s;
    const uint32_t rule = extra_rule(o);
    if (s->b->rc < 0 || rule == NONE) return;
    if (min > o->n + 1)
        schema_wrong(s, ERR_UNSUPPORTED, o->c->v[0], "minProperties", "more than one key that has no name cannot be asked for");
    for (uint32_t i = 0; i <= here->last && s->b->rc == 0; i++) {
        if (i + 1 >= min) schema_lines_put(s, here, behind, i, rule);
        if (i > 0) schema_lines_put(s, behind, behind, i, rule);
    }
}

static uint32_t put_members(struct object *o, uint32_t at, uint32_t min, uint32_t max)
{
    struct schema *s = o->s;
    struct build *b = s->b;
    const struct schema_lines shape = {.last = max == UNBOUNDED ? (min > 0 ? min : 1) : max, .more = max == UNBOUNDED};
    struct schema_lines here = schema_lines_new(s, &shape);
    const uint32_t close = build_state(b);
    if (b->rc == 0) build_empty(b, json_use(&s->parts, build_text(b, at, STR("{")), JSON_RULE_SPACE), here.at[0]);
    for (size_t i = 0; i < o->n && b->rc == 0; i++) {
        const struct schema_lines next = schema_lines_new(s, &shape);
        const uint32_t rule = member_rule(o, &o->v[i]);
        for (uint32_t k = 0; k <= shape.last && b->rc == 0; k++) {
            if (rule != NONE) schema_lines_put(s, &here, &next, k, rule);
            if (!o->v[i].required) build_empty(b, here.at[k], next.at[k]);
        }
        here = next;
    }
    const struct schema_lines behind = schema_lines_new(s, &shape);
    if (b->rc == 0) put_extra(o, &here, &behind, min);
    for (uint32_t i = 0; i <= shape.last && b->rc == 0; i++) {
        if (i >= min) build_empty(b, here.at[i], behind.at[i]);
        if (i > 0) build_empty(b, json_use(&s->parts, behind.at[i], JSON_RULE_SPACE), close);
    }
    if (b->rc == 0) build_empty(b, behind.at[0], close);
    return build_text(b, close, STR("}"));
}

uint32_t schema_put_object(struct schema *s, uint32_t at, const struct conj *c)
{
    struct object o = {.s = s, .c = c};
    uint32_t min = schema_count(c, "minProperties", true, 0), max = schema_count(c, "maxProperties", false, UNBOUNDED), n = 0;
    lang_init(&o.keys, s->b, c->n ? c->v[0].path : "#");
    gather_names(&o);
    gather_conditions(&o);
    for (size_t i = 0; i < o.n; i++) n += o.v[i].required;
    if (min <= n) min = 0;
    if (min > REPEAT_MAX) schema_wrong(s, ERR_LIMIT, c->v[0], "minProperties", "so many members cannot be asked for");
    if (max != UNBOUNDED) max = (uint32_t)size_min(max, REPEAT_MAX);
    at = max < min || s->b->rc < 0 ? build_state(s->b) : put_members(&o, at, min, max);
    names_fini(&o.at);
    lang_fini(&o.keys);
    return at;
}
