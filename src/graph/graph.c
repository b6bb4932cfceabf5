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
    *g = (struct graph){.arena = arena, .output = NO_VALUE};
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

static value_id record(struct graph *g, struct op op, uint32_t cols)
{
    if (g->failed) return NO_VALUE;
    struct op *ops = grown(g, g->ops, g->n_ops, &g->cap_ops, sizeof *ops);
    if (!ops) return NO_VALUE;
    g->ops = ops;
    bool gathered = op.code == OP_GATHER || (op.src[0] != NO_VALUE && g->values[op.src[0]].gathered);
    if (op.code == OP_ROPE)
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

value_id graph_embed(struct graph *g, const struct tensor *table)
{
    return record(g, (struct op){.code = OP_EMBED, .src = {NO_VALUE, NO_VALUE}, .w = table}, (uint32_t)table->ne[0]);
}

value_id graph_rms_norm(struct graph *g, value_id x, const float *w, float eps)
{
    return record(g, (struct op){.code = OP_RMS_NORM, .src = {x, NO_VALUE}, .vec = w, .f = eps}, cols_of(g, x));
}

value_id graph_matmul(struct graph *g, value_id x, const struct tensor *w, const float *bias)
{
    return record(g, (struct op){.code = OP_MATMUL, .src = {x, NO_VALUE}, .w = w, .vec = bias}, (uint32_t)w->ne[1]);
}

value_id graph_add(struct graph *g, value_id a, value_id b)
{
    return record(g, (struct op){.code = OP_ADD, .src = {a, b}}, cols_of(g, a));
}

value_id graph_swiglu(struct graph *g, value_id gate, value_id up)
{
    return record(g, (struct op){.code = OP_SWIGLU, .src = {gate, up}}, cols_of(g, gate));
}

value_id graph_rope(struct graph *g, value_id x, const struct rope *rope, uint32_t n_heads, uint32_t head_dim)
{
    struct op op = {.code = OP_ROPE, .src = {x, NO_VALUE}, .rope = rope, .n_heads = n_heads, .head_dim = head_dim};
    return record(g, op, cols_of(g, x));
}

void graph_kv_store(struct graph *g, value_id k, value_id v, uint32_t layer, uint32_t n_kv_heads, uint32_t head_dim)
{
    struct op op = {.code = OP_KV_STORE, .src = {k, v}, .layer = layer, .n_kv_heads = n_kv_heads, .head_dim = head_dim};
    record(g, op, 0);
}

value_id graph_attention(struct graph *g, value_id q, uint32_t layer, uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim,
                         float scale)
{
    struct op op = {.code = OP_ATTENTION,
                    .src = {q, NO_VALUE},
                    .layer = layer,
                    .n_heads = n_heads,
                    .n_kv_heads = n_kv_heads,
                    .head_dim = head_dim,
                    .f = scale};
    return record(g, op, n_heads * head_dim);
}

value_id graph_gather(struct graph *g, value_id x)
{
    return record(g, (struct op){.code = OP_GATHER, .src = {x, NO_VALUE}}, cols_of(g, x));
}

/* ---- phases ------------------------------------------------------------------------------------------ */

/* Whether an op behind `end` reads v: then v must really be written, and may not vanish inside a phase. */
static bool read_later(const struct graph *g, value_id v, const struct op *end)
{
    for (const struct op *p = end; p < g->ops + g->n_ops; p++)
        if (p->src[0] == v || p->src[1] == v) return true;
    return false;
}

/* Length of the phase that starts at op i. */
static uint32_t phase_length(const struct graph *g, uint32_t i)
{
    const struct op *op = g->ops, *end = g->ops + g->n_ops, *p = op + i;
    if (p->code == OP_ROPE || p->code == OP_KV_STORE) {
        while (p < end && (p->code == OP_ROPE || p->code == OP_KV_STORE)) p++;
        if (p < end && p->code == OP_ATTENTION) p++;
        return (uint32_t)(p - op) - i;
    }
    bool norm = p->code == OP_RMS_NORM;
    if (norm) {
        if (p + 1 == end || p[1].code != OP_MATMUL || p[1].src[0] != p->dst) return 1;
        p++;
    }
    if (p->code != OP_MATMUL) return 1;
    value_id x = p->src[0];
    uint32_t n = 0;
    for (; p < end && n < 3 && p->code == OP_MATMUL && p->src[0] == x; p++) n++;
    if (norm && read_later(g, x, p)) return 1;
    if (p < end && n == 2 && p->code == OP_SWIGLU && p->src[0] == p[-2].dst && p->src[1] == p[-1].dst)
        p++;
    else if (p < end && n == 1 && p->code == OP_ADD && (p->src[0] == p[-1].dst || p->src[1] == p[-1].dst))
        p++;
    return (uint32_t)(p - op) - i;
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
        struct phase p = {i, phase_length(g, i)};
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
    for (uint32_t v = 0; v < g->n_values; v++) {
        g->values[v].offset = place(g, first, last, order, v, (value_id)v);
        order[v] = v;
        size_t *total = g->values[v].gathered ? &g->out_floats : &g->row_floats;
        *total = size_max(*total, g->values[v].offset + g->values[v].cols);
    }
    return 0;
}
