/* gram_build: states and edges, and the parts that front ends put together of them: texts, characters, repetition. */
#include "grammar/grammar_int.h"

/* ---- states and edges -------------------------------------------------------------------------------------------------- */

static void too_large(struct build *b, const char *what, uint32_t most)
{
    if (b->rc == 0) b->rc = fail(b->e, ERR_LIMIT, "the grammar is too large: more than %u %s", most, what);
}

/* Room for one more of n elements; false after a failure. */
static bool grow(struct build *b, void **p, uint32_t n, uint32_t *cap, size_t size, const char *what, uint32_t most)
{
    if (b->rc < 0) return false;
    if (n == most) too_large(b, what, most);
    if (b->rc < 0) return false;
    if (n < *cap) return true;
    const uint32_t more = (uint32_t)size_min(most, *cap ? (size_t)*cap * 2 : 256);
    void *q = mem_realloc(*p, more * size);
    if (!q) {
        b->rc = fail_nomem(b->e, "a grammar", more * size);
        return false;
    }
    *p = q;
    *cap = more;
    return true;
}

uint32_t build_state(struct build *b)
{
    struct grammar *g = b->g;
    if (!grow(b, (void **)&g->first, g->n_states, &b->cap_states, sizeof *g->first, "states", STATES_MAX)) return 0;
    g->first[g->n_states] = NONE;
    return g->n_states++;
}

static void add_edge(struct build *b, struct edge edge)
{
    struct grammar *g = b->g;
    if (!grow(b, (void **)&g->edges, g->n_edges, &b->cap_edges, sizeof *g->edges, "edges", EDGES_MAX)) return;
    edge.next = g->first[edge.from];
    g->edges[g->n_edges] = edge;
    g->first[edge.from] = g->n_edges++;
}

void build_empty(struct build *b, uint32_t from, uint32_t to)
{
    add_edge(b, (struct edge){.from = from, .to = to, .kind = EDGE_EMPTY});
}

void build_bytes(struct build *b, uint32_t from, uint32_t to, uint8_t lo, uint8_t hi)
{
    if (b->sets) {
        const struct chars c = {.r = {{lo, hi}}, .n = 1};
        add_edge(b, (struct edge){.from = from, .to = to, .kind = EDGE_SET, .rule = charset_of(b, &c)});
        return;
    }
    add_edge(b, (struct edge){.from = from, .to = to, .kind = EDGE_BYTES, .lo = lo, .hi = hi});
}

void build_call(struct build *b, uint32_t from, uint32_t to, uint32_t rule)
{
    add_edge(b, (struct edge){.from = from, .to = to, .kind = EDGE_CALL, .rule = rule});
}

static uint32_t add_rule(struct build *b, uint32_t entry, uint32_t final, const char *name)
{
    struct grammar *g = b->g;
    if (!grow(b, (void **)&g->rules, g->n_rules, &b->cap_rules, sizeof *g->rules, "rules", RULES_MAX)) return 0;
    g->rules[g->n_rules] = (struct rule){entry, final, name};
    return g->n_rules++;
}

uint32_t build_rule(struct build *b, struct str name)
{
    const char *copy = arena_dup(&b->g->arena, name.p, size_min(name.n, 100));
    if (!copy && b->rc == 0) b->rc = fail_nomem(b->e, "a grammar", name.n);
    const uint32_t entry = build_state(b), final = build_state(b);
    return add_rule(b, entry, final, copy);
}

/* ---- parts ------------------------------------------------------------------------------------------------------------- */

uint32_t build_text(struct build *b, uint32_t at, struct str s)
{
    for (size_t i = 0; i < s.n && b->rc == 0; i++) {
        const uint32_t to = build_state(b);
        build_bytes(b, at, to, (uint8_t)s.p[i], (uint8_t)s.p[i]);
        at = to;
    }
    return at;
}

uint32_t build_use(struct build *b, uint32_t at, uint32_t rule)
{
    const uint32_t to = build_state(b);
    build_call(b, at, to, rule);
    return to;
}

/* A part to be used several times: small ones are copied, others become a rule. */
struct unit {
    struct part part;
    uint32_t end; /* the first state behind the part's */
    uint32_t rule, n_used;
};
#define COPY_STATES 6

static uint32_t copy_part(struct build *b, uint32_t at, const struct unit *u)
{
    struct grammar *g = b->g;
    const uint32_t base = g->n_states, n = u->end - u->part.from;
    for (uint32_t i = 0; i < n && b->rc == 0; i++) build_state(b);
    for (uint32_t s = u->part.from; s < u->end; s++)
        for (uint32_t k = g->first[s]; k != NONE && b->rc == 0; k = g->edges[k].next) {
            struct edge edge = g->edges[k];
            if (edge.to < u->part.from || edge.to >= u->end) continue; /* what came behind the first use */
            edge.from += base - u->part.from;
            edge.to += base - u->part.from;
            add_edge(b, edge);
        }
    build_empty(b, at, base);
    return base + (u->part.to - u->part.from);
}

static uint32_t use_unit(struct build *b, uint32_t at, struct unit *u)
{
    if (b->rc < 0) return 0;
    if (u->rule != NONE) return build_use(b, at, u->rule);
    if (u->n_used++) return copy_part(b, at, u);
    build_empty(b, at, u->part.from);
    return u->part.to;
}

uint32_t build_repeat(struct build *b, uint32_t at, struct part p, uint32_t min, uint32_t max)
{
    if (b->rc < 0) return 0;
    struct unit u = {.part = p, .end = b->g->n_states, .rule = NONE};
    const bool once = max == 1 || (max == UNBOUNDED && min == 0);
    if (!once && !b->sets && u.end - p.from > COPY_STATES) {
        const uint32_t final = build_state(b); /* of a rule: without edges */
        build_empty(b, p.to, final);
        u.rule = add_rule(b, p.from, final, "a repeated part");
    }
    for (uint32_t i = 0; i < min && b->rc == 0; i++) at = use_unit(b, at, &u);
    const uint32_t end = build_state(b);
    if (max == UNBOUNDED) {
        build_empty(b, at, end);
        build_empty(b, use_unit(b, end, &u), end);
        return end;
    }
    for (uint32_t i = min; i < max && b->rc == 0; i++) {
        build_empty(b, at, end);
        at = use_unit(b, at, &u);
    }
    build_empty(b, at, end);
    return end;
}

/* ---- characters -------------------------------------------------------------------------------------------------------- */

void chars_add(struct chars *c, uint32_t lo, uint32_t hi)
{
    if (c->n == CHARS_MAX)
        c->full = true;
    else if (lo <= hi)
        c->r[c->n].lo = lo, c->r[c->n++].hi = hi;
}

static void put_sorted(struct chars *c, uint32_t lo, uint32_t hi)
{
    uint32_t i = c->n;
    chars_add(c, lo, hi);
    if (i == c->n) return;
    for (; i > 0 && c->r[i - 1].lo > lo; i--) c->r[i] = c->r[i - 1];
    c->r[i].lo = lo;
    c->r[i].hi = hi;
}

void chars_sort(struct chars *c)
{
    struct chars s = {.full = c->full}, out = {.full = c->full};
    for (uint32_t i = 0; i < c->n; i++) {
        const uint32_t lo = c->r[i].lo, hi = c->r[i].hi;
        if (lo < 0xD800) put_sorted(&s, lo, hi < 0xD800 ? hi : 0xD7FF);
        if (hi > 0xDFFF) put_sorted(&s, lo > 0xDFFF ? lo : 0xE000, hi);
    }
    for (uint32_t i = 0; i < s.n; i++)
        if (out.n && s.r[i].lo <= out.r[out.n - 1].hi + 1)
            out.r[out.n - 1].hi = (uint32_t)size_max(out.r[out.n - 1].hi, s.r[i].hi);
        else
            chars_add(&out, s.r[i].lo, s.r[i].hi);
    out.full = out.full || s.full;
    *c = out;
}

void chars_invert(struct chars *c)
{
    chars_sort(c);
    struct chars out = {.full = c->full};
    uint32_t next = 0;
    for (uint32_t i = 0; i < c->n; i++) {
        if (c->r[i].lo > next) chars_add(&out, next, c->r[i].lo - 1);
        next = c->r[i].hi + 1;
    }
    if (next <= CHAR_LAST) chars_add(&out, next, CHAR_LAST);
    *c = out;
    chars_sort(c);
}

/* Ends of UTF-8 sequences that all ranges of a set share: tail[k] takes k bytes of 80..BF; NONE: not made yet. */
struct tails {
    uint32_t state[4];
};

static uint32_t tail(struct build *b, struct tails *t, unsigned k)
{
    if (k == 0 || t->state[k] != NONE) return t->state[k];
    t->state[k] = build_state(b);
    build_bytes(b, t->state[k], tail(b, t, k - 1), 0x80, 0xBF);
    return t->state[k];
}

/* Characters whose encodings are of one length and, byte by byte, all that lie between those of lo and hi. */
static void add_sequence(struct build *b, uint32_t at, struct tails *t, uint32_t lo, uint32_t hi)
{
    char x[4], y[4];
    const unsigned n = (unsigned)utf8_encode(lo, x);
    (void)utf8_encode(hi, y);
    for (unsigned i = 0; i < n; i++) {
        bool rest = true; /* what follows is any byte of 80..BF */
        for (unsigned k = i + 1; k < n; k++) rest = rest && (uint8_t)x[k] == 0x80 && (uint8_t)y[k] == 0xBF;
        const uint32_t to = rest ? tail(b, t, n - 1 - i) : build_state(b);
        build_bytes(b, at, to, (uint8_t)x[i], (uint8_t)y[i]);
        if (rest) return;
        at = to;
    }
}

/* Cuts a range where the length of the encoding changes and where its last bytes do not run through. */
static void add_range(struct build *b, uint32_t at, struct tails *t, uint32_t lo, uint32_t hi)
{
    static const uint32_t last[] = {0x7F, 0x7FF, 0xFFFF};
    for (size_t i = 0; i < COUNT_OF(last); i++)
        if (lo <= last[i] && hi > last[i]) {
            add_range(b, at, t, lo, last[i]);
            add_range(b, at, t, last[i] + 1, hi);
            return;
        }
    for (unsigned i = 1; i < 4 && hi > 0x7F; i++) {
        const uint32_t m = (1u << (6 * i)) - 1;
        if ((lo & ~m) == (hi & ~m)) continue;
        const uint32_t cut = (lo & m) ? (lo | m) : (hi & m) != m ? (hi & ~m) - 1 : hi;
        if (cut == hi) continue;
        add_range(b, at, t, lo, cut);
        add_range(b, at, t, cut + 1, hi);
        return;
    }
    add_sequence(b, at, t, lo, hi);
}

/* Characters that a JSON string holds as an escape. */
static const struct {
    uint8_t cp;
    char letter;
} short_escapes[] = {{'"', '"'}, {'\\', '\\'}, {'\b', 'b'}, {'\f', 'f'}, {'\n', 'n'}, {'\r', 'r'}, {'\t', 't'}};

static void add_escape(struct build *b, uint32_t at, uint32_t end, uint32_t cp)
{
    static const char hex[] = "0123456789abcdef";
    char text[7] = {'\\', 'u', '0', '0', hex[cp >> 4 & 15], hex[cp & 15]};
    size_t n = 6;
    for (size_t i = 0; i < COUNT_OF(short_escapes); i++)
        if (short_escapes[i].cp == cp) text[1] = short_escapes[i].letter, n = 2;
    build_empty(b, build_text(b, at, (struct str){text, n}), end);
}

static bool needs_escape(uint32_t cp)
{
    return cp < 0x20 || cp == '"' || cp == '\\';
}

uint32_t build_chars(struct build *b, uint32_t at, struct chars *c, bool in_json)
{
    chars_sort(c);
    if (c->full && b->rc == 0) b->rc = fail(b->e, ERR_LIMIT, "a set of characters has more than %d parts", CHARS_MAX);
    const uint32_t end = build_state(b);
    if (b->sets) {
        if (c->n > 0) add_edge(b, (struct edge){.from = at, .to = end, .kind = EDGE_SET, .rule = charset_of(b, c)});
        return end;
    }
    struct tails t = {{end, NONE, NONE, NONE}};
    for (uint32_t i = 0; i < c->n && b->rc == 0; i++) {
        uint32_t lo = c->r[i].lo;
        const uint32_t hi = c->r[i].hi;
        for (uint32_t cp = lo; in_json && cp <= hi && cp <= '\\'; cp++) {
            if (!needs_escape(cp)) continue;
            if (cp > lo) add_range(b, at, &t, lo, cp - 1);
            add_escape(b, at, end, cp);
            lo = cp + 1;
        }
        if (lo <= hi) add_range(b, at, &t, lo, hi);
    }
    return end;
}

uint32_t build_char(struct build *b, uint32_t at, uint32_t cp, bool in_json)
{
    struct chars c = {0};
    chars_add(&c, cp, cp);
    return build_chars(b, at, &c, in_json);
}

/* ---- names ------------------------------------------------------------------------------------------------------------- */

static struct name_slot *find_slot(struct name_slot *slots, size_t cap, struct str key)
{
    size_t i = (size_t)str_hash(key) & (cap - 1);
    while (slots[i].key.p && !str_eq(slots[i].key, key)) i = (i + 1) & (cap - 1);
    return &slots[i];
}

static bool names_grow(struct names *t)
{
    const size_t cap = t->cap ? t->cap * 2 : 64;
    struct name_slot *slots = mem_array(cap, sizeof *slots);
    if (!slots) return false;
    for (size_t i = 0; i < t->cap; i++)
        if (t->slots[i].key.p) *find_slot(slots, cap, t->slots[i].key) = t->slots[i];
    mem_free(t->slots);
    t->slots = slots;
    t->cap = cap;
    return true;
}

uint32_t *names_at(struct names *t, struct str key)
{
    if (t->n * 2 >= t->cap && !names_grow(t)) return NULL;
    struct name_slot *s = find_slot(t->slots, t->cap, key);
    if (!s->key.p) {
        const char *copy = arena_dup(&t->arena, key.p, key.n);
        if (!copy) return NULL;
        *s = (struct name_slot){{copy, key.n}, NONE};
        t->n++;
    }
    return &s->value;
}

void names_fini(struct names *t)
{
    mem_free(t->slots);
    arena_fini(&t->arena);
    *t = (struct names){0};
}
