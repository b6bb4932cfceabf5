/* claim: however threads come and go, each row is taken once, and no thread goes idle while another has much left. */
#include "backend/cpu_int.h"
#include "scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { MOST_THREADS = 7, MOST_ROWS = 5000 };

static struct phase_of_rows {
    struct backend b;
    struct share_left left[MOST_THREADS];
    struct worker workers[MOST_THREADS];
    atomic_uchar times[MOST_ROWS]; /* that a row was taken */
    size_t n;
} rows;

static void begin(size_t n, unsigned n_threads)
{
    rows.b.left = rows.left;
    rows.b.workers = rows.workers;
    for (unsigned t = 0; t < n_threads; t++) atomic_store(&rows.left[t].parts[0], NOTHING_TAKEN);
    memset((void *)rows.times, 0, sizeof rows.times);
    rows.n = n;
}

/* Takes a piece; how many rows it has. */
static size_t take_piece(struct claim *c)
{
    struct range r;
    if (!claim_next(c, &r)) return 0;
    assert_true(r.from < r.to && r.to <= rows.n && r.from % ROW_UNIT == 0 && (r.to % ROW_UNIT == 0 || r.to == rows.n));
    for (size_t i = r.from; i < r.to; i++) atomic_fetch_add(&rows.times[i], 1);
    return r.to - r.from;
}

static void all_taken_once(void)
{
    for (size_t i = 0; i < rows.n; i++) assert_int_equal(atomic_load(&rows.times[i]), 1);
}

/* Threads in any order, some of which stop for ever after a piece or two. */
static void each_row_is_taken_once(void **state)
{
    uint64_t random = 5;
    (void)state;
    const size_t rounds = scratch_rounds(20000);
    for (size_t round = 0; round < rounds; round++) {
        const unsigned n_threads = 1 + scratch_below(&random, MOST_THREADS);
        struct claim claims[MOST_THREADS];
        bool over[MOST_THREADS] = {false};
        begin(scratch_below(&random, scratch_below(&random, 2) ? MOST_ROWS : 300), n_threads);
        for (unsigned t = 0; t < n_threads; t++) claims[t] = claim_rows(&rows.b, rows.n, 4096, t, n_threads);
        const unsigned going = scratch_below(&random, n_threads); /* this one never stops */
        for (unsigned n_over = 0; n_over < n_threads;) {
            const unsigned t = scratch_below(&random, n_threads);
            if (over[t]) continue;
            over[t] = take_piece(&claims[t]) == 0 || (t != going && scratch_below(&random, 4) == 0);
            n_over += over[t];
        }
        all_taken_once();
    }
}

/* One thread takes its first piece and is held up: the others do all that it has not taken. */
static void what_a_slow_thread_has_left_is_done(void **state)
{
    enum { N = 4096, N_THREADS = 4 };
    size_t slow, others = 0;
    (void)state;
    begin(N, N_THREADS);
    struct claim held = claim_rows(&rows.b, N, 4096, 0, N_THREADS);
    slow = take_piece(&held);
    for (unsigned t = 1; t < N_THREADS; t++) {
        struct claim c = claim_rows(&rows.b, N, 4096, t, N_THREADS);
        for (size_t n; (n = take_piece(&c)) > 0;) others += n;
    }
    assert_int_equal(take_piece(&held), 0);
    assert_int_equal(slow + others, N);
    assert_true(slow <= N / N_THREADS / 2);
    all_taken_once();
}

/* A thread that nobody disturbs takes its own rows in order. */
static void an_own_share_is_one_stream(void **state)
{
    enum { N = 4096, N_THREADS = 2 };
    struct range r;
    size_t at = N / N_THREADS, n_pieces = 0;
    (void)state;
    begin(N, N_THREADS);
    struct claim c = claim_rows(&rows.b, N, 4096, 1, N_THREADS);
    for (; at < N; at = r.to, n_pieces++) {
        assert_true(claim_next(&c, &r));
        assert_int_equal(r.from, at);
    }
    assert_true(n_pieces <= 5);
}

static void take_all(void *ctx, unsigned ith, unsigned nth)
{
    struct claim c = claim_rows(&rows.b, rows.n, 4096, ith, nth);
    (void)ctx;
    while (take_piece(&c)) continue;
}

static void threads_at_once(void **state)
{
    struct pool *pool = NULL;
    struct err e;
    (void)state;
    assert_int_equal(pool_new(4, &pool, &e), 0);
    for (size_t round = 0; round < scratch_rounds(5000); round++) {
        begin(MOST_ROWS - round % 100, 4);
        pool_run(pool, take_all, NULL);
        all_taken_once();
    }
    pool_free(&pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_row_is_taken_once),
        cmocka_unit_test(what_a_slow_thread_has_left_is_done),
        cmocka_unit_test(an_own_share_is_one_stream),
        cmocka_unit_test(threads_at_once),
    };
    return cmocka_run_group_tests_name("claim", tests, NULL, NULL);
}
