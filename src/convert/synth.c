/* synth: see synth.h. Weights have the variance that keeps a row's dot product at the scale of its input, so that activations
 * stay in the range of a real model and no kernel meets infinities or all zeros. Rows are cut from a pool of random blocks at
 * random places: making a model is copying, not quantising. */
#include "convert/convert_int.h"

#include <math.h>
#include <stdio.h>

static const struct synth_shape shapes[] = {
    {"llama-3.2-1b", "llama", 16, 2048, 8192, 32, 8, 64, 128256, 131072, 500000, true, .traits = S_DENSE},
    {"llama-3.2-3b", "llama", 28, 3072, 8192, 24, 8, 128, 128256, 131072, 500000, true, .traits = S_DENSE},
    {"llama-3.1-8b", "llama", 32, 4096, 14336, 32, 8, 128, 128256, 131072, 500000, false, .traits = S_DENSE},
    {"llama-3.1-70b", "llama", 80, 8192, 28672, 64, 8, 128, 128256, 131072, 500000, false, .traits = S_DENSE},
    {"llama-2-7b", "llama", 32, 4096, 11008, 32, 32, 128, 32000, 4096, 10000, false, .traits = S_DENSE},
    {"mistral-7b", "llama", 32, 4096, 14336, 32, 8, 128, 32768, 32768, 1000000, false, .traits = S_DENSE},
    {"qwen2.5-7b", "llama", 28, 3584, 18944, 28, 4, 128, 152064, 32768, 1000000, false, .traits = S_DENSE},
    {"qwen3-8b", "qwen3", 36, 4096, 12288, 32, 8, 128, 151936, 40960, 1000000, false, .traits = S_DENSE | S_QK_NORM},
    {"mixtral-8x7b", "llama", 32, 4096, 14336, 32, 8, 128, 32000, 32768, 1000000, false, 8, 2, 14336, .traits = S_EXPERTS},
    {"qwen3-30b-a3b", "qwen3moe", 48, 2048, 6144, 32, 4, 128, 151936, 40960, 1000000, false, 128, 8, 768,
     .traits = S_EXPERTS | S_QK_NORM},
    {"gpt-oss-20b", "gpt-oss", 24, 2880, 2880, 64, 8, 64, 201088, 131072, 150000, false, 32, 4, 2880, .window = 128,
     .traits = S_EXPERTS | S_BIASES | S_LATE_NORM},
    {"llama-4-scout", "llama4", 48, 5120, 8192, 40, 8, 128, 202048, 1 << 20, 500000, false, 16, 1, 8192, 8192,
     .traits = S_EXPERTS | S_SHARED},
    {"qwen3.5-4b", "qwen35", 32, 2560, 9216, 16, 4, 256, 248320, 262144, 10000000, true, .n_k_heads = 16, .n_v_heads = 32,
     .delta_dim = 128, .traits = S_DENSE | S_QK_NORM | S_LATE_NORM | S_DELTA},
    {"qwen3.5-35b-a3b",
     "qwen35moe",
     40,
     2048,
     512,
     16,
     2,
     256,
     248320,
     262144,
     10000000,
     false,
     256,
     8,
     512,
     512,
     .n_k_heads = 16,
     .n_v_heads = 32,
     .delta_dim = 128,
     .traits = S_EXPERTS | S_SHARED | S_SHARED_GATE | S_QK_NORM | S_LATE_NORM | S_DELTA},
};

const struct synth_shape *synth_shape_at(size_t i)
{
    return i < COUNT_OF(shapes) ? &shapes[i] : NULL;
}

const struct synth_shape *synth_shape_find(const char *name, struct err *e)
{
    struct buf names = {0};
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        if (str_is(str_of(name), shapes[i].name)) {
            buf_fini(&names);
            return &shapes[i];
        }
        (void)buf_printf(&names, "%s%s", i ? ", " : "", shapes[i].name);
    }
    (void)fail(e, ERR_NOTFOUND, "shape '%s' is not known; known are: %.*s", name, STR_ARG(buf_view(&names)));
    buf_fini(&names);
    return NULL;
}

/* ---- description ------------------------------------------------------------------------------------------ */

enum width {
    W_EMBD,
    W_FF,
    W_Q,
    W_KV,
    W_HEAD,
    W_HEADS,
    W_EXPERTS,
    W_FF_EXPERT,
    W_FF_SHARED,
    W_VOCAB,
    W_ONE,
    W_Q_GATED,
    W_CONV,
    W_INNER,
    W_V_HEADS,
    W_DELTA_DIM,
    W_TAPS,
    W_NONE
};

enum { DELTA_TAPS = 4, DELTA_EVERY = 4 };

/* Traits of single layers of a shape with S_DELTA. */
enum { S_LAYER_DELTA = 1 << 16, S_LAYER_GATED = 1 << 17 };

static uint64_t width_of(const struct synth_shape *s, enum width w)
{
    const uint64_t inner = (uint64_t)s->n_v_heads * s->delta_dim;
    const uint64_t widths[] = {s->n_embd,
                               s->n_ff,
                               (uint64_t)s->n_heads * s->head_dim,
                               (uint64_t)s->n_kv_heads * s->head_dim,
                               s->head_dim,
                               s->n_heads,
                               s->n_experts,
                               s->n_ff_expert,
                               s->n_ff_shared,
                               s->n_vocab,
                               1,
                               2 * (uint64_t)s->n_heads * s->head_dim,
                               2 * (uint64_t)s->n_k_heads * s->delta_dim + inner,
                               inner,
                               s->n_v_heads,
                               s->delta_dim,
                               DELTA_TAPS,
                               1};
    return widths[w];
}

/* What lies in a tensor: weights of norms, biases, or a matrix; one of each expert. */
enum fill { ONES, ZEROS, MINUS_ONES, RANDOM, RANDOM_EXPERTS, ZEROS_EXPERTS };

static const struct part {
    const char *name;
    enum width in, out; /* out W_NONE: a vector */
    enum fill fill;
    unsigned traits, without; /* the shape must have all of the ones and none of the others */
} layer_parts[] =
    {
        {"attn_norm.weight", W_EMBD, W_NONE, ONES, 0, 0},
        {"attn_q.weight", W_EMBD, W_Q, RANDOM, 0, S_DELTA},
        {"attn_q.weight", W_EMBD, W_Q_GATED, RANDOM, S_LAYER_GATED, 0},
        {"attn_q.bias", W_Q, W_NONE, ZEROS, S_BIASES, 0},
        {"attn_k.weight", W_EMBD, W_KV, RANDOM, 0, S_LAYER_DELTA},
        {"attn_k.bias", W_KV, W_NONE, ZEROS, S_BIASES, 0},
        {"attn_v.weight", W_EMBD, W_KV, RANDOM, 0, S_LAYER_DELTA},
        {"attn_v.bias", W_KV, W_NONE, ZEROS, S_BIASES, 0},
        {"attn_q_norm.weight", W_HEAD, W_NONE, ONES, S_QK_NORM, S_LAYER_DELTA},
        {"attn_k_norm.weight", W_HEAD, W_NONE, ONES, S_QK_NORM, S_LAYER_DELTA},
        {"attn_sinks.weight", W_HEADS, W_NONE, ZEROS, S_BIASES, 0},
        {"attn_output.weight", W_Q, W_EMBD, RANDOM, 0, S_LAYER_DELTA},
        {"attn_output.bias", W_EMBD, W_NONE, ZEROS, S_BIASES, 0},
        {"attn_qkv.weight", W_EMBD, W_CONV, RANDOM, S_LAYER_DELTA, 0},
        {"attn_gate.weight", W_EMBD, W_INNER, RANDOM, S_LAYER_DELTA, 0},
        {"ssm_beta.weight", W_EMBD, W_V_HEADS, RANDOM, S_LAYER_DELTA, 0},
        {"ssm_alpha.weight", W_EMBD, W_V_HEADS, RANDOM, S_LAYER_DELTA, 0},
        {"ssm_conv1d.weight", W_TAPS, W_CONV, RANDOM, S_LAYER_DELTA, 0},
        {"ssm_dt.bias", W_V_HEADS, W_NONE, ZEROS, S_LAYER_DELTA, 0},
        {"ssm_a", W_V_HEADS, W_NONE, MINUS_ONES, S_LAYER_DELTA, 0},
        {"ssm_norm.weight", W_DELTA_DIM, W_NONE, ONES, S_LAYER_DELTA, 0},
        {"ssm_out.weight", W_INNER, W_EMBD, RANDOM, S_LAYER_DELTA, 0},
        {"ffn_norm.weight", W_EMBD, W_NONE, ONES, 0, S_LATE_NORM},
        {"post_attention_norm.weight", W_EMBD, W_NONE, ONES, S_LATE_NORM, 0},
        {"ffn_gate.weight", W_EMBD, W_FF, RANDOM, S_DENSE, 0},
        {"ffn_up.weight", W_EMBD, W_FF, RANDOM, S_DENSE, 0},
        {"ffn_down.weight", W_FF, W_EMBD, RANDOM, S_DENSE, 0},
        {"ffn_gate_inp.weight", W_EMBD, W_EXPERTS, RANDOM, S_EXPERTS, 0},
        {"ffn_gate_inp.bias", W_EXPERTS, W_NONE, ZEROS, S_EXPERTS | S_BIASES, 0},
        {"ffn_gate_exps.weight", W_EMBD, W_FF_EXPERT, RANDOM_EXPERTS, S_EXPERTS, 0},
        {"ffn_gate_exps.bias", W_FF_EXPERT, W_NONE, ZEROS_EXPERTS, S_EXPERTS | S_BIASES, 0},
        {"ffn_up_exps.weight", W_EMBD, W_FF_EXPERT, RANDOM_EXPERTS, S_EXPERTS, 0},
        {"ffn_up_exps.bias", W_FF_EXPERT, W_NONE, ZEROS_EXPERTS, S_EXPERTS | S_BIASES, 0},
        {"ffn_down_exps.weight", W_FF_EXPERT, W_EMBD, RANDOM_EXPERTS, S_EXPERTS, 0},
        {"ffn_down_exps.bias", W_EMBD, W_NONE, ZEROS_EXPERTS, S_EXPERTS | S_BIASES, 0},
        {"ffn_gate_shexp.weight", W_EMBD, W_FF_SHARED, RANDOM, S_SHARED, 0},
        {"ffn_up_shexp.weight", W_EMBD, W_FF_SHARED, RANDOM, S_SHARED, 0},
        {"ffn_down_shexp.weight", W_FF_SHARED, W_EMBD, RANDOM, S_SHARED, 0},
        {"ffn_gate_inp_shexp.weight", W_EMBD, W_ONE, RANDOM, S_SHARED_GATE, 0},
},
  embedding = {"token_embd.weight", W_EMBD, W_VOCAB, RANDOM, 0, 0},
  output_norm = {"output_norm.weight", W_EMBD, W_NONE, ONES, 0, 0}, output = {"output.weight", W_EMBD, W_VOCAB, RANDOM, 0, 0};

enum { NAME_BYTES = 48 };

/* The tensors of the file in their order, as what they would be converted from: a description without data. */
struct list {
    const struct synth_shape *s;
    struct tensor *tensors;
    struct transfer_item *items;
    const struct part **parts;
    char (*names)[NAME_BYTES];
    size_t n;
};

static void add(struct list *l, const struct part *p, int layer)
{
    struct tensor *t = &l->tensors[l->n];
    char *name = l->names[l->n];
    unsigned traits = l->s->traits;
    if (traits & S_DELTA) traits |= (layer + 1) % DELTA_EVERY ? S_LAYER_DELTA : S_LAYER_GATED;
    if ((p->traits & traits) != p->traits || (p->without & traits)) return;
    int n = layer < 0 ? snprintf(name, NAME_BYTES, "%s", p->name) : snprintf(name, NAME_BYTES, "blk.%d.%s", layer, p->name);
    *t = (struct tensor){.name = {name, (size_t)n},
                         .n_dims = p->out == W_NONE ? 1 : 2,
                         .ne = {width_of(l->s, p->in), width_of(l->s, p->out), 1, 1}};
    if (p->fill == RANDOM_EXPERTS || p->fill == ZEROS_EXPERTS) t->ne[t->n_dims++] = l->s->n_experts;
    l->parts[l->n] = p;
    l->items[l->n++] = (struct transfer_item){.src = t, .name = t->name, .type = QTYPE_F32};
}

static int list_tensors(struct list *l, struct arena *a, struct err *e)
{
    size_t most = (size_t)l->s->n_layers * COUNT_OF(layer_parts) + 3;
    l->tensors = arena_array(a, most, sizeof *l->tensors);
    l->items = arena_array(a, most, sizeof *l->items);
    l->parts = arena_array(a, most, sizeof *l->parts);
    l->names = arena_array(a, most, sizeof *l->names);
    if (!l->tensors || !l->items || !l->parts || !l->names) return fail_nomem(e, "list of tensors", most * sizeof *l->tensors);
    add(l, &embedding, -1);
    for (uint32_t i = 0; i < l->s->n_layers; i++)
        for (size_t k = 0; k < COUNT_OF(layer_parts); k++) add(l, &layer_parts[k], (int)i);
    add(l, &output_norm, -1);
    if (!l->s->tied) add(l, &output, -1);
    return 0;
}

/* By a recipe of this name, else all matrices in the type of this name. */
static int choose_types(struct list *l, const char *name, uint32_t *file_type, struct err *e)
{
    enum qtype t;
    const struct synth_shape *s = l->s;
    const struct recipe *r = recipe_find(str_of(name));
    if (r) {
        const struct recipe_model m = {.n_layers = s->n_layers,
                                       .n_heads = s->n_heads,
                                       .n_kv_heads = s->n_kv_heads,
                                       .n_experts = s->n_experts,
                                       .tied = s->tied};
        recipe_assign(r, &m, l->items, l->n);
        *file_type = r->file_type;
    } else if (!qtype_by_name(str_of(name), &t) || qtypes[t].ggml_id == NO_GGML) {
        return fail(e, ERR_ARG, "type '%s' is neither a type of GGUF files nor a mix of such", name);
    } else {
        *file_type = recipe_file_type(t);
    }
    for (size_t i = 0; i < l->n; i++) {
        struct transfer_item *item = &l->items[i];
        if (!recipe_keeps(item->name, item->src->n_dims)) item->type = recipe_fit(r ? item->type : t, item->src->ne[0]);
    }
    return 0;
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

enum { POOL_ROWS = 64 };

struct writing {
    const struct synth_shape *s;
    struct gguf_writer *w;
    uint8_t *pool;  /* POOL_ROWS rows of blocks, of the tensor under way */
    uint64_t state; /* of the generator */
    uint64_t done, all;
    int (*on_progress)(void *user, uint64_t done, uint64_t all);
    void *user;
};

static int put(struct writing *w, const void *p, uint64_t bytes, struct err *e)
{
    const uint64_t before = w->done;
    TRY(gguf_write_data(w->w, p, bytes, e));
    w->done += bytes;
    bool tell = w->on_progress && w->done >> 22 != before >> 22;
    return tell && w->on_progress(w->user, w->done, w->all) ? fail(e, ERR_CANCELLED, "cancelled") : 0;
}

static int write_numbers(struct writing *w, float v, uint64_t n, struct err *e)
{
    for (uint64_t i = 0; i < n; i++) TRY(put(w, &v, sizeof v, e));
    return 0;
}

static int write_matrix(struct writing *w, const struct transfer_item *item, struct err *e)
{
    const struct qtype_info *info = &qtypes[item->type];
    const uint64_t n = item->src->ne[0], row_blocks = n / info->block_n;
    uint64_t at = 0;
    qtype_noise(item->type, &w->state, sqrtf(1.0f / (float)n), w->pool, POOL_ROWS * row_blocks);
    for (uint64_t r = 0; r < item->src->ne[1] * item->src->ne[2]; r++) {
        TRY(put(w, w->pool + at * info->block_bytes, row_blocks * info->block_bytes, e));
        at = (at + row_blocks + 1) % ((POOL_ROWS - 1) * row_blocks); /* so that rows differ */
    }
    return 0;
}

/* A byte-level vocabulary of the right size: 256 bytes, one merge (a byte-level vocabulary has some), then unused entries. It
 * tokenizes anything, about one token a byte. */
static int put_vocabulary(const struct writing *w, struct arena *a, struct err *e)
{
    uint32_t n = w->s->n_vocab;
    struct str *tokens = arena_array(a, n, sizeof *tokens);
    int32_t *types = arena_array(a, n, sizeof *types);
    if (!tokens || !types) return fail_nomem(e, "the vocabulary", n * sizeof *tokens);
    uint32_t next = 256;
    for (uint32_t i = 0; i < n; i++) {
        struct buf b = {0};
        /* GPT-2's alphabet: printable bytes are themselves, the others follow from U+0100. */
        bool printable = (i > 32 && i < 127) || (i > 160 && i < 256 && i != 173);
        char text[4];
        int rc = i < 256    ? buf_put(&b, text, utf8_encode(printable ? i : next++, text))
                 : i == 256 ? buf_z(&b, "th")
                            : buf_printf(&b, "<|unused_%u|>", i);
        char *copy = rc == 0 ? arena_dup(a, b.p, b.n) : NULL;
        tokens[i] = (struct str){copy, b.n};
        types[i] = i <= 256 ? 1 : 5;
        buf_fini(&b);
        if (!copy) return fail_nomem(e, "the vocabulary", n * sizeof *tokens);
    }
    int rc = gguf_put_str(w->w, "tokenizer.ggml.model", STR("gpt2"));
    if (rc == 0) rc = gguf_put_str(w->w, "tokenizer.ggml.pre", STR("llama-bpe"));
    if (rc == 0) rc = gguf_put_strs(w->w, "tokenizer.ggml.tokens", tokens, n);
    if (rc == 0) rc = gguf_put_i32s(w->w, "tokenizer.ggml.token_type", types, n);
    if (rc == 0) rc = gguf_put_strs(w->w, "tokenizer.ggml.merges", &(struct str){"t h", 3}, 1);
    if (rc == 0) rc = gguf_put_bool(w->w, "tokenizer.ggml.add_bos_token", false);
    return rc < 0 ? fail(e, rc, "the vocabulary: %s", err_text(rc)) : 0;
}

static int put_metadata(const struct writing *w, uint32_t file_type, struct err *e)
{
    const struct synth_shape *s = w->s;
    char key[64];
    const struct {
        const char *key;
        uint32_t v;
    } numbers[] = {
        {"block_count", s->n_layers},
        {"context_length", s->n_ctx},
        {"embedding_length", s->n_embd},
        {"feed_forward_length", s->n_ff},
        {"attention.head_count", s->n_heads},
        {"attention.head_count_kv", s->n_kv_heads},
        {"attention.key_length", s->head_dim},
        {"attention.value_length", s->head_dim},
        {"attention.sliding_window", s->window},
        {"rope.dimension_count", s->traits & S_DELTA ? s->head_dim / 4 : s->head_dim},
        {"vocab_size", s->n_vocab},
        {"expert_count", s->n_experts},
        {"expert_used_count", s->n_used},
        {"expert_feed_forward_length", s->n_ff_expert},
        {"expert_shared_feed_forward_length", s->n_ff_shared},
        {"ssm.conv_kernel", s->traits & S_DELTA ? DELTA_TAPS : 0},
        {"ssm.group_count", s->n_k_heads},
        {"ssm.time_step_rank", s->n_v_heads},
        {"ssm.state_size", s->delta_dim},
        {"ssm.inner_size", s->n_v_heads * s->delta_dim},
        {"full_attention_interval", s->traits & S_DELTA ? DELTA_EVERY : 0},
    };
    int rc = gguf_put_str(w->w, "general.architecture", str_of(s->arch));
    if (rc == 0) rc = gguf_put_str(w->w, "general.name", str_of(s->name));
    if (rc == 0) rc = gguf_put_u32(w->w, "general.file_type", file_type);
    if (rc == 0) rc = gguf_put_u32(w->w, "general.quantization_version", 2);
    for (size_t i = 0; i < COUNT_OF(numbers) && rc == 0; i++) {
        (void)snprintf(key, sizeof key, "%s.%s", s->arch, numbers[i].key);
        if (numbers[i].v) rc = gguf_put_u32(w->w, key, numbers[i].v);
    }
    (void)snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", s->arch);
    if (rc == 0) rc = gguf_put_f32(w->w, key, 1e-5f);
    (void)snprintf(key, sizeof key, "%s.rope.freq_base", s->arch);
    if (rc == 0) rc = gguf_put_f32(w->w, key, s->rope_theta);
    return rc < 0 ? fail(e, rc, "metadata: %s", err_text(rc)) : 0;
}

static int write_item(struct writing *w, const struct part *p, const struct transfer_item *item, struct err *e)
{
    const uint64_t *ne = item->src->ne;
    if (p->fill == RANDOM || p->fill == RANDOM_EXPERTS) return write_matrix(w, item, e);
    return write_numbers(w, p->fill == ONES ? 1 : p->fill == MINUS_ONES ? -1 : 0, ne[0] * ne[1] * ne[2], e);
}

static int write_all(struct writing *w, const char *type, struct arena *a, const char *out_path, struct err *e)
{
    struct list l = {.s = w->s};
    uint32_t file_type;
    size_t widest = size_max(w->s->n_ff, size_max(w->s->n_embd, (size_t)w->s->n_heads * w->s->head_dim));
    widest = size_max(widest, (size_t)w->s->n_v_heads * w->s->delta_dim);
    TRY(list_tensors(&l, a, e));
    TRY(choose_types(&l, type, &file_type, e));
    w->pool = arena_array(a, POOL_ROWS * widest, sizeof(float)); /* no type takes more */
    if (!w->pool) return fail_nomem(e, "random rows", POOL_ROWS * widest * sizeof(float));
    TRY(gguf_writer_new(out_path, &w->w, e));
    TRY(put_metadata(w, file_type, e));
    TRY(put_vocabulary(w, a, e));
    for (size_t i = 0; i < l.n; i++)
        TRY(gguf_add_tensor(w->w, l.items[i].name, l.items[i].type, l.items[i].src->n_dims, l.items[i].src->ne, e));
    w->all = gguf_writer_data_bytes(w->w);
    TRY(gguf_write_begin(w->w, e));
    for (size_t i = 0; i < l.n; i++) TRY(write_item(w, l.parts[i], &l.items[i], e));
    return gguf_write_end(w->w, e);
}

int synth_write(const struct synth_shape *shape, const char *type, const char *out_path,
                int (*on_progress)(void *user, uint64_t done, uint64_t all), void *user, struct err *e)
{
    struct arena a = {0};
    struct writing w = {.s = shape, .state = 0x9e3779b97f4a7c15u, .on_progress = on_progress, .user = user};
    int rc = write_all(&w, type, &a, out_path, e);
    gguf_writer_free(&w.w);
    arena_fini(&a);
    return rc;
}
