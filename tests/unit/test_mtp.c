/* Multi-token prediction: a head computes what its definition says, out of a folder and out of GGUF files; what it guesses does
 * not depend on the pieces in which it was told of a sequence; and an answer with its guesses is the answer without, also where
 * requests share pages that it knows nothing of. */
#include "convert/convert.h"
#include "run/speculate_int.h"
#include "scalar.h"
#include "tiny_mtp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define N_CTX 256
#define N_NEW 60

static struct fixture {
    char dirs[COUNT_OF(tiny_mtps)][64];
    struct files *files[COUNT_OF(tiny_mtps)];
    struct model *models[COUNT_OF(tiny_mtps)];
    struct tok *tok; /* of all of them */
    struct sampler sampler;
    uint64_t random;
} fx;

static uint32_t below(uint32_t n)
{
    return scratch_below(&fx.random, n);
}

static int setup(void **state)
{
    struct err e = {0};
    (void)state;
    fx.random = 3;
    for (size_t i = 0; i < COUNT_OF(tiny_mtps); i++) {
        scratch_make(fx.dirs[i]);
        tiny_mtp_write(&tiny_mtps[i], fx.dirs[i]);
        if (files_open(fx.dirs[i], &fx.files[i], &e) < 0 || model_open(fx.files[i], &fx.models[i], &e) < 0) {
            print_message("%s\n", e.msg);
            return -1;
        }
    }
    const struct hf *hf = files_hf(fx.files[0]);
    if (tok_open_hf(hf->tokenizer, NULL, NULL, "tiny", &fx.tok, &e) < 0 ||
        sampler_init(&fx.sampler, scalar_kernels(), TINY_VOCAB, &e) < 0) {
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
    for (size_t i = 0; i < COUNT_OF(tiny_mtps); i++) {
        model_close(&fx.models[i]);
        files_close(&fx.files[i]);
        scratch_remove(fx.dirs[i]);
    }
    return 0;
}

/* ---- what a head computes ---------------------------------------------------------------------------------------------- */

#define N_ROWS 12 /* of the reference */
#define ROW (TINY_VOCAB + TINY_EMBD)

/* The rows of the reference by a head, n_at_once in a batch: of each its logits, and what it leaves. */
static void compute(const struct model *head, uint32_t n_at_once, float out[N_ROWS][ROW])
{
    const struct runner_options o = {.n_batch = N_ROWS, .max_out = N_ROWS, .n_ctx = N_CTX, .n_threads = 2};
    struct runner r;
    struct kv kv;
    struct err e;
    int32_t tokens[N_ROWS];
    uint32_t rows[N_ROWS];
    float inputs[N_ROWS][TINY_EMBD];
    for (uint32_t i = 0; i < N_ROWS; i++) {
        tokens[i] = (int32_t)((i * 37 + 11) % 250);
        rows[i] = i;
        for (uint32_t c = 0; c < TINY_EMBD; c++) inputs[i][c] = ((float)((i * 31 + c * 17) % 23) - 11) / 8;
    }
    if (runner_init(&r, head, &o, &e) < 0 || kv_init(&kv, head, QTYPE_F32, QTYPE_F32, N_CTX, &e) < 0) fail_msg("%s", e.msg);
    for (uint32_t at = 0; at < N_ROWS; at += n_at_once) {
        const struct batch_seq seq = {.kv = &kv.view, .n_rows = n_at_once, .pos = at};
        const struct batch b = {.tokens = tokens + at,
                                .inputs = inputs[at],
                                .n_rows = n_at_once,
                                .seqs = &seq,
                                .n_seqs = 1,
                                .out = rows,
                                .n_out = n_at_once};
        assert_int_equal(backend_run(r.be, &b), 0);
        for (uint32_t i = 0; i < n_at_once; i++) {
            memcpy(out[at + i], backend_logits(r.be) + i * TINY_VOCAB, TINY_VOCAB * sizeof(float));
            memcpy(out[at + i] + TINY_VOCAB, backend_kept(r.be) + i * TINY_EMBD, TINY_EMBD * sizeof(float));
        }
    }
    kv_fini(&kv);
    runner_fini(&r);
}

/* The largest difference, as a part of the range of the reference. */
static double distance(const char *name, float got[N_ROWS][ROW])
{
    struct arena a = {0};
    struct str file;
    struct err e;
    char path[256];
    double worst = 0, low = INFINITY, high = -INFINITY;
    (void)snprintf(path, sizeof path, SOURCE_ROOT "/tests/unit/data/mtp/%s.bin", name);
    if (vfs_read(path, 1 << 20, &a, &file, &e) < 0) fail_msg("%s", e.msg);
    assert_int_equal(file.n, N_ROWS * ROW * sizeof(float));
    for (size_t i = 0; i < N_ROWS * (size_t)ROW; i++) {
        float want;
        memcpy(&want, file.p + i * sizeof want, sizeof want);
        worst = fmax(worst, fabs((double)want - (double)got[i / ROW][i % ROW]));
        low = fmin(low, (double)want);
        high = fmax(high, (double)want);
    }
    arena_fini(&a);
    return worst / (high - low);
}

/* What the head of a GGUF file of the folder computes. */
static void compute_converted(size_t kind, const char *type, float out[N_ROWS][ROW])
{
    const struct convert_opts opts = {.type = type, .name = "tiny", .head = CONVERT_HEAD_KEEP};
    const char *path = scratch_path(fx.dirs[kind], "converted.gguf");
    struct files *f;
    struct model *m = NULL;
    struct err e;
    char key[64], tensor[64];
    uint64_t blocks = 0, ahead = 0;
    if (convert_hf(fx.files[kind], path, &opts, NULL, &e) < 0 || files_open(path, &f, &e) < 0 || model_open(f, &m, &e) < 0)
        fail_msg("%s", e.msg);
    assert_non_null(m->head);
    (void)snprintf(key, sizeof key, "%s.block_count", m->hp.arch->gguf);
    assert_true(gguf_get_u64(files_gguf(f), key, &blocks));
    assert_int_equal(blocks, tiny_mtps[kind].n_layers + 1);
    (void)snprintf(key, sizeof key, "%s.nextn_predict_layers", m->hp.arch->gguf);
    assert_true(gguf_get_u64(files_gguf(f), key, &ahead));
    assert_int_equal(ahead, 1);
    (void)snprintf(tensor, sizeof tensor, "blk.%u.nextn.eh_proj.weight", tiny_mtps[kind].n_layers);
    assert_non_null(files_find(f, str_of(tensor)));
    assert_int_equal(m->parameters, fx.models[kind]->parameters);
    assert_int_equal(m->hp.n_layers, tiny_mtps[kind].n_layers);
    compute(m->head, N_ROWS, out);
    model_close(&m);
    files_close(&f);
}

static void a_head_computes_what_its_definition_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(tiny_mtps); i++) {
        float got[N_ROWS][ROW], other[N_ROWS][ROW];
        const struct model *m = fx.models[i];
        assert_non_null(m->head);
        compute(m->head, N_ROWS, got);
        const double far = distance(tiny_mtps[i].name, got);
        print_message("%s: %.2g of the range\n", tiny_mtps[i].name, far);
        assert_true(far < 1e-5);
        compute(m->head, 1, other);
        assert_memory_equal(other, got, sizeof got);
        compute_converted(i, NULL, other);
        assert_memory_equal(other, got, sizeof got);
        compute_converted(i, "q8_0", other);
        const double q8 = distance(tiny_mtps[i].name, other);
        print_message("%s in q8_0: %.2g\n", tiny_mtps[i].name, q8);
        assert_true(q8 < 0.1);
    }
}

/* ---- guesses ----------------------------------------------------------------------------------------------------------- */

static struct session *new_session(const struct model *m, uint32_t n_threads)
{
    const struct session_options o = {
        .n_ctx = N_CTX, .n_batch = 64, .n_threads = n_threads, .n_redo = 8, .k_type = QTYPE_F16, .v_type = QTYPE_F16};
    struct session *s;
    struct err e;
    if (session_new(m, &o, &s, &e) < 0) fail_msg("%s", e.msg);
    return s;
}

/* What the model leaves behind each token. */
static float left[N_CTX][TINY_EMBD];

static void keep_left(void *ctx, const int32_t *tokens, uint32_t pos, uint32_t n, const float *kept)
{
    (void)ctx, (void)tokens;
    memcpy(left[pos], kept, n * sizeof left[0]);
}

static uint32_t best_of(const float *x)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < TINY_VOCAB; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

/* Two guesses at what follows tokens [n], step by step. */
static void guess_by_hand(const struct model *head, const int32_t *tokens, uint32_t n, int32_t out[2])
{
    const struct runner_options o = {.n_batch = N_CTX, .max_out = 1, .n_ctx = N_CTX, .n_threads = 1};
    struct runner r;
    struct kv kv;
    struct err e;
    uint32_t row = n - 2;
    if (runner_init(&r, head, &o, &e) < 0 || kv_init(&kv, head, QTYPE_F16, QTYPE_F16, N_CTX, &e) < 0) fail_msg("%s", e.msg);
    struct batch_seq seq = {.kv = &kv.view, .n_rows = n - 1};
    struct batch b = {
        .tokens = tokens + 1, .inputs = left[0], .n_rows = n - 1, .seqs = &seq, .n_seqs = 1, .out = &row, .n_out = 1};
    assert_int_equal(backend_run(r.be, &b), 0);
    out[0] = (int32_t)best_of(backend_logits(r.be));
    float again[TINY_EMBD];
    memcpy(again, backend_kept(r.be) + row * TINY_EMBD, sizeof again);
    seq = (struct batch_seq){.kv = &kv.view, .n_rows = 1, .pos = n - 1};
    row = 0;
    b.tokens = out;
    b.inputs = again;
    b.n_rows = 1;
    assert_int_equal(backend_run(r.be, &b), 0);
    out[1] = (int32_t)best_of(backend_logits(r.be));
    kv_fini(&kv);
    runner_fini(&r);
}

/* The model has computed all but the last of tokens [n]. */
static void guess_told_in_pieces(struct mtp *h, int32_t *tokens, uint32_t n, uint32_t piece, uint32_t want, int32_t *out)
{
    static const struct sampling greedy = {.top_p = 1, .repeat_penalty = 1};
    struct mtp_slot *s = mtp_take(h, tokens, 0);
    for (uint32_t pos = 0, some; pos < n - 1; pos += some) {
        some = (uint32_t)size_min(piece ? piece : 1 + below(50), n - 1 - pos);
        (void)mtp_follow(h, s, tokens, pos, some, left[pos], true);
    }
    struct draft_job job = {.head = s, .tokens = tokens, .n_tokens = n, .n = want, .sampling = &greedy};
    const size_t calls = mem_stats().calls;
    assert_true(mtp_ready(s, n));
    assert_int_equal(mtp_guess(h, &job, 1), want);
    assert_int_equal(mem_stats().calls, calls);
    assert_int_equal(job.n, want);
    memcpy(out, tokens + n, want * sizeof *out);
    mtp_give(s);
}

static void guesses_do_not_depend_on_pieces(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(tiny_mtps); i++) {
        const struct model *m = fx.models[i];
        struct session *s = new_session(m, 1);
        struct mtp *h;
        struct err e;
        const struct mtp_options o = {.n_slots = 2, .n_ctx = N_CTX, .n_batch = 48, .k_type = QTYPE_F16, .v_type = QTYPE_F16};
        session_follow(s, keep_left, NULL);
        if (mtp_new(m->head, &o, &h, &e) < 0) fail_msg("%s", e.msg);
        for (uint32_t n = 2; n < 130; n += 9) {
            int32_t tokens[N_CTX], by_hand[2], want[4], got[4];
            for (uint32_t k = 0; k < n; k++) tokens[k] = (int32_t)below(TINY_VOCAB);
            session_truncate(s, 0);
            assert_int_equal(session_eval(s, tokens, n - 1, NULL, NULL, &e), 0);
            guess_by_hand(m->head, tokens, n, by_hand);
            guess_told_in_pieces(h, tokens, n, 1, 4, want);
            assert_memory_equal(want, by_hand, sizeof by_hand);
            for (uint32_t piece = 0; piece < 100; piece += 33) {
                guess_told_in_pieces(h, tokens, n, piece, 4, got);
                assert_memory_equal(got, want, sizeof want);
            }
        }
        mtp_free(&h);
        session_free(&s);
    }
}

static void a_slot_goes_on_where_it_knows_the_beginning(void **state)
{
    const struct model *m = fx.models[0];
    const struct mtp_options o = {.n_slots = 2, .n_ctx = N_CTX, .n_batch = 48, .k_type = QTYPE_F16, .v_type = QTYPE_F16};
    struct mtp *h;
    struct err e;
    int32_t tokens[N_CTX] = {0};
    (void)state;
    if (mtp_new(m->head, &o, &h, &e) < 0) fail_msg("%s", e.msg);
    for (int32_t i = 0; i < N_CTX; i++) tokens[i] = i % 200;
    struct mtp_slot *a = mtp_take(h, tokens, 0), *b = mtp_take(h, tokens, 0);
    assert_non_null(a);
    assert_non_null(b);
    assert_null(mtp_take(h, tokens, 0));
    const size_t calls = mem_stats().calls;
    (void)mtp_follow(h, a, tokens, 0, 100, left[0], true);
    assert_int_equal(a->known, 100);
    assert_int_equal(a->n, 99);
    (void)mtp_follow(h, b, tokens, 64, 10, left[0], true); /* the first page was somebody else's */
    assert_int_equal(b->first, 64);
    assert_false(mtp_ready(b, 65));
    assert_true(mtp_ready(b, 75));
    assert_false(mtp_ready(b, 76));
    (void)mtp_follow(h, b, tokens, 72, 3, left[0], true); /* two guesses were wrong */
    assert_int_equal(b->known, 75);
    (void)mtp_follow(h, b, tokens, 80, 20, left[0], true); /* some went by */
    assert_int_equal(b->first, 80);
    (void)mtp_follow(h, b, tokens, 100, 50, left[0], false); /* it may not read */
    assert_int_equal(b->first, 150);
    assert_false(mtp_ready(b, 151));
    mtp_give(b);
    mtp_give(a);
    tokens[90] = 7;
    assert_ptr_equal(mtp_take(h, tokens, N_CTX), a);
    assert_int_equal(a->known, 90);
    assert_int_equal(a->n, 90);
    assert_int_equal(mem_stats().calls, calls);
    mtp_free(&h);
}

/* ---- answers ----------------------------------------------------------------------------------------------------------- */

struct run {
    int32_t ids[N_NEW];
    uint32_t n;
};

static int keep_id(void *user, int32_t id)
{
    struct run *r = user;
    r->ids[r->n++] = id;
    return 0;
}

static struct generate_result answer(struct session *s, struct guesser *g, struct generate_options o, const int32_t *prompt,
                                     uint32_t n, struct run *r)
{
    struct generate_result result;
    struct err e;
    *r = (struct run){0};
    o.guesser = g;
    o.on_token = keep_id;
    o.user = r;
    if (generate(s, fx.tok, &fx.sampler, prompt, n, &o, &result, &e) < 0) fail_msg("%s", e.msg);
    return result;
}

static struct sampling some_sampling(uint64_t seed)
{
    return (struct sampling){.temperature = below(2) ? 0.0f : 0.7f,
                             .top_k = 40,
                             .top_p = 0.95f,
                             .repeat_penalty = below(3) ? 1.0f : 1.2f,
                             .penalty_last_n = 32,
                             .seed = seed};
}

/* Each prompt begins like one before it. */
static uint32_t some_prompt(int32_t prompt[150])
{
    const uint32_t n = 1 + below(150), same = below(4) ? n - n / 8 : below(n + 1), beginning = below(3);
    for (uint32_t k = 0; k < n; k++) prompt[k] = (int32_t)(k < same ? (k * 7 + beginning) % 100 : below(TINY_VOCAB));
    return n;
}

static void an_answer_is_the_same(void **state)
{
    const uint32_t n_answers = scratch_slow() ? 6 : 40;
    (void)state;
    for (size_t kind = 0; kind < COUNT_OF(tiny_mtps); kind++) {
        for (uint32_t how = 0; how < 3; how++) {
            const struct speculate_options so = {.how = how == 1 ? SPECULATE_AUTO : SPECULATE_MTP, .always = how < 2, .max = 5};
            struct session *plain = new_session(fx.models[kind], 1), *guessing = new_session(fx.models[kind], 1 + how % 2);
            struct arena a = {0};
            struct speculator *s;
            struct guesser *g;
            struct err e;
            uint32_t n_right = 0, n_guessed = 0;
            if (session_speculator(guessing, &so, &s, &e) < 0) fail_msg("%s", e.msg);
            assert_non_null(s);
            assert_int_equal(guesser_new(s, &a, N_CTX, NULL, 0, &g, &e), 0);
            for (uint32_t i = 0; i < n_answers; i++) {
                int32_t prompt[150];
                struct run want, got;
                const uint32_t n = some_prompt(prompt);
                const struct generate_options o = {
                    .sampling = some_sampling(i), .max_tokens = 1 + below(N_NEW), .ignore_eos = true};
                (void)answer(plain, NULL, o, prompt, n, &want);
                const struct generate_result r = answer(guessing, g, o, prompt, n, &got);
                n_guessed += r.guesses.guessed;
                n_right += r.guesses.right;
                assert_int_equal(got.n, want.n);
                assert_memory_equal(got.ids, want.ids, want.n * sizeof *want.ids);
                assert_memory_equal(session_tokens(guessing), session_tokens(plain), session_n_tokens(plain) * sizeof(int32_t));
            }
            if (how == 0) print_message("%s: %u of %u right\n", tiny_mtps[kind].name, n_right, n_guessed);
            if (how == 0) assert_in_range(n_right, n_answers, n_guessed - 1);
            speculator_free(&s);
            arena_fini(&a);
            session_free(&plain);
            session_free(&guessing);
        }
    }
}

/* ---- requests together ------------------------------------------------------------------------------------------------- */

struct job {
    int32_t prompt[150];
    uint32_t n_prompt, n_reused, n_right;
    struct run want, got;
    struct request *q;
    int error;
    atomic_bool ended;
};

static void on_token(void *user, const struct token_event *t)
{
    struct job *j = user;
    j->got.ids[j->got.n++] = t->id;
}

static void on_end(void *user, const struct request_result *r)
{
    struct job *j = user;
    j->error = r->error;
    j->n_reused = r->generated.n_reused;
    j->n_right = r->generated.guesses.right;
    atomic_store(&j->ended, true);
}

static void requests_get_what_they_get_alone(void **state)
{
    enum { N_JOBS = 24 };
    static struct job jobs[N_JOBS];
    (void)state;
    for (size_t kind = 0; kind < COUNT_OF(tiny_mtps); kind++) {
        struct session *plain = new_session(fx.models[kind], 1);
        const struct engine_options o = {.n_ctx = N_CTX,
                                         .n_parallel = 3,
                                         .n_queue = N_JOBS,
                                         .n_batch = 40,
                                         .n_threads = 2,
                                         .n_pages = 40,
                                         .k_type = QTYPE_F16,
                                         .v_type = QTYPE_F16,
                                         .speculate = {.how = SPECULATE_MTP, .max = 7, .always = true}};
        struct engine *en;
        struct engine_info info;
        struct err e;
        uint32_t n_right = 0, n_reused = 0;
        if (engine_new(fx.models[kind], fx.tok, &o, &en, &e) < 0) fail_msg("%s", e.msg);
        memset(jobs, 0, sizeof jobs);
        for (uint32_t i = 0; i < N_JOBS; i++) {
            struct job *j = &jobs[i];
            const struct sampling sampling = some_sampling(i);
            const uint32_t max_tokens = 1 + below(N_NEW);
            j->n_prompt = some_prompt(j->prompt);
            (void)answer(plain, NULL,
                         (struct generate_options){.sampling = sampling, .max_tokens = max_tokens, .ignore_eos = true},
                         j->prompt, j->n_prompt, &j->want);
            const struct request_options q = {.prompt = j->prompt,
                                              .n_prompt = j->n_prompt,
                                              .max_tokens = max_tokens,
                                              .sampling = sampling,
                                              .ignore_eos = true,
                                              .on_token = on_token,
                                              .on_end = on_end,
                                              .user = j};
            if (engine_submit(en, &q, &j->q, &e) < 0) fail_msg("%s", e.msg);
        }
        for (uint32_t i = 0; i < N_JOBS; i++) {
            struct job *j = &jobs[i];
            while (!atomic_load(&j->ended)) usleep(100);
            request_free(&j->q);
            assert_int_equal(j->error, 0);
            assert_int_equal(j->got.n, j->want.n);
            assert_memory_equal(j->got.ids, j->want.ids, j->want.n * sizeof *j->want.ids);
            n_right += j->n_right;
            n_reused += j->n_reused;
        }
        engine_info(en, &info);
        print_message("%s: %u right, %u reused\n", tiny_mtps[kind].name, n_right, n_reused);
        assert_true(info.speculates && n_right > N_JOBS && n_reused > 0);
        assert_int_equal(info.counters.inconsistent, 0);
        engine_free(&en);
        session_free(&plain);
    }
}

/* ---- what is wrong ----------------------------------------------------------------------------------------------------- */

static void a_model_without_a_head_says_so(void **state)
{
    struct err e;
    struct speculator *s;
    struct model *m = fx.models[0], *head = m->head;
    const struct speculate_options so = {.how = SPECULATE_MTP};
    (void)state;
    m->head = NULL;
    struct session *session = new_session(m, 1);
    assert_int_equal(session_speculator(session, &so, &s, &e), ERR_ARG);
    print_message("%s\n", e.msg);
    session_free(&session);
    m->head = head;
}

/* Every allocation may fail. */
static void memory_that_lacks_is_an_error(void **state)
{
    const struct mtp_options o = {.n_slots = 2, .n_ctx = 64, .n_batch = 8, .k_type = QTYPE_F16, .v_type = QTYPE_F16};
    struct mtp *h = NULL;
    struct err e;
    int rc = -1;
    (void)state;
    for (size_t at = 1; rc < 0; at++) {
        struct scratch_nth nth = {FAULT_ALLOC, at, 0};
        fault_set(scratch_fail_nth, &nth);
        rc = mtp_new(fx.models[0]->head, &o, &h, &e);
        fault_set(NULL, NULL);
        if (rc < 0) assert_int_equal(rc, ERR_NOMEM);
    }
    mtp_free(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_head_computes_what_its_definition_says),
        cmocka_unit_test(guesses_do_not_depend_on_pieces),
        cmocka_unit_test(a_slot_goes_on_where_it_knows_the_beginning),
        cmocka_unit_test(an_answer_is_the_same),
        cmocka_unit_test(requests_get_what_they_get_alone),
        cmocka_unit_test(a_model_without_a_head_says_so),
        cmocka_unit_test(memory_that_lacks_is_an_error),
    };
    return cmocka_run_group_tests_name("multi-token prediction", tests, setup, teardown);
}
