/* session and generate: one small model, many ways to the same tokens. */
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

static struct fixture {
    char dir[64];
    struct files *files;
    struct model *model;
    struct tok *tok;
    struct sampler sampler;
} fx;

static int setup(void **state)
{
    struct err e;
    (void)state;
    scratch_make(fx.dir);
    const char *path = scratch_path(fx.dir, "tiny.gguf");
    if (synth_write(&tiny, "q8_0", path, NULL, NULL, &e) < 0 || files_open(path, &fx.files, &e) < 0 ||
        model_open(fx.files, &fx.model, &e) < 0 || tok_open_gguf(files_gguf(fx.files), &fx.tok, &e) < 0 ||
        sampler_init(&fx.sampler, scalar_kernels(), tiny.n_vocab, &e) < 0) {
        print_message("%s\n", e.msg);
        return -1;
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    sampler_fini(&fx.sampler);
    tok_close(&fx.tok);
    model_close(&fx.model);
    files_close(&fx.files);
    scratch_remove(fx.dir);
    return 0;
}

static struct session *session_with(uint32_t n_ctx, uint32_t n_batch, uint32_t n_threads, enum qtype k, enum qtype v)
{
    struct session_options o = {.n_ctx = n_ctx, .n_batch = n_batch, .n_threads = n_threads, .k_type = k, .v_type = v};
    struct session *s;
    struct err e;
    if (session_new(fx.model, &o, &s, &e) < 0) print_message("%s\n", e.msg);
    return s;
}

static struct session *session_of(uint32_t n_ctx, uint32_t n_batch, uint32_t n_threads, enum qtype kv)
{
    return session_with(n_ctx, n_batch, n_threads, kv, kv);
}

#define LONG 300 /* tokens: more than one attention chunk */
static void some_ids(int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)(i * 7919 % 300);
}

static void keep_row(void *ctx, size_t i, const float *logits)
{
    memcpy((float *)ctx + i * tiny.n_vocab, logits, tiny.n_vocab * sizeof *logits);
}

static void the_same_bytes_however_it_is_cut(void **state)
{
    static const uint32_t batches[] = {1, 7, 64, 512};
    static int32_t ids[LONG];
    static float want[LONG * 300], got[LONG * 300];
    struct err e;
    (void)state;
    some_ids(ids, LONG);
    static const enum qtype types[][2] = {
        {QTYPE_F32, QTYPE_F32}, {QTYPE_F16, QTYPE_F16}, {QTYPE_Q8_0, QTYPE_Q4_0}, {QTYPE_Q4_0, QTYPE_BF16}};
    for (size_t kv = 0; kv < COUNT_OF(types); kv++) {
        for (size_t b = 0; b < COUNT_OF(batches); b++) {
            for (uint32_t threads = 1; threads <= 3; threads++) {
                const bool first = b == 0 && threads == 1;
                /* In slow builds a third of the ways, with each batch, number of threads and pair of types among them. */
                if (scratch_slow() && !first && (kv + b + threads) % 3) continue;
                struct session *s = session_with(LONG, batches[b], threads, types[kv][0], types[kv][1]);
                memset(got, 0, sizeof got);
                assert_int_equal(session_eval(s, ids, 120, keep_row, got, &e), 0);
                assert_int_equal(session_eval(s, ids + 120, LONG - 120, keep_row, got + 120 * 300, &e), 0);
                if (first) memcpy(want, got, sizeof want);
                assert_memory_equal(want, got, sizeof want);
                assert_memory_equal(session_logits(s), want + (LONG - 1) * 300, 300 * sizeof(float));
                session_free(&s);
            }
        }
    }
}

/* Experts that are asked for as they are chosen are the same experts. */
static void weights_that_come_from_the_disk_change_nothing(void **state)
{
    static const struct synth_shape experts = {"experts", "qwen3moe", 2,     64,   96, 4, 2,  16,
                                               300,       1024,       10000, true, 16, 3, 32, .traits = S_EXPERTS | S_QK_NORM};
    static int32_t ids[LONG];
    static float rows[2][LONG * 300];
    struct files *f;
    struct model *m;
    struct err e;
    (void)state;
    some_ids(ids, LONG);
    const char *path = scratch_path(fx.dir, "experts.gguf");
    assert_int_equal(synth_write(&experts, "q8_0", path, NULL, NULL, &e), 0);
    assert_int_equal(files_open(path, &f, &e), 0);
    assert_int_equal(model_open(f, &m, &e), 0);
    for (unsigned disk = 0; disk < 2; disk++) {
        struct session *s;
        m->from_disk = disk;
        const struct session_options o = {
            .n_ctx = LONG, .n_batch = 64, .n_threads = 2, .k_type = QTYPE_F16, .v_type = QTYPE_F16};
        assert_int_equal(session_new(m, &o, &s, &e), 0);
        assert_int_equal(session_eval(s, ids, LONG - 2, keep_row, rows[disk], &e), 0);
        for (size_t i = LONG - 2; i < LONG; i++)
            assert_int_equal(session_eval(s, ids + i, 1, keep_row, rows[disk] + i * 300, &e), 0);
        session_free(&s);
    }
    assert_memory_equal(rows[0], rows[1], sizeof rows[0]);
    model_close(&m);
    files_close(&f);
}

static void a_reused_prefix_changes_nothing(void **state)
{
    static int32_t ids[LONG];
    struct session *fresh = session_of(LONG, 64, 2, QTYPE_F16), *used = session_of(LONG, 512, 1, QTYPE_F16);
    uint32_t reused;
    struct err e;
    (void)state;
    some_ids(ids, LONG);
    assert_int_equal(session_sync(used, ids, LONG, &reused, &e), 0);
    assert_int_equal(reused, 0);
    static const struct {
        size_t change, n;
        uint32_t want;
    } steps[] = {{200, 290, 200}, {0, 10, 0}, {9, 10, 9}, {10, 280, 10}, {LONG, 270, 269}};
    for (size_t i = 0; i < COUNT_OF(steps); i++) {
        if (steps[i].change < LONG) ids[steps[i].change] = (ids[steps[i].change] + 1) % 300;
        assert_int_equal(session_sync(used, ids, steps[i].n, &reused, &e), 0);
        assert_int_equal(reused, steps[i].want);
        assert_int_equal(session_n_tokens(used), steps[i].n);
        session_truncate(fresh, 0);
        assert_int_equal(session_eval(fresh, ids, steps[i].n, NULL, NULL, &e), 0);
        assert_memory_equal(session_logits(fresh), session_logits(used), 300 * sizeof(float));
    }
    session_free(&fresh);
    session_free(&used);
}

static void what_does_not_fit_changes_nothing(void **state)
{
    int32_t ids[40];
    struct session *s = session_of(32, 8, 1, QTYPE_F16);
    struct err e;
    uint32_t reused;
    (void)state;
    some_ids(ids, 40);
    assert_int_equal(session_eval(s, ids, 20, NULL, NULL, &e), 0);
    assert_int_equal(session_eval(s, ids, 13, NULL, NULL, &e), ERR_CONTEXT);
    assert_non_null(strstr(e.msg, "13"));
    assert_non_null(strstr(e.msg, "32"));
    assert_int_equal(session_sync(s, ids, 33, &reused, &e), ERR_CONTEXT);
    ids[3] = 300;
    assert_int_equal(session_eval(s, ids, 5, NULL, NULL, &e), ERR_ARG);
    ids[3] = -1;
    assert_int_equal(session_eval(s, ids, 5, NULL, NULL, &e), ERR_ARG);
    assert_int_equal(session_n_tokens(s), 20);
    assert_non_null(session_logits(s));
    ids[3] = 0;
    assert_int_equal(session_eval(s, ids, 12, NULL, NULL, &e), 0);
    assert_int_equal(session_n_tokens(s), 32);
    session_free(&s);
}

static void a_cancelled_eval_leaves_the_session_usable(void **state)
{
    static int32_t ids[LONG];
    struct session *s = session_of(LONG, 64, 2, QTYPE_F16), *plain = session_of(LONG, 64, 2, QTYPE_F16);
    struct err e;
    (void)state;
    some_ids(ids, LONG);
    assert_int_equal(session_eval(s, ids, 100, NULL, NULL, &e), 0);
    session_cancel(s);
    assert_int_equal(session_eval(s, ids, 200, NULL, NULL, &e), ERR_CANCELLED);
    assert_int_equal(session_n_tokens(s), 100);
    session_cancel_clear(s);
    assert_int_equal(session_eval(s, ids + 100, 50, NULL, NULL, &e), 0);
    assert_int_equal(session_eval(plain, ids, 150, NULL, NULL, &e), 0);
    assert_memory_equal(session_logits(s), session_logits(plain), 300 * sizeof(float));
    session_free(&s);
    session_free(&plain);
}

/* ---- generation ----------------------------------------------------------------------------------------- */

struct heard {
    char text[4096];
    size_t n, pieces, n_ids;
    int32_t ids[256];
    size_t stop_after; /* pieces; 0: never */
};
static int hear_text(void *user, const char *text, size_t n)
{
    struct heard *h = user;
    assert_true(n > 0 && utf8_valid((struct str){text, n}));
    memcpy(h->text + h->n, text, n);
    h->n += n;
    h->text[h->n] = 0;
    return h->stop_after && ++h->pieces >= h->stop_after;
}
static int hear_token(void *user, int32_t id)
{
    struct heard *h = user;
    h->ids[h->n_ids++] = id;
    return 0;
}

static struct generate_options options_of(struct heard *h, float temperature)
{
    *h = (struct heard){0};
    return (struct generate_options){.sampling = {.temperature = temperature, .top_p = 1, .repeat_penalty = 1, .seed = 7},
                                     .max_tokens = 60,
                                     .ignore_eos = true,
                                     .on_text = hear_text,
                                     .on_token = hear_token,
                                     .user = h};
}

static void generation_is_a_function_of_its_input(void **state)
{
    int32_t ids[20];
    struct heard a, b;
    struct generate_result r;
    struct err e;
    (void)state;
    some_ids(ids, 20);
    struct session *s = session_of(256, 16, 1, QTYPE_F16), *t = session_of(512, 512, 3, QTYPE_F16);
    struct generate_options o = options_of(&a, 1);
    assert_int_equal(generate(s, fx.tok, &fx.sampler, ids, 20, &o, &r, &e), 0);
    assert_int_equal(r.stop, STOP_LENGTH);
    assert_int_equal(r.n_generated, 60);
    assert_int_equal(a.n_ids, 60);
    assert_int_equal(session_n_tokens(s), 79); /* the last token was not computed */
    o = options_of(&b, 1);
    assert_int_equal(generate(t, fx.tok, &fx.sampler, ids, 20, &o, &r, &e), 0);
    assert_memory_equal(a.ids, b.ids, sizeof a.ids);
    assert_string_equal(a.text, b.text);
    o = options_of(&b, 1); /* again in the same session: the prompt is found there */
    assert_int_equal(generate(t, fx.tok, &fx.sampler, ids, 20, &o, &r, &e), 0);
    assert_int_equal(r.n_reused, 19);
    assert_memory_equal(a.ids, b.ids, sizeof a.ids);
    session_free(&s);
    session_free(&t);
}

static void stop_strings_never_show(void **state)
{
    int32_t ids[20];
    struct heard all, h;
    struct generate_result r;
    struct err e;
    (void)state;
    some_ids(ids, 20);
    struct session *s = session_of(256, 16, 1, QTYPE_F16);
    struct generate_options o = options_of(&all, 1);
    assert_int_equal(generate(s, fx.tok, &fx.sampler, ids, 20, &o, &r, &e), 0);
    assert_true(all.n > 8);
    for (size_t at = 1; at + 3 < all.n; at += 3) { /* every piece of the text as a stop string */
        struct str stop[2] = {{all.text + at, 3}, STR("never to be seen")};
        if (!utf8_valid(stop[0])) continue;
        size_t first = (size_t)((char *)memmem(all.text, all.n, stop[0].p, 3) - all.text);
        o = options_of(&h, 1);
        o.stop = stop, o.n_stop = 2;
        assert_int_equal(generate(s, fx.tok, &fx.sampler, ids, 20, &o, &r, &e), 0);
        assert_int_equal(r.stop, STOP_STRING);
        assert_int_equal(h.n, first);
        assert_memory_equal(h.text, all.text, first);
    }
    /* A longer one that begins further left and does not complete: what stands before the complete one still comes out. */
    char longer[16] = {0};
    memcpy(longer, all.text + 2, 4);
    strcat(longer, "zz");
    struct str two[2] = {str_of(longer), {all.text + 4, 2}};
    if (utf8_valid(two[0]) && utf8_valid(two[1])) {
        size_t first = (size_t)((char *)memmem(all.text, all.n, two[1].p, 2) - all.text);
        o = options_of(&h, 1);
        o.stop = two, o.n_stop = 2;
        assert_int_equal(generate(s, fx.tok, &fx.sampler, ids, 20, &o, &r, &e), 0);
        assert_int_equal(r.stop, STOP_STRING);
        assert_int_equal(h.n, first);
    }
    /* One that begins as the end of the text does, and never completes: the text comes out whole. */
    char tail[8] = {0};
    memcpy(tail, all.text + all.n - 1, 1);
    strcat(tail, "zz");
    struct str half = str_of(tail);
    o = options_of(&h, 1);
    o.stop = &half, o.n_stop = 1;
    assert_int_equal(generate(s, fx.tok, &fx.sampler, ids, 20, &o, &r, &e), 0);
    assert_string_equal(h.text, all.text);
    session_free(&s);
}

static void generation_ends_for_every_reason(void **state)
{
    int32_t ids[20];
    struct heard h;
    struct generate_result r;
    struct err e;
    (void)state;
    some_ids(ids, 20);
    struct session *s = session_of(32, 16, 1, QTYPE_F16);
    struct generate_options o = options_of(&h, 1);
    assert_int_equal(generate(s, fx.tok, &fx.sampler, ids, 20, &o, &r, &e), 0);
    assert_int_equal(r.stop, STOP_CONTEXT);
    assert_int_equal(r.n_generated, 32 - 20 + 1); /* the last one comes from the last place */
    int32_t second = h.ids[1];
    o = options_of(&h, 1);
    o.ignore_eos = false, o.eog = &second, o.n_eog = 1;
    assert_int_equal(generate(s, fx.tok, &fx.sampler, ids, 20, &o, &r, &e), 0);
    assert_int_equal(r.stop, STOP_EOS);
    o = options_of(&h, 1);
    h.stop_after = 1;
    assert_int_equal(generate(s, fx.tok, &fx.sampler, ids, 20, &o, &r, &e), 0);
    assert_int_equal(r.stop, STOP_CALLBACK);
    assert_int_equal(h.pieces, 1); /* and is not called again */
    o = options_of(&h, -1);
    assert_int_equal(generate(s, fx.tok, &fx.sampler, ids, 20, &o, &r, &e), ERR_ARG);
    o = options_of(&h, 0);
    assert_int_equal(generate(s, fx.tok, &fx.sampler, ids, 0, &o, &r, &e), ERR_ARG);
    session_free(&s);
}

/* ---- memory ------------------------------------------------------------------------------------------------ */

static bool out_of_memory(void *ctx, enum fault_kind kind)
{
    long *left = ctx;
    (void)kind;
    return (*left)-- == 0;
}

/* Open the model, tokenize, one step. */
static int one_step(const char *path, struct err *e)
{
    struct files *f = NULL;
    struct model *m = NULL;
    struct tok *t = NULL;
    struct session *s = NULL;
    struct sampler sampler = {0};
    struct ids ids = {0};
    struct heard h;
    struct generate_result r;
    struct generate_options o = options_of(&h, 1);
    struct session_options so = {.n_ctx = 64, .n_batch = 16, .n_threads = 2, .k_type = QTYPE_F16, .v_type = QTYPE_F16};
    o.max_tokens = 2;
    int rc = files_open(path, &f, e);
    if (rc == 0) rc = model_open(f, &m, e);
    if (rc == 0) rc = tok_open_gguf(files_gguf(f), &t, e);
    if (rc == 0) rc = tok_encode(t, STR("the mill turns"), 0, &ids, e);
    if (rc == 0) rc = session_new(m, &so, &s, e);
    if (rc == 0) rc = sampler_init(&sampler, scalar_kernels(), m->hp.n_vocab, e);
    if (rc == 0) rc = generate(s, t, &sampler, ids.p, ids.n, &o, &r, e);
    ids_fini(&ids);
    sampler_fini(&sampler);
    session_free(&s);
    tok_close(&t);
    model_close(&m);
    files_close(&f);
    return rc;
}

static void every_failed_call_is_a_clean_error(void **state)
{
    char path[512];
    struct err e;
    (void)state;
    strcpy(path, scratch_path(fx.dir, "tiny.gguf"));
    assert_int_equal(one_step(path, &e), 0);
    struct mem_stats before = mem_stats();
    for (long k = 0;; k++) {
        long left = k;
        e = (struct err){0};
        fault_set(out_of_memory, &left);
        int rc = one_step(path, &e);
        fault_set(NULL, NULL);
        assert_int_equal(mem_stats().current, before.current);
        assert_int_equal(mem_stats().pages, before.pages);
        if (left >= 0) {
            assert_int_equal(rc, 0);
            assert_true(k > 40);
            break;
        }
        if (rc == 0) continue; /* what failed was optional (a hint, a spare thread) */
        assert_true(e.code == rc && e.msg[0]);
    }
    assert_int_equal(one_step(path, &e), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_bytes_however_it_is_cut),
        cmocka_unit_test(a_reused_prefix_changes_nothing),
        cmocka_unit_test(weights_that_come_from_the_disk_change_nothing),
        cmocka_unit_test(what_does_not_fit_changes_nothing),
        cmocka_unit_test(a_cancelled_eval_leaves_the_session_usable),
        cmocka_unit_test(generation_is_a_function_of_its_input),
        cmocka_unit_test(stop_strings_never_show),
        cmocka_unit_test(generation_ends_for_every_reason),
        cmocka_unit_test(every_failed_call_is_a_clean_error),
    };
    return cmocka_run_group_tests_name("session", tests, setup, teardown);
}
