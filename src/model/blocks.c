/* blocks: the parts that forward passes are made of, recorded as operations, and the pass itself. Everything that differs
 * between architectures is a feature, a hyper-parameter or a tensor that is there or not. */
#include <math.h>

#include "model/model_int.h"

/* One layer under way. */
struct recording {
    const struct model *m;
    const struct layer *l;
    const struct layer_hp *hp;
    uint32_t layer;
    const struct rope *rope;  /* NULL: the layer knows no positions */
    value_id embd, embd_proj; /* [n_layers][n_embd_layer] the layers' own embeddings, from their table and from the other */
    struct graph *g;
};

static value_id norm(const struct model *m, struct graph *g, value_id x, const float *w, const float *bias)
{
    if (m->hp.arch->features & LAYER_NORM) return graph_layer_norm(g, x, w, bias, m->hp.norm_eps);
    return graph_rms_norm(g, x, w, m->hp.norm_eps);
}

/* ---- attention --------------------------------------------------------------------------------------------------------- */

static struct attn_params attn_params(const struct recording *r)
{
    const struct hparams *hp = &r->m->hp;
    const bool temp = hp->temp > 0 && (!(hp->arch->features & TEMP_NOPE) || r->hp->nope);
    return (struct attn_params){.layer = r->hp->kv_layer,
                                .n_heads = r->hp->n_heads,
                                .n_kv_heads = r->hp->n_kv_heads,
                                .head_dim = r->hp->head_dim,
                                .v_dim = r->hp->head_dim,
                                .scale = hp->attn_scale > 0 ? hp->attn_scale : 1.0f / sqrtf((float)r->hp->head_dim),
                                .softcap = hp->attn_softcap,
                                .window = r->hp->local ? hp->window : 0,
                                .chunked = hp->chunked,
                                .bidirectional = hp->bidirectional,
                                .sinks = r->l->sinks,
                                .temp = temp ? hp->temp : 0,
                                .temp_length = hp->temp_length,
                                .temp_offset = hp->temp_offset};
}

/* Norms of queries or keys before the rotation: of each head, maybe with weights of its own, or of all together. */
static value_id qk_norm(const struct recording *r, value_id x, const float *w, uint32_t len, uint32_t n_heads)
{
    const uint32_t head = r->hp->head_dim;
    if (!w) return x;
    if (r->m->hp.arch->features & LAYER_NORM)
        return graph_head_layer_norm(r->g, x, w, len != head, r->m->hp.norm_eps, n_heads, head);
    if (len == r->hp->head_dim) return graph_head_norm(r->g, x, w, r->m->hp.norm_eps, n_heads, len);
    return graph_rms_norm(r->g, x, w, r->m->hp.norm_eps);
}

static value_id rotate(const struct recording *r, value_id x, uint32_t n_heads)
{
    if (!r->rope) return x;
    x = graph_rope(r->g, x, r->rope, n_heads, 0);
    if (r->m->hp.arch->features & QK_L2 && r->m->hp.qk_l2)
        x = graph_head_norm(r->g, x, r->m->ones, r->m->hp.norm_eps, n_heads, r->hp->head_dim);
    return x;
}

static value_id attention(const struct recording *r, value_id h)
{
    const struct layer *l = r->l;
    const struct attn_params p = attn_params(r);
    const bool gated = (r->m->hp.arch->features & OUTPUT_GATE) != 0;
    value_id q = graph_matmul(r->g, h, l->q, l->q_bias);
    const bool stores = l->k != NULL; /* else it reads the cache of an earlier layer */
    value_id gate = NO_VALUE, k = NO_VALUE, v = NO_VALUE;
    if (stores) k = graph_matmul(r->g, h, l->k, l->k_bias);
    if (stores) v = l->v ? graph_matmul(r->g, h, l->v, l->v_bias) : graph_head_cols(r->g, k, 1, 0, p.n_kv_heads * p.head_dim);
    if (gated) {
        gate = graph_head_cols(r->g, q, p.n_heads, p.head_dim, p.head_dim);
        q = graph_head_cols(r->g, q, p.n_heads, 0, p.head_dim);
    }
    q = qk_norm(r, q, l->q_norm, l->q_norm_len, p.n_heads);
    if (stores) k = qk_norm(r, k, l->k_norm, l->k_norm_len, p.n_kv_heads);
    q = rotate(r, q, p.n_heads);
    if (stores) {
        k = rotate(r, k, p.n_kv_heads);
        if (r->m->hp.arch->features & V_NORM)
            v = graph_head_norm(r->g, v, r->m->ones, r->m->hp.norm_eps, p.n_kv_heads, p.head_dim);
        graph_kv_store(r->g, k, v, &p);
    }
    value_id a = graph_attention(r->g, q, &p);
    if (gated) a = graph_gate(r->g, a, gate);
    return graph_matmul(r->g, a, l->o, l->o_bias);
}

/* Multi-head latent attention in its absorbed form (latent.c): all heads share one key, the latent vector and its rotated part,
 * and one value, the latent vector. */
static value_id latent_attention(const struct recording *r, value_id h)
{
    const struct hparams *hp = &r->m->hp;
    const struct layer *l = r->l;
    struct attn_params p = attn_params(r);
    const double mscale = hp->rope[0].mscale_all > 0 ? yarn_mscale(hp->rope[0].factor, hp->rope[0].mscale_all) : 1;
    p.n_kv_heads = 1;
    p.head_dim = hp->kv_lora + hp->rope_part;
    p.v_dim = hp->kv_lora;
    p.scale = (float)(mscale * mscale / sqrt((double)hp->nope_part + hp->rope_part));
    value_id q, k;
    if (l->q_a) {
        q = graph_matmul(r->g, h, l->q_a, l->q_a_bias);
        k = graph_matmul(r->g, h, l->kv_a, l->kv_a_bias);
        q = graph_matmul(r->g, graph_rms_norm(r->g, q, l->q_a_norm, hp->norm_eps), l->q_b, NULL);
    } else {
        q = graph_matmul(r->g, h, l->q, NULL);
        k = graph_matmul(r->g, h, l->kv_a, l->kv_a_bias);
    }
    q = graph_rope(r->g, graph_head_matmul(r->g, q, l->k_up, p.n_heads), r->rope, p.n_heads, hp->kv_lora);
    k = graph_head_norm(r->g, k, l->kv_a_norm, hp->norm_eps, 1, hp->kv_lora);
    k = graph_rope(r->g, k, r->rope, 1, hp->kv_lora);
    graph_kv_store(r->g, k, k, &p);
    value_id a = graph_attention(r->g, q, &p);
    return graph_matmul(r->g, graph_head_matmul(r->g, a, l->v_up, p.n_heads), l->o, l->o_bias);
}

/* ---- feed-forward ------------------------------------------------------------------------------------------------------ */

static value_id dense(const struct recording *r, value_id h)
{
    const struct layer *l = r->l;
    if (r->m->hp.arch->features & PLAIN_FFN) {
        const value_id up = graph_matmul(r->g, h, l->up, l->up_bias);
        return graph_matmul(r->g, graph_act(r->g, r->m->hp.act, up), l->down, l->down_bias);
    }
    value_id gate = graph_matmul(r->g, h, l->gate, l->gate_bias);
    value_id up = graph_matmul(r->g, h, l->up, l->up_bias);
    return graph_matmul(r->g, graph_glu(r->g, r->m->hp.act, r->m->hp.act_limit, gate, up), l->down, l->down_bias);
}

static value_id shared_expert(const struct recording *r, value_id h)
{
    const struct layer *l = r->l;
    value_id gate = graph_matmul(r->g, h, l->gate_shared, NULL);
    value_id up = graph_matmul(r->g, h, l->up_shared, NULL);
    value_id y = graph_matmul(r->g, graph_glu(r->g, r->m->hp.act, 0, gate, up), l->down_shared, NULL);
    return l->shared_gate ? graph_gate(r->g, y, graph_matmul(r->g, h, l->shared_gate, NULL)) : y;
}

static struct experts experts_of(const struct expert_set *s)
{
    return (struct experts){s->w, s->bias};
}

/* routed: what the router reads. */
static value_id experts(const struct recording *r, value_id h, value_id routed)
{
    const struct layer *l = r->l;
    const bool input = (r->m->hp.arch->features & ROUTED_INPUT) != 0;
    value_id routes = graph_route(r->g, graph_matmul(r->g, routed, l->router, l->router_bias), &l->route);
    value_id y = graph_experts_up(r->g, h, routes, &l->route, r->m->hp.act, r->m->hp.act_limit, input,
                                  experts_of(&l->gate_exps), experts_of(&l->up_exps));
    y = graph_experts_down(r->g, y, routes, &l->route, experts_of(&l->down_exps));
    y = graph_experts_sum(r->g, y, routes, &l->route, !input);
    return l->gate_shared ? graph_add(r->g, y, shared_expert(r, h)) : y;
}

/* Both kinds of feed-forward; those of the experts read the residual stream y by norms of their own. */
static value_id dense_and_experts(const struct recording *r, value_id y, value_id h)
{
    const struct layer *l = r->l;
    const value_id a = norm(r->m, r->g, dense(r, h), l->dense_post_norm, NULL);
    const value_id n = norm(r->m, r->g, y, l->router_norm, NULL);
    const value_id routed = graph_scale(r->g, n, 1.0f / sqrtf((float)r->m->hp.n_embd));
    const value_id b = experts(r, norm(r->m, r->g, y, l->experts_norm, NULL), routed);
    return graph_add(r->g, a, norm(r->m, r->g, b, l->experts_post_norm, NULL));
}

static value_id feed_forward(const struct recording *r, value_id y, value_id h)
{
    if (!r->l->router) return dense(r, h);
    return r->m->hp.arch->features & DENSE_BESIDE ? dense_and_experts(r, y, h) : experts(r, h, h);
}

/* The layer's own embedding of each token, behind the feed-forward. */
static value_id own_embedding(const struct recording *r, value_id x)
{
    const struct hparams *hp = &r->m->hp;
    const uint32_t n = hp->n_embd_layer, at = r->layer * n;
    const value_id gate = graph_matmul(r->g, x, r->l->embd_gate, NULL);
    const value_id p = norm(r->m, r->g, graph_head_cols(r->g, r->embd_proj, 1, at, n), r->m->layer_proj_norm, NULL);
    value_id y = graph_scale(r->g, graph_add(r->g, p, graph_head_cols(r->g, r->embd, 1, at, n)), sqrtf(0.5f));
    y = graph_matmul(r->g, graph_glu(r->g, hp->act, 0, gate, y), r->l->embd_out, NULL);
    return graph_add(r->g, x, norm(r->m, r->g, y, r->l->embd_post_norm, NULL));
}

/* ---- the pass ---------------------------------------------------------------------------------------------------------- */

/* What a block made, as it is added to the residual stream. */
static value_id finish(const struct recording *r, value_id y, const float *post_norm)
{
    if (post_norm) y = norm(r->m, r->g, y, post_norm, NULL);
    return r->m->hp.residual_scale != 1.0f ? graph_scale(r->g, y, r->m->hp.residual_scale) : y;
}

/* BERT's order: what is normed is the sum. */
static value_id layer_of_sums(const struct recording *r, value_id x)
{
    const struct layer *l = r->l;
    x = norm(r->m, r->g, graph_add(r->g, x, attention(r, x)), l->attn_post_norm, l->attn_post_bias);
    return norm(r->m, r->g, graph_add(r->g, x, dense(r, x)), l->ffn_post_norm, l->ffn_post_bias);
}

static value_id layer(const struct recording *r, value_id x)
{
    const struct layer *l = r->l;
    const bool parallel = (r->m->hp.arch->features & PARALLEL) != 0;
    const value_id h = l->attn_norm ? norm(r->m, r->g, x, l->attn_norm, NULL) : x;
    const value_id a = r->hp->mixer != MIX_ATTENTION ? record_mixer(r->m, r->layer, h, r->g)
                       : r->m->hp.kv_lora            ? latent_attention(r, h)
                                                     : attention(r, h);
    const value_id y = graph_add(r->g, x, finish(r, a, l->attn_post_norm));
    const value_id h2 = parallel ? h : l->ffn_norm ? norm(r->m, r->g, y, l->ffn_norm, NULL) : y;
    value_id z = graph_add(r->g, y, finish(r, feed_forward(r, y, h2), l->ffn_post_norm));
    if (r->m->layer_embd) z = own_embedding(r, z);
    return l->out_scale ? graph_scale(r->g, z, *l->out_scale) : z;
}

static value_id embedding(const struct model *m, struct graph *g)
{
    value_id x = graph_embed(g, m->token_embd, BY_TOKEN);
    if (m->type_embd) x = graph_add(g, x, graph_embed(g, m->type_embd, BY_TYPE));
    if (m->position_embd) x = graph_add(g, x, graph_embed(g, m->position_embd, BY_POSITION));
    if (m->embd_norm) x = norm(m, g, x, m->embd_norm, m->embd_norm_bias);
    return m->hp.embd_scale != 1.0f ? graph_scale(g, x, m->hp.embd_scale) : x;
}

/* What the layer of a head reads: the token, and what was left of the one before. */
static value_id joined(const struct model *m, value_id embd, struct graph *g)
{
    const value_id x = norm(m, g, embd, m->join_embd_norm, NULL);
    const value_id y = norm(m, g, graph_input(g, m->hp.n_embd), m->join_input_norm, NULL);
    return graph_matmul(g, graph_join(g, x, y), m->join, NULL);
}

static value_id last_norm(const struct model *m, value_id x, struct graph *g)
{
    return m->output_norm ? norm(m, g, x, m->output_norm, m->output_norm_bias) : x;
}

value_id model_record(const struct model *m, const struct rope *ropes, bool hidden, struct graph *g)
{
    const struct hparams *hp = &m->hp;
    const bool keeps = m->head || m->join;
    value_id x = embedding(m, g), embd = NO_VALUE, proj = NO_VALUE;
    if (m->join) x = joined(m, x, g);
    if (m->layer_embd) {
        embd = graph_scale(g, graph_embed(g, m->layer_embd, BY_TOKEN), sqrtf((float)hp->n_embd_layer));
        proj = graph_scale(g, graph_matmul(g, x, m->layer_proj, NULL), 1.0f / sqrtf((float)hp->n_embd));
    }
    for (uint32_t i = 0; i < hp->n_layers; i++) {
        const struct layer_hp *lh = &hp->layers[i];
        const struct rope *rope = lh->nope ? NULL : &ropes[lh->local && hp->n_ropes > 1];
        const struct recording r = {m, &m->layers[i], lh, i, rope, embd, proj, g};
        x = hp->arch->features & SUM_NORMS ? layer_of_sums(&r, x) : layer(&r, x);
    }
    if (keeps) graph_keep(g, x = last_norm(m, x, g));
    x = graph_gather(g, x);
    if (!keeps) x = last_norm(m, x, g);
    if (hidden || !m->output) return x;
    x = graph_matmul(g, x, m->output, m->output_bias);
    if (hp->logit_scale != 1.0f) x = graph_scale(g, x, hp->logit_scale);
    return hp->final_softcap > 0 ? graph_softcap(g, x, hp->final_softcap) : x;
}

int model_check_generates(const struct model *m, struct err *e)
{
    if (!m->hp.bidirectional) return 0;
    return fail(e, ERR_UNSUPPORTED,
                "%s: a model of the architecture %s makes vectors of texts and does not write; use quern embed or quern rerank",
                files_path(m->files), m->hp.arch->gguf);
}

uint32_t model_outputs(const struct model *m, bool hidden)
{
    return hidden || !m->output ? m->hp.n_embd : m->hp.n_vocab;
}

struct kv_shape model_kv_shape(const struct model *m, uint32_t i)
{
    const struct layer_hp *l = &m->hp.layers[i];
    if (l->mixer != MIX_ATTENTION || l->kv_layer != i) return (struct kv_shape){0};
    if (m->hp.kv_lora) return (struct kv_shape){1, m->hp.kv_lora + m->hp.rope_part, m->hp.kv_lora};
    return (struct kv_shape){l->n_kv_heads, l->head_dim, l->head_dim};
}
