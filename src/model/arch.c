/* arch: the architectures that Quern knows, one row for each pair of names. */
#include "model/model.h"

#define GEMMA (POST_NORMS | NORM_PLUS_1 | EMBD_SQRT | GGUF_HALVES)
#define GEMMA4 (POST_NORMS | EMBD_SQRT | GGUF_HALVES | V_NORM | UNIT_SCORES | DENSE_BESIDE | NORM_ROUTE)
#define DELTA (DELTA_LAYERS | OUTPUT_GATE | NORM_PLUS_1 | LATE_FFN_NORM | GGUF_HALVES)

#define BERT (ENCODER | LAYER_NORM | SUM_NORMS | ABSOLUTE | PLAIN_FFN | GGUF_HALVES)
#define MODERN_BERT (ENCODER | LAYER_NORM | GGUF_HALVES | FULL_FIRST)

static const struct arch archs[] = {
    {"llama", "LlamaForCausalLM", 0, ACT_SILU, 0, 0},
    {"llama", "MistralForCausalLM", 0, ACT_SILU, 0, 0},
    {"llama", "MixtralForCausalLM", NORM_ROUTE, ACT_SILU, 0, 0},
    {"llama4", "Llama4ForCausalLM",
     QK_L2 | HF_ADJACENT | FULL_NOPE | ROUTED_INPUT | SIGMOID_ROUTE | TEMP_NOPE | EXCHANGED_EXPERTS, ACT_SILU, 4, 0},
    {"llama4", "Llama4ForConditionalGeneration",
     QK_L2 | HF_ADJACENT | FULL_NOPE | ROUTED_INPUT | SIGMOID_ROUTE | TEMP_NOPE | EXCHANGED_EXPERTS, ACT_SILU, 4, 0},
    {"mistral3", "Ministral3ForCausalLM", 0, ACT_SILU, 0, 0},
    {"mistral3", "Mistral3ForConditionalGeneration", 0, ACT_SILU, 0, 0},
    {"llama", "LlamaModel", 0, ACT_SILU, 0, 0},
    {"llama", "MistralModel", 0, ACT_SILU, 0, 0},
    {"qwen2", "Qwen2ForCausalLM", GGUF_HALVES, ACT_SILU, 0, 0},
    {"qwen2", "Qwen2Model", GGUF_HALVES, ACT_SILU, 0, 0},
    {"qwen2moe", "Qwen2MoeForCausalLM", GGUF_HALVES, ACT_SILU, 0, 0},
    {"qwen3", "Qwen3ForCausalLM", GGUF_HALVES, ACT_SILU, 0, 0},
    {"qwen3", "Qwen3Model", GGUF_HALVES, ACT_SILU, 0, 0},
    {"qwen3", "Qwen3ForSequenceClassification", GGUF_HALVES, ACT_SILU, 0, 0},
    {"qwen3moe", "Qwen3MoeForCausalLM", GGUF_HALVES | NORM_ROUTE, ACT_SILU, 0, 0},
    {"phi3", "Phi3ForCausalLM", GGUF_HALVES, ACT_SILU, 0, 0},
    {"gemma2", "Gemma2ForCausalLM", GEMMA, ACT_GELU_TANH, 2, 0},
    {"gemma3", "Gemma3ForCausalLM", GEMMA, ACT_GELU_TANH, 6, 10000},
    {"gemma3", "Gemma3ForConditionalGeneration", GEMMA, ACT_GELU_TANH, 6, 10000},
    {"gemma-embedding", "Gemma3TextModel", GEMMA, ACT_GELU_TANH, 6, 10000},
    {"gemma4", "Gemma4ForCausalLM", GEMMA4, ACT_GELU_TANH, 6, 0},
    {"gemma4", "Gemma4ForConditionalGeneration", GEMMA4, ACT_GELU_TANH, 6, 0},
    {"gpt-oss", "GptOssForCausalLM", GGUF_HALVES | TOP_SOFTMAX | ALTERNATE_UP | EXCHANGED_EXPERTS | LATE_FFN_NORM,
     ACT_SWIGLU_CLAMP, 2, 0},
    {"deepseek2", "DeepseekV2ForCausalLM", HF_ADJACENT, ACT_SILU, 0, 0},
    {"deepseek2", "DeepseekV3ForCausalLM", HF_ADJACENT | SIGMOID_ROUTE | NORM_ROUTE, ACT_SILU, 0, 0},
    {"glm4", "Glm4ForCausalLM", POST_NORMS | HF_ADJACENT, ACT_SILU, 0, 0},
    {"glm4moe", "Glm4MoeForCausalLM", GGUF_HALVES | SIGMOID_ROUTE | NORM_ROUTE | LATE_FFN_NORM, ACT_SILU, 0, 0},
    {"smollm3", "SmolLM3ForCausalLM", 0, ACT_SILU, 0, 0},
    {"olmo2", "Olmo2ForCausalLM", POST_NORMS | NO_PRE_NORMS | GGUF_HALVES, ACT_SILU, 4, THETA_OF_ALL},
    {"olmo2", "Olmo3ForCausalLM", POST_NORMS | NO_PRE_NORMS | GGUF_HALVES, ACT_SILU, 4, THETA_OF_ALL},
    {"exaone4", "Exaone4ForCausalLM", POST_NORMS | NO_PRE_NORMS | GGUF_HALVES | FULL_NOPE, ACT_SILU, 4, 0},
    {"seed_oss", "SeedOssForCausalLM", GGUF_HALVES | LATE_FFN_NORM, ACT_SILU, 0, 0},
    {"ernie4_5", "Ernie4_5ForCausalLM", HF_ADJACENT, ACT_SILU, 0, 0},
    {"granite", "GraniteForCausalLM", 0, ACT_SILU, 0, 0},
    {"command-r", "CohereForCausalLM", PARALLEL | LAYER_NORM | HF_ADJACENT, ACT_SILU, 0, 0},
    {"cohere2", "Cohere2ForCausalLM", PARALLEL | LAYER_NORM | HF_ADJACENT | FULL_NOPE, ACT_SILU, 4, 0},
    {"qwen3next", "Qwen3NextForCausalLM", DELTA | NORM_ROUTE, ACT_SILU, 4, 0},
    {"qwen35", "Qwen3_5ForCausalLM", DELTA | TILED_VALUES, ACT_SILU, 4, 0},
    {"qwen35", "Qwen3_5ForConditionalGeneration", DELTA | TILED_VALUES, ACT_SILU, 4, 0},
    {"qwen35moe", "Qwen3_5MoeForCausalLM", DELTA | TILED_VALUES | NORM_ROUTE, ACT_SILU, 4, 0},
    {"qwen35moe", "Qwen3_5MoeForConditionalGeneration", DELTA | TILED_VALUES | NORM_ROUTE, ACT_SILU, 4, 0},
    {"lfm2", "Lfm2ForCausalLM", CONV_LAYERS | GGUF_HALVES, ACT_SILU, 0, 0},
    {"lfm2moe", "Lfm2MoeForCausalLM", CONV_LAYERS | GGUF_HALVES | SIGMOID_ROUTE | NORM_ROUTE, ACT_SILU, 0, 0},
    {"bert", "BertModel", BERT, ACT_GELU, 0, 0},
    {"bert", "BertForSequenceClassification", BERT, ACT_GELU, 0, 0},
    {"bert", "BertForMaskedLM", BERT, ACT_GELU, 0, 0},
    {"bert", "XLMRobertaModel", BERT | AFTER_PAD, ACT_GELU, 0, 0},
    {"bert", "XLMRobertaForSequenceClassification", BERT | AFTER_PAD, ACT_GELU, 0, 0},
    {"bert", "RobertaModel", BERT | AFTER_PAD, ACT_GELU, 0, 0},
    {"bert", "RobertaForSequenceClassification", BERT | AFTER_PAD, ACT_GELU, 0, 0},
    {"nomic-bert", "NomicBertModel", ENCODER | LAYER_NORM | SUM_NORMS | GGUF_HALVES, ACT_SILU, 0, 0},
    {"modern-bert", "ModernBertModel", MODERN_BERT, ACT_GELU, 3, 0},
    {"modern-bert", "ModernBertForSequenceClassification", MODERN_BERT, ACT_GELU, 3, 0},
    {"modern-bert", "ModernBertForMaskedLM", MODERN_BERT, ACT_GELU, 3, 0},
};

const struct arch *arch_at(size_t i)
{
    return i < COUNT_OF(archs) ? &archs[i] : NULL;
}

/* What transformers means where a config.json says nothing; Google's name only what differs from it. */
static const struct {
    const char *gguf, *key;
    double value;
} unsaid[] = {
    {"gemma2", "head_dim", 256},
    {"gemma2", "query_pre_attn_scalar", 256},
    {"gemma2", "attn_logit_softcapping", 50},
    {"gemma2", "final_logit_softcapping", 30},
    {"gemma2", "sliding_window", 4096},
    {"gemma3", "num_attention_heads", 8},
    {"gemma3", "num_key_value_heads", 4},
    {"gemma3", "head_dim", 256},
    {"gemma3", "query_pre_attn_scalar", 256},
    {"gemma3", "sliding_window", 4096},
    {"gemma3", "max_position_embeddings", 131072},
    {"gemma3", "rope_theta", 1e6},
    {"gemma3", "rope_local_base_freq", 1e4},
    {"nomic-bert", "rope_theta", 1000},
};

bool arch_unsaid(const struct arch *arch, struct str key, double *value)
{
    for (size_t i = 0; i < COUNT_OF(unsaid); i++)
        if (strcmp(unsaid[i].gguf, arch->gguf) == 0 && str_is(key, unsaid[i].key)) {
            *value = unsaid[i].value;
            return true;
        }
    return false;
}
