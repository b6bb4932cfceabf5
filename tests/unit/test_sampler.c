/* sampler: against a slow, plain version of each step, and against its own promises (order, seeds, ties). */
#include "run/run.h" /* before cmocka, which makes fail() a macro */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "scalar.h"
#include "scratch.h"

#define N 500

static const struct sampling plain = {.temperature = 1, .top_p = 1, .repeat_penalty = 1, .penalty_last_n = 64};

static void random_logits(float *l, unsigned seed)
{
    srand(seed);
    for (int i = 0; i < N; i++) l[i] = (float)(rand() % 2000) * 0.01f - 10.0f; /* many ties */
}

static int by_logit(const void *a, const void *b)
{
    const float *x = *(const float *const *)a, *y = *(const float *const *)b;
    return *x > *y ? -1 : *x < *y ? 1 : x < y ? -1 : 1;
}

/* The set that top-k, top-p and min-p leave, computed in the obvious way in f64: allowed[i] tells whether token i may be drawn;
 * 2 where the answer hangs on rounding. */
static void allowed_set(const float *l, const struct sampling *p, int allowed[N])
{
    const float *order[N];
    for (int i = 0; i < N; i++) order[i] = &l[i], allowed[i] = 0;
    qsort(order, N, sizeof *order, by_logit);
    int n = p->top_k && p->top_k < N ? (int)p->top_k : N;
    double total = 0, sum = 0;
    for (int i = 0; i < n; i++) total += exp((double)*order[i] - (double)*order[0]);
    for (int i = 0; i < n; i++) {
        double w = exp((double)*order[i] - (double)*order[0]);
        double p_gap = fabs(sum - (double)p->top_p * total) / total, m_gap = fabs(w - (double)p->min_p);
        bool in = i == 0 || i < (int)p->min_keep || (sum < (double)p->top_p * total && w >= (double)p->min_p);
        allowed[order[i] - l] = i > 0 && i >= (int)p->min_keep && (p_gap < 1e-6 || m_gap < 1e-6) ? 2 : in;
        sum += w;
    }
}

static void draws_only_what_truncation_leaves(void **state)
{
    static const struct {
        uint32_t k;
        float top_p, min_p;
        uint32_t min_keep;
    } cases[] = {{0, 1, 0, 0},         {1, 1, 0, 0},        {7, 1, 0, 0},       {499, 1, 0, 0},     {500, 1, 0, 0},
                 {0, 0.5f, 0, 0},      {0, 0.95f, 0, 0},    {0, 0, 0, 0},       {0, 1, 0.1f, 0},    {0, 1, 1, 0},
                 {40, 0.9f, 0.05f, 0}, {0, 0.9f, 0.05f, 0}, {3, 0.5f, 0.5f, 0}, {0, 0, 0, 4},       {0, 1, 1, 6},
                 {40, 0.1f, 0.5f, 5},  {0, 0.1f, 0.5f, 5},  {3, 0, 0, 7},       {0, 0.9f, 0.05f, 1}};
    struct sampler s;
    struct err e;
    float l[N];
    int allowed[N];
    (void)state;
    assert_int_equal(sampler_init(&s, scalar_kernels(), N, &e), 0);
    for (size_t c = 0; c < COUNT_OF(cases); c++) {
        struct sampling p = plain;
        p.top_k = cases[c].k, p.top_p = cases[c].top_p, p.min_p = cases[c].min_p, p.min_keep = cases[c].min_keep;
        random_logits(l, (unsigned)c + 1);
        allowed_set(l, &p, allowed);
        int seen = 0, must = 0;
        bool hit[N] = {false};
        for (uint64_t step = 0; step < 5000; step++) {
            int32_t id;
            assert_int_equal(sampler_pick(&s, &p, l, NULL, 0, step, &id, &e), 0);
            assert_true(allowed[id]);
            hit[id] = true;
        }
        for (int i = 0; i < N; i++) seen += hit[i], must += allowed[i] == 1;
        assert_true(seen > 0 && (must > 20 || seen >= must)); /* small sets are drawn in full */
    }
    sampler_fini(&s);
}

/* What sampler_pick says it does, in as many words: all are put in order where a truncation asks for it. */
struct plain_candidate {
    float logit;
    int32_t id;
};
static int plain_order(const void *a, const void *b)
{
    const struct plain_candidate *x = a, *y = b;
    return x->logit > y->logit ? -1 : x->logit < y->logit ? 1 : x->id - y->id;
}
static int32_t plain_pick(const struct sampling *p, const float *l, int n_vocab, const uint64_t *mask, double u)
{
    struct plain_candidate *c = malloc((size_t)n_vocab * sizeof *c), best = {-INFINITY, -1};
    int n = 0, left = 0;
    for (int i = 0; i < n_vocab; i++) {
        if (!(l[i] > -INFINITY) || (mask && !(mask[i / 64] >> (i % 64) & 1))) continue;
        c[n++] = (struct plain_candidate){l[i], i};
        if (l[i] > best.logit) best = c[n - 1];
    }
    double sum = 0, total = 0;
    if (n && p->temperature > 0 && best.logit < INFINITY) {
        if (p->top_k && (int)p->top_k < n) qsort(c, (size_t)n, sizeof *c, plain_order), n = (int)p->top_k;
        for (int i = 0; i < n; i++) total += (double)num_exp(c[i].logit - best.logit);
        if (p->top_p < 1 || p->min_p > 0) {
            qsort(c, (size_t)n, sizeof *c, plain_order);
            for (int i = 0; i < n; i++) {
                const float w = num_exp(c[i].logit - best.logit);
                if (i > 0 && ((p->top_p < 1 && sum >= (double)p->top_p * total) || w < p->min_p)) break;
                sum += (double)w;
                left++;
            }
            n = left;
        }
        sum = total = 0;
        for (int i = 0; i < n; i++) total += (double)num_exp((c[i].logit - best.logit) / p->temperature);
        for (int i = 0; i < n && sum <= u * total; i++) {
            best.id = c[i].id;
            sum += (double)num_exp((c[i].logit - best.logit) / p->temperature);
        }
    }
    free(c);
    return best.id;
}

/* Element `step` of the sequence of seed 0. */
static double splitmix(uint64_t step)
{
    uint64_t z = (step + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

/* Sizes around the blocks in which logits are looked at, ties, what is no number, masks. */
static void picks_are_those_of_the_plain_steps(void **state)
{
    enum { MOST = 700 };
    static const float odd[] = {NAN, -INFINITY, INFINITY};
    uint64_t seed = 7, mask[MOST / 64 + 1];
    float l[MOST];
    struct err e;
    (void)state;
    const size_t rounds = scratch_rounds(20000);
    for (size_t r = 0; r < rounds; r++) {
        struct sampler s;
        struct sampling p = plain;
        const int n = 1 + (int)scratch_below(&seed, MOST), levels = 1 + (int)scratch_below(&seed, 2000);
        const bool masked = scratch_below(&seed, 3) == 0, wide = scratch_below(&seed, 2);
        p.temperature = (float)scratch_below(&seed, 4) * 0.5f;
        p.top_k = scratch_below(&seed, 2) ? 0 : scratch_below(&seed, (uint32_t)n + 3);
        p.top_p = scratch_below(&seed, 2) ? 1 : (float)scratch_below(&seed, 100) * 0.01f;
        p.min_p = scratch_below(&seed, 2) ? 0 : (float)scratch_below(&seed, 100) * 0.01f;
        for (int i = 0; i < n; i++) {
            l[i] = (float)scratch_below(&seed, (uint32_t)levels) * (wide ? 0.05f : 0.002f) - 1;
            if (scratch_below(&seed, 50) == 0) l[i] = odd[scratch_below(&seed, scratch_below(&seed, 50) ? 2 : 3)];
        }
        for (size_t i = 0; i < COUNT_OF(mask); i++)
            mask[i] = scratch_below(&seed, 2) ? 0 : (uint64_t)scratch_below(&seed, UINT32_MAX) << scratch_below(&seed, 33);
        const int32_t expected = plain_pick(&p, l, n, masked ? mask : NULL, splitmix(r));
        int32_t id = -1;
        assert_int_equal(sampler_init(&s, scalar_kernels(), (uint32_t)n, &e), 0);
        s.allowed = masked ? mask : NULL;
        assert_int_equal(sampler_pick(&s, &p, l, NULL, 0, r, &id, &e), expected >= 0 ? 0 : masked ? ERR_ARG : ERR_FORMAT);
        assert_int_equal(id, expected);
        sampler_fini(&s);
    }
}

static void frequencies_follow_the_softmax(void **state)
{
    struct sampler s;
    struct err e;
    float l[N];
    int count[N] = {0}, rounds = 200000;
    struct sampling p = plain;
    (void)state;
    assert_int_equal(sampler_init(&s, scalar_kernels(), N, &e), 0);
    for (int i = 0; i < N; i++) l[i] = i < 8 ? (float)i * 0.5f : -INFINITY;
    p.temperature = 0.7f;
    for (int i = 0; i < rounds; i++) {
        int32_t id;
        p.seed = 99;
        assert_int_equal(sampler_pick(&s, &p, l, NULL, 0, (uint64_t)i, &id, &e), 0);
        count[id]++;
    }
    double total = 0, chi = 0;
    for (int i = 0; i < 8; i++) total += exp(i * 0.5 / 0.7);
    for (int i = 0; i < 8; i++) {
        double want = rounds * exp(i * 0.5 / 0.7) / total;
        chi += (count[i] - want) * (count[i] - want) / want;
    }
    for (int i = 8; i < N; i++) assert_int_equal(count[i], 0);
    assert_true(chi < 24.3); /* 7 degrees of freedom, p = 0.001 */
    sampler_fini(&s);
}

static void greedy_takes_the_first_of_the_best(void **state)
{
    struct sampler s;
    struct err e;
    float l[N];
    int32_t id;
    struct sampling p = plain;
    (void)state;
    assert_int_equal(sampler_init(&s, scalar_kernels(), N, &e), 0);
    for (int i = 0; i < N; i++) l[i] = i == 77 || i == 300 ? 3.0f : (float)(i % 5) * 0.1f;
    p.temperature = 0;
    assert_int_equal(sampler_pick(&s, &p, l, NULL, 0, 0, &id, &e), 0);
    assert_int_equal(id, 77);
    l[10] = NAN; /* not a number: never chosen */
    assert_int_equal(sampler_pick(&s, &p, l, NULL, 0, 0, &id, &e), 0);
    assert_int_equal(id, 77);
    const struct bias bias[] = {{77, -INFINITY}, {5, 100}};
    p.bias = bias, p.n_bias = 1;
    assert_int_equal(sampler_pick(&s, &p, l, NULL, 0, 0, &id, &e), 0);
    assert_int_equal(id, 300);
    p.n_bias = 2;
    assert_int_equal(sampler_pick(&s, &p, l, NULL, 0, 0, &id, &e), 0);
    assert_int_equal(id, 5);
    struct bias all[N];
    for (int i = 0; i < N; i++) all[i] = (struct bias){i, -INFINITY};
    p.bias = all, p.n_bias = N;
    assert_int_equal(sampler_pick(&s, &p, l, NULL, 0, 0, &id, &e), ERR_ARG); /* it is not the model's fault */
    p.n_bias = 0;
    p.temperature = 1e-39f; /* the smallest temperatures are greedy, too */
    l[77] = 3.5f;
    assert_int_equal(sampler_pick(&s, &p, l, NULL, 0, 0, &id, &e), 0);
    assert_int_equal(id, 77);
    for (int i = 0; i < N; i++) l[i] = NAN;
    assert_int_equal(sampler_pick(&s, &p, l, NULL, 0, 0, &id, &e), ERR_FORMAT);
    sampler_fini(&s);
}

static void penalties_count_the_window(void **state)
{
    struct sampler s;
    struct err e;
    float l[N];
    int32_t id, history[] = {9, 4, 4, 7, 4};
    struct sampling p = plain;
    (void)state;
    assert_int_equal(sampler_init(&s, scalar_kernels(), N, &e), 0);
    for (int i = 0; i < N; i++) l[i] = -5.0f;
    p.temperature = 0;
    l[4] = 4.0f, l[7] = 2.6f, l[9] = 0.7f;
    p.repeat_penalty = 2, p.presence_penalty = 0.5f, p.frequency_penalty = 0.25f;
    /* 4, three times in the window: 4 / 2 - 0.5 - 3 * 0.25 = 0.75; 7, once: 1.3 - 0.5 - 0.25 = 0.55; 9: below 0. */
    assert_int_equal(sampler_pick(&s, &p, l, history, 5, 0, &id, &e), 0);
    assert_int_equal(id, 4);
    p.frequency_penalty = 0.4f; /* 4: 0.3; 7: 0.4 */
    assert_int_equal(sampler_pick(&s, &p, l, history, 5, 0, &id, &e), 0);
    assert_int_equal(id, 7);
    p.penalty_last_n = 3; /* the window is 4 7 4. 4: 2 - 0.5 - 0.8 = 0.7 < 9, which is outside of it */
    l[9] = 0.71f;
    assert_int_equal(sampler_pick(&s, &p, l, history, 5, 0, &id, &e), 0);
    assert_int_equal(id, 9);
    for (uint32_t i = 0; i < N; i++) assert_int_equal(s.count[i], 0);
    sampler_fini(&s);
}

static void the_draw_is_a_function_of_seed_and_step(void **state)
{
    struct sampler a, b;
    struct err e;
    float l[N];
    int differ = 0;
    struct sampling p = plain;
    (void)state;
    assert_int_equal(sampler_init(&a, scalar_kernels(), N, &e), 0);
    assert_int_equal(sampler_init(&b, scalar_kernels(), N, &e), 0);
    random_logits(l, 3);
    for (uint64_t step = 100; step-- > 0;) { /* in any order */
        int32_t x, y, z;
        p.seed = 42;
        assert_int_equal(sampler_pick(&a, &p, l, NULL, 0, step, &x, &e), 0);
        assert_int_equal(sampler_pick(&b, &p, l, NULL, 0, step, &y, &e), 0);
        p.seed = 43;
        assert_int_equal(sampler_pick(&b, &p, l, NULL, 0, step, &z, &e), 0);
        assert_int_equal(x, y);
        differ += x != z;
    }
    assert_true(differ > 50);
    sampler_fini(&a);
    sampler_fini(&b);
}

static void wrong_parameters_are_named(void **state)
{
    struct err e;
    struct sampling p = plain;
    const struct bias bias = {N, 1};
    (void)state;
    assert_int_equal(sampling_check(&p, N, &e), 0);
    p.temperature = NAN;
    assert_int_equal(sampling_check(&p, N, &e), ERR_ARG);
    assert_non_null(strstr(e.msg, "temperature"));
    p = plain;
    p.top_p = 1.5f;
    assert_int_equal(sampling_check(&p, N, &e), ERR_ARG);
    p = plain;
    p.bias = &bias, p.n_bias = 1;
    assert_int_equal(sampling_check(&p, N, &e), ERR_ARG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_only_what_truncation_leaves), cmocka_unit_test(picks_are_those_of_the_plain_steps),
        cmocka_unit_test(frequencies_follow_the_softmax),    cmocka_unit_test(greedy_takes_the_first_of_the_best),
        cmocka_unit_test(penalties_count_the_window),        cmocka_unit_test(the_draw_is_a_function_of_seed_and_step),
        cmocka_unit_test(wrong_parameters_are_named),
    };
    return cmocka_run_group_tests_name("sampler", tests, NULL, NULL);
}
