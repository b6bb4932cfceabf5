/* schema_arrays: arrays of a conjunction of schemas. */
#include "grammar/schema_int.h"

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
            out.v[out.n++] = schema_element(s, c->v[k], "prefixItems", first, i);
        else if (rest)
            out.v[out.n++] = schema_inside(s, c->v[k], "items", (struct str){0}, rest);
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
