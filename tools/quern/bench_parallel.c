/* bench_parallel: how fast several answers are written together. Each sequence reads depth + 1 tokens; the clock runs from when
 * the last of them has its first token to when the first of them ends, so that all are under way. */
#include "bench.h"

#include <stdatomic.h>
#include <unistd.h>

struct crowd {
    uint32_t n, n_first, n_last; /* sequences; those with a first token; those that have ended */
    uint64_t tokens;             /* while all are under way */
    uint64_t start, stop;
    struct monitor *lock; /* of n_last */
    int error;
};

struct member {
    struct crowd *crowd;
    uint32_t n_tokens;
    quern_request *request;
};

static void on_token(void *user, const quern_token *token)
{
    struct member *m = user;
    struct crowd *c = m->crowd;
    (void)token;
    if (m->n_tokens++ == 0 && ++c->n_first == c->n)
        c->start = clock_ns();
    else if (c->n_first == c->n && !c->stop)
        c->tokens++;
}

static void on_end(void *user, const quern_request_result *result)
{
    struct member *m = user;
    struct crowd *c = m->crowd;
    if (!c->stop) c->stop = clock_ns();
    if (result->error) c->error = result->error;
    monitor_enter(c->lock);
    c->n_last++;
    monitor_wake(c->lock);
    monitor_leave(c->lock);
}

/* Every sequence begins with another token, so that none finds its beginning in the cache. */
static int submit(quern_engine *engine, struct member *members, const struct bench_test *t, const int32_t *ids, int32_t *prompt,
                  struct err *e)
{
    quern_error qe = {0};
    quern_sampling greedy = quern_sampling_default();
    greedy.temperature = 0;
    memcpy(prompt, ids, (t->depth + 1) * sizeof *prompt);
    for (uint32_t i = 0; i < t->parallel; i++) {
        prompt[0] = (int32_t)i;
        const quern_request_options o = {.prompt = prompt,
                                         .n_prompt = t->depth + 1,
                                         .sampling = &greedy,
                                         .max_tokens = t->n,
                                         .ignore_eos = true,
                                         .on_token = on_token,
                                         .on_end = on_end,
                                         .user = &members[i]};
        if (quern_engine_submit(engine, &o, &members[i].request, &qe) < 0) return fail(e, qe.code, "%s", qe.message);
    }
    return 0;
}

static int run(quern_engine *engine, struct crowd *c, struct member *members, const struct bench_test *t, const int32_t *ids,
               int32_t *prompt, struct err *e)
{
    int rc = submit(engine, members, t, ids, prompt, e);
    monitor_enter(c->lock);
    while (rc == 0 && c->n_last < c->n) monitor_wait(c->lock);
    monitor_leave(c->lock);
    for (uint32_t i = 0; i < t->parallel; i++) quern_request_free(&members[i].request);
    if (rc == 0 && c->error) rc = fail(e, c->error, "a sequence failed");
    return rc;
}

int bench_parallel(const quern_model *model, const quern_session_info *setup, const struct bench_test *t, const int32_t *ids,
                   double *speed, struct err *e)
{
    struct crowd c = {.n = t->parallel};
    quern_engine *engine = NULL;
    quern_error qe = {0};
    struct arena a = {0};
    struct member *members = arena_array(&a, t->parallel, sizeof *members);
    int32_t *prompt = arena_array(&a, t->depth + (size_t)1, sizeof *prompt);
    int rc = members && prompt ? monitor_new(&c.lock, e) : fail_nomem(e, "sequences", t->parallel * sizeof *members);
    for (uint32_t i = 0; rc == 0 && i < t->parallel; i++) members[i].crowd = &c;
    const quern_engine_options o = {.n_ctx = t->depth + t->n + 1,
                                    .n_parallel = t->parallel,
                                    .n_queue = t->parallel,
                                    .n_batch = setup->n_batch,
                                    .n_threads = setup->n_threads,
                                    .k_type = setup->k_type,
                                    .v_type = setup->v_type,
                                    .cpu_level = setup->cpu_level,
                                    .speculation = {.how = QUERN_SPECULATE_OFF}};
    if (rc == 0 && quern_engine_new(model, &o, &engine, &qe) < 0) rc = fail(e, qe.code, "%s", qe.message);
    if (rc == 0) rc = run(engine, &c, members, t, ids, prompt, e);
    quern_engine_free(&engine);
    monitor_free(&c.lock);
    arena_fini(&a);
    if (rc == 0) *speed = (double)c.tokens / ((double)(c.stop - c.start) * 1e-9);
    return rc;
}
