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

/* GGUF says by a period which layers have attention. */
static int find_period(const struct files *f, struct hparams *hp, struct err *e)
{
    uint32_t *period = &hp->delta.full_every;
    *period = 0;
    for (uint32_t l = 0; *period == 0 && l < hp->n_layers; l++)
        if (hp->layers[l].mixer == MIX_ATTENTION) *period = l + 1;
    if (*period == 0) *period = MAX_LAYERS;
    for (uint32_t l = 0; l < hp->n_layers; l++)
        if ((hp->layers[l].mixer == MIX_ATTENTION) != ((l + 1) % *period == 0))
            return fail(e, ERR_UNSUPPORTED, "%s: layer %u has %s; expected attention in every %u. layer and in no other",
                        files_path(f), l, hp->layers[l].mixer == MIX_ATTENTION ? "attention" : "none", *period);
    return 0;
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
    if (delta) TRY(find_period(f, hp, e));
    hp->n_kv_heads = 0;
    for (uint32_t l = 0; l < hp->n_layers; l++) {
        struct layer_hp *x = &hp->layers[l];
        if (x->mixer == MIX_DELTA) TRY(check_delta(f, hp, e));
        if (x->mixer == MIX_CONV && !hp->conv_taps)
            return fail(e, ERR_FORMAT, "%s: %s is missing", files_path(f), hf ? "conv_L_cache" : "shortconv.l_cache");
        if (x->mixer != MIX_ATTENTION) x->n_kv_heads = 0;
        hp->n_kv_heads = x->n_kv_heads > hp->n_kv_heads ? x->n_kv_heads : hp->n_kv_heads;
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

/* Notes that the GGUF file has n rows of t, in an order of its own or (NULL) as they are. */
static int note(struct model *m, const char *gguf, uint32_t layer, const struct tensor *t, const struct reorder *order,
                uint64_t n, struct err *e)
{
    const struct tensor **part = arena_array(&m->arena, 1, sizeof(*part));
    const struct tensor *shape = bind_view(m, t, 0, n);
    if (!part || !shape) return fail_nomem(e, "table of tensors", sizeof *shape);
    part[0] = shape;
    char name[TENSOR_NAME_MAX];
    (void)snprintf(name, sizeof name, "blk.%%u.%s", gguf);
    TRY(bind_note(m, name, layer, part, 1, 0, e));
    m->bound[m->n_bound - 1].order = order;
    return 0;
}

/* A matrix that is used as it is. */
static int bind_matrix(struct model *m, const char *gguf, const char *hf, uint32_t layer, uint64_t in, uint64_t out,
                       const struct tensor **at, struct err *e)
{
    TRY(need(m, gguf, hf, layer, at, e));
    const struct tensor *t = *at;
    if (t->ne[0] != in || t->ne[1] != out || t->n_dims != 2) return bind_wrong_shape(m, t, in, out, e);
    bind_count(m, t, 1, &m->layer_macs);
    return bind_reads(m, t, e);
}

static int bind_noted(struct model *m, const char *gguf, const char *hf, uint32_t layer, uint64_t in, uint64_t out,
                      const struct tensor **at, struct err *e)
{
    TRY(bind_matrix(m, gguf, hf, layer, in, out, at, e));
    return note(m, gguf, layer, *at, NULL, out, e);
}

/* ---- the order of values ----------------------------------------------------------------------------------------------- */

/* Whether GGUF's file has another one than ours. */
static bool turned(const struct model *m)
{
    const struct delta_hp *d = &m->hp.delta;
    return files_kind(m->files) == FILES_HF && m->hp.arch->features & TILED_VALUES && d->n_k_heads != d->n_v_heads;
}

/* Where element i of n_v_heads heads of `len` elements in GGUF's order stands in that of folders. */
static uint32_t source_of(const struct delta_hp *d, uint32_t i, uint32_t len)
{
    const uint32_t head = i / len, group = d->n_v_heads / d->n_k_heads;
    return (head % d->n_k_heads * group + head / d->n_k_heads) * len + i % len;
}

/* The order of rows (or of any things) of which the first `before` stay in their places and heads of values follow; NULL: no
 * memory. */
static const struct reorder *order_of(struct model *m, uint32_t before, uint32_t len)
{
    const uint32_t n = before + m->hp.delta.n_v_heads * len;
    struct reorder *order = arena_alloc(&m->arena, sizeof *order);
    uint32_t *rows = order ? arena_array(&m->arena, n, sizeof *rows) : NULL;
    if (!rows) return NULL;
    for (uint32_t i = 0; i < n; i++) rows[i] = i < before ? i : before + source_of(&m->hp.delta, i - before, len);
    *order = (struct reorder){.rows = rows};
    return order;
}

/* A matrix of the inputs, whose rows from `before` on are heads of values of len rows. */
static int bind_values(struct model *m, const char *gguf, const char *hf, uint32_t layer, uint32_t before, uint32_t len,
                       const struct tensor **at, struct err *e)
{
    const uint64_t n = before + (uint64_t)m->hp.delta.n_v_heads * len;
    TRY(bind_matrix(m, gguf, hf, layer, m->hp.n_embd, n, at, e));
    const struct reorder *order = turned(m) ? order_of(m, before, len) : NULL;
    if (turned(m) && !order) return fail_nomem(e, "order of rows", n * sizeof(uint32_t));
    return note(m, gguf, layer, *at, order, n, e);
}

/* The matrix of the output, whose columns are heads of values. */
static int bind_out(struct model *m, uint32_t layer, struct err *e)
{
    const struct delta_hp *d = &m->hp.delta;
    struct layer *l = &m->layers[layer];
    struct reorder *order = NULL;
    TRY(bind_matrix(m, "ssm_out.weight", "linear_attn.out_proj.weight", layer, d->inner, m->hp.n_embd, &l->o, e));
    if (turned(m)) {
        const struct reorder *heads = order_of(m, 0, 1);
        order = heads ? arena_alloc(&m->arena, sizeof *order) : NULL;
        if (!order) return fail_nomem(e, "order of heads", d->n_v_heads * sizeof(uint32_t));
        *order = (struct reorder){.blocks = heads->rows, .n_blocks = d->n_v_heads};
    }
    return note(m, "ssm_out.weight", layer, l->o, order, m->hp.n_embd, e);
}

/* ---- gated delta nets -------------------------------------------------------------------------------------------------- */

/* Of a matrix that has its rows by key heads, `head` of them each: of each head those from `at` on, `len` of them. */
static uint32_t *head_rows(const struct delta_hp *d, uint32_t head, uint32_t at, uint32_t len, uint32_t *rows)
{
    for (uint32_t h = 0; h < d->n_k_heads; h++)
        for (uint32_t i = 0; i < len; i++) *rows++ = h * head + at + i;
    return rows;
}

/* One matrix of queries, keys, values and gates: two tensors of a GGUF file. */
static int bind_together(struct model *m, uint32_t layer, struct err *e)
{
    const struct delta_hp *d = &m->hp.delta;
    const uint32_t values = d->inner / d->n_k_heads, head = 2 * (d->k_dim + values), n = 2 * d->n_k_heads * d->k_dim + d->inner;
    const struct tensor **t = &m->layers[layer].mix_in;
    TRY(bind_matrix(m, "ssm_in.weight", "linear_attn.in_proj_qkvz.weight", layer, m->hp.n_embd, n + d->inner, t, e));
    struct reorder *order = arena_array(&m->arena, 2, sizeof *order);
    uint32_t *rows = order ? arena_array(&m->arena, n + d->inner, sizeof *rows) : NULL;
    if (!rows) return fail_nomem(e, "order of rows", (n + d->inner) * sizeof *rows);
    uint32_t *to = head_rows(d, head, 0, d->k_dim, rows);
    to = head_rows(d, head, d->k_dim, d->k_dim, to);
    to = head_rows(d, head, 2 * d->k_dim, values, to);
    (void)head_rows(d, head, 2 * d->k_dim + values, values, to);
    order[0].rows = rows;
    order[1].rows = to;
    TRY(note(m, "attn_qkv.weight", layer, *t, &order[0], n, e));
    return note(m, "attn_gate.weight", layer, *t, &order[1], d->inner, e);
}

static int bind_inputs(struct model *m, uint32_t layer, struct err *e)
{
    const struct delta_hp *d = &m->hp.delta;
    struct layer *l = &m->layers[layer];
    const uint32_t keys = 2 * d->n_k_heads * d->k_dim;
    if (find(m, "ssm_in.weight", "linear_attn.in_proj_qkvz.weight", layer)) {
        TRY(bind_together(m, layer, e));
    } else {
        TRY(bind_values(m, "attn_qkv.weight", "linear_attn.in_proj_qkv.weight", layer, keys, d->v_dim, &l->mix_in, e));
        TRY(bind_values(m, "attn_gate.weight", "linear_attn.in_proj_z.weight", layer, 0, d->v_dim, &l->mix_gate, e));
    }
    if (find(m, "ssm_ba.weight", "linear_attn.in_proj_ba.weight", layer))
        return bind_noted(m, "ssm_ba.weight", "linear_attn.in_proj_ba.weight", layer, m->hp.n_embd, 2 * d->n_v_heads, &l->beta,
                          e);
    TRY(bind_values(m, "ssm_beta.weight", "linear_attn.in_proj_b.weight", layer, 0, 1, &l->beta, e));
    return bind_values(m, "ssm_alpha.weight", "linear_attn.in_proj_a.weight", layer, 0, 1, &l->alpha, e);
}

/* The taps of a convolution of n columns, of which each has its own one behind the other, as the rows that the kernel reads.
 * The columns from `before` on are heads of values of len columns; len 0: all are as they are. */
static int bind_taps(struct model *m, const char *gguf, const char *hf, uint32_t layer, uint32_t n, uint32_t before,
                     uint32_t len, struct conv_params *p, struct err *e)
{
    const struct tensor *t;
    const float *file;
    const uint64_t all = (uint64_t)p->taps * n, ne[] = {p->taps, n};
    TRY(need(m, gguf, hf, layer, &t, e));
    TRY(bind_floats(m, t, all, 0, &file, e));
    float *w = arena_array(&m->arena, all, sizeof *w), *other = arena_array(&m->arena, all, sizeof *w);
    if (!w || !other) return fail_nomem(e, "weights of a convolution", all * sizeof *w);
    for (uint32_t c = 0; c < n; c++) {
        const uint32_t from = len && c >= before && turned(m) ? before + source_of(&m->hp.delta, c - before, len) : c;
        for (size_t i = 0; i < p->taps; i++) w[i * n + c] = file[c * (size_t)p->taps + i];
        memcpy(other + c * (size_t)p->taps, file + from * (size_t)p->taps, p->taps * sizeof *file);
    }
    p->w = w;
    char name[TENSOR_NAME_MAX];
    (void)snprintf(name, sizeof name, "blk.%%u.%s", gguf);
    return bind_note_vector(m, name, layer, other, ne, 2, e);
}

/* A number for each head of values; of folders, where `exp`, it is x and stands for -e^x. */
static int bind_heads(struct model *m, const char *gguf, const char *hf, uint32_t layer, bool exp, const float **out,
                      struct err *e)
{
    const struct tensor *t;
    const uint64_t n = m->hp.delta.n_v_heads;
    TRY(need(m, gguf, hf, layer, &t, e));
    TRY(bind_floats(m, t, n, 0, out, e));
    float *v = arena_array(&m->arena, n, sizeof *v), *other = arena_array(&m->arena, n, sizeof *v);
    if (!v || !other) return fail_nomem(e, "gates", n * sizeof *v);
    const bool folder = files_kind(m->files) == FILES_HF;
    for (uint32_t i = 0; i < n; i++) v[i] = exp && folder ? (float)-num_exp_f64((double)(*out)[i]) : (*out)[i];
    for (uint32_t i = 0; i < n; i++) other[i] = v[turned(m) ? source_of(&m->hp.delta, i, 1) : i];
    *out = v;
    char name[TENSOR_NAME_MAX];
    (void)snprintf(name, sizeof name, "blk.%%u.%s", gguf);
    return bind_note_vector(m, name, layer, other, &n, 1, e);
}

/* A vector, where the file has it. */
static int bind_plain(struct model *m, const char *gguf, const char *hf, uint32_t layer, uint64_t n, const float **out,
                      struct err *e)
{
    const struct tensor *t = find(m, gguf, hf, layer);
    if (!t) return 0;
    TRY(bind_floats(m, t, n, 0, out, e));
    char name[TENSOR_NAME_MAX];
    (void)snprintf(name, sizeof name, "blk.%%u.%s", gguf);
    return bind_note_vector(m, name, layer, *out, &n, 1, e);
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
    const uint32_t keys = 2 * d->n_k_heads * d->k_dim;
    struct layer *l = &m->layers[layer];
    struct delta_params *p = &l->delta;
    *p = (struct delta_params){.n_k_heads = d->n_k_heads, .n_v_heads = d->n_v_heads, .k_dim = d->k_dim, .v_dim = d->v_dim};
    p->tiled = files_kind(m->files) == FILES_GGUF && m->hp.arch->features & TILED_VALUES;
    l->conv = (struct conv_params){.taps = d->taps, .silu = true};
    TRY(bind_inputs(m, layer, e));
    TRY(bind_taps(m, "ssm_conv1d.weight", "linear_attn.conv1d.weight", layer, keys + d->inner, keys, d->v_dim, &l->conv, e));
    TRY(bind_heads(m, "ssm_dt.bias", "linear_attn.dt_bias", layer, false, &p->dt, e));
    TRY(bind_heads(m, "ssm_a", "linear_attn.A_log", layer, true, &p->a, e));
    TRY(bind_plain(m, "ssm_norm.weight", "linear_attn.norm.weight", layer, d->v_dim, &l->mix_norm, e));
    if (!l->mix_norm) return bind_missing(m, "blk.%u.ssm_norm", layer, e);
    TRY(bind_qk_norms(m, p, e));
    return bind_out(m, layer, e);
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

static int bind_conv(struct model *m, uint32_t layer, struct err *e)
{
    const uint32_t n = m->hp.n_embd;
    struct layer *l = &m->layers[layer];
    const struct tensor *in, **const views[] = {&l->conv_b, &l->conv_c, &l->conv_x};
    const float *bias = NULL;
    TRY(bind_noted(m, "shortconv.in_proj.weight", "conv.in_proj.weight", layer, n, 3 * (uint64_t)n, &in, e));
    for (size_t i = 0; i < COUNT_OF(views); i++)
        if (!(*views[i] = bind_view(m, in, i * n, n))) return fail_nomem(e, "a view of a tensor", sizeof *in);
    TRY(bind_plain(m, "shortconv.in_proj.bias", "conv.in_proj.bias", layer, 3 * (uint64_t)n, &bias, e));
    if (bias) l->conv_b_bias = bias, l->conv_c_bias = bias + n, l->conv_x_bias = bias + 2 * (size_t)n;
    l->conv = (struct conv_params){.taps = m->hp.conv_taps};
    TRY(bind_taps(m, "shortconv.conv.weight", "conv.conv.weight", layer, n, n, 0, &l->conv, e));
    TRY(bind_plain(m, "shortconv.conv.bias", "conv.conv.bias", layer, n, &l->conv.bias, e));
    TRY(bind_noted(m, "shortconv.out_proj.weight", "conv.out_proj.weight", layer, n, n, &l->o, e));
    return bind_plain(m, "shortconv.out_proj.bias", "conv.out_proj.bias", layer, n, &l->o_bias, e);
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
