/* blocks: the parts that forward passes are made of, recorded as operations. */
#include <math.h>

#include "model/model.h"

value_id block_attention(const struct model *m, const struct layer *l, uint32_t layer, const struct rope *rope, value_id x,
                         struct graph *g)
{
    const struct hparams *hp = &m->hp;
    value_id h = graph_rms_norm(g, x, l->attn_norm, hp->norm_eps);
    value_id q = graph_matmul(g, h, l->q, l->q_bias);
    value_id k = graph_matmul(g, h, l->k, l->k_bias);
    value_id v = graph_matmul(g, h, l->v, l->v_bias);
    q = graph_rope(g, q, rope, hp->n_heads, hp->head_dim);
    k = graph_rope(g, k, rope, hp->n_kv_heads, hp->head_dim);
    graph_kv_store(g, k, v, layer, hp->n_kv_heads, hp->head_dim);
    float scale = 1.0f / sqrtf((float)hp->head_dim);
    value_id a = graph_attention(g, q, layer, hp->n_heads, hp->n_kv_heads, hp->head_dim, scale);
    return graph_add(g, x, graph_matmul(g, a, l->o, l->o_bias));
}

value_id block_ffn(const struct model *m, const struct layer *l, value_id x, struct graph *g)
{
    value_id h = graph_rms_norm(g, x, l->ffn_norm, m->hp.norm_eps);
    value_id gate = graph_matmul(g, h, l->gate, l->gate_bias);
    value_id up = graph_matmul(g, h, l->up, l->up_bias);
    return graph_add(g, x, graph_matmul(g, graph_swiglu(g, gate, up), l->down, l->down_bias));
}
