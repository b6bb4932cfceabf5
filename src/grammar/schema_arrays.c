/* schema_arrays: arrays of a conjunction of schemas. */
#include "grammar/schema_int.h"

/* ---- lines of states ---------------------------------------------------------------------------------------------------- */

struct schema_lines schema_lines_new(struct schema *s, const struct schema_lines *like)
{
    struct schema_lines l = *like;
    l.at = arena_array(&s->arena, l.last + (size_t)1, sizeof *l.at);
    if (!l.at && s->b->rc == 0) s->b->rc = fail_nomem(s->b->e, "a schema", l.last * sizeof *l.at);
    for (uint32_t i = 0; i <= l.last && l.at; i++) l.at[i] = build_state(s->b);
    return l;
}

void schema_lines_put(struct schema *s, const struct schema_lines *from, const struct schema_lines *to, uint32_t i,
                      uint32_t rule)
{
    uint32_t at = from->at[i];
    if (i == from->last && !from->more) return;
    if (i > 0) at = json_use(&s->parts, build_text(s->b, at, STR(",")), JSON_RULE_SPACE);
    build_call(s->b, at, to->at[i < to->last ? i + 1 : i], rule);
}

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

/* Items that "contains" asks for, which are the first ones. Drafts before 2019-09 ask for one whatever "minContains" says. */
static size_t n_contained(const struct json *j)
{
    const struct json *min = json_find(j, "minContains");
    if (!json_find(j, "contains")) return 0;
    return min && min->f > 1 ? (size_t)(min->f < REPEAT_MAX ? min->f : REPEAT_MAX + 1) : 1;
}

/* The conjunction for place i; i at or beyond all first items: for the rest. */
static struct conj item_at(struct schema *s, const struct conj *c, size_t i)
{
    struct conj out = {.n = 0};
    for (size_t k = 0; k < c->n; k++) {
        const struct json *first = first_items(c->v[k].j), *rest = rest_items(c->v[k].j);
        if (first && i < first->n)
            schema_conj_add(s, &out, schema_element(s, c->v[k], "prefixItems", first, i));
        else if (rest)
            schema_conj_add(s, &out, schema_inside(s, c->v[k], "items", (struct str){0}, rest));
        if (i < n_contained(c->v[k].j))
            schema_conj_add(s, &out, schema_inside(s, c->v[k], "contains", (struct str){0}, json_find(c->v[k].j, "contains")));
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

static bool came_before(const struct json *const *v, size_t i)
{
    for (size_t k = 0; k < i; k++)
        if (json_equal(v[k], v[i])) return true;
    return false;
}

/* Some of the listed values, each once, in their order. */
static uint32_t put_selection(struct schema *s, uint32_t at, const struct conj *item, uint32_t min, uint32_t max)
{
    struct build *b = s->b;
    const struct json *const *v;
    const size_t n = schema_listed(s, item, &v);
    const struct schema_lines shape = {.last = (uint32_t)size_min(max, size_max(n, 1))};
    struct schema_lines here = schema_lines_new(s, &shape);
    const uint32_t end = build_state(b);
    if (b->rc == 0) build_empty(b, at, here.at[0]);
    for (size_t i = 0; i < n && b->rc == 0; i++) {
        if (came_before(v, i)) continue;
        const struct schema_lines next = schema_lines_new(s, &shape);
        const uint32_t rule = build_rule(b, STR("a listed value"));
        if (b->rc == 0) build_empty(b, schema_put_value(s, b->g->rules[rule].entry, v[i]), b->g->rules[rule].final);
        for (uint32_t k = 0; k <= shape.last && b->rc == 0; k++) {
            schema_lines_put(s, &here, &next, k, rule);
            build_empty(b, here.at[k], next.at[k]);
        }
        here = next;
    }
    for (uint32_t k = min; k <= shape.last && b->rc == 0; k++) build_empty(b, here.at[k], end);
    return end;
}

/* With "uniqueItems", which more than one item must satisfy. */
static uint32_t put_unique(struct schema *s, uint32_t at, const struct conj *c, uint32_t min, uint32_t max)
{
    struct conj item = item_at(s, c, 0);
    schema_flatten(s, &item);
    bool listed = false;
    for (size_t k = 0; k < c->n; k++)
        if (first_items(c->v[k].j) || n_contained(c->v[k].j) > 0) item.n = 0;
    for (size_t k = 0; k < item.n; k++) {
        const struct json *v;
        size_t n;
        listed = listed || schema_values(item.v[k].j, &v, &n);
        if (json_find(item.v[k].j, "anyOf") || json_find(item.v[k].j, "oneOf")) item.n = 0;
    }
    if (!listed || item.n == 0) {
        schema_wrong(s, ERR_UNSUPPORTED, c->v[0], "uniqueItems", "this can be honoured only for items that are listed values");
        return at;
    }
    return put_selection(s, at, &item, min, max);
}

uint32_t schema_put_array(struct schema *s, uint32_t at, const struct conj *c)
{
    struct build *b = s->b;
    uint32_t min = schema_count(c, "minItems", true, 0), max = schema_count(c, "maxItems", false, UNBOUNDED);
    size_t n_first = 0;
    bool rest = false, unique = false, tuple = false;
    for (size_t k = 0; k < c->n; k++) {
        const struct json *first = first_items(c->v[k].j), *once = json_find(c->v[k].j, "uniqueItems");
        unique = unique || (once && once->type == JSON_TRUE);
        if (first) n_first = size_max(n_first, first->n);
        tuple = tuple || first;
        n_first = size_max(n_first, n_contained(c->v[k].j));
        min = (uint32_t)size_max(min, n_contained(c->v[k].j));
        rest = rest || rest_items(c->v[k].j);
    }
    if (min > REPEAT_MAX) schema_wrong(s, ERR_LIMIT, c->v[0], "minItems", "arrays that are so long cannot be asked for");
    if (max != UNBOUNDED) max = (uint32_t)size_min(max, REPEAT_MAX);
    if (max < min) return build_state(b); /* nowhere */
    if (tuple && !rest && max > n_first) max = (uint32_t)size_max(n_first, min);

    at = json_use(&s->parts, build_text(b, at, STR("[")), JSON_RULE_SPACE);
    const uint32_t end = build_state(b);
    if (unique && max > 1) {
        build_empty(b, put_unique(s, at, c, min, max), end);
        return build_text(b, json_use(&s->parts, end, JSON_RULE_SPACE), STR("]"));
    }
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
