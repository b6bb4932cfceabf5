/* model: tensors bound to their places. One table names every tensor of a layer, where it goes and the shape it must have;
 * after model_open no name is looked up and no shape is in doubt. */
#include "model/model.h"

/* Widths that shapes are made of. */
enum dim { D_EMBD, D_FF, D_Q, D_KV, D_VOCAB };

static uint64_t dim_of(const struct hparams *hp, enum dim d)
{
    switch (d) {
    case D_EMBD:
        return hp->n_embd;
    case D_FF:
        return hp->n_ff;
    case D_Q:
        return (uint64_t)hp->n_heads * hp->head_dim;
    case D_KV:
        return (uint64_t)hp->n_kv_heads * hp->head_dim;
    case D_VOCAB:
        return hp->n_vocab;
    }
    return 0;
}

struct slot {
    const char *name; /* GGUF's, without .weight or .bias */
    size_t weight;    /* offset of a const struct tensor *, or of a const float * where vector */
    size_t bias;      /* offset of a const float *, or NO_SLOT */
    enum dim in, out; /* row length; rows. A vector has in only */
    bool vector, optional;
};
#define NO_SLOT SIZE_MAX

#define L(m) offsetof(struct layer, m)
static const struct slot layer_slots[] = {
    {"blk.%u.attn_norm", L(attn_norm), NO_SLOT, D_EMBD, 0, true, false},
    {"blk.%u.attn_q", L(q), L(q_bias), D_EMBD, D_Q, false, false},
    {"blk.%u.attn_k", L(k), L(k_bias), D_EMBD, D_KV, false, false},
    {"blk.%u.attn_v", L(v), L(v_bias), D_EMBD, D_KV, false, false},
    {"blk.%u.attn_output", L(o), L(o_bias), D_Q, D_EMBD, false, false},
    {"blk.%u.ffn_norm", L(ffn_norm), NO_SLOT, D_EMBD, 0, true, false},
    {"blk.%u.ffn_gate", L(gate), L(gate_bias), D_EMBD, D_FF, false, false},
    {"blk.%u.ffn_up", L(up), L(up_bias), D_EMBD, D_FF, false, false},
    {"blk.%u.ffn_down", L(down), L(down_bias), D_FF, D_EMBD, false, false},
};
#undef L
#define M(m) offsetof(struct model, m)
static const struct slot model_slots[] = {
    {"output_norm", M(output_norm), NO_SLOT, D_EMBD, 0, true, false},
    {"output", M(output), M(output_bias), D_EMBD, D_VOCAB, false, true},
};
#undef M

/* The tensor of a GGUF name, whatever the file calls it; NULL where it has none. */
static int find(const struct files *f, const char *name, const char *suffix, uint32_t layer, const struct tensor **out,
                struct err *e)
{
    struct buf gguf = {0}, hf = {0};
    const char *hole = strstr(name, "%u");
    int rc = hole ? buf_printf(&gguf, "%.*s%u%s%s", (int)(hole - name), name, layer, hole + 2, suffix)
                  : buf_printf(&gguf, "%s%s", name, suffix);
    *out = NULL;
    if (rc == 0) {
        bool foreign = files_kind(f) == FILES_HF;
        if (foreign && !tensor_name_to_hf(buf_view(&gguf), &hf))
            rc = ERR_NOMEM;
        else
            *out = files_find(f, buf_view(foreign ? &hf : &gguf));
    }
    buf_fini(&gguf);
    buf_fini(&hf);
    return rc < 0 ? fail(e, rc, "binding %s: %s", name, err_text(rc)) : 0;
}

static int wrong_shape(const struct model *m, const struct tensor *t, uint64_t in, uint64_t out, struct err *e)
{
    return fail(e, ERR_FORMAT, "%s: tensor %.*s has %llu rows of %llu; its hyper-parameters say %llu rows of %llu",
                files_path(m->files), STR_ARG(t->name), (unsigned long long)(t->ne[1] * t->ne[2] * t->ne[3]),
                (unsigned long long)t->ne[0], (unsigned long long)out, (unsigned long long)in);
}

/* Norm weights and biases as f32, whatever they are stored as (HF folders keep them in bf16): n values in the arena. */
static int vector_of(struct model *m, const struct tensor *t, uint64_t n, const float **out, struct err *e)
{
    if (t->ne[0] != n || t->n_dims != 1) return wrong_shape(m, t, n, 1, e);
    float *v = arena_array(&m->arena, n, sizeof *v);
    if (!v) return fail_nomem(e, "norm weights", n * sizeof *v);
    qtype_to_float(t->type, t->data, v, n);
    *out = v;
    m->parameters += n;
    return 0;
}

/* Counts a matrix that every pass reads. */
static void count_matrix(struct model *m, const struct tensor *t, struct macs *macs)
{
    *(qtypes[t->type].arith == ARITH_FLOAT ? &macs->f32 : &macs->int8) += t->ne[0] * t->ne[1];
    m->decode_bytes += t->bytes;
    m->reads[m->n_reads++] = (struct region){t->data, t->bytes};
}

static int bind(struct model *m, const struct slot *s, uint32_t layer, void *base, struct err *e)
{
    const struct tensor *t;
    uint64_t in = dim_of(&m->hp, s->in);
    TRY(find(m->files, s->name, ".weight", layer, &t, e));
    if (!t) {
        if (s->optional) return 0;
        const char *hole = strstr(s->name, "%u");
        if (!hole) return fail(e, ERR_FORMAT, "%s: tensor %s.weight is missing", files_path(m->files), s->name);
        return fail(e, ERR_FORMAT, "%s: tensor %.*s%u%s.weight is missing", files_path(m->files), (int)(hole - s->name),
                    s->name, layer, hole + 2);
    }
    if (s->vector) return vector_of(m, t, in, (const float **)(void *)((uint8_t *)base + s->weight), e);

    uint64_t out = dim_of(&m->hp, s->out);
    if (t->ne[0] != in || t->ne[1] != out || t->n_dims != 2) return wrong_shape(m, t, in, out, e);
    *(const struct tensor **)(void *)((uint8_t *)base + s->weight) = t;
    m->parameters += in * out;
    count_matrix(m, t, s->out == D_VOCAB ? &m->output_macs : &m->layer_macs);
    TRY(find(m->files, s->name, ".bias", layer, &t, e));
    return t && s->bias != NO_SLOT ? vector_of(m, t, out, (const float **)(void *)((uint8_t *)base + s->bias), e) : 0;
}

static int bind_all(struct model *m, struct err *e)
{
    struct hparams *hp = &m->hp;
    TRY(find(m->files, "token_embd", ".weight", 0, &m->token_embd, e));
    const struct tensor *t = m->token_embd;
    if (!t) return fail(e, ERR_FORMAT, "%s: the embedding table (token_embd.weight) is missing", files_path(m->files));
    if (t->ne[0] != hp->n_embd || t->n_dims != 2 || t->ne[1] > INT32_MAX) return wrong_shape(m, t, hp->n_embd, t->ne[1], e);
    hp->n_vocab = (uint32_t)t->ne[1];
    m->parameters += t->ne[0] * t->ne[1];
    m->reads = arena_array(&m->arena, files_n_tensors(m->files), sizeof *m->reads);
    m->layers = arena_array(&m->arena, hp->n_layers, sizeof *m->layers);
    if (!m->reads || !m->layers) return fail_nomem(e, "layers", hp->n_layers * sizeof *m->layers);
    for (uint32_t l = 0; l < hp->n_layers; l++)
        for (size_t i = 0; i < COUNT_OF(layer_slots); i++) TRY(bind(m, &layer_slots[i], l, &m->layers[l], e));
    /* Some checkpoints store a matrix that config.json says is tied: it is a leftover, as in transformers. */
    bool tied = files_kind(m->files) == FILES_HF && hp->tied;
    for (size_t i = 0; i < COUNT_OF(model_slots); i++)
        if (!(tied && model_slots[i].optional)) TRY(bind(m, &model_slots[i], 0, m, e));
    if (!m->output) {
        if (files_kind(m->files) == FILES_HF && !hp->tied)
            return fail(e, ERR_FORMAT, "%s: tensor lm_head.weight is missing, and config.json does not tie it to the embedding",
                        files_path(m->files));
        m->output = m->token_embd;
        count_matrix(m, t, &m->output_macs);
    }
    hp->tied = m->output == m->token_embd;
    return 0;
}

int model_open(const struct files *f, struct model **out, struct err *e)
{
    struct model *m = mem_zalloc(sizeof *m);
    if (!m) return fail_nomem(e, "the model", sizeof *m);
    m->files = f;
    int rc = hparams_read(f, &m->arena, &m->hp, e);
    if (rc == 0) rc = bind_all(m, e);
    if (rc < 0) {
        model_close(&m);
        return rc;
    }
    *out = m;
    return 0;
}

void model_close(struct model **m)
{
    if (!*m) return;
    arena_fini(&(*m)->arena);
    mem_free(*m);
    *m = NULL;
}
