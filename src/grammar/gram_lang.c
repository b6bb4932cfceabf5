/* gram_lang: texts that several conditions describe together: patterns, lengths, what they must not be. Each condition is an
 * automaton over sets of characters. They run side by side as one deterministic automaton, whose states are sets of theirs;
 * UTF-8 and JSON's escapes come in when it is written into a grammar. For the strings and keys of schemas.
 *
 * Invariant: one that would take more than LANG_STATES states is ERR_LIMIT, and so is a grammar whose conditions take more than
 * LANG_WORK steps in all. */
#include <stdlib.h>

#include "grammar/grammar_int.h"

#define LANG_STATES 20000
#define LANG_WORK 10000000 /* states and edges looked at, about 0.1 s */

/* ---- conditions -------------------------------------------------------------------------------------------------------- */

void lang_init(struct lang *l, struct build *into, const char *where)
{
    *l = (struct lang){.into = into, .where = where, .b = {.rc = into->rc, .e = into->e}};
    l->b.g = &l->g;
    l->b.sets = &l->sets;
}

void lang_fini(struct lang *l)
{
    mem_free(l->g.first);
    mem_free(l->g.edges);
    mem_free(l->sets.v);
    names_fini(&l->sets.known);
    arena_fini(&l->sets.arena);
}

static void no_memory(struct build *b)
{
    if (b->rc == 0) b->rc = fail_nomem(b->e, "the conditions on a text", 0);
}

uint32_t charset_of(struct build *b, const struct chars *c)
{
    struct charsets *sets = b->sets;
    const size_t bytes = c->n * sizeof c->r[0];
    uint32_t *number = b->rc == 0 ? names_at(&sets->known, (struct str){(const char *)c->r, bytes}) : NULL;
    if (number && *number != NONE) return *number;
    const struct span *copy = number ? (const struct span *)arena_dup(&sets->arena, (const char *)c->r, bytes) : NULL;
    if (copy && sets->n == sets->cap) {
        const uint32_t cap = sets->cap ? sets->cap * 2 : 16;
        struct charset *v = mem_realloc(sets->v, cap * sizeof *v);
        if (v) sets->v = v, sets->cap = cap;
    }
    if (!copy || sets->n == sets->cap) {
        no_memory(b);
        return 0;
    }
    sets->v[sets->n] = (struct charset){copy, c->n};
    return *number = sets->n++;
}

uint32_t lang_begin(struct lang *l)
{
    if (l->n == LANG_PARTS && l->b.rc == 0)
        l->b.rc = fail(l->b.e, ERR_LIMIT, "schema, %.300s: more than %d patterns for one text", l->where, LANG_PARTS);
    return build_state(&l->b);
}

void lang_end(struct lang *l, uint32_t from, uint32_t to, enum lang_want want)
{
    const uint32_t final = build_state(&l->b);
    build_empty(&l->b, to, final);
    if (l->b.rc < 0)
        l->into->rc = l->b.rc;
    else
        l->v[l->n++] = (struct lang_part){from, final, want};
}

void lang_any(struct lang *l)
{
    const uint32_t from = lang_begin(l);
    struct chars all = {0};
    chars_add(&all, 0, CHAR_LAST);
    build_empty(&l->b, build_chars(&l->b, from, &all, false), from);
    lang_end(l, from, from, LANG_WITH);
}

void lang_texts(struct lang *l, const struct str *texts, size_t n, enum lang_want want)
{
    const uint32_t from = lang_begin(l), end = build_state(&l->b);
    for (size_t i = 0; i < n && l->b.rc == 0; i++) {
        uint32_t at = from, cp = 0;
        for (struct str left = texts[i]; left.n;) {
            const size_t size = size_max(utf8_decode(left, &cp), 1);
            at = build_char(&l->b, at, cp, false);
            left = (struct str){left.p + size, left.n - size};
        }
        build_empty(&l->b, at, end);
    }
    lang_end(l, from, end, want);
}

bool lang_satisfied(const struct lang *l, uint32_t ends)
{
    for (size_t i = 0; i < l->n; i++)
        if (l->v[i].want == ((ends >> i & 1) ? LANG_WITHOUT : LANG_WITH)) return false;
    return true;
}

/* ---- sets of states ---------------------------------------------------------------------------------------------------- */

struct states {
    const struct lang *l;
    uint32_t *mark, stamp; /* [n_states] the last set that a state was put into */
    uint32_t *v, n;        /* [n_states + 1] the current set: those that take characters, and ends */
    uint32_t *spare;       /* [n_states + 1] */
    uint32_t *work;        /* [n_states] */
    uint32_t alive, ends;  /* conditions of which the set has a state, and the end: 1 << number */
    size_t steps;
};

static void too_complex(const struct lang *l)
{
    if (l->into->rc == 0)
        l->into->rc = fail(l->into->e, ERR_LIMIT,
                           "schema, %.300s: the patterns and lengths of its texts are too complex together", l->where);
}

/* Counts what was done since the last time. */
static void spend(struct states *s)
{
    s->l->into->work += s->steps;
    s->steps = 0;
    if (s->l->into->work > LANG_WORK) too_complex(s->l);
}

static bool states_init(struct states *s, const struct lang *l)
{
    const size_t n = l->g.n_states + (size_t)1;
    l->into->work += n;
    *s = (struct states){
        .l = l, .mark = mem_array(n, 4), .v = mem_array(n, 4), .spare = mem_array(n, 4), .work = mem_array(n, 4)};
    return s->mark && s->v && s->spare && s->work;
}

static void states_fini(struct states *s)
{
    mem_free(s->mark);
    mem_free(s->v);
    mem_free(s->spare);
    mem_free(s->work);
}

static void states_clear(struct states *s)
{
    s->stamp++;
    s->n = s->alive = s->ends = 0;
}

static void keep(struct states *s, uint32_t state)
{
    size_t i = 0;
    while (state > s->l->v[i].final) i++;
    s->alive |= 1u << i;
    if (state == s->l->v[i].final) s->ends |= 1u << i;
    s->v[s->n++] = state;
}

/* Puts a state and those that it reaches without a character into the set. */
static void states_add(struct states *s, uint32_t state)
{
    const struct grammar *g = &s->l->g;
    uint32_t n = 0;
    if (s->mark[state] == s->stamp) return;
    s->mark[state] = s->stamp;
    s->work[n++] = state;
    while (n > 0) {
        const uint32_t at = s->work[--n];
        bool takes = g->first[at] == NONE;
        for (uint32_t k = g->first[at]; k != NONE; k = g->edges[k].next, s->steps++) {
            const struct edge *edge = &g->edges[k];
            if (edge->kind == EDGE_SET) {
                takes = true;
            } else if (s->mark[edge->to] != s->stamp) {
                s->mark[edge->to] = s->stamp;
                s->work[n++] = edge->to;
            }
        }
        if (takes) keep(s, at);
    }
}

static void states_start(struct states *s)
{
    states_clear(s);
    for (size_t i = 0; i < s->l->n; i++) states_add(s, s->l->v[i].entry);
}

static bool has_char(const struct charset *set, uint32_t cp)
{
    size_t lo = 0, hi = set->n;
    while (lo < hi) {
        const size_t mid = (lo + hi) / 2;
        if (set->r[mid].hi < cp)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < set->n && set->r[lo].lo <= cp;
}

#define ANY_CHAR NONE

/* The set behind one more character. */
static void states_step(struct states *s, uint32_t cp)
{
    const struct grammar *g = &s->l->g;
    uint32_t *from = s->v;
    const uint32_t n = s->n;
    s->v = s->spare;
    s->spare = from;
    states_clear(s);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = g->first[from[i]]; k != NONE; k = g->edges[k].next, s->steps++)
            if (g->edges[k].kind == EDGE_SET && (cp == ANY_CHAR || has_char(&s->l->sets.v[g->edges[k].rule], cp)))
                states_add(s, g->edges[k].to);
}

uint32_t lang_takes(struct lang *l, struct str text)
{
    struct states s = {0};
    uint32_t ends = 0;
    if (l->into->rc < 0) return 0;
    if (states_init(&s, l)) {
        states_start(&s);
        for (size_t i = 0; i < text.n && s.steps <= LANG_WORK;) {
            uint32_t cp = 0;
            i += size_max(utf8_decode((struct str){text.p + i, text.n - i}, &cp), 1);
            states_step(&s, cp);
        }
        ends = s.ends;
        spend(&s);
    } else {
        no_memory(l->into);
    }
    states_fini(&s);
    return ends;
}

/* The conditions that must hold, 1 << number. */
static uint32_t wanted_of(const struct lang *l)
{
    uint32_t wanted = 0;
    for (size_t i = 0; i < l->n; i++) wanted |= l->v[i].want == LANG_WITH ? 1u << i : 0;
    return wanted;
}

#define LENGTH_LOOKED_AT 2000

void lang_lengths(struct lang *l, uint32_t *min, uint32_t *max)
{
    struct states s = {0};
    const uint32_t last = (uint32_t)size_min(*max == UNBOUNDED ? *min : *max, LENGTH_LOOKED_AT), wanted = wanted_of(l);
    if (l->into->rc == 0 && states_init(&s, l)) {
        uint32_t shorter = 0;
        states_start(&s);
        for (uint32_t i = 0; i <= last && s.n > 0 && s.steps <= LANG_WORK; i++) {
            if (i < *min) shorter |= s.ends;
            states_step(&s, ANY_CHAR);
        }
        spend(&s);
        if (wanted & ~shorter) *min = 0;
        if (wanted & ~s.alive) *max = UNBOUNDED;
    } else {
        no_memory(l->into);
    }
    states_fini(&s);
}

/* ---- classes of characters --------------------------------------------------------------------------------------------- */

/* Characters that no set tells apart are one class. */
struct classes {
    uint32_t n, n_words;
    uint64_t *has;  /* [n_sets][n_words] bit c: the set has class c */
    uint32_t *of;   /* [n_cuts] the class of the characters from each cut to the next */
    uint32_t *cuts; /* [n_cuts] */
    size_t n_cuts;
};

static int by_number(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* Where sets begin and end. */
static bool find_cuts(struct classes *c, const struct charsets *sets)
{
    size_t n = 1, kept = 0;
    for (uint32_t i = 0; i < sets->n; i++) n += 2 * (size_t)sets->v[i].n;
    c->cuts = mem_array(n, sizeof *c->cuts);
    c->of = mem_array(n, sizeof *c->of);
    if (!c->cuts || !c->of) return false;
    n = 1;
    for (uint32_t i = 0; i < sets->n; i++)
        for (uint32_t k = 0; k < sets->v[i].n; k++) {
            c->cuts[n++] = sets->v[i].r[k].lo;
            c->cuts[n++] = sets->v[i].r[k].hi + 1;
        }
    qsort(c->cuts, n, sizeof *c->cuts, by_number);
    for (size_t i = 0; i < n; i++)
        if (c->cuts[i] <= CHAR_LAST && (kept == 0 || c->cuts[i] != c->cuts[kept - 1])) c->cuts[kept++] = c->cuts[i];
    c->n_cuts = kept;
    return true;
}

/* The sets that have the characters from a cut on, as bits; one word more than needed, so that there is one. */
static void sign(uint64_t *signature, const struct charsets *sets, uint32_t cut)
{
    memset(signature, 0, (sets->n / 64 + 1) * sizeof *signature);
    for (uint32_t k = 0; k < sets->n; k++)
        if (has_char(&sets->v[k], cut)) signature[k / 64] |= (uint64_t)1 << (k % 64);
}

static bool find_classes(struct classes *c, const struct charsets *sets, struct names *known)
{
    const size_t bytes = (sets->n / 64 + 1) * sizeof(uint64_t);
    uint64_t *signature = mem_alloc(bytes);
    bool ok = signature != NULL;
    for (size_t i = 0; i < c->n_cuts && ok; i++) {
        sign(signature, sets, c->cuts[i]);
        uint32_t *number = names_at(known, (struct str){(const char *)signature, bytes});
        ok = number != NULL;
        if (ok && *number == NONE) *number = c->n++;
        if (ok) c->of[i] = *number;
    }
    mem_free(signature);
    return ok;
}

static void classes_fini(struct classes *c)
{
    mem_free(c->has);
    mem_free(c->of);
    mem_free(c->cuts);
}

static bool classes_init(struct classes *c, const struct charsets *sets)
{
    struct names known = {0};
    const bool ok = find_cuts(c, sets) && find_classes(c, sets, &known);
    names_fini(&known);
    if (!ok) return false;
    c->n_words = c->n / 64 + 1;
    c->has = mem_array((size_t)c->n_words * (sets->n + 1), sizeof *c->has);
    if (!c->has) return false;
    for (uint32_t k = 0; k < sets->n; k++)
        for (size_t i = 0; i < c->n_cuts; i++)
            if (has_char(&sets->v[k], c->cuts[i]))
                c->has[k * (size_t)c->n_words + c->of[i] / 64] |= (uint64_t)1 << (c->of[i] % 64);
    return true;
}

static bool has_class(const struct classes *c, uint32_t set, uint32_t class)
{
    return c->has[set * (size_t)c->n_words + class / 64] >> (class % 64) & 1;
}

/* ---- the deterministic automaton --------------------------------------------------------------------------------------- */

/* A set of states, and its state in the grammar. */
struct node {
    const uint32_t *set;
    uint32_t n, state;
};
/* What the characters of a class lead to. */
struct step {
    uint32_t class, to;
};
struct machine {
    const struct lang *l;
    struct json_parts *p;
    struct states s;
    struct classes classes;
    struct names known;   /* numbers of sets; a key has one word more than its set, which may be empty */
    struct names written; /* by sets of classes: rules of their characters; PLAIN */
    struct node *v;
    uint32_t n, cap, wanted; /* wanted: conditions that must hold, 1 << number */
    lang_end_fn *end_of;
    void *ctx;
    const struct edge **edges; /* [n_edges] those of one node */
    struct step *steps;        /* [n_classes] */
    uint64_t *mask;            /* [n_words] */
    struct arena arena;
};
#define PLAIN (NONE - 1)

static void add_node(struct machine *m)
{
    const struct states *s = &m->s;
    struct build *b = m->p->b;
    const uint32_t *set = (const uint32_t *)arena_dup(&m->arena, (const char *)s->v, s->n * sizeof *s->v);
    if (set && m->n == m->cap) {
        const uint32_t cap = m->cap ? m->cap * 2 : 64;
        struct node *v = mem_realloc(m->v, cap * sizeof *v);
        if (v) m->v = v, m->cap = cap;
    }
    if (!set || m->n == m->cap) no_memory(b);
    if (m->n == LANG_STATES) too_complex(m->l);
    if (b->rc < 0) return;
    const uint32_t state = build_state(b), end = m->end_of(m->ctx, s->ends);
    m->v[m->n++] = (struct node){set, s->n, state};
    if (end != NONE) build_empty(b, state, end);
}

/* The number of the current set; NONE: nothing that is wanted goes on from there. */
static uint32_t number_of(struct machine *m)
{
    struct states *s = &m->s;
    if ((s->alive & m->wanted) != m->wanted || m->p->b->rc < 0) return NONE;
    qsort(s->v, s->n, sizeof *s->v, by_number);
    s->v[s->n] = NONE;
    uint32_t *at = names_at(&m->known, (struct str){(const char *)s->v, (s->n + (size_t)1) * sizeof *s->v});
    if (!at) {
        no_memory(m->p->b);
        return NONE;
    }
    if (*at == NONE) {
        *at = m->n;
        add_node(m);
    }
    return m->p->b->rc < 0 ? NONE : *at;
}

static void chars_of(const struct classes *classes, const uint64_t *mask, struct chars *c)
{
    for (size_t i = 0; i < classes->n_cuts; i++) {
        const uint32_t class = classes->of[i], lo = classes->cuts[i];
        const uint32_t hi = i + 1 < classes->n_cuts ? classes->cuts[i + 1] - 1 : CHAR_LAST;
        if (!(mask[class / 64] >> (class % 64) & 1)) continue;
        if (c->n > 0 && c->r[c->n - 1].hi + 1 == lo)
            c->r[c->n - 1].hi = hi;
        else
            chars_add(c, lo, hi);
    }
}

static bool is_plain(const struct chars *c)
{
    for (uint32_t i = 0; i < c->n; i++)
        if (c->r[i].hi > 0x7E || c->r[i].lo < ' ' || (c->r[i].lo <= '\\' && c->r[i].hi >= '\\') ||
            (c->r[i].lo <= '"' && c->r[i].hi >= '"'))
            return false;
    return true;
}

/* The characters of m->mask lead from one state of the grammar to the other. */
static void write_chars(struct machine *m, uint32_t from, uint32_t to)
{
    struct build *b = m->p->b;
    struct chars c = {0};
    uint32_t *rule = names_at(&m->written, (struct str){(const char *)m->mask, m->classes.n_words * sizeof *m->mask});
    if (!rule) no_memory(b);
    if (b->rc < 0) return;
    if (*rule == NONE || *rule == PLAIN) chars_of(&m->classes, m->mask, &c);
    if (*rule == NONE) *rule = is_plain(&c) ? PLAIN : json_chars(m->p, &c);
    if (*rule != PLAIN) build_call(b, from, to, *rule);
    for (uint32_t i = 0; i < c.n && *rule == PLAIN; i++) build_bytes(b, from, to, (uint8_t)c.r[i].lo, (uint8_t)c.r[i].hi);
}

static int by_target(const void *a, const void *b)
{
    const struct step *x = a, *y = b;
    return x->to < y->to ? -1 : x->to > y->to;
}

/* Edges of the grammar for m->steps [n], those to one node together. */
static void write_steps(struct machine *m, uint32_t from, size_t n)
{
    qsort(m->steps, n, sizeof *m->steps, by_target);
    for (size_t i = 0; i < n && m->p->b->rc == 0;) {
        const uint32_t to = m->steps[i].to;
        memset(m->mask, 0, m->classes.n_words * sizeof *m->mask);
        for (; i < n && m->steps[i].to == to; i++) m->mask[m->steps[i].class / 64] |= (uint64_t)1 << (m->steps[i].class % 64);
        write_chars(m, from, m->v[to].state);
    }
}

static void expand(struct machine *m, struct node node)
{
    const struct grammar *g = &m->l->g;
    size_t n_edges = 0, n_steps = 0;
    for (uint32_t i = 0; i < node.n; i++)
        for (uint32_t k = g->first[node.set[i]]; k != NONE; k = g->edges[k].next)
            if (g->edges[k].kind == EDGE_SET) m->edges[n_edges++] = &g->edges[k];
    for (uint32_t class = 0; class < m->classes.n && m->p->b->rc == 0; class ++) {
        states_clear(&m->s);
        for (size_t i = 0; i < n_edges; i++)
            if (has_class(&m->classes, m->edges[i]->rule, class)) states_add(&m->s, m->edges[i]->to);
        m->s.steps += n_edges + 1;
        const uint32_t to = number_of(m);
        if (to != NONE) m->steps[n_steps++] = (struct step){class, to};
    }
    spend(&m->s);
    write_steps(m, node.state, n_steps);
}

static bool machine_init(struct machine *m)
{
    if (!states_init(&m->s, m->l) || !classes_init(&m->classes, &m->l->sets)) return false;
    m->edges = mem_array(m->l->g.n_edges + (size_t)1, sizeof *m->edges);
    m->steps = mem_array(m->classes.n, sizeof *m->steps);
    m->mask = mem_array(m->classes.n_words, sizeof *m->mask);
    m->wanted = wanted_of(m->l);
    return m->edges && m->steps && m->mask;
}

static void machine_fini(struct machine *m)
{
    states_fini(&m->s);
    classes_fini(&m->classes);
    names_fini(&m->known);
    names_fini(&m->written);
    mem_free(m->v);
    mem_free(m->edges);
    mem_free(m->steps);
    mem_free(m->mask);
    arena_fini(&m->arena);
}

void lang_append_ends(struct lang *l, struct json_parts *p, uint32_t at, lang_end_fn *end_of, void *ctx)
{
    struct machine m = {.l = l, .p = p, .end_of = end_of, .ctx = ctx};
    if (p->b->rc < 0) return;
    if (machine_init(&m)) {
        states_start(&m.s);
        if (number_of(&m) != NONE) build_empty(p->b, at, m.v[0].state);
        for (uint32_t i = 0; i < m.n && p->b->rc == 0; i++) expand(&m, m.v[i]);
    } else {
        no_memory(p->b);
    }
    machine_fini(&m);
}

struct one_end {
    const struct lang *l;
    uint32_t end;
};

static uint32_t one_end(void *ctx, uint32_t ends)
{
    const struct one_end *o = ctx;
    return lang_satisfied(o->l, ends) ? o->end : NONE;
}

uint32_t lang_append(struct lang *l, struct json_parts *p, uint32_t at)
{
    struct one_end o = {l, build_state(p->b)};
    lang_append_ends(l, p, at, one_end, &o);
    return o.end;
}
