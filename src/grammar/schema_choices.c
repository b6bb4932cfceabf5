/* schema_choices: the alternatives of a conjunction. Each becomes a conjunction of its own, without those that another schema
 * of it excludes. Where two schemas of a "oneOf" could hold at once, each is joined by what rules the other out. */
#include "grammar/schema_int.h"

/* Some schema of c, but for number `but`, excludes sub. */
static bool is_excluded(struct schema *s, const struct conj *c, size_t but, struct sub sub)
{
    bool open, excluded = false;
    const unsigned types = schema_types_of(c, &open);
    s->around = c;
    for (size_t i = 0; i < c->n && !excluded; i++) excluded = i != but && schema_disjoint(s, c->v[i], sub, types, 0);
    s->around = NULL;
    return excluded;
}

/* ---- schemas that hold alone ------------------------------------------------------------------------------------------- */

/* The alternative only says that there is no member of a name, and none has been spoken of. */
static bool costs_nothing(const struct conj *c, const struct json *alternative)
{
    const struct json *properties = json_find(alternative, "properties");
    if (!properties || properties->n != 1 || properties->v[0].type != JSON_FALSE) return false;
    for (size_t i = 0; i < c->n; i++)
        if (json_find_str(json_find(c->v[i].j, "properties"), properties->keys[0])) return false;
    return true;
}

/* One of the ways to rule a schema out that c does not exclude, so that their number does not multiply; NULL: there is none. */
static const struct json *pick(struct schema *s, const struct conj *c, struct sub other)
{
    const struct json *any = json_find(other.j, "anyOf"), *first = NULL;
    if (!any) return is_excluded(s, c, c->n, other) ? NULL : other.j;
    for (size_t i = 0; i < any->n && s->b->rc == 0; i++) {
        const struct sub sub = {.j = &any->v[i], .base = other.base, .path = other.path};
        if (is_excluded(s, c, c->n, sub)) continue;
        if (costs_nothing(c, sub.j)) return sub.j;
        if (!first) first = sub.j;
    }
    return first;
}

/* A member of c that a schema has no place for; NULL: there is none. */
static const struct json *foreign_member(struct schema *s, const struct conj *c, struct sub sub)
{
    if (json_find(sub.j, "$ref") && !schema_resolve(s, sub, &sub)) return NULL;
    for (size_t k = 0; k < c->n; k++) {
        const struct json *properties = json_find(c->v[k].j, "properties");
        for (size_t i = 0; properties && i < properties->n; i++)
            if (properties->v[i].type != JSON_FALSE && schema_forbids(sub.j, properties->keys[i]))
                return schema_requiring(s, properties->keys[i]);
    }
    return NULL;
}

/* Adds to c, which has schema `own` of all [n], that none of the others holds; false: one always does. */
static bool exclude_others(struct schema *s, struct conj *c, struct sub one_of, const struct sub *all, size_t n, size_t own)
{
    schema_flatten(s, c);
    for (size_t k = 0; k < n && s->b->rc == 0; k++) {
        if (k == own || is_excluded(s, c, c->n, all[k])) continue;
        struct sub other = {.j = schema_opposite(s, all[k]), .base = all[k].base, .path = all[k].path};
        const bool told = other.j && !json_find(other.j, SCHEMA_PARTIAL);
        other.j = other.j ? pick(s, c, other) : NULL;
        if (!other.j) other.j = foreign_member(s, c, all[k]);
        if (!other.j && told) return false;
        if (!other.j) {
            schema_wrong(s, ERR_UNSUPPORTED, one_of, "oneOf",
                         "two of its schemas could hold at once, and what rules one of them out cannot be told; anyOf can be "
                         "honoured");
            return false;
        }
        schema_conj_add(s, c, other);
        schema_flatten(s, c);
    }
    return s->b->rc == 0;
}

/* ---- alternatives ------------------------------------------------------------------------------------------------------ */

static void put_branches(struct schema *s, struct rule r, const struct conj *whole, size_t at, const struct json *branches,
                         bool exclusive)
{
    struct sub *all = arena_array(&s->arena, branches->n, sizeof *all);
    schema_spend(s, branches->n);
    if (!all && s->b->rc == 0) s->b->rc = fail_nomem(s->b->e, "a schema", branches->n * sizeof *all);
    for (size_t k = 0; k < branches->n && all; k++)
        all[k] = schema_element(s, whole->v[at], exclusive ? "oneOf" : "anyOf", branches, k);
    for (size_t k = 0; k < branches->n && s->b->rc == 0; k++) {
        struct conj c = *whole;
        if (is_excluded(s, &c, at, all[k])) continue;
        c.v[at].done |= exclusive ? DONE_ONE : DONE_ANY;
        schema_conj_bring(s, &c, all[k], at);
        if (exclusive && !exclude_others(s, &c, whole->v[at], all, branches->n, k)) continue;
        build_call(s->b, r.entry, r.final, schema_rule(s, &c));
    }
}

bool schema_put_choices(struct schema *s, struct rule r, const struct conj *c)
{
    static const struct {
        const char *name;
        uint32_t done;
    } kinds[] = {{"anyOf", DONE_ANY}, {"oneOf", DONE_ONE}};
    for (size_t i = 0; i < c->n; i++)
        for (size_t k = 0; k < COUNT_OF(kinds); k++) {
            const struct json *branches = json_find(c->v[i].j, kinds[k].name);
            if (!branches || (c->v[i].done & kinds[k].done)) continue;
            put_branches(s, r, c, i, branches, kinds[k].done == DONE_ONE);
            return true;
        }
    return false;
}
