/* hparams: hyper-parameters from GGUF metadata or config.json. Every number passes one table that states its two names and
 * its range, so nothing in the rest of the program has to ask again whether a size is sane. */
#include <math.h>
#include <stdio.h>

#include "model/model_int.h"

#define H(m) offsetof(struct hparams, m)
static const struct number_row rows[] = {
    {"block_count", "num_hidden_layers|n_layer", H(n_layers), NUM_U32, 1, MAX_LAYERS},
    {"embedding_length", "hidden_size|n_embd", H(n_embd), NUM_U32, 1, 1 << 20},
    {"feed_forward_length", "block_ff_dim|intermediate_size_mlp|intermediate_size|n_inner", H(n_ff), NUM_U32, 1, 1 << 24},
    {"attention.head_count", "num_attention_heads|n_head", H(n_heads), NUM_U32, 1, 65536},
    {"attention.head_count_kv", "num_key_value_heads", H(n_kv_heads), NUM_U32, 0, 65536},
    {"attention.key_length", "head_dim", H(head_dim), NUM_U32, 1, ATTN_DIM_MAX},
    {"attention.key_length_swa", NULL, H(head_dim_local), NUM_U32, 1, ATTN_DIM_MAX},
    {"attention.shared_kv_layers", "num_kv_shared_layers", H(n_shared_kv), NUM_U32, 0, MAX_LAYERS},
    {"embedding_length_per_layer_input", "hidden_size_per_layer_input", H(n_embd_layer), NUM_U32, 0, 1 << 16},
    {"context_length", "max_position_embeddings|n_positions", H(n_ctx_train), NUM_U32, 1, 1 << 28},
    {"attention.layer_norm_rms_epsilon", "rms_norm_eps|norm_eps", H(norm_eps), NUM_F32, 0, 1},
    {"attention.sliding_window", "sliding_window|local_attention", H(window), NUM_U32, 0, 1 << 28},
    {"attention.chunk_size", "attention_chunk_size", H(chunk), NUM_U32, 1, 1 << 28},
    {"attention.scale", "attention_multiplier", H(attn_scale), NUM_F32, 1e-6, 1e6},
    {"attn_logit_softcapping", "attn_logit_softcapping", H(attn_softcap), NUM_F32, 0, 1e6},
    {"final_logit_softcapping", "final_logit_softcapping", H(final_softcap), NUM_F32, 0, 1e6},
    {"embedding_scale", "embedding_multiplier", H(embd_scale), NUM_F32, 1e-6, 1e6},
    {"residual_scale", "residual_multiplier", H(residual_scale), NUM_F32, 1e-6, 1e6},
    {"logit_scale", "logit_scale", H(logit_scale), NUM_F32, 1e-6, 1e6},
    {"attention.temperature_scale", NULL, H(temp), NUM_F32, 0, 1e3},
    {"attention.qk_norm", "use_qk_norm", H(qk_l2), NUM_BOOL, 0, 1},
    {"attention.temperature_length", "floor_scale", H(temp_length), NUM_U32, 1, 1 << 28},
    {"expert_count", "num_local_experts|num_experts|n_routed_experts", H(route.n_experts), NUM_U32, 0, ROUTE_EXPERTS_MAX},
    {"expert_used_count", "num_experts_per_tok|top_k_experts", H(route.n_used), NUM_U32, 0, ROUTE_EXPERTS_MAX},
    {"expert_feed_forward_length", "moe_intermediate_size|intermediate_size", H(n_ff_expert), NUM_U32, 1, 1 << 24},
    {"expert_shared_feed_forward_length", "shared_expert_intermediate_size", H(n_ff_shared), NUM_U32, 1, 1 << 24},
    {"expert_shared_count", "n_shared_experts", H(n_shared), NUM_U32, 0, 1024},
    {"expert_group_count", "n_group", H(route.n_groups), NUM_U32, 0, ROUTE_EXPERTS_MAX},
    {"expert_group_used_count", "topk_group", H(route.n_groups_used), NUM_U32, 0, ROUTE_EXPERTS_MAX},
    {"expert_weights_scale", "routed_scaling_factor", H(route.scale), NUM_F32, 0, 1e6},
    {"expert_weights_norm", "norm_topk_prob", H(route.normalise), NUM_BOOL, 0, 1},
    {"ssm.conv_kernel", "linear_conv_kernel_dim", H(delta.taps), NUM_U32, 2, CONV_TAPS_MAX},
    {"ssm.group_count", "linear_num_key_heads", H(delta.n_k_heads), NUM_U32, 1, 65536},
    {"ssm.time_step_rank", "linear_num_value_heads", H(delta.n_v_heads), NUM_U32, 1, 65536},
    {"ssm.state_size", "linear_key_head_dim", H(delta.k_dim), NUM_U32, 1, ATTN_DIM_MAX},
    {"ssm.inner_size", NULL, H(delta.inner), NUM_U32, 1, 1 << 18},
    {NULL, "linear_value_head_dim", H(delta.v_dim), NUM_U32, 1, ATTN_DIM_MAX},
    {"full_attention_interval", "full_attention_interval", H(delta.full_every), NUM_U32, 1, MAX_LAYERS},
    {"shortconv.l_cache", "conv_L_cache", H(conv_taps), NUM_U32, 2, CONV_TAPS_MAX},
    {"attention.q_lora_rank", "q_lora_rank", H(q_lora), NUM_U32, 0, 1 << 20},
    {"attention.kv_lora_rank", "kv_lora_rank", H(kv_lora), NUM_U32, 0, 1 << 20},
    {NULL, "qk_rope_head_dim", H(rope_part), NUM_U32, 2, ATTN_DIM_MAX},
    {NULL, "qk_nope_head_dim", H(nope_part), NUM_U32, 1, ATTN_DIM_MAX},
    {"attention.value_length_mla", "v_head_dim", H(v_dim), NUM_U32, 1, ATTN_DIM_MAX},
};

const struct json *config_find(const struct files *f, const char *key)
{
    const struct json *config = files_hf(f)->config, *text = json_find(config, "text_config");
    const struct json *j = text && text->type == JSON_OBJECT ? json_find(text, key) : NULL;
    if (!j || j->type == JSON_NULL) j = json_find(config, key);
    return j && j->type != JSON_NULL ? j : NULL;
}

const struct json *config_any(const struct files *f, const char *names, const char **used)
{
    static const size_t max = 64;
    for (size_t n; *names; names += n + (names[n] == '|')) {
        char key[64];
        n = strcspn(names, "|");
        (void)snprintf(key, max, "%.*s", (int)n, names);
        const struct json *j = config_find(f, key);
        if (!j) continue;
        *used = names;
        return j;
    }
    return NULL;
}

/* What none of the names says, not even that it is null. */
static bool unsaid_number(const struct files *f, const struct arch *arch, const char *names, double *out)
{
    const struct json *config = files_hf(f)->config, *text = json_find(config, "text_config");
    bool known = false;
    for (size_t n; *names; names += n + (names[n] == '|')) {
        char key[64];
        n = strcspn(names, "|");
        (void)snprintf(key, sizeof key, "%.*s", (int)n, names);
        if (json_find(config, key) || json_find(text, key)) return false;
        known = known || arch_unsaid(arch, str_of(key), out);
    }
    return known;
}

/* A number by either name; found is false where the file has none. Lists, one entry a layer, count by their first: layers.c
 * reads the others. */
static int number(const struct files *f, const struct arch *arch, const struct number_row *r, double *out, bool *found,
                  struct err *e)
{
    char key[128];
    bool flag = false, known;
    const char *used = r->hf;
    *found = false;
    if (files_kind(f) == FILES_GGUF) {
        if (!r->gguf) return 0;
        (void)snprintf(key, sizeof key, "%s.%s", arch->gguf, r->gguf);
        const struct gguf_kv *kv = gguf_find(files_gguf(f), key);
        if (!kv || (kv->type == GGUF_ARRAY && kv->n == 0)) return 0;
        known = kv->type == GGUF_ARRAY ? gguf_arr_f64(kv, 0, out)
                : r->kind == NUM_BOOL  ? gguf_get_bool(files_gguf(f), key, &flag)
                                       : gguf_get_f64(files_gguf(f), key, out);
    } else {
        const struct json *j = r->hf ? config_any(f, r->hf, &used) : NULL;
        if (!j) {
            *found = r->hf && unsaid_number(f, arch, r->hf, out);
            return 0;
        }
        (void)snprintf(key, sizeof key, "%.*s", (int)strcspn(used, "|"), used);
        if (j->type == JSON_ARRAY && j->n) j = &j->v[0];
        known =
            r->kind == NUM_BOOL ? j->type == JSON_TRUE || j->type == JSON_FALSE : j->type == JSON_INT || j->type == JSON_REAL;
        if (known && r->kind == NUM_BOOL) flag = j->type == JSON_TRUE;
        if (known && r->kind != NUM_BOOL) *out = j->f;
    }
    if (!known)
        return fail(e, ERR_FORMAT, "%s: %s is not a %s", files_path(f), key, r->kind == NUM_BOOL ? "truth value" : "number");
    if (r->kind == NUM_BOOL) *out = flag;
    if (!(*out >= r->min && *out <= r->max) || (r->kind == NUM_U32 && *out != floor(*out)))
        return fail(e, ERR_FORMAT, "%s: %s is %g; expected %s from %g to %g", files_path(f), key, *out,
                    r->kind == NUM_U32 ? "a whole number" : "a number", r->min, r->max);
    *found = true;
    return 0;
}

int numbers_read(const struct files *f, const struct arch *arch, const struct number_row *table, size_t n, void *base,
                 struct err *e)
{
    for (size_t i = 0; i < n; i++) {
        void *at = (uint8_t *)base + table[i].offset;
        double v = 0;
        bool found;
        TRY(number(f, arch, &table[i], &v, &found, e));
        if (!found) continue;
        switch (table[i].kind) {
        case NUM_U32:
            *(uint32_t *)at = (uint32_t)v;
            break;
        case NUM_F32:
            *(float *)at = (float)v;
            break;
        case NUM_F64:
            *(double *)at = v;
            break;
        case NUM_BOOL:
            *(bool *)at = v != 0;
            break;
        }
    }
    return 0;
}

/* Scales that change nothing, and members of what the model has not. */
static bool is_said(const struct hparams *hp, const struct number_row *r, double value)
{
    static const size_t scales[] = {H(embd_scale), H(residual_scale), H(logit_scale)};
    for (size_t i = 0; i < COUNT_OF(scales); i++)
        if (r->offset == scales[i]) return value != 1;
    if (r->offset == H(route.scale)) return hp->route.n_experts > 0 && (value != 1 || hp->route.sigmoid); /* expected there */
    if (r->gguf && strncmp(r->gguf, "expert_", 7) == 0) return hp->route.n_experts > 0 && (value != 0 || r->kind == NUM_BOOL);
    if (r->offset == H(temp)) return value != 0 || hp->arch->features & TEMP_NOPE;
    if (r->offset == H(n_embd_layer)) return value != 0 || hp->arch->features & DENSE_BESIDE; /* readers want to know */
    if (r->offset == H(temp_length)) return hp->temp != 0;
    return r->offset == H(qk_l2) ? (hp->arch->features & QK_L2) != 0 : value != 0;
}

bool hparams_at(const struct hparams *hp, size_t i, struct hparam *out)
{
    if (i >= COUNT_OF(rows)) return false;
    const void *at = (const uint8_t *)hp + rows[i].offset;
    *out = (struct hparam){.key = rows[i].gguf, .kind = rows[i].kind};
    switch (rows[i].kind) {
    case NUM_U32:
        out->value = *(const uint32_t *)at;
        break;
    case NUM_F32:
        out->value = (double)*(const float *)at;
        break;
    case NUM_F64:
        out->value = *(const double *)at;
        break;
    case NUM_BOOL:
        out->value = *(const bool *)at;
        break;
    }
    out->said = is_said(hp, &rows[i], out->value);
    return true;
}

#undef H

/* ---- what is no number ------------------------------------------------------------------------------------------------- */

static int find_arch(const struct files *f, struct str name, bool hf, const struct arch **out, struct err *e)
{
    struct buf known = {0};
    const char *last = "";
    for (size_t i = 0; (*out = arch_at(i)); i++) {
        const char *n = hf ? (*out)->hf_class : (*out)->gguf;
        if (str_is(name, n)) {
            buf_fini(&known);
            return 0;
        }
        if (strcmp(n, last) != 0) (void)buf_printf(&known, "%s%s", i ? ", " : "", n);
        last = n;
    }
    int rc = fail(e, ERR_UNSUPPORTED, "%s: architecture \"%.*s\" is not supported; known are: %.*s", files_path(f),
                  STR_ARG(name), STR_ARG(buf_view(&known)));
    buf_fini(&known);
    return rc;
}

static int read_arch(const struct files *f, struct hparams *hp, struct err *e)
{
    const bool hf = files_kind(f) == FILES_HF;
    struct str name = {0};
    if (hf) {
        const struct json *list = json_find(files_hf(f)->config, "architectures");
        if (!list || list->type != JSON_ARRAY || list->n == 0 || list->v[0].type != JSON_STRING)
            return fail(e, ERR_FORMAT, "%s: config.json names no architecture (\"architectures\": [\"LlamaForCausalLM\"])",
                        files_path(f));
        name = list->v[0].s;
    } else if (!gguf_get_str(files_gguf(f), "general.architecture", &name)) {
        return fail(e, ERR_FORMAT, "%s: the file has no general.architecture", files_path(f));
    }
    return find_arch(f, name, hf, &hp->arch, e);
}

static const struct {
    const char *name;
    enum act_fn act;
} acts[] = {
    {"silu", ACT_SILU},           {"swish", ACT_SILU},
    {"swiglu", ACT_SILU},         {"gelu_pytorch_tanh", ACT_GELU_TANH},
    {"gelu_new", ACT_GELU_TANH},  {"gelu_tanh", ACT_GELU_TANH},
    {"gelu_fast", ACT_GELU_TANH}, {"gelu", ACT_GELU},
    {"relu2", ACT_RELU2},         {"relu", ACT_RELU},
};

const char *hparams_act_name(enum act_fn act)
{
    size_t i = 0;
    while (i < COUNT_OF(acts) && acts[i].act != act) i++;
    return i < COUNT_OF(acts) ? acts[i].name : NULL;
}

static int read_act(const struct files *f, struct str name, struct hparams *hp, struct err *e)
{
    size_t i = 0;
    while (i < COUNT_OF(acts) && !str_is(name, acts[i].name)) i++;
    if (i == COUNT_OF(acts))
        return fail(e, ERR_UNSUPPORTED,
                    "%s: hidden_act \"%.*s\" is not supported; known are silu, gelu, gelu_pytorch_tanh, relu and relu2",
                    files_path(f), STR_ARG(name));
    /* gpt-oss says silu and means its own. */
    if (hp->arch->act != ACT_SWIGLU_CLAMP) hp->act = acts[i].act;
    return 0;
}

/* DeepSeek's choice of experts: by groups, or of all. */
static int read_route(const struct files *f, struct hparams *hp, struct err *e)
{
    const struct json *j = config_find(f, "topk_method");
    if (!arch_is(hp->arch, "deepseek2")) return 0;
    if (!hp->route.sigmoid) hp->route.normalise = false; /* transformers reads norm_topk_prob, and does not use it */
    if (!j && !hp->route.sigmoid) hp->route.n_groups = 0;
    if (!j) return 0;
    if (j->type != JSON_STRING || !(str_is(j->s, "greedy") || str_is(j->s, "group_limited_greedy") || str_is(j->s, "noaux_tc")))
        return fail(e, ERR_UNSUPPORTED, "%s: topk_method is not known; known are greedy, group_limited_greedy and noaux_tc",
                    files_path(f));
    if (str_is(j->s, "greedy")) hp->route.n_groups = 0;
    return 0;
}

/* Members of config.json that ask for what no model here does, unless they have this value or are missing. */
static const struct {
    const char *key, *usual; /* NULL: false, null or 0 */
} fixed[] = {
    {"position_embedding_type", "absolute"},
    {"alibi", NULL},
    {"use_alibi", NULL},
    {"clip_qkv", NULL},
    {"is_encoder_decoder", NULL},
    {"is_decoder", NULL},
    {"add_cross_attention", NULL},
};

static int check_fixed(const struct files *f, struct err *e)
{
    for (size_t i = 0; i < COUNT_OF(fixed); i++) {
        const struct json *j = config_find(f, fixed[i].key);
        if (!j || j->type == JSON_FALSE || ((j->type == JSON_INT || j->type == JSON_REAL) && j->f == 0)) continue;
        if (fixed[i].usual && j->type == JSON_STRING && str_is(j->s, fixed[i].usual)) continue;
        return fail(e, ERR_UNSUPPORTED, "%s: config.json: this %s is not supported; expected %s", files_path(f), fixed[i].key,
                    fixed[i].usual ? fixed[i].usual : "false");
    }
    return 0;
}

/* Things of config.json that change the arithmetic must not pass silently. */
static int check_config(const struct files *f, struct hparams *hp, struct err *e)
{
    const char *used = "";
    const struct json *act = config_any(f, "hidden_activation|hidden_act|activation_function", &used);
    if (act && act->type != JSON_STRING)
        return fail(e, ERR_FORMAT, "%s: the value of hidden_act has the wrong kind", files_path(f));
    if (act) TRY(read_act(f, act->s, hp, e));
    TRY(read_route(f, hp, e));
    TRY(check_fixed(f, e));
    if (config_find(f, "quantization_config") && !hf_quantization(files_hf(f)))
        return fail(
            e, ERR_UNSUPPORTED,
            "%s: the weights are quantised by another tool (quantization_config in config.json); expected f32, f16 or bf16 "
            "tensors, or MLX's",
            files_path(f));
    return 0;
}

/* What sentence-transformers says; else ModernBERT's heads read what its configuration says, BERT's the first token, decoders'
 * the last one. */
static enum pooling config_pooling(const struct files *f, const struct hparams *hp)
{
    static const struct {
        const char *key;
        enum pooling kind;
    } keys[] = {
        {"pooling_mode_cls_token", POOL_CLS}, {"pooling_mode_mean_tokens", POOL_MEAN}, {"pooling_mode_lasttoken", POOL_LAST}};
    const struct json *said = files_hf(f)->pooling, *head = config_find(f, "classifier_pooling");
    for (size_t i = 0; said && i < COUNT_OF(keys); i++) {
        bool on = false;
        if (json_opt_bool(said, keys[i].key, &on) && on) return keys[i].kind;
    }
    if (!hp->bidirectional) return POOL_LAST;
    const bool ranks = str_ends(str_of(hp->arch->hf_class), STR("ForSequenceClassification"));
    return ranks && !(head && head->type == JSON_STRING && str_is(head->s, "mean")) ? POOL_CLS : POOL_MEAN;
}

/* Of Gemma's: true, or "all"; "vision" is for images alone. */
static int config_directions(const struct files *f, struct hparams *hp, struct err *e)
{
    const struct json *j = config_find(f, "use_bidirectional_attention");
    if (!j || j->type == JSON_FALSE) return 0;
    const bool vision = j->type == JSON_STRING && str_is(j->s, "vision");
    if (j->type != JSON_TRUE && !vision && !(j->type == JSON_STRING && str_is(j->s, "all")))
        return fail(e, ERR_UNSUPPORTED, "%s: the value of use_bidirectional_attention is not known", files_path(f));
    if (!vision) hp->bidirectional = true;
    return 0;
}

/* Numbers of which only folders know, or which they say in another way. */
static int more_of_config(const struct files *f, struct hparams *hp, struct err *e)
{
    struct {
        float layer_norm_eps, query_scalar, logits_scaling, temp_scale, beta;
        bool temp_on, use_window, interleave, experts;
    } x = {.temp_on = true, .use_window = true, .interleave = true, .experts = true};
#define X(m) (size_t)((uint8_t *)&x.m - (uint8_t *)&x)
    const struct number_row more[] = {
        {NULL, "layer_norm_eps|layer_norm_epsilon", X(layer_norm_eps), NUM_F32, 0, 1},
        {NULL, "query_pre_attn_scalar", X(query_scalar), NUM_F32, 1e-6, 1e6},
        {NULL, "logits_scaling", X(logits_scaling), NUM_F32, 1e-6, 1e6},
        {NULL, "attn_scale", X(temp_scale), NUM_F32, 0, 1e3},
        {NULL, "attn_temperature_tuning", X(temp_on), NUM_BOOL, 0, 1},
        {NULL, "use_sliding_window", X(use_window), NUM_BOOL, 0, 1},
        {NULL, "rope_interleave", X(interleave), NUM_BOOL, 0, 1},
        {NULL, "enable_moe_block", X(experts), NUM_BOOL, 0, 1},
    };
#undef X
    TRY(numbers_read(f, hp->arch, more, COUNT_OF(more), &x, e));
    if (hp->arch->features & LAYER_NORM && x.layer_norm_eps > 0) hp->norm_eps = x.layer_norm_eps;
    if (x.query_scalar > 0) hp->attn_scale = 1.0f / sqrtf(x.query_scalar);
    if (x.logits_scaling > 0) hp->logit_scale = 1.0f / x.logits_scaling;
    if (hp->arch->features & TEMP_NOPE) hp->temp = x.temp_on ? x.temp_scale > 0 ? x.temp_scale : 0.1f : 0;
    if (!x.use_window) hp->window = 0;
    if (!x.interleave) hp->rope_neox = true;
    if (!x.experts) hp->route.n_experts = 0;
    TRY(config_directions(f, hp, e));
    if (arch_is(hp->arch, "gemma3")) hp->attn_softcap = 0; /* transformers reads it, and does not use it */
    hp->pooling = config_pooling(f, hp);
    if (hp->arch->features & CONV_LAYERS) TRY(conv_config(f, hp, e));
    const struct number_row own[] = {
        {NULL, "num_nextn_predict_layers|mtp_num_hidden_layers", offsetof(struct hparams, n_mtp), NUM_U32, 0, hp->n_layers},
        {NULL, "tie_word_embeddings|tie_embedding", offsetof(struct hparams, tied), NUM_BOOL, 0, 1},
    };
    TRY(numbers_read(f, hp->arch, own, COUNT_OF(own), hp, e));
    if (files_find(f, STR("mtp.fc.weight")) && !hp->n_mtp) hp->n_mtp = 1; /* Qwen3-Next does not say it */
    return check_config(f, hp, e);
}

/* The same of GGUF files, and what their architectures mean without saying it. */
static int more_of_gguf(const struct files *f, struct hparams *hp, struct err *e)
{
    struct {
        uint32_t gating, key_mla, rope_dim, n_ahead, pooling;
        float layer_norm_eps;
        bool causal;
    } x = {.causal = true};
#define X(m) (size_t)((uint8_t *)&x.m - (uint8_t *)&x)
    const struct number_row more[] = {
        {"expert_gating_func", NULL, X(gating), NUM_U32, 0, 3},
        {"attention.key_length_mla", NULL, X(key_mla), NUM_U32, 1, ATTN_DIM_MAX},
        {"rope.dimension_count", NULL, X(rope_dim), NUM_U32, 2, ATTN_DIM_MAX},
        {"attention.layer_norm_epsilon", NULL, X(layer_norm_eps), NUM_F32, 0, 1},
        {"pooling_type", NULL, X(pooling), NUM_U32, 0, 4},
        {"attention.causal", NULL, X(causal), NUM_BOOL, 0, 1},
        {"nextn_predict_layers", NULL, X(n_ahead), NUM_U32, 0, hp->n_layers - 1},
    };
#undef X
    TRY(numbers_read(f, hp->arch, more, COUNT_OF(more), &x, e));
    if (!x.causal) hp->bidirectional = true;
    const enum pooling head = hp->bidirectional ? POOL_CLS : POOL_LAST, usual = hp->bidirectional ? POOL_MEAN : POOL_LAST;
    const enum pooling types[] = {usual, POOL_MEAN, POOL_CLS, POOL_LAST, head}; /* none, mean, cls, last, rank */
    hp->pooling = types[x.pooling];
    hp->n_layers -= x.n_ahead; /* the last ones */
    hp->n_mtp = x.n_ahead;
    char name[64];
    struct str act;
    (void)snprintf(name, sizeof name, "%s.hidden_activation", hp->arch->gguf);
    if (gguf_get_str(files_gguf(f), name, &act)) TRY(read_act(f, act, hp, e));
    /* Maverick, which has 128 experts, is the Llama 4 without these norms; its files do not say so. */
    (void)snprintf(name, sizeof name, "%s.attention.qk_norm", hp->arch->gguf);
    if (hp->route.n_experts == 128 && !gguf_find(files_gguf(f), name)) hp->qk_l2 = false;
    if (x.gating) hp->route.sigmoid = x.gating == 2;
    if (x.gating) hp->route.top_softmax = x.gating == 3;
    if (hp->arch->features & LAYER_NORM && x.layer_norm_eps > 0) hp->norm_eps = x.layer_norm_eps;
    /* Granite's files have the divisor of the logits. */
    if (arch_is(hp->arch, "granite") && hp->logit_scale != 0) hp->logit_scale = 1.0f / hp->logit_scale;
    if (!hp->kv_lora) return 0;
    hp->rope_part = x.rope_dim;
    const uint32_t key = x.key_mla ? x.key_mla : hp->head_dim;
    if (key <= hp->rope_part)
        return fail(e, ERR_FORMAT, "%s: latent attention with keys of %u, of which %u are rotated", files_path(f), key,
                    hp->rope_part);
    hp->nope_part = key - hp->rope_part;
    if (!hp->v_dim) hp->v_dim = hp->nope_part;
    return 0;
}

/* ---- consequences ------------------------------------------------------------------------------------------------------ */

static int check_heads(const struct files *f, struct hparams *hp, struct err *e)
{
    if (hp->kv_lora) {
        const uint64_t key = (uint64_t)hp->kv_lora + hp->rope_part;
        if (!hp->rope_part || !hp->nope_part || !hp->v_dim || hp->rope_part % 2 || key > ATTN_DIM_MAX)
            return fail(
                e, ERR_FORMAT,
                "%s: latent attention of %u, %u and %u elements and a latent vector of %u; expected at most %d of the latter "
                "with the rotated part, which is an even number",
                files_path(f), hp->nope_part, hp->rope_part, hp->v_dim, hp->kv_lora, ATTN_DIM_MAX);
        hp->n_kv_heads = 1;
        hp->head_dim = hp->nope_part + hp->rope_part;
        return 0;
    }
    if (hp->n_kv_heads == 0) hp->n_kv_heads = hp->n_heads;
    if (hp->n_heads % hp->n_kv_heads)
        return fail(e, ERR_FORMAT, "%s: %u attention heads cannot share %u KV heads evenly", files_path(f), hp->n_heads,
                    hp->n_kv_heads);
    if (hp->head_dim) return 0;
    hp->head_dim = hp->n_embd / hp->n_heads;
    if (hp->n_embd % hp->n_heads || hp->head_dim > ATTN_DIM_MAX || hp->head_dim == 0)
        return fail(e, ERR_FORMAT, "%s: %u heads do not divide the width %u into heads of at most %d", files_path(f),
                    hp->n_heads, hp->n_embd, ATTN_DIM_MAX);
    return 0;
}

static int check_experts(const struct files *f, struct hparams *hp, struct err *e)
{
    struct route_params *r = &hp->route;
    if (r->n_experts == 0) return 0;
    if (hp->n_ff_expert == 0) hp->n_ff_expert = hp->n_ff;
    if (hp->n_ff_shared == 0) hp->n_ff_shared = hp->n_ff_expert * (hp->n_shared ? hp->n_shared : 1);
    const uint32_t groups = r->n_groups > 1 ? r->n_groups : 1, used = groups > 1 ? r->n_groups_used : 1;
    if (r->n_experts % groups || used < 1 || used > groups || r->n_used < 1 || r->n_used > r->n_experts / groups * used)
        return fail(e, ERR_FORMAT, "%s: a token uses %u of %u experts, from %u of %u groups; that is impossible", files_path(f),
                    r->n_used, r->n_experts, used, groups);
    return 0;
}

int hparams_read(const struct files *f, struct arena *a, struct hparams *hp, struct err *e)
{
    const bool hf = files_kind(f) == FILES_HF;
    *hp = (struct hparams){.norm_eps = hf ? 1e-6f : 1e-5f, .n_ctx_train = 2048};
    TRY(read_arch(f, hp, e));
    const unsigned features = hp->arch->features;
    hp->act = hp->arch->act;
    hp->bidirectional = (features & ENCODER) != 0;
    hp->act_limit = 7; /* of gpt-oss, whatever its config.json says (swiglu_limit): transformers does not read that */
    hp->residual_scale = 1;
    hp->temp_length = 8192;
    hp->qk_l2 = (features & QK_L2) != 0;
    if (features & TEMP_NOPE && !hf) hp->temp = 0.1f; /* of files that do not say it */
    hp->temp_offset = features & TEMP_NOPE ? 1 : 0;
    hp->rope_neox = hf ? !(features & HF_ADJACENT) : (features & GGUF_HALVES) != 0;
    hp->route.scale = 1;
    hp->route.sigmoid = (features & SIGMOID_ROUTE) != 0;
    hp->route.top_softmax = (features & TOP_SOFTMAX) != 0;
    hp->route.normalise = (features & NORM_ROUTE) != 0;
    TRY(numbers_read(f, hp->arch, rows, COUNT_OF(rows), hp, e));
    static const char *const needed[][2] = {{"block_count", "num_hidden_layers"},
                                            {"embedding_length", "hidden_size"},
                                            {"feed_forward_length", "intermediate_size"},
                                            {"attention.head_count", "num_attention_heads"}};
    const uint32_t values[] = {hp->n_layers, hp->n_embd, hp->n_ff ? hp->n_ff : hp->n_ff_expert, hp->n_heads};
    for (size_t i = 0; i < COUNT_OF(needed); i++)
        if (values[i] == 0) return fail(e, ERR_FORMAT, "%s: %s is missing", files_path(f), needed[i][hf]);
    TRY(hf ? more_of_config(f, hp, e) : more_of_gguf(f, hp, e));
    hp->route.group_top2 = hp->route.sigmoid;
    if (hp->route.scale == 0) hp->route.scale = 1;
    if (hp->logit_scale == 0) hp->logit_scale = 1;
    if (features & UNIT_SCORES) hp->attn_scale = 1;
    if (features & EMBD_SQRT) hp->embd_scale = sqrtf((float)hp->n_embd);
    if (hp->embd_scale == 0) hp->embd_scale = 1;
    hp->chunked = hp->chunk > 0;
    if (hp->chunked) hp->window = hp->chunk;
    TRY(check_heads(f, hp, e));
    TRY(check_experts(f, hp, e));
    TRY(layers_read(f, a, hp, e));
    return ropes_read(f, a, hp, e);
}
