/* engine: whatever runs beside a request, whatever is found in the cache, however tight its pages: each gets the tokens of a
 * run by itself, and all pages come back. So it is with guesses at its tokens, right or wrong. */
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

/* With recurrent layers, which can go on only from where a state was kept. */
static const struct synth_shape tiny_delta = {.name = "tiny-delta",
                                              .arch = "qwen35",
                                              .n_layers = 4,
                                              .n_embd = 64,
                                              .n_ff = 96,
                                              .n_heads = 4,
                                              .n_kv_heads = 2,
                                              .head_dim = 16,
                                              .n_vocab = 300,
                                              .n_ctx = 1024,
                                              .rope_theta = 10000,
                                              .tied = true,
                                              .n_k_heads = 2,
                                              .n_v_heads = 4,
                                              .delta_dim = 16,
                                              .traits = S_DENSE | S_QK_NORM | S_LATE_NORM | S_DELTA};

/* The smallest, for many runs. */
static const struct synth_shape tiniest = {"tiniest", "llama", 1, 32, 32, 2, 1, 16, 300, 1024, 10000, true, .traits = S_DENSE};

#define N_CTX 512
#define MAX_NEW 40

static struct fixture {
    char dir[64];
    struct files *files;
    struct model *model;
    struct files *draft_files;
    struct model *draft; /* with other weights, and without recurrent layers: it is always wrong */
    struct tok *tok;
    struct sampler sampler;
    uint64_t random;
    bool recurrent;
} fx;

static uint32_t below(uint32_t n)
{
    return scratch_below(&fx.random, n);
}

static int setup_with(const struct synth_shape *shape)
{
    struct err e;
    fx.random = 7;
    fx.recurrent = shape == &tiny_delta;
    scratch_make(fx.dir);
    const char *path = scratch_path(fx.dir, "tiny.gguf"), *draft = scratch_path(fx.dir, "draft.gguf");
    if (synth_write(shape, "q8_0", path, NULL, NULL, &e) < 0 || files_open(path, &fx.files, &e) < 0 ||
        synth_write(fx.recurrent ? &tiny : shape, "bf16", draft, NULL, NULL, &e) < 0 ||
        files_open(draft, &fx.draft_files, &e) < 0 || model_open(fx.draft_files, &fx.draft, &e) < 0 ||
        model_open(fx.files, &fx.model, &e) < 0 || tok_open_gguf(files_gguf(fx.files), &fx.tok, &e) < 0 ||
        sampler_init(&fx.sampler, scalar_kernels(), shape->n_vocab, &e) < 0) {
        print_message("%s\n", e.msg);
        return -1;
    }
    return 0;
}

static int setup(void **state)
{
    (void)state;
    return setup_with(&tiny);
}

static int setup_recurrent(void **state)
{
    (void)state;
    return setup_with(&tiny_delta);
}

static int setup_tiniest(void **state)
{
    (void)state;
    return setup_with(&tiniest);
}

static int teardown(void **state)
{
    (void)state;
    sampler_fini(&fx.sampler);
    tok_close(&fx.tok);
    model_close(&fx.model);
    files_close(&fx.files);
    model_close(&fx.draft);
    files_close(&fx.draft_files);
    scratch_remove(fx.dir);
    return 0;
}

/* ---- requests ---------------------------------------------------------------------------------------------------------- */

struct job {
    int32_t prompt[N_CTX];
    uint32_t n_prompt, max_tokens, n_keep, n_shifted; /* n_keep: of a full context; 0: it is not shifted */
    struct sampling sampling;
    int32_t want[MAX_NEW], got[MAX_NEW];
    uint32_t n_want, n_got;
    atomic_uint place; /* of its first token among those of all, from 1 on; 0: there is none */
    struct request *q;
    int error;
    uint32_t n_reused, n_wrong;
    struct prefix_miss miss;
    atomic_bool ended;
    uint32_t cancel_after; /* 0: never */
    size_t calls[2];       /* of the allocator, at the second token and at the last so far */
    bool no_guesses;
};

/* What is known of a prompt stays known, also while a shifted context is read again. */
static void check_info(struct job *j)
{
    struct request_info info;
    request_info(j->q, &info);
    if (info.n_known < info.n_reused || info.n_known > j->n_prompt) j->n_wrong++;
}

static void on_token(void *user, const struct token_event *t)
{
    static uint32_t n_begun;
    struct job *j = user;
    if (j->n_got == 0) atomic_store(&j->place, ++n_begun);
    j->got[j->n_got++] = t->id;
    if (j->n_got > 1) j->calls[j->n_got > 2] = mem_stats().calls;
    if (j->n_keep) check_info(j);
    if (j->n_got == j->cancel_after) request_cancel(j->q);
}

static void on_end(void *user, const struct request_result *r)
{
    struct job *j = user;
    j->error = r->error;
    j->n_reused = r->generated.n_reused;
    j->n_shifted = r->generated.n_shifted;
    j->miss = r->miss;
    atomic_store(&j->ended, true);
}

static int keep_id(void *user, int32_t id)
{
    struct job *j = user;
    j->want[j->n_want++] = id;
    return 0;
}

/* Prompts share beginnings of a few stories, so that the tree of pages is used. */
static void make_job(struct job *j)
{
    *j = (struct job){.n_prompt = 1 + below(260), .max_tokens = 1 + below(MAX_NEW)};
    const uint32_t story = below(3), own = below(j->n_prompt + 1);
    for (uint32_t i = 0; i < j->n_prompt; i++) j->prompt[i] = (int32_t)(i < own ? (i * 7919 + story * 31) % 300 : below(300));
    j->sampling = (struct sampling){.temperature = below(2) ? 0.0f : 1.0f,
                                    .top_k = 40,
                                    .top_p = 0.9f,
                                    .repeat_penalty = below(2) ? 1.0f : 1.1f,
                                    .penalty_last_n = 16,
                                    .seed = below(1000)};
}

static void run_solo(struct job *j, struct session *s)
{
    const struct generate_options o = {.sampling = j->sampling,
                                       .max_tokens = j->max_tokens,
                                       .ignore_eos = true,
                                       .shift = j->n_keep > 0,
                                       .n_keep = j->n_keep,
                                       .on_token = keep_id,
                                       .user = j};
    struct generate_result r;
    struct err e;
    session_truncate(s, 0);
    if (generate(s, fx.tok, &fx.sampler, j->prompt, j->n_prompt, &o, &r, &e) < 0) fail_msg("%s", e.msg);
    j->n_shifted = r.n_shifted;
}

static int submit(struct engine *en, struct job *j, struct err *e)
{
    const struct request_options o = {.prompt = j->prompt,
                                      .n_prompt = j->n_prompt,
                                      .max_tokens = j->max_tokens,
                                      .sampling = j->sampling,
                                      .ignore_eos = true,
                                      .shift = j->n_keep > 0,
                                      .n_keep = j->n_keep,
                                      .speculate = j->no_guesses ? SPECULATE_OFF : SPECULATE_AUTO,
                                      .on_token = on_token,
                                      .on_end = on_end,
                                      .user = j};
    return engine_submit(en, &o, &j->q, e);
}

static struct session *new_session(void)
{
    const struct session_options o = {.n_ctx = N_CTX, .n_batch = 64, .n_threads = 1, .k_type = QTYPE_F16, .v_type = QTYPE_F16};
    struct session *s;
    struct err e;
    if (session_new(fx.model, &o, &s, &e) < 0) fail_msg("%s", e.msg);
    return s;
}

static struct engine *new_engine(uint32_t n_parallel, uint32_t n_batch, uint32_t n_pages, bool no_prefix, uint32_t n_threads,
                                 enum speculate speculate, const struct model *draft)
{
    const struct engine_options o = {.n_ctx = N_CTX,
                                     .n_parallel = n_parallel,
                                     .n_queue = 100,
                                     .n_batch = n_batch,
                                     .n_threads = n_threads,
                                     .n_pages = n_pages,
                                     .k_type = QTYPE_F16,
                                     .v_type = QTYPE_F16,
                                     .no_prefix = no_prefix,
                                     .speculate = {.how = speculate, .draft = draft, .always = true}};
    struct engine *en;
    struct err e;
    if (engine_new(fx.model, fx.tok, &o, &en, &e) < 0) fail_msg("%s", e.msg);
    return en;
}

/* Frees all requests; nothing may be in use afterwards but what is kept for others. */
static void settle(struct engine *en, struct job *jobs, size_t n)
{
    struct engine_info i;
    for (size_t k = 0; k < n; k++) request_free(&jobs[k].q);
    engine_info(en, &i);
    assert_int_equal(i.n_running, 0);
    assert_int_equal(i.n_waiting, 0);
    assert_int_equal(i.kv_used_bytes, i.kv_cached_bytes);
    assert_int_equal(i.counters.inconsistent, 0);
}

#define N_JOBS 64

/* With the model as its own draft its guesses are right, but those behind the last token of an answer; with one that knows
 * nothing, hardly any. */
static void check_guesses(struct engine *en, enum speculate how, bool wrong)
{
    const bool some = how != SPECULATE_OFF, drafted = how == SPECULATE_DRAFT;
    struct engine_info i;
    engine_info(en, &i);
    assert_int_equal(i.speculates, some);
    if (!some) assert_int_equal(i.counters.guessed_tokens, 0);
    if (scratch_slow()) return; /* few requests, and guessing hardly pays */
    if (some) assert_true(i.counters.guessed_tokens > 0);
    if (drafted && wrong) assert_true(i.counters.right_tokens <= i.counters.guessed_tokens / 5);
    if (drafted && !wrong) assert_true(i.counters.right_tokens >= i.counters.guessed_tokens / 5 * 4);
    /* What the recurrent model writes repeats nothing. */
    if (some && !drafted && !wrong && !fx.recurrent) assert_true(i.counters.right_tokens > 0);
}

static void each_gets_what_it_gets_alone(void **state)
{
    static struct job jobs[N_JOBS];
    static const struct {
        uint32_t n_parallel, n_batch, n_pages, n_threads;
        bool no_prefix;
        enum speculate speculate;
        bool wrong;
    } ways[] = {{1, 64, 8, 1, false, SPECULATE_LOOKUP, false},  {4, 16, 12, 2, false, SPECULATE_DRAFT, false},
                {16, 512, 200, 2, false, SPECULATE_OFF, false}, {64, 64, 512, 1, true, SPECULATE_AUTO, false},
                {7, 7, 20, 2, false, SPECULATE_AUTO, true},     {3, 64, 64, 2, false, SPECULATE_DRAFT, true}};
    const size_t n_rounds = scratch_slow() ? 1 : 2, n_jobs = scratch_slow() ? 10 : N_JOBS;
    struct session *s = new_session();
    struct err e;
    (void)state;
    for (size_t k = 0; k < n_jobs; k++) {
        make_job(&jobs[k]);
        run_solo(&jobs[k], s);
        assert_int_equal(jobs[k].n_want, jobs[k].max_tokens);
    }
    session_free(&s);
    for (size_t w = 0; w < COUNT_OF(ways); w++) {
        struct engine *en = new_engine(ways[w].n_parallel, ways[w].n_batch, ways[w].n_pages, ways[w].no_prefix,
                                       ways[w].n_threads, ways[w].speculate, ways[w].wrong ? fx.draft : fx.model);
        for (size_t round = 0; round < n_rounds; round++) {
            for (size_t k = 0, at = below((uint32_t)n_jobs); k < n_jobs; k++, at = (at + 37) % n_jobs) {
                struct job *j = &jobs[at];
                j->n_got = 0;
                j->cancel_after = below(3) ? 0 : 1 + below(MAX_NEW);
                j->no_guesses = below(8) == 0;
                if (submit(en, j, &e) < 0) fail_msg("%s", e.msg);
            }
            for (size_t k = 0; k < n_jobs; k++)
                while (!atomic_load(&jobs[k].ended)) usleep(200);
            settle(en, jobs, n_jobs);
            for (size_t k = 0; k < n_jobs; k++) {
                const struct job *j = &jobs[k];
                const bool cut = j->cancel_after && j->cancel_after < j->n_want;
                if (j->error != (cut ? ERR_CANCELLED : 0) || j->n_got != (cut ? j->cancel_after : j->n_want))
                    fail_msg("way %zu, request %zu: error %d after %u of %u tokens", w, k, j->error, j->n_got, j->n_want);
                assert_memory_equal(j->got, j->want, j->n_got * sizeof *j->got);
                atomic_store(&jobs[k].ended, false);
            }
        }
        check_guesses(en, ways[w].speculate, ways[w].wrong);
        engine_free(&en);
    }
}

static void wait_for(struct job *j)
{
    while (!atomic_load(&j->ended)) usleep(100);
    request_free(&j->q);
    atomic_store(&j->ended, false);
    j->n_got = 0;
}

/* A short prompt that comes while a long one is read begins to be answered first, and of several the shortest. */
static void a_short_prompt_does_not_wait_for_a_long_one(void **state)
{
    static const uint32_t lengths[] = {N_CTX - 10, 90, 30};
    static struct job jobs[COUNT_OF(lengths)];
    struct engine *en = new_engine(4, 16, 200, true, 1, SPECULATE_OFF, NULL);
    struct err e;
    bool late = true; /* the long one was read before the others came */
    (void)state;
    for (uint32_t tries = 0; late && tries < 20; tries++) {
        for (size_t k = 0; k < COUNT_OF(jobs); k++) {
            jobs[k] = (struct job){.n_prompt = lengths[k], .max_tokens = 2, .sampling = {.top_p = 1, .repeat_penalty = 1}};
            for (uint32_t i = 0; i < lengths[k]; i++) jobs[k].prompt[i] = (int32_t)((i * 7 + k + tries) % 300);
            if (submit(en, &jobs[k], &e) < 0) fail_msg("%s", e.msg);
        }
        late = atomic_load(&jobs[0].place) || atomic_load(&jobs[1].place);
        for (size_t k = 0; k < COUNT_OF(jobs); k++) wait_for(&jobs[k]);
    }
    assert_false(late);
    assert_true(jobs[2].place < jobs[1].place && jobs[1].place < jobs[0].place);
    engine_free(&en);
}

static void a_beginning_is_computed_once(void **state)
{
    struct engine *en = new_engine(2, 512, 64, false, 1, SPECULATE_OFF, NULL);
    struct job j = {.n_prompt = 200, .max_tokens = 4, .sampling = {.top_p = 1, .repeat_penalty = 1}};
    struct err e;
    (void)state;
    for (uint32_t i = 0; i < 200; i++) j.prompt[i] = (int32_t)(i % 300);
    static const struct {
        uint32_t change, reused, miss;
        int32_t expected, found;
    } steps[] = {
        {N_CTX, 0, 0, -1, -1},     /* nothing is known */
        {N_CTX, 192, 192, -1, -1}, /* three whole pages */
        {100, 64, 100, 100, 101},  /* one, and where the second differs */
        {0, 0, 0, 0, 1},
    };
    for (size_t i = 0; i < COUNT_OF(steps); i++) {
        if (steps[i].change < N_CTX) j.prompt[steps[i].change]++;
        if (submit(en, &j, &e) < 0) fail_msg("%s", e.msg);
        wait_for(&j);
        assert_int_equal(j.n_reused, steps[i].reused);
        assert_int_equal(j.miss.pos, steps[i].miss);
        assert_int_equal(j.miss.expected, steps[i].expected);
        assert_int_equal(j.miss.found, steps[i].found);
    }
    engine_free(&en);
}

/* Also where requests that begin alike come at once: the others wait for the first. */
static void those_that_come_together_share(void **state)
{
    enum { N = 3 };
    struct engine *en = new_engine(N, 50, 64, false, 1, SPECULATE_OFF, NULL);
    struct session *alone = new_session();
    struct job jobs[N];
    struct request_info info;
    struct err e;
    (void)state;
    for (uint32_t k = 0; k < N; k++) {
        jobs[k] = (struct job){.n_prompt = 220, .max_tokens = 4, .sampling = {.top_p = 1, .repeat_penalty = 1}};
        for (uint32_t i = 0; i < 220; i++) jobs[k].prompt[i] = (int32_t)(i < 200 ? i : i * (k + 1) % 300);
        run_solo(&jobs[k], alone);
    }
    for (uint32_t k = 0; k < N; k++)
        if (submit(en, &jobs[k], &e) < 0) fail_msg("%s", e.msg);
    for (uint32_t k = 0; k < N; k++) {
        while (!atomic_load(&jobs[k].ended)) usleep(100);
        assert_memory_equal(jobs[k].got, jobs[k].want, jobs[k].n_want * sizeof *jobs[k].got);
        assert_int_equal(jobs[k].n_reused, k ? 192 : 0);
        request_info(jobs[k].q, &info);
        assert_int_equal(info.n_prompt, 220);
        assert_int_equal(info.n_known, 220);
        assert_int_equal(info.n_reused, k ? 192 : 0);
        assert_int_equal(info.n_generated, 4);
        assert_true(info.slot < N);
    }
    settle(en, jobs, N);
    session_free(&alone);
    engine_free(&en);
}

static void a_conversation_goes_on_from_a_state(void **state)
{
    struct engine *en = new_engine(2, 100, 64, false, 1, SPECULATE_OFF, NULL);
    struct session *alone = new_session();
    struct job j = {.n_prompt = 230, .max_tokens = 40, .sampling = {.top_p = 1, .repeat_penalty = 1}};
    struct err e;
    (void)state;
    for (uint32_t i = 0; i < 230; i++) j.prompt[i] = (int32_t)(i * 31 % 300);
    static const uint32_t reused[] = {0, 192, 256, 320}; /* whole pages: of the prompt, then of each answer */
    for (size_t turn = 0; turn < COUNT_OF(reused); turn++) {
        j.n_want = 0;
        run_solo(&j, alone);
        if (submit(en, &j, &e) < 0) fail_msg("%s", e.msg);
        while (!atomic_load(&j.ended)) usleep(100);
        assert_memory_equal(j.got, j.want, j.n_want * sizeof *j.got);
        assert_int_equal(j.n_reused, reused[turn]);
        wait_for(&j);
        if (turn == 0) continue; /* the same prompt again */
        memcpy(j.prompt + j.n_prompt, j.want, j.n_want * sizeof *j.want);
        for (uint32_t i = 0; i < 30; i++) j.prompt[j.n_prompt + j.n_want + i] = (int32_t)i;
        j.n_prompt += j.n_want + 30;
    }
    session_free(&alone);
    engine_free(&en);
}

/* Requests that fill their context go on behind what a run by itself would keep, however few pages there are for all. */
static void a_full_context_goes_on_when_asked(void **state)
{
    static struct job jobs[12];
    const size_t n_jobs = scratch_slow() ? 4 : COUNT_OF(jobs);
    struct session *s = new_session();
    struct engine *en = new_engine(4, 64, 18, false, 1, SPECULATE_AUTO, fx.model);
    struct err e;
    (void)state;
    for (size_t k = 0; k < n_jobs; k++) {
        struct job *j = &jobs[k];
        make_job(j);
        j->n_prompt = N_CTX - 1 - below(30);
        for (uint32_t i = 0; i < j->n_prompt; i++) j->prompt[i] = (int32_t)((i * 7919 + k % 3 * 31) % 300);
        j->max_tokens = MAX_NEW;
        j->n_keep = 1 + below(N_CTX);
        j->cancel_after = k % 4 == 3 ? 1 + below(MAX_NEW) : 0;
        run_solo(j, s);
        assert_int_equal(j->n_want, MAX_NEW);
        assert_in_range(j->n_shifted, N_CTX / 4, N_CTX / 2);
        if (submit(en, j, &e) < 0) fail_msg("%s", e.msg);
    }
    for (size_t k = 0; k < n_jobs; k++) {
        const struct job *j = &jobs[k];
        while (!atomic_load(&j->ended)) usleep(200);
        const bool cut = j->cancel_after && j->cancel_after < MAX_NEW;
        assert_int_equal(j->error, cut ? ERR_CANCELLED : 0);
        assert_int_equal(j->n_got, cut ? j->cancel_after : MAX_NEW);
        assert_memory_equal(j->got, j->want, j->n_got * sizeof *j->got);
        assert_int_equal(j->n_wrong, 0);
    }
    settle(en, jobs, n_jobs);
    engine_free(&en);
    session_free(&s);
}

static void answers_need_no_memory(void **state)
{
    struct engine *en = new_engine(2, 64, 64, false, 2, SPECULATE_AUTO, fx.draft);
    struct job j = {.n_prompt = 100, .max_tokens = MAX_NEW, .sampling = {.temperature = 1, .top_p = 0.9f, .repeat_penalty = 1}};
    struct err e;
    (void)state;
    for (uint32_t i = 0; i < j.n_prompt; i++) j.prompt[i] = (int32_t)(i % 300);
    if (submit(en, &j, &e) < 0) fail_msg("%s", e.msg);
    while (!atomic_load(&j.ended)) usleep(100);
    assert_int_equal(j.n_got, MAX_NEW);
    assert_int_equal(j.calls[1] - j.calls[0], 0);
    request_free(&j.q);
    engine_free(&en);
}

#define N_POOL 48    /* requests that schedules choose from */
#define N_TOGETHER 5 /* at most in one */

/* One schedule: some requests, submitted and cancelled at any time, on an engine that has seen others. */
static void run_schedule(struct engine *en, struct job *pool)
{
    struct job *chosen[N_TOGETHER];
    const uint32_t n = 1 + below(N_TOGETHER), first = below(N_POOL);
    struct err e;
    for (uint32_t k = 0; k < n; k++) {
        struct job *j = chosen[k] = &pool[(first + k * 7) % N_POOL];
        j->n_got = 0;
        j->cancel_after = below(4) ? 0 : 1 + below(j->max_tokens);
        atomic_store(&j->ended, false);
        if (submit(en, j, &e) < 0) fail_msg("%s", e.msg);
        if (below(8) == 0) usleep(below(300));
        if (below(8) == 0) request_cancel(chosen[below(k + 1)]->q);
    }
    for (uint32_t k = 0; k < n; k++) {
        const struct job *j = chosen[k];
        while (!atomic_load(&j->ended)) usleep(20);
        if (j->error ? j->error != ERR_CANCELLED : j->n_got != j->n_want) fail_msg("error %d, %u tokens", j->error, j->n_got);
        assert_memory_equal(j->got, j->want, j->n_got * sizeof *j->got);
    }
    for (uint32_t k = 0; k < n; k++) request_free(&chosen[k]->q);
    settle(en, NULL, 0);
}

static void ten_thousand_schedules(void **state)
{
    static struct job pool[N_POOL];
    const size_t n = scratch_rounds(10000);
    struct session *s = new_session();
    (void)state;
    for (size_t k = 0; k < N_POOL; k++) {
        make_job(&pool[k]);
        pool[k].max_tokens = 1 + below(8);
        run_solo(&pool[k], s);
    }
    session_free(&s);
    struct engine *en = NULL;
    for (size_t i = 0; i < n; i++) {
        if (i % 100 == 0) {
            engine_free(&en);
            en = new_engine(1 + below(4), 8 + below(100), 8 + below(16), below(8) == 0, 1,
                            i % 200 ? SPECULATE_OFF : SPECULATE_AUTO, fx.model);
        }
        run_schedule(en, pool);
    }
    engine_free(&en);
}

static void aborted_requests_leave_nothing(void **state)
{
    struct engine *en = new_engine(4, 64, 16, false, 1, SPECULATE_OFF, NULL);
    static struct job jobs[20];
    struct err e;
    (void)state;
    for (size_t round = scratch_rounds(500); round > 0; round--) {
        for (size_t k = 0; k < COUNT_OF(jobs); k++) {
            make_job(&jobs[k]);
            if (submit(en, &jobs[k], &e) < 0) fail_msg("%s", e.msg);
        }
        settle(en, jobs, COUNT_OF(jobs));
    }
    engine_free(&en);
}

static void what_cannot_be_is_refused(void **state)
{
    const struct engine_options small = {.n_ctx = N_CTX, .n_parallel = 1, .n_queue = 1, .n_batch = 8, .n_pages = 7};
    struct engine *en = NULL;
    struct err e;
    (void)state;
    assert_int_equal(engine_new(fx.model, fx.tok, &small, &en, &e), ERR_ARG);
    en = new_engine(1, 64, 8, false, 1, SPECULATE_OFF, NULL);
    struct job j = {.n_prompt = N_CTX, .max_tokens = 1, .sampling = {.top_p = 1, .repeat_penalty = 1}};
    assert_int_equal(submit(en, &j, &e), ERR_CONTEXT);
    assert_non_null(strstr(e.msg, "512"));
    j.n_prompt = 500, j.max_tokens = 13;
    assert_int_equal(submit(en, &j, &e), ERR_CONTEXT);
    j.n_prompt = 0;
    assert_int_equal(submit(en, &j, &e), ERR_ARG);
    j.n_prompt = 3, j.prompt[1] = 300;
    assert_int_equal(submit(en, &j, &e), ERR_ARG);
    const int32_t strange[] = {1, -1};
    const struct request_options o = {
        .prompt = j.prompt, .n_prompt = 1, .sampling = j.sampling, .expected = strange, .n_expected = 2};
    assert_int_equal(engine_submit(en, &o, &j.q, &e), ERR_ARG);
    assert_non_null(strstr(e.msg, "token -1"));
    static struct job jobs[110];
    int rc = 0;
    size_t n = 0;
    for (; rc == 0 && n < COUNT_OF(jobs); n++) {
        make_job(&jobs[n]);
        jobs[n].max_tokens = MAX_NEW;
        rc = submit(en, &jobs[n], &e);
    }
    assert_int_equal(rc, ERR_LIMIT);
    for (size_t k = 0; k + 1 < n; k++) {
        request_free(&jobs[k].q);
        assert_true(atomic_load(&jobs[k].ended));
    }
    engine_free(&en);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_gets_what_it_gets_alone),   cmocka_unit_test(a_short_prompt_does_not_wait_for_a_long_one),
        cmocka_unit_test(a_beginning_is_computed_once),   cmocka_unit_test(those_that_come_together_share),
        cmocka_unit_test(answers_need_no_memory),         cmocka_unit_test(a_full_context_goes_on_when_asked),
        cmocka_unit_test(aborted_requests_leave_nothing), cmocka_unit_test(what_cannot_be_is_refused),
    };
    const struct CMUnitTest many[] = {cmocka_unit_test(ten_thousand_schedules)};
    const struct CMUnitTest recurrent[] = {
        cmocka_unit_test(answers_need_no_memory),
        cmocka_unit_test(each_gets_what_it_gets_alone),
        cmocka_unit_test(a_conversation_goes_on_from_a_state),
        cmocka_unit_test(those_that_come_together_share),
        cmocka_unit_test(a_full_context_goes_on_when_asked),
        cmocka_unit_test(aborted_requests_leave_nothing),
    };
    return cmocka_run_group_tests_name("engine", tests, setup, teardown) +
           cmocka_run_group_tests_name("engine, many runs", many, setup_tiniest, teardown) +
           cmocka_run_group_tests_name("engine, recurrent layers", recurrent, setup_recurrent, teardown);
}
