/* graph: recording and planning (see graph.h). Planning is two walks over the list: one finds the phases, one places values so
 * that two values share memory only when no phase needs both. */
#include "graph/graph.h"

const char *op_name(enum op_code code)
{
    static const char *const names[OP_COUNT] = {
#define OP(NAME, name) [OP_##NAME] = name,
#include "graph/ops.def"
#undef OP
    };
    return names[code];
}

void graph_init(struct graph *g, struct arena *arena)
{
    *g = (struct graph){.arena = arena, .output = NO_VALUE, .kept = NO_VALUE};
}

/* ---- recording ------------------------------------------------------------------------------------ */

/* items [*n][size] grown to hold one more; the old array stays in the arena. */
static void *grown(struct graph *g, void *items, uint32_t n, uint32_t *cap, size_t size)
{
    if (n < *cap) return items;
    uint32_t cap2 = *cap ? *cap * 2 : 64;
    void *p = arena_array(g->arena, cap2, size);
    if (!p) {
        g->failed = ERR_NOMEM;
        return NULL;
    }
    if (n) memcpy(p, items, n * size);
    *cap = cap2;
    return p;
}

static value_id new_value(struct graph *g, uint32_t cols, bool gathered)
{
    struct value *values = grown(g, g->values, g->n_values, &g->cap_values, sizeof *values);
    if (!values) return NO_VALUE;
    g->values = values;
    if (g->n_values == NO_VALUE) {
        g->failed = ERR_LIMIT;
        return NO_VALUE;
    }
    values[g->n_values] = (struct value){.cols = cols, .gathered = gathered};
    return (value_id)g->n_values++;
}

static bool op_in_place(enum op_code code)
{
    return code == OP_ROPE || code == OP_HEAD_NORM || code == OP_DELTA_NORM;
}

static value_id record(struct graph *g, struct op op, uint32_t cols)
{
    if (g->failed) return NO_VALUE;
    struct op *ops = grown(g, g->ops, g->n_ops, &g->cap_ops, sizeof *ops);
    if (!ops) return NO_VALUE;
    g->ops = ops;
    bool gathered = op.code == OP_GATHER || (op.src[0] != NO_VALUE && g->values[op.src[0]].gathered);
    if (op_in_place(op.code))
        op.dst = op.src[0];
    else
        op.dst = cols ? new_value(g, cols, gathered) : NO_VALUE;
    if (g->failed) return NO_VALUE;
    ops[g->n_ops++] = op;
    return op.dst;
}

static uint32_t cols_of(const struct graph *g, value_id v)
{
    return g->failed ? 1 : g->values[v].cols;
}

value_id graph_embed(struct graph *g, const struct tensor *table, enum embed_by by)
{
    return record(g, (struct op){.code = OP_EMBED, .src = {NO_VALUE, NO_VALUE}, .w = table, .by = by}, (uint32_t)table->ne[0]);
}

value_id graph_input(struct graph *g, uint32_t cols)
{
    return record(g, (struct op){.code = OP_INPUT, .src = {NO_VALUE, NO_VALUE}}, cols);
}

value_id graph_rms_norm(struct graph *g, value_id x, const float *w, float eps)
{
    return record(g, (struct op){.code = OP_RMS_NORM, .src = {x, NO_VALUE}, .vec = w, .f = eps}, cols_of(g, x));
}

value_id graph_layer_norm(struct graph *g, value_id x, const float *w, const float *bias, float eps)
{
    struct op op = {.code = OP_LAYER_NORM, .src = {x, NO_VALUE}, .vec = w, .bias = bias, .f = eps};
    return record(g, op, cols_of(g, x));
}

value_id graph_matmul(struct graph *g, value_id x, const struct tensor *w, const float *bias)
{
    return record(g, (struct op){.code = OP_MATMUL, .src = {x, NO_VALUE}, .w = w, .vec = bias}, (uint32_t)w->ne[1]);
}

value_id graph_add(struct graph *g, value_id a, value_id b)
{
    return record(g, (struct op){.code = OP_ADD, .src = {a, b}}, cols_of(g, a));
}

value_id graph_scale(struct graph *g, value_id x, float f)
{
    return record(g, (struct op){.code = OP_SCALE, .src = {x, NO_VALUE}, .f = f}, cols_of(g, x));
}

value_id graph_glu(struct graph *g, enum act_fn act, float limit, value_id gate, value_id up)
{
    return record(g, (struct op){.code = OP_GLU, .src = {gate, up}, .act = act, .f = limit}, cols_of(g, gate));
}

value_id graph_act(struct graph *g, enum act_fn act, value_id x)
{
    return record(g, (struct op){.code = OP_ACT, .src = {x, NO_VALUE}, .act = act}, cols_of(g, x));
}

value_id graph_gate(struct graph *g, value_id x, value_id gate)
{
    return record(g, (struct op){.code = OP_GATE, .src = {x, gate}}, cols_of(g, x));
}

value_id graph_softcap(struct graph *g, value_id x, float cap)
{
    return record(g, (struct op){.code = OP_SOFTCAP, .src = {x, NO_VALUE}, .f = cap}, cols_of(g, x));
}

static value_id head_norm(struct graph *g, struct op op)
{
    op.code = OP_HEAD_NORM;
    op.src[1] = NO_VALUE;
    op.head = cols_of(g, op.src[0]) / op.n_heads;
    return record(g, op, cols_of(g, op.src[0]));
}

value_id graph_head_norm(struct graph *g, value_id x, const float *w, float eps, uint32_t n_heads, uint32_t len)
{
    return head_norm(g, (struct op){.src = {x}, .vec = w, .f = eps, .n_heads = n_heads, .len = len});
}

value_id graph_head_layer_norm(struct graph *g, value_id x, const float *w, bool by_head, float eps, uint32_t n_heads,
                               uint32_t len)
{
    return head_norm(
        g, (struct op){.src = {x}, .vec = w, .f = eps, .n_heads = n_heads, .len = len, .by_head = by_head, .centred = true});
}

value_id graph_rope(struct graph *g, value_id x, const struct rope *rope, uint32_t n_heads, uint32_t at)
{
    struct op op = {.code = OP_ROPE, .src = {x, NO_VALUE}, .rope = rope, .n_heads = n_heads, .at = at};
    op.head = cols_of(g, x) / n_heads;
    return record(g, op, cols_of(g, x));
}

void graph_kv_store(struct graph *g, value_id k, value_id v, const struct attn_params *p)
{
    record(g, (struct op){.code = OP_KV_STORE, .src = {k, v}, .attn = *p}, 0);
}

value_id graph_attention(struct graph *g, value_id q, const struct attn_params *p)
{
    return record(g, (struct op){.code = OP_ATTENTION, .src = {q, NO_VALUE}, .attn = *p}, p->n_heads * p->v_dim);
}

value_id graph_head_matmul(struct graph *g, value_id x, const struct tensor *const *w, uint32_t n_heads)
{
    struct op op = {.code = OP_HEAD_MATMUL, .src = {x, NO_VALUE}, .n_heads = n_heads, .experts = {{w, NULL}, {NULL, NULL}}};
    op.head = cols_of(g, x) / n_heads;
    return record(g, op, n_heads * (op.head - (uint32_t)w[0]->ne[0] + (uint32_t)w[0]->ne[1]));
}

value_id graph_head_cols(struct graph *g, value_id x, uint32_t n_heads, uint32_t at, uint32_t len)
{
    struct op op = {.code = OP_HEAD_COLS, .src = {x, NO_VALUE}, .n_heads = n_heads, .at = at, .len = len};
    op.head = cols_of(g, x) / n_heads;
    return record(g, op, n_heads * len);
}

value_id graph_route(struct graph *g, value_id logits, const struct route_params *p)
{
    return record(g, (struct op){.code = OP_ROUTE, .src = {logits, NO_VALUE}, .route = p}, 2 * p->n_used);
}

value_id graph_experts_up(struct graph *g, value_id x, value_id routes, const struct route_params *p, enum act_fn act,
                          float limit, bool weigh_input, struct experts gate, struct experts up)
{
    struct op op = {.code = OP_EXPERTS_UP,
                    .src = {x, routes},
                    .route = p,
                    .act = act,
                    .f = limit,
                    .weigh_input = weigh_input,
                    .experts = {gate, up}};
    return record(g, op, p->n_used * (uint32_t)up.w[0]->ne[1]);
}

value_id graph_experts_down(struct graph *g, value_id x, value_id routes, const struct route_params *p, struct experts down)
{
    struct op op = {.code = OP_EXPERTS_DOWN, .src = {x, routes}, .route = p, .experts = {down, {NULL, NULL}}};
    return record(g, op, p->n_used * (uint32_t)down.w[0]->ne[1]);
}

value_id graph_experts_sum(struct graph *g, value_id x, value_id routes, const struct route_params *p, bool weighted)
{
    struct op op = {.code = OP_EXPERTS_SUM, .src = {x, routes}, .route = p, .weigh_input = !weighted};
    return record(g, op, cols_of(g, x) / p->n_used);
}

value_id graph_mul(struct graph *g, value_id a, value_id b)
{
    return record(g, (struct op){.code = OP_MUL, .src = {a, b}}, cols_of(g, a));
}

value_id graph_join(struct graph *g, value_id a, value_id b)
{
    return record(g, (struct op){.code = OP_JOIN, .src = {a, b}}, cols_of(g, a) + cols_of(g, b));
}

value_id graph_conv(struct graph *g, value_id x, const struct conv_params *p)
{
    struct op op = {.code = OP_CONV, .src = {x, NO_VALUE}, .conv = p, .state = g->state_floats, .read = g->read_floats};
    g->state_floats += (p->taps - (size_t)1) * cols_of(g, x);
    g->read_floats += cols_of(g, x);
    return record(g, op, cols_of(g, x));
}

value_id graph_delta_split(struct graph *g, value_id x, const struct delta_params *p)
{
    const uint32_t cols = 2 * p->n_k_heads * p->k_dim + p->n_v_heads * p->v_dim;
    return record(g, (struct op){.code = OP_DELTA_SPLIT, .src = {x, NO_VALUE}, .delta = p}, cols);
}

value_id graph_delta_norm(struct graph *g, value_id x, const struct delta_params *p)
{
    return record(g, (struct op){.code = OP_DELTA_NORM, .src = {x, NO_VALUE}, .delta = p}, cols_of(g, x));
}

value_id graph_delta_gates(struct graph *g, value_id b, value_id a, const struct delta_params *p)
{
    return record(g, (struct op){.code = OP_DELTA_GATES, .src = {b, a}, .delta = p}, 2 * p->n_v_heads);
}

value_id graph_delta(struct graph *g, value_id qkv, value_id gates, const struct delta_params *p)
{
    struct op op = {.code = OP_DELTA, .src = {qkv, gates}, .delta = p, .state = g->state_floats, .read = g->read_floats};
    g->state_floats += delta_floats(p);
    g->read_floats += cols_of(g, qkv) + (size_t)cols_of(g, gates);
    return record(g, op, p->n_v_heads * p->v_dim);
}

value_id graph_gather(struct graph *g, value_id x)
{
    return record(g, (struct op){.code = OP_GATHER, .src = {x, NO_VALUE}}, cols_of(g, x));
}

void graph_keep(struct graph *g, value_id x)
{
    g->kept = x;
}

/* ---- phases ------------------------------------------------------------------------------------------ */

/* Whether an op behind `end` reads v: then v must really be written, and may not vanish inside a phase. */
static bool read_later(const struct graph *g, value_id v, const struct op *end)
{
    for (const struct op *p = end; p < g->ops + g->n_ops; p++)
        if (p->src[0] == v || p->src[1] == v) return true;
    return false;
}

/* Operations whose row r reads only rows r, and which no thread helps another with. */
static bool row_by_row(enum op_code code)
{
    static const bool rows[OP_COUNT] = {
        [OP_RMS_NORM] = true,   [OP_LAYER_NORM] = true,  [OP_ADD] = true,   [OP_SCALE] = true,     [OP_GLU] = true,
        [OP_ACT] = true,        [OP_GATE] = true,        [OP_ROUTE] = true, [OP_HEAD_COLS] = true, [OP_EXPERTS_SUM] = true,
        [OP_SOFTCAP] = true,    [OP_HEAD_NORM] = true,   [OP_JOIN] = true,  [OP_MUL] = true,       [OP_DELTA_SPLIT] = true,
        [OP_DELTA_NORM] = true, [OP_DELTA_GATES] = true,
    };
    return rows[code];
}

/* Length of the longest phase of attention that starts at op i; 0: none does. */
static uint32_t attention_length(const struct graph *g, uint32_t i)
{
    uint32_t n = i;
    while (n < g->n_ops && op_in_place(g->ops[n].code)) n++;
    if (n < g->n_ops && g->ops[n].code == OP_KV_STORE) n++;
    return n < g->n_ops && g->ops[n].code == OP_ATTENTION ? n + 1 - i : 0;
}

enum { PRODUCTS_MAX = 6 }; /* matrices of a phase: their outputs are alive together */

/* The same for matrix products: a norm, a few matrices that read it, and what is done to the rows just made. */
static uint32_t product_length(const struct graph *g, uint32_t i)
{
    const struct op *op = g->ops, *end = g->ops + g->n_ops, *p = op + i;
    bool norm = p->code == OP_RMS_NORM || p->code == OP_LAYER_NORM;
    if (norm) {
        if (p + 1 == end || p[1].code != OP_MATMUL || p[1].src[0] != p->dst) return 0;
        p++;
    }
    if (p->code != OP_MATMUL) return 0;
    value_id x = p->src[0];
    uint32_t n = 0;
    for (; p < end && n < PRODUCTS_MAX && p->code == OP_MATMUL && p->src[0] == x; p++) n++;
    if (norm && read_later(g, x, p)) return 0;
    if (p < end && n == 2 && p->code == OP_GLU && p->src[0] == p[-2].dst && p->src[1] == p[-1].dst)
        p++;
    else if (p < end && n == 1 && p->code == OP_ADD && (p->src[0] == p[-1].dst || p->src[1] == p[-1].dst))
        p++;
    return (uint32_t)(p - op) - i;
}

static struct phase phase_at(const struct graph *g, uint32_t i)
{
    uint32_t n = attention_length(g, i);
    if (n) return (struct phase){PHASE_ATTENTION, i, n};
    n = product_length(g, i);
    if (n) return (struct phase){PHASE_PRODUCTS, i, n};
    if (!row_by_row(g->ops[i].code)) return (struct phase){PHASE_ALONE, i, 1};
    const bool gathered = g->values[g->ops[i].dst].gathered;
    for (n = i + 1; n < g->n_ops && row_by_row(g->ops[n].code); n++)
        if (attention_length(g, n) || product_length(g, n) || g->values[g->ops[n].dst].gathered != gathered) break;
    return (struct phase){PHASE_ROWS, i, n - i};
}

/* ---- placement ---------------------------------------------------------------------------------------- */

/* First offset at which cols floats per row overlap no placed value that is alive in [from, to]. The values are few
 * (some ten alive at once), so quadratic work over them is the simple thing. */
static size_t place(const struct graph *g, const uint32_t *first, const uint32_t *last, const uint32_t *order, uint32_t n,
                    value_id v)
{
    size_t offset = 0;
    for (bool moved = true; moved;) {
        moved = false;
        for (uint32_t i = 0; i < n; i++) {
            const struct value *o = &g->values[order[i]];
            bool together = o->gathered == g->values[v].gathered && first[order[i]] <= last[v] && first[v] <= last[order[i]];
            if (together && offset < o->offset + o->cols && o->offset < offset + g->values[v].cols) {
                offset = o->offset + o->cols;
                moved = true;
            }
        }
    }
    return offset;
}

int graph_plan(struct graph *g, value_id output, struct err *e)
{
    if (g->failed) return fail(e, g->failed, "recording the forward pass: %s", err_text(g->failed));
    g->output = output;
    g->phases = arena_array(g->arena, g->n_ops, sizeof *g->phases);
    uint32_t *first = arena_array(g->arena, g->n_values, sizeof *first);
    uint32_t *last = arena_array(g->arena, g->n_values, sizeof *last);
    uint32_t *order = arena_array(g->arena, g->n_values, sizeof *order);
    if (!g->phases || !first || !last || !order)
        return fail_nomem(e, "the plan of the forward pass", g->n_ops * sizeof *g->phases);

    for (uint32_t v = 0; v < g->n_values; v++) first[v] = UINT32_MAX;
    for (uint32_t i = 0; i < g->n_ops; i += g->phases[g->n_phases - 1].n) {
        struct phase p = phase_at(g, i);
        for (uint32_t o = p.first; o < p.first + p.n; o++) {
            const value_id ids[] = {g->ops[o].dst, g->ops[o].src[0], g->ops[o].src[1]};
            for (size_t k = 0; k < COUNT_OF(ids); k++) {
                if (ids[k] == NO_VALUE) continue;
                if (first[ids[k]] == UINT32_MAX) first[ids[k]] = g->n_phases;
                last[ids[k]] = g->n_phases;
            }
        }
        g->phases[g->n_phases++] = p;
    }
    last[output] = g->n_phases;
    if (g->kept != NO_VALUE) last[g->kept] = g->n_phases;
    for (uint32_t v = 0; v < g->n_values; v++) {
        g->values[v].offset = place(g, first, last, order, v, (value_id)v);
        order[v] = v;
        size_t *total = g->values[v].gathered ? &g->out_floats : &g->row_floats;
        *total = size_max(*total, g->values[v].offset + g->values[v].cols);
    }
    return 0;
}
