/* Random weights: every type that files have gets valid blocks of the right spread, the bytes are the same everywhere, and a
 * model of any type or mix opens and computes finite logits. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <math.h>

#include "convert/synth.h"
#include "run/run.h"
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

/* FNV-1a */
static uint64_t hash_of(const uint8_t *p, size_t n)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    return h;
}

#define WEIGHTS ((size_t)64 * 1024)

static void spread_is_as_asked(void **state)
{
    static uint8_t blocks[WEIGHTS * sizeof(float)];
    static float w[WEIGHTS];
    (void)state;
    for (enum qtype t = 0; t < QTYPE_COUNT; t++) {
        if (qtypes[t].ggml_id == NO_GGML) continue;
        uint64_t rng = 88172645463325252u;
        double sum = 0, squares = 0;
        qtype_noise(t, &rng, 0.02f, blocks, WEIGHTS / qtypes[t].block_n);
        qtype_to_float(t, blocks, w, WEIGHTS);
        for (size_t i = 0; i < WEIGHTS; i++) {
            sum += (double)w[i];
            squares += (double)w[i] * (double)w[i];
        }
        double rms = sqrt(squares / WEIGHTS);
        /* Levels of a type need not lie evenly around 0: a pair of bits of tq2_0 is -1 to 2. */
        if (!(fabs(sum / WEIGHTS) < 0.5 * rms && rms > 0.0095 && rms < 0.022))
            fail_msg("%s: mean %g, rms %g", qtypes[t].name, sum / WEIGHTS, rms);
    }
}

static void bytes_are_the_same_everywhere(void **state)
{
    static const struct {
        enum qtype type;
        uint64_t hash;
    } rows[] = {{QTYPE_F16, UINT64_C(0xfbd8e84b90c4087)},
                {QTYPE_Q8_0, UINT64_C(0x6b76a20c2a9a7a25)},
                {QTYPE_Q4_K, UINT64_C(0x9b705d1e4511c30a)},
                {QTYPE_MXFP4, UINT64_C(0x83092967a40a0f43)}};
    static uint8_t blocks[WEIGHTS * sizeof(float)];
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        const struct qtype_info *info = &qtypes[rows[i].type];
        const size_t n = WEIGHTS / info->block_n;
        uint64_t rng = 88172645463325252u;
        qtype_noise(rows[i].type, &rng, 0.02f, blocks, n);
        uint64_t hash = hash_of(blocks, n * info->block_bytes);
        if (hash != rows[i].hash) fail_msg("%s: 0x%llx; raise SYNTH_VERSION", info->name, (unsigned long long)hash);
    }
}

static const struct synth_shape small = {"small", "llama", 9, 256, 512, 4, 2, 64, 300, 1024, 10000, true, .traits = S_DENSE};

static const char *write_model(const char *type)
{
    struct err e;
    const char *path = scratch_path(dir, type);
    if (synth_write(&small, type, path, NULL, NULL, &e) < 0) fail_msg("%s: %s", type, e.msg);
    return path;
}

static void computes(const char *path, const char *what)
{
    static const int32_t ids[] = {1, 2, 3, 299};
    struct err e;
    struct files *f = NULL;
    struct model *m = NULL;
    struct session *s = NULL;
    const struct session_options o = {.n_ctx = 8, .n_batch = 8, .n_threads = 1, .k_type = QTYPE_F16, .v_type = QTYPE_F16};
    if (files_open(path, &f, &e) < 0 || model_open(f, &m, &e) < 0 || session_new(m, &o, &s, &e) < 0 ||
        session_eval(s, ids, COUNT_OF(ids), NULL, NULL, &e) < 0)
        fail_msg("%s: %s", what, e.msg);
    double squares = 0;
    for (size_t i = 0; i < small.n_vocab; i++) squares += (double)session_logits(s)[i] * (double)session_logits(s)[i];
    double rms = sqrt(squares / small.n_vocab);
    if (!(rms > 0.1 && rms < 10)) fail_msg("%s: logits of rms %g", what, rms);
    session_free(&s);
    model_close(&m);
    files_close(&f);
}

static void models_compute(void **state)
{
    (void)state;
    for (unsigned t = 0; t <= QTYPE_COUNT; t++) {
        const char *type = t < QTYPE_COUNT ? qtypes[t].name : "q4_k_m";
        if (t < QTYPE_COUNT && qtypes[t].ggml_id == NO_GGML) continue;
        computes(write_model(type), type);
    }
}

static void models_with_experts_compute(void **state)
{
    static const struct synth_shape shapes[] = {
        {"a", "llama", 2, 256, 512, 4, 2, 64, 300, 1024, 10000, true, 4, 2, 512, .traits = S_EXPERTS},
        {"b", "qwen3moe", 2, 256, 512, 4, 2, 64, 300, 1024, 10000, true, 16, 3, 256, .traits = S_EXPERTS | S_QK_NORM},
        {"c", "gpt-oss", 2, 256, 512, 4, 2, 64, 300, 1024, 10000, true, 8, 4, 256, .window = 16,
         .traits = S_EXPERTS | S_BIASES | S_LATE_NORM},
        {"rows", "gpt-oss", 2, 288, 512, 4, 2, 64, 300, 1024, 10000, false, 8, 4, 256, .window = 16,
         .traits = S_EXPERTS | S_BIASES | S_LATE_NORM}, /* no whole superblocks */
        {"d", "llama4", 4, 256, 512, 4, 2, 64, 300, 1024, 10000, true, 4, 1, 256, 512, .traits = S_EXPERTS | S_SHARED},
    };
    static const char *const types[] = {"bf16", "q8_0", "q4_k_m", "mxfp4"};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(shapes); i++)
        for (size_t t = 0; t < COUNT_OF(types); t++) {
            struct err e;
            const char *path = scratch_path(dir, "experts");
            if (synth_write(&shapes[i], types[t], path, NULL, NULL, &e) < 0) fail_msg("%s: %s", shapes[i].arch, e.msg);
            computes(path, shapes[i].arch);
        }
}

static enum qtype type_of(const struct files *f, const char *name)
{
    const struct tensor *t = files_find(f, str_of(name));
    assert_non_null(t);
    return t->type;
}

/* The careful layers of nine: the first eighth (1), from 7/8 on (7, 8), and each third from 1 on (3, 6). */
static void mixes_give_the_right_tensors_more(void **state)
{
    (void)state;
    struct files *f;
    struct err e;
    assert_int_equal(files_open(write_model("q4_k_m"), &f, &e), 0);
    assert_int_equal(type_of(f, "token_embd.weight"), QTYPE_Q6_K); /* tied */
    for (unsigned l = 0; l < small.n_layers; l++) {
        const enum qtype want = strchr("03678", '0' + (int)l) ? QTYPE_Q6_K : QTYPE_Q4_K;
        char name[40];
        snprintf(name, sizeof name, "blk.%u.attn_v.weight", l);
        assert_int_equal(type_of(f, name), want);
        snprintf(name, sizeof name, "blk.%u.ffn_down.weight", l);
        assert_int_equal(type_of(f, name), want);
        snprintf(name, sizeof name, "blk.%u.attn_q.weight", l);
        assert_int_equal(type_of(f, name), QTYPE_Q4_K);
    }
    files_close(&f);
}

static void the_same_file_twice(void **state)
{
    (void)state;
    struct map a, b;
    struct err e;
    assert_int_equal(vfs_map(write_model("q5_k"), &a, &e), 0);
    assert_int_equal(synth_write(&small, "q5_k", scratch_path(dir, "again"), NULL, NULL, &e), 0);
    assert_int_equal(vfs_map(scratch_path(dir, "again"), &b, &e), 0);
    assert_int_equal(a.n, b.n);
    assert_memory_equal(a.p, b.p, a.n);
    vfs_unmap(&a);
    vfs_unmap(&b);
}

static void refuses(void **state)
{
    (void)state;
    struct err e = {0};
    assert_int_equal(synth_write(&small, "q9", scratch_path(dir, "none"), NULL, NULL, &e), ERR_ARG);
    assert_false(vfs_exists(scratch_path(dir, "none")));
    assert_null(synth_shape_find("llama-9", &e));
    assert_int_equal(e.code, ERR_NOTFOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spread_is_as_asked),
        cmocka_unit_test(bytes_are_the_same_everywhere),
        cmocka_unit_test(models_with_experts_compute),
        cmocka_unit_test(models_compute),
        cmocka_unit_test(mixes_give_the_right_tensors_more),
        cmocka_unit_test(the_same_file_twice),
        cmocka_unit_test(refuses),
    };
    return cmocka_run_group_tests_name("synth", tests, make_dir, remove_dir);
}
