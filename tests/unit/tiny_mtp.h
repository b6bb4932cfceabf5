/* tiny_mtp: Hugging Face folders of tiny models that carry a head for multi-token prediction, as the published checkpoints have
 * it: transformers drops these tensors, so that no library makes such a model. The weights are random, but for two things: the
 * output matrix expects of each token one other, and the head's matrix lets the token through; so that a model mostly says what
 * its head expects, and often enough something else. */
#ifndef QUERN_TEST_TINY_MTP_H
#define QUERN_TEST_TINY_MTP_H

#include "quant/quant.h"
#include "scratch.h"

#include <math.h>

enum {
    TINY_VOCAB = 260, /* three special tokens, the bytes and a pair */
    TINY_EMBD = 64,
    TINY_FF = 96,
    TINY_HEADS = 4,
    TINY_KV_HEADS = 2,
    TINY_DIM = 32,
    TINY_EXPERTS = 4,
    TINY_EXPERT_FF = 32,
    TINY_NOPE = 16, /* latent attention, */
    TINY_ROPE = 16,
    TINY_V = 16,
    TINY_Q_LORA = 32,
    TINY_KV_LORA = 32,
    TINY_K_HEADS = 2, /* and gated delta nets */
    TINY_V_HEADS = 4,
    TINY_DELTA = 16,
};

struct tiny_mtp {
    const char *name, *config;  /* config: what config.json has beside the sizes that all share */
    uint32_t n_layers, n_dense; /* n_dense: layers without experts, which come first */
    bool latent, biases, delta; /* attention; delta: all layers but each fourth are gated delta nets */
};

#define TINY_EXPERTS_JSON "\"num_experts_per_tok\":2,\"moe_intermediate_size\":32,\"norm_topk_prob\":true,"
#define TINY_DELTA_JSON                                                                                                    \
    "\"head_dim\":32,\"linear_conv_kernel_dim\":4,\"linear_key_head_dim\":16,\"linear_value_head_dim\":16,"                \
    "\"linear_num_key_heads\":2,\"linear_num_value_heads\":4,\"full_attention_interval\":4,\"partial_rotary_factor\":0.5," \
    "\"layer_types\":[\"linear_attention\",\"linear_attention\",\"linear_attention\",\"full_attention\"],"

static const struct tiny_mtp tiny_mtps[] = {
    {"deepseek_v3",
     "\"architectures\":[\"DeepseekV3ForCausalLM\"],\"num_nextn_predict_layers\":1,\"q_lora_rank\":32,\"kv_lora_rank\":32,"
     "\"qk_nope_head_dim\":16,\"qk_rope_head_dim\":16,\"v_head_dim\":16,\"n_routed_experts\":4,\"n_shared_experts\":1,"
     "\"first_k_dense_replace\":1,\"n_group\":2,\"topk_group\":1,\"routed_scaling_factor\":2.5,"
     "\"scoring_func\":\"sigmoid\"," TINY_EXPERTS_JSON,
     2, 1, .latent = true},
    {"glm4_moe",
     "\"architectures\":[\"Glm4MoeForCausalLM\"],\"num_nextn_predict_layers\":1,\"head_dim\":32,\"partial_rotary_factor\":0.5,"
     "\"attention_bias\":true,\"use_qk_norm\":true,\"n_routed_experts\":4,\"n_shared_experts\":1,\"first_k_dense_replace\":1,"
     "\"n_group\":1,\"topk_group\":1,\"routed_scaling_factor\":1.0," TINY_EXPERTS_JSON,
     2, 1, .biases = true},
    {"qwen3_5", "\"architectures\":[\"Qwen3_5ForCausalLM\"],\"mtp_num_hidden_layers\":1," TINY_DELTA_JSON, 4, 5, .delta = true},
    {"qwen3_next",
     "\"architectures\":[\"Qwen3NextForCausalLM\"],\"num_experts\":4,\"shared_expert_intermediate_size\":32," TINY_EXPERTS_JSON
         TINY_DELTA_JSON,
     4, 0, .delta = true},
};

/* ---- weights ----------------------------------------------------------------------------------------------------------- */

struct tiny_weights {
    struct buf header, data;
    uint64_t random;
};

static inline float tiny_random(struct tiny_weights *w) /* -1.. 1 */
{
    w->random = w->random * 6364136223846793005u + 1442695040888963407u;
    return (float)((int32_t)(w->random >> 40) - (1 << 23)) * 0x1p-23f;
}

/* Adds [rows][cols]; rows 0: a vector. It starts at `base`, where it is not an identity. */
static inline void tiny_add(struct tiny_weights *w, const char *name, uint32_t rows, uint32_t cols, float base, float spread)
{
    const bool through = strstr(name, "eh_proj") || strstr(name, "mtp.fc");
    buf_printf(&w->header, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[", w->header.n ? "," : "{", name);
    if (rows) buf_printf(&w->header, "%u,", rows);
    const size_t n = (size_t)cols * (rows ? rows : 1), at = w->data.n;
    buf_printf(&w->header, "%u],\"data_offsets\":[%zu,%zu]}", cols, at, at + 2 * n);
    for (size_t i = 0; i < n; i++) {
        const uint16_t v = f32_to_bf16(base + spread * tiny_random(w) + (through && i / cols == i % cols ? 1.0f : 0.0f));
        buf_put(&w->data, &v, sizeof v);
    }
}

static inline void tiny_matrix(struct tiny_weights *w, const char *prefix, const char *name, uint32_t rows, uint32_t cols)
{
    char full[192];
    (void)snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    /* What layers add, and the head's own view, is small beside what they add it to. */
    const bool adds = strstr(name, "o_proj") || strstr(name, "out_proj") || strstr(name, "down_proj");
    const bool joins = strstr(name, "eh_proj") || strstr(name, "mtp.fc");
    tiny_add(w, full, rows, cols, 0, (adds || joins ? 0.2f : 1.7f) / sqrtf((float)cols));
}

/* zero: weights of norms are stored less 1. */
static inline void tiny_norm(struct tiny_weights *w, const char *prefix, const char *name, uint32_t n, bool zero)
{
    char full[192];
    (void)snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    tiny_add(w, full, 0, n, zero ? 0 : 1, 0.2f);
}

static inline void tiny_attention(struct tiny_weights *w, const struct tiny_mtp *m, const char *p)
{
    const uint32_t q = TINY_HEADS * TINY_DIM, kv = TINY_KV_HEADS * TINY_DIM;
    char full[192];
    tiny_matrix(w, p, "self_attn.q_proj", m->delta ? 2 * q : q, TINY_EMBD);
    tiny_matrix(w, p, "self_attn.k_proj", kv, TINY_EMBD);
    tiny_matrix(w, p, "self_attn.v_proj", kv, TINY_EMBD);
    tiny_matrix(w, p, "self_attn.o_proj", TINY_EMBD, q);
    tiny_norm(w, p, "self_attn.q_norm", TINY_DIM, m->delta);
    tiny_norm(w, p, "self_attn.k_norm", TINY_DIM, m->delta);
    for (uint32_t i = 0; i < 3 && m->biases; i++) {
        (void)snprintf(full, sizeof full, "%sself_attn.%c_proj.bias", p, "qkv"[i]);
        tiny_add(w, full, 0, i ? kv : q, 0, 0.3f);
    }
}

static inline void tiny_latent(struct tiny_weights *w, const char *p)
{
    tiny_matrix(w, p, "self_attn.q_a_proj", TINY_Q_LORA, TINY_EMBD);
    tiny_norm(w, p, "self_attn.q_a_layernorm", TINY_Q_LORA, false);
    tiny_matrix(w, p, "self_attn.q_b_proj", TINY_HEADS * (TINY_NOPE + TINY_ROPE), TINY_Q_LORA);
    tiny_matrix(w, p, "self_attn.kv_a_proj_with_mqa", TINY_KV_LORA + TINY_ROPE, TINY_EMBD);
    tiny_norm(w, p, "self_attn.kv_a_layernorm", TINY_KV_LORA, false);
    tiny_matrix(w, p, "self_attn.kv_b_proj", TINY_HEADS * (TINY_NOPE + TINY_V), TINY_KV_LORA);
    tiny_matrix(w, p, "self_attn.o_proj", TINY_EMBD, TINY_HEADS * TINY_V);
}

static inline void tiny_delta(struct tiny_weights *w, const struct tiny_mtp *m, const char *p)
{
    const uint32_t keys = TINY_K_HEADS * TINY_DELTA, values = TINY_V_HEADS * TINY_DELTA;
    char full[192];
    if (m->n_dense) {
        tiny_matrix(w, p, "linear_attn.in_proj_qkv", 2 * keys + values, TINY_EMBD);
        tiny_matrix(w, p, "linear_attn.in_proj_z", values, TINY_EMBD);
        tiny_matrix(w, p, "linear_attn.in_proj_b", TINY_V_HEADS, TINY_EMBD);
        tiny_matrix(w, p, "linear_attn.in_proj_a", TINY_V_HEADS, TINY_EMBD);
    } else {
        tiny_matrix(w, p, "linear_attn.in_proj_qkvz", 2 * keys + 2 * values, TINY_EMBD);
        tiny_matrix(w, p, "linear_attn.in_proj_ba", 2 * TINY_V_HEADS, TINY_EMBD);
    }
    (void)snprintf(full, sizeof full, "%slinear_attn.conv1d.weight", p);
    const size_t at = w->header.n;
    tiny_add(w, full, 2 * keys + values, 4, 0, 0.8f);
    buf_c(&w->header, 0); /* for strstr */
    w->header.n--;
    char *shape = strstr(w->header.p + at, ",4]"); /* [columns][1][taps] */
    struct buf tail = {0};
    buf_put(&tail, shape, w->header.n - (size_t)(shape - w->header.p));
    w->header.n = (size_t)(shape - w->header.p);
    buf_z(&w->header, ",1");
    buf_put(&w->header, tail.p, tail.n);
    buf_fini(&tail);
    (void)snprintf(full, sizeof full, "%slinear_attn.dt_bias", p);
    tiny_add(w, full, 0, TINY_V_HEADS, 0, 1);
    (void)snprintf(full, sizeof full, "%slinear_attn.A_log", p);
    tiny_add(w, full, 0, TINY_V_HEADS, 0, 1);
    tiny_norm(w, p, "linear_attn.norm", TINY_DELTA, false);
    tiny_matrix(w, p, "linear_attn.out_proj", TINY_EMBD, values);
}

static inline void tiny_ffn(struct tiny_weights *w, const char *p, const char *name, uint32_t n)
{
    static const char *const parts[] = {"gate_proj", "up_proj", "down_proj"};
    for (uint32_t i = 0; i < 3; i++) {
        char full[64];
        (void)snprintf(full, sizeof full, "mlp.%s%s", name, parts[i]);
        tiny_matrix(w, p, full, i == 2 ? TINY_EMBD : n, i == 2 ? n : TINY_EMBD);
    }
}

static inline void tiny_experts(struct tiny_weights *w, const struct tiny_mtp *m, const char *p)
{
    char name[32], bias[96];
    tiny_matrix(w, p, "mlp.gate", TINY_EXPERTS, TINY_EMBD);
    for (uint32_t i = 0; i < TINY_EXPERTS; i++) {
        (void)snprintf(name, sizeof name, "experts.%u.", i);
        tiny_ffn(w, p, name, TINY_EXPERT_FF);
    }
    tiny_ffn(w, p, m->delta ? "shared_expert." : "shared_experts.", TINY_EXPERT_FF);
    if (m->delta) tiny_matrix(w, p, "mlp.shared_expert_gate", 1, TINY_EMBD);
    (void)snprintf(bias, sizeof bias, "%smlp.gate.e_score_correction_bias", p);
    if (!m->delta) tiny_add(w, bias, 0, TINY_EXPERTS, 0, 0.1f);
}

static inline void tiny_layer(struct tiny_weights *w, const struct tiny_mtp *m, const char *p, bool recurrent, bool dense)
{
    tiny_norm(w, p, "input_layernorm", TINY_EMBD, m->delta);
    tiny_norm(w, p, "post_attention_layernorm", TINY_EMBD, m->delta);
    if (m->latent)
        tiny_latent(w, p);
    else if (recurrent)
        tiny_delta(w, m, p);
    else
        tiny_attention(w, m, p);
    if (dense)
        tiny_ffn(w, p, "", TINY_FF);
    else
        tiny_experts(w, m, p);
}

/* What DeepSeek and GLM have twice, they have twice here, too. */
static inline void tiny_ends(struct tiny_weights *w, const char *table, const char *output)
{
    w->random = 77;
    tiny_add(w, table, TINY_VOCAB, TINY_EMBD, 0, 1);
    w->random = 78;
    tiny_add(w, output, TINY_VOCAB, TINY_EMBD, 0, 0.5f);
}

static inline void tiny_tensors(struct tiny_weights *w, const struct tiny_mtp *m)
{
    char p[64];
    tiny_ends(w, "model.embed_tokens.weight", "lm_head.weight");
    tiny_norm(w, "", "model.norm", TINY_EMBD, m->delta);
    for (uint32_t l = 0; l < m->n_layers; l++) {
        (void)snprintf(p, sizeof p, "model.layers.%u.", l);
        tiny_layer(w, m, p, m->delta && l % 4 != 3, l < m->n_dense);
    }
    if (m->delta) {
        tiny_layer(w, m, "mtp.layers.0.", false, m->n_dense);
        tiny_matrix(w, "", "mtp.fc", TINY_EMBD, 2 * TINY_EMBD);
        tiny_norm(w, "", "mtp.pre_fc_norm_embedding", TINY_EMBD, true);
        tiny_norm(w, "", "mtp.pre_fc_norm_hidden", TINY_EMBD, true);
        tiny_norm(w, "", "mtp.norm", TINY_EMBD, true);
        return;
    }
    char table[96], output[96];
    (void)snprintf(p, sizeof p, "model.layers.%u.", m->n_layers);
    (void)snprintf(table, sizeof table, "%sembed_tokens.weight", p);
    (void)snprintf(output, sizeof output, "%sshared_head.head.weight", p);
    tiny_layer(w, m, p, false, false);
    tiny_ends(w, table, output);
    tiny_matrix(w, p, "eh_proj", TINY_EMBD, 2 * TINY_EMBD);
    tiny_norm(w, p, "enorm", TINY_EMBD, false);
    tiny_norm(w, p, "hnorm", TINY_EMBD, false);
    tiny_norm(w, p, "shared_head.norm", TINY_EMBD, false);
}

/* ---- the other files --------------------------------------------------------------------------------------------------- */

/* A byte-level vocabulary. */
static inline void tiny_tokenizer(const char *dir)
{
    static const char level[] = "\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true";
    static const char *const special[] = {"<pad>", "<s>", "</s>"};
    struct buf b = {0};
    buf_z(&b, "{\"added_tokens\":[");
    for (int i = 0; i < 3; i++)
        buf_printf(&b, "%s{\"id\":%d,\"content\":\"%s\",\"special\":true}", i ? "," : "", i, special[i]);
    buf_printf(&b, "],\"pre_tokenizer\":{%s},\"decoder\":{%s},\"model\":{\"type\":\"BPE\",\"vocab\":{\"<pad>\":0", level,
               level);
    buf_z(&b, ",\"<s>\":1,\"</s>\":2");
    uint32_t moved = 256; /* bytes that are no printable character stand as U+0100 and up */
    for (uint32_t c = 0; c < 256; c++) {
        const bool printable = (c >= 33 && c <= 126) || (c >= 161 && c <= 172) || c >= 174;
        char utf8[4];
        const size_t n = utf8_encode(printable ? c : moved++, utf8);
        buf_c(&b, ',');
        json_write_string(&b, (struct str){utf8, n});
        buf_printf(&b, ":%u", c + 3);
    }
    buf_z(&b, ",\"he\":259},\"merges\":[[\"h\",\"e\"]]}}");
    scratch_write(dir, "tokenizer.json", b.p, b.n);
    buf_fini(&b);
}

static inline void tiny_mtp_write(const struct tiny_mtp *m, const char *dir)
{
    struct tiny_weights w = {.random = 1};
    struct buf config = {0}, file = {0};
    tiny_tensors(&w, m);
    buf_c(&w.header, '}');
    const uint64_t n = w.header.n;
    buf_put(&file, &n, sizeof n);
    buf_put(&file, w.header.p, w.header.n);
    buf_put(&file, w.data.p, w.data.n);
    buf_printf(&config,
               "{%s\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":%u,\"num_attention_heads\":4,"
               "\"num_key_value_heads\":%d,\"vocab_size\":260,\"max_position_embeddings\":1024,\"rms_norm_eps\":1e-06,"
               "\"hidden_act\":\"silu\",\"rope_theta\":10000.0,\"tie_word_embeddings\":false,\"torch_dtype\":\"bfloat16\","
               "\"bos_token_id\":1,\"eos_token_id\":2}",
               m->config, m->n_layers, m->latent ? TINY_HEADS : TINY_KV_HEADS);
    scratch_write(dir, "model.safetensors", file.p, file.n);
    scratch_write(dir, "config.json", config.p, config.n);
    tiny_tokenizer(dir);
    buf_fini(&w.header);
    buf_fini(&w.data);
    buf_fini(&config);
    buf_fini(&file);
}

#endif
