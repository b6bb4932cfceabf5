/* quern bench: how fast a model reads prompts and answers, beside what the memory and the arithmetic units of this machine
 * allow. Limits are measured before and after the tests, in the same process, on the same weights; the best counts. */
#include "bench.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct bench_args {
    struct model_args model;
    struct compute_args compute;
    struct speculation_args speculation;
    const char *shape, *type, *prompts, *answers, *depths, *parallel, *format, *cache_dir;
    int64_t n_repeats;
    bool json, csv, markdown, no_cache, prefix;
};

#define BENCH(member) .offset = offsetof(struct bench_args, member)

static const struct opt bench_opts[] = {
    {"--shape", "NAME", "instead of a model: random weights with the shapes of NAME, made once and kept", .kind = OPT_TEXT,
     BENCH(shape)},
    {"--type", "TYPE,...", "of the weights of --shape, one after the other; default q8_0", .kind = OPT_TEXT, BENCH(type)},
    {"-p --n-prompt", "N,...", "prompts to read, in tokens; 0: none; default 512", .kind = OPT_TEXT, BENCH(prompts)},
    {"-n --n-gen", "N,...", "answers to write, in tokens; 0: none; default 64", .kind = OPT_TEXT, BENCH(answers)},
    {"-d --n-depth", "N,...", "tokens that stand before; default 0", .kind = OPT_TEXT, BENCH(depths)},
    {"--parallel", "N,...", "answers written at the same time; default 1", .kind = OPT_TEXT, BENCH(parallel)},
    {"--prefix", NULL, "also the time to the first token of each -p, computed, from memory and from disk", .kind = OPT_FLAG,
     BENCH(prefix)},
    {"-r --repetitions", "N", "measurements of each test, of which the median counts; default 3", .kind = OPT_INT, .min = 1,
     .max = BENCH_REPEATS_MAX, BENCH(n_repeats)},
    {"-o --output", "FORMAT", "text (default), json, csv or md", .kind = OPT_CHOICE, .choices = "text json csv md",
     BENCH(format)},
    {"--json", NULL, "the same as -o json", .kind = OPT_FLAG, BENCH(json)},
    {"--csv", NULL, "the same as -o csv", .kind = OPT_FLAG, BENCH(csv)},
    {"--markdown", NULL, "the same as -o md", .kind = OPT_FLAG, BENCH(markdown)},
    {"--cache-dir", "FOLDER", "where the weights of --shape are kept; default: quern in the user's cache folder",
     .kind = OPT_TEXT, BENCH(cache_dir)},
    {"--no-cache", NULL, "keep no weights of --shape: make them anew and remove them", .kind = OPT_FLAG, BENCH(no_cache)},
    {0},
};

static const struct opt_group bench_groups[] = {
    {"Model", model_opts, offsetof(struct bench_args, model)},
    {"Options", bench_opts, 0},
    {"Speculation", speculation_opts, offsetof(struct bench_args, speculation)},
    {"Computing", compute_opts, offsetof(struct bench_args, compute)},
    {0},
};

/* ---- what to measure -------------------------------------------------------------------------------------- */

#define LIST_MAX 16
#define TOKENS_MAX (1 << 20)

struct list {
    uint32_t v[LIST_MAX];
    size_t n;
};

/* Takes the next word off rest, up to a comma; false when there is none. */
static bool next_item(struct str *rest, struct str *item)
{
    if (rest->n == 0) return false;
    const char *comma = memchr(rest->p, ',', rest->n);
    size_t n = comma ? (size_t)(comma - rest->p) : rest->n;
    *item = (struct str){rest->p, n};
    n += comma != NULL;
    rest->p += n;
    rest->n -= n;
    return true;
}

static int parse_list(const char *name, const char *text, struct list *out, struct err *e)
{
    struct str rest = str_of(text), item;
    uint64_t v;
    *out = (struct list){0};
    while (next_item(&rest, &item)) {
        if (!str_u64(item, &v) || v > TOKENS_MAX)
            return fail(e, ERR_ARG, "%s takes whole numbers up to %d, parted by commas, not '%.100s'", name, TOKENS_MAX, text);
        if (out->n == LIST_MAX) return fail(e, ERR_ARG, "%s takes at most %d numbers", name, LIST_MAX);
        out->v[out->n++] = (uint32_t)v;
    }
    return out->n ? 0 : fail(e, ERR_ARG, "%s: no number is given", name);
}

struct plan {
    struct bench_test tests[BENCH_TESTS_MAX];
    size_t n;
    uint32_t n_ctx;                       /* that the longest test needs */
    const quern_speculation *speculation; /* to be measured, too; NULL: not */
};

static int plan_tests(const struct bench_args *args, struct plan *out, struct err *e)
{
    struct list prompts, answers, depths, parallel;
    TRY(parse_list("-p", args->prompts, &prompts, e));
    TRY(parse_list("-n", args->answers, &answers, e));
    TRY(parse_list("-d", args->depths, &depths, e));
    TRY(parse_list("--parallel", args->parallel, &parallel, e));
    for (size_t d = 0; d < depths.n; d++)
        for (size_t p = 0; p <= parallel.n; p++) { /* 0: prompts */
            const struct list *sizes = p ? &answers : &prompts;
            for (size_t i = 0; i < sizes->n; i++) {
                if (sizes->v[i] == 0) continue;
                if (out->n == BENCH_TESTS_MAX) return fail(e, ERR_ARG, "at most %d tests", BENCH_TESTS_MAX);
                out->tests[out->n++] = (struct bench_test){p > 0, sizes->v[i], depths.v[d], p ? parallel.v[p - 1] : 1};
                out->n_ctx = (uint32_t)size_max(out->n_ctx, sizes->v[i] + depths.v[d] + 1);
            }
        }
    return out->n ? 0 : fail(e, ERR_ARG, "nothing to measure: -p and -n are both 0");
}

/* ---- measuring --------------------------------------------------------------------------------------------- */

struct bench {
    quern_model *model;
    quern_session *session;
    quern_model_info info;
    quern_session_info setup;
    int32_t *ids; /* [n_ctx] tokens to read, arbitrary and always the same */
    size_t n_repeats;
    struct progress progress;
    char doing[BENCH_NAME_MAX]; /* of progress */
    uint64_t done, all;         /* runs of tests */
};

/* Shows what b->doing says now, before it begins, for a run of a large model takes long. */
static void show_next(struct bench *b, uint64_t done, uint64_t all)
{
    progress_next(&b->progress, b->doing);
    progress_show(&b->progress, done, all);
}

static int eval(struct bench *b, uint32_t from, uint32_t n, struct err *e)
{
    quern_error qe = {0};
    if (cli_interrupted()) return fail(e, ERR_CANCELLED, "interrupted");
    return quern_session_eval(b->session, b->ids + from, n, NULL, &qe) < 0 ? fail(e, qe.code, "%s", qe.message) : 0;
}

static int run_test(struct bench *b, const struct bench_test *t, uint32_t n, struct err *e)
{
    quern_session_truncate(b->session, t->depth);
    if (!t->decode) return eval(b, t->depth, n, e);
    for (uint32_t i = 0; i < n; i++) TRY(eval(b, t->depth + i, 1, e));
    return 0;
}

/* Bytes and products of one token of the test, on average. A prompt's batch reads the weights and the cache once. */
static void count_work(const struct bench *b, struct bench_row *row)
{
    const struct bench_test *t = &row->test;
    const uint32_t step = t->decode ? 1 : b->setup.n_batch;
    double bytes = 0;
    for (uint32_t done = 0; done < t->n;) {
        done += (uint32_t)size_min(step, t->n - done);
        bytes += (double)b->info.bytes_per_token + (double)(t->depth + done) * (double)b->setup.kv_token_bytes;
        bytes += (double)b->setup.state_step_bytes;
    }
    const double heads = t->decode ? t->n : 1; /* logits are wanted of the last position only */
    /* Sequences share the weights, not the cache. */
    const double together = t->parallel > 1 ? t->parallel : 1;
    row->bytes = bytes / t->n - (double)b->info.bytes_per_token * (1 - 1 / together);
    row->int8 = (double)b->info.macs.int8 + (double)b->info.output_macs.int8 * heads / t->n;
    row->f32 = (double)b->info.macs.f32 + (double)b->info.output_macs.f32 * heads / t->n;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void summarise(const struct bench *b, struct bench_row *row, double *speeds)
{
    qsort(speeds, b->n_repeats, sizeof *speeds, by_size);
    row->min = speeds[0];
    row->max = speeds[b->n_repeats - 1];
    row->median = (speeds[(b->n_repeats - 1) / 2] + speeds[b->n_repeats / 2]) / 2;
    count_work(b, row);
}

/* Reads what stands before the test, and runs some of it. */
static int warm_up(struct bench *b, const struct bench_test *t, struct err *e)
{
    quern_session_truncate(b->session, 0);
    if (t->depth) TRY(eval(b, 0, t->depth, e));
    return run_test(b, t, t->decode ? (uint32_t)size_min(t->n, 4) : t->n, e);
}

static int run_once(struct bench *b, const struct bench_test *t, double *speed, struct err *e)
{
    if (t->parallel > 1) return bench_parallel(b->model, &b->setup, t, b->ids, speed, e);
    const uint64_t start = clock_ns();
    TRY(run_test(b, t, t->n, e));
    *speed = t->n / ((double)(clock_ns() - start) * 1e-9);
    return 0;
}

static int measure(struct bench *b, struct bench_row *row, struct err *e)
{
    double speeds[BENCH_REPEATS_MAX];
    const struct bench_test *t = &row->test;
    (void)bench_name(t, b->doing);
    show_next(b, b->done, b->all);
    if (t->parallel <= 1) TRY(warm_up(b, t, e));
    for (size_t i = 0; i < b->n_repeats; i++) {
        TRY(run_once(b, t, &speeds[i], e));
        progress_show(&b->progress, ++b->done, b->all);
    }
    summarise(b, row, speeds);
    return 0;
}

/* Keeps the best of what was measured so far. */
static int measure_limits(const struct bench *b, quern_limits *best, struct err *e)
{
    quern_limits now;
    quern_error qe = {0};
    if (quern_session_measure(b->session, &now, &qe) < 0) return fail(e, qe.code, "%s", qe.message);
    if (now.bandwidth_gb_s > best->bandwidth_gb_s) best->bandwidth_gb_s = now.bandwidth_gb_s;
    if (now.bandwidth_huge_gb_s > best->bandwidth_huge_gb_s) best->bandwidth_huge_gb_s = now.bandwidth_huge_gb_s;
    if (now.int8_tops > best->int8_tops) best->int8_tops = now.int8_tops;
    if (now.f32_tops > best->f32_tops) best->f32_tops = now.f32_tops;
    return 0;
}

static int measure_all(struct bench *b, const struct plan *plan, const char *model, const char *type, struct bench_result *r,
                       struct err *e)
{
    b->ids = mem_array(plan->n_ctx, sizeof *b->ids);
    if (!b->ids) return fail_nomem(e, "tokens", plan->n_ctx * sizeof *b->ids);
    uint32_t draw = 1;
    for (size_t i = 0; i < plan->n_ctx; i++) {
        draw = draw * 1664525u + 1013904223u;
        b->ids[i] = (int32_t)((uint64_t)draw * b->info.n_vocab >> 32);
    }
    b->all = plan->n * b->n_repeats;
    show_next(b, 0, b->all);
    TRY(measure_limits(b, &r->limits, e));
    for (size_t i = 0; i < plan->n; i++) {
        struct bench_row row = {.test = plan->tests[i]};
        snprintf(row.model, sizeof row.model, "%s", model ? model : b->info.name);
        snprintf(row.type, sizeof row.type, "%s", type ? type : b->info.weight_type);
        TRY(measure(b, &row, e));
        r->rows[r->n++] = row;
    }
    return measure_limits(b, &r->limits, e);
}

/* Of each length of answers and kind of prompts. */
static int measure_speculation(struct bench *b, const struct bench_args *args, const quern_speculation *how, const char *model,
                               const char *type, struct bench_result *r, struct err *e)
{
    struct list answers;
    TRY(parse_list("-n", args->answers, &answers, e));
    for (size_t i = 0; i < answers.n * BENCH_WORKS; i++) {
        struct bench_speculation row = {.n = answers.v[i / BENCH_WORKS], .work = bench_works[i % BENCH_WORKS]};
        if (row.n == 0) continue;
        (void)snprintf(row.model, sizeof row.model, "%s", model ? model : b->info.name);
        (void)snprintf(row.type, sizeof row.type, "%s", type ? type : b->info.weight_type);
        (void)snprintf(b->doing, sizeof b->doing, "speculation: %s", row.work);
        show_next(b, i, answers.n * BENCH_WORKS);
        TRY(bench_speculate(b->model, &b->setup, how, b->n_repeats, &row, e));
        r->speculations[r->n_speculations++] = row;
    }
    return 0;
}

/* Of each prompt that is measured. */
static int measure_prefixes(struct bench *b, const struct bench_args *args, const char *model, const char *type,
                            struct bench_result *r, struct err *e)
{
    struct list prompts;
    char cache[PATH_MAX];
    TRY(parse_list("-p", args->prompts, &prompts, e));
    if (args->cache_dir)
        (void)snprintf(cache, sizeof cache, "%s", args->cache_dir);
    else if (!cli_cache_folder("", cache))
        return fail(e, ERR_NOTFOUND, "no folder for pages: HOME is not set; give one with --cache-dir");
    for (size_t i = 0; i < prompts.n; i++) {
        struct bench_prefix row = {.n = prompts.v[i]};
        if (row.n == 0) continue;
        if (cli_interrupted()) return fail(e, ERR_CANCELLED, "interrupted");
        (void)snprintf(row.model, sizeof row.model, "%s", model ? model : b->info.name);
        (void)snprintf(row.type, sizeof row.type, "%s", type ? type : b->info.weight_type);
        (void)snprintf(b->doing, sizeof b->doing, "prefix%u", row.n);
        show_next(b, i, prompts.n);
        TRY(bench_prefix(b->model, &b->setup, b->ids, b->n_repeats, cache, &row, e));
        r->prefixes[r->n_prefixes++] = row;
    }
    return 0;
}

/* model and type name the rows where the file does not. */
static int bench_model(const struct command *c, const struct bench_args *args, quern_model *model, const struct plan *plan,
                       const char *name, const char *type, struct bench_result *r)
{
    struct bench b = {.model = model, .n_repeats = (size_t)args->n_repeats, .doing = "limits"};
    struct err e = {0};
    quern_model_get_info(model, &b.info);
    if (b.info.n_ctx_train && plan->n_ctx - 1 > b.info.n_ctx_train)
        cli_note("tests take up to %u tokens, %s was trained for %u: speed is what it is, answers would suffer",
                 plan->n_ctx - 1, b.info.name, b.info.n_ctx_train);
    int exit_code = compute_session(c, &args->compute, model, plan->n_ctx, plan->n_ctx, NULL, &b.session);
    if (exit_code != CLI_OK) return exit_code;
    quern_session_get_info(b.session, &b.setup);
    r->cpu_level = b.setup.cpu_level;
    r->n_threads = b.setup.n_threads;
    cli_interrupt_catch(b.session, true);
    progress_start(&b.progress, b.doing, false);
    int rc = measure_all(&b, plan, name, type, r, &e);
    if (rc == 0 && args->prefix) rc = measure_prefixes(&b, args, name, type, r, &e);
    if (rc == 0 && plan->speculation) rc = measure_speculation(&b, args, plan->speculation, name, type, r, &e);
    progress_end(&b.progress);
    cli_interrupt_catch(NULL, true);
    mem_free(b.ids);
    quern_session_free(&b.session);
    return rc < 0 ? cli_fail("%s", e.msg) : CLI_OK;
}

/* ---- models of a shape ----------------------------------------------------------------------------------------- */

static int cache_folder(const struct bench_args *args, char out[PATH_MAX], struct err *e)
{
    const char *tmp = getenv("TMPDIR");
    int n = 0;
    if (args->no_cache) {
        n = snprintf(out, PATH_MAX, "%s/quern-bench.XXXXXX", tmp && *tmp ? tmp : "/tmp");
        if (n < PATH_MAX && !mkdtemp(out)) return fail(e, ERR_IO, "%s: the folder cannot be made", out);
    } else if (args->cache_dir) {
        n = snprintf(out, PATH_MAX, "%s", args->cache_dir);
    } else if (!cli_cache_folder("", out)) {
        return fail(e, ERR_NOTFOUND, "no folder for the weights: HOME is not set; give one with --cache-dir");
    }
    return n < PATH_MAX ? 0 : fail(e, ERR_ARG, "the path of the cache is too long");
}

static int on_progress(void *user, uint64_t done, uint64_t all)
{
    progress_show(user, done, all);
    return cli_interrupted();
}

/* Makes the file where it is not there yet. */
static int make_model(const struct bench_args *args, const char *type, const char *path, struct err *e)
{
    struct progress progress;
    quern_error qe = {0};
    char what[64];
    if (vfs_exists(path)) return 0;
    snprintf(what, sizeof what, "making %s", type);
    progress_start(&progress, what, true);
    cli_interrupt_catch(NULL, true);
    cli_terminate_catch();
    quern_convert_options options = {.type = type, .on_progress = on_progress, .user = &progress};
    int rc = quern_synthesize(args->shape, path, &options, &qe);
    progress_end(&progress);
    return rc < 0 ? fail(e, rc, "%s", qe.message) : 0;
}

/* An exit code. With --no-cache the file loses its name as soon as it is open: nothing is left behind, whatever happens. */
static int open_shape(const struct bench_args *args, const char *type, quern_model **model)
{
    char folder[PATH_MAX], path[PATH_MAX];
    struct err e = {0};
    if (cache_folder(args, folder, &e) < 0) return cli_fail("%s", e.msg);
    int n = snprintf(path, sizeof path, "%s/%s-%s-v%u.gguf", folder, args->shape, type, quern_shape_version());
    if (n < 0 || (size_t)n >= sizeof path) return cli_fail("the path of the cache is too long");
    if (!cli_make_folders(path)) return cli_fail("%s: the folder cannot be made", folder);
    const quern_model_options how = compute_loading(&args->compute);
    int exit_code = make_model(args, type, path, &e) < 0 ? cli_fail("%s", e.msg) : cli_model_open(path, &how, model);
    if (args->no_cache) {
        unlink(path);
        rmdir(folder);
    }
    return exit_code;
}

static int bench_shape(const struct command *c, const struct bench_args *args, const struct plan *plan, struct bench_result *r)
{
    struct str rest = str_of(args->type), item;
    int exit_code = CLI_OK;
    while (exit_code == CLI_OK && next_item(&rest, &item)) {
        char type[32];
        quern_model *model = NULL;
        snprintf(type, sizeof type, "%.*s", STR_ARG(item));
        for (char *p = type; *p; p++)
            if (*p >= 'A' && *p <= 'Z') *p = (char)(*p | 0x20); /* part of the file's name */
        exit_code = open_shape(args, type, &model);
        if (exit_code == CLI_OK) exit_code = bench_model(c, args, model, plan, args->shape, type, r);
        quern_model_close(&model);
    }
    return exit_code;
}

/* ---- the command -------------------------------------------------------------------------------------------------- */

static int bench_file(const struct command *c, const struct bench_args *args, const struct words *words,
                      const struct plan *plan, struct bench_result *r)
{
    quern_model *model = NULL;
    const quern_model_options how = compute_loading(&args->compute);
    int exit_code = model_open_args(&args->model, words, &how, &model);
    if (exit_code == CLI_OK) exit_code = bench_model(c, args, model, plan, NULL, NULL, r);
    quern_model_close(&model);
    return exit_code;
}

static size_t count_items(const char *list)
{
    struct str rest = str_of(list), item;
    size_t n = 0;
    while (next_item(&rest, &item)) n++;
    return n;
}

static int check_args(const struct command *c, const struct bench_args *args, const struct words *words)
{
    if (args->shape && (words->n || args->model.model)) return cli_usage(c, "give a model or --shape, not both");
    if (args->type && !args->shape) return cli_usage(c, "--type belongs to --shape NAME; a model has its own");
    if (args->json + args->csv + args->markdown + (args->format != NULL) > 1) return cli_usage(c, "give one format of output");
    return CLI_OK;
}

/* Measures all that is planned, and prints it. */
static int measure_and_print(const struct command *c, const struct bench_args *args, const struct words *words,
                             const struct plan *plan)
{
    const char *format = args->format ? args->format : args->json ? "json" : args->csv ? "csv" : args->markdown ? "md" : "text";
    const size_t n_types = size_max(1, count_items(args->type));
    struct bench_result r = {.rows = mem_array(plan->n * n_types, sizeof *r.rows),
                             .prefixes = mem_array(LIST_MAX * n_types, sizeof *r.prefixes),
                             .speculations = mem_array(BENCH_WORKS * LIST_MAX * n_types, sizeof *r.speculations)};
    struct buf out = {0};
    int exit_code = r.rows && r.prefixes && r.speculations ? CLI_OK : cli_fail("out of memory");
    if (exit_code == CLI_OK) exit_code = args->shape ? bench_shape(c, args, plan, &r) : bench_file(c, args, words, plan, &r);
    if (exit_code == CLI_OK) exit_code = cli_print(&out, bench_print(&out, &r, format));
    mem_free(r.rows);
    mem_free(r.prefixes);
    mem_free(r.speculations);
    return exit_code;
}

static int run(const struct command *c, int argc, char **argv)
{
    struct bench_args args = {.prompts = "512", .answers = "64", .depths = "0", .parallel = "1", .n_repeats = 3};
    struct words words;
    struct err e = {0};
    struct plan plan = {0};
    quern_speculation speculation;
    quern_model *draft = NULL;
    int exit_code;
    if (!args_parse(c, &args, argc, argv, &words, &exit_code)) return exit_code;
    exit_code = check_args(c, &args, &words);
    if (exit_code != CLI_OK) return exit_code;
    if (plan_tests(&args, &plan, &e) < 0) return cli_usage(c, "%s", e.msg);
    if (!args.type) args.type = "q8_0";
    const quern_model_options how = compute_loading(&args.compute);
    exit_code = speculation_open(c, &args.speculation, &how, &draft, &speculation);
    const bool wanted = args.speculation.how || args.speculation.draft_model;
    if (wanted && speculation.how != QUERN_SPECULATE_OFF) plan.speculation = &speculation;
    if (exit_code == CLI_OK) exit_code = measure_and_print(c, &args, &words, &plan);
    quern_model_close(&draft);
    return exit_code;
}

const struct command command_bench = {
    .name = "bench",
    .usage = "[MODEL | --shape NAME --type TYPE,...]",
    .summary = "how fast a model is here, and how near the limits of the machine",
    .text =
        "Measures how fast prompts are read (ppN: N tokens at once) and answers written (tgN: one by one), at each depth (@dN: "
        "after N tokens), and prints the median beside what the machine allows: for answers the memory bandwidth, measured by "
        "reading the same weights, for prompts the peak of the arithmetic units.\n"
        "\n"
        "--parallel N writes N answers together (tgNxP), as a server does.\n"
        "\n"
        "--prefix adds the time to the first token of each prompt when it is computed, when its beginning is in memory, and "
        "when it is on disk, as after a restart of a server.\n"
        "\n"
        "--speculate adds answers of -n tokens with and without speculation, to chats, to edits that repeat a text, and to "
        "hard "
        "prompts, whose words follow one another by chance: the speeds, how the slowest prompt fares, and the acceptance "
        "rate.\n"
        "\n"
        "--shape needs no download. Shapes: llama-3.2-1b, llama-3.2-3b, llama-3.1-8b, llama-3.1-70b, llama-2-7b, mistral-7b, "
        "qwen2.5-7b, qwen3-8b, qwen3.5-4b, and with experts mixtral-8x7b, qwen3-30b-a3b, qwen3.5-35b-a3b, gpt-oss-20b, "
        "llama-4-scout. Types: those of GGUF files, and mixes such as q4_k_m.\n",
    .groups = bench_groups,
    .max_words = 1,
    .run = run,
};
