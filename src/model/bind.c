/* bind: tensors in their places. One table names every tensor of a layer in both kinds of files, where it goes and the shape it
 * must have; after model_open no name is looked up and no shape is in doubt. */
#include <stdio.h>

#include "model/model_int.h"

/* Widths that shapes are made of. */
enum dim {
    D_EMBD,
    D_FF,
    D_Q,
    D_Q_ROWS,
    D_KV,
    D_O,
    D_HEADS,
    D_HEAD_OR_Q,
    D_HEAD_OR_KV,
    D_EXPERTS,
    D_SHARED,
    D_ONE,
    D_VOCAB,
    D_LAYER_EMBD,
    D_ALL_EMBD,
    D_JOINED
};

static uint64_t dim_of(const struct hparams *hp, const struct layer_hp *l, enum dim d)
{
    switch (d) {
    case D_Q_ROWS:
        return (uint64_t)l->n_heads * l->head_dim * (hp->arch->features & OUTPUT_GATE ? 2 : 1);
    case D_EMBD:
        return hp->n_embd;
    case D_FF:
        return l->n_ff;
    case D_Q:
    case D_O:
    case D_HEAD_OR_Q:
        return (uint64_t)l->n_heads * l->head_dim;
    case D_KV:
    case D_HEAD_OR_KV:
        return (uint64_t)l->n_kv_heads * l->head_dim;
    case D_HEADS:
        return l->n_heads;
    case D_EXPERTS:
        return hp->route.n_experts;
    case D_SHARED:
        return hp->n_ff_shared;
    case D_ONE:
        return 1;
    case D_VOCAB:
        return hp->n_vocab;
    case D_LAYER_EMBD:
        return hp->n_embd_layer;
    case D_ALL_EMBD:
        return (uint64_t)hp->n_layers * hp->n_embd_layer;
    case D_JOINED:
        return 2 * (uint64_t)hp->n_embd;
    }
    return 0;
}

/* What a layer must have for a slot to be its. */
enum part {
    P_ALL,
    P_PRE,
    P_FFN_NORM,
    P_FFN_NORM_LATE,
    P_POST,
    P_ATTN,
    P_KV,
    P_V,
    P_V_OR_K,
    P_DENSE,
    P_GATE,
    P_MOE,
    P_BESIDE,
    P_LAYER_EMBD,
    P_LAST_NORM,
    P_EMBD_NORM,
    P_SUM,
    P_LM,
    P_ENCODER
};

struct slot {
    const char *gguf, *hf; /* names without .weight or .bias; Hugging Face's behind the prefix of the layers, parted by '|' */
    size_t at;             /* offset of a const struct tensor *, or of a const float * where vector */
    size_t bias;           /* offset of a const float *, or of a vector that of a uint32_t for its length, or NO_SLOT */
    enum dim in, out;      /* row length; rows. A vector has in only */
    enum part part;
    unsigned flags;
};
#define NO_SLOT SIZE_MAX
enum {
    VECTOR = 1,
    OPTIONAL = 2,
    NORM = 4,     /* weights of a norm */
    BARE = 8,     /* Hugging Face's name has no suffix */
    BIAS = 16,    /* GGUF's suffix is .bias, */
    HF_BIAS = 32, /* and so is the other's */
    SCALE = 64,   /* GGUF's suffix is .scale */
    TABLE = 128,  /* rows are looked up, and not multiplied with */
};

#define L(m) offsetof(struct layer, m)
static const struct slot layer_slots[] = {
    {"attn_norm", "input_layernorm|operator_norm|attn_norm", L(attn_norm), NO_SLOT, D_EMBD, 0, P_PRE, VECTOR | NORM},
    {"attn_output_norm", "/encoder.layer.%u.attention.output.LayerNorm|/encoder.layers.%u.norm1", L(attn_post_norm), NO_SLOT,
     D_EMBD, 0, P_SUM, VECTOR},
    {"attn_output_norm", "/encoder.layer.%u.attention.output.LayerNorm|/encoder.layers.%u.norm1", L(attn_post_bias), NO_SLOT,
     D_EMBD, 0, P_SUM, VECTOR | BIAS | HF_BIAS},
    {"layer_output_norm", "/encoder.layer.%u.output.LayerNorm|/encoder.layers.%u.norm2", L(ffn_post_norm), NO_SLOT, D_EMBD, 0,
     P_SUM, VECTOR},
    {"layer_output_norm", "/encoder.layer.%u.output.LayerNorm|/encoder.layers.%u.norm2", L(ffn_post_bias), NO_SLOT, D_EMBD, 0,
     P_SUM, VECTOR | BIAS | HF_BIAS},
    {"attn_q", "self_attn.q_proj|/encoder.layer.%u.attention.self.query", L(q), L(q_bias), D_EMBD, D_Q_ROWS, P_ATTN, 0},
    {"attn_k", "self_attn.k_proj|/encoder.layer.%u.attention.self.key", L(k), L(k_bias), D_EMBD, D_KV, P_KV, 0},
    {"attn_v", "self_attn.v_proj|/encoder.layer.%u.attention.self.value", L(v), L(v_bias), D_EMBD, D_KV, P_V, 0},
    {"attn_v", "self_attn.v_proj", L(v), L(v_bias), D_EMBD, D_KV, P_V_OR_K, OPTIONAL},
    {"attn_output",
     "self_attn.o_proj|self_attn.out_proj|attn.Wo|/encoder.layer.%u.attention.output.dense|/encoder.layers.%u.attn.out_proj",
     L(o), L(o_bias), D_O, D_EMBD, P_ATTN, 0},
    {"attn_q_norm", "self_attn.q_norm|self_attn.q_layernorm", L(q_norm), L(q_norm_len), D_HEAD_OR_Q, 0, P_ATTN,
     VECTOR | NORM | OPTIONAL},
    {"attn_k_norm", "self_attn.k_norm|self_attn.k_layernorm", L(k_norm), L(k_norm_len), D_HEAD_OR_KV, 0, P_KV,
     VECTOR | NORM | OPTIONAL},
    {"attn_sinks", "self_attn.sinks", L(sinks), NO_SLOT, D_HEADS, 0, P_ATTN, VECTOR | OPTIONAL | BARE},
    {"post_attention_norm", "post_self_attn_layernorm|post_attention_layernorm", L(attn_post_norm), NO_SLOT, D_EMBD, 0, P_POST,
     VECTOR | NORM},
    {"ffn_norm", "pre_feedforward_layernorm|post_attention_layernorm|ffn_norm|mlp_norm", L(ffn_norm), NO_SLOT, D_EMBD, 0,
     P_FFN_NORM, VECTOR | NORM},
    {"post_attention_norm", "post_attention_layernorm", L(ffn_norm), NO_SLOT, D_EMBD, 0, P_FFN_NORM_LATE, VECTOR | NORM},
    {"post_ffw_norm", "post_feedforward_layernorm|post_mlp_layernorm", L(ffn_post_norm), NO_SLOT, D_EMBD, 0, P_POST,
     VECTOR | NORM},
    {"ffn_gate", "mlp.gate_proj|feed_forward.gate_proj|feed_forward.w1|/encoder.layers.%u.mlp.fc12", L(gate), L(gate_bias),
     D_EMBD, D_FF, P_GATE, 0},
    {"ffn_up",
     "mlp.up_proj|feed_forward.up_proj|feed_forward.w3|/encoder.layer.%u.intermediate.dense|/encoder.layers.%u.mlp.fc11", L(up),
     L(up_bias), D_EMBD, D_FF, P_DENSE, 0},
    {"ffn_down",
     "mlp.down_proj|feed_forward.down_proj|feed_forward.w2|mlp.Wo|/encoder.layer.%u.output.dense|/encoder.layers.%u.mlp.fc2",
     L(down), L(down_bias), D_FF, D_EMBD, P_DENSE, 0},
    {"exp_probs_b", "mlp.gate.e_score_correction_bias|feed_forward.expert_bias", L(route.bias), NO_SLOT, D_EXPERTS, 0, P_MOE,
     VECTOR | OPTIONAL | BARE | BIAS},
    {"ffn_gate_shexp", "mlp.shared_expert.gate_proj|mlp.shared_experts.gate_proj|feed_forward.shared_expert.gate_proj",
     L(gate_shared), NO_SLOT, D_EMBD, D_SHARED, P_MOE, OPTIONAL},
    {"ffn_up_shexp", "mlp.shared_expert.up_proj|mlp.shared_experts.up_proj|feed_forward.shared_expert.up_proj", L(up_shared),
     NO_SLOT, D_EMBD, D_SHARED, P_MOE, OPTIONAL},
    {"ffn_down_shexp", "mlp.shared_expert.down_proj|mlp.shared_experts.down_proj|feed_forward.shared_expert.down_proj",
     L(down_shared), NO_SLOT, D_SHARED, D_EMBD, P_MOE, OPTIONAL},
    {"ffn_gate_inp_shexp", "mlp.shared_expert_gate", L(shared_gate), NO_SLOT, D_EMBD, D_ONE, P_MOE, OPTIONAL},
    {"ffn_gate_inp", "router.scale", L(router_norm), NO_SLOT, D_EMBD, 0, P_BESIDE, VECTOR | BARE | SCALE},
    {"ffn_down_exps", "router.per_expert_scale", L(route.expert_scale), NO_SLOT, D_EXPERTS, 0, P_BESIDE,
     VECTOR | BARE | SCALE | OPTIONAL},
    {"pre_ffw_norm_2", "pre_feedforward_layernorm_2", L(experts_norm), NO_SLOT, D_EMBD, 0, P_BESIDE, VECTOR | NORM},
    {"post_ffw_norm_1", "post_feedforward_layernorm_1", L(dense_post_norm), NO_SLOT, D_EMBD, 0, P_BESIDE, VECTOR | NORM},
    {"post_ffw_norm_2", "post_feedforward_layernorm_2", L(experts_post_norm), NO_SLOT, D_EMBD, 0, P_BESIDE, VECTOR | NORM},
    {"inp_gate", "per_layer_input_gate", L(embd_gate), NO_SLOT, D_EMBD, D_LAYER_EMBD, P_LAYER_EMBD, 0},
    {"proj", "per_layer_projection", L(embd_out), NO_SLOT, D_LAYER_EMBD, D_EMBD, P_LAYER_EMBD, 0},
    {"post_norm", "post_per_layer_input_norm", L(embd_post_norm), NO_SLOT, D_EMBD, 0, P_LAYER_EMBD, VECTOR | NORM},
    {"layer_output_scale", "layer_scalar", L(out_scale), NO_SLOT, D_ONE, 0, P_ALL, VECTOR | BARE | OPTIONAL},
};
static const struct slot router_slot = {
    "ffn_gate_inp", "mlp.gate|mlp.router|block_sparse_moe.gate|feed_forward.router|feed_forward.gate|router.proj",
    L(router),      L(router_bias),
    D_EMBD,         D_EXPERTS,
    P_ALL,          OPTIONAL};
#undef L
#define M(m) offsetof(struct model, m)
static const struct slot model_slots[] = {
    {"output_norm", "model.norm|model.final_norm", M(output_norm), NO_SLOT, D_EMBD, 0, P_LAST_NORM, VECTOR | NORM},
    {"token_embd_norm", "model.embedding_norm", M(output_norm), NO_SLOT, D_EMBD, 0, P_EMBD_NORM, VECTOR | NORM},
    {"output", "lm_head", M(output), M(output_bias), D_EMBD, D_VOCAB, P_LM, OPTIONAL},
    {"per_layer_model_proj", "model.per_layer_model_projection", M(layer_proj), NO_SLOT, D_EMBD, D_ALL_EMBD, P_LAYER_EMBD, 0},
    {"per_layer_proj_norm", "model.per_layer_projection_norm", M(layer_proj_norm), NO_SLOT, D_LAYER_EMBD, 0, P_LAYER_EMBD,
     VECTOR | NORM},
    {"token_embd_norm", "embeddings.LayerNorm|embeddings.norm|emb_ln", M(embd_norm), NO_SLOT, D_EMBD, 0, P_ENCODER, VECTOR},
    {"token_embd_norm", "embeddings.LayerNorm|embeddings.norm|emb_ln", M(embd_norm_bias), NO_SLOT, D_EMBD, 0, P_ENCODER,
     VECTOR | OPTIONAL | BIAS | HF_BIAS},
};
/* Of the head for multi-token prediction, beside its layer and under the prefix of it; Qwen's names are whole ones. */
static const struct slot head_slots[] = {
    {"nextn.eh_proj", "eh_proj|/mtp.fc", M(join), NO_SLOT, D_JOINED, D_EMBD, P_ALL, 0},
    {"nextn.enorm", "enorm|/mtp.pre_fc_norm_embedding", M(join_embd_norm), NO_SLOT, D_EMBD, 0, P_ALL, VECTOR | NORM},
    {"nextn.hnorm", "hnorm|/mtp.pre_fc_norm_hidden", M(join_input_norm), NO_SLOT, D_EMBD, 0, P_ALL, VECTOR | NORM},
    {"nextn.embed_tokens", "embed_tokens|/mtp.embed_tokens", M(token_embd), NO_SLOT, D_EMBD, D_VOCAB, P_ALL, OPTIONAL | TABLE},
    {"nextn.shared_head_norm", "shared_head.norm|/mtp.norm", M(output_norm), NO_SLOT, D_EMBD, 0, P_ALL,
     VECTOR | NORM | OPTIONAL},
    {"nextn.shared_head_head", "shared_head.head", M(output), NO_SLOT, D_EMBD, D_VOCAB, P_ALL, OPTIONAL},
};
#undef M

/* ---- names ------------------------------------------------------------------------------------------------------------- */

/* What text models of larger ones stand under; the empty one first. Of "model.norm" they make "model.language_model.norm". */
static const char *const prefixes[][2] = {
    {"model.", "model."},
    {"model.", "model.language_model."},
    {"model.", "language_model.model."},
    {"lm_head", "language_model.lm_head"},
    {"model.", ""},
    {"", "model."},
    {"", "bert."},
    {"", "roberta."},
};

static const struct tensor *find_hf(const struct model *m, const char *name)
{
    const struct tensor *t = files_find(m->files, str_of(name));
    for (size_t i = 1; !t && i < COUNT_OF(prefixes); i++) {
        char other[TENSOR_NAME_MAX];
        const size_t n = strlen(prefixes[i][0]);
        if (strncmp(name, prefixes[i][0], n) != 0) continue;
        (void)snprintf(other, sizeof other, "%s%s", prefixes[i][1], name + n);
        t = files_find(m->files, str_of(other));
    }
    return t;
}

/* name with the layer in the place of %u and the suffix behind it. */
static void spell(char out[TENSOR_NAME_MAX], struct str name, uint32_t layer, const char *suffix)
{
    size_t hole = 0;
    while (hole + 1 < name.n && !(name.p[hole] == '%' && name.p[hole + 1] == 'u')) hole++;
    if (hole + 1 >= name.n)
        (void)snprintf(out, TENSOR_NAME_MAX, "%.*s%s", STR_ARG(name), suffix);
    else
        (void)snprintf(out, TENSOR_NAME_MAX, "%.*s%u%.*s%s", (int)hole, name.p, layer, (int)(name.n - hole - 2),
                       name.p + hole + 2, suffix);
}

/* Qwen's layers for multi-token prediction are not behind the others, but counted by themselves. */
static const struct tensor *find_ahead(const struct model *m, struct str name, uint32_t layer, const char *suffix)
{
    static const struct str prefix = STR("model.layers.%u.");
    char other[TENSOR_NAME_MAX];
    if (layer < m->hp.n_layers || !str_starts(name, prefix)) return NULL;
    (void)snprintf(other, sizeof other, "mtp.layers.%u.%.*s%s", layer - m->hp.n_layers, (int)(name.n - prefix.n),
                   name.p + prefix.n, suffix);
    return find_hf(m, other);
}

const struct tensor *bind_find(struct model *m, const char *names, const char *suffix, uint32_t layer)
{
    for (struct str rest = str_of(names), one; rest.n;) {
        one = (struct str){rest.p, 0};
        while (one.n < rest.n && one.p[one.n] != '|') one.n++;
        const size_t step = size_min(one.n + 1, rest.n);
        rest = (struct str){rest.p + step, rest.n - step};
        char name[TENSOR_NAME_MAX];
        spell(name, one, layer, suffix);
        const bool gguf = files_kind(m->files) == FILES_GGUF;
        const struct tensor *t = gguf ? files_find(m->files, str_of(name)) : find_hf(m, name);
        if (!t && !gguf) t = find_ahead(m, one, layer, suffix);
        size_t i;
        if (t && files_index(m->files, t->name, &i)) {
            m->used[i] = true;
            return t;
        }
    }
    return NULL;
}

bool model_uses(const struct model *m, const struct tensor *t)
{
    size_t i;
    return files_index(m->files, t->name, &i) && m->used[i];
}

/* ---- what was bound ---------------------------------------------------------------------------------------------------- */

int bind_note(struct model *m, const char *name, uint32_t layer, const struct tensor *const *parts, uint32_t n, uint32_t heads,
              struct err *e)
{
    if (m->n_bound == m->cap_bound) {
        size_t cap = m->cap_bound ? 2 * m->cap_bound : 256;
        struct bound *grown = arena_array(&m->arena, cap, sizeof *grown);
        if (!grown) return fail_nomem(e, "table of tensors", cap * sizeof *grown);
        if (m->n_bound) memcpy(grown, m->bound, m->n_bound * sizeof *grown);
        m->bound = grown;
        m->cap_bound = cap;
    }
    struct bound *b = &m->bound[m->n_bound++];
    *b = (struct bound){.parts = parts, .n_parts = n, .heads = heads};
    spell(b->name, str_of(name), layer, "");
    for (uint32_t i = 0; i < n; i++) m->parameters += parts[i]->ne[0] * parts[i]->ne[1] * parts[i]->ne[2] * parts[i]->ne[3];
    return 0;
}

static int note_one(struct model *m, const char *name, uint32_t layer, const struct tensor *t, uint32_t heads, struct err *e)
{
    const struct tensor **parts = arena_array(&m->arena, 1, sizeof(*parts));
    if (!parts) return fail_nomem(e, "table of tensors", sizeof *parts);
    parts[0] = t;
    return bind_note(m, name, layer, parts, 1, heads, e);
}

int bind_note_vector(struct model *m, const char *name, uint32_t layer, const float *v, const uint64_t *ne, uint32_t n_dims,
                     struct err *e)
{
    struct tensor *t = arena_alloc(&m->arena, sizeof *t);
    if (!t) return fail_nomem(e, "table of tensors", sizeof *t);
    *t = (struct tensor){.type = QTYPE_F32, .n_dims = n_dims, .ne = {1, 1, 1, 1}, .data = v, .bytes = sizeof *v};
    for (uint32_t d = 0; d < n_dims; d++) t->bytes *= t->ne[d] = ne[d];
    return note_one(m, name, layer, t, 0, e);
}

int bind_reads(struct model *m, const struct tensor *t, struct err *e)
{
    if (m->n_reads == m->cap_reads) {
        size_t cap = m->cap_reads ? 2 * m->cap_reads : 256;
        struct region *grown = arena_array(&m->arena, cap, sizeof *grown);
        if (!grown) return fail_nomem(e, "table of tensors", cap * sizeof *grown);
        if (m->n_reads) memcpy(grown, m->reads, m->n_reads * sizeof *grown);
        m->reads = grown;
        m->cap_reads = cap;
    }
    m->reads[m->n_reads++] = (struct region){t->data, t->bytes};
    return 0;
}

void bind_count(struct model *m, const struct tensor *t, double share, struct macs *macs)
{
    uint64_t *kind = qtypes[t->type].arith == ARITH_FLOAT ? &macs->f32 : &macs->int8;
    *kind += (uint64_t)(share * (double)(t->ne[0] * t->ne[1]));
    m->decode_bytes += (uint64_t)(share * (double)t->bytes);
}

/* ---- shapes ------------------------------------------------------------------------------------------------------------ */

int bind_wrong_shape(const struct model *m, const struct tensor *t, uint64_t in, uint64_t out, struct err *e)
{
    return fail(e, ERR_FORMAT, "%s: tensor %.*s has %llu rows of %llu; its hyper-parameters say %llu rows of %llu",
                files_path(m->files), STR_ARG(t->name), (unsigned long long)(t->ne[1] * t->ne[2] * t->ne[3]),
                (unsigned long long)t->ne[0], (unsigned long long)out, (unsigned long long)in);
}

int bind_missing(const struct model *m, const char *name, uint32_t layer, struct err *e)
{
    char full[TENSOR_NAME_MAX];
    spell(full, str_of(name), layer, ".weight");
    return fail(e, ERR_FORMAT, "%s: tensor %s is missing", files_path(m->files), full);
}

/* Norm weights and biases as f32, whatever they are stored as (HF folders keep them in bf16). */
int bind_floats(struct model *m, const struct tensor *t, uint64_t n, float plus, const float **out, struct err *e)
{
    if (t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3] != n || t->type == QTYPE_COUNT) return bind_wrong_shape(m, t, n, 1, e);
    float *v = arena_array(&m->arena, n, sizeof *v);
    if (!v) return fail_nomem(e, "norm weights", n * sizeof *v);
    for (uint64_t i = 0; i < n; i += t->ne[0]) {
        const struct qrow row = tensor_row(t, i / t->ne[0]);
        qtypes[t->type].row_to_float(&row, 0, v + i, t->ne[0]);
    }
    for (uint64_t i = 0; i < n; i++) v[i] += plus;
    *out = v;
    return 0;
}

static int bind_vector(struct model *m, const char *name, uint32_t layer, const struct tensor *t, uint64_t n, bool norm,
                       const float **out, struct err *e)
{
    TRY(bind_floats(m, t, n, norm && bind_norms_less_1(m) ? 1.0f : 0.0f, out, e));
    return bind_note_vector(m, name, layer, *out, &n, 1, e);
}

const struct tensor *bind_view(struct model *m, const struct tensor *t, uint64_t first, uint64_t n)
{
    struct tensor *v = arena_alloc(&m->arena, sizeof *v);
    if (!v) return NULL;
    *v = *t;
    v->data = (const uint8_t *)t->data + first * tensor_row_bytes(t);
    v->n_dims = 2;
    v->ne[1] = n;
    v->ne[2] = v->ne[3] = 1;
    v->bytes = t->bytes / (t->ne[1] * t->ne[2] * t->ne[3]) * n;
    if (!t->side) return v;
    struct qside *side = arena_alloc(&m->arena, sizeof *side);
    if (!side) return NULL;
    *side = *t->side;
    const size_t groups = (size_t)first * (size_t)(t->ne[0] / side->group),
                 size = qtypes[t->type].has_min ? qtypes[side->type].block_bytes : 1;
    side->scales += groups * size;
    if (side->biases) side->biases += groups * size;
    v->side = side;
    return v;
}

const struct tensor *bind_transposed(struct model *m, const struct tensor *t, uint64_t plane, uint64_t from, uint64_t step,
                                     uint64_t n)
{
    const struct qtype_info *q = &qtypes[t->type];
    struct tensor *out = arena_alloc(&m->arena, sizeof *out);
    const uint64_t rows = t->ne[1], size = q->block_bytes;
    uint8_t *to = out ? arena_array(&m->arena, rows * n, size) : NULL;
    if (!to) return NULL;
    *out = (struct tensor){.name = t->name, .type = t->type, .n_dims = 2, .ne = {rows, n, 1, 1}, .bytes = rows * n * size};
    out->data = to;
    const uint8_t *src = (const uint8_t *)t->data + plane * rows * t->ne[0] * size;
    for (uint64_t c = 0; c < n; c++)
        for (uint64_t r = 0; r < rows; r++, to += size) memcpy(to, src + (r * t->ne[0] + from + c * step) * size, size);
    return out;
}

const struct tensor *bind_exchanged(struct model *m, const struct tensor *t)
{
    if (qtypes[t->type].arith == ARITH_FLOAT) return bind_transposed(m, t, 0, 0, 1, t->ne[0]);
    struct tensor *wide = arena_alloc(&m->arena, sizeof *wide);
    float *v = wide ? arena_array(&m->arena, t->ne[0] * t->ne[1], sizeof *v) : NULL;
    if (!v) return NULL;
    *wide = *t;
    wide->type = QTYPE_F32;
    wide->side = NULL;
    wide->data = v;
    for (uint64_t r = 0; r < t->ne[1]; r++) {
        const struct qrow row = tensor_row(t, r);
        qtypes[t->type].row_to_float(&row, 0, v + r * t->ne[0], t->ne[0]);
    }
    return bind_transposed(m, wide, 0, 0, 1, t->ne[0]);
}

/* ---- layers ------------------------------------------------------------------------------------------------------------ */

static bool has(const struct model *m, const struct layer *l, enum part p)
{
    const unsigned f = m->hp.arch->features;
    const struct layer_hp *h = l ? &m->hp.layers[l - m->layers] : NULL;
    const bool attention = h && m->hp.kv_lora == 0 && h->mixer == MIX_ATTENTION;
    const bool own_kv = attention && h->kv_layer == l - m->layers;
    switch (p) {
    case P_ALL:
        return true;
    case P_PRE:
        return !(f & (NO_PRE_NORMS | SUM_NORMS));
    case P_FFN_NORM:
        return !(f & (NO_PRE_NORMS | SUM_NORMS | PARALLEL | LATE_FFN_NORM));
    case P_FFN_NORM_LATE:
        return (f & LATE_FFN_NORM) != 0;
    case P_POST:
        return (f & POST_NORMS) != 0;
    case P_ATTN:
        return attention;
    case P_KV:
        return own_kv;
    case P_V:
        return own_kv && !(f & V_NORM);
    case P_V_OR_K:
        return own_kv && f & V_NORM;
    case P_DENSE:
        return !l->router || f & DENSE_BESIDE;
    case P_MOE:
        return l->router != NULL;
    case P_BESIDE:
        return l->router && f & DENSE_BESIDE;
    case P_LAYER_EMBD:
        return m->hp.n_embd_layer > 0;
    case P_LAST_NORM:
        return !(f & (CONV_LAYERS | SUM_NORMS));
    case P_SUM:
        return (f & SUM_NORMS) != 0;
    case P_GATE:
        return (!l->router || f & DENSE_BESIDE) && !(f & PLAIN_FFN);
    case P_LM:
        return !(f & ENCODER);
    case P_ENCODER:
        return (f & ENCODER) != 0;
    case P_EMBD_NORM: /* the norm behind the layers, under the name of another */
        return (f & CONV_LAYERS) != 0;
    }
    return false;
}

static const float **floats_at(void *base, size_t offset)
{
    return (const float **)(void *)((uint8_t *)base + offset);
}

/* Rows of Q and K lie otherwise in GGUF's files where the two kinds of files pair rotary elements otherwise: the heads of such
 * a matrix; 0: it is the same in both. */
static uint32_t turned_heads(const struct model *m, const struct slot *s, const struct layer_hp *l)
{
    const unsigned f = m->hp.arch->features;
    const bool hf_halves = !(f & HF_ADJACENT), gguf_halves = (f & GGUF_HALVES) != 0;
    if (hf_halves == gguf_halves) return 0;
    if (s->part == P_ATTN && s->out == D_Q_ROWS) return l->n_heads;
    return s->part == P_KV && s->out == D_KV ? l->n_kv_heads : 0;
}

static const char *gguf_suffix(const struct slot *s)
{
    return s->flags & BIAS ? ".bias" : s->flags & SCALE ? ".scale" : ".weight";
}

static int bind_slot(struct model *m, const struct slot *s, const char *gguf, const char *hf, uint32_t layer, void *base,
                     struct err *e)
{
    const struct layer_hp *l = &m->hp.layers[layer];
    const bool foreign = files_kind(m->files) == FILES_HF, vector = s->flags & VECTOR;
    const char *names = foreign ? hf : gguf;
    const char *hf_suffix = s->flags & BARE ? "" : s->flags & HF_BIAS ? ".bias" : ".weight";
    const char *suffix = foreign ? hf_suffix : gguf_suffix(s);
    const struct tensor *t = bind_find(m, names, suffix, layer);
    char name[TENSOR_NAME_MAX];
    /* ModernBERT's first layer reads the embeddings, which are normed already. */
    const bool first =
        layer == 0 && s->at == offsetof(struct layer, attn_norm) && s->part == P_PRE && m->hp.arch->features & ENCODER;
    if (!t) return first || s->flags & OPTIONAL ? 0 : bind_missing(m, gguf, layer, e);
    uint64_t in = dim_of(&m->hp, l, s->in);
    (void)snprintf(name, sizeof name, "%s%s", gguf, gguf_suffix(s));
    if (vector) {
        /* Norms of queries and keys are of a head, or of all together. */
        const bool of_heads = s->in == D_HEAD_OR_Q || s->in == D_HEAD_OR_KV;
        const uint64_t shape[] = {l->head_dim, in / size_max(l->head_dim, 1)};
        const bool by_head = of_heads && t->n_dims == 2 && t->ne[0] == shape[0] && t->ne[1] == shape[1];
        if (of_heads && !by_head && t->ne[0] == l->head_dim) in = l->head_dim;
        if (by_head && !(m->hp.arch->features & LAYER_NORM)) return bind_wrong_shape(m, t, in, 1, e);
        if (s->bias != NO_SLOT) *(uint32_t *)(void *)((uint8_t *)base + s->bias) = (uint32_t)in;
        if (!by_head) return bind_vector(m, name, layer, t, in, s->flags & NORM, floats_at(base, s->at), e);
        TRY(bind_floats(m, t, in, 0, floats_at(base, s->at), e));
        return bind_note_vector(m, name, layer, *floats_at(base, s->at), shape, 2, e);
    }
    const uint64_t out = dim_of(&m->hp, l, s->out);
    if (t->ne[0] != in || t->ne[1] != out || t->n_dims > 2) return bind_wrong_shape(m, t, in, out, e);
    *(const struct tensor **)(void *)((uint8_t *)base + s->at) = t;
    const uint32_t heads = foreign ? turned_heads(m, s, l) : 0;
    TRY(note_one(m, name, layer, t, heads, e));
    if (s->flags & TABLE) return 0;
    TRY(bind_reads(m, t, e));
    bind_count(m, t, 1, s->out == D_VOCAB ? &m->output_macs : &m->layer_macs);
    if (s->bias == NO_SLOT) return 0;
    t = bind_find(m, names, ".bias", layer);
    if (!t) return 0;
    (void)snprintf(name, sizeof name, "%s.bias", gguf);
    TRY(bind_vector(m, name, layer, t, out, false, floats_at(base, s->bias), e));
    m->bound[m->n_bound - 1].heads = heads;
    return 0;
}

/* The names of a slot of layers, with the prefixes of these. */
struct names {
    char gguf[TENSOR_NAME_MAX], hf[3 * TENSOR_NAME_MAX];
};
static void layer_names(const struct slot *s, struct names *out)
{
    size_t n = 0;
    (void)snprintf(out->gguf, sizeof out->gguf, "blk.%%u.%s", s->gguf);
    for (const char *p = s->hf; *p;) {
        const size_t len = strcspn(p, "|");
        const bool whole = *p == '/'; /* not behind the prefix */
        n += (size_t)snprintf(out->hf + n, sizeof out->hf - n, "%s%s%.*s", n ? "|" : "", whole ? "" : "model.layers.%u.",
                              (int)(len - whole), p + whole);
        p += len + (p[len] == '|');
    }
}

static int bind_layer_slot(struct model *m, const struct slot *s, uint32_t layer, struct err *e)
{
    struct names n;
    layer_names(s, &n);
    return bind_slot(m, s, n.gguf, n.hf, layer, &m->layers[layer], e);
}

/* Files have matrices of keys and values for layers that read the cache of others, too; nobody reads them. */
static void pass_over_kv(struct model *m, const struct slot *s, uint32_t layer)
{
    struct names n;
    if (m->hp.layers[layer].kv_layer == layer || (s->part != P_KV && s->part != P_V && s->part != P_V_OR_K)) return;
    layer_names(s, &n);
    (void)bind_find(m, files_kind(m->files) == FILES_HF ? n.hf : n.gguf, ".weight", layer);
}

/* A matrix that holds the rows of several; they become views. out: [n] places, rows: [n]. False: the file has none. */
static int bind_fused(struct model *m, const char *gguf, const char *hf, uint32_t layer, const uint64_t *rows,
                      const struct tensor **const *out, size_t n, bool *found, struct err *e)
{
    const struct tensor *t = bind_find(m, files_kind(m->files) == FILES_HF ? hf : gguf, ".weight", layer);
    uint64_t all = 0, at = 0;
    for (size_t i = 0; i < n; i++) all += rows[i];
    *found = t && t->n_dims == 2 && t->ne[1] == all && t->ne[0] == m->hp.n_embd;
    if (!*found) return 0;
    for (size_t i = 0; i < n; at += rows[i], i++)
        if (!(*out[i] = bind_view(m, t, at, rows[i]))) return fail_nomem(e, "a view of a tensor", sizeof *t);
    char name[TENSOR_NAME_MAX];
    (void)snprintf(name, sizeof name, "%s.weight", gguf);
    TRY(note_one(m, name, layer, t, 0, e));
    TRY(bind_reads(m, t, e));
    bind_count(m, t, 1, &m->layer_macs);
    return 0;
}

static int bind_fused_layer(struct model *m, uint32_t layer, bool *qkv, bool *gate_up, struct err *e)
{
    struct layer *l = &m->layers[layer];
    const struct layer_hp *h = &m->hp.layers[layer];
    const uint64_t q = (uint64_t)h->n_heads * h->head_dim, kv = (uint64_t)h->n_kv_heads * h->head_dim;
    const struct tensor **const qkv_at[] = {&l->q, &l->k, &l->v}, **const up_at[] = {&l->gate, &l->up};
    const bool attention = h->mixer == MIX_ATTENTION;
    if (attention)
        TRY(bind_fused(m, "blk.%u.attn_qkv",
                       "model.layers.%u.self_attn.qkv_proj|model.layers.%u.attn.Wqkv|encoder.layers.%u.attn.Wqkv", layer,
                       (const uint64_t[]){q, kv, kv}, qkv_at, 3, qkv, e));
    return bind_fused(m, "blk.%u.ffn_up", "model.layers.%u.mlp.gate_up_proj|model.layers.%u.mlp.Wi", layer,
                      (const uint64_t[]){h->n_ff, h->n_ff}, up_at, 2, gate_up, e);
}

static int bind_layer(struct model *m, uint32_t layer, struct err *e)
{
    struct layer *l = &m->layers[layer];
    bool qkv = false, gate_up = false;
    l->route = m->hp.route;
    if (m->hp.route.n_experts) TRY(bind_layer_slot(m, &router_slot, layer, e));
    TRY(bind_fused_layer(m, layer, &qkv, &gate_up, e));
    for (size_t i = 0; i < COUNT_OF(layer_slots); i++) {
        const struct slot *s = &layer_slots[i];
        const bool in_view = (qkv && (s->at == offsetof(struct layer, q) || s->at == offsetof(struct layer, k) ||
                                      s->at == offsetof(struct layer, v))) ||
                             (gate_up && (s->at == offsetof(struct layer, gate) || s->at == offsetof(struct layer, up)));
        if (has(m, l, s->part) && !in_view)
            TRY(bind_layer_slot(m, s, layer, e));
        else
            pass_over_kv(m, s, layer);
    }
    if (m->hp.kv_lora) TRY(bind_latent(m, layer, e));
    if (m->hp.layers[layer].mixer != MIX_ATTENTION) TRY(bind_mixer(m, layer, e));
    return l->router ? bind_experts(m, layer, e) : 0;
}

/* ---- matrices by the names of either kind of file ---------------------------------------------------------------------- */

/* Names of matrices that stand in no slot: rows of several in one, and those of latent attention. */
static const struct {
    const char *gguf, *hf;
} other_names[] = {
    {"attn_qkv", "self_attn.qkv_proj"},
    {"attn_qkv", "attn.Wqkv"},
    {"ffn_up", "mlp.gate_up_proj"},
    {"ffn_up", "mlp.Wi"},
    {"attn_q_a", "self_attn.q_a_proj"},
    {"attn_q_b", "self_attn.q_b_proj"},
    {"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"},
};

/* Takes a folder's name apart: the layer, and what stands behind it. False: it is of no layer. */
static bool split_layer(struct str name, uint32_t *layer, struct str *leaf)
{
    static const struct str marks[] = {STR("layers."), STR("layer.")};
    for (size_t i = 0; i < name.n; i++) {
        for (size_t k = 0; k < COUNT_OF(marks) && (i == 0 || name.p[i - 1] == '.'); k++) {
            struct str rest = {name.p + i, name.n - i}, digits;
            uint64_t v;
            if (!str_starts(rest, marks[k])) continue;
            rest = (struct str){rest.p + marks[k].n, rest.n - marks[k].n};
            const char *dot = memchr(rest.p, '.', rest.n);
            digits = (struct str){rest.p, dot ? (size_t)(dot - rest.p) : 0};
            if (!str_u64(digits, &v) || v >= MAX_LAYERS) continue;
            *layer = (uint32_t)v;
            *leaf = (struct str){dot + 1, rest.n - digits.n - 1};
            return true;
        }
    }
    return false;
}

/* Whether leaf is one of a slot's names in folders. */
static bool leaf_is(struct str leaf, const char *names)
{
    for (const char *p = names; *p;) {
        const size_t n = strcspn(p, "|");
        struct str one = {p, n};
        const char *hole = *p == '/' ? strstr(p, "%u.") : NULL;
        if (hole && hole < p + n) one = (struct str){hole + 3, (size_t)(p + n - hole - 3)};
        if (str_eq(one, leaf)) return true;
        p += n + (p[n] == '|');
    }
    return false;
}

static const struct tensor *find_layer_matrix(const struct model *m, const char *gguf, uint32_t layer)
{
    char name[TENSOR_NAME_MAX];
    (void)snprintf(name, sizeof name, "blk.%u.%s.weight", layer, gguf);
    return files_find(m->files, str_of(name));
}

/* A matrix of a GGUF file by its name in folders. */
static const struct tensor *find_translated(const struct model *m, struct str hf, uint32_t *heads)
{
    uint32_t layer;
    struct str leaf;
    const struct tensor *t = NULL;
    if (!split_layer(hf, &layer, &leaf) || layer >= m->hp.n_layers) return NULL;
    for (size_t i = 0; !t && i < COUNT_OF(layer_slots); i++) {
        const struct slot *s = &layer_slots[i];
        if (s->flags & VECTOR || !leaf_is(leaf, s->hf)) continue;
        t = find_layer_matrix(m, s->gguf, layer);
        if (t && m->hp.kv_lora == 0) *heads = turned_heads(m, s, &m->hp.layers[layer]);
    }
    for (size_t i = 0; !t && i < COUNT_OF(other_names); i++)
        if (str_is(leaf, other_names[i].hf)) t = find_layer_matrix(m, other_names[i].gguf, layer);
    return t;
}

const struct tensor *bind_by_hf(const struct model *m, struct str name, uint32_t *heads)
{
    char full[TENSOR_NAME_MAX];
    *heads = 0;
    if (str_ends(name, STR("lm_head"))) return m->output;
    if (files_kind(m->files) == FILES_GGUF) return find_translated(m, name, heads);
    if (name.n + sizeof ".weight" > sizeof full) return NULL;
    (void)snprintf(full, sizeof full, "%.*s.weight", STR_ARG(name));
    const struct tensor *t = find_hf(m, full);
    return t == m->token_embd ? NULL : t; /* its rows are looked up, and not multiplied with */
}

const struct tensor *bind_by_gguf(const struct model *m, struct str name, uint32_t *heads)
{
    *heads = 0;
    if (str_is(name, "output.weight")) return m->output;
    if (str_is(name, "token_embd.weight")) return NULL;
    if (files_kind(m->files) == FILES_GGUF) return files_find(m->files, name);
    for (size_t i = 0; i < m->n_bound; i++) {
        const struct bound *b = &m->bound[i];
        if (!str_is(name, b->name)) continue;
        *heads = b->heads;
        return b->n_parts == 1 && !b->order ? b->parts[0] : NULL;
    }
    return NULL;
}

/* ---- the head for multi-token prediction ------------------------------------------------------------------------------ */

static bool has_head(struct model *m)
{
    struct names n;
    layer_names(&head_slots[0], &n);
    return m->hp.n_mtp && bind_find(m, files_kind(m->files) == FILES_HF ? n.hf : n.gguf, ".weight", m->hp.n_layers);
}

/* What was counted since then, and is read, is the head's alone; its list follows the model's. */
static void split_off(struct model *m, const struct model *before, struct model *head)
{
    head->reads = m->reads + before->n_reads;
    head->n_reads = m->n_reads - before->n_reads;
    head->decode_bytes = m->decode_bytes - before->decode_bytes;
    m->n_reads = before->n_reads;
    m->decode_bytes = before->decode_bytes;
    m->layer_macs = before->layer_macs;
    m->output_macs = before->output_macs;
    if (head->output == m->output) head->decode_bytes += m->output->bytes;
}

/* Last, for all that is bound after this is its. Files may say that there is one and leave it out. */
static int bind_mtp(struct model *m, struct err *e)
{
    const uint32_t layer = m->hp.n_layers;
    if (!has_head(m)) return 0;
    struct model *head = m->head = arena_alloc(&m->arena, sizeof *head);
    struct layer_hp *lh = arena_alloc(&m->arena, sizeof *lh);
    if (!head || !lh) return fail_nomem(e, "the head for multi-token prediction", sizeof *head);
    const struct model before = *m;
    *lh = m->hp.layers[layer];
    lh->kv_layer = 0;
    *head = (struct model){.files = m->files,
                           .hp = m->hp,
                           .token_embd = m->token_embd,
                           .output = m->output,
                           .output_norm = m->output_norm,
                           .output_norm_bias = m->output_norm_bias,
                           .output_bias = m->output_bias,
                           .layers = m->layers + layer,
                           .n_bound = m->n_bound,       /* of the model without it, */
                           .parameters = m->parameters, /* and its parameters: see model_drop_head */
                           .ones = m->ones};
    head->hp.n_layers = 1;
    head->hp.n_mtp = 0;
    head->hp.layers = lh;
    TRY(bind_layer(m, layer, e));
    for (size_t i = 0; i < COUNT_OF(head_slots); i++) {
        struct names n;
        layer_names(&head_slots[i], &n);
        TRY(bind_slot(m, &head_slots[i], n.gguf, n.hf, layer, head, e));
    }
    split_off(m, &before, head);
    return 0;
}

/* ---- the whole --------------------------------------------------------------------------------------------------------- */

/* A table whose rows are added to the embeddings, from row `first` on. */
static int bind_table(struct model *m, const char *gguf, const char *hf, uint64_t first, const struct tensor **at,
                      struct err *e)
{
    const struct tensor *t = bind_find(m, files_kind(m->files) == FILES_HF ? hf : gguf, ".weight", 0);
    char name[TENSOR_NAME_MAX];
    if (!t) return 0;
    if (t->ne[0] != m->hp.n_embd || t->n_dims > 2 || t->ne[1] <= first)
        return bind_wrong_shape(m, t, m->hp.n_embd, t->ne[1], e);
    *at = first ? bind_view(m, t, first, t->ne[1] - first) : t;
    if (!*at) return fail_nomem(e, "a view of a tensor", sizeof *t);
    (void)snprintf(name, sizeof name, "%s.weight", gguf);
    return note_one(m, name, 0, *at, 0, e);
}

/* What ranks: BERT's pooler and classifier, or RoBERTa's and ModernBERT's heads. */
static int bind_head(struct model *m, struct err *e)
{
    static const char *const dense = "pooler.dense|bert.pooler.dense|classifier.dense|head.dense",
                             *const out = "classifier.out_proj|classifier|score";
    const bool hf = files_kind(m->files) == FILES_HF;
    const uint64_t n = m->hp.n_embd;
    m->cls_out = bind_find(m, hf ? out : "cls.output", ".weight", 0);
    m->cls = bind_find(m, hf ? dense : "cls", ".weight", 0);
    if (!m->cls_out) return 0;
    if (m->cls_out->ne[0] != n || m->cls_out->n_dims > 2) return bind_wrong_shape(m, m->cls_out, n, m->cls_out->ne[1], e);
    m->n_labels = (uint32_t)m->cls_out->ne[1];
    const struct tensor *b = bind_find(m, hf ? out : "cls.output", ".bias", 0);
    if (b) TRY(bind_vector(m, "cls.output.bias", 0, b, m->n_labels, false, &m->cls_out_bias, e));
    TRY(note_one(m, "cls.output.weight", 0, m->cls_out, 0, e));
    if (!m->cls) return 0;
    if (m->cls->ne[0] != n || m->cls->ne[1] != n) return bind_wrong_shape(m, m->cls, n, n, e);
    TRY(note_one(m, "cls.weight", 0, m->cls, 0, e));
    b = bind_find(m, hf ? dense : "cls", ".bias", 0);
    if (b) TRY(bind_vector(m, "cls.bias", 0, b, n, false, &m->cls_bias, e));
    b = bind_find(m, hf ? "head.norm" : "cls.norm", ".weight", 0);
    return b ? bind_vector(m, "cls.norm.weight", 0, b, n, false, &m->cls_norm, e) : 0;
}

static int bind_encoder(struct model *m, struct err *e)
{
    const struct hparams *hp = &m->hp;
    uint64_t first = 0;
    if (files_kind(m->files) == FILES_HF && hp->arch->features & AFTER_PAD) {
        const struct json *pad = config_find(m->files, "pad_token_id");
        first = pad && pad->type == JSON_INT && pad->i >= 0 && pad->i < 1 << 20 ? (uint64_t)pad->i + 1 : 2;
    }
    TRY(bind_table(m, "token_types", "embeddings.token_type_embeddings", 0, &m->type_embd, e));
    if (hp->arch->features & ABSOLUTE) {
        TRY(bind_table(m, "position_embd", "embeddings.position_embeddings", first, &m->position_embd, e));
        if (!m->position_embd) return bind_missing(m, "position_embd", 0, e);
        m->hp.n_ctx_train = (uint32_t)size_min(m->hp.n_ctx_train, m->position_embd->ne[1]);
    }
    return 0;
}

/* Of sentence-transformers: matrices behind the pooling, each as wide as the one before it. */
static int bind_dense(struct model *m, struct err *e)
{
    static const char *const names[DENSE_MAX][2] = {{"dense_2", "2_Dense.linear"}, {"dense_3", "3_Dense.linear"}};
    const bool hf = files_kind(m->files) == FILES_HF;
    uint64_t n = m->hp.n_embd;
    for (size_t i = 0, at = 0; i < DENSE_MAX; i++) {
        const struct tensor *t = bind_find(m, names[i][hf], ".weight", 0);
        char name[TENSOR_NAME_MAX];
        if (!t) continue;
        if (t->ne[0] != n || t->n_dims != 2) return bind_wrong_shape(m, t, n, t->ne[1], e);
        if (bind_find(m, names[i][hf], ".bias", 0))
            return fail(e, ERR_UNSUPPORTED, "%s: a bias behind the pooling (%s.bias) is not supported", files_path(m->files),
                        names[i][hf]);
        (void)snprintf(name, sizeof name, "%s.weight", names[i][0]);
        TRY(note_one(m, name, 0, t, 0, e));
        m->dense[at++] = t;
        n = t->ne[1];
    }
    return 0;
}

/* The table of the layers' own embeddings, of which a token reads one row, as of the other. */
static int bind_layer_embd(struct model *m, struct err *e)
{
    const uint64_t n = dim_of(&m->hp, NULL, D_ALL_EMBD);
    if (n == 0) return 0;
    const char *name = files_kind(m->files) == FILES_HF ? "model.embed_tokens_per_layer" : "per_layer_token_embd";
    const struct tensor *t = m->layer_embd = bind_find(m, name, ".weight", 0);
    if (!t) return bind_missing(m, name, 0, e);
    if (t->ne[0] != n || t->ne[1] != m->hp.n_vocab || t->n_dims != 2) return bind_wrong_shape(m, t, n, m->hp.n_vocab, e);
    return note_one(m, "per_layer_token_embd.weight", 0, t, 0, e);
}

/* Such models come without an output matrix. */
static bool embeds_only(const struct arch *a)
{
    const struct str name = str_of(a->hf_class);
    return str_ends(name, STR("Model")) || str_ends(name, STR("ForSequenceClassification"));
}

static bool untied(const struct files *f)
{
    const char *used = "";
    const struct json *tied = config_any(f, "tie_word_embeddings|tie_embedding", &used);
    return tied && tied->type == JSON_FALSE;
}

static int bind_all(struct model *m, struct err *e)
{
    struct hparams *hp = &m->hp;
    const bool foreign = files_kind(m->files) == FILES_HF;
    m->used = arena_array(&m->arena, size_max(files_n_tensors(m->files), 1), sizeof *m->used);
    if (!m->used) return fail_nomem(e, "table of tensors", files_n_tensors(m->files));
    m->token_embd = bind_find(
        m, foreign ? "model.embed_tokens|embeddings.word_embeddings|embeddings.tok_embeddings" : "token_embd", ".weight", 0);
    const struct tensor *t = m->token_embd;
    if (!t) return fail(e, ERR_FORMAT, "%s: the embedding table (token_embd.weight) is missing", files_path(m->files));
    if (t->ne[0] != hp->n_embd || t->n_dims != 2 || t->ne[1] > INT32_MAX)
        return bind_wrong_shape(m, t, hp->n_embd, t->ne[1], e);
    hp->n_vocab = (uint32_t)t->ne[1];
    TRY(note_one(m, "token_embd.weight", 0, t, 0, e));
    TRY(bind_layer_embd(m, e));
    m->layers = arena_array(&m->arena, hp->n_layers + (size_t)1, sizeof *m->layers);
    float *ones = arena_array(&m->arena, ATTN_DIM_MAX, sizeof *ones);
    if (!m->layers || !ones) return fail_nomem(e, "layers", hp->n_layers * sizeof *m->layers);
    for (size_t i = 0; i < ATTN_DIM_MAX; i++) ones[i] = 1.0f;
    m->ones = ones;
    for (uint32_t l = 0; l < hp->n_layers; l++) TRY(bind_layer(m, l, e));
    /* Some checkpoints store a matrix that config.json says is tied: it is a leftover, as in transformers. */
    const bool tied = foreign && hp->tied;
    for (size_t i = 0; i < COUNT_OF(model_slots); i++) {
        const struct slot *s = &model_slots[i];
        if (has(m, NULL, s->part) && !(tied && s->part == P_LM)) TRY(bind_slot(m, s, s->gguf, s->hf, 0, m, e));
    }
    TRY(bind_head(m, e));
    TRY(bind_dense(m, e));
    if (hp->arch->features & ENCODER) return bind_encoder(m, e);
    if (!m->output) {
        if (foreign && untied(m->files) && !embeds_only(hp->arch))
            return fail(e, ERR_FORMAT, "%s: tensor lm_head.weight is missing, and config.json does not tie it to the embedding",
                        files_path(m->files));
        m->output = m->token_embd;
        TRY(bind_reads(m, t, e));
        bind_count(m, t, 1, &m->output_macs);
    }
    hp->tied = m->output == m->token_embd;
    return bind_mtp(m, e);
}

int model_open(const struct files *f, struct model **out, struct err *e)
{
    struct model *m = mem_zalloc(sizeof *m);
    if (!m) return fail_nomem(e, "the model", sizeof *m);
    m->files = f;
    int rc = hparams_read(f, &m->arena, &m->hp, e);
    if (rc == 0) rc = bind_all(m, e);
    if (rc == 0) rc = unused_check(m, e);
    if (rc < 0) {
        model_close(&m);
        return rc;
    }
    *out = m;
    return 0;
}

/* What was bound of it stands behind all else. */
void model_drop_head(struct model *m)
{
    if (!m->head) return;
    m->n_bound = m->head->n_bound;
    m->parameters = m->head->parameters;
    m->head = NULL;
}

void model_close(struct model **m)
{
    if (!*m) return;
    arena_fini(&(*m)->arena);
    mem_free(*m);
    *m = NULL;
}
