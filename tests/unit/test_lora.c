/* LoRA adapters: whatever adapters the others of a batch use, a sequence gets what it gets alone, to the last bit and on every
 * level; pages are shared only between those that use the same; and what is no adapter of the model is refused by its name.
 * tests/models/lora.sh has the numbers. */
#include "convert/synth.h"
#include "run/run.h"
#include "scalar.h"
#include "scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static const struct synth_shape tiny = {"tiny", "llama", 2, 64, 96, 4, 2, 16, 300, 1024, 10000, true, .traits = S_DENSE};

#define VOCAB 300
#define N_LORAS 3
#define N_CTX 300
#define MAX_NEW 12

static struct fixture {
    char dir[64];
    struct files *files;
    struct model *model;
    struct tok *tok;
    struct sampler sampler;
    struct adapter *adapters[N_LORAS];
    struct lora loras[N_LORAS];
    uint64_t random;
} fx;

static uint32_t below(uint32_t n)
{
    return scratch_below(&fx.random, n);
}

/* ---- adapters ---------------------------------------------------------------------------------------------------------- */

struct module {
    const char *name; /* behind "blk.N." */
    uint64_t in, out;
};
static const struct module all_modules[] = {
    {"attn_q.weight", 64, 64},   {"attn_k.weight", 64, 32}, {"attn_v.weight", 64, 32},  {"attn_output.weight", 64, 64},
    {"ffn_gate.weight", 64, 96}, {"ffn_up.weight", 64, 96}, {"ffn_down.weight", 96, 64}};

/* A GGUF adapter of the given modules of both layers (n of them from the first on). */
struct recipe {
    const char *file, *arch;
    const struct module *modules;
    size_t n;
    uint64_t rank;
    enum qtype type;
};
static const struct recipe recipes[N_LORAS] = {
    {"a.gguf", "llama", all_modules, COUNT_OF(all_modules), 4, QTYPE_F32},
    {"b.gguf", "llama", all_modules + 2, 3, 17, QTYPE_F16},
    {"c.gguf", "llama", all_modules, COUNT_OF(all_modules), 32, QTYPE_Q8_0},
};

static void write_random(struct gguf_writer *w, enum qtype type, uint64_t in, uint64_t out)
{
    float row[96];
    uint8_t bytes[96 * 4];
    struct err e;
    for (uint64_t r = 0; r < out; r++) {
        for (uint64_t i = 0; i < in; i++) row[i] = ((float)below(2001) - 1000) * 2e-4f;
        qtypes[type].quantize(row, NULL, bytes, in);
        const size_t n = (size_t)in / qtypes[type].block_n * qtypes[type].block_bytes;
        assert_int_equal(gguf_write_data(w, bytes, n, &e), 0);
    }
}

static const char *make_adapter(const struct recipe *r)
{
    const char *path = scratch_path(fx.dir, r->file);
    struct gguf_writer *w;
    struct err e;
    assert_int_equal(gguf_writer_new(path, &w, &e), 0);
    assert_int_equal(gguf_put_str(w, "general.architecture", str_of(r->arch)), 0);
    assert_int_equal(gguf_put_str(w, "general.type", STR("adapter")), 0);
    assert_int_equal(gguf_put_str(w, "adapter.type", STR("lora")), 0);
    assert_int_equal(gguf_put_f32(w, "adapter.lora.alpha", 16), 0);
    for (size_t i = 0; i < 2 * r->n; i++) {
        const struct module *m = &r->modules[i / 2];
        char name[2][64];
        (void)snprintf(name[0], 64, "blk.%zu.%s.lora_a", i % 2, m->name);
        (void)snprintf(name[1], 64, "blk.%zu.%s.lora_b", i % 2, m->name);
        assert_int_equal(gguf_add_tensor(w, str_of(name[0]), r->type, 2, (const uint64_t[]){m->in, r->rank}, &e), 0);
        assert_int_equal(gguf_add_tensor(w, str_of(name[1]), r->type, 2, (const uint64_t[]){r->rank, m->out}, &e), 0);
    }
    assert_int_equal(gguf_write_begin(w, &e), 0);
    for (size_t i = 0; i < 2 * r->n; i++) {
        write_random(w, r->type, r->modules[i / 2].in, r->rank);
        write_random(w, r->type, r->rank, r->modules[i / 2].out);
    }
    assert_int_equal(gguf_write_end(w, &e), 0);
    gguf_writer_free(&w);
    return path;
}

static int setup(void **state)
{
    struct err e;
    (void)state;
    fx.random = 5;
    scratch_make(fx.dir);
    const char *path = scratch_path(fx.dir, "tiny.gguf");
    int rc = synth_write(&tiny, "q8_0", path, NULL, NULL, &e);
    if (rc == 0) rc = files_open(path, &fx.files, &e);
    if (rc == 0) rc = model_open(fx.files, &fx.model, &e);
    if (rc == 0) rc = tok_open_gguf(files_gguf(fx.files), &fx.tok, &e);
    if (rc == 0) rc = sampler_init(&fx.sampler, scalar_kernels(), VOCAB, &e);
    for (size_t i = 0; rc == 0 && i < N_LORAS; i++) {
        rc = adapter_open(make_adapter(&recipes[i]), &fx.adapters[i], &e);
        if (rc == 0) rc = adapter_bind(fx.adapters[i], fx.model, &e);
        if (rc == 0) fx.loras[i] = *adapter_lora(fx.adapters[i]);
    }
    if (rc < 0) print_message("%s\n", e.msg);
    return rc;
}

static int teardown(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_LORAS; i++) adapter_close(&fx.adapters[i]);
    sampler_fini(&fx.sampler);
    tok_close(&fx.tok);
    model_close(&fx.model);
    files_close(&fx.files);
    scratch_remove(fx.dir);
    return 0;
}

/* ---- sessions ---------------------------------------------------------------------------------------------------------- */

static struct session *new_session(uint32_t n_loras, uint32_t n_batch, uint32_t n_threads, const char *level)
{
    const struct session_options o = {.n_ctx = N_CTX,
                                      .n_batch = n_batch,
                                      .n_threads = n_threads,
                                      .k_type = QTYPE_F16,
                                      .v_type = QTYPE_F16,
                                      .cpu_level = level,
                                      .loras = fx.loras,
                                      .n_loras = n_loras};
    struct session *s;
    struct err e;
    if (session_new(fx.model, &o, &s, &e) < 0) fail_msg("%s", e.msg);
    return s;
}

#define LONG 70
static void keep_row(void *ctx, size_t i, const float *logits)
{
    memcpy((float *)ctx + i * VOCAB, logits, VOCAB * sizeof *logits);
}

static void logits_of(struct session *s, const float *scales, float *out)
{
    int32_t ids[LONG];
    struct err e;
    for (size_t i = 0; i < LONG; i++) ids[i] = (int32_t)(i * 7919 % VOCAB);
    if (scales) session_use(s, scales);
    session_truncate(s, 0);
    if (session_eval(s, ids, LONG, keep_row, out, &e) < 0) fail_msg("%s", e.msg);
}

static const float uses[][N_LORAS] = {{0, 0, 0}, {1, 0, 0}, {0, 1, 0}, {0, 0, 1}, {0.5f, 1, -2}, {1, 0, 0.25f}};

static void every_way_gives_the_same_bytes(void **state)
{
    static float base[LONG * VOCAB], want[COUNT_OF(uses)][LONG * VOCAB], got[LONG * VOCAB];
    static const struct {
        uint32_t n_batch, n_threads;
    } ways[] = {{64, 1}, {512, 2}, {7, 2}, {1, 1}, {1, 2}};
    (void)state;
    struct session *s = new_session(0, 64, 1, "scalar");
    logits_of(s, NULL, base);
    session_free(&s);
    for (unsigned l = 0; cpu_level(l); l++) {
        for (size_t w = 0; w < COUNT_OF(ways); w++) {
            s = new_session(N_LORAS, ways[w].n_batch, ways[w].n_threads, cpu_level(l));
            for (size_t u = 0; u < COUNT_OF(uses); u++) {
                float *to = l == 0 && w == 0 ? want[u] : got;
                logits_of(s, uses[u], to);
                if (to == got) assert_memory_equal(got, want[u], sizeof got);
            }
            session_free(&s);
        }
    }
    assert_memory_equal(want[0], base, sizeof base);
    for (size_t u = 1; u < COUNT_OF(uses); u++) assert_memory_not_equal(want[u], want[u - 1], sizeof base);
}

static void other_scales_forget_the_tokens(void **state)
{
    struct session *s = new_session(N_LORAS, 64, 1, NULL);
    static float out[LONG * VOCAB];
    (void)state;
    logits_of(s, uses[1], out);
    session_use(s, uses[1]);
    assert_int_equal(session_n_tokens(s), LONG);
    session_use(s, uses[2]);
    assert_int_equal(session_n_tokens(s), 0);
    session_free(&s);
}

/* ---- requests together --------------------------------------------------------------------------------------------------- */

struct job {
    int32_t prompt[N_CTX];
    uint32_t n_prompt, max_tokens;
    float scales[N_LORAS];
    int32_t want[MAX_NEW], got[MAX_NEW];
    uint32_t n_want, n_got;
    struct request *q;
    int error;
    uint32_t n_reused;
    atomic_bool ended;
};

static void on_token(void *user, const struct token_event *t)
{
    struct job *j = user;
    j->got[j->n_got++] = t->id;
}

static void on_end(void *user, const struct request_result *r)
{
    struct job *j = user;
    j->error = r->error;
    j->n_reused = r->generated.n_reused;
    atomic_store(&j->ended, true);
}

static int keep_id(void *user, int32_t id)
{
    struct job *j = user;
    j->want[j->n_want++] = id;
    return 0;
}

static const struct sampling sampling = {.temperature = 1, .top_p = 1, .repeat_penalty = 1, .seed = 3};

/* Few stories, so that prompts of different adapters begin alike. */
static void make_job(struct job *j)
{
    *j = (struct job){.n_prompt = 1 + below(200), .max_tokens = 1 + below(MAX_NEW)};
    const uint32_t story = below(2);
    for (uint32_t i = 0; i < j->n_prompt; i++) j->prompt[i] = (int32_t)((i * 7919 + story * 31) % VOCAB);
    memcpy(j->scales, uses[below(COUNT_OF(uses))], sizeof j->scales);
}

static void run_solo(struct job *j, struct session *s)
{
    const struct generate_options o = {
        .sampling = sampling, .max_tokens = j->max_tokens, .ignore_eos = true, .on_token = keep_id, .user = j};
    struct generate_result r;
    struct err e;
    session_use(s, j->scales);
    session_truncate(s, 0);
    if (generate(s, fx.tok, &fx.sampler, j->prompt, j->n_prompt, &o, &r, &e) < 0) fail_msg("%s", e.msg);
}

static struct engine *new_engine(uint32_t n_parallel, uint32_t n_batch, uint32_t n_threads)
{
    const struct engine_options o = {.n_ctx = N_CTX,
                                     .n_parallel = n_parallel,
                                     .n_queue = 100,
                                     .n_batch = n_batch,
                                     .n_threads = n_threads,
                                     .n_pages = 40,
                                     .k_type = QTYPE_F16,
                                     .v_type = QTYPE_F16,
                                     .loras = fx.loras,
                                     .n_loras = N_LORAS};
    struct engine *en;
    struct err e;
    if (engine_new(fx.model, fx.tok, &o, &en, &e) < 0) fail_msg("%s", e.msg);
    return en;
}

static void submit(struct engine *en, struct job *j, bool none)
{
    const struct request_options o = {.prompt = j->prompt,
                                      .n_prompt = j->n_prompt,
                                      .max_tokens = j->max_tokens,
                                      .sampling = sampling,
                                      .ignore_eos = true,
                                      .lora_scales = none ? NULL : j->scales,
                                      .on_token = on_token,
                                      .on_end = on_end,
                                      .user = j};
    struct err e;
    j->n_got = 0;
    if (engine_submit(en, &o, &j->q, &e) < 0) fail_msg("%s", e.msg);
}

static void wait_for(struct job *j)
{
    while (!atomic_load(&j->ended)) usleep(100);
    request_free(&j->q);
    atomic_store(&j->ended, false);
    assert_int_equal(j->error, 0);
}

#define N_JOBS 60
static void requests_of_different_adapters_share_batches(void **state)
{
    static struct job jobs[N_JOBS];
    static const struct {
        uint32_t n_parallel, n_batch, n_threads;
    } ways[] = {{1, 64, 1}, {4, 16, 2}, {16, 512, 2}, {7, 7, 1}};
    struct session *s = new_session(N_LORAS, 64, 1, NULL);
    (void)state;
    for (size_t k = 0; k < N_JOBS; k++) {
        make_job(&jobs[k]);
        run_solo(&jobs[k], s);
    }
    session_free(&s);
    for (size_t w = 0; w < COUNT_OF(ways); w++) {
        struct engine *en = new_engine(ways[w].n_parallel, ways[w].n_batch, ways[w].n_threads);
        for (size_t round = 0; round < 2; round++) {
            for (size_t k = 0; k < N_JOBS; k++) submit(en, &jobs[k], memcmp(jobs[k].scales, uses[0], sizeof uses[0]) == 0);
            for (size_t k = 0; k < N_JOBS; k++) {
                wait_for(&jobs[k]);
                assert_int_equal(jobs[k].n_got, jobs[k].n_want);
                assert_memory_equal(jobs[k].got, jobs[k].want, jobs[k].n_want * sizeof *jobs[k].want);
            }
        }
        engine_free(&en);
    }
}

static void pages_are_of_one_use_of_adapters(void **state)
{
    struct engine *en = new_engine(2, 512, 1);
    struct job j = {.n_prompt = 130, .max_tokens = 1};
    (void)state;
    for (size_t round = 0; round < 2; round++) {
        for (size_t u = 0; u < COUNT_OF(uses); u++) {
            memcpy(j.scales, uses[u], sizeof j.scales);
            submit(en, &j, false);
            wait_for(&j);
            assert_int_equal(j.n_reused, round ? 128 : 0);
        }
    }
    submit(en, &j, true); /* none at all is the first of uses */
    wait_for(&j);
    assert_int_equal(j.n_reused, 128);
    engine_free(&en);
}

static void scales_are_numbers(void **state)
{
    struct engine *en = new_engine(1, 64, 1);
    const int32_t id = 1;
    const float scales[N_LORAS] = {0, __builtin_nanf(""), 0};
    const struct request_options o = {.prompt = &id, .n_prompt = 1, .sampling = sampling, .lora_scales = scales};
    struct request *q;
    struct err e;
    (void)state;
    assert_int_equal(engine_submit(en, &o, &q, &e), ERR_ARG);
    engine_free(&en);
}

/* ---- what is refused ----------------------------------------------------------------------------------------------------- */

static void expect(const char *path, int want, const char *words)
{
    struct adapter *x = NULL;
    struct err e = {0};
    int got = adapter_open(path, &x, &e);
    if (got == 0) got = adapter_bind(x, fx.model, &e);
    adapter_close(&x);
    if (got != want || (want < 0 && !strstr(e.msg, words)))
        fail_msg("%s: %d, %s; expected %d, %s", path, got, e.msg, want, words);
}

static void adapters_of_other_models_are_refused(void **state)
{
    static const struct module wide = {"attn_q.weight", 96, 64}, absent = {"attn_qkv.weight", 64, 64},
                               table = {"token_embd.weight", 64, 64};
    static const struct {
        struct recipe r;
        const char *words;
    } rows[] = {
        {{"arch.gguf", "qwen3", all_modules, 1, 4, QTYPE_F32}, "architecture qwen3"},
        {{"wide.gguf", "llama", &wide, 1, 4, QTYPE_F32}, "64 rows of 96"},
        {{"absent.gguf", "llama", &absent, 1, 4, QTYPE_F32}, "no matrix that is known"},
        {{"table.gguf", "llama", &table, 1, 4, QTYPE_F32}, "no matrix that is known"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) expect(make_adapter(&rows[i].r), ERR_ARG, rows[i].words);
    expect(scratch_path(fx.dir, "tiny.gguf"), ERR_UNSUPPORTED, "expected adapter and lora");
    expect(scratch_path(fx.dir, "nothing"), ERR_NOTFOUND, "no such file");
}

/* A PEFT folder "peft" with one pair, of rank 2, for k of the first layer. */
static const char *make_peft(const char *config, const char *header, size_t n_floats)
{
    static const float zeros[4096];
    static char dir[80];
    (void)snprintf(dir, sizeof dir, "%s/peft", fx.dir);
    char text[4096];
    uint64_t n = strlen(header);
    (void)mkdir(dir, 0777);
    scratch_write(dir, "adapter_config.json", config, strlen(config));
    memcpy(text, &n, 8);
    memcpy(text + 8, header, n);
    struct buf b = {0};
    assert_int_equal(buf_put(&b, text, 8 + n) | buf_put(&b, zeros, n_floats * sizeof(float)), 0);
    scratch_write(dir, "adapter_model.safetensors", b.p, b.n);
    buf_fini(&b);
    return dir;
}

#define K_PROJ "\"base_model.model.model.layers.0.self_attn.k_proj."
#define PAIR                                                                                           \
    "{" K_PROJ "lora_A.weight\":{\"dtype\":\"F32\",\"shape\":[2,64],\"data_offsets\":[0,512]}," K_PROJ \
    "lora_B.weight\":{\"dtype\":\"F32\",\"shape\":[32,2],\"data_offsets\":[512,768]}}"
#define CONFIG(more) "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4" more "}"

static void peft_says_what_it_wants(void **state)
{
    static const struct {
        const char *config, *header;
        size_t n_floats;
        int rc;
        const char *words;
    } rows[] = {
        {CONFIG(""), PAIR, 192, 0, ""},
        {CONFIG(",\"use_dora\":false,\"bias\":\"none\",\"modules_to_save\":null,\"loftq_config\":{}"), PAIR, 192, 0, ""},
        {CONFIG(",\"init_lora_weights\":\"gaussian\""), PAIR, 192, 0, ""},
        {CONFIG(",\"alpha_pattern\":{\"k_proj\":8}"), PAIR, 192, 0, ""},
        {CONFIG(",\"use_dora\":true"), PAIR, 192, ERR_UNSUPPORTED, "use_dora"},
        {CONFIG(",\"lora_bias\":true"), PAIR, 192, ERR_UNSUPPORTED, "lora_bias"},
        {CONFIG(",\"bias\":\"all\""), PAIR, 192, ERR_UNSUPPORTED, "bias \"all\""},
        {CONFIG(",\"modules_to_save\":[\"lm_head\"]"), PAIR, 192, ERR_UNSUPPORTED, "modules_to_save"},
        {CONFIG(",\"layer_replication\":[[0,2]]"), PAIR, 192, ERR_UNSUPPORTED, "layer_replication"},
        {CONFIG(",\"init_lora_weights\":\"pissa\""), PAIR, 192, ERR_UNSUPPORTED, "pissa"},
        {CONFIG(",\"alpha_pattern\":{\".*k_proj\":8}"), PAIR, 192, ERR_UNSUPPORTED, "alpha_pattern"},
        {CONFIG(",\"alpha_pattern\":{\"k_proj\":\"8\"}"), PAIR, 192, ERR_FORMAT, "alpha_pattern"},
        {"{\"peft_type\":\"LOHA\",\"lora_alpha\":4}", PAIR, 192, ERR_UNSUPPORTED, "LOHA"},
        {"{\"peft_type\":\"LORA\"}", PAIR, 192, ERR_FORMAT, "lora_alpha"},
        {"{\"peft_type\":\"LORA\",\"lora_alpha\":\"x\"}", PAIR, 192, ERR_FORMAT, "lora_alpha"},
        {"[]", PAIR, 192, ERR_FORMAT, "not a JSON object"},
        {CONFIG(""), "{" K_PROJ "lora_A.weight\":{\"dtype\":\"F32\",\"shape\":[2,64],\"data_offsets\":[0,512]}}", 128,
         ERR_FORMAT, "has an A but no B"},
        {CONFIG(""), "{" K_PROJ "lora_B.weight\":{\"dtype\":\"F32\",\"shape\":[32,2],\"data_offsets\":[0,256]}}", 64,
         ERR_FORMAT, "expected as many of both"},
        {CONFIG(""), "{}", 0, ERR_FORMAT, "expected as many of both"},
        {CONFIG(""),
         "{" K_PROJ "lora_A.weight\":{\"dtype\":\"F32\",\"shape\":[2,64],\"data_offsets\":[0,512]}," K_PROJ
         "lora_B.weight\":{\"dtype\":\"F32\",\"shape\":[32,3],\"data_offsets\":[512,896]}}",
         224, ERR_FORMAT, "rank x columns"},
        {CONFIG(""), "{" K_PROJ "lora_magnitude_vector\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 2,
         ERR_UNSUPPORTED, "lora_magnitude_vector"},
        {CONFIG(""),
         "{\"base_model.model.model.layers.7.self_attn.k_proj.lora_A.weight\":{\"dtype\":\"F32\",\"shape\":[2,64],"
         "\"data_offsets\":[0,512]},\"base_model.model.model.layers.7.self_attn.k_proj.lora_B.weight\":{\"dtype\":\"F32\","
         "\"shape\":[32,2],\"data_offsets\":[512,768]}}",
         192, ERR_ARG, "layers.7"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        expect(make_peft(rows[i].config, rows[i].header, rows[i].n_floats), rows[i].rc, rows[i].words);
}

static void running_out_of_memory_is_an_error(void **state)
{
    const char *path = scratch_path(fx.dir, "c.gguf");
    (void)state;
    for (size_t at = 1;; at++) {
        struct scratch_nth nth = {.kind = FAULT_ALLOC, .at = at};
        struct adapter *x = NULL;
        struct err e = {0};
        fault_set(scratch_fail_nth, &nth);
        int rc = adapter_open(path, &x, &e);
        if (rc == 0) rc = adapter_bind(x, fx.model, &e);
        fault_set(NULL, NULL);
        adapter_close(&x);
        if (nth.seen < at) {
            assert_int_equal(rc, 0);
            break;
        }
        assert_int_equal(rc, ERR_NOMEM);
    }
}

/* Bytes of both kinds of files changed, and files cut: an error with a message, or an adapter that can be used. */
static void damaged_files_do_no_harm(void **state)
{
    struct arena a = {0};
    struct err e = {0};
    struct str gguf, weights;
    char dir[80];
    (void)state;
    (void)snprintf(dir, sizeof dir, "%s", make_peft(CONFIG(""), PAIR, 192));
    assert_int_equal(vfs_read(scratch_path(fx.dir, "a.gguf"), 1 << 20, &a, &gguf, &e), 0);
    assert_int_equal(vfs_read(scratch_path(dir, "adapter_model.safetensors"), 1 << 20, &a, &weights, &e), 0);
    for (size_t i = 0; i < 1500; i++) {
        const bool peft = i % 2;
        const struct str from = peft ? weights : gguf;
        const size_t head = size_min(from.n, 2600), n = below(4) ? from.n : below((uint32_t)head);
        char *bytes = scratch_exact(from.p, from.n);
        struct adapter *x = NULL;
        for (size_t k = below(4); k > 0; k--) bytes[below((uint32_t)head)] = (char)below(256);
        scratch_write(peft ? dir : fx.dir, peft ? "adapter_model.safetensors" : "damaged.gguf", bytes, n);
        free(bytes);
        e = (struct err){0};
        int rc = adapter_open(peft ? dir : scratch_path(fx.dir, "damaged.gguf"), &x, &e);
        if (rc == 0) rc = adapter_bind(x, fx.model, &e);
        if (rc < 0) assert_true(e.code == rc && e.msg[0]);
        adapter_close(&x);
    }
    arena_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_way_gives_the_same_bytes),
        cmocka_unit_test(other_scales_forget_the_tokens),
        cmocka_unit_test(requests_of_different_adapters_share_batches),
        cmocka_unit_test(pages_are_of_one_use_of_adapters),
        cmocka_unit_test(scales_are_numbers),
        cmocka_unit_test(adapters_of_other_models_are_refused),
        cmocka_unit_test(peft_says_what_it_wants),
        cmocka_unit_test(running_out_of_memory_is_an_error),
        cmocka_unit_test(damaged_files_do_no_harm),
    };
    return cmocka_run_group_tests_name("lora", tests, setup, teardown);
}
