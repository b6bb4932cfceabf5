/* rope: rotary embeddings: what files say of them, and the frequencies for every scaling that checkpoints use. Those are
 * computed in f64 with our own functions and rounded to f32 once. */
#include <math.h>
#include <stdio.h>

#include "model/model_int.h"

#define PI 3.14159265358979323846

/* ---- reading: parts common to both kinds of files -------------------------------------------------------------------- */

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
                "%s: rotary scaling \"%.*s\" is not known; known are default, linear, dynamic, yarn, longrope, llama3 and "
                "proportional",
                files_path(f), STR_ARG(name));
}

/* Divisors of rotary frequencies: not so small that an angle leaves the range of num_sincos; 1e30 is how GGUF's files say that
 * a pair does not turn. */
static bool divisor_ok(float v)
{
    return v >= 1e-6f && v <= 1e31f;
}

static int wrong(const struct files *f, const char *key, struct err *e)
{
    return fail(e, ERR_FORMAT, "%s: the value of %s has the wrong kind or is out of range", files_path(f), key);
}

double yarn_mscale(double factor, double m)
{
    return factor > 1 ? 0.1 * m * num_log(factor) + 1.0 : 1.0;
}

/* LongRoPE's sqrt(1 + ln(factor) / ln(original context)) (arXiv 2402.13753). */
static double longrope_factor(const struct rope_hp *r, double factor)
{
    return factor > 1 && r->n_ctx > 1 ? sqrt(1.0 + num_log(factor) / num_log(r->n_ctx)) : 1.0;
}

static int check_dim(const struct files *f, const struct rope_hp *r, uint32_t head, struct err *e)
{
    if (r->dim > head || r->dim % 2 || r->dim == 0)
        return fail(e, ERR_FORMAT, "%s: %u rotated dimensions in heads of %u; expected an even number not above it",
                    files_path(f), r->dim, head);
    return 0;
}

/* ---- Hugging Face ------------------------------------------------------------------------------------------------------ */

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

/* Pairs are half a whole head apart, and only those of the first part turn. */
static int proportional(struct rope_hp *r, uint32_t head, struct arena *a, struct err *e)
{
    const uint32_t turning = r->dim / 2;
    float *v = arena_array(a, head / 2, sizeof *v);
    if (!v) return fail_nomem(e, "rotary frequencies", head / 2 * sizeof *v);
    for (uint32_t i = 0; i < head / 2; i++) v[i] = i < turning ? (float)r->factor : 1e30f;
    r->divisors = v;
    r->dim = head;
    return 0;
}

/* The members of a scaling object (rope_scaling, rope_parameters or one kind of layers in it) into r. */
static int read_scaling(const struct files *f, const struct json *obj, struct arena *a, struct hparams *hp, struct rope_hp *r,
                        uint32_t head, struct err *e)
{
    struct str type = STR("default");
    double part = 0;
    if (!json_opt_f64(obj, "rope_theta", 1e-3, 1e15, &r->theta)) return wrong(f, "rope_theta", e);
    if (!json_opt_f64(obj, "partial_rotary_factor", 0, 1, &part)) return wrong(f, "partial_rotary_factor", e);
    if (part > 0) r->dim = (uint32_t)(head * part);
    if (!json_opt_str(obj, "type", &type) || !json_opt_str(obj, "rope_type", &type)) return wrong(f, "rope_type", e);
    double factor = 0, mscale = 0, attn = 0;
    if (!json_opt_f64(obj, "factor", 1e-3, 1e6, &factor)) return wrong(f, "factor", e);
    if (str_is(type, "proportional")) {
        if (factor > 0) r->factor = factor;
        return proportional(r, head, a, e);
    }
    TRY(scaling_by_name(f, type, &r->scaling, e));
    if (r->scaling == ROPE_PLAIN) return 0;

    int64_t n_ctx = hp->n_ctx_train;
    bool llama3 = r->scaling == ROPE_LLAMA3;
    r->low = 1, r->high = llama3 ? 4 : 32;
    /* Where the file states no factor, it is the ratio of the two context lengths. */
    const struct json *outer = config_find(f, "original_max_position_embeddings");
    if (outer && (outer->type != JSON_INT || outer->i < 1 || outer->i > 1 << 28))
        return wrong(f, "original_max_position_embeddings", e);
    if (outer) n_ctx = outer->i;
    if (!json_opt_i64(obj, "original_max_position_embeddings", 1, 1 << 28, &n_ctx))
        return wrong(f, "original_max_position_embeddings", e);
    if (!json_opt_f64(obj, llama3 ? "low_freq_factor" : "beta_slow", 1e-6, 1e6, &r->low))
        return wrong(f, llama3 ? "low_freq_factor" : "beta_slow", e);
    if (!json_opt_f64(obj, llama3 ? "high_freq_factor" : "beta_fast", 1e-6, 1e6, &r->high))
        return wrong(f, llama3 ? "high_freq_factor" : "beta_fast", e);
    if (llama3 && r->high <= r->low) return wrong(f, "high_freq_factor", e);
    if (!json_opt_f64(obj, "mscale", 0, 1e3, &mscale) || !json_opt_f64(obj, "mscale_all_dim", 0, 1e3, &r->mscale_all))
        return wrong(f, "mscale", e);
    if (!json_opt_f64(obj, "attention_factor", 1e-6, 1e6, &attn)) return wrong(f, "attention_factor", e);
    if (!json_opt_bool(obj, "truncate", &r->truncate)) return wrong(f, "truncate", e);
    double beta = 0;
    if (!json_opt_f64(obj, "llama_4_scaling_beta", 0, 1e3, &beta)) return wrong(f, "llama_4_scaling_beta", e);
    if (beta > 0) hp->temp = (float)beta, hp->temp_length = (uint32_t)n_ctx;
    r->n_ctx = (uint32_t)n_ctx;
    double ratio = (double)hp->n_ctx_train / (double)n_ctx;
    if (factor == 0) factor = ratio;
    r->factor = factor;
    /* Dynamic scaling states the context before it is stretched. */
    if (r->scaling == ROPE_DYNAMIC) hp->n_ctx_train = (uint32_t)fmin(hp->n_ctx_train * factor, 1 << 28);
    if (r->scaling == ROPE_YARN)
        r->attn_factor = attn > 0                          ? attn
                         : mscale > 0 && r->mscale_all > 0 ? yarn_mscale(factor, mscale) / yarn_mscale(factor, r->mscale_all)
                                                           : yarn_mscale(factor, 1);
    if (r->scaling != ROPE_LONGROPE) return 0;
    r->attn_factor = attn > 0 ? attn : longrope_factor(r, outer ? ratio : factor);
    TRY(factors(f, obj, "short_factor", r->dim / 2, a, &r->divisors, e));
    return factors(f, obj, "long_factor", r->dim / 2, a, &r->long_divisors, e);
}

static const struct json *object(const struct json *j)
{
    return j && j->type == JSON_OBJECT ? j : NULL;
}

/* Published checkpoints: rope_theta beside rope_scaling. transformers 5: both inside rope_parameters, which may have an object
 * for each kind of layers. */
static int ropes_from_config(const struct files *f, struct arena *a, struct hparams *hp, const uint32_t *heads, struct err *e)
{
    struct rope_hp *all = &hp->rope[0], *local = &hp->rope[1];
    double part = 1;
    float local_theta = 0;
    static const struct number_row theta = {NULL, "rope_theta|global_rope_theta|rotary_emb_base", 0, NUM_F64, 1e-3, 1e15};
    static const struct number_row partial = {NULL, "partial_rotary_factor|rotary_pct", 0, NUM_F64, 0, 1};
    static const struct number_row base = {NULL, "rope_local_base_freq|local_rope_theta", 0, NUM_F32, 1e-3, 1e15};
    TRY(numbers_read(f, hp->arch, &theta, 1, &all->theta, e));
    TRY(numbers_read(f, hp->arch, &partial, 1, &part, e));
    TRY(numbers_read(f, hp->arch, &base, 1, &local_theta, e));
    if (!hp->kv_lora && part > 0) all->dim = (uint32_t)(heads[0] * part);
    *local = *all;
    if (!hp->kv_lora && part > 0) local->dim = (uint32_t)(heads[1] * part);
    if (local_theta > 0) local->theta = (double)local_theta;
    const struct json *parameters = object(config_find(f, "rope_parameters")),
                      *scaling = object(config_find(f, "rope_scaling"));
    const struct str usual = arch_unsaid_rope(hp->arch);
    if (!parameters && !scaling && usual.n) {
        struct json *j;
        TRY(json_parse(a, usual, "rope_parameters", &j, e));
        parameters = j;
    }
    const struct json *full = object(json_find(parameters, "full_attention"));
    const struct json *sliding = object(json_find(parameters, "sliding_attention"));
    if (!full && !sliding) full = parameters ? parameters : scaling;
    if (full) TRY(read_scaling(f, full, a, hp, all, heads[0], e));
    if (sliding) TRY(read_scaling(f, sliding, a, hp, local, heads[1], e));
    hp->n_ropes = sliding || local_theta > 0 || hp->arch->local_theta != 0 || heads[0] != heads[1] ? 2 : 1;
    return 0;
}

/* ---- GGUF -------------------------------------------------------------------------------------------------------------- */

/* Divisors from a tensor; missing is fine. */
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
            return fail(e, ERR_FORMAT, "%s: tensor %s holds %g; expected factors from 1e-6 to 1e31", files_path(f), name,
                        (double)v[i]);
    *out = v;
    return 0;
}

static int ropes_from_gguf(const struct files *f, struct arena *a, struct hparams *hp, struct err *e)
{
    struct rope_hp *r = &hp->rope[0], *local = &hp->rope[1];
    struct {
        double theta, log_multiplier;
        uint32_t dim;
        bool truncate;
    } x = {0, 0, 0, hp->arch->act != ACT_SWIGLU_CLAMP};
#define X(m) (size_t)((uint8_t *)&x.m - (uint8_t *)&x)
#define R(m) offsetof(struct rope_hp, m)
    const struct number_row extra[] = {
        {"rope.freq_base_swa", NULL, X(theta), NUM_F64, 1e-3, 1e15},
        {"rope.dimension_count_swa", NULL, X(dim), NUM_U32, 2, ATTN_DIM_MAX},
        {"rope.scaling.yarn_log_multiplier", NULL, X(log_multiplier), NUM_F64, 0, 1e3},
        {"rope.scaling.truncate", NULL, X(truncate), NUM_BOOL, 0, 1},
    };
    static const struct number_row keys[] = {
        {"rope.freq_base", NULL, R(theta), NUM_F64, 1e-3, 1e15},
        {"rope.dimension_count", NULL, R(dim), NUM_U32, 2, ATTN_DIM_MAX},
        {"rope.scale_linear", NULL, R(factor), NUM_F64, 1e-3, 1e6}, /* older files */
        {"rope.scaling.factor", NULL, R(factor), NUM_F64, 1e-3, 1e6},
        {"rope.scaling.original_context_length", NULL, R(n_ctx), NUM_U32, 1, 1 << 28},
        {"rope.scaling.attn_factor", NULL, R(attn_factor), NUM_F64, 1e-6, 1e6},
        {"rope.scaling.yarn_beta_fast", NULL, R(high), NUM_F64, 1e-6, 1e6},
        {"rope.scaling.yarn_beta_slow", NULL, R(low), NUM_F64, 1e-6, 1e6},
    };
#undef R
#undef X
    const uint32_t local_dim = local->dim;
    *local = *r;
    local->dim = local_dim;
    local->theta = 10000;
    char key[96];
    struct str type = STR("linear"); /* what files without a type mean; without a factor it changes nothing */
    (void)snprintf(key, sizeof key, "%s.rope.scaling.type", hp->arch->gguf);
    if (gguf_find(files_gguf(f), key) && !gguf_get_str(files_gguf(f), key, &type)) return wrong(f, key, e);
    TRY(scaling_by_name(f, type, &r->scaling, e));
    r->n_ctx = hp->n_ctx_train;
    r->low = 1, r->high = 32;
    r->attn_factor = 0;
    TRY(numbers_read(f, hp->arch, keys, COUNT_OF(keys), r, e));
    TRY(numbers_read(f, hp->arch, extra, COUNT_OF(extra), &x, e));
    r->truncate = x.truncate;
    if (hp->arch->local_theta == THETA_OF_ALL) local->theta = r->theta;
    if (x.theta > 0) local->theta = x.theta;
    if (x.dim > 0) local->dim = x.dim;
    hp->n_ropes = x.theta > 0 || x.dim > 0 || hp->head_dim_local || hp->arch->local_theta != 0 ? 2 : 1;
    /* llama3 scaling travels as a tensor of divisors; the type then says nothing of it. */
    TRY(factor_tensor(f, "rope_freqs.weight", r->dim / 2, a, &r->divisors, e));
    TRY(factor_tensor(f, "rope_factors_short.weight", r->dim / 2, a, &r->divisors, e));
    TRY(factor_tensor(f, "rope_factors_long.weight", r->dim / 2, a, &r->long_divisors, e));
    if (r->long_divisors) r->scaling = ROPE_LONGROPE;
    double ratio = (double)hp->n_ctx_train / (double)r->n_ctx;
    if (hp->kv_lora && r->scaling == ROPE_YARN) {
        /* The scores' scale has the factor in it, sine and cosine do not. */
        r->attn_factor = 1;
        r->mscale_all = 10 * x.log_multiplier;
    } else if (r->scaling == ROPE_YARN) {
        r->attn_factor = yarn_mscale(r->factor, 1) * (r->attn_factor > 0 ? r->attn_factor : 1);
    } else if (r->scaling == ROPE_LONGROPE) {
        r->attn_factor = r->attn_factor > 0 ? r->attn_factor : longrope_factor(r, ratio);
    } else {
        r->attn_factor = 1;
    }
    return 0;
}

int ropes_read(const struct files *f, struct arena *a, struct hparams *hp, struct err *e)
{
    /* Heads of layers that see everything, and of those with a window. */
    uint32_t heads[ROPE_SETS] = {hp->head_dim, hp->head_dim};
    for (uint32_t l = 0; l < hp->n_layers; l++) heads[hp->layers[l].local] = hp->layers[l].head_dim;
    for (size_t i = 0; i < ROPE_SETS; i++)
        hp->rope[i] = (struct rope_hp){
            .dim = hp->kv_lora ? hp->rope_part : heads[i], .theta = 10000, .factor = 1, .attn_factor = 1, .truncate = true};
    if (files_kind(f) == FILES_HF)
        TRY(ropes_from_config(f, a, hp, heads, e));
    else
        TRY(ropes_from_gguf(f, a, hp, e));
    for (uint32_t i = 0; i < hp->n_ropes; i++) TRY(check_dim(f, &hp->rope[i], hp->kv_lora ? hp->rope_part : heads[i], e));
    return 0;
}

/* ---- frequencies ------------------------------------------------------------------------------------------------------- */

uint32_t model_rope_class(const struct model *m, uint32_t n)
{
    const struct rope_hp *r = &m->hp.rope[0];
    if (r->scaling == ROPE_LONGROPE) return n > r->n_ctx;
    if (r->scaling == ROPE_DYNAMIC) return n > r->n_ctx ? n : 0;
    return 0;
}

/* Llama 3.1: wavelengths longer than the original context / low_freq_factor are stretched by factor, those shorter than
 * context / high_freq_factor kept, between them interpolated. */
static double llama3(const struct rope_hp *r, double freq)
{
    double wavelength = 2 * PI / freq, n = r->n_ctx;
    if (wavelength > n / r->low) return freq / r->factor;
    if (wavelength < n / r->high) return freq;
    double smooth = (n / wavelength - r->low) / (r->high - r->low);
    return (1 - smooth) * freq / r->factor + smooth * freq;
}

/* YaRN: dimension at which the context holds `turns` rotations. */
static double yarn_dim(const struct rope_hp *r, double turns)
{
    return r->dim * num_log(r->n_ctx / (turns * 2 * PI)) / (2 * num_log(r->theta));
}

/* 0: keep the frequency; 1: interpolate it fully. */
static double yarn_ramp(const struct rope_hp *r, double i)
{
    double low = yarn_dim(r, r->high), high = yarn_dim(r, r->low);
    if (r->truncate) low = floor(low), high = ceil(high);
    low = fmax(low, 0);
    high = fmin(high, r->dim - 1.0);
    if (low == high) high += 0.001;
    return fmin(fmax((i - low) / (high - low), 0), 1);
}

void model_rope(const struct model *m, uint32_t set, uint32_t n, float *inv_freq, float *scale)
{
    const struct rope_hp *r = &m->hp.rope[set];
    double theta = r->theta;
    if (r->scaling == ROPE_DYNAMIC && n > r->n_ctx && r->dim > 2) {
        double grow = r->factor * n / r->n_ctx - (r->factor - 1);
        theta *= num_pow(grow, r->dim / (r->dim - 2.0));
    }
    const float *divisor = r->scaling == ROPE_LONGROPE && n > r->n_ctx ? r->long_divisors : r->divisors;
    for (uint32_t i = 0; i < r->dim / 2; i++) {
        double freq = num_pow(theta, -2.0 * i / r->dim);
        if (r->scaling == ROPE_LINEAR) freq /= r->factor;
        if (r->scaling == ROPE_LLAMA3) freq = llama3(r, freq);
        if (r->scaling == ROPE_YARN) {
            double ramp = yarn_ramp(r, i);
            freq = freq / r->factor * ramp + freq * (1 - ramp);
        }
        inv_freq[i] = (float)(divisor ? freq / (double)divisor[i] : freq);
    }
    *scale = (float)r->attn_factor;
}
