/* hostile: damaged model files, whole: every kind of input file truncated 1,000 times and with 10,000 bytes changed, one at a
 * time, then opened, tokenized with, and run for a step. Each must give one clear error or work; memory must stay in proportion
 * to the file. Meant for the sanitizer build; in slow builds (QUERN_TEST_SLOW) a tenth of the cases runs. */
#include "convert/synth.h"
#include "format/format.h"
#include "quern.h"
#include "llama_names.h"
#include "scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>

static const struct synth_shape tiny = {"tiny", "llama", 1, 32, 32, 2, 1, 16, 300, 256, 10000, true, .traits = S_DENSE};

static char dir[64], gguf_path[128], folder[128];

/* ---- a folder with the weights of the GGUF file ------------------------------------------------------------- */

static void must(bool ok, const char *what)
{
    if (ok) return;
    perror(what);
    exit(1);
}

static void write_file(const char *path, const char *text, size_t n)
{
    FILE *f = fopen(path, "wb");
    must(f && fwrite(text, 1, n, f) == n && fclose(f) == 0, path);
}

static void write_safetensors(const char *path, const struct files *src)
{
    struct buf head = {0}, data = {0};
    size_t n = files_n_tensors(src);
    for (size_t i = 0; i < n; i++) {
        const struct tensor *t = files_tensor(src, i);
        struct buf name = {0};
        must(llama_hf_name(t->name, &name), "name");
        must(buf_printf(&head, "%s\"%.*s\":{\"dtype\":\"F32\",\"shape\":[", i ? "," : "{", (int)name.n, name.p) == 0, "memory");
        for (uint32_t d = t->n_dims; d-- > 0;)
            must(buf_printf(&head, "%llu%s", (unsigned long long)t->ne[d], d ? "," : "") == 0, "memory");
        must(buf_printf(&head, "],\"data_offsets\":[%zu,%zu]}", data.n, data.n + (size_t)t->bytes) == 0, "memory");
        must(buf_put(&data, t->data, (size_t)t->bytes) == 0, "memory");
        buf_fini(&name);
    }
    must(buf_c(&head, '}') == 0, "memory");
    while (head.n % 8) must(buf_c(&head, ' ') == 0, "memory");
    uint64_t size = head.n;
    FILE *f = fopen(path, "wb");
    must(f && fwrite(&size, 8, 1, f) == 1 && fwrite(head.p, 1, head.n, f) == head.n && fwrite(data.p, 1, data.n, f) == data.n &&
             fclose(f) == 0,
         path);
    buf_fini(&head);
    buf_fini(&data);
}

/* The byte-level vocabulary of the synthetic model as a tokenizer.json. */
static void write_tokenizer(const char *path, const struct gguf *g)
{
    struct buf b = {0};
    struct reader r;
    const struct gguf_kv *kv = gguf_find(g, "tokenizer.ggml.tokens");
    must(kv && gguf_strs(kv, &r), "tokens");
    must(buf_z(&b, "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":299,\"content\":\"</"
                   "s>\",\"special\":true,\"lstrip\":false,\"rstrip\":false,"
                   "\"single_word\":false,\"normalized\":false}],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\","
                   "\"add_prefix_space\":false,\"use_regex\":true},\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\"}"
                   ",\"model\":{"
                   "\"type\":\"BPE\",\"vocab\":{") == 0,
         "memory");
    for (uint64_t i = 0; i < 299; i++) {
        must((i == 0 || buf_c(&b, ',') == 0) && json_write_string(&b, gguf_next_str(&r)) == 0, "memory");
        must(buf_printf(&b, ":%llu", (unsigned long long)i) == 0, "memory");
    }
    must(buf_z(&b, "},\"merges\":[\"t h\"]}}") == 0, "memory");
    write_file(path, b.p, b.n);
    buf_fini(&b);
}

static const char config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":32,\"intermediate_size\":32,\"num_hidden_layers\":1,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":16,\"vocab_size\":300,\"rms_norm_eps\":1e-5,"
    "\"max_position_embeddings\":256,\"tie_word_embeddings\":true,\"rope_theta\":10000.0,\"rope_scaling\":"
    "{\"rope_type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":64}}";
static const char tokenizer_config[] =
    "{\"eos_token\":{\"content\":\"</s>\"},\"add_bos_token\":false,\"chat_template\":\"{% for m in messages %}"
    "{{ m['role'] + ': ' + m.content | trim }}\\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}\"}";
static const char generation_config[] =
    "{\"eos_token_id\":[299,298],\"temperature\":0.7,\"top_k\":20,\"top_p\":0.9,\"do_sample\":true}";

static int setup(void **state)
{
    struct err e;
    struct files *f;
    (void)state;
    scratch_make(dir);
    snprintf(gguf_path, sizeof gguf_path, "%s/tiny.gguf", dir);
    snprintf(folder, sizeof folder, "%s/hf", dir);
    must(mkdir(folder, 0700) == 0, folder);
    must(synth_write(&tiny, "f32", gguf_path, NULL, NULL, &e) == 0 && files_open(gguf_path, &f, &e) == 0, "tiny.gguf");
    write_safetensors(scratch_path(folder, "model.safetensors"), f);
    write_tokenizer(scratch_path(folder, "tokenizer.json"), files_gguf(f));
    write_file(scratch_path(folder, "config.json"), config, sizeof config - 1);
    write_file(scratch_path(folder, "tokenizer_config.json"), tokenizer_config, sizeof tokenizer_config - 1);
    write_file(scratch_path(folder, "generation_config.json"), generation_config, sizeof generation_config - 1);
    files_close(&f);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    scratch_remove(dir);
    return 0;
}

/* ---- one case ------------------------------------------------------------------------------------------------- */

/* Uses the model as far as it goes. Returns whether all of it worked; fails the test where an error has no message. */
static bool use(const char *path, size_t file_bytes)
{
    quern_error e = {0};
    quern_model *m = NULL;
    quern_session *s = NULL;
    quern_tokens t = {0};
    quern_string text = {0};
    const quern_session_options so = {.n_ctx = 16, .n_batch = 16, .n_threads = 1, .cpu_level = "scalar"};
    mem_peak_reset();
    size_t before = mem_stats().current;
    int rc = quern_model_open(path, NULL, &m, &e);
    size_t peak = mem_stats().peak - before;
    /* 192 KiB: structs of fixed size and the buffers of a compiled pattern, which do not grow with the file. */
    if (peak > 4 * file_bytes + (192 << 10)) print_message("%zu bytes of memory for a file of %zu\n", peak, file_bytes);
    assert_true(peak <= 4 * file_bytes + (192 << 10));
    if (rc == 0) rc = quern_tokenize(m, "the mill 12 turns", 17, QUERN_ADD_SPECIAL, &t, &e);
    if (rc == 0) rc = quern_detokenize(m, t.ids, t.count, true, &text, &e);
    quern_string_free(&text);
    if (rc == 0) (void)quern_render(m, "[{\"role\":\"u\",\"content\":\"hi\"}]", NULL, &text, NULL);
    quern_string_free(&text);
    if (rc == 0) rc = quern_model_describe(m, &text, &e);
    if (rc == 0) rc = quern_session_new(m, &so, &s, &e);
    if (rc == 0) rc = quern_session_eval(s, t.ids, t.count < 3 ? t.count : 3, NULL, &e);
    quern_string_free(&text);
    quern_tokens_free(&t);
    quern_session_free(&s);
    quern_model_close(&m);
    assert_int_equal(mem_stats().current, before);
    if (rc < 0) assert_true(e.code == rc && e.message[0] && !strchr(e.message, '\n'));
    return rc == 0;
}

/* file is part of the model at path. n_interesting: bytes at its start that mean more than a weight. */
static void damage(const char *path, const char *file, size_t n_interesting)
{
    struct arena a = {0};
    struct str whole;
    struct err e;
    size_t worked = 0, refused = 0, scale = scratch_slow() ? 10 : 1;
    assert_int_equal(vfs_read(file, 1 << 24, &a, &whole, &e), 0);
    assert_true(use(path, whole.n));
    int fd = open(file, O_RDWR);
    assert_true(fd >= 0);

    srand(1);
    if (n_interesting > whole.n) n_interesting = whole.n;
    for (size_t i = 0; i < 10000 / scale; i++) {
        size_t span = i % 10 ? n_interesting : whole.n;
        size_t at = (((size_t)rand() << 15) ^ (size_t)rand()) % span;
        char damaged = (char)(i % 3 == 0   ? whole.p[at] ^ (char)(1 << rand() % 8)
                              : i % 3 == 1 ? (char)rand()
                                           : "\0\xff\"{}[],:0-9\x80"[rand() % 14]);
        assert_int_equal(pwrite(fd, &damaged, 1, (off_t)at), 1);
        *(use(path, whole.n) ? &worked : &refused) += 1;
        assert_int_equal(pwrite(fd, whole.p + at, 1, (off_t)at), 1);
    }
    assert_true(use(path, whole.n));
    assert_true(refused > 0 && worked > 0);

    for (size_t i = 1000 / scale; i-- > 0;) { /* from long to short: each cut goes deeper */
        size_t n = whole.n * i * scale / 1000;
        assert_int_equal(ftruncate(fd, (off_t)n), 0);
        (void)use(path, whole.n);
    }
    assert_int_equal(pwrite(fd, whole.p, whole.n, 0), (ssize_t)whole.n);
    assert_true(use(path, whole.n));
    print_message("# %s: %zu of the changed files work, %zu are refused\n", strrchr(file, '/') + 1, worked, refused);
    close(fd);
    arena_fini(&a);
}

static void gguf(void **state)
{
    (void)state;
    damage(gguf_path, gguf_path, 8000);
}

static void safetensors(void **state)
{
    (void)state;
    damage(folder, scratch_path(folder, "model.safetensors"), 1200);
}

static void tokenizer_json(void **state)
{
    (void)state;
    damage(folder, scratch_path(folder, "tokenizer.json"), SIZE_MAX);
}

static void config_json(void **state)
{
    (void)state;
    damage(folder, scratch_path(folder, "config.json"), SIZE_MAX);
}

static void tokenizer_config_json(void **state)
{
    (void)state;
    damage(folder, scratch_path(folder, "tokenizer_config.json"), SIZE_MAX);
}

static void generation_config_json(void **state)
{
    (void)state;
    damage(folder, scratch_path(folder, "generation_config.json"), SIZE_MAX);
}

static void impossible_sizes_are_refused(void **state)
{
    quern_error e = {0};
    quern_model *m;
    quern_session *s;
    (void)state;
    assert_int_equal(quern_model_open(gguf_path, NULL, &m, &e), 0);
    const quern_session_options wrong[] = {
        {.n_ctx = UINT32_MAX}, {.n_threads = 100000}, {.k_type = "q9"}, {.v_type = "q4_k"}, {.cpu_level = "none"}};
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        assert_int_equal(quern_session_new(m, &wrong[i], &s, &e), QUERN_ERR_ARG);
        assert_true(e.message[0]);
    }
    quern_model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(impossible_sizes_are_refused),
        cmocka_unit_test(gguf),
        cmocka_unit_test(safetensors),
        cmocka_unit_test(tokenizer_json),
        cmocka_unit_test(config_json),
        cmocka_unit_test(tokenizer_config_json),
        cmocka_unit_test(generation_config_json),
    };
    return cmocka_run_group_tests_name("hostile", tests, setup, teardown);
}
