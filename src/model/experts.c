/* experts: the matrices of a layer's experts, however its files keep them. GGUF has one stack of all experts for each of gate,
 * up and down; Hugging Face folders have a tensor for each expert, or stacks, or stacks of gate and up together, the latter
 * also with rows and columns exchanged. What lies as the products want it is used in place; only the last kind is copied. */
#include <stdio.h>

#include "model/model_int.h"

enum { GATE, UP, DOWN, N_SETS };

static const struct set {
    const char *gguf; /* behind "blk.%u." */
    size_t at;        /* offset of the struct expert_set */
} sets[N_SETS] = {
    {"ffn_gate_exps", offsetof(struct layer, gate_exps)},
    {"ffn_up_exps", offsetof(struct layer, up_exps)},
    {"ffn_down_exps", offsetof(struct layer, down_exps)},
};

static struct expert_set *set_of(struct layer *l, size_t i)
{
    return (struct expert_set *)(void *)((uint8_t *)l + sets[i].at);
}

struct shape {
    uint64_t in, out;
};
static struct shape shape_of(const struct hparams *hp, size_t set)
{
    return set == DOWN ? (struct shape){hp->n_ff_expert, hp->n_embd} : (struct shape){hp->n_embd, hp->n_ff_expert};
}

/* ---- a tensor for each expert ---------------------------------------------------------------------------------------- */

/* '#' is the expert. Rows: gate, up, down. */
static const char *const apart[][N_SETS] = {
    {"mlp.experts.#.gate_proj", "mlp.experts.#.up_proj", "mlp.experts.#.down_proj"},
    {"block_sparse_moe.experts.#.w1", "block_sparse_moe.experts.#.w3", "block_sparse_moe.experts.#.w2"},
    {"feed_forward.experts.#.w1", "feed_forward.experts.#.w3", "feed_forward.experts.#.w2"},
};

static const struct tensor *find_apart(struct model *m, const char *pattern, uint32_t expert, uint32_t layer)
{
    char name[TENSOR_NAME_MAX];
    const char *hole = strchr(pattern, '#');
    (void)snprintf(name, sizeof name, "model.layers.%%u.%.*s%u%s", (int)(hole - pattern), pattern, expert, hole + 1);
    return bind_find(m, name, ".weight", layer);
}

/* ---- stacks ---------------------------------------------------------------------------------------------------------- */

/* Hugging Face's stacks of one matrix of all experts, as MLX has them, too. */
static const char *const stacked[N_SETS] = {"model.layers.%u.mlp.switch_mlp.gate_proj",
                                            "model.layers.%u.mlp.switch_mlp.up_proj",
                                            "model.layers.%u.mlp.switch_mlp.down_proj"};
/* Of gate and up together, and the down that goes with it. */
static const char gate_up_names[] =
    "model.layers.%u.mlp.experts.gate_up_proj|model.layers.%u.feed_forward.experts.gate_up_proj|"
    "model.layers.%u.experts.gate_up_proj";
static const char down_names[] = "model.layers.%u.mlp.experts.down_proj|model.layers.%u.feed_forward.experts.down_proj|"
                                 "model.layers.%u.experts.down_proj";

static int wrong_stack(const struct model *m, const struct tensor *t, uint64_t in, uint64_t out, struct err *e)
{
    return fail(e, ERR_FORMAT, "%s: tensor %.*s is %llu x %llu x %llu; expected %u experts of %llu rows of %llu",
                files_path(m->files), STR_ARG(t->name), (unsigned long long)t->ne[2], (unsigned long long)t->ne[1],
                (unsigned long long)t->ne[0], m->hp.route.n_experts, (unsigned long long)out, (unsigned long long)in);
}

/* Of each expert's `out` rows of a stack, those from first on. */
static int from_stack(struct model *m, const struct tensor *t, uint64_t out, uint64_t first, struct shape s,
                      const struct tensor **w, struct err *e)
{
    if (t->ne[0] != s.in || t->ne[1] != out || t->ne[2] != m->hp.route.n_experts || t->ne[3] != 1)
        return wrong_stack(m, t, s.in, out, e);
    for (uint32_t x = 0; x < m->hp.route.n_experts; x++)
        if (!(w[x] = bind_view(m, t, x * out + first, s.out))) return fail_nomem(e, "a view of a tensor", sizeof *t);
    return 0;
}

/* The same of a stack whose matrices have rows and columns exchanged: columns first, first + step, ... */
static int from_exchanged(struct model *m, const struct tensor *t, uint64_t cols, uint64_t first, uint64_t step, struct shape s,
                          const struct tensor **w, struct err *e)
{
    if (t->ne[0] != cols || t->ne[1] != s.in || t->ne[2] != m->hp.route.n_experts || t->ne[3] != 1)
        return wrong_stack(m, t, cols, s.in, e);
    if (qtypes[t->type].arith != ARITH_FLOAT)
        return fail(e, ERR_UNSUPPORTED,
                    "%s: tensor %.*s is %s; experts with rows and columns exchanged must be f32, f16 or bf16",
                    files_path(m->files), STR_ARG(t->name), qtypes[t->type].name);
    for (uint32_t x = 0; x < m->hp.route.n_experts; x++)
        if (!(w[x] = bind_transposed(m, t, x, first, step, s.out)))
            return fail_nomem(e, "the matrices of an expert", t->bytes / m->hp.route.n_experts);
    return 0;
}

static int fused(struct model *m, size_t set, const struct tensor *t, const struct tensor **w, struct err *e)
{
    const struct shape s = shape_of(&m->hp, set);
    const unsigned f = m->hp.arch->features;
    const bool alternate = (f & ALTERNATE_UP) != 0;
    const uint64_t all = set == DOWN ? s.out : 2 * s.out, up = set == UP;
    if (!(f & EXCHANGED_EXPERTS)) return from_stack(m, t, all, up * s.out, s, w, e);
    if (set == DOWN) return from_exchanged(m, t, all, 0, 1, s, w, e);
    return from_exchanged(m, t, all, alternate ? up : up * s.out, alternate ? 2 : 1, s, w, e);
}

/* ---- biases ---------------------------------------------------------------------------------------------------------- */

/* [n_experts][n_out]; in folders gate and up are together here, too. */
static int bind_bias(struct model *m, size_t set, uint32_t layer, struct expert_set *out, struct err *e)
{
    const uint64_t n = shape_of(&m->hp, set).out, n_experts = m->hp.route.n_experts;
    char name[TENSOR_NAME_MAX];
    (void)snprintf(name, sizeof name, "blk.%%u.%s", sets[set].gguf);
    const bool gguf = files_kind(m->files) == FILES_GGUF;
    const struct tensor *t = bind_find(m,
                                       gguf          ? name
                                       : set == DOWN ? down_names
                                                     : gate_up_names,
                                       gguf ? ".bias" : "_bias", layer);
    if (!t) return 0;
    const bool together = !gguf && set != DOWN;
    const float *all;
    TRY(bind_floats(m, t, (together ? 2 : 1) * n * n_experts, 0, &all, e));
    if (together) {
        const bool alternate = (m->hp.arch->features & ALTERNATE_UP) != 0;
        float *v = arena_array(&m->arena, n * n_experts, sizeof *v);
        if (!v) return fail_nomem(e, "biases of experts", n * n_experts * sizeof *v);
        for (uint64_t x = 0; x < n_experts; x++)
            for (uint64_t i = 0; i < n; i++)
                v[x * n + i] = all[2 * x * n + (alternate ? 2 * i + (set == UP) : (set == UP) * n + i)];
        all = v;
    }
    out->bias = all;
    (void)snprintf(name, sizeof name, "blk.%%u.%s.bias", sets[set].gguf);
    return bind_note_vector(m, name, layer, all, (const uint64_t[]){n, n_experts}, 2, e);
}

/* ---- a layer --------------------------------------------------------------------------------------------------------- */

static int find_set(struct model *m, size_t set, uint32_t layer, const struct tensor **w, struct err *e)
{
    const struct shape s = shape_of(&m->hp, set);
    char name[TENSOR_NAME_MAX];
    (void)snprintf(name, sizeof name, "blk.%%u.%s", sets[set].gguf);
    const struct tensor *t = NULL;
    if (files_kind(m->files) == FILES_GGUF) {
        t = bind_find(m, name, ".weight", layer);
        if (!t && set != DOWN) {
            t = bind_find(m, "blk.%u.ffn_gate_up_exps", ".weight", layer);
            if (t) return from_stack(m, t, 2 * s.out, set == UP ? s.out : 0, s, w, e);
        }
        return t ? from_stack(m, t, s.out, 0, s, w, e) : bind_missing(m, name, layer, e);
    }
    for (size_t p = 0; p < COUNT_OF(apart); p++) {
        if (!(t = find_apart(m, apart[p][set], 0, layer))) continue;
        for (uint32_t x = 0; x < m->hp.route.n_experts; x++) {
            if (!(w[x] = find_apart(m, apart[p][set], x, layer)))
                return fail(e, ERR_FORMAT, "%s: layer %u has no expert %u (%s)", files_path(m->files), layer, x, apart[p][set]);
            if (w[x]->ne[0] != s.in || w[x]->ne[1] != s.out || w[x]->n_dims != 2)
                return bind_wrong_shape(m, w[x], s.in, s.out, e);
        }
        return 0;
    }
    t = bind_find(m, stacked[set], ".weight", layer);
    if (t) return from_stack(m, t, s.out, 0, s, w, e);
    t = bind_find(m, set == DOWN ? down_names : gate_up_names, "", layer);
    return t ? fused(m, set, t, w, e) : bind_missing(m, name, layer, e);
}

int bind_experts(struct model *m, uint32_t layer, struct err *e)
{
    struct layer *l = &m->layers[layer];
    const uint32_t n = m->hp.route.n_experts;
    for (size_t set = 0; set < N_SETS; set++) {
        const struct tensor **w = arena_array(&m->arena, n, sizeof(*w));
        if (!w) return fail_nomem(e, "table of experts", n * sizeof *w);
        TRY(find_set(m, set, layer, w, e));
        set_of(l, set)->w = w;
        char name[TENSOR_NAME_MAX];
        (void)snprintf(name, sizeof name, "blk.%%u.%s.weight", sets[set].gguf);
        TRY(bind_note(m, name, layer, w, n, 0, e));
        for (uint32_t x = 0; x < n; x++) {
            TRY(bind_reads(m, w[x], e));
            bind_count(m, w[x], (double)m->hp.route.n_used / n, &m->layer_macs);
        }
        TRY(bind_bias(m, set, layer, set_of(l, set), e));
    }
    return 0;
}
