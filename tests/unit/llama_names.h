/* llama_names: what the tensors of a Llama are called in GGUF files and in Hugging Face folders, written down once more for the
 * tests that turn one into the other. */
#ifndef QUERN_TEST_LLAMA_NAMES_H
#define QUERN_TEST_LLAMA_NAMES_H

#include "base/base.h"

/* GGUF's name as a folder has it; false where it is none of a Llama. */
static inline bool llama_hf_name(struct str gguf, struct buf *out)
{
    static const char *const rows[][2] = {
        {"token_embd.", "model.embed_tokens."},
        {"output_norm.", "model.norm."},
        {"output.", "lm_head."},
        {"attn_norm.", "input_layernorm."},
        {"attn_q.", "self_attn.q_proj."},
        {"attn_k.", "self_attn.k_proj."},
        {"attn_v.", "self_attn.v_proj."},
        {"attn_output.", "self_attn.o_proj."},
        {"ffn_norm.", "post_attention_layernorm."},
        {"ffn_gate.", "mlp.gate_proj."},
        {"ffn_up.", "mlp.up_proj."},
        {"ffn_down.", "mlp.down_proj."},
    };
    out->n = 0;
    if (str_starts(gguf, STR("blk."))) {
        size_t n = 4;
        while (n < gguf.n && gguf.p[n] != '.') n++;
        if (buf_printf(out, "model.layers.%.*s.", (int)(n - 4), gguf.p + 4) < 0) return false;
        gguf = (struct str){gguf.p + n + 1, gguf.n - n - 1};
    }
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        const struct str head = str_of(rows[i][0]);
        if (!str_starts(gguf, head)) continue;
        return buf_printf(out, "%s%.*s", rows[i][1], (int)(gguf.n - head.n), gguf.p + head.n) == 0;
    }
    return false;
}

#endif
