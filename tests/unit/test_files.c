/* files: models of every kind on disk, made here: GGUF whole and split, folders whole and sharded, and what is none of them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include "format/format.h"
#include "scratch.h"

#include <cmocka.h>

static char dir[64];

static int make_dir(void **state)
{
    (void)state;
    scratch_make(dir);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    scratch_remove(dir);
    return 0;
}

static void write_text(const char *name, const char *text)
{
    scratch_write(dir, name, text, strlen(text));
}

/* One tensor of four F32, 0 1 2 3. */
static void write_weights(const char *file, const char *tensor)
{
    struct buf b = {0};
    const float x[] = {0, 1, 2, 3};
    buf_printf(&b, "########{\"%s\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}", tensor);
    uint64_t n = b.n - 8;
    memcpy(b.p, &n, 8);
    buf_put(&b, x, sizeof x);
    scratch_write(dir, file, b.p, b.n);
    buf_fini(&b);
}

static void opens(const char *path, size_t n_tensors, struct files **out)
{
    struct err e = {0};
    if (files_open(path, out, &e) < 0) fail_msg("%s", e.msg);
    assert_int_equal(files_n_tensors(*out), n_tensors);
    assert_string_equal(files_path(*out), path);
}

static void opens_and_closes(const char *path, size_t n_tensors)
{
    struct files *f;
    opens(path, n_tensors, &f);
    files_close(&f);
    assert_null(f);
}

static void refused(const char *path, const char *words)
{
    struct files *f;
    struct err e = {0};
    size_t before = mem_stats().current;
    assert_true(files_open(path, &f, &e) < 0);
    assert_null(f);
    assert_int_equal(mem_stats().current, before);
    if (!strstr(e.msg, words)) fail_msg("\"%s\" is not in \"%s\"", words, e.msg);
}

/* ---- folders -------------------------------------------------------------------------------------------------- */

static void folder_with_everything(void **state)
{
    (void)state;
    write_text("config.json", "{\"model_type\":\"llama\"}");
    write_text("tokenizer.json", "{\"version\":\"1.0\"}");
    write_text("tokenizer_config.json", "{\"bos_token\":\"<s>\",\"chat_template\":\"from config\"}");
    write_text("generation_config.json", "{\"temperature\":0.7}");
    write_text("special_tokens_map.json", "{\"eos_token\":\"</s>\"}");
    write_weights("model.safetensors", "w");
    struct files *f;
    opens(dir, 1, &f);
    assert_int_equal(files_kind(f), FILES_HF);
    assert_null(files_gguf(f));
    const struct hf *hf = files_hf(f);
    struct str s;
    double t;
    assert_true(json_opt_str(hf->config, "model_type", &s) && str_is(s, "llama"));
    assert_true(json_opt_f64(hf->generation_config, "temperature", 0, 2, &t) && t == 0.7);
    assert_true(json_opt_str(hf->special_tokens, "eos_token", &s) && str_is(s, "</s>"));
    assert_true(str_is(hf->tokenizer, "{\"version\":\"1.0\"}"));
    assert_true(str_is(hf->chat_template, "from config"));
    const struct tensor *w = files_find(f, STR("w"));
    assert_true(w == files_tensor(f, 0) && w->ne[0] == 2 && w->ne[1] == 2);
    assert_null(files_find(f, STR("v")));
    assert_null(files_tensor(f, 1));
    assert_int_equal(files_bytes(f), 16);
    files_close(&f);
    files_close(&f);
}

static void template_where_it_may_lie(void **state)
{
    (void)state;
    struct files *f;
    write_text("tokenizer_config.json", "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"no\"},"
                                        "{\"name\":\"default\",\"template\":\"yes\"}]}");
    opens(dir, 1, &f);
    assert_true(str_is(files_hf(f)->chat_template, "yes"));
    files_close(&f);
    write_text("chat_template.json", "{\"chat_template\":\"own file\"}");
    opens(dir, 1, &f);
    assert_true(str_is(files_hf(f)->chat_template, "own file"));
    files_close(&f);
    write_text("chat_template.jinja", "jinja file\n");
    opens(dir, 1, &f);
    assert_true(str_is(files_hf(f)->chat_template, "jinja file\n"));
    files_close(&f);
    remove(scratch_path(dir, "chat_template.jinja"));
    remove(scratch_path(dir, "chat_template.json"));
}

static void only_config_is_required(void **state)
{
    (void)state;
    const char *names[] = {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json"};
    for (size_t i = 0; i < COUNT_OF(names); i++) remove(scratch_path(dir, names[i]));
    struct files *f;
    opens(dir, 1, &f);
    const struct hf *hf = files_hf(f);
    assert_true(hf->config && !hf->tokenizer_config && !hf->generation_config && !hf->special_tokens);
    assert_true(hf->tokenizer.n == 0 && hf->chat_template.n == 0);
    files_close(&f);
    write_text("config.json", "[1]");
    refused(dir, "config.json: not a JSON object");
    write_text("config.json", "{\"a\":");
    refused(dir, "config.json");
    remove(scratch_path(dir, "config.json"));
    refused(dir, "a folder without config.json");
    write_text("config.json", "{}");
}

#define INDEX "model.safetensors.index.json"

static void sharded_with_index(void **state)
{
    (void)state;
    remove(scratch_path(dir, "model.safetensors"));
    write_weights("model-00001-of-00002.safetensors", "a");
    /* Without an index the second file is missed by its number. */
    refused(dir, "model-00002-of-00002.safetensors is missing");
    write_weights("model-00002-of-00002.safetensors", "b");
    opens_and_closes(dir, 2);

    write_text(INDEX, "{\"metadata\":{\"total_size\":32},\"weight_map\":{\"b\":\"model-00002-of-00002.safetensors\","
                      "\"a\":\"model-00001-of-00002.safetensors\"}}");
    struct files *f;
    opens(dir, 2, &f);
    assert_true(str_is(files_tensor(f, 0)->name, "a") && str_is(files_tensor(f, 1)->name, "b"));
    files_close(&f);

    const struct {
        const char *index, *words;
    } bad[] = {
        {"{\"weight_map\":{\"a\":\"model-00002-of-00002.safetensors\"}}", "none of the files"},
        {"{\"weight_map\":{\"a\":\"model-00002-of-00002.safetensors\",\"b\":\"model-00001-of-00002.safetensors\"}}",
         "\"a\" is said to be in model-00002-of-00002.safetensors, but is in model-00001-of-00002.safetensors"},
        {"{\"weight_map\":{\"c\":\"model-00001-of-00002.safetensors\"}}", "\"c\" is said to be in"},
        {"{\"weight_map\":{\"a\":\"model-00003-of-00003.safetensors\"}}", "model-00003-of-00003.safetensors is missing"},
        {"{\"weight_map\":{\"a\":\"../model.safetensors\"}}", "expected the plain name"},
        {"{\"weight_map\":{\"a\":\"/etc/x.safetensors\"}}", "expected the plain name"},
        {"{\"weight_map\":{\"a\":\"..\\\\x.safetensors\"}}", "expected the plain name"},
        {"{\"weight_map\":{\"a\":\"\\u002e\\u002e\\u002fx.safetensors\"}}", "expected the plain name"},
        {"{\"weight_map\":{\"a\":\".hidden.safetensors\"}}", "expected the plain name"},
        {"{\"weight_map\":{\"a\":\"x\\u0000.safetensors\"}}", "expected the plain name"},
        {"{\"weight_map\":{\"a\":\"model.bin\"}}", "expected the plain name"},
        {"{\"weight_map\":{\"a\":\"\"}}", "expected the plain name"},
        {"{\"weight_map\":{\"a\":7}}", "expected an object with a weight_map"},
        {"{\"weight_map\":{}}", "weight_map is empty"},
        {"{\"weight_map\":[]}", "expected an object with a weight_map"},
        {"{\"metadata\":{}}", "expected an object with a weight_map"},
        {"[]", "expected an object with a weight_map"},
        {"{\"weight_map\":{\"a\":", INDEX},
        {"", INDEX},
    };
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        write_text(INDEX, bad[i].index);
        refused(dir, bad[i].words);
    }

    write_weights("model-00002-of-00002.safetensors", "a");
    write_text(INDEX,
               "{\"weight_map\":{\"a\":\"model-00002-of-00002.safetensors\",\"b\":\"model-00001-of-00002.safetensors\"}}");
    refused(dir, "\"a\" is in another file, too");
    remove(scratch_path(dir, INDEX));
    remove(scratch_path(dir, "model-00001-of-00002.safetensors"));
    remove(scratch_path(dir, "model-00002-of-00002.safetensors"));
}

static void what_is_no_model(void **state)
{
    (void)state;
    refused(dir, "no model.safetensors");
    write_text("pytorch_model.bin", "PK\003\004....");
    refused(dir, "has pytorch_model.bin (a PyTorch checkpoint)");
    refused(scratch_path(dir, "pytorch_model.bin"), "this is a ZIP archive");
    remove(scratch_path(dir, "pytorch_model.bin"));
    refused(scratch_path(dir, "nothing.gguf"), "no such file or folder");
    refused("", "no such file or folder");
    write_text("empty.gguf", "");
    refused(scratch_path(dir, "empty.gguf"), "an empty file");
    write_text("lfs.gguf", "version https://git-lfs.github.com/spec/v1\n");
    refused(scratch_path(dir, "lfs.gguf"), "Git LFS pointer");
    write_weights("lone.safetensors", "a");
    refused(scratch_path(dir, "lone.safetensors"), "a single safetensors file");
    refused(scratch_path(dir, "config.json"), "a JSON text");
    write_text("short.gguf", "GGUF");
    refused(scratch_path(dir, "short.gguf"), "ends in its header");
    write_text("model.safetensors", "version https://git-lfs.github.com/spec/v1\n");
    refused(dir, "Git LFS pointer");
    remove(scratch_path(dir, "model.safetensors"));
    refused("/dev/null", "/dev/null");
}

/* ---- GGUF ----------------------------------------------------------------------------------------------------- */

static int write_part(const char *name, const char *tensor, unsigned no, unsigned count, int total)
{
    struct gguf_writer *w;
    const float x[] = {0, 1, 2, 3};
    const uint64_t ne[] = {2, 2};
    struct err e = {0};
    TRY(gguf_writer_new(scratch_path(dir, name), &w, &e));
    if (no == 0) gguf_put_str(w, "general.architecture", STR("llama"));
    gguf_put_kv(w, &(struct gguf_kv){.key = STR("split.no"), .type = GGUF_U16, .v.u = no});
    gguf_put_kv(w, &(struct gguf_kv){.key = STR("split.count"), .type = GGUF_U16, .v.u = count});
    gguf_put_i32(w, "split.tensors.count", total);
    int rc = gguf_add_tensor(w, str_of(tensor), QTYPE_F32, 2, ne, &e);
    if (rc == 0) rc = gguf_write_begin(w, &e);
    if (rc == 0) rc = gguf_write_data(w, x, sizeof x, &e);
    if (rc == 0) rc = gguf_write_end(w, &e);
    gguf_writer_free(&w);
    return rc;
}

static void split_gguf(void **state)
{
    (void)state;
    const char *names[] = {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"};
    const char *tensors[] = {"a", "b", "c"};
    for (unsigned i = 0; i < 3; i++) assert_int_equal(write_part(names[i], tensors[i], i, 3, 3), 0);
    for (unsigned i = 0; i < 3; i++) {
        struct files *f;
        struct str s;
        opens(scratch_path(dir, names[i]), 3, &f);
        assert_int_equal(files_kind(f), FILES_GGUF);
        assert_null(files_hf(f));
        assert_true(gguf_get_str(files_gguf(f), "general.architecture", &s) && str_is(s, "llama"));
        for (unsigned k = 0; k < 3; k++) {
            assert_true(str_is(files_tensor(f, k)->name, tensors[k]));
            assert_ptr_equal(files_find(f, str_of(tensors[k])), files_tensor(f, k));
        }
        assert_int_equal(files_bytes(f), 48);
        files_close(&f);
    }
    assert_int_equal(write_part(names[1], "a", 1, 3, 3), 0);
    refused(scratch_path(dir, names[0]), "\"a\" is in another file, too");
    assert_int_equal(write_part(names[1], "b", 2, 3, 3), 0);
    refused(scratch_path(dir, names[0]), "says it is part 3 of 3, expected part 2 of 3");
    refused(scratch_path(dir, names[1]), "its name must end in -00003-of-00003.gguf");
    assert_int_equal(write_part(names[1], "b", 1, 4, 3), 0);
    refused(scratch_path(dir, names[2]), "says it is part 2 of 4");
    assert_int_equal(write_part(names[1], "b", 3, 3, 3), 0);
    refused(scratch_path(dir, names[1]), "don't say which part");
    assert_int_equal(write_part(names[1], "b", 0, 0, 3), 0);
    refused(scratch_path(dir, names[1]), "don't say which part");
    assert_int_equal(write_part(names[1], "b", 1, 3, 3), 0);
    assert_int_equal(write_part(names[0], "a", 0, 3, 4), 0);
    refused(scratch_path(dir, names[2]), "hold 3 tensors, expected 4");
    assert_int_equal(write_part(names[0], "a", 0, 3, 3), 0);
    opens_and_closes(scratch_path(dir, names[1]), 3);
    remove(scratch_path(dir, names[1]));
    refused(scratch_path(dir, names[2]), "m-00002-of-00003.gguf is missing");
    assert_int_equal(write_part("alone.gguf", "a", 0, 3, 3), 0);
    refused(scratch_path(dir, "alone.gguf"), "its name must end in -00001-of-00003.gguf");
    assert_int_equal(write_part("whole.gguf", "a", 0, 1, 1), 0);
    opens_and_closes(scratch_path(dir, "whole.gguf"), 1);
}

/* ---- faults ----------------------------------------------------------------------------------------------------- */

static void sweep(const char *path, enum fault_kind kind)
{
    struct scratch_nth nth = {.kind = kind};
    size_t before = mem_stats().current;
    for (nth.at = 1;; nth.at++) {
        struct files *f;
        struct err e = {0};
        nth.seen = 0;
        fault_set(scratch_fail_nth, &nth);
        int rc = files_open(path, &f, &e);
        fault_set(NULL, NULL);
        bool done = nth.seen < nth.at;
        if (done) assert_int_equal(rc, 0);
        if (rc < 0) assert_true(f == NULL && e.msg[0] != 0);
        files_close(&f);
        assert_int_equal(mem_stats().current, before);
        if (done) break;
    }
    assert_true(nth.at > 4);
}

static void faults_while_opening(void **state)
{
    (void)state;
    write_text("config.json", "{\"a\":[1,2]}");
    write_text("tokenizer.json", "{}");
    write_text("tokenizer_config.json", "{\"chat_template\":\"x\"}");
    write_weights("model-00001-of-00002.safetensors", "a");
    write_weights("model-00002-of-00002.safetensors", "b\\u00e9");
    write_text(INDEX, "{\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\","
                      "\"b\\u00e9\":\"model-00002-of-00002.safetensors\"}}");
    sweep(dir, FAULT_ALLOC);
    sweep(dir, FAULT_IO);
    assert_int_equal(write_part("m-00002-of-00003.gguf", "b", 1, 3, 3), 0);
    char path[128];
    snprintf(path, sizeof path, "%s", scratch_path(dir, "m-00002-of-00003.gguf"));
    sweep(path, FAULT_ALLOC);
    sweep(path, FAULT_IO);
}

static void demo_model(void **state)
{
    (void)state;
    const char *path = scratch_shared("demo-model/main");
    if (!path) skip();
    struct files *f;
    struct err e = {0};
    size_t before = mem_stats().current;
    mem_peak_reset();
    if (files_open(path, &f, &e) < 0) fail_msg("%s", e.msg);
    assert_true(mem_stats().peak - before < (1u << 20)); /* of 67 MB on disk */
    assert_int_equal(files_n_tensors(f), 8 * 9 + 2);
    const struct tensor *t = files_find(f, STR("model.layers.7.mlp.down_proj.weight"));
    assert_true(t && t->type == QTYPE_BF16 && t->ne[0] == 1536 && t->ne[1] == 512);
    assert_true(files_hf(f)->tokenizer.n > 1000000 && files_hf(f)->chat_template.n > 100);
    files_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(folder_with_everything),  cmocka_unit_test(template_where_it_may_lie),
        cmocka_unit_test(only_config_is_required), cmocka_unit_test(sharded_with_index),
        cmocka_unit_test(what_is_no_model),        cmocka_unit_test(split_gguf),
        cmocka_unit_test(faults_while_opening),    cmocka_unit_test(demo_model),
    };
    return cmocka_run_group_tests_name("files", tests, make_dir, remove_dir);
}
