/* convert: a small folder made here becomes a GGUF file and that one another; names, keys, types, row order and numbers are
 * checked against the folder. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <math.h>

#include "convert/convert.h"
#include "model/model.h"
#include "llama_names.h"
#include "scratch.h"
#include "text/text.h"

#include <cmocka.h>

/* Shape: two layers, grouped heads, heads wider than n_embd / n_heads, a row length (96) that Q8_0 takes and one (40) that it
 * does not. */
enum { EMBD = 64, LAYERS = 2, HEADS = 4, KV = 2, DIM = 20, FF = 96, VOCAB = 288, TOKENS = 262, EOT = 261 };

static char dir[64];

/* ---- the folder ------------------------------------------------------------------------------------------------ */

static uint32_t lcg = 1;

/* Numbers that f32, f16 and bf16 hold exactly. */
static float next_weight(void)
{
    lcg = lcg * 1664525u + 1013904223u;
    return (float)((int)(lcg >> 24) - 128) / 64.0f;
}

struct maker {
    struct buf json, data;
    enum qtype type;
};

static void add(struct maker *m, const char *name, uint32_t rows, uint32_t cols)
{
    const char *dtypes[] = {[QTYPE_F32] = "F32", [QTYPE_F16] = "F16", [QTYPE_BF16] = "BF16"};
    size_t begin = m->data.n, n = (size_t)(rows ? rows : 1) * cols;
    float *x = malloc(n * sizeof *x);
    uint8_t *q = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = next_weight();
    qtypes[m->type].quantize(x, NULL, q, n);
    buf_put(&m->data, q, n * qtypes[m->type].block_bytes);
    buf_printf(&m->json, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", m->json.n > 9 ? "," : "", name, dtypes[m->type]);
    if (rows) buf_printf(&m->json, "%u,", rows);
    buf_printf(&m->json, "%u],\"data_offsets\":[%zu,%zu]}", cols, begin, m->data.n);
    free(x);
    free(q);
}

static void write_weights(enum qtype type, bool tied, const char *extra)
{
    struct maker m = {.type = type};
    lcg = 1;
    buf_z(&m.json, "########{");
    if (!tied) add(&m, "lm_head.weight", VOCAB, EMBD);
    add(&m, "model.embed_tokens.weight", VOCAB, EMBD);
    for (int l = LAYERS - 1; l >= 0; l--) {
        static const struct {
            const char *name;
            uint32_t rows, cols;
        } layer[] = {
            {"input_layernorm.weight", 0, EMBD},
            {"mlp.down_proj.weight", EMBD, FF},
            {"mlp.gate_proj.weight", FF, EMBD},
            {"mlp.up_proj.weight", FF, EMBD},
            {"post_attention_layernorm.weight", 0, EMBD},
            {"self_attn.k_proj.bias", 0, KV * DIM},
            {"self_attn.k_proj.weight", KV * DIM, EMBD},
            {"self_attn.o_proj.weight", EMBD, HEADS * DIM},
            {"self_attn.q_proj.weight", HEADS * DIM, EMBD},
            {"self_attn.rotary_emb.inv_freq", 0, DIM / 2},
            {"self_attn.v_proj.weight", KV * DIM, EMBD},
        };
        for (size_t i = 0; i < COUNT_OF(layer); i++) {
            char name[96];
            snprintf(name, sizeof name, "model.layers.%d.%s", l, layer[i].name);
            add(&m, name, layer[i].rows, layer[i].cols);
        }
    }
    add(&m, "model.norm.weight", 0, EMBD);
    if (extra) add(&m, extra, 4, EMBD);
    buf_c(&m.json, '}');
    uint64_t n = m.json.n - 8;
    memcpy(m.json.p, &n, 8);
    buf_put(&m.json, m.data.p, m.data.n);
    scratch_write(dir, "model.safetensors", m.json.p, m.json.n);
    buf_fini(&m.json);
    buf_fini(&m.data);
}

static void write_text(const char *name, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void write_text(const char *name, const char *fmt, ...)
{
    char text[4096];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    assert_true(n >= 0 && (size_t)n < sizeof text);
    scratch_write(dir, name, text, (size_t)n);
}

static void write_config(bool tied, const char *rope)
{
    write_text("config.json",
               "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":%d,\"intermediate_size\":%d,"
               "\"num_hidden_layers\":%d,\"num_attention_heads\":%d,\"num_key_value_heads\":%d,\"head_dim\":%d,"
               "\"vocab_size\":%d,\"max_position_embeddings\":512,\"rms_norm_eps\":1e-5,\"hidden_act\":\"silu\","
               "\"bos_token_id\":1,\"eos_token_id\":[2,%d],\"tie_word_embeddings\":%s,%s}",
               EMBD, FF, LAYERS, HEADS, KV, DIM, VOCAB, EOT, tied ? "true" : "false", rope);
}

/* A byte-level BPE vocabulary: 3 specials, 256 bytes, "he", "ll", <|eot_id|>. */
static void write_tokenizer(void)
{
    struct buf b = {0};
    buf_z(&b, "{\"version\":\"1.0\",\"added_tokens\":[");
    static const struct {
        int id;
        const char *text;
    } special[] = {{0, "<pad>"}, {1, "<s>"}, {2, "</s>"}, {EOT, "<|eot_id|>"}};
    for (size_t i = 0; i < COUNT_OF(special); i++)
        buf_printf(&b,
                   "%s{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                   "\"normalized\":false,\"special\":true}",
                   i ? "," : "", special[i].id, special[i].text);
    buf_z(&b,
          "],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
          "\"trim_offsets\":true,\"use_regex\":true},\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\","
          "\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},\"model\":{\"type\":\"BPE\",\"dropout\":null,"
          "\"unk_token\":null,\"vocab\":{\"<pad>\":0,\"<s>\":1,\"</s>\":2");
    uint32_t moved = 256; /* bytes that are no printable character stand as U+0100 and up */
    for (uint32_t c = 0; c < 256; c++) {
        bool printable = (c >= 33 && c <= 126) || (c >= 161 && c <= 172) || c >= 174;
        char utf8[4];
        size_t n = utf8_encode(printable ? c : moved++, utf8);
        buf_c(&b, ',');
        json_write_string(&b, (struct str){utf8, n});
        buf_printf(&b, ":%u", c + 3);
    }
    buf_z(&b, ",\"he\":259,\"ll\":260},\"merges\":[[\"h\",\"e\"],[\"l\",\"l\"]]}}");
    scratch_write(dir, "tokenizer.json", b.p, b.n);
    buf_fini(&b);
}

#define ROPE_PLAIN_JSON "\"rope_theta\":10000.0,\"torch_dtype\":\"bfloat16\""

static int make_dir(void **state)
{
    (void)state;
    scratch_make(dir);
    write_tokenizer();
    write_text("tokenizer_config.json", "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"pad_token\":\"<pad>\","
                                        "\"add_bos_token\":true,\"chat_template\":\"{{ messages }}\"}");
    write_text("generation_config.json",
               "{\"temperature\":0.7,\"top_p\":0.9,\"top_k\":50,\"repetition_penalty\":1.1,"
               "\"eos_token_id\":[2,%d]}",
               EOT);
    write_config(false, ROPE_PLAIN_JSON);
    write_weights(QTYPE_BF16, false, NULL);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    scratch_remove(dir);
    return 0;
}

static struct files *open_files(const char *path)
{
    struct files *f;
    struct err e = {0};
    if (files_open(path, &f, &e) < 0) fail_msg("%s", e.msg);
    return f;
}

/* Converts the folder to dir/name and opens the result. */
static struct files *convert_to(const char *name, const char *type)
{
    struct files *src = open_files(dir);
    struct err e = {0};
    struct convert_opts opts = {.type = type, .name = "tiny"};
    if (convert_hf(src, scratch_path(dir, name), &opts, NULL, &e) < 0) fail_msg("%s", e.msg);
    files_close(&src);
    return open_files(scratch_path(dir, name));
}

static float *floats_of(const struct files *f, const char *name, size_t *n)
{
    const struct tensor *t = files_find(f, str_of(name));
    if (!t) fail_msg("no tensor %s", name);
    *n = (size_t)(t->ne[0] * t->ne[1]);
    float *x = malloc(*n * sizeof *x);
    qtype_to_float(t->type, t->data, x, *n);
    return x;
}

/* Row of the folder's matrix that must be row r of the file's: the definition, computed the other way round. */
static size_t hf_row(size_t r, bool rotated)
{
    for (size_t j = 0; rotated && j < DIM / 2; j++)
        for (size_t i = 0; i < 2; i++)
            if (r % DIM == 2 * j + i) return r / DIM * DIM + j + DIM / 2 * i;
    return r;
}

/* All tensors of two layers and the rest, within error * 127 / 2 / 127 of a step where quantised. */
static void same_numbers(const struct files *hf, const struct files *gguf, float error)
{
    struct buf name = {0};
    size_t compared = 0;
    for (size_t k = 0; k < files_n_tensors(gguf); k++) {
        const struct tensor *t = files_tensor(gguf, k);
        if (str_starts(t->name, STR("rope_"))) continue;
        assert_true(llama_hf_name(t->name, &name));
        char a[96], b[96];
        snprintf(a, sizeof a, "%.*s", STR_ARG(t->name));
        snprintf(b, sizeof b, "%.*s", STR_ARG(buf_view(&name)));
        size_t n, m;
        float *x = floats_of(gguf, a, &n), *y = floats_of(hf, b, &m);
        assert_int_equal(n, m);
        bool rotated = strstr(a, "attn_q") || strstr(a, "attn_k.");
        size_t cols = t->n_dims == 1 && rotated ? 1 : (size_t)t->ne[0];
        for (size_t i = 0; i < n; i++) {
            float want = y[hf_row(i / cols, rotated) * cols + i % cols];
            if (!(fabsf(x[i] - want) <= (t->type == QTYPE_Q8_0 ? error : 0)))
                fail_msg("%s[%zu]: %g, not %g", a, i, (double)x[i], (double)want);
        }
        free(x);
        free(y);
        compared++;
    }
    assert_int_equal(compared, 2 + 10 * LAYERS + (files_find(gguf, STR("output.weight")) ? 1 : 0));
    buf_fini(&name);
}

static uint64_t meta_u64(const struct files *f, const char *key)
{
    uint64_t v = 0;
    if (!gguf_get_u64(files_gguf(f), key, &v)) fail_msg("no %s", key);
    return v;
}

static double meta_f64(const struct files *f, const char *key)
{
    double v = 0;
    if (!gguf_get_f64(files_gguf(f), key, &v)) fail_msg("no %s", key);
    return v;
}

static void assert_meta_str(const struct files *f, const char *key, const char *want)
{
    struct str s = {0};
    if (!gguf_get_str(files_gguf(f), key, &s) || !str_is(s, want))
        fail_msg("%s is \"%.*s\", not \"%s\"", key, STR_ARG(s), want);
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static void as_stored(void **state)
{
    (void)state;
    struct files *hf = open_files(dir), *g = convert_to("stored.gguf", NULL);
    same_numbers(hf, g, 0);
    assert_meta_str(g, "general.architecture", "llama");
    assert_meta_str(g, "general.name", "tiny");
    assert_meta_str(g, "tokenizer.ggml.model", "gpt2");
    assert_meta_str(g, "tokenizer.ggml.pre", "gpt-2");
    assert_meta_str(g, "tokenizer.chat_template", "{{ messages }}");
    const struct {
        const char *key;
        uint64_t v;
    } numbers[] = {
        {"general.file_type", 32},
        {"general.quantization_version", 2},
        {"llama.block_count", LAYERS},
        {"llama.context_length", 512},
        {"llama.embedding_length", EMBD},
        {"llama.feed_forward_length", FF},
        {"llama.attention.head_count", HEADS},
        {"llama.attention.head_count_kv", KV},
        {"llama.attention.key_length", DIM},
        {"llama.attention.value_length", DIM},
        {"llama.rope.dimension_count", DIM},
        {"llama.vocab_size", VOCAB},
        {"tokenizer.ggml.bos_token_id", 1},
        {"tokenizer.ggml.eos_token_id", 2},
        {"tokenizer.ggml.eot_token_id", EOT},
        {"tokenizer.ggml.padding_token_id", 0},
        {"general.sampling.top_k", 50},
    };
    for (size_t i = 0; i < COUNT_OF(numbers); i++) assert_int_equal(meta_u64(g, numbers[i].key), numbers[i].v);
    assert_true(meta_f64(g, "llama.attention.layer_norm_rms_epsilon") == (double)1e-5f);
    assert_true(meta_f64(g, "llama.rope.freq_base") == 10000);
    assert_true(meta_f64(g, "general.sampling.temp") == (double)0.7f);
    assert_true(meta_f64(g, "general.sampling.top_p") == (double)0.9f);
    assert_true(meta_f64(g, "general.sampling.penalty_repeat") == (double)1.1f);
    assert_null(gguf_find(files_gguf(g), "general.sampling.min_p"));
    assert_null(gguf_find(files_gguf(g), "llama.rope.scaling.type"));
    bool add_bos = false;
    assert_true(gguf_get_bool(files_gguf(g), "tokenizer.ggml.add_bos_token", &add_bos) && add_bos);

    /* One token for each row of the embedding table. */
    struct reader r;
    const struct gguf_kv *tokens = gguf_find(files_gguf(g), "tokenizer.ggml.tokens");
    assert_true(tokens && tokens->n == VOCAB && gguf_strs(tokens, &r));
    for (int i = 0; i < VOCAB; i++) {
        struct str s = gguf_next_str(&r);
        if (i == 1) assert_true(str_is(s, "<s>"));
        if (i == 259) assert_true(str_is(s, "he"));
        if (i == TOKENS) assert_true(str_is(s, "[PAD262]"));
    }
    int64_t type = 0;
    const struct gguf_kv *types = gguf_find(files_gguf(g), "tokenizer.ggml.token_type");
    assert_true(types->n == VOCAB && gguf_arr_i64(types, EOT, &type) && type == 3);
    assert_true(gguf_arr_i64(types, VOCAB - 1, &type) && type == 5);
    assert_int_equal(gguf_find(files_gguf(g), "tokenizer.ggml.merges")->n, 2);

    /* The order of the file is the order of use. */
    assert_true(str_is(files_tensor(g, 0)->name, "token_embd.weight"));
    assert_true(str_starts(files_tensor(g, 1)->name, STR("blk.0.")));
    assert_true(str_starts(files_tensor(g, 11)->name, STR("blk.1.")));
    assert_true(str_starts(files_tensor(g, 21)->name, STR("output")));
    assert_int_equal(files_find(g, STR("blk.0.attn_norm.weight"))->type, QTYPE_F32);
    assert_int_equal(files_find(g, STR("blk.0.attn_k.bias"))->type, QTYPE_F32);
    assert_int_equal(files_find(g, STR("blk.0.attn_k.weight"))->type, QTYPE_BF16);
    files_close(&g);
    files_close(&hf);
}

/* What comes out opens as a model, and its tokenizer gives the folder's ids. */
static void result_is_a_model(void **state)
{
    (void)state;
    struct files *hf = open_files(dir), *g = convert_to("model.gguf", "f16");
    struct model *m;
    struct err e = {0};
    if (model_open(g, &m, &e) < 0) fail_msg("%s", e.msg);
    assert_int_equal(m->hp.head_dim, DIM);
    assert_false(m->hp.rope_neox);
    model_close(&m);

    struct tok *a, *b;
    const struct hf *h = files_hf(hf);
    if (tok_open_gguf(files_gguf(g), &a, &e) < 0) fail_msg("%s", e.msg);
    if (tok_open_hf(h->tokenizer, h->tokenizer_config, h->special_tokens, "hf", &b, &e) < 0) fail_msg("%s", e.msg);
    struct ids x = {0}, y = {0};
    struct str text = STR("hello h\xc3\xa9llo \xf0\x9f\x8c\xbe <|eot_id|>\n");
    assert_int_equal(tok_encode(a, text, TOK_ADD_SPECIAL | TOK_PARSE_SPECIAL, &x, &e), 0);
    assert_int_equal(tok_encode(b, text, TOK_ADD_SPECIAL | TOK_PARSE_SPECIAL, &y, &e), 0);
    assert_true(x.n == y.n && x.n > 10);
    assert_memory_equal(x.p, y.p, x.n * sizeof *x.p);
    assert_int_equal(x.p[0], 1);
    ids_fini(&x);
    ids_fini(&y);
    tok_close(&a);
    tok_close(&b);
    files_close(&g);
    files_close(&hf);
}

static void every_type_from_every_type(void **state)
{
    (void)state;
    const enum qtype stored[] = {QTYPE_F32, QTYPE_F16, QTYPE_BF16};
    const uint64_t file_types[] = {[QTYPE_F32] = 0, [QTYPE_F16] = 1, [QTYPE_BF16] = 32, [QTYPE_Q8_0] = 7};
    for (size_t s = 0; s < COUNT_OF(stored); s++) {
        write_weights(stored[s], false, NULL);
        struct files *hf = open_files(dir);
        for (unsigned t = 0; t < COUNT_OF(file_types); t++) {
            struct files *g = convert_to("typed.gguf", qtypes[t].name);
            same_numbers(hf, g, 0.5f * 2.0f / 127.0f + 0.001f);
            assert_int_equal(meta_u64(g, "general.file_type"), file_types[t]);
            assert_int_equal(files_find(g, STR("blk.1.ffn_down.weight"))->type, t);
            assert_int_equal(files_find(g, STR("blk.1.ffn_norm.weight"))->type, QTYPE_F32);
            /* Rows of 80 don't make blocks of 32. */
            assert_int_equal(files_find(g, STR("blk.1.attn_output.weight"))->type, t == QTYPE_Q8_0 ? QTYPE_F16 : t);
            files_close(&g);
        }
        files_close(&hf);
    }
    write_weights(QTYPE_BF16, false, NULL);
}

static void same_bytes(const char *a, const char *b)
{
    struct map x, y;
    assert_int_equal(vfs_map(scratch_path(dir, a), &x, NULL), 0);
    assert_int_equal(vfs_map(scratch_path(dir, b), &y, NULL), 0);
    assert_int_equal(x.n, y.n);
    assert_memory_equal(x.p, y.p, x.n);
    vfs_unmap(&x);
    vfs_unmap(&y);
}

static void refused(const struct convert_opts *opts, const char *words)
{
    struct files *src = open_files(dir);
    struct err e = {0};
    const char *path = scratch_path(dir, "refused.gguf");
    assert_true(convert_hf(src, path, opts, NULL, &e) < 0);
    if (!strstr(e.msg, words)) fail_msg("\"%s\" is not in \"%s\"", words, e.msg);
    assert_false(vfs_exists(path));
    files_close(&src);
}

/* What the caller wants otherwise, and what no wish can change. */
static void wishes(void **state)
{
    (void)state;
    static const char *const patterns[] = {"attn_[qk]\\.=f16", "blk\\.1\\.=q8_0", "norm=f16"};
    const struct {
        const char *name;
        enum qtype type;
    } want[] = {
        {"blk.0.attn_q.weight", QTYPE_F16},    {"blk.1.attn_k.weight", QTYPE_F16}, {"blk.1.ffn_up.weight", QTYPE_Q8_0},
        {"blk.0.ffn_up.weight", QTYPE_Q4_0},   {"output.weight", QTYPE_BF16},      {"token_embd.weight", QTYPE_Q5_1},
        {"blk.0.attn_norm.weight", QTYPE_F32},
    };
    struct files *src = open_files(dir);
    const char *path = scratch_path(dir, "wishes.gguf");
    const struct convert_opts opts = {.type = "q4_0",
                                      .tensor_types = patterns,
                                      .n_tensor_types = COUNT_OF(patterns),
                                      .output_type = "bf16",
                                      .embedding_type = "q5_1"};
    struct convert_result r;
    struct err e = {0};
    if (convert_hf(src, path, &opts, &r, &e) < 0) fail_msg("%s", e.msg);
    struct files *g = open_files(path);
    for (size_t i = 0; i < COUNT_OF(want); i++) {
        enum qtype got = files_find(g, str_of(want[i].name))->type;
        if (got != want[i].type) fail_msg("%s is %s", want[i].name, qtypes[got].name);
    }
    assert_int_equal(meta_u64(g, "general.file_type"), 2);
    uint64_t bytes = 0;
    for (size_t t = 0; t < QTYPE_COUNT; t++) bytes += r.shares[t].bytes;
    assert_int_equal(bytes, files_bytes(g));
    files_close(&g);
    files_close(&src);
}

static void threads_do_not_matter(void **state)
{
    (void)state;
    struct files *src = open_files(dir);
    for (uint32_t n = 1; n <= 5; n += 2) {
        struct err e = {0};
        char name[16];
        snprintf(name, sizeof name, "t%u.gguf", n);
        const struct convert_opts opts = {.type = "q4_k_m", .name = "tiny", .n_threads = n};
        if (convert_hf(src, scratch_path(dir, name), &opts, NULL, &e) < 0) fail_msg("%s", e.msg);
        same_bytes("t1.gguf", name);
    }
    files_close(&src);
}

/* An importance matrix changes the weights, and one of another model is refused. */
static void importance(void **state)
{
    (void)state;
    float sums[FF], counts[] = {1};
    for (size_t i = 0; i < FF; i++) sums[i] = i % 7 ? 1 : 1000;
    struct imatrix_entry entry = {STR("blk.0.ffn_down.weight"), FF, 1, sums, NULL, counts};
    const struct imatrix m = {.entries = &entry, .n = 1, .dataset = STR("text"), .n_chunks = 1, .chunk_tokens = 8};
    struct err e = {0};
    const char *file = scratch_path(dir, "m.gguf");
    if (imatrix_write(&m, file, &e) < 0) fail_msg("%s", e.msg);
    struct files *src = open_files(dir), *plain = convert_to("plain.gguf", "q4_0");
    struct convert_opts opts = {.type = "q4_0", .imatrix = file};
    struct convert_result r;
    if (convert_hf(src, scratch_path(dir, "weighted.gguf"), &opts, &r, &e) < 0) fail_msg("%s", e.msg);
    assert_int_equal(r.unweighted, 2 + 7 * LAYERS - 1);
    struct files *g = open_files(scratch_path(dir, "weighted.gguf"));
    const struct tensor *a = files_find(g, entry.name), *b = files_find(plain, entry.name);
    assert_true(a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) != 0);
    a = files_find(g, STR("blk.1.ffn_down.weight")), b = files_find(plain, a->name);
    assert_memory_equal(a->data, b->data, a->bytes);
    assert_meta_str(g, "quantize.imatrix.file", "m.gguf");
    files_close(&g);
    files_close(&plain);
    files_close(&src);

    entry.n_values = FF / 2;
    if (imatrix_write(&m, file, &e) < 0) fail_msg("%s", e.msg);
    refused(&opts, "made for another model");
}

static void quantize_equals_convert(void **state)
{
    (void)state;
    struct files *g = convert_to("stored.gguf", NULL), *q = convert_to("q8.gguf", "q8_0"), *hf = open_files(dir);
    struct convert_opts opts = {.type = "Q8_0", .name = "tiny"};
    struct convert_result result;
    struct err e = {0};
    if (convert_quantize(g, scratch_path(dir, "again.gguf"), &opts, &result, &e) < 0) fail_msg("%s", e.msg);
    struct files *again = open_files(scratch_path(dir, "again.gguf"));
    assert_int_equal(files_n_tensors(again), files_n_tensors(q));
    for (size_t i = 0; i < files_n_tensors(q); i++) {
        const struct tensor *a = files_tensor(q, i), *b = files_find(again, a->name);
        assert_true(b && a->type == b->type && a->bytes == b->bytes);
        assert_memory_equal(a->data, b->data, a->bytes);
    }
    assert_int_equal(gguf_n_kv(files_gguf(again)), gguf_n_kv(files_gguf(q)));
    for (size_t i = 0; i < gguf_n_kv(files_gguf(q)); i++) {
        char key[128];
        const struct gguf_kv *kv = gguf_kv_at(files_gguf(q), i), *other;
        snprintf(key, sizeof key, "%.*s", STR_ARG(kv->key));
        other = gguf_find(files_gguf(again), key);
        assert_true(other && other->type == kv->type && other->n == kv->n && other->array_bytes == kv->array_bytes);
        if (kv->type == GGUF_ARRAY && kv->array_bytes) assert_memory_equal(kv->array, other->array, kv->array_bytes);
        if (kv->type == GGUF_STRING) assert_true(str_eq(kv->v.s, other->v.s));
    }
    assert_int_equal(result.tensors, files_n_tensors(q));
    assert_int_equal(result.parameters,
                     VOCAB * EMBD * 2 + EMBD +
                         LAYERS * (2 * EMBD + 3 * FF * EMBD + 2 * HEADS * DIM * EMBD + 2 * KV * DIM * EMBD + KV * DIM));
    /* A folder quantises, too. */
    if (convert_quantize(hf, scratch_path(dir, "direct.gguf"), &opts, NULL, &e) < 0) fail_msg("%s", e.msg);
    same_bytes("direct.gguf", "q8.gguf");

    /* A dry run tells the same and writes nothing. */
    struct convert_result dry;
    opts.dry_run = true;
    if (convert_quantize(g, NULL, &opts, &dry, &e) < 0) fail_msg("%s", e.msg);
    assert_true(dry.file_bytes == result.file_bytes && dry.parameters == result.parameters && dry.tensors == result.tensors);
    struct map m;
    assert_int_equal(vfs_map(scratch_path(dir, "again.gguf"), &m, NULL), 0);
    assert_int_equal(dry.file_bytes, m.n);
    vfs_unmap(&m);
    files_close(&again);
    files_close(&g);
    files_close(&q);
    files_close(&hf);
}

static void tied_leaves_output_out(void **state)
{
    (void)state;
    write_config(true, ROPE_PLAIN_JSON);
    struct files *g = convert_to("tied.gguf", NULL);
    assert_null(files_find(g, STR("output.weight")));
    files_close(&g);
    write_weights(QTYPE_BF16, true, NULL);
    g = convert_to("tied.gguf", NULL);
    assert_null(files_find(g, STR("output.weight")));
    files_close(&g);
    write_config(false, ROPE_PLAIN_JSON);
    write_weights(QTYPE_BF16, false, NULL);
}

/* Both spellings of config.json give the same file. */
static void rope_scaling(void **state)
{
    (void)state;
    write_config(
        false, "\"rope_theta\":500000.0,\"torch_dtype\":\"float32\",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,"
               "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":64}");
    struct files *g = convert_to("llama3.gguf", NULL);
    size_t n;
    float *x = floats_of(g, "rope_freqs.weight", &n);
    assert_int_equal(n, DIM / 2);
    for (size_t i = 0; i < n; i++) {
        double wavelength = 2 * 3.141592653589793 * pow(500000.0, 2.0 * (double)i / DIM), want;
        if (wavelength > 64.0)
            want = 8;
        else if (wavelength < 16.0)
            want = 1;
        else
            want = 1 / ((1 - (64 / wavelength - 1) / 3) / 8 + (64 / wavelength - 1) / 3);
        assert_true(fabs((double)x[i] - want) < 1e-6 * want);
    }
    assert_true(x[0] == 1.0f && x[1] > 1.0f && x[1] < 8.0f && x[n - 1] == 8.0f);
    free(x);
    assert_null(gguf_find(files_gguf(g), "llama.rope.scaling.type"));
    struct model *m;
    assert_int_equal(model_open(g, &m, NULL), 0);
    model_close(&m);
    files_close(&g);
    write_config(false,
                 "\"dtype\":\"float32\",\"rope_parameters\":{\"rope_theta\":500000.0,\"rope_type\":\"llama3\",\"factor\":8.0,"
                 "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":64}");
    g = convert_to("llama3b.gguf", NULL);
    files_close(&g);
    same_bytes("llama3.gguf", "llama3b.gguf");

    write_config(false, "\"rope_theta\":10000.0,\"rope_scaling\":{\"type\":\"linear\",\"factor\":4.0}");
    g = convert_to("linear.gguf", NULL);
    assert_meta_str(g, "llama.rope.scaling.type", "linear");
    assert_true(meta_f64(g, "llama.rope.scaling.factor") == 4);
    files_close(&g);

    write_config(false, "\"rope_theta\":10000.0,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":16.0,\"attention_factor\":1.5,"
                        "\"original_max_position_embeddings\":128,\"beta_fast\":24}");
    g = convert_to("yarn.gguf", NULL);
    assert_meta_str(g, "llama.rope.scaling.type", "yarn");
    assert_int_equal(meta_u64(g, "llama.rope.scaling.original_context_length"), 128);
    assert_true(meta_f64(g, "llama.rope.scaling.yarn_beta_fast") == 24);
    assert_true(fabs(meta_f64(g, "llama.rope.scaling.attn_factor") - 1.5 / (0.1 * log(16.0) + 1)) < 1e-6);
    struct hparams hp;
    struct arena a = {0};
    assert_int_equal(hparams_read(g, &a, &hp, NULL), 0);
    assert_true(fabs(hp.rope[0].attn_factor - 1.5) < 1e-6 && hp.rope[0].factor == 16 && hp.rope[0].high == 24 &&
                hp.rope[0].low == 1);
    arena_fini(&a);
    files_close(&g);
    write_config(false, ROPE_PLAIN_JSON);
}

static void greedy_default(void **state)
{
    (void)state;
    write_text("generation_config.json", "{\"do_sample\":false,\"temperature\":0.7}");
    struct files *g = convert_to("greedy.gguf", NULL);
    assert_true(meta_f64(g, "general.sampling.temp") == 0);
    assert_null(gguf_find(files_gguf(g), "general.sampling.top_k"));
    files_close(&g);
    write_text("generation_config.json", "{}");
}

/* ---- refusals ------------------------------------------------------------------------------------------------------ */

static int cancel(void *user, uint64_t done, uint64_t all)
{
    (*(int *)user)++;
    return done < all ? 0 : 1;
}

static void refusals(void **state)
{
    (void)state;
    refused(&(struct convert_opts){.type = "q9_9"}, "type \"q9_9\" is not known; Quern writes F32, F16, BF16");
    refused(&(struct convert_opts){.type = "tq1_0"}, "is only read and cannot be written");
    const char *const patterns[] = {"attn_q=q9_9", "=f16", "attn_(=f16", "attn_q"};
    const char *const words[] = {"type \"q9_9\" is not known", "REGEX=TYPE", "missing closing parenthesis", "REGEX=TYPE"};
    for (size_t i = 0; i < COUNT_OF(patterns); i++)
        refused(&(struct convert_opts){.type = "f16", .tensor_types = &patterns[i], .n_tensor_types = 1}, words[i]);
    int calls = 0;
    refused(&(struct convert_opts){.on_progress = cancel, .user = &calls}, "cancelled");
    assert_true(calls > 0);
    write_weights(QTYPE_BF16, false, "model.layers.0.self_attn.sinks.weight");
    refused(&(struct convert_opts){0}, "model.layers.0.self_attn.sinks.weight is not known in a layer of architecture llama");

    /* A weight that is not finite or too large for the new type. */
    write_weights(QTYPE_F32, false, NULL);
    struct map m;
    assert_int_equal(vfs_map(scratch_path(dir, "model.safetensors"), &m, NULL), 0);
    uint8_t *copy = scratch_exact(m.p, m.n);
    size_t n = m.n;
    vfs_unmap(&m);
    uint64_t header;
    memcpy(&header, copy, 8);
    const float bad[] = {NAN, INFINITY, 1e9f, -70000.0f};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        memcpy(copy + 8 + header, &bad[i], 4); /* of lm_head.weight */
        scratch_write(dir, "model.safetensors", copy, n);
        refused(&(struct convert_opts){.type = "f16"}, "tensor \"lm_head.weight\" holds");
        if (i < 3) refused(&(struct convert_opts){.type = "q8_0"}, "tensor \"lm_head.weight\" holds");
    }
    free(copy);
    write_weights(QTYPE_BF16, false, NULL);

    rename(scratch_path(dir, "tokenizer.json"), scratch_path(dir, "away.json"));
    refused(&(struct convert_opts){0}, "no tokenizer.json");
    rename(scratch_path(dir, "away.json"), scratch_path(dir, "tokenizer.json"));

    struct files *g = convert_to("stored.gguf", NULL);
    struct err e = {0};
    assert_int_equal(convert_hf(g, "x", &(struct convert_opts){0}, NULL, &e), ERR_ARG);
    assert_int_equal(convert_quantize(g, "x", &(struct convert_opts){0}, NULL, &e), ERR_ARG);
    assert_int_equal(convert_quantize(g, NULL, &(struct convert_opts){.type = "f32"}, NULL, &e), ERR_ARG);
    files_close(&g);
}

static void fail_each(const struct convert_opts *opts)
{
    struct files *src = open_files(dir);
    const enum fault_kind kinds[] = {FAULT_ALLOC, FAULT_IO};
    char path[128];
    snprintf(path, sizeof path, "%s", scratch_path(dir, "fault.gguf"));
    for (size_t k = 0; k < COUNT_OF(kinds); k++) {
        struct scratch_nth nth = {.kind = kinds[k]};
        size_t before = mem_stats().current;
        for (nth.at = 1;; nth.at++) {
            struct err e = {0};
            nth.seen = 0;
            remove(path);
            fault_set(scratch_fail_nth, &nth);
            int rc = convert_hf(src, path, opts, NULL, &e);
            fault_set(NULL, NULL);
            assert_int_equal(mem_stats().current, before);
            if (rc < 0) assert_true(e.msg[0] != 0);
            if (nth.seen < nth.at) {
                assert_int_equal(rc, 0);
                break;
            }
        }
        assert_true(nth.at > 5);
    }
    files_close(&src);
}

static void faults(void **state)
{
    (void)state;
    float sums[EMBD] = {1}, counts[] = {1};
    struct imatrix_entry entry = {STR("blk.0.ffn_up.weight"), EMBD, 1, sums, sums, counts};
    const struct imatrix m = {.entries = &entry, .n = 1, .dataset = STR("text")};
    static char file[512];
    snprintf(file, sizeof file, "%s", scratch_path(dir, "faults.gguf"));
    assert_int_equal(imatrix_write(&m, file, NULL), 0);
    static const char *const patterns[] = {"attn_[qk]\\.=f16"};
    fail_each(&(struct convert_opts){.type = "q8_0", .n_threads = 1});
    fail_each(&(struct convert_opts){
        .target_bits = 12, .imatrix = file, .tensor_types = patterns, .n_tensor_types = COUNT_OF(patterns), .n_threads = 1});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_stored),
        cmocka_unit_test(result_is_a_model),
        cmocka_unit_test(every_type_from_every_type),
        cmocka_unit_test(wishes),
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(importance),
        cmocka_unit_test(quantize_equals_convert),
        cmocka_unit_test(tied_leaves_output_out),
        cmocka_unit_test(rope_scaling),
        cmocka_unit_test(greedy_default),
        cmocka_unit_test(refusals),
        cmocka_unit_test(faults),
    };
    return cmocka_run_group_tests_name("convert", tests, make_dir, remove_dir);
}
