/* hparams: hyper-parameters from GGUF metadata or config.json. Every number passes one table that states its two names and
 * its range, so nothing in the rest of the program has to ask again whether a size is sane. */
#include <math.h>
#include <stdio.h>

#include "kernel/kernel.h"
#include "model/model.h"

/* ---- numbers --------------------------------------------------------------------------------------------- */

enum kind { U32, F32, F64 };

static const struct row {
    const char *gguf; /* behind "<architecture>." */
    const char *hf;
    size_t offset;
    enum kind kind;
    double min, max;
    bool required;
} rows[] = {
    {"block_count", "num_hidden_layers", offsetof(struct hparams, n_layers), U32, 1, MAX_LAYERS, true},
    {"embedding_length", "hidden_size", offsetof(struct hparams, n_embd), U32, 1, 1 << 20, true},
    {"feed_forward_length", "intermediate_size", offsetof(struct hparams, n_ff), U32, 1, 1 << 24, true},
    {"attention.head_count", "num_attention_heads", offsetof(struct hparams, n_heads), U32, 1, 65536, true},
    {"attention.head_count_kv", "num_key_value_heads", offsetof(struct hparams, n_kv_heads), U32, 1, 65536, false},
    {"attention.key_length", "head_dim", offsetof(struct hparams, head_dim), U32, 1, ATTN_DIM_MAX, false},
    {"context_length", "max_position_embeddings", offsetof(struct hparams, n_ctx_train), U32, 1, 1 << 28, false},
    {"attention.layer_norm_rms_epsilon", "rms_norm_eps", offsetof(struct hparams, norm_eps), F32, 0, 1, false},
    {"rope.freq_base", "rope_theta", offsetof(struct hparams, rope_theta), F64, 1e-3, 1e15, false},
    {"rope.dimension_count", NULL, offsetof(struct hparams, rope_dim), U32, 2, ATTN_DIM_MAX, false},
};

static void put(struct hparams *hp, const struct row *r, double v)
{
    void *at = (uint8_t *)hp + r->offset;
    if (r->kind == U32)
        *(uint32_t *)at = (uint32_t)v;
    else if (r->kind == F32)
        *(float *)at = (float)v;
    else
        *(double *)at = v;
}

/* A number by either name; found is false where the file has none. */
static int number(const struct files *f, const struct json *obj, const char *prefix, const struct row *r, double *out,
                  bool *found, struct err *e)
{
    char key[128];
    const char *name = r->hf;
    *found = false;
    if (files_kind(f) == FILES_GGUF) {
        (void)snprintf(key, sizeof key, "%s.%s", prefix, r->gguf);
        name = key;
        if (!gguf_find(files_gguf(f), key)) return 0;
        if (!gguf_get_f64(files_gguf(f), key, out)) return fail(e, ERR_FORMAT, "%s: %s is not a number", files_path(f), key);
    } else {
        const struct json *j = r->hf ? json_find(obj, r->hf) : NULL;
        if (!j || j->type == JSON_NULL) return 0;
        if (j->type != JSON_INT && j->type != JSON_REAL)
            return fail(e, ERR_FORMAT, "%s: %s is not a number", files_path(f), name);
        *out = j->f;
    }
    if (!(*out >= r->min && *out <= r->max) || (r->kind == U32 && *out != floor(*out)))
        return fail(e, ERR_FORMAT, "%s: %s is %g; expected %s from %g to %g", files_path(f), name, *out,
                    r->kind == U32 ? "a whole number" : "a number", r->min, r->max);
    *found = true;
    return 0;
}

/* ---- rotary scaling --------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    enum rope_scaling scaling;
} scalings[] = {
    {"default", ROPE_PLAIN}, {"none", ROPE_PLAIN},        {"linear", ROPE_LINEAR}, {"dynamic", ROPE_DYNAMIC},
    {"yarn", ROPE_YARN},     {"longrope", ROPE_LONGROPE}, {"su", ROPE_LONGROPE},   {"llama3", ROPE_LLAMA3},
};

static int scaling_by_name(const struct files *f, struct str name, enum rope_scaling *out, struct err *e)
{
    for (size_t i = 0; i < COUNT_OF(scalings); i++) {
        if (!str_is(name, scalings[i].name)) continue;
        *out = scalings[i].scaling;
        return 0;
    }
    return fail(e, ERR_UNSUPPORTED,
                "%s: rotary scaling \"%.*s\" is not known; known are default, linear, dynamic, yarn, longrope and llama3",
                files_path(f), STR_ARG(name));
}

/* Divisors of rotary frequencies; the range keeps every angle in the range of num_sincos. */
static bool divisor_ok(float v)
{
    return v >= 1e-6f && v <= 1e6f;
}

/* An array of n of them from the JSON object. */
static int factors(const struct files *f, const struct json *obj, const char *key, size_t n, struct arena *a, const float **out,
                   struct err *e)
{
    const struct json *j = json_find(obj, key);
    if (!j || j->type != JSON_ARRAY || j->n != n)
        return fail(e, ERR_FORMAT, "%s: %s must be an array of %zu numbers", files_path(f), key, n);
    float *v = arena_array(a, n, sizeof *v);
    if (!v) return fail_nomem(e, key, n * sizeof *v);
    for (size_t i = 0; i < n; i++) {
        v[i] = (float)j->v[i].f;
        if ((j->v[i].type != JSON_INT && j->v[i].type != JSON_REAL) || !divisor_ok(v[i]))
            return fail(e, ERR_FORMAT, "%s: %s[%zu] is not a number from 1e-6 to 1e6", files_path(f), key, i);
    }
    *out = v;
    return 0;
}

/* The same from a GGUF tensor; missing is fine. */
static int factor_tensor(const struct files *f, const char *name, size_t n, struct arena *a, const float **out, struct err *e)
{
    const struct tensor *t = files_find(f, str_of(name));
    if (!t) return 0;
    if (t->ne[0] != n || t->bytes / (t->ne[0] * sizeof(float)) != 1 || t->type != QTYPE_F32)
        return fail(e, ERR_FORMAT, "%s: tensor %s must be %zu f32 values", files_path(f), name, n);
    float *v = arena_array(a, n, sizeof *v);
    if (!v) return fail_nomem(e, name, n * sizeof *v);
    memcpy(v, t->data, n * sizeof *v);
    for (size_t i = 0; i < n; i++)
        if (!divisor_ok(v[i]))
            return fail(e, ERR_FORMAT, "%s: tensor %s holds %g; expected factors from 1e-6 to 1e6", files_path(f), name,
                        (double)v[i]);
    *out = v;
    return 0;
}

static int wrong(const struct files *f, const char *key, struct err *e)
{
    return fail(e, ERR_FORMAT, "%s: the value of %s has the wrong kind or is out of range", files_path(f), key);
}

/* Defaults of the attention factor: YaRN's 0.1 ln(factor) + 1 (arXiv 2309.00071, section 3.4), LongRoPE's
 * sqrt(1 + ln(factor) / ln(original context)) (arXiv 2402.13753). */
static double yarn_mscale(double factor, double m)
{
    return factor > 1 ? 0.1 * m * num_log(factor) + 1.0 : 1.0;
}

static double longrope_factor(const struct hparams *hp, double factor)
{
    return factor > 1 && hp->rope_n_ctx > 1 ? sqrt(1.0 + num_log(factor) / num_log(hp->rope_n_ctx)) : 1.0;
}

static int rope_from_hf(const struct files *f, const struct json *config, struct arena *a, struct hparams *hp, struct err *e)
{
    /* Published checkpoints: rope_theta beside rope_scaling. transformers 5: both inside rope_parameters. */
    const struct json *obj = json_find(config, "rope_parameters");
    if (!obj || obj->type != JSON_OBJECT)
        obj = json_find(config, "rope_scaling");
    else if (!json_opt_f64(obj, "rope_theta", 1e-3, 1e15, &hp->rope_theta))
        return wrong(f, "rope_theta", e);
    if (!obj || obj->type != JSON_OBJECT) return 0;
    struct str type = STR("default");
    if (!json_opt_str(obj, "type", &type) || !json_opt_str(obj, "rope_type", &type)) return wrong(f, "rope_type", e);
    TRY(scaling_by_name(f, type, &hp->rope_scaling, e));
    if (hp->rope_scaling == ROPE_PLAIN) return 0;

    int64_t n_ctx = hp->n_ctx_train;
    double mscale = 0, mscale_all = 0, attn = 0, factor = 0;
    bool llama3 = hp->rope_scaling == ROPE_LLAMA3;
    hp->rope_low = 1, hp->rope_high = llama3 ? 4 : 32;
    if (!json_opt_f64(obj, "factor", 1e-3, 1e6, &factor)) return wrong(f, "factor", e);
    /* Where the file states no factor, it is the ratio of the two context lengths. */
    const struct json *outer = json_find(config, "original_max_position_embeddings");
    if (outer && !json_opt_i64(config, "original_max_position_embeddings", 1, 1 << 28, &n_ctx))
        return wrong(f, "original_max_position_embeddings", e);
    if (!json_opt_i64(obj, "original_max_position_embeddings", 1, 1 << 28, &n_ctx))
        return wrong(f, "original_max_position_embeddings", e);
    if (!json_opt_f64(obj, llama3 ? "low_freq_factor" : "beta_slow", 1e-6, 1e6, &hp->rope_low))
        return wrong(f, llama3 ? "low_freq_factor" : "beta_slow", e);
    if (!json_opt_f64(obj, llama3 ? "high_freq_factor" : "beta_fast", 1e-6, 1e6, &hp->rope_high))
        return wrong(f, llama3 ? "high_freq_factor" : "beta_fast", e);
    if (llama3 && hp->rope_high <= hp->rope_low) return wrong(f, "high_freq_factor", e);
    if (!json_opt_f64(obj, "mscale", 0, 1e3, &mscale) || !json_opt_f64(obj, "mscale_all_dim", 0, 1e3, &mscale_all))
        return wrong(f, "mscale", e);
    if (!json_opt_f64(obj, "attention_factor", 1e-6, 1e6, &attn)) return wrong(f, "attention_factor", e);
    if (!json_opt_bool(obj, "truncate", &hp->rope_truncate)) return wrong(f, "truncate", e);
    hp->rope_n_ctx = (uint32_t)n_ctx;
    double ratio = (double)hp->n_ctx_train / (double)n_ctx;
    if (factor == 0) factor = ratio;
    hp->rope_factor = factor;
    /* Dynamic scaling states the context before it is stretched. */
    if (hp->rope_scaling == ROPE_DYNAMIC) hp->n_ctx_train = (uint32_t)fmin(hp->n_ctx_train * factor, 1 << 28);
    if (hp->rope_scaling == ROPE_YARN)
        hp->rope_attn_factor = attn > 0                       ? attn
                               : mscale > 0 && mscale_all > 0 ? yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all)
                                                              : yarn_mscale(factor, 1);
    if (hp->rope_scaling != ROPE_LONGROPE) return 0;
    hp->rope_attn_factor = attn > 0 ? attn : longrope_factor(hp, outer ? ratio : factor);
    TRY(factors(f, obj, "short_factor", hp->rope_dim / 2, a, &hp->rope_short, e));
    return factors(f, obj, "long_factor", hp->rope_dim / 2, a, &hp->rope_long, e);
}

static int rope_from_gguf(const struct files *f, const char *prefix, struct arena *a, struct hparams *hp, struct err *e)
{
    static const struct row keys[] = {
        {"rope.scale_linear", NULL, offsetof(struct hparams, rope_factor), F64, 1e-3, 1e6, false}, /* older files */
        {"rope.scaling.factor", NULL, offsetof(struct hparams, rope_factor), F64, 1e-3, 1e6, false},
        {"rope.scaling.original_context_length", NULL, offsetof(struct hparams, rope_n_ctx), U32, 1, 1 << 28, false},
        {"rope.scaling.attn_factor", NULL, offsetof(struct hparams, rope_attn_factor), F64, 1e-6, 1e6, false},
        {"rope.scaling.yarn_beta_fast", NULL, offsetof(struct hparams, rope_high), F64, 1e-6, 1e6, false},
        {"rope.scaling.yarn_beta_slow", NULL, offsetof(struct hparams, rope_low), F64, 1e-6, 1e6, false},
    };
    char key[96];
    struct str type = STR("linear"); /* what files without a type mean; without a factor it changes nothing */
    (void)snprintf(key, sizeof key, "%s.rope.scaling.type", prefix);
    if (gguf_find(files_gguf(f), key) && !gguf_get_str(files_gguf(f), key, &type)) return wrong(f, key, e);
    TRY(scaling_by_name(f, type, &hp->rope_scaling, e));
    hp->rope_n_ctx = hp->n_ctx_train;
    hp->rope_low = 1, hp->rope_high = 32;
    hp->rope_attn_factor = 0;
    for (size_t i = 0; i < COUNT_OF(keys); i++) {
        double v;
        bool found;
        TRY(number(f, NULL, prefix, &keys[i], &v, &found, e));
        if (found) put(hp, &keys[i], v);
    }
    /* llama3 scaling travels as a tensor of divisors; the type then says nothing of it. */
    TRY(factor_tensor(f, "rope_freqs.weight", hp->rope_dim / 2, a, &hp->rope_short, e));
    TRY(factor_tensor(f, "rope_factors_short.weight", hp->rope_dim / 2, a, &hp->rope_short, e));
    TRY(factor_tensor(f, "rope_factors_long.weight", hp->rope_dim / 2, a, &hp->rope_long, e));
    if (hp->rope_long) hp->rope_scaling = ROPE_LONGROPE;
    double ratio = (double)hp->n_ctx_train / (double)hp->rope_n_ctx;
    if (hp->rope_scaling == ROPE_YARN)
        hp->rope_attn_factor = yarn_mscale(hp->rope_factor, 1) * (hp->rope_attn_factor > 0 ? hp->rope_attn_factor : 1);
    else if (hp->rope_scaling == ROPE_LONGROPE)
        hp->rope_attn_factor = hp->rope_attn_factor > 0 ? hp->rope_attn_factor : longrope_factor(hp, ratio);
    else
        hp->rope_attn_factor = 1;
    return 0;
}

/* ---- the whole ------------------------------------------------------------------------------------------------------------
 */

static int find_arch(const struct files *f, struct str name, bool hf, const struct arch **out, struct err *e)
{
    struct buf known = {0};
    for (size_t i = 0; (*out = arch_at(i)); i++) {
        const char *n = hf ? (*out)->hf_class : (*out)->gguf;
        if (str_is(name, n)) {
            buf_fini(&known);
            return 0;
        }
        (void)buf_printf(&known, "%s%s", i ? ", " : "", n);
    }
    int rc = fail(e, ERR_UNSUPPORTED, "%s: architecture \"%.*s\" is not supported; known are: %.*s", files_path(f),
                  STR_ARG(name), STR_ARG(buf_view(&known)));
    buf_fini(&known);
    return rc;
}

/* Things of config.json that change the arithmetic and that this architecture does not do must not pass silently. */
static int check_hf(const struct files *f, const struct json *config, struct hparams *hp, struct err *e)
{
    struct str act = STR("silu");
    if (!json_opt_str(config, "hidden_act", &act)) return wrong(f, "hidden_act", e);
    if (!str_is(act, "silu") && !str_is(act, "swish"))
        return fail(e, ERR_UNSUPPORTED, "%s: hidden_act \"%.*s\" is not supported; this architecture uses \"silu\"",
                    files_path(f), STR_ARG(act));
    if (json_find(config, "quantization_config") && !hf_quantization(files_hf(f)))
        return fail(
            e, ERR_UNSUPPORTED,
            "%s: the weights are quantised by another tool (quantization_config in config.json); expected f32, f16 or bf16 "
            "tensors, or MLX's",
            files_path(f));
    if (!json_opt_bool(config, "tie_word_embeddings", &hp->tied)) return wrong(f, "tie_word_embeddings", e);
    return 0;
}

int hparams_read(const struct files *f, struct arena *a, struct hparams *hp, struct err *e)
{
    bool hf = files_kind(f) == FILES_HF;
    const struct json *config = hf ? files_hf(f)->config : NULL;
    *hp = (struct hparams){.norm_eps = hf ? 1e-6f : 1e-5f,
                           .rope_theta = 10000,
                           .rope_factor = 1,
                           .rope_attn_factor = 1,
                           .rope_truncate = true,
                           .n_ctx_train = 2048,
                           .rope_neox = hf};
    struct str name = {0};
    if (hf) {
        const struct json *list = json_find(config, "architectures");
        if (!list || list->type != JSON_ARRAY || list->n == 0 || list->v[0].type != JSON_STRING)
            return fail(e, ERR_FORMAT, "%s: config.json names no architecture (\"architectures\": [\"LlamaForCausalLM\"])",
                        files_path(f));
        name = list->v[0].s;
    } else if (!gguf_get_str(files_gguf(f), "general.architecture", &name)) {
        return fail(e, ERR_FORMAT, "%s: the file has no general.architecture", files_path(f));
    }
    TRY(find_arch(f, name, hf, &hp->arch, e));
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        double v;
        bool found;
        TRY(number(f, config, hp->arch->gguf, &rows[i], &v, &found, e));
        if (found)
            put(hp, &rows[i], v);
        else if (rows[i].required)
            return fail(e, ERR_FORMAT, "%s: %s is missing", files_path(f), hf ? rows[i].hf : rows[i].gguf);
    }
    if (hp->n_kv_heads == 0) hp->n_kv_heads = hp->n_heads;
    if (hp->n_heads % hp->n_kv_heads)
        return fail(e, ERR_FORMAT, "%s: %u attention heads cannot share %u KV heads evenly", files_path(f), hp->n_heads,
                    hp->n_kv_heads);
    if (hp->head_dim == 0) {
        hp->head_dim = hp->n_embd / hp->n_heads;
        if (hp->n_embd % hp->n_heads || hp->head_dim > ATTN_DIM_MAX || hp->head_dim == 0)
            return fail(e, ERR_FORMAT, "%s: %u heads do not divide the width %u into heads of at most %d", files_path(f),
                        hp->n_heads, hp->n_embd, ATTN_DIM_MAX);
    }
    if (hp->rope_dim == 0) hp->rope_dim = hp->head_dim;
    if (hp->rope_dim > hp->head_dim || hp->rope_dim % 2)
        return fail(e, ERR_FORMAT, "%s: %u rotated dimensions in heads of %u; expected an even number not above it",
                    files_path(f), hp->rope_dim, hp->head_dim);
    if (!hf) return rope_from_gguf(f, hp->arch->gguf, a, hp, e);
    TRY(check_hf(f, config, hp, e));
    return rope_from_hf(f, config, a, hp, e);
}
