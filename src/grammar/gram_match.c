/* gram_match: an answer beside its grammar. Where an answer stands is a set of stacks, since a text may be read in several
 * ways; such a set is a `config`. Stacks and configs are interned, so that one number stands for each, and the config that a
 * class of bytes leads to is computed once and then looked up: what was met before is walked as fast as a table.
 *
 * The tokens that may come next are found by walking the vocabulary's tree with configs. Where many bytes are possible (inside
 * of a string) this takes in most of the tree, so it is done once for the state on top of a stack with nothing known of
 * what lies below: this gives the tokens that stay in the rule, and the nodes of the tree where the rule may end, from
 * which the walk goes on with what the stack in question has below. Where all letters, for one, lead to the same config, parts
 * of the tree that hold nothing else are taken in as a whole. A mask is kept for the last few configs.
 *
 * All memory is reserved by matcher_new. Where stacks or configs run out, those that nothing needs any more are dropped; what
 * was computed with them will be computed again, with the same result. */
#include "grammar/grammar_int.h"

#define STACKS_MAX 32768
#define CONFIGS_MAX 4096
#define MEMBERS_MAX 65536
#define LOCALS_MAX 8    /* states whose tokens are kept */
#define EXITS_MAX 16384 /* of such a state: nodes of the tree where its rule may end */
#define KEPT_MAX 8      /* configs whose masks are kept */

/* A stack: where it is, and to which stack the rule returns. A parent has a smaller number than its children. */
struct stack {
    uint32_t state, parent;
};
enum {
    STACK_END,     /* the empty one: the answer may end */
    STACK_UNKNOWN, /* what lies below is not known, and the rule above has ended */
    STACKS_FIRST,
};

/* A set of stacks: members[at .. at + n), ascending. */
struct config {
    uint32_t at, n;
};
enum {
    CONFIG_FULL, /* not computed yet; as a result: out of memory */
    CONFIG_DEAD, /* the empty one */
    CONFIGS_FIRST,
};

/* Each character of these groups leads to the same config. */
struct stride {
    uint32_t to, groups; /* to: CONFIG_FULL: not computed yet; CONFIG_DEAD: groups is 0 */
};

/* What the state on top of a stack allows whatever lies below. */
struct local {
    uint32_t state, n_exits;
    bool useless; /* too many exits */
    uint64_t *mask;
    uint32_t *exits; /* [EXITS_MAX] */
};

struct kept {
    uint32_t config; /* CONFIG_FULL: none */
    uint64_t *mask;
};

struct matcher {
    const struct grammar *g;
    const struct vocab *v;
    struct arena arena;
    struct stack *stacks;  /* [STACKS_MAX] */
    uint32_t *stack_slots; /* [2 * STACKS_MAX] number; 0: empty */
    uint32_t *marks;       /* [STACKS_MAX] the last set that took the stack in */
    uint32_t *work, *set;  /* [STACKS_MAX] to be followed; the set that grows */
    struct config *configs;
    uint32_t *config_slots;   /* [2 * CONFIGS_MAX] */
    uint32_t *members, *next; /* next: [CONFIGS_MAX][n_classes] */
    struct stride *strides;   /* [CONFIGS_MAX] */
    uint8_t group_of[0x80];   /* enum char_group */
    uint32_t n_stacks, n_configs, n_members, n_set, mark;
    bool full;
    struct local locals[LOCALS_MAX];
    struct kept kept[KEPT_MAX];
    uint32_t n_locals, next_kept;
    uint32_t history[MATCHER_BACK + 1]; /* configs, the last one is the present */
    uint32_t n_history;
    uint64_t n_accepted;
};

/* ---- stacks ------------------------------------------------------------------------------------------------------------ */

static uint32_t mix(uint32_t h, uint32_t v)
{
    h = (h ^ v) * 0x9E3779B1u;
    return h ^ h >> 15;
}

static uint32_t *stack_slot(struct matcher *m, uint32_t state, uint32_t parent)
{
    uint32_t i = mix(mix(0, state), parent) & (2 * STACKS_MAX - 1);
    for (uint32_t k; (k = m->stack_slots[i]) != 0; i = (i + 1) & (2 * STACKS_MAX - 1))
        if (m->stacks[k].state == state && m->stacks[k].parent == parent) break;
    return &m->stack_slots[i];
}

static uint32_t stack_of(struct matcher *m, uint32_t state, uint32_t parent)
{
    uint32_t *slot = stack_slot(m, state, parent);
    if (*slot) return *slot;
    if (m->n_stacks == STACKS_MAX) {
        m->full = true;
        return STACK_END;
    }
    m->stacks[m->n_stacks] = (struct stack){state, parent};
    return *slot = m->n_stacks++;
}

/* ---- sets -------------------------------------------------------------------------------------------------------------- */

static void begin_set(struct matcher *m)
{
    m->n_set = 0;
    if (++m->mark == 0) {
        memset(m->marks, 0, STACKS_MAX * sizeof *m->marks);
        m->mark = 1;
    }
}

static bool mark(struct matcher *m, uint32_t stack)
{
    if (m->marks[stack] == m->mark) return false;
    m->marks[stack] = m->mark;
    return true;
}

static void push(struct matcher *m, uint32_t stack, uint32_t *n)
{
    if (!m->full && mark(m, stack)) m->work[(*n)++] = stack;
}

/* Follows what takes no byte; stacks that wait for one become members of the set. */
static void follow(struct matcher *m, uint32_t stack)
{
    const struct grammar *g = m->g;
    uint32_t n = 0;
    push(m, stack, &n);
    while (n > 0 && !m->full) {
        const uint32_t at = m->work[--n];
        if (at < STACKS_FIRST) {
            m->set[m->n_set++] = at;
            continue;
        }
        const struct stack s = m->stacks[at];
        if (g->flags[s.state] & STATE_FINAL) push(m, s.parent, &n);
        if (g->flags[s.state] & STATE_TAKES) m->set[m->n_set++] = at;
        for (uint32_t k = g->first[s.state]; k != NONE; k = g->edges[k].next) {
            const struct edge *edge = &g->edges[k];
            if (edge->kind == EDGE_EMPTY) push(m, stack_of(m, edge->to, s.parent), &n);
            if (edge->kind != EDGE_CALL) continue;
            const uint32_t back = g->flags[edge->to] & STATE_TAIL ? s.parent : stack_of(m, edge->to, s.parent);
            if (!m->full) push(m, stack_of(m, g->rules[edge->rule].entry, back), &n);
        }
    }
}

static uint32_t config_hash(const uint32_t *members, uint32_t n)
{
    uint32_t h = n;
    for (uint32_t i = 0; i < n; i++) h = mix(h, members[i]);
    return h & (2 * CONFIGS_MAX - 1);
}

static uint32_t *config_slot(struct matcher *m, const uint32_t *members, uint32_t n)
{
    uint32_t i = config_hash(members, n);
    for (uint32_t k; (k = m->config_slots[i]) != 0; i = (i + 1) & (2 * CONFIGS_MAX - 1))
        if (m->configs[k].n == n && memcmp(m->members + m->configs[k].at, members, n * sizeof *members) == 0) break;
    return &m->config_slots[i];
}

static void sort(uint32_t *v, uint32_t n)
{
    for (uint32_t gap = n / 2; gap > 0; gap /= 2)
        for (uint32_t i = gap; i < n; i++) {
            const uint32_t x = v[i];
            uint32_t k = i;
            for (; k >= gap && v[k - gap] > x; k -= gap) v[k] = v[k - gap];
            v[k] = x;
        }
}

/* The config of the set that was begun last; CONFIG_FULL where memory is out. */
static uint32_t end_set(struct matcher *m)
{
    if (m->full) return CONFIG_FULL;
    if (m->n_set == 0) return CONFIG_DEAD;
    sort(m->set, m->n_set);
    uint32_t *slot = config_slot(m, m->set, m->n_set);
    if (*slot) return *slot;
    if (m->n_configs == CONFIGS_MAX || m->n_set > MEMBERS_MAX - m->n_members) {
        m->full = true;
        return CONFIG_FULL;
    }
    memcpy(m->members + m->n_members, m->set, m->n_set * sizeof *m->set);
    m->configs[m->n_configs] = (struct config){m->n_members, m->n_set};
    m->n_members += m->n_set;
    return *slot = m->n_configs++;
}

static uint32_t config_of(struct matcher *m, uint32_t stack)
{
    begin_set(m);
    follow(m, stack);
    return end_set(m);
}

static uint32_t compute_step(struct matcher *m, uint32_t config, uint32_t class)
{
    const struct config c = m->configs[config];
    const uint8_t byte = m->g->class_byte[class];
    begin_set(m);
    for (uint32_t i = 0; i < c.n; i++) {
        const uint32_t at = m->members[c.at + i];
        if (at < STACKS_FIRST) continue;
        const struct stack s = m->stacks[at];
        for (uint32_t k = m->g->first[s.state]; k != NONE; k = m->g->edges[k].next) {
            const struct edge *edge = &m->g->edges[k];
            if (edge->kind == EDGE_BYTES && edge->lo <= byte && byte <= edge->hi) follow(m, stack_of(m, edge->to, s.parent));
        }
    }
    return m->next[(size_t)config * m->g->n_classes + class] = end_set(m);
}

static inline uint32_t step(struct matcher *m, uint32_t config, uint8_t byte)
{
    const uint32_t class = m->g->class_of[byte], to = m->next[(size_t)config * m->g->n_classes + class];
    return to ? to : compute_step(m, config, class);
}

/* ---- memory ------------------------------------------------------------------------------------------------------------ */

/* Keeps the stacks of the configs in the history, and puts them together; map: from old numbers to new ones. */
static void compact_stacks(struct matcher *m, uint32_t *map)
{
    memset(map, 0, m->n_stacks * sizeof *map);
    for (uint32_t h = 0; h < m->n_history; h++) {
        const struct config c = m->configs[m->history[h]];
        for (uint32_t i = 0; i < c.n; i++)
            for (uint32_t at = m->members[c.at + i]; at >= STACKS_FIRST && !map[at]; at = m->stacks[at].parent) map[at] = 1;
    }
    const uint32_t n = m->n_stacks;
    m->n_stacks = STACKS_FIRST;
    memset(m->stack_slots, 0, 2 * STACKS_MAX * sizeof *m->stack_slots);
    for (uint32_t at = 0; at < n; at++) {
        if (at < STACKS_FIRST)
            map[at] = at;
        else if (map[at])
            map[at] = stack_of(m, m->stacks[at].state, map[m->stacks[at].parent]);
    }
}

static void compact_configs(struct matcher *m, const uint32_t *map)
{
    const uint32_t n = m->n_configs;
    uint32_t *live = m->set; /* from old numbers to new ones */
    memset(live, 0, n * sizeof *live);
    for (uint32_t h = 0; h < m->n_history; h++) live[m->history[h]] = 1;
    memset(m->next, 0, (size_t)n * m->g->n_classes * sizeof *m->next);
    memset(m->strides, 0, n * sizeof *m->strides);
    memset(m->config_slots, 0, 2 * CONFIGS_MAX * sizeof *m->config_slots);
    m->n_configs = CONFIGS_FIRST;
    m->n_members = 0;
    for (uint32_t c = CONFIGS_FIRST; c < n; c++) {
        if (!live[c]) continue;
        const struct config old = m->configs[c];
        uint32_t *to = m->members + m->n_members;
        for (uint32_t i = 0; i < old.n; i++) to[i] = map[m->members[old.at + i]];
        live[c] = m->n_configs;
        m->configs[m->n_configs] = (struct config){m->n_members, old.n};
        m->n_members += old.n;
        *config_slot(m, to, old.n) = m->n_configs++;
    }
    for (uint32_t h = 0; h < m->n_history; h++) m->history[h] = live[m->history[h]];
}

/* After memory ran out. */
static int make_room(struct matcher *m, struct err *e)
{
    compact_stacks(m, m->work);
    compact_configs(m, m->work);
    for (uint32_t i = 0; i < KEPT_MAX; i++) m->kept[i].config = CONFIG_FULL;
    m->full = false;
    if (m->n_stacks <= STACKS_MAX / 2 && m->n_members <= MEMBERS_MAX / 2) return 0;
    return fail(e, ERR_LIMIT, "the grammar can be read in too many ways, or is nested too deep, to follow this answer");
}

/* ---- tokens ------------------------------------------------------------------------------------------------------------ */

/* The tokens that end at the nodes from first to last. */
static inline void set_tokens(const struct vocab *v, uint32_t first, uint32_t last, uint64_t *mask)
{
    for (uint32_t i = v->nodes[first].token; i < v->nodes[last].token; i++)
        mask[v->ids[i] / 64] |= (uint64_t)1 << (v->ids[i] % 64);
}

static bool may_leave(const struct matcher *m, uint32_t config)
{
    return m->members[m->configs[config].at] == STACK_UNKNOWN;
}

static uint32_t live_step(struct matcher *m, uint32_t config, uint8_t byte)
{
    const uint32_t to = step(m, config, byte);
    return to <= CONFIG_DEAD || may_leave(m, to) ? CONFIG_DEAD : to;
}

/* The config that both lead to; a may be CONFIG_FULL, for any. */
static uint32_t common(uint32_t a, uint32_t b)
{
    return a == CONFIG_FULL || a == b ? b : CONFIG_DEAD;
}

/* The config that all characters of a shape lead to from config, with i bytes taken; CONFIG_DEAD: there is no such one. */
static uint32_t shape_step(struct matcher *m, uint32_t config, const struct char_shape *s, unsigned i)
{
    uint32_t to = CONFIG_FULL, class = NONE;
    for (unsigned byte = s->lo[i]; byte <= s->hi[i] && to != CONFIG_DEAD; byte++) {
        if (m->g->class_of[byte] == class) continue;
        class = m->g->class_of[byte];
        uint32_t next = live_step(m, config, (uint8_t)byte);
        if (next != CONFIG_DEAD && i + 1u < s->n) next = shape_step(m, next, s, i + 1);
        to = common(to, next);
    }
    return to;
}

/* Where the characters of some groups lead, all to one config. */
static void find_stride(struct matcher *m, uint32_t config)
{
    uint32_t to[GROUPS_MAX] = {CONFIG_FULL};
    struct stride *s = &m->strides[config];
    for (unsigned byte = 0; byte < 0x80; byte++) {
        uint32_t *group = &to[m->group_of[byte]];
        if (*group != CONFIG_DEAD) *group = common(*group, live_step(m, config, (uint8_t)byte));
    }
    for (size_t i = 0; i < CHAR_SHAPES && to[GROUP_BEYOND] != CONFIG_DEAD; i++)
        to[GROUP_BEYOND] = common(to[GROUP_BEYOND], shape_step(m, config, &char_shapes[i], 0));
    *s = (struct stride){CONFIG_DEAD, 0};
    for (unsigned i = 0; i < GROUPS_MAX; i++) {
        if (to[i] <= CONFIG_DEAD || (s->to != CONFIG_DEAD && s->to != to[i])) continue;
        s->to = to[i];
        s->groups |= (uint32_t)1 << i;
    }
}

#define STRIDES_MAX 32   /* to be followed, where they lead ever further */
#define STRIDE_NODES 256 /* for which a stride is worth being found */

/* Whether all that is below a node leads on from config, and not out of the rule above STACK_UNKNOWN. False also where that
 * would take long to tell. Inside of strings and words this spares most of a walk. */
static bool takes_all_below(struct matcher *m, uint32_t config, uint32_t i)
{
    const struct vocab_node *node = &m->v->nodes[i];
    for (uint32_t n = node->below; n > 0; n--) {
        const struct stride *s = &m->strides[config];
        if (s->to == CONFIG_FULL) {
            if (node->next - i < STRIDE_NODES) return false;
            find_stride(m, config);
        }
        if (node->groups & ~s->groups) return false;
        if (s->to == config) return true;
        if (n > STRIDES_MAX) return false;
        config = s->to;
    }
    return true;
}

/* Takes in the nodes from first to last, siblings and what is below them, from config on. With exits: those where a rule above
 * STACK_UNKNOWN may end, and that have children; *n_exits beyond EXITS_MAX ends the walk. False: out of memory. */
static bool walk(struct matcher *m, uint32_t first, uint32_t last, uint32_t config, uint64_t *mask, uint32_t *exits,
                 uint32_t *n_exits)
{
    const struct vocab *v = m->v;
    uint32_t at[TOKEN_BYTES_MAX + 1];
    if (first < last) at[v->nodes[first].depth - 1] = config;
    for (uint32_t i = first; i < last;) {
        const struct vocab_node *node = &v->nodes[i];
        const uint32_t to = step(m, at[node->depth - 1], node->byte);
        if (to <= CONFIG_DEAD) {
            if (to == CONFIG_FULL) return false;
            i = node->next;
            continue;
        }
        at[node->depth] = to;
        if (exits && node->below && may_leave(m, to)) {
            if (*n_exits == EXITS_MAX) return *n_exits = EXITS_MAX + 1, true;
            exits[(*n_exits)++] = i;
        }
        const uint32_t done = takes_all_below(m, to, i) ? node->next : i + 1;
        set_tokens(v, i, done, mask);
        i = done;
    }
    return true;
}

/* The tokens of a state; NULL: none are kept for it. False in *ok: out of memory. */
static const struct local *local_of(struct matcher *m, uint32_t state, bool *ok)
{
    *ok = true;
    for (uint32_t i = 0; i < m->n_locals; i++)
        if (m->locals[i].state == state) return m->locals[i].useless ? NULL : &m->locals[i];
    if (m->n_locals == LOCALS_MAX) return NULL;
    struct local *l = &m->locals[m->n_locals];
    const uint32_t config = config_of(m, stack_of(m, state, STACK_UNKNOWN));
    memset(l->mask, 0, m->v->n_words * sizeof *l->mask);
    l->n_exits = 0;
    *ok = config != CONFIG_FULL && walk(m, 0, m->v->n_nodes, config, l->mask, l->exits, &l->n_exits);
    if (!*ok) return NULL;
    l->state = state;
    l->useless = l->n_exits > EXITS_MAX;
    m->n_locals++;
    return l->useless ? NULL : l;
}

/* Adds the tokens that follow a stack whose top is known. */
static bool add_local(struct matcher *m, const struct local *l, uint32_t parent, uint64_t *mask)
{
    for (uint32_t i = 0; i < m->v->n_words; i++) mask[i] |= l->mask[i];
    const uint32_t below = config_of(m, parent);
    if (below == CONFIG_FULL) return false;
    for (uint32_t i = 0; i < l->n_exits; i++) {
        const uint32_t x = l->exits[i];
        if (takes_all_below(m, below, x))
            set_tokens(m->v, x + 1, m->v->nodes[x].next, mask);
        else if (!walk(m, x + 1, m->v->nodes[x].next, below, mask, NULL, NULL))
            return false;
    }
    return true;
}

/* The mask of the present config. A space that begins the answer will not be shown, so it is left out there, too. False: out of
 * memory. */
static bool fill(struct matcher *m, uint64_t *mask)
{
    const struct vocab *v = m->v;
    const struct config c = m->configs[m->history[m->n_history - 1]];
    const bool strip = v->strip_space && m->n_accepted == 0 && v->space != NONE;
    uint32_t rest[MEMBERS_MAX / 64], n_rest = 0;
    const bool all = c.n > COUNT_OF(rest) || strip;
    memset(mask, 0, v->n_words * sizeof *mask);
    for (uint32_t i = 0; i < c.n && !all; i++) {
        const uint32_t at = m->members[c.at + i];
        bool ok = true;
        const struct local *l = at >= STACKS_FIRST && (m->g->flags[m->stacks[at].state] & STATE_WIDE)
                                    ? local_of(m, m->stacks[at].state, &ok)
                                    : NULL;
        if (!ok || (l && !add_local(m, l, m->stacks[at].parent, mask))) return false;
        if (!l) rest[n_rest++] = at;
    }
    if (m->members[c.at] == STACK_END)
        for (uint32_t i = 0; i < v->n_words; i++) mask[i] |= v->eog[i];
    uint32_t config = m->history[m->n_history - 1];
    if (!all && n_rest < c.n) {
        begin_set(m);
        memcpy(m->set, rest, n_rest * sizeof *rest);
        m->n_set = n_rest;
        config = end_set(m);
    }
    if (config == CONFIG_FULL) return false;
    if (!strip) return walk(m, 0, v->n_nodes, config, mask, NULL, NULL);
    return walk(m, 0, v->space, config, mask, NULL, NULL) &&
           walk(m, v->space + 1, v->nodes[v->space].next, config, mask, NULL, NULL) &&
           walk(m, v->nodes[v->space].next, v->n_nodes, config, mask, NULL, NULL);
}

static bool is_set(const uint64_t *mask, int32_t id)
{
    return mask[id / 64] >> (id % 64) & 1;
}

int matcher_mask(struct matcher *m, const uint64_t **mask, struct err *e)
{
    const struct vocab *v = m->v;
    const bool first = m->n_accepted == 0; /* its mask may differ from a later one of the same config: see fill */
    for (uint32_t i = 0; i < KEPT_MAX && !first; i++)
        if (m->kept[i].config == m->history[m->n_history - 1]) {
            *mask = m->kept[i].mask;
            return 0;
        }
    struct kept *k = &m->kept[m->next_kept];
    m->next_kept = (m->next_kept + 1) % KEPT_MAX;
    k->config = CONFIG_FULL;
    if (!fill(m, k->mask)) {
        TRY(make_room(m, e));
        if (!fill(m, k->mask))
            return fail(e, ERR_LIMIT, "the grammar can be read in too many ways to find the tokens that may come next");
    }
    if (!first) k->config = m->history[m->n_history - 1];
    *mask = k->mask;
    for (uint32_t i = 0; i < v->n_words; i++)
        if (k->mask[i]) return 0;
    if (matcher_must_end(m)) return 0;
    return fail(e, ERR_UNSUPPORTED, "the model's vocabulary has no token for what the grammar asks for next");
}

/* ---- the answer -------------------------------------------------------------------------------------------------------- */

bool matcher_may_end(const struct matcher *m)
{
    return m->members[m->configs[m->history[m->n_history - 1]].at] == STACK_END;
}

bool matcher_must_end(const struct matcher *m)
{
    return matcher_may_end(m) && m->configs[m->history[m->n_history - 1]].n == 1;
}

/* The config behind the bytes; CONFIG_DEAD, CONFIG_FULL. */
static uint32_t take_bytes(struct matcher *m, const uint8_t *p, uint32_t n)
{
    uint32_t config = m->history[m->n_history - 1];
    for (uint32_t i = 0; i < n && config > CONFIG_DEAD; i++) config = step(m, config, p[i]);
    return config;
}

static void remember(struct matcher *m, uint32_t config)
{
    if (m->n_history == COUNT_OF(m->history)) {
        m->n_history--;
        memmove(m->history, m->history + 1, m->n_history * sizeof *m->history);
    }
    m->history[m->n_history++] = config;
    m->n_accepted++;
}

int matcher_accept(struct matcher *m, int32_t id, struct err *e)
{
    const struct vocab *v = m->v;
    if (id < 0 || (uint32_t)id >= v->n_ids) return fail(e, ERR_ARG, "token %d is outside the vocabulary of %u", id, v->n_ids);
    if (is_set(v->eog, id) && matcher_may_end(m)) return 0;
    const uint8_t *p = v->text + v->text_at[id];
    uint32_t n = v->text_at[id + 1] - v->text_at[id];
    if (v->strip_space && m->n_accepted == 0 && n && *p == ' ') p++, n--;
    uint32_t config = n ? take_bytes(m, p, n) : CONFIG_DEAD;
    if (config == CONFIG_FULL) {
        TRY(make_room(m, e));
        config = take_bytes(m, p, n);
    }
    if (config == CONFIG_FULL) return fail(e, ERR_LIMIT, "the grammar can be read in too many ways to follow this answer");
    if (config == CONFIG_DEAD) return fail(e, ERR_ARG, "token %d is not what the grammar allows here", id);
    remember(m, config);
    return 0;
}

void matcher_back(struct matcher *m, uint32_t n)
{
    m->n_history -= n;
    m->n_accepted -= n;
}

/* ---- opening ----------------------------------------------------------------------------------------------------------- */

static int open_parts(struct matcher *m, struct err *e)
{
    struct arena *a = &m->arena;
    const size_t words = m->v->n_words;
    bool ok = true;
    const struct {
        void **p;
        size_t n, size;
    } parts[] = {
        {(void **)&m->stacks, STACKS_MAX, sizeof *m->stacks},
        {(void **)&m->stack_slots, (size_t)2 * STACKS_MAX, sizeof(uint32_t)},
        {(void **)&m->marks, STACKS_MAX, sizeof(uint32_t)},
        {(void **)&m->work, STACKS_MAX, sizeof(uint32_t)},
        {(void **)&m->set, STACKS_MAX, sizeof(uint32_t)},
        {(void **)&m->configs, CONFIGS_MAX, sizeof *m->configs},
        {(void **)&m->config_slots, (size_t)2 * CONFIGS_MAX, sizeof(uint32_t)},
        {(void **)&m->members, MEMBERS_MAX, sizeof(uint32_t)},
        {(void **)&m->next, (size_t)CONFIGS_MAX * m->g->n_classes, sizeof(uint32_t)},
        {(void **)&m->strides, CONFIGS_MAX, sizeof *m->strides},
    };
    for (size_t i = 0; i < COUNT_OF(parts); i++) ok = ok && (*parts[i].p = arena_array(a, parts[i].n, parts[i].size));
    for (uint32_t i = 0; i < LOCALS_MAX; i++) {
        ok = ok && (m->locals[i].mask = arena_array(a, words, sizeof(uint64_t)));
        ok = ok && (m->locals[i].exits = arena_array(a, EXITS_MAX, sizeof(uint32_t)));
    }
    for (uint32_t i = 0; i < KEPT_MAX; i++) ok = ok && (m->kept[i].mask = arena_array(a, words, sizeof(uint64_t)));
    if (!ok) return fail_nomem(e, "following a grammar", (size_t)CONFIGS_MAX * m->g->n_classes * sizeof(uint32_t));
    for (unsigned i = 0; i < sizeof m->group_of; i++) m->group_of[i] = (uint8_t)char_group_of((uint8_t)i);
    m->n_stacks = STACKS_FIRST;
    m->n_configs = CONFIGS_FIRST;
    m->history[0] = config_of(m, stack_of(m, m->g->rules[0].entry, STACK_END));
    m->n_history = 1;
    return m->full ? fail(e, ERR_LIMIT, "the grammar can begin in too many ways") : 0;
}

int matcher_new(const struct grammar *g, const struct vocab *v, struct matcher **out, struct err *e)
{
    struct matcher *m = mem_zalloc(sizeof *m);
    if (!m) return fail_nomem(e, "following a grammar", sizeof *m);
    m->g = g;
    m->v = v;
    const int rc = open_parts(m, e);
    if (rc < 0)
        matcher_free(&m);
    else
        *out = m;
    return rc;
}

void matcher_free(struct matcher **mp)
{
    if (!*mp) return;
    arena_fini(&(*mp)->arena);
    mem_free(*mp);
    *mp = NULL;
}
