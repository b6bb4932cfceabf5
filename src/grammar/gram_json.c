/* gram_json: rules for JSON values of no particular schema. Every one of them can end at any time within few bytes: white space
 * and numbers are bounded, and values nest NEST_LEVELS deep and no deeper. Numbers have at most 15 significant digits, so that
 * readers which use doubles keep them apart. */
#include "grammar/grammar_int.h"

#define NEST_LEVELS 24

static uint32_t digits(struct build *b, uint32_t at, uint8_t first, uint32_t min, uint32_t max)
{
    struct part p = {.from = build_state(b)};
    p.to = build_state(b);
    build_bytes(b, p.from, p.to, first, '9');
    return build_repeat(b, at, p, min, max);
}

static uint32_t optional_text(struct build *b, uint32_t at, struct str s)
{
    struct part p = {.from = build_state(b)};
    p.to = build_text(b, p.from, s);
    return build_repeat(b, at, p, 0, 1);
}

/* Nothing, a space, or a new line with what may be an indentation. */
static uint32_t make_space(struct json_parts *p, uint32_t at)
{
    struct build *b = p->b;
    const uint32_t end = build_state(b), line = build_text(b, at, STR("\n"));
    struct part indent = {.from = build_state(b)};
    indent.to = build_state(b);
    build_bytes(b, indent.from, indent.to, ' ', ' ');
    build_bytes(b, indent.from, indent.to, '\t', '\t');
    build_empty(b, build_repeat(b, line, indent, 0, 20), end);
    build_empty(b, at, end);
    build_bytes(b, at, end, ' ', ' ');
    return end;
}

static void hex(struct build *b, uint32_t at, uint32_t to)
{
    build_bytes(b, at, to, '0', '9');
    build_bytes(b, at, to, 'A', 'F');
    build_bytes(b, at, to, 'a', 'f');
}

/* What may follow \u: any character but the halves of surrogate pairs. */
static void add_code(struct build *b, uint32_t at, uint32_t end)
{
    const uint32_t two = build_state(b), three = build_state(b), one = build_state(b), d = build_state(b);
    static const uint8_t first[][2] = {{'0', '9'}, {'A', 'C'}, {'E', 'F'}, {'a', 'c'}, {'e', 'f'}};
    for (size_t i = 0; i < COUNT_OF(first); i++) build_bytes(b, at, three, first[i][0], first[i][1]);
    build_bytes(b, at, d, 'D', 'D');
    build_bytes(b, at, d, 'd', 'd');
    build_bytes(b, d, two, '0', '7');
    hex(b, three, two);
    hex(b, two, one);
    hex(b, one, end);
}

/* One character inside of a string. */
static uint32_t make_character(struct json_parts *p, uint32_t at)
{
    struct build *b = p->b;
    struct chars c = {0};
    chars_add(&c, 0, 0x1F);
    chars_add(&c, '"', '"');
    chars_add(&c, '\\', '\\');
    chars_invert(&c);
    const uint32_t end = build_chars(b, at, &c, false), escape = build_text(b, at, STR("\\"));
    for (const char *z = "\"\\/bfnrt"; *z; z++) build_bytes(b, escape, end, (uint8_t)*z, (uint8_t)*z);
    add_code(b, build_text(b, escape, STR("u")), end);
    return end;
}

/* The characters are part of the rule, not calls of one: a token that stays in the string stays in the rule. */
static uint32_t make_string(struct json_parts *p, uint32_t at)
{
    struct build *b = p->b;
    at = build_text(b, at, STR("\""));
    struct part part = {.from = build_state(b)};
    part.to = make_character(p, part.from);
    return build_text(b, build_repeat(b, at, part, 0, UNBOUNDED), STR("\""));
}

static uint32_t make_integer(struct json_parts *p, uint32_t at)
{
    struct build *b = p->b;
    const uint32_t end = build_state(b), from = optional_text(b, at, STR("-"));
    build_bytes(b, from, end, '0', '0');
    build_empty(b, digits(b, digits(b, from, '1', 1, 1), '0', 0, 14), end);
    return end;
}

/* Digits before the point and behind it are 15 at most together. */
static uint32_t make_number(struct json_parts *p, uint32_t at)
{
    struct build *b = p->b;
    const uint32_t end = build_state(b), sign = optional_text(b, at, STR("-")), mantissa = build_state(b);
    const uint32_t whole = build_text(b, sign, STR("0"));
    build_empty(b, whole, mantissa);
    build_empty(b, digits(b, build_text(b, whole, STR(".")), '0', 1, 15), mantissa);
    const uint32_t few = digits(b, digits(b, sign, '1', 1, 1), '0', 0, 7);
    build_empty(b, digits(b, few, '0', 0, 7), mantissa);
    build_empty(b, digits(b, build_text(b, few, STR(".")), '0', 1, 7), mantissa);
    const uint32_t many = digits(b, few, '0', 1, 4); /* such as a time in seconds */
    build_empty(b, digits(b, build_text(b, many, STR(".")), '0', 1, 3), mantissa);
    const uint32_t e = build_state(b), power = build_state(b);
    build_bytes(b, mantissa, e, 'e', 'e');
    build_bytes(b, mantissa, e, 'E', 'E');
    build_empty(b, e, power);
    build_bytes(b, e, power, '+', '+');
    build_bytes(b, e, power, '-', '-');
    build_empty(b, digits(b, power, '0', 1, 2), end);
    build_empty(b, mantissa, end);
    return end;
}

/* ---- values inside of values ------------------------------------------------------------------------------------------- */

/* open item ("," item)* close, or nothing between the brackets; a member has a key before the item. */
static uint32_t container(struct json_parts *p, uint32_t at, bool object, uint32_t inner)
{
    struct build *b = p->b;
    const uint32_t first = json_use(p, build_text(b, at, object ? STR("{") : STR("[")), JSON_RULE_SPACE);
    const uint32_t close = build_state(b), item = build_state(b);
    build_empty(b, first, item);
    uint32_t value = item;
    if (object) {
        value = build_text(b, json_use(p, item, JSON_RULE_STRING), STR(":"));
        value = json_use(p, value, JSON_RULE_SPACE);
    }
    const uint32_t behind = build_use(b, value, inner);
    build_empty(b, json_use(p, build_text(b, behind, STR(",")), JSON_RULE_SPACE), item);
    build_empty(b, json_use(p, behind, JSON_RULE_SPACE), close);
    build_empty(b, first, close);
    return build_text(b, close, object ? STR("}") : STR("]"));
}

static void add_scalars(struct json_parts *p, uint32_t at, uint32_t end)
{
    struct build *b = p->b;
    static const char *const words[] = {"null", "true", "false"};
    for (size_t i = 0; i < COUNT_OF(words); i++) build_empty(b, build_text(b, at, str_of(words[i])), end);
    build_empty(b, json_use(p, at, JSON_RULE_NUMBER), end);
    build_empty(b, json_use(p, at, JSON_RULE_STRING), end);
}

/* A rule for each level, those inside first: scalars alone are the innermost. */
static void make_levels(struct json_parts *p)
{
    struct build *b = p->b;
    static const enum json_rule both[] = {JSON_RULE_OBJECT, JSON_RULE_ARRAY};
    uint32_t inner = build_rule(b, STR("a value"));
    if (b->rc == 0) add_scalars(p, b->g->rules[inner].entry, b->g->rules[inner].final);
    for (unsigned level = 1; level <= NEST_LEVELS && b->rc == 0; level++) {
        const uint32_t value = build_rule(b, STR("a value"));
        for (size_t i = 0; i < COUNT_OF(both) && b->rc == 0; i++) {
            const uint32_t r = p->rules[both[i]] = build_rule(b, STR("a value"));
            if (b->rc < 0) return;
            build_empty(b, container(p, b->g->rules[r].entry, both[i] == JSON_RULE_OBJECT, inner), b->g->rules[r].final);
            build_call(b, b->g->rules[value].entry, b->g->rules[value].final, r);
        }
        if (b->rc == 0) add_scalars(p, b->g->rules[value].entry, b->g->rules[value].final);
        inner = value;
    }
    p->rules[JSON_RULE_VALUE] = inner;
}

/* ---- use --------------------------------------------------------------------------------------------------------------- */

void json_parts_init(struct json_parts *p, struct build *b)
{
    *p = (struct json_parts){.b = b};
    for (size_t i = 0; i < JSON_RULES; i++) p->rules[i] = NONE;
}

void json_parts_fini(struct json_parts *p)
{
    names_fini(&p->sets);
}

uint32_t json_use(struct json_parts *p, uint32_t at, enum json_rule which)
{
    static const struct {
        const char *name;
        uint32_t (*make)(struct json_parts *p, uint32_t at);
    } makers[JSON_RULES] = {
        [JSON_RULE_SPACE] = {"white space", make_space}, [JSON_RULE_CHARACTER] = {"a character", make_character},
        [JSON_RULE_STRING] = {"a string", make_string},  [JSON_RULE_INTEGER] = {"an integer", make_integer},
        [JSON_RULE_NUMBER] = {"a number", make_number},
    };
    struct build *b = p->b;
    if (b->rc < 0) return 0;
    if (p->rules[which] == NONE && makers[which].make) {
        const uint32_t r = build_rule(b, str_of(makers[which].name));
        if (b->rc < 0) return 0;
        const uint32_t end = makers[which].make(p, b->g->rules[r].entry);
        if (b->rc == 0) build_empty(b, end, b->g->rules[r].final);
        p->rules[which] = r;
    } else if (p->rules[which] == NONE) {
        make_levels(p);
    }
    return build_use(b, at, p->rules[which]);
}

/* ---- sets of characters ------------------------------------------------------------------------------------------------ */

uint32_t json_chars(struct json_parts *p, struct chars *c)
{
    struct build *b = p->b;
    chars_sort(c);
    uint32_t *rule = names_at(&p->sets, (struct str){(const char *)c->r, c->n * sizeof c->r[0]});
    if (!rule && b->rc == 0) b->rc = fail_nomem(b->e, "a set of characters", c->n * sizeof c->r[0]);
    if (b->rc < 0) return 0;
    if (*rule == NONE) {
        *rule = build_rule(b, STR("a character"));
        if (b->rc == 0) build_empty(b, build_chars(b, b->g->rules[*rule].entry, c, true), b->g->rules[*rule].final);
    }
    return *rule;
}
