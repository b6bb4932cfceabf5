/* synth: see synth.h. Weights have the variance that keeps a row's dot product at the scale of its input, so that activations
 * stay in the range of a real model and no kernel meets infinities or all zeros. Rows are cut from a pool of random blocks at
 * random places: making a model is copying, not quantising. */
#include "convert/synth.h"

#include <math.h>

#include "format/format.h"

static const struct synth_shape shapes[] = {
    {"llama-3.2-1b", 16, 2048, 8192, 32, 8, 64, 128256, 131072, 500000, true},
    {"llama-3.2-3b", 28, 3072, 8192, 24, 8, 128, 128256, 131072, 500000, true},
    {"llama-3.1-8b", 32, 4096, 14336, 32, 8, 128, 128256, 131072, 500000, false},
    {"llama-3.1-70b", 80, 8192, 28672, 64, 8, 128, 128256, 131072, 500000, false},
    {"llama-2-7b", 32, 4096, 11008, 32, 32, 128, 32000, 4096, 10000, false},
    {"mistral-7b", 32, 4096, 14336, 32, 8, 128, 32768, 32768, 1000000, false},
    {"qwen2.5-7b", 28, 3584, 18944, 28, 4, 128, 152064, 32768, 1000000, false},
};

/* Shapes that people ask for and that the llama architecture does not have. */
static const struct {
    const char *name, *architecture;
} foreign[] = {{"qwen3-30b-a3b", "qwen3moe"}, {"gpt-oss-20b", "gpt-oss"}, {"llama-4-scout", "llama4"}};

const struct synth_shape *synth_shape_at(size_t i)
{
    return i < COUNT_OF(shapes) ? &shapes[i] : NULL;
}

const struct synth_shape *synth_shape_find(const char *name, struct err *e)
{
    for (size_t i = 0; i < COUNT_OF(foreign); i++)
        if (str_is(str_of(name), foreign[i].name)) {
            (void)fail(e, ERR_UNSUPPORTED, "shape '%s' needs the architecture %s, of which no random model can be made yet",
                       name, foreign[i].architecture);
            return NULL;
        }
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

enum width { W_EMBD, W_FF, W_Q, W_KV, W_VOCAB, W_NONE };

static uint64_t width_of(const struct synth_shape *s, enum width w)
{
    const uint64_t widths[] = {s->n_embd,  s->n_ff, (uint64_t)s->n_heads * s->head_dim, (uint64_t)s->n_kv_heads * s->head_dim,
                               s->n_vocab, 1};
    return widths[w];
}

static const struct part {
    const char *name;
    enum width in, out; /* out W_NONE: a vector of norm weights, always f32 */
} layer_parts[] =
    {
        {"attn_norm", W_EMBD, W_NONE}, {"attn_q", W_EMBD, W_Q},      {"attn_k", W_EMBD, W_KV},
        {"attn_v", W_EMBD, W_KV},      {"attn_output", W_Q, W_EMBD}, {"ffn_norm", W_EMBD, W_NONE},
        {"ffn_gate", W_EMBD, W_FF},    {"ffn_up", W_EMBD, W_FF},     {"ffn_down", W_FF, W_EMBD},
},
  embedding = {"token_embd", W_EMBD, W_VOCAB}, output_norm = {"output_norm", W_EMBD, W_NONE},
  output = {"output", W_EMBD, W_VOCAB};

/* Calls fn for every tensor in the order of the file. layer is -1 outside of the layers. */
static int each_part(const struct synth_shape *s, int (*fn)(void *ctx, const struct part *p, int layer, struct err *e),
                     void *ctx, struct err *e)
{
    TRY(fn(ctx, &embedding, -1, e));
    for (uint32_t l = 0; l < s->n_layers; l++)
        for (size_t i = 0; i < COUNT_OF(layer_parts); i++) TRY(fn(ctx, &layer_parts[i], (int)l, e));
    TRY(fn(ctx, &output_norm, -1, e));
    return s->tied ? 0 : fn(ctx, &output, -1, e);
}

/* ---- types ------------------------------------------------------------------------------------------------- */

/* A mix of types: the matrices that suffer most from rounding get more bits. */
static const struct mix {
    const char *name;
    enum qtype most, careful;
} mixes[] = {{"q4_k_m", QTYPE_Q4_K, QTYPE_Q6_K}, {"q5_k_m", QTYPE_Q5_K, QTYPE_Q6_K}};

static int mix_find(const char *name, struct mix *out, struct err *e)
{
    enum qtype t;
    for (size_t i = 0; i < COUNT_OF(mixes); i++)
        if (str_is(str_of(name), mixes[i].name)) {
            *out = mixes[i];
            return 0;
        }
    if (!qtype_by_name(str_of(name), &t) || qtypes[t].ggml_id == NO_GGML)
        return fail(e, ERR_ARG, "type '%s' is not one that GGUF files have", name);
    *out = (struct mix){qtypes[t].name, t, t};
    return 0;
}

/* The output matrix; of values and the second half of the feed-forward, the first and last eighth of the layers and each third
 * between. */
static bool is_careful(const struct synth_shape *s, const struct part *p, int layer)
{
    const int n = (int)s->n_layers;
    if (layer < 0) return p == &output || (p == &embedding && s->tied);
    if (!str_is(str_of(p->name), "attn_v") && !str_is(str_of(p->name), "ffn_down")) return false;
    return layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

enum { POOL_ROWS = 64 };

struct writing {
    const struct synth_shape *s;
    struct mix mix;
    struct gguf_writer *w;
    uint8_t *pool;  /* POOL_ROWS rows of blocks, of the tensor under way */
    uint64_t state; /* of the generator */
    uint64_t done, all;
    int (*on_progress)(void *user, uint64_t done, uint64_t all);
    void *user;
};

/* Where the rows do not fit the type's blocks, or for vectors: f32. */
static enum qtype type_of(const struct writing *w, const struct part *p, int layer)
{
    uint64_t bytes;
    enum qtype t = is_careful(w->s, p, layer) ? w->mix.careful : w->mix.most;
    return p->out == W_NONE || !qtype_row_bytes(t, width_of(w->s, p->in), &bytes) ? QTYPE_F32 : t;
}

static int declare(void *ctx, const struct part *p, int layer, struct err *e)
{
    struct writing *w = ctx;
    struct buf name = {0};
    const uint64_t ne[2] = {width_of(w->s, p->in), width_of(w->s, p->out)};
    int rc = layer < 0 ? buf_printf(&name, "%s.weight", p->name) : buf_printf(&name, "blk.%d.%s.weight", layer, p->name);
    rc = rc < 0 ? fail_nomem(e, "a name", 64)
                : gguf_add_tensor(w->w, buf_view(&name), type_of(w, p, layer), p->out == W_NONE ? 1 : 2, ne, e);
    buf_fini(&name);
    return rc;
}

static int put(struct writing *w, const void *p, uint64_t bytes, struct err *e)
{
    const uint64_t before = w->done;
    TRY(gguf_write_data(w->w, p, bytes, e));
    w->done += bytes;
    bool tell = w->on_progress && w->done >> 22 != before >> 22;
    return tell && w->on_progress(w->user, w->done, w->all) ? fail(e, ERR_CANCELLED, "cancelled") : 0;
}

static int write_ones(struct writing *w, uint64_t n, struct err *e)
{
    const float one = 1;
    for (uint64_t i = 0; i < n; i++) TRY(put(w, &one, sizeof one, e));
    return 0;
}

static int write_part(void *ctx, const struct part *p, int layer, struct err *e)
{
    struct writing *w = ctx;
    const enum qtype type = type_of(w, p, layer);
    const struct qtype_info *info = &qtypes[type];
    const uint64_t n = width_of(w->s, p->in), rows = width_of(w->s, p->out), row_blocks = n / info->block_n;
    if (p->out == W_NONE) return write_ones(w, n, e);
    qtype_noise(type, &w->state, sqrtf(1.0f / (float)n), w->pool, POOL_ROWS * row_blocks);
    uint64_t at = 0;
    for (uint64_t r = 0; r < rows; r++) {
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

static int put_metadata(const struct writing *w, struct err *e)
{
    const struct synth_shape *s = w->s;
    const struct {
        const char *key;
        uint32_t v;
    } numbers[] = {
        {"llama.block_count", s->n_layers},          {"llama.context_length", s->n_ctx},
        {"llama.embedding_length", s->n_embd},       {"llama.feed_forward_length", s->n_ff},
        {"llama.attention.head_count", s->n_heads},  {"llama.attention.head_count_kv", s->n_kv_heads},
        {"llama.attention.key_length", s->head_dim}, {"llama.attention.value_length", s->head_dim},
        {"llama.rope.dimension_count", s->head_dim}, {"llama.vocab_size", s->n_vocab},
    };
    int rc = gguf_put_str(w->w, "general.architecture", STR("llama"));
    if (rc == 0) rc = gguf_put_str(w->w, "general.name", str_of(s->name));
    for (size_t i = 0; i < COUNT_OF(numbers) && rc == 0; i++) rc = gguf_put_u32(w->w, numbers[i].key, numbers[i].v);
    if (rc == 0) rc = gguf_put_f32(w->w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    if (rc == 0) rc = gguf_put_f32(w->w, "llama.rope.freq_base", s->rope_theta);
    return rc < 0 ? fail(e, rc, "metadata: %s", err_text(rc)) : 0;
}

static int write_all(struct writing *w, struct arena *a, const char *out_path, struct err *e)
{
    size_t widest = size_max(w->s->n_ff, size_max(w->s->n_embd, (size_t)w->s->n_heads * w->s->head_dim));
    w->pool = arena_array(a, POOL_ROWS * widest, sizeof(float)); /* no type takes more */
    if (!w->pool) return fail_nomem(e, "random rows", POOL_ROWS * widest * sizeof(float));
    TRY(gguf_writer_new(out_path, &w->w, e));
    TRY(put_metadata(w, e));
    TRY(put_vocabulary(w, a, e));
    TRY(each_part(w->s, declare, w, e));
    w->all = gguf_writer_data_bytes(w->w);
    TRY(gguf_write_begin(w->w, e));
    TRY(each_part(w->s, write_part, w, e));
    return gguf_write_end(w->w, e);
}

int synth_write(const struct synth_shape *shape, const char *type, const char *out_path,
                int (*on_progress)(void *user, uint64_t done, uint64_t all), void *user, struct err *e)
{
    struct arena a = {0};
    struct writing w = {.s = shape, .state = 0x9e3779b97f4a7c15u, .on_progress = on_progress, .user = user};
    int rc = mix_find(type, &w.mix, e);
    if (rc == 0) rc = write_all(&w, &a, out_path, e);
    gguf_writer_free(&w.w);
    arena_fini(&a);
    return rc;
}
