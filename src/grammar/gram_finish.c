/* gram_finish: what must hold before a grammar is used. An end can be reached from everywhere: edges that lead nowhere are
 * taken out, and a grammar of which nothing is left is refused. No rule begins with itself: the stack would grow without a byte
 * being taken. All of it takes time linear in the number of edges. */
#include "grammar/grammar_int.h"

/* ---- what can reach the end of its rule ------------------------------------------------------------------------------------
 */

/* Edges by what they wait for: into a state, and calls of a rule. */
struct waiting {
    uint32_t *into, *calls;          /* [n_states], [n_rules] the first edge; NONE */
    uint32_t *into_next, *call_next; /* [n_edges] */
    uint32_t *work;                  /* [n_states] */
    uint8_t *mark;                   /* [n_states] */
    uint32_t *rule_of;               /* [n_states] whose entry the state is; NONE */
};

static int waiting_init(struct waiting *w, const struct grammar *g, struct err *e)
{
    *w = (struct waiting){mem_array(g->n_states, 4),    mem_array(g->n_rules, 4),  mem_array(g->n_edges + 1, 4),
                          mem_array(g->n_edges + 1, 4), mem_array(g->n_states, 4), mem_array(g->n_states, 1),
                          mem_array(g->n_states, 4)};
    if (!w->into || !w->calls || !w->into_next || !w->call_next || !w->work || !w->mark || !w->rule_of)
        return fail_nomem(e, "a grammar", g->n_states * (size_t)16);
    for (uint32_t i = 0; i < g->n_states; i++) w->into[i] = w->rule_of[i] = NONE;
    for (uint32_t i = 0; i < g->n_rules; i++) {
        w->calls[i] = NONE;
        w->rule_of[g->rules[i].entry] = i;
    }
    for (uint32_t k = 0; k < g->n_edges; k++) {
        const struct edge *edge = &g->edges[k];
        w->into_next[k] = w->into[edge->to];
        w->into[edge->to] = k;
        if (edge->kind != EDGE_CALL) continue;
        w->call_next[k] = w->calls[edge->rule];
        w->calls[edge->rule] = k;
    }
    return 0;
}

static void waiting_fini(struct waiting *w)
{
    void *const all[] = {w->into, w->calls, w->into_next, w->call_next, w->work, w->mark, w->rule_of};
    for (size_t i = 0; i < COUNT_OF(all); i++) mem_free(all[i]);
}

/* Marks the states from which the end of their rule can be reached; without_bytes: with nothing taken. */
static void mark_ending(struct waiting *w, const struct grammar *g, bool without_bytes)
{
    uint32_t n = 0;
    memset(w->mark, 0, g->n_states);
    for (uint32_t i = 0; i < g->n_rules; i++) {
        w->mark[g->rules[i].final] = 1;
        w->work[n++] = g->rules[i].final;
    }
    while (n > 0) {
        const uint32_t s = w->work[--n];
        for (uint32_t k = w->into[s]; k != NONE; k = w->into_next[k]) {
            const struct edge *edge = &g->edges[k];
            const bool open =
                edge->kind == EDGE_CALL ? w->mark[g->rules[edge->rule].entry] != 0 : edge->kind == EDGE_EMPTY || !without_bytes;
            if (!open || w->mark[edge->from]) continue;
            w->mark[edge->from] = 1;
            w->work[n++] = edge->from;
        }
        if (w->rule_of[s] == NONE) continue;
        for (uint32_t k = w->calls[w->rule_of[s]]; k != NONE; k = w->call_next[k]) {
            const struct edge *edge = &g->edges[k];
            if (!w->mark[edge->to] || w->mark[edge->from]) continue;
            w->mark[edge->from] = 1;
            w->work[n++] = edge->from;
        }
    }
}

static void prune(struct grammar *g, const uint8_t *ends)
{
    for (uint32_t s = 0; s < g->n_states; s++)
        for (uint32_t *link = &g->first[s]; *link != NONE;) {
            struct edge *edge = &g->edges[*link];
            if (ends[edge->to] && (edge->kind != EDGE_CALL || ends[g->rules[edge->rule].entry]))
                link = &edge->next;
            else
                *link = edge->next;
        }
}

/* ---- rules that begin with themselves ---------------------------------------------------------------------------------- */

/* Calls fn for each rule that r may call before it takes a byte. seen: [n_states], zero for r's states. */
static void each_first_call(const struct grammar *g, const uint8_t *empty, uint8_t *seen, uint32_t *work, uint32_t r,
                            void (*fn)(void *ctx, uint32_t r, uint32_t called), void *ctx)
{
    uint32_t n = 0;
    work[n++] = g->rules[r].entry;
    seen[g->rules[r].entry] = 1;
    while (n > 0) {
        const uint32_t s = work[--n];
        for (uint32_t k = g->first[s]; k != NONE; k = g->edges[k].next) {
            const struct edge *edge = &g->edges[k];
            if (edge->kind == EDGE_CALL) fn(ctx, r, edge->rule);
            const bool pass = edge->kind == EDGE_EMPTY || (edge->kind == EDGE_CALL && empty[g->rules[edge->rule].entry]);
            if (!pass || seen[edge->to]) continue;
            seen[edge->to] = 1;
            work[n++] = edge->to;
        }
    }
}

/* The calls as lists by the rule that is called. */
struct first_calls {
    uint32_t *by, *next, *caller; /* [n_rules] first of each; [n_edges] */
    uint32_t *left;               /* [n_rules] calls of it that are not known to be harmless */
    uint32_t *some;               /* [n_rules] a rule that it calls first */
    uint32_t n;
};

static void note_call(void *ctx, uint32_t r, uint32_t called)
{
    struct first_calls *c = ctx;
    c->caller[c->n] = r;
    c->next[c->n] = c->by[called];
    c->by[called] = c->n++;
    c->left[r]++;
}

/* Rules without first calls are harmless, and so are those that call only harmless ones; *bad gets one that is not, NONE. */
static void settle(const struct grammar *g, struct first_calls *c, uint32_t *work, uint32_t *bad)
{
    uint32_t n = 0, settled = 0;
    for (uint32_t r = 0; r < g->n_rules; r++)
        if (c->left[r] == 0) work[n++] = r;
    while (n > 0) {
        const uint32_t r = work[--n];
        settled++;
        for (uint32_t k = c->by[r]; k != NONE; k = c->next[k])
            if (--c->left[c->caller[k]] == 0) work[n++] = c->caller[k];
    }
    *bad = NONE;
    if (settled == g->n_rules) return;
    for (uint32_t r = 0; r < g->n_rules; r++)
        for (uint32_t k = c->by[r]; c->left[r] && k != NONE; k = c->next[k]) c->some[c->caller[k]] = r;
    for (uint32_t r = 0; r < g->n_rules && *bad == NONE; r++)
        if (c->left[r]) *bad = r;
    for (uint32_t i = 0; i < g->n_rules; i++) *bad = c->some[*bad]; /* into the circle */
}

static int check_beginnings(const struct grammar *g, struct waiting *w, struct err *e)
{
    struct first_calls c = {mem_array(g->n_rules, 4), mem_array(g->n_edges + 1, 4), mem_array(g->n_edges + 1, 4),
                            mem_array(g->n_rules, 4), mem_array(g->n_rules, 4),     0};
    uint8_t *seen = mem_array(g->n_states, 1);
    int rc = 0;
    uint32_t bad = NONE;
    if (!c.by || !c.next || !c.caller || !c.left || !c.some || !seen) {
        rc = fail_nomem(e, "a grammar", g->n_edges * (size_t)8);
    } else {
        for (uint32_t r = 0; r < g->n_rules; r++) c.by[r] = NONE;
        mark_ending(w, g, true);
        for (uint32_t r = 0; r < g->n_rules; r++) each_first_call(g, w->mark, seen, w->work, r, note_call, &c);
        settle(g, &c, w->work, &bad);
    }
    if (bad != NONE)
        rc = fail(e, ERR_ARG, "%s begins with itself, directly or through others; put something in front of the recursion",
                  g->rules[bad].name);
    void *const all[] = {c.by, c.next, c.caller, c.left, c.some, seen};
    for (size_t i = 0; i < COUNT_OF(all); i++) mem_free(all[i]);
    return rc;
}

/* ---- what a matcher wants to know of states ------------------------------------------------------------------------------ */

#define WIDE_BYTES 65

static void note_bytes(struct grammar *g, uint32_t s)
{
    unsigned n = 0;
    for (uint32_t k = g->first[s]; k != NONE; k = g->edges[k].next)
        if (g->edges[k].kind == EDGE_BYTES) n += g->edges[k].hi - g->edges[k].lo + 1u;
    g->flags[s] = (uint8_t)((n ? STATE_TAKES : 0) | (n >= WIDE_BYTES ? STATE_WIDE : 0));
}

static int make_flags(struct grammar *g, struct waiting *w, struct err *e)
{
    uint32_t n = 0;
    g->flags = mem_array(g->n_states, 1);
    if (!g->flags) return fail_nomem(e, "a grammar", g->n_states);
    for (uint32_t s = 0; s < g->n_states; s++) note_bytes(g, s);
    for (uint32_t r = 0; r < g->n_rules; r++) {
        const uint32_t s = g->rules[r].final;
        g->flags[s] |= STATE_FINAL | STATE_TAIL;
        w->work[n++] = s;
    }
    while (n > 0) {
        const uint32_t to = w->work[--n];
        for (uint32_t k = w->into[to]; k != NONE; k = w->into_next[k]) {
            const struct edge *edge = &g->edges[k];
            const uint32_t only = g->first[edge->from]; /* k itself may have been taken out */
            if (edge->kind != EDGE_EMPTY || only != k || edge->next != NONE || (g->flags[edge->from] & STATE_TAIL)) continue;
            g->flags[edge->from] |= STATE_TAIL;
            w->work[n++] = edge->from;
        }
    }
    return 0;
}

/* ---- classes of bytes -------------------------------------------------------------------------------------------------- */

static void make_classes(struct grammar *g)
{
    bool cut[257] = {true};
    for (uint32_t s = 0; s < g->n_states; s++)
        for (uint32_t k = g->first[s]; k != NONE; k = g->edges[k].next)
            if (g->edges[k].kind == EDGE_BYTES) cut[g->edges[k].lo] = cut[g->edges[k].hi + 1] = true;
    for (unsigned i = 0; i < 256; i++) {
        if (cut[i]) g->class_byte[g->n_classes++] = (uint8_t)i;
        g->class_of[i] = (uint8_t)(g->n_classes - 1);
    }
}

static int finish(struct grammar *g, struct waiting *w, struct err *e)
{
    TRY(waiting_init(w, g, e));
    mark_ending(w, g, false);
    if (!w->mark[g->rules[0].entry]) return fail(e, ERR_ARG, "no finite text satisfies %s", g->rules[0].name);
    prune(g, w->mark);
    TRY(check_beginnings(g, w, e));
    make_classes(g);
    return make_flags(g, w, e);
}

int build_finish(struct build *b)
{
    struct waiting w = {0};
    if (b->rc == 0) b->rc = finish(b->g, &w, b->e);
    waiting_fini(&w);
    return b->rc;
}

/* ---- compiling --------------------------------------------------------------------------------------------------------- */

static void build_regex(struct build *b, struct str text)
{
    const struct regex_options o = {.where = "regex"};
    const uint32_t end = regex_append(b, b->g->rules[0].entry, text, &o);
    if (b->rc == 0) build_empty(b, end, b->g->rules[0].final);
}

static void build_object(struct build *b, struct str text)
{
    (void)text;
    struct json_parts p;
    json_parts_init(&p, b);
    const uint32_t end = json_use(&p, b->g->rules[0].entry, JSON_RULE_OBJECT);
    if (b->rc == 0) build_empty(b, end, b->g->rules[0].final);
    json_parts_fini(&p);
}

int grammar_compile(enum grammar_kind kind, struct str text, struct grammar **out, struct err *e)
{
    static const struct {
        const char *name;
        void (*build)(struct build *b, struct str text);
    } kinds[] = {[GRAMMAR_GBNF] = {"the grammar", gbnf_build},
                 [GRAMMAR_REGEX] = {"the expression", build_regex},
                 [GRAMMAR_SCHEMA] = {"the schema", schema_build},
                 [GRAMMAR_JSON] = {"JSON", build_object},
                 [GRAMMAR_PARTS] = {"the parts", parts_build}};
    if (text.n > TEXT_MAX) return fail(e, ERR_LIMIT, "%s has %zu bytes; at most %zu", kinds[kind].name, text.n, TEXT_MAX);
    struct grammar *g = mem_zalloc(sizeof *g);
    if (!g) return fail_nomem(e, "a grammar", sizeof *g);
    struct build b = {.g = g, .e = e};
    (void)build_rule(&b, str_of(kinds[kind].name));
    if (b.rc == 0) kinds[kind].build(&b, text);
    const int rc = build_finish(&b);
    if (rc < 0)
        grammar_free(&g);
    else
        *out = g;
    return rc;
}

void grammar_free(struct grammar **gp)
{
    struct grammar *g = *gp;
    if (!g) return;
    mem_free(g->first);
    mem_free(g->flags);
    mem_free(g->edges);
    mem_free(g->rules);
    arena_fini(&g->arena);
    mem_free(g);
    *gp = NULL;
}
