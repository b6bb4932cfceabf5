/* speculation: what lookup finds; that guesses cost next to nothing where they fail and pay where they hold, in simulated time;
 * that an answer with them is the answer without, also where it has a form, and its draws have the model's distribution. */
#include "convert/synth.h"
#include "run/speculate_int.h"
#include "scalar.h"
#include "scratch.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define N_VOCAB 300
#define N_CTX 512

static const struct synth_shape tiny = {"tiny", "llama", 2, 64, 96, 4, 2, 16, N_VOCAB, 1024, 10000, true, .traits = S_DENSE};

static struct fixture {
    char dir[64];
    struct files *files, *other_files;
    struct model *model, *other; /* the same shape with other weights */
    struct tok *tok;
    struct vocab *vocab;
    struct sampler sampler;
    uint64_t random;
} fx;

static uint32_t below(uint32_t n)
{
    return scratch_below(&fx.random, n);
}

static int setup(void **state)
{
    struct err e;
    (void)state;
    scratch_make(fx.dir);
    const char *path = scratch_path(fx.dir, "tiny.gguf"), *other = scratch_path(fx.dir, "other.gguf");
    if (synth_write(&tiny, "q8_0", path, NULL, NULL, &e) < 0 || files_open(path, &fx.files, &e) < 0 ||
        model_open(fx.files, &fx.model, &e) < 0 || tok_open_gguf(files_gguf(fx.files), &fx.tok, &e) < 0 ||
        vocab_new(fx.tok, NULL, 0, N_VOCAB, &fx.vocab, &e) < 0 || synth_write(&tiny, "bf16", other, NULL, NULL, &e) < 0 ||
        files_open(other, &fx.other_files, &e) < 0 || model_open(fx.other_files, &fx.other, &e) < 0 ||
        sampler_init(&fx.sampler, scalar_kernels(), N_VOCAB, &e) < 0) {
        print_message("%s\n", e.msg);
        return -1;
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    sampler_fini(&fx.sampler);
    vocab_free(&fx.vocab);
    tok_close(&fx.tok);
    model_close(&fx.model);
    model_close(&fx.other);
    files_close(&fx.files);
    files_close(&fx.other_files);
    scratch_remove(fx.dir);
    return 0;
}

/* ---- lookup ------------------------------------------------------------------------------------------------------------ */

static void lookup_finds_the_longest_and_latest(void **state)
{
    static const struct {
        int32_t tokens[16];
        uint32_t n, at, same;
    } rows[] = {
        {{1, 2}, 2, 0, 0},                                      /* too short */
        {{1, 2, 3, 4}, 4, 0, 0},                                /* nothing occurs twice */
        {{1, 2, 3, 1, 2}, 5, 2, 2},                             /* a pair */
        {{1, 2, 3, 1, 2, 4, 1, 2}, 8, 5, 2},                    /* of two that are as long, the later */
        {{9, 1, 2, 3, 8, 1, 2, 4, 9, 1, 2}, 11, 3, 3},          /* the longer before the later */
        {{5, 5, 5, 5}, 4, 3, 3},                                /* what repeats itself follows itself */
        {{7, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6}, 14, 7, 6}, /* a long one */
    };
    (void)state;
    for (size_t r = 0; r < COUNT_OF(rows); r++) {
        struct arena a = {0};
        struct lookup l;
        struct err e;
        uint32_t same;
        assert_int_equal(lookup_init(&l, &a, rows[r].tokens, 16, &e), 0);
        for (uint32_t n = 1; n <= rows[r].n; n++) lookup_extend(&l, n);
        const uint32_t at = lookup_find(&l, &same);
        assert_int_equal(same, rows[r].same);
        if (same) assert_int_equal(at, rows[r].at);
        lookup_clear(&l);
        lookup_extend(&l, rows[r].n);
        assert_int_equal(lookup_find(&l, &same), at);
        arena_fini(&a);
    }
}

/* The longest suffix of t [n] that ends earlier, too. */
static uint32_t longest_match(const int32_t *t, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t end = 1; end < n; end++) {
        uint32_t same = 0;
        while (same < end && t[end - 1 - same] == t[n - 1 - same]) same++;
        if (same > best) best = same;
    }
    return best;
}

static void lookup_finds_what_a_search_finds(void **state)
{
    int32_t tokens[200];
    struct lookup l;
    struct err e;
    (void)state;
    fx.random = 5;
    for (uint32_t run = 0; run < 200; run++) {
        struct arena a = {0};
        const uint32_t n_words = 1 + run % 9;
        assert_int_equal(lookup_init(&l, &a, tokens, COUNT_OF(tokens), &e), 0);
        for (uint32_t n = 1; n <= COUNT_OF(tokens); n++) {
            uint32_t same;
            tokens[n - 1] = n > 50 && below(4) ? tokens[n - 1 - 40] : (int32_t)below(n_words);
            lookup_extend(&l, n);
            const uint32_t at = lookup_find(&l, &same), want = longest_match(tokens, n);
            assert_int_equal(same, want >= 2 ? want : 0);
            if (same) assert_memory_equal(tokens + at - same, tokens + n - same, same * sizeof *tokens);
            if (same) assert_in_range(at, same, n - 1);
        }
        arena_fini(&a);
    }
}

/* ---- other vocabularies ------------------------------------------------------------------------------------------------ */

#define BYTE_LEVEL "\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true"

static struct tok *open_vocabulary(const char *vocab, int32_t end)
{
    char json[1024];
    struct tok *t;
    struct err e;
    (void)snprintf(json, sizeof json,
                   "{\"added_tokens\":[{\"id\":%d,\"content\":\"<end>\",\"special\":true}],"
                   "\"pre_tokenizer\":{" BYTE_LEVEL "},\"decoder\":{" BYTE_LEVEL "},"
                   "\"model\":{\"type\":\"BPE\",\"vocab\":{%s},\"merges\":[]}}",
                   end, vocab);
    if (tok_open_hf(str_of(json), NULL, NULL, "vocabulary", &t, &e) < 0) fail_msg("%s", e.msg);
    return t;
}

static void tokens_are_mapped_by_their_text(void **state)
{
    static const int32_t want[] = {3, 2, 0, 1, ~1, ~2, 4};
    struct tok *large = open_vocabulary("\"a\":0,\"b\":1,\"\\u0120\":2,\"ab\":3,\"\\u0120ab\":4,\"cb\":5", 6);
    struct tok *draft = open_vocabulary("\"\\u0120\":0,\"ab\":1,\"b\":2,\"a\":3", 4);
    struct tok *strange = open_vocabulary("\"p\":0,\"q\":1,\"r\":2,\"s\":3,\"t\":4,\"u\":5,\"v\":6,\"w\":7", 8);
    struct arena a = {0};
    struct err e;
    int32_t *map;
    (void)state;
    assert_int_equal(draft_map_new(large, 7, large, 7, &a, &map, &e), 0);
    assert_null(map);
    if (draft_map_new(large, 7, draft, 5, &a, &map, &e) < 0) fail_msg("%s", e.msg);
    assert_memory_equal(map, want, sizeof want);
    assert_int_equal(draft_map_new(large, 8, strange, 9, &a, &map, &e), ERR_ARG);
    print_message("%s\n", e.msg);
    arena_fini(&a);
    tok_close(&large);
    tok_close(&draft);
    tok_close(&strange);
}

/* ---- cost, in simulated time ------------------------------------------------------------------------------------------- */

/* Sequences, by what comes next. */
static int32_t random_pairs(const int32_t *t, uint32_t n) /* every pair has occurred, and says nothing */
{
    (void)t;
    (void)n;
    return (int32_t)below(8);
}

static int32_t liar(const int32_t *t, uint32_t n) /* repeats itself for eight tokens, and then goes on in another way */
{
    return n < 16 || n % 9 == 0 ? (int32_t)(n * 31 % 290) : t[n - 9];
}

static int32_t turncoat(const int32_t *t, uint32_t n) /* repeats itself for a hundred tokens, and then is arbitrary */
{
    return n % 200 < 100 && n > 20 ? t[n - 10] : (int32_t)below(6);
}

static int32_t fresh(const int32_t *t, uint32_t n) /* nothing occurs twice */
{
    (void)t;
    return (int32_t)n;
}

static int32_t copy(const int32_t *t, uint32_t n) /* says the prompt again */
{
    return n < 64 ? (int32_t)below(290) : t[n - 64];
}

/* Seconds of a step: a token's share rows cost more or less beside it; other work on the machine disturbs it. */
static double step_seconds(uint32_t rows, double share, bool disturbed)
{
    const double noise = disturbed ? (below(20) ? 0.05 * below(100) / 100 : 3.0) : 0;
    return 1e-3 * (1 + share * (rows - 1)) * (1 + noise);
}

/* Time of an answer with guesses as a part of that without, by what steps take when they are not disturbed. */
static double simulate(struct speculator *s, int32_t (*next)(const int32_t *, uint32_t), uint32_t n_answer, double share,
                       bool disturbed)
{
    int32_t tokens[N_CTX];
    struct arena a = {0};
    struct guesser *g;
    struct err e;
    const struct guess_options o = {0};
    double spent = 0;
    uint32_t n = 0;
    assert_int_equal(guesser_new(s, &a, N_CTX, NULL, 0, &g, &e), 0);
    while (n < 64) tokens[n] = next(tokens, n), n++;
    guesser_begin(g, &o, tokens, n);
    tokens[n] = next(tokens, n);
    guesser_add(g, tokens[n++]);
    const uint32_t begin = n;
    while (n < begin + n_answer) {
        uint32_t n_guesses, i = 0;
        speculator_guess(s, &g, 1, SPECULATE_MAX);
        const int32_t *guesses = guesser_guesses(g, &n_guesses);
        int32_t made[SPECULATE_MAX];
        memcpy(made, guesses, n_guesses * sizeof *made);
        do {
            tokens[n] = next(tokens, n);
            guesser_add(g, tokens[n++]);
        } while (i < n_guesses && made[i++] == tokens[n - 1] && n < begin + n_answer);
        spent += step_seconds(1 + n_guesses, share, false);
        speculator_learn(s, &g, 1, step_seconds(1 + n_guesses, share, disturbed));
    }
    guesser_end(g);
    arena_fini(&a);
    return spent / ((n - begin) * step_seconds(1, share, false));
}

static struct speculator *new_speculator(struct graph *g)
{
    const struct speculator_options o = {.n_seqs = 1, .n_ctx = N_CTX, .n_batch = 64};
    struct speculator *s;
    struct err e;
    *g = (struct graph){0};
    assert_int_equal(speculator_new(g, fx.model, &o, &s, &e), 0);
    return s;
}

static void guesses_never_cost_much(void **state)
{
    static int32_t (*const sequences[])(const int32_t *, uint32_t) = {random_pairs, liar, turncoat, fresh, copy};
    static const double shares[] = {0.02, 0.1, 0.3, 0.6, 1.0};
    struct graph graph;
    (void)state;
    for (size_t q = 0; q < COUNT_OF(sequences); q++)
        for (size_t h = 0; h < COUNT_OF(shares); h++)
            for (uint32_t seed = 0; seed < 1 + scratch_rounds(16); seed++) {
                const bool disturbed = seed > 0;
                fx.random = seed;
                struct speculator *s = new_speculator(&graph);
                for (uint32_t run = 0; run < 8; run++) {
                    const double ratio = simulate(s, sequences[q], 256, shares[h], disturbed);
                    if (ratio > 1.02)
                        fail_msg("sequence %zu, %g a row, run %u, seed %u: %.4f of the time", q, shares[h], run, seed, ratio);
                }
                speculator_free(&s);
            }
}

static void guesses_that_hold_pay(void **state)
{
    struct graph graph;
    (void)state;
    static const struct {
        double share, most;
    } rows[] = {{0.02, 0.25}, {0.1, 0.35}, {0.3, 0.6}};
    for (size_t r = 0; r < COUNT_OF(rows); r++) {
        struct speculator *s = new_speculator(&graph);
        const double first = simulate(s, copy, 256, rows[r].share, false),
                     second = simulate(s, copy, 256, rows[r].share, false);
        if (first > rows[r].most || second > rows[r].most)
            fail_msg("%g a row: %.3f, then %.3f of the time", rows[r].share, first, second);
        speculator_free(&s);
    }
}

/* An answer that nothing in front of it resembles, but for what was expected of it: with that it takes a part of the time. */
static void what_is_expected_is_guessed(void **state)
{
    enum { N = 200, N_PROMPT = 8 };
    const struct guess_options o = {0};
    struct graph graph;
    int32_t expected[N], wrong[N];
    uint32_t steps[3] = {0};
    (void)state;
    for (int32_t i = 0; i < N; i++) expected[i] = 1000 + i, wrong[i] = 5000 + i;
    for (int kind = 0; kind < 3; kind++) { /* nothing is expected; the answer; another one */
        struct speculator *s = new_speculator(&graph);
        struct arena a = {0};
        struct guesser *g;
        struct err e;
        for (int run = 0; run < 3; run++) {
            uint32_t at = 0;
            const int32_t prompt[N_PROMPT] = {1, 2, 3, 4, 5, 6, 7, 8};
            assert_int_equal(guesser_new(s, &a, 512, kind == 1 ? expected : wrong, kind ? N : 0, &g, &e), 0);
            guesser_begin(g, &o, prompt, N_PROMPT);
            guesser_add(g, expected[at++]);
            for (steps[kind] = 0; at < N; steps[kind]++) {
                uint32_t n, i = 0;
                speculator_guess(s, &g, 1, SPECULATE_MAX);
                const int32_t *guesses = guesser_guesses(g, &n);
                int32_t made[SPECULATE_MAX];
                memcpy(made, guesses, n * sizeof *made);
                do guesser_add(g, expected[at++]);
                while (i < n && made[i++] == expected[at - 1] && at < N);
                speculator_learn(s, &g, 1, step_seconds(1 + n, 0.05, false));
            }
            const struct guess_counts c = guesser_counts(g);
            assert_int_equal(c.expected, c.guessed); /* nothing else could be guessed from */
            assert_int_equal(c.expected_right, c.right);
            guesser_end(g);
        }
        speculator_free(&s);
        arena_fini(&a);
    }
    assert_int_equal(steps[0], N - 1);
    assert_true(steps[1] < N / 4);
    assert_int_equal(steps[2], N - 1);
}

/* Guesses cost much for a while, as beside other work: then they pay again, and are made again. */
static void what_was_dear_is_tried_again(void **state)
{
    struct graph graph;
    double last = 1;
    (void)state;
    struct speculator *s = new_speculator(&graph);
    for (uint32_t i = 0; i < 2; i++) simulate(s, copy, 128, 2, false);
    for (uint32_t i = 0; i < 4; i++) last = simulate(s, copy, 256, 0.1, false);
    if (last > 0.4) fail_msg("%.3f of the time", last);
    speculator_free(&s);
}

/* ---- answers ----------------------------------------------------------------------------------------------------------- */

struct run {
    int32_t ids[64];
    uint32_t n;
    char text[1024];
    size_t n_text;
};

static int keep_id(void *user, int32_t id)
{
    struct run *r = user;
    r->ids[r->n++] = id;
    return r->n == 60;
}

static int keep_text(void *user, const char *text, size_t n)
{
    struct run *r = user;
    if (r->n_text + n > sizeof r->text) return 1;
    memcpy(r->text + r->n_text, text, n);
    r->n_text += n;
    return 0;
}

static struct session *new_session(void)
{
    const struct session_options o = {.n_ctx = 128, .n_batch = 64, .n_threads = 1, .k_type = QTYPE_F16, .v_type = QTYPE_F16};
    struct session *s;
    struct err e;
    if (session_new(fx.model, &o, &s, &e) < 0) fail_msg("%s", e.msg);
    return s;
}

static struct generate_result answer(struct session *s, struct guesser *g, struct generate_options o, const int32_t *prompt,
                                     uint32_t n, struct run *r)
{
    struct generate_result result;
    struct err e;
    *r = (struct run){0};
    o.guesser = g;
    o.on_token = keep_id;
    o.on_text = keep_text;
    o.user = r;
    if (generate(s, fx.tok, &fx.sampler, prompt, n, &o, &result, &e) < 0) fail_msg("%s", e.msg);
    return result;
}

/* form: the answers follow a grammar. */
static void compare_answers(bool form)
{
    struct session *plain = new_session(), *guessing = new_session();
    static const struct str stops[] = {STR("e"), STR("th")};
    const struct constraint_options grammar = {
        .vocab = fx.vocab, .kind = GRAMMAR_GBNF, .text = STR("root ::= ([^a-m]{1,3} [a-m])*"), .n_vocab = N_VOCAB};
    const uint32_t n_answers = scratch_slow() ? 8 : 40;
    struct err e;
    fx.random = 11;
    for (uint32_t kind = 0; kind < 4; kind++) {
        const struct speculate_options how = {
            .how = kind == 0 ? SPECULATE_LOOKUP : SPECULATE_AUTO, .draft = kind == 1 ? fx.other : fx.model, .always = kind < 3};
        struct arena a = {0};
        struct speculator *s;
        struct guesser *g;
        uint32_t n_right = 0;
        assert_int_equal(session_speculator(guessing, &how, &s, &e), 0);
        assert_int_equal(guesser_new(s, &a, 128, NULL, 0, &g, &e), 0);
        for (uint32_t i = 0; i < n_answers; i++) {
            int32_t prompt[100];
            struct run want, got;
            const uint32_t n = 1 + below(90);
            for (uint32_t k = 0; k < n; k++) prompt[k] = (int32_t)below(i % 2 ? N_VOCAB : 4);
            const struct generate_options o = {.sampling = {.temperature = below(2) ? 0.0f : 0.8f,
                                                            .top_k = 40,
                                                            .top_p = 0.95f,
                                                            .repeat_penalty = below(2) ? 1.0f : 1.2f,
                                                            .penalty_last_n = 32,
                                                            .seed = i},
                                               .max_tokens = below(3) ? 1 + below(50) : 0,
                                               .stop = stops,
                                               .n_stop = below(2) ? 2 : 0,
                                               .ignore_eos = true,
                                               .constraint = form ? grammar : (struct constraint_options){0}};
            const struct generate_result x = answer(plain, NULL, o, prompt, n, &want);
            const struct generate_result y = answer(guessing, g, o, prompt, n, &got);
            n_right += y.guesses.right;
            assert_int_equal(got.n, want.n);
            assert_memory_equal(got.ids, want.ids, want.n * sizeof *want.ids);
            assert_int_equal(got.n_text, want.n_text);
            assert_memory_equal(got.text, want.text, want.n_text);
            assert_int_equal(y.stop, x.stop);
            assert_int_equal(session_n_tokens(guessing), session_n_tokens(plain));
            assert_memory_equal(session_tokens(guessing), session_tokens(plain), session_n_tokens(plain) * sizeof(int32_t));
        }
        if (kind < 3) assert_true(n_right > n_answers);
        speculator_free(&s);
        arena_fini(&a);
    }
    session_free(&plain);
    session_free(&guessing);
}

static void an_answer_is_the_same(void **state)
{
    (void)state;
    compare_answers(false);
}

static void an_answer_of_a_form_is_the_same(void **state)
{
    (void)state;
    compare_answers(true);
}

static void probabilities(struct session *s, const int32_t *tokens, uint32_t n, double out[N_VOCAB])
{
    struct err e;
    double sum = 0;
    session_truncate(s, 0);
    assert_int_equal(session_eval(s, tokens, n, NULL, NULL, &e), 0);
    const float *logits = session_logits(s);
    for (uint32_t i = 0; i < N_VOCAB; i++) sum += out[i] = exp((double)logits[i]);
    for (uint32_t i = 0; i < N_VOCAB; i++) out[i] /= sum;
}

/* The second token is drawn from a row that a guess, mostly a wrong one, stood beside. Tokens are put into eight bins. */
static void draws_have_the_distribution_of_the_model(void **state)
{
    enum { N_BINS = 8 };
    const uint32_t n_runs = scratch_slow() ? 400 : 4000;
    const int32_t prompt[] = {1, 2, 3, 4};
    struct session *s = new_session();
    const struct speculate_options how = {.how = SPECULATE_DRAFT, .draft = fx.other, .always = true};
    double p[N_VOCAB], expected[N_BINS] = {0}, x2 = 0;
    uint32_t seen[N_BINS] = {0}, n_guessed = 0;
    struct arena a = {0};
    struct speculator *sp;
    struct guesser *g;
    struct err e;
    (void)state;
    assert_int_equal(session_speculator(s, &how, &sp, &e), 0);
    assert_int_equal(guesser_new(sp, &a, 128, NULL, 0, &g, &e), 0);
    probabilities(s, prompt, 4, p);
    /* Over all first tokens: p(second) = sum of p(first) p(second | first). */
    for (int32_t t = 0; t < N_VOCAB; t++) {
        double q[N_VOCAB];
        const int32_t tokens[] = {1, 2, 3, 4, t};
        probabilities(s, tokens, 5, q);
        for (uint32_t i = 0; i < N_VOCAB; i++) expected[i * 7 % N_BINS] += p[t] * q[i];
    }
    for (uint32_t i = 0; i < n_runs; i++) {
        struct run r;
        const struct generate_options o = {
            .sampling = {.temperature = 1, .top_p = 1, .repeat_penalty = 1, .seed = i}, .max_tokens = 3, .ignore_eos = true};
        n_guessed += answer(s, g, o, prompt, 4, &r).guesses.guessed;
        seen[(uint32_t)r.ids[1] * 7 % N_BINS]++;
    }
    assert_true(n_guessed >= n_runs);
    for (uint32_t b = 0; b < N_BINS; b++) x2 += pow(seen[b] - n_runs * expected[b], 2) / (n_runs * expected[b]);
    print_message("chi square with 7 degrees of freedom: %.2f\n", x2);
    assert_true(x2 < 24.3); /* 0.1 % of draws from the true distribution are beyond */
    speculator_free(&sp);
    arena_fini(&a);
    session_free(&s);
}

static void nothing_is_allocated_while_writing(void **state)
{
    struct session *s = new_session();
    const struct speculate_options how = {.draft = fx.other, .always = true};
    struct arena a = {0};
    struct speculator *sp;
    struct guesser *g;
    struct err e;
    int32_t tokens[128] = {0};
    (void)state;
    assert_int_equal(session_speculator(s, &how, &sp, &e), 0);
    assert_int_equal(guesser_new(sp, &a, 128, NULL, 0, &g, &e), 0);
    const size_t calls = mem_stats().calls;
    const struct sampling greedy = {.top_p = 1, .repeat_penalty = 1};
    const struct guess_options o = {.sampling = &greedy};
    guesser_begin(g, &o, tokens, 20);
    for (uint32_t i = 0; i < 100; i++) {
        speculator_guess(sp, &g, 1, SPECULATE_MAX);
        guesser_add(g, (int32_t)(i * i % 7));
        speculator_learn(sp, &g, 1, 1e-3);
    }
    guesser_end(g);
    assert_int_equal(mem_stats().calls, calls);
    speculator_free(&sp);
    arena_fini(&a);
    session_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lookup_finds_the_longest_and_latest),
        cmocka_unit_test(lookup_finds_what_a_search_finds),
        cmocka_unit_test(tokens_are_mapped_by_their_text),
        cmocka_unit_test(guesses_never_cost_much),
        cmocka_unit_test(guesses_that_hold_pay),
        cmocka_unit_test(what_is_expected_is_guessed),
        cmocka_unit_test(what_was_dear_is_tried_again),
        cmocka_unit_test(an_answer_is_the_same),
        cmocka_unit_test(an_answer_of_a_form_is_the_same),
        cmocka_unit_test(draws_have_the_distribution_of_the_model),
        cmocka_unit_test(nothing_is_allocated_while_writing),
    };
    return cmocka_run_group_tests_name("speculation", tests, setup, teardown);
}
