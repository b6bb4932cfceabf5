/* arch: the architectures that Quern knows, one row each. */
#include "model/model.h"

/* Llama 2 to 3.3 and everything built the same way: pre-norm attention with grouped heads and rotary positions, SwiGLU. */
static value_id record_llama(const struct model *m, const struct rope *rope, struct graph *g)
{
    value_id x = graph_embed(g, m->token_embd);
    for (uint32_t i = 0; i < m->hp.n_layers; i++) {
        x = block_attention(m, &m->layers[i], i, rope, x, g);
        x = block_ffn(m, &m->layers[i], x, g);
    }
    x = graph_gather(g, x);
    x = graph_rms_norm(g, x, m->output_norm, m->hp.norm_eps);
    return graph_matmul(g, x, m->output, m->output_bias);
}

static const struct arch archs[] = {
    {"llama", "LlamaForCausalLM", record_llama},
};

const struct arch *arch_at(size_t i)
{
    return i < COUNT_OF(archs) ? &archs[i] : NULL;
}
