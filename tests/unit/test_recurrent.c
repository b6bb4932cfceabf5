/* Layers that carry a state: whatever way a session has come to a sequence of tokens, its logits are those of a fresh one. */
#include "convert/synth.h"
#include "run/speculate_int.h"
#include "scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* Values of 48 elements: a block of the state and half of one. */
static const struct synth_shape tiny = {"tiny",
                                        "qwen35",
                                        4,
                                        64,
                                        96,
                                        4,
                                        2,
                                        16,
                                        300,
                                        1024,
                                        10000,
                                        true,
                                        .n_k_heads = 2,
                                        .n_v_heads = 4,
                                        .delta_dim = 48,
                                        .traits = S_DENSE | S_QK_NORM | S_LATE_NORM | S_DELTA};
#define VOCAB 300
#define LONG 150

static struct fixture {
    char dir[64];
    struct files *files;
    struct model *model;
} fx;

static int setup(void **state)
{
    struct err e;
    (void)state;
    scratch_make(fx.dir);
    const char *path = scratch_path(fx.dir, "tiny.gguf");
    if (synth_write(&tiny, "q8_0", path, NULL, NULL, &e) < 0 || files_open(path, &fx.files, &e) < 0 ||
        model_open(fx.files, &fx.model, &e) < 0) {
        print_message("%s\n", e.msg);
        return -1;
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    model_close(&fx.model);
    files_close(&fx.files);
    scratch_remove(fx.dir);
    return 0;
}

static struct session *session_of(uint32_t n_batch, uint32_t n_threads)
{
    struct session_options o = {
        .n_ctx = LONG, .n_batch = n_batch, .n_threads = n_threads, .n_redo = 9, .k_type = QTYPE_F16, .v_type = QTYPE_F16};
    struct session *s = NULL;
    struct err e;
    if (session_new(fx.model, &o, &s, &e) < 0) print_message("%s\n", e.msg);
    assert_non_null(s);
    return s;
}

static void some_ids(int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)(i * 7919 % VOCAB);
}

static void keep_row(void *ctx, size_t i, const float *logits)
{
    memcpy((float *)ctx + i * VOCAB, logits, VOCAB * sizeof *logits);
}

static void the_same_bytes_however_it_is_cut(void **state)
{
    static const uint32_t batches[] = {1, 7, 64, 512};
    static int32_t ids[LONG];
    static float want[LONG * VOCAB], got[LONG * VOCAB];
    struct err e;
    (void)state;
    some_ids(ids, LONG);
    for (size_t b = 0; b < COUNT_OF(batches); b++)
        for (uint32_t threads = 1; threads <= 3; threads++) {
            struct session *s = session_of(batches[b], threads);
            memset(got, 0, sizeof got);
            assert_int_equal(session_eval(s, ids, 70, keep_row, got, &e), 0);
            assert_int_equal(session_eval(s, ids + 70, 1, keep_row, got + 70 * VOCAB, &e), 0);
            assert_int_equal(session_eval(s, ids + 71, LONG - 71, keep_row, got + 71 * VOCAB, &e), 0);
            if (b == 0 && threads == 1) memcpy(want, got, sizeof want);
            assert_memory_equal(want, got, sizeof want);
            assert_memory_equal(session_logits(s), want + (LONG - 1) * VOCAB, VOCAB * sizeof(float));
            session_free(&s);
        }
}

/* The logits of a session are those of one that has seen nothing but its tokens. */
static void is_fresh(struct session *s)
{
    static int32_t ids[LONG];
    struct session *fresh = session_of(64, 2);
    struct err e;
    memcpy(ids, session_tokens(s), session_n_tokens(s) * sizeof *ids);
    assert_int_equal(session_eval(fresh, ids, session_n_tokens(s), NULL, NULL, &e), 0);
    assert_memory_equal(session_logits(fresh), session_logits(s), VOCAB * sizeof(float));
    session_free(&fresh);
}

static void reply(struct session *s, size_t n)
{
    struct err e;
    for (size_t i = 0; i < n; i++)
        assert_int_equal(session_eval(s, &(int32_t){(int32_t)(i * 31 % VOCAB)}, 1, NULL, NULL, &e), 0);
}

/* A conversation: what is computed again is what was taken back, and not more than the last prompt but one. */
static void states_are_kept_where_prompts_end(void **state)
{
    static int32_t ids[LONG];
    struct session *s = session_of(16, 2);
    uint32_t reused;
    struct err e;
    (void)state;
    some_ids(ids, LONG);
    assert_int_equal(session_sync(s, ids, 40, &reused, &e), 0);
    assert_int_equal(reused, 0);
    reply(s, 9);
    assert_int_equal(session_sync(s, ids, 40, &reused, &e), 0); /* the same again */
    assert_int_equal(reused, 39);
    is_fresh(s);
    reply(s, 9);
    memcpy(ids, session_tokens(s), 49 * sizeof *ids);
    assert_int_equal(session_sync(s, ids, 70, &reused, &e), 0); /* goes on */
    assert_int_equal(reused, 49);
    is_fresh(s);
    reply(s, 3);
    assert_int_equal(session_sync(s, ids, 90, &reused, &e), 0); /* another reply than ours */
    assert_int_equal(reused, 69);
    is_fresh(s);
    assert_int_equal(session_sync(s, ids, 75, &reused, &e), 0);
    assert_int_equal(reused, 69);
    is_fresh(s);
    ids[60] = (ids[60] + 1) % VOCAB; /* an edit before what is kept: from the start, as the oldest state has made room */
    assert_int_equal(session_sync(s, ids, 80, &reused, &e), 0);
    assert_in_range(reused, 0, 60);
    is_fresh(s);
    session_free(&s);
}

/* Takes in n tokens at once, of which only some stand. */
static void guess_wrong(struct session *s, uint32_t n, uint32_t stand)
{
    static int32_t ids[LONG];
    static float rows[9 * VOCAB];
    const uint32_t before = session_n_tokens(s);
    uint32_t reused;
    struct err e;
    if (LONG - before <= n || stand >= n) return;
    some_ids(ids, n);
    assert_int_equal(session_eval(s, ids, n, keep_row, rows, &e), 0);
    session_truncate(s, before + stand);
    memcpy(ids, session_tokens(s), (before + stand) * sizeof *ids);
    ids[before + stand] = 17;
    assert_int_equal(session_sync(s, ids, before + stand + 1, &reused, &e), 0);
    assert_int_equal(reused, before + stand); /* nothing was computed again */
    is_fresh(s);
}

static void rows_can_be_taken_back(void **state)
{
    static int32_t ids[LONG];
    (void)state;
    some_ids(ids, LONG);
    for (uint32_t threads = 1; threads <= 3; threads++)
        for (uint32_t n = 2; n <= 9; n++) {
            struct session *s = session_of(16, threads);
            for (uint32_t stand = 1; stand < n; stand++) guess_wrong(s, n, stand); /* also of the first tokens of all */
            session_free(&s);
        }
}

static void any_walk_leads_to_the_same(void **state)
{
    static int32_t ids[LONG];
    struct session *s = session_of(16, 1);
    uint32_t reused, rng = 12345;
    struct err e;
    (void)state;
    some_ids(ids, LONG);
    for (size_t step = 0; step < 60; step++) {
        rng = rng * 1103515245u + 12345u;
        const uint32_t n = 1 + rng % 7919 % (LONG - 20), at = rng % 104729 % LONG;
        switch (rng >> 16 & 7) {
        case 0:
            ids[at] = (ids[at] + 1) % VOCAB;
            break;
        case 1:
            session_truncate(s, at);
            break;
        case 2:
            reply(s, size_min(5, LONG - session_n_tokens(s)));
            break;
        case 3:
        case 4:
            guess_wrong(s, 2 + rng % 8, 1 + rng % 5);
            break;
        default:
            break;
        }
        assert_int_equal(session_sync(s, ids, n, &reused, &e), 0);
        assert_true(reused < n);
        is_fresh(s);
    }
    session_free(&s);
}

struct stopping {
    struct session *s;
    size_t after;
};
static void stop_row(void *ctx, size_t i, const float *logits)
{
    const struct stopping *x = ctx;
    (void)logits;
    if (i == x->after) session_cancel(x->s);
}

static void a_cancelled_eval_takes_nothing(void **state)
{
    static int32_t ids[LONG];
    static float rows[LONG * VOCAB], all[LONG * VOCAB];
    struct err e;
    (void)state;
    some_ids(ids, LONG);
    for (size_t after = 0; after < 40; after += 13) {
        struct session *s = session_of(8, 2), *fresh = session_of(8, 2);
        struct stopping x = {s, after};
        assert_int_equal(session_eval(s, ids, 30, NULL, NULL, &e), 0);
        assert_int_equal(session_eval(s, ids + 30, 60, stop_row, &x, &e), ERR_CANCELLED);
        session_cancel_clear(s);
        assert_int_equal(session_n_tokens(s), 30);
        if (after == 13) session_truncate(s, 25); /* rows of what was cut and computed again are nobody's */
        const uint32_t from = session_n_tokens(s);
        assert_int_equal(session_eval(s, ids + from, 90 - from, keep_row, rows, &e), 0);
        assert_int_equal(session_eval(fresh, ids, 90, keep_row, all, &e), 0);
        assert_memory_equal(rows, all + from * VOCAB, (90 - from) * VOCAB * sizeof *rows);
        session_free(&s);
        session_free(&fresh);
    }
}

/* Sequences that share batches, each with a state of its own. */
static void sequences_do_not_meet(void **state)
{
    enum { SEQS = 3, STEPS = 3 };
    static const uint32_t lens[STEPS][SEQS] = {{5, 1, 9}, {1, 1, 1}, {2, 7, 1}};
    static int32_t ids[SEQS][LONG], together[LONG];
    struct arena a = {0};
    struct graph g;
    struct rope rope;
    struct backend *be = NULL;
    struct kv kv[SEQS];
    float *mem[SEQS];
    uint32_t pos[SEQS] = {0};
    struct err e;
    (void)state;
    float *inv_freq = arena_array(&a, fx.model->hp.rope[0].dim / 2, sizeof *inv_freq);
    rope = (struct rope){.inv_freq = inv_freq, .n_pairs = fx.model->hp.rope[0].dim / 2, .neox = fx.model->hp.rope_neox};
    model_rope(fx.model, 0, LONG, inv_freq, &rope.scale);
    graph_init(&g, &a);
    assert_int_equal(graph_plan(&g, model_record(fx.model, &rope, false, &g), &e), 0);
    struct backend_options bo = {.n_threads = 2, .max_rows = 64, .max_out = SEQS, .max_positions = LONG};
    assert_int_equal(backend_open_cpu(&g, &bo, &be, &e), 0);
    for (size_t s = 0; s < SEQS; s++) {
        for (size_t i = 0; i < LONG; i++) ids[s][i] = (int32_t)((i * 7919 + s * 101) % VOCAB);
        assert_int_equal(kv_init(&kv[s], fx.model, QTYPE_F16, QTYPE_F16, LONG, &e), 0);
        mem[s] = arena_array(&a, g.state_floats, sizeof **mem);
    }
    for (size_t step = 0; step < STEPS; step++) {
        struct batch_seq seqs[SEQS];
        uint32_t out[SEQS], n = 0;
        for (size_t s = 0; s < SEQS; s++) {
            seqs[s] = (struct batch_seq){.kv = &kv[s].view, .row = n, .n_rows = lens[step][s], .pos = pos[s]};
            seqs[s].state = (struct state_step){.from = pos[s] ? mem[s] : NULL, .to = mem[s]};
            memcpy(together + n, ids[s] + pos[s], lens[step][s] * sizeof *together);
            n += lens[step][s];
            pos[s] += lens[step][s];
            out[s] = n - 1;
        }
        const struct batch batch = {.tokens = together, .n_rows = n, .seqs = seqs, .n_seqs = SEQS, .out = out, .n_out = SEQS};
        assert_int_equal(backend_run(be, &batch), 0);
        for (size_t s = 0; s < SEQS; s++) {
            struct session *alone = session_of(64, 1);
            assert_int_equal(session_eval(alone, ids[s], pos[s], NULL, NULL, &e), 0);
            assert_memory_equal(session_logits(alone), backend_logits(be) + s * VOCAB, VOCAB * sizeof(float));
            session_free(&alone);
        }
    }
    for (size_t s = 0; s < SEQS; s++) kv_fini(&kv[s]);
    backend_close(&be);
    arena_fini(&a);
}

static struct drafter *drafter_of(uint32_t n_slots)
{
    const struct drafter_options o = {
        .n_slots = n_slots, .n_ctx = LONG, .n_batch = 24, .k_type = QTYPE_F16, .v_type = QTYPE_F16, .n_vocab = VOCAB};
    struct drafter *d = NULL;
    struct err e;
    if (drafter_new(fx.model, &o, &d, &e) < 0) print_message("%s\n", e.msg);
    assert_non_null(d);
    return d;
}

/* n guesses at what follows tokens [n_tokens], which go behind them. */
static void guess(struct drafter *d, struct draft_slot *slot, int32_t *tokens, uint32_t n_tokens, uint32_t n)
{
    const struct sampling sampling = {.temperature = 1.5f, .top_p = 1, .repeat_penalty = 1, .seed = 3};
    struct draft_job job = {
        .slot = slot, .tokens = tokens, .n_tokens = n_tokens, .n = n, .sampling = &sampling, .step = n_tokens};
    while (!drafter_read(d, slot, tokens, n_tokens)) continue;
    drafter_guess(d, &job, 1);
    assert_int_equal(job.n, n);
}

/* Whatever of its guesses was right, and whichever sequence it is given next, a draft model with recurrent layers guesses as
 * one that has read nothing else. */
static void a_draft_forgets_wrong_guesses(void **state)
{
    enum { MOST = 12, FULL = 60 };
    struct drafter *d = drafter_of(2), *other = drafter_of(1);
    int32_t tokens[LONG], want[LONG];
    uint64_t random = 11;
    uint32_t n = 0;
    struct draft_slot *slot = NULL;
    (void)state;
    const size_t steps = scratch_rounds(300);
    for (size_t i = 0; i < steps; i++) {
        if (!slot || n > FULL - MOST || scratch_below(&random, 20) == 0) { /* another that begins alike */
            if (slot) drafter_give(slot);
            n = n ? 1 + scratch_below(&random, n) : 1;
            for (uint32_t k = n - 1; k < n; k++) tokens[k] = (int32_t)scratch_below(&random, VOCAB);
            slot = drafter_take(d, tokens, n);
        }
        const uint32_t n_guesses = 1 + scratch_below(&random, MOST - 1);
        guess(d, slot, tokens, n, n_guesses);
        memcpy(want, tokens, n * sizeof *want);
        struct draft_slot *fresh = drafter_take(other, want, 0);
        guess(other, fresh, want, n, n_guesses);
        drafter_give(fresh);
        assert_memory_equal(tokens, want, (n + n_guesses) * sizeof *want);
        n += scratch_below(&random, n_guesses + 1);
        drafter_cut(slot, n);
        tokens[n++] = (int32_t)scratch_below(&random, VOCAB); /* instead of a guess, or behind the last */
    }
    drafter_free(&d);
    drafter_free(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_bytes_however_it_is_cut), cmocka_unit_test(states_are_kept_where_prompts_end),
        cmocka_unit_test(rows_can_be_taken_back),           cmocka_unit_test(any_walk_leads_to_the_same),
        cmocka_unit_test(a_cancelled_eval_takes_nothing),   cmocka_unit_test(sequences_do_not_meet),
        cmocka_unit_test(a_draft_forgets_wrong_guesses),
    };
    return cmocka_run_group_tests_name("recurrent", tests, setup, teardown);
}
