/* bench_prefix: how long a prompt takes to its first token when it is computed, when its beginning is in the memory of the
 * engine, and when it is on disk, as after a restart. Each repetition has a prompt of its own. */
#include "bench.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* One request at a time. */
struct single {
    struct monitor *lock;
    bool ended;
    int error;
    double seconds; /* to the first token */
    uint32_t n_reused, n_restored;
};

static void on_end(void *user, const quern_request_result *r)
{
    struct single *s = user;
    monitor_enter(s->lock);
    s->ended = true;
    s->error = r->error;
    s->seconds = r->result.first_token_seconds;
    s->n_reused = r->result.n_reused;
    s->n_restored = r->n_restored;
    monitor_wake(s->lock);
    monitor_leave(s->lock);
}

static int ask(quern_engine *engine, struct single *s, const int32_t *prompt, uint32_t n, struct err *e)
{
    quern_error qe = {0};
    quern_request *request;
    quern_sampling greedy = quern_sampling_default();
    greedy.temperature = 0;
    const quern_request_options o = {
        .prompt = prompt, .n_prompt = n, .sampling = &greedy, .max_tokens = 1, .ignore_eos = true, .on_end = on_end, .user = s};
    s->ended = false;
    if (quern_engine_submit(engine, &o, &request, &qe) < 0) return fail(e, qe.code, "%s", qe.message);
    monitor_enter(s->lock);
    while (!s->ended) monitor_wait(s->lock);
    monitor_leave(s->lock);
    quern_request_free(&request);
    return s->error ? fail(e, s->error, "a request failed") : 0;
}

/* The times of one prompt in out [3]: computed, from memory, from disk. */
static int measure(const quern_model *model, const quern_engine_options *o, const int32_t *prompt, uint32_t n, double *out,
                   struct err *e)
{
    struct single s = {0};
    quern_engine *engine = NULL;
    quern_error qe = {0};
    int rc = monitor_new(&s.lock, e);
    if (rc == 0 && quern_engine_new(model, o, &engine, &qe) < 0) rc = fail(e, qe.code, "%s", qe.message);
    for (size_t i = 0; rc == 0 && i < 2; i++) {
        rc = ask(engine, &s, prompt, n, e);
        out[i] = s.seconds;
    }
    quern_engine_free(&engine); /* when all is stored */
    if (rc == 0 && quern_engine_new(model, o, &engine, &qe) < 0) rc = fail(e, qe.code, "%s", qe.message);
    if (rc == 0) rc = ask(engine, &s, prompt, n, e);
    if (rc == 0 && n > 2 * 64 && s.n_restored == 0) rc = fail(e, ERR_IO, "%s: nothing was found there again", o->prefix_folder);
    out[2] = s.seconds;
    quern_engine_free(&engine);
    monitor_free(&s.lock);
    return rc;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int measure_all(const quern_model *model, const quern_engine_options *o, int32_t *prompt, size_t n_repeats,
                       struct bench_prefix *row, struct err *e)
{
    double times[3][BENCH_REPEATS_MAX], one[3];
    for (size_t i = 0; i < n_repeats; i++) {
        prompt[0] = (int32_t)i;
        TRY(measure(model, o, prompt, row->n, one, e));
        for (size_t k = 0; k < 3; k++) times[k][i] = one[k];
    }
    double *const medians[] = {&row->computed, &row->from_memory, &row->from_disk};
    for (size_t k = 0; k < 3; k++) {
        qsort(times[k], n_repeats, sizeof(double), by_size);
        *medians[k] = (times[k][(n_repeats - 1) / 2] + times[k][n_repeats / 2]) / 2;
    }
    return 0;
}

static int remove_one(void *ctx, const struct vfs_entry *f)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", (const char *)ctx, f->name) < PATH_MAX) (void)vfs_remove(path, NULL);
    return 0;
}

int bench_prefix(const quern_model *model, const quern_session_info *setup, const int32_t *ids, size_t n_repeats,
                 const char *cache, struct bench_prefix *row, struct err *e)
{
    char folder[PATH_MAX];
    TRY(vfs_make_folder(cache, e));
    if (snprintf(folder, sizeof folder, "%s/bench-prefix.XXXXXX", cache) >= PATH_MAX || !mkdtemp(folder))
        return fail(e, ERR_IO, "%s: a folder cannot be made there", cache);
    int32_t *prompt = mem_array(row->n, sizeof *prompt);
    const quern_engine_options o = {.n_ctx = row->n + 1,
                                    .n_parallel = 1,
                                    .n_batch = setup->n_batch,
                                    .n_threads = setup->n_threads,
                                    .k_type = setup->k_type,
                                    .v_type = setup->v_type,
                                    .cpu_level = setup->cpu_level,
                                    .prefix_folder = folder};
    int rc = prompt ? 0 : fail_nomem(e, "a prompt", row->n * sizeof *prompt);
    if (rc == 0) {
        memcpy(prompt, ids, row->n * sizeof *prompt);
        rc = measure_all(model, &o, prompt, n_repeats, row, e);
    }
    mem_free(prompt);
    (void)vfs_list(folder, remove_one, folder, NULL);
    (void)rmdir(folder);
    return rc;
}
