/* bench_speculate: how much faster answers come with speculation, on three kinds of work:
 *
 *   chat   what people ask
 *   edit   a text given back with changes, as in the editing of code
 *   hard   words in no order, where every pair has occurred before and says nothing about what follows
 *
 * The answers of the last two are forced by a grammar, so that they do not depend on what the model is able to do; it computes
 * and draws each token as always. In each repetition every prompt is answered twice, one by one and with speculation, in turns
 * the other way round, and both answers must be the same. A prompt comes again only after all others, so that the draft model
 * reads it anew each time. */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- the work ---------------------------------------------------------------------------------------------------------- */

const char *const bench_works[BENCH_WORKS] = {"chat", "edit", "hard"};

/* What is asked, and the answer that is forced, empty where the model is free. Both end with a NUL. */
struct task {
    struct buf prompt, answer;
};

static const char *const chats[] = {
    "Tell me a story about a little fox who lost her scarf.",
    "What is the capital of France?",
    "Write a letter to my friend Anna about a rainy day.",
    "Why is the sky blue?",
    "Tell me a story about a boy who found a small boat.",
    "How do I make tea?",
    "Write a poem about the sea.",
    "What can I do with old paper?",
};

static const struct {
    const char *wish, *text, *from, *to; /* every `from` of the text becomes `to` */
} edits[] = {
    {"Rename the parameter first to left.",
     "int add(int first, int second) {\n"
     "    return first + second;\n"
     "}\n\n"
     "int subtract(int first, int second) {\n"
     "    return first - second;\n"
     "}\n\n"
     "int multiply(int first, int second) {\n"
     "    return first * second;\n"
     "}\n",
     "first", "left"},
    {"Use four decimals.",
     "def report(rows):\n"
     "    for name, price, weight in rows:\n"
     "        print(name)\n"
     "        print('price', round(price, 2))\n"
     "        print('weight', round(weight, 2))\n"
     "    print('rows', len(rows))\n"
     "    return len(rows)\n",
     ", 2)", ", 4)"},
    {"Open the file for writing.",
     "FILE *open_log(const char *path) {\n"
     "    FILE *file = fopen(path, \"r\");\n"
     "    if (file == NULL) {\n"
     "        print_error(path);\n"
     "        return NULL;\n"
     "    }\n"
     "    count_open_files = count_open_files + 1;\n"
     "    return file;\n"
     "}\n",
     "\"r\"", "\"w\""},
};

#define N_HARD 20 /* prompts */
#define HARD_WORDS 100
#define TASKS_MAX 20

static int put_changed(struct buf *b, const char *text, const char *from, const char *to)
{
    for (const char *at; (at = strstr(text, from)); text = at + strlen(from)) {
        TRY(buf_put(b, text, (size_t)(at - text)));
        TRY(buf_z(b, to));
    }
    return buf_z(b, text);
}

static int put_words(struct buf *b, uint32_t *random, uint32_t n)
{
    static const char *const words[] = {"red ", "blue ", "green ", "cat ", "dog ", "bird "};
    for (uint32_t i = 0; i < n; i++) {
        *random = *random * 1664525u + 1013904223u;
        TRY(buf_z(b, words[(uint64_t)*random * COUNT_OF(words) >> 32]));
    }
    return 0;
}

/* Of chats, edits and hard prompts task i; n: tokens of its answer at most. */
static int make_chat(uint32_t i, uint32_t n, struct task *t)
{
    (void)n;
    return buf_z(&t->prompt, chats[i]);
}

static int make_edit(uint32_t i, uint32_t n, struct task *t)
{
    (void)n;
    TRY(buf_printf(&t->prompt, "%s\n\n%s", edits[i].wish, edits[i].text));
    return put_changed(&t->answer, edits[i].text, edits[i].from, edits[i].to);
}

static int make_hard(uint32_t i, uint32_t n, struct task *t)
{
    uint32_t random = i + 1;
    TRY(put_words(&t->prompt, &random, HARD_WORDS));
    return put_words(&t->answer, &random, n);
}

/* In the order of bench_works. */
static const struct work {
    int (*make)(uint32_t i, uint32_t n, struct task *t);
    uint32_t n_tasks;
} works[BENCH_WORKS] = {{make_chat, COUNT_OF(chats)}, {make_edit, COUNT_OF(edits)}, {make_hard, N_HARD}};

static const struct work *find_work(const char *name)
{
    size_t i = 0;
    while (i + 1 < BENCH_WORKS && strcmp(bench_works[i], name) != 0) i++;
    return &works[i];
}

static int make_task(const struct work *w, uint32_t i, uint32_t n, struct task *t)
{
    t->prompt.n = t->answer.n = 0;
    TRY(w->make(i, n, t));
    TRY(buf_c(&t->prompt, 0));
    return buf_c(&t->answer, 0);
}

/* ---- one answer -------------------------------------------------------------------------------------------------------- */

struct bench {
    const quern_model *model;
    quern_session *session;
    bool chats; /* the model has a chat template; else it continues the prompt */
};

/* A grammar of one text. */
static int put_grammar(struct buf *b, const char *text)
{
    TRY(buf_z(b, "root ::= "));
    TRY(json_write_string(b, str_of(text)));
    return buf_c(b, 0);
}

static int put_messages(struct buf *b, const char *prompt)
{
    TRY(buf_z(b, "[{\"role\":\"user\",\"content\":"));
    TRY(json_write_string(b, str_of(prompt)));
    TRY(buf_z(b, "}]"));
    return buf_c(b, 0);
}

/* The hash of the tokens of an answer. */
static int on_token(void *user, int32_t id)
{
    uint64_t *hash = user;
    *hash = (*hash ^ (uint32_t)id) * 0x100000001b3u;
    return 0;
}

static int generate(const struct bench *b, const char *prompt, const quern_generate_options *o, quern_result *r, struct err *e)
{
    quern_error qe = {0};
    quern_tokens ids = {0};
    struct buf messages = {0};
    int rc = 0;
    if (b->chats) {
        if (put_messages(&messages, prompt) < 0)
            rc = fail_nomem(e, "a prompt", strlen(prompt));
        else if (quern_chat(b->session, messages.p, o, r, &qe) < 0)
            rc = fail(e, qe.code, "%s", qe.message);
        buf_fini(&messages);
        return rc;
    }
    if (quern_tokenize(b->model, prompt, strlen(prompt), QUERN_ADD_SPECIAL, &ids, &qe) < 0 ||
        quern_generate(b->session, ids.ids, ids.count, o, r, &qe) < 0)
        rc = fail(e, qe.code, "%s", qe.message);
    quern_tokens_free(&ids);
    return rc;
}

static int answer(const struct bench *b, const struct task *t, uint32_t n, bool speculate, quern_result *r, uint64_t *hash,
                  struct err *e)
{
    struct buf grammar = {0};
    quern_sampling greedy = quern_sampling_default();
    greedy.temperature = 0;
    const bool forced = t->answer.n > 1;
    if (cli_interrupted()) return fail(e, ERR_CANCELLED, "interrupted");
    if (forced && put_grammar(&grammar, t->answer.p) < 0) return fail_nomem(e, "a grammar", t->answer.n);
    const quern_generate_options o = {.sampling = &greedy,
                                      .max_tokens = n,
                                      .on_token = on_token,
                                      .user = hash,
                                      .speculate = speculate ? QUERN_SPECULATE_AUTO : QUERN_SPECULATE_OFF,
                                      .form = {.kind = forced ? QUERN_FORM_GBNF : QUERN_FORM_FREE, .text = grammar.p}};
    *hash = 0;
    const int rc = generate(b, t->prompt.p, &o, r, e);
    buf_fini(&grammar);
    return rc;
}

/* ---- measuring --------------------------------------------------------------------------------------------------------- */

/* Seconds a token of each task: [0] one by one, [1] with speculation. */
typedef double task_times[2][TASKS_MAX][BENCH_REPEATS_MAX];

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, size_t n)
{
    qsort(v, n, sizeof *v, by_size);
    return (v[(n - 1) / 2] + v[n / 2]) / 2;
}

static int measure_task(const struct bench *b, const struct task *t, size_t first, struct bench_speculation *row,
                        double seconds[2], struct err *e)
{
    uint64_t hash[2];
    for (size_t i = 0; i < 2; i++) {
        const size_t way = first ^ i;
        quern_result r;
        TRY(answer(b, t, row->n, way == 1, &r, &hash[way], e));
        seconds[way] = r.decode_seconds / (double)size_max(r.n_generated, 2);
        row->n_drafted += r.n_drafted;
        row->n_accepted += r.n_accepted;
    }
    return hash[0] == hash[1] ? 0 : fail(e, ERR_FORMAT, "with speculation the model says something else: please report this");
}

static int measure_tasks(const struct bench *b, struct task *t, size_t n_repeats, struct bench_speculation *row,
                         task_times times, struct err *e)
{
    const struct work *w = find_work(row->work);
    double seconds[2];
    for (size_t k = 0; k < n_repeats; k++)
        for (uint32_t i = 0; i < w->n_tasks; i++) {
            if (make_task(w, i, row->n, t) < 0) return fail_nomem(e, "a prompt", t->prompt.n);
            TRY(measure_task(b, t, k % 2, row, seconds, e));
            for (size_t way = 0; way < 2; way++) times[way][i][k] = seconds[way];
        }
    return 0;
}

static void summarise(task_times times, size_t n_repeats, struct bench_speculation *row)
{
    const uint32_t n_tasks = find_work(row->work)->n_tasks;
    double sums[2] = {0};
    for (uint32_t i = 0; i < n_tasks; i++) {
        const double plain = median(times[0][i], n_repeats), speculative = median(times[1][i], n_repeats);
        sums[0] += plain;
        sums[1] += speculative;
        if (i == 0 || plain / speculative < row->worst) row->worst = plain / speculative;
    }
    row->plain = n_tasks / sums[0];
    row->speculative = n_tasks / sums[1];
}

static int measure(const struct bench *b, size_t n_repeats, struct bench_speculation *row, struct err *e)
{
    struct task t = {0};
    task_times *times = mem_alloc(sizeof *times);
    const int rc = times ? measure_tasks(b, &t, n_repeats, row, *times, e) : fail_nomem(e, "measurements", sizeof *times);
    if (rc == 0) summarise(*times, n_repeats, row);
    mem_free(times);
    buf_fini(&t.prompt);
    buf_fini(&t.answer);
    return rc;
}

int bench_speculate(const quern_model *model, const quern_session_info *setup, const quern_speculation *how, size_t n_repeats,
                    struct bench_speculation *row, struct err *e)
{
    quern_model_info info;
    quern_model_get_info(model, &info);
    const quern_session_options o = {.n_ctx = 2048 + row->n,
                                     .n_batch = setup->n_batch,
                                     .n_threads = setup->n_threads,
                                     .k_type = setup->k_type,
                                     .v_type = setup->v_type,
                                     .cpu_level = setup->cpu_level,
                                     .speculation = *how};
    struct bench b = {.model = model, .chats = info.has_chat_template};
    quern_error qe = {0};
    if (quern_session_new(model, &o, &b.session, &qe) < 0) return fail(e, qe.code, "%s", qe.message);
    const int rc = measure(&b, n_repeats, row, e);
    quern_session_free(&b.session);
    return rc;
}
