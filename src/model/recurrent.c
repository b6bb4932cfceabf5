/* recurrent: layers that carry a state from token to token instead of looking back: gated delta nets and short convolutions.
 *
 * A gated delta net has n_k_heads keys and queries and a multiple of them, n_v_heads, of values. Folders either keep its four
 * inputs in one matrix, by key heads, or apart; GGUF keeps them apart, and of some architectures with the heads of values in
 * another order: head j of key k is number j * n_k_heads + k there and k * (n_v_heads / n_k_heads) + j in folders. */
#include <math.h>
#include <stdio.h>

#include "model/model_int.h"

/* ---- hyper-parameters -------------------------------------------------------------------------------------------------- */

static int check_delta(const struct files *f, struct hparams *hp, struct err *e)
{
    struct delta_hp *d = &hp->delta;
    if (d->n_v_heads && !d->v_dim) d->v_dim = d->inner / d->n_v_heads;
    d->inner = d->n_v_heads * d->v_dim;
    if (!d->taps || !d->k_dim || !d->v_dim || d->v_dim > ATTN_DIM_MAX || !d->n_k_heads || !d->n_v_heads || d->inner > 1 << 18 ||
        d->n_v_heads % d->n_k_heads)
        return fail(e, ERR_FORMAT,
                    "%s: a gated delta net of %u keys of %u and %u values of %u elements, and a convolution of %u; all must be "
                    "there, and keys divide values",
                    files_path(f), d->n_k_heads, d->k_dim, d->n_v_heads, d->v_dim, d->taps);
    return 0;
}

/* The feed-forward width may be two thirds of what is said, rounded up. */
int conv_config(const struct files *f, struct hparams *hp, struct err *e)
{
    struct {
        bool adjust;
        float factor;
        uint32_t unit;
    } x = {hp->route.n_experts == 0, 1, 256};
#define X(m) (size_t)((uint8_t *)&x.m - (uint8_t *)&x)
    const struct number_row rows[] = {
        {NULL, "block_auto_adjust_ff_dim", X(adjust), NUM_BOOL, 0, 1},
        {NULL, "block_ffn_dim_multiplier", X(factor), NUM_F32, 1e-3, 16},
        {NULL, "block_multiple_of", X(unit), NUM_U32, 1, 1 << 20},
    };
#undef X
    hp->tied = true; /* what files mean that do not say it */
    TRY(numbers_read(f, hp->arch, rows, COUNT_OF(rows), &x, e));
    if (!x.adjust) return 0;
    const uint32_t width = (uint32_t)((double)(2 * (uint64_t)hp->n_ff / 3) * (double)x.factor);
    hp->n_ff = (width + x.unit - 1) / x.unit * x.unit;
    return 0;
}

/* Layers with attention, by their numbers: an older way to say it. */
static void full_layers(const struct files *f, struct hparams *hp)
{
    const struct json *list = config_find(f, "full_attn_idxs");
    for (uint32_t l = 0; list && l < hp->n_layers; l++) {
        hp->layers[l].mixer = MIX_CONV;
        for (size_t i = 0; list->type == JSON_ARRAY && i < list->n; i++)
            if (list->v[i].type == JSON_INT && list->v[i].i == l) hp->layers[l].mixer = MIX_ATTENTION;
    }
}

static void config_mixers(const struct files *f, struct hparams *hp)
{
    const struct json *types = config_find(f, "layer_types"); /* layers.c has checked that they are strings */
    if (!types) full_layers(f, hp);
    for (uint32_t l = 0; types && l < hp->n_layers; l++) {
        struct layer_hp *x = &hp->layers[l];
        x->mixer = str_is(types->v[l].s, "linear_attention") ? MIX_DELTA
                   : str_is(types->v[l].s, "conv")           ? MIX_CONV
                                                             : MIX_ATTENTION;
    }
}

int mixers_read(const struct files *f, struct hparams *hp, struct err *e)
{
    const bool hf = files_kind(f) == FILES_HF, delta = hp->arch->features & DELTA_LAYERS,
               conv = hp->arch->features & CONV_LAYERS;
    if (!delta && !conv) return 0;
    const uint32_t period = hp->delta.full_every ? hp->delta.full_every : hp->arch->full_every;
    for (uint32_t l = 0; l < hp->n_layers; l++) {
        struct layer_hp *x = &hp->layers[l];
        if (delta) x->mixer = (l + 1) % period ? MIX_DELTA : MIX_ATTENTION;
        if (conv) x->mixer = x->n_kv_heads ? MIX_ATTENTION : MIX_CONV;
    }
    if (hf) config_mixers(f, hp);
    hp->n_kv_heads = 0;
    for (uint32_t l = 0; l < hp->n_layers; l++) {
        struct layer_hp *x = &hp->layers[l];
        if (x->mixer == MIX_DELTA) TRY(check_delta(f, hp, e));
        if (x->mixer == MIX_CONV && !hp->conv_taps)
            return fail(e, ERR_FORMAT, "%s: shortconv.l_cache is missing", files_path(f));
        if (x->mixer != MIX_ATTENTION) x->n_kv_heads = 0;
        hp->n_kv_heads = x->n_kv_heads > hp->n_kv_heads ? x->n_kv_heads : hp->n_kv_heads;
        if (delta && hp->delta.full_every == 0 && x->mixer == MIX_ATTENTION) hp->delta.full_every = l + 1;
    }
    return 0;
}

/* ---- finding ----------------------------------------------------------------------------------------------------------- */

/* A tensor of a layer by its two names, both behind their prefixes and with what comes behind them. */
static const struct tensor *find(struct model *m, const char *gguf, const char *hf, uint32_t layer)
{
    char name[TENSOR_NAME_MAX];
    const bool foreign = files_kind(m->files) == FILES_HF;
    (void)snprintf(name, sizeof name, "%s%s", foreign ? "model.layers.%u." : "blk.%u.", foreign ? hf : gguf);
    return bind_find(m, name, "", layer);
}

static int need(struct model *m, const char *gguf, const char *hf, uint32_t layer, const struct tensor **out, struct err *e)
{
    *out = find(m, gguf, hf, layer);
    if (*out) return 0;
    return fail(e, ERR_FORMAT, "%s: tensor %s%u.%s is missing", files_path(m->files),
                files_kind(m->files) == FILES_HF ? "model.layers." : "blk.", layer,
                files_kind(m->files) == FILES_HF ? hf : gguf);
}

bool bind_norms_less_1(struct model *m)
{
    if (files_kind(m->files) != FILES_HF || !(m->hp.arch->features & NORM_PLUS_1)) return false;
    /* Folders made by mlx-lm have added it. They are known by their convolutions, of which it exchanges dimensions. */
    const struct tensor *conv = m->hp.arch->features & DELTA_LAYERS ? find(m, "", "linear_attn.conv1d.weight", 0) : NULL;
    return !conv || conv->ne[0] != 1;
}

/* Notes that the GGUF file has n rows of t, in the order rows (NULL: as they are), with their parts in the order blocks. */
static int note(struct model *m, const char *gguf, uint32_t layer, const struct tensor *t, const struct reorder *order,
                uint64_t n, struct err *e)
{
    const struct tensor **part = arena_array(&m->arena, 1, sizeof(*part));
    const struct tensor *shape = bind_view(m, t, 0, n);
    char name[TENSOR_NAME_MAX];
    if (!part || !shape) return fail_nomem(e, "table of tensors", sizeof *shape);
    part[0] = shape;
    (void)snprintf(name, sizeof name, "blk.%%u.%s", gguf);
    TRY(bind_note(m, name, layer, part, 1, 0, e));
    m->bound[m->n_bound - 1].order = order;
    return 0;
}

/* A matrix that is used as it is, except that its GGUF file may have it in another order. */
static int bind_matrix(struct model *m, const char *gguf, const char *hf, uint32_t layer, uint64_t in, uint64_t out,
                       const struct reorder *order, const struct tensor **at, struct err *e)
{
    TRY(need(m, gguf, hf, layer, at, e));
    const struct tensor *t = *at;
    if (t->ne[0] != in || t->ne[1] != out || t->n_dims != 2) return bind_wrong_shape(m, t, in, out, e);
    TRY(bind_reads(m, t, e));
    bind_count(m, t, 1, &m->layer_macs);
    return gguf ? note(m, gguf, layer, t, order, out, e) : 0;
}

/* ---- orders ------------------------------------------------------------------------------------------------------------ */

/* Source of element i of n_v_heads heads of `len` elements: those of GGUF's order in that of folders. */
static uint32_t untiled(const struct delta_hp *d, uint32_t i, uint32_t len)
{
    const uint32_t head = i / len, group = d->n_v_heads / d->n_k_heads;
    return (head % d->n_k_heads * group + head / d->n_k_heads) * len + i % len;
}

/* Rows of the file of which `before` stay in their places, followed by heads of values; NULL: no memory. */
static const struct reorder *value_rows(struct model *m, uint32_t before, uint32_t len)
{
    const struct delta_hp *d = &m->hp.delta;
    const uint32_t n = before + d->n_v_heads * len;
    struct reorder *order = arena_alloc(&m->arena, sizeof *order);
    uint32_t *rows = order ? arena_array(&m->arena, n, sizeof *rows) : NULL;
    if (!rows) return NULL;
    for (uint32_t i = 0; i < n; i++) rows[i] = i < before ? i : before + untiled(d, i - before, len);
    *order = (struct reorder){.rows = rows};
    return order;
}

/* Columns that are heads of values. */
static const struct reorder *value_cols(struct model *m)
{
    const struct delta_hp *d = &m->hp.delta;
    struct reorder *order = arena_alloc(&m->arena, sizeof *order);
    uint32_t *blocks = order ? arena_array(&m->arena, d->n_v_heads, sizeof *blocks) : NULL;
    if (!blocks) return NULL;
    for (uint32_t h = 0; h < d->n_v_heads; h++) blocks[h] = untiled(d, h, 1);
    *order = (struct reorder){.blocks = blocks, .n_blocks = d->n_v_heads};
    return order;
}

/* Of a matrix that has its rows by key heads, `head` of them each: of each head those from `at` on, `len` of them. */
static uint32_t *head_rows(const struct delta_hp *d, uint32_t head, uint32_t at, uint32_t len, uint32_t *rows)
{
    for (uint32_t h = 0; h < d->n_k_heads; h++)
        for (uint32_t i = 0; i < len; i++) *rows++ = h * head + at + i;
    return rows;
}

/* ---- gated delta nets -------------------------------------------------------------------------------------------------- */

/* One matrix of queries, keys, values and gates: two tensors of a GGUF file. */
static int bind_together(struct model *m, uint32_t layer, const struct tensor *t, struct err *e)
{
    const struct delta_hp *d = &m->hp.delta;
    const uint32_t values = d->inner / d->n_k_heads, head = 2 * (d->k_dim + values), n = 2 * d->n_k_heads * d->k_dim + d->inner;
    if (t->ne[0] != m->hp.n_embd || t->ne[1] != n + d->inner || t->n_dims != 2)
        return bind_wrong_shape(m, t, m->hp.n_embd, n + d->inner, e);
    m->layers[layer].mix_in = t;
    TRY(bind_reads(m, t, e));
    bind_count(m, t, 1, &m->layer_macs);
    struct reorder *order = arena_array(&m->arena, 2, sizeof *order);
    uint32_t *rows = order ? arena_array(&m->arena, n + d->inner, sizeof *rows) : NULL;
    if (!rows) return fail_nomem(e, "order of rows", (n + d->inner) * sizeof *rows);
    uint32_t *to = head_rows(d, head, 0, d->k_dim, rows);
    to = head_rows(d, head, d->k_dim, d->k_dim, to);
    to = head_rows(d, head, 2 * d->k_dim, values, to);
    (void)head_rows(d, head, 2 * d->k_dim + values, values, to);
    order[0].rows = rows;
    order[1].rows = to;
    TRY(note(m, "attn_qkv.weight", layer, t, &order[0], n, e));
    return note(m, "attn_gate.weight", layer, t, &order[1], d->inner, e);
}

static int bind_inputs(struct model *m, uint32_t layer, bool turn, struct err *e)
{
    const struct delta_hp *d = &m->hp.delta;
    struct layer *l = &m->layers[layer];
    const uint32_t keys = 2 * d->n_k_heads * d->k_dim, n_embd = m->hp.n_embd;
    const struct reorder *qkv = turn ? value_rows(m, keys, d->v_dim) : NULL, *gate = turn ? value_rows(m, 0, d->v_dim) : NULL;
    const struct reorder *one = turn ? value_rows(m, 0, 1) : NULL;
    if (turn && (!qkv || !gate || !one)) return fail_nomem(e, "order of rows", d->inner * sizeof(uint32_t));
    const struct tensor *together = find(m, "ssm_in.weight", "linear_attn.in_proj_qkvz.weight", layer);
    if (together) {
        TRY(bind_together(m, layer, together, e));
    } else {
        TRY(bind_matrix(m, "attn_qkv.weight", "linear_attn.in_proj_qkv.weight", layer, n_embd, keys + d->inner, qkv, &l->mix_in,
                        e));
        TRY(bind_matrix(m, "attn_gate.weight", "linear_attn.in_proj_z.weight", layer, n_embd, d->inner, gate, &l->mix_gate, e));
    }
    if (find(m, "ssm_ba.weight", "linear_attn.in_proj_ba.weight", layer))
        return bind_matrix(m, "ssm_ba.weight", "linear_attn.in_proj_ba.weight", layer, n_embd, 2 * d->n_v_heads, NULL, &l->beta,
                           e);
    TRY(bind_matrix(m, "ssm_beta.weight", "linear_attn.in_proj_b.weight", layer, n_embd, d->n_v_heads, one, &l->beta, e));
    return bind_matrix(m, "ssm_alpha.weight", "linear_attn.in_proj_a.weight", layer, n_embd, d->n_v_heads, one, &l->alpha, e);
}

/* The taps of a convolution of n columns, of which each has its own one behind the other, as the rows that the kernel reads. */
static int bind_taps(struct model *m, const char *gguf, const char *hf, uint32_t layer, uint32_t taps, uint32_t n,
                     const struct reorder *order, const float **out, struct err *e)
{
    const struct tensor *t;
    const float *file;
    TRY(need(m, gguf, hf, layer, &t, e));
    TRY(bind_floats(m, t, (uint64_t)taps * n, 0, &file, e));
    float *w = arena_array(&m->arena, (size_t)taps * n, sizeof *w),
          *gguf_order = order ? arena_array(&m->arena, (size_t)taps * n, sizeof *w) : NULL;
    if (!w || (order && !gguf_order)) return fail_nomem(e, "weights of a convolution", (size_t)taps * n * sizeof *w);
    for (size_t c = 0; c < n; c++)
        for (size_t i = 0; i < taps; i++) w[i * n + c] = file[c * taps + i];
    for (size_t c = 0; order && c < n; c++)
        memcpy(gguf_order + c * taps, file + (size_t)order->rows[c] * taps, taps * sizeof *file);
    *out = w;
    char name[TENSOR_NAME_MAX];
    (void)snprintf(name, sizeof name, "blk.%%u.%s", gguf);
    return bind_note_vector(m, name, layer, order ? gguf_order : file, (const uint64_t[]){taps, n}, 2, e);
}

/* n numbers; those of folders may lie in another order there. */
static int bind_numbers(struct model *m, const char *gguf, const char *hf, uint32_t layer, uint32_t n,
                        const struct reorder *order, bool exp_less, const float **out, struct err *e)
{
    const struct tensor *t;
    TRY(need(m, gguf, hf, layer, &t, e));
    TRY(bind_floats(m, t, n, 0, out, e));
    float *v = arena_array(&m->arena, n, sizeof *v), *turned = arena_array(&m->arena, n, sizeof *v);
    if (!v || !turned) return fail_nomem(e, "gates", n * sizeof *v);
    for (uint32_t i = 0; i < n; i++) v[i] = exp_less ? (float)-num_exp_f64((double)(*out)[i]) : (*out)[i];
    for (uint32_t i = 0; i < n; i++) turned[i] = v[order ? order->rows[i] : i];
    *out = v;
    char name[TENSOR_NAME_MAX];
    (void)snprintf(name, sizeof name, "blk.%%u.%s", gguf);
    const uint64_t ne = n;
    return bind_note_vector(m, name, layer, turned, &ne, 1, e);
}

/* Norms of queries and keys: to length 1, and queries by the scale of their products with keys. */
static int bind_qk_norms(struct model *m, struct delta_params *p, struct err *e)
{
    float *w = arena_array(&m->arena, 2 * (size_t)p->k_dim, sizeof *w);
    if (!w) return fail_nomem(e, "norm weights", 2 * p->k_dim * sizeof *w);
    for (uint32_t i = 0; i < p->k_dim; i++) {
        w[i] = 1.0f / (float)p->k_dim;
        w[p->k_dim + i] = 1.0f / sqrtf((float)p->k_dim);
    }
    p->q_norm = w;
    p->k_norm = w + p->k_dim;
    p->eps = 1e-6f / (float)p->k_dim;
    return 0;
}

static int bind_delta(struct model *m, uint32_t layer, struct err *e)
{
    const struct delta_hp *d = &m->hp.delta;
    const bool hf = files_kind(m->files) == FILES_HF, tiled = m->hp.arch->features & TILED_VALUES;
    const bool turn = hf && tiled && d->n_k_heads != d->n_v_heads;
    const uint32_t keys = 2 * d->n_k_heads * d->k_dim;
    struct layer *l = &m->layers[layer];
    struct delta_params *p = &l->delta;
    *p = (struct delta_params){.n_k_heads = d->n_k_heads, .n_v_heads = d->n_v_heads, .k_dim = d->k_dim, .v_dim = d->v_dim};
    p->tiled = tiled && !hf;
    l->conv = (struct conv_params){.taps = d->taps, .silu = true};
    TRY(bind_inputs(m, layer, turn, e));
    const struct reorder *cols = turn ? value_cols(m) : NULL, *one = turn ? value_rows(m, 0, 1) : NULL;
    const struct reorder *conv = turn ? value_rows(m, keys, d->v_dim) : NULL;
    if (turn && (!cols || !one || !conv)) return fail_nomem(e, "order of rows", d->inner * sizeof(uint32_t));
    TRY(bind_taps(m, "ssm_conv1d.weight", "linear_attn.conv1d.weight", layer, d->taps, keys + d->inner, conv, &l->conv.w, e));
    TRY(bind_numbers(m, "ssm_dt.bias", "linear_attn.dt_bias", layer, d->n_v_heads, one, false, &p->dt, e));
    TRY(bind_numbers(m, "ssm_a", "linear_attn.A_log", layer, d->n_v_heads, one, hf, &p->a, e));
    TRY(bind_numbers(m, "ssm_norm.weight", "linear_attn.norm.weight", layer, d->v_dim, NULL, false, &l->mix_norm, e));
    TRY(bind_qk_norms(m, p, e));
    return bind_matrix(m, "ssm_out.weight", "linear_attn.out_proj.weight", layer, d->inner, m->hp.n_embd, cols, &l->o, e);
}

static value_id record_delta(const struct model *m, const struct layer *l, value_id h, struct graph *g)
{
    const struct delta_params *p = &l->delta;
    const uint32_t group = p->n_v_heads / p->n_k_heads, values = group * p->v_dim;
    value_id qkv = graph_matmul(g, h, l->mix_in, NULL), z = l->mix_gate ? graph_matmul(g, h, l->mix_gate, NULL) : NO_VALUE;
    value_id b = graph_matmul(g, h, l->beta, NULL), a = l->alpha ? graph_matmul(g, h, l->alpha, NULL) : NO_VALUE;
    if (!l->mix_gate) {
        z = graph_head_cols(g, qkv, p->n_k_heads, 2 * p->k_dim + values, values);
        qkv = graph_delta_split(g, qkv, p);
    }
    if (!l->alpha) {
        a = graph_head_cols(g, b, p->n_k_heads, group, group);
        b = graph_head_cols(g, b, p->n_k_heads, 0, group);
    }
    qkv = graph_delta_norm(g, graph_conv(g, qkv, &l->conv), p);
    value_id o = graph_delta(g, qkv, graph_delta_gates(g, b, a, p), p);
    o = graph_head_norm(g, o, l->mix_norm, m->hp.norm_eps, p->n_v_heads, p->v_dim);
    return graph_matmul(g, graph_glu(g, ACT_SILU, 0, z, o), l->o, NULL);
}

/* ---- short convolutions ------------------------------------------------------------------------------------------------ */

static int optional_bias(struct model *m, const char *gguf, const char *hf, uint32_t layer, uint64_t n, const float **out,
                         struct err *e)
{
    const struct tensor *t = find(m, gguf, hf, layer);
    if (!t) return 0;
    TRY(bind_floats(m, t, n, 0, out, e));
    char name[TENSOR_NAME_MAX];
    (void)snprintf(name, sizeof name, "blk.%%u.%s", gguf);
    return bind_note_vector(m, name, layer, *out, &n, 1, e);
}

static int bind_conv(struct model *m, uint32_t layer, struct err *e)
{
    const uint32_t n = m->hp.n_embd;
    struct layer *l = &m->layers[layer];
    const struct tensor *in, **const views[] = {&l->conv_b, &l->conv_c, &l->conv_x};
    const float *bias = NULL;
    TRY(bind_matrix(m, "shortconv.in_proj.weight", "conv.in_proj.weight", layer, n, 3 * (uint64_t)n, NULL, &in, e));
    for (size_t i = 0; i < COUNT_OF(views); i++)
        if (!(*views[i] = bind_view(m, in, i * n, n))) return fail_nomem(e, "a view of a tensor", sizeof *in);
    TRY(optional_bias(m, "shortconv.in_proj.bias", "conv.in_proj.bias", layer, 3 * (uint64_t)n, &bias, e));
    if (bias) l->conv_b_bias = bias, l->conv_c_bias = bias + n, l->conv_x_bias = bias + 2 * (size_t)n;
    l->conv = (struct conv_params){.taps = m->hp.conv_taps};
    TRY(bind_taps(m, "shortconv.conv.weight", "conv.conv.weight", layer, m->hp.conv_taps, n, NULL, &l->conv.w, e));
    TRY(optional_bias(m, "shortconv.conv.bias", "conv.conv.bias", layer, n, &l->conv.bias, e));
    TRY(bind_matrix(m, "shortconv.out_proj.weight", "conv.out_proj.weight", layer, n, n, NULL, &l->o, e));
    return optional_bias(m, "shortconv.out_proj.bias", "conv.out_proj.bias", layer, n, &l->o_bias, e);
}

static value_id record_conv(const struct layer *l, value_id h, struct graph *g)
{
    const value_id b = graph_matmul(g, h, l->conv_b, l->conv_b_bias), c = graph_matmul(g, h, l->conv_c, l->conv_c_bias);
    const value_id x = graph_matmul(g, h, l->conv_x, l->conv_x_bias);
    return graph_matmul(g, graph_mul(g, c, graph_conv(g, graph_mul(g, b, x), &l->conv)), l->o, l->o_bias);
}

/* ---- both -------------------------------------------------------------------------------------------------------------- */

int bind_mixer(struct model *m, uint32_t layer, struct err *e)
{
    return m->hp.layers[layer].mixer == MIX_DELTA ? bind_delta(m, layer, e) : bind_conv(m, layer, e);
}

value_id record_mixer(const struct model *m, uint32_t layer, value_id h, struct graph *g)
{
    const struct layer *l = &m->layers[layer];
    return m->hp.layers[layer].mixer == MIX_DELTA ? record_delta(m, l, h, g) : record_conv(l, h, g);
}
