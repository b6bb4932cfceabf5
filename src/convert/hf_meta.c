/* hf_meta: the metadata of a GGUF file, from the JSON files of a folder: hyper-parameters, vocabulary, sampling defaults. Keys
 * and their types are those of llama.cpp. */
#include "convert/convert_int.h"
#include "kernel/kernel.h"
#include "model/model.h"
#include "text/text.h"

#include <stdio.h>

/* "<architecture>.<name>" in a buffer that lives as long as the call that uses it. */
struct key {
    char text[96];
};

static struct key arch_key(const struct model *m, const char *name)
{
    struct key k;
    (void)snprintf(k.text, sizeof k.text, "%s.%s", m->hp.arch->gguf, name);
    return k;
}

static void put_u32(struct gguf_writer *w, const struct model *m, const char *name, uint32_t v)
{
    gguf_put_u32(w, arch_key(m, name).text, v);
}

static void put_f32(struct gguf_writer *w, const struct model *m, const char *name, double v)
{
    gguf_put_f32(w, arch_key(m, name).text, (float)v);
}

/* ---- hyper-parameters -------------------------------------------------------------------------------------------------- */

/* llama3 is said by the tensor rope_freqs.weight and not by a key. */
static const char *const scaling_names[] = {
    [ROPE_LINEAR] = "linear", [ROPE_DYNAMIC] = "dynamic", [ROPE_YARN] = "yarn", [ROPE_LONGROPE] = "longrope"};

static void put_rope(struct gguf_writer *w, const struct model *m)
{
    const struct hparams *hp = &m->hp;
    const struct rope_hp *r = &hp->rope[0];
    put_u32(w, m, "rope.dimension_count", r->dim);
    put_f32(w, m, "rope.freq_base", r->theta);
    if (hp->n_ropes > 1) {
        put_f32(w, m, "rope.freq_base_swa", hp->rope[1].theta);
        put_u32(w, m, "rope.dimension_count_swa", hp->rope[1].dim);
    }
    /* Readers want to know how pictures' positions would be turned. */
    static const int32_t sections[] = {11, 11, 10, 0};
    if (hp->arch->features & TILED_VALUES) gguf_put_i32s(w, arch_key(m, "rope.dimension_sections").text, sections, 4);
    const char *name = r->scaling < COUNT_OF(scaling_names) ? scaling_names[r->scaling] : NULL;
    if (!name) return;
    gguf_put_str(w, arch_key(m, "rope.scaling.type").text, str_of(name));
    put_f32(w, m, "rope.scaling.factor", r->factor);
    if (r->scaling != ROPE_LINEAR) put_u32(w, m, "rope.scaling.original_context_length", r->n_ctx);
    double attn = r->attn_factor;
    if (r->scaling == ROPE_YARN) {
        put_f32(w, m, "rope.scaling.yarn_beta_fast", r->high);
        put_f32(w, m, "rope.scaling.yarn_beta_slow", r->low);
        /* llama.cpp always rounds the range and has no key for what does not. */
        gguf_put_bool(w, arch_key(m, "rope.scaling.truncate").text, r->truncate);
        if (hp->kv_lora) put_f32(w, m, "rope.scaling.yarn_log_multiplier", 0.1 * r->mscale_all);
        if (hp->kv_lora) return; /* readers know how it goes into the scores */
        /* Readers multiply by 0.1 ln(factor) + 1 themselves. */
        if (r->factor > 1) attn /= 0.1 * num_log(r->factor) + 1;
    }
    if ((float)attn != 1.0f || r->scaling == ROPE_LONGROPE) put_f32(w, m, "rope.scaling.attn_factor", attn);
}

/* Keys that say otherwise in GGUF what config.json says, or are not said at all. */
static bool said_otherwise(const struct hparams *hp, const char *key)
{
    static const char *const keys[] = {
        "attention.head_count_kv",  "attention.key_length", "attention.value_length_mla", "attention.layer_norm_rms_epsilon",
        "attention.sliding_window", "logit_scale",          "feed_forward_length",        "block_count"};
    for (size_t i = 0; i < COUNT_OF(keys); i++)
        if (strcmp(key, keys[i]) == 0) return true;
    return strcmp(key, "embedding_scale") == 0 && hp->arch->features & EMBD_SQRT;
}

static void put_numbers(struct gguf_writer *w, const struct model *m)
{
    struct hparam p;
    put_u32(w, m, "block_count", model_n_blocks(m));
    if (m->head) put_u32(w, m, "nextn_predict_layers", 1);
    for (size_t i = 0; hparams_at(&m->hp, i, &p); i++) {
        if (!p.key || said_otherwise(&m->hp, p.key) || !p.said) continue;
        if (p.kind == NUM_U32)
            put_u32(w, m, p.key, (uint32_t)p.value);
        else if (p.kind == NUM_BOOL)
            gguf_put_bool(w, arch_key(m, p.key).text, p.value != 0);
        else
            put_f32(w, m, p.key, p.value);
    }
}

/* A width of layers, at an offset of struct layer_hp: a number, or a list where they differ. */
static void put_width(struct gguf_writer *w, const struct model *m, const char *name, size_t at, struct arena *a)
{
    const uint32_t n = model_n_blocks(m);
    int32_t *v = arena_array(a, n, sizeof *v);
    bool alike = true;
    for (uint32_t l = 0; v && l < n; l++) {
        v[l] = (int32_t) * (const uint32_t *)(const void *)((const uint8_t *)&m->hp.layers[l] + at);
        alike = alike && v[l] == v[0];
    }
    if (v && !alike)
        gguf_put_i32s(w, arch_key(m, name).text, v, n);
    else if (v && v[0])
        put_u32(w, m, name, (uint32_t)v[0]);
}

static void put_heads(struct gguf_writer *w, const struct model *m, struct arena *a)
{
    const struct hparams *hp = &m->hp;
    /* Readers learn from zeros which layers are short convolutions, but from a period which are gated delta nets. */
    if (hp->arch->features & DELTA_LAYERS)
        put_u32(w, m, "attention.head_count_kv", hp->n_kv_heads);
    else
        put_width(w, m, "attention.head_count_kv", offsetof(struct layer_hp, n_kv_heads), a);
    put_width(w, m, "feed_forward_length", offsetof(struct layer_hp, n_ff), a);
    if (hp->kv_lora) { /* as attention to the latent vector sees them; and as they were meant */
        put_u32(w, m, "attention.key_length", hp->kv_lora + hp->rope_part);
        put_u32(w, m, "attention.value_length", hp->kv_lora);
        put_u32(w, m, "attention.key_length_mla", hp->nope_part + hp->rope_part);
        put_u32(w, m, "attention.value_length_mla", hp->v_dim);
    } else if (hp->head_dim * (uint64_t)hp->n_heads != hp->n_embd) {
        put_u32(w, m, "attention.key_length", hp->head_dim);
        put_u32(w, m, "attention.value_length", hp->head_dim);
    }
    if (hp->head_dim_local) put_u32(w, m, "attention.value_length_swa", hp->head_dim_local);
}

/* Which layers have a window, where the architecture does not imply it. */
static void put_windows(struct gguf_writer *w, const struct model *m, struct arena *a)
{
    const struct hparams *hp = &m->hp;
    const uint32_t period = hp->arch->full_every;
    bool *local = arena_array(a, hp->n_layers, sizeof *local), implied = !hp->head_dim_local;
    if (hp->window == 0) return;
    if (!hp->chunked) put_u32(w, m, "attention.sliding_window", hp->window);
    for (uint32_t l = 0; local && l < hp->n_layers; l++) {
        local[l] = hp->layers[l].local;
        implied = implied && local[l] == (period == 0 || (l + 1) % period != 0);
    }
    if (!implied) gguf_put_bools(w, arch_key(m, "attention.sliding_window_pattern").text, local, hp->n_layers);
}

/* Which layers know positions, where the architecture and the windows do not imply it. */
static void put_positions(struct gguf_writer *w, const struct model *m, struct arena *a)
{
    const struct hparams *hp = &m->hp;
    bool *turns = arena_array(a, hp->n_layers, sizeof *turns), implied = true;
    const bool fourths = arch_is(hp->arch, "smollm3");
    for (uint32_t l = 0; turns && l < hp->n_layers; l++) {
        turns[l] = !hp->layers[l].nope;
        const bool usual = hp->arch->features & FULL_NOPE ? hp->layers[l].local : !(fourths && (l + 1) % 4 == 0);
        implied = implied && turns[l] == usual;
    }
    if (!implied) gguf_put_bools(w, arch_key(m, "rope.layer_pattern").text, turns, hp->n_layers);
}

/* How layers with experts lie among the others, and how tokens are routed. */
static void put_experts(struct gguf_writer *w, const struct model *m)
{
    const struct hparams *hp = &m->hp;
    uint32_t dense = 0, step = 1;
    if (hp->route.n_experts == 0) return;
    while (dense < hp->n_layers && !m->layers[dense].router) dense++;
    while (dense + step < hp->n_layers && !m->layers[dense + step].router) step++;
    put_u32(w, m, "expert_gating_func", hp->route.sigmoid ? 2 : hp->route.top_softmax ? 3 : 1);
    put_u32(w, m, "leading_dense_block_count", step > 1 ? 0 : dense);
    put_u32(w, m, "interleave_moe_layer_step", step);
}

/* GGUF's numbers of the ways of pooling; the last one is for heads that read what they usually do. */
static uint32_t pooling_type(const struct model *m)
{
    static const uint32_t types[] = {[POOL_MEAN] = 1, [POOL_CLS] = 2, [POOL_LAST] = 3};
    return m->cls_out && m->hp.pooling != POOL_MEAN ? 4 : types[m->hp.pooling];
}

static void put_encoder(struct gguf_writer *w, const struct files *src, const struct model *m)
{
    if (!m->hp.bidirectional && !m->cls_out && !files_hf(src)->pooling) return;
    put_u32(w, m, "pooling_type", pooling_type(m));
    if (m->hp.bidirectional) gguf_put_bool(w, arch_key(m, "attention.causal").text, false);
    if (m->type_embd) gguf_put_u32(w, "tokenizer.ggml.token_type_count", (uint32_t)m->type_embd->ne[1]);
}

static void put_hparams(struct gguf_writer *w, const struct model *m, struct arena *a)
{
    const struct hparams *hp = &m->hp;
    const bool layer_norm = hp->arch->features & LAYER_NORM;
    put_numbers(w, m);
    /* Other programs look at it for few architectures: they compute what is usual for the others. */
    if (hp->act != hp->arch->act) gguf_put_str(w, arch_key(m, "hidden_activation").text, str_of(hparams_act_name(hp->act)));
    put_heads(w, m, a);
    put_windows(w, m, a);
    if (!(hp->arch->features & ABSOLUTE)) put_positions(w, m, a);
    put_experts(w, m);
    put_f32(w, m, layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", (double)hp->norm_eps);
    if (hp->logit_scale != 1)
        put_f32(w, m, "logit_scale", arch_is(hp->arch, "granite") ? 1 / (double)hp->logit_scale : (double)hp->logit_scale);
    put_u32(w, m, "vocab_size", hp->n_vocab);
    if (!(hp->arch->features & ABSOLUTE)) put_rope(w, m);
}

/* ---- sampling defaults -------------------------------------------------------------------------------------------------- */

static const struct {
    const char *hf, *gguf;
} sampling[] = {
    {"temperature", "general.sampling.temp"},
    {"top_p", "general.sampling.top_p"},
    {"min_p", "general.sampling.min_p"},
    {"repetition_penalty", "general.sampling.penalty_repeat"},
};

static int put_sampling(struct gguf_writer *w, const struct files *src, struct err *e)
{
    const struct json *j = files_hf(src)->generation_config;
    int64_t top_k = -1;
    bool sample = true;
    bool ok = json_opt_i64(j, "top_k", -1, INT32_MAX, &top_k) && json_opt_bool(j, "do_sample", &sample);
    for (size_t i = 0; ok && i < COUNT_OF(sampling); i++) {
        double v = -1;
        ok = json_opt_f64(j, sampling[i].hf, 0, 1000, &v);
        if (i == 0 && !sample) v = 0; /* always the best token */
        if (ok && v >= 0) gguf_put_f32(w, sampling[i].gguf, (float)v);
    }
    if (!ok)
        return fail(e, ERR_FORMAT, "%s: generation_config.json: a sampling default has the wrong kind or is out of range",
                    files_path(src));
    if (top_k >= 0) gguf_put_i32(w, "general.sampling.top_k", (int32_t)top_k);
    return 0;
}

/* ---- vocabulary --------------------------------------------------------------------------------------------------------- */

enum { TYPE_UNUSED = 5 };

/* Embedding tables are often longer than the vocabulary; GGUF wants a token for every row. */
static int put_tokens(struct gguf_writer *w, const struct files *src, const struct tok_export *x, size_t n_vocab,
                      struct arena *a, struct err *e)
{
    if (x->n > n_vocab)
        return fail(e, ERR_FORMAT, "%s: tokenizer.json has %zu tokens, but the embedding table only %zu rows", files_path(src),
                    x->n, n_vocab);
    struct str *tokens = arena_array(a, n_vocab, sizeof *tokens);
    int32_t *types = arena_array(a, n_vocab, sizeof *types);
    float *scores = arena_array(a, n_vocab, sizeof *scores);
    if (!tokens || !types || !scores) return fail_nomem(e, "vocabulary", n_vocab * sizeof *tokens);
    for (size_t i = 0; i < x->n; i++) {
        tokens[i] = x->tokens[i];
        types[i] = x->types[i];
        if (x->scores) scores[i] = x->scores[i];
    }
    for (size_t i = x->n; i < n_vocab; i++) {
        char name[32];
        int n = snprintf(name, sizeof name, "[PAD%zu]", i);
        char *p = arena_dup(a, name, (size_t)n);
        if (!p) return fail_nomem(e, "vocabulary", (size_t)n);
        tokens[i] = (struct str){p, (size_t)n};
        types[i] = TYPE_UNUSED;
    }
    gguf_put_strs(w, "tokenizer.ggml.tokens", tokens, n_vocab);
    if (x->scores) gguf_put_f32s(w, "tokenizer.ggml.scores", scores, n_vocab);
    gguf_put_i32s(w, "tokenizer.ggml.token_type", types, n_vocab);
    if (x->n_merges) gguf_put_strs(w, "tokenizer.ggml.merges", x->merges, x->n_merges);
    return 0;
}

/* The i-th id of "eos_token_id", which is a number or a list of them; -1 past the end. */
static int64_t eos_of(const struct json *j, size_t i)
{
    const struct json *v = json_find(j, "eos_token_id");
    if (v && v->type == JSON_ARRAY)
        v = i < v->n ? &v->v[i] : NULL;
    else if (i > 0)
        v = NULL;
    return v && v->type == JSON_INT ? v->i : -1;
}

/* GGUF has three places for tokens that end a text: eos, eot (end of turn), eom (end of message). Tokens known by name take
 * theirs; further ids of a list in the JSON files take what is free, so that none is lost. */
static void put_stops(struct gguf_writer *w, const struct hf *hf, const struct tok *t, int32_t eos)
{
    static const struct {
        struct str text;
        int slot;
    } known[] = {
        {{"<|eot_id|>", 10}, 0},    {{"<|im_end|>", 10}, 0}, {{"<|end|>", 7}, 0},
        {{"<end_of_turn>", 13}, 0}, {{"<|eom_id|>", 10}, 1},
    };
    static const char *const keys[] = {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    int32_t stop[2] = {-1, -1};
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        int32_t id = tok_find(t, known[i].text);
        if (id >= 0 && stop[known[i].slot] < 0) stop[known[i].slot] = id;
    }
    const struct json *lists[] = {hf->generation_config, hf->config};
    for (size_t l = 0; l < COUNT_OF(lists); l++)
        for (size_t i = 0; i < 16; i++) {
            int64_t id = eos_of(lists[l], i);
            if (id < 0 || id > INT32_MAX || id == eos || id == stop[0] || id == stop[1]) continue;
            int slot = stop[0] < 0 ? 0 : 1;
            if (stop[slot] < 0) stop[slot] = (int32_t)id;
        }
    for (size_t i = 0; i < COUNT_OF(keys); i++)
        if (stop[i] >= 0) gguf_put_u32(w, keys[i], (uint32_t)stop[i]);
}

static void put_id(struct gguf_writer *w, const char *key, int64_t id)
{
    if (id >= 0 && id <= INT32_MAX) gguf_put_u32(w, key, (uint32_t)id);
}

static int put_vocabulary(struct gguf_writer *w, const struct files *src, const struct tok *t, size_t n_vocab, struct arena *a,
                          struct err *e)
{
    const struct hf *hf = files_hf(src);
    struct tok_export x;
    TRY(tok_export(t, a, &x, e));
    gguf_put_str(w, "tokenizer.ggml.model", str_of(x.model));
    if (x.pre) gguf_put_str(w, "tokenizer.ggml.pre", str_of(x.pre));
    TRY(put_tokens(w, src, &x, n_vocab, a, e));
    int64_t bos = x.bos, eos = x.eos;
    if (bos < 0) (void)json_opt_i64(hf->config, "bos_token_id", 0, INT32_MAX, &bos);
    if (eos < 0) eos = eos_of(hf->generation_config, 0);
    if (eos < 0) eos = eos_of(hf->config, 0);
    put_id(w, "tokenizer.ggml.bos_token_id", bos);
    put_id(w, "tokenizer.ggml.eos_token_id", eos);
    if (str_is(str_of(x.model), "bert")) {
        put_id(w, "tokenizer.ggml.cls_token_id", bos);
        put_id(w, "tokenizer.ggml.seperator_token_id", eos);
    }
    put_id(w, "tokenizer.ggml.unknown_token_id", x.unk);
    put_id(w, "tokenizer.ggml.padding_token_id", x.pad);
    put_stops(w, hf, t, (int32_t)eos);
    gguf_put_bool(w, "tokenizer.ggml.add_bos_token", x.add_bos);
    gguf_put_bool(w, "tokenizer.ggml.add_eos_token", x.add_eos);
    const bool unigram = str_is(str_of(x.model), "t5");
    if (unigram || str_is(str_of(x.model), "llama")) gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", x.add_space_prefix);
    if (unigram) gguf_put_bool(w, "tokenizer.ggml.remove_extra_whitespaces", x.merge_spaces);
    if (x.charsmap.n) gguf_put_bytes(w, "tokenizer.ggml.precompiled_charsmap", x.charsmap);
    if (hf->chat_template.n) gguf_put_str(w, "tokenizer.chat_template", hf->chat_template);
    return 0;
}

int hf_meta_put(struct gguf_writer *w, const struct files *src, const struct model *m, const char *name, struct err *e)
{
    const struct hf *hf = files_hf(src);
    if (hf->tokenizer.n == 0)
        return fail(e, ERR_NOTFOUND, "%s: no tokenizer.json, which the vocabulary is taken from", files_path(src));
    gguf_put_str(w, "general.architecture", str_of(m->hp.arch->gguf));
    gguf_put_str(w, "general.type", STR("model"));
    gguf_put_str(w, "general.name", str_of(name));
    TRY(put_sampling(w, src, e));

    struct tok *t;
    struct arena a = {0};
    TRY(tok_open_hf(hf->tokenizer, hf->tokenizer_config, hf->special_tokens, files_path(src), &t, e));
    put_hparams(w, m, &a);
    put_encoder(w, src, m);
    int rc = put_vocabulary(w, src, t, m->hp.n_vocab, &a, e);
    arena_fini(&a);
    tok_close(&t);
    return rc;
}
