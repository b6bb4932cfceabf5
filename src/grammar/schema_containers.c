/* schema_containers: arrays and objects of a conjunction of schemas. */
#include <stdlib.h>

#include "grammar/schema_int.h"

/* ---- arrays ------------------------------------------------------------------------------------------------------------ */

/* The schemas of the first places, and of the rest, as drafts before and since 2020-12 write them. */
static const struct json *first_items(const struct json *j)
{
    const struct json *items = json_find(j, "items"), *prefix = json_find(j, "prefixItems");
    return prefix ? prefix : items && items->type == JSON_ARRAY ? items : NULL;
}

static const struct json *rest_items(const struct json *j)
{
    const struct json *items = json_find(j, "items");
    return items && items->type == JSON_ARRAY ? json_find(j, "additionalItems") : items;
}

/* The conjunction for place i; i at or beyond all first items: for the rest. */
static struct conj item_at(struct schema *s, const struct conj *c, size_t i)
{
    struct conj out = {.n = 0};
    for (size_t k = 0; k < c->n; k++) {
        const struct json *first = first_items(c->v[k].j), *rest = rest_items(c->v[k].j);
        if (first && i < first->n)
            out.v[out.n++] =
                (struct sub){.j = &first->v[i], .path = schema_path(s, c->v[k].path, "prefixItems", (struct str){0})};
        else if (rest)
            out.v[out.n++] = (struct sub){.j = rest, .path = schema_path(s, c->v[k].path, "items", (struct str){0})};
    }
    return out;
}

/* The item of number i, with the comma before it. */
static uint32_t put_item(struct schema *s, uint32_t at, bool comma, uint32_t rule)
{
    if (comma) at = json_use(&s->parts, build_text(s->b, at, STR(",")), JSON_RULE_SPACE);
    return build_use(s->b, at, rule);
}

/* Items from number n_first on, all of one rule. */
static uint32_t put_rest(struct schema *s, uint32_t at, uint32_t n_first, uint32_t min, uint32_t max, uint32_t rule,
                         uint32_t end)
{
    struct build *b = s->b;
    min = min > n_first ? min - n_first : 0;
    max = max == UNBOUNDED ? UNBOUNDED : max - n_first;
    if (max == 0) return at;
    if (n_first == 0) { /* the first one has no comma before it */
        if (min == 0) build_empty(b, at, end);
        at = put_item(s, at, false, rule);
        min -= min > 0;
        max -= max != UNBOUNDED;
    }
    struct part p = {.from = build_state(b)};
    p.to = put_item(s, p.from, true, rule);
    return build_repeat(b, at, p, min, max);
}

uint32_t schema_put_array(struct schema *s, uint32_t at, const struct conj *c)
{
    struct build *b = s->b;
    uint32_t min = schema_count(c, "minItems", true, 0), max = schema_count(c, "maxItems", false, UNBOUNDED);
    size_t n_first = 0;
    bool rest = false;
    for (size_t k = 0; k < c->n; k++) {
        const struct json *first = first_items(c->v[k].j);
        if (first) n_first = size_max(n_first, first->n);
        rest = rest || rest_items(c->v[k].j);
    }
    if (min > REPEAT_MAX) schema_wrong(s, ERR_LIMIT, c->v[0], "minItems", "arrays that are so long cannot be asked for");
    if (max != UNBOUNDED) max = (uint32_t)size_min(max, REPEAT_MAX);
    if (max < min) return build_state(b); /* nowhere */
    if (n_first > 0 && !rest && max > n_first) max = (uint32_t)size_max(n_first, min);

    at = json_use(&s->parts, build_text(b, at, STR("[")), JSON_RULE_SPACE);
    const uint32_t end = build_state(b);
    const uint32_t n = (uint32_t)size_min(n_first, max);
    for (uint32_t i = 0; i < n && b->rc == 0; i++) {
        const struct conj item = item_at(s, c, i);
        if (i >= min) build_empty(b, at, end);
        at = put_item(s, at, i > 0, schema_rule(s, &item));
    }
    if (n == n_first && b->rc == 0) {
        const struct conj item = item_at(s, c, n_first);
        if (n >= min) build_empty(b, at, end); /* what follows may be impossible, and need not be there */
        at = put_rest(s, at, n, min, max, max > n ? schema_rule(s, &item) : 0, end);
    }
    build_empty(b, at, end);
    return build_text(b, json_use(&s->parts, end, JSON_RULE_SPACE), STR("]"));
}

/* ---- objects ----------------------------------------------------------------------------------------------------------- */

struct property {
    struct str name;
    bool required;
};
struct properties {
    struct property *v; /* in the order of the schemas */
    size_t n, cap;
    struct names at;
};

static struct property *property_of(struct schema *s, struct properties *p, struct str name)
{
    /* A name may be empty, a key of the table may not. */
    char *key = arena_alloc(&s->arena, name.n + 1);
    uint32_t *at = NULL;
    if (key) {
        if (name.n) memcpy(key, name.p, name.n);
        key[name.n] = '"';
        at = names_at(&p->at, (struct str){key, name.n + 1});
    }
    if (!at || p->n == p->cap) {
        if (s->b->rc == 0) s->b->rc = fail_nomem(s->b->e, "a schema", name.n);
        return NULL;
    }
    if (*at == NONE) {
        *at = (uint32_t)p->n;
        p->v[p->n++].name = name;
    }
    return &p->v[*at];
}

/* All names that the schemas know. */
static void gather(struct schema *s, const struct conj *c, struct properties *p)
{
    for (size_t k = 0; k < c->n; k++) {
        const struct json *properties = json_find(c->v[k].j, "properties"), *required = json_find(c->v[k].j, "required");
        p->cap += (properties ? properties->n : 0) + (required ? required->n : 0);
    }
    p->v = arena_array(&s->arena, size_max(p->cap, 1), sizeof *p->v);
    if (!p->v) s->b->rc = fail_nomem(s->b->e, "a schema", p->cap * sizeof *p->v);
    for (size_t k = 0; k < c->n && s->b->rc == 0; k++) {
        const struct json *properties = json_find(c->v[k].j, "properties");
        for (size_t i = 0; properties && i < properties->n; i++) (void)property_of(s, p, properties->keys[i]);
    }
    for (size_t k = 0; k < c->n && s->b->rc == 0; k++) {
        const struct json *required = json_find(c->v[k].j, "required");
        for (size_t i = 0; required && i < required->n; i++) {
            struct property *q = property_of(s, p, required->v[i].s);
            if (q) q->required = true;
        }
    }
}

/* The conjunction for a property. */
static struct conj value_of(struct schema *s, const struct conj *c, struct str name)
{
    struct conj out = {.n = 0};
    for (size_t k = 0; k < c->n; k++) {
        const struct sub sub = c->v[k];
        const struct json *own = json_find_str(json_find(sub.j, "properties"), name);
        const struct json *extra = json_find(sub.j, "additionalProperties");
        if (own)
            out.v[out.n++] = (struct sub){.j = own, .path = schema_path(s, sub.path, "properties", name)};
        else if (extra)
            out.v[out.n++] =
                (struct sub){.j = extra, .path = schema_path(s, sub.path, "additionalProperties", (struct str){0})};
    }
    return out;
}

/* The conjunction for keys that no schema names; false where there may be none. */
static bool extra_value(struct schema *s, const struct conj *c, bool named, struct conj *out)
{
    out->n = 0;
    for (size_t k = 0; k < c->n; k++) {
        const struct json *extra = json_find(c->v[k].j, "additionalProperties");
        if (!extra) continue;
        if (extra->type == JSON_FALSE) return false;
        out->v[out->n++] =
            (struct sub){.j = extra, .path = schema_path(s, c->v[k].path, "additionalProperties", (struct str){0})};
    }
    return out->n > 0 || !named;
}

/* ": value" */
static uint32_t put_value(struct schema *s, uint32_t at, const struct conj *value)
{
    return build_use(s->b, json_use(&s->parts, build_text(s->b, at, STR(":")), JSON_RULE_SPACE), schema_rule(s, value));
}

/* A rule for "name": value. */
static uint32_t member_rule(struct schema *s, struct str name, const struct conj *value)
{
    struct build *b = s->b;
    struct buf key = {0};
    const uint32_t rule = build_rule(b, name);
    if (json_write_string(&key, name) < 0 && b->rc == 0) b->rc = fail_nomem(b->e, "a schema", name.n);
    if (b->rc == 0)
        build_empty(b, put_value(s, build_text(b, b->g->rules[rule].entry, buf_view(&key)), value), b->g->rules[rule].final);
    buf_fini(&key);
    return rule;
}

static int by_bytes(const void *a, const void *b)
{
    return str_cmp(*(const struct str *)a, *(const struct str *)b);
}

static bool is_plain(struct str name)
{
    for (size_t i = 0; i < name.n; i++)
        if ((unsigned char)name.p[i] < 0x20 || name.p[i] == '"' || name.p[i] == '\\') return false;
    return true;
}

/* A rule for "key": value with a key that is none of p's. */
static uint32_t extra_rule(struct schema *s, const struct properties *p, const struct conj *value)
{
    struct build *b = s->b;
    const uint32_t rule = build_rule(b, STR("a further property"));
    struct str *names = arena_array(&s->arena, p->n + 1, sizeof *names);
    size_t n = 0;
    if (!names && b->rc == 0) b->rc = fail_nomem(b->e, "a schema", p->n * sizeof *names);
    if (b->rc < 0) return 0;
    for (size_t i = 0; i < p->n; i++)
        if (is_plain(p->v[i].name)) names[n++] = p->v[i].name;
    qsort(names, n, sizeof *names, by_bytes);
    const uint32_t key = json_other_key(&s->parts, b->g->rules[rule].entry, names, n);
    if (b->rc == 0) build_empty(b, put_value(s, key, value), b->g->rules[rule].final);
    return rule;
}

/* Two lines of states run along the members: before the first one, and behind some. */
struct line {
    uint32_t none, some;
};

/* The member may come here. */
static void put_member(struct schema *s, struct line at, struct line to, uint32_t rule)
{
    build_call(s->b, at.none, to.some, rule);
    build_call(s->b, json_use(&s->parts, build_text(s->b, at.some, STR(",")), JSON_RULE_SPACE), to.some, rule);
}

uint32_t schema_put_object(struct schema *s, uint32_t at, const struct conj *c)
{
    struct build *b = s->b;
    struct properties p = {0};
    struct conj value;
    gather(s, c, &p);
    names_fini(&p.at);
    struct line here = {json_use(&s->parts, build_text(b, at, STR("{")), JSON_RULE_SPACE), build_state(b)};
    for (size_t i = 0; i < p.n && b->rc == 0; i++) {
        const struct line next = {build_state(b), build_state(b)};
        value = value_of(s, c, p.v[i].name);
        put_member(s, here, next, member_rule(s, p.v[i].name, &value));
        if (!p.v[i].required) {
            build_empty(b, here.none, next.none);
            build_empty(b, here.some, next.some);
        }
        here = next;
    }
    if (b->rc == 0 && extra_value(s, c, p.n > 0, &value)) put_member(s, here, here, extra_rule(s, &p, &value));
    const uint32_t close = build_state(b), space = json_use(&s->parts, here.some, JSON_RULE_SPACE);
    build_empty(b, space, close);
    build_empty(b, here.none, close);
    return build_text(b, close, STR("}"));
}
